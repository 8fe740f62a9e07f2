#include "tests/unit/core/world.h"

#include "common/limits.h"

enum { V = 2, O = 20 }; /* the vault's id and the first object's */

static void fixture(struct world *w)
{
    world_init(w);
    world_group(w);
    CHECK_EQ(world_apply(w, vault_create("vault", V)), KL_OK);
}

static Kluis__Store__ObjectRecord *object(struct world *w, const char *name)
{
    Kluis__Store__ObjectRecord *o = NULL;

    CHECK_OK(kl_core_object(&w->view, id_of(V), KL_KIND_SECRET, name, KL_WANT_ANY, &o));
    return o;
}

static void free_message(void *m)
{
    kl_pb_wipe_free(m, &kl_pb_allocator);
}

static enum kl_status get(struct world *w, const char *name, enum kl_want want)
{
    Kluis__Store__ObjectRecord *o = NULL;
    enum kl_status st = kl_core_object(&w->view, id_of(V), KL_KIND_SECRET, name, want, &o);

    free_message(o);
    return st;
}

static bool same_id(ProtobufCBinaryData a, unsigned n)
{
    return kl_bytes_eq(kl_bytes_of(a.data, a.len), id_of(n));
}

/* The first set makes the object, later ones move current; apply sets the dates. */
TEST(objects, set)
{
    struct world w;
    Kluis__Log__Command *cmd;
    Kluis__Store__ObjectRecord *o;
    Kluis__Store__VersionRecord *v = NULL;

    fixture(&w);
    cmd = object_set("VAULT", V, "Db-Password", O, 30);
    cmd->object_set->version->meta->attributes->created_ms = 1;
    cmd->object_set->version->meta->attributes->updated_ms = 1;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK(same_id(w.result->version->version_id, 30));
    CHECK_EQ(w.result->version->attributes->created_ms, w.now);
    CHECK_EQ(w.result->object->wrapped_key.len, 0);
    CHECK_EQ(w.result->object->version_count, 1);
    CHECK_EQ(w.result->time_ms, w.now);
    w.now += 10;
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db-password", O, 31)), KL_OK);
    CHECK_EQ(w.result->object->version_count, 2);
    o = object(&w, "DB-PASSWORD");
    CHECK(same_id(o->current_version, 31));
    CHECK(same_id(o->object_id, O));
    CHECK_EQ(o->created_ms, w.now - 10);
    CHECK_NE(o->wrapped_key.len, 0);
    free_message(o);
    CHECK_OK(kl_core_version(&w.view, id_of(O), id_of(30), &v)); /* the old one is still there */
    CHECK_EQ(v->meta->attributes->updated_ms, w.now - 10);
    CHECK_EQ(v->sealed.len, strlen("sealed payload"));
    free_message(v);
    CHECK_STATUS(kl_core_version(&w.view, id_of(O), id_of(32), &v), KL_NOT_FOUND);
    world_done(&w);
}

/* A set that was planned on a state that has passed is sent back, and changes nothing. */
TEST(objects, set_changed)
{
    struct world w;
    Kluis__Log__Command *cmd;
    uint8_t before[32];
    uint8_t after[32];

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    world_digest(&w, before);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O + 1, 31)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, object_set("vault", V + 1, "db", O, 31)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_CHANGED);
    cmd = object_set("vault", V, "new", O + 1, 31);
    cmd->object_set->wrapped_key.len = 0; /* planned for an object that was purged meanwhile */
    CHECK_EQ(world_apply(&w, cmd), KL_CHANGED);
    CHECK(w.result->version == NULL && w.result->object == NULL);
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    world_done(&w);
}

