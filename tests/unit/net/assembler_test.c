/* Messages put together from frames. */
#include "common/alloc.h"
#include "common/limits.h"
#include "common/net/net.h"
#include "tests/lib/test.h"

static struct kl_frame part(enum kl_frame_type type, uint16_t group, uint32_t stream, bool more,
                            const char *text)
{
    return (struct kl_frame){type, more ? KL_FRAME_MORE : 0, group, stream, kl_bytes_str(text)};
}

static struct kl_assembler *assembler(size_t max, unsigned streams)
{
    struct kl_assembler *a = NULL;

    CHECK_OK(kl_assembler_new(max, streams, &a));
    return a;
}

/* A message of one frame is passed through without a copy. */
TEST(assembler, single)
{
    struct kl_assembler *a = assembler(10, 2);
    struct kl_frame f = part(KL_FRAME_REQUEST, 0, 1, false, "0123456789");
    struct kl_frame big = part(KL_FRAME_REQUEST, 0, 1, false, "0123456789x");
    struct kl_buf whole = KL_BUF(1);

    CHECK_OK(kl_assembler_add(a, &f, &whole));
    CHECK(whole.ptr == NULL);
    CHECK_STATUS(kl_assembler_add(a, &big, &whole), KL_TOO_LARGE);
    kl_assembler_free(a);
}

/* Frames of different streams, types and groups may alternate; each message comes out whole. */
TEST(assembler, interleaved)
{
    struct kl_assembler *a = assembler(100, 4);
    const struct kl_frame frames[] = {
        part(KL_FRAME_REQUEST, 0, 1, true, "a"), part(KL_FRAME_REPLY, 0, 1, true, "b"),
        part(KL_FRAME_PEER, 1, 0, true, "c"),    part(KL_FRAME_PEER, 2, 0, true, "d"),
        part(KL_FRAME_REPLY, 0, 1, true, "B"),   part(KL_FRAME_REQUEST, 0, 1, false, "A"),
        part(KL_FRAME_PEER, 2, 0, false, "D"),   part(KL_FRAME_REPLY, 0, 1, false, ""),
        part(KL_FRAME_PEER, 1, 0, false, "C"),
    };
    const char *const want[] = {NULL, NULL, NULL, NULL, NULL, "aA", "dD", "bB", "cC"};

    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++) {
        struct kl_buf whole = KL_BUF(0);
        enum kl_status st = kl_assembler_add(a, &frames[i], &whole);

        CHECK_STATUS(st, want[i] == NULL ? KL_NOT_FOUND : KL_OK);
        if (want[i] != NULL) {
            CHECK(kl_bytes_eq(kl_buf_bytes(&whole), kl_bytes_str(want[i])));
        }
        kl_buf_wipe(&whole);
    }
    kl_assembler_free(a);
}

/* The limit holds for the sum of a message's frames, to the byte. */
TEST(assembler, message_limit)
{
    struct kl_assembler *a = assembler(10, 2);
    struct kl_frame first = part(KL_FRAME_REQUEST, 0, 1, true, "01234");
    struct kl_frame second = part(KL_FRAME_REQUEST, 0, 1, false, "56789");
    struct kl_frame more = part(KL_FRAME_REQUEST, 0, 1, true, "56789");
    struct kl_frame one = part(KL_FRAME_REQUEST, 0, 1, false, "x");
    struct kl_buf whole = KL_BUF(0);

    CHECK_STATUS(kl_assembler_add(a, &first, &whole), KL_NOT_FOUND);
    CHECK_OK(kl_assembler_add(a, &second, &whole));
    CHECK_EQ(whole.len, 10);
    kl_buf_wipe(&whole);
    CHECK_STATUS(kl_assembler_add(a, &first, &whole), KL_NOT_FOUND);
    CHECK_STATUS(kl_assembler_add(a, &more, &whole), KL_NOT_FOUND);
    CHECK_STATUS(kl_assembler_add(a, &one, &whole), KL_TOO_LARGE);
    kl_assembler_free(a); /* with a message open */
}

/* More open messages than allowed end the connection; a finished one makes room. */
TEST(assembler, stream_limit)
{
    struct kl_assembler *a = assembler(10, 2);
    struct kl_buf whole = KL_BUF(0);

    for (uint32_t i = 1; i <= 3; i++) {
        struct kl_frame f = part(KL_FRAME_REQUEST, 0, i, true, "x");

        CHECK_STATUS(kl_assembler_add(a, &f, &whole), i <= 2 ? KL_NOT_FOUND : KL_EXHAUSTED);
    }
    {
        struct kl_frame last = part(KL_FRAME_REQUEST, 0, 1, false, "y");
        struct kl_frame third = part(KL_FRAME_REQUEST, 0, 3, true, "x");

        CHECK_OK(kl_assembler_add(a, &last, &whole));
        kl_buf_wipe(&whole);
        CHECK_STATUS(kl_assembler_add(a, &third, &whole), KL_NOT_FOUND);
    }
    kl_assembler_free(a);
}

/* Each allocation may fail: the answer is KL_NO_MEMORY and nothing leaks. */
TEST(assembler, torture)
{
    for (unsigned long n = 1;; n++) {
        struct kl_assembler *a = NULL;
        enum kl_status st;
        int struck;

        kl_alloc_fail_at(n);
        st = kl_assembler_new(1000, 4, &a);
        for (uint32_t i = 0; i < 6 && (st == KL_OK || st == KL_NOT_FOUND); i++) {
            struct kl_frame f = part(KL_FRAME_REQUEST, 0, i / 2, i % 2 == 0 || i == 1, "text");
            struct kl_buf whole = KL_BUF(0);

            st = kl_assembler_add(a, &f, &whole);
            kl_buf_wipe(&whole);
        }
        struck = kl_alloc_failed();
        kl_alloc_fail_at(0);
        kl_assembler_free(a);
        CHECK(st == KL_OK || st == KL_NO_MEMORY);
        if (!struck) {
            CHECK(n > 3);
            break;
        }
    }
}
