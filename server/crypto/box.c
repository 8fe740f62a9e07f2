#include "server/crypto/box.h"

#include "common/alloc.h"

#include <assert.h>
#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

enum { FORMAT = 1, NONCE_AT = KL_BOX_HEAD_LEN, TEXT_AT = KL_BOX_HEAD_LEN + KL_NONCE_LEN };

static_assert(TEXT_AT + KL_TAG_LEN == KL_BOX_OVERHEAD, "keyring.h writes down the layout");

EVP_CIPHER *kl_aead_fetch(void)
{
    return EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
}

/* OpenSSL's lengths are int. */
static bool lengths_fit(struct kl_bytes aad, struct kl_bytes text)
{
    return aad.len <= INT_MAX && text.len <= INT_MAX;
}

enum kl_status kl_aead_seal(EVP_CIPHER *cipher, const uint8_t *key,
                            const uint8_t nonce[KL_NONCE_LEN], struct kl_bytes aad,
                            struct kl_bytes plain, uint8_t *out, uint8_t tag[KL_TAG_LEN])
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    enum kl_status st = KL_CRYPTO;
    uint8_t rest[KL_TAG_LEN];
    int n = 0;

    if (ctx == NULL || !lengths_fit(aad, plain) ||
        EVP_EncryptInit_ex2(ctx, cipher, key, nonce, NULL) != 1 ||
        (aad.len != 0 && EVP_EncryptUpdate(ctx, NULL, &n, aad.ptr, (int)aad.len) != 1) ||
        (plain.len != 0 && EVP_EncryptUpdate(ctx, out, &n, plain.ptr, (int)plain.len) != 1) ||
        EVP_EncryptFinal_ex(ctx, rest, &n) != 1 || /* GCM leaves nothing for the end */
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, KL_TAG_LEN, tag) != 1) {
        goto out;
    }
    st = KL_OK;
out:
    EVP_CIPHER_CTX_free(ctx); /* wipes the key schedule */
    return st;
}

enum kl_status kl_aead_open(EVP_CIPHER *cipher, const uint8_t *key,
                            const uint8_t nonce[KL_NONCE_LEN], struct kl_bytes aad,
                            struct kl_bytes cipher_text, const uint8_t tag[KL_TAG_LEN],
                            uint8_t *out)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    enum kl_status st = KL_CRYPTO;
    uint8_t expected[KL_TAG_LEN];
    uint8_t rest[KL_TAG_LEN];
    int n = 0;

    memcpy(expected, tag, sizeof expected); /* the setter takes a pointer to mutable bytes */
    if (ctx == NULL || !lengths_fit(aad, cipher_text) ||
        EVP_DecryptInit_ex2(ctx, cipher, key, nonce, NULL) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, KL_TAG_LEN, expected) != 1 ||
        (aad.len != 0 && EVP_DecryptUpdate(ctx, NULL, &n, aad.ptr, (int)aad.len) != 1) ||
        (cipher_text.len != 0 &&
         EVP_DecryptUpdate(ctx, out, &n, cipher_text.ptr, (int)cipher_text.len) != 1) ||
        EVP_DecryptFinal_ex(ctx, rest, &n) != 1) {
        kl_wipe(out, cipher_text.len); /* unauthenticated plaintext is nobody's business */
        goto out;
    }
    st = KL_OK;
out:
    EVP_CIPHER_CTX_free(ctx);
    return st;
}

void kl_box_id_add(struct kl_box_id *id, struct kl_bytes part)
{
    assert(part.len <= sizeof id->bytes - id->len);
    memcpy(id->bytes + id->len, part.ptr, part.len);
    id->len += part.len;
}

void kl_box_id_add_be32(struct kl_box_id *id, uint32_t v)
{
    uint8_t bytes[4];

    kl_put_be32(bytes, v);
    kl_box_id_add(id, kl_bytes_of(bytes, sizeof bytes));
}

static void put_head(const struct kl_box_id *id, uint8_t head[KL_BOX_HEAD_LEN])
{
    head[0] = FORMAT;
    head[1] = (uint8_t)id->what;
    head[2] = 0;
    head[3] = 0;
    kl_put_be32(head + 4, id->root_version);
}

