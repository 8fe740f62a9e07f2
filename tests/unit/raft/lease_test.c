/*
 * Leases: who may answer a read, and until when.
 */
#include "tests/unit/raft/lab.h"

static enum kl_status read_at(struct lab *lab, unsigned node)
{
    struct kl_read read;
    enum kl_status st = kl_group_read_begin(lab->nodes[node].group, &read);

    return st == KL_OK ? kl_group_read_end(lab->nodes[node].group, &read) : st;
}

struct watch {
    unsigned old;
    unsigned violations;
    unsigned both_us;
};

/* Does the old leader still answer reads although another one has won an election? */
static bool deposed(struct lab *lab, void *arg)
{
    struct watch *w = arg;
    bool other = false;

    for (unsigned i = 1; i <= LAB_NODES; i++) {
        struct kl_group *g = lab->nodes[i].group;

        if (g != NULL && i != w->old && g->raft.state == RAFT_LEADER) {
            other = true;
        }
    }
    if (other && read_at(lab, w->old) == KL_OK) {
        w->violations++;
    }
    return other;
}

/* The leader answers reads; followers send elsewhere; nobody answers from a past leadership. */
TEST(lease, leader_reads)
{
    struct lab *lab = lab_new();
    struct kl_read read;
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    CHECK_OK(read_at(lab, leader));
    CHECK_STATUS(read_at(lab, leader % 3 + 1), KL_NOT_LEADER);
    CHECK_OK(kl_group_read_local(lab->nodes[leader % 3 + 1].group, &read));
    kl_group_read_local_end(lab->nodes[leader % 3 + 1].group, &read);
    CHECK_OK(kl_group_read_begin(lab->nodes[leader].group, &read));
    CHECK_OK(lab_transfer(lab, leader, leader % 3 + 1));
    CHECK_STATUS(kl_group_read_end(lab->nodes[leader].group, &read), KL_UNAVAILABLE);
    lab_free(lab);
}

/* A leader that is cut off stops answering before another can be elected. */
TEST(lease, partition)
{
    struct lab *lab = lab_new();
    struct watch w = {0};

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    for (unsigned round = 0; round < 3; round++) {
        w.old = lab_leader(lab);
        CHECK_OK(read_at(lab, w.old));
        lab_isolate(lab, w.old, true);
        CHECK(lab_run_until(lab, deposed, &w, 10000));
        CHECK_EQ(w.violations, 0);
        CHECK_STATUS(read_at(lab, w.old), KL_UNAVAILABLE);
        lab_isolate(lab, w.old, false);
        lab_converge(lab);
    }
    lab_free(lab);
}

/* Messages that only come in do not keep a lease: its acknowledgements must be of recent sends. */
TEST(lease, one_way)
{
    struct lab *lab = lab_new();
    struct watch w = {0};

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    w.old = lab_leader(lab);
    for (unsigned i = 1; i <= 3; i++) {
        if (i != w.old) {
            lab->cut[w.old][i] = true; /* it still hears the others */
        }
    }
    CHECK(lab_run_until(lab, deposed, &w, 10000));
    CHECK_EQ(w.violations, 0);
    lab_free(lab);
}

/* A pause of the whole leader, between the beginning and the end of a read, is noticed at the end. */
TEST(lease, pause_during_read)
{
    struct lab *lab = lab_new();
    struct kl_read read;
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    CHECK_OK(kl_group_read_begin(lab->nodes[leader].group, &read));
    lab->skew_us[leader] += LAB_ELECTION_MS * 1000; /* as if it had slept */
    CHECK_STATUS(kl_group_read_end(lab->nodes[leader].group, &read), KL_UNAVAILABLE);
    lab_free(lab);
}

/* The only voter needs nobody's answer. */
TEST(lease, single_voter)
{
    struct lab *lab = lab_new();

    lab_start(lab, 1, 1);
    CHECK_EQ(lab_leader(lab), 1);
    lab_run_ms(lab, 2 * LAB_ELECTION_MS);
    CHECK_OK(read_at(lab, 1));
    lab_free(lab);
}

