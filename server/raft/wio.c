#include "server/raft/wio.h"

#include "common/alloc.h"
#include "server/raft/message.h"

#include <assert.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* An append on its way to the disk. */
struct append {
    struct raft_io_append sub; /* first */
    struct kl_wio *w;
    struct raft_io_append *req;
    raft_io_append_cb cb;
};

static struct kl_wio *wio_of(struct raft_io *io)
{
    struct raft *r = io->data; /* raft_init() put itself there */

    return r->data;
}

static bool covers(const struct kl_wio *w, enum kl_cover cover)
{
    return (w->covers & (unsigned)cover) != 0;
}

void kl_wio_fatal(struct kl_wio *w, const char *format, ...)
{
    char why[2048];
    va_list args;

    if (w->dead) {
        return;
    }
    w->dead = true;
    va_start(args, format);
    (void)vsnprintf(why, sizeof why, format, args);
    va_end(args);
    w->owner.fatal(w->owner.ctx, why);
}

/* ---- snapshots kept in memory ---- */

static void snapshot_clear(struct kl_wio_snapshot *s)
{
    raft_configuration_close(&s->conf);
    raft_free(s->data.base);
    memset(s, 0, sizeof *s);
    raft_configuration_init(&s->conf);
}

bool kl_wio_configuration_copy(const struct raft_configuration *from, struct raft_configuration *to)
{
    raft_configuration_init(to);
    for (unsigned i = 0; i < from->n; i++) {
        const struct raft_server *s = &from->servers[i];

        if (raft_configuration_add(to, s->id, s->address, s->role) != 0) {
            raft_configuration_close(to);
            raft_configuration_init(to);
            return false;
        }
    }
    return true;
}

static bool buffer_copy(const struct raft_buffer *from, struct raft_buffer *to)
{
    to->base = raft_malloc(from->len == 0 ? 1 : from->len);
    to->len = from->len;
    if (to->base == NULL) {
        return false;
    }
    memcpy(to->base, from->base, from->len);
    return true;
}

/* Remembers a snapshot; its data are one buffer, a reference of a few bytes. */
static void snapshot_keep(struct kl_wio *w, const struct raft_snapshot *from,
                          struct kl_wio_snapshot *to)
{
    snapshot_clear(to);
    if (from->n_bufs != 1 || !kl_wio_configuration_copy(&from->configuration, &to->conf) ||
        !buffer_copy(&from->bufs[0], &to->data)) {
        snapshot_clear(to);
        kl_wio_fatal(w, "out of memory while remembering a snapshot");
        return;
    }
    to->index = from->index;
    to->term = from->term;
    to->conf_index = from->configuration_index;
}

/* ---- start and tick ---- */

static void deliver(struct kl_wio *w, struct raft_message *m);

static int wio_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                    struct raft_snapshot **snapshot, raft_index *start_index,
                    struct raft_entry *entries[], size_t *n_entries)
{
    struct kl_wio *w = wio_of(io);
    int rv = w->inner.load(io, term, voted_for, snapshot, start_index, entries, n_entries);

    if (rv == 0) {
        w->first_term = *term;
        w->first_vote = *voted_for;
        kl_wio_loaded(w, *snapshot, *start_index, *entries, *n_entries);
        rv = kl_wio_solo_load(w, *snapshot, *entries, *n_entries, term, voted_for);
        if (rv != 0) {
            kl_wio_fatal(w, "writing the Raft term failed: %s", raft_strerror(rv));
            rv = 0; /* what was loaded is raft's to free; this process ends */
        }
        w->disk_term = *term;
        if (*snapshot != NULL) {
            snapshot_keep(w, *snapshot, &w->newest);
        }
    }
    return rv;
}

/*
 * N3: the storage retries a failed write later with a wrong pointer, and nobody asks it whether an
 * error happened. But it leaves a text when a write fails, and only then.
 */
