/* Connections that behave: order, size, back-pressure, draining, ends. */
#include "tests/unit/net/net_fixture.h"

#include "common/alloc.h"

#include <stdlib.h>
#include <unistd.h>

static struct kl_frame request(uint32_t stream, const void *p, size_t n)
{
    return (struct kl_frame){KL_FRAME_REQUEST, 0, 0, stream, {p, n}};
}

/* Each side learns the other's node id, and a request comes back as a reply with its stream id. */
TEST(conn, round_trip)
{
    struct fixture f;
    struct kl_conn *conn;
    struct kl_frame frame = request(7, "hello", 5);

    fixture_init(&f, KL_TLS_PEER);
    conn = fixture_dial(&f);
    CHECK(watch_opens(&f.client, 1));
    CHECK(watch_opens(&f.server, 1));
    CHECK_EQ(f.client.node, 2);
    CHECK_EQ(f.server.node, 1);
    CHECK_OK(kl_conn_send(conn, &frame));
    CHECK(watch_frames(&f.client, 1));
    CHECK_EQ(f.client.last.type, KL_FRAME_REPLY);
    CHECK_EQ(f.client.last.stream, 7);
    CHECK_EQ(f.client.bytes, 5);
    CHECK_STR(kl_conn_remote(conn), f.address);
    CHECK_NE(kl_conn_id(conn), kl_conn_id(f.server.conn));
    kl_conn_close(conn);
    CHECK(watch_closes(&f.client, 1));
    CHECK(watch_closes(&f.server, 1));
    CHECK_STATUS(kl_conn_send(conn, &frame), KL_CLOSED);
    kl_conn_release(conn);
    fixture_done(&f);
}

/* A client without a certificate is let in by a server for clients, as no node. */
TEST(conn, client_without_certificate)
{
    struct fixture f;
    struct kl_conn *conn;

    fixture_init(&f, KL_TLS_SERVER);
    conn = fixture_dial(&f);
    CHECK(watch_opens(&f.client, 1));
    CHECK(watch_opens(&f.server, 1));
    CHECK_EQ(f.client.node, 2);
    CHECK_EQ(f.server.node, 0);
    kl_conn_release(conn);
    fixture_done(&f);
}

/* What is sent before the connection is open leaves once it is. */
TEST(conn, sends_before_open)
{
    struct fixture f;
    struct kl_conn *conn;
    struct kl_frame frame = request(1, "early", 5);

    fixture_init(&f, KL_TLS_SERVER);
    conn = fixture_dial(&f);
    CHECK_OK(kl_conn_send(conn, &frame));
    CHECK(watch_frames(&f.client, 1));
    kl_conn_release(conn);
    fixture_done(&f);
}

/* ---- order and content ---- */

struct checker {
    struct watch watch;
    uint32_t next;
    bool wrong;
};

static void check_order(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct checker *c = user;

    for (size_t i = 0; i < n; i++) {
        uint8_t body[4];

        kl_put_be32(body, c->next);
        c->wrong |= frames[i].stream != c->next || frames[i].body.len < 4 ||
                    memcmp(frames[i].body.ptr, body, 4) != 0;
        c->next++;
    }
    watch_handler.on_frames(&c->watch, conn, frames, n);
}

static void checker_close(void *user, struct kl_conn *conn, enum kl_status st, const char *why)
{
    watch_handler.on_close(&((struct checker *)user)->watch, conn, st, why);
}

