/*
 * What disks do to LevelDB: they fill up, lose unsynced bytes and change others.
 */
#include "tests/unit/store/model.h"

#include "common/alloc.h"
#include "common/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CACHE = 1 << 20 };

static void join(char path[PATH_MAX], const char *dir, const char *name)
{
    int n = snprintf(path, PATH_MAX, "%s/%s", dir, name);

    assert_true(n > 0 && n < PATH_MAX);
}

static struct kl_kv *open_store(const char *dir)
{
    char err[512] = "";
    struct kl_kv *kv = NULL;

    if (kl_kv_leveldb_open(dir, CACHE, &kv, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    return kv;
}

static enum kl_status write_random(struct model *m, struct kl_kv *kv, uint64_t *rng, unsigned ops,
                                   bool sync)
{
    struct model after = *m;
    struct kl_batch batch;
    enum kl_status st;

    kl_batch_init(&batch, 8 << 20);
    model_random_batch(&after, rng, &batch, ops);
    st = kl_kv_write(kv, &batch, sync);
    kl_batch_done(&batch);
    if (st == KL_OK) {
        *m = after;
    }
    return st;
}

/* ---- files ---- */

static void copy_file(const char *from, const char *to)
{
    char buf[65536];
    int in = open(from, O_RDONLY);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t n;

    assert_true(in >= 0 && out >= 0);
    while ((n = read(in, buf, sizeof buf)) > 0) {
        CHECK_EQ(write(out, buf, (size_t)n), n);
    }
    CHECK_EQ(n, 0);
    (void)close(in);
    (void)close(out);
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name);
    size_t m = strlen(end);

    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Copies a store's directory but for files whose name ends with `but` and the ballast. */
static void copy_dir(const char *from, const char *to, const char *but)
{
    DIR *d = opendir(from);
    struct dirent *e;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        char a[PATH_MAX];
        char b[PATH_MAX];

        if (e->d_name[0] == '.' || ends_with(e->d_name, but) || strcmp(e->d_name, "BALLAST") == 0 ||
            strcmp(e->d_name, "LOCK") == 0) {
            continue;
        }
        join(a, from, e->d_name);
        join(b, to, e->d_name);
        copy_file(a, b);
    }
    (void)closedir(d);
}

/* The first file whose name begins and ends so. */
static bool find_file(const char *dir, const char *begin, const char *end, char path[PATH_MAX])
{
    DIR *d = opendir(dir);
    struct dirent *e;
    bool found = false;

    assert_non_null(d);
    while (!found && (e = readdir(d)) != NULL) {
        if (strncmp(e->d_name, begin, strlen(begin)) == 0 && ends_with(e->d_name, end)) {
            join(path, dir, e->d_name);
            found = true;
        }
    }
    (void)closedir(d);
    return found;
}

/* ---- durability ---- */

/* After a flush nothing depends on the log: a copy without it holds everything. */
TEST(flush, without_the_log)
{
    uint64_t rng = test_seed();
    const char *dir = test_dir();
    struct kl_kv *kv = open_store(dir);
    struct model m = {{0}};

    for (int round = 0; round < 5; round++) {
        const char *copy = test_dir();
        struct kl_kv *again;

        for (int i = 0; i < 30; i++) {
            CHECK_OK(write_random(&m, kv, &rng, 10, false));
        }
        CHECK_OK(kl_kv_flush(kv));
        copy_dir(dir, copy, ".log");
        again = open_store(copy);
        model_check(&m, again, NULL, &rng);
        kl_kv_close(again);
    }
    kl_kv_close(kv);
}

/* Without a flush the copy is an earlier state or fails, which shows that the test above can. */
TEST(flush, canary)
{
    uint64_t rng = test_seed();
    const char *dir = test_dir();
    const char *copy = test_dir();
    struct kl_kv *kv = open_store(dir);
    struct kl_kv *again;
    struct model m = {{0}};
    struct model none = {{0}};

    CHECK_OK(write_random(&m, kv, &rng, 10, false));
    copy_dir(dir, copy, ".log");
    again = open_store(copy);
    model_check(&none, again, NULL, &rng);
    kl_kv_close(again);
    kl_kv_close(kv);
}

/* A torn log, cut anywhere: what is read is the state after some number of whole batches. */
TEST(flush, torn_log)
{
    uint64_t rng = test_seed();
    const char *dir = test_dir();
    struct kl_kv *kv = open_store(dir);
    struct model states[11];
    char log[PATH_MAX];
    struct stat st;

    memset(states, 0, sizeof states);
    for (int i = 1; i <= 10; i++) {
        states[i] = states[i - 1];
        CHECK_OK(write_random(&states[i], kv, &rng, 5, false));
    }
    CHECK(find_file(dir, "", ".log", log));
    CHECK_EQ(stat(log, &st), 0);
    for (int round = 0; round < 30; round++) {
        const char *copy = test_dir();
        struct kl_kv *again;
        struct kl_kv *want = NULL;
        uint8_t got[32];
        uint8_t is[32];
        uint64_t records;
        bool found = false;

        copy_dir(dir, copy, "never");
        CHECK(find_file(copy, "", ".log", log));
        CHECK_EQ(truncate(log, (off_t)(test_random(&rng) % (uint64_t)(st.st_size + 1))), 0);
        again = open_store(copy);
        CHECK_OK(kl_kv_digest(again, NULL, got, &records));
        kl_kv_close(again);
        for (int i = 0; i <= 10 && !found; i++) {
            struct kl_batch batch;
            uint8_t kb[32];
            uint8_t vb[4096];

            kl_batch_init(&batch, 8 << 20);
            CHECK_OK(kl_kv_memory_new(&want));
            for (unsigned k = 0; k < MODEL_KEYS; k++) {
                if (states[i].value[k] != 0) {
                    kl_batch_put(&batch, model_key(k, kb), model_value(states[i].value[k], vb));
                }
            }
            CHECK_OK(kl_kv_write(want, &batch, false));
            CHECK_OK(kl_kv_digest(want, NULL, is, &records));
            found = memcmp(got, is, 32) == 0;
            kl_batch_done(&batch);
            kl_kv_close(want);
        }
        CHECK(found);
    }
    kl_kv_close(kv);
}

/* ---- corruption ---- */

/* Reads everything; KL_CORRUPT as soon as somebody says so. */
static enum kl_status read_whole(const char *dir, uint8_t digest[32], char *err, size_t err_len)
{
    struct kl_kv *kv = NULL;
    uint64_t records;
    struct kl_buf value = KL_BUF(4096);
    enum kl_status st = kl_kv_leveldb_open(dir, CACHE, &kv, err, err_len);

