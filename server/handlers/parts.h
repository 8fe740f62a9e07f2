/*
 * What the handlers share: checks of request fields, commands and their results, conversion of
 * records into messages. Everything here is pure but for memory.
 */
#ifndef KL_HANDLERS_PARTS_H
#define KL_HANDLERS_PARTS_H

#include "common/alloc.h"
#include "common/names.h"
#include "server/handlers/node_view.h"
#include "server/handlers/plan.h"

/* ---- plans: one per route, named after the method (routes.c has the table) ---- */

#define KL_PLANS(X)                                                                                \
    X(vault_create)                                                                                \
    X(vault_get)                                                                                   \
    X(vault_list)                                                                                  \
    X(vault_update)                                                                                \
    X(vault_delete)                                                                                \
    X(vault_get_deleted)                                                                           \
    X(vault_list_deleted)                                                                          \
    X(vault_recover)                                                                               \
    X(vault_purge)                                                                                 \
    X(secret_set)                                                                                  \
    X(secret_get)                                                                                  \
    X(secret_list)                                                                                 \
    X(secret_list_versions)                                                                        \
    X(secret_update)                                                                               \
    X(secret_delete)                                                                               \
    X(secret_get_deleted)                                                                          \
    X(secret_list_deleted)                                                                         \
    X(secret_recover)                                                                              \
    X(secret_purge)                                                                                \
    X(secret_backup)                                                                               \
    X(secret_restore)                                                                              \
    X(cluster_status)                                                                              \
    X(cluster_digest)                                                                              \
    X(cluster_transfer)                                                                            \
    X(cluster_replace_node)                                                                        \
    X(cluster_confirm_time)                                                                        \
    X(cluster_add_node)                                                                            \
    X(cluster_promote_node)                                                                        \
    X(cluster_remove_node)                                                                         \
    X(cluster_drain)                                                                               \
    X(health_check)                                                                                \
    X(discovery_nodes)                                                                             \
    X(internal_place_vault)                                                                        \
    X(internal_release_vault)                                                                      \
    X(internal_show_vault)

#define KL_PLAN_DECLARE(name)                                                                      \
    enum kl_status kl_plan_##name(struct kl_call *call, struct kl_plan *plan);
KL_PLANS(KL_PLAN_DECLARE)
#undef KL_PLAN_DECLARE

/* ---- checks: KL_OK, or the status with call->field and call->limit noted ---- */

/* An object's name; notes "vault/name" as the call's subject. */
KL_MUST_USE enum kl_status kl_field_object(struct kl_call *call, const char *vault,
                                           const char *name);
/* 32 hex digits into id, or empty (*given false). */
KL_MUST_USE enum kl_status kl_field_version(struct kl_call *call, const char *version,
                                            uint8_t id[KL_ID_LEN], bool *given);
KL_MUST_USE enum kl_status kl_field_content_type(struct kl_call *call, const char *text);
KL_MUST_USE enum kl_status kl_field_times(struct kl_call *call, uint64_t not_before_s,
                                          uint64_t expires_s);
KL_MUST_USE enum kl_status kl_field_tags(struct kl_call *call, size_t n,
                                         Kluis__V1__Tag *const *tags);
/* Where the vaults of the call's group are. */
struct kl_placement kl_call_placement(const struct kl_call *call);
/* The page size to use: the default for 0. */
KL_MUST_USE enum kl_status kl_field_page_size(struct kl_call *call, uint32_t asked, size_t *size);

/* ---- commands ---- */

/* Tags of a request as they go into a command; everything borrowed from the request. */
struct kl_tag_list {
    Kluis__Store__Tag tags[KL_TAGS_MAX];
    Kluis__Store__Tag *ptrs[KL_TAGS_MAX];
};
/* n was checked by kl_field_tags. */
void kl_tag_list_fill(struct kl_tag_list *list, size_t n, Kluis__V1__Tag *const *tags);

typedef enum kl_status (*kl_then_fn)(struct kl_call *call, enum kl_status status,
                                     struct kl_bytes result, struct kl_plan *plan);

