/*
 * The keyring: what the seal opened, and the vault keys that were used last.
 *
 * The cache is four-way set-associative. A hit compares the whole wrapped key and the vault's id, so
 * a key is only ever found by what it was unwrapped from; the set is picked by four bytes of the
 * box's tag, which are as good as random. Only boxes that opened get in: a forged one can cost an
 * attempt to open it, never an entry.
 */
#include "server/crypto/ring.h"

#include "common/alloc.h"
#include "server/crypto/memory.h"
#include "server/crypto/seal.h"

#include <assert.h>

enum { WAYS = 4, SETS = KL_VAULT_KEY_CACHE_MAX / WAYS };

static_assert(SETS * WAYS == KL_VAULT_KEY_CACHE_MAX && (SETS & (SETS - 1)) == 0,
              "the number of sets is a power of two");

static const char fingerprint_salt[] = "kluis";
static const char fingerprint_info[] = "kluis geography root id";

static struct kl_box_id root_id(uint32_t version)
{
    struct kl_box_id id = {.what = KL_BOX_ROOT_KEY};

    kl_box_id_add_be32(&id, version);
    return id;
}

static struct kl_box_id geography_id(const uint8_t fingerprint[KL_ID_LEN])
{
    struct kl_box_id id = {.what = KL_BOX_GEOGRAPHY_ROOT};

    kl_box_id_add(&id, kl_bytes_of(fingerprint, KL_ID_LEN));
    return id;
}

/* Names a geography root without telling anything of it. */
static enum kl_status fingerprint(const uint8_t root[KL_KEY_LEN], uint8_t out[KL_ID_LEN])
{
    return kl_hkdf(kl_bytes_of(root, KL_KEY_LEN), kl_bytes_str(fingerprint_salt),
                   kl_bytes_str(fingerprint_info), out, KL_ID_LEN);
}

/* ---- making a record ---- */

/* A copy that protobuf_c_message_free_unpacked can free. */
static enum kl_status data_copy(struct kl_bytes from, ProtobufCBinaryData *to)
{
    to->data = kl_malloc(from.len == 0 ? 1 : from.len);
    if (to->data == NULL) {
        return KL_NO_MEMORY;
    }
    memcpy(to->data, from.ptr, from.len);
    to->len = from.len;
    return KL_OK;
}

static enum kl_status wrap_into(struct kl_seal *seal, const struct kl_entropy *entropy,
                                const struct kl_box_id *id, const uint8_t *key,
                                ProtobufCBinaryData *to)
{
    struct kl_buf wrapped = KL_BUF(KL_WRAPPED_MAX);
    enum kl_status st = seal->wrap(seal, entropy, id, key, &wrapped);

    if (st == KL_OK) {
        st = data_copy(kl_buf_bytes(&wrapped), to);
    }
    kl_buf_wipe(&wrapped);
    return st;
}

static enum kl_status add_root(struct kl_seal *seal, const struct kl_entropy *entropy,
                               uint64_t now_ms, uint8_t key[KL_KEY_LEN],
                               Kluis__Store__KeyringRecord *record)
{
    Kluis__Store__KeyringRecord__RootKey *root = kl_malloc(sizeof *root);
    struct kl_box_id id = root_id(1);
    enum kl_status st;

    if (root == NULL) {
        return KL_NO_MEMORY;
    }
    kluis__store__keyring_record__root_key__init(root);
    record->roots = kl_calloc(1, sizeof(Kluis__Store__KeyringRecord__RootKey *));
    if (record->roots == NULL) {
        kl_free(root);
        return KL_NO_MEMORY;
    }
    record->roots[0] = root;
    record->n_roots = 1;
    root->version = 1;
    root->created_ms = now_ms;
    st = entropy->fill(entropy->ctx, key, KL_KEY_LEN);
    return st != KL_OK ? st : wrap_into(seal, entropy, &id, key, &root->wrapped);
}

static enum kl_status add_geography(struct kl_seal *seal, const struct kl_entropy *entropy,
                                    const uint8_t *given, uint8_t key[KL_KEY_LEN],
                                    Kluis__Store__KeyringRecord *record)
{
    uint8_t print[KL_ID_LEN];
    struct kl_box_id id;
    enum kl_status st = KL_OK;

    if (given != NULL) {
        memcpy(key, given, KL_KEY_LEN);
    } else {
        st = entropy->fill(entropy->ctx, key, KL_KEY_LEN);
    }
    if (st == KL_OK) {
        st = fingerprint(key, print);
    }
    if (st == KL_OK) {
        st = data_copy(kl_bytes_of(print, sizeof print), &record->geography_root_id);
    }
    if (st == KL_OK) {
        id = geography_id(print);
        st = wrap_into(seal, entropy, &id, key, &record->wrapped_geography_root);
    }
    return st;
}

