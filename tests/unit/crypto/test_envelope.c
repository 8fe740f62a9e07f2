#include "tests/unit/crypto/crypto_fixture.h"

#include "common/alloc.h"
#include "common/names.h"

static const char secret[] = "correct horse battery staple";

/* What was sealed is opened again, empty and longest payloads included; both append. */
TEST(envelope, round_trip)
{
    static const size_t lengths[] = {0, 1, 15, 16, 17, 1024, KL_SECRET_VALUE_MAX};
    struct kl_buf plain = KL_BUF(2 * KL_SECRET_VALUE_MAX);
    struct kl_buf sealed = KL_BUF(2 * KL_SEALED_MAX);
    struct kl_buf back = KL_BUF(2 * KL_SECRET_VALUE_MAX);
    struct fixture f;
    uint8_t *p;

    fixture_init(&f, NULL);
    CHECK_OK(kl_buf_grow(&plain, KL_SECRET_VALUE_MAX, &p));
    CHECK_OK(kl_real_entropy.fill(NULL, p, KL_SECRET_VALUE_MAX));
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        kl_buf_clear(&sealed);
        kl_buf_clear(&back);
        CHECK_OK(kl_buf_put(&sealed, "head", 4));
        CHECK_OK(kl_buf_put(&back, "front", 5));
        CHECK_OK(fixture_seal(&f, kl_bytes_of(plain.ptr, lengths[i]), &sealed));
        CHECK_EQ(sealed.len, 4 + lengths[i] + KL_BOX_OVERHEAD);
        CHECK_OK(fixture_open(&f, kl_bytes_of(sealed.ptr + 4, sealed.len - 4), &back));
        CHECK_EQ(back.len, 5 + lengths[i]);
        CHECK_MEM(back.ptr, "front", 5);
        CHECK_MEM(back.ptr + 5, plain.ptr, lengths[i]);
    }
    kl_buf_wipe(&plain);
    kl_buf_wipe(&sealed);
    kl_buf_wipe(&back);
    fixture_done(&f);
}

/* Sealing the same twice gives nothing that could be compared. */
TEST(envelope, never_the_same_twice)
{
    struct kl_buf a = KL_BUF(1024);
    struct kl_buf b = KL_BUF(1024);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(fixture_seal(&f, kl_bytes_str(secret), &a));
    CHECK_OK(fixture_seal(&f, kl_bytes_str(secret), &b));
    CHECK(memcmp(a.ptr + 8, b.ptr + 8, 12) != 0);
    CHECK(memcmp(a.ptr + 20, b.ptr + 20, a.len - 20) != 0);
    CHECK(memmem(a.ptr, a.len, secret, 5) == NULL);
    kl_buf_wipe(&a);
    kl_buf_wipe(&b);
    fixture_done(&f);
}

/* Opens `box` and checks that it is refused and leaves *plain alone. */
static void refused(struct fixture *f, struct kl_bytes box)
{
    struct kl_buf plain = KL_BUF(1024);

    CHECK_OK(kl_buf_put(&plain, "kept", 4));
    CHECK_STATUS(fixture_open(f, box, &plain), KL_CRYPTO);
    CHECK_EQ(plain.len, 4);
    CHECK_MEM(plain.ptr, "kept", 4);
    kl_buf_wipe(&plain);
}

/* Every flipped bit, every truncation, and every appended byte is refused. */
TEST(envelope, tampering_over_every_byte)
{
    struct kl_buf box = KL_BUF(1024);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(fixture_seal(&f, kl_bytes_str(secret), &box));
    for (size_t i = 0; i < box.len; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            box.ptr[i] ^= (uint8_t)(1u << bit);
            refused(&f, kl_buf_bytes(&box));
            box.ptr[i] ^= (uint8_t)(1u << bit);
        }
        refused(&f, kl_bytes_of(box.ptr, i));
    }
    CHECK_OK(kl_buf_put_u8(&box, 0));
    refused(&f, kl_buf_bytes(&box));
    kl_buf_wipe(&box);
    fixture_done(&f);
}

