/* Vaults: every method with good and bad input, through the dispatcher. */
#include "tests/unit/rpc/fixture.h"

#define CREATE       "/kluis.v1.Vaults/Create"
#define GET          "/kluis.v1.Vaults/Get"
#define LIST         "/kluis.v1.Vaults/List"
#define UPDATE       "/kluis.v1.Vaults/Update"
#define DELETE       "/kluis.v1.Vaults/Delete"
#define GET_DELETED  "/kluis.v1.Vaults/GetDeleted"
#define LIST_DELETED "/kluis.v1.Vaults/ListDeleted"
#define RECOVER      "/kluis.v1.Vaults/Recover"
#define PURGE        "/kluis.v1.Vaults/Purge"

#define TEXT(s) ((char *)(uintptr_t)(s))

static struct answer get(struct fix *f, const char *name)
{
    Kluis__V1__VaultGetRequest req = KLUIS__V1__VAULT_GET_REQUEST__INIT;

    req.name = TEXT(name);
    return call(f, GET, &req.base);
}

static enum kl_status state_of(struct fix *f, const char *name)
{
    struct answer a = get(f, name);
    enum kl_status st = a.st;

    answer_free(&a);
    return st;
}

static enum kl_status purge(struct fix *f, const char *name)
{
    Kluis__V1__VaultPurgeRequest req = KLUIS__V1__VAULT_PURGE_REQUEST__INIT;
    struct answer a;
    enum kl_status st;

    req.name = TEXT(name);
    a = call(f, PURGE, &req.base);
    st = a.st;
    answer_free(&a);
    return st;
}

/* ---- create ---- */

/* A new vault has what was asked for and Azure's defaults for the rest. */
TEST(vault_create, defaults)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    struct answer a;
    const Kluis__V1__Vault *v;

    req.name = TEXT("My-Vault1");
    a = call(f, CREATE, &req.base);
    CHECK_OK(a.st);
    v = ((Kluis__V1__VaultCreateResponse *)a.response)->vault;
    CHECK_STR(v->name, "My-Vault1");
    CHECK_EQ(strlen(v->id), 32);
    CHECK_STR(v->subscription, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    CHECK_STR(v->resource_group, "default");
    CHECK_STR(v->location, "north");
    CHECK_EQ(v->retention_days, 90);
    CHECK(!v->purge_protection);
    CHECK(v->created_ms != 0);
    CHECK_EQ(v->deleted_ms, 0);
    answer_free(&a);
    CHECK_OK(state_of(f, "my-VAULT1")); /* names compare without case */
    fix_free(f);
}

/* Everything that can be chosen is kept. */
TEST(vault_create, chosen)
{
    struct fix *f = fix_new(2);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    Kluis__V1__Tag tag = KLUIS__V1__TAG__INIT;
    Kluis__V1__Tag *tags[1] = {&tag};
    struct answer a;
    const Kluis__V1__Vault *v;

    req.name = TEXT("abc");
    req.subscription = TEXT("01234567-89ab-cdef-0123-456789abcdef");
    req.resource_group = TEXT("Group_1.(x)");
    req.location = TEXT("south");
    req.retention_days = 7;
    req.purge_protection = true;
    tag.key = TEXT("owner");
    tag.value = TEXT("me");
    req.tags = tags;
    req.n_tags = 1;
    a = call(f, CREATE, &req.base);
    CHECK_OK(a.st);
    v = ((Kluis__V1__VaultCreateResponse *)a.response)->vault;
    CHECK_STR(v->subscription, req.subscription);
    CHECK_STR(v->resource_group, req.resource_group);
    CHECK_STR(v->location, "south");
    CHECK_EQ(v->retention_days, 7);
    CHECK(v->purge_protection);
    CHECK_EQ(v->n_tags, 1);
    CHECK_STR(v->tags[0]->key, "owner");
    CHECK_STR(v->tags[0]->value, "me");
    answer_free(&a);
    CHECK_OK(state_of(f, "abc")); /* in the second group */
    fix_free(f);
}

