/*
 * The inside of a keyring, for envelope.c and blob.c. Internal to server/crypto.
 */
#ifndef KL_CRYPTO_RING_H
#define KL_CRYPTO_RING_H

#include "server/crypto/box.h"

#include <pthread.h>

#define KL_WRAPPED_KEY_LEN (KL_KEY_LEN + KL_BOX_OVERHEAD)

/* Everything that must not leave locked memory, in one piece. */
struct kl_ring_secrets {
    uint8_t geography_root[KL_KEY_LEN];
    uint8_t roots[KL_ROOT_KEYS_MAX][KL_KEY_LEN];
    uint8_t vault_keys[KL_VAULT_KEY_CACHE_MAX][KL_KEY_LEN]; /* of the slot with the same number */
};

struct kl_ring_slot {
    uint8_t vault_id[KL_ID_LEN];
    uint8_t wrapped[KL_WRAPPED_KEY_LEN];
    uint64_t used; /* tick of the last hit; 0 = empty */
};

struct kl_keyring {
    EVP_CIPHER *cipher;
    struct kl_entropy entropy;
    struct kl_ring_secrets *secrets;
    uint8_t geography_root_id[KL_ID_LEN];
    uint32_t versions[KL_ROOT_KEYS_MAX]; /* of secrets->roots */
    size_t roots_n;
    size_t newest;        /* index of the highest version */
    pthread_mutex_t lock; /* over everything below, and secrets->vault_keys */
    uint64_t tick;
    struct kl_ring_slot slots[KL_VAULT_KEY_CACHE_MAX];
};

/* The vault's key, from the cache or unwrapped. Wipe *key after use. KL_CRYPTO. */
KL_MUST_USE enum kl_status kl_ring_vault_key(struct kl_keyring *ring, struct kl_bytes vault_id,
                                             struct kl_bytes wrapped, uint8_t key[KL_KEY_LEN]);

#endif
