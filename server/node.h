/*
 * A node: builds every part in order, joins them, takes them down again.
 */
#ifndef KL_NODE_H
#define KL_NODE_H

#include "server/config.h"
#include "server/exit_codes.h"

struct kl_node;

/*
 * Starts a node on an initialised data directory. Returns when it listens; whether it serves is
 * another question (Health). On failure *exit_code says why in a class and err in words.
 */
KL_MUST_USE enum kl_status kl_node_start(const struct kl_config *config, struct kl_node **out,
                                         enum kl_exit *exit_code, char *err, size_t err_len);

/* Ports really listened on (the configuration may say 0). */
/* Can the files that the configuration names be used? err gets a line for people. */
KL_MUST_USE enum kl_status kl_node_check(const struct kl_config *config, char *err, size_t err_len);
uint16_t kl_node_client_port(const struct kl_node *node);

/* Takes over what may change while running: certificates, principals, log level. On failure all
 * stays as it was. */
KL_MUST_USE enum kl_status kl_node_reload(struct kl_node *node, const struct kl_config *config,
                                          char *err, size_t err_len);

/* Waits until the node serves vault calls as or through a leader; false after timeout_ms. */
bool kl_node_wait_ready(struct kl_node *node, unsigned timeout_ms);

/* Hands leadership over, finishes calls, closes everything, syncs. */
void kl_node_stop(struct kl_node *node);

#endif
