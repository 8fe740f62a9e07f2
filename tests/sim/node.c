#include "tests/sim/parts.h"

#include "common/alloc.h"
#include "server/raft/group_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SCHEDULER_MS = 100, WALL_START_S = 1700000000 };

/* ---- time and chance of a node ---- */

static uint64_t mono_us(void *ctx)
{
    struct sim_node *n = ctx;
    struct sim_world *w = n->w;
    uint64_t now;

    /* A thread may lose the processor anywhere; between reading a clock and acting on it is worst. */
    if (w->current == n && n->stall_1000 != 0 && w->troubled &&
        sim_below(&w->rng, 100000) < n->stall_1000) {
        uint64_t us = sim_skewed(&w->rng, SIM_MS, 4ULL * w->plan.election_ms * SIM_MS);

        sim_say(w, "stalls for %" PRIu64 " us", us);
        n->lag_us += us;
    }
    now = sim_now(w);
    return n->mono_base_us + now + (uint64_t)((int64_t)(now / 1000) * n->rate_ppm / 1000);
}

uint64_t sim_true_wall_ms(const struct sim_world *w)
{
    return (uint64_t)WALL_START_S * 1000 + sim_now(w) / SIM_MS;
}

uint64_t sim_node_wall_ms(struct sim_node *n)
{
    return (uint64_t)((int64_t)sim_true_wall_ms(n->w) + n->wall_offset_ms);
}

static uint64_t wall_ms(void *ctx)
{
    struct sim_node *n = ctx;

    return sim_node_wall_ms(n);
}

static enum kl_status fill(void *ctx, uint8_t *out, size_t n)
{
    struct sim_node *node = ctx;

    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(sim_random(&node->rng) >> 32);
    }
    return KL_OK;
}

/* ---- the host of a group ---- */

static void host_send(void *ctx, struct kl_group *group, uint64_t to, enum kl_lane lane,
                      struct kl_bytes message)
{
    struct sim_replica *r = ctx;

    (void)group;
    sim_step(r->node->w);
    sim_net_send(r->node->w, r, to, lane, message);
}

static struct sim_event *replica_event(struct sim_replica *r, enum sim_event_kind kind,
                                       uint64_t delay_us)
{
    struct sim_event *e = sim_schedule(r->node->w, kind, r->node, delay_us);

    e->replica = r;
    return e;
}

static void host_post(void *ctx, struct kl_group *group, void (*fn)(void *arg), void *arg)
{
    struct sim_replica *r = ctx;
    struct sim_event *e = replica_event(r, SIM_EV_POST, 1);

    (void)group;
    e->fn = fn;
    e->arg = arg;
}

/* What one WORK event needs to know of its second half. */
struct job {
    void (*done)(void *arg);
    void *arg;
};

static void host_work(void *ctx, struct kl_group *group, void (*work)(void *arg),
                      void (*done)(void *arg), void *arg)
{
    struct sim_replica *r = ctx;
    struct sim_world *w = r->node->w;
    struct sim_event *e = replica_event(r, SIM_EV_WORK, sim_skewed(&w->rng, 10, 20 * SIM_MS));
    struct job job = {done, arg};

    (void)group;
    e->fn = work;
    e->arg = arg;
    sim_event_data(w, e, &job, sizeof job);
}

static void host_wake(void *ctx, struct kl_group *group)
{
    struct sim_replica *r = ctx;

    (void)group;
    if (!r->turn_pending) {
        r->turn_pending = true;
        (void)replica_event(r, SIM_EV_TURN, sim_below(&r->node->w->rng, 50));
    }
}

static void host_fatal(void *ctx, struct kl_group *group, const char *why)
{
    struct sim_replica *r = ctx;
    struct sim_world *w = r->node->w;

    (void)group;
    sim_say(w, "g%u ends the process: %s", r->group_id, why);
    w->stats.fatals++;
    sim_watch_fatal(w, r, why);
    sim_crash_here(w);
}

static void host_changed(void *ctx, struct kl_group *group)
{
    (void)ctx;
    (void)group;
}

static enum kl_status store_open(void *ctx, struct kl_group *group, bool staged, struct kl_kv **out)
{
    struct sim_replica *r = ctx;
    struct sim_store *s = staged ? &r->staged : &r->live;

    (void)group;
    sim_step(r->node->w);
    assert(!s->open);
    s->open = true;
    *out = &s->kv;
    return KL_OK;
}

