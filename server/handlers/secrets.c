/* Secrets: reads and lists. None of them changes anything; all of them see one snapshot. */
#include "server/handlers/secrets.h"

enum kl_status kl_read_secret(struct kl_call *call, const Kluis__Store__VaultRecord *vault,
                              const char *name, enum kl_want want, Kluis__Store__ObjectRecord **out)
{
    enum kl_status st = kl_core_object(&call->read->view, kl_pb_view(vault->vault_id),
                                       KL_KIND_SECRET, name, want, out);

    return st == KL_NOT_FOUND
               ? kl_call_field(call, st, "name",
                               want == KL_WANT_DELETED ? "no deleted secret has this name"
                                                       : "no secret has this name")
               : st;
}

struct kl_vault_facts kl_facts_of(const Kluis__Store__VaultRecord *vault)
{
    return (struct kl_vault_facts){vault->retention_days, vault->purge_protection};
}

/* ---- one secret ---- */

/* Opens the payload into the message, where it stays until the reply has left. */
static enum kl_status open_value(struct kl_call *call, const Kluis__Store__VaultRecord *vault,
                                 const Kluis__Store__ObjectRecord *object,
                                 const Kluis__Store__VersionRecord *version,
                                 Kluis__V1__Secret *secret)
{
    struct kl_buf plain = KL_BUF(KL_SECRET_VALUE_MAX);
    const struct kl_identity id = {
        .vault_id = kl_pb_view(vault->vault_id),
        .object_id = kl_pb_view(object->object_id),
        .version_id = kl_pb_view(version->meta->version_id),
        .kind = KL_KIND_SECRET,
    };
    enum kl_status st =
        kl_payload_open(call->keyring, &id, kl_pb_view(vault->wrapped_key),
                        kl_pb_view(object->wrapped_key), kl_pb_view(version->sealed), &plain);

    if (st == KL_OK && plain.len != 0) {
        secret->value = (ProtobufCBinaryData){plain.len, plain.ptr}; /* moved */
        plain = KL_BUF(0);
    }
    kl_buf_wipe(&plain);
    return st;
}

static enum kl_status get_version(struct kl_call *call, const Kluis__V1__SecretGetRequest *req,
                                  const Kluis__Store__VaultRecord *vault,
                                  const Kluis__Store__ObjectRecord *object,
                                  const Kluis__Store__VersionRecord *version)
{
    const struct kl_vault_facts facts = kl_facts_of(vault);
    Kluis__V1__Secret *secret = NULL;
    enum kl_status st;

    if (version->meta == NULL || version->meta->attributes == NULL) {
        return KL_CORRUPT;
    }
    if (!version->meta->attributes->enabled) {
        return KL_DISABLED; /* expired or not yet valid is only information, as in Azure */
    }
    st = kl_secret_message(&facts, vault->name, req->name, version->meta, NULL, &secret);
    if (st != KL_OK) {
        return st;
    }
    st = open_value(call, vault, object, version, secret);
    if (st != KL_OK) {
        kl_pb_wipe_free(&secret->base, &kl_pb_allocator);
        return st;
    }
    return kl_respond(call, "secret", secret);
}

enum kl_status kl_plan_secret_get(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretGetRequest *req = (const void *)call->request;
    Kluis__Store__VaultRecord *vault = NULL;
    Kluis__Store__ObjectRecord *object = NULL;
    Kluis__Store__VersionRecord *version = NULL;
    uint8_t id[KL_ID_LEN];
    bool given;
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    plan->step = KL_STEP_REPLY;
    if (st == KL_OK) {
        st = kl_field_version(call, req->version, id, &given);
    }
    if (st != KL_OK) {
        return st;
    }
    st = kl_read_vault(call, req->vault, KL_WANT_LIVE, &vault);
    if (st == KL_OK) {
        st = kl_read_secret(call, vault, req->name, KL_WANT_LIVE, &object);
    }
    if (st == KL_OK) {
        st = kl_core_version(
            &call->read->view, kl_pb_view(object->object_id),
            given ? kl_bytes_of(id, KL_ID_LEN) : kl_pb_view(object->current_version), &version);
        if (st == KL_NOT_FOUND) {
            st = given ? kl_call_field(call, st, "version", "no such version of this secret")
                       : KL_CORRUPT;
        }
    }
    if (st == KL_OK) {
        st = get_version(call, req, vault, object, version);
    }
    kl_pb_wipe_free((ProtobufCMessage *)version, &kl_pb_allocator);
    kl_pb_wipe_free((ProtobufCMessage *)object, &kl_pb_allocator);
    kl_pb_wipe_free((ProtobufCMessage *)vault, &kl_pb_allocator);
    return st;
}

