#include "tests/unit/rpc/fixture.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const char *const locations[] = {"north", "south"};
static const uint16_t group_ids[] = {0, 1, 2};
static const struct kl_node_info infos[] = {
    {1, "one", "north", "127.0.0.1:1001", false, 0},
    {2, "two", "south", "127.0.0.1:1002", false, 0},
    {3, "three", "south", "127.0.0.1:1003", false, 0},
};

/* ---- clock ---- */

static uint64_t mono_us(void *ctx)
{
    struct fix *f = ctx;

    return kl_real_clock.mono_us(kl_real_clock.ctx) + atomic_load(&f->mono_ahead_us);
}

static uint64_t wall_ms(void *ctx)
{
    struct fix *f = ctx;

    uint64_t ahead = atomic_load(&f->wall_ahead_ms);

    return ahead == UINT64_MAX ? 0 : kl_real_clock.wall_ms(kl_real_clock.ctx) + ahead;
}

/* ---- node view ---- */

static struct kl_group *view_group(void *ctx, uint16_t id)
{
    struct node *n = ctx;

    for (size_t i = 0; i < n->view.groups_n; i++) {
        if (group_ids[i] == id && (atomic_load(&n->lacks) >> id & 1) == 0) {
            return fake_store_group(n->f->stores[i], n->id);
        }
    }
    return NULL;
}

static uint16_t view_place(void *ctx, const char *location, const uint8_t vault_id[KL_ID_LEN])
{
    struct node *n = ctx;

    (void)vault_id;
    return strcmp(location, "south") == 0 && n->view.groups_n > 2 ? 2 : 1;
}

static bool view_votes(void *ctx, uint16_t group, uint64_t node_id)
{
    struct node *n = ctx;

    return (atomic_load(&n->f->nodes[node_id - 1].lacks) >> group & 1) == 0;
}

static struct kl_placement view_placement(void *ctx, uint16_t group)
{
    const struct node *n = ctx;

    return (struct kl_placement){.home = group == 2 ? "south" : "north",
                                 .geography = n->view.geography,
                                 .mirror = group == 1 ? "south" : NULL};
}

static bool view_connected(void *ctx, uint64_t id)
{
    struct node *n = ctx;

    return id == 1 || atomic_load(&n->reaches_all);
}

static void view_member_address(void *ctx, uint64_t id, char out[KL_MEMBER_ADDRESS_LEN])
{
    (void)ctx;
    (void)snprintf(out, KL_MEMBER_ADDRESS_LEN, "%llu", (unsigned long long)id);
}

static bool view_sealed(void *ctx)
{
    struct node *n = ctx;

    return atomic_load(&n->sealed);
}

static void view_counters(void *ctx, void (*fn)(void *arg, const char *name, uint64_t value),
                          void *arg)
{
    (void)ctx;
    fn(arg, "calls_total", 42);
}

static void view_replace(void *ctx, uint64_t id, kl_group_done_fn done, void *arg)
{
    struct node *n = ctx;

    atomic_store(&n->replaced, (int)id);
    done(arg, id == 2 ? KL_OK : (enum kl_status)atomic_load(&n->replace_status));
}

static void view_clock(void *ctx, struct kl_clock_view *out)
{
    struct node *n = ctx;
    uint64_t confirmed_ms = atomic_load(&n->confirmed_ms);

    *out = (struct kl_clock_view){
        .time_ms = confirmed_ms == 0 ? 5000 : confirmed_ms,
        .wall_ms = 9000,
        .clocks_ms = 8000,
        .held = confirmed_ms == 0,
        .why = confirmed_ms == 0 ? "they jumped" : "",
        .heard = 2,
        .majority = 2,
        .nodes_n = 2,
        .nodes = {{.node_id = 1, .known = true, .ahead_ms = -7}, {.node_id = 2}},
    };
}

static enum kl_status view_confirm_time(void *ctx, uint64_t shown_ms, bool step)
{
    struct node *n = ctx;

    if (shown_ms == 1) {
        return KL_UNAVAILABLE;
    }
    if (shown_ms != 8000) {
        return KL_CHANGED;
    }
    atomic_store(&n->confirmed_ms, shown_ms + step);
    return KL_OK;
}

