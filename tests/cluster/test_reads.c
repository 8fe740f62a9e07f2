/* Reads and writes that go on while leaders and regions come and go: real processes. */
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <string.h>

enum {
    VAULT_GROUP = 1,
    CALL_MS = 30000,
    LEADER_MS = 30000,
    SHORT_MS = 1500,
    ANSWER_MS = 4000, /* a node that lives has answered by then, also on a busy machine */
    /* How much older than it is a replica may say that it is: heartbeats, and a busy machine. */
    SLACK_MS = 10000,
};

static void set_to(struct kluis_client *client, const char *vault, const char *value)
{
    CHECK_EQ(kluis_secret_set(client, vault, "s", value, strlen(value), NULL, CALL_MS, NULL),
             KLUIS_OK);
}

static enum kluis_status read_as(struct kluis_client *client, const char *vault,
                                 enum kluis_consistency consistency, uint32_t max_age_ms,
                                 uint32_t timeout_ms, char value[16])
{
    const struct kluis_read read = {consistency, max_age_ms};
    struct kluis_secret *secret = NULL;
    enum kluis_status st;

    CHECK_EQ(kluis_read_next(&read), KLUIS_OK);
    st = kluis_secret_get(client, vault, "s", NULL, timeout_ms, &secret);
    if (st == KLUIS_OK) {
        (void)snprintf(value, 16, "%.*s", (int)secret->value_len, (const char *)secret->value);
        kluis_secret_free(secret);
    }
    return st;
}

static void check_reads(struct kluis_client *client, const char *vault, const char *value)
{
    static const enum kluis_consistency kinds[] = {KLUIS_READ_LINEARIZABLE, KLUIS_READ_QUORUM};
    char got[16] = "";

    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(read_as(client, vault, kinds[i], 0, CALL_MS, got), KLUIS_OK);
        CHECK_STR(got, value);
    }
}

/* A call that begins before, while or after its leader is killed ends well within its deadline, and
 * sees what was acknowledged before, by the lease and by a majority's word. */
TEST(reads, through_a_failover)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 3});
    struct kluis_client *client = cluster_client(c);
    char value[16] = "";

    cluster_make_vault(client, "team");
    for (int round = 0; round < 3; round++) {
        int leader = cluster_leader(c, client, VAULT_GROUP, LEADER_MS);

        CHECK(leader >= 0);
        (void)snprintf(value, sizeof value, "before %d", round);
        set_to(client, "team", value);
        cluster_kill(c, (unsigned)leader);
        check_reads(client, "team", value);
        (void)snprintf(value, sizeof value, "after %d", round);
        set_to(client, "team", value);
        check_reads(client, "team", value);
        cluster_start(c, (unsigned)leader);
        CHECK(cluster_all_voters(c, client, VAULT_GROUP, 60000));
    }
    kluis_close(client);
    cluster_free(c);
}

/* Waits until every node's stale read brings the value. */
static void wait_everywhere(struct cluster *c, struct kluis_client *client, const char *value)
{
    CHECK(cluster_digests_agree(c, client, VAULT_GROUP, 60000));
    for (int i = 0; i < 3; i++) {
        char got[16] = "";

        CHECK_EQ(read_as(client, "team", KLUIS_READ_STALE, 0, CALL_MS, got), KLUIS_OK);
        CHECK_STR(got, value);
    }
}

/*
 * Two of three are gone and no leader can be: what is left serves stale reads, says an age that is no
 * less than the truth and not much more, refuses beyond the bound, and serves again when there is a
 * leader.
 */
