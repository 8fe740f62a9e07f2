/*
 * Tests over cmocka: TEST(suite, name) registers itself; the program's main is in test.c.
 *
 *   TEST(buf, grows) { CHECK_EQ(kl_buf_put(&b, "x", 1), KL_OK); }
 *
 * A failing check prints file, line and both values and ends that test. KLUIS_SEED in the
 * environment replaces the seed of test_seed(); every program prints the seed it used.
 */
#ifndef KL_TEST_H
#define KL_TEST_H

#include "common/bytes.h"
#include "common/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct test_case {
    const char *name;
    void (*run)(void **state);
    struct test_case *next;
};
void test_register(struct test_case *c);

#define TEST(suite, name)                                                                          \
    static void suite##_##name(void **state);                                                      \
    static struct test_case suite##_##name##_case = {#suite "." #name, suite##_##name, NULL};      \
    __attribute__((constructor)) static void suite##_##name##_register(void)                       \
    {                                                                                              \
        test_register(&suite##_##name##_case);                                                     \
    }                                                                                              \
    static void suite##_##name(__attribute__((unused)) void **state)

#define CHECK(condition)         assert_true(condition)
#define CHECK_EQ(a, b)           assert_int_equal((a), (b))
#define CHECK_NE(a, b)           assert_int_not_equal((a), (b))
#define CHECK_STR(a, b)          assert_string_equal((a), (b))
#define CHECK_MEM(a, b, n)       assert_memory_equal((a), (b), (n))
#define CHECK_OK(expr)           test_check_ok((expr), #expr, __FILE__, __LINE__)
#define CHECK_STATUS(expr, want) test_check_status((expr), (want), #expr, __FILE__, __LINE__)

void test_check_ok(enum kl_status st, const char *expr, const char *file, int line);
void test_check_status(enum kl_status st, enum kl_status want, const char *expr, const char *file,
                       int line);

/* The run's seed: KLUIS_SEED, or drawn and printed. */
uint64_t test_seed(void);
/* xorshift64*: a small deterministic generator; *s must not be 0. */
uint64_t test_random(uint64_t *s);

/* A fresh directory below TMPDIR (or /tmp), removed with everything in it when the program ends. */
const char *test_dir(void);

#endif
