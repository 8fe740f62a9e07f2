/* The Cluster service: what this node sees of the cluster, and steering it. */
#include "server/handlers/parts.h"

#include <stdio.h>

/* libraft's numbers (raft.h, which this layer does not see; tests/unit/rpc compares them). */
enum {
    STATE_CANDIDATE = 2, /* RAFT_CANDIDATE */
    STATE_LEADER = 3,    /* RAFT_LEADER */
    ROLE_STANDBY = 0,    /* RAFT_STANDBY */
    ROLE_VOTER = 1,      /* RAFT_VOTER */
};

static const char *role_of(int state)
{
    switch (state) {
    case STATE_LEADER:
        return "leader";
    case STATE_CANDIDATE:
        return "candidate";
    default:
        return "follower";
    }
}

static const char *member_role(int role)
{
    switch (role) {
    case ROLE_VOTER:
        return "voter";
    case ROLE_STANDBY:
        return "standby";
    default:
        return "spare";
    }
}

static const char *led_how(uint64_t led)
{
    switch (led) {
    case KL_LED_FIRST:
        return "first";
    case KL_LED_ELECTED:
        return "elected";
    case KL_LED_HANDED:
        return "handed";
    default:
        return "";
    }
}

/* A zeroed array of message pointers; *slot and *n grow as messages are put in. */
static void *pointers(size_t n)
{
    return kl_calloc(n == 0 ? 1 : n, sizeof(void *));
}

/* ---- status ---- */

/* The groups that the node is to hold by the layout. */
static enum kl_status add_held(const struct kl_node_view *node, Kluis__V1__NodeStatus *s)
{
    s->groups = kl_calloc(node->groups_n, sizeof *s->groups);
    if (s->groups == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < node->groups_n; i++) {
        if (node->votes(node->ctx, node->groups[i], s->node_id)) {
            s->groups[s->n_groups++] = node->groups[i];
        }
    }
    return KL_OK;
}

static enum kl_status add_nodes(const struct kl_node_view *node,
                                Kluis__V1__ClusterStatusResponse *r)
{
    const size_t n = node->nodes_n; /* it may grow meanwhile */
    struct kl_clock_view clock;

    node->clock(node->ctx, &clock);
    r->nodes = pointers(n);
    if (r->nodes == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < n; i++) {
        const struct kl_node_info *info = &node->nodes[i];
        const unsigned marks = info->marks;
        Kluis__V1__NodeStatus *s = kl_pb_new(&kluis__v1__node_status__descriptor);
        char address[KL_MEMBER_ADDRESS_LEN];

        if (s == NULL) {
            return KL_NO_MEMORY;
        }
        r->nodes[r->n_nodes++] = s;
        s->node_id = info->node_id;
        s->self = info->node_id == node->node_id;
        s->witness = info->witness;
        s->standby = (marks & KL_NODE_STANDBY) != 0;
        s->drained = (marks & KL_NODE_DRAINED) != 0;
        s->removed = (marks & KL_NODE_REMOVED) != 0;
        s->connected = s->self || node->connected(node->ctx, info->node_id);
        node->member_address(node->ctx, info->node_id, address);
        kl_clock_of_node(&clock, s);
        if (kl_pb_string(&s->name, info->name) != KL_OK ||
            kl_pb_string(&s->region, info->region) != KL_OK ||
            kl_pb_string(&s->client_address, info->client_address) != KL_OK ||
            kl_pb_string(&s->member_address, address) != KL_OK || add_held(node, s) != KL_OK) {
            return KL_NO_MEMORY;
        }
    }
    return kl_clock_message(&clock, &r->clock);
}

static enum kl_status add_members(const struct kl_group_status *from, Kluis__V1__GroupStatus *g)
{
    g->members = pointers(from->members_n);
    if (g->members == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < from->members_n; i++) {
        Kluis__V1__GroupStatus__Member *m = kl_pb_new(&kluis__v1__group_status__member__descriptor);

        if (m == NULL) {
            return KL_NO_MEMORY;
        }
        g->members[g->n_members++] = m;
        m->node_id = from->members[i].node_id;
        m->match_index = from->members[i].match_index;
        m->lag_ms = from->members[i].lag_ms;
        if (kl_pb_string(&m->role, member_role(from->members[i].role)) != KL_OK ||
            kl_pb_string(&m->address, from->members[i].address) != KL_OK) {
            return KL_NO_MEMORY;
        }
    }
    return KL_OK;
}

