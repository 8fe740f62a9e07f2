#include "tests/unit/net/net_fixture.h"

#include "server/crypto/ca.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DAYS = 2 };

static void issue(const char *dir, const char *name, const char *cluster, uint64_t id, int days)
{
    char err[256] = "";
    enum kl_status st =
        kl_ca_issue(dir, name, cluster, id, "localhost,127.0.0.1,::1", days, err, sizeof err);

    if (st != KL_OK) {
        fail_msg("%s: %s", name, err);
    }
}

const char *fixture_dir(void)
{
    static char dir[256];
    char alien[300];
    char err[256] = "";

    if (dir[0] != 0) {
        return dir;
    }
    (void)snprintf(alien, sizeof alien, "%s", test_dir());
    CHECK_OK(kl_ca_create(alien, CLUSTER, DAYS, err, sizeof err));
    issue(alien, CERT_ALIEN, CLUSTER, 1, DAYS);
    (void)snprintf(dir, sizeof dir, "%s", test_dir());
    CHECK_OK(kl_ca_create(dir, CLUSTER, DAYS, err, sizeof err));
    issue(dir, CERT_NODE1, CLUSTER, 1, DAYS);
    issue(dir, CERT_NODE2, CLUSTER, 2, DAYS);
    issue(dir, CERT_NODE3, CLUSTER, 3, DAYS);
    issue(dir, CERT_SERVER, CLUSTER, 0, DAYS);
    issue(dir, CERT_EXPIRED, CLUSTER, 1, -1);
    issue(dir, CERT_FOREIGN, "elsewhere", 1, DAYS);
    for (size_t i = 0; i < 3; i++) {
        static const char *const names[] = {"ca.crt", CERT_ALIEN ".crt", CERT_ALIEN ".key"};
        char from[600];
        char to[600];

        (void)snprintf(from, sizeof from, "%s/%s", alien, names[i]);
        (void)snprintf(to, sizeof to, "%s/%s", dir, i == 0 ? "alien-ca.crt" : names[i]);
        CHECK_EQ(rename(from, to), 0);
    }
    return dir;
}

struct kl_tls_files fixture_files(const char *cert)
{
    enum { SETS = 64 };
    static char paths[SETS][3][320];
    static atomic_uint used;
    unsigned i = atomic_fetch_add(&used, 1) % SETS;
    const char *dir = fixture_dir();
    bool alien = cert != NULL && strcmp(cert, CERT_ALIEN) == 0;

    (void)snprintf(paths[i][0], sizeof paths[i][0], "%s/%s", dir,
                   alien ? "alien-ca.crt" : "ca.crt");
    if (cert == NULL) {
        return (struct kl_tls_files){.ca_file = paths[i][0]};
    }
    (void)snprintf(paths[i][1], sizeof paths[i][1], "%s/%s.crt", dir, cert);
    (void)snprintf(paths[i][2], sizeof paths[i][2], "%s/%s.key", dir, cert);
    return (struct kl_tls_files){
        .ca_file = paths[i][0], .cert_file = paths[i][1], .key_file = paths[i][2]};
}

struct kl_tls *fixture_tls(enum kl_tls_role role, const char *cert)
{
    struct kl_tls_files files = fixture_files(cert);
    struct kl_tls *tls = NULL;
    char err[256] = "";

