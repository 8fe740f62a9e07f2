/*
 * A small certificate authority for --dev, tests and first set-ups: P-256 keys, SHA-256, X.509 v3.
 * Node certificates carry the URI SAN "kluis:node:CLUSTER:ID" and DNS/IP SANs for clients.
 */
#ifndef KL_CA_H
#define KL_CA_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

/* Writes DIR/ca.crt and DIR/ca.key (0600); makes DIR (0700) when it is missing, not its parents.
 * Refuses to overwrite. days: validity. */
KL_MUST_USE enum kl_status kl_ca_create(const char *dir, const char *cluster, unsigned days,
                                        char *err, size_t err_len);
/* Writes DIR/NAME.crt and DIR/NAME.key (0600), signed by DIR/ca.key. hosts: comma-separated names and
 * addresses. node_id 0: a server certificate without node identity. days may be negative: a
 * certificate that has expired (tests). */
KL_MUST_USE enum kl_status kl_ca_issue(const char *dir, const char *name, const char *cluster,
                                       uint64_t node_id, const char *hosts, int days, char *err,
                                       size_t err_len);

#endif
