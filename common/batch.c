#include "common/batch.h"

enum { OP_HEAD = 9 };

void kl_batch_init(struct kl_batch *b, size_t bytes_max)
{
    *b = (struct kl_batch){.ops = KL_BUF(bytes_max), .count = 0, .latched = KL_OK};
}

void kl_batch_done(struct kl_batch *b)
{
    kl_buf_wipe(&b->ops);
    b->count = 0;
    b->latched = KL_OK;
}

void kl_batch_clear(struct kl_batch *b)
{
    kl_buf_clear(&b->ops);
    b->count = 0;
    b->latched = KL_OK;
}

static void add(struct kl_batch *b, enum kl_batch_op op, struct kl_bytes key, struct kl_bytes value)
{
    uint8_t *p = NULL;

    if (b->latched != KL_OK) {
        return;
    }
    b->latched = kl_buf_grow(&b->ops, OP_HEAD + key.len + value.len, &p);
    if (b->latched != KL_OK) {
        return;
    }
    p[0] = (uint8_t)op;
    kl_put_be32(p + 1, (uint32_t)key.len);
    kl_put_be32(p + 5, (uint32_t)value.len);
    if (key.len != 0) {
        memcpy(p + OP_HEAD, key.ptr, key.len);
    }
    if (value.len != 0) {
        memcpy(p + OP_HEAD + key.len, value.ptr, value.len);
    }
    b->count++;
}

void kl_batch_put(struct kl_batch *b, struct kl_bytes key, struct kl_bytes value)
{
    add(b, KL_BATCH_PUT, key, value);
}

void kl_batch_del(struct kl_batch *b, struct kl_bytes key)
{
    add(b, KL_BATCH_DEL, key, (struct kl_bytes){NULL, 0});
}

enum kl_status kl_batch_status(const struct kl_batch *b)
{
    return b->latched;
}

bool kl_batch_next(const struct kl_batch *b, size_t *pos, enum kl_batch_op *op,
                   struct kl_bytes *key, struct kl_bytes *value)
{
    const uint8_t *p;

    if (*pos >= b->ops.len) {
        return false;
    }
    p = b->ops.ptr + *pos;
    *op = (enum kl_batch_op)p[0];
    *key = kl_bytes_of(p + OP_HEAD, kl_get_be32(p + 1));
    *value = kl_bytes_of(p + OP_HEAD + key->len, kl_get_be32(p + 5));
    *pos += OP_HEAD + key->len + value->len;
    return true;
}
