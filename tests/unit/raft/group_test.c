#include "tests/unit/raft/lab.h"

/* One node elects itself at once, applies what is proposed and has it after a restart. */
TEST(group, single)
{
    struct lab *lab = lab_new();
    uint8_t before[32];
    uint8_t after[32];

    lab_start(lab, 1, 1);
    lab_init_group(lab);
    lab_fill(lab, 0, 100, 100);
    lab_digest(lab, 1, before);
    lab_node_stop(lab, 1);
    CHECK_OK(lab_node_start(lab, 1, 1));
    CHECK_EQ(lab_leader(lab), 1);
    lab_digest(lab, 1, after);
    CHECK_MEM(before, after, 32);
    CHECK(lab_has_vault(lab, 1, 99));
    CHECK(!lab_has_vault(lab, 1, 100));
    lab_free(lab);
}

/* Three nodes elect a leader, hold the same state, and go on when it is stopped. */
TEST(group, three)
{
    struct lab *lab = lab_new();
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_fill(lab, 0, 200, 100);
    lab_converge(lab);
    leader = lab_leader(lab);
    lab_node_stop(lab, leader);
    lab_fill(lab, 200, 100, 100);
    CHECK_NE(lab_leader(lab), leader);
    CHECK_OK(lab_node_start(lab, leader, 3));
    lab_converge(lab);
    CHECK(lab_has_vault(lab, leader, 299));
    lab_free(lab);
}

/* What is proposed while an entry is under way shares the next one. */
TEST(group, packs)
{
    struct lab *lab = lab_new();
    struct kl_group *g;
    uint64_t entries;
    uint64_t commands;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    g = lab->nodes[lab_leader(lab)].group;
    entries = g->entries_applied;
    commands = g->commands_applied;
    lab_fill(lab, 0, 500, 100);
    CHECK_EQ(g->commands_applied - commands, 500);
    CHECK(g->entries_applied - entries <= 10);
    lab_free(lab);
}

/* One larger command than KL_ENTRY_TARGET goes alone; one over KL_COMMAND_MAX is refused at once. */
TEST(group, large_command)
{
    struct lab *lab = lab_new();
    struct kl_proposal p = {.command = KL_BUF(KL_ENTRY_MAX)};
    uint8_t *to;

    lab_start(lab, 1, 1);
    lab_init_group(lab);
    CHECK_OK(kl_buf_grow(&p.command, KL_COMMAND_MAX + 1, &to));
    CHECK_STATUS(kl_group_propose(lab->nodes[1].group, &p), KL_TOO_LARGE);
    kl_buf_wipe(&p.command);
    lab_free(lab);
}

struct raw {
    struct kl_proposal p;
    enum kl_status status;
    unsigned times;
};

static void raw_done(struct kl_proposal *p, enum kl_status status, uint64_t index,
                     struct kl_bytes result)
{
    struct raw *r = p->arg;

    (void)index;
    (void)result;
    r->status = status;
    r->times++;
}

static bool raw_is_done(struct lab *lab, void *arg)
{
    (void)lab;
    return ((struct raw *)arg)->times != 0;
}

static void raw_propose(struct lab *lab, unsigned node, struct raw *r, size_t len,
                        uint64_t give_up_us)
{
    uint8_t *to;

    *r = (struct raw){.p = {.command = KL_BUF(KL_COMMAND_MAX), .done = raw_done}};
    r->p.arg = r;
    r->p.give_up_us = give_up_us;
    CHECK_OK(kl_buf_grow(&r->p.command, len, &to));
    memset(to, 0xff, len);
    CHECK_OK(kl_group_propose(lab->nodes[node].group, &r->p));
}

/* Commands that the state machine refuses are answered too, whatever their size. */
TEST(group, nonsense)
{
    struct lab *lab = lab_new();
    struct raw small;
    struct raw large;

    lab_start(lab, 1, 1);
    CHECK_EQ(lab_leader(lab), 1);
    raw_propose(lab, 1, &small, 10, 0);
    raw_propose(lab, 1, &large, KL_COMMAND_MAX, 0);
    CHECK(lab_run_until(lab, raw_is_done, &small, 5000));
    CHECK(lab_run_until(lab, raw_is_done, &large, 5000));
    CHECK_EQ(small.status, KL_OK);
    CHECK_EQ(large.status, KL_OK);
    lab_free(lab);
}

