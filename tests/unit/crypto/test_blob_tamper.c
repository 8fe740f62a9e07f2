/*
 * What somebody with the file, but without the geography's key, can do to it. Each attempt has one
 * answer that is right, and that one is checked.
 */
#include "tests/unit/crypto/blob_fixture.h"

enum { CHUNK = KL_BLOB_CHUNK_MAX + 16 };

static enum kl_status open_it(struct fixture *f, struct kl_bytes blob)
{
    struct kl_blob_reader *r = NULL;
    enum kl_status st = kl_blob_reader_new(f->ring, blob, GEOGRAPHY, SUBSCRIPTION, SECRET_KIND, &r);

    CHECK_EQ(r == NULL, st != KL_OK);
    kl_blob_reader_free(r);
    return st;
}

/* A changed byte is called tampered, but for the first twelve: they say what the file is at all. */
static enum kl_status flip_status(size_t at)
{
    if (at < 8) {
        return KL_BLOB_MALFORMED;
    }
    return at < 12 ? KL_BLOB_FORMAT : KL_BLOB_TAMPERED;
}

/* Every single bit of a blob matters. */
TEST(blob_tamper, every_bit)
{
    struct kl_blob_head head = blob_head("db-password", 2);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, 40, &blob));
    for (size_t i = 0; i < blob.len; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            blob.ptr[i] ^= (uint8_t)(1u << bit);
            CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), flip_status(i));
            blob.ptr[i] ^= (uint8_t)(1u << bit);
        }
    }
    CHECK_OK(open_it(&f, kl_buf_bytes(&blob)));
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

/* A truncation is called one wherever it happens; nothing at all is no blob. */
TEST(blob_tamper, every_truncation)
{
    struct kl_blob_head head = blob_head("db-password", 2);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, 40, &blob));
    for (size_t n = 0; n < blob.len; n++) {
        /* a copy of just that size, so that a read behind its end is seen */
        uint8_t *copy = test_malloc(n == 0 ? 1 : n);

        memcpy(copy, blob.ptr, n);
        CHECK_STATUS(open_it(&f, kl_bytes_of(copy, n)),
                     n == 0 ? KL_BLOB_MALFORMED : KL_BLOB_TRUNCATED);
        test_free(copy);
    }
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

/* Bytes behind the end are tampering: one, a chunk, or a whole second blob. */
TEST(blob_tamper, appended)
{
    struct kl_blob_head head = blob_head("db", 2);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture f;
    size_t len;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, 40, &blob));
    len = blob.len;
    CHECK_OK(kl_buf_put_u8(&blob, 0));
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), KL_BLOB_TAMPERED);
    blob.len = len;
    CHECK_OK(blob_make(f.ring, &head, 40, &blob));
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), KL_BLOB_TAMPERED);
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

/* Truncation at the end of a chunk, with the head's counts made to fit, does not pass either. */
TEST(blob_tamper, shorter_head)
{
    struct kl_blob_head head = blob_head("db", 1);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, (size_t)3 * KL_BLOB_CHUNK_MAX, &blob));
    blob.len = HEAD_LEN + 2 * CHUNK;
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), KL_BLOB_TRUNCATED);
    kl_put_be64(blob.ptr + 16, blob.len);
    kl_put_be32(blob.ptr + 24, 2);
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), KL_BLOB_TAMPERED);
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

static void swap(uint8_t *a, uint8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t t = a[i];

        a[i] = b[i];
        b[i] = t;
    }
}

/* Chunks in another order, and one chunk twice, are refused. */
TEST(blob_tamper, reordered)
{
    struct kl_blob_head head = blob_head("db", 1);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture f;
    uint8_t *first;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, (size_t)3 * KL_BLOB_CHUNK_MAX, &blob));
    first = blob.ptr + HEAD_LEN;
    swap(first, first + CHUNK, CHUNK);
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), KL_BLOB_TAMPERED);
    swap(first, first + CHUNK, CHUNK);
    CHECK_OK(open_it(&f, kl_buf_bytes(&blob)));
    memcpy(first + CHUNK, first, CHUNK);
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), KL_BLOB_TAMPERED);
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

