/* Peers that break rules, hang, leave early or come in masses. */
#include "tests/unit/net/net_fixture.h"

#include "common/alloc.h"
#include "common/net/conn.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static void check_still_serves(struct fixture *f)
{
    struct watch w;
    struct kl_conn_options options;
    struct kl_conn *conn = NULL;
    struct kl_frame frame = {KL_FRAME_REQUEST, 0, 0, 1, {(const uint8_t *)"alive", 5}};

    watch_init(&w, WATCH_COUNT);
    options = fixture_options(&w);
    CHECK_OK(kl_conn_dial(f->net, f->client_tls, f->address, &options, &conn));
    CHECK_OK(kl_conn_send(conn, &frame));
    CHECK(watch_frames(&w, 1));
    kl_conn_close(conn);
    CHECK(watch_closes(&w, 1));
    kl_conn_release(conn);
    watch_done(&w);
}

/* A TCP connection that says nothing is closed at the handshake's deadline, no sooner. */
TEST(hostile, silent)
{
    struct fixture f;
    uint64_t start = test_now_ms();
    int fd;

    fixture_init(&f, KL_TLS_SERVER);
    fd = raw_connect(f.port);
    check_still_serves(&f);
    CHECK(raw_closed(fd, WAIT_MS));
    CHECK(test_now_ms() - start >= KL_HANDSHAKE_TIMEOUT_MS - 200);
    (void)close(fd);
    fixture_done(&f);
}

/* A server that accepts and says nothing makes the dial fail at the handshake's deadline; one that
 * does not even accept, at the connection's. */
TEST(hostile, silent_server)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct pollfd queued = {fd, POLLIN, 0};
    struct fixture f;
    struct watch late;
    struct kl_conn_options options;
    struct kl_conn *a = NULL;
    struct kl_conn *b = NULL;
    char address[64];

    CHECK_EQ(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    CHECK_EQ(listen(fd, 0), 0); /* one place in the queue of connections to accept */
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)ntohs(sa.sin_port));
    fixture_init(&f, KL_TLS_SERVER);
    watch_init(&late, WATCH_COUNT);
    options = fixture_options(&f.client);
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, address, &options, &a));
    CHECK_EQ(poll(&queued, 1, WAIT_MS), 1); /* it has the place */
    options = fixture_options(&late);
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, address, &options, &b));
    CHECK(watch_closes(&late, 1));
    CHECK_EQ(late.status, KL_TIMEOUT);
    /* nng now and then reports a connection that is still being made; TLS then waits in vain. */
    CHECK(strcmp(late.reason, "no connection in time") == 0 ||
          strcmp(late.reason, "no TLS handshake in time") == 0);
    CHECK(watch_closes(&f.client, 1));
    CHECK_EQ(f.client.status, KL_TIMEOUT);
    CHECK_STR(f.client.reason, "no TLS handshake in time");
    (void)close(fd);
    kl_conn_release(a);
    kl_conn_release(b);
    fixture_done(&f);
    watch_done(&late);
}

/* Something other than TLS is closed for that, and not at the handshake's deadline. */
TEST(hostile, garbage)
{
    static const char http[] = "GET / HTTP/1.0\r\n\r\n";
    struct fixture f;
    uint64_t seed = test_seed();

    fixture_init(&f, KL_TLS_SERVER);
    for (int i = 0; i < 20; i++) {
        uint8_t noise[300];
        int fd = raw_connect(f.port);

        for (size_t j = 0; j < sizeof noise; j++) {
            noise[j] = (uint8_t)test_random(&seed);
        }
        noise[0] = 0x17; /* application data before any handshake: wrong for sure */
        noise[1] = noise[2] = 3;
        noise[3] = 0;
        CHECK(send(fd, i == 0 ? (const void *)http : noise, i == 0 ? sizeof http : sizeof noise,
                   MSG_NOSIGNAL) > 0);
        CHECK(raw_closed(fd, WAIT_MS));
        (void)close(fd);
        CHECK(watch_closes(&f.server, (unsigned)i + 1));
        CHECK_EQ(f.server.status, KL_PROTOCOL);
    }
    CHECK_EQ(f.server.opens, 0);
    check_still_serves(&f);
    fixture_done(&f);
}

/* A connection whose write seems to be under way from the first, and who may see it. */
struct late_write {
    struct watch watch; /* first */
    struct kl_conn *conn;
    sem_t accepted;
};

