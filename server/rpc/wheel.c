#include "server/rpc/wheel.h"

#include <assert.h>

static struct kl_due *slot_of(struct kl_wheel *w, uint64_t at_us)
{
    return &w->slots[at_us / KL_WHEEL_SLOT_US % KL_WHEEL_SLOTS];
}

void kl_wheel_init(struct kl_wheel *w, uint64_t now_us)
{
    for (size_t i = 0; i < KL_WHEEL_SLOTS; i++) {
        w->slots[i] = (struct kl_due){&w->slots[i], &w->slots[i], 0};
    }
    w->swept_us = now_us;
    w->count = 0;
}

void kl_wheel_add(struct kl_wheel *w, struct kl_due *due, uint64_t at_us)
{
    /* What is due already goes where the sweep will look next. */
    struct kl_due *head = slot_of(w, at_us < w->swept_us ? w->swept_us : at_us);

    assert(due->next == NULL);
    due->at_us = at_us;
    due->prev = head->prev;
    due->next = head;
    head->prev->next = due;
    head->prev = due;
    w->count++;
}

void kl_wheel_remove(struct kl_wheel *w, struct kl_due *due)
{
    if (due->next == NULL) {
        return;
    }
    due->prev->next = due->next;
    due->next->prev = due->prev;
    due->next = NULL;
    due->prev = NULL;
    w->count--;
}

struct kl_due *kl_wheel_take(struct kl_wheel *w, uint64_t now_us)
{
    uint64_t steps = 0;

    while (w->count > 0 && w->swept_us <= now_us) {
        struct kl_due *head = slot_of(w, w->swept_us);

        for (struct kl_due *due = head->next; due != head; due = due->next) {
            if (due->at_us <= now_us) { /* others are of a later round */
                kl_wheel_remove(w, due);
                return due;
            }
        }
        if (now_us - w->swept_us < KL_WHEEL_SLOT_US || ++steps > KL_WHEEL_SLOTS) {
            break; /* this slot is not over yet, or all were looked at */
        }
        w->swept_us += KL_WHEEL_SLOT_US;
    }
    if (w->count == 0 || steps > KL_WHEEL_SLOTS) {
        w->swept_us = now_us;
    }
    return NULL;
}
