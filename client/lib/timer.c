/*
 * One thread per client: deadlines and ends of pauses (a binary heap of calls), and the look at
 * connections that have gone silent.
 */
#include "client/lib/internal.h"

#include <assert.h>
#include <stdio.h>
#include <time.h>

enum { HEAP_FIRST = 64 };

static void heap_set(struct kluis_client *client, size_t at, struct kl_call *call)
{
    client->heap[at] = call;
    call->heap_at = at;
}

static void heap_up(struct kluis_client *client, size_t at)
{
    struct kl_call *call = client->heap[at];

    while (at != 0) {
        size_t parent = (at - 1) / 2;

        if (client->heap[parent]->wake_us <= call->wake_us) {
            break;
        }
        heap_set(client, at, client->heap[parent]);
        at = parent;
    }
    heap_set(client, at, call);
}

static void heap_down(struct kluis_client *client, size_t at)
{
    struct kl_call *call = client->heap[at];

    for (;;) {
        size_t child = 2 * at + 1;

        if (child >= client->heap_n) {
            break;
        }
        if (child + 1 < client->heap_n &&
            client->heap[child + 1]->wake_us < client->heap[child]->wake_us) {
            child++;
        }
        if (call->wake_us <= client->heap[child]->wake_us) {
            break;
        }
        heap_set(client, at, client->heap[child]);
        at = child;
    }
    heap_set(client, at, call);
}

/* The thread sleeps until timer_at_us: tell it when something is due before that. */
static void wake_for(struct kluis_client *client, uint64_t wake_us)
{
    if (wake_us < client->timer_at_us) {
        (void)pthread_cond_signal(&client->timer_wake);
    }
}

enum kl_status kl_timer_add(struct kluis_client *client, struct kl_call *call)
{
    if (client->heap_n == KL_CLIENT_CALLS_MAX) {
        return KL_EXHAUSTED;
    }
    if (client->heap_n == client->heap_cap) {
        size_t cap = client->heap_cap == 0 ? HEAP_FIRST : client->heap_cap * 2;
        struct kl_call **heap = kl_realloc(client->heap, cap * sizeof(struct kl_call *));

        if (heap == NULL) {
            return KL_NO_MEMORY;
        }
        client->heap = heap;
        client->heap_cap = cap;
    }
    client->heap_n++;
    heap_set(client, client->heap_n - 1, call);
    heap_up(client, client->heap_n - 1);
    wake_for(client, call->wake_us);
    return KL_OK;
}

void kl_timer_move(struct kluis_client *client, struct kl_call *call, uint64_t wake_us)
{
    assert(client->heap[call->heap_at] == call);
    call->wake_us = wake_us;
    heap_up(client, call->heap_at);
    heap_down(client, call->heap_at);
    wake_for(client, wake_us);
}

void kl_timer_remove(struct kluis_client *client, struct kl_call *call)
{
    size_t at = call->heap_at;
    struct kl_call *last = client->heap[client->heap_n - 1];

    assert(client->heap[at] == call);
    client->heap_n--;
    if (last != call) {
        heap_set(client, at, last);
        heap_up(client, at);
        heap_down(client, last->heap_at);
    }
}

static struct timespec timespec_of(uint64_t us)
{
    return (struct timespec){.tv_sec = (time_t)(us / 1000000u),
                             .tv_nsec = (long)(us % 1000000u) * 1000};
}

/* Calls that ended on threads of the user are reported from here. */
static void take_ended(struct kluis_client *client, struct kl_work *work)
{
    while (client->ended != NULL && !kl_work_full(work)) {
        struct kl_call *call = client->ended;

        client->ended = call->next;
        work->ends[work->ends_n++] = call;
    }
}

static void cancel_all(struct kluis_client *client, struct kl_work *work)
{
    while (client->heap_n != 0 && !kl_work_full(work)) {
        struct kl_call *call = client->heap[0];

        (void)snprintf(call->text, sizeof call->text, "the client was closed");
        kl_attempt_end(client, call, KL_CANCELLED, NULL, work);
    }
}

/* Does what is due; returns when the next thing is. */
static uint64_t turn(struct kluis_client *client, bool idle, struct kl_work *work)
{
    uint64_t now = kl_client_now_us();
    uint64_t next = now + (idle ? KL_CLIENT_KEEP_IDLE_MS : KL_CLIENT_SILENCE_MS) * 1000u;

    take_ended(client, work);
    if (client->closing) {
        cancel_all(client, work);
    }
    while (client->heap_n != 0 && client->heap[0]->wake_us <= now && !kl_work_full(work)) {
        kl_attempt_timer(client, client->heap[0], now, work);
    }
    client->keeps = kl_regions_keep(client, now, &next, work);
    kl_line_sweep(client, now, &next, work);
    if (client->heap_n != 0 && client->heap[0]->wake_us < next) {
        next = client->heap[0]->wake_us;
    }
    return next;
}

/*
 * UINT64_MAX: until a call starts. That is only for a client that keeps no connections and has been
 * idle for a whole turn: one that makes a call after another would otherwise pay for a wake-up with
 * each.
 */
static void sleep_until(struct kluis_client *client, uint64_t us)
{
    struct timespec until = timespec_of(us);

    client->timer_at_us = us;
    if (us == UINT64_MAX) {
        (void)pthread_cond_wait(&client->timer_wake, &client->lock);
    } else {
        (void)pthread_cond_timedwait(&client->timer_wake, &client->lock, &until);
    }
    client->timer_at_us = 0; /* awake: no signal is needed */
}

static void *timer_main(void *arg)
{
    struct kluis_client *client = arg;
    struct kl_work work;
    uint64_t seen = 0;

    (void)pthread_mutex_lock(&client->lock);
    while (!client->closing || client->active != 0) {
        bool idle = client->heap_n == 0 && client->started == seen;
        uint64_t next;

        kl_work_init(&work);
        next = turn(client, idle, &work);
        if (!kl_work_empty(&work)) {
            kl_work_flush(client, &work);
            continue;
        }
        if (kl_regions_ask_due(client, kl_client_now_us())) {
            (void)pthread_mutex_unlock(&client->lock);
            kl_regions_ask(client);
            (void)pthread_mutex_lock(&client->lock);
            continue;
        }
        sleep_until(client, idle && !client->keeps ? UINT64_MAX : next);
        seen = client->started;
    }
    (void)pthread_mutex_unlock(&client->lock);
    return NULL;
}

enum kl_status kl_timer_start(struct kluis_client *client)
{
    if (pthread_create(&client->timer, NULL, timer_main, client) != 0) {
        return KL_NO_MEMORY;
    }
    client->timer_runs = true;
    return KL_OK;
}

void kl_timer_stop(struct kluis_client *client)
{
    if (!client->timer_runs) {
        return;
    }
    (void)pthread_mutex_lock(&client->lock);
    client->closing = true;
    (void)pthread_cond_signal(&client->timer_wake);
    (void)pthread_mutex_unlock(&client->lock);
    (void)pthread_join(client->timer, NULL);
    client->timer_runs = false;
}
