/* One connection between two nodes: what arrives on it, and its end. */
#include "server/raft/peers_internal.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

struct kl_peer_link *kl_peer_link_new(struct kl_peers *peers)
{
    struct kl_peer_link *link = kl_calloc(1, sizeof *link);

    if (link == NULL) {
        return NULL;
    }
    link->peers = peers;
    if (kl_assembler_new(KL_MESSAGE_MAX, KL_PEER_STREAMS_MAX, &link->assembler) != KL_OK) {
        kl_free(link);
        return NULL;
    }
    return link;
}

void kl_peer_link_free(struct kl_peer_link *link)
{
    if (link != NULL) {
        kl_conn_release(link->conn);
        kl_assembler_free(link->assembler);
        kl_free(link);
    }
}

void *kl_peer_link_accept(void *user, struct kl_conn *conn)
{
    struct kl_peers *peers = user;
    struct kl_peer_link *link = kl_peer_link_new(peers);

    if (link == NULL) {
        return NULL;
    }
    nng_mtx_lock(peers->lock);
    if (peers->stopping) {
        nng_mtx_unlock(peers->lock);
        kl_peer_link_free(link);
        return NULL;
    }
    link->conn = conn;
    kl_conn_retain(conn);
    link->next = peers->links;
    peers->links = link;
    peers->links_n++;
    nng_mtx_unlock(peers->lock);
    return link;
}

static void on_open(void *user, struct kl_conn *conn, uint64_t node)
{
    struct kl_peer_link *link = user;
    struct kl_peers *peers = link->peers;
    bool hello = false;

    nng_mtx_lock(peers->lock);
    link->node = node;
    link->open = true;
    link->opened_ms = link->heard_ms = link->pinged_ms = kl_peers_now_ms(peers);
    hello = link->dialed;
    nng_mtx_unlock(peers->lock);
    if (node == 0) {
        link->ended = true;
        kl_log(KL_LOG_WARN, "raft", "no node of this cluster by its certificate from=%s",
               kl_conn_remote(conn));
        kl_conn_close(conn);
    } else if (hello && kl_peer_send_hello(link, node) != KL_OK) {
        kl_conn_close(conn);
    }
}

/* ---- what arrives ---- */

static void break_off(struct kl_peer_link *link, const char *why)
{
    link->ended = true;
    kl_log(KL_LOG_WARN, "raft", "closing a node's connection node=%llu from=%s why=%s",
           (unsigned long long)link->node, kl_conn_remote(link->conn), why);
    kl_conn_close(link->conn);
}

static void first_frame(struct kl_peer_link *link, const struct kl_frame *frame)
{
    bool single = (frame->flags & KL_FRAME_MORE) == 0;

    if (frame->type == KL_FRAME_PEER && single) {
        kl_peer_greet(link, frame->body);
    } else if (frame->type == KL_FRAME_REPLY && single && frame->stream == 0) {
        kl_peer_refused(link, frame->body);
    } else {
        break_off(link, "it began without a greeting");
    }
}

static void message(struct kl_peer_link *link, const struct kl_frame *frame, struct kl_bytes body)
{
    const struct kl_peers_options *options = &link->peers->options;

    switch (frame->type) {
    case KL_FRAME_PEER:
        options->on_message(options->ctx, link->node, frame->group, body);
        break;
    case KL_FRAME_REPLY:
        if (frame->stream == 0) {
            kl_peer_refused(link, body);
        } else {
            kl_peer_reply(link, frame->stream, body);
        }
        break;
    case KL_FRAME_REQUEST:
        if (link->lane != KL_LANE_CONTROL || options->on_request == NULL) {
            break_off(link, "a request on the bulk connection");
        } else {
            options->on_request(options->ctx, link->node, link->conn, frame->stream, body);
        }
        break;
    case KL_FRAME_CANCEL:
    case KL_FRAME_PING:
    case KL_FRAME_PONG:
    case KL_FRAME_GOAWAY:
        break;
    }
}

