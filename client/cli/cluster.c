/*
 * kluis cluster ..., kluis health
 */
#include "client/cli/cli.h"
#include "common/alloc.h"
#include "common/names.h"

#include "rpc.pb-c.h"

#include <string.h>

#define COLUMNS(array) array, sizeof array / sizeof array[0]

enum { PROBE_MS = 3000 }; /* for one node that may be down */

/* A message of the generated code, packed, called, unpacked; *out: free_unpacked. */
static enum kluis_status call(struct kl_cli *cli, const char *method, const void *request,
                              bool write, const char *node, uint32_t timeout_ms,
                              const ProtobufCMessageDescriptor *type, void **out)
{
    size_t n = protobuf_c_message_get_packed_size(request);
    uint8_t *packed = kl_cli_keep(cli, n + 1);
    uint8_t *response = NULL;
    size_t response_len = 0;
    enum kluis_status st;

    (void)protobuf_c_message_pack(request, packed);
    st = kluis_call(cli->client, method, packed, n, write, node, timeout_ms, &response,
                    &response_len);
    if (st == KLUIS_OK) {
        *out = protobuf_c_message_unpack(type, &kl_pb_allocator, response_len, response);
        st = *out == NULL ? KLUIS_PROTOCOL : KLUIS_OK;
    }
    kluis_bytes_free(response, response_len);
    return st;
}

static enum kluis_status get_status(struct kl_cli *cli, const char *node, uint32_t timeout_ms,
                                    Kluis__V1__ClusterStatusResponse **out)
{
    Kluis__V1__ClusterStatusRequest request = KLUIS__V1__CLUSTER_STATUS_REQUEST__INIT;
    void *response = NULL;
    enum kluis_status st = call(cli, "/kluis.v1.Cluster/Status", &request, false, node, timeout_ms,
                                &kluis__v1__cluster_status_response__descriptor, &response);

    *out = response;
    return st;
}

static void free_status(Kluis__V1__ClusterStatusResponse *status)
{
    kl_pb_wipe_free((ProtobufCMessage *)status, &kl_pb_allocator);
}

