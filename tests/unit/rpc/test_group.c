/*
 * The dispatcher over real groups of one node: libraft, LevelDB, threads. What the other tests show
 * over groups in memory must hold here too, also after a restart.
 */
#include "server/raft/host_uv.h"
#include "server/rpc/dispatch.h"
#include "tests/lib/test.h"

#include "common/alloc.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>

#define TEXT(s) ((char *)(uintptr_t)(s))

enum { GROUPS = 2, WAIT_MS = 20000 };

static const uint16_t group_ids[GROUPS] = {0, 1};
static const char *const locations[] = {"here"};
static const struct kl_node_info infos[] = {{1, "one", "here", "127.0.0.1:1", false, 0}};

struct node {
    const char *dir;
    struct kl_host_uv *hosts[GROUPS];
    struct kl_node_view view;
    struct kl_pool *pool;
    struct kl_audit *audit;
    struct kl_dispatch *dispatch;
    struct kl_peers *peers;
};

static struct kl_group *view_group(void *ctx, uint16_t id)
{
    struct node *n = ctx;

    return id < GROUPS ? kl_host_uv_group(n->hosts[id]) : NULL;
}

static uint16_t view_place(void *ctx, const char *location, const uint8_t vault_id[KL_ID_LEN])
{
    (void)ctx;
    (void)location;
    (void)vault_id;
    return 1;
}

static bool view_votes(void *ctx, uint16_t group, uint64_t node_id)
{
    (void)ctx;
    (void)group;
    (void)node_id;
    return true;
}

static struct kl_placement view_placement(void *ctx, uint16_t group)
{
    (void)ctx;
    return (struct kl_placement){.home = group == 2 ? "south" : "north",
                                 .geography = "lab",
                                 .mirror = group == 1 ? "south" : NULL};
}

static bool view_connected(void *ctx, uint64_t id)
{
    (void)ctx;
    (void)id;
    return false;
}

static void view_member_address(void *ctx, uint64_t id, char out[KL_MEMBER_ADDRESS_LEN])
{
    (void)ctx;
    (void)snprintf(out, KL_MEMBER_ADDRESS_LEN, "%llu", (unsigned long long)id);
}

static bool view_sealed(void *ctx)
{
    (void)ctx;
    return false;
}

static void view_counters(void *ctx, void (*fn)(void *arg, const char *name, uint64_t value),
                          void *arg)
{
    (void)ctx;
    (void)fn;
    (void)arg;
}

static void view_clock(void *ctx, struct kl_clock_view *out)
{
    (void)ctx;
    *out = (struct kl_clock_view){.time_ms = 1000, .wall_ms = 2000, .why = ""};
}

static enum kl_status view_confirm_time(void *ctx, uint64_t shown_ms, bool step)
{
    (void)ctx;
    return shown_ms == 1 || step ? KL_CHANGED : KL_OK;
}

static void on_fatal(void *ctx, uint16_t group, const char *why)
{
    (void)ctx;
    print_error("group %u cannot go on: %s\n", (unsigned)group, why);
    abort();
}

static void nap(void)
{
    const struct timespec t = {0, 2000000};

    (void)nanosleep(&t, NULL);
}

/* ---- a proposal of our own ---- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    enum kl_status st;
};

static void on_proposed(struct kl_proposal *p, enum kl_status st, uint64_t index,
                        struct kl_bytes result)
{
    struct waiter *w = p->arg;

    (void)index;
    (void)result;
    (void)pthread_mutex_lock(&w->lock);
    w->done = true;
    w->st = st;
    (void)pthread_cond_signal(&w->changed);
    (void)pthread_mutex_unlock(&w->lock);
}

static void propose(struct kl_group *group, Kluis__Log__Command *command)
{
    struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct kl_proposal p = {.command = KL_BUF(KL_COMMAND_MAX), .done = on_proposed, .arg = &w};
    uint8_t *bytes;

    CHECK_OK(kl_buf_grow(&p.command, kluis__log__command__get_packed_size(command), &bytes));
    (void)kluis__log__command__pack(command, bytes);
    CHECK_OK(kl_group_propose(group, &p));
    (void)pthread_mutex_lock(&w.lock);
    while (!w.done) {
        (void)pthread_cond_wait(&w.changed, &w.lock);
    }
    (void)pthread_mutex_unlock(&w.lock);
    CHECK_OK(w.st);
}

static void init_group(struct kl_group *group)
{
    static uint8_t cluster_id[KL_ID_LEN] = {7};
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__GroupInit init = KLUIS__LOG__GROUP_INIT__INIT;
    Kluis__Store__GroupRecord record = KLUIS__STORE__GROUP_RECORD__INIT;

    record.cluster_id = (ProtobufCBinaryData){KL_ID_LEN, cluster_id};
    record.geography = TEXT("lab");
    record.day_ms = KL_DAY_MS;
    init.group = &record;
    command.op_case = KLUIS__LOG__COMMAND__OP_GROUP_INIT;
    command.group_init = &init;
    propose(group, &command);
}

/* ---- the node ---- */

