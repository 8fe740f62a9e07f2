/*
 * Creation of a vault touches two groups: the directory, which owns names, and the home group,
 * which owns vaults. The directory's leader claims the name, has the home group's leader place the
 * vault, and confirms the claim. Every step is idempotent by the vault's id, and the id follows
 * from the request id and the name: a retry, here or at a later leader, goes on with the same
 * claim. What a crash leaves behind is finished or undone by the directory's leader.
 *
 * The vault that is placed is always the one in the claim, never one made afresh: two attempts must
 * not place different keys.
 */
#include "server/handlers/parts.h"

#include <openssl/evp.h>

#define PLACE_METHOD "/kluis.v1.Internal/PlaceVault"
#define SHOW_METHOD  "/kluis.v1.Internal/ShowVault"

struct create_state {
    uint8_t vault_id[KL_ID_LEN];
    uint16_t group;           /* home */
    struct kl_buf vault;      /* the packed VaultRecord to place */
    Kluis__V1__Vault *placed; /* for the reply */
};

static void state_free(void *arg)
{
    struct create_state *s = arg;

    kl_buf_wipe(&s->vault);
    kl_pb_wipe_free((ProtobufCMessage *)s->placed, &kl_pb_allocator);
    kl_free(s);
}

static enum kl_status derive_id(const uint8_t request_id[KL_ID_LEN], const char *name,
                                uint8_t vault_id[KL_ID_LEN])
{
    static const char label[] = "kluis vault id";
    char in[sizeof label + KL_ID_LEN + KL_VAULT_NAME_MAX + 1];
    uint8_t sum[EVP_MAX_MD_SIZE];

    memset(in, 0, sizeof in);
    memcpy(in, label, sizeof label);
    memcpy(in + sizeof label, request_id, KL_ID_LEN);
    kl_name_fold(name, in + sizeof label + KL_ID_LEN, KL_VAULT_NAME_MAX + 1);
    if (EVP_Digest(in, sizeof in, sum, NULL, EVP_sha256(), NULL) != 1) {
        return KL_CRYPTO;
    }
    memcpy(vault_id, sum, KL_ID_LEN);
    return KL_OK;
}

/* ---- the name is taken: by what? ---- */

static enum kl_status shown(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                            struct kl_plan *plan)
{
    Kluis__V1__ShowVaultResponse *r = NULL;
    Kluis__Store__VaultRecord *v = NULL;
    enum kl_status st = status;
    const struct create_state *s = call->state;

    plan->step = KL_STEP_REPLY;
    if (st == KL_VAULT_NOT_FOUND) {
        /* Claimed, and not placed yet or just purged: for the caller the name is taken. */
        return kl_call_field(call, KL_ALREADY_EXISTS, "name", "the name is in use");
    }
    if (st != KL_OK) {
        return st;
    }
    r = kluis__v1__show_vault_response__unpack(&kl_pb_allocator, packed.len, packed.ptr);
    if (r != NULL) {
        v = kluis__store__vault_record__unpack(&kl_pb_allocator, r->vault.len, r->vault.data);
    }
    if (v == NULL) {
        st = KL_NO_MEMORY;
    } else if (kl_bytes_eq(kl_pb_view(v->vault_id), kl_bytes_of(s->vault_id, KL_ID_LEN))) {
        Kluis__V1__Vault *vault = NULL; /* our own vault: this is a retry */

        st = kl_vault_message(v, &vault);
        st = st == KL_OK ? kl_respond(call, "vault", vault) : st;
    } else {
        st = v->deleted_ms != 0
                 ? kl_call_field(call, KL_VAULT_DELETED, "name",
                                 "recover or purge the deleted vault first")
                 : kl_call_field(call, KL_ALREADY_EXISTS, "name", "the name is in use");
    }
    kl_pb_wipe_free((ProtobufCMessage *)v, &kl_pb_allocator);
    kl_pb_wipe_free((ProtobufCMessage *)r, &kl_pb_allocator);
    return st;
}

static enum kl_status ask_home(const char *name, uint16_t group, struct kl_plan *plan)
{
    Kluis__V1__ShowVaultRequest show = KLUIS__V1__SHOW_VAULT_REQUEST__INIT;

    show.name = (char *)(uintptr_t)name; /* protobuf-c has no const */
    show.group = group;
    return kl_plan_remote(SHOW_METHOD, group, &show.base, shown, plan);
}

/* ---- claim, place, confirm ---- */

static enum kl_status confirmed(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                                struct kl_plan *plan)
{
    struct create_state *s = call->state;
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = kl_result_open(call, status, packed, &result);

    plan->step = KL_STEP_REPLY;
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    if (st != KL_OK) {
        return st;
    }
    st = kl_respond(call, "vault", s->placed);
    s->placed = NULL;
    return st;
}

