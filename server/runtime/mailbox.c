#include "server/runtime/mailbox.h"

#include <assert.h>

void kl_mailbox_init(struct kl_mailbox *box, size_t max)
{
    int rc = pthread_mutex_init(&box->lock, NULL);

    assert(rc == 0); /* a default mutex on Linux takes nothing that could be lacking */
    box->head = NULL;
    box->tail = &box->head;
    box->count = 0;
    box->max = max;
    box->closed = false;
}

void kl_mailbox_done(struct kl_mailbox *box)
{
    assert(box->head == NULL);
    (void)pthread_mutex_destroy(&box->lock);
}

bool kl_mailbox_put(struct kl_mailbox *box, struct kl_mail *item, bool *was_empty)
{
    bool put = false;

    (void)pthread_mutex_lock(&box->lock);
    if (!box->closed && box->count < box->max) {
        *was_empty = box->head == NULL;
        item->next = NULL;
        *box->tail = item;
        box->tail = &item->next;
        box->count++;
        put = true;
    }
    (void)pthread_mutex_unlock(&box->lock);
    return put;
}

struct kl_mail *kl_mailbox_take(struct kl_mailbox *box)
{
    struct kl_mail *all;

    (void)pthread_mutex_lock(&box->lock);
    all = box->head;
    box->head = NULL;
    box->tail = &box->head;
    box->count = 0;
    (void)pthread_mutex_unlock(&box->lock);
    return all;
}

void kl_mailbox_close(struct kl_mailbox *box)
{
    (void)pthread_mutex_lock(&box->lock);
    box->closed = true;
    (void)pthread_mutex_unlock(&box->lock);
}
