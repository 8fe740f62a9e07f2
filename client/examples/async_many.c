/*
 * Reads one secret many times, always with so many calls under way, and says how fast that was.
 *
 *   async_many [VAULT [NAME [CALLS [OUTSTANDING]]]]
 *
 * with KLUIS_ENDPOINT, KLUIS_CA_FILE and KLUIS_TOKEN or KLUIS_TOKEN_FILE in the environment. The
 * secret must be there: set_get makes one.
 */
#include <kluis.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "connect.h"

struct run {
    struct kluis_client *client;
    const char *vault, *name;
    pthread_mutex_t lock;
    pthread_cond_t over;
    unsigned long to_start, under_way, ok, failed;
};

static void done(void *arg, enum kluis_status status, struct kluis_secret *result,
                 const char *message);

/* Starts the next call, if there is one left. Called with the lock held. */
static void start_next(struct run *run)
{
    enum kluis_status st;

    if (run->to_start == 0) {
        return;
    }
    run->to_start--;
    run->under_way++;
    /* The callback may come before this returns: not under the lock it takes. */
    pthread_mutex_unlock(&run->lock);
    st = kluis_secret_get_async(run->client, run->vault, run->name, NULL, 0, done, run);
    pthread_mutex_lock(&run->lock);
    if (st != KLUIS_OK) { /* then it will not come at all */
        run->under_way--;
        run->failed++;
    }
}

static void done(void *arg, enum kluis_status status, struct kluis_secret *result,
                 const char *message)
{
    struct run *run = arg;

    kluis_secret_free(result);
    pthread_mutex_lock(&run->lock);
    run->under_way--;
    if (status == KLUIS_OK) {
        run->ok++;
    } else if (run->failed++ == 0) {
        fprintf(stderr, "%s: %s\n", kluis_status_name(status), message);
    }
    start_next(run);
    if (run->under_way == 0 && run->to_start == 0) {
        pthread_cond_signal(&run->over);
    }
    pthread_mutex_unlock(&run->lock);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    struct run run = {.vault = argc > 1 ? argv[1] : "examples",
                      .name = argc > 2 ? argv[2] : "passphrase"};
    unsigned long calls = argc > 3 ? strtoul(argv[3], NULL, 10) : 10000;
    unsigned long outstanding = argc > 4 ? strtoul(argv[4], NULL, 10) : 64;
    double began;

    run.client = example_connect();
    if (run.client == NULL) {
        return 1;
    }
    run.to_start = calls;
    pthread_mutex_init(&run.lock, NULL);
    pthread_cond_init(&run.over, NULL);
    began = now();
    pthread_mutex_lock(&run.lock);
    for (unsigned long i = 0; i < outstanding; i++) {
        start_next(&run);
    }
    while (run.under_way != 0 || run.to_start != 0) {
        pthread_cond_wait(&run.over, &run.lock);
    }
    pthread_mutex_unlock(&run.lock);
    printf("%lu reads, %lu failed, %.0f per second\n", run.ok + run.failed, run.failed,
           (double)calls / (now() - began));
    kluis_close(run.client);
    return run.failed == 0 ? 0 : 1;
}
