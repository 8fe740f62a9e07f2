/*
 * Reads that do not rest on the lease.
 *
 * Age. The promise of an age A: every write acknowledged longer ago than A is in the state.
 * A leader knows F, the time of its own clock at which it last asked something that a majority has
 * answered in its term: at F nobody else could have acknowledged anything. So what was acknowledged
 * before F, anywhere, is at or below its commit index, once it has committed an entry of its own
 * term. It sends how long ago F is with every AppendEntries; a leader that is cut off sends growing
 * figures, to whom it still reaches.
 *
 * A follower has to place F on its own clock. It puts a stamp into each answer; the leader sends the
 * last stamp back and says how long it has held it. Sending came after the stamp by at least the
 * time it was held, so
 *
 *     F >= stamp + held - age of F at sending
 *
 * on the follower's clock, whatever the links do; both spans are of the leader's clock and are
 * taken at their worse end within KL_CLOCK_DRIFT_PCT. F counts once the commit index that came with
 * it is applied.
 *
 * Confirmation. A leader asks all voters whether they know of a later term. A yes of a majority,
 * given after a read arrived, says that nobody else had been elected when the read arrived; no
 * clock is compared with another. Answers to AppendEntries serve as well.
 */
#include "server/raft/group_impl.h"

#include <assert.h>
#include <string.h>

/* ---- age ---- */

void kl_group_fresh_init(struct kl_group *g)
{
    uint8_t random[sizeof g->stamp_base];

    kl_mailbox_init(&g->confirms, KL_PROPOSALS_QUEUED_MAX);
    g->confirming_tail = &g->confirming;
    if (g->host->entropy != NULL &&
        g->host->entropy->fill(g->host->entropy->ctx, random, sizeof random) == KL_OK) {
        memcpy(&g->stamp_base, random, sizeof random);
    }
}

/* Never 0, which stands for none. */
uint64_t kl_group_stamp(const struct kl_group *g)
{
    uint64_t stamp = g->stamp_base + kl_group_now_us(g);

    return stamp == 0 ? UINT64_MAX : stamp; /* a microsecond earlier */
}

static bool leads(const struct kl_group *g)
{
    return g->lead_term != 0 && g->raft.state == RAFT_LEADER &&
           g->raft.current_term == g->lead_term;
}

void kl_group_fresh_send(struct kl_group *g, uint64_t to, uint64_t now,
                         struct kl_message_extra *extra)
{
    const struct kl_ack *ack = kl_group_ack(g, to);
    uint64_t confirmed = leads(g) && g->ready ? kl_group_majority_us(g, true) : 0;

    if (confirmed != 0 && confirmed <= now) {
        extra->fresh_us = now - confirmed + 1;
    }
    if (ack != NULL && ack->stamp != 0) {
        extra->echo = ack->stamp;
        extra->held_us = now - ack->stamped_us;
    }
}

static void fresh_raise(struct kl_group *g, uint64_t at_us)
{
    if (at_us > atomic_load(&g->fresh_us)) {
        atomic_store(&g->fresh_us, at_us);
    }
}

/* The longest and the shortest that a span of another clock can be on ours. */
static uint64_t at_most(uint64_t us)
{
    return us + us / 100 * KL_CLOCK_DRIFT_PCT + 1;
}

static uint64_t at_least(uint64_t us)
{
    return us - us / 100 * KL_CLOCK_DRIFT_PCT;
}

static void mark_add(struct kl_group *g, uint64_t commit, uint64_t at_us)
{
    struct kl_fresh_mark *last = g->marks_n == 0 ? NULL : &g->marks[g->marks_n - 1];

    if (last != NULL && last->commit == commit) {
        last->at_us = at_us > last->at_us ? at_us : last->at_us;
    } else if (g->marks_n < KL_FRESH_MARKS_MAX) { /* full: the first ones must come to their end */
        g->marks[g->marks_n++] = (struct kl_fresh_mark){commit, at_us};
    }
}

void kl_group_fresh_heard(struct kl_group *g, uint64_t commit, const struct kl_message_extra *extra)
{
    uint64_t now = kl_group_now_us(g);
    uint64_t stamped = extra->echo - g->stamp_base;
    uint64_t sent;

    if (extra->fresh_us == 0 || extra->echo == 0 || stamped < g->started_us || stamped > now ||
        extra->held_us > now || extra->fresh_us > now) {
        return;
    }
    sent = stamped + at_least(extra->held_us);
    sent = sent < now ? sent : now;
    if (sent > at_most(extra->fresh_us)) {
        mark_add(g, commit, sent - at_most(extra->fresh_us));
    }
}

void kl_group_fresh_update(struct kl_group *g)
{
    uint64_t applied = atomic_load(&g->applied);
    uint64_t confirmed;
    size_t left = 0;

    for (size_t i = 0; i < g->marks_n; i++) {
        if (g->marks[i].commit <= applied) {
            fresh_raise(g, g->marks[i].at_us);
        } else {
            g->marks[left++] = g->marks[i];
        }
    }
    g->marks_n = left;
    /* A leader acknowledges what it has applied; what others did before it, `ready` waits for. */
    if (leads(g) && g->ready) {
        confirmed = kl_group_majority_us(g, true);
        fresh_raise(g, confirmed);
    }
}

/* ---- confirmation ---- */

