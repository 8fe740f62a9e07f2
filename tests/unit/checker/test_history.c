#include "tests/lib/history.h"
#include "tests/lib/test.h"

static enum kl_status read_text(const char *text, struct kl_history *h, char *err, size_t err_len)
{
    char copy[1024];
    FILE *f;
    enum kl_status st;

    (void)snprintf(copy, sizeof copy, "%s", text);
    f = fmemopen(copy, strlen(copy), "r");
    assert_non_null(f);
    kl_history_init(h);
    st = kl_history_read(h, f, err, err_len);
    (void)fclose(f);
    return st;
}

/* What was recorded comes back from its text the same, and failed operations stay out. */
TEST(history, round_trip)
{
    struct kl_history h;
    struct kl_history again;
    char *text = NULL;
    size_t len = 0;
    size_t op = 0;
    char a[256];
    char b[256];
    char err[128];
    FILE *f = open_memstream(&text, &len);

    kl_history_init(&h);
    h.retention_us = 7000;
    CHECK_OK(kl_history_invoke(&h, 1, KL_HISTORY_SET, "db", "v1", NULL, 10, &op));
    CHECK_OK(kl_history_return(&h, op, KL_OK, NULL, "w1", 20));
    CHECK_OK(kl_history_invoke(&h, 2, KL_HISTORY_GET_VERSION, "db", NULL, "w1", 11, &op));
    CHECK_OK(kl_history_return(&h, op, KL_OK, "v1", NULL, 22));
    CHECK_OK(kl_history_invoke(&h, 2, KL_HISTORY_DELETE, "db", NULL, NULL, 30, &op));
    CHECK_OK(kl_history_invoke(&h, 3, KL_HISTORY_PURGE, "db", NULL, NULL, 31, &op));
    CHECK_OK(kl_history_return(&h, op, KL_NOT_FOUND, NULL, NULL, 33));
    CHECK_OK(kl_history_invoke(&h, 3, KL_HISTORY_SET, "db", "v2", NULL, 40, &op));
    kl_history_fail(&h, op);
    CHECK_OK(kl_history_write(&h, f));
    (void)fclose(f);

    CHECK_OK(read_text(text, &again, err, sizeof err));
    CHECK_EQ(again.retention_us, 7000);
    CHECK_EQ(again.ops_n, 4);
    for (size_t i = 0; i < again.ops_n; i++) {
        kl_history_line(&h, i, a, sizeof a);
        kl_history_line(&again, i, b, sizeof b);
        CHECK_STR(a, b);
    }
    CHECK_STR(b, "3 purge db 31 33 NOT_FOUND");
    free(text); /* NOLINT: open_memstream's own */
    kl_history_done(&h);
    kl_history_done(&again);
}

/* Each malformed line is refused with its number. */
TEST(history, refuses_nonsense)
{
    static const char *const bad[] = {
        "",
        "kluis-history 2\n",
        "kluis-history 1\n1 set db 10 20\n",
        "kluis-history 1\n1 put db 10 20 ok\n",
        "kluis-history 1\n1 set db 10 9 ok value=v\n",
        "kluis-history 1\n1 set db 10 - ok value=v\n",
        "kluis-history 1\n1 set db 10 20 WONDERFUL value=v\n",
        "kluis-history 1\nx set db 10 20 ok value=v\n",
        "kluis-history 1\n1 set db 10 20 ok colour=v\n",
        "kluis-history 1\n1 set db 10 20 ok value=v version=w value=v\n",
        "kluis-history 1\nretention_us x\n",
    };
    struct kl_history h;
    char err[128];

    for (size_t i = 1; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(read_text(bad[i], &h, err, sizeof err), KL_CORRUPT);
        CHECK(strstr(err, i == 1 ? "line 1 " : "line 2 ") != NULL);
        kl_history_done(&h);
    }
}

/* Words without end, with blanks or empty are refused and leave the history as it was. */
TEST(history, refuses_bad_words)
{
    struct kl_history h;
    uint32_t w = 77;
    char longer[KL_HISTORY_WORD_MAX + 2];

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    kl_history_init(&h);
    CHECK_STATUS(kl_history_word(&h, "", &w), KL_INVALID_ARGUMENT);
    CHECK_STATUS(kl_history_word(&h, "a b", &w), KL_INVALID_ARGUMENT);
    CHECK_STATUS(kl_history_word(&h, longer, &w), KL_INVALID_ARGUMENT);
    CHECK_EQ(w, 77);
    CHECK_OK(kl_history_word(&h, longer + 1, &w));
    kl_history_done(&h);
}

/* A word keeps its number however many others come. */
TEST(history, many_words)
{
    struct kl_history h;
    char text[16];
    uint32_t w;

    kl_history_init(&h);
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 1; i <= 5000; i++) {
            (void)snprintf(text, sizeof text, "w%u", i);
            CHECK_OK(kl_history_word(&h, text, &w));
            CHECK_EQ(w, i);
            CHECK_STR(kl_history_text(&h, w), text);
        }
    }
    kl_history_done(&h);
}
