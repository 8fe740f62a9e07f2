/* The dispatcher: who may, what is well-formed, deadlines, limits, leaders, the end. */
#include "tests/unit/rpc/fixture.h"

#include <time.h>

#define GET     "/kluis.v1.Secrets/Get"
#define SET     "/kluis.v1.Secrets/Set"
#define LIST    "/kluis.v1.Secrets/List"
#define TEXT(s) ((char *)(uintptr_t)(s))

static void nap(void)
{
    const struct timespec t = {0, 2000000};

    (void)nanosleep(&t, NULL);
}

static struct fix *with_secret(void)
{
    struct fix *f = fix_new(1);

    make_vault(f, "vault", false);
    set_secret(f, "vault", "s", "value", NULL);
    return f;
}

static Kluis__V1__SecretGetRequest get_request(void)
{
    Kluis__V1__SecretGetRequest req = KLUIS__V1__SECRET_GET_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT("s");
    return req;
}

static Kluis__V1__SecretSetRequest set_request(void)
{
    Kluis__V1__SecretSetRequest req = KLUIS__V1__SECRET_SET_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT("s");
    req.value = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "new"};
    return req;
}

static void expect(struct fix *f, const struct ask *ask, enum kl_status st, const char *field)
{
    struct answer a = fix_ask(f, ask);

    CHECK_STATUS(a.st, st);
    if (field != NULL) {
        CHECK_EQ(a.reply->n_fields, 1);
        CHECK_STR(a.reply->fields[0]->field, field);
        CHECK(a.reply->fields[0]->limit[0] != 0);
    }
    answer_free(&a);
}

/* ---- who may ---- */

/* Without a token, with a wrong one, with another scheme, nothing is served. */
TEST(auth, tokens)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest req = get_request();
    static char huge[KL_TOKEN_MAX + 100];
    const char *const tokens[] = {"", "Bearer wrong", "Bearer ", "admin-token", "Basic YWJj", huge};
    struct ask ask = {.method = GET, .request = &req.base};

    memset(huge, 'x', sizeof huge - 1);
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        ask.token = tokens[i];
        expect(f, &ask, KL_UNAUTHENTICATED, NULL);
    }
    ask.token = NULL;
    expect(f, &ask, KL_OK, NULL);
    fix_free(f);
}

/* Every route but Health is refused to one who has every right but the route's own. */
TEST(auth, each_right)
{
    struct fix *f = with_secret();
    size_t n = 0;
    const struct kl_route *routes = kl_routes(&n);
    uint64_t before[2] = {fake_store_index(f->stores[0]), fake_store_index(f->stores[1])};

    for (size_t i = 0; i < n; i++) {
        char token[64];
        struct ask ask = {.method = routes[i].method, .token = token};

        if (routes[i].right == KL_RIGHT_NONE || routes[i].right == KL_RIGHT_NODE) {
            continue;
        }
        (void)snprintf(token, sizeof token, "Bearer without-%d", (int)routes[i].right);
        expect(f, &ask, KL_FORBIDDEN, "authorization");
    }
    CHECK_EQ(fake_store_index(f->stores[0]), before[0]);
    CHECK_EQ(fake_store_index(f->stores[1]), before[1]);
    fix_free(f);
}

/* A new table of principals holds for the next call. */
TEST(auth, swapped)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest req = get_request();
    const struct ask ask = {.method = GET, .request = &req.base};
    struct kl_principal p = {.name = "other"};
    struct kl_auth *auth = NULL;

    expect(f, &ask, KL_OK, NULL);
    kl_auth_token_hash(kl_bytes_str("else"), p.token_sha256);
    CHECK_OK(kl_auth_new(&p, 1, &auth));
    kl_dispatch_set_auth(f->nodes[0].dispatch, auth);
    expect(f, &ask, KL_UNAUTHENTICATED, NULL);
    fix_free(f);
}

