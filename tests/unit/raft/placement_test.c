/*
 * Leadership belongs at home: nodes 1 and 2 are there, 3 and 4 in the pair, 5 is the witness.
 */
#include "tests/unit/raft/lab.h"

enum { FAILBACK_MS = 1500, SETTLE_MS = 20000 };

static struct lab *regions(unsigned failback_ms)
{
    struct lab *lab = lab_new();

    lab->distance[3] = lab->distance[4] = KL_DISTANCE_PAIR;
    lab->distance[5] = KL_DISTANCE_WITNESS;
    lab->failback_ms = failback_ms;
    lab_start(lab, 5, 5);
    lab_init_group(lab);
    lab_converge(lab);
    return lab;
}

struct wanted {
    uint8_t distance;
};

static bool leads_from(struct lab *lab, void *arg)
{
    const struct wanted *w = arg;

    for (unsigned i = 1; i <= 5; i++) {
        const struct kl_group *g = lab->nodes[i].group;

        if (g != NULL && g->ready && lab->distance[i] == w->distance) {
            return true;
        }
    }
    return false;
}

static bool led_from(struct lab *lab, uint8_t distance, unsigned ms)
{
    return lab_run_until(lab, leads_from, &(struct wanted){.distance = distance}, ms);
}

static bool other_leads(struct lab *lab, void *arg)
{
    const unsigned *not = arg;

    for (unsigned i = 1; i <= 5; i++) {
        if (i != *not &&lab->nodes[i].group != NULL && lab->nodes[i].group->ready) {
            return true;
        }
    }
    return false;
}

/* Do those in the pair name nobody as leader any more? */
static bool leader_is_given_up(struct lab *lab, void *arg)
{
    (void)arg;
    return kl_group_leader(lab->nodes[3].group) == 0 && kl_group_leader(lab->nodes[4].group) == 0;
}

static void lose_home(struct lab *lab)
{
    lab_node_stop(lab, 1);
    lab_node_stop(lab, 2);
}

static void home_comes_back(struct lab *lab)
{
    CHECK_OK(lab_node_start(lab, 1, 0));
    CHECK_OK(lab_node_start(lab, 2, 0));
}

/* Whoever was first elected: home leads in the end. */
TEST(placement, home_leads)
{
    struct lab *lab = regions(FAILBACK_MS);

    CHECK(led_from(lab, KL_DISTANCE_HOME, SETTLE_MS));
    lab_free(lab);
}

/* Without its home the pair leads, and takes writes, long before the witness' turn; the status says
 * how that came about. */
TEST(placement, pair_takes_over)
{
    struct lab *lab = regions(60000);
    struct kl_group_status status;
    unsigned leader;

    CHECK_OK(lab_transfer(lab, lab_leader(lab), 1));
    lab_isolate(lab, 1, true);
    lab_isolate(lab, 2, true);
    CHECK(
        lab_run_until(lab, leader_is_given_up, NULL, SETTLE_MS)); /* long before another is there */
    CHECK_EQ(lab->nodes[3].group->raft.state, RAFT_FOLLOWER);
    CHECK(led_from(lab, KL_DISTANCE_PAIR, SETTLE_MS));
    for (unsigned i = 3; i <= 4; i++) {
        const struct kl_group *g = lab->nodes[i].group;

        if (g->ready) {
            kl_group_status(lab->nodes[i].group, &status);
            CHECK_EQ(status.led, KL_LED_ELECTED);
            CHECK(status.led_gap_ms >= 2 * LAB_ELECTION_MS && status.led_gap_ms < SETTLE_MS);
        }
    }
    lose_home(lab);
    lab_fill(lab, 0, 5, 10);
    leader = lab_leader(lab);
    CHECK(leader == 3 || leader == 4);
    lab_free(lab);
}

/* Those who are far away do not veto: a home node stands first and gets the votes of nodes whose own
 * turn is later. */
TEST(placement, home_is_elected_first)
{
    struct lab *lab = regions(60000);

    for (unsigned round = 0; round < 5; round++) {
        unsigned leader = round % 2 + 1;

        CHECK_OK(lab_transfer(lab, lab_leader(lab), leader));
        lab_isolate(lab, leader, true);
        CHECK(lab_run_until(lab, other_leads, &leader, SETTLE_MS));
        CHECK(lab->nodes[3 - leader].group->ready);
        lab_isolate(lab, leader, false);
        lab_converge(lab);
    }
    lab_free(lab);
}

