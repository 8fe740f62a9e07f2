/*
 * Consistency of reads, and the ways that a client keeps into the regions.
 */
#include "tests/unit/client/fake.h"

#include "client/lib/internal.h"

#include <time.h>

static void nap_ms(unsigned ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    (void)nanosleep(&t, NULL);
}

/* Waits until a counter has come to n. */
static bool reaches(const atomic_uint *counter, unsigned n)
{
    for (unsigned i = 0; i < WAIT_MS && *counter < n; i += 5) {
        nap_ms(5);
    }
    return *counter >= n;
}

static struct kluis_client *open_client(struct fake *const *nodes, size_t n,
                                        const struct kluis_read *read)
{
    const char *endpoints[8];
    struct kluis_options options = {.endpoints = endpoints,
                                    .endpoints_n = n,
                                    .ca_file = fixture_files(CERT_SERVER).ca_file,
                                    .token = "token",
                                    .timeout_ms = 5000};
    struct kluis_client *client = NULL;
    char err[256] = "";

    for (size_t i = 0; i < n; i++) {
        endpoints[i] = nodes[i]->address;
    }
    if (read != NULL) {
        options.read = *read;
    }
    assert_int_equal(kluis_open(&options, &client, err, sizeof err), KLUIS_OK);
    return client;
}

static enum kluis_status get(struct kluis_client *client, uint32_t timeout_ms)
{
    struct kluis_secret *secret = NULL;
    enum kluis_status st = kluis_secret_get(client, "team", "db", NULL, timeout_ms, &secret);

    kluis_secret_free(secret);
    return st;
}

static enum kluis_status set(struct kluis_client *client)
{
    return kluis_secret_set(client, "team", "db", "v", 1, NULL, 0, NULL);
}

/* ---------------------------------------------------------------- consistency */

/* The client's way of reading goes into every read, the thread's wish into one, neither into a write. */
TEST(consistency, client_and_call)
{
    static const struct kluis_read stale = {KLUIS_READ_STALE, 700};
    static const struct kluis_read quorum = {KLUIS_READ_QUORUM, 0};
    static const Kluis__V1__Consistency expected[] = {
        KLUIS__V1__CONSISTENCY__STALE,        /* get: the client's */
        KLUIS__V1__CONSISTENCY__LINEARIZABLE, /* set */
        KLUIS__V1__CONSISTENCY__QUORUM,       /* get: asked for */
        KLUIS__V1__CONSISTENCY__STALE,        /* get: only once */
        KLUIS__V1__CONSISTENCY__LINEARIZABLE, /* set: takes the wish with it */
        KLUIS__V1__CONSISTENCY__STALE,
    };
    struct fake node;
    struct fake *nodes[] = {&node};
    struct kluis_client *client;

    fake_start(&node, CERT_SERVER, fake_serve, NULL);
    client = open_client(nodes, 1, &stale);
    assert_int_equal(set(client), KLUIS_OK); /* not counted below */
    assert_int_equal(get(client, 0), KLUIS_OK);
    assert_int_equal(set(client), KLUIS_OK);
    assert_int_equal(kluis_read_next(&quorum), KLUIS_OK);
    assert_int_equal(get(client, 0), KLUIS_OK);
    assert_int_equal(get(client, 0), KLUIS_OK);
    assert_int_equal(kluis_read_next(&quorum), KLUIS_OK);
    assert_int_equal(set(client), KLUIS_OK);
    assert_int_equal(get(client, 0), KLUIS_OK);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_int_equal(node.seen[i + 1].consistency, expected[i]);
        assert_int_equal(node.seen[i + 1].max_age_ms,
                         expected[i] == KLUIS__V1__CONSISTENCY__STALE ? 700 : 0);
    }
    kluis_close(client);
    fake_stop(&node);
}

struct told {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    struct kluis_served served;
};

static void note_served(void *arg, enum kluis_status status, struct kluis_secret *result,
                        const char *message)
{
    struct told *t = arg;

    (void)message;
    assert_int_equal(status, KLUIS_OK);
    kluis_secret_free(result);
    (void)pthread_mutex_lock(&t->lock);
    kluis_last_served(&t->served);
    t->done = true;
    (void)pthread_cond_signal(&t->changed);
    (void)pthread_mutex_unlock(&t->lock);
}

