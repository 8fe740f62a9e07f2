/* The client listener: real connections on loopback with TLS, in front of the fixture's dispatcher. */
#include "server/crypto/ca.h"
#include "server/rpc/rpc_server.h"
#include "tests/unit/rpc/fixture.h"

#include <time.h>

enum { WAIT_MS = 30000 };
#define TEXT(s) ((char *)(uintptr_t)(s))

/* A client connection that remembers replies by stream. */
struct client {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open, closed;
    unsigned pongs, goaways, replies;
    enum kl_status status[8192]; /* by stream */
    unsigned times[8192];
    struct kl_assembler *assembler;
    size_t largest;
    struct kl_conn *conn;
};

struct site {
    struct fix *f;
    struct kl_net *net;
    struct kl_tls *server_tls, *client_tls;
    struct kl_rpc_server *server;
    char address[32];
};

static void on_open(void *user, struct kl_conn *conn, uint64_t node)
{
    struct client *c = user;

    (void)conn;
    (void)node;
    (void)pthread_mutex_lock(&c->lock);
    c->open = true;
    (void)pthread_cond_broadcast(&c->changed);
    (void)pthread_mutex_unlock(&c->lock);
}

static void take_reply(struct client *c, const struct kl_frame *frame)
{
    struct kl_buf whole = KL_BUF(KL_MESSAGE_MAX);
    Kluis__V1__Reply *r;

    if (kl_assembler_add(c->assembler, frame, &whole) != KL_OK) {
        return;
    }
    r = whole.ptr != NULL ? kluis__v1__reply__unpack(NULL, whole.len, whole.ptr)
                          : kluis__v1__reply__unpack(NULL, frame->body.len, frame->body.ptr);
    if (r != NULL) {
        c->status[frame->stream] = kl_status_from_name(r->status);
        c->times[frame->stream]++;
        c->largest = r->payload.len > c->largest ? r->payload.len : c->largest;
        kluis__v1__reply__free_unpacked(r, NULL);
    }
    c->replies++;
    kl_buf_wipe(&whole);
}

static void on_frames(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct client *c = user;

    (void)conn;
    (void)pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < n; i++) {
        c->pongs += frames[i].type == KL_FRAME_PONG;
        c->goaways += frames[i].type == KL_FRAME_GOAWAY;
        if (frames[i].type == KL_FRAME_REPLY) {
            take_reply(c, &frames[i]);
        }
    }
    (void)pthread_cond_broadcast(&c->changed);
    (void)pthread_mutex_unlock(&c->lock);
}

static void on_close(void *user, struct kl_conn *conn, enum kl_status status, const char *reason)
{
    struct client *c = user;

    (void)conn;
    (void)status;
    (void)reason;
    (void)pthread_mutex_lock(&c->lock);
    c->closed = true;
    (void)pthread_cond_broadcast(&c->changed);
    (void)pthread_mutex_unlock(&c->lock);
}

static const struct kl_conn_handler handler = {on_open, on_frames, on_close};

/* Waits for the condition, or fails the test. */
#define AWAIT(c, condition)                                                                        \
    do {                                                                                           \
        bool held;                                                                                 \
        struct timespec until;                                                                     \
        (void)clock_gettime(CLOCK_REALTIME, &until);                                               \
        until.tv_sec += WAIT_MS / 1000;                                                            \
        (void)pthread_mutex_lock(&(c)->lock);                                                      \
        while (!(condition) && pthread_cond_timedwait(&(c)->changed, &(c)->lock, &until) == 0) {   \
        }                                                                                          \
        held = (condition);                                                                        \
        (void)pthread_mutex_unlock(&(c)->lock);                                                    \
        CHECK(held);                                                                               \
    } while (0)

