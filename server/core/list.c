/*
 * Lists. Live things are found by walking the records and leaving out the deleted ones; deleted
 * things by walking their index, so that a list of few deleted ones among many costs little.
 */
#include "server/core/query.h"

#include "common/alloc.h"
#include "common/names.h"

#include <assert.h>

/* Calls fn with a record of one of three types; which one follows from the descriptor. */
struct walk {
    const struct kl_view *view;
    const ProtobufCMessageDescriptor *descriptor;
    char index; /* family of the record that an index entry stands for; 0: values are records */
    size_t name_at;
    enum kl_want want;
    enum kl_status st;
    bool (*call)(struct walk *w, const char *name, void *record);
    union {
        kl_vault_fn vault;
        kl_object_fn object;
        kl_outbox_fn outbox;
        kl_node_fn node;
    } fn;
    void *arg;
};

/* The record of an index entry: the same key in another family. KL_NOT_FOUND: removed meanwhile,
 * when the view is not a snapshot. */
static enum kl_status follow(struct walk *w, struct kl_bytes key, void *out)
{
    struct kl_key record = {.len = key.len};

    if (key.len > sizeof record.bytes) {
        return KL_CORRUPT;
    }
    memcpy(record.bytes, key.ptr, key.len);
    record.bytes[0] = (uint8_t)w->index;
    return kl_query_load(w->view, record, w->descriptor, out);
}

static bool visit(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct walk *w = arg;
    ProtobufCMessage *record = NULL;
    bool more = true;

    if (w->name_at != 0 && (key.len <= w->name_at || key.ptr[key.len - 1] != 0)) {
        w->st = KL_CORRUPT;
        return false;
    }
    w->st =
        w->index != 0 ? follow(w, key, &record) : kl_query_unpack(w->descriptor, value, &record);
    if (w->st == KL_NOT_FOUND) {
        w->st = KL_OK;
        return true;
    }
    if (w->st != KL_OK) {
        return false;
    }
    more = w->call(w, w->name_at == 0 ? NULL : (const char *)key.ptr + w->name_at, record);
    kl_pb_wipe_free(record, &kl_pb_allocator);
    return more && w->st == KL_OK;
}

static enum kl_status walk(struct walk *w, struct kl_key from, struct kl_key prefix)
{
    struct kl_key to = kl_key_prefix_end(&prefix);
    enum kl_status st;

    st = w->view->scan(w->view->ctx, kl_key_bytes(&from), kl_key_bytes(&to), visit, w);
    return st != KL_OK ? st : w->st;
}

static bool call_vault(struct walk *w, const char *name, void *record)
{
    const Kluis__Store__VaultRecord *vault = record;

    (void)name;
    return !kl_query_wanted(w->want, vault->deleted_ms) || w->fn.vault(w->arg, vault);
}

enum kl_status kl_core_vaults(const struct kl_view *view, enum kl_want want, const char *after,
                              kl_vault_fn fn, void *arg)
{
    struct walk w = {.view = view,
                     .descriptor = &kluis__store__vault_record__descriptor,
                     .index = want == KL_WANT_DELETED ? 'v' : 0,
                     .want = want,
                     .call = call_vault,
                     .fn = {.vault = fn},
                     .arg = arg};
    struct kl_key prefix = kl_key_family(want == KL_WANT_DELETED ? 'u' : 'v');
    struct kl_key from = prefix;

    assert(want != KL_WANT_ANY);
    if (after[0] != 0) {
        if (kl_vault_name_check(after, NULL) != KL_OK) {
            return KL_INVALID_ARGUMENT;
        }
        from = want == KL_WANT_DELETED ? kl_key_vault_deleted(after) : kl_key_vault(after);
        from = kl_key_prefix_end(&from);
    }
    return walk(&w, from, prefix);
}

static bool call_object(struct walk *w, const char *name, void *record)
{
    const Kluis__Store__ObjectRecord *object = record;

    return !kl_query_wanted(w->want, object->deleted_ms) || w->fn.object(w->arg, name, object);
}

enum kl_status kl_core_objects(const struct kl_view *view, struct kl_bytes vault_id, uint32_t kind,
                               enum kl_want want, const char *after, kl_object_fn fn, void *arg)
{
    struct walk w = {.view = view,
                     .descriptor = &kluis__store__object_record__descriptor,
                     .index = want == KL_WANT_DELETED ? 's' : 0,
                     .name_at = 1 + KL_ID_LEN + 1,
                     .want = want,
                     .call = call_object,
                     .fn = {.object = fn},
                     .arg = arg};
    bool deleted = want == KL_WANT_DELETED;
    struct kl_key prefix;
    struct kl_key from;

