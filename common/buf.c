#include "common/buf.h"

#include "common/alloc.h"

#include <assert.h>
#include <stdio.h>

enum { CAP_MIN = 64 };

/* Room for n bytes within the maximum, and for `slack` more that will not be counted. Never realloc:
 * the old block may hold a secret and must be wiped before it goes back. */
static enum kl_status reserve(struct kl_buf *b, size_t n, size_t slack)
{
    size_t need;
    size_t cap;
    uint8_t *p;

    if (n > b->max || b->len > b->max - n) {
        return KL_TOO_LARGE;
    }
    need = b->len + n + slack;
    if (need <= b->cap) {
        return KL_OK;
    }
    cap = b->cap < CAP_MIN ? CAP_MIN : b->cap;
    while (cap < need) {
        cap = cap > b->max / 2 ? need : cap * 2;
    }
    p = kl_malloc(cap);
    if (p == NULL) {
        return KL_NO_MEMORY;
    }
    if (b->len != 0) {
        memcpy(p, b->ptr, b->len);
        kl_wipe(b->ptr, b->len);
    }
    kl_free(b->ptr);
    b->ptr = p;
    b->cap = cap;
    return KL_OK;
}

enum kl_status kl_buf_grow(struct kl_buf *b, size_t n, uint8_t **out)
{
    enum kl_status st = reserve(b, n, 0);

    if (st != KL_OK) {
        return st;
    }
    *out = b->ptr == NULL ? NULL : b->ptr + b->len;
    b->len += n;
    return KL_OK;
}

enum kl_status kl_buf_put(struct kl_buf *b, const void *p, size_t n)
{
    uint8_t *to;
    enum kl_status st = kl_buf_grow(b, n, &to);

    if (st == KL_OK && n != 0) {
        memcpy(to, p, n);
    }
    return st;
}

enum kl_status kl_buf_put_u8(struct kl_buf *b, uint8_t v)
{
    return kl_buf_put(b, &v, 1);
}

enum kl_status kl_buf_put_be32(struct kl_buf *b, uint32_t v)
{
    uint8_t p[4];

    kl_put_be32(p, v);
    return kl_buf_put(b, p, sizeof p);
}

enum kl_status kl_buf_put_be64(struct kl_buf *b, uint64_t v)
{
    uint8_t p[8];

    kl_put_be64(p, v);
    return kl_buf_put(b, p, sizeof p);
}

enum kl_status kl_buf_printf(struct kl_buf *b, const char *format, ...)
{
    va_list args;
    va_list again;
    enum kl_status st = KL_INTERNAL;
    int n;

    va_start(args, format);
    va_copy(again, args);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) {
        goto out;
    }
    st = reserve(b, (size_t)n, 1); /* vsnprintf writes a NUL; it is not counted */
    if (st == KL_OK) {
        (void)vsnprintf((char *)b->ptr + b->len, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    }
out:
    va_end(again);
    return st;
}

void kl_buf_consume(struct kl_buf *b, size_t n)
{
    assert(n <= b->len);
    if (n == 0) {
        return;
    }
    memmove(b->ptr, b->ptr + n, b->len - n);
    kl_wipe(b->ptr + b->len - n, n);
    b->len -= n;
}

void kl_buf_clear(struct kl_buf *b)
{
    kl_wipe(b->ptr, b->len);
    b->len = 0;
}

void kl_buf_wipe(struct kl_buf *b)
{
    kl_wipe(b->ptr, b->len);
    kl_free(b->ptr);
    *b = KL_BUF(b->max);
}
