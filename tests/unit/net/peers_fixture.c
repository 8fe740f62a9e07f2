#include "tests/unit/net/peers_fixture.h"

#include <time.h>

static void changed(struct node *n)
{
    (void)pthread_cond_broadcast(&n->changed);
    (void)pthread_mutex_unlock(&n->lock);
}

static void on_message(void *ctx, uint64_t from, uint16_t group, struct kl_bytes message)
{
    struct node *n = ctx;

    (void)pthread_mutex_lock(&n->lock);
    n->messages++;
    n->message_bytes += message.len;
    n->message_from = from;
    n->message_group = group;
    changed(n);
}

/* Answers with what it was sent. */
static void on_request(void *ctx, uint64_t from, struct kl_conn *conn, uint32_t stream,
                       struct kl_bytes call)
{
    struct node *n = ctx;
    struct kl_frame reply = {KL_FRAME_REPLY, 0, 0, stream, call};
    bool mute;

    (void)from;
    (void)pthread_mutex_lock(&n->lock);
    n->requests++;
    mute = n->mute;
    changed(n);
    if (!mute) {
        (void)!kl_conn_send(conn, &reply);
    }
}

static void on_peer(void *ctx, uint64_t node, bool connected)
{
    struct node *n = ctx;

    (void)pthread_mutex_lock(&n->lock);
    if (connected) {
        n->ups[node]++;
    } else {
        n->downs[node]++;
    }
    n->up[node] = connected;
    changed(n);
}

static enum kl_status check_uuid(void *ctx, uint64_t node, const uint8_t uuid[KL_ID_LEN],
                                 uint64_t claimed)
{
    struct node *n = ctx;
    enum kl_status st;

    (void)node;
    (void)uuid;
    (void)claimed;
    (void)pthread_mutex_lock(&n->lock);
    st = n->uuid_status;
    (void)pthread_mutex_unlock(&n->lock);
    return st;
}

static uint64_t generation(void *ctx)
{
    struct node *n = ctx;
    uint64_t value;

    (void)pthread_mutex_lock(&n->lock);
    value = n->generation;
    (void)pthread_mutex_unlock(&n->lock);
    return value;
}

static void on_refused(void *ctx, uint64_t by, uint64_t generation, const char *why)
{
    struct node *n = ctx;

    (void)pthread_mutex_lock(&n->lock);
    n->refused++;
    n->refused_by = by;
    n->refused_generation = generation;
    (void)snprintf(n->why, sizeof n->why, "%s", why);
    changed(n);
}

void node_on_reply(void *node, enum kl_status status, struct kl_bytes reply)
{
    struct node *n = node;

    (void)pthread_mutex_lock(&n->lock);
    n->replies++;
    n->reply_status = status;
    n->reply_bytes = reply.len;
    changed(n);
}

void node_start(struct node *n, const struct node_setup *setup)
{
    static const char *const certs[] = {NULL, CERT_NODE1, CERT_NODE2, CERT_NODE3};
    char addresses[NODES + 1][32];
    char listen[32];
    char err[256] = "";
    struct kl_peer_address peers[NODES];
    struct kl_peers_options options = {.cluster = CLUSTER,
                                       .node_id = setup->id,
                                       .listen = listen,
                                       .peers = peers,
                                       .peers_n = NODES,
                                       .ctx = n,
                                       .clock = &kl_real_clock,
                                       .on_message = on_message,
                                       .on_request = on_request,
                                       .on_peer = on_peer,
                                       .check_uuid = check_uuid,
                                       .generation = generation,
                                       .on_refused = on_refused};

    *n = (struct node){.id = setup->id, .generation = setup->generation};
    (void)pthread_mutex_init(&n->lock, NULL);
    (void)pthread_cond_init(&n->changed, NULL);
    for (uint64_t id = 1; id <= NODES; id++) {
        (void)snprintf(addresses[id], sizeof addresses[id], "127.0.0.1:%u",
                       setup->addresses[id] == 0 ? 1u : (unsigned)setup->addresses[id]);
        peers[id - 1] = (struct kl_peer_address){id, addresses[id]};
    }
    (void)snprintf(listen, sizeof listen, "127.0.0.1:%u", (unsigned)setup->port);
    memset(n->uuid, setup->uuid != 0 ? setup->uuid : (int)setup->id, sizeof n->uuid);
    memcpy(options.data_uuid, n->uuid, sizeof n->uuid);
    n->tls = fixture_tls(KL_TLS_PEER, setup->cert != NULL ? setup->cert : certs[setup->id]);
    CHECK_OK(kl_net_new(&n->net));
    options.net = n->net;
    options.tls = n->tls;
    if (kl_peers_new(&options, &n->peers, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    n->port = kl_peers_port(n->peers);
}

void node_stop(struct node *n)
{
    kl_peers_free(n->peers);
    kl_net_free(n->net);
    kl_tls_free(n->tls);
    (void)pthread_cond_destroy(&n->changed);
    (void)pthread_mutex_destroy(&n->lock);
}

bool node_wait(struct node *n, node_condition condition, size_t arg)
{
    struct timespec until;
    bool ok;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    (void)pthread_mutex_lock(&n->lock);
    while (!condition(n, arg) && pthread_cond_timedwait(&n->changed, &n->lock, &until) == 0) {
    }
    ok = condition(n, arg);
    (void)pthread_mutex_unlock(&n->lock);
    return ok;
}

bool node_is_up(const struct node *n, size_t node)
{
    return n->up[node];
}

bool node_is_down(const struct node *n, size_t node)
{
    return !n->up[node];
}

bool node_has_messages(const struct node *n, size_t count)
{
    return n->messages >= count;
}

bool node_has_replies(const struct node *n, size_t count)
{
    return n->replies >= count;
}

bool node_was_refused(const struct node *n, size_t count)
{
    return n->refused >= count;
}
