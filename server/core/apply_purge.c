/*
 * The end of things. Purging takes the name and the key away at once; what a key no longer opens
 * is garbage and goes in bounded batches, so that no entry grows with what a vault held.
 *
 * Nothing here believes its proposer: each deadline, identity and garbage record is looked up again
 * (DESIGN, "Delete, and what follows": never early, never a recovered or re-created one).
 */
#include "server/core/apply.h"

enum kl_status kl_purge_object(struct kl_txn *txn, struct kl_bytes vault_id, uint32_t kind,
                               const char *name, const Kluis__Store__ObjectRecord *object)
{
    Kluis__Store__GarbageRecord garbage = KLUIS__STORE__GARBAGE_RECORD__INIT;
    struct kl_bytes object_id = kl_pb_bytes(object->object_id);
    size_t n = KL_PURGE_INLINE_MAX + 1;
    enum kl_status st;

    if (object->version_count <= KL_PURGE_INLINE_MAX) {
        st = kl_version_drop(txn, object_id, KL_PURGE_INLINE_MAX, true, &n);
        if (st != KL_OK) {
            return st;
        }
    }
    if (n > KL_PURGE_INLINE_MAX) {
        garbage.vault_id.data = (uint8_t *)(uintptr_t)vault_id.ptr; /* packed, not changed */
        garbage.vault_id.len = vault_id.len;
        garbage.object_id = object->object_id;
        garbage.not_before_ms = txn->time_ms;
        kl_txn_store(txn, kl_key_garbage(txn->time_ms, vault_id, object_id), &garbage.base);
    }
    kl_txn_del(txn, kl_key_object(vault_id, kind, name));
    kl_txn_del(txn, kl_key_object_deleted(vault_id, kind, name));
    kl_txn_del(txn, kl_key_purge(object->purge_ms, vault_id, kind, name));
    return KL_OK;
}

/* A due vault: purged when it is still the one, deleted, with this deadline. */
static enum kl_status purge_due_vault(struct kl_txn *txn, const Kluis__Store__PurgeRecord *item,
                                      uint64_t due_ms, bool *purged)
{
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st = kl_load_vault(txn, item->name, &vault);

    if (st == KL_OK && vault->deleted_ms != 0 && vault->purge_ms == due_ms &&
        kl_pb_eq(vault->vault_id, item->vault_id)) {
        kl_purge_vault(txn, vault);
        *purged = true;
    }
    return st == KL_NOT_FOUND ? KL_OK : st;
}

static enum kl_status purge_due_object(struct kl_txn *txn, const Kluis__Store__PurgeRecord *item,
                                       uint64_t due_ms, bool *purged)
{
    struct kl_bytes vault_id = kl_pb_bytes(item->vault_id);
    Kluis__Store__ObjectRecord *object = NULL;
    enum kl_status st;

    st = kl_txn_load(txn, kl_key_object(vault_id, item->kind, item->name),
                     &kluis__store__object_record__descriptor, &object);
    if (st != KL_OK) {
        return st == KL_NOT_FOUND ? KL_OK : st;
    }
    if (!kl_is_id(object->object_id)) {
        return KL_CORRUPT;
    }
    if (object->deleted_ms == 0 || object->purge_ms != due_ms ||
        !kl_pb_eq(object->object_id, item->object_id)) {
        return KL_OK;
    }
    *purged = true;
    return kl_purge_object(txn, vault_id, item->kind, item->name, object);
}

static bool item_valid(const Kluis__Store__PurgeRecord *item)
{
    if (!kl_is_id(item->vault_id)) {
        return false;
    }
    if (item->kind == KL_KIND_VAULT) {
        return kl_vault_name_check(item->name, NULL) == KL_OK;
    }
    return kl_check_kind(item->kind) && kl_object_name_check(item->name, NULL) == KL_OK;
}

