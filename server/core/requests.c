/*
 * Exactly once. The result of a command with a request id is kept under the id until the request
 * could no longer come: a second copy is answered with it and changes nothing. This is part of the
 * replicated state, so it holds across leaders, restarts and snapshots.
 *
 * A refusal that the status table calls safe to retry (CHANGED: plan again; EXHAUSTED; UNAVAILABLE)
 * is not kept: nothing was done, and the same request may well succeed later.
 *
 * What expired stays KL_CLOCK_SKEW_MS longer, so that a client's last retry is told what happened
 * and not that nothing did.
 *
 * A step of the entries' time by more than that may be a quiet hour, or a jump (an operator has
 * confirmed a later time, server/runtime/cluster_clock.h). After a jump a client's request is as
 * young as before, and its retry may bring a new expiry, so nothing is forgotten for as long as a
 * request lives.
 */
#include "server/core/apply.h"

static enum kl_status replay_of(struct kl_txn *txn, struct kl_bytes request_id,
                                struct kl_bytes *replay)
{
    Kluis__Store__RequestRecord *record = NULL;
    enum kl_status st = kl_txn_load(txn, kl_key_request(request_id),
                                    &kluis__store__request_record__descriptor, &record);

    if (st == KL_OK) {
        *replay = kl_pb_bytes(record->result);
        return replay->len == 0 ? KL_CORRUPT : KL_OK; /* a result holds a time at least */
    }
    return st == KL_NOT_FOUND ? KL_OK : st;
}

/* When the command's id may be forgotten; a command may leave it to us. */
static uint64_t expiry_of(const struct kl_txn *txn, const Kluis__Log__Command *cmd)
{
    return cmd->expires_ms != 0 ? cmd->expires_ms : kl_time_add(txn->time_ms, KL_DEADLINE_MAX_MS);
}

enum kl_status kl_requests_begin(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                 struct kl_outcome *out, struct kl_bytes *replay)
{
    uint64_t latest = kl_time_add(txn->time_ms, KL_DEADLINE_MAX_MS + KL_CLOCK_SKEW_MS);
    enum kl_status st;

    *replay = (struct kl_bytes){NULL, 0};
    if (cmd->request_id.len != 0) {
        if (!kl_is_id(cmd->request_id)) {
            return kl_refuse(out, KL_INVALID_ARGUMENT, "request_id");
        }
        st = replay_of(txn, kl_pb_bytes(cmd->request_id), replay);
        if (st != KL_OK || replay->len != 0) {
            return st;
        }
    }
    if (cmd->expires_ms != 0 && txn->time_ms > cmd->expires_ms) {
        return kl_refuse(out, KL_EXPIRED, NULL);
    }
    if (cmd->expires_ms > latest) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "expires_ms");
    }
    if (cmd->request_id.len != 0 && txn->applied.requests >= KL_REQUESTS_MAX) {
        return kl_refuse(out, KL_EXHAUSTED, NULL);
    }
    return KL_OK;
}

void kl_requests_end(struct kl_txn *txn, const Kluis__Log__Command *cmd, enum kl_status status,
                     struct kl_bytes result)
{
    Kluis__Store__RequestRecord record = KLUIS__STORE__REQUEST_RECORD__INIT;
    enum kl_status st;

    if (cmd->request_id.len == 0 || (status != KL_OK && kl_status_info(status)->retry_safe)) {
        return;
    }
    record.expires_ms = expiry_of(txn, cmd);
    record.result.data = (uint8_t *)(uintptr_t)result.ptr; /* packed, not changed */
    record.result.len = result.len;
    st = kl_buf_put(&txn->ids, cmd->request_id.data, KL_ID_LEN);
    if (st != KL_OK) {
        txn->fault = txn->fault == KL_OK ? st : txn->fault;
        return;
    }
    kl_txn_store(txn, kl_key_request(kl_pb_bytes(cmd->request_id)), &record.base);
    txn->applied.requests++;
    if (record.expires_ms > txn->ids_expires_ms) {
        txn->ids_expires_ms = record.expires_ms;
    }
}

