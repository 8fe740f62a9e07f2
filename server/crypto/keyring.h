/*
 * Key hierarchy (DESIGN, "Keys"): the seal wraps root keys and the geography's backup root; a root
 * key wraps vault keys; a vault key wraps object keys; an object key seals payloads.
 *
 * Wrapped and sealed forms all have one layout (AES-256-GCM, SP 800-38D):
 *
 *   offset  size  field
 *        0     1  format: 1
 *        1     1  what: 1 root key, 2 geography root, 3 vault key, 4 object key, 5 payload
 *        2     2  zero
 *        4     4  version of the wrapping root key (vault keys), else zero, big-endian
 *        8    12  nonce, random
 *       20     n  ciphertext
 *     20+n    16  tag
 *
 * The first 8 bytes and the identity of the thing are associated data, so a box moved to another
 * vault, object or version does not open. Keys that are kept live in locked memory (where the
 * system allows), are left out of core dumps, and are wiped; those a call needs are wiped before it
 * returns.
 */
#ifndef KL_KEYRING_H
#define KL_KEYRING_H

#include "common/buf.h"
#include "common/limits.h"
#include "server/runtime/clock.h"

#include "record.pb-c.h"

#define KL_KEY_LEN      32
#define KL_BOX_OVERHEAD 36
#define KL_SEALED_MAX   (KL_SECRET_VALUE_MAX + KL_BOX_OVERHEAD)

struct kl_seal;    /* opens and closes root keys: a file now; PKCS#11 and shares later */
struct kl_keyring; /* unwrapped root keys and a bounded cache of vault keys; thread-safe */

/*
 * A seal of 32 random bytes in a file of mode 0600 or 0400 (hex, one line). KL_IO, KL_FORBIDDEN
 * (mode too open), KL_INVALID_ARGUMENT (not 64 hex digits), with a line for people in err.
 */
KL_MUST_USE enum kl_status kl_seal_file_open(const char *path, struct kl_seal **out, char *err,
                                             size_t err_len);
/* Draws a seal and writes the file (synced); KL_ALREADY_EXISTS: it never overwrites. KL_IO. */
KL_MUST_USE enum kl_status kl_seal_file_create(const char *path, const struct kl_entropy *entropy,
                                               char *err, size_t err_len);
void kl_seal_free(struct kl_seal *seal);
/* A key in a file of the same form and mode as a seal's: the shared key of a geography. Same
 * errors; wipe *out after use (it is not meaningful on failure). */
KL_MUST_USE enum kl_status kl_key_file_read(const char *path, uint8_t out[KL_KEY_LEN], char *err,
                                            size_t err_len);

/* A first keyring record (root version 1 and a geography root), wrapped by the seal. geography_key:
 * 32 bytes shared by all clusters of the geography, or NULL to draw one. *out is allocated as if
 * unpacked with kl_pb_allocator. */
KL_MUST_USE enum kl_status kl_keyring_create(struct kl_seal *seal, const struct kl_entropy *entropy,
                                             const uint8_t *geography_key, uint64_t now_ms,
                                             Kluis__Store__KeyringRecord **out);
/* Unwraps a record. entropy is copied; its ctx is borrowed until the ring is freed and is used from
 * any thread. The seal is no longer needed afterwards. KL_CRYPTO: the seal does not open it (wrong
 * seal file). KL_CORRUPT: the record is not one of ours. */
KL_MUST_USE enum kl_status kl_keyring_open(struct kl_seal *seal, const struct kl_entropy *entropy,
                                           const Kluis__Store__KeyringRecord *record,
                                           struct kl_keyring **out);
void kl_keyring_free(struct kl_keyring *ring);

/* ---- envelopes ---- */

/* The full identity of a payload; all borrowed, 16 bytes each (KL_CRYPTO otherwise). */
struct kl_identity {
    struct kl_bytes vault_id;
    struct kl_bytes object_id;
    struct kl_bytes version_id; /* payloads only */
    uint32_t kind;
};

/* A fresh vault key, wrapped by the newest root key; appended to *wrapped. */
KL_MUST_USE enum kl_status kl_vault_key_new(struct kl_keyring *ring, struct kl_bytes vault_id,
                                            struct kl_buf *wrapped);
/* A fresh object key wrapped by the vault's key. */
KL_MUST_USE enum kl_status kl_object_key_new(struct kl_keyring *ring, const struct kl_identity *id,
                                             struct kl_bytes wrapped_vault_key,
                                             struct kl_buf *wrapped);
/* Seals a payload under the object's key; appended to *sealed. KL_CRYPTO when a wrapped key does not
 * open: it was tampered with or belongs elsewhere. */
KL_MUST_USE enum kl_status kl_payload_seal(struct kl_keyring *ring, const struct kl_identity *id,
                                           struct kl_bytes wrapped_vault_key,
                                           struct kl_bytes wrapped_object_key,
                                           struct kl_bytes plain, struct kl_buf *sealed);
/* Opens one; the plaintext is appended to *plain (wipe it), which is unchanged on failure. */
KL_MUST_USE enum kl_status kl_payload_open(struct kl_keyring *ring, const struct kl_identity *id,
                                           struct kl_bytes wrapped_vault_key,
                                           struct kl_bytes wrapped_object_key,
                                           struct kl_bytes sealed, struct kl_buf *plain);

/* Process-wide: no core dumps, no ptrace by others, mlock of key memory. Returns what could not be
 * had, as text for the log, or NULL when all is well. Call once at start. */
const char *kl_crypto_harden(void);

#endif
