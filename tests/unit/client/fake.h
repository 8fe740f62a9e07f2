/*
 * A node for tests of the client: real TLS, real frames, real envelopes, and answers that the test
 * scripts. It keeps what it was asked, so that a test can say what a client may and may not send.
 */
#ifndef FAKE_H
#define FAKE_H

#include "client/include/kluis.h"
#include "tests/unit/net/net_fixture.h"

#include "rpc.pb-c.h"

enum { FAKE_SEEN_MAX = 65536 };

struct fake_seen {
    char method[64];
    uint8_t request_id[KL_ID_LEN];
    bool has_id;
    uint64_t expires_ms;
    uint32_t deadline_ms;
    Kluis__V1__Consistency consistency;
    uint32_t max_age_ms;
    uint64_t at_ms;
};

struct fake;
struct fake_region { /* where a node is */
    const struct fake *node;
    const char *region;
    bool witness;
};
struct fake_call {
    struct fake *node;
    struct kl_conn *conn;
    uint32_t stream;
    const Kluis__V1__Call *call;
    unsigned nth; /* 1 = the first call this node has seen */
};
/* Answers a call, now or never. On a thread of common/net. */
typedef void (*fake_fn)(struct fake_call *call);

struct fake {
    struct kl_net *net;
    struct kl_tls *tls;
    struct kl_listener *listener;
    char address[32]; /* "127.0.0.1:port" */
    fake_fn answer;
    void *arg;
    bool mute; /* does not answer PING */
    atomic_bool dark;
    int hole; /* while it is dark: takes connections and says nothing; else -1 */
    const struct fake_region
        *regions; /* what it says of the cluster's nodes; NULL = no such method */
    size_t regions_n;
    atomic_uint asked; /* so often; these are not among the calls */
    bool forgetful;    /* keeps no calls: for measuring */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_uint calls, conns, cancels, pings; /* who reads calls sees all of these calls */
    struct fake_seen *seen;                   /* FAKE_SEEN_MAX */
    char authorization[128];
    struct kl_conn *last_conn; /* retained */
    uint32_t last_stream;
    uint64_t server_time_ms;  /* 0 = none in the replies */
    uint64_t age_ms, node_id; /* in the replies */
    uint8_t value[KL_SECRET_VALUE_MAX];
    size_t value_len;
};

/* Starts a node that answers with answer. cert: of net_fixture.h. */
void fake_start(struct fake *node, const char *cert, fake_fn answer, void *arg);
void fake_stop(struct fake *node);
/* Its power fails: nothing that it is sent is heard, those that connect get no answer. No connection
 * ends by it. And it is back, at its old address. */
void fake_dark(struct fake *node);
void fake_light(struct fake *node);
/* Waits until the node has seen n calls or cancels. */
bool fake_calls(struct fake *node, unsigned n);
bool fake_conns(struct fake *node, unsigned n);
bool fake_cancels(struct fake *node, unsigned n);

/* Ways to answer. */
void fake_ok(struct fake_call *c, const void *message);
void fake_status(struct fake_call *c, enum kl_status status);
void fake_field(struct fake_call *c, enum kl_status status, const char *field, const char *limit);
void fake_retry_after(struct fake_call *c, enum kl_status status, uint32_t ms);
void fake_not_leader(struct fake_call *c, uint32_t group, const struct fake *leader);
void fake_raw(struct fake_call *c, const void *bytes, size_t n);
void fake_drop(struct fake_call *c);
void fake_goaway(struct fake *node);

/* Answers every call as a node with one secret would: Set keeps, Get brings. */
void fake_serve(struct fake_call *c);
void fake_silent(struct fake_call *c);

/* A client of these nodes. */
struct kluis_client *fake_client(struct fake *const *nodes, size_t n, bool no_wait);

#endif
