/*
 * Backup blobs. The first byte of an input says what the rest is:
 *
 *   0   a blob, as a stranger would send it
 *   1   the plaintext of the chunks of a blob that is authentic: what a broken or a newer writer could
 *       have made. The number of versions is in the four bytes before it.
 *   2   the numbers of an authentic head (version count, chunk count, size), then such plaintext
 *
 * What must hold: nothing but statuses of blobs, and what is accepted can be read to its end.
 */
#include "common/alloc.h"
#include "server/crypto/blob.h"
#include "server/crypto/ring.h"
#include "server/crypto/seal.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Offsets: the essay at the top of server/crypto/blob.c. */
enum { HEAD_LEN = 356, AT_TAG = 340, PLAIN_MAX = 3 * KL_BLOB_CHUNK_MAX };

static const char geography[] = "europe";
static const char subscription[] = "00000000-0000-4000-8000-000000000001";

static enum kl_status clear_wrap(struct kl_seal *seal, const struct kl_entropy *entropy,
                                 const struct kl_box_id *id, const uint8_t *key,
                                 struct kl_buf *wrapped)
{
    (void)seal;
    (void)entropy;
    (void)id;
    return kl_buf_put(wrapped, key, KL_KEY_LEN);
}

static enum kl_status clear_unwrap(struct kl_seal *seal, const struct kl_box_id *id,
                                   struct kl_bytes wrapped, uint8_t *key)
{
    (void)seal;
    (void)id;
    memcpy(key, wrapped.ptr, KL_KEY_LEN);
    return KL_OK;
}

static void must(enum kl_status st)
{
    assert(st == KL_OK);
}

/* The geography's key is fixed, so that the genuine blob of the corpus stays one. */
static struct kl_keyring *ring_new(void)
{
    static const uint8_t key[KL_KEY_LEN] = "a geography for the fuzzer only";
    struct kl_seal seal = {clear_wrap, clear_unwrap, NULL};
    Kluis__Store__KeyringRecord *record = NULL;
    struct kl_keyring *ring = NULL;

    must(kl_keyring_create(&seal, &kl_real_entropy, key, 0, &record));
    must(kl_keyring_open(&seal, &kl_real_entropy, record, &ring));
    kluis__store__keyring_record__free_unpacked(record, &kl_pb_allocator);
    return ring;
}

static bool is_blob_status(enum kl_status st)
{
    return st >= KL_BLOB_MALFORMED && st <= KL_BLOB_KIND;
}

/* Reads to the end or the first refusal. */
static void read_versions(struct kl_blob_reader *r)
{
    uint32_t count = kl_blob_reader_head(r)->version_count;
    struct kl_buf payload = KL_BUF(KL_BLOB_MAX);
    enum kl_status st = KL_OK;
    uint32_t n = 0;

    for (; st == KL_OK; n++) {
        Kluis__Store__VersionMeta *meta = NULL;

        st = kl_blob_reader_next(r, &meta, &payload);
        assert(st == KL_OK || st == KL_NOT_FOUND || st == KL_BLOB_MALFORMED);
        if (st == KL_OK) {
            assert(meta->version_id.len == KL_ID_LEN && meta->attributes != NULL);
        }
        kl_pb_wipe_free((ProtobufCMessage *)meta, &kl_pb_allocator);
    }
    assert(st != KL_NOT_FOUND || n == count + 1);
    kl_buf_wipe(&payload);
}

static void read_blob(struct kl_keyring *ring, struct kl_bytes blob)
{
    struct kl_blob_reader *r = NULL;
    struct kl_blob_head head;
    enum kl_status st = kl_blob_peek(blob, &head);

    assert(st == KL_OK || is_blob_status(st));
    st = kl_blob_reader_new(ring, blob, geography, subscription, 1, &r);
    assert(st == KL_OK ? r != NULL : r == NULL && is_blob_status(st));
    if (st == KL_OK) {
        read_versions(r);
        kl_blob_reader_free(r);
    }
}

