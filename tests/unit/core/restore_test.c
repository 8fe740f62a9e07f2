#include "tests/unit/core/world.h"

#include "common/limits.h"

enum { V = 2, O = 20 };

static void fixture(struct world *w)
{
    world_init(w);
    world_group(w);
    CHECK_EQ(world_apply(w, vault_create("vault", V)), KL_OK);
}

static enum kl_status get(struct world *w, const char *name)
{
    Kluis__Store__ObjectRecord *o = NULL;
    enum kl_status st = kl_core_object(&w->view, id_of(V), KL_KIND_SECRET, name, KL_WANT_ANY, &o);

    kl_pb_wipe_free((ProtobufCMessage *)o, &kl_pb_allocator);
    return st;
}

/* B1, B3: all versions come back at once, with their ids, dates and attributes. */
TEST(restore, all_at_once)
{
    struct world w;
    Kluis__Store__VersionRecord *v = NULL;
    Kluis__Store__ObjectRecord *o = NULL;

    fixture(&w);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 3)), KL_OK);
    CHECK_EQ(w.result->count, 3);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 43, 2)), KL_OK);
    CHECK_EQ(w.result->count, 5);
    CHECK_STATUS(get(&w, "db"), KL_NOT_FOUND); /* invisible */
    CHECK_EQ(world_count(&w, 's'), 0);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "DB", O, 42, 5)), KL_OK);
    CHECK_EQ(w.result->count, 5);
    CHECK_EQ(w.result->object->wrapped_key.len, 0);
    CHECK(w.result->version != NULL);
    CHECK_OK(kl_core_object(&w.view, id_of(V), KL_KIND_SECRET, "db", KL_WANT_LIVE, &o));
    CHECK_EQ(o->version_count, 5);
    CHECK_EQ(o->created_ms, 66);
    kl_pb_wipe_free(&o->base, &kl_pb_allocator);
    CHECK_OK(kl_core_version(&w.view, id_of(O), id_of(41), &v));
    CHECK_EQ(v->meta->attributes->created_ms, 78);
    CHECK_EQ(v->meta->attributes->updated_ms, 89);
    kl_pb_wipe_free(&v->base, &kl_pb_allocator);
    CHECK_EQ(world_count(&w, 'r') + world_count(&w, 'g'), 0);
    w.now += 10 * KEEP_MS;
    CHECK_EQ(world_work(&w), 0); /* nothing of it is garbage */
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 60)), KL_OK);
    CHECK_EQ(w.result->object->version_count, 6);
    world_done(&w);
}

/* A commit that is not about exactly what was staged, where it was staged for, is refused. */
TEST(restore, commit_changed)
{
    struct world w;
    uint8_t before[32];
    uint8_t after[32];

    fixture(&w);
    CHECK_EQ(world_apply(&w, vault_create("other", V + 1)), KL_OK);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 3)), KL_OK);
    world_digest(&w, before);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 2)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 4)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O + 1, 40, 3)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 50, 3)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V + 1, "db", O, 40, 3)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, restore_commit("other", V + 1, "db", O, 40, 3)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, restore_commit("none", V, "db", O, 40, 3)), KL_VAULT_NOT_FOUND);
    CHECK_EQ(world_apply(&w, restore_stage(V + 1, O, 43, 1)), KL_CHANGED);
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 3)), KL_OK);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db2", O, 40, 3)), KL_CHANGED);
    world_done(&w);
}

/* A name in use is not overwritten, and the stage stays for another name. */
TEST(restore, name_in_use)
{
    struct world w;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O + 5, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 1)), KL_OK);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 1)), KL_ALREADY_EXISTS);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 1)), KL_DELETED);
    CHECK_EQ(world_apply(&w, object_purge("vault", "db")), KL_OK);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 1)), KL_OK);
    world_done(&w);
}

