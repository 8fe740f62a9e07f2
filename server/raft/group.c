#include "server/raft/group_impl.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

/* ---- small things the other files share ---- */

void kl_group_fatal(struct kl_group *g, const char *format, ...)
{
    char why[2048];
    va_list args;

    if (g->dead) {
        return;
    }
    va_start(args, format);
    (void)vsnprintf(why, sizeof why, format, args);
    va_end(args);
    g->dead = true;
    g->wio.dead = true;
    kl_group_lease_drop(g);
    kl_log(KL_LOG_ERROR, "raft", "%s group=%u", why, (unsigned)g->options.id);
    g->host->fatal(g->host->ctx, g, why);
}

void kl_group_work(struct kl_group *g, void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    g->works++;
    g->host->work(g->host->ctx, g, work, done, arg);
}

void kl_group_worked(struct kl_group *g)
{
    assert(g->works != 0);
    g->works--;
}

void kl_group_send(struct kl_group *g, uint64_t to, enum kl_lane lane,
                   const Kluis__Peer__Message *m)
{
    struct kl_buf b = KL_BUF(KL_PEER_MESSAGE_MAX);

    if (kl_message_pack(m, &b) == KL_OK) {
        g->host->send(g->host->ctx, g, to, lane, kl_buf_bytes(&b));
    }
    kl_buf_wipe(&b);
}

/* ---- what the wrapper asks ---- */

static void before(void *ctx)
{
    struct kl_group *g = ctx;

    if (g->lead_term != 0 &&
        (g->raft.state != RAFT_LEADER || g->raft.current_term != g->lead_term)) {
        kl_group_lease_drop(g);
    }
}

static void led(struct kl_group *g)
{
    struct raft *r = &g->raft;

    g->lead_term = r->current_term;
    g->lead_floor = raft_last_index(r);
    if (g->lead_floor < atomic_load(&g->applied)) {
        kl_group_fatal(g, "leading with a log below %s that ends at %llu, but the state holds %llu",
                       g->options.dir, (unsigned long long)g->lead_floor,
                       (unsigned long long)atomic_load(&g->applied));
    }
    g->ready = false;
    g->timeout_now_sent = false;
    g->acks_n = 0;
    g->stamp_ms = 0;
    g->changed = true;
    kl_placement_led(g);
    kl_log(KL_LOG_INFO, "raft", "leading group=%u term=%llu", (unsigned)g->options.id,
           (unsigned long long)g->lead_term);
}

static void lost(struct kl_group *g)
{
    kl_group_lease_drop(g);
    kl_log(KL_LOG_INFO, "raft", "no longer leading group=%u term=%llu", (unsigned)g->options.id,
           (unsigned long long)g->lead_term);
    g->lead_term = 0;
    g->ready = false;
    g->changed = true;
    kl_group_write_lost(g);
    kl_stream_send_abort(g);
}

/* Raft tells nobody when its role changes, so it is compared after every event. */
static void leadership(struct kl_group *g)
{
    struct raft *r = &g->raft;
    uint64_t leader = 0;

    if (g->lead_term != 0 && (r->state != RAFT_LEADER || r->current_term != g->lead_term)) {
        lost(g);
    }
    if (r->state == RAFT_LEADER && g->lead_term == 0) {
        led(g);
    }
    if (g->lead_term != 0 && !g->ready && r->last_applied >= g->lead_floor && g->backlog == NULL) {
        g->ready = true;
        g->changed = true;
    }
    if (r->state == RAFT_LEADER) {
        leader = r->id;
    } else if (r->state == RAFT_FOLLOWER && g->heard.term == r->current_term &&
               r->follower_state.current_leader.id != 0 && !kl_wio_leader_silent(&g->wio)) {
        leader = g->heard.node; /* one that is silent is nobody to send callers to */
    }
    if (leader != atomic_load(&g->leader)) {
        atomic_store(&g->leader, leader);
        kl_placement_leader(g, leader);
        g->changed = true;
    }
}

static void after(void *ctx)
{
    struct kl_group *g = ctx;

    if (g->dead || g->closing) {
        return;
    }
    leadership(g);
    kl_group_lease_renew(g);
    kl_group_fresh_update(g);
    kl_group_wake(g);
}

