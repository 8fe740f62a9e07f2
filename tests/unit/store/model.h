/*
 * A store as plain arrays, to compare real ones with: keys and values are short texts.
 */
#ifndef KL_STORE_MODEL_H
#define KL_STORE_MODEL_H

#include "server/store/kv.h"
#include "tests/lib/test.h"

enum { MODEL_KEYS = 512 };

struct model {
    uint32_t value[MODEL_KEYS]; /* 0 = absent, else the seed of the value's bytes */
};

/* Key i and value v as bytes; lengths differ, some are empty, order is not that of i. */
struct kl_bytes model_key(unsigned i, uint8_t buf[32]);
struct kl_bytes model_value(uint32_t v, uint8_t *buf); /* buf holds 4,096 */

/* A random batch, carried out on the model and put into *batch. */
void model_random_batch(struct model *m, uint64_t *rng, struct kl_batch *batch, unsigned ops);

/* The whole store (or snapshot) equals the model: every get, one full scan, some partial ones. */
void model_check(const struct model *m, struct kl_kv *kv, struct kl_kv_snap *snap, uint64_t *rng);

#endif
