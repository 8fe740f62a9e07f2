/*
 * The wrapper alone, between a real libraft and a storage that is a few lines of memory: covers
 * that whole clusters need too much luck to show.
 */
#include "server/raft/wio.h"

#include "tests/lib/test.h"

enum { ELECTION_MS = 1000 };

struct bench {
    struct kl_wio w;
    struct raft raft;
    struct raft_io io;
    struct raft_fsm fsm;
    uint64_t now_ms;
    unsigned flushes, puts;
    struct raft_io_append *append; /* under way */
    raft_io_append_cb append_cb;
    uint8_t barrier[8]; /* the last one that reached the storage */
    bool barrier_seen;
    raft_term term;
    raft_id vote;
};

static struct bench *bench_of(struct raft_io *io)
{
    return io->impl;
}

/* ---- the storage: one entry, the configuration ---- */

static int s_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)io;
    (void)id;
    (void)address;
    return 0;
}

static void s_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct bench *b = bench_of(io);

    if (b->append != NULL) {
        b->append_cb(b->append, RAFT_CANCELED);
        b->append = NULL;
    }
    cb(io);
}

/* Node 1 votes, node 2 stands by. */
static int s_load(struct raft_io *io, raft_term *term, raft_id *vote,
                  struct raft_snapshot **snapshot, raft_index *start, struct raft_entry *entries[],
                  size_t *n)
{
    struct bench *b = bench_of(io);
    struct raft_configuration conf;
    struct raft_entry *e = raft_calloc(1, sizeof *e);

    raft_configuration_init(&conf);
    CHECK_EQ(raft_configuration_add(&conf, 1, "1", RAFT_VOTER), 0);
    CHECK_EQ(raft_configuration_add(&conf, 2, "2", RAFT_STANDBY), 0);
    CHECK_EQ(raft_configuration_encode(&conf, &e->buf), 0);
    raft_configuration_close(&conf);
    e->type = RAFT_CHANGE;
    e->term = 1;
    e->batch = e->buf.base;
    *term = b->term;
    *vote = b->vote;
    *snapshot = NULL;
    *start = 1;
    *entries = e;
    *n = 1;
    return 0;
}

static int s_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    (void)io;
    (void)msecs;
    (void)tick;
    (void)recv;
    return 0;
}

static int s_set_term(struct raft_io *io, raft_term term)
{
    bench_of(io)->term = term;
    bench_of(io)->vote = 0;
    return 0;
}

static int s_set_vote(struct raft_io *io, raft_id id)
{
    bench_of(io)->vote = id;
    return 0;
}

static int s_append(struct raft_io *io, struct raft_io_append *req,
                    const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct bench *b = bench_of(io);

    CHECK(n == 1 && b->append == NULL);
    if (entries[0].type == RAFT_BARRIER) {
        CHECK_EQ(entries[0].buf.len, sizeof b->barrier);
        memcpy(b->barrier, entries[0].buf.base, sizeof b->barrier);
        b->barrier_seen = true;
    }
    b->append = req;
    b->append_cb = cb;
    return 0;
}

static int s_truncate(struct raft_io *io, raft_index index)
{
    (void)io;
    (void)index;
    return 0;
}

static int s_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                          const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    (void)trailing;
    (void)req;
    (void)snapshot;
    (void)cb;
    bench_of(io)->puts++;
    return 0;
}

static raft_time s_time(struct raft_io *io)
{
    return bench_of(io)->now_ms;
}

static int s_random(struct raft_io *io, int min, int max)
{
    (void)io;
    (void)max;
    return min;
}

/* ---- the owner ---- */

static void o_nothing(void *ctx)
{
    (void)ctx;
}

static void o_message(void *ctx, const struct raft_message *m)
{
    (void)ctx;
    (void)m;
}

static enum kl_install o_install(void *ctx, const struct raft_install_snapshot *m)
{
    (void)ctx;
    (void)m;
    return KL_INSTALL_DROP;
}

static void o_flush(void *ctx)
{
    ((struct bench *)ctx)->flushes++;
}

static void o_fatal(void *ctx, const char *why)
{
    (void)ctx;
    fail_msg("%s", why);
}

static int f_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    (void)fsm;
    (void)buf;
    *result = NULL;
    return 0;
}

static void setup(struct bench *b, unsigned covers_off)
{
    const struct kl_wio_owner owner = {.ctx = b,
                                       .before = o_nothing,
                                       .after = o_nothing,
                                       .transmit = o_message,
                                       .install_wanted = o_message,
                                       .install_arrived = o_install,
                                       .flush = o_flush,
                                       .wake = o_nothing,
                                       .fatal = o_fatal};

    *b = (struct bench){.now_ms = 1000000, .term = 1};
    b->io = (struct raft_io){.version = 1,
                             .capacity = 8192,
                             .impl = b,
                             .init = s_init,
                             .close = s_close,
                             .load = s_load,
                             .start = s_start,
                             .set_term = s_set_term,
                             .set_vote = s_set_vote,
                             .append = s_append,
                             .truncate = s_truncate,
                             .snapshot_put = s_snapshot_put,
                             .time = s_time,
                             .random = s_random};
    b->fsm = (struct raft_fsm){.version = 3, .data = b, .apply = f_apply};
    CHECK_EQ(raft_init(&b->raft, &b->io, &b->fsm, 1, "1"), 0);
    b->raft.tracer = NULL;
    raft_set_election_timeout(&b->raft, ELECTION_MS);
    kl_wio_init(&b->w, &b->io, &b->raft, &owner, 100);
    b->w.covers &= ~covers_off;
    CHECK_EQ(raft_start(&b->raft), 0);
    CHECK_EQ(raft_state(&b->raft), RAFT_LEADER);
}

