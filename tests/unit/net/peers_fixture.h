/* Nodes for tests of server/raft/peers.h: each with a set, a certificate and a record of its own. */
#ifndef PEERS_FIXTURE_H
#define PEERS_FIXTURE_H

#include "server/raft/peers.h"
#include "server/runtime/clock.h"
#include "tests/unit/net/net_fixture.h"

enum { NODES = 3, RECORD_MAX = 64 };

struct node {
    uint64_t id;
    struct kl_net *net;
    struct kl_tls *tls;
    struct kl_peers *peers;
    uint16_t port;
    uint8_t uuid[KL_ID_LEN];

    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t changed;
    unsigned ups[NODES + 1], downs[NODES + 1]; /* by node id */
    bool up[NODES + 1];
    size_t messages, message_bytes;
    uint64_t message_from;
    uint16_t message_group;
    size_t requests;
    bool mute; /* requests are not answered */
    unsigned refused;
    uint64_t refused_by, refused_generation;
    uint64_t generation; /* what its greetings say */
    char why[128];
    enum kl_status uuid_status; /* what check_uuid answers */
    unsigned replies;
    enum kl_status reply_status;
    size_t reply_bytes;
};

/* What a node starts with. Zero means: the default. */
struct node_setup {
    uint64_t id;
    const char *cert; /* nodeID */
    uint16_t port;
    uint64_t generation;
    uint8_t uuid;                  /* every byte of it; default: id */
    uint16_t addresses[NODES + 1]; /* ports of the other nodes, by id; 0: nobody listens there */
};

void node_start(struct node *n, const struct node_setup *setup);
void node_stop(struct node *n);

/* Wait for something under the node's lock; false after WAIT_MS. */
typedef bool (*node_condition)(const struct node *n, size_t arg);
bool node_wait(struct node *n, node_condition condition, size_t arg);
bool node_is_up(const struct node *n, size_t node);
bool node_is_down(const struct node *n, size_t node);
bool node_has_messages(const struct node *n, size_t count);
bool node_has_replies(const struct node *n, size_t count);
bool node_was_refused(const struct node *n, size_t count);

void node_on_reply(void *node, enum kl_status status, struct kl_bytes reply);

#endif
