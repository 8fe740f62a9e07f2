#include "server/retention/scheduler.h"

#include "common/alloc.h"

#include <pthread.h>
#include <stdatomic.h>

enum { PERIOD_MS = 1000 };

struct kl_scheduler {
    struct kl_proposal proposal; /* one at a time */
    struct kl_scheduler_options options;
    bool purging; /* the proposal is a PurgeDue */
    atomic_uint_least64_t purged;

    pthread_mutex_t lock; /* guards what follows: proposals come back on the group's thread */
    uint64_t look_us;     /* monotonic: not before this */
    bool under_way;
    unsigned refs; /* the owner, and the proposal under way */
};

static uint64_t now_us(const struct kl_scheduler *s)
{
    return s->options.clock->mono_us(s->options.clock->ctx);
}

static void drop(struct kl_scheduler *s)
{
    bool last;

    (void)pthread_mutex_lock(&s->lock);
    last = --s->refs == 0;
    (void)pthread_mutex_unlock(&s->lock);
    if (last) {
        (void)pthread_mutex_destroy(&s->lock);
        kl_free(s);
    }
}

/* The next look: after ms, and after a period at the latest. */
static void look_in(struct kl_scheduler *s, uint64_t ms)
{
    uint64_t period = s->options.period_ms;
    uint64_t at = now_us(s) + (ms < period ? ms : period) * 1000;

    (void)pthread_mutex_lock(&s->lock);
    s->look_us = at;
    (void)pthread_mutex_unlock(&s->lock);
}

static bool time_to_look(struct kl_scheduler *s)
{
    uint64_t now = now_us(s);
    bool time;

    (void)pthread_mutex_lock(&s->lock);
    time = !s->under_way && now >= s->look_us;
    (void)pthread_mutex_unlock(&s->lock);
    return time;
}

static void begin(struct kl_scheduler *s)
{
    (void)pthread_mutex_lock(&s->lock);
    s->under_way = true;
    s->refs++;
    (void)pthread_mutex_unlock(&s->lock);
}

static void end(struct kl_scheduler *s)
{
    (void)pthread_mutex_lock(&s->lock);
    s->under_way = false;
    (void)pthread_mutex_unlock(&s->lock);
    drop(s);
}

/* How many items the proposal took away; 0 when it was refused. */
static uint32_t count_of(struct kl_bytes result)
{
    Kluis__Log__CommandResult *r =
        kluis__log__command_result__unpack(&kl_pb_allocator, result.len, result.ptr);
    uint32_t count = 0;

    if (r != NULL) {
        count = r->status == KL_OK ? r->count : 0;
        kl_pb_wipe_free(&r->base, &kl_pb_allocator);
    }
    return count;
}

static void proposed(struct kl_proposal *p, enum kl_status status, uint64_t index,
                     struct kl_bytes result)
{
    struct kl_scheduler *s = p->arg;
    uint32_t count = status == KL_OK ? count_of(result) : 0;

    (void)index;
    if (s->purging) {
        atomic_fetch_add(&s->purged, count);
    }
    /* Nothing done: the entry's time is behind our clock, or the disk is full. Not to be repeated at
     * every tick. */
    look_in(s, count != 0 ? 0 : UINT64_MAX);
    end(s);
}

static bool is_purge(struct kl_bytes command)
{
    Kluis__Log__Command *c =
        kluis__log__command__unpack(&kl_pb_allocator, command.len, command.ptr);
    bool purge = c != NULL && c->op_case == KLUIS__LOG__COMMAND__OP_PURGE_DUE;

    kl_pb_wipe_free((ProtobufCMessage *)c, &kl_pb_allocator);
    return purge;
}

/* Looks at this replica: a leader that serves has applied what its own log holds. */
static enum kl_status look(struct kl_scheduler *s, uint64_t wall_ms, struct kl_buf *command,
                           uint64_t *next_ms)
{
    struct kl_read read;
    enum kl_status st = kl_group_read_local(s->options.group, &read);
    bool held = s->options.held != NULL && s->options.held(s->options.held_ctx);

    if (st == KL_OK) {
        st = (held ? kl_core_due_collect : kl_core_due)(&read.view, wall_ms, command, next_ms);
        kl_group_read_local_end(s->options.group, &read);
    }
    return st;
}

void kl_scheduler_tick(struct kl_scheduler *s)
{
    struct kl_buf command = KL_BUF(KL_COMMAND_MAX);
    struct kl_group_status status;
    uint64_t wall_ms;
    uint64_t next_ms = 0;
    enum kl_status st;

    if (!time_to_look(s)) {
        return;
    }
    look_in(s, UINT64_MAX);
    kl_group_status(s->options.group, &status);
    if (!status.ready) {
        return;
    }
    wall_ms = s->options.clock->wall_ms(s->options.clock->ctx);
    st = look(s, wall_ms, &command, &next_ms);
    if (st == KL_NOT_FOUND) {
        look_in(s, next_ms - wall_ms); /* next_ms is in the future */
    }
    if (st != KL_OK) {
        kl_buf_wipe(&command);
        return;
    }
    s->purging = is_purge(kl_buf_bytes(&command));
    s->proposal = (struct kl_proposal){.command = command, .done = proposed, .arg = s};
    begin(s);
    st = kl_group_propose(s->options.group, &s->proposal);
    if (st != KL_OK) { /* the queue is full: later */
        kl_buf_wipe(&s->proposal.command);
        end(s);
    }
}

uint64_t kl_scheduler_purged(const struct kl_scheduler *s)
{
    return atomic_load(&s->purged);
}

enum kl_status kl_scheduler_new(const struct kl_scheduler_options *options,
                                struct kl_scheduler **out)
{
    struct kl_scheduler *s = kl_calloc(1, sizeof *s);

    if (s == NULL) {
        return KL_NO_MEMORY;
    }
    s->options = *options;
    if (s->options.period_ms == 0) {
        s->options.period_ms = PERIOD_MS;
    }
    s->refs = 1;
    (void)pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return KL_OK;
}

void kl_scheduler_free(struct kl_scheduler *s)
{
    if (s != NULL) {
        drop(s);
    }
}
