/* A pool without threads: a job runs where it is submitted, if that is where the pool was made. */
#include "server/runtime/pool.h"

#include <stdlib.h>

struct kl_pool {
    pthread_t owner;
};

enum kl_status kl_pool_new(unsigned threads, size_t queue_max, struct kl_pool **out)
{
    (void)threads;
    (void)queue_max;
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return KL_NO_MEMORY;
    }
    (*out)->owner = pthread_self();
    return KL_OK;
}

enum kl_status kl_pool_submit(struct kl_pool *pool, struct kl_job *job)
{
    if (!pthread_equal(pool->owner, pthread_self())) {
        return KL_EXHAUSTED;
    }
    job->run(job);
    return KL_OK;
}

void kl_pool_free(struct kl_pool *pool)
{
    free(pool);
}
