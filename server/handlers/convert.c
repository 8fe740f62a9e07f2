#include "server/handlers/parts.h"

#include <assert.h>

void *kl_pb_new(const ProtobufCMessageDescriptor *descriptor)
{
    ProtobufCMessage *message = kl_calloc(1, descriptor->sizeof_message);

    if (message != NULL) {
        protobuf_c_message_init(descriptor, message);
    }
    return message;
}

enum kl_status kl_pb_string(char **slot, const char *text)
{
    char *copy;

    if (text == NULL || text[0] == 0) {
        return KL_OK; /* stays protobuf-c's static empty string */
    }
    copy = kl_strdup(text);
    if (copy == NULL) {
        return KL_NO_MEMORY;
    }
    *slot = copy;
    return KL_OK;
}

enum kl_status kl_pb_copy(ProtobufCBinaryData *slot, struct kl_bytes bytes)
{
    uint8_t *copy;

    if (bytes.len == 0) {
        return KL_OK;
    }
    copy = kl_malloc(bytes.len);
    if (copy == NULL) {
        return KL_NO_MEMORY;
    }
    memcpy(copy, bytes.ptr, bytes.len);
    *slot = (ProtobufCBinaryData){bytes.len, copy};
    return KL_OK;
}

enum kl_status kl_pb_hex(char **slot, const ProtobufCBinaryData *id)
{
    char text[KL_ID_HEX_LEN + 1];

    if (id->len == 0) {
        return KL_OK;
    }
    if (id->len != KL_ID_LEN) {
        return KL_CORRUPT;
    }
    kl_hex_encode(id->data, id->len, text);
    return kl_pb_string(slot, text);
}

void *kl_response(struct kl_call *call)
{
    if (call->response == NULL) {
        call->response = kl_pb_new(call->route->response);
    }
    return call->response;
}

enum kl_status kl_respond(struct kl_call *call, const char *field, void *message)
{
    ProtobufCMessage *response = kl_response(call);
    const ProtobufCFieldDescriptor *f =
        protobuf_c_message_descriptor_get_field_by_name(call->route->response, field);

    assert(f != NULL && f->type == PROTOBUF_C_TYPE_MESSAGE &&
           f->label != PROTOBUF_C_LABEL_REPEATED &&
           ((ProtobufCMessage *)message)->descriptor == f->descriptor);
    if (response == NULL) {
        kl_pb_wipe_free(message, &kl_pb_allocator);
        return KL_NO_MEMORY;
    }
    memcpy((uint8_t *)response + f->offset, &message, sizeof message);
    return KL_OK;
}

static enum kl_status copy_tags(size_t n, Kluis__Store__Tag *const *from, size_t *n_out,
                                Kluis__V1__Tag ***out)
{
    Kluis__V1__Tag **tags;

    if (n == 0) {
        return KL_OK;
    }
    tags = kl_calloc(n, sizeof(Kluis__V1__Tag *));
    if (tags == NULL) {
        return KL_NO_MEMORY;
    }
    *out = tags; /* the owner frees what is there, also after a failure */
    for (size_t i = 0; i < n; i++) {
        tags[i] = kl_pb_new(&kluis__v1__tag__descriptor);
        if (tags[i] == NULL) {
            return KL_NO_MEMORY;
        }
        *n_out = i + 1;
        if (kl_pb_string(&tags[i]->key, from[i]->key) != KL_OK ||
            kl_pb_string(&tags[i]->value, from[i]->value) != KL_OK) {
            return KL_NO_MEMORY;
        }
    }
    return KL_OK;
}

static enum kl_status fill_vault(const Kluis__Store__VaultRecord *r, Kluis__V1__Vault *v)
{
    enum kl_status st = kl_pb_string(&v->name, r->name);

