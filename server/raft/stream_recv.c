#include "server/raft/group_impl.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <string.h>

enum in_state {
    IN_OPENING, /* the staged store is being made */
    IN_RECEIVING,
    IN_WHOLE /* staged, durable and marked */
};

struct chunk {
    struct chunk *next;
    Kluis__Peer__Message *message;
};

struct kl_stream_in {
    struct kl_group *g;
    uint64_t from, id, applied;
    enum in_state state;
    bool working, aborted;
    struct kl_kv *kv;  /* the staged store */
    uint64_t seq;      /* written */
    struct kl_buf key; /* the last one written */
    uint8_t digest[KL_STREAM_DIGEST];
    struct chunk *queue, **queue_tail;
    size_t queued;
    uint64_t heard_us, asked_us;
    /* One chunk in work. */
    struct {
        struct chunk *chunk;
        uint8_t digest[KL_STREAM_DIGEST];
        enum kl_status status;
    } job;
};

#define MARK_VALUE_LEN 16 /* be64 applied index, be64 stream id */

static struct kl_bytes mark_key(void)
{
    return kl_bytes_of(KL_STREAM_MARK, KL_STREAM_MARK_LEN);
}

/* ---- messages ---- */

static void ask(struct kl_stream_in *s)
{
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__StreamRequest body = KLUIS__PEER__STREAM_REQUEST__INIT;

    body.stream_id = s->id;
    body.after_key.data = s->key.ptr;
    body.after_key.len = s->key.len;
    body.after_seq = s->seq;
    body.credit = KL_STREAM_CREDIT;
    m.body_case = KLUIS__PEER__MESSAGE__BODY_STREAM_REQUEST;
    m.stream_request = &body;
    s->asked_us = kl_group_now_us(s->g);
    kl_group_send(s->g, s->from, KL_LANE_BULK, &m);
}

static void acknowledge(struct kl_group *g, uint64_t to, uint64_t id, uint64_t seq, bool done,
                        bool failed)
{
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__StreamAck body = KLUIS__PEER__STREAM_ACK__INIT;

    body.stream_id = id;
    body.seq = seq;
    body.done = done;
    body.failed = failed;
    m.body_case = KLUIS__PEER__MESSAGE__BODY_STREAM_ACK;
    m.stream_ack = &body;
    kl_group_send(g, to, KL_LANE_BULK, &m);
}

/* ---- life ---- */

static void chunk_free(struct chunk *c)
{
    if (c != NULL) {
        kl_message_unpacked_free(c->message);
        kl_free(c);
    }
}

static void queue_clear(struct kl_stream_in *s)
{
    while (s->queue != NULL) {
        struct chunk *c = s->queue;

        s->queue = c->next;
        chunk_free(c);
    }
    s->queue_tail = &s->queue;
    s->queued = 0;
}

static void in_free(struct kl_stream_in *s)
{
    if (s->g->in == s) {
        s->g->in = NULL;
    }
    queue_clear(s);
    chunk_free(s->job.chunk);
    kl_buf_wipe(&s->key);
    kl_kv_close(s->kv);
    kl_free(s);
}

static struct kl_stream_in *in_new(struct kl_group *g, uint64_t from, uint64_t id, uint64_t applied)
{
    struct kl_stream_in *s = kl_calloc(1, sizeof *s);

    if (s == NULL) {
        return NULL;
    }
    s->g = g;
    s->from = from;
    s->id = id;
    s->applied = applied;
    s->key = KL_BUF(KL_PEER_MESSAGE_MAX);
    s->queue_tail = &s->queue;
    s->heard_us = kl_group_now_us(g);
    g->in = s;
    return s;
}

static void discard_work(void *arg)
{
    struct kl_stream_in *s = arg;

    kl_kv_close(s->kv);
    s->kv = NULL;
    s->job.status = s->g->options.store_drop_staged(s->g->host->ctx, s->g);
}

static void discard_done(void *arg)
{
    struct kl_stream_in *s = arg;

    kl_group_worked(s->g);
    in_free(s);
}

