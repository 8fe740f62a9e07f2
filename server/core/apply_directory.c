/*
 * The directory's own commands, and the claims of vault names in it. GroupInit is for every group.
 */
#include "server/core/apply.h"

enum kl_status kl_apply_group_init(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                   struct kl_outcome *out)
{
    const Kluis__Store__GroupRecord *group = cmd->group_init->group;
    uint64_t day_ms;
    enum kl_status st;

    if (group == NULL || !kl_is_id(group->cluster_id)) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "cluster_id");
    }
    if (kl_text_check(group->geography, KL_LOCATION_MAX) != KL_OK) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "geography");
    }
    if (kl_text_check(group->region, KL_LOCATION_MAX) != KL_OK) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "region");
    }
    if (group->day_ms == 0 || group->day_ms > KL_DAY_MS) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "day_ms");
    }
    st = kl_txn_day(txn, &day_ms);
    if (st == KL_OK) {
        return kl_refuse(out, KL_ALREADY_EXISTS, NULL);
    }
    if (st != KL_NOT_FOUND) {
        return st;
    }
    kl_txn_store(txn, kl_key_group(), &group->base);
    kl_txn_day_changed(txn);
    return KL_OK;
}

static bool keyring_valid(const Kluis__Store__KeyringRecord *ring)
{
    if (ring == NULL || ring->n_roots == 0 || ring->n_roots > KL_KEYRING_ROOTS_MAX ||
        protobuf_c_message_get_packed_size(&ring->base) > KL_RECORD_MAX) {
        return false;
    }
    for (size_t i = 0; i < ring->n_roots; i++) {
        if (ring->roots[i]->version != i + 1 || ring->roots[i]->wrapped.len == 0) {
            return false;
        }
    }
    return true;
}

enum kl_status kl_apply_keyring_put(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                    struct kl_outcome *out)
{
    const Kluis__Log__KeyringPut *op = cmd->keyring_put;
    Kluis__Store__KeyringRecord *old = NULL;
    enum kl_status st;

    /* A root key that wraps some vault's key must never be lost: the list only grows. */
    if (!keyring_valid(op->keyring) || op->keyring->n_roots < op->expected_roots) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "keyring");
    }
    st = kl_txn_load(txn, kl_key_keyring(), &kluis__store__keyring_record__descriptor, &old);
    if (st != KL_OK && st != KL_NOT_FOUND) {
        return st;
    }
    if ((st == KL_OK ? old->n_roots : 0) != op->expected_roots) {
        return kl_refuse(out, KL_CHANGED, NULL);
    }
    kl_txn_store(txn, kl_key_keyring(), &op->keyring->base);
    return KL_OK;
}

static enum kl_status load_claim(struct kl_txn *txn, const char *name,
                                 Kluis__Store__ClaimRecord **out)
{
    return kl_txn_load(txn, kl_key_claim(name), &kluis__store__claim_record__descriptor, out);
}

enum kl_status kl_apply_vault_claim(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                    struct kl_outcome *out)
{
    const Kluis__Log__VaultClaim *op = cmd->vault_claim;
    Kluis__Store__ClaimRecord claim = KLUIS__STORE__CLAIM_RECORD__INIT;
    Kluis__Store__ClaimRecord *old = NULL;
    const char *field = kl_check_vault(op->vault);
    enum kl_status st;

    if (field != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, field);
    }
    if (op->group == 0 || op->group >= KL_GROUPS_MAX) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "location");
    }
    st = load_claim(txn, op->vault->name, &old);
    if (st != KL_OK && st != KL_NOT_FOUND) {
        return st;
    }
    if (st == KL_OK && !kl_pb_eq(old->vault_id, op->vault->vault_id)) {
        return kl_refuse(out, KL_ALREADY_EXISTS, NULL);
    }
    out->vault = op->vault;
    if (st == KL_OK) {
        return KL_OK; /* claimed for this very vault before */
    }
    claim.name = op->vault->name;
    claim.vault_id = op->vault->vault_id;
    claim.state = KLUIS__STORE__CLAIM_STATE__CLAIM_PENDING;
    claim.group = op->group;
    claim.claimed_ms = txn->time_ms;
    claim.vault = op->vault;
    kl_txn_store(txn, kl_key_claim(claim.name), &claim.base);
    kl_txn_put(txn, kl_key_pending(kl_pb_bytes(claim.vault_id)), kl_bytes_str(claim.name));
    return KL_OK;
}

static bool claim_args_valid(const char *name, ProtobufCBinaryData vault_id, struct kl_outcome *out)
{
    if (kl_vault_name_check(name, NULL) != KL_OK) {
        (void)kl_refuse(out, KL_INVALID_ARGUMENT, "name");
        return false;
    }
    if (!kl_is_id(vault_id)) {
        (void)kl_refuse(out, KL_INVALID_ARGUMENT, "id");
        return false;
    }
    return true;
}

enum kl_status kl_apply_vault_confirm(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out)
{
    const Kluis__Log__VaultConfirm *op = cmd->vault_confirm;
    Kluis__Store__ClaimRecord *claim = NULL;
    enum kl_status st;

    if (!claim_args_valid(op->name, op->vault_id, out)) {
        return KL_OK;
    }
    st = load_claim(txn, op->name, &claim);
    if (st == KL_NOT_FOUND || (st == KL_OK && !kl_pb_eq(claim->vault_id, op->vault_id))) {
        return kl_refuse(out, KL_NOT_FOUND, NULL);
    }
    if (st != KL_OK) {
        return st;
    }
    if (claim->state == KLUIS__STORE__CLAIM_STATE__CLAIM_CONFIRMED) {
        return KL_OK;
    }
    claim->state = KLUIS__STORE__CLAIM_STATE__CLAIM_CONFIRMED;
    claim->vault = NULL; /* the home group has it now */
    kl_txn_store(txn, kl_key_claim(op->name), &claim->base);
    kl_txn_del(txn, kl_key_pending(kl_pb_bytes(op->vault_id)));
    return KL_OK;
}

enum kl_status kl_apply_vault_release(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out)
{
    const Kluis__Log__VaultRelease *op = cmd->vault_release;
    Kluis__Store__ClaimRecord *claim = NULL;
    enum kl_status st;

    if (!claim_args_valid(op->name, op->vault_id, out)) {
        return KL_OK;
    }
    st = load_claim(txn, op->name, &claim);
    if (st == KL_NOT_FOUND) {
        return KL_OK; /* released before */
    }
    if (st != KL_OK) {
        return st;
    }
    if (!kl_pb_eq(claim->vault_id, op->vault_id)) {
        return kl_refuse(out, KL_NOT_FOUND, NULL); /* a later vault's name */
    }
    kl_txn_del(txn, kl_key_claim(op->name));
    if (claim->state != KLUIS__STORE__CLAIM_STATE__CLAIM_CONFIRMED) {
        kl_txn_del(txn, kl_key_pending(kl_pb_bytes(op->vault_id)));
    }
    return KL_OK;
}
