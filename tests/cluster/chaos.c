/*
 * kill -9, SIGSTOP, restarts, transfers and lost disks on random nodes under load, for as long as one likes; then: is the
 * history linearizable, are all stores equal, has memory grown, has any node ended by itself?
 *
 *   kluis-chaos [--minutes N] [--seconds N] [--nodes N] [--clients N] [--seed N]
 */
#include "common/names.h"
#include "tests/cluster/harness.h"
#include "tests/cluster/workload.h"
#include "tests/lib/test.h"

#include <getopt.h>
#include <signal.h>
#include <string.h>

enum { DEFAULT_SECONDS = 60, VAULT_TIMEOUT_MS = 30000, HEAL_MS = 60000, GROUPS = 2 };

struct plan {
    uint64_t seconds, nodes, clients, seed;
};

static bool parse(int argc, char **argv, struct plan *p)
{
    static const struct option options[] = {
        {"minutes", required_argument, NULL, 'm'}, {"seconds", required_argument, NULL, 's'},
        {"nodes", required_argument, NULL, 'n'},   {"clients", required_argument, NULL, 'c'},
        {"seed", required_argument, NULL, 'e'},    {NULL, 0, NULL, 0},
    };
    uint64_t minutes = 0;
    int id;

    while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
        uint64_t *to = id == 'm'   ? &minutes
                       : id == 's' ? &p->seconds
                       : id == 'n' ? &p->nodes
                       : id == 'c' ? &p->clients
                       : id == 'e' ? &p->seed
                                   : NULL;

        if (to == NULL || kl_number_parse(optarg, 1, UINT32_MAX, to) != KL_OK) {
            return false;
        }
    }
    p->seconds = minutes != 0 ? minutes * 60 : p->seconds;
    return p->nodes <= CLUSTER_NODES_MAX && p->clients <= 32;
}

/* The disk of a node is lost, and it is replaced. Nobody else may lose a disk until it has all again, so
 * this waits for that. */
static bool lose_disk(struct cluster *c, struct kluis_client *client, unsigned node)
{
    bool good;

    printf("disk     n%u lost\n", node + 1);
    cluster_kill(c, node);
    cluster_wipe(c, node);
    cluster_start(c, node);
    good = cluster_replace(c, client, node, HEAL_MS) == KLUIS_OK;
    for (uint32_t g = 0; good && g < GROUPS; g++) {
        good = cluster_all_voters(c, client, g, HEAL_MS);
    }
    if (!good) {
        printf("disk     n%u: it was not brought back\n", node + 1);
    }
    return good;
}

static bool terminate(struct cluster *c, unsigned node)
{
    int code;

    printf("SIGTERM  n%u\n", node + 1);
    cluster_signal(c, node, SIGTERM);
    code = cluster_wait(c, node, 30000);
    cluster_start(c, node);
    if (code != 0) {
        printf("SIGTERM: n%u ended with %d\n", node + 1, code);
    }
    return code == 0;
}

/* One blow, most of them against one node, and the recovery. false: the node did not do as it must. */
static bool strike(struct cluster *c, struct kluis_client *client, unsigned node, uint64_t *random)
{
    unsigned down_ms = 200 + (unsigned)(test_random(random) % 3000);
    unsigned also = (unsigned)(test_random(random) % cluster_size(c));

    switch (test_random(random) % 10) {
    case 0:
    case 1:
    case 2:
        printf("kill -9  n%u for %u ms\n", node + 1, down_ms);
        cluster_kill(c, node);
        harness_sleep_ms(down_ms);
        cluster_start(c, node);
        return true;
    case 3:
    case 4:
        printf("SIGSTOP  n%u for %u ms\n", node + 1, down_ms);
        cluster_signal(c, node, SIGSTOP);
        harness_sleep_ms(down_ms);
        cluster_signal(c, node, SIGCONT);
        return true;
    case 5:
        printf("kill -9  n%u and n%u for %u ms\n", node + 1, also + 1, down_ms);
        cluster_kill(c, node);
        cluster_kill(c, also);
        harness_sleep_ms(down_ms);
        cluster_start(c, also);
        cluster_start(c, node);
        return true;
    case 6:
        printf("kill -9  all\n");
        for (unsigned i = 0; i < cluster_size(c); i++) {
            cluster_kill(c, i);
        }
        for (unsigned i = 0; i < cluster_size(c); i++) {
            cluster_start(c, i);
        }
        return true;
    case 7:
        return cluster_size(c) == 1 || lose_disk(c, client, node);
    case 8:
        printf("transfer to n%u\n", node + 1);
        (void)cluster_transfer(c, client, 1, node, down_ms);
        return true;
    default:
        return terminate(c, node);
    }
}