/* Who answered and how old it was reaches the caller, in callbacks too. */
TEST(consistency, served)
{
    static const struct kluis_read stale = {KLUIS_READ_STALE, 0};
    struct told t = {.done = false};
    struct kluis_served served;
    struct fake node;
    struct fake *nodes[] = {&node};
    struct kluis_client *client;

    fake_start(&node, CERT_SERVER, fake_serve, NULL);
    node.age_ms = 1234;
    node.node_id = 9;
    client = open_client(nodes, 1, NULL);
    assert_int_equal(set(client), KLUIS_OK);
    assert_int_equal(kluis_read_next(&stale), KLUIS_OK);
    assert_int_equal(get(client, 0), KLUIS_OK);
    kluis_last_served(&served);
    assert_true(served.stale);
    assert_int_equal(served.age_ms, 1234);
    assert_int_equal(served.node_id, 9);
    assert_int_equal(set(client), KLUIS_OK);
    kluis_last_served(&served);
    assert_false(served.stale);
    (void)pthread_mutex_init(&t.lock, NULL);
    (void)pthread_cond_init(&t.changed, NULL);
    assert_int_equal(kluis_read_next(&stale), KLUIS_OK);
    assert_int_equal(kluis_secret_get_async(client, "team", "db", NULL, 0, note_served, &t),
                     KLUIS_OK);
    (void)pthread_mutex_lock(&t.lock);
    while (!t.done) {
        (void)pthread_cond_wait(&t.changed, &t.lock);
    }
    (void)pthread_mutex_unlock(&t.lock);
    assert_true(t.served.stale);
    assert_int_equal(t.served.node_id, 9);
    (void)pthread_cond_destroy(&t.changed);
    (void)pthread_mutex_destroy(&t.lock);
    kluis_close(client);
    fake_stop(&node);
}

/* What cannot be asked for is refused where it is asked for. */
TEST(consistency, refused)
{
    const struct kluis_read bad[] = {{(enum kluis_consistency)4, 0}, {KLUIS_READ_QUORUM, 1}};
    const char *endpoints[] = {"127.0.0.1:1"};
    struct kluis_options options = {
        .endpoints = endpoints, .endpoints_n = 1, .ca_file = fixture_files(CERT_SERVER).ca_file};
    struct kluis_client *client = NULL;
    char err[256] = "";

    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(kluis_read_next(&bad[i]), KLUIS_INVALID_ARGUMENT);
        assert_true(kluis_last_error()[0] != '\0');
        options.read = bad[i];
        assert_int_equal(kluis_open(&options, &client, err, sizeof err), KLUIS_INVALID_ARGUMENT);
        assert_true(err[0] != '\0');
    }
    assert_int_equal(kluis_read_next(NULL), KLUIS_OK);
}

static void too_old(struct fake_call *c)
{
    fake_field(c, KL_TOO_OLD, "max_age_ms", "the state of node 1 is 9000 ms old");
}

/* A replica that is too old is not the last word while another may be younger; when all are, the call
 * says so at its deadline. */
TEST(consistency, too_old)
{
    static const struct kluis_read stale = {KLUIS_READ_STALE, 500};
    struct fake old;
    struct fake young;
    struct fake *both[] = {&old, &young};
    struct kluis_client *client;

    fake_start(&old, CERT_SERVER, too_old, NULL);
    fake_start(&young, CERT_SERVER, fake_serve, NULL);
    client = open_client(&both[1], 1, NULL);
    assert_int_equal(set(client), KLUIS_OK);
    kluis_close(client);
    client = open_client(both, 2, &stale);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(get(client, 0), KLUIS_OK);
    }
    kluis_close(client);
    client = open_client(both, 1, &stale);
    assert_int_equal(get(client, 1500), KLUIS_TOO_OLD);
    assert_true(strstr(kluis_last_error(), "9000 ms old") != NULL);
    kluis_close(client);
    fake_stop(&old);
    fake_stop(&young);
}

static void sealed(struct fake_call *c)
{
    fake_status(c, KL_SEALED);
}

/* What a node said of itself stays the call's last word when the deadline comes while another, which
 * cannot be reached, is being tried. */
TEST(consistency, answer_outlives_silence)
{
    static const struct kluis_read stale = {KLUIS_READ_STALE, 500};
    static const fake_fn answers[] = {too_old, sealed};
    static const enum kluis_status ends[] = {KLUIS_TOO_OLD, KLUIS_SEALED};
    struct fake gone;

    fake_start(&gone, CERT_SERVER, fake_serve, NULL);
    fake_dark(&gone);
    for (size_t i = 0; i < 2; i++) {
        struct fake node;
        struct fake *both[] = {&node, &gone};
        struct kluis_client *client;

        fake_start(&node, CERT_SERVER, answers[i], NULL);
        client = open_client(both, 2, &stale);
        (void)pthread_mutex_lock(&client->lock);
        client->next_try = 0; /* the node that answers, and then the other */
        (void)pthread_mutex_unlock(&client->lock);
        assert_int_equal(get(client, KL_CLIENT_PONG_MS), ends[i]);
        assert_null(strstr(kluis_last_error(), gone.address));
        kluis_close(client);
        fake_stop(&node);
    }
    fake_stop(&gone);
}

