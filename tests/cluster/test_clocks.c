/* Wrong clocks at real nodes: nothing is purged before its time, somebody is told, and it ends. The
 * cluster's day is a second, so what is deleted goes after seven; clocks jump by real days. */
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <stdio.h>
#include <time.h>

enum {
    NODES = 3,
    VAULT_GROUP = 1,
    RETENTION_MS = 7000,
    CALL_MS = 30000,
    WAIT_MS = 40000,
    POLL_MS = 50,
    TRUST_MS = 3000, /* in which times of this machine and of the cluster may differ */
};

struct fixture {
    struct cluster *cluster;
    struct kluis_client *client;
};

static void setup(struct fixture *f)
{
    const struct kluis_vault_options o = {.retention_days = 7};
    struct kluis_vault *vault = NULL;

    f->cluster =
        cluster_new(&(struct cluster_options){.nodes = NODES, .day_ms = 1000, .fake_clocks = true});
    f->client = cluster_client(f->cluster);
    CHECK_EQ(kluis_vault_create(f->client, "times", &o, CALL_MS, &vault), KLUIS_OK);
    kluis_vault_free(vault);
}

static void teardown(struct fixture *f)
{
    kluis_close(f->client);
    cluster_free(f->cluster);
}

/* Makes a secret and deletes it; when that was. */
static uint64_t deleted(struct fixture *f, const char *name)
{
    uint64_t now_us;

    CHECK_EQ(kluis_secret_set(f->client, "times", name, "x", 1, NULL, CALL_MS, NULL), KLUIS_OK);
    now_us = harness_now_us();
    CHECK_EQ(kluis_secret_delete(f->client, "times", name, CALL_MS, NULL), KLUIS_OK);
    return now_us;
}

static bool is_there(struct fixture *f, const char *name)
{
    enum kluis_status st = kluis_secret_get_deleted(f->client, "times", name, CALL_MS, NULL);

    CHECK(st == KLUIS_OK || st == KLUIS_NOT_FOUND);
    return st == KLUIS_OK;
}

/* It goes by itself, and not before its time. */
static void check_goes(struct fixture *f, const char *name, uint64_t deleted_us)
{
    uint64_t gone_us;

    while (is_there(f, name)) {
        CHECK(harness_now_us() - deleted_us < (RETENTION_MS + WAIT_MS) * 1000ULL);
        harness_sleep_ms(POLL_MS);
    }
    gone_us = harness_now_us();
    CHECK(gone_us - deleted_us >= RETENTION_MS * 1000ULL);
}

/* It stays, although its time is past. */
static void check_stays(struct fixture *f, const char *name, uint64_t deleted_us)
{
    while (harness_now_us() - deleted_us < (RETENTION_MS + 3000) * 1000ULL) {
        CHECK(is_there(f, name));
        harness_sleep_ms(POLL_MS);
    }
}