static enum kl_status store_adopt(void *ctx, struct kl_group *group)
{
    struct sim_replica *r = ctx;

    (void)group;
    sim_step(r->node->w);
    sim_say(r->node->w, "g%u adopts the staged state", r->group_id);
    r->node->w->stats.adopted++;
    sim_store_swap(&r->live, &r->staged);
    sim_step(r->node->w);
    return KL_OK;
}

static enum kl_status store_drop_staged(void *ctx, struct kl_group *group)
{
    struct sim_replica *r = ctx;

    (void)group;
    assert(!r->staged.open);
    sim_step(r->node->w);
    sim_store_clear(&r->staged);
    return KL_OK;
}

static void replica_init(struct sim_world *w, struct sim_node *n, struct sim_replica *r,
                         uint16_t group_id)
{
    r->node = n;
    r->group_id = group_id;
    sim_disk_init(&r->disk, w, r);
    sim_store_init(&r->live, w, r, false);
    sim_store_init(&r->staged, w, r, true);
    r->host = (struct kl_group_host){
        .ctx = r,
        .clock = &n->agreed,
        .entropy = &n->entropy,
        .send = host_send,
        .post = host_post,
        .work = host_work,
        .wake = host_wake,
        .fatal = host_fatal,
        .changed = host_changed,
    };
}

void sim_node_init(struct sim_world *w, struct sim_node *n, uint64_t id)
{
    unsigned g = 0;

    *n = (struct sim_node){.w = w, .id = id};
    (void)snprintf(n->address, sizeof n->address, "10.0.0.%" PRIu64 ":7000", id);
    n->rng.state = sim_random(&w->rng);
    n->mono_base_us = sim_range(&w->rng, 1, 1000) * SIM_S;
    n->rate_ppm = (int64_t)sim_below(&w->rng, 2001) - 1000; /* a bad quartz: 0.1 % */
    n->wall_offset_ms = (int64_t)sim_below(&w->rng, 101) - 50;
    n->clock = (struct kl_clock){n, mono_us, wall_ms};
    n->entropy = (struct kl_entropy){n, fill};
    if (w->plan.directory) {
        replica_init(w, n, &n->replicas[g++], 0);
    }
    if (w->plan.vault) {
        replica_init(w, n, &n->replicas[g++], 1);
    }
    assert(g == w->plan.groups);
}

/* ---- starting and ending ---- */

/* 2 + 2 + 1 */
static uint8_t distance(void *ctx, uint16_t group, uint64_t node_id)
{
    const struct sim_node *n = ctx;

    (void)group;
    if (!n->w->plan.regions) {
        return KL_DISTANCE_HOME;
    }
    if (n->w->options.sabotage == SIM_SABOTAGE_ASTRAY && n->id == node_id) {
        return KL_DISTANCE_HOME;
    }
    return sim_distance(node_id);
}

static void open_replica(struct sim_world *w, struct sim_node *n, struct sim_replica *r)
{
    struct kl_group_options options = {
        .id = r->group_id,
        .node_id = n->id,
        .address = n->address,
        .dir = "",
        .election_timeout_ms = w->plan.election_ms,
        .tick_ms = w->plan.tick_ms,
        .distance = distance,
        .distance_ctx = n,
        .failback_after_ms = w->plan.failback_ms,
        .log_keep_bytes = w->plan.log_keep_bytes,
        .seed = (unsigned)sim_random(&n->rng) | 1u,
        .store_open = store_open,
        .store_adopt = store_adopt,
        .store_drop_staged = store_drop_staged,
    };
    struct kl_scheduler_options scheduler = {
        .clock = &n->agreed, .held = sim_clock_held, .held_ctx = n, .period_ms = SCHEDULER_MS};
    struct kl_member members[SIM_NODES_MAX];
    char err[256] = "";
    enum kl_status st;

    sim_disk_io(&r->disk, &r->io);
    st = kl_group_open(&r->host, &options, &r->io, &r->group, err, sizeof err);
    if (st == KL_OK) {
        r->group->wio.covers &= ~w->options.covers_off;
    }
    if (st == KL_OK && n->id <= w->plan.voters && r->disk.term == 0) {
        for (unsigned i = 0; i < w->plan.voters; i++) {
            members[i] = (struct kl_member){w->nodes[i].id, w->nodes[i].address};
        }
        st = kl_group_bootstrap(r->group, members, w->plan.voters);
    }
    st = st == KL_OK ? kl_group_start(r->group, err, sizeof err) : st;
    if (st != KL_OK && n->excused) {
        sim_say(w, "g%u cannot start on this disk: %s", r->group_id, err);
        sim_crash_here(w);
    }
    if (st == KL_OK) {
        scheduler.group = r->group;
        st = kl_scheduler_new(&scheduler, &r->scheduler);
    }
    if (st != KL_OK) {
        sim_fail(w, "n%" PRIu64 " g%u does not start: %s: %s", n->id, r->group_id,
                 kl_status_name(st), err);
    }
}

