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
    ERR_LEN = 2048,
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
    const size_t n = node->view.nodes_n;

    for (size_t i = 0; i < n; i++) {
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

static bool view_votes(void *ctx, uint16_t group, uint64_t node_id)
{
    const struct kl_node *node = ctx;
    int i = kl_node_position(node, node_id);

    return i >= 0 && (node->infos[i].marks & KL_NODE_REMOVED) == 0 &&
           kl_topology_votes(&node->config, group, node->config.nodes[i].region,
                             node->config.nodes[i].witness);
}

bool kl_node_holds(const struct kl_node *node, size_t i)
{
    return view_votes((void *)(uintptr_t)node, node->groups[i], node->view.node_id);
}

static uint16_t view_place(void *ctx, const char *location, const uint8_t vault_id[KL_ID_LEN])
{
    const struct kl_node *node = ctx;

    return kl_topology_place(&node->config, location, vault_id);
}

static struct kl_placement view_placement(void *ctx, uint16_t group)
{
    const struct kl_node *node = ctx;
    const struct kl_config_region *home = kl_topology_home(&node->config, group);
    const struct kl_config_region *mirror = kl_topology_mirror(&node->config, group);

    return (struct kl_placement){.home = home->name,
                                 .geography = home->geography,
                                 .mirror = mirror == NULL ? NULL : mirror->name};
}

static bool view_connected(void *ctx, uint64_t node_id)
{
    struct kl_node *node = ctx;

    return kl_peers_connected(node->peers, node_id);
}

static void view_member_address(void *ctx, uint64_t node_id, char out[KL_MEMBER_ADDRESS_LEN])
{
    kl_node_registered_address(ctx, node_id, out);
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
    fn(arg, "purges_held", kl_node_clock_held(node->clock));
    fn(arg, "clock_jumps_total", kl_node_clock_jumps(node->clock));
}

static void view_clock(void *ctx, struct kl_clock_view *out)
{
    struct kl_node *node = ctx;

    kl_node_clock_view(node->clock, out);
}

static enum kl_status view_confirm_time(void *ctx, uint64_t shown_ms, bool step)
{
    struct kl_node *node = ctx;

    return kl_node_clock_confirm(node->clock, shown_ms, step);
}

static void view_replace(void *ctx, uint64_t node_id, kl_group_done_fn done, void *arg)
{
    struct kl_node *node = ctx;

    kl_steward_replace(node->steward, node_id, done, arg);
}

static void on_fatal(void *ctx, uint16_t group, const char *why)
{
    (void)ctx;
    kl_log(KL_LOG_ERROR, "node", "cannot go on group=%u why=\"%s\"", (unsigned)group, why);
    _exit(KL_EXIT_FATAL);
}

/* What to do about a damaged data directory; `what` says which part of it is damaged. */
static void advise(const struct kl_node *node, char *what, size_t len)
{
    size_t n = strlen(what);

    if (node->view.nodes_n > 1) {
        (void)snprintf(what + n, len - n,
                       "; to get the data back from the other nodes: move %s away, run kluisd "
                       "--join, start the node, then kluis cluster replace-node --node-id %llu",
                       node->config.data_dir, (unsigned long long)node->view.node_id);
    } else {
        (void)snprintf(what + n, len - n,
                       "; this is the only node: put back a copy of %s, or move it away, run "
                       "kluisd --init and restore backups of the vaults",
                       node->config.data_dir);
    }
}

static void on_changed(void *ctx, uint16_t group)
{
    struct kl_node *node = ctx;
    struct kl_group_status status;

    for (size_t i = 0; i < node->groups_n; i++) {
        struct kl_host_uv *host = atomic_load(&node->hosts[i]);

        if (node->groups[i] != group || host == NULL ||
            kl_group_leader(kl_host_uv_group(host)) == node->leaders[i]) {
            continue;
        }
        kl_group_status(kl_host_uv_group(host), &status);
        node->leaders[i] = status.leader_id;
        kl_log(KL_LOG_INFO, "node", "leader group=%u node=%llu term=%llu", (unsigned)group,
               (unsigned long long)status.leader_id, (unsigned long long)status.term);
    }
}

static void on_damaged(void *ctx, uint16_t group, enum kl_status status, const char *why)
{
    char text[ERR_LEN];

    (void)snprintf(text, sizeof text, "the store of group %u cannot be read (%s)", (unsigned)group,
                   why);
    if (status != KL_CORRUPT) {
        on_fatal(ctx, group, text);
    }
    advise(ctx, text, sizeof text);
    kl_log(KL_LOG_ERROR, "node", "this replica is damaged; the process ends why=\"%s\"", text);
    _exit(KL_EXIT_CORRUPT);
}

/* ---- building ---- */

static void lay_out(struct kl_node *node)
{
    const struct kl_config *c = &node->config;

    node->groups_n = kl_topology_groups(c, node->groups);
    for (size_t i = 0; i < c->nodes_n; i++) {
        kl_node_describe(node, i);
    }
    node->view = (struct kl_node_view){
        .ctx = node,
        .cluster = c->cluster,
        .geography = c->geography,
        .default_subscription = c->subscription,
        .locations = node->locations,
        .locations_n = kl_topology_locations(c, node->locations),
        .node_id = kl_config_self(c)->id,
        .witness = kl_config_self(c)->witness,
        .nodes = node->infos,
        .nodes_n = c->nodes_n,
        .groups = node->groups,
        .groups_n = node->groups_n,
        .started_us = kl_real_clock.mono_us(kl_real_clock.ctx),
        .group = view_group,
        .votes = view_votes,
        .place = view_place,
        .placement = view_placement,
        .connected = view_connected,
        .member_address = view_member_address,
        .sealed = view_sealed,
        .counters = view_counters,
        .may_add = kl_node_may_add,
        .may_leave = kl_node_may_leave,
        .replace_node = view_replace,
        .clock = view_clock,
        .confirm_time = view_confirm_time,
    };
}

static struct kl_tls_files tls_files(const struct kl_config *config)
{
    return (struct kl_tls_files){.ca_file = config->ca_file,
                                 .cert_file = config->cert_file,
                                 .key_file = config->key_file,
                                 .cluster = config->cluster,
                                 .node_id = kl_config_self(config)->id};
}

static enum kl_status open_tls(struct kl_node *node, char *err, size_t err_len)
{
    const struct kl_tls_files files = tls_files(&node->config);
    enum kl_status st = kl_tls_new(KL_TLS_SERVER, &files, &node->client_tls, err, err_len);

    return st != KL_OK ? st : kl_tls_new(KL_TLS_PEER, &files, &node->peer_tls, err, err_len);
}

static uint8_t node_distance(void *ctx, uint16_t group, uint64_t node_id)
{
    static const uint8_t distances[] = {[KL_NODE_HOME] = KL_DISTANCE_HOME,
                                        [KL_NODE_PAIR] = KL_DISTANCE_PAIR,
                                        [KL_NODE_WITNESS] = KL_DISTANCE_WITNESS};
    const struct kl_node *node = ctx;
    int i = kl_node_position(node, node_id);

    if (i >= 0 && (node->infos[i].marks & (KL_NODE_DRAINED | KL_NODE_REMOVED)) != 0) {
        return KL_DISTANCE_DRAINED;
    }
    return i < 0
               ? KL_DISTANCE_PAIR
               : distances[kl_topology_distance(&node->config, group, node->config.nodes[i].region,
                                                node->config.nodes[i].witness)];
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
        .failback_after_ms = c->failback_after_ms,
        .distance = node_distance,
        .cache_bytes = c->cache_bytes,
        /* Only with the cluster itself: a group that a later configuration adds to this node is begun
         * by others, if it is not there already. */
        .bootstrap = node->data.initial && !node->data.opened[0] ? voters : NULL,
        .clock = kl_node_clock_agreed(node->clock),
        .peers = &node->peers,
        .ctx = node,
        .fatal = on_fatal,
        .changed = on_changed,
        .damaged = on_damaged,
    };
    enum kl_status st =
        kl_datadir_group_check(c->data_dir, &node->data, node->groups[i], err, err_len);

    if (st != KL_OK) {
        return st;
    }
    st = kl_datadir_group(c->data_dir, node->groups[i], dir, sizeof dir);
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: cannot make the directory of group %u", c->data_dir,
                       (unsigned)node->groups[i]);
        return st;
    }
    (void)snprintf(address, sizeof address, "%llu", (unsigned long long)o.node_id);
    for (size_t k = 0; k < c->nodes_n; k++) {
        size_t n = o.bootstrap_n;

        if (view_votes(node, o.group, c->nodes[k].id)) {
            (void)snprintf(names[n], sizeof names[n], "%llu", (unsigned long long)c->nodes[k].id);
            voters[n] = (struct kl_member){c->nodes[k].id, names[n]};
            o.bootstrap_n++;
        }
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
        .agreed = kl_node_clock_agreed(node->clock),
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

enum kl_status kl_node_audit_open(const struct kl_config *c, struct kl_audit **out, char *err,
                                  size_t err_len)
{
    char path[PATH_LEN];

    if (strcmp(c->audit_file, "off") == 0) {
        return kl_audit_new(NULL, AUDIT_FILE_MAX, AUDIT_FILES_MAX, out, err, err_len);
    }
    if (c->audit_file[0] == 0) {
        (void)snprintf(path, sizeof path, "%s/audit.log", c->data_dir);
    } else {
        (void)snprintf(path, sizeof path, "%s", c->audit_file);
    }
    return kl_audit_new(path, AUDIT_FILE_MAX, AUDIT_FILES_MAX, out, err, err_len);
}

static enum kl_exit exit_of_datadir(enum kl_status st)
{
    return st == KL_CORRUPT ? KL_EXIT_CORRUPT : KL_EXIT_DATA_DIR;
}

/* The files that the configuration names. */
static enum kl_status open_credentials(struct kl_node *node, char *err, size_t err_len)
{
    const struct kl_config *c = &node->config;
    uint8_t key[KL_KEY_LEN]; /* needed later, checked now */
    enum kl_status st = open_tls(node, err, err_len);

    if (st == KL_OK && !kl_config_self(c)->witness) {
        st = kl_seal_file_open(c->seal_file, &node->seal, err, err_len);
    }
    if (st == KL_OK && c->geography_key_file[0] != 0) {
        st = kl_key_file_read(c->geography_key_file, key, err, err_len);
        kl_wipe(key, sizeof key);
    }
    return st;
}

static void close_credentials(struct kl_node *node)
{
    kl_tls_free(node->client_tls);
    kl_tls_free(node->peer_tls);
    kl_seal_free(node->seal);
}

enum kl_status kl_node_check(const struct kl_config *config, char *err, size_t err_len)
{
    struct kl_node *node = kl_calloc(1, sizeof *node);
    enum kl_status st;

    if (node == NULL) {
        (void)snprintf(err, err_len, "out of memory");
        return KL_NO_MEMORY;
    }
    node->config = *config;
    st = open_credentials(node, err, err_len);
    close_credentials(node);
    kl_free(node);
    return st;
}

/* Everything up to the first socket: files of the configuration and the data directory. */
static enum kl_status open_files(struct kl_node *node, enum kl_exit *exit_code, char *err,
                                 size_t err_len)
{
    const struct kl_config *c = &node->config;
    enum kl_status st;

    *exit_code = KL_EXIT_CONFIG;
    st = open_credentials(node, err, err_len);
    if (st != KL_OK) {
        return st;
    }
    st = kl_datadir_open(c->data_dir, c->cluster, kl_config_self(c)->id, &node->data, err, err_len);
    if (st != KL_OK) {
        *exit_code = exit_of_datadir(st);
        if (st == KL_CORRUPT) {
            advise(node, err, err_len);
        }
        return st;
    }
    return kl_node_audit_open(c, &node->audit, err, err_len);
}

static void send_clock(void *ctx, uint64_t to_node, struct kl_bytes message)
{
    struct kl_node *node = ctx;

    if (atomic_load(&node->peers_open)) {
        kl_peers_send(node->peers, to_node, KL_NODE_CLOCK_FRAMES, KL_LANE_CONTROL, message);
    }
}

static enum kl_status open_clock(struct kl_node *node)
{
    uint64_t ids[KL_NODES_MAX];
    const struct kl_node_clock_options o = {
        .node_id = node->view.node_id,
        .ids = ids,
        .n = node->config.nodes_n,
        .clock = &kl_real_clock,
        .send = send_clock,
        .ctx = node,
    };

    for (size_t i = 0; i < o.n; i++) {
        ids[i] = node->config.nodes[i].id;
    }
    return kl_node_clock_new(&o, &node->clock);
}

static enum kl_status open_network(struct kl_node *node, enum kl_exit *exit_code, char *err,
                                   size_t err_len)
{
    enum kl_status st;

    *exit_code = KL_EXIT_INTERNAL;
    st = kl_pool_new(node->config.workers, POOL_QUEUE_MAX, &node->pool);
    if (st == KL_OK) {
        st = open_clock(node);
    }
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
    st = kl_node_open_peers(node, err, err_len);
    atomic_store(&node->peers_open, st == KL_OK);
    return st;
}

static enum kl_status open_groups(struct kl_node *node, enum kl_exit *exit_code, char *err,
                                  size_t err_len)
{
    uint16_t held[KL_GROUPS_MAX];
    size_t held_n = 0;
    enum kl_status noted;

    for (size_t i = 0; i < node->groups_n; i++) {
        enum kl_status st;

        if (!kl_node_holds(node, i)) {
            continue;
        }
        held[held_n++] = node->groups[i];
        st = open_group(node, i, err, err_len);

        if (st != KL_OK) {
            *exit_code = st == KL_CORRUPT ? KL_EXIT_CORRUPT : KL_EXIT_FATAL;
            if (st == KL_CORRUPT) {
                advise(node, err, err_len);
            }
            return st;
        }
    }
    noted = kl_datadir_note_groups(node->config.data_dir, &node->data, held, held_n, err, err_len);
    if (noted != KL_OK) {
        *exit_code = KL_EXIT_FATAL;
        return noted;
    }
    for (size_t i = 0; i < node->config.nodes_n; i++) {
        if (kl_peers_connected(node->peers, node->config.nodes[i].id)) {
            kl_node_tell_groups(node, node->config.nodes[i].id,
                                true); /* it came before they were open */
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
    const struct kl_tls_files files = tls_files(config);
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
        bool ready = atomic_load(&node->unsealed) || node->view.witness;

        for (size_t i = 0; ready && i < node->groups_n; i++) {
            ready = !kl_node_holds(node, i) || group_served(node, i);
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

        if (host != NULL && node->view.nodes_n > 1 &&
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
    if (node->rpc != NULL && node->view.nodes_n > 1) {
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
    kl_node_clock_free(node->clock);
    kl_net_free(node->net);
    kl_pool_free(node->pool);
    kl_audit_free(node->audit);
    close_credentials(node);
    kl_datadir_close(&node->data);
    (void)pthread_mutex_destroy(&node->peers_lock);
    kl_free(node);
}
