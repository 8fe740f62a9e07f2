/* Open addressing with linear probing; an end moves later entries back, so there are no graves. */
#include "server/rpc/streams.h"

#include "common/alloc.h"

#include <assert.h>

enum { CAP_MIN = 16 };

static size_t home(const struct kl_streams *s, uint32_t stream)
{
    return (stream * 2654435769u) & (s->cap - 1);
}

static struct kl_stream_slot *find(const struct kl_streams *s, uint32_t stream)
{
    if (s->cap == 0) {
        return NULL;
    }
    for (size_t i = home(s, stream); s->slots[i].state != 0; i = (i + 1) & (s->cap - 1)) {
        if (s->slots[i].stream == stream) {
            return &s->slots[i];
        }
    }
    return NULL;
}

static void put(struct kl_streams *s, struct kl_stream_slot slot)
{
    size_t i = home(s, slot.stream);

    while (s->slots[i].state != 0) {
        i = (i + 1) & (s->cap - 1);
    }
    s->slots[i] = slot;
    s->n++;
}

static enum kl_status grow(struct kl_streams *s)
{
    struct kl_streams bigger = {.cap = s->cap == 0 ? CAP_MIN : 2 * s->cap};

    bigger.slots = kl_calloc(bigger.cap, sizeof *bigger.slots);
    if (bigger.slots == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < s->cap; i++) {
        if (s->slots[i].state != 0) {
            put(&bigger, s->slots[i]);
        }
    }
    kl_free(s->slots);
    *s = bigger;
    return KL_OK;
}

void kl_streams_done(struct kl_streams *s)
{
    kl_free(s->slots);
    *s = (struct kl_streams){0};
}

enum kl_status kl_streams_add(struct kl_streams *s, uint32_t stream)
{
    enum kl_status st;

    if (find(s, stream) != NULL) {
        return KL_ALREADY_EXISTS;
    }
    if (s->n >= KL_CALLS_PER_CONN_MAX) {
        return KL_EXHAUSTED;
    }
    if (2 * (s->n + 1) > s->cap) {
        st = grow(s);
        if (st != KL_OK) {
            return st;
        }
    }
    put(s, (struct kl_stream_slot){stream, 1});
    return KL_OK;
}

void kl_streams_cancel(struct kl_streams *s, uint32_t stream)
{
    struct kl_stream_slot *slot = find(s, stream);

    if (slot != NULL) {
        slot->state = 2;
    }
}

bool kl_streams_end(struct kl_streams *s, uint32_t stream)
{
    struct kl_stream_slot *slot = find(s, stream);
    size_t hole;
    bool wanted;

    assert(slot != NULL);
    wanted = slot->state == 1;
    hole = (size_t)(slot - s->slots);
    for (size_t i = (hole + 1) & (s->cap - 1); s->slots[i].state != 0; i = (i + 1) & (s->cap - 1)) {
        size_t at = home(s, s->slots[i].stream);

        /* Move back what may not stay behind the hole: its home is not between hole and i. */
        if (((i - at) & (s->cap - 1)) >= ((i - hole) & (s->cap - 1))) {
            s->slots[hole] = s->slots[i];
            hole = i;
        }
    }
    s->slots[hole].state = 0;
    s->n--;
    return wanted;
}
