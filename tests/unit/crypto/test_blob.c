#include "tests/unit/crypto/blob_fixture.h"

#include "common/alloc.h"

#include <ctype.h>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

/* Everything comes back: one version, many, empty payloads, and sizes around a chunk's end. */
TEST(blob, round_trip)
{
    static const struct {
        uint32_t versions;
        size_t payload_len;
    } rows[] = {
        {1, 0}, {1, 1}, {3, 100}, {1, KL_BLOB_CHUNK_MAX - 60}, {500, 300}, {1, 131072}, {40, 25600},
    };
    struct fixture f;

    fixture_init(&f, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kl_blob_head head = blob_head("db-password", rows[i].versions);
        struct kl_buf blob = KL_BUF(KL_BLOB_MAX);

        CHECK_OK(kl_buf_put(&blob, "xy", 2)); /* finish appends */
        CHECK_OK(blob_make(f.ring, &head, rows[i].payload_len, &blob));
        CHECK_OK(blob_check(f.ring, kl_bytes_of(blob.ptr + 2, blob.len - 2), &head,
                            rows[i].payload_len));
        kl_buf_wipe(&blob);
    }
    fixture_done(&f);
}

/* Lengths at and around the end of a chunk: a last chunk of 1 byte, of all bytes, and one more. */
TEST(blob, chunk_boundaries)
{
    struct kl_blob_head head = blob_head("a", 1);
    struct kl_buf empty = KL_BUF(KL_BLOB_MAX);
    struct fixture f;
    size_t fixed;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, 0, &empty));
    fixed = empty.len - HEAD_LEN - 16; /* what a version without payload takes */
    for (size_t chunks = 1; chunks <= 2; chunks++) {
        for (size_t extra = 0; extra < 3; extra++) {
            size_t payload_len = chunks * KL_BLOB_CHUNK_MAX - fixed - 1 + extra;
            struct kl_buf blob = KL_BUF(KL_BLOB_MAX);

            CHECK_OK(blob_make(f.ring, &head, payload_len, &blob));
            CHECK_EQ(blob.len, HEAD_LEN + fixed + payload_len + 16 * (chunks + (extra == 2)));
            CHECK_OK(blob_check(f.ring, kl_buf_bytes(&blob), &head, payload_len));
            kl_buf_wipe(&blob);
        }
    }
    kl_buf_wipe(&empty);
    fixture_done(&f);
}

/* Another cluster of the same geography opens it; one with another root is told so. */
TEST(blob, other_clusters)
{
    static const uint8_t key[KL_KEY_LEN] = {5};
    struct kl_blob_head head = blob_head("db", 2);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture home;
    struct fixture same;
    struct fixture foreign;

    fixture_init(&home, key);
    fixture_init(&same, key);
    fixture_init(&foreign, NULL);
    CHECK_OK(blob_make(home.ring, &head, 100, &blob));
    CHECK_OK(blob_check(same.ring, kl_buf_bytes(&blob), &head, 100));
    CHECK_STATUS(blob_check(foreign.ring, kl_buf_bytes(&blob), &head, 100), KL_BLOB_GEOGRAPHY);
    kl_buf_wipe(&blob);
    fixture_done(&home);
    fixture_done(&same);
    fixture_done(&foreign);
}

static enum kl_status open_for(struct fixture *f, const struct kl_buf *blob, const char *geography,
                               const char *subscription, uint32_t kind)
{
    struct kl_blob_reader *r = NULL;
    enum kl_status st =
        kl_blob_reader_new(f->ring, kl_buf_bytes(blob), geography, subscription, kind, &r);

    CHECK_EQ(r == NULL, st != KL_OK);
    kl_blob_reader_free(r);
    return st;
}

