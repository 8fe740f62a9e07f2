#include "server/node_parts.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    POOL_QUEUE_MAX = KL_CALLS_MAX * 2, /* a call and its completion */
    AUDIT_FILE_MAX = 64 << 20,
    AUDIT_FILES_MAX = 8,
    DRAIN_MS = 10000,
    HANDOVER_MS = 3000,
    POLL_MS = 20,
    PATH_LEN = 1200,
};

static void sleep_ms(unsigned ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000L};

    (void)nanosleep(&t, NULL);
}

struct kl_host_uv *kl_node_host(struct kl_node *node, uint16_t group)
{
    for (size_t i = 0; i < node->groups_n; i++) {
        if (node->groups[i] == group) {
            return atomic_load(&node->hosts[i]);
        }
    }
    return NULL;
}

int kl_node_position(const struct kl_node *node, uint64_t node_id)
{
    for (size_t i = 0; i < node->config.nodes_n; i++) {
        if (node->config.nodes[i].id == node_id) {
            return (int)i;
        }
    }
    return -1;
}

/* ---- what other parts ask of the node ---- */

static struct kl_group *view_group(void *ctx, uint16_t id)
{
    struct kl_host_uv *host = kl_node_host(ctx, id);

    return host == NULL ? NULL : kl_host_uv_group(host);
}

/* Regions in the order of the configuration have the vault groups 1, 2, … */
static uint16_t view_group_of_location(void *ctx, const char *location)
{
    const struct kl_node *node = ctx;

    for (size_t i = 0; i < node->locations_n; i++) {
        if (strcmp(node->locations[i], location) == 0) {
            return node->groups[i + 1];
        }
    }
    return 0;
}

static bool view_connected(void *ctx, uint64_t node_id)
{
    struct kl_node *node = ctx;

    return kl_peers_connected(node->peers, node_id);
}

static bool view_sealed(void *ctx)
{
    struct kl_node *node = ctx;

    return !atomic_load(&node->unsealed);
}

static void view_counters(void *ctx, void (*fn)(void *arg, const char *name, uint64_t value),
                          void *arg)
{
    struct kl_node *node = ctx;
    struct kl_dispatch_counters c;

    kl_dispatch_counters(node->dispatch, &c);
    fn(arg, "calls_total", c.calls);
    fn(arg, "calls_failed_total", c.errors);
    fn(arg, "calls_refused_total", c.refused);
    fn(arg, "calls_active", c.active);
    fn(arg, "reads_total", c.reads);
    fn(arg, "writes_total", c.writes);
    fn(arg, "audit_lost_total", kl_audit_lost(node->audit));
    fn(arg, "purged_total", kl_steward_purged(node->steward));
}

static void view_replace(void *ctx, uint64_t node_id, kl_group_done_fn done, void *arg)
{
    struct kl_node *node = ctx;

    kl_steward_replace(node->steward, node_id, done, arg);
}

/* ---- peers ---- */

void kl_node_member_address(uint64_t node_id, uint64_t generation, char out[48])
{
    if (generation == 0) {
        (void)snprintf(out, 48, "%llu", (unsigned long long)node_id);
    } else {
        (void)snprintf(out, 48, "%llu.%llu", (unsigned long long)node_id,
                       (unsigned long long)generation);
    }
}

/* What the directory says of a node's data directory: KL_OK, KL_FORBIDDEN, or KL_UNAVAILABLE while
 * the directory is not open. A node that is not registered yet is accepted. */
