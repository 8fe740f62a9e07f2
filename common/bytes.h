/*
 * Borrowed bytes: a pointer and a length. Never owns, never NUL-terminated by promise.
 */
#ifndef KL_BYTES_H
#define KL_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct kl_bytes {
    const uint8_t *ptr; /* may be NULL when len is 0 */
    size_t len;
};

/* Bytes of a NUL-terminated string, without the NUL. */
static inline struct kl_bytes kl_bytes_str(const char *s)
{
    return (struct kl_bytes){(const uint8_t *)s, strlen(s)};
}

static inline struct kl_bytes kl_bytes_of(const void *p, size_t len)
{
    return (struct kl_bytes){p, len};
}

/* Order of two byte strings, as LevelDB's default comparator has it. Not for secrets. */
static inline int kl_bytes_cmp(struct kl_bytes a, struct kl_bytes b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n == 0 ? 0 : memcmp(a.ptr, b.ptr, n);

    if (c != 0) {
        return c;
    }
    return a.len < b.len ? -1 : a.len > b.len;
}

static inline bool kl_bytes_eq(struct kl_bytes a, struct kl_bytes b)
{
    return a.len == b.len && kl_bytes_cmp(a, b) == 0;
}

/* Big-endian integers: the order of keys is the order of numbers. */
static inline void kl_put_be32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static inline uint32_t kl_get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

static inline void kl_put_be64(uint8_t *p, uint64_t v)
{
    kl_put_be32(p, (uint32_t)(v >> 32));
    kl_put_be32(p + 4, (uint32_t)v);
}

static inline uint64_t kl_get_be64(const uint8_t *p)
{
    return (uint64_t)kl_get_be32(p) << 32 | kl_get_be32(p + 4);
}

#endif
