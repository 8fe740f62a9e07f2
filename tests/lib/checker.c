#include "tests/lib/checker_search.h"

#include "common/alloc.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_DEFAULT  50000000u
#define MEMORY_DEFAULT ((size_t)256 << 20)
#define NONE           KL_CHECK_NONE

enum { EXPLAIN_OPS = 14 };

/* What a whole history says of its words, by word number; 0 and NONE: nothing. */
struct words {
    uint32_t *writer;        /* operation (number + 1) that set the value */
    uint32_t *version_value; /* value that goes with a version */
    uint32_t *value_version; /* version that goes with a value */
    uint32_t *index;         /* number in the search, by operation of the history */
};

static void words_done(struct words *w)
{
    kl_free(w->writer);
    kl_free(w->version_value);
    kl_free(w->value_version);
    kl_free(w->index);
}

static bool words_init(struct words *w, const struct kl_history *h)
{
    w->writer = kl_calloc(h->words_n + 1u, sizeof *w->writer);
    w->version_value = kl_calloc(h->words_n + 1u, sizeof *w->version_value);
    w->value_version = kl_calloc(h->words_n + 1u, sizeof *w->value_version);
    w->index = kl_calloc(h->ops_n + 1, sizeof *w->index);
    return w->writer != NULL && w->version_value != NULL && w->value_version != NULL &&
           w->index != NULL;
}

static bool answered(const struct kl_history_op *o)
{
    return o->outcome == KL_HISTORY_DONE;
}

/* A version holds one value for ever, and a value was written once, so it has one version. */
static bool tie(const struct kl_history *h, const struct kl_history_op *o, struct words *w,
                struct kl_check_result *out)
{
    uint32_t *value = &w->version_value[o->version];
    uint32_t *version = &w->value_version[o->value];

    if (o->value == 0 || o->version == 0) {
        return true;
    }
    if ((*value != 0 && *value != o->value) || (*version != 0 && *version != o->version)) {
        out->verdict = KL_CHECK_VIOLATION;
        (void)snprintf(out->name, sizeof out->name, "%s", kl_history_text(h, o->name));
        (void)snprintf(out->text, sizeof out->text,
                       "value %s came with version %s, but that value's version is %s and that "
                       "version's value is %s\n",
                       kl_history_text(h, o->value), kl_history_text(h, o->version),
                       kl_history_text(h, *version), kl_history_text(h, *value));
        return false;
    }
    *value = o->value;
    *version = o->version;
    return true;
}

/* Learns who wrote which value; false: a violation that needs no search, or a bad history. */
static enum kl_status learn(const struct kl_history *h, struct words *w,
                            struct kl_check_result *out)
{
    for (size_t i = 0; i < h->ops_n; i++) {
        const struct kl_history_op *o = &h->ops[i];

        if (o->outcome == KL_HISTORY_FAILED) {
            continue;
        }
        if (o->kind == KL_HISTORY_SET) {
            if (o->value == 0 || w->writer[o->value] != 0) {
                (void)snprintf(out->text, sizeof out->text,
                               "operation %zu sets no value or one that was set before\n", i);
                return KL_INVALID_ARGUMENT;
            }
            w->writer[o->value] = (uint32_t)i + 1;
        }
        if ((o->kind == KL_HISTORY_SET || (answered(o) && o->status == KL_OK)) &&
            !tie(h, o, w, out)) {
            return KL_OK;
        }
    }
    return KL_OK;
}

/* ---- from a history to a search ---- */

static int op_order(const void *a, const void *b)
{
    const struct kl_check_op *x = a;
    const struct kl_check_op *y = b;

    if (x->known != y->known) {
        return x->known ? -1 : 1;
    }
    if (x->invoked_us != y->invoked_us) {
        return x->invoked_us < y->invoked_us ? -1 : 1;
    }
    return x->source < y->source ? -1 : x->source > y->source;
}

static int node_order(const void *a, const void *b)
{
    const struct kl_check_node *x = a;
    const struct kl_check_node *y = b;

    if (x->at_us != y->at_us) {
        return x->at_us < y->at_us ? -1 : 1;
    }
    if (x->is_return != y->is_return) {
        return x->is_return ? 1 : -1; /* touching intervals overlap: never a false alarm */
    }
    return x->op < y->op ? -1 : x->op > y->op;
}

static bool is_read(enum kl_history_kind kind)
{
    return kind == KL_HISTORY_GET || kind == KL_HISTORY_GET_VERSION ||
           kind == KL_HISTORY_GET_DELETED;
}

