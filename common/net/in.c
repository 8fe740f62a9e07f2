/*
 * From the socket to on_frames. One read brings up to 64 KiB of ciphertext; TLS decrypts it
 * straight into the input buffer, frames are cut out of that buffer without being moved, and all
 * of them are handed over in one call. What was handed over is wiped. Only an incomplete frame at
 * the end stays, and is moved to the front only when room is short.
 */
#include "common/net/conn.h"

#include "common/alloc.h"

#include <openssl/err.h>

/* ---- reading ---- */

void kl_conn_read_locked(struct kl_conn *conn)
{
    bool held =
        (conn->paused || conn->throttled) && !conn->draining && conn->state != KL_CONN_DYING;
    nng_iov iov;

    if (conn->reading || conn->pumping || held || conn->state == KL_CONN_CONNECTING ||
        conn->state == KL_CONN_CLOSED) {
        return;
    }
    if (conn->raw_len == conn->raw_cap && conn->raw_cap < KL_NET_READ_MAX) {
        uint8_t *p = kl_malloc(KL_NET_READ_MAX); /* the last read was full: there is more to come */

        if (p != NULL) {
            kl_free(conn->raw);
            conn->raw = p;
            conn->raw_cap = KL_NET_READ_MAX;
        }
    }
    conn->raw_pos = conn->raw_len = 0;
    iov = (nng_iov){conn->raw, conn->raw_cap};
    (void)nng_aio_set_iov(conn->read_aio, 1, &iov);
    conn->reading = true;
    nng_stream_recv(conn->stream, conn->read_aio);
}

/* ---- TLS ---- */

static void fail_tls(struct kl_conn *conn)
{
    const char *text;
    enum kl_status st = kl_tls_failure(conn->ssl, &text);

    conn->corks++; /* nothing but the alert can leave: it tells the other side why */
    kl_conn_flush_locked(conn);
    conn->corks--;
    kl_conn_die_locked(conn, st, text);
}

/* Returns the node id of the certificate through *node, true once the handshake is complete. */
static bool handshake(struct kl_conn *conn, uint64_t *node)
{
    int rc;

    ERR_clear_error();
    rc = SSL_do_handshake(conn->ssl);
    if (rc != 1) {
        if (SSL_get_error(conn->ssl, rc) != SSL_ERROR_WANT_READ) {
            fail_tls(conn);
        }
        return false;
    }
    *node = conn->cluster[0] == 0 ? 0 : kl_tls_peer_node(conn->ssl, conn->cluster);
    if (conn->expect_node != 0 && *node != conn->expect_node) {
        kl_conn_fail_locked(conn, KL_UNAUTHENTICATED,
                            *node == 0 ? "the certificate is not of a node of this cluster"
                                       : "the certificate is of another node");
        return false;
    }
    conn->state = KL_CONN_OPEN;
    return true;
}

/* Room for one whole TLS record at the end of the input buffer. */
static bool make_room(struct kl_conn *conn)
{
    size_t rest = conn->in_len - conn->in_pos;
    size_t cap = conn->in_cap;
    uint8_t *p;

    if (conn->in_cap - conn->in_len >= KL_NET_RECORD_LEN) {
        return true;
    }
    if (rest + KL_NET_RECORD_LEN <= cap) {
        memmove(conn->in, conn->in + conn->in_pos, rest);
        kl_wipe(conn->in + rest, conn->in_len - rest);
        conn->in_pos = 0;
        conn->in_len = rest;
        return true;
    }
    if (cap == 0) {
        cap = conn->raw_cap;
    }
    while (cap < rest + KL_NET_RECORD_LEN) {
        cap *= 2; /* grows with what has arrived, never with what a header promises */
    }
    p = kl_malloc(cap);
    if (p == NULL) {
        return false;
    }
    if (rest != 0) {
        memcpy(p, conn->in + conn->in_pos, rest);
    }
    kl_wipe(conn->in, conn->in_len);
    kl_free(conn->in);
    conn->in = p;
    conn->in_cap = cap;
    conn->in_pos = 0;
    conn->in_len = rest;
    return true;
}

