#include "tests/lib/test.h"

#include "common/names.h"

#include <ftw.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TESTS_MAX = 1024, DIRS_MAX = 256 };

static struct test_case *first;
static struct test_case **last = &first;
static char dirs[DIRS_MAX][256];
static size_t dirs_n;

void test_register(struct test_case *c)
{
    *last = c;
    last = &c->next;
}

void test_check_ok(enum kl_status st, const char *expr, const char *file, int line)
{
    test_check_status(st, KL_OK, expr, file, line);
}

void test_check_status(enum kl_status st, enum kl_status want, const char *expr, const char *file,
                       int line)
{
    if (st != want) {
        print_error("%s: is %s, should be %s\n", expr, kl_status_name(st), kl_status_name(want));
        _fail(file, line);
    }
}

uint64_t test_seed(void)
{
    static uint64_t seed;

    if (seed == 0) {
        const char *text = getenv("KLUIS_SEED");
        struct timespec now;

        if (text == NULL || kl_number_parse(text, 1, UINT64_MAX, &seed) != KL_OK) {
            (void)clock_gettime(CLOCK_REALTIME, &now);
            seed = ((uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec) | 1u;
        }
        printf("KLUIS_SEED=%llu\n", (unsigned long long)seed);
    }
    return seed;
}

uint64_t test_random(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 2685821657736338717ULL;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void remove_dirs(void)
{
    for (size_t i = 0; i < dirs_n; i++) {
        (void)nftw(dirs[i], remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
}

const char *test_dir(void)
{
    const char *base = getenv("TMPDIR");
    char *dir = dirs[dirs_n];

    assert_true(dirs_n < DIRS_MAX);
    (void)snprintf(dir, sizeof dirs[0], "%s/kluis-test-XXXXXX", base == NULL ? "/tmp" : base);
    assert_non_null(mkdtemp(dir));
    if (dirs_n++ == 0) {
        (void)atexit(remove_dirs);
    }
    return dir;
}

/* Weak: a program with its own main may use the rest. */
__attribute__((weak)) int main(int argc, char **argv)
{
    static struct CMUnitTest tests[TESTS_MAX];
    size_t n = 0;

    for (struct test_case *c = first; c != NULL && n < TESTS_MAX; c = c->next) {
        tests[n++] = (struct CMUnitTest){c->name, c->run, NULL, NULL, NULL};
    }
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]); /* a name with * and ? */
    }
    if (_cmocka_run_group_tests(argv[0], tests, n, NULL, NULL) == 0) {
        return 0;
    }
    /* A test that failed has left its threads behind: they still use what exit() takes down. */
    remove_dirs();
    (void)fflush(NULL);
    _exit(1);
}