static enum kl_status registered(struct kl_node *node, uint64_t id, const uint8_t uuid[KL_ID_LEN],
                                 uint64_t *generation)
{
    Kluis__Store__NodeRecord *record = NULL;
    struct kl_host_uv *host = kl_node_host(node, 0);
    struct kl_read read;
    enum kl_status st;

    *generation = 0;
    if (host == NULL || kl_group_read_local(kl_host_uv_group(host), &read) != KL_OK) {
        return KL_UNAVAILABLE;
    }
    st = kl_core_node(&read.view, id, &record);
    kl_group_read_local_end(kl_host_uv_group(host), &read);
    if (st == KL_NOT_FOUND) {
        return KL_OK;
    }
    if (st == KL_OK) {
        *generation = record->generation;
        if (!kl_bytes_eq(kl_bytes_of(record->data_uuid.data, record->data_uuid.len),
                         kl_bytes_of(uuid, KL_ID_LEN))) {
            st = KL_FORBIDDEN;
        }
    }
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    return st;
}

static enum kl_status on_check_uuid(void *ctx, uint64_t id, const uint8_t uuid[KL_ID_LEN])
{
    struct kl_node *node = ctx;
    int i = kl_node_position(node, id);
    struct kl_peer_seen seen = {.greeted = true};
    enum kl_status st;

    if (i < 0) {
        return KL_FORBIDDEN;
    }
    st = registered(node, id, uuid, &seen.generation);
    seen.verified = st == KL_OK;
    memcpy(seen.uuid, uuid, KL_ID_LEN);
    (void)pthread_mutex_lock(&node->peers_lock);
    node->seen[i] = seen;
    (void)pthread_mutex_unlock(&node->peers_lock);
    if (st == KL_FORBIDDEN) {
        kl_log(KL_LOG_WARN, "node",
               "a new data directory of a known node is refused until it is replaced node=%llu "
               "hint=\"kluis cluster replace-node\"",
               (unsigned long long)id);
    }
    return st == KL_FORBIDDEN ? st : KL_OK;
}

static struct kl_peer_seen seen_of(struct kl_node *node, size_t i)
{
    struct kl_peer_seen seen;

    (void)pthread_mutex_lock(&node->peers_lock);
    seen = node->seen[i];
    (void)pthread_mutex_unlock(&node->peers_lock);
    return seen;
}

/* A peer that greeted before the directory was open is checked with its first message. */
static bool verified(struct kl_node *node, uint64_t id, struct kl_peer_seen *seen)
{
    int i = kl_node_position(node, id);

    if (i < 0) {
        return false;
    }
    *seen = seen_of(node, (size_t)i);
    if (seen->verified) {
        return true;
    }
    if (registered(node, id, seen->uuid, &seen->generation) != KL_OK) {
        return false;
    }
    (void)pthread_mutex_lock(&node->peers_lock);
    node->seen[i].verified = true;
    node->seen[i].generation = seen->generation;
    (void)pthread_mutex_unlock(&node->peers_lock);
    return true;
}

/* Is the sender's generation a member of the group? The answer only ever becomes yes. */
static bool admitted(struct kl_node *node, uint64_t id, const struct kl_peer_seen *seen,
                     size_t group_at)
{
    struct kl_group_status status;
    char address[48];

    if (seen->generation == 0 || seen->admitted[group_at]) {
        return true;
    }
    kl_node_member_address(id, seen->generation, address);
    kl_group_status(kl_host_uv_group(atomic_load(&node->hosts[group_at])), &status);
    for (size_t i = 0; i < status.members_n; i++) {
        if (strcmp(status.members[i].address, address) == 0) {
            (void)pthread_mutex_lock(&node->peers_lock);
            node->seen[kl_node_position(node, id)].admitted[group_at] = true;
            (void)pthread_mutex_unlock(&node->peers_lock);
            return true;
        }
    }
    return false;
}

static void on_message(void *ctx, uint64_t from, uint16_t group, struct kl_bytes message)
{
    struct kl_node *node = ctx;
    struct kl_peer_seen seen;

    for (size_t i = 0; i < node->groups_n; i++) {
        struct kl_host_uv *host = atomic_load(&node->hosts[i]);

        if (node->groups[i] == group && host != NULL && verified(node, from, &seen) &&
            admitted(node, from, &seen, i)) {
            kl_host_uv_receive(host, from, message);
        }
    }
}