static void *accept_late(void *user, struct kl_conn *conn)
{
    struct late_write *w = user;

    kl_conn_retain(conn);
    w->conn = conn;
    (void)pthread_mutex_lock(&conn->lock);
    conn->writing = true;
    (void)pthread_mutex_unlock(&conn->lock);
    (void)sem_post(&w->accepted);
    return w;
}

static bool is_dying(struct kl_conn *conn)
{
    enum kl_conn_state state = KL_CONN_CONNECTING;

    for (int waited = 0; waited < WAIT_MS && state != KL_CONN_DYING; waited += 1) {
        (void)usleep(1000);
        (void)pthread_mutex_lock(&conn->lock);
        state = conn->state;
        (void)pthread_mutex_unlock(&conn->lock);
    }
    return state == KL_CONN_DYING;
}

/* TLS fails while the end of an earlier write has not been heard of: the alert leaves behind it. */
TEST(hostile, alert_behind_a_write)
{
    static const uint8_t noise[] = {0x17, 3, 3, 0, 1, 0};
    struct fixture f;
    struct late_write w;
    struct kl_listener_options options = {.on_accept = accept_late};
    struct kl_listener *listener = NULL;
    uint8_t alert[7] = {0};
    char err[256];
    int fd;

    fixture_init(&f, KL_TLS_SERVER);
    watch_init(&w.watch, WATCH_COUNT);
    CHECK_EQ(sem_init(&w.accepted, 0, 0), 0);
    options.conn = fixture_options(&w.watch);
    CHECK_OK(
        kl_listener_new(f.net, f.server_tls, "127.0.0.1:0", &options, &listener, err, sizeof err));
    fd = raw_connect(kl_listener_port(listener));
    CHECK_EQ(sem_wait(&w.accepted), 0);
    CHECK_EQ(send(fd, noise, sizeof noise, MSG_NOSIGNAL), (ssize_t)sizeof noise);
    CHECK(is_dying(w.conn));
    kl_conn_on_write(w.conn); /* the write has ended */
    CHECK_EQ(recv(fd, alert, sizeof alert, MSG_WAITALL), (ssize_t)sizeof alert);
    CHECK_EQ(alert[0], 0x15); /* RFC 8446, 5.1: an alert, */
    CHECK_EQ(alert[5], 2);    /* and 6: fatal */
    CHECK_EQ(close(fd), 0);
    CHECK(watch_closes(&w.watch, 1));
    CHECK_EQ(w.watch.status, KL_PROTOCOL);
    kl_conn_release(w.conn);
    fixture_done(&f);
    watch_done(&w.watch);
    (void)sem_destroy(&w.accepted);
}

/* Descriptors are closed by nng's own thread, a little later. */
static bool files_come_back(unsigned files)
{
    for (int waited = 0; waited < WAIT_MS && test_open_files() > files; waited += 10) {
        (void)usleep(10000);
    }
    return test_open_files() <= files;
}

/* Clients that reset or leave before, in and after the first bytes never stop the listener. */
TEST(hostile, resets)
{
    static const uint8_t hello[] = {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3};
    enum { N = 600 };
    struct fixture f;
    unsigned files;

    fixture_init(&f, KL_TLS_SERVER);
    check_still_serves(&f);
    files = test_open_files();
    for (int i = 0; i < N; i++) {
        int fd = raw_connect(f.port);

        if (i % 3 != 0) {
            (void)send(fd, hello, sizeof hello, MSG_NOSIGNAL);
        }
        if (i % 2 == 0) {
            (void)shutdown(fd, SHUT_WR);
        }
        raw_reset(fd);
    }
    check_still_serves(&f);
    CHECK(files_come_back(files)); /* the last resets may still be on their way */
    check_still_serves(&f);
    fixture_done(&f);
}

/* ---- broken frames, by a client that speaks TLS but not our language ---- */

struct raw_tls {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
};

static void raw_tls_open(struct raw_tls *t, uint16_t port)
{
    t->fd = raw_connect(port);
    t->ctx = SSL_CTX_new(TLS_client_method());
    t->ssl = SSL_new(t->ctx);
    CHECK_EQ(SSL_set_fd(t->ssl, t->fd), 1);
    CHECK_EQ(SSL_connect(t->ssl), 1);
}

static void raw_tls_close(struct raw_tls *t)
{
    SSL_free(t->ssl);
    SSL_CTX_free(t->ctx);
    (void)close(t->fd);
}

