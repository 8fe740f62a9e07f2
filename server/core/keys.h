/*
 * Keys of a group's store. A key is a letter and fixed-width or length-delimited parts, so that one
 * prefix scan finds what belongs together. All integers are big-endian. Names are folded to lower
 * case; NAME 0 means the folded name and a zero byte (which no name may hold).
 *
 *   every group
 *     a                                   AppliedRecord
 *     i                                   GroupRecord
 *     q  request_id(16)                   RequestRecord
 *     e  expires_ms(8) index(8)           request ids of one entry, 16 bytes each
 *   directory group
 *     d  NAME 0                           ClaimRecord
 *     c  vault_id(16)                     name of a pending claim
 *     k                                   KeyringRecord
 *     n  node_id(8)                       NodeRecord
 *   home groups
 *     v  NAME 0                           VaultRecord
 *     x  vault_id(16)                     OutboxRecord
 *     s  vault_id(16) kind(1) NAME 0      ObjectRecord (live or deleted)
 *     t  vault_id(16) kind(1) NAME 0      empty: the object is deleted (for list-deleted)
 *     u  NAME 0                           empty: the vault is deleted (for list-deleted)
 *     o  object_id(16) version_id(16)     where the version's record is: index(8) n(4)
 *     w  index(8) n(4)                    VersionRecord: the n-th that the entry at index wrote
 *     p  due_ms(8) vault_id(16) kind(1) NAME 0   PurgeRecord (kind 0: NAME is the vault's)
 *     g  not_before_ms(8) vault_id(16) object_id(16)   GarbageRecord; object_id zeros = whole vault
 *     r  object_id(16)                    the restore being staged: not_before_ms(8) of its
 *                                         GarbageRecord, vault_id(16), versions staged(8)
 *
 * Version records are nearly all that a store holds. Their keys grow with the log, so a store that
 * sorts by key moves them along as they are instead of merging them over and over.
 */
#ifndef KL_KEYS_H
#define KL_KEYS_H

#include "common/buf.h"
#include "common/limits.h"

#define KL_KEY_MAX          256
#define KL_KIND_VAULT       0u
#define KL_KIND_SECRET      1u
#define KL_KIND_KEY         2u
#define KL_KIND_CERTIFICATE 3u

/* A key under construction; large enough for every key above. */
struct kl_key {
    uint8_t bytes[KL_KEY_MAX];
    size_t len;
};

static inline struct kl_bytes kl_key_bytes(const struct kl_key *k)
{
    return (struct kl_bytes){k->bytes, k->len};
}

struct kl_key kl_key_applied(void);
struct kl_key kl_key_group(void);
struct kl_key kl_key_request(struct kl_bytes request_id);
struct kl_key kl_key_expiry(uint64_t expires_ms, uint64_t index);
struct kl_key kl_key_claim(const char *name);
struct kl_key kl_key_pending(struct kl_bytes vault_id);
struct kl_key kl_key_keyring(void);
struct kl_key kl_key_node(uint64_t node_id);
struct kl_key kl_key_vault(const char *name);
struct kl_key kl_key_vault_deleted(const char *name);
struct kl_key kl_key_outbox(struct kl_bytes vault_id);
struct kl_key kl_key_object(struct kl_bytes vault_id, uint32_t kind, const char *name);
struct kl_key kl_key_object_deleted(struct kl_bytes vault_id, uint32_t kind, const char *name);
struct kl_key kl_key_version(struct kl_bytes object_id, struct kl_bytes version_id);
struct kl_key kl_key_record(uint64_t index, uint32_t n);
/* What an 'o' record holds: a record's key without its letter. Borrowed. */
struct kl_bytes kl_key_position(const struct kl_key *record);
/* The other way; false: that is no position. */
KL_MUST_USE bool kl_key_at(struct kl_bytes position, struct kl_key *record);
struct kl_key kl_key_purge(uint64_t due_ms, struct kl_bytes vault_id, uint32_t kind,
                           const char *name);
struct kl_key kl_key_garbage(uint64_t not_before_ms, struct kl_bytes vault_id,
                             struct kl_bytes object_id);
struct kl_key kl_key_staged(struct kl_bytes object_id);

/* The smallest key greater than every key with this prefix (the prefix with its last byte raised). */
struct kl_key kl_key_prefix_end(const struct kl_key *prefix);
/* The bare prefix of a family, for example kl_key_family('p'). */
struct kl_key kl_key_family(char letter);
/* Prefixes of all objects (live or deleted) of a kind, and of all versions of an object. */
struct kl_key kl_key_objects_of(struct kl_bytes vault_id, uint32_t kind);
struct kl_key kl_key_objects_deleted_of(struct kl_bytes vault_id, uint32_t kind);
struct kl_key kl_key_versions_of(struct kl_bytes object_id);
/* Prefix of all objects of a vault, of every kind. */
struct kl_key kl_key_content_of(struct kl_bytes vault_id);

#endif
