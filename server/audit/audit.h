/*
 * The audit trail: one JSON line per audited call, appended to a file that is rotated by size.
 * Written by a thread of its own; records never hold values, tokens or blobs.
 */
#ifndef KL_AUDIT_H
#define KL_AUDIT_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

struct kl_audit;

struct kl_audit_record {
    uint64_t time_ms;
    const char *principal; /* "" when not authenticated */
    const char *remote;
    const char *method;
    const char *subject; /* "vault/name" */
    const char *status;  /* name in common/status.def */
    uint64_t duration_us;
    char request_id[33];
};

/*
 * path NULL: no trail. A file (mode 0600) is rotated before it would exceed file_max bytes; files_max
 * (0..KL_AUDIT_FILES_MAX) old ones are kept, PATH.1 being the newest. On failure a line for people is
 * in err: KL_IO, KL_TOO_LARGE (path), KL_NO_MEMORY.
 */
KL_MUST_USE enum kl_status kl_audit_new(const char *path, size_t file_max, unsigned files_max,
                                        struct kl_audit **out, char *err, size_t err_len);
/* Never blocks, any thread; strings are copied (NULL is ""), each cut at 512 bytes. When the queue or
 * the disk is full the record is counted as lost and a later line says so. */
void kl_audit_write(struct kl_audit *audit, const struct kl_audit_record *record);
/* Records lost since the start. */
uint64_t kl_audit_lost(const struct kl_audit *audit);
/* Writes what is queued, syncs, ends the thread. No writes may be under way. NULL is allowed. */
void kl_audit_free(struct kl_audit *audit);

#endif
