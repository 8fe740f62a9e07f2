/* The small parts: routes, page tokens, wire checks, deadlines, streams. */
#include "server/handlers/page.h"
#include "server/rpc/call.h"
#include "server/rpc/streams.h"
#include "tests/lib/test.h"

#include <raft.h>

/* Every method of every service has its row, and the rows fit the descriptors. */
TEST(routes, fit)
{
    char err[200] = "";
    size_t n = 0;
    const struct kl_route *routes = kl_routes(&n);

    CHECK_OK(kl_routes_check(err, sizeof err));
    CHECK_EQ(n, 35);
    for (size_t i = 0; i < n; i++) {
        CHECK(kl_route_find(routes[i].method) == &routes[i]);
    }
}

/* Only the exact path finds a route. */
TEST(routes, unknown)
{
    CHECK(kl_route_find("") == NULL);
    CHECK(kl_route_find("/kluis.v1.Secrets/get") == NULL);
    CHECK(kl_route_find("/kluis.v1.Secrets/Get/") == NULL);
    CHECK(kl_route_find("kluis.v1.Secrets/Get") == NULL);
    CHECK(kl_route_find("/kluis.v2.Secrets/Get") == NULL);
}

/* Whatever changes something needs a request id, a right of its own, and leaves a trail. */
TEST(routes, writes_are_guarded)
{
    size_t n = 0;
    const struct kl_route *routes = kl_routes(&n);

    for (size_t i = 0; i < n; i++) {
        if (routes[i].write) {
            CHECK(routes[i].audit != KL_AUDIT_NONE);
            CHECK(routes[i].right != KL_RIGHT_NONE);
        }
        CHECK(routes[i].right != KL_RIGHT_NONE || routes[i].known ||
              strcmp(routes[i].method, "/kluis.v1.Health/Check") == 0);
    }
}

/* The names that Cluster.Status gives libraft's numbers are right while these hold. */
TEST(routes, raft_numbers)
{
    CHECK_EQ(RAFT_CANDIDATE, 2);
    CHECK_EQ(RAFT_LEADER, 3);
    CHECK_EQ(RAFT_STANDBY, 0);
    CHECK_EQ(RAFT_VOTER, 1);
}

/* ---- page tokens ---- */

/* A token comes back as it was; an empty one is the start. */
TEST(page, round_trip)
{
    struct kl_page in = {.group = 0x1234, .after_len = 5, .after = "abcde"};
    struct kl_page out;
    char text[KL_PAGE_TOKEN_MAX + 1];

    CHECK_OK(kl_page_write("/m", kl_bytes_str("0123456789abcdef"), &in, text));
    CHECK_OK(kl_page_read("/m", kl_bytes_str("0123456789abcdef"), text, &out));
    CHECK_EQ(out.group, in.group);
    CHECK_EQ(out.after_len, 5);
    CHECK_STR((const char *)out.after, "abcde");
    CHECK_OK(kl_page_read("/m", kl_bytes_str("x"), "", &out));
    CHECK_EQ(out.after_len, 0);
    CHECK_EQ(out.group, 0);
}

/* The longest position fits the limit of a token. */
TEST(page, longest)
{
    struct kl_page in = {.group = 65535, .after_len = KL_OBJECT_NAME_MAX};
    struct kl_page out;
    char text[KL_PAGE_TOKEN_MAX + 1];

    memset(in.after, 'z', KL_OBJECT_NAME_MAX);
    CHECK_OK(kl_page_write("/m", kl_bytes_of(NULL, 0), &in, text));
    CHECK(strlen(text) <= KL_PAGE_TOKEN_MAX);
    CHECK_OK(kl_page_read("/m", kl_bytes_of(NULL, 0), text, &out));
    CHECK_MEM(out.after, in.after, KL_OBJECT_NAME_MAX);
}

