/*
 * Backup and restore of a secret.
 *
 * Backup opens all versions at the one snapshot of the call's read and puts them into a blob
 * (server/crypto/blob.h).
 *
 * Restore authenticates the whole blob, seals every version under a new object key and proposes
 * them in stages of bounded size under a new object id, where nobody sees them; one last command
 * makes the object of that id visible under its name, all versions at once. Only that command
 * carries the request id. Stages of a restore that never came to its end are collected.
 */
#include "server/handlers/secrets.h"

#include "server/crypto/blob.h"

#include <assert.h>
#include <stdio.h>

enum {
    STAGE_VERSIONS_MAX = 512,     /* of one RestoreStage */
    VERSION_META_MAX = 16u << 10, /* more than tags, content type and dates of a version can take */
};

/* ---- backup ---- */

struct backup {
    struct kl_call *call;
    const Kluis__Store__VaultRecord *vault;
    const Kluis__Store__ObjectRecord *object;
    struct kl_blob_writer *writer;
    struct kl_buf plain;
    size_t bytes;
    uint32_t n;
    enum kl_status st;
};

static bool add_to_backup(void *arg, const Kluis__Store__VersionRecord *version)
{
    struct backup *b = arg;
    struct kl_blob_version v;
    struct kl_identity id;

    if (version->meta == NULL) {
        b->st = KL_CORRUPT;
        return false;
    }
    id = (struct kl_identity){
        .vault_id = kl_pb_view(b->vault->vault_id),
        .object_id = kl_pb_view(b->object->object_id),
        .version_id = kl_pb_view(version->meta->version_id),
        .kind = KL_KIND_SECRET,
    };
    kl_buf_clear(&b->plain);
    b->st =
        kl_payload_open(b->call->keyring, &id, kl_pb_view(b->vault->wrapped_key),
                        kl_pb_view(b->object->wrapped_key), kl_pb_view(version->sealed), &b->plain);
    if (b->st != KL_OK) {
        return false;
    }
    b->bytes += b->plain.len;
    if (b->bytes > KL_BLOB_MAX) {
        b->st = KL_TOO_LARGE;
        return false;
    }
    v = (struct kl_blob_version){.meta = version->meta, .payload = kl_buf_bytes(&b->plain)};
    b->st = kl_blob_writer_add(b->writer, &v);
    b->n += b->st == KL_OK;
    return b->st == KL_OK;
}

static enum kl_status fill_head(struct kl_call *call, const char *name, const struct backup *b,
                                struct kl_blob_head *head)
{
    *head = (struct kl_blob_head){
        .kind = KL_KIND_SECRET,
        .applied_index = call->read->applied,
        .created_ms = b->object->created_ms,
        .version_count = (uint32_t)b->object->version_count,
    };
    if (b->object->version_count > KL_VERSIONS_MAX || b->object->current_version.len != KL_ID_LEN ||
        strlen(b->vault->subscription) >= sizeof head->subscription) {
        return KL_CORRUPT;
    }
    (void)snprintf(head->geography, sizeof head->geography, "%s",
                   kl_call_placement(call).geography);
    (void)snprintf(head->subscription, sizeof head->subscription, "%s", b->vault->subscription);
    (void)snprintf(head->name, sizeof head->name, "%s", name);
    memcpy(head->current_version, b->object->current_version.data, KL_ID_LEN);
    return KL_OK;
}

static enum kl_status write_blob(struct kl_call *call, const char *name, struct backup *b)
{
    Kluis__V1__SecretBackupResponse *r = kl_response(call);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct kl_blob_head head;
    enum kl_status st = r == NULL ? KL_NO_MEMORY : fill_head(call, name, b, &head);

    if (st == KL_OK) {
        st = kl_blob_writer_new(call->keyring, &head, &b->writer);
    }
    if (st != KL_OK) {
        return st;
    }
    st = kl_core_versions(&call->read->view, kl_pb_view(b->object->object_id), kl_bytes_of(NULL, 0),
                          add_to_backup, b);
    if (st == KL_OK) {
        st = b->st;
    }
    if (st == KL_OK && b->n != b->object->version_count) {
        st = KL_CORRUPT;
    }
    if (st == KL_OK) {
        st = kl_blob_writer_finish(b->writer, &blob);
    }
    if (st == KL_OK) {
        r->version_count = b->n;
        r->blob = (ProtobufCBinaryData){blob.len, blob.ptr}; /* moved */
        blob = KL_BUF(0);
    } else if (st == KL_TOO_LARGE) {
        st = kl_call_field(call, st, "name",
                           "a backup holds at most 64 MiB; all versions of this secret are more");
    }
    kl_buf_wipe(&blob);
    return st;
}

