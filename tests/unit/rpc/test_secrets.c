/* Secrets: every method but backup and restore, with good and bad input, through the dispatcher. */
#include "server/core/keys.h"
#include "tests/unit/rpc/fixture.h"

#define SET           "/kluis.v1.Secrets/Set"
#define GET           "/kluis.v1.Secrets/Get"
#define LIST          "/kluis.v1.Secrets/List"
#define LIST_VERSIONS "/kluis.v1.Secrets/ListVersions"
#define UPDATE        "/kluis.v1.Secrets/Update"
#define DELETE        "/kluis.v1.Secrets/Delete"
#define GET_DELETED   "/kluis.v1.Secrets/GetDeleted"
#define LIST_DELETED  "/kluis.v1.Secrets/ListDeleted"
#define RECOVER       "/kluis.v1.Secrets/Recover"
#define PURGE         "/kluis.v1.Secrets/Purge"

#define TEXT(s) ((char *)(uintptr_t)(s))

static struct fix *with_vault(void)
{
    struct fix *f = fix_new(1);

    make_vault(f, "vault", false);
    return f;
}

static Kluis__V1__SecretSetRequest set_request(const char *name, const char *value)
{
    Kluis__V1__SecretSetRequest req = KLUIS__V1__SECRET_SET_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT(name);
    req.value = (ProtobufCBinaryData){strlen(value), (uint8_t *)(uintptr_t)value};
    return req;
}

/* ---- set and get ---- */

/* What was set is read: value, type, tags, dates; the answer to set has no value. */
TEST(secret_set, round_trip)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretSetRequest req = set_request("Db-Password", "");
    Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    Kluis__V1__Tag tag = KLUIS__V1__TAG__INIT;
    Kluis__V1__Tag *tags[1] = {&tag};
    const Kluis__V1__Secret *s, *g;
    struct answer a, b;

    req.value = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "a\0b\xff\n"};
    req.content_type = TEXT("text/plain");
    tag.key = TEXT("env");
    tag.value = TEXT("prod");
    req.tags = tags;
    req.n_tags = 1;
    req.not_before_s = 1000;
    req.expires_s = 2000; /* long ago: that is only information */
    a = call(f, SET, &req.base);
    CHECK_OK(a.st);
    s = ((Kluis__V1__SecretSetResponse *)a.response)->secret;
    CHECK_STR(s->vault, "vault");
    CHECK_STR(s->name, "Db-Password");
    CHECK_EQ(strlen(s->version), 32);
    CHECK_EQ(s->value.len, 0);
    CHECK(s->attributes->enabled);
    CHECK_EQ(s->attributes->recoverable_days, 90);
    CHECK_STR(s->attributes->recovery_level, "Recoverable+Purgeable");
    get.vault = TEXT("VAULT");
    get.name = TEXT("db-password");
    b = call(f, GET, &get.base);
    CHECK_OK(b.st);
    g = ((Kluis__V1__SecretGetResponse *)b.response)->secret;
    CHECK_STR(g->version, s->version);
    CHECK_EQ(g->value.len, 5);
    CHECK_MEM(g->value.data, "a\0b\xff\n", 5);
    CHECK_STR(g->content_type, "text/plain");
    CHECK_STR(g->tags[0]->value, "prod");
    CHECK_EQ(g->attributes->not_before_s, 1000);
    CHECK_EQ(g->attributes->expires_s, 2000);
    CHECK(g->attributes->created_ms != 0);
    answer_free(&a);
    answer_free(&b);
    fix_free(f);
}

