/*
 * Raft messages as bytes, and what hostile ones come to. With KLUIS_CORPUS set to a directory the
 * samples below are written there, for the fuzzer.
 */
#include "common/alloc.h"
#include "server/raft/message.h"
#include "server/raft/snapshot.h"
#include "tests/lib/test.h"

#include "common/limits.h"

static uint8_t command[16] = {'K', 'L', 'E', '1'};
static uint8_t barrier[8];

static void keep(const char *name, const struct kl_buf *b)
{
    const char *dir = getenv("KLUIS_CORPUS");
    char path[300];
    FILE *f;

    if (dir == NULL) {
        return;
    }
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    (void)fwrite(b->ptr, 1, b->len, f);
    (void)fclose(f);
}

/* Packs, unpacks and decodes. */
static void round_trip(const char *name, const struct raft_message *m, struct raft_message *out,
                       struct kl_message_extra *extra)
{
    unsigned n = m->type == RAFT_APPEND_ENTRIES ? m->append_entries.n_entries : 0;
    struct kl_buf b = KL_BUF(KL_PEER_MESSAGE_MAX);
    Kluis__Peer__Message *in = NULL;

    CHECK_OK(kl_message_encode(m, extra, 0, n, &b));
    keep(name, &b);
    CHECK_OK(kl_message_unpack(kl_buf_bytes(&b), &in));
    memset(extra, 0, sizeof *extra);
    CHECK_OK(kl_message_decode(2, in, out, extra));
    CHECK_EQ(out->type, m->type);
    CHECK_EQ(out->server_id, 2);
    kl_message_unpacked_free(in);
    kl_buf_wipe(&b);
}

static struct raft_entry entry(raft_term term, enum raft_entry_type type, void *p, size_t n)
{
    return (struct raft_entry){.term = term, .type = type, .buf = {p, n}};
}

static struct raft_buffer change(void)
{
    struct raft_configuration conf;
    struct raft_buffer buf;

    raft_configuration_init(&conf);
    CHECK_EQ(raft_configuration_add(&conf, 1, "a:1", RAFT_VOTER), 0);
    CHECK_EQ(raft_configuration_add(&conf, 2, "b:1", RAFT_STANDBY), 0);
    CHECK_EQ(raft_configuration_encode(&conf, &buf), 0);
    raft_configuration_close(&conf);
    return buf;
}

/* Entries of every type arrive whole, in one batch; none is no array. */
TEST(message, append_entries)
{
    struct raft_buffer conf = change();
    struct raft_entry entries[3] = {entry(3, RAFT_COMMAND, command, sizeof command),
                                    entry(3, RAFT_BARRIER, barrier, sizeof barrier),
                                    entry(4, RAFT_CHANGE, conf.base, conf.len)};
    struct raft_message m = {.type = RAFT_APPEND_ENTRIES};
    struct raft_message out;
    struct kl_message_extra extra = {
        .sent_us = 77, .fresh_us = 8, .echo = UINT64_MAX, .held_us = 9};

    m.append_entries = (struct raft_append_entries){.version = 1,
                                                    .term = 4,
                                                    .prev_log_index = 9,
                                                    .prev_log_term = 2,
                                                    .leader_commit = 8,
                                                    .entries = entries,
                                                    .n_entries = 3};
    round_trip("append_entries", &m, &out, &extra);
    CHECK_EQ(extra.sent_us, 77);
    CHECK_EQ(extra.fresh_us, 8);
    CHECK_EQ(extra.echo, UINT64_MAX);
    CHECK_EQ(extra.held_us, 9);
    CHECK_EQ(out.append_entries.term, 4);
    CHECK_EQ(out.append_entries.prev_log_index, 9);
    CHECK_EQ(out.append_entries.prev_log_term, 2);
    CHECK_EQ(out.append_entries.leader_commit, 8);
    CHECK_EQ(out.append_entries.n_entries, 3);
    for (unsigned i = 0; i < 3; i++) {
        const struct raft_entry *e = &out.append_entries.entries[i];

        CHECK_EQ(e->term, entries[i].term);
        CHECK_EQ(e->type, entries[i].type);
        CHECK_EQ(e->buf.len, entries[i].buf.len);
        CHECK_MEM(e->buf.base, entries[i].buf.base, e->buf.len);
        CHECK_EQ((uintptr_t)e->batch, (uintptr_t)out.append_entries.entries[0].batch);
    }
    kl_message_free(&out);
    m.append_entries.n_entries = 0;
    round_trip("heartbeat", &m, &out, &extra);
    assert_null(out.append_entries.entries);
    raft_free(conf.base);
}

