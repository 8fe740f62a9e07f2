/*
 * The one AEAD of kluis, AES-256-GCM, and the box that every wrapped key and sealed payload is
 * (layout: keyring.h). Internal to server/crypto.
 */
#ifndef KL_CRYPTO_BOX_H
#define KL_CRYPTO_BOX_H

#include "server/crypto/keyring.h"

#include <openssl/evp.h>

#define KL_NONCE_LEN    12
#define KL_TAG_LEN      16
#define KL_BOX_HEAD_LEN 8  /* the part of the head that is associated data */
#define KL_IDENTITY_MAX 64 /* bytes of associated data behind it */

enum kl_box_what {
    KL_BOX_ROOT_KEY = 1,
    KL_BOX_GEOGRAPHY_ROOT = 2,
    KL_BOX_VAULT_KEY = 3,
    KL_BOX_OBJECT_KEY = 4,
    KL_BOX_PAYLOAD = 5,
};

/* Fetched once by whoever holds keys; a fetch costs more than sealing 1 KiB. NULL: no memory or no
 * such cipher. Release with EVP_CIPHER_free. */
EVP_CIPHER *kl_aead_fetch(void);

/*
 * One whole message. key: KL_KEY_LEN bytes; a nonce is never used twice with a key. aad may be empty.
 * seal: out has room for plain.len bytes, tag for KL_TAG_LEN. open: out has room for
 * cipher_text.len; on failure what was written there is wiped. KL_CRYPTO.
 */
KL_MUST_USE enum kl_status kl_aead_seal(EVP_CIPHER *cipher, const uint8_t *key,
                                        const uint8_t nonce[KL_NONCE_LEN], struct kl_bytes aad,
                                        struct kl_bytes plain, uint8_t *out,
                                        uint8_t tag[KL_TAG_LEN]);
KL_MUST_USE enum kl_status kl_aead_open(EVP_CIPHER *cipher, const uint8_t *key,
                                        const uint8_t nonce[KL_NONCE_LEN], struct kl_bytes aad,
                                        struct kl_bytes cipher_text, const uint8_t tag[KL_TAG_LEN],
                                        uint8_t *out);

/* Who a box belongs to: what it is, and the bytes that are its identity. */
struct kl_box_id {
    enum kl_box_what what;
    uint32_t root_version; /* vault keys; else 0 */
    size_t len;
    uint8_t bytes[KL_IDENTITY_MAX];
};

/* Appends to the identity; asserts that it fits. */
void kl_box_id_add(struct kl_box_id *id, struct kl_bytes part);
void kl_box_id_add_be32(struct kl_box_id *id, uint32_t v);

/* Seals plain into a new box appended to *out. */
KL_MUST_USE enum kl_status kl_box_seal(EVP_CIPHER *cipher, const struct kl_entropy *entropy,
                                       const uint8_t *key, const struct kl_box_id *id,
                                       struct kl_bytes plain, struct kl_buf *out);
/* Opens a box of plain_len + KL_BOX_OVERHEAD bytes into plain. KL_CRYPTO when it is anything but
 * the box that was sealed with this key and id. */
KL_MUST_USE enum kl_status kl_box_open(EVP_CIPHER *cipher, const uint8_t *key,
                                       const struct kl_box_id *id, struct kl_bytes box,
                                       uint8_t *plain, size_t plain_len);
/* The root version a vault key's box says it was wrapped with: not authenticated. KL_CRYPTO when the
 * bytes are no such box. */
KL_MUST_USE enum kl_status kl_box_root_version(struct kl_bytes box, uint32_t *out);

/* HKDF-SHA256 (RFC 5869), extract and expand. salt is not empty (OpenSSL 3.0 refuses that). */
KL_MUST_USE enum kl_status kl_hkdf(struct kl_bytes key, struct kl_bytes salt, struct kl_bytes info,
                                   uint8_t *out, size_t out_len);

#endif
