/*
 * A growing byte buffer with a maximum, that wipes what it held: old blocks on growth, everything
 * at the end. Empty buffers need no release. Moving is assignment; reset the source with KL_BUF(0).
 */
#ifndef KL_BUF_H
#define KL_BUF_H

#include "common/bytes.h"
#include "common/status.h"

#include <stdarg.h>

struct kl_buf {
    uint8_t *ptr; /* owned */
    size_t len;   /* bytes in use */
    size_t cap;   /* bytes allocated */
    size_t max;   /* len never exceeds this */
};

#define KL_BUF(max_len) ((struct kl_buf){.ptr = NULL, .len = 0, .cap = 0, .max = (max_len)})

/* Appends n bytes. KL_TOO_LARGE past the maximum, KL_NO_MEMORY; the buffer is then unchanged. */
KL_MUST_USE enum kl_status kl_buf_put(struct kl_buf *b, const void *p, size_t n);

/* Makes room for n more bytes, counts them as in use and points *out at them (uninitialised). */
KL_MUST_USE enum kl_status kl_buf_grow(struct kl_buf *b, size_t n, uint8_t **out);

/* Appends big-endian integers. */
KL_MUST_USE enum kl_status kl_buf_put_u8(struct kl_buf *b, uint8_t v);
KL_MUST_USE enum kl_status kl_buf_put_be32(struct kl_buf *b, uint32_t v);
KL_MUST_USE enum kl_status kl_buf_put_be64(struct kl_buf *b, uint64_t v);

/* Appends formatted text without a NUL. */
KL_MUST_USE enum kl_status kl_buf_printf(struct kl_buf *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Removes the first n bytes (n <= len), moving the rest down. */
void kl_buf_consume(struct kl_buf *b, size_t n);

/* Empties the buffer, wiping its content, and keeps the memory. */
void kl_buf_clear(struct kl_buf *b);

/* Wipes and frees; the buffer is empty afterwards and may be used again with its maximum. */
void kl_buf_wipe(struct kl_buf *b);

/* The content, borrowed until the next change. */
static inline struct kl_bytes kl_buf_bytes(const struct kl_buf *b)
{
    return (struct kl_bytes){b->ptr, b->len};
}

#endif
