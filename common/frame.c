#include "common/frame.h"

#include "common/limits.h"

void kl_frame_head(const struct kl_frame *frame, uint8_t head[KL_FRAME_HEAD])
{
    kl_put_be32(head, (uint32_t)frame->body.len);
    head[4] = (uint8_t)frame->type;
    head[5] = frame->flags;
    head[6] = (uint8_t)(frame->group >> 8);
    head[7] = (uint8_t)frame->group;
    kl_put_be32(head + 8, frame->stream);
}

static enum kl_status check(const struct kl_frame *frame, uint32_t len)
{
    bool body_allowed = false;

    if (len > KL_FRAME_BODY_MAX) {
        return KL_TOO_LARGE;
    }
    switch (frame->type) {
    case KL_FRAME_REQUEST:
    case KL_FRAME_REPLY:
    case KL_FRAME_PEER:
        body_allowed = true;
        break;
    case KL_FRAME_CANCEL:
    case KL_FRAME_PING:
    case KL_FRAME_PONG:
    case KL_FRAME_GOAWAY:
        break;
    default:
        return KL_PROTOCOL;
    }
    if (!body_allowed && (len != 0 || frame->flags != 0)) {
        return KL_PROTOCOL;
    }
    return (frame->flags & ~KL_FRAME_MORE) != 0 ? KL_PROTOCOL : KL_OK;
}

enum kl_status kl_frame_parse(struct kl_bytes in, struct kl_frame *frame, size_t *used)
{
    struct kl_frame f;
    uint32_t len;
    enum kl_status st;

    if (in.len < KL_FRAME_HEAD) {
        return KL_NOT_FOUND;
    }
    len = kl_get_be32(in.ptr);
    f = (struct kl_frame){
        .type = (enum kl_frame_type)in.ptr[4],
        .flags = in.ptr[5],
        .group = (uint16_t)(in.ptr[6] << 8 | in.ptr[7]),
        .stream = kl_get_be32(in.ptr + 8),
        .body = {in.ptr + KL_FRAME_HEAD, len},
    };
    st = check(&f, len);
    if (st != KL_OK) {
        return st;
    }
    if (in.len - KL_FRAME_HEAD < len) {
        return KL_NOT_FOUND;
    }
    *frame = f;
    *used = KL_FRAME_HEAD + len;
    return KL_OK;
}
