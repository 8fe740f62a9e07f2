/*
 * Inside of a group, shared by the group_*.c and stream_*.c files.
 *
 * One struct, one thread. Other threads touch only what is atomic here: the queue of proposals, the
 * gate of the store, the lease, the published status.
 *
 *   group.c         life, turn, dispatch of messages, leadership
 *   group_apply.c   entries and snapshots to the store
 *   group_write.c   proposals to entries
 *   group_read.c    lease, reads, the gate
 *   group_fresh.c   how old a replica's state is, confirmation by a majority
 *   group_member.c  transfer and membership
 *   group_status.c  what others may see
 *   stream_send.c, stream_recv.c   the state beside Raft
 */
#ifndef KL_GROUP_IMPL_H
#define KL_GROUP_IMPL_H

#include "server/raft/group.h"
#include "server/raft/message.h"
#include "server/raft/request_ids.h"
#include "server/raft/snapshot.h"
#include "server/raft/stream.h"
#include "server/raft/wio.h"

#include <raft.h>
#include <stdatomic.h>

/* An entry that Raft has and that is not applied yet. */
struct kl_flight {
    struct raft_apply req; /* raft's until the entry is applied or leadership is lost */
    struct kl_flight *next;
    uint64_t index;
    uint64_t term;
    size_t bytes;
    struct kl_proposal *proposals; /* in the order of their commands */
};

/* A committed entry that found no space in the store. */
struct kl_backlog {
    struct kl_backlog *next;
    uint64_t index;
    size_t len;
    uint8_t entry[];
};

struct kl_ack {
    uint64_t node;
    uint64_t sent_us;  /* newest AppendEntries of this term that the node has answered, as sent */
    uint64_t heard_us; /* when its last answer came */
    uint64_t confirmed_us; /* newest Confirm of this term that it has answered, as asked */
    uint64_t stamp;        /* of its last answer, to be echoed; 0 = none */
    uint64_t stamped_us;   /* when that came */
    uint16_t capacity;     /* KiB of log that it can take */
};

/* Once commit is applied, the state holds all that was acknowledged before at_us of our clock. */
struct kl_fresh_mark {
    uint64_t commit, at_us;
};

enum kl_steer_kind { KL_STEER_TRANSFER, KL_STEER_CHANGE };

/* A transfer or a change of membership, asked for from any thread. */
struct kl_steer {
    struct kl_steer *next;
    struct kl_group *group;
    enum kl_steer_kind kind;
    enum kl_member_change change;
    uint64_t node;
    char address[KL_ADDRESS_MAX + 1];
    kl_group_done_fn done;
    void *arg;
};

/* SETTLING: a transfer waits until the successor has stored all there is. */
enum kl_steer_step { KL_STEP_IDLE, KL_STEP_SETTLING, KL_STEP_BARRIER, KL_STEP_RUNNING };

/* What other threads read as one piece: words, written between two changes of `version`. */
#define KL_STATUS_WORDS ((sizeof(struct kl_group_status) + 7) / 8)

/* placement.c */
struct kl_placement_state {
    uint64_t leader, since_us; /* who leads as far as is known, and since when */
    uint64_t changes;          /* of leader */
    unsigned doublings;        /* of failback_after */
    struct {
        uint64_t node, since_us; /* since_us 0: it does not fit */
    } fits[KL_NODES_MAX];
    uint64_t looked_us, retry_us;
    bool busy;        /* a transfer of its own is under way */
    uint64_t told_us; /* when a leader told this node to take over; 0 = never */
    /* About this node's own leadership. */
    enum kl_led how;
    uint64_t led_ms, gap_ms;
    struct kl_failover failover;
};

enum { KL_LAG_NOTES = 64 };

/* How long the leader's log was, and when; by time. */
struct kl_lag {
    struct {
        uint64_t index, us;
    } notes[KL_LAG_NOTES];
    unsigned n;
};

struct kl_group {
    const struct kl_group_host *host;
    struct kl_group_options options;
    char address[KL_ADDRESS_MAX + 1];
    struct raft raft;
    struct raft_fsm fsm;
    struct kl_wio wio;
    bool raft_open, started, closing, dead;
    bool brand_new; /* this node had never heard a leader when it started */
    uint64_t started_us;
    unsigned works; /* host.work jobs under way */
    void (*closed)(void *arg);
    void *closed_arg;

