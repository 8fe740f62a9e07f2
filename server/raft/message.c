#include "server/raft/message.h"

#include "common/alloc.h"
#include "common/limits.h"
#include "server/raft/snapshot.h"

#include <assert.h>
#include <string.h>

const char kl_message_address[] = "peer";

/* ---- unpacking ---- */

enum kl_status kl_message_unpack(struct kl_bytes in, Kluis__Peer__Message **out)
{
    struct kl_pb_budget budget;
    Kluis__Peer__Message *m;
    size_t allowed;

    if (in.len > KL_PEER_MESSAGE_MAX) {
        return KL_TOO_LARGE;
    }
    /* The smallest honest entry or pair takes about ten times its bytes in memory. */
    allowed = (in.len + 1024) * 16;
    kl_pb_budget_init(&budget, allowed < KL_PEER_UNPACK_MAX ? allowed : KL_PEER_UNPACK_MAX);
    m = kluis__peer__message__unpack(&budget.allocator, in.len, in.ptr);
    if (m == NULL) {
        return KL_PROTOCOL;
    }
    *out = m;
    return KL_OK;
}

void kl_message_unpacked_free(Kluis__Peer__Message *m)
{
    if (m != NULL) {
        kluis__peer__message__free_unpacked(m, &kl_pb_allocator);
    }
}

void kl_message_free(struct raft_message *m)
{
    if (m->type == RAFT_APPEND_ENTRIES) {
        struct raft_append_entries *a = &m->append_entries;

        if (a->n_entries != 0) {
            raft_free(a->entries[0].batch);
            raft_free(a->entries);
        }
        a->n_entries = 0;
        a->entries = NULL;
    } else if (m->type == RAFT_INSTALL_SNAPSHOT) {
        raft_configuration_close(&m->install_snapshot.conf);
        raft_configuration_init(&m->install_snapshot.conf);
        raft_free(m->install_snapshot.data.base);
        m->install_snapshot.data.base = NULL;
    }
}

/* ---- checks ---- */

static bool term_ok(uint64_t term)
{
    return term > 0 && term <= KL_RAFT_INDEX_MAX;
}

static bool index_ok(uint64_t index)
{
    return index <= KL_RAFT_INDEX_MAX;
}

/* Index and term of an entry: both or neither. */
static bool place_ok(uint64_t index, uint64_t term)
{
    return index_ok(index) && (index == 0 ? term == 0 : term_ok(term));
}

static bool role_ok(uint32_t role)
{
    return role == RAFT_STANDBY || role == RAFT_VOTER || role == RAFT_SPARE;
}

static uint64_t le64(const uint8_t *p)
{
    uint64_t v = 0;

    for (unsigned i = 8; i-- > 0;) {
        v = v << 8 | p[i];
    }
    return v;
}

/*
 * Would raft_configuration_decode() stay within these bytes and like what it finds? Its layout:
 * u8 1, le64 count, per server le64 id, NUL-terminated address, u8 role; zero padding.
 */
static bool configuration_ok(struct kl_bytes b)
{
    uint64_t ids[KL_NODES_MAX];
    uint64_t n;
    size_t at = 9;

    if (b.len < 9 || b.ptr[0] != 1) {
        return false;
    }
    n = le64(b.ptr + 1);
    if (n == 0 || n > KL_NODES_MAX) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const uint8_t *end;
        size_t len;

        if (b.len - at < 10) {
            return false;
        }
        ids[i] = le64(b.ptr + at);
        at += 8;
        end = memchr(b.ptr + at, 0, b.len - at);
        if (end == NULL) {
            return false;
        }
        len = (size_t)(end - (b.ptr + at));
        at += len + 1;
        if (ids[i] == 0 || len == 0 || len > KL_ADDRESS_MAX || at >= b.len || !role_ok(b.ptr[at])) {
            return false;
        }
        at++;
        for (size_t j = 0; j < i; j++) {
            if (ids[j] == ids[i]) {
                return false;
            }
        }
    }
    return true;
}

