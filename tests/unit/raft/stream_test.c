/*
 * State streams: nodes that are too far behind, and all that can go wrong with them.
 */
#include "tests/unit/raft/lab.h"

#include <unistd.h>

enum { VAULTS = 400, VAULT_BYTES = 5000, KEEP = 64 << 10 };

/* Three nodes; the third is cut off until the log it would need is gone. */
static struct lab *behind(void)
{
    struct lab *lab = lab_new();
    unsigned leader;
    unsigned n = 5000;

    for (unsigned i = 1; i <= LAB_NODES; i++) {
        lab->nodes[i].keep_bytes = KEEP;
    }
    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    if (leader == 3) {
        CHECK_OK(lab_transfer(lab, 3, 1));
        leader = lab_leader(lab);
    }
    lab_converge(lab);
    lab_isolate(lab, 3, true);
    for (unsigned i = 0; i < 10; i++) {
        lab_fill(lab, i * (VAULTS / 10), VAULTS / 10, VAULT_BYTES);
    }
    lab_leave_behind(lab, 3, &n);
    return lab;
}

static void rejoin(struct lab *lab)
{
    lab_isolate(lab, 3, false);
    lab_converge(lab);
    CHECK(lab_has_vault(lab, 3, 0));
    CHECK(lab_has_vault(lab, 3, VAULTS - 1));
}

static bool sent_one(struct lab *lab, void *arg)
{
    return lab->nodes[*(unsigned *)arg].group->streams_sent == 1;
}

/* A follower that is too far behind gets the state, and the rest from the log. */
TEST(stream, follower_behind)
{
    struct lab *lab = behind();
    unsigned leader = lab_leader(lab);

    rejoin(lab);
    CHECK_EQ(lab->nodes[3].group->streams_received, 1);
    CHECK(lab_run_until(lab, sent_one, &leader, 1000));
    lab_fill(lab, 10000, 10, 100);
    lab_converge(lab);
    /* and it is a whole member again */
    CHECK_OK(lab_transfer(lab, lab_leader(lab), 3));
    CHECK_EQ(lab_leader(lab), 3);
    lab_fill(lab, 11000, 10, 100);
    lab_converge(lab);
    /* also after a restart */
    lab_node_stop(lab, 3);
    CHECK_OK(lab_node_start(lab, 3, 3));
    lab_converge(lab);
    lab_free(lab);
}

/* A new, empty node is brought up the same way. */
TEST(stream, joiner)
{
    struct lab *lab = behind();
    unsigned leader = lab_leader(lab);

    lab_node_stop(lab, 3);
    lab->nodes[4].keep_bytes = KEEP;
    CHECK_OK(lab_node_start(lab, 4, 0));
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_ADD, 4));
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_STANDBY, 4));
    lab_converge(lab);
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_VOTER, 4));
    lab_converge(lab);
    CHECK_EQ(lab->nodes[4].group->streams_received, 1);
    CHECK(lab_has_vault(lab, 4, VAULTS - 1));
    lab_free(lab);
}

struct cutter {
    unsigned chunks, requests;
    unsigned cut_at; /* drop everything from this chunk on, once */
    unsigned flip_at;
    uint64_t resumed_after;
    bool cutting;
    bool deaf; /* while it cuts, requests are lost too */
    uint64_t id;
    unsigned offers;
    uint64_t acked;
};

static bool watch_stream(struct lab *lab, unsigned from, unsigned to, enum kl_lane lane,
                         struct kl_buf *message)
{
    struct cutter *c = lab->filter_arg;
    Kluis__Peer__Message *m = NULL;
    bool pass = true;

