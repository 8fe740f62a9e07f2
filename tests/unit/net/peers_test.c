/* Connections between nodes: who is let in, what is delivered, what happens when one goes. */
#include "tests/unit/net/peers_fixture.h"

#include "common/alloc.h"

#include <unistd.h>

/* Sends on a lane until the message has arrived: the bulk lane comes up by itself. */
static void deliver(struct node *from, struct node *to, uint16_t group, enum kl_lane lane,
                    size_t len)
{
    uint8_t *body = kl_calloc(1, len);
    size_t before;

    (void)pthread_mutex_lock(&to->lock);
    before = to->messages;
    (void)pthread_mutex_unlock(&to->lock);
    for (int i = 0; i < 600; i++) {
        bool arrived;

        kl_peers_send(from->peers, to->id, group, lane, kl_bytes_of(body, len));
        for (int j = 0; j < 20; j++) {
            (void)pthread_mutex_lock(&to->lock);
            arrived = to->messages > before;
            (void)pthread_mutex_unlock(&to->lock);
            if (arrived) {
                break;
            }
            (void)usleep(5000);
        }
        if (arrived) {
            break;
        }
    }
    CHECK(node_wait(to, node_has_messages, before + 1));
    CHECK_EQ(to->message_from, from->id);
    CHECK_EQ(to->message_group, group);
    kl_free(body);
}

/* n[0] is node 1: the lower id dials, so the higher ones must listen first. */
static void start_all(struct node *n, size_t count)
{
    struct node_setup setup = {0};

    for (size_t id = count; id >= 1; id--) {
        setup.id = id;
        node_start(&n[id - 1], &setup);
        setup.addresses[id] = n[id - 1].port;
    }
    for (size_t a = 1; a <= count; a++) {
        for (size_t b = 1; b <= count; b++) {
            CHECK(a == b || node_wait(&n[a - 1], node_is_up, b));
        }
    }
}

static void stop_all(struct node *n, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        node_stop(&n[i]);
    }
}

/* Two nodes find each other and exchange messages on both lanes, with group and sender. */
TEST(peers, two)
{
    struct node n[2];

    start_all(n, 2);
    CHECK(kl_peers_connected(n[0].peers, 2));
    CHECK(kl_peers_connected(n[1].peers, 1));
    CHECK(!kl_peers_connected(n[0].peers, 1)); /* itself */
    CHECK(!kl_peers_connected(n[0].peers, 3));
    deliver(&n[0], &n[1], 5, KL_LANE_CONTROL, 100);
    deliver(&n[1], &n[0], 65535, KL_LANE_CONTROL, 1);
    deliver(&n[0], &n[1], 6, KL_LANE_BULK, 256 << 10);
    deliver(&n[1], &n[0], 7, KL_LANE_BULK, 3u << 20); /* split into frames and put together */
    kl_peers_send(n[0].peers, 1, 1, KL_LANE_CONTROL, kl_bytes_str("to myself"));
    kl_peers_send(n[0].peers, 99, 1, KL_LANE_CONTROL, kl_bytes_str("to nobody"));
    CHECK_EQ(n[0].ups[2], 1);
    CHECK_EQ(n[0].downs[2], 0);
    stop_all(n, 2);
}

TEST(peers, three)
{
    struct node n[3];

    start_all(n, 3);
    for (size_t a = 0; a < 3; a++) {
        for (size_t b = 0; b < 3; b++) {
            if (a != b) {
                deliver(&n[a], &n[b], (uint16_t)(a * 3 + b), KL_LANE_CONTROL, 10);
            }
        }
    }
    stop_all(n, 3);
}

/* A node that stops is reported; when it is back, so is the connection. */
TEST(peers, restart)
{
    struct node n[2];
    struct node_setup setup = {.id = 2};

    start_all(n, 2);
    setup.port = n[1].port;
    for (unsigned round = 1; round <= 3; round++) {
        node_stop(&n[1]);
        CHECK(node_wait(&n[0], node_is_down, 2));
        CHECK(!kl_peers_connected(n[0].peers, 2));
        kl_peers_send(n[0].peers, 2, 1, KL_LANE_CONTROL, kl_bytes_str("lost"));
        node_start(&n[1], &setup);
        CHECK(node_wait(&n[0], node_is_up, 2));
        CHECK(node_wait(&n[1], node_is_up, 1));
        deliver(&n[0], &n[1], 1, KL_LANE_CONTROL, 10);
        CHECK_EQ(n[0].ups[2], round + 1);
        CHECK_EQ(n[0].downs[2], round);
        CHECK_EQ(n[1].refused, 0);
    }
    stop_all(n, 2);
}