static void faults_check(struct kl_wio *w)
{
    if (covers(w, KL_COVER_FAULTS) && w->appends != 0 && w->io->errmsg[0] != 0) {
        kl_wio_fatal(w, "writing the log failed: %s", w->io->errmsg);
    }
}

/* N11: asks itself for a vote in a new term; raft grants and stores it like any other. */
static void solo_vote(struct kl_wio *w)
{
    struct raft_message m = {
        .type = RAFT_REQUEST_VOTE,
        .server_id = w->raft->id,
        .server_address = kl_message_address,
        .request_vote = {.version = 2,
                         .term = w->raft->current_term + 1,
                         .candidate_id = w->raft->id,
                         .last_log_index = UINT64_MAX,
                         .last_log_term = UINT64_MAX,
                         .disrupt_leader = true},
    };

    w->n_solo++;
    w->solo_term = m.request_vote.term;
    deliver(w, &m);
}

/* Is it raft's turn to stand for election, but not ours? A follower's tick does nothing else. */
static bool held_back(const struct kl_wio *w)
{
    const struct raft *r = w->raft;

    return r->state == RAFT_FOLLOWER && w->hold_ms != 0 && !kl_wio_solo(w) &&
           w->io->time(w->io) - r->election_timer_start <
               r->follower_state.randomized_election_timeout + w->hold_ms;
}

static void wio_tick(struct raft_io *io)
{
    struct kl_wio *w = wio_of(io);

    if (w->closing || w->dead) {
        return;
    }
    faults_check(w);
    if (!w->dead && kl_wio_solo_due(w)) {
        solo_vote(w);
    }
    if (w->dead) {
        return;
    }
    if (!held_back(w)) {
        w->tick_cb(io);
    }
    w->owner.after(w->owner.ctx);
}

/* The storage has no network, so nothing ever comes from it. */
static void wio_nothing_received(struct raft_io *io, struct raft_message *m)
{
    (void)io;
    kl_message_free(m);
}

static int wio_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct kl_wio *w = wio_of(io);
    int rv;

    w->tick_cb = tick;
    w->recv_cb = recv;
    w->started = true;
    io->errmsg[0] = 0;
    /* N5: raft asks for a tick per heartbeat timeout, which we set to 1 ms so that every tick sends
     * heartbeats and a silent follower does not cost a round of probing. */
    rv = w->inner.start(io, covers(w, KL_COVER_TICK) ? w->tick_ms : msecs, wio_tick,
                        wio_nothing_received);
    io->errmsg[0] = 0;
    return rv;
}

/* ---- metadata (N7) ---- */

static int wio_set_term(struct raft_io *io, raft_term term)
{
    struct kl_wio *w = wio_of(io);
    int rv;

    w->owner.before(w->owner.ctx);
    if (w->dead) {
        return RAFT_IOERR;
    }
    /* A vote granted again rewrites the term, and the storage forgets the vote with it: for a
     * moment the disk says that this node has not voted. */
    if (covers(w, KL_COVER_META) && term == w->disk_term) {
        w->n_term_kept++;
        return 0;
    }
    rv = w->inner.set_term(io, term);
    if (rv == 0) {
        w->disk_term = term;
    } else if (covers(w, KL_COVER_META)) {
        kl_wio_fatal(w, "writing the Raft term failed: %s", raft_strerror(rv));
    }
    return rv;
}

static int wio_set_vote(struct raft_io *io, raft_id id)
{
    struct kl_wio *w = wio_of(io);
    int rv;

    w->owner.before(w->owner.ctx);
    if (w->dead) {
        return RAFT_IOERR;
    }
    rv = w->inner.set_vote(io, id);
    if (rv != 0 && covers(w, KL_COVER_META)) {
        kl_wio_fatal(w, "writing the Raft vote failed: %s", raft_strerror(rv));
    }
    return rv;
}

/* ---- the log ---- */

