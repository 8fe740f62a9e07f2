/*
 * A replicated group: one libraft instance, one store, one state machine, one owner thread.
 * The group does not know threads, sockets or clocks: its host gives it a loop to be called from,
 * a way to send, and time. server/raft/host_uv.h is the real host; tests/sim is another.
 *
 * Threading: functions marked [any] may be called from any thread; all others only on the group's
 * own thread (the host's loop).
 */
#ifndef KL_GROUP_H
#define KL_GROUP_H

#include "common/buf.h"
#include "common/limits.h"
#include "server/core/core.h"
#include "server/raft/placement.h"
#include "server/runtime/clock.h"
#include "server/runtime/mailbox.h"
#include "server/store/kv.h"

struct kl_group;
struct raft_io;

enum kl_lane { KL_LANE_CONTROL, KL_LANE_BULK };

/* What the group needs of the world. Borrowed; outlives the group. */
struct kl_group_host {
    void *ctx;
    /* Its wall_ms stamps entries; while it says 0, the time is not known and nothing is proposed. */
    const struct kl_clock *clock;
    /* Random numbers for stream ids and the like. */
    const struct kl_entropy *entropy;
    /* Sends one packed kluis.peer.Message. Never blocks; dropping is allowed. Copies the bytes. */
    void (*send)(void *ctx, struct kl_group *group, uint64_t to_node, enum kl_lane lane,
                 struct kl_bytes message);
    /* Calls fn(arg) on the group's thread in a later turn of its loop, in order. [any] */
    void (*post)(void *ctx, struct kl_group *group, void (*fn)(void *arg), void *arg);
    /* Runs work(arg) where blocking is allowed, then done(arg) on the group's thread. */
    void (*work)(void *ctx, struct kl_group *group, void (*work)(void *arg),
                 void (*done)(void *arg), void *arg);
    /* Wakes the group's thread soon so that kl_group_turn() runs. [any] */
    void (*wake)(void *ctx, struct kl_group *group);
    /* The node cannot go on: say why and end the process (the simulation: crash the node). */
    void (*fatal)(void *ctx, struct kl_group *group, const char *why);
    /* Leadership or progress changed, for those who watch (may be NULL). On the group's thread. */
    void (*changed)(void *ctx, struct kl_group *group);
};

struct kl_group_options {
    uint16_t id; /* 0 = directory, 1.. = vault groups */
    uint64_t node_id;
    const char *address;          /* of this node, as in the Raft configuration */
    const char *dir;              /* state and staged state live below it: DIR/state, DIR/staged */
    unsigned election_timeout_ms; /* shortest of all voters */
    unsigned tick_ms;             /* heartbeat; 100 */
    /* How far a node is from the group's home: enum kl_distance. NULL: all are at home. Cheap; the
     * answer may change while the group runs. */
    uint8_t (*distance)(void *ctx, uint16_t group, uint64_t node_id);
    void *distance_ctx;
    unsigned failback_after_ms; /* so long a node at home is well before it leads again; 0 = 30 s */
    size_t log_keep_bytes;      /* trailing log kept for slow followers; 0 = 32 MiB */
    unsigned seed;              /* raft_seed(); 0 = from entropy */
    /* Opens the state store (host decides LevelDB or memory). `staged` asks for the one being
     * received. adopt: swap staged for live, atomically across crashes; both are closed. */
    enum kl_status (*store_open)(void *ctx, struct kl_group *group, bool staged,
                                 struct kl_kv **out);
    enum kl_status (*store_adopt)(void *ctx, struct kl_group *group);
    enum kl_status (*store_drop_staged)(void *ctx, struct kl_group *group);
};

/*
 * Opens store and log and starts Raft. `io` is initialised storage (raft_uv_init or the
 * simulation's) whose functions the group wraps (server/raft/wio.h). err gets a line for people.
 */
KL_MUST_USE enum kl_status kl_group_open(const struct kl_group_host *host,
                                         const struct kl_group_options *options, struct raft_io *io,
                                         struct kl_group **out, char *err, size_t err_len);
