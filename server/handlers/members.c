/* Nodes come, are promoted, drained, and go: what the directory is told. The leaders of the groups see
 * to the rest. */
#include "server/handlers/parts.h"

#include <stdio.h>

static enum kl_status noted(struct kl_call *call, enum kl_status status, struct kl_bytes result,
                            struct kl_plan *plan)
{
    Kluis__Log__CommandResult *r = NULL;
    enum kl_status st = kl_result_open(call, status, result, &r);

    plan->step = KL_STEP_REPLY;
    if (st == KL_OK) {
        kl_pb_wipe_free(&r->base, &kl_pb_allocator);
        st = kl_response(call) == NULL ? KL_NO_MEMORY : KL_OK;
    }
    return st;
}

/* A request that was done already is answered from its result, whatever could be done now. */
static bool repeated(struct kl_call *call, struct kl_plan *plan, enum kl_status *st)
{
    struct kl_buf stored = KL_BUF(KL_RECORD_MAX);

    *st = kl_result_stored(call, &stored);
    if (*st == KL_OK) {
        *st = noted(call, KL_OK, kl_buf_bytes(&stored), plan);
    }
    kl_buf_wipe(&stored);
    return *st != KL_NOT_FOUND;
}

static void note_subject(struct kl_call *call, uint64_t node_id)
{
    (void)snprintf(call->subject, sizeof call->subject, "node %llu", (unsigned long long)node_id);
}

static const struct kl_node_info *find(const struct kl_call *call, uint64_t node_id)
{
    const size_t n = call->node->nodes_n;

    for (size_t i = 0; i < n; i++) {
        if (call->node->nodes[i].node_id == node_id) {
            return &call->node->nodes[i];
        }
    }
    return NULL;
}

/* ---- adding ---- */

static bool address_valid(const char *text)
{
    const char *colon = strrchr(text, ':');
    uint64_t port;

    return colon != NULL && colon != text && strlen(text) <= KL_ADDRESS_MAX &&
           kl_text_check(text, KL_ADDRESS_MAX) == KL_OK &&
           kl_number_parse(colon + 1, 1, 65535, &port) == KL_OK;
}

static enum kl_status check_new(struct kl_call *call, const Kluis__V1__ClusterAddNodeRequest *req)
{
    const size_t n = call->node->nodes_n;
    const char *limit = NULL;

    if (req->node_id == 0 || req->node_id > KL_NODE_ID_MAX) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "node_id", "1 to 65535");
    }
    if (kl_location_check(req->name, &limit) != KL_OK) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "name", limit);
    }
    if (!address_valid(req->client_address)) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "client_address", "host:port");
    }
    if (!address_valid(req->peer_address)) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "peer_address", "host:port");
    }
    for (size_t i = 0; i < n; i++) {
        if (call->node->nodes[i].node_id == req->node_id) {
            return kl_call_field(call, KL_ALREADY_EXISTS, "node_id",
                                 "an id that no node has or ever had");
        }
        if (strcmp(call->node->nodes[i].name, req->name) == 0) {
            return kl_call_field(call, KL_ALREADY_EXISTS, "name", "a name that no node has");
        }
        /* A removed node serves nobody: its machine may come back as another node. */
        if ((call->node->nodes[i].marks & KL_NODE_REMOVED) == 0 &&
            strcmp(call->node->nodes[i].client_address, req->client_address) == 0) {
            return kl_call_field(call, KL_ALREADY_EXISTS, "client_address",
                                 "an address that no node has");
        }
    }
    return n < KL_NODES_MAX ? KL_OK
                            : kl_call_field(call, KL_EXHAUSTED, "node_id", "there are too many");
}

enum kl_status kl_plan_cluster_add_node(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ClusterAddNodeRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__NodeAdd op = KLUIS__LOG__NODE_ADD__INIT;
    Kluis__Store__NodeRecord node = KLUIS__STORE__NODE_RECORD__INIT;
    char why[sizeof call->limit] = "";
    enum kl_status st;

    note_subject(call, req->node_id);
    if (repeated(call, plan, &st)) {
        return st;
    }
    st = check_new(call, req);
    if (st != KL_OK) {
        return st;
    }
    st = call->node->may_add(call->node->ctx, req->region, req->witness, why, sizeof why);
    if (st != KL_OK) {
        return kl_call_field(call, st, "region", why);
    }
    node.node_id = req->node_id;
    node.name = req->name;
    node.region = req->region;
    node.client_address = req->client_address;
    node.peer_address = req->peer_address;
    node.witness = req->witness;
    node.standby = req->standby;
    op.node = &node;
    command.op_case = KLUIS__LOG__COMMAND__OP_NODE_ADD;
    command.node_add = &op;
    return kl_plan_propose(call, &command, false, noted, plan);
}

