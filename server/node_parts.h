/*
 * What node.c and steward.c share: the parts of a running node.
 */
#ifndef KL_NODE_PARTS_H
#define KL_NODE_PARTS_H

#include "server/crypto/keyring.h"
#include "server/datadir.h"
#include "server/node.h"
#include "server/node_clock.h"
#include "server/raft/host_uv.h"
#include "server/raft/peers.h"
#include "server/retention/finisher.h"
#include "server/retention/scheduler.h"
#include "server/rpc/dispatch.h"
#include "server/rpc/rpc_server.h"
#include "server/topology.h"

#include <pthread.h>
#include <stdatomic.h>

/* What is known of another node's data directory; guarded by kl_node.peers_lock. */
struct kl_peer_seen {
    uint8_t uuid[KL_ID_LEN]; /* as accepted last: the registered one, or none is registered yet */
    bool greeted;
    uint64_t generation; /* of the registered one */
    /* As refused last. What a stranger under this id greets with must not touch what is known of
     * the node itself; only a replacement takes it over. */
    uint8_t refused_uuid[KL_ID_LEN];
    uint64_t refused_us; /* monotonic; 0 = not, or accepted since */
    /* By position in groups[]: the group's member list names this generation. Until it does, the
     * node's votes and acknowledgements do not count there: a voter that lost its disk does not know
     * what it promised. Everything else is heard: it may lead, by the votes of others. */
    bool admitted[KL_GROUPS_MAX];
};

struct kl_steward;

struct kl_node {
    struct kl_config config;
    struct kl_datadir data;
    struct kl_net *net;
    struct kl_tls *client_tls;
    struct kl_tls *peer_tls;
    struct kl_peers *peers;
    atomic_bool peers_open; /* peers may be used from its own callbacks */
    struct kl_node_clock *clock;
    struct kl_pool *pool;
    struct kl_audit *audit;
    struct kl_dispatch *dispatch;
    struct kl_rpc_server *rpc;
    struct kl_seal *seal;
    struct kl_steward *steward;
    struct kl_node_view view;
    /* view.nodes_n of them: first those of the configuration, then those that the directory named since.
     * The steward's thread adds, in config.nodes[] too, behind config.nodes_n, which stays. */
    struct kl_node_info infos[KL_NODES_MAX];
    const char *locations[KL_REGIONS_MAX];
    uint16_t groups[KL_GROUPS_MAX]; /* all of the cluster; [0] is the directory */
    size_t groups_n;
    /* As groups[]; NULL: not open now, or this node does not vote there. */
    _Atomic(struct kl_host_uv *) hosts[KL_GROUPS_MAX];
    uint64_t leaders[KL_GROUPS_MAX]; /* as logged last; each belongs to its group's thread */
    pthread_mutex_t peers_lock;
    struct kl_peer_seen seen[KL_NODES_MAX]; /* as infos[] */
    atomic_ullong stranger;                 /* the id that knocked last and that nobody knows */
    atomic_ullong own_generation;           /* of data.uuid, once the directory here says so */
    atomic_bool own_known;                  /* the directory here has named data.uuid */
    atomic_bool told_refused;               /* that the directory waits to be accepted */
    atomic_bool unsealed;                   /* never on a witness */
    atomic_bool stopping;
    atomic_ullong
        told_leader[KL_GROUPS_MAX]; /* of groups not held here, as members said; 0 = none */
};

/* Group id -> running host, or NULL. Any thread. */
struct kl_host_uv *kl_node_host(struct kl_node *node, uint16_t group);
/* Listens for the other nodes and dials them. */
KL_MUST_USE enum kl_status kl_node_open_peers(struct kl_node *node, char *err, size_t err_len);
/* The groups that are open hear that a node came or went. */
void kl_node_tell_groups(struct kl_node *node, uint64_t node_id, bool connected);
/* How a group's member list names a data directory: "ID" for the first generation, "ID.N" later. */
void kl_node_member_address(uint64_t node_id, uint64_t generation, char out[KL_MEMBER_ADDRESS_LEN]);
/* The same of the data directory that is registered here for the node; empty when there is none. */
void kl_node_registered_address(struct kl_node *node, uint64_t node_id,
                                char out[KL_MEMBER_ADDRESS_LEN]);
/* A finisher for one group that calls other nodes through this node's dispatcher. */
KL_MUST_USE enum kl_status kl_node_finisher_new(struct kl_node *node, uint16_t group,
                                                struct kl_finisher **out);
/* The audit trail that the configuration names. err gets a line for people. */
KL_MUST_USE enum kl_status kl_node_audit_open(const struct kl_config *config, struct kl_audit **out,
                                              char *err, size_t err_len);
/* Looks up the node's own data directory, for its greetings. */
void kl_node_note_own(struct kl_node *node);
/* Does this node vote in groups[i]? */
bool kl_node_holds(const struct kl_node *node, size_t i);
/* Position of a node id in infos[] and config.nodes[], or -1. */
int kl_node_position(const struct kl_node *node, uint64_t node_id);

/* ---- members.c ---- */

/* Fills infos[i] from config.nodes[i]. */
void kl_node_describe(struct kl_node *node, size_t i);
/* Takes over what the directory here says of nodes: new ones, and marks. The steward's thread. */
void kl_node_learn(struct kl_node *node, const struct kl_view *directory);
/* Lives until the group has closed. */
struct kl_member_work {
    uint16_t group;
    atomic_bool changing; /* a membership change is under way */
};
/* The leader's next step towards the members that the directory wants for the group, unless one is
 * under way. Its member list names each data directory by generation: "ID" for the first, "ID.N" for
 * later ones. A voter that lost its disk must not vote before it has everything again, so it is
 * removed and added anew, step by step, by whoever leads. So is one that survived a recovery
 * (server/recover.h), which left it out. The steward's thread. */
void kl_node_reconcile(struct kl_node *node, struct kl_group *group,
                       const struct kl_group_status *status, struct kl_member_work *w);
/* For struct kl_node_view. */
enum kl_status kl_node_may_add(void *ctx, const char *region, bool witness, char *why,
                               size_t why_len);
enum kl_status kl_node_may_leave(void *ctx, const uint64_t *ids, size_t n, bool for_good, char *why,
                                 size_t why_len);

enum { KL_CATCH_UP_ENTRIES = 256 }; /* a member this close behind has caught up */

/*
 * The steward: a thread that does what the node owes the cluster besides serving calls. As leader
 * of a group: writes its first record, registers data directories, makes the keyring, replaces
 * members, runs the retention scheduler and the finisher. Everywhere: opens the keyring.
 */
KL_MUST_USE enum kl_status kl_steward_start(struct kl_node *node, struct kl_steward **out);
/* Ends the thread. Its proposals may still come back: free it after the groups have closed. */
void kl_steward_stop(struct kl_steward *steward);
void kl_steward_free(struct kl_steward *steward); /* NULL is allowed */
/* Directory leader: accept the data directory that node_id greeted with last. */
void kl_steward_replace(struct kl_steward *steward, uint64_t node_id, kl_group_done_fn done,
                        void *arg);
uint64_t kl_steward_purged(const struct kl_steward *steward);

#endif
