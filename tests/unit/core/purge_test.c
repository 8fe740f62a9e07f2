#include "tests/unit/core/world.h"

#include "common/limits.h"

enum { V = 2, O = 20 };

static void fixture(struct world *w)
{
    world_init(w);
    world_group(w);
    CHECK_EQ(world_apply(w, vault_create("vault", V)), KL_OK);
}

static void protect(struct world *w)
{
    Kluis__Log__Command *cmd = vault_update("vault");

    cmd->vault_update->enable_purge_protection = true;
    CHECK_EQ(world_apply(w, cmd), KL_OK);
}

static enum kl_status get(struct world *w, const char *name)
{
    Kluis__Store__ObjectRecord *o = NULL;
    enum kl_status st = kl_core_object(&w->view, id_of(V), KL_KIND_SECRET, name, KL_WANT_ANY, &o);

    kl_pb_wipe_free((ProtobufCMessage *)o, &kl_pb_allocator);
    return st;
}

static void set_versions(struct world *w, const char *name, unsigned object_id, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        CHECK_EQ(world_apply(w, object_set("vault", V, name, object_id, 100 + i)), KL_OK);
    }
}

static size_t leftovers(struct world *w)
{
    return world_count(w, 's') + world_count(w, 't') + world_count(w, 'o') + world_count(w, 'w') +
           world_count(w, 'p') + world_count(w, 'g');
}

/* S3: purging is for deleted objects; afterwards the name is free and nothing is left. */
TEST(purges, small_object)
{
    struct world w;

    fixture(&w);
    set_versions(&w, "db", O, KL_PURGE_INLINE_MAX);
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_OK);
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_NOT_FOUND);
    CHECK_EQ(leftovers(&w), 0);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O + 1, 30)), KL_OK);
    CHECK_EQ(w.result->object->version_count, 1);
    world_done(&w);
}

/* Name and key of a large object go at once, its versions in bounded batches. */
TEST(purges, large_object)
{
    struct world w;
    enum { N = 3 * KL_COLLECT_BUDGET_MAX / 2 };

    fixture(&w);
    set_versions(&w, "db", O, N);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_OK);
    CHECK_STATUS(get(&w, "db"), KL_NOT_FOUND);
    CHECK_EQ(world_count(&w, 's') + world_count(&w, 't') + world_count(&w, 'p'), 0);
    CHECK_EQ(world_count(&w, 'o'), N);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O + 1, 30)),
             KL_OK); /* the name is free */
    CHECK_EQ(world_work(&w), 2);
    CHECK_EQ(world_count(&w, 'o'), 1);
    CHECK_EQ(world_count(&w, 'g'), 0);
    world_done(&w);
}

/* S9, S10: protection holds until the deadline, to the millisecond, for objects too. */
TEST(purges, object_protected)
{
    struct world w;
    uint64_t due;

    fixture(&w);
    set_versions(&w, "db", O, 1);
    protect(&w);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    due = w.result->object->purge_ms;
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_PURGE_PROTECTED);
    w.now = due - 1;
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_PURGE_PROTECTED);
    CHECK_OK(get(&w, "db"));
    w.now = due;
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_OK);
    CHECK_EQ(leftovers(&w), 0);
    world_done(&w);
}

/* S7: when the retention has passed the schedule purges; not a millisecond before. */
TEST(purges, due)
{
    struct world w;
    struct kl_buf command = KL_BUF(KL_COMMAND_MAX);
    uint64_t due;
    uint64_t next = 0;

    fixture(&w);
    set_versions(&w, "db", O, 2);
    CHECK_STATUS(kl_core_due(&w.view, w.now, &command, &next), KL_NOT_FOUND);
    CHECK_EQ(next, UINT64_MAX);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    due = w.result->object->purge_ms;
    CHECK_STATUS(kl_core_due(&w.view, due - 1, &command, &next), KL_NOT_FOUND);
    CHECK_EQ(next, due);
    CHECK_OK(kl_core_due(&w.view, due, &command, &next));
    /* A proposer whose clock runs ahead: the entry's time decides. */
    w.now = due - 1;
    CHECK_EQ(world_apply_bytes(&w, kl_buf_bytes(&command)), KL_OK);
    CHECK_EQ(w.result->count, 0);
    CHECK_OK(get(&w, "db"));
    w.now = due;
    CHECK_EQ(world_apply_bytes(&w, kl_buf_bytes(&command)), KL_OK);
    CHECK_EQ(w.result->count, 1);
    CHECK_EQ(leftovers(&w), 0);
    CHECK_EQ(world_apply_bytes(&w, kl_buf_bytes(&command)), KL_OK); /* a late duplicate */
    CHECK_EQ(w.result->count, 0);
    kl_buf_wipe(&command);
    world_done(&w);
}

/* A purge that was proposed for one incarnation of a name never takes another one. */
TEST(purges, not_the_next_incarnation)
{
    struct world w;
    uint64_t due;

    fixture(&w);
    set_versions(&w, "db", O, 1);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    due = w.result->object->purge_ms;
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_OK);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O + 1, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK); /* in the same millisecond */
    CHECK_EQ(w.result->object->purge_ms, due);
    w.now = due;
    CHECK_EQ(world_apply(&w, purge_due(KL_KIND_SECRET, V, "db", O, due)), KL_OK);
    CHECK_EQ(w.result->count, 0);
    CHECK_OK(get(&w, "db"));
    CHECK_EQ(world_count(&w, 'p'), 1); /* its own schedule stays */
    CHECK_EQ(world_apply(&w, purge_due(KL_KIND_SECRET, V, "db", O + 1, due + 1)), KL_OK);
    CHECK_EQ(w.result->count, 0);
    CHECK_EQ(world_work(&w), 1);
    CHECK_STATUS(get(&w, "db"), KL_NOT_FOUND);
    world_done(&w);
}