/* Each bad field is named with its limit, and nothing is created. */
TEST(vault_create, bad_fields)
{
    struct fix *f = fix_new(1);
    const char *const names[] = {"",     "ab",   "abcdefghijklmnopqrstuvwxy",
                                 "1abc", "abc-", "a--bc",
                                 "a/b",  "a.b",  "\xc3\xa9xyz"};
    Kluis__V1__VaultCreateRequest ok = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    Kluis__V1__VaultCreateRequest req;
    uint64_t before = fake_store_index(f->stores[0]);

    ok.name = TEXT("fine");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        req = ok;
        req.name = TEXT(names[i]);
        check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "name", "3 to 24");
    }
    req = ok;
    req.subscription = TEXT("not-a-uuid");
    check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "subscription", "8-4-4-4-12");
    req = ok;
    req.resource_group = TEXT("a b");
    check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "resource_group", "1 to 90");
    req = ok;
    req.location = TEXT("mars");
    check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "location", "north");
    for (uint32_t days = 1; days < 200; days++) {
        if (days == 7) {
            days = 91;
        }
        req = ok;
        req.retention_days = days;
        check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "retention_days", "7 to 90");
    }
    CHECK_EQ(fake_store_index(f->stores[0]), before);
    CHECK_STATUS(state_of(f, "fine"), KL_VAULT_NOT_FOUND);
    fix_free(f);
}

/* Too many, too long, repeated and nameless tags are refused. */
TEST(vault_create, bad_tags)
{
    struct fix *f = fix_new(1);
    static char key513[514], value257[258];
    char keys[16][4];
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    Kluis__V1__Tag tags[16];
    Kluis__V1__Tag *ptrs[16];

    memset(key513, 'k', 513);
    memset(value257, 'v', 257);
    for (int i = 0; i < 16; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "k%d", i);
        tags[i] = (Kluis__V1__Tag)KLUIS__V1__TAG__INIT;
        tags[i].key = keys[i];
        ptrs[i] = &tags[i];
    }
    req.name = TEXT("tagged");
    req.tags = ptrs;
    req.n_tags = 16;
    check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "tags", "at most 15");
    req.n_tags = 2;
    tags[1].key = keys[0];
    check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "tags.key", "once");
    tags[1].key = TEXT("");
    check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "tags.key", "1 to 512");
    tags[1].key = key513;
    check_call(f, CREATE, &req.base, KL_TOO_LARGE, "tags.key", "1 to 512");
    tags[1].key = TEXT("a\nb");
    check_call(f, CREATE, &req.base, KL_INVALID_ARGUMENT, "tags.key", "control");
    tags[1].key = TEXT("ok");
    tags[1].value = value257;
    check_call(f, CREATE, &req.base, KL_TOO_LARGE, "tags.value", "256");
    key513[512] = 0;
    value257[256] = 0;
    tags[1].key = key513;
    req.n_tags = 15;
    check_call(f, CREATE, &req.base, KL_OK, NULL, NULL);
    fix_free(f);
}

/* A taken name says whether a live or a deleted vault has it; after a purge it is free. */
TEST(vault_create, taken)
{
    struct fix *f = fix_new(2);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;

    req.name = TEXT("taken");
    make_vault(f, "taken", false);
    check_call(f, CREATE, &req.base, KL_ALREADY_EXISTS, "name", "in use");
    req.name = TEXT("TAKEN");
    req.location = TEXT("south");
    check_call(f, CREATE, &req.base, KL_ALREADY_EXISTS, "name", "in use");
    CHECK_OK(delete_vault(f, "taken"));
    check_call(f, CREATE, &req.base, KL_VAULT_DELETED, "name", "recover or purge");
    CHECK_OK(purge(f, "taken"));
    check_call(f, CREATE, &req.base, KL_OK, NULL, NULL);
    CHECK_OK(state_of(f, "taken")); /* although it has another home now */
    fix_free(f);
}

