/*
 * One connection to one node, and the calls on it. Calls that cannot be sent at once wait in its
 * queue: while it is being dialled, and while KL_CALLS_PER_CONN_MAX are under way.
 */
#include "client/lib/internal.h"

#include <assert.h>
#include <stdio.h>

static void list_push(struct kl_call_list *list, struct kl_call *call)
{
    call->next = NULL;
    call->prev = list->last;
    if (list->last != NULL) {
        list->last->next = call;
    } else {
        list->first = call;
    }
    list->last = call;
}

static void list_remove(struct kl_call_list *list, struct kl_call *call)
{
    if (call->prev != NULL) {
        call->prev->next = call->next;
    } else {
        list->first = call->next;
    }
    if (call->next != NULL) {
        call->next->prev = call->prev;
    } else {
        list->last = call->prev;
    }
    call->next = NULL;
    call->prev = NULL;
}

static struct kl_call_list *bucket(struct kl_line *line, uint32_t stream)
{
    return &line->buckets[stream & (KL_CLIENT_BUCKETS - 1)];
}

void kl_line_retain(struct kl_line *line)
{
    (void)atomic_fetch_add_explicit(&line->refs, 1, memory_order_relaxed);
}

void kl_line_release(struct kl_line *line)
{
    if (atomic_fetch_sub_explicit(&line->refs, 1, memory_order_acq_rel) == 1) {
        assert(line->sent_n == 0 && line->queue.first == NULL);
        if (line->conn != NULL) {
            kl_conn_release(line->conn);
        }
        if (line->assembler != NULL) {
            kl_assembler_free(line->assembler);
        }
        kl_free(line);
    }
}

/* Its first reference is common/net's: on_close gives it back. */
static enum kl_status line_new(struct kluis_client *client, int endpoint, struct kl_line **out)
{
    struct kl_endpoint *e = &client->endpoints[endpoint];
    struct kl_line *line = kl_calloc(1, sizeof *line);
    enum kl_status st;

    if (line == NULL) {
        return KL_NO_MEMORY;
    }
    st = kl_assembler_new(KL_MESSAGE_MAX, KL_CALLS_PER_CONN_MAX, &line->assembler);
    if (st != KL_OK) {
        kl_free(line);
        return st;
    }
    atomic_init(&line->refs, 1);
    line->client = client;
    line->endpoint = endpoint;
    line->heard_us = kl_client_now_us();
    (void)snprintf(line->address, sizeof line->address, "%s", e->address);
    (void)snprintf(line->host, sizeof line->host, "%s", e->host);
    line->next = client->lines;
    if (client->lines != NULL) {
        client->lines->prev = line;
    }
    client->lines = line;
    e->line = line;
    *out = line;
    return KL_OK;
}

struct kl_call *kl_line_find(struct kl_line *line, uint32_t stream)
{
    struct kl_call *call = bucket(line, stream)->first;

    while (call != NULL && call->stream != stream) {
        call = call->next;
    }
    return call;
}

static void send_call(struct kl_line *line, struct kl_call *call, struct kl_work *work)
{
    do {
        line->last_stream++;
    } while (line->last_stream == 0 || kl_line_find(line, line->last_stream) != NULL);
    call->stream = line->last_stream;
    call->state = KL_CALL_SENT;
    list_push(bucket(line, call->stream), call);
    if (line->sent_n++ == 0) {
        line->heard_us = kl_client_now_us();
        line->pinged_us = 0;
    }
    kl_work_send(work, line, call);
}

static bool may_send(const struct kl_line *line)
{
    return line->open && !line->leaving && line->sent_n < KL_CALLS_PER_CONN_MAX;
}

void kl_line_settle(struct kl_line *line, size_t sends_max, struct kl_work *work)
{
    for (size_t i = 0; i < sends_max && line->queue.first != NULL && may_send(line); i++) {
        struct kl_call *call = line->queue.first;

        list_remove(&line->queue, call);
        send_call(line, call, work);
    }
    if (line->leaving && !line->closed && line->conn != NULL && line->sent_n == 0 &&
        line->queue.first == NULL) {
        kl_work_line(work, line, KL_LINE_CLOSE);
    }
}

enum kl_status kl_line_open(struct kluis_client *client, int endpoint, struct kl_work *work)
{
    struct kl_line *line = NULL;
    enum kl_status st = line_new(client, endpoint, &line);

    if (st == KL_OK) {
        kl_work_line(work, line, KL_LINE_DIAL);
    }
    return st;
}

void kl_line_ask(struct kluis_client *client, int endpoint, struct kl_work *work)
{
    struct kl_line *line = client->endpoints[endpoint].line;

    if (line == NULL) {
        (void)!kl_line_open(client, endpoint, work); /* no memory: another time */
    } else if (line->open && line->conn != NULL && line->pinged_us == 0) {
        line->pinged_us = kl_client_now_us();
        kl_work_line(work, line, KL_LINE_PING);
    }
}

enum kl_status kl_line_put(struct kluis_client *client, int endpoint, struct kl_call *call,
                           struct kl_work *work)
{
    struct kl_line *line = client->endpoints[endpoint].line;

