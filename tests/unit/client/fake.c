#include "tests/unit/client/fake.h"

#include "common/alloc.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* ---------------------------------------------------------------- what comes in */

static void note_call(struct fake *node, struct fake_call *c)
{
    const Kluis__V1__Call *call = c->call;
    struct fake_seen *seen;

    (void)pthread_mutex_lock(&node->lock);
    assert_true(node->forgetful || node->calls < FAKE_SEEN_MAX);
    seen = &node->seen[node->calls % FAKE_SEEN_MAX];
    (void)snprintf(seen->method, sizeof seen->method, "%s", call->method);
    seen->has_id = call->request_id.len == KL_ID_LEN;
    if (seen->has_id) {
        memcpy(seen->request_id, call->request_id.data, KL_ID_LEN);
    }
    seen->expires_ms = call->expires_ms;
    seen->deadline_ms = call->deadline_ms;
    seen->consistency = call->consistency;
    seen->max_age_ms = call->max_age_ms;
    seen->at_ms = test_now_ms();
    if (call->n_metadata == 1) {
        (void)snprintf(node->authorization, sizeof node->authorization, "%s",
                       call->metadata[0]->value);
    }
    if (node->last_conn != c->conn) {
        if (node->last_conn != NULL) {
            kl_conn_release(node->last_conn);
        }
        kl_conn_retain(c->conn);
        node->last_conn = c->conn;
    }
    node->last_stream = c->stream;
    c->nth = ++node->calls;
    (void)pthread_cond_broadcast(&node->changed);
    (void)pthread_mutex_unlock(&node->lock);
}

/* The client's own question. */
static void tell_regions(struct fake_call *c)
{
    Kluis__V1__DiscoveryNodesResponse r = KLUIS__V1__DISCOVERY_NODES_RESPONSE__INIT;
    Kluis__V1__DiscoveryNode nodes[KL_NODES_MAX];
    Kluis__V1__DiscoveryNode *list[KL_NODES_MAX];
    struct fake *node = c->node;

    (void)pthread_mutex_lock(&node->lock);
    node->asked++;
    (void)pthread_cond_broadcast(&node->changed);
    (void)pthread_mutex_unlock(&node->lock);
    if (node->regions == NULL) {
        fake_status(c, KL_UNIMPLEMENTED);
        return;
    }
    for (size_t i = 0; i < node->regions_n; i++) {
        const struct fake_region *from = &node->regions[i];

        nodes[i] = (Kluis__V1__DiscoveryNode)KLUIS__V1__DISCOVERY_NODE__INIT;
        nodes[i].node_id = i + 1;
        nodes[i].region = (char *)(uintptr_t)from->region;
        nodes[i].client_address = (char *)(uintptr_t)from->node->address;
        nodes[i].witness = from->witness;
        list[i] = &nodes[i];
    }
    r.n_nodes = node->regions_n;
    r.nodes = list;
    fake_ok(c, &r);
}

static void take_request(struct fake *node, struct kl_conn *conn, struct kl_assembler *assembler,
                         const struct kl_frame *frame)
{
    struct kl_buf whole = KL_BUF(0);
    struct kl_bytes body;
    struct fake_call c = {.node = node, .conn = conn, .stream = frame->stream};
    Kluis__V1__Call *call;
    enum kl_status st = kl_assembler_add(assembler, frame, &whole);

    if (st == KL_NOT_FOUND) {
        return;
    }
    assert_int_equal(st, KL_OK);
    body = whole.ptr == NULL ? frame->body : kl_buf_bytes(&whole);
    call = kluis__v1__call__unpack(NULL, body.len, body.ptr);
    assert_non_null(call);
    c.call = call;
    if (strcmp(call->method, "/kluis.v1.Discovery/Nodes") == 0) {
        tell_regions(&c);
    } else {
        note_call(node, &c);
        node->answer(&c);
    }
    kluis__v1__call__free_unpacked(call, NULL);
    kl_buf_wipe(&whole);
}

struct guest { /* one connection */
    struct fake *node;
    struct kl_assembler *assembler;
};

