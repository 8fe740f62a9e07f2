/*
 * A node's Raft log on a simulated disk, and the raft_io over it: term and vote are durable when
 * written; appends, truncations and snapshots complete later, in order; a crash keeps a prefix of
 * what was under way, down to a part of one append. The network half of raft_io is not here: the
 * group brings its own.
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "tests/sim/rng.h"

#include <raft.h>

struct sim_world;
struct sim_replica;
struct sim_entry;
struct sim_disk_op;

struct sim_disk_snapshot {
    raft_index index; /* 0: none */
    raft_term term;
    raft_index conf_index;
    uint8_t *conf, *data; /* encoded configuration, content; the world's heap */
    size_t conf_len, data_len;
};

struct sim_disk {
    struct sim_world *w;
    struct sim_replica *replica;
    /* On the disk. */
    raft_term term;
    raft_id voted_for;
    struct sim_disk_snapshot snapshot;
    raft_index start; /* of the first entry */
    struct sim_entry **entries;
    size_t entries_n, entries_cap;
    /* Of the running process. */
    raft_index next; /* index of the next append */
    struct sim_disk_op *head, *tail;
    struct sim_disk_op *put; /* a snapshot being written beside the log */
    bool running;            /* the head's completion is scheduled */
    raft_io_tick_cb tick;
    raft_io_close_cb close;
    unsigned tick_ms;
    bool closing;
    bool broken;   /* a write has failed: nothing behind it may reach the disk */
    unsigned gets; /* snapshot reads under way */
    /* The weather. */
    unsigned slow;  /* delays times this; 0 and 1 are the same */
    bool full;      /* no room for new segments */
    bool fail_next; /* the next write fails */
};

void sim_disk_init(struct sim_disk *d, struct sim_world *w, struct sim_replica *r);
/* Everything goes. */
void sim_disk_clear(struct sim_disk *d);
/* Fills in a raft_io for a new process. */
void sim_disk_io(struct sim_disk *d, struct raft_io *io);
/* The process is gone; some of what was under way is not on the disk. */
void sim_disk_crash(struct sim_disk *d, struct sim_rng *rng);
/* The disk filled up or has room again. */
void sim_disk_set_full(struct sim_disk *d, bool full);

/* The entry that the log will hold at an index once everything under way is done; NULL = none. */
struct sim_entry *sim_disk_entry(const struct sim_disk *d, raft_index index);

/* Events, called by node.c in the node's context. */
void sim_disk_tick(struct sim_disk *d);
void sim_disk_complete(struct sim_disk *d, uint64_t what, void *arg);

#endif