/* Each field of a set is checked where it is stored. */
TEST(objects, set_fields)
{
    struct world w;
    uint8_t before[32];
    uint8_t after[32];
    char long_name[129];

    fixture(&w);
    memset(long_name, 'x', 128);
    long_name[128] = 0;
    world_digest(&w, before);
#define REFUSED(change, want, wrong)                                                               \
    do {                                                                                           \
        Kluis__Log__Command *cmd = object_set("vault", V, "db", O, 30);                            \
        Kluis__Log__ObjectSet *op = cmd->object_set;                                               \
                                                                                                   \
        change;                                                                                    \
        CHECK_EQ(world_apply(&w, cmd), want);                                                      \
        CHECK_STR(w.result->field, wrong);                                                         \
    } while (0)
    REFUSED(op->kind = 0, KL_INVALID_ARGUMENT, "kind");
    REFUSED(op->kind = 4, KL_INVALID_ARGUMENT, "kind");
    REFUSED(op->kind = UINT32_MAX, KL_INVALID_ARGUMENT, "kind");
    REFUSED(op->name[0] = 0, KL_INVALID_ARGUMENT, "name");
    REFUSED(op->name[0] = '/', KL_INVALID_ARGUMENT, "name");
    REFUSED(op->name = long_name, KL_INVALID_ARGUMENT, "name");
    REFUSED(op->vault[0] = '1', KL_INVALID_ARGUMENT, "vault");
    REFUSED(op->vault = long_name, KL_INVALID_ARGUMENT, "vault");
    REFUSED(op->vault[0] = 'x', KL_VAULT_NOT_FOUND, "");
    REFUSED(op->vault_id.len = 3, KL_INVALID_ARGUMENT, "vault_id");
    REFUSED(op->object_id.len = 0, KL_INVALID_ARGUMENT, "object_id");
    REFUSED(op->version = NULL, KL_INVALID_ARGUMENT, "version");
    REFUSED(op->version->meta = NULL, KL_INVALID_ARGUMENT, "version");
    REFUSED(op->version->meta->attributes = NULL, KL_INVALID_ARGUMENT, "version");
    REFUSED(op->version->meta->version_id.len = 17 - 2, KL_INVALID_ARGUMENT, "version");
    REFUSED(op->version->sealed.len = 0, KL_INVALID_ARGUMENT, "value");
    REFUSED(op->version->meta->content_type[0] = '\n', KL_INVALID_ARGUMENT, "content_type");
    REFUSED((op->version->meta->attributes->not_before_s = 9,
             op->version->meta->attributes->expires_s = 9),
            KL_INVALID_ARGUMENT, "expires_s");
#undef REFUSED
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    world_done(&w);
}

/* The 127 characters of the longest name fit every key that is made of it. */
TEST(objects, longest_name)
{
    struct world w;
    char name[128];

    fixture(&w);
    memset(name, 'N', 127);
    name[127] = 0;
    CHECK_EQ(world_apply(&w, object_set("vault", V, name, O, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, object_delete("vault", name)), KL_OK);
    w.now = w.result->object->purge_ms;
    CHECK(world_work(&w) > 0);
    CHECK_STATUS(get(&w, name, KL_WANT_ANY), KL_NOT_FOUND);
    world_done(&w);
}

/* KL_VERSIONS_MAX is a limit on the object's own count. */
TEST(objects, versions_max)
{
    struct world w;
    Kluis__Store__ObjectRecord *o;
    struct kl_batch batch;
    struct kl_key key;
    uint8_t *p;
    size_t len;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    o = object(&w, "db");
    o->version_count = KL_VERSIONS_MAX - 1; /* as if that many had been set */
    p = packed_of(&o->base, &len);
    free_message(o);
    kl_batch_init(&batch, 4096);
    key = kl_key_object(id_of(V), KL_KIND_SECRET, "db");
    kl_batch_put(&batch, kl_key_bytes(&key), kl_bytes_of(p, len));
    CHECK_OK(kl_kv_write(w.kv, &batch, false));
    kl_batch_done(&batch);
    kl_free(p);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 31)), KL_OK);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 32)), KL_EXHAUSTED);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    world_done(&w);
}

/* The same name in another kind is another object. */
TEST(objects, kinds_apart)
{
    struct world w;
    Kluis__Log__Command *cmd;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    cmd = object_set("vault", V, "db", O + 1, 30);
    cmd->object_set->kind = KL_KIND_KEY;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    cmd = object_delete("vault", "db");
    cmd->object_delete->kind = KL_KIND_CERTIFICATE;
    CHECK_EQ(world_apply(&w, cmd), KL_NOT_FOUND);
    cmd->object_delete->kind = KL_KIND_KEY;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    world_done(&w);
}

/* An update changes what it names and nothing else, of the version it names. */
TEST(objects, update_merges)
{
    struct world w;
    Kluis__Log__Command *cmd;
    Kluis__Store__VersionRecord *v = NULL;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 31)), KL_OK);
    w.now += 7;
    cmd = object_update("vault", "db");
    cmd->object_update->set_expires = true;
    cmd->object_update->expires_s = 99;
    cmd->object_update->enabled = false; /* not set: not changed */
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK(same_id(w.result->version->version_id, 31));
    CHECK_EQ(w.result->version->attributes->expires_s, 99);
    CHECK(w.result->version->attributes->enabled);
    CHECK_STR(w.result->version->content_type, "text/plain");
    CHECK_EQ(w.result->version->attributes->updated_ms, w.now);
    CHECK_EQ(w.result->version->attributes->created_ms, w.now - 7);
    cmd = object_update("vault", "db");
    cmd->object_update->version_id = pb_id(30);
    cmd->object_update->set_enabled = true;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK(!w.result->version->attributes->enabled);
    CHECK_EQ(w.result->version->attributes->expires_s, 0);
    CHECK(same_id(w.result->object->current_version, 31)); /* current does not move */
    CHECK_OK(kl_core_version(&w.view, id_of(O), id_of(31), &v));
    CHECK(v->meta->attributes->enabled);
    CHECK_EQ(v->sealed.len, strlen("sealed payload"));
    free_message(v);
    world_done(&w);
}

