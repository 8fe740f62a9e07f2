/*
 * The accept loop. It is ours, because nng's own one stops for ever after some errors: whatever an
 * accept answers, there is a next one, at once or at the next tick.
 */
#include "common/net/conn.h"

#include "common/alloc.h"

#include <stdio.h>

void kl_listener_release(struct kl_listener *listener)
{
    if (atomic_fetch_sub(&listener->refs, 1) == 1) {
        kl_tls_free(listener->tls);
        kl_free(listener);
    }
}

void kl_listener_accept_locked(struct kl_listener *listener)
{
    listener->retry = false;
    if (!listener->closing) {
        nng_stream_listener_accept(listener->listener, listener->aio);
    }
}

/* Takes the stream: it becomes a connection or is closed. */
static void welcome(struct kl_listener *listener, nng_stream *stream)
{
    const struct kl_listener_options *options = &listener->options;
    unsigned max = options->conns_max == 0 ? KL_CONNS_MAX : options->conns_max;
    struct kl_conn *conn = NULL;

    if (atomic_load(&listener->conns) >= max ||
        kl_conn_new(listener->net, listener->tls, &options->conn, true, &conn) != KL_OK) {
        nng_stream_free(stream);
        return;
    }
    (void)atomic_fetch_add(&listener->conns, 1);
    (void)atomic_fetch_add(&listener->refs, 1);
    conn->listener = listener;
    kl_address_remote(stream, conn->remote, sizeof conn->remote);
    if (options->on_accept != NULL) {
        conn->user = options->on_accept(options->conn.user, conn);
        if (conn->user == NULL) {
            nng_stream_free(stream);
            kl_conn_finish(conn, false); /* refused: there is no user to tell */
            return;
        }
    }
    if (kl_net_add(listener->net, conn) != KL_OK) {
        nng_stream_free(stream);
        conn->status = KL_CLOSED;
        kl_conn_finish(conn, true);
        return;
    }
    (void)pthread_mutex_lock(&conn->lock);
    if (conn->state == KL_CONN_CONNECTING) {
        kl_conn_start_tls_locked(conn, stream);
    } else { /* closed within on_accept, or by the set's end */
        nng_stream_free(stream);
    }
    (void)pthread_mutex_unlock(&conn->lock);
}

static void on_accept(void *arg)
{
    struct kl_listener *listener = arg;
    struct kl_net *net = listener->net;
    int rv = nng_aio_result(listener->aio);

    if (rv == 0) {
        welcome(listener, nng_aio_get_output(listener->aio, 0));
    }
    nng_mtx_lock(net->lock);
    if (listener->closing) {
        /* kl_listener_free waits for us */
    } else if (rv == 0) {
        kl_listener_accept_locked(listener);
    } else {
        listener->retry = true; /* out of descriptors or memory: no hurry */
    }
    nng_mtx_unlock(net->lock);
}

static enum kl_status start(struct kl_listener *listener, const char *address, char *err,
                            size_t err_len)
{
    char host[KL_NET_HOST_MAX + 1];
    char url[KL_NET_HOST_MAX + 32];
    uint16_t port;
    bool v6;
    int bound = 0;
    int rv;

    if (kl_address_split(address, host, &port) != KL_OK) {
        (void)snprintf(err, err_len, "%s is not an address: HOST:PORT is needed", address);
        return KL_INVALID_ARGUMENT;
    }
    (void)kl_address_literal(host, &v6);
    (void)snprintf(url, sizeof url, v6 ? "tcp://[%s]:%u" : "tcp://%s:%u", host, (unsigned)port);
    rv = nng_stream_listener_alloc(&listener->listener, url);
    if (rv == 0) {
        (void)nng_stream_listener_set_bool(listener->listener, NNG_OPT_TCP_NODELAY, true);
        (void)nng_stream_listener_set_bool(listener->listener, NNG_OPT_TCP_KEEPALIVE, true);
        rv = nng_stream_listener_listen(listener->listener);
    }
    if (rv == 0) {
        rv = nng_stream_listener_get_int(listener->listener, NNG_OPT_TCP_BOUND_PORT, &bound);
    }
    if (rv != 0) {
        (void)snprintf(err, err_len, "cannot listen on %s: %s", address, nng_strerror(rv));
        return KL_IO;
    }
    listener->port = (uint16_t)bound;
    return KL_OK;
}

static void stop(struct kl_listener *listener)
{
    if (listener->listener != NULL) {
        nng_stream_listener_close(listener->listener);
    }
    nng_aio_stop(listener->aio);
    nng_aio_free(listener->aio);
    nng_stream_listener_free(listener->listener);
    kl_listener_release(listener);
}

enum kl_status kl_listener_new(struct kl_net *net, struct kl_tls *tls, const char *address,
                               const struct kl_listener_options *options, struct kl_listener **out,
                               char *err, size_t err_len)
{
    struct kl_listener *listener = kl_calloc(1, sizeof *listener);
    enum kl_status st;

    if (listener == NULL) {
        (void)snprintf(err, err_len, "out of memory");
        return KL_NO_MEMORY;
    }
    kl_link_init(&listener->link);
    atomic_init(&listener->refs, 1);
    listener->net = net;
    listener->tls = tls;
    kl_tls_retain(tls);
    listener->options = *options;
    if (options->conn.cluster != NULL) { /* borrowed only for the call */
        (void)snprintf(listener->cluster, sizeof listener->cluster, "%s", options->conn.cluster);
        listener->options.conn.cluster = listener->cluster;
    }
    listener->options.conn.expect_host = NULL;
    if (nng_aio_alloc(&listener->aio, on_accept, listener) != 0) {
        (void)snprintf(err, err_len, "out of memory");
        st = KL_NO_MEMORY;
    } else {
        st = start(listener, address, err, err_len);
    }
    if (st == KL_OK) {
        st = kl_net_add_listener(net, listener);
        if (st != KL_OK) {
            (void)snprintf(err, err_len, "the set of connections is closing");
        }
    }
    if (st != KL_OK) {
        stop(listener);
        return st;
    }
    *out = listener;
    return KL_OK;
}

uint16_t kl_listener_port(const struct kl_listener *listener)
{
    return listener->port;
}

void kl_listener_free(struct kl_listener *listener)
{
    if (listener == NULL) {
        return;
    }
    nng_mtx_lock(listener->net->lock);
    listener->closing = true;
    kl_link_remove(&listener->link);
    nng_mtx_unlock(listener->net->lock);
    stop(listener);
}
