/* The Internal service: steps of workflows that one group's leader asks of another's. */
#include "server/handlers/parts.h"

#include <stdio.h>

/* ---- PlaceVault ---- */

static enum kl_status place_done(struct kl_call *call, enum kl_status status,
                                 struct kl_bytes packed, struct kl_plan *plan)
{
    Kluis__V1__PlaceVaultResponse *r = kl_response(call);

    plan->step = KL_STEP_REPLY;
    if (status != KL_OK) {
        return status;
    }
    /* A refusal travels inside the result: the caller decides what it means. */
    return r == NULL ? KL_NO_MEMORY : kl_pb_copy(&r->result, packed);
}

/* protobuf-c says NULL for garbage and for want of memory alike: this tells them apart. */
static void *noting_alloc(void *data, size_t n)
{
    bool *failed = data;
    void *p = kl_malloc(n == 0 ? 1 : n);

    *failed = *failed || p == NULL;
    return p;
}

static void noting_free(void *data, void *p)
{
    (void)data;
    kl_free(p);
}

static enum kl_status unpack_vault(struct kl_call *call, ProtobufCBinaryData packed,
                                   Kluis__Store__VaultRecord **out)
{
    bool no_memory = false;
    ProtobufCAllocator allocator = {noting_alloc, noting_free, &no_memory};
    Kluis__Store__VaultRecord *vault =
        kluis__store__vault_record__unpack(&allocator, packed.len, packed.data);

    if (vault == NULL && no_memory) {
        return KL_NO_MEMORY;
    }
    if (vault == NULL || vault->vault_id.len != KL_ID_LEN ||
        kl_vault_name_check(vault->name, NULL) != KL_OK) {
        kl_pb_wipe_free((ProtobufCMessage *)vault, &kl_pb_allocator);
        return kl_call_field(call, KL_INVALID_ARGUMENT, "vault", "a packed VaultRecord");
    }
    *out = vault;
    return KL_OK;
}

enum kl_status kl_plan_internal_place_vault(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__PlaceVaultRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultCreate op = KLUIS__LOG__VAULT_CREATE__INIT;
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st = unpack_vault(call, req->vault, &vault);

    if (st != KL_OK) {
        return st;
    }
    (void)snprintf(call->subject, sizeof call->subject, "%s", vault->name);
    op.vault = vault;
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_CREATE;
    command.vault_create = &op;
    st = kl_plan_propose(call, &command, true, place_done, plan);
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    return st;
}

/* ---- ReleaseVault ---- */

static enum kl_status release_done(struct kl_call *call, enum kl_status status,
                                   struct kl_bytes packed, struct kl_plan *plan)
{
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = kl_result_open(call, status, packed, &result);

    plan->step = KL_STEP_REPLY;
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    if (st != KL_OK) {
        return st;
    }
    return kl_response(call) == NULL ? KL_NO_MEMORY : KL_OK;
}

enum kl_status kl_plan_internal_release_vault(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ReleaseVaultRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultRelease op = KLUIS__LOG__VAULT_RELEASE__INIT;
    const char *limit = NULL;
    enum kl_status st = kl_vault_name_check(req->name, &limit);

    if (st != KL_OK) {
        return kl_call_field(call, st, "name", limit);
    }
    if (req->vault_id.len != KL_ID_LEN) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "vault_id", "16 bytes");
    }
    (void)snprintf(call->subject, sizeof call->subject, "%s", req->name);
    op.name = req->name;
    op.vault_id = req->vault_id;
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_RELEASE;
    command.vault_release = &op;
    return kl_plan_propose(call, &command, true, release_done, plan);
}

/* ---- ShowVault ---- */

enum kl_status kl_plan_internal_show_vault(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__ShowVaultRequest *req = (const void *)call->request;
    Kluis__V1__ShowVaultResponse *r = kl_response(call);
    Kluis__Store__VaultRecord *vault = NULL;
    struct kl_buf packed = KL_BUF(KL_RECORD_MAX);
    const char *limit = NULL;
    enum kl_status st = kl_vault_name_check(req->name, &limit);

    plan->step = KL_STEP_REPLY;
    if (st != KL_OK) {
        return kl_call_field(call, st, "name", limit);
    }
    (void)snprintf(call->subject, sizeof call->subject, "%s", req->name);
    st =
        r == NULL ? KL_NO_MEMORY : kl_core_vault(&call->read->view, req->name, KL_WANT_ANY, &vault);
    if (st != KL_OK) {
        return st;
    }
    kl_wipe(vault->wrapped_key.data, vault->wrapped_key.len);
    vault->wrapped_key.len = 0;
    st = kl_pb_pack(&vault->base, &packed);
    if (st == KL_OK) {
        st = kl_pb_copy(&r->vault, kl_buf_bytes(&packed));
    }
    kl_buf_wipe(&packed);
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    return st;
}