static enum kl_status purge_due_item(struct kl_txn *txn, const Kluis__Store__PurgeRecord *item,
                                     uint64_t due_ms, struct kl_outcome *out)
{
    struct kl_key key = kl_key_purge(due_ms, kl_pb_bytes(item->vault_id), item->kind, item->name);
    Kluis__Store__PurgeRecord *scheduled = NULL;
    bool purged = false;
    enum kl_status st;

    if (txn->time_ms < due_ms) {
        return KL_OK; /* a clock may delay a purge, never hasten it */
    }
    st = kl_txn_load(txn, key, &kluis__store__purge_record__descriptor, &scheduled);
    if (st != KL_OK) {
        return st == KL_NOT_FOUND ? KL_OK : st; /* recovered or purged meanwhile */
    }
    if (!kl_pb_eq(scheduled->object_id, item->object_id)) {
        return KL_OK; /* scheduled for a later incarnation of the name */
    }
    st = item->kind == KL_KIND_VAULT ? purge_due_vault(txn, item, due_ms, &purged)
                                     : purge_due_object(txn, item, due_ms, &purged);
    if (st != KL_OK) {
        return st;
    }
    if (purged) {
        out->count++;
    } else {
        kl_txn_del(txn, key); /* nothing answers to it: it must not come up for ever */
    }
    return KL_OK;
}

enum kl_status kl_apply_purge_due(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                  struct kl_outcome *out)
{
    const Kluis__Log__PurgeDue *op = cmd->purge_due;

    if (op->n_items > KL_PURGE_BATCH_MAX || op->n_items != op->n_due_ms) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "items");
    }
    for (size_t i = 0; i < op->n_items; i++) {
        if (!item_valid(op->items[i])) {
            return kl_refuse(out, KL_INVALID_ARGUMENT, "items");
        }
    }
    for (size_t i = 0; i < op->n_items; i++) {
        enum kl_status st = purge_due_item(txn, op->items[i], op->due_ms[i], out);

        if (st != KL_OK) {
            return st;
        }
    }
    return KL_OK;
}

/* ---- collecting ---- */

/* Removes up to *budget versions; *empty when none is left. */
static enum kl_status collect_versions(struct kl_txn *txn, struct kl_bytes object_id,
                                       size_t *budget, bool *empty)
{
    size_t n = 0;
    enum kl_status st = kl_version_drop(txn, object_id, *budget, false, &n);

    if (st == KL_OK) {
        *empty = n <= *budget;
        *budget -= n < *budget ? n : *budget;
    }
    return st;
}

/* An object of a purged vault: what its key and its record say. */
struct content {
    struct kl_arena *arena;
    struct found {
        struct kl_key key;
        Kluis__Store__ObjectRecord *object;
    } * found;
    size_t n;
    size_t max;
    enum kl_status st;
};

static bool take_object(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct content *c = arg;
    struct found *f = &c->found[c->n];

    f->object = kluis__store__object_record__unpack(&c->arena->allocator, value.len, value.ptr);
    if (f->object == NULL || !kl_is_id(f->object->object_id) || key.len > KL_KEY_MAX) {
        c->st = c->arena->no_memory ? KL_NO_MEMORY : KL_CORRUPT;
        return false;
    }
    f->key.len = key.len;
    memcpy(f->key.bytes, key.ptr, key.len);
    c->n++;
    return c->n < c->max;
}

/* Where kind and name stand in an 's' key. */
enum { KIND_AT = 1 + KL_ID_LEN, NAME_AT = KIND_AT + 1 };

/* One object of a purged vault: its versions, then its records. */
static enum kl_status collect_object(struct kl_txn *txn, struct kl_bytes vault_id,
                                     const struct found *f, size_t *budget)
{
    const Kluis__Store__ObjectRecord *object = f->object;
    uint32_t kind = f->key.bytes[KIND_AT];
    const char *name = (const char *)f->key.bytes + NAME_AT;
    bool empty = false;
    enum kl_status st;

    st = collect_versions(txn, kl_pb_bytes(object->object_id), budget, &empty);
    if (st != KL_OK || !empty || *budget == 0) {
        return st;
    }
    kl_txn_del(txn, f->key);
    if (object->deleted_ms != 0) {
        kl_txn_del(txn, kl_key_object_deleted(vault_id, kind, name));
        kl_txn_del(txn, kl_key_purge(object->purge_ms, vault_id, kind, name));
    }
    (*budget)--;
    return KL_OK;
}

