/*
 * The set and its thread. Deadlines hang in a wheel: a connection sits in the slot of the tick at
 * which somebody must look at it again, so a tick costs what is due and not what exists. The
 * thread also finishes closed connections and tries again to accept where accepting failed.
 */
#include "common/net/conn.h"

#include "common/alloc.h"

#include <assert.h>

static void insert(struct kl_net *net, struct kl_conn *conn, uint64_t now_ms, uint64_t delay_ms)
{
    uint64_t tick = (now_ms + delay_ms) / KL_NET_TICK_MS + 1;

    assert(tick - now_ms / KL_NET_TICK_MS < KL_NET_SLOTS);
    kl_link_add(&net->slots[tick % KL_NET_SLOTS], &conn->wheel);
}

enum kl_status kl_net_add(struct kl_net *net, struct kl_conn *conn)
{
    enum kl_status st = KL_CLOSED;

    nng_mtx_lock(net->lock);
    if (!net->stopping) {
        conn->in_net = true;
        insert(net, conn, nng_clock(), KL_NET_CHECK_MS);
        if (net->conns++ == 0) {
            nng_cv_wake(net->cv);
        }
        st = KL_OK;
    }
    nng_mtx_unlock(net->lock);
    return st;
}

enum kl_status kl_net_add_listener(struct kl_net *net, struct kl_listener *listener)
{
    enum kl_status st = KL_CLOSED;

    nng_mtx_lock(net->lock);
    if (!net->stopping) {
        kl_link_add(&net->listeners, &listener->link);
        kl_listener_accept_locked(listener);
        nng_cv_wake(net->cv);
        st = KL_OK;
    }
    nng_mtx_unlock(net->lock);
    return st;
}

void kl_net_reap(struct kl_net *net, struct kl_conn *conn)
{
    nng_mtx_lock(net->lock);
    if (conn->in_net) {
        conn->reap_next = NULL;
        *net->reap_tail = conn;
        net->reap_tail = &conn->reap_next;
        nng_cv_wake(net->cv);
    }
    nng_mtx_unlock(net->lock);
}

/* ---- the thread; each function is called and left with the lock held ---- */

static void finish_one(struct kl_net *net)
{
    struct kl_conn *conn = net->reap;

    net->reap = conn->reap_next;
    if (net->reap == NULL) {
        net->reap_tail = &net->reap;
    }
    kl_link_remove(&conn->wheel);
    nng_mtx_unlock(net->lock);
    kl_conn_finish(conn, true);
    nng_mtx_lock(net->lock);
    net->conns--;
}

static void sweep_slot(struct kl_net *net, struct kl_link *slot, uint64_t now_ms)
{
    struct kl_link due;

    kl_link_init(&due);
    while (!kl_link_empty(slot)) { /* apart, because a connection may come back to this slot */
        struct kl_link *node = slot->next;

        kl_link_remove(node);
        kl_link_add(&due, node);
    }
    while (!kl_link_empty(&due)) {
        struct kl_conn *conn = (struct kl_conn *)(void *)due.next;
        uint64_t again;

        kl_link_remove(&conn->wheel);
        nng_mtx_unlock(net->lock);
        again = kl_conn_check(conn, now_ms);
        nng_mtx_lock(net->lock);
        insert(net, conn, now_ms, again);
    }
}

static void sweep(struct kl_net *net, uint64_t now_ms)
{
    uint64_t tick = now_ms / KL_NET_TICK_MS;

    if (tick - net->swept > KL_NET_SLOTS) {
        net->swept = tick - KL_NET_SLOTS; /* slept long: one whole turn is enough */
    }
    while (net->swept < tick) {
        sweep_slot(net, &net->slots[++net->swept % KL_NET_SLOTS], now_ms);
    }
    for (struct kl_link *node = net->listeners.next; node != &net->listeners; node = node->next) {
        struct kl_listener *listener = (struct kl_listener *)(void *)node;

        if (listener->retry) {
            kl_listener_accept_locked(listener);
        }
    }
}

static void close_all(struct kl_net *net)
{
    while (!kl_link_empty(&net->listeners)) {
        struct kl_listener *listener = (struct kl_listener *)(void *)net->listeners.next;

        nng_mtx_unlock(net->lock);
        kl_listener_free(listener);
        nng_mtx_lock(net->lock);
    }
    for (size_t i = 0; i < KL_NET_SLOTS; i++) {
        /* Closing leaves a connection in its slot until it is finished, and only this thread
         * takes it out: the list stays as it is while the lock is released. */
        for (struct kl_link *node = net->slots[i].next; node != &net->slots[i]; node = node->next) {
            nng_mtx_unlock(net->lock);
            kl_conn_close((struct kl_conn *)(void *)node);
            nng_mtx_lock(net->lock);
        }
    }
}

static void run(void *arg)
{
    struct kl_net *net = arg;
    bool closed = false;

    nng_mtx_lock(net->lock);
    for (;;) {
        uint64_t now = nng_clock();

        if (net->stopping && !closed) {
            closed = true;
            close_all(net);
        } else if (net->reap != NULL) {
            finish_one(net);
        } else if (closed && net->conns == 0) {
            break;
        } else if (now / KL_NET_TICK_MS > net->swept) {
            sweep(net, now);
        } else if (net->conns == 0 && kl_link_empty(&net->listeners)) {
            nng_cv_wait(net->cv);
        } else {
            (void)nng_cv_until(net->cv, (now / KL_NET_TICK_MS + 1) * KL_NET_TICK_MS);
        }
    }
    nng_mtx_unlock(net->lock);
}

/* ---- making and freeing ---- */

static void free_parts(struct kl_net *net)
{
    nng_cv_free(net->cv);
    nng_mtx_free(net->lock);
    BIO_meth_free(net->bio);
    kl_free(net);
}

enum kl_status kl_net_new(struct kl_net **out)
{
    struct kl_net *net = kl_calloc(1, sizeof *net);

    if (net == NULL) {
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < KL_NET_SLOTS; i++) {
        kl_link_init(&net->slots[i]);
    }
    kl_link_init(&net->listeners);
    net->reap_tail = &net->reap;
    net->bio = kl_tls_bio_method();
    if (net->bio == NULL || nng_mtx_alloc(&net->lock) != 0 ||
        nng_cv_alloc(&net->cv, net->lock) != 0) {
        free_parts(net);
        return KL_NO_MEMORY;
    }
    net->swept = nng_clock() / KL_NET_TICK_MS;
    if (nng_thread_create(&net->thread, run, net) != 0) {
        free_parts(net);
        return KL_NO_MEMORY;
    }
    *out = net;
    return KL_OK;
}

void kl_net_free(struct kl_net *net)
{
    if (net == NULL) {
        return;
    }
    nng_mtx_lock(net->lock);
    net->stopping = true;
    nng_cv_wake(net->cv);
    nng_mtx_unlock(net->lock);
    nng_thread_destroy(net->thread); /* joins */
    free_parts(net);
}
