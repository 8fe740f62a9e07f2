#include "tests/lib/checker_search.h"

#include "common/alloc.h"

#include <string.h>

#define NONE KL_CHECK_NONE

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static uint64_t hash_words(const uint64_t *p, size_t n)
{
    uint64_t x = n;

    for (size_t i = 0; i < n; i++) {
        x = mix(x + p[i] + 0x9e3779b97f4a7c15ULL);
    }
    return x;
}

/* Makes room for `used` elements, by doubling, within the memory limit; false: out of memory or over the limit. */
static bool grow(struct kl_check_search *s, void **array, size_t used, size_t *cap, size_t size)
{
    size_t wanted = *cap == 0 ? 1024 : *cap * 2;
    void *p;

    if (used <= *cap) {
        return true;
    }
    wanted = wanted < used ? used : wanted;
    if (s->memory + (wanted - *cap) * size > s->memory_max) {
        return false;
    }
    p = kl_realloc(*array, wanted * size);
    if (p == NULL) {
        s->out_of_memory = true;
        return false;
    }
    s->memory += (wanted - *cap) * size;
    *array = p;
    *cap = wanted;
    return true;
}

/* ---- sets of versions ---- */

static uint64_t *member_bits(const struct kl_check_search *s, uint32_t id)
{
    return s->members + (size_t)id * s->member_words;
}

static uint32_t *member_slot(struct kl_check_search *s, const uint64_t *bits)
{
    uint32_t mask = s->member_slots_n - 1;
    uint32_t i = (uint32_t)hash_words(bits, s->member_words) & mask;

    while (s->member_slots[i] != 0 &&
           memcmp(member_bits(s, s->member_slots[i] - 1), bits, s->member_words * 8u) != 0) {
        i = (i + 1) & mask;
    }
    return &s->member_slots[i];
}

static bool members_rehash(struct kl_check_search *s)
{
    uint32_t n = s->member_slots_n == 0 ? 64 : s->member_slots_n * 2;
    uint32_t *slots = kl_calloc(n, sizeof *slots);

    if (slots == NULL) {
        s->out_of_memory = true;
        return false;
    }
    kl_free(s->member_slots);
    s->member_slots = slots;
    s->member_slots_n = n;
    for (uint32_t i = 0; i < s->members_n; i++) {
        *member_slot(s, member_bits(s, i)) = i + 1;
    }
    return true;
}

/* The number of set `from` (NONE: empty) with `added` (NONE: nothing) in it; NONE on failure. */
static uint32_t members_with(struct kl_check_search *s, uint32_t from, uint32_t added)
{
    uint32_t *slot;

    if (s->members_n == s->members_cap) {
        uint32_t cap = s->members_cap == 0 ? 64 : s->members_cap * 2;
        size_t bytes = (size_t)(cap - s->members_cap) * s->member_words * 8u;
        uint64_t *p = NULL;

        if (s->memory + bytes <= s->memory_max) {
            p = kl_realloc(s->members, (size_t)cap * s->member_words * 8u);
            s->out_of_memory = p == NULL;
        }
        if (p == NULL) {
            return NONE;
        }
        s->memory += bytes;
        s->members = p;
        s->members_cap = cap;
    }
    if (s->members_n * 2 >= s->member_slots_n && !members_rehash(s)) {
        return NONE;
    }
    memset(member_bits(s, s->members_n), 0, s->member_words * 8u);
    if (from != NONE) {
        memcpy(member_bits(s, s->members_n), member_bits(s, from), s->member_words * 8u);
    }
    if (added != NONE) {
        member_bits(s, s->members_n)[added / 64] |= 1ULL << (added % 64);
    }
    slot = member_slot(s, member_bits(s, s->members_n));
    if (*slot == 0) {
        *slot = ++s->members_n;
    }
    return *slot - 1;
}

static bool is_member(const struct kl_check_search *s, uint32_t id, uint32_t set)
{
    return (member_bits(s, id)[set / 64] >> (set % 64) & 1) != 0;
}

/* ---- the model ---- */

