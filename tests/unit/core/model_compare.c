#include "tests/unit/core/model.h"

#include "common/limits.h"
#include "common/names.h"

static bool is_id(ProtobufCBinaryData data, unsigned id)
{
    return kl_bytes_eq(kl_bytes_of(data.data, data.len), id_of(id));
}

struct versions {
    const struct m_object *o;
    size_t seen;
    uint8_t last[KL_ID_LEN];
};

static bool compare_version(void *arg, const Kluis__Store__VersionRecord *record)
{
    struct versions *v = arg;
    const Kluis__Store__Attributes *a = record->meta->attributes;
    const struct m_version *want = NULL;

    if (v->seen++ != 0) {
        CHECK(memcmp(v->last, record->meta->version_id.data, KL_ID_LEN) < 0);
    }
    memcpy(v->last, record->meta->version_id.data, KL_ID_LEN);
    for (size_t i = 0; i < v->o->n && want == NULL; i++) {
        want = is_id(record->meta->version_id, v->o->versions[i].id) ? &v->o->versions[i] : NULL;
    }
    assert_non_null(want);
    CHECK_EQ(a->enabled, want->enabled);
    CHECK_EQ(a->not_before_s, want->not_before_s);
    CHECK_EQ(a->expires_s, want->expires_s);
    if (want->created_ms != 0) { /* not a restored one */
        CHECK_EQ(a->created_ms, want->created_ms);
    }
    if (want->updated_ms != 0) {
        CHECK_EQ(a->updated_ms, want->updated_ms);
    }
    return true;
}

static void compare_object(struct world *w, const struct m_vault *v, size_t kind, size_t name)
{
    const struct m_object *o = &v->objects[kind][name];
    struct versions versions = {.o = o};
    Kluis__Store__ObjectRecord *got = NULL;
    enum kl_status st = kl_core_object(&w->view, id_of(v->id), (uint32_t)kind + 1, m_names[name],
                                       KL_WANT_ANY, &got);

    CHECK_STATUS(st, o->present ? KL_OK : KL_NOT_FOUND);
    if (!o->present) {
        return;
    }
    CHECK(is_id(got->object_id, o->id));
    CHECK(is_id(got->current_version, o->current));
    CHECK_EQ(got->version_count, o->n);
    CHECK_EQ(got->created_ms, o->created_ms);
    CHECK_EQ(got->deleted_ms, o->deleted_ms);
    CHECK_EQ(got->purge_ms, o->purge_ms);
    CHECK_NE(got->wrapped_key.len, 0);
    kl_pb_wipe_free(&got->base, &kl_pb_allocator);
    CHECK_OK(kl_core_versions(&w->view, id_of(o->id), (struct kl_bytes){NULL, 0}, compare_version,
                              &versions));
    CHECK_EQ(versions.seen, o->n);
}

struct names {
    char text[512];
};

static bool add_object(void *arg, const char *name, const Kluis__Store__ObjectRecord *o)
{
    struct names *n = arg;
    size_t len = strlen(n->text);

    (void)o;
    (void)snprintf(n->text + len, sizeof n->text - len, "%s ", name);
    return true;
}

static void compare_lists(struct world *w, const struct m_vault *v, size_t kind)
{
    for (int deleted = 0; deleted < 2; deleted++) {
        struct names got = {{0}};
        struct names want = {{0}};

        for (size_t i = 0; i < NAMES; i++) { /* m_names is in order */
            const struct m_object *o = &v->objects[kind][i];
            char folded[32];

            kl_name_fold(m_names[i], folded, sizeof folded);
            if (o->present && (o->deleted_ms != 0) == deleted) {
                (void)add_object(&want, folded, NULL);
            }
        }
        CHECK_OK(kl_core_objects(&w->view, id_of(v->id), (uint32_t)kind + 1,
                                 deleted ? KL_WANT_DELETED : KL_WANT_LIVE, "", add_object, &got));
        CHECK_STR(got.text, want.text);
    }
}

static void compare_vault(struct world *w, const struct m_vault *v, const char *name)
{
    Kluis__Store__VaultRecord *got = NULL;
    enum kl_status st = kl_core_vault(&w->view, name, KL_WANT_ANY, &got);

    CHECK_STATUS(st, v->present ? KL_OK : KL_VAULT_NOT_FOUND);
    if (!v->present) {
        return;
    }
    CHECK(is_id(got->vault_id, v->id));
    CHECK_STR(got->name, name);
    CHECK_EQ(got->retention_days, v->retention);
    CHECK_EQ(got->purge_protection, v->protection);
    CHECK_EQ(got->n_tags, v->tags);
    CHECK_EQ(got->created_ms, v->created_ms);
    CHECK_EQ(got->updated_ms, v->updated_ms);
    CHECK_EQ(got->deleted_ms, v->deleted_ms);
    CHECK_EQ(got->purge_ms, v->purge_ms);
    kl_pb_wipe_free(&got->base, &kl_pb_allocator);
    for (size_t k = 0; k < KINDS; k++) {
        for (size_t n = 0; n < NAMES; n++) {
            compare_object(w, v, k, n);
        }
        compare_lists(w, v, k);
    }
}

static bool add_vault(void *arg, const Kluis__Store__VaultRecord *v)
{
    return add_object(arg, v->name, NULL);
}