/* Only the north takes nodes; node 2 cannot be spared, nor the south. */
static enum kl_status view_may_add(void *ctx, const char *region, bool witness, char *why,
                                   size_t why_len)
{
    (void)ctx;
    (void)witness;
    (void)snprintf(why, why_len, "only the north");
    return strcmp(region, "north") == 0 ? KL_OK : KL_INVALID_ARGUMENT;
}

static enum kl_status view_may_leave(void *ctx, const uint64_t *ids, size_t n, bool for_good,
                                     char *why, size_t why_len)
{
    (void)ctx;
    (void)for_good;
    (void)snprintf(why, why_len, "node 2 is needed");
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == 2) {
            return KL_QUORUM;
        }
    }
    return KL_OK;
}

/* ---- building ---- */

static struct kl_auth *make_auth(void)
{
    static const enum kl_right rights[] = {
#define RIGHT(name, bit, text) KL_RIGHT_##name,
        KL_RIGHTS(RIGHT)
#undef RIGHT
    };
    enum { N = sizeof rights / sizeof rights[0] };
    struct kl_principal principals[N + 1] = {0};
    struct kl_auth *auth = NULL;
    uint64_t all = 0;
    char token[64];

    for (size_t i = 0; i < N; i++) {
        if (rights[i] != KL_RIGHT_NODE && rights[i] != KL_RIGHT_NONE) {
            all |= UINT64_C(1) << rights[i];
        }
    }
    (void)snprintf(principals[0].name, sizeof principals[0].name, "admin");
    principals[0].rights = all;
    kl_auth_token_hash(kl_bytes_str("admin-token"), principals[0].token_sha256);
    for (size_t i = 0; i < N; i++) { /* one who has everything but one right */
        struct kl_principal *p = &principals[i + 1];

        (void)snprintf(token, sizeof token, "without-%d", (int)rights[i]);
        (void)snprintf(p->name, sizeof p->name, "%s", token);
        p->rights = all & ~(UINT64_C(1) << rights[i]);
        kl_auth_token_hash(kl_bytes_str(token), p->token_sha256);
    }
    CHECK_OK(kl_auth_new(principals, N + 1, &auth));
    return auth;
}

void fix_seal(struct fix *f, struct node *n, bool sealed)
{
    struct kl_keyring *ring = NULL;

    if (!sealed) {
        CHECK_OK(kl_keyring_open(f->seal, &kl_real_entropy, f->keyring, &ring));
    }
    kl_dispatch_set_keyring(n->dispatch, ring);
    atomic_store(&n->sealed, sealed);
}

static void make_node(struct fix *f, size_t i, size_t groups)
{
    struct node *n = &f->nodes[i];
    struct kl_dispatch_options o = {
        .pool = f->pool,
        .clock = &f->clock,
        .entropy = &kl_real_entropy,
        .node = &n->view,
        .audit = f->audit,
        .peers = &n->peers,
        .calls_max = FIX_CALLS_MAX,
        .bytes_max = FIX_BYTES_MAX,
    };

    n->id = i + 1;
    n->f = f;
    n->peers = (struct kl_peers *)(void *)n; /* only has to be there */
    n->view = (struct kl_node_view){
        .ctx = n,
        .cluster = "testing",
        .geography = "lab",
        .default_subscription = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        .locations = locations,
        .locations_n = groups - 1,
        .node_id = n->id,
        .nodes = infos,
        .nodes_n = FIX_NODES - 1, /* the last one has joined since */
        .groups = group_ids,
        .groups_n = groups,
        .started_us = f->clock.mono_us(f),
        .group = view_group,
        .votes = view_votes,
        .place = view_place,
        .placement = view_placement,
        .connected = view_connected,
        .member_address = view_member_address,
        .sealed = view_sealed,
        .counters = view_counters,
        .may_add = view_may_add,
        .may_leave = view_may_leave,
        .replace_node = view_replace,
        .clock = view_clock,
        .confirm_time = view_confirm_time,
    };
    CHECK_OK(kl_dispatch_new(&o, &n->dispatch));
    kl_dispatch_set_auth(n->dispatch, make_auth());
    fix_seal(f, n, false);
    fake_peers_set(n->id, n->dispatch);
}

