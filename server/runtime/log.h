/*
 * Structured log lines on stderr: time, level, area, message, then key=value pairs.
 *
 *   2026-01-02T03:04:05.678Z warn raft group=1 term=7 "leader lost"
 *
 * One line per call, written with one write(2). A conversion right behind a "=" is a value: quoted
 * when it is empty or holds blanks, quotes or "=". What is not printable ASCII is escaped. Nothing
 * that looks like a secret may be passed: there is no %-format for bytes on purpose.
 */
#ifndef KL_LOG_H
#define KL_LOG_H

#include "common/status.h"

enum kl_log_level { KL_LOG_ERROR, KL_LOG_WARN, KL_LOG_INFO, KL_LOG_DEBUG };

/* Any thread, any time; applies to lines logged afterwards. */
void kl_log_set_level(enum kl_log_level level);
/* "error", "warn", "info", "debug"; KL_INVALID_ARGUMENT otherwise. */
KL_MUST_USE enum kl_status kl_log_level_parse(const char *text, enum kl_log_level *out);

/* area: a static word ("raft"). format: message and pairs, "msg key=%d". Thread-safe; lines over
 * 2,000 bytes are cut. */
void kl_log(enum kl_log_level level, const char *area, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