/* Writes go on, and the times that they get are those of this machine. */
static void check_writes(struct fixture *f, const char *name)
{
    struct kluis_secret *s = NULL;
    struct timespec t;
    int64_t off_ms;

    CHECK_EQ(kluis_secret_set(f->client, "times", name, "y", 1, NULL, CALL_MS, &s), KLUIS_OK);
    (void)clock_gettime(CLOCK_REALTIME, &t);
    off_ms = (int64_t)s->created_ms - ((int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000);
    CHECK(off_ms > -TRUST_MS && off_ms < TRUST_MS);
    kluis_secret_free(s);
}

/* Waits until every node says that purges are held, or that they are not. */
static void wait_held(struct fixture *f, bool held)
{
    uint64_t until = harness_now_us() + WAIT_MS * 1000ULL;
    unsigned n = 0;

    while (n < NODES) {
        Kluis__V1__ClusterStatusResponse *s = cluster_status(f->cluster, f->client, n);

        n = s != NULL && s->clock != NULL && s->clock->held == held ? n + 1 : 0;
        if (s != NULL) {
            kluis__v1__cluster_status_response__free_unpacked(s, NULL);
        }
        CHECK(harness_now_us() < until);
        harness_sleep_ms(POLL_MS);
    }
}

/* The operator's word at one node, with what that node shows. */
static enum kluis_status confirm(struct fixture *f, unsigned node, int64_t shown_more_ms)
{
    Kluis__V1__ClusterStatusResponse *s = cluster_status(f->cluster, f->client, node);
    Kluis__V1__ClusterConfirmTimeRequest q = KLUIS__V1__CLUSTER_CONFIRM_TIME_REQUEST__INIT;
    enum kluis_status st;
    uint8_t request[64];
    uint8_t *bytes = NULL;
    size_t len;

    CHECK(s != NULL && s->clock != NULL);
    q.clocks_ms = (uint64_t)((int64_t)s->clock->clocks_ms + shown_more_ms);
    kluis__v1__cluster_status_response__free_unpacked(s, NULL);
    len = kluis__v1__cluster_confirm_time_request__pack(&q, request);
    st = kluis_call(f->client, "/kluis.v1.Cluster/ConfirmTime", request, len, true,
                    cluster_endpoint(f->cluster, node), CALL_MS, &bytes, &len);
    if (st == KLUIS_OK) {
        kluis_bytes_free(bytes, len);
    }
    return st;
}

/* The leader's clock jumps, then a follower's instead: the others know better. Purges go on in their
 * time, and every node names the clock that is off. */
TEST(clocks, minority)
{
    struct fixture f;
    char line[64];
    uint64_t at_us;
    int leader;

    setup(&f);
    leader = cluster_leader(f.cluster, f.client, VAULT_GROUP, WAIT_MS);
    CHECK(leader >= 0);
    for (int i = 0; i < 2; i++) {
        unsigned node = ((unsigned)leader + (unsigned)i) % NODES;
        const char *name = i == 0 ? "by-leader" : "by-follower";

        at_us = deleted(&f, name);
        cluster_set_clock(f.cluster, node, "+100d");
        (void)snprintf(line, sizeof line, "a node's clock is off node=%u", node + 1);
        for (unsigned k = 0; k < NODES; k++) {
            CHECK(cluster_log_wait(f.cluster, k, line, WAIT_MS));
        }
        check_writes(&f, i == 0 ? "written-by-leader" : "written-by-follower");
        check_goes(&f, name, at_us);
        wait_held(&f, false);
        cluster_set_clock(f.cluster, node, "+0");
        (void)snprintf(line, sizeof line, "clock is right again node=%u", node + 1);
        CHECK(cluster_log_wait(f.cluster, 0, line, WAIT_MS));
    }
    for (unsigned k = 0; k < NODES; k++) {
        CHECK(!cluster_log_has(f.cluster, k, "monotonic time does not explain"));
    }
    teardown(&f);
}

/* All clocks jump: nothing goes by itself, not even in its time, but calls go on, explicit purges too.
 * An operator's word, and only for what the clocks say, ends it at every node. */
TEST(clocks, all)
{
    struct fixture f;
    uint64_t at_us;

    setup(&f);
    at_us = deleted(&f, "waits");
    (void)deleted(&f, "purged");
    for (unsigned k = 0; k < NODES; k++) {
        cluster_set_clock(f.cluster, k, "+100d");
    }
    for (unsigned k = 0; k < NODES; k++) {
        CHECK(cluster_log_wait(f.cluster, k, "scheduled purges are held: the clocks are ahead",
                               WAIT_MS));
    }
    wait_held(&f, true);
    check_stays(&f, "waits", at_us);
    check_writes(&f, "written");
    CHECK_EQ(kluis_secret_purge(f.client, "times", "purged", CALL_MS), KLUIS_OK);
    CHECK_EQ(confirm(&f, 1, -86400000), KLUIS_INVALID_ARGUMENT);
    wait_held(&f, true);
    CHECK(is_there(&f, "waits"));
    CHECK_EQ(confirm(&f, 1, 0), KLUIS_OK);
    wait_held(&f, false);
    check_goes(&f, "waits", at_us);
    check_writes(&f, "written-later"); /* the time was not set */
    at_us = deleted(&f, "later");
    check_goes(&f, "later", at_us);
    teardown(&f);
}

/* The clocks come back by themselves: that ends it as well. */
TEST(clocks, all_and_back)
{
    struct fixture f;
    uint64_t at_us;

    setup(&f);
    at_us = deleted(&f, "waits");
    for (unsigned k = 0; k < NODES; k++) {
        cluster_set_clock(f.cluster, k, k == 0 ? "-5d" : "-3d");
    }
    wait_held(&f, true);
    check_stays(&f, "waits", at_us);
    check_writes(&f, "written");
    for (unsigned k = 0; k < NODES; k++) {
        cluster_set_clock(f.cluster, k, "+0");
    }
    wait_held(&f, false);
    check_goes(&f, "waits", at_us);
    teardown(&f);
}

/* One node after the other restarts with a wrong clock, then all at once: the first have the others to
 * ask, in the end there is only the log. */
TEST(clocks, restarts)
{
    struct fixture f;
    uint64_t at_us;

    setup(&f);
    for (unsigned k = 0; k < NODES; k++) {
        cluster_kill(f.cluster, k);
        cluster_set_clock(f.cluster, k, "+100d");
        cluster_start(f.cluster, k);
        CHECK(cluster_all_voters(f.cluster, f.client, VAULT_GROUP, WAIT_MS));
        wait_held(&f, k != 0);
        check_writes(&f, "written");
    }
    at_us = deleted(&f, "waits");
    for (unsigned k = 0; k < NODES; k++) {
        cluster_kill(f.cluster, k);
    }
    for (unsigned k = 0; k < NODES; k++) {
        cluster_start(f.cluster, k);
    }
    wait_held(&f, true);
    /* The first of them have nothing but the log; whoever is late takes over their time, in doubt. */
    CHECK(cluster_log_has(f.cluster, 0, "ahead of the last log entry") ||
          cluster_log_has(f.cluster, 1, "ahead of the last log entry") ||
          cluster_log_has(f.cluster, 2, "ahead of the last log entry"));
    check_stays(&f, "waits", at_us);
    CHECK_EQ(confirm(&f, 2, 0), KLUIS_OK);
    wait_held(&f, false);
    check_goes(&f, "waits", at_us);
    teardown(&f);
}