/* A long message is sent in pieces whose places follow on each other. */
TEST(message, pieces)
{
    struct raft_entry entries[4];
    struct raft_message m = {.type = RAFT_APPEND_ENTRIES};
    struct raft_message out;
    struct kl_message_extra extra = {0};
    struct kl_buf b = KL_BUF(KL_PEER_MESSAGE_MAX);
    Kluis__Peer__Message *in = NULL;

    for (unsigned i = 0; i < 4; i++) {
        entries[i] = entry(5 + i, RAFT_COMMAND, command, sizeof command);
    }
    m.append_entries = (struct raft_append_entries){.version = 1,
                                                    .term = 9,
                                                    .prev_log_index = 10,
                                                    .prev_log_term = 4,
                                                    .entries = entries,
                                                    .n_entries = 4};
    CHECK_OK(kl_message_encode(&m, &extra, 2, 2, &b));
    CHECK_OK(kl_message_unpack(kl_buf_bytes(&b), &in));
    CHECK_OK(kl_message_decode(2, in, &out, &extra));
    CHECK_EQ(out.append_entries.prev_log_index, 12);
    CHECK_EQ(out.append_entries.prev_log_term, 6);
    CHECK_EQ(out.append_entries.n_entries, 2);
    CHECK_EQ(out.append_entries.entries[0].term, 7);
    kl_message_free(&out);
    kl_message_unpacked_free(in);
    kl_buf_wipe(&b);
}

/* The small messages keep every field. */
TEST(message, small_ones)
{
    struct raft_message m = {.type = RAFT_APPEND_ENTRIES_RESULT};
    struct raft_message out;
    struct kl_message_extra extra = {.sent_us = 5, .stamp = UINT64_MAX};

    m.append_entries_result = (struct raft_append_entries_result){
        .term = 7, .rejected = 8, .last_log_index = 9, .features = 1, .capacity = 65535};
    round_trip("append_entries_result", &m, &out, &extra);
    CHECK_EQ(extra.sent_us, 5);
    CHECK_EQ(extra.stamp, UINT64_MAX);
    CHECK_EQ(out.append_entries_result.version, 1);
    CHECK_EQ(out.append_entries_result.rejected, 8);
    CHECK_EQ(out.append_entries_result.last_log_index, 9);
    CHECK_EQ(out.append_entries_result.features, 1);
    CHECK_EQ(out.append_entries_result.capacity, 65535);

    m = (struct raft_message){.type = RAFT_REQUEST_VOTE};
    m.request_vote = (struct raft_request_vote){.term = 7,
                                                .candidate_id = 2,
                                                .last_log_index = 5,
                                                .last_log_term = 6,
                                                .disrupt_leader = true,
                                                .pre_vote = true};
    round_trip("request_vote", &m, &out, &extra);
    CHECK_EQ(out.request_vote.version, 2);
    CHECK(out.request_vote.disrupt_leader && out.request_vote.pre_vote);
    CHECK_EQ(out.request_vote.last_log_term, 6);

    m = (struct raft_message){.type = RAFT_REQUEST_VOTE_RESULT};
    m.request_vote_result = (struct raft_request_vote_result){
        .term = 7, .vote_granted = true, .pre_vote = true, .features = 1, .capacity = 2};
    round_trip("request_vote_result", &m, &out, &extra);
    CHECK_EQ(out.request_vote_result.version, 2);
    CHECK(out.request_vote_result.vote_granted && out.request_vote_result.pre_vote);
    CHECK_EQ(out.request_vote_result.capacity, 2);

    m = (struct raft_message){.type = RAFT_TIMEOUT_NOW};
    m.timeout_now = (struct raft_timeout_now){.term = 7, .last_log_index = 5, .last_log_term = 6};
    round_trip("timeout_now", &m, &out, &extra);
    CHECK_EQ(out.timeout_now.last_log_index, 5);
    CHECK_EQ(out.timeout_now.last_log_term, 6);
}