static void teardown(struct bench *b)
{
    raft_close(&b->raft, NULL);
    kl_wio_done(&b->w);
}

static struct raft_message result_of(const struct bench *b, raft_index rejected, raft_index last)
{
    return (struct raft_message){.type = RAFT_APPEND_ENTRIES_RESULT,
                                 .server_id = 2,
                                 .server_address = "2",
                                 .append_entries_result = {.version = 1,
                                                           .term = b->raft.current_term,
                                                           .rejected = rejected,
                                                           .last_log_index = last}};
}

/* N11: the only voter leads a new term with its own vote on disk; without the cover, the old one. */
TEST(wio, only_voter_takes_a_new_term)
{
    struct bench b;

    setup(&b, 0);
    CHECK_EQ(b.raft.current_term, 2);
    CHECK_EQ(b.term, 2);
    CHECK_EQ(b.vote, 1);
    teardown(&b);
    setup(&b, KL_COVER_SOLO);
    CHECK_EQ(b.raft.current_term, 1);
    teardown(&b);
}

/* N14: a barrier is zeros; without the cover it is whatever memory held. */
TEST(wio, barriers_are_blank)
{
    static const uint8_t zeros[8] = {0};
    struct raft_barrier barrier = {.data = NULL};
    struct bench b;

    setup(&b, 0);
    CHECK_EQ(raft_barrier(&b.raft, &barrier, NULL), 0);
    CHECK(b.barrier_seen);
    CHECK_MEM(b.barrier, zeros, sizeof zeros);
    teardown(&b);
}

/* N17: a rejection of what the follower is known to have is dropped, any other is raft's to hear. */
TEST(wio, overtaken_rejection)
{
    struct bench b;
    struct raft_message m;

    setup(&b, 0);
    m = result_of(&b, 0, 1);
    kl_wio_receive(&b.w, &m); /* node 2 has entry 1 */
    m = result_of(&b, 1, 0);
    CHECK(kl_wio_stale_rejection(&b.w, &m));
    m = result_of(&b, 2, 1);
    CHECK(!kl_wio_stale_rejection(&b.w, &m));
    m = result_of(&b, 0, 1);
    CHECK(!kl_wio_stale_rejection(&b.w, &m));
    b.w.covers &= ~(unsigned)KL_COVER_REJECT;
    m = result_of(&b, 1, 0);
    CHECK(!kl_wio_stale_rejection(&b.w, &m));
    teardown(&b);
}

/* ---- N19 ---- */

/* Nodes 1 and 2 vote; with `three` node 3 stands by. */
static struct raft_buffer change_of(bool three)
{
    struct raft_configuration conf;
    struct raft_buffer buf;

    raft_configuration_init(&conf);
    CHECK_EQ(raft_configuration_add(&conf, 1, "1", RAFT_VOTER), 0);
    CHECK_EQ(raft_configuration_add(&conf, 2, "2", RAFT_VOTER), 0);
    if (three) {
        CHECK_EQ(raft_configuration_add(&conf, 3, "3", RAFT_STANDBY), 0);
    }
    CHECK_EQ(raft_configuration_encode(&conf, &buf), 0);
    raft_configuration_close(&conf);
    return buf;
}

/* One entry from node 2, received and stored; its term is the message's. */
static void receive_entry(struct bench *b, raft_term term, raft_index prev, raft_term prev_term,
                          raft_index commit, struct raft_entry entry)
{
    struct raft_entry *e = raft_calloc(1, sizeof *e);
    struct raft_message m = {.type = RAFT_APPEND_ENTRIES, .server_id = 2, .server_address = "2"};
    raft_io_append_cb cb;
    struct raft_io_append *append;

    *e = entry;
    e->term = term;
    e->batch = entry.buf.base;
    m.append_entries = (struct raft_append_entries){.version = 1,
                                                    .term = term,
                                                    .prev_log_index = prev,
                                                    .prev_log_term = prev_term,
                                                    .leader_commit = commit,
                                                    .entries = e,
                                                    .n_entries = 1};
    kl_wio_receive(&b->w, &m);
    append = b->append;
    cb = b->append_cb;
    CHECK(append != NULL);
    b->append = NULL;
    cb(append, 0);
}

/* Entry 2 makes node 2 a voter and is committed, entry 3 adds node 3 and is taken back by the leader
 * of the next term. `commit` is what this node heard of the commit when entry 3 came. Returns the
 * role that node 2 then has here. */
