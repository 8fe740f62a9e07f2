/*
 * What must never be, whatever happens to nodes, disks and networks. Each check names the property
 * it stands for; none of them knows how the code under test keeps it.
 */
#include "tests/sim/parts.h"

#include "common/alloc.h"
#include "server/core/entry.h"
#include "server/core/keys.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum {
    FUTURE_ACKS = 64,
    /* Wall clocks of healthy nodes differ by up to this, so purges may be this early in true time. */
    CLOCKS_MS = 150,
    FIELD_INDEX = 1,
    FIELD_TIME = 3,
    FIELD_DELETED = 6,
    FIELD_PURGE = 7,
};

struct known {
    struct sim_entry *entry;
    struct known *next;
};

struct slot {
    struct known *known;         /* entries ever appended at this index, one per term */
    struct sim_entry *committed; /* as first seen */
    raft_term committed_term;    /* of the leader, then */
    uint64_t state;              /* hash of the store after it; 0: not seen */
};

struct ack {
    uint64_t at_us, index;
};
enum { PAST_ACKS = 512 };

struct watched_group {
    struct slot *slots; /* by index */
    size_t slots_n;
    uint64_t *leaders; /* by term: node id */
    size_t leaders_n;
    uint64_t commit;
    uint64_t acked; /* highest index acknowledged by now */
    struct ack future[FUTURE_ACKS];
    size_t future_n;
    struct ack past[PAST_ACKS]; /* a ring: when the highest index rose */
    size_t past_n;
};

struct sim_watch {
    struct watched_group groups[SIM_GROUPS_MAX]; /* by group id */
};

void sim_watch_init(struct sim_world *w)
{
    w->watch = sim_zalloc(&w->heap, sizeof *w->watch);
}

void sim_watch_done(struct sim_world *w)
{
    for (size_t g = 0; g < SIM_GROUPS_MAX; g++) {
        struct watched_group *wg = &w->watch->groups[g];

        for (size_t i = 0; i < wg->slots_n; i++) {
            while (wg->slots[i].known != NULL) {
                struct known *k = wg->slots[i].known;

                wg->slots[i].known = k->next;
                sim_free(k->entry);
                sim_free(k);
            }
        }
        sim_free(wg->slots);
        sim_free(wg->leaders);
    }
    sim_free(w->watch);
}

static void *grown(struct sim_world *w, void *old, size_t *n, size_t needed, size_t size)
{
    size_t to = *n == 0 ? 256 : *n;
    void *p;

    if (needed < *n) {
        return old;
    }
    while (to <= needed) {
        to *= 2;
    }
    p = sim_zalloc(&w->heap, to * size);
    if (*n != 0) {
        memcpy(p, old, *n * size);
    }
    sim_free(old);
    *n = to;
    return p;
}

static struct slot *slot_of(struct sim_world *w, uint16_t group, uint64_t index)
{
    struct watched_group *g = &w->watch->groups[group];

    g->slots = grown(w, g->slots, &g->slots_n, (size_t)index, sizeof *g->slots);
    return &g->slots[index];
}

/* Log matching: entries with the same index and term are the same entry. */
struct sim_entry *sim_watch_entry(struct sim_world *w, uint16_t group, raft_index index,
                                  const struct raft_entry *e)
{
    struct slot *slot = slot_of(w, group, index);
    struct known *k;

    for (k = slot->known; k != NULL; k = k->next) {
        if (k->entry->term != e->term) {
            continue;
        }
        if (k->entry->type != (unsigned)e->type || k->entry->len != e->buf.len ||
            memcmp(k->entry->data, e->buf.base, e->buf.len) != 0) {
            sim_fail(w, "log matching: two entries at index %llu of term %llu in group %u", index,
                     e->term, group);
        }
        return k->entry;
    }
    k = sim_alloc(&w->heap, sizeof *k);
    k->entry = sim_alloc(&w->heap, sizeof *k->entry + e->buf.len);
    *k->entry = (struct sim_entry){.term = e->term,
                                   .index = index,
                                   .group = group,
                                   .type = (unsigned)e->type,
                                   .born_us = sim_now(w),
                                   .len = e->buf.len};
    memcpy(k->entry->data, e->buf.base, e->buf.len);
    k->next = slot->known;
    slot->known = k;
    return k->entry;
}

/* Leader completeness, seen from the disk: what was committed is never cut away, but by a leader of
 * former terms from the log of one that did not take part in the commit. */
void sim_watch_truncate(struct sim_world *w, struct sim_replica *r, struct sim_entry *gone,
                        raft_term term)
{
    struct slot *slot = slot_of(w, r->group_id, gone->index);

    if (slot->committed == gone && term >= slot->committed_term) {
        sim_fail(w, "n%" PRIu64 " g%u removes committed entry %llu of term %llu", r->node->id,
                 r->group_id, gone->index, gone->term);
    }
}