/* ---- marking ---- */

static enum kl_status propose_mark(struct kl_call *call, uint64_t *ids, size_t n,
                                   Kluis__Log__NodeMark__Mark mark, struct kl_plan *plan)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__NodeMark op = KLUIS__LOG__NODE_MARK__INIT;

    op.node_ids = ids;
    op.n_node_ids = n;
    op.mark = mark;
    command.op_case = KLUIS__LOG__COMMAND__OP_NODE_MARK;
    command.node_mark = &op;
    return kl_plan_propose(call, &command, false, noted, plan);
}

static enum kl_status check_known(struct kl_call *call, uint64_t node_id)
{
    const struct kl_node_info *info = find(call, node_id);

    note_subject(call, node_id);
    return info != NULL && (info->marks & KL_NODE_REMOVED) == 0
               ? KL_OK
               : kl_call_field(call, KL_NOT_FOUND, "node_id", "a node of the cluster");
}

enum kl_status kl_plan_cluster_promote_node(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ClusterPromoteNodeRequest *req = (const void *)call->request;
    uint64_t id = req->node_id;
    enum kl_status st = check_known(call, id);

    return st != KL_OK ? st
                       : propose_mark(call, &id, 1, KLUIS__LOG__NODE_MARK__MARK__PROMOTE, plan);
}

enum kl_status kl_plan_cluster_remove_node(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ClusterRemoveNodeRequest *req = (const void *)call->request;
    char why[sizeof call->limit] = "";
    uint64_t id = req->node_id;
    enum kl_status st;

    note_subject(call, id);
    if (repeated(call, plan, &st)) {
        return st;
    }
    st = check_known(call, id);
    if (st != KL_OK) {
        return st;
    }
    st = call->node->may_leave(call->node->ctx, &id, 1, true, why, sizeof why);
    if (st != KL_OK) {
        return kl_call_field(call, st, "node_id", why);
    }
    return propose_mark(call, &id, 1, KLUIS__LOG__NODE_MARK__MARK__REMOVE, plan);
}

/* The nodes that the request means. */
static enum kl_status drained_ids(struct kl_call *call, const Kluis__V1__ClusterDrainRequest *req,
                                  uint64_t ids[KL_NODES_MAX], size_t *n)
{
    const size_t known = call->node->nodes_n;

    if ((req->node_id == 0) == (req->region[0] == 0)) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "node_id", "a node, or a region");
    }
    if (req->node_id != 0) {
        ids[(*n)++] = req->node_id;
        return check_known(call, req->node_id);
    }
    (void)snprintf(call->subject, sizeof call->subject, "region %.40s", req->region);
    for (size_t i = 0; i < known; i++) {
        const struct kl_node_info *info = &call->node->nodes[i];

        if (strcmp(info->region, req->region) == 0 && (info->marks & KL_NODE_REMOVED) == 0) {
            ids[(*n)++] = info->node_id;
        }
    }
    return *n != 0 ? KL_OK : kl_call_field(call, KL_NOT_FOUND, "region", "a region with nodes");
}

enum kl_status kl_plan_cluster_drain(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ClusterDrainRequest *req = (const void *)call->request;
    char why[sizeof call->limit] = "";
    uint64_t ids[KL_NODES_MAX];
    size_t n = 0;
    enum kl_status st;

    if (repeated(call, plan, &st)) {
        return st;
    }
    st = drained_ids(call, req, ids, &n);
    if (st != KL_OK) {
        return st;
    }
    if (req->undrain) {
        return propose_mark(call, ids, n, KLUIS__LOG__NODE_MARK__MARK__UNDRAIN, plan);
    }
    st = call->node->may_leave(call->node->ctx, ids, n, false, why, sizeof why);
    if (st != KL_OK) {
        return kl_call_field(call, st, req->region[0] != 0 ? "region" : "node_id", why);
    }
    return propose_mark(call, ids, n, KLUIS__LOG__NODE_MARK__MARK__DRAIN, plan);
}
