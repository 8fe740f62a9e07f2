/*
 * Versions in the store: found by object and version id, but lying in the order in which they were
 * written (keys.h says why). An update stays in its place.
 */
#include "server/core/apply.h"

static struct kl_key finder(ProtobufCBinaryData object_id, ProtobufCBinaryData version_id)
{
    return kl_key_version(kl_pb_bytes(object_id), kl_pb_bytes(version_id));
}

/* Where the record is that a finder leads to: KL_OK, KL_NOT_FOUND or a fault. */
static enum kl_status find(struct kl_txn *txn, struct kl_key key, struct kl_key *record)
{
    struct kl_bytes position;
    enum kl_status st = kl_txn_get(txn, key, &position);

    if (st != KL_OK) {
        return st;
    }
    return kl_key_at(position, record) ? KL_OK : KL_CORRUPT;
}

enum kl_status kl_version_load(struct kl_txn *txn, ProtobufCBinaryData object_id,
                               ProtobufCBinaryData version_id, Kluis__Store__VersionRecord **out)
{
    Kluis__Store__VersionRecord *version = NULL;
    struct kl_key record;
    enum kl_status st = find(txn, finder(object_id, version_id), &record);

    if (st != KL_OK) {
        return st;
    }
    st = kl_txn_load(txn, record, &kluis__store__version_record__descriptor, &version);
    if (st != KL_OK) {
        return st == KL_NOT_FOUND ? KL_CORRUPT : st;
    }
    if (version->meta == NULL || version->meta->attributes == NULL ||
        !kl_pb_eq(version->meta->version_id, version_id)) {
        return KL_CORRUPT;
    }
    *out = version;
    return KL_OK;
}

void kl_version_add(struct kl_txn *txn, ProtobufCBinaryData object_id,
                    const Kluis__Store__VersionRecord *version)
{
    struct kl_key record = kl_key_record(txn->index, txn->records++);

    kl_txn_put(txn, finder(object_id, version->meta->version_id), kl_key_position(&record));
    kl_txn_store(txn, record, &version->base);
}

enum kl_status kl_version_put(struct kl_txn *txn, ProtobufCBinaryData object_id,
                              const Kluis__Store__VersionRecord *version)
{
    struct kl_key record;
    enum kl_status st = find(txn, finder(object_id, version->meta->version_id), &record);

    if (st == KL_NOT_FOUND) {
        kl_version_add(txn, object_id, version);
        return KL_OK;
    }
    if (st == KL_OK) {
        kl_txn_store(txn, record, &version->base);
    }
    return st;
}

enum kl_status kl_version_drop(struct kl_txn *txn, struct kl_bytes object_id, size_t max,
                               bool all_or_none, size_t *n)
{
    struct kl_key from = kl_key_versions_of(object_id);
    struct kl_bytes *keys = NULL;
    enum kl_status st = kl_txn_keys(txn, from, kl_key_prefix_end(&from), max + 1, &keys, n);

    if (st != KL_OK || (all_or_none && *n > max)) {
        return st;
    }
    for (size_t i = 0; i < *n && i < max; i++) {
        struct kl_key key = {.len = keys[i].len};
        struct kl_key record;

        memcpy(key.bytes, keys[i].ptr, keys[i].len);
        st = find(txn, key, &record);
        if (st != KL_OK) {
            return st == KL_NOT_FOUND ? KL_CORRUPT : st;
        }
        kl_txn_del(txn, record);
        kl_txn_del(txn, key);
    }
    return KL_OK;
}
