/*
 * The queue of calls, the workers' turns, the sweep of deadlines, the life of the dispatcher. What
 * happens to one call is in serve.c.
 *
 * Wake-ups. Calls and completions go into one queue. A runner is a job for the pool: once awake it
 * serves until the queue is empty. Another is woken only when more than KL_RUNNER_SHARE calls wait
 * per runner that is awake, so a burst costs few wake-ups, and the sweep wakes one when all that
 * are awake seem to be stuck on the disk.
 */
#include "server/rpc/call.h"

#include "server/runtime/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

/* ---- what is swapped ---- */

void kl_shared_release(struct kl_shared *s)
{
    if (s != NULL && atomic_fetch_sub(&s->refs, 1) == 1) {
        kl_auth_free(s->auth);
        kl_keyring_free(s->ring);
        kl_free(s);
    }
}

static struct kl_shared *shared_retain(struct kl_shared *s)
{
    if (s != NULL) {
        atomic_fetch_add(&s->refs, 1);
    }
    return s;
}

static void swap_shared(struct kl_dispatch *d, struct kl_shared **slot, struct kl_shared *fresh)
{
    struct kl_shared *old;

    (void)pthread_mutex_lock(&d->lock);
    old = *slot;
    *slot = fresh;
    (void)pthread_mutex_unlock(&d->lock);
    kl_shared_release(old);
}

void kl_dispatch_set_auth(struct kl_dispatch *d, struct kl_auth *auth)
{
    struct kl_shared *fresh = kl_calloc(1, sizeof *fresh);

    if (fresh == NULL) {
        /* Nobody may go on with rights that were to be taken away. */
        kl_log(KL_LOG_ERROR, "rpc", "out of memory: all callers are refused until a reload");
        kl_auth_free(auth);
    } else {
        atomic_init(&fresh->refs, 1);
        fresh->auth = auth;
    }
    swap_shared(d, &d->auth, fresh);
}

void kl_dispatch_set_keyring(struct kl_dispatch *d, struct kl_keyring *ring)
{
    struct kl_shared *fresh = ring == NULL ? NULL : kl_calloc(1, sizeof *fresh);

    if (fresh != NULL) {
        atomic_init(&fresh->refs, 1);
        fresh->ring = ring;
    } else if (ring != NULL) {
        kl_log(KL_LOG_ERROR, "rpc", "out of memory: the node stays sealed");
        kl_keyring_free(ring);
    }
    swap_shared(d, &d->ring, fresh);
}

/* ---- the sweep's clock ---- */

/* Ends the sweeper's present wait. The pipe can only be full when it is awake anyway. */
static void nudge(struct kl_dispatch *d)
{
    const uint8_t byte = 0;

    while (write(d->wake[1], &byte, 1) < 0 && errno == EINTR) {
    }
}

/* Under the lock. The sweep ticks while there are calls, and waits when there are none. */
static void start_sweep(struct kl_dispatch *d)
{
    if (!d->sweeping) {
        d->sweeping = true;
        nudge(d);
    }
}

/* Waits for a tick, or for a nudge when nothing is to be swept. */
static void wait_tick(struct kl_dispatch *d, bool sweeping)
{
    struct pollfd p = {.fd = d->wake[0], .events = POLLIN};
    uint8_t bytes[16];

    if (poll(&p, 1, sweeping ? KL_SWEEP_MS : -1) > 0) {
        while (read(d->wake[0], bytes, sizeof bytes) == (ssize_t)sizeof bytes) {
        }
    }
}

/* ---- the queue ---- */

/* Under the lock: a runner to submit once it is released, or NULL. */
static struct kl_runner *want_runner(struct kl_dispatch *d, size_t share)
{
    struct kl_runner *r = d->idle;

    if (r == NULL || d->queued == 0 || d->queued <= share * d->busy) {
        return NULL;
    }
    d->idle = r->next_idle;
    d->busy++;
    return r;
}

static void submit(struct kl_dispatch *d, struct kl_runner *r)
{
    if (r == NULL || kl_pool_submit(d->o.pool, &r->job) == KL_OK) {
        return;
    }
    (void)pthread_mutex_lock(&d->lock); /* the sweep tries again */
    r->next_idle = d->idle;
    d->idle = r;
    d->busy--;
    (void)pthread_mutex_unlock(&d->lock);
}

/* Under the lock. */
static void enqueue(struct kl_dispatch *d, struct kl_work *w)
{
    w->next = NULL;
    *d->tail = w;
    d->tail = &w->next;
    d->queued++;
}

/* Under the lock: the next call, now running; NULL when there is none. */
static struct kl_work *dequeue(struct kl_dispatch *d)
{
    struct kl_work *w = d->head;

