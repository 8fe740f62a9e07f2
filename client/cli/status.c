/*
 * kluis cluster status: the cluster as all its nodes together know it.
 */
#include "client/cli/cluster.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#define COLUMNS(array) array, sizeof array / sizeof array[0]

/* ---------------------------------------------------------------- asking */

enum kluis_status kl_cli_rpc(struct kl_cli *cli, const char *method, const void *request,
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

uint32_t kl_cli_probe_ms(const struct kl_cli *cli)
{
    uint32_t given = cli->settings.timeout_ms;

    return given == 0 || given > KL_CLI_PROBE_MS ? KL_CLI_PROBE_MS : given;
}

enum kluis_status kl_cli_status_get(struct kl_cli *cli, const char *node, uint32_t timeout_ms,
                                    Kluis__V1__ClusterStatusResponse **out)
{
    Kluis__V1__ClusterStatusRequest request = KLUIS__V1__CLUSTER_STATUS_REQUEST__INIT;
    void *response = NULL;
    enum kluis_status st;

    if (node != NULL && timeout_ms == 0) {
        timeout_ms = kl_cli_probe_ms(cli);
    }
    st = kl_cli_rpc(cli, "/kluis.v1.Cluster/Status", &request, false, node, timeout_ms,
                    &kluis__v1__cluster_status_response__descriptor, &response);
    *out = response;
    return st;
}

bool kl_cli_holds(const Kluis__V1__NodeStatus *node, uint32_t group)
{
    for (size_t i = 0; node != NULL && i < node->n_groups; i++) {
        if (node->groups[i] == group) {
            return true;
        }
    }
    return false;
}

void kl_cli_status_free(Kluis__V1__ClusterStatusResponse *status)
{
    kl_pb_wipe_free((ProtobufCMessage *)status, &kl_pb_allocator);
}

json_t *kl_cli_integer(uint64_t n)
{
    return json_integer((json_int_t)n);
}

void kl_cli_append(json_t *array, json_t *value)
{
    if (json_array_append_new(array, value) != 0) {
        (void)kl_cli_must(NULL);
    }
}

/* ---------------------------------------------------------------- clocks */

/* Seconds are enough for people; the figures are exact. */
json_t *kl_cli_clock_json(const Kluis__V1__ClockStatus *c)
{
    json_t *out = kl_cli_must(json_object());

    kl_cli_put(out, "time", kl_cli_date(c->time_ms / 1000));
    kl_cli_put(out, "clocks", kl_cli_date(c->clocks_ms / 1000));
    kl_cli_put(out, "ownClock", kl_cli_date(c->wall_ms / 1000));
    kl_cli_put(out, "timeMs", kl_cli_integer(c->time_ms));
    kl_cli_put(out, "clocksMs", kl_cli_integer(c->clocks_ms));
    kl_cli_put(out, "leadMs", json_integer((json_int_t)c->lead_ms));
    kl_cli_put(out, "purgesHeld", json_boolean(c->held));
    kl_cli_put(out, "reason", kl_cli_text(c->reason));
    kl_cli_put(out, "heard", kl_cli_integer(c->heard));
    kl_cli_put(out, "majority", kl_cli_integer(c->majority));
    return out;
}

/* ---------------------------------------------------------------- as JSON */

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

static json_t *node_region(const Kluis__V1__ClusterStatusResponse *s, uint64_t id)
{
    const Kluis__V1__NodeStatus *node = node_by_id(s, id);

    return node == NULL ? json_null() : kl_cli_text(node->region);
}

static json_t *member_json(const Kluis__V1__ClusterStatusResponse *s,
                           const Kluis__V1__GroupStatus *g,
                           const Kluis__V1__GroupStatus__Member *member)
{
    json_t *m = kl_cli_must(json_object());
    bool told = strcmp(g->role, "leader") == 0; /* only it knows */
    uint64_t lacks = member->match_index < g->last_index ? g->last_index - member->match_index : 0;

    kl_cli_put(m, "nodeId", kl_cli_integer(member->node_id));
    kl_cli_put(m, "name", node_name(s, member->node_id));
    kl_cli_put(m, "region", node_region(s, member->node_id));
    kl_cli_put(m, "role", kl_cli_text(member->role));
    kl_cli_put(m, "matchIndex", kl_cli_integer(member->match_index));
    kl_cli_put(m, "lagEntries", told ? kl_cli_integer(lacks) : json_null());
    kl_cli_put(m, "lagSeconds", told ? json_real((double)member->lag_ms / 1000) : json_null());
    kl_cli_put(m, "address", kl_cli_text(member->address));
    return m;
}

/* What is known of the last time a leader was lost; null = nothing. */
static json_t *failover_json(const Kluis__V1__ClusterStatusResponse *s,
                             const Kluis__V1__GroupStatus *g)
{
    const Kluis__V1__GroupStatus__Failover *f = g->last_failover;
    json_t *out;

    if (f == NULL) {
        return json_null();
    }
    out = kl_cli_must(json_object());
    kl_cli_put(out, "group", kl_cli_integer(g->group));
    kl_cli_put(out, "at", kl_cli_date(f->at_ms / 1000));
    kl_cli_put(out, "term", kl_cli_integer(f->term));
    kl_cli_put(out, "from", node_name(s, f->from));
    kl_cli_put(out, "fromRegion", node_region(s, f->from));
    kl_cli_put(out, "to", node_name(s, f->to));
    kl_cli_put(out, "toRegion", node_region(s, f->to));
    kl_cli_put(out, "gapMs", kl_cli_integer(f->gap_ms));
    return out;
}

static json_t *group_json(const Kluis__V1__ClusterStatusResponse *s,
                          const Kluis__V1__GroupStatus *g)
{
    json_t *out = kl_cli_must(json_object());
    json_t *members = kl_cli_must(json_array());
    bool told = strcmp(g->role, "leader") == 0;

    kl_cli_put(out, "group", kl_cli_integer(g->group));
    kl_cli_put(out, "home", kl_cli_text(g->home));
    kl_cli_put(out, "mirror", kl_cli_text(g->mirror));
    kl_cli_put(out, "role", kl_cli_text(g->role));
    kl_cli_put(out, "leaderId", kl_cli_integer(g->leader_id));
    kl_cli_put(out, "leader", node_name(s, g->leader_id));
    kl_cli_put(out, "leaderRegion", node_region(s, g->leader_id));
    kl_cli_put(out, "term", kl_cli_integer(g->term));
    kl_cli_put(out, "lastIndex", kl_cli_integer(g->last_index));
    kl_cli_put(out, "commitIndex", kl_cli_integer(g->commit_index));
    kl_cli_put(out, "appliedIndex", kl_cli_integer(g->applied_index));
    kl_cli_put(out, "snapshotIndex", kl_cli_integer(g->snapshot_index));
    kl_cli_put(out, "lease", json_boolean(g->lease));
    kl_cli_put(out, "ledHow", kl_cli_text(g->led_how));
    kl_cli_put(out, "ledSince", kl_cli_date(g->led_since_ms / 1000));
    kl_cli_put(out, "gapMs", told ? kl_cli_integer(g->led_gap_ms) : json_null());
    kl_cli_put(out, "leaderChanges", kl_cli_integer(g->leader_changes));
    kl_cli_put(out, "lastFailover", failover_json(s, g));
    for (size_t i = 0; i < g->n_members; i++) {
        kl_cli_append(members, member_json(s, g, g->members[i]));
    }
    kl_cli_put(out, "members", members);
    return out;
}

static json_t *node_json(const Kluis__V1__NodeStatus *n)
{
    json_t *node = kl_cli_must(json_object());

    kl_cli_put(node, "nodeId", kl_cli_integer(n->node_id));
    kl_cli_put(node, "name", kl_cli_text(n->name));
    kl_cli_put(node, "region", kl_cli_text(n->region));
    kl_cli_put(node, "witness", json_boolean(n->witness));
    kl_cli_put(node, "standby", json_boolean(n->standby));
    kl_cli_put(node, "drained", json_boolean(n->drained));
    kl_cli_put(node, "removed", json_boolean(n->removed));
    kl_cli_put(node, "clientAddress", kl_cli_text(n->client_address));
    kl_cli_put(node, "self", json_boolean(n->self));
    kl_cli_put(node, "connected", json_boolean(n->connected));
    kl_cli_put(node, "clockAheadMs",
               n->clock_known ? json_integer((json_int_t)n->clock_ahead_ms) : json_null());
    return node;
}

json_t *kl_cli_status_json(const Kluis__V1__ClusterStatusResponse *s)
{
    json_t *out = kl_cli_must(json_object());
    json_t *nodes = kl_cli_must(json_array());
    json_t *groups = kl_cli_must(json_array());
    json_t *counters = kl_cli_must(json_object());

    kl_cli_put(out, "cluster", kl_cli_text(s->cluster));
    kl_cli_put(out, "geography", kl_cli_text(s->geography));
    kl_cli_put(out, "nodeId", kl_cli_integer(s->node_id));
    kl_cli_put(out, "version", kl_cli_text(s->version));
    kl_cli_put(out, "sealed", json_boolean(s->sealed));
    kl_cli_put(out, "uptimeSeconds", kl_cli_integer(s->uptime_ms / 1000));
    for (size_t i = 0; i < s->n_nodes; i++) {
        kl_cli_append(nodes, node_json(s->nodes[i]));
    }
    for (size_t i = 0; i < s->n_groups; i++) {
        kl_cli_append(groups, group_json(s, s->groups[i]));
    }
    for (size_t i = 0; i < s->n_counters; i++) {
        kl_cli_put(counters, s->counters[i]->name, kl_cli_integer(s->counters[i]->value));
    }
    if (s->clock != NULL) {
        kl_cli_put(out, "clock", kl_cli_clock_json(s->clock));
    }
    kl_cli_put(out, "nodes", nodes);
    kl_cli_put(out, "groups", groups);
    kl_cli_put(out, "counters", counters);
    return out;
}

/* ---------------------------------------------------------------- of all nodes */

static json_int_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static bool leads(const json_t *group)
{
    const char *role = json_string_value(json_object_get(group, "role"));

    return role != NULL && strcmp(role, "leader") == 0;
}

/* Does `a` know better how the group stands? The leader of the latest term does, then who has heard of
 * the latest term. */
static bool better(const json_t *a, const json_t *b)
{
    if (number_of(a, "term") != number_of(b, "term")) {
        return number_of(a, "term") > number_of(b, "term");
    }
    return leads(a) && !leads(b);
}

/* The later failover of two answers about a group, into both: either may be kept. */
static void merge_failovers(json_t *a, json_t *b)
{
    json_t *in_a = json_object_get(a, "lastFailover");
    json_t *in_b = json_object_get(b, "lastFailover");
    json_t *later = number_of(in_a, "term") >= number_of(in_b, "term") ? in_a : in_b;

    kl_cli_put(a, "lastFailover", json_incref(later));
    kl_cli_put(b, "lastFailover", json_incref(later));
}

/* Takes over from `other` what it knows better, and the groups that were not known at all. */
static void merge_groups(json_t *groups, const json_t *other)
{
    for (size_t k = 0; k < json_array_size(other); k++) {
        json_t *from = json_array_get(other, k);
        size_t i = 0;

        while (i < json_array_size(groups) &&
               number_of(json_array_get(groups, i), "group") < number_of(from, "group")) {
            i++;
        }
        if (i == json_array_size(groups) ||
            number_of(json_array_get(groups, i), "group") != number_of(from, "group")) {
            if (json_array_insert(groups, i, from) != 0) {
                (void)kl_cli_must(NULL);
            }
        } else {
            merge_failovers(json_array_get(groups, i), from);
            if (better(from, json_array_get(groups, i)) && json_array_set(groups, i, from) != 0) {
                (void)kl_cli_must(NULL);
            }
        }
    }
}

/* What one node says of itself, into its row. */
static void note_answer(json_t *row, const char *state, const Kluis__V1__ClusterStatusResponse *s)
{
    kl_cli_put(row, "state", kl_cli_text(state));
    kl_cli_put(row, "version", s == NULL ? json_null() : kl_cli_text(s->version));
    kl_cli_put(row, "uptimeSeconds", s == NULL ? json_null() : kl_cli_integer(s->uptime_ms / 1000));
}

static const char *state_of(const Kluis__V1__ClusterStatusResponse *s,
                            const Kluis__V1__NodeStatus *n)
{
    return n->removed   ? "removed"
           : n->drained ? "drained"
           : n->standby ? "standby"
           : n->witness ? "witness"
           : s->sealed  ? "sealed"
                        : "up";
}

/* Every node that the first one reaches is asked, or with --node just that one. */
static void ask_others(struct kl_cli *cli, json_t *result,
                       const Kluis__V1__ClusterStatusResponse *first)
{
    json_t *rows = json_object_get(result, "nodes");

    for (size_t i = 0; i < first->n_nodes; i++) {
        const Kluis__V1__NodeStatus *n = first->nodes[i];
        json_t *row = json_array_get(rows, i);
        Kluis__V1__ClusterStatusResponse *s = NULL;

        if (n->self) {
            note_answer(row, state_of(first, n), first);
        } else if (cli->args.given[KL_OPT_NODE]) {
            note_answer(row, n->connected ? "connected" : "unreachable", NULL);
        } else if (!n->connected ||
                   kl_cli_status_get(cli, n->client_address, KL_CLI_PROBE_MS, &s) != KLUIS_OK) {
            note_answer(row, n->removed ? "removed" : "unreachable", NULL);
        } else {
            json_t *other = kl_cli_status_json(s);

            note_answer(row, state_of(s, n), s);
            merge_groups(json_object_get(result, "groups"), json_object_get(other, "groups"));
            json_decref(other);
            kl_cli_status_free(s);
        }
    }
}

/* ---------------------------------------------------------------- for people */

static const struct kl_cli_column status_fields[] = {
    {"Cluster", "cluster"},     {"Geography", "geography"}, {"Asked", "nodeId"},
    {"Version", "version"},     {"Time", "clock.time"},     {"PurgesHeld", "clock.purgesHeld"},
    {"Reason", "clock.reason"},
};
static const struct kl_cli_column node_rows[] = {
    {"NODE", "nodeId"},
    {"NAME", "name"},
    {"REGION", "region"},
    {"STATE", "state"},
    {"ADDRESS", "clientAddress"},
    {"VERSION", "version"},
    {"UPTIME_S", "uptimeSeconds"},
    {"CLOCK_AHEAD_MS", "clockAheadMs"},
};
static const struct kl_cli_column group_rows[] = {
    {"GROUP", "group"},
    {"HOME", "home"},
    {"MIRROR", "mirror"},
    {"LEADER", "leader"},
    {"IN", "leaderRegion"},
    {"TERM", "term"},
    {"COMMITTED", "commitIndex"},
    {"APPLIED", "appliedIndex"},
    {"LEASE", "lease"},
    {"SINCE", "ledSince"},
    {"HOW", "ledHow"},
    {"GAP_MS", "gapMs"},
};
static const struct kl_cli_column failover_rows[] = {
    {"GROUP", "group"}, {"LAST_FAILOVER", "at"}, {"FROM", "from"},    {"IN", "fromRegion"},
    {"TO", "to"},       {"IN", "toRegion"},      {"GAP_MS", "gapMs"}, {"TERM", "term"},
};
static const struct kl_cli_column member_rows[] = {
    {"GROUP", "group"},       {"NODE", "nodeId"},         {"NAME", "name"},
    {"REGION", "region"},     {"ROLE", "role"},           {"MATCHED", "matchIndex"},
    {"BEHIND", "lagEntries"}, {"BEHIND_S", "lagSeconds"},
};

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
            kl_cli_append(out, row);
        }
    }
    return out;
}

