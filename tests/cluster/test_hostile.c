/* Clients and nodes that mean no good, or whose certificates are no good. */
#include "common/frame.h"
#include "common/limits.h"
#include "server/crypto/ca.h"
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer.pb-c.h"

enum {
    VAULT_GROUP = 1,
    CALL_MS = 20000,
    WAIT_MS = 30000,
    PATH_LEN = 1024,
    RSS_GROWTH_MAX_KIB = 128 << 10, /* KL_CONN_OUT_MAX, and as much again for the allocator */
    GARBAGE_ROUNDS = 300,
    UNREAD_CALLS = 4000,
    VALUE_LEN = 25000,
};

/* ---- a client of our own, which does what no library would ---- */

struct raw {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
};

static void raw_close(struct raw *r)
{
    SSL_free(r->ssl);
    SSL_CTX_free(r->ctx);
    if (r->fd >= 0) {
        (void)close(r->fd);
    }
    *r = (struct raw){.fd = -1};
}

/* Connects with TLS; cert: name of a certificate of the cluster's directory, or NULL. */
static bool raw_open(struct raw *r, const struct cluster *c, const char *address, const char *cert)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    struct timeval patience = {.tv_sec = 10};
    char path[PATH_LEN];

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10));
    r->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    r->ctx = SSL_CTX_new(TLS_client_method());
    assert_true(r->fd >= 0);
    assert_non_null(r->ctx);
    CHECK_EQ(SSL_CTX_load_verify_file(r->ctx, cluster_ca(c)), 1);
    if (cert != NULL) {
        (void)snprintf(path, sizeof path, "%s/%s.crt", cluster_dir(c), cert);
        CHECK_EQ(SSL_CTX_use_certificate_chain_file(r->ctx, path), 1);
        (void)snprintf(path, sizeof path, "%s/%s.key", cluster_dir(c), cert);
        CHECK_EQ(SSL_CTX_use_PrivateKey_file(r->ctx, path, SSL_FILETYPE_PEM), 1);
    }
    (void)setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    (void)setsockopt(r->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    CHECK_EQ(connect(r->fd, (struct sockaddr *)&a, sizeof a), 0);
    r->ssl = SSL_new(r->ctx);
    assert_non_null(r->ssl);
    CHECK_EQ(SSL_set_fd(r->ssl, r->fd), 1);
    return SSL_connect(r->ssl) == 1;
}

static bool raw_write(struct raw *r, const void *p, size_t len)
{
    return len == 0 || SSL_write(r->ssl, p, (int)len) == (int)len;
}

static bool raw_frame(struct raw *r, const struct kl_frame *frame)
{
    uint8_t head[KL_FRAME_HEAD];

    kl_frame_head(frame, head);
    return raw_write(r, head, sizeof head) && raw_write(r, frame->body.ptr, frame->body.len);
}

static bool raw_read(struct raw *r, void *p, size_t len)
{
    size_t got = 0;

    while (got < len) {
        int n = SSL_read(r->ssl, (uint8_t *)p + got, (int)(len - got));

        if (n <= 0) {
            return false;
        }
        got += (size_t)n;
    }
    return true;
}

