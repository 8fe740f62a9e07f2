/* Frames: the header's bytes, and what the parser takes and refuses. */
#include "common/frame.h"
#include "common/limits.h"
#include "tests/lib/test.h"

/* The layout is as documented, byte for byte. */
TEST(frame, layout)
{
    static const uint8_t want[KL_FRAME_HEAD] = {0,    1,    2,    3,    7,    1,
                                                0x12, 0x34, 0xde, 0xad, 0xbe, 0xef};
    struct kl_frame f = {KL_FRAME_PEER, KL_FRAME_MORE, 0x1234, 0xdeadbeef, {NULL, 0x00010203}};
    uint8_t head[KL_FRAME_HEAD];

    kl_frame_head(&f, head);
    CHECK_MEM(head, want, sizeof want);
}

/* Every type comes back as it went in, and only after its last byte has arrived. */
TEST(frame, round_trip)
{
    for (int type = KL_FRAME_REQUEST; type <= KL_FRAME_PEER; type++) {
        bool body = type == KL_FRAME_REQUEST || type == KL_FRAME_REPLY || type == KL_FRAME_PEER;
        struct kl_frame f = {(enum kl_frame_type)type,
                             body ? KL_FRAME_MORE : 0,
                             9,
                             77,
                             {(const uint8_t *)"body!", body ? 5 : 0}};
        uint8_t bytes[KL_FRAME_HEAD + 6] = {0};
        size_t size = KL_FRAME_HEAD + f.body.len;
        struct kl_frame got = {0};
        size_t used = 0;

        kl_frame_head(&f, bytes);
        memcpy(bytes + KL_FRAME_HEAD, f.body.ptr, f.body.len);
        for (size_t n = 0; n < size; n++) {
            CHECK_STATUS(kl_frame_parse(kl_bytes_of(bytes, n), &got, &used), KL_NOT_FOUND);
            CHECK_EQ(used, 0);
        }
        CHECK_OK(kl_frame_parse(kl_bytes_of(bytes, size + 1), &got, &used)); /* and a bit more */
        CHECK_EQ(used, size);
        CHECK_EQ(got.type, f.type);
        CHECK_EQ(got.flags, f.flags);
        CHECK_EQ(got.group, f.group);
        CHECK_EQ(got.stream, f.stream);
        CHECK(kl_bytes_eq(got.body, f.body));
    }
}

/* The length is judged by the header alone: nothing needs to be there for it to be refused. */
TEST(frame, length_limit)
{
    uint8_t head[KL_FRAME_HEAD] = {0, 0, 0, 0, KL_FRAME_REQUEST};
    struct kl_frame got;
    size_t used;

    kl_put_be32(head, KL_FRAME_BODY_MAX);
    CHECK_STATUS(kl_frame_parse(kl_bytes_of(head, sizeof head), &got, &used), KL_NOT_FOUND);
    kl_put_be32(head, KL_FRAME_BODY_MAX + 1);
    CHECK_STATUS(kl_frame_parse(kl_bytes_of(head, sizeof head), &got, &used), KL_TOO_LARGE);
    kl_put_be32(head, 1u << 30);
    CHECK_STATUS(kl_frame_parse(kl_bytes_of(head, sizeof head), &got, &used), KL_TOO_LARGE);
    kl_put_be32(head, UINT32_MAX);
    CHECK_STATUS(kl_frame_parse(kl_bytes_of(head, sizeof head), &got, &used), KL_TOO_LARGE);
}

/* Every type and flag byte that is not documented is refused, and so is a body or MORE where none
 * may be. */
TEST(frame, rules)
{
    for (int type = 0; type < 256; type++) {
        bool body = type == KL_FRAME_REQUEST || type == KL_FRAME_REPLY || type == KL_FRAME_PEER;
        bool known = type >= KL_FRAME_REQUEST && type <= KL_FRAME_PEER;

        for (int flags = 0; flags < 256; flags++) {
            uint8_t bytes[KL_FRAME_HEAD + 1] = {0, 0, 0, 0, (uint8_t)type, (uint8_t)flags};
            struct kl_frame got;
            size_t used;
            bool good = known && (flags == 0 || (flags == 1 && body));

            CHECK_STATUS(kl_frame_parse(kl_bytes_of(bytes, KL_FRAME_HEAD), &got, &used),
                         good ? KL_OK : KL_PROTOCOL);
            bytes[3] = 1;
            CHECK_STATUS(kl_frame_parse(kl_bytes_of(bytes, sizeof bytes), &got, &used),
                         good && body ? KL_OK : KL_PROTOCOL);
        }
    }
}
