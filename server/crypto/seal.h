/*
 * What a seal must be able to do, whatever holds its key: a file now (seal_file.c); a PKCS#11 token
 * or Shamir shares later. Internal to server/crypto.
 */
#ifndef KL_CRYPTO_SEAL_H
#define KL_CRYPTO_SEAL_H

#include "server/crypto/box.h"

struct kl_seal {
    /* Wraps a key of KL_KEY_LEN bytes; the result, of at most KL_WRAPPED_MAX bytes, is appended. */
    enum kl_status (*wrap)(struct kl_seal *seal, const struct kl_entropy *entropy,
                           const struct kl_box_id *id, const uint8_t *key, struct kl_buf *wrapped);
    /* KL_CRYPTO: not wrapped by this seal, or not this id. key is written on KL_OK only. */
    enum kl_status (*unwrap)(struct kl_seal *seal, const struct kl_box_id *id,
                             struct kl_bytes wrapped, uint8_t *key);
    void (*free)(struct kl_seal *seal);
};

#define KL_WRAPPED_MAX 1024

#endif
