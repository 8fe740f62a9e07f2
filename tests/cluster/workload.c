#include "tests/cluster/workload.h"

#include "tests/cluster/harness.h"
#include "tests/lib/checker.h"
#include "tests/lib/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { THREADS_MAX = 32, WORD_LEN = 64, VERSIONS_KEPT = 8, LINE_LEN = 512 };

struct worker {
    struct workload *w;
    pthread_t thread;
    uint32_t id;
    uint64_t random;
    uint64_t written;
    /* Versions this worker was told of lately, to be asked for again. */
    char version_name[VERSIONS_KEPT][WORD_LEN];
    char version[VERSIONS_KEPT][WORD_LEN];
    unsigned versions_n;
};

struct workload {
    struct workload_options o;
    struct worker workers[THREADS_MAX];
    atomic_bool stop;
    uint64_t started_us;
    pthread_mutex_t lock; /* guards what follows */
    struct kl_history history;
    struct workload_result r;
    uint64_t last_write_us;
};

struct op {
    enum kl_history_kind kind;
    char name[WORD_LEN];
    char value[WORD_LEN];
    char version[WORD_LEN];
};

static void choose(struct worker *k, struct op *op)
{
    static const enum kl_history_kind mix[] = {
        KL_HISTORY_SET,         KL_HISTORY_SET,     KL_HISTORY_SET,     KL_HISTORY_GET,
        KL_HISTORY_GET,         KL_HISTORY_GET,     KL_HISTORY_GET,     KL_HISTORY_GET_VERSION,
        KL_HISTORY_DELETE,      KL_HISTORY_RECOVER, KL_HISTORY_RECOVER, KL_HISTORY_PURGE,
        KL_HISTORY_GET_DELETED,
    };
    const struct workload_options *o = &k->w->o;
    unsigned long long number;
    uint64_t round = 0;

    *op = (struct op){.kind = mix[test_random(&k->random) % (sizeof mix / sizeof mix[0])]};
    if (o->round_ms != 0) {
        round = (harness_now_us() - k->w->started_us) / 1000u / o->round_ms;
    }
    number = test_random(&k->random) % o->names;
    (void)snprintf(op->name, sizeof op->name, "r%llu-s%llu", (unsigned long long)round, number);
    if (o->keep_even && number % 2 == 0 && op->kind != KL_HISTORY_GET_VERSION) {
        op->kind = test_random(&k->random) % 2 == 0 ? KL_HISTORY_SET : KL_HISTORY_GET;
    }
    if (op->kind == KL_HISTORY_SET) {
        (void)snprintf(op->value, sizeof op->value, "c%u-%llu", k->id,
                       (unsigned long long)++k->written);
    }
    if (op->kind == KL_HISTORY_GET_VERSION) {
        unsigned i =
            k->versions_n == 0
                ? 0
                : (unsigned)(test_random(&k->random) %
                             (k->versions_n < VERSIONS_KEPT ? k->versions_n : VERSIONS_KEPT));

        if (k->versions_n == 0) {
            op->kind = KL_HISTORY_GET;
        } else {
            memcpy(op->name, k->version_name[i], sizeof op->name);
            memcpy(op->version, k->version[i], sizeof op->version);
        }
    }
}

static enum kluis_status call(struct worker *k, const struct op *op, struct kluis_secret **out)
{
    const struct workload_options *o = &k->w->o;
    struct kluis_client *c = o->client;

    switch (op->kind) {
    case KL_HISTORY_SET:
        return kluis_secret_set(c, o->vault, op->name, op->value, strlen(op->value), NULL,
                                o->timeout_ms, out);
    case KL_HISTORY_GET:
        return kluis_secret_get(c, o->vault, op->name, NULL, o->timeout_ms, out);
    case KL_HISTORY_GET_VERSION:
        return kluis_secret_get(c, o->vault, op->name, op->version, o->timeout_ms, out);
    case KL_HISTORY_DELETE:
        return kluis_secret_delete(c, o->vault, op->name, o->timeout_ms, out);
    case KL_HISTORY_RECOVER:
        return kluis_secret_recover(c, o->vault, op->name, o->timeout_ms, out);
    case KL_HISTORY_PURGE:
        return kluis_secret_purge(c, o->vault, op->name, o->timeout_ms);
    case KL_HISTORY_GET_DELETED:
        return kluis_secret_get_deleted(c, o->vault, op->name, o->timeout_ms, out);
    default:
        return KLUIS_INTERNAL;
    }
}

