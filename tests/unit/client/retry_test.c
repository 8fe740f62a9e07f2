/*
 * What a client may do behind the caller's back, seen from the nodes it talks to.
 */
#include "tests/unit/client/fake.h"

#include "common/alloc.h"

/* LATE_MS: no machine is so busy; and a call that took no notice of its own deadline has the default. */
enum { SHORT_MS = 400, LATE_MS = KL_DEADLINE_DEFAULT_MS / 2 };

struct pair {
    struct fake a, b;
    struct kluis_client *client;
};

static void pair_start(struct pair *p, fake_fn a, fake_fn b)
{
    struct fake *nodes[2] = {&p->a, &p->b};

    fake_start(&p->a, CERT_SERVER, a, &p->b);
    fake_start(&p->b, CERT_SERVER, b, &p->a);
    p->client = fake_client(nodes, 2, false);
}

static void pair_stop(struct pair *p)
{
    kluis_close(p->client);
    fake_stop(&p->a);
    fake_stop(&p->b);
}

static void one_start(struct pair *p, fake_fn answer)
{
    struct fake *nodes[1] = {&p->a};

    *p = (struct pair){.client = NULL};
    fake_start(&p->a, CERT_SERVER, answer, NULL);
    p->client = fake_client(nodes, 1, false);
}

/* A write that must succeed; its outcome is not looked at. */
static void set_ok(struct kluis_client *client, const char *text)
{
    CHECK_EQ(kluis_secret_set(client, "team", "db", text, strlen(text), NULL, 0, NULL), KLUIS_OK);
}

static enum kluis_status get(struct kluis_client *client, uint32_t timeout_ms)
{
    struct kluis_secret *secret = NULL;
    enum kluis_status st = kluis_secret_get(client, "team", "db", NULL, timeout_ms, &secret);

    kluis_secret_free(secret);
    return st;
}

static void hint_to_other(struct fake_call *c)
{
    fake_not_leader(c, 3, c->node->arg);
}

/* A value of any bytes comes back as it was given, and the token travels as a bearer token. */
TEST(retry, value_and_token_travel)
{
    static const uint8_t value[] = {0, 1, 0xff, '\n', 0};
    struct kluis_secret *secret = NULL;
    struct pair p;

    one_start(&p, fake_serve);
    CHECK_EQ(kluis_secret_set(p.client, "team", "db", value, sizeof value, NULL, 0, &secret),
             KLUIS_OK);
    CHECK_STR(secret->name, "db");
    CHECK(secret->value == NULL);
    kluis_secret_free(secret);
    secret = NULL;
    CHECK_EQ(kluis_secret_get(p.client, "team", "db", NULL, 0, &secret), KLUIS_OK);
    CHECK_EQ(secret->value_len, sizeof value);
    CHECK_MEM(secret->value, value, sizeof value);
    CHECK_STR(p.a.authorization, "Bearer a-token");
    CHECK_STR(kluis_last_error(), "");
    kluis_secret_free(secret);
    pair_stop(&p);
}

/* A hint is followed at once, also to an address that was never configured, and remembered: the
 * next call of that vault goes straight there. */
TEST(retry, follows_and_remembers_the_leader)
{
    struct fake *nodes[1];
    struct pair p;
    uint64_t began;

    fake_start(&p.a, CERT_SERVER, hint_to_other, &p.b);
    fake_start(&p.b, CERT_SERVER, fake_serve, NULL);
    nodes[0] = &p.a;
    p.client = fake_client(nodes, 1, false);
    began = test_now_ms();
    set_ok(p.client, "x");
    CHECK(test_now_ms() - began < LATE_MS);
    CHECK_EQ(p.a.calls, 1);
    CHECK_EQ(p.b.calls, 1);
    CHECK_MEM(p.a.seen[0].request_id, p.b.seen[0].request_id, KL_ID_LEN);
    CHECK_EQ(get(p.client, 0), KLUIS_OK);
    CHECK_EQ(p.a.calls, 1);
    CHECK_EQ(p.b.calls, 2);
    pair_stop(&p);
}

/* Two vaults of one group: what is learned of the leader for one holds for the other. */
TEST(retry, leader_is_known_by_group)
{
    struct pair p;
    struct kluis_secret *secret = NULL;

    pair_start(&p, hint_to_other, fake_serve);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(kluis_secret_get(p.client, i % 2 == 0 ? "team" : "Other", "db", NULL, 0, &secret),
                 KLUIS_OK);
        kluis_secret_free(secret);
    }
    CHECK(p.a.calls <= 2);
    CHECK_EQ(p.b.calls, 4);
    pair_stop(&p);
}

