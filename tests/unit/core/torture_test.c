/*
 * Memory that runs out at every single allocation, and the same log in different packings.
 */
#include "tests/unit/core/world.h"

#include "common/limits.h"

enum { V = 2, O = 20, R = 500 };

/* A log that touches every kind of command; `n` is set to its length. */
static Kluis__Log__Command **script(uint64_t now, size_t *n)
{
    static Kluis__Log__Command *cmds[64];
    uint64_t expires = now + KL_DEADLINE_DEFAULT_MS;
    size_t i = 0;

    cmds[i++] = group_init(DAY_MS);
    cmds[i++] = node_register(3, 5, false);
    cmds[i++] = node_seed(3, 5, "three");
    cmds[i++] = node_add(4, "four", "west", true);
    cmds[i++] = node_mark(3, 4, KLUIS__LOG__NODE_MARK__MARK__DRAIN);
    cmds[i++] = keyring_put(2, 0);
    cmds[i++] = with_request(vault_claim("vault", V, 1), R + 1, expires);
    cmds[i++] = vault_confirm("vault", V);
    cmds[i++] = with_request(vault_create("vault", V), R + 2, expires);
    cmds[i++] = vault_create("second", V + 1);
    cmds[i++] = vault_update("vault");
    cmds[i++] = with_request(object_set("vault", V, "db", O, 30), R + 3, expires);
    cmds[i++] = with_request(object_set("vault", V, "db", O, 31), R + 4, expires);
    cmds[i++] = with_request(object_set("vault", V, "db", O + 1, 32), R + 5, expires);
    cmds[i++] = cmds[11]; /* the same request again */
    cmds[i++] = object_update("vault", "db");
    cmds[i++] = with_request(object_delete("vault", "db"), R + 6, expires);
    cmds[i++] = object_delete("vault", "db");
    cmds[i++] = object_recover("vault", "db");
    cmds[i++] = restore_stage(V, O + 5, 40, 3);
    cmds[i++] = restore_commit("vault", V, "back", O + 5, 41, 3);
    cmds[i++] = restore_stage(V, O + 6, 50, 2);
    cmds[i++] = object_delete("vault", "back");
    cmds[i++] = object_purge("vault", "back");
    cmds[i++] = object_set("second", V + 1, "x", O + 7, 60);
    cmds[i++] = object_delete("second", "x");
    cmds[i++] = vault_delete("second");
    cmds[i++] = vault_recover("second");
    cmds[i++] = vault_delete("second");
    cmds[i++] = vault_purge("second");
    cmds[i++] = outbox_done(V + 9);
    cmds[i++] = collect(now, V + 1, 0, 100);
    cmds[i++] = purge_due(KL_KIND_SECRET, V, "db", O, now);
    cmds[i++] = vault_release("none", V);
    *n = i;
    return cmds;
}

/* Each allocation in turn fails: a fault is reported, nothing is kept, and a retry does it all. */
TEST(torture, apply)
{
    struct world w;
    Kluis__Log__Command **cmds;
    size_t n;
    unsigned long struck = 0;

    world_init(&w);
    cmds = script(w.now, &n);
    for (size_t i = 0; i < n; i += 3) {
        uint64_t index = ++w.index;
        uint8_t want[32];
        uint8_t got[32];
        bool done = false;

        for (size_t k = i; k < n && k < i + 3; k++) {
            world_add(&w, cmds[k]);
        }
        CHECK_OK(kl_entry_end(&w.entry));
        world_digest(&w, want);
        for (unsigned long fail = 1; !done; fail++) {
            struct kl_batch batch;
            enum kl_status st;

            kl_batch_init(&batch, KL_BATCH_MAX);
            kl_batch_put(&batch, kl_bytes_str("zz"), kl_bytes_str("of an entry before"));
            kl_results_done(&w.results);
            kl_alloc_fail_at(fail);
            st = kl_core_apply(index, kl_buf_bytes(&w.entry), &w.view, &batch, &w.results);
            done = !kl_alloc_failed();
            kl_alloc_fail_at(0);
            if (done) {
                CHECK_OK(st);
                CHECK_OK(kl_kv_write(w.kv, &batch, false));
            } else {
                CHECK_STATUS(st, KL_NO_MEMORY);
                CHECK_EQ(batch.count, 1);
                CHECK_EQ(w.results.count + w.results.bytes.len, 0);
                CHECK_OK(kl_batch_status(&batch));
                world_digest(&w, got);
                CHECK_MEM(want, got, 32);
                struck++;
            }
            kl_batch_done(&batch);
        }
        kl_buf_clear(&w.entry);
    }
    CHECK(struck > 100);
    world_done(&w);
}

static bool ignore_version(void *arg, const Kluis__Store__VersionRecord *v)
{
    (void)arg;
    (void)v;
    return true;
}

static bool ignore_vault(void *arg, const Kluis__Store__VaultRecord *v)
{
    (void)arg;
    (void)v;
    return true;
}

