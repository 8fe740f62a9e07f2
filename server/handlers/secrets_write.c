/*
 * Secrets: set, update, delete, recover, purge. Only set has anything to prepare: its value is sealed
 * before it is proposed, under the key of the object that the read found or under a new one when the
 * name is free. When the object has changed meanwhile the state machine says so (KL_CHANGED, which
 * it does not remember) and the plan is made again under the same request id.
 */
#include "server/handlers/secrets.h"

#include <stdio.h>

/* ---- what the reply needs besides the result ---- */

enum kl_status kl_note_facts(struct kl_call *call, const char *name)
{
    Kluis__Store__VaultRecord *vault = NULL;
    struct kl_vault_facts *facts;
    enum kl_status st = kl_core_vault(&call->read->view, name, KL_WANT_ANY, &vault);

    if (st == KL_VAULT_NOT_FOUND) {
        return KL_OK; /* the state machine refuses, or answers a retry with what it remembers */
    }
    if (st != KL_OK) {
        return st;
    }
    facts = call->state != NULL ? call->state : kl_malloc(sizeof *facts);
    if (facts == NULL) {
        st = KL_NO_MEMORY;
    } else {
        *facts = kl_facts_of(vault);
        call->state = facts;
        call->state_free = kl_free;
    }
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    return st;
}

static enum kl_status respond(struct kl_call *call, const char *vault, const char *name,
                              const Kluis__Log__CommandResult *result)
{
    Kluis__V1__Secret *secret = NULL;
    enum kl_status st =
        kl_secret_message(call->state, vault, name, result->version, result->object, &secret);

    return st == KL_OK ? kl_respond(call, "secret", secret) : st;
}

/* The outcome of a proposal becomes the reply's secret. */
static enum kl_status answer(struct kl_call *call, const char *vault, const char *name,
                             enum kl_status status, struct kl_bytes packed, struct kl_plan *plan)
{
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = kl_result_open(call, status, packed, &result);

    plan->step = KL_STEP_REPLY;
    if (st == KL_OK) {
        st = respond(call, vault, name, result);
    }
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    return st;
}

/* ---- set ---- */

static enum kl_status set_done(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                               struct kl_plan *plan)
{
    const Kluis__V1__SecretSetRequest *req = (const void *)call->request;
    enum kl_status st = answer(call, req->vault, req->name, status, packed, plan);

    if (st == KL_CHANGED) {
        plan->step = KL_STEP_AGAIN;
        return KL_OK;
    }
    return st;
}

static enum kl_status check_set(struct kl_call *call, const Kluis__V1__SecretSetRequest *req)
{
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    if (st == KL_OK && req->value.len > KL_SECRET_VALUE_MAX) {
        st = kl_call_field(call, KL_TOO_LARGE, "value", "at most 25600 bytes");
    }
    if (st == KL_OK) {
        st = kl_field_content_type(call, req->content_type);
    }
    if (st == KL_OK) {
        st = kl_field_tags(call, req->n_tags, req->tags);
    }
    return st == KL_OK ? kl_field_times(call, req->not_before_s, req->expires_s) : st;
}

/* What a set is sealed under. */
struct set_keys {
    uint8_t version_id[KL_ID_LEN];
    uint8_t fresh_id[KL_ID_LEN]; /* of a new object */
    struct kl_identity id;
    struct kl_buf wrapped; /* key of a new object; empty when it exists */
    struct kl_buf sealed;
};

static enum kl_status seal(struct kl_call *call, const Kluis__Store__VaultRecord *vault,
                           const Kluis__Store__ObjectRecord *object, struct kl_bytes value,
                           struct set_keys *k)
{
    struct kl_bytes object_key;
    enum kl_status st = call->entropy->fill(call->entropy->ctx, k->version_id, KL_ID_LEN);

    if (st == KL_OK && object == NULL) {
        st = call->entropy->fill(call->entropy->ctx, k->fresh_id, KL_ID_LEN);
    }
    if (st != KL_OK) {
        return st;
    }
    k->id = (struct kl_identity){
        .vault_id = kl_pb_view(vault->vault_id),
        .object_id =
            object != NULL ? kl_pb_view(object->object_id) : kl_bytes_of(k->fresh_id, KL_ID_LEN),
        .version_id = kl_bytes_of(k->version_id, KL_ID_LEN),
        .kind = KL_KIND_SECRET,
    };
    if (object == NULL) {
        st = kl_object_key_new(call->keyring, &k->id, kl_pb_view(vault->wrapped_key), &k->wrapped);
        if (st != KL_OK) {
            return st;
        }
    }
    object_key = object != NULL ? kl_pb_view(object->wrapped_key) : kl_buf_bytes(&k->wrapped);
    return kl_payload_seal(call->keyring, &k->id, kl_pb_view(vault->wrapped_key), object_key, value,
                           &k->sealed);
}