/* A schedule that nothing answers to is dropped, or it would come up for ever. */
TEST(purges, orphaned_schedule)
{
    struct world w;
    struct kl_batch batch;
    struct kl_key key;
    Kluis__Store__PurgeRecord record = KLUIS__STORE__PURGE_RECORD__INIT;
    static char name[] = "gone";
    uint8_t *p;
    size_t len;

    fixture(&w);
    record.kind = KL_KIND_SECRET;
    record.vault_id = pb_id(V);
    record.name = name;
    record.object_id = pb_id(O);
    p = packed_of(&record.base, &len);
    kl_batch_init(&batch, 4096);
    key = kl_key_purge(5, id_of(V), KL_KIND_SECRET, "gone");
    kl_batch_put(&batch, kl_key_bytes(&key), kl_bytes_of(p, len));
    CHECK_OK(kl_kv_write(w.kv, &batch, false));
    kl_batch_done(&batch);
    kl_free(p);
    CHECK_EQ(world_work(&w), 1);
    CHECK_EQ(world_count(&w, 'p'), 0);
    world_done(&w);
}

/* Many things due at once are purged in batches of at most KL_PURGE_BATCH_MAX. */
TEST(purges, batches)
{
    struct world w;
    enum { N = 2 * KL_PURGE_BATCH_MAX + 1 };

    fixture(&w);
    for (unsigned i = 0; i < N; i++) {
        char name[16];

        (void)snprintf(name, sizeof name, "n%u", i);
        CHECK_EQ(world_apply(&w, object_set("vault", V, name, 1000 + i, 30)), KL_OK);
        CHECK_EQ(world_apply(&w, object_delete("vault", name)), KL_OK);
        w.now++;
    }
    w.now += 7 * DAY_MS;
    CHECK_EQ(world_work(&w), 3);
    CHECK_EQ(leftovers(&w), 0);
    world_done(&w);
}

/* A deleted object in a deleted vault keeps its own date, and the vault's takes the rest along. */
TEST(purges, object_in_deleted_vault)
{
    struct world w;

    fixture(&w);
    set_versions(&w, "a", O, 1);
    set_versions(&w, "b", O + 1, 1);
    CHECK_EQ(world_apply(&w, object_delete("vault", "a")), KL_OK);
    w.now += 100;
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
    w.now += 7 * DAY_MS - 100;
    CHECK(world_work(&w) > 0);
    CHECK_STATUS(get(&w, "a"), KL_NOT_FOUND);
    CHECK_OK(get(&w, "b"));
    CHECK_EQ(world_apply(&w, vault_recover("vault")), KL_OK); /* still in time */
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
    w.now += 7 * DAY_MS;
    CHECK(world_work(&w) > 0);
    CHECK_EQ(leftovers(&w), 0);
    CHECK_EQ(world_count(&w, 'x'), 1);
    world_done(&w);
}

/* The content of a purged vault goes in batches that never exceed their budget, whatever it is. */
TEST(purges, vault_content_by_budget)
{
    static const uint32_t budgets[] = {1, 2, 3, 7, KL_COLLECT_BUDGET_MAX};

    for (size_t b = 0; b < sizeof budgets / sizeof budgets[0]; b++) {
        struct world w;
        uint64_t purged_ms;
        size_t rounds = 0;

        fixture(&w);
        for (unsigned i = 0; i < 6; i++) {
            char name[2] = {(char)('a' + i), 0};

            set_versions(&w, name, O + i, i + 1);
            if (i % 2 == 0) {
                CHECK_EQ(world_apply(&w, object_delete("vault", name)), KL_OK);
            }
        }
        CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
        CHECK_EQ(world_apply(&w, vault_purge("vault")), KL_OK);
        purged_ms = w.now;
        while (world_count(&w, 'g') != 0) {
            CHECK_EQ(world_apply(&w, collect(purged_ms, V, 0, budgets[b])), KL_OK);
            CHECK(w.result->count <= budgets[b]);
            CHECK(w.result->count > 0 || world_count(&w, 'g') == 0);
            CHECK(++rounds < 1000);
        }
        CHECK_EQ(leftovers(&w), 0);
        world_done(&w);
    }
}

/* Malformed or oversized proposals of the scheduler are refused whole. */
TEST(purges, fields)
{
    struct world w;
    Kluis__Log__Command *cmd;

    fixture(&w);
    CHECK_EQ(world_apply(&w, collect(1, V, 0, 0)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, collect(1, V, 0, KL_COLLECT_BUDGET_MAX + 1)), KL_INVALID_ARGUMENT);
    cmd = collect(1, V, O, 5);
    cmd->collect->items[0]->vault_id.len = 0;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    cmd = collect(1, V, O, 5);
    cmd->collect->items[0]->object_id.len = 9;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, collect(1, V, O, 5)), KL_OK); /* long done: nothing to do */
    CHECK_EQ(w.result->count, 0);
    cmd = purge_due(KL_KIND_SECRET, V, "db", O, 1);
    cmd->purge_due->n_due_ms = 0;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    cmd = purge_due(9, V, "db", O, 1);
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    cmd = purge_due(KL_KIND_VAULT, V, "x", 0, 1);
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    world_done(&w);
}
