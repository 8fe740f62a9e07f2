#include "tests/sim/disk.h"

#include "tests/sim/parts.h"

#include <assert.h>
#include <string.h>

enum op_type { OP_APPEND, OP_TRUNCATE, OP_INSTALL, OP_PUT, OP_GET };

/* What sim_disk_complete() completes. */
enum { WHAT_HEAD, WHAT_PUT, WHAT_GET, WHAT_CLOSE };

enum { CAPACITY_KB = 8192, ENTRY_ALIGN = 8 };

struct sim_disk_op {
    struct sim_disk_op *next;
    enum op_type type;
    raft_index index; /* first entry to append, or to truncate */
    raft_term term;   /* when it was asked for */
    struct sim_entry **entries;
    unsigned n;
    unsigned trailing;
    struct sim_disk_snapshot snapshot;
    struct raft_io_append *append;
    raft_io_append_cb append_cb;
    struct raft_io_snapshot_put *put;
    raft_io_snapshot_put_cb put_cb;
    bool fails;
};

static struct sim_disk *disk_of(struct raft_io *io)
{
    return io->impl;
}

static struct sim_heap *heap_of(struct sim_disk *d)
{
    return &d->w->heap;
}

/* ---- what is on the disk ---- */

static raft_index last_index(const struct sim_disk *d)
{
    return d->start + d->entries_n - 1;
}

static void snapshot_drop(struct sim_disk_snapshot *s)
{
    sim_free(s->conf);
    sim_free(s->data);
    *s = (struct sim_disk_snapshot){.index = 0};
}

static void log_append(struct sim_disk *d, struct sim_entry *e)
{
    if (d->entries_n == d->entries_cap) {
        size_t cap = d->entries_cap == 0 ? 64 : d->entries_cap * 2;
        struct sim_entry **entries = sim_alloc(heap_of(d), cap * sizeof(struct sim_entry *));

        if (d->entries_n != 0) {
            memcpy(entries, d->entries, d->entries_n * sizeof(struct sim_entry *));
        }
        sim_free(d->entries);
        d->entries = entries;
        d->entries_cap = cap;
    }
    d->entries[d->entries_n++] = e;
}

/* Carries out an operation; n: how many of its entries. */
static void execute(struct sim_disk *d, struct sim_disk_op *op, unsigned n)
{
    raft_index keep;

    switch (op->type) {
    case OP_APPEND:
        assert(op->index == last_index(d) + 1);
        for (unsigned i = 0; i < n; i++) {
            log_append(d, op->entries[i]);
        }
        break;
    case OP_TRUNCATE:
        assert(op->index >= d->start && op->index <= last_index(d) + 1);
        for (size_t i = (size_t)(op->index - d->start); i < d->entries_n; i++) {
            sim_watch_truncate(d->w, d->replica, d->entries[i], op->term);
        }
        d->entries_n = (size_t)(op->index - d->start);
        break;
    case OP_INSTALL:
    case OP_PUT:
        snapshot_drop(&d->snapshot);
        d->snapshot = op->snapshot;
        op->snapshot = (struct sim_disk_snapshot){.index = 0};
        if (op->type == OP_INSTALL) {
            d->entries_n = 0;
            d->start = d->snapshot.index + 1;
            break;
        }
        /* Whole segments go, so often a few more entries stay than were asked for. */
        keep = op->trailing + sim_below(&d->w->rng, 16);
        keep = d->snapshot.index > keep ? d->snapshot.index - keep + 1 : 1;
        if (keep > d->start && keep <= last_index(d)) {
            size_t gone = (size_t)(keep - d->start);

            memmove(d->entries, d->entries + gone, (d->entries_n - gone) * sizeof *d->entries);
            d->entries_n -= gone;
            d->start = keep;
        }
        break;
    case OP_GET:
        break;
    }
}

static void op_free(struct sim_disk_op *op)
{
    snapshot_drop(&op->snapshot);
    sim_free(op->entries);
    sim_free(op);
}

/* ---- the queue ---- */

