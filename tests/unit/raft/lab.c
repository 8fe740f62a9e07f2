#include "tests/unit/raft/lab.h"

#include "common/alloc.h"
#include "common/names.h"
#include "server/raft/no_transport.h"
#include "server/runtime/log.h"

#include <stddef.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct packet {
    struct packet *next;
    unsigned from, to;
    enum kl_lane lane;
    uint64_t due_us;
    struct kl_buf message;
};

struct task {
    struct kl_mail mail;
    void (*fn)(void *arg);
    void *arg;
};

struct job {
    uv_work_t req;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

enum { JUMP_MAX_US = 25000 };

uint64_t lab_now_us(const struct lab *lab)
{
    return lab->now_us;
}

static void time_passes(struct lab *lab)
{
    uint64_t real = kl_real_clock.mono_us(kl_real_clock.ctx);
    uint64_t passed = real - lab->real_us;

    lab->real_us = real;
    lab->now_us += passed > JUMP_MAX_US ? JUMP_MAX_US : passed;
}

static raft_time io_time(struct raft_io *io)
{
    struct lab_node *n = (struct lab_node *)(void *)((char *)io - offsetof(struct lab_node, io));

    return n->lab->now_us / 1000;
}

/* ---- a store that can refuse writes ---- */

struct lab_kv {
    struct kl_kv kv;
    struct kl_kv *inner;
    struct lab_node *node;
    bool staged;
};

static enum kl_status kv_get(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes key,
                             struct kl_buf *out)
{
    return kl_kv_get(((struct lab_kv *)kv)->inner, snap, key, out);
}
static enum kl_status kv_scan(struct kl_kv *kv, struct kl_kv_snap *snap, struct kl_bytes from,
                              struct kl_bytes to, kl_scan_fn fn, void *arg)
{
    return kl_kv_scan(((struct lab_kv *)kv)->inner, snap, from, to, fn, arg);
}
static enum kl_status kv_write(struct kl_kv *kv, const struct kl_batch *batch, bool sync)
{
    struct lab_kv *l = (struct lab_kv *)kv;

    return l->node->full ? KL_NO_SPACE : kl_kv_write(l->inner, batch, sync);
}
static enum kl_status kv_flush(struct kl_kv *kv)
{
    struct lab_kv *l = (struct lab_kv *)kv;

    while (!l->staged && atomic_load(&l->node->hold_flush)) {
        (void)usleep(1000);
    }
    return l->node->full ? KL_NO_SPACE : kl_kv_flush(l->inner);
}
static enum kl_status kv_compact(struct kl_kv *kv, struct kl_bytes from, struct kl_bytes to)
{
    return kl_kv_compact(((struct lab_kv *)kv)->inner, from, to);
}
static struct kl_kv_snap *kv_snap_new(struct kl_kv *kv)
{
    return kl_kv_snap_new(((struct lab_kv *)kv)->inner);
}
static void kv_snap_free(struct kl_kv *kv, struct kl_kv_snap *snap)
{
    kl_kv_snap_free(((struct lab_kv *)kv)->inner, snap);
}
static void kv_close(struct kl_kv *kv)
{
    kl_kv_close(((struct lab_kv *)kv)->inner);
    kl_free(kv);
}
static const struct kl_kv_ops kv_ops = {kv_get,     kv_scan,     kv_write,     kv_flush,
                                        kv_compact, kv_snap_new, kv_snap_free, kv_close};

static void path_of(const struct lab_node *n, const char *name, char out[400])
{
    (void)snprintf(out, 400, "%s/%s", n->dir, name);
}

static enum kl_status store_open(void *ctx, struct kl_group *group, bool staged, struct kl_kv **out)
{
    struct lab_node *n = ctx;
    struct lab_kv *l = kl_calloc(1, sizeof *l);
    char path[400];
    char err[256];
    enum kl_status st;

    (void)group;
    path_of(n, staged ? "staged" : "state", path);
    st = kl_kv_leveldb_open(path, 1 << 20, &l->inner, err, sizeof err);
    if (st != KL_OK) {
        print_error("%s: %s\n", path, err);
        kl_free(l);
        return st;
    }
    l->kv.ops = &kv_ops;
    l->node = n;
    l->staged = staged;
    *out = &l->kv;
    return KL_OK;
}

static enum kl_status store_adopt(void *ctx, struct kl_group *group)
{
    struct lab_node *n = ctx;
    char state[400];
    char staged[400];
    enum kl_status st;