enum kl_status kl_plan_secret_backup(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretBackupRequest *req = (const void *)call->request;
    Kluis__Store__VaultRecord *vault = NULL;
    Kluis__Store__ObjectRecord *object = NULL;
    struct backup b = {.call = call, .plain = KL_BUF(KL_SECRET_VALUE_MAX), .st = KL_OK};
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    plan->step = KL_STEP_REPLY;
    if (st == KL_OK) {
        st = kl_read_vault(call, req->vault, KL_WANT_LIVE, &vault);
    }
    if (st == KL_OK) {
        st = kl_read_secret(call, vault, req->name, KL_WANT_LIVE, &object);
    }
    if (st == KL_OK) {
        b.vault = vault;
        b.object = object;
        st = write_blob(call, req->name, &b);
    }
    kl_blob_writer_free(b.writer);
    kl_buf_wipe(&b.plain);
    kl_pb_wipe_free((ProtobufCMessage *)object, &kl_pb_allocator);
    kl_pb_wipe_free((ProtobufCMessage *)vault, &kl_pb_allocator);
    return st;
}

/* ---- restore ---- */

struct restore {
    struct kl_vault_facts facts;
    struct kl_blob_reader *reader;
    Kluis__Store__VaultRecord *vault;
    uint8_t object_id[KL_ID_LEN];
    struct kl_buf wrapped_key;
    uint32_t staged;
    bool ended; /* the reader has no more versions */
};

static void restore_free(void *arg)
{
    struct restore *r = arg;

    kl_blob_reader_free(r->reader);
    kl_pb_wipe_free((ProtobufCMessage *)r->vault, &kl_pb_allocator);
    kl_buf_wipe(&r->wrapped_key);
    kl_free(r);
}

static enum kl_status restore_done(struct kl_call *call, enum kl_status status,
                                   struct kl_bytes packed, struct kl_plan *plan)
{
    const Kluis__V1__SecretRestoreRequest *req = (const void *)call->request;
    const struct restore *state = call->state;
    Kluis__V1__SecretRestoreResponse *r = kl_response(call);
    Kluis__Log__CommandResult *result = NULL;
    Kluis__V1__Secret *secret = NULL;
    const struct kl_blob_head *head = kl_blob_reader_head(state->reader);
    enum kl_status st = kl_result_open(call, status, packed, &result);

    plan->step = KL_STEP_REPLY;
    if (st == KL_OK && r == NULL) {
        st = KL_NO_MEMORY;
    }
    if (st == KL_OK) {
        r->version_count = result->count;
        st = kl_secret_message(&state->facts, req->vault, head->name, result->version,
                               result->object, &secret);
    }
    if (st == KL_OK) {
        st = kl_respond(call, "secret", secret);
    }
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    return st;
}

static enum kl_status propose_commit(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretRestoreRequest *req = (const void *)call->request;
    const struct restore *state = call->state;
    const struct kl_blob_head *head = kl_blob_reader_head(state->reader);
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__RestoreCommit op = KLUIS__LOG__RESTORE_COMMIT__INIT;
    Kluis__Store__ObjectRecord object = KLUIS__STORE__OBJECT_RECORD__INIT;
    char name[KL_OBJECT_NAME_MAX + 1];

    if (state->staged != head->version_count) {
        return KL_BLOB_TAMPERED;
    }
    (void)snprintf(name, sizeof name, "%s", head->name);
    object.object_id = kl_pb_data(kl_bytes_of(state->object_id, KL_ID_LEN));
    object.current_version = kl_pb_data(kl_bytes_of(head->current_version, KL_ID_LEN));
    object.wrapped_key = kl_pb_data(kl_buf_bytes(&state->wrapped_key));
    object.version_count = head->version_count;
    object.created_ms = head->created_ms;
    op.kind = KL_KIND_SECRET;
    op.vault = req->vault;
    op.name = name;
    op.vault_id = state->vault->vault_id;
    op.object = &object;
    command.op_case = KLUIS__LOG__COMMAND__OP_RESTORE_COMMIT;
    command.restore_commit = &op;
    return kl_plan_propose(call, &command, false, restore_done, plan);
}

