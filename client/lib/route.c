/*
 * Which node to ask: a bounded table of addresses, and what is known of who leads. What is
 * remembered here is only a guess; the node that is asked corrects it with a hint.
 */
#include "client/lib/internal.h"
#include "common/names.h"

#include <assert.h>
#include <stdio.h>

enum kl_status kl_endpoint_split(const char *address, char *host, size_t host_len)
{
    const char *colon = strrchr(address, ':');
    const char *begin = address;
    const char *end = colon;
    uint64_t port;

    if (colon == NULL || strlen(address) >= KL_CLIENT_ADDRESS_MAX ||
        kl_number_parse(colon + 1, 1, UINT16_MAX, &port) != KL_OK) {
        return KL_INVALID_ARGUMENT;
    }
    if (address[0] == '[') {
        begin++;
        end--;
        if (end <= begin || *end != ']') {
            return KL_INVALID_ARGUMENT;
        }
    } else if (memchr(address, ':', (size_t)(colon - address)) != NULL) {
        return KL_INVALID_ARGUMENT; /* an IPv6 address needs its brackets */
    }
    if (begin == end || (size_t)(end - begin) >= host_len) {
        return KL_INVALID_ARGUMENT;
    }
    for (const char *p = begin; p < end; p++) {
        if (*p <= ' ' || *p > '~' || *p == '/') {
            return KL_INVALID_ARGUMENT;
        }
    }
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    return KL_OK;
}

/* A slot for a new address: a new one, or the learned one that was of no use for longest. */
static int free_slot(struct kluis_client *client)
{
    int best = -1;

    if (client->endpoints_n < KL_CLIENT_ENDPOINTS_MAX) {
        return client->endpoints_n++;
    }
    for (int i = 0; i < client->endpoints_n; i++) {
        const struct kl_endpoint *e = &client->endpoints[i];

        if (e->configured || e->line != NULL || e->pins != 0) {
            continue;
        }
        if (best < 0 || e->used < client->endpoints[best].used) {
            best = i;
        }
    }
    return best;
}

int kl_route_endpoint(struct kluis_client *client, const char *address, bool configured)
{
    char host[KL_CLIENT_ADDRESS_MAX];
    struct kl_endpoint *e;
    int at;

    for (int i = 0; i < client->endpoints_n; i++) {
        if (strcmp(client->endpoints[i].address, address) == 0) {
            client->endpoints[i].configured |= configured;
            return i;
        }
    }
    if (kl_endpoint_split(address, host, sizeof host) != KL_OK) {
        return -1;
    }
    at = free_slot(client);
    if (at < 0) {
        return -1;
    }
    e = &client->endpoints[at];
    *e = (struct kl_endpoint){.configured = configured, .used = ++client->uses};
    (void)snprintf(e->address, sizeof e->address, "%s", address);
    (void)snprintf(e->host, sizeof e->host, "%s", host);
    return at;
}

void kl_route_key(char kind, const char *vault, char key[KL_ROUTE_KEY_MAX])
{
    size_t n = strlen(vault);

    key[0] = '\0';
    if (n != 0 && n <= KL_VAULT_NAME_MAX) {
        key[0] = kind;
        kl_name_fold(vault, key + 1, KL_ROUTE_KEY_MAX - 1);
    }
}

/* FNV-1a: the table is direct-mapped, a collision costs a hop. */
static struct kl_route_entry *entry_of(struct kluis_client *client, const char *key)
{
    uint32_t h = 2166136261u;

    for (const char *p = key; *p != '\0'; p++) {
        h = (h ^ (uint8_t)*p) * 16777619u;
    }
    return &client->routes[h & (KL_CLIENT_ROUTES_MAX - 1)];
}

static struct kl_route_entry *find(struct kluis_client *client, const char *key)
{
    struct kl_route_entry *entry = entry_of(client, key);

    return key[0] != '\0' && strcmp(entry->key, key) == 0 ? entry : NULL;
}

