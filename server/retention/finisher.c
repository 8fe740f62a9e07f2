#include "server/retention/finisher.h"

#include "common/alloc.h"

#include "rpc.pb-c.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>

enum { PERIOD_MS = 1000, CLAIM_AGE_MS = 5000, DELAY_MAX_MS = 60000, DOUBLINGS_MAX = 6 };

enum step {
    IDLE,
    CALLING,   /* the other group was called */
    ANSWERED,  /* its answer is in status and reply */
    PROPOSING, /* this group is to note that the item is done */
};

/* A vault whose life is halfway between two groups. */
struct item {
    char name[KL_VAULT_NAME_MAX + 1];
    uint8_t vault_id[KL_ID_LEN];
    uint16_t group;       /* to call */
    struct kl_buf packed; /* the call's request */
};

struct kl_finisher {
    struct kl_proposal proposal;
    struct kl_finisher_options options;
    struct item item;
    uint8_t last[KL_ID_LEN]; /* vault id tried last; the next one is looked for behind it */
    bool tried;              /* last holds one */
    uint64_t look_us;
    unsigned failures; /* in a row */
    atomic_uint_least64_t finished;

    pthread_mutex_t lock; /* guards what the answering thread touches */
    enum step step;
    enum kl_status status;
    struct kl_buf reply;
    unsigned refs; /* the owner, and what is under way */
};

static void drop(struct kl_finisher *f)
{
    bool last;

    (void)pthread_mutex_lock(&f->lock);
    last = --f->refs == 0;
    (void)pthread_mutex_unlock(&f->lock);
    if (last) {
        kl_buf_wipe(&f->item.packed);
        kl_buf_wipe(&f->reply);
        (void)pthread_mutex_destroy(&f->lock);
        kl_free(f);
    }
}

static enum step step_of(struct kl_finisher *f)
{
    enum step step;

    (void)pthread_mutex_lock(&f->lock);
    step = f->step;
    (void)pthread_mutex_unlock(&f->lock);
    return step;
}

/* Sets the step and takes a reference for what is now under way. */
static void begin(struct kl_finisher *f, enum step step)
{
    (void)pthread_mutex_lock(&f->lock);
    f->step = step;
    f->refs++;
    (void)pthread_mutex_unlock(&f->lock);
}

static void look_in(struct kl_finisher *f, uint64_t ms)
{
    f->look_us = f->options.clock->mono_us(f->options.clock->ctx) + ms * 1000;
}

/* Done with the item, one way or the other. */
static void settle(struct kl_finisher *f, bool success)
{
    uint64_t delay = f->options.period_ms;

    f->failures = success ? 0 : f->failures + 1;
    for (unsigned i = 1; i < f->failures && i <= DOUBLINGS_MAX; i++) {
        delay *= 2;
    }
    look_in(f, success ? 0 : delay < DELAY_MAX_MS ? delay : DELAY_MAX_MS);
    (void)pthread_mutex_lock(&f->lock);
    f->step = IDLE;
    (void)pthread_mutex_unlock(&f->lock);
}

/* ---- finding an item ---- */

struct search {
    struct kl_finisher *f;
    uint64_t before_ms; /* claims made later than this are too young */
    struct item found;
    bool any;
    bool behind; /* found is behind the item tried last: no better one will come */
    enum kl_status st;
};

static enum kl_status pack(const ProtobufCMessage *message, struct kl_buf *out)
{
    uint8_t *p = NULL;
    enum kl_status st;

    kl_buf_clear(out);
    st = kl_buf_grow(out, protobuf_c_message_get_packed_size(message), &p);
    if (st == KL_OK && p != NULL) {
        (void)protobuf_c_message_pack(message, p);
    }
    return st;
}

/* Is this the one to take? The first behind the last one tried, else the first of all. */
static bool wanted(struct search *s, const char *name, ProtobufCBinaryData vault_id)
{
    if (vault_id.len != KL_ID_LEN || strlen(name) > KL_VAULT_NAME_MAX) {
        s->st = KL_CORRUPT;
        return false;
    }
    s->behind = !s->f->tried || kl_bytes_cmp(kl_bytes_of(vault_id.data, vault_id.len),
                                             kl_bytes_of(s->f->last, KL_ID_LEN)) > 0;
    return s->behind || !s->any;
}