static void on_request(void *ctx, uint64_t from, struct kl_conn *conn, uint32_t stream,
                       struct kl_bytes call)
{
    struct kl_node *node = ctx;
    struct kl_peer_seen seen;

    if (verified(node, from, &seen)) {
        kl_rpc_peer_request(node->dispatch, from, conn, stream, call);
    }
}

static void tell_groups(struct kl_node *node, uint64_t id, bool connected)
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
    kl_log(KL_LOG_INFO, "node", "peer %s node=%llu", connected ? "connected" : "lost",
           (unsigned long long)id);
    tell_groups(ctx, id, connected);
}

static void on_refused(void *ctx, uint64_t by, const char *why)
{
    struct kl_node *node = ctx;

    if (node->data.initial) {
        kl_log(KL_LOG_ERROR, "node", "refused by node=%llu why=\"%s\"; this process ends",
               (unsigned long long)by, why);
        _exit(KL_EXIT_DUPLICATE);
    }
    kl_log(KL_LOG_WARN, "node", "not accepted yet by node=%llu why=\"%s\"", (unsigned long long)by,
           why);
}

static void on_fatal(void *ctx, uint16_t group, const char *why)
{
    (void)ctx;
    kl_log(KL_LOG_ERROR, "node", "cannot go on group=%u why=\"%s\"", (unsigned)group, why);
    _exit(KL_EXIT_FATAL);
}

/* ---- building ---- */

static void lay_out(struct kl_node *node)
{
    const struct kl_config *c = &node->config;

    node->groups[node->groups_n++] = 0;
    for (size_t i = 0; i < c->nodes_n; i++) {
        bool known = false;

        node->infos[i] = (struct kl_node_info){c->nodes[i].id, c->nodes[i].name, c->nodes[i].region,
                                               c->nodes[i].client_address};
        for (size_t k = 0; k < node->locations_n; k++) {
            known = known || strcmp(node->locations[k], c->nodes[i].region) == 0;
        }
        if (!known) {
            node->locations[node->locations_n++] = c->nodes[i].region;
            node->groups[node->groups_n] = (uint16_t)node->groups_n;
            node->groups_n++;
        }
    }
    node->view = (struct kl_node_view){
        .ctx = node,
        .cluster = c->cluster,
        .geography = c->geography,
        .default_subscription = c->subscription,
        .locations = node->locations,
        .locations_n = node->locations_n,
        .node_id = kl_config_self(c)->id,
        .nodes = node->infos,
        .nodes_n = c->nodes_n,
        .groups = node->groups,
        .groups_n = node->groups_n,
        .started_us = kl_real_clock.mono_us(kl_real_clock.ctx),
        .group = view_group,
        .group_of_location = view_group_of_location,
        .connected = view_connected,
        .sealed = view_sealed,
        .counters = view_counters,
        .replace_node = view_replace,
    };
}

static enum kl_status open_tls(struct kl_node *node, char *err, size_t err_len)
{
    const struct kl_tls_files files = {node->config.ca_file, node->config.cert_file,
                                       node->config.key_file};
    enum kl_status st = kl_tls_new(KL_TLS_SERVER, &files, &node->client_tls, err, err_len);

    return st != KL_OK ? st : kl_tls_new(KL_TLS_PEER, &files, &node->peer_tls, err, err_len);
}

static enum kl_status open_peers(struct kl_node *node, char *err, size_t err_len)
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
        .on_refused = on_refused,
    };

    for (size_t i = 0; i < c->nodes_n; i++) {
        peers[i] = (struct kl_peer_address){c->nodes[i].id, c->nodes[i].peer_address};
    }
    memcpy(o.data_uuid, node->data.uuid, KL_ID_LEN);
    return kl_peers_new(&o, &node->peers, err, err_len);
}

