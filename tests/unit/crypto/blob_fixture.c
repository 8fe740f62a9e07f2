#include "tests/unit/crypto/blob_fixture.h"

#include "common/alloc.h"

struct kl_blob_head blob_head(const char *name, uint32_t versions)
{
    struct kl_blob_head head = {
        .geography = GEOGRAPHY,
        .subscription = SUBSCRIPTION,
        .kind = SECRET_KIND,
        .version_count = versions,
        .applied_index = 77,
        .created_ms = 1700000000123,
        .current_version = {1, 2, 3},
    };

    (void)snprintf(head.name, sizeof head.name, "%s", name);
    return head;
}

static void payload_of(uint32_t version, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(i * 31 + version * 7 + (i >> 8));
    }
}

static enum kl_status add_version(struct kl_blob_writer *w, uint32_t version, size_t payload_len)
{
    uint8_t id[KL_ID_LEN] = {0};
    char type[] = "text/plain";
    char key[] = "owner";
    char value[] = "ops";
    struct kl_buf payload = KL_BUF(KL_BLOB_MAX);
    Kluis__Store__Attributes attributes = KLUIS__STORE__ATTRIBUTES__INIT;
    Kluis__Store__Tag tag = KLUIS__STORE__TAG__INIT;
    Kluis__Store__Tag *tags[] = {&tag};
    Kluis__Store__VersionMeta meta = KLUIS__STORE__VERSION_META__INIT;
    enum kl_status st;
    uint8_t *p;

    kl_put_be32(id, version);
    attributes.enabled = version % 2;
    attributes.created_ms = 1000 + version;
    tag.key = key;
    tag.value = value;
    meta.version_id = (ProtobufCBinaryData){sizeof id, id};
    meta.attributes = &attributes;
    meta.content_type = type;
    meta.tags = tags;
    meta.n_tags = 1;
    st = kl_buf_grow(&payload, payload_len, &p);
    if (st == KL_OK) {
        payload_of(version, p, payload_len);
        st = kl_blob_writer_add(w, &(struct kl_blob_version){&meta, kl_buf_bytes(&payload)});
    }
    kl_buf_wipe(&payload);
    return st;
}

enum kl_status blob_make(struct kl_keyring *ring, const struct kl_blob_head *head,
                         size_t payload_len, struct kl_buf *out)
{
    struct kl_blob_writer *w = NULL;
    enum kl_status st = kl_blob_writer_new(ring, head, &w);

    for (uint32_t i = 0; st == KL_OK && i < head->version_count; i++) {
        st = add_version(w, i, payload_len);
    }
    if (st == KL_OK) {
        st = kl_blob_writer_finish(w, out);
    }
    kl_blob_writer_free(w);
    return st;
}

static void check_head(const struct kl_blob_head *a, const struct kl_blob_head *b)
{
    CHECK_STR(a->geography, b->geography);
    CHECK_STR(a->subscription, b->subscription);
    CHECK_STR(a->name, b->name);
    CHECK_EQ(a->kind, b->kind);
    CHECK_EQ(a->version_count, b->version_count);
    CHECK_EQ(a->applied_index, b->applied_index);
    CHECK_EQ(a->created_ms, b->created_ms);
    CHECK_MEM(a->current_version, b->current_version, KL_ID_LEN);
}

static enum kl_status check_next(struct kl_blob_reader *r, uint32_t version, size_t payload_len)
{
    struct kl_buf payload = KL_BUF(KL_BLOB_MAX);
    struct kl_buf want = KL_BUF(KL_BLOB_MAX);
    Kluis__Store__VersionMeta *meta = NULL;
    enum kl_status st = kl_blob_reader_next(r, &meta, &payload);
    uint8_t *p;

    if (st == KL_OK) {
        st = kl_buf_grow(&want, payload_len, &p);
    }
    if (st == KL_OK) {
        payload_of(version, p, payload_len);
        CHECK_EQ(payload.len, payload_len);
        CHECK_MEM(payload.ptr, want.ptr, payload_len);
        CHECK_EQ(kl_get_be32(meta->version_id.data), version);
        CHECK_EQ(meta->attributes->enabled, version % 2);
        CHECK_EQ(meta->attributes->created_ms, 1000 + version);
        CHECK_STR(meta->content_type, "text/plain");
        CHECK_EQ(meta->n_tags, 1);
        CHECK_STR(meta->tags[0]->value, "ops");
    }
    kl_pb_wipe_free((ProtobufCMessage *)meta, &kl_pb_allocator);
    kl_buf_wipe(&payload);
    kl_buf_wipe(&want);
    return st;
}

enum kl_status blob_check(struct kl_keyring *ring, struct kl_bytes blob,
                          const struct kl_blob_head *head, size_t payload_len)
{
    struct kl_blob_reader *r = NULL;
    struct kl_buf payload = KL_BUF(16);
    Kluis__Store__VersionMeta *meta = NULL;
    enum kl_status st = kl_blob_reader_new(ring, blob, GEOGRAPHY, SUBSCRIPTION, SECRET_KIND, &r);

    if (st == KL_OK) {
        check_head(kl_blob_reader_head(r), head);
    }
    for (uint32_t i = 0; st == KL_OK && i < head->version_count; i++) {
        st = check_next(r, i, payload_len);
    }
    if (st == KL_OK) {
        CHECK_STATUS(kl_blob_reader_next(r, &meta, &payload), KL_NOT_FOUND);
        CHECK(meta == NULL);
    }
    kl_blob_reader_free(r);
    return st;
}
