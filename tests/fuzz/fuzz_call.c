/*
 * What a client sends: the packed Call, and every request message through checks and plan.
 *
 *   byte 0   255: the rest is a packed Call; else the route's number (modulo their count) and the
 *            rest is its packed request
 *
 * The plans run over a state that has one vault under every name and nothing else. What must hold:
 * whatever comes is refused or planned, within the memory that a message of its size may take.
 */
#include "common/names.h"
#include "server/core/keys.h"
#include "server/rpc/call.h"
#include "tests/unit/rpc/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ENVELOPE = 255 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const locations[] = {"north", "south"};
static const uint16_t groups[] = {0, 1};
static const struct kl_node_info infos[] = {{1, "one", "north", "127.0.0.1:1", false, 0}};

static struct kl_keyring *ring;
static struct fake_store *store;
static struct kl_buf vault = {.max = KL_RECORD_MAX};

/* ---- the state ---- */

static enum kl_status view_get(void *ctx, struct kl_bytes key, struct kl_buf *out)
{
    (void)ctx;
    kl_buf_clear(out);
    return key.len > 0 && key.ptr[0] == 'v' ? kl_buf_put(out, vault.ptr, vault.len) : KL_NOT_FOUND;
}

static enum kl_status view_scan(void *ctx, struct kl_bytes from, struct kl_bytes to, kl_scan_fn fn,
                                void *arg)
{
    (void)ctx;
    (void)from;
    (void)to;
    (void)fn;
    (void)arg;
    return KL_OK;
}