/* Plans a proposal. The command's request id and expiry are filled in here; `own` leaves the request
 * id out (a step of a workflow that is harmless when it is repeated). */
KL_MUST_USE enum kl_status kl_plan_propose(struct kl_call *call, Kluis__Log__Command *command,
                                           bool own, kl_then_fn then, struct kl_plan *plan);
/* Plans a call of another node's Internal service: a step that is harmless when it is repeated. */
KL_MUST_USE enum kl_status kl_plan_remote(const char *method, uint16_t group,
                                          const ProtobufCMessage *request, kl_then_fn then,
                                          struct kl_plan *plan);

/*
 * What a proposal came to: its own failure, or the refusal in its result (field noted), or KL_OK
 * and the result, to be freed with kl_pb_wipe_free.
 */
KL_MUST_USE enum kl_status kl_result_open(struct kl_call *call, enum kl_status status,
                                          struct kl_bytes packed, Kluis__Log__CommandResult **out);

/* The result stored under the call's request id: a retry of what was done already is answered from
 * it, whatever the state is now. KL_NOT_FOUND: this is the first time. Appends to *out. */
KL_MUST_USE enum kl_status kl_result_stored(struct kl_call *call, struct kl_buf *out);

/* ---- messages of our own, as protobuf_c_message_free_unpacked expects them ---- */

/* A zeroed message of that type, or NULL. */
void *kl_pb_new(const ProtobufCMessageDescriptor *descriptor);
KL_MUST_USE enum kl_status kl_pb_string(char **slot, const char *text);
KL_MUST_USE enum kl_status kl_pb_copy(ProtobufCBinaryData *slot, struct kl_bytes bytes);
KL_MUST_USE enum kl_status kl_pb_hex(char **slot, const ProtobufCBinaryData *id);
/* Appends a packed message to *out. */
KL_MUST_USE enum kl_status kl_pb_pack(const ProtobufCMessage *message, struct kl_buf *out);

static inline struct kl_bytes kl_pb_view(ProtobufCBinaryData data)
{
    return (struct kl_bytes){data.data, data.len};
}
static inline ProtobufCBinaryData kl_pb_data(struct kl_bytes bytes)
{
    /* protobuf-c has no const; packing only reads. */
    return (ProtobufCBinaryData){bytes.len, (uint8_t *)(uintptr_t)bytes.ptr};
}

/* The call's response message, made when it is not there yet; NULL when memory is short. */
void *kl_response(struct kl_call *call);
/* Puts a sub-message (moved, also on failure) into the response's field of that name. */
KL_MUST_USE enum kl_status kl_respond(struct kl_call *call, const char *field, void *message);

/* ---- clocks ---- */

/* The cluster's time as this node has it; in a status also each node's clock. */
KL_MUST_USE enum kl_status kl_clock_message(const struct kl_clock_view *view,
                                            Kluis__V1__ClockStatus **out);
void kl_clock_of_node(const struct kl_clock_view *view, Kluis__V1__NodeStatus *node);

/* ---- conversion ---- */

/* What a secret's attributes tell of its vault. */
struct kl_vault_facts {
    uint32_t retention_days; /* 0: not known */
    bool purge_protection;
};

KL_MUST_USE enum kl_status kl_vault_message(const Kluis__Store__VaultRecord *record,
                                            Kluis__V1__Vault **out);
/* object and meta may be NULL. The value is left empty. */
KL_MUST_USE enum kl_status kl_secret_message(const struct kl_vault_facts *facts, const char *vault,
                                             const char *name,
                                             const Kluis__Store__VersionMeta *meta,
                                             const Kluis__Store__ObjectRecord *object,
                                             Kluis__V1__Secret **out);

/* Reads the live vault of the call. */
KL_MUST_USE enum kl_status kl_read_vault(struct kl_call *call, const char *name, enum kl_want want,
                                         Kluis__Store__VaultRecord **out);

#endif