/* A secret with the attributes of its current version and without its value. */
static enum kl_status current(struct kl_call *call, const Kluis__Store__VaultRecord *vault,
                              const char *name, const Kluis__Store__ObjectRecord *object,
                              Kluis__V1__Secret **out)
{
    const struct kl_vault_facts facts = kl_facts_of(vault);
    Kluis__Store__VersionRecord *version = NULL;
    enum kl_status st = kl_core_version(&call->read->view, kl_pb_view(object->object_id),
                                        kl_pb_view(object->current_version), &version);

    if (st == KL_OK) {
        st = kl_secret_message(&facts, vault->name, name, version->meta, object, out);
    }
    kl_pb_wipe_free((ProtobufCMessage *)version, &kl_pb_allocator);
    return st == KL_NOT_FOUND ? KL_CORRUPT : st;
}

enum kl_status kl_plan_secret_get_deleted(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretGetDeletedRequest *req = (const void *)call->request;
    Kluis__Store__VaultRecord *vault = NULL;
    Kluis__Store__ObjectRecord *object = NULL;
    Kluis__V1__Secret *secret = NULL;
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    plan->step = KL_STEP_REPLY;
    if (st == KL_OK) {
        st = kl_read_vault(call, req->vault, KL_WANT_LIVE, &vault);
    }
    if (st == KL_OK) {
        st = kl_read_secret(call, vault, req->name, KL_WANT_DELETED, &object);
    }
    if (st == KL_OK) {
        st = current(call, vault, req->name, object, &secret);
    }
    if (st == KL_OK) {
        st = kl_respond(call, "secret", secret);
    }
    kl_pb_wipe_free((ProtobufCMessage *)object, &kl_pb_allocator);
    kl_pb_wipe_free((ProtobufCMessage *)vault, &kl_pb_allocator);
    return st;
}

/* ---- lists of secrets ---- */

/* What a scan notes of an object: its version is read when the scan has ended. */
struct object_note {
    char name[KL_OBJECT_NAME_MAX + 1];
    uint8_t object_id[KL_ID_LEN];
    uint8_t current[KL_ID_LEN];
    uint64_t deleted_ms;
    uint64_t purge_ms;
};

struct object_page {
    struct object_note *notes; /* room for size */
    size_t n;
    size_t size;
    bool more;
    enum kl_status st;
};

static bool note_object(void *arg, const char *name, const Kluis__Store__ObjectRecord *object)
{
    struct object_page *p = arg;
    struct object_note *note;

    if (p->n == p->size) {
        p->more = true;
        return false;
    }
    if (strlen(name) > KL_OBJECT_NAME_MAX || object->object_id.len != KL_ID_LEN ||
        object->current_version.len != KL_ID_LEN) {
        p->st = KL_CORRUPT;
        return false;
    }
    note = &p->notes[p->n++];
    memcpy(note->name, name, strlen(name) + 1);
    memcpy(note->object_id, object->object_id.data, KL_ID_LEN);
    memcpy(note->current, object->current_version.data, KL_ID_LEN);
    note->deleted_ms = object->deleted_ms;
    note->purge_ms = object->purge_ms;
    return true;
}

