/* What a node makes of its peers: who may speak for a node id, and where what they say goes. */
#include "server/node_parts.h"

#include "common/alloc.h"
#include "server/raft/message.h"
#include "server/runtime/log.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void kl_node_member_address(uint64_t node_id, uint64_t generation, char out[KL_MEMBER_ADDRESS_LEN])
{
    if (generation == 0) {
        (void)snprintf(out, KL_MEMBER_ADDRESS_LEN, "%llu", (unsigned long long)node_id);
    } else {
        (void)snprintf(out, KL_MEMBER_ADDRESS_LEN, "%llu.%llu", (unsigned long long)node_id,
                       (unsigned long long)generation);
    }
}

/* What the directory here says of a node: KL_OK, KL_NOT_FOUND, KL_UNAVAILABLE while it is not open. */
static enum kl_status record_of(struct kl_node *node, uint64_t id, Kluis__Store__NodeRecord **out)
{
    struct kl_host_uv *host = kl_node_host(node, 0);
    struct kl_read read;
    enum kl_status st;

    *out = NULL;
    if (host == NULL || kl_group_read_local(kl_host_uv_group(host), &read) != KL_OK) {
        return KL_UNAVAILABLE;
    }
    st = kl_core_node(&read.view, id, out);
    kl_group_read_local_end(kl_host_uv_group(host), &read);
    return st;
}

void kl_node_registered_address(struct kl_node *node, uint64_t node_id,
                                char out[KL_MEMBER_ADDRESS_LEN])
{
    Kluis__Store__NodeRecord *record = NULL;

    out[0] = 0;
    if (record_of(node, node_id, &record) == KL_OK && record->data_uuid.len != 0) {
        kl_node_member_address(node_id, record->generation, out);
    }
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
}

/* What the directory says of a node's data directory: KL_OK, KL_FORBIDDEN, KL_DELETED when the node was
 * removed, or KL_UNAVAILABLE while the directory is not open. A node that is not registered yet is KL_OK
 * unless it must be. */
static enum kl_status registered(struct kl_node *node, uint64_t id, const uint8_t uuid[KL_ID_LEN],
                                 bool must, uint64_t *generation)
{
    Kluis__Store__NodeRecord *record = NULL;
    enum kl_status st = record_of(node, id, &record);

    *generation = 0;
    if (st == KL_NOT_FOUND || (st == KL_OK && !record->removed && record->data_uuid.len == 0)) {
        st = must ? KL_NOT_FOUND : KL_OK;
    } else if (st == KL_OK && record->removed) {
        st = KL_DELETED;
    } else if (st == KL_OK) {
        *generation = record->generation;
        if (!kl_bytes_eq(kl_bytes_of(record->data_uuid.data, record->data_uuid.len),
                         kl_bytes_of(uuid, KL_ID_LEN))) {
            st = KL_FORBIDDEN;
        }
    }
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    return st;
}

void kl_node_note_own(struct kl_node *node)
{
    uint64_t generation = 0;

    if (!atomic_load(&node->own_known) &&
        registered(node, node->view.node_id, node->data.uuid, true, &generation) == KL_OK) {
        atomic_store(&node->own_generation, generation);
        atomic_store(&node->own_known, true);
    }
}

static uint64_t on_generation(void *ctx)
{
    struct kl_node *node = ctx;

    return atomic_load(&node->own_generation);
}

/* A node with a certificate of this cluster of which the directory does not tell, or not yet: this copy
 * of it may be old. */
static void note_stranger(struct kl_node *node, uint64_t id)
{
    if (atomic_exchange(&node->stranger, id) != id) {
        kl_log(KL_LOG_WARN, "node",
               "a node that nobody has added asks to be let in node=%llu "
               "hint=\"kluis cluster add-node --node-id %llu\"",
               (unsigned long long)id, (unsigned long long)id);
    }
}

/* While the directory is not open nobody can be checked: the peer comes again soon. */
static enum kl_status on_check_uuid(void *ctx, uint64_t id, const uint8_t uuid[KL_ID_LEN],
                                    uint64_t claimed)
{
    struct kl_node *node = ctx;
    int i = kl_node_position(node, id);
    uint64_t generation = 0;
    enum kl_status st;
    struct kl_peer_seen *seen;
    bool first = false;

    if (i < 0) {
        note_stranger(node, id);
        return KL_UNAVAILABLE;
    }
    st = registered(node, id, uuid, false, &generation);
    if (st == KL_DELETED) {
        return KL_NOT_FOUND;
    }
    if (st == KL_FORBIDDEN && claimed > generation) {
        generation = claimed; /* it has seen more of the directory than we have */
        st = KL_OK;
    }
    if (st != KL_OK && st != KL_FORBIDDEN) {
        return KL_UNAVAILABLE;
    }
    seen = &node->seen[i];
    (void)pthread_mutex_lock(&node->peers_lock);
    if (st == KL_OK) {
        if (!seen->greeted || memcmp(seen->uuid, uuid, KL_ID_LEN) != 0 ||
            seen->generation != generation) {
            memset(seen->admitted, 0, sizeof seen->admitted);
        }
        memcpy(seen->uuid, uuid, KL_ID_LEN);
        seen->generation = generation;
        seen->greeted = true;
        if (memcmp(seen->refused_uuid, uuid, KL_ID_LEN) == 0) {
            seen->refused_us = 0;
        }
    } else {
        first = seen->refused_us == 0 || memcmp(seen->refused_uuid, uuid, KL_ID_LEN) != 0;
        memcpy(seen->refused_uuid, uuid, KL_ID_LEN);
        seen->refused_us = kl_real_clock.mono_us(kl_real_clock.ctx);
    }
    (void)pthread_mutex_unlock(&node->peers_lock);
    if (first) {
        kl_log(KL_LOG_WARN, "node",
               "a new data directory of a known node is refused until it is replaced node=%llu "
               "hint=\"kluis cluster replace-node --node-id %llu\"",
               (unsigned long long)id, (unsigned long long)id);
    }
    return st;
}