/* A token of another method or owner, cut, grown or changed in any digit, is refused. */
TEST(page, forged)
{
    struct kl_page in = {.group = 1, .after_len = 3, .after = "abc"};
    struct kl_page out;
    char text[KL_PAGE_TOKEN_MAX + 3];
    size_t n;

    CHECK_OK(kl_page_write("/m", kl_bytes_str("owner"), &in, text));
    CHECK_STATUS(kl_page_read("/n", kl_bytes_str("owner"), text, &out), KL_INVALID_ARGUMENT);
    CHECK_STATUS(kl_page_read("/m", kl_bytes_str("other"), text, &out), KL_INVALID_ARGUMENT);
    n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        char was = text[i];

        text[i] = was == '0' ? '1' : '0';
        CHECK_STATUS(kl_page_read("/m", kl_bytes_str("owner"), text, &out), KL_INVALID_ARGUMENT);
        text[i] = 'g';
        CHECK_STATUS(kl_page_read("/m", kl_bytes_str("owner"), text, &out), KL_INVALID_ARGUMENT);
        text[i] = 0;
        if (i > 0) {
            CHECK_STATUS(kl_page_read("/m", kl_bytes_str("owner"), text, &out),
                         KL_INVALID_ARGUMENT);
        }
        text[i] = was;
    }
    memcpy(text + n, "00", 3);
    CHECK_STATUS(kl_page_read("/m", kl_bytes_str("owner"), text, &out), KL_INVALID_ARGUMENT);
}

/* ---- the wire ---- */

static enum kl_status wire(const void *bytes, size_t n, const char **field)
{
    return kl_wire_check(&kluis__v1__secret_set_request__descriptor, kl_bytes_of(bytes, n), field);
}

/* A zero byte in a string names its field, in sub-messages too; in bytes it is fine. */
TEST(wire, zero_bytes)
{
    const char *field = NULL;

    CHECK_STATUS(wire("\x12\x03"
                      "a\0b",
                      5, &field),
                 KL_INVALID_ARGUMENT);
    CHECK_STR(field, "name");
    CHECK_STATUS(wire("\x2a\x04\x0a\x02k\0", 6, &field), KL_INVALID_ARGUMENT);
    CHECK_STR(field, "key");
    CHECK_OK(wire("\x1a\x03"
                  "a\0b",
                  5, &field));
}

