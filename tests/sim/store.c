#include "tests/sim/store.h"

#include "tests/sim/parts.h"

#include "common/limits.h"

#include <assert.h>
#include <string.h>

/*
 * A treap whose nodes are shared by snapshots and copied only when somebody else holds them. A
 * record is shared by the trees and by the undo list of unsynced writes.
 */
struct sim_record {
    uint32_t refs, key_len, value_len;
    uint64_t prio, hash;
    uint8_t bytes[]; /* key, value */
};

struct sim_leaf {
    uint32_t refs;
    struct sim_record *record;
    struct sim_leaf *left, *right;
};

/* How to take back one put or delete; `first` begins a batch. */
struct sim_undo {
    struct sim_record *key;    /* names the key */
    struct sim_record *before; /* NULL: there was none */
    bool first;
};

struct kl_kv_snap {
    struct kl_kv_snap *next;
    struct sim_leaf *root;
};

static struct sim_heap *heap_of(struct sim_store *s)
{
    return &s->w->heap;
}

static struct kl_bytes key_of(const struct sim_record *r)
{
    return (struct kl_bytes){r->bytes, r->key_len};
}

static struct kl_bytes value_of(const struct sim_record *r)
{
    return (struct kl_bytes){r->bytes + r->key_len, r->value_len};
}

static struct sim_record *record_new(struct sim_store *s, struct kl_bytes key,
                                     struct kl_bytes value)
{
    struct sim_record *r = sim_alloc(heap_of(s), sizeof *r + key.len + value.len);

    *r = (struct sim_record){
        .refs = 1, .key_len = (uint32_t)key.len, .value_len = (uint32_t)value.len};
    memcpy(r->bytes, key.ptr, key.len);
    if (value.len != 0) {
        memcpy(r->bytes + key.len, value.ptr, value.len);
    }
    r->prio = sim_hash(key.ptr, key.len);
    r->hash = sim_mix(r->prio + 3 * sim_hash(r->bytes + key.len, value.len));
    return r;
}

static struct sim_record *record_ref(struct sim_record *r)
{
    if (r != NULL) {
        r->refs++;
    }
    return r;
}

static void record_drop(struct sim_record *r)
{
    if (r != NULL && --r->refs == 0) {
        sim_free(r);
    }
}

static struct sim_leaf *leaf_ref(struct sim_leaf *t)
{
    if (t != NULL) {
        t->refs++;
    }
    return t;
}

static void leaf_drop(struct sim_leaf *t)
{
    if (t != NULL && --t->refs == 0) {
        leaf_drop(t->left);
        leaf_drop(t->right);
        record_drop(t->record);
        sim_free(t);
    }
}

/* A leaf that only the caller holds, with the same content; takes t. */
static struct sim_leaf *leaf_own(struct sim_store *s, struct sim_leaf *t)
{
    struct sim_leaf *copy;

    if (t->refs == 1) {
        return t;
    }
    copy = sim_alloc(heap_of(s), sizeof *copy);
    *copy = (struct sim_leaf){1, record_ref(t->record), leaf_ref(t->left), leaf_ref(t->right)};
    leaf_drop(t);
    return copy;
}

static struct sim_leaf *merge(struct sim_store *s, struct sim_leaf *a, struct sim_leaf *b)
{
    if (a == NULL || b == NULL) {
        return a == NULL ? b : a;
    }
    if (a->record->prio > b->record->prio) {
        a = leaf_own(s, a);
        a->right = merge(s, a->right, b);
        return a;
    }
    b = leaf_own(s, b);
    b->left = merge(s, a, b->left);
    return b;
}