static void init_group(struct fake_store *s)
{
    static uint8_t cluster_id[KL_ID_LEN] = {7};
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__GroupInit init = KLUIS__LOG__GROUP_INIT__INIT;
    Kluis__Store__GroupRecord record = KLUIS__STORE__GROUP_RECORD__INIT;
    char geography[] = "lab";

    record.cluster_id = (ProtobufCBinaryData){KL_ID_LEN, cluster_id};
    record.geography = geography;
    record.day_ms = KL_DAY_MS;
    init.group = &record;
    command.op_case = KLUIS__LOG__COMMAND__OP_GROUP_INIT;
    command.group_init = &init;
    CHECK_OK(fake_store_apply(s, &command));
}

struct fix *fix_new(size_t vault_groups)
{
    struct fix *f = calloc(1, sizeof *f);
    const char *dir = test_dir();
    char path[300];
    char err[200] = "";

    CHECK(f != NULL && vault_groups >= 1 && vault_groups < FIX_GROUPS);
    f->clock = (struct kl_clock){f, mono_us, wall_ms};
    f->token = ADMIN;
    (void)snprintf(path, sizeof path, "%s/seal", dir);
    (void)snprintf(f->audit_path, sizeof f->audit_path, "%s/audit.log", dir);
    CHECK_OK(kl_seal_file_create(path, &kl_real_entropy, err, sizeof err));
    CHECK_OK(kl_seal_file_open(path, &f->seal, err, sizeof err));
    CHECK_OK(kl_keyring_create(f->seal, &kl_real_entropy, NULL, 1, &f->keyring));
    CHECK_OK(kl_audit_new(f->audit_path, 1 << 20, 2, &f->audit, err, sizeof err));
    CHECK_OK(kl_pool_new(3, 1024, &f->pool));
    for (size_t i = 0; i <= vault_groups; i++) {
        f->stores[i] = fake_store_new(group_ids[i], &f->clock);
        init_group(f->stores[i]);
    }
    for (size_t i = 0; i < FIX_NODES; i++) {
        make_node(f, i, vault_groups + 1);
    }
    return f;
}

void fix_free(struct fix *f)
{
    for (size_t i = 0; i < FIX_NODES; i++) {
        kl_dispatch_drain(f->nodes[i].dispatch, 5000);
    }
    for (size_t i = 0; i < FIX_GROUPS; i++) {
        if (f->stores[i] != NULL) {
            fake_store_free(f->stores[i]);
        }
    }
    for (size_t i = 0; i < FIX_NODES; i++) {
        kl_dispatch_free(f->nodes[i].dispatch);
        fake_peers_set(f->nodes[i].id, NULL);
    }
    kl_pool_free(f->pool);
    kl_audit_free(f->audit);
    kl_pb_wipe_free(&f->keyring->base, &kl_pb_allocator);
    kl_seal_free(f->seal);
    free(f);
}

/* ---- calls ---- */

struct pending {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const struct kl_route *route;
    unsigned replies;
    uint8_t *bytes;
    size_t len;
};

static void on_reply(void *arg, uint32_t stream, struct kl_bytes reply)
{
    struct pending *p = arg;

    (void)stream;
    (void)pthread_mutex_lock(&p->lock);
    p->replies++;
    free(p->bytes);
    p->bytes = malloc(reply.len + 1);
    if (p->bytes != NULL) {
        memcpy(p->bytes, reply.ptr, reply.len);
    }
    p->len = reply.len;
    (void)pthread_cond_signal(&p->changed);
    (void)pthread_mutex_unlock(&p->lock);
}

void draw_id(struct fix *f, uint8_t id[KL_ID_LEN])
{
    memset(id, 0, KL_ID_LEN);
    kl_put_be64(id + 8, atomic_fetch_add(&f->ids, 1) + 1);
}

