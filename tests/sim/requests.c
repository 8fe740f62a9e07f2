/*
 * What a node does with a client's operation: the handlers' part, cut down to what the history
 * needs. A read begins, waits, looks, waits, and ends, so that leases run out in the middle.
 */
#include "tests/sim/clients.h"

#include "common/alloc.h"
#include "server/core/keys.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SEALED_MAX = 600, RETENTION_DAYS = 7, WAIT_MAX_US = 5 * SIM_MS };

/* ---- answers ---- */

static void answer(struct sim_replica *r, size_t op, uint64_t attempt,
                   const struct sim_reply *reply)
{
    struct sim_world *w = r->node->w;
    struct sim_event *e;
    uint64_t delay;

    if (!sim_net_client_delay(w, &delay)) {
        return;
    }
    e = sim_schedule(w, SIM_EV_REPLY, NULL, delay);
    e->a = op;
    e->b = attempt;
    sim_event_data(w, e, reply, sizeof *reply);
}

static void answer_failure(struct sim_replica *r, size_t op, uint64_t attempt, enum kl_status st,
                           bool nothing_done)
{
    struct sim_reply reply = {.status = st, .nothing_done = nothing_done};

    if (r->group != NULL && !r->node->closing) {
        reply.leader = kl_group_leader(r->group);
    }
    answer(r, op, attempt, &reply);
}

/* ---- queries ---- */

static void take_version(struct sim_reply *reply, const Kluis__Store__VersionRecord *version)
{
    size_t n = version->sealed.len < SIM_VALUE_MAX ? version->sealed.len : SIM_VALUE_MAX;

    reply->has_version = true;
    memcpy(reply->version, version->meta->version_id.data, KL_ID_LEN);
    memcpy(reply->value, version->sealed.data, n); /* NUL-terminated when it was set */
    reply->value[SIM_VALUE_MAX - 1] = '\0';
}

/* Counts versions and looks for a value that is there twice. */
struct census {
    struct sim_world *w;
    uint64_t seen[512]; /* hashes of values */
    size_t n;
};

static bool count_version(void *arg, const Kluis__Store__VersionRecord *version)
{
    struct census *c = arg;
    uint64_t h = sim_hash(version->sealed.data,
                          strnlen((const char *)version->sealed.data, version->sealed.len));

    for (size_t i = 0; i < c->n && i < 512; i++) {
        if (c->seen[i] == h) {
            sim_fail(c->w, "a write was done twice: value %s has two versions",
                     (const char *)version->sealed.data);
            return false;
        }
    }
    if (c->n < 512) {
        c->seen[c->n] = h;
    }
    c->n++;
    return true;
}

static enum kl_status take_census(struct sim_world *w, const struct kl_view *view,
                                  const Kluis__Store__ObjectRecord *object)
{
    struct census c = {.w = w};
    struct kl_bytes id = {object->object_id.data, object->object_id.len};
    enum kl_status st = kl_core_versions(view, id, (struct kl_bytes){NULL, 0}, count_version, &c);

    if (st == KL_OK && !w->failed && c.n != object->version_count) {
        sim_fail(w, "an object says it has %" PRIu64 " versions and has %zu", object->version_count,
                 c.n);
    }
    return st;
}

static enum kl_status query_node(const struct kl_view *view, const struct sim_op *op,
                                 struct sim_reply *reply)
{
    Kluis__Store__NodeRecord *node = NULL;
    enum kl_status st = kl_core_node(view, sim_op_node_id(op->name), &node);

    if (st == KL_OK) {
        uint64_t from = kl_get_be64(node->data_uuid.data);

        sim_op_value(from, reply->value);
        reply->has_version = true;
        memcpy(reply->version, node->data_uuid.data, KL_ID_LEN);
        kl_pb_wipe_free(&node->base, &kl_pb_allocator);
    }
    return st;
}

static enum kl_status find_object(const struct kl_view *view, const struct sim_op *op,
                                  enum kl_want want, Kluis__Store__ObjectRecord **object)
{
    Kluis__Store__VaultRecord *vault = NULL;
    char name[16];
    enum kl_status st = kl_core_vault(view, SIM_VAULT, KL_WANT_LIVE, &vault);

    if (st != KL_OK) {
        return st;
    }
    sim_op_name(op->name, name);
    st = kl_core_object(view, (struct kl_bytes){vault->vault_id.data, vault->vault_id.len},
                        KL_KIND_SECRET, name, want, object);
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    return st;
}

