/*
 * Trouble: crashes, stops, pauses, partitions, bad networks, bad disks, clocks that jump. Each
 * event draws the next one; after plan.fault_us everything is repaired and stays so.
 */
#include "tests/sim/parts.h"

#include <assert.h>
#include <inttypes.h>

enum fault {
    FAULT_DRAW, /* the next trouble */
    FAULT_END_CUTS,
    FAULT_END_WEATHER,
    FAULT_END_DISK,
    FAULT_END_STALLS,
};

struct sim_faults {
    uint64_t mean_us; /* between two troubles */
};

static void schedule(struct sim_world *w, enum fault what, uint64_t node, uint64_t delay_us)
{
    struct sim_event *e = sim_schedule(w, SIM_EV_FAULT, NULL, delay_us);

    e->a = what;
    e->b = node;
}

static void draw_later(struct sim_world *w)
{
    schedule(w, FAULT_DRAW, 0, sim_skewed(&w->rng, 1, 4 * w->faults->mean_us));
}

void sim_faults_init(struct sim_world *w)
{
    w->faults = sim_zalloc(&w->heap, sizeof *w->faults);
    w->faults->mean_us = sim_range(&w->rng, 200, 2500) * SIM_MS;
    for (unsigned i = 0; i < w->plan.voters; i++) {
        struct sim_event *e;

        w->nodes[i].wanted = true;
        w->nodes[i].member = true;
        w->nodes[i].exists = true;
        e = sim_schedule(w, SIM_EV_NODE_START, NULL, sim_below(&w->rng, 300 * SIM_MS));
        e->a = w->nodes[i].id;
    }
    sim_members_init(w);
    draw_later(w);
}

void sim_faults_done(struct sim_world *w)
{
    sim_members_done(w);
    sim_free(w->faults);
}

static struct sim_node *any_node(struct sim_world *w)
{
    struct sim_node *n;

    do {
        n = &w->nodes[sim_below(&w->rng, SIM_NODES_MAX)];
    } while (!n->exists);
    return n;
}

/* A node, preferably one that leads: that is where trouble tells. */
static struct sim_node *any_leader(struct sim_world *w)
{
    for (unsigned i = 0; i < SIM_NODES_MAX && sim_chance(&w->rng, 900); i++) {
        struct sim_node *n = &w->nodes[i];

        for (unsigned g = 0; n->up && g < w->plan.groups; g++) {
            const struct raft *raft = n->replicas[g].io.data;

            if (n->replicas[g].group != NULL && !n->closing && raft != NULL &&
                raft->state == RAFT_LEADER && sim_chance(&w->rng, 600)) {
                return n;
            }
        }
    }
    return any_node(w);
}

/* ---- the network ---- */

static void cut_sides(struct sim_world *w, unsigned side, bool one_way)
{
    for (uint64_t a = 1; a <= SIM_NODES_MAX; a++) {
        for (uint64_t b = 1; b <= SIM_NODES_MAX; b++) {
            if (a != b && (side >> a & 1) != 0 && (side >> b & 1) == 0) {
                sim_net_cut(w, a, b, true);
                if (!one_way) {
                    sim_net_cut(w, b, a, true);
                }
            }
        }
    }
}

static void partition(struct sim_world *w)
{
    uint64_t a = any_leader(w)->id;
    uint64_t b = any_node(w)->id;
    bool one_way = sim_chance(&w->rng, 300);

    w->stats.cuts++;
    switch (sim_below(&w->rng, 4)) {
    case 0: /* one node alone */
        sim_say(w, "n%" PRIu64 " is cut off%s", a, one_way ? " (one way)" : "");
        cut_sides(w, 1u << a, one_way);
        break;
    case 1: /* two sides, any two */
        sim_say(w, "the network splits%s", one_way ? " (one way)" : "");
        cut_sides(w, (unsigned)sim_random(&w->rng) & 0x1fe, one_way);
        break;
    case 2: /* one link, one direction */
        if (a != b) {
            sim_say(w, "n%" PRIu64 " no longer reaches n%" PRIu64, a, b);
            sim_net_cut(w, a, b, true);
        }
        break;
    default: /* one link */
        if (a != b) {
            sim_say(w, "n%" PRIu64 " and n%" PRIu64 " lose each other", a, b);
            sim_net_cut(w, a, b, true);
            sim_net_cut(w, b, a, true);
        }
        break;
    }
    schedule(w, FAULT_END_CUTS, 0, sim_skewed(&w->rng, 50 * SIM_MS, 12 * SIM_S));
}