/* A follower proposes nothing; a leader without a majority gives up at the deadline. */
TEST(group, not_leader_and_late)
{
    struct lab *lab = lab_new();
    struct raw r;
    unsigned leader;
    unsigned other;

    lab_start(lab, 3, 3);
    leader = lab_leader(lab);
    other = leader % 3 + 1;
    raw_propose(lab, other, &r, 10, 0);
    CHECK(lab_run_until(lab, raw_is_done, &r, 5000));
    CHECK_EQ(r.status, KL_NOT_LEADER);
    raw_propose(lab, leader, &r, 10, 1); /* its time ran out long ago */
    CHECK(lab_run_until(lab, raw_is_done, &r, 5000));
    CHECK_EQ(r.status, KL_TIMEOUT);
    CHECK_EQ(r.times, 1);
    lab_free(lab);
}

/*
 * A leader that is cut off answers what was under way with UNAVAILABLE, once, and the new leader
 * has either all of an entry or nothing of it.
 */
TEST(group, lost_leadership)
{
    struct lab *lab = lab_new();
    struct lab_call *calls[20];
    unsigned old;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_converge(lab);
    old = lab_leader(lab);
    lab_isolate(lab, old, true);
    for (unsigned i = 0; i < 20; i++) {
        calls[i] = lab_vault(lab, old, i, 100);
    }
    lab_run_ms(lab, 50);
    CHECK_NE(lab_leader(lab), 0);
    lab_run_ms(lab, 4 * LAB_ELECTION_MS);
    CHECK_NE(lab_leader(lab), old);
    lab_fill(lab, 100, 20, 100);
    lab_isolate(lab, old, false);
    lab_converge(lab);
    for (unsigned i = 0; i < 20; i++) {
        CHECK_EQ(calls[i]->times, 1);
        CHECK_EQ(calls[i]->status, KL_UNAVAILABLE);
        CHECK(!lab_has_vault(lab, old, i));
        lab_call_free(calls[i]);
    }
    CHECK(lab_has_vault(lab, old, 119));
    lab_free(lab);
}

/* The stamps of entries never fall, whoever leads and whatever its clock says. */
TEST(group, stamps)
{
    struct lab *lab = lab_new();
    uint64_t last = 0;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    for (unsigned round = 0; round < 4; round++) {
        unsigned leader = lab_leader(lab);
        struct kl_group *g = lab->nodes[leader].group;

        lab_fill(lab, round, 1, 10);
        CHECK(g->applied_ms >= last);
        last = g->applied_ms;
        g->stamp_ms += 1000000; /* as if its clock had jumped ahead */
        lab_fill(lab, 100 + round, 1, 10);
        CHECK(g->applied_ms >= last + 1000000);
        last = g->applied_ms;
        CHECK_OK(lab_transfer(lab, leader, leader % 3 + 1));
        CHECK_EQ(lab_leader(lab), leader % 3 + 1);
    }
    lab_free(lab);
}

static bool no_space(struct lab *lab, void *arg)
{
    struct kl_group_status s;

    kl_group_status(lab->nodes[*(unsigned *)arg].group, &s);
    return s.no_space;
}

/*
 * A store that is full refuses writes, loses nothing of what was committed, reads on, and goes on
 * when space returns.
 */
TEST(group, store_full)
{
    struct lab *lab = lab_new();
    struct lab_call *stuck;
    struct lab_call *refused;
    struct kl_read read;
    unsigned leader;

    lab_start(lab, 1, 1); /* nobody could take over */
    lab_init_group(lab);
    lab_fill(lab, 0, 10, 100);
    leader = lab_leader(lab);
    lab->nodes[leader].full = true;
    stuck = lab_vault(lab, leader, 10, 100);
    CHECK(lab_run_until(lab, no_space, &leader, 5000));
    CHECK(!stuck->done);
    refused = lab_vault(lab, leader, 11, 100);
    lab_run_ms(lab, 50);
    CHECK_EQ(refused->status, KL_NO_SPACE);
    CHECK_OK(kl_group_read_begin(lab->nodes[leader].group, &read));
    CHECK_OK(kl_group_read_end(lab->nodes[leader].group, &read));
    lab->nodes[leader].full = false;
    lab_fill(lab, 20, 5, 100);
    CHECK(stuck->done);
    CHECK_EQ(stuck->status, KL_OK);
    CHECK_EQ(stuck->times, 1);
    lab_converge(lab);
    CHECK(lab_has_vault(lab, leader, 10));
    CHECK(!lab_has_vault(lab, leader, 11));
    lab_call_free(stuck);
    lab_call_free(refused);
    lab_free(lab);
}