static enum kl_status query_object(struct sim_world *w, const struct kl_view *view,
                                   const struct sim_op *op, struct sim_reply *reply)
{
    Kluis__Store__ObjectRecord *object = NULL;
    Kluis__Store__VersionRecord *version = NULL;
    bool deleted = op->kind == KL_HISTORY_GET_DELETED;
    struct kl_bytes id;
    enum kl_status st = find_object(view, op, deleted ? KL_WANT_DELETED : KL_WANT_LIVE, &object);

    if (st != KL_OK) {
        return st;
    }
    id = op->kind == KL_HISTORY_GET_VERSION
             ? (struct kl_bytes){op->ask, KL_ID_LEN}
             : (struct kl_bytes){object->current_version.data, object->current_version.len};
    st = kl_core_version(view, (struct kl_bytes){object->object_id.data, KL_ID_LEN}, id, &version);
    if (st == KL_NOT_FOUND && op->kind != KL_HISTORY_GET_VERSION) {
        sim_fail(w, "an object's current version is missing");
    }
    if (st == KL_OK) {
        take_version(reply, version);
        kl_pb_wipe_free(&version->base, &kl_pb_allocator);
        st = take_census(w, view, object);
    }
    kl_pb_wipe_free(&object->base, &kl_pb_allocator);
    return st;
}

/* ---- reads ---- */

enum read_step { READ_LOOK, READ_END };

struct read_job {
    struct kl_read read;
    struct sim_replica *replica;
    size_t op;
    uint64_t attempt;
    enum read_step step;
    struct sim_reply reply;
};

/* What a replica says of its age must be true: whatever was acknowledged before is there. */
static void check_age(struct sim_replica *r)
{
    struct sim_world *w = r->node->w;
    uint64_t now = sim_now(w);
    struct kl_read read;
    uint64_t age;
    uint64_t must;

    if (kl_group_read_stale(r->group, &read) != KL_OK) {
        return;
    }
    age = kl_group_read_age_us(r->group, &read);
    kl_group_read_local_end(r->group, &read);
    age = w->options.sabotage == SIM_SABOTAGE_YOUNG ? age / 2 : age;
    age += age / 500 + SIM_MS; /* the pace of the node's clock, and what is rounded */
    must = age < now ? sim_watch_acked_by(w, r->group_id, now - age) : 0;
    if (read.applied < must) {
        sim_fail(w,
                 "n%" PRIu64 " g%u holds %" PRIu64 " and says it is at most %" PRIu64
                 " us old, but %" PRIu64 " was acknowledged before: the age is not true",
                 r->node->id, r->group_id, read.applied, age, must);
    }
}

static enum kl_status begin_read(struct sim_replica *r, struct kl_read *read)
{
    struct sim_world *w = r->node->w;
    uint64_t acked = sim_watch_acked_index(w, r->group_id);
    enum kl_status st;

    check_age(r);

    if (w->options.sabotage == SIM_SABOTAGE_STALE_READ) {
        return kl_group_read_local(r->group, read);
    }
    st = kl_group_read_begin(r->group, read);
    if (st == KL_OK && read->applied < acked) {
        sim_fail(w,
                 "n%" PRIu64 " g%u begins a read at %" PRIu64 ", but %" PRIu64
                 " was acknowledged before",
                 r->node->id, r->group_id, read->applied, acked);
    }
    return st;
}

static enum kl_status end_read(struct sim_replica *r, struct kl_read *read)
{
    if (r->node->w->options.sabotage == SIM_SABOTAGE_STALE_READ) {
        kl_group_read_local_end(r->group, read);
        return KL_OK;
    }
    return kl_group_read_end(r->group, read);
}

static uint64_t read_wait(struct sim_world *w)
{
    uint64_t most = sim_chance(&w->rng, 20) ? 3ULL * w->plan.election_ms * SIM_MS : WAIT_MAX_US;

    return sim_skewed(&w->rng, 1, most);
}

static void read_later(struct sim_world *w, struct read_job *job)
{
    struct sim_event *e = sim_schedule(w, SIM_EV_READ_STEP, job->replica->node, read_wait(w));

    e->replica = job->replica;
    e->arg = job;
}