    if (kl_tls_new(role, &files, &tls, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    return tls;
}

/* ---- the watch ---- */

void watch_init(struct watch *w, enum watch_mode mode)
{
    *w = (struct watch){.mode = mode};
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->changed, NULL);
}

void watch_done(struct watch *w)
{
    kl_conn_release(w->conn);
    (void)pthread_cond_destroy(&w->changed);
    (void)pthread_mutex_destroy(&w->lock);
}

static void on_open(void *user, struct kl_conn *conn, uint64_t peer_node)
{
    struct watch *w = user;
    struct kl_conn *old;

    kl_conn_retain(conn);
    (void)pthread_mutex_lock(&w->lock);
    w->opens++;
    w->node = peer_node;
    old = w->conn;
    w->conn = conn;
    (void)pthread_cond_broadcast(&w->changed);
    (void)pthread_mutex_unlock(&w->lock);
    kl_conn_release(old);
}

static void on_frames(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct watch *w = user;
    size_t bytes = 0;

    for (size_t i = 0; i < n; i++) {
        bytes += frames[i].body.len;
        if (w->mode == WATCH_ECHO && frames[i].type == KL_FRAME_REQUEST) {
            struct kl_frame reply = frames[i];

            reply.type = KL_FRAME_REPLY;
            (void)!kl_conn_send(conn, &reply);
        }
    }
    (void)pthread_mutex_lock(&w->lock);
    w->calls++;
    w->frames += n;
    w->bytes += bytes;
    w->last = frames[n - 1];
    (void)pthread_cond_broadcast(&w->changed);
    (void)pthread_mutex_unlock(&w->lock);
}

static void on_close(void *user, struct kl_conn *conn, enum kl_status status, const char *reason)
{
    struct watch *w = user;

    (void)conn;
    (void)pthread_mutex_lock(&w->lock);
    w->closes++;
    w->status = status;
    (void)snprintf(w->reason, sizeof w->reason, "%s", reason);
    (void)pthread_cond_broadcast(&w->changed);
    (void)pthread_mutex_unlock(&w->lock);
}

const struct kl_conn_handler watch_handler = {on_open, on_frames, on_close};

static size_t opens(const struct watch *w)
{
    return w->opens;
}
static size_t closes(const struct watch *w)
{
    return w->closes;
}
static size_t frame_count(const struct watch *w)
{
    return w->frames;
}
static size_t byte_count(const struct watch *w)
{
    return w->bytes;
}

static bool wait_for(struct watch *w, size_t (*counter)(const struct watch *), size_t n)
{
    struct timespec until;
    bool ok;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    (void)pthread_mutex_lock(&w->lock);
    while (counter(w) < n && pthread_cond_timedwait(&w->changed, &w->lock, &until) == 0) {
    }
    ok = counter(w) >= n;
    (void)pthread_mutex_unlock(&w->lock);
    return ok;
}

bool watch_opens(struct watch *w, unsigned n)
{
    return wait_for(w, opens, n);
}
bool watch_closes(struct watch *w, unsigned n)
{
    return wait_for(w, closes, n);
}
bool watch_frames(struct watch *w, size_t n)
{
    return wait_for(w, frame_count, n);
}
bool watch_bytes(struct watch *w, size_t n)
{
    return wait_for(w, byte_count, n);
}

/* ---- a listener and its clients ---- */

struct kl_conn_options fixture_options(struct watch *w)
{
    return (struct kl_conn_options){.handler = &watch_handler, .user = w, .cluster = CLUSTER};
}

void fixture_init(struct fixture *f, enum kl_tls_role server_role)
{
    struct kl_listener_options options = {.conn = fixture_options(&f->server)};
    char err[256] = "";

    *f = (struct fixture){0};
    watch_init(&f->server, WATCH_ECHO);
    watch_init(&f->client, WATCH_COUNT);
    f->server_tls = fixture_tls(server_role, CERT_NODE2);
    f->client_tls = server_role == KL_TLS_PEER ? fixture_tls(KL_TLS_PEER, CERT_NODE1)
                                               : fixture_tls(KL_TLS_CLIENT, NULL);
    CHECK_OK(kl_net_new(&f->net));
    CHECK_OK(kl_listener_new(f->net, f->server_tls, "127.0.0.1:0", &options, &f->listener, err,
                             sizeof err));
    f->port = kl_listener_port(f->listener);
    CHECK_NE(f->port, 0);
    (void)snprintf(f->address, sizeof f->address, "127.0.0.1:%u", (unsigned)f->port);
}

void fixture_done(struct fixture *f)
{
    kl_net_free(f->net);
    CHECK(f->client.opens <= f->client.closes); /* on_close for every one that opened */
    CHECK(f->server.opens <= f->server.closes);
    watch_done(&f->client);
    watch_done(&f->server);
    kl_tls_free(f->client_tls);
    kl_tls_free(f->server_tls);
}

struct kl_conn *fixture_dial(struct fixture *f)
{
    struct kl_conn_options options = fixture_options(&f->client);
    struct kl_conn *conn = NULL;

    CHECK_OK(kl_conn_dial(f->net, f->client_tls, f->address, &options, &conn));
    return conn;
}

/* ---- hostile clients ---- */

int raw_connect(uint16_t port)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

void raw_reset(int fd)
{
    struct linger on = {1, 0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &on, sizeof on);
    (void)close(fd);
}

bool raw_closed(int fd, int timeout_ms)
{
    uint64_t until = test_now_ms() + (uint64_t)timeout_ms;
    char buf[4096];

    for (;;) {
        uint64_t now = test_now_ms();
        struct pollfd p = {fd, POLLIN, 0};

        if (now >= until || poll(&p, 1, (int)(until - now)) <= 0) {
            return false;
        }
        if (recv(fd, buf, sizeof buf, 0) <= 0) {
            return true;
        }
    }
}

uint64_t test_now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

unsigned test_open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(d) != NULL) {
        n++;
    }
    (void)closedir(d);
    return n;
}