/* A set creates or adds a version; on a deleted name it is refused. */
static bool step_set(struct kl_check_search *s, uint32_t i, struct kl_check_state *to)
{
    const struct kl_check_op *o = &s->ops[i];
    bool refuse = s->now.phase == KL_CHECK_DELETED;

    if (o->known && (o->status == KL_DELETED) != refuse) {
        return false;
    }
    if (refuse) {
        return true;
    }
    to->members = members_with(s, s->now.members, i);
    to->phase = KL_CHECK_LIVE;
    to->current = i;
    return to->members != NONE;
}

/* An operation that needs the object in one phase and answers NOT_FOUND in the others. */
static bool step_other(struct kl_check_search *s, uint32_t i, struct kl_check_state *to)
{
    const struct kl_check_op *o = &s->ops[i];
    bool deleted = o->kind == KL_HISTORY_RECOVER || o->kind == KL_HISTORY_PURGE ||
                   o->kind == KL_HISTORY_GET_DELETED;
    bool found = s->now.phase == (deleted ? KL_CHECK_DELETED : KL_CHECK_LIVE);

    if (o->kind == KL_HISTORY_GET_VERSION) {
        found = found && o->what != NONE && is_member(s, s->now.members, o->what);
    }
    if (o->known && (o->status == KL_OK) != found) {
        return false;
    }
    if (!found) {
        return true;
    }
    if (o->known && o->kind != KL_HISTORY_GET_VERSION && o->what != NONE &&
        o->what != s->now.current) {
        return false; /* another version is current than the one answered */
    }
    if (o->kind == KL_HISTORY_DELETE) {
        to->phase = KL_CHECK_DELETED;
        to->deleter = i;
    } else if (o->kind == KL_HISTORY_RECOVER) {
        to->phase = KL_CHECK_LIVE;
        to->deleter = NONE;
    } else if (o->kind == KL_HISTORY_PURGE) {
        *to = (struct kl_check_state){KL_CHECK_ABSENT, NONE, 0, NONE};
    }
    return true;
}

/* May operation i take effect now, and what is the state then? */
static bool step(struct kl_check_search *s, uint32_t i, struct kl_check_state *to)
{
    const struct kl_check_op *o = &s->ops[i];

    *to = s->now;
    if (o->expire) {
        if (s->now.phase == KL_CHECK_DELETED && s->now.deleter == o->target) {
            *to = (struct kl_check_state){KL_CHECK_ABSENT, NONE, 0, NONE};
        }
        return true;
    }
    return o->kind == KL_HISTORY_SET ? step_set(s, i, to) : step_other(s, i, to);
}

/* ---- remembered configurations ---- */

/*
 * A configuration as words: the state, how many leading words of known operations are all done,
 * the words of known operations from there to the last that is not empty, their number, and the
 * words of the unknown ones. Within a long history this is short.
 */
static size_t encode(struct kl_check_search *s)
{
    uint64_t *p = s->scratch;
    uint32_t lo = 0;
    uint32_t hi = s->known_words;
    uint32_t unknown = s->unknown_words;
    size_t n = 0;

    while (lo < s->known_words && s->done_known[lo] == UINT64_MAX) {
        lo++;
    }
    while (hi > lo && s->done_known[hi - 1] == 0) {
        hi--;
    }
    while (unknown > 0 && s->done_unknown[unknown - 1] == 0) {
        unknown--;
    }
    p[n++] = (uint64_t)s->now.phase << 32 | s->now.current;
    p[n++] = (uint64_t)s->now.members << 32 | s->now.deleter;
    p[n++] = (uint64_t)lo << 32 | (hi - lo);
    p[n++] = unknown;
    memcpy(p + n, s->done_known + lo, (hi - lo) * 8u);
    n += hi - lo;
    memcpy(p + n, s->done_unknown, unknown * 8u);
    return n + unknown;
}

static size_t record_len(const uint64_t *p)
{
    return 4 + (size_t)(uint32_t)p[2] + (size_t)p[3];
}

