/*
 * The real host: threads, mailboxes, directories. Messages between three of them are handed over in
 * the process, in place of the connections.
 */
#include "common/alloc.h"
#include "server/raft/host_uv.h"
#include "server/runtime/log.h"
#include "tests/lib/test.h"

#include <pthread.h>
#include <raft.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

static void on_fatal(void *ctx, uint16_t group, const char *why)
{
    (void)ctx;
    print_error("group %u: %s\n", group, why);
    abort();
}

static struct kl_host_uv *start(const char *dir, enum kl_status want, char *err, size_t err_len)
{
    static const struct kl_member self = {1, "here:1"};
    struct kl_host_uv_options o = {
        .group = 1,
        .node_id = 1,
        .address = "here:1",
        .dir = dir,
        .election_timeout_ms = 1000,
        .cache_bytes = 1 << 20,
        .bootstrap = &self,
        .bootstrap_n = 1,
        .fatal = on_fatal,
    };
    struct kl_host_uv *h = NULL;

    kl_log_set_level(KL_LOG_ERROR);
    CHECK_STATUS(kl_host_uv_start(&o, &h, err, err_len), want);
    return h;
}

struct call {
    struct kl_proposal p;
    _Atomic bool done;
    enum kl_status status;
};

static void called(struct kl_proposal *p, enum kl_status status, uint64_t index,
                   struct kl_bytes result)
{
    struct call *c = p->arg;

    (void)index;
    (void)result;
    c->status = status;
    atomic_store(&c->done, true);
}

static void call_init(struct call *c)
{
    memset(c, 0, sizeof *c);
    c->p.command = KL_BUF(1024);
    c->p.done = called;
    c->p.arg = c;
    CHECK_OK(kl_buf_put(&c->p.command, "\xff\xff\xff", 3)); /* refused by the state machine */
}

static void call_wait(struct call *c)
{
    while (!atomic_load(&c->done)) {
        (void)usleep(100);
    }
}

/* A group starts on a new directory, answers, stops, and starts again on the same. */
TEST(host_uv, restart)
{
    const char *dir = test_dir();
    char group[300];
    char err[512];
    uint64_t index = 0;

    (void)snprintf(group, sizeof group, "%s/g1", dir);
    for (unsigned round = 0; round < 3; round++) {
        struct kl_host_uv *h = start(group, KL_OK, err, sizeof err);
        struct kl_group *g = kl_host_uv_group(h);
        struct kl_group_status s;
        struct kl_read read;
        struct call c;

        CHECK_EQ(kl_group_id(g), 1);
        CHECK_EQ(kl_group_leader(g), 1);
        call_init(&c);
        CHECK_OK(kl_group_propose(g, &c.p));
        call_wait(&c);
        CHECK_OK(c.status);
        CHECK_OK(kl_group_read_begin(g, &read));
        CHECK(read.applied > index);
        index = read.applied;
        CHECK_OK(kl_group_read_end(g, &read));
        kl_group_status(g, &s);
        CHECK_EQ(s.members_n, 1);
        kl_host_uv_stop(h);
    }
}

/* A directory that cannot be made is an error with a text, not a crash. */
TEST(host_uv, no_directory)
{
    char err[512] = "";

    (void)start("/proc/nowhere/g1", KL_IO, err, sizeof err);
    CHECK(err[0] != 0);
}

static void segment_damage(const char *dir)
{
    char cmd[1000];

    /* every file of the log that holds entries, in its middle */
    (void)snprintf(
        cmd, sizeof cmd,
        "for f in $(ls %s/log/0*-0* %s/log/[0-9]*-[0-9]* 2>/dev/null | grep -v meta); do "
        "printf XXXX | dd of=$f bs=1 seek=40 conv=notrunc status=none; done",
        dir, dir);
    CHECK_EQ(system(cmd), 0);
}

/* A damaged segment of the log stops the start; it is not thrown away with what follows it. */
TEST(host_uv, damaged_log)
{
    const char *dir = test_dir();
    char group[300];
    char err[512] = "";
    struct kl_host_uv *h;
    struct call c;

    (void)snprintf(group, sizeof group, "%s/g1", dir);
    h = start(group, KL_OK, err, sizeof err);
    for (unsigned i = 0; i < 10; i++) {
        call_init(&c);
        CHECK_OK(kl_group_propose(kl_host_uv_group(h), &c.p));
        call_wait(&c);
    }
    kl_host_uv_stop(h);
    segment_damage(group);
    h = start(group, KL_CORRUPT, err, sizeof err);
    assert_null(h);
    CHECK(err[0] != 0);
}

/* Many threads propose and read at once; all are answered. */
enum { THREADS = 4, CALLS = 200 };

static void *proposer(void *arg)
{
    struct kl_group *g = arg;

    for (unsigned i = 0; i < CALLS; i++) {
        struct call c;
        struct kl_read read;
        struct kl_group_status s;

        call_init(&c);
        if (kl_group_propose(g, &c.p) != KL_OK) {
            abort();
        }
        call_wait(&c);
        if (c.status != KL_OK || kl_group_read_begin(g, &read) != KL_OK ||
            kl_group_read_end(g, &read) != KL_OK) {
            abort();
        }
        kl_group_status(g, &s);
        if (s.id != 1 || s.members_n != 1) {
            abort();
        }
    }
    return NULL;
}

TEST(host_uv, threads)
{
    char group[300];
    char err[512];
    struct kl_host_uv *h;
    pthread_t threads[THREADS];

    (void)snprintf(group, sizeof group, "%s/g1", test_dir());
    h = start(group, KL_OK, err, sizeof err);
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, proposer, kl_host_uv_group(h)), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    kl_host_uv_stop(h);
}

/* Messages from strangers, garbage included, and peers that come and go do no harm. */
TEST(host_uv, strangers)
{
    char group[300];
    char err[512];
    struct kl_host_uv *h;
    uint64_t seed = test_seed();
    uint8_t noise[64];
    struct call c;

    (void)snprintf(group, sizeof group, "%s/g1", test_dir());
    h = start(group, KL_OK, err, sizeof err);
    for (unsigned i = 0; i < 2000; i++) {
        for (size_t j = 0; j < sizeof noise; j++) {
            noise[j] = (uint8_t)test_random(&seed);
        }
        kl_host_uv_receive(h, i % 5, kl_bytes_of(noise, i % sizeof noise));
        if (i % 100 == 0) {
            kl_host_uv_peer(h, 2, i % 200 == 0);
        }
    }
    call_init(&c);
    CHECK_OK(kl_group_propose(kl_host_uv_group(h), &c.p));
    call_wait(&c);
    CHECK_OK(c.status);
    kl_host_uv_stop(h);
}
