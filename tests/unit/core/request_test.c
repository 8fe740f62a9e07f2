#include "tests/unit/core/world.h"

#include "common/limits.h"

enum { V = 2, O = 20, R = 500 };

static void fixture(struct world *w)
{
    world_init(w);
    world_group(w);
    CHECK_EQ(world_apply(w, vault_create("vault", V)), KL_OK);
}

static uint64_t remembered(struct world *w)
{
    Kluis__Store__AppliedRecord *a = NULL;
    uint64_t n;

    CHECK_OK(kl_core_applied(&w->view, &a));
    n = a->requests;
    kl_pb_wipe_free(&a->base, &kl_pb_allocator);
    CHECK_EQ(n, world_count(w, 'q'));
    return n;
}

static Kluis__Log__Command *set(struct world *w, unsigned version, unsigned request)
{
    return with_request(object_set("vault", V, "db", O, version), request,
                        w->now + KL_DEADLINE_DEFAULT_MS);
}

/* A request that comes again is answered as the first time, byte for byte, and does nothing. */
TEST(requests, replay)
{
    struct world w;
    struct kl_buf first = KL_BUF(4096);
    Kluis__Log__Command *cmd;
    uint8_t before[32];
    uint8_t after[32];

    fixture(&w);
    cmd = set(&w, 30, R);
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_OK(kl_buf_put(&first, w.results.bytes.ptr, w.results.bytes.len));
    world_digest(&w, before);
    w.now += 1000;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK(kl_bytes_eq(kl_buf_bytes(&first), kl_buf_bytes(&w.results.bytes)));
    CHECK_EQ(w.result->time_ms, w.now - 1000);
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    CHECK_EQ(remembered(&w), 1);
    /* Also when the same id comes with another command: the id decides. */
    CHECK_EQ(world_apply(&w, with_request(object_delete("vault", "db"), R, w.now)), KL_OK);
    CHECK(kl_bytes_eq(kl_buf_bytes(&first), kl_buf_bytes(&w.results.bytes)));
    kl_buf_wipe(&first);
    world_done(&w);
}

/* Twice in one entry is once. */
TEST(requests, within_one_entry)
{
    struct world w;

    fixture(&w);
    world_add(&w, set(&w, 30, R));
    world_add(&w, set(&w, 31, R));
    world_add(&w, set(&w, 32, R + 1));
    world_commit(&w);
    CHECK_EQ(world_result(&w, 1), KL_OK);
    CHECK_EQ(w.result->object->version_count, 1);
    CHECK_EQ(world_result(&w, 2), KL_OK);
    CHECK_EQ(w.result->object->version_count, 2);
    CHECK_EQ(remembered(&w), 2);
    CHECK_EQ(world_count(&w, 'e'), 1);
    world_done(&w);
}

/* A refusal is an answer too: it is kept, whatever changes meanwhile. */
TEST(requests, refusals_are_kept)
{
    struct world w;
    Kluis__Log__Command *cmd;

    fixture(&w);
    cmd = with_request(object_delete("vault", "db"), R, w.now + 1000);
    CHECK_EQ(world_apply(&w, cmd), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, set(&w, 30, R + 1)), KL_OK);
    CHECK_EQ(world_apply(&w, cmd), KL_NOT_FOUND);
    CHECK_EQ(remembered(&w), 2);
    world_done(&w);
}

/* A refusal that asks for another try is not: the second try must be able to succeed, once. */
TEST(requests, retryable_refusals_are_not)
{
    struct world w;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, with_request(object_set("vault", V, "db", O + 1, 31), R, w.now)),
             KL_CHANGED);
    CHECK_EQ(remembered(&w), 0);
    CHECK_EQ(world_apply(&w, with_request(object_set("vault", V, "db", O, 31), R, w.now)), KL_OK);
    CHECK_EQ(world_apply(&w, with_request(object_set("vault", V, "db", O, 32), R, w.now)), KL_OK);
    CHECK_EQ(w.result->object->version_count, 2);
    world_done(&w);
}

