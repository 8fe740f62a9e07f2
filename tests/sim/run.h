/*
 * One seed from its beginning to its verdict.
 */
#ifndef SIM_RUN_H
#define SIM_RUN_H

#include "tests/sim/world.h"

struct sim_outcome {
    bool failed;
    bool undecided; /* the history was too hard to judge; everything else held */
    uint64_t trace, events, virtual_us;
    unsigned ops;
    struct sim_stats stats;
    char text[4096];
};

void sim_run_seed(uint64_t seed, const struct sim_options *options, struct sim_outcome *out);
/* Gives memory kept for the next seed back. */
void sim_run_done(void);

#endif