/* Does the operation say anything about the object? */
static bool counts(const struct kl_history_op *o, const struct words *w)
{
    if (o->outcome != KL_HISTORY_DONE) {
        return o->outcome == KL_HISTORY_UNKNOWN && !is_read(o->kind);
    }
    if (o->kind == KL_HISTORY_SET) {
        return o->status == KL_OK || o->status == KL_DELETED;
    }
    if (o->kind == KL_HISTORY_GET_VERSION && o->status == KL_NOT_FOUND &&
        w->version_value[o->version] == 0) {
        return false; /* a version nobody ever saw */
    }
    return o->status == KL_OK || o->status == KL_NOT_FOUND;
}

static void collect(const struct kl_history *h, uint32_t name, const struct words *w,
                    struct kl_check_search *s)
{
    for (size_t i = 0; i < h->ops_n; i++) {
        const struct kl_history_op *o = &h->ops[i];

        if (o->name != name || !counts(o, w)) {
            continue;
        }
        s->ops[s->ops_n++] = (struct kl_check_op){.kind = o->kind,
                                                  .known = answered(o),
                                                  .status = o->status,
                                                  .what = NONE,
                                                  .target = NONE,
                                                  .invoked_us = o->invoked_us,
                                                  .returned_us = o->returned_us,
                                                  .source = i};
        s->known_n += answered(o) ? 1 : 0;
        if (o->kind == KL_HISTORY_DELETE && h->retention_us != 0 &&
            (!answered(o) || o->status == KL_OK)) {
            s->ops[s->ops_n++] = (struct kl_check_op){.kind = o->kind,
                                                      .expire = true,
                                                      .what = NONE,
                                                      .target = NONE,
                                                      .invoked_us = o->invoked_us + h->retention_us,
                                                      .returned_us = KL_HISTORY_NEVER,
                                                      .source = i};
        }
    }
    qsort(s->ops, s->ops_n, sizeof *s->ops, op_order);
}

/* Resolves values, versions and deletions to operations of the search. false: what was read was
 * never written under this name (op is that operation). */
static bool resolve(const struct kl_history *h, const struct words *w, struct kl_check_search *s,
                    uint32_t *op)
{
    for (uint32_t i = 0; i < s->ops_n; i++) {
        if (!s->ops[i].expire) {
            w->index[s->ops[i].source] = i + 1;
        }
    }
    for (uint32_t i = 0; i < s->ops_n; i++) {
        struct kl_check_op *o = &s->ops[i];
        const struct kl_history_op *from = &h->ops[o->source];
        uint32_t value = from->value != 0 ? from->value : w->version_value[from->version];

        *op = i;
        if (o->expire) {
            o->target = w->index[o->source] - 1;
        } else if (o->kind != KL_HISTORY_SET && value != 0) {
            uint32_t writer = w->writer[value];

            o->what = NONE;
            if (writer != 0 && h->ops[writer - 1].name == from->name) {
                o->what = w->index[writer - 1] - 1;
            } else if (o->status == KL_OK) {
                return false; /* a version of another name is just not found */
            }
        } else if (o->kind == KL_HISTORY_GET_VERSION && o->status == KL_OK) {
            return false;
        }
    }
    return true;
}

/* The list of calls and returns. */
static void link_nodes(struct kl_check_search *s)
{
    uint32_t n = 1;

    for (uint32_t i = 0; i < s->known_n; i++) {
        s->nodes[n++] =
            (struct kl_check_node){.op = i, .is_return = false, .at_us = s->ops[i].invoked_us};
        s->nodes[n++] =
            (struct kl_check_node){.op = i, .is_return = true, .at_us = s->ops[i].returned_us};
    }
    qsort(s->nodes + 1, n - 1, sizeof *s->nodes, node_order);
    s->nodes[0] = (struct kl_check_node){.next = n > 1 ? 1 : 0, .prev = n - 1};
    for (uint32_t i = 1; i < n; i++) {
        s->nodes[i].prev = i - 1;
        s->nodes[i].next = i + 1 < n ? i + 1 : 0;
        if (s->nodes[i].is_return) {
            s->ret[s->nodes[i].op] = i;
        } else {
            s->call[s->nodes[i].op] = i;
        }
    }
}

static bool allocate(const struct kl_history *h, uint32_t name, struct kl_check_search *s)
{
    size_t n = 0;

    for (size_t i = 0; i < h->ops_n; i++) {
        n += h->ops[i].name == name ? 2 : 0; /* a deletion brings its end with it */
    }
    s->ops = kl_calloc(n + 1, sizeof *s->ops);
    s->nodes = kl_calloc(2 * n + 1, sizeof *s->nodes);
    s->call = kl_calloc(n + 1, sizeof *s->call);
    s->ret = kl_calloc(n + 1, sizeof *s->ret);
    return s->ops != NULL && s->nodes != NULL && s->call != NULL && s->ret != NULL;
}