/* Forgets the stream and what it has staged; waits for a job that still writes to it. */
static void in_drop(struct kl_stream_in *s)
{
    s->aborted = true;
    queue_clear(s);
    if (!s->working) {
        s->working = true;
        kl_group_work(s->g, discard_work, discard_done, s);
    }
}

static void in_fail(struct kl_stream_in *s, enum kl_status status)
{
    kl_log(KL_LOG_ERROR, "raft", "receiving the state failed group=%u from=%llu status=%s",
           (unsigned)s->g->options.id, (unsigned long long)s->from, kl_status_name(status));
    acknowledge(s->g, s->from, s->id, s->seq, false, true);
    in_drop(s);
}

void kl_stream_recv_abort(struct kl_group *g)
{
    if (g->in != NULL) {
        assert(!g->in->working);
        in_free(g->in);
    }
    if (!g->closing) {
        (void)g->options.store_drop_staged(g->host->ctx, g);
    }
}

/* ---- opening ---- */

static void open_work(void *arg)
{
    struct kl_stream_in *s = arg;
    struct kl_group *g = s->g;

    s->job.status = g->options.store_drop_staged(g->host->ctx, g);
    if (s->job.status == KL_OK) {
        s->job.status = g->options.store_open(g->host->ctx, g, true, &s->kv);
    }
}

/* After any job: what closing or an abort meanwhile asks for. false: the stream is gone. */
static bool job_ended(struct kl_stream_in *s)
{
    kl_group_worked(s->g);
    s->working = false;
    chunk_free(s->job.chunk);
    s->job.chunk = NULL;
    if (s->g->closing || s->g->dead) {
        in_free(s);
        return false;
    }
    if (s->aborted) {
        in_drop(s);
        return false;
    }
    return true;
}

static void open_done(void *arg)
{
    struct kl_stream_in *s = arg;
    enum kl_status st = s->job.status;

    if (!job_ended(s)) {
        return;
    }
    if (st != KL_OK) {
        in_fail(s, st);
        return;
    }
    s->state = IN_RECEIVING;
    ask(s);
}

void kl_stream_on_offer(struct kl_group *g, uint64_t from, const Kluis__Peer__StreamOffer *m)
{
    struct kl_stream_in *s = g->in;

    if (m->stream_id == 0 || m->applied_index == 0 || m->applied_index > KL_RAFT_INDEX_MAX ||
        g->raft.state == RAFT_LEADER || g->raft.snapshot.installing) {
        return;
    }
    if (atomic_load(&g->applied) >= m->applied_index) {
        acknowledge(g, from, m->stream_id, 0, true, false); /* nothing is missing */
        return;
    }
    if (s != NULL) {
        if (s->aborted || s->from != from || s->id != m->stream_id) {
            if (!s->aborted) {
                in_drop(s); /* the offer will be repeated */
            }
            return;
        }
        s->heard_us = kl_group_now_us(g);
        if (s->state == IN_WHOLE) {
            acknowledge(g, from, s->id, s->seq, true, false);
        } else if (s->state == IN_RECEIVING) {
            ask(s);
        }
        return;
    }
    s = in_new(g, from, m->stream_id, m->applied_index);
    if (s == NULL) {
        return;
    }
    kl_log(KL_LOG_INFO, "raft", "receiving the state group=%u from=%llu applied=%llu",
           (unsigned)g->options.id, (unsigned long long)from, (unsigned long long)s->applied);
    s->working = true;
    kl_group_work(g, open_work, open_done, s);
}

/* ---- chunks ---- */

/* Marks a store as whole: from now on it may be adopted, also after a crash. */
static enum kl_status mark(struct kl_stream_in *s)
{
    struct kl_kv_view v = {.kv = s->kv};
    struct kl_view view = kl_kv_view(&v);
    Kluis__Store__AppliedRecord *applied = NULL;
    uint8_t value[MARK_VALUE_LEN];
    struct kl_batch batch;
    enum kl_status st = kl_core_applied(&view, &applied);

