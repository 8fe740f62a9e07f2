#include "server/node_parts.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    PERIOD_MS = 100,        /* how often the steward looks */
    SCHEDULER_MS = 1000,    /* how often it looks for due purges */
    SCHEDULER_TEST_MS = 50, /* … in test clusters */
    ALONE_MS = 5000,        /* without any other node: said once */
    KNOCK_MS = 5000,        /* a directory that waits to be accepted comes at least so often */
};

/* A proposal of the steward's own; one per group is under way at most. */
struct errand {
    struct kl_proposal p; /* first */
    struct kl_steward *steward;
    atomic_bool busy;
    kl_group_done_fn done; /* may be NULL */
    void *done_arg;
};

struct group_work {
    uint16_t id;
    struct errand errand;
    struct kl_scheduler *scheduler;
    struct kl_finisher *finisher;
    struct kl_member_work members;
};

struct kl_steward {
    struct kl_node *node;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
    /* A replacement somebody asked for; guarded by lock. */
    uint64_t replace_node;
    kl_group_done_fn replace_done;
    void *replace_arg;
    struct group_work *groups;
    size_t groups_n;
    unsigned alone_ms; /* the thread's */
};

/* ---- proposing ---- */

static void errand_done(struct kl_proposal *p, enum kl_status status, uint64_t index,
                        struct kl_bytes result)
{
    struct errand *e = (struct errand *)(void *)p;
    kl_group_done_fn done = e->done;
    void *arg = e->done_arg;

    (void)index;
    if (status == KL_OK) {
        Kluis__Log__CommandResult *r =
            kluis__log__command_result__unpack(&kl_pb_allocator, result.len, result.ptr);

        status = r == NULL ? KL_NO_MEMORY : (enum kl_status)r->status;
        kl_pb_wipe_free((ProtobufCMessage *)r, &kl_pb_allocator);
    }
    e->done = NULL;
    atomic_store(&e->busy, false);
    if (done != NULL) {
        done(arg, status);
    }
}

/* Proposes a command unless the last one is still under way; done may be NULL. */
static bool propose(struct kl_steward *s, struct group_work *w, const Kluis__Log__Command *command,
                    kl_group_done_fn done, void *arg)
{
    struct kl_host_uv *host = kl_node_host(s->node, w->id);
    struct errand *e = &w->errand;
    size_t size = kluis__log__command__get_packed_size(command);
    uint8_t *out = NULL;

    if (host == NULL || atomic_exchange(&e->busy, true)) {
        return false;
    }
    e->p = (struct kl_proposal){.command = KL_BUF(KL_COMMAND_MAX), .done = errand_done};
    e->done = done;
    e->done_arg = arg;
    if (kl_buf_grow(&e->p.command, size, &out) != KL_OK) {
        atomic_store(&e->busy, false);
        return false;
    }
    (void)kluis__log__command__pack(command, out);
    if (kl_group_propose(kl_host_uv_group(host), &e->p) != KL_OK) {
        kl_buf_wipe(&e->p.command);
        atomic_store(&e->busy, false);
        return false;
    }
    return true;
}

/* ---- first records ---- */

static void propose_init(struct kl_steward *s, struct group_work *w)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__GroupInit init = KLUIS__LOG__GROUP_INIT__INIT;
    Kluis__Store__GroupRecord record = KLUIS__STORE__GROUP_RECORD__INIT;
    /* Only read from here on; protobuf-c has no const. */
    struct kl_config_region *home = (void *)(uintptr_t)kl_topology_home(&s->node->config, w->id);
    uint8_t id[KL_ID_LEN];

    if (kl_real_entropy.fill(kl_real_entropy.ctx, id, sizeof id) != KL_OK) {
        return;
    }
    record.cluster_id = (ProtobufCBinaryData){sizeof id, id};
    record.geography = home->geography;
    record.region = home->name;
    record.day_ms = s->node->config.day_ms;
    init.group = &record;
    command.op_case = KLUIS__LOG__COMMAND__OP_GROUP_INIT;
    command.group_init = &init;
    if (propose(s, w, &command, NULL, NULL)) {
        kl_log(KL_LOG_INFO, "steward", "new group group=%u day_ms=%llu", (unsigned)w->id,
               (unsigned long long)record.day_ms);
    }
}