/* Refusals of an update: dates in the wrong order also against what is stored, wrong version. */
TEST(objects, update_refused)
{
    struct world w;
    Kluis__Log__Command *cmd = object_update("vault", "db");
    Kluis__Log__ObjectUpdate *op = cmd->object_update;
    uint8_t before[32];
    uint8_t after[32];

    fixture(&w);
    CHECK_EQ(world_apply(&w, cmd), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    op->set_not_before = true;
    op->not_before_s = 100;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    world_digest(&w, before);
    op->set_not_before = false;
    op->set_expires = true;
    op->expires_s = 100;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_STR(w.result->field, "expires_s");
    op->set_expires = false;
    op->version_id = pb_id(31);
    CHECK_EQ(world_apply(&w, cmd), KL_NOT_FOUND);
    CHECK_STR(w.result->field, "version");
    op->version_id.len = 5;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_STR(w.result->field, "version");
    op->version_id.len = 0;
    op->set_content_type = true;
    op->content_type = op->vault;
    op->content_type[0] = '\t';
    op->vault = object_update("vault", "db")->object_update->vault;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_STR(w.result->field, "content_type");
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    world_done(&w);
}

/* S4, S6, S7: deleted, an object can only be listed, shown, recovered or purged; its name is taken. */
TEST(objects, delete_and_recover)
{
    struct world w;
    uint64_t due;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 31)), KL_OK);
    CHECK_EQ(world_apply(&w, object_recover("vault", "db")), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, object_delete("vault", "DB")), KL_OK);
    due = w.now + 7 * DAY_MS;
    CHECK_EQ(w.result->object->deleted_ms, w.now);
    CHECK_EQ(w.result->object->purge_ms, due);
    CHECK(same_id(w.result->version->version_id, 31));
    CHECK_STATUS(get(&w, "db", KL_WANT_LIVE), KL_NOT_FOUND);
    CHECK_OK(get(&w, "db", KL_WANT_DELETED));
    w.now += 100;
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, object_update("vault", "db")), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 32)), KL_DELETED);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O + 1, 32)), KL_DELETED);
    CHECK_EQ(world_apply(&w, restore_stage(V, O + 1, 40, 1)), KL_OK);
    CHECK_EQ(world_apply(&w, restore_commit("vault", V, "db", O + 1, 40, 1)), KL_DELETED);
    CHECK_EQ(world_apply(&w, object_recover("vault", "db")), KL_OK);
    CHECK(same_id(w.result->version->version_id, 31));
    CHECK_EQ(w.result->object->version_count, 2);
    CHECK_EQ(w.result->object->deleted_ms + w.result->object->purge_ms, 0);
    CHECK_OK(get(&w, "db", KL_WANT_LIVE));
    CHECK_EQ(world_count(&w, 'p') + world_count(&w, 't'), 0);
    w.now = due + 1;
    (void)world_work(&w);
    CHECK_OK(get(&w, "db", KL_WANT_LIVE)); /* the old schedule is void */
    world_done(&w);
}

/* A second delete is refused and leaves the store as it was. */
TEST(objects, delete_twice)
{
    struct world w;
    uint8_t before[32];
    uint8_t after[32];

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", V, "db", O, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_OK);
    world_digest(&w, before);
    w.now += 1000;
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_NOT_FOUND);
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    world_done(&w);
}

