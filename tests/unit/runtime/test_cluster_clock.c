/* The cluster's time: what each node makes of a wrong clock, and that nothing makes it run ahead. */
#include "server/runtime/cluster_clock.h"
#include "tests/lib/test.h"

#include <stdlib.h>
#include <string.h>

enum { NODES = 5, STEP_MS = 250 };
#define DAY_MS   86400000LL
#define START_MS 1700000000000ULL

/* A world of nodes; true time is known only here. */
struct machine {
    struct kl_cluster_clock clock;
    bool up;
    uint64_t mono_us;
    int64_t off_ms;    /* of its wall clock */
    int64_t rate_ppm;  /* of its wall clock, against true time */
    uint64_t entry_ms; /* last entry it has */
};
struct world {
    size_t n;
    uint64_t true_ms;
    unsigned asks;
    bool cut[NODES]; /* hears nobody and is heard by nobody */
    struct machine m[NODES];
};

static uint64_t wall_of(const struct world *w, const struct machine *m)
{
    int64_t drift = (int64_t)(w->true_ms - START_MS) * m->rate_ppm / 1000000;

    return (uint64_t)((int64_t)w->true_ms + m->off_ms + drift);
}

static void begin(struct world *w, size_t i)
{
    static const uint64_t ids[NODES] = {1, 2, 3, 4, 5};

    w->m[i].up = true;
    kl_cluster_clock_init(&w->m[i].clock, i + 1, ids, w->n, KL_CLOCK_GAP_DAYS * (uint64_t)DAY_MS);
}

static void make(struct world *w, size_t n)
{
    *w = (struct world){.n = n, .true_ms = START_MS};
    for (size_t i = 0; i < n; i++) {
        w->m[i].mono_us = (i + 1) * 1000000000ULL; /* booted at different times */
        begin(w, i);
    }
}

static uint64_t time_of(const struct world *w, size_t i)
{
    return kl_cluster_clock_time_ms(&w->m[i].clock, w->m[i].mono_us);
}

static enum kl_clock_doubt doubt_of(const struct world *w, size_t i)
{
    return w->m[i].clock.doubt;
}

/* Everyone asks everyone; round trips of 20 ms. */
static void exchange(struct world *w)
{
    for (size_t i = 0; i < w->n; i++) {
        for (size_t k = 0; k < w->n; k++) {
            struct machine *a = &w->m[i];
            struct machine *b = &w->m[k];
            struct kl_clock_reading r = {.node_id = k + 1, .round_trip_us = 20000};

            if (i == k || !a->up || !b->up || w->cut[i] || w->cut[k]) {
                continue;
            }
            r.wall_ms = wall_of(w, b) - 10;
            r.time_ms = kl_cluster_clock_offer_ms(&b->clock, b->mono_us - 10000);
            r.lead_ms = b->clock.lead_us / 1000;
            r.mono_us = a->mono_us;
            kl_cluster_clock_hear(&a->clock, &r);
        }
    }
}

static void step(struct world *w)
{
    w->true_ms += STEP_MS;
    for (size_t i = 0; i < w->n; i++) {
        w->m[i].mono_us += STEP_MS * 1000u;
    }
    if (w->asks++ % (1000 / STEP_MS) == 0) {
        exchange(w);
    }
    for (size_t i = 0; i < w->n; i++) {
        if (w->m[i].up) {
            kl_cluster_clock_look(&w->m[i].clock, w->m[i].mono_us, wall_of(w, &w->m[i]),
                                  w->m[i].entry_ms);
        }
    }
}

static void run_s(struct world *w, unsigned seconds)
{
    for (unsigned i = 0; i < seconds * (1000 / STEP_MS); i++) {
        step(w);
    }
}

static int64_t error_of(const struct world *w, size_t i)
{
    return (int64_t)(time_of(w, i) - w->true_ms);
}

static void check_right(const struct world *w, int64_t within_ms)
{
    for (size_t i = 0; i < w->n; i++) {
        if (w->m[i].up) {
            CHECK(error_of(w, i) <= within_ms && error_of(w, i) >= -within_ms);
        }
    }
}

