#include "tests/sim/world.h"

#include "tests/sim/parts.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const event_names[SIM_EV_COUNT] = {
#define SIM_EVENT(name) #name,
    SIM_EVENTS(SIM_EVENT)
#undef SIM_EVENT
};

uint64_t sim_hash(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint64_t h = 0x9e3779b97f4a7c15ULL ^ n;
    uint64_t x;

    for (; n >= 8; n -= 8, b += 8) {
        memcpy(&x, b, 8);
        h = (h ^ x) * 0xff51afd7ed558ccdULL;
        h ^= h >> 32;
    }
    if (n != 0) {
        x = 0;
        memcpy(&x, b, n);
        h = (h ^ x) * 0xff51afd7ed558ccdULL;
    }
    return sim_mix(h);
}

uint64_t sim_now(const struct sim_world *w)
{
    return w->now_us + (w->current == NULL ? 0 : w->current->lag_us);
}

void sim_trace(struct sim_world *w, uint64_t a, uint64_t b)
{
    w->trace = sim_mix(w->trace ^ a) + b * 0x9e3779b97f4a7c15ULL;
}

/* ---- the queue ---- */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->seq < b->seq;
}

static void queue_put(struct sim_world *w, struct sim_event *e)
{
    size_t i = w->queue_n++;

    if (w->queue_n > w->queue_cap) {
        size_t cap = w->queue_cap == 0 ? 1024 : w->queue_cap * 2;
        struct sim_event **queue = sim_alloc(&w->heap, cap * sizeof(struct sim_event *));

        if (w->queue_cap != 0) {
            memcpy(queue, w->queue, w->queue_cap * sizeof(struct sim_event *));
        }
        sim_free(w->queue);
        w->queue = queue;
        w->queue_cap = cap;
    }
    for (; i > 0 && before(e, w->queue[(i - 1) / 2]); i = (i - 1) / 2) {
        w->queue[i] = w->queue[(i - 1) / 2];
    }
    w->queue[i] = e;
}

static struct sim_event *queue_take(struct sim_world *w)
{
    struct sim_event *first = w->queue[0];
    struct sim_event *last = w->queue[--w->queue_n];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= w->queue_n) {
            break;
        }
        if (child + 1 < w->queue_n && before(w->queue[child + 1], w->queue[child])) {
            child++;
        }
        if (!before(w->queue[child], last)) {
            break;
        }
        w->queue[i] = w->queue[child];
        i = child;
    }
    if (w->queue_n != 0) {
        w->queue[i] = last;
    }
    return first;
}

struct sim_event *sim_schedule(struct sim_world *w, enum sim_event_kind kind, struct sim_node *node,
                               uint64_t delay_us)
{
    struct sim_event *e = sim_zalloc(&w->heap, sizeof *e);

    e->at_us = sim_now(w) + delay_us;
    e->seq = ++w->seq;
    e->kind = kind;
    e->node = node;
    e->incarnation = node == NULL ? 0 : node->incarnation;
    queue_put(w, e);
    return e;
}

void sim_event_data(struct sim_world *w, struct sim_event *e, const void *p, size_t n)
{
    e->data = sim_alloc(&w->heap, n == 0 ? 1 : n);
    e->data_len = n;
    if (n != 0) {
        memcpy(e->data, p, n);
    }
}

static void event_free(struct sim_event *e)
{
    sim_free(e->data);
    sim_free(e);
}

/* ---- words ---- */

/* To print. SIM_S is of an enumeration, and newer compilers want its conversion said. */
static double seconds_now(const struct sim_world *w)
{
    return (double)sim_now(w) / (double)SIM_S;
}

void sim_fail(struct sim_world *w, const char *format, ...)
{
    va_list args;
    int n;

    if (w->failed) {
        return;
    }
    w->failed = true;
    n = snprintf(w->failure, sizeof w->failure, "at %.6f s: ", seconds_now(w));
    va_start(args, format);
    (void)vsnprintf(w->failure + n, sizeof w->failure - (size_t)n, format, args);
    va_end(args);
    sim_say(w, "FAILED: %s", w->failure);
}

void sim_say(struct sim_world *w, const char *format, ...)
{
    va_list args;

    if (w->verbose == 0) {
        return;
    }
    printf("%10.6f ", seconds_now(w));
    if (w->current != NULL) {
        printf("n%" PRIu64 " ", w->current->id);
    }
    va_start(args, format);
    (void)vprintf(format, args);
    va_end(args);
    printf("\n");
}

/* ---- running ---- */

_Noreturn void sim_crash_here(struct sim_world *w)
{
    assert(w->current != NULL);
    longjmp(w->crash, 1);
}

void sim_step(struct sim_world *w)
{
    struct sim_node *n = w->current;

    if (n != NULL && n->crash_after != 0 && --n->crash_after == 0 && w->troubled) {
        sim_say(w, "crashes in the middle of its work");
        sim_crash_here(w);
    }
}