/* Is the sender's generation a member of the group, as far as we know? */
static bool admitted(struct kl_node *node, uint64_t id, size_t group_at)
{
    int at = kl_node_position(node, id);
    struct kl_group_status status;
    uint64_t generation;
    char address[KL_MEMBER_ADDRESS_LEN];
    bool yes;

    if (at < 0) {
        return false;
    }
    (void)pthread_mutex_lock(&node->peers_lock);
    generation = node->seen[at].generation;
    yes = generation == 0 || node->seen[at].admitted[group_at];
    (void)pthread_mutex_unlock(&node->peers_lock);
    if (yes) {
        return true;
    }
    kl_node_member_address(id, generation, address);
    kl_group_status(kl_host_uv_group(atomic_load(&node->hosts[group_at])), &status);
    for (size_t i = 0; i < status.members_n; i++) {
        if (strcmp(status.members[i].address, address) == 0) {
            (void)pthread_mutex_lock(&node->peers_lock);
            node->seen[at].admitted[group_at] = node->seen[at].generation == generation;
            (void)pthread_mutex_unlock(&node->peers_lock);
            return true;
        }
    }
    return false;
}

static void on_message(void *ctx, uint64_t from, uint16_t group, struct kl_bytes message)
{
    struct kl_node *node = ctx;

    if (group == KL_NODE_CLOCK_FRAMES) {
        kl_node_clock_receive(node->clock, from, message);
        return;
    }
    for (size_t i = 0; i < node->groups_n; i++) {
        struct kl_host_uv *host = atomic_load(&node->hosts[i]);

        if (node->groups[i] == group && host != NULL &&
            (!kl_message_is_counted(message) || admitted(node, from, i))) {
            kl_host_uv_receive(host, from, message);
        }
    }
}

static void on_request(void *ctx, uint64_t from, struct kl_conn *conn, uint32_t stream,
                       struct kl_bytes call)
{
    struct kl_node *node = ctx;

    kl_rpc_peer_request(node->dispatch, from, conn, stream, call);
}

void kl_node_tell_groups(struct kl_node *node, uint64_t id, bool connected)
{
    for (size_t i = 0; i < node->groups_n; i++) {
        struct kl_host_uv *host = atomic_load(&node->hosts[i]);

        if (host != NULL) {
            kl_host_uv_peer(host, id, connected);
        }
    }
}

static void on_peer(void *ctx, uint64_t id, bool connected)
{
    struct kl_node *node = ctx;

    kl_log(KL_LOG_INFO, "node", "peer %s node=%llu", connected ? "connected" : "lost",
           (unsigned long long)id);
    if (connected) {
        kl_node_clock_connected(node->clock, id);
    }
    kl_node_tell_groups(node, id, connected);
}

/* A new data directory waits until it is registered; one that was made with the cluster or is known
 * to it is refused because its id has been taken: two must not go on under one id. But a peer that has
 * not heard of the registration yet refuses a greeting that did not tell it either; the next one does. */
static void on_refused(void *ctx, uint64_t by, uint64_t generation, const char *why)
{
    struct kl_node *node = ctx;
    bool known = atomic_load(&node->own_known) && generation == atomic_load(&node->own_generation);

    if (node->data.initial || known) {
        kl_log(KL_LOG_ERROR, "node", "refused by node=%llu why=\"%s\"; this process ends",
               (unsigned long long)by, why);
        _exit(KL_EXIT_DUPLICATE);
    }
    if (!atomic_exchange(&node->told_refused, true)) {
        kl_log(KL_LOG_WARN, "node",
               "this data directory is new: it waits to be accepted by=%llu "
               "hint=\"kluis cluster replace-node --node-id %llu\"",
               (unsigned long long)by, (unsigned long long)node->view.node_id);
    }
}

enum kl_status kl_node_open_peers(struct kl_node *node, char *err, size_t err_len)
{
    struct kl_peer_address peers[KL_NODES_MAX];
    const struct kl_config *c = &node->config;
    struct kl_peers_options o = {
        .cluster = c->cluster,
        .node_id = kl_config_self(c)->id,
        .listen = c->listen_peer,
        .peers = peers,
        .peers_n = c->nodes_n,
        .net = node->net,
        .tls = node->peer_tls,
        .ctx = node,
        .clock = &kl_real_clock,
        .on_message = on_message,
        .on_request = on_request,
        .on_peer = on_peer,
        .check_uuid = on_check_uuid,
        .generation = on_generation,
        .on_refused = on_refused,
    };

    for (size_t i = 0; i < c->nodes_n; i++) {
        peers[i] = (struct kl_peer_address){c->nodes[i].id, c->nodes[i].peer_address};
    }
    memcpy(o.data_uuid, node->data.uuid, KL_ID_LEN);
    return kl_peers_new(&o, &node->peers, err, err_len);
}
