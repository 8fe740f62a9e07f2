#include "server/node_clock.h"

#include "common/alloc.h"
#include "server/runtime/cluster_clock.h"
#include "server/runtime/log.h"

#include "peer.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_MAX = 256 };

struct kl_node_clock {
    struct kl_node_clock_options options;
    struct kl_clock agreed;
    /* For those who only want the time: its offset from the monotonic clock, or INT64_MIN. */
    atomic_int_least64_t time_us;
    atomic_bool held;
    atomic_uint_least64_t jumps;

    pthread_mutex_t lock; /* guards what follows */
    struct kl_cluster_clock clock;
    uint64_t asked_us;
    enum kl_clock_doubt said; /* in the log */
    bool said_off[KL_NODES_MAX];
};

static uint64_t mono_us(const struct kl_node_clock *nc)
{
    return nc->options.clock->mono_us(nc->options.clock->ctx);
}

static uint64_t wall_ms(const struct kl_node_clock *nc)
{
    return nc->options.clock->wall_ms(nc->options.clock->ctx);
}

/* ---- the time as others see it ---- */

static uint64_t agreed_mono_us(void *ctx)
{
    return mono_us(ctx);
}

static uint64_t agreed_ms(void *ctx)
{
    struct kl_node_clock *nc = ctx;
    int64_t offset = atomic_load_explicit(&nc->time_us, memory_order_relaxed);
    int64_t us;

    if (offset == INT64_MIN) {
        return 0;
    }
    us = (int64_t)mono_us(nc) + offset;
    return us < 0 ? 0 : (uint64_t)us / 1000;
}

const struct kl_clock *kl_node_clock_agreed(const struct kl_node_clock *nc)
{
    return &nc->agreed;
}

bool kl_node_clock_held(void *ctx)
{
    struct kl_node_clock *nc = ctx;

    return atomic_load(&nc->held);
}

uint64_t kl_node_clock_jumps(const struct kl_node_clock *nc)
{
    return atomic_load(&nc->jumps);
}

/* ---- asking and answering ---- */

static void send(struct kl_node_clock *nc, uint64_t to, const Kluis__Peer__Message *message)
{
    uint8_t packed[MESSAGE_MAX];

    if (kluis__peer__message__get_packed_size(message) <= sizeof packed) {
        size_t n = kluis__peer__message__pack(message, packed);

        nc->options.send(nc->options.ctx, to, kl_bytes_of(packed, n));
    }
}

void kl_node_clock_connected(struct kl_node_clock *nc, uint64_t node_id)
{
    Kluis__Peer__Message message = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__ClockAsk ask = KLUIS__PEER__CLOCK_ASK__INIT;

    ask.sent_us = mono_us(nc);
    message.body_case = KLUIS__PEER__MESSAGE__BODY_CLOCK_ASK;
    message.clock_ask = &ask;
    send(nc, node_id, &message);
}

static void answer(struct kl_node_clock *nc, uint64_t to, uint64_t sent_us)
{
    Kluis__Peer__Message message = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__ClockTell tell = KLUIS__PEER__CLOCK_TELL__INIT;

    tell.sent_us = sent_us;
    (void)pthread_mutex_lock(&nc->lock);
    tell.wall_ms = wall_ms(nc);
    tell.time_ms = kl_cluster_clock_offer_ms(&nc->clock, mono_us(nc));
    tell.lead_ms = nc->clock.lead_us / 1000;
    (void)pthread_mutex_unlock(&nc->lock);
    message.body_case = KLUIS__PEER__MESSAGE__BODY_CLOCK_TELL;
    message.clock_tell = &tell;
    send(nc, to, &message);
}

static void told(struct kl_node_clock *nc, uint64_t from, const Kluis__Peer__ClockTell *tell)
{
    struct kl_clock_reading r = {
        .node_id = from,
        .wall_ms = tell->wall_ms,
        .time_ms = tell->time_ms,
        .lead_ms = tell->lead_ms,
    };

    (void)pthread_mutex_lock(&nc->lock);
    r.mono_us = mono_us(nc); /* in the order of the readings */
    if (tell->sent_us <= r.mono_us) {
        r.round_trip_us = r.mono_us - tell->sent_us;
        kl_cluster_clock_hear(&nc->clock, &r);
    }
    (void)pthread_mutex_unlock(&nc->lock);
}

