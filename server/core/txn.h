/*
 * What an entry sees and does while it is applied: reads go to the batch first and then to the view,
 * so that commands of one entry see each other's effects. The index over the batch is a hash table
 * of offsets into it; nothing is copied.
 */
#ifndef KL_TXN_H
#define KL_TXN_H

#include "common/batch.h"
#include "common/view.h"
#include "server/core/arena.h"
#include "server/core/keys.h"

#include "command.pb-c.h"
#include "record.pb-c.h"

struct kl_txn_slot {
    uint32_t hash;
    uint32_t at; /* offset of the last operation on the key in batch->ops, plus 1; 0 = empty */
};

struct kl_txn {
    const struct kl_view *view;
    struct kl_batch *batch;
    uint64_t index;
    uint64_t time_ms; /* of the entry; never before that of an earlier entry */
    Kluis__Store__AppliedRecord applied;
    enum kl_status fault; /* latched by puts; looked at after each command */

    struct kl_arena arena; /* memory of the command being applied */
    struct kl_buf value;   /* last value read from the view */
    struct kl_buf packed;  /* message being packed */

    struct kl_txn_slot *slots; /* open addressing; slots_n is a power of 2 or 0 */
    size_t slots_n;
    size_t slots_used;
    size_t indexed; /* bytes of batch->ops that are in the index */

    struct kl_arena lasting;                /* memory of the entry */
    const Kluis__Store__VaultRecord *vault; /* read last, by kl_txn_vault(); NULL = none */
    struct kl_key vault_key;

    bool group_read; /* day_ms holds what the GroupRecord says; 0 = there is none */
    uint64_t day_ms;

    uint32_t records;  /* versions that this entry has written */
    struct kl_buf ids; /* request ids remembered by this entry */
    uint64_t ids_expires_ms;
};

/* applied and time_ms are left to the caller. The transaction may not be moved. */
KL_MUST_USE enum kl_status kl_txn_init(struct kl_txn *txn, const struct kl_view *view,
                                       struct kl_batch *batch);
void kl_txn_done(struct kl_txn *txn);

/* KL_OK, KL_NOT_FOUND or a fault. *value is borrowed until the next call with txn. */
KL_MUST_USE enum kl_status kl_txn_get(struct kl_txn *txn, struct kl_key key,
                                      struct kl_bytes *value);
/* The record at key, in arena memory. KL_CORRUPT when it does not unpack. */
KL_MUST_USE enum kl_status kl_txn_load(struct kl_txn *txn, struct kl_key key,
                                       const ProtobufCMessageDescriptor *descriptor, void *out);

/* Failures are latched in txn->fault. */
void kl_txn_put(struct kl_txn *txn, struct kl_key key, struct kl_bytes value);
void kl_txn_store(struct kl_txn *txn, struct kl_key key, const ProtobufCMessage *record);
void kl_txn_del(struct kl_txn *txn, struct kl_key key);

/* Batch and view merged, in key order. fn must not change the transaction. */
KL_MUST_USE enum kl_status kl_txn_scan(struct kl_txn *txn, struct kl_key from, struct kl_key to,
                                       kl_scan_fn fn, void *arg);
/* Up to max keys from the range, copied into arena memory. */
KL_MUST_USE enum kl_status kl_txn_keys(struct kl_txn *txn, struct kl_key from, struct kl_key to,
                                       size_t max, struct kl_bytes **keys, size_t *n);

/* KL_OK with *day_ms, or KL_NOT_FOUND before GroupInit. Reads once per entry. */
KL_MUST_USE enum kl_status kl_txn_day(struct kl_txn *txn, uint64_t *day_ms);
/* The vault at the key, as object commands see it: read and unpacked once for all that follow each
 * other. Stays valid until something is put under a vault's key. KL_NOT_FOUND or a fault. */
KL_MUST_USE enum kl_status kl_txn_vault(struct kl_txn *txn, struct kl_key key,
                                        const Kluis__Store__VaultRecord **out);
/* GroupInit was applied: the next kl_txn_day() reads again. */
void kl_txn_day_changed(struct kl_txn *txn);

/* A sum of times that stops at the end of time: entry times come from outside. */
static inline uint64_t kl_time_add(uint64_t time_ms, uint64_t ms)
{
    return time_ms > UINT64_MAX - ms ? UINT64_MAX : time_ms + ms;
}

#endif
