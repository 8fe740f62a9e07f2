/* Followers that missed more than the log keeps are brought up by a stream of the state. */
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum {
    VAULT_GROUP = 1,
    LEADER_MS = 20000,
    SETTLE_MS = 60000,
    CALL_MS = 30000,
    WRITERS = 8,
    SECRETS_PER_WRITER = 250,
    VALUE_LEN = 25000, /* in all 50 MB: more than the 32 MiB of log that are kept */
    ROUNDS_MAX = 10,
    BEHIND_MAX = 100 /* the last index of a node that went down before the writes is below */
};

struct writer {
    struct kluis_client *client;
    pthread_t thread;
    int id;
    enum kluis_status st; /* of the last write */
};

static void *write_some(void *arg)
{
    struct writer *w = arg;
    char value[VALUE_LEN];
    char name[64];

    memset(value, 'a' + w->id, sizeof value);
    for (int i = 0; i < SECRETS_PER_WRITER && w->st == KLUIS_OK; i++) {
        (void)snprintf(name, sizeof name, "s%d-%d", w->id, i);
        w->st = kluis_secret_set(w->client, "bulk", name, value, sizeof value, NULL, CALL_MS, NULL);
    }
    return NULL;
}

static void write_much(struct kluis_client *client)
{
    struct writer writers[WRITERS];

    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.client = client, .id = i};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_some, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
        CHECK_EQ(writers[i].st, KLUIS_OK);
    }
}

struct fixture {
    struct cluster *cluster;
    struct kluis_client *client;
    unsigned behind; /* a node that was down during the writes, and still is */
    unsigned leader;
};

/* First index in the closed segments of a node's log. */
static unsigned long long log_start(const struct cluster *c, unsigned node)
{
    unsigned long long least = ~0ull;
    char path[512];
    struct dirent *e;
    DIR *d;

    (void)snprintf(path, sizeof path, "%s/g1/log", cluster_data_dir(c, node));
    d = opendir(path);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        unsigned long long first = strtoull(e->d_name, NULL, 10);

        if (first != 0 && first < least) {
            least = first;
        }
    }
    (void)closedir(d);
    return least;
}

/* Writes until the leader has thrown away what the node that is down has not seen. */
static void outrun(struct fixture *f)
{
    for (int round = 0; round < ROUNDS_MAX; round++) {
        write_much(f->client);
        for (int i = 0; i < 100; i++) {
            if (log_start(f->cluster, f->leader) > BEHIND_MAX) {
                return;
            }
            harness_sleep_ms(20);
        }
    }
    fail_msg("the log is never cut");
}

static void setup(struct fixture *f)
{
    struct kluis_vault *vault = NULL;
    int leader;

    f->cluster = cluster_new(&(struct cluster_options){.nodes = 3});
    f->client = cluster_client(f->cluster);
    CHECK_EQ(kluis_vault_create(f->client, "bulk", NULL, CALL_MS, &vault), KLUIS_OK);
    kluis_vault_free(vault);
    leader = cluster_leader(f->cluster, f->client, VAULT_GROUP, LEADER_MS);
    CHECK(leader >= 0);
    f->behind = ((unsigned)leader + 1) % 3;
    cluster_kill(f->cluster, f->behind);
    f->leader = (unsigned)leader;
    outrun(f);
    leader = cluster_leader(f->cluster, f->client, VAULT_GROUP, LEADER_MS);
    CHECK(leader >= 0);
    f->leader = (unsigned)leader;
}

static void check_equal(struct fixture *f)
{
    struct kluis_secret *s = NULL;

    CHECK(cluster_digests_agree(f->cluster, f->client, VAULT_GROUP, SETTLE_MS));
    CHECK(cluster_log_has(f->cluster, f->behind, "adopted the state group=1"));
    CHECK_EQ(cluster_transfer(f->cluster, f->client, VAULT_GROUP, f->behind, LEADER_MS), KLUIS_OK);
    CHECK_EQ(kluis_secret_get(f->client, "bulk", "s3-17", NULL, CALL_MS, &s), KLUIS_OK);
    CHECK_EQ(s->value_len, VALUE_LEN);
    CHECK_EQ(((const char *)s->value)[VALUE_LEN - 1], 'd');
    kluis_secret_free(s);
}

static void teardown(struct fixture *f)
{
    kluis_close(f->client);
    cluster_free(f->cluster);
}