    if (st != KL_OK) {
        return st;
    }
    st = kl_kv_digest(kv, NULL, digest, &records);
    for (unsigned i = 0; i < MODEL_KEYS && st == KL_OK; i++) {
        uint8_t kb[32];

        st = kl_kv_get(kv, NULL, model_key(i, kb), &value);
        st = st == KL_NOT_FOUND ? KL_OK : st;
    }
    kl_buf_wipe(&value);
    kl_kv_close(kv);
    return st;
}

static const char *make_store(struct model *m, uint64_t *rng, uint8_t digest[32])
{
    const char *dir = test_dir();
    struct kl_kv *kv = open_store(dir);
    uint64_t records;

    for (int i = 0; i < 20; i++) {
        CHECK_OK(write_random(m, kv, rng, 30, false));
    }
    CHECK_OK(kl_kv_flush(kv));
    CHECK_OK(kl_kv_digest(kv, NULL, digest, &records));
    kl_kv_close(kv);
    return dir;
}

/* A changed bit in a table or manifest is found, or was of no consequence: never wrong data. */
TEST(corrupt, any_bit)
{
    uint64_t rng = test_seed();
    struct model m = {{0}};
    uint8_t want[32];
    const char *dir = make_store(&m, &rng, want);
    static const char *const kinds[][2] = {{"", ".ldb"}, {"MANIFEST", ""}};
    unsigned found = 0;

    for (int round = 0; round < 80; round++) {
        const char *copy = test_dir();
        const char *const *kind = kinds[round % 4 == 0];
        char path[PATH_MAX];
        char err[512] = "";
        uint8_t got[32];
        struct stat s;
        uint8_t byte;
        off_t at;
        enum kl_status st;
        int fd;

        copy_dir(dir, copy, "never");
        CHECK(find_file(copy, kind[0], kind[1], path));
        CHECK_EQ(stat(path, &s), 0);
        at = (off_t)(test_random(&rng) % (uint64_t)s.st_size);
        fd = open(path, O_RDWR);
        CHECK_EQ(pread(fd, &byte, 1, at), 1);
        byte ^= (uint8_t)(1u << test_random(&rng) % 8);
        CHECK_EQ(pwrite(fd, &byte, 1, at), 1);
        (void)close(fd);
        st = read_whole(copy, got, err, sizeof err);
        if (st == KL_OK) {
            CHECK_MEM(got, want, 32);
        } else {
            CHECK_STATUS(st, KL_CORRUPT);
            found++;
        }
    }
    CHECK(found > 20);
}

static void expect_corrupt(const char *dir, bool by_reading)
{
    char err[512] = "";
    uint8_t digest[32];

    CHECK_STATUS(read_whole(dir, digest, err, sizeof err), KL_CORRUPT);
    if (err[0] != 0) { /* found when it was opened, not when it was read */
        CHECK(strstr(err, dir) != NULL);
        CHECK(strstr(err, "corrupt") != NULL);
    } else {
        CHECK(by_reading);
    }
}

/* A missing or overwritten file is corruption: never an empty store. */
TEST(corrupt, files)
{
    uint64_t rng = test_seed();
    struct model m = {{0}};
    uint8_t want[32];
    const char *dir = make_store(&m, &rng, want);
    static const char *const kinds[][2] = {{"", ".ldb"}, {"MANIFEST", ""}, {"CURRENT", ""}};

    for (size_t i = 0; i < 6; i++) {
        const char *copy = test_dir();
        char path[PATH_MAX];

        copy_dir(dir, copy, "never");
        CHECK(find_file(copy, kinds[i / 2][0], kinds[i / 2][1], path));
        CHECK_EQ(unlink(path), 0);
        if (i % 2 == 1) {
            int fd = open(path, O_WRONLY | O_CREAT, 0600);

            CHECK_EQ(write(fd, "rubbish\n", 8), 8);
            (void)close(fd);
        }
        expect_corrupt(copy, i == 1); /* only a table is not looked into at once */
    }
}

/* Corruption met while running: reads and then writes say so, not something else. */
TEST(corrupt, while_running)
{
    uint64_t rng = test_seed();
    struct model m = {{0}};
    uint8_t want[32];
    const char *dir = make_store(&m, &rng, want);
    struct kl_kv *kv = open_store(dir);
    char path[PATH_MAX];
    struct stat s;
    uint64_t records;
    int fd;
    char *zeros;

    CHECK(find_file(dir, "", ".ldb", path));
    CHECK_EQ(stat(path, &s), 0);
    zeros = kl_calloc(1, (size_t)s.st_size / 2);
    fd = open(path, O_WRONLY);
    CHECK_EQ(pwrite(fd, zeros, (size_t)s.st_size / 2, 0), s.st_size / 2);
    (void)close(fd);
    kl_free(zeros);
    CHECK_STATUS(kl_kv_digest(kv, NULL, want, &records), KL_CORRUPT);
    kl_kv_close(kv);
}

/* ---- the directory ---- */

/* A store that is open is neither opened again nor destroyed; one that is not there is no error. */
TEST(directory, in_use)
{
    const char *dir = test_dir();
    struct kl_kv *kv = open_store(dir);
    struct kl_kv *second = NULL;
    char err[512] = "";
    char inside[PATH_MAX];

    CHECK_STATUS(kl_kv_leveldb_open(dir, CACHE, &second, err, sizeof err), KL_IO);
    CHECK(strstr(err, dir) != NULL);
    CHECK_STATUS(kl_kv_leveldb_destroy(dir), KL_IO);
    kl_kv_close(kv);
    CHECK_OK(kl_kv_leveldb_destroy(dir));
    CHECK_EQ(access(dir, F_OK), -1);
    CHECK_OK(kl_kv_leveldb_destroy(dir));
    join(inside, dir, "missing/deeper");
    CHECK_STATUS(kl_kv_leveldb_open(inside, CACHE, &second, err, sizeof err), KL_IO);
}

/* ---- a full disk ---- */

enum { DISK_MB = 100 };

static char mounted[PATH_MAX]; /* one at a time */

/* Also after a failed test: before test_dir() removes the directory. */
static void unmount_last(void)
{
    if (mounted[0] != 0) {
        (void)umount2(mounted, MNT_DETACH);
    }
}

/* A small file system of its own, or a loud skip. */
static const char *small_disk(void)
{
    const char *dir = test_dir();
    char options[64];

    (void)snprintf(options, sizeof options, "size=%dm", DISK_MB);
    if (mount("tmpfs", dir, "tmpfs", 0, options) != 0) {
        print_message("SKIPPED: cannot mount a small tmpfs: %s (needs root)\n", strerror(errno));
        skip();
    }
    if (mounted[0] == 0) {
        (void)atexit(unmount_last);
    } else {
        unmount_last(); /* of a test that failed */
    }
    (void)snprintf(mounted, sizeof mounted, "%s", dir);
    return dir;
}

static void drop_disk(const char *dir)
{
    CHECK_EQ(umount(dir), 0);
}

/* Takes all but `left` bytes of the disk. */
static void fill(const char *disk, size_t left)
{
    static const char zeros[65536];
    char path[PATH_MAX];
    int fd;

    join(path, disk, "filler");
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    assert_true(fd >= 0);
    while (write(fd, zeros, sizeof zeros) == sizeof zeros) {
    }
    if (left != 0) {
        CHECK_EQ(ftruncate(fd, lseek(fd, 0, SEEK_END) - (off_t)left), 0);
    }
    (void)close(fd);
}

static void empty(const char *disk)
{
    char path[PATH_MAX];

    join(path, disk, "filler");
    CHECK_EQ(unlink(path), 0);
}

static void store_in(const char *disk, char dir[PATH_MAX])
{
    join(dir, disk, "store");
}

/* Writes until the disk is full; *m is what was acknowledged. */
static void write_until_full(struct model *m, struct kl_kv *kv, uint64_t *rng, bool sync)
{
    enum kl_status st = KL_OK;

    for (int i = 0; i < 100000 && st == KL_OK; i++) {
        st = write_random(m, kv, rng, 30, sync);
    }
    CHECK_STATUS(st, KL_NO_SPACE);
}

/* Full and back, several times: refused writes leave no trace, acknowledged ones stay, reads go on. */
TEST(full_disk, and_back)
{
    const char *disk = small_disk();
    uint64_t rng = test_seed();
    struct model m = {{0}};
    char dir[PATH_MAX];
    struct kl_kv *kv;

    store_in(disk, dir);
    kv = open_store(dir);
    for (int round = 0; round < 4; round++) {
        CHECK_OK(write_random(&m, kv, &rng, 30, true));
        fill(disk, (size_t)round * 300000);
        write_until_full(&m, kv, &rng, round % 2 == 1);
        model_check(&m, kv, NULL, &rng);
        fill(disk, 0);
        for (int i = 0; i < 5; i++) {
            CHECK_STATUS(write_random(&m, kv, &rng, 5, false), KL_NO_SPACE);
        }
        CHECK_OK(kl_kv_flush(kv)); /* the reopening made everything durable */
        model_check(&m, kv, NULL, &rng);
        empty(disk);
        CHECK_OK(write_random(&m, kv, &rng, 30, true));
        CHECK_OK(kl_kv_flush(kv));
        model_check(&m, kv, NULL, &rng);
    }
    kl_kv_close(kv);
    kv = open_store(dir);
    model_check(&m, kv, NULL, &rng);
    kl_kv_close(kv);
    drop_disk(disk);
}

/* A snapshot holds the broken instance: it reads on, and when it goes the store recovers. */
TEST(full_disk, under_a_snapshot)
{
    const char *disk = small_disk();
    uint64_t rng = test_seed();
    struct model m = {{0}};
    struct model then;
    struct kl_kv_snap *snap;
    char dir[PATH_MAX];
    struct kl_kv *kv;

    store_in(disk, dir);
    kv = open_store(dir);
    CHECK_OK(write_random(&m, kv, &rng, 200, false));
    then = m;
    snap = kl_kv_snap_new(kv);
    fill(disk, 100000);
    write_until_full(&m, kv, &rng, false);
    model_check(&then, kv, snap, &rng);
    model_check(&m, kv, NULL, &rng);
    empty(disk);
    CHECK_STATUS(write_random(&m, kv, &rng, 5, false), KL_NO_SPACE); /* still held */
    model_check(&then, kv, snap, &rng);
    model_check(&m, kv, NULL, &rng);
    kl_kv_snap_free(kv, snap);
    CHECK_OK(write_random(&m, kv, &rng, 5, true));
    model_check(&m, kv, NULL, &rng);
    kl_kv_close(kv);
    drop_disk(disk);
}

/* The disk fills up under LevelDB's background work: found by the next write or flush. */
TEST(full_disk, in_the_background)
{
    const char *disk = small_disk();
    uint64_t rng = test_seed();
    struct model m = {{0}};
    char dir[PATH_MAX];
    struct kl_kv *kv;
    enum kl_status st;

    store_in(disk, dir);
    kv = open_store(dir);
    for (int i = 0; i < 60; i++) { /* about 2 MiB that no table has yet */
        CHECK_OK(write_random(&m, kv, &rng, 30, false));
    }
    fill(disk, 0);
    st = kl_kv_flush(kv);
    CHECK(st == KL_OK || st == KL_NO_SPACE);
    model_check(&m, kv, NULL, &rng);
    CHECK_STATUS(write_random(&m, kv, &rng, 5, true), KL_NO_SPACE);
    CHECK_OK(kl_kv_flush(kv));
    empty(disk);
    CHECK_OK(write_random(&m, kv, &rng, 5, true));
    model_check(&m, kv, NULL, &rng);
    kl_kv_close(kv);
    drop_disk(disk);
}

/* A node that starts on a full disk reads; it writes when space is back. */
TEST(full_disk, at_start)
{
    const char *disk = small_disk();
    uint64_t rng = test_seed();
    struct model m = {{0}};
    char dir[PATH_MAX];
    struct kl_kv *kv;

    store_in(disk, dir);
    kv = open_store(dir);
    for (int i = 0; i < 60; i++) {
        CHECK_OK(write_random(&m, kv, &rng, 30, false));
    }
    kl_kv_close(kv);
    fill(disk, 0);
    for (int i = 0; i < 2; i++) {
        kv = open_store(dir);
        model_check(&m, kv, NULL, &rng);
        CHECK_STATUS(write_random(&m, kv, &rng, 5, false), KL_NO_SPACE);
        kl_kv_close(kv);
    }
    empty(disk);
    kv = open_store(dir);
    CHECK_OK(write_random(&m, kv, &rng, 5, true));
    model_check(&m, kv, NULL, &rng);
    kl_kv_close(kv);
    drop_disk(disk);
}

struct reading {
    struct kl_kv *kv;
    atomic_bool stop;
    atomic_uint reads;
    atomic_int failed;
};

static void *read_on(void *arg)
{
    struct reading *r = arg;
    struct kl_buf got = KL_BUF(4096);

    for (unsigned i = 0; !atomic_load(&r->stop); i++) {
        struct kl_kv_snap *snap = kl_kv_snap_new(r->kv);
        uint8_t kb[32];
        enum kl_status st = KL_NO_MEMORY;

        if (snap != NULL) {
            st = kl_kv_get(r->kv, snap, model_key(i % MODEL_KEYS, kb), &got);
        }
        kl_kv_snap_free(r->kv, snap);
        if (st == KL_OK || st == KL_NOT_FOUND) {
            st = kl_kv_get(r->kv, NULL, model_key(i % MODEL_KEYS, kb), &got);
        }
        if (st != KL_OK && st != KL_NOT_FOUND) {
            atomic_store(&r->failed, (int)st);
        }
        atomic_fetch_add(&r->reads, 1);
    }
    kl_buf_wipe(&got);
    return NULL;
}

/* Readers on other threads never notice, though the instance is replaced under them. */
TEST(full_disk, readers_unaffected)
{
    const char *disk = small_disk();
    uint64_t rng = test_seed();
    struct model m = {{0}};
    struct reading r = {.kv = NULL};
    pthread_t threads[2];
    char dir[PATH_MAX];

    store_in(disk, dir);
    r.kv = open_store(dir);
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, read_on, &r), 0);
    }
    for (int round = 0; round < 3; round++) {
        unsigned before;

        CHECK_OK(write_random(&m, r.kv, &rng, 30, true));
        fill(disk, 200000);
        write_until_full(&m, r.kv, &rng, false);
        before = atomic_load(&r.reads);
        while (atomic_load(&r.reads) < before + 100 && atomic_load(&r.failed) == 0) {
            (void)write_random(&m, r.kv, &rng, 5, false);
        }
        empty(disk);
        CHECK_OK(write_random(&m, r.kv, &rng, 30, true));
    }
    atomic_store(&r.stop, true);
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    CHECK_EQ(atomic_load(&r.failed), 0);
    model_check(&m, r.kv, NULL, &rng);
    kl_kv_close(r.kv);
    drop_disk(disk);
}
