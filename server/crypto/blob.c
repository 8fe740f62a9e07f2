/*
 * A backup blob, format 1. Integers are big-endian; texts are padded with zeros.
 *
 *   offset  size  field
 *        0     8  "KLUISBAK"
 *        8     4  format: 1
 *       12     4  kind of the object
 *       16     8  bytes of the whole blob
 *       24     4  number of chunks, c
 *       28     4  number of versions
 *       32     8  applied index of the read it was made from
 *       40     8  creation of the object, Unix milliseconds
 *       48    16  id of the current version
 *       64    16  fingerprint of the geography root
 *       80    32  salt, random
 *      112    64  geography
 *      176    36  subscription, lower case
 *      212   128  name of the object
 *      340    16  tag over bytes 0..339
 *      356        c chunks: ciphertext, then a tag of 16; all of KL_BLOB_CHUNK_MAX plaintext bytes
 *                 but the last, which has what is left (at least one)
 *
 * Inside the chunks, one after the other, for every version:
 *
 *        0     4  bytes of the packed VersionMeta, m
 *        4     4  bytes of the payload, p
 *        8   m+p  VersionMeta, payload
 *
 * Keys. HKDF-SHA256 (key: the geography root; salt: the salt; info: "kluis backup 1", then the
 * geography and the subscription, both padded as in the head) gives 64 bytes: a key for the head and a
 * key for the chunks, both for AES-256-GCM. The salt makes them new for every blob, so nonces are
 * counted: 0 for the head; for a chunk 0x00000001 when it is the last, else 0, then its index in 8
 * bytes. A chunk's associated data is the head's tag, its index (4), the count (4) and 1 or 0 for the
 * final mark: no chunk fits another place, another count or another blob.
 *
 * Rules for the reader. Everything in the head has a fixed place, so nothing has to be believed to
 * find its tag. The keys come from the geography and the subscription the head names: when these were
 * changed the tag does not fit (tampered), when they are foreign but real it fits and they can be
 * told so. Sizes are believed once the head is authentic, and the plaintext once every chunk is.
 */
#include "server/crypto/blob.h"

#include "common/alloc.h"
#include "common/names.h"
#include "server/crypto/ring.h"

#include <assert.h>
#include <ctype.h>

enum {
    FORMAT = 1,
    MAGIC_LEN = 8,
    SALT_LEN = 32,
    AT_FORMAT = 8,
    AT_KIND = 12,
    AT_TOTAL = 16,
    AT_CHUNKS = 24,
    AT_VERSIONS = 28,
    AT_INDEX = 32,
    AT_CREATED = 40,
    AT_CURRENT = 48,
    AT_ROOT_ID = 64,
    AT_SALT = 80,
    AT_GEOGRAPHY = 112,
    AT_SUBSCRIPTION = 176,
    AT_NAME = 212,
    AT_TAG = 340,
    HEAD_LEN = AT_TAG + KL_TAG_LEN,
    GEOGRAPHY_LEN = AT_SUBSCRIPTION - AT_GEOGRAPHY,
    SUBSCRIPTION_LEN = AT_NAME - AT_SUBSCRIPTION,
    NAME_LEN = AT_TAG - AT_NAME,
    CHUNK_AAD_LEN = KL_TAG_LEN + 9,
    VERSION_HEAD_LEN = 8,
};

static_assert(GEOGRAPHY_LEN >= KL_LOCATION_MAX && NAME_LEN >= KL_OBJECT_NAME_MAX,
              "names fit their places");

static const char magic[] = "KLUISBAK";
static const char key_info[] = "kluis backup 1";

struct blob_keys {
    uint8_t head[KL_KEY_LEN];
    uint8_t chunks[KL_KEY_LEN];
};

struct kl_blob_writer {
    struct kl_keyring *ring;
    struct kl_blob_head head;
    uint32_t added;
    struct kl_buf plain;
};

struct kl_blob_reader {
    struct kl_blob_head head;
    struct kl_buf plain; /* all chunks, authenticated */
    size_t at;           /* of the next version */
};

/* ---- both directions ---- */