/* One REPLY, unpacked; NULL when the connection ended instead. Free it. */
static Kluis__V1__Reply *raw_reply(struct raw *r)
{
    static uint8_t body[KL_FRAME_BODY_MAX];
    uint8_t head[KL_FRAME_HEAD];
    size_t len;

    if (!raw_read(r, head, sizeof head)) {
        return NULL;
    }
    len = (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
    assert_true(len <= sizeof body);
    CHECK_EQ(head[4], KL_FRAME_REPLY);
    return raw_read(r, body, len) ? kluis__v1__reply__unpack(NULL, len, body) : NULL;
}

/* Did the other side end the connection, not our patience? */
static bool raw_ended(struct raw *r)
{
    char c[4096];
    int n;

    do {
        n = SSL_read(r->ssl, c, sizeof c);
    } while (n > 0);
    return errno != EAGAIN && errno != EWOULDBLOCK;
}

/* ---- the cluster ---- */

struct fixture {
    struct cluster *cluster;
    struct kluis_client *client;
};

static void setup(struct fixture *f, unsigned nodes)
{
    struct kluis_vault *v = NULL;

    (void)signal(SIGPIPE, SIG_IGN);
    f->cluster = cluster_new(&(struct cluster_options){.nodes = nodes});
    f->client = cluster_client(f->cluster);
    CHECK_EQ(kluis_vault_create(f->client, "hostile", NULL, CALL_MS, &v), KLUIS_OK);
    kluis_vault_free(v);
}

static void teardown(struct fixture *f)
{
    kluis_close(f->client);
    cluster_free(f->cluster);
}

static enum kluis_status set(struct kluis_client *client, const char *name, const void *value,
                             size_t len)
{
    return kluis_secret_set(client, "hostile", name, value, len, NULL, CALL_MS, NULL);
}

/* Everybody else is served within a call's deadline. */
static void check_served(struct fixture *f)
{
    struct kluis_secret *s = NULL;

    CHECK_EQ(set(f->client, "served", "x", 1), KLUIS_OK);
    CHECK_EQ(kluis_secret_get(f->client, "hostile", "served", NULL, CALL_MS, &s), KLUIS_OK);
    kluis_secret_free(s);
    CHECK(cluster_running(f->cluster, 0));
}

static void check_memory(struct fixture *f, unsigned long before_kib)
{
    CHECK(cluster_sanitized(f->cluster, 0) ||
          cluster_rss_kib(f->cluster, 0) < before_kib + RSS_GROWTH_MAX_KIB);
}

/* A frame that announces a gigabyte ends the connection before anything is allocated for it. */
TEST(hostile, frame_of_one_gigabyte)
{
    static const uint8_t head[KL_FRAME_HEAD] = {0x40, 0, 0, 0, KL_FRAME_REQUEST, 0, 0, 0,
                                                0,    0, 0, 1};
    struct fixture f;
    unsigned long before;

    setup(&f, 1);
    check_served(&f);
    before = cluster_rss_kib(f.cluster, 0);
    for (int i = 0; i < 50; i++) {
        struct raw r;

        CHECK(raw_open(&r, f.cluster, cluster_endpoint(f.cluster, 0), NULL));
        CHECK(raw_write(&r, head, sizeof head));
        CHECK(raw_ended(&r));
        raw_close(&r);
    }
    check_memory(&f, before);
    check_served(&f);
    teardown(&f);
}

/* A message that never ends, in frames of the right size, is cut off at the limit for a request. */
TEST(hostile, message_without_end)
{
    static uint8_t body[KL_FRAME_BODY_MAX];
    const struct kl_frame frame = {
        .type = KL_FRAME_REQUEST, .flags = KL_FRAME_MORE, .stream = 1, .body = {body, sizeof body}};
    struct fixture f;
    struct raw r;
    int sent = 0;

    setup(&f, 1);
    CHECK(raw_open(&r, f.cluster, cluster_endpoint(f.cluster, 0), NULL));
    while (sent < 1000 && raw_frame(&r, &frame)) {
        sent++;
    }
    CHECK(sent < 200);
    raw_close(&r);
    check_served(&f);
    teardown(&f);
}

/* Bytes that are no call get an error as their answer, or the end of the connection, never more. */
TEST(hostile, garbage_calls)
{
    uint64_t random = test_seed() | 1u;
    unsigned answered = 0;
    struct fixture f;

    setup(&f, 1);
    for (int i = 0; i < GARBAGE_ROUNDS; i++) {
        uint8_t body[512];
        struct kl_frame frame = {.type = KL_FRAME_REQUEST, .stream = 7};
        Kluis__V1__Reply *reply;
        struct raw r;

        for (size_t k = 0; k < sizeof body; k++) {
            body[k] = (uint8_t)test_random(&random);
        }
        frame.body = kl_bytes_of(body, test_random(&random) % sizeof body);
        CHECK(raw_open(&r, f.cluster, cluster_endpoint(f.cluster, 0), NULL));
        CHECK(raw_frame(&r, &frame));
        reply = raw_reply(&r);
        if (reply != NULL) {
            CHECK_NE(reply->code, 0);
            CHECK_EQ(reply->payload.len, 0);
            answered++;
            kluis__v1__reply__free_unpacked(reply, NULL);
        }
        raw_close(&r);
    }
    CHECK(answered != 0);
    check_served(&f);
    teardown(&f);
}

/* Kinds of frames that a client may not send end its connection. */
TEST(hostile, frames_of_nodes)
{
    static const int types[] = {KL_FRAME_PEER, KL_FRAME_REPLY, 0, 8, 255};
    struct fixture f;

    setup(&f, 1);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        uint8_t head[KL_FRAME_HEAD] = {0};
        struct raw r;

        head[3] = 4;
        head[4] = (uint8_t)types[i];
        CHECK(raw_open(&r, f.cluster, cluster_endpoint(f.cluster, 0), NULL));
        CHECK(raw_write(&r, head, sizeof head) && raw_write(&r, "abcd", 4));
        CHECK(raw_ended(&r));
        raw_close(&r);
    }
    check_served(&f);
    teardown(&f);
}