static enum kl_status propose_set(struct kl_call *call, const Kluis__V1__SecretSetRequest *req,
                                  const struct set_keys *k, struct kl_plan *plan)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectSet op = KLUIS__LOG__OBJECT_SET__INIT;
    Kluis__Store__VersionRecord version = KLUIS__STORE__VERSION_RECORD__INIT;
    Kluis__Store__VersionMeta meta = KLUIS__STORE__VERSION_META__INIT;
    Kluis__Store__Attributes attributes = KLUIS__STORE__ATTRIBUTES__INIT;
    struct kl_tag_list tags;

    kl_tag_list_fill(&tags, req->n_tags, req->tags);
    attributes.enabled = !req->disabled;
    attributes.not_before_s = req->not_before_s;
    attributes.expires_s = req->expires_s;
    meta.version_id = kl_pb_data(k->id.version_id);
    meta.attributes = &attributes;
    meta.content_type = req->content_type;
    meta.n_tags = req->n_tags;
    meta.tags = tags.ptrs;
    version.meta = &meta;
    version.sealed = kl_pb_data(kl_buf_bytes(&k->sealed));
    op.kind = KL_KIND_SECRET;
    op.vault = req->vault;
    op.name = req->name;
    op.object_id = kl_pb_data(k->id.object_id);
    op.wrapped_key = kl_pb_data(kl_buf_bytes(&k->wrapped));
    op.vault_id = kl_pb_data(k->id.vault_id);
    op.version = &version;
    command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_SET;
    command.object_set = &op;
    return kl_plan_propose(call, &command, false, set_done, plan);
}

/* A first try: reads what the value is to be sealed under. */
static enum kl_status plan_set(struct kl_call *call, const Kluis__V1__SecretSetRequest *req,
                               struct kl_plan *plan)
{
    Kluis__Store__VaultRecord *vault = NULL;
    Kluis__Store__ObjectRecord *object = NULL;
    struct set_keys keys = {.wrapped = KL_BUF(KL_RECORD_MAX), .sealed = KL_BUF(KL_SEALED_MAX)};
    enum kl_status st = kl_read_vault(call, req->vault, KL_WANT_LIVE, &vault);

    if (st != KL_OK) {
        return st;
    }
    st = kl_core_object(&call->read->view, kl_pb_view(vault->vault_id), KL_KIND_SECRET, req->name,
                        KL_WANT_ANY, &object);
    if (st == KL_OK && object->deleted_ms != 0) {
        st = kl_call_field(call, KL_DELETED, "name", "recover or purge the deleted secret first");
    }
    if (st != KL_OK && st != KL_NOT_FOUND) {
        goto out;
    }
    st = seal(call, vault, object, kl_pb_view(req->value), &keys);
    if (st == KL_OK) {
        st = propose_set(call, req, &keys, plan);
    }
out:
    kl_buf_wipe(&keys.wrapped);
    kl_buf_wipe(&keys.sealed);
    kl_pb_wipe_free((ProtobufCMessage *)object, &kl_pb_allocator);
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    return st;
}

enum kl_status kl_plan_secret_set(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretSetRequest *req = (const void *)call->request;
    struct kl_buf stored = KL_BUF(KL_RECORD_MAX);
    enum kl_status st = check_set(call, req);

    if (st == KL_OK) {
        st = kl_note_facts(call, req->vault);
    }
    if (st == KL_OK) {
        st = kl_result_stored(call, &stored);
        if (st == KL_OK) {
            st = set_done(call, KL_OK, kl_buf_bytes(&stored), plan);
        } else if (st == KL_NOT_FOUND) {
            st = plan_set(call, req, plan);
        }
    }
    kl_buf_wipe(&stored);
    return st;
}

/* ---- update ---- */

static enum kl_status update_done(struct kl_call *call, enum kl_status status,
                                  struct kl_bytes packed, struct kl_plan *plan)
{
    const Kluis__V1__SecretUpdateRequest *req = (const void *)call->request;

