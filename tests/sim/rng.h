/*
 * The one source of chance of a simulation: splitmix64, seeded, the same everywhere.
 */
#ifndef SIM_RNG_H
#define SIM_RNG_H

#include <stdbool.h>
#include <stdint.h>

struct sim_rng {
    uint64_t state;
};

static inline uint64_t sim_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static inline uint64_t sim_random(struct sim_rng *r)
{
    r->state += 0x9e3779b97f4a7c15ULL;
    return sim_mix(r->state);
}

/* 0..n-1; n > 0. The bias is below 2^-32 for the small n used here. */
static inline uint64_t sim_below(struct sim_rng *r, uint64_t n)
{
    return sim_random(r) % n;
}

/* min..max, both included. */
static inline uint64_t sim_range(struct sim_rng *r, uint64_t min, uint64_t max)
{
    return min + sim_below(r, max - min + 1);
}

/* True in `of_1000` of 1,000 cases. */
static inline bool sim_chance(struct sim_rng *r, unsigned of_1000)
{
    return of_1000 != 0 && sim_below(r, 1000) < of_1000;
}

/* Mostly near min, now and then up to max: 1/8 of the range on average. */
static inline uint64_t sim_skewed(struct sim_rng *r, uint64_t min, uint64_t max)
{
    uint64_t span = max - min + 1;
    uint64_t a = sim_below(r, span);

    for (int i = 0; i < 2; i++) {
        uint64_t b = sim_below(r, span);

        a = b < a ? b : a;
    }
    return min + a / 2 + (sim_below(r, 16) == 0 ? a / 2 : 0);
}

#endif