/* The largest value is kept, one byte more is refused; an empty one is a value. */
TEST(secret_set, sizes)
{
    struct fix *f = with_vault();
    static char big[KL_SECRET_VALUE_MAX + 1], back[KL_SECRET_VALUE_MAX + 1];
    Kluis__V1__SecretSetRequest req = set_request("big", "");

    memset(big, 'x', sizeof big);
    req.value = (ProtobufCBinaryData){sizeof big, (uint8_t *)big};
    check_call(f, SET, &req.base, KL_TOO_LARGE, "value", "25600");
    CHECK_STATUS(get_secret(f, "vault", "big", "", back, sizeof back), KL_NOT_FOUND);
    req.value.len = KL_SECRET_VALUE_MAX;
    check_call(f, SET, &req.base, KL_OK, NULL, NULL);
    CHECK_OK(get_secret(f, "vault", "big", "", back, sizeof back));
    CHECK_MEM(back, big, KL_SECRET_VALUE_MAX);
    set_secret(f, "vault", "empty", "", NULL);
    CHECK_OK(get_secret(f, "vault", "empty", "", back, sizeof back));
    CHECK_STR(back, "");
    fix_free(f);
}

/* Each bad field is named with its limit, and nothing is proposed. */
TEST(secret_set, bad_fields)
{
    struct fix *f = with_vault();
    static char name128[129], type256[257];
    const char *const names[] = {"", "a/b", "a b", "a_b", "a.b", "\xc3\xa9", name128};
    Kluis__V1__SecretSetRequest req;
    uint64_t before;

    memset(name128, 'n', 128);
    memset(type256, 't', 256);
    before = fake_store_index(f->stores[1]);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        req = set_request(names[i], "v");
        check_call(f, SET, &req.base, KL_INVALID_ARGUMENT, "name", "1 to 127");
    }
    req = set_request("s", "v");
    req.vault = TEXT("a b");
    check_call(f, SET, &req.base, KL_INVALID_ARGUMENT, "vault", "3 to 24");
    req = set_request("s", "v");
    req.vault = TEXT("unknown");
    check_call(f, SET, &req.base, KL_VAULT_NOT_FOUND, "vault", "no vault");
    req = set_request("s", "v");
    req.content_type = type256;
    check_call(f, SET, &req.base, KL_TOO_LARGE, "content_type", "255");
    req.content_type = TEXT("\xff\xfe");
    check_call(f, SET, &req.base, KL_INVALID_ARGUMENT, "content_type", "UTF-8");
    req = set_request("s", "v");
    req.not_before_s = 2000;
    req.expires_s = 2000;
    check_call(f, SET, &req.base, KL_INVALID_ARGUMENT, "expires_s", "later than");
    req.expires_s = UINT64_MAX;
    check_call(f, SET, &req.base, KL_INVALID_ARGUMENT, "expires_s", "Unix seconds");
    req.expires_s = 0;
    req.not_before_s = UINT64_MAX;
    check_call(f, SET, &req.base, KL_INVALID_ARGUMENT, "not_before_s", "Unix seconds");
    CHECK_EQ(fake_store_index(f->stores[1]), before);
    name128[127] = 0;
    type256[255] = 0;
    req = set_request(name128, "v");
    req.content_type = type256;
    check_call(f, SET, &req.base, KL_OK, NULL, NULL);
    fix_free(f);
}

/* A zero byte inside a name is refused, not cut off. */
TEST(secret_set, zero_byte_in_name)
{
    struct fix *f = with_vault();
    static const char packed[] = "\x0a\x05vault\x12\x03"
                                 "a\0b\x1a\x01v";
    struct ask ask = {.method = SET, .payload = kl_bytes_of(packed, sizeof packed - 1)};
    struct answer a = fix_ask(f, &ask);
    char value[8];

    CHECK_STATUS(a.st, KL_INVALID_ARGUMENT);
    CHECK_STR(a.reply->fields[0]->field, "name");
    answer_free(&a);
    CHECK_STATUS(get_secret(f, "vault", "a", "", value, sizeof value), KL_NOT_FOUND);
    fix_free(f);
}

