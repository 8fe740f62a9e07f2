/*
 * Memory of one command: everything unpacked or gathered while a command is applied comes from here
 * and goes at once. Apply functions therefore free nothing.
 */
#ifndef KL_ARENA_H
#define KL_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

struct kl_arena_block;

struct kl_arena {
    struct kl_arena_block *head;  /* the block in use; older ones behind it */
    bool no_memory;               /* an allocation failed since the last reset */
    ProtobufCAllocator allocator; /* takes from here; its free does nothing */
};

/* The arena may not be moved afterwards: the allocator points at it. */
void kl_arena_init(struct kl_arena *a);
/* Everything taken is gone; one block is kept for what comes next. */
void kl_arena_reset(struct kl_arena *a);
void kl_arena_done(struct kl_arena *a);

/* n bytes, aligned for anything, uninitialised; NULL when memory is out. */
void *kl_arena_alloc(struct kl_arena *a, size_t n);

#endif