/* Finds or takes over the slot. */
static struct kl_route_entry *claim(struct kluis_client *client, const char *key)
{
    struct kl_route_entry *entry = entry_of(client, key);

    if (strcmp(entry->key, key) != 0) {
        (void)snprintf(entry->key, sizeof entry->key, "%s", key);
        entry->endpoint = -1;
        entry->group = KL_NO_GROUP;
    }
    return entry;
}

static int known_leader(struct kluis_client *client, const char *key)
{
    const struct kl_route_entry *entry = find(client, key);

    if (entry == NULL) {
        return -1;
    }
    return entry->group == KL_NO_GROUP ? entry->endpoint : client->leaders[entry->group];
}

void kl_route_good(struct kluis_client *client, const char *key, int endpoint)
{
    struct kl_route_entry *entry;

    client->favourite = endpoint;
    if (key[0] == '\0') {
        return;
    }
    entry = claim(client, key);
    entry->endpoint = endpoint;
    if (entry->group != KL_NO_GROUP) {
        client->leaders[entry->group] = endpoint;
    }
}

void kl_route_hint(struct kluis_client *client, const char *key, uint32_t group, int endpoint)
{
    struct kl_route_entry *entry;

    if (group >= KL_GROUPS_MAX) {
        return;
    }
    client->leaders[group] = endpoint;
    if (key[0] == '\0') {
        return;
    }
    entry = claim(client, key);
    entry->endpoint = endpoint;
    entry->group = group;
}

void kl_route_bad(struct kluis_client *client, const char *key, int endpoint)
{
    struct kl_route_entry *entry = find(client, key);

    if (client->favourite == endpoint) {
        client->favourite = -1;
    }
    if (entry == NULL) {
        return;
    }
    if (entry->endpoint == endpoint) {
        entry->endpoint = -1;
    }
    if (entry->group != KL_NO_GROUP && client->leaders[entry->group] == endpoint) {
        client->leaders[entry->group] = -1;
    }
}

static bool usable(const struct kluis_client *client, int endpoint, uint64_t now_us)
{
    return endpoint >= 0 && client->endpoints[endpoint].blocked_until_us <= now_us;
}

/* Something is waiting there for a sign of life. */
static bool silent(const struct kluis_client *client, int endpoint)
{
    const struct kl_line *line = client->endpoints[endpoint].line;

    return line != NULL && line->pinged_us != 0;
}

static bool connected(const struct kluis_client *client, int endpoint)
{
    const struct kl_line *line = client->endpoints[endpoint].line;

    return line != NULL && line->open && !silent(client, endpoint);
}

/* What an endpoint must be to be tried, at first and at last. */
enum wish { WARM, TRUSTED, CONNECTED, SERVES, ANY, WISHES };

static bool grants(const struct kluis_client *client, int endpoint, enum wish wish)
{
    const struct kl_endpoint *e = &client->endpoints[endpoint];

    switch (wish) {
    case WARM:
        return !e->witness && !e->doubted && connected(client, endpoint);
    case TRUSTED:
        return !e->witness && !e->doubted;
    case CONNECTED:
        return !e->witness && connected(client, endpoint);
    case SERVES:
        return !e->witness;
    default:
        return true;
    }
}

void kl_route_silent(struct kluis_client *client, int endpoint)
{
    const char *region = client->endpoints[endpoint].region;

    if (client->endpoints[endpoint].doubted) {
        return; /* and those of its region have been, unless they showed since that they live */
    }
    for (int i = 0; i < client->endpoints_n; i++) {
        struct kl_endpoint *e = &client->endpoints[i];

        e->doubted |= i == endpoint || (region[0] != '\0' && strcmp(e->region, region) == 0);
    }
}

void kl_route_alive(struct kluis_client *client, int endpoint)
{
    client->endpoints[endpoint].doubted = false;
}

/* Must calls keep away from it for now? */
static bool shunned(const struct kluis_client *client, int endpoint, uint64_t now_us)
{
    if (!client->endpoints[endpoint].doubted) {
        return false;
    }
    for (int i = 0; i < client->endpoints_n; i++) {
        if (usable(client, i, now_us) && grants(client, i, WARM)) {
            return true;
        }
    }
    return false;
}

