#include "server/raft/group_impl.h"

#include "common/alloc.h"
#include "server/core/entry.h"

#include <assert.h>
#include <string.h>

/* The proposal that follows in a list; mail links them in the mailbox and here. */
static struct kl_proposal *next_of(const struct kl_proposal *p)
{
    return (struct kl_proposal *)p->mail.next;
}

static void finish(struct kl_proposal *p, enum kl_status status, uint64_t index,
                   struct kl_bytes result)
{
    kl_buf_wipe(&p->command);
    p->mail.next = NULL;
    p->done(p, status, index, result);
}

static void finish_all(struct kl_proposal *list, enum kl_status status)
{
    while (list != NULL) {
        struct kl_proposal *p = list;

        list = next_of(p);
        finish(p, status, 0, (struct kl_bytes){NULL, 0});
    }
}

/* ---- entries under way ---- */

static struct kl_flight *flight_pop(struct kl_group *g)
{
    struct kl_flight *f = g->flights;

    g->flights = f->next;
    if (g->flights == NULL) {
        g->flights_tail = &g->flights;
    }
    g->flights_bytes -= f->bytes;
    f->next = g->landed; /* raft may still hold its request */
    g->landed = f;
    return f;
}

void kl_group_landed_free(struct kl_group *g)
{
    while (g->landed != NULL) {
        struct kl_flight *f = g->landed;

        g->landed = f->next;
        kl_free(f);
    }
}

void kl_group_landed(struct kl_group *g, uint64_t index, const struct kl_results *results)
{
    struct kl_flight *f = g->flights;
    struct kl_proposal *p;
    size_t pos = 0;

    /* An entry of another leader at the same index is not ours; then leadership is already gone,
     * and after() will say so to those who wait. */
    if (f == NULL || f->index != index || g->raft.state != RAFT_LEADER ||
        g->raft.current_term != f->term) {
        return;
    }
    flight_pop(g);
    p = f->proposals;
    f->proposals = NULL;
    while (p != NULL) {
        struct kl_proposal *one = p;
        struct kl_bytes result = {NULL, 0};
        bool have = kl_results_next(results, &pos, &result);

        p = next_of(p);
        finish(one, have ? KL_OK : KL_UNAVAILABLE, index, result);
    }
}

void kl_group_write_lost(struct kl_group *g)
{
    while (g->flights != NULL) {
        struct kl_flight *f = flight_pop(g);
        struct kl_proposal *list = f->proposals;

        f->proposals = NULL;
        finish_all(list, KL_UNAVAILABLE);
    }
}

/* ---- the queue ---- */

static struct kl_proposal *queue_pop(struct kl_group *g)
{
    struct kl_proposal *p = g->queue;

    g->queue = next_of(p);
    if (g->queue == NULL) {
        g->queue_tail = &g->queue;
    }
    g->queue_bytes -= p->command.len;
    atomic_fetch_sub(&g->queued, 1);
    p->mail.next = NULL;
    return p;
}

static void queue_take(struct kl_group *g)
{
    struct kl_mail *mail = kl_mailbox_take(&g->proposals);

    while (mail != NULL) {
        struct kl_proposal *p = (struct kl_proposal *)mail;

        mail = mail->next;
        p->mail.next = NULL;
        *g->queue_tail = p;
        g->queue_tail = (struct kl_proposal **)(void *)&p->mail.next;
        g->queue_bytes += p->command.len;
    }
}

void kl_group_write_fail(struct kl_group *g, enum kl_status status)
{
    struct kl_proposal *list = NULL;
    struct kl_proposal **tail = &list;

    queue_take(g);
    while (g->queue != NULL) {
        struct kl_proposal *p = queue_pop(g);

        *tail = p;
        tail = (struct kl_proposal **)(void *)&p->mail.next;
    }
    finish_all(list, status);
}

static bool late(const struct kl_proposal *p, uint64_t now)
{
    return p->give_up_us != 0 && p->give_up_us <= now;
}

/* Those whose time ran out while they waited. */
static void queue_expire(struct kl_group *g, uint64_t now)
{
    struct kl_proposal *list = g->queue;
    struct kl_proposal *gone = NULL;
    struct kl_proposal **gone_tail = &gone;

    g->queue = NULL;
    g->queue_tail = &g->queue;
    while (list != NULL) {
        struct kl_proposal *p = list;

        list = next_of(p);
        p->mail.next = NULL;
        if (late(p, now)) {
            g->queue_bytes -= p->command.len;
            atomic_fetch_sub(&g->queued, 1);
            *gone_tail = p;
            gone_tail = (struct kl_proposal **)(void *)&p->mail.next;
        } else {
            *g->queue_tail = p;
            g->queue_tail = (struct kl_proposal **)(void *)&p->mail.next;
        }
    }
    finish_all(gone, KL_TIMEOUT);
}

/* ---- proposing ---- */

static uint64_t clock_ms(const struct kl_group *g)
{
    return g->host->clock->wall_ms(g->host->clock->ctx);
}