    if (st == KL_OK) {
        st = kl_pb_hex(&v->id, &r->vault_id);
    }
    if (st == KL_OK) {
        st = kl_pb_string(&v->subscription, r->subscription);
    }
    if (st == KL_OK) {
        st = kl_pb_string(&v->resource_group, r->resource_group);
    }
    if (st == KL_OK) {
        st = kl_pb_string(&v->location, r->location);
    }
    if (st == KL_OK) {
        st = copy_tags(r->n_tags, r->tags, &v->n_tags, &v->tags);
    }
    v->retention_days = r->retention_days;
    v->purge_protection = r->purge_protection;
    v->created_ms = r->created_ms;
    v->updated_ms = r->updated_ms;
    v->deleted_ms = r->deleted_ms;
    v->scheduled_purge_ms = r->purge_ms;
    return st;
}

enum kl_status kl_vault_message(const Kluis__Store__VaultRecord *record, Kluis__V1__Vault **out)
{
    Kluis__V1__Vault *v = kl_pb_new(&kluis__v1__vault__descriptor);
    enum kl_status st = v == NULL ? KL_NO_MEMORY : fill_vault(record, v);

    if (st != KL_OK) {
        kl_pb_wipe_free((ProtobufCMessage *)v, &kl_pb_allocator);
        return st;
    }
    *out = v;
    return KL_OK;
}

static enum kl_status fill_attributes(const struct kl_vault_facts *facts,
                                      const Kluis__Store__VersionMeta *meta, Kluis__V1__Secret *s)
{
    Kluis__V1__Attributes *a = kl_pb_new(&kluis__v1__attributes__descriptor);

    if (a == NULL) {
        return KL_NO_MEMORY;
    }
    s->attributes = a;
    if (meta != NULL && meta->attributes != NULL) {
        a->enabled = meta->attributes->enabled;
        a->not_before_s = meta->attributes->not_before_s;
        a->expires_s = meta->attributes->expires_s;
        a->created_ms = meta->attributes->created_ms;
        a->updated_ms = meta->attributes->updated_ms;
    }
    if (facts == NULL || facts->retention_days == 0) {
        return KL_OK;
    }
    a->recoverable_days = facts->retention_days;
    return kl_pb_string(&a->recovery_level,
                        facts->purge_protection ? "Recoverable" : "Recoverable+Purgeable");
}

static enum kl_status fill_secret(const char *vault, const char *name,
                                  const Kluis__Store__VersionMeta *meta,
                                  const Kluis__Store__ObjectRecord *object, Kluis__V1__Secret *s)
{
    enum kl_status st = kl_pb_string(&s->vault, vault);

    if (st == KL_OK) {
        st = kl_pb_string(&s->name, name);
    }
    if (st == KL_OK && meta != NULL) {
        st = kl_pb_hex(&s->version, &meta->version_id);
    }
    if (st == KL_OK && meta != NULL) {
        st = kl_pb_string(&s->content_type, meta->content_type);
    }
    if (st == KL_OK && meta != NULL) {
        st = copy_tags(meta->n_tags, meta->tags, &s->n_tags, &s->tags);
    }
    if (object != NULL) {
        s->deleted_ms = object->deleted_ms;
        s->scheduled_purge_ms = object->purge_ms;
    }
    return st;
}

enum kl_status kl_secret_message(const struct kl_vault_facts *facts, const char *vault,
                                 const char *name, const Kluis__Store__VersionMeta *meta,
                                 const Kluis__Store__ObjectRecord *object, Kluis__V1__Secret **out)
{
    Kluis__V1__Secret *s = kl_pb_new(&kluis__v1__secret__descriptor);
    enum kl_status st = s == NULL ? KL_NO_MEMORY : fill_secret(vault, name, meta, object, s);

    if (st == KL_OK) {
        st = fill_attributes(facts, meta, s);
    }
    if (st != KL_OK) {
        kl_pb_wipe_free((ProtobufCMessage *)s, &kl_pb_allocator);
        return st;
    }
    *out = s;
    return KL_OK;
}

enum kl_status kl_read_vault(struct kl_call *call, const char *name, enum kl_want want,
                             Kluis__Store__VaultRecord **out)
{
    enum kl_status st = kl_core_vault(&call->read->view, name, want, out);

    return st == KL_VAULT_NOT_FOUND
               ? kl_call_field(call, st, call->route->key_field,
                               want == KL_WANT_DELETED ? "no deleted vault has this name"
                                                       : "no vault has this name")
               : st;
}
