/* A node against a client that has a node's certificate but says what it likes. */
#include "tests/unit/net/peers_fixture.h"

#include "common/alloc.h"

#include "peer.pb-c.h"
#include "rpc.pb-c.h"

#include <unistd.h>

/* The client: node 1's certificate, frames by hand. */
struct client {
    struct node *node; /* whom it talks to */
    struct kl_net *net;
    struct kl_tls *tls;
};

struct session {
    struct watch watch;
    struct kl_conn *conn;
    bool answer_pings;
    atomic_uint hellos;
    char status[32]; /* of the refusal; watch.lock */
};

static void on_open(void *user, struct kl_conn *conn, uint64_t node)
{
    watch_handler.on_open(&((struct session *)user)->watch, conn, node);
}

static void on_frames(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct session *s = user;

    for (size_t i = 0; i < n; i++) {
        const struct kl_frame *f = &frames[i];
        struct kl_frame pong = {.type = KL_FRAME_PONG, .stream = f->stream};

        if (f->type == KL_FRAME_PING && s->answer_pings) {
            (void)!kl_conn_send(conn, &pong);
        } else if (f->type == KL_FRAME_PEER) {
            (void)atomic_fetch_add(&s->hellos, 1);
        } else if (f->type == KL_FRAME_REPLY && f->stream == 0) {
            Kluis__V1__Reply *r = kluis__v1__reply__unpack(NULL, f->body.len, f->body.ptr);

            (void)pthread_mutex_lock(&s->watch.lock);
            (void)snprintf(s->status, sizeof s->status, "%s", r->status);
            (void)pthread_mutex_unlock(&s->watch.lock);
            kluis__v1__reply__free_unpacked(r, NULL);
        }
    }
    watch_handler.on_frames(&s->watch, conn, frames, n);
}

static void on_close(void *user, struct kl_conn *conn, enum kl_status st, const char *why)
{
    watch_handler.on_close(&((struct session *)user)->watch, conn, st, why);
}

static void client_init(struct client *c, struct node *node)
{
    struct node_setup setup = {.id = 2};

    node_start(node, &setup);
    c->node = node;
    c->tls = fixture_tls(KL_TLS_PEER, CERT_NODE1);
    CHECK_OK(kl_net_new(&c->net));
}

static void client_done(struct client *c)
{
    kl_net_free(c->net);
    kl_tls_free(c->tls);
    node_stop(c->node);
}

static void open_session(struct client *c, struct session *s, bool answer_pings)
{
    static const struct kl_conn_handler handler = {on_open, on_frames, on_close};
    struct kl_conn_options options = {
        .handler = &handler, .user = s, .cluster = CLUSTER, .expect_node = 2};
    char address[64];

    *s = (struct session){.answer_pings = answer_pings};
    watch_init(&s->watch, WATCH_COUNT);
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)c->node->port);
    CHECK_OK(kl_conn_dial(c->net, c->tls, address, &options, &s->conn));
    CHECK(watch_opens(&s->watch, 1));
}

static void end_session(struct session *s)
{
    kl_conn_close(s->conn);
    CHECK(watch_closes(&s->watch, 1));
    kl_conn_release(s->conn);
    watch_done(&s->watch);
}

static Kluis__Peer__Hello good_hello(uint64_t instance)
{
    static uint8_t uuid[KL_ID_LEN] = {1};
    Kluis__Peer__Hello h = KLUIS__PEER__HELLO__INIT;

    h.version = 1;
    h.cluster = (char *)(uintptr_t)CLUSTER; /* packing does not write */
    h.node_id = 1;
    h.to_node_id = 2;
    h.data_uuid.data = uuid;
    h.data_uuid.len = sizeof uuid;
    h.instance = instance;
    return h;
}

static void greet(struct session *s, Kluis__Peer__Hello *hello)
{
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    uint8_t body[1024];
    struct kl_frame frame = {.type = KL_FRAME_PEER};

    m.body_case = KLUIS__PEER__MESSAGE__BODY_HELLO;
    m.hello = hello;
    frame.body = kl_bytes_of(body, kluis__peer__message__pack(&m, body));
    CHECK_OK(kl_conn_send(s->conn, &frame));
}

