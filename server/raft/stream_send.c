#include "server/raft/group_impl.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

#include <assert.h>
#include <openssl/evp.h>
#include <string.h>

enum out_state {
    OUT_OFFERED, /* waiting for a request */
    OUT_SENDING,
    OUT_STAGED /* the peer has it whole; Raft's message is on its way */
};

/* What may be asked for again: all that is not acknowledged, and the last that is. */
enum { WINDOW = KL_STREAM_CREDIT + 1 };

/* Where a chunk ended: from here the stream can go on again. */
struct place {
    uint64_t seq;
    struct kl_buf key; /* the last key of the chunk */
    uint8_t digest[KL_STREAM_DIGEST];
};

struct kl_stream_out {
    struct kl_group *g;
    uint64_t to, id, applied;
    enum out_state state;
    bool working, aborted, rewind;
    struct kl_kv_view store; /* pinned; holds the gate */
    struct raft_install_snapshot install;
    uint64_t acked;
    uint32_t credit;
    bool last_sent;
    struct place at;             /* after the last chunk sent */
    struct place window[WINDOW]; /* by seq modulo */
    uint64_t rewind_seq;         /* asked for while a chunk was in work */
    uint64_t heard_us, told_us;
    /* One chunk in work. */
    struct {
        struct kl_buf records; /* be32 key length, be32 value length, key, value */
        size_t n;
        bool more;
        enum kl_status status;
        struct place after;
        struct kl_buf packed;
    } job;
};

enum kl_status kl_stream_digest(const uint8_t before[KL_STREAM_DIGEST], size_t n,
                                Kluis__Peer__Pair *const *pairs, uint8_t after[KL_STREAM_DIGEST])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    enum kl_status st = KL_CRYPTO;
    uint8_t out[EVP_MAX_MD_SIZE];
    uint8_t len[4];

    if (ctx == NULL || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1 ||
        EVP_DigestUpdate(ctx, before, KL_STREAM_DIGEST) != 1) {
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        const Kluis__Peer__Pair *p = pairs[i];

        kl_put_be32(len, (uint32_t)p->key.len);
        if (EVP_DigestUpdate(ctx, len, 4) != 1 ||
            EVP_DigestUpdate(ctx, p->key.data, p->key.len) != 1) {
            goto out;
        }
        kl_put_be32(len, (uint32_t)p->value.len);
        if (EVP_DigestUpdate(ctx, len, 4) != 1 ||
            EVP_DigestUpdate(ctx, p->value.data, p->value.len) != 1) {
            goto out;
        }
    }
    if (EVP_DigestFinal_ex(ctx, out, NULL) != 1) {
        goto out;
    }
    memcpy(after, out, KL_STREAM_DIGEST);
    st = KL_OK;
out:
    EVP_MD_CTX_free(ctx);
    return st;
}

/* ---- life ---- */

static void place_clear(struct place *p)
{
    kl_buf_wipe(&p->key);
    p->key = KL_BUF(KL_PEER_MESSAGE_MAX);
    p->seq = 0;
    memset(p->digest, 0, sizeof p->digest);
}

static enum kl_status place_copy(const struct place *from, struct place *to)
{
    place_clear(to);
    to->seq = from->seq;
    memcpy(to->digest, from->digest, sizeof to->digest);
    return kl_buf_put(&to->key, from->key.ptr, from->key.len);
}

static void unpin(struct kl_stream_out *s)
{
    if (s->store.snap != NULL) {
        kl_kv_snap_free(s->store.kv, s->store.snap);
        s->store.snap = NULL;
        kl_group_gate_leave(s->g);
    }
}

static void out_free(struct kl_stream_out *s)
{
    struct kl_group *g = s->g;

    for (size_t i = 0; i < KL_STREAMS_MAX; i++) {
        if (g->out[i] == s) {
            g->out[i] = NULL;
        }
    }
    unpin(s);
    place_clear(&s->at);
    place_clear(&s->job.after);
    for (size_t i = 0; i < WINDOW; i++) {
        place_clear(&s->window[i]);
    }
    kl_buf_wipe(&s->job.records);
    kl_buf_wipe(&s->job.packed);
    raft_configuration_close(&s->install.conf);
    raft_free(s->install.data.base);
    kl_free(s);
}

/* Forgets a stream; one whose chunk is in work goes when that has ended. */
static void out_drop(struct kl_stream_out *s)
{
    s->aborted = true;
    if (!s->working) {
        out_free(s);
    }
}

static struct kl_stream_out *out_to(const struct kl_group *g, uint64_t node)
{
    for (size_t i = 0; i < KL_STREAMS_MAX; i++) {
        if (g->out[i] != NULL && g->out[i]->to == node) {
            return g->out[i];
        }
    }
    return NULL;
}

