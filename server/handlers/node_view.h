/*
 * What handlers may ask of the node they run in. Filled in by server/node.c.
 */
#ifndef KL_NODE_VIEW_H
#define KL_NODE_VIEW_H

#include "server/raft/group.h"

#include "rpc.pb-c.h"

#include <stdatomic.h>

struct kl_node_info {
    uint64_t node_id;
    const char *name;
    const char *region;
    const char *client_address;
    bool witness;
    _Atomic unsigned marks; /* KL_NODE_…, as the directory here says */
};

/* Room for how a group's member list names a data directory. */
enum { KL_MEMBER_ADDRESS_LEN = 48 };
enum { KL_NODE_STANDBY = 1, KL_NODE_DRAINED = 2, KL_NODE_REMOVED = 4 };

/* Where the vaults of a group are; borrowed from the configuration. */
struct kl_placement {
    const char *home;      /* region */
    const char *geography; /* of the home region */
    const char *mirror;    /* region of the pair; NULL = none */
};

/* The cluster's time as this node has it (server/runtime/cluster_clock.h). */
struct kl_clock_view {
    uint64_t time_ms;   /* the cluster's time; 0 = not known yet */
    uint64_t wall_ms;   /* this node's clock */
    uint64_t clocks_ms; /* what the clocks say: what an operator can confirm */
    int64_t lead_ms;    /* by how much the time was confirmed to be ahead of them */
    bool held;          /* scheduled purges wait, because … */
    const char *why;    /* empty when they do not; static */
    size_t heard, majority;
    size_t nodes_n;
    struct {
        uint64_t node_id;
        bool known;
        int64_t ahead_ms; /* of the time, lead allowed for; negative: behind */
    } nodes[KL_NODES_MAX];
};

struct kl_node_view {
    void *ctx;
    const char *cluster;
    const char *geography;
    const char *default_subscription;
    const char *const *locations; /* regions a vault may be made in; first is the default */
    size_t locations_n;
    uint64_t node_id;
    /* Of the configuration, and behind them those that were added since. Only grows. */
    const struct kl_node_info *nodes;
    _Atomic size_t nodes_n;
    bool witness;           /* this node: it serves no vault */
    const uint16_t *groups; /* ids of the cluster's groups, rising; [0] is the directory */
    size_t groups_n;
    uint64_t started_us;                               /* monotonic */
    struct kl_group *(*group)(void *ctx, uint16_t id); /* NULL: not held here, or not open now */
    bool (*votes)(void *ctx, uint16_t group, uint64_t node_id); /* is the node to hold the group? */
    /* Group for a new vault, of one of locations[]. */
    uint16_t (*place)(void *ctx, const char *location, const uint8_t vault_id[KL_ID_LEN]);
    struct kl_placement (*placement)(void *ctx, uint16_t group); /* of an id in groups[] */
    bool (*connected)(void *ctx, uint64_t node_id);
    /* How member lists name the node's registered data directory; empty while there is none. */
    void (*member_address)(void *ctx, uint64_t node_id, char out[KL_MEMBER_ADDRESS_LEN]);
    bool (*sealed)(void *ctx);
    /* Cluster-wide counters for status; fn per counter. */
    void (*counters)(void *ctx, void (*fn)(void *arg, const char *name, uint64_t value), void *arg);
    /* Directory leader: could such a node be added; could these leave their groups (for_good) or give up
     * their leadership? KL_OK, or a status and a line for people that names the group. */
    enum kl_status (*may_add)(void *ctx, const char *region, bool witness, char *why,
                              size_t why_len);
    enum kl_status (*may_leave)(void *ctx, const uint64_t *ids, size_t n, bool for_good, char *why,
                                size_t why_len);
    /* Begins the replacement of a node whose data directory is new. done once. */
    void (*replace_node)(void *ctx, uint64_t node_id, kl_group_done_fn done, void *arg);
    void (*clock)(void *ctx, struct kl_clock_view *out);
    /* An operator says that the clocks are right, having been shown clocks_ms (0: has not looked).
     * step: the time is to be what they say. KL_OK, KL_UNAVAILABLE (too few clocks are known), KL_CHANGED (they say something else). */
    enum kl_status (*confirm_time)(void *ctx, uint64_t shown_ms, bool step);
};

#endif
