/*
 * Finishes what a crash interrupted between two groups (DESIGN, "Create and purge a vault").
 *
 *   directory's leader   a claim still pending after claim_age_ms: has the home group create the vault
 *                        (Internal.PlaceVault), then confirms the claim; a claim that no home group
 *                        can ever take is released
 *   home group's leader  a purged vault in the outbox: has the directory release its name
 *                        (Internal.ReleaseVault), then takes it out of the outbox
 *
 * Every step is idempotent by the vault's id, so it does not matter who else is at it. One item at a
 * time; after a failure the next item, later and later. Owns no state that a new leader would need.
 */
#ifndef KL_FINISHER_H
#define KL_FINISHER_H

#include "server/raft/group.h"

struct kl_finisher;

/* reply: the packed response message of the method, borrowed; empty unless status is KL_OK. */
typedef void (*kl_finisher_reply_fn)(void *arg, enum kl_status status, struct kl_bytes reply);

struct kl_finisher_options {
    struct kl_group *group; /* id 0: the directory, else a home group */
    const struct kl_clock *clock;
    unsigned period_ms;    /* how often to look; 0 = 1,000 */
    unsigned claim_age_ms; /* a younger claim is still its creator's business; 0 = 5,000 */
    void *ctx;
    /*
     * Calls "/kluis.v1.Internal/..." at the leader of a group, which may be this node. Called inside
     * kl_finisher_tick(); must not block. KL_OK: done will be called exactly once, on any thread, soon or
     * late. Otherwise it will not be.
     */
    enum kl_status (*call)(void *ctx, uint16_t group, const char *method, struct kl_bytes request,
                           kl_finisher_reply_fn done, void *arg);
};

KL_MUST_USE enum kl_status kl_finisher_new(const struct kl_finisher_options *options,
                                           struct kl_finisher **out);
/* Call often, from one thread at a time: cheap when it is not yet time. */
void kl_finisher_tick(struct kl_finisher *f);
/* Vaults finished or released by this node. [any] */
uint64_t kl_finisher_finished(const struct kl_finisher *f);
/* A call or proposal under way may still come back; the memory goes then. f may be NULL. */
void kl_finisher_free(struct kl_finisher *f);

#endif
