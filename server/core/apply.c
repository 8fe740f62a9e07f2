/*
 * One entry: sweep, then each command in turn, then the marks that say it was done. The table says
 * which function a command goes to; the frame around it is the same for all.
 */
#include "server/core/apply.h"

#include "server/core/core.h"

#include "common/alloc.h"
#include "server/core/entry.h"

#include <assert.h>

struct row {
    bool needs_group;   /* refused until GroupInit has said what a day is */
    size_t command_max; /* bytes of the packed command: what it stores must fit a record */
    kl_apply_fn apply;
};

#define ROW(name, needs, max, fn) [KLUIS__LOG__COMMAND__OP_##name] = {(needs), (max), (fn)}

static const struct row rows[] = {
    ROW(GROUP_INIT, false, KL_RECORD_MAX, kl_apply_group_init),
    ROW(NODE_REGISTER, false, KL_RECORD_MAX, kl_apply_node_register),
    ROW(NODE_ADD, false, KL_RECORD_MAX, kl_apply_node_add),
    ROW(NODE_MARK, false, KL_RECORD_MAX, kl_apply_node_mark),
    ROW(KEYRING_PUT, false, KL_RECORD_MAX, kl_apply_keyring_put),
    ROW(VAULT_CLAIM, true, KL_RECORD_MAX, kl_apply_vault_claim),
    ROW(VAULT_CONFIRM, true, KL_RECORD_MAX, kl_apply_vault_confirm),
    ROW(VAULT_RELEASE, true, KL_RECORD_MAX, kl_apply_vault_release),
    ROW(VAULT_CREATE, true, KL_RECORD_MAX, kl_apply_vault_create),
    ROW(VAULT_UPDATE, true, KL_RECORD_MAX, kl_apply_vault_update),
    ROW(VAULT_DELETE, true, KL_RECORD_MAX, kl_apply_vault_delete),
    ROW(VAULT_RECOVER, true, KL_RECORD_MAX, kl_apply_vault_recover),
    ROW(VAULT_PURGE, true, KL_RECORD_MAX, kl_apply_vault_purge),
    ROW(OUTBOX_DONE, false, KL_RECORD_MAX, kl_apply_outbox_done),
    ROW(OBJECT_SET, true, KL_RECORD_MAX, kl_apply_object_set),
    ROW(OBJECT_UPDATE, true, KL_RECORD_MAX, kl_apply_object_update),
    ROW(OBJECT_DELETE, true, KL_RECORD_MAX, kl_apply_object_delete),
    ROW(OBJECT_RECOVER, true, KL_RECORD_MAX, kl_apply_object_recover),
    ROW(OBJECT_PURGE, true, KL_RECORD_MAX, kl_apply_object_purge),
    ROW(RESTORE_STAGE, true, KL_COMMAND_MAX, kl_apply_restore_stage),
    ROW(RESTORE_COMMIT, true, KL_RECORD_MAX, kl_apply_restore_commit),
    ROW(PURGE_DUE, false, KL_COMMAND_MAX, kl_apply_purge_due),
    ROW(COLLECT, false, KL_COMMAND_MAX, kl_apply_collect),
};

enum { ROWS = sizeof rows / sizeof rows[0] };

static enum kl_status dispatch(struct kl_txn *txn, const Kluis__Log__Command *cmd, size_t len,
                               struct kl_outcome *out)
{
    const struct row *row = (size_t)cmd->op_case < ROWS ? &rows[cmd->op_case] : NULL;
    uint64_t day_ms;
    enum kl_status st;

    if (row == NULL || row->apply == NULL) {
        /* Fields we do not know are a newer version's command. */
        return kl_refuse(
            out, cmd->base.n_unknown_fields != 0 ? KL_UNIMPLEMENTED : KL_INVALID_ARGUMENT, NULL);
    }
    if (len > row->command_max) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, NULL);
    }
    if (row->needs_group) {
        st = kl_txn_day(txn, &day_ms);
        if (st != KL_OK) {
            return st == KL_NOT_FOUND ? kl_refuse(out, KL_UNAVAILABLE, NULL) : st;
        }
    }
    return row->apply(txn, cmd, out);
}

