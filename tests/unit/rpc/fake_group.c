#include "tests/unit/rpc/fixture.h"

#include "server/core/entry.h"

#include <assert.h>

struct kl_group {
    struct fake_store *s;
    uint64_t node_id;
};

struct fake_store {
    uint16_t id;
    const struct kl_clock *clock;
    struct kl_kv *kv;
    struct kl_group groups[FIX_NODES];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct kl_mail *head, **tail;
    size_t waiting;
    uint64_t leader, index, entries, confirms;
    uint64_t age_us[FIX_NODES];
    enum kl_status confirm;
    bool held, ending;
    unsigned failing_reads, refusals;
    enum kl_status refusal;
    void (*before)(void *arg);
    void *before_arg;
    void (*arm)(bool on);
};

static struct kl_dispatch *peers[FIX_NODES];

/* Checks of the test library end the test by a long jump: not from a thread of ours. */
static void must(enum kl_status st)
{
    assert(st == KL_OK);
}

void fake_peers_set(uint64_t node_id, struct kl_dispatch *d)
{
    peers[node_id - 1] = d;
}

/* Applies packed commands as one entry; results are in *results. */
static void apply(struct fake_store *s, struct kl_bytes *commands, size_t n,
                  struct kl_results *results)
{
    struct kl_buf entry = KL_BUF(KL_ENTRY_MAX);
    struct kl_kv_view kv_view = {s->kv, NULL};
    struct kl_view view = kl_kv_view(&kv_view);
    struct kl_batch batch;

    kl_batch_init(&batch, KL_BATCH_MAX);
    kl_results_init(results);
    must(kl_entry_begin(&entry, s->clock->wall_ms(s->clock->ctx)));
    for (size_t i = 0; i < n; i++) {
        must(kl_entry_add(&entry, commands[i]));
    }
    must(kl_entry_end(&entry));
    must(kl_core_apply(++s->index, kl_buf_bytes(&entry), &view, &batch, results));
    must(kl_kv_write(s->kv, &batch, false));
    kl_batch_done(&batch);
    kl_buf_wipe(&entry);
    s->entries++;
}

static void finish(struct fake_store *s, struct kl_proposal *p, bool leads)
{
    struct kl_bytes command = kl_buf_bytes(&p->command);
    struct kl_bytes result = {NULL, 0};
    struct kl_results results;
    size_t pos = 0;

    if (!leads) {
        kl_buf_wipe(&p->command);
        p->done(p, KL_NOT_LEADER, 0, result);
        return;
    }
    if (p->give_up_us != 0 && s->clock->mono_us(s->clock->ctx) > p->give_up_us) {
        kl_buf_wipe(&p->command);
        p->done(p, KL_TIMEOUT, 0, result);
        return;
    }
    (void)pthread_mutex_lock(&s->lock);
    apply(s, &command, 1, &results);
    (void)pthread_mutex_unlock(&s->lock);
    must(kl_results_next(&results, &pos, &result) ? KL_OK : KL_INTERNAL);
    kl_buf_wipe(&p->command);
    p->done(p, KL_OK, s->index, result);
    kl_results_done(&results);
}

