#include "tests/unit/core/fake_group.h"

#include "common/limits.h"
#include "server/retention/finisher.h"
#include "server/retention/scheduler.h"

#include "rpc.pb-c.h"

#include <pthread.h>

enum { V = 2, O = 20, PERIOD_MS = 100 };

/* ---- scheduler ---- */

struct bench {
    struct world w;
    struct kl_group group;
    struct kl_scheduler *s;
    bool held;
};

static bool bench_held(void *ctx)
{
    return *(bool *)ctx;
}

static void bench_init(struct bench *b)
{
    struct kl_scheduler_options options = {
        .group = &b->group, .held = bench_held, .held_ctx = &b->held, .period_ms = PERIOD_MS};

    b->held = false;
    world_init(&b->w);
    world_group(&b->w);
    CHECK_EQ(world_apply(&b->w, vault_create("vault", V)), KL_OK);
    fake_group_init(&b->group, &b->w, 1);
    options.clock = &b->group.clock;
    CHECK_OK(kl_scheduler_new(&options, &b->s));
}

static void bench_done(struct bench *b)
{
    CHECK_EQ(b->group.open_reads, 0);
    kl_scheduler_free(b->s);
    world_done(&b->w);
}

static uint64_t delete_one(struct bench *b, const char *name, unsigned id)
{
    CHECK_EQ(world_apply(&b->w, object_set("vault", V, name, id, 30)), KL_OK);
    CHECK_EQ(world_apply(&b->w, object_delete("vault", name)), KL_OK);
    return b->w.result->object->purge_ms;
}

/* What is due is purged, once it is due, and counted; then the scheduler is quiet. */
TEST(scheduler, purges)
{
    struct bench b;
    uint64_t due;

    bench_init(&b);
    due = delete_one(&b, "db", O);
    for (; b.w.now + PERIOD_MS < due; fake_group_sleep(&b.group, PERIOD_MS)) {
        kl_scheduler_tick(b.s);
        CHECK_EQ(b.group.proposals, 0);
    }
    fake_group_sleep(&b.group, 2 * PERIOD_MS);
    kl_scheduler_tick(b.s);
    CHECK_EQ(b.group.proposals, 1);
    fake_group_deliver(&b.group, KL_OK);
    CHECK_EQ(kl_scheduler_purged(b.s), 1);
    CHECK_EQ(world_count(&b.w, 's') + world_count(&b.w, 'p'), 0);
    for (int i = 0; i < 20; i++) {
        kl_scheduler_tick(b.s);
        fake_group_sleep(&b.group, PERIOD_MS);
    }
    CHECK_EQ(b.group.proposals, 1);
    bench_done(&b);
}

/* While deadlines may not be believed nothing is purged; what was purged before is still collected. */
TEST(scheduler, held)
{
    struct bench b;
    uint64_t due;

    bench_init(&b);
    for (unsigned i = 0; i < KL_PURGE_INLINE_MAX + 1; i++) {
        CHECK_EQ(world_apply(&b.w, object_set("vault", V, "large", O + 1, 100 + i)), KL_OK);
    }
    due = delete_one(&b, "db", O);
    CHECK_EQ(world_apply(&b.w, object_delete("vault", "large")), KL_OK);
    CHECK_EQ(world_apply(&b.w, object_purge("vault", "large")), KL_OK);
    CHECK_EQ(world_count(&b.w, 'g'), 1);
    b.held = true;
    fake_group_sleep(&b.group, due - b.w.now + PERIOD_MS);
    kl_scheduler_tick(b.s);
    CHECK_EQ(b.group.proposals, 1);
    fake_group_deliver(&b.group, KL_OK);
    CHECK_EQ(world_count(&b.w, 'g'), 0);
    for (int i = 0; i < 20; i++) {
        kl_scheduler_tick(b.s);
        fake_group_sleep(&b.group, PERIOD_MS);
    }
    CHECK_EQ(b.group.proposals, 1);
    CHECK_EQ(world_count(&b.w, 'p'), 1);
    b.held = false;
    kl_scheduler_tick(b.s);
    CHECK_EQ(b.group.proposals, 2);
    fake_group_deliver(&b.group, KL_OK);
    CHECK_EQ(kl_scheduler_purged(b.s), 1);
    bench_done(&b);
}