/* The same for queries: a failed allocation is no corruption and no absence. */
TEST(torture, queries)
{
    struct world w;
    Kluis__Log__Command **cmds;
    size_t n;
    bool failed[5] = {true, true, true, true, true};

    world_init(&w);
    cmds = script(w.now, &n);
    for (size_t i = 0; i < n; i++) {
        (void)world_apply(&w, cmds[i]);
    }
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    for (unsigned long fail = 1; failed[0] || failed[1] || failed[2] || failed[3] || failed[4];
         fail++) {
        Kluis__Store__VaultRecord *vault = NULL;
        Kluis__Store__RequestRecord *request = NULL;
        struct kl_buf command = KL_BUF(KL_COMMAND_MAX);
        uint64_t next;
        enum kl_status st[5];

        kl_alloc_fail_at(fail);
        st[0] = kl_core_vault(&w.view, "vault", KL_WANT_LIVE, &vault);
        failed[0] = kl_alloc_failed();
        kl_alloc_fail_at(fail);
        st[1] = kl_core_request(&w.view, id_of(R + 3), &request);
        failed[1] = kl_alloc_failed();
        kl_alloc_fail_at(fail);
        st[2] =
            kl_core_versions(&w.view, id_of(O), (struct kl_bytes){NULL, 0}, ignore_version, NULL);
        failed[2] = kl_alloc_failed();
        kl_alloc_fail_at(fail);
        st[3] = kl_core_vaults(&w.view, KL_WANT_LIVE, "", ignore_vault, NULL);
        failed[3] = kl_alloc_failed();
        kl_alloc_fail_at(fail);
        st[4] = kl_core_due(&w.view, UINT64_MAX, &command, &next);
        failed[4] = kl_alloc_failed();
        kl_alloc_fail_at(0);
        for (size_t i = 0; i < 5; i++) {
            CHECK_STATUS(st[i], failed[i] ? KL_NO_MEMORY : KL_OK);
        }
        kl_pb_wipe_free((ProtobufCMessage *)vault, &kl_pb_allocator);
        kl_pb_wipe_free((ProtobufCMessage *)request, &kl_pb_allocator);
        kl_buf_wipe(&command);
    }
    world_done(&w);
}

/* A store that fails is a fault of the apply, whichever read it was. */
struct flaky {
    struct kl_view inner;
    unsigned long countdown;
};

static enum kl_status flaky_get(void *ctx, struct kl_bytes key, struct kl_buf *out)
{
    struct flaky *f = ctx;

    return --f->countdown == 0 ? KL_IO : f->inner.get(f->inner.ctx, key, out);
}

static enum kl_status flaky_scan(void *ctx, struct kl_bytes from, struct kl_bytes to, kl_scan_fn fn,
                                 void *arg)
{
    struct flaky *f = ctx;

    return --f->countdown == 0 ? KL_IO : f->inner.scan(f->inner.ctx, from, to, fn, arg);
}

TEST(torture, view_fails)
{
    struct world w;
    struct flaky flaky;
    struct kl_view view = {.ctx = &flaky, .get = flaky_get, .scan = flaky_scan};
    Kluis__Log__Command **cmds;
    size_t n;
    unsigned long fail = 1;
    bool done = false;

    world_init(&w);
    flaky.inner = w.view;
    cmds = script(w.now, &n);
    for (size_t i = 0; i < n; i++) {
        world_add(&w, cmds[i]);
    }
    CHECK_OK(kl_entry_end(&w.entry));
    for (; !done; fail++) {
        struct kl_batch batch;
        enum kl_status st;

        kl_batch_init(&batch, KL_BATCH_MAX);
        kl_results_done(&w.results);
        flaky.countdown = fail;
        st = kl_core_apply(1, kl_buf_bytes(&w.entry), &view, &batch, &w.results);
        done = flaky.countdown != 0 && flaky.countdown <= fail;
        CHECK_STATUS(st, done ? KL_OK : KL_IO);
        CHECK_EQ(batch.count == 0, !done);
        kl_batch_done(&batch);
    }
    CHECK(fail > 20);
    world_done(&w);
}

/* ---- packings ---- */

static void run(struct world *w, Kluis__Log__Command **cmds, size_t n, size_t per_entry)
{
    for (size_t i = 0; i < n; i += per_entry) {
        for (size_t k = i; k < n && k < i + per_entry; k++) {
            world_add(w, cmds[k]);
        }
        world_commit(w);
    }
}

/* However a log's commands are packed into entries, and in whichever store, the state is the same;
 * and with one packing the two stores hold the same bytes altogether. */
TEST(packing, same_state)
{
    static const size_t per_entry[] = {1, 2, 3, 7, 64};
    uint8_t first[32];

    for (size_t i = 0; i < sizeof per_entry / sizeof per_entry[0]; i++) {
        struct world in_memory;
        struct world on_disk;
        struct kl_kv *kv = NULL;
        char err[256];
        uint8_t a[32];
        uint8_t b[32];
        uint64_t records[2];
        Kluis__Log__Command **cmds;
        size_t n;

        CHECK_OK(kl_kv_leveldb_open(test_dir(), 1 << 20, &kv, err, sizeof err));
        world_init(&in_memory);
        world_init_on(&on_disk, kv);
        cmds = script(in_memory.now, &n);
        run(&in_memory, cmds, n, per_entry[i]);
        run(&on_disk, cmds, n, per_entry[i]);
        CHECK_OK(kl_kv_digest(in_memory.kv, NULL, a, &records[0]));
        CHECK_OK(kl_kv_digest(on_disk.kv, NULL, b, &records[1]));
        CHECK_MEM(a, b, 32);
        CHECK_EQ(records[0], records[1]);
        CHECK_EQ(world_count(&in_memory, 'q'), 5);
        world_digest(&in_memory, i == 0 ? first : a);
        CHECK_MEM(i == 0 ? first : a, first, 32);
        world_done(&in_memory);
        world_done(&on_disk);
    }
}