/* Versions of one stage, with what they own. */
struct stage {
    Kluis__Store__VersionRecord records[STAGE_VERSIONS_MAX];
    Kluis__Store__VersionRecord *ptrs[STAGE_VERSIONS_MAX];
    struct kl_buf sealed[STAGE_VERSIONS_MAX];
    size_t n;
    size_t bytes;
};

static void stage_free(struct stage *s)
{
    for (size_t i = 0; s != NULL && i < s->n; i++) {
        kl_pb_wipe_free((ProtobufCMessage *)s->records[i].meta, &kl_pb_allocator);
        kl_buf_wipe(&s->sealed[i]);
    }
    kl_free(s);
}

/* The next version of the blob, sealed anew. KL_NOT_FOUND after the last. */
static enum kl_status stage_next(struct kl_call *call, struct stage *s, struct kl_buf *plain)
{
    struct restore *state = call->state;
    struct kl_buf *sealed = &s->sealed[s->n];
    Kluis__Store__VersionRecord *record = &s->records[s->n];
    Kluis__Store__VersionMeta *meta = NULL;
    struct kl_identity id;
    enum kl_status st = kl_blob_reader_next(state->reader, &meta, plain);

    if (st != KL_OK) {
        return st;
    }
    *record = (Kluis__Store__VersionRecord)KLUIS__STORE__VERSION_RECORD__INIT;
    *sealed = KL_BUF(KL_SEALED_MAX);
    record->meta = meta;
    s->ptrs[s->n] = record;
    s->n++; /* from here on the stage frees it */
    id = (struct kl_identity){
        .vault_id = kl_pb_view(state->vault->vault_id),
        .object_id = kl_bytes_of(state->object_id, KL_ID_LEN),
        .version_id = kl_pb_view(meta->version_id),
        .kind = KL_KIND_SECRET,
    };
    st = kl_payload_seal(call->keyring, &id, kl_pb_view(state->vault->wrapped_key),
                         kl_buf_bytes(&state->wrapped_key), kl_buf_bytes(plain), sealed);
    if (st == KL_OK) {
        record->sealed = kl_pb_data(kl_buf_bytes(sealed));
        s->bytes += kluis__store__version_record__get_packed_size(record);
    }
    return st;
}

static enum kl_status fill_stage(struct kl_call *call, struct stage *s)
{
    struct restore *state = call->state;
    struct kl_buf plain = KL_BUF(KL_SECRET_VALUE_MAX);
    enum kl_status st = KL_OK;

    while (st == KL_OK && s->n < STAGE_VERSIONS_MAX &&
           s->bytes + KL_SEALED_MAX + VERSION_META_MAX <= KL_RESTORE_STAGE_BYTES) {
        st = stage_next(call, s, &plain);
    }
    kl_buf_wipe(&plain);
    if (st == KL_NOT_FOUND) {
        state->ended = true;
        st = KL_OK;
    }
    return st;
}

static enum kl_status staged(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                             struct kl_plan *plan);

/* Proposes the next stage, or the commit when everything is staged. */
static enum kl_status go_on(struct kl_call *call, struct kl_plan *plan)
{
    struct restore *state = call->state;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__RestoreStage op = KLUIS__LOG__RESTORE_STAGE__INIT;
    struct stage *s;
    enum kl_status st;

    if (state->ended) {
        return propose_commit(call, plan);
    }
    s = kl_calloc(1, sizeof *s);
    st = s == NULL ? KL_NO_MEMORY : fill_stage(call, s);
    if (st != KL_OK) {
        goto out;
    }
    if (s->n == 0) {
        st = propose_commit(call, plan);
        goto out;
    }
    state->staged += (uint32_t)s->n;
    op.vault_id = state->vault->vault_id;
    op.object_id = kl_pb_data(kl_bytes_of(state->object_id, KL_ID_LEN));
    op.n_versions = s->n;
    op.versions = s->ptrs;
    op.keep_ms = KL_RESTORE_KEEP_MS;
    command.op_case = KLUIS__LOG__COMMAND__OP_RESTORE_STAGE;
    command.restore_stage = &op;
    command.expires_ms = call->expires_ms;
    st = kl_plan_propose(call, &command, true, staged, plan);
out:
    stage_free(s);
    return st;
}