static int role_after_rollback(unsigned covers_off, raft_index commit, raft_index *committed)
{
    struct raft_entry barrier = {.type = RAFT_BARRIER, .buf = {raft_calloc(1, 8), 8}};
    struct bench b;
    int role;

    setup(&b, covers_off);
    receive_entry(&b, 3, 1, 1, 1,
                  (struct raft_entry){.type = RAFT_CHANGE, .buf = change_of(false)});
    CHECK_EQ(b.raft.configuration_uncommitted_index, 2);
    receive_entry(&b, 3, 2, 3, commit,
                  (struct raft_entry){.type = RAFT_CHANGE, .buf = change_of(true)});
    CHECK_EQ(b.raft.configuration_uncommitted_index, 3);
    CHECK_EQ(b.raft.configuration.n, 3);
    receive_entry(&b, 4, 2, 3, 2, barrier);
    CHECK_EQ(b.raft.configuration_uncommitted_index, 0);
    CHECK_EQ(b.raft.last_applied, 2);
    CHECK_EQ(b.raft.configuration.n, 2);
    role = b.raft.configuration.servers[1].role;
    *committed = b.raft.configuration_committed_index;
    teardown(&b);
    return role;
}

/* N19: a change that is taken back leaves the one before it in force, whether or not this node had
 * heard of its commit; libraft falls back behind a committed change. */
TEST(wio, change_taken_back)
{
    raft_index committed = 0;

    for (raft_index commit = 1; commit <= 2; commit++) {
        CHECK_EQ(role_after_rollback(0, commit, &committed), RAFT_VOTER);
        CHECK_EQ(committed, 2);
        CHECK_EQ(role_after_rollback(KL_COVER_CHAIN, commit, &committed), RAFT_STANDBY);
        CHECK_EQ(committed, 1);
    }
}

/* N19: what is not the log that this node has, or is there already, says nothing about the change
 * before. */
TEST(wio, change_elsewhere)
{
    struct raft_entry e = {.type = RAFT_CHANGE};
    struct raft_append_entries a = {.version = 1,
                                    .term = 3,
                                    .prev_log_index = 2,
                                    .prev_log_term = 3,
                                    .leader_commit = 1,
                                    .entries = &e,
                                    .n_entries = 1};
    struct bench b;

    setup(&b, 0);
    receive_entry(&b, 3, 1, 1, 1,
                  (struct raft_entry){.type = RAFT_CHANGE, .buf = change_of(false)});
    e.term = 3;
    a.term = 2; /* of an old leader */
    kl_wio_chain(&b.w, &a);
    CHECK_EQ(b.raft.configuration_committed_index, 1);
    a.term = 4;
    a.prev_log_term = 2; /* another log */
    kl_wio_chain(&b.w, &a);
    CHECK_EQ(b.raft.configuration_committed_index, 1);
    a.prev_log_index = 1; /* the change itself, again */
    a.prev_log_term = 1;
    kl_wio_chain(&b.w, &a);
    CHECK_EQ(b.raft.configuration_committed_index, 1);
    e.term = 4; /* another one in its place */
    kl_wio_chain(&b.w, &a);
    CHECK_EQ(b.raft.configuration_committed_index, 1);
    a.prev_log_index = 2;
    a.prev_log_term = 3;
    e.type = RAFT_COMMAND;
    kl_wio_chain(&b.w, &a);
    CHECK_EQ(b.raft.configuration_committed_index, 1);
    e.type = RAFT_CHANGE;
    kl_wio_chain(&b.w, &a);
    CHECK_EQ(b.raft.configuration_committed_index, 2);
    teardown(&b);
}

static void put_done(struct raft_io_snapshot_put *req, int status)
{
    *(int *)req->data = status;
}

/* A snapshot, a leader's too, reaches the disk only after the state was flushed; closing before that
 * cancels it. */
TEST(wio, flush_before_snapshot)
{
    for (unsigned trailing = 0; trailing <= 16; trailing += 16) {
        struct bench b;
        uint8_t reference[8] = {0};
        struct raft_buffer buf = {reference, sizeof reference};
        struct raft_snapshot s = {.index = 1, .term = 1, .bufs = &buf, .n_bufs = 1};
        int status = -1;
        struct raft_io_snapshot_put req = {.data = &status};

        setup(&b, 0);
        CHECK_EQ(b.io.snapshot_put(&b.io, trailing, &req, &s, put_done), 0);
        CHECK_EQ(b.flushes, 1);
        CHECK_EQ(b.puts, 0);
        kl_wio_flushed(&b.w);
        CHECK_EQ(b.puts, 1);
        b.w.put.busy = false; /* this storage forgets it */
        teardown(&b);

        setup(&b, 0);
        CHECK_EQ(b.io.snapshot_put(&b.io, trailing, &req, &s, put_done), 0);
        teardown(&b);
        CHECK_EQ(b.puts, 0);
        CHECK_EQ(status, RAFT_CANCELED);
    }
}
