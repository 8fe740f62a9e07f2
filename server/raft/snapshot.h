/*
 * A Raft snapshot is a reference to the state, which lies in the store and is never copied into it:
 *
 *   offset  size  field
 *        0     4  magic "KLS1"
 *        4     4  zero
 *        8     8  applied index of the store when the reference was given, big-endian
 *       16     8  Raft index of the snapshot, big-endian (barriers and changes of configuration
 *                 count in the log but not in the store, so it may be greater)
 *
 * Before a reference reaches the disk the store is durable up to it. The store may be newer than
 * its reference: entries at or below the applied index are skipped. restore() keeps the live store
 * when its applied index reaches the reference, adopts the staged one when that does, and otherwise
 * ends the process.
 */
#ifndef KL_SNAPSHOT_H
#define KL_SNAPSHOT_H

#include "common/bytes.h"
#include "common/status.h"

#define KL_SNAPSHOT_REF_LEN 24

struct kl_snapshot_ref {
    uint64_t applied;
    uint64_t index;
};

void kl_snapshot_write(const struct kl_snapshot_ref *ref, uint8_t out[KL_SNAPSHOT_REF_LEN]);
/* KL_CORRUPT when the bytes are no reference. */
KL_MUST_USE enum kl_status kl_snapshot_parse(struct kl_bytes in, struct kl_snapshot_ref *out);

#endif
