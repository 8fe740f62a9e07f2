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

/* path NULL: no trail. file_max bytes per file, files_max kept (PATH.1 is the newest old one). */
KL_MUST_USE enum kl_status kl_audit_new(const char *path, size_t file_max, unsigned files_max,
                                        struct kl_audit **out, char *err, size_t err_len);
/* Never blocks; when the queue is full the record is counted as lost and a later line says so. */
void kl_audit_write(struct kl_audit *audit, const struct kl_audit_record *record);
uint64_t kl_audit_lost(const struct kl_audit *audit);
void kl_audit_free(struct kl_audit *audit);

#endif
