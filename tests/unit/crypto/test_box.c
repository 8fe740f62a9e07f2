#include "tests/unit/crypto/crypto_fixture.h"

#include "common/names.h"
#include "server/crypto/box.h"

static void unhex(const char *text, uint8_t *out)
{
    CHECK_OK(kl_hex_decode(text, out, strlen(text) / 2));
}

/* Test case 16 of "The Galois/Counter Mode of Operation" (McGrew, Viega): AES-256, with AAD. */
TEST(aead, known_answer)
{
    uint8_t key[32];
    uint8_t nonce[12];
    uint8_t aad[20];
    uint8_t plain[60];
    uint8_t want[60];
    uint8_t want_tag[16];
    uint8_t text[60];
    uint8_t tag[16];
    uint8_t back[60];
    EVP_CIPHER *cipher = kl_aead_fetch();

    unhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", key);
    unhex("cafebabefacedbaddecaf888", nonce);
    unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2", aad);
    unhex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
          "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
          plain);
    unhex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
          "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
          want);
    unhex("76fc6ece0f4e1768cddf8853bb2d551b", want_tag);
    CHECK_OK(kl_aead_seal(cipher, key, nonce, kl_bytes_of(aad, sizeof aad),
                          kl_bytes_of(plain, sizeof plain), text, tag));
    CHECK_MEM(text, want, sizeof want);
    CHECK_MEM(tag, want_tag, sizeof want_tag);
    CHECK_OK(kl_aead_open(cipher, key, nonce, kl_bytes_of(aad, sizeof aad),
                          kl_bytes_of(text, sizeof text), tag, back));
    CHECK_MEM(back, plain, sizeof plain);
    EVP_CIPHER_free(cipher);
}

/* Plaintext that fails its tag is wiped, not left for the caller to use by mistake. */
TEST(aead, refused_plaintext_is_wiped)
{
    uint8_t key[32] = {1};
    uint8_t nonce[12] = {2};
    uint8_t plain[40] = "forty bytes of something that is secret";
    uint8_t text[40];
    uint8_t tag[16];
    uint8_t back[40];
    EVP_CIPHER *cipher = kl_aead_fetch();

    CHECK_OK(kl_aead_seal(cipher, key, nonce, kl_bytes_of(NULL, 0),
                          kl_bytes_of(plain, sizeof plain), text, tag));
    tag[15] ^= 1;
    CHECK_STATUS(kl_aead_open(cipher, key, nonce, kl_bytes_of(NULL, 0),
                              kl_bytes_of(text, sizeof text), tag, back),
                 KL_CRYPTO);
    for (size_t i = 0; i < sizeof back; i++) {
        CHECK_EQ(back[i], 0);
    }
    EVP_CIPHER_free(cipher);
}

/* RFC 5869, A.1. */
TEST(hkdf, known_answer)
{
    uint8_t key[22];
    uint8_t salt[13];
    uint8_t info[10];
    uint8_t want[42];
    uint8_t out[42];

    unhex("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", key);
    unhex("000102030405060708090a0b0c", salt);
    unhex("f0f1f2f3f4f5f6f7f8f9", info);
    unhex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
          "34007208d5b887185865",
          want);
    CHECK_OK(kl_hkdf(kl_bytes_of(key, sizeof key), kl_bytes_of(salt, sizeof salt),
                     kl_bytes_of(info, sizeof info), out, sizeof out));
    CHECK_MEM(out, want, sizeof want);
}

/* A box is byte for byte what keyring.h says, read by OpenSSL's own calls. */
TEST(box, layout)
{
    static const uint8_t plain[] = "the value";
    struct counter_entropy counter = {0};
    struct kl_entropy entropy = counter_entropy(&counter);
    struct kl_box_id id = {.what = KL_BOX_VAULT_KEY, .root_version = 0x01020304};
    struct kl_buf box = KL_BUF(256);
    uint8_t key[32] = {7};
    uint8_t back[sizeof plain];
    uint8_t aad[12] = {1, 3, 0, 0, 1, 2, 3, 4, 'a', 'b', 'c', 'd'};
    EVP_CIPHER *cipher = kl_aead_fetch();

    kl_box_id_add(&id, kl_bytes_str("abcd"));
    CHECK_OK(kl_box_seal(cipher, &entropy, key, &id, kl_bytes_of(plain, sizeof plain), &box));
    CHECK_EQ(box.len, sizeof plain + KL_BOX_OVERHEAD);
    CHECK_MEM(box.ptr, aad, 8);
    for (uint8_t i = 0; i < 12; i++) {
        CHECK_EQ(box.ptr[8 + i], i); /* the nonce is what was drawn */
    }
    CHECK(plain_gcm_open(key, box.ptr + 8, aad, sizeof aad, box.ptr + 20, sizeof plain,
                         box.ptr + 20 + sizeof plain, back));
    CHECK_MEM(back, plain, sizeof plain);
    kl_buf_wipe(&box);
    EVP_CIPHER_free(cipher);
}

static enum kl_status no_entropy(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    (void)out;
    (void)n;
    return KL_CRYPTO;
}

/* Without randomness nothing is sealed, and the buffer is as it was. */
TEST(box, no_entropy)
{
    const struct kl_entropy entropy = {NULL, no_entropy};
    struct kl_box_id id = {.what = KL_BOX_PAYLOAD};
    struct kl_buf box = KL_BUF(256);
    uint8_t key[32] = {7};
    EVP_CIPHER *cipher = kl_aead_fetch();

    CHECK_OK(kl_buf_put(&box, "before", 6));
    CHECK_STATUS(kl_box_seal(cipher, &entropy, key, &id, kl_bytes_str("x"), &box), KL_CRYPTO);
    CHECK_EQ(box.len, 6);
    CHECK_STATUS(kl_box_seal(cipher, &kl_real_entropy, key, &id, kl_bytes_of(key, 32), &box),
                 KL_OK);
    CHECK_MEM(box.ptr, "before", 6);
    kl_buf_wipe(&box);
    EVP_CIPHER_free(cipher);
}
