#include "server/core/txn.h"

#include "common/alloc.h"

#include <assert.h>

enum { SLOTS_MIN = 64, VAULT_FAMILY = 'v' };

/* FNV-1a. Keys are not trusted to spread, but an entry holds too few commands for that to hurt. */
static uint32_t hash_of(struct kl_bytes key)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < key.len; i++) {
        h = (h ^ key.ptr[i]) * 16777619u;
    }
    return h ^ h >> 15;
}

static enum kl_batch_op op_at(const struct kl_txn *txn, size_t at, struct kl_bytes *key,
                              struct kl_bytes *value)
{
    enum kl_batch_op op = KL_BATCH_DEL;
    bool found = kl_batch_next(txn->batch, &at, &op, key, value);

    assert(found);
    return op;
}

/* The slot of the key, or the empty one where it belongs. slots_n > slots_used. */
static struct kl_txn_slot *slot_of(const struct kl_txn *txn, struct kl_bytes key, uint32_t hash)
{
    size_t mask = txn->slots_n - 1;

    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct kl_txn_slot *slot = &txn->slots[i];
        struct kl_bytes other;
        struct kl_bytes value;

        if (slot->at == 0) {
            return slot;
        }
        if (slot->hash == hash) {
            (void)op_at(txn, slot->at - 1, &other, &value);
            if (kl_bytes_eq(key, other)) {
                return slot;
            }
        }
    }
}

static enum kl_status grow_slots(struct kl_txn *txn)
{
    size_t n = txn->slots_n == 0 ? SLOTS_MIN : txn->slots_n * 2;
    struct kl_txn_slot *slots = kl_calloc(n, sizeof *slots);

    if (slots == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < txn->slots_n; i++) {
        size_t j = txn->slots[i].hash & (n - 1);

        if (txn->slots[i].at == 0) {
            continue;
        }
        while (slots[j].at != 0) {
            j = (j + 1) & (n - 1);
        }
        slots[j] = txn->slots[i];
    }
    kl_free(txn->slots);
    txn->slots = slots;
    txn->slots_n = n;
    return KL_OK;
}

/* Takes what was added to the batch since the last call into the index. */
static enum kl_status index_batch(struct kl_txn *txn)
{
    struct kl_bytes key;
    struct kl_bytes value;
    enum kl_batch_op op;
    size_t next = txn->indexed;

    while (kl_batch_next(txn->batch, &next, &op, &key, &value)) {
        uint32_t hash = hash_of(key);
        struct kl_txn_slot *slot;

        if (txn->slots_used * 2 >= txn->slots_n && grow_slots(txn) != KL_OK) {
            return KL_NO_MEMORY;
        }
        slot = slot_of(txn, key, hash);
        txn->slots_used += slot->at == 0;
        *slot = (struct kl_txn_slot){.hash = hash, .at = (uint32_t)txn->indexed + 1};
        txn->indexed = next;
    }
    return KL_OK;
}

enum kl_status kl_txn_init(struct kl_txn *txn, const struct kl_view *view, struct kl_batch *batch)
{
    assert(batch->latched == KL_OK && batch->ops.max < UINT32_MAX);
    *txn = (struct kl_txn){
        .view = view,
        .batch = batch,
        .value = KL_BUF(KL_ENTRY_MAX),
        .packed = KL_BUF(KL_ENTRY_MAX),
        .ids = KL_BUF(KL_ENTRY_COMMANDS_MAX * KL_ID_LEN),
    };
    kl_arena_init(&txn->arena);
    kl_arena_init(&txn->lasting);
    return index_batch(txn);
}

void kl_txn_done(struct kl_txn *txn)
{
    kl_arena_done(&txn->arena);
    kl_arena_done(&txn->lasting);
    kl_buf_wipe(&txn->value);
    kl_buf_wipe(&txn->packed);
    kl_buf_wipe(&txn->ids);
    kl_free(txn->slots);
    txn->slots = NULL;
}

enum kl_status kl_txn_get(struct kl_txn *txn, struct kl_key key, struct kl_bytes *value)
{
    struct kl_bytes bytes = kl_key_bytes(&key);
    struct kl_bytes found;
    enum kl_status st;