static void transmit_append(struct kl_group *g, const struct raft_message *m,
                            const struct kl_message_extra *extra)
{
    const struct raft_append_entries *a = &m->append_entries;
    unsigned first = 0;

    /* Raft counts entries, not bytes: a follower far behind would get one message of many MiB. */
    do {
        struct kl_buf b = KL_BUF(KL_PEER_MESSAGE_MAX);
        size_t bytes = 0;
        unsigned n = 0;

        while (first + n < a->n_entries && n < KL_RAFT_WINDOW_MAX) {
            bytes += a->entries[first + n].buf.len;
            if (n != 0 && bytes > KL_APPEND_BYTES_MAX) {
                break;
            }
            n++;
        }
        if (kl_message_encode(m, extra, first, n, &b) == KL_OK) {
            g->host->send(g->host->ctx, g, m->server_id, KL_LANE_CONTROL, kl_buf_bytes(&b));
        }
        kl_buf_wipe(&b);
        first += n;
    } while (first < a->n_entries);
}

static void transmit(void *ctx, const struct raft_message *m)
{
    struct kl_group *g = ctx;
    struct kl_message_extra extra = {0};
    struct kl_buf b = KL_BUF(KL_PEER_MESSAGE_MAX);

    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        extra.sent_us = kl_group_now_us(g);
        kl_group_fresh_send(g, m->server_id, extra.sent_us, &extra);
        transmit_append(g, m, &extra);
        return;
    case RAFT_APPEND_ENTRIES_RESULT:
        if (m->append_entries_result.term == g->heard.term && m->server_id == g->heard.node) {
            extra.sent_us = g->heard.sent_us;
        }
        extra.stamp = kl_group_stamp(g);
        break;
    case RAFT_TIMEOUT_NOW:
        /* From here on another node may win votes of those who still hear us. */
        g->lease_off_term = g->raft.current_term;
        g->timeout_now_sent = true;
        kl_group_lease_drop(g);
        break;
    default:
        break;
    }
    if (kl_message_encode(m, &extra, 0, 0, &b) == KL_OK) {
        g->host->send(g->host->ctx, g, m->server_id, KL_LANE_CONTROL, kl_buf_bytes(&b));
    }
    kl_buf_wipe(&b);
}

static void install_wanted(void *ctx, const struct raft_message *m)
{
    struct kl_group *g = ctx;

    if (kl_group_covers(g, KL_COVER_STAGED)) {
        kl_stream_install_wanted(g, m);
        return;
    }
    transmit(g, m);
}

/*
 * N4: raft gets a snapshot only when restore() cannot fail: the state is here already or staged
 * whole, and nobody reads from the store that it replaces.
 */
static enum kl_install install_arrived(void *ctx, const struct raft_install_snapshot *m)
{
    struct kl_group *g = ctx;
    struct kl_snapshot_ref ref;

    if (kl_snapshot_parse(kl_bytes_of(m->data.base, m->data.len), &ref) != KL_OK) {
        return KL_INSTALL_DROP;
    }
    if (atomic_load(&g->applied) >= ref.applied) {
        return KL_INSTALL_DELIVER;
    }
    if (m->term < g->raft.current_term || kl_stream_staged(g) < ref.applied) {
        kl_group_gate_open(g);
        return KL_INSTALL_DROP;
    }
    kl_group_gate_shut(g);
    if (!kl_group_gate_empty(g)) {
        return KL_INSTALL_HOLD; /* looked at again in every turn, at the latest after a tick */
    }
    return KL_INSTALL_DELIVER;
}

static void wio_wake(void *ctx)
{
    kl_group_wake(ctx);
}

static void wio_fatal(void *ctx, const char *why)
{
    kl_group_fatal(ctx, "%s", why);
}

/* ---- messages ---- */

/*
 * A vote given before a crash or an answer to a leader is a promise for one election timeout, and
 * a node that has just started cannot know what it promised. Only one that has never heard of any
 * term but the first has promised nothing.
 */
static bool may_vote(const struct kl_group *g)
{
    return g->brand_new ||
           kl_group_now_us(g) - g->started_us >= (uint64_t)g->options.election_timeout_ms * 1000;
}

