/*
 * One thread, one libuv loop, one group. Other threads reach it through two boxes: messages of
 * peers, which may be dropped when there are too many, and posted functions, which may not.
 */
#include "server/raft/host_uv.h"

#include "common/alloc.h"
#include "server/raft/no_transport.h"
#include "server/runtime/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <raft/uv.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_LEN = 1024 };

/* A message of a peer. */
struct letter {
    struct kl_mail mail; /* first */
    uint64_t from;
    size_t len;
    uint8_t bytes[];
};

struct task {
    struct kl_mail mail; /* first */
    void (*fn)(void *arg);
    void *arg;
};

struct job {
    uv_work_t req;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

/* A peer that came or went. */
struct peer_news {
    struct kl_host_uv *h;
    uint64_t node;
    bool connected;
};

struct kl_host_uv {
    struct kl_host_uv_options options;
    char dir[PATH_LEN], address[KL_ADDRESS_MAX + 1];
    pthread_t thread;
    bool joined;

    uv_loop_t loop;
    uv_async_t async;
    uv_prepare_t prepare;
    uv_idle_t idle;
    uv_timer_t timer; /* for what gathers in the group */
    struct raft_io io;
    struct raft_uv_transport transport;
    bool io_open, again;
    struct kl_group_host host;
    struct kl_group *group;

    struct kl_mailbox letters, tasks;
    _Atomic size_t letter_bytes;
    _Atomic bool woken;
    _Atomic bool running; /* the group takes messages */

    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool started;
    enum kl_status status; /* of the start */
    char err[2048];
};

/* ---- the store's directories ---- */

static void path_of(const struct kl_host_uv *h, const char *name, char out[PATH_LEN + 32])
{
    (void)snprintf(out, PATH_LEN + 32, "%s/%s", h->dir, name);
}

static bool exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0;
}

static enum kl_status dir_make(const char *path)
{
    return mkdir(path, 0700) == 0 || errno == EEXIST ? KL_OK
           : errno == ENOSPC                         ? KL_NO_SPACE
                                                     : KL_IO;
}

static enum kl_status dir_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum kl_status st = KL_IO;

    if (fd >= 0) {
        st = fsync(fd) == 0 ? KL_OK : KL_IO;
        (void)close(fd);
    }
    return st;
}

/*
 * Adopting is: state -> state.old, staged -> state, remove state.old. A crash in between leaves
 * state.old and perhaps no state: then the old one comes back, and the staged one is adopted again.
 */
static enum kl_status state_recover(const struct kl_host_uv *h)
{
    char live[PATH_LEN + 32];
    char old[PATH_LEN + 32];

    path_of(h, "state", live);
    path_of(h, "state.old", old);
    if (!exists(old)) {
        return KL_OK;
    }
    if (exists(live)) {
        return kl_kv_leveldb_destroy(old);
    }
    return rename(old, live) == 0 ? dir_sync(h->dir) : KL_IO;
}

static void store_fault(void *ctx, enum kl_status status, const char *why)
{
    struct kl_host_uv *h = ctx;

    h->options.damaged(h->options.ctx, h->options.group, status, why);
}

static enum kl_status store_open(void *ctx, struct kl_group *group, bool staged, struct kl_kv **out)
{
    struct kl_host_uv *h = ctx;
    char path[PATH_LEN + 32];
    char err[256] = "";
    enum kl_status st = KL_OK;

    (void)group;
    if (!staged) {
        st = state_recover(h);
    }
    path_of(h, staged ? "staged" : "state", path);
    if (st == KL_OK) {
        st = kl_kv_leveldb_open(path, h->options.cache_bytes, out, err, sizeof err);
    }
    if (st != KL_OK) {
        kl_log(KL_LOG_ERROR, "raft", "opening a store failed group=%u path=%s reason=\"%s\"",
               (unsigned)h->options.group, path, err);
    } else if (!staged && h->options.damaged != NULL) {
        (*out)->fault_ctx = h;
        (*out)->fault = store_fault;
    }
    return st;
}

