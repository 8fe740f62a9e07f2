/*
 * What a connection tells: it is open, frames have come, it is closed.
 */
#include "client/lib/internal.h"

#include <assert.h>

/* Replies handled under one hold of the lock; each may lead to a send and free room for another. */
enum { REPLIES_MAX = KL_CLIENT_BATCH_MAX / 4 };

struct replies {
    size_t n;
    struct {
        uint32_t stream;
        enum kl_status status; /* of unpacking */
        Kluis__V1__Reply *reply;
    } items[REPLIES_MAX];
    bool goaway;
};

static void on_open(void *user, struct kl_conn *conn, uint64_t peer_node)
{
    struct kl_line *line = user;
    struct kluis_client *client = line->client;
    struct kl_endpoint *e = &client->endpoints[line->endpoint];
    struct kl_work work;

    (void)peer_node; /* the host name has been verified */
    kl_work_init(&work);
    (void)pthread_mutex_lock(&client->lock);
    if (line->conn == NULL) {
        kl_conn_retain(conn);
        line->conn = conn;
    }
    line->open = true;
    line->heard_us = kl_client_now_us();
    e->failures = 0;
    e->blocked_until_us = 0;
    e->untrusted = false;
    kl_route_alive(client, line->endpoint);
    do {
        kl_work_flush(client, &work);
        kl_line_settle(line, KL_CLIENT_BATCH_MAX / 2, &work);
    } while (!kl_work_empty(&work));
    (void)pthread_mutex_unlock(&client->lock);
}

static void take_message(struct kl_bytes message, uint32_t stream, struct replies *in)
{
    ProtobufCMessage *reply = NULL;
    enum kl_status st = kl_message_unpack(&kluis__v1__reply__descriptor, message, &reply);

    in->items[in->n].stream = stream;
    in->items[in->n].status = st;
    in->items[in->n++].reply = (Kluis__V1__Reply *)reply;
}

static enum kl_status take_reply(struct kl_line *line, const struct kl_frame *frame,
                                 struct replies *in)
{
    struct kl_buf whole = KL_BUF(0);
    enum kl_status st = kl_assembler_add(line->assembler, frame, &whole);

    if (st == KL_OK) {
        take_message(whole.ptr == NULL ? frame->body : kl_buf_bytes(&whole), frame->stream, in);
    } else if (st == KL_NOT_FOUND) {
        st = KL_OK; /* more frames are to come */
    }
    kl_buf_wipe(&whole);
    return st;
}

static enum kl_status take_frame(struct kl_line *line, struct kl_conn *conn,
                                 const struct kl_frame *frame, struct replies *in)
{
    struct kl_frame pong = {.type = KL_FRAME_PONG, .stream = frame->stream};

    switch (frame->type) {
    case KL_FRAME_REPLY:
        return take_reply(line, frame, in);
    case KL_FRAME_GOAWAY:
        in->goaway = true;
        return KL_OK;
    case KL_FRAME_PING:
        return kl_conn_send(conn, &pong);
    case KL_FRAME_PONG:
        return KL_OK;
    default:
        return KL_PROTOCOL; /* not for clients */
    }
}

static void handle_goaway(struct kl_line *line, struct kl_work *work)
{
    struct kluis_client *client = line->client;
    struct kl_endpoint *e = &client->endpoints[line->endpoint];
    struct kl_call *call;

    kl_line_retire(line);
    e->blocked_until_us = kl_client_now_us() + KL_CLIENT_GOAWAY_PAUSE_MS * 1000u;
    while ((call = line->queue.first) != NULL) {
        kl_line_take(call, work);
        kl_attempt_lost(client, call, line->endpoint, KL_UNAVAILABLE, false,
                        "the node is shutting down", work);
        if (kl_work_full(work)) {
            kl_work_flush(client, work);
        }
    }
    kl_line_settle(line, 0, work); /* closes it when nothing is under way */
}