static bool entry_ok(const Kluis__Peer__Entry *e, uint64_t term_min, uint64_t term_max)
{
    if (e->term < term_min || e->term > term_max || !term_ok(e->term)) {
        return false;
    }
    if (e->data.len == 0 || e->data.len % 8 != 0 || e->data.len > KL_ENTRY_MAX) {
        return false;
    }
    switch (e->type) {
    case RAFT_COMMAND:
    case RAFT_BARRIER:
        return true;
    case RAFT_CHANGE: {
        /* raft refuses two servers with one address, and would then free the entry twice */
        struct raft_buffer buf = {e->data.data, e->data.len};
        struct raft_configuration conf;

        if (!configuration_ok(kl_bytes_of(e->data.data, e->data.len)) ||
            raft_configuration_decode(&buf, &conf) != 0) {
            return false;
        }
        raft_configuration_close(&conf);
        return true;
    }
    default:
        return false;
    }
}

/* ---- decoding ---- */

static enum kl_status decode_append(const Kluis__Peer__AppendEntries *in, struct raft_message *out)
{
    struct raft_append_entries *a = &out->append_entries;
    size_t bytes = 0;
    uint64_t term = in->prev_log_term;
    uint8_t *batch;

    if (!term_ok(in->term) || !place_ok(in->prev_log_index, in->prev_log_term) ||
        in->prev_log_term > in->term || !index_ok(in->leader_commit) ||
        in->n_entries > KL_APPEND_ENTRIES_MAX) {
        return KL_PROTOCOL;
    }
    for (size_t i = 0; i < in->n_entries; i++) {
        if (!entry_ok(in->entries[i], term, in->term)) {
            return KL_PROTOCOL;
        }
        term = in->entries[i]->term; /* never falls along a log */
        bytes += in->entries[i]->data.len;
    }
    *a = (struct raft_append_entries){
        .version = 1,
        .term = in->term,
        .prev_log_index = in->prev_log_index,
        .prev_log_term = in->prev_log_term,
        .leader_commit = in->leader_commit,
    };
    if (in->n_entries == 0) {
        return KL_OK;
    }
    a->entries = raft_calloc(in->n_entries, sizeof *a->entries);
    batch = raft_malloc(bytes);
    if (a->entries == NULL || batch == NULL) {
        raft_free(a->entries);
        raft_free(batch);
        return KL_NO_MEMORY;
    }
    a->n_entries = (unsigned)in->n_entries;
    bytes = 0;
    for (size_t i = 0; i < in->n_entries; i++) {
        const Kluis__Peer__Entry *e = in->entries[i];

        memcpy(batch + bytes, e->data.data, e->data.len);
        a->entries[i].term = e->term;
        a->entries[i].type = (enum raft_entry_type)e->type;
        a->entries[i].buf = (struct raft_buffer){batch + bytes, e->data.len};
        a->entries[i].batch = batch;
        bytes += e->data.len;
    }
    return KL_OK;
}

static enum kl_status decode_append_result(const Kluis__Peer__AppendEntriesResult *in,
                                           struct raft_message *out)
{
    if (!term_ok(in->term) || !index_ok(in->rejected) || !index_ok(in->last_log_index) ||
        in->features > UINT16_MAX || in->capacity > UINT16_MAX) {
        return KL_PROTOCOL;
    }
    out->append_entries_result = (struct raft_append_entries_result){
        .version = 1,
        .term = in->term,
        .rejected = in->rejected,
        .last_log_index = in->last_log_index,
        .features = (unsigned short)in->features,
        .capacity = (unsigned short)in->capacity,
    };
    return KL_OK;
}

static enum kl_status decode_vote(uint64_t from, const Kluis__Peer__RequestVote *in,
                                  struct raft_message *out)
{
    if (!term_ok(in->term) || in->candidate_id != from ||
        !place_ok(in->last_log_index, in->last_log_term) || in->last_log_term > in->term) {
        return KL_PROTOCOL;
    }
    out->request_vote = (struct raft_request_vote){
        .version = 2,
        .term = in->term,
        .candidate_id = in->candidate_id,
        .last_log_index = in->last_log_index,
        .last_log_term = in->last_log_term,
        .disrupt_leader = in->disrupt_leader != 0,
        .pre_vote = in->pre_vote != 0,
    };
    return KL_OK;
}