/* A purge does not wait for the end of a period when its time is known. */
TEST(scheduler, on_time)
{
    struct bench b;
    uint64_t due;

    bench_init(&b);
    due = delete_one(&b, "db", O);
    fake_group_sleep(&b.group, due - b.w.now - PERIOD_MS / 4);
    kl_scheduler_tick(b.s);
    CHECK_EQ(b.group.proposals, 0);
    fake_group_sleep(&b.group, PERIOD_MS / 4);
    kl_scheduler_tick(b.s);
    CHECK_EQ(b.group.proposals, 1);
    fake_group_deliver(&b.group, KL_OK);
    bench_done(&b);
}

/* Who does not lead proposes nothing and reads nothing. */
TEST(scheduler, only_the_leader)
{
    struct bench b;
    uint64_t due;

    bench_init(&b);
    due = delete_one(&b, "db", O);
    fake_group_sleep(&b.group, due);
    b.group.ready = false;
    for (int i = 0; i < 10; i++) {
        kl_scheduler_tick(b.s);
        fake_group_sleep(&b.group, PERIOD_MS);
    }
    CHECK_EQ(b.group.proposals + b.group.reads, 0);
    b.group.ready = true;
    kl_scheduler_tick(b.s);
    CHECK_EQ(b.group.proposals, 1);
    fake_group_deliver(&b.group, KL_OK);
    bench_done(&b);
}

/* One proposal at a time; a backlog is worked off without waiting in between. */
TEST(scheduler, backlog)
{
    struct bench b;
    uint64_t due = 0;

    bench_init(&b);
    for (unsigned i = 0; i < 2 * KL_PURGE_BATCH_MAX + 1; i++) {
        char name[16];

        (void)snprintf(name, sizeof name, "n%u", i);
        due = delete_one(&b, name, O + i);
    }
    fake_group_sleep(&b.group, due - b.w.now);
    for (unsigned i = 1; i <= 3; i++) {
        kl_scheduler_tick(b.s);
        kl_scheduler_tick(b.s); /* still under way */
        CHECK_EQ(b.group.proposals, i);
        fake_group_deliver(&b.group, KL_OK);
    }
    CHECK_EQ(kl_scheduler_purged(b.s), 2 * KL_PURGE_BATCH_MAX + 1);
    CHECK_EQ(world_count(&b.w, 'p'), 0);
    bench_done(&b);
}

/* A node that takes over goes on where the last one stopped: nothing is kept outside the store. */
TEST(scheduler, next_leader)
{
    struct bench b;
    struct kl_scheduler_options options = {.group = &b.group, .period_ms = PERIOD_MS};
    struct kl_scheduler *other = NULL;
    uint64_t due;

    bench_init(&b);
    due = delete_one(&b, "db", O);
    fake_group_sleep(&b.group, due);
    kl_scheduler_tick(b.s);
    fake_group_deliver(&b.group, KL_UNAVAILABLE); /* leadership lost, outcome unknown */
    CHECK_EQ(kl_scheduler_purged(b.s), 0);
    options.clock = &b.group.clock;
    CHECK_OK(kl_scheduler_new(&options, &other));
    kl_scheduler_tick(other);
    fake_group_deliver(&b.group, KL_OK);
    CHECK_EQ(kl_scheduler_purged(other), 1);
    kl_scheduler_free(other);
    bench_done(&b);
}

/* What cannot be proposed, or changes nothing, is not tried again at every tick. */
TEST(scheduler, does_not_spin)
{
    struct bench b;
    uint64_t due;

    bench_init(&b);
    due = delete_one(&b, "db", O);
    fake_group_sleep(&b.group, due);
    b.group.refuse = KL_EXHAUSTED;
    for (int i = 0; i < 50; i++) {
        kl_scheduler_tick(b.s);
    }
    CHECK_EQ(b.group.reads, 1);
    b.group.refuse = KL_OK;
    fake_group_sleep(&b.group, PERIOD_MS);
    kl_scheduler_tick(b.s);
    b.w.now = 5; /* the leader's stamp is far behind the clock that proposed */
    fake_group_deliver(&b.group, KL_OK);
    CHECK_EQ(kl_scheduler_purged(b.s), 0);
    b.w.now = due;
    for (int i = 0; i < 50; i++) {
        kl_scheduler_tick(b.s);
    }
    CHECK_EQ(b.group.proposals, 1);
    fake_group_sleep(&b.group, PERIOD_MS);
    kl_scheduler_tick(b.s);
    CHECK_EQ(b.group.proposals, 2);
    fake_group_deliver(&b.group, KL_NO_SPACE);
    kl_scheduler_tick(b.s);
    CHECK_EQ(b.group.proposals, 2);
    bench_done(&b);
}

