#include "server/raft/group_impl.h"

#include "common/alloc.h"
#include "server/core/entry.h"
#include "server/runtime/log.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static struct kl_group *group_of(struct raft_fsm *fsm)
{
    return fsm->data;
}

/* ---- the store ---- */

static struct kl_bytes mark_key(void)
{
    return kl_bytes_of(KL_STREAM_MARK, KL_STREAM_MARK_LEN);
}

/* A store that was staged still has its mark when it becomes the live one. */
static enum kl_status mark_remove(struct kl_kv *kv)
{
    struct kl_buf value = KL_BUF(KL_RECORD_MAX);
    struct kl_batch batch;
    enum kl_status st = kl_kv_get(kv, NULL, mark_key(), &value);

    kl_buf_wipe(&value);
    if (st != KL_OK) {
        return st == KL_NOT_FOUND ? KL_OK : st;
    }
    kl_batch_init(&batch, 1024);
    kl_batch_del(&batch, mark_key());
    st = kl_batch_status(&batch);
    if (st == KL_OK) {
        st = kl_kv_write(kv, &batch, false);
    }
    kl_batch_done(&batch);
    return st;
}

enum kl_status kl_group_store_open(struct kl_group *g, char *err, size_t err_len)
{
    Kluis__Store__AppliedRecord *applied = NULL;
    struct kl_kv *kv = NULL;
    struct kl_kv_view v;
    struct kl_view view;
    enum kl_status st = g->options.store_open(g->host->ctx, g, false, &kv);

    if (st != KL_OK) {
        (void)snprintf(err, err_len, "opening the store of group %u below %s: %s",
                       (unsigned)g->options.id, g->options.dir, kl_status_info(st)->text);
        return st;
    }
    v = (struct kl_kv_view){.kv = kv};
    view = kl_kv_view(&v);
    st = mark_remove(kv);
    if (st == KL_OK) {
        st = kl_core_applied(&view, &applied);
    }
    if (st == KL_NOT_FOUND) {
        st = KL_OK; /* nothing was ever applied */
    }
    if (st == KL_OK) {
        st = kl_request_ids_load(&g->ids, &view, g->host->entropy);
    }
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "reading the store of group %u below %s: %s",
                       (unsigned)g->options.id, g->options.dir, kl_status_info(st)->text);
        if (applied != NULL) {
            kl_pb_wipe_free(&applied->base, &kl_pb_allocator);
        }
        kl_kv_close(kv);
        return st;
    }
    g->kv = kv;
    atomic_store(&g->applied, applied == NULL ? 0 : applied->index);
    g->applied_ms = applied == NULL ? 0 : applied->time_ms;
    if (applied != NULL) {
        kl_pb_wipe_free(&applied->base, &kl_pb_allocator);
    }
    return KL_OK;
}

void kl_group_store_close(struct kl_group *g)
{
    kl_request_ids_done(&g->ids);
    kl_kv_close(g->kv);
    g->kv = NULL;
}

/* The store, but for request ids that it surely lacks. */
struct apply_view {
    struct kl_kv_view store; /* first */
    const struct kl_request_ids *ids;
};

static enum kl_status apply_get(void *ctx, struct kl_bytes key, struct kl_buf *out)
{
    struct apply_view *v = ctx;

    return kl_request_ids_may_hold(v->ids, key) ? kl_kv_get(v->store.kv, NULL, key, out)
                                                : KL_NOT_FOUND;
}

/* ---- entries ---- */

static void entry_count(struct kl_group *g, size_t len)
{
    g->entry_bytes += ((double)len + 64.0 - g->entry_bytes) / 32.0;
}

/* Applies one entry to the store. KL_NO_SPACE: nothing was done. */
static enum kl_status apply_one(struct kl_group *g, uint64_t index, struct kl_bytes bytes)
{
    struct apply_view v = {.store = {.kv = g->kv}, .ids = &g->ids};
    struct kl_view view = kl_kv_view(&v.store);
    struct kl_results results;
    struct kl_entry entry;
    enum kl_status st;

    view.get = apply_get;
    kl_results_init(&results);
    kl_batch_clear(&g->batch);
    st = kl_entry_parse(bytes, &entry);
    if (st != KL_OK) {
        goto out;
    }
    st = kl_core_apply(index, bytes, &view, &g->batch, &results);
    if (st == KL_OK) {
        st = kl_batch_status(&g->batch);
    }
    if (st == KL_OK && g->batch.count != 0) {
        st = kl_kv_write(g->kv, &g->batch, false);
    }
    if (st != KL_OK) {
        goto out;
    }
    kl_request_ids_follow(&g->ids, &g->batch);
    atomic_store(&g->applied, index);
    if (entry.time_ms > g->applied_ms) {
        g->applied_ms = entry.time_ms;
    }
    g->entries_applied++;
    g->commands_applied += entry.count;
    g->changed = true;
    kl_group_landed(g, index, &results);
out:
    kl_results_done(&results);
    return st;
}