static void decrypt(struct kl_conn *conn)
{
    ERR_clear_error();
    for (;;) {
        int rc;

        if (!make_room(conn)) {
            kl_conn_fail_locked(conn, KL_NO_MEMORY, "out of memory");
            return;
        }
        rc = SSL_read(conn->ssl, conn->in + conn->in_len, (int)(conn->in_cap - conn->in_len));
        if (rc > 0) {
            conn->in_len += (size_t)rc;
            continue;
        }
        switch (SSL_get_error(conn->ssl, rc)) {
        case SSL_ERROR_WANT_READ:
            return;
        case SSL_ERROR_ZERO_RETURN:
            kl_conn_fail_locked(conn, KL_CLOSED,
                                conn->draining ? "closed by this side"
                                               : "closed by the other side");
            return;
        default:
            fail_tls(conn);
            return;
        }
    }
}

/* ---- frames ---- */

static void forget_input(struct kl_conn *conn, size_t from)
{
    kl_wipe(conn->in + from, conn->in_pos - from);
    if (conn->in_pos == conn->in_len) {
        conn->in_pos = conn->in_len = 0;
        if (conn->in_cap > KL_NET_INPUT_KEEP) {
            kl_free(conn->in);
            conn->in = NULL;
            conn->in_cap = 0;
        }
    }
}

/* Runs without the lock. Frames that came before an error are still delivered. */
static enum kl_status deliver(struct kl_conn *conn)
{
    struct kl_frame frames[KL_NET_FRAMES_PER_CALL];
    enum kl_status st;
    size_t n;

    do {
        size_t from = conn->in_pos;

        st = KL_OK;
        for (n = 0; n < KL_NET_FRAMES_PER_CALL; n++) {
            size_t used;

            st = kl_frame_parse(kl_bytes_of(conn->in + conn->in_pos, conn->in_len - conn->in_pos),
                                &frames[n], &used);
            if (st != KL_OK) {
                break;
            }
            conn->in_pos += used;
        }
        if (n != 0 && !atomic_load(&conn->deaf)) {
            conn->handler->on_frames(conn->user, conn, frames, n);
        }
        forget_input(conn, from);
    } while (n == KL_NET_FRAMES_PER_CALL);
    return st == KL_NOT_FOUND ? KL_OK : st;
}

/* Everything one read has brought. Called and left with the lock held. */
static void pump(struct kl_conn *conn)
{
    bool opened = false;
    uint64_t node = 0;
    enum kl_status st = KL_OK;

    if (conn->state == KL_CONN_HANDSHAKE) {
        opened = handshake(conn, &node);
    }
    if (conn->state == KL_CONN_OPEN) {
        decrypt(conn);
    }
    kl_conn_flush_locked(conn); /* what TLS itself has to say */
    if (!opened && conn->in_pos == conn->in_len) {
        return;
    }
    conn->pumping = true;
    conn->corks++;
    (void)pthread_mutex_unlock(&conn->lock);
    if (opened && conn->handler->on_open != NULL) {
        conn->handler->on_open(conn->user, conn, node);
    }
    if (conn->in_pos != conn->in_len) {
        st = deliver(conn);
    }
    (void)pthread_mutex_lock(&conn->lock);
    conn->corks--;
    conn->pumping = false;
    if (st != KL_OK) {
        kl_conn_fail_locked(conn, st,
                            st == KL_TOO_LARGE ? "a frame is over the limit" : "not a valid frame");
    }
    kl_conn_flush_locked(conn);
}

void kl_conn_on_read(void *arg)
{
    struct kl_conn *conn = arg;
    int rv = nng_aio_result(conn->read_aio);

    (void)pthread_mutex_lock(&conn->lock);
    conn->reading = false;
    if (conn->state == KL_CONN_CLOSED) {
        goto out;
    }
    if (rv != 0) {
        kl_conn_fail_locked(conn, KL_CLOSED,
                            conn->draining                     ? "closed by this side"
                            : conn->state == KL_CONN_HANDSHAKE ? "closed during the TLS handshake"
                                                               : nng_strerror(rv));
        goto out;
    }
    conn->raw_pos = 0;
    conn->raw_len = nng_aio_count(conn->read_aio);
    conn->active_ms = nng_clock();
    if (conn->state != KL_CONN_DYING) {
        pump(conn);
    }
    if (conn->throttles && atomic_load(&conn->queued) > KL_CONN_OUT_SOFT) {
        conn->throttled = true; /* kl_conn_on_write lifts it */
    }
    kl_conn_read_locked(conn);
out:
    (void)pthread_mutex_unlock(&conn->lock);
}