/* Freed with a proposal under way: the group still calls back, once, into memory that is there. */
TEST(scheduler, freed_under_way)
{
    struct bench b;
    uint64_t due;

    bench_init(&b);
    due = delete_one(&b, "db", O);
    fake_group_sleep(&b.group, due);
    kl_scheduler_tick(b.s);
    kl_scheduler_free(b.s);
    b.s = NULL;
    fake_group_deliver(&b.group, KL_UNAVAILABLE);
    bench_done(&b);
}

/* ---- finisher ---- */

struct far { /* the other group */
    struct kl_buf request;
    char method[64];
    uint16_t group;
    unsigned calls;
    enum kl_status refuse; /* call() itself answers this, unless KL_OK */
    kl_finisher_reply_fn done;
    void *arg;
};

struct desk {
    struct world w;
    struct kl_group group;
    struct far far;
    struct kl_finisher *f;
};

static enum kl_status far_call(void *ctx, uint16_t group, const char *method,
                               struct kl_bytes request, kl_finisher_reply_fn done, void *arg)
{
    struct far *far = ctx;

    far->calls++;
    if (far->refuse != KL_OK) {
        return far->refuse;
    }
    assert_null(far->done);
    far->group = group;
    (void)snprintf(far->method, sizeof far->method, "%s", method);
    kl_buf_clear(&far->request);
    CHECK_OK(kl_buf_put(&far->request, request.ptr, request.len));
    far->done = done;
    far->arg = arg;
    return KL_OK;
}

static void far_answer(struct far *far, enum kl_status status, struct kl_bytes reply)
{
    kl_finisher_reply_fn done = far->done;

    assert_non_null(done);
    far->done = NULL;
    done(far->arg, status, reply);
}

/* The home group's answer to PlaceVault. */
static void far_placed(struct far *far, enum kl_status status)
{
    Kluis__Log__CommandResult result = KLUIS__LOG__COMMAND_RESULT__INIT;
    Kluis__V1__PlaceVaultResponse response = KLUIS__V1__PLACE_VAULT_RESPONSE__INIT;
    uint8_t *inner;
    uint8_t *packed;
    size_t n;

    result.status = (uint32_t)status;
    result.time_ms = 1;
    inner = packed_of(&result.base, &n);
    response.result = (ProtobufCBinaryData){n, inner};
    packed = packed_of(&response.base, &n);
    far_answer(far, KL_OK, kl_bytes_of(packed, n));
    kl_free(inner);
    kl_free(packed);
}

static void desk_init(struct desk *d, uint16_t group)
{
    struct kl_finisher_options options = {
        .group = &d->group, .period_ms = PERIOD_MS, .ctx = &d->far, .call = far_call};

    world_init(&d->w);
    world_group(&d->w);
    fake_group_init(&d->group, &d->w, group);
    d->far = (struct far){.request = KL_BUF(KL_COMMAND_MAX), .refuse = KL_OK};
    options.clock = &d->group.clock;
    CHECK_OK(kl_finisher_new(&options, &d->f));
}

static void desk_done(struct desk *d)
{
    CHECK_EQ(d->group.open_reads, 0);
    kl_finisher_free(d->f);
    kl_buf_wipe(&d->far.request);
    world_done(&d->w);
}

static void tick(struct desk *d, uint64_t ms)
{
    fake_group_sleep(&d->group, ms);
    kl_finisher_tick(d->f);
}

static bool pending_is(struct desk *d, const char *name)
{
    Kluis__Store__ClaimRecord *claim = NULL;
    bool pending;

    CHECK_OK(kl_core_claim(&d->w.view, name, &claim));
    pending = claim->state == KLUIS__STORE__CLAIM_STATE__CLAIM_PENDING;
    kl_pb_wipe_free(&claim->base, &kl_pb_allocator);
    return pending;
}

