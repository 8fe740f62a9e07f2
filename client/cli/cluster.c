/*
 * kluis cluster ... but status, kluis health
 */
#include "client/cli/cluster.h"
#include "common/names.h"

#include <string.h>

#define COLUMNS(array) array, sizeof array / sizeof array[0]

/* ---------------------------------------------------------------- digest */

static const struct kl_cli_column digest_rows[] = {
    {"GROUP", "group"},     {"NODE", "node"},     {"APPLIED", "appliedIndex"},
    {"RECORDS", "records"}, {"SHA256", "sha256"}, {"ERROR", "error"},
};

/* A node that is asked, and whether it answers at all: a digest may take long, but a node that is down
 * is not waited for in each group. */
struct digest_node {
    const Kluis__V1__NodeStatus *node;
    const char *address;
    enum kluis_status answers;
};

/* All nodes but the removed ones; with --node the one that has answered. */
static size_t digest_nodes(struct kl_cli *cli, const Kluis__V1__ClusterStatusResponse *status,
                           struct digest_node nodes[KL_NODES_MAX])
{
    const char *only = cli->args.text[KL_OPT_NODE];
    size_t n = 0;

    for (size_t i = 0; i < status->n_nodes && n < KL_NODES_MAX; i++) {
        const Kluis__V1__NodeStatus *node = status->nodes[i];
        struct digest_node *d = &nodes[n];
        Kluis__V1__ClusterStatusResponse *own = NULL;

        if (node->removed || (only != NULL && !node->self)) {
            continue;
        }
        *d = (struct digest_node){node, only != NULL ? only : node->client_address, KLUIS_OK};
        if (!node->self) {
            d->answers = kl_cli_status_get(cli, d->address, KL_CLI_PROBE_MS, &own);
            kl_cli_status_free(own);
        }
        n++;
    }
    return n;
}

static bool digest_one(struct kl_cli *cli, json_t *rows, uint32_t group,
                       const struct digest_node *node)
{
    Kluis__V1__ClusterDigestRequest request = KLUIS__V1__CLUSTER_DIGEST_REQUEST__INIT;
    Kluis__V1__ClusterDigestResponse *r;
    json_t *row = kl_cli_must(json_object());
    void *response = NULL;
    enum kluis_status st = node->answers;

    request.group = group;
    if (st == KLUIS_OK) {
        st = kl_cli_rpc(cli, "/kluis.v1.Cluster/Digest", &request, false, node->address, 0,
                        &kluis__v1__cluster_digest_response__descriptor, &response);
    }
    r = response;
    kl_cli_put(row, "group", kl_cli_integer(group));
    kl_cli_put(row, "node", kl_cli_text(node->address));
    if (st == KLUIS_OK) {
        kl_cli_put(row, "appliedIndex", kl_cli_integer(r->applied_index));
        kl_cli_put(row, "records", kl_cli_integer(r->records));
        kl_cli_put(row, "sha256", kl_cli_text(kl_cli_hex(cli, r->sha256.data, r->sha256.len)));
    } else {
        kl_cli_put(row, "error", kl_cli_text(kluis_status_name(st)));
    }
    kl_cli_append(rows, row);
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st == KLUIS_OK;
}

/* One group's digest at every node that holds it; false unless all gave one. */
static bool digest_group(struct kl_cli *cli, json_t *rows, uint32_t group,
                         const struct digest_node *nodes, size_t n)
{
    bool all = true;

    for (size_t i = 0; i < n; i++) {
        if (kl_cli_holds(nodes[i].node, group)) {
            all = digest_one(cli, rows, group, &nodes[i]) && all;
        }
    }
    return all;
}

/* Two rows of one group at one index must agree. */
static bool agree(const json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        for (size_t j = i + 1; j < json_array_size(rows); j++) {
            const json_t *a = json_array_get(rows, i);
            const json_t *b = json_array_get(rows, j);

            if (json_equal(json_object_get(a, "group"), json_object_get(b, "group")) != 0 &&
                json_equal(json_object_get(a, "appliedIndex"),
                           json_object_get(b, "appliedIndex")) != 0 &&
                json_equal(json_object_get(a, "sha256"), json_object_get(b, "sha256")) == 0) {
                return false;
            }
        }
    }
    return true;
}

