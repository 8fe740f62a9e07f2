/*
 * Memory with an owner. Every node of a simulation allocates from a heap of its own, so that a
 * crash can take it all away without running a line of the crashed code, and a clean stop can
 * prove that nothing was left behind. The world has a heap too.
 *
 * While a simulation runs, kl_malloc and libraft's allocator take from the current heap; frees find
 * the owner by the block's head, whatever heap is current.
 */
#ifndef SIM_HEAP_H
#define SIM_HEAP_H

#include <stddef.h>
#include <stdint.h>

struct sim_block;

struct sim_heap {
    struct sim_block *first; /* all live blocks */
    size_t blocks, bytes;    /* live */
};

/* Makes `heap` the current one and hooks the allocators; the previous one is returned. NULL unhooks:
 * the C library again. */
struct sim_heap *sim_heap_enter(struct sim_heap *heap);

/* From a given heap, whatever is current. Never NULL (the process ends when memory does). */
void *sim_alloc(struct sim_heap *heap, size_t n);
void *sim_zalloc(struct sim_heap *heap, size_t n);
void sim_free(void *p);

/* Frees every live block: a crash. */
void sim_heap_drop(struct sim_heap *heap);
/* Gives back what freed blocks keep for reuse. */
void sim_heap_trim(void);
/* Prints the sizes of some live blocks. */
void sim_heap_print(const struct sim_heap *heap);

#endif