static void check_doubt(const struct world *w, enum kl_clock_doubt doubt)
{
    for (size_t i = 0; i < w->n; i++) {
        if (w->m[i].up) {
            CHECK_EQ(doubt_of(w, i), doubt);
        }
    }
}

/* The log of the whole cluster, as everybody has it. */
static void log_entry(struct world *w, uint64_t ms)
{
    for (size_t i = 0; i < w->n; i++) {
        w->m[i].entry_ms = w->m[i].entry_ms > ms ? w->m[i].entry_ms : ms;
    }
}

static void jump(struct world *w, size_t from, size_t to, int64_t ms)
{
    for (size_t i = from; i < to; i++) {
        w->m[i].off_ms += ms;
    }
}

/* A new cluster takes the median of its clocks, which need not be exact. */
TEST(cluster_clock, starts)
{
    struct world w;

    make(&w, 3);
    jump(&w, 0, 1, -300);
    jump(&w, 2, 3, 900);
    CHECK_EQ(time_of(&w, 0), 0);
    run_s(&w, 2);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 25);
    make(&w, 1);
    step(&w);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 0);
}

/* A minority that jumps, forward or backward, moves nothing; it is named by its offset. */
TEST(cluster_clock, minority_jumps)
{
    int64_t ms = 0;
    struct world w;

    make(&w, 5);
    run_s(&w, 5);
    jump(&w, 0, 2, 100 * DAY_MS);
    for (int i = 0; i < 400; i++) {
        step(&w);
        check_doubt(&w, KL_CLOCK_SURE);
        check_right(&w, 25);
    }
    CHECK(kl_cluster_clock_offset(&w.m[4].clock, 0, &ms));
    CHECK(ms > 99 * DAY_MS);
    CHECK(kl_cluster_clock_offset(&w.m[0].clock, 0, &ms)); /* it knows of itself */
    CHECK(ms > 99 * DAY_MS);
    CHECK(kl_cluster_clock_offset(&w.m[0].clock, 4, &ms));
    CHECK(ms < 100 && ms > -100);
    jump(&w, 0, 2, -200 * DAY_MS);
    run_s(&w, 20);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 25);
}

/* A minority of the cluster may be the majority of those that are heard, also after all restart. */
TEST(cluster_clock, most_of_the_heard_jump)
{
    struct world w;

    make(&w, 5);
    run_s(&w, 5);
    log_entry(&w, w.true_ms);
    w.m[3].up = w.m[4].up = false;
    jump(&w, 0, 2, DAY_MS);
    run_s(&w, 15);
    check_right(&w, 25);
    for (size_t i = 0; i < 3; i++) {
        begin(&w, i);
    }
    run_s(&w, 15);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 30);
}

/* With an even number of clocks, half of them ahead is no reason to go ahead. */
TEST(cluster_clock, half_of_the_heard_jump)
{
    struct world w;

    make(&w, 3);
    run_s(&w, 5);
    w.m[2].up = false;
    run_s(&w, 15);
    check_doubt(&w, KL_CLOCK_SURE);
    jump(&w, 0, 1, 100 * DAY_MS);
    run_s(&w, 15);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 25);
}

/* A majority, or everybody, jumps: the time goes on, nobody is sure, and when the clocks are right
 * again everybody is. */
TEST(cluster_clock, majority_jumps)
{
    struct world w;

    for (size_t jumped = 2; jumped <= 3; jumped++) {
        make(&w, 3);
        run_s(&w, 5);
        jump(&w, 0, jumped, 100 * DAY_MS);
        run_s(&w, 1);
        check_doubt(&w, KL_CLOCK_AHEAD);
        run_s(&w, 1000);
        check_doubt(&w, KL_CLOCK_AHEAD);
        check_right(&w, 25);
        jump(&w, 0, jumped, -100 * DAY_MS);
        run_s(&w, 2);
        check_doubt(&w, KL_CLOCK_SURE);
        check_right(&w, 25);
    }
}