int kl_cli_cluster_digest(struct kl_cli *cli)
{
    Kluis__V1__ClusterStatusResponse *status = NULL;
    enum kluis_status st = kl_cli_status_get(cli, cli->args.text[KL_OPT_NODE], 0, &status);
    struct digest_node nodes[KL_NODES_MAX];
    bool all = true;
    json_t *rows;
    size_t n;
    bool same;
    int code;

    if (st != KLUIS_OK) {
        return kl_cli_failed(cli, st);
    }
    n = digest_nodes(cli, status, nodes);
    rows = kl_cli_must(json_array());
    for (uint32_t group = 0; group < KL_GROUPS_MAX; group++) {
        if (!cli->args.given[KL_OPT_GROUP] || group == cli->args.number[KL_OPT_GROUP]) {
            all = digest_group(cli, rows, group, nodes, n) && all;
        }
    }
    kl_cli_status_free(status);
    same = agree(rows);
    code = kl_cli_print(cli, rows, COLUMNS(digest_rows));
    if (!same) {
        return kl_cli_complain(
            cli, KL_CLI_INTERNAL,
            "two nodes differ at the same index: keep their data directories and "
            "replace the one that is in the minority");
    }
    return code == KL_CLI_OK && !all ? KL_CLI_UNAVAILABLE : code;
}

/* ---------------------------------------------------------------- steering */

/* A node's id from its id or its name; 0 when there is none of that name. */
static enum kluis_status find_node(struct kl_cli *cli, const char *text, uint64_t *id)
{
    Kluis__V1__ClusterStatusResponse *status = NULL;
    enum kluis_status st;

    if (kl_number_parse(text, 1, KL_NODE_ID_MAX, id) == KL_OK) {
        return KLUIS_OK;
    }
    st = kl_cli_status_get(cli, NULL, 0, &status);
    *id = 0;
    for (size_t i = 0; st == KLUIS_OK && i < status->n_nodes; i++) {
        if (strcmp(status->nodes[i]->name, text) == 0) {
            *id = status->nodes[i]->node_id;
        }
    }
    kl_cli_status_free(status);
    return st;
}

