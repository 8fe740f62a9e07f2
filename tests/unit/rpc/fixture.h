/*
 * A dispatcher with real handlers, the real state machine and real crypto over groups that are
 * simpler than Raft: one store in memory per group, shared by all nodes, applied by one thread;
 * which node leads is a variable. So every answer of a group can be had when a test wants it.
 */
#ifndef RPC_FIXTURE_H
#define RPC_FIXTURE_H

#include "common/alloc.h"
#include "common/names.h"
#include "server/rpc/dispatch.h"
#include "tests/lib/test.h"

#include <pthread.h>
#include <stdatomic.h>

enum { FIX_NODES = 3, FIX_GROUPS = 3, FIX_CALLS_MAX = 64, FIX_BYTES_MAX = 8 << 20 };

/* ---- a group, shared by the nodes (fake_group.c) ---- */

struct fake_store;
struct fake_store *fake_store_new(uint16_t id, const struct kl_clock *clock);
void fake_store_free(struct fake_store *s);
struct kl_group *fake_store_group(struct fake_store *s, uint64_t node_id);
void fake_store_lead(struct fake_store *s, uint64_t node_id); /* 0: nobody */
/* While held, proposals wait. */
void fake_store_hold(struct fake_store *s, bool held);
size_t fake_store_waiting(struct fake_store *s);
/* The next n ends of a linearizable read fail. */
void fake_store_fail_reads(struct fake_store *s, unsigned n);
/* Age of what a node's replica holds, for stale reads; UINT64_MAX: it does not know. */
void fake_store_age(struct fake_store *s, uint64_t node_id, uint64_t us);
/* What majorities answer from now on. */
void fake_store_confirm(struct fake_store *s, enum kl_status st);
uint64_t fake_store_confirms(struct fake_store *s); /* rounds so far */
/* The next n proposals are refused at once with this status. */
void fake_store_refuse(struct fake_store *s, unsigned n, enum kl_status st);
/* Before the next proposal is applied fn runs on the group's thread (to change things under it). */
void fake_store_before(struct fake_store *s, void (*fn)(void *arg), void *arg);
/* Proposals are applied within kl_group_propose, with `arm` off. */
void fake_store_inline(struct fake_store *s, void (*arm)(bool on));
/* Applies a command now. */
enum kl_status fake_store_apply(struct fake_store *s, Kluis__Log__Command *command);
uint64_t fake_store_index(struct fake_store *s);
struct kl_kv *fake_store_kv(struct fake_store *s);
uint64_t fake_store_entries(struct fake_store *s);

/* Calls between nodes go to the dispatcher of the other. */
void fake_peers_set(uint64_t node_id, struct kl_dispatch *d);

/* ---- nodes ---- */

struct node {
    uint64_t id;
    struct fix *f;
    struct kl_node_view view;
    struct kl_dispatch *dispatch;
    struct kl_peers *peers;
    atomic_bool sealed;
    atomic_int replaced;           /* node id of the last ReplaceNode */
    atomic_int replace_status;     /* what becomes of one of another node than 2 */
    atomic_bool reaches_all;       /* else node 1 alone */
    _Atomic uint64_t confirmed_ms; /* 0: not */
    atomic_uint lacks;             /* bit per group that this node does not hold */
};

struct fix {
    struct kl_clock clock;
    _Atomic uint64_t wall_ahead_ms; /* of the cluster's time; UINT64_MAX: it is not known */
    _Atomic uint64_t mono_ahead_us;
    struct kl_pool *pool;
    struct kl_audit *audit;
    char audit_path[300];
    struct fake_store *stores[FIX_GROUPS];
    struct node nodes[FIX_NODES];
    const char *token;
    _Atomic uint64_t ids; /* drawn so far */
    struct kl_seal *seal;
    Kluis__Store__KeyringRecord *keyring;
    void (*arm)(bool on); /* around each hand-over to the dispatcher; may be NULL */
};

/* groups: 1 or 2 vault groups. Node 1 leads everything. */
struct fix *fix_new(size_t vault_groups);
void fix_free(struct fix *f);
void fix_seal(struct fix *f, struct node *n, bool sealed);

/* ---- calls ---- */

struct ask {
    const char *method;
    const ProtobufCMessage *request;
    const uint8_t *request_id; /* NULL: a fresh one */
    size_t request_id_len;     /* 0: 16 */
    bool no_request_id;
    const char *token; /* NULL: the fixture's; "" none */
    unsigned deadline_ms;
    uint64_t expires_ms;
    uint64_t from_node;
    struct kl_bytes payload; /* instead of request */
    Kluis__V1__Consistency consistency;
    uint32_t max_age_ms;
    struct node *node; /* NULL: the first */
};

struct answer {
    enum kl_status st;
    Kluis__V1__Reply *reply;
    ProtobufCMessage *response; /* when st is KL_OK */
};

/* A call under way. */
struct pending;
struct pending *fix_start(struct fix *f, const struct ask *ask);
bool fix_answered(struct pending *p);
struct answer fix_wait(struct pending *p);
struct answer fix_ask(struct fix *f, const struct ask *ask);
void answer_free(struct answer *a);
/* As fix_ask with defaults. */
struct answer call(struct fix *f, const char *method, const ProtobufCMessage *request);
/* The call's status; when field is not NULL it must be named, with a limit that holds `limit`. */
void check_call(struct fix *f, const char *method, const ProtobufCMessage *request,
                enum kl_status st, const char *field, const char *limit);
/* A packed Call, as a client would send it. */
struct kl_buf fix_pack(struct fix *f, const struct ask *ask);

/* ---- shorthands ---- */

void make_vault(struct fix *f, const char *name, bool purge_protection);
/* Sets a secret and returns its version in hex (33 bytes). */
void set_secret(struct fix *f, const char *vault, const char *name, const char *value,
                char version[33]);
enum kl_status get_secret(struct fix *f, const char *vault, const char *name, const char *version,
                          char *value, size_t value_len);
enum kl_status delete_secret(struct fix *f, const char *vault, const char *name);
enum kl_status delete_vault(struct fix *f, const char *name);
void draw_id(struct fix *f, uint8_t id[KL_ID_LEN]);

#define ADMIN "Bearer admin-token"

#endif
