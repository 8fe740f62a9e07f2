/*
 * The life of a connection: made, dialled or accepted, TLS started, closed, finished.
 *
 *   CONNECTING -> HANDSHAKE -> OPEN -> (DYING ->) CLOSED
 *
 * Closing only marks the connection, shuts the stream down and puts it into the service thread's
 * list. That thread then waits for the callbacks under way, frees everything and calls on_close
 * but the struct itself, which lives until the last reference is gone.
 */
#include "common/net/conn.h"

#include "common/alloc.h"

#include <assert.h>
#include <openssl/err.h>
#include <stdio.h>

static uint64_t next_id(void)
{
    /* Only a number for logs; unique in the process although sets know nothing of each other. */
    static atomic_uint_fast64_t last;

    return atomic_fetch_add(&last, 1) + 1;
}

static void on_dial(void *arg);

static void free_conn(struct kl_conn *conn)
{
    (void)pthread_mutex_destroy(&conn->lock);
    kl_free(conn);
}

static enum kl_status make_parts(struct kl_conn *conn, struct kl_tls *tls)
{
    BIO *bio;

    conn->raw = kl_malloc(KL_NET_READ_MIN);
    conn->raw_cap = KL_NET_READ_MIN;
    if (conn->raw == NULL || nng_aio_alloc(&conn->read_aio, kl_conn_on_read, conn) != 0 ||
        nng_aio_alloc(&conn->write_aio, kl_conn_on_write, conn) != 0 ||
        (!conn->accepted && nng_aio_alloc(&conn->dial_aio, on_dial, conn) != 0)) {
        return KL_NO_MEMORY;
    }
    conn->ssl = kl_tls_ssl(tls);
    bio = BIO_new(conn->net->bio);
    if (conn->ssl == NULL || bio == NULL) {
        BIO_free(bio);
        ERR_clear_error();
        return KL_NO_MEMORY;
    }
    BIO_set_data(bio, conn);
    SSL_set_bio(conn->ssl, bio, bio); /* takes our reference, for both directions */
    if (conn->accepted) {
        SSL_set_accept_state(conn->ssl);
    } else {
        SSL_set_connect_state(conn->ssl);
    }
    return KL_OK;
}

enum kl_status kl_conn_new(struct kl_net *net, struct kl_tls *tls,
                           const struct kl_conn_options *options, bool accepted,
                           struct kl_conn **out)
{
    struct kl_conn *conn;
    enum kl_status st;

    if (options->cluster != NULL && strlen(options->cluster) > KL_LOCATION_MAX) {
        return KL_INVALID_ARGUMENT;
    }
    conn = kl_calloc(1, sizeof *conn);
    if (conn == NULL) {
        return KL_NO_MEMORY;
    }
    kl_link_init(&conn->wheel);
    atomic_init(&conn->refs, 1);
    conn->net = net;
    conn->handler = options->handler;
    conn->user = options->user;
    conn->id = next_id();
    conn->expect_node = options->expect_node;
    conn->out_max = options->out_max == 0 ? KL_CONN_OUT_MAX : options->out_max;
    conn->idle_ms = options->idle_timeout_ms;
    conn->accepted = accepted;
    /* Only towards clients: if both ends stopped reading while they have much to say, neither would
     * ever go on. Peers are trusted, and their heartbeats must be heard behind a long answer. */
    conn->throttles = accepted && kl_tls_role(tls) == KL_TLS_SERVER;
    if (options->cluster != NULL) {
        (void)snprintf(conn->cluster, sizeof conn->cluster, "%s", options->cluster);
    }
    (void)pthread_mutex_init(&conn->lock, NULL);
    conn->started_ms = conn->active_ms = conn->progress_ms = nng_clock();
    st = make_parts(conn, tls);
    if (st == KL_OK && options->expect_host != NULL && !accepted) {
        st = kl_tls_expect_host(conn->ssl, options->expect_host);
    }
    if (st != KL_OK) {
        kl_conn_finish(conn, false);
        return st;
    }
    *out = conn;
    return KL_OK;
}