/* The unexplained operation and what came before it. */
static void explain(const struct kl_history *h, const struct kl_check_search *s, uint32_t op,
                    const char *what, struct kl_check_result *out)
{
    size_t at = 0;
    char line[256];
    uint32_t shown = 0;
    uint64_t until = s->ops[op].returned_us;

    kl_history_line(h, s->ops[op].source, line, sizeof line);
    at += (size_t)snprintf(out->text, sizeof out->text, "%s:\n  %s\n", what, line);
    for (uint32_t i = s->ops_n; i-- > 0 && shown < EXPLAIN_OPS;) {
        const struct kl_check_op *o = &s->ops[i];

        if (i == op || o->expire || o->invoked_us > until || at + 300 > sizeof out->text) {
            continue;
        }
        kl_history_line(h, o->source, line, sizeof line);
        at += (size_t)snprintf(out->text + at, sizeof out->text - at, "%s    %s\n",
                               shown == 0 ? "  the latest before it ended:\n" : "", line);
        shown++;
    }
}

static enum kl_status check_name(const struct kl_history *h, uint32_t name,
                                 const struct kl_check_limits *limits, const struct words *w,
                                 struct kl_check_result *out)
{
    struct kl_check_search s = {
        .steps_max = limits->steps_max == 0 ? STEPS_DEFAULT : limits->steps_max,
        .memory_max = limits->memory_max == 0 ? MEMORY_DEFAULT : limits->memory_max,
    };
    enum kl_status st = KL_NO_MEMORY;
    uint32_t op = 0;

    (void)snprintf(out->name, sizeof out->name, "%s", kl_history_text(h, name));
    if (!allocate(h, name, &s)) {
        goto out;
    }
    collect(h, name, w, &s);
    if (!resolve(h, w, &s, &op)) {
        out->verdict = KL_CHECK_VIOLATION;
        explain(h, &s, op, "what this read was never written under this name", out);
        st = KL_OK;
        goto out;
    }
    link_nodes(&s);
    if (!kl_check_search_init(&s)) {
        goto out;
    }
    out->verdict = kl_check_search_run(&s);
    out->steps += s.steps;
    if (s.out_of_memory) {
        goto out;
    }
    if (out->verdict != KL_CHECK_LINEARIZABLE) {
        explain(h, &s, s.stuck,
                out->verdict == KL_CHECK_VIOLATION
                    ? "no order of the operations explains this answer"
                    : "gave up before an order was found for",
                out);
    }
    st = KL_OK;
out:
    kl_check_search_done(&s);
    return st;
}

enum kl_status kl_check_history(const struct kl_history *h, const struct kl_check_limits *limits,
                                struct kl_check_result *out)
{
    static const struct kl_check_limits none = {0};
    struct kl_check_result undecided = {.verdict = KL_CHECK_LINEARIZABLE};
    struct words w = {NULL, NULL, NULL, NULL};
    uint8_t *looked = kl_calloc(h->words_n + 1u, 1);
    enum kl_status st = KL_NO_MEMORY;

    *out = (struct kl_check_result){.verdict = KL_CHECK_LINEARIZABLE};
    if (looked == NULL || !words_init(&w, h)) {
        goto out;
    }
    st = learn(h, &w, out);
    for (size_t i = 0; st == KL_OK && out->verdict != KL_CHECK_VIOLATION && i < h->ops_n; i++) {
        if (looked[h->ops[i].name] == 0) {
            looked[h->ops[i].name] = 1;
            st = check_name(h, h->ops[i].name, limits == NULL ? &none : limits, &w, out);
            if (out->verdict == KL_CHECK_UNDECIDED) {
                undecided = *out; /* another name may still prove a violation */
            }
        }
    }
    if (st == KL_OK && out->verdict == KL_CHECK_LINEARIZABLE &&
        undecided.verdict == KL_CHECK_UNDECIDED) {
        undecided.steps = out->steps;
        *out = undecided;
    }
out:
    kl_free(looked);
    words_done(&w);
    return st;
}

const char *kl_check_verdict_name(enum kl_check_verdict verdict)
{
    return verdict == KL_CHECK_LINEARIZABLE ? "linearizable"
           : verdict == KL_CHECK_VIOLATION  ? "violation"
                                            : "undecided";
}
