/*
 * What the distance between sites costs a writer: the latency of a set with one client against the
 * round trip, and the sets per second of 64 clients against sites that are side by side; with one
 * call under way each, and with eight.
 */
#include "common/names.h"
#include "tests/drills/drill.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ROUND_TRIP_MS = 40,
    SECONDS = 10,
    CLIENTS = 64,
    CALLS = 8, /* of each client under way */
    CALL_MS = 30000,
    LATENCIES_MAX = 1 << 20,
    LINE_LEN = 512
};

/*
 * What is asked for (acceptance of the regions): latency in percent of the round trip, and sets per
 * second in percent of those without a distance. A caller that waits for each answer cannot have more
 * than one per round trip, however well the cluster pipelines; where half of the rate without a
 * distance is more than that, each has to be answered as soon as one alone is.
 */
enum { LATENCY_PERCENT_MAX = 130, RATE_PERCENT_MIN = 50 };

struct outcome {
    uint64_t median_us, per_second;
};

/* Lines of kluis-load: name, id, outcome, version, begin, end, ... */
static struct outcome read_log(const char *path)
{
    static uint64_t latencies[LATENCIES_MAX];
    struct outcome out = {0};
    char line[LINE_LEN];
    size_t n = 0;
    FILE *f = fopen(path, "r");

    while (f != NULL && n < LATENCIES_MAX && fgets(line, sizeof line, f) != NULL) {
        char *save = NULL;
        char *word = strtok_r(line, "\t", &save);
        uint64_t begin = 0;
        uint64_t end = 0;

        for (int i = 0; i < 6 && word != NULL; i++) {
            if (i >= 4 && kl_number_parse(word, 0, UINT64_MAX, i == 4 ? &begin : &end) != KL_OK) {
                break;
            }
            word = strtok_r(NULL, "\t", &save);
        }
        latencies[n++] = end - begin;
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    if (n != 0) {
        qsort(latencies, n, sizeof *latencies, drill_compare_u64);
        out = (struct outcome){.median_us = latencies[n / 2], .per_second = n / SECONDS};
    }
    return out;
}

static struct outcome measure(struct cluster *c, unsigned clients, unsigned calls, const char *name)
{
    char log[512];
    char threads[16];
    char number[16];
    char seconds[16];
    pid_t pid;

    (void)snprintf(log, sizeof log, "%s/%s.log", cluster_dir(c), name);
    (void)snprintf(threads, sizeof threads, "%u", clients * calls);
    (void)snprintf(number, sizeof number, "%u", clients);
    (void)snprintf(seconds, sizeof seconds, "%d", SECONDS);
    pid = site_netns.client(SITE_WEST, "../cluster/kluis-load",
                            (const char *[]){"write", "distance", log, "-t", threads, "-c", number,
                                             "-s", seconds, "-p", name, NULL});
    (void)waitpid(pid, NULL, 0);
    return read_log(log);
}

static struct cluster *make(struct kluis_client **client)
{
    const struct kluis_vault_options vault = {.location = "west"};
    struct cluster_options o = cluster_paired();
    char endpoints[256];
    char token[512];
    struct cluster *c;

    o.place = &site_netns.place;
    c = cluster_new(&o);
    *client = cluster_client(c);
    if (kluis_vault_create(*client, "distance", &vault, CALL_MS, NULL) != KLUIS_OK ||
        cluster_transfer(c, *client, DRILL_GROUP_WEST, 0, CALL_MS) != KLUIS_OK) {
        (void)fprintf(stderr, "distance: %s\n", kluis_last_error());
        exit(1);
    }
    (void)snprintf(endpoints, sizeof endpoints, "%s,%s", cluster_endpoint(c, 0),
                   cluster_endpoint(c, 1));
    (void)snprintf(token, sizeof token, "%s/token", cluster_dir(c));
    (void)setenv("KLUIS_ENDPOINT", endpoints, 1);
    (void)setenv("KLUIS_CA_FILE", cluster_ca(c), 1);
    (void)setenv("KLUIS_TOKEN_FILE", token, 1);
    return c;
}

/* Sets per second of the clients at a distance, in percent of those without. */
static bool rates(unsigned calls, struct outcome near, struct outcome far)
{
    uint64_t waiting =
        CLIENTS * (uint64_t)calls * 1000 / ROUND_TRIP_MS; /* no more can come of it */
    uint64_t aim = near.per_second * RATE_PERCENT_MIN / 100;

    if (aim > waiting * 100 / LATENCY_PERCENT_MAX) {
        aim = waiting * 100 / LATENCY_PERCENT_MAX;
    }
    printf("sets of %d clients with %u under way each: %llu/s at 0 ms, %llu/s at %d ms round trip: "
           "%llu %% of it, %llu %% of the %llu/s that can be had by waiting for each answer (at "
           "least %llu/s)\n",
           CLIENTS, calls, (unsigned long long)near.per_second, (unsigned long long)far.per_second,
           ROUND_TRIP_MS,
           (unsigned long long)(near.per_second == 0 ? 0 : far.per_second * 100 / near.per_second),
           (unsigned long long)(far.per_second * 100 / waiting), (unsigned long long)waiting,
           (unsigned long long)aim);
    return aim != 0 && far.per_second >= aim;
}

bool drill_distance(void)
{
    struct kluis_client *client = NULL;
    struct outcome near[2], far[2], one;
    struct cluster *c;
    uint64_t latency;
    bool ok;

    site_netns.up();
    c = make(&client);
    near[0] = measure(c, CLIENTS, 1, "near");
    near[1] = measure(c, CLIENTS, CALLS, "near-more");
    site_rule("* * delay_us=%d", ROUND_TRIP_MS * 1000 / 2);
    harness_sleep_ms(1000);
    one = measure(c, 1, 1, "one");
    far[0] = measure(c, CLIENTS, 1, "far");
    far[1] = measure(c, CLIENTS, CALLS, "far-more");
    kluis_close(client);
    cluster_free(c);
    site_netns.down();
    latency = one.median_us / (10 * ROUND_TRIP_MS);
    ok = one.median_us != 0 && latency <= LATENCY_PERCENT_MAX;
    printf("set of 1 client, round trip %d ms: median %.2f ms, %llu %% of it (at most %d %%)\n",
           ROUND_TRIP_MS, (double)one.median_us / 1000, (unsigned long long)latency,
           LATENCY_PERCENT_MAX);
    ok = rates(1, near[0], far[0]) && ok;
    return rates(CALLS, near[1], far[1]) && ok;
}
