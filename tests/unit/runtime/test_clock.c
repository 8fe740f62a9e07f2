#include "tests/lib/test.h"

#include "server/runtime/clock.h"

#include <time.h>

/* Monotonic time never runs backwards. */
TEST(clock, mono_never_decreases)
{
    uint64_t last = kl_real_clock.mono_us(NULL);

    for (int i = 0; i < 100000; i++) {
        uint64_t now = kl_real_clock.mono_us(NULL);

        CHECK(now >= last);
        last = now;
    }
}

/* Wall time is Unix milliseconds: between two readings of the system's clock. */
TEST(clock, wall_is_unix_milliseconds)
{
    struct timespec before;
    struct timespec after;
    uint64_t wall_ms;

    (void)clock_gettime(CLOCK_REALTIME, &before);
    wall_ms = kl_real_clock.wall_ms(NULL);
    (void)clock_gettime(CLOCK_REALTIME, &after);
    CHECK(wall_ms / 1000 >= (uint64_t)before.tv_sec);
    CHECK(wall_ms / 1000 <= (uint64_t)after.tv_sec);
}

/* Every byte asked for is drawn, none behind it is touched, and two draws differ. */
TEST(entropy, fills_what_was_asked)
{
    enum { LEN = 64 };
    uint8_t a[LEN + 1] = {0};
    uint8_t b[LEN] = {0};
    uint8_t ever_set[LEN] = {0};

    a[LEN] = 0xa5;
    for (int i = 0; i < 64; i++) { /* a byte that stays 0 in 64 draws was not drawn (2^-512) */
        CHECK_OK(kl_real_entropy.fill(NULL, a, LEN));
        for (size_t k = 0; k < LEN; k++) {
            ever_set[k] |= a[k];
        }
    }
    for (size_t k = 0; k < LEN; k++) {
        CHECK_NE(ever_set[k], 0);
    }
    CHECK_EQ(a[LEN], 0xa5);
    CHECK_OK(kl_real_entropy.fill(NULL, b, LEN));
    CHECK(memcmp(a, b, LEN) != 0);
    CHECK_OK(kl_real_entropy.fill(NULL, b, 0));
}