/* Past its time a request is refused; a time too far off is none. Neither is kept. */
TEST(requests, expiry)
{
    struct world w;
    const uint64_t most = KL_DEADLINE_MAX_MS + KL_CLOCK_SKEW_MS;

    fixture(&w);
    CHECK_EQ(world_apply(&w, with_request(object_set("vault", V, "a", O, 30), R, w.now - 1)),
             KL_EXPIRED);
    CHECK_EQ(world_apply(&w, with_request(object_set("vault", V, "a", O, 30), R, w.now + most + 1)),
             KL_INVALID_ARGUMENT);
    CHECK_STR(w.result->field, "expires_ms");
    CHECK_EQ(remembered(&w), 0);
    CHECK_EQ(world_apply(&w, with_request(object_set("vault", V, "a", O, 30), R, w.now + most)),
             KL_OK);
    CHECK_EQ(world_apply(&w, with_request(object_set("vault", V, "b", O + 1, 30), R + 1, w.now)),
             KL_OK);
    CHECK_EQ(remembered(&w), 2);
    world_done(&w);
}

/* The cluster's own commands have no id; a time limit of theirs counts all the same. */
TEST(requests, without_id)
{
    struct world w;
    Kluis__Log__Command *cmd;

    fixture(&w);
    cmd = object_set("vault", V, "db", O, 30);
    cmd->expires_ms = w.now - 1;
    CHECK_EQ(world_apply(&w, cmd), KL_EXPIRED);
    cmd->expires_ms = w.now;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    cmd->request_id = pb_id(R);
    cmd->request_id.len = 15;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_STR(w.result->field, "request_id");
    CHECK_EQ(remembered(&w), 0);
    world_done(&w);
}

/* Time passes, and entries tell of it. */
static void pass(struct world *w, uint64_t to_ms)
{
    while (w->now < to_ms) {
        uint64_t left = to_ms - w->now;

        w->now += left < KL_CLOCK_SKEW_MS ? left : KL_CLOCK_SKEW_MS;
        CHECK_EQ(world_apply(w, outbox_done(1)), KL_OK);
    }
}

/* An id is forgotten after its time, never before; and then what it did is not done again either. */
TEST(requests, sweep)
{
    struct world w;
    Kluis__Log__Command *cmd;
    uint64_t expires;
    Kluis__Store__RequestRecord *r = NULL;

    fixture(&w);
    cmd = set(&w, 30, R);
    expires = cmd->expires_ms;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    pass(&w, expires + KL_CLOCK_SKEW_MS);
    CHECK_EQ(remembered(&w), 1); /* a client's last retry is still told the truth */
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_OK(kl_core_request(&w.view, id_of(R), &r));
    CHECK_EQ(r->expires_ms, expires);
    kl_pb_wipe_free(&r->base, &kl_pb_allocator);
    w.now++;
    CHECK_EQ(world_apply(&w, cmd), KL_EXPIRED);
    CHECK_EQ(remembered(&w), 0);
    CHECK_EQ(world_count(&w, 'e'), 0);
    CHECK_STATUS(kl_core_request(&w.view, id_of(R), &r), KL_NOT_FOUND);
    world_done(&w);
}

/* The entries' time may jump, when an operator confirms that it is later than the cluster believed. For
 * a client no time has passed: its retry, with a new expiry, still is not done twice. */
TEST(requests, time_jumps)
{
    struct world w;
    uint64_t until;

    fixture(&w);
    CHECK_EQ(world_apply(&w, set(&w, 30, R)), KL_OK);
    w.now += 100 * KL_DAY_MS;
    CHECK_EQ(world_apply(&w, outbox_done(1)), KL_OK);
    until = w.now + KL_DEADLINE_MAX_MS + KL_CLOCK_SKEW_MS;
    for (; w.now < until; w.now += KL_CLOCK_SKEW_MS) {
        CHECK_EQ(world_apply(&w, set(&w, 31, R)), KL_OK);
        CHECK_EQ(w.result->object->version_count, 1);
        CHECK_EQ(remembered(&w), 1);
    }
    CHECK_EQ(world_apply(&w, outbox_done(1)), KL_OK);
    CHECK_EQ(remembered(&w), 0);
    world_done(&w);
}