static enum kl_status open_group(struct kl_node *node, size_t i, char *err, size_t err_len)
{
    const struct kl_config *c = &node->config;
    char names[KL_NODES_MAX][16];
    struct kl_member voters[KL_NODES_MAX];
    struct kl_host_uv *host = NULL;
    char dir[PATH_LEN];
    char address[16];
    struct kl_host_uv_options o = {
        .group = node->groups[i],
        .node_id = kl_config_self(c)->id,
        .address = address,
        .dir = dir,
        .election_timeout_ms = c->election_timeout_ms,
        .cache_bytes = c->cache_bytes,
        .bootstrap = node->data.initial ? voters : NULL,
        .bootstrap_n = c->nodes_n,
        .peers = &node->peers,
        .ctx = node,
        .fatal = on_fatal,
    };
    enum kl_status st = kl_datadir_group(c->data_dir, node->groups[i], dir, sizeof dir);

    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: cannot make the directory of group %u", c->data_dir,
                       (unsigned)node->groups[i]);
        return st;
    }
    (void)snprintf(address, sizeof address, "%llu", (unsigned long long)o.node_id);
    for (size_t k = 0; k < c->nodes_n; k++) {
        (void)snprintf(names[k], sizeof names[k], "%llu", (unsigned long long)c->nodes[k].id);
        voters[k] = (struct kl_member){c->nodes[k].id, names[k]};
    }
    st = kl_host_uv_start(&o, &host, err, err_len);
    if (st == KL_OK) {
        atomic_store(&node->hosts[i], host);
    }
    return st;
}

static enum kl_status open_service(struct kl_node *node, char *err, size_t err_len)
{
    const struct kl_config *c = &node->config;
    const struct kl_dispatch_options o = {
        .pool = node->pool,
        .clock = &kl_real_clock,
        .entropy = &kl_real_entropy,
        .node = &node->view,
        .audit = node->audit,
        .peers = &node->peers,
        .calls_max = KL_CALLS_MAX,
    };
    struct kl_auth *auth = NULL;
    enum kl_status st = kl_dispatch_new(&o, &node->dispatch);

    if (st == KL_OK) {
        st = kl_auth_new(c->principals, c->principals_n, &auth);
    }
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s", kl_status_info(st)->text);
        return st;
    }
    kl_dispatch_set_auth(node->dispatch, auth);
    return KL_OK;
}

static enum kl_status open_audit(struct kl_node *node, char *err, size_t err_len)
{
    const struct kl_config *c = &node->config;
    char path[PATH_LEN];

    if (strcmp(c->audit_file, "off") == 0) {
        return kl_audit_new(NULL, AUDIT_FILE_MAX, AUDIT_FILES_MAX, &node->audit, err, err_len);
    }
    if (c->audit_file[0] == 0) {
        (void)snprintf(path, sizeof path, "%s/audit.log", c->data_dir);
    } else {
        (void)snprintf(path, sizeof path, "%s", c->audit_file);
    }
    return kl_audit_new(path, AUDIT_FILE_MAX, AUDIT_FILES_MAX, &node->audit, err, err_len);
}

static enum kl_exit exit_of_datadir(enum kl_status st)
{
    return st == KL_CORRUPT ? KL_EXIT_CORRUPT : KL_EXIT_DATA_DIR;
}

/* Everything up to the first socket: files of the configuration and the data directory. */
static enum kl_status open_files(struct kl_node *node, enum kl_exit *exit_code, char *err,
                                 size_t err_len)
{
    const struct kl_config *c = &node->config;
    enum kl_status st;

    *exit_code = KL_EXIT_CONFIG;
    st = open_tls(node, err, err_len);
    if (st != KL_OK) {
        return st;
    }
    st = kl_seal_file_open(c->seal_file, &node->seal, err, err_len);
    if (st != KL_OK) {
        return st;
    }
    st = kl_datadir_open(c->data_dir, c->cluster, kl_config_self(c)->id, &node->data, err, err_len);
    if (st != KL_OK) {
        *exit_code = exit_of_datadir(st);
        return st;
    }
    return open_audit(node, err, err_len);
}