static void take(struct search *s, const char *name, ProtobufCBinaryData vault_id, uint16_t group,
                 const ProtobufCMessage *request)
{
    memcpy(s->found.name, name, strlen(name) + 1);
    memcpy(s->found.vault_id, vault_id.data, KL_ID_LEN);
    s->found.group = group;
    s->st = pack(request, &s->found.packed);
    s->any = s->st == KL_OK;
}

static bool visit_claim(void *arg, const Kluis__Store__ClaimRecord *claim)
{
    struct search *s = arg;
    Kluis__V1__PlaceVaultRequest request = KLUIS__V1__PLACE_VAULT_REQUEST__INIT;
    struct kl_buf vault = KL_BUF(KL_RECORD_MAX);

    if (claim->claimed_ms > s->before_ms || claim->vault == NULL ||
        !wanted(s, claim->name, claim->vault_id)) {
        return s->st == KL_OK;
    }
    s->st = pack(&claim->vault->base, &vault);
    if (s->st == KL_OK) {
        request.vault.data = vault.ptr;
        request.vault.len = vault.len;
        take(s, claim->name, claim->vault_id, (uint16_t)claim->group, &request.base);
    }
    kl_buf_wipe(&vault);
    return s->st == KL_OK && !s->behind;
}

static bool visit_outbox(void *arg, const Kluis__Store__OutboxRecord *item)
{
    struct search *s = arg;
    Kluis__V1__ReleaseVaultRequest request = KLUIS__V1__RELEASE_VAULT_REQUEST__INIT;

    if (wanted(s, item->name, item->vault_id)) {
        request.name = item->name;
        request.vault_id = item->vault_id;
        take(s, item->name, item->vault_id, 0, &request.base);
    }
    return s->st == KL_OK && !s->behind;
}

static bool is_directory(const struct kl_finisher *f)
{
    return kl_group_id(f->options.group) == 0;
}

static enum kl_status search(struct search *s)
{
    struct kl_group *group = s->f->options.group;
    struct kl_read read;
    enum kl_status st = kl_group_read_local(group, &read);

    if (st != KL_OK) {
        return st;
    }
    st = is_directory(s->f) ? kl_core_pending_claims(&read.view, visit_claim, s)
                            : kl_core_outbox(&read.view, visit_outbox, s);
    kl_group_read_local_end(group, &read);
    st = st == KL_OK ? s->st : st;
    return st == KL_OK && !s->any ? KL_NOT_FOUND : st;
}

/* ---- calling the other group ---- */

static void answered(void *arg, enum kl_status status, struct kl_bytes reply)
{
    struct kl_finisher *f = arg;

    (void)pthread_mutex_lock(&f->lock);
    kl_buf_clear(&f->reply);
    f->status = status;
    if (status == KL_OK) {
        f->status = kl_buf_put(&f->reply, reply.ptr, reply.len);
    }
    f->step = ANSWERED;
    (void)pthread_mutex_unlock(&f->lock);
    drop(f);
}

static void look(struct kl_finisher *f)
{
    const struct kl_clock *clock = f->options.clock;
    const char *method =
        is_directory(f) ? "/kluis.v1.Internal/PlaceVault" : "/kluis.v1.Internal/ReleaseVault";
    struct search s = {.f = f, .found = {.packed = KL_BUF(KL_COMMAND_MAX)}, .st = KL_OK};
    struct kl_group_status status;
    uint64_t wall_ms = clock->wall_ms(clock->ctx);
    uint64_t age_ms = f->options.claim_age_ms;

    look_in(f, f->options.period_ms);
    kl_group_status(f->options.group, &status);
    if (!status.ready) {
        return;
    }
    s.before_ms = wall_ms < age_ms ? 0 : wall_ms - age_ms;
    if (search(&s) != KL_OK) {
        kl_buf_wipe(&s.found.packed);
        return;
    }
    kl_buf_wipe(&f->item.packed);
    f->item = s.found; /* moved */
    memcpy(f->last, f->item.vault_id, KL_ID_LEN);
    f->tried = true;
    begin(f, CALLING);
    if (f->options.call(f->options.ctx, f->item.group, method, kl_buf_bytes(&f->item.packed),
                        answered, f) != KL_OK) {
        settle(f, false);
        drop(f);
    }
}

/* ---- noting it here ---- */

static void proposed(struct kl_proposal *p, enum kl_status status, uint64_t index,
                     struct kl_bytes result)
{
    struct kl_finisher *f = p->arg;

    (void)index;
    (void)result; /* a refusal means that it was done already */
    if (status == KL_OK) {
        atomic_fetch_add(&f->finished, 1);
    }
    settle(f, status == KL_OK);
    drop(f);
}

