/*
 * Histories of concurrent clients over the secrets of a vault: who asked what, when, and what came
 * back. tests/lib/checker.h decides whether one is linearizable; tests/sim and the cluster tests
 * record them.
 *
 * As text, one operation per line, times in microseconds of one clock:
 *
 *   kluis-history 1
 *   retention_us 7000000             optional: a deleted object may vanish by itself after this
 *   CLIENT KIND NAME INVOKED RETURNED OUTCOME [value=V] [version=W]
 *
 * KIND     set, get, get-version, delete, recover, purge, get-deleted
 * RETURNED - when no answer came
 * OUTCOME  ok; the name of a status (NOT_FOUND, DELETED, ...) when the service refused; `unknown`
 *          when it may take effect at any later time, or never. An operation that certainly did
 *          nothing is left out.
 * value    set: what was written (each set of a history writes another value); reads: what came.
 * version  get-version: the one asked for; set and reads: the one answered, when there was one.
 * Lines that begin with # are ignored. Names, values and versions are words without blanks.
 */
#ifndef KL_HISTORY_H
#define KL_HISTORY_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define KL_HISTORY_WORD_MAX 63
#define KL_HISTORY_OPS_MAX  (1u << 24)
#define KL_HISTORY_NEVER    UINT64_MAX

enum kl_history_kind {
    KL_HISTORY_SET,
    KL_HISTORY_GET,
    KL_HISTORY_GET_VERSION,
    KL_HISTORY_DELETE,
    KL_HISTORY_RECOVER,
    KL_HISTORY_PURGE,
    KL_HISTORY_GET_DELETED,
    KL_HISTORY_KINDS
};

/* UNKNOWN: no answer, or one that does not tell. FAILED: certainly without effect. */
enum kl_history_outcome { KL_HISTORY_UNKNOWN, KL_HISTORY_DONE, KL_HISTORY_FAILED };

struct kl_history_op {
    uint32_t client;
    enum kl_history_kind kind;
    enum kl_history_outcome outcome;
    enum kl_status status;            /* of DONE: KL_OK, or how the service refused */
    uint32_t name, value, version;    /* words of the history; 0 = none */
    uint64_t invoked_us, returned_us; /* returned_us: KL_HISTORY_NEVER when there was no answer */
};

struct kl_history {
    uint64_t retention_us; /* 0: nothing is purged by itself */
    struct kl_history_op *ops;
    size_t ops_n, ops_cap;
    char (*words)[KL_HISTORY_WORD_MAX + 1]; /* [0] is empty */
    uint32_t words_n, words_cap;
    uint32_t *slots; /* hash table of words */
    uint32_t slots_n;
};

void kl_history_init(struct kl_history *h);
void kl_history_done(struct kl_history *h);

/* The number of a word, new or known. KL_INVALID_ARGUMENT (blank, too long), KL_NO_MEMORY. */
KL_MUST_USE enum kl_status kl_history_word(struct kl_history *h, const char *text, uint32_t *out);
const char *kl_history_text(const struct kl_history *h, uint32_t word);

/* Adds an operation whose outcome is unknown until kl_history_return() or kl_history_fail(). value:
 * of a set; version: of a get-version; else NULL. *op is its number. */
KL_MUST_USE enum kl_status kl_history_invoke(struct kl_history *h, uint32_t client,
                                             enum kl_history_kind kind, const char *name,
                                             const char *value, const char *version,
                                             uint64_t now_us, size_t *op);
/* The service answered. value and version as answered, NULL when there were none. */
KL_MUST_USE enum kl_status kl_history_return(struct kl_history *h, size_t op, enum kl_status status,
                                             const char *value, const char *version,
                                             uint64_t now_us);
/* The operation certainly had and will have no effect. */
void kl_history_fail(struct kl_history *h, size_t op);

const char *kl_history_kind_name(enum kl_history_kind kind);
/* One operation as a line of text without the line end. */
void kl_history_line(const struct kl_history *h, size_t op, char *out, size_t out_len);

KL_MUST_USE enum kl_status kl_history_write(const struct kl_history *h, FILE *to);
/* Into an empty history. KL_CORRUPT with a line for people in err. */
KL_MUST_USE enum kl_status kl_history_read(struct kl_history *h, FILE *from, char *err,
                                           size_t err_len);

#endif