static void open_group(struct node *n, size_t i, bool first)
{
    const struct kl_member voter = {1, "1"};
    char dir[300];
    char err[300] = "";
    struct kl_group_status status;
    const struct kl_host_uv_options o = {
        .group = group_ids[i],
        .node_id = 1,
        .address = "1",
        .dir = dir,
        .election_timeout_ms = 2000, /* a busy machine must not cost the lease */
        .cache_bytes = 8 << 20,
        .bootstrap = first ? &voter : NULL,
        .bootstrap_n = 1,
        .peers = &n->peers,
        .ctx = n,
        .fatal = on_fatal,
    };
    unsigned waited = 0;

    (void)snprintf(dir, sizeof dir, "%s/%u", n->dir, (unsigned)i);
    (void)mkdir(dir, 0700);
    if (kl_host_uv_start(&o, &n->hosts[i], err, sizeof err) != KL_OK) {
        print_error("%s\n", err);
        fail();
    }
    do {
        nap();
        kl_group_status(kl_host_uv_group(n->hosts[i]), &status);
        waited += 2;
    } while (!status.ready && waited < WAIT_MS);
    CHECK(status.ready);
    if (first) {
        init_group(kl_host_uv_group(n->hosts[i]));
    }
}

static void node_open(struct node *n, bool first, struct kl_seal *seal,
                      const Kluis__Store__KeyringRecord *keyring)
{
    struct kl_keyring *ring = NULL;
    struct kl_principal admin = {.name = "admin"};
    struct kl_auth *auth = NULL;
    char err[200];
    struct kl_dispatch_options o = {
        .clock = &kl_real_clock,
        .entropy = &kl_real_entropy,
        .node = &n->view,
        .peers = &n->peers,
        .calls_max = 1024,
    };

    n->view = (struct kl_node_view){
        .ctx = n,
        .cluster = "testing",
        .geography = "lab",
        .default_subscription = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        .locations = locations,
        .locations_n = 1,
        .node_id = 1,
        .nodes = infos,
        .nodes_n = 1,
        .groups = group_ids,
        .groups_n = GROUPS,
        .group = view_group,
        .votes = view_votes,
        .place = view_place,
        .placement = view_placement,
        .connected = view_connected,
        .member_address = view_member_address,
        .sealed = view_sealed,
        .counters = view_counters,
        .clock = view_clock,
        .confirm_time = view_confirm_time,
    };
    for (size_t i = 0; i < GROUPS; i++) {
        open_group(n, i, first);
    }
    CHECK_OK(kl_pool_new(2, 1024, &n->pool));
    CHECK_OK(kl_audit_new(NULL, 1 << 20, 2, &n->audit, err, sizeof err));
    o.pool = n->pool;
    o.audit = n->audit;
    CHECK_OK(kl_dispatch_new(&o, &n->dispatch));
    admin.rights = UINT64_MAX >> 22 & ~1ull; /* all below "node" */
    kl_auth_token_hash(kl_bytes_str("t"), admin.token_sha256);
    CHECK_OK(kl_auth_new(&admin, 1, &auth));
    kl_dispatch_set_auth(n->dispatch, auth);
    CHECK_OK(kl_keyring_open(seal, &kl_real_entropy, keyring, &ring));
    kl_dispatch_set_keyring(n->dispatch, ring);
}

static void node_close(struct node *n)
{
    kl_dispatch_drain(n->dispatch, 5000);
    for (size_t i = 0; i < GROUPS; i++) {
        kl_host_uv_stop(n->hosts[i]);
    }
    kl_dispatch_free(n->dispatch);
    kl_pool_free(n->pool);
    kl_audit_free(n->audit);
}

/* ---- calls ---- */

struct reply {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned n;
    Kluis__V1__Reply *last;
};

static void on_reply(void *arg, uint32_t stream, struct kl_bytes bytes)
{
    struct reply *r = arg;

    (void)stream;
    (void)pthread_mutex_lock(&r->lock);
    r->n++;
    r->last = kluis__v1__reply__unpack(NULL, bytes.len, bytes.ptr);
    (void)pthread_cond_signal(&r->changed);
    (void)pthread_mutex_unlock(&r->lock);
}

