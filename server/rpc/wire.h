/*
 * Looking at packed messages before they are unpacked. protobuf-c cuts a string at its first zero
 * byte, so "ab\0cd" would pass for the name "ab"; and a deadline must be known while a call still
 * waits for a worker.
 */
#ifndef KL_WIRE_H
#define KL_WIRE_H

#include "common/alloc.h"
#include "common/bytes.h"
#include "common/status.h"

/*
 * Walks the message and its sub-messages. KL_PROTOCOL: not well-formed, or nested too deeply.
 * KL_INVALID_ARGUMENT: a string field holds a zero byte; *field is its name (static). No allocation.
 */
KL_MUST_USE enum kl_status kl_wire_check(const ProtobufCMessageDescriptor *descriptor,
                                         struct kl_bytes packed, const char **field);

/* The memory of one unpacked message: bounded by the size it came in. Lives as long as the message. */
struct kl_unpack {
    ProtobufCAllocator allocator;
    struct kl_pb_budget budget;
    bool no_memory;
};

/*
 * Checks and unpacks. *out is freed with kl_pb_wipe_free(*out, &u->allocator). KL_PROTOCOL and
 * KL_INVALID_ARGUMENT as above; KL_TOO_LARGE: it would take more memory than a message of this size
 * may; KL_NO_MEMORY.
 */
KL_MUST_USE enum kl_status kl_wire_unpack(const ProtobufCMessageDescriptor *descriptor,
                                          struct kl_bytes packed, struct kl_unpack *u,
                                          ProtobufCMessage **out, const char **field);

/* The deadline_ms of a packed kluis.v1.Call as it stands there; 0 when there is none. */
uint32_t kl_wire_deadline_ms(struct kl_bytes packed_call);

#endif
