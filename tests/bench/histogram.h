/*
 * Latencies in microseconds, kept in log-linear buckets (64 per power of two, error below 2 %).
 * Header only, C and C++: both load programs measure with the same code.
 */
#ifndef KL_BENCH_HISTOGRAM_H
#define KL_BENCH_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define HISTOGRAM_SUB     64
#define HISTOGRAM_BUCKETS (40 * HISTOGRAM_SUB)

struct histogram {
    uint64_t count[HISTOGRAM_BUCKETS];
    uint64_t total;
    uint64_t max_us;
};

static inline size_t histogram_bucket(uint64_t us)
{
    unsigned shift = 0;

    while ((us >> shift) >= 2 * HISTOGRAM_SUB) {
        shift++;
    }
    if (shift == 0) {
        return (size_t)us;
    }
    return (size_t)(shift * HISTOGRAM_SUB + (us >> shift));
}

static inline uint64_t histogram_value(size_t bucket)
{
    size_t shift;

    if (bucket < 2 * HISTOGRAM_SUB) {
        return bucket;
    }
    shift = bucket / HISTOGRAM_SUB - 1;
    return (uint64_t)(bucket - shift * HISTOGRAM_SUB) << shift;
}

static inline void histogram_add(struct histogram *h, uint64_t us)
{
    size_t b = histogram_bucket(us);

    h->count[b < HISTOGRAM_BUCKETS ? b : HISTOGRAM_BUCKETS - 1]++;
    h->total++;
    if (us > h->max_us) {
        h->max_us = us;
    }
}

/* per_mille: 500 = median. */
static inline uint64_t histogram_at(const struct histogram *h, unsigned per_mille)
{
    uint64_t want = h->total * per_mille / 1000;
    uint64_t seen = 0;

    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->count[i];
        if (seen > want) {
            return histogram_value(i);
        }
    }
    return h->max_us;
}

/* The line that tests/bench/run reads: one word per figure. */
static inline void histogram_print(const struct histogram *h, const char *op, unsigned clients,
                                   double seconds, uint64_t errors, double cpu_seconds)
{
    printf("op=%s clients=%u ops=%llu ops_per_s=%.0f p50_us=%llu p90_us=%llu p99_us=%llu "
           "p999_us=%llu max_us=%llu errors=%llu client_cpu_us_per_op=%.1f\n",
           op, clients, (unsigned long long)h->total, (double)h->total / seconds,
           (unsigned long long)histogram_at(h, 500), (unsigned long long)histogram_at(h, 900),
           (unsigned long long)histogram_at(h, 990), (unsigned long long)histogram_at(h, 999),
           (unsigned long long)h->max_us, (unsigned long long)errors,
           h->total == 0 ? 0.0 : cpu_seconds * 1e6 / (double)h->total);
}

#endif