static void receive_result(struct kl_group *g, uint64_t from, struct raft_message *m,
                           const struct kl_message_extra *extra)
{
    struct raft_append_entries_result *res = &m->append_entries_result;
    uint64_t now = kl_group_now_us(g);
    bool rejected = res->rejected != 0;
    uint64_t term = res->term;
    uint64_t last = res->last_log_index;
    uint16_t capacity = res->capacity;
    struct kl_ack *ack;

    if (rejected && kl_group_covers(g, KL_COVER_STAGED) && kl_stream_sending_to(g, from)) {
        /* Raft would give up the install and start another: make the rejection a stale one. */
        res->rejected = KL_RAFT_INDEX_MAX;
        res->last_log_index = 0;
    }
    kl_wio_receive(&g->wio, m);
    if (g->dead || g->lead_term == 0 || term != g->lead_term) {
        return;
    }
    ack = kl_group_ack(g, from);
    if (ack == NULL) {
        return;
    }
    ack->heard_us = now;
    ack->stamp = extra->stamp;
    ack->stamped_us = now;
    ack->capacity = capacity;
    if (extra->sent_us > ack->sent_us && extra->sent_us <= now) {
        ack->sent_us = extra->sent_us;
        kl_group_lease_renew(g);
    }
    if (!rejected) {
        kl_stream_accepted(g, from, last);
    }
}

static void receive_raft(struct kl_group *g, uint64_t from, struct raft_message *m,
                         const struct kl_message_extra *extra)
{
    const struct raft *r = &g->raft;

    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        if (m->append_entries.n_entries != 0 && g->backlog_bytes > KL_BACKLOG_BYTES_MAX) {
            kl_message_free(m); /* the store takes nothing: neither do we */
            return;
        }
        if (m->append_entries.term >= r->current_term &&
            !(m->append_entries.term == r->current_term && r->state == RAFT_LEADER)) {
            g->heard.term = m->append_entries.term;
            g->heard.node = from;
            g->heard.sent_us = extra->sent_us;
            g->heard.at_us = kl_group_now_us(g);
            kl_group_fresh_heard(g, m->append_entries.leader_commit, extra);
        }
        break;
    case RAFT_APPEND_ENTRIES_RESULT:
        receive_result(g, from, m, extra);
        return;
    case RAFT_TIMEOUT_NOW:
        g->placement.told_us = kl_group_now_us(g);
        break;
    case RAFT_REQUEST_VOTE:
        if (!may_vote(g)) {
            kl_message_free(m);
            return;
        }
        break;
    default:
        break;
    }
    kl_wio_receive(&g->wio, m);
}

void kl_group_receive(struct kl_group *g, uint64_t from_node, struct kl_bytes message)
{
    Kluis__Peer__Message *in = NULL;
    struct raft_message m;
    struct kl_message_extra extra;
    enum kl_status st;

    if (g->closing || g->dead || !g->started || from_node == 0 || from_node == g->options.node_id) {
        return;
    }
    st = kl_message_unpack(message, &in);
    if (st != KL_OK) {
        goto out;
    }
    switch (in->body_case) {
    case KLUIS__PEER__MESSAGE__BODY_STREAM_OFFER:
        kl_stream_on_offer(g, from_node, in->stream_offer);
        break;
    case KLUIS__PEER__MESSAGE__BODY_STREAM_REQUEST:
        kl_stream_on_request(g, from_node, in->stream_request);
        break;
    case KLUIS__PEER__MESSAGE__BODY_STREAM_CHUNK:
        if (kl_stream_on_chunk(g, from_node, in)) {
            in = NULL;
        }
        break;
    case KLUIS__PEER__MESSAGE__BODY_STREAM_ACK:
        kl_stream_on_ack(g, from_node, in->stream_ack);
        break;
    case KLUIS__PEER__MESSAGE__BODY_CONFIRM:
        kl_group_on_confirm(g, from_node, in->confirm);
        break;
    case KLUIS__PEER__MESSAGE__BODY_CONFIRMED:
        kl_group_on_confirmed(g, from_node, in->confirmed);
        break;
    default:
        st = kl_message_decode(from_node, in, &m, &extra);
        if (st == KL_OK) {
            kl_message_unpacked_free(in);
            in = NULL;
            receive_raft(g, from_node, &m, &extra);
        }
        break;
    }
out:
    kl_message_unpacked_free(in);
    if (st != KL_OK) {
        kl_log(KL_LOG_WARN, "raft", "message dropped group=%u from=%llu status=%s",
               (unsigned)g->options.id, (unsigned long long)from_node, kl_status_name(st));
    }
}