static void drop_first(struct fake_call *c)
{
    struct fake *other = c->node->arg;

    if (c->nth + (other == NULL ? 0 : other->calls) == 1) {
        fake_drop(c);
    } else {
        fake_serve(c);
    }
}

/* A write whose connection is lost after it was sent goes out again with the same request id and
 * the same expiry, so the servers can tell that it is the same; and only then. */
TEST(retry, lost_write_repeats_its_request_id)
{
    struct pair p;

    one_start(&p, drop_first);
    set_ok(p.client, "x");
    set_ok(p.client, "y");
    CHECK_EQ(p.a.calls, 3);
    CHECK(p.a.seen[0].has_id);
    CHECK_MEM(p.a.seen[0].request_id, p.a.seen[1].request_id, KL_ID_LEN);
    CHECK(memcmp(p.a.seen[1].request_id, p.a.seen[2].request_id, KL_ID_LEN) != 0);
    CHECK_EQ(p.a.seen[0].expires_ms, p.a.seen[1].expires_ms);
    pair_stop(&p);
}

/* A read whose connection is lost is asked again, elsewhere when there is another node. */
TEST(retry, lost_read_goes_elsewhere)
{
    struct pair p;

    pair_start(&p, drop_first, drop_first);
    CHECK_EQ(get(p.client, 0), KLUIS_OK);
    CHECK_EQ(p.a.calls, 1);
    CHECK_EQ(p.b.calls, 1);
    CHECK(!p.a.seen[0].has_id);
    pair_stop(&p);
}

static void answer_forbidden(struct fake_call *c)
{
    fake_status(c, KL_FORBIDDEN);
}

static void answer_field(struct fake_call *c)
{
    fake_field(c, KL_INVALID_ARGUMENT, "name", "1..127 of [0-9A-Za-z-]");
}

/* An answer that will not change is not asked for twice, and says what was wrong with what. */
TEST(retry, final_answers_are_final)
{
    struct pair p;

    one_start(&p, answer_forbidden);
    CHECK_EQ(get(p.client, 0), KLUIS_FORBIDDEN);
    CHECK_EQ(p.a.calls, 1);
    CHECK_STR(kluis_last_error(), "the caller lacks the right");
    p.a.answer = answer_field;
    CHECK_EQ(get(p.client, 0), KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(p.a.calls, 2);
    CHECK_STR(kluis_last_error(),
              "a field of the request is not valid; name: 1..127 of [0-9A-Za-z-]");
    pair_stop(&p);
}

/* A server that never answers: the call is over at its deadline, neither before nor much after, the
 * server is told, and a write says that it does not know. */
TEST(retry, deadline_is_exact)
{
    struct pair p;
    uint64_t began;
    uint64_t took;

    one_start(&p, fake_serve);
    CHECK_EQ(get(p.client, 0), KLUIS_OK); /* connected: what follows is sent at once */
    p.a.answer = fake_silent;
    began = test_now_ms();
    CHECK_EQ(get(p.client, SHORT_MS), KLUIS_TIMEOUT);
    took = test_now_ms() - began;
    CHECK(took >= SHORT_MS - 1 && took < LATE_MS);
    CHECK(strstr(kluis_last_error(), "not known") == NULL);
    CHECK(fake_cancels(&p.a, 1));
    CHECK(p.a.seen[1].deadline_ms <= SHORT_MS && p.a.seen[1].deadline_ms > 0);
    began = test_now_ms();
    CHECK_EQ(kluis_secret_set(p.client, "team", "db", "x", 1, NULL, SHORT_MS, NULL), KLUIS_TIMEOUT);
    took = test_now_ms() - began;
    CHECK(took >= SHORT_MS - 1 && took < LATE_MS);
    CHECK(strstr(kluis_last_error(), "whether the write was done is not known") != NULL);
    CHECK(fake_cancels(&p.a, 2));
    CHECK_EQ(p.a.calls, 3);
    pair_stop(&p);
}

static void answer_unavailable(struct fake_call *c)
{
    fake_status(c, KL_UNAVAILABLE);
}

/* Without a leader a call keeps trying with growing pauses until its deadline; the end of a read
 * is UNAVAILABLE, that of a write TIMEOUT, since one of the tries may have been done. */
TEST(retry, backs_off_until_the_deadline)
{
    struct pair p;
    uint64_t began;

    pair_start(&p, answer_unavailable, answer_unavailable);
    began = test_now_ms();
    CHECK_EQ(get(p.client, 3000), KLUIS_UNAVAILABLE);
    CHECK(test_now_ms() - began < LATE_MS);
    CHECK(p.a.calls + p.b.calls >= 4);
    CHECK(p.a.calls + p.b.calls <= 20);
    CHECK(p.a.calls >= 1 && p.b.calls >= 1);
    CHECK_EQ(kluis_secret_set(p.client, "team", "db", "x", 1, NULL, SHORT_MS, NULL), KLUIS_TIMEOUT);
    CHECK(strstr(kluis_last_error(), "whether the write was done is not known") != NULL);
    pair_stop(&p);
}

/* Two nodes that point at each other do not make a client spin. */
TEST(retry, hops_are_bounded)
{
    struct pair p;

    pair_start(&p, hint_to_other, hint_to_other);
    CHECK_EQ(get(p.client, 3000), KLUIS_NOT_LEADER);
    CHECK(p.a.calls + p.b.calls >= KL_CLIENT_HOPS_MAX);
    CHECK(p.a.calls + p.b.calls <= 20 * KL_CLIENT_HOPS_MAX);
    pair_stop(&p);
}

static void no_hint(struct fake_call *c)
{
    fake_not_leader(c, 1, NULL);
}

/* A node that does not know the leader is left for another one. */
TEST(retry, tries_others_without_a_hint)
{
    struct pair p;

    pair_start(&p, no_hint, fake_serve);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(get(p.client, 0), KLUIS_OK);
    }
    CHECK(p.a.calls <= 1);
    CHECK_EQ(p.b.calls, 4);
    pair_stop(&p);
}

