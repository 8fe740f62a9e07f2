/*
 * Closed-loop load on kluis through libkluis: CLIENTS calls are always under way, each started by
 * the end of the one before it.
 *
 *   load_kluis ENDPOINTS CA TOKEN_FILE VAULT set|get CLIENTS SECONDS KEYS VALUE_BYTES
 *
 * ENDPOINTS: host:port, comma-separated.
 */
#include "client/include/kluis.h"
#include "tests/bench/histogram.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ENDPOINTS_MAX = 16, TOKEN_LEN = 4096, CALL_TIMEOUT_MS = 10000, WARM_UP_US = 500000 };

struct load {
    struct kluis_client *client;
    const char *vault;
    char *value;
    size_t value_len;
    uint64_t keys;
    bool set;
    uint64_t measure_from_us;
    uint64_t until_us;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t ended;
    struct histogram histogram;
    uint64_t errors;
    unsigned open;
    uint64_t next;
    char first_error[256];
};

struct caller {
    struct load *load;
    uint64_t started_us;
};

static uint64_t now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static double cpu_seconds(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void finished(void *arg, enum kluis_status status, struct kluis_secret *result,
                     const char *message);

static enum kluis_status start(struct caller *c, uint64_t n)
{
    struct load *l = c->load;
    char name[64];

    (void)snprintf(name, sizeof name, "bench-%llu", (unsigned long long)(n * 7919 % l->keys));
    c->started_us = now_us();
    if (l->set) {
        return kluis_secret_set_async(l->client, l->vault, name, l->value, l->value_len, NULL,
                                      CALL_TIMEOUT_MS, finished, c);
    }
    return kluis_secret_get_async(l->client, l->vault, name, NULL, CALL_TIMEOUT_MS, finished, c);
}

static void fail(struct load *l, enum kluis_status status, const char *message)
{
    if (l->errors++ == 0) {
        (void)snprintf(l->first_error, sizeof l->first_error, "%s: %s", kluis_status_name(status),
                       message == NULL ? "" : message);
    }
}

static void finished(void *arg, enum kluis_status status, struct kluis_secret *result,
                     const char *message)
{
    struct caller *c = arg;
    struct load *l = c->load;
    uint64_t now = now_us();
    bool again;
    uint64_t n;

    (void)pthread_mutex_lock(&l->lock);
    if (status != KLUIS_OK) {
        fail(l, status, message);
    } else if (now >= l->measure_from_us && now < l->until_us) {
        histogram_add(&l->histogram, now - c->started_us);
    }
    again = now < l->until_us;
    n = l->next++;
    (void)pthread_mutex_unlock(&l->lock);
    kluis_secret_free(result);
    if (again && start(c, n) == KLUIS_OK) {
        return;
    }
    (void)pthread_mutex_lock(&l->lock);
    l->errors += again ? 1 : 0;
    if (--l->open == 0) {
        (void)pthread_cond_signal(&l->ended);
    }
    (void)pthread_mutex_unlock(&l->lock);
}

static enum kluis_status open_client(char *endpoints, const char *ca, const char *token_file,
                                     struct kluis_client **out)
{
    const char *list[ENDPOINTS_MAX];
    struct kluis_options options = {.endpoints = list, .ca_file = ca};
    char token[TOKEN_LEN] = "";
    char err[512] = "";
    char *rest = NULL;
    enum kluis_status st;
    FILE *f = fopen(token_file, "r");

    if (f == NULL || fgets(token, sizeof token, f) == NULL) {
        (void)fprintf(stderr, "%s: cannot be read\n", token_file);
        return KLUIS_IO;
    }
    (void)fclose(f);
    token[strcspn(token, "\n")] = 0;
    for (char *p = strtok_r(endpoints, ",", &rest);
         p != NULL && options.endpoints_n < ENDPOINTS_MAX; p = strtok_r(NULL, ",", &rest)) {
        list[options.endpoints_n++] = p;
    }
    options.token = token;
    st = kluis_open(&options, out, err, sizeof err);
    if (st != KLUIS_OK) {
        (void)fprintf(stderr, "%s\n", err);
    }
    return st;
}

static int run(struct load *l, unsigned clients, double seconds, const char *op)
{
    struct caller *callers = calloc(clients, sizeof *callers);
    double cpu = cpu_seconds();

    if (callers == NULL) {
        return 1;
    }
    l->measure_from_us = now_us() + WARM_UP_US;
    l->until_us = l->measure_from_us + (uint64_t)(seconds * 1e6);
    l->open = clients;
    l->next = clients;
    for (unsigned i = 0; i < clients; i++) {
        callers[i].load = l;
        if (start(&callers[i], i) != KLUIS_OK) {
            (void)fprintf(stderr, "a call could not be started\n");
            return 1;
        }
    }
    (void)pthread_mutex_lock(&l->lock);
    while (l->open != 0) {
        (void)pthread_cond_wait(&l->ended, &l->lock);
    }
    (void)pthread_mutex_unlock(&l->lock);
    histogram_print(&l->histogram, op, clients, seconds, l->errors, cpu_seconds() - cpu);
    if (l->errors != 0) {
        (void)fprintf(stderr, "first error: %s\n", l->first_error);
    }
    free(callers);
    return l->errors == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct load l = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
    int code;

    if (argc != 10) {
        (void)fprintf(stderr,
                      "load_kluis ENDPOINTS CA TOKEN_FILE VAULT set|get CLIENTS SECONDS KEYS "
                      "VALUE_BYTES\n");
        return 2;
    }
    l.vault = argv[4];
    l.set = strcmp(argv[5], "set") == 0;
    l.keys = strtoul(argv[8], NULL, 10);
    l.value_len = strtoul(argv[9], NULL, 10);
    l.value = malloc(l.value_len + 1);
    if (l.value == NULL || open_client(argv[1], argv[2], argv[3], &l.client) != KLUIS_OK) {
        return 1;
    }
    memset(l.value, 'v', l.value_len);
    code = run(&l, (unsigned)strtoul(argv[6], NULL, 10), strtod(argv[7], NULL), argv[5]);
    kluis_close(l.client);
    free(l.value);
    return code;
}
