/*
 * The public surface: numbers, arguments that are refused, results and their memory.
 */
#include "tests/unit/client/fake.h"

#include "client/lib/internal.h"

/* Every row of the table is in kluis.h with the same number and name. (That kluis.h has no other is
 * seen by counting: the numbers have no gaps.) */
TEST(api, statuses_equal_the_table)
{
    unsigned n = 0;

#define KL_STATUS(name, number, rpc, http, azure, retry, words)                                    \
    CHECK_EQ((int)KLUIS_##name, (number));                                                         \
    CHECK_STR(kluis_status_name(KLUIS_##name), #name);                                             \
    CHECK_STR(kluis_status_text(KLUIS_##name), kl_status_info(KL_##name)->text);                   \
    n++;
#include "common/status.def"
#undef KL_STATUS
    CHECK_EQ(n, KLUIS_QUORUM + 1);
    CHECK_STR(kluis_status_name((enum kluis_status)9999), "INTERNAL");
}

static enum kluis_status open_with(struct kluis_options options, char *err, size_t err_len)
{
    struct kluis_client *client = NULL;
    enum kluis_status st = kluis_open(&options, &client, err, err_len);

    CHECK_EQ(client != NULL, st == KLUIS_OK);
    kluis_close(client);
    return st;
}

/* Options that cannot work are refused with a line that names them. */
TEST(api, open_checks_its_options)
{
    static const char *const bad[] = {"",      "host",   "host:", ":1",    "host:0",  "host:65536",
                                      "a b:1", "::1:80", "[::1]", "[]:80", "host:1x", "http://h:1"};
    const char *good[1] = {"localhost:443"};
    struct kluis_options options = {.endpoints = good, .endpoints_n = 1};
    char err[256];

    options.ca_file = fixture_files(CERT_SERVER).ca_file;
    CHECK_EQ(open_with(options, err, sizeof err), KLUIS_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct kluis_options o = options;

        o.endpoints = &bad[i];
        CHECK_EQ(open_with(o, err, sizeof err), KLUIS_INVALID_ARGUMENT);
        CHECK(strstr(err, "endpoints") != NULL);
    }
    options.endpoints_n = 0;
    CHECK_EQ(open_with(options, err, sizeof err), KLUIS_INVALID_ARGUMENT);
    options.endpoints_n = 1;
    options.token = "two words";
    CHECK_EQ(open_with(options, err, sizeof err), KLUIS_INVALID_ARGUMENT);
    CHECK(strstr(err, "token") != NULL);
    options.token = NULL;
    options.timeout_ms = KL_DEADLINE_MAX_MS + 1;
    CHECK_EQ(open_with(options, err, sizeof err), KLUIS_INVALID_ARGUMENT);
    CHECK(strstr(err, "timeout_ms") != NULL);
    options.timeout_ms = 0;
    options.ca_file = "/nowhere/ca.pem";
    CHECK_EQ(open_with(options, err, sizeof err), KLUIS_IO);
    CHECK(strstr(err, "/nowhere/ca.pem") != NULL);
    options.ca_file = NULL;
    CHECK_EQ(open_with(options, err, sizeof err), KLUIS_INVALID_ARGUMENT);
    CHECK(strstr(err, "ca_file") != NULL);
}

/* NULL where something is needed, and what is too large to be sent, never reach a server. */
TEST(api, arguments_are_checked)
{
    static uint8_t value[KL_SECRET_VALUE_MAX + 1];
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct kluis_client *client;
    struct kluis_secret *secret = NULL;
    struct kluis_tag many[KL_TAGS_MAX + 1];
    struct kluis_secret_options options = {.tags = many, .tags_n = KL_TAGS_MAX + 1};

    for (size_t i = 0; i <= KL_TAGS_MAX; i++) {
        many[i] = (struct kluis_tag){"k", "v"};
    }
    fake_start(&a, CERT_SERVER, fake_serve, NULL);
    client = fake_client(nodes, 1, false);
    CHECK_EQ(kluis_secret_get(NULL, "v", "n", NULL, 0, &secret), KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(kluis_secret_get(client, NULL, "n", NULL, 0, &secret), KLUIS_INVALID_ARGUMENT);
    CHECK_STR(kluis_last_error(), "vault: must not be NULL");
    CHECK_EQ(kluis_secret_get(client, "v", NULL, NULL, 0, &secret), KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(kluis_secret_set(client, "v", "n", NULL, 1, NULL, 0, NULL), KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(kluis_secret_set(client, "v", "n", value, sizeof value, NULL, 0, NULL),
             KLUIS_TOO_LARGE);
    CHECK_STR(kluis_last_error(), "value: at most 25600 bytes");
    CHECK_EQ(kluis_secret_set(client, "v", "n", "x", 1, &options, 0, NULL), KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(kluis_secret_get(client, "v", "n", NULL, KL_DEADLINE_MAX_MS + 1, &secret),
             KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(kluis_secret_list(client, "v", 0, NULL, 0, NULL), KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(kluis_vault_update(client, "v", NULL, 0, NULL), KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(kluis_secret_get_async(client, "v", "n", NULL, 0, NULL, NULL), KLUIS_INVALID_ARGUMENT);
    CHECK_EQ(a.calls, 0);
    CHECK(secret == NULL);
    /* The largest value is not too large. */
    CHECK_EQ(kluis_secret_set(client, "v", "n", value, KL_SECRET_VALUE_MAX, NULL, 0, NULL),
             KLUIS_OK);
    CHECK_EQ(a.value_len, KL_SECRET_VALUE_MAX);
    kluis_close(client);
    fake_stop(&a);
    kluis_secret_free(NULL);
    kluis_vault_free(NULL);
    kluis_secret_list_free(NULL);
    kluis_vault_list_free(NULL);
    kluis_blob_free(NULL);
    kluis_bytes_free(NULL, 0);
    kluis_close(NULL);
}

/* A secret's every field arrives where kluis.h says. */
TEST(api, secret_converts)
{
    Kluis__V1__Secret from = KLUIS__V1__SECRET__INIT;
    Kluis__V1__Attributes attributes = KLUIS__V1__ATTRIBUTES__INIT;
    Kluis__V1__Tag tags[2] = {KLUIS__V1__TAG__INIT, KLUIS__V1__TAG__INIT};
    Kluis__V1__Tag *list[2] = {&tags[0], &tags[1]};
    struct kluis_secret *s = NULL;

    tags[0].key = kl_pb_text("a");
    tags[0].value = kl_pb_text("");
    tags[1].key = kl_pb_text("b");
    tags[1].value = kl_pb_text("two");
    attributes.enabled = true;
    attributes.not_before_s = 1;
    attributes.expires_s = 2;
    attributes.created_ms = 3;
    attributes.updated_ms = 4;
    attributes.recoverable_days = 90;
    attributes.recovery_level = kl_pb_text("Recoverable");
    from.vault = kl_pb_text("team");
    from.name = kl_pb_text("db");
    from.version = kl_pb_text("00112233445566778899aabbccddeeff");
    from.value = kl_pb_bytes("\0x", 2);
    from.content_type = kl_pb_text("text");
    from.tags = list;
    from.n_tags = 2;
    from.attributes = &attributes;
    from.deleted_ms = 5;
    from.scheduled_purge_ms = 6;
    CHECK_OK(kl_secret_out(&from, true, &s));
    CHECK_STR(s->vault, "team");
    CHECK_STR(s->name, "db");
    CHECK_STR(s->version, "00112233445566778899aabbccddeeff");
    CHECK_EQ(s->value_len, 2);
    CHECK_MEM(s->value, "\0x", 2);
    CHECK_STR(s->content_type, "text");
    CHECK_EQ(s->tags_n, 2);
    CHECK_STR(s->tags[0].key, "a");
    CHECK_STR(s->tags[0].value, "");
    CHECK_STR(s->tags[1].value, "two");
    CHECK(s->enabled);
    CHECK_EQ(s->not_before_s, 1);
    CHECK_EQ(s->expires_s, 2);
    CHECK_EQ(s->created_ms, 3);
    CHECK_EQ(s->updated_ms, 4);
    CHECK_EQ(s->recoverable_days, 90);
    CHECK_STR(s->recovery_level, "Recoverable");
    CHECK_EQ(s->deleted_ms, 5);
    CHECK_EQ(s->scheduled_purge_ms, 6);
    kluis_secret_free(s);
    /* Without a value there is none, not an empty one; with an empty one there is. */
    from.value = kl_pb_bytes(NULL, 0);
    CHECK_OK(kl_secret_out(&from, false, &s));
    CHECK(s->value == NULL);
    kluis_secret_free(s);
    CHECK_OK(kl_secret_out(&from, true, &s));
    CHECK(s->value != NULL);
    CHECK_EQ(s->value_len, 0);
    kluis_secret_free(s);
}

static void serve_vaults(struct fake_call *c)
{
    Kluis__V1__VaultListResponse r = KLUIS__V1__VAULT_LIST_RESPONSE__INIT;
    Kluis__V1__Vault vaults[2] = {KLUIS__V1__VAULT__INIT, KLUIS__V1__VAULT__INIT};
    Kluis__V1__Vault *list[2] = {&vaults[0], &vaults[1]};
    Kluis__V1__VaultListRequest *request =
        kluis__v1__vault_list_request__unpack(NULL, c->call->payload.len, c->call->payload.data);

    vaults[0].name = kl_pb_text("one");
    vaults[0].retention_days = 7;
    vaults[1].name = kl_pb_text("two");
    vaults[1].purge_protection = true;
    r.vaults = list;
    r.n_vaults = 2;
    if (request->page_token[0] == '\0') {
        r.next_page_token = kl_pb_text("more");
    }
    fake_ok(c, &r);
    kluis__v1__vault_list_request__free_unpacked(request, NULL);
}

/* Pages: the token of one leads to the next; the last has none. */
TEST(api, lists_page)
{
    struct fake a;
    struct fake *nodes[1] = {&a};
    struct kluis_client *client;
    struct kluis_vault_list *list = NULL;
    struct kluis_vault_list *rest = NULL;

    fake_start(&a, CERT_SERVER, serve_vaults, NULL);
    client = fake_client(nodes, 1, false);
    CHECK_EQ(kluis_vault_list(client, 2, NULL, 0, &list), KLUIS_OK);
    CHECK_EQ(list->n, 2);
    CHECK_STR(list->items[0]->name, "one");
    CHECK_EQ(list->items[0]->retention_days, 7);
    CHECK(list->items[1]->purge_protection);
    CHECK_STR(list->next, "more");
    CHECK_EQ(kluis_vault_list(client, 2, list->next, 0, &rest), KLUIS_OK);
    CHECK(rest->next == NULL);
    kluis_vault_list_free(list);
    kluis_vault_list_free(rest);
    kluis_close(client);
    fake_stop(&a);
}

static void say_method(struct fake_call *c)
{
    Kluis__V1__HealthCheckResponse r = KLUIS__V1__HEALTH_CHECK_RESPONSE__INIT;

    r.reason = kl_pb_text(c->call->method);
    fake_ok(c, &r);
}

/* A call of any method, to the node that was named and no other: its word is final. */
TEST(api, call_of_a_named_node)
{
    struct fake a;
    struct fake b;
    struct fake *nodes[1] = {&a};
    struct kluis_client *client;
    Kluis__V1__HealthCheckResponse *response;
    uint8_t *bytes = NULL;
    size_t n = 0;

    fake_start(&a, CERT_SERVER, say_method, NULL);
    fake_start(&b, CERT_SERVER, say_method, NULL);
    client = fake_client(nodes, 1, false);
    CHECK_EQ(kluis_call(client, "/kluis.v1.Health/Check", NULL, 0, false, b.address, 0, &bytes, &n),
             KLUIS_OK);
    response = kluis__v1__health_check_response__unpack(NULL, n, bytes);
    CHECK(response != NULL);
    CHECK_STR(response->reason, "/kluis.v1.Health/Check");
    kluis__v1__health_check_response__free_unpacked(response, NULL);
    kluis_bytes_free(bytes, n);
    CHECK_EQ(a.calls, 0);
    CHECK_EQ(b.calls, 1);
    CHECK_EQ(kluis_call(client, "m", NULL, 0, false, "nonsense", 0, &bytes, &n),
             KLUIS_INVALID_ARGUMENT);
    kluis_close(client);
    fake_stop(&a);
    fake_stop(&b);
}