static enum kl_status store_adopt(void *ctx, struct kl_group *group)
{
    struct kl_host_uv *h = ctx;
    char live[PATH_LEN + 32];
    char old[PATH_LEN + 32];
    char staged[PATH_LEN + 32];

    (void)group;
    path_of(h, "state", live);
    path_of(h, "state.old", old);
    path_of(h, "staged", staged);
    if ((exists(live) && rename(live, old) != 0) || rename(staged, live) != 0 ||
        dir_sync(h->dir) != KL_OK) {
        return KL_IO;
    }
    return kl_kv_leveldb_destroy(old);
}

static enum kl_status store_drop_staged(void *ctx, struct kl_group *group)
{
    struct kl_host_uv *h = ctx;
    char path[PATH_LEN + 32];

    (void)group;
    path_of(h, "staged", path);
    return kl_kv_leveldb_destroy(path);
}

/* ---- what the group asks for ---- */

static void host_send(void *ctx, struct kl_group *group, uint64_t to_node, enum kl_lane lane,
                      struct kl_bytes message)
{
    struct kl_host_uv *h = ctx;

    (void)group;
    if (h->options.peers != NULL && *h->options.peers != NULL) {
        kl_peers_send(*h->options.peers, to_node, h->options.group, lane, message);
    }
}

static void host_wake(void *ctx, struct kl_group *group)
{
    struct kl_host_uv *h = ctx;

    (void)group;
    if (pthread_equal(pthread_self(), h->thread)) {
        h->again = true; /* the turn comes before the loop sleeps */
        return;
    }
    if (!atomic_exchange(&h->woken, true)) {
        (void)uv_async_send(&h->async);
    }
}

static void host_fatal(void *ctx, struct kl_group *group, const char *why)
{
    struct kl_host_uv *h = ctx;

    (void)group;
    h->options.fatal(h->options.ctx, h->options.group, why);
    abort(); /* it must not return */
}

static void host_post(void *ctx, struct kl_group *group, void (*fn)(void *arg), void *arg)
{
    struct kl_host_uv *h = ctx;
    struct task *t = kl_malloc(sizeof *t);
    bool was_empty;

    if (t == NULL) {
        host_fatal(ctx, group, "out of memory");
        return;
    }
    *t = (struct task){.fn = fn, .arg = arg};
    if (!kl_mailbox_put(&h->tasks, &t->mail, &was_empty)) {
        host_fatal(ctx, group, "too many tasks for one group");
    }
    host_wake(ctx, group);
}

static void work_run(uv_work_t *req)
{
    struct job *j = req->data;

    j->work(j->arg);
}

static void work_done(uv_work_t *req, int status)
{
    struct job *j = req->data;

    (void)status;
    j->done(j->arg);
    kl_free(j);
}

static void host_work(void *ctx, struct kl_group *group, void (*work)(void *arg),
                      void (*done)(void *arg), void *arg)
{
    struct kl_host_uv *h = ctx;
    struct job *j = kl_calloc(1, sizeof *j);

    if (j == NULL) {
        host_fatal(ctx, group, "out of memory");
        return;
    }
    *j = (struct job){.work = work, .done = done, .arg = arg};
    j->req.data = j;
    (void)uv_queue_work(&h->loop, &j->req, work_run, work_done);
}

static void host_changed(void *ctx, struct kl_group *group)
{
    struct kl_host_uv *h = ctx;

    (void)group;
    if (h->options.changed != NULL) {
        h->options.changed(h->options.ctx, h->options.group);
    }
}

/* ---- the loop ---- */

