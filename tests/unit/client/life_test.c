/*
 * Connections that end, go silent or drain; many calls at once; large ones; closing.
 */
#include "tests/unit/client/fake.h"

#include "common/alloc.h"

struct tally {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned n, ok, cancelled;
};

static void tally_init(struct tally *t)
{
    *t = (struct tally){.n = 0};
    (void)pthread_mutex_init(&t->lock, NULL);
    (void)pthread_cond_init(&t->changed, NULL);
}

static void tally_done(struct tally *t)
{
    (void)pthread_mutex_destroy(&t->lock);
    (void)pthread_cond_destroy(&t->changed);
}

static void tally_wait(struct tally *t, unsigned n)
{
    (void)pthread_mutex_lock(&t->lock);
    while (t->n < n) {
        (void)pthread_cond_wait(&t->changed, &t->lock);
    }
    (void)pthread_mutex_unlock(&t->lock);
}

static void count_result(void *arg, enum kluis_status status, struct kluis_secret *result,
                         const char *message)
{
    struct tally *t = arg;

    assert_non_null(message);
    assert_int_equal(result != NULL, status == KLUIS_OK);
    kluis_secret_free(result);
    (void)pthread_mutex_lock(&t->lock);
    t->n++;
    t->ok += status == KLUIS_OK;
    t->cancelled += status == KLUIS_CANCELLED;
    (void)pthread_cond_signal(&t->changed);
    (void)pthread_mutex_unlock(&t->lock);
}

static enum kluis_status get(struct kluis_client *client, uint32_t timeout_ms)
{
    struct kluis_secret *secret = NULL;
    enum kluis_status st = kluis_secret_get(client, "team", "db", NULL, timeout_ms, &secret);

    kluis_secret_free(secret);
    return st;
}

/* A draining node: the call under way still gets its answer there, new ones go elsewhere. */
static void answer_after_goaway(struct fake_call *c)
{
    if (c->nth == 1) {
        fake_goaway(c->node);
    }
    fake_serve(c);
}

TEST(life, goaway_is_respected)
{
    struct fake a;
    struct fake b;
    struct fake *nodes[2] = {&a, &b};
    struct kluis_client *client;

    fake_start(&a, CERT_SERVER, answer_after_goaway, NULL);
    fake_start(&b, CERT_SERVER, answer_after_goaway, NULL);
    client = fake_client(nodes, 2, false);
    CHECK_EQ(get(client, 0), KLUIS_OK);
    CHECK_EQ(a.calls + b.calls, 1);
    CHECK_EQ(get(client, 0), KLUIS_OK);
    CHECK_EQ(a.calls, 1); /* one each: the second did not go to the node that drains */
    CHECK_EQ(b.calls, 1);
    kluis_close(client);
    fake_stop(&a);
    fake_stop(&b);
}

static void silent_unless_other_was(struct fake_call *c)
{
    struct fake *other = c->node->arg;

    if (other->calls != 0) {
        fake_serve(c);
    }
}

/* A node that stands still (a stopped process) is noticed by its silence, and left. */
TEST(life, silent_node_is_left)
{
    struct fake a;
    struct fake b;
    struct fake *nodes[2] = {&a, &b};
    struct kluis_client *client;
    uint64_t began;
    uint64_t took;

    fake_start(&a, CERT_SERVER, silent_unless_other_was, &b);
    fake_start(&b, CERT_SERVER, silent_unless_other_was, &a);
    a.mute = true;
    b.mute = true;
    client = fake_client(nodes, 2, false);
    began = test_now_ms();
    CHECK_EQ(kluis_secret_set(client, "team", "db", "x", 1, NULL, 30000, NULL), KLUIS_OK);
    took = test_now_ms() - began;
    CHECK(took >= KL_CLIENT_SILENCE_MS && took < 15000);
    CHECK_EQ(a.calls, 1);
    CHECK_EQ(b.calls, 1);
    CHECK_EQ(a.pings + b.pings, 1);
    CHECK_MEM(a.seen[0].request_id, b.seen[0].request_id, KL_ID_LEN);
    kluis_close(client);
    fake_stop(&a);
    fake_stop(&b);
}

