/*
 * Clients, and what nodes know of their operations: the desk between clients.c (which decides what
 * to ask of whom, and judges answers) and requests.c (which stands in for the handlers of a node).
 */
#ifndef SIM_CLIENTS_H
#define SIM_CLIENTS_H

#include "tests/sim/parts.h"

enum { SIM_CLIENTS_MAX = 8, SIM_NAMES_MAX = 4, SIM_VERSIONS_KNOWN = 64, SIM_VALUE_MAX = 32 };

#define SIM_VAULT "sim-vault"

enum sim_op_class {
    SIM_OP_USER,
    SIM_OP_GROUP_INIT, /* set-up, before the users come */
    SIM_OP_VAULT_CREATE,
};

/* One operation of a client, tried at one node after another until it ends. */
struct sim_op {
    enum sim_op_class class;
    enum kl_history_kind kind;
    unsigned client, name;
    unsigned replica; /* index of the group in the plan */
    uint8_t request_id[KL_ID_LEN];
    uint8_t ask[KL_ID_LEN]; /* get-version: the version */
    uint64_t expires_ms, deadline_us;
    size_t history; /* number there; USER only */
    unsigned attempts;
    unsigned unknown; /* attempts that may have had an effect */
    bool final;       /* of the last reads: must succeed */
    bool ended;
    uint64_t started_us;
};

/* What a node answers. */
struct sim_reply {
    enum kl_status status; /* of the call: OK = result holds */
    bool nothing_done;     /* status != OK: certainly */
    enum kl_status result; /* what the command or the query answered */
    uint64_t leader;       /* hint; 0 = none */
    bool has_version;
    uint8_t version[KL_ID_LEN];
    char value[SIM_VALUE_MAX];
};

struct sim_clients {
    struct sim_op *ops;
    size_t ops_n, ops_cap;
    unsigned running;
    bool ready; /* set up */
    unsigned setup_left;
    bool draining, finishing;
    unsigned final_left;
    uint64_t leader[SIM_GROUPS_MAX]; /* as last heard */
    struct {
        uint8_t id[SIM_VERSIONS_KNOWN][KL_ID_LEN];
        size_t n; /* ever learnt; the newest are kept */
    } versions[SIM_NAMES_MAX];
};

static inline bool sim_is_read(enum kl_history_kind kind)
{
    return kind == KL_HISTORY_GET || kind == KL_HISTORY_GET_VERSION ||
           kind == KL_HISTORY_GET_DELETED;
}

/* The value that operation number `op` writes: as text, and as the 16 bytes of a data directory. */
void sim_op_value(size_t op, char out[SIM_VALUE_MAX]);
void sim_op_uuid(size_t op, uint8_t out[KL_ID_LEN]);
/* The name of object number `name`, and the node id that stands for it in the directory. */
void sim_op_name(unsigned name, char out[16]);
static inline uint64_t sim_op_node_id(unsigned name)
{
    return 1000u + name;
}

#endif