static struct kl_confirm *next_of(const struct kl_confirm *c)
{
    return (struct kl_confirm *)c->mail.next;
}

static void take(struct kl_group *g)
{
    struct kl_mail *mail = kl_mailbox_take(&g->confirms);
    uint64_t now = kl_group_now_us(g);

    while (mail != NULL) {
        struct kl_confirm *c = (struct kl_confirm *)mail;

        mail = mail->next;
        c->mail.next = NULL;
        c->at_us = now; /* no earlier than it came */
        g->confirming_us = now;
        *g->confirming_tail = c;
        g->confirming_tail = (struct kl_confirm **)(void *)&c->mail.next;
    }
}

/* Ends those that the test picks; the order of the others stays. */
static void end_some(struct kl_group *g, bool (*picks)(const struct kl_confirm *c, uint64_t us),
                     uint64_t us, enum kl_status status)
{
    struct kl_confirm *list = g->confirming;

    g->confirming = NULL;
    g->confirming_tail = &g->confirming;
    while (list != NULL) {
        struct kl_confirm *c = list;

        list = next_of(c);
        c->mail.next = NULL;
        if (picks(c, us)) {
            c->done(c, status); /* c may be gone */
        } else {
            *g->confirming_tail = c;
            g->confirming_tail = (struct kl_confirm **)(void *)&c->mail.next;
        }
    }
}

static bool pick_all(const struct kl_confirm *c, uint64_t us)
{
    (void)c;
    (void)us;
    return true;
}

static bool pick_confirmed(const struct kl_confirm *c, uint64_t us)
{
    return c->at_us <= us;
}

static bool pick_late(const struct kl_confirm *c, uint64_t us)
{
    return c->give_up_us != 0 && c->give_up_us <= us;
}

void kl_group_confirm_fail(struct kl_group *g)
{
    uint64_t leader = atomic_load(&g->leader);

    take(g);
    end_some(g, pick_all, 0,
             leader != 0 && leader != g->options.node_id ? KL_NOT_LEADER : KL_UNAVAILABLE);
}

static void ask(struct kl_group *g, uint64_t now)
{
    const struct raft_configuration *conf = &g->raft.configuration;
    Kluis__Peer__Confirm body = KLUIS__PEER__CONFIRM__INIT;
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;

    body.term = g->lead_term;
    body.asked_us = now;
    m.body_case = KLUIS__PEER__MESSAGE__BODY_CONFIRM;
    m.confirm = &body;
    g->round_us = now;
    for (unsigned i = 0; i < conf->n; i++) {
        if (conf->servers[i].role == RAFT_VOTER && conf->servers[i].id != g->raft.id) {
            kl_group_send(g, conf->servers[i].id, KL_LANE_CONTROL, &m);
        }
    }
}

void kl_group_confirm_turn(struct kl_group *g)
{
    uint64_t now = kl_group_now_us(g);
    uint64_t confirmed;

    take(g);
    if (g->confirming == NULL) {
        return;
    }
    if (!leads(g)) {
        kl_group_confirm_fail(g);
        return;
    }
    end_some(g, pick_late, now, KL_TIMEOUT);
    if (!g->ready || g->confirming == NULL) {
        return; /* what former leaders acknowledged is not applied yet */
    }
    confirmed = kl_group_majority_us(g, true);
    end_some(g, pick_confirmed, confirmed, KL_OK);
    if (g->confirming == NULL) {
        return;
    }
    /* A round for those that came after the last one; and again when its answers stay away. */
    if ((g->confirming_us > g->round_us && now - g->round_us >= KL_CONFIRM_GAP_US) ||
        now - g->round_us >= (uint64_t)g->options.tick_ms * 1000) {
        ask(g, now);
    } else if (g->confirming_us > g->round_us) {
        kl_group_due(g, g->round_us + KL_CONFIRM_GAP_US);
    }
}

void kl_group_on_confirm(struct kl_group *g, uint64_t from, const Kluis__Peer__Confirm *in)
{
    Kluis__Peer__Confirmed body = KLUIS__PEER__CONFIRMED__INIT;
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;

    if (in->term == 0 || in->term != g->raft.current_term || g->raft.state == RAFT_LEADER) {
        return;
    }
    body.term = in->term;
    body.asked_us = in->asked_us;
    m.body_case = KLUIS__PEER__MESSAGE__BODY_CONFIRMED;
    m.confirmed = &body;
    kl_group_send(g, from, KL_LANE_CONTROL, &m);
}

void kl_group_on_confirmed(struct kl_group *g, uint64_t from, const Kluis__Peer__Confirmed *in)
{
    struct kl_ack *ack;

    if (!leads(g) || in->term != g->lead_term || in->asked_us > kl_group_now_us(g)) {
        return;
    }
    ack = kl_group_ack(g, from);
    if (ack != NULL && in->asked_us > ack->confirmed_us) {
        ack->confirmed_us = in->asked_us;
        kl_group_fresh_update(g);
        kl_group_wake(g);
    }
}

enum kl_status kl_group_confirm(struct kl_group *g, struct kl_confirm *c)
{
    bool was_empty;

    if (!kl_mailbox_put(&g->confirms, &c->mail, &was_empty)) {
        return atomic_load(&g->shut) ? KL_CLOSED : KL_EXHAUSTED;
    }
    if (was_empty) {
        kl_group_wake(g);
    }
    return KL_OK;
}