/* The geography's backup root shared by several clusters, when a file is configured. */
static bool geography_key(const struct kl_config *config, uint8_t key[KL_KEY_LEN], bool *given)
{
    char err[512] = "";

    *given = config->geography_key_file[0] != 0;
    if (*given && kl_key_file_read(config->geography_key_file, key, err, sizeof err) != KL_OK) {
        kl_log(KL_LOG_ERROR, "steward", "cannot read geography_key_file why=\"%s\"", err);
        return false;
    }
    return true;
}

static void propose_keyring(struct kl_steward *s, struct group_work *w)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__KeyringPut put = KLUIS__LOG__KEYRING_PUT__INIT;
    const struct kl_clock *agreed = kl_node_clock_agreed(s->node->clock);
    Kluis__Store__KeyringRecord *record = NULL;
    uint8_t key[KL_KEY_LEN] = {0};
    bool given = false;

    if (!geography_key(&s->node->config, key, &given)) {
        goto out;
    }
    if (kl_keyring_create(s->node->seal, &kl_real_entropy, given ? key : NULL,
                          agreed->wall_ms(agreed->ctx), &record) != KL_OK) {
        kl_log(KL_LOG_ERROR, "steward", "cannot make the keyring");
        goto out;
    }
    put.keyring = record;
    command.op_case = KLUIS__LOG__COMMAND__OP_KEYRING_PUT;
    command.keyring_put = &put;
    if (propose(s, w, &command, NULL, NULL)) {
        kl_log(KL_LOG_INFO, "steward", "new keyring proposed");
    }
out:
    kl_wipe(key, sizeof key);
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
}

static void open_keyring(struct kl_steward *s, const Kluis__Store__KeyringRecord *record)
{
    struct kl_keyring *ring = NULL;
    enum kl_status st = kl_keyring_open(s->node->seal, &kl_real_entropy, record, &ring);

    if (st != KL_OK) {
        kl_log(KL_LOG_ERROR, "steward",
               "the seal file does not open this cluster's keyring: the node stays sealed seal=%s",
               s->node->config.seal_file);
        return;
    }
    kl_dispatch_set_keyring(s->node->dispatch, ring);
    atomic_store(&s->node->unsealed, true);
    kl_log(KL_LOG_INFO, "steward", "unsealed roots=%zu", record->n_roots);
}

static void propose_register(struct kl_steward *s, struct group_work *w, uint64_t node_id,
                             const uint8_t uuid[KL_ID_LEN], bool replace, kl_group_done_fn done,
                             void *arg)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__NodeRegister reg = KLUIS__LOG__NODE_REGISTER__INIT;
    Kluis__Store__NodeRecord details = KLUIS__STORE__NODE_RECORD__INIT;
    uint8_t copy[KL_ID_LEN];

    memcpy(copy, uuid, sizeof copy);
    reg.node_id = node_id;
    reg.data_uuid = (ProtobufCBinaryData){sizeof copy, copy};
    reg.replace = replace;
    reg.details = kl_node_position(s->node, node_id) < 0 ? NULL : &details;
    if (reg.details != NULL) {
        struct kl_config_node *n = &s->node->config.nodes[kl_node_position(s->node, node_id)];

        details.name = n->name;
        details.region = n->region;
        details.client_address = n->client_address;
        details.peer_address = n->peer_address;
        details.witness = n->witness;
    }
    command.op_case = KLUIS__LOG__COMMAND__OP_NODE_REGISTER;
    command.node_register = &reg;
    if (propose(s, w, &command, done, arg)) {
        kl_log(KL_LOG_INFO, "steward", "data directory registered node=%llu replace=%d",
               (unsigned long long)node_id, replace);
    } else if (done != NULL) {
        done(arg, KL_UNAVAILABLE);
    }
}

/* Is anything about the node still to be noted in the directory? */
static bool to_be_registered(const struct kl_view *view, uint64_t id)
{
    Kluis__Store__NodeRecord *record = NULL;
    enum kl_status st = kl_core_node(view, id, &record);
    bool yes = st == KL_NOT_FOUND || (st == KL_OK && !record->removed &&
                                      (record->data_uuid.len == 0 || record->name[0] == 0));

    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    return yes;
}