    (void)group;
    path_of(n, "state", state);
    path_of(n, "staged", staged);
    st = kl_kv_leveldb_destroy(state);
    return st != KL_OK ? st : rename(staged, state) == 0 ? KL_OK : KL_IO;
}

static enum kl_status store_drop_staged(void *ctx, struct kl_group *group)
{
    struct lab_node *n = ctx;
    char path[400];

    (void)group;
    path_of(n, "staged", path);
    return kl_kv_leveldb_destroy(path);
}

/* ---- the host ---- */

static uint64_t node_mono_us(void *ctx)
{
    struct lab_node *n = ctx;

    return n->lab->now_us + n->lab->skew_us[n->id];
}

static uint64_t node_wall_ms(void *ctx)
{
    (void)ctx;
    return kl_real_clock.wall_ms(kl_real_clock.ctx);
}

static void host_send(void *ctx, struct kl_group *group, uint64_t to, enum kl_lane lane,
                      struct kl_bytes message)
{
    struct lab_node *n = ctx;
    struct packet *p;

    (void)group;
    if (to == 0 || to > LAB_NODES) {
        return;
    }
    p = kl_calloc(1, sizeof *p);
    p->from = n->id;
    p->to = (unsigned)to;
    p->lane = lane;
    p->due_us = n->lab->now_us + n->lab->delay_ms * 1000ull;
    p->message = KL_BUF(KL_PEER_MESSAGE_MAX);
    CHECK_OK(kl_buf_put(&p->message, message.ptr, message.len));
    *n->lab->packets_tail = p;
    n->lab->packets_tail = &p->next;
    n->lab->woken = true;
}

static void host_post(void *ctx, struct kl_group *group, void (*fn)(void *arg), void *arg)
{
    struct lab *lab = ((struct lab_node *)ctx)->lab;
    struct task *t = kl_calloc(1, sizeof *t);

    (void)group;
    t->fn = fn;
    t->arg = arg;
    *lab->posts_tail = &t->mail;
    lab->posts_tail = &t->mail.next;
    lab->woken = true;
}

static void work_run(uv_work_t *req)
{
    struct job *j = req->data;

    j->work(j->arg);
}

static void work_done(uv_work_t *req, int status)
{
    struct job *j = req->data;

    (void)status;
    j->done(j->arg);
    kl_free(j);
}

static void host_work(void *ctx, struct kl_group *group, void (*work)(void *arg),
                      void (*done)(void *arg), void *arg)
{
    struct lab_node *n = ctx;
    struct job *j = kl_calloc(1, sizeof *j);

    (void)group;
    *j = (struct job){.work = work, .done = done, .arg = arg};
    j->req.data = j;
    CHECK_EQ(uv_queue_work(&n->lab->loop, &j->req, work_run, work_done), 0);
}

static void host_wake(void *ctx, struct kl_group *group)
{
    (void)group;
    ((struct lab_node *)ctx)->lab->woken = true;
}

static void host_fatal(void *ctx, struct kl_group *group, const char *why)
{
    struct lab_node *n = ctx;

    (void)group;
    n->fatals++;
    (void)snprintf(n->why, sizeof n->why, "%s", why);
}

/* ---- the loop ---- */

static void packets_deliver(struct lab *lab)
{
    struct packet *list = lab->packets;
    uint64_t now = lab_now_us(lab);

    lab->packets = NULL;
    lab->packets_tail = &lab->packets;
    while (list != NULL) {
        struct packet *p = list;
        struct lab_node *to = &lab->nodes[p->to];

        list = p->next;
        p->next = NULL;
        if (p->due_us > now) {
            *lab->packets_tail = p;
            lab->packets_tail = &p->next;
            continue;
        }
        if (!lab->cut[p->from][p->to] && to->group != NULL && !to->closed &&
            (lab->filter == NULL || lab->filter(lab, p->from, p->to, p->lane, &p->message))) {
            kl_group_receive(to->group, p->from, kl_buf_bytes(&p->message));
        }
        kl_buf_wipe(&p->message);
        kl_free(p);
    }
}

static void posts_run(struct lab *lab)
{
    struct kl_mail *list = lab->posts;

    lab->posts = NULL;
    lab->posts_tail = &lab->posts;
    while (list != NULL) {
        struct task *t = (struct task *)list;

        list = list->next;
        t->fn(t->arg);
        kl_free(t);
    }
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle;
}

static void on_timer(uv_timer_t *timer)
{
    (void)timer;
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct lab *lab = prepare->data;

    lab->woken = false;
    time_passes(lab);
    posts_run(lab);
    packets_deliver(lab);
    for (unsigned i = 1; i <= LAB_NODES; i++) {
        if (lab->nodes[i].group != NULL && !lab->nodes[i].closed && lab->frozen != i) {
            kl_group_turn(lab->nodes[i].group);
        }
    }
    if (lab->woken || (lab->packets != NULL && lab->delay_ms == 0)) {
        (void)uv_idle_start(&lab->idle, on_idle);
    } else {
        (void)uv_idle_stop(&lab->idle);
    }
}

struct lab *lab_new(void)
{
    struct lab *lab = kl_calloc(1, sizeof *lab);
    const char *dir = test_dir();

