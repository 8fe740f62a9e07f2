/* Discovery.Nodes: the nodes of the cluster, for clients. */
#include "server/handlers/parts.h"

static enum kl_status add(const struct kl_node_info *from, Kluis__V1__DiscoveryNodesResponse *r)
{
    Kluis__V1__DiscoveryNode *n = kl_pb_new(&kluis__v1__discovery_node__descriptor);
    enum kl_status st;

    if (n == NULL) {
        return KL_NO_MEMORY;
    }
    r->nodes[r->n_nodes++] = n;
    n->node_id = from->node_id;
    n->witness = from->witness;
    st = kl_pb_string(&n->region, from->region);
    return st == KL_OK ? kl_pb_string(&n->client_address, from->client_address) : st;
}

enum kl_status kl_plan_discovery_nodes(struct kl_call *call, struct kl_plan *plan)
{
    const struct kl_node_view *node = call->node;
    Kluis__V1__DiscoveryNodesResponse *r =
        kl_pb_new(&kluis__v1__discovery_nodes_response__descriptor);
    const size_t n = atomic_load(&node->nodes_n); /* it may grow meanwhile */
    enum kl_status st = KL_OK;

    (void)plan;
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    call->response = &r->base;
    r->nodes = kl_calloc(n, sizeof(Kluis__V1__DiscoveryNode *));
    if (r->nodes == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < n && st == KL_OK; i++) {
        if ((atomic_load(&node->nodes[i].marks) & KL_NODE_REMOVED) == 0) {
            st = add(&node->nodes[i], r);
        }
    }
    return st;
}