static enum kl_status derive(const struct kl_keyring *ring, const uint8_t head[HEAD_LEN],
                             struct blob_keys *keys)
{
    uint8_t info[sizeof key_info - 1 + GEOGRAPHY_LEN + SUBSCRIPTION_LEN];

    memcpy(info, key_info, sizeof key_info - 1);
    memcpy(info + sizeof key_info - 1, head + AT_GEOGRAPHY, GEOGRAPHY_LEN + SUBSCRIPTION_LEN);
    static_assert(sizeof *keys == (size_t)2 * KL_KEY_LEN, "no padding between the keys");
    return kl_hkdf(kl_bytes_of(ring->secrets->geography_root, KL_KEY_LEN),
                   kl_bytes_of(head + AT_SALT, SALT_LEN), kl_bytes_of(info, sizeof info),
                   keys->head, sizeof *keys);
}

static void chunk_binding(const uint8_t *head, uint32_t index, uint32_t count,
                          uint8_t nonce[KL_NONCE_LEN], uint8_t aad[CHUNK_AAD_LEN])
{
    bool final = index + 1 == count;

    kl_put_be32(nonce, final ? 1 : 0);
    kl_put_be64(nonce + 4, index);
    memcpy(aad, head + AT_TAG, KL_TAG_LEN);
    kl_put_be32(aad + KL_TAG_LEN, index);
    kl_put_be32(aad + KL_TAG_LEN + 4, count);
    aad[KL_TAG_LEN + 8] = final ? 1 : 0;
}

static size_t chunk_count(size_t plain_len)
{
    return (plain_len + KL_BLOB_CHUNK_MAX - 1) / KL_BLOB_CHUNK_MAX;
}

static size_t blob_len(size_t plain_len)
{
    return HEAD_LEN + plain_len + chunk_count(plain_len) * KL_TAG_LEN;
}

static void lower(char *text)
{
    for (; *text != '\0'; text++) {
        *text = (char)tolower((unsigned char)*text);
    }
}

static bool names_valid(const struct kl_blob_head *head)
{
    return kl_location_check(head->geography, NULL) == KL_OK &&
           kl_subscription_check(head->subscription, NULL) == KL_OK &&
           kl_object_name_check(head->name, NULL) == KL_OK;
}

/* What every restore relies on. */
static bool meta_is_whole(const Kluis__Store__VersionMeta *meta)
{
    return meta->version_id.len == KL_ID_LEN && meta->attributes != NULL;
}

/* ---- writer ---- */

enum kl_status kl_blob_writer_new(struct kl_keyring *ring, const struct kl_blob_head *head,
                                  struct kl_blob_writer **out)
{
    struct kl_blob_writer *w;

    if (!names_valid(head) || head->version_count == 0) {
        return KL_INVALID_ARGUMENT;
    }
    w = kl_calloc(1, sizeof *w);
    if (w == NULL) {
        return KL_NO_MEMORY;
    }
    w->ring = ring;
    w->head = *head;
    lower(w->head.subscription);
    w->plain = KL_BUF(KL_BLOB_MAX);
    *out = w;
    return KL_OK;
}

enum kl_status kl_blob_writer_add(struct kl_blob_writer *w, const struct kl_blob_version *version)
{
    size_t meta_len = kluis__store__version_meta__get_packed_size(version->meta);
    enum kl_status st;
    uint8_t *p;

    if (w->added == w->head.version_count) {
        return KL_INTERNAL;
    }
    if (!meta_is_whole(version->meta)) {
        return KL_CORRUPT; /* better no backup than one that cannot be restored */
    }
    if (meta_len > KL_RECORD_MAX || version->payload.len > KL_BLOB_MAX ||
        blob_len(w->plain.len + VERSION_HEAD_LEN + meta_len + version->payload.len) > KL_BLOB_MAX) {
        return KL_TOO_LARGE;
    }
    st = kl_buf_grow(&w->plain, VERSION_HEAD_LEN + meta_len + version->payload.len, &p);
    if (st != KL_OK) {
        return st;
    }
    kl_put_be32(p, (uint32_t)meta_len);
    kl_put_be32(p + 4, (uint32_t)version->payload.len);
    p += VERSION_HEAD_LEN;
    p += kluis__store__version_meta__pack(version->meta, p);
    if (version->payload.len != 0) {
        memcpy(p, version->payload.ptr, version->payload.len);
    }
    w->added++;
    return KL_OK;
}