/* Home gets leadership back once it has been there for long enough, not before. */
TEST(placement, handed_back)
{
    struct lab *lab = regions(FAILBACK_MS);
    struct kl_group_status status;
    uint64_t back_us;
    unsigned leader;
    unsigned pair;

    CHECK_OK(lab_transfer(lab, lab_leader(lab), 1));
    lose_home(lab);
    CHECK(led_from(lab, KL_DISTANCE_PAIR, SETTLE_MS));
    pair = lab_leader(lab);
    lab_fill(lab, 0, 20, 10);
    home_comes_back(lab);
    back_us = lab_now_us(lab);
    CHECK(led_from(lab, KL_DISTANCE_HOME, SETTLE_MS));
    CHECK(lab_now_us(lab) - back_us >= FAILBACK_MS * 1000);
    leader = lab_leader(lab);
    kl_group_status(lab->nodes[leader].group, &status);
    CHECK_EQ(status.led, KL_LED_HANDED);
    CHECK(status.led_gap_ms <= 2 * LAB_ELECTION_MS);
    CHECK_EQ(status.failover.term, 0);
    kl_group_status(lab->nodes[pair].group, &status); /* it leads no more, and still knows */
    CHECK_EQ(status.led, KL_LED_NOT);
    CHECK(status.failover.term != 0 && status.failover.term < status.term);
    CHECK_EQ(status.failover.from, 1);
    CHECK(status.failover.gap_ms >= 2 * LAB_ELECTION_MS);
    CHECK(lab_has_vault(lab, leader, 19));
    lab_free(lab);
}

/* A home that comes and goes waits longer each time. */
TEST(placement, no_flapping)
{
    struct lab *lab = regions(FAILBACK_MS);
    uint64_t waited_us = 0;

    for (unsigned round = 0; round < 2; round++) {
        uint64_t back_us;

        CHECK(led_from(lab, KL_DISTANCE_HOME, SETTLE_MS));
        lab_isolate(lab, 1, true);
        lab_isolate(lab, 2, true);
        CHECK(led_from(lab, KL_DISTANCE_PAIR, SETTLE_MS));
        lab_isolate(lab, 1, false);
        lab_isolate(lab, 2, false);
        back_us = lab_now_us(lab);
        lab_run_ms(lab, LAB_ELECTION_MS); /* what they led while they were cut off is over */
        CHECK(led_from(lab, KL_DISTANCE_HOME, 4 * SETTLE_MS));
        CHECK(lab_now_us(lab) - back_us >= waited_us + FAILBACK_MS * 1000);
        waited_us += FAILBACK_MS * 1000;
    }
    lab_free(lab);
}

/* A witness that leads hands over at once, home or not. */
TEST(placement, witness_hands_over)
{
    struct lab *lab = regions(60000);

    CHECK_OK(lab_transfer(lab, lab_leader(lab), 5));
    CHECK(led_from(lab, KL_DISTANCE_HOME, 20 * LAB_ELECTION_MS));
    lose_home(lab);
    CHECK(led_from(lab, KL_DISTANCE_PAIR, SETTLE_MS));
    CHECK_OK(lab_transfer(lab, lab_leader(lab), 5));
    CHECK(led_from(lab, KL_DISTANCE_PAIR, 20 * LAB_ELECTION_MS));
    lab_free(lab);
}

/* So does a node that is drained while it leads; and one that is not drained any more leads again. */
TEST(placement, drained)
{
    struct lab *lab = regions(60000);
    unsigned i;

    CHECK(led_from(lab, KL_DISTANCE_HOME, SETTLE_MS));
    CHECK_OK(lab_transfer(lab, lab_leader(lab), 1));
    lab->distance[1] = lab->distance[2] = KL_DISTANCE_DRAINED;
    CHECK(led_from(lab, KL_DISTANCE_PAIR, 20 * LAB_ELECTION_MS));
    i = lab_leader(lab);
    CHECK(i == 3 || i == 4);
    lab_free(lab);
}

/* What is handed over to is caught up: a home node that cannot be reached is not tried. */
TEST(placement, not_to_one_that_is_away)
{
    struct lab *lab = regions(FAILBACK_MS);
    unsigned leader;

    lab_isolate(lab, 1, true);
    lab_isolate(lab, 2, true);
    CHECK(led_from(lab, KL_DISTANCE_PAIR, SETTLE_MS));
    lab_fill(lab, 0, 5, 10);
    leader = lab_leader(lab);
    lab_run_ms(lab, 3 * FAILBACK_MS);
    CHECK_EQ(lab_leader(lab), leader);
    lab_free(lab);
}