/* Splits t (taken) into keys below `key` and keys above; the key itself must not be in it. */
static void split(struct sim_store *s, struct sim_leaf *t, struct kl_bytes key,
                  struct sim_leaf **below, struct sim_leaf **above)
{
    if (t == NULL) {
        *below = NULL;
        *above = NULL;
        return;
    }
    t = leaf_own(s, t);
    if (kl_bytes_cmp(key_of(t->record), key) < 0) {
        split(s, t->right, key, &t->right, above);
        *below = t;
    } else {
        split(s, t->left, key, below, &t->left);
        *above = t;
    }
}

static struct sim_record *find(const struct sim_leaf *t, struct kl_bytes key)
{
    while (t != NULL) {
        int c = kl_bytes_cmp(key, key_of(t->record));

        if (c == 0) {
            return t->record;
        }
        t = c < 0 ? t->left : t->right;
    }
    return NULL;
}

/* Replaces the record of a key that is there. */
static struct sim_leaf *replace(struct sim_store *s, struct sim_leaf *t, struct sim_record *r)
{
    int c;

    t = leaf_own(s, t);
    c = kl_bytes_cmp(key_of(r), key_of(t->record));
    if (c == 0) {
        record_drop(t->record);
        t->record = r;
    } else if (c < 0) {
        t->left = replace(s, t->left, r);
    } else {
        t->right = replace(s, t->right, r);
    }
    return t;
}

/* Inserts a key that is not there. */
static struct sim_leaf *insert(struct sim_store *s, struct sim_leaf *t, struct sim_leaf *leaf)
{
    if (t == NULL || leaf->record->prio > t->record->prio) {
        split(s, t, key_of(leaf->record), &leaf->left, &leaf->right);
        return leaf;
    }
    t = leaf_own(s, t);
    if (kl_bytes_cmp(key_of(leaf->record), key_of(t->record)) < 0) {
        t->left = insert(s, t->left, leaf);
    } else {
        t->right = insert(s, t->right, leaf);
    }
    return t;
}

static struct sim_leaf *erase(struct sim_store *s, struct sim_leaf *t, struct kl_bytes key)
{
    int c;

    t = leaf_own(s, t);
    c = kl_bytes_cmp(key, key_of(t->record));
    if (c == 0) {
        struct sim_leaf *rest;
        struct sim_leaf *left = leaf_ref(t->left);
        struct sim_leaf *right = leaf_ref(t->right);

        leaf_drop(t);
        rest = merge(s, left, right);
        return rest;
    }
    if (c < 0) {
        t->left = erase(s, t->left, key);
    } else {
        t->right = erase(s, t->right, key);
    }
    return t;
}

/* Puts a record (taken) or, with value_too false, deletes its key; returns what was there. */
static struct sim_record *apply(struct sim_store *s, struct sim_record *r, bool put)
{
    struct sim_record *old = record_ref(find(s->root, key_of(r)));

    s->hash -= old == NULL ? 0 : old->hash;
    s->records -= old == NULL ? 0 : 1;
    if (put) {
        s->hash += r->hash;
        s->records++;
        if (old != NULL) {
            s->root = replace(s, s->root, r);
        } else {
            struct sim_leaf *leaf = sim_alloc(heap_of(s), sizeof *leaf);

            *leaf = (struct sim_leaf){1, r, NULL, NULL};
            s->root = insert(s, s->root, leaf);
        }
    } else {
        if (old != NULL) {
            s->root = erase(s, s->root, key_of(r));
        }
        record_drop(r);
    }
    return old;
}

/* ---- unsynced writes ---- */

static void undo_push(struct sim_store *s, struct sim_record *key, struct sim_record *before,
                      bool first)
{
    if (s->undo_n == s->undo_cap) {
        size_t cap = s->undo_cap == 0 ? 256 : s->undo_cap * 2;
        struct sim_undo *undo = sim_alloc(heap_of(s), cap * sizeof *undo);

        if (s->undo_n != 0) {
            memcpy(undo, s->undo, s->undo_n * sizeof *undo);
        }
        sim_free(s->undo);
        s->undo = undo;
        s->undo_cap = cap;
    }
    s->undo[s->undo_n++] = (struct sim_undo){key, before, first};
}

