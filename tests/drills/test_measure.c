/* Histories written by hand: each count of what must not happen can be 1, and then no verdict passes. */
#include "tests/drills/drill.h"
#include "tests/lib/test.h"

#include <string.h>

/* What the cluster holds at the end in place of one. */
static const struct drill_version *held;
static size_t held_n;

static size_t versions_held(struct drill *d, const char *name, struct drill_version *out,
                            size_t max)
{
    (void)d;
    CHECK_STR(name, "s0");
    CHECK(held_n <= max);
    memcpy(out, held, held_n * sizeof *out);
    return held_n;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    CHECK(fprintf(f, "kluis-history 1\n%s", text) > 0);
    CHECK_EQ(fclose(f), 0);
}

#define GARDEN "# garden g0-0 1000 8000000 purged\n"
#define WRITES                                                                                     \
    "1 set s0 1000 2000 ok value=a version=A\n"                                                    \
    "1 set s0 3000 4000 ok value=b version=B\n"

/* Measures a drill of ten milliseconds whose client in west did this, and judges it. */
static struct drill *measured(const char *west, const struct drill_version *versions, size_t n)
{
    static struct drill d;

    held = versions;
    held_n = n;
    d = (struct drill){.kind = &kl_drills[0], .ended_us = 10000};
    for (unsigned s = 0; s < SITE_CLIENTS; s++) {
        (void)snprintf(d.out[s], sizeof d.out[s], "%s/%s", test_dir(), site_name(s));
        write_file(d.out[s], s == SITE_WEST ? west : "");
    }
    (void)snprintf(d.all, sizeof d.all, "%s/all", test_dir());
    d.cost.digests_equal = d.cost.nodes_good = true;
    drill_measure(&d, versions_held);
    d.passed = drill_judge(&d);
    return &d;
}

static const struct drill_version both[] = {{"A", "a"}, {"B", "b"}};

static void check_counts(const struct drill *d, uint64_t lost, uint64_t doubled, uint64_t stale,
                         uint64_t early)
{
    CHECK_EQ(d->cost.lost, lost);
    CHECK_EQ(d->cost.doubled, doubled);
    CHECK_EQ(d->cost.stale, stale);
    CHECK_EQ(d->cost.early, early);
}

TEST(measure, clean_history_passes)
{
    struct drill *d = measured(WRITES "1 get s0 5000 6000 ok value=b version=B\n" GARDEN, both, 2);

    check_counts(d, 0, 0, 0, 0);
    CHECK(d->cost.linearizable);
    CHECK_EQ(d->cost.writes, 2);
    CHECK_EQ(d->cost.reads, 1);
    CHECK_EQ(d->cost.purged, 1);
    CHECK_STR(d->why, "");
    CHECK(d->passed);
}

/* An acknowledged write that the cluster does not hold, which no read has missed. */
TEST(measure, lost_write_fails)
{
    struct drill *d =
        measured(WRITES "1 get s0 5000 6000 ok value=b version=B\n" GARDEN, &both[1], 1);

    check_counts(d, 1, 0, 0, 0);
    CHECK(d->cost.linearizable);
    CHECK_STR(d->why, "acknowledged writes lost: 1, at most 0");
    CHECK(!d->passed);
}

/* A write without an answer may be there or not, but once. */
TEST(measure, unknown_write_may_be_absent)
{
    CHECK(measured(WRITES "1 get s0 5000 6000 ok value=b version=B\n"
                          "2 set s0 5000 - unknown value=c\n" GARDEN,
                   both, 2)
              ->passed);
}

TEST(measure, doubled_write_fails)
{
    static const struct drill_version twice[] = {{"A", "a"}, {"B", "b"}, {"C", "a"}};
    struct drill *d = measured(WRITES "1 get s0 5000 6000 ok value=b version=B\n" GARDEN, twice, 3);

    check_counts(d, 0, 1, 0, 0);
    CHECK(d->cost.linearizable);
    CHECK_STR(d->why, "writes done twice: 1, at most 0");
    CHECK(!d->passed);
}

/* A value that was replaced before the read began; the checker says so as well. */
TEST(measure, stale_read_fails)
{
    struct drill *d = measured(WRITES "1 get s0 5000 6000 ok value=a version=A\n" GARDEN, both, 2);

    check_counts(d, 0, 0, 1, 0);
    CHECK(!d->cost.linearizable);
    CHECK_STR(d->why, "stale reads: 1, at most 0");
    CHECK(!d->passed);
    d = measured(WRITES "1 get s0 5000 6000 NOT_FOUND\n" GARDEN, both, 2);
    check_counts(d, 0, 0, 1, 0);
    CHECK(!d->passed);
}

/* A read beside the write may show either. */
TEST(measure, read_beside_a_write_is_not_stale)
{
    struct drill *d = measured(WRITES "2 get s0 3500 6000 ok value=a version=A\n" GARDEN, both, 2);

    check_counts(d, 0, 0, 0, 0);
    CHECK(d->passed);
}

TEST(measure, early_purge_fails)
{
    struct drill *d = measured(WRITES "1 get s0 5000 6000 ok value=b version=B\n" GARDEN
                                      "# garden g0-1 1000 5000 early\n",
                               both, 2);

    check_counts(d, 0, 0, 0, 1);
    CHECK_EQ(d->cost.planted, 2);
    CHECK_STR(d->why, "purges too early: 1, at most 0");
    CHECK(!d->passed);
}

/* What was not watched proves nothing. */
TEST(measure, nothing_watched_fails)
{
    CHECK(!measured(WRITES "1 get s0 5000 6000 ok value=b version=B\n", both, 2)->passed);
    CHECK(!measured(WRITES GARDEN, both, 2)->passed);
}

/* The checker's part: a name that is also deleted, outside of the counts above. */
TEST(measure, history_that_is_not_linearizable_fails)
{
    struct drill *d = measured(WRITES "1 get s0 5000 6000 ok value=b version=B\n"
                                      "1 set s1 1000 2000 ok value=x version=X\n"
                                      "1 get s1 3000 4000 NOT_FOUND\n" GARDEN,
                               both, 2);

    check_counts(d, 0, 0, 0, 0);
    CHECK(!d->cost.linearizable);
    CHECK(!d->passed);
}