/*
 * A voter that restarts has forgotten whom it answered: it gives no vote for an election timeout.
 * Without that rule the cut-off leader's lease, which it confirmed, would still hold when it helps
 * to elect another.
 */
TEST(lease, restarted_voter)
{
    struct lab *lab = lab_new();
    struct watch w = {0};
    unsigned voter;
    unsigned other;
    uint64_t restarted;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_converge(lab);
    w.old = lab_leader(lab);
    voter = w.old % 3 + 1;
    other = voter % 3 + 1;
    /* The third node hears nobody for so long that it will ask for votes at once. */
    lab_isolate(lab, other, true);
    lab_run_ms(lab, 3 * LAB_ELECTION_MS);
    CHECK_OK(read_at(lab, w.old));
    lab_isolate(lab, other, false);
    lab_cut(lab, w.old, other, true);
    lab_cut(lab, w.old, voter, true);
    lab_node_stop(lab, voter);
    CHECK_OK(lab_node_start(lab, voter, 3));
    restarted = lab_now_us(lab);
    CHECK(lab_run_until(lab, deposed, &w, 10000));
    CHECK_EQ(w.violations, 0);
    CHECK(lab_now_us(lab) - restarted >= LAB_ELECTION_MS * 1000);
    lab_free(lab);
}

static bool heard_of_term(struct lab *lab, void *arg)
{
    (void)arg;
    return lab->nodes[1].group->raft.current_term >= 1000;
}

/* For one election timeout after its start a node does not even look at a request for its vote. */
TEST(lease, restarted_node_ignores_votes)
{
    struct lab *lab = lab_new();
    struct raft_message m = {.type = RAFT_REQUEST_VOTE, .server_id = 1};
    struct kl_message_extra extra = {0};
    struct kl_buf b = KL_BUF(1024);
    uint64_t restarted;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_converge(lab);
    for (unsigned i = 1; i <= 3; i++) {
        lab_node_stop(lab, i);
    }
    CHECK_OK(lab_node_start(lab, 1, 3));
    restarted = lab_now_us(lab);
    m.request_vote = (struct raft_request_vote){.version = 2,
                                                .term = 1000,
                                                .candidate_id = 2,
                                                .last_log_index = 1000,
                                                .last_log_term = 999,
                                                .disrupt_leader = true};
    CHECK_OK(kl_message_encode(&m, &extra, 0, 0, &b));
    while (!heard_of_term(lab, NULL)) {
        kl_group_receive(lab->nodes[1].group, 2, kl_buf_bytes(&b));
        lab_run_ms(lab, 1);
        CHECK(lab_now_us(lab) - restarted < 10000000);
    }
    CHECK(lab_now_us(lab) - restarted >= LAB_ELECTION_MS * 1000);
    kl_buf_wipe(&b);
    lab_free(lab);
}

static void frozen_tick(struct raft_io *io)
{
    (void)io;
}

/*
 * A leader whose own thread sleeps does not notice that it is cut off, but those who read on other
 * threads do: the lease alone ends in time.
 */
TEST(lease, frozen_leader)
{
    struct lab *lab = lab_new();
    struct watch w = {0};

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    for (unsigned round = 0; round < 3; round++) {
        struct kl_group *g;
        raft_io_tick_cb tick;

        w.old = lab_leader(lab);
        g = lab->nodes[w.old].group;
        tick = g->wio.tick_cb;
        g->wio.tick_cb = frozen_tick;
        lab->frozen = w.old;
        lab_isolate(lab, w.old, true);
        CHECK_OK(read_at(lab, w.old));
        CHECK(lab_run_until(lab, deposed, &w, 10000));
        CHECK_EQ(w.violations, 0);
        lab->frozen = 0;
        g->wio.tick_cb = tick;
        lab_isolate(lab, w.old, false);
        lab_converge(lab);
    }
    lab_free(lab);
}

