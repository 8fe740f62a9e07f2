/* The cluster's time: what is shown of it, and an operator's word. */
#include "server/handlers/parts.h"

#include <inttypes.h>
#include <stdio.h>

enum kl_status kl_clock_message(const struct kl_clock_view *view, Kluis__V1__ClockStatus **out)
{
    Kluis__V1__ClockStatus *s = kl_pb_new(&kluis__v1__clock_status__descriptor);

    if (s == NULL) {
        return KL_NO_MEMORY;
    }
    s->time_ms = view->time_ms;
    s->wall_ms = view->wall_ms;
    s->clocks_ms = view->clocks_ms;
    s->lead_ms = view->lead_ms;
    s->held = view->held;
    s->heard = (uint32_t)view->heard;
    s->majority = (uint32_t)view->majority;
    *out = s;
    return kl_pb_string(&s->reason, view->why);
}

void kl_clock_of_node(const struct kl_clock_view *view, Kluis__V1__NodeStatus *node)
{
    for (size_t i = 0; i < view->nodes_n; i++) {
        if (view->nodes[i].node_id == node->node_id) {
            node->clock_known = view->nodes[i].known;
            node->clock_ahead_ms = view->nodes[i].ahead_ms;
        }
    }
}

enum kl_status kl_plan_cluster_confirm_time(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ClusterConfirmTimeRequest *req = (const void *)call->request;
    const struct kl_node_view *node = call->node;
    Kluis__V1__ClusterConfirmTimeResponse *r = kl_response(call);
    struct kl_clock_view view;
    enum kl_status st;

    plan->step = KL_STEP_REPLY;
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    (void)snprintf(call->subject, sizeof call->subject, "clocks_ms %" PRIu64, req->clocks_ms);
    st = node->confirm_time(node->ctx, req->clocks_ms, req->step);
    if (st == KL_CHANGED) {
        /* Not CHANGED, which clients try again by themselves: an operator must look again. */
        return kl_call_field(call, KL_INVALID_ARGUMENT, "clocks_ms", "what the clocks say now");
    }
    if (st != KL_OK) {
        return st;
    }
    node->clock(node->ctx, &view);
    (void)snprintf(call->subject, sizeof call->subject, "%s lead_ms %" PRId64,
                   req->step ? "step" : "kept", view.lead_ms);
    return kl_clock_message(&view, &r->clock);
}
