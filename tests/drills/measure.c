/* What a drill cost, from the histories of its clients and from what the cluster holds at the end. */
#include "common/alloc.h"
#include "tests/drills/drill.h"
#include "tests/lib/checker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_LEN = 512, CALL_MS = 30000, PAGE = 100 };

struct set {
    uint64_t invoked_us, returned_us,
        newest_us; /* newest: latest invocation among it and earlier ones */
    uint32_t value;
};

/* ---- reading ---- */

static void note_garden(struct drill *d, const char *state)
{
    d->cost.planted++;
    d->cost.early += strncmp(state, "early", 5) == 0;
    d->cost.purged += strncmp(state, "purged", 6) == 0;
}

/* "# failed CLIENT KIND BEGUN ENDED STATUS", "# garden NAME DELETED SEEN STATE". */
static void note_comment(struct drill *d, unsigned site, char *line)
{
    char *save = NULL;
    char *words[8] = {NULL};
    size_t n = 0;

    for (char *p = strtok_r(line, " \n", &save); p != NULL && n < 8;
         p = strtok_r(NULL, " \n", &save)) {
        words[n++] = p;
    }
    if (n == 6 && strcmp(words[1], "garden") == 0) {
        note_garden(d, words[5]);
    } else if (n == 7 && strcmp(words[1], "failed") == 0 && (d->kind->apart & 1u << site) == 0) {
        if (d->cost.failed_calls++ == 0) {
            (void)snprintf(d->cost.first_failure, sizeof d->cost.first_failure, "%s in %s: %s",
                           words[3], site_name(site), words[6]);
        }
    }
}

/* All histories as one. */
static bool read_all(struct drill *d, struct kl_history *h)
{
    char line[LINE_LEN];
    char err[128] = "";
    bool good;
    FILE *all;

    all = fopen(d->all, "w+");
    good = all != NULL && fputs("kluis-history 1\n", all) >= 0;
    if (good) {
        (void)fprintf(all, "retention_us %llu\n",
                      (unsigned long long)DRILL_VAULT_DAYS * DRILL_DAY_MS * 1000u);
    }
    for (unsigned s = 0; s < SITE_CLIENTS; s++) {
        FILE *f = fopen(d->out[s], "r");

        while (good && f != NULL && fgets(line, sizeof line, f) != NULL) {
            if (line[0] == '#') {
                note_comment(d, s, line);
            } else if (strncmp(line, "kluis-history", 13) != 0) {
                (void)fputs(line, all);
            }
        }
        good = good && f != NULL;
        if (f != NULL) {
            (void)fclose(f);
        }
    }
    if (all != NULL) {
        rewind(all);
        good = good && kl_history_read(h, all, err, sizeof err) == KL_OK;
        (void)fclose(all);
    }
    if (!good) {
        drill_broken(d, "the histories cannot be read: %s", err);
    }
    return good;
}

/* ---- times without ---- */

static bool is_read(enum kl_history_kind kind)
{
    return kind == KL_HISTORY_GET || kind == KL_HISTORY_GET_VERSION ||
           kind == KL_HISTORY_GET_DELETED;
}

static bool is_write(const struct kl_history_op *op)
{
    return !is_read(op->kind) && op->status == KL_OK; /* a refusal changes nothing */
}

