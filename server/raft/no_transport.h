/*
 * A transport for libraft's storage that carries nothing: messages go another way (peers.h), or, with
 * a log that is only looked at, nowhere.
 */
#ifndef KL_NO_TRANSPORT_H
#define KL_NO_TRANSPORT_H

struct raft_uv_transport;

/* Fills it in; it must live as long as the storage that it is given to. */
void kl_no_transport(struct raft_uv_transport *transport);

#endif
