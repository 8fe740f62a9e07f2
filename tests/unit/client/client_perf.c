/*
 * Calls per second of one client against one node in the same process; run by hand.
 * OUTSTANDING=256 SET=1 client_perf
 */
#include "tests/unit/client/fake.h"

#include "common/names.h"

struct load {
    struct kluis_client *client;
    bool set;
    uint64_t end_ms;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned under_way;
    uint64_t done, failed;
};

static void next(struct load *load);

static void finished(void *arg, enum kluis_status status, struct kluis_secret *result,
                     const char *message)
{
    struct load *load = arg;
    bool more;

    (void)message;
    kluis_secret_free(result);
    (void)pthread_mutex_lock(&load->lock);
    load->done++;
    load->failed += status != KLUIS_OK;
    more = (load->done & 63u) != 0 || test_now_ms() < load->end_ms;
    if (!more) {
        load->end_ms = 0;
    }
    more = load->end_ms != 0;
    if (!more && --load->under_way == 0) {
        (void)pthread_cond_signal(&load->idle);
    }
    (void)pthread_mutex_unlock(&load->lock);
    if (more) {
        next(load);
    }
}

static void next(struct load *load)
{
    static const uint8_t value[1024];
    enum kluis_status st =
        load->set ? kluis_secret_set_async(load->client, "team", "db", value, sizeof value, NULL, 0,
                                           finished, load)
                  : kluis_secret_get_async(load->client, "team", "db", NULL, 0, finished, load);

    assert_int_equal(st, KLUIS_OK);
}

TEST(perf, run)
{
    uint64_t outstanding = 256;
    uint64_t seconds = 3;
    const char *text = getenv("OUTSTANDING");
    struct load load = {.set = getenv("SET") != NULL};
    struct fake a;
    struct fake *nodes[1] = {&a};

    if (text != NULL) {
        CHECK_OK(kl_number_parse(text, 1, 65536, &outstanding));
    }
    fake_start(&a, CERT_SERVER, fake_serve, NULL);
    a.forgetful = true;
    a.value_len = 1024;
    load.client = fake_client(nodes, 1, false);
    (void)pthread_mutex_init(&load.lock, NULL);
    (void)pthread_cond_init(&load.idle, NULL);
    load.end_ms = test_now_ms() + seconds * 1000;
    load.under_way = (unsigned)outstanding;
    for (uint64_t i = 0; i < outstanding; i++) {
        next(&load);
    }
    (void)pthread_mutex_lock(&load.lock);
    while (load.under_way != 0) {
        (void)pthread_cond_wait(&load.idle, &load.lock);
    }
    (void)pthread_mutex_unlock(&load.lock);
    printf("%llu calls/s, %llu failed\n", (unsigned long long)(load.done / seconds),
           (unsigned long long)load.failed);
    CHECK_EQ(load.failed, 0);
    kluis_close(load.client);
    fake_stop(&a);
}