/* The wrapped keys are as well protected as the payload. */
TEST(envelope, tampering_with_the_keys)
{
    struct kl_buf box = KL_BUF(1024);
    struct kl_buf *keys[2];
    struct fixture f;

    fixture_init(&f, NULL);
    keys[0] = &f.vault_key;
    keys[1] = &f.object_key;
    CHECK_OK(fixture_seal(&f, kl_bytes_str(secret), &box));
    for (size_t k = 0; k < 2; k++) {
        size_t len = keys[k]->len;

        for (size_t i = 0; i < len; i++) {
            keys[k]->ptr[i] ^= 0x10;
            refused(&f, kl_buf_bytes(&box));
            keys[k]->ptr[i] ^= 0x10;
            keys[k]->len = i;
            refused(&f, kl_buf_bytes(&box));
            keys[k]->len = len;
        }
    }
    kl_buf_wipe(&box);
    fixture_done(&f);
}

/* A payload opens for exactly the vault, object, version and kind it was sealed for. */
TEST(envelope, identity_mismatch)
{
    uint8_t other[KL_ID_LEN] = {0};
    struct kl_buf box = KL_BUF(1024);
    struct kl_buf plain = KL_BUF(1024);
    struct kl_identity right;
    struct fixture f;

    fixture_init(&f, NULL);
    right = f.id;
    CHECK_OK(fixture_seal(&f, kl_bytes_str(secret), &box));
    f.id.vault_id = kl_bytes_of(other, KL_ID_LEN);
    refused(&f, kl_buf_bytes(&box));
    /* not even while the vault's key is in the cache */
    CHECK_STATUS(kl_object_key_new(f.ring, &f.id, kl_buf_bytes(&f.vault_key), &plain), KL_CRYPTO);
    f.id = right;
    f.id.object_id = kl_bytes_of(other, KL_ID_LEN);
    refused(&f, kl_buf_bytes(&box));
    f.id = right;
    f.id.version_id = kl_bytes_of(other, KL_ID_LEN);
    refused(&f, kl_buf_bytes(&box));
    f.id = right;
    f.id.kind = 2;
    refused(&f, kl_buf_bytes(&box));
    f.id = right;
    f.id.version_id.len = 15;
    refused(&f, kl_buf_bytes(&box));
    f.id = right;
    CHECK_OK(fixture_open(&f, kl_buf_bytes(&box), &plain));
    CHECK_EQ(plain.len, strlen(secret));
    kl_buf_wipe(&box);
    kl_buf_wipe(&plain);
    fixture_done(&f);
}

/* The keys of one vault or object open nothing of another, though one cluster wrapped them all. */
TEST(envelope, keys_of_another_vault)
{
    uint8_t other[KL_ID_LEN] = {9};
    struct kl_identity id;
    struct kl_buf box = KL_BUF(1024);
    struct kl_buf vault_key = KL_BUF(1024);
    struct kl_buf object_key = KL_BUF(1024);
    struct kl_buf plain = KL_BUF(1024);
    struct fixture f;

    fixture_init(&f, NULL);
    id = f.id;
    id.vault_id = kl_bytes_of(other, KL_ID_LEN);
    CHECK_OK(fixture_seal(&f, kl_bytes_str(secret), &box));
    CHECK_OK(kl_vault_key_new(f.ring, id.vault_id, &vault_key));
    CHECK_OK(kl_object_key_new(f.ring, &id, kl_buf_bytes(&vault_key), &object_key));
    CHECK_STATUS(kl_payload_open(f.ring, &f.id, kl_buf_bytes(&vault_key),
                                 kl_buf_bytes(&f.object_key), kl_buf_bytes(&box), &plain),
                 KL_CRYPTO);
    CHECK_STATUS(kl_payload_open(f.ring, &f.id, kl_buf_bytes(&f.vault_key),
                                 kl_buf_bytes(&object_key), kl_buf_bytes(&box), &plain),
                 KL_CRYPTO);
    CHECK_STATUS(kl_payload_open(f.ring, &id, kl_buf_bytes(&vault_key), kl_buf_bytes(&object_key),
                                 kl_buf_bytes(&box), &plain),
                 KL_CRYPTO);
    CHECK_EQ(plain.len, 0);
    kl_buf_wipe(&box);
    kl_buf_wipe(&vault_key);
    kl_buf_wipe(&object_key);
    kl_buf_wipe(&plain);
    fixture_done(&f);
}

