#include "tests/unit/store/model.h"

#include "common/alloc.h"
#include "server/store/memory.h"
#include "tests/lib/kv_crash.h"

#include <pthread.h>

enum { CACHE = 1 << 20, SNAPS = 5 };

static struct kl_kv *open_level(const char *dir)
{
    char err[256] = "";
    struct kl_kv *kv = NULL;

    if (kl_kv_leveldb_open(dir, CACHE, &kv, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    return kv;
}

static struct kl_kv *open_memory(void)
{
    struct kl_kv *kv = NULL;

    CHECK_OK(kl_kv_memory_new(&kv));
    return kv;
}

static void write_random(struct model *m, struct kl_kv *kv, uint64_t *rng, bool sync)
{
    struct kl_batch batch;

    kl_batch_init(&batch, 1 << 20);
    model_random_batch(m, rng, &batch, 1 + (unsigned)(test_random(rng) % 40));
    CHECK_OK(kl_kv_write(kv, &batch, sync));
    kl_batch_done(&batch);
}

/* Random writes with snapshots that come and go: the store and every snapshot equal their models. */
static void against_model(struct kl_kv *kv, unsigned rounds)
{
    uint64_t rng = test_seed();
    struct model now = {{0}};
    struct model then[SNAPS];
    struct kl_kv_snap *snaps[SNAPS] = {NULL};

    for (unsigned r = 0; r < rounds; r++) {
        size_t i = (size_t)(test_random(&rng) % SNAPS);

        write_random(&now, kv, &rng, test_random(&rng) % 8 == 0);
        if (test_random(&rng) % 3 == 0) {
            kl_kv_snap_free(kv, snaps[i]);
            snaps[i] = kl_kv_snap_new(kv);
            assert_non_null(snaps[i]);
            then[i] = now;
        }
        if (r % 25 == 0) {
            model_check(&now, kv, NULL, &rng);
            if (snaps[i] != NULL) {
                model_check(&then[i], kv, snaps[i], &rng);
            }
        }
        if (r % 100 == 50) {
            CHECK_OK(kl_kv_flush(kv));
            CHECK_OK(kl_kv_compact(kv, (struct kl_bytes){NULL, 0}, (struct kl_bytes){NULL, 0}));
        }
    }
    for (size_t i = 0; i < SNAPS; i++) {
        if (snaps[i] != NULL) {
            model_check(&then[i], kv, snaps[i], &rng);
            kl_kv_snap_free(kv, snaps[i]);
        }
    }
    model_check(&now, kv, NULL, &rng);
}

TEST(store, memory_against_model)
{
    struct kl_kv *kv = open_memory();

    against_model(kv, 1500);
    kl_kv_close(kv);
}

TEST(store, leveldb_against_model)
{
    struct kl_kv *kv = open_level(test_dir());

    against_model(kv, 600);
    kl_kv_close(kv);
}

TEST(store, crash_wrapper_against_model)
{
    struct kv_disk *disk = NULL;
    struct kl_kv *kv = NULL;

    CHECK_OK(kv_disk_new(&disk));
    CHECK_OK(kv_disk_open(disk, &kv));
    against_model(kv, 500);
    kl_kv_close(kv);
    kv_disk_free(disk);
}

/* What was written is there after a close and an open. */
TEST(store, reopen)
{
    const char *dir = test_dir();
    uint64_t rng = test_seed();
    struct model m = {{0}};

    for (int i = 0; i < 6; i++) {
        struct kl_kv *kv = open_level(dir);

        model_check(&m, kv, NULL, &rng);
        for (int k = 0; k < 20; k++) {
            write_random(&m, kv, &rng, false);
        }
        model_check(&m, kv, NULL, &rng);
        kl_kv_close(kv);
    }
}

/* 100,000 records in memory, in order and at random, with snapshots: no key is lost. */
TEST(store, memory_large)
{
    struct kl_kv *kv = open_memory();
    uint64_t rng = test_seed();
    struct kl_kv_snap *half = NULL;
    struct kl_batch batch;
    uint64_t records = 0;
    uint8_t digest[32];
    enum { N = 100000 };

    kl_batch_init(&batch, 1 << 20);
    for (uint32_t i = 0; i < N; i++) {
        uint8_t key[8];

        kl_put_be32(key, i < N / 2 ? i : N / 2 + (i * 2654435761u) % 1000000);
        kl_put_be32(key + 4, i);
        kl_batch_put(&batch, kl_bytes_of(key, 8), kl_bytes_of(key, i % 9));
        if (i % 50 == 49) {
            CHECK_OK(kl_kv_write(kv, &batch, false));
            kl_batch_clear(&batch);
        }
        if (i == N / 2 - 1) {
            half = kl_kv_snap_new(kv);
        }
    }
    CHECK_OK(kl_kv_digest(kv, NULL, digest, &records));
    CHECK_EQ(records, N);
    for (uint32_t i = 0; i < N / 2; i++) { /* take the first half away again, in random order */
        uint8_t key[8];
        uint32_t k = (uint32_t)(test_random(&rng) % (N / 2));

        kl_put_be32(key, k);
        kl_put_be32(key + 4, k);
        kl_batch_del(&batch, kl_bytes_of(key, 8));
        if (i % 50 == 49) {
            CHECK_OK(kl_kv_write(kv, &batch, false));
            kl_batch_clear(&batch);
        }
    }
    CHECK_OK(kl_kv_digest(kv, half, digest, &records));
    CHECK_EQ(records, N / 2);
    CHECK_OK(kl_kv_digest(kv, NULL, digest, &records));
    CHECK(records < N && records >= N / 2);
    kl_kv_snap_free(kv, half);
    kl_batch_done(&batch);
    kl_kv_close(kv);
}

/* A write for which memory runs out, at any allocation, changes nothing. */
TEST(store, memory_torture)
{
    struct kl_kv *kv = open_memory();
    uint64_t rng = test_seed();
    struct model m = {{0}};
    struct kl_kv_snap *snap;
    bool done = false;

    for (int i = 0; i < 50; i++) {
        write_random(&m, kv, &rng, false);
    }
    snap = kl_kv_snap_new(kv);
    for (unsigned long fail = 1; !done; fail++) {
        struct model after = m;
        struct kl_batch batch;
        enum kl_status st;

        kl_batch_init(&batch, 1 << 20);
        model_random_batch(&after, &rng, &batch, 60);
        kl_alloc_fail_at(fail);
        st = kl_kv_write(kv, &batch, false);
        done = !kl_alloc_failed();
        kl_alloc_fail_at(0);
        CHECK_STATUS(st, done ? KL_OK : KL_NO_MEMORY);
        m = done ? after : m;
        model_check(&m, kv, NULL, &rng);
        kl_batch_done(&batch);
    }
    kl_kv_snap_free(kv, snap);
    kl_kv_close(kv);
}

/* A batch whose building failed is not written. */
TEST(store, latched_batch)
{
    struct kl_kv *kv = open_memory();
    struct kl_batch batch;
    struct kl_buf got = KL_BUF(16);

    kl_batch_init(&batch, 20);
    kl_batch_put(&batch, kl_bytes_str("a"), kl_bytes_str("1"));
    kl_batch_put(&batch, kl_bytes_str("b"), kl_bytes_str("does not fit any more"));
    CHECK_STATUS(kl_kv_write(kv, &batch, false), KL_TOO_LARGE);
    CHECK_STATUS(kl_kv_get(kv, NULL, kl_bytes_str("a"), &got), KL_NOT_FOUND);
    kl_batch_done(&batch);
    kl_kv_close(kv);
}

static void put(struct kl_kv *kv, const char *key, const char *value)
{
    struct kl_batch batch;

    kl_batch_init(&batch, 4096);
    kl_batch_put(&batch, kl_bytes_str(key), kl_bytes_str(value));
    CHECK_OK(kl_kv_write(kv, &batch, false));
    kl_batch_done(&batch);
}

/* The digest is that of the layout in kv.h, and tells records apart however they are cut. */
TEST(store, digest)
{
    /* SHA-256 of 00000001 61 00000002 6263 */
    static const uint8_t want[32] = {0xb5, 0x34, 0xce, 0x16, 0xac, 0x9c, 0x8b, 0x36,
                                     0x82, 0x3f, 0x39, 0xa3, 0x95, 0xce, 0x8e, 0x0e,
                                     0x3c, 0x7a, 0xd9, 0x60, 0x5b, 0x82, 0xb5, 0x44,
                                     0x4f, 0x18, 0xca, 0xda, 0xcd, 0x21, 0x7a, 0x5d};
    struct kl_kv *kv = open_memory();
    struct kl_kv *other = open_memory();
    uint8_t a[32];
    uint8_t b[32];
    uint64_t records = 9;

    CHECK_OK(kl_kv_digest(kv, NULL, a, &records));
    CHECK_EQ(records, 0);
    put(kv, "a", "bc");
    put(other, "ab", "c");
    CHECK_OK(kl_kv_digest(kv, NULL, a, &records));
    CHECK_EQ(records, 1);
    CHECK_MEM(a, want, 32);
    CHECK_OK(kl_kv_digest(other, NULL, b, &records));
    CHECK(memcmp(a, b, 32) != 0);
    kl_kv_close(kv);
    kl_kv_close(other);
}

/* ---- the crash wrapper ---- */

/* After a crash exactly the synced batches and the kept prefix of the others are there. */
TEST(crash, keeps_a_prefix)
{
    uint64_t rng = test_seed();

    for (int round = 0; round < 40; round++) {
        struct kv_disk *disk = NULL;
        struct kl_kv *kv = NULL;
        struct model states[21]; /* after each batch */
        size_t durable = 0;
        size_t keep;

        memset(states, 0, sizeof states);
        CHECK_OK(kv_disk_new(&disk));
        CHECK_OK(kv_disk_open(disk, &kv));
        for (size_t i = 1; i <= 20; i++) {
            bool sync = test_random(&rng) % 6 == 0;

            states[i] = states[i - 1];
            write_random(&states[i], kv, &rng, sync);
            if (!sync && test_random(&rng) % 8 == 0) {
                CHECK_OK(kl_kv_flush(kv));
                sync = true;
            }
            durable = sync ? i : durable;
            CHECK_EQ(kv_disk_unsynced(disk), i - durable);
        }
        keep = (size_t)(test_random(&rng) % 8);
        kv_disk_crash(disk, keep);
        CHECK_STATUS(kl_kv_flush(kv), KL_IO); /* the process is dead */
        kl_kv_close(kv);
        CHECK_OK(kv_disk_open(disk, &kv));
        model_check(&states[durable + keep < 20 ? durable + keep : 20], kv, NULL, &rng);
        CHECK_EQ(kv_disk_unsynced(disk), 0);
        kl_kv_close(kv);
        kv_disk_free(disk);
    }
}

/* From the n-th write on the disk refuses, and changes nothing, until told to stop. */
TEST(crash, refuses)
{
    static const enum kl_status statuses[] = {KL_NO_SPACE, KL_IO};

    for (size_t s = 0; s < 2; s++) {
        uint64_t rng = test_seed();
        struct kv_disk *disk = NULL;
        struct kl_kv *kv = NULL;
        struct model m = {{0}};

        CHECK_OK(kv_disk_new(&disk));
        CHECK_OK(kv_disk_open(disk, &kv));
        kv_disk_refuse(disk, 3, statuses[s]);
        write_random(&m, kv, &rng, false);
        write_random(&m, kv, &rng, false);
        CHECK_OK(kl_kv_flush(kv));
        for (int i = 0; i < 3; i++) {
            struct model lost = m;
            struct kl_batch batch;

            kl_batch_init(&batch, 1 << 20);
            model_random_batch(&lost, &rng, &batch, 5);
            CHECK_STATUS(kl_kv_write(kv, &batch, true), statuses[s]);
            kl_batch_done(&batch);
            model_check(&m, kv, NULL, &rng);
        }
        CHECK_STATUS(kl_kv_flush(kv), statuses[s]);
        kv_disk_refuse(disk, 0, KL_OK);
        write_random(&m, kv, &rng, true);
        model_check(&m, kv, NULL, &rng);
        kl_kv_close(kv);
        kv_disk_free(disk);
    }
}

/* Adopting staged state: contents change places and are durable; old handles are dead. */
TEST(crash, swap)
{
    uint64_t rng = test_seed();
    struct kv_disk *a = NULL;
    struct kv_disk *b = NULL;
    struct kl_kv *ka = NULL;
    struct kl_kv *kb = NULL;
    struct model ma = {{0}};
    struct model mb = {{0}};

    CHECK_OK(kv_disk_new(&a));
    CHECK_OK(kv_disk_new(&b));
    CHECK_OK(kv_disk_open(a, &ka));
    CHECK_OK(kv_disk_open(b, &kb));
    write_random(&ma, ka, &rng, false);
    write_random(&mb, kb, &rng, false);
    kl_kv_close(ka);
    kl_kv_close(kb);
    kv_disk_swap(a, b);
    kv_disk_crash(a, 0);
    CHECK_OK(kv_disk_open(a, &ka));
    CHECK_OK(kv_disk_open(b, &kb));
    model_check(&mb, ka, NULL, &rng);
    model_check(&ma, kb, NULL, &rng);
    kl_kv_close(ka);
    kl_kv_close(kb);
    memset(&ma, 0, sizeof ma);
    kv_disk_wipe(a);
    CHECK_OK(kv_disk_open(a, &ka));
    model_check(&ma, ka, NULL, &rng);
    kl_kv_close(ka);
    kv_disk_free(a);
    kv_disk_free(b);
}

/* ---- threads ---- */

enum { PAIRS = 200, ROUNDS = 300, READERS = 3 };

struct shared {
    struct kl_kv *kv;
    bool failed[READERS];
};

struct reader {
    struct shared *s;
    size_t id;
};

/* Every batch writes one number to all keys: a reader that sees two numbers saw half a batch. */
static bool all_equal(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    uint32_t *seen = arg;
    uint32_t v = kl_get_be32(value.ptr);

    (void)key;
    if (seen[0] == 0) {
        seen[0] = v;
    }
    seen[1] += seen[0] != v;
    return true;
}

static void *read_all(void *arg)
{
    struct reader *r = arg;
    struct kl_bytes all = {NULL, 0};

    for (int i = 0; i < ROUNDS; i++) {
        uint32_t a[2] = {0, 0};
        uint32_t b[2] = {0, 0};
        struct kl_kv_snap *snap = kl_kv_snap_new(r->s->kv);

        r->s->failed[r->id] |= snap == NULL ||
                               kl_kv_scan(r->s->kv, snap, all, all, all_equal, a) != KL_OK ||
                               kl_kv_scan(r->s->kv, NULL, all, all, all_equal, b) != KL_OK ||
                               a[1] != 0 || b[1] != 0 || b[0] < a[0];
        kl_kv_snap_free(r->s->kv, snap);
    }
    return NULL;
}

static void write_pairs(struct kl_kv *kv, uint32_t v)
{
    struct kl_batch batch;

    kl_batch_init(&batch, 1 << 20);
    for (uint32_t i = 0; i < PAIRS; i++) {
        uint8_t key[4];
        uint8_t value[4];

        kl_put_be32(key, i * 2654435761u);
        kl_put_be32(value, v);
        kl_batch_put(&batch, kl_bytes_of(key, 4), kl_bytes_of(value, 4));
    }
    CHECK_OK(kl_kv_write(kv, &batch, false));
    kl_batch_done(&batch);
}

static void with_readers(struct kl_kv *kv)
{
    struct shared s = {.kv = kv};
    struct reader readers[READERS];
    pthread_t threads[READERS];

    write_pairs(kv, 1);
    for (size_t i = 0; i < READERS; i++) {
        readers[i] = (struct reader){&s, i};
        CHECK_EQ(pthread_create(&threads[i], NULL, read_all, &readers[i]), 0);
    }
    for (uint32_t v = 2; v < ROUNDS; v++) {
        write_pairs(kv, v);
        if (v % 64 == 0) {
            CHECK_OK(kl_kv_flush(kv));
        }
    }
    for (size_t i = 0; i < READERS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
        CHECK(!s.failed[i]);
    }
}

/* Readers never see half a batch, whatever the writer does meanwhile. */
TEST(threads, memory)
{
    struct kl_kv *kv = open_memory();

    with_readers(kv);
    kl_kv_close(kv);
}

TEST(threads, leveldb)
{
    struct kl_kv *kv = open_level(test_dir());

    with_readers(kv);
    kl_kv_close(kv);
}