    kl_log_set_level(getenv("LAB_LOG") != NULL ? KL_LOG_DEBUG : KL_LOG_ERROR);
    assert_non_null(lab);
    lab->posts_tail = &lab->posts;
    lab->packets_tail = &lab->packets;
    lab->now_us = 1000000000;
    lab->real_us = kl_real_clock.mono_us(kl_real_clock.ctx);
    CHECK_EQ(uv_loop_init(&lab->loop), 0);
    CHECK_EQ(uv_prepare_init(&lab->loop, &lab->prepare), 0);
    CHECK_EQ(uv_idle_init(&lab->loop, &lab->idle), 0);
    CHECK_EQ(uv_timer_init(&lab->loop, &lab->timer), 0);
    lab->prepare.data = lab;
    CHECK_EQ(uv_prepare_start(&lab->prepare, on_prepare), 0);
    CHECK_EQ(uv_timer_start(&lab->timer, on_timer, 1, 1), 0);
    for (unsigned i = 1; i <= LAB_NODES; i++) {
        struct lab_node *n = &lab->nodes[i];

        n->lab = lab;
        n->id = i;
        (void)snprintf(n->dir, sizeof n->dir, "%s/n%u", dir, i);
        lab->clocks[i] = (struct kl_clock){n, node_mono_us, node_wall_ms};
    }
    return lab;
}

void lab_run_ms(struct lab *lab, unsigned ms)
{
    uint64_t end = lab_now_us(lab) + ms * 1000ull;

    do {
        (void)uv_run(&lab->loop, UV_RUN_ONCE);
    } while (lab_now_us(lab) < end);
}

bool lab_run_until(struct lab *lab, lab_condition condition, void *arg, unsigned ms)
{
    uint64_t end = lab_now_us(lab) + ms * 1000ull;

    while (!condition(lab, arg)) {
        if (lab_now_us(lab) >= end) {
            return false;
        }
        (void)uv_run(&lab->loop, UV_RUN_ONCE);
    }
    return true;
}

/* ---- nodes ---- */

static void node_closed(void *arg)
{
    struct lab_node *n = arg;

    n->group = NULL;
    raft_uv_close(&n->io);
}

static bool is_down(struct lab *lab, void *arg)
{
    (void)lab;
    return ((struct lab_node *)arg)->group == NULL;
}

void lab_node_stop(struct lab *lab, unsigned id)
{
    struct lab_node *n = &lab->nodes[id];

    if (n->group != NULL) {
        n->closed = true;
        kl_group_close(n->group, node_closed, n);
        CHECK(lab_run_until(lab, is_down, n, 10000));
    }
}

static void raft_io_open(struct lab_node *n)
{
    char path[400];

    (void)mkdir(n->dir, 0755);
    path_of(n, "log", path);
    (void)mkdir(path, 0755);
    kl_no_transport(&n->transport);
    CHECK_EQ(raft_uv_init(&n->io, &n->lab->loop, path, &n->transport), 0);
    raft_uv_set_tracer(&n->io, NULL);
    raft_uv_set_disk_retry(&n->io, 300);
    n->io.time = io_time;
}

static uint8_t distance_of(void *ctx, uint16_t group, uint64_t node_id)
{
    const struct lab *lab = ctx;

    (void)group;
    return lab->distance[node_id];
}

enum kl_status lab_node_start(struct lab *lab, unsigned id, unsigned voters)
{
    struct lab_node *n = &lab->nodes[id];
    struct kl_member members[LAB_NODES];
    char addresses[LAB_NODES][16];
    char err[512] = "";
    struct kl_group_options o = {
        .id = 1,
        .node_id = id,
        .dir = n->dir,
        .election_timeout_ms = LAB_ELECTION_MS,
        .tick_ms = n->tick_ms != 0 ? n->tick_ms : LAB_TICK_MS,
        .log_keep_bytes = n->keep_bytes,
        .distance = distance_of,
        .distance_ctx = lab,
        .failback_after_ms = lab->failback_ms,
        .seed = (unsigned)test_seed() + id,
        .store_open = store_open,
        .store_adopt = store_adopt,
        .store_drop_staged = store_drop_staged,
    };
    enum kl_status st;