/* Everything but the tag. */
static enum kl_status put_head(const struct kl_blob_writer *w, uint8_t head[HEAD_LEN])
{
    kl_wipe(head, HEAD_LEN); /* texts are padded with zeros */
    memcpy(head, magic, MAGIC_LEN);
    kl_put_be32(head + AT_FORMAT, FORMAT);
    kl_put_be32(head + AT_KIND, w->head.kind);
    kl_put_be64(head + AT_TOTAL, blob_len(w->plain.len));
    kl_put_be32(head + AT_CHUNKS, (uint32_t)chunk_count(w->plain.len));
    kl_put_be32(head + AT_VERSIONS, w->head.version_count);
    kl_put_be64(head + AT_INDEX, w->head.applied_index);
    kl_put_be64(head + AT_CREATED, w->head.created_ms);
    memcpy(head + AT_CURRENT, w->head.current_version, KL_ID_LEN);
    memcpy(head + AT_ROOT_ID, w->ring->geography_root_id, KL_ID_LEN);
    memcpy(head + AT_GEOGRAPHY, w->head.geography, strlen(w->head.geography));
    memcpy(head + AT_SUBSCRIPTION, w->head.subscription, SUBSCRIPTION_LEN);
    memcpy(head + AT_NAME, w->head.name, strlen(w->head.name));
    return w->ring->entropy.fill(w->ring->entropy.ctx, head + AT_SALT, SALT_LEN);
}

static enum kl_status seal_chunks(const struct kl_blob_writer *w, const struct blob_keys *keys,
                                  const uint8_t *head, uint8_t *to)
{
    uint32_t count = (uint32_t)chunk_count(w->plain.len);
    struct kl_bytes rest = kl_buf_bytes(&w->plain);
    enum kl_status st = KL_OK;

    for (uint32_t i = 0; st == KL_OK && i < count; i++) {
        size_t n = rest.len < KL_BLOB_CHUNK_MAX ? rest.len : KL_BLOB_CHUNK_MAX;
        uint8_t nonce[KL_NONCE_LEN];
        uint8_t aad[CHUNK_AAD_LEN];

        chunk_binding(head, i, count, nonce, aad);
        st = kl_aead_seal(w->ring->cipher, keys->chunks, nonce, kl_bytes_of(aad, sizeof aad),
                          kl_bytes_of(rest.ptr, n), to, to + n);
        to += n + KL_TAG_LEN;
        rest.ptr += n;
        rest.len -= n;
    }
    return st;
}

enum kl_status kl_blob_writer_finish(struct kl_blob_writer *w, struct kl_buf *out)
{
    static const uint8_t nonce[KL_NONCE_LEN];
    size_t before = out->len;
    struct blob_keys keys;
    enum kl_status st;
    uint8_t *blob;

    if (w->added != w->head.version_count) {
        return KL_INTERNAL;
    }
    assert(blob_len(w->plain.len) <= KL_BLOB_MAX); /* add() saw to it */
    st = kl_buf_grow(out, blob_len(w->plain.len), &blob);
    if (st != KL_OK) {
        return st;
    }
    st = put_head(w, blob);
    if (st == KL_OK) {
        st = derive(w->ring, blob, &keys);
    }
    if (st == KL_OK) {
        st = kl_aead_seal(w->ring->cipher, keys.head, nonce, kl_bytes_of(blob, AT_TAG),
                          kl_bytes_of(NULL, 0), NULL, blob + AT_TAG);
    }
    if (st == KL_OK) {
        st = seal_chunks(w, &keys, blob, blob + HEAD_LEN);
    }
    if (st != KL_OK) {
        kl_wipe(blob, out->len - before);
        out->len = before;
    }
    kl_wipe(&keys, sizeof keys);
    return st;
}