void kl_group_peer(struct kl_group *g, uint64_t node, bool connected)
{
    if (!g->closing && !g->dead) {
        kl_stream_peer(g, node, connected);
    }
}

/* ---- the turn ---- */

/*
 * N9: seen once in twenty kills, cause unknown: entries are in Raft's log, but the storage never
 * says that they are stored. A restart cures it. A leader first hands over.
 */
static void stuck_check(struct kl_group *g, uint64_t now)
{
    struct raft *r = &g->raft;
    bool waits = raft_last_index(r) > r->last_stored && !r->snapshot.installing &&
                 g->wio.io->capacity >= KL_LOG_CAPACITY_MIN_KB;
    /* A process that was stopped has not waited: the answer may lie in the loop's next turn. */
    bool away = now - g->stuck_seen_us > (uint64_t)KL_STUCK_MS * 1000 / 4;

    g->stuck_seen_us = now;
    if (!waits || away || r->last_stored != g->stuck_stored || g->stuck_since_us == 0 ||
        !kl_group_covers(g, KL_COVER_STUCK)) {
        g->stuck_stored = r->last_stored;
        g->stuck_since_us = now;
        g->stuck_handed_over = false;
        return;
    }
    if (now - g->stuck_since_us < (uint64_t)KL_STUCK_MS * 1000) {
        return;
    }
    if (r->state == RAFT_LEADER && !g->stuck_handed_over) {
        g->stuck_handed_over = true;
        if (kl_group_hand_over(g)) {
            g->stuck_since_us = now - (uint64_t)KL_STUCK_MS * 1000 / 2;
            return;
        }
    }
    kl_group_fatal(g,
                   "the log has %llu entries that were not stored within %u ms; "
                   "a restart of this node cures it",
                   (unsigned long long)(raft_last_index(r) - r->last_stored), KL_STUCK_MS);
}

void kl_group_turn(struct kl_group *g)
{
    if (g->dead || g->closing || !g->started) {
        return;
    }
    kl_wio_turn(&g->wio);
    if (g->dead) {
        return;
    }
    if (g->wio.held.type == 0 && !g->raft.snapshot.installing) {
        kl_group_gate_open(g); /* an install may have been refused or dropped */
    }
    kl_group_backlog_retry(g);
    leadership(g);
    kl_group_lease_renew(g);
    kl_group_fresh_update(g);
    g->due_us = 0;
    kl_group_confirm_turn(g);
    kl_group_space_check(g);
    kl_group_full_check(g);
    kl_group_write_turn(g);
    kl_placement_turn(g);
    kl_group_steer_turn(g);
    kl_stream_send_turn(g);
    kl_stream_recv_turn(g);
    kl_group_tune(g);
    if (g->dead) {
        return;
    }
    stuck_check(g, kl_group_now_us(g));
    kl_group_publish(g);
    if (g->changed && !g->dead) {
        g->changed = false;
        if (g->host->changed != NULL) {
            g->host->changed(g->host->ctx, g);
        }
    }
}

uint64_t kl_group_due_us(const struct kl_group *g)
{
    return g->due_us;
}

/* ---- life ---- */

static void group_free(struct kl_group *g)
{
    kl_group_backlog_drop(g);
    kl_group_store_close(g);
    kl_batch_done(&g->batch);
    kl_buf_wipe(&g->entry);
    kl_mailbox_done(&g->proposals);
    kl_mailbox_done(&g->confirms);
    kl_wio_done(&g->wio);
    kl_free(g);
}