/* The same request id again is the same vault, however often. */
TEST(vault_create, retried)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    const uint8_t id[KL_ID_LEN] = {0xaa};
    const struct ask ask = {.method = CREATE, .request = &req.base, .request_id = id};
    struct answer first, second;

    req.name = TEXT("again");
    first = fix_ask(f, &ask);
    second = fix_ask(f, &ask);
    CHECK_OK(first.st);
    CHECK_OK(second.st);
    CHECK_STR(((Kluis__V1__VaultCreateResponse *)first.response)->vault->id,
              ((Kluis__V1__VaultCreateResponse *)second.response)->vault->id);
    CHECK_EQ(((Kluis__V1__VaultCreateResponse *)first.response)->vault->created_ms,
             ((Kluis__V1__VaultCreateResponse *)second.response)->vault->created_ms);
    answer_free(&first);
    answer_free(&second);
    fix_free(f);
}

/* An attempt that ended between claim and placing is continued by the retry: one vault, one key. */
TEST(vault_create, continued)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    const uint8_t id[KL_ID_LEN] = {0xab};
    const struct ask ask = {.method = CREATE, .request = &req.base, .request_id = id};
    struct answer a;

    req.name = TEXT("halfway");
    fake_store_refuse(f->stores[1], 1, KL_EXHAUSTED);
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_EXHAUSTED);
    answer_free(&a);
    CHECK_STATUS(state_of(f, "halfway"), KL_VAULT_NOT_FOUND); /* claimed, not placed */
    check_call(f, CREATE, &req.base, KL_ALREADY_EXISTS, "name", "in use");
    a = fix_ask(f, &ask);
    CHECK_OK(a.st);
    answer_free(&a);
    set_secret(f, "halfway", "s", "v", NULL);
    fix_free(f);
}

/* A retry long after the vault was purged does not bring it back. */
TEST(vault_create, retried_after_purge)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    const uint8_t id[KL_ID_LEN] = {0xac};
    const struct ask ask = {.method = CREATE, .request = &req.base, .request_id = id};
    struct answer a;

    req.name = TEXT("gone");
    a = fix_ask(f, &ask);
    CHECK_OK(a.st);
    answer_free(&a);
    CHECK_OK(delete_vault(f, "gone"));
    CHECK_OK(purge(f, "gone"));
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_VAULT_NOT_FOUND);
    answer_free(&a);
    CHECK_STATUS(state_of(f, "gone"), KL_VAULT_NOT_FOUND);
    fix_free(f);
}

/* One request id for two names is refused, and makes no vault without a name. */
TEST(vault_create, id_used_twice)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    const uint8_t id[KL_ID_LEN] = {0xad};
    const struct ask ask = {.method = CREATE, .request = &req.base, .request_id = id};
    struct answer a;

    req.name = TEXT("first");
    a = fix_ask(f, &ask);
    CHECK_OK(a.st);
    answer_free(&a);
    req.name = TEXT("second");
    a = fix_ask(f, &ask);
    CHECK(a.st != KL_OK);
    answer_free(&a);
    CHECK_STATUS(state_of(f, "second"), KL_VAULT_NOT_FOUND);
    make_vault(f, "second", false);
    fix_free(f);
}

/* The home group's leader is another node: it is called, and the vault is there. */
TEST(vault_create, remote_home)
{
    struct fix *f = fix_new(1);
    struct answer a;

    fake_store_lead(f->stores[1], 2);
    make_vault(f, "afar", false);
    a = get(f, "afar");
    CHECK_STATUS(a.st, KL_NOT_LEADER);
    CHECK_EQ(a.reply->leader->node_id, 2);
    CHECK_EQ(a.reply->leader->group, 1);
    CHECK_STR(a.reply->leader->address, "127.0.0.1:1002");
    answer_free(&a);
    fake_store_lead(f->stores[1], 1);
    CHECK_OK(state_of(f, "afar"));
    fix_free(f);
}