/* ---- leaders, terms, commits ---- */

static void watch_commit(struct sim_world *w, struct sim_replica *r, uint64_t commit,
                         raft_term term)
{
    struct watched_group *g = &w->watch->groups[r->group_id];

    while (g->commit < commit) {
        struct slot *slot = slot_of(w, r->group_id, ++g->commit);

        slot->committed = sim_disk_entry(&r->disk, g->commit);
        slot->committed_term = term;
    }
}

static void watch_leader(struct sim_world *w, struct sim_replica *r, uint64_t term)
{
    struct watched_group *g = &w->watch->groups[r->group_id];

    if (r->led_term == term) {
        return;
    }
    r->led_term = term;
    g->leaders = grown(w, g->leaders, &g->leaders_n, (size_t)term, sizeof *g->leaders);
    if (g->leaders[term] != 0 && g->leaders[term] != r->node->id) {
        sim_fail(
            w, "election safety: group %u has leaders %" PRIu64 " and %" PRIu64 " in term %" PRIu64,
            r->group_id, g->leaders[term], r->node->id, term);
    }
    g->leaders[term] = r->node->id;
    w->stats.elections++;
    sim_say(w, "n%" PRIu64 " leads g%u in term %" PRIu64, r->node->id, r->group_id, term);
}

static void tell_configuration(struct sim_world *w, struct sim_replica *r, const struct raft *raft)
{
    uint64_t now =
        raft->configuration_committed_index << 32 | raft->configuration_uncommitted_index;

    if (r->told_configuration != now) {
        r->told_configuration = now;
        sim_say(w, "n%" PRIu64 " g%u configuration: committed %llu, uncommitted %llu, commit %llu",
                r->node->id, r->group_id, raft->configuration_committed_index,
                raft->configuration_uncommitted_index, raft->commit_index);
    }
}

void sim_watch_node(struct sim_world *w, struct sim_node *n)
{
    for (unsigned i = 0; n->up && i < w->plan.groups; i++) {
        struct sim_replica *r = &n->replicas[i];
        const struct raft *raft = r->io.data;

        if (r->group == NULL || n->closing || raft == NULL) {
            continue;
        }
        if (raft->state == RAFT_LEADER) {
            watch_leader(w, r, raft->current_term);
        }
        watch_commit(w, r, raft->commit_index, raft->current_term);
        if (w->verbose > 1) {
            tell_configuration(w, r, raft);
        }
    }
}

/* A process may only end itself over a disk that misbehaves. */
void sim_watch_fatal(struct sim_world *w, struct sim_replica *r, const char *why)
{
    if (!r->node->excused) {
        sim_fail(w, "n%" PRIu64 " g%u ends itself without need: %s", r->node->id, r->group_id, why);
    }
}

/* ---- acknowledgements ---- */

static void settle_acks(struct sim_world *w, struct watched_group *g)
{
    size_t kept = 0;

    for (size_t i = 0; i < g->future_n; i++) {
        if (g->future[i].at_us <= sim_now(w)) {
            g->past[g->past_n++ % PAST_ACKS] = g->future[i];
            g->acked = g->future[i].index > g->acked ? g->future[i].index : g->acked;
        } else {
            g->future[kept++] = g->future[i];
        }
    }
    g->future_n = kept;
}

/* Is the entry, or a snapshot that covers it, on the node's disk? */
static bool on_disk(struct sim_world *w, uint64_t node, size_t g, const struct sim_entry *e)
{
    const struct sim_node *n = sim_node(w, node);
    const struct sim_disk *d = n == NULL ? NULL : &n->replicas[g].disk;

    return d != NULL && (d->snapshot.index >= e->index ||
                         (e->index >= d->start && e->index - d->start < d->entries_n &&
                          d->entries[e->index - d->start] == e));
}

/* A write is acknowledged only when it is on disk at a majority of voters. */
void sim_watch_acked(struct sim_world *w, struct sim_replica *r, uint64_t index)
{
    struct watched_group *g = &w->watch->groups[r->group_id];
    const struct raft *raft = r->io.data;
    const struct sim_entry *e = sim_disk_entry(&r->disk, index);
    size_t at = (size_t)(r - r->node->replicas);
    unsigned voters = 0;
    unsigned have = 0;

    watch_commit(w, r, raft->commit_index, raft->current_term);
    settle_acks(w, g);
    for (unsigned i = 0; e != NULL && i < raft->configuration.n; i++) {
        if (raft->configuration.servers[i].role == RAFT_VOTER) {
            voters++;
            have += on_disk(w, raft->configuration.servers[i].id, at, e);
        }
    }
    if (have <= voters / 2) {
        sim_fail(w, "n%" PRIu64 " g%u acknowledges %" PRIu64 ", which is on %u of %u disks",
                 r->node->id, r->group_id, index, have, voters);
    }
    /* A stalled node acts in what is the future of others. */
    if (g->future_n < FUTURE_ACKS) {
        g->future[g->future_n++] = (struct ack){sim_now(w), index};
    }
}

