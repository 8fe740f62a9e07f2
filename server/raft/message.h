/*
 * Raft messages as bytes: struct raft_message <-> kluis.peer.Message (proto/peer.proto).
 *
 * A peer is authenticated but not trusted with our memory: everything that raft or its storage
 * takes for granted is checked here, since the library is built without its assertions.
 */
#ifndef KL_RAFT_MESSAGE_H
#define KL_RAFT_MESSAGE_H

#include "common/buf.h"

#include "peer.pb-c.h"

#include <raft.h>

/* Raft wants an address with every message; ours are sent by node id. */
extern const char kl_message_address[];

/* What travels with a Raft message and is not raft's. */
struct kl_message_extra {
    uint64_t sent_us; /* AppendEntries: when sent; its result: the echo */
    /* AppendEntries: as in proto/peer.proto. */
    uint64_t fresh_us, echo, held_us;
    uint64_t stamp; /* result */
};

/* The unpacked message, or KL_PROTOCOL, KL_TOO_LARGE, KL_NO_MEMORY. Free with
 * kl_message_unpacked_free. */
KL_MUST_USE enum kl_status kl_message_unpack(struct kl_bytes in, Kluis__Peer__Message **out);
void kl_message_unpacked_free(Kluis__Peer__Message *m);

/*
 * The Raft message in an unpacked one. KL_PROTOCOL when it breaks a rule, KL_NOT_FOUND when it holds
 * something else (a stream's step), KL_NO_MEMORY. On KL_OK out owns raft memory: give it to
 * kl_wio_receive or kl_message_free.
 */
KL_MUST_USE enum kl_status kl_message_decode(uint64_t from_node, const Kluis__Peer__Message *in,
                                             struct raft_message *out,
                                             struct kl_message_extra *extra);
void kl_message_free(struct raft_message *m);

/* Packs a message; entries [first, first + n) of an AppendEntries (others: 0, 0). Appends to out. */
KL_MUST_USE enum kl_status kl_message_encode(const struct raft_message *m,
                                             const struct kl_message_extra *extra, unsigned first,
                                             unsigned n, struct kl_buf *out);
/* Packs any envelope. */
KL_MUST_USE enum kl_status kl_message_pack(const Kluis__Peer__Message *m, struct kl_buf *out);

/* Is this packed kluis.peer.Message one that is counted towards a majority: the answer to
 * AppendEntries, to RequestVote or to Confirm? Looks at its first byte only. */
bool kl_message_is_counted(struct kl_bytes message);

#endif