    if (txn->slots_used != 0) {
        const struct kl_txn_slot *slot = slot_of(txn, bytes, hash_of(bytes));

        if (slot->at != 0) {
            if (op_at(txn, slot->at - 1, &bytes, &found) == KL_BATCH_DEL) {
                return KL_NOT_FOUND;
            }
            *value = found;
            return KL_OK;
        }
    }
    st = txn->view->get(txn->view->ctx, bytes, &txn->value);
    if (st == KL_OK) {
        *value = kl_buf_bytes(&txn->value);
    }
    return st;
}

static enum kl_status load(struct kl_txn *txn, struct kl_arena *arena, struct kl_key key,
                           const ProtobufCMessageDescriptor *descriptor, void *out)
{
    struct kl_bytes value;
    ProtobufCMessage *message;
    enum kl_status st = kl_txn_get(txn, key, &value);

    if (st != KL_OK) {
        return st;
    }
    message = protobuf_c_message_unpack(descriptor, &arena->allocator, value.len, value.ptr);
    if (message == NULL) {
        return arena->no_memory ? KL_NO_MEMORY : KL_CORRUPT;
    }
    *(ProtobufCMessage **)out = message;
    return KL_OK;
}

enum kl_status kl_txn_load(struct kl_txn *txn, struct kl_key key,
                           const ProtobufCMessageDescriptor *descriptor, void *out)
{
    return load(txn, &txn->arena, key, descriptor, out);
}

enum kl_status kl_txn_vault(struct kl_txn *txn, struct kl_key key,
                            const Kluis__Store__VaultRecord **out)
{
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st;

    if (txn->vault == NULL || !kl_bytes_eq(kl_key_bytes(&key), kl_key_bytes(&txn->vault_key))) {
        txn->vault = NULL;
        kl_arena_reset(&txn->lasting);
        st = load(txn, &txn->lasting, key, &kluis__store__vault_record__descriptor, &vault);
        if (st != KL_OK) {
            return st;
        }
        txn->vault = vault;
        txn->vault_key = key;
    }
    *out = txn->vault;
    return KL_OK;
}

static void latch(struct kl_txn *txn, enum kl_status st)
{
    if (txn->fault == KL_OK) {
        txn->fault = st;
    }
}

static void added(struct kl_txn *txn, struct kl_key key)
{
    if (key.bytes[0] == VAULT_FAMILY) {
        txn->vault = NULL;
    }
    latch(txn, kl_batch_status(txn->batch));
    if (txn->fault == KL_OK) {
        latch(txn, index_batch(txn));
    }
}

void kl_txn_put(struct kl_txn *txn, struct kl_key key, struct kl_bytes value)
{
    kl_batch_put(txn->batch, kl_key_bytes(&key), value);
    added(txn, key);
}

void kl_txn_store(struct kl_txn *txn, struct kl_key key, const ProtobufCMessage *record)
{
    size_t n = protobuf_c_message_get_packed_size(record);
    uint8_t *p = NULL;
    enum kl_status st;

    kl_buf_clear(&txn->packed);
    st = kl_buf_grow(&txn->packed, n, &p);
    if (st != KL_OK) {
        latch(txn, st);
        return;
    }
    if (n != 0) {
        (void)protobuf_c_message_pack(record, p);
    }
    kl_txn_put(txn, key, kl_buf_bytes(&txn->packed));
}

void kl_txn_del(struct kl_txn *txn, struct kl_key key)
{
    kl_batch_del(txn->batch, kl_key_bytes(&key));
    added(txn, key);
}

enum kl_status kl_txn_day(struct kl_txn *txn, uint64_t *day_ms)
{
    Kluis__Store__GroupRecord *group = NULL;
    enum kl_status st;

    if (!txn->group_read) {
        st = kl_txn_load(txn, kl_key_group(), &kluis__store__group_record__descriptor, &group);
        if (st != KL_OK && st != KL_NOT_FOUND) {
            return st;
        }
        txn->day_ms = st == KL_OK ? group->day_ms : 0;
        txn->group_read = true;
    }
    if (txn->day_ms == 0) {
        return KL_NOT_FOUND;
    }
    *day_ms = txn->day_ms;
    return KL_OK;
}

void kl_txn_day_changed(struct kl_txn *txn)
{
    txn->group_read = false;
}
