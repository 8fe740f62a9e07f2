/*
 * Which nodes there are, and a way into each region that is open before it is needed.
 *
 * The nodes are learned from whoever answers, after the first call and again now and then while calls
 * are made. One endpoint of each region is kept: connected, asked for a sign of life when it has been
 * silent, and replaced in the background when it is gone, less and less often while that fails.
 * Everything here is done by the timer's thread.
 */
#include "client/lib/internal.h"

#include <stdio.h>

/* ---------------------------------------------------------------- learning */

static void learn(struct kluis_client *client, const Kluis__V1__DiscoveryNode *node)
{
    int at = kl_route_endpoint(client, node->client_address, false);
    struct kl_endpoint *e;

    if (at < 0) {
        return;
    }
    e = &client->endpoints[at];
    (void)snprintf(e->region, sizeof e->region, "%.*s", (int)sizeof e->region - 1, node->region);
    e->witness = node->witness;
}

static void learned(void *arg, enum kl_status status, Kluis__V1__Reply *reply, const char *text)
{
    struct kluis_client *client = arg;
    ProtobufCMessage *message = NULL;
    const Kluis__V1__DiscoveryNodesResponse *r;

    (void)text;
    if (status == KL_OK) {
        status =
            kl_message_unpack(&kluis__v1__discovery_nodes_response__descriptor,
                              (struct kl_bytes){reply->payload.data, reply->payload.len}, &message);
    }
    kl_reply_free(reply);
    (void)pthread_mutex_lock(&client->lock);
    r = (const void *)message;
    for (int i = 0; status == KL_OK && r->n_nodes != 0 && i < client->endpoints_n; i++) {
        client->endpoints[i].region[0] = '\0'; /* whoever has left is not kept any longer */
        client->endpoints[i].witness = false;
    }
    for (size_t i = 0; status == KL_OK && i < r->n_nodes && i < KL_NODES_MAX; i++) {
        learn(client, r->nodes[i]);
    }
    (void)pthread_cond_signal(&client->timer_wake); /* there may be regions to connect to */
    (void)pthread_mutex_unlock(&client->lock);
    kl_pb_wipe_free(message, &kl_pb_allocator);
}

bool kl_regions_ask_due(struct kluis_client *client, uint64_t now_us)
{
    if (client->brief || client->closing || client->answered == client->answered_asked ||
        (client->asked_us != 0 && now_us - client->asked_us < KL_CLIENT_NODES_MS * 1000ull)) {
        return false;
    }
    client->asked_us = now_us;
    client->answered_asked = client->answered;
    return true;
}

void kl_regions_ask(struct kluis_client *client)
{
    struct kl_request request = {
        .method = "/kluis.v1.Discovery/Nodes", .internal = true, .timeout_ms = KL_CLIENT_ASK_MS};

    /* When it cannot even begin there is always the next time. */
    if (kl_call_start(client, &request, learned, client) != KL_OK) {
        kl_buf_wipe(&request.payload);
    }
}

/* ---------------------------------------------------------------- keeping */

/* When the endpoint may be dialled again for its region's sake. */
static uint64_t keep_at(const struct kl_endpoint *e)
{
    uint64_t us = KL_CLIENT_KEEP_MIN_MS * 1000ull;

    if (e->failures == 0) {
        return 0;
    }
    for (unsigned i = 1; i < e->failures && us < KL_CLIENT_KEEP_MAX_MS * 1000ull; i++) {
        us *= 2;
    }
    if (us > KL_CLIENT_KEEP_MAX_MS * 1000ull) {
        us = KL_CLIENT_KEEP_MAX_MS * 1000ull;
    }
    return e->kept_us + us > e->blocked_until_us ? e->kept_us + us : e->blocked_until_us;
}

static bool in_region(const struct kl_endpoint *e, const char *region)
{
    return !e->witness && strcmp(e->region, region) == 0;
}

/* The endpoint whose connection stands for the region: one that is open before one that may be. */
static int connected(const struct kluis_client *client, const char *region)
{
    int best = -1;

    for (int i = 0; i < client->endpoints_n; i++) {
        const struct kl_endpoint *e = &client->endpoints[i];

        if (!in_region(e, region) || e->line == NULL) {
            continue;
        }
        if (best < 0 || (e->line->open && !client->endpoints[best].line->open)) {
            best = i;
        }
    }
    return best;
}

/* Connects one endpoint of the region, or says when one may be tried. */
static void connect_one(struct kluis_client *client, const char *region, uint64_t now_us,
                        uint64_t *next_us, struct kl_work *work)
{
    uint64_t first_us = UINT64_MAX;
    int best = -1;

    for (int i = 0; i < client->endpoints_n; i++) {
        struct kl_endpoint *e = &client->endpoints[i];

        if (in_region(e, region) && keep_at(e) < first_us) {
            first_us = keep_at(e);
            best = i;
        }
    }
    if (best >= 0 && first_us <= now_us) {
        client->endpoints[best].kept_us = now_us;
        if (kl_line_open(client, best, work) != KL_OK) {
            client->endpoints[best].failures++; /* no memory: later */
        }
        first_us = now_us + KL_CLIENT_KEEP_MIN_MS * 1000ull;
    }
    *next_us = first_us < *next_us ? first_us : *next_us;
}

static bool is_first_of_region(const struct kluis_client *client, int at)
{
    const struct kl_endpoint *e = &client->endpoints[at];

    if (e->region[0] == '\0' || e->witness) {
        return false;
    }
    for (int i = 0; i < at; i++) {
        if (in_region(&client->endpoints[i], e->region)) {
            return false;
        }
    }
    return true;
}

bool kl_regions_keep(struct kluis_client *client, uint64_t now_us, uint64_t *next_us,
                     struct kl_work *work)
{
    unsigned regions = 0;

    if (client->brief || client->closing) {
        return false;
    }
    for (int i = 0; i < client->endpoints_n; i++) {
        client->endpoints[i].kept = false;
    }
    for (int i = 0; i < client->endpoints_n && regions < KL_CLIENT_REGIONS_MAX; i++) {
        const char *region = client->endpoints[i].region;
        int at;

        if (!is_first_of_region(client, i) || kl_work_full(work)) {
            continue;
        }
        regions++;
        at = connected(client, region);
        if (at < 0) {
            connect_one(client, region, now_us, next_us, work);
        } else {
            client->endpoints[at].kept = true;
        }
    }
    return regions != 0;
}