/* An operator's word at one node reaches the others, and only if the clocks say what was shown. The time
 * goes on as it was, unless it is to be set; it does not matter how nodes restart. */
static void confirm(bool step)
{
    struct world w;
    uint64_t clocks_ms;

    make(&w, 3);
    run_s(&w, 5);
    jump(&w, 0, 3, 100 * DAY_MS);
    run_s(&w, 5);
    clocks_ms = kl_cluster_clock_clocks_ms(&w.m[1].clock, w.m[1].mono_us);
    CHECK_STATUS(
        kl_cluster_clock_confirm(&w.m[1].clock, w.m[1].mono_us, clocks_ms - (uint64_t)DAY_MS, true),
        KL_CHANGED);
    CHECK_STATUS(
        kl_cluster_clock_confirm(&w.m[1].clock, w.m[1].mono_us, clocks_ms + (uint64_t)DAY_MS, true),
        KL_CHANGED);
    check_doubt(&w, KL_CLOCK_AHEAD);
    check_right(&w, 25);
    CHECK_OK(kl_cluster_clock_confirm(&w.m[1].clock, w.m[1].mono_us, clocks_ms - 60000, step));
    CHECK_EQ(doubt_of(&w, 1), KL_CLOCK_SURE);
    run_s(&w, 2);
    check_doubt(&w, KL_CLOCK_SURE);
    begin(&w, 0);
    run_s(&w, 5);
    check_doubt(&w, KL_CLOCK_SURE);
    for (size_t i = 0; i < w.n; i++) {
        int64_t error = error_of(&w, i) - (step ? 100 * DAY_MS : 0);

        CHECK(error > -100 && error < 100);
    }
    if (step) {
        return;
    }
    jump(&w, 0, 3, -100 * DAY_MS); /* the clocks were wrong after all */
    run_s(&w, 2);
    check_doubt(&w, KL_CLOCK_BEHIND);
    CHECK_OK(kl_cluster_clock_confirm(&w.m[2].clock, w.m[2].mono_us, 0, false));
    run_s(&w, 2);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 50);
}

TEST(cluster_clock, confirmed)
{
    confirm(false);
    confirm(true);
}

/* All clocks go back: the time does not. An operator may accept that it is ahead; it keeps being
 * ahead by as much, also at nodes that restart. */
TEST(cluster_clock, backward)
{
    struct world w;

    make(&w, 3);
    run_s(&w, 5);
    log_entry(&w, w.true_ms);
    jump(&w, 0, 3, -100 * DAY_MS);
    run_s(&w, 100);
    check_doubt(&w, KL_CLOCK_BEHIND);
    check_right(&w, 25);
    CHECK_OK(kl_cluster_clock_confirm(&w.m[0].clock, w.m[0].mono_us, 0, true));
    run_s(&w, 2);
    check_doubt(&w, KL_CLOCK_SURE);
    begin(&w, 2);
    run_s(&w, 200);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 30);
}

/* A node that restarts with a wrong clock has the others' time; those that wait for a word still do. */
TEST(cluster_clock, restarts_wrong)
{
    struct world w;

    make(&w, 3);
    run_s(&w, 5);
    log_entry(&w, w.true_ms);
    jump(&w, 0, 1, 100 * DAY_MS);
    begin(&w, 0);
    run_s(&w, 10);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 30);
    jump(&w, 1, 3, 100 * DAY_MS); /* now all are */
    run_s(&w, 2);
    for (size_t i = 0; i < w.n; i++) {
        begin(&w, i); /* one after the other */
        run_s(&w, 5);
        check_doubt(&w, KL_CLOCK_AHEAD);
        check_right(&w, 30);
    }
}

static void restart_all(struct world *w, int64_t later_ms, int64_t jump_ms)
{
    make(w, 3);
    run_s(w, 5);
    log_entry(w, w->true_ms);
    w->true_ms += (uint64_t)later_ms;
    jump(w, 0, 3, jump_ms);
    for (size_t i = 0; i < w->n; i++) {
        w->m[i].mono_us = (i + 1) * 1000000u;
        begin(w, i);
    }
    run_s(w, 5);
}

