/*
 * A stored record with any content, under each kind of key (the input's first byte): queries and
 * commands that meet it say KL_CORRUPT, or take it for what it says. They never crash: a damaged
 * store must stop a node with a message.
 */
#include "tests/fuzz/seeded.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct kl_bytes id(uint8_t c)
{
    return kl_bytes_of(seeded_id(c).data, KL_ID_LEN);
}

enum { FAMILIES = 18 };

static struct kl_key key_of(uint8_t which)
{
    switch (which % FAMILIES) {
    case 0:
        return kl_key_applied();
    case 1:
        return kl_key_group();
    case 2:
        return kl_key_request(id('r'));
    case 3:
        return kl_key_expiry(5, 5);
    case 4:
        return kl_key_claim("vault");
    case 5:
        return kl_key_pending(id('v'));
    case 6:
        return kl_key_keyring();
    case 7:
        return kl_key_node(3);
    case 8:
        return kl_key_vault("vault");
    case 9:
        return kl_key_vault("other");
    case 10:
        return kl_key_outbox(id('v'));
    case 11:
        return kl_key_object(id('v'), KL_KIND_SECRET, "live");
    case 12:
        return kl_key_object(id('v'), KL_KIND_SECRET, "gone");
    case 13:
        return kl_key_version(id('g'), id('2'));
    case 14:
        return kl_key_purge(SEEDED_TIME_MS + 1, id('v'), KL_KIND_SECRET, "gone");
    case 15:
        return kl_key_garbage(SEEDED_TIME_MS + 1, id('v'), id('l'));
    case 16:
        return kl_key_staged(id('l'));
    default:
        return kl_key_object_deleted(id('v'), KL_KIND_SECRET, "live");
    }
}

/* What a damaged record may lead to. */
static void fair(enum kl_status st)
{
    seeded_must(st == KL_OK || st == KL_CORRUPT || st == KL_NOT_FOUND || st == KL_VAULT_NOT_FOUND ||
                st == KL_TOO_LARGE);
}

static void drop(void *message)
{
    kl_pb_wipe_free(message, &kl_pb_allocator);
}

static bool any_object(void *arg, const char *name, const Kluis__Store__ObjectRecord *o)
{
    size_t *n = arg;

    *n += strlen(name) + o->object_id.len;
    return true;
}

static bool any_vault(void *arg, const Kluis__Store__VaultRecord *v)
{
    return any_object(arg, v->name, &(Kluis__Store__ObjectRecord){.object_id = v->vault_id});
}

static bool any_version(void *arg, const Kluis__Store__VersionRecord *v)
{
    *(size_t *)arg += v->meta->version_id.len + (size_t)v->meta->attributes->enabled;
    return true;
}

static bool any_claim(void *arg, const Kluis__Store__ClaimRecord *c)
{
    *(size_t *)arg += strlen(c->name);
    return true;
}

static bool any_outbox(void *arg, const Kluis__Store__OutboxRecord *o)
{
    *(size_t *)arg += strlen(o->name);
    return true;
}

static void ask_singles(const struct kl_view *v)
{
    Kluis__Store__AppliedRecord *applied = NULL;
    Kluis__Store__GroupRecord *group = NULL;
    Kluis__Store__KeyringRecord *ring = NULL;
    Kluis__Store__NodeRecord *node = NULL;
    Kluis__Store__ClaimRecord *claim = NULL;
    Kluis__Store__VaultRecord *vault = NULL;
    Kluis__Store__ObjectRecord *object = NULL;
    Kluis__Store__VersionRecord *version = NULL;
    Kluis__Store__RequestRecord *request = NULL;

    fair(kl_core_applied(v, &applied));
    fair(kl_core_group(v, &group));
    fair(kl_core_keyring(v, &ring));
    fair(kl_core_node(v, 3, &node));
    fair(kl_core_claim(v, "vault", &claim));
    fair(kl_core_vault(v, "vault", KL_WANT_ANY, &vault));
    fair(kl_core_object(v, id('v'), KL_KIND_SECRET, "gone", KL_WANT_DELETED, &object));
    fair(kl_core_version(v, id('g'), id('2'), &version));
    fair(kl_core_request(v, id('r'), &request));
    drop(applied);
    drop(group);
    drop(ring);
    drop(node);
    drop(claim);
    drop(vault);
    drop(object);
    drop(version);
    drop(request);
}

static void ask_lists(const struct kl_view *v)
{
    size_t n = 0;

    for (int want = KL_WANT_LIVE; want <= KL_WANT_DELETED; want++) {
        fair(kl_core_vaults(v, (enum kl_want)want, "", any_vault, &n));
        fair(kl_core_objects(v, id('v'), KL_KIND_SECRET, (enum kl_want)want, "", any_object, &n));
    }
    fair(kl_core_versions(v, id('g'), (struct kl_bytes){NULL, 0}, any_version, &n));
    fair(kl_core_pending_claims(v, any_claim, &n));
    fair(kl_core_outbox(v, any_outbox, &n));
}

