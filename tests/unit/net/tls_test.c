/* Who is let in, and who is believed to be whom. */
#include "tests/unit/net/net_fixture.h"

#include "common/alloc.h"

#include <unistd.h>

struct scene {
    enum kl_tls_role server_role, client_role;
    struct kl_tls_files server, client;
    const char *expect_host;
    uint64_t expect_node;
};

struct outcome {
    bool opened; /* on the client's side */
    bool served; /* on the server's */
    uint64_t client_saw, server_saw;
    enum kl_status status; /* of the client's on_close */
    char reason[160];
};

static struct kl_tls *tls(enum kl_tls_role role, const struct kl_tls_files *files)
{
    struct kl_tls *t = NULL;
    char err[256] = "";

    if (kl_tls_new(role, files, &t, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    return t;
}

/* Dials and sends one request: either it is answered or the connection closes. */
static struct outcome play(const struct scene *s)
{
    struct outcome o = {0};
    struct kl_net *net = NULL;
    struct kl_listener *listener = NULL;
    struct kl_tls *server_tls = tls(s->server_role, &s->server);
    struct kl_tls *client_tls = tls(s->client_role, &s->client);
    struct watch server;
    struct watch client;
    struct kl_listener_options listen = {0};
    struct kl_conn_options dial;
    struct kl_conn *conn = NULL;
    struct kl_frame frame = {KL_FRAME_REQUEST, 0, 0, 1, {NULL, 0}};
    char address[64];
    char err[256];

    watch_init(&server, WATCH_ECHO);
    watch_init(&client, WATCH_COUNT);
    CHECK_OK(kl_net_new(&net));
    listen.conn = fixture_options(&server);
    CHECK_OK(kl_listener_new(net, server_tls, "127.0.0.1:0", &listen, &listener, err, sizeof err));
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)kl_listener_port(listener));
    dial = fixture_options(&client);
    dial.expect_host = s->expect_host;
    dial.expect_node = s->expect_node;
    CHECK_OK(kl_conn_dial(net, client_tls, address, &dial, &conn));
    (void)!kl_conn_send(conn, &frame); /* it may be closed already */
    for (int i = 0; i < 600; i++) {
        bool over;

        (void)pthread_mutex_lock(&client.lock);
        over = client.frames != 0 || client.closes != 0;
        (void)pthread_mutex_unlock(&client.lock);
        if (over) {
            break;
        }
        (void)usleep(10000);
    }
    o.served = client.frames != 0;
    o.status = KL_OK;
    if (!o.served) {
        CHECK(watch_closes(&client, 1));
        o.status = client.status;
        (void)snprintf(o.reason, sizeof o.reason, "%s", client.reason);
    }
    kl_conn_release(conn);
    kl_net_free(net);
    o.opened = client.opens != 0;
    o.client_saw = client.node;
    o.server_saw = server.node;
    watch_done(&server);
    watch_done(&client);
    kl_tls_free(server_tls);
    kl_tls_free(client_tls);
    return o;
}

static struct scene peers(const char *server, const char *client)
{
    return (struct scene){.server_role = KL_TLS_PEER,
                          .client_role = KL_TLS_PEER,
                          .server = fixture_files(server),
                          .client = fixture_files(client)};
}

/* Two nodes of the cluster believe each other. */
TEST(tls, nodes)
{
    struct scene s = peers(CERT_NODE2, CERT_NODE1);
    struct outcome o;

    s.expect_node = 2;
    s.expect_host = "127.0.0.1";
    o = play(&s);
    CHECK(o.served);
    CHECK_EQ(o.client_saw, 2);
    CHECK_EQ(o.server_saw, 1);
}

/* Another CA's node does not believe us, and we do not believe it. */
TEST(tls, other_ca)
{
    struct scene s = peers(CERT_NODE2, CERT_ALIEN);
    struct outcome o = play(&s);

    CHECK(!o.served);
    CHECK(!o.opened);
    CHECK_EQ(o.status, KL_UNAUTHENTICATED);
    CHECK_EQ(o.server_saw, 0);

    s.client.ca_file = fixture_files(CERT_NODE1).ca_file; /* now it trusts us, not we it */
    o = play(&s);
    CHECK(!o.served);
    CHECK_EQ(o.status, KL_UNAUTHENTICATED);
    CHECK(strstr(o.reason, "unknown ca") != NULL);
    CHECK_EQ(o.server_saw, 0);
}

/* A client without a certificate gets nothing from a listener for nodes. */
TEST(tls, no_certificate)
{
    struct scene s = peers(CERT_NODE2, CERT_NODE1);
    struct outcome o;

    s.client_role = KL_TLS_CLIENT;
    s.client.cert_file = s.client.key_file = NULL;
    o = play(&s);
    CHECK(!o.served);
    CHECK_EQ(o.status, KL_UNAUTHENTICATED);
}

