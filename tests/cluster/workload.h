/*
 * Concurrent clients over few names, every operation recorded: the load under which clusters are
 * broken. Values are all different, so that the checker can tell writes apart. Names change with
 * every round, so that a long run is many small histories.
 */
#ifndef KL_WORKLOAD_H
#define KL_WORKLOAD_H

#include "client/include/kluis.h"

#include "tests/lib/history.h"

#include <stdio.h>

struct workload;

struct workload_options {
    struct kluis_client *client;
    const char *vault;   /* exists */
    unsigned threads;    /* 1..32 */
    unsigned names;      /* per round */
    unsigned round_ms;   /* a new set of names after so long; 0 = never */
    unsigned timeout_ms; /* deadline of each call */
    uint64_t seed;
    /* For several processes over one vault: */
    uint32_t first_client; /* number of the first thread less one; no two threads share one */
    unsigned pace_ms;      /* each thread begins a call so often at most; 0 = as fast as answered */
    bool keep_even; /* every second name is only written and read, so that nothing leaves it */
    FILE *stream;   /* each operation as a line when it ends; then nothing is checked. NULL */
};

struct workload_result {
    uint64_t ok, refused, unknown; /* by outcome */
    uint64_t failed;               /* status of the last failure is first_failure */
    uint64_t writes_acknowledged;
    uint64_t longest_gap_us; /* between two acknowledged writes */
    char first_failure[256];
    bool linearizable;
    char violation[2048];
};

struct workload *workload_start(const struct workload_options *options);
/* Forgets the gap seen so far and begins to measure anew. */
void workload_reset_gap(struct workload *w);
/* Longest time without an acknowledged write since then, the present one included. */
uint64_t workload_longest_gap_us(struct workload *w);
/* Acknowledged writes so far. */
uint64_t workload_acknowledged(struct workload *w);
/* Waits until `more` further writes were acknowledged; false when that takes longer than 30 s. */
bool workload_progress(struct workload *w, uint64_t more);
/* Ends the threads, checks the history, writes it to `dump` when that is not NULL and the history is
 * not linearizable, and frees. */
void workload_stop(struct workload *w, const char *dump, struct workload_result *out);

#endif