static uint64_t delay(struct sim_disk *d)
{
    uint64_t us = sim_skewed(&d->w->rng, 20, 3 * SIM_MS);

    us *= d->slow > 1 ? d->slow : 1;
    return d->full ? us + 200 * SIM_MS : us; /* libraft's storage tries again now and then */
}

static void complete_later(struct sim_disk *d, uint64_t what, void *arg)
{
    struct sim_event *e = sim_schedule(d->w, SIM_EV_DISK, d->replica->node, delay(d));

    e->replica = d->replica;
    e->a = what;
    e->arg = arg;
}

/* Starts the head, unless it runs. Snapshots of the running state move aside: later appends do not
 * wait for them. */
static void kick(struct sim_disk *d)
{
    while (!d->running && d->head != NULL) {
        struct sim_disk_op *op = d->head;

        if (op->type != OP_PUT) {
            d->running = true;
            complete_later(d, WHAT_HEAD, NULL);
            return;
        }
        assert(d->put == NULL);
        d->head = op->next;
        d->tail = d->head == NULL ? NULL : d->tail;
        d->put = op;
        complete_later(d, WHAT_PUT, NULL);
    }
}

static struct sim_disk_op *enqueue(struct sim_disk *d, enum op_type type)
{
    struct sim_disk_op *op = sim_zalloc(heap_of(d), sizeof *op);

    op->type = type;
    op->fails = d->fail_next && (type == OP_APPEND || type == OP_PUT || type == OP_INSTALL);
    d->fail_next = d->fail_next && !op->fails;
    if (d->tail != NULL) {
        d->tail->next = op;
    } else {
        d->head = op;
    }
    d->tail = op;
    return op;
}

/* Takes the head out and carries it out. */
static struct sim_disk_op *finish_head(struct sim_disk *d)
{
    struct sim_disk_op *op = d->head;

    d->head = op->next;
    d->tail = d->head == NULL ? NULL : d->tail;
    if (!op->fails) {
        execute(d, op, op->n);
    }
    return op;
}

static void call_back(struct sim_disk_op *op, int status)
{
    status = op->fails ? RAFT_IOERR : status;
    if (op->type == OP_APPEND) {
        op->append_cb(op->append, status);
    } else if (op->type == OP_PUT || op->type == OP_INSTALL) {
        op->put_cb(op->put, status);
    }
}

/* ---- raft_io ---- */

static int io_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)io;
    (void)id;
    (void)address;
    return 0;
}

static struct raft_snapshot *load_snapshot(const struct sim_disk *d)
{
    struct raft_snapshot *s;
    struct raft_buffer conf = {d->snapshot.conf, d->snapshot.conf_len};
    int rv;

    if (d->snapshot.index == 0) {
        return NULL;
    }
    s = raft_calloc(1, sizeof *s);
    s->index = d->snapshot.index;
    s->term = d->snapshot.term;
    s->configuration_index = d->snapshot.conf_index;
    raft_configuration_init(&s->configuration);
    rv = raft_configuration_decode(&conf, &s->configuration);
    assert(rv == 0);
    s->bufs = raft_malloc(sizeof *s->bufs);
    s->n_bufs = 1;
    s->bufs[0].base = raft_malloc(d->snapshot.data_len);
    s->bufs[0].len = d->snapshot.data_len;
    memcpy(s->bufs[0].base, d->snapshot.data, d->snapshot.data_len);
    return s;
}

static int io_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                   struct raft_snapshot **snapshot, raft_index *start_index,
                   struct raft_entry *entries[], size_t *n_entries)
{
    struct sim_disk *d = disk_of(io);
    size_t bytes = 0;
    uint8_t *batch = NULL;

    sim_step(d->w);
    *term = d->term;
    *voted_for = d->voted_for;
    *snapshot = load_snapshot(d);
    *start_index = d->start;
    *entries = NULL;
    *n_entries = d->entries_n;
    d->next = last_index(d) + 1;
    if (d->entries_n == 0) {
        return 0;
    }
    for (size_t i = 0; i < d->entries_n; i++) {
        bytes += d->entries[i]->len;
    }
    batch = raft_malloc(bytes);
    *entries = raft_calloc(d->entries_n, sizeof **entries);
    for (size_t i = 0; i < d->entries_n; i++) {
        const struct sim_entry *e = d->entries[i];

        memcpy(batch, e->data, e->len);
        (*entries)[i].term = e->term;
        (*entries)[i].type = (enum raft_entry_type)e->type;
        (*entries)[i].buf = (struct raft_buffer){batch, e->len};
        batch += e->len;
    }
    batch -= bytes;
    for (size_t i = 0; i < d->entries_n; i++) {
        (*entries)[i].batch = batch;
    }
    return 0;
}