/* A claim that its creator left is placed in its home group, whole, and confirmed. */
TEST(finisher, claim)
{
    struct desk d;
    Kluis__V1__PlaceVaultRequest *request;
    Kluis__Store__VaultRecord *vault;

    desk_init(&d, 0);
    CHECK_EQ(world_apply(&d.w, vault_claim("vault", V, 7)), KL_OK);
    tick(&d, 4900);
    CHECK_EQ(d.far.calls, 0); /* too young: its creator is still at it */
    tick(&d, PERIOD_MS);
    CHECK_EQ(d.far.calls, 1);
    CHECK_EQ(d.far.group, 7);
    CHECK_STR(d.far.method, "/kluis.v1.Internal/PlaceVault");
    request = kluis__v1__place_vault_request__unpack(&kl_pb_allocator, d.far.request.len,
                                                     d.far.request.ptr);
    assert_non_null(request);
    vault = kluis__store__vault_record__unpack(&kl_pb_allocator, request->vault.len,
                                               request->vault.data);
    assert_non_null(vault);
    CHECK_STR(vault->name, "vault");
    CHECK_NE(vault->wrapped_key.len, 0); /* what the home group needs is all there */
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    kl_pb_wipe_free(&request->base, &kl_pb_allocator);
    tick(&d, PERIOD_MS);
    CHECK_EQ(d.far.calls, 1); /* one at a time */
    far_placed(&d.far, KL_OK);
    tick(&d, 0);
    CHECK_EQ(d.group.proposals, 1);
    CHECK(pending_is(&d, "vault"));
    fake_group_deliver(&d.group, KL_OK);
    CHECK(!pending_is(&d, "vault"));
    CHECK_EQ(kl_finisher_finished(d.f), 1);
    for (int i = 0; i < 20; i++) {
        tick(&d, PERIOD_MS);
    }
    CHECK_EQ(d.far.calls, 1);
    desk_done(&d);
}

/* A vault that no home group can take gives its name back; any other refusal is tried again. */
TEST(finisher, claim_refused)
{
    struct desk d;

    desk_init(&d, 0);
    CHECK_EQ(world_apply(&d.w, vault_claim("vault", V, 7)), KL_OK);
    tick(&d, 6000);
    far_placed(&d.far, KL_CHANGED);
    tick(&d, 0);
    CHECK_EQ(d.group.proposals, 0);
    CHECK_EQ(d.far.calls, 1);
    tick(&d, PERIOD_MS);
    CHECK_EQ(d.far.calls, 2);
    far_answer(&d.far, KL_OK, kl_bytes_str("rubbish"));
    tick(&d, 0);
    CHECK_EQ(d.group.proposals, 0);
    tick(&d, 2 * PERIOD_MS);
    CHECK_EQ(d.far.calls, 3);
    far_placed(&d.far, KL_INVALID_ARGUMENT);
    tick(&d, 0);
    fake_group_deliver(&d.group, KL_OK);
    CHECK_EQ(world_count(&d.w, 'd') + world_count(&d.w, 'c'), 0);
    desk_done(&d);
}

/* Failures come ever more slowly, and do not keep other items waiting. */
TEST(finisher, backs_off)
{
    struct desk d;
    unsigned changes = 0;
    unsigned calls = 0;

    desk_init(&d, 0);
    CHECK_EQ(world_apply(&d.w, vault_claim("vault-a", V, 1)), KL_OK);
    CHECK_EQ(world_apply(&d.w, vault_claim("vault-b", V + 1, 2)), KL_OK);
    CHECK_EQ(world_apply(&d.w, vault_claim("vault-c", V + 2, 3)), KL_OK);
    tick(&d, 6000);
    for (uint16_t last = 0; calls < 6; calls++) {
        changes += d.far.group != last;
        last = d.far.group;
        far_answer(&d.far, KL_UNAVAILABLE, (struct kl_bytes){NULL, 0});
        tick(&d, 0);
        while (d.far.done == NULL) {
            tick(&d, PERIOD_MS);
        }
    }
    CHECK_EQ(changes, 6); /* a, b, c, a, b, c */
    far_answer(&d.far, KL_UNAVAILABLE, (struct kl_bytes){NULL, 0});
    tick(&d, 0);
    calls = d.far.calls;
    tick(&d, 10 * PERIOD_MS);
    CHECK_EQ(d.far.calls, calls);
    tick(&d, 60000);
    CHECK_EQ(d.far.calls, calls + 1);
    far_placed(&d.far, KL_OK);
    tick(&d, 0);
    fake_group_deliver(&d.group, KL_OK);
    tick(&d, 0); /* after a success the next one follows at once */
    CHECK_EQ(d.far.calls, calls + 2);
    far_answer(&d.far, KL_TIMEOUT, (struct kl_bytes){NULL, 0});
    desk_done(&d);
}

static void purge_a_vault(struct desk *d)
{
    CHECK_EQ(world_apply(&d->w, vault_create("vault", V)), KL_OK);
    CHECK_EQ(world_apply(&d->w, vault_delete("vault")), KL_OK);
    CHECK_EQ(world_apply(&d->w, vault_purge("vault")), KL_OK);
}