/* The greatest expiry of an entry keeps all of its ids; a sweep takes a bounded number. */
TEST(requests, sweep_is_bounded)
{
    struct world w;
    enum { N = 2 * KL_REQUEST_SWEEP_MAX + 100 };
    uint64_t start;

    fixture(&w);
    start = w.now;
    for (unsigned i = 0; i < N; i++) {
        world_add(&w, with_request(outbox_done(1), R + i, start + 1 + i % 2 * 10));
    }
    world_commit(&w);
    CHECK_EQ(remembered(&w), N);
    pass(&w, start + 11 + KL_CLOCK_SKEW_MS);
    CHECK_EQ(remembered(&w), N);
    w.now++;
    CHECK_EQ(world_apply(&w, outbox_done(1)), KL_OK);
    CHECK_EQ(remembered(&w), N - KL_REQUEST_SWEEP_MAX - 1);
    CHECK_EQ(world_count(&w, 'e'), 1);
    CHECK_EQ(world_apply(&w, outbox_done(1)), KL_OK); /* goes on at the same time */
    CHECK_EQ(world_apply(&w, outbox_done(1)), KL_OK);
    CHECK_EQ(remembered(&w), 0);
    CHECK_EQ(world_count(&w, 'e'), 0);
    world_done(&w);
}

/* Under a steady load the number of ids kept stays at what its lifetime accounts for. */
TEST(requests, steady_load)
{
    struct world w;
    enum { PER_ENTRY = 600, ENTRIES = 60, STEP_MS = 2000, LIFE_MS = 10000 };
    unsigned id = R;

    fixture(&w);
    for (unsigned e = 0; e < ENTRIES; e++) {
        for (unsigned i = 0; i < PER_ENTRY; i++) {
            world_add(&w, with_request(outbox_done(1), id++, w.now + LIFE_MS));
        }
        world_commit(&w);
        CHECK(remembered(&w) <= PER_ENTRY * ((LIFE_MS + KL_CLOCK_SKEW_MS) / STEP_MS + 2));
        w.now += STEP_MS;
    }
    world_done(&w);
}

/* Too many are refused rather than forgotten too soon; own commands go on. */
TEST(requests, exhausted)
{
    struct world w;
    Kluis__Store__AppliedRecord *a = NULL;
    struct kl_batch batch;
    struct kl_key key = kl_key_applied();
    uint8_t *p;
    size_t len;

    fixture(&w);
    CHECK_OK(kl_core_applied(&w.view, &a));
    a->requests = KL_REQUESTS_MAX;
    p = packed_of(&a->base, &len);
    kl_pb_wipe_free(&a->base, &kl_pb_allocator);
    kl_batch_init(&batch, 4096);
    kl_batch_put(&batch, kl_key_bytes(&key), kl_bytes_of(p, len));
    CHECK_OK(kl_kv_write(w.kv, &batch, false));
    kl_batch_done(&batch);
    kl_free(p);
    CHECK_EQ(world_apply(&w, set(&w, 30, R)), KL_EXHAUSTED);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    world_done(&w);
}

/* Time never goes back: a leader with a slow clock is overruled by the log. */
TEST(requests, time_never_decreases)
{
    struct world w;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    w.now += 5000;
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 31)), KL_OK);
    w.now -= 4000;
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    CHECK_EQ(w.result->time_ms, w.now + 4000);
    CHECK_EQ(w.result->object->purge_ms, w.now + 4000 + 7 * DAY_MS);
    world_done(&w);
}

/* An entry that was applied before changes nothing and answers nothing. */
TEST(requests, entry_applied_before)
{
    struct world w;
    struct kl_batch batch;
    Kluis__Store__AppliedRecord *a = NULL;

    fixture(&w);
    CHECK_OK(kl_entry_begin(&w.entry, w.now));
    CHECK_OK(kl_entry_add(&w.entry, (struct kl_bytes){NULL, 0}));
    CHECK_OK(kl_entry_end(&w.entry));
    kl_batch_init(&batch, KL_BATCH_MAX);
    kl_results_done(&w.results);
    for (uint64_t i = 1; i <= w.index; i++) {
        CHECK_OK(kl_core_apply(i, kl_buf_bytes(&w.entry), &w.view, &batch, &w.results));
        CHECK_EQ(batch.count + w.results.count, 0);
    }
    CHECK_OK(kl_core_apply(w.index + 7, kl_buf_bytes(&w.entry), &w.view, &batch, &w.results));
    CHECK_EQ(w.results.count, 1);
    CHECK_OK(kl_kv_write(w.kv, &batch, false));
    CHECK_OK(kl_core_applied(&w.view, &a));
    CHECK_EQ(a->index, w.index + 7);
    kl_pb_wipe_free(&a->base, &kl_pb_allocator);
    kl_batch_done(&batch);
    world_done(&w);
}