/* A sealed node serves no vault, but says how it is. */
TEST(auth, sealed)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest req = get_request();
    Kluis__V1__ClusterStatusRequest status = KLUIS__V1__CLUSTER_STATUS_REQUEST__INIT;
    const struct ask get = {.method = GET, .request = &req.base};
    const struct ask show = {.method = "/kluis.v1.Cluster/Status", .request = &status.base};

    fix_seal(f, &f->nodes[0], true);
    expect(f, &get, KL_SEALED, NULL);
    expect(f, &show, KL_OK, NULL);
    fix_seal(f, &f->nodes[0], false);
    expect(f, &get, KL_OK, NULL);
    fix_free(f);
}

/* ---- what is well-formed ---- */

/* Unknown methods are UNIMPLEMENTED, as in gRPC. */
TEST(envelope, unknown_methods)
{
    struct fix *f = fix_new(1);
    const char *const methods[] = {"", "/", "/kluis.v1.Secrets/Nothing", "/kluis.v2.Secrets/Get",
                                   "/kluis.v1.Internal/PlaceVault"};
    struct ask ask = {0};

    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        ask.method = methods[i];
        expect(f, &ask, KL_UNIMPLEMENTED, NULL);
    }
    fix_free(f);
}

/* A write without an id, or with one of another length, is refused before anything happens. */
TEST(envelope, request_id)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest req = set_request();
    const uint8_t id[32] = {1};
    struct ask ask = {.method = SET, .request = &req.base, .no_request_id = true};
    uint64_t before = fake_store_index(f->stores[1]);

    expect(f, &ask, KL_INVALID_ARGUMENT, "request_id");
    ask.no_request_id = false;
    ask.request_id = id;
    ask.request_id_len = 15;
    expect(f, &ask, KL_INVALID_ARGUMENT, "request_id");
    ask.request_id_len = 32;
    expect(f, &ask, KL_INVALID_ARGUMENT, "request_id");
    CHECK_EQ(fake_store_index(f->stores[1]), before);
    fix_free(f);
}

/* Reads need no id. */
TEST(envelope, reads_need_no_id)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest req = get_request();
    const struct ask ask = {.method = GET, .request = &req.base, .no_request_id = true};

    expect(f, &ask, KL_OK, NULL);
    fix_free(f);
}

/* Deadlines and expiries have their limits; a write that has expired is not done. */
TEST(envelope, times)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest req = set_request();
    struct ask ask = {.method = SET, .request = &req.base, .deadline_ms = 60001};
    uint64_t now = f->clock.wall_ms(f);
    char value[32];

    expect(f, &ask, KL_INVALID_ARGUMENT, "deadline_ms");
    ask.deadline_ms = 60000;
    ask.expires_ms = now + 80000;
    expect(f, &ask, KL_INVALID_ARGUMENT, "expires_ms");
    ask.expires_ms = now - 1000;
    expect(f, &ask, KL_EXPIRED, NULL);
    CHECK_OK(get_secret(f, "vault", "s", "", value, sizeof value));
    CHECK_STR(value, "value");
    ask.expires_ms = now + 60000;
    expect(f, &ask, KL_OK, NULL);
    fix_free(f);
}

/* While the cluster's time is not known no write is taken, and it may be tried again. */
TEST(envelope, time_unknown)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest req = set_request();
    const struct ask ask = {.method = SET, .request = &req.base};
    struct answer a;

    atomic_store(&f->wall_ahead_ms, UINT64_MAX);
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_UNAVAILABLE);
    CHECK_EQ(a.reply->server_time_ms, 0);
    answer_free(&a);
    atomic_store(&f->wall_ahead_ms, 0);
    expect(f, &ask, KL_OK, NULL);
    fix_free(f);
}