static void schedule_tick(struct sim_disk *d, uint64_t after_us)
{
    struct sim_event *e = sim_schedule(d->w, SIM_EV_TICK, d->replica->node, after_us);

    e->replica = d->replica;
}

static int io_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct sim_disk *d = disk_of(io);

    (void)recv; /* messages come through the group */
    d->tick = tick;
    d->tick_ms = msecs;
    schedule_tick(d, sim_below(&d->w->rng, msecs * SIM_MS));
    return 0;
}

void sim_disk_tick(struct sim_disk *d)
{
    if (!d->closing) {
        schedule_tick(d, (uint64_t)d->tick_ms * SIM_MS);
        d->tick(&d->replica->io);
    }
}

static int io_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    struct sim_disk *d = disk_of(io);
    struct raft_entry e = {.term = 1, .type = RAFT_CHANGE};
    int rv;

    if (d->term != 0) {
        return RAFT_CANTBOOTSTRAP;
    }
    rv = raft_configuration_encode(conf, &e.buf);
    if (rv != 0) {
        return rv;
    }
    sim_step(d->w);
    d->term = 1;
    d->voted_for = 0;
    sim_step(d->w);
    log_append(d, sim_watch_entry(d->w, d->replica->group_id, 1, &e));
    raft_free(e.buf.base);
    return 0;
}

/* A configuration forced onto the log, for an operator's last resort. */
static int io_recover(struct raft_io *io, const struct raft_configuration *conf)
{
    struct sim_disk *d = disk_of(io);
    struct raft_entry e = {.type = RAFT_CHANGE};
    int rv = raft_configuration_encode(conf, &e.buf);

    if (rv != 0) {
        return rv;
    }
    e.term = d->entries_n == 0 ? d->snapshot.term : d->entries[d->entries_n - 1]->term;
    log_append(d, sim_watch_entry(d->w, d->replica->group_id, last_index(d) + 1, &e));
    raft_free(e.buf.base);
    return 0;
}

static int io_set_term(struct raft_io *io, raft_term term)
{
    struct sim_disk *d = disk_of(io);

    sim_step(d->w);
    if (d->fail_next) {
        d->fail_next = false;
        return RAFT_IOERR;
    }
    if (term < d->term) {
        sim_fail(d->w, "n%llu: term goes back from %llu to %llu",
                 (unsigned long long)d->replica->node->id, d->term, term);
    }
    d->term = term;
    d->voted_for = 0;
    sim_step(d->w);
    return 0;
}

static int io_set_vote(struct raft_io *io, raft_id id)
{
    struct sim_disk *d = disk_of(io);

    sim_step(d->w);
    if (d->voted_for != 0 && d->voted_for != id) {
        sim_fail(d->w, "n%llu votes twice in term %llu: for %llu, then for %llu",
                 (unsigned long long)d->replica->node->id, d->term, d->voted_for, id);
    }
    d->voted_for = id;
    sim_step(d->w);
    return 0;
}

static int io_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *m,
                   raft_io_send_cb cb)
{
    (void)io;
    (void)req;
    (void)m;
    (void)cb;
    assert(!"the group must bring its own network");
    return 0;
}

static int io_append(struct raft_io *io, struct raft_io_append *req,
                     const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct sim_disk *d = disk_of(io);
    struct sim_disk_op *op;

    sim_step(d->w);
    assert(!d->closing && n != 0);
    op = enqueue(d, OP_APPEND);
    op->append = req;
    op->append_cb = cb;
    op->index = d->next;
    op->n = n;
    op->entries = sim_alloc(heap_of(d), n * sizeof(struct sim_entry *));
    for (unsigned i = 0; i < n; i++) {
        assert(entries[i].buf.len % ENTRY_ALIGN == 0);
        op->entries[i] = sim_watch_entry(d->w, d->replica->group_id, d->next + i, &entries[i]);
    }
    d->next += n;
    kick(d);
    return 0;
}