    if (line == NULL) {
        enum kl_status st = kl_line_open(client, endpoint, work);

        if (st != KL_OK) {
            return st;
        }
        line = client->endpoints[endpoint].line;
    }
    call->line = line;
    if (line->queue.first == NULL && may_send(line)) {
        send_call(line, call, work);
    } else {
        call->state = KL_CALL_QUEUED;
        list_push(&line->queue, call);
    }
    return KL_OK;
}

void kl_line_take(struct kl_call *call, struct kl_work *work)
{
    struct kl_line *line = call->line;

    if (call->state == KL_CALL_QUEUED) {
        list_remove(&line->queue, call);
    } else {
        assert(call->state == KL_CALL_SENT);
        list_remove(bucket(line, call->stream), call);
        line->sent_n--;
    }
    call->line = NULL;
    kl_line_settle(line, 1, work);
}

void kl_line_retire(struct kl_line *line)
{
    struct kl_endpoint *e = &line->client->endpoints[line->endpoint];

    line->leaving = true;
    if (e->line == line) {
        e->line = NULL;
    }
}

void kl_line_dial(struct kl_line *line, bool foreign)
{
    struct kluis_client *client = line->client;
    struct kl_conn *conn = NULL;
    struct kl_conn_options options = {
        .handler = &kl_line_handler,
        .user = line,
        .expect_host = line->host,
        .out_max = KL_CONN_OUT_MAX,
    };
    enum kl_status st = kl_conn_dial(client->net, client->tls, line->address, &options, &conn);

    if (st != KL_OK) {
        kl_line_closed(line, st, kl_status_info(st)->text, foreign);
        return;
    }
    (void)pthread_mutex_lock(&client->lock);
    if (line->conn == NULL) {
        line->conn = conn;
        conn = NULL;
    }
    (void)pthread_mutex_unlock(&client->lock);
    if (conn != NULL) {
        kl_conn_release(conn); /* on_open was faster and has its own */
    }
}

void kl_line_close(struct kl_line *line)
{
    kl_conn_close(line->conn);
}

/*
 * Asks a silent node for a sign of life. While our own bytes are still on their way out there is
 * nothing to be heard; common/net has a limit of its own for a peer that takes none.
 */
void kl_line_ping(struct kl_line *line)
{
    struct kl_frame frame = {.type = KL_FRAME_PING};

    if (kl_conn_queued(line->conn) != 0 || kl_conn_send(line->conn, &frame) != KL_OK) {
        (void)pthread_mutex_lock(&line->client->lock);
        line->heard_us = kl_client_now_us();
        line->pinged_us = 0;
        (void)pthread_mutex_unlock(&line->client->lock);
    }
}

/* A connection that takes long to make must not hold calls that could go elsewhere. */
static void leave_slow_dial(struct kl_line *line, uint64_t now_us, struct kl_work *work)
{
    struct kluis_client *client = line->client;

    if (client->endpoints_n < 2) {
        return;
    }
    kl_route_silent(client, line->endpoint);
    client->endpoints[line->endpoint].blocked_until_us = now_us + KL_CLIENT_BACKOFF_MAX_MS * 1000u;
    while (line->queue.first != NULL && !kl_work_full(work)) {
        struct kl_call *call = line->queue.first;

        if (call->pinned >= 0) {
            break; /* asked for by hand: it waits, and those behind it with it */
        }
        kl_line_take(call, work);
        kl_attempt_lost(client, call, line->endpoint, KL_UNAVAILABLE, false,
                        "no connection in time", work);
    }
}

/* Returns when to look at the line again. */
static uint64_t sweep_one(struct kl_line *line, uint64_t now_us, struct kl_work *work)
{
    const bool idle = line->sent_n == 0;
    const bool kept = line->client->endpoints[line->endpoint].kept && !line->leaving;
    const uint64_t silence_us =
        idle ? KL_CLIENT_KEEP_IDLE_MS * 1000u : KL_CLIENT_SILENCE_MS * 1000u;
    const uint64_t pong_us = KL_CLIENT_PONG_MS * 1000u;

    if (line->closed || line->conn == NULL) {
        return UINT64_MAX;
    }
    if (!line->open) {
        if (now_us - line->heard_us < pong_us) {
            return line->heard_us + pong_us;
        }
        leave_slow_dial(line, now_us, work);
        return UINT64_MAX;
    }
    if (idle && !kept && line->pinged_us == 0) {
        return UINT64_MAX;
    }
    if (line->pinged_us == 0) {
        if (now_us - line->heard_us < silence_us) {
            return line->heard_us + silence_us;
        }
        line->pinged_us = now_us;
        kl_work_line(work, line, KL_LINE_PING);
    } else if (now_us - line->pinged_us >= pong_us) {
        kl_route_silent(line->client, line->endpoint);
        kl_line_retire(line); /* on_close moves its calls on */
        kl_work_line(work, line, KL_LINE_CLOSE);
        line->pinged_us = now_us;
    }
    return line->pinged_us + pong_us;
}

void kl_line_sweep(struct kluis_client *client, uint64_t now_us, uint64_t *next_us,
                   struct kl_work *work)
{
    for (struct kl_line *line = client->lines; line != NULL && !kl_work_full(work);
         line = line->next) {
        uint64_t at_us = sweep_one(line, now_us, work);

        if (at_us < *next_us) {
            *next_us = at_us;
        }
    }
}