static size_t pack_get(const struct cluster *c, uint8_t *out)
{
    Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    Kluis__V1__Metadata token = KLUIS__V1__METADATA__INIT;
    Kluis__V1__Metadata *metadata[] = {&token};
    Kluis__V1__Call call = KLUIS__V1__CALL__INIT;
    static char bearer[256];
    static char key[] = "authorization";
    static char vault[] = "hostile";
    static char name[] = "large";
    static char method[] = "/kluis.v1.Secrets/Get";
    uint8_t payload[256];

    (void)snprintf(bearer, sizeof bearer, "Bearer %s", cluster_token(c));
    get.vault = vault;
    get.name = name;
    call.payload =
        (ProtobufCBinaryData){kluis__v1__secret_get_request__pack(&get, payload), payload};
    token.key = key;
    token.value = bearer;
    call.metadata = metadata;
    call.n_metadata = 1;
    call.method = method;
    return kluis__v1__call__pack(&call, out);
}

/* A client asks for a hundred megabytes and reads nothing: the node keeps only so much for it, and
 * everybody else is served. */
TEST(hostile, client_that_never_reads)
{
    char value[VALUE_LEN];
    uint8_t call[1024];
    struct kl_frame frame = {.type = KL_FRAME_REQUEST};
    Kluis__V1__Reply *reply;
    struct fixture f;
    unsigned long before;
    struct raw r;

    setup(&f, 1);
    memset(value, 'l', sizeof value);
    CHECK_EQ(set(f.client, "large", value, sizeof value), KLUIS_OK);
    frame.body = kl_bytes_of(call, pack_get(f.cluster, call));
    CHECK(raw_open(&r, f.cluster, cluster_endpoint(f.cluster, 0), NULL));
    frame.stream = 1;
    CHECK(raw_frame(&r, &frame));
    reply = raw_reply(&r); /* it is a call that is answered with the value */
    assert_non_null(reply);
    CHECK_EQ(reply->code, 0);
    CHECK(reply->payload.len > VALUE_LEN);
    kluis__v1__reply__free_unpacked(reply, NULL);

    before = cluster_rss_kib(f.cluster, 0);
    for (uint32_t i = 0; i < UNREAD_CALLS; i++) {
        frame.stream = i + 2;
        if (!raw_frame(&r, &frame)) {
            break; /* it has stopped reading from us: as it should */
        }
    }
    for (int i = 0; i < 10; i++) {
        check_served(&f);
    }
    check_memory(&f, before);
    raw_close(&r);
    check_served(&f);
    teardown(&f);
}

/* The peers' port takes only nodes of this cluster, and of them only greetings first. */
TEST(hostile, peer_port)
{
    uint64_t random = test_seed() | 1u;
    struct fixture f;
    struct raw r;

    setup(&f, 1);
    if (raw_open(&r, f.cluster, cluster_peer_address(f.cluster, 0), NULL)) {
        CHECK(raw_ended(&r)); /* TLS 1.3: the client has its handshake before the server refuses */
    }
    raw_close(&r);
    for (int i = 0; i < 50; i++) {
        uint8_t body[256];
        const struct kl_frame frame = {.type = i % 2 == 0 ? KL_FRAME_PEER : KL_FRAME_REQUEST,
                                       .stream = 1,
                                       .body = {body, sizeof body}};

        for (size_t k = 0; k < sizeof body; k++) {
            body[k] = (uint8_t)test_random(&random);
        }
        CHECK(raw_open(&r, f.cluster, cluster_peer_address(f.cluster, 0), "n1"));
        CHECK(raw_frame(&r, &frame));
        CHECK(raw_ended(&r));
        raw_close(&r);
    }
    check_served(&f);
    teardown(&f);
}

/* ---- certificates ---- */

static void issue(const struct cluster *c, unsigned id, int days)
{
    char err[512] = "";
    char name[16];

    (void)snprintf(name, sizeof name, "n%u", id);
    CHECK_EQ(
        kl_ca_issue(cluster_dir(c), name, "test", id, "127.0.0.1,localhost", days, err, sizeof err),
        KL_OK);
}

/* A client refuses a node whose certificate has expired, and says so; SIGHUP brings the new one into
 * use without a restart. */
TEST(hostile, expired_server_certificate)
{
    struct fixture f;
    struct kluis_client *client;

    setup(&f, 1);
    issue(f.cluster, 1, -1);
    cluster_signal(f.cluster, 0, SIGHUP);
    CHECK(cluster_log_wait(f.cluster, 0, "configuration read again", WAIT_MS));
    CHECK_EQ(set(f.client, "connected", "x", 1), KLUIS_OK); /* connections that exist live on */
    client = cluster_client(f.cluster);
    CHECK_NE(kluis_secret_set(client, "hostile", "x", "x", 1, NULL, 1500, NULL), KLUIS_OK);
    CHECK(strstr(kluis_last_error(), "expired") != NULL);
    kluis_close(client);

    issue(f.cluster, 1, 30);
    CHECK_EQ(truncate(cluster_log(f.cluster, 0), 0), 0);
    cluster_signal(f.cluster, 0, SIGHUP);
    CHECK(cluster_log_wait(f.cluster, 0, "configuration read again", WAIT_MS));
    client = cluster_client(f.cluster);
    CHECK_EQ(set(client, "x", "x", 1), KLUIS_OK);
    kluis_close(client);
    teardown(&f);
}

