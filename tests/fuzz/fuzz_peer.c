/*
 * Messages between nodes: what a peer sends is unpacked, checked and made a Raft message, which is
 * packed again and must come out the same. libraft trusts what it is given, so what passes here
 * must keep its rules.
 */
#include "server/raft/message.h"

#include "common/limits.h"

#include <assert.h>
#include <string.h>

enum { FROM = 2 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void append_check(const struct raft_append_entries *a)
{
    uint64_t term = a->prev_log_term;

    assert(a->term > 0 && (a->prev_log_index == 0) == (a->prev_log_term == 0));
    assert((a->n_entries == 0) == (a->entries == NULL));
    for (unsigned i = 0; i < a->n_entries; i++) {
        const struct raft_entry *e = &a->entries[i];
        struct raft_configuration conf;

        assert(e->term >= term && e->term <= a->term);
        assert(e->buf.len % 8 == 0 && e->buf.len != 0);
        assert(e->batch == a->entries[0].batch);
        if (e->type == RAFT_CHANGE) {
            assert(raft_configuration_decode(&e->buf, &conf) == 0);
            raft_configuration_close(&conf);
        }
        term = e->term;
    }
}

/* Packing and unpacking again gives the same bytes. */
static void again(struct raft_message *m, const struct kl_message_extra *extra)
{
    unsigned n = m->type == RAFT_APPEND_ENTRIES ? m->append_entries.n_entries : 0;
    struct kl_buf first = KL_BUF(KL_PEER_MESSAGE_MAX);
    struct kl_buf second = KL_BUF(KL_PEER_MESSAGE_MAX);
    Kluis__Peer__Message *in = NULL;
    struct raft_message copy;
    struct kl_message_extra more;

    if (kl_message_encode(m, extra, 0, n, &first) == KL_OK &&
        kl_message_unpack(kl_buf_bytes(&first), &in) == KL_OK) {
        assert(kl_message_decode(FROM, in, &copy, &more) == KL_OK);
        assert(kl_message_encode(&copy, &more, 0, n, &second) == KL_OK);
        assert(kl_bytes_eq(kl_buf_bytes(&first), kl_buf_bytes(&second)));
        kl_message_free(&copy);
    }
    kl_message_unpacked_free(in);
    kl_buf_wipe(&first);
    kl_buf_wipe(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Kluis__Peer__Message *in = NULL;
    struct raft_message m;
    struct kl_message_extra extra;
    enum kl_status st = kl_message_unpack(kl_bytes_of(data, size), &in);

    if (st != KL_OK) {
        assert(st == KL_PROTOCOL || st == KL_TOO_LARGE);
        return 0;
    }
    st = kl_message_decode(FROM, in, &m, &extra);
    if (st == KL_OK) {
        assert(m.server_id == FROM);
        if (m.type == RAFT_APPEND_ENTRIES) {
            append_check(&m.append_entries);
        }
        again(&m, &extra);
        kl_message_free(&m);
    } else {
        assert(st == KL_PROTOCOL || st == KL_NOT_FOUND);
    }
    kl_message_unpacked_free(in);
    return 0;
}
