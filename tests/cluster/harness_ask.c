/* What a cluster says of itself. */
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <string.h>

enum { POLL_MS = 20, STATUS_MS = 2000, DIGEST_MS = 60000, AGREE_POLL_MS = 100, CALL_MS = 20000 };

Kluis__V1__ClusterStatusResponse *cluster_status(struct cluster *c, struct kluis_client *client,
                                                 unsigned node)
{
    Kluis__V1__ClusterStatusResponse *r = NULL;
    uint8_t *bytes = NULL;
    size_t len = 0;

    if (kluis_call(client, "/kluis.v1.Cluster/Status", NULL, 0, false, cluster_endpoint(c, node),
                   STATUS_MS, &bytes, &len) != KLUIS_OK) {
        return NULL;
    }
    r = kluis__v1__cluster_status_response__unpack(NULL, len, bytes);
    kluis_bytes_free(bytes, len);
    return r;
}

static bool leads(const Kluis__V1__ClusterStatusResponse *s, uint32_t group)
{
    for (size_t i = 0; i < s->n_groups; i++) {
        if (s->groups[i]->group == group) {
            return strcmp(s->groups[i]->role, "leader") == 0 && s->groups[i]->lease;
        }
    }
    return false;
}

int cluster_leader(struct cluster *c, struct kluis_client *client, uint32_t group,
                   unsigned timeout_ms)
{
    uint64_t until = harness_now_us() + (uint64_t)timeout_ms * 1000u;

    do {
        for (unsigned i = 0; i < cluster_size(c); i++) {
            Kluis__V1__ClusterStatusResponse *s =
                cluster_pid(c, i) == 0 ? NULL : cluster_status(c, client, i);
            bool yes = s != NULL && leads(s, group);

            if (s != NULL) {
                kluis__v1__cluster_status_response__free_unpacked(s, NULL);
            }
            if (yes) {
                return (int)i;
            }
        }
        harness_sleep_ms(POLL_MS);
    } while (harness_now_us() < until);
    return -1;
}

static Kluis__V1__ClusterDigestResponse *digest(struct cluster *c, struct kluis_client *client,
                                                unsigned node, uint32_t group)
{
    Kluis__V1__ClusterDigestRequest q = KLUIS__V1__CLUSTER_DIGEST_REQUEST__INIT;
    Kluis__V1__ClusterDigestResponse *r = NULL;
    uint8_t request[64];
    uint8_t *bytes = NULL;
    size_t len = 0;

    q.group = group;
    len = kluis__v1__cluster_digest_request__pack(&q, request);
    if (kluis_call(client, "/kluis.v1.Cluster/Digest", request, len, false,
                   cluster_endpoint(c, node), DIGEST_MS, &bytes, &len) != KLUIS_OK) {
        return NULL;
    }
    r = kluis__v1__cluster_digest_response__unpack(NULL, len, bytes);
    kluis_bytes_free(bytes, len);
    return r;
}

static bool agree_now(struct cluster *c, struct kluis_client *client, uint32_t group)
{
    Kluis__V1__ClusterDigestResponse *first = NULL;
    bool same = true;

    for (unsigned i = 0; same && i < cluster_size(c); i++) {
        Kluis__V1__ClusterDigestResponse *d;

        if (cluster_pid(c, i) == 0) {
            continue;
        }
        d = digest(c, client, i, group);
        if (d == NULL) {
            same = false;
        } else if (first == NULL) {
            first = d;
        } else {
            same = d->applied_index == first->applied_index && d->sha256.len == first->sha256.len &&
                   memcmp(d->sha256.data, first->sha256.data, d->sha256.len) == 0;
            kluis__v1__cluster_digest_response__free_unpacked(d, NULL);
        }
    }
    if (first != NULL) {
        kluis__v1__cluster_digest_response__free_unpacked(first, NULL);
    }
    return same && first != NULL;
}

bool cluster_digests_agree(struct cluster *c, struct kluis_client *client, uint32_t group,
                           unsigned timeout_ms)
{
    uint64_t until = harness_now_us() + (uint64_t)timeout_ms * 1000u;

    do {
        if (agree_now(c, client, group)) {
            return true;
        }
        harness_sleep_ms(AGREE_POLL_MS);
    } while (harness_now_us() < until);
    return false;
}

