/*
 * The store of one group: ordered keys and values, atomic batches, snapshots. LevelDB for nodes,
 * memory for tests and simulations; tests wrap either to lose, tear or refuse writes.
 */
#ifndef KL_KV_H
#define KL_KV_H

#include "common/batch.h"
#include "common/view.h"

struct kl_kv;
struct kl_kv_snap;

struct kl_kv_ops {
    enum kl_status (*get)(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes key,
                          struct kl_buf *out);
    enum kl_status (*scan)(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes from,
                           struct kl_bytes to, kl_scan_fn fn, void *arg);
    enum kl_status (*write)(struct kl_kv *kv, const struct kl_batch *batch, bool sync);
    enum kl_status (*flush)(struct kl_kv *kv);
    enum kl_status (*compact)(struct kl_kv *kv, struct kl_bytes from, struct kl_bytes to);
    struct kl_kv_snap *(*snap_new)(struct kl_kv *kv); /* NULL: out of memory */
    void (*snap_free)(struct kl_kv *kv, struct kl_kv_snap *snap);
    void (*close)(struct kl_kv *kv);
};

/* Implementations embed this first. */
struct kl_kv {
    const struct kl_kv_ops *ops;
    /* Told when a read finds stored bytes damaged (KL_CORRUPT) or unreadable (KL_IO), before the
     * read returns that; on any thread. Set it before the store is used; NULL = nobody. */
    void (*fault)(void *ctx, enum kl_status status, const char *why);
    void *fault_ctx;
};

/*
 * All calls may block on the disk and are safe from any thread.
 *
 * get    replaces *out. KL_NOT_FOUND; faults KL_IO, KL_CORRUPT, KL_NO_MEMORY. snap NULL = newest.
 * write  all of the batch or nothing; sync: on stable storage when it returns. KL_NO_SPACE when
 *        the disk is full: nothing was done and the store still reads.
 * flush  everything written so far is on stable storage when it returns, whatever `sync` was.
 * snap   an unchanging view until freed.
 */
static inline enum kl_status kl_kv_get(struct kl_kv *kv, struct kl_kv_snap *snap,
                                       struct kl_bytes key, struct kl_buf *out)
{
    return kv->ops->get(kv, snap, key, out);
}
static inline enum kl_status kl_kv_scan(struct kl_kv *kv, struct kl_kv_snap *snap,
                                        struct kl_bytes from, struct kl_bytes to, kl_scan_fn fn,
                                        void *arg)
{
    return kv->ops->scan(kv, snap, from, to, fn, arg);
}
static inline enum kl_status kl_kv_write(struct kl_kv *kv, const struct kl_batch *batch, bool sync)
{
    return kv->ops->write(kv, batch, sync);
}
static inline enum kl_status kl_kv_flush(struct kl_kv *kv)
{
    return kv->ops->flush(kv);
}
static inline enum kl_status kl_kv_compact(struct kl_kv *kv, struct kl_bytes from,
                                           struct kl_bytes to)
{
    return kv->ops->compact(kv, from, to);
}
static inline struct kl_kv_snap *kl_kv_snap_new(struct kl_kv *kv)
{
    return kv->ops->snap_new(kv);
}
static inline void kl_kv_snap_free(struct kl_kv *kv, struct kl_kv_snap *snap)
{
    if (snap != NULL) {
        kv->ops->snap_free(kv, snap);
    }
}
static inline void kl_kv_close(struct kl_kv *kv)
{
    if (kv != NULL) {
        kv->ops->close(kv);
    }
}

/* A view for server/core over a store (snap may be NULL). Borrows both. */
struct kl_kv_view {
    struct kl_kv *kv;
    struct kl_kv_snap *snap;
};
struct kl_view kl_kv_view(struct kl_kv_view *v);

/* LevelDB in a directory of its own (made when missing). err gets a line for people: KL_CORRUPT
 * with what to do, KL_IO, KL_NO_SPACE. cache_bytes bounds the block cache. */
KL_MUST_USE enum kl_status kl_kv_leveldb_open(const char *dir, size_t cache_bytes,
                                              struct kl_kv **out, char *err, size_t err_len);
/* Removes a LevelDB directory that is not open. KL_OK also when there is none. */
KL_MUST_USE enum kl_status kl_kv_leveldb_destroy(const char *dir);

/* An empty store in memory. */
KL_MUST_USE enum kl_status kl_kv_memory_new(struct kl_kv **out);

/* SHA-256 over all records in key order (be32 key length, key, be32 value length, value). */
KL_MUST_USE enum kl_status kl_kv_digest(struct kl_kv *kv, struct kl_kv_snap *snap, uint8_t out[32],
                                        uint64_t *records);

#endif
