/*
 * Greetings and refusals.
 *
 * Two processes must not act under one node id: neither a second start with the same directory nor
 * a copied or emptied one. The certificate and check_uuid tell most cases; what is left is a second
 * process whose directory looks right. It shows by its instance number while the first one is still
 * connected. But a node that was killed and restarted looks the same while its old connection has
 * not yet died, so the old one is asked (PING): when it answers, the newcomer is refused for good;
 * when it stays silent for KL_PEER_PROBE_MS, it is gone and the newcomer takes its place. Until
 * that is known the newcomer is sent away to try again.
 */
#include "server/raft/peers_internal.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

#include "rpc.pb-c.h"

#include <openssl/crypto.h>
#include <stdio.h>

enum { VERSION = 1, WHY_MAX = 200 };

enum kl_status kl_peer_send_hello(struct kl_peer_link *link, uint64_t to_node)
{
    struct kl_peers *peers = link->peers;
    Kluis__Peer__Hello hello = KLUIS__PEER__HELLO__INIT;
    Kluis__Peer__Message message = KLUIS__PEER__MESSAGE__INIT;
    struct kl_frame frame = {.type = KL_FRAME_PEER};
    uint8_t body[KL_PEER_HELLO_MAX];

    hello.version = VERSION;
    hello.cluster = peers->cluster;
    hello.node_id = peers->options.node_id;
    hello.to_node_id = to_node;
    hello.data_uuid.data = peers->options.data_uuid;
    hello.data_uuid.len = KL_ID_LEN;
    hello.lane = link->lane;
    hello.instance = peers->instance;
    if (peers->options.generation != NULL) {
        hello.generation = link->told = peers->options.generation(peers->options.ctx);
    }
    message.body_case = KLUIS__PEER__MESSAGE__BODY_HELLO;
    message.hello = &hello;
    if (kluis__peer__message__get_packed_size(&message) > sizeof body) {
        return KL_TOO_LARGE;
    }
    frame.body = kl_bytes_of(body, kluis__peer__message__pack(&message, body));
    return kl_conn_send(link->conn, &frame);
}

/* ---- refusing ---- */

/* A warning for the first refusal of its kind since a connection lasted. ours: we refuse. */
static enum kl_log_level refusal_level(struct kl_peer_link *link, bool ours, enum kl_status status)
{
    enum kl_log_level level = KL_LOG_WARN;
    struct kl_peer *peer;
    enum kl_status *said;

    nng_mtx_lock(link->peers->lock);
    peer = kl_peers_find(link->peers, link->node);
    if (peer != NULL) {
        said = ours ? &peer->said_refusal : &peer->said_refused;
        level = *said == status ? KL_LOG_DEBUG : KL_LOG_WARN;
        *said = status;
    }
    nng_mtx_unlock(link->peers->lock);
    return level;
}

void kl_peer_refuse(struct kl_peer_link *link, enum kl_status status, const char *why)
{
    const struct kl_status_info *info = kl_status_info(status);
    Kluis__V1__Reply reply = KLUIS__V1__REPLY__INIT;
    struct kl_frame frame = {.type = KL_FRAME_REPLY};
    uint8_t body[KL_PEER_HELLO_MAX];
    char name[32];
    char text[WHY_MAX];

    (void)snprintf(name, sizeof name, "%s", info->name);
    (void)snprintf(text, sizeof text, "%s", why);
    reply.code = info->rpc_code;
    reply.status = name;
    reply.message = text;
    frame.body = kl_bytes_of(body, kluis__v1__reply__pack(&reply, body));
    link->ended = true;
    if (!info->retry_safe) {
        kl_log(refusal_level(link, true, status), "raft",
               "refused a node's connection node=%llu from=%s why=%s",
               (unsigned long long)link->node, kl_conn_remote(link->conn), text);
    }
    if (kl_conn_send(link->conn, &frame) == KL_OK) {
        kl_conn_drain(link->conn);
    } else {
        kl_conn_close(link->conn);
    }
}