static void fault(struct kl_group *g, uint64_t index, enum kl_status st)
{
    kl_group_fatal(g,
                   "applying log entry %llu to the store below %s failed: %s; the store or the log "
                   "is damaged, see the runbook on rebuilding a node",
                   (unsigned long long)index, g->options.dir, kl_status_info(st)->text);
}

/*
 * The disk of the store is full. Raft has no way to be told so (an apply that fails is not undone
 * and may free its entry twice), so committed entries wait here: nothing is acknowledged, no
 * snapshot is taken, so after a restart the log has them still.
 */
static void backlog_add(struct kl_group *g, uint64_t index, struct kl_bytes bytes)
{
    struct kl_backlog *b = kl_malloc(sizeof *b + bytes.len);

    if (b == NULL) {
        kl_group_fatal(g, "out of memory while the store's disk is full");
        return;
    }
    b->next = NULL;
    b->index = index;
    b->len = bytes.len;
    memcpy(b->entry, bytes.ptr, bytes.len);
    *g->backlog_tail = b;
    g->backlog_tail = &b->next;
    g->backlog_bytes += bytes.len;
    if (!g->no_space_store) {
        g->no_space_store = true;
        g->changed = true;
        kl_log(KL_LOG_ERROR, "raft", "the store's disk is full: writes are refused group=%u",
               (unsigned)g->options.id);
    }
}

static void backlog_pop(struct kl_group *g)
{
    struct kl_backlog *b = g->backlog;

    g->backlog = b->next;
    if (g->backlog == NULL) {
        g->backlog_tail = &g->backlog;
    }
    g->backlog_bytes -= b->len;
    kl_free(b);
}

void kl_group_backlog_drop(struct kl_group *g)
{
    while (g->backlog != NULL) {
        backlog_pop(g);
    }
}

void kl_group_backlog_retry(struct kl_group *g)
{
    while (g->backlog != NULL && !g->dead) {
        struct kl_backlog *b = g->backlog;
        enum kl_status st = KL_OK;

        if (b->index > atomic_load(&g->applied)) {
            st = apply_one(g, b->index, (struct kl_bytes){b->entry, b->len});
        }
        if (st == KL_NO_SPACE) {
            return;
        }
        if (st != KL_OK) {
            fault(g, b->index, st);
            return;
        }
        backlog_pop(g);
    }
    if (g->no_space_store && !g->dead) {
        g->no_space_store = false;
        g->changed = true;
        kl_log(KL_LOG_INFO, "raft", "the store's disk has space again group=%u",
               (unsigned)g->options.id);
    }
}

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct kl_group *g = group_of(fsm);
    uint64_t index = raft_last_applied(&g->raft) + 1;
    struct kl_bytes bytes = {buf->base, buf->len};
    enum kl_status st;

    *result = NULL;
    if (g->dead) {
        return 0; /* the process is ending; the entry will be applied after its restart */
    }
    entry_count(g, buf->len);
    if (index <= atomic_load(&g->applied)) {
        return 0; /* the store may be newer than the snapshot that Raft started from */
    }
    if (g->backlog != NULL) {
        backlog_add(g, index, bytes);
        return 0;
    }
    st = apply_one(g, index, bytes);
    if (st == KL_NO_SPACE) {
        backlog_add(g, index, bytes);
    } else if (st != KL_OK) {
        fault(g, index, st);
    }
    return 0;
}

