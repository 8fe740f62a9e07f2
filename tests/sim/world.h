/*
 * A simulated world: one thread, one virtual clock, one queue of events, one seed. Nodes run the
 * real libraft, groups and state machine; network, disks, stores, clocks and chance are the
 * world's. Nothing here sleeps, reads a clock or touches a file, so that a seed always tells the
 * same story.
 *
 * How time passes: an event runs at w->now_us. While a node works it may fall behind (`lag_us`, a
 * stall between two instructions): what it does then happens at sim_now(), and its next event runs
 * no earlier. A crash in the middle of a node's work leaves it by longjmp, as a killed process does.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "tests/sim/disk.h"
#include "tests/sim/heap.h"
#include "tests/sim/rng.h"
#include "tests/sim/store.h"

#include "server/raft/group.h"
#include "server/retention/scheduler.h"
#include "server/runtime/cluster_clock.h"
#include "tests/lib/history.h"

#include <setjmp.h>

enum {
    SIM_NODES_MAX = 8,
    SIM_GROUPS_MAX = 2,
    SIM_MS = 1000,
    SIM_S = 1000000,
};

struct sim_world;
struct sim_node;
struct sim_replica;

/* ---- events ---- */

#define SIM_EVENTS(X)                                                                              \
    X(TICK)                                                                                        \
    X(TURN)                                                                                        \
    X(POST)                                                                                        \
    X(WORK)                                                                                        \
    X(WORK_DONE)                                                                                   \
    X(MESSAGE)                                                                                     \
    X(DISK)                                                                                        \
    X(PEER)                                                                                        \
    X(CLOSED)                                                                                      \
    X(REDIAL)                                                                                      \
    X(FAULT)                                                                                       \
    X(NODE_START)                                                                                  \
    X(CLIENT)                                                                                      \
    X(REQUEST)                                                                                     \
    X(READ_STEP)                                                                                   \
    X(REPLY)                                                                                       \
    X(MEMBER)                                                                                      \
    X(STEER)

enum sim_event_kind {
#define SIM_EVENT(name) SIM_EV_##name,
    SIM_EVENTS(SIM_EVENT)
#undef SIM_EVENT
        SIM_EV_COUNT
};

struct sim_event {
    uint64_t at_us, seq;
    enum sim_event_kind kind;
    struct sim_node *node; /* NULL: the world's; else only while that incarnation lives */
    uint32_t incarnation;
    struct sim_replica *replica;
    void (*fn)(void *arg); /* POST, WORK */
    void *arg;
    uint64_t a, b;
    uint8_t *data; /* owned, the world's heap */
    size_t data_len;
};

/* ---- nodes ---- */

/* One group on one node. disk, live and staged survive a crash; the rest does not. */
struct sim_replica {
    struct sim_node *node;
    uint16_t group_id;
    struct sim_disk disk;
    struct sim_store live, staged;
    struct kl_group_host host;
    struct kl_group *group;
    struct kl_scheduler *scheduler;
    struct raft_io io;
    bool turn_pending;
    bool steering; /* a transfer or change is under way */
    uint64_t told_configuration;
    uint64_t led_term; /* last term seen as leader, for the watchers */
};

struct sim_node {
    struct sim_world *w;
    uint64_t id;
    char address[32];
    bool exists; /* part of the story: started at least once */
    bool up, closing;
    bool wanted;    /* should run: restarted after a crash */
    bool member;    /* belongs to the cluster in the end */
    bool excused;   /* its disk misbehaves: it may end itself */
    unsigned reads; /* under way */
    bool groups_closing;
    uint32_t incarnation;
    struct sim_heap heap;
    struct sim_rng rng;
    uint64_t resume_us; /* no event runs before: paused, stalled or busy */
    uint64_t acted_us;  /* until when it has acted, if it stalled perhaps ahead of the others */
    uint64_t lag_us;
    uint64_t mono_base_us;
    int64_t rate_ppm, wall_offset_ms;
    unsigned stall_1000;  /* chance of a stall at a clock read, in 100,000 */
    unsigned crash_after; /* disk and network steps until a crash in the middle; 0 = none */
    unsigned closed_n;    /* groups closed during a clean stop */
    struct kl_clock clock;
    struct kl_cluster_clock cluster_clock;
    uint64_t asked_us;      /* for the others' clocks, last; 0 = not yet */
    struct kl_clock agreed; /* the cluster's time, as this node has it */
    struct kl_entropy entropy;
    struct sim_replica replicas[SIM_GROUPS_MAX];
};

/* ---- what a seed is about ---- */