/* Too much to seal, or too little room for the result, changes nothing. */
TEST(envelope, limits)
{
    static uint8_t big[KL_SECRET_VALUE_MAX + 1];
    struct kl_buf box = KL_BUF(2 * KL_SEALED_MAX);
    struct kl_buf small = KL_BUF(10);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_STATUS(fixture_seal(&f, kl_bytes_of(big, sizeof big), &box), KL_TOO_LARGE);
    CHECK_EQ(box.len, 0);
    CHECK_STATUS(fixture_seal(&f, kl_bytes_str(secret), &small), KL_TOO_LARGE);
    CHECK_OK(fixture_seal(&f, kl_bytes_str(secret), &box));
    CHECK_STATUS(fixture_open(&f, kl_buf_bytes(&box), &small), KL_TOO_LARGE);
    CHECK_EQ(small.len, 0);
    kl_buf_wipe(&box);
    kl_buf_wipe(&small);
    fixture_done(&f);
}

/* Opens one box of the chain with OpenSSL's calls alone; the identity is spelt out by the caller. */
static void open_by_hand(const uint8_t key[32], const uint8_t *box, size_t box_len, uint8_t what,
                         uint32_t root_version, const uint8_t *identity, size_t identity_len,
                         uint8_t *out)
{
    uint8_t aad[128] = {1, what, 0, 0};

    kl_put_be32(aad + 4, root_version);
    memcpy(aad + 8, identity, identity_len);
    CHECK(plain_gcm_open(key, box + 8, aad, 8 + identity_len, box + 20, box_len - 36,
                         box + box_len - 16, out));
}

/* The whole chain, seal file to payload, can be followed with nothing but AES-256-GCM: no step of
 * ours is needed to get the data back. */
TEST(envelope, chain_by_hand)
{
    static const uint8_t one[4] = {0, 0, 0, 1};
    struct kl_buf box = KL_BUF(1024);
    uint8_t seal[32];
    uint8_t root[32];
    uint8_t vault[32];
    uint8_t object[32];
    uint8_t plain[sizeof secret];
    uint8_t identity[64];
    char line[80];
    struct fixture f;
    FILE *file;

    fixture_init(&f, NULL);
    CHECK_OK(fixture_seal(&f, kl_bytes_str(secret), &box));
    file = fopen(f.seal_path, "r");
    CHECK(file != NULL && fgets(line, sizeof line, file) != NULL);
    (void)fclose(file);
    line[64] = '\0';
    CHECK_OK(kl_hex_decode(line, seal, sizeof seal));
    open_by_hand(seal, f.record->roots[0]->wrapped.data, f.record->roots[0]->wrapped.len, 1, 0, one,
                 4, root);
    open_by_hand(root, f.vault_key.ptr, f.vault_key.len, 3, 1, f.vault_id, 16, vault);
    memcpy(identity, f.vault_id, 16);
    memcpy(identity + 16, f.object_id, 16);
    memcpy(identity + 32, one, 4);
    open_by_hand(vault, f.object_key.ptr, f.object_key.len, 4, 0, identity, 36, object);
    memcpy(identity + 32, f.version_id, 16);
    memcpy(identity + 48, one, 4);
    open_by_hand(object, box.ptr, box.len, 5, 0, identity, 52, plain);
    CHECK_MEM(plain, secret, strlen(secret));
    kl_buf_wipe(&box);
    fixture_done(&f);
}

/* With any single allocation failing the answer is KL_NO_MEMORY or KL_CRYPTO, outputs are untouched
 * and nothing leaks. */
TEST(envelope, allocation_torture)
{
    struct fixture f;
    bool struck = true;

    fixture_init(&f, NULL);
    for (unsigned long n = 1; struck; n++) {
        struct kl_buf box = KL_BUF(1024);
        struct kl_buf plain = KL_BUF(1024);
        Kluis__Store__KeyringRecord *record = NULL;
        struct kl_keyring *ring = NULL;
        enum kl_status st;

        kl_alloc_fail_at(n);
        st = kl_keyring_create(f.seal, &kl_real_entropy, NULL, 1, &record);
        if (st == KL_OK) {
            st = kl_keyring_open(f.seal, &kl_real_entropy, record, &ring);
        }
        if (st == KL_OK) {
            st = fixture_seal(&f, kl_bytes_str(secret), &box);
        }
        if (st == KL_OK) {
            st = fixture_open(&f, kl_buf_bytes(&box), &plain);
        }
        struck = kl_alloc_failed() != 0;
        kl_alloc_fail_at(0);
        CHECK_STATUS(st, struck ? KL_NO_MEMORY : KL_OK);
        CHECK_EQ(plain.len, struck ? 0 : strlen(secret));
        kl_buf_wipe(&box);
        kl_buf_wipe(&plain);
        kl_keyring_free(ring);
        kluis__store__keyring_record__free_unpacked(record, &kl_pb_allocator);
    }
    fixture_done(&f);
}
