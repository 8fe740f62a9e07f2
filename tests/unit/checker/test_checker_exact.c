/* The checker against the definition: small random histories, every order tried one by one. */
#include "tests/lib/checker.h"
#include "tests/lib/test.h"

enum { OPS = 7, ROUNDS = 4000, VALUES = 10 };

/* The object, written down once more and as plainly as possible. */
struct object {
    int phase; /* 0 absent, 1 live, 2 deleted */
    int current;
    bool has[VALUES];
    size_t deleter;
    bool deleter_known;
};

struct plain {
    struct kl_history_op op;
    int value; /* written, read or asked for; -1 none */
    bool is_expire;
    size_t of; /* the delete that this ends */
};

/* Lets the operation happen; false when its answer would be another. */
static bool happen(struct object *o, const struct plain *p, size_t number)
{
    bool ok = p->op.status == KL_OK;
    bool known = p->op.outcome == KL_HISTORY_DONE;

    if (p->is_expire) {
        if (o->phase == 2 && o->deleter_known && o->deleter == p->of) {
            *o = (struct object){.phase = 0};
        }
        return true;
    }
    switch (p->op.kind) {
    case KL_HISTORY_SET:
        if (o->phase == 2) {
            return !known || p->op.status == KL_DELETED;
        }
        o->phase = 1;
        o->current = p->value;
        o->has[p->value] = true;
        return !known || ok;
    case KL_HISTORY_GET:
        return o->phase == 1 ? ok && o->current == p->value : !ok;
    case KL_HISTORY_GET_VERSION:
        return o->phase == 1 && o->has[p->value] ? ok : !ok;
    case KL_HISTORY_DELETE:
        if (o->phase != 1) {
            return !known || !ok;
        }
        o->phase = 2;
        o->deleter = number;
        o->deleter_known = true;
        return !known || ok;
    case KL_HISTORY_RECOVER:
        if (o->phase != 2) {
            return !known || !ok;
        }
        o->phase = 1;
        return !known || ok;
    case KL_HISTORY_PURGE:
        if (o->phase != 2) {
            return !known || !ok;
        }
        *o = (struct object){.phase = 0};
        return !known || ok;
    default:
        return o->phase == 2 ? ok : !ok;
    }
}

/* Is there an order? left: bits of operations that have not happened yet. */
static bool order_exists(const struct plain *ops, size_t n, unsigned left, const struct object *o)
{
    bool open = false;

    for (size_t i = 0; i < n; i++) {
        open = open || ((left >> i & 1) != 0 && ops[i].op.outcome == KL_HISTORY_DONE);
    }
    if (!open) {
        return true;
    }
    for (size_t i = 0; i < n; i++) {
        struct object next = *o;
        bool first = true;

        for (size_t j = 0; j < n; j++) {
            if ((left >> j & 1) != 0 && ops[j].op.returned_us < ops[i].op.invoked_us) {
                first = false;
            }
        }
        if ((left >> i & 1) != 0 && first && happen(&next, &ops[i], i) &&
            order_exists(ops, n, left & ~(1u << i), &next)) {
            return true;
        }
    }
    return false;
}

static void value_text(int v, char out[16])
{
    (void)snprintf(out, 16, "v%d", v);
}

/* Draws an operation: what really happened at a random moment, or now and then something else. */
static void draw(uint64_t *s, struct object *o, size_t i, int *values, uint64_t now,
                 struct plain *p)
{
    static const enum kl_history_kind kinds[] = {
        KL_HISTORY_SET,    KL_HISTORY_SET,     KL_HISTORY_GET,   KL_HISTORY_GET_VERSION,
        KL_HISTORY_DELETE, KL_HISTORY_RECOVER, KL_HISTORY_PURGE, KL_HISTORY_GET_DELETED};
    bool live = o->phase == 1;
    bool done = test_random(s) % 6 != 0;

    *p = (struct plain){.value = -1};
    p->op.kind = kinds[test_random(s) % 8];
    p->op.outcome = done ? KL_HISTORY_DONE : KL_HISTORY_UNKNOWN;
    p->op.invoked_us = now - test_random(s) % 25;
    p->op.returned_us = done ? now + test_random(s) % 25 : KL_HISTORY_NEVER;
    p->op.status = p->op.kind == KL_HISTORY_SET      ? (o->phase == 2 ? KL_DELETED : KL_OK)
                   : p->op.kind <= KL_HISTORY_DELETE ? (live ? KL_OK : KL_NOT_FOUND)
                                                     : (o->phase == 2 ? KL_OK : KL_NOT_FOUND);
    if (p->op.kind == KL_HISTORY_SET) {
        p->value = (*values)++;
    } else if (p->op.kind == KL_HISTORY_GET_VERSION) {
        p->value = *values == 0 ? 0 : (int)(test_random(s) % (uint64_t)*values);
        p->op.status = live && o->has[p->value] ? KL_OK : KL_NOT_FOUND;
    } else if (p->op.kind == KL_HISTORY_GET && live) {
        p->value = o->current;
    }
    if (done || test_random(s) % 2 == 0) {
        (void)happen(o, p, i);
    }
    if (done && test_random(s) % 12 == 0 && p->op.kind != KL_HISTORY_SET) { /* a wrong answer */
        p->op.status = p->op.status == KL_OK ? KL_NOT_FOUND : KL_OK;
        if (p->op.kind == KL_HISTORY_GET) {
            p->value = p->op.status == KL_OK && *values > 0 ? 0 : -1;
        }
    }
}