static void start_read(struct sim_replica *r, size_t op, uint64_t attempt)
{
    struct read_job *job = kl_calloc(1, sizeof *job);
    enum kl_status st;

    job->replica = r;
    job->op = op;
    job->attempt = attempt;
    st = begin_read(r, &job->read);
    if (st != KL_OK) {
        answer_failure(r, op, attempt, st, true);
        kl_free(job);
        return;
    }
    r->node->reads++;
    read_later(r->node->w, job);
}

static void read_on(struct sim_world *w, struct read_job *job)
{
    struct sim_replica *r = job->replica;
    struct sim_op *op = &w->clients->ops[job->op];
    enum kl_status st;

    if (job->step == READ_LOOK) {
        st = r->group_id == 0 ? query_node(&job->read.view, op, &job->reply)
                              : query_object(w, &job->read.view, op, &job->reply);
        job->reply.result = st;
        job->step = READ_END;
        read_later(w, job);
        return;
    }
    st = end_read(r, &job->read);
    r->node->reads--;
    if (st != KL_OK) {
        answer_failure(r, job->op, job->attempt, st, true);
    } else {
        job->reply.leader = r->node->id;
        answer(r, job->op, job->attempt, &job->reply);
    }
    kl_free(job);
}

/* ---- writes ---- */

struct write_job {
    struct kl_proposal proposal; /* first */
    struct sim_replica *replica;
    size_t op;
    uint64_t attempt;
};

static void take_result(struct sim_world *w, const struct sim_op *op, struct kl_bytes packed,
                        struct sim_reply *reply)
{
    Kluis__Log__CommandResult *r =
        kluis__log__command_result__unpack(&kl_pb_allocator, packed.len, packed.ptr);

    if (r == NULL) {
        sim_fail(w, "a result of %zu bytes cannot be unpacked", packed.len);
        return;
    }
    reply->result = (enum kl_status)r->status;
    if (r->version != NULL && r->status == KL_OK) {
        reply->has_version = true;
        memcpy(reply->version, r->version->version_id.data, KL_ID_LEN);
    }
    /* A leader whose clock went back finds a request's end too far away. */
    if (r->status == KL_INVALID_ARGUMENT &&
        !(w->plan.clock_jumps && strcmp(r->field, "expires_ms") == 0)) {
        sim_fail(w, "op %s of the simulation is refused: field %s", kl_history_kind_name(op->kind),
                 r->field);
    }
    kl_pb_wipe_free(&r->base, &kl_pb_allocator);
}

static void write_done(struct kl_proposal *p, enum kl_status status, uint64_t index,
                       struct kl_bytes packed)
{
    struct write_job *job = (struct write_job *)p;
    struct sim_replica *r = job->replica;
    struct sim_world *w = r->node->w;
    struct sim_op *op = &w->clients->ops[job->op];
    struct sim_reply reply = {.status = KL_OK, .leader = r->node->id};

    if (status == KL_OK) {
        sim_watch_acked(w, r, index);
        take_result(w, op, packed, &reply);
        if (r->group_id == 0 && op->class == SIM_OP_USER && reply.result == KL_OK) {
            reply.has_version = true;
            sim_op_uuid(job->op, reply.version);
        }
        answer(r, job->op, job->attempt, &reply);
    } else {
        answer_failure(r, job->op, job->attempt, status, status != KL_UNAVAILABLE);
    }
    kl_free(job);
}

static ProtobufCBinaryData binary(uint8_t *p, size_t n)
{
    return (ProtobufCBinaryData){n, p};
}

static void propose(struct sim_replica *r, size_t number, uint64_t attempt,
                    Kluis__Log__Command *command)
{
    struct sim_world *w = r->node->w;
    struct sim_op *op = &w->clients->ops[number];
    struct write_job *job = kl_calloc(1, sizeof *job);
    uint8_t *p = NULL;
    enum kl_status st;

    command->request_id = binary(op->request_id, KL_ID_LEN);
    command->expires_ms = op->expires_ms;
    job->replica = r;
    job->op = number;
    job->attempt = attempt;
    job->proposal.done = write_done;
    job->proposal.give_up_us = sim_chance(&w->rng, 500)
                                   ? 0
                                   : r->node->clock.mono_us(r->node) + sim_range(&w->rng, 1, SIM_S);
    job->proposal.command = KL_BUF(KL_COMMAND_MAX);
    st = kl_buf_grow(&job->proposal.command, kluis__log__command__get_packed_size(command), &p);
    assert(st == KL_OK);
    (void)kluis__log__command__pack(command, p);
    st = kl_group_propose(r->group, &job->proposal);
    if (st != KL_OK) {
        answer_failure(r, number, attempt, st, true);
        kl_buf_wipe(&job->proposal.command);
        kl_free(job);
    }
}

