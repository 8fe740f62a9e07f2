/*
 * kluis secret ...
 */
#include "client/cli/cli.h"
#include "common/alloc.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COLUMNS(array) array, sizeof array / sizeof array[0]

static const struct kl_cli_column one[] = {
    {"Name", "name"},
    {"Vault", "vault"},
    {"Version", "version"},
    {"Value", "value"},
    {"ContentType", "contentType"},
    {"Enabled", "attributes.enabled"},
    {"NotBefore", "attributes.notBefore"},
    {"Expires", "attributes.expires"},
    {"Created", "attributes.created"},
    {"Updated", "attributes.updated"},
    {"Deleted", "deletedDate"},
    {"ScheduledPurge", "scheduledPurgeDate"},
    {"RecoveryLevel", "attributes.recoveryLevel"},
    {"Tags", "tags"},
};
static const struct kl_cli_column rows[] = {
    {"NAME", "name"},
    {"VERSION", "version"},
    {"CONTENTTYPE", "contentType"},
    {"ENABLED", "attributes.enabled"},
    {"EXPIRES", "attributes.expires"},
    {"UPDATED", "attributes.updated"},
};
static const struct kl_cli_column version_rows[] = {
    {"VERSION", "version"},
    {"ENABLED", "attributes.enabled"},
    {"CONTENTTYPE", "contentType"},
    {"NOTBEFORE", "attributes.notBefore"},
    {"EXPIRES", "attributes.expires"},
    {"CREATED", "attributes.created"},
};
static const struct kl_cli_column deleted_rows[] = {
    {"NAME", "name"},
    {"DELETED", "deletedDate"},
    {"SCHEDULEDPURGE", "scheduledPurgeDate"},
    {"RECOVERYLEVEL", "attributes.recoveryLevel"},
};

static const char *vault_of(const struct kl_cli *cli)
{
    return cli->args.text[KL_OPT_VAULT_NAME];
}

static const char *name_of(const struct kl_cli *cli)
{
    return cli->args.text[KL_OPT_NAME];
}

static int finish(struct kl_cli *cli, enum kluis_status st, struct kluis_secret *secret)
{
    const char *encoding = cli->args.text[KL_OPT_ENCODING];
    int code;

    if (st != KLUIS_OK) {
        return kl_cli_failed(cli, st);
    }
    code = kl_cli_print(cli, kl_cli_secret_json(cli, secret, encoding), COLUMNS(one));
    kluis_secret_free(secret);
    return code;
}

static int read_value(struct kl_cli *cli, const uint8_t **value, size_t *n)
{
    const struct kl_cli_args *a = &cli->args;
    uint8_t *bytes = NULL;
    int code;

    if (a->given[KL_OPT_VALUE] == a->given[KL_OPT_FILE]) {
        return kl_cli_complain(
            cli, KL_CLI_USAGE,
            "give the value with --value TEXT or with --file FILE (- is standard "
            "input), one of them");
    }
    if (a->given[KL_OPT_VALUE]) {
        *value = (const uint8_t *)a->text[KL_OPT_VALUE];
        *n = strlen(a->text[KL_OPT_VALUE]);
        return KL_CLI_OK;
    }
    code = kl_cli_read(cli, a->text[KL_OPT_FILE], KL_SECRET_VALUE_MAX, "value", &bytes, n);
    *value = bytes;
    return code;
}

int kl_cli_secret_set(struct kl_cli *cli)
{
    const struct kl_cli_args *a = &cli->args;
    struct kluis_secret_options options = {
        .content_type = a->text[KL_OPT_CONTENT_TYPE],
        .tags = a->tags,
        .tags_n = a->tags_n,
        .disabled = a->number[KL_OPT_DISABLED] != 0,
        .not_before_s = a->number[KL_OPT_NOT_BEFORE],
        .expires_s = a->number[KL_OPT_EXPIRES],
    };
    struct kluis_secret *secret = NULL;
    const uint8_t *value = NULL;
    size_t n = 0;
    int code = read_value(cli, &value, &n);
    enum kluis_status st;

    if (code != KL_CLI_OK) {
        return code;
    }
    st = kluis_secret_set(cli->client, vault_of(cli), name_of(cli), value, n, &options, 0, &secret);
    return finish(cli, st, secret);
}

int kl_cli_secret_show(struct kl_cli *cli)
{
    const char *encoding = cli->args.text[KL_OPT_ENCODING];
    struct kluis_secret *secret = NULL;
    enum kluis_status st = kluis_secret_get(cli->client, vault_of(cli), name_of(cli),
                                            cli->args.text[KL_OPT_VERSION], 0, &secret);

    if (st == KLUIS_OK && (encoding == NULL || strcmp(encoding, "utf-8") == 0) &&
        !kl_cli_utf8(secret->value, secret->value_len)) {
        (void)fputs(
            "kluis secret show: the value is not UTF-8 and is shown as base64; kluis secret "
            "download writes the bytes\n",
            cli->world->err);
    }
    return finish(cli, st, secret);
}

