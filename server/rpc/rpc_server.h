/*
 * The client listener: accepts TLS connections, puts calls together from frames, hands them to the
 * dispatcher and sends the replies. Holds back clients that do not read and caps calls per
 * connection.
 */
#ifndef KL_RPC_SERVER_H
#define KL_RPC_SERVER_H

#include "common/net/net.h"
#include "server/rpc/dispatch.h"

struct kl_rpc_server;

KL_MUST_USE enum kl_status kl_rpc_server_new(struct kl_net *net, struct kl_tls *tls,
                                             const char *listen, struct kl_dispatch *dispatch,
                                             struct kl_rpc_server **out, char *err, size_t err_len);
uint16_t kl_rpc_server_port(const struct kl_rpc_server *server);
/* Stops accepting and tells every client to go elsewhere (GOAWAY). */
void kl_rpc_server_drain(struct kl_rpc_server *server);
void kl_rpc_server_free(struct kl_rpc_server *server);

/* For the peer listener (struct kl_peers_options.on_request): a call of another node. */
void kl_rpc_peer_request(struct kl_dispatch *dispatch, uint64_t from_node, struct kl_conn *conn,
                         uint32_t stream, struct kl_bytes call);

#endif
