#include "server/raft/request_ids.h"

#include "common/alloc.h"
#include "server/core/keys.h"

__extension__ typedef unsigned __int128 product;

enum { SLOTS_MIN = 1024, KEY_LEN = 1 + KL_ID_LEN };

/* The id in a key of the family, or NULL. */
static const uint8_t *id_in(struct kl_bytes key)
{
    struct kl_key family = kl_key_family('q');

    return key.len == KEY_LEN && key.ptr[0] == family.bytes[0] ? key.ptr + 1 : NULL;
}

static size_t home_of(const struct kl_request_ids *r, const uint8_t *id)
{
    product p = kl_get_be64(id) ^ r->seed[0];

    p *= kl_get_be64(id + 8) ^ r->seed[1];
    return (size_t)((uint64_t)p ^ (uint64_t)(p >> 64)) & (r->slots - 1);
}

/* The id's slot, or the empty one where it belongs. */
static size_t slot_of(const struct kl_request_ids *r, const uint8_t *id)
{
    size_t i = home_of(r, id);

    while (r->used[i] && memcmp(r->ids[i], id, KL_ID_LEN) != 0) {
        i = (i + 1) & (r->slots - 1);
    }
    return i;
}

/* No memory: from now on the store is asked about every id. */
static void give_up(struct kl_request_ids *r)
{
    kl_request_ids_done(r);
    r->incomplete = true;
}

static bool grow(struct kl_request_ids *r)
{
    struct kl_request_ids larger = *r;

    larger.slots = r->slots == 0 ? SLOTS_MIN : r->slots * 2;
    larger.ids = kl_calloc(larger.slots, sizeof *larger.ids);
    larger.used = kl_calloc(larger.slots, 1);
    if (larger.ids == NULL || larger.used == NULL) {
        kl_free(larger.ids);
        kl_free(larger.used);
        return false;
    }
    for (size_t i = 0; i < r->slots; i++) {
        if (r->used[i]) {
            size_t to = slot_of(&larger, r->ids[i]);

            memcpy(larger.ids[to], r->ids[i], KL_ID_LEN);
            larger.used[to] = 1;
        }
    }
    kl_free(r->ids);
    kl_free(r->used);
    *r = larger;
    return true;
}

static void add(struct kl_request_ids *r, const uint8_t *id)
{
    size_t i;

    if (r->incomplete) {
        return;
    }
    if (r->n >= r->slots / 2 && !grow(r)) {
        give_up(r);
        return;
    }
    i = slot_of(r, id);
    r->n += !r->used[i];
    r->used[i] = 1;
    memcpy(r->ids[i], id, KL_ID_LEN);
}

/* Closes the gap: what follows it moves up unless it would come before its home. */
static void remove_id(struct kl_request_ids *r, const uint8_t *id)
{
    size_t mask = r->slots - 1;
    size_t gap;

    if (r->slots == 0 || !r->used[gap = slot_of(r, id)]) {
        return;
    }
    for (size_t i = (gap + 1) & mask; r->used[i]; i = (i + 1) & mask) {
        if (((i - home_of(r, r->ids[i])) & mask) >= ((i - gap) & mask)) {
            memcpy(r->ids[gap], r->ids[i], KL_ID_LEN);
            gap = i;
        }
    }
    r->used[gap] = 0;
    r->n--;
}

static bool add_key(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    const uint8_t *id = id_in(key);

    (void)value;
    if (id != NULL) {
        add(arg, id);
    }
    return true;
}

enum kl_status kl_request_ids_load(struct kl_request_ids *r, const struct kl_view *view,
                                   const struct kl_entropy *entropy)
{
    struct kl_key from = kl_key_family('q');
    struct kl_key to = kl_key_prefix_end(&from);
    enum kl_status st;

    *r = (struct kl_request_ids){0};
    st = entropy->fill(entropy->ctx, (uint8_t *)r->seed, sizeof r->seed);
    if (st != KL_OK) {
        return st;
    }
    st = view->scan(view->ctx, kl_key_bytes(&from), kl_key_bytes(&to), add_key, r);
    if (st != KL_OK) {
        kl_request_ids_done(r);
    }
    return st;
}

void kl_request_ids_done(struct kl_request_ids *r)
{
    kl_free(r->ids);
    kl_free(r->used);
    *r = (struct kl_request_ids){0};
}

void kl_request_ids_follow(struct kl_request_ids *r, const struct kl_batch *batch)
{
    struct kl_bytes key;
    struct kl_bytes value;
    enum kl_batch_op op;
    size_t pos = 0;

    while (!r->incomplete && kl_batch_next(batch, &pos, &op, &key, &value)) {
        const uint8_t *id = id_in(key);

        if (id != NULL && op == KL_BATCH_PUT) {
            add(r, id);
        } else if (id != NULL) {
            remove_id(r, id);
        }
    }
}

bool kl_request_ids_may_hold(const struct kl_request_ids *r, struct kl_bytes key)
{
    const uint8_t *id = id_in(key);

    return id == NULL || r->incomplete || (r->slots != 0 && r->used[slot_of(r, id)]);
}
