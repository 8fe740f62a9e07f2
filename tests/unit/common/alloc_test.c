/* Allocation: failing on demand, budgets, wiping messages; and every allocation of common failing. */
#include "common/alloc.h"
#include "common/batch.h"
#include "common/status.h"
#include "tests/lib/test.h"

#include "rpc.pb-c.h"

/* Exactly the n-th allocation fails, once. */
TEST(alloc, fail_at)
{
    void *p[3];

    kl_alloc_fail_at(2);
    p[0] = kl_malloc(1);
    CHECK(p[0] != NULL);
    CHECK(!kl_alloc_failed());
    CHECK(kl_calloc(1, 1) == NULL);
    CHECK(kl_alloc_failed());
    p[1] = kl_realloc(NULL, 1);
    p[2] = kl_strdup("x");
    CHECK(p[1] != NULL && p[2] != NULL);
    kl_alloc_fail_at(1);
    CHECK(kl_strdup("x") == NULL);
    kl_alloc_fail_at(1);
    CHECK(kl_realloc(p[0], 100) == NULL); /* p[0] is still ours */
    kl_alloc_fail_at(0);
    for (int i = 0; i < 3; i++) {
        kl_free(p[i]);
    }
    kl_free(NULL);
}

/* A product that overflows is refused; memory from calloc is zero. */
TEST(alloc, calloc)
{
    uint8_t *p = kl_calloc(10, 10);
    volatile size_t half = SIZE_MAX / 2;

    CHECK(p != NULL);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(p[i], 0);
    }
    kl_free(p);
    CHECK(kl_calloc(half, 3) == NULL);
    CHECK(kl_calloc(3, half) == NULL);
}

TEST(alloc, wipe)
{
    char text[] = "secret";

    kl_wipe(text, 3);
    CHECK_MEM(text, "\0\0\0ret", 7);
    kl_wipe(NULL, 0);
}

/* ---- messages ---- */

/* A call with a token and a payload, packed. */
static size_t packed_call(uint8_t *out, size_t payload)
{
    static char key[] = "authorization";
    static char value[] = "Bearer SECRET";
    static char method[] = "/kluis.v1.Secrets/Set";
    static uint8_t bytes[4096];
    Kluis__V1__Metadata m = KLUIS__V1__METADATA__INIT;
    Kluis__V1__Metadata *list[2] = {&m, &m};
    Kluis__V1__Call call = KLUIS__V1__CALL__INIT;

    memset(bytes, 'S', sizeof bytes);
    m.key = key;
    m.value = value;
    call.method = method;
    call.metadata = list;
    call.n_metadata = 2;
    call.payload.data = bytes;
    call.payload.len = payload;
    return kluis__v1__call__pack(&call, out);
}

/* Unpacking a message that needs more than its budget fails and leaks nothing. */
TEST(alloc, budget)
{
    uint8_t packed[8192];
    size_t n = packed_call(packed, 4000);
    struct kl_pb_budget b;
    Kluis__V1__Call *call;

    kl_pb_budget_init(&b, 3000);
    CHECK(kluis__v1__call__unpack(&b.allocator, n, packed) == NULL);
    kl_pb_budget_init(&b, 8000);
    call = kluis__v1__call__unpack(&b.allocator, n, packed);
    CHECK(call != NULL);
    CHECK(b.left < 4000);
    kl_pb_wipe_free(&call->base, &b.allocator);
}

/* Every string and bytes field is wiped, in sub-messages and in what the schema does not know. */
TEST(alloc, wipes_messages)
{
    static const uint8_t unknown[] = {0xfa, 0x06, 6, 'S', 'E', 'C', 'R', 'E', 'T'}; /* field 111 */
    uint8_t packed[8192];
    size_t n = packed_call(packed, 100);
    Kluis__V1__Call *call;

    memcpy(packed + n, unknown, sizeof unknown);
    call = kluis__v1__call__unpack(&kl_pb_allocator, n + sizeof unknown, packed);
    CHECK(call != NULL);
    CHECK_EQ(call->base.n_unknown_fields, 1);
    kl_pb_wipe(&call->base);
    for (size_t i = 0; i < 100; i++) {
        CHECK_EQ(call->payload.data[i], 0);
    }
    for (size_t i = 0; i < call->n_metadata; i++) {
        CHECK_MEM(call->metadata[i]->value, "\0\0\0\0\0\0\0\0\0\0\0\0\0", 13);
        CHECK_EQ(call->metadata[i]->key[0], 0);
    }
    CHECK_EQ(call->method[0], 0);
    for (size_t i = 0; i < call->base.unknown_fields[0].len; i++) {
        CHECK_EQ(call->base.unknown_fields[0].data[i], 0);
    }
    kl_pb_wipe_free(&call->base, &kl_pb_allocator);
    kl_pb_wipe(NULL);
    kl_pb_wipe_free(NULL, &kl_pb_allocator);
}

/* An empty message (default strings, unset sub-messages) can be wiped too. */
TEST(alloc, wipes_empty_messages)
{
    Kluis__V1__Reply *reply = kluis__v1__reply__unpack(&kl_pb_allocator, 0, NULL);

    CHECK(reply != NULL);
    kl_pb_wipe_free(&reply->base, &kl_pb_allocator);
}

/* ---- torture: each allocation fails in turn; answers are clear, nothing leaks or breaks ---- */

static enum kl_status use_buffers(void)
{
    struct kl_buf b = KL_BUF(10000);
    size_t len = 0;
    enum kl_status st = KL_OK;

    for (int i = 0; i < 200 && st == KL_OK; i++) {
        st = i % 3 == 0   ? kl_buf_printf(&b, "%d", 1000 + i)
             : i % 3 == 1 ? kl_buf_put_be64(&b, 1)
                          : kl_buf_put(&b, "text", 4);
        if (st == KL_OK) {
            len = b.len;
        }
        CHECK_EQ(b.len, len); /* a failed one changed nothing */
    }
    kl_buf_wipe(&b);
    return st;
}

static enum kl_status use_batch(void)
{
    struct kl_batch b;
    enum kl_status st;

    kl_batch_init(&b, 10000);
    for (int i = 0; i < 100; i++) {
        kl_batch_put(&b, kl_bytes_str("key"), kl_bytes_str("value"));
    }
    st = kl_batch_status(&b);
    kl_batch_done(&b);
    return st;
}

static enum kl_status use_messages(void)
{
    uint8_t packed[8192];
    size_t n = packed_call(packed, 500);
    struct kl_pb_budget b;
    Kluis__V1__Call *call;

    kl_pb_budget_init(&b, 100000);
    call = kluis__v1__call__unpack(&b.allocator, n, packed);
    if (call == NULL) {
        return KL_NO_MEMORY;
    }
    kl_pb_wipe_free(&call->base, &b.allocator);
    return KL_OK;
}

static void torture(enum kl_status (*use)(void), unsigned long least)
{
    for (unsigned long n = 1;; n++) {
        enum kl_status st;
        int struck;

        kl_alloc_fail_at(n);
        st = use();
        struck = kl_alloc_failed();
        kl_alloc_fail_at(0);
        if (!struck) {
            CHECK_OK(st);
            CHECK(n > least);
            return;
        }
        CHECK_STATUS(st, KL_NO_MEMORY);
    }
}

TEST(torture, buffers)
{
    torture(use_buffers, 3);
}
TEST(torture, batch)
{
    torture(use_batch, 3);
}
TEST(torture, messages)
{
    torture(use_messages, 5);
}
