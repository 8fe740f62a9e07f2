#include "server/core/arena.h"

#include "common/alloc.h"

#include <stdalign.h>
#include <stdint.h>

enum { BLOCK = 32 << 10, ALIGN = alignof(max_align_t) };

struct kl_arena_block {
    struct kl_arena_block *next;
    size_t used;
    size_t size;
    alignas(max_align_t) uint8_t bytes[];
};

static void *take(void *arena, size_t n)
{
    return kl_arena_alloc(arena, n);
}

static void drop(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

void kl_arena_init(struct kl_arena *a)
{
    *a = (struct kl_arena){.allocator = {take, drop, a}};
}

void kl_arena_reset(struct kl_arena *a)
{
    struct kl_arena_block *keep = NULL;

    while (a->head != NULL) {
        struct kl_arena_block *b = a->head;

        a->head = b->next;
        if (keep == NULL && b->size == BLOCK) {
            keep = b;
            keep->next = NULL;
            keep->used = 0;
        } else {
            kl_free(b);
        }
    }
    a->head = keep;
    a->no_memory = false;
}

void kl_arena_done(struct kl_arena *a)
{
    kl_arena_reset(a);
    kl_free(a->head);
    a->head = NULL;
}

void *kl_arena_alloc(struct kl_arena *a, size_t n)
{
    struct kl_arena_block *b = a->head;
    void *p;

    if (n > SIZE_MAX / 2) {
        a->no_memory = true;
        return NULL;
    }
    n = (n + ALIGN - 1) / ALIGN * ALIGN;
    if (b == NULL || b->size - b->used < n) {
        size_t size = n > BLOCK ? n : BLOCK;

        b = kl_malloc(sizeof *b + size);
        if (b == NULL) {
            a->no_memory = true;
            return NULL;
        }
        b->used = 0;
        b->size = size;
        b->next = a->head;
        a->head = b;
    }
    p = b->bytes + b->used;
    b->used += n;
    return p;
}