static enum kl_status add_placement(const struct kl_node_view *node, Kluis__V1__GroupStatus *g)
{
    const struct kl_placement place = node->placement(node->ctx, (uint16_t)g->group);
    enum kl_status st = kl_pb_string(&g->home, place.home);

    return st == KL_OK && place.mirror != NULL ? kl_pb_string(&g->mirror, place.mirror) : st;
}

static enum kl_status add_failover(const struct kl_node_view *node, const struct kl_failover *from,
                                   Kluis__V1__GroupStatus *g)
{
    Kluis__V1__GroupStatus__Failover *f;

    if (from->term == 0) {
        return KL_OK;
    }
    f = kl_pb_new(&kluis__v1__group_status__failover__descriptor);
    if (f == NULL) {
        return KL_NO_MEMORY;
    }
    f->term = from->term;
    f->at_ms = from->at_ms;
    f->gap_ms = from->gap_ms;
    f->from = from->from;
    f->to = node->node_id;
    g->last_failover = f;
    return KL_OK;
}

static enum kl_status add_group(const struct kl_node_view *node, struct kl_group *group,
                                Kluis__V1__ClusterStatusResponse *r)
{
    struct kl_group_status from;
    Kluis__V1__GroupStatus *g = kl_pb_new(&kluis__v1__group_status__descriptor);

    if (g == NULL) {
        return KL_NO_MEMORY;
    }
    r->groups[r->n_groups++] = g;
    kl_group_status(group, &from);
    g->group = from.id;
    g->term = from.term;
    g->leader_id = from.leader_id;
    g->last_index = from.last_index;
    g->commit_index = from.commit_index;
    g->applied_index = from.applied_index;
    g->lease = from.lease;
    g->snapshot_index = from.snapshot_index;
    g->led_since_ms = from.led_since_ms;
    g->led_gap_ms = from.led_gap_ms;
    g->leader_changes = from.leader_changes;
    if (kl_pb_string(&g->role, role_of(from.state)) != KL_OK ||
        kl_pb_string(&g->led_how, led_how(from.led)) != KL_OK || add_placement(node, g) != KL_OK ||
        add_failover(node, &from.failover, g) != KL_OK) {
        return KL_NO_MEMORY;
    }
    return add_members(&from, g);
}

static enum kl_status add_groups(const struct kl_node_view *node,
                                 Kluis__V1__ClusterStatusResponse *r)
{
    r->groups = pointers(node->groups_n);
    if (r->groups == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < node->groups_n; i++) {
        struct kl_group *group = node->group(node->ctx, node->groups[i]);
        enum kl_status st = group == NULL ? KL_OK : add_group(node, group, r);

        if (st != KL_OK) {
            return st;
        }
    }
    return KL_OK;
}

struct counter_list {
    Kluis__V1__ClusterStatusResponse *r;
    size_t max;
    enum kl_status st;
};

static void add_counter(void *arg, const char *name, uint64_t value)
{
    struct counter_list *list = arg;
    Kluis__V1__ClusterStatusResponse__Counter *c;

    if (list->st != KL_OK || list->r->n_counters == list->max) {
        return;
    }
    c = kl_pb_new(&kluis__v1__cluster_status_response__counter__descriptor);
    if (c == NULL) {
        list->st = KL_NO_MEMORY;
        return;
    }
    list->r->counters[list->r->n_counters++] = c;
    c->value = value;
    list->st = kl_pb_string(&c->name, name);
}

static enum kl_status add_counters(const struct kl_node_view *node,
                                   Kluis__V1__ClusterStatusResponse *r)
{
    struct counter_list list = {.r = r, .max = KL_COUNTERS_MAX, .st = KL_OK};

    r->counters = pointers(list.max);
    if (r->counters == NULL) {
        return KL_NO_MEMORY;
    }
    node->counters(node->ctx, add_counter, &list);
    return list.st;
}

enum kl_status kl_plan_cluster_status(struct kl_call *call, struct kl_plan *plan)
{
    const struct kl_node_view *node = call->node;
    Kluis__V1__ClusterStatusResponse *r = kl_response(call);
    enum kl_status st;

    plan->step = KL_STEP_REPLY;
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    r->node_id = node->node_id;
    r->sealed = node->sealed(node->ctx);
    r->uptime_ms = (call->clock->mono_us(call->clock->ctx) - node->started_us) / 1000;
    st = kl_pb_string(&r->cluster, node->cluster);
    if (st == KL_OK) {
        st = kl_pb_string(&r->geography, node->geography);
    }
    if (st == KL_OK) {
        st = kl_pb_string(&r->version, KLUIS_VERSION);
    }
    if (st == KL_OK) {
        st = add_nodes(node, r);
    }
    if (st == KL_OK) {
        st = add_groups(node, r);
    }
    return st == KL_OK ? add_counters(node, r) : st;
}

