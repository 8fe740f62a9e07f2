/*
 * The state machine once more, as a person would write it down: plain arrays, no keys, no records.
 * Random commands go to both; results and everything that can be asked must agree.
 */
#ifndef KL_CORE_MODEL_H
#define KL_CORE_MODEL_H

#include "tests/unit/core/world.h"

enum {
    VAULTS = 3,
    NAMES = 3,
    KINDS = 2,
    VERSIONS = 80,
    STAGES = 8,
    OUTBOX = 16384,
    REQUESTS = 4096,
};

struct m_version {
    unsigned id;
    bool enabled;
    uint64_t not_before_s, expires_s, created_ms, updated_ms;
};

struct m_object {
    bool present;
    unsigned id;
    unsigned current;
    uint64_t created_ms, deleted_ms, purge_ms;
    struct m_version versions[VERSIONS];
    size_t n;
};

struct m_vault {
    bool present;
    unsigned id;
    uint32_t retention;
    bool protection;
    size_t tags;
    uint64_t created_ms, updated_ms, deleted_ms, purge_ms;
    struct m_object objects[KINDS][NAMES];
};

struct m_claim {
    bool present, confirmed;
    unsigned id;
};

struct m_stage {
    bool present;
    unsigned object_id, vault_id;
    uint64_t not_before_ms;
    unsigned versions[VERSIONS];
    size_t n;
};

struct m_request {
    bool present;
    uint64_t forget_ms; /* when every id of its entry is past */
    struct kl_buf result;
};

struct model {
    uint64_t now;               /* last entry time */
    uint64_t swept_at, keep_ms; /* entry time of the last sweep; none before */
    struct m_vault vaults[VAULTS];
    struct m_claim claims[VAULTS];
    struct m_stage stages[STAGES];
    bool outbox[OUTBOX]; /* by vault id */
    struct m_request requests[REQUESTS];
    unsigned requests_n;
};

enum op_type {
    OP_CREATE,
    OP_VAULT_UPDATE,
    OP_VAULT_DELETE,
    OP_VAULT_RECOVER,
    OP_VAULT_PURGE,
    OP_OUTBOX_DONE,
    OP_SET,
    OP_UPDATE,
    OP_DELETE,
    OP_RECOVER,
    OP_PURGE,
    OP_STAGE,
    OP_COMMIT,
    OP_CLAIM,
    OP_CONFIRM,
    OP_RELEASE,
    OP_TYPES
};

/* A command before it is one. */
struct op {
    enum op_type type;
    size_t vault, kind, name; /* indexes */
    unsigned vault_id, object_id, version_id;
    bool bare;      /* set: without a wrapped key */
    bool flag;      /* update vault: protection; update: set_enabled */
    size_t count;   /* tags; versions staged; version_count of a commit */
    uint32_t days;  /* create */
    uint64_t dates; /* update: expires_s; set: not_before_s */
};

extern const char *const m_vault_names[VAULTS];
extern const char *const m_names[NAMES];

Kluis__Log__Command *op_command(const struct op *op);

/* What the command should answer; changes the model. */
enum kl_status model_apply(struct model *m, const struct op *op, uint64_t now);
/* Purges of the schedule: the object (name < NAMES) or vault. */
void model_purge(struct model *m, size_t vault, size_t kind, size_t name);
/* Forgets requests that the sweep of an entry with so many commands takes at this time. */
void model_sweep(struct model *m, uint64_t now, size_t commands);
void model_done(struct model *m);

/* Everything that can be asked of the store is what the model says. */
void model_compare(const struct model *m, struct world *w);
/* The same for the number of records, once nothing is left to collect. */
void model_compare_clean(const struct model *m, struct world *w);

#endif
