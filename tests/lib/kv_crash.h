/*
 * A disk with one store on it, in memory, that can lose what was not synced, and can refuse writes.
 * The disk outlives the handles to it: open, crash, open again.
 *
 * A handle whose disk has crashed (or was opened again) answers KL_IO to everything but close and
 * snap_free: its process is dead.
 */
#ifndef KL_KV_CRASH_H
#define KL_KV_CRASH_H

#include "server/store/kv.h"

struct kv_disk;

KL_MUST_USE enum kl_status kv_disk_new(struct kv_disk **out);
/* Every handle has been closed. */
void kv_disk_free(struct kv_disk *disk);

/* A handle: an ordinary store. Handles opened before go stale. Close it with kl_kv_close(). */
KL_MUST_USE enum kl_status kv_disk_open(struct kv_disk *disk, struct kl_kv **out);

/* Batches written since the last sync or flush. */
size_t kv_disk_unsynced(struct kv_disk *disk);
/* Power off: of the unsynced batches only the first `keep` survive (keep may exceed their number). */
void kv_disk_crash(struct kv_disk *disk, size_t keep);

/*
 * The n-th write from now on (1 = the next), and all after it, are refused with `status` (KL_NO_SPACE,
 * KL_IO) and change nothing; flushes and compactions are refused too from then on. n = 0 ends it.
 */
void kv_disk_refuse(struct kv_disk *disk, unsigned long n, enum kl_status status);

/* Removes everything, as kl_kv_leveldb_destroy() does. No handle may be open. */
void kv_disk_wipe(struct kv_disk *disk);
/* Swaps the content of two disks, durable at once: the adoption of staged state. Handles go stale. */
void kv_disk_swap(struct kv_disk *a, struct kv_disk *b);

#endif