static void count(struct fake *node, atomic_uint *counter)
{
    (void)pthread_mutex_lock(&node->lock);
    (*counter)++;
    (void)pthread_cond_broadcast(&node->changed);
    (void)pthread_mutex_unlock(&node->lock);
}

static void on_frames(void *user, struct kl_conn *conn, const struct kl_frame *frames, size_t n)
{
    struct guest *guest = user;
    struct fake *node = guest->node;

    if (node->dark) {
        return;
    }
    kl_conn_cork(conn);
    for (size_t i = 0; i < n; i++) {
        struct kl_frame pong = {.type = KL_FRAME_PONG, .stream = frames[i].stream};

        switch (frames[i].type) {
        case KL_FRAME_REQUEST:
            take_request(node, conn, guest->assembler, &frames[i]);
            break;
        case KL_FRAME_CANCEL:
            count(node, &node->cancels);
            break;
        case KL_FRAME_PING:
            count(node, &node->pings);
            if (!node->mute) {
                (void)!kl_conn_send(conn, &pong);
            }
            break;
        default:
            fail();
        }
    }
    kl_conn_uncork(conn);
}

static void on_open(void *user, struct kl_conn *conn, uint64_t peer_node)
{
    struct guest *guest = user;

    (void)conn;
    (void)peer_node;
    count(guest->node, &guest->node->conns);
}

static void on_close(void *user, struct kl_conn *conn, enum kl_status status, const char *reason)
{
    struct guest *guest = user;

    (void)conn;
    (void)status;
    (void)reason;
    kl_assembler_free(guest->assembler);
    kl_free(guest);
}

static const struct kl_conn_handler handler = {
    .on_open = on_open, .on_frames = on_frames, .on_close = on_close};

static void *on_accept(void *user, struct kl_conn *conn)
{
    struct guest *guest = kl_calloc(1, sizeof *guest);

    (void)conn;
    assert_non_null(guest);
    guest->node = user;
    assert_int_equal(kl_assembler_new(KL_MESSAGE_MAX, KL_CALLS_PER_CONN_MAX, &guest->assembler),
                     KL_OK);
    return guest;
}

/* ---------------------------------------------------------------- life */

static void listen_at(struct fake *node, const char *address)
{
    struct kl_listener_options options = {.on_accept = on_accept};
    char err[256] = "";

    options.conn.handler = &handler;
    options.conn.user = node;
    options.conn.out_max = KL_CONN_OUT_MAX;
    CHECK_OK(
        kl_listener_new(node->net, node->tls, address, &options, &node->listener, err, sizeof err));
}

void fake_start(struct fake *node, const char *cert, fake_fn answer, void *arg)
{
    *node =
        (struct fake){.answer = answer, .arg = arg, .hole = -1, .server_time_ms = 1700000000000u};
    (void)pthread_mutex_init(&node->lock, NULL);
    (void)pthread_cond_init(&node->changed, NULL);
    node->seen = kl_calloc(FAKE_SEEN_MAX, sizeof *node->seen);
    assert_non_null(node->seen);
    node->tls = fixture_tls(KL_TLS_SERVER, cert);
    CHECK_OK(kl_net_new(&node->net));
    listen_at(node, "127.0.0.1:0");
    (void)snprintf(node->address, sizeof node->address, "127.0.0.1:%u",
                   (unsigned)kl_listener_port(node->listener));
}

void fake_stop(struct fake *node)
{
    if (node->net == NULL) {
        return;
    }
    kl_listener_free(node->listener);
    if (node->hole >= 0) {
        (void)close(node->hole);
    }
    kl_net_free(node->net);
    if (node->last_conn != NULL) {
        kl_conn_release(node->last_conn);
    }
    kl_tls_free(node->tls);
    kl_free(node->seen);
    (void)pthread_mutex_destroy(&node->lock);
    (void)pthread_cond_destroy(&node->changed);
    node->net = NULL;
}

