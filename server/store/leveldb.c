/*
 * A store in LevelDB, through its C interface.
 *
 * The directory holds LevelDB's files and BALLAST, a file of KL_STORE_BALLAST bytes that nobody reads.
 *
 * A full disk. After a failed write LevelDB must not be written to any more: the tail of its log may
 * be torn, and an error of its background work sticks for good. Only a fresh instance cures that, and
 * opening one needs room: it writes the log it finds into tables. So the ballast goes first, then the
 * instance is closed and opened again, which also throws away the torn tail and makes durable all that
 * was written. From then on writes are refused until there is room for a new ballast and some more.
 *
 *   READY   ballast in place, writes are taken
 *   FULL    fresh instance, no ballast: reads are answered, writes get NO_SPACE
 *   BROKEN  a write failed and the instance is still the old one, because readers hold it (or, with
 *           db NULL, because even the ballast's room was taken): reads are answered, writes try again
 *
 * A mark. LevelDB takes a damaged end of its manifest for a crash and opens what there was before,
 * perhaps nothing. So each flush first writes a number under a hidden key, and when it is durable the
 * number goes into the file MARK: a store whose key is behind the file has lost what was flushed.
 *
 * An instance cannot be closed under a reader. Calls and snapshots are counted as users; who wants to
 * reopen waits KL_STORE_DRAIN_MS at most for them to leave, and holds back new ones for that long.
 */
#include "server/store/leveldb_files.h"
#include "server/store/recent.h"

#include "common/alloc.h"
#include "common/limits.h"

#include <assert.h>
#include <leveldb/c.h>
#include <pthread.h>
#include <sys/select.h>

enum state { READY, FULL, BROKEN };

enum { BLOOM_BITS = 10, DRAIN_STEP_MS = 5 };

struct level {
    struct kl_kv kv; /* first */
    char *dir;
    leveldb_options_t *options;
    leveldb_cache_t *cache;
    leveldb_filterpolicy_t *bloom;
    leveldb_readoptions_t *get;   /* newest state */
    leveldb_readoptions_t *range; /* the same for scans: they leave the cache alone */
    leveldb_writeoptions_t *lazy;
    leveldb_writeoptions_t *sync;
    struct kl_recent *recent;

    /* One write at a time, and its failure noted before the next: nothing may follow a torn record.
     * Taken before the lock. */
    pthread_mutex_t writing;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t idle;  /* wanted was cleared */
    leveldb_t *db;        /* changes only while there are no users; NULL: see BROKEN */
    enum state state;
    uint64_t mark; /* of the last flush */
    size_t users;
    bool wanted; /* a reopen is waiting or under way */
};

struct kl_kv_snap {
    const leveldb_snapshot_t *snapshot;
    leveldb_readoptions_t *get;
    leveldb_readoptions_t *range;
    uint64_t now; /* the last write that is surely in it */
};

static struct level *level_of(struct kl_kv *kv)
{
    return (struct level *)kv;
}

static const char *chars(struct kl_bytes b)
{
    return b.ptr == NULL ? "" : (const char *)b.ptr;
}

/* What a message of LevelDB means; frees it. */
static enum kl_status status_of(char *err)
{
    enum kl_status st = kl_leveldb_status(err);

    leveldb_free(err);
    return st;
}

/* The same for a read. What cannot be read now was acknowledged once: somebody must know. */
static enum kl_status read_status_of(const struct level *l, char *err)
{
    enum kl_status st = kl_leveldb_status(err);

    if ((st == KL_CORRUPT || st == KL_IO) && l->kv.fault != NULL) {
        l->kv.fault(l->kv.fault_ctx, st, err);
    }
    leveldb_free(err);
    return st;
}

/* Behind every key of a user; scans end before it. */
static const uint8_t mark_key[] = {0xff, 0xff, 'm', 'a', 'r', 'k'};

enum { HIDDEN_LEN = 2, MARK_LEN = 8 };

/* ---- opening and reopening; the lock is held ---- */

/* Is everything there that was flushed? */
static enum kl_status check_mark(struct level *l)
{
    char *err = NULL;
    size_t len = 0;
    char *value = leveldb_get(l->db, l->get, (const char *)mark_key, sizeof mark_key, &len, &err);
    uint64_t flushed = 0;
    enum kl_status st = err != NULL ? status_of(err) : kl_leveldb_mark_read(l->dir, &flushed);