/* Every set is a version; each can be read by its id, the last without. */
TEST(secret_set, versions)
{
    struct fix *f = with_vault();
    char ids[5][33];
    char value[32], expected[32];

    for (int i = 0; i < 5; i++) {
        (void)snprintf(value, sizeof value, "value %d", i);
        set_secret(f, "vault", "many", value, ids[i]);
    }
    for (int i = 0; i < 5; i++) {
        (void)snprintf(expected, sizeof expected, "value %d", i);
        CHECK_OK(get_secret(f, "vault", "many", ids[i], value, sizeof value));
        CHECK_STR(value, expected);
    }
    CHECK_OK(get_secret(f, "vault", "many", "", value, sizeof value));
    CHECK_STR(value, "value 4");
    fix_free(f);
}

/* The same request id sets once, also when the value differs the second time. */
TEST(secret_set, exactly_once)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretSetRequest req = set_request("once", "first");
    const uint8_t id[KL_ID_LEN] = {0xb0};
    const struct ask ask = {.method = SET, .request = &req.base, .request_id = id};
    struct answer a = fix_ask(f, &ask);
    struct answer b;
    char value[32];

    CHECK_OK(a.st);
    req = set_request("once", "second");
    b = fix_ask(f, &ask);
    CHECK_OK(b.st);
    CHECK_STR(((Kluis__V1__SecretSetResponse *)a.response)->secret->version,
              ((Kluis__V1__SecretSetResponse *)b.response)->secret->version);
    CHECK_OK(get_secret(f, "vault", "once", "", value, sizeof value));
    CHECK_STR(value, "first");
    answer_free(&b);
    CHECK_OK(delete_secret(f, "vault", "once"));
    b = fix_ask(f, &ask); /* what was done stays done, whatever became of it */
    CHECK_OK(b.st);
    CHECK_STR(((Kluis__V1__SecretSetResponse *)a.response)->secret->version,
              ((Kluis__V1__SecretSetResponse *)b.response)->secret->version);
    answer_free(&a);
    answer_free(&b);
    fix_free(f);
}

struct meddling {
    struct fix *f;
    struct kl_keyring *ring;
    unsigned times;
};

/* Deletes and purges the object, or makes one, under the plan's feet. */
static void meddle(void *arg)
{
    struct meddling *m = arg;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectDelete del = KLUIS__LOG__OBJECT_DELETE__INIT;
    Kluis__Log__ObjectPurge purge = KLUIS__LOG__OBJECT_PURGE__INIT;

    del.kind = purge.kind = KL_KIND_SECRET;
    del.vault = purge.vault = TEXT("vault");
    del.name = purge.name = TEXT("moving");
    command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_DELETE;
    command.object_delete = &del;
    (void)fake_store_apply(m->f->stores[1], &command);
    command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_PURGE;
    command.object_purge = &purge;
    (void)fake_store_apply(m->f->stores[1], &command);
}

/* The object was purged between plan and apply: planned again under the same id, set once. */
TEST(secret_set, changed_meanwhile)
{
    struct fix *f = with_vault();
    struct meddling m = {.f = f};
    char value[32];

    set_secret(f, "vault", "moving", "old", NULL);
    fake_store_before(f->stores[1], meddle, &m);
    set_secret(f, "vault", "moving", "new", NULL);
    CHECK_OK(get_secret(f, "vault", "moving", "", value, sizeof value));
    CHECK_STR(value, "new");
    fix_free(f);
}