/* Everything was off. For a while: the clocks are believed. For long, or the clocks are wrong: the
 * time goes on from the last entry until somebody confirms. */
TEST(cluster_clock, all_restart)
{
    struct world w;

    restart_all(&w, 2 * DAY_MS, 0);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 30);

    restart_all(&w, 1000, 100 * DAY_MS);
    check_doubt(&w, KL_CLOCK_GAP);
    check_right(&w, 10000);
    CHECK_OK(kl_cluster_clock_confirm(&w.m[2].clock, w.m[2].mono_us, 0, true));
    run_s(&w, 2);
    check_doubt(&w, KL_CLOCK_SURE);
    CHECK(error_of(&w, 0) > 99 * DAY_MS);

    restart_all(&w, 10 * DAY_MS, 0);
    check_doubt(&w, KL_CLOCK_GAP);
    CHECK(error_of(&w, 0) < -9 * DAY_MS);

    restart_all(&w, 1000, -DAY_MS);
    check_doubt(&w, KL_CLOCK_BEHIND);
    check_right(&w, 10000);
}

/* Two restart after a long time; the third ran all along and comes back: it has measured it. */
TEST(cluster_clock, one_ran_all_along)
{
    struct world w;

    make(&w, 3);
    run_s(&w, 5);
    log_entry(&w, w.true_ms);
    w.m[0].up = w.m[1].up = false;
    w.cut[2] = true;
    run_s(&w, 15);
    w.true_ms += 10 * (uint64_t)DAY_MS;
    w.m[2].mono_us += 10 * (uint64_t)DAY_MS * 1000;
    begin(&w, 0);
    begin(&w, 1);
    run_s(&w, 10);
    CHECK_EQ(doubt_of(&w, 0), KL_CLOCK_GAP);
    CHECK_EQ(doubt_of(&w, 2), KL_CLOCK_FEW);
    w.cut[2] = false;
    run_s(&w, 3);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 30);
}

/* A node alone stays unsure, offers nothing, and takes what the majority has when it hears it. */
TEST(cluster_clock, alone)
{
    struct world w;

    make(&w, 3);
    jump(&w, 0, 1, -60000);
    w.m[1].up = w.m[2].up = false;
    run_s(&w, 1);
    CHECK_EQ(doubt_of(&w, 0), KL_CLOCK_NONE);
    run_s(&w, 5);
    CHECK_EQ(doubt_of(&w, 0), KL_CLOCK_FEW);
    CHECK(time_of(&w, 0) != 0);
    CHECK_EQ(kl_cluster_clock_offer_ms(&w.m[0].clock, w.m[0].mono_us), 0);
    CHECK_STATUS(kl_cluster_clock_confirm(&w.m[0].clock, w.m[0].mono_us, 0, false), KL_UNAVAILABLE);
    begin(&w, 1);
    begin(&w, 2);
    run_s(&w, 5);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 30);
}

/* Cut off from the majority a node is unsure but its time goes on. */
TEST(cluster_clock, cut_off)
{
    struct world w;

    make(&w, 3);
    run_s(&w, 5);
    w.cut[1] = true;
    run_s(&w, 5);
    check_doubt(&w, KL_CLOCK_SURE); /* for a while */
    run_s(&w, 20);
    CHECK_EQ(doubt_of(&w, 1), KL_CLOCK_FEW);
    CHECK_EQ(doubt_of(&w, 0), KL_CLOCK_SURE);
    check_right(&w, 25);
    w.cut[1] = false;
    run_s(&w, 2);
    check_doubt(&w, KL_CLOCK_SURE);
}

/* Suspend: the monotonic clock of the node goes on, so nothing is unexplained. */
TEST(cluster_clock, suspended)
{
    struct world w;

    make(&w, 1);
    run_s(&w, 5);
    w.true_ms += 5 * (uint64_t)DAY_MS;
    w.m[0].mono_us += 5 * (uint64_t)DAY_MS * 1000;
    step(&w);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 1);
}

/* A halted virtual machine: its monotonic clock stood still. It takes over the others' time; when all
 * were halted nobody knows. */
