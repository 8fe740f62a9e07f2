/*
 * How fast a group of three is on one thread with its logs on one disk: not a test, run it by hand
 * in an optimised build.
 */
#include "tests/unit/raft/lab.h"

#include "common/alloc.h"

#include <sys/resource.h>

static int order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static uint64_t cpu_us(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static uint64_t real_us(void)
{
    return kl_real_clock.mono_us(kl_real_clock.ctx);
}

/* One command after the other. */
TEST(perf, latency)
{
    enum { N = 1000 };
    static uint64_t took[N];
    struct lab *lab = lab_new();
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    for (unsigned i = 0; i < N; i++) {
        uint64_t begun = real_us();
        struct lab_call *c = lab_vault(lab, leader, i, 600);

        while (!c->done) {
            (void)uv_run(&lab->loop, UV_RUN_ONCE);
        }
        took[i] = real_us() - begun;
        CHECK_EQ(c->status, KL_OK);
        lab_call_free(c);
    }
    qsort(took, N, sizeof took[0], order);
    print_message("one client: p50 %llu us, p90 %llu us, p99 %llu us\n",
                  (unsigned long long)took[N / 2], (unsigned long long)took[N * 9 / 10],
                  (unsigned long long)took[N * 99 / 100]);
    lab_free(lab);
}

/* Many outstanding: what is answered is replaced at once. */
static void throughput(unsigned clients, unsigned total, size_t bytes)
{
    struct lab *lab = lab_new();
    struct lab_call **calls = kl_calloc(clients, sizeof(struct lab_call *));
    unsigned done = 0;
    unsigned next = 0;
    unsigned leader;
    uint64_t begun;
    uint64_t cpu;
    uint64_t entries;
    struct kl_group *g;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    g = lab->nodes[leader].group;
    entries = g->entries_applied;
    begun = real_us();
    cpu = cpu_us();
    for (unsigned i = 0; i < clients; i++) {
        calls[i] = lab_vault(lab, leader, next++, bytes);
    }
    while (done < total) {
        (void)uv_run(&lab->loop, UV_RUN_ONCE);
        for (unsigned i = 0; i < clients; i++) {
            if (calls[i]->done) {
                CHECK_EQ(calls[i]->status, KL_OK);
                lab_call_free(calls[i]);
                calls[i] = lab_vault(lab, leader, next++, bytes);
                done++;
            }
        }
    }
    print_message("%u clients, %zu bytes: %.0f commands/s, %.1f per entry, %.1f us of CPU each\n",
                  clients, bytes, done * 1e6 / (double)(real_us() - begun),
                  (double)done / (double)(g->entries_applied - entries),
                  (double)(cpu_us() - cpu) / done);
    for (unsigned i = 0; i < clients; i++) {
        while (!calls[i]->done) {
            (void)uv_run(&lab->loop, UV_RUN_ONCE);
        }
        lab_call_free(calls[i]);
    }
    kl_free(calls);
    lab_free(lab);
}

TEST(perf, throughput)
{
    throughput(16, 10000, 600);
    throughput(64, 30000, 600);
    throughput(256, 60000, 600);
    throughput(256, 60000, 0);
}

/* Reads of one thread, through lease and snapshot. */
TEST(perf, reads)
{
    enum { N = 300000 };
    struct lab *lab = lab_new();
    struct kl_group *g;
    uint64_t begun;
    uint64_t took;

    lab_start(lab, 1, 1);
    lab_init_group(lab);
    lab_fill(lab, 0, 100, 600);
    g = lab->nodes[lab_leader(lab)].group;
    begun = real_us();
    for (unsigned i = 0; i < N; i++) {
        struct kl_read read;

        CHECK_OK(kl_group_read_begin(g, &read));
        CHECK_OK(kl_group_read_end(g, &read));
    }
    took = real_us() - begun;
    print_message("reads (begin and end): %.0f/s\n", (double)N * 1e6 / (double)took);
    lab_free(lab);
}
