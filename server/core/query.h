/*
 * What query.c, list.c and due.c share.
 */
#ifndef KL_QUERY_H
#define KL_QUERY_H

#include "server/core/core.h"
#include "server/core/keys.h"

/* Unpacks with memory of kl_pb_allocator. KL_CORRUPT, KL_NO_MEMORY. */
KL_MUST_USE enum kl_status kl_query_unpack(const ProtobufCMessageDescriptor *descriptor,
                                           struct kl_bytes packed, void *out);
/* The record at key. KL_NOT_FOUND or a fault. */
KL_MUST_USE enum kl_status kl_query_load(const struct kl_view *view, struct kl_key key,
                                         const ProtobufCMessageDescriptor *descriptor, void *out);
/* The version's record whose position an 'o' record holds. KL_NOT_FOUND: removed meanwhile, when the
 * view is not a snapshot. Otherwise it has meta and attributes. */
KL_MUST_USE enum kl_status kl_query_version(const struct kl_view *view, struct kl_bytes position,
                                            Kluis__Store__VersionRecord **out);
bool kl_query_wanted(enum kl_want want, uint64_t deleted_ms);

#endif
