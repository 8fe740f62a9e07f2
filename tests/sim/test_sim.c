/*
 * The simulation itself: the same seed tells the same story, and its checks find what is wrong,
 * be it planted here or in libraft (where a cover of server/raft is taken away).
 */
#include "tests/sim/run.h"

#include "tests/lib/test.h"

#include <string.h>

enum { SEEDS_MAX = 1000 };

/* Looks from a seed on that showed it when this was written. */
static bool found_from(uint64_t from, const struct sim_options *options, const char *words)
{
    for (uint64_t seed = from; seed < from + SEEDS_MAX; seed++) {
        struct sim_outcome out;

        sim_run_seed(seed, options, &out);
        if (out.failed && strstr(out.text, words) != NULL) {
            printf("seed %llu: %.100s\n", (unsigned long long)seed, out.text);
            return true;
        }
    }
    return false;
}

static bool found(const struct sim_options *options, const char *words)
{
    return found_from(1, options, words);
}

static bool finds(enum sim_sabotage sabotage, const char *words)
{
    return found(&(struct sim_options){.sabotage = sabotage}, words);
}

/* Two runs of a seed, with another in between, are the same event for event. */
TEST(sim, same_seed_same_trace)
{
    static const struct sim_options plain = {0};

    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct sim_outcome first;
        struct sim_outcome other;
        struct sim_outcome again;

        sim_run_seed(seed, &plain, &first);
        sim_run_seed(seed + 1, &plain, &other);
        sim_run_seed(seed, &plain, &again);
        CHECK(first.trace == again.trace);
        CHECK(first.trace != other.trace);
        CHECK(first.events == again.events && first.events > 100);
        CHECK(memcmp(&first.stats, &again.stats, sizeof first.stats) == 0);
    }
}

/* The seeds see what they are meant to: crashes, cuts, snapshots, streams, joins, purges. */
TEST(sim, trouble_happens)
{
    static const struct sim_options plain = {0};
    struct sim_stats sum = {0};

    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct sim_outcome out;

        sim_run_seed(seed, &plain, &out);
        CHECK(!out.failed);
        sum.crashes += out.stats.crashes;
        sum.cuts += out.stats.cuts;
        sum.snapshots += out.stats.snapshots;
        sum.adopted += out.stats.adopted;
        sum.joins += out.stats.joins;
        sum.purges += out.stats.purges;
        sum.elections += out.stats.elections;
        sum.fatals += out.stats.fatals;
        sum.region_losses += out.stats.region_losses;
    }
    CHECK(sum.crashes > 100 && sum.cuts > 100 && sum.snapshots > 100 && sum.elections > 200);
    CHECK(sum.adopted > 10 && sum.joins > 10 && sum.purges > 10 && sum.fatals > 0);
    CHECK(sum.region_losses > 10);
}

/* Reads without a lease are stale sooner or later. */
TEST(sim, finds_stale_reads)
{
    CHECK(finds(SIM_SABOTAGE_STALE_READ, "not linearizable"));
}

/* A replica that says it is younger than it is. */
TEST(sim, finds_wrong_ages)
{
    CHECK(finds(SIM_SABOTAGE_YOUNG, "the age is not true"));
}

/* A disk that loses what it said it had. */
TEST(sim, finds_lost_writes)
{
    CHECK(finds(SIM_SABOTAGE_AMNESIA, ""));
}

/* A node that forgets its vote may give it to two. */
TEST(sim, finds_lost_votes)
{
    CHECK(found_from(95, &(struct sim_options){.sabotage = SIM_SABOTAGE_LOST_VOTE}, ""));
}

/* A retry that is not recognised as one. */
TEST(sim, finds_doubled_writes)
{
    CHECK(finds(SIM_SABOTAGE_TWICE, ""));
}

/* A store that holds something else than the others. */
TEST(sim, finds_divergence)
{
    CHECK(finds(SIM_SABOTAGE_DIVERGE, "differs from another"));
}

/* A stamp from the future, and a secret that goes before its time. */
TEST(sim, finds_early_purges)
{
    CHECK(finds(SIM_SABOTAGE_FAST_CLOCK, "early purge"));
}

/* A node that stops and leaves memory behind. */
TEST(sim, finds_leaks)
{
    CHECK(finds(SIM_SABOTAGE_LEAK, "of memory"));
}

/* Leaders outside of their home that do not go back. */
TEST(sim, finds_astray_leaders)
{
    CHECK(finds(SIM_SABOTAGE_ASTRAY, "does not come home"));
}

/* N11: the only voter leads again in an old term. */
TEST(sim, without_cover_n11)
{
    CHECK(found(&(struct sim_options){.covers_off = 1u << 11}, ""));
}

/* N13: a promotion that a crash interrupts leaves nobody to vote. */
TEST(sim, without_cover_n13)
{
    CHECK(found_from(74, &(struct sim_options){.covers_off = 1u << 13, .members = true},
                     "no recovery"));
}

/* N15: a snapshot between two configurations keeps the older one. */
TEST(sim, without_cover_n15)
{
    CHECK(found_from(1115, &(struct sim_options){.covers_off = 1u << 15, .members = true},
                     "no recovery"));
}