uint64_t sim_watch_acked_index(struct sim_world *w, uint16_t group)
{
    settle_acks(w, &w->watch->groups[group]);
    return w->watch->groups[group].acked;
}

uint64_t sim_watch_acked_by(struct sim_world *w, uint16_t group, uint64_t at_us)
{
    struct watched_group *g = &w->watch->groups[group];
    uint64_t index = 0;

    settle_acks(w, g);
    for (size_t i = 0; i < PAST_ACKS && i < g->past_n; i++) {
        if (g->past[i].at_us <= at_us && g->past[i].index > index) {
            index = g->past[i].index;
        }
    }
    return index;
}

/* ---- the state ---- */

/* A number of a packed message, read without the generated code. */
static uint64_t number_of(struct kl_bytes m, unsigned field)
{
    const uint8_t *p = m.ptr;
    const uint8_t *end = p + m.len;
    uint64_t found = 0;

    while (p < end) {
        uint64_t tag = 0;
        uint64_t v = 0;

        for (unsigned s = 0; p < end; s += 7) {
            tag |= (uint64_t)(*p & 0x7f) << s;
            if ((*p++ & 0x80) == 0) {
                break;
            }
        }
        for (unsigned s = 0; p < end; s += 7) {
            v |= (uint64_t)(*p & 0x7f) << s;
            if ((*p++ & 0x80) == 0) {
                break;
            }
        }
        if ((tag & 7) == 2) {
            p += v; /* bytes: v is their length */
        } else if (tag >> 3 == field) {
            found = v;
        }
    }
    return found;
}

static struct kl_bytes applied_record(const struct sim_store *s)
{
    struct kl_key key = kl_key_applied();

    return sim_store_peek(s, kl_key_bytes(&key));
}

uint64_t sim_watch_applied(const struct sim_replica *r)
{
    return number_of(applied_record(&r->live), FIELD_INDEX);
}

/* Does the entry at this index with this stamp hold a purge that somebody asked for? */
static bool purge_was_asked(struct sim_world *w, uint16_t group, uint64_t index, uint64_t time_ms,
                            uint64_t *born_us)
{
    bool asked = false;

    *born_us = sim_now(w);
    for (struct known *k = slot_of(w, group, index)->known; k != NULL; k = k->next) {
        struct kl_entry entry;
        struct kl_bytes bytes;

        if (k->entry->type != RAFT_COMMAND ||
            kl_entry_parse((struct kl_bytes){k->entry->data, k->entry->len}, &entry) != KL_OK ||
            entry.time_ms != time_ms) {
            continue;
        }
        *born_us = k->entry->born_us < *born_us ? k->entry->born_us : *born_us;
        for (uint32_t i = 0; i < entry.count; i++) {
            Kluis__Log__Command *c = NULL;

            if (kl_entry_next(&entry, &bytes) == KL_OK) {
                c = kluis__log__command__unpack(&kl_pb_allocator, bytes.len, bytes.ptr);
            }
            if (c != NULL) {
                asked = asked || c->op_case == KLUIS__LOG__COMMAND__OP_OBJECT_PURGE ||
                        c->op_case == KLUIS__LOG__COMMAND__OP_VAULT_PURGE;
                kl_pb_wipe_free(&c->base, &kl_pb_allocator);
            }
        }
    }
    return asked;
}

/* Retention: an object goes by itself only when its time has come, on the log's clock and on the
 * world's, whatever the clocks of a minority say. */
static void watch_purge(struct sim_world *w, struct sim_replica *r, struct kl_bytes key,
                        uint64_t index, uint64_t time_ms)
{
    struct kl_bytes old = sim_store_peek(&r->live, key);
    uint64_t purge_ms = number_of(old, FIELD_PURGE);
    uint64_t deleted_ms = number_of(old, FIELD_DELETED);
    uint64_t born_us = 0;
    uint64_t true_ms;

    if (old.len == 0 || purge_was_asked(w, r->group_id, index, time_ms, &born_us)) {
        return;
    }
    w->stats.purges++;
    if (purge_ms == 0 || time_ms < purge_ms) {
        sim_fail(w, "an early purge: due at %" PRIu64 ", purged by entry %" PRIu64 " of %" PRIu64,
                 purge_ms, index, time_ms);
        return;
    }
    true_ms = sim_true_wall_ms(w) - (sim_now(w) - born_us) / SIM_MS;
    if (true_ms + CLOCKS_MS + w->clock_error_ms < deleted_ms + (purge_ms - deleted_ms) ||
        purge_ms - deleted_ms != 7 * w->plan.day_ms) {
        sim_fail(w, "an early purge: due at %" PRIu64 ", proposed at true time %" PRIu64, purge_ms,
                 true_ms);
    }
}

