/*
 * One lock, one queue. Two rules keep wake-ups few and no job waiting behind another for nothing:
 *
 *   - a worker takes 1/threads of what waits (at least one, at most KL_POOL_BATCH_MAX), so that a
 *     burst is shared out and a light load goes one job at a time;
 *   - submit wakes a worker only when none is already on its way; a worker that leaves work behind
 *     wakes the next one. So a burst costs as many wake-ups as workers are of use to it.
 */
#include "server/runtime/pool.h"

#include "common/alloc.h"
#include "common/limits.h"

#include <assert.h>
#include <signal.h>

struct kl_pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct kl_mail *head; /* jobs in order of arrival */
    struct kl_mail **tail;
    size_t count; /* jobs in the list */
    size_t max;
    unsigned idle; /* workers that wait on `work` */
    bool waking;   /* a signal was sent and no worker has come back from its wait since */
    bool closing;
    unsigned threads_n;
    pthread_t threads[];
};

/* Under the lock. Whether the caller must signal once it has released it. */
static bool should_wake(struct kl_pool *pool)
{
    if (pool->count == 0 || pool->idle == 0 || pool->waking) {
        return false;
    }
    pool->waking = true;
    return true;
}

/* Under the lock, with jobs waiting: unlinks this worker's share. */
static struct kl_mail *take_share(struct kl_pool *pool)
{
    size_t share = (pool->count + pool->threads_n - 1) / pool->threads_n;
    struct kl_mail *list = pool->head;
    struct kl_mail *last = list;

    if (share > KL_POOL_BATCH_MAX) {
        share = KL_POOL_BATCH_MAX;
    }
    for (size_t i = 1; i < share; i++) {
        last = last->next;
    }
    pool->head = last->next;
    if (pool->head == NULL) {
        pool->tail = &pool->head;
    }
    last->next = NULL;
    pool->count -= share;
    return list;
}

static void run_list(struct kl_mail *list)
{
    while (list != NULL) {
        struct kl_job *job = (struct kl_job *)list; /* mail is its first member */

        list = list->next; /* run() may free the job */
        job->run(job);
    }
}

static void *worker(void *arg)
{
    struct kl_pool *pool = arg;

    (void)pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct kl_mail *list;
        bool wake;

        while (pool->head == NULL && !pool->closing) {
            pool->idle++;
            (void)pthread_cond_wait(&pool->work, &pool->lock);
            pool->idle--;
            pool->waking = false;
        }
        if (pool->head == NULL) {
            break;
        }
        list = take_share(pool);
        wake = should_wake(pool);
        (void)pthread_mutex_unlock(&pool->lock);
        if (wake) {
            (void)pthread_cond_signal(&pool->work);
        }
        run_list(list);
        (void)pthread_mutex_lock(&pool->lock);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Workers take no signals: those belong to the thread that handles them. */
static enum kl_status start_threads(struct kl_pool *pool, unsigned threads)
{
    sigset_t all;
    sigset_t old;
    int rc = 0;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    while (rc == 0 && pool->threads_n < threads) {
        pthread_t thread;

        rc = pthread_create(&thread, NULL, worker, pool);
        if (rc == 0) {
            (void)pthread_setname_np(thread, "kluis-worker");
            (void)pthread_mutex_lock(&pool->lock); /* running workers read threads_n */
            pool->threads[pool->threads_n] = thread;
            pool->threads_n++;
            (void)pthread_mutex_unlock(&pool->lock);
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc == 0 ? KL_OK : KL_NO_MEMORY;
}

enum kl_status kl_pool_new(unsigned threads, size_t queue_max, struct kl_pool **out)
{
    struct kl_pool *pool;
    enum kl_status st;
    int rc;

    assert(threads >= 1 && threads <= KL_POOL_THREADS_MAX && queue_max > 0);
    pool = kl_calloc(1, sizeof *pool + threads * sizeof pool->threads[0]);
    if (pool == NULL) {
        return KL_NO_MEMORY;
    }
    rc = pthread_mutex_init(&pool->lock, NULL);
    assert(rc == 0);
    rc = pthread_cond_init(&pool->work, NULL);
    assert(rc == 0);
    pool->tail = &pool->head;
    pool->max = queue_max;
    st = start_threads(pool, threads);
    if (st != KL_OK) {
        kl_pool_free(pool);
        return st;
    }
    *out = pool;
    return KL_OK;
}

enum kl_status kl_pool_submit(struct kl_pool *pool, struct kl_job *job)
{
    enum kl_status st = KL_OK;
    bool wake = false;

    (void)pthread_mutex_lock(&pool->lock);
    if (pool->closing) {
        st = KL_CLOSED;
    } else if (pool->count >= pool->max) {
        st = KL_EXHAUSTED;
    } else {
        job->mail.next = NULL;
        *pool->tail = &job->mail;
        pool->tail = &job->mail.next;
        pool->count++;
        wake = should_wake(pool);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    if (wake) {
        (void)pthread_cond_signal(&pool->work);
    }
    return st;
}

void kl_pool_free(struct kl_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    (void)pthread_mutex_unlock(&pool->lock);
    (void)pthread_cond_broadcast(&pool->work);
    for (unsigned i = 0; i < pool->threads_n; i++) {
        (void)pthread_join(pool->threads[i], NULL);
    }
    (void)pthread_cond_destroy(&pool->work);
    (void)pthread_mutex_destroy(&pool->lock);
    kl_free(pool);
}