/* The dialling side restarts: the new process takes the old one's place without a refusal. */
TEST(peers, restart_of_dialler)
{
    struct node n[2];
    struct node_setup setup = {.id = 1};

    start_all(n, 2);
    setup.addresses[2] = n[1].port;
    for (int round = 0; round < 3; round++) {
        node_stop(&n[0]);
        node_start(&n[0], &setup);
        CHECK(node_wait(&n[0], node_is_up, 2));
        deliver(&n[1], &n[0], 1, KL_LANE_CONTROL, 10);
        CHECK_EQ(n[0].refused, 0);
    }
    stop_all(n, 2);
}

/* A single node needs nobody. */
TEST(peers, alone)
{
    struct kl_peers_options options = {.cluster = CLUSTER, .node_id = 1, .clock = &kl_real_clock};
    struct kl_peers *peers = NULL;
    char err[256];

    CHECK_OK(kl_peers_new(&options, &peers, err, sizeof err));
    CHECK_EQ(kl_peers_port(peers), 0);
    CHECK(!kl_peers_connected(peers, 1));
    kl_peers_send(peers, 2, 1, KL_LANE_BULK, kl_bytes_str("x"));
    CHECK_STATUS(kl_peers_call(peers, 1, kl_bytes_str("x"), 100, node_on_reply, NULL), KL_CLOSED);
    kl_peers_free(peers);
}

/* ---- two processes under one id ---- */

static void check_second_is_refused(uint8_t uuid)
{
    struct node n[2];
    struct node second;
    struct node_setup setup = {.id = 1, .uuid = uuid};

    start_all(n, 2);
    deliver(&n[0], &n[1], 1, KL_LANE_BULK, 10);
    setup.addresses[2] = n[1].port;
    node_start(&second, &setup);
    CHECK(node_wait(&second, node_was_refused, 1));
    CHECK_EQ(second.refused_by, 2);
    CHECK_STR(second.why, "another process holds this node id");
    CHECK(node_wait(&second, node_was_refused, 2)); /* and again, as long as it tries */
    CHECK_EQ(second.ups[2], 0);
    deliver(&n[0], &n[1], 1, KL_LANE_CONTROL, 10);
    CHECK_EQ(n[0].refused, 0);
    CHECK_EQ(n[0].downs[2], 0);
    CHECK_EQ(n[1].downs[1], 0);
    node_stop(&second);
    stop_all(n, 2);
}

/* The second process of an id is refused, with the same data directory (a copy) or another one;
 * the first does not notice. */
TEST(peers, duplicate_same_directory)
{
    check_second_is_refused(1);
}

TEST(peers, duplicate_other_directory)
{
    check_second_is_refused(77);
}

/* The directory that the cluster knows decides: another one is refused although nobody else is
 * connected. A doubt that may pass is no refusal. */
TEST(peers, registered_directory)
{
    struct node n[2];
    struct node_setup setup = {.id = 2};

    node_start(&n[1], &setup);
    n[1].uuid_status = KL_UNAVAILABLE;
    setup = (struct node_setup){.id = 1, .addresses = {0, 0, n[1].port}};
    node_start(&n[0], &setup);
    (void)usleep(500000);
    CHECK_EQ(n[0].refused, 0);
    CHECK_EQ(n[0].ups[2], 0);
    (void)pthread_mutex_lock(&n[1].lock);
    n[1].uuid_status = KL_ALREADY_EXISTS;
    (void)pthread_mutex_unlock(&n[1].lock);
    CHECK(node_wait(&n[0], node_was_refused, 1));
    CHECK_STR(n[0].why, "the node id is registered with another data directory");
    CHECK_EQ(n[0].ups[2], 0);
    (void)pthread_mutex_lock(&n[1].lock);
    n[1].uuid_status = KL_OK;
    (void)pthread_mutex_unlock(&n[1].lock);
    CHECK(node_wait(&n[0], node_is_up, 2));
    stop_all(n, 2);
}

static bool node_was_refused_as(const struct node *n, size_t generation)
{
    return n->refused_generation == generation;
}

/* A refusal says which greeting it was for: what this node has learned since was not in it. */
TEST(peers, refused_greeting)
{
    struct node n[2];
    struct node_setup setup = {.id = 2};

    node_start(&n[1], &setup);
    n[1].uuid_status = KL_ALREADY_EXISTS;
    setup = (struct node_setup){.id = 1, .generation = 3, .addresses = {0, 0, n[1].port}};
    node_start(&n[0], &setup);
    CHECK(node_wait(&n[0], node_was_refused, 1));
    CHECK_EQ(n[0].refused_generation, 3);
    (void)pthread_mutex_lock(&n[0].lock);
    n[0].generation = 4;
    (void)pthread_mutex_unlock(&n[0].lock);
    CHECK(node_wait(&n[0], node_was_refused_as, 4));
    stop_all(n, 2);
}

