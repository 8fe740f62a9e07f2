/*
 * From kl_conn_send to the socket. Messages are copied as frames into a list of blocks. When no
 * write is under way a batch is encrypted and written at once, by the sender's own thread; while
 * one is, or the connection is corked, messages gather and leave together. Plaintext is wiped as
 * soon as it is encrypted.
 */
#include "common/net/conn.h"

#include "common/alloc.h"

#include <assert.h>
#include <openssl/err.h>

static void count_queued(struct kl_conn *conn)
{
    atomic_store_explicit(&conn->queued,
                          conn->out_len + conn->enc.len + conn->wire.len - conn->wire.pos,
                          memory_order_relaxed);
}

/* ---- blocks ---- */

static void free_chunks(struct kl_chunk *chunk)
{
    while (chunk != NULL) {
        struct kl_chunk *next = chunk->next;

        kl_wipe(chunk->data + chunk->pos, chunk->len - chunk->pos);
        kl_free(chunk);
        chunk = next;
    }
}

static struct kl_chunk *take_chunk(struct kl_conn *conn)
{
    struct kl_chunk *chunk = conn->spare;

    if (chunk != NULL) {
        conn->spare = NULL;
    } else {
        chunk = kl_malloc(sizeof *chunk);
    }
    if (chunk != NULL) {
        chunk->next = NULL;
        chunk->pos = chunk->len = 0;
    }
    return chunk;
}

static void drop_head(struct kl_conn *conn)
{
    struct kl_chunk *chunk = conn->out_head;

    conn->out_head = chunk->next;
    if (conn->out_head == NULL) {
        conn->out_tail = NULL;
    }
    if (conn->spare == NULL) {
        conn->spare = chunk;
    } else {
        kl_free(chunk);
    }
}

/* Appends blocks until n more bytes fit; on failure the list is as it was. */
static enum kl_status make_room(struct kl_conn *conn, size_t n)
{
    struct kl_chunk *tail = conn->out_tail;
    size_t have = tail == NULL ? 0 : KL_NET_CHUNK_LEN - tail->len;
    struct kl_chunk *first = NULL;
    struct kl_chunk **end = &first;

    while (have < n) {
        *end = take_chunk(conn);
        if (*end == NULL) {
            free_chunks(first);
            return KL_NO_MEMORY;
        }
        end = &(*end)->next;
        have += KL_NET_CHUNK_LEN;
    }
    if (first != NULL && tail == NULL) {
        conn->out_head = conn->out_tail = first;
    } else if (first != NULL) {
        tail->next = first;
    }
    return KL_OK;
}

/* Copies into the blocks that make_room has prepared: from out_tail onwards. */
static void put(struct kl_conn *conn, const uint8_t *p, size_t n)
{
    conn->out_len += n;
    while (n != 0) {
        struct kl_chunk *tail = conn->out_tail;
        size_t room = KL_NET_CHUNK_LEN - tail->len;
        size_t part = n < room ? n : room;

        memcpy(tail->data + tail->len, p, part);
        tail->len += part;
        p += part;
        n -= part;
        if (tail->len == KL_NET_CHUNK_LEN && tail->next != NULL) {
            conn->out_tail = tail->next;
        }
    }
}

/* ---- encrypting and writing ---- */

static bool encrypt(struct kl_conn *conn)
{
    size_t budget = KL_NET_WRITE_BATCH;

    ERR_clear_error();
    while (conn->out_len != 0 && budget != 0) {
        struct kl_chunk *chunk = conn->out_head;
        size_t n = chunk->len - chunk->pos;
        int rc;

        n = n < KL_NET_RECORD_LEN ? n : KL_NET_RECORD_LEN;
        n = n < budget ? n : budget;
        rc = SSL_write(conn->ssl, chunk->data + chunk->pos, (int)n);
        if (rc <= 0) {
            ERR_clear_error();
            kl_conn_fail_locked(conn, KL_NO_MEMORY, "output cannot be encrypted");
            return false;
        }
        kl_wipe(chunk->data + chunk->pos, (size_t)rc);
        chunk->pos += (size_t)rc;
        conn->out_len -= (size_t)rc;
        budget -= (size_t)rc;
        if (chunk->pos == chunk->len) {
            drop_head(conn);
        }
    }
    return true;
}

static void write_wire(struct kl_conn *conn)
{
    nng_iov iov = {conn->wire.ptr + conn->wire.pos, conn->wire.len - conn->wire.pos};

    (void)nng_aio_set_iov(conn->write_aio, 1, &iov);
    conn->writing = true;
    nng_stream_send(conn->stream, conn->write_aio);
}

/* All is written: say goodbye, then wait for the other side's. */
static void end_drain(struct kl_conn *conn)
{
    if (!conn->shutdown_sent) {
        conn->shutdown_sent = true;
        ERR_clear_error();
        (void)SSL_shutdown(conn->ssl);
        ERR_clear_error();
    }
    if (conn->enc.len == 0 && !conn->lingering) {
        conn->lingering = true;
        conn->linger_ms = nng_clock();
    }
}

