/*
 * Connections of clients. A session per connection; it lives until the connection is closed and the
 * last of its calls is answered, so a reply always has where to go, if only to be dropped.
 *
 * A client breaks the protocol with a frame that only servers send, with a stream id that is under
 * way, or with a message over KL_MESSAGE_MAX: its connection is closed. Reading from a client that
 * does not read its replies is held back in common/net; one that takes nothing for
 * KL_WRITE_STALL_TIMEOUT_MS is closed there.
 */
#include "server/rpc/rpc_server.h"

#include "server/rpc/call.h"
#include "server/rpc/streams.h"

#include <assert.h>
#include <stdio.h>

struct kl_rpc_server {
    struct kl_dispatch *dispatch;
    struct kl_listener *listener;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    struct session *first;
    size_t open; /* connections that have not had on_close */
    size_t refs; /* sessions, and the owner */
    bool closing;
    atomic_size_t partial; /* bytes of unfinished messages */
    uint16_t port;
};

struct session {
    struct kl_rpc_server *server;
    struct kl_conn *conn; /* retained */
    struct session *prev, *next;
    struct kl_assembler *assembler; /* in callbacks of the connection only */
    size_t partial;                 /* likewise: this connection's share of server->partial */
    pthread_mutex_t lock;
    /* under the lock */
    struct kl_streams streams;
    size_t refs; /* calls under way, held replies, and the connection */
};

/* ---- life of a session ---- */

static void server_release(struct kl_rpc_server *server)
{
    bool last;

    (void)pthread_mutex_lock(&server->lock);
    last = --server->refs == 0;
    (void)pthread_mutex_unlock(&server->lock);
    if (last) {
        (void)pthread_cond_destroy(&server->changed);
        (void)pthread_mutex_destroy(&server->lock);
        kl_free(server);
    }
}

static void session_retain(struct session *s)
{
    (void)pthread_mutex_lock(&s->lock);
    s->refs++;
    (void)pthread_mutex_unlock(&s->lock);
}

static void session_release(struct session *s)
{
    struct kl_rpc_server *server = s->server;
    bool last;

    (void)pthread_mutex_lock(&s->lock);
    last = --s->refs == 0;
    (void)pthread_mutex_unlock(&s->lock);
    if (last) {
        kl_assembler_free(s->assembler);
        kl_streams_done(&s->streams);
        kl_conn_release(s->conn);
        (void)pthread_mutex_destroy(&s->lock);
        kl_free(s);
        server_release(server);
    }
}

static void link_session(struct kl_rpc_server *server, struct session *s)
{
    s->next = server->first;
    if (s->next != NULL) {
        s->next->prev = s;
    }
    server->first = s;
    server->open++;
    server->refs++;
}

static void unlink_session(struct kl_rpc_server *server, struct session *s)
{
    if (s->prev != NULL) {
        s->prev->next = s->next;
    } else {
        server->first = s->next;
    }
    if (s->next != NULL) {
        s->next->prev = s->prev;
    }
    server->open--;
}

static void *on_accept(void *user, struct kl_conn *conn)
{
    struct kl_rpc_server *server = user;
    struct session *s = kl_calloc(1, sizeof *s);
    bool closing;

    if (s == NULL ||
        kl_assembler_new(KL_MESSAGE_MAX, KL_PARTIAL_PER_CONN, &s->assembler) != KL_OK) {
        kl_free(s);
        return NULL;
    }
    s->server = server;
    s->conn = conn;
    s->refs = 1;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_mutex_lock(&server->lock);
    closing = server->closing;
    if (!closing) {
        link_session(server, s);
    }
    (void)pthread_mutex_unlock(&server->lock);
    if (closing) {
        kl_assembler_free(s->assembler);
        (void)pthread_mutex_destroy(&s->lock);
        kl_free(s);
        return NULL;
    }
    kl_conn_retain(conn);
    return s;
}

static void on_open(void *user, struct kl_conn *conn, uint64_t peer_node)
{
    (void)user;
    (void)conn;
    (void)peer_node; /* a node's certificate gives no rights on the client port */
}

static void on_close(void *user, struct kl_conn *conn, enum kl_status status, const char *reason)
{
    struct session *s = user;
    struct kl_rpc_server *server = s->server;

    (void)conn;
    (void)status;
    (void)reason;
    atomic_fetch_sub(&server->partial, s->partial);
    s->partial = 0;
    (void)pthread_mutex_lock(&server->lock);
    unlink_session(server, s);
    if (server->open == 0) {
        (void)pthread_cond_broadcast(&server->changed);
    }
    (void)pthread_mutex_unlock(&server->lock);
    session_release(s);
}

/* ---- replies ---- */

static enum kl_status send_reply(struct kl_conn *conn, uint32_t stream, struct kl_bytes reply)
{
    const struct kl_frame frame = {.type = KL_FRAME_REPLY, .stream = stream, .body = reply};