/* Events of the world itself. */
static void run_world_event(struct sim_world *w, struct sim_event *e)
{
    switch (e->kind) {
    case SIM_EV_REDIAL:
        sim_net_redial(w, e->a, e->b);
        break;
    case SIM_EV_FAULT:
        sim_faults_event(w, e);
        break;
    case SIM_EV_NODE_START:
        sim_node_start(w, sim_node(w, e->a));
        break;
    case SIM_EV_CLIENT:
    case SIM_EV_REPLY:
        sim_clients_event(w, e);
        break;
    case SIM_EV_MEMBER:
        sim_members_event(w, e);
        break;
    default:
        assert(!"an event of nobody");
    }
}

/* Runs the event in its node, which may crash inside. */
static void run_node_event(struct sim_world *w, struct sim_event *e)
{
    struct sim_node *n = e->node;

    n->lag_us = 0;
    w->current = n;
    (void)sim_heap_enter(&n->heap);
    if (_setjmp(w->crash) == 0) {
        sim_node_event(n, e);
        (void)sim_heap_enter(&w->heap);
        n->acted_us = sim_now(w);
        n->resume_us = n->acted_us > n->resume_us ? n->acted_us : n->resume_us;
        w->current = NULL;
    } else {
        (void)sim_heap_enter(&w->heap);
        n->acted_us = sim_now(w);
        w->current = NULL;
        sim_node_crashed(w, n, sim_chance(&w->rng, 500));
    }
    sim_watch_node(w, n);
}

static void dispatch(struct sim_world *w, struct sim_event *e)
{
    struct sim_node *n = e->node;

    if (n != NULL && (!n->up || n->incarnation != e->incarnation)) {
        event_free(e); /* it waited for a process that is gone */
        return;
    }
    if (n != NULL && n->resume_us > w->now_us) {
        e->at_us = n->resume_us; /* paused: everything comes late, in the same order */
        e->seq = ++w->seq;
        queue_put(w, e);
        return;
    }
    w->events_run++;
    sim_trace(w, e->at_us, (uint64_t)e->kind << 32 ^ (n == NULL ? 0 : n->id) ^ e->data_len << 8);
    if (w->verbose > 2) {
        sim_say(w, "event %s n%" PRIu64 " %" PRIu64 " %" PRIu64, event_names[e->kind],
                n == NULL ? 0 : n->id, e->a, e->b);
    }
    if (n == NULL) {
        run_world_event(w, e);
    } else {
        run_node_event(w, e);
    }
    event_free(e);
}

void sim_world_run(struct sim_world *w, uint64_t until_us, bool (*done)(struct sim_world *w))
{
    struct sim_heap *outside = sim_heap_enter(&w->heap);

    sim_log_to(w);
    while (!w->failed && w->queue_n != 0 && w->queue[0]->at_us <= until_us) {
        struct sim_event *e = queue_take(w);

        assert(e->at_us >= w->now_us);
        w->now_us = e->at_us;
        dispatch(w, e);
        if (done != NULL && done(w)) {
            break;
        }
    }
    if (!w->failed && (done == NULL || !done(w)) && w->now_us < until_us) {
        w->now_us = until_us;
    }
    (void)sim_heap_enter(outside);
}

struct sim_world *sim_world_new(uint64_t seed, const struct sim_options *options)
{
    struct sim_heap *outside = sim_heap_enter(NULL);
    static struct sim_heap cradle; /* empty between worlds */
    struct sim_world *w = sim_zalloc(&cradle, sizeof *w);

    w->seed = seed;
    w->options = *options;
    w->verbose = options->verbose;
    w->rng.state = sim_mix(seed + 0x5eed);
    w->now_us = SIM_S;
    w->troubled = true;
    (void)sim_heap_enter(&w->heap);
    sim_plan_draw(w);
    kl_history_init(&w->history);
    sim_watch_init(w);
    sim_net_init(w);
    for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
        sim_node_init(w, &w->nodes[i], i + 1);
    }
    sim_clients_init(w);
    sim_faults_init(w);
    (void)sim_heap_enter(outside);
    return w;
}

void sim_world_free(struct sim_world *w)
{
    struct sim_heap *outside = sim_heap_enter(&w->heap);

    for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
        sim_node_done(w, &w->nodes[i]);
    }
    while (w->queue_n != 0) {
        event_free(queue_take(w));
    }
    sim_free(w->queue);
    sim_clients_done(w);
    sim_faults_done(w);
    sim_net_done(w);
    sim_watch_done(w);
    kl_history_done(&w->history);
    if (w->heap.blocks != 0 && !w->failed) {
        sim_heap_print(&w->heap);
        assert(!"the simulation itself lost memory");
    }
    sim_heap_drop(&w->heap);
    (void)sim_heap_enter(outside);
    sim_log_to(NULL);
    sim_free(w);
}