/* The home group has no leader, or loses it meanwhile: safe to retry, and the retry works. */
TEST(vault_create, home_unavailable)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    const uint8_t id[KL_ID_LEN] = {0xae};
    const struct ask ask = {.method = CREATE, .request = &req.base, .request_id = id};
    struct answer a;

    req.name = TEXT("patient");
    fake_store_lead(f->stores[1], 0);
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_UNAVAILABLE);
    CHECK(a.reply->retry_after_ms != 0);
    answer_free(&a);
    fake_store_lead(f->stores[1], 2); /* a node that cannot be reached */
    fake_peers_set(2, NULL);
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_UNAVAILABLE);
    answer_free(&a);
    fake_store_lead(f->stores[1], 1);
    a = fix_ask(f, &ask);
    CHECK_OK(a.st);
    answer_free(&a);
    fix_free(f);
}

/* ---- get and list ---- */

/* A vault that is missing, deleted, or has a bad name. */
TEST(vault_get, not_there)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultGetRequest req = KLUIS__V1__VAULT_GET_REQUEST__INIT;

    req.name = TEXT("nothing");
    check_call(f, GET, &req.base, KL_VAULT_NOT_FOUND, "name", "no vault");
    req.name = TEXT("no/slash");
    check_call(f, GET, &req.base, KL_INVALID_ARGUMENT, "name", "3 to 24");
    make_vault(f, "deleted", false);
    CHECK_OK(delete_vault(f, "deleted"));
    req.name = TEXT("deleted");
    check_call(f, GET, &req.base, KL_VAULT_NOT_FOUND, "name", "no vault");
    fix_free(f);
}

static size_t list_all(struct fix *f, const char *method, uint32_t page_size, char names[][32],
                       size_t max)
{
    Kluis__V1__VaultListRequest req = KLUIS__V1__VAULT_LIST_REQUEST__INIT;
    char token[KL_PAGE_TOKEN_MAX + 1] = "";
    size_t n = 0;

    req.page_size = page_size;
    do {
        struct answer a;
        const Kluis__V1__VaultListResponse *r;

        req.page_token = token;
        a = call(f, method, &req.base);
        CHECK_OK(a.st);
        r = (const void *)a.response;
        CHECK(r->n_vaults <= (page_size == 0 ? 25 : page_size));
        for (size_t i = 0; i < r->n_vaults; i++) {
            CHECK(n < max);
            (void)snprintf(names[n++], 32, "%s", r->vaults[i]->name);
        }
        (void)snprintf(token, sizeof token, "%s", r->next_page_token);
        answer_free(&a);
    } while (token[0] != 0);
    return n;
}

/* Pages of any size show every vault of every group once; deleted ones are in the other list. */
TEST(vault_list, pages)
{
    enum { N = 30 };
    struct fix *f = fix_new(2);
    char names[N + 1][32];
    char name[32];

    for (int i = 0; i < N; i++) {
        Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;

        (void)snprintf(name, sizeof name, "Vault%02d", i);
        req.name = name;
        req.location = i % 3 == 0 ? TEXT("south") : TEXT("north");
        check_call(f, CREATE, &req.base, KL_OK, NULL, NULL);
    }
    CHECK_OK(delete_vault(f, "vault05"));
    CHECK_OK(delete_vault(f, "vault06"));
    for (uint32_t size = 0; size < 12; size++) {
        bool seen[N] = {false};
        size_t n = list_all(f, LIST, size, names, N + 1);

        CHECK_EQ(n, N - 2);
        for (size_t i = 0; i < n; i++) {
            int k = (names[i][5] - '0') * 10 + names[i][6] - '0';

            CHECK(!seen[k] && k != 5 && k != 6);
            seen[k] = true;
        }
        CHECK_EQ(list_all(f, LIST_DELETED, size, names, N + 1), 2);
    }
    fix_free(f);
}

