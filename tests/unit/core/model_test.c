/*
 * Thousands of random commands, alone and many to an entry, on both machines at once.
 */
#include "tests/unit/core/model.h"

#include "common/limits.h"

enum { ENTRIES = 1500, PER_ENTRY = 8 };

struct play {
    struct world w;
    struct model m;
    uint64_t rng;
    unsigned next_id; /* of objects and versions */
    unsigned next_vault;
};

static uint64_t draw(struct play *p, uint64_t n)
{
    return test_random(&p->rng) % n;
}

/* ---- one command ---- */

/* An id belongs to one name for good, as random ids do: vault i has the ids i + 3, i + 6, ... */
static unsigned new_vault_id(struct play *p, size_t vault)
{
    p->next_vault += VAULTS;
    assert_true(p->next_vault < OUTBOX - VAULTS);
    return p->next_vault + (unsigned)vault;
}

static unsigned some_vault_id(struct play *p, size_t vault, const struct m_claim *claim)
{
    switch (draw(p, 12)) {
    case 0:
        return (1 + (unsigned)draw(p, p->next_vault / VAULTS)) * VAULTS + (unsigned)vault;
    case 1:
        return new_vault_id(p, vault);
    default:
        return claim != NULL ? claim->id : p->m.vaults[vault].id;
    }
}

static void draw_object(struct play *p, struct op *op)
{
    struct m_object *o = &p->m.vaults[op->vault].objects[op->kind][op->name];

    op->vault_id = some_vault_id(p, op->vault, NULL);
    op->object_id = o->present && draw(p, 12) != 0 ? o->id : ++p->next_id;
    op->bare = o->present && draw(p, 2) == 0;
    op->version_id = o->n != 0 && draw(p, 12) == 0 ? o->current : ++p->next_id;
    op->dates = draw(p, 3) * 100;
    op->flag = draw(p, 3) == 0;
    if (op->type == OP_UPDATE) {
        op->version_id = draw(p, 2) == 0 || o->n == 0 ? 0 : o->versions[draw(p, o->n)].id;
        op->version_id = draw(p, 12) == 0 ? ++p->next_id : op->version_id;
        op->dates = draw(p, 4) * 90;
    }
    if (op->type == OP_SET && o->present && o->n >= VERSIONS - PER_ENTRY) {
        op->type = OP_DELETE; /* the arrays of the model are small */
    }
}

static void draw_restore(struct play *p, struct op *op)
{
    struct m_stage *s = &p->m.stages[draw(p, STAGES)];

    op->vault_id = s->present && draw(p, 12) != 0 ? s->vault_id : some_vault_id(p, op->vault, NULL);
    op->object_id = s->object_id;
    op->version_id = s->n != 0 ? s->versions[draw(p, s->n)] : ++p->next_id;
    op->count = s->n;
    if (draw(p, 12) == 0) {
        op->count++;
    }
    if (op->type == OP_STAGE) {
        op->count = 1 + draw(p, 6);
        if (!s->present || s->n >= VERSIONS - 6 * PER_ENTRY) {
            struct m_vault *v = &p->m.vaults[op->vault];
            struct m_object *o = &v->objects[op->kind][op->name];

            op->object_id = v->present && o->present && draw(p, 8) == 0 ? o->id : ++p->next_id;
            op->version_id = p->next_id + 1;
            p->next_id += 8;
        } else if (draw(p, 2) == 0) {
            op->version_id = p->next_id + 1;
            p->next_id += 8;
        }
    }
}

static size_t free_stages(const struct model *m)
{
    size_t n = 0;

    for (size_t i = 0; i < STAGES; i++) {
        n += !m->stages[i].present;
    }
    return n;
}

static struct op draw_op(struct play *p)
{
    struct op op = {.type = (enum op_type)draw(p, OP_TYPES)};

    if (draw(p, 2) == 0) {
        op.type = OP_SET; /* or little would be there to work on */
    }
    if ((op.type == OP_VAULT_PURGE || op.type == OP_VAULT_DELETE) && draw(p, 3) != 0) {
        op.type = OP_VAULT_RECOVER;
    }
    op.vault = draw(p, VAULTS);
    op.kind = draw(p, KINDS);
    op.name = draw(p, NAMES);
    switch (op.type) {
    case OP_CREATE:
        op.vault_id =
            draw(p, 3) == 0 ? some_vault_id(p, op.vault, NULL) : new_vault_id(p, op.vault);
        op.days = draw(p, 20) == 0 ? 6 : 7 + (uint32_t)draw(p, 84);
        break;
    case OP_VAULT_UPDATE:
        op.flag = draw(p, 30) == 0;
        op.count = draw(p, KL_TAGS_MAX + 1);
        break;
    case OP_OUTBOX_DONE:
        op.vault_id = (unsigned)draw(p, p->next_vault + VAULTS);
        break;
    case OP_CLAIM:
    case OP_CONFIRM:
    case OP_RELEASE:
        op.vault_id = some_vault_id(p, op.vault, &p->m.claims[op.vault]);
        break;
    case OP_STAGE:
    case OP_COMMIT:
        draw_restore(p, &op);
        if (op.type == OP_STAGE && free_stages(&p->m) < PER_ENTRY / 2) {
            op.type = OP_DELETE;
        }
        break;
    default:
        draw_object(p, &op);
        break;
    }
    if (op.vault_id == 0) {
        op.vault_id = new_vault_id(p, op.vault); /* of a vault that never was */
    }
    return op;
}