TEST(tls, expired)
{
    struct scene s = peers(CERT_EXPIRED, CERT_NODE2);
    struct outcome o = play(&s);

    CHECK(!o.opened);
    CHECK_EQ(o.status, KL_UNAUTHENTICATED);
    CHECK(strstr(o.reason, "expired") != NULL);

    s = peers(CERT_NODE2, CERT_EXPIRED);
    o = play(&s);
    CHECK(!o.served);
    CHECK_EQ(o.status, KL_UNAUTHENTICATED);
}

/* A right certificate of the wrong node is not taken for the node that was dialled. */
TEST(tls, wrong_node)
{
    struct scene s = peers(CERT_NODE2, CERT_NODE1);
    struct outcome o;

    s.expect_node = 3;
    o = play(&s);
    CHECK(!o.opened);
    CHECK(!o.served);
    CHECK_EQ(o.status, KL_UNAUTHENTICATED);
    CHECK_STR(o.reason, "the certificate is of another node");
}

/* A node id counts only with the cluster's name, even when the CA is the same. */
TEST(tls, other_cluster)
{
    struct scene s = peers(CERT_FOREIGN, CERT_FOREIGN);
    struct outcome o = play(&s);

    CHECK(o.served);
    CHECK_EQ(o.client_saw, 0);
    CHECK_EQ(o.server_saw, 0);
    s.expect_node = 1;
    o = play(&s);
    CHECK(!o.opened);
    CHECK_EQ(o.status, KL_UNAUTHENTICATED);
}

/* A client checks the name or address it was told to expect. */
TEST(tls, host)
{
    static const struct {
        const char *host;
        bool ok;
    } cases[] = {{"localhost", true}, {"LOCALHOST", true},   {"127.0.0.1", true},
                 {"::1", true},       {"127.0.0.2", false},  {"example.com", false},
                 {"localhos", false}, {"a.localhost", false}};
    struct scene s = {.server_role = KL_TLS_SERVER,
                      .client_role = KL_TLS_CLIENT,
                      .server = fixture_files(CERT_SERVER),
                      .client = fixture_files(NULL)};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct outcome o;

        s.expect_host = cases[i].host;
        o = play(&s);
        CHECK_EQ(o.served, cases[i].ok);
        CHECK_EQ(o.status, cases[i].ok ? KL_OK : KL_UNAUTHENTICATED);
    }
}

/* A certificate that is replaced is shown to new connections; old ones go on. A faulty replacement
 * changes nothing. */
TEST(tls, reload)
{
    struct fixture f;
    struct kl_tls_files files = fixture_files(CERT_NODE3);
    struct kl_conn *old;
    struct kl_conn *conn;
    struct kl_frame frame = {KL_FRAME_REQUEST, 0, 0, 1, {NULL, 0}};
    char err[256] = "";

    fixture_init(&f, KL_TLS_PEER);
    old = fixture_dial(&f);
    CHECK(watch_opens(&f.client, 1));
    CHECK_EQ(f.client.node, 2);
    CHECK_OK(kl_tls_reload(f.server_tls, &files, err, sizeof err));
    conn = fixture_dial(&f);
    CHECK(watch_opens(&f.client, 2));
    CHECK_EQ(f.client.node, 3);
    kl_conn_release(conn);
    files.key_file = fixture_files(CERT_NODE1).key_file;
    CHECK_STATUS(kl_tls_reload(f.server_tls, &files, err, sizeof err), KL_CRYPTO);
    conn = fixture_dial(&f);
    CHECK(watch_opens(&f.client, 3));
    CHECK_EQ(f.client.node, 3);
    CHECK_OK(kl_conn_send(old, &frame));
    CHECK(watch_frames(&f.client, 1));
    kl_conn_release(conn);
    kl_conn_release(old);
    fixture_done(&f);
}

/* Faulty files are refused with a text that names them. */
TEST(tls, bad_files)
{
    struct kl_tls_files good = fixture_files(CERT_NODE1);
    struct kl_tls_files files = good;
    struct kl_tls *t = NULL;
    char err[512] = "";

    files.ca_file = "/does/not/exist.crt";
    CHECK_STATUS(kl_tls_new(KL_TLS_PEER, &files, &t, err, sizeof err), KL_IO);
    CHECK(strstr(err, "/does/not/exist.crt") != NULL);
    files = good;
    files.cert_file = good.key_file;
    CHECK_STATUS(kl_tls_new(KL_TLS_PEER, &files, &t, err, sizeof err), KL_CRYPTO);
    CHECK(strstr(err, good.key_file) != NULL);
    files = good;
    files.key_file = fixture_files(CERT_NODE2).key_file;
    CHECK_STATUS(kl_tls_new(KL_TLS_SERVER, &files, &t, err, sizeof err), KL_CRYPTO);
    files.key_file = NULL;
    CHECK_STATUS(kl_tls_new(KL_TLS_SERVER, &files, &t, err, sizeof err), KL_INVALID_ARGUMENT);
    CHECK(t == NULL);
}

