/*
 * Scans of a transaction: the keys of the batch that lie in the range are sorted and merged into
 * the view's scan. Scans are rare (purges, collections, sweeps), so the index is simply walked.
 */
#include "server/core/txn.h"

struct op {
    struct kl_bytes key;
    struct kl_bytes value;
    bool put;
};

struct merge {
    const struct op *ops; /* sorted */
    size_t n;
    size_t i;
    kl_scan_fn fn;
    void *arg;
    bool stopped;
};

/* Shell sort: no recursion, no memory, and no qsort, which may allocate. */
static void sort_ops(struct op *ops, size_t n)
{
    for (size_t gap = n / 2; gap > 0; gap /= 2) {
        for (size_t i = gap; i < n; i++) {
            struct op moving = ops[i];
            size_t j = i;

            for (; j >= gap && kl_bytes_cmp(ops[j - gap].key, moving.key) > 0; j -= gap) {
                ops[j] = ops[j - gap];
            }
            ops[j] = moving;
        }
    }
}

static bool in_range(struct kl_bytes key, struct kl_bytes from, struct kl_bytes to)
{
    return kl_bytes_cmp(key, from) >= 0 && (to.len == 0 || kl_bytes_cmp(key, to) < 0);
}

static enum kl_status gather(struct kl_txn *txn, struct kl_bytes from, struct kl_bytes to,
                             struct op **ops, size_t *n)
{
    struct op *list = NULL;
    size_t count = 0;

    if (txn->slots_used != 0) {
        list = kl_arena_alloc(&txn->arena, txn->slots_used * sizeof *list);
        if (list == NULL) {
            return KL_NO_MEMORY;
        }
    }
    for (size_t i = 0; i < txn->slots_n; i++) {
        size_t at = txn->slots[i].at;
        enum kl_batch_op op;
        struct op o;

        if (at == 0) {
            continue;
        }
        at--;
        if (kl_batch_next(txn->batch, &at, &op, &o.key, &o.value) && in_range(o.key, from, to)) {
            o.put = op == KL_BATCH_PUT;
            list[count++] = o;
        }
    }
    sort_ops(list, count);
    *ops = list;
    *n = count;
    return KL_OK;
}

static void emit(struct merge *m, const struct op *o)
{
    if (o->put && !m->stopped) {
        m->stopped = !m->fn(m->arg, o->key, o->value);
    }
}

static bool merge_one(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct merge *m = arg;
    int c = 1;

    while (m->i < m->n && !m->stopped) {
        c = kl_bytes_cmp(m->ops[m->i].key, key);
        if (c > 0) {
            break;
        }
        emit(m, &m->ops[m->i++]);
        if (c == 0) {
            return !m->stopped; /* the batch hides what the view holds */
        }
    }
    if (!m->stopped) {
        m->stopped = !m->fn(m->arg, key, value);
    }
    return !m->stopped;
}

enum kl_status kl_txn_scan(struct kl_txn *txn, struct kl_key from, struct kl_key to, kl_scan_fn fn,
                           void *arg)
{
    struct merge m = {.fn = fn, .arg = arg};
    struct op *ops = NULL;
    enum kl_status st;

    st = gather(txn, kl_key_bytes(&from), kl_key_bytes(&to), &ops, &m.n);
    if (st != KL_OK) {
        return st;
    }
    m.ops = ops;
    st = txn->view->scan(txn->view->ctx, kl_key_bytes(&from), kl_key_bytes(&to), merge_one, &m);
    while (st == KL_OK && m.i < m.n && !m.stopped) {
        emit(&m, &m.ops[m.i++]);
    }
    return st;
}

struct keys {
    struct kl_arena *arena;
    struct kl_bytes *keys;
    size_t n;
    size_t max;
    bool no_memory;
};

static bool take_key(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct keys *k = arg;
    uint8_t *copy = kl_arena_alloc(k->arena, key.len);

    (void)value;
    if (copy == NULL) {
        k->no_memory = true;
        return false;
    }
    memcpy(copy, key.ptr, key.len);
    k->keys[k->n++] = kl_bytes_of(copy, key.len);
    return k->n < k->max;
}

enum kl_status kl_txn_keys(struct kl_txn *txn, struct kl_key from, struct kl_key to, size_t max,
                           struct kl_bytes **keys, size_t *n)
{
    struct keys k = {.arena = &txn->arena, .max = max};
    enum kl_status st = KL_OK;

    k.keys = kl_arena_alloc(&txn->arena, max * sizeof *k.keys);
    if (k.keys == NULL) {
        return KL_NO_MEMORY;
    }
    if (max != 0) {
        st = kl_txn_scan(txn, from, to, take_key, &k);
    }
    if (st == KL_OK && k.no_memory) {
        st = KL_NO_MEMORY;
    }
    if (st == KL_OK) {
        *keys = k.keys;
        *n = k.n;
    }
    return st;
}