/* ---- entries ---- */

struct planned {
    bool replay;      /* of this request, with another command */
    unsigned request; /* number + 1; 0 = none */
    enum kl_status want;
};

static bool kept(enum kl_status st)
{
    return st == KL_OK || !kl_status_info(st)->retry_safe;
}

static void plan(struct play *p, struct planned *plan)
{
    struct op op = draw_op(p);
    Kluis__Log__Command *cmd = op_command(&op);
    struct m_request *r = NULL;

    *plan = (struct planned){.request = 0};
    if (draw(p, 3) == 0) {
        bool again = p->m.requests_n != 0 && draw(p, 3) == 0;

        if (again || p->m.requests_n == REQUESTS) {
            plan->request = 1 + (unsigned)draw(p, p->m.requests_n);
        } else {
            plan->request = ++p->m.requests_n;
            p->m.requests[plan->request - 1].result = KL_BUF(1 << 16);
        }
        r = &p->m.requests[plan->request - 1];
        (void)with_request(cmd, 100000 + plan->request - 1, p->w.now + draw(p, 30000));
    }
    world_add(&p->w, cmd);
    if (r != NULL && r->present) {
        plan->replay = true;
        return;
    }
    plan->want = model_apply(&p->m, &op, p->w.now);
    if (r != NULL && kept(plan->want)) {
        r->present = true;
        r->forget_ms = cmd->expires_ms;
    }
}

/* The ids of an entry are forgotten together: when the last of them may be. */
static void settle_requests(struct play *p, const struct planned *plans, size_t n)
{
    uint64_t greatest = 0;

    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < n; i++) {
            struct m_request *r;

            if (plans[i].request == 0 || plans[i].replay || !kept(plans[i].want)) {
                continue;
            }
            r = &p->m.requests[plans[i].request - 1];
            greatest = r->forget_ms > greatest ? r->forget_ms : greatest;
            if (pass == 1) {
                r->forget_ms = greatest;
            }
        }
    }
}

static void check_results(struct play *p, const struct planned *plans, size_t n)
{
    size_t pos = 0;

    CHECK_EQ(p->w.results.count, n);
    for (size_t i = 0; i < n; i++) {
        struct m_request *r = plans[i].request == 0 ? NULL : &p->m.requests[plans[i].request - 1];
        struct kl_bytes packed;

        assert_true(kl_results_next(&p->w.results, &pos, &packed));
        if (plans[i].replay) {
            CHECK(kl_bytes_eq(packed, kl_buf_bytes(&r->result)));
            continue;
        }
        CHECK_STATUS(world_result(&p->w, i), plans[i].want);
        CHECK_EQ(p->w.result->time_ms, p->w.now);
        if (r != NULL && kept(plans[i].want)) {
            kl_buf_clear(&r->result);
            CHECK_OK(kl_buf_put(&r->result, packed.ptr, packed.len));
        }
    }
}

static void play_entry(struct play *p)
{
    struct planned plans[PER_ENTRY];
    size_t n = 1 + draw(p, PER_ENTRY);

    model_sweep(&p->m, p->w.now, n);
    p->m.now = p->w.now;
    for (size_t i = 0; i < n; i++) {
        plan(p, &plans[i]);
    }
    world_commit(&p->w);
    check_results(p, plans, n);
    settle_requests(p, plans, n);
}

/* ---- the schedule ---- */

static size_t due_in_model(struct play *p, uint64_t *next)
{
    size_t n = 0;

    for (size_t i = 0; i < VAULTS; i++) {
        struct m_vault *v = &p->m.vaults[i];

        for (size_t k = 0; v->present && k <= KINDS * NAMES; k++) {
            struct m_object *o = k == 0 ? NULL : &v->objects[(k - 1) % KINDS][(k - 1) / KINDS];
            uint64_t at = o == NULL ? v->purge_ms : o->present ? o->purge_ms : 0;

            n += at != 0 && at <= p->w.now;
            *next = at > p->w.now && at < *next ? at : *next;
        }
    }
    return n;
}

/* Every item of a PurgeDue must be due in the model; carries it out there. */
static void purge_in_model(struct play *p, const Kluis__Log__PurgeDue *op)
{
    for (size_t i = 0; i < op->n_items; i++) {
        struct kl_bytes vault_id =
            kl_bytes_of(op->items[i]->vault_id.data, op->items[i]->vault_id.len);

        CHECK(op->due_ms[i] <= p->w.now);
        for (size_t v = 0; v < VAULTS; v++) {
            struct m_vault *vault = &p->m.vaults[v];
            size_t name = 0;
            size_t kind = op->items[i]->kind;

            if (!vault->present || !kl_bytes_eq(vault_id, id_of(vault->id))) {
                continue;
            }
            if (kind == KL_KIND_VAULT) {
                CHECK_EQ(vault->purge_ms, op->due_ms[i]);
                model_purge(&p->m, v, 0, NAMES);
            } else {
                while (strcasecmp(m_names[name], op->items[i]->name) != 0) {
                    name++;
                }
                CHECK_EQ(vault->objects[kind - 1][name].purge_ms, op->due_ms[i]);
                model_purge(&p->m, v, kind - 1, name);
            }
        }
    }
}

