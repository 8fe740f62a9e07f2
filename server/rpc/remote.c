/* A step on another node: a call of the Internal service at the leader of a group. Where the group is
 * not held here one of its members is asked, who names the leader. */
#include "server/rpc/call.h"

#include <stdio.h>

enum { HOPS_MAX = 3 }; /* a node that only knows who leads, a leader that has just changed */

/* Takes status and payload, or the leader's id, out of a packed Reply. */
static enum kl_status open_reply(struct kl_bytes packed, struct kl_buf *payload, uint64_t *leader)
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
    } else if (st == KL_NOT_LEADER && reply->leader != NULL) {
        *leader = reply->leader->node_id;
    }
    kl_pb_wipe_free(message, &memory.allocator);
    return st;
}

/* The answer, or a hint whom to ask instead: that is done on a worker. */
static void came_back(struct kl_work *w, enum kl_status status, struct kl_bytes reply)
{
    uint64_t leader = 0;

    kl_buf_clear(&w->result);
    w->outcome = status == KL_OK ? open_reply(reply, &w->result, &leader) : status;
    if (w->outcome == KL_NOT_LEADER && leader != 0 && leader != w->remote_to &&
        ++w->remote_hops < HOPS_MAX) {
        w->remote_next = leader;
        kl_work_resume(w);
        return;
    }
    if (w->outcome == KL_NOT_LEADER || w->outcome == KL_CLOSED) {
        w->outcome = KL_UNAVAILABLE; /* the caller's own leader is still right */
    }
    kl_buf_wipe(&w->remote);
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

static void fail(struct kl_work *w, enum kl_status status)
{
    came_back(w, status, (struct kl_bytes){NULL, 0});
}

static enum kl_status pack_call(const struct kl_plan *plan, unsigned deadline_ms,
                                struct kl_buf *out)
{
    Kluis__V1__Call call = KLUIS__V1__CALL__INIT;
    uint8_t *p = NULL;
    enum kl_status st;

    call.method = (char *)(uintptr_t)plan->method; /* only packed */
    call.deadline_ms = deadline_ms;
    call.payload = (ProtobufCBinaryData){plan->command.len, plan->command.ptr};
    st = kl_buf_grow(out, kluis__v1__call__get_packed_size(&call), &p);
    if (st == KL_OK) {
        (void)kluis__v1__call__pack(&call, p);
    }
    return st;
}

/* 0 would mean the default. */
static unsigned left_ms(const struct kl_work *w)
{
    uint64_t now_us = kl_now_us(w->d);

    return now_us + 1000 < w->deadline_us ? (unsigned)((w->deadline_us - now_us) / 1000) : 1;
}

/* The call is parked: from here on every path ends in came_back(), once per sending. */
static void send_call(struct kl_work *w, uint64_t to)
{
    struct kl_dispatch *d = w->d;
    struct kl_peers *peers = d->o.peers == NULL ? NULL : *d->o.peers;
    struct kl_buf copy = KL_BUF(KL_CLIENT_REQUEST_MAX + KL_REPLY_ERROR_MAX);
    enum kl_status st;

    w->remote_to = to;
    if (to == d->o.node->node_id) {
        const struct kl_origin origin = {
            .from_node = to, .remote = "self", .reply = local_reply, .arg = w};

        st = kl_buf_put(&copy, w->remote.ptr, w->remote.len);
        if (st != KL_OK) {
            fail(w, st);
            return;
        }
        kl_dispatch_admit(d, &copy, &origin, 1, true);
        return;
    }
    if (to == 0 || peers == NULL) {
        fail(w, KL_UNAVAILABLE);
        return;
    }
    st = kl_peers_call(peers, to, kl_buf_bytes(&w->remote), left_ms(w), peer_reply, w);
    if (st != KL_OK) {
        fail(w, st);
    }
}

void kl_remote_start(struct kl_work *w, struct kl_plan *plan)
{
    const struct kl_node_view *node = w->d->o.node;
    struct kl_group *group = node->group(node->ctx, plan->group);
    uint64_t to = group != NULL ? kl_group_leader(group) : kl_find_member(node, plan->group);
    enum kl_status st;

    kl_buf_clear(&w->remote);
    w->remote_hops = 0;
    st = pack_call(plan, left_ms(w), &w->remote);
    kl_buf_wipe(&plan->command);
    kl_work_park(w);
    if (st != KL_OK) {
        fail(w, st);
    } else {
        send_call(w, to);
    }
}

void kl_remote_again(struct kl_work *w)
{
    uint64_t to = w->remote_next;

    w->remote_next = 0;
    kl_work_park(w);
    send_call(w, to);
}