/* Writes the first configuration into an empty log; before kl_group_start. Voters by node id.
 * KL_ALREADY_EXISTS when the log is not empty. */
struct kl_member {
    uint64_t node_id;
    const char *address;
};
KL_MUST_USE enum kl_status kl_group_bootstrap(struct kl_group *group,
                                              const struct kl_member *voters, size_t n);
KL_MUST_USE enum kl_status kl_group_start(struct kl_group *group, char *err, size_t err_len);
/* Fails what is pending with KL_UNAVAILABLE, closes Raft, then calls closed(arg) and is gone. */
void kl_group_close(struct kl_group *group, void (*closed)(void *arg), void *arg);

uint16_t kl_group_id(const struct kl_group *group);    /* [any] */
void *kl_group_host_ctx(const struct kl_group *group); /* [any] */

/* A message of a peer (already authenticated: from_node is proven). Unpacks and checks it. */
void kl_group_receive(struct kl_group *group, uint64_t from_node, struct kl_bytes message);
/* The transport lost or found a peer: streams to it are paused or resumed. */
void kl_group_peer(struct kl_group *group, uint64_t node, bool connected);
/* Takes queued proposals, packs them into entries, hands them to Raft. The host calls it when woken
 * and once per loop turn. */
void kl_group_turn(struct kl_group *group);
/* Monotonic microseconds at which the next turn is wanted, ticks and messages aside; 0 = none. */
uint64_t kl_group_due_us(const struct kl_group *group);

/* ---- writing ---- */

struct kl_proposal {
    struct kl_mail mail;   /* first */
    struct kl_buf command; /* packed kluis.log.Command; the group wipes it */
    uint64_t give_up_us;   /* monotonic; not proposed any more after this; 0 = never */
    /*
     * Once, on the group's thread. KL_OK: committed and applied, result is the packed CommandResult
     * (borrowed), index its entry. KL_NOT_LEADER: nothing was done. KL_UNAVAILABLE: leadership was
     * lost meanwhile, the outcome is unknown (retry with the same request id). KL_TIMEOUT: not
     * proposed. KL_EXHAUSTED, KL_NO_SPACE, KL_TOO_LARGE: nothing was done.
     */
    void (*done)(struct kl_proposal *p, enum kl_status status, uint64_t index,
                 struct kl_bytes result);
    void *arg;
};
/* [any] KL_EXHAUSTED or KL_CLOSED: the proposal stays the caller's and done is not called. */
KL_MUST_USE enum kl_status kl_group_propose(struct kl_group *group, struct kl_proposal *p);

/* ---- reading ---- */

/* A linearizable read at the leader: begin, read through the view, end. [any] */
struct kl_read {
    struct kl_kv_view store;
    struct kl_view view; /* of one snapshot of the state */
    uint64_t applied;    /* at least this index is in it */
    uint64_t epoch;      /* internal */
    uint64_t fresh_us;   /* stale reads: internal */
};
/* KL_OK: this node leads, its state holds all that was acknowledged, and the lease holds now.
 * KL_NOT_LEADER (another is known), KL_UNAVAILABLE (none is, or the lease ran out: retry). */
KL_MUST_USE enum kl_status kl_group_read_begin(struct kl_group *group, struct kl_read *read);
/* Must follow every successful begin. KL_UNAVAILABLE: the lease ran out meanwhile, drop what was read. */
KL_MUST_USE enum kl_status kl_group_read_end(struct kl_group *group, struct kl_read *read);
/* Whatever this replica holds, of unknown age: for routing, schedulers and status. [any] */
KL_MUST_USE enum kl_status kl_group_read_local(struct kl_group *group, struct kl_read *read);
void kl_group_read_local_end(struct kl_group *group, struct kl_read *read);

/*
 * A stale read at any replica: what it holds, and how old that is at most. KL_UNAVAILABLE: the age
 * is not known, since no leader was heard since the start. End with kl_group_read_local_end. [any]
 */
KL_MUST_USE enum kl_status kl_group_read_stale(struct kl_group *group, struct kl_read *read);
/* Microseconds: every write acknowledged longer ago than this is in what the read sees. Before its
 * end. Counts from now, so the last look is the honest one. [any] */