static enum kl_status staged(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                             struct kl_plan *plan)
{
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = kl_result_open(call, status, packed, &result);

    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    return st == KL_OK ? go_on(call, plan) : st;
}

static enum kl_status open_blob(struct kl_call *call, struct restore *state,
                                const Kluis__V1__SecretRestoreRequest *req)
{
    const char *limit = NULL;
    const struct kl_blob_head *head;
    enum kl_status st;

    if (req->blob.len > KL_BLOB_MAX) {
        return kl_call_field(call, KL_TOO_LARGE, "blob", "at most 64 MiB");
    }
    st = kl_blob_reader_new(call->keyring, kl_pb_view(req->blob), kl_call_placement(call).geography,
                            state->vault->subscription, KL_KIND_SECRET, &state->reader);
    if (st != KL_OK) {
        return kl_call_field(call, st, "blob", kl_status_info(st)->text);
    }
    head = kl_blob_reader_head(state->reader);
    st = kl_object_name_check(head->name, &limit);
    if (st != KL_OK || head->version_count == 0 || head->version_count > KL_VERSIONS_MAX) {
        return kl_call_field(call, KL_BLOB_MALFORMED, "blob", "a name and versions within limits");
    }
    return kl_field_object(call, req->vault, head->name);
}

/* The name must be free; the last command checks that again. */
static enum kl_status check_free(struct kl_call *call, const struct restore *state)
{
    Kluis__Store__ObjectRecord *object = NULL;
    enum kl_status st =
        kl_core_object(&call->read->view, kl_pb_view(state->vault->vault_id), KL_KIND_SECRET,
                       kl_blob_reader_head(state->reader)->name, KL_WANT_ANY, &object);

    if (st == KL_NOT_FOUND) {
        return KL_OK;
    }
    if (st == KL_OK) {
        st = object->deleted_ms != 0
                 ? kl_call_field(call, KL_DELETED, "blob",
                                 "recover or purge the deleted secret of this name first")
                 : kl_call_field(call, KL_ALREADY_EXISTS, "blob",
                                 "the vault holds a secret of this name");
    }
    kl_pb_wipe_free((ProtobufCMessage *)object, &kl_pb_allocator);
    return st;
}

static enum kl_status begin(struct kl_call *call, struct restore *state, struct kl_plan *plan)
{
    const Kluis__V1__SecretRestoreRequest *req = (const void *)call->request;
    struct kl_buf stored = KL_BUF(KL_RECORD_MAX);
    struct kl_identity id;
    enum kl_status st = kl_read_vault(call, req->vault, KL_WANT_LIVE, &state->vault);

    if (st == KL_OK) {
        state->facts = kl_facts_of(state->vault);
        st = open_blob(call, state, req);
    }
    if (st != KL_OK) {
        return st;
    }
    st = kl_result_stored(call, &stored);
    if (st == KL_OK) {
        st = restore_done(call, KL_OK, kl_buf_bytes(&stored), plan);
        kl_buf_wipe(&stored);
        return st;
    }
    if (st != KL_NOT_FOUND) {
        return st;
    }
    st = check_free(call, state);
    if (st == KL_OK) {
        st = call->entropy->fill(call->entropy->ctx, state->object_id, KL_ID_LEN);
    }
    if (st != KL_OK) {
        return st;
    }
    id = (struct kl_identity){
        .vault_id = kl_pb_view(state->vault->vault_id),
        .object_id = kl_bytes_of(state->object_id, KL_ID_LEN),
        .kind = KL_KIND_SECRET,
    };
    st = kl_object_key_new(call->keyring, &id, kl_pb_view(state->vault->wrapped_key),
                           &state->wrapped_key);
    return st == KL_OK ? go_on(call, plan) : st;
}

enum kl_status kl_plan_secret_restore(struct kl_call *call, struct kl_plan *plan)
{
    struct restore *state = kl_calloc(1, sizeof *state);

    assert(call->state == NULL);
    if (state == NULL) {
        return KL_NO_MEMORY;
    }
    state->wrapped_key = KL_BUF(KL_RECORD_MAX);
    call->state = state;
    call->state_free = restore_free;
    return begin(call, state, plan);
}