static bool gave_way(struct lab *lab, void *arg)
{
    return lab->nodes[*(unsigned *)arg].group->lead_term == 0;
}

/* A leader whose store is full hands over: writes go on, what it had proposed counts once, and when
 * space returns it has what the others have. */
TEST(group, store_full_hands_over)
{
    struct lab *lab = lab_new();
    struct lab_call *stuck;
    struct lab_call *waits;
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_fill(lab, 0, 10, 100);
    leader = lab_leader(lab);
    lab->nodes[leader].full = true;
    stuck = lab_vault(lab, leader, 10, 100);
    CHECK(lab_run_until(lab, no_space, &leader, 5000));
    waits = lab_vault(lab, leader, 11, 100);
    CHECK(lab_run_until(lab, gave_way, &leader, 5000));
    lab_fill(lab, 20, 30, 100);
    CHECK_NE(lab_leader(lab), leader);
    CHECK_EQ(waits->status, KL_NOT_LEADER); /* nothing was done: it may be sent again */
    CHECK_EQ(lab->nodes[leader].fatals, 0);
    CHECK(!lab_has_vault(lab, leader, 49));
    lab->nodes[leader].full = false;
    lab_converge(lab);
    CHECK(stuck->done);
    CHECK_EQ(stuck->times, 1);
    for (unsigned id = 1; id <= 3; id++) {
        CHECK(lab_has_vault(lab, id, 10));
        CHECK(!lab_has_vault(lab, id, 11));
        CHECK(lab_has_vault(lab, id, 49));
    }
    lab_call_free(stuck);
    lab_call_free(waits);
    lab_free(lab);
}

/* The storage counts its room in every turn of the loop; here it has none whenever the group looks at
 * its clock. */
static uint64_t mono_us_without_room(void *ctx)
{
    struct lab_node *n = ctx;

    n->io.capacity = 0;
    return lab_now_us(n->lab);
}

/* A leader whose own log has had no room for a while hands over too. */
TEST(group, log_full_hands_over)
{
    struct lab *lab = lab_new();
    unsigned leader;
    uint64_t begun;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_fill(lab, 0, 10, 100);
    leader = lab_leader(lab);
    lab->clocks[leader].mono_us = mono_us_without_room;
    begun = lab_now_us(lab);
    CHECK(lab_run_until(lab, gave_way, &leader, 10000));
    CHECK(lab_now_us(lab) - begun >= KL_LOG_PROBE_MS * 1000ULL); /* a moment means nothing */
    CHECK_NE(lab_leader(lab), leader);
    lab_fill(lab, 20, 10, 100);
    lab_converge(lab);
    lab_free(lab);
}

/* What waits for space is still there after a restart. */
TEST(group, store_full_restart)
{
    struct lab *lab = lab_new();
    unsigned leader;
    unsigned other;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    other = leader % 3 + 1;
    lab->nodes[other].full = true;
    lab_fill(lab, 0, 30, 100);
    CHECK(lab_run_until(lab, no_space, &other, 5000));
    lab_node_stop(lab, other);
    lab->nodes[other].full = false;
    CHECK_OK(lab_node_start(lab, other, 3));
    lab_converge(lab);
    CHECK(lab_has_vault(lab, other, 29));
    lab_free(lab);
}

/* Too many proposals waiting are refused at once, and the rest is answered at close. */
TEST(group, queue_full)
{
    struct lab *lab = lab_new();
    struct raw *raws = calloc(KL_PROPOSALS_QUEUED_MAX, sizeof *raws);
    struct raw one = {.p = {.command = KL_BUF(16), .done = raw_done}};
    unsigned leader;

    lab_start(lab, 3, 3);
    leader = lab_leader(lab);
    for (unsigned i = 0; i < KL_PROPOSALS_QUEUED_MAX; i++) {
        raw_propose(lab, leader, &raws[i], 1, 0);
    }
    CHECK_STATUS(kl_group_propose(lab->nodes[leader].group, &one.p), KL_EXHAUSTED);
    lab_node_stop(lab, leader);
    for (unsigned i = 0; i < KL_PROPOSALS_QUEUED_MAX; i++) {
        CHECK_EQ(raws[i].times, 1);
        CHECK_EQ(raws[i].status, KL_UNAVAILABLE);
    }
    free(raws);
    lab_free(lab);
}