static const ProtobufCBinaryData no_bytes = {0, NULL};

/* Packs an outcome into arena memory. Wrapped keys are nobody's business outside the store. */
static enum kl_status pack_outcome(struct kl_txn *txn, const struct kl_outcome *out,
                                   struct kl_bytes *packed)
{
    static const char none[1] = "";
    Kluis__Log__CommandResult r = KLUIS__LOG__COMMAND_RESULT__INIT;
    Kluis__Store__ObjectRecord object;
    Kluis__Store__VaultRecord vault;
    uint8_t *p;

    r.status = (uint32_t)out->status;
    r.field = (char *)(uintptr_t)(out->field == NULL ? none : out->field); /* only packed */
    r.time_ms = txn->time_ms;
    r.version = (Kluis__Store__VersionMeta *)(uintptr_t)out->version;
    if (out->object != NULL) {
        object = *out->object;
        object.wrapped_key = no_bytes;
        r.object = &object;
    }
    if (out->vault != NULL) {
        vault = *out->vault;
        vault.wrapped_key = no_bytes;
        r.vault = &vault;
    }
    r.count = out->count;
    packed->len = kluis__log__command_result__get_packed_size(&r);
    p = kl_arena_alloc(&txn->arena, packed->len + 1);
    if (p == NULL) {
        return KL_NO_MEMORY;
    }
    (void)kluis__log__command_result__pack(&r, p);
    packed->ptr = p;
    return KL_OK;
}

static enum kl_status refused(struct kl_txn *txn, enum kl_status status, struct kl_bytes *result)
{
    struct kl_outcome out = {.status = status};

    return pack_outcome(txn, &out, result);
}

/* One command to its packed result, in arena memory. */
static enum kl_status apply_command(struct kl_txn *txn, struct kl_bytes bytes,
                                    struct kl_bytes *result)
{
    struct kl_outcome out = {.status = KL_OK};
    Kluis__Log__Command *cmd = NULL;
    enum kl_status st;

    if (bytes.len <= KL_COMMAND_MAX) {
        cmd = kluis__log__command__unpack(&txn->arena.allocator, bytes.len, bytes.ptr);
    }
    if (cmd == NULL) {
        return txn->arena.no_memory ? KL_NO_MEMORY : refused(txn, KL_INVALID_ARGUMENT, result);
    }
    st = kl_requests_begin(txn, cmd, &out, result);
    if (st != KL_OK || result->len != 0) {
        return st;
    }
    if (out.status != KL_OK) {
        return pack_outcome(txn, &out, result); /* the request itself is refused: not kept */
    }
    st = dispatch(txn, cmd, bytes.len, &out);
    if (st == KL_OK) {
        st = pack_outcome(txn, &out, result);
    }
    if (st == KL_OK) {
        kl_requests_end(txn, cmd, out.status, *result);
        st = txn->fault;
    }
    return st;
}

static enum kl_status add_result(struct kl_results *results, struct kl_bytes result)
{
    uint8_t *p = NULL;
    enum kl_status st = kl_buf_grow(&results->bytes, 4 + result.len, &p);

    if (st == KL_OK) {
        kl_put_be32(p, (uint32_t)result.len);
        memcpy(p + 4, result.ptr, result.len);
        results->count++;
    }
    return st;
}

static enum kl_status apply_commands(struct kl_txn *txn, struct kl_entry *entry,
                                     struct kl_results *results)
{
    size_t start = txn->batch->ops.len + results->bytes.len;
    enum kl_status st = KL_OK;