void kl_peer_refused(struct kl_peer_link *link, struct kl_bytes body)
{
    const struct kl_peers_options *options = &link->peers->options;
    struct kl_pb_budget budget;
    Kluis__V1__Reply *reply;

    kl_pb_budget_init(&budget, 4 * KL_PEER_HELLO_MAX);
    reply = body.len > KL_PEER_HELLO_MAX
                ? NULL
                : kluis__v1__reply__unpack(&budget.allocator, body.len, body.ptr);
    link->ended = true;
    if (reply != NULL && !kl_status_info(kl_status_from_name(reply->status))->retry_safe) {
        enum kl_status st = kl_status_from_name(reply->status);

        kl_log(refusal_level(link, false, st), "raft", "a node refused us node=%llu why=%s",
               (unsigned long long)link->node, reply->message);
        if ((st == KL_ALREADY_EXISTS || st == KL_NOT_FOUND) && options->on_refused != NULL) {
            options->on_refused(options->ctx, link->node, link->told, reply->message);
        }
    }
    kluis__v1__reply__free_unpacked(reply, &budget.allocator);
    kl_conn_close(link->conn);
}

/* ---- checking a Hello ---- */

struct verdict {
    enum kl_status status;
    char why[WHY_MAX];
};

static bool verdict(struct verdict *v, enum kl_status status, const char *why)
{
    v->status = status;
    (void)snprintf(v->why, sizeof v->why, "%s", why);
    return false;
}

static bool check_fields(const struct kl_peer_link *link, const Kluis__Peer__Hello *hello,
                         struct verdict *v)
{
    const struct kl_peers_options *options = &link->peers->options;

    if (hello->version != VERSION) {
        return verdict(v, KL_PROTOCOL, "the peer protocol's version is not supported");
    }
    if (strcmp(hello->cluster, link->peers->cluster) != 0) {
        return verdict(v, KL_FORBIDDEN, "the node belongs to another cluster");
    }
    if (hello->node_id != link->node) {
        return verdict(v, KL_FORBIDDEN, "the node id is not the certificate's");
    }
    if (hello->to_node_id != options->node_id) {
        return verdict(v, KL_FORBIDDEN, "the address belongs to another node");
    }
    if (hello->data_uuid.len != KL_ID_LEN || hello->lane >= KL_LANES ||
        (link->dialed && hello->lane != (uint32_t)link->lane)) {
        return verdict(v, KL_PROTOCOL, "the greeting is not valid");
    }
    if (hello->node_id == options->node_id) {
        return verdict(v, KL_ALREADY_EXISTS, "another process holds this node id");
    }
    return true;
}

static bool check_directory(const struct kl_peer_link *link, const Kluis__Peer__Hello *hello,
                            struct verdict *v)
{
    const struct kl_peers_options *options = &link->peers->options;
    enum kl_status st = KL_OK;

    if (options->check_uuid != NULL) {
        st = options->check_uuid(options->ctx, hello->node_id, hello->data_uuid.data,
                                 hello->generation);
    }
    if (st == KL_OK) {
        return true;
    }
    if (kl_status_info(st)->retry_safe) {
        return verdict(v, KL_UNAVAILABLE, "the data directory cannot be checked now");
    }
    if (st == KL_NOT_FOUND) {
        return verdict(v, KL_NOT_FOUND, "the node was removed from the cluster");
    }
    return verdict(v, KL_ALREADY_EXISTS, "the node id is registered with another data directory");
}

static bool same_process(const struct kl_peer_link *a, const struct kl_peer_link *b)
{
    return a->instance == b->instance && CRYPTO_memcmp(a->uuid, b->uuid, KL_ID_LEN) == 0;
}

static void forget(struct kl_peer_link *link)
{
    link->live = false;
    link->peer->lanes[link->lane].live = NULL;
    kl_conn_close(link->conn);
}

/* Of an older directory that has been replaced by the newcomer's? It goes, and does not hold the id. */
static bool replaced(const struct kl_peer_link *live, const struct kl_peer_link *newcomer)
{
    return live->generation < newcomer->generation &&
           CRYPTO_memcmp(live->uuid, newcomer->uuid, KL_ID_LEN) != 0;
}