    if (w == NULL) {
        return NULL;
    }
    d->head = w->next;
    if (d->head == NULL) {
        d->tail = &d->head;
    }
    d->queued--;
    d->taken++;
    d->running++;
    w->stopped = d->stopped;
    kl_wheel_remove(&d->wheel, &w->due);
    if (w->auth == NULL) {
        w->auth = shared_retain(d->auth);
    }
    if (w->ring == NULL) {
        w->ring = shared_retain(d->ring);
    }
    return w;
}

void kl_work_park(struct kl_work *w)
{
    struct kl_dispatch *d = w->d;

    (void)pthread_mutex_lock(&d->lock);
    kl_wheel_add(&d->wheel, &w->due, w->deadline_us);
    (void)pthread_mutex_unlock(&d->lock);
}

void kl_work_unpark(struct kl_work *w)
{
    struct kl_dispatch *d = w->d;

    (void)pthread_mutex_lock(&d->lock);
    kl_wheel_remove(&d->wheel, &w->due);
    (void)pthread_mutex_unlock(&d->lock);
}

void kl_work_resume(struct kl_work *w)
{
    struct kl_dispatch *d = w->d;
    struct kl_runner *r;

    (void)pthread_mutex_lock(&d->lock);
    enqueue(d, w);
    r = want_runner(d, KL_RUNNER_SHARE);
    (void)pthread_mutex_unlock(&d->lock);
    submit(d, r);
}

void kl_work_end(struct kl_work *w)
{
    struct kl_dispatch *d = w->d;

    kl_free(w);
    (void)pthread_mutex_lock(&d->lock);
    d->active--;
    if (d->active == 0) {
        (void)pthread_cond_broadcast(&d->changed);
    }
    (void)pthread_mutex_unlock(&d->lock);
}

/* A job of the pool: serves until nothing waits. */
static void run(struct kl_job *job)
{
    struct kl_runner *r = (struct kl_runner *)job; /* its first member */
    struct kl_dispatch *d = r->d;
    struct kl_runner *more;
    struct kl_work *w = NULL;

    for (;;) {
        (void)pthread_mutex_lock(&d->lock);
        d->running -= w != NULL;
        if (d->running == 0 && d->draining) {
            (void)pthread_cond_broadcast(&d->changed);
        }
        w = dequeue(d);
        if (w == NULL && r->holds_n == 0) {
            r->next_idle = d->idle;
            d->idle = r;
            d->busy--;
            (void)pthread_cond_broadcast(&d->changed);
            (void)pthread_mutex_unlock(&d->lock);
            return; /* r may be in use again, or gone */
        }
        more = want_runner(d, KL_RUNNER_SHARE);
        (void)pthread_mutex_unlock(&d->lock);
        submit(d, more);
        if (w == NULL) {
            kl_runner_flush(r);
        } else {
            kl_serve(r, w);
        }
    }
}

/* ---- admission ---- */

static void refuse(struct kl_dispatch *d, const struct kl_origin *origin, enum kl_status status)
{
    const struct kl_reply_facts facts = {.status = status, .server_time_ms = kl_time_ms(d)};
    uint8_t packed[KL_REPLY_ERROR_MAX];
    size_t n = kl_reply_pack_error(&facts, packed);

    atomic_fetch_add(&d->refused, 1);
    atomic_fetch_add(&d->errors, 1);
    origin->reply(origin->arg, origin->stream, (struct kl_bytes){packed, n});
}

static struct kl_work *work_new(struct kl_dispatch *d, struct kl_buf *packed,
                                const struct kl_origin *origin, uint64_t now_us)
{
    struct kl_work *w = kl_calloc(1, sizeof *w);
    uint32_t deadline_ms;

    if (w == NULL) {
        return NULL;
    }
    deadline_ms = kl_wire_deadline_ms(kl_buf_bytes(packed));
    if (deadline_ms == 0 || deadline_ms > KL_DEADLINE_MAX_MS) {
        deadline_ms = KL_DEADLINE_DEFAULT_MS;
    }
    w->d = d;
    w->origin = *origin;
    w->size = packed->len;
    w->packed = *packed; /* moved */
    *packed = KL_BUF(0);
    w->arrived_us = now_us;
    w->deadline_us = now_us + deadline_ms * UINT64_C(1000);
    w->result = KL_BUF(KL_COMMAND_MAX);
    w->remote = KL_BUF(KL_CLIENT_REQUEST_MAX + KL_REPLY_ERROR_MAX);
    return w;
}

