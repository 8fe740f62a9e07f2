#include "tests/sim/clients.h"

#include "common/names.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    OPS_FIRST = 64,
    ATTEMPT_US = 1500 * SIM_MS,
    EXPIRY_SLACK_MS = 10000,
    BACKOFF_US = 40 * SIM_MS,
};

void sim_op_value(size_t op, char out[SIM_VALUE_MAX])
{
    (void)snprintf(out, SIM_VALUE_MAX, "v%zu", op);
}

void sim_op_uuid(size_t op, uint8_t out[KL_ID_LEN])
{
    kl_put_be64(out, op);
    kl_put_be64(out + 8, sim_mix(op));
}

void sim_op_name(unsigned name, char out[16])
{
    (void)snprintf(out, 16, "s%u", name);
}

/* The directory's register and the vault's secret of one number are two objects. */
static void history_name(const struct sim_world *w, const struct sim_op *op, char out[16])
{
    bool directory = w->nodes[0].replicas[op->replica].group_id == 0;

    (void)snprintf(out, 16, "%c%u", directory ? 'd' : 's', op->name);
}

static void fill_id(struct sim_world *w, uint8_t id[KL_ID_LEN])
{
    kl_put_be64(id, sim_random(&w->rng) | 1);
    kl_put_be64(id + 8, sim_random(&w->rng));
}

/* ---- operations ---- */

static void attempt(struct sim_world *w, size_t number);

static void again_later(struct sim_world *w, size_t number, uint64_t delay_us)
{
    struct sim_event *e = sim_schedule(w, SIM_EV_CLIENT, NULL, delay_us);

    e->a = number + 1;
    e->b = w->clients->ops[number].attempts;
}

static void think(struct sim_world *w, unsigned client)
{
    struct sim_event *e =
        sim_schedule(w, SIM_EV_CLIENT, NULL, sim_skewed(&w->rng, 1, 4ULL * w->plan.think_us));

    e->a = 0;
    e->b = client;
}

static size_t op_new(struct sim_world *w, enum sim_op_class class, unsigned client)
{
    struct sim_clients *c = w->clients;
    struct sim_op *op;

    if (c->ops_n == c->ops_cap) {
        size_t cap = c->ops_cap == 0 ? OPS_FIRST : c->ops_cap * 2;
        struct sim_op *ops = sim_zalloc(&w->heap, cap * sizeof *ops);

        if (c->ops_n != 0) {
            memcpy(ops, c->ops, c->ops_n * sizeof *ops);
        }
        sim_free(c->ops);
        c->ops = ops;
        c->ops_cap = cap;
    }
    op = &c->ops[c->ops_n++];
    *op = (struct sim_op){.class = class, .client = client, .started_us = w->now_us};
    fill_id(w, op->request_id);
    op->deadline_us = w->now_us + sim_range(&w->rng, 2 * SIM_S, 8 * SIM_S);
    if (class != SIM_OP_USER && !w->troubled) {
        op->deadline_us = w->now_us + w->plan.heal_us; /* it must succeed */
    }
    if (class == SIM_OP_USER) {
        op->expires_ms =
            sim_true_wall_ms(w) + (op->deadline_us - w->now_us) / SIM_MS + EXPIRY_SLACK_MS;
    }
    c->running++;
    return c->ops_n - 1;
}

static void record_start(struct sim_world *w, size_t number)
{
    struct sim_op *op = &w->clients->ops[number];
    char name[16];
    char value[SIM_VALUE_MAX];
    char ask[KL_ID_HEX_LEN + 1];
    enum kl_status st;

    history_name(w, op, name);
    sim_op_value(number, value);
    kl_hex_encode(op->ask, KL_ID_LEN, ask);
    st = kl_history_invoke(
        &w->history, op->client, op->kind, name, op->kind == KL_HISTORY_SET ? value : NULL,
        op->kind == KL_HISTORY_GET_VERSION ? ask : NULL, w->now_us, &op->history);
    assert(st == KL_OK);
    sim_say(w, "client %u starts op %zu: %s %s", op->client, number, kl_history_kind_name(op->kind),
            name);
}