static void weather(struct sim_world *w)
{
    unsigned loss = (unsigned)sim_skewed(&w->rng, 10, 400);
    unsigned jitter = (unsigned)sim_skewed(&w->rng, SIM_MS, 300 * SIM_MS);

    sim_say(w, "the network turns bad: %u per 1,000 lost, up to %u us late", loss, jitter);
    sim_net_weather(w, w->plan.latency_us, jitter, loss);
    schedule(w, FAULT_END_WEATHER, 0, sim_skewed(&w->rng, 100 * SIM_MS, 6 * SIM_S));
}

/* A whole region: its power, or its lines. */
static void lose_region(struct sim_world *w)
{
    uint8_t which = (uint8_t)sim_below(&w->rng, KL_DISTANCE_WITNESS + 1);
    bool power = w->plan.crashes && sim_chance(&w->rng, 500);
    unsigned side = 0;

    w->stats.region_losses++;
    sim_say(w, "region %u loses its %s", which, power ? "power" : "lines");
    for (uint64_t id = 1; id <= w->plan.voters; id++) {
        if (sim_distance(id) != which) {
            continue;
        }
        side |= 1u << id;
        if (power && sim_node(w, id)->up) {
            sim_node_crashed(w, sim_node(w, id), true);
        }
    }
    if (!power) {
        cut_sides(w, side, sim_chance(&w->rng, 100));
        schedule(w, FAULT_END_CUTS, 0, sim_skewed(&w->rng, SIM_S, 12 * SIM_S));
    }
}

/* ---- processes ---- */

static void crash(struct sim_world *w)
{
    struct sim_node *n = any_leader(w);

    if (!n->up) {
        return;
    }
    w->stats.crashes++;
    if (sim_chance(&w->rng, 400)) {
        n->crash_after = (unsigned)sim_range(&w->rng, 1, 200);
    } else {
        sim_node_crashed(w, n, sim_chance(&w->rng, 500));
    }
    if (sim_chance(&w->rng, 100)) { /* everybody: the power of the whole site */
        for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
            if (w->nodes[i].up) {
                sim_node_crashed(w, &w->nodes[i], true);
            }
        }
    }
}

static void pause_node(struct sim_world *w)
{
    struct sim_node *n = any_leader(w);
    uint64_t us = sim_skewed(&w->rng, 10 * SIM_MS, 8 * SIM_S);

    if (n->up) {
        w->stats.pauses++;
        sim_say(w, "n%" PRIu64 " is paused for %" PRIu64 " ms", n->id, us / SIM_MS);
        /* never shorter than what it is at: its clock must not go back */
        n->resume_us = w->now_us + us > n->resume_us ? w->now_us + us : n->resume_us;
    }
}

static void stalls(struct sim_world *w)
{
    struct sim_node *n = any_leader(w);

    sim_say(w, "n%" PRIu64 " begins to stall now and then", n->id);
    n->stall_1000 = (unsigned)sim_range(&w->rng, 10, 2000);
    schedule(w, FAULT_END_STALLS, n->id, sim_range(&w->rng, SIM_S, 8 * SIM_S));
}

/* ---- disks and clocks ---- */

static void disk(struct sim_world *w)
{
    struct sim_node *n = any_leader(w);
    uint64_t what = sim_below(&w->rng, 3);

    n->excused = true;
    for (unsigned g = 0; g < w->plan.groups; g++) {
        struct sim_replica *r = &n->replicas[g];

        if (what == 0) {
            r->disk.slow = (unsigned)sim_range(&w->rng, 5, 200);
        } else if (what == 1) {
            sim_disk_set_full(&r->disk, true);
            r->live.full = r->staged.full = true;
        } else if (sim_chance(&w->rng, 500)) {
            r->disk.fail_next = true;
        } else {
            r->live.fail_next = true;
        }
    }
    sim_say(w, "n%" PRIu64 "'s disk %s", n->id,
            what == 0   ? "is slow"
            : what == 1 ? "is full"
                        : "fails the next write");
    schedule(w, FAULT_END_DISK, n->id, sim_skewed(&w->rng, 200 * SIM_MS, 8 * SIM_S));
}