static void start_inside(struct sim_world *w, struct sim_node *n)
{
    sim_clock_start(n);
    for (unsigned g = 0; g < w->plan.groups && !w->failed; g++) {
        open_replica(w, n, &n->replicas[g]);
    }
}

void sim_node_start(struct sim_world *w, struct sim_node *n)
{
    if (n->up || !n->wanted) {
        return;
    }
    if (w->now_us < n->acted_us) { /* what it did before it crashed is not in the future */
        sim_schedule(w, SIM_EV_NODE_START, NULL, n->acted_us - w->now_us)->a = n->id;
        return;
    }
    n->exists = true;
    n->up = true;
    n->closing = false;
    n->incarnation++;
    n->resume_us = 0;
    n->lag_us = 0;
    n->crash_after = 0;
    n->reads = 0;
    n->groups_closing = false;
    sim_say(w, "n%" PRIu64 " starts", n->id);
    sim_net_node(w, n->id, true);
    (void)sim_schedule(w, SIM_EV_CLOSED, n, 0)->a; /* a = 0: begin */
}

static void replica_gone(struct sim_replica *r)
{
    r->group = NULL;
    r->scheduler = NULL;
    r->turn_pending = false;
    r->steering = false;
    r->led_term = 0;
    r->io.data = NULL;
}

static void node_down(struct sim_world *w, struct sim_node *n)
{
    n->up = false;
    n->closing = false;
    sim_net_node(w, n->id, false);
    if (n->wanted) {
        struct sim_event *e =
            sim_schedule(w, SIM_EV_NODE_START, NULL, sim_skewed(&w->rng, 10 * SIM_MS, 5 * SIM_S));

        e->a = n->id;
    }
}

void sim_node_crashed(struct sim_world *w, struct sim_node *n, bool power)
{
    if (!n->up) {
        return;
    }
    sim_say(w, "n%" PRIu64 " crashes%s", n->id, power ? " with its power" : "");
    for (unsigned g = 0; g < w->plan.groups; g++) {
        struct sim_replica *r = &n->replicas[g];

        sim_disk_crash(&r->disk, &w->rng);
        sim_store_crash(&r->live, &w->rng, power);
        sim_store_crash(&r->staged, &w->rng, power);
        replica_gone(r);
    }
    if (w->options.sabotage == SIM_SABOTAGE_LOST_VOTE) {
        for (unsigned g = 0; g < w->plan.groups; g++) {
            n->replicas[g].disk.voted_for = 0;
        }
    }
    sim_heap_drop(&n->heap);
    if (power) {
        n->mono_base_us = sim_range(&w->rng, 1, 1000) * SIM_S; /* the machine booted anew */
    }
    node_down(w, n);
}

static void group_closed(void *arg)
{
    struct sim_replica *r = arg;

    r->group = NULL;
    r->node->closed_n++;
}

/* In the node's context. Like a real one, a node first lets its calls end. */
static void stop_inside(struct sim_world *w, struct sim_node *n)
{
    n->closing = true;
    n->closed_n = 0;
    if (w->options.sabotage == SIM_SABOTAGE_LEAK) {
        (void)kl_malloc(10);
    }
    if (n->reads != 0) {
        sim_schedule(w, SIM_EV_CLOSED, n, SIM_MS)->a = 1;
        return;
    }
    n->groups_closing = true;
    for (unsigned g = 0; g < w->plan.groups; g++) {
        struct sim_replica *r = &n->replicas[g];

        kl_scheduler_free(r->scheduler);
        r->scheduler = NULL;
        kl_group_close(r->group, group_closed, r);
    }
}

void sim_node_stop(struct sim_world *w, struct sim_node *n)
{
    if (n->up && !n->closing) {
        sim_schedule(w, SIM_EV_CLOSED, n, 0)->a = 1; /* a = 1: stop */
    }
}

