/*
 * Inside server/raft/peers*.c.
 *
 * A link is one connection, dialled or accepted. It becomes live, that is: it carries messages, when
 * the other side's Hello has been checked. A peer is a node; it has at most one live link per lane.
 *
 * One lock guards all of it. It may be held while functions of common/net are called (they never
 * call back from within), but not while a callback of the options or of a call runs.
 *
 * A refusal is a REPLY frame with stream id 0 and a kluis.v1.Reply that says why; then the
 * connection is drained.
 */
#ifndef KL_PEERS_INTERNAL_H
#define KL_PEERS_INTERNAL_H

#include "common/limits.h"
#include "server/raft/peers.h"

#include "peer.pb-c.h"

#include <nng/nng.h>
#include <nng/supplemental/util/platform.h>

enum { KL_LANES = 2, KL_CALL_BUCKETS = 256 };

struct kl_peer_link {
    struct kl_peer_link *next; /* all links */
    struct kl_peers *peers;
    struct kl_peer *peer; /* NULL until an accepted link has greeted */
    struct kl_conn *conn; /* retained */
    struct kl_assembler *assembler;
    enum kl_lane lane;
    bool dialed;
    bool open;     /* TLS done */
    bool live;     /* greeted, checked, and the newest of its lane */
    bool greeted;  /* Hello was accepted; stays true when a newer link takes over */
    bool ended;    /* refused or refusing: nothing that still arrives counts */
    uint64_t node; /* proven by its certificate; 0 before */
    uint64_t instance;
    uint8_t uuid[KL_ID_LEN];
    uint64_t generation; /* of that directory, as it said */
    uint64_t told;       /* the generation that our greeting said */
    uint64_t opened_ms, heard_ms, pinged_ms;
};

struct kl_peer_lane {
    struct kl_peer_link *dialing; /* our own link of this lane, live or not yet */
    struct kl_peer_link *live;
    uint64_t next_dial_ms;
    uint64_t backoff_ms;
};

struct kl_peer {
    uint64_t node;
    char *address; /* NULL: never dialled */
    struct kl_peer_lane lanes[KL_LANES];
    uint64_t ups;         /* how often the control lane came up */
    uint64_t reported_up; /* value of ups that on_peer was told; 0 = told it is down */
    /* Is the process that is connected still there? Asked when another one claims its id. */
    uint32_t probe;
    uint64_t probed_ms, answered_ms; /* 0 = not */
    /* What was said of refusals since a connection lasted: they come again every second until
     * somebody acts. KL_OK = nothing. */
    enum kl_status said_refused, said_refusal;
};

struct kl_peer_call {
    struct kl_peer_call *next;
    struct kl_peer_link *link;
    uint32_t stream;
    uint64_t due_ms;
    kl_peer_reply_fn fn;
    void *arg;
};

struct kl_peers {
    struct kl_peers_options options;
    char *cluster;
    struct kl_listener *listener;
    uint64_t instance;

    nng_mtx *lock; /* for what follows */
    nng_cv *cv;
    nng_thread *thread;
    bool stopping;
    struct kl_peer peers[KL_NODES_MAX];
    size_t peers_n;
    struct kl_peer_link *links;
    size_t links_n;
    struct kl_peer_call *calls[KL_CALL_BUCKETS];
    size_t calls_n;
    uint32_t next_stream;
    uint32_t next_probe;
    uint64_t random; /* xorshift64*, for jitter */
};

/* peers.c */
uint64_t kl_peers_now_ms(const struct kl_peers *peers);
struct kl_peer *kl_peers_find(struct kl_peers *peers, uint64_t node);
struct kl_peer *kl_peers_add(struct kl_peers *peers, uint64_t node); /* NULL: there are too many */

/* peers_link.c */
extern const struct kl_conn_handler kl_peer_link_handler;
struct kl_peer_link *kl_peer_link_new(struct kl_peers *peers);
void kl_peer_link_free(struct kl_peer_link *link);
void *kl_peer_link_accept(void *user, struct kl_conn *conn);

/* peers_hello.c */
KL_MUST_USE enum kl_status kl_peer_send_hello(struct kl_peer_link *link, uint64_t to_node);
/* Checks the first message of a link, takes it into service or refuses it. */
void kl_peer_greet(struct kl_peer_link *link, struct kl_bytes message);
void kl_peer_refuse(struct kl_peer_link *link, enum kl_status status, const char *why);
/* The other side's refusal. */
void kl_peer_refused(struct kl_peer_link *link, struct kl_bytes body);
void kl_peer_pong(struct kl_peer_link *link, uint32_t probe);

/* peers_calls.c */
void kl_peer_reply(struct kl_peer_link *link, uint32_t stream, struct kl_bytes reply);
void kl_peer_fail_calls(struct kl_peers *peers, const struct kl_peer_link *link);
void kl_peer_expire_calls(struct kl_peers *peers, uint64_t now_ms);

#endif