int kl_cli_secret_set_attributes(struct kl_cli *cli)
{
    const struct kl_cli_args *a = &cli->args;
    struct kluis_secret_update update = {
        .set_enabled = a->given[KL_OPT_ENABLED],
        .enabled = a->number[KL_OPT_ENABLED] != 0,
        .set_not_before = a->given[KL_OPT_NOT_BEFORE],
        .not_before_s = a->number[KL_OPT_NOT_BEFORE],
        .set_expires = a->given[KL_OPT_EXPIRES],
        .expires_s = a->number[KL_OPT_EXPIRES],
        .content_type = a->text[KL_OPT_CONTENT_TYPE],
        .set_tags = a->given[KL_OPT_TAGS],
        .tags = a->tags,
        .tags_n = a->tags_n,
    };
    struct kluis_secret *secret = NULL;
    enum kluis_status st = kluis_secret_update(cli->client, vault_of(cli), name_of(cli),
                                               a->text[KL_OPT_VERSION], &update, 0, &secret);

    return finish(cli, st, secret);
}

int kl_cli_secret_delete(struct kl_cli *cli)
{
    struct kluis_secret *secret = NULL;
    enum kluis_status st =
        kluis_secret_delete(cli->client, vault_of(cli), name_of(cli), 0, &secret);

    return finish(cli, st, secret);
}

int kl_cli_secret_show_deleted(struct kl_cli *cli)
{
    struct kluis_secret *secret = NULL;
    enum kluis_status st =
        kluis_secret_get_deleted(cli->client, vault_of(cli), name_of(cli), 0, &secret);

    return finish(cli, st, secret);
}

int kl_cli_secret_recover(struct kl_cli *cli)
{
    struct kluis_secret *secret = NULL;
    enum kluis_status st =
        kluis_secret_recover(cli->client, vault_of(cli), name_of(cli), 0, &secret);

    return finish(cli, st, secret);
}

int kl_cli_secret_purge(struct kl_cli *cli)
{
    enum kluis_status st = kluis_secret_purge(cli->client, vault_of(cli), name_of(cli), 0);

    return st == KLUIS_OK ? KL_CLI_OK : kl_cli_failed(cli, st);
}

/* ---------------------------------------------------------------- lists */

enum which { LIVE, VERSIONS, DELETED };

static enum kluis_status list_page(struct kl_cli *cli, enum which which, uint32_t size,
                                   const char *token, struct kluis_secret_list **page)
{
    switch (which) {
    case VERSIONS:
        return kluis_secret_list_versions(cli->client, vault_of(cli), name_of(cli), size, token, 0,
                                          page);
    case DELETED:
        return kluis_secret_list_deleted(cli->client, vault_of(cli), size, token, 0, page);
    case LIVE:
        break;
    }
    return kluis_secret_list(cli->client, vault_of(cli), size, token, 0, page);
}

/* What was listed so far; n of cap. */
struct rows {
    struct row {
        uint64_t created_ms;
        size_t nth;
        json_t *json;
    } * items;
    size_t n, cap;
};

static void add_row(struct kl_cli *cli, struct rows *to, const struct kluis_secret *secret)
{
    if (to->n == to->cap) {
        to->cap = to->cap == 0 ? KL_PAGE_MAX : to->cap * 2;
        to->items = kl_cli_must(kl_realloc(to->items, to->cap * sizeof(struct row)));
    }
    to->items[to->n] =
        (struct row){secret->created_ms, to->n, kl_cli_secret_json(cli, secret, NULL)};
    to->n++;
}

static int older_first(const void *a, const void *b)
{
    const struct row *x = a;
    const struct row *y = b;

    if (x->created_ms != y->created_ms) {
        return x->created_ms < y->created_ms ? -1 : 1;
    }
    return x->nth < y->nth ? -1 : 1;
}

/* All pages, or as many as --maxresults asks for. */
static enum kluis_status list_pages(struct kl_cli *cli, enum which which, struct rows *out)
{
    bool limited = cli->args.given[KL_OPT_MAXRESULTS];
    uint64_t left = limited ? cli->args.number[KL_OPT_MAXRESULTS] : UINT64_MAX;
    struct kluis_secret_list *page = NULL;
    enum kluis_status st = KLUIS_OK;
    bool more = true;

    while (more && left != 0 && st == KLUIS_OK) {
        struct kluis_secret_list *last = page;
        uint32_t size = left < KL_PAGE_MAX ? (uint32_t)left : KL_PAGE_MAX;

        page = NULL;
        st = list_page(cli, which, size, last == NULL ? NULL : last->next, &page);
        kluis_secret_list_free(last);
        for (size_t i = 0; st == KLUIS_OK && i < page->n && left != 0; i++, left--) {
            add_row(cli, out, page->items[i]);
        }
        more = st == KLUIS_OK && page->next != NULL;
    }
    kluis_secret_list_free(page);
    return st;
}