static void letters_read(struct kl_host_uv *h)
{
    struct kl_mail *mail = kl_mailbox_take(&h->letters);

    while (mail != NULL) {
        struct letter *l = (struct letter *)mail;

        mail = mail->next;
        atomic_fetch_sub(&h->letter_bytes, l->len);
        if (atomic_load(&h->running)) {
            /* Raft takes the loop's time for that of the message's arrival, and its promise not to
             * vote counts from it: it may not be older than the message. */
            uv_update_time(&h->loop);
            kl_group_receive(h->group, l->from, (struct kl_bytes){l->bytes, l->len});
        }
        kl_free(l);
    }
}

static void tasks_run(struct kl_host_uv *h)
{
    struct kl_mail *mail = kl_mailbox_take(&h->tasks);

    while (mail != NULL) {
        struct task *t = (struct task *)mail;

        mail = mail->next;
        t->fn(t->arg);
        kl_free(t);
    }
}

static void on_async(uv_async_t *async)
{
    struct kl_host_uv *h = async->data;

    atomic_store(&h->woken, false);
    letters_read(h);
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* it only keeps the loop from sleeping */
}

static void on_timer(uv_timer_t *timer)
{
    (void)timer; /* the turn is on_prepare's */
}

/* The group wants a turn before anything else may happen. */
static void timer_set(struct kl_host_uv *h)
{
    uint64_t due_us = kl_group_due_us(h->group);
    uint64_t now_us = kl_real_clock.mono_us(kl_real_clock.ctx);

    if (due_us == 0) {
        (void)uv_timer_stop(&h->timer);
        return;
    }
    uv_update_time(&h->loop);
    (void)uv_timer_start(&h->timer, on_timer, due_us > now_us ? (due_us - now_us + 999) / 1000 : 1,
                         0);
}

/* Before the loop sleeps: everything that became possible since. */
static void on_prepare(uv_prepare_t *prepare)
{
    struct kl_host_uv *h = prepare->data;

    h->again = false;
    tasks_run(h);
    if (atomic_load(&h->running)) {
        kl_group_turn(h->group);
        timer_set(h);
    }
    if (h->again) {
        (void)uv_idle_start(&h->idle, on_idle);
    } else {
        (void)uv_idle_stop(&h->idle);
    }
}

static void group_closed(void *arg)
{
    struct kl_host_uv *h = arg;

    h->group = NULL;
    raft_uv_close(&h->io);
    h->io_open = false;
    uv_close((uv_handle_t *)&h->async, NULL);
    uv_close((uv_handle_t *)&h->prepare, NULL);
    uv_close((uv_handle_t *)&h->idle, NULL);
    uv_close((uv_handle_t *)&h->timer, NULL);
}

static void stop(void *arg)
{
    struct kl_host_uv *h = arg;

    atomic_store(&h->running, false);
    kl_group_close(h->group, group_closed, h);
}

static enum kl_status log_open(struct kl_host_uv *h)
{
    char path[PATH_LEN + 32];
    enum kl_status st = dir_make(h->dir);
    int rv;

    path_of(h, "log", path);
    if (st == KL_OK) {
        st = dir_make(path);
    }
    if (st == KL_OK) {
        st = dir_sync(h->dir);
    }
    if (st != KL_OK) {
        (void)snprintf(h->err, sizeof h->err, "making %s: %s", path, strerror(errno));
        return st;
    }
    kl_no_transport(&h->transport);
    rv = raft_uv_init(&h->io, &h->loop, path, &h->transport);
    if (rv != 0) {
        (void)snprintf(h->err, sizeof h->err, "opening the log in %s: %s", path, raft_strerror(rv));
        return KL_IO;
    }
    h->io_open = true;
    raft_uv_set_tracer(&h->io, NULL);
    raft_uv_set_disk_retry(&h->io, KL_LOG_PROBE_MS / 2);
    /* It would throw away what follows a damaged segment, acknowledged entries included. */
    raft_uv_set_auto_recovery(&h->io, false);
    return KL_OK;
}