static enum kl_status fill_secrets(struct kl_call *call, const Kluis__Store__VaultRecord *vault,
                                   const struct object_page *p, struct kl_secret_list *out)
{
    *out->secrets = kl_calloc(p->size, sizeof(Kluis__V1__Secret *));
    if (*out->secrets == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < p->n; i++) {
        Kluis__Store__ObjectRecord object = KLUIS__STORE__OBJECT_RECORD__INIT;
        enum kl_status st;

        object.object_id = kl_pb_data(kl_bytes_of(p->notes[i].object_id, KL_ID_LEN));
        object.current_version = kl_pb_data(kl_bytes_of(p->notes[i].current, KL_ID_LEN));
        object.deleted_ms = p->notes[i].deleted_ms;
        object.purge_ms = p->notes[i].purge_ms;
        st = current(call, vault, p->notes[i].name, &object, &(*out->secrets)[i]);
        if (st != KL_OK) {
            return st;
        }
        *out->n = i + 1;
    }
    return KL_OK;
}

enum kl_status kl_next_page(struct kl_call *call, struct kl_bytes owner, struct kl_bytes after,
                            char **out)
{
    char text[KL_PAGE_TOKEN_MAX + 1];
    struct kl_page next = {.after_len = after.len};
    enum kl_status st;

    memcpy(next.after, after.ptr, after.len);
    st = kl_page_write(call->route->method, owner, &next, text);
    return st == KL_OK ? kl_pb_string(out, text) : st;
}

enum kl_status kl_field_page_token(struct kl_call *call, struct kl_bytes owner, const char *token,
                                   struct kl_page *out)
{
    enum kl_status st = kl_page_read(call->route->method, owner, token, out);

    return st == KL_INVALID_ARGUMENT
               ? kl_call_field(call, st, "page_token", "a token from the last page of this list")
               : st;
}

static enum kl_status list(struct kl_call *call, const char *vault_name, uint32_t page_size,
                           const char *token, enum kl_want want, struct kl_secret_list *out)
{
    Kluis__Store__VaultRecord *vault = NULL;
    struct object_page p = {.st = KL_OK};
    struct kl_page from;
    enum kl_status st = kl_field_page_size(call, page_size, &p.size);

    if (st == KL_OK) {
        st = kl_read_vault(call, vault_name, KL_WANT_LIVE, &vault);
    }
    if (st != KL_OK) {
        return st;
    }
    st = kl_field_page_token(call, kl_pb_view(vault->vault_id), token, &from);
    if (st != KL_OK) {
        goto out;
    }
    p.notes = kl_calloc(p.size, sizeof *p.notes);
    if (p.notes == NULL) {
        st = KL_NO_MEMORY;
        goto out;
    }
    st = kl_core_objects(&call->read->view, kl_pb_view(vault->vault_id), KL_KIND_SECRET, want,
                         (const char *)from.after, note_object, &p);
    if (st == KL_OK) {
        st = p.st;
    }
    if (st == KL_OK) {
        st = fill_secrets(call, vault, &p, out);
    }
    if (st == KL_OK && p.more) {
        st = kl_next_page(call, kl_pb_view(vault->vault_id), kl_bytes_str(p.notes[p.n - 1].name),
                          out->next);
    }
out:
    kl_free(p.notes);
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    return st;
}

enum kl_status kl_plan_secret_list(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretListRequest *req = (const void *)call->request;
    Kluis__V1__SecretListResponse *r = kl_response(call);
    struct kl_secret_list out;

    plan->step = KL_STEP_REPLY;
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    out = (struct kl_secret_list){&r->n_secrets, &r->secrets, &r->next_page_token};
    return list(call, req->vault, req->page_size, req->page_token, KL_WANT_LIVE, &out);
}