static unsigned seed_of(const struct kl_group *g)
{
    unsigned seed = g->options.seed;
    uint8_t random[sizeof seed];

    if (seed == 0 && g->host->entropy != NULL &&
        g->host->entropy->fill(g->host->entropy->ctx, random, sizeof random) == KL_OK) {
        memcpy(&seed, random, sizeof seed);
    }
    return seed == 0 ? (unsigned)g->options.node_id : seed;
}

static void raft_configure(struct kl_group *g, struct raft_io *io)
{
    struct raft *r = &g->raft;
    struct kl_wio_owner owner = {
        .ctx = g,
        .before = before,
        .after = after,
        .transmit = transmit,
        .install_wanted = install_wanted,
        .install_arrived = install_arrived,
        .flush = kl_group_flush,
        .wake = wio_wake,
        .fatal = wio_fatal,
    };

    r->tracer = NULL; /* its buffer is shared by all threads of the process */
    raft_seed(r, seed_of(g));
    raft_set_election_timeout(r, g->options.election_timeout_ms);
    raft_set_heartbeat_timeout(r, 1); /* N5, see wio.c */
    raft_set_pre_vote(r, true);
    raft_set_max_inflight_entries(r, KL_RAFT_WINDOW_MAX);
    raft_set_install_snapshot_timeout(r, KL_INSTALL_TIMEOUT_MS);
    /* Raft would refuse its own barrier when the disk is full and be a leader without one:
     * kl_group_space_check() refuses instead, and only what users propose. */
    raft_set_capacity_threshold(r, 0);
    kl_wio_init(&g->wio, io, r, &owner, g->options.tick_ms);
    g->wio.hold_ms = kl_placement_hold_ms(g);
}

enum kl_status kl_group_open(const struct kl_group_host *host,
                             const struct kl_group_options *options, struct raft_io *io,
                             struct kl_group **out, char *err, size_t err_len)
{
    struct kl_group *g;
    enum kl_status st;
    int rv;

    assert(options->node_id != 0 && options->tick_ms != 0 &&
           options->election_timeout_ms > options->tick_ms);
    if (strlen(options->address) > KL_ADDRESS_MAX) {
        (void)snprintf(err, err_len, "the address of this node is too long");
        return KL_INVALID_ARGUMENT;
    }
    g = kl_calloc(1, sizeof *g);
    if (g == NULL) {
        (void)snprintf(err, err_len, "out of memory");
        return KL_NO_MEMORY;
    }
    g->host = host;
    g->options = *options;
    (void)snprintf(g->address, sizeof g->address, "%s", options->address);
    g->options.address = g->address;
    if (g->options.log_keep_bytes == 0) {
        g->options.log_keep_bytes = KL_LOG_KEEP_BYTES;
    }
    g->entry_bytes = 1024;
    atomic_store(&g->gate, KL_GATE_SHUT); /* until Raft has restored the state */
    g->backlog_tail = &g->backlog;
    g->queue_tail = &g->queue;
    g->flights_tail = &g->flights;
    g->steers_tail = &g->steers;
    g->entry = KL_BUF(KL_ENTRY_MAX);
    kl_batch_init(&g->batch, KL_BATCH_MAX);
    kl_mailbox_init(&g->proposals, KL_PROPOSALS_QUEUED_MAX);
    kl_group_fresh_init(g);
    kl_group_fsm_init(g);
    st = kl_group_store_open(g, err, err_len);
    if (st != KL_OK) {
        goto out;
    }
    rv = raft_init(&g->raft, io, &g->fsm, options->node_id, g->address);
    if (rv != 0) {
        (void)snprintf(err, err_len, "opening the Raft log: %s: %s", raft_strerror(rv), io->errmsg);
        st = rv == RAFT_CORRUPT || rv == RAFT_MALFORMED ? KL_CORRUPT : KL_IO;
        goto out;
    }
    g->raft_open = true;
    raft_configure(g, io);
    *out = g;
out:
    if (st != KL_OK) {
        group_free(g);
    }
    return st;
}

enum kl_status kl_group_bootstrap(struct kl_group *g, const struct kl_member *voters, size_t n)
{
    struct raft_configuration conf;
    enum kl_status st = KL_INVALID_ARGUMENT;
    int rv;