void kl_node_clock_receive(struct kl_node_clock *nc, uint64_t from, struct kl_bytes packed)
{
    Kluis__Peer__Message *m = NULL;
    struct kl_pb_budget budget;

    kl_pb_budget_init(&budget, (size_t)4 * MESSAGE_MAX);
    if (packed.len <= MESSAGE_MAX) {
        m = kluis__peer__message__unpack(&budget.allocator, packed.len, packed.ptr);
    }
    if (m == NULL) {
        return;
    }
    if (m->body_case == KLUIS__PEER__MESSAGE__BODY_CLOCK_ASK) {
        answer(nc, from, m->clock_ask->sent_us);
    } else if (m->body_case == KLUIS__PEER__MESSAGE__BODY_CLOCK_TELL) {
        told(nc, from, m->clock_tell);
    }
    kluis__peer__message__free_unpacked(m, &budget.allocator);
}

/* ---- what people must know ---- */

static bool is_jump(enum kl_clock_doubt doubt)
{
    return doubt == KL_CLOCK_AHEAD || doubt == KL_CLOCK_BEHIND || doubt == KL_CLOCK_GAP;
}

static int64_t clocks_ahead_ms(const struct kl_cluster_clock *c)
{
    return (c->clock_us + c->lead_us - c->time_us) / 1000;
}

static void say_doubt_locked(struct kl_node_clock *nc)
{
    const struct kl_cluster_clock *c = &nc->clock;
    enum kl_clock_doubt doubt = c->doubt;

    if (doubt == nc->said) {
        return;
    }
    if (is_jump(doubt)) {
        atomic_fetch_add(&nc->jumps, 1);
        kl_log(KL_LOG_WARN, "clock",
               "scheduled purges are held: %s ahead_ms=%lld "
               "hint=\"set the clocks right, or: kluis cluster confirm-time\"",
               kl_clock_doubt_text(doubt), (long long)clocks_ahead_ms(c));
    } else if (doubt == KL_CLOCK_SURE) {
        kl_log(KL_LOG_INFO, "clock", "the clocks agree with the cluster's time heard=%zu",
               c->heard_n);
    } else if (nc->said != KL_CLOCK_NONE) {
        kl_log(KL_LOG_INFO, "clock", "scheduled purges are held: %s heard=%zu majority=%zu",
               kl_clock_doubt_text(doubt), c->heard_n, kl_cluster_clock_majority(c));
    }
    nc->said = doubt;
}

/* A clock that is off alone changes nothing, but somebody should set it right. */
static void say_off_locked(struct kl_node_clock *nc)
{
    for (size_t i = 0; i < nc->clock.nodes_n; i++) {
        int64_t ms = 0;
        bool off;

        if (!kl_cluster_clock_offset(&nc->clock, i, &ms)) {
            continue;
        }
        off = llabs(ms) > KL_CLOCK_AGREE_MS;
        if (off != nc->said_off[i]) {
            kl_log(off ? KL_LOG_WARN : KL_LOG_INFO, "clock", "%s node=%llu ahead_ms=%lld",
                   off ? "a node's clock is off" : "a node's clock is right again",
                   (unsigned long long)nc->clock.nodes[i].node_id, (long long)ms);
            nc->said_off[i] = off;
        }
    }
}

static void publish_locked(struct kl_node_clock *nc)
{
    atomic_store(&nc->time_us, nc->clock.known ? nc->clock.time_us : INT64_MIN);
    atomic_store(&nc->held, nc->clock.doubt != KL_CLOCK_SURE);
    say_doubt_locked(nc);
}

void kl_node_clock_members(struct kl_node_clock *nc, const uint64_t *ids, size_t n)
{
    bool same = n == nc->clock.nodes_n; /* only this thread changes them */

    for (size_t i = 0; same && i < n; i++) {
        same = nc->clock.nodes[i].node_id == ids[i];
    }
    if (same) {
        return;
    }
    (void)pthread_mutex_lock(&nc->lock);
    kl_cluster_clock_members(&nc->clock, ids, n);
    memset(nc->said_off, 0, sizeof nc->said_off);
    (void)pthread_mutex_unlock(&nc->lock);
}