    assert(want != KL_WANT_ANY);
    if (vault_id.len != KL_ID_LEN || kind > KL_KIND_CERTIFICATE) {
        return KL_INVALID_ARGUMENT;
    }
    prefix =
        deleted ? kl_key_objects_deleted_of(vault_id, kind) : kl_key_objects_of(vault_id, kind);
    from = prefix;
    if (after[0] != 0) {
        if (kl_object_name_check(after, NULL) != KL_OK) {
            return KL_INVALID_ARGUMENT;
        }
        from = deleted ? kl_key_object_deleted(vault_id, kind, after)
                       : kl_key_object(vault_id, kind, after);
        from = kl_key_prefix_end(&from);
    }
    return walk(&w, from, prefix);
}

struct versions {
    const struct kl_view *view;
    enum kl_status st;
    kl_version_fn fn;
    void *arg;
};

static bool visit_version(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct versions *v = arg;
    Kluis__Store__VersionRecord *version = NULL;
    bool more;

    (void)key;
    v->st = kl_query_version(v->view, value, &version);
    if (v->st == KL_NOT_FOUND) {
        v->st = KL_OK;
        return true;
    }
    if (v->st != KL_OK) {
        return false;
    }
    more = v->fn(v->arg, version);
    kl_pb_wipe_free(&version->base, &kl_pb_allocator);
    return more;
}

enum kl_status kl_core_versions(const struct kl_view *view, struct kl_bytes object_id,
                                struct kl_bytes after, kl_version_fn fn, void *arg)
{
    struct versions v = {.view = view, .st = KL_OK, .fn = fn, .arg = arg};
    struct kl_key prefix;
    struct kl_key from;
    struct kl_key to;
    enum kl_status st;

    if (object_id.len != KL_ID_LEN || (after.len != 0 && after.len != KL_ID_LEN)) {
        return KL_INVALID_ARGUMENT;
    }
    prefix = kl_key_versions_of(object_id);
    from = prefix;
    to = kl_key_prefix_end(&prefix);
    if (after.len != 0) {
        from = kl_key_version(object_id, after);
        from = kl_key_prefix_end(&from);
    }
    st = view->scan(view->ctx, kl_key_bytes(&from), kl_key_bytes(&to), visit_version, &v);
    return st != KL_OK ? st : v.st;
}

/* A pending entry's value is the claim's name; its claim is loaded by it. */
struct pending {
    const struct kl_view *view;
    enum kl_status st;
    kl_claim_fn fn;
    void *arg;
};

static bool visit_pending(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct pending *p = arg;
    Kluis__Store__ClaimRecord *claim = NULL;
    char name[KL_VAULT_NAME_MAX + 1] = {0};
    bool more;

    (void)key;
    if (value.len > KL_VAULT_NAME_MAX) {
        p->st = KL_CORRUPT;
        return false;
    }
    memcpy(name, value.ptr, value.len);
    p->st = kl_core_claim(p->view, name, &claim);
    if (p->st == KL_NOT_FOUND) {
        p->st = KL_OK;
        return true;
    }
    if (p->st != KL_OK) {
        return false;
    }
    more = claim->state != KLUIS__STORE__CLAIM_STATE__CLAIM_PENDING || p->fn(p->arg, claim);
    kl_pb_wipe_free(&claim->base, &kl_pb_allocator);
    return more;
}

enum kl_status kl_core_pending_claims(const struct kl_view *view, kl_claim_fn fn, void *arg)
{
    struct pending p = {.view = view, .st = KL_OK, .fn = fn, .arg = arg};
    struct kl_key from = kl_key_family('c');
    struct kl_key to = kl_key_prefix_end(&from);
    enum kl_status st;

    st = view->scan(view->ctx, kl_key_bytes(&from), kl_key_bytes(&to), visit_pending, &p);
    return st != KL_OK ? st : p.st;
}

static bool call_node(struct walk *w, const char *name, void *record)
{
    (void)name;
    return w->fn.node(w->arg, record);
}

enum kl_status kl_core_nodes(const struct kl_view *view, kl_node_fn fn, void *arg)
{
    struct walk w = {.view = view,
                     .descriptor = &kluis__store__node_record__descriptor,
                     .call = call_node,
                     .fn = {.node = fn},
                     .arg = arg};

    return walk(&w, kl_key_family('n'), kl_key_family('n'));
}

static bool call_outbox(struct walk *w, const char *name, void *record)
{
    (void)name;
    return w->fn.outbox(w->arg, record);
}

enum kl_status kl_core_outbox(const struct kl_view *view, kl_outbox_fn fn, void *arg)
{
    struct walk w = {.view = view,
                     .descriptor = &kluis__store__outbox_record__descriptor,
                     .call = call_outbox,
                     .fn = {.outbox = fn},
                     .arg = arg};

    return walk(&w, kl_key_family('x'), kl_key_family('x'));
}
