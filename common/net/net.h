/*
 * Connections: nng byte streams over TCP, TLS 1.3 by OpenSSL above them, frames of common/frame.h
 * above that. Used by client and server alike. Everything here is thread-safe; callbacks come from
 * nng's threads, must be short and must not block; they may call kl_conn_send, kl_conn_close,
 * kl_conn_retain and kl_conn_release.
 *
 * Why not nng's sockets: they lose messages, wedge and crash under hostile peers (see the design
 * notes in README, "What carries the bytes"). Why TLS here: nng's own TLS hides errors and has no
 * working handshake deadline.
 */
#ifndef KL_NET_H
#define KL_NET_H

#include "common/frame.h"

#include <openssl/ssl.h>

struct kl_net; /* a set of connections, their deadlines, and the thread that reaps them */
struct kl_tls; /* a reference-counted SSL_CTX that can be replaced while in use */
struct kl_conn;
struct kl_listener;

/* ---- TLS contexts ---- */

enum kl_tls_role { KL_TLS_CLIENT, KL_TLS_SERVER, KL_TLS_PEER }; /* PEER: mutual, both directions */

struct kl_tls_files {
    const char *ca_file;   /* PEM; required for CLIENT and PEER */
    const char *cert_file; /* PEM chain; required for SERVER and PEER */
    const char *key_file;  /* PEM key; required for SERVER and PEER */
    const char *cluster;   /* NULL, or the certificate must prove this node of this cluster: */
    uint64_t node_id;
};

/*
 * Loads files into a new context: TLS 1.3 only, session tickets off. On failure a line of text for
 * people (which file, why) is in err. KL_IO, KL_CRYPTO, KL_NO_MEMORY; KL_INVALID_ARGUMENT: a good
 * certificate, but of another node.
 */
KL_MUST_USE enum kl_status kl_tls_new(enum kl_tls_role role, const struct kl_tls_files *files,
                                      struct kl_tls **out, char *err, size_t err_len);
/* Loads again; connections that exist keep the old context. On failure the old one stays. */
KL_MUST_USE enum kl_status kl_tls_reload(struct kl_tls *tls, const struct kl_tls_files *files,
                                         char *err, size_t err_len);
void kl_tls_free(struct kl_tls *tls);

/* ---- the set ---- */

KL_MUST_USE enum kl_status kl_net_new(struct kl_net **out);
/* Closes every connection and listener of the set, waits until all callbacks have ended, frees. Not
 * from a callback. References that are still held stay valid: such connections are closed. */
void kl_net_free(struct kl_net *net);

/* ---- connections ---- */

struct kl_conn_handler {
    /* TLS handshake done; peer_node is the node id of the peer's certificate (URI SAN
     * "kluis:node:CLUSTER:ID" of this cluster) or 0 when it has none. Not called when dialling fails. */
    void (*on_open)(void *user, struct kl_conn *conn, uint64_t peer_node);
    /* All frames that one read brought (at most 1,024), in order; bodies are borrowed for the call.
     * More than one frame per call under load: hand them over in one go. The connection is corked
     * meanwhile: what is sent from here leaves as one write. PING is not answered for you. */
    void (*on_frames)(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n);
    /* Exactly once per connection, also when it never opened. reason is static text or from TLS;
     * borrowed for the call. After it no callback comes. */
    void (*on_close)(void *user, struct kl_conn *conn, enum kl_status status, const char *reason);
};

struct kl_conn_options {
    const struct kl_conn_handler *handler; /* borrowed; outlives the connection */
    void *user;
    const char *cluster;      /* cluster name for node certificates; NULL = do not look */
    uint64_t expect_node;     /* dialling: the node id the peer must prove; 0 = any */
    const char *expect_host;  /* dialling: host name or address to verify; NULL = none */
    unsigned idle_timeout_ms; /* no bytes in or out for so long closes; 0 = never */
    size_t out_max;           /* bytes queued; beyond it kl_conn_send says KL_EXHAUSTED */
};

