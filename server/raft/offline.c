#include "server/raft/offline.h"

#include "common/alloc.h"
#include "server/core/core.h"
#include "server/core/entry.h"
#include "server/raft/no_transport.h"
#include "server/raft/snapshot.h"
#include "server/store/kv.h"

#include <raft.h>
#include <raft/uv.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

enum { PATH_LEN = 1200, TICK_MS = 100, CACHE_BYTES = 1 << 20 };

/* A log with a loop of its own and no network. */
struct log {
    uv_loop_t loop;
    struct raft_io io;
    struct raft_uv_transport transport;
    bool loop_open, io_open;
    char *err;
    size_t err_len;
    /* As loaded. */
    raft_term term;
    raft_id vote;
    struct raft_snapshot *snapshot;
    raft_index start;
    struct raft_entry *entries;
    size_t entries_n;
    /* An append under way. */
    bool appended;
    int append_status;
    bool put;
    int put_status;
};

static enum kl_status say(struct log *l, const char *what, int rv)
{
    (void)snprintf(l->err, l->err_len, "%s: %s%s%s", what, raft_strerror(rv),
                   l->io.errmsg[0] == 0 ? "" : ": ", l->io.errmsg);
    if (rv == RAFT_NOMEM) {
        return KL_NO_MEMORY;
    }
    return rv == RAFT_CORRUPT || rv == RAFT_MALFORMED ? KL_CORRUPT : KL_IO;
}

/* ---- what libraft has to say: nothing ---- */

static void no_tick(struct raft_io *io)
{
    (void)io;
}

static void no_receive(struct raft_io *io, struct raft_message *m)
{
    (void)io;
    (void)m;
}

/* ---- opening and closing ---- */

static void closed(struct raft_io *io)
{
    (void)io; /* the loop ends by itself */
}

static void loaded_free(struct log *l)
{
    void *batch = NULL;

    for (size_t i = 0; i < l->entries_n; i++) {
        if (l->entries[i].batch != batch) { /* neighbours share it */
            batch = l->entries[i].batch;
            raft_free(batch);
        }
    }
    raft_free(l->entries);
    if (l->snapshot != NULL) {
        raft_configuration_close(&l->snapshot->configuration);
        for (unsigned i = 0; i < l->snapshot->n_bufs; i++) {
            raft_free(l->snapshot->bufs[i].base);
        }
        raft_free(l->snapshot->bufs);
        raft_free(l->snapshot);
    }
}

static void log_close(struct log *l)
{
    if (l->io_open) {
        l->io.close(&l->io, closed);
        (void)uv_run(&l->loop, UV_RUN_DEFAULT);
        raft_uv_close(&l->io);
    }
    if (l->loop_open) {
        (void)uv_loop_close(&l->loop);
    }
    loaded_free(l);
}

static enum kl_status log_open(struct log *l, const char *dir, uint64_t node_id, char *err,
                               size_t err_len)
{
    char path[PATH_LEN];
    int rv;

    memset(l, 0, sizeof *l);
    l->err = err;
    l->err_len = err_len;
    kl_no_transport(&l->transport);
    (void)snprintf(path, sizeof path, "%s/log", dir);
    if (access(path, F_OK) != 0) {
        (void)snprintf(err, err_len, "%s is missing", path);
        return KL_NOT_FOUND;
    }
    if (uv_loop_init(&l->loop) != 0) {
        (void)snprintf(err, err_len, "out of memory");
        return KL_NO_MEMORY;
    }
    l->loop_open = true;
    rv = raft_uv_init(&l->io, &l->loop, path, &l->transport);
    if (rv != 0) {
        return say(l, path, rv);
    }
    raft_uv_set_tracer(&l->io, NULL);
    /* It would throw away what follows a damaged segment, acknowledged entries included. */
    raft_uv_set_auto_recovery(&l->io, false);
    rv = l->io.init(&l->io, node_id, "");
    if (rv != 0) {
        return say(l, path, rv);
    }
    l->io_open = true;
    rv =
        l->io.load(&l->io, &l->term, &l->vote, &l->snapshot, &l->start, &l->entries, &l->entries_n);
    return rv == 0 ? KL_OK : say(l, path, rv);
}

/* ---- looking ---- */