/* Makes another object under the name, with a key that opens. */
static void make_another(struct meddling *m)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__ObjectSet set = KLUIS__LOG__OBJECT_SET__INIT;
    Kluis__Store__VersionRecord version = KLUIS__STORE__VERSION_RECORD__INIT;
    Kluis__Store__VersionMeta meta = KLUIS__STORE__VERSION_META__INIT;
    Kluis__Store__Attributes attributes = KLUIS__STORE__ATTRIBUTES__INIT;
    Kluis__Store__VaultRecord *vault = NULL;
    struct kl_kv_view kv_view = {fake_store_kv(m->f->stores[1]), NULL};
    struct kl_view view = kl_kv_view(&kv_view);
    struct kl_buf wrapped = KL_BUF(KL_RECORD_MAX);
    uint8_t id[KL_ID_LEN] = {1};
    struct kl_identity identity = {.object_id = {id, KL_ID_LEN}, .kind = KL_KIND_SECRET};

    if (kl_core_vault(&view, "vault", KL_WANT_ANY, &vault) != KL_OK) {
        return;
    }
    kl_put_be64(id + 8, m->times);
    identity.vault_id = kl_bytes_of(vault->vault_id.data, vault->vault_id.len);
    if (kl_object_key_new(m->ring, &identity,
                          kl_bytes_of(vault->wrapped_key.data, vault->wrapped_key.len),
                          &wrapped) == KL_OK) {
        set.kind = KL_KIND_SECRET;
        set.vault = TEXT("vault");
        set.name = TEXT("moving");
        set.vault_id = vault->vault_id;
        set.object_id = meta.version_id = (ProtobufCBinaryData){KL_ID_LEN, id};
        set.wrapped_key = (ProtobufCBinaryData){wrapped.len, wrapped.ptr};
        meta.attributes = &attributes;
        version.meta = &meta;
        version.sealed = set.wrapped_key;
        set.version = &version;
        command.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_SET;
        command.object_set = &set;
        (void)fake_store_apply(m->f->stores[1], &command);
    }
    kl_buf_wipe(&wrapped);
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
}

static void meddle_always(void *arg)
{
    struct meddling *m = arg;

    meddle(arg);
    m->times++;
    make_another(m);
    fake_store_before(m->f->stores[1], meddle_always, m);
}

/* It changes again and again: after so many plans the caller is told, and may try again. */
TEST(secret_set, changed_for_ever)
{
    struct fix *f = with_vault();
    struct meddling m = {.f = f};
    Kluis__V1__SecretSetRequest req = set_request("moving", "new");

    CHECK_OK(kl_keyring_open(f->seal, &kl_real_entropy, f->keyring, &m.ring));
    fake_store_before(f->stores[1], meddle_always, &m);
    check_call(f, SET, &req.base, KL_CHANGED, NULL, NULL);
    CHECK_EQ(m.times, KL_REPLANS_MAX + 1);
    fake_store_before(f->stores[1], NULL, NULL);
    kl_keyring_free(m.ring);
    fix_free(f);
}

/* A deleted secret keeps its name. */
TEST(secret_set, deleted)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretSetRequest req = set_request("gone", "v");

    set_secret(f, "vault", "gone", "v", NULL);
    CHECK_OK(delete_secret(f, "vault", "gone"));
    check_call(f, SET, &req.base, KL_DELETED, "name", "recover or purge");
    fix_free(f);
}

/* What is not there, by name, by version, and what a version may look like. */
TEST(secret_get, not_there)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretGetRequest req = KLUIS__V1__SECRET_GET_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT("none");
    check_call(f, GET, &req.base, KL_NOT_FOUND, "name", "no secret");
    set_secret(f, "vault", "some", "v", NULL);
    req.name = TEXT("some");
    req.version = TEXT("0123456789abcdef0123456789abcdef");
    check_call(f, GET, &req.base, KL_NOT_FOUND, "version", "no such version");
    req.version = TEXT("0123");
    check_call(f, GET, &req.base, KL_INVALID_ARGUMENT, "version", "32 hex digits");
    req.version = TEXT("0123456789abcdef0123456789abcdeg");
    check_call(f, GET, &req.base, KL_INVALID_ARGUMENT, "version", "32 hex digits");
    req.version = TEXT("");
    req.name = TEXT("a/b");
    check_call(f, GET, &req.base, KL_INVALID_ARGUMENT, "name", "1 to 127");
    req.vault = TEXT("other");
    req.name = TEXT("some");
    check_call(f, GET, &req.base, KL_VAULT_NOT_FOUND, "vault", "no vault");
    fix_free(f);
}

