/*
 * The Secrets service, blocking.
 */
#include "client/lib/internal.h"

#define METHOD(name) "/kluis.v1.Secrets/" name

enum kl_status kl_secret_from_reply(const Kluis__V1__Reply *reply, bool with_value,
                                    struct kluis_secret **out)
{
    ProtobufCMessage *response = NULL;
    enum kl_status st =
        kl_message_unpack(&kluis__v1__secret_get_response__descriptor,
                          (struct kl_bytes){reply->payload.data, reply->payload.len}, &response);

    if (st == KL_OK) {
        const Kluis__V1__Secret *secret = ((Kluis__V1__SecretGetResponse *)response)->secret;

        st = secret == NULL ? KL_PROTOCOL : kl_secret_out(secret, with_value, out);
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st;
}

static enum kl_status run_secret(struct kluis_client *client, struct kl_request *request,
                                 bool with_value, struct kluis_secret **out)
{
    Kluis__V1__Reply *reply = NULL;
    enum kl_status st = kl_call_wait(client, request, &reply);

    if (st == KL_OK && out != NULL) {
        st = kl_secret_from_reply(reply, with_value, out);
    }
    kl_reply_free(reply);
    return st;
}

static enum kl_status require_names(const struct kluis_client *client, const char *vault,
                                    const char *name)
{
    enum kl_status st = kl_require(client, "client");

    if (st == KL_OK) {
        st = kl_require(vault, "vault");
    }
    if (st == KL_OK) {
        st = kl_require(name, "name");
    }
    return st;
}

/* SecretDeleteRequest, GetDeleted, Recover, Purge, Backup: vault and name, fields 1 and 2. */
static enum kl_status named_request(struct kl_request *request, const char *method, bool write,
                                    const char *vault, const char *name)
{
    Kluis__V1__SecretDeleteRequest message = KLUIS__V1__SECRET_DELETE_REQUEST__INIT;

    message.vault = kl_pb_text(vault);
    message.name = kl_pb_text(name);
    request->method = method;
    request->write = write;
    kl_route_key('s', vault, request->key);
    return kl_request_pack(request, &message, KL_CLIENT_REQUEST_MAX);
}

static enum kl_status named(struct kluis_client *client, const char *method, bool write,
                            const char *vault, const char *name, uint32_t timeout_ms,
                            struct kluis_secret **out)
{
    struct kl_request request = {.timeout_ms = timeout_ms};
    enum kl_status st = require_names(client, vault, name);

    if (st == KL_OK) {
        st = named_request(&request, method, write, vault, name);
    }
    if (st == KL_OK) {
        st = run_secret(client, &request, false, out);
    }
    kl_buf_wipe(&request.payload);
    return st;
}

/* ---------------------------------------------------------------- set, get, delete */

enum kl_status kl_secret_set_request(struct kl_request *request, const char *vault,
                                     const char *name, const void *value, size_t value_len,
                                     const struct kluis_secret_options *options)
{
    static const struct kluis_secret_options defaults;
    Kluis__V1__SecretSetRequest message = KLUIS__V1__SECRET_SET_REQUEST__INIT;
    const struct kluis_secret_options *o = options == NULL ? &defaults : options;
    struct kl_tag_array tags = {NULL, NULL};
    enum kl_status st;

    if (value_len > KL_SECRET_VALUE_MAX) {
        kl_client_explain("value: at most %d bytes", KL_SECRET_VALUE_MAX);
        return KL_TOO_LARGE;
    }
    if (value_len != 0) {
        st = kl_require(value, "value");
        if (st != KL_OK) {
            return st;
        }
    }
    st = kl_tags_in(o->tags, o->tags_n, &tags);
    if (st != KL_OK) {
        return st;
    }
    message.vault = kl_pb_text(vault);
    message.name = kl_pb_text(name);
    message.value = kl_pb_bytes(value, value_len);
    message.content_type = kl_pb_text(o->content_type == NULL ? "" : o->content_type);
    message.tags = tags.list;
    message.n_tags = o->tags_n;
    message.disabled = o->disabled;
    message.not_before_s = o->not_before_s;
    message.expires_s = o->expires_s;
    request->method = METHOD("Set");
    request->write = true;
    kl_route_key('s', vault, request->key);
    st = kl_request_pack(request, &message, KL_CLIENT_REQUEST_MAX);
    kl_tags_done(&tags);
    return st;
}

enum kl_status kl_secret_get_request(struct kl_request *request, const char *vault,
                                     const char *name, const char *version)
{
    Kluis__V1__SecretGetRequest message = KLUIS__V1__SECRET_GET_REQUEST__INIT;

    message.vault = kl_pb_text(vault);
    message.name = kl_pb_text(name);
    message.version = kl_pb_text(version == NULL ? "" : version);
    request->method = METHOD("Get");
    request->write = false;
    kl_route_key('s', vault, request->key);
    return kl_request_pack(request, &message, KL_CLIENT_REQUEST_MAX);
}

enum kl_status kl_secret_delete_request(struct kl_request *request, const char *vault,
                                        const char *name)
{
    return named_request(request, METHOD("Delete"), true, vault, name);
}

enum kluis_status kluis_secret_set(struct kluis_client *client, const char *vault, const char *name,
                                   const void *value, size_t value_len,
                                   const struct kluis_secret_options *options, uint32_t timeout_ms,
                                   struct kluis_secret **out)
{
    struct kl_request request = {.timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = require_names(client, vault, name);
    if (st == KL_OK) {
        st = kl_secret_set_request(&request, vault, name, value, value_len, options);
    }
    if (st == KL_OK) {
        st = run_secret(client, &request, false, out);
    }
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}

enum kluis_status kluis_secret_get(struct kluis_client *client, const char *vault, const char *name,
                                   const char *version, uint32_t timeout_ms,
                                   struct kluis_secret **out)
{
    struct kl_request request = {.timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = require_names(client, vault, name);
    if (st == KL_OK) {
        st = kl_secret_get_request(&request, vault, name, version);
    }
    if (st == KL_OK) {
        st = run_secret(client, &request, true, out);
    }
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}

enum kluis_status kluis_secret_delete(struct kluis_client *client, const char *vault,
                                      const char *name, uint32_t timeout_ms,
                                      struct kluis_secret **out)
{
    kl_begin();
    return kl_finish(named(client, METHOD("Delete"), true, vault, name, timeout_ms, out));
}

enum kluis_status kluis_secret_get_deleted(struct kluis_client *client, const char *vault,
                                           const char *name, uint32_t timeout_ms,
                                           struct kluis_secret **out)
{
    kl_begin();
    return kl_finish(named(client, METHOD("GetDeleted"), false, vault, name, timeout_ms, out));
}

enum kluis_status kluis_secret_recover(struct kluis_client *client, const char *vault,
                                       const char *name, uint32_t timeout_ms,
                                       struct kluis_secret **out)
{
    kl_begin();
    return kl_finish(named(client, METHOD("Recover"), true, vault, name, timeout_ms, out));
}

enum kluis_status kluis_secret_purge(struct kluis_client *client, const char *vault,
                                     const char *name, uint32_t timeout_ms)
{
    kl_begin();
    return kl_finish(named(client, METHOD("Purge"), true, vault, name, timeout_ms, NULL));
}

/* ---------------------------------------------------------------- lists */

static enum kl_status run_list(struct kluis_client *client, struct kl_request *request,
                               struct kluis_secret_list **out)
{
    ProtobufCMessage *response = NULL;
    enum kl_status st =
        kl_request_run(client, request, &kluis__v1__secret_list_response__descriptor, &response);

