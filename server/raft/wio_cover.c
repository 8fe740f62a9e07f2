/*
 * Covers that stand on their own: who votes in very small clusters (N11, N13), what comes
 * a second time or late (N12, N17, N18), and changes close together (N19).
 *
 * N11: the only voter of a configuration elects itself without a new term and without a vote. After
 * a restart it leads the old term once more, and what it sent before the crash but had not stored
 * stands on a standby's disk under the same index and term as what it writes now: two logs that look
 * alike and are not. When the other voter has just removed itself there are two leaders in one term.
 *
 * So here such a node first takes a new term and votes for itself in it, as an election would.
 *
 * N13: a node gives no vote while its own log says that it has none. When the only voter crashes
 * between storing the change that makes a second one and sending it, it needs that second vote for
 * ever and never gets it. Whose votes count is for the candidate's configuration to say: a standby
 * answers like a voter.
 */
#include "server/raft/wio.h"

#include <string.h>

/* ---- who votes ---- */

/* Is `id` the only voter? */
static bool alone(const struct raft_configuration *conf, raft_id id)
{
    bool self = false;

    for (unsigned i = 0; i < conf->n; i++) {
        if (conf->servers[i].role == RAFT_VOTER) {
            if (conf->servers[i].id != id) {
                return false;
            }
            self = true;
        }
    }
    return self;
}

/* The configuration that raft is going to start with: the newest in the log, else the snapshot's. */
static bool starts_alone(const struct kl_wio *w, const struct raft_snapshot *snapshot,
                         const struct raft_entry *entries, size_t n)
{
    struct raft_configuration conf;
    bool is;

    for (size_t i = n; i-- > 0;) {
        if (entries[i].type != RAFT_CHANGE) {
            continue;
        }
        if (raft_configuration_decode(&entries[i].buf, &conf) != 0) {
            return false; /* raft will say so */
        }
        is = alone(&conf, w->raft->id);
        raft_configuration_close(&conf);
        return is;
    }
    return snapshot != NULL && alone(&snapshot->configuration, w->raft->id);
}

void kl_wio_loaded(struct kl_wio *w, const struct raft_snapshot *snapshot, raft_index start,
                   const struct raft_entry *entries, size_t n)
{
    w->loaded = n != 0 ? start + n - 1 : snapshot != NULL ? snapshot->index : 0;
    w->loaded_alone = starts_alone(w, snapshot, entries, n);
}

int kl_wio_solo_load(struct kl_wio *w, const struct raft_snapshot *snapshot,
                     const struct raft_entry *entries, size_t n, raft_term *term,
                     raft_id *voted_for)
{
    int rv;

    if ((w->covers & KL_COVER_SOLO) == 0 || !starts_alone(w, snapshot, entries, n)) {
        return 0;
    }
    rv = w->inner.set_term(w->io, *term + 1);
    if (rv == 0) {
        rv = w->inner.set_vote(w->io, w->raft->id);
    }
    if (rv == 0) {
        w->n_solo++;
        *term += 1;
        *voted_for = w->raft->id;
    }
    return rv;
}

bool kl_wio_solo(const struct kl_wio *w)
{
    return (w->covers & KL_COVER_SOLO) != 0 && alone(&w->raft->configuration, w->raft->id);
}

bool kl_wio_solo_due(const struct kl_wio *w)
{
    const struct raft *r = w->raft;

    /* In good time: raft stands for election some time after its election timeout. */
    return r->state == RAFT_FOLLOWER && !r->snapshot.installing &&
           (r->voted_for != r->id || w->solo_term != r->current_term) &&
           w->io->time(w->io) - r->election_timer_start >= r->election_timeout / 2 &&
           kl_wio_solo(w);
}

struct raft_server *kl_wio_standby(const struct kl_wio *w)
{
    const struct raft_configuration *conf = &w->raft->configuration;

    for (unsigned i = 0; (w->covers & KL_COVER_STANDBY) != 0 && i < conf->n; i++) {
        if (conf->servers[i].id == w->raft->id && conf->servers[i].role == RAFT_STANDBY) {
            return &conf->servers[i];
        }
    }
    return NULL;
}

bool kl_wio_leader_silent(const struct kl_wio *w)
{
    return w->io->time(w->io) - w->raft->election_timer_start >= w->raft->election_timeout;
}

/* ---- what comes again or late ---- */

/*
 * N17: a rejection that was overtaken by the acceptance of the same entries sets the next index of a
 * probed follower to one that it has; then raft counts what is in flight below zero, and never sends
 * that follower an entry again.
 */
bool kl_wio_stale_rejection(struct kl_wio *w, const struct raft_message *m)
{
    const struct raft_append_entries_result *a = &m->append_entries_result;
    raft_index match = 0;

    if ((w->covers & KL_COVER_REJECT) == 0 || a->rejected == 0 || w->raft->state != RAFT_LEADER ||
        a->term != w->raft->current_term || raft_match_index(w->raft, m->server_id, &match) != 0 ||
        a->rejected > match) {
        return false;
    }
    w->n_stale++;
    return true;
}

static raft_term trail_term(const struct raft *r, raft_index index)
{
    const struct raft_trail *t = &r->trail;

    if (index == t->snapshot.index) {
        return t->snapshot.term;
    }
    if (index <= t->offset) {
        return 0;
    }
    for (unsigned i = t->front; i != t->back; i = (i + 1) % t->size) {
        if (index <= t->records[i].index) {
            return t->records[i].term;
        }
    }
    return 0;
}

