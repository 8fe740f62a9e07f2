/*
 * Worker threads for calls: they may block on the disk, never on each other. Jobs submitted
 * together are taken together, so a burst costs few wake-ups.
 */
#ifndef KL_POOL_H
#define KL_POOL_H

#include "server/runtime/mailbox.h"

#include "common/status.h"

struct kl_pool;

struct kl_job {
    struct kl_mail mail;             /* first */
    void (*run)(struct kl_job *job); /* on a worker thread; owns the job from here on */
};

/* threads 1..KL_POOL_THREADS_MAX; queue_max jobs may wait. KL_NO_MEMORY (also: no threads). */
KL_MUST_USE enum kl_status kl_pool_new(unsigned threads, size_t queue_max, struct kl_pool **out);
/* KL_EXHAUSTED when the queue is full, KL_CLOSED once kl_pool_free has begun: the job stays the
 * caller's. Any thread, jobs included. */
KL_MUST_USE enum kl_status kl_pool_submit(struct kl_pool *pool, struct kl_job *job);
/* Runs what is queued, then joins the threads. No submit from outside may be under way; not from a
 * job. NULL is allowed. */
void kl_pool_free(struct kl_pool *pool);

#endif
