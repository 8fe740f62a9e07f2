/*
 * The raft_io that libraft sees: somebody's storage (libraft's own on files, or the simulation's)
 * with our network in place of its own, and a cover over every known fault of libraft 0.22.1.
 *
 * The wrapper replaces functions of the given struct raft_io in place; what they were is kept in
 * `inner`. Rules that the library does not check (it is built without assertions) and this file
 * keeps: send and append never fail, callbacks of sends come in a later turn, one buffer per
 * raft_apply, lengths in multiples of 8, no message that libraft would answer by freeing twice.
 */
#ifndef KL_WIO_H
#define KL_WIO_H

#include "common/limits.h"
#include "common/status.h"

#include <raft.h>
#include <stdint.h>

/*
 * The covers, by the number of the fault. All are on; only tests take some away, to show that the
 * fault is still there and the cover is what stops it.
 */
enum kl_cover {
    KL_COVER_SPLIT = 1 << 1,  /* N1: a CHANGE comes first in the AppendEntries it arrives in */
    KL_COVER_SERIAL = 1 << 2, /* N2: InstallSnapshot waits for the local snapshot's put */
    KL_COVER_FAULTS = 1 << 3, /* N3: a failed write ends the process */
    KL_COVER_STAGED = 1 << 4, /* N4: InstallSnapshot only with its state staged; once per stream */
    KL_COVER_TICK = 1 << 5,   /* N5: heartbeat timeout 1 ms, the real period for the tick */
    KL_COVER_SINGLE = 1 << 6, /* N6: one buffer per raft_apply */
    KL_COVER_META = 1 << 7,   /* N7: no rewriting of an unchanged term; own snapshot_get */
    KL_COVER_ALIGN = 1 << 8,  /* N8: lengths are multiples of 8 */
    KL_COVER_STUCK = 1 << 9,  /* N9: a log that is not being stored ends the process */
    KL_COVER_BACKTRACK = 1 << 10, /* N10: a rejection steps back by many entries */
    KL_COVER_SOLO = 1 << 11,      /* N11: the only voter leads in a new term, with its own vote */
    KL_COVER_STALE = 1 << 12,     /* N12: entries that were compacted away are not appended again */
    KL_COVER_STANDBY = 1 << 13,   /* N13: a standby gives its vote too */
    KL_COVER_BLANK = 1 << 14,     /* N14: barriers carry zeros, not old memory */
    KL_COVER_CONF = 1 << 15,      /* N15: no snapshot between two committed configurations */
    KL_COVER_REJECT = 1 << 17,    /* N17: no rejection of what is known to be there */
    KL_COVER_REPEAT = 1 << 18,    /* N18: a slow follower does not get everything over and over */
    KL_COVER_CHAIN = 1 << 19,     /* N19: a change behind another shows the first committed */
    KL_COVER_ALL = (1 << 20) - 2
};

/* What to do with an InstallSnapshot that a peer sent. */
enum kl_install { KL_INSTALL_DELIVER, KL_INSTALL_HOLD, KL_INSTALL_DROP };

/* What the wrapper asks of the group. All are called on the group's thread. */
struct kl_wio_owner {
    void *ctx;
    /* Raft's role may have changed and nothing has left this node yet: drop a lease that no longer
     * holds. Called from inside raft; may only look. */
    void (*before)(void *ctx);
    /* Raft has digested an event. */
    void (*after)(void *ctx);
    /* Send to the peer m->server_id (AppendEntries, results, votes, TimeoutNow). */
    void (*transmit)(void *ctx, const struct raft_message *m);
    /* Raft wants the peer to install a snapshot: see to it that it gets the state first. */
    void (*install_wanted)(void *ctx, const struct raft_message *m);
    enum kl_install (*install_arrived)(void *ctx, const struct raft_install_snapshot *m);
    /* Make everything applied durable, then call kl_wio_flushed(). */
    void (*flush)(void *ctx);
    /* There is something for kl_wio_turn() to do. */
    void (*wake)(void *ctx);
    /* This node cannot go on. May return (a simulation): the wrapper is dead then. */
    void (*fatal)(void *ctx, const char *why);
};

/* The newest snapshot on disk, kept here so that getting it can neither block nor fail. */
struct kl_wio_snapshot {
    raft_index index; /* 0 = none */
    raft_term term;
    struct raft_configuration conf;
    raft_index conf_index;
    struct raft_buffer data;
};

/* Up to where a peer was sent the log. */
struct kl_wio_sent {
    raft_id to;
    raft_term term;   /* of this node's leadership */
    raft_index until; /* 0: begin anew */
    bool accepts;     /* what its last answer was */
};