static int io_truncate(struct raft_io *io, raft_index index)
{
    struct sim_disk *d = disk_of(io);
    struct sim_disk_op *op;

    sim_step(d->w);
    assert(index > 0);
    if (index >= d->next) {
        return 0; /* libraft 0.22.1 calls this before every append */
    }
    op = enqueue(d, OP_TRUNCATE);
    op->index = index;
    op->term = d->term;
    d->next = index;
    kick(d);
    return 0;
}

static void snapshot_copy(struct sim_disk *d, struct sim_disk_snapshot *to,
                          const struct raft_snapshot *from)
{
    struct raft_buffer conf;
    size_t at = 0;
    int rv = raft_configuration_encode(&from->configuration, &conf);

    assert(rv == 0);
    to->index = from->index;
    to->term = from->term;
    to->conf_index = from->configuration_index;
    to->conf = sim_alloc(heap_of(d), conf.len);
    to->conf_len = conf.len;
    memcpy(to->conf, conf.base, conf.len);
    raft_free(conf.base);
    for (unsigned i = 0; i < from->n_bufs; i++) {
        to->data_len += from->bufs[i].len;
    }
    to->data = sim_alloc(heap_of(d), to->data_len);
    for (unsigned i = 0; i < from->n_bufs; i++) {
        memcpy(to->data + at, from->bufs[i].base, from->bufs[i].len);
        at += from->bufs[i].len;
    }
}

static int io_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                           const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct sim_disk *d = disk_of(io);
    struct sim_disk_op *op;

    sim_step(d->w);
    assert(!d->closing);
    op = enqueue(d, trailing == 0 ? OP_INSTALL : OP_PUT);
    op->trailing = trailing;
    op->put = req;
    op->put_cb = cb;
    snapshot_copy(d, &op->snapshot, snapshot);
    if (trailing == 0) {
        d->next = snapshot->index + 1;
    }
    d->w->stats.snapshots++;
    sim_say(d->w, "g%u writes snapshot %llu, keeping %u", d->replica->group_id, snapshot->index,
            trailing);
    kick(d);
    return 0;
}

struct get {
    struct raft_io_snapshot_get *req;
    raft_io_snapshot_get_cb cb;
};

static int io_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                           raft_io_snapshot_get_cb cb)
{
    struct sim_disk *d = disk_of(io);
    struct get *g = raft_malloc(sizeof *g);

    *g = (struct get){req, cb};
    d->gets++;
    complete_later(d, WHAT_GET, g);
    return 0;
}

static void io_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct sim_disk *d = disk_of(io);

    d->closing = true;
    d->close = cb;
    complete_later(d, WHAT_CLOSE, NULL);
}

static raft_time io_time(struct raft_io *io)
{
    struct sim_node *n = disk_of(io)->replica->node;

    return n->clock.mono_us(n->clock.ctx) / SIM_MS;
}

static int io_random(struct raft_io *io, int min, int max)
{
    return (int)sim_range(&disk_of(io)->replica->node->rng, (uint64_t)min, (uint64_t)max);
}

void sim_disk_io(struct sim_disk *d, struct raft_io *io)
{
    *io = (struct raft_io){
        .version = 1,
        .capacity = d->full ? 0 : CAPACITY_KB,
        .impl = d,
        .init = io_init,
        .close = io_close,
        .load = io_load,
        .start = io_start,
        .bootstrap = io_bootstrap,
        .recover = io_recover,
        .set_term = io_set_term,
        .set_vote = io_set_vote,
        .send = io_send,
        .append = io_append,
        .truncate = io_truncate,
        .snapshot_put = io_snapshot_put,
        .snapshot_get = io_snapshot_get,
        .time = io_time,
        .random = io_random,
    };
    d->next = last_index(d) + 1;
    d->closing = false;
}

/* ---- completions ---- */