static void busy_then_serve(struct fake_call *c)
{
    if (c->nth == 1) {
        fake_retry_after(c, KL_EXHAUSTED, 300);
    } else {
        fake_serve(c);
    }
}

/* A server that is full is given the time it asks for. */
TEST(retry, respects_retry_after)
{
    struct pair p;

    one_start(&p, busy_then_serve);
    CHECK_EQ(get(p.client, 0), KLUIS_OK);
    CHECK_EQ(p.a.calls, 2);
    CHECK(p.a.seen[1].at_ms - p.a.seen[0].at_ms >= 299);
    pair_stop(&p);
}

static void answer_changed(struct fake_call *c)
{
    fake_status(c, KL_CHANGED);
}

/* CHANGED is tried again a few times, not for the whole deadline. */
TEST(retry, changed_is_bounded)
{
    struct pair p;
    uint64_t began = test_now_ms();

    one_start(&p, answer_changed);
    CHECK_EQ(kluis_secret_delete(p.client, "team", "db", 0, NULL), KLUIS_CHANGED);
    CHECK_EQ(p.a.calls, KL_CLIENT_CHANGED_MAX);
    CHECK(test_now_ms() - began < 20000);
    pair_stop(&p);
}

/* no_wait: one try, whatever it says. */
TEST(retry, no_wait_is_one_try)
{
    struct pair p = {.client = NULL};
    struct fake *nodes[1] = {&p.a};

    fake_start(&p.a, CERT_SERVER, answer_unavailable, NULL);
    p.client = fake_client(nodes, 1, true);
    CHECK_EQ(get(p.client, 0), KLUIS_UNAVAILABLE);
    CHECK_EQ(p.a.calls, 1);
    p.a.answer = fake_drop;
    CHECK_EQ(get(p.client, 0), KLUIS_UNAVAILABLE);
    CHECK_EQ(p.a.calls, 2);
    pair_stop(&p);
}

/* The expiry of a write: unknown before the first answer; then the server's time, what is left of
 * the deadline and half the allowed skew; none on reads. */
