/*
 * A store in memory: an AVL tree whose nodes are shared between versions. A write copies the nodes
 * on its path that a snapshot (or a reader) also holds and changes the others in place, so a
 * snapshot is one reference and a write without snapshots copies nothing.
 *
 * All reference counts are guarded by the lock. Nodes reachable from a root somebody holds never
 * change, so reading them needs no lock: a writer sees a count above 1 somewhere on the path before
 * it reaches them, and copies from there on.
 *
 * A write is all or nothing: nodes for the next operation are reserved beforehand, so that the tree
 * is never half changed, and the old root is kept until the batch is through.
 */
#include "server/store/memory.h"

#include "common/alloc.h"

#include <assert.h>
#include <pthread.h>

/* An AVL tree of height 64 holds more than 2^44 records. One operation takes at most a copy of each
 * node on the path, and two more per level for rotations. */
enum { HEIGHT_MAX = 64, NODES_PER_OP = HEIGHT_MAX * 3 };

struct record {
    size_t refs;
    size_t key_len;
    size_t value_len;
    uint8_t bytes[]; /* key, value */
};

struct node {
    size_t refs;
    int height;
    struct node *child[2];
    struct record *record;
};

struct memory {
    struct kl_kv kv; /* first */
    pthread_mutex_t lock;
    struct node *root;
    struct node *spare; /* free nodes, linked by child[0] */
    size_t spare_n;
};

struct kl_kv_snap {
    struct node *root;
};

static struct kl_bytes key_of(const struct record *r)
{
    return kl_bytes_of(r->bytes, r->key_len);
}

static struct kl_bytes value_of(const struct record *r)
{
    return kl_bytes_of(r->bytes + r->key_len, r->value_len);
}

/* ---- nodes; the lock is held ---- */

static struct record *record_new(struct kl_bytes key, struct kl_bytes value)
{
    struct record *r = kl_malloc(sizeof *r + key.len + value.len);

    if (r != NULL) {
        *r = (struct record){.refs = 1, .key_len = key.len, .value_len = value.len};
        if (key.len != 0) {
            memcpy(r->bytes, key.ptr, key.len);
        }
        if (value.len != 0) {
            memcpy(r->bytes + key.len, value.ptr, value.len);
        }
    }
    return r;
}

static void record_drop(struct record *r)
{
    if (--r->refs == 0) {
        kl_free(r);
    }
}

static enum kl_status reserve(struct memory *m)
{
    while (m->spare_n < NODES_PER_OP) {
        struct node *n = kl_malloc(sizeof *n);

        if (n == NULL) {
            return KL_NO_MEMORY;
        }
        n->child[0] = m->spare;
        m->spare = n;
        m->spare_n++;
    }
    return KL_OK;
}

static struct node *node_take(struct memory *m)
{
    struct node *n = m->spare;

    assert(n != NULL);
    m->spare = n->child[0];
    m->spare_n--;
    return n;
}

static void node_give(struct memory *m, struct node *n)
{
    if (m->spare_n < 2 * (size_t)NODES_PER_OP) {
        n->child[0] = m->spare;
        m->spare = n;
        m->spare_n++;
    } else {
        kl_free(n);
    }
}

/* Recursion is as deep as the tree is high. */
static void tree_drop(struct memory *m, struct node *n)
{
    if (n != NULL && --n->refs == 0) {
        tree_drop(m, n->child[0]);
        tree_drop(m, n->child[1]);
        record_drop(n->record);
        node_give(m, n);
    }
}

/* The node, ours alone: itself when nobody shares it, else a copy that takes over our reference. */
static struct node *own(struct memory *m, struct node *n)
{
    struct node *copy;

    if (n->refs == 1) {
        return n;
    }
    copy = node_take(m);
    *copy = *n;
    copy->refs = 1;
    copy->record->refs++;
    for (int i = 0; i < 2; i++) {
        if (copy->child[i] != NULL) {
            copy->child[i]->refs++;
        }
    }
    n->refs--;
    return copy;
}

static int height(const struct node *n)
{
    return n == NULL ? 0 : n->height;
}

static void measure(struct node *n)
{
    int a = height(n->child[0]);
    int b = height(n->child[1]);

    n->height = 1 + (a > b ? a : b);
}

