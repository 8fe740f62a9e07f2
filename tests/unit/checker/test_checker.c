#include "tests/lib/checker.h"
#include "tests/lib/test.h"

/* Checks operations given as text, one per line. */
static struct kl_check_result check_with(const char *ops, uint64_t retention_us,
                                         const struct kl_check_limits *limits)
{
    struct kl_history h;
    struct kl_check_result result;
    char text[8192];
    char err[128] = "";
    FILE *f;

    (void)snprintf(text, sizeof text, "kluis-history 1\n%s", ops);
    f = fmemopen(text, strlen(text), "r");
    assert_non_null(f);
    kl_history_init(&h);
    if (kl_history_read(&h, f, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    (void)fclose(f);
    h.retention_us = retention_us;
    CHECK_OK(kl_check_history(&h, limits, &result));
    kl_history_done(&h);
    return result;
}

static enum kl_check_verdict check(const char *ops)
{
    return check_with(ops, 0, NULL).verdict;
}

#define GOOD(ops) CHECK_EQ(check(ops), KL_CHECK_LINEARIZABLE)
#define BAD(ops)  CHECK_EQ(check(ops), KL_CHECK_VIOLATION)

/* A whole life in sequence is linearizable. */
TEST(checker, life_in_sequence)
{
    GOOD("1 get db 1 2 NOT_FOUND\n"
         "1 set db 3 4 ok value=a version=A\n"
         "1 set db 5 6 ok value=b version=B\n"
         "1 get db 7 8 ok value=b version=B\n"
         "1 get-version db 9 10 ok value=a version=A\n"
         "1 delete db 11 12 ok\n"
         "1 get db 13 14 NOT_FOUND\n"
         "1 get-version db 13 14 NOT_FOUND version=A\n"
         "1 set db 15 16 DELETED value=x\n"
         "1 get-deleted db 17 18 ok version=B\n"
         "1 recover db 19 20 ok\n"
         "1 get-version db 21 22 ok value=a version=A\n"
         "1 recover db 23 24 NOT_FOUND\n"
         "1 delete db 25 26 ok\n"
         "1 purge db 27 28 ok\n"
         "1 get-deleted db 29 30 NOT_FOUND\n"
         "1 set db 31 32 ok value=c version=C\n"
         "1 get-version db 33 34 NOT_FOUND version=A\n"
         "1 get db 35 36 ok value=c version=C\n");
}

/* Operations that overlap may take effect in either order. */
TEST(checker, overlap_in_any_order)
{
    GOOD("1 set db 1 10 ok value=a\n2 set db 2 9 ok value=b\n3 get db 11 12 ok value=a\n");
    GOOD("1 set db 1 10 ok value=a\n2 set db 2 9 ok value=b\n3 get db 11 12 ok value=b\n");
    GOOD("1 set db 1 10 ok value=a\n2 get db 2 3 NOT_FOUND\n2 get db 4 5 ok value=a\n");
    GOOD("1 set db 1 10 ok value=a\n2 delete db 2 9 ok\n3 get db 3 8 NOT_FOUND\n");
}

/* Intervals that only touch count as overlapping: two clocks' equal stamps prove no order. */
TEST(checker, touching_intervals_overlap)
{
    GOOD("1 set db 1 5 ok value=a\n2 get db 5 6 NOT_FOUND\n");
    BAD("1 set db 1 5 ok value=a\n2 get db 6 7 NOT_FOUND\n");
}

/* Canary: a read that misses an acknowledged write. */
TEST(checker, stale_read)
{
    BAD("1 set db 1 2 ok value=a\n1 set db 3 4 ok value=b\n2 get db 5 6 ok value=a\n");
    BAD("1 set db 1 2 ok value=a\n2 get db 3 4 NOT_FOUND\n");
    /* Once the new value was seen nobody may see the old one, even while the set is under way. */
    BAD("1 set db 1 2 ok value=a\n1 set db 3 20 ok value=b\n"
        "2 get db 4 5 ok value=b\n3 get db 6 7 ok value=a\n");
}

/* Canary: an acknowledged write is lost. */
TEST(checker, lost_write)
{
    BAD("1 set db 1 2 ok value=a version=A\n1 set db 3 4 ok value=b version=B\n"
        "1 set db 5 6 ok value=c version=C\n2 get-version db 7 8 NOT_FOUND version=B\n");
    BAD("1 set db 1 2 ok value=a version=A\n1 delete db 3 4 NOT_FOUND\n");
}

/* Canary: a write is done twice (its retry comes after another write). */
TEST(checker, doubled_write)
{
    BAD("1 set db 1 2 ok value=a\n2 set db 3 4 ok value=b\n3 get db 5 6 ok value=b\n"
        "3 get db 7 8 ok value=a\n");
    BAD("1 delete db 1 2 NOT_FOUND\n1 set db 3 4 ok value=a\n2 delete db 5 6 ok\n"
        "2 recover db 7 8 ok\n3 get db 9 10 NOT_FOUND\n");
}

/* Canary: one write made two versions. */
TEST(checker, one_value_two_versions)
{
    BAD("1 set db 1 2 ok value=a version=A\n2 get db 3 4 ok value=a version=B\n");
    BAD("1 set db 1 2 ok value=a version=A\n1 set db 3 4 ok value=b version=A\n");
}

/* Canary: a purged secret comes back. */
TEST(checker, resurrected)
{
    BAD("1 set db 1 2 ok value=a\n1 delete db 3 4 ok\n1 purge db 5 6 ok\n"
        "2 get db 7 8 ok value=a\n");
    BAD("1 set db 1 2 ok value=a\n1 delete db 3 4 ok\n1 purge db 5 6 ok\n2 recover db 7 8 ok\n");
    BAD("1 set db 1 2 ok value=a version=A\n1 delete db 3 4 ok\n1 purge db 5 6 ok\n"
        "1 set db 7 8 ok value=b version=B\n2 get-version db 9 10 ok value=a version=A\n");
}

/* Canary: a deleted secret is read. */
TEST(checker, read_of_deleted)
{
    BAD("1 set db 1 2 ok value=a\n1 delete db 3 4 ok\n2 get db 5 6 ok value=a\n");
    BAD("1 set db 1 2 ok value=a version=A\n1 delete db 3 4 ok\n"
        "2 get-version db 5 6 ok value=a version=A\n");
    BAD("1 set db 1 2 ok value=a\n1 delete db 3 4 ok\n2 set db 5 6 ok value=b\n");
}

/* Canary: a value that nobody wrote, or that was written under another name. */
TEST(checker, invented_value)
{
    BAD("1 set db 1 2 ok value=a\n2 get db 3 4 ok value=z\n");
    BAD("1 set db 1 2 ok value=a\n1 set kv 1 2 ok value=b\n2 get db 3 4 ok value=b\n");
}

/* A write of unknown outcome may happen late, early or never, but only once. */
TEST(checker, unknown_outcome)
{
    GOOD("1 set db 1 - unknown value=a\n2 get db 2 3 NOT_FOUND\n2 get db 50 51 ok value=a\n");
    GOOD("1 set db 1 - unknown value=a\n2 get db 2 3 ok value=a\n2 get db 50 51 ok value=a\n");
    GOOD("1 set db 1 - unknown value=a\n2 get db 2 3 NOT_FOUND\n2 get db 50 51 NOT_FOUND\n");
    BAD("1 set db 1 - unknown value=a\n2 get db 2 3 ok value=a\n2 get db 50 51 NOT_FOUND\n");
    BAD("2 get db 1 2 ok value=a\n1 set db 3 - unknown value=a\n");
    GOOD("1 set db 1 2 ok value=a\n1 delete db 3 - unknown\n2 get db 4 5 NOT_FOUND\n"
         "2 recover db 6 7 ok\n2 get db 8 9 ok value=a\n");
    BAD("1 set db 1 2 ok value=a\n1 delete db 3 - unknown\n2 get db 4 5 NOT_FOUND\n"
        "2 recover db 6 7 ok\n2 get db 8 9 NOT_FOUND\n");
    BAD("1 set db 1 2 ok value=a\n1 set db 3 - unknown value=b\n2 get db 4 5 ok value=b\n"
        "3 set db 6 7 ok value=c\n2 get db 8 9 ok value=b\n");
}

/* A deletion ends by itself once its retention has passed, not before, and only that deletion. */
TEST(checker, retention)
{
    static const char *const late = "1 set db 1 2 ok value=a\n1 delete db 10 11 ok\n"
                                    "2 get-deleted db 110 111 NOT_FOUND\n"
                                    "2 set db 112 113 ok value=b\n";
    static const char *const early = "1 set db 1 2 ok value=a\n1 delete db 10 11 ok\n"
                                     "2 get-deleted db 107 108 NOT_FOUND\n";
    static const char *const other = "1 set db 1 2 ok value=a\n1 delete db 10 11 ok\n"
                                     "1 recover db 12 13 ok\n1 delete db 60 61 ok\n"
                                     "2 get-deleted db 120 121 NOT_FOUND\n";

    CHECK_EQ(check_with(late, 100, NULL).verdict, KL_CHECK_LINEARIZABLE);
    CHECK_EQ(check_with(late, 0, NULL).verdict, KL_CHECK_VIOLATION);
    CHECK_EQ(check_with(early, 100, NULL).verdict, KL_CHECK_VIOLATION);
    CHECK_EQ(check_with(other, 100, NULL).verdict, KL_CHECK_VIOLATION);
    CHECK_EQ(check_with(other, 50, NULL).verdict, KL_CHECK_LINEARIZABLE);
}

/* Refusals that say nothing about the object, and failed operations, constrain nothing. */
TEST(checker, other_refusals)
{
    GOOD("1 set db 1 2 ok value=a\n1 set db 3 4 NO_SPACE value=b\n2 get db 5 6 ok value=a\n"
         "1 delete db 7 8 ok\n1 purge db 9 10 PURGE_PROTECTED\n1 recover db 11 12 ok\n");
    GOOD("1 get-version db 1 2 NOT_FOUND version=Q\n");
    GOOD("1 set kv 1 2 ok value=a version=Q\n1 get-version db 3 4 NOT_FOUND version=Q\n");
    BAD("1 get-version db 1 2 ok version=Q\n");
}

/* The result names what could not be explained. */
TEST(checker, says_what)
{
    struct kl_check_result r = check_with("1 set db 1 2 ok value=a\n1 set kv 1 2 ok value=k\n"
                                          "1 set db 3 4 ok value=b\n2 get db 5 6 ok value=a\n",
                                          0, NULL);

    CHECK_EQ(r.verdict, KL_CHECK_VIOLATION);
    CHECK_STR(r.name, "db");
    CHECK(strstr(r.text, "2 get db 5 6 ok value=a") != NULL);
}

/* Two sets of one value make a history that cannot be judged. */
TEST(checker, same_value_twice)
{
    struct kl_history h;
    struct kl_check_result r;
    size_t op;

    kl_history_init(&h);
    CHECK_OK(kl_history_invoke(&h, 1, KL_HISTORY_SET, "db", "a", NULL, 1, &op));
    CHECK_OK(kl_history_invoke(&h, 1, KL_HISTORY_SET, "db", "a", NULL, 2, &op));
    CHECK_STATUS(kl_check_history(&h, NULL, &r), KL_INVALID_ARGUMENT);
    kl_history_done(&h);
}

/* Limits end a hopeless search with UNDECIDED, never with a verdict. */
TEST(checker, undecided)
{
    char ops[4096];
    size_t at = 0;
    struct kl_check_limits few_steps = {.steps_max = 1000};
    struct kl_check_limits little_memory = {.memory_max = 60000};

    for (int i = 0; i < 24; i++) {
        at +=
            (size_t)snprintf(ops + at, sizeof ops - at, "%d set db 1 - unknown value=v%d\n", i, i);
    }
    at += (size_t)snprintf(ops + at, sizeof ops - at,
                           "90 set db 2 3 ok value=x version=X\n91 get db 4 5 ok value=x\n"
                           "91 delete db 6 7 ok\n91 get db 8 9 ok value=x\n");
    CHECK_EQ(check_with(ops, 0, &few_steps).verdict, KL_CHECK_UNDECIDED);
    CHECK_EQ(check_with(ops, 0, &little_memory).verdict, KL_CHECK_UNDECIDED);
}

/* A long history with many clients and lost answers is decided quickly. */
TEST(checker, long_history)
{
    struct kl_history h;
    struct kl_check_result r;
    uint64_t s = test_seed();
    char value[16];
    char current[16] = "";
    size_t op;

    kl_history_init(&h);
    for (uint64_t t = 1; t < 20000; t++) {
        (void)snprintf(value, sizeof value, "v%llu", (unsigned long long)t);
        if (test_random(&s) % 3 == 0) {
            CHECK_OK(kl_history_invoke(&h, 1, KL_HISTORY_SET, "db", value, NULL, t * 10, &op));
            if (test_random(&s) % 20 != 0) {
                CHECK_OK(kl_history_return(&h, op, KL_OK, NULL, NULL, t * 10 + 25));
                memcpy(current, value, sizeof value);
            } else if (test_random(&s) % 2 == 0) {
                memcpy(current, value, sizeof value); /* done, but the answer is lost */
            }
        } else {
            CHECK_OK(kl_history_invoke(&h, 2, KL_HISTORY_GET, "db", NULL, NULL, t * 10, &op));
            CHECK_OK(kl_history_return(&h, op, current[0] == '\0' ? KL_NOT_FOUND : KL_OK,
                                       current[0] == '\0' ? NULL : current, NULL, t * 10 + 5));
        }
    }
    CHECK_OK(kl_check_history(&h, NULL, &r));
    CHECK_EQ(r.verdict, KL_CHECK_LINEARIZABLE);
    kl_history_done(&h);
}
