/* Backup and restore, through the dispatcher. */
#include "server/crypto/blob.h"
#include "tests/unit/rpc/fixture.h"

#define BACKUP  "/kluis.v1.Secrets/Backup"
#define RESTORE "/kluis.v1.Secrets/Restore"
#define TEXT(s) ((char *)(uintptr_t)(s))

static struct kl_buf backup(struct fix *f, const char *vault, const char *name, uint32_t versions)
{
    Kluis__V1__SecretBackupRequest req = KLUIS__V1__SECRET_BACKUP_REQUEST__INIT;
    const Kluis__V1__SecretBackupResponse *r;
    struct kl_buf blob = KL_BUF(KL_BLOB_MAX);
    struct answer a;

    req.vault = TEXT(vault);
    req.name = TEXT(name);
    a = call(f, BACKUP, &req.base);
    CHECK_OK(a.st);
    r = (const void *)a.response;
    CHECK_EQ(r->version_count, versions);
    CHECK_OK(kl_buf_put(&blob, r->blob.data, r->blob.len));
    answer_free(&a);
    return blob;
}

static Kluis__V1__SecretRestoreRequest restore_request(const char *vault, const struct kl_buf *blob)
{
    Kluis__V1__SecretRestoreRequest req = KLUIS__V1__SECRET_RESTORE_REQUEST__INIT;

    req.vault = TEXT(vault);
    req.blob = (ProtobufCBinaryData){blob->len, blob->ptr};
    return req;
}

static struct fix *with_vaults(void)
{
    struct fix *f = fix_new(2);
    Kluis__V1__VaultCreateRequest req = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;

    make_vault(f, "from", false);
    make_vault(f, "into", false);
    req.name = TEXT("foreign");
    req.subscription = TEXT("01234567-89ab-cdef-0123-456789abcdef");
    check_call(f, "/kluis.v1.Vaults/Create", &req.base, KL_OK, NULL, NULL);
    return f;
}

/* All versions come back with their ids, values, dates and attributes. */
TEST(backup, round_trip)
{
    enum { N = 7 };
    struct fix *f = with_vaults();
    Kluis__V1__SecretUpdateRequest up = KLUIS__V1__SECRET_UPDATE_REQUEST__INIT;
    Kluis__V1__SecretRestoreRequest req;
    Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    char ids[N][33], value[64], expected[64];
    struct kl_buf blob;
    struct answer a, b;

    for (int i = 0; i < N; i++) {
        (void)snprintf(value, sizeof value, "value %d", i);
        set_secret(f, "from", "Treasure", value, ids[i]);
    }
    up.vault = TEXT("from");
    up.name = TEXT("treasure");
    up.version = ids[2];
    up.set_enabled = true;
    check_call(f, "/kluis.v1.Secrets/Update", &up.base, KL_OK, NULL, NULL);
    blob = backup(f, "from", "Treasure", N);
    req = restore_request("into", &blob);
    a = call(f, RESTORE, &req.base);
    CHECK_OK(a.st);
    CHECK_EQ(((Kluis__V1__SecretRestoreResponse *)a.response)->version_count, N);
    CHECK_STR(((Kluis__V1__SecretRestoreResponse *)a.response)->secret->version, ids[N - 1]);
    CHECK_STR(((Kluis__V1__SecretRestoreResponse *)a.response)->secret->vault, "into");
    answer_free(&a);
    for (int i = 0; i < N; i++) {
        (void)snprintf(expected, sizeof expected, "value %d", i);
        if (i == 2) {
            CHECK_STATUS(get_secret(f, "into", "treasure", ids[i], value, sizeof value),
                         KL_DISABLED);
            continue;
        }
        CHECK_OK(get_secret(f, "into", "treasure", ids[i], value, sizeof value));
        CHECK_STR(value, expected);
    }
    get.name = TEXT("treasure");
    get.vault = TEXT("from");
    a = call(f, "/kluis.v1.Secrets/Get", &get.base);
    get.vault = TEXT("into");
    b = call(f, "/kluis.v1.Secrets/Get", &get.base);
    CHECK_EQ(((Kluis__V1__SecretGetResponse *)a.response)->secret->attributes->created_ms,
             ((Kluis__V1__SecretGetResponse *)b.response)->secret->attributes->created_ms);
    answer_free(&a);
    answer_free(&b);
    kl_buf_wipe(&blob);
    fix_free(f);
}