/* Whoever answers a stale read is not taken for the leader. */
TEST(consistency, stale_is_not_leading)
{
    static const struct kluis_read stale = {KLUIS_READ_STALE, 0};
    struct fake a;
    struct fake b;
    struct fake *nodes[] = {&a, &b};
    struct kluis_client *client;
    unsigned before;

    fake_start(&a, CERT_SERVER, fake_serve, NULL);
    fake_start(&b, CERT_SERVER, fake_serve, NULL);
    client = open_client(nodes, 2, NULL);
    assert_int_equal(set(client), KLUIS_OK); /* one of them leads now */
    (void)pthread_mutex_lock(&client->lock);
    kl_route_bad(client, "", client->favourite);
    (void)pthread_mutex_unlock(&client->lock);
    before = a.calls;
    assert_int_equal(kluis_read_next(&stale), KLUIS_OK);
    assert_int_equal(get(client, 0), KLUIS_OK);
    assert_int_equal(a.calls - before, before); /* the leader is the best guess */
    kluis_close(client);
    fake_stop(&a);
    fake_stop(&b);
}

/* ---------------------------------------------------------------- regions */

/* After its first call the client knows the regions and has a way into each, witnesses left out. */
TEST(regions, kept_open)
{
    struct fake east;
    struct fake west;
    struct fake witness;
    const struct fake_region regions[] = {
        {&east, "east", false}, {&west, "west", false}, {&witness, "south", true}};
    struct fake *nodes[] = {&east};
    struct kluis_client *client;

    fake_start(&east, CERT_SERVER, fake_serve, NULL);
    fake_start(&west, CERT_SERVER, fake_serve, NULL);
    fake_start(&witness, CERT_SERVER, fake_serve, NULL);
    east.regions = regions;
    east.regions_n = 3;
    client = open_client(nodes, 1, NULL);
    assert_int_equal(set(client), KLUIS_OK);
    assert_true(fake_conns(&west, 1));
    assert_int_equal(get(client, 0), KLUIS_OK);
    assert_int_equal(east.asked, 1);
    assert_int_equal(west.calls, 0);
    assert_int_equal(witness.conns, 0);
    /* The east goes: the next call is in the west at once, and the west learns what it needs. */
    west.value_len = 1;
    fake_stop(&east);
    assert_int_equal(get(client, 3000), KLUIS_OK);
    assert_int_equal(west.calls, 1);
    assert_int_equal(west.conns, 1);
    kluis_close(client);
    fake_stop(&west);
    fake_stop(&witness);
}

/* A kept connection that ends is made again in the background, to another node if need be. */
TEST(regions, replaced)
{
    struct fake east;
    struct fake west[2];
    const struct fake_region regions[] = {
        {&east, "east", false}, {&west[0], "west", false}, {&west[1], "west", false}};
    struct fake *nodes[] = {&east};
    struct kluis_client *client;

    fake_start(&east, CERT_SERVER, fake_serve, NULL);
    fake_start(&west[0], CERT_SERVER, fake_serve, NULL);
    fake_start(&west[1], CERT_SERVER, fake_serve, NULL);
    east.regions = regions;
    east.regions_n = 3;
    client = open_client(nodes, 1, NULL);
    assert_int_equal(set(client), KLUIS_OK);
    assert_true(fake_conns(&west[0], 1));
    assert_int_equal(west[1].conns, 0); /* one of a region is enough */
    fake_stop(&west[0]);
    assert_true(fake_conns(&west[1], 1));
    kluis_close(client);
    fake_stop(&east);
    fake_stop(&west[1]);
}

/* Brief clients ask nobody, and a server without the method costs nothing but the question. */
TEST(regions, brief_and_unknown)
{
    struct fake node;
    struct fake *nodes[] = {&node};
    const char *endpoints[1];
    struct kluis_options options = {
        .endpoints = endpoints, .endpoints_n = 1, .brief = true, .token = "token"};
    struct kluis_client *client = NULL;

    fake_start(&node, CERT_SERVER, fake_serve, NULL);
    endpoints[0] = node.address;
    options.ca_file = fixture_files(CERT_SERVER).ca_file;
    assert_int_equal(kluis_open(&options, &client, NULL, 0), KLUIS_OK);
    assert_int_equal(set(client), KLUIS_OK);
    nap_ms(1500); /* longer than the timer sleeps while there are calls */
    assert_int_equal(get(client, 0), KLUIS_OK);
    assert_int_equal(node.asked, 0);
    kluis_close(client);
    client = open_client(nodes, 1, NULL);
    assert_int_equal(get(client, 0), KLUIS_OK);
    assert_true(reaches(&node.asked, 1));
    assert_int_equal(get(client, 0), KLUIS_OK);
    assert_int_equal(node.asked, 1); /* not again for a minute */
    kluis_close(client);
    fake_stop(&node);
}