/* A node that is only slow answers its PINGs and keeps the call. */
static void *answer_later(void *arg)
{
    struct fake_call *c = arg;
    struct fake *node = c->node;

    (void)pthread_mutex_lock(&node->lock);
    while (node->pings < 2) {
        (void)pthread_cond_wait(&node->changed, &node->lock);
    }
    (void)pthread_mutex_unlock(&node->lock);
    fake_status(c, KL_NOT_FOUND);
    kl_conn_release(c->conn);
    kl_free(c);
    return NULL;
}

static void start_answer_later(struct fake_call *c)
{
    struct fake_call *copy = kl_malloc(sizeof *copy);
    pthread_t thread;

    assert_non_null(copy);
    *copy = *c;
    kl_conn_retain(copy->conn);
    assert_int_equal(pthread_create(&thread, NULL, answer_later, copy), 0);
    (void)pthread_detach(thread);
}

TEST(life, slow_node_keeps_the_call)
{
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct kluis_client *client;

    fake_start(&a, CERT_SERVER, start_answer_later, NULL);
    client = fake_client(nodes, 1, false);
    CHECK_EQ(get(client, 30000), KLUIS_NOT_FOUND);
    CHECK_EQ(a.calls, 1);
    CHECK_EQ(a.conns, 1);
    kluis_close(client);
    fake_stop(&a);
}

static void hold_first(struct fake_call *c)
{
    if (c->nth != 1) {
        fake_serve(c);
    }
}

/* An answer that comes after the deadline is nobody's: it does not reach another call. */
TEST(life, late_reply_is_ignored)
{
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct kluis_client *client;
    struct fake_call late = {.node = &a};

    fake_start(&a, CERT_SERVER, hold_first, NULL);
    client = fake_client(nodes, 1, false);
    CHECK_EQ(get(client, 200), KLUIS_TIMEOUT);
    CHECK(fake_cancels(&a, 1));
    late.conn = a.last_conn;
    late.stream = a.last_stream;
    fake_status(&late, KL_FORBIDDEN);
    CHECK_EQ(get(client, 0), KLUIS_OK);
    CHECK_EQ(a.conns, 1);
    kluis_close(client);
    fake_stop(&a);
}

/* More calls than one connection may carry: the rest wait their turn and all are answered. */
TEST(life, more_calls_than_a_connection_carries)
{
    enum { N = KL_CALLS_PER_CONN_MAX + 1000 };
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct kluis_client *client;
    struct tally t;

    tally_init(&t);
    fake_start(&a, CERT_SERVER, fake_serve, NULL);
    client = fake_client(nodes, 1, false);
    for (unsigned i = 0; i < N; i++) {
        CHECK_EQ(kluis_secret_get_async(client, "team", "db", NULL, 60000, count_result, &t),
                 KLUIS_OK);
    }
    tally_wait(&t, N);
    CHECK_EQ(t.ok, N);
    CHECK_EQ(a.calls, N);
    CHECK_EQ(a.conns, 1);
    kluis_close(client);
    fake_stop(&a);
    tally_done(&t);
}

/* Closing ends what is under way: every callback has come, once, before close returns. */
TEST(life, close_cancels)
{
    enum { N = 300 };
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct kluis_client *client;
    struct tally t;

    tally_init(&t);
    fake_start(&a, CERT_SERVER, fake_silent, NULL);
    client = fake_client(nodes, 1, false);
    for (unsigned i = 0; i < N; i++) {
        CHECK_EQ(kluis_secret_set_async(client, "team", "db", "x", 1, NULL, 0, count_result, &t),
                 KLUIS_OK);
    }
    kluis_close(client);
    CHECK_EQ(t.n, N);
    CHECK_EQ(t.cancelled, N);
    fake_stop(&a);
    tally_done(&t);
}

struct reentry {
    struct tally tally;
    struct kluis_client *client;
    enum kluis_status inside;
};

static void block_inside(void *arg, enum kluis_status status, struct kluis_secret *result,
                         const char *message)
{
    struct reentry *r = arg;

    r->inside = get(r->client, 1000);
    count_result(&r->tally, status, result, message);
}

/* A callback that would wait for the thread it holds is told so instead of hanging; afterwards that
 * thread is as good as before. */
