/*
 * Which try comes next. What may be tried again: anything that was not sent; any read; a write
 * whose status says so, or whose connection was lost, under the same request id, which the servers
 * do only once. Nothing is tried past the deadline.
 */
#include "client/lib/internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

void kl_attempt_end(struct kluis_client *client, struct kl_call *call, enum kl_status status,
                    Kluis__V1__Reply *reply, struct kl_work *work)
{
    assert(call->state != KL_CALL_DONE);
    if (call->state == KL_CALL_QUEUED || call->state == KL_CALL_SENT) {
        if (call->line != NULL) {
            kl_line_take(call, work);
        }
    }
    kl_timer_remove(client, call);
    if (call->pinned >= 0) {
        client->endpoints[call->pinned].pins--;
    }
    call->state = KL_CALL_DONE;
    call->status = status;
    call->reply = reply;
    assert(work->ends_n < KL_CLIENT_BATCH_MAX);
    work->ends[work->ends_n++] = call;
}

/*
 * The last answer was what a node said of itself. It holds until another answer: it tells the caller
 * more than that other nodes cannot be reached, and does not depend on which was tried last.
 */
static bool told(const struct kl_call *call)
{
    return call->status == KL_TOO_OLD || call->status == KL_SEALED;
}

static void say_unknown(struct kl_call *call)
{
    size_t n = strlen(call->text);

    if (call->unknown) {
        (void)snprintf(call->text + n, sizeof call->text - n,
                       "%swhether the write was done is not known", n == 0 ? "" : "; ");
    }
}

/* No more tries. What the last one said holds, unless an earlier one may have done the write. */
static void give_up(struct kluis_client *client, struct kl_call *call, struct kl_work *work)
{
    enum kl_status st = call->status == KL_OK ? KL_UNAVAILABLE : call->status;

    if (call->unknown && kl_status_info(st)->retry_safe) {
        if (st != KL_TIMEOUT) { /* its own text says so */
            say_unknown(call);
        }
        st = KL_TIMEOUT;
    }
    kl_attempt_end(client, call, st, NULL, work);
}

/* Half of it is drawn, so that clients that failed together do not come back together. */
static uint64_t backoff_us(struct kluis_client *client, unsigned pauses)
{
    uint64_t us = KL_CLIENT_BACKOFF_MIN_MS * 1000u;

    for (unsigned i = 0; i < pauses && us < KL_CLIENT_BACKOFF_MAX_MS * 1000u; i++) {
        us *= 2;
    }
    if (us > KL_CLIENT_BACKOFF_MAX_MS * 1000u) {
        us = KL_CLIENT_BACKOFF_MAX_MS * 1000u;
    }
    return us / 2 + kl_client_random(client) % (us / 2);
}

static void pause_until(struct kluis_client *client, struct kl_call *call, uint64_t at_us,
                        struct kl_work *work)
{
    call->state = KL_CALL_PAUSED;
    if (client->no_wait || client->closing || at_us >= call->deadline_us) {
        give_up(client, call, work);
        return;
    }
    call->hops = 0;
    call->pauses++;
    kl_timer_move(client, call, at_us);
}

static void pause_call(struct kluis_client *client, struct kl_call *call, uint64_t least_us,
                       struct kl_work *work)
{
    uint64_t us = backoff_us(client, call->pauses);

    pause_until(client, call, kl_client_now_us() + (us > least_us ? us : least_us), work);
}

/* Every node there is has shown a certificate that the CA file does not vouch for. */
static bool nobody_trusted(const struct kluis_client *client, const struct kl_call *call)
{
    if (call->pinned >= 0) {
        return client->endpoints[call->pinned].untrusted;
    }
    for (int i = 0; i < client->endpoints_n; i++) {
        if (!client->endpoints[i].untrusted) {
            return false;
        }
    }
    return true;
}

void kl_attempt(struct kluis_client *client, struct kl_call *call, struct kl_work *work)
{
    uint64_t at_us = 0;
    int ask = -1;
    int endpoint = kl_route_choose(client, call, kl_client_now_us(), &at_us, &ask);
    enum kl_status st;

    if (ask >= 0) {
        kl_line_ask(client, ask, work);
    }
    if (endpoint < 0) {
        if (call->status == KL_OK) {
            (void)snprintf(call->text, sizeof call->text, "no node can be reached now");
        }
        pause_until(client, call, at_us + kl_client_random(client) % 1000u, work);
        return;
    }
    call->hops++;
    st = kl_line_put(client, endpoint, call, work);
    if (st != KL_OK) {
        call->state = KL_CALL_PAUSED;
        (void)snprintf(call->text, sizeof call->text, "%s", kl_status_info(st)->text);
        kl_attempt_end(client, call, st, NULL, work);
    }
}

void kl_attempt_lost(struct kluis_client *client, struct kl_call *call, int endpoint,
                     enum kl_status status, bool sent, const char *why, struct kl_work *work)
{
    call->state = KL_CALL_PAUSED;
    call->unknown |= sent && call->write;
    if (status != KL_UNAVAILABLE || !told(call)) {
        call->status = status;
        (void)snprintf(call->text, sizeof call->text, "%s: %s", client->endpoints[endpoint].address,
                       why);
    }
    if (status == KL_EXHAUSTED) {
        pause_call(client, call, 0, work); /* our own output queue is full */
        return;
    }
    if (status != KL_UNAVAILABLE) {
        say_unknown(call);
        kl_attempt_end(client, call, status, NULL, work);
        return;
    }
    kl_route_bad(client, call->key, endpoint);
    call->avoid = endpoint;
    if (client->no_wait || nobody_trusted(client, call)) {
        give_up(client, call, work);
    } else if (call->hops < KL_CLIENT_HOPS_MAX) {
        kl_attempt(client, call, work);
    } else {
        pause_call(client, call, 0, work);
    }
}