/* More than fits one stage: many stages, all visible at once at the end. */
TEST(backup, many_stages)
{
    enum { N = 45 };
    struct fix *f = with_vaults();
    static char big[KL_SECRET_VALUE_MAX + 1], back[KL_SECRET_VALUE_MAX + 1];
    Kluis__V1__SecretRestoreRequest req;
    char ids[N][33];
    struct kl_buf blob;
    uint64_t entries;

    for (int i = 0; i < N; i++) {
        memset(big, 'a' + i % 26, KL_SECRET_VALUE_MAX - (size_t)i);
        big[KL_SECRET_VALUE_MAX - i] = 0;
        set_secret(f, "from", "big", big, ids[i]);
    }
    blob = backup(f, "from", "big", N);
    req = restore_request("into", &blob);
    entries = fake_store_entries(f->stores[1]);
    check_call(f, RESTORE, &req.base, KL_OK, NULL, NULL);
    CHECK(fake_store_entries(f->stores[1]) - entries >= 5);
    for (int i = 0; i < N; i++) {
        CHECK_OK(get_secret(f, "into", "big", ids[i], back, sizeof back));
        CHECK_EQ(strlen(back), KL_SECRET_VALUE_MAX - i);
        CHECK_EQ(back[0], 'a' + i % 26);
    }
    kl_buf_wipe(&blob);
    fix_free(f);
}

/* A name in use, live or deleted, refuses the restore before anything is staged. */
TEST(backup, name_in_use)
{
    struct fix *f = with_vaults();
    Kluis__V1__SecretRestoreRequest req;
    struct kl_buf blob;
    uint64_t entries;

    set_secret(f, "from", "s", "v", NULL);
    blob = backup(f, "from", "s", 1);
    entries = fake_store_entries(f->stores[1]);
    req = restore_request("from", &blob);
    check_call(f, RESTORE, &req.base, KL_ALREADY_EXISTS, "blob", "holds a secret of this name");
    CHECK_EQ(fake_store_entries(f->stores[1]), entries);
    CHECK_OK(delete_secret(f, "from", "s"));
    check_call(f, RESTORE, &req.base, KL_DELETED, "blob", "recover or purge");
    kl_buf_wipe(&blob);
    fix_free(f);
}

/* Foreign subscription, foreign geography, damage and garbage: each its own error, nothing changes. */
TEST(backup, refused_blobs)
{
    struct fix *f = with_vaults();
    Kluis__V1__SecretRestoreRequest req;
    struct kl_buf blob;
    uint64_t entries;

    set_secret(f, "from", "s", "v", NULL);
    blob = backup(f, "from", "s", 1);
    entries = fake_store_entries(f->stores[1]);
    req = restore_request("foreign", &blob);
    check_call(f, RESTORE, &req.base, KL_BLOB_SUBSCRIPTION, "blob", "subscription");
    req = restore_request("into", &blob);
    req.blob.len = 0;
    check_call(f, RESTORE, &req.base, KL_BLOB_MALFORMED, "blob", "not a kluis backup blob");
    req.blob.len = blob.len - 1;
    check_call(f, RESTORE, &req.base, KL_BLOB_TRUNCATED, "blob", "truncated");
    req.blob.len = blob.len;
    blob.ptr[blob.len - 40] ^= 1;
    check_call(f, RESTORE, &req.base, KL_BLOB_TAMPERED, "blob", "changed");
    blob.ptr[blob.len - 40] ^= 1;
    blob.ptr[0] ^= 1;
    check_call(f, RESTORE, &req.base, KL_BLOB_MALFORMED, "blob", "not a kluis backup blob");
    blob.ptr[0] ^= 1;
    f->nodes[0].view.geography = "elsewhere";
    check_call(f, RESTORE, &req.base, KL_BLOB_GEOGRAPHY, "blob", "geography");
    f->nodes[0].view.geography = "lab";
    req.vault = TEXT("unknown");
    check_call(f, RESTORE, &req.base, KL_VAULT_NOT_FOUND, "vault", "no vault");
    CHECK_EQ(fake_store_entries(f->stores[1]), entries);
    req.vault = TEXT("into");
    check_call(f, RESTORE, &req.base, KL_OK, NULL, NULL);
    kl_buf_wipe(&blob);
    fix_free(f);
}

