/*
 * The retention scheduler and the vault workflows' finisher: run by the leader of each group,
 * proposes what is due (purges, collections), releases names of purged vaults and finishes claims
 * that a crash interrupted. Owns no state that a new leader would need.
 */
#ifndef KL_SCHEDULER_H
#define KL_SCHEDULER_H

#include "server/raft/group.h"
#include "server/raft/peers.h"

struct kl_scheduler;

struct kl_scheduler_options {
    struct kl_group *group;
    const struct kl_clock *clock;
    unsigned period_ms; /* how often to look; 1,000, less in test clusters */
};

/* Starts looking; does nothing while this node does not lead the group. */
KL_MUST_USE enum kl_status kl_scheduler_new(const struct kl_scheduler_options *options,
                                            struct kl_scheduler **out);
/* Call from the group's thread once per tick (cheap when it is not yet time). Proposes at most one
 * command at a time. */
void kl_scheduler_tick(struct kl_scheduler *s);
uint64_t
kl_scheduler_purged(const struct kl_scheduler *s); /* items purged by this node's proposals */
void kl_scheduler_free(struct kl_scheduler *s);

#endif
