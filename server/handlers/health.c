/* Health.Check, as gRPC's health protocol has it: anyone may ask, a known service gets an answer. */
#include "server/handlers/parts.h"

#include <stdio.h>

static bool known_service(const char *service)
{
    size_t n = 0;
    const struct kl_route *routes = kl_routes(&n);
    size_t len = strlen(service);

    if (len == 0) {
        return true;
    }
    for (size_t i = 0; i < n; i++) {
        if (routes[i].right != KL_RIGHT_NODE && strncmp(routes[i].method + 1, service, len) == 0 &&
            routes[i].method[1 + len] == '/') {
            return true;
        }
    }
    return false;
}

/* Empty when the node serves; otherwise why it does not. */
static void why_not(const struct kl_node_view *node, char *out, size_t out_len)
{
    out[0] = 0;
    if (node->sealed(node->ctx) && !node->witness) {
        (void)snprintf(out, out_len, "the node is sealed");
        return;
    }
    for (size_t i = 0; i < node->groups_n; i++) {
        struct kl_group *group = node->group(node->ctx, node->groups[i]);

        if (!node->votes(node->ctx, node->groups[i], node->node_id)) {
            continue;
        }
        if (group == NULL) {
            (void)snprintf(out, out_len, "group %u is not open", (unsigned)node->groups[i]);
            return;
        }
        if (kl_group_leader(group) == 0) {
            (void)snprintf(out, out_len, "group %u has no leader", (unsigned)node->groups[i]);
            return;
        }
    }
}

enum kl_status kl_plan_health_check(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__HealthCheckRequest *req = (const void *)call->request;
    Kluis__V1__HealthCheckResponse *r;
    char reason[64];

    plan->step = KL_STEP_REPLY;
    if (!known_service(req->service)) {
        return kl_call_field(call, KL_NOT_FOUND, "service", "empty or a service of this node");
    }
    r = kl_response(call);
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    why_not(call->node, reason, sizeof reason);
    r->status = reason[0] == 0 ? KLUIS__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                               : KLUIS__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    return kl_pb_string(&r->reason, reason);
}
