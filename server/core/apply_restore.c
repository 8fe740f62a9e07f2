/*
 * Restores. Versions are staged under an object id that no name points to yet; the commit makes
 * all of them visible at once (REQUIREMENTS B1, B3, B6). A stage that is never committed is garbage
 * from keep_ms on: its 'g' record is written with the first version and moved along with later
 * ones, so that no crash of a proposer leaves anything behind.
 */
#include "server/core/apply.h"

enum { STAGE_LEN = 8 + KL_ID_LEN + 8 };

enum kl_status kl_stage_load(struct kl_txn *txn, struct kl_bytes object_id, struct kl_stage *stage)
{
    struct kl_bytes value;
    enum kl_status st = kl_txn_get(txn, kl_key_staged(object_id), &value);

    if (st != KL_OK) {
        return st;
    }
    if (value.len != STAGE_LEN) {
        return KL_CORRUPT;
    }
    stage->not_before_ms = kl_get_be64(value.ptr);
    memcpy(stage->vault_id, value.ptr + 8, KL_ID_LEN);
    stage->count = kl_get_be64(value.ptr + 8 + KL_ID_LEN);
    return KL_OK;
}

static void stage_store(struct kl_txn *txn, struct kl_bytes object_id, const struct kl_stage *stage)
{
    uint8_t value[STAGE_LEN];

    kl_put_be64(value, stage->not_before_ms);
    memcpy(value + 8, stage->vault_id, KL_ID_LEN);
    kl_put_be64(value + 8 + KL_ID_LEN, stage->count);
    kl_txn_put(txn, kl_key_staged(object_id), kl_bytes_of(value, sizeof value));
}

static bool stage_of(const struct kl_stage *stage, ProtobufCBinaryData vault_id)
{
    return kl_bytes_eq(kl_bytes_of(stage->vault_id, KL_ID_LEN), kl_pb_bytes(vault_id));
}

static const char *check_stage(const Kluis__Log__RestoreStage *op)
{
    if (!kl_is_id(op->vault_id)) {
        return "vault_id";
    }
    if (!kl_is_id(op->object_id)) {
        return "object_id";
    }
    if (op->n_versions == 0) {
        return "versions";
    }
    if (op->keep_ms > KL_STAGE_KEEP_MAX_MS) {
        return "keep_ms";
    }
    for (size_t i = 0; i < op->n_versions; i++) {
        const char *field = kl_check_version(op->versions[i]);

        if (field != NULL) {
            return field;
        }
    }
    return NULL;
}

/* The stage as it is, or a new one with count 0; a refusal is in out->status. */
static enum kl_status find_stage(struct kl_txn *txn, const Kluis__Log__RestoreStage *op,
                                 struct kl_stage *stage, struct kl_outcome *out)
{
    struct kl_bytes object_id = kl_pb_bytes(op->object_id);
    struct kl_key from = kl_key_versions_of(object_id);
    struct kl_bytes *keys = NULL;
    size_t n = 0;
    enum kl_status st = kl_stage_load(txn, object_id, stage);

    if (st == KL_OK && (!stage_of(stage, op->vault_id))) {
        return kl_refuse(out, KL_CHANGED, NULL);
    }
    if (st != KL_NOT_FOUND) {
        return st;
    }
    /* Versions without a stage belong to an object, or to garbage that is being collected: adding
     * to them would lose them. */
    st = kl_txn_keys(txn, from, kl_key_prefix_end(&from), 1, &keys, &n);
    if (st == KL_OK && n != 0) {
        return kl_refuse(out, KL_CHANGED, NULL);
    }
    *stage = (struct kl_stage){0};
    memcpy(stage->vault_id, op->vault_id.data, KL_ID_LEN);
    return st;
}

/* How many of the versions are not staged yet: a chunk may come twice. */
static enum kl_status count_new(struct kl_txn *txn, const Kluis__Log__RestoreStage *op, size_t *n)
{
    size_t fresh = 0;

    for (size_t i = 0; i < op->n_versions; i++) {
        ProtobufCBinaryData id = op->versions[i]->meta->version_id;
        struct kl_bytes value;
        enum kl_status st =
            kl_txn_get(txn, kl_key_version(kl_pb_bytes(op->object_id), kl_pb_bytes(id)), &value);

        if (st != KL_OK && st != KL_NOT_FOUND) {
            return st;
        }
        fresh += st == KL_NOT_FOUND;
        for (size_t j = 0; st == KL_NOT_FOUND && j < i; j++) {
            if (kl_pb_eq(op->versions[j]->meta->version_id, id)) {
                fresh--; /* twice in this very chunk */
                break;
            }
        }
    }
    *n = fresh;
    return KL_OK;
}

