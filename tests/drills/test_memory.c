#include "tests/drills/memory.h"
#include "tests/lib/test.h"

enum { N = 240, EVERY_MS = 30000, BASE_KIB = 40 * 1024, STEP_MS = 1000 };

static struct memory_sample samples[N];

/* A sample every 30 s over two hours; a new process after each `life` samples (0: never), which grows by
 * leak_kib_per_min on top of what it has after its first minute. */
static struct memory_report run(unsigned life, uint64_t leak_kib_per_min)
{
    for (unsigned i = 0; i < N; i++) {
        unsigned nth = life == 0 ? i : i % life;
        uint64_t age_ms = STEP_MS + (uint64_t)nth * EVERY_MS;

        samples[i] = (struct memory_sample){
            .at_ms = (uint64_t)i * EVERY_MS,
            .age_ms = age_ms,
            .pid = life == 0 ? 1 : 1 + (int64_t)(i / life),
            .anon_kib = (age_ms < 60000 ? BASE_KIB * (age_ms + 20000) / 80000 : BASE_KIB) +
                        leak_kib_per_min * age_ms / 60000,
        };
    }
    return memory_judge(samples, N);
}

/* What does not grow is flat, and what wavers within the margin is, too. */
TEST(memory, flat)
{
    CHECK_EQ(run(0, 0).verdict, MEMORY_FLAT);
    for (unsigned i = 0; i < N; i++) {
        samples[i].anon_kib += (uint64_t)i * 7919 % 8192;
    }
    CHECK_EQ(memory_judge(samples, N).verdict, MEMORY_FLAT);
}

/* Processes that begin small and are ended again and again are no growth. */
TEST(memory, saw_of_restarts_is_flat)
{
    struct memory_report r = run(8, 0);

    CHECK_EQ(r.verdict, MEMORY_FLAT);
    CHECK(r.growth_over_ms > 600000);
    CHECK_EQ(run(3, 0).verdict, MEMORY_FLAT);
}

/* Processes that begin high after a kill and low after a clean stop, in any order, are no growth; a
 * beginning that gets higher from process to process is. */
TEST(memory, high_and_low_beginnings_are_flat)
{
    (void)run(8, 0);
    for (unsigned i = 0; i < N; i++) {
        samples[i].anon_kib += i < 60 ? (i / 8 % 4 == 3 ? 45 * 1024 : 0) : i >= 160 ? 45 * 1024 : 0;
    }
    CHECK_EQ(memory_judge(samples, N).verdict, MEMORY_FLAT);
    (void)run(8, 0);
    for (unsigned i = 0; i < N; i++) {
        samples[i].anon_kib += (uint64_t)(i / 8) * 4096;
    }
    CHECK_EQ(memory_judge(samples, N).verdict, MEMORY_GROWS);
}

/* 5 MiB a minute is found in a process that lives on, by the high-water marks alone as well. */
TEST(memory, leak_is_found)
{
    struct memory_report r = run(0, 5120);

    CHECK_EQ(r.verdict, MEMORY_GROWS);
    CHECK_EQ(r.growth_kib_per_min, 5120);
    for (unsigned i = 0; i < N; i++) {
        samples[i].age_ms = 1; /* no growth within a process is counted */
    }
    r = memory_judge(samples, N);
    CHECK_EQ(r.growth_over_ms, 0);
    CHECK_EQ(r.verdict, MEMORY_GROWS);
}

/* And in processes that are ended every four minutes, where the high-water marks say nothing. */
TEST(memory, leak_is_found_under_restarts)
{
    struct memory_report r = run(8, 5120);

    CHECK(r.late_kib <= r.early_kib + 32 * 1024);
    CHECK_EQ(r.growth_kib_per_min, 5120);
    CHECK_EQ(r.verdict, MEMORY_GROWS);
}

/* Growth within a process: 3 MiB a minute is allowed, more is not. */
TEST(memory, limits_are_as_said)
{
    CHECK_EQ(run(8, 3072).verdict, MEMORY_FLAT);
    CHECK_EQ(run(8, 3150).verdict, MEMORY_GROWS);
}

TEST(memory, short_runs_are_not_judged)
{
    (void)run(0, 0);
    CHECK_EQ(memory_judge(samples, 0).verdict, MEMORY_TOO_SHORT);
    CHECK_EQ(memory_judge(samples, 1).verdict, MEMORY_TOO_SHORT);
    CHECK_EQ(memory_judge(samples, 3).verdict, MEMORY_TOO_SHORT);
    CHECK_EQ(memory_judge(samples, 60).verdict, MEMORY_TOO_SHORT);
    CHECK_EQ(memory_judge(samples, 61).verdict, MEMORY_FLAT);
}
