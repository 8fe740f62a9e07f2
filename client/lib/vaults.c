/*
 * The Vaults service, blocking.
 */
#include "client/lib/internal.h"

#define METHOD(name) "/kluis.v1.Vaults/" name

/* Every answer that brings a vault has it as field 1, like VaultGetResponse. */
static enum kl_status run_vault(struct kluis_client *client, struct kl_request *request,
                                struct kluis_vault **out)
{
    ProtobufCMessage *response = NULL;
    enum kl_status st =
        kl_request_run(client, request, &kluis__v1__vault_get_response__descriptor, &response);

    if (st == KL_OK && out != NULL) {
        const Kluis__V1__Vault *vault = ((Kluis__V1__VaultGetResponse *)response)->vault;

        st = vault == NULL ? KL_PROTOCOL : kl_vault_out(vault, out);
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st;
}

/* All requests that only name a vault have the name as field 1. */
static enum kl_status named(struct kluis_client *client, const char *method, bool write,
                            const char *name, uint32_t timeout_ms, struct kluis_vault **out)
{
    Kluis__V1__VaultGetRequest message = KLUIS__V1__VAULT_GET_REQUEST__INIT;
    struct kl_request request = {.method = method, .write = write, .timeout_ms = timeout_ms};
    enum kl_status st;

    st = kl_require(client, "client");
    if (st == KL_OK) {
        st = kl_require(name, "name");
    }
    if (st != KL_OK) {
        return st;
    }
    message.name = kl_pb_text(name);
    kl_route_key('v', name, request.key);
    st = kl_request_pack(&request, &message, KL_CLIENT_REQUEST_MAX);
    if (st == KL_OK) {
        st = run_vault(client, &request, out);
    }
    kl_buf_wipe(&request.payload);
    return st;
}

static enum kl_status create(struct kluis_client *client, const char *name,
                             const struct kluis_vault_options *options, uint32_t timeout_ms,
                             struct kluis_vault **out)
{
    static const struct kluis_vault_options defaults;
    Kluis__V1__VaultCreateRequest message = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    struct kl_request request = {
        .method = METHOD("Create"), .write = true, .timeout_ms = timeout_ms};
    const struct kluis_vault_options *o = options == NULL ? &defaults : options;
    struct kl_tag_array tags = {NULL, NULL};
    enum kl_status st = kl_require(client, "client");