/* Under the lock. KL_OK: the call is queued. */
static enum kl_status admit_one(struct kl_dispatch *d, struct kl_work *w, bool internal)
{
    if (w == NULL) {
        return KL_NO_MEMORY;
    }
    if (d->draining && !internal) {
        return KL_UNAVAILABLE;
    }
    if ((atomic_load(&d->taking) >= d->o.calls_max ||
         atomic_load(&d->bytes) + w->size > d->o.bytes_max) &&
        !internal) {
        return KL_EXHAUSTED;
    }
    atomic_fetch_add(&d->taking, 1);
    atomic_fetch_add(&d->bytes, w->size);
    d->active++;
    kl_wheel_add(&d->wheel, &w->due, w->deadline_us);
    enqueue(d, w);
    return KL_OK;
}

static void admit_burst(struct kl_dispatch *d, struct kl_buf *packed,
                        const struct kl_origin *origins, size_t n, bool internal)
{
    struct kl_work *works[KL_BURST_MAX];
    enum kl_status outcome[KL_BURST_MAX];
    uint64_t now_us = kl_now_us(d);
    struct kl_runner *r;

    assert(n <= KL_BURST_MAX);
    for (size_t i = 0; i < n; i++) {
        works[i] = work_new(d, &packed[i], &origins[i], now_us);
    }
    (void)pthread_mutex_lock(&d->lock);
    for (size_t i = 0; i < n; i++) {
        outcome[i] = admit_one(d, works[i], internal);
    }
    start_sweep(d);
    r = want_runner(d, KL_RUNNER_SHARE);
    (void)pthread_mutex_unlock(&d->lock);
    submit(d, r);
    for (size_t i = 0; i < n; i++) {
        if (outcome[i] != KL_OK) {
            if (works[i] != NULL) {
                kl_buf_wipe(&works[i]->packed);
                kl_free(works[i]);
            }
            kl_buf_wipe(&packed[i]);
            refuse(d, &origins[i], outcome[i]);
        }
    }
}

void kl_dispatch_admit(struct kl_dispatch *d, struct kl_buf *packed,
                       const struct kl_origin *origins, size_t n, bool internal)
{
    atomic_fetch_add(&d->calls, n);
    while (n > 0) {
        size_t some = n < KL_BURST_MAX ? n : KL_BURST_MAX;

        admit_burst(d, packed, origins, some, internal);
        packed += some;
        origins += some;
        n -= some;
    }
}

void kl_dispatch_calls(struct kl_dispatch *d, struct kl_buf *packed,
                       const struct kl_origin *origins, size_t n)
{
    kl_dispatch_admit(d, packed, origins, n, false);
}

void kl_dispatch_call(struct kl_dispatch *d, struct kl_buf *packed, const struct kl_origin *origin)
{
    kl_dispatch_admit(d, packed, origin, 1, false);
}

/* ---- deadlines ---- */

/* Answers what is due; what those calls wait for still comes and ends them. */
static void sweep(struct kl_dispatch *d)
{
    struct kl_origin late[KL_SWEEP_BATCH_MAX];
    const struct kl_reply_facts facts = {.status = KL_TIMEOUT, .server_time_ms = kl_time_ms(d)};
    uint8_t packed[KL_REPLY_ERROR_MAX];
    size_t len = kl_reply_pack_error(&facts, packed);
    uint64_t now_us = kl_now_us(d);
    struct kl_due *due;
    size_t n;

    do {
        n = 0;
        (void)pthread_mutex_lock(&d->lock);
        while (n < KL_SWEEP_BATCH_MAX && (due = kl_wheel_take(&d->wheel, now_us)) != NULL) {
            struct kl_work *w = (struct kl_work *)((char *)due - offsetof(struct kl_work, due));

            w->answered = true;
            late[n++] = w->origin;
        }
        (void)pthread_mutex_unlock(&d->lock);
        for (size_t i = 0; i < n; i++) {
            atomic_fetch_add(&d->errors, 1);
            late[i].reply(late[i].arg, late[i].stream, (struct kl_bytes){packed, len});
        }
    } while (n == KL_SWEEP_BATCH_MAX);
}

static void *sweeper(void *arg)
{
    enum { IDLE_TICKS = 1000 / KL_SWEEP_MS }; /* a lull does not stop the ticks at once */
    struct kl_dispatch *d = arg;
    struct kl_runner *r;
    unsigned idle = 0;
    uint64_t taken = 0;
    bool sweeping = false;
    bool ending = false;

    while (!ending) {
        wait_tick(d, sweeping);
        sweep(d);
        (void)pthread_mutex_lock(&d->lock);
        idle = d->active == 0 ? idle + 1 : 0;
        if (idle > IDLE_TICKS) {
            d->sweeping = false;
            idle = 0;
        }
        sweeping = d->sweeping;
        /* Calls wait and none was taken since the last tick: those that run hang on the disk. */
        r = taken == d->taken ? want_runner(d, 0) : NULL;
        taken = d->taken;
        ending = d->ending;
        if (d->draining) {
            (void)pthread_cond_broadcast(&d->changed); /* somebody may watch the time */
        }
        (void)pthread_mutex_unlock(&d->lock);
        submit(d, r);
    }
    return NULL;
}