static void append_done(struct raft_io_append *sub, int status)
{
    struct append *a = (struct append *)sub;
    struct kl_wio *w = a->w;

    w->appends--;
    if (status != 0 && status != RAFT_CANCELED && covers(w, KL_COVER_FAULTS)) {
        kl_wio_fatal(w, "writing the log failed: %s", raft_strerror(status));
    }
    if (!w->dead || w->closing) {
        a->cb(a->req, status);
    }
    kl_free(a);
    if (!w->closing && !w->dead) {
        w->owner.after(w->owner.ctx);
    }
}

static int wio_append(struct raft_io *io, struct raft_io_append *req,
                      const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct kl_wio *w = wio_of(io);
    struct append *a;
    int rv;

    w->owner.before(w->owner.ctx);
    a = kl_malloc(sizeof *a);
    if (a == NULL) {
        kl_wio_fatal(w, "out of memory while writing the log");
        return RAFT_NOMEM;
    }
    for (unsigned i = 0; i < n && covers(w, KL_COVER_BLANK); i++) {
        /* N14: raft leaves a barrier's content as malloc gave it: whatever this process freed last
         * would go to every disk and peer. */
        if (entries[i].type == RAFT_BARRIER) {
            memset(entries[i].buf.base, 0, entries[i].buf.len);
        }
    }
    *a = (struct append){.w = w, .req = req, .cb = cb};
    w->appends++;
    rv = w->inner.append(io, &a->sub, entries, n, append_done);
    if (rv != 0) {
        w->appends--;
        kl_free(a);
        if (covers(w, KL_COVER_FAULTS)) {
            kl_wio_fatal(w, "writing the log failed: %s: %s", raft_strerror(rv), io->errmsg);
        }
    }
    return rv;
}

/* Raft calls this before every append; the storage does nothing unless entries would go. */
static int wio_truncate(struct raft_io *io, raft_index index)
{
    struct kl_wio *w = wio_of(io);
    int rv = w->inner.truncate(io, index);

    if (rv != 0 && covers(w, KL_COVER_FAULTS)) {
        kl_wio_fatal(w, "truncating the log at %llu failed: %s", index, raft_strerror(rv));
    }
    return rv;
}

/* ---- snapshots ---- */

static void put_finish(struct kl_wio *w, int status)
{
    raft_io_snapshot_put_cb cb = w->put.cb;
    struct raft_io_snapshot_put *req = w->put.req;

    if (status == 0) {
        snapshot_clear(&w->newest);
        w->newest = w->putting;
        memset(&w->putting, 0, sizeof w->putting);
    }
    snapshot_clear(&w->putting);
    w->put.busy = false;
    w->put.inner = false;
    cb(req, status);
}

static void put_done(struct raft_io_snapshot_put *sub, int status)
{
    struct kl_wio *w = (struct kl_wio *)(void *)((char *)sub - offsetof(struct kl_wio, put.sub));

    if (status != 0 && status != RAFT_CANCELED && covers(w, KL_COVER_FAULTS)) {
        kl_wio_fatal(w, "writing a snapshot failed: %s", raft_strerror(status));
    }
    if (w->dead && !w->closing) {
        return;
    }
    if (w->closing) {
        status = RAFT_CANCELED; /* raft forgets to free an installed snapshot when it closes */
    }
    put_finish(w, status);
    if (!w->closing) {
        w->owner.after(w->owner.ctx);
        w->owner.wake(w->owner.ctx);
    }
}

static int put_start(struct kl_wio *w)
{
    int rv;

    w->put.inner = true;
    rv = w->inner.snapshot_put(w->io, w->put.trailing, &w->put.sub, w->put.snapshot, put_done);
    if (rv != 0) {
        w->put.inner = false;
        if (covers(w, KL_COVER_FAULTS)) {
            kl_wio_fatal(w, "writing a snapshot failed: %s", raft_strerror(rv));
        }
    }
    return rv;
}