enum kl_status kl_keyring_create(struct kl_seal *seal, const struct kl_entropy *entropy,
                                 const uint8_t *geography_key, uint64_t now_ms,
                                 Kluis__Store__KeyringRecord **out)
{
    Kluis__Store__KeyringRecord *record = NULL;
    uint8_t *key = NULL;
    enum kl_status st;
    void *p = NULL;

    st = kl_key_memory_new(KL_KEY_LEN, &p);
    if (st != KL_OK) {
        return st;
    }
    key = p;
    record = kl_malloc(sizeof *record);
    if (record == NULL) {
        st = KL_NO_MEMORY;
        goto out;
    }
    kluis__store__keyring_record__init(record);
    st = add_root(seal, entropy, now_ms, key, record);
    if (st == KL_OK) {
        st = add_geography(seal, entropy, geography_key, key, record);
    }
    if (st != KL_OK) {
        goto out;
    }
    *out = record;
    record = NULL;
out:
    kluis__store__keyring_record__free_unpacked(record, &kl_pb_allocator);
    kl_key_memory_free(key, KL_KEY_LEN);
    return st;
}

/* ---- opening a record ---- */

static enum kl_status open_root(struct kl_seal *seal, const Kluis__Store__KeyringRecord__RootKey *r,
                                struct kl_keyring *ring)
{
    struct kl_box_id id = root_id(r->version);
    enum kl_status st;

    for (size_t i = 0; i < ring->roots_n; i++) {
        if (ring->versions[i] == r->version) {
            return KL_CORRUPT;
        }
    }
    if (r->version == 0) {
        return KL_CORRUPT;
    }
    st = seal->unwrap(seal, &id, kl_bytes_of(r->wrapped.data, r->wrapped.len),
                      ring->secrets->roots[ring->roots_n]);
    if (st != KL_OK) {
        return st;
    }
    ring->versions[ring->roots_n] = r->version;
    if (r->version > ring->versions[ring->newest]) {
        ring->newest = ring->roots_n;
    }
    ring->roots_n++;
    return KL_OK;
}

static enum kl_status open_geography(struct kl_seal *seal,
                                     const Kluis__Store__KeyringRecord *record,
                                     struct kl_keyring *ring)
{
    struct kl_bytes wrapped = {record->wrapped_geography_root.data,
                               record->wrapped_geography_root.len};
    uint8_t print[KL_ID_LEN];
    struct kl_box_id id;
    enum kl_status st;

    if (record->geography_root_id.len != KL_ID_LEN) {
        return KL_CORRUPT;
    }
    memcpy(ring->geography_root_id, record->geography_root_id.data, KL_ID_LEN);
    id = geography_id(ring->geography_root_id);
    st = seal->unwrap(seal, &id, wrapped, ring->secrets->geography_root);
    if (st == KL_OK) {
        st = fingerprint(ring->secrets->geography_root, print);
    }
    if (st == KL_OK && !kl_bytes_eq(kl_bytes_of(print, sizeof print),
                                    kl_bytes_of(ring->geography_root_id, sizeof print))) {
        st = KL_CORRUPT;
    }
    return st;
}

enum kl_status kl_keyring_open(struct kl_seal *seal, const struct kl_entropy *entropy,
                               const Kluis__Store__KeyringRecord *record, struct kl_keyring **out)
{
    struct kl_keyring *ring;
    enum kl_status st;
    void *p = NULL;
    int rc;

    if (record->n_roots == 0 || record->n_roots > KL_ROOT_KEYS_MAX) {
        return KL_CORRUPT;
    }
    ring = kl_calloc(1, sizeof *ring);
    if (ring == NULL) {
        return KL_NO_MEMORY;
    }
    rc = pthread_mutex_init(&ring->lock, NULL);
    assert(rc == 0);
    ring->entropy = *entropy;
    st = kl_key_memory_new(sizeof *ring->secrets, &p);
    if (st != KL_OK) {
        goto out;
    }
    ring->secrets = p;
    ring->cipher = kl_aead_fetch();
    if (ring->cipher == NULL) {
        st = KL_CRYPTO;
        goto out;
    }
    for (size_t i = 0; st == KL_OK && i < record->n_roots; i++) {
        st = open_root(seal, record->roots[i], ring);
    }
    if (st == KL_OK) {
        st = open_geography(seal, record, ring);
    }
    if (st != KL_OK) {
        goto out;
    }
    *out = ring;
    ring = NULL;
out:
    kl_keyring_free(ring);
    return st;
}