static bool key_valid(const struct kl_key *key)
{
    return key->len > NAME_AT + 1 && key->len <= NAME_AT + KL_OBJECT_NAME_MAX + 1 &&
           key->bytes[key->len - 1] == 0 && kl_check_kind(key->bytes[KIND_AT]) &&
           strlen((const char *)key->bytes + NAME_AT) == key->len - NAME_AT - 1;
}

/* Removes objects of a purged vault within the budget; *empty when none is left. */
static enum kl_status collect_vault(struct kl_txn *txn, struct kl_bytes vault_id, size_t *budget,
                                    bool *empty)
{
    struct kl_key from = kl_key_content_of(vault_id);
    struct content c = {.arena = &txn->arena, .max = *budget + 1, .st = KL_OK};
    enum kl_status st;

    c.found = kl_arena_alloc(&txn->arena, c.max * sizeof *c.found);
    if (c.found == NULL) {
        return KL_NO_MEMORY;
    }
    st = kl_txn_scan(txn, from, kl_key_prefix_end(&from), take_object, &c);
    st = st == KL_OK ? c.st : st;
    for (size_t i = 0; st == KL_OK && i<c.n && * budget> 0; i++) {
        st = key_valid(&c.found[i].key) ? collect_object(txn, vault_id, &c.found[i], budget)
                                        : KL_CORRUPT;
    }
    *empty = st == KL_OK && c.n<c.max && * budget> 0;
    return st;
}

static enum kl_status collect_item(struct kl_txn *txn, const Kluis__Store__GarbageRecord *item,
                                   size_t *budget)
{
    struct kl_bytes vault_id = kl_pb_bytes(item->vault_id);
    struct kl_bytes object_id = kl_pb_bytes(item->object_id);
    struct kl_key key = kl_key_garbage(item->not_before_ms, vault_id, object_id);
    struct kl_bytes value;
    bool empty = false;
    enum kl_status st;

    if (txn->time_ms < item->not_before_ms) {
        return KL_OK;
    }
    st = kl_txn_get(txn, key, &value);
    if (st != KL_OK) {
        return st == KL_NOT_FOUND ? KL_OK : st; /* committed or collected meanwhile */
    }
    if (object_id.len != 0) {
        kl_txn_del(txn, kl_key_staged(object_id)); /* from here on it cannot be committed */
        st = collect_versions(txn, object_id, budget, &empty);
    } else {
        st = collect_vault(txn, vault_id, budget, &empty);
    }
    if (st == KL_OK && empty) {
        kl_txn_del(txn, key);
    }
    return st;
}

enum kl_status kl_apply_collect(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                struct kl_outcome *out)
{
    const Kluis__Log__Collect *op = cmd->collect;
    size_t budget = op->budget;

    if (budget == 0 || budget > KL_COLLECT_BUDGET_MAX) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "budget");
    }
    if (op->n_items > KL_PURGE_BATCH_MAX) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "items");
    }
    for (size_t i = 0; i < op->n_items; i++) {
        if (!kl_is_id(op->items[i]->vault_id) ||
            (op->items[i]->object_id.len != 0 && !kl_is_id(op->items[i]->object_id))) {
            return kl_refuse(out, KL_INVALID_ARGUMENT, "items");
        }
    }
    for (size_t i = 0; i < op->n_items && budget > 0; i++) {
        enum kl_status st = collect_item(txn, op->items[i], &budget);

        if (st != KL_OK) {
            return st;
        }
    }
    out->count = op->budget - (uint32_t)budget;
    return KL_OK;
}
