/*
 * What handlers may ask of the node they run in. Filled in by server/node.c.
 */
#ifndef KL_NODE_VIEW_H
#define KL_NODE_VIEW_H

#include "server/raft/group.h"

#include "rpc.pb-c.h"

struct kl_node_info {
    uint64_t node_id;
    const char *name;
    const char *region;
    const char *client_address;
};

struct kl_node_view {
    void *ctx;
    const char *cluster;
    const char *geography;
    const char *default_subscription;
    const char *const *locations; /* regions a vault may be made in; first is the default */
    size_t locations_n;
    uint64_t node_id;
    const struct kl_node_info *nodes; /* of the configuration */
    size_t nodes_n;
    const uint16_t *groups; /* group ids this node holds; [0] is the directory */
    size_t groups_n;
    uint64_t started_us;                                            /* monotonic */
    struct kl_group *(*group)(void *ctx, uint16_t id);              /* NULL: not held here */
    uint16_t (*group_of_location)(void *ctx, const char *location); /* home group of new vaults */
    bool (*connected)(void *ctx, uint64_t node_id);
    bool (*sealed)(void *ctx);
    /* Cluster-wide counters for status; fn per counter. */
    void (*counters)(void *ctx, void (*fn)(void *arg, const char *name, uint64_t value), void *arg);
    /* Membership: begins the replacement of a node whose data directory is new. done once. */
    void (*replace_node)(void *ctx, uint64_t node_id, kl_group_done_fn done, void *arg);
};

#endif