TEST(life, blocking_inside_a_callback_is_refused)
{
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct reentry r = {.inside = KLUIS_OK};

    tally_init(&r.tally);
    fake_start(&a, CERT_SERVER, fake_serve, NULL);
    r.client = fake_client(nodes, 1, false);
    CHECK_EQ(kluis_secret_get_async(r.client, "team", "db", NULL, 0, block_inside, &r), KLUIS_OK);
    tally_wait(&r.tally, 1);
    CHECK_EQ(r.inside, KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(r.tally.ok, 1);
    CHECK_EQ(a.calls, 1);
    CHECK_EQ(get(r.client, 0), KLUIS_OK);
    kluis_close(r.client);
    fake_stop(&a);
    tally_done(&r.tally);
}

struct blocked {
    struct kluis_client *client;
    enum kluis_status status;
};

static void *block(void *arg)
{
    struct blocked *b = arg;

    b->status = get(b->client, 60000);
    return NULL;
}

/* A thread that waits inside a call gets out when another closes the client. */
TEST(life, close_frees_blocked_threads)
{
    enum { N = 8 };
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct blocked b[N];
    pthread_t threads[N];
    struct kluis_client *client;

    fake_start(&a, CERT_SERVER, fake_silent, NULL);
    client = fake_client(nodes, 1, false);
    for (int i = 0; i < N; i++) {
        b[i].client = client;
        CHECK_EQ(pthread_create(&threads[i], NULL, block, &b[i]), 0);
    }
    CHECK(fake_calls(&a, N));
    kluis_close(client);
    for (int i = 0; i < N; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
        CHECK_EQ(b[i].status, KLUIS_CANCELLED);
    }
    fake_stop(&a);
}

struct worker {
    struct kluis_client *client;
    unsigned failures;
};

static void *work(void *arg)
{
    struct worker *w = arg;

    for (int i = 0; i < 200; i++) {
        struct kluis_secret *secret = NULL;
        char name[16];

        (void)snprintf(name, sizeof name, "s%d", i);
        w->failures += kluis_secret_set(w->client, "team", name, "value", 5, NULL, 0, NULL) != 0;
        w->failures += kluis_secret_get(w->client, "team", name, NULL, 0, &secret) != 0;
        w->failures += secret == NULL || secret->value_len != 5 || strcmp(secret->name, name) != 0;
        kluis_secret_free(secret);
    }
    return NULL;
}

static void drop_some(struct fake_call *c)
{
    if (c->nth % 97 == 0) {
        fake_drop(c);
    } else if (c->nth % 41 == 0) {
        fake_not_leader(c, 2, c->node->arg);
    } else if (c->nth % 301 == 0) {
        fake_goaway(c->node);
        fake_serve(c);
    } else {
        fake_serve(c);
    }
}

/* Many threads over connections that break all the time: no call fails, every answer is for the
 * call that asked. */
TEST(life, threads_over_breaking_connections)
{
    enum { N = 8 };
    struct fake a;
    struct fake b;
    struct fake *nodes[2] = {&a, &b};
    struct worker workers[N];
    pthread_t threads[N];
    struct kluis_client *client;

    fake_start(&a, CERT_SERVER, drop_some, &b);
    fake_start(&b, CERT_SERVER, drop_some, &a);
    memcpy(a.value, "value", 5);
    memcpy(b.value, "value", 5);
    a.value_len = b.value_len = 5;
    client = fake_client(nodes, 2, false);
    for (int i = 0; i < N; i++) {
        workers[i] = (struct worker){client, 0};
        CHECK_EQ(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
        CHECK_EQ(workers[i].failures, 0);
    }
    kluis_close(client);
    fake_stop(&a);
    fake_stop(&b);
}

enum { BLOB_LEN = 5 << 20 };

static void serve_blob(struct fake_call *c)
{
    if (strcmp(c->call->method, "/kluis.v1.Secrets/Backup") == 0) {
        Kluis__V1__SecretBackupResponse r = KLUIS__V1__SECRET_BACKUP_RESPONSE__INIT;
        uint8_t *blob = kl_malloc(BLOB_LEN);

        assert_non_null(blob);
        for (size_t i = 0; i < BLOB_LEN; i++) {
            blob[i] = (uint8_t)(i * 31 + (i >> 9));
        }
        r.blob = (ProtobufCBinaryData){BLOB_LEN, blob};
        r.version_count = 7;
        fake_ok(c, &r);
        kl_free(blob);
    } else {
        Kluis__V1__SecretRestoreRequest *request = kluis__v1__secret_restore_request__unpack(
            NULL, c->call->payload.len, c->call->payload.data);
        Kluis__V1__SecretRestoreResponse r = KLUIS__V1__SECRET_RESTORE_RESPONSE__INIT;
        Kluis__V1__Secret secret = KLUIS__V1__SECRET__INIT;
        char name[] = "restored";
        bool same = request->blob.len == BLOB_LEN;

        for (size_t i = 0; same && i < BLOB_LEN; i++) {
            same = request->blob.data[i] == (uint8_t)(i * 31 + (i >> 9));
        }
        secret.name = name;
        r.secret = &secret;
        if (same) {
            fake_ok(c, &r);
        } else {
            fake_status(c, KL_BLOB_TAMPERED);
        }
        kluis__v1__secret_restore_request__free_unpacked(request, NULL);
    }
}

/* Blobs of many frames go both ways, byte for byte. */
TEST(life, large_blobs)
{
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct kluis_client *client;
    struct kluis_blob *blob = NULL;
    struct kluis_secret *secret = NULL;

    fake_start(&a, CERT_SERVER, serve_blob, NULL);
    client = fake_client(nodes, 1, false);
    CHECK_EQ(kluis_secret_backup(client, "team", "db", 0, &blob), KLUIS_OK);
    CHECK_EQ(blob->len, BLOB_LEN);
    CHECK_EQ(blob->version_count, 7);
    CHECK_EQ(kluis_secret_restore(client, "team", blob->data, blob->len, 0, &secret), KLUIS_OK);
    CHECK_STR(secret->name, "restored");
    kluis_secret_free(secret);
    blob->data[BLOB_LEN - 1] ^= 1;
    CHECK_EQ(kluis_secret_restore(client, "team", blob->data, blob->len, 0, NULL),
             KLUIS_BLOB_TAMPERED);
    kluis_blob_free(blob);
    kluis_close(client);
    fake_stop(&a);
}

/* Every allocation of the calling thread fails once: the call succeeds or says so, nothing leaks,
 * and the client goes on. */
TEST(life, allocation_torture)
{
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct kluis_tag tags[2] = {{"k", "v"}, {"k2", "v2"}};
    struct kluis_secret_options options = {.tags = tags, .tags_n = 2, .content_type = "text"};
    struct kluis_client *client;
    bool struck = true;

    fake_start(&a, CERT_SERVER, fake_serve, NULL);
    client = fake_client(nodes, 1, false);
    CHECK_EQ(get(client, 0), KLUIS_OK);
    for (unsigned long n = 1; struck; n++) {
        struct kluis_secret *secret = NULL;
        enum kluis_status st;

        kl_alloc_fail_at(n);
        st = kluis_secret_set(client, "team", "db", "value", 5, &options, 0, &secret);
        struck = kl_alloc_failed() != 0;
        kl_alloc_fail_at(0);
        CHECK(struck ? st == KLUIS_NO_MEMORY : st == KLUIS_OK);
        CHECK_EQ(secret != NULL, st == KLUIS_OK);
        kluis_secret_free(secret);
        CHECK(n < 1000);
    }
    struck = true;
    for (unsigned long n = 1; struck; n++) {
        enum kluis_status st;

        kl_alloc_fail_at(n);
        st = get(client, 0);
        struck = kl_alloc_failed() != 0;
        kl_alloc_fail_at(0);
        CHECK(struck ? st == KLUIS_NO_MEMORY : st == KLUIS_OK);
        CHECK(n < 1000);
    }
    kluis_close(client);
    fake_stop(&a);
}

/* The same while the client is being opened. */
TEST(life, open_torture)
{
    const char *endpoints[1] = {"127.0.0.1:1"};
    struct kluis_options options = {.endpoints = endpoints,
                                    .endpoints_n = 1,
                                    .ca_file = fixture_files(CERT_SERVER).ca_file,
                                    .token = "t"};
    bool struck = true;

    for (unsigned long n = 1; struck; n++) {
        struct kluis_client *client = NULL;
        enum kluis_status st;

        kl_alloc_fail_at(n);
        st = kluis_open(&options, &client, NULL, 0);
        struck = kl_alloc_failed() != 0;
        kl_alloc_fail_at(0);
        CHECK(struck ? st == KLUIS_NO_MEMORY : st == KLUIS_OK);
        CHECK_EQ(client != NULL, st == KLUIS_OK);
        kluis_close(client);
        CHECK(n < 1000);
    }
}