static void check_refused(Kluis__Peer__Hello *hello, const char *status)
{
    struct node node;
    struct client c;
    struct session s;
    Kluis__Peer__Hello good = good_hello(1);

    client_init(&c, &node);
    open_session(&c, &s, true);
    greet(&s, hello);
    CHECK(watch_closes(&s.watch, 1));
    CHECK_STR(s.status, status);
    CHECK_EQ(atomic_load(&s.hellos), 0);
    CHECK_EQ(node.ups[1], 0);
    end_session(&s);
    open_session(&c, &s, true); /* and a right one is still let in */
    greet(&s, &good);
    CHECK(node_wait(&node, node_is_up, 1));
    end_session(&s);
    client_done(&c);
}

TEST(greeting, wrong_cluster)
{
    Kluis__Peer__Hello h = good_hello(1);

    h.cluster = (char *)(uintptr_t) "testin";
    check_refused(&h, "FORBIDDEN");
}

TEST(greeting, wrong_node_id)
{
    Kluis__Peer__Hello h = good_hello(1);

    h.node_id = 3;
    check_refused(&h, "FORBIDDEN");
}

TEST(greeting, meant_for_another)
{
    Kluis__Peer__Hello h = good_hello(1);

    h.to_node_id = 3;
    check_refused(&h, "FORBIDDEN");
}

TEST(greeting, wrong_version)
{
    Kluis__Peer__Hello h = good_hello(1);

    h.version = 2;
    check_refused(&h, "PROTOCOL");
}

TEST(greeting, bad_uuid_or_lane)
{
    Kluis__Peer__Hello h = good_hello(1);

    h.data_uuid.len = 15;
    check_refused(&h, "PROTOCOL");
    h = good_hello(1);
    h.lane = 2;
    check_refused(&h, "PROTOCOL");
}

/* What comes before a greeting, or instead of one, is not delivered and ends the connection. */
TEST(greeting, none)
{
    static const uint8_t huge[KL_PEER_HELLO_MAX + 1];
    const struct kl_frame frames[] = {
        {KL_FRAME_REQUEST, 0, 0, 1, {(const uint8_t *)"x", 1}},
        {KL_FRAME_PEER, 0, 1, 0, {(const uint8_t *)"\xff\xff\xff", 3}},
        {KL_FRAME_PEER, 0, 0, 0, {NULL, 0}},
        {KL_FRAME_PEER, 0, 0, 0, {huge, sizeof huge}},
        {KL_FRAME_PEER, KL_FRAME_MORE, 0, 0, {(const uint8_t *)"x", 1}},
        {.type = KL_FRAME_PING},
        {.type = KL_FRAME_GOAWAY},
        {KL_FRAME_REPLY, 0, 0, 5, {(const uint8_t *)"x", 1}},
    };
    struct node node;
    struct client c;

    client_init(&c, &node);
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++) {
        struct session s;

        open_session(&c, &s, true);
        CHECK_OK(kl_conn_send(s.conn, &frames[i]));
        CHECK(watch_closes(&s.watch, 1));
        CHECK_EQ(node.messages + node.requests, 0);
        end_session(&s);
    }
    client_done(&c);
}

/* A refusal that says something unreadable, or nothing at all, does no harm. */
TEST(greeting, garbage_refusal)
{
    struct kl_frame refusal = {KL_FRAME_REPLY, 0, 0, 0, {(const uint8_t *)"\xff\xff", 2}};
    struct node node;
    struct client c;
    struct session s;

    client_init(&c, &node);
    open_session(&c, &s, true);
    CHECK_OK(kl_conn_send(s.conn, &refusal));
    CHECK(watch_closes(&s.watch, 1));
    CHECK_EQ(node.refused, 0);
    end_session(&s);
    client_done(&c);
}