/* ---- dialling ---- */

static enum kl_status add_dialer(struct kl_conn *conn, const char *scheme, const char *host,
                                 bool v6, unsigned port)
{
    char url[KL_NET_HOST_MAX + 32];
    nng_stream_dialer *dialer;
    int rv;

    (void)snprintf(url, sizeof url, v6 ? "%s://[%s]:%u" : "%s://%s:%u", scheme, host, port);
    rv = nng_stream_dialer_alloc(&dialer, url);
    if (rv != 0) {
        return rv == NNG_ENOMEM ? KL_NO_MEMORY : KL_INVALID_ARGUMENT;
    }
    conn->dialers[conn->dialers_n++] = dialer;
    (void)nng_stream_dialer_set_bool(dialer, NNG_OPT_TCP_NODELAY, true);
    (void)nng_stream_dialer_set_bool(dialer, NNG_OPT_TCP_KEEPALIVE, true);
    return KL_OK;
}

/* nng takes only the first address of a name, so a name is tried as IPv4 and then as IPv6. */
static enum kl_status add_dialers(struct kl_conn *conn, const char *address)
{
    char host[KL_NET_HOST_MAX + 1];
    uint16_t port;
    bool v6;
    enum kl_status st = kl_address_split(address, host, &port);

    if (st != KL_OK || port == 0) {
        return KL_INVALID_ARGUMENT;
    }
    if (kl_address_literal(host, &v6)) {
        return add_dialer(conn, "tcp", host, v6, port);
    }
    st = add_dialer(conn, "tcp4", host, false, port);
    if (st == KL_OK) {
        st = add_dialer(conn, "tcp6", host, false, port);
    }
    return st;
}

static void on_dial(void *arg)
{
    struct kl_conn *conn = arg;
    int rv = nng_aio_result(conn->dial_aio);
    nng_stream *stream = rv == 0 ? nng_aio_get_output(conn->dial_aio, 0) : NULL;

    (void)pthread_mutex_lock(&conn->lock);
    if (conn->state != KL_CONN_CONNECTING) {
        nng_stream_free(stream);
    } else if (rv == 0) {
        kl_conn_start_tls_locked(conn, stream);
    } else if (conn->dialer_next < conn->dialers_n) {
        nng_stream_dialer_dial(conn->dialers[conn->dialer_next++], conn->dial_aio);
    } else {
        kl_conn_fail_locked(conn, KL_CLOSED, nng_strerror(rv));
    }
    (void)pthread_mutex_unlock(&conn->lock);
}

enum kl_status kl_conn_dial(struct kl_net *net, struct kl_tls *tls, const char *address,
                            const struct kl_conn_options *options, struct kl_conn **out)
{
    struct kl_conn *conn = NULL;
    enum kl_status st = kl_conn_new(net, tls, options, false, &conn);

    if (st != KL_OK) {
        return st;
    }
    (void)snprintf(conn->remote, sizeof conn->remote, "%s", address);
    st = add_dialers(conn, address);
    if (st == KL_OK) {
        st = kl_net_add(net, conn);
    }
    if (st != KL_OK) {
        kl_conn_finish(conn, false);
        return st;
    }
    kl_conn_retain(conn);
    *out = conn;
    (void)pthread_mutex_lock(&conn->lock);
    if (conn->state == KL_CONN_CONNECTING) { /* the set may be closing already */
        nng_stream_dialer_dial(conn->dialers[conn->dialer_next++], conn->dial_aio);
    }
    (void)pthread_mutex_unlock(&conn->lock);
    return KL_OK;
}

void kl_conn_start_tls_locked(struct kl_conn *conn, nng_stream *stream)
{
    conn->stream = stream;
    conn->state = KL_CONN_HANDSHAKE;
    conn->started_ms = nng_clock();
    if (!conn->accepted) {
        ERR_clear_error();
        (void)SSL_do_handshake(conn->ssl); /* ClientHello; it cannot end before an answer */
        kl_conn_flush_locked(conn);
    }
    kl_conn_read_locked(conn);
}