static enum kl_status open_network(struct kl_node *node, enum kl_exit *exit_code, char *err,
                                   size_t err_len)
{
    enum kl_status st;

    *exit_code = KL_EXIT_INTERNAL;
    st = kl_pool_new(node->config.workers, POOL_QUEUE_MAX, &node->pool);
    if (st == KL_OK) {
        st = kl_net_new(&node->net);
    }
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s", kl_status_info(st)->text);
        return st;
    }
    st = open_service(node, err, err_len);
    if (st != KL_OK) {
        return st;
    }
    *exit_code = KL_EXIT_NETWORK;
    return open_peers(node, err, err_len);
}

static enum kl_status open_groups(struct kl_node *node, enum kl_exit *exit_code, char *err,
                                  size_t err_len)
{
    for (size_t i = 0; i < node->groups_n; i++) {
        enum kl_status st = open_group(node, i, err, err_len);

        if (st != KL_OK) {
            *exit_code = st == KL_CORRUPT ? KL_EXIT_CORRUPT : KL_EXIT_FATAL;
            return st;
        }
    }
    for (size_t i = 0; i < node->config.nodes_n; i++) {
        if (kl_peers_connected(node->peers, node->config.nodes[i].id)) {
            tell_groups(node, node->config.nodes[i].id, true); /* it came before they were open */
        }
    }
    return KL_OK;
}

enum kl_status kl_node_start(const struct kl_config *config, struct kl_node **out,
                             enum kl_exit *exit_code, char *err, size_t err_len)
{
    struct kl_node *node = kl_calloc(1, sizeof *node);
    enum kl_status st;

    if (node == NULL) {
        *exit_code = KL_EXIT_INTERNAL;
        (void)snprintf(err, err_len, "out of memory");
        return KL_NO_MEMORY;
    }
    node->config = *config;
    node->data.lock_fd = -1;
    (void)pthread_mutex_init(&node->peers_lock, NULL);
    lay_out(node);
    st = open_files(node, exit_code, err, err_len);
    if (st == KL_OK) {
        st = open_network(node, exit_code, err, err_len);
    }
    if (st == KL_OK) {
        st = open_groups(node, exit_code, err, err_len);
    }
    if (st == KL_OK) {
        *exit_code = KL_EXIT_INTERNAL;
        st = kl_steward_start(node, &node->steward);
    }
    if (st == KL_OK) {
        *exit_code = KL_EXIT_NETWORK;
        st = kl_rpc_server_new(node->net, node->client_tls, config->listen_client, node->dispatch,
                               &node->rpc, err, err_len);
    }
    if (st != KL_OK) {
        kl_node_stop(node);
        return st;
    }
    *out = node;
    *exit_code = KL_EXIT_OK;
    return KL_OK;
}

uint16_t kl_node_client_port(const struct kl_node *node)
{
    return kl_rpc_server_port(node->rpc);
}

enum kl_status kl_node_reload(struct kl_node *node, const struct kl_config *config, char *err,
                              size_t err_len)
{
    const struct kl_tls_files files = {config->ca_file, config->cert_file, config->key_file};
    struct kl_auth *auth = NULL;
    enum kl_status st = kl_auth_new(config->principals, config->principals_n, &auth);

    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s", kl_status_info(st)->text);
        return st;
    }
    st = kl_tls_reload(node->client_tls, &files, err, err_len);
    if (st == KL_OK) {
        st = kl_tls_reload(node->peer_tls, &files, err, err_len);
    }
    if (st != KL_OK) {
        kl_auth_free(auth);
        return st;
    }
    kl_dispatch_set_auth(node->dispatch, auth);
    kl_log_set_level(config->log_level);
    return KL_OK;
}