static void check_breaks(const uint8_t *bytes, size_t n, enum kl_status want)
{
    struct fixture f;
    struct raw_tls t;
    uint8_t good[KL_FRAME_HEAD];
    struct kl_frame ping = {.type = KL_FRAME_PING, .stream = 77};
    uint8_t out[4096];

    fixture_init(&f, KL_TLS_SERVER);
    raw_tls_open(&t, f.port);
    kl_frame_head(&ping, good);
    memcpy(out, good, sizeof good);
    memcpy(out + sizeof good, bytes, n);
    CHECK_EQ(SSL_write(t.ssl, out, (int)(sizeof good + n)), (int)(sizeof good + n));
    CHECK(watch_closes(&f.server, 1));
    CHECK_EQ(f.server.status, want);
    CHECK_EQ(f.server.frames, 1); /* what came before the fault was delivered */
    CHECK_EQ(f.server.last.stream, 77);
    raw_tls_close(&t);
    check_still_serves(&f);
    fixture_done(&f);
}

/* A frame that promises 1 GiB ends the connection, and nothing is allocated for it. */
TEST(hostile, frame_of_1_gib)
{
    static const uint8_t frame[KL_FRAME_HEAD] = {0x40, 0, 0, 0, KL_FRAME_REQUEST};

    check_breaks(frame, sizeof frame, KL_TOO_LARGE);
}

TEST(hostile, frame_one_over)
{
    static const uint8_t frame[KL_FRAME_HEAD] = {0, 0x10, 0, 1, KL_FRAME_REQUEST};

    check_breaks(frame, sizeof frame, KL_TOO_LARGE);
}

/* Unknown types and flags, and bodies where none may be, end the connection. */
TEST(hostile, unknown_type)
{
    static const uint8_t frame[KL_FRAME_HEAD] = {0, 0, 0, 0, 99};

    check_breaks(frame, sizeof frame, KL_PROTOCOL);
}

TEST(hostile, unknown_flag)
{
    static const uint8_t frame[KL_FRAME_HEAD] = {0, 0, 0, 0, KL_FRAME_REQUEST, 2};

    check_breaks(frame, sizeof frame, KL_PROTOCOL);
}

TEST(hostile, body_of_ping)
{
    static const uint8_t frame[KL_FRAME_HEAD + 1] = {0, 0, 0, 1, KL_FRAME_PING};

    check_breaks(frame, sizeof frame, KL_PROTOCOL);
}

/* A frame that comes byte by byte arrives all the same. */
TEST(hostile, byte_by_byte)
{
    struct fixture f;
    struct raw_tls t;
    uint8_t out[KL_FRAME_HEAD + 10] = {0};
    struct kl_frame frame = {KL_FRAME_REQUEST, 0, 0, 5, {NULL, 10}};

    fixture_init(&f, KL_TLS_SERVER);
    raw_tls_open(&t, f.port);
    kl_frame_head(&frame, out);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof out; i++) {
            CHECK_EQ(SSL_write(t.ssl, out + i, 1), 1);
        }
    }
    CHECK(watch_frames(&f.server, 3));
    CHECK_EQ(f.server.bytes, 30);
    raw_tls_close(&t);
    fixture_done(&f);
}

/* More frames in one read than one call takes are all delivered. */
TEST(hostile, flood_of_small_frames)
{
    enum { N = 50000 };
    static uint8_t out[N * KL_FRAME_HEAD];
    struct fixture f;
    struct raw_tls t;
    struct kl_frame ping = {.type = KL_FRAME_PING};

    fixture_init(&f, KL_TLS_SERVER);
    raw_tls_open(&t, f.port);
    for (size_t i = 0; i < N; i++) {
        ping.stream = (uint32_t)i;
        kl_frame_head(&ping, out + i * KL_FRAME_HEAD);
    }
    CHECK_EQ(SSL_write(t.ssl, out, sizeof out), (int)sizeof out);
    CHECK(watch_frames(&f.server, N));
    CHECK_EQ(f.server.last.stream, N - 1);
    raw_tls_close(&t);
    fixture_done(&f);
}

/* ---- masses ---- */