    l->mark = value != NULL && len == MARK_LEN ? kl_get_be64((const uint8_t *)value) : 0;
    leveldb_free(value);
    return st == KL_OK && flushed > l->mark ? KL_CORRUPT : st;
}

static enum kl_status open_db(struct level *l, char *err, size_t err_len)
{
    char *why = NULL;
    enum kl_status st = kl_leveldb_check_dir(l->dir);

    if (st == KL_OK) {
        l->db = leveldb_open(l->options, l->dir, &why);
        st = why == NULL ? check_mark(l) : kl_leveldb_status(why);
    }
    if (st == KL_OK) {
        return KL_OK;
    }
    if (l->db != NULL) {
        leveldb_close(l->db);
    }
    kl_leveldb_explain(st, l->dir, why, err, err_len);
    leveldb_free(why);
    l->db = NULL;
    return st;
}

/* FULL to READY, when there is room again. */
static void take_ballast(struct level *l)
{
    if (l->state == FULL && kl_leveldb_ballast_make(l->dir)) {
        l->state = READY;
    }
}

/* BROKEN to FULL, or further. Nobody uses the old instance. */
static enum kl_status reopen(struct level *l)
{
    enum kl_status st;

    assert(l->users == 0);
    kl_leveldb_ballast_drop(l->dir);
    if (l->db != NULL) {
        leveldb_close(l->db);
    }
    st = open_db(l, NULL, 0);
    if (st == KL_OK) {
        l->state = FULL;
        take_ballast(l);
    }
    return st;
}

/* Waits until nobody uses the instance, a step at a time: a relative wait needs no clock. */
static bool drained(struct level *l)
{
    for (int waited = 0; l->users != 0 && waited < KL_STORE_DRAIN_MS; waited += DRAIN_STEP_MS) {
        struct timeval step = {.tv_usec = DRAIN_STEP_MS * 1000};

        (void)pthread_mutex_unlock(&l->lock);
        (void)select(0, NULL, NULL, NULL, &step);
        (void)pthread_mutex_lock(&l->lock);
    }
    return l->users == 0;
}

/* Does what can be done about FULL and BROKEN. The caller is no user. */
static enum kl_status recover(struct level *l)
{
    enum kl_status st = KL_OK;

    while (l->wanted) {
        (void)pthread_cond_wait(&l->idle, &l->lock); /* somebody else is at it */
    }
    if (l->state == BROKEN) {
        l->wanted = true;
        st = drained(l) ? reopen(l) : KL_NO_SPACE;
        l->wanted = false;
        (void)pthread_cond_broadcast(&l->idle);
    }
    take_ballast(l);
    return st;
}

/* ---- users ---- */

static enum kl_status enter(struct level *l)
{
    enum kl_status st = KL_OK;

    (void)pthread_mutex_lock(&l->lock);
    while (l->wanted) {
        (void)pthread_cond_wait(&l->idle, &l->lock); /* at most KL_STORE_DRAIN_MS and a reopen */
    }
    if (l->db == NULL) {
        st = recover(l);
    }
    if (l->db != NULL) {
        l->users++;
        st = KL_OK;
    }
    (void)pthread_mutex_unlock(&l->lock);
    return st == KL_NO_SPACE ? KL_IO : st; /* what readers may be told */
}

static void leave(struct level *l)
{
    (void)pthread_mutex_lock(&l->lock);
    l->users--;
    (void)pthread_mutex_unlock(&l->lock);
}

/* As a user when the store takes writes; KL_NO_SPACE when it does not. */
static enum kl_status enter_writer(struct level *l)
{
    enum kl_status st = KL_OK;

    (void)pthread_mutex_lock(&l->lock);
    while (l->wanted) {
        (void)pthread_cond_wait(&l->idle, &l->lock);
    }
    if (l->state != READY) {
        st = recover(l);
    }
    if (l->state == READY) {
        l->users++;
        st = KL_OK;
    } else if (st == KL_OK) {
        st = KL_NO_SPACE;
    }
    (void)pthread_mutex_unlock(&l->lock);
    return st;
}

/* A write failed for want of space. The state after that: BROKEN when the instance could not be
 * replaced. */
static enum state broke(struct level *l)
{
    enum state state;

    (void)pthread_mutex_lock(&l->lock);
    if (l->state == READY) {
        l->state = BROKEN;
    }
    (void)recover(l);
    state = l->state;
    (void)pthread_mutex_unlock(&l->lock);
    return state;
}

/* ---- reading ---- */