/* A process whose directory has been replaced does not hold the id, although it answers: the new one
 * takes its place, and the old one is refused. */
TEST(peers, replaced_while_running)
{
    struct node n[2];
    struct node second;
    struct node_setup setup = {.id = 1, .uuid = 77, .generation = 1};

    start_all(n, 2);
    deliver(&n[0], &n[1], 1, KL_LANE_BULK, 10);
    setup.addresses[2] = n[1].port;
    node_start(&second, &setup);
    CHECK(node_wait(&second, node_is_up, 2));
    CHECK(node_wait(&n[0], node_was_refused, 1));
    (void)pthread_mutex_lock(&n[0].lock); /* the other lane is refused, too, maybe just now */
    CHECK_EQ(n[0].refused_generation, 0);
    CHECK_STR(n[0].why, "another process holds this node id");
    (void)pthread_mutex_unlock(&n[0].lock);
    deliver(&n[1], &second, 1, KL_LANE_CONTROL, 10);
    CHECK_EQ(second.refused, 0);
    node_stop(&second);
    stop_all(n, 2);
}

/* The address of another node than expected never becomes a connection, nor does a node with
 * another cluster's certificate. */
TEST(peers, strangers)
{
    struct node two;
    struct node one;
    struct node_setup setup = {.id = 2};

    node_start(&two, &setup);
    setup = (struct node_setup){.id = 1, .addresses = {0, 0, 0, two.port}}; /* "node 3" */
    node_start(&one, &setup);
    (void)usleep(500000);
    CHECK_EQ(one.ups[2] + one.ups[3] + two.ups[1], 0);
    node_stop(&one);
    setup =
        (struct node_setup){.id = 1, .cert = CERT_FOREIGN, .addresses = {0, 0, two.port, two.port}};
    node_start(&one, &setup);
    (void)usleep(500000);
    CHECK_EQ(one.ups[2] + one.ups[3] + two.ups[1], 0);
    CHECK_EQ(one.refused, 0);
    node_stop(&one);
    setup.cert = CERT_ALIEN;
    node_start(&one, &setup);
    (void)usleep(500000);
    CHECK_EQ(one.ups[2] + one.ups[3] + two.ups[1], 0);
    node_stop(&one);
    node_stop(&two);
}

/* ---- calls ---- */

/* Both sides call the other over the one control connection; each call is answered once. */
TEST(peers, calls)
{
    enum { N = 500 };
    struct node n[2];

    start_all(n, 2);
    for (unsigned i = 0; i < N; i++) {
        CHECK_OK(
            kl_peers_call(n[0].peers, 2, kl_bytes_str("question"), 10000, node_on_reply, &n[0]));
        CHECK_OK(kl_peers_call(n[1].peers, 1, kl_bytes_str("why"), 10000, node_on_reply, &n[1]));
    }
    CHECK(node_wait(&n[0], node_has_replies, N));
    CHECK(node_wait(&n[1], node_has_replies, N));
    CHECK_EQ(n[0].reply_status, KL_OK);
    CHECK_EQ(n[0].reply_bytes, 8);
    CHECK_EQ(n[1].reply_bytes, 3);
    CHECK_EQ(n[0].requests, N);
    CHECK_EQ(n[1].requests, N);
    CHECK_STATUS(kl_peers_call(n[0].peers, 3, kl_bytes_str("x"), 1000, node_on_reply, &n[0]),
                 KL_CLOSED);
    CHECK_STATUS(kl_peers_call(n[0].peers, 1, kl_bytes_str("x"), 1000, node_on_reply, &n[0]),
                 KL_CLOSED);
    stop_all(n, 2);
    CHECK_EQ(n[0].replies, N);
    CHECK_EQ(n[1].replies, N);
}

/* A call longer than a frame comes back whole. */
TEST(peers, big_call)
{
    const size_t len = 3u * KL_FRAME_BODY_MAX + 17;
    uint8_t *body = kl_calloc(1, len);
    struct node n[2];

    start_all(n, 2);
    CHECK_OK(kl_peers_call(n[0].peers, 2, kl_bytes_of(body, len), 20000, node_on_reply, &n[0]));
    CHECK(node_wait(&n[0], node_has_replies, 1));
    CHECK_EQ(n[0].reply_status, KL_OK);
    CHECK_EQ(n[0].reply_bytes, len);
    stop_all(n, 2);
    kl_free(body);
}