/* A reference and the members travel with InstallSnapshot. */
TEST(message, install_snapshot)
{
    uint8_t ref[KL_SNAPSHOT_REF_LEN];
    struct raft_message m = {.type = RAFT_INSTALL_SNAPSHOT};
    struct raft_message out;
    struct kl_message_extra extra = {0};

    kl_snapshot_write(&(struct kl_snapshot_ref){40, 42}, ref);
    m.install_snapshot = (struct raft_install_snapshot){
        .term = 7, .last_index = 42, .last_term = 6, .conf_index = 3, .data = {ref, sizeof ref}};
    raft_configuration_init(&m.install_snapshot.conf);
    CHECK_EQ(raft_configuration_add(&m.install_snapshot.conf, 1, "a:1", RAFT_VOTER), 0);
    CHECK_EQ(raft_configuration_add(&m.install_snapshot.conf, 2, "b:1", RAFT_SPARE), 0);
    round_trip("install_snapshot", &m, &out, &extra);
    CHECK_EQ(out.install_snapshot.conf.n, 2);
    CHECK_STR(out.install_snapshot.conf.servers[1].address, "b:1");
    CHECK_EQ(out.install_snapshot.conf.servers[1].role, RAFT_SPARE);
    CHECK_EQ(out.install_snapshot.conf_index, 3);
    CHECK_EQ(out.install_snapshot.data.len, sizeof ref);
    kl_message_free(&out);
    raft_configuration_close(&m.install_snapshot.conf);
}

/* ---- hostile ones ---- */

static enum kl_status decode_status(Kluis__Peer__Message *m)
{
    struct kl_buf b = KL_BUF(2 * KL_PEER_MESSAGE_MAX);
    Kluis__Peer__Message *in = NULL;
    struct raft_message out;
    struct kl_message_extra extra;
    enum kl_status st;

    CHECK_OK(kl_message_pack(m, &b));
    st = kl_message_unpack(kl_buf_bytes(&b), &in);
    if (st == KL_OK) {
        st = kl_message_decode(2, in, &out, &extra);
        if (st == KL_OK) {
            kl_message_free(&out);
        }
    }
    kl_message_unpacked_free(in);
    kl_buf_wipe(&b);
    return st;
}

struct sample {
    Kluis__Peer__Message m;
    Kluis__Peer__AppendEntries append;
    Kluis__Peer__Entry entry, second;
    Kluis__Peer__Entry *entries[2];
};

static void sample_init(struct sample *s)
{
    kluis__peer__message__init(&s->m);
    kluis__peer__append_entries__init(&s->append);
    kluis__peer__entry__init(&s->entry);
    kluis__peer__entry__init(&s->second);
    s->entry.term = 3;
    s->entry.type = RAFT_COMMAND;
    s->entry.data = (ProtobufCBinaryData){sizeof command, command};
    s->second = s->entry;
    s->entries[0] = &s->entry;
    s->entries[1] = &s->second;
    s->append.term = 3;
    s->append.prev_log_index = 4;
    s->append.prev_log_term = 2;
    s->append.n_entries = 2;
    s->append.entries = s->entries;
    s->m.body_case = KLUIS__PEER__MESSAGE__BODY_APPEND_ENTRIES;
    s->m.append_entries = &s->append;
}