/* Sizes and tokens that are none. */
TEST(vault_list, bad_input)
{
    struct fix *f = fix_new(2);
    Kluis__V1__VaultListRequest req = KLUIS__V1__VAULT_LIST_REQUEST__INIT;
    struct answer a;
    char *token;

    req.page_size = 101;
    check_call(f, LIST, &req.base, KL_INVALID_ARGUMENT, "page_size", "1 to 100");
    req.page_size = 0;
    req.page_token = TEXT("garbage");
    check_call(f, LIST, &req.base, KL_INVALID_ARGUMENT, "page_token", "a token");
    req.page_token = TEXT("");
    a = call(f, LIST, &req.base); /* nothing in the first group: the second is next */
    CHECK_OK(a.st);
    token = ((Kluis__V1__VaultListResponse *)a.response)->next_page_token;
    CHECK(token[0] != 0);
    req.page_token = token;
    check_call(f, LIST_DELETED, &req.base, KL_INVALID_ARGUMENT, "page_token", "a token");
    check_call(f, LIST, &req.base, KL_OK, NULL, NULL);
    answer_free(&a);
    fix_free(f);
}

/* Each group of the list has its own leader; the hint names the one of the page's group. */
TEST(vault_list, leaders)
{
    struct fix *f = fix_new(2);
    Kluis__V1__VaultListRequest req = KLUIS__V1__VAULT_LIST_REQUEST__INIT;
    struct ask ask = {.method = LIST, .request = &req.base};
    struct answer a, b;

    fake_store_lead(f->stores[2], 2);
    a = fix_ask(f, &ask);
    CHECK_OK(a.st);
    req.page_token = ((Kluis__V1__VaultListResponse *)a.response)->next_page_token;
    b = fix_ask(f, &ask);
    CHECK_STATUS(b.st, KL_NOT_LEADER);
    CHECK_EQ(b.reply->leader->group, 2);
    CHECK_EQ(b.reply->leader->node_id, 2);
    answer_free(&b);
    ask.node = &f->nodes[1];
    b = fix_ask(f, &ask);
    CHECK_OK(b.st);
    CHECK_STR(((Kluis__V1__VaultListResponse *)b.response)->next_page_token, "");
    answer_free(&b);
    answer_free(&a);
    fix_free(f);
}

/* ---- update ---- */

/* Tags are replaced, purge protection goes on and never off, retention stays. */
TEST(vault_update, rules)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultUpdateRequest req = KLUIS__V1__VAULT_UPDATE_REQUEST__INIT;
    Kluis__V1__Tag tag = KLUIS__V1__TAG__INIT;
    Kluis__V1__Tag *tags[1] = {&tag};
    struct answer a;
    const Kluis__V1__Vault *v;

    make_vault(f, "updated", false);
    req.name = TEXT("updated");
    tag.key = TEXT("k");
    req.tags = tags;
    req.n_tags = 1;
    check_call(f, UPDATE, &req.base, KL_INVALID_ARGUMENT, "tags", "set_tags");
    req.set_tags = true;
    req.enable_purge_protection = true;
    req.retention_days = 90;
    a = call(f, UPDATE, &req.base);
    CHECK_OK(a.st);
    v = ((Kluis__V1__VaultUpdateResponse *)a.response)->vault;
    CHECK_EQ(v->n_tags, 1);
    CHECK(v->purge_protection);
    CHECK(v->updated_ms >= v->created_ms);
    answer_free(&a);
    req.enable_purge_protection = false;
    req.retention_days = 0;
    req.n_tags = 0;
    a = call(f, UPDATE, &req.base);
    CHECK_OK(a.st);
    v = ((Kluis__V1__VaultUpdateResponse *)a.response)->vault;
    CHECK_EQ(v->n_tags, 0);
    CHECK(v->purge_protection);
    answer_free(&a);
    req.retention_days = 30;
    check_call(f, UPDATE, &req.base, KL_FIXED, "retention_days", "fixed");
    req.name = TEXT("nothing");
    check_call(f, UPDATE, &req.base, KL_VAULT_NOT_FOUND, NULL, NULL);
    fix_free(f);
}

