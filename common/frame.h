/*
 * Frames: what travels inside TLS, between clients and nodes and between nodes.
 *
 *   offset  size  field
 *        0     4  length of the body in bytes, big-endian, 0..KL_FRAME_BODY_MAX
 *        4     1  type (enum kl_frame_type)
 *        5     1  flags: bit 0 MORE, the message goes on in the next frame of this stream
 *        6     2  group id, big-endian; 0 except in PEER frames
 *        8     4  stream id, big-endian: pairs a REPLY with its REQUEST; 0 in PEER frames
 *       12     n  body
 *
 * A message longer than KL_FRAME_BODY_MAX is sent as frames with MORE set on all but the last;
 * frames of one message are not mixed with other frames of the same stream. The length is checked
 * against the limit before anything is allocated; a frame that breaks a rule ends the connection.
 */
#ifndef KL_FRAME_H
#define KL_FRAME_H

#include "common/buf.h"

#define KL_FRAME_HEAD 12
#define KL_FRAME_MORE 1u

enum kl_frame_type {
    KL_FRAME_REQUEST = 1, /* body: kluis.v1.Call */
    KL_FRAME_REPLY = 2,   /* body: kluis.v1.Reply */
    KL_FRAME_CANCEL = 3,  /* no body: the caller no longer waits for this stream */
    KL_FRAME_PING = 4,    /* no body; answered by PONG with the same stream id */
    KL_FRAME_PONG = 5,
    KL_FRAME_GOAWAY = 6, /* no body: the node is draining, send new calls elsewhere */
    KL_FRAME_PEER = 7,   /* body: kluis.peer.Message */
};

struct kl_frame {
    enum kl_frame_type type;
    uint8_t flags;
    uint16_t group;
    uint32_t stream;
    struct kl_bytes body; /* borrowed */
};

/* Writes the 12 header bytes for a body of frame->body.len bytes. */
void kl_frame_head(const struct kl_frame *frame, uint8_t head[KL_FRAME_HEAD]);

/*
 * Looks for one whole frame at the start of `in`. KL_OK: *frame is filled (its body borrowed from
 * `in`) and *used is its size in bytes. KL_NOT_FOUND: more bytes are needed. KL_PROTOCOL: unknown
 * type or flag, or a body that this type may not have. KL_TOO_LARGE: length over the limit.
 */
KL_MUST_USE enum kl_status kl_frame_parse(struct kl_bytes in, struct kl_frame *frame, size_t *used);

#endif
