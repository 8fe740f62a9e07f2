/*
 * The table of routes: a row per method, which names its right and its audit class. Paths and
 * message types are in the service descriptors; kl_routes_check() compares the two, so that
 * neither can have what the other lacks.
 */
#include "server/handlers/parts.h"

#include <stddef.h>
#include <stdio.h>

enum {
    SMALL = 4u << 10,                       /* names, ids, page tokens */
    TAGGED = 64u << 10,                     /* tags and texts besides */
    RESTORE_MAX = KL_BLOB_MAX + (4u << 10), /* a blob and the vault's name */
};

#define MESSAGES(Stem)                                                                             \
    .request = &kluis__v1__##Stem##_request__descriptor,                                           \
    .response = &kluis__v1__##Stem##_response__descriptor
#define KEY(Type, name) .key_field = #name, .key_at = offsetof(Kluis__V1__##Type##Request, name)

/* clang-format off */
static const struct kl_route routes[] = {
    {"/kluis.v1.Vaults/Create", KL_SCOPE_DIRECTORY, .write = true, .barrier = true,
     .right = KL_RIGHT_VAULT_CREATE, .audit = KL_AUDIT_WRITE, .request_max = TAGGED,
     MESSAGES(vault_create), .plan = kl_plan_vault_create},
    {"/kluis.v1.Vaults/Get", KL_SCOPE_VAULT, .barrier = true,
     .right = KL_RIGHT_VAULT_GET, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(VaultGet, name), MESSAGES(vault_get), .plan = kl_plan_vault_get},
    {"/kluis.v1.Vaults/List", KL_SCOPE_VAULTS, .barrier = true,
     .right = KL_RIGHT_VAULT_LIST, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(VaultList, page_token), MESSAGES(vault_list), .plan = kl_plan_vault_list},
    {"/kluis.v1.Vaults/Update", KL_SCOPE_VAULT, .write = true, .barrier = true,
     .right = KL_RIGHT_VAULT_UPDATE, .audit = KL_AUDIT_WRITE, .request_max = TAGGED,
     KEY(VaultUpdate, name), MESSAGES(vault_update), .plan = kl_plan_vault_update},
    {"/kluis.v1.Vaults/Delete", KL_SCOPE_VAULT, .write = true,
     .right = KL_RIGHT_VAULT_DELETE, .audit = KL_AUDIT_WRITE, .request_max = SMALL,
     KEY(VaultDelete, name), MESSAGES(vault_delete), .plan = kl_plan_vault_delete},
    {"/kluis.v1.Vaults/GetDeleted", KL_SCOPE_VAULT, .barrier = true,
     .right = KL_RIGHT_VAULT_LIST_DELETED, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(VaultGetDeleted, name), MESSAGES(vault_get_deleted), .plan = kl_plan_vault_get_deleted},
    {"/kluis.v1.Vaults/ListDeleted", KL_SCOPE_VAULTS, .barrier = true,
     .right = KL_RIGHT_VAULT_LIST_DELETED, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(VaultListDeleted, page_token), MESSAGES(vault_list_deleted),
     .plan = kl_plan_vault_list_deleted},
    {"/kluis.v1.Vaults/Recover", KL_SCOPE_VAULT, .write = true,
     .right = KL_RIGHT_VAULT_RECOVER, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     KEY(VaultRecover, name), MESSAGES(vault_recover), .plan = kl_plan_vault_recover},
    {"/kluis.v1.Vaults/Purge", KL_SCOPE_VAULT, .write = true, .barrier = true,
     .right = KL_RIGHT_VAULT_PURGE, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     KEY(VaultPurge, name), MESSAGES(vault_purge), .plan = kl_plan_vault_purge},

    {"/kluis.v1.Secrets/Set", KL_SCOPE_VAULT, .write = true, .barrier = true,
     .right = KL_RIGHT_SECRET_SET, .audit = KL_AUDIT_WRITE, .request_max = KL_CLIENT_REQUEST_MAX,
     KEY(SecretSet, vault), MESSAGES(secret_set), .plan = kl_plan_secret_set},
    {"/kluis.v1.Secrets/Get", KL_SCOPE_VAULT, .barrier = true,
     .right = KL_RIGHT_SECRET_GET, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(SecretGet, vault), MESSAGES(secret_get), .plan = kl_plan_secret_get},
    {"/kluis.v1.Secrets/List", KL_SCOPE_VAULT, .barrier = true,
     .right = KL_RIGHT_SECRET_LIST, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(SecretList, vault), MESSAGES(secret_list), .plan = kl_plan_secret_list},
    {"/kluis.v1.Secrets/ListVersions", KL_SCOPE_VAULT, .barrier = true,
     .right = KL_RIGHT_SECRET_LIST, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(SecretListVersions, vault), MESSAGES(secret_list_versions),
     .plan = kl_plan_secret_list_versions},
    {"/kluis.v1.Secrets/Update", KL_SCOPE_VAULT, .write = true, .barrier = true,
     .right = KL_RIGHT_SECRET_SET, .audit = KL_AUDIT_WRITE, .request_max = TAGGED,
     KEY(SecretUpdate, vault), MESSAGES(secret_update), .plan = kl_plan_secret_update},
    {"/kluis.v1.Secrets/Delete", KL_SCOPE_VAULT, .write = true, .barrier = true,
     .right = KL_RIGHT_SECRET_DELETE, .audit = KL_AUDIT_WRITE, .request_max = SMALL,
     KEY(SecretDelete, vault), MESSAGES(secret_delete), .plan = kl_plan_secret_delete},
    {"/kluis.v1.Secrets/GetDeleted", KL_SCOPE_VAULT, .barrier = true,
     .right = KL_RIGHT_SECRET_GET, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(SecretGetDeleted, vault), MESSAGES(secret_get_deleted),
     .plan = kl_plan_secret_get_deleted},
    {"/kluis.v1.Secrets/ListDeleted", KL_SCOPE_VAULT, .barrier = true,
     .right = KL_RIGHT_SECRET_LIST, .audit = KL_AUDIT_READ, .request_max = SMALL,
     KEY(SecretListDeleted, vault), MESSAGES(secret_list_deleted),
     .plan = kl_plan_secret_list_deleted},
    {"/kluis.v1.Secrets/Recover", KL_SCOPE_VAULT, .write = true, .barrier = true,
     .right = KL_RIGHT_SECRET_RECOVER, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     KEY(SecretRecover, vault), MESSAGES(secret_recover), .plan = kl_plan_secret_recover},
    {"/kluis.v1.Secrets/Purge", KL_SCOPE_VAULT, .write = true,
     .right = KL_RIGHT_SECRET_PURGE, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     KEY(SecretPurge, vault), MESSAGES(secret_purge), .plan = kl_plan_secret_purge},
    {"/kluis.v1.Secrets/Backup", KL_SCOPE_VAULT, .barrier = true, .heavy = true,
     .right = KL_RIGHT_SECRET_BACKUP, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     KEY(SecretBackup, vault), MESSAGES(secret_backup), .plan = kl_plan_secret_backup},
    {"/kluis.v1.Secrets/Restore", KL_SCOPE_VAULT, .write = true, .barrier = true, .heavy = true,
     .right = KL_RIGHT_SECRET_RESTORE, .audit = KL_AUDIT_PRIVILEGED, .request_max = RESTORE_MAX,
     KEY(SecretRestore, vault), MESSAGES(secret_restore), .plan = kl_plan_secret_restore},

    {"/kluis.v1.Cluster/Status", KL_SCOPE_NODE,
     .right = KL_RIGHT_CLUSTER_READ, .audit = KL_AUDIT_NONE, .request_max = SMALL,
     MESSAGES(cluster_status), .plan = kl_plan_cluster_status},
    {"/kluis.v1.Cluster/Digest", KL_SCOPE_GROUP, .heavy = true,
     .right = KL_RIGHT_CLUSTER_READ, .audit = KL_AUDIT_NONE, .request_max = SMALL,
     KEY(ClusterDigest, group), MESSAGES(cluster_digest), .plan = kl_plan_cluster_digest},
    {"/kluis.v1.Cluster/Transfer", KL_SCOPE_GROUP,
     .right = KL_RIGHT_CLUSTER_ADMIN, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     KEY(ClusterTransfer, group), MESSAGES(cluster_transfer), .plan = kl_plan_cluster_transfer},
    {"/kluis.v1.Cluster/ReplaceNode", KL_SCOPE_DIRECTORY,
     .right = KL_RIGHT_CLUSTER_ADMIN, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     MESSAGES(cluster_replace_node), .plan = kl_plan_cluster_replace_node},
    {"/kluis.v1.Cluster/ConfirmTime", KL_SCOPE_NODE,
     .right = KL_RIGHT_CLUSTER_ADMIN, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     MESSAGES(cluster_confirm_time), .plan = kl_plan_cluster_confirm_time},
    {"/kluis.v1.Cluster/AddNode", KL_SCOPE_DIRECTORY, .write = true, .barrier = true,
     .right = KL_RIGHT_CLUSTER_ADMIN, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     MESSAGES(cluster_add_node), .plan = kl_plan_cluster_add_node},
    {"/kluis.v1.Cluster/PromoteNode", KL_SCOPE_DIRECTORY, .write = true, .barrier = true,
     .right = KL_RIGHT_CLUSTER_ADMIN, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     MESSAGES(cluster_promote_node), .plan = kl_plan_cluster_promote_node},
    {"/kluis.v1.Cluster/RemoveNode", KL_SCOPE_DIRECTORY, .write = true, .barrier = true,
     .right = KL_RIGHT_CLUSTER_ADMIN, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     MESSAGES(cluster_remove_node), .plan = kl_plan_cluster_remove_node},
    {"/kluis.v1.Cluster/Drain", KL_SCOPE_DIRECTORY, .write = true, .barrier = true,
     .right = KL_RIGHT_CLUSTER_ADMIN, .audit = KL_AUDIT_PRIVILEGED, .request_max = SMALL,
     MESSAGES(cluster_drain), .plan = kl_plan_cluster_drain},

    {"/kluis.v1.Health/Check", KL_SCOPE_NODE,
     .right = KL_RIGHT_NONE, .audit = KL_AUDIT_NONE, .request_max = SMALL,
     MESSAGES(health_check), .plan = kl_plan_health_check},

    {"/kluis.v1.Discovery/Nodes", KL_SCOPE_NODE, .known = true,
     .right = KL_RIGHT_NONE, .audit = KL_AUDIT_NONE, .request_max = SMALL,
     MESSAGES(discovery_nodes), .plan = kl_plan_discovery_nodes},

    {"/kluis.v1.Internal/PlaceVault", KL_SCOPE_GROUP,
     .right = KL_RIGHT_NODE, .audit = KL_AUDIT_WRITE, .request_max = TAGGED,
     KEY(PlaceVault, group), MESSAGES(place_vault), .plan = kl_plan_internal_place_vault},
    {"/kluis.v1.Internal/ReleaseVault", KL_SCOPE_DIRECTORY,
     .right = KL_RIGHT_NODE, .audit = KL_AUDIT_WRITE, .request_max = SMALL,
     MESSAGES(release_vault), .plan = kl_plan_internal_release_vault},
    {"/kluis.v1.Internal/ShowVault", KL_SCOPE_GROUP, .barrier = true,
     .right = KL_RIGHT_NODE, .audit = KL_AUDIT_NONE, .request_max = SMALL,
     KEY(ShowVault, group), MESSAGES(show_vault), .plan = kl_plan_internal_show_vault},
};
/* clang-format on */