/* Raises n->child[side] above n, which is ours. */
static struct node *rotate(struct memory *m, struct node *n, int side)
{
    struct node *up = own(m, n->child[side]);

    n->child[side] = up->child[!side];
    up->child[!side] = n;
    measure(n);
    measure(up);
    return up;
}

/* Restores the balance of n, which is ours and off by at most 2. */
static struct node *balance(struct memory *m, struct node *n)
{
    int lean = height(n->child[1]) - height(n->child[0]);
    int side = lean > 0;

    if (lean >= -1 && lean <= 1) {
        measure(n);
        return n;
    }
    n->child[side] = own(m, n->child[side]);
    if (height(n->child[side]->child[!side]) > height(n->child[side]->child[side])) {
        n->child[side] = rotate(m, n->child[side], !side);
    }
    return rotate(m, n, side);
}

static struct node *insert(struct memory *m, struct node *n, struct record *r)
{
    int c;

    if (n == NULL) {
        n = node_take(m);
        *n = (struct node){.refs = 1, .height = 1, .record = r};
        return n;
    }
    n = own(m, n);
    c = kl_bytes_cmp(key_of(r), key_of(n->record));
    if (c == 0) {
        record_drop(n->record);
        n->record = r;
        return n;
    }
    n->child[c > 0] = insert(m, n->child[c > 0], r);
    return balance(m, n);
}

/* Takes the smallest record out of n; its reference becomes the caller's. */
static struct node *take_first(struct memory *m, struct node *n, struct record **first)
{
    struct node *rest;

    n = own(m, n);
    if (n->child[0] == NULL) {
        rest = n->child[1];
        *first = n->record;
        node_give(m, n);
        return rest;
    }
    n->child[0] = take_first(m, n->child[0], first);
    return balance(m, n);
}

/* The key is in the tree. */
static struct node *erase(struct memory *m, struct node *n, struct kl_bytes key)
{
    int c;

    n = own(m, n);
    c = kl_bytes_cmp(key, key_of(n->record));
    if (c != 0) {
        n->child[c > 0] = erase(m, n->child[c > 0], key);
        return balance(m, n);
    }
    record_drop(n->record);
    if (n->child[0] == NULL || n->child[1] == NULL) {
        struct node *rest = n->child[n->child[0] == NULL];

        node_give(m, n);
        return rest;
    }
    n->child[1] = take_first(m, n->child[1], &n->record);
    return balance(m, n);
}

static const struct record *find(const struct node *n, struct kl_bytes key)
{
    while (n != NULL) {
        int c = kl_bytes_cmp(key, key_of(n->record));

        if (c == 0) {
            return n->record;
        }
        n = n->child[c > 0];
    }
    return NULL;
}

/* ---- the interface ---- */

static struct memory *memory_of(struct kl_kv *kv)
{
    return (struct memory *)kv;
}

static struct node *hold(struct memory *m, const struct kl_kv_snap *snap)
{
    struct node *root;

    (void)pthread_mutex_lock(&m->lock);
    root = snap == NULL ? m->root : snap->root;
    if (root != NULL) {
        root->refs++;
    }
    (void)pthread_mutex_unlock(&m->lock);
    return root;
}

static void let_go(struct memory *m, struct node *root)
{
    (void)pthread_mutex_lock(&m->lock);
    tree_drop(m, root);
    (void)pthread_mutex_unlock(&m->lock);
}

static enum kl_status memory_get(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes key,
                                 struct kl_buf *out)
{
    struct memory *m = memory_of(kv);
    struct node *root = hold(m, snap);
    const struct record *r = find(root, key);
    enum kl_status st = KL_NOT_FOUND;

    if (r != NULL) {
        kl_buf_clear(out);
        st = kl_buf_put(out, value_of(r).ptr, r->value_len);
    }
    let_go(m, root);
    return st;
}

static enum kl_status memory_scan(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes from,
                                  struct kl_bytes to, kl_scan_fn fn, void *arg)
{
    struct memory *m = memory_of(kv);
    struct node *root = hold(m, snap);
    const struct node *path[HEIGHT_MAX];
    size_t depth = 0;

