/* Calls to other nodes: a REQUEST frame on the control lane, its REPLY, or why there is none. */
#include "server/raft/peers_internal.h"

#include "common/alloc.h"

static struct kl_peer_call **bucket(struct kl_peers *peers, uint32_t stream)
{
    return &peers->calls[stream % KL_CALL_BUCKETS];
}

/* Where the call hangs, or where NULL ends its bucket. */
static struct kl_peer_call **find_call(struct kl_peers *peers, uint32_t stream)
{
    struct kl_peer_call **at = bucket(peers, stream);

    while (*at != NULL && (*at)->stream != stream) {
        at = &(*at)->next;
    }
    return at;
}

static uint32_t free_stream(struct kl_peers *peers)
{
    do {
        peers->next_stream++;
    } while (peers->next_stream == 0 || *find_call(peers, peers->next_stream) != NULL);
    return peers->next_stream;
}

/* Takes the call with that stream id out, if it goes over this link. */
static struct kl_peer_call *take(struct kl_peers *peers, const struct kl_peer_link *link,
                                 uint32_t stream)
{
    struct kl_peer_call **at;
    struct kl_peer_call *call;

    nng_mtx_lock(peers->lock);
    at = find_call(peers, stream);
    call = *at;
    if (call != NULL && call->link == link) {
        *at = call->next;
        peers->calls_n--;
    } else {
        call = NULL;
    }
    nng_mtx_unlock(peers->lock);
    return call;
}

enum kl_status kl_peers_call(struct kl_peers *peers, uint64_t to_node, struct kl_bytes call,
                             unsigned timeout_ms, kl_peer_reply_fn fn, void *arg)
{
    struct kl_peer_call *c = kl_calloc(1, sizeof *c);
    struct kl_frame frame = {.type = KL_FRAME_REQUEST, .body = call};
    struct kl_peer *peer;
    struct kl_peer_link *link = NULL;
    struct kl_conn *conn;
    enum kl_status st = KL_OK;

    if (c == NULL) {
        return KL_NO_MEMORY;
    }
    nng_mtx_lock(peers->lock);
    peer = kl_peers_find(peers, to_node);
    link = peer == NULL ? NULL : peer->lanes[KL_LANE_CONTROL].live;
    if (link == NULL) {
        st = KL_CLOSED;
    } else if (peers->calls_n >= KL_CALLS_PER_CONN_MAX) {
        st = KL_EXHAUSTED;
    }
    if (st != KL_OK) {
        nng_mtx_unlock(peers->lock);
        kl_free(c);
        return st;
    }
    frame.stream = free_stream(peers);
    *c = (struct kl_peer_call){.next = *bucket(peers, frame.stream),
                               .link = link,
                               .stream = frame.stream,
                               .due_ms = kl_peers_now_ms(peers) + timeout_ms,
                               .fn = fn,
                               .arg = arg};
    *bucket(peers, frame.stream) = c;
    if (peers->calls_n++ == 0) {
        nng_cv_wake(peers->cv);
    }
    conn = link->conn;
    kl_conn_retain(conn);
    nng_mtx_unlock(peers->lock);

    st = kl_conn_send(conn, &frame);
    kl_conn_release(conn);
    if (st != KL_OK) {
        c = take(peers, link, frame.stream);
        st = c == NULL ? KL_OK : st; /* gone: fn has been told that the link was lost */
        kl_free(c);
    }
    return st;
}

void kl_peer_reply(struct kl_peer_link *link, uint32_t stream, struct kl_bytes reply)
{
    struct kl_peer_call *call = take(link->peers, link, stream);

    if (call != NULL) { /* otherwise it came too late */
        call->fn(call->arg, KL_OK, reply);
        kl_free(call);
    }
}

/* Takes out every call that goes over `link` (not NULL) or is due. */
static struct kl_peer_call *take_all_locked(struct kl_peers *peers, const struct kl_peer_link *link,
                                            uint64_t now_ms)
{
    struct kl_peer_call *out = NULL;

    for (size_t i = 0; i < KL_CALL_BUCKETS && peers->calls_n != 0; i++) {
        struct kl_peer_call **at = &peers->calls[i];

        while (*at != NULL) {
            struct kl_peer_call *call = *at;

            if (link != NULL ? call->link != link : call->due_ms > now_ms) {
                at = &call->next;
                continue;
            }
            *at = call->next;
            peers->calls_n--;
            call->next = out;
            out = call;
            if (link == NULL) { /* the other side need not go on */
                struct kl_frame cancel = {.type = KL_FRAME_CANCEL, .stream = call->stream};

                (void)!kl_conn_send(call->link->conn, &cancel);
            }
        }
    }
    return out;
}

static void end_all(struct kl_peer_call *calls, enum kl_status status)
{
    while (calls != NULL) {
        struct kl_peer_call *next = calls->next;

        calls->fn(calls->arg, status, kl_bytes_of(NULL, 0));
        kl_free(calls);
        calls = next;
    }
}

void kl_peer_fail_calls(struct kl_peers *peers, const struct kl_peer_link *link)
{
    struct kl_peer_call *calls;

    nng_mtx_lock(peers->lock);
    calls = take_all_locked(peers, link, 0);
    nng_mtx_unlock(peers->lock);
    end_all(calls, KL_CLOSED);
}

void kl_peer_expire_calls(struct kl_peers *peers, uint64_t now_ms)
{
    struct kl_peer_call *calls;

    nng_mtx_lock(peers->lock);
    calls = take_all_locked(peers, NULL, now_ms);
    nng_mtx_unlock(peers->lock);
    end_all(calls, KL_TIMEOUT);
}
