/*
 * Frames as a hostile peer may send them: cut out of the input, then put together into messages.
 * What must hold: nothing beyond the input is touched, whatever comes out is within its limits and
 * is the same when written again.
 */
#include "common/frame.h"
#include "common/limits.h"
#include "common/net/net.h"

#include <stdlib.h>

enum { MESSAGE_MAX = 4096, STREAMS_MAX = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

static void check_frame(const struct kl_frame *frame, const uint8_t *at, size_t used)
{
    uint8_t head[KL_FRAME_HEAD];

    require(frame->body.len <= KL_FRAME_BODY_MAX);
    require(used == KL_FRAME_HEAD + frame->body.len);
    require(frame->body.ptr == at + KL_FRAME_HEAD);
    kl_frame_head(frame, head);
    require(memcmp(head, at, sizeof head) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kl_assembler *a = NULL;
    struct kl_frame frame;
    enum kl_status st;
    size_t used = 0;

    if (kl_assembler_new(MESSAGE_MAX, STREAMS_MAX, &a) != KL_OK) {
        return 0;
    }
    while ((st = kl_frame_parse(kl_bytes_of(data, size), &frame, &used)) == KL_OK) {
        struct kl_buf whole = KL_BUF(0);

        check_frame(&frame, data, used);
        data += used;
        size -= used;
        st = kl_assembler_add(a, &frame, &whole);
        if (st == KL_OK) {
            require((frame.flags & KL_FRAME_MORE) == 0);
            require(whole.ptr == NULL ? frame.body.len <= MESSAGE_MAX : whole.len <= MESSAGE_MAX);
            kl_buf_wipe(&whole);
        } else if (st != KL_NOT_FOUND) {
            require(st == KL_TOO_LARGE || st == KL_EXHAUSTED || st == KL_NO_MEMORY);
            break;
        }
    }
    require(st != KL_INTERNAL);
    kl_assembler_free(a);
    return 0;
}