/* Messages of all sizes arrive in the order in which they were sent, with their own content. */
TEST(conn, keeps_order)
{
    enum { N = 20000 };
    static uint8_t body[5000];
    static const struct kl_conn_handler handler = {NULL, check_order, checker_close};
    struct fixture f;
    struct checker checker = {.next = 1};
    struct kl_listener *listener = NULL;
    struct kl_listener_options options = {.conn = {.handler = &handler, .user = &checker}};
    struct kl_conn_options dial;
    struct kl_conn *conn = NULL;
    char address[64];
    char err[256];
    uint64_t seed = test_seed();

    fixture_init(&f, KL_TLS_SERVER);
    watch_init(&checker.watch, WATCH_COUNT);
    CHECK_OK(
        kl_listener_new(f.net, f.server_tls, "127.0.0.1:0", &options, &listener, err, sizeof err));
    (void)snprintf(address, sizeof address, "localhost:%u", (unsigned)kl_listener_port(listener));
    dial = fixture_options(&f.client);
    dial.expect_host = "localhost";
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, address, &dial, &conn));
    for (uint32_t i = 1; i <= N; i++) {
        struct kl_frame frame = request(i, body, 4 + test_random(&seed) % (sizeof body - 4));

        kl_put_be32(body, i);
        CHECK_OK(kl_conn_send(conn, &frame));
    }
    CHECK(watch_frames(&checker.watch, N));
    CHECK(!checker.wrong);
    kl_conn_release(conn);
    fixture_done(&f);
    watch_done(&checker.watch);
}

struct sender {
    pthread_t thread;
    struct kl_conn *conn;
    enum kl_status status;
};

static void *send_many(void *arg)
{
    struct sender *s = arg;

    for (uint32_t i = 0; i < 3000 && s->status == KL_OK; i++) {
        struct kl_frame frame = request(i, "0123456789", 10);

        s->status = kl_conn_send(s->conn, &frame);
    }
    return NULL;
}

/* Many threads may send on one connection; nothing is lost or torn. */
TEST(conn, many_senders)
{
    enum { THREADS = 4 };
    struct sender senders[THREADS];
    struct fixture f;
    struct kl_conn *conn;

    fixture_init(&f, KL_TLS_SERVER);
    conn = fixture_dial(&f);
    for (int i = 0; i < THREADS; i++) {
        senders[i] = (struct sender){.conn = conn, .status = KL_OK};
        CHECK_EQ(pthread_create(&senders[i].thread, NULL, send_many, &senders[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(senders[i].thread, NULL), 0);
        CHECK_EQ(senders[i].status, KL_OK);
    }
    CHECK(watch_frames(&f.client, THREADS * 3000));
    CHECK_EQ(f.client.bytes, THREADS * 3000 * 10);
    kl_conn_release(conn);
    fixture_done(&f);
}

struct big {
    struct watch watch;
    struct kl_assembler *assembler;
    struct kl_bytes want;
    unsigned frames;
    bool same;
};

static void assemble(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct big *b = user;

    for (size_t i = 0; i < n; i++) {
        struct kl_buf whole = KL_BUF(0);

        b->frames++;
        if (kl_assembler_add(b->assembler, &frames[i], &whole) == KL_OK) {
            b->same = kl_bytes_eq(kl_buf_bytes(&whole), b->want);
            watch_handler.on_frames(&b->watch, conn, &frames[i], 1);
            kl_buf_wipe(&whole);
        }
    }
}

static void big_close(void *user, struct kl_conn *conn, enum kl_status st, const char *why)
{
    watch_handler.on_close(&((struct big *)user)->watch, conn, st, why);
}

/* A message of several MiB is split into frames and comes back whole, both ways. */
TEST(conn, big_message)
{
    static const struct kl_conn_handler handler = {NULL, assemble, big_close};
    const size_t len = 5u * KL_FRAME_BODY_MAX + 12345;
    struct big b = {.frames = 0};
    struct kl_conn_options options = {.handler = &handler, .user = &b};
    struct fixture f;
    struct kl_conn *conn = NULL;
    uint8_t *body = kl_malloc(len);
    struct kl_frame frame = request(9, body, len);
    uint64_t seed = test_seed();

    CHECK(body != NULL);
    for (size_t i = 0; i < len; i++) {
        body[i] = (uint8_t)test_random(&seed);
    }
    b.want = kl_bytes_of(body, len);
    watch_init(&b.watch, WATCH_COUNT);
    CHECK_OK(kl_assembler_new(KL_MESSAGE_MAX, 4, &b.assembler));
    fixture_init(&f, KL_TLS_SERVER);
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, f.address, &options, &conn));
    CHECK_OK(kl_conn_send(conn, &frame));
    CHECK(watch_frames(&b.watch, 1));
    CHECK(b.same);
    CHECK_EQ(b.frames, 6);
    frame.body.len = KL_MESSAGE_MAX + 1;
    CHECK_STATUS(kl_conn_send(conn, &frame), KL_TOO_LARGE);
    kl_conn_release(conn);
    fixture_done(&f);
    watch_done(&b.watch);
    kl_assembler_free(b.assembler);
    kl_free(body);
}