/* What to do next. Deletions are rarer than sets, so that names live. */
static void draw_kind(struct sim_world *w, struct sim_op *op)
{
    static const enum kl_history_kind kinds[] = {
        KL_HISTORY_SET,    KL_HISTORY_SET,         KL_HISTORY_SET,     KL_HISTORY_SET,
        KL_HISTORY_SET,    KL_HISTORY_SET,         KL_HISTORY_GET,     KL_HISTORY_GET,
        KL_HISTORY_GET,    KL_HISTORY_GET,         KL_HISTORY_GET,     KL_HISTORY_GET_VERSION,
        KL_HISTORY_DELETE, KL_HISTORY_DELETE,      KL_HISTORY_RECOVER, KL_HISTORY_RECOVER,
        KL_HISTORY_PURGE,  KL_HISTORY_GET_DELETED,
    };
    unsigned name = (unsigned)sim_below(&w->rng, w->plan.names);
    size_t known = w->clients->versions[name].n;

    op->name = name;
    op->replica = (unsigned)sim_below(&w->rng, w->plan.groups);
    op->kind = kinds[sim_below(&w->rng, sizeof kinds / sizeof kinds[0])];
    if (w->nodes[0].replicas[op->replica].group_id == 0) {
        op->kind = sim_chance(&w->rng, 500) ? KL_HISTORY_SET : KL_HISTORY_GET;
    }
    if (op->kind == KL_HISTORY_GET_VERSION) {
        if (known == 0) {
            op->kind = KL_HISTORY_GET;
            return;
        }
        known = known > SIM_VERSIONS_KNOWN ? SIM_VERSIONS_KNOWN : known;
        memcpy(op->ask, w->clients->versions[name].id[sim_below(&w->rng, known)], KL_ID_LEN);
    }
}

static void start_user_op(struct sim_world *w, unsigned client)
{
    size_t number;

    if (w->clients->draining) {
        return;
    }
    number = op_new(w, SIM_OP_USER, client);
    draw_kind(w, &w->clients->ops[number]);
    record_start(w, number);
    attempt(w, number);
}

static void end(struct sim_world *w, size_t number)
{
    struct sim_op *op = &w->clients->ops[number];

    assert(!op->ended);
    op->ended = true;
    w->clients->running--;
    if (op->final) {
        w->clients->final_left--;
    } else if (op->class == SIM_OP_USER) {
        think(w, op->client);
    }
}

static void give_up(struct sim_world *w, size_t number)
{
    struct sim_op *op = &w->clients->ops[number];

    if (op->final || op->class != SIM_OP_USER) {
        sim_fail(w, "op %zu found no leader that answers for %" PRIu64 " s after the trouble",
                 number, (w->now_us - op->started_us) / SIM_S);
        return;
    }
    sim_say(w, "op %zu is given up, %s", number, op->unknown != 0 ? "unknown" : "nothing done");
    if (op->unknown == 0) {
        kl_history_fail(&w->history, op->history);
    }
    end(w, number);
}

/* Whom to ask: mostly who was said to lead, now and then anybody. */
static struct sim_node *choose_node(struct sim_world *w, const struct sim_op *op)
{
    uint64_t leader = w->clients->leader[op->replica];
    unsigned n = w->plan.nodes;

    if (leader != 0 && sim_chance(&w->rng, 850)) {
        return sim_node(w, leader);
    }
    for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
        n = w->nodes[i].up ? i + 1 : n;
    }
    return &w->nodes[sim_below(&w->rng, n)];
}

static void send_request(struct sim_world *w, size_t number, struct sim_node *n)
{
    struct sim_op *op = &w->clients->ops[number];
    struct sim_event *e;
    uint64_t delay;

    op->attempts++;
    if (w->options.sabotage == SIM_SABOTAGE_TWICE) {
        fill_id(w, op->request_id);
    }
    if (!n->up) {
        w->clients->leader[op->replica] = 0; /* refused: it does not lead any more */
        return;
    }
    if (!sim_net_client_delay(w, &delay)) {
        return;
    }
    e = sim_schedule(w, SIM_EV_REQUEST, n, delay);
    e->replica = &n->replicas[op->replica];
    e->a = number;
    e->b = op->attempts;
    op->unknown += sim_is_read(op->kind) && op->class == SIM_OP_USER ? 0 : 1;
}