static uint64_t stamp(struct kl_group *g)
{
    uint64_t ms = clock_ms(g);

    if (ms < g->applied_ms) {
        ms = g->applied_ms;
    }
    if (ms < g->stamp_ms) {
        ms = g->stamp_ms;
    }
    g->stamp_ms = ms;
    return ms;
}

/* Moves proposals of the queue into one entry. */
static enum kl_status entry_fill(struct kl_group *g, struct kl_flight *f, uint64_t now)
{
    struct kl_proposal **tail = &f->proposals;
    uint32_t count = 0;
    enum kl_status st;

    kl_buf_clear(&g->entry);
    st = kl_entry_begin(&g->entry, stamp(g));
    while (st == KL_OK && g->queue != NULL && count < KL_ENTRY_COMMANDS_MAX) {
        struct kl_proposal *p = g->queue;

        if (late(p, now)) {
            finish(queue_pop(g), KL_TIMEOUT, 0, (struct kl_bytes){NULL, 0});
            continue;
        }
        if (count != 0 && g->entry.len + p->command.len > KL_ENTRY_TARGET) {
            break;
        }
        st = kl_entry_add(&g->entry, kl_buf_bytes(&p->command));
        if (st != KL_OK) {
            break;
        }
        (void)queue_pop(g);
        kl_buf_wipe(&p->command);
        *tail = p;
        tail = (struct kl_proposal **)(void *)&p->mail.next;
        count++;
    }
    if (st == KL_OK && count == 0) {
        return KL_NOT_FOUND; /* all had expired */
    }
    return st == KL_OK ? kl_entry_end(&g->entry) : st;
}

static enum kl_status entry_submit(struct kl_group *g, struct kl_flight *f)
{
    struct raft_buffer buf = {raft_malloc(g->entry.len), g->entry.len};
    int rv;

    if (buf.base == NULL) {
        return KL_NO_MEMORY;
    }
    memcpy(buf.base, g->entry.ptr, g->entry.len);
    f->bytes = g->entry.len;
    f->term = g->raft.current_term;
    f->index = raft_last_index(&g->raft) + 1;
    rv = kl_wio_submit(&g->wio, &f->req, &buf, 1);
    if (rv == 0) {
        return KL_OK;
    }
    if (rv != RAFT_NOTLEADER && rv != RAFT_NOSPACE) {
        kl_group_fatal(g, "Raft refused an entry: %s", raft_strerror(rv));
        return KL_UNAVAILABLE; /* and it may have taken the memory */
    }
    raft_free(buf.base);
    return rv == RAFT_NOSPACE ? KL_NO_SPACE : KL_NOT_LEADER;
}

/* false: nothing more can be proposed now. */
static bool propose_one(struct kl_group *g, uint64_t now)
{
    struct kl_flight *f = kl_calloc(1, sizeof *f);
    struct kl_proposal *list;
    enum kl_status st = KL_NO_MEMORY;

    if (f == NULL) {
        kl_group_write_fail(g, st);
        return false;
    }
    st = entry_fill(g, f, now);
    if (st == KL_OK) {
        st = entry_submit(g, f);
    }
    if (st == KL_OK) {
        *g->flights_tail = f;
        g->flights_tail = &f->next;
        g->flights_bytes += f->bytes;
        g->proposed_us = now;
        return true;
    }
    list = f->proposals;
    kl_free(f);
    finish_all(list, st);
    if (st != KL_NOT_FOUND && g->queue != NULL && list == NULL) {
        /* The first command alone does not fit, so it never will. */
        finish(queue_pop(g), st, 0, (struct kl_bytes){NULL, 0});
    }
    return st == KL_NOT_FOUND && g->queue != NULL;
}

/*
 * One entry costs a write to every log, whatever it holds. While entries are under way, what comes
 * gathers: until there is a full entry of it, or a while has passed since the last (links may be
 * long), or nothing is under way any more.
 */
static bool worth_it(const struct kl_group *g, uint64_t now)
{
    if (g->queue == NULL || g->flights_bytes >= KL_INFLIGHT_BYTES_MAX) {
        return false;
    }
    return g->flights == NULL || g->queue_bytes >= KL_ENTRY_TARGET ||
           now - g->proposed_us >= KL_GATHER_US;
}

/* Is this leader, whose store is full, about to be followed by one that has room? Then what waits here
 * is soon told where to go. */
static bool giving_way(struct kl_group *g, uint64_t now)
{
    return g->full_since_us != 0 &&
           now - g->full_since_us <= 2 * (uint64_t)g->options.election_timeout_ms * 1000 &&
           kl_group_successor(g, true) != 0;
}