/* ---- gathering and back-pressure ---- */

/* What is sent under a cork leaves as one write and arrives in one call. */
TEST(conn, cork_gathers)
{
    struct fixture f;
    struct kl_conn *conn;
    struct kl_frame frame = {KL_FRAME_PEER, 0, 0, 0, {(const uint8_t *)"0123456789", 10}};

    fixture_init(&f, KL_TLS_SERVER);
    conn = fixture_dial(&f);
    CHECK(watch_opens(&f.client, 1));
    CHECK(watch_opens(&f.server, 1));
    while (kl_conn_queued(conn) != 0) { /* the end of the handshake */
        (void)usleep(1000);
    }
    kl_conn_cork(conn);
    kl_conn_cork(conn);
    for (int i = 0; i < 100; i++) {
        CHECK_OK(kl_conn_send(conn, &frame));
    }
    kl_conn_uncork(conn);
    CHECK_EQ(kl_conn_queued(conn), 100 * (KL_FRAME_HEAD + 10));
    kl_conn_uncork(conn);
    CHECK(watch_frames(&f.server, 100));
    CHECK_EQ(f.server.calls, 1);
    kl_conn_release(conn);
    fixture_done(&f);
}

/* A full output queue refuses a message whole, and takes messages again once it has drained. */
TEST(conn, full_queue)
{
    enum { BODY = 10000 };
    static uint8_t body[BODY];
    struct fixture f;
    struct kl_conn_options options;
    struct kl_conn *conn = NULL;
    struct kl_frame frame = {KL_FRAME_PEER, 0, 0, 0, {body, BODY}};
    enum kl_status st;
    size_t sent = 0;

    fixture_init(&f, KL_TLS_SERVER);
    options = fixture_options(&f.client);
    options.out_max = 300000;
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, f.address, &options, &conn));
    CHECK(watch_opens(&f.client, 1));
    CHECK(watch_opens(&f.server, 1));
    kl_conn_pause(f.server.conn);
    while ((st = kl_conn_send(conn, &frame)) == KL_OK) {
        sent++;
        CHECK(sent < 100000);
    }
    CHECK_EQ(st, KL_EXHAUSTED);
    CHECK(kl_conn_queued(conn) <= options.out_max + options.out_max / 16); /* TLS adds a little */
    kl_conn_resume(f.server.conn);
    CHECK(watch_frames(&f.server, sent));
    CHECK_OK(kl_conn_send(conn, &frame));
    CHECK(watch_frames(&f.server, sent + 1));
    CHECK_EQ(f.server.bytes, (sent + 1) * BODY);
    kl_conn_release(conn);
    fixture_done(&f);
}

/* Waits until more than `least` bytes wait at the server and neither side's queue moves. The kernel may
 * still take some of what waits after the server has stopped reading. */
static bool stands_still(const struct kl_conn *client, const struct kl_conn *server, size_t least)
{
    uint64_t until_ms = test_now_ms() + WAIT_MS;

    while (test_now_ms() < until_ms) {
        size_t client_was = kl_conn_queued(client);
        size_t server_was = kl_conn_queued(server);

        (void)usleep(300000);
        if (server_was > least && server_was == kl_conn_queued(server) &&
            client_was == kl_conn_queued(client)) {
            return true;
        }
    }
    return false;
}