static void compare_vault_lists(const struct model *m, struct world *w)
{
    for (int deleted = 0; deleted < 2; deleted++) {
        struct names got = {{0}};
        struct names want = {{0}};

        for (size_t i = 0; i < VAULTS; i++) {
            if (m->vaults[i].present && (m->vaults[i].deleted_ms != 0) == deleted) {
                (void)add_object(&want, m_vault_names[i], NULL);
            }
        }
        CHECK_OK(kl_core_vaults(&w->view, deleted ? KL_WANT_DELETED : KL_WANT_LIVE, "", add_vault,
                                &got));
        CHECK_STR(got.text, want.text);
    }
}

static bool count_claim(void *arg, const Kluis__Store__ClaimRecord *c)
{
    CHECK_EQ(c->state, KLUIS__STORE__CLAIM_STATE__CLAIM_PENDING);
    ++*(size_t *)arg;
    return true;
}

static void compare_claims(const struct model *m, struct world *w)
{
    size_t want = 0;
    size_t got = 0;

    for (size_t i = 0; i < VAULTS; i++) {
        Kluis__Store__ClaimRecord *c = NULL;
        enum kl_status st = kl_core_claim(&w->view, m_vault_names[i], &c);

        CHECK_STATUS(st, m->claims[i].present ? KL_OK : KL_NOT_FOUND);
        if (st == KL_OK) {
            CHECK(is_id(c->vault_id, m->claims[i].id));
            CHECK_EQ(c->state == KLUIS__STORE__CLAIM_STATE__CLAIM_CONFIRMED,
                     m->claims[i].confirmed);
            kl_pb_wipe_free(&c->base, &kl_pb_allocator);
            want += !m->claims[i].confirmed;
        }
    }
    CHECK_OK(kl_core_pending_claims(&w->view, count_claim, &got));
    CHECK_EQ(got, want);
}

static void compare_requests(const struct model *m, struct world *w)
{
    Kluis__Store__AppliedRecord *a = NULL;
    size_t want = 0;

    for (unsigned i = 0; i < m->requests_n; i++) {
        Kluis__Store__RequestRecord *r = NULL;
        enum kl_status st = kl_core_request(&w->view, id_of(100000 + i), &r);

        CHECK_STATUS(st, m->requests[i].present ? KL_OK : KL_NOT_FOUND);
        if (st == KL_OK) {
            CHECK(kl_bytes_eq(kl_bytes_of(r->result.data, r->result.len),
                              kl_buf_bytes(&m->requests[i].result)));
            kl_pb_wipe_free(&r->base, &kl_pb_allocator);
            want++;
        }
    }
    CHECK_OK(kl_core_applied(&w->view, &a));
    CHECK_EQ(a->requests, want);
    CHECK_EQ(a->index, w->index);
    CHECK_EQ(a->time_ms, m->now);
    kl_pb_wipe_free(&a->base, &kl_pb_allocator);
    CHECK_EQ(world_count(w, 'q'), want);
}

static bool count_outbox(void *arg, const Kluis__Store__OutboxRecord *item)
{
    const struct model *m = *(const struct model *const *)arg;
    uint32_t id = kl_get_be32(item->vault_id.data + 12); /* world.c */

    CHECK(id < OUTBOX && m->outbox[id] && is_id(item->vault_id, id));
    return true;
}

void model_compare(const struct model *m, struct world *w)
{
    size_t outbox = 0;
    size_t stages = 0;

    for (size_t i = 0; i < VAULTS; i++) {
        compare_vault(w, &m->vaults[i], m_vault_names[i]);
    }
    compare_vault_lists(m, w);
    compare_claims(m, w);
    compare_requests(m, w);
    for (size_t i = 0; i < OUTBOX; i++) {
        outbox += m->outbox[i];
    }
    for (size_t i = 0; i < STAGES; i++) {
        stages += m->stages[i].present;
    }
    CHECK_EQ(world_count(w, 'x'), outbox);
    CHECK_EQ(world_count(w, 'r'), stages);
    CHECK_OK(kl_core_outbox(&w->view, count_outbox, &m));
}

void model_compare_clean(const struct model *m, struct world *w)
{
    size_t vaults = 0;
    size_t deleted_vaults = 0;
    size_t objects = 0;
    size_t deleted = 0;
    size_t versions = 0;
    size_t stages = 0;

    for (size_t i = 0; i < VAULTS; i++) {
        const struct m_vault *v = &m->vaults[i];

        vaults += v->present;
        deleted_vaults += v->present && v->deleted_ms != 0;
        for (size_t k = 0; v->present && k < KINDS * NAMES; k++) {
            const struct m_object *o = &v->objects[k % KINDS][k / KINDS];

            objects += o->present;
            deleted += o->present && o->deleted_ms != 0;
            versions += o->present ? o->n : 0;
        }
    }
    for (size_t i = 0; i < STAGES; i++) {
        stages += m->stages[i].present;
        versions += m->stages[i].present ? m->stages[i].n : 0;
    }
    CHECK_EQ(world_count(w, 'v'), vaults);
    CHECK_EQ(world_count(w, 'u'), deleted_vaults);
    CHECK_EQ(world_count(w, 's'), objects);
    CHECK_EQ(world_count(w, 't'), deleted);
    CHECK_EQ(world_count(w, 'o'), versions);
    CHECK_EQ(world_count(w, 'w'), versions);
    CHECK_EQ(world_count(w, 'p'), deleted + deleted_vaults);
    CHECK_EQ(world_count(w, 'g'), stages);
}