/* Backup needs a live secret in a live vault. */
TEST(backup, not_there)
{
    struct fix *f = with_vaults();
    Kluis__V1__SecretBackupRequest req = KLUIS__V1__SECRET_BACKUP_REQUEST__INIT;

    req.vault = TEXT("from");
    req.name = TEXT("none");
    check_call(f, BACKUP, &req.base, KL_NOT_FOUND, "name", "no secret");
    set_secret(f, "from", "s", "v", NULL);
    CHECK_OK(delete_secret(f, "from", "s"));
    req.name = TEXT("s");
    check_call(f, BACKUP, &req.base, KL_NOT_FOUND, "name", "no secret");
    req.name = TEXT("?");
    check_call(f, BACKUP, &req.base, KL_INVALID_ARGUMENT, "name", "1 to 127");
    fix_free(f);
}

/* The same request id restores once; the retry is answered although the name is in use now. */
TEST(backup, restore_retried)
{
    struct fix *f = with_vaults();
    Kluis__V1__SecretRestoreRequest req;
    const uint8_t id[KL_ID_LEN] = {0xd0};
    const struct ask ask = {.method = RESTORE, .request = &req.base, .request_id = id};
    struct kl_buf blob;
    uint64_t entries;

    set_secret(f, "from", "s", "v", NULL);
    blob = backup(f, "from", "s", 1);
    req = restore_request("into", &blob);
    for (int i = 0; i < 3; i++) {
        struct answer a = fix_ask(f, &ask);

        CHECK_OK(a.st);
        CHECK_EQ(((Kluis__V1__SecretRestoreResponse *)a.response)->version_count, 1);
        answer_free(&a);
        if (i == 0) {
            entries = fake_store_entries(f->stores[1]);
        }
    }
    CHECK_EQ(fake_store_entries(f->stores[1]), entries);
    kl_buf_wipe(&blob);
    fix_free(f);
}

/* A stage that is refused ends the restore; nothing is visible, and a later one works. */
TEST(backup, stage_fails)
{
    struct fix *f = with_vaults();
    Kluis__V1__SecretRestoreRequest req;
    struct kl_buf blob;
    char value[8];

    set_secret(f, "from", "s", "v", NULL);
    blob = backup(f, "from", "s", 1);
    req = restore_request("into", &blob);
    fake_store_refuse(f->stores[1], 1, KL_NO_SPACE);
    check_call(f, RESTORE, &req.base, KL_NO_SPACE, NULL, NULL);
    CHECK_STATUS(get_secret(f, "into", "s", "", value, sizeof value), KL_NOT_FOUND);
    check_call(f, RESTORE, &req.base, KL_OK, NULL, NULL);
    CHECK_OK(get_secret(f, "into", "s", "", value, sizeof value));
    kl_buf_wipe(&blob);
    fix_free(f);
}

/* Delete, purge, restore from the blob into the same vault: everything is back. */
TEST(backup, after_purge)
{
    struct fix *f = with_vaults();
    Kluis__V1__SecretPurgeRequest purge = KLUIS__V1__SECRET_PURGE_REQUEST__INIT;
    Kluis__V1__SecretRestoreRequest req;
    struct kl_buf blob;
    char value[8], version[33];

    set_secret(f, "from", "s", "v", version);
    blob = backup(f, "from", "s", 1);
    CHECK_OK(delete_secret(f, "from", "s"));
    purge.vault = TEXT("from");
    purge.name = TEXT("s");
    check_call(f, "/kluis.v1.Secrets/Purge", &purge.base, KL_OK, NULL, NULL);
    req = restore_request("from", &blob);
    check_call(f, RESTORE, &req.base, KL_OK, NULL, NULL);
    CHECK_OK(get_secret(f, "from", "s", version, value, sizeof value));
    CHECK_STR(value, "v");
    kl_buf_wipe(&blob);
    fix_free(f);
}