int drill_compare_u64(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* Longest time without one between the fault and the end, in milliseconds. Sorts. */
static uint64_t longest_gap_ms(const struct drill *d, uint64_t *ends, size_t n)
{
    uint64_t last = d->fault_us;
    uint64_t gap = 0;

    qsort(ends, n, sizeof *ends, drill_compare_u64);
    for (size_t i = 0; i <= n; i++) {
        uint64_t at = i == n || ends[i] > d->ended_us ? d->ended_us : ends[i];

        if (at > last) {
            gap = at - last > gap ? at - last : gap;
            last = at;
        }
    }
    return gap / 1000;
}

static void note_curve(struct drill *d, unsigned site, const struct kl_history_op *op)
{
    uint64_t slot =
        op->returned_us < d->begun_us ? 0 : (op->returned_us - d->begun_us) / 1000u / DRILL_SLOT_MS;

    if (slot < DRILL_SLOTS_MAX) {
        uint16_t *at =
            is_read(op->kind) ? &d->curves[site].reads[slot] : &d->curves[site].writes[slot];

        *at = (uint16_t)(*at + 1);
    }
}

static void measure_gaps(struct drill *d, const struct kl_history *h, unsigned site, bool reads)
{
    uint64_t *ends = kl_calloc(h->ops_n + 1, sizeof *ends);
    uint64_t gap;
    uint64_t *worst = reads ? &d->cost.no_reads_ms : &d->cost.no_writes_ms;
    size_t n = 0;

    for (size_t i = 0; ends != NULL && i < h->ops_n; i++) {
        const struct kl_history_op *op = &h->ops[i];

        if (op->client / DRILL_CLIENT_NUMBERS == site && op->outcome == KL_HISTORY_DONE &&
            (reads ? is_read(op->kind) : is_write(op))) {
            ends[n++] = op->returned_us;
            note_curve(d, site, op);
        }
    }
    *(reads ? &d->cost.reads : &d->cost.writes) += n;
    gap = ends == NULL ? UINT64_MAX : longest_gap_ms(d, ends, n);
    if ((d->kind->apart & 1u << site) == 0 && gap > *worst) {
        *worst = gap;
    }
    kl_free(ends);
}

/* ---- names that are only written and read ---- */

static bool kept(const char *name)
{
    size_t len = strlen(name);

    return len != 0 && (name[len - 1] - '0') % 2 == 0;
}

static int compare_sets(const void *a, const void *b)
{
    const struct set *x = a;
    const struct set *y = b;

    return x->returned_us < y->returned_us ? -1 : x->returned_us > y->returned_us;
}

/* Acknowledged sets of the name in order of their ends. */
static size_t sets_of(const struct kl_history *h, uint32_t name, struct set *out)
{
    uint64_t newest = 0;
    size_t n = 0;

    for (size_t i = 0; i < h->ops_n; i++) {
        const struct kl_history_op *op = &h->ops[i];

        if (op->name == name && op->kind == KL_HISTORY_SET && op->outcome == KL_HISTORY_DONE &&
            op->status == KL_OK) {
            out[n++] = (struct set){op->invoked_us, op->returned_us, 0, op->value};
        }
    }
    qsort(out, n, sizeof *out, compare_sets);
    for (size_t i = 0; i < n; i++) {
        newest = out[i].invoked_us > newest ? out[i].invoked_us : newest;
        out[i].newest_us = newest;
    }
    return n;
}

/* A read is stale when a set that began after the end of the one it shows had itself ended before the
 * read began. */
static bool is_stale(const struct set *sets, size_t n, const struct kl_history_op *get)
{
    uint64_t newest = 0;
    uint64_t shown = 0;

    for (size_t i = 0; i < n; i++) {
        if (sets[i].returned_us < get->invoked_us) {
            newest = sets[i].newest_us;
        }
        if (sets[i].value == get->value) {
            shown = sets[i].returned_us;
        }
    }
    if (get->status != KL_OK) {
        return newest != 0; /* not there, although it had been written */
    }
    return shown != 0 && newest > shown;
}

size_t drill_held(struct drill *d, const char *name, struct drill_version *out, size_t max)
{
    char *token = NULL;
    size_t n = 0;

    do {
        struct kluis_secret_list *page = NULL;
        enum kluis_status st =
            kluis_secret_list_versions(d->client, d->vault, name, PAGE, token, CALL_MS, &page);

        kl_free(token);
        token = NULL;
        if (st != KLUIS_OK) {
            break;
        }
        for (size_t i = 0; i < page->n && n < max; i++) {
            struct kluis_secret *s = NULL;

            (void)snprintf(out[n].version, sizeof out[n].version, "%s", page->items[i]->version);
            if (kluis_secret_get(d->client, d->vault, name, out[n].version, CALL_MS, &s) ==
                KLUIS_OK) {
                (void)snprintf(out[n].value, sizeof out[n].value, "%.*s", (int)s->value_len,
                               (const char *)s->value);
            }
            kluis_secret_free(s);
            n++;
        }
        token = page->next == NULL ? NULL : kl_strdup(page->next);
        kluis_secret_list_free(page);
    } while (token != NULL);
    return n;
}

static int compare_values(const void *a, const void *b)
{
    return strcmp(((const struct drill_version *)a)->value,
                  ((const struct drill_version *)b)->value);
}

static void check_kept(struct drill *d, const struct kl_history *h, uint32_t name,
                       drill_versions *versions_of)
{
    size_t max = h->ops_n + 1;
    struct set *sets = kl_calloc(max, sizeof *sets);
    struct drill_version *versions = kl_calloc(max, sizeof *versions);
    size_t sets_n = sets == NULL ? 0 : sets_of(h, name, sets);
    size_t n = versions == NULL ? 0 : versions_of(d, kl_history_text(h, name), versions, max);

    qsort(versions, n, sizeof *versions, compare_values);
    for (size_t i = 1; i < n; i++) {
        d->cost.doubled += strcmp(versions[i].value, versions[i - 1].value) == 0;
    }
    for (size_t i = 0; i < sets_n; i++) {
        struct drill_version key;

        (void)snprintf(key.value, sizeof key.value, "%s", kl_history_text(h, sets[i].value));
        d->cost.lost += bsearch(&key, versions, n, sizeof *versions, compare_values) == NULL;
    }
    for (size_t i = 0; i < h->ops_n; i++) {
        const struct kl_history_op *op = &h->ops[i];

        if (op->name == name && op->kind == KL_HISTORY_GET && op->outcome == KL_HISTORY_DONE) {
            d->cost.stale += is_stale(sets, sets_n, op);
        }
    }
    kl_free(sets);
    kl_free(versions);
}

static void check_all_kept(struct drill *d, const struct kl_history *h, drill_versions *versions_of)
{
    bool *done = kl_calloc(h->words_n + 1, sizeof *done);

    for (size_t i = 0; done != NULL && i < h->ops_n; i++) {
        uint32_t name = h->ops[i].name;

        if (!done[name] && kept(kl_history_text(h, name))) {
            done[name] = true;
            check_kept(d, h, name, versions_of);
        }
    }
    kl_free(done);
}

void drill_measure(struct drill *d, drill_versions *versions_of)
{
    struct kl_check_result result = {.verdict = KL_CHECK_UNDECIDED};
    struct kl_history h;

    kl_history_init(&h);
    if (read_all(d, &h)) {
        for (unsigned s = 0; s < SITE_CLIENTS; s++) {
            measure_gaps(d, &h, s, false);
            measure_gaps(d, &h, s, true);
        }
        check_all_kept(d, &h, versions_of);
        d->cost.linearizable =
            kl_check_history(&h, NULL, &result) == KL_OK && result.verdict == KL_CHECK_LINEARIZABLE;
        if (!d->cost.linearizable) {
            (void)snprintf(d->cost.violation, sizeof d->cost.violation, "%s %s: %.900s",
                           kl_check_verdict_name(result.verdict), result.name, result.text);
        }
    }
    kl_history_done(&h);
}