static void undo_forget(struct sim_store *s)
{
    for (size_t i = 0; i < s->undo_n; i++) {
        record_drop(s->undo[i].key);
        record_drop(s->undo[i].before);
    }
    s->undo_n = 0;
    s->batches = 0;
}

/* Takes the newest unsynced batch back. */
static void undo_one(struct sim_store *s)
{
    bool first = false;

    while (!first) {
        struct sim_undo u = s->undo[--s->undo_n];

        first = u.first;
        record_drop(u.before == NULL ? apply(s, u.key, false) : apply(s, u.before, true));
        record_drop(u.before == NULL ? NULL : u.key);
    }
    s->batches--;
}

/* ---- kl_kv ---- */

static struct sim_store *store_of(struct kl_kv *kv)
{
    return (struct sim_store *)kv;
}

static enum kl_status kv_get(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes key,
                             struct kl_buf *out)
{
    struct sim_store *s = store_of(kv);
    struct sim_record *r = find(snap == NULL ? s->root : snap->root, key);

    assert(s->open);
    if (r == NULL) {
        return KL_NOT_FOUND;
    }
    kl_buf_clear(out);
    return kl_buf_put(out, value_of(r).ptr, r->value_len);
}

/* In order, from <= key < to. false: fn had enough. */
static bool scan_tree(const struct sim_leaf *t, struct kl_bytes from, struct kl_bytes to,
                      kl_scan_fn fn, void *arg)
{
    bool low;
    bool high;

    if (t == NULL) {
        return true;
    }
    low = kl_bytes_cmp(key_of(t->record), from) >= 0;
    high = to.len == 0 || kl_bytes_cmp(key_of(t->record), to) < 0;
    if (low && !scan_tree(t->left, from, to, fn, arg)) {
        return false;
    }
    if (low && high && !fn(arg, key_of(t->record), value_of(t->record))) {
        return false;
    }
    return !high || scan_tree(t->right, from, to, fn, arg);
}

static enum kl_status kv_scan(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes from,
                              struct kl_bytes to, kl_scan_fn fn, void *arg)
{
    struct sim_store *s = store_of(kv);
    struct sim_leaf *root = leaf_ref(snap == NULL ? s->root : snap->root);

    assert(s->open);
    (void)scan_tree(root, from, to, fn, arg); /* on a tree of its own: fn may write */
    leaf_drop(root);
    return KL_OK;
}

static enum kl_status kv_write(struct kl_kv *kv, const struct kl_batch *batch, bool sync)
{
    struct sim_store *s = store_of(kv);
    enum kl_batch_op op;
    struct kl_bytes key;
    struct kl_bytes value;
    struct sim_record *r;
    struct sim_record *old;
    size_t pos = 0;
    bool first = true;

    assert(s->open);
    sim_step(s->w);
    if (s->full && sim_chance(&s->w->rng, 500)) {
        return KL_NO_SPACE;
    }
    if (s->fail_next) {
        s->fail_next = false;
        return KL_IO;
    }
    if (!s->staged) {
        sim_watch_batch(s->w, s->replica, batch);
    }
    while (kl_batch_next(batch, &pos, &op, &key, &value)) {
        if (s->w->options.sabotage == SIM_SABOTAGE_DIVERGE && key.ptr[0] == 'o' &&
            sim_chance(&s->w->rng, 5)) {
            continue;
        }
        r = record_ref(record_new(s, key, value));
        old = apply(s, r, op == KL_BATCH_PUT);

        undo_push(s, r, old, first);
        first = false;
    }
    s->batches += first ? 0 : 1;
    if (sync) {
        undo_forget(s);
    }
    if (!s->staged) {
        sim_watch_state(s->w, s->replica);
    }
    sim_step(s->w);
    return KL_OK;
}