/* Is another process connected under this id? Asks it, waits for the answer, draws the conclusion. */
static bool check_rival_locked(struct kl_peer_link *link, struct kl_peer *peer, struct verdict *v)
{
    uint64_t now = kl_peers_now_ms(link->peers);
    struct kl_frame ping = {.type = KL_FRAME_PING};
    struct kl_peer_link *rival = NULL;

    for (size_t i = 0; i < KL_LANES; i++) {
        struct kl_peer_link *live = peer->lanes[i].live;

        if (live != NULL && replaced(live, link)) {
            forget(live);
        } else if (live != NULL && !same_process(live, link)) {
            rival = live;
        }
    }
    if (rival == NULL) {
        return true;
    }
    if (peer->answered_ms != 0 && now - peer->answered_ms <= KL_PEER_PROBE_MS) {
        return verdict(v, KL_ALREADY_EXISTS, "another process holds this node id");
    }
    if (peer->probed_ms != 0 && now - peer->probed_ms >= KL_PEER_PROBE_MS) {
        peer->probed_ms = 0; /* silent: dead, although nothing told us */
        for (size_t i = 0; i < KL_LANES; i++) {
            struct kl_peer_link *live = peer->lanes[i].live;

            if (live != NULL && !same_process(live, link)) {
                forget(live);
            }
        }
        return true;
    }
    if (peer->probed_ms == 0) {
        peer->probed_ms = now;
        peer->answered_ms = 0;
        peer->probe = ++link->peers->next_probe;
        ping.stream = peer->probe;
        (void)!kl_conn_send(rival->conn, &ping);
    }
    return verdict(v, KL_UNAVAILABLE, "the node id is in use; its holder is being asked");
}

void kl_peer_pong(struct kl_peer_link *link, uint32_t probe)
{
    struct kl_peer *peer;

    nng_mtx_lock(link->peers->lock);
    peer = link->peer;
    if (link->live && peer->probed_ms != 0 && probe == peer->probe) {
        peer->probed_ms = 0;
        peer->answered_ms = kl_peers_now_ms(link->peers);
    }
    nng_mtx_unlock(link->peers->lock);
}

/* Puts the link into service; the one it replaces is closed. */
static bool admit_locked(struct kl_peer_link *link, struct verdict *v)
{
    struct kl_peers *peers = link->peers;
    struct kl_peer *peer = kl_peers_add(peers, link->node);
    struct kl_peer_lane *lane;
    struct kl_peer_link *old;

    if (peers->stopping) {
        return verdict(v, KL_UNAVAILABLE, "the node is stopping");
    }
    if (peer == NULL) {
        return verdict(v, KL_EXHAUSTED, "there are too many nodes");
    }
    if (!check_rival_locked(link, peer, v)) {
        return false;
    }
    /* Our Hello must be the first message, so it goes before the link can be used by others. */
    if (!link->dialed && kl_peer_send_hello(link, link->node) != KL_OK) {
        return verdict(v, KL_UNAVAILABLE, "the greeting cannot be sent");
    }
    lane = &peer->lanes[link->lane];
    old = lane->live;
    link->peer = peer;
    link->live = link->greeted = true;
    lane->live = link;
    lane->backoff_ms = 0;
    if (old != NULL) {
        old->live = false;
        kl_conn_close(old->conn);
    } else if (link->lane == KL_LANE_CONTROL) {
        peer->ups++;
        nng_cv_wake(peers->cv);
    }
    return true;
}

void kl_peer_greet(struct kl_peer_link *link, struct kl_bytes message)
{
    struct kl_peers *peers = link->peers;
    struct verdict v = {KL_PROTOCOL, "the first message is not a greeting"};
    struct kl_pb_budget budget;
    Kluis__Peer__Message *m = NULL;
    bool ok = false;

    kl_pb_budget_init(&budget, 4 * KL_PEER_HELLO_MAX);
    if (message.len <= KL_PEER_HELLO_MAX) {
        m = kluis__peer__message__unpack(&budget.allocator, message.len, message.ptr);
    }
    if (m != NULL && m->body_case == KLUIS__PEER__MESSAGE__BODY_HELLO &&
        check_fields(link, m->hello, &v) && check_directory(link, m->hello, &v)) {
        nng_mtx_lock(peers->lock);
        link->instance = m->hello->instance;
        memcpy(link->uuid, m->hello->data_uuid.data, KL_ID_LEN);
        link->generation = m->hello->generation;
        link->lane = (enum kl_lane)m->hello->lane;
        ok = admit_locked(link, &v);
        nng_mtx_unlock(peers->lock);
    }
    kluis__peer__message__free_unpacked(m, &budget.allocator);
    if (!ok) {
        kl_peer_refuse(link, v.status, v.why);
    }
}