static bool is_read(enum kl_history_kind kind)
{
    return kind == KL_HISTORY_GET || kind == KL_HISTORY_GET_VERSION ||
           kind == KL_HISTORY_GET_DELETED;
}

/* An answer that tells what the service decided, as the model knows it. */
static bool decided(enum kluis_status st)
{
    return st == KLUIS_OK || st == KLUIS_NOT_FOUND || st == KLUIS_DELETED;
}

static void remember_version(struct worker *k, const struct op *op, const struct kluis_secret *s)
{
    unsigned i = k->versions_n++ % VERSIONS_KEPT;

    memcpy(k->version_name[i], op->name, sizeof op->name);
    (void)snprintf(k->version[i], sizeof k->version[i], "%s", s->version);
}

static void note_write(struct workload *w, uint64_t now)
{
    w->r.writes_acknowledged++;
    if (w->last_write_us != 0 && now > w->last_write_us + w->r.longest_gap_us) {
        w->r.longest_gap_us = now - w->last_write_us;
    }
    w->last_write_us = now > w->last_write_us ? now : w->last_write_us;
}

/* What ended without an effect is no operation of a history; it is there for who counts failures. */
static void stream(struct workload *w, size_t index, enum kluis_status st)
{
    const struct kl_history_op *op = &w->history.ops[index];
    char line[LINE_LEN];

    kl_history_line(&w->history, index, line, sizeof line);
    (void)fprintf(w->o.stream, "%s%s\n", op->outcome == KL_HISTORY_FAILED ? "# " : "", line);
    if (op->outcome != KL_HISTORY_DONE) {
        (void)fprintf(w->o.stream, "# failed %u %s %llu %llu %s\n", op->client,
                      kl_history_kind_name(op->kind), (unsigned long long)op->invoked_us,
                      (unsigned long long)harness_now_us(), kluis_status_name(st));
    }
    (void)fflush(w->o.stream);
}

static void note(struct worker *k, const struct op *op, size_t index, enum kluis_status st,
                 const struct kluis_secret *s)
{
    struct workload *w = k->w;
    char value[WORD_LEN] = "";
    uint64_t now = harness_now_us();
    const char *version = NULL;

    if (s != NULL && s->value != NULL) {
        (void)snprintf(value, sizeof value, "%.*s", (int)s->value_len, (const char *)s->value);
    }
    if (s != NULL && (op->kind == KL_HISTORY_SET || is_read(op->kind)) && s->version[0] != 0 &&
        op->kind != KL_HISTORY_GET_DELETED) {
        version = s->version;
    }
    (void)pthread_mutex_lock(&w->lock);
    if (decided(st)) {
        CHECK_OK(kl_history_return(&w->history, index, (enum kl_status)st,
                                   value[0] == 0 ? NULL : value, version, now));
        w->r.ok += st == KLUIS_OK;
        w->r.refused += st != KLUIS_OK;
        if (st == KLUIS_OK && !is_read(op->kind)) {
            note_write(w, now);
        }
    } else {
        if (w->r.failed++ == 0) {
            (void)snprintf(w->r.first_failure, sizeof w->r.first_failure, "%s of %s: %s: %s",
                           kl_history_kind_name(op->kind), op->name, kluis_status_name(st),
                           kluis_last_error());
        }
        if (is_read(op->kind) || st == KLUIS_EXPIRED) {
            kl_history_fail(&w->history, index); /* certainly without effect */
        } else {
            w->r.unknown++;
        }
    }
    if (w->o.stream != NULL) {
        stream(w, index, st);
    }
    (void)pthread_mutex_unlock(&w->lock);
}