/* The status says who is a member and how far the leader knows each to be. */
TEST(group, status)
{
    struct lab *lab = lab_new();
    struct kl_group_status s;
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_fill(lab, 0, 5, 10);
    lab_converge(lab);
    lab_run_ms(lab, 2 * LAB_TICK_MS);
    leader = lab_leader(lab);
    kl_group_status(lab->nodes[leader].group, &s);
    CHECK_EQ(s.state, RAFT_LEADER);
    CHECK(s.ready && s.lease && !s.no_space);
    CHECK_EQ(s.leader_id, leader);
    CHECK_EQ(s.members_n, 3);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(s.members[i].role, RAFT_VOTER);
        CHECK_EQ(s.members[i].match_index, s.last_index);
    }
    CHECK_STR(s.members[2].address, "node3");
    kl_group_status(lab->nodes[leader % 3 + 1].group, &s);
    CHECK_EQ(s.state, RAFT_FOLLOWER);
    CHECK_EQ(s.leader_id, leader);
    CHECK(!s.ready && !s.lease);
    lab_free(lab);
}

static int snapshot_asked(struct kl_group *g)
{
    struct raft_buffer *bufs = NULL;
    unsigned n = 0;
    int rv = g->fsm.snapshot(&g->fsm, &bufs, &n);

    for (unsigned i = 0; i < n; i++) {
        raft_free(bufs[i].base);
    }
    raft_free(bufs);
    return rv;
}

/* A configuration that is known to be committed may lie ahead of what this node knows of the commit
 * (N19, a restart). A snapshot below it would name a configuration from its own future, which peers
 * refuse. */
TEST(group, no_snapshot_below_its_configuration)
{
    struct lab *lab = lab_new();
    struct raft *r;

    lab_start(lab, 1, 1);
    lab_init_group(lab);
    lab_fill(lab, 0, 10, 10);
    lab_converge(lab);
    r = &lab->nodes[1].group->raft;
    CHECK_EQ(snapshot_asked(lab->nodes[1].group), 0);
    r->configuration_committed_index = raft_last_applied(r) + 1;
    CHECK_EQ(snapshot_asked(lab->nodes[1].group), RAFT_BUSY);
    r->configuration_committed_index = raft_last_applied(r);
    CHECK_EQ(snapshot_asked(lab->nodes[1].group), 0);
    lab_free(lab);
}

/* The leader knows for how long a follower has lacked what it lacks: from the first entry on that it
 * did not get, however many come after. */
TEST(group, lag_of_a_follower)
{
    struct lab *lab = lab_new();
    struct kl_group_status status;
    unsigned leader;
    unsigned far;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_converge(lab);
    leader = lab_leader(lab);
    far = leader % 3 + 1;
    lab_isolate(lab, far, true);
    lab_run_ms(lab, 300); /* nothing is missing yet */
    for (unsigned i = 0; i < 200; i++) {
        lab_fill(lab, i, 1, 10);
        lab_run_ms(lab, 5);
    }
    kl_group_status(lab->nodes[leader].group, &status);
    for (size_t i = 0; i < status.members_n; i++) {
        if (status.members[i].node_id == far) {
            CHECK(status.members[i].lag_ms >= 900 && status.members[i].lag_ms < 60000);
            CHECK(status.members[i].match_index + 200 <= status.last_index);
        } else {
            CHECK(status.members[i].lag_ms < 900);
        }
    }
    lab_isolate(lab, far, false);
    lab_converge(lab);
    lab_run_ms(lab, 2 * LAB_TICK_MS); /* and the leader has heard of it */
    kl_group_status(lab->nodes[leader].group, &status);
    for (size_t i = 0; i < status.members_n; i++) {
        CHECK_EQ(status.members[i].lag_ms, 0);
    }
    lab_free(lab);
}