/* A client that sends but does not read is not read from any more once KL_CONN_OUT_SOFT bytes wait
 * for it; when it reads again everything goes on and nothing is missing. */
TEST(conn, server_stops_reading)
{
    enum { BODY = 64 << 10 };
    static uint8_t body[BODY];
    struct fixture f;
    struct kl_conn_options options;
    struct kl_conn *conn = NULL;
    struct kl_frame frame = request(1, body, BODY);
    size_t sent = 0;

    fixture_init(&f, KL_TLS_SERVER);
    options = fixture_options(&f.client);
    options.out_max = 64u << 20;
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, f.address, &options, &conn));
    CHECK(watch_opens(&f.client, 1));
    CHECK(watch_opens(&f.server, 1));
    kl_conn_pause(conn);
    while (kl_conn_send(conn, &frame) == KL_OK) {
        sent++;
    }
    CHECK(stands_still(conn, f.server.conn, KL_CONN_OUT_SOFT / 2));
    CHECK(kl_conn_queued(f.server.conn) < KL_CONN_OUT_SOFT + 4 * BODY);
    CHECK(kl_conn_queued(conn) > 0);
    kl_conn_resume(conn);
    CHECK(watch_frames(&f.client, sent));
    CHECK_EQ(f.client.bytes, sent * BODY);
    kl_conn_release(conn);
    fixture_done(&f);
}

/* A client that never reads is closed after KL_WRITE_STALL_TIMEOUT_MS, and until then it holds up
 * nobody else. */
TEST(conn, never_reads)
{
    enum { BODY = 256 << 10 };
    static uint8_t body[BODY];
    struct fixture f;
    struct watch lazy;
    struct kl_conn_options options;
    struct kl_conn *deaf = NULL;
    struct kl_conn *conn;
    struct kl_frame flood = {KL_FRAME_PEER, 0, 0, 0, {body, BODY}};
    struct kl_frame frame = request(1, "x", 1);

    fixture_init(&f, KL_TLS_SERVER);
    watch_init(&lazy, WATCH_COUNT);
    options = fixture_options(&lazy);
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, f.address, &options, &deaf));
    CHECK(watch_opens(&lazy, 1));
    CHECK(watch_opens(&f.server, 1));
    kl_conn_pause(deaf);
    for (int i = 0; i < 128; i++) { /* more than both kernels' buffers take */
        CHECK_OK(kl_conn_send(f.server.conn, &flood));
    }
    conn = fixture_dial(&f);
    for (size_t i = 1; i <= 1000; i++) {
        CHECK_OK(kl_conn_send(conn, &frame));
        CHECK(watch_frames(&f.client, i));
        CHECK(i > 1 || f.server.closes == 0); /* the first did not have to wait for the end */
    }
    CHECK(watch_closes(&f.server, 1));
    CHECK_EQ(f.server.status, KL_TIMEOUT);
    CHECK_OK(kl_conn_send(conn, &frame));
    CHECK(watch_frames(&f.client, 1001));
    kl_conn_release(conn);
    kl_conn_release(deaf);
    fixture_done(&f);
    watch_done(&lazy);
}

/* ---- ends ---- */

/* Draining delivers what is queued before it closes, and takes nothing more. */
TEST(conn, drain)
{
    const size_t len = 8u << 20;
    struct fixture f;
    struct kl_conn *conn;
    uint8_t *body = kl_calloc(1, len);
    struct kl_frame frame = {KL_FRAME_PEER, 0, 0, 0, {body, len}};

    fixture_init(&f, KL_TLS_SERVER);
    conn = fixture_dial(&f);
    CHECK_OK(kl_conn_send(conn, &frame));
    kl_conn_drain(conn);
    kl_conn_drain(conn);
    CHECK_STATUS(kl_conn_send(conn, &frame), KL_CLOSED);
    CHECK(watch_closes(&f.client, 1));
    CHECK(watch_closes(&f.server, 1));
    CHECK_EQ(f.server.bytes, len);
    CHECK_STR(f.server.reason, "closed by the other side");
    kl_conn_release(conn);
    fixture_done(&f);
    kl_free(body);
}

