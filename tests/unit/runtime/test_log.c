#include "tests/lib/test.h"

#include "common/limits.h"
#include "server/runtime/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

enum { OUT_MAX = 16384 };

/* stderr goes into a pipe between begin and end. */
struct capture {
    int saved;
    int from;
    char text[OUT_MAX];
};

static void capture_begin(struct capture *c)
{
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    c->saved = dup(STDERR_FILENO);
    assert_true(c->saved >= 0 && dup2(fds[1], STDERR_FILENO) >= 0);
    (void)close(fds[1]);
    c->from = fds[0];
}

static size_t capture_end(struct capture *c)
{
    ssize_t n = read(c->from, c->text, sizeof c->text - 1);

    (void)dup2(c->saved, STDERR_FILENO);
    (void)close(c->saved);
    (void)close(c->from);
    c->text[n < 0 ? 0 : n] = '\0';
    return n < 0 ? 0 : (size_t)n;
}

/* What stands behind the time. */
static const char *rest(const struct capture *c)
{
    return c->text + strlen("2026-01-02T03:04:05.678Z");
}

/* A line is time, level, area, message and pairs, then one newline. */
TEST(log, line_format)
{
    struct capture c;

    capture_begin(&c);
    kl_log(KL_LOG_WARN, "raft", "group=%u term=%" PRIu64 " \"leader lost\"", 1u, UINT64_C(7));
    CHECK(capture_end(&c) != 0);
    CHECK_STR(rest(&c), " warn raft group=1 term=7 \"leader lost\"\n");
    for (size_t i = 0; i < 24; i++) {
        static const char form[] = "dddd-dd-ddTdd:dd:dd.dddZ";

        if (form[i] == 'd') {
            CHECK(c.text[i] >= '0' && c.text[i] <= '9');
        } else {
            CHECK_EQ(c.text[i], form[i]);
        }
    }
}

/* Values with blanks are quoted, and neither a quote nor a newline in one can forge anything. */
TEST(log, values_are_quoted)
{
    struct capture c;

    capture_begin(&c);
    kl_log(KL_LOG_ERROR, "rpc", "\"bad peer\" remote=%s name=%s why=%s none=%s n=%d", "127.0.0.1:1",
           "a b", "x\"y\n2026 error", "", -3);
    (void)capture_end(&c);
    CHECK_STR(rest(&c), " error rpc \"bad peer\" remote=127.0.0.1:1 name=\"a b\" "
                        "why=\"x\\\"y\\x0a2026 error\" none=\"\" n=-3\n");
}

/* Text outside of values cannot begin a new line either, and bytes that are not ASCII are escaped. */
TEST(log, control_characters_are_escaped)
{
    struct capture c;

    capture_begin(&c);
    kl_log(KL_LOG_ERROR, "main", "said %s", "one\ntwo\x1b[31m\xc3\xa9");
    (void)capture_end(&c);
    CHECK_STR(rest(&c), " error main said one\\x0atwo\\x1b[31m\\xc3\\xa9\n");
}

/* Every conversion the code base uses comes out as printf has it. */
TEST(log, conversions)
{
    struct capture c;

    capture_begin(&c);
    errno = ENOENT;
    kl_log(KL_LOG_INFO, "t", "a=%zu b=%ld c=%llu d=%x e=%5.2f f=%c g=%% h=%.*s j=%hhu k=%-4dl",
           (size_t)1, -2L, 3ULL, 0xabu, 1.5, 'z', 2, "xyz", (unsigned char)200, 7);
    CHECK_EQ(errno, ENOENT);
    (void)capture_end(&c);
    CHECK_STR(rest(&c), " info t a=1 b=-2 c=3 d=ab e=\" 1.50\" f=z g=% h=xy "
                        "j=200 k=\"7   \"l\n");
}

/* A line over the limit is cut, still ends with a newline, and says so. */
TEST(log, long_lines_are_cut)
{
    static const size_t head_len = sizeof "2026-01-02T03:04:05.678Z info main " - 1;
    struct capture c;
    char text[3 * KL_LOG_LINE_MAX];
    bool cut;
    size_t n;

    for (size_t len = KL_LOG_LINE_MAX - 60; len < KL_LOG_LINE_MAX + 10; len++) {
        for (size_t i = 0; i < len; i++) {
            text[i] = 'a';
        }
        text[len] = '\0';
        capture_begin(&c);
        kl_log(KL_LOG_INFO, "main", "%s", text);
        n = capture_end(&c);
        CHECK(n <= KL_LOG_LINE_MAX);
        CHECK(strchr(c.text, '\n') == c.text + n - 1);
        cut = strcmp(c.text + n - 4, "...\n") == 0;
        CHECK_EQ(cut, len + head_len + 4 > KL_LOG_LINE_MAX);
        if (!cut) {
            CHECK_EQ(n, head_len + len + 1);
        }
    }
}

/* Lines below the level are not written; errors always are. */
TEST(log, level)
{
    struct capture c;
    enum kl_log_level level = KL_LOG_DEBUG;

    CHECK_OK(kl_log_level_parse("warn", &level));
    CHECK_EQ(level, KL_LOG_WARN);
    CHECK_STATUS(kl_log_level_parse("Warn", &level), KL_INVALID_ARGUMENT);
    CHECK_STATUS(kl_log_level_parse("", &level), KL_INVALID_ARGUMENT);
    CHECK_EQ(level, KL_LOG_WARN); /* untouched on failure */
    kl_log_set_level(level);
    capture_begin(&c);
    kl_log(KL_LOG_INFO, "main", "not this");
    kl_log(KL_LOG_WARN, "main", "this");
    kl_log(KL_LOG_DEBUG, "main", "not this");
    (void)capture_end(&c);
    kl_log_set_level(KL_LOG_INFO);
    CHECK_STR(rest(&c), " warn main this\n");
}