/* ---- life ---- */

static void destroy(struct kl_dispatch *d)
{
    for (size_t i = 0; i < 2; i++) {
        if (d->wake[i] >= 0) {
            (void)close(d->wake[i]);
        }
    }
    for (size_t i = 0; i < KL_RUNNERS_MAX; i++) {
        kl_buf_wipe(&d->runners[i].scratch);
    }
    kl_shared_release(d->auth);
    kl_shared_release(d->ring);
    kl_vault_cache_done(&d->cache);
    (void)pthread_cond_destroy(&d->changed);
    (void)pthread_mutex_destroy(&d->lock);
    kl_free(d);
}

/* Where this node is, as far as is known. */
static const char *region_of(const struct kl_node_view *node)
{
    for (size_t i = 0; i < node->nodes_n; i++) {
        if (node->nodes[i].node_id == node->node_id && node->nodes[i].region != NULL) {
            return node->nodes[i].region;
        }
    }
    return "";
}

enum kl_status kl_dispatch_new(const struct kl_dispatch_options *options, struct kl_dispatch **out)
{
    struct kl_dispatch *d;
    char err[160];

    if (kl_routes_check(err, sizeof err) != KL_OK) {
        kl_log(KL_LOG_ERROR, "rpc", "the routes are not in order why=\"%s\"", err);
        return KL_INTERNAL;
    }
    d = kl_calloc(1, sizeof *d);
    if (d == NULL) {
        return KL_NO_MEMORY;
    }
    d->o = *options;
    if (d->o.bytes_max == 0) {
        d->o.bytes_max = KL_CALL_BYTES_MAX;
    }
    d->tail = &d->head;
    d->region = region_of(options->node);
    (void)pthread_mutex_init(&d->lock, NULL);
    (void)pthread_cond_init(&d->changed, NULL);
    kl_vault_cache_init(&d->cache);
    kl_wheel_init(&d->wheel, kl_now_us(d));
    for (size_t i = KL_RUNNERS_MAX; i-- > 0;) {
        d->runners[i].job.run = run;
        d->runners[i].d = d;
        d->runners[i].scratch = KL_BUF(KL_MESSAGE_MAX);
        d->runners[i].next_idle = d->idle;
        d->idle = &d->runners[i];
    }
    d->wake[0] = d->wake[1] = -1;
    if (pipe2(d->wake, O_CLOEXEC | O_NONBLOCK) != 0 ||
        pthread_create(&d->sweeper, NULL, sweeper, d) != 0) {
        destroy(d);
        return KL_NO_MEMORY; /* threads or descriptors, to be exact */
    }
    (void)pthread_setname_np(d->sweeper, "kluis-deadlines");
    *out = d;
    return KL_OK;
}

/* Under the lock. The sweep's ticks end each wait, so it must be sweeping. */
static void wait_until_ended(struct kl_dispatch *d, uint64_t until_us)
{
    while (d->active > 0 && kl_now_us(d) < until_us) {
        start_sweep(d);
        (void)pthread_cond_wait(&d->changed, &d->lock);
    }
}

void kl_dispatch_drain(struct kl_dispatch *d, unsigned timeout_ms)
{
    uint64_t until_us = kl_now_us(d) + timeout_ms * UINT64_C(1000);

    (void)pthread_mutex_lock(&d->lock);
    d->draining = true;
    wait_until_ended(d, until_us);
    d->stopped = true;
    while (d->running > 0) { /* on a worker, so not for long */
        (void)pthread_cond_wait(&d->changed, &d->lock);
    }
    (void)pthread_mutex_unlock(&d->lock);
}

void kl_dispatch_free(struct kl_dispatch *d)
{
    if (d == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&d->lock);
    d->draining = true;
    while (d->active > 0 || d->busy > 0) {
        (void)pthread_cond_wait(&d->changed, &d->lock);
    }
    d->ending = true;
    nudge(d);
    (void)pthread_mutex_unlock(&d->lock);
    (void)pthread_join(d->sweeper, NULL);
    destroy(d);
}

void kl_dispatch_counters(struct kl_dispatch *d, struct kl_dispatch_counters *out)
{
    out->active = atomic_load(&d->taking);
    out->calls = atomic_load(&d->calls);
    out->errors = atomic_load(&d->errors);
    out->refused = atomic_load(&d->refused);
    out->reads = atomic_load(&d->reads);
    out->writes = atomic_load(&d->writes);
}