void kl_group_write_turn(struct kl_group *g)
{
    uint64_t now;

    kl_group_landed_free(g);
    queue_take(g);
    if (g->queue == NULL) {
        return;
    }
    if (g->lead_term == 0) {
        kl_group_write_fail(g, KL_NOT_LEADER);
        return;
    }
    now = kl_group_now_us(g);
    if (g->no_space_log || (g->no_space_store && !giving_way(g, now))) {
        kl_group_write_fail(g, KL_NO_SPACE);
        return;
    }
    /* Before the last entry of former terms is applied its time is not known, and stamps must not
     * fall. A node that has just started may not know the time yet. During a transfer Raft takes
     * nothing; if it fails we go on. */
    if (!g->ready || clock_ms(g) == 0 || g->no_space_store || raft_transferee(&g->raft) != 0 ||
        g->step == KL_STEP_SETTLING) {
        queue_expire(g, now);
        return;
    }
    while (!g->dead && worth_it(g, now)) {
        if (!propose_one(g, now)) {
            break;
        }
    }
    /* On a long link nothing else may happen before the entries under way come back. */
    if (!g->dead && g->queue != NULL && g->flights_bytes < KL_INFLIGHT_BYTES_MAX) {
        kl_group_due(g, g->proposed_us + KL_GATHER_US);
    }
}

enum kl_status kl_group_propose(struct kl_group *g, struct kl_proposal *p)
{
    bool was_empty;

    if (p->command.len > KL_COMMAND_MAX) {
        return KL_TOO_LARGE;
    }
    if (atomic_fetch_add(&g->queued, 1) >= KL_PROPOSALS_QUEUED_MAX) {
        atomic_fetch_sub(&g->queued, 1);
        return KL_EXHAUSTED;
    }
    if (!kl_mailbox_put(&g->proposals, &p->mail, &was_empty)) {
        atomic_fetch_sub(&g->queued, 1);
        return atomic_load(&g->shut) ? KL_CLOSED : KL_EXHAUSTED;
    }
    if (was_empty) {
        kl_group_wake(g);
    }
    return KL_OK;
}

/* ---- space in the log ---- */

/*
 * Raft's own check would also refuse its own entries, so it is off. Ours: enough voters must have
 * room for some segments of log. A probe, an empty entry, makes the storage look for space again
 * when it has stopped doing so.
 */
void kl_group_space_check(struct kl_group *g)
{
    const struct raft *r = &g->raft;
    uint64_t now = kl_group_now_us(g);
    unsigned voters = 0;
    unsigned short_of = 0;
    bool full;

    if (g->lead_term == 0) {
        if (g->no_space_log != (g->wio.io->capacity < KL_LOG_CAPACITY_MIN_KB)) {
            g->no_space_log = !g->no_space_log;
            g->changed = true;
        }
        return;
    }
    for (unsigned i = 0; i < r->configuration.n; i++) {
        const struct raft_server *s = &r->configuration.servers[i];
        const struct kl_ack *ack;

        if (s->role != RAFT_VOTER) {
            continue;
        }
        voters++;
        if (s->id == r->id) {
            short_of += g->wio.io->capacity < KL_LOG_CAPACITY_MIN_KB;
            continue;
        }
        ack = kl_group_ack(g, s->id);
        short_of += ack != NULL && ack->heard_us != 0 && ack->capacity < KL_LOG_CAPACITY_MIN_KB;
    }
    full = voters != 0 && voters - short_of <= voters / 2;
    if (full != g->no_space_log) {
        g->no_space_log = full;
        g->changed = true;
    }
    if (full && raft_transferee(r) == 0 && now - g->probe_us >= (uint64_t)KL_LOG_PROBE_MS * 1000 &&
        (g->probe_term != g->lead_term || r->last_applied >= g->probe_index)) {
        g->probe_us = now;
        g->probe_term = g->lead_term;
        g->probe_index = raft_last_index(&g->raft) + 1;
        memset(&g->probe, 0, sizeof g->probe);
        (void)raft_barrier(&g->raft, &g->probe, NULL);
    }
}

/*
 * A full disk on the leader alone must not stop writes: the others have a majority. A full store is
 * certain at once; the log's prepared space may run short for a moment on any busy node.
 */
void kl_group_full_check(struct kl_group *g)
{
    uint64_t now = kl_group_now_us(g);
    bool log_full = !g->no_space_log && g->wio.io->capacity < KL_LOG_CAPACITY_MIN_KB;

    if (g->lead_term == 0 || !(g->no_space_store || log_full)) {
        g->full_since_us = 0;
        g->full_tried_us = 0;
        return;
    }
    if (g->full_since_us == 0) {
        g->full_since_us = now;
    }
    if (!g->no_space_store && now - g->full_since_us < (uint64_t)KL_LOG_PROBE_MS * 1000) {
        return;
    }
    if (g->steers == NULL && g->step == KL_STEP_IDLE &&
        (g->full_tried_us == 0 || now - g->full_tried_us >= (uint64_t)KL_LOG_PROBE_MS * 1000) &&
        kl_group_successor(g, true) != 0) {
        g->full_tried_us = now;
        (void)kl_group_hand_over(g);
    }
}
