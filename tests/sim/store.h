/*
 * A node's store as a disk keeps it: a kl_kv whose content outlives the node. Writes without sync
 * may be lost by a power failure, newest first, each batch whole; a killed process loses none.
 */
#ifndef SIM_STORE_H
#define SIM_STORE_H

#include "server/store/kv.h"
#include "tests/sim/rng.h"

struct sim_world;
struct sim_replica;
struct sim_leaf;
struct sim_undo;

struct sim_store {
    struct kl_kv kv; /* first */
    struct sim_world *w;
    struct sim_replica *replica;
    bool open, staged;
    struct sim_leaf *root;
    uint64_t hash;    /* of the content, whatever the order of writes */
    uint64_t records; /* in it */
    struct sim_undo *undo;
    size_t undo_n, undo_cap; /* what unsynced writes replaced */
    uint64_t batches;        /* unsynced */
    struct kl_kv_snap *snaps;
    bool full;      /* about every second write is refused */
    bool fail_next; /* the next write fails */
};

void sim_store_init(struct sim_store *s, struct sim_world *w, struct sim_replica *r, bool staged);
/* Everything goes, also from the disk. */
void sim_store_clear(struct sim_store *s);
/* The process is gone; power: and so are some unsynced writes. */
void sim_store_crash(struct sim_store *s, struct sim_rng *rng, bool power);
/* The content of `from` replaces that of `to`, durably; `from` is empty then. */
void sim_store_swap(struct sim_store *to, struct sim_store *from);

/* Looks at a record without copying; an empty answer when there is none. */
struct kl_bytes sim_store_peek(const struct sim_store *s, struct kl_bytes key);

#endif