enum { ROUTES = sizeof routes / sizeof routes[0] };

const struct kl_route *kl_routes(size_t *n)
{
    *n = ROUTES;
    return routes;
}

/* ---- finding one ---- */

static size_t hash(const char *method)
{
    size_t h = 5381;

    for (; *method != 0; method++) {
        h = h * 33 ^ (unsigned char)*method;
    }
    return h;
}

/*
 * Rows by the hash of their method. It is built on each first use of a thread: some dozens of rows are cheap,
 * and nothing that changes is shared.
 */
enum { SLOTS = 128 };
_Static_assert(SLOTS >= 2 * ROUTES, "the table must stay sparse");

static void fill_slots(uint8_t slots[SLOTS])
{
    memset(slots, 0, SLOTS);
    for (size_t i = 0; i < ROUTES; i++) {
        size_t at = hash(routes[i].method) % SLOTS;

        while (slots[at] != 0) {
            at = (at + 1) % SLOTS;
        }
        slots[at] = (uint8_t)(i + 1);
    }
}

const struct kl_route *kl_route_find(const char *method)
{
    static _Thread_local uint8_t slots[SLOTS];
    static _Thread_local bool filled;
    size_t at = hash(method) % SLOTS;

    if (!filled) {
        fill_slots(slots);
        filled = true;
    }
    for (; slots[at] != 0; at = (at + 1) % SLOTS) {
        if (strcmp(routes[slots[at] - 1].method, method) == 0) {
            return &routes[slots[at] - 1];
        }
    }
    return NULL;
}

