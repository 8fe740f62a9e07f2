/*
 * What is due. Both indexes begin with a time, so the first record of each says when to look again.
 */
#include "server/core/arena.h"
#include "server/core/query.h"

struct due {
    struct kl_arena arena;
    uint64_t now_ms;
    uint64_t next_ms; /* first time seen that is still to come */
    size_t max;
    size_t n;
    const ProtobufCMessageDescriptor *descriptor;
    bool (*fits)(const ProtobufCMessage *message, uint64_t at, struct kl_bytes key);
    ProtobufCMessage *items[KL_PURGE_BATCH_MAX];
    uint64_t due_ms[KL_PURGE_BATCH_MAX];
    enum kl_status st;
};

enum { TIME_AT = 1, TIME_END = 9 };

static bool id_or_none(ProtobufCBinaryData id)
{
    return id.len == 0 || id.len == KL_ID_LEN;
}

/* A record under a key that is not its own would be proposed for ever and never be found. */
static bool purge_fits(const ProtobufCMessage *message, uint64_t at, struct kl_bytes key)
{
    const Kluis__Store__PurgeRecord *r = (const Kluis__Store__PurgeRecord *)message;
    struct kl_key own;

    if (r->vault_id.len != KL_ID_LEN || r->kind > KL_KIND_CERTIFICATE ||
        strlen(r->name) > KL_OBJECT_NAME_MAX) {
        return false;
    }
    own = kl_key_purge(at, kl_bytes_of(r->vault_id.data, KL_ID_LEN), r->kind, r->name);
    return kl_bytes_eq(kl_key_bytes(&own), key);
}

static bool garbage_fits(const ProtobufCMessage *message, uint64_t at, struct kl_bytes key)
{
    const Kluis__Store__GarbageRecord *r = (const Kluis__Store__GarbageRecord *)message;
    struct kl_key own;

    if (r->vault_id.len != KL_ID_LEN || !id_or_none(r->object_id) || r->not_before_ms != at) {
        return false;
    }
    own = kl_key_garbage(at, kl_bytes_of(r->vault_id.data, KL_ID_LEN),
                         kl_bytes_of(r->object_id.data, r->object_id.len));
    return kl_bytes_eq(kl_key_bytes(&own), key);
}

static bool take_due(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct due *d = arg;
    uint64_t at;

    if (key.len < TIME_END) {
        d->st = KL_CORRUPT;
        return false;
    }
    at = kl_get_be64(key.ptr + TIME_AT);
    if (at > d->now_ms) {
        d->next_ms = at;
        return false;
    }
    d->items[d->n] =
        protobuf_c_message_unpack(d->descriptor, &d->arena.allocator, value.len, value.ptr);
    if (d->items[d->n] == NULL || !d->fits(d->items[d->n], at, key)) {
        d->st = d->arena.no_memory ? KL_NO_MEMORY : KL_CORRUPT;
        return false;
    }
    d->due_ms[d->n++] = at;
    return d->n < d->max;
}

static enum kl_status look(const struct kl_view *view, char family, struct due *d)
{
    struct kl_key from = kl_key_family(family);
    struct kl_key to = kl_key_prefix_end(&from);
    enum kl_status st;

    d->n = 0;
    st = view->scan(view->ctx, kl_key_bytes(&from), kl_key_bytes(&to), take_due, d);
    return st != KL_OK ? st : d->st;
}

static enum kl_status pack(const Kluis__Log__Command *cmd, struct kl_buf *command)
{
    uint8_t *p = NULL;
    enum kl_status st;

    kl_buf_clear(command);
    st = kl_buf_grow(command, kluis__log__command__get_packed_size(cmd), &p);
    if (st == KL_OK) {
        (void)kluis__log__command__pack(cmd, p);
    }
    return st;
}

static enum kl_status pack_purge(struct due *d, struct kl_buf *command)
{
    Kluis__Log__PurgeDue purge = KLUIS__LOG__PURGE_DUE__INIT;
    Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;
    Kluis__Store__PurgeRecord *items[KL_PURGE_BATCH_MAX];

    for (size_t i = 0; i < d->n; i++) {
        items[i] = (Kluis__Store__PurgeRecord *)d->items[i];
    }
    purge.items = items;
    purge.n_items = d->n;
    purge.due_ms = d->due_ms;
    purge.n_due_ms = d->n;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_PURGE_DUE;
    cmd.purge_due = &purge;
    return pack(&cmd, command);
}

static enum kl_status pack_collect(struct due *d, struct kl_buf *command)
{
    Kluis__Log__Collect collect = KLUIS__LOG__COLLECT__INIT;
    Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;
    Kluis__Store__GarbageRecord *items[KL_PURGE_BATCH_MAX];

    for (size_t i = 0; i < d->n; i++) {
        items[i] = (Kluis__Store__GarbageRecord *)d->items[i];
    }
    collect.items = items;
    collect.n_items = d->n;
    collect.budget = KL_COLLECT_BUDGET_MAX;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_COLLECT;
    cmd.collect = &collect;
    return pack(&cmd, command);
}

static enum kl_status look_at(const struct kl_view *view, bool purges, uint64_t now_ms,
                              struct kl_buf *command, uint64_t *next_ms)
{
    struct due d = {
        .now_ms = now_ms, .next_ms = UINT64_MAX, .max = KL_PURGE_BATCH_MAX, .st = KL_OK};
    uint64_t purge_next_ms;
    enum kl_status st = KL_OK;

    kl_arena_init(&d.arena);
    d.descriptor = &kluis__store__purge_record__descriptor;
    d.fits = purge_fits;
    if (purges) {
        st = look(view, 'p', &d);
    }
    if (st != KL_OK) {
        goto out;
    }
    if (d.n != 0) {
        st = pack_purge(&d, command);
        goto out;
    }
    purge_next_ms = d.next_ms;
    d.next_ms = UINT64_MAX;
    d.descriptor = &kluis__store__garbage_record__descriptor;
    d.fits = garbage_fits;
    st = look(view, 'g', &d);
    if (st != KL_OK) {
        goto out;
    }
    if (d.n != 0) {
        st = pack_collect(&d, command);
        goto out;
    }
    *next_ms = purge_next_ms < d.next_ms ? purge_next_ms : d.next_ms;
    st = KL_NOT_FOUND;
out:
    if (st == KL_OK) {
        *next_ms = now_ms; /* there may be more */
    }
    kl_arena_done(&d.arena);
    return st;
}

enum kl_status kl_core_due(const struct kl_view *view, uint64_t now_ms, struct kl_buf *command,
                           uint64_t *next_ms)
{
    return look_at(view, true, now_ms, command, next_ms);
}

enum kl_status kl_core_due_collect(const struct kl_view *view, uint64_t now_ms,
                                   struct kl_buf *command, uint64_t *next_ms)
{
    return look_at(view, false, now_ms, command, next_ms);
}
