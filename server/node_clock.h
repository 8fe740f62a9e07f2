/*
 * The node's part in the cluster's time: asks the other nodes for their clocks and answers them,
 * runs the rules of server/runtime/cluster_clock.h, says in the log when something is wrong, and
 * gives everybody else the time as a kl_clock. Any thread, unless it says otherwise.
 */
#ifndef KL_NODE_CLOCK_H
#define KL_NODE_CLOCK_H

#include "common/buf.h"
#include "server/handlers/node_view.h"
#include "server/runtime/clock.h"

/* The group that frames about clocks name: none. */
#define KL_NODE_CLOCK_FRAMES UINT16_MAX

struct kl_node_clock;

struct kl_node_clock_options {
    uint64_t node_id;
    const uint64_t *ids; /* of all nodes, node_id among them; copied */
    size_t n;
    const struct kl_clock *clock; /* the machine's */
    /* Sends one packed kluis.peer.Message on the control connection; may drop it; must not call back. */
    void (*send)(void *ctx, uint64_t to_node, struct kl_bytes message);
    void *ctx;
};

KL_MUST_USE enum kl_status kl_node_clock_new(const struct kl_node_clock_options *options,
                                             struct kl_node_clock **out);
void kl_node_clock_free(struct kl_node_clock *nc); /* NULL is allowed */

/* Its wall_ms is the cluster's time, 0 while that is not known; its mono_us the machine's. Cheap. Lives
 * as long as the node's clock. */
const struct kl_clock *kl_node_clock_agreed(const struct kl_node_clock *nc);
/* There is doubt: nothing may be purged because its time has come. Cheap. ctx: the node's clock. */
bool kl_node_clock_held(void *ctx);

/* What arrived from a node in frames of KL_NODE_CLOCK_FRAMES. */
void kl_node_clock_receive(struct kl_node_clock *nc, uint64_t from_node, struct kl_bytes message);
/* A node has just been connected: it is asked at once. */
void kl_node_clock_connected(struct kl_node_clock *nc, uint64_t node_id);
/* All nodes of the cluster, this one among them; nothing happens while they are the same. On the thread
 * that ticks. */
void kl_node_clock_members(struct kl_node_clock *nc, const uint64_t *ids, size_t n);
/* Several times a second, from one thread. last_entry_ms: of the newest entry applied in any group. */
void kl_node_clock_tick(struct kl_node_clock *nc, uint64_t last_entry_ms);

/* For status and for confirming: see node_view.h. */
void kl_node_clock_view(struct kl_node_clock *nc, struct kl_clock_view *out);
KL_MUST_USE enum kl_status kl_node_clock_confirm(struct kl_node_clock *nc, uint64_t shown_ms,
                                                 bool step);
/* How often doubt about the clocks began (a jump, or a gap after a restart) since the start. */
uint64_t kl_node_clock_jumps(const struct kl_node_clock *nc);

#endif