static void collect_in_model(struct play *p, const Kluis__Log__Collect *op)
{
    for (size_t i = 0; i < op->n_items; i++) {
        CHECK(op->items[i]->not_before_ms <= p->w.now);
        for (size_t s = 0; s < STAGES; s++) {
            struct m_stage *stage = &p->m.stages[s];

            if (stage->present && op->items[i]->object_id.len != 0 &&
                kl_bytes_eq(kl_bytes_of(op->items[i]->object_id.data, KL_ID_LEN),
                            id_of(stage->object_id))) {
                CHECK_EQ(stage->not_before_ms, op->items[i]->not_before_ms);
                stage->present = false;
            }
        }
    }
}

/* What the scheduler would do now; false when nothing is due. */
static bool play_schedule(struct play *p)
{
    struct kl_buf packed = KL_BUF(KL_COMMAND_MAX);
    uint64_t next = 0;
    uint64_t model_next = UINT64_MAX;
    size_t due = due_in_model(p, &model_next);
    enum kl_status st = kl_core_due(&p->w.view, p->w.now, &packed, &next);
    Kluis__Log__Command *cmd;

    if (st == KL_NOT_FOUND) {
        CHECK_EQ(due, 0);
        for (size_t s = 0; s < STAGES; s++) {
            uint64_t at = p->m.stages[s].present ? p->m.stages[s].not_before_ms : UINT64_MAX;

            CHECK(at > p->w.now);
            model_next = at < model_next ? at : model_next;
        }
        CHECK(next <= model_next); /* objects of purged vaults may be scheduled too */
        return false;
    }
    CHECK_OK(st);
    cmd = kluis__log__command__unpack(&kl_pb_allocator, packed.len, packed.ptr);
    model_sweep(&p->m, p->w.now, 1);
    p->m.now = p->w.now;
    CHECK_EQ(world_apply_bytes(&p->w, kl_buf_bytes(&packed)), KL_OK);
    if (cmd->op_case == KLUIS__LOG__COMMAND__OP_PURGE_DUE) {
        CHECK(cmd->purge_due->n_items >= due); /* all of them: there are few */
        purge_in_model(p, cmd->purge_due);
        CHECK_EQ(due_in_model(p, &model_next), 0);
    } else {
        CHECK_EQ(cmd->op_case, KLUIS__LOG__COMMAND__OP_COLLECT);
        CHECK_EQ(due, 0);
        CHECK(p->w.result->count <= KL_COLLECT_BUDGET_MAX);
        collect_in_model(p, cmd->collect);
    }
    kl_pb_wipe_free(&cmd->base, &kl_pb_allocator);
    kl_buf_wipe(&packed);
    return true;
}

static void play_all(uint64_t seed)
{
    struct play *p = kl_calloc(1, sizeof *p);

    assert_non_null(p);
    p->rng = seed;
    p->next_id = 1000;
    p->next_vault = VAULTS;
    world_init(&p->w);
    world_group(&p->w);
    p->m.now = p->m.swept_at = p->w.now; /* that was an entry, too */
    for (unsigned i = 0; i < ENTRIES; i++) {
        p->w.now += draw(p, 4) == 0 ? 0 : draw(p, 2000);
        if (draw(p, 50) == 0) {
            p->w.now += draw(p, 30 * (uint64_t)DAY_MS);
        }
        if (draw(p, 5) == 0) {
            (void)play_schedule(p);
        } else {
            play_entry(p);
        }
        if (i % 20 == 0) {
            model_compare(&p->m, &p->w);
        }
    }
    while (play_schedule(p)) {
    }
    play_entry(p);
    while (play_schedule(p)) {
    }
    model_compare(&p->m, &p->w);
    model_compare_clean(&p->m, &p->w);
    p->w.now += 200 * (uint64_t)DAY_MS; /* the end of all that is deleted or staged */
    while (play_schedule(p)) {
    }
    model_compare(&p->m, &p->w);
    model_compare_clean(&p->m, &p->w);
    CHECK_EQ(world_count(&p->w, 'p') + world_count(&p->w, 'g') + world_count(&p->w, 'r'), 0);
    model_done(&p->m);
    world_done(&p->w);
    kl_free(p);
}

/* Random commands: the store answers and holds exactly what the model does, for several seeds. */
TEST(model, random_commands)
{
    uint64_t seed = test_seed();

    for (int i = 0; i < 6; i++) {
        play_all(seed);
        (void)test_random(&seed);
    }
}