static enum kl_status kv_flush(struct kl_kv *kv)
{
    struct sim_store *s = store_of(kv);

    assert(s->open);
    sim_step(s->w);
    if (s->full && sim_chance(&s->w->rng, 500)) {
        return KL_NO_SPACE;
    }
    undo_forget(s);
    return KL_OK;
}

static enum kl_status kv_compact(struct kl_kv *kv, struct kl_bytes from, struct kl_bytes to)
{
    (void)from;
    (void)to;
    return kv_flush(kv);
}

static struct kl_kv_snap *kv_snap_new(struct kl_kv *kv)
{
    struct sim_store *s = store_of(kv);
    struct kl_kv_snap *snap = sim_alloc(heap_of(s), sizeof *snap);

    assert(s->open);
    *snap = (struct kl_kv_snap){s->snaps, leaf_ref(s->root)};
    s->snaps = snap;
    return snap;
}

static void kv_snap_free(struct kl_kv *kv, struct kl_kv_snap *snap)
{
    struct sim_store *s = store_of(kv);
    struct kl_kv_snap **at = &s->snaps;

    while (*at != snap) {
        assert(*at != NULL); /* a snapshot of another store, or freed twice */
        at = &(*at)->next;
    }
    *at = snap->next;
    leaf_drop(snap->root);
    sim_free(snap);
}

static void kv_close(struct kl_kv *kv)
{
    struct sim_store *s = store_of(kv);

    assert(s->open);
    if (s->snaps != NULL) {
        sim_fail(s->w, "n%llu closes a store that still has snapshots",
                 (unsigned long long)s->replica->node->id);
    }
    s->open = false;
}

void sim_store_init(struct sim_store *s, struct sim_world *w, struct sim_replica *r, bool staged)
{
    static const struct kl_kv_ops ops = {kv_get,     kv_scan,     kv_write,     kv_flush,
                                         kv_compact, kv_snap_new, kv_snap_free, kv_close};

    *s = (struct sim_store){.kv = {.ops = &ops}, .w = w, .replica = r, .staged = staged};
}

static void drop_snaps(struct sim_store *s)
{
    while (s->snaps != NULL) {
        struct kl_kv_snap *snap = s->snaps;

        s->snaps = snap->next;
        leaf_drop(snap->root);
        sim_free(snap);
    }
}

void sim_store_clear(struct sim_store *s)
{
    drop_snaps(s);
    undo_forget(s);
    sim_free(s->undo);
    leaf_drop(s->root);
    sim_store_init(s, s->w, s->replica, s->staged);
}

void sim_store_crash(struct sim_store *s, struct sim_rng *rng, bool power)
{
    drop_snaps(s);
    s->open = false;
    if (power && s->batches != 0) {
        uint64_t lost = sim_chance(rng, 300) ? s->batches : sim_below(rng, s->batches + 1);

        while (lost-- > 0) {
            undo_one(s);
        }
        undo_forget(s); /* what is left was on the disk after all */
    }
}

void sim_store_swap(struct sim_store *to, struct sim_store *from)
{
    assert(!to->open && !from->open && to->snaps == NULL && from->snaps == NULL);
    undo_forget(to);
    leaf_drop(to->root);
    to->root = from->root;
    to->hash = from->hash;
    to->records = from->records;
    /* What the staged store had not synced is still not synced. */
    sim_free(to->undo);
    to->undo = from->undo;
    to->undo_n = from->undo_n;
    to->undo_cap = from->undo_cap;
    to->batches = from->batches;
    from->root = NULL;
    from->hash = 0;
    from->records = 0;
    from->undo = NULL;
    from->undo_n = from->undo_cap = 0;
    from->batches = 0;
}

struct kl_bytes sim_store_peek(const struct sim_store *s, struct kl_bytes key)
{
    struct sim_record *r = find(s->root, key);

    return r == NULL ? (struct kl_bytes){NULL, 0} : value_of(r);
}