    (void)from;
    (void)to;
    (void)lane;
    CHECK_OK(kl_message_unpack(kl_buf_bytes(message), &m));
    switch (m->body_case) {
    case KLUIS__PEER__MESSAGE__BODY_STREAM_OFFER:
        c->offers += m->stream_offer->stream_id != c->id;
        c->id = m->stream_offer->stream_id;
        break;
    case KLUIS__PEER__MESSAGE__BODY_STREAM_REQUEST:
        if (c->deaf && c->cutting) {
            pass = false;
            break;
        }
        c->requests++;
        c->cutting = false;
        c->resumed_after = m->stream_request->after_seq;
        break;
    case KLUIS__PEER__MESSAGE__BODY_STREAM_CHUNK:
        c->chunks++;
        if (c->chunks == c->cut_at) {
            c->cutting = true;
        }
        if (c->chunks == c->flip_at) {
            m->stream_chunk->pairs[0]->value.data[3] ^= 1;
            kl_buf_clear(message);
            CHECK_OK(kl_message_pack(m, message));
        }
        pass = !c->cutting;
        break;
    case KLUIS__PEER__MESSAGE__BODY_STREAM_ACK:
        c->acked = m->stream_ack->seq;
        break;
    default:
        break;
    }
    kl_message_unpacked_free(m);
    return pass;
}

/* Chunks that are lost are asked for again from the last one that was written. */
TEST(stream, resumed)
{
    struct lab *lab = behind();
    struct cutter c = {.cut_at = 6};

    lab->filter = watch_stream;
    lab->filter_arg = &c;
    rejoin(lab);
    CHECK_EQ(c.offers, 1);
    CHECK(c.requests >= 2);
    CHECK_EQ(c.resumed_after, 5);
    CHECK_EQ(lab->nodes[3].group->streams_received, 1);
    lab_free(lab);
}

/* All chunks before the cut are written, and everything behind it was lost. */
static bool cut_and_written(struct lab *lab, void *arg)
{
    const struct cutter *c = arg;

    (void)lab;
    return c->cutting && c->acked == c->cut_at - 1;
}

/* A connection that breaks in the middle and comes back does not start from the beginning. */
TEST(stream, disconnected)
{
    struct lab *lab = behind();
    struct cutter c = {.cut_at = 8, .deaf = true};
    unsigned leader = lab_leader(lab);

    lab->filter = watch_stream;
    lab->filter_arg = &c;
    lab_isolate(lab, 3, false);
    CHECK(lab_run_until(lab, cut_and_written, &c, 10000));
    lab_run_ms(lab, 0); /* nothing is on its way any more */
    c.deaf = false;
    kl_group_peer(lab->nodes[3].group, leader, false);
    kl_group_peer(lab->nodes[3].group, leader, true);
    lab_run_ms(lab, 0); /* one turn of the loop: it has asked at once */
    CHECK(!c.cutting);
    CHECK_EQ(c.resumed_after, 7);
    rejoin(lab);
    CHECK_EQ(c.offers, 1);
    lab_free(lab);
}

/* A chunk that was changed on the way is refused, nothing of it is kept, and a new stream follows. */
TEST(stream, digest)
{
    struct lab *lab = behind();
    struct cutter c = {.flip_at = 4};

    lab->filter = watch_stream;
    lab->filter_arg = &c;
    rejoin(lab);
    CHECK_EQ(c.offers, 2);
    CHECK_EQ(lab->nodes[3].group->streams_received, 1);
    lab_free(lab);
}

/* The leader takes writes all the while, and no pause is longer than a heartbeat. */
TEST(stream, leader_goes_on)
{
    struct lab *lab = behind();
    unsigned leader = lab_leader(lab);
    uint64_t longest = 0;
    unsigned n = 0;

    lab_isolate(lab, 3, false);
    while (lab->nodes[3].group->streams_received == 0) {
        struct lab_call *c = lab_vault(lab, leader, 20000 + n, 100);
        uint64_t begun = lab_now_us(lab);

        while (!c->done) {
            lab_run_ms(lab, 1);
        }
        CHECK_EQ(c->status, KL_OK);
        if (lab_now_us(lab) - begun > longest) {
            longest = lab_now_us(lab) - begun;
        }
        lab_call_free(c);
        n++;
        CHECK(n < 10000);
    }
    CHECK(n > 1);
    print_message("%u writes during the stream, the slowest %llu us\n", n,
                  (unsigned long long)longest);
    lab_converge(lab);
    lab_free(lab);
}