/* A disabled version is not read, others are. */
TEST(secret_get, disabled)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretSetRequest req = set_request("off", "hidden");
    Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    char first[33];
    char value[32];

    set_secret(f, "vault", "off", "shown", first);
    req.disabled = true;
    check_call(f, SET, &req.base, KL_OK, NULL, NULL);
    get.vault = TEXT("vault");
    get.name = TEXT("off");
    check_call(f, GET, &get.base, KL_DISABLED, NULL, NULL);
    CHECK_OK(get_secret(f, "vault", "off", first, value, sizeof value));
    fix_free(f);
}

/* ---- lists ---- */

static size_t list_all(struct fix *f, const char *method, uint32_t page_size, bool *seen,
                       size_t max)
{
    Kluis__V1__SecretListRequest req = KLUIS__V1__SECRET_LIST_REQUEST__INIT;
    char token[KL_PAGE_TOKEN_MAX + 1] = "";
    size_t n = 0;

    req.vault = TEXT("vault");
    req.page_size = page_size;
    do {
        struct answer a;
        const Kluis__V1__SecretListResponse *r;

        req.page_token = token;
        a = call(f, method, &req.base);
        CHECK_OK(a.st);
        r = (const void *)a.response;
        CHECK(r->n_secrets <= (page_size == 0 ? 25 : page_size));
        for (size_t i = 0; i < r->n_secrets; i++, n++) {
            const Kluis__V1__Secret *s = r->secrets[i];
            size_t k = (size_t)(s->name[1] - '0') * 10 + (size_t)(s->name[2] - '0');

            CHECK(k < max && !seen[k]);
            seen[k] = true;
            CHECK_EQ(s->value.len, 0);
            CHECK_EQ(strlen(s->version), 32);
            CHECK_EQ(s->attributes->recoverable_days, 90);
            CHECK_EQ(s->deleted_ms != 0, strcmp(method, LIST_DELETED) == 0);
        }
        (void)snprintf(token, sizeof token, "%s", r->next_page_token);
        answer_free(&a);
    } while (token[0] != 0);
    return n;
}

/* Pages of any size show each secret once, with the attributes of its current version. */
TEST(secret_list, pages)
{
    enum { N = 40 };
    struct fix *f = with_vault();
    char name[8];

    for (int i = 0; i < N; i++) {
        (void)snprintf(name, sizeof name, "S%02d", i);
        set_secret(f, "vault", name, "v", NULL);
    }
    CHECK_OK(delete_secret(f, "vault", "s07"));
    for (uint32_t size = 0; size <= 100; size += size < 8 ? 1 : 31) {
        bool live[N] = {false};
        bool deleted[N] = {false};

        CHECK_EQ(list_all(f, LIST, size, live, N), N - 1);
        CHECK(!live[7]);
        CHECK_EQ(list_all(f, LIST_DELETED, size, deleted, N), 1);
        CHECK(deleted[7]);
    }
    fix_free(f);
}