static void site_open(struct site *s)
{
    const char *dir = test_dir();
    char ca[300], crt[300], key[300];
    char err[300] = "";
    struct kl_tls_files files = {.ca_file = ca, .cert_file = crt, .key_file = key};
    struct kl_tls_files client_files = {.ca_file = ca};

    (void)snprintf(ca, sizeof ca, "%s/ca.crt", dir);
    (void)snprintf(crt, sizeof crt, "%s/server.crt", dir);
    (void)snprintf(key, sizeof key, "%s/server.key", dir);
    CHECK_OK(kl_ca_create(dir, "testing", 2, err, sizeof err));
    CHECK_OK(kl_ca_issue(dir, "server", "testing", 0, "127.0.0.1", 2, err, sizeof err));
    s->f = fix_new(1);
    make_vault(s->f, "vault", false);
    CHECK_OK(kl_net_new(&s->net));
    CHECK_OK(kl_tls_new(KL_TLS_SERVER, &files, &s->server_tls, err, sizeof err));
    CHECK_OK(kl_tls_new(KL_TLS_CLIENT, &client_files, &s->client_tls, err, sizeof err));
    CHECK_OK(kl_rpc_server_new(s->net, s->server_tls, "127.0.0.1:0", s->f->nodes[0].dispatch,
                               &s->server, err, sizeof err));
    (void)snprintf(s->address, sizeof s->address, "127.0.0.1:%u",
                   (unsigned)kl_rpc_server_port(s->server));
}

static void site_close(struct site *s)
{
    if (s->server != NULL) {
        kl_rpc_server_free(s->server);
    }
    kl_net_free(s->net);
    fix_free(s->f);
    kl_tls_free(s->server_tls);
    kl_tls_free(s->client_tls);
}

static struct client *connect_client(struct site *s)
{
    struct client *c = calloc(1, sizeof *c);
    const struct kl_conn_options o = {
        .handler = &handler, .user = c, .expect_host = "127.0.0.1", .out_max = KL_CONN_OUT_MAX};

    CHECK(c != NULL);
    (void)pthread_mutex_init(&c->lock, NULL);
    (void)pthread_cond_init(&c->changed, NULL);
    CHECK_OK(kl_assembler_new(KL_MESSAGE_MAX, 64, &c->assembler));
    CHECK_OK(kl_conn_dial(s->net, s->client_tls, s->address, &o, &c->conn));
    AWAIT(c, c->open || c->closed);
    CHECK(c->open);
    return c;
}

static void drop_client(struct client *c)
{
    kl_conn_close(c->conn);
    AWAIT(c, c->closed);
    kl_conn_release(c->conn);
    kl_assembler_free(c->assembler);
    (void)pthread_cond_destroy(&c->changed);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

static void send_frame(struct client *c, enum kl_frame_type type, uint32_t stream,
                       struct kl_bytes body)
{
    const struct kl_frame frame = {.type = type, .stream = stream, .body = body};
    enum kl_status st = kl_conn_send(c->conn, &frame);

    CHECK(st == KL_OK || st == KL_CLOSED);
}

static void send_ask(struct site *s, struct client *c, uint32_t stream, const struct ask *ask)
{
    struct kl_buf packed = fix_pack(s->f, ask);

    send_frame(c, KL_FRAME_REQUEST, stream, kl_buf_bytes(&packed));
    kl_buf_wipe(&packed);
}

static Kluis__V1__SecretSetRequest set_request(void)
{
    Kluis__V1__SecretSetRequest req = KLUIS__V1__SECRET_SET_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT("s");
    req.value = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "new"};
    return req;
}

/* Many calls on one connection, in any order of answers, each answered once. */
TEST(server, many_calls)
{
    enum { N = 600 };
    struct site s = {0};
    struct client *c;
    Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    const struct ask ask = {.method = "/kluis.v1.Secrets/Get", .request = &get.base};
    unsigned served = 0;

    site_open(&s);
    set_secret(s.f, "vault", "s", "value", NULL);
    get.vault = TEXT("vault");
    get.name = TEXT("s");
    c = connect_client(&s);
    for (uint32_t i = 0; i < N; i++) {
        send_ask(&s, c, i, &ask);
    }
    AWAIT(c, c->replies == N);
    for (uint32_t i = 0; i < N; i++) {
        CHECK_EQ(c->times[i], 1);
        CHECK(c->status[i] == KL_OK || c->status[i] == KL_EXHAUSTED);
        served += c->status[i] == KL_OK;
    }
    CHECK(served > 0);
    drop_client(c);
    site_close(&s);
}