/* Each rule of AppendEntries is broken in turn. */
TEST(message, append_entries_refused)
{
    struct sample s;

    sample_init(&s);
    CHECK_OK(decode_status(&s.m));
    s.append.term = 0;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.append.prev_log_term = 0; /* index without term */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.append.prev_log_index = 0; /* term without index */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.append.prev_log_index = UINT64_MAX;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.append.prev_log_term = 4; /* later than the leader's own */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.append.leader_commit = UINT64_MAX;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.entry.term = 0;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.entry.term = 1; /* older than the entry before */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.second.term = 2; /* falls within the message */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.entry.term = 4; /* newer than the leader's term */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.entry.data.len = 9;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.entry.data.len = 0;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    sample_init(&s);
    s.entry.type = 0;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    s.entry.type = 4;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    s.entry.type = RAFT_CHANGE; /* not a configuration */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
}

/* A configuration that raft would read past its end, or choke on, never reaches it. */
TEST(message, configuration_refused)
{
    struct raft_buffer conf = change();
    uint8_t *p = conf.base;
    struct sample s;

    sample_init(&s);
    s.entry.type = RAFT_CHANGE;
    s.entry.data = (ProtobufCBinaryData){conf.len, conf.base};
    CHECK_OK(decode_status(&s.m));
    for (size_t len = 8; len < conf.len; len += 8) {
        s.entry.data.len = len;
        CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    }
    s.entry.data.len = conf.len;
    p[1] = 200; /* number of servers */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    p[1] = 0;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    p[1] = 2;
    p[8] = 0xff;
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    p[8] = 0;
    p[9] = 2; /* the same id twice */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    p[9] = 0; /* no id */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    p[9] = 1;
    p[17] = 'b'; /* the same address twice */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    p[17] = 'a';
    p[21] = 9; /* no role */
    CHECK_STATUS(decode_status(&s.m), KL_PROTOCOL);
    p[21] = RAFT_VOTER;
    CHECK_OK(decode_status(&s.m));
    raft_free(conf.base);
}

/* Nobody asks for votes in another's name. */
TEST(message, votes_refused)
{
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__RequestVote v = KLUIS__PEER__REQUEST_VOTE__INIT;

    v.term = 5;
    v.candidate_id = 2;
    m.body_case = KLUIS__PEER__MESSAGE__BODY_REQUEST_VOTE;
    m.request_vote = &v;
    CHECK_OK(decode_status(&m));
    v.candidate_id = 3;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    v.candidate_id = 2;
    v.term = 0;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    v.term = 5;
    v.last_log_index = 3;
    v.last_log_term = 6;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
}

/* A snapshot must be a reference of ours, with members. */
TEST(message, install_refused)
{
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__InstallSnapshot s = KLUIS__PEER__INSTALL_SNAPSHOT__INIT;
    Kluis__Peer__Server servers[2];
    Kluis__Peer__Server *list[2] = {&servers[0], &servers[1]};
    static char a[] = "a";
    static char b[] = "b";
    uint8_t ref[KL_SNAPSHOT_REF_LEN];

    kl_snapshot_write(&(struct kl_snapshot_ref){4, 5}, ref);
    for (unsigned i = 0; i < 2; i++) {
        kluis__peer__server__init(&servers[i]);
        servers[i].id = i + 1;
        servers[i].address = i == 0 ? a : b;
        servers[i].role = RAFT_VOTER;
    }
    s.term = 3;
    s.last_index = 5;
    s.last_term = 2;
    s.conf_index = 1;
    s.n_conf = 2;
    s.conf = list;
    s.reference = (ProtobufCBinaryData){sizeof ref, ref};
    m.body_case = KLUIS__PEER__MESSAGE__BODY_INSTALL_SNAPSHOT;
    m.install_snapshot = &s;
    CHECK_OK(decode_status(&m));
    s.reference.len = sizeof ref - 8;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    s.reference.len = sizeof ref;
    ref[0] ^= 1;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    ref[0] ^= 1;
    s.last_index = 0;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    s.last_index = 5;
    s.conf_index = 6;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    s.conf_index = 1;
    s.n_conf = 0;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    s.n_conf = 2;
    servers[1].id = 1;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    servers[1].id = 2;
    servers[1].address = a;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    servers[1].address = b;
    servers[1].role = 7;
    CHECK_STATUS(decode_status(&m), KL_PROTOCOL);
    servers[1].role = RAFT_STANDBY;
    CHECK_OK(decode_status(&m));
}

