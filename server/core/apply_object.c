/*
 * The life of an object: a name in a vault, with versions (REQUIREMENTS S2, S4, S6, S7, S9).
 */
#include "server/core/apply.h"

enum kl_status kl_find_target(struct kl_txn *txn, uint32_t kind, const char *vault,
                              const char *name, struct kl_target *target, struct kl_outcome *out)
{
    struct kl_target t = {NULL, NULL};
    enum kl_status st;

    if (!kl_check_kind(kind)) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "kind");
    }
    if (kl_vault_name_check(vault, NULL) != KL_OK) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "vault");
    }
    if (kl_object_name_check(name, NULL) != KL_OK) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "name");
    }
    st = kl_txn_vault(txn, kl_key_vault(vault), &t.vault);
    if (st == KL_OK && !kl_is_id(t.vault->vault_id)) {
        return KL_CORRUPT;
    }
    if (st == KL_NOT_FOUND || (st == KL_OK && t.vault->deleted_ms != 0)) {
        return kl_refuse(out, KL_VAULT_NOT_FOUND, NULL);
    }
    if (st != KL_OK) {
        return st;
    }
    st = kl_txn_load(txn, kl_key_object(kl_pb_bytes(t.vault->vault_id), kind, name),
                     &kluis__store__object_record__descriptor, &t.object);
    if (st != KL_OK && st != KL_NOT_FOUND) {
        return st;
    }
    if (t.object != NULL && !kl_is_id(t.object->object_id)) {
        return KL_CORRUPT;
    }
    *target = t;
    return KL_OK;
}

enum kl_status kl_load_current(struct kl_txn *txn, const Kluis__Store__ObjectRecord *object,
                               Kluis__Store__VersionRecord **out)
{
    enum kl_status st;

    if (!kl_is_id(object->current_version)) {
        return KL_CORRUPT;
    }
    st = kl_version_load(txn, object->object_id, object->current_version, out);
    return st == KL_NOT_FOUND ? KL_CORRUPT : st;
}

static struct kl_key object_key(const struct kl_target *t, uint32_t kind, const char *name)
{
    return kl_key_object(kl_pb_bytes(t->vault->vault_id), kind, name);
}

static const char *check_set(const Kluis__Log__ObjectSet *op)
{
    if (!kl_is_id(op->vault_id)) {
        return "vault_id";
    }
    if (!kl_is_id(op->object_id)) {
        return "object_id";
    }
    if (op->wrapped_key.len > KL_WRAPPED_KEY_MAX) {
        return "wrapped_key";
    }
    return kl_check_version(op->version);
}

/* May the version be added? Fills *object, new or changed; a refusal is in out->status. */
static enum kl_status plan_set(struct kl_txn *txn, const Kluis__Log__ObjectSet *op,
                               const struct kl_target *t, Kluis__Store__ObjectRecord *object,
                               struct kl_outcome *out)
{
    if (!kl_pb_eq(t->vault->vault_id, op->vault_id)) {
        return kl_refuse(out, KL_CHANGED, NULL);
    }
    if (t->object != NULL) {
        *object = *t->object;
        if (object->deleted_ms != 0) {
            return kl_refuse(out, KL_DELETED, NULL);
        }
        if (!kl_pb_eq(object->object_id, op->object_id)) {
            return kl_refuse(out, KL_CHANGED, NULL);
        }
        if (object->version_count >= KL_VERSIONS_MAX) {
            return kl_refuse(out, KL_EXHAUSTED, NULL);
        }
    } else if (op->wrapped_key.len == 0) {
        return kl_refuse(out, KL_CHANGED, NULL); /* planned for an object that is gone */
    } else {
        object->object_id = op->object_id;
        object->wrapped_key = op->wrapped_key;
        object->created_ms = txn->time_ms;
    }
    /* Two version ids of 128 random bits are never alike, and a request that comes twice has been
     * found out by its id: looking for the one among all versions would cost a search of the store
     * with every set. The last one is at hand. */
    if (kl_pb_eq(object->current_version, op->version->meta->version_id)) {
        return kl_refuse(out, KL_CHANGED, NULL);
    }
    return KL_OK;
}

enum kl_status kl_apply_object_set(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                   struct kl_outcome *out)
{
    const Kluis__Log__ObjectSet *op = cmd->object_set;
    Kluis__Store__ObjectRecord fresh = KLUIS__STORE__OBJECT_RECORD__INIT;
    Kluis__Store__ObjectRecord *object;
    struct kl_target t;
    const char *field = check_set(op);
    enum kl_status st;

