/*
 * Leadership belongs at home.
 *
 *   - Whoever is further away stands for election later (kl_placement_hold_ms). Nobody is kept from being
 *     elected by that: every voter gives its vote once it has heard no leader for the election timeout
 *     itself, whatever its own turn (wio.c). So leases need to know of one timeout only.
 *   - A leader elsewhere hands over to a voter nearer to home that has answered and been caught up
 *     without a break for failback_after. Who lost leadership at home soon after getting it waits
 *     twice as long the next time, and so on, and so does one that a transfer to home failed for: a home
 *     that comes and goes is not given it each time.
 *   - A witness and a drained node do not wait for that: they hand over as soon as somebody nearer has
 *     caught up.
 *   - Nothing is begun that could stop writes for longer than an election timeout: the successor
 *     lacks only what is on its way, and answers in a fraction of the timeout. Raft ends a transfer
 *     that takes longer (group_member.c).
 */
#include "server/raft/group_impl.h"

#include "server/runtime/log.h"

enum {
    DOUBLINGS_MAX = 4,   /* of failback_after */
    STEADY = 4,          /* a leadership of so many times failback_after is no flapping */
    RETRY_ELECTIONS = 4, /* after a transfer that failed: so many election timeouts */
    LAG_PART = 4,        /* a successor lacks what is younger than 1/4 of the timeout, */
    ROUND_TRIP_PART = 4, /* and answers within as much */
};

static uint64_t timeout_us(const struct kl_group *g)
{
    return (uint64_t)g->options.election_timeout_ms * 1000;
}

uint8_t kl_placement_distance(const struct kl_group *g, uint64_t node)
{
    return g->options.distance == NULL
               ? KL_DISTANCE_HOME
               : g->options.distance(g->options.distance_ctx, g->options.id, node);
}

unsigned kl_placement_hold_ms(const struct kl_group *g)
{
    unsigned t = g->options.election_timeout_ms;

    switch (kl_placement_distance(g, g->options.node_id)) {
    case KL_DISTANCE_HOME:
        return 0;
    case KL_DISTANCE_PAIR:
        return t; /* raft's own draw is from t to 2 t: so home is first if anybody is there */
    case KL_DISTANCE_WITNESS:
        return 2 * t;
    default:
        return 4 * t;
    }
}

/* ---- who led, and for how long ---- */

static uint64_t failback_us(const struct kl_group *g)
{
    return (uint64_t)(g->options.failback_after_ms == 0 ? KL_FAILBACK_MS
                                                        : g->options.failback_after_ms) *
           1000;
}

void kl_placement_leader(struct kl_group *g, uint64_t leader)
{
    struct kl_placement_state *p = &g->placement;
    uint64_t now = kl_group_now_us(g);

    if (leader == 0 || leader == p->leader) {
        return;
    }
    if (p->leader != 0) {
        p->changes++;
    }
    if (p->leader != 0 && kl_placement_distance(g, p->leader) == KL_DISTANCE_HOME &&
        kl_placement_distance(g, leader) != KL_DISTANCE_HOME) {
        bool steady = now - p->since_us >= STEADY * failback_us(g);

        p->doublings = steady ? 0 : p->doublings < DOUBLINGS_MAX ? p->doublings + 1 : DOUBLINGS_MAX;
    }
    p->leader = leader;
    p->since_us = now;
}

void kl_placement_led(struct kl_group *g)
{
    struct kl_placement_state *p = &g->placement;
    uint64_t now = kl_group_now_us(g);

    for (unsigned i = 0; i < KL_NODES_MAX; i++) {
        p->fits[i].node = 0;
    }
    p->retry_us = 0;
    p->led_ms = g->host->clock->wall_ms(g->host->clock->ctx);
    if (g->heard.at_us == 0) {
        p->how = KL_LED_FIRST;
        p->gap_ms = 0;
        return;
    }
    p->how =
        p->told_us != 0 && now - p->told_us <= 2 * timeout_us(g) ? KL_LED_HANDED : KL_LED_ELECTED;
    p->gap_ms = (now - g->heard.at_us) / 1000;
    if (p->how == KL_LED_ELECTED) {
        p->failover = (struct kl_failover){
            .term = g->raft.current_term,
            .at_ms = p->led_ms,
            .gap_ms = p->gap_ms,
            .from = p->leader,
        };
    }
}

/* ---- handing over ---- */

