/*
 * What happens to a call on a worker: unpack, authenticate, authorise, find the group, read, plan,
 * propose, audit, reply. The only place that does any of these.
 */
#include "server/rpc/call.h"

#include "common/names.h"

#include <assert.h>
#include <stdio.h>

/* ---- replies ---- */

void kl_runner_flush(struct kl_runner *r)
{
    for (size_t i = 0; i < r->holds_n; i++) {
        r->holds[i].release(r->holds[i].arg);
    }
    r->holds_n = 0;
}

/* Replies to one connection leave together when the turn ends, but no reply waits for long. */
static void hold(struct kl_runner *r, const struct kl_work *w)
{
    uint64_t now_us = kl_now_us(r->d);

    if (r->holds_n == KL_HOLDS_MAX || (r->holds_n > 0 && now_us - r->held_us > KL_HOLD_US)) {
        kl_runner_flush(r);
    }
    if (w->origin.hold == NULL) {
        return;
    }
    for (size_t i = 0; i < r->holds_n; i++) {
        if (r->holds[i].arg == w->origin.arg) {
            return;
        }
    }
    if (r->holds_n == 0) {
        r->held_us = now_us;
    }
    w->origin.hold(w->origin.arg);
    r->holds[r->holds_n].arg = w->origin.arg;
    r->holds[r->holds_n].release = w->origin.release;
    r->holds_n++;
}

static const char *address_of(const struct kl_node_view *node, uint64_t id)
{
    for (size_t i = 0; i < node->nodes_n; i++) {
        if (node->nodes[i].node_id == id) {
            return node->nodes[i].client_address;
        }
    }
    return NULL;
}

static size_t pack_error(const struct kl_work *w, enum kl_status status, uint64_t time_ms,
                         uint8_t out[KL_REPLY_ERROR_MAX])
{
    struct kl_reply_facts facts = {
        .status = status,
        .field = w->call.field,
        .limit = w->call.limit,
        .server_time_ms = time_ms,
    };

    if (status == KL_NOT_LEADER && w->hint != NULL && !w->stopped) {
        facts.hint = true;
        facts.group = kl_group_id(w->hint);
        facts.leader_id = kl_group_leader(w->hint);
        if (w->d->o.node->witness && facts.leader_id == w->d->o.node->node_id) {
            facts.leader_id = kl_find_member(w->d->o.node, facts.group);
        }
        facts.leader_address = address_of(w->d->o.node, facts.leader_id);
    } else if (status == KL_NOT_LEADER && w->elsewhere && !w->stopped) {
        facts.hint = true;
        facts.group = w->elsewhere_id;
        facts.leader_id = kl_find_member(w->d->o.node, w->elsewhere_id);
        facts.leader_address = address_of(w->d->o.node, facts.leader_id);
    }
    return kl_reply_pack_error(&facts, out);
}

static void reply(struct kl_runner *r, struct kl_work *w, enum kl_status *status, uint64_t time_ms)
{
    uint8_t error[KL_REPLY_ERROR_MAX];
    struct kl_bytes packed = {error, 0};

    if (*status == KL_OK) {
        const struct kl_reply_from from = {
            .node_id = w->d->o.node->node_id,
            .region = w->d->region,
            .age_ms = (w->age_us + 999) / 1000,
            .server_time_ms = time_ms,
        };

        *status = kl_reply_pack_ok(&from, w->call.response, &r->scratch);
        packed = kl_buf_bytes(&r->scratch);
    }
    if (*status != KL_OK) {
        packed = (struct kl_bytes){error, pack_error(w, *status, time_ms, error)};
    }
    hold(r, w);
    w->origin.reply(w->origin.arg, w->origin.stream, packed);
    if (r->scratch.cap > KL_SCRATCH_KEEP_MAX) {
        kl_buf_wipe(&r->scratch);
    } else {
        kl_buf_clear(&r->scratch);
    }
}