/* ---- delete, recover, purge ---- */

/* The whole life: deleted, shown, recovered, deleted, purged, gone. */
TEST(vault_life, all_of_it)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultDeleteRequest del = KLUIS__V1__VAULT_DELETE_REQUEST__INIT;
    Kluis__V1__VaultGetDeletedRequest show = KLUIS__V1__VAULT_GET_DELETED_REQUEST__INIT;
    Kluis__V1__VaultRecoverRequest rec = KLUIS__V1__VAULT_RECOVER_REQUEST__INIT;
    struct answer a;
    const Kluis__V1__Vault *v;
    char value[32];

    del.name = show.name = rec.name = TEXT("life");
    make_vault(f, "life", false);
    set_secret(f, "life", "s", "precious", NULL);
    check_call(f, GET_DELETED, &show.base, KL_VAULT_NOT_FOUND, "name", "no deleted vault");
    check_call(f, RECOVER, &rec.base, KL_VAULT_NOT_FOUND, NULL, NULL);
    CHECK_STATUS(purge(f, "life"), KL_VAULT_NOT_FOUND); /* only what is deleted can be purged */
    a = call(f, DELETE, &del.base);
    CHECK_OK(a.st);
    v = ((Kluis__V1__VaultDeleteResponse *)a.response)->vault;
    CHECK(v->deleted_ms != 0);
    CHECK_EQ(v->scheduled_purge_ms, v->deleted_ms + 90 * KL_DAY_MS);
    answer_free(&a);
    check_call(f, DELETE, &del.base, KL_VAULT_NOT_FOUND, NULL, NULL);
    CHECK_STATUS(get_secret(f, "life", "s", "", value, sizeof value), KL_VAULT_NOT_FOUND);
    check_call(f, GET_DELETED, &show.base, KL_OK, NULL, NULL);
    check_call(f, RECOVER, &rec.base, KL_OK, NULL, NULL);
    CHECK_OK(get_secret(f, "life", "s", "", value, sizeof value));
    CHECK_STR(value, "precious");
    CHECK_OK(delete_vault(f, "life"));
    CHECK_OK(purge(f, "life"));
    CHECK_STATUS(purge(f, "life"), KL_VAULT_NOT_FOUND);
    check_call(f, GET_DELETED, &show.base, KL_VAULT_NOT_FOUND, NULL, NULL);
    make_vault(f, "life", false); /* the name is free at once */
    CHECK_STATUS(get_secret(f, "life", "s", "", value, sizeof value), KL_NOT_FOUND);
    fix_free(f);
}

/* With purge protection nobody purges early. */
TEST(vault_life, purge_protected)
{
    struct fix *f = fix_new(1);

    make_vault(f, "guarded", true);
    CHECK_OK(delete_vault(f, "guarded"));
    CHECK_STATUS(purge(f, "guarded"), KL_PURGE_PROTECTED);
    fix_free(f);
}

/* The vault is purged even when its name cannot be released now: the outbox has the rest. */
TEST(vault_life, release_fails)
{
    struct fix *f = fix_new(1);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    Kluis__V1__VaultPurgeRequest p = KLUIS__V1__VAULT_PURGE_REQUEST__INIT;
    const uint8_t id[KL_ID_LEN] = {0xaf};
    const struct ask ask = {.method = PURGE, .request = &p.base, .request_id = id};
    struct answer a;

    make_vault(f, "stuck", false);
    CHECK_OK(delete_vault(f, "stuck"));
    fake_store_refuse(f->stores[0], 1, KL_EXHAUSTED);
    p.name = TEXT("stuck");
    a = fix_ask(f, &ask);
    CHECK_OK(a.st);
    answer_free(&a);
    a = fix_ask(f, &ask); /* a retry is answered as the first was */
    CHECK_OK(a.st);
    answer_free(&a);
    req.name = TEXT("stuck");
    check_call(f, CREATE, &req.base, KL_ALREADY_EXISTS, "name", "in use");
    fix_free(f);
}