static enum kl_status group_start(struct kl_host_uv *h)
{
    struct kl_group_options o = {
        .id = h->options.group,
        .node_id = h->options.node_id,
        .address = h->address,
        .dir = h->dir,
        .election_timeout_ms = h->options.election_timeout_ms,
        .failback_after_ms = h->options.failback_after_ms,
        .distance = h->options.distance,
        .distance_ctx = h->options.ctx,
        .tick_ms = KL_RAFT_TICK_MS,
        .store_open = store_open,
        .store_adopt = store_adopt,
        .store_drop_staged = store_drop_staged,
    };
    enum kl_status st = log_open(h);

    if (st == KL_OK) {
        st = kl_group_open(&h->host, &o, &h->io, &h->group, h->err, sizeof h->err);
    }
    if (st == KL_OK && h->options.bootstrap != NULL) {
        st = kl_group_bootstrap(h->group, h->options.bootstrap, h->options.bootstrap_n);
        if (st == KL_ALREADY_EXISTS) {
            st = KL_OK; /* a restart */
        } else if (st != KL_OK) {
            (void)snprintf(h->err, sizeof h->err, "writing the first configuration below %s failed",
                           h->dir);
        }
    }
    if (st == KL_OK) {
        st = kl_group_start(h->group, h->err, sizeof h->err);
    }
    return st;
}

static void started(struct kl_host_uv *h, enum kl_status st)
{
    (void)pthread_mutex_lock(&h->lock);
    h->status = st;
    h->started = true;
    (void)pthread_cond_signal(&h->cond);
    (void)pthread_mutex_unlock(&h->lock);
}

static void *thread_main(void *arg)
{
    struct kl_host_uv *h = arg;
    enum kl_status st;

    h->thread = pthread_self();
    st = group_start(h);
    if (st == KL_OK) {
        atomic_store(&h->running, true);
        started(h, KL_OK);
    } else if (h->group != NULL) {
        kl_group_close(h->group, group_closed, h);
    } else {
        if (h->io_open) {
            raft_uv_close(&h->io);
        }
        uv_close((uv_handle_t *)&h->async, NULL);
        uv_close((uv_handle_t *)&h->prepare, NULL);
        uv_close((uv_handle_t *)&h->idle, NULL);
        uv_close((uv_handle_t *)&h->timer, NULL);
    }
    (void)uv_run(&h->loop, UV_RUN_DEFAULT);
    if (st != KL_OK) {
        started(h, st);
    }
    return NULL;
}

/* ---- outside ---- */

static void host_free(struct kl_host_uv *h)
{
    struct kl_mail *mail;

    kl_mailbox_close(&h->letters);
    kl_mailbox_close(&h->tasks);
    mail = kl_mailbox_take(&h->letters);
    while (mail != NULL) {
        struct kl_mail *next = mail->next;

        kl_free(mail);
        mail = next;
    }
    mail = kl_mailbox_take(&h->tasks);
    while (mail != NULL) {
        struct kl_mail *next = mail->next;

        kl_free(mail);
        mail = next;
    }
    kl_mailbox_done(&h->letters);
    kl_mailbox_done(&h->tasks);
    (void)uv_loop_close(&h->loop);
    (void)pthread_mutex_destroy(&h->lock);
    (void)pthread_cond_destroy(&h->cond);
    kl_free(h);
}

static bool loop_init(struct kl_host_uv *h)
{
    if (uv_loop_init(&h->loop) != 0 || uv_async_init(&h->loop, &h->async, on_async) != 0 ||
        uv_prepare_init(&h->loop, &h->prepare) != 0 || uv_idle_init(&h->loop, &h->idle) != 0 ||
        uv_timer_init(&h->loop, &h->timer) != 0) {
        return false;
    }
    h->async.data = h;
    h->prepare.data = h;
    h->idle.data = h;
    return uv_prepare_start(&h->prepare, on_prepare) == 0;
}

