/*
 * The table of nodes and the thread that looks after it: dials, reports, pings, and ends calls
 * whose time is over. Links are in peers_link.c, greetings in peers_hello.c, calls in peers_calls.c.
 */
#include "server/raft/peers_internal.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

#include <stdio.h>

enum { TICK_MS = 50, IDLE_TICK_MS = 250, STOPPED_MS = 2000 };

uint64_t kl_peers_now_ms(const struct kl_peers *peers)
{
    return peers->options.clock->mono_us(peers->options.clock->ctx) / 1000;
}

struct kl_peer *kl_peers_find(struct kl_peers *peers, uint64_t node)
{
    for (size_t i = 0; i < peers->peers_n; i++) {
        if (peers->peers[i].node == node) {
            return &peers->peers[i];
        }
    }
    return NULL;
}

/* A node of whose address nothing is known has proven itself by its certificate and check_uuid: it was
 * added while we ran, and dials us. */
struct kl_peer *kl_peers_add(struct kl_peers *peers, uint64_t node)
{
    struct kl_peer *peer = kl_peers_find(peers, node);

    if (peer == NULL && peers->peers_n < KL_NODES_MAX) {
        peer = &peers->peers[peers->peers_n++];
        *peer = (struct kl_peer){.node = node};
    }
    return peer;
}

enum kl_status kl_peers_add_node(struct kl_peers *peers, uint64_t node, const char *address)
{
    char *copy = kl_strdup(address);
    struct kl_peer *peer;
    enum kl_status st = KL_OK;

    if (copy == NULL) {
        return KL_NO_MEMORY;
    }
    nng_mtx_lock(peers->lock);
    peer = kl_peers_add(peers, node);
    if (peer == NULL) {
        st = KL_EXHAUSTED;
    } else if (peer->address == NULL) {
        peer->address = copy;
        copy = NULL;
        nng_cv_wake(peers->cv);
    }
    nng_mtx_unlock(peers->lock);
    kl_free(copy);
    return st;
}

void kl_peers_drop_node(struct kl_peers *peers, uint64_t node)
{
    struct kl_peer *peer;
    char *address = NULL;

    nng_mtx_lock(peers->lock);
    peer = kl_peers_find(peers, node);
    if (peer != NULL) {
        address = peer->address;
        peer->address = NULL;
    }
    for (struct kl_peer_link *l = peers->links; peer != NULL && l != NULL; l = l->next) {
        if (l->peer == peer) {
            kl_conn_close(l->conn);
        }
    }
    nng_mtx_unlock(peers->lock);
    kl_free(address);
}

/* ---- sending ---- */

/* The lane's connection, retained, or NULL. */
static struct kl_conn *live_conn(struct kl_peers *peers, uint64_t node, enum kl_lane lane)
{
    struct kl_peer *peer;
    struct kl_conn *conn = NULL;

    nng_mtx_lock(peers->lock);
    peer = kl_peers_find(peers, node);
    if (peer != NULL && peer->lanes[lane].live != NULL) {
        conn = peer->lanes[lane].live->conn;
        kl_conn_retain(conn);
    }
    nng_mtx_unlock(peers->lock);
    return conn;
}

void kl_peers_send(struct kl_peers *peers, uint64_t to_node, uint16_t group, enum kl_lane lane,
                   struct kl_bytes message)
{
    struct kl_frame frame = {.type = KL_FRAME_PEER, .group = group, .body = message};
    struct kl_conn *conn = live_conn(peers, to_node, lane);

    if (conn == NULL) {
        return;
    }
    if (kl_conn_queued(conn) <= KL_PEER_QUEUE_MAX) {
        (void)!kl_conn_send(conn, &frame); /* Raft repeats what is lost */
    }
    kl_conn_release(conn);
}

bool kl_peers_connected(struct kl_peers *peers, uint64_t node)
{
    struct kl_conn *conn = live_conn(peers, node, KL_LANE_CONTROL);

    kl_conn_release(conn);
    return conn != NULL;
}

/* ---- the thread; _locked functions are called and left with the lock held ---- */

