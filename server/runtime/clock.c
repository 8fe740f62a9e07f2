#include "server/runtime/clock.h"

#include <assert.h>
#include <limits.h>
#include <openssl/rand.h>
#include <time.h>

static struct timespec now(clockid_t id)
{
    struct timespec t;
    int rc = clock_gettime(id, &t);

    assert(rc == 0); /* fails only for a clock the kernel does not have */
    return t;
}

/* CLOCK_BOOTTIME goes on while the machine sleeps: a lease must not survive a suspend. */
static uint64_t real_mono_us(void *ctx)
{
    struct timespec t = now(CLOCK_BOOTTIME);

    (void)ctx;
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint64_t real_wall_ms(void *ctx)
{
    struct timespec t = now(CLOCK_REALTIME);

    (void)ctx;
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* The private generator: nonces and ids that are seen tell nothing of the keys drawn from it. */
static enum kl_status real_fill(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    while (n != 0) {
        int part = n > INT_MAX ? INT_MAX : (int)n;

        if (RAND_priv_bytes(out, part) != 1) {
            return KL_CRYPTO;
        }
        out += part;
        n -= (size_t)part;
    }
    return KL_OK;
}

const struct kl_clock kl_real_clock = {NULL, real_mono_us, real_wall_ms};
const struct kl_entropy kl_real_entropy = {NULL, real_fill};
