/*
 * The one place that serves calls: authenticate, authorise, find the group, wait for the read
 * barrier, run the handler's plans, propose, audit, reply. Transports (the client listener, the
 * peer connections, later HTTPS) hand in packed calls and get exactly one reply each.
 */
#ifndef KL_DISPATCH_H
#define KL_DISPATCH_H

#include "server/audit/audit.h"
#include "server/handlers/node_view.h"
#include "server/handlers/plan.h"
#include "server/raft/peers.h"
#include "server/runtime/pool.h"

struct kl_dispatch;

struct kl_dispatch_options {
    struct kl_pool *pool;
    const struct kl_clock *clock;
    /* The cluster's time, for what is compared to entries: 0 while it is not known, and then writes
     * are refused. NULL: clock. */
    const struct kl_clock *agreed;
    const struct kl_entropy *entropy;
    const struct kl_node_view *node;
    struct kl_audit *audit;
    struct kl_peers *const *peers; /* for KL_STEP_REMOTE; may point to NULL on a single node */
    size_t calls_max;              /* calls under way; more get EXHAUSTED */
    size_t bytes_max;              /* and their packed bytes; 0 = KL_CALL_BYTES_MAX */
};

KL_MUST_USE enum kl_status kl_dispatch_new(const struct kl_dispatch_options *options,
                                           struct kl_dispatch **out);
/* Waits until every call has been answered. */
void kl_dispatch_free(struct kl_dispatch *d);

/* Swaps the table of principals / the keyring for later calls (NULL keyring: sealed). The old one is
 * freed when its last call ends. */
void kl_dispatch_set_auth(struct kl_dispatch *d, struct kl_auth *auth);
void kl_dispatch_set_keyring(struct kl_dispatch *d, struct kl_keyring *ring);
/* Draining: new calls get UNAVAILABLE; returns when those under way have ended or after the time.
 * After it no group and no peer is touched any more: close them, which ends what still waits for
 * them, then kl_dispatch_free(). */
void kl_dispatch_drain(struct kl_dispatch *d, unsigned timeout_ms);

/*
 * Serves one call. packed is a kluis.v1.Call (moved). from_node: 0 for clients, else the node whose
 * certificate was proven. reply is called exactly once, on any thread, with a packed
 * kluis.v1.Reply (borrowed), by the call's deadline. [any thread; never blocks]
 */
typedef void (*kl_reply_fn)(void *arg, uint32_t stream, struct kl_bytes reply);
struct kl_origin {
    uint64_t from_node;
    char remote[64]; /* for audit */
    uint32_t stream;
    kl_reply_fn reply;
    void *arg;
    /* Around the replies of one batch with the same arg: hold before the first of them, release
     * after the last, on the same thread; the reply between may be the last use of arg, so hold
     * must keep it. Both or neither. */
    void (*hold)(void *arg);
    void (*release)(void *arg);
};
void kl_dispatch_call(struct kl_dispatch *d, struct kl_buf *packed, const struct kl_origin *origin);
/* Several at once: one wake-up for a burst. Moves every packed[i]. */
void kl_dispatch_calls(struct kl_dispatch *d, struct kl_buf *packed,
                       const struct kl_origin *origins, size_t n);

/* [any] A node that serves calls of a group which is not held here: one that is connected, at home if there
 * is one; 0 = nobody. It may not lead, but knows who does. */
uint64_t kl_find_member(const struct kl_node_view *node, uint16_t id);

struct kl_dispatch_counters {
    uint64_t calls, errors, refused, active, reads, writes;
};
void kl_dispatch_counters(struct kl_dispatch *d, struct kl_dispatch_counters *out);

#endif
