/*
 * The state machine: pure functions from (entry, view) to (batch, results), and the queries that
 * handlers and schedulers ask of a view. No clock, no randomness, no I/O, no threads: replicas that
 * apply the same log hold the same bytes.
 */
#ifndef KL_CORE_H
#define KL_CORE_H

#include "common/batch.h"
#include "common/view.h"

#include "command.pb-c.h"
#include "record.pb-c.h"

/* What the commands answered: a packed kluis.log.CommandResult per command of the entry. */
struct kl_results {
    struct kl_buf bytes; /* be32 length and packed result, one after the other */
    size_t count;
};
void kl_results_init(struct kl_results *r);
void kl_results_done(struct kl_results *r);
/* The i-th result, borrowed; walks with *pos = 0 first. false at the end. */
bool kl_results_next(const struct kl_results *r, size_t *pos, struct kl_bytes *result);

/*
 * Applies the entry at `index` to the state seen through `view` and adds its whole effect to
 * `batch`, the AppliedRecord included. Commands of one entry see each other's effects. A command
 * that is refused changes nothing and says why in its result; that is not a failure.
 *
 * KL_OK, also for an entry at or below the applied index (batch and results stay as they were:
 * already done). Anything else is a fault (KL_CORRUPT, KL_IO, KL_NO_MEMORY): batch and results are as
 * before the call, and it may be tried again.
 *
 * batch may hold the effects of earlier entries that are not in the view yet: they are seen too.
 * Initialise it with KL_BATCH_MAX and write it once it holds more than KL_EFFECT_MAX.
 */
KL_MUST_USE enum kl_status kl_core_apply(uint64_t index, struct kl_bytes entry,
                                         const struct kl_view *view, struct kl_batch *batch,
                                         struct kl_results *results);

/*
 * Queries. Records are unpacked with kl_pb_allocator: free them with kl_pb_wipe_free. NOT_FOUND and
 * the state rules come back as the same statuses that the commands use; faults as above.
 */
enum kl_want { KL_WANT_LIVE, KL_WANT_DELETED, KL_WANT_ANY };

KL_MUST_USE enum kl_status kl_core_applied(const struct kl_view *view,
                                           Kluis__Store__AppliedRecord **out);
KL_MUST_USE enum kl_status kl_core_group(const struct kl_view *view,
                                         Kluis__Store__GroupRecord **out);
KL_MUST_USE enum kl_status kl_core_keyring(const struct kl_view *view,
                                           Kluis__Store__KeyringRecord **out);
KL_MUST_USE enum kl_status kl_core_node(const struct kl_view *view, uint64_t node_id,
                                        Kluis__Store__NodeRecord **out);
KL_MUST_USE enum kl_status kl_core_claim(const struct kl_view *view, const char *name,
                                         Kluis__Store__ClaimRecord **out);
/* KL_WANT_LIVE: KL_VAULT_NOT_FOUND when missing or deleted; KL_WANT_DELETED: when missing or live. */
KL_MUST_USE enum kl_status kl_core_vault(const struct kl_view *view, const char *name,
                                         enum kl_want want, Kluis__Store__VaultRecord **out);
/* KL_NOT_FOUND likewise. The vault is not looked at. */
KL_MUST_USE enum kl_status kl_core_object(const struct kl_view *view, struct kl_bytes vault_id,
                                          uint32_t kind, const char *name, enum kl_want want,
                                          Kluis__Store__ObjectRecord **out);
KL_MUST_USE enum kl_status kl_core_version(const struct kl_view *view, struct kl_bytes object_id,
                                           struct kl_bytes version_id,
                                           Kluis__Store__VersionRecord **out);
/* The stored result of a request id, or KL_NOT_FOUND. */
KL_MUST_USE enum kl_status kl_core_request(const struct kl_view *view, struct kl_bytes request_id,
                                           Kluis__Store__RequestRecord **out);

/*
 * Lists. fn gets unpacked records, borrowed for the call; false stops. `after` is the (folded) name
 * or version id behind which to start; empty = from the start. KL_WANT_ANY is not allowed.
 */
typedef bool (*kl_vault_fn)(void *arg, const Kluis__Store__VaultRecord *vault);
typedef bool (*kl_object_fn)(void *arg, const char *name, const Kluis__Store__ObjectRecord *object);
typedef bool (*kl_version_fn)(void *arg, const Kluis__Store__VersionRecord *version);
typedef bool (*kl_claim_fn)(void *arg, const Kluis__Store__ClaimRecord *claim);
typedef bool (*kl_outbox_fn)(void *arg, const Kluis__Store__OutboxRecord *item);
typedef bool (*kl_node_fn)(void *arg, const Kluis__Store__NodeRecord *node);

KL_MUST_USE enum kl_status kl_core_vaults(const struct kl_view *view, enum kl_want want,
                                          const char *after, kl_vault_fn fn, void *arg);
KL_MUST_USE enum kl_status kl_core_objects(const struct kl_view *view, struct kl_bytes vault_id,
                                           uint32_t kind, enum kl_want want, const char *after,
                                           kl_object_fn fn, void *arg);
KL_MUST_USE enum kl_status kl_core_versions(const struct kl_view *view, struct kl_bytes object_id,
                                            struct kl_bytes after, kl_version_fn fn, void *arg);
KL_MUST_USE enum kl_status kl_core_pending_claims(const struct kl_view *view, kl_claim_fn fn,
                                                  void *arg);
KL_MUST_USE enum kl_status kl_core_nodes(const struct kl_view *view, kl_node_fn fn, void *arg);
KL_MUST_USE enum kl_status kl_core_outbox(const struct kl_view *view, kl_outbox_fn fn, void *arg);

/*
 * The retention scheduler's question: what is due at now_ms? Packs at most one Command (PurgeDue or
 * Collect; bounded batches) into *command; KL_NOT_FOUND when nothing is due. *next_ms gets the time
 * at which it is worth asking again (UINT64_MAX: nothing is scheduled). Cost grows with what is
 * due, not with what is stored.
 */
KL_MUST_USE enum kl_status kl_core_due(const struct kl_view *view, uint64_t now_ms,
                                       struct kl_buf *command, uint64_t *next_ms);
/* The same without purges: only what was purged before and is still to be collected. */
KL_MUST_USE enum kl_status kl_core_due_collect(const struct kl_view *view, uint64_t now_ms,
                                               struct kl_buf *command, uint64_t *next_ms);

#endif