static enum kl_status plan_confirm(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultCreateRequest *req = (const void *)call->request;
    const struct create_state *s = call->state;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultConfirm op = KLUIS__LOG__VAULT_CONFIRM__INIT;

    op.name = req->name;
    op.vault_id = kl_pb_data(kl_bytes_of(s->vault_id, KL_ID_LEN));
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_CONFIRM;
    command.vault_confirm = &op;
    return kl_plan_propose(call, &command, true, confirmed, plan);
}

static enum kl_status placed(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                             struct kl_plan *plan)
{
    struct create_state *s = call->state;
    Kluis__V1__PlaceVaultResponse *r;
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st;

    if (status == KL_NOT_LEADER) {
        return KL_UNAVAILABLE; /* the home group's leader has moved, not ours: the same id again */
    }
    if (status != KL_OK) {
        return status;
    }
    r = kluis__v1__place_vault_response__unpack(&kl_pb_allocator, packed.len, packed.ptr);
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    st = kl_result_open(call, KL_OK, kl_pb_view(r->result), &result);
    if (st == KL_OK) {
        st = result->vault == NULL ? KL_INTERNAL : kl_vault_message(result->vault, &s->placed);
    }
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    kl_pb_wipe_free(&r->base, &kl_pb_allocator);
    return st == KL_OK ? plan_confirm(call, plan) : st;
}

static enum kl_status plan_place(struct kl_call *call, struct kl_plan *plan)
{
    const struct create_state *s = call->state;
    Kluis__V1__PlaceVaultRequest place = KLUIS__V1__PLACE_VAULT_REQUEST__INIT;

    place.vault = kl_pb_data(kl_buf_bytes(&s->vault));
    place.group = s->group;
    return kl_plan_remote(PLACE_METHOD, s->group, &place.base, placed, plan);
}

static enum kl_status claimed(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                              struct kl_plan *plan)
{
    const struct create_state *s = call->state;
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = kl_result_open(call, status, packed, &result);

    if (st == KL_OK &&
        (result->vault == NULL ||
         !kl_bytes_eq(kl_pb_view(result->vault->vault_id), kl_bytes_of(s->vault_id, KL_ID_LEN)))) {
        st = kl_call_field(call, KL_INVALID_ARGUMENT, "request_id", "not used before");
    }
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    if (st == KL_ALREADY_EXISTS) {
        plan->step = KL_STEP_AGAIN; /* somebody was faster since the plan looked */
        return KL_OK;
    }
    return st == KL_OK ? plan_place(call, plan) : st;
}

/* ---- the plan ---- */

static enum kl_status check_location(struct kl_call *call, const char *location, const char **out)
{
    const struct kl_node_view *node = call->node;
    char list[sizeof call->limit] = "must be one of ";
    size_t n = strlen(list);

    if (location[0] == 0 && node->locations_n > 0) {
        *out = node->locations[0];
        return KL_OK;
    }
    for (size_t i = 0; i < node->locations_n; i++) {
        if (strcmp(location, node->locations[i]) == 0) {
            *out = node->locations[i];
            return KL_OK;
        }
    }
    for (size_t i = 0; i < node->locations_n && n + KL_LOCATION_MAX + 2 < sizeof list; i++) {
        size_t len = strlen(node->locations[i]);

        if (i > 0) {
            memcpy(list + n, ", ", 2);
            n += 2;
        }
        memcpy(list + n, node->locations[i], len + 1);
        n += len;
    }
    return kl_call_field(call, KL_INVALID_ARGUMENT, "location", list);
}

/* Fills the record from the request: checks every field and puts in the defaults. */
static enum kl_status fill_record(struct kl_call *call, Kluis__Store__VaultRecord *v,
                                  struct kl_tag_list *tags)
{
    static char default_group[] = "default";
    const Kluis__V1__VaultCreateRequest *req = (const void *)call->request;
    const char *location = NULL;
    const char *limit = NULL;
    enum kl_status st;

    v->name = req->name;
    v->subscription = req->subscription[0] != 0
                          ? req->subscription
                          : (char *)(uintptr_t)call->node->default_subscription;
    st = kl_subscription_check(v->subscription, &limit);
    if (st != KL_OK) {
        return kl_call_field(call, st, "subscription", limit);
    }
    v->resource_group = req->resource_group[0] != 0 ? req->resource_group : default_group;
    st = kl_resource_group_check(v->resource_group, &limit);
    if (st != KL_OK) {
        return kl_call_field(call, st, "resource_group", limit);
    }
    st = check_location(call, req->location, &location);
    if (st != KL_OK) {
        return st;
    }
    v->location = (char *)(uintptr_t)location;
    v->retention_days = req->retention_days == 0 ? KL_RETENTION_DAYS_DEFAULT : req->retention_days;
    st = kl_retention_check(v->retention_days, &limit);
    if (st != KL_OK) {
        return kl_call_field(call, st, "retention_days", limit);
    }
    st = kl_field_tags(call, req->n_tags, req->tags);
    if (st != KL_OK) {
        return st;
    }
    kl_tag_list_fill(tags, req->n_tags, req->tags);
    v->n_tags = req->n_tags;
    v->tags = tags->ptrs;
    v->purge_protection = req->purge_protection;
    return KL_OK;
}