static enum kl_status level_get(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes key,
                                struct kl_buf *out)
{
    struct level *l = level_of(kv);
    uint64_t now = snap == NULL ? kl_recent_now(l->recent) : snap->now;
    enum kl_status st;
    char *err = NULL;
    char *value;
    size_t len = 0;

    if (kl_recent_get(l->recent, key, now, out)) {
        return KL_OK;
    }
    st = snap == NULL ? enter(l) : KL_OK;
    if (st != KL_OK) {
        return st;
    }
    value = leveldb_get(l->db, snap == NULL ? l->get : snap->get, chars(key), key.len, &len, &err);
    if (snap == NULL) {
        leave(l);
    }
    if (err != NULL) {
        return read_status_of(l, err);
    }
    if (value == NULL) {
        return KL_NOT_FOUND;
    }
    kl_recent_keep(l->recent, key, kl_bytes_of(value, len), now);
    kl_buf_clear(out);
    st = kl_buf_put(out, value, len);
    leveldb_free(value);
    return st;
}

static void iterate(leveldb_iterator_t *it, struct kl_bytes to, kl_scan_fn fn, void *arg)
{
    for (; leveldb_iter_valid(it); leveldb_iter_next(it)) {
        struct kl_bytes key;
        struct kl_bytes value;

        key.ptr = (const uint8_t *)leveldb_iter_key(it, &key.len);
        value.ptr = (const uint8_t *)leveldb_iter_value(it, &value.len);
        if ((to.len != 0 && kl_bytes_cmp(key, to) >= 0) ||
            (key.len >= HIDDEN_LEN && memcmp(key.ptr, mark_key, HIDDEN_LEN) == 0) ||
            !fn(arg, key, value)) {
            return;
        }
    }
}

static enum kl_status level_scan(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes from,
                                 struct kl_bytes to, kl_scan_fn fn, void *arg)
{
    struct level *l = level_of(kv);
    enum kl_status st = snap == NULL ? enter(l) : KL_OK;
    leveldb_iterator_t *it;
    char *err = NULL;

    if (st != KL_OK) {
        return st;
    }
    it = leveldb_create_iterator(l->db, snap == NULL ? l->range : snap->range);
    leveldb_iter_seek(it, chars(from), from.len);
    iterate(it, to, fn, arg);
    leveldb_iter_get_error(it, &err);
    leveldb_iter_destroy(it);
    if (snap == NULL) {
        leave(l);
    }
    return err == NULL ? KL_OK : read_status_of(l, err);
}

static leveldb_readoptions_t *read_options(const leveldb_snapshot_t *snapshot, bool fill_cache)
{
    leveldb_readoptions_t *o = leveldb_readoptions_create();

    leveldb_readoptions_set_verify_checksums(o, 1);
    leveldb_readoptions_set_fill_cache(o, fill_cache);
    leveldb_readoptions_set_snapshot(o, snapshot);
    return o;
}

static struct kl_kv_snap *level_snap_new(struct kl_kv *kv)
{
    struct level *l = level_of(kv);
    struct kl_kv_snap *snap = kl_malloc(sizeof *snap);

    if (snap != NULL && enter(l) != KL_OK) {
        kl_free(snap);
        snap = NULL;
    }
    if (snap != NULL) {
        snap->now = kl_recent_now(l->recent);
        snap->snapshot = leveldb_create_snapshot(l->db); /* a user until it is freed */
        snap->get = read_options(snap->snapshot, true);
        snap->range = read_options(snap->snapshot, false);
    }
    return snap;
}

static void level_snap_free(struct kl_kv *kv, struct kl_kv_snap *snap)
{
    struct level *l = level_of(kv);

    leveldb_readoptions_destroy(snap->get);
    leveldb_readoptions_destroy(snap->range);
    leveldb_release_snapshot(l->db, snap->snapshot);
    leave(l);
    kl_free(snap);
}

/* ---- writing ---- */

static leveldb_writebatch_t *convert(const struct kl_batch *batch)
{
    leveldb_writebatch_t *wb = leveldb_writebatch_create();
    struct kl_bytes key;
    struct kl_bytes value;
    enum kl_batch_op op;
    size_t pos = 0;

    while (kl_batch_next(batch, &pos, &op, &key, &value)) {
        if (op == KL_BATCH_PUT) {
            leveldb_writebatch_put(wb, chars(key), key.len, chars(value), value.len);
        } else {
            leveldb_writebatch_delete(wb, chars(key), key.len);
        }
    }
    return wb;
}

