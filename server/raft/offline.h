/*
 * The log of a group that is not running: what it holds, and the one change that gets a group going
 * whose majority is lost. For kluisd recover; the caller holds the lock of the data directory.
 *
 * Reading does to the log what any start does (libraft closes its open segments); nothing else is
 * written. Everything here blocks.
 */
#ifndef KL_OFFLINE_H
#define KL_OFFLINE_H

#include "common/bytes.h"
#include "common/limits.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kl_offline_member {
    uint64_t node_id;
    bool voter;
    char address[KL_ADDRESS_MAX + 1]; /* names the data directory: "ID" or "ID.GENERATION" */
};

struct kl_offline_log {
    uint64_t term;                  /* newest that this node has heard of */
    uint64_t last_term, last_index; /* of the last entry, or of the snapshot; 0 = nothing */
    uint64_t applied_index;         /* of the state beside the log */
    uint64_t last_ms;               /* leader's time in the last entry with commands; 0 = none */
    size_t members_n;               /* of the newest configuration in the log */
    struct kl_offline_member members[KL_NODES_MAX];
};

/*
 * Reads DIR/log and DIR/state of a group. err gets a line for people: KL_NOT_FOUND (there is no log
 * or state), KL_CORRUPT, KL_IO, KL_NO_MEMORY, KL_TOO_LARGE (more members than this version knows).
 */
KL_MUST_USE enum kl_status kl_offline_look(const char *dir, uint64_t node_id,
                                           struct kl_offline_log *out, char *err, size_t err_len);

/*
 * Appends, in one write and in the new term `term`, a configuration whose only member is this node
 * as a voter under `address`, and behind it the entry `entry` (server/core/entry.h) unless that is
 * empty. When the state is ahead of the log (it may have been of others' logs), it takes the log's place
 * as a snapshot first. The node has then voted for itself in `term`, which must be greater than every term that
 * any voter of the group may have seen. Statuses as above; on failure the log may have the new term
 * and vote, never half of the write.
 */
KL_MUST_USE enum kl_status kl_offline_take_over(const char *dir, uint64_t node_id, uint64_t term,
                                                const char *address, struct kl_bytes entry,
                                                char *err, size_t err_len);

#endif