static void audit(struct kl_work *w, enum kl_status status, uint64_t wall_ms)
{
    struct kl_audit_record record = {
        .time_ms = wall_ms,
        .principal = w->call.principal == NULL ? "" : w->call.principal->name,
        .remote = w->origin.remote,
        .subject = w->call.subject,
        .status = kl_status_name(status),
        .duration_us = kl_now_us(w->d) - w->arrived_us,
    };

    if (w->call.route == NULL || w->call.route->audit == KL_AUDIT_NONE || w->d->o.audit == NULL) {
        return;
    }
    record.method = w->call.route->method;
    if (w->envelope != NULL && w->envelope->request_id.len == KL_ID_LEN) {
        kl_hex_encode(w->envelope->request_id.data, KL_ID_LEN, record.request_id);
    }
    kl_audit_write(w->d->o.audit, &record);
}

/* What a plan has left behind. */
static void forget(struct kl_work *w)
{
    kl_pb_wipe_free(w->call.response, &kl_pb_allocator);
    w->call.response = NULL;
    if (w->call.state_free != NULL) {
        w->call.state_free(w->call.state);
    }
    w->call.state = NULL;
    w->call.state_free = NULL;
    w->call.field[0] = 0;
    w->call.limit[0] = 0;
}

static void release(struct kl_work *w)
{
    forget(w);
    kl_pb_wipe_free(w->request, &w->request_memory.allocator);
    kl_pb_wipe_free((ProtobufCMessage *)w->envelope, &w->envelope_memory.allocator);
    kl_buf_wipe(&w->packed);
    kl_buf_wipe(&w->result);
    kl_buf_wipe(&w->remote);
    kl_shared_release(w->auth);
    kl_shared_release(w->ring);
    kl_work_end(w);
}

/* The call is over: counted, audited, answered unless the sweep has done that, and gone. */
static void finish(struct kl_runner *r, struct kl_work *w, enum kl_status status)
{
    struct kl_dispatch *d = w->d;
    uint64_t wall_ms = d->o.clock->wall_ms(d->o.clock->ctx);

    /* Before the reply: who has it may send the next call. */
    atomic_fetch_sub(&d->taking, 1);
    atomic_fetch_sub(&d->bytes, w->size);
    if (w->answered) {
        audit(w, KL_TIMEOUT, wall_ms);
        release(w);
        return;
    }
    if (status == KL_UNAUTHENTICATED || status == KL_FORBIDDEN) {
        atomic_fetch_add(&d->refused, 1);
    }
    if (status == KL_OK && w->call.response == NULL) {
        status = KL_INTERNAL; /* a handler forgot to answer */
    }
    audit(w, status, wall_ms);
    reply(r, w, &status, kl_time_ms(d));
    if (status != KL_OK) {
        atomic_fetch_add(&d->errors, 1);
    }
    release(w);
}

/* ---- envelope ---- */

static enum kl_status unpack_envelope(struct kl_work *w)
{
    const char *field = NULL;
    ProtobufCMessage *message = NULL;
    enum kl_status st = kl_wire_unpack(&kluis__v1__call__descriptor, kl_buf_bytes(&w->packed),
                                       &w->envelope_memory, &message, &field);

    kl_buf_wipe(&w->packed);
    if (st == KL_INVALID_ARGUMENT) {
        return kl_call_field(&w->call, st, field, "no zero bytes");
    }
    w->envelope = (Kluis__V1__Call *)message;
    return st;
}

static enum kl_status check_envelope(struct kl_work *w)
{
    const Kluis__V1__Call *e = w->envelope;
    const struct kl_route *route = kl_route_find(e->method);

