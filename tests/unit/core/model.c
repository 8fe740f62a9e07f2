#include "tests/unit/core/model.h"

#include "common/limits.h"

const char *const m_vault_names[VAULTS] = {"alpha", "Beta", "gamma-3"};
const char *const m_names[NAMES] = {"a", "Bee", "c-c"};

static Kluis__Log__Command *tagged_update(const struct op *op)
{
    static Kluis__Store__Tag *tags[KL_TAGS_MAX];
    static Kluis__Store__Tag tag[KL_TAGS_MAX];
    static char keys[KL_TAGS_MAX][4];
    Kluis__Log__Command *c = vault_update(m_vault_names[op->vault]);

    c->vault_update->enable_purge_protection = op->flag;
    c->vault_update->set_tags = true;
    c->vault_update->n_tags = op->count;
    c->vault_update->tags = tags;
    for (size_t i = 0; i < op->count; i++) {
        kluis__store__tag__init(&tag[i]);
        keys[i][0] = (char)('a' + i);
        tag[i].key = keys[i];
        tags[i] = &tag[i];
    }
    return c;
}

static Kluis__Log__Command *vault_command(const struct op *op)
{
    const char *vault = m_vault_names[op->vault];
    Kluis__Log__Command *c;

    switch (op->type) {
    case OP_CREATE:
        c = vault_create(vault, op->vault_id);
        c->vault_create->vault->retention_days = op->days;
        return c;
    case OP_VAULT_UPDATE:
        return tagged_update(op);
    case OP_VAULT_DELETE:
        return vault_delete(vault);
    case OP_VAULT_RECOVER:
        return vault_recover(vault);
    case OP_VAULT_PURGE:
        return vault_purge(vault);
    case OP_OUTBOX_DONE:
        return outbox_done(op->vault_id);
    case OP_CLAIM:
        return vault_claim(vault, op->vault_id, 1);
    case OP_CONFIRM:
        return vault_confirm(vault, op->vault_id);
    default:
        return vault_release(vault, op->vault_id);
    }
}

Kluis__Log__Command *op_command(const struct op *op)
{
    const char *vault = m_vault_names[op->vault];
    const char *name = m_names[op->name];
    uint32_t kind = (uint32_t)op->kind + 1;
    Kluis__Log__Command *c;

    switch (op->type) {
    case OP_SET:
        c = object_set(vault, op->vault_id, name, op->object_id, op->version_id);
        c->object_set->kind = kind;
        c->object_set->version->meta->attributes->not_before_s = op->dates;
        if (op->bare) {
            c->object_set->wrapped_key.len = 0;
        }
        return c;
    case OP_UPDATE:
        c = object_update(vault, name);
        c->object_update->kind = kind;
        if (op->version_id != 0) {
            c->object_update->version_id = pb_id(op->version_id);
        }
        c->object_update->set_enabled = op->flag;
        c->object_update->set_expires = true;
        c->object_update->expires_s = op->dates;
        return c;
    case OP_DELETE:
        c = object_delete(vault, name);
        c->object_delete->kind = kind;
        return c;
    case OP_RECOVER:
        c = object_recover(vault, name);
        c->object_recover->kind = kind;
        return c;
    case OP_PURGE:
        c = object_purge(vault, name);
        c->object_purge->kind = kind;
        return c;
    case OP_STAGE:
        return restore_stage(op->vault_id, op->object_id, op->version_id, op->count);
    case OP_COMMIT:
        c = restore_commit(vault, op->vault_id, name, op->object_id, op->version_id, op->count);
        c->restore_commit->kind = kind;
        return c;
    default:
        return vault_command(op);
    }
}

/* ---- vaults ---- */

static enum kl_status create(struct model *m, const struct op *op)
{
    struct m_vault *v = &m->vaults[op->vault];

    if (op->days < 7 || op->days > 90) {
        return KL_INVALID_ARGUMENT;
    }
    if (v->present && v->id == op->vault_id) {
        return KL_OK;
    }
    if (v->present) {
        return v->deleted_ms != 0 ? KL_VAULT_DELETED : KL_ALREADY_EXISTS;
    }
    if (m->outbox[op->vault_id % OUTBOX]) {
        return KL_CHANGED;
    }
    *v = (struct m_vault){.present = true,
                          .id = op->vault_id,
                          .retention = op->days,
                          .created_ms = m->now,
                          .updated_ms = m->now};
    return KL_OK;
}

static enum kl_status change_vault(struct model *m, const struct op *op)
{
    struct m_vault *v = &m->vaults[op->vault];
    bool wants_deleted = op->type == OP_VAULT_RECOVER || op->type == OP_VAULT_PURGE;