/* Garbage for a payload, too large a payload, a bomb: refused, named, nothing happens. */
TEST(envelope, payloads)
{
    struct fix *f = with_secret();
    enum { BOMB = 400000, LARGE = 1100000 };
    uint8_t *bytes = malloc(LARGE);
    struct ask ask = {.method = SET};

    CHECK(bytes != NULL);
    ask.payload = kl_bytes_of("\xff\xff\xff", 3);
    expect(f, &ask, KL_INVALID_ARGUMENT, "payload");
    ask.payload = kl_bytes_of("\x0a\x7fshort", 7);
    expect(f, &ask, KL_INVALID_ARGUMENT, "payload");
    ask.payload = kl_bytes_of("\x08\x01", 2); /* the vault as a number */
    expect(f, &ask, KL_INVALID_ARGUMENT, "payload");
    for (size_t i = 0; i < BOMB; i += 2) {
        bytes[i] = 0x2a;
        bytes[i + 1] = 0;
    }
    ask.payload = kl_bytes_of(bytes, BOMB);
    expect(f, &ask, KL_TOO_LARGE, "payload");
    ask.payload = kl_bytes_of(bytes, LARGE);
    expect(f, &ask, KL_TOO_LARGE, "payload");
    ask.method = GET;
    ask.payload = kl_bytes_of(bytes, 5000);
    expect(f, &ask, KL_TOO_LARGE, "payload");
    free(bytes);
    fix_free(f);
}

struct one_reply {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned n;
    enum kl_status st;
};

static void on_one(void *arg, uint32_t stream, struct kl_bytes reply)
{
    struct one_reply *r = arg;
    Kluis__V1__Reply *m = kluis__v1__reply__unpack(NULL, reply.len, reply.ptr);

    (void)stream;
    (void)pthread_mutex_lock(&r->lock);
    r->n++;
    r->st = m == NULL ? KL_INTERNAL : kl_status_from_name(m->status);
    (void)pthread_cond_broadcast(&r->changed);
    (void)pthread_mutex_unlock(&r->lock);
    kluis__v1__reply__free_unpacked(m, NULL);
}

static enum kl_status raw(struct fix *f, const void *bytes, size_t n)
{
    struct one_reply r = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    const struct kl_origin origin = {.reply = on_one, .arg = &r};

    CHECK_OK(kl_buf_put(&packed, bytes, n));
    kl_dispatch_call(f->nodes[0].dispatch, &packed, &origin);
    (void)pthread_mutex_lock(&r.lock);
    while (r.n == 0) {
        (void)pthread_cond_wait(&r.changed, &r.lock);
    }
    (void)pthread_mutex_unlock(&r.lock);
    CHECK_EQ(r.n, 1);
    return r.st;
}

/* An envelope of garbage, of nothing, with a zero byte, with a bomb of metadata: one answer each. */
TEST(envelope, garbage)
{
    struct fix *f = fix_new(1);
    enum { BOMB = 600000 };
    uint8_t *bytes = malloc(BOMB);

    CHECK(bytes != NULL);
    CHECK_STATUS(raw(f, "", 0), KL_UNIMPLEMENTED);
    CHECK_STATUS(raw(f, "\xff", 1), KL_PROTOCOL);
    CHECK_STATUS(raw(f,
                     "\x0a\x05"
                     "ab",
                     4),
                 KL_PROTOCOL);
    CHECK_STATUS(raw(f,
                     "\x0a\x03"
                     "a\0b",
                     5),
                 KL_INVALID_ARGUMENT);
    for (size_t i = 0; i < BOMB; i += 2) {
        bytes[i] = 0x22;
        bytes[i + 1] = 0;
    }
    CHECK_STATUS(raw(f, bytes, BOMB), KL_TOO_LARGE);
    free(bytes);
    fix_free(f);
}