void sim_watch_batch(struct sim_world *w, struct sim_replica *r, const struct kl_batch *batch)
{
    struct sim_heap *node = sim_heap_enter(&w->heap);
    struct kl_key applied = kl_key_applied();
    enum kl_batch_op op;
    struct kl_bytes key;
    struct kl_bytes value;
    uint64_t before = sim_watch_applied(r);
    uint64_t index = 0;
    uint64_t time_ms = 0;

    for (size_t pos = 0; kl_batch_next(batch, &pos, &op, &key, &value);) {
        if (kl_bytes_eq(key, kl_key_bytes(&applied))) {
            index = number_of(value, FIELD_INDEX);
            time_ms = number_of(value, FIELD_TIME);
        }
    }
    if (index != 0 && index <= before) {
        sim_fail(w, "n%" PRIu64 " g%u applies %" PRIu64 " to a store that holds %" PRIu64,
                 r->node->id, r->group_id, index, before);
    }
    if (time_ms < number_of(applied_record(&r->live), FIELD_TIME) && index != 0) {
        sim_fail(w, "time goes back in the log of group %u at %" PRIu64, r->group_id, index);
    }
    for (size_t pos = 0; index != 0 && kl_batch_next(batch, &pos, &op, &key, &value);) {
        if (op == KL_BATCH_DEL && key.len != 0 && key.ptr[0] == 's') {
            watch_purge(w, r, key, index, time_ms);
        }
    }
    (void)sim_heap_enter(node);
}

/* State machine safety: after the same index every store holds the same. */
void sim_watch_state(struct sim_world *w, struct sim_replica *r)
{
    uint64_t index = sim_watch_applied(r);
    struct slot *slot;

    if (index == 0) {
        return;
    }
    slot = slot_of(w, r->group_id, index);
    if (slot->state == 0) {
        slot->state = r->live.hash;
    } else if (slot->state != r->live.hash) {
        sim_fail(w, "n%" PRIu64 " g%u: the state after %" PRIu64 " differs from another node's",
                 r->node->id, r->group_id, index);
    }
}

/* ---- the end ---- */

bool sim_watch_converged(struct sim_world *w)
{
    for (unsigned g = 0; g < w->plan.groups; g++) {
        uint64_t applied = 0;

        for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
            struct sim_node *n = &w->nodes[i];
            uint64_t mine;

            if (!n->member) {
                continue;
            }
            mine = sim_watch_applied(&n->replicas[g]);
            if (!n->up || mine == 0 || mine < w->watch->groups[n->replicas[g].group_id].acked ||
                (applied != 0 && mine != applied)) {
                return false;
            }
            applied = mine;
        }
    }
    return true;
}

bool sim_watch_home(struct sim_world *w)
{
    for (unsigned g = 0; g < w->plan.groups; g++) {
        unsigned home = 0;

        for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
            struct sim_node *n = &w->nodes[i];
            const struct raft *raft = n->replicas[g].io.data;

            if (!n->up || n->replicas[g].group == NULL || raft == NULL ||
                raft->state != RAFT_LEADER) {
                continue;
            }
            if (sim_distance(n->id) != KL_DISTANCE_HOME) {
                return false;
            }
            home++;
        }
        if (home != 1) {
            return false;
        }
    }
    return true;
}

static void compare(struct sim_world *w, unsigned g, struct sim_replica **first, uint8_t digest[32],
                    struct sim_replica *r)
{
    uint8_t mine[32];
    uint64_t records;
    bool was_open = r->live.open;
    enum kl_status st;

    r->live.open = true;
    st = kl_kv_digest(&r->live.kv, NULL, mine, &records);
    r->live.open = was_open;
    assert(st == KL_OK);
    if (*first == NULL) {
        *first = r;
        memcpy(digest, mine, sizeof mine);
    } else if (memcmp(digest, mine, sizeof mine) != 0 || (*first)->live.hash != r->live.hash) {
        sim_fail(w, "the stores of n%" PRIu64 " and n%" PRIu64 " differ in the end (group %u)",
                 (*first)->node->id, r->node->id, w->nodes[0].replicas[g].group_id);
    }
}

void sim_watch_end(struct sim_world *w)
{
    struct sim_heap *outside = sim_heap_enter(&w->heap);

    for (unsigned g = 0; g < w->plan.groups; g++) {
        struct sim_replica *first = NULL;
        uint8_t digest[32];

        for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
            if (w->nodes[i].member) {
                compare(w, g, &first, digest, &w->nodes[i].replicas[g]);
            }
        }
    }
    (void)sim_heap_enter(outside);
}