bool kl_stream_sending_to(const struct kl_group *g, uint64_t node)
{
    const struct kl_stream_out *s = out_to(g, node);

    return s != NULL && !s->aborted;
}

bool kl_stream_sending(const struct kl_group *g)
{
    for (size_t i = 0; i < KL_STREAMS_MAX; i++) {
        if (g->out[i] != NULL) {
            return true;
        }
    }
    return false;
}

void kl_stream_send_abort(struct kl_group *g)
{
    for (size_t i = 0; i < KL_STREAMS_MAX; i++) {
        if (g->out[i] != NULL && !g->out[i]->aborted) {
            out_drop(g->out[i]);
        }
    }
}

/* ---- messages ---- */

static void offer(struct kl_stream_out *s)
{
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__StreamOffer body = KLUIS__PEER__STREAM_OFFER__INIT;

    body.stream_id = s->id;
    body.applied_index = s->applied;
    m.body_case = KLUIS__PEER__MESSAGE__BODY_STREAM_OFFER;
    m.stream_offer = &body;
    s->told_us = kl_group_now_us(s->g);
    kl_group_send(s->g, s->to, KL_LANE_BULK, &m);
}

static void install_send(struct kl_stream_out *s)
{
    struct raft_message m = {.type = RAFT_INSTALL_SNAPSHOT, .server_id = s->to};
    struct kl_message_extra extra = {0};
    struct kl_buf b = KL_BUF(KL_PEER_MESSAGE_MAX);

    m.install_snapshot = s->install;
    s->told_us = kl_group_now_us(s->g);
    if (kl_message_encode(&m, &extra, 0, 0, &b) == KL_OK) {
        s->g->host->send(s->g->host->ctx, s->g, s->to, KL_LANE_CONTROL, kl_buf_bytes(&b));
    }
    kl_buf_wipe(&b);
}

static bool install_copy(const struct raft_install_snapshot *from, struct raft_install_snapshot *to)
{
    *to = *from;
    raft_configuration_init(&to->conf);
    to->data.base = raft_malloc(from->data.len == 0 ? 1 : from->data.len);
    if (to->data.base == NULL) {
        return false;
    }
    memcpy(to->data.base, from->data.base, from->data.len);
    for (unsigned i = 0; i < from->conf.n; i++) {
        const struct raft_server *server = &from->conf.servers[i];

        if (raft_configuration_add(&to->conf, server->id, server->address, server->role) != 0) {
            return false;
        }
    }
    return true;
}

static void out_new(struct kl_group *g, size_t slot, const struct raft_message *m)
{
    struct kl_stream_out *s = kl_calloc(1, sizeof *s);
    uint8_t id[8];

    if (s == NULL) {
        return; /* Raft asks again */
    }
    s->g = g;
    s->to = m->server_id;
    s->job.records = KL_BUF(KL_PEER_MESSAGE_MAX);
    s->job.packed = KL_BUF(KL_PEER_MESSAGE_MAX);
    place_clear(&s->at);
    place_clear(&s->job.after);
    for (size_t i = 0; i < WINDOW; i++) {
        place_clear(&s->window[i]);
    }
    if (!install_copy(&m->install_snapshot, &s->install) || !kl_group_gate_enter(g)) {
        out_free(s);
        return;
    }
    s->store.kv = g->kv;
    s->store.snap = kl_kv_snap_new(g->kv);
    if (s->store.snap == NULL) {
        kl_group_gate_leave(g);
        out_free(s);
        return;
    }
    if (g->host->entropy->fill(g->host->entropy->ctx, id, sizeof id) != KL_OK) {
        out_free(s);
        return;
    }
    s->id = kl_get_be64(id) | 1u; /* never 0 */
    s->applied = atomic_load(&g->applied);
    s->heard_us = kl_group_now_us(g);
    g->out[slot] = s;
    kl_log(KL_LOG_INFO, "raft", "offering the state group=%u to=%llu applied=%llu",
           (unsigned)g->options.id, (unsigned long long)s->to, (unsigned long long)s->applied);
    offer(s);
}

void kl_stream_install_wanted(struct kl_group *g, const struct raft_message *m)
{
    struct kl_stream_out *s = out_to(g, m->server_id);

    if (g->lead_term == 0 && g->raft.state != RAFT_LEADER) {
        return;
    }
    if (s != NULL) {
        return; /* N4: raft asks at every rejected heartbeat; one stream at a time */
    }
    for (size_t i = 0; i < KL_STREAMS_MAX; i++) {
        if (g->out[i] == NULL) {
            out_new(g, i, m);
            return;
        }
    }
}

