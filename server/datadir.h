/*
 * The data directory of a node: who it belongs to, and that only one process uses it.
 *
 *   DIR/lock        held with flock(2) while the node runs
 *   DIR/identity    text, written by --init or --join:
 *                     kluis data directory 1
 *                     cluster NAME
 *                     node ID
 *                     uuid 32-HEX-DIGITS
 *                     initial yes|no
 *                   and for each group that has been open here
 *                     group N
 *   DIR/g0 …        one directory per group: log, state, staged
 */
#ifndef KL_DATADIR_H
#define KL_DATADIR_H

#include "common/limits.h"
#include "common/status.h"
#include "server/runtime/clock.h"

#include <stdbool.h>

struct kl_datadir {
    int lock_fd;
    uint8_t uuid[KL_ID_LEN];
    bool initial; /* made by --init: the node may bootstrap a new cluster */
    /* By id: the group has been open here before. It is never begun anew: a voter that forgot what it
     * promised would break the others' majority. */
    bool opened[KL_GROUPS_MAX];
};

/*
 * Makes DIR (mode 0700) and its identity. KL_ALREADY_EXISTS when there is one; KL_IO. err gets a
 * line for people.
 */
KL_MUST_USE enum kl_status kl_datadir_create(const char *dir, const char *cluster, uint64_t node_id,
                                             bool initial, const struct kl_entropy *entropy,
                                             char *err, size_t err_len);

/*
 * Locks DIR and checks that it is this node's. KL_NOT_FOUND: not initialised. KL_EXHAUSTED: another
 * process holds it. KL_FORBIDDEN: of another cluster or node. KL_CORRUPT, KL_IO.
 */
KL_MUST_USE enum kl_status kl_datadir_open(const char *dir, const char *cluster, uint64_t node_id,
                                           struct kl_datadir *out, char *err, size_t err_len);
void kl_datadir_close(struct kl_datadir *d);

/* DIR/gN, made when missing. */
KL_MUST_USE enum kl_status kl_datadir_group(const char *dir, uint16_t group, char *out,
                                            size_t out_len);

/* Is what group N left behind there? KL_CORRUPT when a part is missing. */
KL_MUST_USE enum kl_status kl_datadir_group_check(const char *dir, const struct kl_datadir *d,
                                                  uint16_t group, char *err, size_t err_len);
/* Notes in the identity that these groups are open now; nothing is written when it is known. */
KL_MUST_USE enum kl_status kl_datadir_note_groups(const char *dir, struct kl_datadir *d,
                                                  const uint16_t *groups, size_t n, char *err,
                                                  size_t err_len);

#endif