static void record(struct kl_history *h, const struct plain *p)
{
    char v[16] = "";
    char w[16] = "";
    bool set = p->op.kind == KL_HISTORY_SET;
    bool ask = p->op.kind == KL_HISTORY_GET_VERSION;
    size_t op;

    if (p->value >= 0) {
        value_text(p->value, v);
        (void)snprintf(w, sizeof w, "w%d", p->value);
    }
    CHECK_OK(kl_history_invoke(h, 1, p->op.kind, "db", set ? v : NULL, set || ask ? w : NULL,
                               p->op.invoked_us, &op));
    if (p->op.outcome == KL_HISTORY_DONE) {
        bool found = p->op.status == KL_OK && p->value >= 0;

        CHECK_OK(kl_history_return(h, op, p->op.status, found ? v : NULL, found ? w : NULL,
                                   p->op.returned_us));
    }
}

/* Draws a whole history, both as plain operations and recorded. */
static void draw_history(uint64_t *s, struct plain ops[OPS], struct kl_history *h)
{
    struct object o = {.phase = 0};
    int values = 0;

    for (size_t i = 0; i < OPS; i++) {
        draw(s, &o, i, &values, 100 + i * 10, &ops[i]);
        if (ops[i].op.kind == KL_HISTORY_GET && ops[i].op.status == KL_OK && ops[i].value < 0) {
            ops[i].op.status = KL_NOT_FOUND; /* there is no value yet to be wrong about */
        }
        if (ops[i].op.kind == KL_HISTORY_GET_VERSION && values == 0) {
            ops[i].op.kind = KL_HISTORY_GET_DELETED;
            ops[i].op.status = KL_NOT_FOUND;
            ops[i].value = -1;
        }
        record(h, &ops[i]);
    }
}

/* Adds the ends by retention of all deletions that may have happened. */
static size_t add_expiries(struct plain ops[2 * OPS], uint64_t retention_us)
{
    size_t n = OPS;

    for (size_t i = 0; i < OPS && retention_us != 0; i++) {
        if (ops[i].op.kind == KL_HISTORY_DELETE &&
            (ops[i].op.status == KL_OK || ops[i].op.outcome == KL_HISTORY_UNKNOWN)) {
            ops[n] = (struct plain){.is_expire = true, .of = i, .value = -1};
            ops[n].op.outcome = KL_HISTORY_UNKNOWN;
            ops[n].op.invoked_us = ops[i].op.invoked_us + retention_us;
            ops[n++].op.returned_us = KL_HISTORY_NEVER;
        }
    }
    return n;
}

/* The checker's verdict equals that of the definition, for histories with lost answers, wrong
 * answers and deletions that end by themselves. */
TEST(checker, equals_the_definition)
{
    uint64_t s = test_seed();
    unsigned verdicts[3] = {0, 0, 0};

    for (int round = 0; round < ROUNDS; round++) {
        struct plain ops[2 * OPS];
        struct object start = {.phase = 0};
        struct kl_history h;
        struct kl_check_result r;
        size_t n;
        bool expected;

        kl_history_init(&h);
        h.retention_us = test_random(&s) % 2 == 0 ? 0 : 30;
        draw_history(&s, ops, &h);
        n = add_expiries(ops, h.retention_us);
        expected = order_exists(ops, n, (1u << n) - 1, &start);
        CHECK_OK(kl_check_history(&h, NULL, &r));
        if ((r.verdict == KL_CHECK_LINEARIZABLE) != expected) {
            CHECK_OK(kl_history_write(&h, stderr));
            fail_msg("round %d: the checker says %s", round, kl_check_verdict_name(r.verdict));
        }
        verdicts[r.verdict]++;
        kl_history_done(&h);
    }
    CHECK_EQ(verdicts[KL_CHECK_UNDECIDED], 0);
    CHECK(verdicts[KL_CHECK_LINEARIZABLE] > ROUNDS / 20);
    CHECK(verdicts[KL_CHECK_VIOLATION] > ROUNDS / 20);
}