/* Under the lock. */
static void handle_replies(struct kl_line *line, struct replies *in, struct kl_work *work)
{
    struct kluis_client *client = line->client;

    line->heard_us = kl_client_now_us();
    line->pinged_us = 0;
    kl_route_alive(client, line->endpoint);
    for (size_t i = 0; i < in->n; i++) {
        struct kl_call *call = kl_line_find(line, in->items[i].stream);

        if (call == NULL) {
            continue; /* nobody waits any longer */
        }
        kl_line_take(call, work);
        if (in->items[i].status == KL_OK) {
            kl_attempt_replied(client, call, line->endpoint, in->items[i].reply, work);
            in->items[i].reply = NULL;
        } else {
            kl_attempt_lost(client, call, line->endpoint, in->items[i].status, true,
                            "the answer cannot be read", work);
        }
    }
    if (in->goaway && !line->leaving) {
        handle_goaway(line, work);
    }
}

static void on_frames(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct kl_line *line = user;
    struct kluis_client *client = line->client;
    enum kl_status st = KL_OK;
    size_t i = 0;

    kl_conn_cork(conn); /* what the callbacks start leaves together */
    while (i < n && st == KL_OK) {
        struct replies in = {.n = 0, .goaway = false};
        struct kl_work work;

        while (i < n && in.n < REPLIES_MAX && st == KL_OK) {
            st = take_frame(line, conn, &frames[i++], &in);
        }
        kl_work_init(&work);
        (void)pthread_mutex_lock(&client->lock);
        handle_replies(line, &in, &work);
        (void)pthread_mutex_unlock(&client->lock);
        for (size_t j = 0; j < in.n; j++) {
            kl_reply_free(in.items[j].reply);
        }
        kl_work_run(client, &work);
    }
    kl_conn_uncork(conn);
    if (st != KL_OK) {
        kl_conn_close(conn);
    }
}

/* The next call on a line that has ended, whether sent or still waiting; NULL. */
static struct kl_call *any_call(struct kl_line *line, size_t *bucket)
{
    for (; *bucket < KL_CLIENT_BUCKETS; (*bucket)++) {
        if (line->buckets[*bucket].first != NULL) {
            return line->buckets[*bucket].first;
        }
    }
    return line->queue.first;
}

/* How long an endpoint is left alone after it could not be reached n times in a row. */
static uint64_t block_us(struct kluis_client *client, unsigned n)
{
    uint64_t us = KL_CLIENT_BACKOFF_MIN_MS * 1000u;

    for (unsigned i = 1; i < n && us < KL_CLIENT_BACKOFF_MAX_MS * 1000u; i++) {
        us *= 2;
    }
    if (us > KL_CLIENT_BACKOFF_MAX_MS * 1000u) {
        us = KL_CLIENT_BACKOFF_MAX_MS * 1000u;
    }
    return us / 2 + kl_client_random(client) % (us / 2);
}

void kl_line_closed(struct kl_line *line, enum kl_status status, const char *reason, bool foreign)
{
    struct kluis_client *client = line->client;
    struct kl_endpoint *e = &client->endpoints[line->endpoint];
    struct kl_work work;
    struct kl_call *call;
    char why[KL_CLIENT_MESSAGE_MAX];
    size_t bucket = 0;

    kl_work_init(&work);
    work.foreign = foreign;
    (void)pthread_mutex_lock(&client->lock);
    kl_line_retire(line);
    line->closed = true;
    if (!line->open) {
        e->failures++;
        e->untrusted = status == KL_UNAUTHENTICATED;
        if (e->untrusted) {
            (void)snprintf(why, sizeof why, "its certificate is not trusted: %s", reason);
            reason = why;
        }
        e->blocked_until_us = kl_client_now_us() + block_us(client, e->failures);
    }
    while ((call = any_call(line, &bucket)) != NULL) {
        bool sent = call->state == KL_CALL_SENT;

        kl_line_take(call, &work);
        kl_attempt_lost(client, call, line->endpoint, KL_UNAVAILABLE, sent, reason, &work);
        if (kl_work_full(&work)) {
            kl_work_flush(client, &work);
        }
    }
    if (line->prev != NULL) {
        line->prev->next = line->next;
    } else {
        client->lines = line->next;
    }
    if (line->next != NULL) {
        line->next->prev = line->prev;
    }
    (void)pthread_mutex_unlock(&client->lock);
    kl_work_run(client, &work);
    kl_line_release(line);
}

static void on_close(void *user, struct kl_conn *conn, enum kl_status status, const char *reason)
{
    (void)conn;
    kl_line_closed(user, status, reason, false);
}

const struct kl_conn_handler kl_line_handler = {
    .on_open = on_open,
    .on_frames = on_frames,
    .on_close = on_close,
};