/* Size and memory are bounded, and what is no message of Raft is left to others. */
TEST(message, bounds)
{
    struct kl_buf b = KL_BUF(2 * KL_PEER_MESSAGE_MAX);
    Kluis__Peer__Message m = KLUIS__PEER__MESSAGE__INIT;
    Kluis__Peer__StreamAck ack = KLUIS__PEER__STREAM_ACK__INIT;
    Kluis__Peer__Message *in = NULL;
    uint8_t *to;

    CHECK_OK(kl_buf_grow(&b, KL_PEER_MESSAGE_MAX + 1, &to));
    memset(to, 0, KL_PEER_MESSAGE_MAX + 1);
    CHECK_STATUS(kl_message_unpack(kl_buf_bytes(&b), &in), KL_TOO_LARGE);
    /* A million empty entries, two bytes each, would take 64 MiB. */
    kl_buf_clear(&b);
    CHECK_OK(kl_buf_grow(&b, 2000000 + 5, &to));
    to[0] = 0x0a;                    /* append_entries, of length */
    to[1] = 0x80 | (2000000 & 0x7f); /* 2,000,000 */
    to[2] = 0x80 | ((2000000 >> 7) & 0x7f);
    to[3] = (2000000 >> 14) & 0x7f;
    b.len = 4 + 2000000;
    for (size_t i = 0; i < 1000000; i++) {
        to[4 + 2 * i] = 0x2a; /* entries, empty */
        to[5 + 2 * i] = 0;
    }
    CHECK_STATUS(kl_message_unpack(kl_buf_bytes(&b), &in), KL_PROTOCOL);
    kl_buf_wipe(&b);
    ack.stream_id = 1;
    m.body_case = KLUIS__PEER__MESSAGE__BODY_STREAM_ACK;
    m.stream_ack = &ack;
    CHECK_STATUS(decode_status(&m), KL_NOT_FOUND);
    m.body_case = KLUIS__PEER__MESSAGE__BODY__NOT_SET;
    CHECK_STATUS(decode_status(&m), KL_NOT_FOUND);
}

/* References are what they were written as; everything else is refused. */
TEST(message, reference)
{
    uint8_t ref[KL_SNAPSHOT_REF_LEN];
    struct kl_snapshot_ref out;

    kl_snapshot_write(&(struct kl_snapshot_ref){.applied = 1ull << 40, .index = 1ull << 41}, ref);
    CHECK_OK(kl_snapshot_parse(kl_bytes_of(ref, sizeof ref), &out));
    CHECK_EQ(out.applied, 1ull << 40);
    CHECK_EQ(out.index, 1ull << 41);
    CHECK_STATUS(kl_snapshot_parse(kl_bytes_of(ref, 16), &out), KL_CORRUPT);
    ref[5] = 1;
    CHECK_STATUS(kl_snapshot_parse(kl_bytes_of(ref, sizeof ref), &out), KL_CORRUPT);
    kl_snapshot_write(&(struct kl_snapshot_ref){.applied = 6, .index = 5}, ref);
    CHECK_STATUS(kl_snapshot_parse(kl_bytes_of(ref, sizeof ref), &out), KL_CORRUPT);
}

/* No allocation that fails leaks or gives a half message. */
TEST(message, out_of_memory)
{
    struct sample s;
    struct kl_buf b = KL_BUF(KL_PEER_MESSAGE_MAX);
    bool failed = true;

    sample_init(&s);
    CHECK_OK(kl_message_pack(&s.m, &b));
    for (unsigned long n = 1; failed && n < 1000; n++) {
        Kluis__Peer__Message *in = NULL;
        struct raft_message out;
        struct kl_message_extra extra;

        kl_alloc_fail_at(n);
        if (kl_message_unpack(kl_buf_bytes(&b), &in) == KL_OK &&
            kl_message_decode(2, in, &out, &extra) == KL_OK) {
            kl_message_free(&out);
        }
        failed = kl_alloc_failed() != 0;
        kl_alloc_fail_at(0);
        kl_message_unpacked_free(in);
    }
    CHECK(!failed);
    kl_buf_wipe(&b);
}
