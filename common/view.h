/*
 * Read access to a store, as the state machine sees it: the narrow waist between server/core
 * (which must not know LevelDB) and server/store.
 */
#ifndef KL_VIEW_H
#define KL_VIEW_H

#include "common/buf.h"

/* Called per record in ascending key order; key and value are borrowed for the call only. */
typedef bool (*kl_scan_fn)(void *arg, struct kl_bytes key, struct kl_bytes value); /* false stops */

struct kl_view {
    void *ctx;
    /* Replaces the content of *out. KL_OK, KL_NOT_FOUND, or a fault (KL_IO, KL_CORRUPT, KL_NO_MEMORY). */
    enum kl_status (*get)(void *ctx, struct kl_bytes key, struct kl_buf *out);
    /* Visits from <= key < to; an empty `to` means no end. KL_OK also when fn stopped early. */
    enum kl_status (*scan)(void *ctx, struct kl_bytes from, struct kl_bytes to, kl_scan_fn fn,
                           void *arg);
};

#endif