    if (st != KL_OK) {
        return st == KL_NOT_FOUND ? KL_CORRUPT : st;
    }
    if (applied->index != s->applied) {
        st = KL_CORRUPT; /* not the state that was offered */
    }
    kl_pb_wipe_free(&applied->base, &kl_pb_allocator);
    if (st == KL_OK) {
        st = kl_kv_flush(s->kv);
    }
    if (st != KL_OK) {
        return st;
    }
    kl_put_be64(value, s->applied);
    kl_put_be64(value + 8, s->id);
    kl_batch_init(&batch, 1024);
    kl_batch_put(&batch, mark_key(), kl_bytes_of(value, sizeof value));
    st = kl_batch_status(&batch);
    if (st == KL_OK) {
        st = kl_kv_write(s->kv, &batch, true);
    }
    kl_batch_done(&batch);
    return st;
}

static void chunk_work(void *arg)
{
    struct kl_stream_in *s = arg;
    const Kluis__Peer__StreamChunk *c = s->job.chunk->message->stream_chunk;
    struct kl_batch batch;
    enum kl_status st;

    kl_batch_init(&batch, KL_PEER_MESSAGE_MAX * 2);
    st = kl_stream_digest(s->digest, c->n_pairs, c->pairs, s->job.digest);
    if (st == KL_OK && (c->digest.len != KL_STREAM_DIGEST ||
                        CRYPTO_memcmp(c->digest.data, s->job.digest, KL_STREAM_DIGEST) != 0)) {
        st = KL_CORRUPT;
    }
    if (st != KL_OK) {
        goto out;
    }
    for (size_t i = 0; i < c->n_pairs; i++) {
        const Kluis__Peer__Pair *p = c->pairs[i];

        kl_batch_put(&batch, kl_bytes_of(p->key.data, p->key.len),
                     kl_bytes_of(p->value.data, p->value.len));
    }
    st = kl_batch_status(&batch);
    if (st == KL_OK && c->n_pairs != 0) {
        st = kl_kv_write(s->kv, &batch, false);
    }
    if (st == KL_OK && c->last) {
        st = mark(s);
    }
out:
    kl_batch_done(&batch);
    s->job.status = st;
}

static void chunk_start(struct kl_stream_in *s);

static void chunk_done(void *arg)
{
    struct kl_stream_in *s = arg;
    struct kl_group *g = s->g;
    const Kluis__Peer__StreamChunk *c = s->job.chunk->message->stream_chunk;
    enum kl_status st = s->job.status;
    bool last = c->last;

    if (st == KL_OK && c->n_pairs != 0) {
        const Kluis__Peer__Pair *p = c->pairs[c->n_pairs - 1];

        kl_buf_clear(&s->key);
        st = kl_buf_put(&s->key, p->key.data, p->key.len);
    }
    if (!job_ended(s)) {
        return;
    }
    if (st != KL_OK) {
        in_fail(s, st);
        return;
    }
    s->seq++;
    memcpy(s->digest, s->job.digest, sizeof s->digest);
    s->heard_us = kl_group_now_us(g);
    if (last) {
        s->state = IN_WHOLE;
        g->streams_received++;
        g->changed = true;
        queue_clear(s);
    }
    acknowledge(g, s->from, s->id, s->seq, last, false);
    chunk_start(s);
}

static void chunk_start(struct kl_stream_in *s)
{
    struct chunk *c = s->queue;

    if (c == NULL || s->working || s->state != IN_RECEIVING) {
        return;
    }
    s->queue = c->next;
    if (s->queue == NULL) {
        s->queue_tail = &s->queue;
    }
    s->queued--;
    c->next = NULL;
    s->job.chunk = c;
    s->working = true;
    kl_group_work(s->g, chunk_work, chunk_done, s);
}

static bool chunk_ok(const Kluis__Peer__StreamChunk *c)
{
    if (c->digest.len != KL_STREAM_DIGEST || (c->n_pairs == 0 && !c->last)) {
        return false;
    }
    for (size_t i = 0; i < c->n_pairs; i++) {
        const Kluis__Peer__Pair *p = c->pairs[i];

        if (p->key.len == 0 || p->value.len > KL_RECORD_MAX ||
            kl_bytes_eq(kl_bytes_of(p->key.data, p->key.len), mark_key())) {
            return false;
        }
    }
    return true;
}

