/*
 * Inside of the checker: the model of one object and the search over it. checker.c fills a search
 * from a history; checker_search.c runs it.
 */
#ifndef KL_CHECKER_SEARCH_H
#define KL_CHECKER_SEARCH_H

#include "tests/lib/checker.h"

#include <stdbool.h>

#define KL_CHECK_NONE UINT32_MAX

enum kl_check_phase { KL_CHECK_ABSENT, KL_CHECK_LIVE, KL_CHECK_DELETED };

/* Every field is of fixed width and without padding: states are compared as bytes. */
struct kl_check_state {
    uint32_t phase;
    uint32_t current; /* set operation that wrote the current version; NONE */
    uint32_t members; /* interned set of set operations whose versions exist */
    uint32_t deleter; /* operation that deleted it; NONE */
};

/* An operation of one name. Known ones come first, by invocation; then the unknown ones. */
struct kl_check_op {
    enum kl_history_kind kind;
    bool expire;           /* the end of deletion `target` by its retention */
    bool known;            /* answered: must take effect within its interval */
    enum kl_status status; /* of a known one: KL_OK, KL_NOT_FOUND or, for a set, KL_DELETED */
    uint32_t what;         /* set operation whose value or version it is about; NONE */
    uint32_t target;
    uint64_t invoked_us, returned_us;
    size_t source; /* its number in the history */
};

/* Calls and returns of known operations in order of time, doubly linked; node 0 is the head. */
struct kl_check_node {
    uint32_t next, prev;
    uint32_t op;
    bool is_return;
    uint64_t at_us;
};

struct kl_check_frame {
    uint32_t op;
    struct kl_check_state before;
};

struct kl_check_search {
    /* Filled by checker.c. */
    struct kl_check_op *ops;
    uint32_t known_n, ops_n;
    struct kl_check_node *nodes;
    uint32_t *call, *ret; /* nodes of each known operation */
    uint64_t steps_max;
    size_t memory_max;
    /* What took effect, and in which order. */
    uint64_t *done_known, *done_unknown;
    uint32_t known_words, unknown_words;
    struct kl_check_frame *stack;
    uint32_t depth;
    struct kl_check_state now;
    /* Interned member sets: set i is members[i * member_words ...]; set 0 is empty. */
    uint64_t *members;
    uint32_t members_n, members_cap, member_words;
    uint32_t *member_slots;
    uint32_t member_slots_n;
    /* Remembered configurations: records of 64-bit words, found by a table of offsets + 1. */
    uint64_t *seen;
    size_t seen_n, seen_cap;
    uint64_t *seen_slots;
    size_t seen_slots_n, seen_count;
    uint64_t *scratch;
    size_t memory;
    uint64_t steps;
    uint32_t best_depth, stuck; /* the furthest the search came, and what stopped it there */
    bool out_of_memory;
};

/* Allocates what the search needs beyond what checker.c filled in. false: out of memory. */
bool kl_check_search_init(struct kl_check_search *s);
enum kl_check_verdict kl_check_search_run(struct kl_check_search *s);
/* Frees everything, the filled parts included. */
void kl_check_search_done(struct kl_check_search *s);

#endif
