/*
 * A node's part in the cluster's time, as server/node_clock.c has it: asks the others for their
 * clocks, answers them, applies the rules. Its letters travel between those of Raft and begin with a
 * zero, as no message of theirs does.
 */
#include "tests/sim/parts.h"

#include "server/raft/group_impl.h"

#include <string.h>

struct letter {
    uint8_t zero[7];
    uint8_t answer; /* 0: a question */
    uint64_t sent_us, wall_ms, time_ms;
    int64_t lead_ms;
};

static uint64_t mono_us(const struct sim_node *n)
{
    return n->clock.mono_us(n->clock.ctx);
}

static uint64_t agreed_mono_us(void *ctx)
{
    return mono_us(ctx);
}

static uint64_t agreed_ms(void *ctx)
{
    struct sim_node *n = ctx;
    bool fast = n->w->options.sabotage == SIM_SABOTAGE_FAST_CLOCK && sim_chance(&n->w->rng, 50);
    uint64_t ms = kl_cluster_clock_time_ms(&n->cluster_clock, mono_us(n));

    return ms == 0 || !fast ? ms : ms + 3600u * 1000u;
}

bool sim_clock_held(void *ctx)
{
    const struct sim_node *n = ctx;

    return n->cluster_clock.doubt != KL_CLOCK_SURE &&
           n->w->options.sabotage != SIM_SABOTAGE_FAST_CLOCK;
}

void sim_clock_start(struct sim_node *n)
{
    uint64_t ids[SIM_NODES_MAX + 1];
    size_t ids_n = 0;

    for (; ids_n < n->w->plan.voters; ids_n++) {
        ids[ids_n] = ids_n + 1;
    }
    if (n->id > n->w->plan.voters) {
        ids[ids_n++] = n->id;
    }
    kl_cluster_clock_init(&n->cluster_clock, n->id, ids, ids_n, KL_CLOCK_GAP_DAYS * KL_DAY_MS);
    n->agreed = (struct kl_clock){n, agreed_mono_us, agreed_ms};
    n->asked_us = 0;
}

static void send(struct sim_replica *r, uint64_t to, const struct letter *letter)
{
    sim_net_send(r->node->w, r, to, KL_LANE_CONTROL, kl_bytes_of(letter, sizeof *letter));
}

void sim_clock_tick(struct sim_replica *r)
{
    struct sim_node *n = r->node;
    struct letter ask = {.sent_us = mono_us(n)};
    uint64_t last_entry_ms = 0;

    if (r != &n->replicas[0]) {
        return;
    }
    for (unsigned g = 0; g < n->w->plan.groups; g++) {
        const struct kl_group *group = n->replicas[g].group;

        if (group != NULL && group->applied_ms > last_entry_ms) {
            last_entry_ms = group->applied_ms;
        }
    }
    kl_cluster_clock_look(&n->cluster_clock, ask.sent_us, sim_node_wall_ms(n), last_entry_ms);
    if (n->asked_us != 0 && ask.sent_us - n->asked_us < KL_CLOCK_ASK_MS * 1000u) {
        return;
    }
    n->asked_us = ask.sent_us;
    for (size_t i = 0; i < n->cluster_clock.nodes_n; i++) {
        if (i != n->cluster_clock.self) {
            send(r, n->cluster_clock.nodes[i].node_id, &ask);
        }
    }
}

bool sim_clock_letter(struct sim_replica *r, uint64_t from, struct kl_bytes message)
{
    struct sim_node *n = r->node;
    uint64_t now_us;
    struct letter l;

    if (message.len != sizeof l || message.ptr[0] != 0) {
        return false;
    }
    now_us = mono_us(n);
    memcpy(&l, message.ptr, sizeof l);
    if (l.answer == 0) {
        l.answer = 1;
        l.wall_ms = sim_node_wall_ms(n);
        l.time_ms = kl_cluster_clock_offer_ms(&n->cluster_clock, now_us);
        l.lead_ms = n->cluster_clock.lead_us / 1000;
        send(r, from, &l);
    } else if (l.sent_us <= now_us) {
        const struct kl_clock_reading reading = {
            .node_id = from,
            .wall_ms = l.wall_ms,
            .time_ms = l.time_ms,
            .lead_ms = l.lead_ms,
            .mono_us = now_us,
            .round_trip_us = now_us - l.sent_us,
        };
        uint64_t error_ms = reading.round_trip_us / 2000;

        if (error_ms <= KL_CLOCK_ROUND_TRIP_MS / 2 && error_ms > n->w->clock_error_ms) {
            n->w->clock_error_ms = error_ms;
        }
        kl_cluster_clock_hear(&n->cluster_clock, &reading);
    }
    return true;
}