bool kl_stream_on_chunk(struct kl_group *g, uint64_t from, Kluis__Peer__Message *m)
{
    struct kl_stream_in *s = g->in;
    const Kluis__Peer__StreamChunk *in = m->stream_chunk;
    uint64_t expected;
    struct chunk *c;

    if (s == NULL || s->aborted || s->from != from || s->id != in->stream_id ||
        s->state != IN_RECEIVING) {
        return false;
    }
    expected = s->seq + s->queued + (s->working ? 1 : 0) + 1;
    if (in->seq != expected || s->queued >= 2 * KL_STREAM_CREDIT) {
        return false; /* one was lost: kl_stream_recv_turn asks again */
    }
    if (!chunk_ok(in)) {
        in_fail(s, KL_PROTOCOL);
        return false;
    }
    c = kl_calloc(1, sizeof *c);
    if (c == NULL) {
        return false;
    }
    s->heard_us = kl_group_now_us(g);
    c->message = m;
    *s->queue_tail = c;
    s->queue_tail = &c->next;
    s->queued++;
    chunk_start(s);
    return true;
}

void kl_stream_peer(struct kl_group *g, uint64_t node, bool connected)
{
    struct kl_stream_in *s = g->in;

    if (connected && s != NULL && !s->aborted && s->from == node && s->state == IN_RECEIVING &&
        !s->working && s->queued == 0) {
        ask(s);
    }
}

void kl_stream_recv_turn(struct kl_group *g)
{
    struct kl_stream_in *s = g->in;
    uint64_t now;
    uint64_t last;

    if (s == NULL || s->aborted || s->working) {
        return;
    }
    now = kl_group_now_us(g);
    last = s->asked_us > s->heard_us ? s->asked_us : s->heard_us;
    if (s->state == IN_WHOLE &&
        (atomic_load(&g->applied) >= s->applied ||
         now - s->heard_us > (uint64_t)KL_STREAM_KEEP_MS * 1000) &&
        !g->raft.snapshot.installing && g->wio.held.type == 0) {
        in_drop(s); /* not needed any more */
    } else if (s->state == IN_RECEIVING && now - s->heard_us > (uint64_t)KL_STREAM_KEEP_MS * 1000) {
        in_fail(s, KL_TIMEOUT);
    } else if (s->state == IN_RECEIVING && now - last > (uint64_t)KL_STREAM_RETRY_MS * 1000) {
        ask(s);
    }
}

/* ---- adopting ---- */

/* At boot nothing is known of a store that was staged before: look for its mark. */
static void find_staged(struct kl_group *g)
{
    struct kl_buf value = KL_BUF(MARK_VALUE_LEN);
    struct kl_kv *kv = NULL;
    struct kl_stream_in *s;

    if (g->options.store_open(g->host->ctx, g, true, &kv) != KL_OK) {
        return;
    }
    if (kl_kv_get(kv, NULL, mark_key(), &value) == KL_OK && value.len == MARK_VALUE_LEN) {
        s = in_new(g, 0, kl_get_be64(value.ptr + 8), kl_get_be64(value.ptr));
        if (s != NULL) {
            s->state = IN_WHOLE;
            s->kv = kv;
            kv = NULL;
        }
    }
    kl_kv_close(kv);
    kl_buf_wipe(&value);
}

uint64_t kl_stream_staged(struct kl_group *g)
{
    if (g->in == NULL && !g->wio.started) {
        find_staged(g);
    }
    return g->in != NULL && !g->in->aborted && g->in->state == IN_WHOLE ? g->in->applied : 0;
}

enum kl_status kl_stream_adopt(struct kl_group *g)
{
    char err[256];
    enum kl_status st;

    assert(g->in != NULL && g->in->state == IN_WHOLE && !g->in->working);
    assert(kl_group_gate_empty(g) && !g->flush.busy);
    in_free(g->in);
    kl_group_store_close(g);
    st = g->options.store_adopt(g->host->ctx, g);
    if (st != KL_OK) {
        return st;
    }
    st = kl_group_store_open(g, err, sizeof err);
    if (st == KL_OK) {
        kl_log(KL_LOG_INFO, "raft", "adopted the state group=%u applied=%llu",
               (unsigned)g->options.id, (unsigned long long)atomic_load(&g->applied));
    }
    return st;
}