int kl_cli_cluster_transfer(struct kl_cli *cli)
{
    Kluis__V1__ClusterTransferRequest request = KLUIS__V1__CLUSTER_TRANSFER_REQUEST__INIT;
    const char *to = cli->args.text[KL_OPT_TO];
    void *response = NULL;
    enum kluis_status st = KLUIS_OK;

    request.group = (uint32_t)cli->args.number[KL_OPT_GROUP];
    if (to != NULL) {
        st = find_node(cli, to, &request.to_node_id);
        if (st == KLUIS_OK && request.to_node_id == 0) {
            return kl_cli_complain(cli, KL_CLI_NOT_FOUND,
                                   "there is no node \"%s\"; kluis cluster status shows them", to);
        }
    }
    if (st == KLUIS_OK) {
        st = kl_cli_rpc(cli, "/kluis.v1.Cluster/Transfer", &request, true, NULL, 0,
                        &kluis__v1__cluster_transfer_response__descriptor, &response);
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st == KLUIS_OK ? KL_CLI_OK : kl_cli_failed(cli, st);
}

static const struct kl_cli_column confirm_fields[] = {
    {"Confirmed", "confirmed"}, {"Before", "before.time"},  {"Reason", "before.reason"},
    {"Time", "after.time"},     {"LeadMs", "after.leadMs"}, {"PurgesHeld", "after.purgesHeld"},
};
static const struct kl_cli_column clock_rows[] = {
    {"NODE", "nodeId"}, {"NAME", "name"}, {"CLOCK_AHEAD_MS", "clockAheadMs"}};

/* What is confirmed is what is shown: the node refuses when its clocks say something else by now. */
static enum kluis_status confirm(struct kl_cli *cli, uint64_t clocks_ms, json_t *result)
{
    Kluis__V1__ClusterConfirmTimeRequest request = KLUIS__V1__CLUSTER_CONFIRM_TIME_REQUEST__INIT;
    const Kluis__V1__ClusterConfirmTimeResponse *r;
    void *response = NULL;
    enum kluis_status st;

    request.clocks_ms = clocks_ms;
    request.step = cli->args.given[KL_OPT_STEP];
    st = kl_cli_rpc(cli, "/kluis.v1.Cluster/ConfirmTime", &request, true,
                    cli->args.text[KL_OPT_NODE], 0,
                    &kluis__v1__cluster_confirm_time_response__descriptor, &response);
    r = response;
    if (st == KLUIS_OK && r->clock != NULL) {
        kl_cli_put(result, "confirmed", kl_cli_date(clocks_ms / 1000));
        kl_cli_put(result, "after", kl_cli_clock_json(r->clock));
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st;
}

int kl_cli_cluster_confirm_time(struct kl_cli *cli)
{
    Kluis__V1__ClusterStatusResponse *status = NULL;
    enum kluis_status st = kl_cli_status_get(cli, cli->args.text[KL_OPT_NODE], 0, &status);
    json_t *result = kl_cli_must(json_object());
    json_t *all = NULL;
    int code;

    if (st == KLUIS_OK && status->clock == NULL) {
        st = KLUIS_PROTOCOL;
    }
    if (st == KLUIS_OK) {
        all = kl_cli_status_json(status);
        kl_cli_put(result, "before", json_incref(json_object_get(all, "clock")));
        kl_cli_put(result, "nodes", json_incref(json_object_get(all, "nodes")));
        st = confirm(cli, status->clock->clocks_ms, result);
    }
    kl_cli_status_free(status);
    if (st != KLUIS_OK) {
        code = kl_cli_failed(cli, st);
    } else {
        if (cli->settings.output == KL_OUTPUT_TABLE && !cli->args.given[KL_OPT_QUERY]) {
            kl_cli_table(cli->world->out, json_object_get(result, "nodes"), COLUMNS(clock_rows));
            (void)fputc('\n', cli->world->out);
        }
        code = kl_cli_print(cli, json_incref(result), COLUMNS(confirm_fields));
    }
    json_decref(all);
    json_decref(result);
    return code;
}

/* ---------------------------------------------------------------- health */

static const struct kl_cli_column health_rows[] = {
    {"ENDPOINT", "endpoint"}, {"STATUS", "status"}, {"REASON", "reason"}};

static bool health_one(struct kl_cli *cli, const char *endpoint, json_t *rows)
{
    static const char *const names[] = {"UNKNOWN", "SERVING", "NOT_SERVING"};
    Kluis__V1__HealthCheckRequest request = KLUIS__V1__HEALTH_CHECK_REQUEST__INIT;
    const Kluis__V1__HealthCheckResponse *r;
    json_t *row = kl_cli_must(json_object());
    void *response = NULL;
    bool serving = false;
    enum kluis_status st;

    st = kl_cli_rpc(cli, "/kluis.v1.Health/Check", &request, false, endpoint, kl_cli_probe_ms(cli),
                    &kluis__v1__health_check_response__descriptor, &response);
    r = response;
    kl_cli_put(row, "endpoint", kl_cli_text(endpoint));
    if (st == KLUIS_OK) {
        unsigned status = (unsigned)r->status;

        serving = r->status == KLUIS__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
        kl_cli_put(row, "status", kl_cli_text(names[status < 3 ? status : 0]));
        kl_cli_put(row, "reason", kl_cli_text(r->reason));
    } else {
        kl_cli_put(row, "status", kl_cli_text(kluis_status_name(st)));
        kl_cli_put(row, "reason", kl_cli_text(kluis_last_error()));
    }
    kl_cli_append(rows, row);
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return serving;
}

int kl_cli_health(struct kl_cli *cli)
{
    json_t *rows = kl_cli_must(json_array());
    bool all = true;
    int code;

    for (size_t i = 0; i < cli->settings.endpoints_n; i++) {
        all &= health_one(cli, cli->settings.endpoints[i], rows);
    }
    code = kl_cli_print(cli, rows, COLUMNS(health_rows));
    return code == KL_CLI_OK && !all ? KL_CLI_UNAVAILABLE : code;
}