    if (route == NULL || (route->right == KL_RIGHT_NODE && w->origin.from_node == 0)) {
        return KL_UNIMPLEMENTED; /* what is between nodes does not exist for clients */
    }
    w->call.route = route;
    w->write = route->write;
    if (route->right != KL_RIGHT_NODE) { /* a step of a call that is counted itself */
        atomic_fetch_add(route->write ? &w->d->writes : &w->d->reads, 1);
    }
    if (e->payload.len > route->request_max) {
        return kl_call_field(&w->call, KL_TOO_LARGE, "payload",
                             "the request is larger than any valid one of this method");
    }
    if (e->n_metadata > KL_METADATA_MAX) {
        return kl_call_field(&w->call, KL_INVALID_ARGUMENT, "metadata", "at most 16 entries");
    }
    if (e->deadline_ms > KL_DEADLINE_MAX_MS) {
        return kl_call_field(&w->call, KL_INVALID_ARGUMENT, "deadline_ms",
                             "1 to 60000; 0 means 30000");
    }
    return kl_read_check(w);
}

/* A write carries its id, so that it is never done twice, and a time after which it is not done. */
static enum kl_status check_write(struct kl_work *w)
{
    const Kluis__V1__Call *e = w->envelope;
    uint64_t now_ms = kl_time_ms(w->d);
    unsigned deadline_ms = e->deadline_ms == 0 ? KL_DEADLINE_DEFAULT_MS : e->deadline_ms;

    if (!w->write) {
        return KL_OK;
    }
    if (e->request_id.len != KL_ID_LEN) {
        return kl_call_field(&w->call, KL_INVALID_ARGUMENT, "request_id", "16 random bytes");
    }
    if (now_ms == 0) {
        return KL_UNAVAILABLE; /* the node has just started */
    }
    memcpy(w->call.request_id, e->request_id.data, KL_ID_LEN);
    w->call.expires_ms =
        e->expires_ms != 0 ? e->expires_ms : now_ms + deadline_ms + KL_CLOCK_SKEW_MS / 2;
    if (w->call.expires_ms > now_ms + KL_DEADLINE_MAX_MS + KL_CLOCK_SKEW_MS) {
        return kl_call_field(&w->call, KL_INVALID_ARGUMENT, "expires_ms",
                             "at most 70 s after the server's time");
    }
    return KL_OK;
}

static enum kl_status authenticate(struct kl_work *w)
{
    const Kluis__V1__Call *e = w->envelope;
    const char *authorization = NULL;

    if ((w->call.route->right == KL_RIGHT_NONE && !w->call.route->known) ||
        w->call.route->right == KL_RIGHT_NODE) {
        return KL_OK; /* open to all, or proven by the node's certificate */
    }
    for (size_t i = 0; i < e->n_metadata; i++) {
        if (strcmp(e->metadata[i]->key, "authorization") == 0) {
            authorization = e->metadata[i]->value;
        }
    }
    if (authorization == NULL || strlen(authorization) > KL_TOKEN_MAX || w->auth == NULL ||
        w->auth->auth == NULL) {
        return KL_UNAUTHENTICATED;
    }
    return kl_auth_check(w->auth->auth, authorization, &w->call.principal);
}

static enum kl_status authorise(struct kl_work *w)
{
    const struct kl_route *route = w->call.route;
    enum kl_status st;

    if (route->right == KL_RIGHT_NONE) {
        return KL_OK;
    }
    if (route->right == KL_RIGHT_NODE) {
        return w->origin.from_node != 0 ? KL_OK : KL_FORBIDDEN;
    }
    st = kl_auth_allow(w->call.principal, route->right);
    return st == KL_OK ? st
                       : kl_call_field(&w->call, st, "authorization", kl_right_name(route->right));
}

static enum kl_status unpack_request(struct kl_work *w)
{
    const struct kl_route *route = w->call.route;
    const ProtobufCBinaryData payload = w->envelope->payload;
    const char *field = NULL;
    enum kl_status st = kl_wire_unpack(route->request, kl_bytes_of(payload.data, payload.len),
                                       &w->request_memory, &w->request, &field);