    /* The path holds the nodes that are still to come, the next one on top. */
    for (const struct node *n = root; n != NULL;) {
        bool before = kl_bytes_cmp(key_of(n->record), from) < 0;

        if (!before) {
            path[depth++] = n;
        }
        n = n->child[before];
    }
    while (depth > 0) {
        const struct node *n = path[--depth];

        if (to.len != 0 && kl_bytes_cmp(key_of(n->record), to) >= 0) {
            break;
        }
        if (!fn(arg, key_of(n->record), value_of(n->record))) {
            break;
        }
        for (const struct node *c = n->child[1]; c != NULL; c = c->child[0]) {
            path[depth++] = c;
        }
    }
    let_go(m, root);
    return KL_OK;
}

static enum kl_status carry_out(struct memory *m, enum kl_batch_op op, struct kl_bytes key,
                                struct kl_bytes value)
{
    enum kl_status st = reserve(m);
    struct record *r;

    if (st != KL_OK) {
        return st;
    }
    if (op == KL_BATCH_DEL) {
        if (find(m->root, key) != NULL) {
            m->root = erase(m, m->root, key);
        }
        return KL_OK;
    }
    r = record_new(key, value);
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    m->root = insert(m, m->root, r);
    return KL_OK;
}

static enum kl_status memory_write(struct kl_kv *kv, const struct kl_batch *batch, bool sync)
{
    struct memory *m = memory_of(kv);
    enum kl_status st = kl_batch_status(batch);
    struct node *old;
    struct kl_bytes key;
    struct kl_bytes value;
    enum kl_batch_op op;
    size_t pos = 0;

    (void)sync;
    if (st != KL_OK) {
        return st;
    }
    (void)pthread_mutex_lock(&m->lock);
    old = m->root;
    if (old != NULL) {
        old->refs++; /* to come back to */
    }
    while (st == KL_OK && kl_batch_next(batch, &pos, &op, &key, &value)) {
        st = carry_out(m, op, key, value);
    }
    if (st != KL_OK) {
        tree_drop(m, m->root);
        m->root = old;
    } else {
        tree_drop(m, old);
    }
    (void)pthread_mutex_unlock(&m->lock);
    return st;
}

static enum kl_status memory_flush(struct kl_kv *kv)
{
    (void)kv;
    return KL_OK;
}

static enum kl_status memory_compact(struct kl_kv *kv, struct kl_bytes from, struct kl_bytes to)
{
    (void)kv;
    (void)from;
    (void)to;
    return KL_OK;
}

static struct kl_kv_snap *memory_snap_new(struct kl_kv *kv)
{
    struct kl_kv_snap *snap = kl_malloc(sizeof *snap);

    if (snap != NULL) {
        snap->root = hold(memory_of(kv), NULL);
    }
    return snap;
}

static void memory_snap_free(struct kl_kv *kv, struct kl_kv_snap *snap)
{
    let_go(memory_of(kv), snap->root);
    kl_free(snap);
}

static void memory_close(struct kl_kv *kv)
{
    struct memory *m = memory_of(kv);

    tree_drop(m, m->root);
    while (m->spare != NULL) {
        struct node *next = m->spare->child[0];

        kl_free(m->spare);
        m->spare = next;
    }
    (void)pthread_mutex_destroy(&m->lock);
    kl_free(m);
}

void kl_kv_memory_revert(struct kl_kv *kv, const struct kl_kv_snap *snap)
{
    struct memory *m = memory_of(kv);
    struct node *old;

    (void)pthread_mutex_lock(&m->lock);
    old = m->root;
    m->root = snap->root;
    if (m->root != NULL) {
        m->root->refs++;
    }
    tree_drop(m, old);
    (void)pthread_mutex_unlock(&m->lock);
}

enum kl_status kl_kv_memory_new(struct kl_kv **out)
{
    static const struct kl_kv_ops ops = {
        .get = memory_get,
        .scan = memory_scan,
        .write = memory_write,
        .flush = memory_flush,
        .compact = memory_compact,
        .snap_new = memory_snap_new,
        .snap_free = memory_snap_free,
        .close = memory_close,
    };
    struct memory *m = kl_calloc(1, sizeof *m);

    if (m == NULL) {
        return KL_NO_MEMORY;
    }
    m->kv.ops = &ops;
    (void)pthread_mutex_init(&m->lock, NULL);
    *out = &m->kv;
    return KL_OK;
}