/* A real blob for somebody else is not called tampered: each stranger has its own status. */
TEST(blob, strangers)
{
    struct kl_blob_head head = blob_head("db", 1);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    char upper[] = SUBSCRIPTION;
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, 10, &blob));
    for (char *c = upper; *c != '\0'; c++) {
        *c = (char)toupper((unsigned char)*c);
    }
    CHECK_STATUS(open_for(&f, &blob, GEOGRAPHY, SUBSCRIPTION, SECRET_KIND), KL_OK);
    CHECK_STATUS(open_for(&f, &blob, GEOGRAPHY, upper, SECRET_KIND),
                 KL_OK); /* UUIDs have no case */
    CHECK_STATUS(open_for(&f, &blob, "asia", SUBSCRIPTION, SECRET_KIND), KL_BLOB_GEOGRAPHY);
    CHECK_STATUS(
        open_for(&f, &blob, GEOGRAPHY, "00000000-0000-4000-8000-00000000000f", SECRET_KIND),
        KL_BLOB_SUBSCRIPTION);
    CHECK_STATUS(open_for(&f, &blob, GEOGRAPHY, SUBSCRIPTION "0", SECRET_KIND),
                 KL_BLOB_SUBSCRIPTION);
    CHECK_STATUS(open_for(&f, &blob, GEOGRAPHY, "", SECRET_KIND), KL_BLOB_SUBSCRIPTION);
    CHECK_STATUS(open_for(&f, &blob, GEOGRAPHY, SUBSCRIPTION, 2), KL_BLOB_KIND);
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

/* A head that breaks a rule of names, or promises other versions than come, makes no blob. */
TEST(blob, writer_refuses)
{
    struct kl_blob_head head = blob_head("a/b", 1);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct kl_blob_writer *w = NULL;
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_STATUS(kl_blob_writer_new(f.ring, &head, &w), KL_INVALID_ARGUMENT);
    head = blob_head("a", 0);
    CHECK_STATUS(kl_blob_writer_new(f.ring, &head, &w), KL_INVALID_ARGUMENT);
    head = blob_head("a", 1);
    head.subscription[3] = 'x';
    CHECK_STATUS(kl_blob_writer_new(f.ring, &head, &w), KL_INVALID_ARGUMENT);
    CHECK(w == NULL);
    head = blob_head("a", 1);
    CHECK_OK(kl_blob_writer_new(f.ring, &head, &w));
    CHECK_STATUS(kl_blob_writer_finish(w, &blob), KL_INTERNAL); /* one too few */
    CHECK_EQ(blob.len, 0);
    kl_blob_writer_free(w);
    fixture_done(&f);
}

/* One version too many is our own mistake, one byte too many the caller's object. */
TEST(blob, writer_limits)
{
    static uint8_t big[1u << 20];
    static uint8_t id[KL_ID_LEN];
    Kluis__Store__Attributes attributes = KLUIS__STORE__ATTRIBUTES__INIT;
    Kluis__Store__VersionMeta meta = KLUIS__STORE__VERSION_META__INIT;
    struct kl_blob_version version = {&meta, {big, sizeof big}};
    struct kl_blob_head head = blob_head("a", 64);
    struct kl_blob_writer *w = NULL;
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(kl_blob_writer_new(f.ring, &head, &w));
    CHECK_STATUS(kl_blob_writer_add(w, &version), KL_CORRUPT); /* no id, no attributes */
    meta.version_id = (ProtobufCBinaryData){sizeof id, id};
    CHECK_STATUS(kl_blob_writer_add(w, &version), KL_CORRUPT);
    meta.attributes = &attributes;
    for (size_t i = 0; i < 63; i++) {
        CHECK_OK(kl_blob_writer_add(w, &version));
    }
    CHECK_STATUS(kl_blob_writer_add(w, &version),
                 KL_TOO_LARGE); /* 64 MiB and what surrounds them */
    version.payload.len = sizeof big -
                          64 * (8 + kluis__store__version_meta__get_packed_size(&meta)) - HEAD_LEN -
                          (size_t)1024 * 16;
    CHECK_OK(kl_blob_writer_add(w, &version));
    version.payload.len = 0;
    CHECK_STATUS(kl_blob_writer_add(w, &version), KL_INTERNAL);
    CHECK_OK(kl_blob_writer_finish(w, &blob));
    CHECK_EQ(blob.len, KL_BLOB_MAX);
    CHECK_STATUS(open_for(&f, &blob, GEOGRAPHY, SUBSCRIPTION, SECRET_KIND), KL_OK);
    kl_buf_wipe(&blob);
    kl_blob_writer_free(w);
    fixture_done(&f);
}