/* ---- a chunk, off the loop ---- */

static bool collect(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct kl_stream_out *s = arg;
    struct kl_buf *b = &s->job.records;

    if (kl_bytes_eq(key, kl_bytes_of(KL_STREAM_MARK, KL_STREAM_MARK_LEN))) {
        return true;
    }
    if (b->len >= KL_STREAM_CHUNK_BYTES || s->job.n >= KL_STREAM_CHUNK_PAIRS) {
        s->job.more = true;
        return false;
    }
    s->job.status = kl_buf_put_be32(b, (uint32_t)key.len);
    if (s->job.status == KL_OK) {
        s->job.status = kl_buf_put_be32(b, (uint32_t)value.len);
    }
    if (s->job.status == KL_OK) {
        s->job.status = kl_buf_put(b, key.ptr, key.len);
    }
    if (s->job.status == KL_OK) {
        s->job.status = kl_buf_put(b, value.ptr, value.len);
    }
    s->job.n++;
    return s->job.status == KL_OK;
}

/* Packs what was collected; pairs point into it. */
static enum kl_status chunk_pack(struct kl_stream_out *s)
{
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__StreamChunk body = KLUIS__PEER__STREAM_CHUNK__INIT;
    size_t n = s->job.n;
    Kluis__Peer__Pair *pairs = kl_calloc(n == 0 ? 1 : n, sizeof *pairs);
    Kluis__Peer__Pair **list = kl_calloc(n == 0 ? 1 : n, sizeof(Kluis__Peer__Pair *));
    uint8_t *at = s->job.records.ptr;
    enum kl_status st = KL_NO_MEMORY;

    if (pairs == NULL || list == NULL) {
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        pairs[i] = (Kluis__Peer__Pair)KLUIS__PEER__PAIR__INIT;
        pairs[i].key.len = kl_get_be32(at);
        pairs[i].value.len = kl_get_be32(at + 4);
        pairs[i].key.data = at + 8;
        pairs[i].value.data = pairs[i].key.data + pairs[i].key.len;
        at = pairs[i].value.data + pairs[i].value.len;
        list[i] = &pairs[i];
    }
    st = kl_stream_digest(s->at.digest, n, list, s->job.after.digest);
    if (st != KL_OK) {
        goto out;
    }
    if (n != 0) {
        st = kl_buf_put(&s->job.after.key, pairs[n - 1].key.data, pairs[n - 1].key.len);
    }
    body.stream_id = s->id;
    body.seq = s->job.after.seq;
    body.n_pairs = n;
    body.pairs = list;
    body.digest.data = s->job.after.digest;
    body.digest.len = KL_STREAM_DIGEST;
    body.last = !s->job.more;
    m.body_case = KLUIS__PEER__MESSAGE__BODY_STREAM_CHUNK;
    m.stream_chunk = &body;
    if (st == KL_OK) {
        st = kl_message_pack(&m, &s->job.packed);
    }
out:
    kl_free(list);
    kl_free(pairs);
    return st;
}

static void chunk_work(void *arg)
{
    struct kl_stream_out *s = arg;
    struct kl_buf from = KL_BUF(KL_PEER_MESSAGE_MAX);
    enum kl_status st = KL_OK;

    s->job.n = 0;
    s->job.more = false;
    s->job.status = KL_OK;
    kl_buf_clear(&s->job.records);
    kl_buf_clear(&s->job.packed);
    place_clear(&s->job.after);
    s->job.after.seq = s->at.seq + 1;
    if (s->at.key.len != 0) { /* behind the last key: the smallest greater one */
        st = kl_buf_put(&from, s->at.key.ptr, s->at.key.len);
        if (st == KL_OK) {
            st = kl_buf_put_u8(&from, 0);
        }
    }
    if (st == KL_OK) {
        st = kl_kv_scan(s->store.kv, s->store.snap, kl_buf_bytes(&from), (struct kl_bytes){NULL, 0},
                        collect, s);
    }
    if (st == KL_OK) {
        st = s->job.status;
    }
    if (st == KL_OK) {
        st = chunk_pack(s);
    }
    s->job.status = st;
    kl_buf_wipe(&from);
}

/* Puts the stream back to a chunk that the receiver has. false: it is no longer known. */
static bool rewind_to(struct kl_stream_out *s, uint64_t seq)
{
    if (seq == 0) {
        place_clear(&s->at);
    } else if (seq != s->at.seq) {
        const struct place *p = &s->window[seq % WINDOW];

        if (p->seq != seq || place_copy(p, &s->at) != KL_OK) {
            return false;
        }
    }
    s->acked = seq;
    s->last_sent = false;
    s->state = OUT_SENDING;
    return true;
}