    /* The store. Changed only while the gate is shut and nobody is inside. */
    struct kl_kv *kv;
    struct kl_request_ids ids; /* that kv holds */
    _Atomic uint64_t gate;     /* KL_GATE_SHUT, and how many are inside */
    struct {
        bool busy;         /* a flush is under way, or waits for space */
        uint64_t retry_us; /* when it is to be tried again; 0 = it runs */
        enum kl_status status;
    } flush;

    /* Applying. */
    _Atomic uint64_t applied; /* the store's; readable anywhere */
    uint64_t applied_ms;
    struct kl_batch batch;
    struct kl_backlog *backlog, **backlog_tail;
    size_t backlog_bytes;
    double entry_bytes; /* moving average */

    /* Writing. */
    struct kl_mailbox proposals;
    _Atomic size_t queued; /* in the mailbox or the queue */
    _Atomic bool shut;     /* no more proposals */
    struct kl_proposal *queue, **queue_tail;
    size_t queue_bytes;
    struct kl_flight *flights, **flights_tail, *landed;
    size_t flights_bytes;
    struct kl_buf entry;
    uint64_t stamp_ms;
    uint64_t proposed_us;
    bool no_space_log, no_space_store;
    uint64_t probe_us, probe_term, probe_index;
    uint64_t full_since_us, full_tried_us; /* this leader's own disk is full; 0 = it is not */
    struct raft_barrier probe;

    /* Leading. */
    uint64_t lead_term; /* 0 = not leading */
    uint64_t lead_floor;
    bool ready;
    uint64_t lease_off_term; /* no lease in this term: a transfer may be under way */
    bool timeout_now_sent;
    struct kl_ack acks[KL_NODES_MAX];
    size_t acks_n;
    struct kl_lag lag;
    struct kl_placement_state placement;
    _Atomic uint64_t lease_until_us; /* 0 = none */
    _Atomic uint64_t epoch;          /* counts leaderships */
    _Atomic uint64_t leader;         /* as last seen; 0 = unknown */

    /* Following. */
    struct {
        uint64_t term, node, sent_us, at_us;
    } heard;
    uint64_t stuck_stored, stuck_since_us, stuck_seen_us;
    bool stuck_handed_over;

    /* Reading elsewhere than at the leader, and without its lease. */
    uint64_t stamp_base; /* random: an echo of an earlier life is none of ours */
    struct kl_fresh_mark marks[KL_FRESH_MARKS_MAX];
    size_t marks_n;
    _Atomic uint64_t fresh_us; /* the state holds all that was acknowledged before; 0 = not known */
    struct kl_mailbox confirms;
    struct kl_confirm *confirming, **confirming_tail; /* by at_us */
    uint64_t confirming_us;                           /* when the last of them came */
    uint64_t round_us;                                /* when a majority was last asked */

    /* Steering. */
    struct kl_steer *steers, **steers_tail;
    size_t steers_n;
    enum kl_steer_step step;
    uint64_t step_index, step_term, step_us;
    struct raft_barrier barrier;
    struct raft_change change;
    struct raft_transfer transfer;

    /* State streams. */
    struct kl_stream_out *out[KL_STREAMS_MAX];
    struct kl_stream_in *in;

    /* Status. */
    uint64_t entries_applied, commands_applied, snapshots_taken, streams_sent, streams_received;
    bool changed;    /* tell the host in this turn */
    uint64_t due_us; /* something gathers until then; 0 = nothing does */
    _Atomic uint64_t version;
    _Atomic uint64_t words[KL_STATUS_WORDS];
    struct kl_group_status published;
};

#define KL_GATE_SHUT (1ULL << 63)

static inline uint64_t kl_group_now_us(const struct kl_group *g)
{
    return g->host->clock->mono_us(g->host->clock->ctx);
}
static inline void kl_group_wake(struct kl_group *g)
{
    g->host->wake(g->host->ctx, g);
}
/* A turn is wanted then at the latest. */
static inline void kl_group_due(struct kl_group *g, uint64_t at_us)
{
    if (g->due_us == 0 || at_us < g->due_us) {
        g->due_us = at_us;
    }
}
static inline bool kl_group_covers(const struct kl_group *g, enum kl_cover cover)
{
    return (g->wio.covers & (unsigned)cover) != 0;
}