static enum kl_status plan_claim(struct kl_call *call, Kluis__Store__VaultRecord *v,
                                 struct kl_plan *plan)
{
    struct create_state *s = call->state;
    struct kl_buf wrapped = KL_BUF(KL_RECORD_MAX);
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultClaim claim = KLUIS__LOG__VAULT_CLAIM__INIT;
    enum kl_status st =
        kl_vault_key_new(call->keyring, kl_bytes_of(s->vault_id, KL_ID_LEN), &wrapped);

    if (st != KL_OK) {
        goto out;
    }
    v->wrapped_key = kl_pb_data(kl_buf_bytes(&wrapped));
    kl_buf_wipe(&s->vault);
    st = kl_pb_pack(&v->base, &s->vault);
    if (st != KL_OK) {
        goto out;
    }
    claim.vault = v;
    claim.group = s->group;
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_CLAIM;
    command.vault_claim = &claim;
    st = kl_plan_propose(call, &command, false, claimed, plan);
out:
    kl_buf_wipe(&wrapped);
    return st;
}

/* The name has a claim. Ours: go on where the first attempt stopped. Another's: say what it is. */
static enum kl_status plan_known(struct kl_call *call, const Kluis__Store__ClaimRecord *claim,
                                 struct kl_plan *plan)
{
    const Kluis__V1__VaultCreateRequest *req = (const void *)call->request;
    struct create_state *s = call->state;
    bool ours = kl_bytes_eq(kl_pb_view(claim->vault_id), kl_bytes_of(s->vault_id, KL_ID_LEN));
    enum kl_status st;

    s->group = (uint16_t)claim->group;
    if (!ours || claim->state != KLUIS__STORE__CLAIM_STATE__CLAIM_PENDING || claim->vault == NULL) {
        return ask_home(req->name, s->group, plan);
    }
    kl_buf_wipe(&s->vault);
    st = kl_pb_pack(&claim->vault->base, &s->vault);
    return st == KL_OK ? plan_place(call, plan) : st;
}

/* No claim. If this request had made one, the vault was created and purged, or undone, since. */
static enum kl_status plan_new(struct kl_call *call, Kluis__Store__VaultRecord *v,
                               struct kl_plan *plan)
{
    struct kl_buf stored = KL_BUF(KL_RECORD_MAX);
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = kl_result_stored(call, &stored);

    if (st == KL_NOT_FOUND) {
        st = plan_claim(call, v, plan);
    } else if (st == KL_OK) {
        st = kl_result_open(call, KL_OK, kl_buf_bytes(&stored), &result);
        if (st == KL_OK) {
            st = kl_call_field(call, KL_VAULT_NOT_FOUND, "name",
                               "this request created the vault and it is gone since");
        }
    }
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    kl_buf_wipe(&stored);
    return st;
}

enum kl_status kl_plan_vault_create(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultCreateRequest *req = (const void *)call->request;
    Kluis__Store__VaultRecord v = KLUIS__STORE__VAULT_RECORD__INIT;
    Kluis__Store__ClaimRecord *claim = NULL;
    struct create_state *s = call->state;
    struct kl_tag_list tags;
    const char *limit = NULL;
    enum kl_status st = kl_vault_name_check(req->name, &limit);

    if (st != KL_OK) {
        return kl_call_field(call, st, "name", limit);
    }
    memcpy(call->subject, req->name, strlen(req->name) + 1);
    st = fill_record(call, &v, &tags);
    if (st != KL_OK) {
        return st;
    }
    if (s == NULL) {
        s = kl_calloc(1, sizeof *s);
        if (s == NULL) {
            return KL_NO_MEMORY;
        }
        s->vault = KL_BUF(KL_RECORD_MAX);
        call->state = s;
        call->state_free = state_free;
    }
    st = derive_id(call->request_id, req->name, s->vault_id);
    if (st != KL_OK) {
        return st;
    }
    v.vault_id = kl_pb_data(kl_bytes_of(s->vault_id, KL_ID_LEN));
    s->group = call->node->place(call->node->ctx, v.location, s->vault_id);
    st = kl_core_claim(&call->read->view, req->name, &claim);
    if (st == KL_OK) {
        st = plan_known(call, claim, plan);
    } else if (st == KL_NOT_FOUND || st == KL_VAULT_NOT_FOUND) {
        st = plan_new(call, &v, plan);
    }
    kl_pb_wipe_free((ProtobufCMessage *)claim, &kl_pb_allocator);
    return st;
}