static enum kl_status members_copy(struct log *l, const struct raft_configuration *conf,
                                   struct kl_offline_log *out)
{
    if (conf->n > KL_NODES_MAX) {
        (void)snprintf(l->err, l->err_len, "the log names %u members, more than %d", conf->n,
                       KL_NODES_MAX);
        return KL_TOO_LARGE;
    }
    for (unsigned i = 0; i < conf->n; i++) {
        struct kl_offline_member *m = &out->members[out->members_n++];

        m->node_id = conf->servers[i].id;
        m->voter = conf->servers[i].role == RAFT_VOTER;
        (void)snprintf(m->address, sizeof m->address, "%s", conf->servers[i].address);
    }
    return KL_OK;
}

/* The newest configuration, committed or not: libraft uses it from the moment it is in the log. */
static enum kl_status look_members(struct log *l, struct kl_offline_log *out)
{
    struct raft_configuration conf;
    enum kl_status st;

    for (size_t i = l->entries_n; i-- > 0;) {
        int rv;

        if (l->entries[i].type != RAFT_CHANGE) {
            continue;
        }
        rv = raft_configuration_decode(&l->entries[i].buf, &conf);
        if (rv != 0) {
            return say(l, "reading a configuration in the log", rv);
        }
        st = members_copy(l, &conf, out);
        raft_configuration_close(&conf);
        return st;
    }
    return l->snapshot == NULL ? KL_OK : members_copy(l, &l->snapshot->configuration, out);
}

static void look_entries(const struct log *l, struct kl_offline_log *out)
{
    struct kl_entry entry;

    out->term = l->term;
    if (l->snapshot != NULL) {
        out->last_term = l->snapshot->term;
        out->last_index = l->snapshot->index;
    }
    if (l->entries_n != 0) {
        out->last_term = l->entries[l->entries_n - 1].term;
        out->last_index = l->start + l->entries_n - 1;
    }
    for (size_t i = l->entries_n; i-- > 0 && out->last_ms == 0;) {
        const struct raft_entry *e = &l->entries[i];

        if (e->type == RAFT_COMMAND &&
            kl_entry_parse(kl_bytes_of(e->buf.base, e->buf.len), &entry) == KL_OK) {
            out->last_ms = entry.time_ms;
        }
    }
}

/* What the state beside the log has applied; with `flush` it is on stable storage afterwards. */
static enum kl_status look_state(const char *dir, bool flush, struct kl_offline_log *out, char *err,
                                 size_t err_len)
{
    Kluis__Store__AppliedRecord *record = NULL;
    struct kl_kv_view store = {NULL, NULL};
    char path[PATH_LEN];
    char why[256] = "";
    struct kl_view view;
    enum kl_status st;

    (void)snprintf(path, sizeof path, "%s/state", dir);
    if (access(path, F_OK) != 0) {
        (void)snprintf(path, sizeof path, "%s/state.old", dir); /* a swap was cut short */
    }
    if (access(path, F_OK) != 0) {
        (void)snprintf(err, err_len, "%s/state is missing", dir);
        return KL_NOT_FOUND;
    }
    st = kl_kv_leveldb_open(path, CACHE_BYTES, &store.kv, why, sizeof why);
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: %s", path, why);
        return st;
    }
    view = kl_kv_view(&store);
    st = kl_core_applied(&view, &record);
    if (st == KL_OK) {
        out->applied_index = record->index;
        out->last_ms = record->time_ms > out->last_ms ? record->time_ms : out->last_ms;
    } else if (st == KL_NOT_FOUND) {
        st = KL_OK; /* nothing was ever applied */
    } else {
        (void)snprintf(err, err_len, "%s: %s", path, kl_status_info(st)->text);
    }
    if (st == KL_OK && flush) {
        st = kl_kv_flush(store.kv);
    }
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    kl_kv_close(store.kv);
    return st;
}

enum kl_status kl_offline_look(const char *dir, uint64_t node_id, struct kl_offline_log *out,
                               char *err, size_t err_len)
{
    struct kl_offline_log found = {.term = 0};
    struct log l;
    enum kl_status st = log_open(&l, dir, node_id, err, err_len);

    if (st == KL_OK) {
        look_entries(&l, &found);
        st = look_members(&l, &found);
    }
    log_close(&l);
    if (st == KL_OK) {
        st = look_state(dir, false, &found, err, err_len);
    }
    if (st == KL_OK) {
        *out = found;
    }
    return st;
}

/* ---- taking over ---- */

static void on_appended(struct raft_io_append *req, int status)
{
    struct log *l = req->data;

    l->appended = true;
    l->append_status = status;
    uv_stop(&l->loop);
}

static enum kl_status append(struct log *l, const struct raft_entry *entries, unsigned n)
{
    struct raft_io_append req = {.data = l};
    int rv = l->io.append(&l->io, &req, entries, n, on_appended);

