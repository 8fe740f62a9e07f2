#include "tests/unit/core/world.h"

#include "common/limits.h"

#include <openssl/evp.h>

enum { RING = 1 << 20 };

void world_init_on(struct world *w, struct kl_kv *kv)
{
    *w = (struct world){.kv = kv, .over = {.kv = kv}, .now = 1000000};
    w->view = kl_kv_view(&w->over);
    w->entry = KL_BUF(KL_ENTRY_MAX);
    kl_results_init(&w->results);
}

void world_init(struct world *w)
{
    struct kl_kv *kv = NULL;

    CHECK_OK(kl_kv_memory_new(&kv));
    world_init_on(w, kv);
}

void world_done(struct world *w)
{
    kl_pb_wipe_free((ProtobufCMessage *)w->result, &kl_pb_allocator);
    kl_results_done(&w->results);
    kl_buf_wipe(&w->entry);
    kl_kv_close(w->kv);
}

void world_group(struct world *w)
{
    CHECK_EQ(world_apply(w, group_init(DAY_MS)), KL_OK);
}

/* ---- memory that lives for a while ---- */

static void *ring(size_t n)
{
    static _Alignas(16) uint8_t bytes[RING];
    static size_t at;

    n = (n + 15) / 16 * 16;
    assert_true(n <= RING);
    if (at + n > RING) {
        at = 0;
    }
    at += n;
    memset(bytes + at - n, 0, n);
    return bytes + at - n;
}

static char *text(const char *s)
{
    char *copy = ring(strlen(s) + 1);

    memcpy(copy, s, strlen(s) + 1);
    return copy;
}

ProtobufCBinaryData pb_id(unsigned n)
{
    uint8_t *p = ring(KL_ID_LEN);

    kl_put_be32(p, n * 2654435761u); /* spreads over the key space */
    kl_put_be32(p + 12, n);
    return (ProtobufCBinaryData){KL_ID_LEN, p};
}

struct kl_bytes id_of(unsigned n)
{
    return kl_bytes_of(pb_id(n).data, KL_ID_LEN);
}

ProtobufCBinaryData pb_text(const char *s)
{
    return (ProtobufCBinaryData){strlen(s), (uint8_t *)text(s)};
}

#define NEW(prefix, out)                                                                           \
    do {                                                                                           \
        (out) = ring(sizeof *(out));                                                               \
        prefix##__init(out);                                                                       \
    } while (0)

/* ---- applying ---- */

uint8_t *packed_of(const ProtobufCMessage *m, size_t *len)
{
    uint8_t *p;

    *len = protobuf_c_message_get_packed_size(m);
    p = kl_malloc(*len + 1);
    assert_non_null(p);
    (void)protobuf_c_message_pack(m, p);
    return p;
}

static void add_bytes(struct world *w, struct kl_bytes command)
{
    if (w->entry.len == 0) {
        CHECK_OK(kl_entry_begin(&w->entry, w->now));
    }
    CHECK_OK(kl_entry_add(&w->entry, command));
}

void world_add(struct world *w, const Kluis__Log__Command *cmd)
{
    size_t len;
    uint8_t *p = packed_of(&cmd->base, &len);

    add_bytes(w, kl_bytes_of(p, len));
    kl_free(p);
}

void world_commit(struct world *w)
{
    struct kl_batch batch;

    kl_batch_init(&batch, KL_BATCH_MAX);
    kl_results_done(&w->results);
    CHECK_OK(kl_entry_end(&w->entry));
    w->index++;
    CHECK_OK(kl_core_apply(w->index, kl_buf_bytes(&w->entry), &w->view, &batch, &w->results));
    CHECK_OK(kl_kv_write(w->kv, &batch, false));
    kl_batch_done(&batch);
    kl_buf_clear(&w->entry);
}

enum kl_status world_result(struct world *w, size_t i)
{
    struct kl_bytes packed = {NULL, 0};
    size_t pos = 0;

    for (size_t k = 0; k <= i; k++) {
        assert_true(kl_results_next(&w->results, &pos, &packed));
    }
    kl_pb_wipe_free((ProtobufCMessage *)w->result, &kl_pb_allocator);
    w->result = kluis__log__command_result__unpack(&kl_pb_allocator, packed.len, packed.ptr);
    assert_non_null(w->result);
    return (enum kl_status)w->result->status;
}

enum kl_status world_apply(struct world *w, const Kluis__Log__Command *cmd)
{
    world_add(w, cmd);
    world_commit(w);
    CHECK_EQ(w->results.count, 1);
    return world_result(w, 0);
}

enum kl_status world_apply_bytes(struct world *w, struct kl_bytes command)
{
    add_bytes(w, command);
    world_commit(w);
    CHECK_EQ(w->results.count, 1);
    return world_result(w, 0);
}