struct numbers {
    uint32_t versions, chunks;
    uint64_t total;
};

static void make_head(struct kl_keyring *ring, const struct numbers *n, uint8_t head[HEAD_LEN],
                      uint8_t keys[2 * KL_KEY_LEN])
{
    static const uint8_t nonce[KL_NONCE_LEN];
    uint8_t info[14 + 64 + 36] = "kluis backup 1";

    memcpy(head, "KLUISBAK", 8);
    kl_put_be32(head + 8, 1);
    kl_put_be32(head + 12, 1);
    kl_put_be64(head + 16, n->total);
    kl_put_be32(head + 24, n->chunks);
    kl_put_be32(head + 28, n->versions);
    memcpy(head + 64, ring->geography_root_id, KL_ID_LEN);
    memcpy(head + 112, geography, strlen(geography));
    memcpy(head + 176, subscription, strlen(subscription));
    memcpy(head + 212, "name", 4);
    memcpy(info + 14, head + 112, 64 + 36);
    must(kl_hkdf(kl_bytes_of(ring->secrets->geography_root, KL_KEY_LEN), kl_bytes_of(head + 80, 32),
                 kl_bytes_of(info, sizeof info), keys, 2 * KL_KEY_LEN));
    must(kl_aead_seal(ring->cipher, keys, nonce, kl_bytes_of(head, AT_TAG), kl_bytes_of(NULL, 0),
                      NULL, head + AT_TAG));
}

/* An authentic blob of the given numbers around any plaintext. */
static void forge(struct kl_keyring *ring, const struct numbers *n, struct kl_bytes plain)
{
    struct kl_buf blob = KL_BUF(2 * PLAIN_MAX);
    uint8_t head[HEAD_LEN] = {0};
    uint8_t keys[2 * KL_KEY_LEN];

    make_head(ring, n, head, keys);
    must(kl_buf_put(&blob, head, sizeof head));
    for (uint32_t i = 0; plain.len != 0; i++) {
        size_t len = plain.len < KL_BLOB_CHUNK_MAX ? plain.len : KL_BLOB_CHUNK_MAX;
        bool final = i + 1 == n->chunks;
        uint8_t nonce[KL_NONCE_LEN];
        uint8_t aad[KL_TAG_LEN + 9];
        uint8_t *to;

        kl_put_be32(nonce, final);
        kl_put_be64(nonce + 4, i);
        memcpy(aad, head + AT_TAG, KL_TAG_LEN);
        kl_put_be32(aad + 16, i);
        kl_put_be32(aad + 20, n->chunks);
        aad[24] = final;
        must(kl_buf_grow(&blob, len + KL_TAG_LEN, &to));
        must(kl_aead_seal(ring->cipher, keys + KL_KEY_LEN, nonce, kl_bytes_of(aad, sizeof aad),
                          kl_bytes_of(plain.ptr, len), to, to + len));
        plain.ptr += len;
        plain.len -= len;
    }
    read_blob(ring, kl_buf_bytes(&blob));
    kl_buf_wipe(&blob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct kl_keyring *ring;
    struct numbers n;
    size_t used = 5;

    if (ring == NULL) {
        ring = ring_new();
    }
    if (size < 17 || data[0] == 0 || size > PLAIN_MAX) {
        read_blob(ring, kl_bytes_of(data + (size == 0 ? 0 : 1), size == 0 ? 0 : size - 1));
        return 0;
    }
    n.versions = kl_get_be32(data + 1);
    if (data[0] == 1) {
        n.chunks = (uint32_t)((size - used + KL_BLOB_CHUNK_MAX - 1) / KL_BLOB_CHUNK_MAX);
        n.total = HEAD_LEN + (size - used) + (uint64_t)n.chunks * KL_TAG_LEN;
    } else {
        n.chunks = kl_get_be32(data + 5);
        n.total = kl_get_be64(data + 9);
        used = 17;
    }
    forge(ring, &n, kl_bytes_of(data + used, size - used));
    return 0;
}