static void end_disk(struct sim_world *w, struct sim_node *n)
{
    for (unsigned g = 0; g < w->plan.groups; g++) {
        struct sim_replica *r = &n->replicas[g];

        r->disk.slow = 1;
        r->disk.fail_next = false;
        r->live.fail_next = false;
        r->live.full = r->staged.full = false;
        sim_disk_set_full(&r->disk, false);
    }
    (void)w;
}

/* At nodes that are a minority of the cluster, whatever happens. */
static void clock_jump(struct sim_world *w)
{
    unsigned minority = (w->plan.voters - 1) / 2;
    struct sim_node *n;
    int64_t ms;

    if (minority == 0) {
        return;
    }
    n = &w->nodes[sim_below(&w->rng, minority)];
    ms = (int64_t)sim_skewed(&w->rng, 100, 100 * KL_DAY_MS);
    n->wall_offset_ms += sim_chance(&w->rng, 500) ? ms : -ms;
    sim_say(w, "n%" PRIu64 "'s wall clock is now %" PRId64 " ms off", n->id, n->wall_offset_ms);
}

/* ---- drawing ---- */

static void draw(struct sim_world *w)
{
    const struct {
        bool on;
        void (*fn)(struct sim_world *w);
        unsigned weight;
    } kinds[] = {
        {w->plan.crashes, crash, 30},         {w->plan.partitions, partition, 30},
        {w->plan.partitions, weather, 8},     {w->plan.pauses, pause_node, 15},
        {w->plan.stalls, stalls, 8},          {w->plan.disk_faults, disk, 12},
        {w->plan.clock_jumps, clock_jump, 8}, {w->plan.transfers, sim_transfer, 12},
        {w->plan.regions, lose_region, 20},
    };
    unsigned total = 0;
    unsigned at;

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        total += kinds[i].on ? kinds[i].weight : 0;
    }
    if (total == 0) {
        return;
    }
    at = (unsigned)sim_below(&w->rng, total);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        unsigned weight = kinds[i].on ? kinds[i].weight : 0;

        if (at < weight) {
            kinds[i].fn(w);
            return;
        }
        at -= weight;
    }
}

static void stop_some(struct sim_world *w)
{
    struct sim_node *n = any_node(w);

    if (w->plan.crashes && n->up && sim_chance(&w->rng, 100)) {
        w->stats.stops++;
        sim_say(w, "n%" PRIu64 " is asked to stop", n->id);
        sim_node_stop(w, n);
    }
}

void sim_faults_event(struct sim_world *w, struct sim_event *e)
{
    if (!w->troubled) {
        return;
    }
    switch ((enum fault)e->a) {
    case FAULT_DRAW:
        draw(w);
        stop_some(w);
        draw_later(w);
        break;
    case FAULT_END_CUTS:
        sim_say(w, "the network is whole again");
        sim_net_heal(w);
        break;
    case FAULT_END_WEATHER:
        sim_net_weather(w, w->plan.latency_us, w->plan.jitter_us, w->plan.loss_1000);
        break;
    case FAULT_END_DISK:
        end_disk(w, sim_node(w, e->b));
        break;
    case FAULT_END_STALLS:
        sim_node(w, e->b)->stall_1000 = 0;
        break;
    }
}

void sim_faults_end(struct sim_world *w)
{
    sim_say(w, "no more trouble");
    w->troubled = false;
    sim_net_heal(w);
    sim_net_weather(w, w->plan.latency_us, w->plan.jitter_us, 0);
    for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
        struct sim_node *n = &w->nodes[i];

        n->stall_1000 = 0;
        n->crash_after = 0;
        end_disk(w, n);
    }
}