/* Commands of one entry see each other: set, delete, recover, set again, all in one. */
TEST(objects, within_one_entry)
{
    struct world w;
    static const enum kl_status want[] = {KL_OK, KL_CHANGED, KL_OK,        KL_DELETED,
                                          KL_OK, KL_OK,      KL_NOT_FOUND, KL_OK};

    fixture(&w);
    world_add(&w, object_set("vault", V, "db", O, 30));
    world_add(&w, object_set("vault", V, "db", O, 30));
    world_add(&w, object_delete("vault", "db"));
    world_add(&w, object_set("vault", V, "db", O, 31));
    world_add(&w, object_recover("vault", "db"));
    world_add(&w, object_set("vault", V, "db", O, 31));
    world_add(&w, object_purge("vault", "db"));
    world_add(&w, object_delete("vault", "db"));
    world_commit(&w);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        CHECK_EQ(world_result(&w, i), want[i]);
    }
    CHECK_EQ(world_count(&w, 'o'), 2);
    CHECK_EQ(world_count(&w, 'p'), 1);
    CHECK_OK(get(&w, "db", KL_WANT_DELETED));
    world_done(&w);
}

struct listing {
    char text[512];
    unsigned max;
};

static bool add_object(void *arg, const char *name, const Kluis__Store__ObjectRecord *o)
{
    struct listing *l = arg;
    size_t n = strlen(l->text);

    CHECK_NE(o->version_count, 0);
    (void)snprintf(l->text + n, sizeof l->text - n, "%s ", name);
    return --l->max > 0;
}

static const char *listed(struct world *w, enum kl_want want, const char *after, unsigned max)
{
    static struct listing l;

    l = (struct listing){.max = max};
    CHECK_OK(kl_core_objects(&w->view, id_of(V), KL_KIND_SECRET, want, after, add_object, &l));
    return l.text;
}

static bool add_version(void *arg, const Kluis__Store__VersionRecord *v)
{
    struct kl_buf *seen = arg;

    CHECK_OK(kl_buf_put(seen, v->meta->version_id.data, KL_ID_LEN));
    return seen->len < 3 * KL_ID_LEN;
}

/* Lists of objects and versions stay inside their vault, kind and object, in order, page by page. */
TEST(objects, lists)
{
    struct world w;
    struct kl_buf seen = KL_BUF(4096);
    Kluis__Log__Command *other = object_set("vault", V, "b-key", O + 9, 39);

    fixture(&w);
    CHECK_EQ(world_apply(&w, vault_create("another", V + 1)), KL_OK);
    CHECK_EQ(world_apply(&w, object_set("another", V + 1, "alien", O + 8, 38)), KL_OK);
    other->object_set->kind = KL_KIND_KEY;
    CHECK_EQ(world_apply(&w, other), KL_OK);
    for (unsigned i = 0; i < 5; i++) {
        char name[2] = {(char)("dacbe"[i]), 0};

        CHECK_EQ(world_apply(&w, object_set("vault", V, name, O + i, 30 + i)), KL_OK);
    }
    CHECK_EQ(world_apply(&w, object_delete("vault", "b")), KL_OK);
    CHECK_EQ(world_apply(&w, object_delete("vault", "d")), KL_OK);
    CHECK_STR(listed(&w, KL_WANT_LIVE, "", 9), "a c e ");
    CHECK_STR(listed(&w, KL_WANT_LIVE, "", 2), "a c ");
    CHECK_STR(listed(&w, KL_WANT_LIVE, "B", 9), "c e ");
    CHECK_STR(listed(&w, KL_WANT_DELETED, "", 9), "b d ");
    CHECK_STR(listed(&w, KL_WANT_DELETED, "b", 9), "d ");
    CHECK_STATUS(
        kl_core_objects(&w.view, id_of(V), KL_KIND_SECRET, KL_WANT_LIVE, "a/b", add_object, NULL),
        KL_INVALID_ARGUMENT);
    for (unsigned i = 0; i < 4; i++) {
        CHECK_EQ(world_apply(&w, object_set("vault", V, "a", O + 1, 50 + i)), KL_OK);
    }
    CHECK_OK(
        kl_core_versions(&w.view, id_of(O + 1), (struct kl_bytes){NULL, 0}, add_version, &seen));
    CHECK_EQ(seen.len, 3 * KL_ID_LEN);
    CHECK(memcmp(seen.ptr, seen.ptr + KL_ID_LEN, KL_ID_LEN) < 0);
    {
        uint8_t last[KL_ID_LEN];

        memcpy(last, seen.ptr + 2 * KL_ID_LEN, KL_ID_LEN);
        kl_buf_clear(&seen);
        CHECK_OK(kl_core_versions(&w.view, id_of(O + 1), kl_bytes_of(last, sizeof last),
                                  add_version, &seen));
        CHECK_EQ(seen.len, 2 * KL_ID_LEN);
        CHECK(memcmp(last, seen.ptr, KL_ID_LEN) < 0);
    }
    kl_buf_wipe(&seen);
    world_done(&w);
}