static void propose(struct kl_finisher *f, const Kluis__Log__Command *command)
{
    struct kl_buf packed = KL_BUF(KL_COMMAND_MAX);
    enum kl_status st = pack(&command->base, &packed);

    if (st != KL_OK) {
        settle(f, false);
        return;
    }
    f->proposal = (struct kl_proposal){.command = packed, .done = proposed, .arg = f};
    begin(f, PROPOSING);
    st = kl_group_propose(f->options.group, &f->proposal);
    if (st != KL_OK) {
        kl_buf_wipe(&f->proposal.command);
        settle(f, false);
        drop(f);
    }
}

/* What the home group said to PlaceVault; KL_UNAVAILABLE when it cannot be read. */
static enum kl_status placed(struct kl_bytes reply)
{
    Kluis__V1__PlaceVaultResponse *response =
        kluis__v1__place_vault_response__unpack(&kl_pb_allocator, reply.len, reply.ptr);
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = KL_UNAVAILABLE;

    if (response != NULL) {
        result = kluis__log__command_result__unpack(&kl_pb_allocator, response->result.len,
                                                    response->result.data);
    }
    if (result != NULL) {
        st = (enum kl_status)result->status;
    }
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    kl_pb_wipe_free((ProtobufCMessage *)response, &kl_pb_allocator);
    return st;
}

/* The directory: confirm the claim, or give the name back when no home group can ever take it. */
static void after_place(struct kl_finisher *f, struct kl_bytes reply)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultConfirm confirm = KLUIS__LOG__VAULT_CONFIRM__INIT;
    Kluis__Log__VaultRelease release = KLUIS__LOG__VAULT_RELEASE__INIT;
    ProtobufCBinaryData vault_id = {KL_ID_LEN, f->item.vault_id};
    enum kl_status st = placed(reply);

    if (st == KL_OK) {
        confirm.name = f->item.name;
        confirm.vault_id = vault_id;
        command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_CONFIRM;
        command.vault_confirm = &confirm;
    } else if (st == KL_INVALID_ARGUMENT) {
        release.name = f->item.name;
        release.vault_id = vault_id;
        command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_RELEASE;
        command.vault_release = &release;
    } else {
        settle(f, false);
        return;
    }
    propose(f, &command);
}

static void after_release(struct kl_finisher *f)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__OutboxDone done = KLUIS__LOG__OUTBOX_DONE__INIT;

    done.vault_id = (ProtobufCBinaryData){KL_ID_LEN, f->item.vault_id};
    command.op_case = KLUIS__LOG__COMMAND__OP_OUTBOX_DONE;
    command.outbox_done = &done;
    propose(f, &command);
}

static void go_on(struct kl_finisher *f)
{
    enum kl_status st;

    /* Nobody else touches status and reply now: the answer came, and comes once. */
    st = f->status;
    if (is_directory(f)) {
        if (st == KL_OK) {
            after_place(f, kl_buf_bytes(&f->reply));
            return;
        }
    } else if (st == KL_OK || st == KL_NOT_FOUND) { /* released, or long another vault's name */
        after_release(f);
        return;
    }
    settle(f, false);
}

void kl_finisher_tick(struct kl_finisher *f)
{
    enum step step = step_of(f);

    if (step == ANSWERED) {
        go_on(f);
    } else if (step == IDLE && f->options.clock->mono_us(f->options.clock->ctx) >= f->look_us) {
        look(f);
    }
}

uint64_t kl_finisher_finished(const struct kl_finisher *f)
{
    return atomic_load(&f->finished);
}

enum kl_status kl_finisher_new(const struct kl_finisher_options *options, struct kl_finisher **out)
{
    struct kl_finisher *f = kl_calloc(1, sizeof *f);

    if (f == NULL) {
        return KL_NO_MEMORY;
    }
    assert(options->call != NULL);
    f->options = *options;
    f->options.period_ms = options->period_ms == 0 ? PERIOD_MS : options->period_ms;
    f->options.claim_age_ms = options->claim_age_ms == 0 ? CLAIM_AGE_MS : options->claim_age_ms;
    f->item.packed = KL_BUF(KL_COMMAND_MAX);
    f->reply = KL_BUF(KL_COMMAND_MAX);
    f->refs = 1;
    (void)pthread_mutex_init(&f->lock, NULL);
    *out = f;
    return KL_OK;
}

void kl_finisher_free(struct kl_finisher *f)
{
    if (f != NULL) {
        drop(f);
    }
}