static int list(struct kl_cli *cli, enum which which, const struct kl_cli_column *columns,
                size_t columns_n)
{
    struct kl_cli_progress *progress = kl_cli_progress_start(cli, "listing");
    struct rows found = {NULL, 0, 0};
    enum kluis_status st = list_pages(cli, which, &found);
    json_t *out = kl_cli_must(json_array());

    kl_cli_progress_end(progress);
    if (which == VERSIONS && found.n != 0) {
        /* The cluster lists them by id, which says nothing to people. */
        qsort(found.items, found.n, sizeof(struct row), older_first);
    }
    for (size_t i = 0; i < found.n; i++) {
        if (json_array_append_new(out, found.items[i].json) != 0) {
            (void)kl_cli_must(NULL);
        }
    }
    kl_free(found.items);
    if (st != KLUIS_OK) {
        json_decref(out);
        return kl_cli_failed(cli, st);
    }
    return kl_cli_print(cli, out, columns, columns_n);
}

int kl_cli_secret_list(struct kl_cli *cli)
{
    return list(cli, LIVE, COLUMNS(rows));
}

int kl_cli_secret_list_versions(struct kl_cli *cli)
{
    return list(cli, VERSIONS, COLUMNS(version_rows));
}

int kl_cli_secret_list_deleted(struct kl_cli *cli)
{
    return list(cli, DELETED, COLUMNS(deleted_rows));
}

/* ---------------------------------------------------------------- files */

static const struct kl_cli_column backup_columns[] = {
    {"File", "file"}, {"Bytes", "bytes"}, {"Versions", "versions"}};

static int refuse_terminal(struct kl_cli *cli, const char *path, const char *what)
{
    int fd = fileno(cli->world->out);

    if (strcmp(path, "-") == 0 && fd >= 0 && isatty(fd) != 0) {
        return kl_cli_complain(cli, KL_CLI_USAGE, "%s is not written to a terminal", what);
    }
    return KL_CLI_OK;
}

int kl_cli_secret_backup(struct kl_cli *cli)
{
    const char *path = cli->args.text[KL_OPT_FILE];
    bool force = cli->args.given[KL_OPT_FORCE];
    struct kl_cli_progress *progress;
    struct kluis_blob *blob = NULL;
    enum kluis_status st;
    json_t *result;
    int code = refuse_terminal(cli, path, "a backup");

    if (code == KL_CLI_OK) {
        code = kl_cli_may_write(cli, path, force);
    }
    if (code != KL_CLI_OK) {
        return code;
    }
    progress = kl_cli_progress_start(cli, "backing up");
    st = kluis_secret_backup(cli->client, vault_of(cli), name_of(cli), 0, &blob);
    kl_cli_progress_end(progress);
    if (st != KLUIS_OK) {
        return kl_cli_failed(cli, st);
    }
    code = kl_cli_write(cli, path, blob->data, blob->len, force);
    if (code == KL_CLI_OK && strcmp(path, "-") != 0) {
        result = kl_cli_must(json_object());
        kl_cli_put(result, "file", kl_cli_text(path));
        kl_cli_put(result, "bytes", json_integer((json_int_t)blob->len));
        kl_cli_put(result, "versions", json_integer(blob->version_count));
        code = kl_cli_print(cli, result, COLUMNS(backup_columns));
    } else {
        kl_cli_say_age(cli);
    }
    kluis_blob_free(blob);
    return code;
}

int kl_cli_secret_restore(struct kl_cli *cli)
{
    struct kl_cli_progress *progress;
    struct kluis_secret *secret = NULL;
    uint8_t *bytes = NULL;
    size_t n = 0;
    enum kluis_status st;
    int code = kl_cli_read(cli, cli->args.text[KL_OPT_FILE], KL_BLOB_MAX, "backup", &bytes, &n);

    if (code != KL_CLI_OK) {
        return code;
    }
    progress = kl_cli_progress_start(cli, "restoring");
    st = kluis_secret_restore(cli->client, vault_of(cli), bytes, n, 0, &secret);
    kl_cli_progress_end(progress);
    return finish(cli, st, secret);
}

int kl_cli_secret_download(struct kl_cli *cli)
{
    const char *path = cli->args.text[KL_OPT_FILE];
    const char *encoding = cli->args.text[KL_OPT_ENCODING];
    bool force = cli->args.given[KL_OPT_FORCE];
    struct kluis_secret *secret = NULL;
    const void *out;
    size_t n;
    enum kluis_status st;
    int code = kl_cli_may_write(cli, path, force);

    if (code != KL_CLI_OK) {
        return code;
    }
    st = kluis_secret_get(cli->client, vault_of(cli), name_of(cli), cli->args.text[KL_OPT_VERSION],
                          0, &secret);
    if (st != KLUIS_OK) {
        return kl_cli_failed(cli, st);
    }
    out = secret->value;
    n = secret->value_len;
    if (encoding != NULL && strcmp(encoding, "utf-8") != 0) {
        const char *text = strcmp(encoding, "hex") == 0
                               ? kl_cli_hex(cli, secret->value, secret->value_len)
                               : kl_cli_base64(cli, secret->value, secret->value_len);

        out = text;
        n = strlen(text);
    }
    code = kl_cli_write(cli, path, out, n, force);
    kl_cli_say_age(cli);
    kluis_secret_free(secret);
    return code;
}