/* Directory leader: the first data directory each node greets with becomes the registered one. */
static void register_nodes(struct kl_steward *s, struct group_work *w, const struct kl_view *view)
{
    struct kl_node *node = s->node;

    const size_t n = node->view.nodes_n;

    for (size_t i = 0; i < n; i++) {
        uint64_t id = node->infos[i].node_id;
        struct kl_peer_seen seen;

        (void)pthread_mutex_lock(&node->peers_lock);
        seen = node->seen[i];
        (void)pthread_mutex_unlock(&node->peers_lock);
        if (id == node->view.node_id) {
            memcpy(seen.uuid, node->data.uuid, KL_ID_LEN);
            seen.greeted = true;
        }
        if (seen.greeted && to_be_registered(view, id)) {
            propose_register(s, w, id, seen.uuid, false, NULL, NULL);
            return; /* one at a time */
        }
    }
}

/* ---- replacing a node ---- */

void kl_steward_replace(struct kl_steward *s, uint64_t node_id, kl_group_done_fn done, void *arg)
{
    bool taken = false;

    (void)pthread_mutex_lock(&s->lock);
    if (s->replace_node == 0 && !s->stop) {
        s->replace_node = node_id;
        s->replace_done = done;
        s->replace_arg = arg;
        taken = true;
        (void)pthread_cond_signal(&s->wake);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (!taken) {
        done(arg, KL_EXHAUSTED);
    }
}

/* The new data directory with which a node knocks at this one. */
static bool knocks(struct kl_node *node, uint64_t id, uint8_t uuid[KL_ID_LEN])
{
    const uint64_t now = kl_real_clock.mono_us(kl_real_clock.ctx);
    int i = kl_node_position(node, id);
    bool yes;

    if (i < 0 || id == node->view.node_id) {
        return false;
    }
    (void)pthread_mutex_lock(&node->peers_lock);
    yes = node->seen[i].refused_us != 0 && now - node->seen[i].refused_us <= KNOCK_MS * 1000ULL;
    memcpy(uuid, node->seen[i].refused_uuid, KL_ID_LEN);
    (void)pthread_mutex_unlock(&node->peers_lock);
    return yes;
}

/* Of a node that does not knock: KL_NOT_FOUND, unless it was replaced just now and whoever asks again
 * has not heard it. KL_OK then, or KL_UNAVAILABLE until the node has come back. */
static enum kl_status replaced_before(struct kl_steward *s, uint64_t id)
{
    const struct kl_clock *agreed = kl_node_clock_agreed(s->node->clock);
    struct kl_host_uv *host = kl_node_host(s->node, 0);
    Kluis__Store__NodeRecord *record = NULL;
    enum kl_status st = KL_NOT_FOUND;
    struct kl_read read;

    if (host == NULL || kl_group_read_local(kl_host_uv_group(host), &read) != KL_OK) {
        return KL_UNAVAILABLE;
    }
    if (kl_core_node(&read.view, id, &record) == KL_OK && !record->removed &&
        record->generation != 0 &&
        agreed->wall_ms(agreed->ctx) < record->registered_ms + KL_DEADLINE_MAX_MS) {
        st = kl_peers_connected(s->node->peers, id) ? KL_OK : KL_UNAVAILABLE;
    }
    kl_group_read_local_end(kl_host_uv_group(host), &read);
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    return st;
}

static void serve_replace(struct kl_steward *s, struct group_work *directory, bool leads)
{
    uint8_t uuid[KL_ID_LEN];
    kl_group_done_fn done;
    uint64_t id;
    void *arg;

    (void)pthread_mutex_lock(&s->lock);
    id = s->replace_node;
    done = s->replace_done;
    arg = s->replace_arg;
    s->replace_node = 0;
    (void)pthread_mutex_unlock(&s->lock);
    if (id == 0) {
        return;
    }
    if (!leads) {
        done(arg, KL_NOT_LEADER); /* only the leader is sure to be knocked at */
    } else if (knocks(s->node, id, uuid)) {
        propose_register(s, directory, id, uuid, true, done, arg);
    } else {
        done(arg, replaced_before(s, id));
    }
}

/* ---- the round ---- */

static void look_at_directory(struct kl_steward *s, struct group_work *w,
                              const struct kl_view *view, bool leads)
{
    Kluis__Store__KeyringRecord *keyring = NULL;
    enum kl_status st = kl_core_keyring(view, &keyring);

    if (s->node->seal == NULL) {
        /* a witness */
    } else if (st == KL_OK && !atomic_load(&s->node->unsealed)) {
        open_keyring(s, keyring);
    } else if (st == KL_NOT_FOUND && leads) {
        propose_keyring(s, w);
    }
    if (leads) {
        register_nodes(s, w, view);
    }
    kl_pb_wipe_free((ProtobufCMessage *)keyring, &kl_pb_allocator);
}

/* Groups are numbered by the order of the regions: one that got another number would serve the vaults
 * of another region. */
static void check_region(const struct kl_steward *s, const struct group_work *w,
                         const Kluis__Store__GroupRecord *record)
{
    const struct kl_config_region *home = kl_topology_home(&s->node->config, w->id);

    if (strcmp(record->region, home->name) != 0) {
        kl_log(KL_LOG_ERROR, "steward",
               "group %u is of region %s, but the configuration gives it to %s; regions must keep "
               "their order, new ones stand behind the others; this process ends",
               (unsigned)w->id, record->region, home->name);
        _exit(KL_EXIT_CONFIG);
    }
}

static void look_at_group(struct kl_steward *s, struct group_work *w)
{
    struct kl_host_uv *host = kl_node_host(s->node, w->id);
    Kluis__Store__GroupRecord *record = NULL;
    struct kl_group_status status;
    struct kl_group *group;
    struct kl_read read;
    enum kl_status st;

    if (host == NULL) {
        return;
    }
    group = kl_host_uv_group(host);
    kl_group_status(group, &status);
    if (kl_group_read_local(group, &read) != KL_OK) {
        return;
    }
    st = kl_core_group(&read.view, &record);
    if (st == KL_OK) {
        check_region(s, w, record);
    }
    if (st == KL_NOT_FOUND && status.ready) {
        propose_init(s, w);
    } else if (st == KL_OK && w->id == 0) {
        kl_node_learn(s->node, &read.view);
        look_at_directory(s, w, &read.view, status.ready);
    }
    kl_group_read_local_end(group, &read);
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    if (w->id == 0) {
        serve_replace(s, w, status.ready);
    }
    if (st == KL_OK && status.ready) {
        kl_node_reconcile(s->node, group, &status, &w->members);
        kl_scheduler_tick(w->scheduler);
        kl_finisher_tick(w->finisher);
    }
}

/* A node that dials nobody (the highest id does not) and is dialled by nobody has no other sign of
 * a wrong address, or of a process elsewhere that has its id. */
static void look_for_others(struct kl_steward *s)
{
    const struct kl_config *c = &s->node->config;
    const size_t n = s->node->view.nodes_n;
    bool alone = n > 1;

    for (size_t i = 0; alone && i < n; i++) {
        alone = !kl_peers_connected(s->node->peers, c->nodes[i].id);
    }
    if (!alone) {
        s->alone_ms = 0;
        return;
    }
    if (s->alone_ms < ALONE_MS && s->alone_ms + PERIOD_MS >= ALONE_MS &&
        (s->node->infos[kl_node_position(s->node, s->node->view.node_id)].marks &
         KL_NODE_REMOVED) != 0) {
        kl_log(KL_LOG_ERROR, "steward",
               "this node was removed from the cluster and the others have left it; this process "
               "ends");
        _exit(KL_EXIT_DUPLICATE);
    }
    if (s->alone_ms < ALONE_MS && s->alone_ms + PERIOD_MS >= ALONE_MS) {
        kl_log(KL_LOG_WARN, "steward",
               "no other node is connected hint=\"are they running, does peer_address of %s in "
               "their configuration lead here, is no other process running as %s?\"",
               c->self, c->self);
    }
    s->alone_ms += s->alone_ms < ALONE_MS ? PERIOD_MS : 0;
}

/* Time never is behind what any log says. */
static void tick_clock(struct kl_steward *s)
{
    uint64_t last_entry_ms = 0;

    for (size_t i = 0; i < s->groups_n; i++) {
        struct kl_host_uv *host = kl_node_host(s->node, s->groups[i].id);
        struct kl_group_status status;

        if (host != NULL) {
            kl_group_status(kl_host_uv_group(host), &status);
            last_entry_ms = status.applied_ms > last_entry_ms ? status.applied_ms : last_entry_ms;
        }
    }
    kl_node_clock_tick(s->node->clock, last_entry_ms);
}

static void *run(void *arg)
{
    struct kl_steward *s = arg;
    struct timespec until;

    (void)pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        (void)pthread_mutex_unlock(&s->lock);
        tick_clock(s);
        for (size_t i = 0; i < s->groups_n; i++) {
            look_at_group(s, &s->groups[i]);
        }
        look_for_others(s);
        kl_node_note_own(s->node);
        (void)pthread_mutex_lock(&s->lock);
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += PERIOD_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        if (!s->stop && s->replace_node == 0) {
            (void)pthread_cond_timedwait(&s->wake, &s->lock, &until);
        }
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

static enum kl_status open_group_work(struct kl_steward *s, struct group_work *w, uint16_t id)
{
    struct kl_node *node = s->node;
    struct kl_scheduler_options so = {
        .group = kl_host_uv_group(kl_node_host(node, id)),
        .clock = kl_node_clock_agreed(node->clock),
        .held = kl_node_clock_held,
        .held_ctx = node->clock,
        .period_ms = node->config.test_cluster ? SCHEDULER_TEST_MS : SCHEDULER_MS,
    };
    enum kl_status st;

    w->id = w->members.group = id;
    w->errand.steward = s;
    st = kl_scheduler_new(&so, &w->scheduler);
    return st != KL_OK ? st : kl_node_finisher_new(node, id, &w->finisher);
}

enum kl_status kl_steward_start(struct kl_node *node, struct kl_steward **out)
{
    struct kl_steward *s = kl_calloc(1, sizeof *s);
    pthread_condattr_t monotonic;
    enum kl_status st = KL_OK;

    if (s == NULL) {
        return KL_NO_MEMORY;
    }
    s->node = node;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&s->wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    s->groups = kl_calloc(node->groups_n, sizeof *s->groups);
    if (s->groups == NULL) {
        st = KL_NO_MEMORY;
    }
    for (size_t i = 0; st == KL_OK && i < node->groups_n; i++) {
        if (kl_node_holds(node, i)) {
            st = open_group_work(s, &s->groups[s->groups_n++], node->groups[i]);
        }
    }
    if (st == KL_OK && pthread_create(&s->thread, NULL, run, s) != 0) {
        st = KL_NO_MEMORY;
    }
    if (st != KL_OK) {
        s->stop = true;
        kl_steward_free(s);
        return st;
    }
    *out = s;
    return KL_OK;
}

void kl_steward_stop(struct kl_steward *s)
{
    kl_group_done_fn done;
    void *arg;

    (void)pthread_mutex_lock(&s->lock);
    s->stop = true;
    done = s->replace_node != 0 ? s->replace_done : NULL;
    arg = s->replace_arg;
    s->replace_node = 0;
    (void)pthread_cond_signal(&s->wake);
    (void)pthread_mutex_unlock(&s->lock);
    (void)pthread_join(s->thread, NULL);
    if (done != NULL) {
        done(arg, KL_UNAVAILABLE);
    }
}

void kl_steward_free(struct kl_steward *s)
{
    if (s == NULL) {
        return;
    }
    for (size_t i = 0; s->groups != NULL && i < s->groups_n; i++) {
        kl_scheduler_free(s->groups[i].scheduler);
        kl_finisher_free(s->groups[i].finisher);
    }
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_cond_destroy(&s->wake);
    kl_free(s->groups);
    kl_free(s);
}

uint64_t kl_steward_purged(const struct kl_steward *s)
{
    uint64_t n = 0;

    for (size_t i = 0; i < s->groups_n; i++) {
        n += kl_scheduler_purged(s->groups[i].scheduler);
    }
    return n;
}
