/*
 * Every allocation of a call fails in turn. What must hold: one answer, never a crash or a leak, the
 * answer says so or the call was done, and a retry with the same request id does it exactly once.
 * Everything runs on this thread, so that each allocation has its number.
 */
#include "tests/unit/rpc/fixture.h"

#define TEXT(s) ((char *)(uintptr_t)(s))

static struct {
    bool on;
    unsigned long countdown;
    bool struck;
} torture;

static bool must_fail(void)
{
    if (!torture.on || torture.countdown == 0 || --torture.countdown != 0) {
        return false;
    }
    torture.struck = true;
    return true;
}

static void *heap_alloc(void *ctx, size_t n)
{
    (void)ctx;
    return must_fail() ? NULL : malloc(n == 0 ? 1 : n);
}

static void *heap_realloc(void *ctx, void *p, size_t n)
{
    (void)ctx;
    return must_fail() ? NULL : realloc(p, n);
}

static void heap_free(void *ctx, void *p)
{
    (void)ctx;
    free(p);
}

static const struct kl_heap heap = {NULL, heap_alloc, heap_realloc, heap_free};

static void arm(bool on)
{
    torture.on = on;
}

static struct fix *begin(void)
{
    struct fix *f = fix_new(1);

    for (size_t i = 0; i < 2; i++) {
        fake_store_inline(f->stores[i], arm);
    }
    f->arm = arm;
    make_vault(f, "vault", false);
    torture.countdown = 0;
    kl_alloc_use(&heap);
    return f;
}

static void end(struct fix *f)
{
    kl_alloc_use(NULL);
    f->arm = NULL;
    fix_free(f);
}

/* Fails the n-th allocation of one call, then asks again with the same id. False: n was too many. */
static bool fail_at(struct fix *f, unsigned long n, struct ask ask)
{
    uint8_t id[KL_ID_LEN];
    struct answer a;
    bool struck;

    draw_id(f, id);
    ask.request_id = id;
    torture.countdown = n;
    torture.struck = false;
    a = fix_ask(f, &ask);
    struck = torture.struck;
    torture.countdown = 0;
    if (a.st != KL_OK && a.st != KL_NO_MEMORY) {
        print_error("%s, allocation %lu: %s\n", ask.method, n, a.reply->message);
    }
    CHECK(a.st == KL_OK || a.st == KL_NO_MEMORY);
    CHECK(struck || a.st == KL_OK);
    answer_free(&a);
    a = fix_ask(f, &ask);
    if (a.st != KL_OK) {
        print_error("%s, after allocation %lu: %s\n", ask.method, n, a.reply->message);
    }
    CHECK_OK(a.st);
    answer_free(&a);
    return struck;
}

static void reads(const char *method, const ProtobufCMessage *request)
{
    struct fix *f = begin();
    unsigned long n = 1;
    char blob_name[] = "s";

    set_secret(f, "vault", blob_name, "one", NULL);
    set_secret(f, "vault", blob_name, "two", NULL);
    set_secret(f, "vault", "t", "three", NULL);
    while (fail_at(f, n, (struct ask){.method = method, .request = request})) {
        n++;
    }
    CHECK(n > 5);
    end(f);
}

TEST(torture, get)
{
    Kluis__V1__SecretGetRequest req = KLUIS__V1__SECRET_GET_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT("s");
    reads("/kluis.v1.Secrets/Get", &req.base);
}

TEST(torture, list)
{
    Kluis__V1__SecretListRequest req = KLUIS__V1__SECRET_LIST_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.page_size = 1;
    reads("/kluis.v1.Secrets/List", &req.base);
}

TEST(torture, list_versions)
{
    Kluis__V1__SecretListVersionsRequest req = KLUIS__V1__SECRET_LIST_VERSIONS_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT("s");
    req.page_size = 1;
    reads("/kluis.v1.Secrets/ListVersions", &req.base);
}

TEST(torture, vault_list)
{
    Kluis__V1__VaultListRequest req = KLUIS__V1__VAULT_LIST_REQUEST__INIT;

    reads("/kluis.v1.Vaults/List", &req.base);
}

TEST(torture, backup)
{
    Kluis__V1__SecretBackupRequest req = KLUIS__V1__SECRET_BACKUP_REQUEST__INIT;

    req.vault = TEXT("vault");
    req.name = TEXT("s");
    reads("/kluis.v1.Secrets/Backup", &req.base);
}

TEST(torture, cluster_status)
{
    Kluis__V1__ClusterStatusRequest req = KLUIS__V1__CLUSTER_STATUS_REQUEST__INIT;

    reads("/kluis.v1.Cluster/Status", &req.base);
}