void kl_blob_writer_free(struct kl_blob_writer *w)
{
    if (w != NULL) {
        kl_buf_wipe(&w->plain);
        kl_free(w);
    }
}

/* ---- reader ---- */

/* A padded text; false when something stands behind its end. out has room for len + 1. */
static bool get_text(const uint8_t *p, size_t len, char *out)
{
    size_t n = strnlen((const char *)p, len);

    for (size_t i = n; i < len; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    memcpy(out, p, n);
    out[n] = '\0';
    return true;
}

enum kl_status kl_blob_peek(struct kl_bytes blob, struct kl_blob_head *head)
{
    struct kl_blob_head h = {.kind = 0};
    char name[NAME_LEN + 1];
    size_t n = blob.len < MAGIC_LEN ? blob.len : MAGIC_LEN;

    if (n == 0 || !kl_bytes_eq(kl_bytes_of(blob.ptr, n), kl_bytes_of(magic, n))) {
        return KL_BLOB_MALFORMED;
    }
    if (blob.len < AT_KIND) {
        return KL_BLOB_TRUNCATED;
    }
    if (kl_get_be32(blob.ptr + AT_FORMAT) != FORMAT) {
        return KL_BLOB_FORMAT;
    }
    if (blob.len < HEAD_LEN) {
        return KL_BLOB_TRUNCATED;
    }
    if (!get_text(blob.ptr + AT_GEOGRAPHY, GEOGRAPHY_LEN, h.geography) ||
        !get_text(blob.ptr + AT_SUBSCRIPTION, SUBSCRIPTION_LEN, h.subscription) ||
        !get_text(blob.ptr + AT_NAME, NAME_LEN, name) || strlen(name) >= sizeof h.name) {
        return KL_BLOB_TAMPERED; /* no writer makes this */
    }
    memcpy(h.name, name, strlen(name) + 1);
    if (!names_valid(&h)) {
        return KL_BLOB_TAMPERED;
    }
    h.kind = kl_get_be32(blob.ptr + AT_KIND);
    h.version_count = kl_get_be32(blob.ptr + AT_VERSIONS);
    h.applied_index = kl_get_be64(blob.ptr + AT_INDEX);
    h.created_ms = kl_get_be64(blob.ptr + AT_CREATED);
    memcpy(h.current_version, blob.ptr + AT_CURRENT, KL_ID_LEN);
    *head = h;
    return KL_OK;
}

/* Checks the head's tag as if it carried our own fingerprint: a real foreign root fails here too, but
 * a blob of ours whose fingerprint alone was changed passes, and is then known for tampered. */
static enum kl_status open_head(const struct kl_keyring *ring, struct kl_bytes blob,
                                struct blob_keys *keys)
{
    static const uint8_t nonce[KL_NONCE_LEN];
    bool ours = kl_bytes_eq(kl_bytes_of(blob.ptr + AT_ROOT_ID, KL_ID_LEN),
                            kl_bytes_of(ring->geography_root_id, KL_ID_LEN));
    uint8_t head[HEAD_LEN];
    uint8_t nothing[1];
    enum kl_status st;

    memcpy(head, blob.ptr, sizeof head);
    memcpy(head + AT_ROOT_ID, ring->geography_root_id, KL_ID_LEN);
    st = derive(ring, head, keys);
    if (st != KL_OK) {
        return st;
    }
    st = kl_aead_open(ring->cipher, keys->head, nonce, kl_bytes_of(head, AT_TAG),
                      kl_bytes_of(NULL, 0), head + AT_TAG, nothing);
    if (st == KL_OK) {
        return ours ? KL_OK : KL_BLOB_TAMPERED;
    }
    return ours ? KL_BLOB_TAMPERED : KL_BLOB_GEOGRAPHY;
}

/* The head is authentic: is it for us? */
static enum kl_status check_head(const struct kl_blob_head *head, const char *geography,
                                 const char *subscription, uint32_t kind)
{
    char wanted[sizeof head->subscription] = {0};

    if (strcmp(head->geography, geography) != 0) {
        return KL_BLOB_GEOGRAPHY;
    }
    memcpy(wanted, subscription, strnlen(subscription, sizeof wanted - 1));
    lower(wanted);
    if (strlen(subscription) >= sizeof wanted || strcmp(head->subscription, wanted) != 0) {
        return KL_BLOB_SUBSCRIPTION;
    }
    return head->kind == kind ? KL_OK : KL_BLOB_KIND;
}

/* The head is authentic, so its sizes are ours: they tell a short blob from a long one. */
static enum kl_status check_sizes(struct kl_bytes blob, size_t *plain_len)
{
    uint64_t total = kl_get_be64(blob.ptr + AT_TOTAL);
    uint64_t chunks = kl_get_be32(blob.ptr + AT_CHUNKS);

    if (total > KL_BLOB_MAX || chunks == 0 || total <= HEAD_LEN + chunks * KL_TAG_LEN ||
        blob_len((size_t)(total - HEAD_LEN - chunks * KL_TAG_LEN)) != total) {
        return KL_BLOB_MALFORMED; /* authentic nonsense: another program's, with our key */
    }
    if (blob.len != total) {
        return blob.len < total ? KL_BLOB_TRUNCATED : KL_BLOB_TAMPERED;
    }
    *plain_len = (size_t)(total - HEAD_LEN - chunks * KL_TAG_LEN);
    return KL_OK;
}

static enum kl_status open_chunks(const struct kl_keyring *ring, const struct blob_keys *keys,
                                  struct kl_bytes blob, uint8_t *plain, size_t plain_len)
{
    uint32_t count = kl_get_be32(blob.ptr + AT_CHUNKS);
    const uint8_t *from = blob.ptr + HEAD_LEN;
    enum kl_status st = KL_OK;

    for (uint32_t i = 0; st == KL_OK && i < count; i++) {
        size_t n = plain_len < KL_BLOB_CHUNK_MAX ? plain_len : KL_BLOB_CHUNK_MAX;
        uint8_t nonce[KL_NONCE_LEN];
        uint8_t aad[CHUNK_AAD_LEN];

        chunk_binding(blob.ptr, i, count, nonce, aad);
        if (kl_aead_open(ring->cipher, keys->chunks, nonce, kl_bytes_of(aad, sizeof aad),
                         kl_bytes_of(from, n), from + n, plain) != KL_OK) {
            st = KL_BLOB_TAMPERED;
        }
        from += n + KL_TAG_LEN;
        plain += n;
        plain_len -= n;
    }
    return st;
}

/* One version at `at`; false when it does not lie within the plaintext. */
static bool version_at(const struct kl_buf *plain, size_t at, struct kl_bytes *meta,
                       struct kl_bytes *payload)
{
    size_t left = plain->len - at;
    size_t meta_len;
    size_t payload_len;

    if (left < VERSION_HEAD_LEN) {
        return false;
    }
    meta_len = kl_get_be32(plain->ptr + at);
    payload_len = kl_get_be32(plain->ptr + at + 4);
    left -= VERSION_HEAD_LEN;
    if (meta_len > KL_RECORD_MAX || meta_len > left || payload_len > left - meta_len) {
        return false;
    }
    *meta = kl_bytes_of(plain->ptr + at + VERSION_HEAD_LEN, meta_len);
    *payload = kl_bytes_of(plain->ptr + at + VERSION_HEAD_LEN + meta_len, payload_len);
    return true;
}

static enum kl_status check_versions(const struct kl_blob_reader *r)
{
    struct kl_bytes meta;
    struct kl_bytes payload;
    uint32_t count = 0;
    size_t at = 0;

    while (at < r->plain.len && version_at(&r->plain, at, &meta, &payload)) {
        at += VERSION_HEAD_LEN + meta.len + payload.len;
        count++;
    }
    return at == r->plain.len && count == r->head.version_count ? KL_OK : KL_BLOB_MALFORMED;
}

enum kl_status kl_blob_reader_new(struct kl_keyring *ring, struct kl_bytes blob,
                                  const char *geography, const char *subscription, uint32_t kind,
                                  struct kl_blob_reader **out)
{
    struct kl_blob_reader *r = NULL;
    struct blob_keys keys;
    struct kl_blob_head head;
    size_t plain_len = 0;
    enum kl_status st;
    uint8_t *plain;

    st = kl_blob_peek(blob, &head);
    if (st != KL_OK) {
        return st;
    }
    st = open_head(ring, blob, &keys);
    if (st == KL_OK) {
        st = check_head(&head, geography, subscription, kind);
    }
    if (st == KL_OK) {
        st = check_sizes(blob, &plain_len);
    }
    if (st != KL_OK) {
        goto out;
    }
    r = kl_calloc(1, sizeof *r);
    if (r == NULL) {
        st = KL_NO_MEMORY;
        goto out;
    }
    r->head = head;
    r->plain = KL_BUF(KL_BLOB_MAX);
    st = kl_buf_grow(&r->plain, plain_len, &plain);
    if (st == KL_OK) {
        st = open_chunks(ring, &keys, blob, plain, plain_len);
    }
    if (st == KL_OK) {
        st = check_versions(r);
    }
    if (st != KL_OK) {
        goto out;
    }
    *out = r;
    r = NULL;
out:
    kl_blob_reader_free(r);
    kl_wipe(&keys, sizeof keys);
    return st;
}

const struct kl_blob_head *kl_blob_reader_head(const struct kl_blob_reader *r)
{
    return &r->head;
}

/* protobuf-c says NULL for both no memory and no message: the allocator knows which. */
struct noting_allocator {
    ProtobufCAllocator allocator;
    bool failed;
};

static void *noting_alloc(void *data, size_t n)
{
    struct noting_allocator *a = data;
    void *p = kl_pb_allocator.alloc(kl_pb_allocator.allocator_data, n);

    a->failed = a->failed || p == NULL;
    return p;
}

static void noting_free(void *data, void *p)
{
    (void)data;
    kl_pb_allocator.free(kl_pb_allocator.allocator_data, p);
}

static enum kl_status unpack_meta(struct kl_bytes packed, Kluis__Store__VersionMeta **out)
{
    struct noting_allocator a = {.failed = false};
    Kluis__Store__VersionMeta *meta;

    a.allocator = (ProtobufCAllocator){noting_alloc, noting_free, &a};
    meta = kluis__store__version_meta__unpack(&a.allocator, packed.len, packed.ptr);
    if (meta == NULL) {
        return a.failed ? KL_NO_MEMORY : KL_BLOB_MALFORMED;
    }
    if (!meta_is_whole(meta)) {
        kluis__store__version_meta__free_unpacked(meta, &kl_pb_allocator);
        return KL_BLOB_MALFORMED;
    }
    *out = meta;
    return KL_OK;
}

enum kl_status kl_blob_reader_next(struct kl_blob_reader *r, Kluis__Store__VersionMeta **meta,
                                   struct kl_buf *payload)
{
    Kluis__Store__VersionMeta *unpacked = NULL;
    struct kl_bytes packed;
    struct kl_bytes text;
    enum kl_status st;

    if (r->at == r->plain.len) {
        return KL_NOT_FOUND;
    }
    if (!version_at(&r->plain, r->at, &packed, &text)) {
        return KL_BLOB_MALFORMED; /* cannot be: check_versions() walked it */
    }
    if (text.len > payload->max) {
        return KL_TOO_LARGE;
    }
    st = unpack_meta(packed, &unpacked);
    if (st != KL_OK) {
        return st;
    }
    kl_buf_clear(payload);
    st = kl_buf_put(payload, text.ptr, text.len);
    if (st != KL_OK) {
        kluis__store__version_meta__free_unpacked(unpacked, &kl_pb_allocator);
        return st;
    }
    r->at += VERSION_HEAD_LEN + packed.len + text.len;
    *meta = unpacked;
    return KL_OK;
}

void kl_blob_reader_free(struct kl_blob_reader *r)
{
    if (r != NULL) {
        kl_buf_wipe(&r->plain);
        kl_free(r);
    }
}