/* All groups have closed: the process ends, and everything must have been given back. */
static void stopped(struct sim_world *w, struct sim_node *n)
{
    struct sim_heap *heap = &n->heap;

    sim_say(w, "n%" PRIu64 " has stopped", n->id);
    if (heap->blocks != 0) {
        sim_heap_print(heap);
        sim_fail(w, "n%" PRIu64 " stopped and left %zu blocks (%zu bytes) of memory", n->id,
                 heap->blocks, heap->bytes);
    }
    for (unsigned g = 0; g < w->plan.groups; g++) {
        struct sim_replica *r = &n->replicas[g];

        if (r->live.open || r->staged.open) {
            sim_fail(w, "n%" PRIu64 " g%u stopped with an open store", n->id, r->group_id);
        }
        replica_gone(r);
        sim_disk_crash(&r->disk, &w->rng);
        sim_store_crash(&r->live, &w->rng, false);
        sim_store_crash(&r->staged, &w->rng, false);
    }
    sim_heap_drop(heap);
    node_down(w, n);
}

void sim_node_done(struct sim_world *w, struct sim_node *n)
{
    for (unsigned g = 0; g < w->plan.groups; g++) {
        struct sim_replica *r = &n->replicas[g];

        sim_disk_crash(&r->disk, &w->rng);
        sim_disk_clear(&r->disk);
        sim_store_clear(&r->live);
        sim_store_clear(&r->staged);
    }
    sim_heap_drop(&n->heap);
}

/* ---- events ---- */

static void deliver(struct sim_node *n, struct sim_event *e)
{
    struct kl_bytes message = {e->data, e->data_len};

    if (e->replica->group == NULL || !sim_net_arrives(n->w, e->a, n->id, e->b)) {
        return;
    }
    if (!sim_clock_letter(e->replica, e->a, message)) {
        kl_group_receive(e->replica->group, e->a, message);
    }
}

static void tick(struct sim_replica *r)
{
    sim_disk_tick(&r->disk);
    sim_clock_tick(r);
    if (r->scheduler != NULL) {
        kl_scheduler_tick(r->scheduler);
    }
}

static void run_work(struct sim_node *n, struct sim_event *e)
{
    struct sim_event *after;
    const struct job *job = (const void *)e->data;

    e->fn(e->arg);
    after = replica_event(e->replica, SIM_EV_WORK_DONE, sim_skewed(&n->w->rng, 10, 5 * SIM_MS));
    after->fn = job->done;
    after->arg = job->arg;
}

static void peer(struct sim_node *n, uint64_t id, bool connected)
{
    for (unsigned g = 0; g < n->w->plan.groups; g++) {
        if (n->replicas[g].group != NULL) {
            kl_group_peer(n->replicas[g].group, id, connected);
        }
    }
}

/* Everything a node does begins here, in its own memory. */
void sim_node_event(struct sim_node *n, struct sim_event *e)
{
    struct sim_replica *r = e->replica;

    if (r != NULL && r->group == NULL) {
        return; /* the group has closed meanwhile */
    }
    switch (e->kind) {
    case SIM_EV_TICK:
        tick(r);
        break;
    case SIM_EV_TURN:
        r->turn_pending = false;
        break; /* below */
    case SIM_EV_POST:
    case SIM_EV_WORK_DONE:
        e->fn(e->arg);
        break;
    case SIM_EV_WORK:
        run_work(n, e);
        break;
    case SIM_EV_MESSAGE:
        deliver(n, e);
        break;
    case SIM_EV_DISK:
        sim_disk_complete(&r->disk, e->a, e->arg);
        break;
    case SIM_EV_PEER:
        peer(n, e->a, e->b != 0);
        break;
    case SIM_EV_CLOSED:
        if (e->a == 0) {
            start_inside(n->w, n);
        } else if (!n->groups_closing) {
            stop_inside(n->w, n);
        }
        break;
    case SIM_EV_REQUEST:
    case SIM_EV_READ_STEP:
        sim_request_event(n, e);
        break;
    case SIM_EV_STEER:
        sim_steer_event(n, e);
        break;
    default:
        assert(!"an event of no node");
    }
    if (r != NULL && r->group != NULL && !n->closing) {
        kl_group_turn(r->group); /* once per turn of the loop */
    }
    if (n->groups_closing && n->closed_n == n->w->plan.groups) {
        struct sim_heap *outside = sim_heap_enter(&n->w->heap);

        stopped(n->w, n);
        (void)sim_heap_enter(outside);
    }
}