/* Whatever is still under way ends now; some of it well. Then the storage is closed. */
static void complete_close(struct sim_disk *d)
{
    bool broken = false;

    if (d->gets != 0) {
        complete_later(d, WHAT_CLOSE, NULL);
        return;
    }
    while (d->put != NULL || d->head != NULL) {
        struct sim_disk_op *op = d->put != NULL ? d->put : d->head;
        bool aside = op == d->put;

        if (aside) {
            d->put = NULL;
        } else {
            d->head = op->next;
        }
        broken = broken || op->fails || sim_chance(&d->w->rng, 300);
        if (!broken) {
            execute(d, op, op->n);
        }
        op->fails = false;
        call_back(op, broken ? RAFT_CANCELED : 0);
        op_free(op);
    }
    d->tail = NULL;
    d->running = false;
    d->close(&d->replica->io);
}

void sim_disk_complete(struct sim_disk *d, uint64_t what, void *arg)
{
    struct sim_disk_op *op = NULL;
    struct sim_disk_op copy;

    if (d->closing && what != WHAT_GET) {
        if (what == WHAT_CLOSE) {
            complete_close(d);
        }
        return;
    }
    if (what == WHAT_GET) {
        struct get g = *(struct get *)arg;
        struct raft_snapshot *s = load_snapshot(d);

        raft_free(arg);
        d->gets--;
        g.cb(g.req, s, s == NULL ? RAFT_NOTFOUND : 0);
        return;
    }
    if (d->full && sim_chance(&d->w->rng, 800)) {
        complete_later(d, what, NULL); /* still no room */
        return;
    }
    if (what == WHAT_HEAD) {
        op = finish_head(d);
        d->running = false;
    } else {
        op = d->put;
        d->put = NULL;
        if (!op->fails) {
            execute(d, op, 0);
        }
    }
    d->broken = d->broken || op->fails;
    if (!d->broken) {
        kick(d);
    }
    copy = *op;
    op_free(op); /* first: the callback may crash the node */
    call_back(&copy, 0);
}

struct sim_entry *sim_disk_entry(const struct sim_disk *d, raft_index index)
{
    struct sim_entry *found = NULL;

    if (index >= d->start && index <= last_index(d)) {
        found = d->entries[index - d->start];
    }
    for (const struct sim_disk_op *op = d->head; op != NULL; op = op->next) {
        if (op->type == OP_APPEND && index >= op->index && index < op->index + op->n) {
            found = op->entries[index - op->index];
        }
    }
    return found;
}

void sim_disk_crash(struct sim_disk *d, struct sim_rng *rng)
{
    if (d->put != NULL) {
        if (!d->put->fails && sim_chance(rng, 500)) {
            execute(d, d->put, 0);
        }
        op_free(d->put);
        d->put = NULL;
    }
    for (bool torn = d->broken; d->head != NULL;) {
        struct sim_disk_op *op = d->head;

        d->head = op->next;
        if (!torn && !op->fails && sim_chance(rng, 500)) {
            execute(d, op, op->n);
        } else if (!torn) {
            torn = true; /* the rest never reached the disk */
            if (op->type == OP_APPEND) {
                execute(d, op, (unsigned)sim_below(rng, op->n + 1u));
            }
        }
        op_free(op);
    }
    if (d->w->options.sabotage == SIM_SABOTAGE_AMNESIA && d->entries_n > 2) {
        d->entries_n -= sim_below(rng, 2);
    }
    d->tail = NULL;
    d->running = false;
    d->gets = 0;
    d->closing = false;
    d->broken = false;
}

void sim_disk_init(struct sim_disk *d, struct sim_world *w, struct sim_replica *r)
{
    *d = (struct sim_disk){.w = w, .replica = r, .start = 1};
}

void sim_disk_clear(struct sim_disk *d)
{
    assert(d->head == NULL && d->put == NULL);
    snapshot_drop(&d->snapshot);
    sim_free(d->entries);
    sim_disk_init(d, d->w, d->replica);
}

void sim_disk_set_full(struct sim_disk *d, bool full)
{
    d->full = full;
    d->replica->io.capacity = full ? 0 : CAPACITY_KB;
}