static void dial_locked(struct kl_peers *peers, struct kl_peer *peer, enum kl_lane number)
{
    struct kl_peer_lane *lane = &peer->lanes[number];
    struct kl_peer_link *link = kl_peer_link_new(peers);
    struct kl_conn_options options = {.handler = &kl_peer_link_handler,
                                      .user = link,
                                      .cluster = peers->cluster,
                                      .expect_node = peer->node};
    enum kl_status st = KL_NO_MEMORY;

    if (link != NULL) {
        link->dialed = true;
        link->peer = peer;
        link->lane = number;
        st = kl_conn_dial(peers->options.net, peers->options.tls, peer->address, &options,
                          &link->conn);
    }
    if (st != KL_OK) {
        kl_peer_link_free(link);
        lane->next_dial_ms = kl_peers_now_ms(peers) + KL_REDIAL_MAX_MS;
        kl_log(KL_LOG_WARN, "raft", "cannot dial node=%llu address=%s why=%s",
               (unsigned long long)peer->node, peer->address, kl_status_info(st)->text);
        return;
    }
    /* No callback has seen the link yet: they take the lock first. */
    lane->dialing = link;
    link->next = peers->links;
    peers->links = link;
    peers->links_n++;
}

/* Returns whether a lane waits to be dialled. */
static bool dial_due_locked(struct kl_peers *peers, uint64_t now_ms)
{
    bool waiting = false;

    for (size_t i = 0; i < peers->peers_n; i++) {
        struct kl_peer *peer = &peers->peers[i];

        if (peer->address == NULL || peer->node <= peers->options.node_id) {
            continue; /* the lower id dials */
        }
        for (unsigned lane = 0; lane < KL_LANES; lane++) {
            if (peer->lanes[lane].dialing == NULL) {
                waiting = true;
                if (peer->lanes[lane].next_dial_ms <= now_ms) {
                    dial_locked(peers, peer, (enum kl_lane)lane);
                }
            }
        }
    }
    return waiting;
}

/* Silence means a dead host or a broken path, which TCP alone notices only after minutes. */
static void check_links_locked(struct kl_peers *peers, uint64_t now_ms, bool was_stopped)
{
    for (struct kl_peer_link *link = peers->links; link != NULL; link = link->next) {
        struct kl_frame ping = {.type = KL_FRAME_PING};

        if (!link->open) {
            continue; /* common/net watches over connecting and TLS */
        }
        if (was_stopped) {
            link->heard_ms = link->opened_ms = now_ms; /* we were deaf, not they dumb */
        }
        if ((!link->greeted && now_ms - link->opened_ms >= KL_HANDSHAKE_TIMEOUT_MS) ||
            now_ms - link->heard_ms >= KL_PEER_SILENCE_MS) {
            kl_conn_close(link->conn);
        } else if (link->live && now_ms - link->pinged_ms >= KL_PEER_PING_MS) {
            link->peer->said_refused = link->peer->said_refusal = KL_OK;
            link->pinged_ms = now_ms;
            (void)!kl_conn_send(link->conn, &ping);
        }
    }
}

/* Tells on_peer about every change, in order; the lock is released for the call. Going down and
 * coming up again between two rounds is told as both. */
static void report_locked(struct kl_peers *peers)
{
    const struct kl_peers_options *options = &peers->options;

    for (size_t i = 0; i < peers->peers_n; i++) {
        struct kl_peer *peer = &peers->peers[i];
        bool up = peer->lanes[KL_LANE_CONTROL].live != NULL;
        bool down_first = peer->reported_up != 0 && (!up || peer->reported_up != peer->ups);

        if (down_first) {
            peer->reported_up = 0;
        }
        if (up && peer->reported_up == 0) {
            peer->reported_up = peer->ups;
        } else if (!down_first) {
            continue;
        }
        if (options->on_peer == NULL) {
            continue;
        }
        nng_mtx_unlock(peers->lock);
        if (down_first) {
            options->on_peer(options->ctx, peer->node, false);
        }
        if (up) {
            options->on_peer(options->ctx, peer->node, true);
        }
        nng_mtx_lock(peers->lock);
    }
}

static void run(void *arg)
{
    struct kl_peers *peers = arg;
    uint64_t last = kl_peers_now_ms(peers);

    nng_mtx_lock(peers->lock);
    while (!peers->stopping) {
        uint64_t now = kl_peers_now_ms(peers);
        bool busy = dial_due_locked(peers, now);

        check_links_locked(peers, now, now - last >= STOPPED_MS);
        last = now;
        report_locked(peers);
        nng_mtx_unlock(peers->lock);
        kl_peer_expire_calls(peers, now);
        nng_mtx_lock(peers->lock);
        busy = busy || peers->calls_n != 0;
        if (!peers->stopping) {
            (void)nng_cv_until(peers->cv, nng_clock() + (busy ? TICK_MS : IDLE_TICK_MS));
        }
    }
    report_locked(peers);
    nng_mtx_unlock(peers->lock);
}

