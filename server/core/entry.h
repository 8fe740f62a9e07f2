/*
 * A Raft log entry: many commands and one time.
 *
 *   offset  size  field
 *        0     4  magic "KLE1"
 *        4     4  length of everything behind the head, without padding, big-endian
 *        8     8  time_ms, big-endian: the leader's stamp, never decreasing along the log
 *       16     4  number of commands, big-endian, 1..KL_ENTRY_COMMANDS_MAX
 *       20     4  zero
 *       24     …  per command: be32 length, packed kluis.log.Command
 *        …  0..7  zero padding to a multiple of 8 (libraft demands it)
 */
#ifndef KL_ENTRY_H
#define KL_ENTRY_H

#include "common/buf.h"
#include "common/limits.h"

#define KL_ENTRY_HEAD 24

/* Begin an entry in an empty buffer, add packed commands, end it (writes length and padding). */
KL_MUST_USE enum kl_status kl_entry_begin(struct kl_buf *out, uint64_t time_ms);
KL_MUST_USE enum kl_status kl_entry_add(struct kl_buf *out, struct kl_bytes command);
KL_MUST_USE enum kl_status kl_entry_end(struct kl_buf *out);

struct kl_entry {
    uint64_t time_ms;
    uint32_t count;
    struct kl_bytes rest; /* commands not yet taken; borrowed */
};

/* KL_CORRUPT when the bytes are not a well-formed entry. */
KL_MUST_USE enum kl_status kl_entry_parse(struct kl_bytes in, struct kl_entry *out);
/* The next packed command; call it exactly count times. KL_CORRUPT. */
KL_MUST_USE enum kl_status kl_entry_next(struct kl_entry *entry, struct kl_bytes *command);

#endif