unsigned world_work(struct world *w)
{
    struct kl_buf command = KL_BUF(KL_COMMAND_MAX);
    uint64_t next = 0;
    unsigned n = 0;
    enum kl_status st;

    while ((st = kl_core_due(&w->view, w->now, &command, &next)) == KL_OK) {
        CHECK_EQ(world_apply_bytes(w, kl_buf_bytes(&command)), KL_OK);
        assert_true(++n < 100000);
    }
    CHECK_STATUS(st, KL_NOT_FOUND);
    CHECK(next > w->now);
    kl_buf_wipe(&command);
    return n;
}

struct hashing {
    struct kl_kv *kv;
    EVP_MD_CTX *md;
};

static void hash_part(EVP_MD_CTX *md, struct kl_bytes part)
{
    uint8_t len[4];

    kl_put_be32(len, (uint32_t)part.len);
    (void)EVP_DigestUpdate(md, len, 4);
    (void)EVP_DigestUpdate(md, part.ptr, part.len);
}

/* A version counts with its record, but not where that lies. */
static bool hash_one(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct hashing *h = arg;
    struct kl_buf version = KL_BUF(KL_RECORD_MAX);
    struct kl_key at;

    if (strchr("aeqw", key.ptr[0]) != NULL) {
        return true;
    }
    hash_part(h->md, key);
    if (key.ptr[0] == 'o') {
        CHECK(kl_key_at(value, &at));
        CHECK_OK(kl_kv_get(h->kv, NULL, kl_key_bytes(&at), &version));
        value = kl_buf_bytes(&version);
    }
    hash_part(h->md, value);
    kl_buf_wipe(&version);
    return true;
}

void world_digest(struct world *w, uint8_t out[32])
{
    static const struct kl_bytes all = {NULL, 0};
    struct hashing h = {.kv = w->kv, .md = EVP_MD_CTX_new()};

    assert_non_null(h.md);
    CHECK_EQ(EVP_DigestInit_ex(h.md, EVP_sha256(), NULL), 1);
    CHECK_OK(kl_kv_scan(w->kv, NULL, all, all, hash_one, &h));
    CHECK_EQ(EVP_DigestFinal_ex(h.md, out, NULL), 1);
    EVP_MD_CTX_free(h.md);
}

static bool count_one(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    (void)key;
    (void)value;
    ++*(size_t *)arg;
    return true;
}

size_t world_count(struct world *w, char family)
{
    struct kl_key from = kl_key_family(family);
    struct kl_key to = kl_key_prefix_end(&from);
    size_t n = 0;

    CHECK_OK(kl_kv_scan(w->kv, NULL, kl_key_bytes(&from), kl_key_bytes(&to), count_one, &n));
    return n;
}

/* ---- commands ---- */

#define COMMAND(cmd, op, OP, type)                                                                 \
    do {                                                                                           \
        NEW(kluis__log__command, cmd);                                                             \
        (cmd)->op_case = KLUIS__LOG__COMMAND__OP_##OP;                                             \
        NEW(kluis__log__##type, (cmd)->type);                                                      \
        (op) = (cmd)->type;                                                                        \
    } while (0)

Kluis__Log__Command *with_request(Kluis__Log__Command *cmd, unsigned id, uint64_t expires_ms)
{
    cmd->request_id = pb_id(id);
    cmd->expires_ms = expires_ms;
    return cmd;
}

Kluis__Store__VaultRecord *a_vault(const char *name, unsigned id)
{
    Kluis__Store__VaultRecord *v;

    NEW(kluis__store__vault_record, v);
    v->vault_id = pb_id(id);
    v->name = text(name);
    v->subscription = text("00000000-0000-0000-0000-00000000abcd");
    v->resource_group = text("default");
    v->location = text("west");
    v->retention_days = 7;
    v->wrapped_key = pb_text("wrapped vault key");
    return v;
}

Kluis__Store__VersionRecord *a_version(unsigned id, const char *sealed)
{
    Kluis__Store__VersionRecord *v;

    NEW(kluis__store__version_record, v);
    NEW(kluis__store__version_meta, v->meta);
    NEW(kluis__store__attributes, v->meta->attributes);
    v->meta->version_id = pb_id(id);
    v->meta->attributes->enabled = true;
    v->meta->content_type = text("text/plain");
    v->sealed = pb_text(sealed);
    return v;
}

Kluis__Log__Command *group_init(uint64_t day_ms)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__GroupInit *op;

    COMMAND(cmd, op, GROUP_INIT, group_init);
    NEW(kluis__store__group_record, op->group);
    op->group->cluster_id = pb_id(1);
    op->group->geography = text("europe");
    op->group->day_ms = day_ms;
    return cmd;
}

