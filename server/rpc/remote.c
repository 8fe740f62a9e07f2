/* A step on another node: a call of the Internal service at the leader of a group. */
#include "server/rpc/call.h"

#include <stdio.h>

/* Takes status and payload out of a packed Reply. */
static enum kl_status open_reply(struct kl_bytes packed, struct kl_buf *payload)
{
    struct kl_unpack memory;
    ProtobufCMessage *message = NULL;
    const Kluis__V1__Reply *reply;
    const char *field = NULL;
    enum kl_status st =
        kl_wire_unpack(&kluis__v1__reply__descriptor, packed, &memory, &message, &field);

    if (st != KL_OK) {
        return st == KL_NO_MEMORY ? st : KL_PROTOCOL;
    }
    reply = (const void *)message;
    st = kl_status_from_name(reply->status);
    if (reply->code != kl_status_info(st)->rpc_code) {
        st = KL_PROTOCOL;
    } else if (st == KL_OK) {
        st = kl_buf_put(payload, reply->payload.data, reply->payload.len);
    }
    kl_pb_wipe_free(message, &memory.allocator);
    return st;
}

static void came_back(struct kl_work *w, enum kl_status status, struct kl_bytes reply)
{
    kl_buf_clear(&w->result);
    w->outcome = status == KL_OK ? open_reply(reply, &w->result) : status;
    if (w->outcome == KL_NOT_LEADER || w->outcome == KL_CLOSED) {
        w->outcome = KL_UNAVAILABLE; /* the caller's own leader is still right */
    }
    kl_work_resume(w);
}

static void local_reply(void *arg, uint32_t stream, struct kl_bytes reply)
{
    (void)stream;
    came_back(arg, KL_OK, reply);
}

static void peer_reply(void *arg, enum kl_status status, struct kl_bytes reply)
{
    came_back(arg, status, reply);
}

static enum kl_status pack_call(const struct kl_plan *plan, unsigned left_ms, struct kl_buf *out)
{
    Kluis__V1__Call call = KLUIS__V1__CALL__INIT;
    uint8_t *p = NULL;
    enum kl_status st;

    call.method = (char *)(uintptr_t)plan->method; /* only packed */
    call.deadline_ms = left_ms;
    call.payload = (ProtobufCBinaryData){plan->command.len, plan->command.ptr};
    st = kl_buf_grow(out, kluis__v1__call__get_packed_size(&call), &p);
    if (st == KL_OK) {
        (void)kluis__v1__call__pack(&call, p);
    }
    return st;
}

static void fail(struct kl_work *w, enum kl_status status)
{
    came_back(w, status, (struct kl_bytes){NULL, 0});
}

/* The call is parked: from here on every path ends in came_back(), once. */
static void send_call(struct kl_work *w, uint64_t leader, struct kl_buf *packed, unsigned left_ms)
{
    struct kl_dispatch *d = w->d;
    struct kl_peers *peers = d->o.peers == NULL ? NULL : *d->o.peers;
    enum kl_status st;

    if (leader == d->o.node->node_id) {
        const struct kl_origin origin = {
            .from_node = leader, .remote = "self", .reply = local_reply, .arg = w};

        kl_dispatch_admit(d, packed, &origin, 1, true);
        return;
    }
    if (leader == 0 || peers == NULL) {
        fail(w, KL_UNAVAILABLE);
        return;
    }
    st = kl_peers_call(peers, leader, kl_buf_bytes(packed), left_ms, peer_reply, w);
    if (st != KL_OK) {
        fail(w, st);
    }
}

void kl_remote_start(struct kl_work *w, struct kl_plan *plan)
{
    const struct kl_node_view *node = w->d->o.node;
    struct kl_group *group = node->group(node->ctx, plan->group);
    struct kl_buf packed = KL_BUF(KL_CLIENT_REQUEST_MAX + KL_REPLY_ERROR_MAX);
    uint64_t now_us = kl_now_us(w->d);
    unsigned left_ms = now_us + 1000 < w->deadline_us ? (unsigned)((w->deadline_us - now_us) / 1000)
                                                      : 1; /* 0 would mean the default */
    enum kl_status st = pack_call(plan, left_ms, &packed);

    kl_buf_wipe(&plan->command);
    kl_work_park(w);
    if (st != KL_OK) {
        fail(w, st);
    } else {
        send_call(w, group == NULL ? 0 : kl_group_leader(group), &packed, left_ms);
    }
    kl_buf_wipe(&packed);
}