    if (st == KL_OK) {
        const Kluis__V1__SecretListResponse *r = (Kluis__V1__SecretListResponse *)response;

        st = kl_secrets_out(r->secrets, r->n_secrets, r->next_page_token, out);
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st;
}

/* List and ListDeleted have the same request and answer. */
static enum kl_status list(struct kluis_client *client, const char *method, const char *vault,
                           uint32_t page_size, const char *token, uint32_t timeout_ms,
                           struct kluis_secret_list **out)
{
    Kluis__V1__SecretListRequest message = KLUIS__V1__SECRET_LIST_REQUEST__INIT;
    struct kl_request request = {.method = method, .timeout_ms = timeout_ms};
    enum kl_status st = require_names(client, vault, "");

    if (st == KL_OK) {
        st = kl_require(out, "out");
    }
    if (st != KL_OK) {
        return st;
    }
    message.vault = kl_pb_text(vault);
    message.page_size = page_size;
    message.page_token = kl_pb_text(token == NULL ? "" : token);
    kl_route_key('s', vault, request.key);
    st = kl_request_pack(&request, &message, KL_CLIENT_REQUEST_MAX);
    if (st == KL_OK) {
        st = run_list(client, &request, out);
    }
    kl_buf_wipe(&request.payload);
    return st;
}

enum kluis_status kluis_secret_list(struct kluis_client *client, const char *vault,
                                    uint32_t page_size, const char *token, uint32_t timeout_ms,
                                    struct kluis_secret_list **out)
{
    kl_begin();
    return kl_finish(list(client, METHOD("List"), vault, page_size, token, timeout_ms, out));
}

enum kluis_status kluis_secret_list_deleted(struct kluis_client *client, const char *vault,
                                            uint32_t page_size, const char *token,
                                            uint32_t timeout_ms, struct kluis_secret_list **out)
{
    kl_begin();
    return kl_finish(list(client, METHOD("ListDeleted"), vault, page_size, token, timeout_ms, out));
}

enum kluis_status kluis_secret_list_versions(struct kluis_client *client, const char *vault,
                                             const char *name, uint32_t page_size,
                                             const char *token, uint32_t timeout_ms,
                                             struct kluis_secret_list **out)
{
    Kluis__V1__SecretListVersionsRequest message = KLUIS__V1__SECRET_LIST_VERSIONS_REQUEST__INIT;
    struct kl_request request = {.method = METHOD("ListVersions"), .timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = require_names(client, vault, name);
    if (st == KL_OK) {
        st = kl_require(out, "out");
    }
    if (st != KL_OK) {
        return kl_finish(st);
    }
    message.vault = kl_pb_text(vault);
    message.name = kl_pb_text(name);
    message.page_size = page_size;
    message.page_token = kl_pb_text(token == NULL ? "" : token);
    kl_route_key('s', vault, request.key);
    st = kl_request_pack(&request, &message, KL_CLIENT_REQUEST_MAX);
    if (st == KL_OK) {
        st = run_list(client, &request, out);
    }
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}

/* ---------------------------------------------------------------- update */

static enum kl_status update_request(struct kl_request *request, const char *vault,
                                     const char *name, const char *version,
                                     const struct kluis_secret_update *u)
{
    Kluis__V1__SecretUpdateRequest message = KLUIS__V1__SECRET_UPDATE_REQUEST__INIT;
    struct kl_tag_array tags = {NULL, NULL};
    enum kl_status st = kl_tags_in(u->tags, u->tags_n, &tags);

    if (st != KL_OK) {
        return st;
    }
    message.vault = kl_pb_text(vault);
    message.name = kl_pb_text(name);
    message.version = kl_pb_text(version == NULL ? "" : version);
    message.set_enabled = u->set_enabled;
    message.enabled = u->enabled;
    message.set_not_before = u->set_not_before;
    message.not_before_s = u->not_before_s;
    message.set_expires = u->set_expires;
    message.expires_s = u->expires_s;
    message.set_content_type = u->content_type != NULL;
    message.content_type = kl_pb_text(u->content_type == NULL ? "" : u->content_type);
    message.set_tags = u->set_tags;
    message.tags = tags.list;
    message.n_tags = u->tags_n;
    kl_route_key('s', vault, request->key);
    st = kl_request_pack(request, &message, KL_CLIENT_REQUEST_MAX);
    kl_tags_done(&tags);
    return st;
}

enum kluis_status kluis_secret_update(struct kluis_client *client, const char *vault,
                                      const char *name, const char *version,
                                      const struct kluis_secret_update *update, uint32_t timeout_ms,
                                      struct kluis_secret **out)
{
    struct kl_request request = {
        .method = METHOD("Update"), .write = true, .timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = require_names(client, vault, name);
    if (st == KL_OK) {
        st = kl_require(update, "update");
    }
    if (st == KL_OK) {
        st = update_request(&request, vault, name, version, update);
    }
    if (st == KL_OK) {
        st = run_secret(client, &request, false, out);
    }
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}

/* ---------------------------------------------------------------- backup, restore */

static enum kl_status blob_out(Kluis__V1__SecretBackupResponse *response, struct kluis_blob **out)
{
    struct kluis_blob *blob = kl_calloc(1, sizeof *blob);