/* Head and identity in one piece: what a box is bound to. */
static struct kl_bytes associated(const struct kl_box_id *id,
                                  uint8_t space[KL_BOX_HEAD_LEN + KL_IDENTITY_MAX])
{
    put_head(id, space);
    memcpy(space + KL_BOX_HEAD_LEN, id->bytes, id->len);
    return kl_bytes_of(space, KL_BOX_HEAD_LEN + id->len);
}

/* Nonces are random: 2^32 boxes under one key keep the risk of a repeat below 2^-32 (SP 800-38D,
 * 8.3), and an object has at most KL_VERSIONS_MAX versions. */
enum kl_status kl_box_seal(EVP_CIPHER *cipher, const struct kl_entropy *entropy, const uint8_t *key,
                           const struct kl_box_id *id, struct kl_bytes plain, struct kl_buf *out)
{
    uint8_t space[KL_BOX_HEAD_LEN + KL_IDENTITY_MAX];
    struct kl_bytes aad = associated(id, space);
    size_t before = out->len;
    enum kl_status st;
    uint8_t *box;

    if (plain.len > SIZE_MAX - KL_BOX_OVERHEAD) {
        return KL_TOO_LARGE;
    }
    st = kl_buf_grow(out, plain.len + KL_BOX_OVERHEAD, &box);
    if (st != KL_OK) {
        return st;
    }
    memcpy(box, space, KL_BOX_HEAD_LEN);
    st = entropy->fill(entropy->ctx, box + NONCE_AT, KL_NONCE_LEN);
    if (st == KL_OK) {
        st = kl_aead_seal(cipher, key, box + NONCE_AT, aad, plain, box + TEXT_AT,
                          box + TEXT_AT + plain.len);
    }
    if (st != KL_OK) {
        kl_wipe(box, out->len - before);
        out->len = before;
    }
    return st;
}

enum kl_status kl_box_open(EVP_CIPHER *cipher, const uint8_t *key, const struct kl_box_id *id,
                           struct kl_bytes box, uint8_t *plain, size_t plain_len)
{
    uint8_t space[KL_BOX_HEAD_LEN + KL_IDENTITY_MAX];
    struct kl_bytes aad = associated(id, space);

    if (box.len < KL_BOX_OVERHEAD || box.len - KL_BOX_OVERHEAD != plain_len ||
        !kl_bytes_eq(kl_bytes_of(box.ptr, KL_BOX_HEAD_LEN), kl_bytes_of(space, KL_BOX_HEAD_LEN))) {
        return KL_CRYPTO;
    }
    return kl_aead_open(cipher, key, box.ptr + NONCE_AT, aad,
                        kl_bytes_of(box.ptr + TEXT_AT, plain_len), box.ptr + TEXT_AT + plain_len,
                        plain);
}

enum kl_status kl_box_root_version(struct kl_bytes box, uint32_t *out)
{
    if (box.len != KL_BOX_OVERHEAD + KL_KEY_LEN || box.ptr[1] != KL_BOX_VAULT_KEY) {
        return KL_CRYPTO;
    }
    *out = kl_get_be32(box.ptr + 4);
    return KL_OK;
}

/* OSSL_PARAM has no const pointers; HKDF only reads them. */
static void *readable(const uint8_t *p)
{
    return (void *)(uintptr_t)p;
}

enum kl_status kl_hkdf(struct kl_bytes key, struct kl_bytes salt, struct kl_bytes info,
                       uint8_t *out, size_t out_len)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, readable(key.ptr), key.len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, readable(info.ptr), info.len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, readable(salt.ptr), salt.len),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf == NULL ? NULL : EVP_KDF_CTX_new(kdf);
    enum kl_status st = KL_CRYPTO;

    assert(salt.len != 0);
    if (ctx != NULL && EVP_KDF_derive(ctx, out, out_len, params) == 1) {
        st = KL_OK;
    }
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return st;
}