uint64_t kl_group_read_age_us(struct kl_group *group, const struct kl_read *read);

/*
 * A quorum read: linearizable without trust in any clock. First a majority confirms, after it was
 * asked, that it knows of no later leader; then kl_group_read_confirmed at this node, at any later
 * time, sees every write acknowledged before kl_group_confirm was called.
 */
struct kl_confirm {
    struct kl_mail mail; /* first */
    uint64_t give_up_us; /* monotonic; 0 = never */
    uint64_t at_us;      /* internal */
    /* Once, on the group's thread: KL_OK, KL_NOT_LEADER, KL_UNAVAILABLE, KL_TIMEOUT. */
    void (*done)(struct kl_confirm *c, enum kl_status status);
    void *arg;
};
/* [any] KL_EXHAUSTED or KL_CLOSED: done is not called. */
KL_MUST_USE enum kl_status kl_group_confirm(struct kl_group *group, struct kl_confirm *c);
/* Ends with kl_group_read_local_end. [any] */
KL_MUST_USE enum kl_status kl_group_read_confirmed(struct kl_group *group, struct kl_read *read);

/* ---- watching and steering ---- */

struct kl_group_member {
    uint64_t node_id;
    int role;             /* RAFT_VOTER, RAFT_STANDBY, RAFT_SPARE */
    uint64_t match_index; /* leader only */
    uint64_t lag_ms;      /* leader only: for how long it has lacked what it lacks; 0 = nothing */
    char address[128];
};
/* An election that a node won after the leader before it had fallen silent. */
struct kl_failover {
    uint64_t term;   /* 0 = none since the node started */
    uint64_t at_ms;  /* Unix milliseconds, by the node's own clock */
    uint64_t gap_ms; /* for how long it had heard no leader */
    uint64_t from;   /* node id of the last one it had heard; 0 = not known */
};
struct kl_group_status {
    uint16_t id;
    int state;                /* RAFT_FOLLOWER, RAFT_CANDIDATE, RAFT_LEADER */
    uint64_t term, leader_id; /* leader_id 0 = unknown */
    uint64_t last_index, commit_index, applied_index, snapshot_index;
    uint64_t applied_ms; /* time of the last applied entry; 0 = none */
    bool lease, ready;   /* ready: leader that serves reads and writes */
    bool no_space;       /* the disk refused the last append */
    uint64_t entries_applied, commands_applied, snapshots_taken, streams_sent, streams_received;
    /* Of this node's own leadership; led = 0 (KL_LED_NOT): it does not lead. */
    uint64_t led;            /* enum kl_led */
    uint64_t led_since_ms;   /* Unix milliseconds */
    uint64_t led_gap_ms;     /* for how long this node had heard no leader */
    uint64_t leader_changes; /* that this node has seen */
    struct kl_failover
        failover; /* the last one that made this node the leader, also when it leads no more */
    size_t members_n;
    struct kl_group_member members[KL_NODES_MAX];
};
/* A consistent copy, at most one loop turn old. [any] */
void kl_group_status(struct kl_group *group, struct kl_group_status *out);
/* Leader as last seen; 0 = unknown. Cheap. [any] */
uint64_t kl_group_leader(struct kl_group *group);

/* Hands leadership over (to 0: any caught-up voter); the lease is dropped first. done on the group's
 * thread: KL_OK, KL_NOT_LEADER, KL_UNAVAILABLE, KL_TIMEOUT. [any] */
typedef void (*kl_group_done_fn)(void *arg, enum kl_status status);
void kl_group_transfer(struct kl_group *group, uint64_t to_node, kl_group_done_fn done, void *arg);

/* Membership at the leader, one change at a time, each after a barrier. [any] */
enum kl_member_change {
    KL_MEMBER_ADD,
    KL_MEMBER_STANDBY,
    KL_MEMBER_VOTER,
    KL_MEMBER_SPARE,
    KL_MEMBER_REMOVE
};
void kl_group_change(struct kl_group *group, enum kl_member_change change, uint64_t node_id,
                     const char *address, kl_group_done_fn done, void *arg);

#endif