/* PING is answered; a cancelled call is not. */
TEST(server, ping_and_cancel)
{
    struct site s = {0};
    struct client *c;
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask ask = {.method = "/kluis.v1.Secrets/Set", .request = &set.base};

    site_open(&s);
    c = connect_client(&s);
    fake_store_hold(s.f->stores[1], true);
    send_ask(&s, c, 1, &ask);
    send_ask(&s, c, 2, &ask);
    send_frame(c, KL_FRAME_CANCEL, 1, kl_bytes_of(NULL, 0));
    send_frame(c, KL_FRAME_CANCEL, 77, kl_bytes_of(NULL, 0));
    send_frame(c, KL_FRAME_PING, 5, kl_bytes_of(NULL, 0));
    AWAIT(c, c->pongs == 1);
    fake_store_hold(s.f->stores[1], false);
    AWAIT(c, c->times[2] == 1);
    send_ask(&s, c, 1, &ask); /* the stream is free again */
    AWAIT(c, c->times[1] == 1);
    CHECK_EQ(c->replies, 2);
    CHECK_EQ(c->status[1], KL_OK);
    drop_client(c);
    site_close(&s);
}

/* A stream id that is under way, or a frame only servers send, ends the connection. */
TEST(server, protocol_errors)
{
    struct site s = {0};
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask ask = {.method = "/kluis.v1.Secrets/Set", .request = &set.base};
    static const enum kl_frame_type types[] = {KL_FRAME_REPLY, KL_FRAME_PEER, KL_FRAME_GOAWAY};
    struct client *c;

    site_open(&s);
    fake_store_hold(s.f->stores[1], true);
    c = connect_client(&s);
    send_ask(&s, c, 1, &ask);
    send_ask(&s, c, 1, &ask);
    AWAIT(c, c->closed);
    drop_client(c);
    fake_store_hold(s.f->stores[1], false); /* its answer has nowhere to go */
    for (size_t i = 0; i < 3; i++) {
        c = connect_client(&s);
        send_frame(c, types[i], 1, kl_bytes_of(NULL, 0));
        AWAIT(c, c->closed);
        drop_client(c);
    }
    c = connect_client(&s); /* others are served */
    send_ask(&s, c, 1, &ask);
    AWAIT(c, c->times[1] == 1);
    drop_client(c);
    site_close(&s);
}

/* Garbage in place of a call is answered, and the connection lives on. */
TEST(server, garbage)
{
    struct site s = {0};
    struct client *c;

    site_open(&s);
    c = connect_client(&s);
    send_frame(c, KL_FRAME_REQUEST, 1, kl_bytes_str("\xff\xff\xff garbage"));
    AWAIT(c, c->times[1] == 1);
    CHECK_EQ(c->status[1], KL_PROTOCOL);
    send_frame(c, KL_FRAME_PING, 5, kl_bytes_of(NULL, 0));
    AWAIT(c, c->pongs == 1);
    drop_client(c);
    site_close(&s);
}

/* Beyond KL_CALLS_PER_CONN_MAX calls under way the connection is told to wait. */
TEST(server, calls_per_connection)
{
    struct site s = {0};
    struct client *c;
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask ask = {.method = "/kluis.v1.Secrets/Set", .request = &set.base};
    unsigned refused = 0;

    site_open(&s);
    c = connect_client(&s);
    fake_store_hold(s.f->stores[1], true);
    for (uint32_t i = 0; i < FIX_CALLS_MAX + 10; i++) {
        send_ask(&s, c, i, &ask);
    }
    AWAIT(c, c->replies == 10); /* the node's cap is lower here */
    for (uint32_t i = 0; i < FIX_CALLS_MAX + 10; i++) {
        refused += c->times[i] == 1 && c->status[i] == KL_EXHAUSTED;
    }
    CHECK_EQ(refused, 10);
    fake_store_hold(s.f->stores[1], false);
    AWAIT(c, c->replies == FIX_CALLS_MAX + 10);
    drop_client(c);
    site_close(&s);
}

