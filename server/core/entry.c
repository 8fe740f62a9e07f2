#include "server/core/entry.h"

#include <assert.h>

static const uint8_t magic[4] = {'K', 'L', 'E', '1'};

enum { OFF_LENGTH = 4, OFF_TIME = 8, OFF_COUNT = 16, OFF_ZERO = 20, PADDING = 8 };

enum kl_status kl_entry_begin(struct kl_buf *out, uint64_t time_ms)
{
    uint8_t head[KL_ENTRY_HEAD] = {0};

    assert(out->len == 0);
    memcpy(head, magic, sizeof magic);
    kl_put_be64(head + OFF_TIME, time_ms);
    return kl_buf_put(out, head, sizeof head);
}

enum kl_status kl_entry_add(struct kl_buf *out, struct kl_bytes command)
{
    uint32_t count;
    uint8_t *p = NULL;
    enum kl_status st;

    assert(out->len >= KL_ENTRY_HEAD);
    count = kl_get_be32(out->ptr + OFF_COUNT);
    if (count >= KL_ENTRY_COMMANDS_MAX || command.len > KL_COMMAND_MAX ||
        out->len + 4 + command.len + PADDING > KL_ENTRY_MAX) {
        return KL_TOO_LARGE;
    }
    st = kl_buf_grow(out, 4 + command.len, &p);
    if (st != KL_OK) {
        return st;
    }
    kl_put_be32(p, (uint32_t)command.len);
    if (command.len != 0) {
        memcpy(p + 4, command.ptr, command.len);
    }
    kl_put_be32(out->ptr + OFF_COUNT, count + 1);
    return KL_OK;
}

enum kl_status kl_entry_end(struct kl_buf *out)
{
    static const uint8_t zeros[PADDING];
    size_t length;
    enum kl_status st;

    assert(out->len >= KL_ENTRY_HEAD);
    length = out->len - KL_ENTRY_HEAD;
    st = kl_buf_put(out, zeros, (PADDING - out->len % PADDING) % PADDING);
    if (st == KL_OK) {
        kl_put_be32(out->ptr + OFF_LENGTH, (uint32_t)length);
    }
    return st;
}

static bool all_zero(struct kl_bytes b)
{
    for (size_t i = 0; i < b.len; i++) {
        if (b.ptr[i] != 0) {
            return false;
        }
    }
    return true;
}

/* The lengths of all commands add up to exactly what the head said. */
static bool lengths_fit(struct kl_entry entry)
{
    struct kl_bytes command;

    for (uint32_t i = 0; i < entry.count; i++) {
        if (kl_entry_next(&entry, &command) != KL_OK) {
            return false;
        }
    }
    return entry.rest.len == 0;
}

enum kl_status kl_entry_parse(struct kl_bytes in, struct kl_entry *out)
{
    struct kl_entry entry;
    size_t length;
    uint32_t count;

    if (in.len < KL_ENTRY_HEAD || in.len > KL_ENTRY_MAX || in.len % PADDING != 0 ||
        memcmp(in.ptr, magic, sizeof magic) != 0 || kl_get_be32(in.ptr + OFF_ZERO) != 0) {
        return KL_CORRUPT;
    }
    length = kl_get_be32(in.ptr + OFF_LENGTH);
    count = kl_get_be32(in.ptr + OFF_COUNT);
    if (length > in.len - KL_ENTRY_HEAD || in.len - KL_ENTRY_HEAD - length >= PADDING ||
        count == 0 || count > KL_ENTRY_COMMANDS_MAX || length < (size_t)count * 4 ||
        !all_zero(kl_bytes_of(in.ptr + KL_ENTRY_HEAD + length, in.len - KL_ENTRY_HEAD - length))) {
        return KL_CORRUPT;
    }
    entry = (struct kl_entry){
        .time_ms = kl_get_be64(in.ptr + OFF_TIME),
        .count = count,
        .rest = kl_bytes_of(in.ptr + KL_ENTRY_HEAD, length),
    };
    if (!lengths_fit(entry)) {
        return KL_CORRUPT;
    }
    *out = entry;
    return KL_OK;
}

enum kl_status kl_entry_next(struct kl_entry *entry, struct kl_bytes *command)
{
    size_t n;

    if (entry->rest.len < 4) {
        return KL_CORRUPT;
    }
    n = kl_get_be32(entry->rest.ptr);
    if (n > entry->rest.len - 4) {
        return KL_CORRUPT;
    }
    *command = kl_bytes_of(entry->rest.ptr + 4, n);
    entry->rest = kl_bytes_of(entry->rest.ptr + 4 + n, entry->rest.len - 4 - n);
    return KL_OK;
}
