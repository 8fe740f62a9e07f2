#include "server/runtime/cluster_clock.h"

#include <assert.h>
#include <string.h>

/* No clock is believed that says more: the end of the year 9999. Also keeps the sums in range. */
#define TIME_MAX_MS 253402300799999ULL

const char *kl_clock_doubt_text(enum kl_clock_doubt doubt)
{
    switch (doubt) {
    case KL_CLOCK_SURE:
        return "";
    case KL_CLOCK_NONE:
        return "the cluster's time is not known yet";
    case KL_CLOCK_FEW:
        return "fewer than a majority of the nodes' clocks can be read";
    case KL_CLOCK_AHEAD:
        return "the clocks are ahead of the cluster's time, and monotonic time does not explain it";
    case KL_CLOCK_BEHIND:
        return "the clocks are behind the cluster's time, and monotonic time does not explain it";
    case KL_CLOCK_GAP:
        return "the clocks are ahead of the last log entry by more than can be believed after a "
               "restart of the whole cluster";
    }
    return "";
}

void kl_cluster_clock_init(struct kl_cluster_clock *c, uint64_t own_id, const uint64_t *ids,
                           size_t n, uint64_t gap_max_ms)
{
    assert(n != 0 && n <= KL_NODES_MAX);
    memset(c, 0, sizeof *c);
    c->self = n;
    c->nodes_n = n;
    c->gap_max_ms = gap_max_ms;
    c->doubt = KL_CLOCK_NONE;
    for (size_t i = 0; i < n; i++) {
        c->nodes[i].node_id = ids[i];
        c->self = ids[i] == own_id ? i : c->self;
    }
    assert(c->self < n);
}

void kl_cluster_clock_members(struct kl_cluster_clock *c, const uint64_t *ids, size_t n)
{
    struct kl_clock_node old[KL_NODES_MAX];
    const size_t old_n = c->nodes_n;
    const uint64_t own_id = c->nodes[c->self].node_id;

    assert(n != 0 && n <= KL_NODES_MAX);
    memcpy(old, c->nodes, old_n * sizeof old[0]);
    c->self = n;
    c->nodes_n = n;
    for (size_t i = 0; i < n; i++) {
        c->nodes[i] = (struct kl_clock_node){.node_id = ids[i]};
        c->self = ids[i] == own_id ? i : c->self;
        for (size_t k = 0; k < old_n; k++) {
            if (old[k].node_id == ids[i]) {
                c->nodes[i] = old[k];
            }
        }
    }
    assert(c->self < n);
}

size_t kl_cluster_clock_majority(const struct kl_cluster_clock *c)
{
    return c->nodes_n / 2 + 1;
}

static int64_t offset_of(uint64_t ms, uint64_t mono_us)
{
    return (int64_t)ms * 1000 - (int64_t)mono_us;
}

static uint64_t ms_at(int64_t offset_us, uint64_t mono_us)
{
    int64_t us = (int64_t)mono_us + offset_us;

    return us < 0 ? 0 : (uint64_t)us / 1000;
}

static int64_t distance(int64_t a, int64_t b)
{
    return a < b ? b - a : a - b;
}

/* An answer came within half a round trip of the middle. What was known stays where that allows it, so
 * that a slow answer does not disturb what quick ones have told. */
static int64_t narrow(int64_t known, int64_t middle, uint64_t round_trip_us)
{
    int64_t half = (int64_t)(round_trip_us / 2);

    return known < middle - half ? middle - half : known > middle + half ? middle + half : known;
}

void kl_cluster_clock_hear(struct kl_cluster_clock *c, const struct kl_clock_reading *r)
{
    uint64_t then_us;

    if (r->wall_ms > TIME_MAX_MS || r->time_ms > TIME_MAX_MS || r->lead_ms > (int64_t)TIME_MAX_MS ||
        r->lead_ms < -(int64_t)TIME_MAX_MS || r->round_trip_us > KL_CLOCK_ROUND_TRIP_MS * 1000ULL ||
        r->round_trip_us > r->mono_us) {
        return;
    }
    then_us = r->mono_us - r->round_trip_us / 2; /* when it answered, as well as we can tell */
    for (size_t i = 0; i < c->nodes_n; i++) {
        struct kl_clock_node *node = &c->nodes[i];

        if (node->node_id == r->node_id && i != c->self) {
            int64_t wall_us = offset_of(r->wall_ms, then_us);
            int64_t time_us = offset_of(r->time_ms, then_us);

            node->wall_us =
                node->heard ? narrow(node->wall_us, wall_us, r->round_trip_us) : wall_us;
            node->time_us =
                node->offers ? narrow(node->time_us, time_us, r->round_trip_us) : time_us;
            node->heard = true;
            node->offers = r->time_ms != 0;
            node->mono_us = r->mono_us;
            node->lead_us = r->lead_ms * 1000;
        }
    }
}

