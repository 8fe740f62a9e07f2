#include "tests/lib/test.h"

#include "common/alloc.h"
#include "common/limits.h"
#include "server/runtime/pool.h"

#include <stdatomic.h>

/* Counts up to a number and lets one thread wait for it. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned count;
};

static void gate_init(struct gate *g)
{
    (void)pthread_mutex_init(&g->lock, NULL);
    (void)pthread_cond_init(&g->changed, NULL);
    g->count = 0;
}

static void gate_done(struct gate *g)
{
    (void)pthread_cond_destroy(&g->changed);
    (void)pthread_mutex_destroy(&g->lock);
}

static void gate_add(struct gate *g)
{
    (void)pthread_mutex_lock(&g->lock);
    g->count++;
    (void)pthread_cond_broadcast(&g->changed);
    (void)pthread_mutex_unlock(&g->lock);
}

static void gate_wait(struct gate *g, unsigned count)
{
    (void)pthread_mutex_lock(&g->lock);
    while (g->count < count) {
        (void)pthread_cond_wait(&g->changed, &g->lock);
    }
    (void)pthread_mutex_unlock(&g->lock);
}

struct job {
    struct kl_job job; /* first */
    struct gate *started;
    struct gate *go; /* NULL: does not wait */
    struct gate *ended;
    atomic_uint *runs;
};

static void run(struct kl_job *j)
{
    struct job *job = (struct job *)j;

    if (job->started != NULL) {
        gate_add(job->started);
    }
    if (job->go != NULL) {
        gate_wait(job->go, 1);
    }
    atomic_fetch_add(job->runs, 1);
    if (job->ended != NULL) {
        gate_add(job->ended);
    }
}

/* Every job runs exactly once, whoever submits it, also when they come in bursts. */
TEST(pool, runs_every_job_once)
{
    enum { JOBS = 20000 };
    static struct job jobs[JOBS];
    atomic_uint runs = 0;
    struct kl_pool *pool;

    CHECK_OK(kl_pool_new(4, JOBS, &pool));
    for (size_t i = 0; i < JOBS; i++) {
        jobs[i] = (struct job){.job.run = run, .runs = &runs};
        CHECK_OK(kl_pool_submit(pool, &jobs[i].job));
    }
    kl_pool_free(pool); /* runs what is queued */
    CHECK_EQ(atomic_load(&runs), JOBS);
}

struct submitter {
    struct kl_pool *pool;
    struct job *jobs;
    size_t n;
};

static void *submit_all(void *arg)
{
    const struct submitter *s = arg;

    for (size_t i = 0; i < s->n; i++) {
        while (kl_pool_submit(s->pool, &s->jobs[i].job) == KL_EXHAUSTED) {
            /* the queue is short on purpose: full and empty meet all the time */
        }
    }
    return NULL;
}

/* No wake-up is lost when many threads submit to a queue that is full and empty in turn. */
TEST(pool, many_submitters_and_a_short_queue)
{
    enum { THREADS = 3, EACH = 5000 };
    static struct job jobs[THREADS][EACH];
    struct submitter submitters[THREADS];
    pthread_t threads[THREADS];
    atomic_uint runs = 0;
    struct gate ended;
    struct kl_pool *pool;

    gate_init(&ended);
    CHECK_OK(kl_pool_new(3, 4, &pool));
    for (size_t t = 0; t < THREADS; t++) {
        for (size_t i = 0; i < EACH; i++) {
            jobs[t][i] = (struct job){.job.run = run, .runs = &runs, .ended = &ended};
        }
        submitters[t] = (struct submitter){pool, jobs[t], EACH};
        CHECK_EQ(pthread_create(&threads[t], NULL, submit_all, &submitters[t]), 0);
    }
    gate_wait(&ended, THREADS * EACH); /* before free: the workers must have found them unaided */
    for (size_t t = 0; t < THREADS; t++) {
        CHECK_EQ(pthread_join(threads[t], NULL), 0);
    }
    kl_pool_free(pool);
    CHECK_EQ(atomic_load(&runs), THREADS * EACH);
    gate_done(&ended);
}

/* Jobs that block do not keep others from idle workers: as many run at once as there are workers. */
TEST(pool, blocked_jobs_are_shared_out)
{
    enum { THREADS = 4 };
    struct job jobs[THREADS];
    atomic_uint runs = 0;
    struct gate started;
    struct gate go;
    struct kl_pool *pool;

    gate_init(&started);
    gate_init(&go);
    CHECK_OK(kl_pool_new(THREADS, 16, &pool));
    for (size_t i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.job.run = run, .runs = &runs, .started = &started, .go = &go};
        CHECK_OK(kl_pool_submit(pool, &jobs[i].job));
    }
    gate_wait(&started, THREADS); /* all of them, before the first may end */
    CHECK_EQ(atomic_load(&runs), 0);
    gate_add(&go);
    kl_pool_free(pool);
    CHECK_EQ(atomic_load(&runs), THREADS);
    gate_done(&started);
    gate_done(&go);
}

/* A full queue refuses, and the job stays the caller's. */
TEST(pool, refuses_when_full)
{
    struct job blocker;
    struct job waiting[2];
    struct job refused;
    atomic_uint runs = 0;
    struct gate started;
    struct gate go;
    struct kl_pool *pool;

    gate_init(&started);
    gate_init(&go);
    CHECK_OK(kl_pool_new(1, 2, &pool));
    blocker = (struct job){.job.run = run, .runs = &runs, .started = &started, .go = &go};
    waiting[0] = waiting[1] = refused = (struct job){.job.run = run, .runs = &runs};
    CHECK_OK(kl_pool_submit(pool, &blocker.job));
    gate_wait(&started, 1);
    CHECK_OK(kl_pool_submit(pool, &waiting[0].job));
    CHECK_OK(kl_pool_submit(pool, &waiting[1].job));
    CHECK_STATUS(kl_pool_submit(pool, &refused.job), KL_EXHAUSTED);
    gate_add(&go);
    kl_pool_free(pool);
    CHECK_EQ(atomic_load(&runs), 3); /* the refused one never ran */
    gate_done(&started);
    gate_done(&go);
}

static void run_and_free(struct kl_job *j)
{
    struct job *job = (struct job *)j;

    atomic_fetch_add(job->runs, 1);
    kl_free(job);
}

/* A job owns itself from run() on: it may free itself, in the middle of a batch too. */
TEST(pool, jobs_may_free_themselves)
{
    enum { JOBS = 1000 };
    atomic_uint runs = 0;
    struct kl_pool *pool;

    CHECK_OK(kl_pool_new(2, JOBS, &pool));
    for (size_t i = 0; i < JOBS; i++) {
        struct job *job = kl_calloc(1, sizeof *job);

        CHECK(job != NULL);
        job->job.run = run_and_free;
        job->runs = &runs;
        CHECK_OK(kl_pool_submit(pool, &job->job));
    }
    kl_pool_free(pool);
    CHECK_EQ(atomic_load(&runs), JOBS);
}

/* Without memory there is no pool, and nothing is left behind. */
TEST(pool, no_memory)
{
    struct kl_pool *pool = NULL;

    kl_alloc_fail_at(1);
    CHECK_STATUS(kl_pool_new(2, 8, &pool), KL_NO_MEMORY);
    kl_alloc_fail_at(0);
    CHECK(pool == NULL);
    kl_pool_free(NULL);
}