/* The node does not lead: go where it points, at once as long as the hops lead somewhere. */
static void follow_hint(struct kluis_client *client, struct kl_call *call, int endpoint,
                        const Kluis__V1__LeaderHint *hint, struct kl_work *work)
{
    int to = -1;

    kl_route_bad(client, call->key, endpoint);
    call->avoid = endpoint;
    if (hint != NULL && hint->node_id != 0 && hint->address[0] != '\0') {
        to = kl_route_endpoint(client, hint->address, false);
    }
    if (to >= 0 && to != endpoint) {
        kl_route_hint(client, call->key, hint->group, to);
        call->hint = to;
        if (call->hops < KL_CLIENT_HOPS_MAX) {
            kl_attempt(client, call, work);
            return;
        }
    }
    pause_call(client, call, 0, work);
}

static void learn_time(struct kluis_client *client, const Kluis__V1__Reply *reply)
{
    if (reply->server_time_ms != 0 && reply->server_time_ms <= INT64_MAX) {
        int64_t ahead = (int64_t)reply->server_time_ms - (int64_t)(kl_client_now_us() / 1000u);

        atomic_store_explicit(&client->server_ahead_ms, ahead, memory_order_relaxed);
        atomic_store_explicit(&client->server_time_known, true, memory_order_release);
    }
}

/* Another node may do better. */
static bool node_is_unfit(enum kl_status st)
{
    return st == KL_UNAVAILABLE || st == KL_SEALED || st == KL_CLOSED || st == KL_NO_MEMORY ||
           st == KL_TOO_OLD;
}

static void try_again(struct kluis_client *client, struct kl_call *call, int endpoint,
                      const Kluis__V1__Reply *reply, struct kl_work *work)
{
    enum kl_status st = call->status;

    if (call->write && (st == KL_UNAVAILABLE || st == KL_TIMEOUT || st == KL_CLOSED)) {
        call->unknown = true;
    }
    if (st == KL_CHANGED && ++call->changed_n == KL_CLIENT_CHANGED_MAX) {
        kl_attempt_end(client, call, st, NULL, work);
        return;
    }
    if (node_is_unfit(st)) {
        kl_route_bad(client, call->key, endpoint);
        call->avoid = endpoint;
    }
    pause_call(client, call, (uint64_t)reply->retry_after_ms * 1000u, work);
}

/*
 * The servers' time has moved on by more than the call has taken: a cluster whose time was behind had
 * it set right. Nothing was done, nor will it be by an earlier try; the caller's own deadline, which
 * still is to come, decides. The request id stays.
 */
static void renew(struct kluis_client *client, struct kl_call *call, struct kl_work *work)
{
    uint64_t now_us = kl_client_now_us();
    uint64_t left_us = call->deadline_us > now_us ? call->deadline_us - now_us : 0;

    call->renewed = true;
    call->expires_ms = kl_call_expiry(client, now_us, (uint32_t)(left_us / 1000));
    pause_call(client, call, 0, work);
}

void kl_attempt_replied(struct kluis_client *client, struct kl_call *call, int endpoint,
                        Kluis__V1__Reply *reply, struct kl_work *work)
{
    enum kl_status st = kl_reply_status(reply);

    call->state = KL_CALL_PAUSED;
    learn_time(client, reply);
    if (st == KL_OK) {
        client->answered += !call->internal;
        /* Who answers a stale read need not lead. */
        kl_route_good(client, call->read.consistency == KLUIS_READ_STALE ? "" : call->key,
                      endpoint);
        kl_attempt_end(client, call, KL_OK, reply, work);
        return;
    }
    call->status = st;
    kl_reply_text(reply, call->text, sizeof call->text);
    if (st == KL_EXPIRED && call->write && !call->renewed && !client->no_wait) {
        renew(client, call, work);
    } else if (st == KL_NOT_LEADER && call->pinned < 0 && !client->no_wait) {
        follow_hint(client, call, endpoint, reply->leader, work);
    } else if (kl_status_info(st)->retry_safe && st != KL_NOT_LEADER && !client->no_wait) {
        try_again(client, call, endpoint, reply, work);
    } else {
        kl_attempt_end(client, call, st, NULL, work);
    }
    kl_reply_free(reply);
}

static void deadline_passed(struct kluis_client *client, struct kl_call *call, struct kl_work *work)
{
    const struct kl_line *line = call->line;

    if (call->state == KL_CALL_SENT) {
        kl_line_retain(call->line);
        work->cancels[work->cancels_n++] = (struct kl_send){NULL, call->line, call->stream};
    }
    if (call->state == KL_CALL_SENT && (call->write || !told(call))) {
        (void)snprintf(call->text, sizeof call->text, "%s: no answer in time%s", line->address,
                       call->write ? "; whether the write was done is not known" : "");
        kl_attempt_end(client, call, KL_TIMEOUT, NULL, work);
        return;
    }
    if (call->state == KL_CALL_QUEUED && !told(call)) {
        (void)snprintf(call->text, sizeof call->text, "%s: %s", line->address,
                       line->open ? "too many calls under way" : "no connection in time");
        call->status = line->open ? KL_EXHAUSTED : KL_UNAVAILABLE;
    }
    give_up(client, call, work);
}

void kl_attempt_timer(struct kluis_client *client, struct kl_call *call, uint64_t now_us,
                      struct kl_work *work)
{
    if (now_us >= call->deadline_us) {
        deadline_passed(client, call, work);
        return;
    }
    assert(call->state == KL_CALL_PAUSED);
    kl_timer_move(client, call, call->deadline_us);
    kl_attempt(client, call, work);
}
