/*
 * Purge of a vault: first in its home group, then the name is released in the directory, then the
 * home group forgets that the directory had to be told. Once the first step is done the vault is
 * gone for good and the call succeeds; should a later step fail, the home group's leader repeats it
 * from its outbox.
 */
#include "server/handlers/parts.h"

struct purge_state {
    uint8_t vault_id[KL_ID_LEN];
};

static enum kl_status finish(struct kl_call *call, struct kl_plan *plan)
{
    plan->step = KL_STEP_REPLY;
    return kl_response(call) == NULL ? KL_NO_MEMORY : KL_OK;
}

static enum kl_status told(struct kl_call *call, enum kl_status status, struct kl_bytes result,
                           struct kl_plan *plan)
{
    (void)status; /* if this failed, the outbox is worked on once more */
    (void)result;
    return finish(call, plan);
}

static enum kl_status released(struct kl_call *call, enum kl_status status, struct kl_bytes result,
                               struct kl_plan *plan)
{
    const struct purge_state *state = call->state;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__OutboxDone done = KLUIS__LOG__OUTBOX_DONE__INIT;

    (void)result;
    if (status != KL_OK) {
        return finish(call, plan);
    }
    done.vault_id = kl_pb_data(kl_bytes_of(state->vault_id, KL_ID_LEN));
    command.op_case = KLUIS__LOG__COMMAND__OP_OUTBOX_DONE;
    command.outbox_done = &done;
    if (kl_plan_propose(call, &command, true, told, plan) != KL_OK) {
        return finish(call, plan);
    }
    return KL_OK;
}

static enum kl_status purged(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                             struct kl_plan *plan)
{
    const Kluis__V1__VaultPurgeRequest *req = (const void *)call->request;
    const struct purge_state *state = call->state;
    Kluis__V1__ReleaseVaultRequest release = KLUIS__V1__RELEASE_VAULT_REQUEST__INIT;
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = kl_result_open(call, status, packed, &result);

    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    if (st != KL_OK) {
        return st;
    }
    if (state == NULL) {
        return finish(call, plan); /* a retry of a purge that was done: the outbox has the rest */
    }
    release.name = req->name;
    release.vault_id = kl_pb_data(kl_bytes_of(state->vault_id, KL_ID_LEN));
    if (kl_plan_remote("/kluis.v1.Internal/ReleaseVault", call->node->groups[0], &release.base,
                       released, plan) != KL_OK) {
        return finish(call, plan);
    }
    return KL_OK;
}

/* The id of the vault that is about to go; without one the state machine says why not. */
static enum kl_status note_id(struct kl_call *call, const char *name)
{
    Kluis__Store__VaultRecord *record = NULL;
    struct purge_state *state;
    enum kl_status st = kl_core_vault(&call->read->view, name, KL_WANT_DELETED, &record);

    if (st != KL_OK) {
        return st == KL_VAULT_NOT_FOUND ? KL_OK : st;
    }
    state = kl_malloc(sizeof *state);
    if (state == NULL || record->vault_id.len != KL_ID_LEN) {
        st = state == NULL ? KL_NO_MEMORY : KL_CORRUPT;
        kl_free(state);
    } else {
        memcpy(state->vault_id, record->vault_id.data, KL_ID_LEN);
        call->state = state;
        call->state_free = kl_free;
    }
    kl_pb_wipe_free(&record->base, &kl_pb_allocator);
    return st;
}

enum kl_status kl_plan_vault_purge(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultPurgeRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultPurge op = KLUIS__LOG__VAULT_PURGE__INIT;
    enum kl_status st = note_id(call, req->name);

    if (st != KL_OK) {
        return st;
    }
    op.name = req->name;
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_PURGE;
    command.vault_purge = &op;
    return kl_plan_propose(call, &command, false, purged, plan);
}
