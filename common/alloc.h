/*
 * The only door to the heap. Every allocation of kluis goes through here so that tests can make
 * each one fail in turn (torture), and so that sizes are bounded.
 */
#ifndef KL_ALLOC_H
#define KL_ALLOC_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

/* Uninitialised memory of n > 0 bytes, or NULL. Yours: kl_free(). */
void *kl_malloc(size_t n);

/* Zeroed memory for count elements of size bytes, or NULL (also when the product overflows). */
void *kl_calloc(size_t count, size_t size);

/* realloc; on NULL the old block is still valid and yours. */
void *kl_realloc(void *p, size_t n);

/* A copy of a NUL-terminated string, or NULL. */
char *kl_strdup(const char *s);

/* Frees memory from here; NULL is allowed. */
void kl_free(void *p);

/* Overwrites n bytes in a way the compiler keeps. p may be NULL when n is 0. */
void kl_wipe(void *p, size_t n);

/*
 * An allocator for protobuf-c that refuses once `budget` bytes have been handed out: unpacking a
 * hostile message cannot take more. Not thread-safe; lives as long as the message.
 */
struct kl_pb_budget {
    ProtobufCAllocator allocator; /* pass &budget.allocator */
    size_t left;
};
void kl_pb_budget_init(struct kl_pb_budget *b, size_t budget);

/* protobuf-c allocator over kl_malloc without a budget, for messages of our own. */
extern ProtobufCAllocator kl_pb_allocator;

/*
 * Wipes every bytes and string field of a message, sub-messages included, before it is freed.
 * message may be NULL.
 */
void kl_pb_wipe(ProtobufCMessage *message);

/* kl_pb_wipe, then protobuf_c_message_free_unpacked with `allocator`. message may be NULL. */
void kl_pb_wipe_free(ProtobufCMessage *message, ProtobufCAllocator *allocator);

/*
 * Test hook: fail the n-th allocation from now on (1 = the next), on this thread; 0 turns it off.
 * Returns nothing; kl_alloc_failed() tells whether it struck.
 */
void kl_alloc_fail_at(unsigned long n);
int kl_alloc_failed(void);

/*
 * Test hook: memory of this thread comes from here instead of the C library, so that a simulated
 * node's memory can go with the node. Borrowed; NULL = the C library. What is allocated under a
 * heap must be freed under one that knows it.
 */
struct kl_heap {
    void *ctx;
    void *(*alloc)(void *ctx, size_t n); /* NULL: out of memory; also for n = 0 a fresh pointer */
    void *(*realloc)(void *ctx, void *p, size_t n);
    void (*free)(void *ctx, void *p);
};
void kl_alloc_use(const struct kl_heap *heap);

#endif