static int wio_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                            const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct kl_wio *w = wio_of(io);

    if (w->dead || w->closing) {
        return RAFT_CANCELED;
    }
    assert(!w->put.busy || !covers(w, KL_COVER_SERIAL));
    snapshot_keep(w, snapshot, &w->putting);
    w->put.busy = true;
    w->put.inner = false;
    w->put.trailing = trailing;
    w->put.snapshot = snapshot;
    w->put.req = req;
    w->put.cb = cb;
    /* A snapshot is a promise that the state is on disk up to here. That also holds for one that a
     * leader sends when the state was ahead of the log: the log goes, and a power failure must not
     * take from the state what can no longer be replayed. */
    w->owner.flush(w->owner.ctx);
    return 0;
}

void kl_wio_flushed(struct kl_wio *w)
{
    if (!w->put.busy || w->put.inner || w->closing || w->dead) {
        return;
    }
    if (put_start(w) != 0 && !w->dead) {
        put_finish(w, RAFT_IOERR);
    }
}

static int wio_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                            raft_io_snapshot_get_cb cb)
{
    struct kl_wio *w = wio_of(io);

    if (!covers(w, KL_COVER_META)) {
        return w->inner.snapshot_get(io, req, cb);
    }
    if (w->gets_n == KL_WIO_GETS_MAX || w->newest.index == 0) {
        return RAFT_BUSY; /* raft frees its request and tries again */
    }
    req->cb = cb;
    w->gets[w->gets_n++] = req;
    w->owner.wake(w->owner.ctx);
    return 0;
}

/* Answers a get from memory. On any failure raft would free uninitialised fields, so there is none. */
static void get_finish(struct kl_wio *w, struct raft_io_snapshot_get *req)
{
    struct raft_snapshot *s = raft_calloc(1, sizeof *s);

    if (s == NULL) {
        kl_wio_fatal(w, "out of memory while reading a snapshot");
        return;
    }
    s->index = w->newest.index;
    s->term = w->newest.term;
    s->configuration_index = w->newest.conf_index;
    s->bufs = raft_calloc(1, sizeof *s->bufs);
    s->n_bufs = 1;
    if (s->bufs == NULL || !kl_wio_configuration_copy(&w->newest.conf, &s->configuration) ||
        !buffer_copy(&w->newest.data, &s->bufs[0])) {
        raft_configuration_close(&s->configuration);
        raft_free(s->bufs);
        raft_free(s);
        kl_wio_fatal(w, "out of memory while reading a snapshot");
        return;
    }
    req->cb(req, s, 0);
}

/* ---- sending ---- */

static void send_defer(struct kl_wio *w, struct raft_io_send *req, raft_io_send_cb cb)
{
    if (cb == NULL) {
        return;
    }
    req->cb = cb;
    if (w->sends_n == w->sends_cap) {
        size_t cap = w->sends_cap == 0 ? 64 : w->sends_cap * 2;
        struct raft_io_send **more = kl_realloc(w->sends, cap * sizeof(struct raft_io_send *));

        if (more == NULL) {
            kl_wio_fatal(w, "out of memory while sending");
            return;
        }
        w->sends = more;
        w->sends_cap = cap;
    }
    if (w->sends_n++ == 0 && !w->closing) {
        w->owner.wake(w->owner.ctx);
    }
    w->sends[w->sends_n - 1] = req;
}

static void sends_finish(struct kl_wio *w)
{
    struct raft_io_send **sends = w->sends;
    size_t n = w->sends_n;

    if (n == 0) {
        return;
    }
    /* A callback frees memory of raft and sends nothing, but that is the library's habit, not its
     * promise. */
    w->sends = NULL;
    w->sends_n = 0;
    w->sends_cap = 0;
    for (size_t i = 0; i < n; i++) {
        sends[i]->cb(sends[i], 0);
    }
    if (w->sends == NULL) {
        w->sends = sends;
        w->sends_cap = n;
    } else {
        kl_free(sends);
    }
}

/*
 * N10: the library steps back one entry per round trip. When this log is long enough but differs,
 * say at once that only what is committed (or 128 entries earlier) is known to be common.
 */
