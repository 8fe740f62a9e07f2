/* Buffers and batches. */
#include "common/alloc.h"
#include "common/batch.h"
#include "tests/lib/test.h"

/* A buffer holds what was put, in order, and never grows beyond its maximum by a byte. */
TEST(buf, put_up_to_the_maximum)
{
    struct kl_buf b = KL_BUF(1000);
    uint8_t byte = 0;

    for (size_t i = 0; i < 1000; i++) {
        byte = (uint8_t)(i * 7);
        CHECK_OK(kl_buf_put(&b, &byte, 1));
    }
    CHECK_STATUS(kl_buf_put(&b, &byte, 1), KL_TOO_LARGE);
    CHECK_EQ(b.len, 1000);
    for (size_t i = 0; i < 1000; i++) {
        CHECK_EQ(b.ptr[i], (uint8_t)(i * 7));
    }
    kl_buf_wipe(&b);
    CHECK_EQ(b.len, 0);
    CHECK(b.ptr == NULL);
    CHECK_OK(kl_buf_put(&b, "x", 1)); /* may be used again */
    kl_buf_wipe(&b);
    kl_buf_wipe(&b); /* an empty one needs no release */
}

/* A refused put leaves the buffer as it was; sizes that would overflow are refused. */
TEST(buf, refused_put_changes_nothing)
{
    struct kl_buf b = KL_BUF(10);
    uint8_t *p = NULL;

    CHECK_OK(kl_buf_put(&b, "12345", 5));
    CHECK_STATUS(kl_buf_put(&b, "123456", 6), KL_TOO_LARGE);
    CHECK_STATUS(kl_buf_grow(&b, SIZE_MAX, &p), KL_TOO_LARGE);
    CHECK_STATUS(kl_buf_grow(&b, SIZE_MAX - 4, &p), KL_TOO_LARGE);
    CHECK(p == NULL);
    CHECK_EQ(b.len, 5);
    CHECK_MEM(b.ptr, "12345", 5);
    CHECK_OK(kl_buf_put(&b, NULL, 0));
    kl_buf_wipe(&b);
}

TEST(buf, integers_are_big_endian)
{
    static const uint8_t want[] = {1, 2, 3, 4, 5, 0xff, 0, 0, 0, 0, 0, 0, 1};
    struct kl_buf b = KL_BUF(13);

    CHECK_OK(kl_buf_put_u8(&b, 1));
    CHECK_OK(kl_buf_put_be32(&b, 0x02030405));
    CHECK_OK(kl_buf_put_be64(&b, 0xff00000000000001));
    CHECK_EQ(b.len, sizeof want);
    CHECK_MEM(b.ptr, want, sizeof want);
    CHECK_EQ(kl_get_be32(b.ptr + 1), 0x02030405);
    CHECK(kl_get_be64(b.ptr + 5) == 0xff00000000000001);
    kl_buf_wipe(&b);
}

/* Text may fill the buffer to the last byte: the NUL that printf writes does not count. */
TEST(buf, printf_to_the_brim)
{
    struct kl_buf b = KL_BUF(70);

    CHECK_OK(kl_buf_printf(&b, "%s-%d", "abc", 42));
    CHECK_EQ(b.len, 6);
    CHECK_MEM(b.ptr, "abc-42", 6);
    CHECK_STATUS(kl_buf_printf(&b, "%65s", "x"), KL_TOO_LARGE);
    CHECK_EQ(b.len, 6);
    CHECK_OK(kl_buf_printf(&b, "%64s", "x"));
    CHECK_EQ(b.len, 70);
    CHECK_STATUS(kl_buf_put(&b, "x", 1), KL_TOO_LARGE);
    CHECK_OK(kl_buf_printf(&b, "%s", ""));
    kl_buf_wipe(&b);
}

/* Consuming moves the rest down and leaves no copy behind; clearing keeps the memory but not what
 * it held. */
TEST(buf, consume_and_clear_wipe)
{
    struct kl_buf b = KL_BUF(100);
    uint8_t *memory;

    CHECK_OK(kl_buf_put(&b, "secretREST", 10));
    memory = b.ptr;
    kl_buf_consume(&b, 0);
    CHECK_EQ(b.len, 10);
    kl_buf_consume(&b, 6);
    CHECK_EQ(b.len, 4);
    CHECK_MEM(b.ptr, "REST\0\0\0\0\0\0", 10);
    kl_buf_clear(&b);
    CHECK_EQ(b.len, 0);
    CHECK(b.ptr == memory);
    CHECK_MEM(b.ptr, "\0\0\0\0", 4);
    kl_buf_wipe(&b);
}

/* ---- what is freed was wiped before ---- */

struct heap {
    bool dirty; /* a block with 's' in it came back */
};

static void *heap_alloc(void *ctx, size_t n)
{
    size_t *p = malloc(n + sizeof(size_t) * 2);

    (void)ctx;
    if (p == NULL) {
        return NULL;
    }
    *p = n;
    memset(p + 2, 0, n);
    return p + 2;
}

