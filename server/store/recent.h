/*
 * Small records of a store that were read lately. LevelDB looks for a record in every table that may
 * hold it, and each look that is in vain counts towards compacting that table: records that are read
 * with every write, a vault's or an object's, would keep it busy for nothing.
 *
 * Nothing stale comes out. Writes are numbered; a slot knows the last write that touched any key of
 * it. What a reader found is kept only if no write has touched the slot since the reader looked, and
 * a snapshot is served only what was written before it and has not changed until now.
 *
 * All functions may be called from any thread; write_begin and write_end by one writer at a time.
 * None blocks for long.
 */
#ifndef KL_RECENT_H
#define KL_RECENT_H

#include "common/batch.h"

struct kl_recent;

/* NULL: out of memory. Free it with kl_recent_free. */
struct kl_recent *kl_recent_new(void);
void kl_recent_free(struct kl_recent *r);

/* The number of the last write that is done. A reader takes it before it looks into the store, a
 * snapshot before it is made. */
uint64_t kl_recent_now(const struct kl_recent *r);
/* Is the record as of write `now` here? Then *out is replaced. */
bool kl_recent_get(struct kl_recent *r, struct kl_bytes key, uint64_t now, struct kl_buf *out);
/* What was found in the store as of write `now`. Large records are left out. */
void kl_recent_keep(struct kl_recent *r, struct kl_bytes key, struct kl_bytes value, uint64_t now);

/* Around each write to the store. done: it was carried out; otherwise it may or may not have been. */
void kl_recent_write_begin(struct kl_recent *r, const struct kl_batch *batch);
void kl_recent_write_end(struct kl_recent *r, const struct kl_batch *batch, bool done);

#endif