    if (!v->present || (v->deleted_ms != 0) != wants_deleted) {
        return KL_VAULT_NOT_FOUND;
    }
    switch (op->type) {
    case OP_VAULT_UPDATE:
        v->tags = op->count;
        v->protection |= op->flag;
        v->updated_ms = m->now;
        break;
    case OP_VAULT_DELETE:
        v->deleted_ms = m->now;
        v->purge_ms = m->now + v->retention * (uint64_t)DAY_MS;
        break;
    case OP_VAULT_RECOVER:
        v->deleted_ms = v->purge_ms = 0;
        v->updated_ms = m->now;
        break;
    default:
        if (v->protection && m->now < v->purge_ms) {
            return KL_PURGE_PROTECTED;
        }
        model_purge(m, op->vault, 0, NAMES);
        break;
    }
    return KL_OK;
}

void model_purge(struct model *m, size_t vault, size_t kind, size_t name)
{
    struct m_vault *v = &m->vaults[vault];

    if (name < NAMES) {
        v->objects[kind][name].present = false;
        return;
    }
    m->outbox[v->id % OUTBOX] = true;
    v->present = false;
}

/* ---- objects ---- */

static struct m_version *version_of(struct m_object *o, unsigned id)
{
    for (size_t i = 0; i < o->n; i++) {
        if (o->versions[i].id == id) {
            return &o->versions[i];
        }
    }
    return NULL;
}

static enum kl_status set(struct model *m, struct m_vault *v, struct m_object *o,
                          const struct op *op)
{
    if (v->id != op->vault_id) {
        return KL_CHANGED;
    }
    if (o->present && o->deleted_ms != 0) {
        return KL_DELETED;
    }
    if (o->present && (o->id != op->object_id || op->version_id == o->current)) {
        return KL_CHANGED;
    }
    if (!o->present) {
        if (op->bare) {
            return KL_CHANGED;
        }
        *o = (struct m_object){.present = true, .id = op->object_id, .created_ms = m->now};
    }
    assert_true(o->n < VERSIONS);
    o->versions[o->n++] = (struct m_version){.id = op->version_id,
                                             .enabled = true,
                                             .not_before_s = op->dates,
                                             .created_ms = m->now,
                                             .updated_ms = m->now};
    o->current = op->version_id;
    return KL_OK;
}

static enum kl_status update(struct model *m, struct m_object *o, const struct op *op)
{
    struct m_version *version;

    if (!o->present || o->deleted_ms != 0) {
        return KL_NOT_FOUND;
    }
    version = version_of(o, op->version_id == 0 ? o->current : op->version_id);
    if (version == NULL) {
        return KL_NOT_FOUND;
    }
    if (op->dates != 0 && version->not_before_s != 0 && op->dates <= version->not_before_s) {
        return KL_INVALID_ARGUMENT;
    }
    version->expires_s = op->dates;
    version->enabled = op->flag ? false : version->enabled;
    version->updated_ms = m->now;
    return KL_OK;
}

static struct m_stage *stage_of(struct model *m, unsigned object_id)
{
    for (size_t i = 0; i < STAGES; i++) {
        if (m->stages[i].present && m->stages[i].object_id == object_id) {
            return &m->stages[i];
        }
    }
    return NULL;
}

static enum kl_status commit(struct model *m, struct m_vault *v, struct m_object *o,
                             const struct op *op)
{
    struct m_stage *s = stage_of(m, op->object_id);
    bool has_current = false;

    if (v->id != op->vault_id) {
        return KL_CHANGED;
    }
    if (o->present) {
        return o->deleted_ms != 0 ? KL_DELETED : KL_ALREADY_EXISTS;
    }
    for (size_t i = 0; s != NULL && i < s->n; i++) {
        has_current = has_current || s->versions[i] == op->version_id;
    }
    if (s == NULL || s->n != op->count || s->vault_id != v->id || !has_current) {
        return KL_CHANGED;
    }
    *o = (struct m_object){
        .present = true, .id = op->object_id, .current = op->version_id, .created_ms = 66};
    for (size_t i = 0; i < s->n; i++) {
        o->versions[o->n++] = (struct m_version){.id = s->versions[i], .enabled = true};
    }
    s->present = false;
    return KL_OK;
}

static enum kl_status change_object(struct model *m, const struct op *op)
{
    struct m_vault *v = &m->vaults[op->vault];
    struct m_object *o = &v->objects[op->kind][op->name];
    bool wants_deleted = op->type == OP_RECOVER || op->type == OP_PURGE;

    if (!v->present || v->deleted_ms != 0) {
        return KL_VAULT_NOT_FOUND;
    }
    if (op->type == OP_SET) {
        return set(m, v, o, op);
    }
    if (op->type == OP_UPDATE) {
        return update(m, o, op);
    }
    if (op->type == OP_COMMIT) {
        return commit(m, v, o, op);
    }
    if (!o->present || (o->deleted_ms != 0) != wants_deleted) {
        return KL_NOT_FOUND;
    }
    if (op->type == OP_DELETE) {
        o->deleted_ms = m->now;
        o->purge_ms = m->now + v->retention * (uint64_t)DAY_MS;
    } else if (op->type == OP_RECOVER) {
        o->deleted_ms = o->purge_ms = 0;
    } else if (v->protection && m->now < o->purge_ms) {
        return KL_PURGE_PROTECTED;
    } else {
        o->present = false;
    }
    return KL_OK;
}

