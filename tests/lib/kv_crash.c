#include "tests/lib/kv_crash.h"

#include "common/alloc.h"
#include "server/store/memory.h"

#include <assert.h>
#include <pthread.h>

struct pending {
    struct pending *next;
    struct kl_batch batch;
};

/* What is on the platters: the store as the process sees it, a snapshot of what is durable, and the
 * batches between the two. */
struct content {
    struct kl_kv *live;
    struct kl_kv_snap *durable;
    struct pending *first;
    struct pending **last;
    size_t unsynced;
};

struct kv_disk {
    pthread_mutex_t lock;
    struct content content;
    unsigned long generation; /* handles of older ones are stale */
    size_t handles;
    unsigned long refuse_at; /* refusal begins at this write from now; 0 = not counting */
    bool refusing;
    enum kl_status refuse;
};

struct handle {
    struct kl_kv kv; /* first */
    struct kv_disk *disk;
    unsigned long generation;
};

/* Handed out as a kl_kv_snap, whose meaning is its store's own. */
struct wrapped_snap {
    struct kl_kv *live; /* of the content it was taken from */
    struct kl_kv_snap *snap;
};

static void forget_pending(struct content *c)
{
    while (c->first != NULL) {
        struct pending *p = c->first;

        c->first = p->next;
        kl_batch_done(&p->batch);
        kl_free(p);
    }
    c->last = &c->first;
    c->unsynced = 0;
}

/* Everything written so far is durable. */
static enum kl_status settle(struct content *c)
{
    struct kl_kv_snap *now;

    if (c->unsynced == 0) {
        return KL_OK;
    }
    now = kl_kv_snap_new(c->live);
    if (now == NULL) {
        return KL_NO_MEMORY;
    }
    kl_kv_snap_free(c->live, c->durable);
    c->durable = now;
    forget_pending(c);
    return KL_OK;
}

static enum kl_status content_init(struct content *c)
{
    enum kl_status st;

    *c = (struct content){.last = NULL};
    st = kl_kv_memory_new(&c->live);
    if (st == KL_OK) {
        c->durable = kl_kv_snap_new(c->live);
        st = c->durable == NULL ? KL_NO_MEMORY : KL_OK;
    }
    if (st != KL_OK) {
        kl_kv_close(c->live);
        c->live = NULL;
    }
    return st;
}

static void content_done(struct content *c)
{
    forget_pending(c);
    kl_kv_snap_free(c->live, c->durable);
    kl_kv_close(c->live);
}

/* ---- the store ---- */

static struct handle *handle_of(struct kl_kv *kv)
{
    return (struct handle *)kv;
}

static struct wrapped_snap *inner(struct kl_kv_snap *snap)
{
    return (struct wrapped_snap *)(void *)snap;
}

static enum kl_status alive(struct handle *h)
{
    enum kl_status st;

    (void)pthread_mutex_lock(&h->disk->lock);
    st = h->generation == h->disk->generation ? KL_OK : KL_IO;
    (void)pthread_mutex_unlock(&h->disk->lock);
    return st;
}

static enum kl_status crash_get(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes key,
                                struct kl_buf *out)
{
    struct handle *h = handle_of(kv);
    enum kl_status st = alive(h);

    if (st != KL_OK) {
        return st;
    }
    return snap == NULL ? kl_kv_get(h->disk->content.live, NULL, key, out)
                        : kl_kv_get(inner(snap)->live, inner(snap)->snap, key, out);
}

static enum kl_status crash_scan(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes from,
                                 struct kl_bytes to, kl_scan_fn fn, void *arg)
{
    struct handle *h = handle_of(kv);
    enum kl_status st = alive(h);

    if (st != KL_OK) {
        return st;
    }
    return snap == NULL ? kl_kv_scan(h->disk->content.live, NULL, from, to, fn, arg)
                        : kl_kv_scan(inner(snap)->live, inner(snap)->snap, from, to, fn, arg);
}

/* The lock is held. */
static enum kl_status refused(struct kv_disk *d, bool is_write)
{
    if (d->refuse_at != 0 && is_write) {
        d->refuse_at--;
        d->refusing = d->refuse_at == 0;
    }
    return d->refusing ? d->refuse : KL_OK;
}

static enum kl_status remember(struct content *c, const struct kl_batch *batch)
{
    struct pending *p = kl_calloc(1, sizeof *p);
    enum kl_status st;

    if (p == NULL) {
        return KL_NO_MEMORY;
    }
    kl_batch_init(&p->batch, batch->ops.max);
    st = kl_buf_put(&p->batch.ops, batch->ops.ptr, batch->ops.len);
    if (st != KL_OK) {
        kl_free(p);
        return st;
    }
    p->batch.count = batch->count;
    *c->last = p;
    c->last = &p->next;
    c->unsynced++;
    return KL_OK;
}

static enum kl_status crash_write(struct kl_kv *kv, const struct kl_batch *batch, bool sync)
{
    struct handle *h = handle_of(kv);
    struct kv_disk *d = h->disk;
    enum kl_status st = kl_batch_status(batch);

    if (st != KL_OK) {
        return st;
    }
    (void)pthread_mutex_lock(&d->lock);
    st = h->generation == d->generation ? refused(d, true) : KL_IO;
    if (st == KL_OK) {
        st = kl_kv_write(d->content.live, batch, false);
    }
    if (st == KL_OK) {
        st = remember(&d->content, batch);
    }
    if (st == KL_OK && sync) {
        st = settle(&d->content);
    }
    (void)pthread_mutex_unlock(&d->lock);
    return st;
}