/* A node's certificate must be its own: another node's, another cluster's and one of no node are not. */
TEST(tls, certificate_of_another_node)
{
    static const struct {
        const char *cert, *text;
    } bad[] = {{CERT_NODE2, "it is of node 2; this is node 1"},
               {CERT_FOREIGN, "of no node of cluster " CLUSTER},
               {CERT_SERVER, "of no node of cluster " CLUSTER}};
    struct kl_tls_files files;
    struct kl_tls *t = NULL;
    char err[512] = "";

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        files = fixture_files(bad[i].cert);
        files.cluster = CLUSTER;
        files.node_id = 1;
        CHECK_STATUS(kl_tls_new(KL_TLS_PEER, &files, &t, err, sizeof err), KL_INVALID_ARGUMENT);
        CHECK(strstr(err, files.cert_file) != NULL && strstr(err, bad[i].text) != NULL);
    }
    files = fixture_files(CERT_NODE1);
    files.cluster = CLUSTER;
    files.node_id = 1;
    CHECK_OK(kl_tls_new(KL_TLS_PEER, &files, &t, err, sizeof err));
    files = fixture_files(CERT_NODE2);
    files.cluster = CLUSTER;
    files.node_id = 1;
    CHECK_STATUS(kl_tls_reload(t, &files, err, sizeof err), KL_INVALID_ARGUMENT);
    kl_tls_free(t);
}

/* ---- allocation torture: each allocation of these calls fails in turn ---- */

TEST(torture, tls)
{
    struct kl_tls_files files = fixture_files(CERT_NODE1);

    for (unsigned long n = 1;; n++) {
        struct kl_tls *t = NULL;
        char err[256];
        enum kl_status st;

        kl_alloc_fail_at(n);
        st = kl_tls_new(KL_TLS_PEER, &files, &t, err, sizeof err);
        kl_alloc_fail_at(0);
        if (st == KL_OK) {
            kl_tls_free(t);
            CHECK(n > 1);
            break;
        }
        CHECK_EQ(st, KL_NO_MEMORY);
    }
}

TEST(torture, net)
{
    for (unsigned long n = 1;; n++) {
        struct kl_net *net = NULL;
        enum kl_status st;

        kl_alloc_fail_at(n);
        st = kl_net_new(&net);
        kl_alloc_fail_at(0);
        if (st == KL_OK) {
            kl_net_free(net);
            CHECK(n > 1);
            break;
        }
        CHECK_EQ(st, KL_NO_MEMORY);
    }
}

TEST(torture, dial_and_send)
{
    static uint8_t body[100000];
    struct fixture f;
    unsigned long n = 1;

    fixture_init(&f, KL_TLS_SERVER);
    for (;; n++) {
        struct kl_frame frame = {KL_FRAME_REQUEST, 0, 0, 1, {body, sizeof body}};
        struct kl_conn_options options = fixture_options(&f.client);
        struct kl_conn *conn = NULL;
        enum kl_status st;
        int struck;

        options.expect_host = "127.0.0.1";
        kl_alloc_fail_at(n);
        st = kl_conn_dial(f.net, f.client_tls, f.address, &options, &conn);
        if (st == KL_OK) {
            kl_conn_cork(conn);
            st = kl_conn_send(conn, &frame);
            CHECK(st == KL_OK || kl_conn_queued(conn) == 0);
            kl_conn_uncork(conn);
        }
        struck = kl_alloc_failed();
        kl_alloc_fail_at(0);
        CHECK(st == KL_OK || st == KL_NO_MEMORY);
        kl_conn_release(conn);
        if (!struck) {
            break;
        }
    }
    CHECK(n > 3);
    CHECK(watch_bytes(&f.client, sizeof body));
    fixture_done(&f);
}

TEST(torture, listener)
{
    struct fixture f;

    fixture_init(&f, KL_TLS_SERVER);
    for (unsigned long n = 1;; n++) {
        struct kl_listener_options options = {.conn = fixture_options(&f.server)};
        struct kl_listener *listener = NULL;
        char err[256];
        enum kl_status st;

        kl_alloc_fail_at(n);
        st = kl_listener_new(f.net, f.server_tls, "127.0.0.1:0", &options, &listener, err,
                             sizeof err);
        kl_alloc_fail_at(0);
        if (st == KL_OK) {
            kl_listener_free(listener);
            CHECK(n > 1);
            break;
        }
        CHECK_EQ(st, KL_NO_MEMORY);
    }
    fixture_done(&f);
}
