#include "tests/drills/memory.h"

enum {
    WARM_UP_PART = 6,
    WARM_UP_MAX_MS = 600000,
    RUN_MIN_MS = 1800000,
    LATE_PART = 3,
    WINDOW_SAMPLES_MIN = 2,
    MARGIN_KIB = 32 * 1024,
    MARGIN_PART = 4, /* 25 % */
    GROWN_UP_MS = 180000,
    GROWTH_TIME_MIN_MS = 300000,
    GROWTH_MAX_KIB_PER_MIN = 3072,
    MINUTE_MS = 60000
};

/* The largest RssAnon of the samples from `from` up to `to`; 0 when there are too few. */
static uint64_t largest_kib(const struct memory_sample *samples, size_t n, uint64_t from_ms,
                            uint64_t to_ms)
{
    uint64_t largest = 0;
    size_t found = 0;

    for (size_t i = 0; i < n; i++) {
        if (samples[i].at_ms >= from_ms && samples[i].at_ms <= to_ms) {
            largest = samples[i].anon_kib > largest ? samples[i].anon_kib : largest;
            found++;
        }
    }
    return found >= WINDOW_SAMPLES_MIN ? largest : 0;
}

static void judge_growth(const struct memory_sample *samples, size_t n, uint64_t begin_ms,
                         struct memory_report *r)
{
    int64_t kib = 0;

    for (size_t i = 1; i < n; i++) {
        const struct memory_sample *a = &samples[i - 1];
        const struct memory_sample *b = &samples[i];

        if (a->at_ms >= begin_ms && a->pid == b->pid && a->age_ms >= GROWN_UP_MS &&
            b->age_ms > a->age_ms) {
            kib += (int64_t)b->anon_kib - (int64_t)a->anon_kib;
            r->growth_over_ms += b->at_ms - a->at_ms;
        }
    }
    if (r->growth_over_ms != 0) {
        r->growth_kib_per_min = kib * MINUTE_MS / (int64_t)r->growth_over_ms;
    }
}

struct memory_report memory_judge(const struct memory_sample *samples, size_t n)
{
    struct memory_report r = {.verdict = MEMORY_TOO_SHORT};
    uint64_t begin;
    uint64_t end;
    uint64_t late;
    uint64_t margin;

    if (n == 0) {
        return r;
    }
    begin = samples[0].at_ms;
    end = samples[n - 1].at_ms;
    begin += (end - begin) / WARM_UP_PART < WARM_UP_MAX_MS ? (end - begin) / WARM_UP_PART
                                                           : WARM_UP_MAX_MS;
    late = end - (end - begin) / LATE_PART;
    r.first_kib = samples[0].anon_kib;
    r.early_kib = largest_kib(samples, n, begin, late - 1);
    r.late_kib = largest_kib(samples, n, late, end);
    judge_growth(samples, n, begin, &r);
    if (r.early_kib == 0 || r.late_kib == 0 || end - samples[0].at_ms < RUN_MIN_MS) {
        return r;
    }
    margin = r.early_kib / MARGIN_PART > MARGIN_KIB ? r.early_kib / MARGIN_PART : MARGIN_KIB;
    r.verdict = r.late_kib > r.early_kib + margin || (r.growth_over_ms >= GROWTH_TIME_MIN_MS &&
                                                      r.growth_kib_per_min > GROWTH_MAX_KIB_PER_MIN)
                    ? MEMORY_GROWS
                    : MEMORY_FLAT;
    return r;
}

const char *memory_verdict_name(enum memory_verdict verdict)
{
    return verdict == MEMORY_FLAT    ? "flat"
           : verdict == MEMORY_GROWS ? "GROWS"
                                     : "run too short to say";
}