static void result_hint(const struct kl_wio *w, struct raft_append_entries_result *result)
{
    raft_index hint;

    if (raft_last_index(w->raft) < result->rejected || w->raft->current_term != result->term) {
        return;
    }
    hint = result->rejected > KL_BACKTRACK_ENTRIES ? result->rejected - KL_BACKTRACK_ENTRIES : 0;
    if (hint < w->raft->commit_index) {
        hint = w->raft->commit_index;
    }
    if (hint >= result->rejected) {
        hint = result->rejected - 1;
    }
    result->last_log_index = hint;
}

static void send_one(struct kl_wio *w, const struct raft_message *m)
{
    struct raft_message copy = *m;

    if (m->server_id == 0 || m->server_id == w->raft->id) {
        return; /* no leader is known any more; or the answer to solo_vote() */
    }
    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        if (covers(w, KL_COVER_REPEAT)) {
            kl_wio_leave_out_sent(w, m->server_id, &copy.append_entries);
        }
        w->owner.transmit(w->owner.ctx, &copy);
        return;
    case RAFT_APPEND_ENTRIES_RESULT:
        if (copy.append_entries_result.rejected != 0 && covers(w, KL_COVER_BACKTRACK)) {
            result_hint(w, &copy.append_entries_result);
        }
        w->owner.transmit(w->owner.ctx, &copy);
        return;
    case RAFT_INSTALL_SNAPSHOT:
        kl_wio_sent_answer(w, m->server_id, false);
        /* N7: the library corrects last_index to what it read, but not last_term. */
        if (covers(w, KL_COVER_META) && copy.install_snapshot.last_index == w->newest.index) {
            copy.install_snapshot.last_term = w->newest.term;
        }
        w->owner.install_wanted(w->owner.ctx, &copy);
        return;
    default:
        w->owner.transmit(w->owner.ctx, &copy);
        return;
    }
}

static int wio_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *m,
                    raft_io_send_cb cb)
{
    struct kl_wio *w = wio_of(io);

    w->owner.before(w->owner.ctx);
    if (!w->closing && !w->dead) {
        send_one(w, m);
    }
    send_defer(w, req, cb);
    return 0;
}

/* ---- receiving ---- */

static void deliver(struct kl_wio *w, struct raft_message *m)
{
    if (m->type == RAFT_APPEND_ENTRIES) {
        kl_wio_chain(w, &m->append_entries);
    }
    w->recv_cb(w->io, m);
    if (!w->dead) {
        w->owner.after(w->owner.ctx);
    }
}

/* A message with entries [from, to) of another, in memory of its own. */
static bool piece_of(const struct raft_message *m, unsigned from, unsigned to,
                     struct raft_message *out)
{
    const struct raft_append_entries *a = &m->append_entries;
    struct raft_append_entries *b = &out->append_entries;
    size_t bytes = 0;
    uint8_t *batch;

    *out = *m;
    b->prev_log_index = a->prev_log_index + from;
    b->prev_log_term = from == 0 ? a->prev_log_term : a->entries[from - 1].term;
    b->n_entries = to - from;
    if (b->leader_commit > b->prev_log_index + b->n_entries) {
        b->leader_commit = b->prev_log_index + b->n_entries;
    }
    for (unsigned i = from; i < to; i++) {
        bytes += a->entries[i].buf.len;
    }
    b->entries = raft_calloc(to - from, sizeof *b->entries);
    batch = raft_malloc(bytes == 0 ? 8 : bytes);
    if (b->entries == NULL || batch == NULL) {
        raft_free(b->entries);
        raft_free(batch);
        return false;
    }
    bytes = 0;
    for (unsigned i = from; i < to; i++) {
        struct raft_entry *e = &b->entries[i - from];

        *e = a->entries[i];
        e->batch = batch;
        e->buf.base = batch + bytes;
        memcpy(e->buf.base, a->entries[i].buf.base, e->buf.len);
        bytes += e->buf.len;
    }
    return true;
}

/*
 * N1: raft records a configuration change at the index of the first new entry of the message it
 * came in, so a change may only come first.
 */