/* The head can be shown without any key; no payload can. */
TEST(blob, peek)
{
    struct kl_blob_head head = blob_head("db-password", 3);
    struct kl_blob_head seen;
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, 64, &blob));
    CHECK_OK(kl_blob_peek(kl_buf_bytes(&blob), &seen));
    CHECK_STR(seen.name, "db-password");
    CHECK_STR(seen.subscription, SUBSCRIPTION);
    CHECK_EQ(seen.version_count, 3);
    CHECK(memmem(blob.ptr, blob.len, "text/plain", 10) == NULL);
    CHECK_STATUS(kl_blob_peek(kl_bytes_str("KLUISBAX and so on"), &seen), KL_BLOB_MALFORMED);
    CHECK_STATUS(kl_blob_peek(kl_bytes_of(NULL, 0), &seen), KL_BLOB_MALFORMED);
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

static void hkdf_by_hand(const uint8_t *key, const uint8_t *salt, const uint8_t *info,
                         size_t info_len, uint8_t out[64])
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    char digest[] = "SHA2-256";
    uint8_t k[32];
    uint8_t s[32];
    uint8_t i[256];
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, k, sizeof k),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, s, sizeof s),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, i, info_len),
        OSSL_PARAM_construct_end(),
    };

    memcpy(k, key, sizeof k);
    memcpy(s, salt, sizeof s);
    memcpy(i, info, info_len);
    CHECK_EQ(EVP_KDF_derive(ctx, out, 64, params), 1);
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
}

/* The format is what its essay says: a blob is read with OpenSSL's calls and the offsets written
 * there, nothing else. */
TEST(blob, read_by_hand)
{
    static const uint8_t key[KL_KEY_LEN] = {42};
    static const uint8_t zero_nonce[12];
    struct kl_blob_head head = blob_head("db", 1);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    uint8_t info[14 + 64 + 36] = "kluis backup 1";
    uint8_t keys[64];
    uint8_t nothing[16];
    uint8_t nonce[12] = {0};
    uint8_t aad[25] = {0};
    static uint8_t plain[KL_BLOB_CHUNK_MAX];
    size_t last;
    struct fixture f;

    fixture_init(&f, key);
    CHECK_OK(blob_make(f.ring, &head, 70000, &blob));
    CHECK_MEM(blob.ptr, "KLUISBAK\0\0\0\1\0\0\0\1", 16);
    CHECK_EQ(kl_get_be64(blob.ptr + 16), blob.len);
    CHECK_EQ(kl_get_be32(blob.ptr + 24), 2);
    CHECK_MEM(blob.ptr + 64, f.record->geography_root_id.data, 16);
    memcpy(info + 14, GEOGRAPHY, strlen(GEOGRAPHY));
    memcpy(info + 14 + 64, SUBSCRIPTION, 36);
    hkdf_by_hand(key, blob.ptr + 80, info, sizeof info, keys);
    CHECK(plain_gcm_open(keys, zero_nonce, blob.ptr, 340, NULL, 0, blob.ptr + 340, nothing));
    memcpy(aad, blob.ptr + 340, 16);
    aad[23] = 2; /* count 2; index 0, not final */
    CHECK(plain_gcm_open(keys + 32, nonce, aad, sizeof aad, blob.ptr + HEAD_LEN, KL_BLOB_CHUNK_MAX,
                         blob.ptr + HEAD_LEN + KL_BLOB_CHUNK_MAX, plain));
    CHECK_EQ(kl_get_be32(plain + 4), 70000);
    nonce[3] = 1; /* final */
    nonce[11] = 1;
    aad[19] = 1;
    aad[24] = 1;
    last = HEAD_LEN + KL_BLOB_CHUNK_MAX + 16;
    CHECK(plain_gcm_open(keys + 32, nonce, aad, sizeof aad, blob.ptr + last, blob.len - last - 16,
                         blob.ptr + blob.len - 16, plain));
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

/* With any single allocation failing nothing comes out and nothing leaks. */
TEST(blob, allocation_torture)
{
    struct kl_blob_head head = blob_head("db", 2);
    struct fixture f;
    bool struck = true;

    fixture_init(&f, NULL);
    for (unsigned long n = 1; struck; n++) {
        struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
        enum kl_status st;

        kl_alloc_fail_at(n);
        st = blob_make(f.ring, &head, 100, &blob);
        if (st == KL_OK) {
            st = blob_check(f.ring, kl_buf_bytes(&blob), &head, 100);
        }
        struck = kl_alloc_failed() != 0;
        kl_alloc_fail_at(0);
        CHECK_STATUS(st, struck ? KL_NO_MEMORY : KL_OK);
        kl_buf_wipe(&blob);
    }
    fixture_done(&f);
}
