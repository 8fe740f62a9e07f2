/*
 * Reads that do not rest on the lease: how old a replica says it is, and quorum reads.
 */
#include "tests/unit/raft/lab.h"

enum { STEPS = 60 };

/* The age that a node says, and whether it sees vault n. UINT64_MAX: it cannot tell its age. */
static uint64_t age_of(struct lab *lab, unsigned node)
{
    struct kl_group *g = lab->nodes[node].group;
    struct kl_read read;
    uint64_t us;

    if (kl_group_read_stale(g, &read) != KL_OK) {
        return UINT64_MAX;
    }
    us = kl_group_read_age_us(g, &read);
    kl_group_read_local_end(g, &read);
    return us;
}

/* A write that was acknowledged at that time: nobody may say that he is younger and not see it. */
struct written {
    unsigned n;
    uint64_t at_us;
};

static void check_promise(struct lab *lab, unsigned nodes, const struct written *w)
{
    for (unsigned i = 1; i <= nodes; i++) {
        uint64_t now = lab_now_us(lab);
        uint64_t us = lab->nodes[i].group == NULL ? UINT64_MAX : age_of(lab, i);

        if (us != UINT64_MAX && us < now - w->at_us) {
            CHECK(lab_has_vault(lab, i, w->n));
        }
    }
}

static bool call_done(struct lab *lab, void *arg)
{
    const struct lab_call *call = arg;

    (void)lab;
    return call->done;
}

/* Through whoever leads, again until it is acknowledged. */
static struct written write_one(struct lab *lab, unsigned n)
{
    struct written w = {.n = n};

    while (w.at_us == 0) {
        struct lab_call *call = lab_vault(lab, lab_leader(lab), n, 10);

        CHECK(lab_run_until(lab, call_done, call, 20000));
        w.at_us = call->status == KL_OK ? call->done_us : 0;
        lab_call_free(call);
    }
    return w;
}

/* In a healthy group everybody is young, and after a restart says nothing before it knows. */
TEST(fresh, followers_are_young)
{
    struct lab *lab = lab_new();
    unsigned other;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    for (unsigned i = 1; i <= 3; i++) {
        CHECK(age_of(lab, i) < 5u * LAB_TICK_MS * 1000);
    }
    CHECK_EQ(age_of(lab, lab_leader(lab)), 0); /* it has the lease */
    other = lab_leader(lab) % 3 + 1;
    lab_isolate(lab, other, true);
    lab_node_stop(lab, other);
    CHECK_OK(lab_node_start(lab, other, 3));
    lab_run_ms(lab, 5 * LAB_TICK_MS);
    CHECK_EQ(age_of(lab, other), UINT64_MAX);
    lab_isolate(lab, other, false);
    lab_converge(lab);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    CHECK(age_of(lab, other) < 5u * LAB_TICK_MS * 1000);
    lab_free(lab);
}

/* Links that delay, leaders that come and go: the age never says less than the truth. */
TEST(fresh, never_too_young)
{
    struct lab *lab = lab_new();
    unsigned seed = 1;

    lab_start(lab, 5, 5);
    lab_init_group(lab);
    for (unsigned i = 1; i <= 5; i++) {
        lab->skew_us[i] += i * 1000000000ull; /* clocks share nothing but their pace */
    }
    lab_run_ms(lab, 3 * LAB_ELECTION_MS);
    for (unsigned step = 0; step < STEPS; step++) {
        struct written w;
        unsigned who = seed % 5 + 1;

        seed = seed * 1103515245u + 12345u;
        lab->delay_ms = seed >> 16 & 15;
        if (step % 6 == 2) {
            lab_isolate(lab, who, true);
        } else if (step % 6 == 5) {
            for (unsigned i = 1; i <= 5; i++) {
                lab_isolate(lab, i, false);
            }
        }
        w = write_one(lab, step);
        for (unsigned i = 0; i < 8; i++) {
            check_promise(lab, 5, &w);
            lab_run_ms(lab, 1 + (seed >> 8 & 15));
        }
    }
    lab_free(lab);
}

/* To one node only what was sent before. */
static struct {
    unsigned to;
    uint64_t sent_us;
} before;

static bool sent_before(struct lab *lab, unsigned from, unsigned to, enum kl_lane lane,
                        struct kl_buf *message)
{
    Kluis__Peer__Message *m = NULL;
    bool early = true;

    (void)lab;
    (void)from;
    (void)lane;
    CHECK_OK(kl_message_unpack(kl_buf_bytes(message), &m));
    if (to == before.to && m->body_case == KLUIS__PEER__MESSAGE__BODY_APPEND_ENTRIES) {
        early = m->append_entries->sent_us <= before.sent_us;
    }
    kl_message_unpacked_free(m);
    return early;
}