/* An unanswered call ends at its deadline; one whose connection is lost ends at once; one that is
 * under way when its own side stops ends as well. */
TEST(peers, calls_that_fail)
{
    struct node n[2];
    struct node_setup setup = {.id = 2};
    uint64_t start;

    start_all(n, 2);
    (void)pthread_mutex_lock(&n[1].lock);
    n[1].mute = true;
    (void)pthread_mutex_unlock(&n[1].lock);
    start = test_now_ms();
    CHECK_OK(kl_peers_call(n[0].peers, 2, kl_bytes_str("x"), 400, node_on_reply, &n[0]));
    CHECK(node_wait(&n[0], node_has_replies, 1));
    CHECK_EQ(n[0].reply_status, KL_TIMEOUT);
    CHECK_EQ(n[0].reply_bytes, 0);
    CHECK(test_now_ms() - start >= 399);

    for (int i = 0; i < 10; i++) {
        CHECK_OK(kl_peers_call(n[0].peers, 2, kl_bytes_str("x"), 60000, node_on_reply, &n[0]));
    }
    setup.port = n[1].port;
    node_stop(&n[1]);
    CHECK(node_wait(&n[0], node_has_replies, 11));
    CHECK_EQ(n[0].reply_status, KL_CLOSED);
    CHECK(node_wait(&n[0], node_is_down, 2));

    node_start(&n[1], &setup);
    n[1].mute = true;
    CHECK(node_wait(&n[0], node_is_up, 2));
    CHECK_OK(kl_peers_call(n[0].peers, 2, kl_bytes_str("x"), 60000, node_on_reply, &n[0]));
    kl_peers_free(n[0].peers);
    n[0].peers = NULL;
    CHECK_EQ(n[0].replies, 12);
    CHECK_EQ(n[0].reply_status, KL_CLOSED);
    stop_all(n, 2);
}

/* More calls than may be under way are refused, not queued. */
TEST(peers, call_limit)
{
    struct node n[2];
    enum kl_status st = KL_OK;
    unsigned calls = 0;

    start_all(n, 2);
    (void)pthread_mutex_lock(&n[1].lock);
    n[1].mute = true;
    (void)pthread_mutex_unlock(&n[1].lock);
    while (st == KL_OK && calls <= KL_CALLS_PER_CONN_MAX) {
        st = kl_peers_call(n[0].peers, 2, kl_bytes_str("x"), 60000, node_on_reply, &n[0]);
        calls += st == KL_OK;
    }
    CHECK_EQ(st, KL_EXHAUSTED);
    CHECK_EQ(calls, KL_CALLS_PER_CONN_MAX);
    kl_peers_free(n[0].peers);
    n[0].peers = NULL;
    CHECK_EQ(n[0].replies, calls);
    stop_all(n, 2);
}

/* ---- stopping under load ---- */

struct pusher {
    pthread_t thread;
    struct node *from;
    uint64_t to;
    atomic_bool stop;
};

static void *push(void *arg)
{
    struct pusher *p = arg;

    for (unsigned i = 0; !atomic_load(&p->stop); i++) {
        kl_peers_send(p->from->peers, p->to, 1, i % 2 == 0 ? KL_LANE_CONTROL : KL_LANE_BULK,
                      kl_bytes_str("a message of some length"));
        if (i % 64 == 0) {
            (void)!kl_peers_call(p->from->peers, p->to, kl_bytes_str("?"), 1000, node_on_reply,
                                 p->from);
        }
    }
    return NULL;
}

/* A node may stop and start while the other pushes messages and calls at it. */
TEST(peers, restart_under_load)
{
    struct node n[2];
    struct node_setup setup = {.id = 2};
    struct pusher p = {.from = &n[0], .to = 2};

    start_all(n, 2);
    setup.port = n[1].port;
    CHECK_EQ(pthread_create(&p.thread, NULL, push, &p), 0);
    for (int round = 0; round < 5; round++) {
        CHECK(node_wait(&n[1], node_has_messages, 200));
        node_stop(&n[1]);
        node_start(&n[1], &setup);
    }
    CHECK(node_wait(&n[1], node_has_messages, 200));
    atomic_store(&p.stop, true);
    CHECK_EQ(pthread_join(p.thread, NULL), 0);
    CHECK(node_wait(&n[0], node_is_up, 2));
    stop_all(n, 2);
}