/* A connection without traffic is closed after its idle time; one with traffic lives. */
TEST(conn, idle)
{
    struct fixture f;
    struct kl_conn_options options;
    struct kl_conn *conn = NULL;
    struct kl_conn *busy;
    struct kl_frame frame = request(1, "x", 1);
    uint64_t start;

    fixture_init(&f, KL_TLS_SERVER);
    busy = fixture_dial(&f);
    CHECK(watch_opens(&f.client, 1));
    options = fixture_options(&f.client);
    options.idle_timeout_ms = 500;
    start = test_now_ms();
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, f.address, &options, &conn));
    CHECK(watch_closes(&f.client, 1));
    CHECK_EQ(f.client.status, KL_TIMEOUT);
    CHECK(test_now_ms() - start >= 500);
    CHECK_OK(kl_conn_send(busy, &frame));
    CHECK(watch_frames(&f.client, 1));
    kl_conn_release(busy);
    kl_conn_release(conn);
    fixture_done(&f);
}

/* Dialling where nobody listens, or to what is no address, says so; on_open never comes. */
TEST(conn, dial_fails)
{
    static const char *const bad[] = {"",           "localhost", "localhost:", ":1",      "a b:1",
                                      "host:65536", "::1:5",     "host/x:1",   "host:-1", "host:0"};
    struct fixture f;
    struct kl_conn_options options;
    struct kl_conn *conn = NULL;
    char address[64];

    fixture_init(&f, KL_TLS_SERVER);
    options = fixture_options(&f.client);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(kl_conn_dial(f.net, f.client_tls, bad[i], &options, &conn),
                     KL_INVALID_ARGUMENT);
    }
    kl_listener_free(f.listener);
    (void)snprintf(address, sizeof address, "localhost:%u", (unsigned)f.port);
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, address, &options, &conn));
    CHECK(watch_closes(&f.client, 1));
    CHECK_EQ(f.client.opens, 0);
    CHECK_EQ(f.client.status, KL_CLOSED);
    kl_conn_release(conn);
    fixture_done(&f);
}

/* A port that is taken is refused with a text; a name or nonsense as well. */
TEST(conn, listen_fails)
{
    struct fixture f;
    struct kl_listener_options options = {0};
    struct kl_listener *second = NULL;
    char err[256] = "";

    fixture_init(&f, KL_TLS_SERVER);
    options.conn = fixture_options(&f.server);
    CHECK_STATUS(
        kl_listener_new(f.net, f.server_tls, f.address, &options, &second, err, sizeof err), KL_IO);
    CHECK(strstr(err, f.address) != NULL);
    CHECK_STATUS(
        kl_listener_new(f.net, f.server_tls, "nonsense", &options, &second, err, sizeof err),
        KL_INVALID_ARGUMENT);
    CHECK(strstr(err, "nonsense") != NULL);
    fixture_done(&f);
}

/* Connections outlive their listener. */
TEST(conn, listener_goes)
{
    struct fixture f;
    struct kl_conn *conn;
    struct kl_frame frame = request(1, "x", 1);

    fixture_init(&f, KL_TLS_SERVER);
    conn = fixture_dial(&f);
    CHECK(watch_opens(&f.server, 1));
    kl_listener_free(f.listener);
    CHECK_OK(kl_conn_send(conn, &frame));
    CHECK(watch_frames(&f.client, 1));
    kl_conn_release(conn);
    fixture_done(&f);
}