/* ---- closing ---- */

void kl_conn_fail_locked(struct kl_conn *conn, enum kl_status status, const char *reason)
{
    if (conn->state == KL_CONN_CLOSED) {
        return;
    }
    if (conn->state != KL_CONN_DYING) { /* otherwise it has its reason */
        conn->status = status;
        (void)snprintf(conn->reason, sizeof conn->reason, "%s", reason);
    }
    conn->state = KL_CONN_CLOSED;
    if (conn->stream != NULL) {
        nng_stream_close(conn->stream);
    }
    kl_net_reap(conn->net, conn);
}

void kl_conn_die_locked(struct kl_conn *conn, enum kl_status status, const char *reason)
{
    if (!conn->writing) {
        kl_conn_fail_locked(conn, status, reason); /* there is no alert */
    } else if (conn->state != KL_CONN_CLOSED) {
        conn->state = KL_CONN_DYING;
        conn->linger_ms = nng_clock();
        conn->status = status;
        (void)snprintf(conn->reason, sizeof conn->reason, "%s", reason);
    }
}

void kl_conn_close(struct kl_conn *conn)
{
    atomic_store(&conn->deaf, true);
    (void)pthread_mutex_lock(&conn->lock);
    kl_conn_fail_locked(conn, KL_CLOSED, "closed by this side");
    (void)pthread_mutex_unlock(&conn->lock);
}

void kl_conn_drain(struct kl_conn *conn)
{
    atomic_store(&conn->deaf, true);
    (void)pthread_mutex_lock(&conn->lock);
    if (conn->state == KL_CONN_OPEN || (conn->state != KL_CONN_CLOSED && conn->out_len != 0)) {
        if (!conn->draining) {
            conn->draining = true;
            conn->drain_ms = nng_clock();
            kl_conn_flush_locked(conn);
            kl_conn_read_locked(conn); /* to see the other side close */
        }
    } else {
        kl_conn_fail_locked(conn, KL_CLOSED, "closed by this side");
    }
    (void)pthread_mutex_unlock(&conn->lock);
}

void kl_conn_finish(struct kl_conn *conn, bool tell)
{
    struct kl_listener *listener = conn->listener;

    nng_aio_stop(conn->dial_aio);
    nng_aio_stop(conn->read_aio);
    nng_aio_stop(conn->write_aio);
    (void)pthread_mutex_lock(&conn->lock); /* kl_conn_send and others may still look */
    conn->state = KL_CONN_CLOSED;
    nng_aio_free(conn->dial_aio);
    nng_aio_free(conn->read_aio);
    nng_aio_free(conn->write_aio);
    for (size_t i = 0; i < conn->dialers_n; i++) {
        nng_stream_dialer_free(conn->dialers[i]);
    }
    nng_stream_free(conn->stream);
    SSL_free(conn->ssl);
    conn->dial_aio = conn->read_aio = conn->write_aio = NULL;
    conn->dialers_n = 0;
    conn->stream = NULL;
    conn->ssl = NULL;
    kl_free(conn->raw);
    kl_wipe(conn->in, conn->in_len);
    kl_free(conn->in);
    conn->raw = conn->in = NULL;
    kl_conn_free_out(conn);
    (void)pthread_mutex_unlock(&conn->lock);
    if (listener != NULL) { /* first: who hears of the end may count on the place */
        (void)atomic_fetch_sub(&listener->conns, 1);
        kl_listener_release(listener);
    }
    if (tell && conn->handler->on_close != NULL) {
        conn->handler->on_close(conn->user, conn, conn->status, conn->reason);
    }
    kl_conn_release(conn);
}

/* ---- deadlines ---- */

