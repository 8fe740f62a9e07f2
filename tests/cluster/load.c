/*
 * Writes under trouble, and the proof that none was lost or done twice.
 *
 *   kluis-load write VAULT LOG [-t THREADS] [-c CLIENTS] [-s SECONDS] [-p PREFIX] [-k NAMES] [-b BYTES]
 *   kluis-load verify VAULT LOG [-t THREADS] [-c CLIENTS]
 *
 * write   THREADS threads set secrets PREFIX-0 ... PREFIX-(NAMES-1) as fast as they are answered,
 *         each set with a value of its own, and note every outcome in LOG. They share CLIENTS
 *         clients (1), each with connections of its own.
 * verify  reads every version of every name in LOG and compares: each acknowledged write is there
 *         exactly once, under the version id that was acknowledged; a write of unknown outcome is
 *         there at most once; nothing else is there.
 *
 * Both read KLUIS_ENDPOINT (host:port, comma-separated), KLUIS_CA_FILE and KLUIS_TOKEN_FILE, print
 * one line "key=value ..." and exit with 0, 1 (a write lost, doubled or strange) or 2 (could not).
 *
 * LOG: a line per write, tab-separated, in order of the threads:
 *   name, id (the beginning of the value), outcome (ok, refused, unknown), version (32 hex digits or
 *   "-"), begin and end in microseconds of the monotonic clock, value length, status
 */
#include "client/include/kluis.h"
#include "common/alloc.h"
#include "common/limits.h"
#include "common/names.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    ID_MAX = 47,
    ID_LEN = 35, /* fixed, so that a value cut short is noticed */
    THREADS_MAX = 512,
    CLIENTS_MAX = 64,
    NAMES_MAX = 1000,
    VALUE_MAX = 25600,
    ENDPOINTS_MAX = 16,
    LINE_LEN = 512,
    LOG_COLUMNS = 8,
    PAGE = 100,
    COMPLAINTS_MAX = 10,
    CALL_TIMEOUT_MS = 30000,
    EXIT_WRONG = 1,
    EXIT_TROUBLE = 2
};

enum outcome { ACKED, REFUSED, UNKNOWN };
static const char *const outcome_text[] = {"ok", "refused", "unknown"};

struct op {
    char name[KL_OBJECT_NAME_MAX + 1];
    char id[ID_MAX + 1];
    char version[KL_ID_HEX_LEN + 1];
    enum outcome outcome;
    enum kluis_status status;
    uint64_t begin_us, end_us;
    size_t value_len;
    unsigned found; /* versions that hold this write */
};

struct ops {
    struct op *v;
    size_t n, cap;
};

struct load {
    struct kluis_client *clients[CLIENTS_MAX];
    const char *vault;
    const char *prefix;
    unsigned threads, clients_n, seconds, names;
    size_t bytes;
    uint64_t run_id; /* of this run: values of two runs differ */
    uint64_t until_us;

    /* verify */
    struct op **sorted; /* by name, then id */
    size_t sorted_n;
    pthread_mutex_t lock; /* guards what follows */
    size_t next;          /* first of `sorted` that nobody has taken */
    uint64_t versions, lost, doubled, strange, unreadable;
    unsigned complaints;
};

struct worker {
    struct load *load;
    unsigned number;
    struct ops ops;
    pthread_t thread;
};

static struct kluis_client *client_of(const struct worker *w)
{
    return w->load->clients[w->number % w->load->clients_n];
}