static void act(struct seeded *s, Kluis__Log__Command *cmd)
{
    struct kl_buf packed = KL_BUF(KL_COMMAND_MAX);
    uint8_t *p = NULL;

    seeded_must(kl_buf_grow(&packed, kluis__log__command__get_packed_size(cmd), &p) == KL_OK);
    (void)kluis__log__command__pack(cmd, p);
    fair(seeded_command(s, SEEDED_TIME_MS + 10, kl_buf_bytes(&packed)));
    kl_buf_wipe(&packed);
}

#define ACT(s, OP, member, value)                                                                  \
    do {                                                                                           \
        Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;                                       \
                                                                                                   \
        cmd.op_case = KLUIS__LOG__COMMAND__OP_##OP;                                                \
        cmd.member = (value);                                                                      \
        cmd.request_id = seeded_id('r');                                                           \
        act((s), &cmd);                                                                            \
        cmd.request_id.len = 0;                                                                    \
        act((s), &cmd);                                                                            \
    } while (0)

static void act_on_objects(struct seeded *s)
{
    static char vault[] = "vault";
    static char live[] = "live";
    static char gone[] = "gone";
    Kluis__Log__ObjectUpdate update = KLUIS__LOG__OBJECT_UPDATE__INIT;
    Kluis__Log__ObjectRecover recover = KLUIS__LOG__OBJECT_RECOVER__INIT;
    Kluis__Log__ObjectDelete delete = KLUIS__LOG__OBJECT_DELETE__INIT;
    Kluis__Log__ObjectPurge purge = KLUIS__LOG__OBJECT_PURGE__INIT;

    update.kind = recover.kind = delete.kind = purge.kind = KL_KIND_SECRET;
    update.vault = recover.vault = delete.vault = purge.vault = vault;
    recover.name = gone;
    update.name = delete.name = live;
    purge.name = live;
    ACT(s, OBJECT_RECOVER, object_recover, &recover);
    ACT(s, OBJECT_UPDATE, object_update, &update);
    update.name = gone;
    ACT(s, OBJECT_UPDATE, object_update, &update);
    ACT(s, OBJECT_DELETE, object_delete, &delete);
    ACT(s, OBJECT_PURGE, object_purge, &purge);
}

static void act_on_vaults(struct seeded *s)
{
    static char vault[] = "vault";
    static char other[] = "other";
    Kluis__Log__VaultRecover recover = KLUIS__LOG__VAULT_RECOVER__INIT;
    Kluis__Log__VaultUpdate update = KLUIS__LOG__VAULT_UPDATE__INIT;
    Kluis__Log__VaultDelete delete = KLUIS__LOG__VAULT_DELETE__INIT;
    Kluis__Log__VaultPurge purge = KLUIS__LOG__VAULT_PURGE__INIT;
    Kluis__Log__VaultConfirm confirm = KLUIS__LOG__VAULT_CONFIRM__INIT;
    Kluis__Log__VaultRelease release = KLUIS__LOG__VAULT_RELEASE__INIT;

    recover.name = other;
    update.name = delete.name = purge.name = confirm.name = release.name = vault;
    confirm.vault_id = release.vault_id = seeded_id('v');
    ACT(s, VAULT_CONFIRM, vault_confirm, &confirm);
    ACT(s, VAULT_RELEASE, vault_release, &release);
    ACT(s, VAULT_RECOVER, vault_recover, &recover);
    ACT(s, VAULT_UPDATE, vault_update, &update);
    ACT(s, VAULT_DELETE, vault_delete, &delete);
    ACT(s, VAULT_PURGE, vault_purge, &purge);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seeded *s = seeded();
    struct kl_batch batch;
    struct kl_key key;

    if (size == 0 || size > KL_RECORD_MAX) {
        return 0;
    }
    key = key_of(data[0]);
    kl_batch_init(&batch, KL_BATCH_MAX);
    kl_batch_put(&batch, kl_key_bytes(&key), kl_bytes_of(data + 1, size - 1));
    seeded_must(kl_kv_write(s->kv, &batch, false) == KL_OK);
    kl_batch_done(&batch);
    ask_singles(&s->view);
    ask_lists(&s->view);
    act_on_objects(s);
    act_on_vaults(s);
    ask_lists(&s->view);
    fair(seeded_work(s, SEEDED_TIME_MS + 8000));
    fair(seeded_work(s, UINT64_MAX / 2));
    return 0;
}
