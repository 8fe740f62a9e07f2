/*
 * Steering: transfers of leadership, and nodes that join (ADD, STANDBY, VOTER) or leave, one step
 * at a time, each asked of whoever leads and asked again until the configuration says it is done.
 */
#include "tests/sim/parts.h"

#include <assert.h>
#include <inttypes.h>

enum { RETRY_US = 300 * SIM_MS, CHANGES_MAX = 6 };

struct change {
    uint64_t node;
    bool join;
    unsigned group; /* those before it are done */
    enum kl_member_change step;
    bool done;
    bool asked; /* the leader works on it */
};

struct sim_members {
    struct change changes[CHANGES_MAX];
    unsigned n, at;
};

static void again(struct sim_world *w, uint64_t delay_us)
{
    (void)sim_schedule(w, SIM_EV_MEMBER, NULL, delay_us);
}

void sim_members_init(struct sim_world *w)
{
    struct sim_members *m = sim_zalloc(&w->heap, sizeof *m);
    unsigned changes = 1 + (unsigned)sim_below(&w->rng, 3);

    w->members = m;
    if (!w->plan.members) {
        return;
    }
    for (unsigned i = 0; i < changes && w->plan.voters + i < SIM_NODES_MAX; i++) {
        m->changes[m->n++] =
            (struct change){.node = w->plan.voters + 1 + i, .join = true, .step = KL_MEMBER_ADD};
        if (sim_chance(&w->rng, 400) && m->n < CHANGES_MAX) { /* replace an older one by it */
            m->changes[m->n++] = (struct change){.node = 1 + i, .step = KL_MEMBER_REMOVE};
        }
    }
    again(w, sim_range(&w->rng, SIM_S, w->plan.fault_us / 2));
}

void sim_members_done(struct sim_world *w)
{
    sim_free(w->members);
}

bool sim_members_idle(struct sim_world *w)
{
    return w->members->at == w->members->n;
}

static struct sim_replica *leader_of(struct sim_world *w, unsigned g)
{
    struct sim_replica *best = NULL;

    for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
        struct sim_replica *r = &w->nodes[i].replicas[g];
        const struct raft *raft = r->io.data;

        if (w->nodes[i].up && !w->nodes[i].closing && r->group != NULL && raft != NULL &&
            raft->state == RAFT_LEADER &&
            (best == NULL ||
             ((const struct raft *)best->io.data)->current_term < raft->current_term)) {
            best = r;
        }
    }
    return best;
}

/* The role of a node in a committed configuration; -1: none. */
static int role_of(const struct raft *raft, uint64_t node)
{
    for (unsigned i = 0; i < raft->configuration.n; i++) {
        if (raft->configuration.servers[i].id == node) {
            return raft->configuration.servers[i].role;
        }
    }
    return -1;
}

static bool holds(const struct raft *raft, const struct change *c)
{
    int role = role_of(raft, c->node);

    if (raft->configuration_uncommitted_index != 0) {
        return false;
    }
    switch (c->step) {
    case KL_MEMBER_ADD:
        return role >= 0;
    case KL_MEMBER_STANDBY:
        return role == RAFT_STANDBY || role == RAFT_VOTER;
    case KL_MEMBER_VOTER:
        return role == RAFT_VOTER;
    default:
        return role == -1;
    }
}

static void ask(struct sim_world *w, struct sim_replica *leader, const struct change *c)
{
    struct sim_event *e = sim_schedule(w, SIM_EV_STEER, leader->node, 10);

    e->replica = leader;
    e->a = (uint64_t)c->step + 1;
    e->b = c->node;
}

/* The change of this group is done: the next step, group, or change. */
static void advance(struct sim_world *w, struct change *c)
{
    if (c->join && c->step != KL_MEMBER_VOTER) {
        c->step = c->step == KL_MEMBER_ADD ? KL_MEMBER_STANDBY : KL_MEMBER_VOTER;
        return;
    }
    c->step = c->join ? KL_MEMBER_ADD : KL_MEMBER_REMOVE;
    if (++c->group < w->plan.groups) {
        return;
    }
    sim_say(w, "n%" PRIu64 " has %s", c->node, c->join ? "joined" : "left");
    w->stats.joins += c->join;
    w->stats.removals += !c->join;
    w->members->at++;
    if (!c->join) {
        struct sim_node *n = sim_node(w, c->node);

        n->wanted = false;
        n->member = false;
        sim_node_stop(w, n);
    }
}

void sim_members_event(struct sim_world *w, struct sim_event *e)
{
    struct sim_members *m = w->members;
    struct change *c = &m->changes[m->at];
    struct sim_replica *leader;
    struct sim_node *n;

    (void)e;
    if (m->at == m->n) {
        return;
    }
    again(w, RETRY_US);
    n = sim_node(w, c->node);
    if (c->join && !n->wanted) {
        n->wanted = true;
        n->member = true;
        sim_node_start(w, n);
    }
    leader = leader_of(w, c->group);
    if (leader == NULL) {
        return;
    }
    if (holds(leader->io.data, c)) {
        advance(w, c);
    } else {
        ask(w, leader, c);
    }
}

/* ---- in a node's context ---- */

static void steered(void *arg, enum kl_status status)
{
    struct sim_replica *r = arg;

    r->steering = false;
    sim_say(r->node->w, "g%u steering ends with %s", r->group_id, kl_status_name(status));
}

void sim_steer_event(struct sim_node *n, struct sim_event *e)
{
    struct sim_replica *r = e->replica;
    struct sim_node *subject = sim_node(n->w, e->b);

    if (n->closing || r->steering) {
        return;
    }
    r->steering = true;
    if (e->a == 0) {
        kl_group_transfer(r->group, e->b, steered, r);
    } else {
        kl_group_change(r->group, (enum kl_member_change)(e->a - 1), e->b, subject->address,
                        steered, r);
    }
}

void sim_transfer(struct sim_world *w)
{
    unsigned g = (unsigned)sim_below(&w->rng, w->plan.groups);
    struct sim_replica *leader = leader_of(w, g);
    struct sim_event *e;

    if (leader == NULL) {
        return;
    }
    w->stats.transfers++;
    e = sim_schedule(w, SIM_EV_STEER, leader->node, 10);
    e->replica = leader;
    e->a = 0;
    e->b = sim_chance(&w->rng, 300) ? 0 : sim_range(&w->rng, 1, w->plan.nodes);
    sim_say(w, "n%" PRIu64 " is to hand g%u over to n%" PRIu64, leader->node->id, leader->group_id,
            e->b);
}
