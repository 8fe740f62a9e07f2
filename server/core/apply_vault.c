/*
 * The life of a vault in its home group (REQUIREMENTS S1..S5, S7, S9, S10).
 */
#include "server/core/apply.h"

enum kl_status kl_load_vault(struct kl_txn *txn, const char *name, Kluis__Store__VaultRecord **out)
{
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st;

    st = kl_txn_load(txn, kl_key_vault(name), &kluis__store__vault_record__descriptor, &vault);
    if (st != KL_OK) {
        return st;
    }
    if (!kl_is_id(vault->vault_id) || kl_vault_name_check(vault->name, NULL) != KL_OK) {
        return KL_CORRUPT; /* keys are made of both */
    }
    *out = vault;
    return KL_OK;
}

enum kl_status kl_apply_vault_create(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                     struct kl_outcome *out)
{
    Kluis__Store__VaultRecord *vault = cmd->vault_create->vault;
    Kluis__Store__VaultRecord *old = NULL;
    struct kl_bytes purged;
    const char *field = kl_check_vault(vault);
    enum kl_status st;

    if (field != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, field);
    }
    st = kl_load_vault(txn, vault->name, &old);
    if (st == KL_OK && kl_pb_eq(old->vault_id, vault->vault_id)) {
        out->vault = old; /* created before; what has happened to it since stays */
        return KL_OK;
    }
    if (st == KL_OK) {
        return kl_refuse(out, old->deleted_ms != 0 ? KL_VAULT_DELETED : KL_ALREADY_EXISTS, NULL);
    }
    if (st != KL_NOT_FOUND) {
        return st;
    }
    st = kl_txn_get(txn, kl_key_outbox(kl_pb_bytes(vault->vault_id)), &purged);
    if (st == KL_OK) {
        return kl_refuse(out, KL_CHANGED, NULL); /* a late duplicate: this vault was purged */
    }
    if (st != KL_NOT_FOUND) {
        return st;
    }
    vault->created_ms = txn->time_ms;
    vault->updated_ms = txn->time_ms;
    vault->deleted_ms = 0;
    vault->purge_ms = 0;
    kl_txn_store(txn, kl_key_vault(vault->name), &vault->base);
    out->vault = vault;
    return KL_OK;
}

/* Checks the name and loads the vault in the wanted state; a refusal is in out->status. */
static enum kl_status find_vault(struct kl_txn *txn, const char *name, bool deleted,
                                 Kluis__Store__VaultRecord **vault, struct kl_outcome *out)
{
    enum kl_status st;

    if (kl_vault_name_check(name, NULL) != KL_OK) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "name");
    }
    st = kl_load_vault(txn, name, vault);
    if (st == KL_NOT_FOUND || (st == KL_OK && ((*vault)->deleted_ms != 0) != deleted)) {
        return kl_refuse(out, KL_VAULT_NOT_FOUND, NULL);
    }
    return st;
}

enum kl_status kl_apply_vault_update(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                     struct kl_outcome *out)
{
    const Kluis__Log__VaultUpdate *op = cmd->vault_update;
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st;

    if (op->set_tags && kl_check_tags(op->tags, op->n_tags) != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "tags");
    }
    st = find_vault(txn, op->name, false, &vault, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    if (op->set_tags) {
        vault->tags = op->tags;
        vault->n_tags = op->n_tags;
    }
    vault->purge_protection = vault->purge_protection || op->enable_purge_protection;
    vault->updated_ms = txn->time_ms;
    if (protobuf_c_message_get_packed_size(&vault->base) > KL_RECORD_MAX) {
        return kl_refuse(out, KL_TOO_LARGE, NULL);
    }
    kl_txn_store(txn, kl_key_vault(vault->name), &vault->base);
    out->vault = vault;
    return KL_OK;
}

static struct kl_key vault_purge_key(const Kluis__Store__VaultRecord *vault)
{
    return kl_key_purge(vault->purge_ms, kl_pb_bytes(vault->vault_id), KL_KIND_VAULT, vault->name);
}

enum kl_status kl_apply_vault_delete(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                     struct kl_outcome *out)
{
    Kluis__Store__VaultRecord *vault = NULL;
    Kluis__Store__PurgeRecord purge = KLUIS__STORE__PURGE_RECORD__INIT;
    uint64_t day_ms = 0;
    enum kl_status st;

    st = find_vault(txn, cmd->vault_delete->name, false, &vault, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    st = kl_txn_day(txn, &day_ms);
    if (st != KL_OK) {
        return st;
    }
    vault->deleted_ms = txn->time_ms;
    vault->purge_ms = kl_time_add(txn->time_ms, vault->retention_days * day_ms);
    purge.kind = KL_KIND_VAULT;
    purge.vault_id = vault->vault_id;
    purge.name = vault->name;
    kl_txn_store(txn, kl_key_vault(vault->name), &vault->base);
    kl_txn_put(txn, kl_key_vault_deleted(vault->name), (struct kl_bytes){NULL, 0});
    kl_txn_store(txn, vault_purge_key(vault), &purge.base);
    out->vault = vault;
    return KL_OK;
}

enum kl_status kl_apply_vault_recover(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out)
{
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st;

    st = find_vault(txn, cmd->vault_recover->name, true, &vault, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    kl_txn_del(txn, vault_purge_key(vault));
    kl_txn_del(txn, kl_key_vault_deleted(vault->name));
    vault->deleted_ms = 0;
    vault->purge_ms = 0;
    vault->updated_ms = txn->time_ms;
    kl_txn_store(txn, kl_key_vault(vault->name), &vault->base);
    out->vault = vault;
    return KL_OK;
}

void kl_purge_vault(struct kl_txn *txn, const Kluis__Store__VaultRecord *vault)
{
    Kluis__Store__OutboxRecord outbox = KLUIS__STORE__OUTBOX_RECORD__INIT;
    Kluis__Store__GarbageRecord garbage = KLUIS__STORE__GARBAGE_RECORD__INIT;
    struct kl_bytes id = kl_pb_bytes(vault->vault_id);

    outbox.name = vault->name;
    outbox.vault_id = vault->vault_id;
    outbox.purged_ms = txn->time_ms;
    garbage.vault_id = vault->vault_id;
    garbage.not_before_ms = txn->time_ms;
    kl_txn_del(txn, kl_key_vault(vault->name)); /* and with it the key of everything inside */
    kl_txn_del(txn, kl_key_vault_deleted(vault->name));
    kl_txn_del(txn, vault_purge_key(vault));
    kl_txn_store(txn, kl_key_outbox(id), &outbox.base);
    kl_txn_store(txn, kl_key_garbage(txn->time_ms, id, (struct kl_bytes){NULL, 0}), &garbage.base);
}

enum kl_status kl_apply_vault_purge(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                    struct kl_outcome *out)
{
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st;

    st = find_vault(txn, cmd->vault_purge->name, true, &vault, out);
    if (st != KL_OK || out->status != KL_OK) {
        return st;
    }
    if (vault->purge_protection && txn->time_ms < vault->purge_ms) {
        return kl_refuse(out, KL_PURGE_PROTECTED, NULL);
    }
    kl_purge_vault(txn, vault);
    out->vault = vault;
    return KL_OK;
}

enum kl_status kl_apply_outbox_done(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                    struct kl_outcome *out)
{
    if (!kl_is_id(cmd->outbox_done->vault_id)) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "id");
    }
    kl_txn_del(txn, kl_key_outbox(kl_pb_bytes(cmd->outbox_done->vault_id)));
    return KL_OK;
}