struct kl_buf fix_pack(struct fix *f, const struct ask *ask)
{
    Kluis__V1__Call c = KLUIS__V1__CALL__INIT;
    Kluis__V1__Metadata auth = KLUIS__V1__METADATA__INIT;
    Kluis__V1__Metadata *metadata[1] = {&auth};
    char key[] = "authorization";
    uint8_t id[KL_ID_LEN];
    uint8_t *payload = NULL;
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    uint8_t *p;

    c.method = (char *)(uintptr_t)ask->method;
    if (!ask->no_request_id) {
        draw_id(f, id);
        c.request_id.data = (uint8_t *)(uintptr_t)(ask->request_id != NULL ? ask->request_id : id);
        c.request_id.len = ask->request_id_len == 0 ? KL_ID_LEN : ask->request_id_len;
    }
    c.deadline_ms = ask->deadline_ms;
    c.consistency = ask->consistency;
    c.max_age_ms = ask->max_age_ms;
    c.expires_ms = ask->expires_ms;
    auth.key = key;
    auth.value = (char *)(uintptr_t)(ask->token == NULL ? f->token : ask->token);
    if (auth.value[0] != 0) {
        c.metadata = metadata;
        c.n_metadata = 1;
    }
    if (ask->request != NULL) {
        size_t n = protobuf_c_message_get_packed_size(ask->request);

        payload = malloc(n + 1);
        CHECK(payload != NULL);
        c.payload = (ProtobufCBinaryData){protobuf_c_message_pack(ask->request, payload), payload};
    } else {
        c.payload = (ProtobufCBinaryData){ask->payload.len, (uint8_t *)(uintptr_t)ask->payload.ptr};
    }
    CHECK_OK(kl_buf_grow(&packed, kluis__v1__call__get_packed_size(&c), &p));
    (void)kluis__v1__call__pack(&c, p);
    free(payload);
    return packed;
}

struct pending *fix_start(struct fix *f, const struct ask *ask)
{
    struct pending *p = calloc(1, sizeof *p);
    struct kl_buf packed = fix_pack(f, ask);
    struct node *n = ask->node == NULL ? &f->nodes[0] : ask->node;
    const struct kl_origin origin = {
        .from_node = ask->from_node, .remote = "test", .stream = 1, .reply = on_reply, .arg = p};

    CHECK(p != NULL);
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->changed, NULL);
    p->route = kl_route_find(ask->method);
    if (f->arm != NULL) {
        f->arm(true);
    }
    kl_dispatch_call(n->dispatch, &packed, &origin);
    if (f->arm != NULL) {
        f->arm(false);
    }
    return p;
}

bool fix_answered(struct pending *p)
{
    bool answered;

    (void)pthread_mutex_lock(&p->lock);
    answered = p->replies > 0;
    (void)pthread_mutex_unlock(&p->lock);
    return answered;
}

struct answer fix_wait(struct pending *p)
{
    struct answer a = {.st = KL_INTERNAL};

    (void)pthread_mutex_lock(&p->lock);
    while (p->replies == 0) {
        (void)pthread_cond_wait(&p->changed, &p->lock);
    }
    (void)pthread_mutex_unlock(&p->lock);
    CHECK_EQ(p->replies, 1);
    a.reply = kluis__v1__reply__unpack(NULL, p->len, p->bytes);
    CHECK(a.reply != NULL);
    a.st = kl_status_from_name(a.reply->status);
    CHECK_EQ(a.reply->code, kl_status_info(a.st)->rpc_code);
    if (a.st == KL_OK) {
        CHECK(p->route != NULL);
        a.response = protobuf_c_message_unpack(p->route->response, NULL, a.reply->payload.len,
                                               a.reply->payload.data);
        CHECK(a.response != NULL);
    } else {
        CHECK_EQ(a.reply->payload.len, 0);
        CHECK(a.reply->message[0] != 0);
    }
    free(p->bytes);
    (void)pthread_cond_destroy(&p->changed);
    (void)pthread_mutex_destroy(&p->lock);
    free(p);
    return a;
}

struct answer fix_ask(struct fix *f, const struct ask *ask)
{
    return fix_wait(fix_start(f, ask));
}

