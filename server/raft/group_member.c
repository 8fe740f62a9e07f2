/*
 * Transfer of leadership and changes of membership: asked for from any thread, done one after the
 * other on the group's own, in its turn (raft's functions may not be called from its callbacks).
 * Raft's requests live in the group: a failed one may still be referred to by raft.
 */
#include "server/raft/group_impl.h"

#include "common/alloc.h"

#include <stdio.h>
#include <string.h>

/* ---- the list ---- */

static void steer_finish(struct kl_group *g, enum kl_status status)
{
    struct kl_steer *s = g->steers;

    g->steers = s->next;
    if (g->steers == NULL) {
        g->steers_tail = &g->steers;
    }
    g->steers_n--;
    g->step = KL_STEP_IDLE;
    g->changed = true;
    if (g->steers != NULL && !g->closing) {
        kl_group_wake(g); /* the next one, in the next turn */
    }
    if (s->done != NULL) {
        s->done(s->arg, status);
    }
    kl_free(s);
}

void kl_group_steer_fail(struct kl_group *g)
{
    while (g->steers != NULL) {
        steer_finish(g, KL_UNAVAILABLE);
    }
}

static void steer_add(void *arg)
{
    struct kl_steer *s = arg;
    struct kl_group *g = s->group;

    *g->steers_tail = s;
    g->steers_tail = &s->next;
    g->steers_n++;
    if (g->closing || g->dead) {
        kl_group_steer_fail(g);
        return;
    }
    kl_group_wake(g);
}

static void steer_post(struct kl_group *g, enum kl_steer_kind kind, enum kl_member_change change,
                       uint64_t node, const char *address, kl_group_done_fn done, void *arg)
{
    struct kl_steer *s = kl_calloc(1, sizeof *s);

    if (s == NULL) {
        done(arg, KL_NO_MEMORY);
        return;
    }
    s->group = g;
    s->kind = kind;
    s->change = change;
    s->node = node;
    (void)snprintf(s->address, sizeof s->address, "%s", address == NULL ? "" : address);
    s->done = done;
    s->arg = arg;
    g->host->post(g->host->ctx, g, steer_add, s);
}

void kl_group_transfer(struct kl_group *g, uint64_t to_node, kl_group_done_fn done, void *arg)
{
    steer_post(g, KL_STEER_TRANSFER, KL_MEMBER_ADD, to_node, NULL, done, arg);
}

void kl_group_change(struct kl_group *g, enum kl_member_change change, uint64_t node_id,
                     const char *address, kl_group_done_fn done, void *arg)
{
    steer_post(g, KL_STEER_CHANGE, change, node_id, address, done, arg);
}

static void handed_over(void *arg, enum kl_status status)
{
    (void)arg;
    (void)status;
}

bool kl_group_hand_over(struct kl_group *g)
{
    if (g->steers_n >= KL_CHANGES_QUEUED_MAX) {
        return false;
    }
    kl_group_transfer(g, 0, handed_over, NULL);
    return true;
}

/* ---- transfer ---- */

static const struct raft_server *member_of(const struct kl_group *g, uint64_t node)
{
    const struct raft_configuration *conf = &g->raft.configuration;

    for (unsigned i = 0; i < conf->n; i++) {
        if (conf->servers[i].id == node) {
            return &conf->servers[i];
        }
    }
    return NULL;
}

uint64_t kl_group_successor(struct kl_group *g, bool with_room)
{
    const struct raft_configuration *conf = &g->raft.configuration;
    uint64_t now = kl_group_now_us(g);
    uint64_t best = 0;
    unsigned best_distance = 0;
    raft_index best_match = 0;

    for (unsigned i = 0; i < conf->n; i++) {
        const struct raft_server *s = &conf->servers[i];
        raft_index match = 0;
        const struct kl_ack *ack;
        unsigned distance;

        if (s->role != RAFT_VOTER || s->id == g->raft.id) {
            continue;
        }
        ack = kl_group_ack(g, s->id);
        if (ack == NULL || ack->heard_us == 0 ||
            now - ack->heard_us > (uint64_t)g->options.election_timeout_ms * 1000 ||
            (with_room && ack->capacity < KL_LOG_CAPACITY_MIN_KB) ||
            raft_match_index(&g->raft, s->id, &match) != 0) {
            continue;
        }
        distance = kl_placement_distance(g, s->id);
        if (kl_group_lag_ms(g, match) > g->options.election_timeout_ms / 2) {
            distance += KL_DISTANCE_DRAINED + 1; /* it would have to catch up first */
        }
        if (best == 0 || distance < best_distance ||
            (distance == best_distance && match > best_match)) {
            best = s->id;
            best_match = match;
            best_distance = distance;
        }
    }
    return best;
}