/* Of the groups that had one. */
static json_t *failovers(const json_t *groups)
{
    json_t *out = kl_cli_must(json_array());

    for (size_t g = 0; g < json_array_size(groups); g++) {
        json_t *last = json_object_get(json_array_get(groups, g), "lastFailover");

        if (json_is_object(last)) {
            kl_cli_append(out, json_incref(last));
        }
    }
    return out;
}

static int print_tables(struct kl_cli *cli, json_t *result)
{
    FILE *out = cli->world->out;
    json_t *members = flat_members(json_object_get(result, "groups"));
    json_t *lost = failovers(json_object_get(result, "groups"));
    int code = kl_cli_print(cli, json_incref(result), COLUMNS(status_fields));

    (void)fputc('\n', out);
    kl_cli_table(out, json_object_get(result, "nodes"), COLUMNS(node_rows));
    (void)fputc('\n', out);
    kl_cli_table(out, json_object_get(result, "groups"), COLUMNS(group_rows));
    (void)fputc('\n', out);
    kl_cli_table(out, members, COLUMNS(member_rows));
    if (json_array_size(lost) != 0) {
        (void)fputc('\n', out);
        kl_cli_table(out, lost, COLUMNS(failover_rows));
    }
    json_decref(lost);
    json_decref(members);
    return code;
}