static enum kl_status crash_flush(struct kl_kv *kv)
{
    struct handle *h = handle_of(kv);
    struct kv_disk *d = h->disk;
    enum kl_status st;

    (void)pthread_mutex_lock(&d->lock);
    st = h->generation == d->generation ? refused(d, false) : KL_IO;
    if (st == KL_OK) {
        st = settle(&d->content);
    }
    (void)pthread_mutex_unlock(&d->lock);
    return st;
}

static enum kl_status crash_compact(struct kl_kv *kv, struct kl_bytes from, struct kl_bytes to)
{
    (void)from;
    (void)to;
    return crash_flush(kv);
}

static struct kl_kv_snap *crash_snap_new(struct kl_kv *kv)
{
    struct handle *h = handle_of(kv);
    struct wrapped_snap *snap = NULL;

    (void)pthread_mutex_lock(&h->disk->lock);
    if (h->generation == h->disk->generation) {
        snap = kl_calloc(1, sizeof *snap);
    }
    if (snap != NULL) {
        snap->live = h->disk->content.live;
        snap->snap = kl_kv_snap_new(snap->live);
        if (snap->snap == NULL) {
            kl_free(snap);
            snap = NULL;
        }
    }
    (void)pthread_mutex_unlock(&h->disk->lock);
    return (struct kl_kv_snap *)(void *)snap;
}

static void crash_snap_free(struct kl_kv *kv, struct kl_kv_snap *snap)
{
    (void)kv;
    kl_kv_snap_free(inner(snap)->live, inner(snap)->snap);
    kl_free(snap);
}

static void crash_close(struct kl_kv *kv)
{
    struct handle *h = handle_of(kv);

    (void)pthread_mutex_lock(&h->disk->lock);
    h->disk->handles--;
    (void)pthread_mutex_unlock(&h->disk->lock);
    kl_free(h);
}

/* ---- the disk ---- */

enum kl_status kv_disk_new(struct kv_disk **out)
{
    struct kv_disk *d = kl_calloc(1, sizeof *d);
    enum kl_status st;

    if (d == NULL) {
        return KL_NO_MEMORY;
    }
    st = content_init(&d->content);
    if (st != KL_OK) {
        kl_free(d);
        return st;
    }
    d->content.last = &d->content.first;
    (void)pthread_mutex_init(&d->lock, NULL);
    *out = d;
    return KL_OK;
}

void kv_disk_free(struct kv_disk *disk)
{
    if (disk != NULL) {
        assert(disk->handles == 0);
        content_done(&disk->content);
        (void)pthread_mutex_destroy(&disk->lock);
        kl_free(disk);
    }
}

enum kl_status kv_disk_open(struct kv_disk *disk, struct kl_kv **out)
{
    static const struct kl_kv_ops ops = {
        .get = crash_get,
        .scan = crash_scan,
        .write = crash_write,
        .flush = crash_flush,
        .compact = crash_compact,
        .snap_new = crash_snap_new,
        .snap_free = crash_snap_free,
        .close = crash_close,
    };
    struct handle *h = kl_calloc(1, sizeof *h);

    if (h == NULL) {
        return KL_NO_MEMORY;
    }
    h->kv.ops = &ops;
    h->disk = disk;
    (void)pthread_mutex_lock(&disk->lock);
    h->generation = ++disk->generation;
    disk->handles++;
    (void)pthread_mutex_unlock(&disk->lock);
    *out = &h->kv;
    return KL_OK;
}

size_t kv_disk_unsynced(struct kv_disk *disk)
{
    size_t n;

    (void)pthread_mutex_lock(&disk->lock);
    n = disk->content.unsynced;
    (void)pthread_mutex_unlock(&disk->lock);
    return n;
}

void kv_disk_crash(struct kv_disk *disk, size_t keep)
{
    struct content *c = &disk->content;

    (void)pthread_mutex_lock(&disk->lock);
    disk->generation++;
    kl_kv_memory_revert(c->live, c->durable);
    for (struct pending *p = c->first; p != NULL && keep > 0; p = p->next, keep--) {
        enum kl_status st = kl_kv_write(c->live, &p->batch, false);

        assert(st == KL_OK); /* tests do not fail allocations here */
    }
    c->unsynced++; /* what is left is what the disk holds now */
    if (settle(c) != KL_OK) {
        assert(!"out of memory");
    }
    (void)pthread_mutex_unlock(&disk->lock);
}

void kv_disk_refuse(struct kv_disk *disk, unsigned long n, enum kl_status status)
{
    (void)pthread_mutex_lock(&disk->lock);
    disk->refuse_at = n;
    disk->refusing = false;
    disk->refuse = status;
    (void)pthread_mutex_unlock(&disk->lock);
}

void kv_disk_wipe(struct kv_disk *disk)
{
    struct content fresh;
    enum kl_status st = content_init(&fresh);

    assert(st == KL_OK && disk->handles == 0);
    content_done(&disk->content);
    disk->content = fresh;
    disk->content.last = &disk->content.first;
    disk->generation++;
}

static void fix_last(struct content *c)
{
    c->last = &c->first;
    while (*c->last != NULL) {
        c->last = &(*c->last)->next;
    }
}

void kv_disk_swap(struct kv_disk *a, struct kv_disk *b)
{
    struct content c = a->content;

    a->content = b->content;
    b->content = c;
    fix_last(&a->content);
    fix_last(&b->content);
    if (settle(&a->content) != KL_OK || settle(&b->content) != KL_OK) {
        assert(!"out of memory");
    }
    a->generation++;
    b->generation++;
}
