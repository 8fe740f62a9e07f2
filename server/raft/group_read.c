/*
 * Leases and reads.
 *
 * A voter that answers an AppendEntries gives no vote, and asks for none, for one election timeout
 * from its arrival (Raft's own rule while it hears a leader; group.c keeps it across restarts). So
 * from the sending times of what a majority has answered, the leader knows until when no other can
 * be elected. It counts a margin less than the shortest election timeout, for clocks that drift,
 * and looks at its clock again after the read: a pause in between cannot give a stale answer.
 *
 * Readers are on other threads and take no lock here: `lease_until_us` and `epoch` say whether this
 * node leads, `gate` counts who is inside of the store.
 */
#include "server/raft/group_impl.h"

#include <assert.h>

/* ---- the gate ---- */

bool kl_group_gate_enter(struct kl_group *g)
{
    if ((atomic_fetch_add(&g->gate, 1) & KL_GATE_SHUT) != 0) {
        atomic_fetch_sub(&g->gate, 1);
        return false;
    }
    return true;
}

void kl_group_gate_leave(struct kl_group *g)
{
    atomic_fetch_sub(&g->gate, 1);
}

void kl_group_gate_shut(struct kl_group *g)
{
    atomic_fetch_or(&g->gate, KL_GATE_SHUT);
}

void kl_group_gate_open(struct kl_group *g)
{
    if ((atomic_load(&g->gate) & KL_GATE_SHUT) != 0) {
        atomic_fetch_and(&g->gate, ~KL_GATE_SHUT);
    }
}

bool kl_group_gate_empty(struct kl_group *g)
{
    return atomic_load(&g->gate) == KL_GATE_SHUT;
}

/* ---- the lease ---- */

void kl_group_lease_drop(struct kl_group *g)
{
    if (atomic_load(&g->lease_until_us) != 0) {
        atomic_store(&g->lease_until_us, 0);
        atomic_fetch_add(&g->epoch, 1);
    }
}

struct kl_ack *kl_group_ack(struct kl_group *g, uint64_t node)
{
    struct kl_ack *a;

    for (size_t i = 0; i < g->acks_n; i++) {
        if (g->acks[i].node == node) {
            return &g->acks[i];
        }
    }
    if (g->acks_n == KL_NODES_MAX) {
        return NULL;
    }
    a = &g->acks[g->acks_n++];
    *a = (struct kl_ack){.node = node};
    return a;
}

/* Keeps the n largest of the times seen, in falling order. */
static void insert(uint64_t *times, unsigned *n, uint64_t t)
{
    unsigned at = (*n)++;

    while (at > 0 && times[at - 1] < t) {
        times[at] = times[at - 1];
        at--;
    }
    times[at] = t;
}

uint64_t kl_group_majority_us(struct kl_group *g, bool asked)
{
    const struct raft_configuration *conf = &g->raft.configuration;
    uint64_t times[KL_NODES_MAX];
    unsigned n = 0;

    for (unsigned i = 0; i < conf->n && n < KL_NODES_MAX; i++) {
        const struct raft_server *s = &conf->servers[i];
        const struct kl_ack *ack;
        uint64_t t = 0;

        if (s->role != RAFT_VOTER) {
            continue;
        }
        if (s->id == g->raft.id) {
            insert(times, &n, kl_group_now_us(g));
            continue;
        }
        ack = kl_group_ack(g, s->id);
        if (ack != NULL) {
            t = asked && ack->confirmed_us > ack->sent_us ? ack->confirmed_us : ack->sent_us;
        }
        insert(times, &n, t);
    }
    return n == 0 ? 0 : times[n / 2]; /* the last one that a majority has reached */
}

void kl_group_lease_renew(struct kl_group *g)
{
    uint64_t span =
        (uint64_t)g->options.election_timeout_ms * 1000 * (100 - KL_LEASE_MARGIN_PCT) / 100;
    uint64_t confirmed;

    if (g->lead_term == 0 || !g->ready || g->dead || g->closing ||
        g->lease_off_term == g->lead_term) {
        kl_group_lease_drop(g);
        return;
    }
    confirmed = kl_group_majority_us(g, false);
    if (confirmed == 0) {
        kl_group_lease_drop(g);
        return;
    }
    atomic_store(&g->lease_until_us, confirmed + span);
}

/* ---- reads ---- */

static enum kl_status leaderless(struct kl_group *g)
{
    uint64_t leader = atomic_load(&g->leader);

    return leader != 0 && leader != g->options.node_id ? KL_NOT_LEADER : KL_UNAVAILABLE;
}

static bool lease_holds(struct kl_group *g)
{
    return atomic_load(&g->lease_until_us) > kl_group_now_us(g);
}

static enum kl_status snapshot_take(struct kl_group *g, struct kl_read *read)
{
    read->store.kv = g->kv;
    read->store.snap = kl_kv_snap_new(g->kv);
    if (read->store.snap == NULL) {
        return KL_NO_MEMORY;
    }
    read->view = kl_kv_view(&read->store);
    return KL_OK;
}

enum kl_status kl_group_read_begin(struct kl_group *g, struct kl_read *read)
{
    enum kl_status st;

    if (!kl_group_gate_enter(g)) {
        return leaderless(g);
    }
    read->epoch = atomic_load(&g->epoch);
    read->applied = atomic_load(&g->applied);
    if (!lease_holds(g)) {
        kl_group_gate_leave(g);
        return leaderless(g);
    }
    st = snapshot_take(g, read);
    if (st != KL_OK) {
        kl_group_gate_leave(g);
    }
    return st;
}

enum kl_status kl_group_read_end(struct kl_group *g, struct kl_read *read)
{
    bool held = lease_holds(g) && atomic_load(&g->epoch) == read->epoch;

    kl_group_read_local_end(g, read);
    return held ? KL_OK : KL_UNAVAILABLE;
}

/* Any replica's store; the caller knows what that is worth. */
static enum kl_status read_here(struct kl_group *g, struct kl_read *read)
{
    enum kl_status st;

    if (!kl_group_gate_enter(g)) {
        return KL_UNAVAILABLE;
    }
    read->epoch = 0;
    read->applied = atomic_load(&g->applied);
    st = snapshot_take(g, read);
    if (st != KL_OK) {
        kl_group_gate_leave(g);
    }
    return st;
}

enum kl_status kl_group_read_local(struct kl_group *g, struct kl_read *read)
{
    return read_here(g, read);
}

enum kl_status kl_group_read_confirmed(struct kl_group *g, struct kl_read *read)
{
    return read_here(g, read);
}

/* The age is taken before the snapshot: what is applied in between only makes it younger. Under the
 * lease nothing can have been acknowledged elsewhere, so the leader's own state is of now. */
enum kl_status kl_group_read_stale(struct kl_group *g, struct kl_read *read)
{
    uint64_t now = kl_group_now_us(g);

    read->fresh_us = atomic_load(&g->lease_until_us) > now ? now : atomic_load(&g->fresh_us);
    return read->fresh_us == 0 ? KL_UNAVAILABLE : read_here(g, read);
}

uint64_t kl_group_read_age_us(struct kl_group *g, const struct kl_read *read)
{
    uint64_t now = kl_group_now_us(g);

    return now > read->fresh_us ? now - read->fresh_us : 0;
}

void kl_group_read_local_end(struct kl_group *g, struct kl_read *read)
{
    kl_kv_snap_free(read->store.kv, read->store.snap);
    read->store.snap = NULL;
    read->store.kv = NULL;
    kl_group_gate_leave(g);
}