static void deliver_split(struct kl_wio *w, struct raft_message *m)
{
    const struct raft_append_entries *a = &m->append_entries;
    unsigned from = 0;

    w->n_split++;
    while (from < a->n_entries && !w->dead && !w->closing) {
        struct raft_message piece;
        unsigned to = from + 1;

        while (to < a->n_entries && a->entries[to].type != RAFT_CHANGE) {
            to++;
        }
        if (!piece_of(m, from, to, &piece)) {
            break; /* the leader sends the rest again */
        }
        deliver(w, &piece);
        from = to;
    }
    kl_message_free(m);
}

static void receive_append(struct kl_wio *w, struct raft_message *m)
{
    struct raft_append_entries *a = &m->append_entries;

    if (w->raft->state == RAFT_LEADER && a->term == w->raft->current_term) {
        kl_message_free(m); /* two leaders in one term: not from an honest peer */
        return;
    }
    if (kl_wio_contradicts(w, a)) {
        kl_wio_fatal(w,
                     "node %llu sends a log that contradicts what is committed here (index %llu): "
                     "one of the two data directories is damaged or of another cluster",
                     m->server_id, a->prev_log_index);
        kl_message_free(m);
        return;
    }
    kl_wio_leave_out_stale(w, a);
    if (w->raft->last_stored == 0) {
        a->leader_commit = 0; /* nothing is applied while there is no log on the disk: group.c */
    }
    if (covers(w, KL_COVER_SPLIT)) {
        for (unsigned i = 1; i < a->n_entries; i++) {
            if (a->entries[i].type == RAFT_CHANGE) {
                deliver_split(w, m);
                return;
            }
        }
    }
    deliver(w, m);
}

static void receive_vote(struct kl_wio *w, struct raft_message *m)
{
    struct raft_server *me = kl_wio_standby(w);

    /* Raft votes for nobody until its own turn has come to stand for election, which is drawn, and
     * later for those who are far from home. But what it owes the last leader ends with the election
     * timeout. */
    if (w->raft->state == RAFT_FOLLOWER && kl_wio_leader_silent(w)) {
        m->request_vote.disrupt_leader = true;
    }
    if (me == NULL) {
        deliver(w, m);
        return;
    }
    me->role = RAFT_VOTER; /* N13: only while raft looks at this */
    w->recv_cb(w->io, m);
    me->role = RAFT_STANDBY;
    if (!w->dead) {
        w->owner.after(w->owner.ctx);
    }
}

static void held_drop(struct kl_wio *w)
{
    if (w->held.type != 0) {
        kl_message_free(&w->held);
        memset(&w->held, 0, sizeof w->held);
    }
}

static void receive_install(struct kl_wio *w, struct raft_message *m)
{
    enum kl_install what = KL_INSTALL_DELIVER;

    held_drop(w); /* a newer one replaces it */
    if (w->raft->state == RAFT_LEADER || w->raft->snapshot.installing) {
        kl_message_free(m); /* raft would leak it */
        return;
    }
    if (covers(w, KL_COVER_SERIAL) && (w->put.busy || w->raft->legacy.snapshot_taking)) {
        what = KL_INSTALL_HOLD;
        w->n_held++;
    } else if (covers(w, KL_COVER_STAGED)) {
        what = w->owner.install_arrived(w->owner.ctx, &m->install_snapshot);
    }
    if (what == KL_INSTALL_HOLD) {
        w->held = *m;
    } else if (what == KL_INSTALL_DROP) {
        kl_message_free(m);
    } else {
        deliver(w, m);
    }
}