enum kl_status kl_plan_secret_list_deleted(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretListDeletedRequest *req = (const void *)call->request;
    Kluis__V1__SecretListDeletedResponse *r = kl_response(call);
    struct kl_secret_list out;

    plan->step = KL_STEP_REPLY;
    if (r == NULL) {
        return KL_NO_MEMORY;
    }
    out = (struct kl_secret_list){&r->n_secrets, &r->secrets, &r->next_page_token};
    return list(call, req->vault, req->page_size, req->page_token, KL_WANT_DELETED, &out);
}

/* ---- versions of a secret ---- */

struct version_page {
    const struct kl_vault_facts *facts;
    const char *vault;
    const char *name;
    Kluis__V1__Secret **secrets; /* room for size */
    size_t n;
    size_t size;
    uint8_t last[KL_ID_LEN];
    bool more;
    enum kl_status st;
};

static bool add_version(void *arg, const Kluis__Store__VersionRecord *version)
{
    struct version_page *p = arg;

    if (p->n == p->size) {
        p->more = true;
        return false;
    }
    if (version->meta == NULL || version->meta->version_id.len != KL_ID_LEN) {
        p->st = KL_CORRUPT;
        return false;
    }
    p->st = kl_secret_message(p->facts, p->vault, p->name, version->meta, NULL, &p->secrets[p->n]);
    if (p->st != KL_OK) {
        return false;
    }
    memcpy(p->last, version->meta->version_id.data, KL_ID_LEN);
    p->n++;
    return true;
}

static enum kl_status list_versions(struct kl_call *call,
                                    const Kluis__V1__SecretListVersionsRequest *req,
                                    const Kluis__Store__VaultRecord *vault,
                                    const Kluis__Store__ObjectRecord *object, size_t size)
{
    Kluis__V1__SecretListVersionsResponse *r = kl_response(call);
    const struct kl_vault_facts facts = kl_facts_of(vault);
    struct version_page p = {
        .facts = &facts, .vault = vault->name, .name = req->name, .size = size, .st = KL_OK};
    struct kl_page from;
    enum kl_status st =
        kl_field_page_token(call, kl_pb_view(object->object_id), req->page_token, &from);

    if (st != KL_OK) {
        return st;
    }
    if (from.after_len != 0 && from.after_len != KL_ID_LEN) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "page_token",
                             "a token from the last page of this list");
    }
    p.secrets = r == NULL ? NULL : kl_calloc(size, sizeof(Kluis__V1__Secret *));
    if (p.secrets == NULL) {
        return KL_NO_MEMORY;
    }
    st = kl_core_versions(&call->read->view, kl_pb_view(object->object_id),
                          kl_bytes_of(from.after, from.after_len), add_version, &p);
    r->secrets = p.secrets;
    r->n_secrets = p.n;
    if (st == KL_OK) {
        st = p.st;
    }
    if (st == KL_OK && p.more) {
        st = kl_next_page(call, kl_pb_view(object->object_id), kl_bytes_of(p.last, KL_ID_LEN),
                          &r->next_page_token);
    }
    return st;
}

enum kl_status kl_plan_secret_list_versions(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__SecretListVersionsRequest *req = (const void *)call->request;
    Kluis__Store__VaultRecord *vault = NULL;
    Kluis__Store__ObjectRecord *object = NULL;
    size_t size = 0;
    enum kl_status st = kl_field_object(call, req->vault, req->name);

    plan->step = KL_STEP_REPLY;
    if (st == KL_OK) {
        st = kl_field_page_size(call, req->page_size, &size);
    }
    if (st == KL_OK) {
        st = kl_read_vault(call, req->vault, KL_WANT_LIVE, &vault);
    }
    if (st == KL_OK) {
        st = kl_read_secret(call, vault, req->name, KL_WANT_LIVE, &object);
    }
    if (st == KL_OK) {
        st = list_versions(call, req, vault, object, size);
    }
    kl_pb_wipe_free((ProtobufCMessage *)object, &kl_pb_allocator);
    kl_pb_wipe_free((ProtobufCMessage *)vault, &kl_pb_allocator);
    return st;
}