static bool passed(uint64_t since_ms, uint64_t limit_ms, uint64_t now_ms, uint64_t *again)
{
    uint64_t age = now_ms > since_ms ? now_ms - since_ms : 0;

    if (age >= limit_ms) {
        return true;
    }
    *again = limit_ms - age < *again ? limit_ms - age : *again;
    return false;
}

/* Memory that a quiet connection need not keep. */
static void trim(struct kl_conn *conn)
{
    if (!conn->pumping && conn->in_pos == conn->in_len) {
        kl_free(conn->in); /* wiped when it was consumed */
        conn->in = NULL;
        conn->in_pos = conn->in_len = conn->in_cap = 0;
    }
    kl_conn_trim_out_locked(conn);
}

static void check_open(struct kl_conn *conn, uint64_t now_ms, uint64_t *again)
{
    if (conn->writing && passed(conn->progress_ms, KL_WRITE_STALL_TIMEOUT_MS, now_ms, again)) {
        kl_conn_fail_locked(conn, KL_TIMEOUT, "the other side does not read");
    } else if (conn->idle_ms != 0 && passed(conn->active_ms, conn->idle_ms, now_ms, again)) {
        kl_conn_fail_locked(conn, KL_TIMEOUT, "idle for too long");
    } else if ((conn->lingering && passed(conn->linger_ms, KL_NET_LINGER_MS, now_ms, again)) ||
               (conn->draining &&
                passed(conn->drain_ms, KL_WRITE_STALL_TIMEOUT_MS, now_ms, again))) {
        kl_conn_fail_locked(conn, KL_CLOSED, "closed by this side");
    } else if (now_ms > conn->active_ms + KL_NET_CHECK_MS) {
        trim(conn);
    }
}

uint64_t kl_conn_check(struct kl_conn *conn, uint64_t now_ms)
{
    uint64_t again = KL_NET_CHECK_MS;

    (void)pthread_mutex_lock(&conn->lock);
    switch (conn->state) {
    case KL_CONN_CONNECTING:
        if (passed(conn->started_ms, KL_CONNECT_TIMEOUT_MS, now_ms, &again)) {
            kl_conn_fail_locked(conn, KL_TIMEOUT, "no connection in time");
        }
        break;
    case KL_CONN_HANDSHAKE:
        if (passed(conn->started_ms, KL_HANDSHAKE_TIMEOUT_MS, now_ms, &again)) {
            kl_conn_fail_locked(conn, KL_TIMEOUT, "no TLS handshake in time");
        }
        break;
    case KL_CONN_OPEN:
        check_open(conn, now_ms, &again);
        break;
    case KL_CONN_DYING:
        if (passed(conn->linger_ms, KL_NET_LINGER_MS, now_ms, &again)) {
            kl_conn_fail_locked(conn, conn->status, "");
        }
        break;
    case KL_CONN_CLOSED:
        break;
    }
    (void)pthread_mutex_unlock(&conn->lock);
    return again;
}

/* ---- small things ---- */

void kl_conn_pause(struct kl_conn *conn)
{
    (void)pthread_mutex_lock(&conn->lock);
    conn->paused = true;
    (void)pthread_mutex_unlock(&conn->lock);
}

void kl_conn_resume(struct kl_conn *conn)
{
    (void)pthread_mutex_lock(&conn->lock);
    conn->paused = false;
    kl_conn_read_locked(conn);
    (void)pthread_mutex_unlock(&conn->lock);
}

void kl_conn_retain(struct kl_conn *conn)
{
    (void)atomic_fetch_add(&conn->refs, 1);
}

void kl_conn_release(struct kl_conn *conn)
{
    if (conn != NULL && atomic_fetch_sub(&conn->refs, 1) == 1) {
        free_conn(conn);
    }
}

const char *kl_conn_remote(const struct kl_conn *conn)
{
    return conn->remote;
}

uint64_t kl_conn_id(const struct kl_conn *conn)
{
    return conn->id;
}