static uint64_t *seen_slot(const struct kl_check_search *s, const uint64_t *record, size_t n)
{
    size_t i = (size_t)hash_words(record, n) & (s->seen_slots_n - 1);

    for (; s->seen_slots[i] != 0; i = (i + 1) & (s->seen_slots_n - 1)) {
        const uint64_t *p = s->seen + s->seen_slots[i] - 1;

        if (record_len(p) == n && memcmp(p, record, n * 8) == 0) {
            break;
        }
    }
    return &s->seen_slots[i];
}

static bool seen_rehash(struct kl_check_search *s)
{
    size_t n = s->seen_slots_n == 0 ? 1024 : s->seen_slots_n * 2;
    uint64_t *slots;

    if (s->memory + n * 8 > s->memory_max) {
        return false;
    }
    slots = kl_calloc(n, sizeof *slots);
    if (slots == NULL) {
        s->out_of_memory = true;
        return false;
    }
    s->memory += n * 8 - s->seen_slots_n * 8;
    kl_free(s->seen_slots);
    s->seen_slots = slots;
    s->seen_slots_n = n;
    for (size_t at = 0; at < s->seen_n; at += record_len(s->seen + at)) {
        *seen_slot(s, s->seen + at, record_len(s->seen + at)) = at + 1;
    }
    return true;
}

enum seen { SEEN_OLD, SEEN_NEW, SEEN_FULL };

/* Remembers the present configuration. */
static enum seen remember(struct kl_check_search *s)
{
    size_t n = encode(s);
    uint64_t *slot;

    if (s->seen_count * 2 >= s->seen_slots_n && !seen_rehash(s)) {
        return SEEN_FULL;
    }
    slot = seen_slot(s, s->scratch, n);
    if (*slot != 0) {
        return SEEN_OLD;
    }
    if (!grow(s, (void **)&s->seen, s->seen_n + n, &s->seen_cap, 8)) {
        return SEEN_FULL;
    }
    memcpy(s->seen + s->seen_n, s->scratch, n * 8);
    *slot = s->seen_n + 1;
    s->seen_n += n;
    s->seen_count++;
    return SEEN_NEW;
}

/* ---- the search ---- */

static void flip(struct kl_check_search *s, uint32_t i)
{
    if (i < s->known_n) {
        s->done_known[i / 64] ^= 1ULL << (i % 64);
    } else {
        s->done_unknown[(i - s->known_n) / 64] ^= 1ULL << ((i - s->known_n) % 64);
    }
}

static bool is_done(const struct kl_check_search *s, uint32_t i)
{
    if (i < s->known_n) {
        return (s->done_known[i / 64] >> (i % 64) & 1) != 0;
    }
    return (s->done_unknown[(i - s->known_n) / 64] >> ((i - s->known_n) % 64) & 1) != 0;
}

static void unlink_node(struct kl_check_search *s, uint32_t n)
{
    s->nodes[s->nodes[n].prev].next = s->nodes[n].next;
    s->nodes[s->nodes[n].next].prev = s->nodes[n].prev;
}

static void relink_node(struct kl_check_search *s, uint32_t n)
{
    s->nodes[s->nodes[n].prev].next = n;
    s->nodes[s->nodes[n].next].prev = n;
}

static void push(struct kl_check_search *s, uint32_t i, const struct kl_check_state *to)
{
    s->stack[s->depth++] = (struct kl_check_frame){i, s->now};
    s->now = *to;
    if (i < s->known_n) {
        unlink_node(s, s->call[i]);
        unlink_node(s, s->ret[i]);
    }
}

static uint32_t pop(struct kl_check_search *s)
{
    uint32_t i = s->stack[--s->depth].op;

    s->now = s->stack[s->depth].before;
    flip(s, i);
    if (i < s->known_n) {
        relink_node(s, s->ret[i]);
        relink_node(s, s->call[i]);
    }
    return i;
}

/* The next candidate after operation `after` (NONE: the first): known calls before the first
 * return, then unknown ones invoked by then. Known ones first, for a guess at what never happened
 * is only needed when the rest does not fit. NONE when there is none. */
