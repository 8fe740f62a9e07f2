/*
 * A call on its way through the dispatcher, and what the dispatcher's files share. Internal to
 * server/rpc.
 *
 * Who owns a call:
 *   queued   the dispatcher; it waits for a worker
 *   running  the worker that serves it, alone; its deadline is looked at when a step ends
 *   waiting  whoever ends what it waits for (a group, a peer), who queues it again
 * Queued and waiting calls are in the wheel of deadlines. When the deadline strikes, the sweep
 * answers with KL_TIMEOUT and marks the call as answered; what it waits for still comes, finds the
 * mark, and the call ends without a second reply.
 */
#ifndef KL_RPC_CALL_H
#define KL_RPC_CALL_H

#include "server/rpc/dispatch.h"
#include "server/rpc/wheel.h"
#include "server/rpc/wire.h"

#include <stdatomic.h>

/* Something that is swapped while calls use it. */
struct kl_shared {
    atomic_size_t refs;
    struct kl_auth *auth;
    struct kl_keyring *ring;
};
void kl_shared_release(struct kl_shared *s); /* NULL is allowed */

struct kl_work {
    struct kl_call call; /* what the handler sees; first */
    struct kl_dispatch *d;
    struct kl_work *next; /* in the queue */
    struct kl_due due;
    bool answered; /* by the sweep */
    bool stopped;  /* no group and no peer may be touched any more */

    struct kl_origin origin;
    struct kl_buf packed; /* until it is unpacked */
    size_t size;          /* of the packed call */
    uint64_t arrived_us, deadline_us;
    bool write; /* for the counters */

    struct kl_shared *auth, *ring;
    struct kl_unpack envelope_memory, request_memory;
    Kluis__V1__Call *envelope;
    ProtobufCMessage *request;
    struct kl_read read;

    /* Consistency (read.c). */
    struct kl_group *wants; /* whose leader must be confirmed before the call goes on; NULL */
    struct kl_group *confirmed[2]; /* directory and home group, once it was */
    unsigned confirmed_n;
    struct kl_confirm confirm;
    uint64_t age_us; /* of what a stale read saw */
    bool fresh;      /* the cache of vault names was wrong */

    struct kl_group *hint; /* whose leader to name with NOT_LEADER */
    bool elsewhere;        /* or: the group is not held here */
    uint16_t elsewhere_id;
    bool cached; /* the group comes from the cache of vault names */
    unsigned replans;

    /* What it waits for and what came of it. */
    enum kl_status (*then)(struct kl_call *call, enum kl_status status, struct kl_bytes result,
                           struct kl_plan *plan);
    struct kl_proposal proposal;
    enum kl_status outcome;
    struct kl_buf result;
    struct kl_buf remote; /* a packed call to another node */
    uint64_t remote_to;
    uint64_t remote_next; /* who is to be asked instead; 0 = nobody */
    unsigned remote_hops;
};

/* Names of vaults whose home group is known: an entry may be wrong once a vault was purged. */
struct kl_vault_slot {
    char name[KL_VAULT_NAME_MAX + 1]; /* folded; "" is free */
    uint16_t group;
};
struct kl_vault_cache {
    struct kl_vault_slot slots[KL_VAULT_CACHE_SLOTS];
    pthread_mutex_t lock;
};

/* A worker's turn: a scratch buffer, and connections whose replies are held back to leave together. */
struct kl_runner {
    struct kl_job job; /* first */
    struct kl_dispatch *d;
    struct kl_runner *next_idle;
    struct kl_buf scratch;
    struct {
        void *arg;
        void (*release)(void *arg);
    } holds[KL_HOLDS_MAX];
    size_t holds_n;
    uint64_t held_us; /* since when the first is held */
};

struct kl_dispatch {
    struct kl_dispatch_options o;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* active or running went down */
    /* under the lock */
    struct kl_work *head;
    struct kl_work **tail;
    size_t queued;
    size_t active;  /* calls that have not ended */
    size_t running; /* turns of calls on workers */
    uint64_t taken; /* calls taken from the queue so far */
    bool draining;  /* no new calls */
    bool stopped;   /* no group and no peer may be touched any more */
    struct kl_wheel wheel;
    struct kl_shared *auth, *ring;
    struct kl_runner *idle;
    unsigned busy; /* runners that are not idle */
    bool sweeping; /* the sweep ticks */
    bool ending;
    struct kl_runner runners[KL_RUNNERS_MAX];

