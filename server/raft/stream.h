/*
 * State streams: the whole store at one applied index, in key order, beside Raft, for a follower
 * that is too far behind for the log.
 *
 *   leader                                   follower
 *   Raft wants InstallSnapshot
 *   pins a snapshot of the store
 *   StreamOffer(stream, applied)      ->     has it already: StreamAck(done)
 *                                     <-     StreamRequest(after, credit)
 *   StreamChunk(1), (2), …            ->     checks digest, writes to the staged store
 *                                     <-     StreamAck(seq)
 *   StreamChunk(n, last)              ->     flushes, marks as whole
 *                                     <-     StreamAck(n, done)
 *   InstallSnapshot                   ->     given to Raft; restore() adopts the staged store
 *
 * digest(0) is 32 zero bytes; digest(n) = SHA-256(digest(n-1), then of every pair of chunk n: be32
 * key length, key, be32 value length, value). A receiver that lost the connection, or a chunk, asks
 * again from the last chunk it has written; the sender keeps its snapshot pinned, and the digests
 * of what is not acknowledged, for KL_STREAM_KEEP_MS of silence.
 *
 * The staged store is marked as whole by one record under KL_STREAM_MARK, a key that no record of
 * the state machine can have. It is removed when the store has become the live one.
 */
#ifndef KL_STREAM_H
#define KL_STREAM_H

#include "server/raft/message.h"

struct kl_group;
struct kl_stream_out;
struct kl_stream_in;

#define KL_STREAMS_MAX     4 /* at once, from one node */
#define KL_STREAM_DIGEST   32
#define KL_STREAM_MARK     "\0staged"
#define KL_STREAM_MARK_LEN 7

/* Adds one pair list to a chained digest. */
KL_MUST_USE enum kl_status kl_stream_digest(const uint8_t before[KL_STREAM_DIGEST], size_t n,
                                            Kluis__Peer__Pair *const *pairs,
                                            uint8_t after[KL_STREAM_DIGEST]);

/* ---- sending ---- */

/* Raft wants the peer to have this snapshot. */
void kl_stream_install_wanted(struct kl_group *g, const struct raft_message *m);
/* Is a stream to this peer under way, so that its rejections mean nothing? */
bool kl_stream_sending_to(const struct kl_group *g, uint64_t node);
bool kl_stream_sending(const struct kl_group *g);
/* The peer has accepted entries up to here. */
void kl_stream_accepted(struct kl_group *g, uint64_t node, uint64_t index);
void kl_stream_on_request(struct kl_group *g, uint64_t from, const Kluis__Peer__StreamRequest *m);
void kl_stream_on_ack(struct kl_group *g, uint64_t from, const Kluis__Peer__StreamAck *m);
void kl_stream_send_turn(struct kl_group *g);
void kl_stream_send_abort(struct kl_group *g);

/* ---- receiving ---- */

void kl_stream_on_offer(struct kl_group *g, uint64_t from, const Kluis__Peer__StreamOffer *m);
/* Takes the message when it returns true. */
bool kl_stream_on_chunk(struct kl_group *g, uint64_t from, Kluis__Peer__Message *m);
void kl_stream_peer(struct kl_group *g, uint64_t node, bool connected);
void kl_stream_recv_turn(struct kl_group *g);
/* The applied index of a staged store that is whole, or 0. */
uint64_t kl_stream_staged(struct kl_group *g);
/* Makes the staged store the live one; the live one is closed. */
KL_MUST_USE enum kl_status kl_stream_adopt(struct kl_group *g);
/* Forgets the stream; its files go when nothing writes to them any more. */
void kl_stream_recv_abort(struct kl_group *g);

#endif