/* Does an AppendEntries contradict what is committed here? Raft would free its entries twice. */
bool kl_wio_contradicts(const struct kl_wio *w, const struct raft_append_entries *a)
{
    const struct raft *r = w->raft;
    raft_term have;

    if (a->term < r->current_term) {
        return false;
    }
    if (a->prev_log_index != 0 && a->prev_log_index <= r->commit_index) {
        have = trail_term(r, a->prev_log_index);
        if (have != 0 && have != a->prev_log_term) {
            return true;
        }
    }
    for (unsigned i = 0; i < a->n_entries; i++) {
        raft_index index = a->prev_log_index + 1 + i;

        if (index > r->commit_index) {
            return false;
        }
        have = trail_term(r, index);
        if (have != 0 && have != a->entries[i].term) {
            return true;
        }
    }
    return false;
}

/*
 * N12: entries at and below the end of the compacted log look new to raft when they come again, and
 * it appends them behind its last one; a heartbeat that starts there it rejects, and the leader goes
 * back further. What is committed here the leader has too: leave that out.
 */
void kl_wio_leave_out_stale(struct kl_wio *w, struct raft_append_entries *a)
{
    const struct raft *r = w->raft;
    uint64_t stale;

    if ((w->covers & KL_COVER_STALE) == 0 || a->term < r->current_term ||
        a->prev_log_index >= r->commit_index || trail_term(r, a->prev_log_index) != 0 ||
        trail_term(r, r->commit_index) == 0) {
        return;
    }
    if (a->prev_log_index == 0 && r->trail.offset == 0) {
        return; /* nothing was compacted */
    }
    w->n_stale++;
    stale = r->commit_index - a->prev_log_index;
    if (stale >= a->n_entries) {
        if (a->n_entries != 0) {
            raft_free(a->entries[0].batch);
            raft_free(a->entries);
        }
        a->entries = NULL;
        a->n_entries = 0;
    } else {
        a->n_entries -= (unsigned)stale;
        memmove(a->entries, a->entries + stale, a->n_entries * sizeof *a->entries);
    }
    a->prev_log_index = r->commit_index;
    a->prev_log_term = trail_term(r, r->commit_index);
}

/*
 * N19: when a follower hears of a change before it has applied the commit of the one before, raft
 * forgets to note that one as committed, and if the second is taken back it falls back behind the
 * first. But a leader makes a change only when the last is committed: so that it was.
 */
void kl_wio_chain(struct kl_wio *w, const struct raft_append_entries *a)
{
    struct raft *r = w->raft;
    raft_index first = r->configuration_uncommitted_index;
    struct raft_configuration conf;

    if ((w->covers & KL_COVER_CHAIN) == 0 || a->n_entries == 0 ||
        a->entries[0].type != RAFT_CHANGE || a->term < r->current_term || first == 0 ||
        r->snapshot.installing || first > a->prev_log_index ||
        trail_term(r, a->prev_log_index) != a->prev_log_term ||
        trail_term(r, a->prev_log_index + 1) == a->entries[0].term) {
        return; /* no change, no other before it, another log, or known already */
    }
    if (!kl_wio_configuration_copy(&r->configuration, &conf)) {
        return; /* out of memory: as raft would do it */
    }
    raft_configuration_close(&r->configuration_committed);
    r->configuration_committed = conf;
    r->configuration_committed_index = first;
}

static struct kl_wio_sent *sent_to(struct kl_wio *w, raft_id to)
{
    for (size_t i = 0; i < w->sent_n; i++) {
        if (w->sent[i].to == to) {
            return &w->sent[i];
        }
    }
    if (w->sent_n == KL_NODES_MAX) {
        w->sent_n = 0; /* peers have come and gone: at worst something is sent twice */
    }
    w->sent[w->sent_n] = (struct kl_wio_sent){.to = to};
    return &w->sent[w->sent_n++];
}

/*
 * N18: raft takes a follower that did not answer for a tick for lost and sends it all that it has not
 * acknowledged, again with every new entry: the slower it is, the more it gets. But connections lose
 * nothing on the way, so what was sent is left out. The message then follows on the last entry sent,
 * and a follower that lacks it, because a connection broke, rejects it: then it gets everything.
 *
 * Only to a follower that accepts: from where one rejects, raft draws conclusions about a snapshot.
 */
void kl_wio_leave_out_sent(struct kl_wio *w, raft_id to, struct raft_append_entries *a)
{
    struct kl_wio_sent *s = sent_to(w, to);
    raft_index last = a->prev_log_index + a->n_entries;
    raft_index known;

    if (s->term != a->term) {
        *s = (struct kl_wio_sent){.to = to, .term = a->term};
    }
    if (!s->accepts || a->n_entries == 0) {
        return;
    }
    if (s->until > a->prev_log_index) {
        known = s->until < last ? s->until : last;
        known -= a->prev_log_index;
        a->prev_log_term = a->entries[known - 1].term;
        a->prev_log_index += known;
        a->entries += known;
        a->n_entries -= (unsigned)known;
    }
    if (last > s->until) {
        s->until = last;
    }
}

void kl_wio_sent_answer(struct kl_wio *w, raft_id to, bool accepts)
{
    struct kl_wio_sent *s = sent_to(w, to);

    s->accepts = accepts;
    if (!accepts) {
        s->until = 0;
    }
}