/* Somebody's versions are under this id: an object's, in any vault. */
static bool id_in_use(const struct model *m, unsigned object_id)
{
    for (size_t i = 0; i < VAULTS * KINDS * NAMES; i++) {
        const struct m_vault *v = &m->vaults[i % VAULTS];
        const struct m_object *o = &v->objects[i / VAULTS % KINDS][i / VAULTS / KINDS];

        if (v->present && o->present && o->id == object_id) {
            return true;
        }
    }
    return false;
}

static enum kl_status stage(struct model *m, const struct op *op)
{
    struct m_stage *s = stage_of(m, op->object_id);

    if (s == NULL && id_in_use(m, op->object_id)) {
        return KL_CHANGED;
    }
    if (s != NULL && s->vault_id != op->vault_id) {
        return KL_CHANGED;
    }
    for (size_t i = 0; s == NULL && i < STAGES; i++) {
        if (!m->stages[i].present) {
            s = &m->stages[i];
            *s = (struct m_stage){
                .present = true, .object_id = op->object_id, .vault_id = op->vault_id};
        }
    }
    assert_non_null(s); /* the generator sees to it */
    for (size_t i = 0; i < op->count; i++) {
        bool known = false;

        for (size_t k = 0; k < s->n; k++) {
            known = known || s->versions[k] == op->version_id + i;
        }
        if (!known) {
            assert_true(s->n < VERSIONS);
            s->versions[s->n++] = op->version_id + (unsigned)i;
        }
    }
    s->not_before_ms = m->now + KEEP_MS;
    return KL_OK;
}

/* ---- claims ---- */

static enum kl_status claim(struct model *m, const struct op *op)
{
    struct m_claim *c = &m->claims[op->vault];

    if (op->type == OP_CLAIM) {
        if (c->present) {
            return c->id == op->vault_id ? KL_OK : KL_ALREADY_EXISTS;
        }
        *c = (struct m_claim){.present = true, .id = op->vault_id};
        return KL_OK;
    }
    if (op->type == OP_RELEASE && !c->present) {
        return KL_OK;
    }
    if (!c->present || c->id != op->vault_id) {
        return KL_NOT_FOUND;
    }
    if (op->type == OP_CONFIRM) {
        c->confirmed = true;
    } else {
        c->present = false;
    }
    return KL_OK;
}

enum kl_status model_apply(struct model *m, const struct op *op, uint64_t now)
{
    m->now = now;
    switch (op->type) {
    case OP_CREATE:
        return create(m, op);
    case OP_VAULT_UPDATE:
    case OP_VAULT_DELETE:
    case OP_VAULT_RECOVER:
    case OP_VAULT_PURGE:
        return change_vault(m, op);
    case OP_OUTBOX_DONE:
        m->outbox[op->vault_id % OUTBOX] = false;
        return KL_OK;
    case OP_STAGE:
        return stage(m, op);
    case OP_CLAIM:
    case OP_CONFIRM:
    case OP_RELEASE:
        return claim(m, op);
    default:
        return change_object(m, op);
    }
}

/* ---- requests ---- */

/* The one to be forgotten next, of those whose time has come. */
static struct m_request *stalest(struct model *m, uint64_t now)
{
    struct m_request *best = NULL;

    for (unsigned i = 0; i < m->requests_n; i++) {
        struct m_request *r = &m->requests[i];

        if (r->present && r->forget_ms + KL_CLOCK_SKEW_MS < now &&
            (best == NULL || r->forget_ms < best->forget_ms)) {
            best = r;
        }
    }
    return best;
}

void model_sweep(struct model *m, uint64_t now, size_t commands)
{
    struct m_request *r;

    if (m->swept_at != 0 && now > m->swept_at + KL_CLOCK_SKEW_MS) {
        m->keep_ms = now + KL_DEADLINE_MAX_MS + KL_CLOCK_SKEW_MS;
    }
    m->swept_at = now;
    if (now < m->keep_ms) {
        return;
    }
    for (size_t left = KL_REQUEST_SWEEP_MAX + commands; left > 0; left--) {
        r = stalest(m, now);
        if (r == NULL) {
            return;
        }
        r->present = false;
        kl_buf_wipe(&r->result);
    }
}

void model_done(struct model *m)
{
    for (unsigned i = 0; i < m->requests_n; i++) {
        kl_buf_wipe(&m->requests[i].result);
    }
}