    assert(!g->started);
    raft_configuration_init(&conf);
    if (n == 0 || n > KL_NODES_MAX) {
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        if (strlen(voters[i].address) > KL_ADDRESS_MAX ||
            raft_configuration_add(&conf, voters[i].node_id, voters[i].address, RAFT_VOTER) != 0) {
            goto out;
        }
    }
    rv = raft_bootstrap(&g->raft, &conf);
    st = rv == 0 ? KL_OK : rv == RAFT_CANTBOOTSTRAP ? KL_ALREADY_EXISTS : KL_IO;
out:
    raft_configuration_close(&conf);
    return st;
}

/*
 * Entries at or below what is applied are skipped. So a log that has lost its end must not grow again:
 * what it takes in those places would be acknowledged and never done. Among several voters the state
 * may be ahead for a moment, of what the others have stored, and the same entries come again; a lone
 * voter applies only what it has stored, and nobody applies anything without a log.
 */
static bool log_is_short(const struct kl_group *g)
{
    return g->wio.loaded < atomic_load(&g->applied) && (g->wio.loaded_alone || g->wio.loaded == 0);
}

enum kl_status kl_group_start(struct kl_group *g, char *err, size_t err_len)
{
    int rv;

    assert(!g->started && !g->closing);
    g->started_us = kl_group_now_us(g);
    g->started = true;
    rv = raft_start(&g->raft);
    if (rv != 0 || g->dead) {
        g->started = false;
        (void)snprintf(err, err_len, "starting Raft: %s: %s", raft_strerror(rv),
                       raft_errmsg(&g->raft));
        return rv == RAFT_CORRUPT || rv == RAFT_MALFORMED ? KL_CORRUPT
               : rv == RAFT_NOSPACE                       ? KL_NO_SPACE
                                                          : KL_IO;
    }
    if (log_is_short(g)) {
        (void)snprintf(err, err_len,
                       "the log below %s ends at %llu, but the state holds %llu: files are missing",
                       g->options.dir, (unsigned long long)g->wio.loaded,
                       (unsigned long long)atomic_load(&g->applied));
        return KL_CORRUPT;
    }
    g->brand_new = g->wio.first_term <= 1 && g->wio.first_vote == 0;
    kl_stream_recv_abort(g); /* what was staged and not needed is not needed */
    kl_group_gate_open(g);
    after(g);
    kl_group_publish(g);
    return KL_OK;
}

/* Waits for work under way and for readers, then frees. */
static void close_finish(void *arg)
{
    struct kl_group *g = arg;
    void (*done)(void *) = g->closed;
    void *done_arg = g->closed_arg;

    if (g->works != 0 || !kl_group_gate_empty(g)) {
        g->host->post(g->host->ctx, g, close_finish, g);
        return;
    }
    kl_group_landed_free(g);
    kl_stream_recv_abort(g);
    group_free(g);
    done(done_arg);
}

static void raft_closed(struct raft *r)
{
    struct kl_wio *w = r->data;
    struct kl_group *g = w->owner.ctx;

    g->raft_open = false;
    g->host->post(g->host->ctx, g, close_finish, g);
}

void kl_group_close(struct kl_group *g, void (*closed)(void *arg), void *arg)
{
    assert(!g->closing);
    g->closing = true;
    g->closed = closed;
    g->closed_arg = arg;
    kl_group_lease_drop(g);
    atomic_store(&g->leader, 0);
    kl_group_gate_shut(g);
    atomic_store(&g->shut, true);
    kl_mailbox_close(&g->proposals);
    kl_mailbox_close(&g->confirms);
    kl_group_confirm_fail(g);
    kl_group_write_lost(g);
    kl_group_write_fail(g, KL_UNAVAILABLE);
    kl_group_steer_fail(g);
    kl_stream_send_abort(g);
    if (g->raft_open) {
        raft_close(&g->raft, raft_closed);
    } else {
        g->host->post(g->host->ctx, g, close_finish, g);
    }
}

uint16_t kl_group_id(const struct kl_group *g)
{
    return g->options.id;
}

void *kl_group_host_ctx(const struct kl_group *g)
{
    return g->host->ctx;
}