    struct kl_vault_cache cache;
    const char *region; /* this node's; "" when the configuration does not say */
    pthread_t sweeper;
    int wake[2];          /* a pipe that ends the sweeper's wait */
    atomic_size_t taking; /* calls that take room: those that are active and not answered yet */
    atomic_size_t bytes;  /* of their packed forms */
    atomic_uint_fast64_t calls, errors, refused, reads, writes;
};

static inline uint64_t kl_now_us(const struct kl_dispatch *d)
{
    return d->o.clock->mono_us(d->o.clock->ctx);
}

/* What entries are compared to; 0 = not known yet. */
static inline uint64_t kl_time_ms(const struct kl_dispatch *d)
{
    const struct kl_clock *clock = d->o.agreed == NULL ? d->o.clock : d->o.agreed;

    return clock->wall_ms(clock->ctx);
}

/* ---- dispatch.c ---- */

/* As kl_dispatch_calls; internal calls pass a drain and the cap. */
void kl_dispatch_admit(struct kl_dispatch *d, struct kl_buf *packed,
                       const struct kl_origin *origins, size_t n, bool internal);
/* The call begins to wait: its deadline is watched. Before what it waits for is asked. */
void kl_work_park(struct kl_work *w);
/* What it was to wait for could not be asked: the worker has it back. */
void kl_work_unpark(struct kl_work *w);
/* What it waited for has come: queue it. Any thread; the call must not be touched afterwards. */
void kl_work_resume(struct kl_work *w);
/* The call is over: no worker has it any more. */
void kl_work_end(struct kl_work *w);

/* ---- serve.c ---- */

/* One turn of a call on a worker: until it has ended or waits for something. */
void kl_serve(struct kl_runner *r, struct kl_work *w);
/* Lets held replies go. */
void kl_runner_flush(struct kl_runner *r);

/* ---- find.c ---- */

/* Finds the call's group: call.group, and w->hint for NOT_LEADER. fresh: do not ask the cache. */
KL_MUST_USE enum kl_status kl_find_group(struct kl_work *w, bool fresh);
void kl_vault_cache_init(struct kl_vault_cache *c);
void kl_vault_cache_done(struct kl_vault_cache *c);

/* ---- read.c ---- */

/* Is what the envelope asks of a read possible? */
KL_MUST_USE enum kl_status kl_read_check(struct kl_work *w);
/*
 * Opens a read of the group as the call asks for it. When w->wants is set afterwards the leader
 * must be confirmed first (kl_read_confirm), and then the group is to be found again.
 */
KL_MUST_USE enum kl_status kl_read_open(struct kl_work *w, struct kl_group *group,
                                        struct kl_read *read);
/* Must follow. Not KL_OK: what was read is not good enough, drop it. */
KL_MUST_USE enum kl_status kl_read_close(struct kl_work *w, struct kl_group *group,
                                         struct kl_read *read);
/* Asks for w->wants. KL_OK: the call waits and must not be touched any more. */
KL_MUST_USE enum kl_status kl_read_confirm(struct kl_work *w);
/* It has come: the outcome. */
KL_MUST_USE enum kl_status kl_read_was_confirmed(struct kl_work *w);

/* ---- remote.c ---- */

/* Parks the call and asks the leader of plan->group; moves plan->command. */
void kl_remote_start(struct kl_work *w, struct kl_plan *plan);
/* The same of w->remote_next. */
void kl_remote_again(struct kl_work *w);

/* ---- reply.c ---- */

struct kl_reply_facts {
    enum kl_status status;
    const char *field; /* NULL or "": none */
    const char *limit;
    bool hint; /* with the three below */
    uint16_t group;
    uint64_t leader_id;
    const char *leader_address; /* NULL: not known */
    uint64_t server_time_ms;
};
/* A packed Reply without payload, without any allocation; returns its length. */
size_t kl_reply_pack_error(const struct kl_reply_facts *facts, uint8_t out[KL_REPLY_ERROR_MAX]);
/* Who answers. */
struct kl_reply_from {
    uint64_t node_id;
    const char *region;
    uint64_t age_ms; /* of a stale read */
    uint64_t server_time_ms;
};
/* Appends a packed Reply with the response as its payload. */
KL_MUST_USE enum kl_status kl_reply_pack_ok(const struct kl_reply_from *from,
                                            const ProtobufCMessage *response, struct kl_buf *out);

#endif