static struct kl_buf pack(const char *method, const ProtobufCMessage *request, uint64_t id)
{
    Kluis__V1__Call c = KLUIS__V1__CALL__INIT;
    Kluis__V1__Metadata auth = KLUIS__V1__METADATA__INIT;
    Kluis__V1__Metadata *metadata[1] = {&auth};
    uint8_t request_id[KL_ID_LEN] = {0};
    uint8_t payload[4096];
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    uint8_t *p;

    kl_put_be64(request_id, id);
    c.method = TEXT(method);
    c.request_id = (ProtobufCBinaryData){KL_ID_LEN, request_id};
    auth.key = TEXT("authorization");
    auth.value = TEXT("Bearer t");
    c.metadata = metadata;
    c.n_metadata = 1;
    CHECK(protobuf_c_message_get_packed_size(request) <= sizeof payload);
    c.payload = (ProtobufCBinaryData){protobuf_c_message_pack(request, payload), payload};
    CHECK_OK(kl_buf_grow(&packed, kluis__v1__call__get_packed_size(&c), &p));
    (void)kluis__v1__call__pack(&c, p);
    return packed;
}

/* The reply, freed by the caller. */
static Kluis__V1__Reply *ask(struct node *n, const char *method, const ProtobufCMessage *request,
                             uint64_t id)
{
    struct reply r = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct kl_buf packed = pack(method, request, id);
    const struct kl_origin origin = {.reply = on_reply, .arg = &r};

    kl_dispatch_call(n->dispatch, &packed, &origin);
    (void)pthread_mutex_lock(&r.lock);
    while (r.n == 0) {
        (void)pthread_cond_wait(&r.changed, &r.lock);
    }
    (void)pthread_mutex_unlock(&r.lock);
    CHECK(r.last != NULL);
    return r.last;
}

static void expect(struct node *n, const char *method, const ProtobufCMessage *request, uint64_t id,
                   const char *status)
{
    Kluis__V1__Reply *r = ask(n, method, request, id);

    CHECK_STR(r->status, status);
    kluis__v1__reply__free_unpacked(r, NULL);
}

static void set(struct node *n, const char *name, const char *value, uint64_t id)
{
    Kluis__V1__SecretSetRequest req = KLUIS__V1__SECRET_SET_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT(name);
    req.value = (ProtobufCBinaryData){strlen(value), (uint8_t *)TEXT(value)};
    expect(n, "/kluis.v1.Secrets/Set", &req.base, id, "OK");
}

static void check_value(struct node *n, const char *name, const char *value)
{
    Kluis__V1__SecretGetRequest req = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    Kluis__V1__SecretGetResponse *g;
    Kluis__V1__Reply *r;

    req.vault = TEXT("vault");
    req.name = TEXT(name);
    r = ask(n, "/kluis.v1.Secrets/Get", &req.base, 0);
    CHECK_STR(r->status, "OK");
    g = kluis__v1__secret_get_response__unpack(NULL, r->payload.len, r->payload.data);
    CHECK(g != NULL);
    CHECK_EQ(g->secret->value.len, strlen(value));
    CHECK_MEM(g->secret->value.data, value, strlen(value));
    kluis__v1__secret_get_response__free_unpacked(g, NULL);
    kluis__v1__reply__free_unpacked(r, NULL);
}

static void seal_new(struct kl_seal **seal, Kluis__Store__KeyringRecord **keyring)
{
    char path[300];
    char err[200] = "";

    (void)snprintf(path, sizeof path, "%s/seal", test_dir());
    CHECK_OK(kl_seal_file_create(path, &kl_real_entropy, err, sizeof err));
    CHECK_OK(kl_seal_file_open(path, seal, err, sizeof err));
    CHECK_OK(kl_keyring_create(*seal, &kl_real_entropy, NULL, 1, keyring));
}