/* Several entries may gather in one batch before it is written: each sees the ones before. */
TEST(requests, entries_in_one_batch)
{
    struct world w;
    struct kl_batch batch;
    Kluis__Log__Command *cmd;

    fixture(&w);
    kl_batch_init(&batch, KL_BATCH_MAX);
    for (unsigned i = 0; i < 50; i++) {
        size_t len;
        uint8_t *p;

        cmd = set(&w, 30 + i / 2, R + i / 2); /* every one twice */
        p = packed_of(&cmd->base, &len);
        kl_buf_clear(&w.entry);
        kl_results_done(&w.results);
        CHECK_OK(kl_entry_begin(&w.entry, w.now));
        CHECK_OK(kl_entry_add(&w.entry, kl_bytes_of(p, len)));
        CHECK_OK(kl_entry_end(&w.entry));
        CHECK_OK(kl_core_apply(++w.index, kl_buf_bytes(&w.entry), &w.view, &batch, &w.results));
        CHECK_EQ(world_result(&w, 0), KL_OK);
        CHECK_EQ(w.result->object->version_count, i / 2 + 1);
        kl_free(p);
    }
    CHECK_OK(kl_kv_write(w.kv, &batch, false));
    kl_batch_done(&batch);
    CHECK_EQ(remembered(&w), 25);
    CHECK_EQ(world_count(&w, 'o'), 25);
    world_done(&w);
}

/* ---- malformed commands ---- */

/* Bytes that are no command are refused with an answer, and nothing changes. */
TEST(malformed, bytes)
{
    struct world w;
    uint8_t before[32];
    uint8_t after[32];
    uint8_t unknown[] = {0xfa, 0x3f, 0x01, 'x'}; /* field 1023, length 1: of a newer version */
    Kluis__Log__Command empty = KLUIS__LOG__COMMAND__INIT;

    fixture(&w);
    world_digest(&w, before);
    CHECK_EQ(world_apply_bytes(&w, kl_bytes_str("garbage")), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply_bytes(&w, (struct kl_bytes){NULL, 0}), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply_bytes(&w, kl_bytes_of(unknown, sizeof unknown)), KL_UNIMPLEMENTED);
    CHECK_EQ(world_apply(&w, with_request(&empty, R, w.now)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, with_request(&empty, R, w.now)), KL_INVALID_ARGUMENT);
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    world_done(&w);
}

/* Every truncation and every changed byte of every command gives an answer, never a fault. */
TEST(malformed, mutations)
{
    struct world w;
    Kluis__Log__Command *cmds[] = {
        group_init(DAY_MS),
        node_register(3, 5, false),
        node_seed(3, 5, "three"),
        node_add(4, "four", "west", true),
        node_mark(3, 4, KLUIS__LOG__NODE_MARK__MARK__REMOVE),
        keyring_put(1, 0),
        vault_claim("vault", V, 1),
        vault_confirm("vault", V),
        vault_release("vault", V),
        vault_create("vault2", V + 1),
        vault_update("vault"),
        vault_delete("vault2"),
        vault_recover("vault2"),
        vault_purge("vault2"),
        outbox_done(V),
        object_set("vault", V, "db", O, 30),
        object_update("vault", "db"),
        object_delete("vault", "db"),
        object_recover("vault", "db"),
        object_purge("vault", "db"),
        restore_stage(V, O, 40, 2),
        restore_commit("vault", V, "db", O, 40, 2),
        purge_due(KL_KIND_SECRET, V, "db", O, 1),
        collect(1, V, O, 5),
    };

    fixture(&w);
    for (size_t i = 0; i < sizeof cmds / sizeof cmds[0]; i++) {
        size_t len;
        uint8_t *p = packed_of(&with_request(cmds[i], R, w.now)->base, &len);

        for (size_t n = 0; n < len; n++) {
            (void)world_apply_bytes(&w, kl_bytes_of(p, n));
        }
        for (size_t n = 0; n < len; n++) {
            uint8_t was = p[n];

            for (unsigned bit = 0; bit < 8; bit += 3) {
                p[n] = (uint8_t)(was ^ 1u << bit);
                (void)world_apply_bytes(&w, kl_bytes_of(p, len));
            }
            p[n] = was;
        }
        kl_free(p);
    }
    (void)world_work(&w);
    world_done(&w);
}