struct sim_plan {
    unsigned nodes, voters, groups, clients, names;
    bool directory, vault; /* which groups */
    unsigned election_ms, tick_ms;
    uint64_t fault_us, heal_us; /* length of the troubled part; limit for the recovery */
    unsigned latency_us, jitter_us, loss_1000, dup_1000;
    bool fifo;        /* the network keeps order within a lane, like TCP */
    unsigned bulk_us; /* extra delay of bulk messages */
    size_t log_keep_bytes;
    uint64_t day_ms;
    unsigned think_us;
    bool crashes, partitions, pauses, stalls, disk_faults, clock_jumps, transfers, members;
    bool regions; /* nodes 1 and 2 are at home, 3 and 4 in the pair, 5 is the witness */
    unsigned failback_ms;
};

/*
 * Deliberate faults in what the simulation trusts, to see that its checks notice. Each must be found
 * within few seeds, or the checks are worth nothing.
 */
enum sim_sabotage {
    SIM_SABOTAGE_NONE,
    SIM_SABOTAGE_STALE_READ, /* reads take whatever this node holds */
    SIM_SABOTAGE_AMNESIA,    /* a crash takes entries that were on the disk */
    SIM_SABOTAGE_LOST_VOTE,  /* a crash takes the vote */
    SIM_SABOTAGE_TWICE,      /* clients retry under a new request id */
    SIM_SABOTAGE_DIVERGE,    /* one node's store now and then keeps something else */
    SIM_SABOTAGE_FAST_CLOCK, /* an entry's stamp is now and then hours ahead */
    SIM_SABOTAGE_LEAK,       /* a node forgets to free something */
    SIM_SABOTAGE_YOUNG,      /* a stale read says half of its age */
    SIM_SABOTAGE_ASTRAY,     /* nodes of the pair take themselves for being at home */
};

struct sim_options {
    unsigned verbose;
    unsigned covers_off; /* enum kl_cover */
    enum sim_sabotage sabotage;
    bool members, reorder; /* in every seed, not only in some */
    const char *dump;      /* file for the history; NULL = none */
};

struct sim_links;   /* net.c */
struct sim_watch;   /* watch.c */
struct sim_clients; /* clients.c */
struct sim_faults;  /* faults.c */
struct sim_members; /* members.c */

/* What happened, for people and for tests that want to see that it did. */
struct sim_stats {
    uint64_t elections, crashes, stops, cuts, pauses, purges, adopted, snapshots, transfers, joins,
        removals, fatals, region_losses;
};

struct sim_world {
    uint64_t seed;
    uint64_t now_us;
    uint64_t events_run;
    struct sim_rng rng;
    struct sim_heap heap;
    struct sim_plan plan;
    struct sim_event **queue; /* binary heap */
    size_t queue_n, queue_cap;
    uint64_t seq;
    uint64_t trace; /* hash of all that happened */
    unsigned verbose;
    struct sim_options options;
    bool troubled; /* faults may still happen */
    bool failed;
    char failure[4096];
    struct sim_node nodes[SIM_NODES_MAX]; /* ids 1.. are nodes[0].. */
    struct sim_node *current;             /* whose code is running */
    jmp_buf crash;
    uint64_t clock_error_ms; /* by how much a reading of a clock may have been wrong */
    struct sim_links *links;
    struct sim_watch *watch;
    struct sim_clients *clients;
    struct sim_faults *faults;
    struct sim_members *members;
    struct sim_stats stats;
    struct kl_history history;
};

/* Builds a world from its seed; frees it. */
struct sim_world *sim_world_new(uint64_t seed, const struct sim_options *options);
void sim_world_free(struct sim_world *w);
/* Runs events until virtual time `until_us`, a failure, or `done` says so (may be NULL). */
void sim_world_run(struct sim_world *w, uint64_t until_us, bool (*done)(struct sim_world *w));

/* The time at which the running code acts. */
uint64_t sim_now(const struct sim_world *w);

/* A new event, delay_us from sim_now(); the caller fills in the rest. */
struct sim_event *sim_schedule(struct sim_world *w, enum sim_event_kind kind, struct sim_node *node,
                               uint64_t delay_us);
void sim_event_data(struct sim_world *w, struct sim_event *e, const void *p, size_t n);

/* Something that must never be has been. Only the first is kept. */
void sim_fail(struct sim_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* One line of the story, with --verbose. */
void sim_say(struct sim_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Adds to the trace hash. */
void sim_trace(struct sim_world *w, uint64_t a, uint64_t b);
uint64_t sim_hash(const void *p, size_t n);

/* Leaves the running node's code for good: the node crashes here and now. Does not return. */
_Noreturn void sim_crash_here(struct sim_world *w);
/* A step of the running node that a crash may precede. */
void sim_step(struct sim_world *w);

static inline struct sim_node *sim_node(struct sim_world *w, uint64_t id)
{
    return id >= 1 && id <= SIM_NODES_MAX ? &w->nodes[id - 1] : NULL;
}

#endif