/* A list goes on while secrets come and go; a token belongs to one list of one vault. */
TEST(secret_list, tokens)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretListRequest req = KLUIS__V1__SECRET_LIST_REQUEST__INIT;
    struct answer a, b;

    make_vault(f, "other", false);
    set_secret(f, "vault", "a", "v", NULL);
    set_secret(f, "vault", "b", "v", NULL);
    set_secret(f, "vault", "c", "v", NULL);
    req.vault = TEXT("vault");
    req.page_size = 2;
    a = call(f, LIST, &req.base);
    CHECK_OK(a.st);
    CHECK_OK(delete_secret(f, "vault", "b"));
    req.page_token = ((Kluis__V1__SecretListResponse *)a.response)->next_page_token;
    b = call(f, LIST, &req.base);
    CHECK_OK(b.st);
    CHECK_EQ(((Kluis__V1__SecretListResponse *)b.response)->n_secrets, 1);
    CHECK_STR(((Kluis__V1__SecretListResponse *)b.response)->secrets[0]->name, "c");
    answer_free(&b);
    check_call(f, LIST_DELETED, &req.base, KL_INVALID_ARGUMENT, "page_token", "this list");
    req.vault = TEXT("other");
    check_call(f, LIST, &req.base, KL_INVALID_ARGUMENT, "page_token", "this list");
    req.page_token = TEXT("00");
    check_call(f, LIST, &req.base, KL_INVALID_ARGUMENT, "page_token", "this list");
    req.page_token = TEXT("");
    req.page_size = 1000;
    check_call(f, LIST, &req.base, KL_INVALID_ARGUMENT, "page_size", "1 to 100");
    req.page_size = 0;
    req.vault = TEXT("none");
    check_call(f, LIST, &req.base, KL_VAULT_NOT_FOUND, "vault", "no vault");
    answer_free(&a);
    fix_free(f);
}

/* All versions of a secret, each once, in pages. */
TEST(secret_list_versions, pages)
{
    enum { N = 12 };
    struct fix *f = with_vault();
    Kluis__V1__SecretListVersionsRequest req = KLUIS__V1__SECRET_LIST_VERSIONS_REQUEST__INIT;
    char ids[N][33];

    for (int i = 0; i < N; i++) {
        set_secret(f, "vault", "many", "v", ids[i]);
    }
    set_secret(f, "vault", "other", "v", NULL);
    req.vault = TEXT("vault");
    req.name = TEXT("many");
    for (req.page_size = 1; req.page_size < 14; req.page_size++) {
        char token[KL_PAGE_TOKEN_MAX + 1] = "";
        size_t found = 0;
        size_t n = 0;

        do {
            struct answer a;
            const Kluis__V1__SecretListVersionsResponse *r;

            req.page_token = token;
            a = call(f, LIST_VERSIONS, &req.base);
            CHECK_OK(a.st);
            r = (const void *)a.response;
            n += r->n_secrets;
            for (size_t i = 0; i < r->n_secrets; i++) {
                CHECK_EQ(r->secrets[i]->value.len, 0);
                for (int k = 0; k < N; k++) {
                    found += strcmp(ids[k], r->secrets[i]->version) == 0;
                }
            }
            (void)snprintf(token, sizeof token, "%s", r->next_page_token);
            answer_free(&a);
        } while (token[0] != 0);
        CHECK_EQ(n, N);
        CHECK_EQ(found, N);
    }
    req.page_size = 0;
    req.page_token = TEXT("");
    req.name = TEXT("none");
    check_call(f, LIST_VERSIONS, &req.base, KL_NOT_FOUND, "name", "no secret");
    req.name = TEXT("");
    check_call(f, LIST_VERSIONS, &req.base, KL_INVALID_ARGUMENT, "name", "1 to 127");
    fix_free(f);
}

/* ---- update ---- */

/* What is set changes, the rest stays, and the value is untouched. */
TEST(secret_update, attributes)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretUpdateRequest req = KLUIS__V1__SECRET_UPDATE_REQUEST__INIT;
    const Kluis__V1__Secret *s;
    struct answer a;
    char value[32], first[33];

    set_secret(f, "vault", "u", "one", first);
    set_secret(f, "vault", "u", "two", NULL);
    req.vault = TEXT("vault");
    req.name = TEXT("u");
    req.version = first;
    req.set_enabled = true;
    req.enabled = false;
    req.set_content_type = true;
    req.content_type = TEXT("x/y");
    req.set_not_before = true;
    req.not_before_s = 100;
    a = call(f, UPDATE, &req.base);
    CHECK_OK(a.st);
    s = ((Kluis__V1__SecretUpdateResponse *)a.response)->secret;
    CHECK_STR(s->version, first);
    CHECK(!s->attributes->enabled);
    CHECK_STR(s->content_type, "x/y");
    CHECK_EQ(s->attributes->not_before_s, 100);
    CHECK_EQ(s->attributes->recoverable_days, 90);
    answer_free(&a);
    CHECK_STATUS(get_secret(f, "vault", "u", first, value, sizeof value), KL_DISABLED);
    CHECK_OK(get_secret(f, "vault", "u", "", value, sizeof value));
    CHECK_STR(value, "two");
    req.set_content_type = req.set_not_before = false;
    req.content_type = TEXT("");
    req.not_before_s = 0;
    req.enabled = true;
    check_call(f, UPDATE, &req.base, KL_OK, NULL, NULL);
    CHECK_OK(get_secret(f, "vault", "u", first, value, sizeof value));
    CHECK_STR(value, "one");
    req.set_expires = true;
    req.expires_s = 50; /* before the not-before that is stored */
    check_call(f, UPDATE, &req.base, KL_INVALID_ARGUMENT, "expires_s", "");
    fix_free(f);
}