static enum kl_status decode_vote_result(const Kluis__Peer__RequestVoteResult *in,
                                         struct raft_message *out)
{
    if (!term_ok(in->term) || in->features > UINT16_MAX || in->capacity > UINT16_MAX) {
        return KL_PROTOCOL;
    }
    out->request_vote_result = (struct raft_request_vote_result){
        .version = 2,
        .term = in->term,
        .vote_granted = in->vote_granted != 0,
        .pre_vote = in->pre_vote != 0,
        .features = (unsigned short)in->features,
        .capacity = (unsigned short)in->capacity,
    };
    return KL_OK;
}

static enum kl_status decode_install(const Kluis__Peer__InstallSnapshot *in,
                                     struct raft_message *out)
{
    struct raft_install_snapshot *s = &out->install_snapshot;
    struct kl_snapshot_ref ref;
    enum kl_status st = KL_PROTOCOL;

    if (!term_ok(in->term) || in->last_index == 0 || !place_ok(in->last_index, in->last_term) ||
        in->last_term > in->term || in->conf_index == 0 || in->conf_index > in->last_index ||
        in->n_conf == 0 || in->n_conf > KL_NODES_MAX ||
        kl_snapshot_parse(kl_bytes_of(in->reference.data, in->reference.len), &ref) != KL_OK) {
        return KL_PROTOCOL;
    }
    *s = (struct raft_install_snapshot){
        .version = 1,
        .term = in->term,
        .last_index = in->last_index,
        .last_term = in->last_term,
        .conf_index = in->conf_index,
    };
    raft_configuration_init(&s->conf);
    for (size_t i = 0; i < in->n_conf; i++) {
        const Kluis__Peer__Server *server = in->conf[i];
        size_t len = strlen(server->address);

        if (server->id == 0 || len == 0 || len > KL_ADDRESS_MAX || !role_ok(server->role) ||
            raft_configuration_add(&s->conf, server->id, server->address, (int)server->role) != 0) {
            goto out;
        }
    }
    st = KL_NO_MEMORY;
    s->data.len = in->reference.len;
    s->data.base = raft_malloc(s->data.len);
    if (s->data.base == NULL) {
        goto out;
    }
    memcpy(s->data.base, in->reference.data, s->data.len);
    st = KL_OK;
out:
    if (st != KL_OK) {
        raft_configuration_close(&s->conf);
    }
    return st;
}

static enum kl_status decode_timeout_now(const Kluis__Peer__TimeoutNow *in,
                                         struct raft_message *out)
{
    if (!term_ok(in->term) || !place_ok(in->last_log_index, in->last_log_term)) {
        return KL_PROTOCOL;
    }
    out->timeout_now = (struct raft_timeout_now){
        .version = 1,
        .term = in->term,
        .last_log_index = in->last_log_index,
        .last_log_term = in->last_log_term,
    };
    return KL_OK;
}

enum kl_status kl_message_decode(uint64_t from_node, const Kluis__Peer__Message *in,
                                 struct raft_message *out, struct kl_message_extra *extra)
{
    struct raft_message m;
    struct kl_message_extra x = {0};
    enum kl_status st;

    memset(&m, 0, sizeof m);
    m.server_id = from_node;
    m.server_address = kl_message_address;
    switch (in->body_case) {
    case KLUIS__PEER__MESSAGE__BODY_APPEND_ENTRIES:
        m.type = RAFT_APPEND_ENTRIES;
        x.sent_us = in->append_entries->sent_us;
        x.fresh_us = in->append_entries->fresh_us;
        x.echo = in->append_entries->echo;
        x.held_us = in->append_entries->held_us;
        st = decode_append(in->append_entries, &m);
        break;
    case KLUIS__PEER__MESSAGE__BODY_APPEND_ENTRIES_RESULT:
        m.type = RAFT_APPEND_ENTRIES_RESULT;
        x.sent_us = in->append_entries_result->sent_us;
        x.stamp = in->append_entries_result->stamp;
        st = decode_append_result(in->append_entries_result, &m);
        break;
    case KLUIS__PEER__MESSAGE__BODY_REQUEST_VOTE:
        m.type = RAFT_REQUEST_VOTE;
        st = decode_vote(from_node, in->request_vote, &m);
        break;
    case KLUIS__PEER__MESSAGE__BODY_REQUEST_VOTE_RESULT:
        m.type = RAFT_REQUEST_VOTE_RESULT;
        st = decode_vote_result(in->request_vote_result, &m);
        break;
    case KLUIS__PEER__MESSAGE__BODY_INSTALL_SNAPSHOT:
        m.type = RAFT_INSTALL_SNAPSHOT;
        st = decode_install(in->install_snapshot, &m);
        break;
    case KLUIS__PEER__MESSAGE__BODY_TIMEOUT_NOW:
        m.type = RAFT_TIMEOUT_NOW;
        st = decode_timeout_now(in->timeout_now, &m);
        break;
    default:
        st = KL_NOT_FOUND;
        break;
    }
    if (st == KL_OK) {
        *out = m;
        *extra = x;
    }
    return st;
}

