#include "tests/unit/crypto/crypto_fixture.h"

#include "common/alloc.h"

#include <openssl/evp.h>

void fixture_init(struct fixture *f, const uint8_t *geography_key)
{
    char err[512] = "";

    *f = (struct fixture){.vault_key = KL_BUF(1024), .object_key = KL_BUF(1024)};
    (void)snprintf(f->seal_path, sizeof f->seal_path, "%s/seal", test_dir());
    CHECK_OK(kl_seal_file_create(f->seal_path, &kl_real_entropy, err, sizeof err));
    CHECK_OK(kl_seal_file_open(f->seal_path, &f->seal, err, sizeof err));
    CHECK_OK(kl_keyring_create(f->seal, &kl_real_entropy, geography_key, 1000, &f->record));
    CHECK_OK(kl_keyring_open(f->seal, &kl_real_entropy, f->record, &f->ring));
    CHECK_OK(kl_real_entropy.fill(NULL, f->vault_id, KL_ID_LEN));
    CHECK_OK(kl_real_entropy.fill(NULL, f->object_id, KL_ID_LEN));
    CHECK_OK(kl_real_entropy.fill(NULL, f->version_id, KL_ID_LEN));
    f->id = (struct kl_identity){
        .vault_id = {f->vault_id, KL_ID_LEN},
        .object_id = {f->object_id, KL_ID_LEN},
        .version_id = {f->version_id, KL_ID_LEN},
        .kind = 1,
    };
    CHECK_OK(kl_vault_key_new(f->ring, f->id.vault_id, &f->vault_key));
    CHECK_OK(kl_object_key_new(f->ring, &f->id, kl_buf_bytes(&f->vault_key), &f->object_key));
}

void fixture_done(struct fixture *f)
{
    kl_buf_wipe(&f->vault_key);
    kl_buf_wipe(&f->object_key);
    kl_keyring_free(f->ring);
    kluis__store__keyring_record__free_unpacked(f->record, &kl_pb_allocator);
    kl_seal_free(f->seal);
}

enum kl_status fixture_seal(struct fixture *f, struct kl_bytes plain, struct kl_buf *sealed)
{
    return kl_payload_seal(f->ring, &f->id, kl_buf_bytes(&f->vault_key),
                           kl_buf_bytes(&f->object_key), plain, sealed);
}

enum kl_status fixture_open(struct fixture *f, struct kl_bytes sealed, struct kl_buf *plain)
{
    return kl_payload_open(f->ring, &f->id, kl_buf_bytes(&f->vault_key),
                           kl_buf_bytes(&f->object_key), sealed, plain);
}

bool plain_gcm_open(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                    const uint8_t *text, size_t n, const uint8_t *tag, uint8_t *out)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint8_t mutable_tag[16];
    uint8_t rest[16];
    int len = 0;
    bool ok;

    memcpy(mutable_tag, tag, sizeof mutable_tag);
    ok = EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, NULL, NULL) == 1 &&
         EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_IVLEN, 12, NULL) == 1 &&
         EVP_DecryptInit_ex(ctx, NULL, NULL, key, nonce) == 1 &&
         EVP_DecryptUpdate(ctx, NULL, &len, aad, (int)aad_len) == 1 &&
         EVP_DecryptUpdate(ctx, out, &len, text, (int)n) == 1 &&
         EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, 16, mutable_tag) == 1 &&
         EVP_DecryptFinal_ex(ctx, rest, &len) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

static enum kl_status counter_fill(void *ctx, uint8_t *out, size_t n)
{
    struct counter_entropy *c = ctx;

    for (size_t i = 0; i < n; i++) {
        out[i] = c->next++;
    }
    return KL_OK;
}

struct kl_entropy counter_entropy(struct counter_entropy *c)
{
    return (struct kl_entropy){c, counter_fill};
}
