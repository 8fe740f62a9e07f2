#include "server/core/entry.h"
#include "server/core/keys.h"
#include "tests/lib/test.h"

static void make(struct kl_buf *b, size_t commands, size_t len)
{
    static const uint8_t zeros[256];

    CHECK_OK(kl_entry_begin(b, 42));
    for (size_t i = 0; i < commands; i++) {
        CHECK_OK(kl_entry_add(b, kl_bytes_of(zeros, len)));
    }
    CHECK_OK(kl_entry_end(b));
}

/* What was put in comes out, in order, and every entry is a multiple of 8 bytes long. */
TEST(entry, round_trip)
{
    static const char *const texts[] = {"", "a", "two", "a longer command"};

    for (size_t n = 1; n <= 4; n++) {
        struct kl_buf b = KL_BUF(KL_ENTRY_MAX);
        struct kl_entry e;
        struct kl_bytes command;

        CHECK_OK(kl_entry_begin(&b, 0x1122334455667788));
        for (size_t i = 0; i < n; i++) {
            CHECK_OK(kl_entry_add(&b, kl_bytes_str(texts[i])));
        }
        CHECK_OK(kl_entry_end(&b));
        CHECK_EQ(b.len % 8, 0);
        CHECK_OK(kl_entry_parse(kl_buf_bytes(&b), &e));
        CHECK_EQ(e.time_ms, 0x1122334455667788);
        CHECK_EQ(e.count, n);
        for (size_t i = 0; i < n; i++) {
            CHECK_OK(kl_entry_next(&e, &command));
            CHECK(kl_bytes_eq(command, kl_bytes_str(texts[i])));
        }
        CHECK_STATUS(kl_entry_next(&e, &command), KL_CORRUPT);
        kl_buf_wipe(&b);
    }
}

/* The layout is the one that entry.h promises, byte for byte: logs outlive programs. */
TEST(entry, layout)
{
    static const uint8_t want[] = {'K', 'L', 'E', '1', 0, 0, 0, 6, 0, 0, 0, 0, 0,   0,   0, 42,
                                   0,   0,   0,   1,   0, 0, 0, 0, 0, 0, 0, 2, 'h', 'i', 0, 0};
    struct kl_buf b = KL_BUF(KL_ENTRY_MAX);

    CHECK_OK(kl_entry_begin(&b, 42));
    CHECK_OK(kl_entry_add(&b, kl_bytes_str("hi")));
    CHECK_OK(kl_entry_end(&b));
    CHECK_EQ(b.len, sizeof want);
    CHECK_MEM(b.ptr, want, sizeof want);
    kl_buf_wipe(&b);
}

/* No prefix of an entry is an entry, and none with bytes behind it. */
TEST(entry, truncated_or_longer)
{
    struct kl_buf b = KL_BUF(KL_ENTRY_MAX);
    struct kl_entry e;

    make(&b, 3, 5);
    for (size_t n = 0; n < b.len; n++) {
        CHECK_STATUS(kl_entry_parse(kl_bytes_of(b.ptr, n), &e), KL_CORRUPT);
    }
    CHECK_OK(kl_buf_put(&b, "\0\0\0\0\0\0\0\0", 8));
    CHECK_STATUS(kl_entry_parse(kl_buf_bytes(&b), &e), KL_CORRUPT);
    kl_buf_wipe(&b);
}

/* A changed bit is refused, or changes only the time or a command's content: never the frame. */
TEST(entry, every_bit)
{
    struct kl_buf b = KL_BUF(KL_ENTRY_MAX);
    struct kl_entry e;

    make(&b, 2, 3);
    for (size_t i = 0; i < b.len * 8; i++) {
        size_t byte = i / 8;
        bool time = byte >= 8 && byte < 16;
        bool content = (byte >= 28 && byte < 31) || (byte >= 35 && byte < 38);

        b.ptr[byte] ^= (uint8_t)(1u << i % 8);
        CHECK_EQ(kl_entry_parse(kl_buf_bytes(&b), &e), time || content ? KL_OK : KL_CORRUPT);
        b.ptr[byte] ^= (uint8_t)(1u << i % 8);
    }
    kl_buf_wipe(&b);
}