    if (blob == NULL) {
        return KL_NO_MEMORY;
    }
    blob->len = response->blob.len;
    blob->version_count = response->version_count;
    blob->data = response->blob.data; /* moved: both are of kl_malloc */
    response->blob = (ProtobufCBinaryData){0, NULL};
    *out = blob;
    return KL_OK;
}

enum kluis_status kluis_secret_backup(struct kluis_client *client, const char *vault,
                                      const char *name, uint32_t timeout_ms,
                                      struct kluis_blob **out)
{
    struct kl_request request = {.timeout_ms = timeout_ms};
    ProtobufCMessage *response = NULL;
    enum kl_status st;

    kl_begin();
    st = require_names(client, vault, name);
    if (st == KL_OK) {
        st = kl_require(out, "out");
    }
    if (st == KL_OK) {
        st = named_request(&request, METHOD("Backup"), false, vault, name);
    }
    if (st == KL_OK) {
        st = kl_request_run(client, &request, &kluis__v1__secret_backup_response__descriptor,
                            &response);
    }
    if (st == KL_OK) {
        st = blob_out((Kluis__V1__SecretBackupResponse *)response, out);
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}

enum kluis_status kluis_secret_restore(struct kluis_client *client, const char *vault,
                                       const void *blob, size_t blob_len, uint32_t timeout_ms,
                                       struct kluis_secret **out)
{
    Kluis__V1__SecretRestoreRequest message = KLUIS__V1__SECRET_RESTORE_REQUEST__INIT;
    struct kl_request request = {
        .method = METHOD("Restore"), .write = true, .timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = require_names(client, vault, "");
    if (st == KL_OK && blob_len != 0) {
        st = kl_require(blob, "blob");
    }
    if (st == KL_OK && blob_len > KL_BLOB_MAX) {
        kl_client_explain("blob: at most %u bytes", KL_BLOB_MAX);
        st = KL_TOO_LARGE;
    }
    if (st == KL_OK) {
        message.vault = kl_pb_text(vault);
        message.blob = kl_pb_bytes(blob, blob_len);
        kl_route_key('s', vault, request.key);
        st = kl_request_pack(&request, &message, KL_MESSAGE_MAX - KL_CLIENT_REQUEST_MAX);
    }
    if (st == KL_OK) {
        st = run_secret(client, &request, false, out);
    }
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}