/* ---- making and freeing ---- */

static enum kl_status copy_options(struct kl_peers *peers, const struct kl_peers_options *options)
{
    peers->options = *options;
    peers->options.listen = NULL; /* borrowed only for the call, like the peers below */
    peers->options.peers = NULL;
    peers->cluster = kl_strdup(options->cluster);
    if (peers->cluster == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < options->peers_n; i++) {
        const struct kl_peer_address *from = &options->peers[i];
        struct kl_peer *peer;

        if (from->node_id == options->node_id) {
            continue;
        }
        peer = kl_peers_add(peers, from->node_id);
        if (peer == NULL) {
            return KL_EXHAUSTED;
        }
        peer->address = kl_strdup(from->address);
        if (peer->address == NULL) {
            return KL_NO_MEMORY;
        }
    }
    return KL_OK;
}

static enum kl_status listen_on(struct kl_peers *peers, const char *address, char *err,
                                size_t err_len)
{
    struct kl_listener_options options = {
        .conn = {.handler = &kl_peer_link_handler, .user = peers, .cluster = peers->cluster},
        .on_accept = kl_peer_link_accept,
    };

    if (address == NULL || address[0] == 0) {
        return KL_OK;
    }
    return kl_listener_new(peers->options.net, peers->options.tls, address, &options,
                           &peers->listener, err, err_len);
}

enum kl_status kl_peers_new(const struct kl_peers_options *options, struct kl_peers **out,
                            char *err, size_t err_len)
{
    struct kl_peers *peers = kl_calloc(1, sizeof *peers);
    uint8_t random[16];
    enum kl_status st = KL_NO_MEMORY;

    (void)snprintf(err, err_len, "out of memory");
    if (peers == NULL) {
        return KL_NO_MEMORY;
    }
    st = copy_options(peers, options);
    if (st == KL_OK) {
        st = kl_real_entropy.fill(kl_real_entropy.ctx, random, sizeof random);
    }
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s", kl_status_info(st)->text);
        goto out;
    }
    peers->instance = kl_get_be64(random);
    peers->random = kl_get_be64(random + 8) | 1;
    if (nng_mtx_alloc(&peers->lock) != 0 || nng_cv_alloc(&peers->cv, peers->lock) != 0) {
        st = KL_NO_MEMORY;
        goto out;
    }
    st = listen_on(peers, options->listen, err, err_len);
    if (st != KL_OK) {
        goto out;
    }
    if (nng_thread_create(&peers->thread, run, peers) != 0) {
        peers->thread = NULL;
        st = KL_NO_MEMORY;
        goto out;
    }
    *out = peers;
    peers = NULL;
out:
    kl_peers_free(peers);
    return st;
}

uint16_t kl_peers_port(const struct kl_peers *peers)
{
    return peers->listener == NULL ? 0 : kl_listener_port(peers->listener);
}

void kl_peers_stop(struct kl_peers *peers)
{
    if (peers == NULL || peers->cv == NULL) {
        return;
    }
    nng_mtx_lock(peers->lock);
    peers->stopping = true;
    nng_cv_wake(peers->cv);
    nng_mtx_unlock(peers->lock);
    if (peers->thread != NULL) {
        nng_thread_destroy(peers->thread); /* joins */
        peers->thread = NULL;
    }
    kl_listener_free(peers->listener);
    peers->listener = NULL;
    nng_mtx_lock(peers->lock);
    for (struct kl_peer_link *link = peers->links; link != NULL; link = link->next) {
        kl_conn_close(link->conn);
    }
    while (peers->links_n != 0) {
        nng_cv_wait(peers->cv);
    }
    nng_mtx_unlock(peers->lock);
}

void kl_peers_free(struct kl_peers *peers)
{
    if (peers == NULL) {
        return;
    }
    kl_peers_stop(peers);
    nng_cv_free(peers->cv);
    nng_mtx_free(peers->lock);
    for (size_t i = 0; i < peers->peers_n; i++) {
        kl_free(peers->peers[i].address);
    }
    kl_free(peers->cluster);
    kl_free(peers);
}
