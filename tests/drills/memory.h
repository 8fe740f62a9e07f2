/*
 * Is the memory of the nodes flat over a run of drills? Pure: judges samples, reads nothing.
 *
 * Looked at is RssAnon, what a process holds that no file backs: pages of the database that the
 * system keeps mapped come and go with its cache and say nothing. Each sample is taken when a drill
 * is over, nothing is under load and all digests agree.
 *
 * THE RULE, "memory flat", for each node:
 *
 *   1. The first sixth of the run (at most 10 minutes) is warm-up and left out. Of the rest the last
 *      third is the late window and what is before it the early one; the largest sample of the late
 *      one is at most that of the early one + 25 % or + 32 MiB, whichever is more. The largest, not
 *      the middle: a process that starts after a kill stands some 45 MiB above one that starts after a
 *      clean stop (raft reads the open segments of its groups whole), so medians tell which drills were
 *      drawn. Not judged in a run of less than 30 minutes, which may not have both in both windows.
 *   2. Drills end processes, and what a process has leaked goes with it: rule 1 alone would see a
 *      saw. So growth is also counted within processes, over all pairs of neighbouring samples of
 *      the same process after the warm-up, the first of which finds it 180 s old or more: all growth
 *      divided by all time is at most 3 MiB per minute. Younger ones fill: each group keeps up to
 *      KL_LOG_KEEP_BYTES of its log in memory. Not judged below 5 minutes of such time.
 *
 * Growth of the state is not excused: there is none. Every drill has vaults of its own, which are
 * deleted when it is over and purged with all they hold 90 s later, so that from the end of the
 * warm-up on a node holds about as much as at the end of the run.
 */
#ifndef KL_MEMORY_H
#define KL_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct memory_sample {
    uint64_t at_ms;  /* since any beginning, never decreasing */
    uint64_t age_ms; /* of the process */
    uint64_t anon_kib, rss_kib;
    int64_t pid;
};

enum memory_verdict { MEMORY_FLAT, MEMORY_GROWS, MEMORY_TOO_SHORT };

struct memory_report {
    enum memory_verdict verdict;
    uint64_t first_kib, early_kib, late_kib; /* RssAnon: first sample, largest of each window */
    int64_t growth_kib_per_min;              /* within processes */
    uint64_t growth_over_ms;                 /* time that was counted for it; 0 = none */
};

/* Samples of one node in order of their times. Fewer than two in a window, or less than 30 minutes:
 * MEMORY_TOO_SHORT. */
struct memory_report memory_judge(const struct memory_sample *samples, size_t n);
/* "flat", "GROWS", "run too short to say". */
const char *memory_verdict_name(enum memory_verdict verdict);

#endif