/* ---- snapshots ---- */

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    struct kl_group *g = group_of(fsm);
    struct kl_snapshot_ref ref = {atomic_load(&g->applied), raft_last_applied(&g->raft)};
    struct raft_buffer *b;

    /* While a stream is sent the log after its snapshot is what the receiver will need next. */
    if (g->dead || g->closing || g->backlog != NULL || g->flush.busy || g->wio.put.busy ||
        kl_stream_sending(g)) {
        return RAFT_BUSY;
    }
    /* N15: when two configurations were committed at once raft asks between the two, and would put
     * the older one into a snapshot that holds the newer: after a restart the newer would be
     * uncommitted for ever, and who gets the snapshot would never hear of it. And after a restart or
     * with N19 the last configuration that is known to be committed may lie ahead of the commit:
     * nobody takes a snapshot whose configuration is newer than itself. */
    if (kl_group_covers(g, KL_COVER_CONF) &&
        ((g->raft.configuration_uncommitted_index != 0 &&
          g->raft.configuration_uncommitted_index <= g->raft.commit_index) ||
         g->raft.configuration_committed_index > ref.index)) {
        return RAFT_BUSY;
    }
    if (ref.applied > ref.index) {
        return RAFT_BUSY; /* the store is ahead of the log that Raft has replayed */
    }
    b = raft_malloc(sizeof *b);
    if (b == NULL) {
        return RAFT_NOMEM;
    }
    b->len = KL_SNAPSHOT_REF_LEN;
    b->base = raft_malloc(b->len);
    if (b->base == NULL) {
        raft_free(b);
        return RAFT_NOMEM;
    }
    kl_snapshot_write(&ref, b->base);
    *bufs = b;
    *n_bufs = 1;
    g->snapshots_taken++;
    return 0;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct kl_group *g = group_of(fsm);
    struct kl_snapshot_ref ref;
    enum kl_status st = kl_snapshot_parse(kl_bytes_of(buf->base, buf->len), &ref);

    if (st == KL_OK && atomic_load(&g->applied) < ref.applied) {
        st = kl_stream_staged(g) >= ref.applied ? kl_stream_adopt(g) : KL_NOT_FOUND;
    }
    if (st == KL_OK && atomic_load(&g->applied) < ref.applied) {
        st = KL_CORRUPT;
    }
    if (st != KL_OK) {
        if (kl_group_covers(g, KL_COVER_STAGED)) {
            kl_group_fatal(
                g,
                "the store below %s stands at %llu and the Raft snapshot needs more: %s; "
                "remove this node's data directory and add it again",
                g->options.dir, (unsigned long long)atomic_load(&g->applied),
                kl_status_info(st)->text);
        }
        return RAFT_CORRUPT; /* raft frees the buffer */
    }
    kl_group_backlog_retry(g); /* what waited for space may be in the new store */
    raft_free(buf->base);
    if (g->started && !g->closing) {
        kl_group_gate_open(g);
        g->changed = true;
    }
    return 0;
}

static void flush_work(void *arg)
{
    struct kl_group *g = arg;

    g->flush.status = kl_kv_flush(g->kv);
}

static void flush_start(struct kl_group *g);

static void flush_done(void *arg)
{
    struct kl_group *g = arg;

    kl_group_worked(g);
    if (g->flush.status == KL_NO_SPACE && !g->closing) {
        g->flush.retry_us = kl_group_now_us(g) + (uint64_t)KL_LOG_PROBE_MS * 1000;
        return;
    }
    g->flush.busy = false;
    if (g->closing || g->dead) {
        return;
    }
    if (g->flush.status != KL_OK) {
        kl_group_fatal(g, "writing the store below %s failed: %s", g->options.dir,
                       kl_status_info(g->flush.status)->text);
        return;
    }
    kl_wio_flushed(&g->wio);
}

static void flush_start(struct kl_group *g)
{
    g->flush.busy = true;
    g->flush.retry_us = 0;
    kl_group_work(g, flush_work, flush_done, g);
}

/* A snapshot's reference may be written once the store is on disk up to it. */
void kl_group_flush(void *ctx)
{
    flush_start(ctx);
}

void kl_group_tune(struct kl_group *g)
{
    double keep = (double)g->options.log_keep_bytes / g->entry_bytes;
    double window = KL_RAFT_WINDOW_BYTES / g->entry_bytes;
    unsigned trailing = keep > KL_LOG_KEEP_ENTRIES_MAX   ? KL_LOG_KEEP_ENTRIES_MAX
                        : keep < KL_LOG_KEEP_ENTRIES_MIN ? KL_LOG_KEEP_ENTRIES_MIN
                                                         : (unsigned)keep;

    if (g->flush.busy && g->flush.retry_us != 0 && kl_group_now_us(g) >= g->flush.retry_us) {
        flush_start(g);
    }
    if (g->wio.put.busy) {
        return; /* raft uses the trailing count before and after the put */
    }
    raft_set_snapshot_trailing(&g->raft, trailing);
    raft_set_snapshot_threshold(
        &g->raft, trailing / 4 < KL_LOG_KEEP_ENTRIES_MIN ? KL_LOG_KEEP_ENTRIES_MIN : trailing / 4);
    raft_set_max_inflight_entries(&g->raft, window > KL_RAFT_WINDOW_MAX   ? KL_RAFT_WINDOW_MAX
                                            : window < KL_RAFT_WINDOW_MIN ? KL_RAFT_WINDOW_MIN
                                                                          : (unsigned)window);
}

void kl_group_fsm_init(struct kl_group *g)
{
    g->fsm = (struct raft_fsm){
        .version = 3,
        .data = g,
        .apply = fsm_apply,
        .snapshot = fsm_snapshot,
        .restore = fsm_restore,
    };
}