struct kl_wio {
    struct raft_io *io;
    struct raft *raft;
    struct raft_io inner; /* the functions that were replaced */
    struct kl_wio_owner owner;
    unsigned covers; /* enum kl_cover; changed by tests only */
    unsigned tick_ms;
    unsigned hold_ms; /* stands for election by so much later than raft would */
    bool started, closing, dead;

    raft_io_tick_cb tick_cb;
    raft_io_recv_cb recv_cb;
    raft_io_close_cb close_cb;

    struct raft_io_send **sends; /* sent; their callbacks come with the next turn */
    size_t sends_n, sends_cap;
    struct raft_io_snapshot_get *gets[KL_WIO_GETS_MAX];
    size_t gets_n;
    struct kl_wio_sent sent[KL_NODES_MAX];
    size_t sent_n;

    struct kl_wio_snapshot newest, putting;
    struct {
        bool busy;  /* raft waits for the callback */
        bool inner; /* handed to the storage */
        unsigned trailing;
        const struct raft_snapshot *snapshot; /* raft's, valid while busy */
        struct raft_io_snapshot_put *req;
        raft_io_snapshot_put_cb cb;
        struct raft_io_snapshot_put sub;
    } put;
    struct raft_message held; /* an InstallSnapshot that waits; type 0 = none */

    unsigned appends; /* in the storage's hands */
    raft_term disk_term;
    raft_term first_term; /* as loaded at the start */
    raft_id first_vote;
    raft_index loaded;   /* last index of log and snapshot at the start; 0 = there was nothing */
    bool loaded_alone;   /* and its only voter was this node */
    raft_term solo_term; /* taken as the only voter */
    /* How often a cover did something. */
    uint64_t n_split, n_held, n_term_kept, n_solo, n_stale;
};

/* Replaces the functions of `io`. raft_init() must have been called with it. */
void kl_wio_init(struct kl_wio *w, struct raft_io *io, struct raft *raft,
                 const struct kl_wio_owner *owner, unsigned tick_ms);
/* After raft_close() has called back. */
void kl_wio_done(struct kl_wio *w);

/* Gives raft a message of a peer. Takes the message's memory in every case. */
void kl_wio_receive(struct kl_wio *w, struct raft_message *m);
/* Callbacks that may not be called at once, and what had to wait. */
void kl_wio_turn(struct kl_wio *w);
/* The answer to owner.flush. */
void kl_wio_flushed(struct kl_wio *w);
/* raft_apply with one aligned buffer. Takes the buffer's memory only when it returns 0. */
int kl_wio_submit(struct kl_wio *w, struct raft_apply *req, const struct raft_buffer *bufs,
                  unsigned n);
/* Makes raft give up leadership by showing it a higher term. */
void kl_wio_step_down(struct kl_wio *w);
/* Notes what the storage had. */
void kl_wio_loaded(struct kl_wio *w, const struct raft_snapshot *snapshot, raft_index start,
                   const struct raft_entry *entries, size_t n);
/* wio_cover.c, used by wio.c. After loading: takes a new term if this node is going to be alone. */
int kl_wio_solo_load(struct kl_wio *w, const struct raft_snapshot *snapshot,
                     const struct raft_entry *entries, size_t n, raft_term *term,
                     raft_id *voted_for);
/* Is this node the only voter? And will it soon lead without having been elected? */
bool kl_wio_solo(const struct kl_wio *w);
bool kl_wio_solo_due(const struct kl_wio *w);
/* This node in raft's configuration, if it is a standby there. */
struct raft_server *kl_wio_standby(const struct kl_wio *w);
/* Has no leader been heard for an election timeout? */
bool kl_wio_leader_silent(const struct kl_wio *w);
/* A rejection that was overtaken. */
bool kl_wio_stale_rejection(struct kl_wio *w, const struct raft_message *m);
/* Does an AppendEntries contradict what is committed here? Raft would free its entries twice. */
bool kl_wio_contradicts(const struct kl_wio *w, const struct raft_append_entries *a);
/* false: out of memory, and *to is empty. */
bool kl_wio_configuration_copy(const struct raft_configuration *from,
                               struct raft_configuration *to);
/* Before an AppendEntries that may begin with a change is delivered. */
void kl_wio_chain(struct kl_wio *w, const struct raft_append_entries *a);
/* Takes out what is already in the compacted part of the log. */
void kl_wio_leave_out_stale(struct kl_wio *w, struct raft_append_entries *a);
/* Takes out the entries that the peer was sent already, and remembers the others. */
void kl_wio_leave_out_sent(struct kl_wio *w, raft_id to, struct raft_append_entries *a);
/* The peer has answered, or is sent a snapshot, which is as if it had rejected: what it was sent
 * before it may lack. */
void kl_wio_sent_answer(struct kl_wio *w, raft_id to, bool accepts);
/* The process cannot go on: tells the owner once. */
void kl_wio_fatal(struct kl_wio *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