/* More metadata than allowed is refused; fields of a later version are ignored. */
TEST(envelope, metadata_and_unknown_fields)
{
    struct fix *f = fix_new(1);
    static const char health[] = "\x0a\x16/kluis.v1.Health/Check";
    char bytes[400];
    size_t n = sizeof health - 1;

    memcpy(bytes, health, n);
    memcpy(bytes + n, "\xfa\x7f\x03xyz\xf8\x7f\x05", 9);
    CHECK_STATUS(raw(f, bytes, n + 9), KL_OK);
    for (int i = 0; i < 17; i++) {
        memcpy(bytes + n, "\x22\x03\x0a\x01k", 5);
        n += 5;
    }
    CHECK_STATUS(raw(f, bytes, n), KL_INVALID_ARGUMENT);
    CHECK_STATUS(raw(f, bytes, n - 5), KL_OK);
    fix_free(f);
}

/* ---- deadlines ---- */

/* A proposal that hangs is answered at the deadline, once; its late outcome harms nothing. */
TEST(deadline, hanging_proposal)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest req = set_request();
    const uint8_t id[KL_ID_LEN] = {0xe0};
    struct ask ask = {.method = SET, .request = &req.base, .request_id = id, .deadline_ms = 30};
    struct answer a;
    char value[32];

    fake_store_hold(f->stores[1], true);
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_TIMEOUT);
    answer_free(&a);
    atomic_fetch_sub(&f->mono_ahead_us, 1000000); /* the group has not given up on it */
    fake_store_hold(f->stores[1], false);
    ask.deadline_ms = 0;
    a = fix_ask(f, &ask); /* the retry learns that it was done */
    CHECK_OK(a.st);
    answer_free(&a);
    CHECK_OK(get_secret(f, "vault", "s", "", value, sizeof value));
    CHECK_STR(value, "new");
    fix_free(f);
}

static void block(void *arg)
{
    atomic_int *blocked = arg;

    atomic_fetch_add(blocked, 1);
    while (atomic_load(blocked) > 0) {
        nap();
    }
}

struct blocker {
    struct kl_job job;
    atomic_int *blocked;
};

static void run_blocker(struct kl_job *job)
{
    struct blocker *b = (struct blocker *)job;

    block(b->blocked);
}

/* Keeps all workers of the pool until *blocked is set to 0. */
static void block_workers(struct fix *f, struct blocker blockers[3], atomic_int *blocked)
{
    for (size_t i = 0; i < 3; i++) {
        blockers[i] = (struct blocker){.job.run = run_blocker, .blocked = blocked};
        CHECK_OK(kl_pool_submit(f->pool, &blockers[i].job));
    }
    while (atomic_load(blocked) < 3) {
        nap();
    }
}

/* Calls that never get a worker are answered at their deadline too. */
TEST(deadline, in_the_queue)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest req = get_request();
    struct ask ask = {.method = GET, .request = &req.base, .deadline_ms = 20};
    atomic_int blocked = 0;
    struct blocker blockers[3];
    struct pending *p[10];

    block_workers(f, blockers, &blocked);
    for (size_t i = 0; i < 10; i++) {
        p[i] = fix_start(f, &ask);
    }
    for (size_t i = 0; i < 10; i++) {
        struct answer a = fix_wait(p[i]);

        CHECK_STATUS(a.st, KL_TIMEOUT);
        answer_free(&a);
    }
    atomic_store(&blocked, 0);
    ask.deadline_ms = 0;
    expect(f, &ask, KL_OK, NULL);
    fix_free(f);
}

/* ---- limits ---- */

/* Beyond so many calls under way, more are refused with advice; when they end there is room. */
TEST(limits, calls_max)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest req = set_request();
    const struct ask ask = {.method = SET, .request = &req.base};
    struct pending *p[FIX_CALLS_MAX];
    struct kl_dispatch_counters counters;
    struct answer a;

    fake_store_hold(f->stores[1], true);
    for (size_t i = 0; i < FIX_CALLS_MAX; i++) {
        p[i] = fix_start(f, &ask);
    }
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_EXHAUSTED);
    CHECK(a.reply->retry_after_ms != 0);
    answer_free(&a);
    kl_dispatch_counters(f->nodes[0].dispatch, &counters);
    CHECK_EQ(counters.active, FIX_CALLS_MAX);
    CHECK(counters.refused >= 1);
    fake_store_hold(f->stores[1], false);
    for (size_t i = 0; i < FIX_CALLS_MAX; i++) {
        a = fix_wait(p[i]);
        CHECK_OK(a.st);
        answer_free(&a);
    }
    expect(f, &ask, KL_OK, NULL);
    fix_free(f);
}