/* ---- readiness and the end ---- */

static bool group_served(struct kl_node *node, size_t i)
{
    struct kl_host_uv *host = atomic_load(&node->hosts[i]);
    Kluis__Store__GroupRecord *record = NULL;
    struct kl_group_status status;
    struct kl_group *group;
    struct kl_read read;
    bool served;

    group = kl_host_uv_group(host);
    kl_group_status(group, &status);
    if (status.leader_id == 0 || (status.leader_id == node->view.node_id && !status.ready)) {
        return false;
    }
    if (kl_group_read_local(group, &read) != KL_OK) {
        return false;
    }
    served = kl_core_group(&read.view, &record) == KL_OK;
    kl_group_read_local_end(group, &read);
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    return served;
}

bool kl_node_wait_ready(struct kl_node *node, unsigned timeout_ms)
{
    for (unsigned waited = 0; waited <= timeout_ms; waited += POLL_MS) {
        bool ready = atomic_load(&node->unsealed);

        for (size_t i = 0; ready && i < node->groups_n; i++) {
            ready = group_served(node, i);
        }
        if (ready) {
            return true;
        }
        sleep_ms(POLL_MS);
    }
    return false;
}

static void ignore_done(void *arg, enum kl_status status)
{
    (void)arg;
    (void)status;
}

/* Leadership goes first, while calls are still answered: clients follow the hint and lose nothing. */
static void hand_over(struct kl_node *node)
{
    struct kl_group_status status;
    bool leads = true;

    for (size_t i = 0; i < node->groups_n; i++) {
        struct kl_host_uv *host = atomic_load(&node->hosts[i]);

        if (host != NULL && node->config.nodes_n > 1 &&
            kl_group_leader(kl_host_uv_group(host)) == node->view.node_id) {
            kl_group_transfer(kl_host_uv_group(host), 0, ignore_done, NULL);
        }
    }
    for (unsigned waited = 0; leads && waited < HANDOVER_MS; waited += POLL_MS) {
        leads = false;
        for (size_t i = 0; i < node->groups_n; i++) {
            struct kl_host_uv *host = atomic_load(&node->hosts[i]);

            if (host != NULL) {
                kl_group_status(kl_host_uv_group(host), &status);
                leads = leads || status.leader_id == node->view.node_id || status.leader_id == 0;
            }
        }
        if (leads) {
            sleep_ms(POLL_MS);
        }
    }
}

static void close_groups(struct kl_node *node)
{
    for (size_t i = 0; i < node->groups_n; i++) {
        struct kl_host_uv *host = atomic_exchange(&node->hosts[i], NULL);

        if (host != NULL) {
            kl_host_uv_stop(host);
        }
    }
}

void kl_node_stop(struct kl_node *node)
{
    atomic_store(&node->stopping, true);
    if (node->rpc != NULL && node->config.nodes_n > 1) {
        hand_over(node);
    }
    if (node->rpc != NULL) {
        kl_rpc_server_drain(node->rpc);
    }
    if (node->dispatch != NULL) {
        kl_dispatch_drain(node->dispatch, DRAIN_MS);
    }
    if (node->steward != NULL) {
        kl_steward_stop(node->steward);
    }
    if (node->rpc != NULL) {
        kl_rpc_server_free(node->rpc);
    }
    kl_peers_stop(
        node->peers); /* no more messages for the groups; they may still send into the void */
    close_groups(node);
    kl_dispatch_free(node->dispatch);
    kl_steward_free(node->steward);
    kl_peers_free(node->peers);
    kl_net_free(node->net);
    kl_pool_free(node->pool);
    kl_audit_free(node->audit);
    kl_tls_free(node->client_tls);
    kl_tls_free(node->peer_tls);
    kl_seal_free(node->seal);
    kl_datadir_close(&node->data);
    (void)pthread_mutex_destroy(&node->peers_lock);
    kl_free(node);
}