/* The kernel makes the connections; nobody takes them. */
void fake_dark(struct fake *node)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    const int on = 1;

    at.sin_port = htons(kl_listener_port(node->listener));
    node->dark = true;
    kl_listener_free(node->listener);
    node->listener = NULL;
    node->hole = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(node->hole >= 0);
    CHECK_EQ(setsockopt(node->hole, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    CHECK_EQ(bind(node->hole, (const struct sockaddr *)&at, sizeof at), 0);
    CHECK_EQ(listen(node->hole, 64), 0);
}

void fake_light(struct fake *node)
{
    CHECK_EQ(close(node->hole), 0);
    node->hole = -1;
    listen_at(node, node->address);
    node->dark = false;
}

static bool wait_for(struct fake *node, const atomic_uint *counter, unsigned n)
{
    struct timespec until;
    int rc = 0;
    bool reached;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    (void)pthread_mutex_lock(&node->lock);
    while (*counter < n && rc == 0) {
        rc = pthread_cond_timedwait(&node->changed, &node->lock, &until);
    }
    reached = *counter >= n;
    (void)pthread_mutex_unlock(&node->lock);
    return reached;
}

bool fake_calls(struct fake *node, unsigned n)
{
    return wait_for(node, &node->calls, n);
}

bool fake_conns(struct fake *node, unsigned n)
{
    return wait_for(node, &node->conns, n);
}

bool fake_cancels(struct fake *node, unsigned n)
{
    return wait_for(node, &node->cancels, n);
}

/* ---------------------------------------------------------------- answers */

void fake_raw(struct fake_call *c, const void *bytes, size_t n)
{
    struct kl_frame frame = {.type = KL_FRAME_REPLY, .stream = c->stream, .body = {bytes, n}};

    (void)!kl_conn_send(c->conn, &frame); /* the client may have gone */
}

static void reply(struct fake_call *c, Kluis__V1__Reply *r)
{
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    uint8_t *p = NULL;

    r->server_time_ms = c->node->server_time_ms;
    r->age_ms = c->node->age_ms;
    r->node_id = c->node->node_id;
    if (kluis__v1__reply__get_packed_size(r) != 0) {
        assert_int_equal(kl_buf_grow(&packed, kluis__v1__reply__get_packed_size(r), &p), KL_OK);
        (void)kluis__v1__reply__pack(r, p);
    }
    fake_raw(c, packed.ptr, packed.len);
    kl_buf_wipe(&packed);
}

static Kluis__V1__Reply reply_of(enum kl_status status)
{
    Kluis__V1__Reply r = KLUIS__V1__REPLY__INIT;
    union {
        const char *in;
        char *out;
    } name = {kl_status_info(status)->name}, text = {kl_status_info(status)->text};

    r.code = kl_status_info(status)->rpc_code;
    r.status = name.out;
    r.message = text.out;
    return r;
}

void fake_ok(struct fake_call *c, const void *message)
{
    Kluis__V1__Reply r = reply_of(KL_OK);
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    size_t n = protobuf_c_message_get_packed_size(message);
    uint8_t *p = NULL;

    if (n != 0) {
        assert_int_equal(kl_buf_grow(&packed, n, &p), KL_OK);
        (void)protobuf_c_message_pack(message, p);
    }
    r.payload = (ProtobufCBinaryData){packed.len, packed.ptr};
    reply(c, &r);
    kl_buf_wipe(&packed);
}

void fake_status(struct fake_call *c, enum kl_status status)
{
    Kluis__V1__Reply r = reply_of(status);

    reply(c, &r);
}

void fake_field(struct fake_call *c, enum kl_status status, const char *field, const char *limit)
{
    Kluis__V1__Reply r = reply_of(status);
    Kluis__V1__FieldError f = KLUIS__V1__FIELD_ERROR__INIT;
    Kluis__V1__FieldError *fields[1] = {&f};
    union {
        const char *in;
        char *out;
    } name = {field}, text = {limit};

    f.field = name.out;
    f.limit = text.out;
    r.fields = fields;
    r.n_fields = 1;
    reply(c, &r);
}

void fake_retry_after(struct fake_call *c, enum kl_status status, uint32_t ms)
{
    Kluis__V1__Reply r = reply_of(status);

    r.retry_after_ms = ms;
    reply(c, &r);
}

void fake_not_leader(struct fake_call *c, uint32_t group, const struct fake *leader)
{
    Kluis__V1__Reply r = reply_of(KL_NOT_LEADER);
    Kluis__V1__LeaderHint hint = KLUIS__V1__LEADER_HINT__INIT;
    char address[sizeof leader->address];

    hint.group = group;
    if (leader != NULL) {
        (void)snprintf(address, sizeof address, "%s", leader->address);
        hint.node_id = 7;
        hint.address = address;
    }
    r.leader = &hint;
    reply(c, &r);
}

void fake_drop(struct fake_call *c)
{
    kl_conn_close(c->conn);
}

void fake_goaway(struct fake *node)
{
    struct kl_frame frame = {.type = KL_FRAME_GOAWAY};

    (void)pthread_mutex_lock(&node->lock);
    if (node->last_conn != NULL) {
        (void)!kl_conn_send(node->last_conn, &frame);
    }
    (void)pthread_mutex_unlock(&node->lock);
}

void fake_silent(struct fake_call *c)
{
    (void)c;
}

static void serve_set(struct fake_call *c)
{
    Kluis__V1__SecretSetRequest *request =
        kluis__v1__secret_set_request__unpack(NULL, c->call->payload.len, c->call->payload.data);
    Kluis__V1__SecretSetResponse response = KLUIS__V1__SECRET_SET_RESPONSE__INIT;
    Kluis__V1__Secret secret = KLUIS__V1__SECRET__INIT;

    assert_non_null(request);
    (void)pthread_mutex_lock(&c->node->lock);
    c->node->value_len = request->value.len;
    if (request->value.len != 0) {
        memcpy(c->node->value, request->value.data, request->value.len);
    }
    (void)pthread_mutex_unlock(&c->node->lock);
    secret.vault = request->vault;
    secret.name = request->name;
    secret.tags = request->tags;
    secret.n_tags = request->n_tags;
    secret.content_type = request->content_type;
    response.secret = &secret;
    fake_ok(c, &response);
    kluis__v1__secret_set_request__free_unpacked(request, NULL);
}

static void serve_get(struct fake_call *c)
{
    Kluis__V1__SecretGetRequest *request =
        kluis__v1__secret_get_request__unpack(NULL, c->call->payload.len, c->call->payload.data);
    Kluis__V1__SecretGetResponse response = KLUIS__V1__SECRET_GET_RESPONSE__INIT;
    Kluis__V1__Secret secret = KLUIS__V1__SECRET__INIT;
    uint8_t value[KL_SECRET_VALUE_MAX];

    assert_non_null(request);
    (void)pthread_mutex_lock(&c->node->lock);
    memcpy(value, c->node->value, c->node->value_len);
    secret.value = (ProtobufCBinaryData){c->node->value_len, value};
    (void)pthread_mutex_unlock(&c->node->lock);
    secret.vault = request->vault;
    secret.name = request->name;
    response.secret = &secret;
    fake_ok(c, &response);
    kluis__v1__secret_get_request__free_unpacked(request, NULL);
}

void fake_serve(struct fake_call *c)
{
    if (strcmp(c->call->method, "/kluis.v1.Secrets/Set") == 0) {
        serve_set(c);
    } else if (strcmp(c->call->method, "/kluis.v1.Secrets/Get") == 0) {
        serve_get(c);
    } else {
        fake_status(c, KL_UNIMPLEMENTED);
    }
}

struct kluis_client *fake_client(struct fake *const *nodes, size_t n, bool no_wait)
{
    const char *endpoints[8];
    struct kluis_options options = {.endpoints = endpoints,
                                    .endpoints_n = n,
                                    .ca_file = fixture_files(CERT_SERVER).ca_file,
                                    .token = "a-token",
                                    .no_wait = no_wait};
    struct kluis_client *client = NULL;
    char err[256] = "";

    for (size_t i = 0; i < n; i++) {
        endpoints[i] = nodes[i]->address;
    }
    if (kluis_open(&options, &client, err, sizeof err) != KLUIS_OK) {
        print_error("kluis_open: %s\n", err);
        fail();
    }
    return client;
}