static uint32_t next_candidate(const struct kl_check_search *s, uint32_t after)
{
    uint32_t n = s->nodes[0].next;
    uint32_t i = after;

    if (after == NONE || after < s->known_n) {
        n = after == NONE ? n : s->nodes[s->call[after]].next;
        if (!s->nodes[n].is_return) {
            return s->nodes[n].op;
        }
        i = s->known_n - 1; /* known_n > 0: there is a return */
    }
    while (s->nodes[n].next != 0 && !s->nodes[n].is_return) {
        n = s->nodes[n].next;
    }
    for (i++; i < s->ops_n && s->ops[i].invoked_us <= s->nodes[n].at_us; i++) {
        if (!is_done(s, i)) {
            return i;
        }
    }
    return NONE;
}

/* The operation whose answer ends the list of candidates: the one that must be explained next. */
static uint32_t first_return(const struct kl_check_search *s)
{
    uint32_t n = s->nodes[0].next;

    while (!s->nodes[n].is_return) {
        n = s->nodes[n].next;
    }
    return s->nodes[n].op;
}

/* Tries to let operation i take effect now. */
static enum seen try_op(struct kl_check_search *s, uint32_t i)
{
    struct kl_check_state to;
    struct kl_check_state before = s->now;
    enum seen seen;
    bool legal = step(s, i, &to);

    s->steps++;
    if (to.members == NONE) {
        return SEEN_FULL; /* no room for another set of versions */
    }
    if (!legal || (i >= s->known_n && memcmp(&to, &s->now, sizeof to) == 0)) {
        return SEEN_OLD; /* refused, or an unknown one that would change nothing */
    }
    flip(s, i);
    s->now = to;
    seen = remember(s);
    s->now = before;
    if (seen != SEEN_NEW) {
        flip(s, i);
        return seen;
    }
    push(s, i, &to);
    return SEEN_NEW;
}

enum kl_check_verdict kl_check_search_run(struct kl_check_search *s)
{
    uint32_t after = NONE;

    while (s->nodes[0].next != 0) {
        uint32_t i = next_candidate(s, after);
        enum seen seen;

        if (i == NONE) {
            if (s->depth >= s->best_depth) {
                s->best_depth = s->depth;
                s->stuck = first_return(s);
            }
            if (s->depth == 0) {
                return KL_CHECK_VIOLATION;
            }
            after = pop(s);
            continue;
        }
        seen = try_op(s, i);
        if (seen == SEEN_FULL || s->steps > s->steps_max) {
            s->stuck = first_return(s);
            return KL_CHECK_UNDECIDED;
        }
        after = seen == SEEN_NEW ? NONE : i;
    }
    return KL_CHECK_LINEARIZABLE;
}

bool kl_check_search_init(struct kl_check_search *s)
{
    s->known_words = (s->known_n + 63) / 64;
    s->unknown_words = (s->ops_n - s->known_n + 63) / 64;
    s->member_words = (s->ops_n + 63) / 64 + 1;
    s->done_known = kl_calloc(s->known_words + 1u, 8);
    s->done_unknown = kl_calloc(s->unknown_words + 1u, 8);
    s->scratch = kl_calloc(4u + s->known_words + s->unknown_words, 8);
    s->stack = kl_calloc(s->ops_n + 1u, sizeof *s->stack);
    s->now = (struct kl_check_state){KL_CHECK_ABSENT, NONE, 0, NONE};
    s->stuck = NONE;
    if (s->done_known == NULL || s->done_unknown == NULL || s->scratch == NULL ||
        s->stack == NULL || members_with(s, NONE, NONE) != 0) {
        s->out_of_memory = true;
        return false;
    }
    return true;
}

void kl_check_search_done(struct kl_check_search *s)
{
    kl_free(s->ops);
    kl_free(s->nodes);
    kl_free(s->call);
    kl_free(s->ret);
    kl_free(s->done_known);
    kl_free(s->done_unknown);
    kl_free(s->stack);
    kl_free(s->members);
    kl_free(s->member_slots);
    kl_free(s->seen);
    kl_free(s->seen_slots);
    kl_free(s->scratch);
    *s = (struct kl_check_search){.ops = NULL};
}