Kluis__Log__Command *node_register(uint64_t node, unsigned uuid, bool replace)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__NodeRegister *op;

    COMMAND(cmd, op, NODE_REGISTER, node_register);
    op->node_id = node;
    op->data_uuid = pb_id(uuid);
    op->replace = replace;
    return cmd;
}

static Kluis__Store__NodeRecord *node_details(uint64_t node, const char *name, const char *region)
{
    Kluis__Store__NodeRecord *d;

    NEW(kluis__store__node_record, d);
    d->node_id = node;
    d->name = text(name);
    d->region = text(region);
    d->client_address = text("host:1");
    d->peer_address = text("host:2");
    return d;
}

Kluis__Log__Command *node_seed(uint64_t node, unsigned uuid, const char *name)
{
    Kluis__Log__Command *cmd = node_register(node, uuid, false);

    cmd->node_register->details = node_details(node, name, "west");
    return cmd;
}

Kluis__Log__Command *node_add(uint64_t node, const char *name, const char *region, bool standby)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__NodeAdd *op;

    COMMAND(cmd, op, NODE_ADD, node_add);
    op->node = node_details(node, name, region);
    op->node->standby = standby;
    return cmd;
}

Kluis__Log__Command *node_mark(uint64_t a, uint64_t b, int mark)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__NodeMark *op;

    COMMAND(cmd, op, NODE_MARK, node_mark);
    op->n_node_ids = b == 0 ? 1 : 2;
    op->node_ids = ring(2 * sizeof *op->node_ids);
    op->node_ids[0] = a;
    op->node_ids[1] = b;
    op->mark = (Kluis__Log__NodeMark__Mark)mark;
    return cmd;
}

Kluis__Log__Command *keyring_put(uint32_t roots, uint32_t expected)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__KeyringPut *op;

    COMMAND(cmd, op, KEYRING_PUT, keyring_put);
    op->expected_roots = expected;
    NEW(kluis__store__keyring_record, op->keyring);
    op->keyring->n_roots = roots;
    op->keyring->roots = ring(roots * sizeof *op->keyring->roots);
    for (uint32_t i = 0; i < roots; i++) {
        NEW(kluis__store__keyring_record__root_key, op->keyring->roots[i]);
        op->keyring->roots[i]->version = i + 1;
        op->keyring->roots[i]->wrapped = pb_text("wrapped root key");
    }
    return cmd;
}

Kluis__Log__Command *vault_claim(const char *name, unsigned id, uint32_t group)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__VaultClaim *op;

    COMMAND(cmd, op, VAULT_CLAIM, vault_claim);
    op->vault = a_vault(name, id);
    op->group = group;
    return cmd;
}

Kluis__Log__Command *vault_confirm(const char *name, unsigned id)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__VaultConfirm *op;

    COMMAND(cmd, op, VAULT_CONFIRM, vault_confirm);
    op->name = text(name);
    op->vault_id = pb_id(id);
    return cmd;
}

Kluis__Log__Command *vault_release(const char *name, unsigned id)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__VaultRelease *op;

    COMMAND(cmd, op, VAULT_RELEASE, vault_release);
    op->name = text(name);
    op->vault_id = pb_id(id);
    return cmd;
}

Kluis__Log__Command *vault_create(const char *name, unsigned id)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__VaultCreate *op;

    COMMAND(cmd, op, VAULT_CREATE, vault_create);
    op->vault = a_vault(name, id);
    return cmd;
}

Kluis__Log__Command *vault_update(const char *name)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__VaultUpdate *op;

    COMMAND(cmd, op, VAULT_UPDATE, vault_update);
    op->name = text(name);
    return cmd;
}

Kluis__Log__Command *vault_delete(const char *name)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__VaultDelete *op;

    COMMAND(cmd, op, VAULT_DELETE, vault_delete);
    op->name = text(name);
    return cmd;
}

Kluis__Log__Command *vault_recover(const char *name)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__VaultRecover *op;

    COMMAND(cmd, op, VAULT_RECOVER, vault_recover);
    op->name = text(name);
    return cmd;
}

Kluis__Log__Command *vault_purge(const char *name)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__VaultPurge *op;

    COMMAND(cmd, op, VAULT_PURGE, vault_purge);
    op->name = text(name);
    return cmd;
}

Kluis__Log__Command *outbox_done(unsigned id)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__OutboxDone *op;

    COMMAND(cmd, op, OUTBOX_DONE, outbox_done);
    op->vault_id = pb_id(id);
    return cmd;
}