TEST(retry, expiry_follows_the_servers_clock)
{
    struct pair p;
    uint64_t expires;

    one_start(&p, fake_serve);
    set_ok(p.client, "x");
    CHECK_EQ(p.a.seen[0].expires_ms, 0);
    set_ok(p.client, "y");
    expires = p.a.seen[1].expires_ms;
    CHECK(expires >= p.a.server_time_ms + KL_DEADLINE_DEFAULT_MS + KL_CLOCK_SKEW_MS / 2 - 1);
    CHECK(expires < p.a.server_time_ms + KL_DEADLINE_DEFAULT_MS + KL_CLOCK_SKEW_MS / 2 + 20000);
    CHECK_EQ(get(p.client, 0), KLUIS_OK);
    CHECK_EQ(p.a.seen[2].expires_ms, 0);
    pair_stop(&p);
}

/* The servers' time goes on by days between two calls. */
static void later_by_days(struct fake_call *c)
{
    if (c->nth == 2) {
        c->node->server_time_ms += 100 * KL_DAY_MS;
        fake_status(c, KL_EXPIRED);
    } else {
        fake_serve(c);
    }
}

static void always_expired(struct fake_call *c)
{
    fake_status(c, KL_EXPIRED);
}

/* A write that the servers call late before its deadline is tried once more, under the same id, with
 * an expiry by the time they have told. */
TEST(retry, servers_time_moves_on)
{
    struct pair p;

    one_start(&p, later_by_days);
    set_ok(p.client, "x");
    set_ok(p.client, "y");
    CHECK_EQ(p.a.calls, 3);
    CHECK_MEM(p.a.seen[1].request_id, p.a.seen[2].request_id, KL_ID_LEN);
    CHECK(p.a.seen[2].expires_ms > p.a.seen[1].expires_ms + 99 * KL_DAY_MS);
    p.a.answer = always_expired;
    CHECK_EQ(kluis_secret_set(p.client, "team", "db", "z", 1, NULL, 0, NULL), KLUIS_EXPIRED);
    CHECK_EQ(p.a.calls, 5);
    pair_stop(&p);
}

static void garbage(struct fake_call *c)
{
    if (c->nth == 1) {
        fake_raw(c, "\xff\xff\xff", 3);
    } else {
        fake_serve(c);
    }
}

/* An answer that is no answer ends that call, not the client. */
TEST(retry, malformed_reply)
{
    struct pair p;

    one_start(&p, garbage);
    CHECK_EQ(get(p.client, 0), KLUIS_PROTOCOL);
    CHECK_EQ(get(p.client, 0), KLUIS_OK);
    pair_stop(&p);
}

/* A node that is gone: refused, said so, and by the deadline. */
TEST(retry, nobody_listens)
{
    struct pair p;
    uint64_t began;

    one_start(&p, fake_serve);
    fake_stop(&p.a);
    began = test_now_ms();
    CHECK_EQ(get(p.client, SHORT_MS), KLUIS_UNAVAILABLE);
    CHECK(test_now_ms() - began < LATE_MS);
    CHECK(strstr(kluis_last_error(), "127.0.0.1:") != NULL);
    kluis_close(p.client);
}

/* A certificate of another CA is not spoken to: the call ends at once and says why. */
TEST(retry, untrusted_node)
{
    struct pair p = {.client = NULL};
    struct fake *nodes[1] = {&p.a};
    uint64_t began;

    fake_start(&p.a, CERT_ALIEN, fake_serve, NULL);
    p.client = fake_client(nodes, 1, false);
    began = test_now_ms();
    CHECK_EQ(get(p.client, 30000), KLUIS_UNAVAILABLE);
    CHECK(test_now_ms() - began < 10000);
    CHECK(strstr(kluis_last_error(), "certificate is not trusted: ") != NULL);
    CHECK_EQ(p.a.calls, 0);
    pair_stop(&p);
}

/* The certificate must be of the host that was dialled. */
TEST(retry, certificate_of_another_host)
{
    struct pair p = {.client = NULL};
    struct kluis_options options = {.endpoints_n = 1};
    const char *endpoints[1];
    char address[64];
    char err[256];

    fake_start(&p.a, CERT_SERVER, fake_serve, NULL);
    /* Another name of this machine, not in the certificate. */
    (void)snprintf(address, sizeof address, "127.1:%s", strchr(p.a.address, ':') + 1);
    endpoints[0] = address;
    options.endpoints = endpoints;
    options.ca_file = fixture_files(CERT_SERVER).ca_file;
    CHECK_EQ(kluis_open(&options, &p.client, err, sizeof err), KLUIS_OK);
    CHECK_EQ(get(p.client, 3000), KLUIS_UNAVAILABLE);
    CHECK_EQ(p.a.calls, 0);
    pair_stop(&p);
}