/* Nodes refuse one whose certificate has expired; with a new one and SIGHUP it is back. */
TEST(hostile, expired_node_certificate)
{
    struct fixture f;

    setup(&f, 3);
    cluster_kill(f.cluster, 2);
    issue(f.cluster, 3, -1);
    CHECK_EQ(truncate(cluster_log(f.cluster, 2), 0), 0);
    cluster_start(f.cluster, 2);
    CHECK(cluster_log_wait(f.cluster, 0, "certificate has expired", WAIT_MS));
    CHECK_EQ(set(f.client, "two", "x", 1), KLUIS_OK);
    CHECK(!cluster_log_has(f.cluster, 2, "peer connected"));

    issue(f.cluster, 3, 30);
    cluster_signal(f.cluster, 2, SIGHUP);
    CHECK(cluster_log_wait(f.cluster, 2, "peer connected node=1", WAIT_MS));
    CHECK(cluster_digests_agree(f.cluster, f.client, VAULT_GROUP, WAIT_MS));
    teardown(&f);
}

/* A node of the right name and id from another CA is no node of this cluster. */
TEST(hostile, node_of_another_ca)
{
    char command[2 * PATH_LEN];
    struct cluster *other;
    struct fixture f;

    setup(&f, 3);
    other = cluster_new(&(struct cluster_options){.nodes = 3});
    cluster_kill(f.cluster, 2);
    (void)snprintf(command, sizeof command, "cp '%s'/n3.crt '%s'/n3.key '%s'", cluster_dir(other),
                   cluster_dir(other), cluster_dir(f.cluster));
    CHECK_EQ(system(command), 0);
    CHECK_EQ(truncate(cluster_log(f.cluster, 2), 0), 0);
    cluster_start(f.cluster, 2);
    CHECK(cluster_log_wait(f.cluster, 0, "certificate signature failure", WAIT_MS) ||
          cluster_log_has(f.cluster, 0, "unable to get local issuer certificate"));
    CHECK_EQ(set(f.client, "two", "x", 1), KLUIS_OK);
    CHECK(!cluster_log_has(f.cluster, 2, "peer connected"));
    cluster_free(other);
    teardown(&f);
}

/* ---- reload ---- */

static void append(const char *path, const char *text)
{
    FILE *f = fopen(path, "a");

    assert_non_null(f);
    CHECK(fputs(text, f) >= 0);
    CHECK_EQ(fclose(f), 0);
}

/* SIGHUP: a principal that was added may do what it may do and no more; a configuration that is wrong
 * changes nothing and is said to be. */
TEST(hostile, reload_of_principals)
{
    /* SHA-256 of the token "reader". */
    static const char reader[] =
        "[principal reader]\n"
        "token_sha256 = 3d0941964aa3ebdcb00ccef58b1bb399f9f898465e9886d5aec7f31090a0fb30\n"
        "rights = secrets/get\n";
    struct kluis_secret *s = NULL;
    struct kluis_client *client = NULL;
    struct kluis_options o;
    const char *endpoint;
    struct fixture f;

    setup(&f, 1);
    CHECK_EQ(set(f.client, "old", "x", 1), KLUIS_OK);
    endpoint = cluster_endpoint(f.cluster, 0);
    o = (struct kluis_options){.endpoints = &endpoint,
                               .endpoints_n = 1,
                               .ca_file = cluster_ca(f.cluster),
                               .token = "reader"};
    CHECK_EQ(kluis_open(&o, &client, NULL, 0), KLUIS_OK);
    CHECK_EQ(set(client, "new", "x", 1), KLUIS_UNAUTHENTICATED);

    append(cluster_config(f.cluster, 0), reader);
    cluster_signal(f.cluster, 0, SIGHUP);
    CHECK(cluster_log_wait(f.cluster, 0, "configuration read again", WAIT_MS));
    CHECK_EQ(kluis_secret_get(client, "hostile", "old", NULL, CALL_MS, &s), KLUIS_OK);
    kluis_secret_free(s);
    CHECK_EQ(set(client, "new", "x", 1), KLUIS_FORBIDDEN);

    append(cluster_config(f.cluster, 0), "nonsense = 1\n");
    cluster_signal(f.cluster, 0, SIGHUP);
    CHECK(cluster_log_wait(f.cluster, 0, "reload refused, nothing has changed", WAIT_MS));
    CHECK_EQ(kluis_secret_get(client, "hostile", "old", NULL, CALL_MS, &s), KLUIS_OK);
    kluis_secret_free(s);
    kluis_close(client);
    teardown(&f);
}