TEST(cluster_clock, halted)
{
    struct world w;

    make(&w, 3);
    run_s(&w, 5);
    w.true_ms += (uint64_t)DAY_MS;
    w.m[0].mono_us += (uint64_t)DAY_MS * 1000;
    w.m[1].mono_us += (uint64_t)DAY_MS * 1000;
    run_s(&w, 3);
    check_doubt(&w, KL_CLOCK_SURE);
    check_right(&w, 30);
    w.true_ms += (uint64_t)DAY_MS;
    run_s(&w, 3);
    check_doubt(&w, KL_CLOCK_AHEAD);
}

/* A step of a second and a drift of 100 ppm are followed, no faster than the slew allows. */
TEST(cluster_clock, followed_slowly)
{
    struct world w;
    uint64_t before;

    make(&w, 3);
    run_s(&w, 5);
    jump(&w, 0, 3, 1000);
    for (int i = 0; i < 5000; i++) {
        before = time_of(&w, 0);
        step(&w);
        CHECK(time_of(&w, 0) - before <= STEP_MS + 2);
        check_doubt(&w, KL_CLOCK_SURE);
    }
    CHECK(error_of(&w, 0) > 970 && error_of(&w, 0) <= 1025);
    for (size_t i = 0; i < w.n; i++) {
        w.m[i].rate_ppm = 100;
    }
    for (int i = 0; i < 100; i++) {
        run_s(&w, 100);
        check_doubt(&w, KL_CLOCK_SURE);
    }
    CHECK(error_of(&w, 0) > 1900); /* with the clocks */
}

/* Steps just below the limit, again and again, gain no more than the slew. */
TEST(cluster_clock, steps_gain_little)
{
    struct world w;

    make(&w, 3);
    run_s(&w, 5);
    for (int i = 0; i < 1000; i++) {
        jump(&w, 0, 3, 9000);
        run_s(&w, 10);
        CHECK(error_of(&w, 1) <= (i + 2) * 10 + 25);
    }
}

/* A time is never behind what the log says: this node's leader knew better. */
TEST(cluster_clock, log_is_ahead)
{
    struct world w;

    make(&w, 3);
    run_s(&w, 5);
    log_entry(&w, w.true_ms + (uint64_t)DAY_MS);
    step(&w);
    CHECK(error_of(&w, 0) > DAY_MS - 1000);
    check_doubt(&w, KL_CLOCK_BEHIND);
}

/* A slow answer says little; it does not undo what a quick one has told, nor hide a jump. */
TEST(cluster_clock, slow_answers)
{
    struct kl_clock_reading r = {.node_id = 2, .wall_ms = START_MS, .mono_us = 1000000000u};
    struct kl_cluster_clock *c;
    struct world w;
    int64_t ms = 0;

    make(&w, 3);
    c = &w.m[0].clock;
    r.round_trip_us = 2000;
    kl_cluster_clock_hear(c, &r);
    kl_cluster_clock_look(c, r.mono_us, START_MS, 0);
    kl_cluster_clock_look(c, r.mono_us + 3000000, START_MS + 3000, 0);
    r.mono_us += 3000000;
    r.wall_ms += 5; /* as if it had been on its way back for most of the four seconds */
    r.round_trip_us = 4000000;
    kl_cluster_clock_hear(c, &r);
    CHECK(kl_cluster_clock_offset(c, 1, &ms));
    CHECK(ms > -5 && ms < 5);
    r.wall_ms = START_MS + 100000;
    kl_cluster_clock_hear(c, &r);
    CHECK(kl_cluster_clock_offset(c, 1, &ms));
    CHECK(ms > 94000 && ms < 98000);
}

