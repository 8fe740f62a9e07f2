#include "tests/sim/heap.h"

#include "common/alloc.h"

#include <assert.h>
#include <raft.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/*
 * Under AddressSanitizer every block is the C library's own, so that overruns and uses after free
 * are seen. Otherwise freed blocks wait in lists by size: a simulation allocates the same few sizes
 * millions of times.
 */
#if defined(__SANITIZE_ADDRESS__)
#define POOLED false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POOLED false
#endif
#endif
#ifndef POOLED
#define POOLED true
#endif

enum { STEP = 32, CLASSES = 48, LIMIT = STEP * CLASSES, MAGIC = 0x51a7b10c };

/* Before every block; its size keeps what follows aligned. */
struct sim_block {
    struct sim_block *next, *prev;
    struct sim_heap *owner;
    uint32_t size; /* as asked for */
    uint32_t magic;
};

/* The heap of the calling thread; simulations are single threads. */
static _Thread_local struct sim_heap *current;
/* Freed blocks by size, shared by all heaps. */
static _Thread_local struct sim_block *idle[CLASSES];

static size_t class_of(size_t n)
{
    return n == 0 ? 0 : (n - 1) / STEP;
}

/* A block of the C library, through the one door to it. */
static struct sim_block *take_raw(size_t n)
{
    struct sim_heap *before = sim_heap_enter(NULL);
    struct sim_block *b = kl_malloc(sizeof *b + n);

    (void)sim_heap_enter(before);
    assert(b != NULL);
    return b;
}

static void give_raw(struct sim_block *b)
{
    struct sim_heap *before = sim_heap_enter(NULL);

    kl_free(b);
    (void)sim_heap_enter(before);
}

void *sim_alloc(struct sim_heap *heap, size_t n)
{
    struct sim_block *b = NULL;
    size_t class = class_of(n);

    assert(heap != NULL && n <= UINT32_MAX);
    if (POOLED && n <= LIMIT) {
        b = idle[class];
        if (b != NULL) {
            idle[class] = b->next;
        } else {
            b = take_raw((class + 1) * STEP);
        }
    } else {
        b = take_raw(n == 0 ? 1 : n);
    }
    b->owner = heap;
    b->size = (uint32_t)n;
    b->magic = MAGIC;
    b->prev = NULL;
    b->next = heap->first;
    if (heap->first != NULL) {
        heap->first->prev = b;
    }
    heap->first = b;
    heap->blocks++;
    heap->bytes += n;
    return b + 1;
}

void *sim_zalloc(struct sim_heap *heap, size_t n)
{
    void *p = sim_alloc(heap, n);

    memset(p, 0, n);
    return p;
}

void sim_free(void *p)
{
    struct sim_block *b;
    struct sim_heap *heap;

    if (p == NULL) {
        return;
    }
    b = (struct sim_block *)p - 1;
    assert(b->magic == MAGIC); /* freed twice, or not ours */
    b->magic = 0;
    heap = b->owner;
    if (b->prev != NULL) {
        b->prev->next = b->next;
    } else {
        heap->first = b->next;
    }
    if (b->next != NULL) {
        b->next->prev = b->prev;
    }
    heap->blocks--;
    heap->bytes -= b->size;
    if (POOLED && b->size <= LIMIT) {
        b->next = idle[class_of(b->size)];
        idle[class_of(b->size)] = b;
    } else {
        give_raw(b);
    }
}

static void *hook_alloc(void *ctx, size_t n)
{
    (void)ctx;
    return sim_alloc(current, n);
}

static void *hook_realloc(void *ctx, void *p, size_t n)
{
    struct sim_block *b = p == NULL ? NULL : (struct sim_block *)p - 1;
    void *to;

    (void)ctx;
    if (p != NULL && POOLED && n <= LIMIT && b->size <= LIMIT && class_of(n) == class_of(b->size)) {
        b->owner->bytes += n;
        b->owner->bytes -= b->size;
        b->size = (uint32_t)n;
        return p;
    }
    to = sim_alloc(p == NULL ? current : b->owner, n);
    if (p != NULL) {
        memcpy(to, p, n < b->size ? n : b->size);
        sim_free(p);
    }
    return to;
}

static void hook_free(void *ctx, void *p)
{
    (void)ctx;
    sim_free(p);
}

static void *hook_calloc(void *ctx, size_t count, size_t size)
{
    (void)ctx;
    return sim_zalloc(current, count * size);
}

static void *hook_aligned(void *ctx, size_t alignment, size_t n)
{
    (void)ctx;
    (void)alignment; /* only libraft's file storage asks for it */
    return sim_alloc(current, n);
}

static void hook_aligned_free(void *ctx, size_t alignment, void *p)
{
    (void)ctx;
    (void)alignment;
    sim_free(p);
}

struct sim_heap *sim_heap_enter(struct sim_heap *heap)
{
    static const struct kl_heap hook = {NULL, hook_alloc, hook_realloc, hook_free};
    static struct raft_heap raft_hook = {NULL,         hook_alloc,   hook_free,        hook_calloc,
                                         hook_realloc, hook_aligned, hook_aligned_free};
    struct sim_heap *before = current;

    if ((heap == NULL) != (before == NULL)) {
        kl_alloc_use(heap == NULL ? NULL : &hook);
        if (heap == NULL) {
            raft_heap_set_default();
        } else {
            raft_heap_set(&raft_hook);
        }
    }
    current = heap;
    return before;
}

void sim_heap_drop(struct sim_heap *heap)
{
    while (heap->first != NULL) {
        sim_free(heap->first + 1);
    }
}

void sim_heap_trim(void)
{
    for (size_t i = 0; i < CLASSES; i++) {
        while (idle[i] != NULL) {
            struct sim_block *b = idle[i];

            idle[i] = b->next;
            give_raw(b);
        }
    }
}

void sim_heap_print(const struct sim_heap *heap)
{
    size_t n = 0;

    for (const struct sim_block *b = heap->first; b != NULL && n < 16; b = b->next) {
        (void)fprintf(stderr, "  live block of %u bytes at %p\n", b->size, (const void *)(b + 1));
        n++;
    }
}
