/*
 * Inside common/net; nobody else includes it.
 *
 * Locks: conn->lock may be held when net->lock is taken, never the other way round. No lock is held
 * while a handler is called, and nng calls back without locks of its own.
 *
 * Threads: dial, read and write callbacks come from nng's threads; there is at most one read under
 * way, so on_open and on_frames of a connection never overlap. The service thread (service.c) alone
 * stops and frees nng objects, because nng deadlocks when that happens in their own callbacks, and
 * it alone calls on_close.
 */
#ifndef KL_NET_CONN_H
#define KL_NET_CONN_H

#include "common/limits.h"
#include "common/net/net.h"

#include <nng/nng.h>
#include <nng/supplemental/util/platform.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
    KL_NET_CHUNK_LEN = 32 << 10,    /* plaintext gathered per block: two full TLS records */
    KL_NET_RECORD_LEN = 16 << 10,   /* most plaintext of one TLS record */
    KL_NET_WRITE_BATCH = 128 << 10, /* plaintext encrypted for one write */
    KL_NET_CIPHER_MAX = 1 << 20,    /* ciphertext that waits for the write under way to end */
    KL_NET_READ_MIN = 8 << 10,      /* first size of a read; a full one makes it KL_NET_READ_MAX */
    KL_NET_READ_MAX = 64 << 10,
    KL_NET_INPUT_KEEP = 512 << 10, /* a larger input buffer is given back once it is empty */
    KL_NET_FRAMES_PER_CALL = 1024,
    KL_NET_LINGER_MS = 1000, /* drained: wait so long for the other side to close */
    KL_NET_TICK_MS = 100,    /* resolution of every deadline */
    KL_NET_CHECK_MS = 1000,  /* an open connection is looked at this often */
    KL_NET_SLOTS = 64,       /* ticks per turn of the wheel; above the longest check distance */
    KL_NET_HOST_MAX = 255,
    KL_NET_DIALERS_MAX = 2,
};

struct kl_chunk {
    struct kl_chunk *next;
    size_t pos, len;
    uint8_t data[KL_NET_CHUNK_LEN];
};

struct kl_cipher { /* ciphertext on its way out */
    uint8_t *ptr;
    size_t pos, len, cap;
};

struct kl_link { /* node of a circular list with a head */
    struct kl_link *next, *prev;
};

enum kl_conn_state {
    KL_CONN_CONNECTING,
    KL_CONN_HANDSHAKE,
    KL_CONN_OPEN,
    KL_CONN_DYING, /* TLS has failed: the alert is on its way, what arrives is thrown away */
    KL_CONN_CLOSED,
};

struct kl_conn {
    struct kl_link wheel;      /* first; net->lock */
    struct kl_conn *reap_next; /* net->lock */
    bool in_net;               /* net->lock */
    atomic_uint refs;

    /* Fixed once the connection is started. */
    struct kl_net *net;           /* until reaped */
    struct kl_listener *listener; /* counted; NULL when dialled */
    const struct kl_conn_handler *handler;
    void *user;
    uint64_t id;
    uint64_t expect_node;
    size_t out_max;
    unsigned idle_ms;
    bool accepted;
    bool throttles; /* stops reading while the output is over KL_CONN_OUT_SOFT */
    char cluster[KL_LOCATION_MAX + 1];
    char remote[KL_NET_HOST_MAX + 16];
    nng_aio *dial_aio, *read_aio, *write_aio;
    nng_stream_dialer *dialers[KL_NET_DIALERS_MAX];
    size_t dialers_n;

    pthread_mutex_t lock; /* for what follows */
    enum kl_conn_state state;
    size_t dialer_next;
    nng_stream *stream;
    SSL *ssl;
    uint64_t started_ms;  /* of this state while not open */
    uint64_t active_ms;   /* last byte in or out */
    uint64_t progress_ms; /* the kernel took something, or output began to wait */
    uint64_t drain_ms, linger_ms;
    bool reading, pumping, writing; /* an nng operation, or its callback, is under way */
    bool paused, throttled;
    bool draining, shutdown_sent, lingering;
    unsigned corks;
    enum kl_status status; /* why it closed */
    char reason[160];

    uint8_t *raw; /* ciphertext in: the read under way, then what TLS has not yet taken */
    size_t raw_pos, raw_len, raw_cap;
    uint8_t *in; /* plaintext in; owned by the read callback while pumping */
    size_t in_pos, in_len, in_cap;

    struct kl_chunk *out_head, *out_tail, *spare; /* plaintext out */
    size_t out_len;
    struct kl_cipher enc;  /* TLS appends here */
    struct kl_cipher wire; /* being written */

    atomic_size_t queued; /* out_len + enc + rest of wire */
    atomic_bool deaf;     /* nothing is delivered any more */
};