/* A vault and its secrets, written, read, deleted, retried, before and after a restart. */
TEST(group, life_and_restart)
{
    struct node n = {.dir = test_dir()};
    struct kl_seal *seal = NULL;
    Kluis__Store__KeyringRecord *keyring = NULL;
    Kluis__V1__VaultCreateRequest create = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    Kluis__V1__SecretDeleteRequest del = KLUIS__V1__SECRET_DELETE_REQUEST__INIT;
    char name[16];

    seal_new(&seal, &keyring);
    node_open(&n, true, seal, keyring);
    create.name = TEXT("vault");
    expect(&n, "/kluis.v1.Vaults/Create", &create.base, 1, "OK");
    expect(&n, "/kluis.v1.Vaults/Create", &create.base, 1, "OK");
    expect(&n, "/kluis.v1.Vaults/Create", &create.base, 2, "ALREADY_EXISTS");
    for (uint64_t i = 0; i < 20; i++) {
        (void)snprintf(name, sizeof name, "s%u", (unsigned)i);
        set(&n, name, "first", 100 + i);
        set(&n, name, name, 200 + i);
        set(&n, name, "third", 100 + i); /* a retry of the first: nothing is set */
        check_value(&n, name, name);
    }
    del.vault = TEXT("vault");
    del.name = TEXT("s0");
    expect(&n, "/kluis.v1.Secrets/Delete", &del.base, 300, "OK");
    node_close(&n);
    node_open(&n, false, seal, keyring);
    expect(&n, "/kluis.v1.Secrets/Delete", &del.base, 300, "OK");
    expect(&n, "/kluis.v1.Secrets/Delete", &del.base, 301, "NOT_FOUND");
    set(&n, "s1", "third", 101);
    check_value(&n, "s1", "s1");
    expect(&n, "/kluis.v1.Vaults/Create", &create.base, 1, "OK");
    node_close(&n);
    kl_seal_free(seal);
    kl_pb_wipe_free(&keyring->base, &kl_pb_allocator);
}

/* ---- many at once ---- */

static void count_reply(void *arg, uint32_t stream, struct kl_bytes bytes)
{
    (void)stream;
    (void)bytes;
    atomic_fetch_add((atomic_uint *)arg, 1);
}

static double seconds(clockid_t id)
{
    struct timespec t;

    (void)clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Bursts of one method; prints what a call costs. */
static void burst(struct node *n, const char *what, const char *method,
                  const ProtobufCMessage *request, unsigned total)
{
    enum { BURST = 64 };
    struct kl_buf packed[BURST];
    struct kl_origin origins[BURST];
    static uint64_t ids = 1000000;
    atomic_uint replies = 0;
    double wall = seconds(CLOCK_MONOTONIC);
    double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);

    for (unsigned sent = 0; sent < total; sent += BURST) {
        for (unsigned i = 0; i < BURST; i++) {
            packed[i] = pack(method, request, ids++);
            origins[i] = (struct kl_origin){.reply = count_reply, .arg = &replies};
        }
        kl_dispatch_calls(n->dispatch, packed, origins, BURST);
        while (sent + BURST - atomic_load(&replies) > 4 * BURST) {
            const struct timespec t = {0, 100000};

            (void)nanosleep(&t, NULL);
        }
    }
    while (atomic_load(&replies) < total) {
        nap();
    }
    wall = seconds(CLOCK_MONOTONIC) - wall;
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%s: %.0f calls/s, %.1f us of CPU per call\n", what, total / wall, cpu * 1e6 / total);
}

/* Many sets and gets under way at once are all answered. KLUIS_BURST sets their number. */
TEST(group, bursts)
{
    struct node n = {.dir = test_dir()};
    struct kl_seal *seal = NULL;
    Kluis__Store__KeyringRecord *keyring = NULL;
    Kluis__V1__VaultCreateRequest create = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    Kluis__V1__SecretSetRequest set_req = KLUIS__V1__SECRET_SET_REQUEST__INIT;
    Kluis__V1__SecretGetRequest get_req = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    struct kl_dispatch_counters counters;
    const char *asked = getenv("KLUIS_BURST");
    unsigned total = 64 * 20;
    uint8_t value[1024];

    if (asked != NULL) {
        total = (unsigned)strtoul(asked, NULL, 10) / 64 * 64;
    }
    memset(value, 'v', sizeof value);
    seal_new(&seal, &keyring);
    node_open(&n, true, seal, keyring);
    create.name = TEXT("vault");
    expect(&n, "/kluis.v1.Vaults/Create", &create.base, 1, "OK");
    set_req.vault = get_req.vault = TEXT("vault");
    set_req.name = get_req.name = TEXT("s");
    set_req.value = (ProtobufCBinaryData){sizeof value, value};
    burst(&n, "set", "/kluis.v1.Secrets/Set", &set_req.base, total);
    burst(&n, "get", "/kluis.v1.Secrets/Get", &get_req.base, total);
    kl_dispatch_counters(n.dispatch, &counters);
    CHECK_EQ(counters.reads, total);
    CHECK(counters.errors < total / 2); /* a lease may be lost for a moment on a busy machine */
    CHECK_EQ(counters.active, 0);
    node_close(&n);
    kl_seal_free(seal);
    kl_pb_wipe_free(&keyring->base, &kl_pb_allocator);
}
