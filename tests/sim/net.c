#include "tests/sim/parts.h"

#include <assert.h>
#include <string.h>

/*
 * Connections as TCP has them: a pair is connected or not; a cut lets messages vanish at once and
 * is noticed by the transport only after a while; what was under way when a connection broke is
 * lost. With plan.fifo a lane keeps its order; without it messages overtake one another, and with
 * dup_1000 some come twice: more than TCP would do to us.
 */
struct link {
    bool cut;              /* this direction */
    bool connected;        /* as the transport believes; the same in both directions */
    bool waiting;          /* a redial is scheduled */
    uint64_t generation;   /* of the connection */
    uint64_t lane_free[2]; /* earliest arrival of the next message, for order */
};

struct sim_links {
    struct link link[SIM_NODES_MAX + 1][SIM_NODES_MAX + 1];
    unsigned latency_us, jitter_us, loss_1000;
};

static struct link *link_of(struct sim_world *w, uint64_t from, uint64_t to)
{
    assert(from >= 1 && from <= SIM_NODES_MAX && to >= 1 && to <= SIM_NODES_MAX);
    return &w->links->link[from][to];
}

void sim_net_init(struct sim_world *w)
{
    w->links = sim_zalloc(&w->heap, sizeof *w->links);
    sim_net_weather(w, w->plan.latency_us, w->plan.jitter_us, w->plan.loss_1000);
}

void sim_net_done(struct sim_world *w)
{
    sim_free(w->links);
}

void sim_net_weather(struct sim_world *w, unsigned latency_us, unsigned jitter_us,
                     unsigned loss_1000)
{
    w->links->latency_us = latency_us;
    w->links->jitter_us = jitter_us;
    w->links->loss_1000 = loss_1000;
}

static uint64_t travel(struct sim_world *w)
{
    return w->links->latency_us + sim_skewed(&w->rng, 0, w->links->jitter_us);
}

bool sim_net_client_delay(struct sim_world *w, uint64_t *delay_us)
{
    *delay_us = travel(w);
    return !sim_chance(&w->rng, w->links->loss_1000);
}

static void put_message(struct sim_world *w, struct sim_replica *from, struct sim_node *to,
                        enum kl_lane lane, struct kl_bytes message)
{
    struct link *l = link_of(w, from->node->id, to->id);
    uint64_t us = travel(w) + (lane == KL_LANE_BULK ? w->plan.bulk_us : 0);
    struct sim_event *e;

    if (w->plan.fifo) {
        uint64_t at = sim_now(w) + us;

        at = at > l->lane_free[lane] ? at : l->lane_free[lane] + 1;
        l->lane_free[lane] = at;
        us = at - sim_now(w);
    }
    e = sim_schedule(w, SIM_EV_MESSAGE, to, us);
    e->replica = &to->replicas[from - from->node->replicas];
    e->a = from->node->id;
    e->b = l->generation;
    sim_event_data(w, e, message.ptr, message.len);
    sim_trace(w, sim_hash(message.ptr, message.len), us);
}

void sim_net_send(struct sim_world *w, struct sim_replica *from, uint64_t to, enum kl_lane lane,
                  struct kl_bytes message)
{
    struct sim_node *n = sim_node(w, to);
    struct link *l;

    if (n == NULL) {
        sim_fail(w, "n%llu sends to node %llu, which nobody ever was",
                 (unsigned long long)from->node->id, (unsigned long long)to);
        return;
    }
    l = link_of(w, from->node->id, to);
    if (!l->connected || l->cut || !n->up || sim_chance(&w->rng, w->links->loss_1000)) {
        return;
    }
    put_message(w, from, n, lane, message);
    if (sim_chance(&w->rng, w->plan.dup_1000)) {
        put_message(w, from, n, lane, message);
    }
}

bool sim_net_arrives(struct sim_world *w, uint64_t from, uint64_t to, uint64_t generation)
{
    const struct link *l = link_of(w, from, to);

    return !l->cut && l->generation == generation;
}

static void tell(struct sim_world *w, uint64_t id, uint64_t about, bool connected)
{
    struct sim_node *n = sim_node(w, id);

    if (n->up) {
        struct sim_event *e = sim_schedule(w, SIM_EV_PEER, n, sim_below(&w->rng, 500));

        e->a = about;
        e->b = connected;
    }
}

static void set_connected(struct sim_world *w, uint64_t a, uint64_t b, bool connected)
{
    if (link_of(w, a, b)->connected == connected) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        struct link *l = i == 0 ? link_of(w, a, b) : link_of(w, b, a);

        l->connected = connected;
        l->generation++;
        l->lane_free[0] = l->lane_free[1] = 0;
    }
    tell(w, a, b, connected);
    tell(w, b, a, connected);
}

static void redial_later(struct sim_world *w, uint64_t a, uint64_t b, uint64_t delay_us)
{
    struct link *l = a < b ? link_of(w, a, b) : link_of(w, b, a);
    struct sim_event *e;

    if (l->waiting) {
        return;
    }
    l->waiting = true;
    e = sim_schedule(w, SIM_EV_REDIAL, NULL, delay_us);
    e->a = a < b ? a : b;
    e->b = a < b ? b : a;
}

/* Looks whether the pair can speak; connects or breaks, and looks again while something is wrong. */
void sim_net_redial(struct sim_world *w, uint64_t a, uint64_t b)
{
    bool open = !link_of(w, a, b)->cut && !link_of(w, b, a)->cut;
    bool both = sim_node(w, a)->up && sim_node(w, b)->up;

    link_of(w, a, b)->waiting = false;
    set_connected(w, a, b, open && both);
    if (both && !open) {
        redial_later(w, a, b, sim_range(&w->rng, 100 * SIM_MS, SIM_S));
    }
}

void sim_net_cut(struct sim_world *w, uint64_t from, uint64_t to, bool cut)
{
    struct link *l = link_of(w, from, to);

    if (l->cut != cut) {
        l->cut = cut;
        /* A transport notices a dead connection late, a live one at its next dial. */
        redial_later(w, from, to,
                     cut ? sim_range(&w->rng, 200 * SIM_MS, 3 * SIM_S)
                         : sim_range(&w->rng, 1 * SIM_MS, 500 * SIM_MS));
    }
}

void sim_net_heal(struct sim_world *w)
{
    for (uint64_t a = 1; a <= SIM_NODES_MAX; a++) {
        for (uint64_t b = 1; b <= SIM_NODES_MAX; b++) {
            if (a != b) {
                sim_net_cut(w, a, b, false);
            }
        }
    }
}

void sim_net_node(struct sim_world *w, uint64_t id, bool up)
{
    for (uint64_t other = 1; other <= SIM_NODES_MAX; other++) {
        if (other == id) {
            continue;
        }
        if (up) {
            redial_later(w, id, other, sim_range(&w->rng, 1 * SIM_MS, 300 * SIM_MS));
        } else {
            set_connected(w, id, other, false);
        }
    }
}