void kl_node_clock_tick(struct kl_node_clock *nc, uint64_t last_entry_ms)
{
    uint64_t now_us;
    bool ask;

    (void)pthread_mutex_lock(&nc->lock);
    now_us = mono_us(nc);
    kl_cluster_clock_look(&nc->clock, now_us, wall_ms(nc), last_entry_ms);
    publish_locked(nc);
    say_off_locked(nc);
    ask = now_us - nc->asked_us >= KL_CLOCK_ASK_MS * 1000ULL;
    nc->asked_us = ask ? now_us : nc->asked_us;
    (void)pthread_mutex_unlock(&nc->lock);
    for (size_t i = 0; ask && i < nc->clock.nodes_n; i++) {
        if (i != nc->clock.self) {
            kl_node_clock_connected(nc,
                                    nc->clock.nodes[i].node_id); /* only this thread changes ids */
        }
    }
}

/* ---- status and the operator ---- */

void kl_node_clock_view(struct kl_node_clock *nc, struct kl_clock_view *out)
{
    const struct kl_cluster_clock *c = &nc->clock;
    uint64_t now_us;

    *out = (struct kl_clock_view){.wall_ms = wall_ms(nc)};
    (void)pthread_mutex_lock(&nc->lock);
    now_us = mono_us(nc);
    out->time_ms = kl_cluster_clock_time_ms(c, now_us);
    out->clocks_ms = kl_cluster_clock_clocks_ms(c, now_us);
    out->lead_ms = c->lead_us / 1000;
    out->held = c->doubt != KL_CLOCK_SURE;
    out->why = kl_clock_doubt_text(c->doubt);
    out->heard = c->heard_n;
    out->majority = kl_cluster_clock_majority(c);
    out->nodes_n = c->nodes_n;
    for (size_t i = 0; i < c->nodes_n; i++) {
        out->nodes[i].node_id = c->nodes[i].node_id;
        out->nodes[i].known = kl_cluster_clock_offset(c, i, &out->nodes[i].ahead_ms);
    }
    (void)pthread_mutex_unlock(&nc->lock);
}

enum kl_status kl_node_clock_confirm(struct kl_node_clock *nc, uint64_t shown_ms, bool step)
{
    enum kl_status st;
    uint64_t before_ms;
    uint64_t after_ms;

    (void)pthread_mutex_lock(&nc->lock);
    before_ms = kl_cluster_clock_time_ms(&nc->clock, mono_us(nc));
    st = kl_cluster_clock_confirm(&nc->clock, mono_us(nc), shown_ms, step);
    after_ms = kl_cluster_clock_time_ms(&nc->clock, mono_us(nc));
    if (st == KL_OK) {
        kl_log(KL_LOG_WARN, "clock",
               "the clocks were confirmed by an operator before_ms=%llu time_ms=%llu lead_ms=%lld",
               (unsigned long long)before_ms, (unsigned long long)after_ms,
               (long long)(nc->clock.lead_us / 1000));
        publish_locked(nc);
    }
    (void)pthread_mutex_unlock(&nc->lock);
    return st;
}

/* ---- making and freeing ---- */

enum kl_status kl_node_clock_new(const struct kl_node_clock_options *options,
                                 struct kl_node_clock **out)
{
    struct kl_node_clock *nc = kl_calloc(1, sizeof *nc);

    if (nc == NULL) {
        return KL_NO_MEMORY;
    }
    nc->options = *options;
    nc->options.ids = NULL; /* borrowed only for the call */
    nc->agreed = (struct kl_clock){nc, agreed_mono_us, agreed_ms};
    atomic_init(&nc->time_us, INT64_MIN);
    atomic_init(&nc->held, true);
    (void)pthread_mutex_init(&nc->lock, NULL);
    nc->said = KL_CLOCK_NONE;
    kl_cluster_clock_init(&nc->clock, options->node_id, options->ids, options->n,
                          KL_CLOCK_GAP_DAYS * KL_DAY_MS);
    *out = nc;
    return KL_OK;
}

void kl_node_clock_free(struct kl_node_clock *nc)
{
    if (nc != NULL) {
        (void)pthread_mutex_destroy(&nc->lock);
        kl_free(nc);
    }
}