static int show(struct kl_cli *cli)
{
    Kluis__V1__ClusterStatusResponse *status = NULL;
    enum kluis_status st = kl_cli_status_get(cli, cli->args.text[KL_OPT_NODE], 0, &status);
    json_t *result;
    int code;

    if (st != KLUIS_OK) {
        return kl_cli_failed(cli, st);
    }
    result = kl_cli_status_json(status);
    ask_others(cli, result, status);
    kl_cli_status_free(status);
    if (cli->settings.output != KL_OUTPUT_TABLE || cli->args.given[KL_OPT_QUERY]) {
        return kl_cli_print(cli, result, COLUMNS(status_fields));
    }
    code = print_tables(cli, result);
    json_decref(result);
    return code;
}

/* Again and again, until it is interrupted or nobody reads. A cluster that does not answer is no reason
 * to end: that is when people watch. */
static int watch(struct kl_cli *cli)
{
    FILE *out = cli->world->out;
    bool terminal = fileno(out) >= 0 && isatty(fileno(out)) != 0;
    const struct timespec pause = {(time_t)cli->args.number[KL_OPT_WATCH], 0};
    int code = KL_CLI_OK;

    while (ferror(out) == 0) {
        if (terminal) {
            (void)fputs("\033[H\033[2J", out);
        }
        code = show(cli);
        (void)fputs(terminal ? "" : "\n", out);
        if (fflush(out) != 0 || nanosleep(&pause, NULL) != 0) {
            break;
        }
    }
    return code;
}

int kl_cli_cluster_status(struct kl_cli *cli)
{
    return cli->args.given[KL_OPT_WATCH] ? watch(cli) : show(cli);
}
