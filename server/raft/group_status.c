#include "server/raft/group_impl.h"

#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(struct kl_group_status) % sizeof(uint64_t) == 0, "copied word by word");

static void members_fill(struct kl_group *g, struct kl_group_status *s)
{
    const struct raft_configuration *conf = &g->raft.configuration;

    for (unsigned i = 0; i < conf->n && i < KL_NODES_MAX; i++) {
        struct kl_group_member *m = &s->members[i];
        raft_index match = 0;

        m->node_id = conf->servers[i].id;
        m->role = conf->servers[i].role;
        if (g->raft.state == RAFT_LEADER && raft_match_index(&g->raft, m->node_id, &match) == 0) {
            m->match_index = match;
            m->lag_ms = match < s->last_index ? kl_group_lag_ms(g, match) : 0;
        }
        (void)snprintf(m->address, sizeof m->address, "%s", conf->servers[i].address);
        s->members_n++;
    }
}

/*
 * Words first, then an even version: a reader that saw a new word also sees the odd version that
 * was stored before it, and reads again.
 */
void kl_group_publish(struct kl_group *g)
{
    struct raft *r = &g->raft;
    struct kl_group_status s;
    const uint64_t *from = (const uint64_t *)(const void *)&s;
    uint64_t version = atomic_load_explicit(&g->version, memory_order_relaxed);

    kl_group_lag_note(g);
    memset(&s, 0, sizeof s);
    s.id = g->options.id;
    s.state = r->state;
    s.term = r->current_term;
    s.leader_id = atomic_load(&g->leader);
    s.last_index = raft_last_index(r);
    s.commit_index = r->commit_index;
    s.applied_index = r->last_applied;
    s.applied_ms = g->applied_ms;
    s.snapshot_index = r->trail.snapshot.index;
    s.ready = g->ready;
    s.lease = atomic_load(&g->lease_until_us) != 0;
    s.no_space = g->no_space_log || g->no_space_store;
    s.entries_applied = g->entries_applied;
    s.commands_applied = g->commands_applied;
    s.snapshots_taken = g->snapshots_taken;
    s.streams_sent = g->streams_sent;
    s.streams_received = g->streams_received;
    s.led = g->lead_term == 0 ? KL_LED_NOT : g->placement.how;
    s.led_since_ms = g->lead_term == 0 ? 0 : g->placement.led_ms;
    s.led_gap_ms = g->lead_term == 0 ? 0 : g->placement.gap_ms;
    s.leader_changes = g->placement.changes;
    s.failover = g->placement.failover;
    members_fill(g, &s);
    if (memcmp(&s, &g->published, sizeof s) == 0) {
        return;
    }
    g->published = s;
    atomic_store_explicit(&g->version, version + 1, memory_order_relaxed);
    for (size_t i = 0; i < KL_STATUS_WORDS; i++) {
        atomic_store_explicit(&g->words[i], from[i], memory_order_release);
    }
    atomic_store_explicit(&g->version, version + 2, memory_order_release);
}

void kl_group_status(struct kl_group *g, struct kl_group_status *out)
{
    uint64_t *to = (uint64_t *)(void *)out;
    uint64_t before;
    uint64_t after;

    do {
        before = atomic_load_explicit(&g->version, memory_order_acquire);
        for (size_t i = 0; i < KL_STATUS_WORDS; i++) {
            to[i] = atomic_load_explicit(&g->words[i], memory_order_acquire);
        }
        after = atomic_load_explicit(&g->version, memory_order_acquire);
    } while (before != after || before % 2 != 0);
    out->lease = out->lease && atomic_load(&g->lease_until_us) > kl_group_now_us(g);
}

uint64_t kl_group_leader(struct kl_group *g)
{
    return atomic_load(&g->leader);
}
