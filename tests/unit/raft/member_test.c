/*
 * Changes of membership.
 */
#include "tests/unit/raft/lab.h"

static int role(struct lab *lab, unsigned node, unsigned of)
{
    const struct raft_configuration *conf = &lab->nodes[node].group->raft.configuration;

    for (unsigned i = 0; i < conf->n; i++) {
        if (conf->servers[i].id == of) {
            return conf->servers[i].role;
        }
    }
    return -1;
}

/* A node is added, catches up, votes, leads, and is removed again; all agree on the members. */
TEST(member, add_promote_remove)
{
    struct lab *lab = lab_new();
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    lab_fill(lab, 0, 50, 100);
    CHECK_OK(lab_node_start(lab, 4, 0));
    leader = lab_leader(lab);
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_ADD, 4));
    CHECK_STATUS(lab_change(lab, leader, KL_MEMBER_ADD, 4), KL_ALREADY_EXISTS);
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_STANDBY, 4));
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_VOTER, 4));
    lab_fill(lab, 50, 50, 100);
    lab_converge(lab);
    for (unsigned i = 1; i <= 4; i++) {
        CHECK_EQ(lab->nodes[i].group->raft.configuration.n, 4);
        CHECK_EQ(role(lab, i, 4), RAFT_VOTER);
    }
    CHECK_OK(lab_transfer(lab, leader, 4));
    CHECK_EQ(lab_leader(lab), 4);
    CHECK_OK(lab_change(lab, 4, KL_MEMBER_REMOVE, leader));
    CHECK_EQ(role(lab, 4, leader), -1);
    CHECK_STATUS(lab_change(lab, 4, KL_MEMBER_VOTER, leader), KL_NOT_FOUND);
    lab_node_stop(lab, leader);
    lab_fill(lab, 100, 20, 100);
    lab_converge(lab);
    lab_free(lab);
}

static bool other_leads(struct lab *lab, void *arg)
{
    unsigned other = *(unsigned *)arg;

    return lab->nodes[other].group->ready;
}

/* N20: one of two voters that leads hands over before it may go; the last voter stays. */
TEST(member, remove_leader_of_two)
{
    struct lab *lab = lab_new();
    unsigned leader;
    unsigned other;

    lab_start(lab, 2, 2);
    lab_init_group(lab);
    leader = lab_leader(lab);
    other = 3 - leader;
    CHECK_STATUS(lab_change(lab, leader, KL_MEMBER_REMOVE, leader), KL_NOT_LEADER);
    CHECK(lab_run_until(lab, other_leads, &other, 20000));
    CHECK_EQ(role(lab, other, leader), RAFT_VOTER);
    CHECK_OK(lab_change(lab, other, KL_MEMBER_REMOVE, leader));
    lab_node_stop(lab, leader);
    CHECK_STATUS(lab_change(lab, other, KL_MEMBER_REMOVE, other), KL_INVALID_ARGUMENT);
    CHECK_STATUS(lab_change(lab, other, KL_MEMBER_SPARE, other), KL_INVALID_ARGUMENT);
    lab_fill(lab, 0, 5, 100);
    lab_free(lab);
}

/* A leader can remove itself: the others go on. */
TEST(member, remove_leader)
{
    struct lab *lab = lab_new();
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_REMOVE, leader));
    lab_node_stop(lab, leader);
    CHECK_NE(lab_leader(lab), leader);
    lab_fill(lab, 0, 10, 10);
    lab_converge(lab);
    lab_free(lab);
}

/* A new voter that does not answer is not waited for beyond Raft's patience; others may follow. */
TEST(member, silent_voter)
{
    struct lab *lab = lab_new();
    unsigned leader;

    lab_start(lab, 1, 1);
    lab_init_group(lab);
    leader = lab_leader(lab);
    raft_set_max_catch_up_round_duration(&lab->nodes[leader].group->raft, 300);
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_ADD, 2));
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_STANDBY, 2));
    CHECK_STATUS(lab_change(lab, leader, KL_MEMBER_VOTER, 2), KL_TIMEOUT);
    CHECK_EQ(role(lab, 1, 2), RAFT_STANDBY);
    CHECK_OK(lab_node_start(lab, 2, 0));
    raft_set_max_catch_up_round_duration(&lab->nodes[leader].group->raft, 5000);
    CHECK_OK(lab_change(lab, leader, KL_MEMBER_VOTER, 2));
    lab_fill(lab, 0, 10, 10);
    lab_converge(lab);
    lab_free(lab);
}

/* Only the leader changes members, and arguments are checked. */
TEST(member, refused)
{
    struct lab *lab = lab_new();
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    CHECK_STATUS(lab_change(lab, leader % 3 + 1, KL_MEMBER_ADD, 4), KL_NOT_LEADER);
    CHECK_STATUS(lab_change(lab, leader, KL_MEMBER_ADD, 0), KL_INVALID_ARGUMENT);
    CHECK_STATUS(lab_change(lab, leader, KL_MEMBER_REMOVE, 6), KL_OK);
    lab_free(lab);
}
