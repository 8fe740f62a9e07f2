/*
 * Handlers plan; the dispatcher acts. A handler gets a call and says what is to happen next: reply,
 * propose a command, or call another node. When that has happened its `then` is asked again.
 * Handlers never send, never propose, never check rights, never block on anything but the store.
 *
 * A call is served by one worker thread at a time; its handler may keep state in call->state.
 */
#ifndef KL_PLAN_H
#define KL_PLAN_H

#include "common/buf.h"
#include "server/auth/auth.h"
#include "server/core/core.h"
#include "server/crypto/keyring.h"
#include "server/raft/group.h"
#include "server/runtime/clock.h"

#include "rpc.pb-c.h"

struct kl_call;
struct kl_node_view; /* what handlers may know of the node: server/handlers/node_view.h */

/* How the dispatcher finds the group a call belongs to. */
enum kl_scope {
    KL_SCOPE_NODE,      /* any node answers for itself */
    KL_SCOPE_DIRECTORY, /* the leader of the directory */
    KL_SCOPE_VAULT,     /* the leader of the home group of the vault the request names */
    KL_SCOPE_VAULTS,    /* the leader of the group that the page token names (lists over vaults) */
    KL_SCOPE_GROUP,     /* this node's replica of the group the request names */
};

enum kl_audit_class { KL_AUDIT_NONE, KL_AUDIT_READ, KL_AUDIT_WRITE, KL_AUDIT_PRIVILEGED };

enum kl_step {
    KL_STEP_REPLY,   /* call->response is filled (or status says why not); the call ends */
    KL_STEP_PROPOSE, /* propose plan->command to the call's group, then `then` */
    KL_STEP_REMOTE,  /* call plan->method on the leader of plan->group, then `then` */
    KL_STEP_WAIT,    /* plan->start something that ends later, then `then` */
    KL_STEP_AGAIN,   /* what was read has changed: a new read, and the route's plan once more */
};

struct kl_plan {
    enum kl_step step;
    struct kl_buf command; /* PROPOSE: packed Command; REMOTE: packed request. Moved away. */
    const char *method;    /* REMOTE */
    uint16_t group;        /* REMOTE: whose leader */
    void (*start)(struct kl_call *call, kl_group_done_fn done, void *arg); /* WAIT */
    /* PROPOSE: outcome of the proposal and its packed CommandResult. REMOTE: the reply's status and
     * payload. WAIT: the outcome. Bytes are borrowed for the call. Returns the next plan in *plan. */
    enum kl_status (*then)(struct kl_call *call, enum kl_status status, struct kl_bytes result,
                           struct kl_plan *plan);
};

struct kl_route {
    const char *method; /* "/kluis.v1.Secrets/Set"; checked against the descriptors at start */
    enum kl_scope scope;
    bool write;   /* needs a request id */
    bool barrier; /* needs a linearizable read before the plan */
    bool known;   /* no right is needed, but a valid token */
    bool heavy;   /* takes long: nobody's reply waits behind it */
    enum kl_right right;
    enum kl_audit_class audit;
    size_t request_max; /* bytes of the packed request */
    /* Where the request says whom it concerns: the vault's name (SCOPE_VAULT), the group's number
     * (SCOPE_GROUP) or the page token (SCOPE_VAULTS), as field name and offset in the struct. */
    const char *key_field;
    size_t key_at;
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *response;
    /* First plan. Errors: return the status, and name the field with kl_call_field(). */
    enum kl_status (*plan)(struct kl_call *call, struct kl_plan *plan);
};

/* What a handler sees of a call. The dispatcher owns everything in it. */
struct kl_call {
    const struct kl_route *route;
    const ProtobufCMessage *request; /* unpacked; wiped by the dispatcher */
    ProtobufCMessage *response;      /* set by the handler, unpacked-allocated with kl_pb_allocator;
                                            wiped and freed by the dispatcher */
    const struct kl_principal *principal;
    uint8_t request_id[KL_ID_LEN];
    uint64_t expires_ms;        /* for Command.expires_ms */
    struct kl_group *group;     /* the call's group; NULL with KL_SCOPE_NODE */
    struct kl_read *read;       /* of that group, when the route has a barrier; else NULL */
    struct kl_keyring *keyring; /* NULL: the node is sealed (the dispatcher has refused) */
    const struct kl_entropy *entropy;
    const struct kl_clock *clock;
    const struct kl_node_view *node;
    char field[64];                                           /* offending field, for the reply */
    char limit[160];                                          /* the limit it broke, for people */
    char subject[KL_VAULT_NAME_MAX + KL_OBJECT_NAME_MAX + 2]; /* "vault/name", for audit */
    void *state;                                              /* the handler's own, between steps */
    void (*state_free)(void *state);
};

/* Notes the offending field and the limit, and returns status. */
enum kl_status kl_call_field(struct kl_call *call, enum kl_status status, const char *field,
                             const char *limit);

/* The table of all routes, in the order of the service descriptors; *n is their number. */
const struct kl_route *kl_routes(size_t *n);

/* Compares the table with the service descriptors: every method has exactly one row, every row a
 * method, messages, keys and rights fit. KL_INTERNAL with a line for people. Call it at start. */
KL_MUST_USE enum kl_status kl_routes_check(char *err, size_t err_len);

/* The route of a method path, or NULL. */
const struct kl_route *kl_route_find(const char *method);

/* The group that a list over vaults starts or goes on with. KL_INVALID_ARGUMENT: not a token. */
KL_MUST_USE enum kl_status kl_vaults_page_group(const struct kl_route *route, const char *token,
                                                const struct kl_node_view *node, uint16_t *group);

#endif