/*
 * Writes an empty batch to stable storage: everything before it in the log is then there too, and an
 * error that LevelDB has kept to itself comes out. When the disk is full but the instance can be
 * replaced, that has made everything durable as well. The caller is the writer and a user, and is
 * no user afterwards.
 */
static enum kl_status settle(struct level *l)
{
    leveldb_writebatch_t *empty = leveldb_writebatch_create();
    char *err = NULL;
    enum kl_status st = KL_OK;

    leveldb_write(l->db, l->sync, empty, &err);
    leveldb_writebatch_destroy(empty);
    leave(l);
    if (err != NULL) {
        st = status_of(err);
    }
    if (st == KL_NO_SPACE && broke(l) != BROKEN) {
        st = KL_OK;
    }
    return st;
}

/*
 * A write that must be synced is two: the batch, then an empty synced one. A batch that did not fit
 * leaves a torn record, which nobody will ever see: nothing was done. One that went in and cannot be
 * synced is a different matter, and not to be called NO_SPACE. *again: nothing was done, and the store
 * is READY.
 */
static enum kl_status try_batch(struct level *l, const struct kl_batch *batch, bool sync,
                                bool *again)
{
    enum kl_status st = enter_writer(l);
    leveldb_writebatch_t *wb;
    char *err = NULL;

    if (st != KL_OK) {
        return st;
    }
    wb = convert(batch);
    kl_recent_write_begin(l->recent, batch);
    leveldb_write(l->db, l->lazy, wb, &err);
    kl_recent_write_end(l->recent, batch, err == NULL);
    leveldb_writebatch_destroy(wb);
    if (err == NULL && sync) {
        st = settle(l);
        return st == KL_NO_SPACE ? KL_IO : st;
    }
    leave(l);
    if (err != NULL) {
        st = status_of(err);
    }
    if (st == KL_NO_SPACE) {
        *again = broke(l) == READY;
    }
    return st;
}

/*
 * What fails may be the past: background work of LevelDB that found no space while the store was FULL
 * keeps its error for the first write after it. With a new instance and room the batch may well fit;
 * when it does not fit then either, that is that.
 */
static enum kl_status write_batch(struct level *l, const struct kl_batch *batch, bool sync)
{
    bool again = false;
    enum kl_status st = try_batch(l, batch, sync, &again);

    return again ? try_batch(l, batch, sync, &again) : st;
}

static enum kl_status level_write(struct kl_kv *kv, const struct kl_batch *batch, bool sync)
{
    struct level *l = level_of(kv);
    enum kl_status st = kl_batch_status(batch);

    if (st == KL_OK) {
        (void)pthread_mutex_lock(&l->writing);
        st = write_batch(l, batch, sync);
        (void)pthread_mutex_unlock(&l->writing);
    }
    return st;
}

/* Compaction of a range flushes the memtable into a table first, even when the range is empty. It
 * tells nobody how it went. */
static enum kl_status compact(struct level *l, struct kl_bytes from, struct kl_bytes to)
{
    enum kl_status st = enter_writer(l);

    if (st != KL_OK) {
        return st;
    }
    leveldb_compact_range(l->db, (const char *)from.ptr, from.len, (const char *)to.ptr, to.len);
    leave(l);
    (void)pthread_mutex_lock(&l->writing);
    st = enter_writer(l);
    if (st == KL_OK) {
        st = settle(l);
    }
    (void)pthread_mutex_unlock(&l->writing);
    return st;
}

/* Writes the number of the flush that is about to happen. */
static enum kl_status put_mark(struct level *l, uint64_t *mark)
{
    struct kl_batch batch;
    uint8_t value[MARK_LEN];
    enum kl_status st;

    (void)pthread_mutex_lock(&l->lock);
    *mark = ++l->mark;
    (void)pthread_mutex_unlock(&l->lock);
    kl_put_be64(value, *mark);
    kl_batch_init(&batch, 64);
    kl_batch_put(&batch, kl_bytes_of(mark_key, sizeof mark_key), kl_bytes_of(value, sizeof value));
    st = level_write(&l->kv, &batch, false);
    kl_batch_done(&batch);
    return st;
}

static enum kl_status level_flush(struct kl_kv *kv)
{
    static const uint8_t last[] = {0xff, 0xff, 0xff, 0xff};
    struct level *l = level_of(kv);
    struct kl_bytes none = {last, sizeof last};
    uint64_t mark = 0;
    bool durable;
    enum kl_status st = put_mark(l, &mark);

