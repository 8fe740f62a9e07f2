/* Real processes, real kills: nothing acknowledged is lost, nothing happens twice. */
#include "tests/cluster/harness.h"
#include "tests/cluster/workload.h"
#include "tests/lib/test.h"

#include <signal.h>
#include <string.h>

enum {
    VAULT_GROUP = 1,
    LEADER_MS = 20000,
    SETTLE_MS = 60000,
    HEALTHY_MS = 1000,
    NEVER_MS = 60000, /* nothing for so long: it did not come back */
};

struct fixture {
    struct cluster *cluster;
    struct kluis_client *client;
};

static void setup(struct fixture *f, unsigned nodes)
{
    struct kluis_vault *vault = NULL;

    f->cluster = cluster_new(&(struct cluster_options){.nodes = nodes});
    f->client = cluster_client(f->cluster);
    CHECK_EQ(kluis_vault_create(f->client, "load", NULL, 30000, &vault), KLUIS_OK);
    kluis_vault_free(vault);
}

static void teardown(struct fixture *f)
{
    kluis_close(f->client);
    cluster_free(f->cluster);
}

static struct workload *load(struct fixture *f)
{
    return workload_start(&(struct workload_options){.client = f->client,
                                                     .vault = "load",
                                                     .threads = 8,
                                                     .names = 6,
                                                     .round_ms = 2000,
                                                     .timeout_ms = 20000,
                                                     .seed = test_seed()});
}

static void finish(struct fixture *f, struct workload *w, struct workload_result *r)
{
    workload_stop(w, "/tmp/kluis-failover-history.txt", r);
    printf("  ok %llu refused %llu unknown %llu failed %llu, longest gap %llu ms %s\n",
           (unsigned long long)r->ok, (unsigned long long)r->refused,
           (unsigned long long)r->unknown, (unsigned long long)r->failed,
           (unsigned long long)(r->longest_gap_us / 1000), r->first_failure);
    if (!r->linearizable) {
        printf("%s\n", r->violation);
    }
    CHECK(r->linearizable);
    CHECK(r->ok != 0);
    CHECK(cluster_digests_agree(f->cluster, f->client, 0, SETTLE_MS));
    CHECK(cluster_digests_agree(f->cluster, f->client, VAULT_GROUP, SETTLE_MS));
}

/* The leader is killed in the middle of the load: writes go on, the history is linearizable, and the
 * restarted node has the same state as the others. How long the gap is, is printed: on an idle machine
 * an election, some seconds under a sanitizer. */
TEST(failover, leader_killed)
{
    struct workload_result r;
    struct workload *w;
    struct fixture f;
    int leader;

    setup(&f, 3);
    w = load(&f);
    CHECK(workload_progress(w, 100));
    for (int i = 0; i < 3; i++) {
        leader = cluster_leader(f.cluster, f.client, VAULT_GROUP, LEADER_MS);
        CHECK(leader >= 0);
        workload_reset_gap(w);
        cluster_kill(f.cluster, (unsigned)leader);
        CHECK(workload_progress(w, 100));
        cluster_start(f.cluster, (unsigned)leader);
        CHECK(workload_progress(w, 50));
    }
    finish(&f, w, &r);
    CHECK(r.longest_gap_us / 1000 < NEVER_MS);
    teardown(&f);
}

/* Every node killed at once, again and again: what was acknowledged is on the disks. */
TEST(failover, all_killed)
{
    struct workload_result r;
    struct workload *w;
    struct fixture f;

    setup(&f, 3);
    w = load(&f);
    for (int round = 0; round < 2; round++) {
        CHECK(workload_progress(w, 200));
        for (unsigned i = 0; i < 3; i++) {
            cluster_kill(f.cluster, i);
        }
        for (unsigned i = 0; i < 3; i++) {
            cluster_start(f.cluster, i);
        }
    }
    CHECK(workload_progress(w, 100));
    finish(&f, w, &r);
    teardown(&f);
}