static bool fresh(const struct kl_clock_node *node, uint64_t mono_us)
{
    return node->heard && mono_us - node->mono_us <= KL_CLOCK_FRESH_MS * 1000ULL;
}

/* Rule 2. */
static void read_clocks(struct kl_cluster_clock *c)
{
    int64_t sorted[KL_NODES_MAX] = {0};
    size_t n = 0;

    for (size_t i = 0; i < c->nodes_n; i++) {
        size_t at = n;

        if (!fresh(&c->nodes[i], c->looked_us)) {
            continue;
        }
        for (; at != 0 && sorted[at - 1] > c->nodes[i].wall_us; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = c->nodes[i].wall_us;
        n++;
    }
    c->heard_n = n;
    /* So many of a majority are not earlier. Our own is always among them. */
    c->clock_us = sorted[n > kl_cluster_clock_majority(c) ? n - kl_cluster_clock_majority(c) : 0];
}

static bool majority(const struct kl_cluster_clock *c)
{
    return c->heard_n >= kl_cluster_clock_majority(c);
}

static bool agrees(const struct kl_cluster_clock *c, int64_t time_us, int64_t lead_us)
{
    return distance(c->clock_us + lead_us, time_us) <= KL_CLOCK_AGREE_MS * 1000LL;
}

/* The offset of the last entry's time: rule 7. */
static int64_t floor_us(const struct kl_cluster_clock *c)
{
    return offset_of(c->last_entry_ms, c->looked_us);
}

/* A node that offers a time: one that agrees with the clocks (the earliest of those), or else, when
 * any will do, the earliest of all. NULL: none. */
static const struct kl_clock_node *offered(const struct kl_cluster_clock *c, bool any)
{
    const struct kl_clock_node *best = NULL;
    bool best_agrees = false;

    for (size_t i = 0; i < c->nodes_n; i++) {
        const struct kl_clock_node *node = &c->nodes[i];
        bool good;

        if (!fresh(node, c->looked_us) || !node->offers) {
            continue;
        }
        good = majority(c) && agrees(c, node->time_us, node->lead_us);
        if ((good || any) && (best == NULL || (good && !best_agrees) ||
                              (good == best_agrees && node->time_us < best->time_us))) {
            best = node;
            best_agrees = good;
        }
    }
    return best;
}

static void take_over(struct kl_cluster_clock *c, const struct kl_clock_node *node)
{
    c->time_us = node->time_us;
    c->lead_us = node->lead_us;
    c->known = c->settled = true;
    c->gap = false;
}

/* Rules 5 and 6: there is no time, or none that rests on a majority. Whoever has not answered yet may
 * have a time to offer, so all are waited for. */
static void settle(struct kl_cluster_clock *c)
{
    const struct kl_clock_node *node = offered(c, true);
    bool waited = c->looked_us - c->started_us >= KL_CLOCK_WAIT_MS * 1000ULL;

    if (node != NULL) {
        take_over(c, node);
        return;
    }
    if ((c->heard_n < c->nodes_n && !waited) || (c->known && !majority(c))) {
        return;
    }
    c->gap = c->last_entry_ms != 0 && c->clock_us - floor_us(c) > (int64_t)(c->gap_max_ms * 1000);
    c->time_us = c->gap ? floor_us(c) : c->clock_us;
    c->lead_us = 0;
    c->known = true;
    c->settled = majority(c);
}

/* Rule 3. */
static void follow(struct kl_cluster_clock *c, uint64_t elapsed_us)
{
    int64_t most = (int64_t)(elapsed_us / KL_CLOCK_SLEW);
    int64_t off = c->clock_us + c->lead_us - c->time_us;

    c->gap = false;
    c->time_us += off > most ? most : off < -most ? -most : off;
}

static void judge(struct kl_cluster_clock *c)
{
    if (!c->known) {
        c->doubt = KL_CLOCK_NONE;
    } else if (!majority(c) || !c->settled) {
        c->doubt = KL_CLOCK_FEW;
    } else if (agrees(c, c->time_us, c->lead_us)) {
        c->doubt = KL_CLOCK_SURE;
    } else if (c->clock_us + c->lead_us < c->time_us) {
        c->doubt = KL_CLOCK_BEHIND;
    } else {
        c->doubt = c->gap ? KL_CLOCK_GAP : KL_CLOCK_AHEAD;
    }
}

void kl_cluster_clock_look(struct kl_cluster_clock *c, uint64_t mono_us, uint64_t wall_ms,
                           uint64_t last_entry_ms)
{
    struct kl_clock_node *self = &c->nodes[c->self];
    uint64_t elapsed_us = c->started ? mono_us - c->looked_us : 0;

    c->started_us = c->started ? c->started_us : mono_us;
    c->started = true;
    c->looked_us = mono_us;
    c->last_entry_ms = last_entry_ms;
    self->heard = true;
    self->mono_us = mono_us;
    self->wall_us = offset_of(wall_ms < TIME_MAX_MS ? wall_ms : TIME_MAX_MS, mono_us);
    read_clocks(c);
    if (!c->settled) {
        settle(c);
    }
    if (c->settled && majority(c)) {
        if (agrees(c, c->time_us, c->lead_us)) {
            follow(c, elapsed_us);
        } else {
            const struct kl_clock_node *node = offered(c, false);

            if (node != NULL && node->time_us >= floor_us(c)) {
                take_over(c, node);
            }
        }
    }
    if (c->known && c->last_entry_ms != 0 && c->time_us < floor_us(c)) {
        c->time_us = floor_us(c);
    }
    judge(c);
}

uint64_t kl_cluster_clock_time_ms(const struct kl_cluster_clock *c, uint64_t mono_us)
{
    return c->known ? ms_at(c->time_us, mono_us) : 0;
}

uint64_t kl_cluster_clock_offer_ms(const struct kl_cluster_clock *c, uint64_t mono_us)
{
    return c->settled ? ms_at(c->time_us, mono_us) : 0;
}

uint64_t kl_cluster_clock_clocks_ms(const struct kl_cluster_clock *c, uint64_t mono_us)
{
    return c->heard_n == 0 ? 0 : ms_at(c->clock_us, mono_us);
}

bool kl_cluster_clock_offset(const struct kl_cluster_clock *c, size_t i, int64_t *ms)
{
    if (!c->known || !fresh(&c->nodes[i], c->looked_us)) {
        return false;
    }
    *ms = (c->nodes[i].wall_us + c->lead_us - c->time_us) / 1000;
    return true;
}

enum kl_status kl_cluster_clock_confirm(struct kl_cluster_clock *c, uint64_t mono_us,
                                        uint64_t shown_ms, bool step)
{
    int64_t floor = floor_us(c);
    uint64_t clocks_ms = ms_at(c->clock_us, mono_us);
    uint64_t latest_ms = shown_ms + KL_CLOCK_SHOWN_MS + KL_CLOCK_AGREE_MS;

    if (!c->known || !majority(c)) {
        return KL_UNAVAILABLE;
    }
    if (shown_ms != 0 && (shown_ms > TIME_MAX_MS || clocks_ms + KL_CLOCK_AGREE_MS < shown_ms ||
                          clocks_ms > latest_ms)) {
        return KL_CHANGED;
    }
    if (c->doubt == KL_CLOCK_SURE) {
        return KL_OK;
    }
    c->time_us = c->time_us > floor ? c->time_us : floor;
    if (step && c->clock_us > c->time_us) {
        c->time_us = c->clock_us;
    }
    c->lead_us = c->time_us - c->clock_us;
    c->settled = true;
    c->gap = false;
    judge(c);
    return KL_OK;
}
