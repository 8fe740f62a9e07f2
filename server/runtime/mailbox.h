/*
 * Many threads put, one thread takes everything at once. put() says whether the box was empty, so
 * that the owner is woken once per burst.
 */
#ifndef KL_MAILBOX_H
#define KL_MAILBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* Embed as the first member of what is put. */
struct kl_mail {
    struct kl_mail *next;
};

struct kl_mailbox {
    pthread_mutex_t lock;
    struct kl_mail *head;
    struct kl_mail **tail;
    size_t count;
    size_t max;
    bool closed;
};

void kl_mailbox_init(struct kl_mailbox *box, size_t max);
void kl_mailbox_done(struct kl_mailbox *box); /* must be empty */

/* false when the box is full or closed: the item stays the caller's. *was_empty tells whether the
 * owner must be woken. */
bool kl_mailbox_put(struct kl_mailbox *box, struct kl_mail *item, bool *was_empty);

/* The whole list in order of arrival, or NULL. */
struct kl_mail *kl_mailbox_take(struct kl_mailbox *box);

/* No more puts; what is inside can still be taken. */
void kl_mailbox_close(struct kl_mailbox *box);

#endif
