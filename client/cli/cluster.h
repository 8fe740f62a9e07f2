/*
 * What the commands about the cluster share: calls of the generated messages, and status as JSON.
 */
#ifndef KL_CLI_CLUSTER_H
#define KL_CLI_CLUSTER_H

#include "client/cli/cli.h"
#include "common/alloc.h"

#include "rpc.pb-c.h"

enum { KL_CLI_PROBE_MS = 3000 }; /* for one node that may be down */

/* The timeout that was asked for, but KL_CLI_PROBE_MS at most. */
uint32_t kl_cli_probe_ms(const struct kl_cli *cli);
/* A message of the generated code, packed, called, unpacked; *out: kl_pb_wipe_free. node: ask just this
 * address; NULL: any. */
enum kluis_status kl_cli_rpc(struct kl_cli *cli, const char *method, const void *request,
                             bool write, const char *node, uint32_t timeout_ms,
                             const ProtobufCMessageDescriptor *type, void **out);
/* *out: kl_cli_status_free. timeout_ms 0: the usual one; of one node kl_cli_probe_ms. */
enum kluis_status kl_cli_status_get(struct kl_cli *cli, const char *node, uint32_t timeout_ms,
                                    Kluis__V1__ClusterStatusResponse **out);
bool kl_cli_holds(const Kluis__V1__NodeStatus *node, uint32_t group); /* NULL holds none */
void kl_cli_status_free(Kluis__V1__ClusterStatusResponse *status);    /* NULL is allowed */
json_t *kl_cli_status_json(const Kluis__V1__ClusterStatusResponse *status);
json_t *kl_cli_clock_json(const Kluis__V1__ClockStatus *clock);

json_t *kl_cli_integer(uint64_t n);
void kl_cli_append(json_t *array, json_t *value); /* takes value */

#endif