    if (st == KL_OK) {
        st = kl_require(name, "name");
    }
    if (st == KL_OK) {
        st = kl_tags_in(o->tags, o->tags_n, &tags);
    }
    if (st != KL_OK) {
        return st;
    }
    message.name = kl_pb_text(name);
    message.subscription = kl_pb_text(o->subscription == NULL ? "" : o->subscription);
    message.resource_group = kl_pb_text(o->resource_group == NULL ? "" : o->resource_group);
    message.location = kl_pb_text(o->location == NULL ? "" : o->location);
    message.retention_days = o->retention_days;
    message.purge_protection = o->purge_protection;
    message.tags = tags.list;
    message.n_tags = o->tags_n;
    kl_route_key('v', name, request.key);
    st = kl_request_pack(&request, &message, KL_CLIENT_REQUEST_MAX);
    kl_tags_done(&tags);
    if (st == KL_OK) {
        st = run_vault(client, &request, out);
    }
    kl_buf_wipe(&request.payload);
    return st;
}

enum kluis_status kluis_vault_create(struct kluis_client *client, const char *name,
                                     const struct kluis_vault_options *options, uint32_t timeout_ms,
                                     struct kluis_vault **out)
{
    kl_begin();
    return kl_finish(create(client, name, options, timeout_ms, out));
}

enum kluis_status kluis_vault_get(struct kluis_client *client, const char *name,
                                  uint32_t timeout_ms, struct kluis_vault **out)
{
    kl_begin();
    return kl_finish(named(client, METHOD("Get"), false, name, timeout_ms, out));
}

enum kluis_status kluis_vault_delete(struct kluis_client *client, const char *name,
                                     uint32_t timeout_ms, struct kluis_vault **out)
{
    kl_begin();
    return kl_finish(named(client, METHOD("Delete"), true, name, timeout_ms, out));
}

enum kluis_status kluis_vault_get_deleted(struct kluis_client *client, const char *name,
                                          uint32_t timeout_ms, struct kluis_vault **out)
{
    kl_begin();
    return kl_finish(named(client, METHOD("GetDeleted"), false, name, timeout_ms, out));
}

enum kluis_status kluis_vault_recover(struct kluis_client *client, const char *name,
                                      uint32_t timeout_ms, struct kluis_vault **out)
{
    kl_begin();
    return kl_finish(named(client, METHOD("Recover"), true, name, timeout_ms, out));
}

enum kluis_status kluis_vault_purge(struct kluis_client *client, const char *name,
                                    uint32_t timeout_ms)
{
    kl_begin();
    return kl_finish(named(client, METHOD("Purge"), true, name, timeout_ms, NULL));
}

static enum kl_status list(struct kluis_client *client, const char *method, uint32_t page_size,
                           const char *token, uint32_t timeout_ms, struct kluis_vault_list **out)
{
    Kluis__V1__VaultListRequest message = KLUIS__V1__VAULT_LIST_REQUEST__INIT;
    struct kl_request request = {.method = method, .timeout_ms = timeout_ms};
    ProtobufCMessage *response = NULL;
    enum kl_status st = kl_require(client, "client");

    if (st == KL_OK) {
        st = kl_require(out, "out");
    }
    if (st != KL_OK) {
        return st;
    }
    message.page_size = page_size;
    message.page_token = kl_pb_text(token == NULL ? "" : token);
    st = kl_request_pack(&request, &message, KL_CLIENT_REQUEST_MAX);
    if (st == KL_OK) {
        st = kl_request_run(client, &request, &kluis__v1__vault_list_response__descriptor,
                            &response);
    }
    if (st == KL_OK) {
        const Kluis__V1__VaultListResponse *r = (Kluis__V1__VaultListResponse *)response;

        st = kl_vaults_out(r->vaults, r->n_vaults, r->next_page_token, out);
    }
    kl_pb_wipe_free(response, &kl_pb_allocator);
    kl_buf_wipe(&request.payload);
    return st;
}

enum kluis_status kluis_vault_list(struct kluis_client *client, uint32_t page_size,
                                   const char *token, uint32_t timeout_ms,
                                   struct kluis_vault_list **out)
{
    kl_begin();
    return kl_finish(list(client, METHOD("List"), page_size, token, timeout_ms, out));
}

enum kluis_status kluis_vault_list_deleted(struct kluis_client *client, uint32_t page_size,
                                           const char *token, uint32_t timeout_ms,
                                           struct kluis_vault_list **out)
{
    kl_begin();
    return kl_finish(list(client, METHOD("ListDeleted"), page_size, token, timeout_ms, out));
}

static enum kl_status update_vault(struct kluis_client *client, const char *name,
                                   const struct kluis_vault_update *update, uint32_t timeout_ms,
                                   struct kluis_vault **out)
{
    Kluis__V1__VaultUpdateRequest message = KLUIS__V1__VAULT_UPDATE_REQUEST__INIT;
    struct kl_request request = {
        .method = METHOD("Update"), .write = true, .timeout_ms = timeout_ms};
    struct kl_tag_array tags = {NULL, NULL};
    enum kl_status st = kl_require(client, "client");

    if (st == KL_OK) {
        st = kl_require(name, "name");
    }
    if (st == KL_OK) {
        st = kl_require(update, "update");
    }
    if (st == KL_OK) {
        st = kl_tags_in(update->tags, update->tags_n, &tags);
    }
    if (st != KL_OK) {
        return st;
    }
    message.name = kl_pb_text(name);
    message.set_tags = update->set_tags;
    message.tags = tags.list;
    message.n_tags = update->tags_n;
    message.enable_purge_protection = update->enable_purge_protection;
    message.retention_days = update->retention_days;
    kl_route_key('v', name, request.key);
    st = kl_request_pack(&request, &message, KL_CLIENT_REQUEST_MAX);
    kl_tags_done(&tags);
    if (st == KL_OK) {
        st = run_vault(client, &request, out);
    }
    kl_buf_wipe(&request.payload);
    return st;
}

enum kluis_status kluis_vault_update(struct kluis_client *client, const char *name,
                                     const struct kluis_vault_update *update, uint32_t timeout_ms,
                                     struct kluis_vault **out)
{
    kl_begin();
    return kl_finish(update_vault(client, name, update, timeout_ms, out));
}