/* Answers that say nothing: from strangers, from the node itself, too long under way, absurd. */
TEST(cluster_clock, readings_refused)
{
    struct world w;
    struct kl_clock_reading r = {.node_id = 2, .wall_ms = START_MS, .mono_us = 1000000000u};
    struct kl_cluster_clock *c = &w.m[0].clock;
    struct kl_clock_reading bad;

    make(&w, 3);
    bad = r;
    bad.node_id = 9;
    kl_cluster_clock_hear(c, &bad);
    bad.node_id = 1;
    kl_cluster_clock_hear(c, &bad);
    bad = r;
    bad.round_trip_us = KL_CLOCK_ROUND_TRIP_MS * 1000u + 1;
    kl_cluster_clock_hear(c, &bad);
    bad = r;
    bad.wall_ms = UINT64_MAX;
    kl_cluster_clock_hear(c, &bad);
    bad = r;
    bad.time_ms = UINT64_MAX;
    kl_cluster_clock_hear(c, &bad);
    bad = r;
    bad.lead_ms = INT64_MIN;
    kl_cluster_clock_hear(c, &bad);
    bad.lead_ms = INT64_MAX;
    kl_cluster_clock_hear(c, &bad);
    kl_cluster_clock_look(c, 1000000000u, UINT64_MAX, 0); /* our own may be absurd, too */
    CHECK_EQ(c->heard_n, 1);
    kl_cluster_clock_hear(c, &r);
    kl_cluster_clock_look(c, 1000000000u, START_MS, 0);
    CHECK_EQ(c->heard_n, 2);
}

/* Whatever one node's clock does, and who comes and goes: no node's time is ever ahead by more than
 * the slew gives, and it never goes back. */
TEST(cluster_clock, random_minority)
{
    uint64_t seed = test_seed() | 1;
    uint64_t last[NODES] = {0};
    struct world w;

    make(&w, 5);
    run_s(&w, 5);
    for (int i = 0; i < 20000; i++) {
        uint64_t x = test_random(&seed);
        size_t node = (size_t)(x >> 8) % w.n;

        if (x % 97 == 0) { /* nodes 0 and 1 have bad clocks */
            w.m[node % 2].off_ms = (int64_t)((x >> 16) % 400) * DAY_MS - 200 * DAY_MS;
        } else if (x % 101 == 0) {
            begin(&w, node);
        } else if (x % 103 == 0) {
            w.cut[node] = !w.cut[node];
        }
        step(&w);
        for (size_t k = 0; k < w.n; k++) {
            if (w.m[k].clock.settled) {
                CHECK(error_of(&w, k) <= 1000);
                log_entry(&w, time_of(&w, k));
                CHECK(time_of(&w, k) + 30 >= last[k]);
                last[k] = time_of(&w, k);
            }
        }
    }
}

/* Nodes that went do not count against the majority, ones that came count; what was read stays read. */
TEST(cluster_clock, members_change)
{
    static const uint64_t two[] = {2, 1};
    static const uint64_t four[] = {1, 2, 3, 4};
    struct kl_cluster_clock *c;
    struct world w;

    make(&w, 5);
    run_s(&w, 20);
    for (size_t i = 2; i < 5; i++) {
        w.m[i].up = false;
    }
    run_s(&w, 60);
    CHECK_EQ(doubt_of(&w, 0), KL_CLOCK_FEW);
    for (size_t i = 0; i < 2; i++) {
        kl_cluster_clock_members(&w.m[i].clock, two, 2);
    }
    run_s(&w, 5);
    c = &w.m[0].clock;
    CHECK_EQ(doubt_of(&w, 0), KL_CLOCK_SURE);
    CHECK_EQ(doubt_of(&w, 1), KL_CLOCK_SURE);
    CHECK_EQ(kl_cluster_clock_majority(c), 2);
    CHECK_EQ(c->nodes[c->self].node_id, 1);
    CHECK(llabs(error_of(&w, 0)) < 1000);
    kl_cluster_clock_members(c, four, 4);
    CHECK_EQ(kl_cluster_clock_majority(c), 3);
    CHECK(c->nodes[1].heard && !c->nodes[2].heard);
    run_s(&w, 5);
    CHECK_EQ(doubt_of(&w, 0), KL_CLOCK_FEW);
    w.m[2].up = true;
    run_s(&w, 5);
    CHECK_EQ(doubt_of(&w, 0), KL_CLOCK_SURE);
}