    if (st == KL_OK) {
        st = compact(l, none, none);
    }
    if (st == KL_OK) {
        (void)kl_leveldb_mark_write(l->dir, mark); /* without it the check is weaker, no more */
    }
    (void)pthread_mutex_lock(&l->lock);
    durable = l->state == FULL; /* nothing was written since it was opened */
    (void)pthread_mutex_unlock(&l->lock);
    return st == KL_NO_SPACE && durable ? KL_OK : st;
}

static enum kl_status level_compact(struct kl_kv *kv, struct kl_bytes from, struct kl_bytes to)
{
    static const struct kl_bytes open_end = {NULL, 0};

    return compact(level_of(kv), from.len == 0 ? open_end : from, to.len == 0 ? open_end : to);
}

/* ---- life ---- */

static void level_close(struct kl_kv *kv)
{
    struct level *l = level_of(kv);

    assert(l->users == 0);
    if (l->db != NULL) {
        leveldb_close(l->db);
    }
    leveldb_options_destroy(l->options);
    leveldb_cache_destroy(l->cache);
    leveldb_filterpolicy_destroy(l->bloom);
    leveldb_readoptions_destroy(l->get);
    leveldb_readoptions_destroy(l->range);
    leveldb_writeoptions_destroy(l->lazy);
    leveldb_writeoptions_destroy(l->sync);
    kl_recent_free(l->recent);
    (void)pthread_cond_destroy(&l->idle);
    (void)pthread_mutex_destroy(&l->lock);
    (void)pthread_mutex_destroy(&l->writing);
    kl_free(l->dir);
    kl_free(l);
}

static void make_options(struct level *l, size_t cache_bytes)
{
    l->options = leveldb_options_create();
    l->cache = leveldb_cache_create_lru(cache_bytes);
    l->bloom = leveldb_filterpolicy_create_bloom(BLOOM_BITS);
    l->get = read_options(NULL, true);
    l->range = read_options(NULL, false);
    l->lazy = leveldb_writeoptions_create();
    l->sync = leveldb_writeoptions_create();
    leveldb_writeoptions_set_sync(l->sync, 1);
    leveldb_options_set_create_if_missing(l->options, 1);
    leveldb_options_set_paranoid_checks(l->options, 1);
    leveldb_options_set_cache(l->options, l->cache);
    leveldb_options_set_filter_policy(l->options, l->bloom);
    leveldb_options_set_compression(l->options, leveldb_no_compression);
    leveldb_options_set_write_buffer_size(l->options, KL_STORE_WRITE_BUFFER);
    leveldb_options_set_max_open_files(l->options, KL_STORE_FILES_MAX);
}

enum kl_status kl_kv_leveldb_open(const char *dir, size_t cache_bytes, struct kl_kv **out,
                                  char *err, size_t err_len)
{
    static const struct kl_kv_ops ops = {
        .get = level_get,
        .scan = level_scan,
        .write = level_write,
        .flush = level_flush,
        .compact = level_compact,
        .snap_new = level_snap_new,
        .snap_free = level_snap_free,
        .close = level_close,
    };
    struct level *l = kl_calloc(1, sizeof *l);
    enum kl_status st;

    if (l == NULL) {
        return KL_NO_MEMORY;
    }
    l->kv.ops = &ops;
    (void)pthread_mutex_init(&l->writing, NULL);
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)pthread_cond_init(&l->idle, NULL);
    make_options(l, cache_bytes);
    l->dir = kl_strdup(dir);
    l->recent = kl_recent_new();
    st = l->dir == NULL || l->recent == NULL ? KL_NO_MEMORY : open_db(l, err, err_len);
    if (st == KL_NO_SPACE) { /* the disk was full when the node went down */
        kl_leveldb_ballast_drop(dir);
        st = open_db(l, err, err_len);
    }
    if (st != KL_OK) {
        level_close(&l->kv);
        return st;
    }
    l->state = FULL;
    take_ballast(l);
    *out = &l->kv;
    return KL_OK;
}

enum kl_status kl_kv_leveldb_destroy(const char *dir)
{
    leveldb_options_t *options = leveldb_options_create();
    char *err = NULL;
    enum kl_status st = KL_OK;

    kl_leveldb_ballast_drop(dir);
    kl_leveldb_mark_drop(dir);
    leveldb_destroy_db(options, dir, &err);
    leveldb_options_destroy(options);
    if (err != NULL) {
        st = status_of(err);
    }
    return st == KL_OK ? kl_leveldb_remove_dir(dir) : st;
}
