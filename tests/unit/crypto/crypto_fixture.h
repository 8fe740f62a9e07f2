/*
 * A seal, a keyring, one vault key and one object key to test with; and a reader of boxes that
 * shares no code with server/crypto.
 */
#ifndef CRYPTO_FIXTURE_H
#define CRYPTO_FIXTURE_H

#include "tests/lib/test.h"

#include "server/crypto/keyring.h"

struct fixture {
    char seal_path[256];
    struct kl_seal *seal;
    Kluis__Store__KeyringRecord *record;
    struct kl_keyring *ring;
    uint8_t vault_id[KL_ID_LEN], object_id[KL_ID_LEN], version_id[KL_ID_LEN];
    struct kl_identity id;               /* of the three above, kind 1 */
    struct kl_buf vault_key, object_key; /* wrapped */
};

/* geography_key as kl_keyring_create has it. */
void fixture_init(struct fixture *f, const uint8_t *geography_key);
void fixture_done(struct fixture *f);

/* Payload functions with the fixture's keys and id. */
enum kl_status fixture_seal(struct fixture *f, struct kl_bytes plain, struct kl_buf *sealed);
enum kl_status fixture_open(struct fixture *f, struct kl_bytes sealed, struct kl_buf *plain);

/* AES-256-GCM by OpenSSL's calls alone. Returns whether the tag fits; out has room for n bytes. */
bool plain_gcm_open(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                    const uint8_t *text, size_t n, const uint8_t *tag, uint8_t *out);

/* Entropy of a counter: every draw differs and is known. */
struct counter_entropy {
    uint8_t next;
};
struct kl_entropy counter_entropy(struct counter_entropy *c);

#endif