    kl_wipe(payload.data, payload.len);
    if (payload.len > KL_SCRATCH_KEEP_MAX) { /* a blob need not be in memory twice */
        w->envelope_memory.allocator.free(w->envelope_memory.allocator.allocator_data,
                                          payload.data);
        w->envelope->payload = (ProtobufCBinaryData){0, NULL};
    }
    switch (st) {
    case KL_OK:
        w->call.request = w->request;
        return st;
    case KL_INVALID_ARGUMENT:
        return kl_call_field(&w->call, st, field, "no zero bytes");
    case KL_PROTOCOL:
        return kl_call_field(&w->call, KL_INVALID_ARGUMENT, "payload",
                             "a packed request message of this method");
    case KL_TOO_LARGE:
        return kl_call_field(&w->call, st, "payload", "fewer repeated fields");
    default:
        return st;
    }
}

/* A witness serves no vault, but knows who does. */
static enum kl_status send_elsewhere(struct kl_work *w)
{
    enum kl_status st = kl_find_group(w, false);

    return st == KL_OK ? KL_NOT_LEADER : st;
}

/* From packed bytes to a request that may be planned. */
static enum kl_status prepare(struct kl_work *w)
{
    struct kl_dispatch *d = w->d;
    enum kl_status st = unpack_envelope(w);

    if (st == KL_OK) {
        st = check_envelope(w);
    }
    if (st == KL_OK) {
        st = authenticate(w);
    }
    if (st == KL_OK) {
        st = authorise(w);
    }
    if (st == KL_OK) {
        st = check_write(w);
    }
    if (st == KL_OK) {
        st = unpack_request(w);
    }
    if (st != KL_OK) {
        return st;
    }
    if (w->ring == NULL && w->call.route->scope != KL_SCOPE_NODE &&
        w->call.route->right != KL_RIGHT_CLUSTER_READ &&
        w->call.route->right != KL_RIGHT_CLUSTER_ADMIN) {
        return d->o.node->witness ? send_elsewhere(w) : KL_SEALED;
    }
    w->call.keyring = w->ring == NULL ? NULL : w->ring->ring;
    w->call.entropy = d->o.entropy;
    w->call.clock = d->o.clock;
    w->call.node = d->o.node;
    return kl_find_group(w, false);
}

/* ---- plans ---- */

/* The route's plan, inside a read when it needs one. */
static enum kl_status plan_read(struct kl_work *w, struct kl_plan *plan)
{
    enum kl_status ended;
    enum kl_status st;

    if (!w->call.route->barrier) {
        return w->call.route->plan(&w->call, plan);
    }
    st = kl_read_open(w, w->call.group, &w->read);
    if (st != KL_OK) {
        return st;
    }
    w->call.read = &w->read;
    st = w->call.route->plan(&w->call, plan);
    w->call.read = NULL;
    ended = kl_read_close(w, w->call.group, &w->read);
    return ended == KL_OK ? st : ended; /* what was read may be old: drop it */
}

/* The first plan. A remembered home group may be an earlier vault's: then once more, afresh. */
static enum kl_status plan_first(struct kl_work *w, struct kl_plan *plan)
{
    enum kl_status st = plan_read(w, plan);

    if (st != KL_VAULT_NOT_FOUND || !w->cached) {
        return st;
    }
    kl_buf_wipe(&plan->command);
    *plan = (struct kl_plan){.step = KL_STEP_REPLY};
    forget(w);
    w->fresh = true;
    st = kl_find_group(w, true);
    return st == KL_OK ? plan_read(w, plan) : st;
}

/* The leader that the call wants confirmed is: from the group on once more, or it ends. */
static enum kl_status plan_confirmed(struct kl_work *w, struct kl_plan *plan)
{
    enum kl_status st = kl_read_was_confirmed(w);

    if (st == KL_OK) {
        st = kl_find_group(w, w->fresh);
    }
    return st == KL_OK ? plan_first(w, plan) : st;
}

