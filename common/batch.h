/*
 * An ordered list of puts and deletes that a store carries out as one. Failure to allocate is
 * latched: callers add without checking and look at kl_batch_status() once before the commit.
 */
#ifndef KL_BATCH_H
#define KL_BATCH_H

#include "common/buf.h"

struct kl_batch {
    struct kl_buf ops; /* u8 op, be32 key length, be32 value length, key, value */
    size_t count;
    enum kl_status latched; /* first failure, else KL_OK */
};

enum kl_batch_op { KL_BATCH_PUT = 1, KL_BATCH_DEL = 2 };

/* bytes_max bounds the whole batch. */
void kl_batch_init(struct kl_batch *b, size_t bytes_max);
void kl_batch_done(struct kl_batch *b);
void kl_batch_clear(struct kl_batch *b);

void kl_batch_put(struct kl_batch *b, struct kl_bytes key, struct kl_bytes value);
void kl_batch_del(struct kl_batch *b, struct kl_bytes key);

KL_MUST_USE enum kl_status kl_batch_status(const struct kl_batch *b);

/* Walk in order: start with *pos = 0; false at the end. Outputs are borrowed from the batch. */
bool kl_batch_next(const struct kl_batch *b, size_t *pos, enum kl_batch_op *op,
                   struct kl_bytes *key, struct kl_bytes *value);

#endif