static struct kl_group *view_group(void *ctx, uint16_t id)
{
    (void)ctx;
    return id == 1 ? fake_store_group(store, 1) : NULL;
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
    return id == 1;
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
    fn(arg, "calls_total", 1);
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

static enum kl_status view_may_add(void *ctx, const char *region, bool witness, char *why,
                                   size_t why_len)
{
    (void)ctx;
    (void)why;
    (void)why_len;
    return witness || region[0] == 0 ? KL_INVALID_ARGUMENT : KL_OK;
}

static enum kl_status view_may_leave(void *ctx, const uint64_t *ids, size_t n, bool for_good,
                                     char *why, size_t why_len)
{
    (void)ctx;
    (void)why;
    (void)why_len;
    return for_good && n == 1 && ids[0] == 1 ? KL_QUORUM : KL_OK;
}

static const struct kl_node_view node = {
    .cluster = "testing",
    .geography = "lab",
    .default_subscription = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    .locations = locations,
    .locations_n = 2,
    .node_id = 1,
    .nodes = infos,
    .nodes_n = 1,
    .groups = groups,
    .groups_n = 2,
    .group = view_group,
    .votes = view_votes,
    .place = view_place,
    .placement = view_placement,
    .connected = view_connected,
    .sealed = view_sealed,
    .counters = view_counters,
    .clock = view_clock,
    .confirm_time = view_confirm_time,
    .may_add = view_may_add,
    .may_leave = view_may_leave,
};

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void make_ring(void)
{
    char dir[] = "/tmp/fuzz_call.XXXXXX";
    char path[64];
    char err[200];
    struct kl_seal *seal = NULL;
    Kluis__Store__KeyringRecord *record = NULL;

    must(mkdtemp(dir) != NULL);
    (void)snprintf(path, sizeof path, "%s/seal", dir);
    must(kl_seal_file_create(path, &kl_real_entropy, err, sizeof err) == KL_OK);
    must(kl_seal_file_open(path, &seal, err, sizeof err) == KL_OK);
    must(kl_keyring_create(seal, &kl_real_entropy, NULL, 1, &record) == KL_OK);
    must(kl_keyring_open(seal, &kl_real_entropy, record, &ring) == KL_OK);
    kl_pb_wipe_free(&record->base, &kl_pb_allocator);
    kl_seal_free(seal);
    (void)unlink(path);
    (void)rmdir(dir);
}

static void fill_vault(void)
{
    Kluis__Store__VaultRecord v = KLUIS__STORE__VAULT_RECORD__INIT;
    struct kl_buf wrapped = KL_BUF(KL_RECORD_MAX);
    uint8_t id[KL_ID_LEN] = {1};
    char text[] = "vault";
    char subscription[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
    uint8_t *p = NULL;

    must(kl_vault_key_new(ring, kl_bytes_of(id, KL_ID_LEN), &wrapped) == KL_OK);
    v.vault_id = (ProtobufCBinaryData){KL_ID_LEN, id};
    v.name = v.resource_group = v.location = text;
    v.subscription = subscription;
    v.retention_days = 90;
    v.wrapped_key = (ProtobufCBinaryData){wrapped.len, wrapped.ptr};
    must(kl_buf_grow(&vault, kluis__store__vault_record__get_packed_size(&v), &p) == KL_OK);
    (void)kluis__store__vault_record__pack(&v, p);
    kl_buf_wipe(&wrapped);
}

/* ---- one input ---- */

/* Lists over vaults and the store's digest ask a real group: only what stands before that. */
static bool can_plan(const struct kl_route *route)
{
    return route->scope != KL_SCOPE_VAULTS && route->right != KL_RIGHT_CLUSTER_READ;
}

static void plan(const struct kl_route *route, const ProtobufCMessage *request)
{
    struct kl_read read = {.view = {NULL, view_get, view_scan}};
    struct kl_plan next = {.step = KL_STEP_REPLY};
    struct kl_call call = {
        .route = route,
        .request = request,
        .request_id = {1, 2, 3},
        .group = fake_store_group(store, 1),
        .read = &read,
        .keyring = ring,
        .entropy = &kl_real_entropy,
        .clock = &kl_real_clock,
        .node = &node,
    };
    enum kl_status st;

    if (route->scope == KL_SCOPE_VAULTS) {
        const char *token;
        uint16_t group;

        memcpy(&token, (const uint8_t *)request + route->key_at, sizeof token);
        st = kl_vaults_page_group(route, token, &node, &group);
        must(st != KL_OK || group == 1);
        return;
    }
    if (route->scope == KL_SCOPE_VAULT) { /* the dispatcher has checked the name */
        const char *name;

        memcpy(&name, (const uint8_t *)request + route->key_at, sizeof name);
        if (kl_vault_name_check(name, NULL) != KL_OK) {
            return;
        }
    }
    st = route->plan(&call, &next);
    must(st != KL_OK || next.step != KL_STEP_REPLY || call.response != NULL);
    must(st == KL_OK || next.command.ptr == NULL);
    must(strlen(call.field) < sizeof call.field && strlen(call.limit) < sizeof call.limit);
    kl_buf_wipe(&next.command);
    if (call.state_free != NULL) {
        call.state_free(call.state);
    }
    kl_pb_wipe_free(call.response, &kl_pb_allocator);
}

static void try_request(const struct kl_route *route, struct kl_bytes packed)
{
    struct kl_unpack memory;
    ProtobufCMessage *request = NULL;
    const char *field = NULL;

    if (packed.len > route->request_max ||
        kl_wire_unpack(route->request, packed, &memory, &request, &field) != KL_OK) {
        return;
    }
    if (can_plan(route) || route->scope == KL_SCOPE_VAULTS) {
        plan(route, request);
    }
    kl_pb_wipe_free(request, &memory.allocator);
}

static void try_call(struct kl_bytes packed)
{
    struct kl_unpack memory;
    ProtobufCMessage *message = NULL;
    const char *field = NULL;
    const Kluis__V1__Call *call;
    const struct kl_route *route;

    (void)kl_wire_deadline_ms(packed);
    if (kl_wire_unpack(&kluis__v1__call__descriptor, packed, &memory, &message, &field) != KL_OK) {
        return;
    }
    call = (const void *)message;
    route = kl_route_find(call->method);
    if (route != NULL) {
        try_request(route, kl_bytes_of(call->payload.data, call->payload.len));
    }
    kl_pb_wipe_free(message, &memory.allocator);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n = 0;
    const struct kl_route *routes = kl_routes(&n);

    if (ring == NULL) {
        make_ring();
        fill_vault();
        store = fake_store_new(1, &kl_real_clock);
    }
    if (size == 0) {
        return 0;
    }
    if (data[0] == ENVELOPE) {
        try_call(kl_bytes_of(data + 1, size - 1));
    } else {
        try_request(&routes[data[0] % n], kl_bytes_of(data + 1, size - 1));
    }
    return 0;
}