/* The bytes of calls under way are bounded too: one large call more is refused, a small one is not. */
TEST(limits, bytes_max)
{
    enum { LARGE = 3 << 20, N = 3 };
    struct fix *f = with_secret();
    uint8_t *bytes = calloc(1, LARGE);
    struct ask ask = {.method = SET, .payload = kl_bytes_of(bytes, LARGE)};
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask small = {.method = SET, .request = &set.base};
    atomic_int blocked = 0;
    struct blocker blockers[3];
    struct pending *p[N];
    struct answer a;

    CHECK(bytes != NULL);
    block_workers(f, blockers, &blocked);
    for (size_t i = 0; i < N; i++) {
        p[i] = fix_start(f, &ask);
    }
    a = fix_wait(p[N - 1]);
    CHECK_STATUS(a.st, KL_EXHAUSTED);
    answer_free(&a);
    p[N - 1] = fix_start(f, &small);
    CHECK(!fix_answered(p[0]) && !fix_answered(p[N - 1]));
    atomic_store(&blocked, 0);
    for (size_t i = 0; i < N; i++) {
        a = fix_wait(p[i]);
        CHECK_STATUS(a.st, i < N - 1 ? KL_TOO_LARGE : KL_OK);
        answer_free(&a);
    }
    free(bytes);
    fix_free(f);
}

/* ---- leaders ---- */

/* A node that does not lead names the one that does, for reads and for writes. */
TEST(leaders, hints)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest get = get_request();
    Kluis__V1__SecretDeleteRequest del = KLUIS__V1__SECRET_DELETE_REQUEST__INIT;
    Kluis__V1__VaultDeleteRequest vdel = KLUIS__V1__VAULT_DELETE_REQUEST__INIT;
    const struct ask asks[] = {
        {.method = GET, .request = &get.base, .node = &f->nodes[1]},
        {.method = "/kluis.v1.Secrets/Delete", .request = &del.base, .node = &f->nodes[1]},
        {.method = "/kluis.v1.Vaults/Delete", .request = &vdel.base, .node = &f->nodes[1]},
    };

    del.vault = vdel.name = TEXT("vault");
    del.name = TEXT("s");
    for (size_t i = 0; i < 3; i++) {
        struct answer a = fix_ask(f, &asks[i]);

        CHECK_STATUS(a.st, KL_NOT_LEADER);
        CHECK(a.reply->leader != NULL);
        CHECK_EQ(a.reply->leader->group, 1);
        CHECK_EQ(a.reply->leader->node_id, 1);
        CHECK_STR(a.reply->leader->address, "127.0.0.1:1001");
        answer_free(&a);
    }
    fix_free(f);
}

/* A name the directory's replica does not know is a matter for the directory's leader. */
TEST(leaders, unknown_vault)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest get = get_request();
    struct ask ask = {.method = GET, .request = &get.base, .node = &f->nodes[1]};
    struct answer a;

    get.vault = TEXT("unknown");
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_NOT_LEADER);
    CHECK_EQ(a.reply->leader->group, 0);
    CHECK_EQ(a.reply->leader->node_id, 1);
    answer_free(&a);
    ask.node = NULL;
    expect(f, &ask, KL_VAULT_NOT_FOUND, "vault");
    fake_store_lead(f->stores[0], 0);
    expect(f, &ask, KL_UNAVAILABLE, NULL);
    fix_free(f);
}