void kl_conn_flush_locked(struct kl_conn *conn)
{
    struct kl_cipher empty;

    /* While it dies too: the alert may have had to wait for a write. */
    if (conn->writing || conn->state == KL_CONN_CONNECTING || conn->state == KL_CONN_CLOSED) {
        return;
    }
    if (conn->state == KL_CONN_OPEN && conn->corks == 0) {
        if (!encrypt(conn)) {
            return;
        }
        if (conn->draining && conn->out_len == 0 && conn->enc.len == 0) {
            end_drain(conn);
        }
    }
    if (conn->enc.len != 0) {
        empty = conn->wire; /* both keep their memory */
        empty.pos = empty.len = 0;
        conn->wire = conn->enc;
        conn->enc = empty;
        conn->progress_ms = nng_clock();
        write_wire(conn);
    }
    count_queued(conn);
}

void kl_conn_on_write(void *arg)
{
    struct kl_conn *conn = arg;
    int rv = nng_aio_result(conn->write_aio);

    (void)pthread_mutex_lock(&conn->lock);
    conn->writing = false;
    if (conn->state == KL_CONN_CLOSED) {
        goto out;
    }
    if (rv != 0) {
        kl_conn_fail_locked(conn, KL_CLOSED, nng_strerror(rv));
        goto out;
    }
    conn->wire.pos += nng_aio_count(conn->write_aio);
    conn->active_ms = conn->progress_ms = nng_clock();
    if (conn->wire.pos < conn->wire.len) {
        write_wire(conn);
        count_queued(conn);
        goto out;
    }
    conn->wire.pos = conn->wire.len = 0;
    kl_conn_flush_locked(conn);
    if (conn->throttled && atomic_load(&conn->queued) <= KL_CONN_OUT_SOFT / 2) {
        conn->throttled = false;
        kl_conn_read_locked(conn);
    }
out:
    (void)pthread_mutex_unlock(&conn->lock);
}

/* ---- the callers' side ---- */

static void put_message(struct kl_conn *conn, const struct kl_frame *message)
{
    struct kl_frame frame = *message;
    size_t done = 0;

    do {
        uint8_t head[KL_FRAME_HEAD];
        size_t rest = message->body.len - done;
        bool more = rest > KL_FRAME_BODY_MAX;

        frame.flags = more ? message->flags | KL_FRAME_MORE : message->flags;
        frame.body.len = more ? KL_FRAME_BODY_MAX : rest;
        kl_frame_head(&frame, head);
        put(conn, head, sizeof head);
        if (frame.body.len != 0) {
            put(conn, message->body.ptr + done, frame.body.len);
        }
        done += frame.body.len;
    } while (done < message->body.len);
}

enum kl_status kl_conn_send(struct kl_conn *conn, const struct kl_frame *message)
{
    size_t len = message->body.len;
    size_t frames = len == 0 ? 1 : (len + KL_FRAME_BODY_MAX - 1) / KL_FRAME_BODY_MAX;
    size_t total = len + frames * KL_FRAME_HEAD;
    enum kl_status st = KL_OK;

    if (len > KL_MESSAGE_MAX) {
        return KL_TOO_LARGE;
    }
    (void)pthread_mutex_lock(&conn->lock);
    if (conn->state == KL_CONN_CLOSED || conn->state == KL_CONN_DYING || conn->draining) {
        st = KL_CLOSED;
        goto out;
    }
    if (total > conn->out_max || atomic_load(&conn->queued) > conn->out_max - total) {
        st = KL_EXHAUSTED;
        goto out;
    }
    st = make_room(conn, total);
    if (st != KL_OK) {
        goto out;
    }
    put_message(conn, message);
    count_queued(conn);
    kl_conn_flush_locked(conn);
out:
    (void)pthread_mutex_unlock(&conn->lock);
    return st;
}

void kl_conn_cork(struct kl_conn *conn)
{
    (void)pthread_mutex_lock(&conn->lock);
    conn->corks++;
    (void)pthread_mutex_unlock(&conn->lock);
}

void kl_conn_uncork(struct kl_conn *conn)
{
    (void)pthread_mutex_lock(&conn->lock);
    assert(conn->corks != 0);
    conn->corks--;
    kl_conn_flush_locked(conn);
    (void)pthread_mutex_unlock(&conn->lock);
}

size_t kl_conn_queued(const struct kl_conn *conn)
{
    return atomic_load_explicit(&conn->queued, memory_order_relaxed);
}

/* ---- memory ---- */

void kl_conn_trim_out_locked(struct kl_conn *conn)
{
    kl_free(conn->spare);
    conn->spare = NULL;
    if (!conn->writing) {
        kl_free(conn->wire.ptr);
        conn->wire = (struct kl_cipher){NULL, 0, 0, 0};
    }
    if (conn->enc.len == 0) {
        kl_free(conn->enc.ptr);
        conn->enc = (struct kl_cipher){NULL, 0, 0, 0};
    }
}

void kl_conn_free_out(struct kl_conn *conn)
{
    free_chunks(conn->out_head);
    conn->out_head = conn->out_tail = NULL;
    conn->out_len = 0;
    kl_free(conn->spare);
    conn->spare = NULL;
    kl_free(conn->wire.ptr);
    kl_free(conn->enc.ptr);
    conn->wire = conn->enc = (struct kl_cipher){NULL, 0, 0, 0};
    count_queued(conn);
}