static bool is_cut(struct lab *lab, void *arg)
{
    (void)lab;
    return ((const struct cutter *)arg)->cutting;
}

static bool no_put(struct lab *lab, void *arg)
{
    (void)lab;
    return !((const struct kl_group *)arg)->wio.put.busy;
}

/* While a stream is sent the leader takes no snapshot, so that the log after it stays. */
TEST(stream, log_is_kept)
{
    struct lab *lab = behind();
    unsigned leader = lab_leader(lab);
    struct kl_group *g = lab->nodes[leader].group;
    struct cutter c = {.cut_at = 3};
    uint64_t taken;

    lab->filter = watch_stream;
    lab->filter_arg = &c;
    lab_isolate(lab, 3, false);
    CHECK(lab_run_until(lab, is_cut, &c, 10000));
    CHECK(lab_run_until(lab, no_put, g, 10000));
    taken = g->snapshots_taken;
    for (unsigned i = 0; i < 50 && kl_stream_sending(g); i++) {
        lab_fill(lab, 20000 + i * 8, 8, VAULT_BYTES);
        c.cutting = true;
        if (kl_stream_sending(g)) {
            CHECK_EQ(g->snapshots_taken, taken);
        }
    }
    c.cut_at = 0;
    c.cutting = false;
    lab_converge(lab);
    lab_free(lab);
}

static bool receiving(struct lab *lab, void *arg)
{
    struct cutter *c = arg;

    (void)lab;
    return c->chunks >= 5;
}

/* A leader that dies in the middle leaves nothing that stops the next one. */
TEST(stream, leader_lost)
{
    struct lab *lab = behind();
    unsigned leader = lab_leader(lab);
    struct cutter c = {0};

    lab->filter = watch_stream;
    lab->filter_arg = &c;
    lab_isolate(lab, 3, false);
    CHECK(lab_run_until(lab, receiving, &c, 5000));
    lab_node_stop(lab, leader);
    CHECK_NE(lab_leader(lab), leader);
    lab_converge(lab);
    CHECK_OK(lab_node_start(lab, leader, 3));
    lab_converge(lab);
    lab_free(lab);
}

/* A receiver that dies in the middle starts again. */
TEST(stream, receiver_restarts)
{
    struct lab *lab = behind();
    struct cutter c = {0};

    lab->filter = watch_stream;
    lab->filter_arg = &c;
    lab_isolate(lab, 3, false);
    CHECK(lab_run_until(lab, receiving, &c, 5000));
    lab_node_stop(lab, 3);
    CHECK_OK(lab_node_start(lab, 3, 3));
    c.resumed_after = 1;
    rejoin(lab);
    CHECK_EQ(c.resumed_after, 0);
    CHECK_EQ(lab->nodes[3].group->streams_received, 1);
    lab_free(lab);
}

static bool staged(struct lab *lab, void *arg)
{
    (void)arg;
    return lab->nodes[3].group->streams_received == 1;
}

static bool no_installs(struct lab *lab, unsigned from, unsigned to, enum kl_lane lane,
                        struct kl_buf *message)
{
    Kluis__Peer__Message *m = NULL;
    bool pass;

    (void)lab;
    (void)from;
    (void)to;
    (void)lane;
    CHECK_OK(kl_message_unpack(kl_buf_bytes(message), &m));
    pass = m->body_case != KLUIS__PEER__MESSAGE__BODY_INSTALL_SNAPSHOT;
    kl_message_unpacked_free(m);
    return pass;
}

/* Raft's message is repeated until it has arrived. */
TEST(stream, install_lost)
{
    struct lab *lab = behind();

    lab->filter = no_installs;
    lab_isolate(lab, 3, false);
    CHECK(lab_run_until(lab, staged, NULL, 10000));
    lab_run_ms(lab, 300);
    CHECK(!lab_has_vault(lab, 3, VAULTS - 1));
    lab->filter = NULL;
    rejoin(lab);
    CHECK_EQ(lab->nodes[3].group->streams_received, 1);
    lab_free(lab);
}