/* A follower that was down gets the state, has it equal to the last byte, and can lead. */
TEST(recovery, state_stream)
{
    struct fixture f;

    setup(&f);
    cluster_start(f.cluster, f.behind);
    check_equal(&f);
    CHECK(cluster_log_has(f.cluster, f.leader, "offering the state group=1"));
    teardown(&f);
}

/* The leader dies in the middle of the stream: the next one brings the follower up. */
TEST(recovery, leader_killed_while_streaming)
{
    struct fixture f;

    setup(&f);
    cluster_start(f.cluster, f.behind);
    CHECK(cluster_log_wait(f.cluster, f.behind, "receiving the state group=1", SETTLE_MS));
    cluster_kill(f.cluster, f.leader);
    CHECK(!cluster_log_has(f.cluster, f.behind, "adopted the state group=1"));
    CHECK_EQ(kluis_secret_set(f.client, "bulk", "after", "x", 1, NULL, SETTLE_MS, NULL), KLUIS_OK);
    cluster_start(f.cluster, f.leader);
    check_equal(&f);
    teardown(&f);
}

/* The leader stops leading but lives; and the follower itself dies twice on the way. */
TEST(recovery, both_ends_restarted)
{
    struct fixture f;

    setup(&f);
    for (int i = 0; i < 2; i++) {
        cluster_start(f.cluster, f.behind);
        CHECK(cluster_log_wait(f.cluster, f.behind, "receiving the state group=1", SETTLE_MS));
        cluster_kill(f.cluster, f.behind);
        CHECK_EQ(truncate(cluster_log(f.cluster, f.behind), 0), 0);
        CHECK_EQ(
            cluster_transfer(f.cluster, f.client, VAULT_GROUP, 3 - f.behind - f.leader, LEADER_MS),
            KLUIS_OK);
        f.leader = 3 - f.behind - f.leader;
    }
    cluster_start(f.cluster, f.behind);
    check_equal(&f);
    teardown(&f);
}

/* A replaced node dies while it receives the state, and others have been replaced before: it is brought
 * up all the same. */
TEST(recovery, killed_while_joining)
{
    struct fixture f;
    unsigned other;

    setup(&f);
    other = 3 - f.behind - f.leader;
    cluster_start(f.cluster, f.behind);
    check_equal(&f); /* it leads now */
    for (int i = 0; i < 2; i++) {
        unsigned lost = i == 0 ? f.leader : other;

        cluster_kill(f.cluster, lost);
        CHECK_EQ(truncate(cluster_log(f.cluster, lost), 0), 0);
        cluster_wipe(f.cluster, lost);
        cluster_start(f.cluster, lost);
        CHECK_EQ(cluster_replace(f.cluster, f.client, lost, SETTLE_MS), KLUIS_OK);
        CHECK(cluster_log_wait(f.cluster, lost, "receiving the state group=1", SETTLE_MS));
        cluster_kill(f.cluster, lost);
        cluster_start(f.cluster, lost);
        for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
            CHECK(cluster_all_voters(f.cluster, f.client, g, SETTLE_MS));
        }
    }
    CHECK(cluster_digests_agree(f.cluster, f.client, VAULT_GROUP, SETTLE_MS));
    teardown(&f);
}

/* A node that was down while another was replaced hears it as its leader, although its own copy of the
 * member list still names the one that was lost. */
TEST(recovery, replaced_while_another_was_down)
{
    struct fixture f = {.behind = 4};
    struct kluis_vault *vault = NULL;

    f.cluster = cluster_new(&(struct cluster_options){.nodes = 5});
    f.client = cluster_client(f.cluster);
    CHECK_EQ(kluis_vault_create(f.client, "bulk", NULL, CALL_MS, &vault), KLUIS_OK);
    kluis_vault_free(vault);
    CHECK(cluster_digests_agree(f.cluster, f.client, VAULT_GROUP, SETTLE_MS));
    cluster_kill(f.cluster, f.behind);
    cluster_kill(f.cluster, 1);
    cluster_wipe(f.cluster, 1);
    cluster_start(f.cluster, 1);
    CHECK_EQ(cluster_replace(f.cluster, f.client, 1, SETTLE_MS), KLUIS_OK);
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_EQ(cluster_transfer(f.cluster, f.client, g, 1, SETTLE_MS), KLUIS_OK);
    }
    cluster_start(f.cluster, f.behind);
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK(cluster_all_voters(f.cluster, f.client, g, SETTLE_MS));
        CHECK(cluster_digests_agree(f.cluster, f.client, g, SETTLE_MS));
    }
    CHECK_EQ(cluster_leader(f.cluster, f.client, VAULT_GROUP, LEADER_MS), 1);
    teardown(&f);
}