/* Sets need to know the object they add to, as handlers do: from a read, or, when that is out of
 * date, from CHANGED and another try. */
static bool plan_set(struct sim_replica *r, size_t number, uint64_t attempt, uint8_t *vault_id,
                     uint8_t *object_id, bool *fresh)
{
    struct sim_world *w = r->node->w;
    const struct sim_op *op = &w->clients->ops[number];
    Kluis__Store__ObjectRecord *object = NULL;
    Kluis__Store__VaultRecord *vault = NULL;
    struct kl_read read;
    bool stale = sim_chance(&w->rng, 100);
    enum kl_status st = stale ? kl_group_read_local(r->group, &read) : begin_read(r, &read);
    enum kl_status found;
    enum kl_status ended = KL_OK;

    if (st != KL_OK) {
        answer_failure(r, number, attempt, st, true);
        return false;
    }
    st = kl_core_vault(&read.view, SIM_VAULT, KL_WANT_LIVE, &vault);
    found = find_object(&read.view, op, KL_WANT_ANY, &object);
    if (stale) {
        kl_group_read_local_end(r->group, &read);
    } else {
        ended = end_read(r, &read);
    }
    if (st == KL_OK) {
        memcpy(vault_id, vault->vault_id.data, KL_ID_LEN);
        kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    }
    *fresh = found != KL_OK;
    if (found == KL_OK) {
        memcpy(object_id, object->object_id.data, KL_ID_LEN);
        kl_pb_wipe_free(&object->base, &kl_pb_allocator);
    }
    if (st != KL_OK || ended != KL_OK) {
        if (st != KL_OK && !stale && ended == KL_OK) {
            sim_fail(w, "n%" PRIu64 " has lost the vault: %s", r->node->id, kl_status_name(st));
        }
        answer_failure(r, number, attempt, ended != KL_OK ? ended : KL_UNAVAILABLE, true);
        return false;
    }
    return true;
}

static void propose_set(struct sim_replica *r, size_t number, uint64_t attempt)
{
    struct sim_world *w = r->node->w;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectSet set = KLUIS__LOG__OBJECT_SET__INIT;
    Kluis__Store__VersionRecord version = KLUIS__STORE__VERSION_RECORD__INIT;
    Kluis__Store__VersionMeta meta = KLUIS__STORE__VERSION_META__INIT;
    Kluis__Store__Attributes attributes = KLUIS__STORE__ATTRIBUTES__INIT;
    uint8_t ids[3][KL_ID_LEN];
    uint8_t sealed[SEALED_MAX] = {0};
    char value[SIM_VALUE_MAX];
    char name[16];
    bool fresh = false;
    static char vault_name[] = SIM_VAULT;

    for (size_t i = 0; i < sizeof ids; i++) {
        ids[i / KL_ID_LEN][i % KL_ID_LEN] = (uint8_t)sim_random(&w->rng);
    }
    if (!plan_set(r, number, attempt, ids[0], ids[1], &fresh)) {
        return;
    }
    sim_op_name(w->clients->ops[number].name, name);
    sim_op_value(number, value);
    memcpy(sealed, value, strlen(value));
    attributes.enabled = 1;
    meta.version_id = binary(ids[2], KL_ID_LEN); /* a handler draws one for every try */
    meta.attributes = &attributes;
    version.meta = &meta;
    version.sealed = binary(sealed, sim_range(&w->rng, SIM_VALUE_MAX, SEALED_MAX));
    set.kind = KL_KIND_SECRET;
    set.vault = vault_name;
    set.name = name;
    set.vault_id = binary(ids[0], KL_ID_LEN);
    set.object_id = binary(ids[1], KL_ID_LEN);
    set.wrapped_key = binary(ids[1], fresh ? KL_ID_LEN : 0);
    set.version = &version;
    command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_SET;
    command.object_set = &set;
    propose(r, number, attempt, &command);
}

