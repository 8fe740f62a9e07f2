#include "tests/sim/parts.h"

/* Every seed is a different kind of cluster in a different kind of trouble. Longer stories for small
 * clusters, so that all cost about the same. */
void sim_plan_draw(struct sim_world *w)
{
    struct sim_rng *r = &w->rng;
    struct sim_plan *p = &w->plan;
    static const unsigned sizes[] = {1, 3, 3, 3, 3, 3, 5, 5};
    uint64_t groups = sim_below(r, 8);

    p->voters = sizes[sim_below(r, sizeof sizes / sizeof sizes[0])];
    if (w->options.members && p->voters > 3) {
        p->voters = 1; /* changes tell most in small clusters */
    }
    p->vault = groups != 0;
    p->directory = groups < 2;
    p->groups = (p->vault ? 1u : 0u) + (p->directory ? 1u : 0u);
    p->clients = (unsigned)sim_range(r, 2, 6);
    p->names = (unsigned)sim_range(r, 1, 3);
    p->election_ms = sim_chance(r, 500) ? 1000 : (unsigned)sim_range(r, 300, 1500);
    p->tick_ms = p->election_ms >= 600 ? 100 : 50;
    p->fault_us = sim_range(r, 8, p->voters == 5 || p->groups == 2 ? 16 : 24) * SIM_S;
    p->heal_us = 60 * SIM_S;
    p->latency_us = (unsigned)sim_skewed(r, 50, 20 * SIM_MS);
    p->jitter_us = (unsigned)sim_skewed(r, 50, 20 * SIM_MS);
    p->fifo = sim_chance(r, 600);
    p->loss_1000 = p->fifo || sim_chance(r, 500) ? 0 : (unsigned)sim_below(r, 50);
    p->dup_1000 = p->fifo ? 0 : (unsigned)sim_below(r, 50);
    p->bulk_us = sim_chance(r, 700) ? 0 : (unsigned)sim_skewed(r, SIM_MS, 2 * SIM_S);
    p->log_keep_bytes = sim_chance(r, 700) ? 1024 : 0;
    p->day_ms = sim_range(r, 50, 1000);
    p->think_us = (unsigned)sim_range(r, 20, 400) * SIM_MS;
    p->crashes = sim_chance(r, 800);
    p->partitions = p->voters > 1 && sim_chance(r, 800);
    p->pauses = sim_chance(r, 600);
    p->stalls = sim_chance(r, 300);
    p->disk_faults = sim_chance(r, 400);
    p->clock_jumps = sim_chance(r, 250);
    p->transfers = p->voters > 1 && sim_chance(r, 400);
    p->members = sim_chance(r, 300);
    if (w->options.members) {
        p->members = true;
        p->crashes = true;
    }
    if (w->options.reorder) {
        p->fifo = false;
        p->loss_1000 = 50;
        p->dup_1000 = 50;
        p->partitions = p->voters > 1;
    }
    if (p->voters == 5 && sim_chance(r, 700)) {
        p->regions = true;
        p->members = false;
        p->election_ms = 1000; /* round trips are well within it: who is slow is not handed to */
        p->tick_ms = 100;
        p->failback_ms = (unsigned)sim_range(r, 500, 4000);
    }
    p->nodes = p->voters + (p->members ? 3 : 0);
}

uint8_t sim_distance(uint64_t node_id)
{
    return node_id <= 2 ? KL_DISTANCE_HOME : node_id <= 4 ? KL_DISTANCE_PAIR : KL_DISTANCE_WITNESS;
}