void kl_keyring_free(struct kl_keyring *ring)
{
    if (ring == NULL) {
        return;
    }
    EVP_CIPHER_free(ring->cipher);
    kl_key_memory_free(ring->secrets, sizeof *ring->secrets);
    (void)pthread_mutex_destroy(&ring->lock);
    kl_free(ring);
}

/* ---- vault keys ---- */

static size_t first_way(struct kl_bytes wrapped)
{
    return (kl_get_be32(wrapped.ptr + wrapped.len - 4) & (SETS - 1)) * WAYS;
}

static bool cache_get(struct kl_keyring *ring, struct kl_bytes vault_id, struct kl_bytes wrapped,
                      uint8_t key[KL_KEY_LEN])
{
    size_t first = first_way(wrapped);
    bool hit = false;

    (void)pthread_mutex_lock(&ring->lock);
    for (size_t i = first; i < first + WAYS && !hit; i++) {
        struct kl_ring_slot *slot = &ring->slots[i];

        hit = slot->used != 0 &&
              kl_bytes_eq(kl_bytes_of(slot->wrapped, sizeof slot->wrapped), wrapped) &&
              kl_bytes_eq(kl_bytes_of(slot->vault_id, sizeof slot->vault_id), vault_id);
        if (hit) {
            slot->used = ++ring->tick;
            memcpy(key, ring->secrets->vault_keys[i], KL_KEY_LEN);
        }
    }
    (void)pthread_mutex_unlock(&ring->lock);
    return hit;
}

static void cache_put(struct kl_keyring *ring, struct kl_bytes vault_id, struct kl_bytes wrapped,
                      const uint8_t key[KL_KEY_LEN])
{
    size_t first = first_way(wrapped);
    size_t oldest = first;

    (void)pthread_mutex_lock(&ring->lock);
    for (size_t i = first + 1; i < first + WAYS; i++) {
        if (ring->slots[i].used < ring->slots[oldest].used) {
            oldest = i;
        }
    }
    memcpy(ring->slots[oldest].vault_id, vault_id.ptr, KL_ID_LEN);
    memcpy(ring->slots[oldest].wrapped, wrapped.ptr, KL_WRAPPED_KEY_LEN);
    ring->slots[oldest].used = ++ring->tick;
    memcpy(ring->secrets->vault_keys[oldest], key, KL_KEY_LEN);
    (void)pthread_mutex_unlock(&ring->lock);
}

static const uint8_t *find_root(const struct kl_keyring *ring, uint32_t version)
{
    for (size_t i = 0; i < ring->roots_n; i++) {
        if (ring->versions[i] == version) {
            return ring->secrets->roots[i];
        }
    }
    return NULL;
}

enum kl_status kl_ring_vault_key(struct kl_keyring *ring, struct kl_bytes vault_id,
                                 struct kl_bytes wrapped, uint8_t key[KL_KEY_LEN])
{
    struct kl_box_id id = {.what = KL_BOX_VAULT_KEY};
    const uint8_t *root;
    enum kl_status st;

    if (vault_id.len != KL_ID_LEN || wrapped.len != KL_WRAPPED_KEY_LEN) {
        return KL_CRYPTO;
    }
    if (cache_get(ring, vault_id, wrapped, key)) {
        return KL_OK;
    }
    st = kl_box_root_version(wrapped, &id.root_version);
    if (st != KL_OK) {
        return st;
    }
    root = find_root(ring, id.root_version);
    if (root == NULL) {
        return KL_CRYPTO;
    }
    kl_box_id_add(&id, vault_id);
    st = kl_box_open(ring->cipher, root, &id, wrapped, key, KL_KEY_LEN);
    if (st == KL_OK) {
        cache_put(ring, vault_id, wrapped, key);
    }
    return st;
}