    return answer(call, req->vault, req->name, status, packed, plan);
}

static enum kl_status check_update(struct kl_call *call, const Kluis__V1__SecretUpdateRequest *req,
                                   uint8_t version[KL_ID_LEN], bool *given)
{
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    if (st == KL_OK) {
        st = kl_field_version(call, req->version, version, given);
    }
    if (st == KL_OK) {
        st = kl_field_content_type(call, req->content_type);
    }
    if (st == KL_OK) {
        st = kl_field_tags(call, req->n_tags, req->tags);
    }
    if (st == KL_OK && !req->set_tags && req->n_tags != 0) {
        st = kl_call_field(call, KL_INVALID_ARGUMENT, "tags", "only together with set_tags");
    }
    return st == KL_OK ? kl_field_times(call, req->not_before_s, req->expires_s) : st;
}

enum kl_status kl_plan_secret_update(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretUpdateRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectUpdate op = KLUIS__LOG__OBJECT_UPDATE__INIT;
    struct kl_tag_list tags;
    uint8_t version[KL_ID_LEN];
    bool given = false;
    enum kl_status st = check_update(call, req, version, &given);

    if (st == KL_OK) {
        st = kl_note_facts(call, req->vault);
    }
    if (st != KL_OK) {
        return st;
    }
    kl_tag_list_fill(&tags, req->n_tags, req->tags);
    op.kind = KL_KIND_SECRET;
    op.vault = req->vault;
    op.name = req->name;
    op.version_id = kl_pb_data(kl_bytes_of(version, given ? KL_ID_LEN : 0));
    op.set_enabled = req->set_enabled;
    op.enabled = req->enabled;
    op.set_not_before = req->set_not_before;
    op.not_before_s = req->not_before_s;
    op.set_expires = req->set_expires;
    op.expires_s = req->expires_s;
    op.set_content_type = req->set_content_type;
    op.content_type = req->content_type;
    op.set_tags = req->set_tags;
    op.n_tags = req->n_tags;
    op.tags = tags.ptrs;
    command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_UPDATE;
    command.object_update = &op;
    return kl_plan_propose(call, &command, false, update_done, plan);
}

/* ---- delete, recover, purge ---- */

static enum kl_status delete_done(struct kl_call *call, enum kl_status status,
                                  struct kl_bytes packed, struct kl_plan *plan)
{
    const Kluis__V1__SecretDeleteRequest *req = (const void *)call->request;

    return answer(call, req->vault, req->name, status, packed, plan);
}

enum kl_status kl_plan_secret_delete(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretDeleteRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectDelete op = KLUIS__LOG__OBJECT_DELETE__INIT;
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    if (st == KL_OK) {
        st = kl_note_facts(call, req->vault);
    }
    if (st != KL_OK) {
        return st;
    }
    op.kind = KL_KIND_SECRET;
    op.vault = req->vault;
    op.name = req->name;
    command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_DELETE;
    command.object_delete = &op;
    return kl_plan_propose(call, &command, false, delete_done, plan);
}

static enum kl_status recover_done(struct kl_call *call, enum kl_status status,
                                   struct kl_bytes packed, struct kl_plan *plan)
{
    const Kluis__V1__SecretRecoverRequest *req = (const void *)call->request;

    return answer(call, req->vault, req->name, status, packed, plan);
}

enum kl_status kl_plan_secret_recover(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretRecoverRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectRecover op = KLUIS__LOG__OBJECT_RECOVER__INIT;
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    if (st == KL_OK) {
        st = kl_note_facts(call, req->vault);
    }
    if (st != KL_OK) {
        return st;
    }
    op.kind = KL_KIND_SECRET;
    op.vault = req->vault;
    op.name = req->name;
    command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_RECOVER;
    command.object_recover = &op;
    return kl_plan_propose(call, &command, false, recover_done, plan);
}

static enum kl_status purge_done(struct kl_call *call, enum kl_status status,
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

enum kl_status kl_plan_secret_purge(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretPurgeRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectPurge op = KLUIS__LOG__OBJECT_PURGE__INIT;
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    if (st != KL_OK) {
        return st;
    }
    op.kind = KL_KIND_SECRET;
    op.vault = req->vault;
    op.name = req->name;
    command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_PURGE;
    command.object_purge = &op;
    return kl_plan_propose(call, &command, false, purge_done, plan);
}