    return kl_conn_send(conn, &frame);
}

static void send_status(struct kl_conn *conn, uint32_t stream, enum kl_status status)
{
    const struct kl_reply_facts facts = {.status = status};
    uint8_t packed[KL_REPLY_ERROR_MAX];
    size_t n = kl_reply_pack_error(&facts, packed);

    if (send_reply(conn, stream, (struct kl_bytes){packed, n}) != KL_OK) {
        kl_conn_close(conn); /* not even that fits: it does not read */
    }
}

static void deliver(struct kl_conn *conn, uint32_t stream, struct kl_bytes reply)
{
    enum kl_status st = send_reply(conn, stream, reply);

    if (st != KL_OK && st != KL_CLOSED) {
        send_status(conn, stream, KL_EXHAUSTED); /* a reply too large for what is queued already */
    }
}

static void session_reply(void *arg, uint32_t stream, struct kl_bytes reply)
{
    struct session *s = arg;
    bool wanted;

    (void)pthread_mutex_lock(&s->lock);
    wanted = kl_streams_end(&s->streams, stream);
    (void)pthread_mutex_unlock(&s->lock);
    if (wanted) {
        deliver(s->conn, stream, reply);
    }
    session_release(s);
}

static void session_hold(void *arg)
{
    struct session *s = arg;

    session_retain(s);
    kl_conn_cork(s->conn);
}

static void session_unhold(void *arg)
{
    struct session *s = arg;

    kl_conn_uncork(s->conn);
    session_release(s);
}

/* ---- frames ---- */

/* Calls of one read, on their way to the dispatcher. */
struct burst {
    struct kl_buf packed[KL_BURST_MAX];
    struct kl_origin origins[KL_BURST_MAX];
    size_t n;
};

static void flush(struct session *s, struct burst *b)
{
    if (b->n > 0) {
        kl_dispatch_calls(s->server->dispatch, b->packed, b->origins, b->n);
        b->n = 0;
    }
}

/* Unfinished messages of all connections together are bounded. */
static enum kl_status count_partial(struct session *s, const struct kl_frame *frame, size_t whole)
{
    struct kl_rpc_server *server = s->server;

    if (whole == 0) {
        s->partial += frame->body.len;
        return atomic_fetch_add(&server->partial, frame->body.len) + frame->body.len >
                       KL_PARTIAL_MAX
                   ? KL_EXHAUSTED
                   : KL_OK;
    }
    whole -= frame->body.len; /* what earlier frames had brought */
    assert(whole <= s->partial);
    s->partial -= whole;
    atomic_fetch_sub(&server->partial, whole);
    return KL_OK;
}

/* A frame of a request. KL_OK: *packed is a whole call, or empty when more frames are to come. */
static enum kl_status assemble(struct session *s, const struct kl_frame *frame,
                               struct kl_buf *packed, bool *whole)
{
    enum kl_status st = kl_assembler_add(s->assembler, frame, packed);

    *whole = st == KL_OK;
    if (st == KL_NOT_FOUND) {
        return count_partial(s, frame, 0);
    }
    if (st != KL_OK) {
        return st;
    }
    if (packed->ptr != NULL) {
        return count_partial(s, frame, packed->len);
    }
    *packed = KL_BUF(KL_MESSAGE_MAX);
    return kl_buf_put(packed, frame->body.ptr, frame->body.len);
}

static enum kl_status on_request(struct session *s, const struct kl_frame *frame, struct burst *b)
{
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    bool whole = false;
    enum kl_status st = assemble(s, frame, &packed, &whole);

    if (st == KL_OK && whole) {
        (void)pthread_mutex_lock(&s->lock);
        st = kl_streams_add(&s->streams, frame->stream);
        s->refs += st == KL_OK;
        (void)pthread_mutex_unlock(&s->lock);
        if (st == KL_EXHAUSTED || st == KL_NO_MEMORY) {
            send_status(s->conn, frame->stream, st);
            kl_buf_wipe(&packed);
            return KL_OK;
        }
    }
    if (st != KL_OK || !whole) {
        kl_buf_wipe(&packed);
        return st;
    }
    if (b->n == KL_BURST_MAX) {
        flush(s, b);
    }
    b->packed[b->n] = packed; /* moved */
    b->origins[b->n] = (struct kl_origin){
        .stream = frame->stream,
        .reply = session_reply,
        .arg = s,
        .hold = session_hold,
        .release = session_unhold,
    };
    (void)snprintf(b->origins[b->n].remote, sizeof b->origins[b->n].remote, "%s",
                   kl_conn_remote(s->conn));
    b->n++;
    return KL_OK;
}

static enum kl_status on_frame(struct session *s, const struct kl_frame *frame, struct burst *b)
{
    const struct kl_frame pong = {.type = KL_FRAME_PONG, .stream = frame->stream};