static size_t versions(struct fix *f, const char *name)
{
    Kluis__V1__SecretListVersionsRequest req = KLUIS__V1__SECRET_LIST_VERSIONS_REQUEST__INIT;
    char token[KL_PAGE_TOKEN_MAX + 1] = "";
    size_t n = 0;

    req.vault = TEXT("vault");
    req.name = TEXT(name);
    req.page_size = 100;
    do {
        struct answer a;

        req.page_token = token;
        a = call(f, "/kluis.v1.Secrets/ListVersions", &req.base);
        CHECK_OK(a.st);
        n += ((Kluis__V1__SecretListVersionsResponse *)a.response)->n_secrets;
        (void)snprintf(token, sizeof token, "%s",
                       ((Kluis__V1__SecretListVersionsResponse *)a.response)->next_page_token);
        answer_free(&a);
    } while (token[0] != 0);
    return n;
}

/* Each set is one version, however often its allocations failed. */
TEST(torture, set)
{
    struct fix *f = begin();
    Kluis__V1__SecretSetRequest req = KLUIS__V1__SECRET_SET_REQUEST__INIT;
    unsigned long n = 1;

    req.vault = TEXT("vault");
    req.name = TEXT("s");
    req.value = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "value"};
    while (fail_at(f, n, (struct ask){.method = "/kluis.v1.Secrets/Set", .request = &req.base})) {
        n++;
    }
    CHECK(n > 10);
    CHECK_EQ(versions(f, "s"), n);
    end(f);
}

TEST(torture, delete_recover_purge)
{
    struct fix *f = begin();
    Kluis__V1__SecretDeleteRequest del = KLUIS__V1__SECRET_DELETE_REQUEST__INIT;
    Kluis__V1__SecretRecoverRequest rec = KLUIS__V1__SECRET_RECOVER_REQUEST__INIT;
    Kluis__V1__SecretPurgeRequest purge = KLUIS__V1__SECRET_PURGE_REQUEST__INIT;
    bool more = true;

    del.vault = rec.vault = purge.vault = TEXT("vault");
    del.name = rec.name = purge.name = TEXT("s");
    for (unsigned long n = 1; more; n++) {
        set_secret(f, "vault", "s", "v", NULL);
        more =
            fail_at(f, n, (struct ask){.method = "/kluis.v1.Secrets/Delete", .request = &del.base});
        more |= fail_at(f, n,
                        (struct ask){.method = "/kluis.v1.Secrets/Recover", .request = &rec.base});
        CHECK_OK(delete_secret(f, "vault", "s"));
        more |= fail_at(f, n,
                        (struct ask){.method = "/kluis.v1.Secrets/Purge", .request = &purge.base});
    }
    end(f);
}

TEST(torture, restore)
{
    struct fix *f = begin();
    Kluis__V1__SecretBackupRequest backup = KLUIS__V1__SECRET_BACKUP_REQUEST__INIT;
    Kluis__V1__SecretRestoreRequest restore = KLUIS__V1__SECRET_RESTORE_REQUEST__INIT;
    Kluis__V1__SecretPurgeRequest purge = KLUIS__V1__SECRET_PURGE_REQUEST__INIT;
    struct answer blob;
    bool more = true;

    backup.vault = restore.vault = purge.vault = TEXT("vault");
    backup.name = purge.name = TEXT("s");
    for (int i = 0; i < 3; i++) {
        set_secret(f, "vault", "s", "v", NULL);
    }
    blob = call(f, "/kluis.v1.Secrets/Backup", &backup.base);
    CHECK_OK(blob.st);
    restore.blob = ((Kluis__V1__SecretBackupResponse *)blob.response)->blob;
    for (unsigned long n = 1; more; n++) {
        CHECK_OK(delete_secret(f, "vault", "s"));
        check_call(f, "/kluis.v1.Secrets/Purge", &purge.base, KL_OK, NULL, NULL);
        more = fail_at(
            f, n, (struct ask){.method = "/kluis.v1.Secrets/Restore", .request = &restore.base});
        CHECK_EQ(versions(f, "s"), 3);
    }
    answer_free(&blob);
    end(f);
}

/* Creating and purging a vault: two groups, many steps, each of which may lack memory. */
TEST(torture, vault_create_and_purge)
{
    struct fix *f = begin();
    Kluis__V1__VaultCreateRequest create = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    Kluis__V1__VaultPurgeRequest purge = KLUIS__V1__VAULT_PURGE_REQUEST__INIT;
    char name[16];
    bool more = true;

    create.name = purge.name = name;
    for (unsigned long n = 1; more; n++) {
        (void)snprintf(name, sizeof name, "v%lu", n);
        while (strlen(name) < 3) {
            (void)snprintf(name, sizeof name, "v0%lu", n);
        }
        more = fail_at(f, n,
                       (struct ask){.method = "/kluis.v1.Vaults/Create", .request = &create.base});
        CHECK_OK(delete_vault(f, name));
        more |=
            fail_at(f, n, (struct ask){.method = "/kluis.v1.Vaults/Purge", .request = &purge.base});
    }
    end(f);
}
