/*
 * The retention scheduler: run by the leader of each group, proposes what is due: purges first, then
 * collections. Owns no state that a new leader would need. Deadlines are checked again by apply
 * against the entry's time.
 *
 * Calls come from one thread at a time, the group's or another. (The vault workflows' finisher is
 * finisher.h.)
 */
#ifndef KL_SCHEDULER_H
#define KL_SCHEDULER_H

#include "server/raft/group.h"

struct kl_scheduler;

struct kl_scheduler_options {
    struct kl_group *group;
    const struct kl_clock *clock;
    /* May a deadline that has come be believed? While this says true nothing is purged; what was purged
     * before is collected. NULL: always. */
    bool (*held)(void *ctx);
    void *held_ctx;
    unsigned period_ms; /* how often to look at least; 0 = 1,000, less in test clusters */
};

/* Starts looking; does nothing while this node does not lead the group. */
KL_MUST_USE enum kl_status kl_scheduler_new(const struct kl_scheduler_options *options,
                                            struct kl_scheduler **out);
/* Call often, say once per tick: cheap when it is not yet time. Reads the store; proposes at most one
 * command at a time. */
void kl_scheduler_tick(struct kl_scheduler *s);
/* Items purged by this node's proposals. [any] */
uint64_t kl_scheduler_purged(const struct kl_scheduler *s);
/* A proposal under way is left to its end: the group calls it back before it is closed, and the
 * memory goes then. s may be NULL. */
void kl_scheduler_free(struct kl_scheduler *s);

#endif