/* Runs work off the loop and counts it; done must call kl_group_worked() first. */
void kl_group_work(struct kl_group *g, void (*work)(void *arg), void (*done)(void *arg), void *arg);
void kl_group_worked(struct kl_group *g);
void kl_group_fatal(struct kl_group *g, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void kl_group_send(struct kl_group *g, uint64_t to, enum kl_lane lane,
                   const Kluis__Peer__Message *m);

/* group_apply.c */
void kl_group_fsm_init(struct kl_group *g);
/* Opens the live store and reads where it stands. */
KL_MUST_USE enum kl_status kl_group_store_open(struct kl_group *g, char *err, size_t err_len);
void kl_group_store_close(struct kl_group *g);
/* Tries again what found no space. */
void kl_group_backlog_retry(struct kl_group *g);
void kl_group_backlog_drop(struct kl_group *g);
/* Snapshot threshold and trailing, entries in flight: after the average size of entries. */
void kl_group_tune(struct kl_group *g);
void kl_group_flush(void *ctx);

/* group_write.c */
void kl_group_write_turn(struct kl_group *g);
/* The entry at index was applied: completes its proposals. results NULL: outcome unknown. */
void kl_group_landed(struct kl_group *g, uint64_t index, const struct kl_results *results);
/* Leadership is gone: what Raft had is unknown. */
void kl_group_write_lost(struct kl_group *g);
/* Fails what is queued: nothing of it was done. */
void kl_group_write_fail(struct kl_group *g, enum kl_status status);
/* Frees what Raft no longer holds. */
void kl_group_landed_free(struct kl_group *g);
void kl_group_space_check(struct kl_group *g);
/* A leader whose own disk is full hands over to one that has room. */
void kl_group_full_check(struct kl_group *g);

/* group_read.c */
void kl_group_gate_shut(struct kl_group *g);
void kl_group_gate_open(struct kl_group *g);
bool kl_group_gate_enter(struct kl_group *g);
void kl_group_gate_leave(struct kl_group *g);
/* Shut and nobody inside. */
bool kl_group_gate_empty(struct kl_group *g);
void kl_group_lease_drop(struct kl_group *g);
void kl_group_lease_renew(struct kl_group *g);
struct kl_ack *kl_group_ack(struct kl_group *g, uint64_t node);
/* When a majority of voters last confirmed this leader, by what they have answered: the time it was
 * asked; 0 = not in this term. asked: Confirm counts too, which keeps nobody from voting. */
uint64_t kl_group_majority_us(struct kl_group *g, bool asked);

/* group_fresh.c */
void kl_group_fresh_init(struct kl_group *g);
/* What an AppendEntries or its result carries about age. */
void kl_group_fresh_send(struct kl_group *g, uint64_t to, uint64_t now,
                         struct kl_message_extra *extra);
uint64_t kl_group_stamp(const struct kl_group *g);
/* An AppendEntries of the leader has come. */
void kl_group_fresh_heard(struct kl_group *g, uint64_t commit,
                          const struct kl_message_extra *extra);
/* Something was applied, or a majority has answered. */
void kl_group_fresh_update(struct kl_group *g);
void kl_group_confirm_turn(struct kl_group *g);
void kl_group_confirm_fail(struct kl_group *g);
void kl_group_on_confirm(struct kl_group *g, uint64_t from, const Kluis__Peer__Confirm *m);
void kl_group_on_confirmed(struct kl_group *g, uint64_t from, const Kluis__Peer__Confirmed *m);

/* group_member.c */
void kl_group_steer_turn(struct kl_group *g);
void kl_group_steer_fail(struct kl_group *g);
/* Begins a transfer inside of the group; may be refused. */
bool kl_group_hand_over(struct kl_group *g);
/* The voter that has most of the log among those that answer; 0 = none does. with_room: only one whose
 * disk has room for more log. */
uint64_t kl_group_successor(struct kl_group *g, bool with_room);

/* placement.c */
uint8_t kl_placement_distance(const struct kl_group *g, uint64_t node);
/* By how much this node stands for election later than one at home. */
unsigned kl_placement_hold_ms(const struct kl_group *g);
/* Somebody leads, or nobody (0). */
void kl_placement_leader(struct kl_group *g, uint64_t leader);
/* This node has just become leader. */
void kl_placement_led(struct kl_group *g);
void kl_placement_turn(struct kl_group *g);

/* group_lag.c */
void kl_group_lag_note(struct kl_group *g);
/* For how long a log that ends at match has lacked something. */
uint64_t kl_group_lag_ms(const struct kl_group *g, uint64_t match);

/* group_status.c */
void kl_group_publish(struct kl_group *g);

#endif