/* ---- encoding ---- */

enum kl_status kl_message_pack(const Kluis__Peer__Message *m, struct kl_buf *out)
{
    size_t n = kluis__peer__message__get_packed_size(m);
    uint8_t *to;
    enum kl_status st = kl_buf_grow(out, n, &to);

    if (st == KL_OK && n != 0) {
        (void)kluis__peer__message__pack(m, to);
    }
    return st;
}

static enum kl_status encode_append(const struct raft_append_entries *a,
                                    const struct kl_message_extra *extra, unsigned first,
                                    unsigned n, Kluis__Peer__Message *m, struct kl_buf *out)
{
    Kluis__Peer__AppendEntries body = KLUIS__PEER__APPEND_ENTRIES__INIT;
    Kluis__Peer__Entry *entries = NULL;
    Kluis__Peer__Entry **list = NULL;
    enum kl_status st = KL_NO_MEMORY;

    assert(first + n <= a->n_entries);
    body.term = a->term;
    body.prev_log_index = a->prev_log_index + first;
    body.prev_log_term = first == 0 ? a->prev_log_term : a->entries[first - 1].term;
    body.leader_commit = a->leader_commit;
    body.sent_us = extra->sent_us;
    body.fresh_us = extra->fresh_us;
    body.echo = extra->echo;
    body.held_us = extra->held_us;
    if (n != 0) {
        entries = kl_calloc(n, sizeof *entries);
        list = kl_calloc(n, sizeof(Kluis__Peer__Entry *));
        if (entries == NULL || list == NULL) {
            goto out;
        }
        for (unsigned i = 0; i < n; i++) {
            const struct raft_entry *e = &a->entries[first + i];

            entries[i] = (Kluis__Peer__Entry)KLUIS__PEER__ENTRY__INIT;
            entries[i].term = e->term;
            entries[i].type = (uint32_t)e->type;
            entries[i].data.data = e->buf.base;
            entries[i].data.len = e->buf.len;
            list[i] = &entries[i];
        }
        body.n_entries = n;
        body.entries = list;
    }
    m->body_case = KLUIS__PEER__MESSAGE__BODY_APPEND_ENTRIES;
    m->append_entries = &body;
    st = kl_message_pack(m, out);
out:
    kl_free(list);
    kl_free(entries);
    return st;
}

static enum kl_status encode_install(const struct raft_install_snapshot *s, Kluis__Peer__Message *m,
                                     struct kl_buf *out)
{
    Kluis__Peer__InstallSnapshot body = KLUIS__PEER__INSTALL_SNAPSHOT__INIT;
    Kluis__Peer__Server servers[KL_NODES_MAX];
    Kluis__Peer__Server *list[KL_NODES_MAX];

    if (s->conf.n > KL_NODES_MAX) {
        return KL_TOO_LARGE;
    }
    for (unsigned i = 0; i < s->conf.n; i++) {
        servers[i] = (Kluis__Peer__Server)KLUIS__PEER__SERVER__INIT;
        servers[i].id = s->conf.servers[i].id;
        servers[i].address = s->conf.servers[i].address;
        servers[i].role = (uint32_t)s->conf.servers[i].role;
        list[i] = &servers[i];
    }
    body.term = s->term;
    body.last_index = s->last_index;
    body.last_term = s->last_term;
    body.conf_index = s->conf_index;
    body.n_conf = s->conf.n;
    body.conf = list;
    body.reference.data = s->data.base;
    body.reference.len = s->data.len;
    m->body_case = KLUIS__PEER__MESSAGE__BODY_INSTALL_SNAPSHOT;
    m->install_snapshot = &body;
    return kl_message_pack(m, out);
}