static json_t *integer(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static void append(json_t *array, json_t *value)
{
    if (json_array_append_new(array, value) != 0) {
        (void)kl_cli_must(NULL);
    }
}

/* ---------------------------------------------------------------- clocks */

/* Seconds are enough for people; the figures are exact. */
static json_t *clock_json(const Kluis__V1__ClockStatus *c)
{
    json_t *out = kl_cli_must(json_object());

    kl_cli_put(out, "time", kl_cli_date(c->time_ms / 1000));
    kl_cli_put(out, "clocks", kl_cli_date(c->clocks_ms / 1000));
    kl_cli_put(out, "ownClock", kl_cli_date(c->wall_ms / 1000));
    kl_cli_put(out, "timeMs", integer(c->time_ms));
    kl_cli_put(out, "clocksMs", integer(c->clocks_ms));
    kl_cli_put(out, "leadMs", integer(c->lead_ms));
    kl_cli_put(out, "purgesHeld", json_boolean(c->held));
    kl_cli_put(out, "reason", kl_cli_text(c->reason));
    kl_cli_put(out, "heard", integer(c->heard));
    kl_cli_put(out, "majority", integer(c->majority));
    return out;
}

static json_t *ahead_ms(const Kluis__V1__NodeStatus *node)
{
    return node->clock_known ? json_integer((json_int_t)node->clock_ahead_ms) : json_null();
}

/* ---------------------------------------------------------------- status */

static const Kluis__V1__NodeStatus *node_by_id(const Kluis__V1__ClusterStatusResponse *s,
                                               uint64_t id)
{
    for (size_t i = 0; i < s->n_nodes; i++) {
        if (s->nodes[i]->node_id == id) {
            return s->nodes[i];
        }
    }
    return NULL;
}

static json_t *node_name(const Kluis__V1__ClusterStatusResponse *s, uint64_t id)
{
    const Kluis__V1__NodeStatus *node = node_by_id(s, id);

    return node == NULL ? json_null() : kl_cli_text(node->name);
}

static json_t *group_json(const Kluis__V1__ClusterStatusResponse *s,
                          const Kluis__V1__GroupStatus *g)
{
    json_t *out = kl_cli_must(json_object());
    json_t *members = kl_cli_must(json_array());

    kl_cli_put(out, "group", integer(g->group));
    kl_cli_put(out, "role", kl_cli_text(g->role));
    kl_cli_put(out, "leaderId", integer(g->leader_id));
    kl_cli_put(out, "leader", node_name(s, g->leader_id));
    kl_cli_put(out, "term", integer(g->term));
    kl_cli_put(out, "lastIndex", integer(g->last_index));
    kl_cli_put(out, "commitIndex", integer(g->commit_index));
    kl_cli_put(out, "appliedIndex", integer(g->applied_index));
    kl_cli_put(out, "snapshotIndex", integer(g->snapshot_index));
    kl_cli_put(out, "lease", json_boolean(g->lease));
    for (size_t i = 0; i < g->n_members; i++) {
        json_t *m = kl_cli_must(json_object());

        kl_cli_put(m, "nodeId", integer(g->members[i]->node_id));
        kl_cli_put(m, "role", kl_cli_text(g->members[i]->role));
        kl_cli_put(m, "matchIndex", integer(g->members[i]->match_index));
        kl_cli_put(m, "address", kl_cli_text(g->members[i]->address));
        append(members, m);
    }
    kl_cli_put(out, "members", members);
    return out;
}

static json_t *status_json(const Kluis__V1__ClusterStatusResponse *s)
{
    json_t *out = kl_cli_must(json_object());
    json_t *nodes = kl_cli_must(json_array());
    json_t *groups = kl_cli_must(json_array());
    json_t *counters = kl_cli_must(json_object());

    kl_cli_put(out, "cluster", kl_cli_text(s->cluster));
    kl_cli_put(out, "geography", kl_cli_text(s->geography));
    kl_cli_put(out, "nodeId", integer(s->node_id));
    kl_cli_put(out, "version", kl_cli_text(s->version));
    kl_cli_put(out, "sealed", json_boolean(s->sealed));
    kl_cli_put(out, "uptimeSeconds", integer(s->uptime_ms / 1000));
    for (size_t i = 0; i < s->n_nodes; i++) {
        json_t *node = kl_cli_must(json_object());

        kl_cli_put(node, "nodeId", integer(s->nodes[i]->node_id));
        kl_cli_put(node, "name", kl_cli_text(s->nodes[i]->name));
        kl_cli_put(node, "region", kl_cli_text(s->nodes[i]->region));
        kl_cli_put(node, "clientAddress", kl_cli_text(s->nodes[i]->client_address));
        kl_cli_put(node, "self", json_boolean(s->nodes[i]->self));
        kl_cli_put(node, "connected", json_boolean(s->nodes[i]->connected));
        kl_cli_put(node, "clockAheadMs", ahead_ms(s->nodes[i]));
        append(nodes, node);
    }
    for (size_t i = 0; i < s->n_groups; i++) {
        append(groups, group_json(s, s->groups[i]));
    }
    for (size_t i = 0; i < s->n_counters; i++) {
        kl_cli_put(counters, s->counters[i]->name, integer(s->counters[i]->value));
    }
    if (s->clock != NULL) {
        kl_cli_put(out, "clock", clock_json(s->clock));
    }
    kl_cli_put(out, "nodes", nodes);
    kl_cli_put(out, "groups", groups);
    kl_cli_put(out, "counters", counters);
    return out;
}

static const struct kl_cli_column status_fields[] = {
    {"Cluster", "cluster"},     {"Geography", "geography"},
    {"Node", "nodeId"},         {"Version", "version"},
    {"Sealed", "sealed"},       {"UptimeSeconds", "uptimeSeconds"},
    {"Time", "clock.time"},     {"PurgesHeld", "clock.purgesHeld"},
    {"Reason", "clock.reason"},
};
static const struct kl_cli_column node_rows[] = {
    {"NODE", "nodeId"},
    {"NAME", "name"},
    {"REGION", "region"},
    {"ADDRESS", "clientAddress"},
    {"SELF", "self"},
    {"CONNECTED", "connected"},
    {"CLOCK_AHEAD_MS", "clockAheadMs"},
};
static const struct kl_cli_column group_rows[] = {
    {"GROUP", "group"},          {"ROLE", "role"},
    {"LEADER", "leader"},        {"TERM", "term"},
    {"LAST", "lastIndex"},       {"COMMITTED", "commitIndex"},
    {"APPLIED", "appliedIndex"}, {"SNAPSHOT", "snapshotIndex"},
    {"LEASE", "lease"},
};
static const struct kl_cli_column member_rows[] = {
    {"GROUP", "group"}, {"NODE", "nodeId"}, {"ROLE", "role"}, {"MATCHED", "matchIndex"}};

/* Members of all groups as rows of one table. */
static json_t *flat_members(const json_t *groups)
{
    json_t *out = kl_cli_must(json_array());

    for (size_t g = 0; g < json_array_size(groups); g++) {
        const json_t *group = json_array_get(groups, g);
        const json_t *members = json_object_get(group, "members");

        for (size_t i = 0; i < json_array_size(members); i++) {
            json_t *row = kl_cli_must(json_copy(json_array_get(members, i)));

            kl_cli_put(row, "group", json_incref(json_object_get(group, "group")));
            append(out, row);
        }
    }
    return out;
}

int kl_cli_cluster_status(struct kl_cli *cli)
{
    FILE *out = cli->world->out;
    Kluis__V1__ClusterStatusResponse *status = NULL;
    enum kluis_status st = get_status(cli, cli->args.text[KL_OPT_NODE], 0, &status);
    json_t *result;
    json_t *members;
    int code;

    if (st != KLUIS_OK) {
        return kl_cli_failed(cli, st);
    }
    result = status_json(status);
    free_status(status);
    if (cli->settings.output != KL_OUTPUT_TABLE || cli->args.given[KL_OPT_QUERY]) {
        return kl_cli_print(cli, result, COLUMNS(status_fields));
    }
    members = flat_members(json_object_get(result, "groups"));
    code = kl_cli_print(cli, json_incref(result), COLUMNS(status_fields));
    (void)fputc('\n', out);
    kl_cli_table(out, json_object_get(result, "nodes"), COLUMNS(node_rows));
    (void)fputc('\n', out);
    kl_cli_table(out, json_object_get(result, "groups"), COLUMNS(group_rows));
    (void)fputc('\n', out);
    kl_cli_table(out, members, COLUMNS(member_rows));
    json_decref(members);
    json_decref(result);
    return code;
}

/* ---------------------------------------------------------------- digest */

static const struct kl_cli_column digest_rows[] = {
    {"GROUP", "group"},     {"NODE", "node"},     {"APPLIED", "appliedIndex"},
    {"RECORDS", "records"}, {"SHA256", "sha256"}, {"ERROR", "error"},
};

static void digest_one(struct kl_cli *cli, json_t *rows, uint32_t group, const char *address)
{
    Kluis__V1__ClusterDigestRequest request = KLUIS__V1__CLUSTER_DIGEST_REQUEST__INIT;
    Kluis__V1__ClusterDigestResponse *r;
    json_t *row = kl_cli_must(json_object());
    void *response = NULL;
    enum kluis_status st;

    request.group = group;
    st = call(cli, "/kluis.v1.Cluster/Digest", &request, false, address, 0,
              &kluis__v1__cluster_digest_response__descriptor, &response);
    r = response;
    kl_cli_put(row, "group", integer(group));
    kl_cli_put(row, "node", kl_cli_text(address));
    if (st == KLUIS_OK) {
        kl_cli_put(row, "appliedIndex", integer(r->applied_index));
        kl_cli_put(row, "records", integer(r->records));
        kl_cli_put(row, "sha256", kl_cli_text(kl_cli_hex(cli, r->sha256.data, r->sha256.len)));
    } else {
        kl_cli_put(row, "error", kl_cli_text(kluis_status_name(st)));
    }
    append(rows, row);
    kl_pb_wipe_free(response, &kl_pb_allocator);
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

static const char *nth_address(const struct kl_cli *cli,
                               const Kluis__V1__ClusterStatusResponse *status, size_t i)
{
    const char *node = cli->args.text[KL_OPT_NODE];

    if (node != NULL) {
        return i == 0 ? node : NULL;
    }
    return i < status->n_nodes ? status->nodes[i]->client_address : NULL;
}

int kl_cli_cluster_digest(struct kl_cli *cli)
{
    Kluis__V1__ClusterStatusResponse *status = NULL;
    enum kluis_status st = get_status(cli, cli->args.text[KL_OPT_NODE], 0, &status);
    json_t *rows;
    const char *address;
    bool same;
    int code;

    if (st != KLUIS_OK) {
        return kl_cli_failed(cli, st);
    }
    rows = kl_cli_must(json_array());
    for (size_t g = 0; g < status->n_groups; g++) {
        uint32_t group = status->groups[g]->group;

        if (cli->args.given[KL_OPT_GROUP] && group != cli->args.number[KL_OPT_GROUP]) {
            continue;
        }
        for (size_t i = 0; (address = nth_address(cli, status, i)) != NULL; i++) {
            digest_one(cli, rows, group, address);
        }
    }
    free_status(status);
    same = agree(rows);
    code = kl_cli_print(cli, rows, COLUMNS(digest_rows));
    if (!same) {
        return kl_cli_complain(
            cli, KL_CLI_INTERNAL,
            "two nodes differ at the same index: keep their data directories and "
            "replace the one that is in the minority");
    }
    return code;
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
    st = get_status(cli, NULL, 0, &status);
    *id = 0;
    for (size_t i = 0; st == KLUIS_OK && i < status->n_nodes; i++) {
        if (strcmp(status->nodes[i]->name, text) == 0) {
            *id = status->nodes[i]->node_id;
        }
    }
    free_status(status);
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
        st = call(cli, "/kluis.v1.Cluster/Transfer", &request, true, NULL, 0,
                  &kluis__v1__cluster_transfer_response__descriptor, &response);
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st == KLUIS_OK ? KL_CLI_OK : kl_cli_failed(cli, st);
}

int kl_cli_cluster_replace_node(struct kl_cli *cli)
{
    Kluis__V1__ClusterReplaceNodeRequest request = KLUIS__V1__CLUSTER_REPLACE_NODE_REQUEST__INIT;
    struct kl_cli_progress *progress = kl_cli_progress_start(cli, "replacing the node");
    void *response = NULL;
    enum kluis_status st;

    request.node_id = cli->args.number[KL_OPT_NODE_ID];
    st = call(cli, "/kluis.v1.Cluster/ReplaceNode", &request, true, NULL, 0,
              &kluis__v1__cluster_replace_node_response__descriptor, &response);
    kl_cli_progress_end(progress);
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
    st = call(cli, "/kluis.v1.Cluster/ConfirmTime", &request, true, cli->args.text[KL_OPT_NODE], 0,
              &kluis__v1__cluster_confirm_time_response__descriptor, &response);
    r = response;
    if (st == KLUIS_OK && r->clock != NULL) {
        kl_cli_put(result, "confirmed", kl_cli_date(clocks_ms / 1000));
        kl_cli_put(result, "after", clock_json(r->clock));
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st;
}

int kl_cli_cluster_confirm_time(struct kl_cli *cli)
{
    Kluis__V1__ClusterStatusResponse *status = NULL;
    enum kluis_status st = get_status(cli, cli->args.text[KL_OPT_NODE], 0, &status);
    json_t *result = kl_cli_must(json_object());
    json_t *all = NULL;
    int code;

    if (st == KLUIS_OK && status->clock == NULL) {
        st = KLUIS_PROTOCOL;
    }
    if (st == KLUIS_OK) {
        all = status_json(status);
        kl_cli_put(result, "before", json_incref(json_object_get(all, "clock")));
        kl_cli_put(result, "nodes", json_incref(json_object_get(all, "nodes")));
        st = confirm(cli, status->clock->clocks_ms, result);
    }
    free_status(status);
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
    uint32_t timeout_ms = cli->settings.timeout_ms;
    json_t *row = kl_cli_must(json_object());
    void *response = NULL;
    bool serving = false;
    enum kluis_status st;

    timeout_ms = timeout_ms == 0 || timeout_ms > PROBE_MS ? PROBE_MS : timeout_ms;
    st = call(cli, "/kluis.v1.Health/Check", &request, false, endpoint, timeout_ms,
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
    append(rows, row);
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