    for (uint32_t i = 0; i < entry->count && st == KL_OK; i++) {
        /* What an entry does to memory and disk is bounded, on every replica at the same command. */
        bool full = txn->batch->ops.len + results->bytes.len - start > KL_EFFECT_MAX;
        struct kl_bytes command;
        struct kl_bytes result = {NULL, 0};

        kl_arena_reset(&txn->arena);
        st = kl_entry_next(entry, &command);
        if (st == KL_OK) {
            st = full ? refused(txn, KL_EXHAUSTED, &result) : apply_command(txn, command, &result);
        }
        if (st == KL_OK) {
            st = add_result(results, result);
        }
    }
    return st;
}

static enum kl_status apply_entry(struct kl_txn *txn, struct kl_entry *entry,
                                  struct kl_results *results)
{
    enum kl_status st;

    /* As many more as the entry adds, so that the number of ids kept cannot only grow. */
    st = kl_requests_sweep(txn, KL_REQUEST_SWEEP_MAX + entry->count);
    if (st == KL_OK) {
        st = apply_commands(txn, entry, results);
    }
    if (st != KL_OK) {
        return st;
    }
    kl_requests_finish(txn);
    txn->applied.index = txn->index;
    txn->applied.time_ms = txn->time_ms;
    kl_txn_store(txn, kl_key_applied(), &txn->applied.base);
    return txn->fault;
}

static enum kl_status load_applied(struct kl_txn *txn)
{
    Kluis__Store__AppliedRecord *applied = NULL;
    enum kl_status st;

    txn->applied = (Kluis__Store__AppliedRecord)KLUIS__STORE__APPLIED_RECORD__INIT;
    st = kl_txn_load(txn, kl_key_applied(), &kluis__store__applied_record__descriptor, &applied);
    if (st == KL_OK) {
        txn->applied.index = applied->index;
        txn->applied.time_ms = applied->time_ms;
        txn->applied.requests = applied->requests;
        txn->applied.swept_ms = applied->swept_ms;
        txn->applied.keep_ms = applied->keep_ms;
    }
    return st == KL_NOT_FOUND ? KL_OK : st;
}

/* Takes back what a failed apply added. */
static void cut(struct kl_buf *b, size_t len)
{
    kl_wipe(b->ptr == NULL ? NULL : b->ptr + len, b->len - len);
    b->len = len;
}

enum kl_status kl_core_apply(uint64_t index, struct kl_bytes entry, const struct kl_view *view,
                             struct kl_batch *batch, struct kl_results *results)
{
    size_t ops_len = batch->ops.len;
    size_t ops_count = batch->count;
    size_t results_len = results->bytes.len;
    size_t results_count = results->count;
    struct kl_entry parsed;
    struct kl_txn txn;
    enum kl_status st;

    assert(index != 0 && kl_batch_status(batch) == KL_OK);
    st = kl_txn_init(&txn, view, batch);
    if (st == KL_OK) {
        st = load_applied(&txn);
    }
    if (st != KL_OK || index <= txn.applied.index) {
        goto out;
    }
    st = kl_entry_parse(entry, &parsed);
    if (st != KL_OK) {
        goto out;
    }
    txn.index = index;
    txn.time_ms = parsed.time_ms > txn.applied.time_ms ? parsed.time_ms : txn.applied.time_ms;
    st = apply_entry(&txn, &parsed, results);
out:
    if (st != KL_OK) {
        cut(&batch->ops, ops_len);
        batch->count = ops_count;
        batch->latched = KL_OK;
        cut(&results->bytes, results_len);
        results->count = results_count;
    }
    kl_txn_done(&txn);
    return st;
}

void kl_results_init(struct kl_results *r)
{
    *r = (struct kl_results){.bytes = KL_BUF(KL_BATCH_MAX), .count = 0};
}

void kl_results_done(struct kl_results *r)
{
    kl_buf_wipe(&r->bytes);
    r->count = 0;
}

bool kl_results_next(const struct kl_results *r, size_t *pos, struct kl_bytes *result)
{
    size_t n;

    if (*pos >= r->bytes.len) {
        return false;
    }
    n = kl_get_be32(r->bytes.ptr + *pos);
    *result = kl_bytes_of(r->bytes.ptr + *pos + 4, n);
    *pos += 4 + n;
    return true;
}