TEST(reads, stale_without_a_leader)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 3});
    struct kluis_client *client = cluster_client(c);
    struct kluis_served served;
    uint64_t killed_us;
    char got[16] = "";
    int leader;

    cluster_make_vault(client, "team");
    set_to(client, "team", "kept");
    wait_everywhere(c, client, "kept");
    leader = cluster_leader(c, client, VAULT_GROUP, LEADER_MS);
    CHECK(leader >= 0);
    cluster_kill(c, (unsigned)leader);
    cluster_kill(c, ((unsigned)leader + 1) % 3);
    killed_us = harness_now_us();
    for (int i = 0; i < 3; i++) {
        uint64_t least_ms;

        harness_sleep_ms(700);
        least_ms = (harness_now_us() - killed_us) / 1000;
        CHECK_EQ(read_as(client, "team", KLUIS_READ_STALE, 0, CALL_MS, got), KLUIS_OK);
        CHECK_STR(got, "kept");
        kluis_last_served(&served);
        CHECK(served.stale);
        CHECK_EQ(served.node_id, ((unsigned)leader + 2) % 3 + 1);
        CHECK_STR(served.region, "west");
        CHECK(served.age_ms >= least_ms);
        CHECK(served.age_ms <= (harness_now_us() - killed_us) / 1000 + SLACK_MS);
    }
    CHECK_EQ(read_as(client, "team", KLUIS_READ_STALE, 1000, ANSWER_MS, got), KLUIS_TOO_OLD);
    CHECK(strstr(kluis_last_error(), "1000 ms") != NULL);
    CHECK(read_as(client, "team", KLUIS_READ_LINEARIZABLE, 0, SHORT_MS, got) != KLUIS_OK);
    CHECK(read_as(client, "team", KLUIS_READ_QUORUM, 0, SHORT_MS, got) != KLUIS_OK);
    cluster_start(c, (unsigned)leader);
    CHECK_EQ(read_as(client, "team", KLUIS_READ_STALE, 1000, CALL_MS, got), KLUIS_OK);
    check_reads(client, "team", "kept");
    kluis_close(client);
    cluster_free(c);
}

/* Two pairs, with one node for each region, and a witness for all. */
static const char *const far_region[] = {"west", "east", "north", "south", "hill"};
static const struct cluster_options far = {
    .nodes = 5,
    .regions =
        "[region west]\npair = east\n[region east]\npair = west\n[region north]\npair = south\n"
        "[region south]\npair = north\n[region hill]\n",
    .region = far_region,
    .witnesses = 1u << 4,
};
enum { WEST, EAST, NORTH, SOUTH, HILL };

static struct kluis_client *client_of(struct cluster *c, unsigned node)
{
    const char *endpoints[] = {cluster_endpoint(c, node)};
    const struct kluis_options options = {.endpoints = endpoints,
                                          .endpoints_n = 1,
                                          .ca_file = cluster_ca(c),
                                          .token = cluster_token(c)};
    struct kluis_client *client = NULL;

    CHECK_EQ(kluis_open(&options, &client, NULL, 0), KLUIS_OK);
    return client;
}

/*
 * A client that knows one node finds every vault, also one that this node does not hold, and a witness
 * is as good an address as any; stale reads too come from where the vault is. When the home region is
 * gone, a client that knew only its node reads and writes through the mirror.
 */
TEST(reads, across_regions)
{
    static const struct kluis_vault_options in_west = {.location = "west"};
    static const struct kluis_vault_options nowhere = {.location = "nowhere"};
    struct cluster *c = cluster_new(&far);
    struct kluis_client *client = client_of(c, WEST);
    struct kluis_vault *vault = NULL;
    struct kluis_served served;
    char got[16] = "";

    CHECK_EQ(kluis_vault_create(client, "in-no", &nowhere, CALL_MS, &vault),
             KLUIS_INVALID_ARGUMENT);
    CHECK(strstr(kluis_last_error(), "location: must be one of west, east") != NULL);
    CHECK_EQ(kluis_vault_create(client, "in-west", &in_west, CALL_MS, &vault), KLUIS_OK);
    kluis_vault_free(vault);
    set_to(client, "in-west", "one");
    for (unsigned node = WEST; node <= HILL; node++) {
        struct kluis_client *other = client_of(c, node);

        check_reads(other, "in-west", "one");
        CHECK_EQ(read_as(other, "in-west", KLUIS_READ_STALE, 0, CALL_MS, got), KLUIS_OK);
        CHECK_STR(got, "one");
        kluis_last_served(&served);
        CHECK(served.node_id == WEST + 1 || served.node_id == EAST + 1);
        kluis_close(other);
    }
    harness_sleep_ms(2000); /* the client has learned the other nodes by now */
    cluster_kill(c, WEST);
    CHECK_EQ(read_as(client, "in-west", KLUIS_READ_STALE, 0, CALL_MS, got), KLUIS_OK);
    kluis_last_served(&served);
    CHECK_EQ(served.node_id, EAST + 1);
    CHECK_STR(served.region, "east");
    check_reads(client, "in-west", "one");
    set_to(client, "in-west", "two");
    check_reads(client, "in-west", "two");
    kluis_close(client);
    cluster_free(c);
}