static void chunk_done(void *arg)
{
    struct kl_stream_out *s = arg;
    struct kl_group *g = s->g;

    kl_group_worked(g);
    s->working = false;
    if (s->aborted || g->closing || g->dead) {
        out_free(s);
        return;
    }
    if (s->job.status != KL_OK) {
        kl_log(KL_LOG_ERROR, "raft", "reading the state for a stream failed group=%u status=%s",
               (unsigned)g->options.id, kl_status_name(s->job.status));
        out_free(s);
        return;
    }
    if (s->rewind) {
        s->rewind = false;
        if (!rewind_to(s, s->rewind_seq)) {
            out_free(s);
            return;
        }
    } else {
        if (place_copy(&s->job.after, &s->at) != KL_OK ||
            place_copy(&s->at, &s->window[s->at.seq % WINDOW]) != KL_OK) {
            out_free(s);
            return;
        }
        s->last_sent = !s->job.more;
        g->host->send(g->host->ctx, g, s->to, KL_LANE_BULK, kl_buf_bytes(&s->job.packed));
    }
    kl_group_wake(g);
}

/* ---- the receiver's answers ---- */

void kl_stream_on_request(struct kl_group *g, uint64_t from, const Kluis__Peer__StreamRequest *m)
{
    struct kl_stream_out *s = out_to(g, from);

    if (s == NULL || s->aborted || s->id != m->stream_id || s->state == OUT_STAGED) {
        return;
    }
    s->heard_us = kl_group_now_us(g);
    s->credit = m->credit > KL_STREAM_CREDIT ? KL_STREAM_CREDIT : m->credit;
    if (s->working) {
        s->rewind = true;
        s->rewind_seq = m->after_seq;
    } else if (!rewind_to(s, m->after_seq)) {
        out_drop(s);
    }
    kl_group_wake(g);
}

void kl_stream_on_ack(struct kl_group *g, uint64_t from, const Kluis__Peer__StreamAck *m)
{
    struct kl_stream_out *s = out_to(g, from);

    if (s == NULL || s->aborted || s->id != m->stream_id) {
        return;
    }
    s->heard_us = kl_group_now_us(g);
    if (m->failed) {
        kl_log(KL_LOG_WARN, "raft", "a node gave up the stream of the state group=%u node=%llu",
               (unsigned)g->options.id, (unsigned long long)from);
        out_drop(s);
        return;
    }
    if (m->seq > s->acked && m->seq <= s->at.seq) {
        s->acked = m->seq;
    }
    if (m->done && s->state != OUT_STAGED) {
        s->state = OUT_STAGED;
        if (!s->working) {
            unpin(s);
        }
        install_send(s);
    }
    kl_group_wake(g);
}

void kl_stream_accepted(struct kl_group *g, uint64_t node, uint64_t index)
{
    struct kl_stream_out *s = out_to(g, node);

    if (s == NULL || s->aborted || index < s->install.last_index) {
        return;
    }
    if (s->state == OUT_STAGED) {
        g->streams_sent++;
        g->changed = true;
    }
    out_drop(s); /* it has what it needs */
}

/* ---- the turn ---- */

static void out_step(struct kl_stream_out *s, uint64_t now)
{
    uint64_t silent = now - s->heard_us;
    uint64_t retry = (uint64_t)KL_STREAM_RETRY_MS * 1000;

    if (s->aborted) {
        return;
    }
    switch (s->state) {
    case OUT_OFFERED:
        if (silent > (uint64_t)KL_STREAM_KEEP_MS * 1000) {
            out_drop(s);
        } else if (now - s->told_us > retry) {
            offer(s);
        }
        return;
    case OUT_STAGED:
        if (silent > (uint64_t)KL_STREAM_INSTALL_MS * 1000) {
            out_drop(s); /* Raft will ask for another */
        } else if (now - s->told_us > retry) {
            install_send(s);
        }
        return;
    case OUT_SENDING:
        if (silent > (uint64_t)KL_STREAM_KEEP_MS * 1000) {
            out_drop(s);
            return;
        }
        if (silent > retry && now - s->told_us > retry) {
            offer(s); /* it may have restarted and know of nothing */
        }
        if (!s->working && !s->last_sent && s->at.seq - s->acked < s->credit) {
            s->working = true;
            kl_group_work(s->g, chunk_work, chunk_done, s);
        }
        return;
    }
}

void kl_stream_send_turn(struct kl_group *g)
{
    uint64_t now = kl_group_now_us(g);

    for (size_t i = 0; i < KL_STREAMS_MAX; i++) {
        if (g->out[i] != NULL) {
            out_step(g->out[i], now);
        }
    }
}