/* A purged vault's name is released in the directory, then the outbox forgets it. */
TEST(finisher, outbox)
{
    static const enum kl_status answers[] = {KL_OK, KL_NOT_FOUND};

    for (size_t i = 0; i < 2; i++) {
        struct desk d;
        Kluis__V1__ReleaseVaultRequest *request;

        desk_init(&d, 3);
        purge_a_vault(&d);
        tick(&d, 0);
        CHECK_STR(d.far.method, "/kluis.v1.Internal/ReleaseVault");
        CHECK_EQ(d.far.group, 0);
        request = kluis__v1__release_vault_request__unpack(&kl_pb_allocator, d.far.request.len,
                                                           d.far.request.ptr);
        assert_non_null(request);
        CHECK_STR(request->name, "vault");
        CHECK(kl_bytes_eq(kl_bytes_of(request->vault_id.data, request->vault_id.len), id_of(V)));
        kl_pb_wipe_free(&request->base, &kl_pb_allocator);
        CHECK_EQ(world_count(&d.w, 'x'), 1);
        far_answer(&d.far, answers[i], (struct kl_bytes){NULL, 0});
        tick(&d, 0);
        fake_group_deliver(&d.group, KL_OK);
        CHECK_EQ(world_count(&d.w, 'x'), 0);
        desk_done(&d);
    }
}

/* Not released, not forgotten: whatever fails on the way, the item stays. */
TEST(finisher, outbox_fails)
{
    struct desk d;

    desk_init(&d, 3);
    purge_a_vault(&d);
    d.far.refuse = KL_EXHAUSTED;
    tick(&d, 0);
    CHECK_EQ(d.far.calls, 1);
    d.far.refuse = KL_OK;
    tick(&d, PERIOD_MS);
    far_answer(&d.far, KL_UNAVAILABLE, (struct kl_bytes){NULL, 0});
    tick(&d, 0);
    tick(&d, 2 * PERIOD_MS);
    far_answer(&d.far, KL_OK, (struct kl_bytes){NULL, 0});
    d.group.refuse = KL_EXHAUSTED;
    tick(&d, 0);
    d.group.refuse = KL_OK;
    tick(&d, 4 * PERIOD_MS);
    far_answer(&d.far, KL_OK, (struct kl_bytes){NULL, 0});
    tick(&d, 0);
    fake_group_deliver(&d.group, KL_UNAVAILABLE);
    CHECK_EQ(world_count(&d.w, 'x'), 1);
    CHECK_EQ(kl_finisher_finished(d.f), 0);
    tick(&d, 60000);
    far_answer(&d.far, KL_OK, (struct kl_bytes){NULL, 0});
    tick(&d, 0);
    fake_group_deliver(&d.group, KL_OK);
    CHECK_EQ(world_count(&d.w, 'x'), 0);
    desk_done(&d);
}

/* Who does not lead calls nobody. */
TEST(finisher, only_the_leader)
{
    struct desk d;

    desk_init(&d, 3);
    purge_a_vault(&d);
    d.group.ready = false;
    for (int i = 0; i < 10; i++) {
        tick(&d, PERIOD_MS);
    }
    CHECK_EQ(d.far.calls + d.group.reads, 0);
    desk_done(&d);
}

/* Freed while another node has not answered, or while a proposal is under way. */
TEST(finisher, freed_under_way)
{
    for (int proposing = 0; proposing < 2; proposing++) {
        struct desk d;

        desk_init(&d, 3);
        purge_a_vault(&d);
        tick(&d, 0);
        if (proposing) {
            far_answer(&d.far, KL_OK, (struct kl_bytes){NULL, 0});
            tick(&d, 0);
        }
        kl_finisher_free(d.f);
        d.f = NULL;
        if (proposing) {
            fake_group_deliver(&d.group, KL_UNAVAILABLE);
        } else {
            far_answer(&d.far, KL_UNAVAILABLE, (struct kl_bytes){NULL, 0});
        }
        desk_done(&d);
    }
}

static void *answer_thread(void *arg)
{
    far_answer(arg, KL_OK, (struct kl_bytes){NULL, 0});
    return NULL;
}

static void *deliver_thread(void *arg)
{
    fake_group_deliver(arg, KL_OK);
    return NULL;
}

/* Answers and proposals come back on threads of their own while the owner goes on ticking. */
TEST(finisher, other_threads)
{
    struct desk d;
    pthread_t thread;

    desk_init(&d, 3);
    purge_a_vault(&d);
    tick(&d, 0);
    CHECK_EQ(pthread_create(&thread, NULL, answer_thread, &d.far), 0);
    while (d.group.held == NULL) {
        kl_finisher_tick(d.f);
    }
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(pthread_create(&thread, NULL, deliver_thread, &d.group), 0);
    while (kl_finisher_finished(d.f) == 0) {
    }
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(world_count(&d.w, 'x'), 0);
    desk_done(&d);
}