    if (field != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, field);
    }
    st = kl_find_target(txn, op->kind, op->vault, op->name, &t, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    object = kl_arena_alloc(&txn->arena, sizeof *object);
    if (object == NULL) {
        return KL_NO_MEMORY;
    }
    *object = fresh;
    st = plan_set(txn, op, &t, object, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    object->current_version = op->version->meta->version_id;
    object->version_count++;
    op->version->meta->attributes->created_ms = txn->time_ms;
    op->version->meta->attributes->updated_ms = txn->time_ms;
    kl_version_add(txn, op->object_id, op->version);
    kl_txn_store(txn, object_key(&t, op->kind, op->name), &object->base);
    out->version = op->version->meta;
    out->object = object;
    return KL_OK;
}

/* Merges what the command sets into the version. */
static void merge_update(const Kluis__Log__ObjectUpdate *op, Kluis__Store__VersionMeta *meta)
{
    if (op->set_enabled) {
        meta->attributes->enabled = op->enabled;
    }
    if (op->set_not_before) {
        meta->attributes->not_before_s = op->not_before_s;
    }
    if (op->set_expires) {
        meta->attributes->expires_s = op->expires_s;
    }
    if (op->set_content_type) {
        meta->content_type = op->content_type;
    }
    if (op->set_tags) {
        meta->tags = op->tags;
        meta->n_tags = op->n_tags;
    }
}

static const char *check_update(const Kluis__Log__ObjectUpdate *op)
{
    if (op->version_id.len != 0 && !kl_is_id(op->version_id)) {
        return "version";
    }
    if (op->set_content_type && kl_text_check(op->content_type, KL_CONTENT_TYPE_MAX) != KL_OK) {
        return "content_type";
    }
    return op->set_tags ? kl_check_tags(op->tags, op->n_tags) : NULL;
}

enum kl_status kl_apply_object_update(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out)
{
    const Kluis__Log__ObjectUpdate *op = cmd->object_update;
    Kluis__Store__VersionRecord *version = NULL;
    struct kl_target t;
    const char *field = check_update(op);
    enum kl_status st;

    if (field != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, field);
    }
    st = kl_find_target(txn, op->kind, op->vault, op->name, &t, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    if (t.object == NULL || t.object->deleted_ms != 0) {
        return kl_refuse(out, KL_NOT_FOUND, NULL);
    }
    st = op->version_id.len == 0
             ? kl_load_current(txn, t.object, &version)
             : kl_version_load(txn, t.object->object_id, op->version_id, &version);
    if (st == KL_NOT_FOUND) {
        return kl_refuse(out, KL_NOT_FOUND, "version");
    }
    if (st != KL_OK) {
        return st;
    }
    merge_update(op, version->meta);
    if (!kl_check_dates(version->meta->attributes)) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "expires_s");
    }
    if (protobuf_c_message_get_packed_size(&version->base) > KL_RECORD_MAX) {
        return kl_refuse(out, KL_TOO_LARGE, NULL);
    }
    version->meta->attributes->updated_ms = txn->time_ms;
    st = kl_version_put(txn, t.object->object_id, version);
    if (st != KL_OK) {
        return st;
    }
    out->version = version->meta;
    out->object = t.object;
    return KL_OK;
}

/* Finds an object in the wanted state; a refusal is in out->status. */
static enum kl_status find_object(struct kl_txn *txn, uint32_t kind, const char *vault,
                                  const char *name, bool deleted, struct kl_target *t,
                                  struct kl_outcome *out)
{
    enum kl_status st = kl_find_target(txn, kind, vault, name, t, out);

    if (st == KL_OK && out->status == KL_OK &&
        (t->object == NULL || (t->object->deleted_ms != 0) != deleted)) {
        return kl_refuse(out, KL_NOT_FOUND, NULL);
    }
    return st;
}

enum kl_status kl_apply_object_delete(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out)
{
    const Kluis__Log__ObjectDelete *op = cmd->object_delete;
    Kluis__Store__PurgeRecord purge = KLUIS__STORE__PURGE_RECORD__INIT;
    Kluis__Store__VersionRecord *current = NULL;
    struct kl_target t;
    struct kl_bytes vault_id;
    uint64_t day_ms = 0;
    enum kl_status st;

    st = find_object(txn, op->kind, op->vault, op->name, false, &t, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    st = kl_txn_day(txn, &day_ms);
    if (st == KL_OK) {
        st = kl_load_current(txn, t.object, &current);
    }
    if (st != KL_OK) {
        return st;
    }
    t.object->deleted_ms = txn->time_ms;
    t.object->purge_ms = kl_time_add(txn->time_ms, t.vault->retention_days * day_ms);
    vault_id = kl_pb_bytes(t.vault->vault_id);
    purge.kind = op->kind;
    purge.vault_id = t.vault->vault_id;
    purge.name = op->name;
    purge.object_id = t.object->object_id;
    kl_txn_store(txn, object_key(&t, op->kind, op->name), &t.object->base);
    kl_txn_put(txn, kl_key_object_deleted(vault_id, op->kind, op->name),
               (struct kl_bytes){NULL, 0});
    kl_txn_store(txn, kl_key_purge(t.object->purge_ms, vault_id, op->kind, op->name), &purge.base);
    out->object = t.object;
    out->version = current->meta;
    return KL_OK;
}

enum kl_status kl_apply_object_recover(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                       struct kl_outcome *out)
{
    const Kluis__Log__ObjectRecover *op = cmd->object_recover;
    Kluis__Store__VersionRecord *current = NULL;
    struct kl_target t;
    struct kl_bytes vault_id;
    enum kl_status st;

    st = find_object(txn, op->kind, op->vault, op->name, true, &t, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    st = kl_load_current(txn, t.object, &current);
    if (st != KL_OK) {
        return st;
    }
    vault_id = kl_pb_bytes(t.vault->vault_id);
    kl_txn_del(txn, kl_key_purge(t.object->purge_ms, vault_id, op->kind, op->name));
    kl_txn_del(txn, kl_key_object_deleted(vault_id, op->kind, op->name));
    t.object->deleted_ms = 0;
    t.object->purge_ms = 0;
    kl_txn_store(txn, object_key(&t, op->kind, op->name), &t.object->base);
    out->object = t.object;
    out->version = current->meta;
    return KL_OK;
}

enum kl_status kl_apply_object_purge(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                     struct kl_outcome *out)
{
    const Kluis__Log__ObjectPurge *op = cmd->object_purge;
    struct kl_target t;
    enum kl_status st;

    st = find_object(txn, op->kind, op->vault, op->name, true, &t, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    if (t.vault->purge_protection && txn->time_ms < t.object->purge_ms) {
        return kl_refuse(out, KL_PURGE_PROTECTED, NULL);
    }
    out->object = t.object;
    return kl_purge_object(txn, kl_pb_bytes(t.vault->vault_id), op->kind, op->name, t.object);
}