/* The newest connection of one process takes over; the older one is closed, and the node stays up. */
TEST(greeting, newest_wins)
{
    struct kl_frame message = {KL_FRAME_PEER, 0, 3, 0, {(const uint8_t *)"x", 1}};
    struct node node;
    struct client c;
    struct session old;
    struct session s;
    Kluis__Peer__Hello h = good_hello(42);

    client_init(&c, &node);
    open_session(&c, &old, true);
    greet(&old, &h);
    CHECK(node_wait(&node, node_is_up, 1));
    open_session(&c, &s, true);
    greet(&s, &h);
    CHECK(watch_closes(&old.watch, 1));
    CHECK_OK(kl_conn_send(s.conn, &message));
    CHECK(node_wait(&node, node_has_messages, 1));
    CHECK(kl_peers_connected(node.peers, 1));
    CHECK_EQ(node.downs[1], 0);
    end_session(&old);
    end_session(&s);
    client_done(&c);
}

/* Another process claims the id. While the first one answers, the newcomer is sent away, first to
 * wait, then for good. */
TEST(greeting, rival_answers)
{
    struct node node;
    struct client c;
    struct session first;
    struct session s;
    Kluis__Peer__Hello h = good_hello(1);
    bool told = false;

    client_init(&c, &node);
    open_session(&c, &first, true);
    greet(&first, &h);
    CHECK(node_wait(&node, node_is_up, 1));
    h.instance = 2;
    for (int i = 0; i < 50 && !told; i++) {
        open_session(&c, &s, true);
        greet(&s, &h);
        CHECK(watch_closes(&s.watch, 1));
        CHECK(i != 0 || strcmp(s.status, "UNAVAILABLE") == 0);
        told = strcmp(s.status, "ALREADY_EXISTS") == 0;
        end_session(&s);
        (void)usleep(50000);
    }
    CHECK(told);
    CHECK_EQ(node.downs[1], 0);
    end_session(&first);
    client_done(&c);
}

/* When the first one has died without a word, the newcomer gets its place within a few seconds. */
TEST(greeting, rival_is_dead)
{
    struct node node;
    struct client c;
    struct session first;
    struct session s;
    Kluis__Peer__Hello h = good_hello(1);
    uint64_t start = test_now_ms();
    bool in = false;

    client_init(&c, &node);
    open_session(&c, &first, false);
    greet(&first, &h);
    CHECK(node_wait(&node, node_is_up, 1));
    h.instance = 2;
    for (int i = 0; i < 100 && !in; i++) {
        open_session(&c, &s, true);
        greet(&s, &h);
        CHECK(watch_frames(&s.watch, 1));
        in = atomic_load(&s.hellos) == 1;
        if (!in) {
            CHECK(watch_closes(&s.watch, 1));
            CHECK_STR(s.status, "UNAVAILABLE");
            end_session(&s);
            (void)usleep(50000);
        }
    }
    CHECK(in);
    CHECK(test_now_ms() - start >= KL_PEER_PROBE_MS);
    CHECK(watch_closes(&first.watch, 1));
    CHECK(kl_peers_connected(node.peers, 1));
    end_session(&first);
    end_session(&s);
    client_done(&c);
}

/* A node that has gone silent is given up after KL_PEER_SILENCE_MS; one that answers pings is not.
 * A connection that never greets is closed as well. */
TEST(greeting, silence)
{
    struct node node;
    struct client c;
    struct session dumb;
    struct session rude;
    struct session lively;
    Kluis__Peer__Hello h = good_hello(1);
    uint64_t start = test_now_ms();

    client_init(&c, &node);
    open_session(&c, &rude, true);
    open_session(&c, &lively, true);
    greet(&lively, &h);
    CHECK(node_wait(&node, node_is_up, 1));
    open_session(&c, &dumb, false);
    h.lane = 1;
    greet(&dumb, &h);
    CHECK(watch_closes(&dumb.watch, 1));
    CHECK(watch_closes(&rude.watch, 1));
    CHECK(test_now_ms() - start >= KL_PEER_SILENCE_MS);
    CHECK(kl_peers_connected(node.peers, 1));
    end_session(&rude);
    end_session(&dumb);
    end_session(&lively);
    client_done(&c);
}