/* Number of commands and size are limited where entries are made. */
TEST(entry, limits)
{
    struct kl_buf b = KL_BUF(KL_ENTRY_MAX);
    struct kl_buf big = KL_BUF(2 * KL_COMMAND_MAX);
    struct kl_entry e;
    uint8_t *p;

    make(&b, KL_ENTRY_COMMANDS_MAX, 0);
    CHECK_OK(kl_entry_parse(kl_buf_bytes(&b), &e));
    kl_buf_clear(&b);
    CHECK_OK(kl_entry_begin(&b, 1));
    CHECK_OK(kl_buf_grow(&big, KL_COMMAND_MAX + 1, &p));
    memset(p, 0, KL_COMMAND_MAX + 1);
    CHECK_STATUS(kl_entry_add(&b, kl_buf_bytes(&big)), KL_TOO_LARGE);
    CHECK_OK(kl_entry_add(&b, kl_bytes_of(p, KL_COMMAND_MAX)));
    CHECK_STATUS(kl_entry_add(&b, kl_bytes_of(p, KL_COMMAND_MAX)), KL_TOO_LARGE);
    CHECK_OK(kl_entry_end(&b));
    CHECK_OK(kl_entry_parse(kl_buf_bytes(&b), &e));
    CHECK_EQ(e.count, 1);
    kl_buf_wipe(&big);
    kl_buf_wipe(&b);
}

/* ---- keys ---- */

static bool less(struct kl_key a, struct kl_key b)
{
    return kl_bytes_cmp(kl_key_bytes(&a), kl_key_bytes(&b)) < 0;
}

static const uint8_t ones[KL_ID_LEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t zeros16[KL_ID_LEN];

/* Names differ in case only: one key. One name the beginning of another: two keys, in order. */
TEST(keys, names)
{
    struct kl_key a = kl_key_vault("Vault-A");
    struct kl_key b = kl_key_vault("vault-a");
    struct kl_key end = kl_key_prefix_end(&b);

    CHECK(kl_bytes_eq(kl_key_bytes(&a), kl_key_bytes(&b)));
    CHECK(less(b, kl_key_vault("vault-ab")));
    CHECK(less(end, kl_key_vault("vault-ab")));
    CHECK(less(b, end));
}

/* The order of due times is the order of keys. */
TEST(keys, times)
{
    struct kl_bytes id = kl_bytes_of(ones, sizeof ones);
    struct kl_bytes zero = kl_bytes_of(zeros16, sizeof zeros16);

    CHECK(less(kl_key_purge(255, id, 3, "zz"), kl_key_purge(256, zero, 0, "a")));
    CHECK(less(kl_key_garbage(1, id, id), kl_key_garbage(1ULL << 40, zero, zero)));
    CHECK(less(kl_key_expiry(5, UINT64_MAX), kl_key_expiry(6, 0)));
}

/* Records of versions lie in the order of the log, and a position leads back to its key. */
TEST(keys, positions)
{
    struct kl_key key = kl_key_record(0x0102030405060708u, 0xfffefdfcu);
    struct kl_bytes position = kl_key_position(&key);
    struct kl_key back;

    CHECK(less(kl_key_record(1, UINT32_MAX), kl_key_record(2, 0)));
    CHECK(less(kl_key_record(255, 3), kl_key_record(256, 2)));
    CHECK(less(kl_key_record(7, 255), kl_key_record(7, 256)));
    CHECK(kl_key_at(position, &back));
    CHECK_EQ(back.len, key.len);
    CHECK_MEM(back.bytes, key.bytes, key.len);
    CHECK(!kl_key_at(kl_bytes_of(position.ptr, position.len - 1), &back));
    CHECK(!kl_key_at(kl_bytes_of(key.bytes, key.len), &back));
}

/* The end of a prefix is behind everything with it and before everything else, also after 0xff. */
TEST(keys, prefix_end)
{
    struct kl_bytes id = kl_bytes_of(ones, sizeof ones);
    struct kl_key of = kl_key_versions_of(id);
    struct kl_key end = kl_key_prefix_end(&of);

    CHECK(less(kl_key_version(id, id), end));
    CHECK(!less(kl_key_family('p'), end));
    CHECK_EQ(end.len, 1);
    CHECK_EQ(end.bytes[0], 'p');
}

/* Two objects never share a key: vault, kind and name all count. */
TEST(keys, objects_apart)
{
    struct kl_bytes a = kl_bytes_of(zeros16, sizeof zeros16);
    struct kl_bytes b = kl_bytes_of(ones, sizeof ones);
    struct kl_key prefix = kl_key_objects_of(a, 1);
    struct kl_key end = kl_key_prefix_end(&prefix);

    CHECK(less(kl_key_object(a, 1, "x"), end));
    CHECK(!less(kl_key_object(a, 2, "a"), end));
    CHECK(!less(kl_key_object(b, 1, "a"), end));
    CHECK(less(kl_key_object(a, 2, "a"), kl_key_object(b, 1, "a")));
}