/* A heartbeat that was long on its way tells of when it was sent, not of when it came. */
TEST(fresh, slow_message)
{
    struct lab *lab = lab_new();
    struct written w;
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    leader = lab_leader(lab);
    before.to = leader % 3 + 1;
    lab->delay_ms = LAB_ELECTION_MS / 2;
    lab_run_ms(lab, 2 * LAB_TICK_MS);
    lab->delay_ms = 0;
    before.sent_us = kl_group_now_us(lab->nodes[leader].group);
    lab->filter = sent_before;
    w = write_one(lab, 1);
    for (unsigned i = 0; i < LAB_ELECTION_MS; i++) {
        check_promise(lab, 3, &w);
        lab_run_ms(lab, 1);
    }
    lab->filter = NULL;
    lab_converge(lab);
    lab_free(lab);
}

static bool another_leads(struct lab *lab, void *arg)
{
    const unsigned *old = arg;

    for (unsigned i = 1; i <= LAB_NODES; i++) {
        struct kl_group *g = lab->nodes[i].group;

        if (g != NULL && i != *old && g->ready && g->raft.state == RAFT_LEADER) {
            return true;
        }
    }
    return false;
}

/* Counts heartbeats of the first leader. */
static unsigned counted_of, counted;

static bool count_appends(struct lab *lab, unsigned from, unsigned to, enum kl_lane lane,
                          struct kl_buf *message)
{
    Kluis__Peer__Message *m = NULL;

    (void)lab;
    (void)to;
    (void)lane;
    CHECK_OK(kl_message_unpack(kl_buf_bytes(message), &m));
    counted += from == counted_of && m->body_case == KLUIS__PEER__MESSAGE__BODY_APPEND_ENTRIES;
    kl_message_unpacked_free(m);
    return true;
}

/*
 * A leader in a minority goes on sending heartbeats to the follower on its side. Neither of the two
 * may take that for freshness: their ages grow from the moment of the cut.
 */
TEST(fresh, minority_grows_old)
{
    struct lab *lab = lab_new();
    struct written w;
    unsigned old;
    unsigned with;
    uint64_t cut_us;

    lab_start(lab, 5, 5);
    lab_init_group(lab);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    old = lab_leader(lab);
    with = old % 5 + 1;
    for (unsigned i = 1; i <= 5; i++) {
        if (i != old && i != with) {
            lab_cut(lab, i, old, true);
            lab_cut(lab, i, with, true);
        }
    }
    cut_us = lab_now_us(lab);
    counted_of = old;
    counted = 0;
    lab->filter = count_appends;
    CHECK(lab_run_until(lab, another_leads, &old, 20000));
    CHECK(counted > 2); /* only those that arrive are counted: at the follower on its side */
    lab->filter = NULL;
    w = write_one(lab, 7);
    lab_run_ms(lab, 2 * LAB_ELECTION_MS);
    CHECK(!lab_has_vault(lab, old, 7));
    CHECK(!lab_has_vault(lab, with, 7));
    check_promise(lab, 5, &w);
    CHECK(age_of(lab, old) >= lab_now_us(lab) - cut_us);
    CHECK(age_of(lab, with) >= lab_now_us(lab) - cut_us);
    CHECK(age_of(lab, old) < lab_now_us(lab) - cut_us + 10u * LAB_TICK_MS * 1000);
    for (unsigned i = 1; i <= 5; i++) {
        lab_isolate(lab, i, false);
    }
    lab_converge(lab);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    CHECK(age_of(lab, old) < 5u * LAB_TICK_MS * 1000);
    lab_free(lab);
}

/* What is committed and not applied does not count: a follower whose store is behind is old. */
TEST(fresh, applied_not_heard)
{
    struct lab *lab = lab_new();
    struct written w;
    unsigned other;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    other = lab_leader(lab) % 3 + 1;
    lab->nodes[other].full = true;
    w = write_one(lab, 1);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    CHECK(!lab_has_vault(lab, other, 1));
    CHECK(age_of(lab, other) >= lab_now_us(lab) - w.at_us);
    lab->nodes[other].full = false;
    lab_converge(lab);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    CHECK(age_of(lab, other) < 5u * LAB_TICK_MS * 1000);
    lab_free(lab);
}

/* An echo that is none of ours, or spans longer than time itself, say nothing. */
TEST(fresh, echo_of_another_life)
{
    struct lab *lab = lab_new();
    struct kl_message_extra extra = {.fresh_us = 1, .held_us = 0};
    struct kl_group *g;
    unsigned other;
    uint64_t was;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_run_ms(lab, 10 * LAB_TICK_MS);
    other = lab_leader(lab) % 3 + 1;
    g = lab->nodes[other].group;
    CHECK_NE(g->stamp_base, 0);
    kl_group_fresh_update(g);
    was = g->fresh_us;
    lab->skew_us[other] += 1000;
    for (unsigned i = 0; i < 5; i++) {
        const uint64_t echoes[] = {kl_group_stamp(g) + 1, g->stamp_base + g->started_us - 1,
                                   kl_group_now_us(g), 0, kl_group_stamp(g)};

        extra.echo = echoes[i];
        extra.held_us = i == 4 ? UINT64_MAX : 0;
        kl_group_fresh_heard(g, 0, &extra);
        kl_group_fresh_update(g);
        CHECK_EQ(g->fresh_us, was);
    }
    extra.echo = kl_group_stamp(g);
    extra.held_us = 0;
    kl_group_fresh_heard(g, 0, &extra);
    kl_group_fresh_update(g);
    CHECK(g->fresh_us > was); /* the canary: such a message would count */
    lab_free(lab);
}