enum kl_status kl_host_uv_start(const struct kl_host_uv_options *options, struct kl_host_uv **out,
                                char *err, size_t err_len)
{
    struct kl_host_uv *h = kl_calloc(1, sizeof *h);
    enum kl_status st;

    if (h == NULL) {
        (void)snprintf(err, err_len, "out of memory");
        return KL_NO_MEMORY;
    }
    if (strlen(options->dir) >= PATH_LEN || strlen(options->address) > KL_ADDRESS_MAX) {
        (void)snprintf(err, err_len, "directory or address of the group is too long");
        kl_free(h);
        return KL_INVALID_ARGUMENT;
    }
    h->options = *options;
    (void)snprintf(h->dir, sizeof h->dir, "%s", options->dir);
    (void)snprintf(h->address, sizeof h->address, "%s", options->address);
    h->host = (struct kl_group_host){
        .ctx = h,
        .clock = options->clock == NULL ? &kl_real_clock : options->clock,
        .entropy = &kl_real_entropy,
        .send = host_send,
        .post = host_post,
        .work = host_work,
        .wake = host_wake,
        .fatal = host_fatal,
        .changed = host_changed,
    };
    kl_mailbox_init(&h->letters, KL_LETTERS_MAX);
    kl_mailbox_init(&h->tasks, KL_TASKS_MAX);
    (void)pthread_mutex_init(&h->lock, NULL);
    (void)pthread_cond_init(&h->cond, NULL);
    if (!loop_init(h) || pthread_create(&h->thread, NULL, thread_main, h) != 0) {
        (void)snprintf(err, err_len, "starting the thread of a group failed");
        host_free(h);
        return KL_IO;
    }
    (void)pthread_mutex_lock(&h->lock);
    while (!h->started) {
        (void)pthread_cond_wait(&h->cond, &h->lock);
    }
    st = h->status;
    (void)pthread_mutex_unlock(&h->lock);
    if (st != KL_OK) {
        (void)pthread_join(h->thread, NULL);
        (void)snprintf(err, err_len, "%s", h->err);
        host_free(h);
        return st;
    }
    *out = h;
    return KL_OK;
}

struct kl_group *kl_host_uv_group(struct kl_host_uv *h)
{
    return h->group;
}

void kl_host_uv_receive(struct kl_host_uv *h, uint64_t from_node, struct kl_bytes message)
{
    struct letter *l;
    bool was_empty;

    if (message.len > KL_PEER_MESSAGE_MAX ||
        atomic_load(&h->letter_bytes) + message.len > KL_LETTER_BYTES_MAX) {
        return; /* Raft sends again what matters */
    }
    l = kl_malloc(sizeof *l + message.len);
    if (l == NULL) {
        return;
    }
    l->mail.next = NULL;
    l->from = from_node;
    l->len = message.len;
    memcpy(l->bytes, message.ptr, message.len);
    atomic_fetch_add(&h->letter_bytes, l->len);
    if (!kl_mailbox_put(&h->letters, &l->mail, &was_empty)) {
        atomic_fetch_sub(&h->letter_bytes, l->len);
        kl_free(l);
        return;
    }
    if (was_empty && !atomic_exchange(&h->woken, true)) {
        (void)uv_async_send(&h->async);
    }
}

static void peer_tell(void *arg)
{
    struct peer_news *n = arg;

    if (atomic_load(&n->h->running)) {
        kl_group_peer(n->h->group, n->node, n->connected);
    }
    kl_free(n);
}

void kl_host_uv_peer(struct kl_host_uv *h, uint64_t node, bool connected)
{
    struct peer_news *n = kl_malloc(sizeof *n);

    if (n != NULL) {
        *n = (struct peer_news){h, node, connected};
        host_post(h, h->group, peer_tell, n);
    }
}

void kl_host_uv_stop(struct kl_host_uv *h)
{
    host_post(h, h->group, stop, h);
    (void)pthread_join(h->thread, NULL);
    host_free(h);
}