/* Bad input and what is not there. */
TEST(secret_update, bad_input)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretUpdateRequest req = KLUIS__V1__SECRET_UPDATE_REQUEST__INIT;
    Kluis__V1__Tag tag = KLUIS__V1__TAG__INIT;
    Kluis__V1__Tag *tags[1] = {&tag};

    req.vault = TEXT("vault");
    req.name = TEXT("u");
    check_call(f, UPDATE, &req.base, KL_NOT_FOUND, NULL, NULL);
    set_secret(f, "vault", "u", "v", NULL);
    req.version = TEXT("xyz");
    check_call(f, UPDATE, &req.base, KL_INVALID_ARGUMENT, "version", "32 hex digits");
    req.version = TEXT("0123456789abcdef0123456789abcdef");
    check_call(f, UPDATE, &req.base, KL_NOT_FOUND, "version", "");
    req.version = TEXT("");
    req.tags = tags;
    req.n_tags = 1;
    check_call(f, UPDATE, &req.base, KL_INVALID_ARGUMENT, "tags.key", "1 to 512");
    tag.key = TEXT("k");
    check_call(f, UPDATE, &req.base, KL_INVALID_ARGUMENT, "tags", "set_tags");
    req.n_tags = 0;
    req.set_content_type = true;
    req.content_type = TEXT("a\tb");
    check_call(f, UPDATE, &req.base, KL_INVALID_ARGUMENT, "content_type", "control");
    fix_free(f);
}

/* ---- delete, recover, purge ---- */

