/*
 * Single records. The unpacked messages are the caller's.
 */
#include "server/core/query.h"

#include "common/alloc.h"
#include "common/names.h"
#include "server/core/core.h"
#include "server/core/keys.h"

/* kl_pb_allocator that remembers a failure: an unpack that failed for want of memory is not one
 * that found corruption. */
static void *noting_alloc(void *no_memory, size_t n)
{
    void *p = kl_malloc(n == 0 ? 1 : n);

    if (p == NULL) {
        *(bool *)no_memory = true;
    }
    return p;
}

static void noting_free(void *no_memory, void *p)
{
    (void)no_memory;
    kl_free(p);
}

enum kl_status kl_query_unpack(const ProtobufCMessageDescriptor *descriptor, struct kl_bytes packed,
                               void *out)
{
    bool no_memory = false;
    ProtobufCAllocator allocator = {noting_alloc, noting_free, &no_memory};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(descriptor, &allocator, packed.len, packed.ptr);

    if (message == NULL) {
        return no_memory ? KL_NO_MEMORY : KL_CORRUPT;
    }
    *(ProtobufCMessage **)out = message;
    return KL_OK;
}

enum kl_status kl_query_load(const struct kl_view *view, struct kl_key key,
                             const ProtobufCMessageDescriptor *descriptor, void *out)
{
    struct kl_buf value = KL_BUF(KL_ENTRY_MAX);
    enum kl_status st = view->get(view->ctx, kl_key_bytes(&key), &value);

    if (st == KL_OK) {
        st = kl_query_unpack(descriptor, kl_buf_bytes(&value), out);
    }
    kl_buf_wipe(&value);
    return st;
}

bool kl_query_wanted(enum kl_want want, uint64_t deleted_ms)
{
    return want == KL_WANT_ANY || (deleted_ms != 0) == (want == KL_WANT_DELETED);
}

enum kl_status kl_core_applied(const struct kl_view *view, Kluis__Store__AppliedRecord **out)
{
    return kl_query_load(view, kl_key_applied(), &kluis__store__applied_record__descriptor, out);
}

enum kl_status kl_core_group(const struct kl_view *view, Kluis__Store__GroupRecord **out)
{
    return kl_query_load(view, kl_key_group(), &kluis__store__group_record__descriptor, out);
}

enum kl_status kl_core_keyring(const struct kl_view *view, Kluis__Store__KeyringRecord **out)
{
    return kl_query_load(view, kl_key_keyring(), &kluis__store__keyring_record__descriptor, out);
}

enum kl_status kl_core_node(const struct kl_view *view, uint64_t node_id,
                            Kluis__Store__NodeRecord **out)
{
    return kl_query_load(view, kl_key_node(node_id), &kluis__store__node_record__descriptor, out);
}

enum kl_status kl_core_claim(const struct kl_view *view, const char *name,
                             Kluis__Store__ClaimRecord **out)
{
    if (kl_vault_name_check(name, NULL) != KL_OK) {
        return KL_NOT_FOUND;
    }
    return kl_query_load(view, kl_key_claim(name), &kluis__store__claim_record__descriptor, out);
}

enum kl_status kl_core_vault(const struct kl_view *view, const char *name, enum kl_want want,
                             Kluis__Store__VaultRecord **out)
{
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st;

    if (kl_vault_name_check(name, NULL) != KL_OK) {
        return KL_VAULT_NOT_FOUND;
    }
    st = kl_query_load(view, kl_key_vault(name), &kluis__store__vault_record__descriptor, &vault);
    if (st != KL_OK) {
        return st == KL_NOT_FOUND ? KL_VAULT_NOT_FOUND : st;
    }
    if (!kl_query_wanted(want, vault->deleted_ms)) {
        kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
        return KL_VAULT_NOT_FOUND;
    }
    *out = vault;
    return KL_OK;
}

enum kl_status kl_core_object(const struct kl_view *view, struct kl_bytes vault_id, uint32_t kind,
                              const char *name, enum kl_want want, Kluis__Store__ObjectRecord **out)
{
    Kluis__Store__ObjectRecord *object = NULL;
    enum kl_status st;

    if (vault_id.len != KL_ID_LEN || kind > KL_KIND_CERTIFICATE ||
        kl_object_name_check(name, NULL) != KL_OK) {
        return KL_NOT_FOUND;
    }
    st = kl_query_load(view, kl_key_object(vault_id, kind, name),
                       &kluis__store__object_record__descriptor, &object);
    if (st != KL_OK) {
        return st;
    }
    if (!kl_query_wanted(want, object->deleted_ms)) {
        kl_pb_wipe_free(&object->base, &kl_pb_allocator);
        return KL_NOT_FOUND;
    }
    *out = object;
    return KL_OK;
}

enum kl_status kl_query_version(const struct kl_view *view, struct kl_bytes position,
                                Kluis__Store__VersionRecord **out)
{
    Kluis__Store__VersionRecord *version = NULL;
    struct kl_key record;
    enum kl_status st;

    if (!kl_key_at(position, &record)) {
        return KL_CORRUPT;
    }
    st = kl_query_load(view, record, &kluis__store__version_record__descriptor, &version);
    if (st != KL_OK) {
        return st;
    }
    if (version->meta == NULL || version->meta->attributes == NULL) {
        kl_pb_wipe_free(&version->base, &kl_pb_allocator);
        return KL_CORRUPT; /* callers need not look */
    }
    *out = version;
    return KL_OK;
}

enum kl_status kl_core_version(const struct kl_view *view, struct kl_bytes object_id,
                               struct kl_bytes version_id, Kluis__Store__VersionRecord **out)
{
    struct kl_buf position = KL_BUF(KL_KEY_MAX);
    struct kl_key key;
    enum kl_status st;

    if (object_id.len != KL_ID_LEN || version_id.len != KL_ID_LEN) {
        return KL_NOT_FOUND;
    }
    key = kl_key_version(object_id, version_id);
    st = view->get(view->ctx, kl_key_bytes(&key), &position);
    if (st == KL_OK) {
        st = kl_query_version(view, kl_buf_bytes(&position), out);
    }
    kl_buf_wipe(&position);
    return st;
}

enum kl_status kl_core_request(const struct kl_view *view, struct kl_bytes request_id,
                               Kluis__Store__RequestRecord **out)
{
    if (request_id.len != KL_ID_LEN) {
        return KL_NOT_FOUND;
    }
    return kl_query_load(view, kl_key_request(request_id),
                         &kluis__store__request_record__descriptor, out);
}