/* Truncated, overlong and group-encoded fields are refused; unknown fields are skipped. */
TEST(wire, malformed)
{
    const char *field = NULL;

    CHECK_OK(wire("", 0, &field));
    CHECK_STATUS(wire("\x12", 1, &field), KL_PROTOCOL);
    CHECK_STATUS(wire("\x12\x05"
                      "ab",
                      4, &field),
                 KL_PROTOCOL);
    CHECK_STATUS(wire("\x00\x01", 2, &field), KL_PROTOCOL); /* field 0 */
    CHECK_STATUS(wire("\x0b\x0c", 2, &field), KL_PROTOCOL); /* a group */
    CHECK_STATUS(wire("\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, &field),
                 KL_PROTOCOL); /* a number of 11 bytes */
    CHECK_STATUS(wire("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, &field), KL_PROTOCOL);
    CHECK_OK(wire("\xfa\x7f\x03xyz", 6, &field)); /* unknown bytes */
    CHECK_OK(wire("\xf8\x7f\x05", 3, &field));    /* unknown number */
    CHECK_OK(wire("\x3d\x01\x02\x03\x04", 5, &field));
    CHECK_STATUS(wire("\x3d\x01\x02\x03", 4, &field), KL_PROTOCOL);
    CHECK_STATUS(wire("\x39\x01\x02\x03\x04\x05\x06\x07", 8, &field), KL_PROTOCOL);
}

/* A message that unpacks to far more than its size takes no more than its budget. */
TEST(wire, bomb)
{
    enum { N = 200000 };
    uint8_t *bytes = malloc((size_t)2 * N);
    const char *field = NULL;
    struct kl_unpack u;
    ProtobufCMessage *m = NULL;

    CHECK(bytes != NULL);
    for (size_t i = 0; i < N; i++) {
        bytes[2 * i] = 0x2a; /* an empty tag */
        bytes[2 * i + 1] = 0;
    }
    CHECK_STATUS(kl_wire_unpack(&kluis__v1__secret_set_request__descriptor,
                                kl_bytes_of(bytes, (size_t)2 * N), &u, &m, &field),
                 KL_TOO_LARGE);
    CHECK(m == NULL);
    free(bytes);
}

/* The deadline is read without unpacking; the last one counts; garbage has none. */
TEST(wire, deadline)
{
    CHECK_EQ(kl_wire_deadline_ms(kl_bytes_of("\x0a\x01x\x18\x05", 5)), 5);
    CHECK_EQ(kl_wire_deadline_ms(kl_bytes_of("\x18\x05\x18\x06", 4)), 6);
    CHECK_EQ(kl_wire_deadline_ms(kl_bytes_of("\xff", 1)), 0);
    CHECK_EQ(kl_wire_deadline_ms(kl_bytes_of("", 0)), 0);
}

/* ---- deadlines ---- */

/* Whatever was added comes out once, not before its time and at most a slot after it. */
TEST(wheel, in_time)
{
    enum { N = 2000 };
    static struct kl_wheel w;
    static struct kl_due due[N];
    uint64_t seed = test_seed();
    uint64_t now = 1000000;
    size_t out = 0;

    memset(due, 0, sizeof due);
    kl_wheel_init(&w, now);
    for (size_t i = 0; i < N; i++) {
        kl_wheel_add(&w, &due[i], now + test_random(&seed) % 60000000);
    }
    for (size_t i = 0; i < N; i += 7) {
        kl_wheel_remove(&w, &due[i]);
        kl_wheel_remove(&w, &due[i]);
        out++;
    }
    while (now < 62000000) {
        struct kl_due *d;

        while ((d = kl_wheel_take(&w, now)) != NULL) {
            CHECK(d->at_us <= now);
            CHECK(now - d->at_us <= 2 * KL_WHEEL_SLOT_US + 30000);
            CHECK((size_t)(d - due) % 7 != 0);
            out++;
        }
        now += test_random(&seed) % 30000;
    }
    CHECK_EQ(out, N);
    CHECK_EQ(w.count, 0);
}

/* What is late when it is added, and what is found after a long sleep, comes out at once. */
TEST(wheel, late)
{
    static struct kl_wheel w;
    struct kl_due a = {0};
    struct kl_due b = {0};

    kl_wheel_init(&w, 5000000);
    CHECK(kl_wheel_take(&w, 5000000) == NULL);
    kl_wheel_add(&w, &a, 1);
    CHECK(kl_wheel_take(&w, 5000000) == &a);
    kl_wheel_add(&w, &b, 6000000);
    CHECK(kl_wheel_take(&w, 900000000000) == &b);
    CHECK(kl_wheel_take(&w, 900000000000) == NULL);
}

/* ---- streams ---- */

/* Against a plain array: adds, cancels and ends in random order. */
TEST(streams, like_an_array)
{
    enum { N = 300 };
    static int model[N]; /* 0 free, 1 under way, 2 cancelled */
    struct kl_streams s = {0};
    uint64_t seed = test_seed();

    memset(model, 0, sizeof model);
    for (size_t i = 0; i < 200000; i++) {
        uint32_t k = (uint32_t)(test_random(&seed) % N);
        uint32_t stream = k * 65536u; /* many with one home */

        switch (test_random(&seed) % 4) {
        case 0:
        case 1:
            CHECK_STATUS(kl_streams_add(&s, stream), model[k] == 0 ? KL_OK : KL_ALREADY_EXISTS);
            model[k] = model[k] == 0 ? 1 : model[k];
            break;
        case 2:
            kl_streams_cancel(&s, stream);
            model[k] = model[k] == 0 ? 0 : 2;
            break;
        default:
            if (model[k] != 0) {
                CHECK_EQ(kl_streams_end(&s, stream), model[k] == 1);
                model[k] = 0;
            }
        }
    }
    for (size_t k = 0; k < N; k++) {
        if (model[k] != 0) {
            CHECK_EQ(kl_streams_end(&s, (uint32_t)k * 65536u), model[k] == 1);
        }
    }
    CHECK_EQ(s.n, 0);
    kl_streams_done(&s);
}

/* A connection has so many calls under way and no more. */
TEST(streams, cap)
{
    struct kl_streams s = {0};

    for (uint32_t i = 0; i < KL_CALLS_PER_CONN_MAX; i++) {
        CHECK_OK(kl_streams_add(&s, i));
    }
    CHECK_STATUS(kl_streams_add(&s, KL_CALLS_PER_CONN_MAX), KL_EXHAUSTED);
    CHECK(kl_streams_end(&s, 17));
    CHECK_OK(kl_streams_add(&s, KL_CALLS_PER_CONN_MAX));
    kl_streams_done(&s);
}

/* ---- replies ---- */

/* The largest error there can be fits its buffer, and says what it should. */
TEST(reply, largest_error)
{
    char field[64], limit[160], address[128];
    struct kl_reply_facts facts = {.status = KL_VAULT_DELETED,
                                   .field = field,
                                   .limit = limit,
                                   .hint = true,
                                   .group = 65535,
                                   .leader_id = UINT64_MAX,
                                   .leader_address = address,
                                   .server_time_ms = UINT64_MAX};
    uint8_t packed[KL_REPLY_ERROR_MAX];
    Kluis__V1__Reply *r;
    size_t n;

    memset(field, 'f', sizeof field);
    memset(limit, 'l', sizeof limit);
    memset(address, 'a', sizeof address);
    field[sizeof field - 1] = limit[sizeof limit - 1] = address[sizeof address - 1] = 0;
    n = kl_reply_pack_error(&facts, packed);
    r = kluis__v1__reply__unpack(NULL, n, packed);
    CHECK(r != NULL);
    CHECK_EQ(r->code, 6);
    CHECK_STR(r->status, "VAULT_DELETED");
    CHECK_STR(r->fields[0]->field, field);
    CHECK_STR(r->fields[0]->limit, limit);
    CHECK_STR(r->leader->address, address);
    CHECK_EQ(r->leader->group, 65535);
    kluis__v1__reply__free_unpacked(r, NULL);
}

/* A payload of any size, none included, comes out as it went in. */
TEST(reply, payload)
{
    static const size_t sizes[] = {0, 1, 100, 200, 20000, 3000000};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        Kluis__V1__SecretBackupResponse in = KLUIS__V1__SECRET_BACKUP_RESPONSE__INIT;
        Kluis__V1__SecretBackupResponse *out;
        Kluis__V1__Reply *r;
        struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
        const struct kl_reply_from from = {
            .node_id = 7, .region = "west", .age_ms = 250, .server_time_ms = 12345};

        in.blob.len = sizes[i];
        in.blob.data = calloc(1, sizes[i] + 1);
        CHECK(in.blob.data != NULL);
        memset(in.blob.data, 'x', sizes[i]);
        CHECK_OK(kl_reply_pack_ok(&from, &in.base, &packed));
        r = kluis__v1__reply__unpack(NULL, packed.len, packed.ptr);
        CHECK(r != NULL);
        CHECK_EQ(r->server_time_ms, 12345);
        CHECK_EQ(r->age_ms, 250);
        CHECK_EQ(r->node_id, 7);
        CHECK_STR(r->region, "west");
        out = kluis__v1__secret_backup_response__unpack(NULL, r->payload.len, r->payload.data);
        CHECK(out != NULL);
        CHECK_EQ(out->blob.len, sizes[i]);
        CHECK(sizes[i] == 0 || memcmp(out->blob.data, in.blob.data, sizes[i]) == 0);
        kluis__v1__secret_backup_response__free_unpacked(out, NULL);
        kluis__v1__reply__free_unpacked(r, NULL);
        free(in.blob.data);
        kl_buf_wipe(&packed);
    }
}