/* Two blobs of one object, made alike: no head, chunk or tag of one fits the other. */
TEST(blob_tamper, spliced)
{
    struct kl_blob_head head = blob_head("db", 1);
    struct kl_buf a = KL_BUF(KL_BLOB_MAX);
    struct kl_buf b = KL_BUF(KL_BLOB_MAX);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, (size_t)2 * KL_BLOB_CHUNK_MAX, &a));
    CHECK_OK(blob_make(f.ring, &head, (size_t)2 * KL_BLOB_CHUNK_MAX, &b));
    CHECK_EQ(a.len, b.len);
    for (size_t i = 0; i < 3; i++) { /* each chunk */
        size_t at = HEAD_LEN + i * CHUNK;
        size_t n = i == 2 ? a.len - at : CHUNK;

        swap(a.ptr + at, b.ptr + at, n);
        CHECK_STATUS(open_it(&f, kl_buf_bytes(&a)), KL_BLOB_TAMPERED);
        CHECK_STATUS(open_it(&f, kl_buf_bytes(&b)), KL_BLOB_TAMPERED);
        swap(a.ptr + at, b.ptr + at, n);
    }
    swap(a.ptr, b.ptr, HEAD_LEN); /* the heads: each is authentic, the chunks are another's */
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&a)), KL_BLOB_TAMPERED);
    swap(a.ptr, b.ptr, HEAD_LEN);
    swap(a.ptr + 80, b.ptr + 80, 32); /* the salts */
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&a)), KL_BLOB_TAMPERED);
    swap(a.ptr + 80, b.ptr + 80, 32);
    CHECK_OK(open_it(&f, kl_buf_bytes(&a)));
    CHECK_OK(open_it(&f, kl_buf_bytes(&b)));
    kl_buf_wipe(&a);
    kl_buf_wipe(&b);
    fixture_done(&f);
}

/* Writing one's own subscription over the head's does not carry a blob across. */
TEST(blob_tamper, relabelled)
{
    struct kl_blob_head head = blob_head("db", 1);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct fixture f;

    fixture_init(&f, NULL);
    (void)snprintf(head.subscription, sizeof head.subscription,
                   "11111111-0000-4000-8000-00000000000f");
    CHECK_OK(blob_make(f.ring, &head, 40, &blob));
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), KL_BLOB_SUBSCRIPTION);
    memcpy(blob.ptr + 176, SUBSCRIPTION, 36);
    CHECK_STATUS(open_it(&f, kl_buf_bytes(&blob)), KL_BLOB_TAMPERED);
    kl_buf_wipe(&blob);
    fixture_done(&f);
}

/* Random damage, some bytes at once anywhere, is never taken for a blob. */
TEST(blob_tamper, random_damage)
{
    struct kl_blob_head head = blob_head("db", 3);
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct kl_buf bad = KL_BUF(KL_BLOB_MAX);
    uint64_t seed = test_seed();
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(blob_make(f.ring, &head, 200, &blob));
    for (size_t round = 0; round < 3000; round++) {
        size_t changes = 1 + test_random(&seed) % 8;

        kl_buf_clear(&bad);
        CHECK_OK(kl_buf_put(&bad, blob.ptr, blob.len));
        for (size_t i = 0; i < changes; i++) {
            bad.ptr[test_random(&seed) % bad.len] = (uint8_t)test_random(&seed);
        }
        if (memcmp(bad.ptr, blob.ptr, blob.len) != 0) {
            CHECK(open_it(&f, kl_buf_bytes(&bad)) != KL_OK);
        }
    }
    kl_buf_wipe(&blob);
    kl_buf_wipe(&bad);
    fixture_done(&f);
}