/* ---- quorum reads ---- */

struct asked {
    struct kl_confirm c;
    unsigned times;
    enum kl_status status;
};

static void answered(struct kl_confirm *c, enum kl_status status)
{
    struct asked *a = c->arg;

    a->times++;
    a->status = status;
}

static void ask(struct lab *lab, unsigned node, struct asked *a, unsigned ms)
{
    struct kl_group *g = lab->nodes[node].group;

    *a = (struct asked){.c = {.give_up_us = kl_group_now_us(g) + ms * 1000u, .done = answered}};
    a->c.arg = a;
    CHECK_OK(kl_group_confirm(g, &a->c));
}

static bool was_answered(struct lab *lab, void *arg)
{
    const struct asked *a = arg;

    (void)lab;
    return a->times != 0;
}

static enum kl_status quorum(struct lab *lab, unsigned node, unsigned ms)
{
    struct asked a;

    ask(lab, node, &a, ms);
    CHECK(lab_run_until(lab, was_answered, &a, 20000));
    CHECK_EQ(a.times, 1);
    return a.status;
}

/* A round takes one round trip, not a heartbeat, and sees every write that was acknowledged. */
TEST(fresh, quorum_read)
{
    struct lab *lab = lab_new();
    struct kl_read read;
    unsigned leader;
    uint64_t asked_us;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    asked_us = lab_now_us(lab);
    for (unsigned i = 0; i < 20; i++) {
        CHECK_OK(quorum(lab, leader, 5000));
        CHECK_OK(kl_group_read_confirmed(lab->nodes[leader].group, &read));
        kl_group_read_local_end(lab->nodes[leader].group, &read);
    }
    CHECK(lab_now_us(lab) - asked_us < 20u * LAB_TICK_MS * 1000 / 2);
    CHECK_STATUS(quorum(lab, leader % 3 + 1, 5000), KL_NOT_LEADER);
    lab_free(lab);
}

/* Clocks may jump: a leader whose lease still seems to hold gets no confirmation once it is cut off. */
TEST(fresh, quorum_needs_no_clock)
{
    struct lab *lab = lab_new();
    struct asked many[50];
    unsigned old;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    old = lab_leader(lab);
    lab->nodes[old].group->lease_off_term = lab->nodes[old].group->lead_term;
    CHECK_OK(quorum(lab, old, 5000)); /* no lease at all, and it works */
    lab_isolate(lab, old, true);
    CHECK_STATUS(quorum(lab, old, LAB_ELECTION_MS / 4), KL_TIMEOUT);
    CHECK(lab_run_until(lab, another_leads, &old, 20000));
    for (unsigned i = 0; i < 50; i++) {
        ask(lab, old, &many[i], 60000);
    }
    lab_run_ms(lab, 3 * LAB_ELECTION_MS);
    for (unsigned i = 0; i < 50; i++) {
        CHECK_EQ(many[i].times, 1);
        CHECK(many[i].status == KL_UNAVAILABLE || many[i].status == KL_NOT_LEADER);
    }
    lab_isolate(lab, old, false);
    lab_converge(lab);
    lab_free(lab);
}

static bool drop_confirmed(struct lab *lab, unsigned from, unsigned to, enum kl_lane lane,
                           struct kl_buf *message)
{
    Kluis__Peer__Message *m = NULL;
    bool yes;

    (void)lab;
    (void)from;
    (void)to;
    (void)lane;
    CHECK_OK(kl_message_unpack(kl_buf_bytes(message), &m));
    yes = m->body_case == KLUIS__PEER__MESSAGE__BODY_CONFIRMED;
    kl_message_unpacked_free(m);
    return !yes;
}

/* Answers that are lost cost a heartbeat, whose answers confirm as well; those who wait at the end of a
 * group are told. */
TEST(fresh, quorum_lost_and_closed)
{
    struct lab *lab = lab_new();
    struct asked a;
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    lab->filter = drop_confirmed;
    CHECK_OK(quorum(lab, leader, 5000));
    lab->filter = NULL;
    lab_isolate(lab, leader, true);
    ask(lab, leader, &a, 60000);
    lab_node_stop(lab, leader);
    CHECK_EQ(a.times, 1);
    CHECK_STATUS(a.status, KL_UNAVAILABLE);
    lab_free(lab);
}

/* The only voter has nobody to ask. */
TEST(fresh, quorum_alone)
{
    struct lab *lab = lab_new();

    lab_start(lab, 1, 1);
    CHECK_EQ(lab_leader(lab), 1);
    CHECK_OK(quorum(lab, 1, 5000));
    lab_run_ms(lab, 2 * LAB_ELECTION_MS);
    CHECK_EQ(age_of(lab, 1), 0);
    lab_free(lab);
}
