/*
 * Time and randomness behind a table of functions, so that simulations and tests can own both.
 * The real ones are the only callers of clock_gettime and RAND_bytes in the server.
 */
#ifndef KL_CLOCK_H
#define KL_CLOCK_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

struct kl_clock {
    void *ctx;
    uint64_t (*mono_us)(void *ctx); /* monotonic microseconds; never jumps (CLOCK_BOOTTIME) */
    uint64_t (*wall_ms)(void *ctx); /* Unix milliseconds; may jump */
};

struct kl_entropy {
    void *ctx;
    enum kl_status (*fill)(void *ctx, uint8_t *out, size_t n); /* KL_OK or KL_CRYPTO */
};

extern const struct kl_clock kl_real_clock;
extern const struct kl_entropy kl_real_entropy;

#endif