struct kl_listener {
    struct kl_link link; /* first; net->lock */
    struct kl_net *net;
    struct kl_tls *tls; /* retained */
    atomic_uint refs;
    atomic_uint conns;
    struct kl_listener_options options;
    char cluster[KL_LOCATION_MAX + 1];
    nng_stream_listener *listener;
    nng_aio *aio;
    uint16_t port;
    bool closing; /* net->lock */
    bool retry;   /* net->lock: the last accept failed, try again at the next tick */
};

struct kl_net {
    nng_mtx *lock;
    nng_cv *cv;
    nng_thread *thread;
    BIO_METHOD *bio;
    struct kl_link slots[KL_NET_SLOTS];
    struct kl_link listeners;
    struct kl_conn *reap;
    struct kl_conn **reap_tail;
    uint64_t swept; /* last tick whose slot has been looked at */
    size_t conns;
    bool stopping;
};

/* tls.c */
void kl_tls_retain(struct kl_tls *tls);
enum kl_tls_role kl_tls_role(const struct kl_tls *tls);
/* A new SSL of the current context, or NULL. */
SSL *kl_tls_ssl(struct kl_tls *tls);
/* Server name and verification of a dialled host; KL_INVALID_ARGUMENT, KL_NO_MEMORY. */
KL_MUST_USE enum kl_status kl_tls_expect_host(SSL *ssl, const char *host);
/* The node id that the peer's certificate carries for this cluster, or 0. */
uint64_t kl_tls_peer_node(const SSL *ssl, const char *cluster);
/* What the last failed call on ssl means. The text is static. Clears OpenSSL's error queue. */
enum kl_status kl_tls_failure(const SSL *ssl, const char **text);
/* The BIO through which TLS reads conn->raw and writes conn->enc. */
BIO_METHOD *kl_tls_bio_method(void);

/* address.c */
/* "host:port" into host (KL_NET_HOST_MAX + 1 bytes, brackets removed) and port; KL_INVALID_ARGUMENT. */
KL_MUST_USE enum kl_status kl_address_split(const char *address, char *host, uint16_t *port);
bool kl_address_literal(const char *host, bool *v6);
void kl_address_remote(nng_stream *stream, char *out, size_t out_len);

/* conn.c; _locked: conn->lock is held */
KL_MUST_USE enum kl_status kl_conn_new(struct kl_net *net, struct kl_tls *tls,
                                       const struct kl_conn_options *options, bool accepted,
                                       struct kl_conn **out);
void kl_conn_start_tls_locked(struct kl_conn *conn, nng_stream *stream);
void kl_conn_fail_locked(struct kl_conn *conn, enum kl_status status, const char *reason);
/* After a failure of TLS: closes when the other side has, or after KL_NET_LINGER_MS. Closing at once
 * with bytes unread would reset the connection, and the alert that tells why would be lost. */
void kl_conn_die_locked(struct kl_conn *conn, enum kl_status status, const char *reason);
/* Looks at every deadline; returns in how many ms to look again. */
uint64_t kl_conn_check(struct kl_conn *conn, uint64_t now_ms);
/* Service thread, or nobody else knows the connection: ends all nng objects and calls on_close. */
void kl_conn_finish(struct kl_conn *conn, bool tell);

/* in.c */
void kl_conn_read_locked(struct kl_conn *conn);
void kl_conn_on_read(void *arg);

/* out.c */
void kl_conn_flush_locked(struct kl_conn *conn);
void kl_conn_on_write(void *arg);
void kl_conn_trim_out_locked(struct kl_conn *conn);
void kl_conn_free_out(struct kl_conn *conn);

/* service.c; kl_net_reap does nothing before the connection has been added */
KL_MUST_USE enum kl_status kl_net_add(struct kl_net *net, struct kl_conn *conn);
void kl_net_reap(struct kl_net *net, struct kl_conn *conn);
KL_MUST_USE enum kl_status kl_net_add_listener(struct kl_net *net, struct kl_listener *listener);

/* listener.c */
void kl_listener_release(struct kl_listener *listener);
void kl_listener_accept_locked(struct kl_listener *listener); /* net->lock is held */

static inline void kl_link_init(struct kl_link *head)
{
    head->next = head->prev = head;
}
static inline bool kl_link_empty(const struct kl_link *head)
{
    return head->next == head;
}
static inline void kl_link_add(struct kl_link *head, struct kl_link *node)
{
    node->next = head;
    node->prev = head->prev;
    head->prev->next = node;
    head->prev = node;
}
static inline void kl_link_remove(struct kl_link *node)
{
    node->next->prev = node->prev;
    node->prev->next = node->next;
    kl_link_init(node);
}

#endif
