/*
 * Deadlines of calls: a wheel of slots, so that adding and removing costs the same however many
 * there are. Not thread-safe: the dispatcher's lock is around it.
 */
#ifndef KL_WHEEL_H
#define KL_WHEEL_H

#include "common/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embed in what has a deadline. Not in the wheel: next is NULL. */
struct kl_due {
    struct kl_due *prev, *next;
    uint64_t at_us;
};

struct kl_wheel {
    struct kl_due slots[KL_WHEEL_SLOTS]; /* heads of rings */
    uint64_t swept_us;                   /* everything due before this has been taken */
    size_t count;
};

void kl_wheel_init(struct kl_wheel *w, uint64_t now_us);
void kl_wheel_add(struct kl_wheel *w, struct kl_due *due, uint64_t at_us);
/* Harmless when it is not in the wheel. */
void kl_wheel_remove(struct kl_wheel *w, struct kl_due *due);
/* Takes one item that is due at now_us out of the wheel; NULL when there is none any more. */
struct kl_due *kl_wheel_take(struct kl_wheel *w, uint64_t now_us);

#endif
