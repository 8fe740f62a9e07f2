/*
 * A group without Raft: proposals wait until the test delivers them to a world's state machine.
 */
#ifndef KL_TEST_FAKE_GROUP_H
#define KL_TEST_FAKE_GROUP_H

#include "server/raft/group.h"
#include "tests/unit/core/world.h"

struct kl_group {
    struct world *w;
    uint16_t id;
    bool ready;
    enum kl_status refuse; /* kl_group_propose answers this, unless KL_OK */
    struct kl_proposal *held;
    unsigned proposals;
    unsigned reads; /* local reads begun; each has ended when a test looks */
    unsigned open_reads;
    uint64_t mono_us; /* its clock; the wall clock is w->now */
    struct kl_clock clock;
};

void fake_group_init(struct kl_group *g, struct world *w, uint16_t id);
/* Time goes on: entry time, wall clock and monotonic clock alike. */
void fake_group_sleep(struct kl_group *g, uint64_t ms);
/* Ends the proposal under way: applied (KL_OK), or lost with this status. */
void fake_group_deliver(struct kl_group *g, enum kl_status status);

#endif
