/*
 * Nodes whose power fails: they refuse nothing and close nothing, they only say no more.
 */
#include "tests/unit/client/fake.h"

#include "client/lib/internal.h"

enum { REFUSALS = 5, GROUP = 1, LONG_MS = 30000 };

/* Two nodes at home, of which one leads, and one away that leads after some refusals. */
struct scene {
    struct fake home[2];
    struct fake away;
    struct kluis_client *client;
    uint64_t uses_then; /* client->uses when the first call came to the node away */
};

static enum kluis_status set(struct kluis_client *client)
{
    return kluis_secret_set(client, "team", "db", "v", 1, NULL, LONG_MS, NULL);
}

static struct kluis_client *open_client(const struct fake *node)
{
    const char *endpoints[] = {node->address};
    struct kluis_options options = {.endpoints = endpoints,
                                    .endpoints_n = 1,
                                    .ca_file = fixture_files(CERT_SERVER).ca_file,
                                    .token = "token"};
    struct kluis_client *client = NULL;

    CHECK_EQ(kluis_open(&options, &client, NULL, 0), KLUIS_OK);
    return client;
}

/* client->uses when the endpoint was last chosen for a call; 0 = never. */
static uint64_t used(struct kluis_client *client, const struct fake *node)
{
    uint64_t at = 0;

    (void)pthread_mutex_lock(&client->lock);
    for (int i = 0; i < client->endpoints_n; i++) {
        if (strcmp(client->endpoints[i].address, node->address) == 0) {
            at = client->endpoints[i].used;
        }
    }
    (void)pthread_mutex_unlock(&client->lock);
    return at;
}

static void lead_later(struct fake_call *c)
{
    struct scene *s = c->node->arg;

    if (c->nth == 1) {
        (void)pthread_mutex_lock(&s->client->lock);
        s->uses_then = s->client->uses;
        (void)pthread_mutex_unlock(&s->client->lock);
    }
    if (c->nth <= REFUSALS) {
        fake_not_leader(c, GROUP, NULL);
    } else {
        fake_serve(c);
    }
}

/* arg is the leader. */
static void point(struct fake_call *c)
{
    fake_not_leader(c, GROUP, c->node->arg);
}

/* both: there are connections to both nodes at home. */
static void lose_home(bool both)
{
    struct scene s = {.uses_then = 0};
    const struct fake_region regions[] = {
        {&s.home[0], "home", false}, {&s.home[1], "home", false}, {&s.away, "away", false}};
    const struct fake *last = both ? &s.home[1] : &s.home[0];
    uint64_t chosen;

    fake_start(&s.home[0], CERT_SERVER, both ? point : fake_serve, &s.home[1]);
    fake_start(&s.home[1], CERT_SERVER, fake_serve, NULL);
    fake_start(&s.away, CERT_SERVER, lead_later, &s);
    for (unsigned i = 0; i < 2; i++) {
        s.home[i].regions = regions;
        s.home[i].regions_n = 3;
    }
    s.client = open_client(&s.home[0]);
    CHECK_EQ(set(s.client), KLUIS_OK);
    CHECK(fake_conns(&s.away, 1));
    CHECK_EQ(s.home[1].conns, both);
    chosen = used(s.client, last);
    fake_dark(&s.home[0]);
    fake_dark(&s.home[1]);
    CHECK_EQ(set(s.client), KLUIS_OK);
    CHECK_EQ(s.away.calls, REFUSALS + 1);
    CHECK_EQ(s.away.conns, 1);
    CHECK(used(s.client, last) > chosen); /* that was how its silence was noticed */
    CHECK(used(s.client, &s.home[0]) < s.uses_then);
    CHECK(used(s.client, &s.home[1]) < s.uses_then);
    kluis_close(s.client);
    fake_stop(&s.home[0]);
    fake_stop(&s.home[1]);
    fake_stop(&s.away);
}

/* From the silence of a node on, its region is left alone: the call stays with the connection that is
 * there until that node leads, and waits for no other at home in between. */
TEST(silence, region_is_left)
{
    lose_home(false);
}

/* Also when the other node at home was connected, and has not been found out yet. */
TEST(silence, neighbour_is_not_trusted)
{
    lose_home(true);
}

struct night {
    struct fake *dark, *other;
    unsigned calls; /* of the other: then it is day */
};

static void *end_night(void *arg)
{
    struct night *n = arg;

    CHECK(fake_calls(n->other, n->calls));
    fake_light(n->dark);
    return NULL;
}

/* Points at the leader once, then knows of none. */
static void point_once(struct fake_call *c)
{
    fake_not_leader(c, GROUP, c->nth == 1 ? c->node->arg : NULL);
}

static void come_back(fake_fn other)
{
    struct fake a;
    struct fake b;
    struct night n = {.dark = &a, .other = &b};
    struct kluis_client *client;
    pthread_t thread;

    fake_start(&a, CERT_SERVER, fake_serve, NULL);
    fake_start(&b, CERT_SERVER, other, &a);
    client = open_client(&b);
    CHECK_EQ(set(client), KLUIS_OK);
    CHECK_EQ(b.calls, 1);
    fake_dark(&a);
    n.calls = b.calls + 4;
    CHECK_EQ(pthread_create(&thread, NULL, end_night, &n), 0);
    CHECK_EQ(set(client), KLUIS_OK);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(a.calls, 2);
    kluis_close(client);
    fake_stop(&a);
    fake_stop(&b);
}

/* Whoever has been silent is found again when it is the only one that serves: nobody knows a region
 * here, and the others, which are connected, only point at it. */
TEST(silence, ends_for_whom_others_point_at)
{
    come_back(point);
}

/* Nor does it take a hint. */
TEST(silence, ends_by_itself)
{
    come_back(point_once);
}
