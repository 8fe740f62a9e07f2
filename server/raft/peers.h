/*
 * Connections between nodes: a control and a bulk connection per pair, dialled by the lower node
 * id, mutual TLS with the node id in the certificate, greeted by kluis.peer.Hello. Raft messages
 * travel in PEER frames; the control connection also carries REQUEST and REPLY frames, so that a
 * node can call another node's dispatcher (Internal service).
 */
#ifndef KL_PEERS_H
#define KL_PEERS_H

#include "common/net/net.h"
#include "server/raft/group.h"

struct kl_peers;

struct kl_peer_address {
    uint64_t node_id;
    const char *address; /* "host:port" of its peer listener */
};

struct kl_peers_options {
    const char *cluster;
    uint64_t node_id;
    uint8_t data_uuid[KL_ID_LEN];
    const char *listen;                  /* "host:port" */
    const struct kl_peer_address *peers; /* all nodes of the configuration, self included */
    size_t peers_n;
    struct kl_net *net;
    struct kl_tls *tls; /* KL_TLS_PEER */
    void *ctx;
    const struct kl_clock *clock;
    /* A PEER frame of an authenticated node. On nng's thread: hand over, do not work. Body borrowed. */
    void (*on_message)(void *ctx, uint64_t from_node, uint16_t group, struct kl_bytes message);
    /* A whole REQUEST message (kluis.v1.Call) of a node; answer with kl_conn_send on conn. */
    void (*on_request)(void *ctx, uint64_t from_node, struct kl_conn *conn, uint32_t stream,
                       struct kl_bytes call);
    /* The control connection to a node came up or went down. */
    void (*on_peer)(void *ctx, uint64_t node, bool connected);
    /* Is this data directory the one registered for the node? KL_OK; otherwise the connection is refused,
     * with KL_NOT_FOUND because the node was removed.
     * generation: as the node itself says, 0 when it does not know. */
    enum kl_status (*check_uuid)(void *ctx, uint64_t node, const uint8_t uuid[KL_ID_LEN],
                                 uint64_t generation);
    /* What to say of our own data directory; NULL: 0. Any thread, often; must not block. */
    uint64_t (*generation)(void *ctx);
    /* This node was refused by a peer because another data directory or process holds its id, or because
     * it was removed.
     * generation: what the refused greeting said; it may have been an old one. */
    void (*on_refused)(void *ctx, uint64_t by_node, uint64_t generation, const char *why);
};

KL_MUST_USE enum kl_status kl_peers_new(const struct kl_peers_options *options,
                                        struct kl_peers **out, char *err, size_t err_len);
/* Closes every connection and fails every call under way, waits until no callback runs. From then on
 * nothing is sent; groups that still would may be closed now. Not from a callback. Idempotent. */
void kl_peers_stop(struct kl_peers *peers);
/* Stops when that was not done, and frees. Before kl_net_free(). NULL is allowed. */
void kl_peers_free(struct kl_peers *peers);
/* Port of the peer listener (options.listen may say 0); 0 when there is none. */
uint16_t kl_peers_port(const struct kl_peers *peers);

/* A node that came while we run: it is dialled from now on, or dials us. Does nothing when its address
 * is known already. KL_EXHAUSTED, KL_NO_MEMORY. [any] */
KL_MUST_USE enum kl_status kl_peers_add_node(struct kl_peers *peers, uint64_t node,
                                             const char *address);
/* A node that went for good: its connections are closed, it is not dialled any more. Whether it may come
 * again is for check_uuid to say. [any] */
void kl_peers_drop_node(struct kl_peers *peers, uint64_t node);

/* Sends a packed kluis.peer.Message; drops it when there is no connection or its queue is full. [any] */
void kl_peers_send(struct kl_peers *peers, uint64_t to_node, uint16_t group, enum kl_lane lane,
                   struct kl_bytes message);
bool kl_peers_connected(struct kl_peers *peers, uint64_t node);

/* Calls a method of another node as this node. reply (packed kluis.v1.Reply, borrowed) comes once on
 * another thread; on failure status says why and reply is empty. [any] */
typedef void (*kl_peer_reply_fn)(void *arg, enum kl_status status, struct kl_bytes reply);
KL_MUST_USE enum kl_status kl_peers_call(struct kl_peers *peers, uint64_t to_node,
                                         struct kl_bytes call, unsigned timeout_ms,
                                         kl_peer_reply_fn fn, void *arg);

#endif