static enum kl_status encode_vote(const struct raft_message *in, Kluis__Peer__Message *m,
                                  struct kl_buf *out)
{
    Kluis__Peer__RequestVote ask = KLUIS__PEER__REQUEST_VOTE__INIT;
    Kluis__Peer__RequestVoteResult answer = KLUIS__PEER__REQUEST_VOTE_RESULT__INIT;

    if (in->type == RAFT_REQUEST_VOTE) {
        ask.term = in->request_vote.term;
        ask.candidate_id = in->request_vote.candidate_id;
        ask.last_log_index = in->request_vote.last_log_index;
        ask.last_log_term = in->request_vote.last_log_term;
        ask.disrupt_leader = in->request_vote.disrupt_leader;
        ask.pre_vote = in->request_vote.pre_vote;
        m->body_case = KLUIS__PEER__MESSAGE__BODY_REQUEST_VOTE;
        m->request_vote = &ask;
    } else {
        answer.term = in->request_vote_result.term;
        answer.vote_granted = in->request_vote_result.vote_granted;
        answer.pre_vote = in->request_vote_result.pre_vote;
        answer.features = in->request_vote_result.features;
        answer.capacity = in->request_vote_result.capacity;
        m->body_case = KLUIS__PEER__MESSAGE__BODY_REQUEST_VOTE_RESULT;
        m->request_vote_result = &answer;
    }
    return kl_message_pack(m, out);
}

enum kl_status kl_message_encode(const struct raft_message *in,
                                 const struct kl_message_extra *extra, unsigned first, unsigned n,
                                 struct kl_buf *out)
{
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__AppendEntriesResult result = KLUIS__PEER__APPEND_ENTRIES_RESULT__INIT;
    Kluis__Peer__TimeoutNow now = KLUIS__PEER__TIMEOUT_NOW__INIT;

    switch (in->type) {
    case RAFT_APPEND_ENTRIES:
        return encode_append(&in->append_entries, extra, first, n, &m, out);
    case RAFT_APPEND_ENTRIES_RESULT:
        result.term = in->append_entries_result.term;
        result.rejected = in->append_entries_result.rejected;
        result.last_log_index = in->append_entries_result.last_log_index;
        result.features = in->append_entries_result.features;
        result.capacity = in->append_entries_result.capacity;
        result.sent_us = extra->sent_us;
        result.stamp = extra->stamp;
        m.body_case = KLUIS__PEER__MESSAGE__BODY_APPEND_ENTRIES_RESULT;
        m.append_entries_result = &result;
        return kl_message_pack(&m, out);
    case RAFT_REQUEST_VOTE:
    case RAFT_REQUEST_VOTE_RESULT:
        return encode_vote(in, &m, out);
    case RAFT_INSTALL_SNAPSHOT:
        return encode_install(&in->install_snapshot, &m, out);
    case RAFT_TIMEOUT_NOW:
        now.term = in->timeout_now.term;
        now.last_log_index = in->timeout_now.last_log_index;
        now.last_log_term = in->timeout_now.last_log_term;
        m.body_case = KLUIS__PEER__MESSAGE__BODY_TIMEOUT_NOW;
        m.timeout_now = &now;
        return kl_message_pack(&m, out);
    default:
        return KL_INTERNAL;
    }
}

bool kl_message_is_counted(struct kl_bytes message)
{
    /* The tag of the body's field: number and wire type, one byte for numbers below 16. */
    unsigned field = message.len == 0 ? 0 : message.ptr[0] >> 3;

    return field == KLUIS__PEER__MESSAGE__BODY_APPEND_ENTRIES_RESULT ||
           field == KLUIS__PEER__MESSAGE__BODY_REQUEST_VOTE_RESULT ||
           field == KLUIS__PEER__MESSAGE__BODY_CONFIRMED;
}
