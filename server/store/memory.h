/*
 * What tests may do to a store in memory beyond the common interface.
 */
#ifndef KL_STORE_MEMORY_H
#define KL_STORE_MEMORY_H

#include "server/store/kv.h"

/* Makes a store of kl_kv_memory_new() what it was when the snapshot of it was taken. The snapshot
 * stays the caller's; other snapshots are not touched. Costs nothing. */
void kl_kv_memory_revert(struct kl_kv *kv, const struct kl_kv_snap *snap);

#endif