static void transfer_start(struct kl_group *g, struct kl_steer *s)
{
    int rv;

    g->lease_off_term = g->lead_term;
    kl_group_lease_drop(g);
    g->timeout_now_sent = false;
    g->step_us = kl_group_now_us(g);
    memset(&g->transfer, 0, sizeof g->transfer);
    rv = raft_transfer(&g->raft, &g->transfer, s->node, NULL);
    if (rv == 0) {
        g->step = KL_STEP_RUNNING;
        return;
    }
    if (!g->timeout_now_sent) {
        g->lease_off_term = 0;
    }
    steer_finish(g, rv == RAFT_NOTLEADER ? KL_NOT_LEADER : KL_UNAVAILABLE);
}

/*
 * N16: raft sends TimeoutNow as soon as everything is sent, and a node that is still storing entries
 * ignores it: an election timeout is lost, and then the leadership. So nothing is proposed until the
 * successor has stored all, and when it takes too long for that nothing has happened.
 */
static void transfer_settle(struct kl_group *g, struct kl_steer *s)
{
    const struct raft_server *m = member_of(g, s->node);
    raft_index match = 0;

    if (g->lead_term != g->step_term) {
        steer_finish(g, KL_NOT_LEADER);
    } else if (m == NULL || m->role != RAFT_VOTER ||
               raft_match_index(&g->raft, s->node, &match) != 0 ||
               match == raft_last_index(&g->raft)) {
        transfer_start(g, s); /* or raft says why not */
    } else if (kl_group_now_us(g) - g->step_us > (uint64_t)g->options.election_timeout_ms * 1000) {
        steer_finish(g, KL_TIMEOUT);
    }
}

static void transfer_begin(struct kl_group *g, struct kl_steer *s)
{
    if (s->node == g->raft.id) {
        steer_finish(g, KL_OK); /* it leads already */
        return;
    }
    if (s->node == 0) {
        s->node = kl_group_successor(g, true);
    }
    if (s->node == 0) {
        s->node = kl_group_successor(g, false);
    }
    if (s->node == 0) {
        steer_finish(g, KL_UNAVAILABLE);
        return;
    }
    g->step = KL_STEP_SETTLING;
    g->step_term = g->lead_term;
    g->step_us = kl_group_now_us(g);
    transfer_settle(g, s);
}

/*
 * A TimeoutNow that was sent may still make the other node ask for votes, and those who hear us
 * would give them: in this term there can be no lease any more. So when the transfer fails after
 * it, leadership is given up; the election that follows has a higher term, in which such votes
 * count for nothing.
 */
static void transfer_step(struct kl_group *g, const struct kl_steer *s)
{
    uint64_t waited = kl_group_now_us(g) - g->step_us;
    uint64_t leader = atomic_load(&g->leader);

    if (g->lead_term == g->step_term) {
        if (raft_transferee(&g->raft) != 0) {
            return; /* raft ends it after an election timeout */
        }
        if (g->timeout_now_sent) {
            kl_wio_step_down(&g->wio);
        } else {
            g->lease_off_term = 0;
        }
        steer_finish(g, KL_TIMEOUT);
        return;
    }
    if (leader != 0) {
        steer_finish(g, leader == s->node ? KL_OK : KL_UNAVAILABLE);
    } else if (waited > 2 * (uint64_t)g->options.election_timeout_ms * 1000) {
        steer_finish(g, KL_TIMEOUT);
    }
}

/* ---- membership ---- */

static int role_of(enum kl_member_change change)
{
    switch (change) {
    case KL_MEMBER_STANDBY:
        return RAFT_STANDBY;
    case KL_MEMBER_VOTER:
        return RAFT_VOTER;
    default:
        return RAFT_SPARE;
    }
}

/* Is the configuration what the change asks for? */
static bool change_holds(const struct kl_group *g, const struct kl_steer *s)
{
    const struct raft_server *m = member_of(g, s->node);

    switch (s->change) {
    case KL_MEMBER_ADD:
        return m != NULL;
    case KL_MEMBER_REMOVE:
        return m == NULL;
    default:
        return m != NULL && m->role == role_of(s->change);
    }
}

static enum kl_status change_error(int rv)
{
    switch (rv) {
    case RAFT_NOTLEADER:
        return KL_NOT_LEADER;
    case RAFT_NOTFOUND:
    case RAFT_BADID:
        return KL_NOT_FOUND;
    case RAFT_DUPLICATEID:
    case RAFT_DUPLICATEADDRESS:
        return KL_ALREADY_EXISTS;
    case RAFT_NOMEM:
        return KL_NO_MEMORY;
    case RAFT_NOSPACE:
        return KL_NO_SPACE;
    default:
        return KL_UNAVAILABLE;
    }
}