/* 1,000 idle connections cost no thread and no service, and leave no descriptor behind. */
TEST(hostile, thousand_idle)
{
    enum { N = 1000 };
    static struct kl_conn *conns[N];
    struct rlimit limit;
    struct fixture f;
    unsigned files;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 2 * N + 200) {
        skip();
    }
    fixture_init(&f, KL_TLS_SERVER);
    check_still_serves(&f);
    files = test_open_files();
    for (size_t i = 0; i < N; i++) {
        conns[i] = fixture_dial(&f);
        if (i % 50 == 49) {
            CHECK(watch_opens(&f.client, (unsigned)i + 1)); /* the backlog is short */
        }
    }
    CHECK(watch_opens(&f.client, N));
    CHECK(watch_opens(&f.server, N + 1));
    check_still_serves(&f);
    for (size_t i = 0; i < N; i++) {
        kl_conn_close(conns[i]);
        kl_conn_release(conns[i]);
    }
    CHECK(watch_closes(&f.client, N));
    CHECK(watch_closes(&f.server, N + 2));
    CHECK(files_come_back(files));
    fixture_done(&f);
}

/* A listener's watch, and whom its connections wait for at their end. */
struct giver {
    struct watch watch; /* first */
    struct watch *next;
};

/* Tells of the end and does not come back before somebody else has got the place. */
static void give_place(void *user, struct kl_conn *conn, enum kl_status status, const char *reason)
{
    struct giver *g = user;

    watch_handler.on_close(&g->watch, conn, status, reason);
    (void)watch_opens(g->next, 1);
}

/* Connections beyond the listener's limit are closed at once; a place that is left is given again. */
TEST(hostile, connection_limit)
{
    struct fixture f;
    struct watch w;
    struct giver g = {.next = &w};
    struct kl_conn_handler handler = watch_handler;
    struct kl_listener_options options = {.conns_max = 2};
    struct kl_conn_options dial;
    struct kl_listener *listener = NULL;
    struct kl_conn *conns[2] = {NULL, NULL};
    struct kl_conn *third = NULL;
    char address[64];
    char err[256];

    fixture_init(&f, KL_TLS_SERVER);
    watch_init(&w, WATCH_COUNT);
    watch_init(&g.watch, WATCH_COUNT);
    handler.on_close = give_place;
    options.conn = fixture_options(&g.watch);
    options.conn.handler = &handler;
    CHECK_OK(
        kl_listener_new(f.net, f.server_tls, "127.0.0.1:0", &options, &listener, err, sizeof err));
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)kl_listener_port(listener));
    dial = fixture_options(&f.client);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(kl_conn_dial(f.net, f.client_tls, address, &dial, &conns[i]));
    }
    CHECK(watch_opens(&f.client, 2));
    dial = fixture_options(&w);
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, address, &dial, &third));
    CHECK(watch_closes(&w, 1));
    CHECK_EQ(w.opens, 0);
    kl_conn_release(third);
    kl_conn_close(conns[0]);
    CHECK(watch_closes(&g.watch, 1)); /* from then on, and not a little later */
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, address, &dial, &third));
    CHECK(watch_opens(&w, 1));
    kl_conn_release(third);
    kl_conn_release(conns[0]);
    kl_conn_release(conns[1]);
    fixture_done(&f);
    watch_done(&g.watch);
    watch_done(&w);
}

static void *refuse(void *user, struct kl_conn *conn)
{
    (void)user;
    (void)conn;
    return NULL;
}

/* on_accept may refuse: the connection ends and no handler hears of it. */
TEST(hostile, refused_by_accept)
{
    struct fixture f;
    struct kl_listener_options options = {.on_accept = refuse};
    struct kl_conn_options dial;
    struct kl_listener *listener = NULL;
    struct kl_conn *conn = NULL;
    char address[64];
    char err[256];

    fixture_init(&f, KL_TLS_SERVER);
    options.conn = fixture_options(&f.server);
    CHECK_OK(
        kl_listener_new(f.net, f.server_tls, "127.0.0.1:0", &options, &listener, err, sizeof err));
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)kl_listener_port(listener));
    dial = fixture_options(&f.client);
    CHECK_OK(kl_conn_dial(f.net, f.client_tls, address, &dial, &conn));
    CHECK(watch_closes(&f.client, 1));
    CHECK_EQ(f.client.opens, 0);
    CHECK_EQ(f.server.closes, 0);
    kl_conn_release(conn);
    fixture_done(&f);
}

/* What one connection's handler saw, and whether it was in a possible order. */
struct life {
    struct watch *watch;
    unsigned opens, closes;
    bool wrong;
};