static bool torment(struct cluster *c, struct kluis_client *client, struct workload *w,
                    const struct plan *p, uint64_t *worst_us)
{
    uint64_t until = harness_now_us() + p->seconds * 1000000u;
    uint64_t random = p->seed;
    bool good = true;

    while (good && harness_now_us() < until) {
        uint64_t gap;

        harness_sleep_ms(300 + (unsigned)(test_random(&random) % 2500));
        gap = workload_longest_gap_us(w);
        *worst_us = gap > *worst_us ? gap : *worst_us;
        printf("         %llu ms without a write\n", (unsigned long long)gap / 1000u);
        workload_reset_gap(w);
        good = strike(c, client, (unsigned)(test_random(&random) % p->nodes), &random);
        for (unsigned i = 0; i < p->nodes; i++) {
            good = cluster_running(c, i) && good;
        }
        (void)fflush(stdout);
    }
    return good;
}

static bool settle(struct cluster *c, struct kluis_client *client, const struct plan *p)
{
    bool good = true;

    for (uint32_t g = 0; g < GROUPS; g++) {
        bool agree = cluster_digests_agree(c, client, g, HEAL_MS);

        printf("stores of group %u: %s\n", g, agree ? "equal" : "DIFFERENT");
        good = good && agree;
    }
    for (unsigned i = 0; i < p->nodes; i++) {
        printf("n%u resident memory: %lu KiB\n", i + 1, cluster_rss_kib(c, i));
    }
    return good;
}

int main(int argc, char **argv)
{
    struct plan p = {.seconds = DEFAULT_SECONDS, .nodes = 3, .clients = 8, .seed = 0};
    struct kluis_vault *vault = NULL;
    struct workload_result r;
    struct kluis_client *client;
    struct cluster *c;
    struct workload *w;
    uint64_t worst_us = 0;
    bool good;

    if (!parse(argc, argv, &p)) {
        (void)fprintf(stderr,
                      "kluis-chaos [--minutes N] [--seconds N] [--nodes 1..%d] [--clients "
                      "1..32] [--seed N]\n",
                      CLUSTER_NODES_MAX);
        return 2;
    }
    p.seed = p.seed == 0 ? harness_now_us() | 1u : p.seed;
    printf("seed %llu\n", (unsigned long long)p.seed);
    c = cluster_new(&(struct cluster_options){.nodes = (unsigned)p.nodes});
    client = cluster_client(c);
    if (kluis_vault_create(client, "chaos", NULL, VAULT_TIMEOUT_MS, &vault) != KLUIS_OK) {
        (void)fprintf(stderr, "vault: %s\n", kluis_last_error());
        return 1;
    }
    kluis_vault_free(vault);
    w = workload_start(&(struct workload_options){.client = client,
                                                  .vault = "chaos",
                                                  .threads = (unsigned)p.clients,
                                                  .names = 5,
                                                  .round_ms = 5000,
                                                  .timeout_ms = 30000,
                                                  .seed = p.seed});
    good = torment(c, client, w, &p, &worst_us);
    workload_stop(w, "/tmp/kluis-chaos-history.txt", &r);
    printf("operations: %llu ok, %llu refused, %llu unknown, %llu failed; first failure: %s\n",
           (unsigned long long)r.ok, (unsigned long long)r.refused, (unsigned long long)r.unknown,
           (unsigned long long)r.failed, r.first_failure);
    printf("longest time without an acknowledged write: %llu ms\n",
           (unsigned long long)(worst_us / 1000));
    printf("history: %s\n", r.linearizable ? "linearizable" : r.violation);
    good = settle(c, client, &p) && good && r.linearizable && r.ok != 0;
    kluis_close(client);
    if (!good) {
        (void)setenv("KLUIS_KEEP", "1", 1);
    }
    cluster_free(c);
    printf("%s\n", good ? "PASSED" : "FAILED");
    return good ? 0 : 1;
}