static void proposal_done(struct kl_proposal *p, enum kl_status status, uint64_t index,
                          struct kl_bytes result)
{
    struct kl_work *w = p->arg;

    (void)index;
    w->outcome = status;
    if (status == KL_OK) {
        w->outcome = kl_buf_put(&w->result, result.ptr, result.len);
    }
    kl_work_resume(w);
}

static void wait_done(void *arg, enum kl_status status)
{
    struct kl_work *w = arg;

    w->outcome = status;
    kl_work_resume(w);
}

/* KL_OK: the call waits and must not be touched any more. */
static enum kl_status propose(struct kl_work *w, struct kl_plan *plan)
{
    enum kl_status st;

    w->proposal = (struct kl_proposal){
        .command = plan->command, /* moved */
        .give_up_us = w->deadline_us,
        .done = proposal_done,
        .arg = w,
    };
    plan->command = KL_BUF(0);
    kl_work_park(w);
    st = kl_group_propose(w->call.group, &w->proposal);
    if (st != KL_OK) {
        kl_work_unpark(w);
        kl_buf_wipe(&w->proposal.command);
    }
    return st == KL_CLOSED ? KL_UNAVAILABLE : st;
}

/* Carries out a plan. True: the call waits. False: it ends with *status, or is planned again. */
static bool carry_out(struct kl_work *w, struct kl_plan *plan, enum kl_status *status, bool *again)
{
    *again = false;
    if (*status != KL_OK || plan->step == KL_STEP_REPLY) {
        return false;
    }
    if (plan->step == KL_STEP_AGAIN) {
        *again = ++w->replans <= KL_REPLANS_MAX;
        *status = *again ? KL_OK : KL_CHANGED;
        return false;
    }
    if (kl_now_us(w->d) >= w->deadline_us) {
        *status = KL_TIMEOUT;
        return false;
    }
    w->then = plan->then;
    kl_buf_clear(&w->result);
    switch (plan->step) {
    case KL_STEP_PROPOSE:
        *status = propose(w, plan);
        return *status == KL_OK;
    case KL_STEP_REMOTE:
        kl_remote_start(w, plan);
        return true;
    default:
        assert(plan->step == KL_STEP_WAIT);
        kl_work_park(w);
        plan->start(&w->call, wait_done, w);
        return true;
    }
}

static bool is_new(const struct kl_work *w)
{
    return w->envelope == NULL;
}

void kl_serve(struct kl_runner *r, struct kl_work *w)
{
    struct kl_plan plan = {.step = KL_STEP_REPLY};
    bool again = false;
    enum kl_status st;

    if (w->answered) {
        finish(r, w, KL_TIMEOUT);
        return;
    }
    if (w->stopped) {
        finish(r, w, KL_UNAVAILABLE);
        return;
    }
    if (w->remote_next != 0) {
        kl_remote_again(w);
        return;
    }
    if (is_new(w)) {
        st = kl_now_us(w->d) < w->deadline_us ? prepare(w) : KL_TIMEOUT;
        if (st == KL_OK && w->call.route->heavy) {
            kl_runner_flush(r);
        }
        st = st == KL_OK ? plan_first(w, &plan) : st;
    } else if (w->wants != NULL) {
        st = plan_confirmed(w, &plan);
    } else {
        st = w->then(&w->call, w->outcome, kl_buf_bytes(&w->result), &plan);
    }
    for (;;) {
        if (w->wants != NULL) {
            st = kl_read_confirm(w);
            if (st == KL_OK) {
                return;
            }
        }
        if (carry_out(w, &plan, &st, &again)) {
            return;
        }
        kl_buf_wipe(&plan.command);
        if (!again) {
            break;
        }
        forget(w);
        plan = (struct kl_plan){.step = KL_STEP_REPLY};
        st = plan_read(w, &plan);
    }
    finish(r, w, st);
}