/* A new cluster does not wait for that. */
TEST(lease, new_cluster_votes_at_once)
{
    struct lab *lab = lab_new();

    lab_start(lab, 3, 3);
    for (unsigned i = 1; i <= 3; i++) {
        CHECK(lab->nodes[i].group->brand_new);
    }
    (void)lab_leader(lab);
    lab_node_stop(lab, 1);
    CHECK_OK(lab_node_start(lab, 1, 3));
    CHECK(!lab->nodes[1].group->brand_new);
    lab_free(lab);
}

/* Leadership goes where it is sent, without a lost or doubled write, and the lease goes first. */
TEST(lease, transfer)
{
    struct lab *lab = lab_new();
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    for (unsigned round = 0; round < 6; round++) {
        unsigned to;
        uint64_t before = lab_now_us(lab);

        leader = lab_leader(lab);
        to = leader % 3 + 1;
        CHECK_OK(lab_transfer(lab, leader, round % 2 == 0 ? to : 0));
        CHECK(lab_now_us(lab) - before < 1000000);
        CHECK_NE(lab_leader(lab), leader);
        if (round % 2 == 0) {
            CHECK_EQ(lab_leader(lab), to);
        }
        CHECK(read_at(lab, leader) != KL_OK);
        lab_fill(lab, round * 10, 10, 10);
    }
    lab_converge(lab);
    CHECK_STATUS(lab_transfer(lab, lab_leader(lab) % 3 + 1, 0), KL_NOT_LEADER);
    CHECK_STATUS(lab_transfer(lab, lab_leader(lab), 5), KL_UNAVAILABLE);
    lab_free(lab);
}

static bool drop_votes(struct lab *lab, unsigned from, unsigned to, enum kl_lane lane,
                       struct kl_buf *message)
{
    Kluis__Peer__Message *m = NULL;
    bool vote;

    (void)lab;
    (void)from;
    (void)to;
    (void)lane;
    CHECK_OK(kl_message_unpack(kl_buf_bytes(message), &m));
    vote = m->body_case == KLUIS__PEER__MESSAGE__BODY_REQUEST_VOTE;
    kl_message_unpacked_free(m);
    return !vote;
}

/*
 * When a transfer fails after TimeoutNow was sent, votes asked for because of it may still come:
 * the old leader has no lease in that term any more, and leads again only in a higher one.
 */
TEST(lease, failed_transfer)
{
    struct lab *lab = lab_new();
    unsigned leader;
    uint64_t term;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    term = lab->nodes[leader].group->lead_term;
    lab->filter = drop_votes;
    CHECK_STATUS(lab_transfer(lab, leader, leader % 3 + 1), KL_TIMEOUT);
    CHECK(lab->nodes[leader].group->lead_term != term);
    CHECK(read_at(lab, leader) != KL_OK);
    lab->filter = NULL;
    CHECK(lab->nodes[lab_leader(lab)].group->lead_term > term);
    lab_fill(lab, 0, 10, 10);
    lab_converge(lab);
    lab_free(lab);
}

/* A transfer to a node that does not answer is given up, and the lease comes back. */
TEST(lease, transfer_to_silent)
{
    struct lab *lab = lab_new();
    struct lab_call *waiting;
    unsigned leader;
    unsigned to;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    to = leader % 3 + 1;
    lab_isolate(lab, to, true);
    lab_fill(lab, 0, 5, 10);
    waiting = NULL;
    CHECK_STATUS(lab_transfer(lab, leader, to), KL_TIMEOUT);
    waiting = lab_vault(lab, leader, 100, 10);
    CHECK_EQ(lab_leader(lab), leader);
    lab_fill(lab, 10, 5, 10);
    CHECK_EQ(waiting->status, KL_OK);
    lab_isolate(lab, to, false);
    lab_converge(lab);
    lab_call_free(waiting);
    lab_free(lab);
}