/* B6: a chunk that is sent again, or overlaps, counts its versions once. */
TEST(restore, chunk_twice)
{
    struct world w;
    Kluis__Log__Command *cmd = restore_stage(V, O, 40, 2);

    fixture(&w);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 3)), KL_OK);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 3)), KL_OK);
    CHECK_EQ(w.result->count, 3);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 42, 2)), KL_OK);
    CHECK_EQ(w.result->count, 4);
    cmd->restore_stage->versions[1] = cmd->restore_stage->versions[0];
    cmd->restore_stage->versions[0]->meta->version_id = pb_id(50);
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_EQ(w.result->count, 5);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 5)), KL_OK);
    CHECK_EQ(world_count(&w, 'o'), 5);
    world_done(&w);
}

/* A stage that nobody commits goes when its time is over, which each chunk puts off. */
TEST(restore, abandoned)
{
    struct world w;
    uint64_t start;

    fixture(&w);
    start = w.now;
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 300)), KL_OK);
    w.now = start + KEEP_MS - 1;
    CHECK_EQ(world_work(&w), 0);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 340, 1)), KL_OK);
    CHECK_EQ(world_count(&w, 'g'), 1);
    w.now = start + KEEP_MS;
    CHECK_EQ(world_work(&w), 0);
    CHECK_EQ(world_apply(&w, collect(start + KEEP_MS, V, O, 10)), KL_OK); /* the old time */
    CHECK_EQ(w.result->count, 0);
    w.now = start + 2 * KEEP_MS - 1;
    CHECK_EQ(world_apply(&w, collect(w.now + 1, V, O, 10)), KL_OK); /* a hasty proposer */
    CHECK_EQ(w.result->count, 0);
    CHECK_EQ(world_apply(&w, collect(w.now, V, O, 10)), KL_OK);
    CHECK_EQ(w.result->count, 10);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 300, 301)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 400, 1)), KL_CHANGED); /* not onto garbage */
    CHECK(world_work(&w) >= 2);
    CHECK_EQ(world_count(&w, 'o') + world_count(&w, 'g') + world_count(&w, 'r'), 0);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 400, 1)), KL_OK);
    world_done(&w);
}

/* Nobody stages onto the versions of a living object: the commit's garbage would be its own. */
TEST(restore, not_onto_an_object)
{
    struct world w;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 1)), KL_CHANGED);
    CHECK_EQ(world_count(&w, 'g') + world_count(&w, 'r'), 0);
    world_done(&w);
}

/* A restore whose vault goes meanwhile: no commit, and the stage goes too. */
TEST(restore, vault_purged_meanwhile)
{
    struct world w;

    fixture(&w);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 2)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 2)), KL_VAULT_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_purge("vault")), KL_OK);
    CHECK_EQ(world_apply(&w, vault_create("vault", V + 1)), KL_OK);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O, 40, 2)), KL_CHANGED);
    w.now += KEEP_MS;
    CHECK(world_work(&w) > 0);
    CHECK_EQ(world_count(&w, 'o') + world_count(&w, 'g') + world_count(&w, 'r'), 0);
    world_done(&w);
}

/* Malformed stages and commits name their field. */
TEST(restore, fields)
{
    struct world w;
    Kluis__Log__Command *cmd;

    fixture(&w);
    cmd = restore_stage(V, O, 40, 2);
    cmd->restore_stage->versions[1]->meta->version_id.len = 1;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_STR(w.result->field, "version");
    cmd = restore_stage(V, O, 40, 2);
    cmd->restore_stage->keep_ms = KL_STAGE_KEEP_MAX_MS + 1;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    cmd->restore_stage->keep_ms = 1;
    cmd->restore_stage->object_id.len = 2;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, restore_stage(V, O, 40, 0)), KL_INVALID_ARGUMENT);
    cmd = restore_commit("vault", V, "db", O, 40, 0);
    cmd->restore_commit->object = NULL;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    cmd = restore_commit("vault", V, "db", O, 40, 0);
    CHECK_EQ(world_apply(&w, cmd), KL_CHANGED);
    cmd->restore_commit->object->wrapped_key.len = 0;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_count(&w, 'o'), 0);
    world_done(&w);
}