static uint64_t now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void complain(struct load *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

static struct op *ops_add(struct ops *ops)
{
    if (ops->n == ops->cap) {
        size_t cap = ops->cap == 0 ? 4096 : ops->cap * 2;
        struct op *v = kl_realloc(ops->v, cap * sizeof *v);

        if (v == NULL) {
            (void)fprintf(stderr, "kluis-load: out of memory\n");
            exit(EXIT_TROUBLE);
        }
        ops->v = v;
        ops->cap = cap;
    }
    ops->v[ops->n] = (struct op){.name = ""};
    return &ops->v[ops->n++];
}

/* The first COMPLAINTS_MAX of a run; the counts at the end tell how many there were. */
static void complain(struct load *l, const char *format, ...)
{
    va_list args;

    (void)pthread_mutex_lock(&l->lock);
    if (l->complaints++ < COMPLAINTS_MAX) {
        (void)fputs("kluis-load: ", stderr);
        va_start(args, format);
        (void)vfprintf(stderr, format, args);
        va_end(args);
        (void)fputc('\n', stderr);
    }
    (void)pthread_mutex_unlock(&l->lock);
}

/* The whole value follows from its id and length, so that every byte can be compared. */
static void value_fill(const char *id, char *value, size_t len)
{
    size_t id_len = strlen(id);

    for (size_t i = 0; i < len; i++) {
        value[i] = i < id_len ? id[i] : (char)('a' + (i * 7 + (unsigned char)id[i % id_len]) % 26);
    }
}

/* ---------------------------------------------------------------- write */

/* Is it certain that a write which ended so was not done and never will be? */
static enum outcome outcome_of(enum kluis_status status)
{
    switch (status) {
    case KLUIS_OK:
        return ACKED;
    case KLUIS_INVALID_ARGUMENT:
    case KLUIS_VAULT_NOT_FOUND:
    case KLUIS_DELETED:
    case KLUIS_VAULT_DELETED:
    case KLUIS_FORBIDDEN:
    case KLUIS_UNAUTHENTICATED:
    case KLUIS_EXPIRED:
        return REFUSED;
    default:
        return UNKNOWN;
    }
}

static void write_one(struct worker *w, uint64_t seq, char *value)
{
    struct load *l = w->load;
    struct op *op = ops_add(&w->ops);
    struct kluis_secret *secret = NULL;

    assert(l->names > 0);
    (void)snprintf(op->name, sizeof op->name, "%s-%u", l->prefix,
                   (unsigned)((seq * l->threads + w->number) % l->names));
    (void)snprintf(op->id, sizeof op->id, "%016llx-%03u-%014llu", (unsigned long long)l->run_id,
                   w->number, (unsigned long long)seq);
    op->value_len = l->bytes;
    value_fill(op->id, value, l->bytes);
    op->begin_us = now_us();
    op->status = kluis_secret_set(client_of(w), l->vault, op->name, value, l->bytes, NULL,
                                  CALL_TIMEOUT_MS, &secret);
    op->end_us = now_us();
    op->outcome = outcome_of(op->status);
    (void)snprintf(op->version, sizeof op->version, "%s", secret == NULL ? "-" : secret->version);
    kluis_secret_free(secret);
}

static void *write_main(void *arg)
{
    struct worker *w = arg;
    static _Thread_local char value[VALUE_MAX];

    for (uint64_t seq = 0; now_us() < w->load->until_us; seq++) {
        write_one(w, seq, value);
    }
    return NULL;
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* Longest time between two acknowledged writes that follow each other, over all threads. */
static uint64_t longest_gap_us(const struct worker *workers, unsigned n, uint64_t acked)
{
    uint64_t *ends = kl_calloc(acked + 1, sizeof *ends);
    uint64_t gap = 0;
    size_t k = 0;

    if (ends == NULL) {
        return 0;
    }
    for (unsigned i = 0; i < n; i++) {
        for (size_t j = 0; j < workers[i].ops.n; j++) {
            if (workers[i].ops.v[j].outcome == ACKED) {
                ends[k++] = workers[i].ops.v[j].end_us;
            }
        }
    }
    qsort(ends, k, sizeof *ends, compare_u64);
    for (size_t i = 1; i < k; i++) {
        gap = ends[i] - ends[i - 1] > gap ? ends[i] - ends[i - 1] : gap;
    }
    kl_free(ends);
    return gap;
}

static void log_write(FILE *f, const struct ops *ops)
{
    for (size_t i = 0; i < ops->n; i++) {
        const struct op *op = &ops->v[i];

        (void)fprintf(f, "%s\t%s\t%s\t%s\t%llu\t%llu\t%zu\t%s\n", op->name, op->id,
                      outcome_text[op->outcome], op->version, (unsigned long long)op->begin_us,
                      (unsigned long long)op->end_us, op->value_len, kluis_status_name(op->status));
    }
}

/* Starts n threads, waits for them. */
static void run_threads(struct load *l, struct worker *workers, void *(*main_fn)(void *))
{
    for (unsigned i = 0; i < l->threads; i++) {
        workers[i] = (struct worker){.load = l, .number = i};
        if (pthread_create(&workers[i].thread, NULL, main_fn, &workers[i]) != 0) {
            (void)fprintf(stderr, "kluis-load: cannot start thread %u\n", i);
            exit(EXIT_TROUBLE);
        }
    }
    for (unsigned i = 0; i < l->threads; i++) {
        (void)pthread_join(workers[i].thread, NULL);
    }
}

static int run_write(struct load *l, const char *log_path)
{
    static struct worker workers[THREADS_MAX];
    uint64_t counts[3] = {0};
    uint64_t slowest_us = 0;
    FILE *f = fopen(log_path, "w");
    const struct op *odd = NULL;

    if (f == NULL) {
        (void)fprintf(stderr, "kluis-load: %s: %s\n", log_path, strerror(errno));
        return EXIT_TROUBLE;
    }
    l->run_id = now_us() ^ (uint64_t)getpid() << 48;
    l->until_us = now_us() + (uint64_t)l->seconds * 1000000u;
    run_threads(l, workers, write_main);
    for (unsigned i = 0; i < l->threads; i++) {
        for (size_t j = 0; j < workers[i].ops.n; j++) {
            const struct op *op = &workers[i].ops.v[j];

            counts[op->outcome]++;
            slowest_us =
                op->end_us - op->begin_us > slowest_us ? op->end_us - op->begin_us : slowest_us;
            odd = op->outcome != ACKED ? op : odd;
        }
        log_write(f, &workers[i].ops);
    }
    (void)printf("acked=%llu refused=%llu unknown=%llu per_second=%llu outage_ms=%llu "
                 "slowest_ms=%llu\n",
                 (unsigned long long)counts[ACKED], (unsigned long long)counts[REFUSED],
                 (unsigned long long)counts[UNKNOWN],
                 (unsigned long long)(counts[ACKED] / l->seconds),
                 (unsigned long long)(longest_gap_us(workers, l->threads, counts[ACKED]) / 1000),
                 (unsigned long long)(slowest_us / 1000));
    if (odd != NULL) {
        (void)fprintf(stderr, "kluis-load: for example %s of %s\n", kluis_status_name(odd->status),
                      odd->name);
    }
    for (unsigned i = 0; i < l->threads; i++) {
        kl_free(workers[i].ops.v);
    }
    if (fclose(f) != 0) {
        (void)fprintf(stderr, "kluis-load: %s: %s\n", log_path, strerror(errno));
        return EXIT_TROUBLE;
    }
    return counts[ACKED] == 0 ? EXIT_TROUBLE : 0;
}

/* ---------------------------------------------------------------- verify */

/* Cuts a line at its tabs; false unless there are exactly LOG_COLUMNS. */
static bool split(char *line, char *columns[LOG_COLUMNS])
{
    char *p = line;

    p[strcspn(p, "\n")] = '\0';
    for (int i = 0; i < LOG_COLUMNS; i++) {
        char *tab = strchr(p, '\t');

        columns[i] = p;
        if ((tab == NULL) != (i == LOG_COLUMNS - 1)) {
            return false;
        }
        if (tab != NULL) {
            *tab = '\0';
            p = tab + 1;
        }
    }
    return true;
}

static bool parse_op(char *line, struct op *op)
{
    char *column[LOG_COLUMNS];
    uint64_t len = 0;

    if (!split(line, column) || strlen(column[0]) >= sizeof op->name ||
        strlen(column[1]) != ID_LEN || strlen(column[3]) >= sizeof op->version ||
        kl_number_parse(column[6], ID_LEN, VALUE_MAX, &len) != KL_OK) {
        return false;
    }
    (void)snprintf(op->name, sizeof op->name, "%s", column[0]);
    (void)snprintf(op->id, sizeof op->id, "%s", column[1]);
    (void)snprintf(op->version, sizeof op->version, "%s", column[3]);
    op->value_len = (size_t)len;
    for (unsigned i = 0; i < 3; i++) {
        if (strcmp(column[2], outcome_text[i]) == 0) {
            op->outcome = (enum outcome)i;
            return true;
        }
    }
    return false;
}

static int compare_ops(const void *a, const void *b)
{
    const struct op *const *x = a;
    const struct op *const *y = b;
    int order = strcmp((*x)->name, (*y)->name);

    return order != 0 ? order : strcmp((*x)->id, (*y)->id);
}

static bool log_read(const char *path, struct ops *ops)
{
    char line[LINE_LEN];
    FILE *f = fopen(path, "r");

    if (f == NULL) {
        (void)fprintf(stderr, "kluis-load: %s: %s\n", path, strerror(errno));
        return false;
    }
    while (fgets(line, sizeof line, f) != NULL) {
        if (!parse_op(line, ops_add(ops))) {
            (void)fprintf(stderr, "kluis-load: %s:%zu: not a line of a log\n", path, ops->n);
            (void)fclose(f);
            return false;
        }
    }
    (void)fclose(f);
    return true;
}

/* The write in first[0..n) whose value this is, byte for byte; NULL. */
static struct op *op_of_value(struct op **first, size_t n, const struct kluis_secret *s)
{
    struct op key = {.name = ""};
    const struct op *key_p = &key;
    struct op **hit;
    char expected[VALUE_MAX];

    if (s->value_len < ID_LEN) {
        return NULL;
    }
    (void)snprintf(key.name, sizeof key.name, "%s", first[0]->name);
    memcpy(key.id, s->value, ID_LEN);
    hit = bsearch(&key_p, first, n, sizeof *first, compare_ops);
    if (hit == NULL || (*hit)->value_len != s->value_len) {
        return NULL;
    }
    value_fill((*hit)->id, expected, s->value_len);
    return memcmp(expected, s->value, s->value_len) == 0 ? *hit : NULL;
}

struct tally {
    uint64_t versions, lost, doubled, strange, unreadable;
};

static void check_version(struct worker *w, struct op **first, size_t n, const char *version,
                          struct tally *t)
{
    struct load *l = w->load;
    struct kluis_secret *s = NULL;
    enum kluis_status status =
        kluis_secret_get(client_of(w), l->vault, first[0]->name, version, CALL_TIMEOUT_MS, &s);
    struct op *op;

    t->versions++;
    if (status != KLUIS_OK) {
        complain(l, "%s/%s: %s", first[0]->name, version, kluis_status_name(status));
        t->unreadable++;
        return;
    }
    op = op_of_value(first, n, s);
    if (op == NULL || op->outcome == REFUSED ||
        (op->outcome == ACKED && strcmp(op->version, version) != 0)) {
        complain(l, "%s/%s holds what was never acknowledged so", first[0]->name, version);
        t->strange++;
    } else if (op->found++ > 0) {
        complain(l, "%s: write %s exists twice", first[0]->name, op->id);
        t->doubled++;
    }
    kluis_secret_free(s);
}

/* All writes of one name against all its versions. */
static void check_name(struct worker *w, struct op **first, size_t n, struct tally *t)
{
    struct load *l = w->load;
    char *token = NULL;

    do {
        struct kluis_secret_list *page = NULL;
        enum kluis_status status = kluis_secret_list_versions(
            client_of(w), l->vault, first[0]->name, PAGE, token, CALL_TIMEOUT_MS, &page);

        kl_free(token);
        token = NULL;
        if (status != KLUIS_OK) {
            complain(l, "versions of %s: %s (%s)", first[0]->name, kluis_status_name(status),
                     kluis_last_error());
            t->unreadable += status != KLUIS_NOT_FOUND;
            break;
        }
        for (size_t i = 0; i < page->n; i++) {
            check_version(w, first, n, page->items[i]->version, t);
        }
        token = page->next == NULL ? NULL : kl_strdup(page->next);
        kluis_secret_list_free(page);
    } while (token != NULL);
    for (size_t i = 0; i < n; i++) {
        if (first[i]->outcome == ACKED && first[i]->found == 0) {
            complain(l, "%s: acknowledged write %s is lost", first[0]->name, first[i]->id);
            t->lost++;
        }
    }
}

static void *verify_main(void *arg)
{
    struct worker *w = arg;
    struct load *l = w->load;
    struct tally t = {0};

    for (;;) {
        size_t from, to;

        (void)pthread_mutex_lock(&l->lock);
        from = to = l->next;
        while (to < l->sorted_n && strcmp(l->sorted[to]->name, l->sorted[from]->name) == 0) {
            to++;
        }
        l->next = to;
        (void)pthread_mutex_unlock(&l->lock);
        if (from == to) {
            break;
        }
        check_name(w, l->sorted + from, to - from, &t);
    }
    (void)pthread_mutex_lock(&l->lock);
    l->versions += t.versions;
    l->lost += t.lost;
    l->doubled += t.doubled;
    l->strange += t.strange;
    l->unreadable += t.unreadable;
    (void)pthread_mutex_unlock(&l->lock);
    return NULL;
}

static int run_verify(struct load *l, const char *log_path)
{
    static struct worker workers[THREADS_MAX];
    struct ops ops = {0};
    uint64_t acked = 0;
    int code = EXIT_TROUBLE;

    if (!log_read(log_path, &ops) || ops.n == 0) {
        (void)fprintf(stderr, "kluis-load: no writes to look for in %s\n", log_path);
        goto out;
    }
    l->sorted = kl_calloc(ops.n, sizeof *l->sorted);
    if (l->sorted == NULL) {
        goto out;
    }
    l->sorted_n = ops.n;
    for (size_t i = 0; i < ops.n; i++) {
        l->sorted[i] = &ops.v[i];
        acked += ops.v[i].outcome == ACKED;
    }
    qsort(l->sorted, ops.n, sizeof *l->sorted, compare_ops);
    run_threads(l, workers, verify_main);
    (void)printf("acked=%llu versions=%llu lost=%llu doubled=%llu strange=%llu unreadable=%llu\n",
                 (unsigned long long)acked, (unsigned long long)l->versions,
                 (unsigned long long)l->lost, (unsigned long long)l->doubled,
                 (unsigned long long)l->strange, (unsigned long long)l->unreadable);
    code = l->unreadable > 0                       ? EXIT_TROUBLE
           : l->lost + l->doubled + l->strange > 0 ? EXIT_WRONG
                                                   : 0;
out:
    kl_free(l->sorted);
    kl_free(ops.v);
    return code;
}

/* ---------------------------------------------------------------- options */

static int usage(void)
{
    (void)fprintf(stderr,
                  "usage: kluis-load write VAULT LOG [-t THREADS] [-c CLIENTS] [-s SECONDS] "
                  "[-p PREFIX] [-k NAMES] [-b BYTES]\n"
                  "       kluis-load verify VAULT LOG [-t THREADS] [-c CLIENTS]\n"
                  "environment: KLUIS_ENDPOINT, KLUIS_CA_FILE, KLUIS_TOKEN_FILE\n");
    return EXIT_TROUBLE;
}

static bool parse_options(int argc, char **argv, struct load *l)
{
    int option;

    while ((option = getopt(argc, argv, "t:c:s:p:k:b:")) != -1) {
        uint64_t n = 0;
        uint64_t max = option == 't'   ? THREADS_MAX
                       : option == 'c' ? CLIENTS_MAX
                       : option == 'k' ? NAMES_MAX
                       : option == 'b' ? VALUE_MAX
                                       : 86400;

        if (option == 'p') {
            l->prefix = optarg;
            continue;
        }
        if (option == '?' ||
            kl_number_parse(optarg, option == 'b' ? ID_LEN : 1, max, &n) != KL_OK) {
            return false;
        }
        l->threads = option == 't' ? (unsigned)n : l->threads;
        l->clients_n = option == 'c' ? (unsigned)n : l->clients_n;
        l->seconds = option == 's' ? (unsigned)n : l->seconds;
        l->names = option == 'k' ? (unsigned)n : l->names;
        l->bytes = option == 'b' ? (size_t)n : l->bytes;
    }
    return optind == argc;
}

static bool read_token(char *token, size_t size)
{
    const char *path = getenv("KLUIS_TOKEN_FILE");
    FILE *f = path == NULL ? NULL : fopen(path, "r");
    bool ok = f != NULL && fgets(token, (int)size, f) != NULL;

    if (f != NULL) {
        (void)fclose(f);
    }
    token[ok ? strcspn(token, "\r\n") : 0] = '\0';
    return ok;
}

static bool open_clients(struct load *l)
{
    static char token[KL_TOKEN_MAX];
    static char endpoints[2048];
    const char *list[ENDPOINTS_MAX];
    const char *endpoint = getenv("KLUIS_ENDPOINT");
    struct kluis_options options = {.endpoints = list, .ca_file = getenv("KLUIS_CA_FILE")};
    char err[256] = "";
    bool ok = true;

    if (endpoint == NULL || options.ca_file == NULL || !read_token(token, sizeof token)) {
        (void)usage();
        return false;
    }
    (void)snprintf(endpoints, sizeof endpoints, "%s", endpoint);
    for (char *p = endpoints; p != NULL && options.endpoints_n < ENDPOINTS_MAX;) {
        char *comma = strchr(p, ',');

        list[options.endpoints_n++] = p;
        if (comma != NULL) {
            *comma = '\0';
        }
        p = comma == NULL ? NULL : comma + 1;
    }
    options.token = token;
    for (unsigned i = 0; ok && i < l->clients_n; i++) {
        ok = kluis_open(&options, &l->clients[i], err, sizeof err) == KLUIS_OK;
    }
    if (!ok) {
        (void)fprintf(stderr, "kluis-load: %s\n", err);
    }
    kl_wipe(token, sizeof token);
    return ok;
}

int main(int argc, char **argv)
{
    struct load load = {.prefix = "load",
                        .threads = 8,
                        .clients_n = 1,
                        .seconds = 10,
                        .names = 32,
                        .bytes = 100,
                        .lock = PTHREAD_MUTEX_INITIALIZER};
    bool writing = argc > 1 && strcmp(argv[1], "write") == 0;
    int code = EXIT_TROUBLE;

    if (argc < 4 || (!writing && strcmp(argv[1], "verify") != 0) ||
        !parse_options(argc - 3, argv + 3, &load)) {
        return usage();
    }
    load.vault = argv[2];
    if (open_clients(&load)) {
        code = writing ? run_write(&load, argv[3]) : run_verify(&load, argv[3]);
    }
    for (unsigned i = 0; i < load.clients_n; i++) {
        kluis_close(load.clients[i]);
    }
    return code;
}