/* The lease ran out while reading: what was read is dropped. */
TEST(leaders, lease_lost)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest get = get_request();
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask read = {.method = GET, .request = &get.base};
    const struct ask write = {.method = SET, .request = &set.base};
    uint64_t before = fake_store_index(f->stores[1]);
    struct answer a;

    fake_store_fail_reads(f->stores[1], 1);
    a = fix_ask(f, &read);
    CHECK_STATUS(a.st, KL_UNAVAILABLE);
    CHECK(a.reply->retry_after_ms != 0);
    answer_free(&a);
    fake_store_fail_reads(f->stores[1], 1);
    expect(f, &write, KL_UNAVAILABLE, NULL);
    CHECK_EQ(fake_store_index(f->stores[1]), before);
    expect(f, &read, KL_OK, NULL);
    fix_free(f);
}

/* What the group says to a proposal reaches the caller. */
TEST(leaders, refused_proposals)
{
    static const enum kl_status told[][2] = {
        {KL_EXHAUSTED, KL_EXHAUSTED}, {KL_CLOSED, KL_UNAVAILABLE}, {KL_NO_SPACE, KL_NO_SPACE}};
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask ask = {.method = SET, .request = &set.base};

    for (size_t i = 0; i < 3; i++) {
        fake_store_refuse(f->stores[1], 1, told[i][0]);
        expect(f, &ask, told[i][1], NULL);
    }
    fix_free(f);
}

/* ---- the end ---- */

/* While draining new calls are sent elsewhere and those under way are answered. */
TEST(drain, in_order)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest set = set_request();
    Kluis__V1__SecretGetRequest get = get_request();
    const struct ask write = {.method = SET, .request = &set.base};
    const struct ask read = {.method = GET, .request = &get.base};
    struct pending *p;
    struct answer a;

    fake_store_hold(f->stores[1], true);
    p = fix_start(f, &write);
    while (fake_store_waiting(f->stores[1]) == 0) {
        nap();
    }
    kl_dispatch_drain(f->nodes[0].dispatch, 20); /* not in time */
    CHECK(!fix_answered(p));
    a = fix_ask(f, &read);
    CHECK_STATUS(a.st, KL_UNAVAILABLE);
    answer_free(&a);
    fake_store_hold(f->stores[1], false);
    a = fix_wait(p); /* the outcome is not looked at any more, but there is an answer */
    CHECK_STATUS(a.st, KL_UNAVAILABLE);
    answer_free(&a);
    fix_free(f);
}

/* ---- many at once ---- */

struct crowd {
    struct fix *f;
    int id;
    atomic_int *failures;
};

static void *visitor(void *arg)
{
    struct crowd *c = arg;
    char name[16];
    char value[32], got[32];

    for (int i = 0; i < 60; i++) {
        Kluis__V1__SecretSetRequest set = KLUIS__V1__SECRET_SET_REQUEST__INIT;
        Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
        uint8_t id[KL_ID_LEN] = {(uint8_t)c->id, (uint8_t)i, 0xf0};
        const struct ask write = {.method = SET, .request = &set.base, .request_id = id};
        const struct ask read = {.method = GET, .request = &get.base, .request_id = id};
        struct answer a;

        (void)snprintf(name, sizeof name, "s%d", c->id);
        (void)snprintf(value, sizeof value, "%d of %d", i, c->id);
        set.vault = get.vault = TEXT("vault");
        set.name = get.name = name;
        set.value = (ProtobufCBinaryData){strlen(value), (uint8_t *)value};
        a = fix_ask(c->f, &write);
        atomic_fetch_add(c->failures, a.st != KL_OK);
        answer_free(&a);
        a = fix_ask(c->f, &read);
        if (a.st == KL_OK) {
            const Kluis__V1__Secret *s = ((Kluis__V1__SecretGetResponse *)a.response)->secret;

            memcpy(got, s->value.data, s->value.len);
            got[s->value.len] = 0;
            atomic_fetch_add(c->failures, strcmp(got, value) != 0);
        } else {
            atomic_fetch_add(c->failures, 1);
        }
        answer_free(&a);
    }
    return NULL;
}

