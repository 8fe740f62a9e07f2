/*
 * The request ids that a group's store remembers, in memory. Nearly every command brings an id that
 * was never seen, and a store that sorts by key must look everywhere to be sure of that: here it
 * takes one look. What is said to be unknown is not in the store; the rest is up to the store.
 *
 * Belongs to one thread. 16 bytes for each id and as much again for room, KL_REQUESTS_MAX at most.
 */
#ifndef KL_REQUEST_IDS_H
#define KL_REQUEST_IDS_H

#include "common/batch.h"
#include "common/limits.h"
#include "common/view.h"
#include "server/runtime/clock.h"

struct kl_request_ids {
    uint8_t (*ids)[KL_ID_LEN];
    uint8_t *used; /* per slot */
    size_t slots;  /* a power of 2, or 0 */
    size_t n;
    uint64_t seed[2]; /* clients choose their ids */
    bool incomplete;  /* there was no memory for them all: nothing is known */
};

/* Reads all ids of the store. KL_OK, also when there is no memory for them, or a fault of the view or
 * of the entropy. */
KL_MUST_USE enum kl_status kl_request_ids_load(struct kl_request_ids *r, const struct kl_view *view,
                                               const struct kl_entropy *entropy);
void kl_request_ids_done(struct kl_request_ids *r);
/* After the batch was written to the store. */
void kl_request_ids_follow(struct kl_request_ids *r, const struct kl_batch *batch);
/* May the store hold this key? true for everything but request ids. */
bool kl_request_ids_may_hold(const struct kl_request_ids *r, struct kl_bytes key);

#endif
