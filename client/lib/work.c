/*
 * What is decided under the client's lock and done without it.
 */
#include "client/lib/internal.h"

#include <assert.h>

/* One step of one call adds at most this many of a kind. */
enum { STEP_MAX = 4 };

void kl_work_init(struct kl_work *work)
{
    work->foreign = false;
    work->sends_n = 0;
    work->cancels_n = 0;
    work->ends_n = 0;
    work->lines_n = 0;
}

bool kl_work_empty(const struct kl_work *work)
{
    return work->sends_n + work->cancels_n + work->ends_n + work->lines_n == 0;
}

bool kl_work_full(const struct kl_work *work)
{
    const size_t limit = KL_CLIENT_BATCH_MAX - STEP_MAX;

    return work->sends_n > limit || work->cancels_n > limit || work->ends_n > limit ||
           work->lines_n > limit;
}

void kl_work_send(struct kl_work *work, struct kl_line *line, struct kl_call *call)
{
    assert(work->sends_n < KL_CLIENT_BATCH_MAX);
    kl_call_retain(call);
    kl_line_retain(line);
    work->sends[work->sends_n++] = (struct kl_send){call, line, call->stream};
}

void kl_work_line(struct kl_work *work, struct kl_line *line, enum kl_line_do what)
{
    assert(work->lines_n < KL_CLIENT_BATCH_MAX);
    kl_line_retain(line);
    work->lines[work->lines_n].what = what;
    work->lines[work->lines_n++].line = line;
}

void kl_client_leave(struct kluis_client *client, size_t n)
{
    (void)pthread_mutex_lock(&client->lock);
    assert(client->active >= n);
    client->active -= n;
    if (client->active == 0 && client->closing) {
        (void)pthread_cond_signal(&client->timer_wake);
    }
    (void)pthread_mutex_unlock(&client->lock);
}

static void do_lines(struct kl_work *work)
{
    for (size_t i = 0; i < work->lines_n; i++) {
        struct kl_line *line = work->lines[i].line;

        switch (work->lines[i].what) {
        case KL_LINE_DIAL:
            kl_line_dial(line, work->foreign);
            break;
        case KL_LINE_PING:
            kl_line_ping(line);
            break;
        case KL_LINE_CLOSE:
            kl_line_close(line);
            break;
        }
        kl_line_release(line);
    }
    work->lines_n = 0;
}

static void do_cancels(struct kl_work *work)
{
    for (size_t i = 0; i < work->cancels_n; i++) {
        struct kl_send *s = &work->cancels[i];
        struct kl_frame frame = {.type = KL_FRAME_CANCEL, .stream = s->stream};

        if (kl_conn_send(s->line->conn, &frame) != KL_OK) {
            /* The connection is full or gone: then so is the interest in this answer. */
        }
        kl_line_release(s->line);
    }
    work->cancels_n = 0;
}

static enum kl_status send_one(struct kluis_client *client, const struct kl_send *s)
{
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    enum kl_status st = kl_message_pack(client, s->call, kl_client_now_us(), &packed);
    struct kl_frame frame = {.type = KL_FRAME_REQUEST, .stream = s->stream};

    if (st == KL_OK) {
        frame.body = kl_buf_bytes(&packed);
        st = kl_conn_send(s->line->conn, &frame);
    }
    kl_buf_wipe(&packed);
    return st;
}

/* A try that did not get onto the wire goes on to the next, unless it has ended meanwhile. */
static void not_sent(struct kluis_client *client, const struct kl_send *s, enum kl_status st,
                     struct kl_work *next)
{
    struct kl_call *call = s->call;

    (void)pthread_mutex_lock(&client->lock);
    if (call->state == KL_CALL_SENT && call->line == s->line && call->stream == s->stream) {
        kl_line_take(call, next);
        kl_attempt_lost(
            client, call, s->line->endpoint, st == KL_CLOSED ? KL_UNAVAILABLE : st, false,
            st == KL_CLOSED ? "the connection was lost" : kl_status_info(st)->text, next);
    }
    (void)pthread_mutex_unlock(&client->lock);
}

static void do_sends(struct kluis_client *client, struct kl_work *work, struct kl_work *next)
{
    struct kl_conn *corked = NULL;

    for (size_t i = 0; i < work->sends_n; i++) {
        struct kl_send *s = &work->sends[i];
        enum kl_status st;

        if (work->sends_n > 1 && s->line->conn != corked) {
            if (corked != NULL) {
                kl_conn_uncork(corked);
            }
            corked = s->line->conn;
            kl_conn_cork(corked);
        }
        st = send_one(client, s);
        if (st != KL_OK) {
            if (kl_work_full(next)) {
                kl_work_run(client, next); /* as deep as calls may hop, at most */
            }
            not_sent(client, s, st, next);
        }
    }
    if (corked != NULL) {
        kl_conn_uncork(corked);
    }
    for (size_t i = 0; i < work->sends_n; i++) {
        kl_call_release(work->sends[i].call);
        kl_line_release(work->sends[i].line);
    }
    work->sends_n = 0;
}

static void leave_to_timer(struct kluis_client *client, struct kl_work *work)
{
    (void)pthread_mutex_lock(&client->lock);
    for (size_t i = 0; i < work->ends_n; i++) {
        work->ends[i]->next = client->ended;
        client->ended = work->ends[i];
    }
    (void)pthread_cond_signal(&client->timer_wake);
    (void)pthread_mutex_unlock(&client->lock);
}

static void do_ends(struct kluis_client *client, struct kl_work *work)
{
    size_t n = work->ends_n;

    if (n == 0) {
        return;
    }
    if (work->foreign) {
        leave_to_timer(client, work);
        work->ends_n = 0;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        struct kl_call *call = work->ends[i];
        Kluis__V1__Reply *reply = call->reply;

        call->reply = NULL;
        if (reply != NULL) {
            kl_read_served(&call->read, reply);
        }
        kl_client_in_callback(true);
        call->done(call->arg, call->status, reply, call->text);
        kl_client_in_callback(false);
        kl_call_release(call);
    }
    work->ends_n = 0;
    kl_client_leave(client, n);
}

void kl_work_run(struct kluis_client *client, struct kl_work *work)
{
    /* A failed send leads to one more try, and so on, at most KL_CLIENT_HOPS_MAX times each. */
    while (!kl_work_empty(work)) {
        struct kl_work next;

        kl_work_init(&next);
        next.foreign = work->foreign;
        do_lines(work);
        do_sends(client, work, &next);
        do_cancels(work);
        do_ends(client, work);
        *work = next; /* what the failures led to */
    }
}

void kl_work_flush(struct kluis_client *client, struct kl_work *work)
{
    (void)pthread_mutex_unlock(&client->lock);
    kl_work_run(client, work);
    (void)pthread_mutex_lock(&client->lock);
}
