/*
 * The beginning and the end of a call.
 */
#include "client/lib/internal.h"

#include <assert.h>
#include <openssl/rand.h>
#include <stdio.h>

void kl_call_retain(struct kl_call *call)
{
    (void)atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
}

void kl_call_release(struct kl_call *call)
{
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) == 1) {
        kl_buf_wipe(&call->payload);
        kl_reply_free(call->reply);
        kl_free(call);
    }
}

uint64_t kl_call_expiry(struct kluis_client *client, uint64_t now_us, uint32_t timeout_ms)
{
    int64_t server_ms;

    if (!atomic_load_explicit(&client->server_time_known, memory_order_acquire)) {
        return 0;
    }
    server_ms = (int64_t)(now_us / 1000u) +
                atomic_load_explicit(&client->server_ahead_ms, memory_order_relaxed);
    return server_ms <= 0 ? 0 : (uint64_t)server_ms + timeout_ms + KL_CLOCK_SKEW_MS / 2;
}

static enum kl_status call_new(struct kluis_client *client, struct kl_request *request,
                               kl_call_fn done, void *arg, struct kl_call **out)
{
    uint32_t timeout_ms = request->timeout_ms == 0 ? client->timeout_ms : request->timeout_ms;
    uint64_t now_us = kl_client_now_us();
    struct kl_call *call;

    if (timeout_ms > KL_DEADLINE_MAX_MS) {
        kl_client_explain("timeout_ms: at most %d", KL_DEADLINE_MAX_MS);
        return KL_INVALID_ARGUMENT;
    }
    if (strlen(request->method) > KL_METHOD_MAX) {
        kl_client_explain("method: at most %d bytes", KL_METHOD_MAX);
        return KL_INVALID_ARGUMENT;
    }
    call = kl_calloc(1, sizeof *call);
    if (call == NULL) {
        return KL_NO_MEMORY;
    }
    if (request->write && RAND_bytes(call->request_id, KL_ID_LEN) != 1) {
        kl_free(call);
        return KL_CRYPTO;
    }
    atomic_init(&call->refs, 1);
    (void)snprintf(call->method, sizeof call->method, "%s", request->method);
    (void)snprintf(call->key, sizeof call->key, "%s", request->key);
    call->write = request->write;
    call->read = kl_read_of(client, request);
    call->internal = request->internal;
    call->deadline_us = now_us + timeout_ms * 1000ull;
    call->wake_us = call->deadline_us;
    call->expires_ms = request->write ? kl_call_expiry(client, now_us, timeout_ms) : 0;
    call->done = done;
    call->arg = arg;
    call->state = KL_CALL_PAUSED;
    call->pinned = -1;
    call->hint = -1;
    call->avoid = -1;
    call->payload = request->payload; /* moved */
    request->payload = KL_BUF(0);
    *out = call;
    return KL_OK;
}

/* Enters the call; from here on it ends with done. Under the lock. */
static enum kl_status admit(struct kluis_client *client, struct kl_call *call, const char *node)
{
    int pinned = -1;
    enum kl_status st;

    if (client->closing) {
        kl_client_explain("the client was closed");
        return KL_CANCELLED;
    }
    if (node != NULL) {
        pinned = kl_route_endpoint(client, node, false);
        if (pinned < 0) {
            kl_client_explain("node: \"%.100s\" is not \"host:port\", or too many are in use",
                              node);
            return KL_INVALID_ARGUMENT;
        }
    }
    st = kl_timer_add(client, call);
    if (st == KL_EXHAUSTED) {
        kl_client_explain("at most %d calls of one client may be under way", KL_CLIENT_CALLS_MAX);
    }
    if (st != KL_OK) {
        return st;
    }
    call->pinned = pinned;
    if (pinned >= 0) {
        client->endpoints[pinned].pins++;
    }
    client->started++;
    client->active += 2; /* the call, and this thread until it has left */
    return KL_OK;
}

enum kl_status kl_call_start(struct kluis_client *client, struct kl_request *request,
                             kl_call_fn done, void *arg)
{
    struct kl_call *call = NULL;
    struct kl_work work;
    enum kl_status st = call_new(client, request, done, arg, &call);

    if (st != KL_OK) {
        goto out;
    }
    kl_work_init(&work);
    work.foreign = true;
    (void)pthread_mutex_lock(&client->lock);
    st = admit(client, call, request->node);
    if (st == KL_OK) {
        kl_attempt(client, call, &work);
    }
    (void)pthread_mutex_unlock(&client->lock);
    if (st != KL_OK) {
        kl_call_release(call);
        goto out;
    }
    kl_work_run(client, &work);
    kl_client_leave(client, 1);
out:
    kl_buf_wipe(&request->payload);
    return st;
}

/* ---------------------------------------------------------------- waiting */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    enum kl_status status;
    Kluis__V1__Reply *reply;
    char text[KL_CLIENT_MESSAGE_MAX];
};

static void wake_waiter(void *arg, enum kl_status status, Kluis__V1__Reply *reply, const char *text)
{
    struct waiter *w = arg;

    (void)pthread_mutex_lock(&w->lock);
    w->status = status;
    w->reply = reply;
    (void)snprintf(w->text, sizeof w->text, "%s", text);
    w->done = true;
    (void)pthread_cond_signal(&w->cond);
    (void)pthread_mutex_unlock(&w->lock); /* the last touch: the waiter may return now */
}

enum kl_status kl_call_wait(struct kluis_client *client, struct kl_request *request,
                            Kluis__V1__Reply **reply)
{
    struct waiter w;
    enum kl_status st;

    if (!kl_client_may_block()) {
        kl_buf_wipe(&request->payload);
        kl_client_explain("a blocking call inside a callback would never end");
        return KL_INVALID_ARGUMENT;
    }
    w.done = false;
    (void)pthread_mutex_init(&w.lock, NULL);
    (void)pthread_cond_init(&w.cond, NULL);
    st = kl_call_start(client, request, wake_waiter, &w);
    if (st == KL_OK) {
        (void)pthread_mutex_lock(&w.lock);
        while (!w.done) {
            (void)pthread_cond_wait(&w.cond, &w.lock);
        }
        (void)pthread_mutex_unlock(&w.lock);
        st = w.status;
        if (st == KL_OK) {
            const struct kluis_read read = kl_read_of(client, request);

            *reply = w.reply;
            kl_read_served(&read, w.reply);
        } else {
            kl_client_explain("%s", w.text);
        }
    }
    (void)pthread_cond_destroy(&w.cond);
    (void)pthread_mutex_destroy(&w.lock);
    return st;
}
