/*
 * The load of one region in a drill: threads that use a vault as tests/cluster/workload.h does, and a
 * gardener that deletes secrets of a short retention and looks when they go. Ends at SIGTERM.
 *
 *   kluis-drill-client --endpoints HOST:PORT,... --ca FILE --token FILE --out FILE
 *                      --first N --threads N --pace-ms N --timeout-ms N --retention-ms N --vault NAME [--garden VAULT]
 *
 * FILE gets the history (tests/lib/history.h) line by line, and as comments of it
 *   # failed CLIENT KIND BEGUN ENDED STATUS     a call that did not get an answer from the model
 *   # garden NAME DELETED SEEN STATE            microseconds; STATE: early, purged, or kept at the end
 * Exits 0, or 2 with a message when it cannot work.
 */
#include "common/names.h"
#include "tests/cluster/harness.h"
#include "tests/cluster/workload.h"
#include "tests/lib/test.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

enum {
    ENDPOINTS_MAX = 16,
    NAMES = 8,
    ROUND_MS = 3000,
    BED_MAX = 4096,
    PLANT_MS = 500,
    CALL_MS = 5000,
    TOKEN_LEN = 256
};

struct setting {
    const char *endpoints, *ca, *token, *out, *vault, *garden;
    uint64_t first, threads, pace_ms, timeout_ms, retention_ms;
};

struct plant {
    char name[32];
    uint64_t deleted_us; /* when the delete was begun */
    bool gone;
};

struct garden {
    struct kluis_client *client;
    const struct setting *s;
    FILE *out;
    atomic_bool stop;
    struct plant plants[BED_MAX];
    size_t n;
};