/* The next usable endpoint in the round that is as wished, not `avoid`; -1. */
static int next_as(struct kluis_client *client, int avoid, uint64_t now_us, enum wish wish)
{
    for (int i = 0; i < client->endpoints_n; i++) {
        int at = (client->next_try + i) % client->endpoints_n;

        if (at != avoid && usable(client, at, now_us) && grants(client, at, wish) &&
            !shunned(client, at, now_us)) {
            client->next_try = (at + 1) % client->endpoints_n;
            return at;
        }
    }
    return -1;
}

/* The next in the round that is doubted and not being asked for a sign of life; -1. */
static int next_doubted(const struct kluis_client *client, uint64_t now_us)
{
    for (int i = 0; i < client->endpoints_n; i++) {
        int at = (client->next_try + i) % client->endpoints_n;
        const struct kl_endpoint *e = &client->endpoints[at];

        if (e->doubted && usable(client, at, now_us) &&
            (e->line == NULL || connected(client, at))) {
            return at;
        }
    }
    return -1;
}

/*
 * The next in the round: those that are connected already, then those that may serve. Every second
 * time the connected ones come in their turn like all: they may be the minority of a partition.
 */
static int next_in_turn(struct kluis_client *client, const struct kl_call *call, uint64_t now_us,
                        int *ask)
{
    const bool all = call->pauses % 2 != 0;
    int at = -1;

    if (all && *ask < 0) {
        *ask = next_doubted(client, now_us);
    }
    for (enum wish wish = WARM; wish < WISHES && at < 0; wish++) {
        if (!all || (wish != WARM && wish != CONNECTED)) {
            at = next_as(client, call->avoid, now_us, wish);
        }
    }
    return at;
}

static uint64_t first_unblocked(const struct kluis_client *client)
{
    uint64_t at_us = UINT64_MAX;

    for (int i = 0; i < client->endpoints_n; i++) {
        if (client->endpoints[i].blocked_until_us < at_us) {
            at_us = client->endpoints[i].blocked_until_us;
        }
    }
    return at_us;
}

/* May the call go to an endpoint that something speaks for? */
static bool fits(const struct kluis_client *client, int endpoint, uint64_t now_us, int *ask)
{
    if (!usable(client, endpoint, now_us)) {
        return false;
    }
    if (shunned(client, endpoint, now_us)) {
        *ask = endpoint;
        return false;
    }
    return true;
}

/* Best first: where the last reply pointed, who led last, who answered last, the next in turn. */
static int candidate(struct kluis_client *client, struct kl_call *call, uint64_t now_us, int *ask)
{
    int leader = known_leader(client, call->key);
    bool any = call->read.consistency == KLUIS_READ_STALE; /* whoever answers will do */

    if (fits(client, call->hint, now_us, ask)) {
        return call->hint;
    }
    if (leader != call->avoid && fits(client, leader, now_us, ask) &&
        !(any && silent(client, leader))) {
        return leader;
    }
    if (client->favourite != call->avoid && fits(client, client->favourite, now_us, ask) &&
        !(any && silent(client, client->favourite))) {
        return client->favourite;
    }
    return next_in_turn(client, call, now_us, ask);
}

int kl_route_choose(struct kluis_client *client, struct kl_call *call, uint64_t now_us,
                    uint64_t *at_us, int *ask)
{
    int at;

    *ask = -1;
    if (call->pinned >= 0) {
        at = usable(client, call->pinned, now_us) ? call->pinned : -1;
        *at_us = client->endpoints[call->pinned].blocked_until_us;
    } else {
        at = candidate(client, call, now_us, ask);
        if (at < 0 && usable(client, call->avoid, now_us)) {
            at = call->avoid; /* it failed, but there is no other */
        }
        *at_us = first_unblocked(client);
    }
    call->hint = -1;
    if (at >= 0) {
        client->endpoints[at].used = ++client->uses;
    }
    return at;
}