static void change_submit(struct kl_group *g, struct kl_steer *s)
{
    int rv;

    if (change_holds(g, s)) {
        steer_finish(g, s->change == KL_MEMBER_ADD ? KL_ALREADY_EXISTS : KL_OK);
        return;
    }
    memset(&g->change, 0, sizeof g->change);
    switch (s->change) {
    case KL_MEMBER_ADD:
        rv = raft_add(&g->raft, &g->change, s->node, s->address, NULL);
        break;
    case KL_MEMBER_REMOVE:
        rv = raft_remove(&g->raft, &g->change, s->node, NULL);
        break;
    default:
        rv = raft_assign(&g->raft, &g->change, s->node, role_of(s->change), NULL);
        break;
    }
    if (rv == 0) {
        g->step = KL_STEP_RUNNING;
        return;
    }
    if (g->raft.legacy.change == &g->change) {
        g->raft.legacy.change = NULL; /* N7: a refused raft_assign leaves its request behind */
    }
    steer_finish(g, change_error(rv));
}

static unsigned voters(const struct kl_group *g)
{
    unsigned n = 0;

    for (unsigned i = 0; i < g->raft.configuration.n; i++) {
        n += g->raft.configuration.servers[i].role == RAFT_VOTER;
    }
    return n;
}

/*
 * N20: raft lets nobody stand for election who has no vote in the newest configuration he knows. If
 * one of two voters leads, takes his own vote and crashes before the other knows, neither can ever
 * lead. So the other leads first, and is asked then. The last voter stays.
 */
static enum kl_status change_of_self(struct kl_group *g, const struct kl_steer *s)
{
    const struct raft_server *self = member_of(g, g->raft.id);

    if (s->node != g->raft.id || s->change == KL_MEMBER_ADD || s->change == KL_MEMBER_VOTER ||
        self == NULL || self->role != RAFT_VOTER || voters(g) > 2) {
        return KL_OK;
    }
    if (voters(g) == 1) {
        return KL_INVALID_ARGUMENT;
    }
    return kl_group_hand_over(g) ? KL_NOT_LEADER : KL_UNAVAILABLE;
}

static void change_begin(struct kl_group *g, struct kl_steer *s)
{
    enum kl_status st;
    int rv;

    if (s->node == 0 || s->node > KL_NODE_ID_MAX ||
        (s->change == KL_MEMBER_ADD && s->address[0] == 0)) {
        steer_finish(g, KL_INVALID_ARGUMENT);
        return;
    }
    if (s->change == KL_MEMBER_ADD && g->raft.configuration.n >= KL_NODES_MAX) {
        steer_finish(g, KL_EXHAUSTED);
        return;
    }
    st = change_of_self(g, s);
    if (st != KL_OK) {
        steer_finish(g, st);
        return;
    }
    memset(&g->barrier, 0, sizeof g->barrier);
    g->step_term = g->lead_term;
    g->step_index = raft_last_index(&g->raft) + 1;
    rv = raft_barrier(&g->raft, &g->barrier, NULL);
    if (rv != 0) {
        steer_finish(g, change_error(rv));
        return;
    }
    g->step = KL_STEP_BARRIER;
}

static void change_step(struct kl_group *g, struct kl_steer *s)
{
    const struct raft *r = &g->raft;

    if (g->step == KL_STEP_RUNNING && r->legacy.change != &g->change &&
        r->configuration_uncommitted_index == 0 && change_holds(g, s)) {
        steer_finish(g, KL_OK); /* also when it removed this leader */
        return;
    }
    if (g->lead_term != g->step_term) {
        steer_finish(g, g->step == KL_STEP_BARRIER ? KL_NOT_LEADER : KL_UNAVAILABLE);
        return;
    }
    if (g->step == KL_STEP_BARRIER && r->last_applied >= g->step_index) {
        change_submit(g, s);
    } else if (g->step == KL_STEP_RUNNING && r->legacy.change != &g->change &&
               r->configuration_uncommitted_index == 0) {
        steer_finish(g, KL_TIMEOUT); /* the new voter did not catch up in time */
    }
}

void kl_group_steer_turn(struct kl_group *g)
{
    struct kl_steer *s = g->steers;

    if (s == NULL || g->dead) {
        return;
    }
    while (g->steers_n > KL_CHANGES_QUEUED_MAX) {
        struct kl_steer **last = &g->steers;

        while (&(*last)->next != g->steers_tail) {
            last = &(*last)->next;
        }
        s = *last;
        *last = NULL;
        g->steers_tail = last;
        g->steers_n--;
        s->done(s->arg, KL_EXHAUSTED);
        kl_free(s);
    }
    s = g->steers;
    if (g->step != KL_STEP_IDLE) {
        if (g->step == KL_STEP_SETTLING) {
            transfer_settle(g, s);
        } else if (s->kind == KL_STEER_TRANSFER) {
            transfer_step(g, s);
        } else {
            change_step(g, s);
        }
    } else if (g->lead_term == 0) {
        steer_finish(g, KL_NOT_LEADER);
    } else if (s->kind == KL_STEER_TRANSFER) {
        transfer_begin(g, s);
    } else if (g->ready) {
        change_begin(g, s);
    }
}