/* How many voters a node sees in the group; its own vote is one of them when `self` comes back true. */
static size_t voters_seen_by(struct cluster *c, struct kluis_client *client, unsigned node,
                             uint32_t group, bool *self)
{
    Kluis__V1__ClusterStatusResponse *s = cluster_status(c, client, node);
    size_t voters = 0;

    *self = false;
    for (size_t i = 0; s != NULL && i < s->n_groups; i++) {
        const Kluis__V1__GroupStatus *g = s->groups[i];

        for (size_t k = 0; g->group == group && k < g->n_members; k++) {
            if (strcmp(g->members[k]->role, "voter") == 0) {
                voters++;
                *self = *self || g->members[k]->node_id == node + 1;
            }
        }
    }
    if (s != NULL) {
        kluis__v1__cluster_status_response__free_unpacked(s, NULL);
    }
    return voters;
}

/* Each node must say it of itself: the others still name the former directory of one that was replaced,
 * until it is removed. */
static bool voters_now(struct cluster *c, struct kluis_client *client, uint32_t group)
{
    for (unsigned i = 0; i < cluster_size(c); i++) {
        bool self = false;

        if (voters_seen_by(c, client, i, group, &self) != cluster_size(c) || !self) {
            return false;
        }
    }
    return true;
}

bool cluster_all_voters(struct cluster *c, struct kluis_client *client, uint32_t group,
                        unsigned timeout_ms)
{
    uint64_t until = harness_now_us() + (uint64_t)timeout_ms * 1000u;

    while (!voters_now(c, client, group)) {
        if (harness_now_us() >= until) {
            return false;
        }
        harness_sleep_ms(POLL_MS);
    }
    return true;
}

enum kluis_status cluster_transfer(struct cluster *c, struct kluis_client *client, uint32_t group,
                                   unsigned to, unsigned timeout_ms)
{
    Kluis__V1__ClusterTransferRequest q = KLUIS__V1__CLUSTER_TRANSFER_REQUEST__INIT;
    uint64_t until = harness_now_us() + (uint64_t)timeout_ms * 1000u;
    enum kluis_status st = KLUIS_TIMEOUT;
    uint8_t request[64];
    uint8_t *bytes = NULL;
    size_t len;

    q.group = group;
    q.to_node_id = to + 1;
    len = kluis__v1__cluster_transfer_request__pack(&q, request);
    while (harness_now_us() < until) {
        int leader = cluster_leader(c, client, group, timeout_ms);
        size_t response_len = 0;

        if (leader == (int)to) {
            return KLUIS_OK;
        }
        if (leader >= 0) {
            st =
                kluis_call(client, "/kluis.v1.Cluster/Transfer", request, len, true,
                           cluster_endpoint(c, (unsigned)leader), STATUS_MS, &bytes, &response_len);
        }
        if (leader >= 0 && st == KLUIS_OK) {
            kluis_bytes_free(bytes, response_len);
        }
        harness_sleep_ms(POLL_MS);
    }
    return st;
}

enum kluis_status cluster_replace(struct cluster *c, struct kluis_client *client, unsigned node,
                                  unsigned timeout_ms)
{
    Kluis__V1__ClusterReplaceNodeRequest q = KLUIS__V1__CLUSTER_REPLACE_NODE_REQUEST__INIT;
    uint64_t until = harness_now_us() + (uint64_t)timeout_ms * 1000u;
    enum kluis_status st = KLUIS_TIMEOUT;
    uint8_t request[32];
    uint8_t *bytes = NULL;
    size_t len;

    (void)c;
    q.node_id = node + 1;
    len = kluis__v1__cluster_replace_node_request__pack(&q, request);
    while (st != KLUIS_OK && harness_now_us() < until) {
        size_t response_len = 0;

        st = kluis_call(client, "/kluis.v1.Cluster/ReplaceNode", request, len, true, NULL,
                        STATUS_MS, &bytes, &response_len);
        if (st == KLUIS_OK) {
            kluis_bytes_free(bytes, response_len);
        }
        harness_sleep_ms(POLL_MS);
    }
    return st;
}

void cluster_make_vault(struct kluis_client *client, const char *name)
{
    struct kluis_vault *v = NULL;

    CHECK_EQ(kluis_vault_create(client, name, NULL, CALL_MS, &v), KLUIS_OK);
    kluis_vault_free(v);
}

enum kluis_status cluster_read(struct kluis_client *client, const char *vault, const char *name)
{
    struct kluis_secret *s = NULL;
    enum kluis_status st = kluis_secret_get(client, vault, name, NULL, CALL_MS, &s);

    kluis_secret_free(s);
    return st;
}