/* Many callers at once: each reads what it wrote, nobody is forgotten. */
TEST(crowd, reads_its_writes)
{
    enum { N = 8 };
    struct fix *f = with_secret();
    atomic_int failures = 0;
    pthread_t threads[N];
    struct crowd c[N];

    for (int i = 0; i < N; i++) {
        c[i] = (struct crowd){f, i, &failures};
        CHECK_EQ(pthread_create(&threads[i], NULL, visitor, &c[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    CHECK_EQ(atomic_load(&failures), 0);
    fix_free(f);
}

struct batch_conn {
    atomic_int replies, held, flushes;
    int replies_at_flush[64];
};

static void batch_reply(void *arg, uint32_t stream, struct kl_bytes reply)
{
    struct batch_conn *c = arg;

    (void)stream;
    (void)reply;
    atomic_fetch_add(&c->replies, 1);
}

static void batch_hold(void *arg)
{
    atomic_fetch_add(&((struct batch_conn *)arg)->held, 1);
}

static void batch_release(void *arg)
{
    struct batch_conn *c = arg;

    atomic_fetch_sub(&c->held, 1);
    atomic_fetch_add(&c->flushes, 1);
}

/* Replies to one connection leave in batches, and none stays behind. */
TEST(crowd, replies_gather)
{
    enum { N = 48 };
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest get = get_request();
    const struct ask ask = {.method = GET, .request = &get.base};
    struct batch_conn conn = {0};
    struct kl_buf packed[N];
    struct kl_origin origins[N];

    for (size_t i = 0; i < N; i++) {
        packed[i] = fix_pack(f, &ask);
        origins[i] = (struct kl_origin){.stream = (uint32_t)i,
                                        .reply = batch_reply,
                                        .arg = &conn,
                                        .hold = batch_hold,
                                        .release = batch_release};
    }
    kl_dispatch_calls(f->nodes[0].dispatch, packed, origins, N);
    while (atomic_load(&conn.replies) < N || atomic_load(&conn.held) > 0) {
        nap();
    }
    CHECK_EQ(atomic_load(&conn.replies), N);
    CHECK(atomic_load(&conn.flushes) >= 1);
    fix_free(f);
}

/* ---- traces ---- */

/* The audit trail names who did what to which secret, with which outcome, and never the value. */
TEST(trail, names_no_values)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest set = set_request();
    const struct ask bad = {.method = SET, .request = &set.base, .token = "Bearer wrong"};
    char path[300];
    static char text[20000];
    size_t n;
    FILE *file;

    expect(f, &bad, KL_UNAUTHENTICATED, NULL);
    set_secret(f, "vault", "audited", "TOP-SECRET-VALUE", NULL);
    (void)snprintf(path, sizeof path, "%s", f->audit_path);
    fix_free(f);
    file = fopen(path, "r");
    CHECK(file != NULL);
    n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    (void)fclose(file);
    CHECK(strstr(text, "vault/audited") != NULL);
    CHECK(strstr(text, "\"admin\"") != NULL);
    CHECK(strstr(text, "UNAUTHENTICATED") != NULL);
    CHECK(strstr(text, "/kluis.v1.Secrets/Set") != NULL);
    CHECK(strstr(text, "TOP-SECRET-VALUE") == NULL);
    CHECK(strstr(text, "admin-token") == NULL);
}

static bool no_mark(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    (void)arg;
    (void)key;
    CHECK(memmem(value.ptr, value.len, "PLAINTEXT-MARK", 14) == NULL);
    return true;
}

/* No value that was set is in the stores in the clear. */
TEST(trail, sealed_at_rest)
{
    struct fix *f = with_secret();

    set_secret(f, "vault", "s", "PLAINTEXT-MARK", NULL);
    for (size_t i = 0; i < 2; i++) {
        struct kl_kv *kv = fake_store_kv(f->stores[i]);

        CHECK_OK(kl_kv_scan(kv, NULL, kl_bytes_of(NULL, 0), kl_bytes_of(NULL, 0), no_mark, NULL));
    }
    fix_free(f);
}