static void attempt(struct sim_world *w, size_t number)
{
    struct sim_op *op = &w->clients->ops[number];

    if (w->now_us >= op->deadline_us && (op->class == SIM_OP_USER || !w->troubled)) {
        give_up(w, number); /* the set-up has all the time until the trouble ends */
        return;
    }
    send_request(w, number, choose_node(w, op));
    if (sim_chance(&w->rng, w->plan.dup_1000)) {
        send_request(w, number, choose_node(w, op)); /* the same request twice at once */
    }
    again_later(w, number, sim_range(&w->rng, ATTEMPT_US / 4, ATTEMPT_US));
}

/* ---- answers ---- */

static void learn_version(struct sim_world *w, const struct sim_op *op, const struct sim_reply *r)
{
    size_t i = w->clients->versions[op->name].n++ % SIM_VERSIONS_KNOWN;

    memcpy(w->clients->versions[op->name].id[i], r->version, KL_ID_LEN);
}

static void record_answer(struct sim_world *w, size_t number, const struct sim_reply *r)
{
    struct sim_op *op = &w->clients->ops[number];
    char version[KL_ID_HEX_LEN + 1];
    enum kl_status st;

    kl_hex_encode(r->version, KL_ID_LEN, version);
    st = kl_history_return(&w->history, op->history, r->result,
                           r->value[0] != '\0' ? r->value : NULL, r->has_version ? version : NULL,
                           w->now_us);
    assert(st == KL_OK);
    if (r->has_version && r->result == KL_OK && op->kind != KL_HISTORY_GET_VERSION &&
        w->nodes[0].replicas[op->replica].group_id != 0) {
        learn_version(w, op, r);
    }
    sim_say(w, "op %zu answers %s %s %s", number, kl_status_name(r->result), r->value,
            r->has_version ? version : "");
    end(w, number);
}

/* A command or query was carried out and answered. */
static void result(struct sim_world *w, size_t number, const struct sim_reply *r)
{
    struct sim_op *op = &w->clients->ops[number];

    if (kl_status_info(r->result)->retry_safe) { /* CHANGED and the like: this try did nothing */
        op->unknown -= sim_is_read(op->kind) ? 0 : 1;
        again_later(w, number, sim_below(&w->rng, BACKOFF_US));
        return;
    }
    /* This try came too late (or its time is too far away); another may have been in time. */
    if (r->result == KL_EXPIRED || r->result == KL_INVALID_ARGUMENT) {
        op->unknown--;
        if (op->class != SIM_OP_USER) {
            fill_id(w, op->request_id); /* that id will be refused for ever */
            again_later(w, number, SIM_S);
            return;
        }
        op->deadline_us = w->now_us;
        give_up(w, number);
        return;
    }
    if (op->class != SIM_OP_USER) {
        if (r->result != KL_OK && r->result != KL_ALREADY_EXISTS) {
            sim_fail(w, "set-up op %zu: %s", number, kl_status_name(r->result));
            return;
        }
        end(w, number);
        w->clients->setup_left--;
        return;
    }
    if (r->result != KL_OK && r->result != KL_NOT_FOUND && r->result != KL_DELETED) {
        sim_fail(w, "op %zu: unexpected answer %s", number, kl_status_name(r->result));
        return;
    }
    record_answer(w, number, r);
}

static void reply(struct sim_world *w, size_t number, unsigned attempt_no,
                  const struct sim_reply *r)
{
    struct sim_op *op = &w->clients->ops[number];

    if (w->verbose > 1) {
        sim_say(w, "op %zu try %u: %s, %s", number, attempt_no, kl_status_name(r->status),
                kl_status_name(r->result));
    }
    if (op->ended) {
        return;
    }
    if (r->leader != 0) {
        w->clients->leader[op->replica] = r->leader;
    } else if (r->status != KL_OK) {
        w->clients->leader[op->replica] = 0;
    }
    if (r->status == KL_OK) {
        result(w, number, r);
        return;
    }
    if (r->nothing_done && !(sim_is_read(op->kind) && op->class == SIM_OP_USER)) {
        op->unknown--;
    }
    if (attempt_no == op->attempts) {
        again_later(w, number, sim_range(&w->rng, SIM_MS, BACKOFF_US));
    }
}