/* A command that would not fit a record is refused, not stored half. */
TEST(malformed, too_large)
{
    struct world w;
    Kluis__Log__Command *cmd = object_set("vault", V, "db", O, 30);
    uint8_t *big = kl_calloc(1, KL_COMMAND_MAX);

    assert_non_null(big);
    fixture(&w);
    cmd->object_set->version->sealed = (ProtobufCBinaryData){KL_RECORD_MAX + 1, big};
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    cmd->object_set->version->sealed.len = KL_RECORD_MAX - 1000;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    cmd = vault_create("big", V + 1);
    cmd->vault_create->vault->wrapped_key = (ProtobufCBinaryData){KL_WRAPPED_KEY_MAX + 1, big};
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    kl_free(big);
    world_done(&w);
}

/* What one entry may do is bounded: past that its commands are refused, and may come again. */
TEST(malformed, effect_is_bounded)
{
    struct world w;
    Kluis__Log__Command *cmd;
    uint8_t *big = kl_calloc(1, KL_RECORD_MAX);
    struct kl_batch batch;
    size_t refused = 0;

    assert_non_null(big);
    fixture(&w);
    cmd = object_set("vault", V, "db", O, 30);
    cmd->object_set->version->sealed = (ProtobufCBinaryData){KL_RECORD_MAX - 1000, big};
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    for (unsigned i = 0; i < 300; i++) {
        cmd = object_update("vault", "db"); /* rewrites 255 KiB with each small command */
        cmd->object_update->set_enabled = true;
        world_add(&w, with_request(cmd, R + i, w.now));
    }
    CHECK_OK(kl_entry_end(&w.entry));
    kl_batch_init(&batch, KL_BATCH_MAX);
    kl_results_done(&w.results);
    CHECK_OK(kl_core_apply(++w.index, kl_buf_bytes(&w.entry), &w.view, &batch, &w.results));
    CHECK(batch.ops.len < KL_EFFECT_MAX + (1u << 20));
    CHECK_EQ(w.results.count, 300);
    for (size_t i = 0; i < 300; i++) {
        enum kl_status st = world_result(&w, i);

        CHECK(st == KL_EXHAUSTED || (st == KL_OK && refused == 0));
        refused += st == KL_EXHAUSTED;
    }
    CHECK(refused > 100 && refused < 200);
    CHECK_OK(kl_kv_write(w.kv, &batch, false));
    kl_batch_done(&batch);
    kl_buf_clear(&w.entry);
    CHECK_EQ(world_apply(&w, with_request(cmd, R + 299, w.now)), KL_OK);
    kl_free(big);
    world_done(&w);
}

/* An entry that is not one is a fault: the log is corrupt, and nothing may be committed. */
TEST(malformed, entry)
{
    struct world w;
    struct kl_batch batch;

    fixture(&w);
    kl_batch_init(&batch, KL_BATCH_MAX);
    kl_results_done(&w.results);
    CHECK_STATUS(kl_core_apply(w.index + 1, kl_bytes_str("not an entry at all!!!!!"), &w.view,
                               &batch, &w.results),
                 KL_CORRUPT);
    CHECK_EQ(batch.count + w.results.count, 0);
    CHECK_OK(kl_batch_status(&batch));
    kl_batch_done(&batch);
    world_done(&w);
}
