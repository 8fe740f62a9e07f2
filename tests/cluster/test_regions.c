/* Two regions, each the other's mirror, and a witness: real processes, a whole region killed. */
#include "tests/cluster/harness.h"
#include "tests/cluster/workload.h"
#include "tests/lib/test.h"

#include <signal.h>
#include <string.h>

enum {
    WEST_GROUP = 1,
    EAST_GROUP = 2,
    WITNESS = 4,
    LEADER_MS = 30000,
    SETTLE_MS = 60000,
};

static void make_vault_in(struct kluis_client *client, const char *name, const char *region)
{
    const struct kluis_vault_options options = {.location = region};
    struct kluis_vault *vault = NULL;

    CHECK_EQ(kluis_vault_create(client, name, &options, 30000, &vault), KLUIS_OK);
    CHECK_STR(vault->location, region);
    kluis_vault_free(vault);
}

/* Waits until the vault is served from there. */
static void wait_leader_region(struct kluis_client *client, const char *name, const char *region)
{
    uint64_t until = harness_now_us() + LEADER_MS * 1000ULL;
    char where[65] = "";

    while (strcmp(where, region) != 0 && harness_now_us() < until) {
        struct kluis_vault *vault = NULL;

        if (kluis_vault_get(client, name, 5000, &vault) == KLUIS_OK) {
            (void)snprintf(where, sizeof where, "%s", vault->leader_region);
        }
        kluis_vault_free(vault);
        harness_sleep_ms(50);
    }
    CHECK_STR(where, region);
}

/* A vault says where it is at home, where its mirror is, and whether the mirror has everything. */
TEST(regions, vault_show)
{
    const struct cluster_options options = cluster_paired();
    struct cluster *c = cluster_new(&options);
    struct kluis_client *client = cluster_client(c);
    struct kluis_vault *vault = NULL;
    uint64_t until = harness_now_us() + SETTLE_MS * 1000ULL;
    bool current = false;

    make_vault_in(client, "in-east", "east");
    while (!current && harness_now_us() < until) {
        CHECK_EQ(kluis_vault_get(client, "in-east", 20000, &vault), KLUIS_OK);
        CHECK_STR(vault->location, "east");
        CHECK_STR(vault->mirror, "west");
        CHECK(vault->leader_region[0] != '\0');
        current = vault->mirror_current && vault->mirror_lag == 0;
        kluis_vault_free(vault);
        harness_sleep_ms(20);
    }
    CHECK(current);
    kluis_close(client);
    cluster_free(c);
}

/* The nodes say between them who took over from whom, also when leadership has gone home since. */
static void check_failover(struct cluster *c, const char *field, const char *value)
{
    char query[64];
    char out[64] = "";

    (void)snprintf(query, sizeof query, "groups[1].lastFailover.%s", field);
    CHECK_EQ(cluster_cli(
                 c,
                 (const char *[]){"cluster", "status", "--query", query, "--output", "tsv", NULL},
                 out, sizeof out),
             0);
    CHECK_STR(out, value);
}

/* The region that leads is killed, both nodes at once: the other takes over, writes included, and no
 * acknowledged write is lost. Then it comes back, and the other goes the same way. */