/* The live store is not swapped under a reader: the install waits, and new readers are sent away. */
TEST(stream, readers_are_waited_for)
{
    struct lab *lab = behind();
    struct kl_group *g = lab->nodes[3].group;
    struct kl_read read;
    struct kl_read other;
    struct kl_buf value = KL_BUF(KL_RECORD_MAX);
    uint64_t before = atomic_load(&g->applied);

    CHECK_OK(kl_group_read_local(g, &read));
    lab_isolate(lab, 3, false);
    CHECK(lab_run_until(lab, staged, NULL, 10000));
    lab_run_ms(lab, 500);
    CHECK_EQ(atomic_load(&g->applied), before);
    CHECK_STATUS(kl_group_read_local(g, &other), KL_UNAVAILABLE);
    CHECK_STATUS(read.view.get(read.view.ctx, kl_bytes_str("a"), &value), KL_OK);
    kl_buf_wipe(&value);
    kl_group_read_local_end(g, &read);
    rejoin(lab);
    CHECK_OK(kl_group_read_local(g, &read));
    kl_group_read_local_end(g, &read);
    lab_free(lab);
}

/*
 * A crash between Raft's snapshot and the swap: the staged state is found at boot by its mark and
 * adopted.
 */
TEST(stream, adopted_at_boot)
{
    struct lab *lab = behind();
    char from[400];
    char to[400];
    char cmd[1000];

    lab->filter = no_installs;
    lab_isolate(lab, 3, false);
    CHECK(lab_run_until(lab, staged, NULL, 10000));
    /* Keep a copy of store and staged store as they are before the install... */
    (void)snprintf(from, sizeof from, "%s/staged", lab->nodes[3].dir);
    (void)snprintf(to, sizeof to, "%s/keep-staged", lab->nodes[3].dir);
    (void)snprintf(cmd, sizeof cmd, "cp -r %s %s", from, to);
    CHECK_EQ(system(cmd), 0);
    (void)snprintf(cmd, sizeof cmd, "cp -r %s/state %s/keep-state", lab->nodes[3].dir,
                   lab->nodes[3].dir);
    CHECK_EQ(system(cmd), 0);
    lab->filter = NULL;
    rejoin(lab);
    lab_node_stop(lab, 3);
    /* ... and put them back under the log that has the snapshot already. */
    (void)snprintf(cmd, sizeof cmd,
                   "cd %s && rm -rf state && mv keep-state state && mv keep-staged staged",
                   lab->nodes[3].dir);
    CHECK_EQ(system(cmd), 0);
    CHECK_OK(lab_node_start(lab, 3, 3));
    rejoin(lab);
    lab_free(lab);
}

/* Without the staged state the node says so and does not start with a hole in its state. */
TEST(stream, state_missing_at_boot)
{
    struct lab *lab = behind();
    char cmd[1000];

    (void)snprintf(cmd, sizeof cmd, "cp -r %s/state %s/keep-state", lab->nodes[3].dir,
                   lab->nodes[3].dir);
    CHECK_EQ(system(cmd), 0);
    rejoin(lab);
    lab_node_stop(lab, 3);
    (void)snprintf(cmd, sizeof cmd, "cd %s && rm -rf state && mv keep-state state",
                   lab->nodes[3].dir);
    CHECK_EQ(system(cmd), 0);
    CHECK(lab_node_start(lab, 3, 3) != KL_OK);
    CHECK_EQ(lab->nodes[3].fatals, 1);
    assert_non_null(strstr(lab->nodes[3].why, "snapshot"));
    lab_free(lab);
}

/* A receiver without space gives up clearly, and succeeds when space is back. */
TEST(stream, receiver_full)
{
    struct lab *lab = behind();

    lab->nodes[3].full = true;
    lab_isolate(lab, 3, false);
    lab_run_ms(lab, 1000);
    CHECK_EQ(lab->nodes[3].group->streams_received, 0);
    CHECK_EQ(lab->nodes[3].fatals, 0);
    lab->nodes[3].full = false;
    rejoin(lab);
    lab_free(lab);
}
