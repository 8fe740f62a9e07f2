/*
 * Round trips over one connection. Prints the rate; both ends are in this process. Not a test: it
 * is for people who change common/net. NET_PERF_OUTSTANDING, NET_PERF_SECONDS and NET_PERF_SIZE in
 * the environment replace 64, 2 and 1024.
 */
#include "tests/unit/net/net_fixture.h"

#include "common/names.h"

#include <sys/resource.h>
#include <unistd.h>

static atomic_size_t done;
static uint8_t payload[1 << 20];

static void on_reply(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    size_t size = *(size_t *)user;

    (void)atomic_fetch_add(&done, n);
    for (size_t i = 0; i < n; i++) {
        struct kl_frame f = {KL_FRAME_REQUEST, 0, 0, frames[i].stream, {payload, size}};

        (void)!kl_conn_send(conn, &f);
    }
}

static double cpu_us(void)
{
    struct rusage r;

    (void)getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1e6 +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static uint64_t setting(const char *name, uint64_t max, uint64_t otherwise)
{
    const char *text = getenv(name);
    uint64_t v = otherwise;

    if (text != NULL) {
        CHECK_OK(kl_number_parse(text, 1, max, &v));
    }
    return v;
}

TEST(net, perf)
{
    static const struct kl_conn_handler handler = {NULL, on_reply, NULL};
    uint32_t outstanding = (uint32_t)setting("NET_PERF_OUTSTANDING", 10000, 64);
    unsigned seconds = (unsigned)setting("NET_PERF_SECONDS", 3600, 2);
    size_t size = setting("NET_PERF_SIZE", sizeof payload, 1024);
    struct kl_conn_options options = {.handler = &handler, .user = &size};
    struct kl_conn *conn = NULL;
    struct fixture f;
    size_t count;
    uint64_t start;
    double cpu;

    fixture_init(&f, KL_TLS_SERVER);
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, f.address, &options, &conn));
    for (uint32_t i = 1; i <= outstanding; i++) {
        struct kl_frame frame = {KL_FRAME_REQUEST, 0, 0, i, {payload, size}};

        CHECK_OK(kl_conn_send(conn, &frame));
    }
    (void)usleep(300000);
    start = test_now_ms();
    count = atomic_load(&done);
    cpu = cpu_us();
    (void)usleep(seconds * 1000000);
    count = atomic_load(&done) - count;
    start = test_now_ms() - start;
    cpu = cpu_us() - cpu;
    printf(
        "%u outstanding, %zu bytes: %.0f round trips/s, %.1f us CPU each, %.1f frames per call\n",
        outstanding, size, (double)count * 1000.0 / (double)start, cpu / (double)count,
        (double)f.server.frames / (double)f.server.calls);
    kl_conn_release(conn);
    fixture_done(&f);
}