static bool parse(int argc, char **argv, struct setting *s)
{
    static const struct option options[] = {
        {"endpoints", required_argument, NULL, 'e'},
        {"ca", required_argument, NULL, 'c'},
        {"token", required_argument, NULL, 't'},
        {"out", required_argument, NULL, 'o'},
        {"garden", required_argument, NULL, 'g'},
        {"vault", required_argument, NULL, 'v'},
        {"first", required_argument, NULL, 'f'},
        {"threads", required_argument, NULL, 'n'},
        {"pace-ms", required_argument, NULL, 'p'},
        {"timeout-ms", required_argument, NULL, 'd'},
        {"retention-ms", required_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    int id;

    while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
        const char **text = id == 'e'   ? &s->endpoints
                            : id == 'c' ? &s->ca
                            : id == 't' ? &s->token
                            : id == 'o' ? &s->out
                            : id == 'g' ? &s->garden
                            : id == 'v' ? &s->vault
                                        : NULL;
        uint64_t *number = id == 'f'   ? &s->first
                           : id == 'n' ? &s->threads
                           : id == 'p' ? &s->pace_ms
                           : id == 'd' ? &s->timeout_ms
                           : id == 'r' ? &s->retention_ms
                                       : NULL;

        if (text != NULL) {
            *text = optarg;
        } else if (number == NULL || kl_number_parse(optarg, 0, UINT32_MAX, number) != KL_OK) {
            return false;
        }
    }
    return s->endpoints != NULL && s->ca != NULL && s->token != NULL && s->out != NULL &&
           s->vault != NULL && s->threads >= 1 && s->threads <= 32 && s->timeout_ms != 0;
}

static struct kluis_client *open_client(const struct setting *s)
{
    const char *endpoints[ENDPOINTS_MAX];
    struct kluis_options o = {.endpoints = endpoints, .ca_file = s->ca};
    struct kluis_client *client = NULL;
    char token[TOKEN_LEN] = "";
    char err[256] = "no token";
    char *list = strdup(s->endpoints);
    char *save = NULL;
    FILE *f = fopen(s->token, "r");

    for (char *p = strtok_r(list, ",", &save); p != NULL && o.endpoints_n < ENDPOINTS_MAX;
         p = strtok_r(NULL, ",", &save)) {
        endpoints[o.endpoints_n++] = p;
    }
    if (f != NULL && fgets(token, sizeof token, f) != NULL) {
        token[strcspn(token, "\n")] = 0;
        o.token = token;
        (void)kluis_open(&o, &client, err, sizeof err);
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    free(list);
    if (client == NULL) {
        (void)fprintf(stderr, "kluis-drill-client: %s\n", err);
        exit(2);
    }
    return client;
}

static void plant_one(struct garden *g)
{
    struct plant *p = &g->plants[g->n];

    (void)snprintf(p->name, sizeof p->name, "g%llu-%zu", (unsigned long long)g->s->first, g->n);
    if (kluis_secret_set(g->client, g->s->garden, p->name, "x", 1, NULL, CALL_MS, NULL) !=
        KLUIS_OK) {
        return;
    }
    p->deleted_us = harness_now_us();
    if (kluis_secret_delete(g->client, g->s->garden, p->name, CALL_MS, NULL) == KLUIS_OK) {
        g->n++;
    }
}

/* Looks at one that is deleted; it may only be gone once its retention has passed since the delete was
 * begun. */
static void look(struct garden *g, struct plant *p)
{
    enum kluis_status st =
        kluis_secret_get_deleted(g->client, g->s->garden, p->name, CALL_MS, NULL);
    uint64_t now = harness_now_us();

    if (st != KLUIS_NOT_FOUND) {
        return;
    }
    p->gone = true;
    (void)fprintf(g->out, "# garden %s %llu %llu %s\n", p->name, (unsigned long long)p->deleted_us,
                  (unsigned long long)now,
                  now - p->deleted_us < g->s->retention_ms * 1000u ? "early" : "purged");
    (void)fflush(g->out);
}

static void *tend(void *arg)
{
    struct garden *g = arg;

    while (!atomic_load(&g->stop)) {
        if (g->n < BED_MAX) {
            plant_one(g);
        }
        for (size_t i = 0; i < g->n && !atomic_load(&g->stop); i++) {
            if (!g->plants[i].gone) {
                look(g, &g->plants[i]);
            }
        }
        harness_sleep_ms(PLANT_MS);
    }
    for (size_t i = 0; i < g->n; i++) {
        if (!g->plants[i].gone) {
            (void)fprintf(g->out, "# garden %s %llu %llu kept\n", g->plants[i].name,
                          (unsigned long long)g->plants[i].deleted_us,
                          (unsigned long long)harness_now_us());
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static struct garden garden;
    struct setting s = {.threads = 4, .timeout_ms = 10000};
    struct workload_result result;
    struct workload *w;
    pthread_t gardener;
    sigset_t end;
    int got = 0;

    if (!parse(argc, argv, &s)) {
        (void)fprintf(stderr, "kluis-drill-client: see the head of tests/drills/client.c\n");
        return 2;
    }
    (void)sigemptyset(&end);
    (void)sigaddset(&end, SIGTERM);
    (void)pthread_sigmask(SIG_BLOCK, &end, NULL); /* all threads; it is waited for below */
    garden = (struct garden){.client = open_client(&s), .s = &s, .out = fopen(s.out, "w")};
    if (garden.out == NULL) {
        perror(s.out);
        return 2;
    }
    (void)fprintf(garden.out, "kluis-history 1\n");
    w = workload_start(&(struct workload_options){.client = garden.client,
                                                  .vault = s.vault,
                                                  .threads = (unsigned)s.threads,
                                                  .names = NAMES,
                                                  .round_ms = ROUND_MS,
                                                  .timeout_ms = (unsigned)s.timeout_ms,
                                                  .seed = harness_now_us(),
                                                  .first_client = (uint32_t)s.first,
                                                  .pace_ms = (unsigned)s.pace_ms,
                                                  .keep_even = true,
                                                  .stream = garden.out});
    if (s.garden != NULL && pthread_create(&gardener, NULL, tend, &garden) != 0) {
        return 2;
    }
    (void)sigwait(&end, &got);
    atomic_store(&garden.stop, true);
    workload_stop(w, NULL, &result);
    if (s.garden != NULL) {
        (void)pthread_join(gardener, NULL);
    }
    kluis_close(garden.client);
    return fclose(garden.out) == 0 ? 0 : 2;
}
