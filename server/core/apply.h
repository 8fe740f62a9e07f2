/*
 * Inside of the state machine: one function per command, and what they share. A refusal is an
 * outcome and the function returns KL_OK; anything else it returns is a fault. A function decides
 * before it changes anything: a refused command leaves no trace but its result.
 */
#ifndef KL_APPLY_H
#define KL_APPLY_H

#include "common/names.h"
#include "server/core/txn.h"

/* What a command answers. Everything is borrowed from the arena or the command. */
struct kl_outcome {
    enum kl_status status;
    const char *field; /* of proto/rpc.proto; NULL = none */
    const Kluis__Store__VersionMeta *version;
    const Kluis__Store__ObjectRecord *object;
    const Kluis__Store__VaultRecord *vault;
    uint32_t count;
};

/* Notes a refusal. Always KL_OK, to be returned: a refusal is no fault. */
static inline enum kl_status kl_refuse(struct kl_outcome *out, enum kl_status status,
                                       const char *field)
{
    *out = (struct kl_outcome){.status = status, .field = field};
    return KL_OK;
}

typedef enum kl_status (*kl_apply_fn)(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out);

enum kl_status kl_apply_group_init(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                   struct kl_outcome *out);
enum kl_status kl_apply_node_register(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out);
enum kl_status kl_apply_node_add(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                 struct kl_outcome *out);
enum kl_status kl_apply_node_mark(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                  struct kl_outcome *out);
enum kl_status kl_apply_keyring_put(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                    struct kl_outcome *out);
enum kl_status kl_apply_vault_claim(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                    struct kl_outcome *out);
enum kl_status kl_apply_vault_confirm(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out);
enum kl_status kl_apply_vault_release(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out);
enum kl_status kl_apply_vault_create(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                     struct kl_outcome *out);
enum kl_status kl_apply_vault_update(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                     struct kl_outcome *out);
enum kl_status kl_apply_vault_delete(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                     struct kl_outcome *out);
enum kl_status kl_apply_vault_recover(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out);
enum kl_status kl_apply_vault_purge(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                    struct kl_outcome *out);
enum kl_status kl_apply_outbox_done(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                    struct kl_outcome *out);
enum kl_status kl_apply_object_set(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                   struct kl_outcome *out);
enum kl_status kl_apply_object_update(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out);
enum kl_status kl_apply_object_delete(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out);
enum kl_status kl_apply_object_recover(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                       struct kl_outcome *out);
enum kl_status kl_apply_object_purge(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                     struct kl_outcome *out);
enum kl_status kl_apply_restore_stage(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out);
enum kl_status kl_apply_restore_commit(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                       struct kl_outcome *out);
enum kl_status kl_apply_purge_due(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                  struct kl_outcome *out);
enum kl_status kl_apply_collect(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                struct kl_outcome *out);

/* ---- checks (check.c): NULL when all is well, else the field that is not ---- */

const char *kl_check_vault(const Kluis__Store__VaultRecord *vault);
const char *kl_check_tags(Kluis__Store__Tag *const *tags, size_t n);
/* A version as proposed: id, attributes, dates, content type, tags and size. */
const char *kl_check_version(const Kluis__Store__VersionRecord *version);
bool kl_check_dates(const Kluis__Store__Attributes *attributes);
bool kl_check_kind(uint32_t kind);

static inline struct kl_bytes kl_pb_bytes(ProtobufCBinaryData data)
{
    return (struct kl_bytes){data.data, data.len};
}

static inline bool kl_is_id(ProtobufCBinaryData data)
{
    return data.len == KL_ID_LEN;
}

static inline bool kl_pb_eq(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
    return kl_bytes_eq(kl_pb_bytes(a), kl_pb_bytes(b));
}

/* ---- what several commands do ---- */

/* The vault of that name, live or deleted: KL_OK, KL_NOT_FOUND or a fault. */
enum kl_status kl_load_vault(struct kl_txn *txn, const char *name, Kluis__Store__VaultRecord **out);

/* An object command's addressee. */
struct kl_target {
    const Kluis__Store__VaultRecord *vault; /* live */
    Kluis__Store__ObjectRecord *object;     /* NULL: the name is free */
};
/* Checks kind and names, finds the live vault and the object. A refusal is in out->status. */
enum kl_status kl_find_target(struct kl_txn *txn, uint32_t kind, const char *vault,
                              const char *name, struct kl_target *target, struct kl_outcome *out);
/* The meta of a version of an object: KL_CORRUPT when it is missing. */
enum kl_status kl_load_current(struct kl_txn *txn, const Kluis__Store__ObjectRecord *object,
                               Kluis__Store__VersionRecord **out);

/* ---- versions (version.c) ---- */

/* KL_OK, KL_NOT_FOUND or a fault; what is there has meta and attributes. */
enum kl_status kl_version_load(struct kl_txn *txn, ProtobufCBinaryData object_id,
                               ProtobufCBinaryData version_id, Kluis__Store__VersionRecord **out);
/* One that is not there yet. */
void kl_version_add(struct kl_txn *txn, ProtobufCBinaryData object_id,
                    const Kluis__Store__VersionRecord *version);
/* One that may be: then it takes the place of the old. KL_OK or a fault. */
enum kl_status kl_version_put(struct kl_txn *txn, ProtobufCBinaryData object_id,
                              const Kluis__Store__VersionRecord *version);
/* Removes up to max versions of an object; *n tells how many it has, max + 1 at most. With
 * all_or_none nothing is removed when there are more than max. */
enum kl_status kl_version_drop(struct kl_txn *txn, struct kl_bytes object_id, size_t max,
                               bool all_or_none, size_t *n);

/* Removes an object for good: name and key at once, versions too when they are few. */
enum kl_status kl_purge_object(struct kl_txn *txn, struct kl_bytes vault_id, uint32_t kind,
                               const char *name, const Kluis__Store__ObjectRecord *object);
/* Removes a deleted vault for good: name and key at once; its content becomes garbage. */
void kl_purge_vault(struct kl_txn *txn, const Kluis__Store__VaultRecord *vault);

/* What an 'r' record says of a restore being staged. */
struct kl_stage {
    uint64_t not_before_ms;
    uint8_t vault_id[KL_ID_LEN];
    uint64_t count;
};
/* KL_OK, KL_NOT_FOUND or a fault. */
enum kl_status kl_stage_load(struct kl_txn *txn, struct kl_bytes object_id, struct kl_stage *stage);

/* ---- exactly once (requests.c) ---- */

/*
 * Before a command: KL_OK with *replay empty and out->status KL_OK: go on. *replay not empty: the
 * command was done, this is its packed result (arena). out->status not KL_OK: refused.
 */
enum kl_status kl_requests_begin(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                 struct kl_outcome *out, struct kl_bytes *replay);
/* After it: remembers the packed result, unless the refusal is one that may turn out otherwise. */
void kl_requests_end(struct kl_txn *txn, const Kluis__Log__Command *cmd, enum kl_status status,
                     struct kl_bytes result);
/* Before the first command: forgets what expired, at most `max` ids. */
enum kl_status kl_requests_sweep(struct kl_txn *txn, size_t max);
/* After the last: writes the 'e' record. */
void kl_requests_finish(struct kl_txn *txn);

#endif