TEST(regions, region_lost)
{
    struct cluster_options options = cluster_paired();
    struct kluis_client *client;
    struct workload_result r;
    struct cluster *c;
    struct workload *w;

    options.extra_config = "failback_after = 2s";
    c = cluster_new(&options);
    client = cluster_client(c);
    make_vault_in(client, "load", "west");
    w = workload_start(&(struct workload_options){.client = client,
                                                  .vault = "load",
                                                  .threads = 4,
                                                  .names = 6,
                                                  .round_ms = 2000,
                                                  .timeout_ms = 30000,
                                                  .seed = test_seed()});
    for (unsigned first = 0; first <= 2; first += 2) {
        const char *lost = first == 0 ? "west" : "east";

        if (first == 0) {
            wait_leader_region(client, "load", "west");
        }
        CHECK(workload_progress(w, 100));
        workload_reset_gap(w);
        cluster_kill(c, first);
        cluster_kill(c, first + 1);
        CHECK(workload_progress(w, 100));
        wait_leader_region(client, "load", first == 0 ? "east" : "west");
        printf("  %s lost: no write for %llu ms\n", lost,
               (unsigned long long)(workload_longest_gap_us(w) / 1000));
        cluster_start(c, first);
        cluster_start(c, first + 1);
        if (first == 0) {
            wait_leader_region(client, "load", "west"); /* home again */
            check_failover(c, "fromRegion", "west\n");
            check_failover(c, "toRegion", "east\n");
        }
    }
    wait_leader_region(client, "load", "west"); /* it is at home there */
    CHECK(workload_progress(w, 100));
    workload_stop(w, "/tmp/kluis-regions-history.txt", &r);
    printf("  ok %llu refused %llu unknown %llu failed %llu, longest gap %llu ms %s\n",
           (unsigned long long)r.ok, (unsigned long long)r.refused, (unsigned long long)r.unknown,
           (unsigned long long)r.failed, (unsigned long long)(r.longest_gap_us / 1000),
           r.first_failure);
    if (!r.linearizable) {
        printf("%s\n", r.violation);
    }
    CHECK(r.linearizable);
    for (uint32_t group = 0; group <= EAST_GROUP; group++) {
        CHECK(cluster_digests_agree(c, client, group, SETTLE_MS));
    }
    kluis_close(client);
    cluster_free(c);
}

/* Anybody's one command shows every node, every group with its home, its mirror and its leader, and how
 * far each member is behind, also while a node is down. */
TEST(regions, status)
{
    const struct cluster_options options = cluster_paired();
    struct cluster *c = cluster_new(&options);
    static char out[65536];

    cluster_kill(c, 3);
    CHECK_EQ(cluster_cli(c, (const char *[]){"cluster", "status", NULL}, out, sizeof out), 0);
    for (unsigned i = 0; i < 5; i++) {
        CHECK(strstr(out, cluster_endpoint(c, i)) != NULL);
    }
    CHECK(strstr(out, "unreachable") != NULL);
    CHECK(strstr(out, "witness") != NULL);
    CHECK(strstr(out, "MIRROR") != NULL && strstr(out, "BEHIND_S") != NULL);
    CHECK(strstr(out, " 0.0") != NULL); /* nobody else lacks anything */
    CHECK_EQ(cluster_cli(c,
                         (const char *[]){"cluster", "status", "--query", "groups[].home",
                                          "--output", "tsv", NULL},
                         out, sizeof out),
             0);
    CHECK_STR(out, "west\nwest\neast\n");
    CHECK_EQ(cluster_cli(c,
                         (const char *[]){"cluster", "status", "--query", "groups[1].role",
                                          "--output", "tsv", NULL},
                         out, sizeof out),
             0);
    CHECK_STR(out, "leader\n"); /* whichever node was asked: the leader's word counts */
    cluster_free(c);
}

/* The witness stores and votes and answers for itself, and holds no key: it serves no vault. */
TEST(regions, witness)
{
    const struct cluster_options options = cluster_paired();
    struct cluster *c = cluster_new(&options);
    struct kluis_client *client = cluster_client(c);
    Kluis__V1__ClusterStatusResponse *status;
    struct kluis_client *alone = NULL;
    struct kluis_vault *vault = NULL;
    const char *endpoint = cluster_endpoint(c, WITNESS);
    const struct kluis_options o = {.endpoints = &endpoint,
                                    .endpoints_n = 1,
                                    .ca_file = cluster_ca(c),
                                    .token = cluster_token(c),
                                    .no_wait = true};

    make_vault_in(client, "load", "west");
    cluster_kill(c, 0);
    cluster_kill(c, 2); /* one of each region is left: the witness makes the majority */
    CHECK_EQ(kluis_vault_get(client, "load", 30000, &vault), KLUIS_OK);
    CHECK(strcmp(vault->leader_region, "hill") != 0);
    kluis_vault_free(vault);
    status = cluster_status(c, client, WITNESS);
    CHECK(status != NULL && status->sealed && status->n_groups == 3);
    kluis__v1__cluster_status_response__free_unpacked(status, NULL);
    CHECK(!cluster_log_has(c, WITNESS, "level=error"));
    CHECK_EQ(kluis_open(&o, &alone, NULL, 0), KLUIS_OK);
    CHECK_NE(kluis_vault_get(alone, "load", 5000, &vault), KLUIS_OK);
    kluis_close(alone);
    kluis_close(client);
    cluster_free(c);
}