    if (rv != 0) {
        return say(l, "writing the log", rv);
    }
    while (!l->appended) {
        (void)uv_run(&l->loop, UV_RUN_DEFAULT);
    }
    return l->append_status == 0 ? KL_OK : say(l, "writing the log", l->append_status);
}

static void on_put(struct raft_io_snapshot_put *req, int status)
{
    struct log *l = req->data;

    l->put = true;
    l->put_status = status;
    uv_stop(&l->loop);
}

/*
 * The state may be ahead of the log, of what others had stored: then it stands for all of the log, as a
 * snapshot at its own index. Whoever gets the log from here begins with that.
 */
static enum kl_status put_state(struct log *l, const struct kl_offline_log *found)
{
    const struct kl_snapshot_ref ref = {found->applied_index, found->applied_index};
    uint8_t bytes[KL_SNAPSHOT_REF_LEN] __attribute__((aligned(8)));
    struct raft_buffer buf = {.base = bytes, .len = sizeof bytes};
    struct raft_snapshot snapshot = {.index = found->applied_index,
                                     .term = l->term,
                                     .configuration_index = found->applied_index,
                                     .bufs = &buf,
                                     .n_bufs = 1};
    struct raft_io_snapshot_put req = {.data = l};
    int rv = 0;

    kl_snapshot_write(&ref, bytes);
    raft_configuration_init(&snapshot.configuration);
    for (size_t i = 0; rv == 0 && i < found->members_n; i++) {
        rv = raft_configuration_add(&snapshot.configuration, found->members[i].node_id,
                                    found->members[i].address,
                                    found->members[i].voter ? RAFT_VOTER : RAFT_SPARE);
    }
    if (rv == 0) {
        rv = l->io.snapshot_put(&l->io, 0, &req, &snapshot, on_put);
    }
    while (rv == 0 && !l->put) {
        (void)uv_run(&l->loop, UV_RUN_DEFAULT);
    }
    raft_configuration_close(&snapshot.configuration);
    rv = rv == 0 ? l->put_status : rv;
    return rv == 0 ? KL_OK : say(l, "writing a snapshot of the state", rv);
}

enum kl_status kl_offline_take_over(const char *dir, uint64_t node_id, uint64_t term,
                                    const char *address, struct kl_bytes entry, char *err,
                                    size_t err_len)
{
    struct raft_entry entries[2] = {{.term = term, .type = RAFT_CHANGE},
                                    {.term = term, .type = RAFT_COMMAND}};
    struct kl_offline_log found = {.term = 0};
    struct raft_configuration conf;
    struct log l;
    enum kl_status st;
    int rv;

    raft_configuration_init(&conf);
    st = log_open(&l, dir, node_id, err, err_len);
    if (st != KL_OK) {
        goto out;
    }
    if (term <= l.term) {
        (void)snprintf(err, err_len, "the log has seen term %llu already",
                       (unsigned long long)l.term);
        st = KL_INVALID_ARGUMENT;
        goto out;
    }
    look_entries(&l, &found);
    st = look_members(&l, &found);
    if (st == KL_OK) {
        st = look_state(dir, true, &found, err, err_len);
    }
    if (st != KL_OK) {
        goto out;
    }
    rv = raft_configuration_add(&conf, node_id, address, RAFT_VOTER);
    if (rv == 0) {
        rv = raft_configuration_encode(&conf, &entries[0].buf);
    }
    if (rv == 0) {
        entries[1].buf.base = raft_malloc(entry.len == 0 ? 8 : entry.len);
        entries[1].buf.len = entry.len;
        rv = entries[1].buf.base == NULL ? RAFT_NOMEM : 0;
    }
    if (rv == 0) {
        if (entry.len != 0) {
            memcpy(entries[1].buf.base, entry.ptr, entry.len);
        }
        rv = l.io.set_term(&l.io, term);
    }
    if (rv == 0) {
        rv = l.io.set_vote(&l.io, node_id);
    }
    if (rv == 0) {
        rv = l.io.start(&l.io, TICK_MS, no_tick, no_receive);
    }
    st = rv != 0 ? say(&l, "writing the log", rv) : KL_OK;
    if (st == KL_OK && found.applied_index > found.last_index) {
        st = put_state(&l, &found);
    }
    if (st == KL_OK) {
        st = append(&l, entries, entry.len == 0 ? 1 : 2);
    }
out:
    log_close(&l);
    raft_configuration_close(&conf);
    raft_free(entries[0].buf.base);
    raft_free(entries[1].buf.base);
    return st;
}