/* ---- the check ---- */

static const ProtobufCServiceDescriptor *const services[] = {
    &kluis__v1__vaults__descriptor,    &kluis__v1__secrets__descriptor,
    &kluis__v1__cluster__descriptor,   &kluis__v1__health__descriptor,
    &kluis__v1__discovery__descriptor, &kluis__v1__internal__descriptor,
};

/* The field that says whom the request concerns must be there, of the right type, at its place. */
static bool key_fits(const struct kl_route *r)
{
    const ProtobufCFieldDescriptor *f;
    ProtobufCType type =
        r->scope == KL_SCOPE_GROUP ? PROTOBUF_C_TYPE_UINT32 : PROTOBUF_C_TYPE_STRING;

    if (r->scope == KL_SCOPE_NODE || r->scope == KL_SCOPE_DIRECTORY) {
        return r->key_field == NULL;
    }
    if (r->key_field == NULL) {
        return false;
    }
    f = protobuf_c_message_descriptor_get_field_by_name(r->request, r->key_field);
    return f != NULL && f->offset == r->key_at && f->type == type &&
           f->label == PROTOBUF_C_LABEL_NONE;
}

static bool row_fits(const struct kl_route *r, const ProtobufCMethodDescriptor *m, bool internal)
{
    return r->request == m->input && r->response == m->output && key_fits(r) && r->plan != NULL &&
           r->request_max != 0 && (r->right == KL_RIGHT_NODE) == internal &&
           (r->scope != KL_SCOPE_NODE || (!r->barrier && !r->write));
}