Kluis__Log__Command *object_set(const char *vault, unsigned vault_id, const char *name,
                                unsigned object_id, unsigned version_id)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__ObjectSet *op;

    COMMAND(cmd, op, OBJECT_SET, object_set);
    op->kind = KL_KIND_SECRET;
    op->vault = text(vault);
    op->vault_id = pb_id(vault_id);
    op->name = text(name);
    op->object_id = pb_id(object_id);
    op->wrapped_key = pb_text("wrapped object key");
    op->version = a_version(version_id, "sealed payload");
    return cmd;
}

Kluis__Log__Command *object_update(const char *vault, const char *name)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__ObjectUpdate *op;

    COMMAND(cmd, op, OBJECT_UPDATE, object_update);
    op->kind = KL_KIND_SECRET;
    op->vault = text(vault);
    op->name = text(name);
    return cmd;
}

Kluis__Log__Command *object_delete(const char *vault, const char *name)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__ObjectDelete *op;

    COMMAND(cmd, op, OBJECT_DELETE, object_delete);
    op->kind = KL_KIND_SECRET;
    op->vault = text(vault);
    op->name = text(name);
    return cmd;
}

Kluis__Log__Command *object_recover(const char *vault, const char *name)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__ObjectRecover *op;

    COMMAND(cmd, op, OBJECT_RECOVER, object_recover);
    op->kind = KL_KIND_SECRET;
    op->vault = text(vault);
    op->name = text(name);
    return cmd;
}

Kluis__Log__Command *object_purge(const char *vault, const char *name)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__ObjectPurge *op;

    COMMAND(cmd, op, OBJECT_PURGE, object_purge);
    op->kind = KL_KIND_SECRET;
    op->vault = text(vault);
    op->name = text(name);
    return cmd;
}

Kluis__Log__Command *restore_stage(unsigned vault_id, unsigned object_id, unsigned first_version,
                                   size_t versions)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__RestoreStage *op;

    COMMAND(cmd, op, RESTORE_STAGE, restore_stage);
    op->vault_id = pb_id(vault_id);
    op->object_id = pb_id(object_id);
    op->keep_ms = KEEP_MS;
    op->n_versions = versions;
    op->versions = ring(versions * sizeof *op->versions);
    for (size_t i = 0; i < versions; i++) {
        op->versions[i] = a_version(first_version + (unsigned)i, "restored payload");
        op->versions[i]->meta->attributes->created_ms = 77 + i;
        op->versions[i]->meta->attributes->updated_ms = 88 + i;
    }
    return cmd;
}

Kluis__Log__Command *restore_commit(const char *vault, unsigned vault_id, const char *name,
                                    unsigned object_id, unsigned current, uint64_t versions)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__RestoreCommit *op;

    COMMAND(cmd, op, RESTORE_COMMIT, restore_commit);
    op->kind = KL_KIND_SECRET;
    op->vault = text(vault);
    op->vault_id = pb_id(vault_id);
    op->name = text(name);
    NEW(kluis__store__object_record, op->object);
    op->object->object_id = pb_id(object_id);
    op->object->current_version = pb_id(current);
    op->object->wrapped_key = pb_text("wrapped object key");
    op->object->version_count = versions;
    op->object->created_ms = 66;
    return cmd;
}

Kluis__Log__Command *purge_due(uint32_t kind, unsigned vault_id, const char *name,
                               unsigned object_id, uint64_t due_ms)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__PurgeDue *op;

    COMMAND(cmd, op, PURGE_DUE, purge_due);
    op->n_items = 1;
    op->items = ring(sizeof *op->items);
    NEW(kluis__store__purge_record, op->items[0]);
    op->items[0]->kind = kind;
    op->items[0]->vault_id = pb_id(vault_id);
    op->items[0]->name = text(name);
    if (kind != KL_KIND_VAULT) {
        op->items[0]->object_id = pb_id(object_id);
    }
    op->n_due_ms = 1;
    op->due_ms = ring(sizeof *op->due_ms);
    op->due_ms[0] = due_ms;
    return cmd;
}

Kluis__Log__Command *collect(uint64_t not_before_ms, unsigned vault_id, unsigned object_id,
                             uint32_t budget)
{
    Kluis__Log__Command *cmd;
    Kluis__Log__Collect *op;

    COMMAND(cmd, op, COLLECT, collect);
    op->budget = budget;
    op->n_items = 1;
    op->items = ring(sizeof *op->items);
    NEW(kluis__store__garbage_record, op->items[0]);
    op->items[0]->not_before_ms = not_before_ms;
    op->items[0]->vault_id = pb_id(vault_id);
    if (object_id != 0) {
        op->items[0]->object_id = pb_id(object_id);
    }
    return cmd;
}