void kl_wio_receive(struct kl_wio *w, struct raft_message *m)
{
    if (!w->started || w->closing || w->dead) {
        kl_message_free(m);
        return;
    }
    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        receive_append(w, m);
        break;
    case RAFT_INSTALL_SNAPSHOT:
        receive_install(w, m);
        break;
    case RAFT_APPEND_ENTRIES_RESULT:
        kl_wio_sent_answer(w, m->server_id, m->append_entries_result.rejected == 0);
        if (!kl_wio_stale_rejection(w, m)) {
            deliver(w, m);
        }
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        /* Raft looks at fields of the wrong role when it is no candidate. */
        if (w->raft->state == RAFT_CANDIDATE) {
            deliver(w, m);
        }
        break;
    case RAFT_REQUEST_VOTE:
        receive_vote(w, m);
        break;
    case RAFT_TIMEOUT_NOW:
        if (!kl_wio_solo(w)) { /* N11: it would lead its leader's term */
            deliver(w, m);
        }
        break;
    default:
        deliver(w, m);
        break;
    }
}

/* ---- turn, submit, step down ---- */

void kl_wio_turn(struct kl_wio *w)
{
    if (w->dead || w->closing) {
        return;
    }
    faults_check(w);
    for (size_t i = 0; i < w->gets_n && !w->dead; i++) {
        get_finish(w, w->gets[i]);
    }
    w->gets_n = 0;
    sends_finish(w);
    if (w->held.type != 0 && !w->dead) {
        struct raft_message m = w->held;

        memset(&w->held, 0, sizeof w->held);
        m.server_address = kl_message_address;
        receive_install(w, &m);
    }
}

int kl_wio_submit(struct kl_wio *w, struct raft_apply *req, const struct raft_buffer *bufs,
                  unsigned n)
{
    if (n != 1 && covers(w, KL_COVER_SINGLE)) {
        return RAFT_INVALID; /* raft would keep the first and report success */
    }
    if (bufs[0].len % 8 != 0 && covers(w, KL_COVER_ALIGN)) {
        return RAFT_INVALID; /* the storage would refuse it when the log has already grown */
    }
    return raft_apply(w->raft, req, bufs, n, NULL);
}

void kl_wio_step_down(struct kl_wio *w)
{
    struct raft_message m = {
        .type = RAFT_APPEND_ENTRIES_RESULT,
        .server_id = w->raft->id,
        .server_address = kl_message_address,
        .append_entries_result = {.version = 1, .term = w->raft->current_term + 1},
    };

    if (w->raft->state == RAFT_LEADER) {
        deliver(w, &m);
    }
}

/* ---- life ---- */

static void closed(struct raft_io *io)
{
    struct kl_wio *w = wio_of(io);

    w->close_cb(io);
}

static void wio_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct kl_wio *w = wio_of(io);

    w->closing = true;
    w->close_cb = cb;
    held_drop(w);
    if (w->put.busy && !w->put.inner) {
        put_finish(w, RAFT_CANCELED); /* it still waited for the state's flush */
    }
    /* Every callback must come before the log is freed; those of gets end in sends. */
    for (size_t i = 0; i < w->gets_n; i++) {
        get_finish(w, w->gets[i]);
    }
    w->gets_n = 0;
    while (w->sends_n != 0) {
        sends_finish(w);
    }
    w->inner.close(io, closed);
}

void kl_wio_init(struct kl_wio *w, struct raft_io *io, struct raft *raft,
                 const struct kl_wio_owner *owner, unsigned tick_ms)
{
    memset(w, 0, sizeof *w);
    w->io = io;
    w->raft = raft;
    w->inner = *io;
    w->owner = *owner;
    w->covers = KL_COVER_ALL;
    w->tick_ms = tick_ms;
    raft_configuration_init(&w->newest.conf);
    raft_configuration_init(&w->putting.conf);
    raft->data = w;
    io->load = wio_load;
    io->start = wio_start;
    io->set_term = wio_set_term;
    io->set_vote = wio_set_vote;
    io->append = wio_append;
    io->truncate = wio_truncate;
    io->send = wio_send;
    io->snapshot_put = wio_snapshot_put;
    io->snapshot_get = wio_snapshot_get;
    io->close = wio_close;
}

void kl_wio_done(struct kl_wio *w)
{
    held_drop(w);
    snapshot_clear(&w->newest);
    snapshot_clear(&w->putting);
    kl_free(w->sends);
    w->sends = NULL;
}