/* Can it take over at once? */
static bool fits(struct kl_group *g, const struct raft_server *s, uint64_t now)
{
    const struct kl_ack *ack = kl_group_ack(g, s->id);
    raft_index match = 0;

    return ack != NULL && ack->heard_us != 0 && now - ack->heard_us <= timeout_us(g) / 2 &&
           ack->heard_us - ack->sent_us <= timeout_us(g) / ROUND_TRIP_PART &&
           ack->capacity >= KL_LOG_CAPACITY_MIN_KB &&
           raft_match_index(&g->raft, s->id, &match) == 0 &&
           (match == raft_last_index(&g->raft) ||
            kl_group_lag_ms(g, match) <= g->options.election_timeout_ms / LAG_PART);
}

/* Since when the voter has fitted without a break; 0 = it does not now. */
static uint64_t fits_since(struct kl_group *g, const struct raft_server *s, uint64_t now)
{
    struct kl_placement_state *p = &g->placement;
    bool fit = fits(g, s, now);
    unsigned free_slot = KL_NODES_MAX;

    for (unsigned i = 0; i < KL_NODES_MAX; i++) {
        if (p->fits[i].node == s->id) {
            p->fits[i].since_us = !fit ? 0 : p->fits[i].since_us == 0 ? now : p->fits[i].since_us;
            return p->fits[i].since_us;
        }
        if (p->fits[i].node == 0 && free_slot == KL_NODES_MAX) {
            free_slot = i;
        }
    }
    if (!fit || free_slot == KL_NODES_MAX) {
        return 0;
    }
    p->fits[free_slot].node = s->id;
    p->fits[free_slot].since_us = now;
    return now;
}

static void handed(void *arg, enum kl_status status)
{
    struct kl_group *g = arg;

    g->placement.busy = false;
    if (status != KL_OK) {
        g->placement.doublings += g->placement.doublings < DOUBLINGS_MAX;
        g->placement.retry_us = kl_group_now_us(g) + RETRY_ELECTIONS * timeout_us(g);
        kl_log(KL_LOG_WARN, "raft", "leadership was not handed over group=%u status=%s",
               (unsigned)g->options.id, kl_status_name(status));
    }
}

static void hand(struct kl_group *g, uint64_t to, uint8_t own)
{
    static const char *const why[] = {
        [KL_DISTANCE_HOME] = "", /* never */
        [KL_DISTANCE_PAIR] = "home is back",
        [KL_DISTANCE_WITNESS] = "this is a witness",
        [KL_DISTANCE_DRAINED] = "this node is drained",
    };

    kl_log(KL_LOG_INFO, "raft", "handing leadership over group=%u to=%llu why=\"%s\"",
           (unsigned)g->options.id, (unsigned long long)to, why[own]);
    g->placement.busy = true;
    kl_group_transfer(g, to, handed, g);
}

/* How long a voter must have fitted before it is given leadership. */
static uint64_t wanted_us(const struct kl_group *g, uint8_t own)
{
    return own == KL_DISTANCE_PAIR ? failback_us(g) << g->placement.doublings : 0;
}

void kl_placement_turn(struct kl_group *g)
{
    const struct raft_configuration *conf = &g->raft.configuration;
    struct kl_placement_state *p = &g->placement;
    uint64_t now = kl_group_now_us(g);
    uint8_t own;
    uint8_t best_distance = UINT8_MAX;
    uint64_t best = 0;

    if (now - p->looked_us < (uint64_t)g->options.tick_ms * 1000) {
        return;
    }
    p->looked_us = now;
    own = kl_placement_distance(g, g->options.node_id);
    g->wio.hold_ms = kl_placement_hold_ms(g);
    if (g->lead_term == 0 || !g->ready || own == KL_DISTANCE_HOME) {
        return;
    }
    for (unsigned i = 0; i < conf->n; i++) {
        const struct raft_server *s = &conf->servers[i];
        uint8_t distance;
        uint64_t since;

        if (s->role != RAFT_VOTER || s->id == g->raft.id) {
            continue;
        }
        distance = kl_placement_distance(g, s->id);
        since = fits_since(g, s, now);
        if (distance < own && distance < best_distance && since != 0 &&
            now - since >= wanted_us(g, own)) {
            best = s->id;
            best_distance = distance;
        }
    }
    if (best != 0 && !p->busy && g->steers == NULL && now >= p->retry_us) {
        hand(g, best, own);
    }
}