    for (unsigned i = 0; i < LAB_NODES; i++) {
        (void)snprintf(addresses[i], sizeof addresses[i], "node%u", i + 1);
        members[i] = (struct kl_member){i + 1, addresses[i]};
    }
    o.address = addresses[id - 1];
    n->host = (struct kl_group_host){
        .ctx = n,
        .clock = &lab->clocks[id],
        .entropy = &kl_real_entropy,
        .send = host_send,
        .post = host_post,
        .work = host_work,
        .wake = host_wake,
        .fatal = host_fatal,
    };
    n->closed = false;
    raft_io_open(n);
    st = kl_group_open(&n->host, &o, &n->io, &n->group, err, sizeof err);
    if (st != KL_OK) {
        print_error("node %u: %s\n", id, err);
        return st;
    }
    n->group->wio.covers &= ~n->covers_off;
    if ((n->covers_off & KL_COVER_TICK) != 0) {
        raft_set_heartbeat_timeout(&n->group->raft, o.tick_ms);
    }
    if (voters != 0) {
        st = kl_group_bootstrap(n->group, members, voters);
        CHECK(st == KL_OK || st == KL_ALREADY_EXISTS);
    }
    st = kl_group_start(n->group, err, sizeof err);
    if (st != KL_OK) {
        lab_node_stop(lab, id);
    }
    return st;
}

void lab_start(struct lab *lab, unsigned n, unsigned voters)
{
    for (unsigned i = 1; i <= n; i++) {
        CHECK_OK(lab_node_start(lab, i, voters));
    }
}

void lab_cut(struct lab *lab, unsigned a, unsigned b, bool cut)
{
    lab->cut[a][b] = cut;
    lab->cut[b][a] = cut;
}

void lab_isolate(struct lab *lab, unsigned id, bool cut)
{
    for (unsigned i = 1; i <= LAB_NODES; i++) {
        if (i != id) {
            lab_cut(lab, id, i, cut);
        }
    }
}

void lab_free(struct lab *lab)
{
    for (unsigned i = 1; i <= LAB_NODES; i++) {
        lab_node_stop(lab, i);
    }
    uv_close((uv_handle_t *)&lab->prepare, NULL);
    uv_close((uv_handle_t *)&lab->idle, NULL);
    uv_close((uv_handle_t *)&lab->timer, NULL);
    (void)uv_run(&lab->loop, UV_RUN_DEFAULT);
    CHECK_EQ(uv_loop_close(&lab->loop), 0);
    while (lab->packets != NULL) {
        struct packet *p = lab->packets;

        lab->packets = p->next;
        kl_buf_wipe(&p->message);
        kl_free(p);
    }
    posts_run(lab);
    kl_free(lab);
}

/* ---- leaders and states ---- */

static bool leads(struct lab *lab, void *arg)
{
    unsigned *found = arg;
    uint64_t best = 0;

    *found = 0;
    for (unsigned i = 1; i <= LAB_NODES; i++) {
        struct kl_group *g = lab->nodes[i].group;

        if (g != NULL && !g->dead && g->lead_term > best && g->ready &&
            atomic_load(&g->lease_until_us) > lab->clocks[i].mono_us(lab->clocks[i].ctx)) {
            best = g->lead_term;
            *found = i;
        }
    }
    return *found != 0;
}

unsigned lab_leader(struct lab *lab)
{
    unsigned found = 0;

    CHECK(lab_run_until(lab, leads, &found, 10000));
    return found;
}

void lab_leave_behind(struct lab *lab, unsigned node, unsigned *n)
{
    for (;;) {
        const struct kl_group *leader = lab->nodes[lab_leader(lab)].group;

        if (kl_stream_sending_to(leader, node) ||
            leader->raft.trail.offset > raft_last_index(&lab->nodes[node].group->raft)) {
            return;
        }
        lab_fill(lab, (*n)++, 1, 10);
    }
}

static bool converged(struct lab *lab, void *arg)
{
    uint64_t applied = 0;
    bool first = true;

    (void)arg;
    for (unsigned i = 1; i <= LAB_NODES; i++) {
        struct kl_group *g = lab->nodes[i].group;

        if (g == NULL) {
            continue;
        }
        if (g->raft.commit_index != raft_last_index(&g->raft) ||
            g->raft.last_applied != g->raft.commit_index || g->backlog != NULL) {
            return false;
        }
        if (!first && atomic_load(&g->applied) != applied) {
            return false;
        }
        applied = atomic_load(&g->applied);
        first = false;
    }
    return true;
}

void lab_converge(struct lab *lab)
{
    uint8_t first[32];
    uint8_t other[32];
    unsigned seen = 0;

    CHECK(lab_run_until(lab, converged, NULL, 15000));
    for (unsigned i = 1; i <= LAB_NODES; i++) {
        if (lab->nodes[i].group != NULL) {
            lab_digest(lab, i, seen == 0 ? first : other);
            if (seen++ != 0) {
                CHECK_MEM(first, other, 32);
            }
        }
    }
}

void lab_digest(struct lab *lab, unsigned node, uint8_t out[32])
{
    uint64_t records = 0;

    CHECK_OK(
        kl_kv_digest(((struct lab_kv *)lab->nodes[node].group->kv)->inner, NULL, out, &records));
}

/* ---- commands ---- */

static void called(struct kl_proposal *p, enum kl_status status, uint64_t index,
                   struct kl_bytes result)
{
    struct lab_call *c = p->arg;