static void life_open(void *user, struct kl_conn *conn, uint64_t node)
{
    struct life *l = user;

    (void)conn;
    (void)node;
    l->wrong |= l->opens != 0 || l->closes != 0;
    l->opens++;
}

static void life_frames(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct life *l = user;

    (void)conn;
    (void)frames;
    l->wrong |= l->opens != 1 || l->closes != 0 || n == 0;
}

static void life_close(void *user, struct kl_conn *conn, enum kl_status st, const char *why)
{
    struct life *l = user;

    l->wrong |= l->closes != 0;
    l->closes++;
    watch_handler.on_close(l->watch, conn, st, why);
}

/* Connections that come and go under traffic leave nothing behind; each is called back in order:
 * opened at most once, frames only while open, closed once and last. */
TEST(hostile, churn)
{
    enum { N = 400, BODY = 1024 };
    static const struct kl_conn_handler handler = {life_open, life_frames, life_close};
    static uint8_t body[BODY];
    static struct life lives[N];
    struct fixture f;
    uint64_t seed = test_seed();
    unsigned files;

    fixture_init(&f, KL_TLS_SERVER);
    check_still_serves(&f);
    files = test_open_files();
    for (unsigned i = 0; i < N; i++) {
        struct kl_conn_options options = {.handler = &handler, .user = &lives[i]};
        struct kl_conn *conn = NULL;

        lives[i] = (struct life){.watch = &f.client};
        CHECK_OK(kl_conn_dial(f.net, f.client_tls, f.address, &options, &conn));
        for (uint32_t j = 0; j < 32; j++) {
            struct kl_frame frame = {KL_FRAME_REQUEST, 0, 0, j, {body, BODY}};

            (void)!kl_conn_send(conn, &frame);
        }
        (void)usleep((useconds_t)(test_random(&seed) % 4000));
        if (i % 3 == 0) {
            kl_conn_drain(conn);
        }
        if (i % 2 == 0) {
            kl_conn_close(conn);
        } else {
            kl_conn_drain(conn);
        }
        kl_conn_release(conn);
    }
    CHECK(watch_closes(&f.client, N));
    check_still_serves(&f);
    for (int i = 0; i < 200 && test_open_files() > files; i++) {
        (void)usleep(50000);
    }
    CHECK(test_open_files() <= files);
    fixture_done(&f);
    for (unsigned i = 0; i < N; i++) {
        CHECK(!lives[i].wrong);
        CHECK_EQ(lives[i].closes, 1);
    }
}

static void again(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct kl_frame frame = frames[i];

        frame.type = KL_FRAME_REQUEST;
        (void)!kl_conn_send(conn, &frame);
    }
    watch_handler.on_frames(user, conn, frames, n);
}

static void closed(void *user, struct kl_conn *conn, enum kl_status st, const char *why)
{
    watch_handler.on_close(user, conn, st, why);
}

/* Freeing the set in the middle of traffic ends every connection with exactly one on_close. */
TEST(hostile, free_under_load)
{
    enum { N = 8, ROUNDS = 10 };
    static const struct kl_conn_handler handler = {NULL, again, closed};
    static uint8_t body[2000];

    for (int round = 0; round < ROUNDS; round++) {
        struct fixture f;
        struct kl_conn *conns[N];

        fixture_init(&f, KL_TLS_SERVER);
        for (size_t i = 0; i < N; i++) {
            struct kl_conn_options options = {.handler = &handler, .user = &f.client};

            conns[i] = NULL;
            CHECK_OK(kl_conn_dial(f.net, f.client_tls, f.address, &options, &conns[i]));
            for (uint32_t j = 0; j < 16; j++) {
                struct kl_frame frame = {KL_FRAME_REQUEST, 0, 0, j, {body, sizeof body}};

                CHECK_OK(kl_conn_send(conns[i], &frame));
            }
        }
        if (round % 2 == 0) {
            CHECK(watch_frames(&f.client, 500));
        }
        kl_net_free(f.net);
        f.net = NULL;
        CHECK_EQ(f.client.closes, N);
        for (size_t i = 0; i < N; i++) {
            struct kl_frame frame = {.type = KL_FRAME_PING};

            CHECK_STATUS(kl_conn_send(conns[i], &frame), KL_CLOSED);
            kl_conn_close(conns[i]);
            kl_conn_release(conns[i]);
        }
        fixture_done(&f);
    }
}