/* A leader that was stopped and goes on after another was elected answers no stale read. */
TEST(failover, leader_paused)
{
    struct workload_result r;
    struct workload *w;
    struct fixture f;
    int leader;

    setup(&f, 3);
    w = load(&f);
    CHECK(workload_progress(w, 100));
    leader = cluster_leader(f.cluster, f.client, VAULT_GROUP, LEADER_MS);
    CHECK(leader >= 0);
    cluster_signal(f.cluster, (unsigned)leader, SIGSTOP);
    CHECK(workload_progress(w, 100));
    cluster_signal(f.cluster, (unsigned)leader, SIGCONT);
    CHECK(workload_progress(w, 100));
    finish(&f, w, &r);
    teardown(&f);
}

/* Nodes are restarted one after the other under load with SIGTERM: each ends with 0 and not one
 * client call fails. A node hands over what it leads, so the printed gap is shorter than an election
 * on a machine with time to spare. */
TEST(failover, rolling_restart)
{
    struct workload_result r;
    struct workload *w;
    struct fixture f;

    setup(&f, 3);
    w = load(&f);
    CHECK(workload_progress(w, 100));
    workload_reset_gap(w);
    for (unsigned i = 0; i < 3; i++) {
        cluster_signal(f.cluster, i, SIGTERM);
        CHECK_EQ(cluster_wait(f.cluster, i, 30000), 0);
        cluster_start(f.cluster, i);
        CHECK(workload_progress(w, 50));
        CHECK(cluster_leader(f.cluster, f.client, VAULT_GROUP, LEADER_MS) >= 0);
        CHECK(cluster_digests_agree(f.cluster, f.client, 0, SETTLE_MS)); /* it has caught up */
    }
    finish(&f, w, &r);
    CHECK_EQ(r.failed, 0);
    CHECK(r.longest_gap_us / 1000 < NEVER_MS);
    teardown(&f);
}

/* Without a majority a write is not acknowledged and comes back by its deadline; with the majority
 * back it goes on. */
TEST(failover, no_majority)
{
    struct kluis_secret *s = NULL;
    enum kluis_status st;
    struct fixture f;
    uint64_t begun;

    setup(&f, 3);
    cluster_kill(f.cluster, 0);
    cluster_kill(f.cluster, 1);
    begun = harness_now_us();
    st = kluis_secret_set(f.client, "load", "lonely", "x", 1, NULL, 3000, &s);
    CHECK(st == KLUIS_TIMEOUT || st == KLUIS_UNAVAILABLE);
    CHECK((harness_now_us() - begun) / 1000 < NEVER_MS);
    cluster_start(f.cluster, 0);
    CHECK_EQ(kluis_secret_set(f.client, "load", "company", "x", 1, NULL, 30000, &s), KLUIS_OK);
    kluis_secret_free(s);
    teardown(&f);
}

/* A node that lost its disk is refused until it is replaced, is then brought up from nothing, and
 * ends with the same state. Who asks for it again, because the answer was lost, hears that it is done;
 * a node that has its data is not replaced. */
TEST(failover, disk_lost)
{
    struct workload_result r;
    struct workload *w;
    struct fixture f;

    setup(&f, 3);
    w = load(&f);
    CHECK(workload_progress(w, 200));
    cluster_kill(f.cluster, 2);
    cluster_wipe(f.cluster, 2);
    cluster_start(f.cluster, 2);
    CHECK(workload_progress(w, 100));
    CHECK_EQ(cluster_replace(f.cluster, f.client, 2, SETTLE_MS), KLUIS_OK);
    CHECK(workload_progress(w, 100));
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK(cluster_all_voters(f.cluster, f.client, g, SETTLE_MS));
    }
    CHECK_EQ(cluster_replace(f.cluster, f.client, 2, HEALTHY_MS), KLUIS_OK); /* it is done */
    CHECK_EQ(cluster_replace(f.cluster, f.client, 1, HEALTHY_MS), KLUIS_NOT_FOUND);
    finish(&f, w, &r);
    teardown(&f);
}