    c->done = true;
    c->times++;
    c->status = status;
    c->index = index;
    c->done_us = lab_now_us(c->lab);
    if (status == KL_OK) {
        Kluis__Log__CommandResult *r =
            kluis__log__command_result__unpack(&kl_pb_allocator, result.len, result.ptr);

        assert_non_null(r);
        c->result = r->status;
        c->time_ms = r->time_ms;
        kluis__log__command_result__free_unpacked(r, &kl_pb_allocator);
    }
}

static struct lab_call *propose(struct lab *lab, unsigned node, const Kluis__Log__Command *cmd)
{
    struct lab_call *c = kl_calloc(1, sizeof *c);
    size_t n = kluis__log__command__get_packed_size(cmd);
    uint8_t *to;
    enum kl_status st;

    c->lab = lab;
    c->p.arg = c;
    c->p.done = called;
    c->p.command = KL_BUF(KL_COMMAND_MAX);
    CHECK_OK(kl_buf_grow(&c->p.command, n, &to));
    (void)kluis__log__command__pack(cmd, to);
    st = kl_group_propose(lab->nodes[node].group, &c->p);
    if (st != KL_OK) {
        c->status = st;
        c->done = true;
        kl_buf_wipe(&c->p.command);
    }
    return c;
}

void lab_call_free(struct lab_call *call)
{
    kl_free(call);
}

static bool is_done(struct lab *lab, void *arg)
{
    (void)lab;
    return ((struct lab_call *)arg)->done;
}

void lab_init_group(struct lab *lab)
{
    Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__GroupInit op = KLUIS__LOG__GROUP_INIT__INIT;
    Kluis__Store__GroupRecord group = KLUIS__STORE__GROUP_RECORD__INIT;
    static char geography[] = "earth";
    uint8_t id[KL_ID_LEN] = {1};
    struct lab_call *c;

    group.cluster_id.data = id;
    group.cluster_id.len = sizeof id;
    group.geography = geography;
    group.day_ms = KL_DAY_MS;
    op.group = &group;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_GROUP_INIT;
    cmd.group_init = &op;
    c = propose(lab, lab_leader(lab), &cmd);
    CHECK(lab_run_until(lab, is_done, c, 10000));
    CHECK_EQ(c->status, KL_OK);
    CHECK_EQ(c->result, KL_OK);
    lab_call_free(c);
}

struct lab_call *lab_vault(struct lab *lab, unsigned node, unsigned n, size_t bytes)
{
    Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultCreate op = KLUIS__LOG__VAULT_CREATE__INIT;
    Kluis__Store__VaultRecord v = KLUIS__STORE__VAULT_RECORD__INIT;
    Kluis__Store__Tag tags[KL_TAGS_MAX];
    Kluis__Store__Tag *list[KL_TAGS_MAX];
    static char keys[KL_TAGS_MAX][KL_TAG_KEY_MAX + 1];
    static char value[KL_TAG_VALUE_MAX + 1];
    static uint8_t wrapped[64];
    static char subscription[] = "00000000-0000-0000-0000-000000000001";
    static char group[] = "rg";
    static char location[] = "here";
    char name[32];
    uint8_t id[KL_ID_LEN] = {7};