static bool in_order(size_t i, const ProtobufCServiceDescriptor *s,
                     const ProtobufCMethodDescriptor *m)
{
    char path[KL_METHOD_MAX];

    (void)snprintf(path, sizeof path, "/%s/%s", s->name, m->name);
    return i < ROUTES && strcmp(routes[i].method, path) == 0;
}

enum kl_status kl_routes_check(char *err, size_t err_len)
{
    size_t i = 0;

    for (size_t s = 0; s < sizeof services / sizeof services[0]; s++) {
        for (unsigned m = 0; m < services[s]->n_methods; m++, i++) {
            const ProtobufCMethodDescriptor *method = &services[s]->methods[m];

            if (!in_order(i, services[s], method)) {
                (void)snprintf(err, err_len, "method %s/%s has no row in its place",
                               services[s]->name, method->name);
                return KL_INTERNAL;
            }
            if (!row_fits(&routes[i], method, services[s] == &kluis__v1__internal__descriptor)) {
                (void)snprintf(err, err_len, "the row of %s does not fit its descriptor",
                               routes[i].method);
                return KL_INTERNAL;
            }
        }
    }
    if (i != ROUTES) {
        (void)snprintf(err, err_len, "the row of %s has no method", routes[i].method);
        return KL_INTERNAL;
    }
    return KL_OK;
}