void kl_requests_finish(struct kl_txn *txn)
{
    if (txn->ids.len != 0) {
        kl_txn_put(txn, kl_key_expiry(txn->ids_expires_ms, txn->index), kl_buf_bytes(&txn->ids));
    }
}

/* Copies of the 'e' records that a sweep takes, as many as hold `max` ids. */
struct sweep {
    struct kl_arena *arena;
    size_t left;
    struct item {
        struct item *next;
        struct kl_key key;
        struct kl_bytes ids;
    } * first, **last;
    enum kl_status st;
};

enum { EXPIRY_KEY_LEN = 1 + 8 + 8 };

static bool take_ids(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct sweep *s = arg;
    size_t n = value.len / KL_ID_LEN;
    struct item *item;

    if (key.len != EXPIRY_KEY_LEN || value.len == 0 || value.len % KL_ID_LEN != 0) {
        s->st = KL_CORRUPT;
        return false;
    }
    item = kl_arena_alloc(s->arena, sizeof *item + value.len);
    if (item == NULL) {
        s->st = KL_NO_MEMORY;
        return false;
    }
    *item = (struct item){.key = {.len = key.len}};
    memcpy(item->key.bytes, key.ptr, key.len);
    memcpy(item + 1, value.ptr, value.len);
    item->ids = kl_bytes_of(item + 1, value.len);
    *s->last = item;
    s->last = &item->next;
    s->left -= n < s->left ? n : s->left;
    return s->left > 0;
}

/* Forgets up to *max ids of one record; what remains of it is written back. */
static void forget(struct kl_txn *txn, const struct item *item, size_t *max)
{
    size_t n = item->ids.len / KL_ID_LEN;
    size_t gone = n < *max ? n : *max;

    for (size_t i = 0; i < gone; i++) {
        kl_txn_del(txn, kl_key_request(kl_bytes_of(item->ids.ptr + i * KL_ID_LEN, KL_ID_LEN)));
    }
    txn->applied.requests -= gone < txn->applied.requests ? gone : txn->applied.requests;
    *max -= gone;
    if (gone == n) {
        kl_txn_del(txn, item->key);
        return;
    }
    kl_txn_put(txn, item->key,
               kl_bytes_of(item->ids.ptr + gone * KL_ID_LEN, (n - gone) * KL_ID_LEN));
}

enum kl_status kl_requests_sweep(struct kl_txn *txn, size_t max)
{
    struct sweep s = {.arena = &txn->arena, .left = max, .last = &s.first, .st = KL_OK};
    uint64_t until = txn->time_ms < KL_CLOCK_SKEW_MS ? 0 : txn->time_ms - KL_CLOCK_SKEW_MS;
    uint64_t reached = until;
    enum kl_status st;

    if (txn->applied.time_ms != 0 && until > txn->applied.time_ms) {
        txn->applied.keep_ms = kl_time_add(txn->time_ms, KL_DEADLINE_MAX_MS + KL_CLOCK_SKEW_MS);
    }
    if (txn->time_ms < txn->applied.keep_ms) {
        return KL_OK;
    }
    /* The scan starts where the last one ended: before that there are only graves, and a store
     * walks over each of them. */
    if (until <= txn->applied.swept_ms) {
        return KL_OK;
    }
    st = kl_txn_scan(txn, kl_key_expiry(txn->applied.swept_ms, 0), kl_key_expiry(until, 0),
                     take_ids, &s);
    st = st == KL_OK ? s.st : st;
    if (st != KL_OK) {
        return st;
    }
    for (const struct item *item = s.first; item != NULL && max > 0; item = item->next) {
        forget(txn, item, &max);
        if (max == 0) {
            reached = kl_get_be64(item->key.bytes + 1);
        }
    }
    txn->applied.swept_ms = reached;
    return KL_OK;
}
