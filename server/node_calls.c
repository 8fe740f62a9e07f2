/* Calls that the node itself makes, at the leader of a group: here or on another node. */
#include "server/node_parts.h"

#include "common/alloc.h"

enum { CALL_MS = 5000 };

struct waiting {
    struct kl_node *node;
    uint16_t group;
    kl_finisher_reply_fn done;
    void *arg;
};

/* The leader of a group, as known; of one that is not held here, as its members have said. */
static uint64_t leader_of(struct kl_node *node, uint16_t group)
{
    struct kl_host_uv *host = kl_node_host(node, group);
    uint64_t told = group < KL_GROUPS_MAX ? atomic_load(&node->told_leader[group]) : 0;

    if (host != NULL) {
        return kl_group_leader(kl_host_uv_group(host));
    }
    return told != 0 ? told : kl_find_member(&node->view, group);
}

/* What an answer says about it, for the next call. */
static void learn(struct waiting *w, enum kl_status status, const Kluis__V1__Reply *reply)
{
    bool hinted = status == KL_NOT_LEADER && reply != NULL && reply->leader != NULL;

    if (w->group < KL_GROUPS_MAX && status != KL_OK) {
        atomic_store(&w->node->told_leader[w->group], hinted ? reply->leader->node_id : 0);
    }
}

static void finish(struct waiting *w, enum kl_status status, struct kl_bytes packed)
{
    Kluis__V1__Reply *reply = NULL;
    struct kl_bytes payload = {NULL, 0};

    if (status == KL_OK) {
        reply = kluis__v1__reply__unpack(&kl_pb_allocator, packed.len, packed.ptr);
        status = reply == NULL      ? KL_PROTOCOL
                 : reply->code != 0 ? kl_status_from_name(reply->status)
                                    : KL_OK;
    }
    if (status == KL_OK) {
        payload = kl_bytes_of(reply->payload.data, reply->payload.len);
    }
    learn(w, status, reply);
    w->done(w->arg, status, payload);
    kl_pb_wipe_free((ProtobufCMessage *)reply, &kl_pb_allocator);
    kl_free(w);
}

static void local_reply(void *arg, uint32_t stream, struct kl_bytes packed)
{
    (void)stream;
    finish(arg, KL_OK, packed);
}

static void peer_reply(void *arg, enum kl_status status, struct kl_bytes packed)
{
    finish(arg, status, packed);
}

static enum kl_status pack_call(const char *method, struct kl_bytes request, struct kl_buf *out)
{
    Kluis__V1__Call call = KLUIS__V1__CALL__INIT;
    uint8_t *p = NULL;
    enum kl_status st;

    call.method = (char *)(uintptr_t)method; /* only packed */
    call.deadline_ms = CALL_MS;
    call.payload = (ProtobufCBinaryData){request.len, (uint8_t *)(uintptr_t)request.ptr};
    st = kl_buf_grow(out, kluis__v1__call__get_packed_size(&call), &p);
    if (st == KL_OK) {
        (void)kluis__v1__call__pack(&call, p);
    }
    return st;
}

static enum kl_status call_leader(void *ctx, uint16_t group, const char *method,
                                  struct kl_bytes request, kl_finisher_reply_fn done, void *arg)
{
    struct kl_node *node = ctx;
    uint64_t leader = leader_of(node, group);
    struct kl_buf packed = KL_BUF(KL_CLIENT_REQUEST_MAX);
    struct waiting *w = NULL;
    enum kl_status st = KL_UNAVAILABLE;

    if (leader == 0 || atomic_load(&node->stopping)) {
        goto out;
    }
    st = pack_call(method, request, &packed);
    w = kl_calloc(1, sizeof *w);
    if (st != KL_OK || w == NULL) {
        st = st == KL_OK ? KL_NO_MEMORY : st;
        goto out;
    }
    *w = (struct waiting){node, group, done, arg};
    if (leader == node->view.node_id) {
        const struct kl_origin origin = {
            .from_node = leader, .remote = "self", .reply = local_reply, .arg = w};

        kl_dispatch_call(node->dispatch, &packed, &origin);
        w = NULL; /* the reply has it */
    } else {
        st = kl_peers_call(node->peers, leader, kl_buf_bytes(&packed), CALL_MS, peer_reply, w);
        w = st == KL_OK ? NULL : w;
    }
out:
    kl_free(w);
    kl_buf_wipe(&packed);
    return st;
}

enum kl_status kl_node_finisher_new(struct kl_node *node, uint16_t group, struct kl_finisher **out)
{
    const struct kl_finisher_options o = {
        .group = kl_host_uv_group(kl_node_host(node, group)),
        .clock = kl_node_clock_agreed(node->clock),
        .ctx = node,
        .call = call_leader,
    };

    return kl_finisher_new(&o, out);
}