void answer_free(struct answer *a)
{
    if (a->response != NULL) {
        protobuf_c_message_free_unpacked(a->response, NULL);
    }
    kluis__v1__reply__free_unpacked(a->reply, NULL);
    *a = (struct answer){0};
}

struct answer call(struct fix *f, const char *method, const ProtobufCMessage *request)
{
    const struct ask ask = {.method = method, .request = request};

    return fix_ask(f, &ask);
}

void check_call(struct fix *f, const char *method, const ProtobufCMessage *request,
                enum kl_status st, const char *field, const char *limit)
{
    struct answer a = call(f, method, request);

    if (a.st != st) {
        print_error("%s: %s (%s)\n", method, a.reply->status, a.reply->message);
    }
    CHECK_EQ(a.st, st);
    if (field != NULL) {
        CHECK_EQ(a.reply->n_fields, 1);
        CHECK_STR(a.reply->fields[0]->field, field);
        if (strstr(a.reply->fields[0]->limit, limit) == NULL) {
            print_error("limit is: %s\n", a.reply->fields[0]->limit);
        }
        CHECK(strstr(a.reply->fields[0]->limit, limit) != NULL);
        CHECK(strstr(a.reply->message, field) != NULL);
    }
    answer_free(&a);
}

/* ---- shorthands ---- */

void make_vault(struct fix *f, const char *name, bool purge_protection)
{
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;

    req.name = (char *)(uintptr_t)name;
    req.purge_protection = purge_protection;
    check_call(f, "/kluis.v1.Vaults/Create", &req.base, KL_OK, NULL, NULL);
}

void set_secret(struct fix *f, const char *vault, const char *name, const char *value,
                char version[33])
{
    Kluis__V1__SecretSetRequest req = KLUIS__V1__SECRET_SET_REQUEST__INIT;
    struct answer a;

    req.vault = (char *)(uintptr_t)vault;
    req.name = (char *)(uintptr_t)name;
    req.value = (ProtobufCBinaryData){strlen(value), (uint8_t *)(uintptr_t)value};
    a = call(f, "/kluis.v1.Secrets/Set", &req.base);
    CHECK_OK(a.st);
    if (version != NULL) {
        (void)snprintf(version, 33, "%s",
                       ((Kluis__V1__SecretSetResponse *)a.response)->secret->version);
    }
    answer_free(&a);
}

enum kl_status get_secret(struct fix *f, const char *vault, const char *name, const char *version,
                          char *value, size_t value_len)
{
    Kluis__V1__SecretGetRequest req = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    struct answer a;
    enum kl_status st;

    req.vault = (char *)(uintptr_t)vault;
    req.name = (char *)(uintptr_t)name;
    req.version = (char *)(uintptr_t)version;
    a = call(f, "/kluis.v1.Secrets/Get", &req.base);
    st = a.st;
    if (st == KL_OK) {
        const Kluis__V1__Secret *s = ((Kluis__V1__SecretGetResponse *)a.response)->secret;

        CHECK(s->value.len < value_len);
        if (s->value.len != 0) {
            memcpy(value, s->value.data, s->value.len);
        }
        value[s->value.len] = 0;
    }
    answer_free(&a);
    return st;
}

enum kl_status delete_secret(struct fix *f, const char *vault, const char *name)
{
    Kluis__V1__SecretDeleteRequest req = KLUIS__V1__SECRET_DELETE_REQUEST__INIT;
    struct answer a;
    enum kl_status st;

    req.vault = (char *)(uintptr_t)vault;
    req.name = (char *)(uintptr_t)name;
    a = call(f, "/kluis.v1.Secrets/Delete", &req.base);
    st = a.st;
    answer_free(&a);
    return st;
}

enum kl_status delete_vault(struct fix *f, const char *name)
{
    Kluis__V1__VaultDeleteRequest req = KLUIS__V1__VAULT_DELETE_REQUEST__INIT;
    struct answer a;
    enum kl_status st;

    req.name = (char *)(uintptr_t)name;
    a = call(f, "/kluis.v1.Vaults/Delete", &req.base);
    st = a.st;
    answer_free(&a);
    return st;
}