/* ---- set-up, and the end ---- */

static void set_up(struct sim_world *w)
{
    for (unsigned g = 0; g < w->plan.groups; g++) {
        size_t number = op_new(w, SIM_OP_GROUP_INIT, 0);

        w->clients->ops[number].replica = g;
        w->clients->ops[number].kind = KL_HISTORY_SET;
        w->clients->setup_left++;
        attempt(w, number);
    }
}

static void set_up_more(struct sim_world *w)
{
    struct sim_clients *c = w->clients;

    if (c->ready || c->setup_left != 0) {
        return;
    }
    if (w->plan.vault && c->ops[c->ops_n - 1].class == SIM_OP_GROUP_INIT) {
        size_t number = op_new(w, SIM_OP_VAULT_CREATE, 0);

        c->ops[number].replica = w->plan.groups - 1;
        c->ops[number].kind = KL_HISTORY_SET;
        c->setup_left++;
        attempt(w, number);
        return;
    }
    c->ready = true;
    sim_say(w, "the clients begin");
    for (unsigned i = 0; i < w->plan.clients; i++) {
        think(w, i);
    }
}

void sim_clients_init(struct sim_world *w)
{
    w->clients = sim_zalloc(&w->heap, sizeof *w->clients);
    set_up(w);
}

void sim_clients_done(struct sim_world *w)
{
    sim_free(w->clients->ops);
    sim_free(w->clients);
}

void sim_clients_event(struct sim_world *w, struct sim_event *e)
{
    struct sim_clients *c = w->clients;

    if (e->kind == SIM_EV_REPLY) {
        struct sim_reply r;

        assert(e->data_len == sizeof r);
        memcpy(&r, e->data, sizeof r);
        reply(w, e->a, (unsigned)e->b, &r);
        set_up_more(w);
    } else if (e->a == 0) {
        start_user_op(w, (unsigned)e->b);
    } else if (!c->ops[e->a - 1].ended && c->ops[e->a - 1].attempts == e->b) {
        attempt(w, e->a - 1);
    }
}

void sim_clients_drain(struct sim_world *w)
{
    w->clients->draining = true;
    for (size_t i = 0; i < w->clients->ops_n; i++) {
        struct sim_op *op = &w->clients->ops[i];

        if (!op->ended && op->class != SIM_OP_USER) {
            op->deadline_us = w->now_us + w->plan.heal_us; /* now it must succeed */
        }
    }
}

bool sim_clients_idle(struct sim_world *w)
{
    return w->clients->running == 0;
}

/* One more write per group, then every name is read once more, live and deleted. Nobody's clock may
 * stand in the way of these. */
void sim_clients_finish(struct sim_world *w)
{
    static const enum kl_history_kind kinds[] = {KL_HISTORY_GET, KL_HISTORY_GET_DELETED,
                                                 KL_HISTORY_SET};
    struct sim_clients *c = w->clients;

    for (unsigned g = 0; g < w->plan.groups; g++) {
        bool directory = w->nodes[0].replicas[g].group_id == 0;

        for (unsigned i = 0; i <= w->plan.names * 2; i++) {
            unsigned kind = i / w->plan.names;
            size_t number;

            if (directory && kind == 1) {
                continue;
            }
            number = op_new(w, SIM_OP_USER, SIM_CLIENTS_MAX + i);
            c->ops[number].final = true;
            c->ops[number].expires_ms = 0;
            c->ops[number].kind = kinds[kind];
            c->ops[number].name = i % w->plan.names;
            c->ops[number].replica = g;
            c->ops[number].deadline_us = w->now_us + w->plan.heal_us;
            c->final_left++;
            record_start(w, number);
            attempt(w, number);
        }
    }
    c->finishing = true;
}

bool sim_clients_finished(struct sim_world *w)
{
    return w->clients->finishing && w->clients->final_left == 0;
}

unsigned sim_clients_ops(const struct sim_world *w)
{
    return (unsigned)w->clients->ops_n;
}