    (void)snprintf(name, sizeof name, "vault-%08u", n);
    kl_put_be32(id + 12, n);
    memset(value, 'v', KL_TAG_VALUE_MAX);
    v.vault_id = (ProtobufCBinaryData){sizeof id, id};
    v.name = name;
    v.subscription = subscription;
    v.resource_group = group;
    v.location = location;
    v.retention_days = 90;
    v.wrapped_key = (ProtobufCBinaryData){sizeof wrapped, wrapped};
    for (unsigned i = 0; i < KL_TAGS_MAX && bytes > v.n_tags * 640; i++) {
        memset(keys[i], 'k', 400);
        (void)snprintf(keys[i], 8, "%05u", i);
        keys[i][5] = '-';
        tags[i] = (Kluis__Store__Tag)KLUIS__STORE__TAG__INIT;
        tags[i].key = keys[i];
        tags[i].value = value;
        list[i] = &tags[i];
        v.n_tags++;
    }
    v.tags = list;
    op.vault = &v;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_VAULT_CREATE;
    cmd.vault_create = &op;
    return propose(lab, node, &cmd);
}

struct many {
    struct lab_call **calls;
    unsigned n;
};

static bool all_done(struct lab *lab, void *arg)
{
    struct many *m = arg;

    (void)lab;
    while (m->n != 0 && m->calls[m->n - 1]->done) {
        m->n--;
    }
    return m->n == 0;
}

void lab_fill(struct lab *lab, unsigned first, unsigned n, size_t bytes)
{
    unsigned leader = lab_leader(lab);
    struct many m = {kl_calloc(n, sizeof(struct lab_call *)), n};

    for (unsigned i = 0; i < n; i++) {
        m.calls[i] = lab_vault(lab, leader, first + i, bytes);
    }
    CHECK(lab_run_until(lab, all_done, &m, 20000));
    for (unsigned i = 0; i < n; i++) {
        CHECK_EQ(m.calls[i]->status, KL_OK);
        CHECK_EQ(m.calls[i]->result, KL_OK);
        CHECK_EQ(m.calls[i]->times, 1);
        lab_call_free(m.calls[i]);
    }
    kl_free(m.calls);
}

bool lab_has_vault(struct lab *lab, unsigned node, unsigned n)
{
    struct kl_kv_view v = {.kv = lab->nodes[node].group->kv};
    struct kl_view view = kl_kv_view(&v);
    Kluis__Store__VaultRecord *vault = NULL;
    char name[32];
    enum kl_status st;

    (void)snprintf(name, sizeof name, "vault-%08u", n);
    st = kl_core_vault(&view, name, KL_WANT_ANY, &vault);
    if (st == KL_OK) {
        kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    }
    return st == KL_OK;
}

struct steered {
    bool done;
    enum kl_status status;
};

static void steered(void *arg, enum kl_status status)
{
    struct steered *s = arg;

    s->done = true;
    s->status = status;
}

static bool steer_done(struct lab *lab, void *arg)
{
    (void)lab;
    return ((struct steered *)arg)->done;
}

enum kl_status lab_transfer(struct lab *lab, unsigned node, unsigned to)
{
    struct steered s = {false, KL_OK};

    kl_group_transfer(lab->nodes[node].group, to, steered, &s);
    CHECK(lab_run_until(lab, steer_done, &s, 10000));
    return s.status;
}

enum kl_status lab_change(struct lab *lab, unsigned node, enum kl_member_change change, unsigned of)
{
    struct steered s = {false, KL_OK};
    char address[16];

    (void)snprintf(address, sizeof address, "node%u", of);
    kl_group_change(lab->nodes[node].group, change, of, address, steered, &s);
    CHECK(lab_run_until(lab, steer_done, &s, 30000));
    return s.status;
}