    switch (frame->type) {
    case KL_FRAME_REQUEST:
        return on_request(s, frame, b);
    case KL_FRAME_CANCEL:
        (void)pthread_mutex_lock(&s->lock);
        kl_streams_cancel(&s->streams, frame->stream);
        (void)pthread_mutex_unlock(&s->lock);
        return KL_OK;
    case KL_FRAME_PING:
        return kl_conn_send(s->conn, &pong);
    case KL_FRAME_PONG:
        return KL_OK;
    default:
        return KL_PROTOCOL; /* only servers and nodes send these */
    }
}

static void on_frames(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct session *s = user;
    struct burst b;
    enum kl_status st = KL_OK;

    b.n = 0;
    for (size_t i = 0; i < n && st == KL_OK; i++) {
        st = on_frame(s, &frames[i], &b);
    }
    flush(s, &b);
    if (st != KL_OK) {
        kl_conn_close(conn);
    }
}

/* ---- the server ---- */

static const struct kl_conn_handler handler = {on_open, on_frames, on_close};

enum kl_status kl_rpc_server_new(struct kl_net *net, struct kl_tls *tls, const char *listen,
                                 struct kl_dispatch *dispatch, struct kl_rpc_server **out,
                                 char *err, size_t err_len)
{
    struct kl_rpc_server *server = kl_calloc(1, sizeof *server);
    struct kl_listener_options options = {
        .conn =
            {
                .handler = &handler,
                .user = server,
                .idle_timeout_ms = KL_IDLE_TIMEOUT_MS,
                .out_max = KL_CONN_OUT_MAX,
            },
        .on_accept = on_accept,
    };
    enum kl_status st;

    if (server == NULL) {
        (void)snprintf(err, err_len, "out of memory");
        return KL_NO_MEMORY;
    }
    server->dispatch = dispatch;
    server->refs = 1;
    (void)pthread_mutex_init(&server->lock, NULL);
    (void)pthread_cond_init(&server->changed, NULL);
    st = kl_listener_new(net, tls, listen, &options, &server->listener, err, err_len);
    if (st != KL_OK) {
        server_release(server);
        return st;
    }
    server->port = kl_listener_port(server->listener);
    *out = server;
    return KL_OK;
}

uint16_t kl_rpc_server_port(const struct kl_rpc_server *server)
{
    return server->port;
}

/* Under the lock a session in the list has its connection. */
static void for_each_conn(struct kl_rpc_server *server, void (*fn)(struct kl_conn *conn))
{
    (void)pthread_mutex_lock(&server->lock);
    server->closing = true;
    for (struct session *s = server->first; s != NULL; s = s->next) {
        fn(s->conn);
    }
    (void)pthread_mutex_unlock(&server->lock);
}

static void go_away(struct kl_conn *conn)
{
    const struct kl_frame frame = {.type = KL_FRAME_GOAWAY};

    (void)!kl_conn_send(conn, &frame); /* one that is closed or full will notice anyway */
}

void kl_rpc_server_drain(struct kl_rpc_server *server)
{
    kl_listener_free(server->listener);
    server->listener = NULL;
    for_each_conn(server, go_away);
}

void kl_rpc_server_free(struct kl_rpc_server *server)
{
    if (server == NULL) {
        return;
    }
    if (server->listener != NULL) {
        kl_listener_free(server->listener);
    }
    for_each_conn(server, kl_conn_drain);
    (void)pthread_mutex_lock(&server->lock);
    while (server->open > 0) {
        (void)pthread_cond_wait(&server->changed, &server->lock);
    }
    (void)pthread_mutex_unlock(&server->lock);
    server_release(server);
}

/* ---- calls of other nodes ---- */

static void peer_reply(void *arg, uint32_t stream, struct kl_bytes reply)
{
    struct kl_conn *conn = arg;

    deliver(conn, stream, reply);
    kl_conn_release(conn);
}

static void peer_hold(void *arg)
{
    kl_conn_retain(arg);
    kl_conn_cork(arg);
}

static void peer_unhold(void *arg)
{
    kl_conn_uncork(arg);
    kl_conn_release(arg);
}

void kl_rpc_peer_request(struct kl_dispatch *dispatch, uint64_t from_node, struct kl_conn *conn,
                         uint32_t stream, struct kl_bytes call)
{
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    struct kl_origin origin = {
        .from_node = from_node,
        .stream = stream,
        .reply = peer_reply,
        .arg = conn,
        .hold = peer_hold,
        .release = peer_unhold,
    };

    if (kl_buf_put(&packed, call.ptr, call.len) != KL_OK) {
        send_status(conn, stream, KL_NO_MEMORY);
        return;
    }
    (void)snprintf(origin.remote, sizeof origin.remote, "node %llu", (unsigned long long)from_node);
    kl_conn_retain(conn);
    kl_dispatch_call(dispatch, &packed, &origin);
}