/* The whole life of a secret. */
TEST(secret_life, all_of_it)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretDeleteRequest del = KLUIS__V1__SECRET_DELETE_REQUEST__INIT;
    Kluis__V1__SecretGetDeletedRequest show = KLUIS__V1__SECRET_GET_DELETED_REQUEST__INIT;
    Kluis__V1__SecretRecoverRequest rec = KLUIS__V1__SECRET_RECOVER_REQUEST__INIT;
    Kluis__V1__SecretPurgeRequest purge = KLUIS__V1__SECRET_PURGE_REQUEST__INIT;
    const Kluis__V1__Secret *s;
    struct answer a;
    char value[32], version[33];

    del.vault = show.vault = rec.vault = purge.vault = TEXT("vault");
    del.name = show.name = rec.name = purge.name = TEXT("life");
    check_call(f, DELETE, &del.base, KL_NOT_FOUND, NULL, NULL);
    set_secret(f, "vault", "life", "v", version);
    check_call(f, GET_DELETED, &show.base, KL_NOT_FOUND, "name", "no deleted secret");
    check_call(f, RECOVER, &rec.base, KL_NOT_FOUND, NULL, NULL);
    check_call(f, PURGE, &purge.base, KL_NOT_FOUND, NULL, NULL);
    a = call(f, DELETE, &del.base);
    CHECK_OK(a.st);
    s = ((Kluis__V1__SecretDeleteResponse *)a.response)->secret;
    CHECK_STR(s->version, version);
    CHECK(s->deleted_ms != 0);
    CHECK_EQ(s->scheduled_purge_ms, s->deleted_ms + 90 * KL_DAY_MS);
    CHECK_EQ(s->value.len, 0);
    answer_free(&a);
    CHECK_STATUS(get_secret(f, "vault", "life", "", value, sizeof value), KL_NOT_FOUND);
    CHECK_STATUS(get_secret(f, "vault", "life", version, value, sizeof value), KL_NOT_FOUND);
    check_call(f, DELETE, &del.base, KL_NOT_FOUND, NULL, NULL);
    a = call(f, GET_DELETED, &show.base);
    CHECK_OK(a.st);
    s = ((Kluis__V1__SecretGetDeletedResponse *)a.response)->secret;
    CHECK(s->deleted_ms != 0 && s->value.len == 0);
    answer_free(&a);
    check_call(f, RECOVER, &rec.base, KL_OK, NULL, NULL);
    CHECK_OK(get_secret(f, "vault", "life", version, value, sizeof value));
    CHECK_OK(delete_secret(f, "vault", "life"));
    check_call(f, PURGE, &purge.base, KL_OK, NULL, NULL);
    check_call(f, RECOVER, &rec.base, KL_NOT_FOUND, NULL, NULL);
    set_secret(f, "vault", "life", "new", NULL);
    CHECK_STATUS(get_secret(f, "vault", "life", version, value, sizeof value), KL_NOT_FOUND);
    fix_free(f);
}

/* With purge protection a secret is not purged early, and its attributes say so. */
TEST(secret_life, purge_protected)
{
    struct fix *f = fix_new(1);
    Kluis__V1__SecretPurgeRequest purge = KLUIS__V1__SECRET_PURGE_REQUEST__INIT;
    Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    struct answer a;

    make_vault(f, "vault", true);
    set_secret(f, "vault", "s", "v", NULL);
    get.vault = purge.vault = TEXT("vault");
    get.name = purge.name = TEXT("s");
    a = call(f, GET, &get.base);
    CHECK_OK(a.st);
    CHECK_STR(((Kluis__V1__SecretGetResponse *)a.response)->secret->attributes->recovery_level,
              "Recoverable");
    answer_free(&a);
    CHECK_OK(delete_secret(f, "vault", "s"));
    check_call(f, PURGE, &purge.base, KL_PURGE_PROTECTED, NULL, NULL);
    fix_free(f);
}

/* A retried delete, recover or purge is answered as the first was. */
TEST(secret_life, retried)
{
    struct fix *f = with_vault();
    Kluis__V1__SecretDeleteRequest del = KLUIS__V1__SECRET_DELETE_REQUEST__INIT;
    Kluis__V1__SecretRecoverRequest rec = KLUIS__V1__SECRET_RECOVER_REQUEST__INIT;
    Kluis__V1__SecretPurgeRequest purge = KLUIS__V1__SECRET_PURGE_REQUEST__INIT;
    const uint8_t ids[3][KL_ID_LEN] = {{0xc1}, {0xc2}, {0xc3}};
    const struct ask asks[] = {
        {.method = DELETE, .request = &del.base, .request_id = ids[0]},
        {.method = RECOVER, .request = &rec.base, .request_id = ids[1]},
        {.method = PURGE, .request = &purge.base, .request_id = ids[2]},
    };

    del.vault = rec.vault = purge.vault = TEXT("vault");
    del.name = rec.name = purge.name = TEXT("s");
    set_secret(f, "vault", "s", "v", NULL);
    for (size_t i = 0; i < 3; i++) {
        if (i == 2) {
            CHECK_OK(delete_secret(f, "vault", "s"));
        }
        for (int again = 0; again < 3; again++) {
            struct answer a = fix_ask(f, &asks[i]);

            CHECK_OK(a.st);
            answer_free(&a);
        }
    }
    fix_free(f);
}
