/*
 * Vault keys, object keys and payloads, each in a box bound to its full identity:
 *
 *   vault key    vault id
 *   object key   vault id, object id, kind
 *   payload      vault id, object id, version id, kind
 *
 * Keys that a call needs are on its stack and wiped before it returns.
 */
#include "server/crypto/ring.h"

#include "common/alloc.h"

static bool is_id(struct kl_bytes id)
{
    return id.len == KL_ID_LEN;
}

static struct kl_box_id object_id(const struct kl_identity *id)
{
    struct kl_box_id box_id = {.what = KL_BOX_OBJECT_KEY};

    kl_box_id_add(&box_id, id->vault_id);
    kl_box_id_add(&box_id, id->object_id);
    kl_box_id_add_be32(&box_id, id->kind);
    return box_id;
}

static struct kl_box_id payload_id(const struct kl_identity *id)
{
    struct kl_box_id box_id = {.what = KL_BOX_PAYLOAD};

    kl_box_id_add(&box_id, id->vault_id);
    kl_box_id_add(&box_id, id->object_id);
    kl_box_id_add(&box_id, id->version_id);
    kl_box_id_add_be32(&box_id, id->kind);
    return box_id;
}

/* Draws a key and seals it under `with`. */
static enum kl_status wrap_new(struct kl_keyring *ring, const uint8_t *with,
                               const struct kl_box_id *id, struct kl_buf *wrapped)
{
    uint8_t key[KL_KEY_LEN];
    enum kl_status st = ring->entropy.fill(ring->entropy.ctx, key, sizeof key);

    if (st == KL_OK) {
        st = kl_box_seal(ring->cipher, &ring->entropy, with, id, kl_bytes_of(key, sizeof key),
                         wrapped);
    }
    kl_wipe(key, sizeof key);
    return st;
}

enum kl_status kl_vault_key_new(struct kl_keyring *ring, struct kl_bytes vault_id,
                                struct kl_buf *wrapped)
{
    struct kl_box_id id = {.what = KL_BOX_VAULT_KEY};

    if (!is_id(vault_id)) {
        return KL_CRYPTO;
    }
    id.root_version = ring->versions[ring->newest];
    kl_box_id_add(&id, vault_id);
    return wrap_new(ring, ring->secrets->roots[ring->newest], &id, wrapped);
}

enum kl_status kl_object_key_new(struct kl_keyring *ring, const struct kl_identity *id,
                                 struct kl_bytes wrapped_vault_key, struct kl_buf *wrapped)
{
    uint8_t vault_key[KL_KEY_LEN];
    struct kl_box_id box_id;
    enum kl_status st;

    if (!is_id(id->vault_id) || !is_id(id->object_id)) {
        return KL_CRYPTO;
    }
    st = kl_ring_vault_key(ring, id->vault_id, wrapped_vault_key, vault_key);
    if (st == KL_OK) {
        box_id = object_id(id);
        st = wrap_new(ring, vault_key, &box_id, wrapped);
    }
    kl_wipe(vault_key, sizeof vault_key);
    return st;
}

/* The key that payloads of the object are sealed with. Wipe *key after use. */
static enum kl_status object_key(struct kl_keyring *ring, const struct kl_identity *id,
                                 struct kl_bytes wrapped_vault_key,
                                 struct kl_bytes wrapped_object_key, uint8_t key[KL_KEY_LEN])
{
    uint8_t vault_key[KL_KEY_LEN];
    struct kl_box_id box_id;
    enum kl_status st;

    if (!is_id(id->vault_id) || !is_id(id->object_id) || !is_id(id->version_id)) {
        return KL_CRYPTO;
    }
    st = kl_ring_vault_key(ring, id->vault_id, wrapped_vault_key, vault_key);
    if (st == KL_OK) {
        box_id = object_id(id);
        st = kl_box_open(ring->cipher, vault_key, &box_id, wrapped_object_key, key, KL_KEY_LEN);
    }
    kl_wipe(vault_key, sizeof vault_key);
    return st;
}

enum kl_status kl_payload_seal(struct kl_keyring *ring, const struct kl_identity *id,
                               struct kl_bytes wrapped_vault_key,
                               struct kl_bytes wrapped_object_key, struct kl_bytes plain,
                               struct kl_buf *sealed)
{
    uint8_t key[KL_KEY_LEN];
    struct kl_box_id box_id;
    enum kl_status st;

    if (plain.len > KL_SEALED_MAX - KL_BOX_OVERHEAD) {
        return KL_TOO_LARGE;
    }
    st = object_key(ring, id, wrapped_vault_key, wrapped_object_key, key);
    if (st == KL_OK) {
        box_id = payload_id(id);
        st = kl_box_seal(ring->cipher, &ring->entropy, key, &box_id, plain, sealed);
    }
    kl_wipe(key, sizeof key);
    return st;
}

enum kl_status kl_payload_open(struct kl_keyring *ring, const struct kl_identity *id,
                               struct kl_bytes wrapped_vault_key,
                               struct kl_bytes wrapped_object_key, struct kl_bytes sealed,
                               struct kl_buf *plain)
{
    uint8_t key[KL_KEY_LEN];
    struct kl_box_id box_id;
    size_t before = plain->len;
    enum kl_status st;
    uint8_t *out;
    size_t n;

    if (sealed.len < KL_BOX_OVERHEAD || sealed.len > KL_SEALED_MAX) {
        return KL_CRYPTO;
    }
    n = sealed.len - KL_BOX_OVERHEAD;
    st = kl_buf_grow(plain, n, &out);
    if (st != KL_OK) {
        return st;
    }
    st = object_key(ring, id, wrapped_vault_key, wrapped_object_key, key);
    if (st == KL_OK) {
        box_id = payload_id(id);
        st = kl_box_open(ring->cipher, key, &box_id, sealed, out, n);
    }
    if (st != KL_OK) {
        plain->len = before; /* a box that does not open leaves nothing behind */
    }
    kl_wipe(key, sizeof key);
    return st;
}