/*
 * Dials "host:port" (IPv4, [IPv6] or a name). Returns at once; on_open or on_close follows. *out is
 * retained for the caller: kl_conn_release() it after use.
 */
KL_MUST_USE enum kl_status kl_conn_dial(struct kl_net *net, struct kl_tls *tls, const char *address,
                                        const struct kl_conn_options *options,
                                        struct kl_conn **out);

struct kl_listener_options {
    struct kl_conn_options conn;
    /* Called first for every accepted connection so that it can have a `user` of its own;
     * NULL keeps conn.user. Returning NULL refuses the connection. */
    void *(*on_accept)(void *user, struct kl_conn *conn);
    /* More are closed at once; 0 = KL_CONNS_MAX. When on_close is called the place is free again. */
    unsigned conns_max;
};

/* Listens on "host:port"; port 0 draws one. KL_IO with text in err when the address is taken. */
KL_MUST_USE enum kl_status kl_listener_new(struct kl_net *net, struct kl_tls *tls,
                                           const char *address,
                                           const struct kl_listener_options *options,
                                           struct kl_listener **out, char *err, size_t err_len);
uint16_t kl_listener_port(const struct kl_listener *listener);
/* Stops accepting; connections live on. Waits for an on_accept under way: not from a callback. */
void kl_listener_free(struct kl_listener *listener);

/*
 * Queues one message; it is split into frames when longer than KL_FRAME_BODY_MAX. Copies the body.
 * Never blocks. KL_EXHAUSTED: the output queue is full, nothing was queued. KL_CLOSED.
 * While a write is under way further messages gather and leave as one TLS write.
 */
KL_MUST_USE enum kl_status kl_conn_send(struct kl_conn *conn, const struct kl_frame *message);

/* Between cork and uncork sends only gather (for replies that come in batches). Calls nest. */
void kl_conn_cork(struct kl_conn *conn);
void kl_conn_uncork(struct kl_conn *conn);

/* Bytes queued and not yet taken by the kernel. */
size_t kl_conn_queued(const struct kl_conn *conn);

/*
 * Stops and resumes reading (back-pressure). A paused connection still writes; what had been read
 * already is still delivered. Clients accepted with a KL_TLS_SERVER context are paused by
 * themselves while more than KL_CONN_OUT_SOFT bytes wait for them.
 */
void kl_conn_pause(struct kl_conn *conn);
void kl_conn_resume(struct kl_conn *conn);

/* Starts closing; on_close follows from another thread or, at the latest, kl_net_free. Idempotent. */
void kl_conn_close(struct kl_conn *conn);
/* Closes once everything queued has been written, or after KL_WRITE_STALL_TIMEOUT_MS. From now on
 * nothing that arrives is delivered and nothing can be sent. */
void kl_conn_drain(struct kl_conn *conn);

void kl_conn_retain(struct kl_conn *conn);
void kl_conn_release(struct kl_conn *conn);

/* Remote address "ip:port" for logs; static inside the connection. */
const char *kl_conn_remote(const struct kl_conn *conn);
uint64_t kl_conn_id(const struct kl_conn *conn); /* unique in the process, for logs */

/* ---- messages out of frames ---- */

/*
 * Puts messages together from frames of one connection; bounded by max per message and
 * streams_max open ones. KL_OK: *whole is the complete message (owned by the caller: wipe it) or
 * was passed through borrowed when single (then whole->ptr is NULL and frame->body is it).
 * KL_NOT_FOUND: more frames are needed. KL_TOO_LARGE, KL_EXHAUSTED, KL_NO_MEMORY end the connection.
 */
struct kl_assembler;
KL_MUST_USE enum kl_status kl_assembler_new(size_t max, unsigned streams_max,
                                            struct kl_assembler **out);
KL_MUST_USE enum kl_status kl_assembler_add(struct kl_assembler *a, const struct kl_frame *frame,
                                            struct kl_buf *whole);
void kl_assembler_free(struct kl_assembler *a);

#endif