/* Moves the stage's garbage record to its new time. */
static void stage_keep(struct kl_txn *txn, const Kluis__Log__RestoreStage *op,
                       struct kl_stage *stage)
{
    Kluis__Store__GarbageRecord garbage = KLUIS__STORE__GARBAGE_RECORD__INIT;
    struct kl_bytes vault_id = kl_pb_bytes(op->vault_id);
    struct kl_bytes object_id = kl_pb_bytes(op->object_id);
    uint64_t not_before_ms = kl_time_add(txn->time_ms, op->keep_ms);

    if (stage->count != 0 && not_before_ms > stage->not_before_ms) {
        kl_txn_del(txn, kl_key_garbage(stage->not_before_ms, vault_id, object_id));
    }
    if (stage->count == 0 || not_before_ms > stage->not_before_ms) {
        stage->not_before_ms = not_before_ms;
        garbage.object_id = op->object_id;
        garbage.vault_id = op->vault_id;
        garbage.not_before_ms = not_before_ms;
        kl_txn_store(txn, kl_key_garbage(not_before_ms, vault_id, object_id), &garbage.base);
    }
}

enum kl_status kl_apply_restore_stage(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out)
{
    const Kluis__Log__RestoreStage *op = cmd->restore_stage;
    struct kl_stage stage = {0};
    const char *field = check_stage(op);
    size_t fresh = 0;
    enum kl_status st;

    if (field != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, field);
    }
    st = find_stage(txn, op, &stage, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    st = count_new(txn, op, &fresh);
    if (st != KL_OK) {
        return st;
    }
    if (stage.count + fresh > KL_VERSIONS_MAX) {
        return kl_refuse(out, KL_EXHAUSTED, NULL);
    }
    stage_keep(txn, op, &stage);
    for (size_t i = 0; i < op->n_versions; i++) {
        st = kl_version_put(txn, op->object_id, op->versions[i]);
        if (st != KL_OK) {
            return st;
        }
    }
    stage.count += fresh;
    stage_store(txn, kl_pb_bytes(op->object_id), &stage);
    out->count = (uint32_t)stage.count;
    return KL_OK;
}

static const char *check_commit(const Kluis__Log__RestoreCommit *op)
{
    if (!kl_is_id(op->vault_id)) {
        return "vault_id";
    }
    if (op->object == NULL || !kl_is_id(op->object->object_id) ||
        !kl_is_id(op->object->current_version) || op->object->wrapped_key.len == 0 ||
        op->object->wrapped_key.len > KL_WRAPPED_KEY_MAX) {
        return "object";
    }
    return NULL;
}

/* May the stage be shown under the name? Loads the current version; a refusal is in out->status. */
static enum kl_status plan_commit(struct kl_txn *txn, const Kluis__Log__RestoreCommit *op,
                                  const struct kl_target *t, struct kl_stage *stage,
                                  Kluis__Store__VersionRecord **current, struct kl_outcome *out)
{
    enum kl_status st;

    if (!kl_pb_eq(t->vault->vault_id, op->vault_id)) {
        return kl_refuse(out, KL_CHANGED, NULL);
    }
    if (t->object != NULL) {
        return kl_refuse(out, t->object->deleted_ms != 0 ? KL_DELETED : KL_ALREADY_EXISTS, NULL);
    }
    st = kl_stage_load(txn, kl_pb_bytes(op->object->object_id), stage);
    if (st == KL_NOT_FOUND || (st == KL_OK && (stage->count != op->object->version_count ||
                                               !stage_of(stage, op->vault_id)))) {
        return kl_refuse(out, KL_CHANGED, NULL);
    }
    if (st != KL_OK) {
        return st;
    }
    st = kl_version_load(txn, op->object->object_id, op->object->current_version, current);
    return st == KL_NOT_FOUND ? kl_refuse(out, KL_CHANGED, NULL) : st;
}

enum kl_status kl_apply_restore_commit(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                       struct kl_outcome *out)
{
    const Kluis__Log__RestoreCommit *op = cmd->restore_commit;
    Kluis__Store__ObjectRecord *object = op->object;
    Kluis__Store__VersionRecord *current = NULL;
    struct kl_stage stage = {0};
    struct kl_target t;
    const char *field = check_commit(op);
    struct kl_bytes object_id;
    struct kl_bytes vault_id;
    enum kl_status st;

    if (field != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, field);
    }
    st = kl_find_target(txn, op->kind, op->vault, op->name, &t, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    st = plan_commit(txn, op, &t, &stage, &current, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    object_id = kl_pb_bytes(object->object_id);
    vault_id = kl_pb_bytes(op->vault_id);
    object->created_ms = object->created_ms == 0 ? txn->time_ms : object->created_ms;
    object->deleted_ms = 0;
    object->purge_ms = 0;
    kl_txn_del(txn, kl_key_staged(object_id));
    kl_txn_del(txn, kl_key_garbage(stage.not_before_ms, vault_id, object_id));
    kl_txn_store(txn, kl_key_object(vault_id, op->kind, op->name), &object->base);
    out->object = object;
    out->version = current->meta;
    out->count = (uint32_t)stage.count;
    return KL_OK;
}