static void *work(void *arg)
{
    struct worker *k = arg;
    struct workload *w = k->w;

    while (!atomic_load(&w->stop)) {
        struct kluis_secret *s = NULL;
        uint64_t begun_us = harness_now_us();
        uint64_t took_us;
        enum kluis_status st;
        struct op op;
        size_t index = 0;

        choose(k, &op);
        (void)pthread_mutex_lock(&w->lock);
        CHECK_OK(kl_history_invoke(
            &w->history, k->id, op.kind, op.name, op.value[0] == 0 ? NULL : op.value,
            op.version[0] == 0 ? NULL : op.version, harness_now_us(), &index));
        (void)pthread_mutex_unlock(&w->lock);
        st = call(k, &op, &s);
        note(k, &op, index, st, s);
        if (st == KLUIS_OK && op.kind == KL_HISTORY_SET && s != NULL) {
            remember_version(k, &op, s);
        }
        kluis_secret_free(s);
        took_us = harness_now_us() - begun_us;
        if (took_us < w->o.pace_ms * 1000ULL) {
            harness_sleep_ms((unsigned)(w->o.pace_ms - took_us / 1000u));
        }
    }
    return NULL;
}

struct workload *workload_start(const struct workload_options *o)
{
    struct workload *w = calloc(1, sizeof *w);

    assert_non_null(w);
    assert_true(o->threads >= 1 && o->threads <= THREADS_MAX);
    w->o = *o;
    w->started_us = harness_now_us();
    kl_history_init(&w->history);
    (void)pthread_mutex_init(&w->lock, NULL);
    for (unsigned i = 0; i < o->threads; i++) {
        struct worker *k = &w->workers[i];

        k->w = w;
        k->id = o->first_client + i + 1;
        k->random = (o->seed + i) * 2654435761u | 1u;
        assert_int_equal(pthread_create(&k->thread, NULL, work, k), 0);
    }
    return w;
}

void workload_reset_gap(struct workload *w)
{
    (void)pthread_mutex_lock(&w->lock);
    w->last_write_us = harness_now_us(); /* a gap counts from here, also before the next write */
    w->r.longest_gap_us = 0;
    (void)pthread_mutex_unlock(&w->lock);
}

uint64_t workload_longest_gap_us(struct workload *w)
{
    uint64_t now = harness_now_us();
    uint64_t gap;

    (void)pthread_mutex_lock(&w->lock);
    gap = w->r.longest_gap_us;
    if (w->last_write_us != 0 && now > w->last_write_us + gap) {
        gap = now - w->last_write_us; /* it is not over yet */
    }
    (void)pthread_mutex_unlock(&w->lock);
    return gap;
}

uint64_t workload_acknowledged(struct workload *w)
{
    uint64_t n;

    (void)pthread_mutex_lock(&w->lock);
    n = w->r.writes_acknowledged;
    (void)pthread_mutex_unlock(&w->lock);
    return n;
}

bool workload_progress(struct workload *w, uint64_t more)
{
    uint64_t target = workload_acknowledged(w) + more;

    for (unsigned i = 0; i < 1500 && workload_acknowledged(w) < target; i++) {
        harness_sleep_ms(20);
    }
    return workload_acknowledged(w) >= target;
}

static void check(struct workload *w, const char *dump)
{
    struct kl_check_result result;
    enum kl_status st = kl_check_history(&w->history, NULL, &result);

    w->r.linearizable = st == KL_OK && result.verdict == KL_CHECK_LINEARIZABLE;
    if (!w->r.linearizable) {
        (void)snprintf(w->r.violation, sizeof w->r.violation, "%s %s: %.1800s",
                       kl_check_verdict_name(result.verdict), result.name, result.text);
    }
    if (!w->r.linearizable && dump != NULL) {
        FILE *f = fopen(dump, "w");

        if (f == NULL || kl_history_write(&w->history, f) != KL_OK) {
            (void)fprintf(stderr, "workload: %s cannot be written\n", dump);
        }
        if (f != NULL) {
            (void)fclose(f);
        }
    }
}

void workload_stop(struct workload *w, const char *dump, struct workload_result *out)
{
    atomic_store(&w->stop, true);
    for (unsigned i = 0; i < w->o.threads; i++) {
        (void)pthread_join(w->workers[i].thread, NULL);
    }
    if (w->o.stream == NULL) {
        check(w, dump);
    }
    *out = w->r;
    kl_history_done(&w->history);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}