static void *run(void *arg)
{
    struct fake_store *s = arg;

    (void)pthread_mutex_lock(&s->lock);
    while (!s->ending || s->head != NULL) {
        struct kl_mail *mail = s->head;
        void (*before)(void *) = s->before;
        bool leads = s->leader != 0;

        if (mail == NULL || (s->held && !s->ending)) {
            (void)pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        s->head = mail->next;
        if (s->head == NULL) {
            s->tail = &s->head;
        }
        s->waiting--;
        s->before = NULL;
        (void)pthread_mutex_unlock(&s->lock);
        if (before != NULL) {
            before(s->before_arg);
        }
        finish(s, (struct kl_proposal *)mail, leads);
        (void)pthread_mutex_lock(&s->lock);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

struct fake_store *fake_store_new(uint16_t id, const struct kl_clock *clock)
{
    struct fake_store *s = calloc(1, sizeof *s);

    CHECK(s != NULL);
    s->id = id;
    s->clock = clock;
    s->tail = &s->head;
    s->leader = 1;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->changed, NULL);
    CHECK_OK(kl_kv_memory_new(&s->kv));
    for (size_t i = 0; i < FIX_NODES; i++) {
        s->groups[i] = (struct kl_group){s, i + 1};
    }
    CHECK_EQ(pthread_create(&s->thread, NULL, run, s), 0);
    return s;
}

void fake_store_free(struct fake_store *s)
{
    (void)pthread_mutex_lock(&s->lock);
    s->ending = true;
    (void)pthread_cond_broadcast(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
    (void)pthread_join(s->thread, NULL);
    kl_kv_close(s->kv);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

struct kl_group *fake_store_group(struct fake_store *s, uint64_t node_id)
{
    return &s->groups[node_id - 1];
}

#define WITH_LOCK(s, statement)                                                                    \
    (void)pthread_mutex_lock(&(s)->lock);                                                          \
    statement;                                                                                     \
    (void)pthread_cond_broadcast(&(s)->changed);                                                   \
    (void)pthread_mutex_unlock(&(s)->lock)

void fake_store_lead(struct fake_store *s, uint64_t node_id)
{
    WITH_LOCK(s, s->leader = node_id);
}

void fake_store_inline(struct fake_store *s, void (*arm)(bool on))
{
    WITH_LOCK(s, s->arm = arm);
}

void fake_store_hold(struct fake_store *s, bool held)
{
    WITH_LOCK(s, s->held = held);
}

size_t fake_store_waiting(struct fake_store *s)
{
    size_t n;

    WITH_LOCK(s, n = s->waiting);
    return n;
}

void fake_store_fail_reads(struct fake_store *s, unsigned n)
{
    WITH_LOCK(s, s->failing_reads = n);
}

void fake_store_age(struct fake_store *s, uint64_t node_id, uint64_t us)
{
    WITH_LOCK(s, s->age_us[node_id - 1] = us);
}

void fake_store_confirm(struct fake_store *s, enum kl_status st)
{
    WITH_LOCK(s, s->confirm = st);
}

uint64_t fake_store_confirms(struct fake_store *s)
{
    uint64_t n;

    WITH_LOCK(s, n = s->confirms);
    return n;
}

void fake_store_refuse(struct fake_store *s, unsigned n, enum kl_status st)
{
    WITH_LOCK(s, (s->refusals = n, s->refusal = st));
}

void fake_store_before(struct fake_store *s, void (*fn)(void *arg), void *arg)
{
    WITH_LOCK(s, (s->before = fn, s->before_arg = arg));
}

enum kl_status fake_store_apply(struct fake_store *s, Kluis__Log__Command *command)
{
    size_t n = kluis__log__command__get_packed_size(command);
    uint8_t *p = malloc(n + 1);
    struct kl_bytes packed = {p, n};
    struct kl_bytes result;
    Kluis__Log__CommandResult *r;
    struct kl_results results;
    size_t pos = 0;
    enum kl_status st;

    CHECK(p != NULL);
    (void)kluis__log__command__pack(command, p);
    WITH_LOCK(s, apply(s, &packed, 1, &results));
    must(kl_results_next(&results, &pos, &result) ? KL_OK : KL_INTERNAL);
    r = kluis__log__command_result__unpack(NULL, result.len, result.ptr);
    CHECK(r != NULL);
    st = (enum kl_status)r->status;
    kluis__log__command_result__free_unpacked(r, NULL);
    kl_results_done(&results);
    free(p);
    return st;
}

uint64_t fake_store_index(struct fake_store *s)
{
    uint64_t n;

    WITH_LOCK(s, n = s->index);
    return n;
}

uint64_t fake_store_entries(struct fake_store *s)
{
    uint64_t n;

    WITH_LOCK(s, n = s->entries);
    return n;
}

struct kl_kv *fake_store_kv(struct fake_store *s)
{
    return s->kv;
}

/* ---- the functions of server/raft that handlers and dispatcher use ---- */

uint16_t kl_group_id(const struct kl_group *group)
{
    return group->s->id;
}

/* Applies on the caller's thread; the result is handed over as a group would. */
static void propose_inline(struct fake_store *s, struct kl_proposal *p)
{
    struct kl_results results;
    struct kl_bytes command = kl_buf_bytes(&p->command);
    struct kl_bytes result;
    size_t pos = 0;

    s->arm(false);
    (void)pthread_mutex_lock(&s->lock);
    apply(s, &command, 1, &results);
    (void)pthread_mutex_unlock(&s->lock);
    must(kl_results_next(&results, &pos, &result) ? KL_OK : KL_INTERNAL);
    kl_buf_wipe(&p->command);
    s->arm(true);
    p->done(p, KL_OK, s->index, result);
    kl_results_done(&results);
}

enum kl_status kl_group_propose(struct kl_group *group, struct kl_proposal *p)
{
    struct fake_store *s = group->s;
    enum kl_status st = KL_OK;

    if (s->arm != NULL) {
        propose_inline(s, p);
        return KL_OK;
    }

    (void)pthread_mutex_lock(&s->lock);
    if (s->refusals > 0) {
        s->refusals--;
        st = s->refusal;
    } else if (s->leader != group->node_id) {
        st = KL_NOT_LEADER;
    } else {
        p->mail.next = NULL;
        *s->tail = &p->mail;
        s->tail = &p->mail.next;
        s->waiting++;
        (void)pthread_cond_broadcast(&s->changed);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return st;
}

static enum kl_status open_read(struct fake_store *s, struct kl_read *read)
{
    (void)pthread_mutex_lock(&s->lock);
    read->store = (struct kl_kv_view){s->kv, kl_kv_snap_new(s->kv)};
    read->view = kl_kv_view(&read->store);
    read->applied = s->index - (s->index != 0); /* at least this is in it */
    (void)pthread_mutex_unlock(&s->lock);
    return read->store.snap == NULL ? KL_NO_MEMORY : KL_OK;
}

enum kl_status kl_group_read_begin(struct kl_group *group, struct kl_read *read)
{
    uint64_t leader;

    WITH_LOCK(group->s, leader = group->s->leader);
    if (leader != group->node_id) {
        return leader == 0 ? KL_UNAVAILABLE : KL_NOT_LEADER;
    }
    return open_read(group->s, read);
}

enum kl_status kl_group_read_end(struct kl_group *group, struct kl_read *read)
{
    bool fails;

    kl_kv_snap_free(read->store.kv, read->store.snap);
    (void)pthread_mutex_lock(&group->s->lock);
    fails = group->s->failing_reads > 0 || group->s->leader != group->node_id;
    group->s->failing_reads -= group->s->failing_reads > 0;
    (void)pthread_mutex_unlock(&group->s->lock);
    return fails ? KL_UNAVAILABLE : KL_OK;
}

enum kl_status kl_group_read_local(struct kl_group *group, struct kl_read *read)
{
    return open_read(group->s, read);
}

enum kl_status kl_group_read_stale(struct kl_group *group, struct kl_read *read)
{
    WITH_LOCK(group->s, read->fresh_us = group->s->age_us[group->node_id - 1]);
    return read->fresh_us == UINT64_MAX ? KL_UNAVAILABLE : open_read(group->s, read);
}

uint64_t kl_group_read_age_us(struct kl_group *group, const struct kl_read *read)
{
    (void)group;
    return read->fresh_us;
}

enum kl_status kl_group_confirm(struct kl_group *group, struct kl_confirm *c)
{
    enum kl_status st;
    uint64_t leader;

    WITH_LOCK(group->s, (st = group->s->confirm, leader = group->s->leader));
    WITH_LOCK(group->s, group->s->confirms++);
    if (st == KL_EXHAUSTED) {
        return st;
    }
    if (leader != group->node_id) {
        st = leader == 0 ? KL_UNAVAILABLE : KL_NOT_LEADER;
    }
    c->done(c, st);
    return KL_OK;
}

enum kl_status kl_group_read_confirmed(struct kl_group *group, struct kl_read *read)
{
    return open_read(group->s, read);
}

void kl_group_read_local_end(struct kl_group *group, struct kl_read *read)
{
    (void)group;
    kl_kv_snap_free(read->store.kv, read->store.snap);
}

uint64_t kl_group_leader(struct kl_group *group)
{
    uint64_t leader;

    WITH_LOCK(group->s, leader = group->s->leader);
    return leader;
}

void kl_group_status(struct kl_group *group, struct kl_group_status *out)
{
    *out = (struct kl_group_status){
        .id = group->s->id,
        .leader_id = kl_group_leader(group),
        .state = kl_group_leader(group) == group->node_id ? 3 : 1,
        .term = 7,
        .last_index = fake_store_index(group->s),
        .led = KL_LED_ELECTED,
        .led_since_ms = 1234,
        .led_gap_ms = 56,
        .leader_changes = 3,
        .failover = {.term = 5, .at_ms = 1200, .gap_ms = 900, .from = 2},
        .members_n = 2,
        .members = {{.node_id = 1, .role = 1, .match_index = 5, .address = "1"},
                    {.node_id = 2, .role = 0, .match_index = 4, .lag_ms = 70, .address = "2"}},
    };
    out->commit_index = out->last_index;
    out->applied_index = out->last_index;
    out->lease = out->state == 3;
}

void kl_group_transfer(struct kl_group *group, uint64_t to_node, kl_group_done_fn done, void *arg)
{
    if (kl_group_leader(group) != group->node_id) {
        done(arg, KL_NOT_LEADER);
        return;
    }
    fake_store_lead(group->s, to_node == 0 ? 2 : to_node);
    done(arg, KL_OK);
}

/* ---- calls between nodes ---- */

struct kl_peers {
    uint64_t from;
};

struct crossing {
    kl_peer_reply_fn fn;
    void *arg;
};

static void crossed(void *arg, uint32_t stream, struct kl_bytes reply)
{
    struct crossing *c = arg;

    (void)stream;
    c->fn(c->arg, KL_OK, reply);
    free(c);
}

enum kl_status kl_peers_call(struct kl_peers *from, uint64_t to_node, struct kl_bytes call_bytes,
                             unsigned timeout_ms, kl_peer_reply_fn fn, void *arg)
{
    struct kl_buf packed = KL_BUF(KL_MESSAGE_MAX);
    struct kl_origin origin = {.from_node = to_node == 1 ? 2 : 1, .reply = crossed};
    struct crossing *c = malloc(sizeof *c);

    (void)from;
    (void)timeout_ms;
    must(c == NULL ? KL_NO_MEMORY : KL_OK);
    *c = (struct crossing){fn, arg};
    origin.arg = c;
    if (peers[to_node - 1] == NULL) {
        free(c);
        return KL_CLOSED;
    }
    must(kl_buf_put(&packed, call_bytes.ptr, call_bytes.len));
    kl_dispatch_call(peers[to_node - 1], &packed, &origin);
    return KL_OK;
}
