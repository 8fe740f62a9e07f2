#include "server/store/recent.h"

#include "common/alloc.h"
#include "common/limits.h"

#include <pthread.h>
#include <stdatomic.h>

enum { LOCKS = 16 }; /* KL_RECENT_SLOTS is a multiple */

struct slot {
    uint64_t changed; /* the last write that touched any key that belongs here */
    uint64_t since;   /* the write from which on the value was true */
    uint8_t *bytes;   /* key, then value; NULL: nothing was ever kept */
    uint16_t key_len;
    uint16_t value_len;
    bool valid; /* otherwise bytes are of a record that was written over or deleted */
};

struct kl_recent {
    atomic_ullong done; /* writes */
    pthread_mutex_t locks[LOCKS];
    struct slot slots[KL_RECENT_SLOTS];
};

struct kl_recent *kl_recent_new(void)
{
    struct kl_recent *r = kl_calloc(1, sizeof *r);

    for (size_t i = 0; r != NULL && i < LOCKS; i++) {
        (void)pthread_mutex_init(&r->locks[i], NULL);
    }
    return r;
}

void kl_recent_free(struct kl_recent *r)
{
    if (r == NULL) {
        return;
    }
    for (size_t i = 0; i < KL_RECENT_SLOTS; i++) {
        kl_free(r->slots[i].bytes);
    }
    for (size_t i = 0; i < LOCKS; i++) {
        (void)pthread_mutex_destroy(&r->locks[i]);
    }
    kl_free(r);
}

uint64_t kl_recent_now(const struct kl_recent *r)
{
    return atomic_load(&r->done);
}

/* The key's slot, locked. FNV-1a: whoever makes keys collide only makes them slower. */
static struct slot *take(struct kl_recent *r, struct kl_bytes key)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < key.len; i++) {
        h = (h ^ key.ptr[i]) * 16777619u;
    }
    h = (h ^ h >> 15) % KL_RECENT_SLOTS;
    (void)pthread_mutex_lock(&r->locks[h % LOCKS]);
    return &r->slots[h];
}

static void give(struct kl_recent *r, const struct slot *s)
{
    (void)pthread_mutex_unlock(&r->locks[(size_t)(s - r->slots) % LOCKS]);
}

static bool holds(const struct slot *s, struct kl_bytes key)
{
    return s->bytes != NULL && kl_bytes_eq(kl_bytes_of(s->bytes, s->key_len), key);
}

static void fill(struct slot *s, struct kl_bytes key, struct kl_bytes value, uint64_t since)
{
    size_t len = key.len + value.len;
    uint8_t *bytes = NULL;

    s->valid = false;
    if (len > KL_RECENT_RECORD_MAX) {
        return;
    }
    bytes = kl_realloc(s->bytes, len == 0 ? 1 : len);
    if (bytes == NULL) {
        return; /* the store has it */
    }
    memcpy(bytes, key.ptr, key.len);
    if (value.len != 0) {
        memcpy(bytes + key.len, value.ptr, value.len);
    }
    s->bytes = bytes;
    s->key_len = (uint16_t)key.len;
    s->value_len = (uint16_t)value.len;
    s->since = since;
    s->valid = true;
}

bool kl_recent_get(struct kl_recent *r, struct kl_bytes key, uint64_t now, struct kl_buf *out)
{
    struct slot *s = take(r, key);
    bool hit = s->valid && s->since <= now && holds(s, key);

    if (hit) {
        kl_buf_clear(out);
        hit = kl_buf_put(out, s->bytes + s->key_len, s->value_len) == KL_OK;
    }
    give(r, s);
    return hit;
}

void kl_recent_keep(struct kl_recent *r, struct kl_bytes key, struct kl_bytes value, uint64_t now)
{
    struct slot *s = take(r, key);

    if (s->changed <= now) {
        fill(s, key, value, s->changed);
    }
    give(r, s);
}

void kl_recent_write_begin(struct kl_recent *r, const struct kl_batch *batch)
{
    uint64_t number = atomic_load(&r->done) + 1;
    struct kl_bytes key;
    struct kl_bytes value;
    enum kl_batch_op op;
    size_t pos = 0;

    while (kl_batch_next(batch, &pos, &op, &key, &value)) {
        struct slot *s = take(r, key);

        s->changed = number;
        if (s->valid && holds(s, key)) {
            s->valid = false;
        }
        give(r, s);
    }
}

void kl_recent_write_end(struct kl_recent *r, const struct kl_batch *batch, bool done)
{
    uint64_t number = atomic_load(&r->done) + 1;
    struct kl_bytes key;
    struct kl_bytes value;
    enum kl_batch_op op;
    size_t pos = 0;

    while (done && kl_batch_next(batch, &pos, &op, &key, &value)) {
        struct slot *s = take(r, key);

        if (holds(s, key)) { /* whoever read it will want to know */
            if (op == KL_BATCH_PUT) {
                fill(s, key, value, number);
            } else {
                s->valid = false;
            }
        }
        give(r, s);
    }
    atomic_store(&r->done, number);
}
