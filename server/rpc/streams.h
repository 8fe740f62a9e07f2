/*
 * The calls under way on one connection, by stream id: which are taken, and which the client no
 * longer waits for. Not thread-safe.
 */
#ifndef KL_STREAMS_H
#define KL_STREAMS_H

#include "common/limits.h"
#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

struct kl_streams {
    struct kl_stream_slot {
        uint32_t stream;
        uint32_t state; /* 0 free, 1 under way, 2 cancelled */
    } * slots;
    size_t cap; /* a power of two, or 0 */
    size_t n;
};

void kl_streams_done(struct kl_streams *s);
/* KL_ALREADY_EXISTS: the stream is under way. KL_EXHAUSTED: KL_CALLS_PER_CONN_MAX are. KL_NO_MEMORY. */
KL_MUST_USE enum kl_status kl_streams_add(struct kl_streams *s, uint32_t stream);
/* Harmless when it is not under way. */
void kl_streams_cancel(struct kl_streams *s, uint32_t stream);
/* Ends a stream; true when the client still waits for it. */
bool kl_streams_end(struct kl_streams *s, uint32_t stream);

#endif