/* ---- digest ---- */

/* The index that the snapshot itself tells: read->applied may be one behind it, and two nodes that are
 * compared would seem to differ at that index. */
static enum kl_status digest_index(const struct kl_read *read, uint64_t *out)
{
    Kluis__Store__AppliedRecord *applied = NULL;
    enum kl_status st = kl_core_applied(&read->view, &applied);

    *out = st == KL_OK ? applied->index : 0;
    kl_pb_wipe_free((ProtobufCMessage *)applied, &kl_pb_allocator);
    return st == KL_NOT_FOUND ? KL_OK : st; /* nothing was ever applied */
}

enum kl_status kl_plan_cluster_digest(struct kl_call *call, struct kl_plan *plan)
{
    Kluis__V1__ClusterDigestResponse *r = kl_response(call);
    struct kl_read read;
    uint8_t sum[32];
    uint64_t records = 0;
    enum kl_status st;

    plan->step = KL_STEP_REPLY;
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    st = kl_group_read_local(call->group, &read);
    if (st != KL_OK) {
        return st;
    }
    st = digest_index(&read, &r->applied_index);
    if (st == KL_OK) {
        st = kl_kv_digest(read.store.kv, read.store.snap, sum, &records);
    }
    kl_group_read_local_end(call->group, &read);
    r->records = records;
    return st == KL_OK ? kl_pb_copy(&r->sha256, kl_bytes_of(sum, sizeof sum)) : st;
}

/* ---- steering ---- */

static enum kl_status steered(struct kl_call *call, enum kl_status status, struct kl_bytes result,
                              struct kl_plan *plan)
{
    (void)result;
    plan->step = KL_STEP_REPLY;
    if (status != KL_OK) {
        return status;
    }
    return kl_response(call) == NULL ? KL_NO_MEMORY : KL_OK;
}

static enum kl_status check_node(struct kl_call *call, const char *field, uint64_t node_id)
{
    for (size_t i = 0; i < call->node->nodes_n; i++) {
        if (call->node->nodes[i].node_id == node_id) {
            (void)snprintf(call->subject, sizeof call->subject, "node %llu",
                           (unsigned long long)node_id);
            return KL_OK;
        }
    }
    return kl_call_field(call, KL_NOT_FOUND, field, "a node of the configuration");
}

static void start_transfer(struct kl_call *call, kl_group_done_fn done, void *arg)
{
    const Kluis__V1__ClusterTransferRequest *req = (const void *)call->request;

    kl_group_transfer(call->group, req->to_node_id, done, arg);
}

enum kl_status kl_plan_cluster_transfer(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ClusterTransferRequest *req = (const void *)call->request;
    enum kl_status st =
        req->to_node_id == 0 ? KL_OK : check_node(call, "to_node_id", req->to_node_id);

    if (st == KL_OK && req->to_node_id != 0 && req->to_node_id != call->node->node_id &&
        kl_group_leader(call->group) == call->node->node_id &&
        !call->node->connected(call->node->ctx, req->to_node_id)) {
        return kl_call_field(call, KL_QUORUM, "to_node_id", "a node that the leader reaches");
    }
    if (st == KL_OK) {
        *plan = (struct kl_plan){.step = KL_STEP_WAIT, .start = start_transfer, .then = steered};
    }
    return st;
}

static void start_replace(struct kl_call *call, kl_group_done_fn done, void *arg)
{
    const Kluis__V1__ClusterReplaceNodeRequest *req = (const void *)call->request;

    call->node->replace_node(call->node->ctx, req->node_id, done, arg);
}

static enum kl_status replaced(struct kl_call *call, enum kl_status status, struct kl_bytes result,
                               struct kl_plan *plan)
{
    if (status == KL_NOT_FOUND) {
        return kl_call_field(
            call, KL_NOT_FOUND, "node_id",
            "a node that waits with a new data directory: on it, kluisd --join, then start it");
    }
    return steered(call, status, result, plan);
}

enum kl_status kl_plan_cluster_replace_node(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ClusterReplaceNodeRequest *req = (const void *)call->request;
    enum kl_status st = check_node(call, "node_id", req->node_id);

    if (st == KL_OK) {
        *plan = (struct kl_plan){.step = KL_STEP_WAIT, .start = start_replace, .then = replaced};
    }
    return st;
}
