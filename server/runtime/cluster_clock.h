/*
 * The cluster's time: what entries are stamped with and what deadlines are compared to. No thread,
 * socket or clock in here: it is told what was read, and when.
 *
 * Every node runs one. It knows its own wall clock, those of the other nodes (each asks the others
 * about once a second), the monotonic clock, and the time of the last log entry. The rules:
 *
 *   1. The time is a reference that monotonic time carries on. No wall clock moves it directly, so
 *      that no jump of a clock gets into a log, whose times can never go back.
 *   2. "The clocks" are the latest time that those of a majority of all nodes have reached: the median,
 *      where a clock that was not read within the last KL_CLOCK_FRESH_MS counts as late. So as long
 *      as the clocks of a majority are right, it is no later than a right one, whoever is heard.
 *   3. While the clocks are within KL_CLOCK_AGREE_MS of the time, the time follows them, by 1 ms
 *      per second at most (KL_CLOCK_SLEW): a clock set by a second, or one that drifts, is followed
 *      slowly. A purge comes early by that part of its term at most.
 *   4. Otherwise monotonic time does not explain the clocks. The time goes on as if nothing had
 *      happened and there is doubt: scheduled purges are held. Doubt is no state but a comparison. It
 *      ends when the clocks agree with the time again, or
 *        - when another node offers a time that does agree with them: its monotonic clock ran
 *          where ours stood still (a virtual machine that was halted) or was not there at all (a
 *          restart), or an operator has spoken there; that time is taken over;
 *        - by an operator's word here: the clocks are right, so the time is that much ahead of them or
 *          behind them (lead_ms, negative: behind) and stays so. It is not set: what was deleted an
 *          hour ago would be due at once, and no clock knows that it was an hour ago. An operator may
 *          ask for that, too (step), but only forward.
 *      Too few clocks to be a majority are doubt as well.
 *   5. A node that starts takes over the time of a node that runs. It waits for all the others to
 *      answer, or KL_CLOCK_WAIT_MS. When nobody runs, nothing has measured how long that lasted: a
 *      majority of clocks is believed when they are ahead of the last entry by no more than
 *      KL_CLOCK_GAP_DAYS; if they are further ahead, or behind, the time goes on from the last entry
 *      and there is doubt. KL_CLOCK_GAP_DAYS is less than the shortest retention: what was deleted
 *      just before everything stopped does not go at once when it starts in a wrong year. Wrong
 *      clocks within it cannot be told from right ones: that is the most that a purge can be early.
 *   6. If it hears no majority either, it has a time for stamps by rule 5 from the earliest clock it
 *      hears; it stays in doubt, offers it to nobody, and replaces it as soon as it can.
 *   7. The time is never behind the last entry.
 *
 * So:
 *   a minority jumped, the leader or not     the median is what it was: no doubt, purges go on; the
 *                                            clocks that are off are named
 *   a majority jumped, or all                doubt at every node, until they are right again or an
 *                                            operator confirms
 *   a node restarts with a wrong clock       it takes over the others' time
 *   all restart with wrong clocks            rule 5
 *   suspend and resume                       the monotonic clock goes on meanwhile (CLOCK_BOOTTIME),
 *                                            so the wall clock's step is explained
 *   a virtual machine halted and resumed     the monotonic clock stood still: its node takes over the
 *                                            others' time; all halted at once: doubt
 *   a clock stepped by a second, slow drift  rule 3
 *   a jump backward                          doubt, as above
 *
 * Two nodes without doubt may differ by KL_CLOCK_AGREE_MS, and a time that passes from one to the other
 * with the leadership may step by so much.
 *
 * Belongs to one thread, or to a lock.
 */
#ifndef KL_CLUSTER_CLOCK_H
#define KL_CLUSTER_CLOCK_H

#include "common/limits.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kl_clock_doubt {
    KL_CLOCK_SURE,   /* the clocks agree with the time */
    KL_CLOCK_NONE,   /* just started: there is no time yet */
    KL_CLOCK_FEW,    /* too few clocks to be a majority */
    KL_CLOCK_AHEAD,  /* the clocks are ahead of the time */
    KL_CLOCK_BEHIND, /* the clocks are behind it */
    KL_CLOCK_GAP     /* they are ahead of the last entry, and nothing ran in between */
};
/* A few words for people: "the clocks are ahead of the cluster's time". */
const char *kl_clock_doubt_text(enum kl_clock_doubt doubt);

