/*
 * Is a history linearizable? Wing and Gong's search with remembered states (as in Lowe's and
 * Porcupine's checkers), per object name, over this model of an object:
 *
 *   absent   --set-->  live(current, versions)  --set-->  live  --delete-->  deleted
 *   deleted  --recover-->  live (as it was)     deleted  --purge or its retention-->  absent
 *
 * set on a deleted name answers DELETED; whatever else does not fit answers NOT_FOUND and changes
 * nothing. Any other refusal says nothing about the object and is ignored. An operation of unknown
 * outcome may take effect at any time after its invocation, or never; with kl_history.retention_us
 * every deletion may also end by itself when that time has passed since the delete was invoked.
 *
 * The answer is exact: LINEARIZABLE and VIOLATION are proofs. UNDECIDED means that the limits were
 * reached first.
 */
#ifndef KL_CHECKER_H
#define KL_CHECKER_H

#include "tests/lib/history.h"

enum kl_check_verdict { KL_CHECK_LINEARIZABLE, KL_CHECK_VIOLATION, KL_CHECK_UNDECIDED };

struct kl_check_limits {
    uint64_t steps_max; /* per name; 0 = 50 million */
    size_t memory_max;  /* bytes of remembered states per name; 0 = 256 MiB */
};

struct kl_check_result {
    enum kl_check_verdict verdict;
    uint64_t steps;
    /* VIOLATION or UNDECIDED: the name, and what could not be explained, in some lines. */
    char name[KL_HISTORY_WORD_MAX + 1];
    char text[2048];
};

/* KL_OK when a verdict was reached; KL_INVALID_ARGUMENT when two sets write the same value or
 * something else makes the history meaningless (text says what); KL_NO_MEMORY. limits may be NULL. */
KL_MUST_USE enum kl_status kl_check_history(const struct kl_history *h,
                                            const struct kl_check_limits *limits,
                                            struct kl_check_result *out);

const char *kl_check_verdict_name(enum kl_check_verdict verdict);

#endif