static void propose_register(struct sim_replica *r, size_t number, uint64_t attempt)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__NodeRegister op = KLUIS__LOG__NODE_REGISTER__INIT;
    uint8_t uuid[KL_ID_LEN];

    sim_op_uuid(number, uuid);
    op.node_id = sim_op_node_id(r->node->w->clients->ops[number].name);
    op.data_uuid = binary(uuid, KL_ID_LEN);
    op.replace = 1;
    command.op_case = KLUIS__LOG__COMMAND__OP_NODE_REGISTER;
    command.node_register = &op;
    propose(r, number, attempt, &command);
}

static void propose_simple(struct sim_replica *r, size_t number, uint64_t attempt)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectDelete delete = KLUIS__LOG__OBJECT_DELETE__INIT;
    Kluis__Log__ObjectRecover recover = KLUIS__LOG__OBJECT_RECOVER__INIT;
    Kluis__Log__ObjectPurge purge = KLUIS__LOG__OBJECT_PURGE__INIT;
    const struct sim_op *op = &r->node->w->clients->ops[number];
    char name[16];
    static char vault_name[] = SIM_VAULT;

    sim_op_name(op->name, name);
    delete.kind = recover.kind = purge.kind = KL_KIND_SECRET;
    delete.vault = recover.vault = purge.vault = vault_name;
    delete.name = recover.name = purge.name = name;
    if (op->kind == KL_HISTORY_DELETE) {
        command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_DELETE;
        command.object_delete = &delete;
    } else if (op->kind == KL_HISTORY_RECOVER) {
        command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_RECOVER;
        command.object_recover = &recover;
    } else {
        assert(op->kind == KL_HISTORY_PURGE);
        command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_PURGE;
        command.object_purge = &purge;
    }
    propose(r, number, attempt, &command);
}

/* ---- set-up ---- */

static void propose_init(struct sim_replica *r, size_t number, uint64_t attempt)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__GroupInit init = KLUIS__LOG__GROUP_INIT__INIT;
    Kluis__Store__GroupRecord group = KLUIS__STORE__GROUP_RECORD__INIT;
    uint8_t id[KL_ID_LEN] = {'c', 'l', 'u', 's', 't', 'e', 'r'};
    static char geography[] = "sim";

    group.cluster_id = binary(id, KL_ID_LEN);
    group.geography = geography;
    group.day_ms = r->node->w->plan.day_ms;
    init.group = &group;
    command.op_case = KLUIS__LOG__COMMAND__OP_GROUP_INIT;
    command.group_init = &init;
    propose(r, number, attempt, &command);
}

static void propose_vault(struct sim_replica *r, size_t number, uint64_t attempt)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultCreate create = KLUIS__LOG__VAULT_CREATE__INIT;
    Kluis__Store__VaultRecord vault = KLUIS__STORE__VAULT_RECORD__INIT;
    uint8_t id[KL_ID_LEN] = {'v', 'a', 'u', 'l', 't'};
    static char name[] = SIM_VAULT;
    static char subscription[] = "00000000-0000-0000-0000-000000000001";
    static char resource_group[] = "rg";
    static char location[] = "here";

    vault.vault_id = binary(id, KL_ID_LEN);
    vault.name = name;
    vault.subscription = subscription;
    vault.resource_group = resource_group;
    vault.location = location;
    vault.retention_days = RETENTION_DAYS;
    vault.wrapped_key = binary(id, KL_ID_LEN);
    create.vault = &vault;
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_CREATE;
    command.vault_create = &create;
    propose(r, number, attempt, &command);
}

static void start_write(struct sim_replica *r, size_t number, uint64_t attempt)
{
    const struct sim_op *op = &r->node->w->clients->ops[number];

    if (op->class == SIM_OP_GROUP_INIT) {
        propose_init(r, number, attempt);
    } else if (op->class == SIM_OP_VAULT_CREATE) {
        propose_vault(r, number, attempt);
    } else if (op->kind != KL_HISTORY_SET) {
        propose_simple(r, number, attempt);
    } else if (r->group_id == 0) {
        propose_register(r, number, attempt);
    } else {
        propose_set(r, number, attempt);
    }
}

void sim_request_event(struct sim_node *n, struct sim_event *e)
{
    struct sim_replica *r = e->replica;

    if (e->kind == SIM_EV_READ_STEP) {
        read_on(n->w, e->arg);
        return;
    }
    if (n->closing) {
        answer_failure(r, e->a, e->b, KL_UNAVAILABLE, true);
        return;
    }
    if (sim_is_read(n->w->clients->ops[e->a].kind)) {
        start_read(r, e->a, e->b);
    } else {
        start_write(r, e->a, e->b);
    }
}