/* A large blob travels both ways in many frames. */
TEST(server, large_messages)
{
    enum { N = 90 };
    struct site s = {0};
    struct client *c;
    static char big[KL_SECRET_VALUE_MAX + 1];
    Kluis__V1__SecretBackupRequest backup = KLUIS__V1__SECRET_BACKUP_REQUEST__INIT;
    Kluis__V1__SecretRestoreRequest restore = KLUIS__V1__SECRET_RESTORE_REQUEST__INIT;
    struct ask ask = {.method = "/kluis.v1.Secrets/Backup", .request = &backup.base};
    struct answer a;

    site_open(&s);
    make_vault(s.f, "into", false);
    memset(big, 'x', KL_SECRET_VALUE_MAX);
    for (int i = 0; i < N; i++) {
        set_secret(s.f, "vault", "big", big, NULL);
    }
    backup.vault = TEXT("vault");
    backup.name = TEXT("big");
    c = connect_client(&s);
    send_ask(&s, c, 1, &ask);
    AWAIT(c, c->times[1] == 1);
    CHECK_EQ(c->status[1], KL_OK);
    CHECK(c->largest > N * KL_SECRET_VALUE_MAX);
    a = fix_ask(s.f, &ask);
    restore.vault = TEXT("into");
    restore.blob = ((Kluis__V1__SecretBackupResponse *)a.response)->blob;
    ask = (struct ask){.method = "/kluis.v1.Secrets/Restore", .request = &restore.base};
    send_ask(&s, c, 2, &ask);
    AWAIT(c, c->times[2] == 1);
    CHECK_EQ(c->status[2], KL_OK);
    answer_free(&a);
    drop_client(c);
    site_close(&s);
}

/* A connection that goes away in the middle of its calls harms nothing. */
TEST(server, gone_in_the_middle)
{
    struct site s = {0};
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask ask = {.method = "/kluis.v1.Secrets/Set", .request = &set.base};

    site_open(&s);
    for (int round = 0; round < 5; round++) {
        struct client *c = connect_client(&s);

        fake_store_hold(s.f->stores[1], true);
        for (uint32_t i = 0; i < 10; i++) {
            send_ask(&s, c, i, &ask);
        }
        while (fake_store_waiting(s.f->stores[1]) < 10) {
            const struct timespec t = {0, 1000000};

            (void)nanosleep(&t, NULL);
        }
        drop_client(c);
        fake_store_hold(s.f->stores[1], false);
    }
    site_close(&s);
}

/* Draining tells every client; calls under way are answered; nobody new gets in. */
TEST(server, drain)
{
    struct site s = {0};
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask ask = {.method = "/kluis.v1.Secrets/Set", .request = &set.base};
    struct client *c;

    site_open(&s);
    c = connect_client(&s);
    fake_store_hold(s.f->stores[1], true);
    send_ask(&s, c, 1, &ask);
    while (fake_store_waiting(s.f->stores[1]) == 0) {
        const struct timespec t = {0, 1000000};

        (void)nanosleep(&t, NULL);
    }
    kl_rpc_server_drain(s.server);
    AWAIT(c, c->goaways == 1);
    fake_store_hold(s.f->stores[1], false);
    AWAIT(c, c->times[1] == 1);
    CHECK_EQ(c->status[1], KL_OK);
    kl_dispatch_drain(s.f->nodes[0].dispatch, 5000);
    kl_rpc_server_free(s.server);
    s.server = NULL;
    AWAIT(c, c->closed);
    drop_client(c);
    site_close(&s);
}