static void heap_free(void *ctx, void *block)
{
    struct heap *h = ctx;
    size_t *p = (size_t *)block - 2;

    h->dirty |= memchr(block, 's', *p) != NULL;
    free(p);
}

static void *heap_realloc(void *ctx, void *block, size_t n)
{
    void *p = heap_alloc(ctx, n);

    if (p != NULL && block != NULL) {
        memcpy(p, block, ((size_t *)block)[-2] < n ? ((size_t *)block)[-2] : n);
        heap_free(ctx, block);
    }
    return p;
}

/* Growth and release give no block back that still holds content. */
TEST(buf, gives_back_wiped_memory)
{
    struct heap h = {false};
    const struct kl_heap heap = {&h, heap_alloc, heap_realloc, heap_free};
    struct kl_buf b = KL_BUF(100000);
    struct kl_batch batch;

    kl_alloc_use(&heap);
    for (int i = 0; i < 1000; i++) {
        CHECK_OK(kl_buf_put(&b, "ssssssssss", 10));
    }
    kl_buf_wipe(&b);
    kl_batch_init(&batch, 100000);
    for (int i = 0; i < 1000; i++) {
        kl_batch_put(&batch, kl_bytes_str("sss"), kl_bytes_str("ssss"));
    }
    CHECK_OK(kl_batch_status(&batch));
    kl_batch_done(&batch);
    kl_alloc_use(NULL);
    CHECK(!h.dirty);
}

/* ---- bytes ---- */

static int sign(int v)
{
    return v < 0 ? -1 : v > 0;
}

/* The order is that of LevelDB's default comparator: bytes unsigned, a prefix first. */
TEST(bytes, order)
{
    static const struct kl_bytes sorted[] = {
        {NULL, 0},
        {(const uint8_t *)"\0", 1},
        {(const uint8_t *)"a", 1},
        {(const uint8_t *)"a\0", 2},
        {(const uint8_t *)"ab", 2},
        {(const uint8_t *)"b", 1},
        {(const uint8_t *)"\x80", 1},
        {(const uint8_t *)"\xff", 1},
    };
    const int n = sizeof sorted / sizeof sorted[0];

    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            CHECK_EQ(sign(kl_bytes_cmp(sorted[i], sorted[j])), sign(i - j));
            CHECK_EQ(kl_bytes_eq(sorted[i], sorted[j]), i == j);
        }
    }
}

/* ---- batches ---- */

/* A batch is walked in the order in which it was filled. */
TEST(batch, walk)
{
    struct kl_batch b;
    size_t pos = 0;
    enum kl_batch_op op = KL_BATCH_PUT;
    struct kl_bytes key;
    struct kl_bytes value;

    kl_batch_init(&b, 1000);
    CHECK(!kl_batch_next(&b, &pos, &op, &key, &value));
    kl_batch_put(&b, kl_bytes_str("one"), kl_bytes_str("1"));
    kl_batch_del(&b, kl_bytes_str("two"));
    kl_batch_put(&b, kl_bytes_str(""), kl_bytes_str(""));
    CHECK_OK(kl_batch_status(&b));
    CHECK_EQ(b.count, 3);
    CHECK(kl_batch_next(&b, &pos, &op, &key, &value));
    CHECK_EQ(op, KL_BATCH_PUT);
    CHECK(kl_bytes_eq(key, kl_bytes_str("one")) && kl_bytes_eq(value, kl_bytes_str("1")));
    CHECK(kl_batch_next(&b, &pos, &op, &key, &value));
    CHECK_EQ(op, KL_BATCH_DEL);
    CHECK(kl_bytes_eq(key, kl_bytes_str("two")) && value.len == 0);
    CHECK(kl_batch_next(&b, &pos, &op, &key, &value));
    CHECK(op == KL_BATCH_PUT && key.len == 0 && value.len == 0);
    CHECK(!kl_batch_next(&b, &pos, &op, &key, &value));
    kl_batch_clear(&b);
    pos = 0;
    CHECK(!kl_batch_next(&b, &pos, &op, &key, &value));
    kl_batch_done(&b);
}

/* The first failure is latched: what comes after it is not added, until the batch is cleared. */
TEST(batch, latches)
{
    struct kl_batch b;

    kl_batch_init(&b, 24);
    kl_batch_put(&b, kl_bytes_str("k"), kl_bytes_str("v"));
    kl_batch_put(&b, kl_bytes_str("too"), kl_bytes_str("large for it"));
    CHECK_STATUS(kl_batch_status(&b), KL_TOO_LARGE);
    kl_batch_del(&b, kl_bytes_str("k"));
    CHECK_STATUS(kl_batch_status(&b), KL_TOO_LARGE);
    CHECK_EQ(b.count, 1);
    kl_batch_clear(&b);
    CHECK_OK(kl_batch_status(&b));
    kl_batch_del(&b, kl_bytes_str("k"));
    CHECK_OK(kl_batch_status(&b));
    kl_batch_done(&b);
}