/* What another node answered. Offsets are kept against our monotonic clock. */
struct kl_clock_reading {
    uint64_t node_id;
    uint64_t wall_ms;       /* its wall clock */
    uint64_t time_ms;       /* the cluster's time as it has it; 0 = it has none to offer */
    int64_t lead_ms;        /* by how much it takes that to be ahead of the clocks */
    uint64_t mono_us;       /* our monotonic clock when the answer came */
    uint64_t round_trip_us; /* since we asked */
};

struct kl_clock_node {
    uint64_t node_id;
    bool heard, offers;
    uint64_t mono_us; /* when its clock was read */
    int64_t wall_us;  /* offset of its wall clock from our monotonic clock */
    int64_t time_us;  /* of the time it offers, and its lead */
    int64_t lead_us;
};

struct kl_cluster_clock {
    size_t self; /* in nodes[] */
    size_t nodes_n;
    struct kl_clock_node nodes[KL_NODES_MAX];
    uint64_t gap_max_ms;
    bool started;
    uint64_t started_us, looked_us; /* monotonic; of the first and the last look */
    uint64_t last_entry_ms;
    bool known;       /* there is a time */
    bool settled;     /* it rests on a majority: others may have it */
    bool gap;         /* it goes on from the last entry because of rule 5 */
    int64_t time_us;  /* its offset from the monotonic clock */
    int64_t lead_us;  /* by how much it is known to be ahead of the clocks */
    size_t heard_n;   /* at the last look */
    int64_t clock_us; /* "the clocks", as an offset */
    enum kl_clock_doubt doubt;
};

/* ids: of all nodes of the cluster, own_id among them. gap_max_ms: rule 5. */
void kl_cluster_clock_init(struct kl_cluster_clock *c, uint64_t own_id, const uint64_t *ids,
                           size_t n, uint64_t gap_max_ms);
/* Nodes came or went: these are all there are now, the own one among them. What is known of those that
 * stay is kept. */
void kl_cluster_clock_members(struct kl_cluster_clock *c, const uint64_t *ids, size_t n);
/* An answer of another node. Ignored: from a stranger, or on its way for too long. */
void kl_cluster_clock_hear(struct kl_cluster_clock *c, const struct kl_clock_reading *reading);
/*
 * Applies the rules; call it several times a second.
 *
 * mono_us, wall_ms  Our own clocks, read now.
 * last_entry_ms     Time of the last entry that this node has applied in any group; 0 = none.
 */
void kl_cluster_clock_look(struct kl_cluster_clock *c, uint64_t mono_us, uint64_t wall_ms,
                           uint64_t last_entry_ms);
/* Unix milliseconds; 0 while there is no time. */
uint64_t kl_cluster_clock_time_ms(const struct kl_cluster_clock *c, uint64_t mono_us);
/* What to offer to others; 0 while it does not rest on a majority. */
uint64_t kl_cluster_clock_offer_ms(const struct kl_cluster_clock *c, uint64_t mono_us);
/* "The clocks" of rule 2 as of the last look; 0 when none was read. */
uint64_t kl_cluster_clock_clocks_ms(const struct kl_cluster_clock *c, uint64_t mono_us);
/* How far nodes[i]'s clock is ahead of where it should be, in milliseconds (negative: behind). false:
 * it was not read lately, or there is no time to compare it with. */
bool kl_cluster_clock_offset(const struct kl_cluster_clock *c, size_t i, int64_t *ms);
/* How many clocks make a majority. */
size_t kl_cluster_clock_majority(const struct kl_cluster_clock *c);
/*
 * An operator says that the clocks are right. shown_ms: what the operator was shown as the time of
 * the clocks, or 0. step: the time is to be what they say, even if things are purged early; ignored
 * when they are behind. KL_OK, also when there was no doubt (nothing is changed then); KL_UNAVAILABLE:
 * too few clocks are known; KL_CHANGED: the clocks do not say shown_ms (any more), within
 * KL_CLOCK_AGREE_MS and the KL_CLOCK_SHOWN_MS that an operator may take.
 */
KL_MUST_USE enum kl_status kl_cluster_clock_confirm(struct kl_cluster_clock *c, uint64_t mono_us,
                                                    uint64_t shown_ms, bool step);

#endif