static void whole_frame(struct kl_peer_link *link, const struct kl_frame *frame)
{
    struct kl_frame pong = {.type = KL_FRAME_PONG, .stream = frame->stream};
    struct kl_buf whole = KL_BUF(0);
    enum kl_status st;

    switch (frame->type) {
    case KL_FRAME_PING:
        (void)!kl_conn_send(link->conn, &pong);
        return;
    case KL_FRAME_PONG:
        kl_peer_pong(link, frame->stream);
        return;
    case KL_FRAME_CANCEL: /* a node's calls are short: they run to their end */
    case KL_FRAME_GOAWAY:
        return;
    case KL_FRAME_REQUEST:
    case KL_FRAME_REPLY:
    case KL_FRAME_PEER:
        break;
    }
    st = kl_assembler_add(link->assembler, frame, &whole);
    if (st == KL_OK) {
        message(link, frame, whole.ptr == NULL ? frame->body : kl_buf_bytes(&whole));
        kl_buf_wipe(&whole);
    } else if (st != KL_NOT_FOUND) {
        break_off(link, kl_status_info(st)->text);
    }
}

static void on_frames(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct kl_peer_link *link = user;

    (void)conn;
    nng_mtx_lock(link->peers->lock);
    link->heard_ms = kl_peers_now_ms(link->peers);
    nng_mtx_unlock(link->peers->lock);
    for (size_t i = 0; i < n && !link->ended; i++) {
        if (link->greeted) {
            whole_frame(link, &frames[i]);
        } else {
            first_frame(link, &frames[i]);
        }
    }
}

/* ---- its end ---- */

static void unlink_locked(struct kl_peer_link *link)
{
    struct kl_peer_link **at = &link->peers->links;

    while (*at != link) {
        at = &(*at)->next;
    }
    *at = link->next;
}

/* The next dial of the lane: twice the last delay, less up to half of it by chance, so that nodes
 * that lost each other at once do not come back at once. */
static void schedule_dial_locked(struct kl_peers *peers, struct kl_peer_lane *lane)
{
    uint64_t backoff = lane->backoff_ms * 2;

    backoff = backoff < KL_REDIAL_MIN_MS ? KL_REDIAL_MIN_MS : backoff;
    backoff = backoff > KL_REDIAL_MAX_MS ? KL_REDIAL_MAX_MS : backoff;
    lane->backoff_ms = backoff;
    peers->random ^= peers->random >> 12;
    peers->random ^= peers->random << 25;
    peers->random ^= peers->random >> 27;
    lane->next_dial_ms = kl_peers_now_ms(peers) + backoff -
                         (peers->random * 2685821657736338717ULL >> 33) % (backoff / 2);
}

static void log_close(const struct kl_peer_link *link, bool first, enum kl_status status,
                      const char *reason)
{
    enum kl_log_level level = KL_LOG_DEBUG;

    if (link->greeted) {
        level = KL_LOG_INFO;
    } else if (status == KL_UNAUTHENTICATED && first) {
        level = KL_LOG_WARN; /* dialling goes on for ever; the first lines tell it all */
    }
    kl_log(level, "raft",
           "connection to a node closed node=%llu remote=%s lane=%d status=%s why=%s",
           (unsigned long long)link->node, kl_conn_remote(link->conn), (int)link->lane,
           kl_status_name(status), reason);
}

static void on_close(void *user, struct kl_conn *conn, enum kl_status status, const char *reason)
{
    struct kl_peer_link *link = user;
    struct kl_peers *peers = link->peers;
    bool first = true;

    (void)conn;
    nng_mtx_lock(peers->lock);
    if (link->live) {
        link->live = false;
        link->peer->lanes[link->lane].live = NULL;
    }
    unlink_locked(link);
    if (link->dialed) {
        struct kl_peer_lane *lane = &link->peer->lanes[link->lane];

        lane->dialing = NULL;
        first = lane->backoff_ms < KL_REDIAL_MAX_MS;
        schedule_dial_locked(peers, lane);
    }
    nng_mtx_unlock(peers->lock);

    log_close(link, first, status, reason);
    kl_peer_fail_calls(peers, link);
    kl_peer_link_free(link);

    nng_mtx_lock(peers->lock); /* last: kl_peers_free waits for this */
    peers->links_n--;
    nng_cv_wake(peers->cv);
    nng_mtx_unlock(peers->lock);
}

const struct kl_conn_handler kl_peer_link_handler = {on_open, on_frames, on_close};
