/*
 * kluis vault ...
 */
#include "client/cli/cli.h"

#define COLUMNS(array) array, sizeof array / sizeof array[0]

static const struct kl_cli_column live[] = {
    {"Name", "name"},
    {"Location", "location"},
    {"Mirror", "properties.mirror"},
    {"LeaderRegion", "properties.leaderRegion"},
    {"MirrorCurrent", "properties.mirrorCurrent"},
    {"MirrorLagEntries", "properties.mirrorLagEntries"},
    {"ResourceGroup", "resourceGroup"},
    {"Subscription", "subscription"},
    {"RetentionDays", "properties.softDeleteRetentionInDays"},
    {"PurgeProtection", "properties.enablePurgeProtection"},
    {"Created", "properties.created"},
    {"Updated", "properties.updated"},
    {"Deleted", "properties.deletionDate"},
    {"ScheduledPurge", "properties.scheduledPurgeDate"},
    {"Tags", "tags"},
};
static const struct kl_cli_column rows[] = {
    {"NAME", "name"},
    {"LOCATION", "location"},
    {"RESOURCEGROUP", "resourceGroup"},
    {"RETENTION", "properties.softDeleteRetentionInDays"},
    {"PURGEPROTECTION", "properties.enablePurgeProtection"},
    {"CREATED", "properties.created"},
};
static const struct kl_cli_column deleted_rows[] = {
    {"NAME", "name"},
    {"LOCATION", "location"},
    {"DELETED", "properties.deletionDate"},
    {"SCHEDULEDPURGE", "properties.scheduledPurgeDate"},
    {"PURGEPROTECTION", "properties.enablePurgeProtection"},
};

static int finish(struct kl_cli *cli, enum kluis_status st, struct kluis_vault *vault)
{
    int code;

    if (st != KLUIS_OK) {
        return kl_cli_failed(cli, st);
    }
    code = kl_cli_print(cli, kl_cli_vault_json(vault), COLUMNS(live));
    kluis_vault_free(vault);
    return code;
}

int kl_cli_vault_create(struct kl_cli *cli)
{
    const struct kl_cli_args *a = &cli->args;
    struct kluis_vault_options options = {
        .subscription = a->text[KL_OPT_SUBSCRIPTION],
        .resource_group = a->text[KL_OPT_RESOURCE_GROUP],
        .location = a->text[KL_OPT_LOCATION],
        .retention_days = (uint32_t)a->number[KL_OPT_RETENTION_DAYS],
        .purge_protection = a->number[KL_OPT_PURGE_PROTECTION] != 0,
        .tags = a->tags,
        .tags_n = a->tags_n,
    };
    struct kluis_vault *vault = NULL;
    enum kluis_status st =
        kluis_vault_create(cli->client, a->text[KL_OPT_NAME], &options, 0, &vault);

    return finish(cli, st, vault);
}

int kl_cli_vault_show(struct kl_cli *cli)
{
    struct kluis_vault *vault = NULL;
    enum kluis_status st = kluis_vault_get(cli->client, cli->args.text[KL_OPT_NAME], 0, &vault);

    return finish(cli, st, vault);
}

int kl_cli_vault_update(struct kl_cli *cli)
{
    const struct kl_cli_args *a = &cli->args;
    struct kluis_vault_update update = {
        .set_tags = a->given[KL_OPT_TAGS],
        .tags = a->tags,
        .tags_n = a->tags_n,
        .enable_purge_protection = a->number[KL_OPT_PURGE_PROTECTION] != 0,
        .retention_days = (uint32_t)a->number[KL_OPT_RETENTION_DAYS],
    };
    struct kluis_vault *vault = NULL;
    enum kluis_status st;

    if (a->given[KL_OPT_PURGE_PROTECTION] && !update.enable_purge_protection) {
        return kl_cli_complain(cli, KL_CLI_BAD_INPUT,
                               "purge protection cannot be turned off once it is on");
    }
    st = kluis_vault_update(cli->client, a->text[KL_OPT_NAME], &update, 0, &vault);
    return finish(cli, st, vault);
}

int kl_cli_vault_delete(struct kl_cli *cli)
{
    struct kluis_vault *vault = NULL;
    enum kluis_status st = kluis_vault_delete(cli->client, cli->args.text[KL_OPT_NAME], 0, &vault);

    return finish(cli, st, vault);
}

int kl_cli_vault_show_deleted(struct kl_cli *cli)
{
    struct kluis_vault *vault = NULL;
    enum kluis_status st =
        kluis_vault_get_deleted(cli->client, cli->args.text[KL_OPT_NAME], 0, &vault);

    return finish(cli, st, vault);
}

int kl_cli_vault_recover(struct kl_cli *cli)
{
    struct kluis_vault *vault = NULL;
    enum kluis_status st = kluis_vault_recover(cli->client, cli->args.text[KL_OPT_NAME], 0, &vault);

    return finish(cli, st, vault);
}

int kl_cli_vault_purge(struct kl_cli *cli)
{
    enum kluis_status st = kluis_vault_purge(cli->client, cli->args.text[KL_OPT_NAME], 0);

    return st == KLUIS_OK ? KL_CLI_OK : kl_cli_failed(cli, st);
}

/* All pages, or as many as --maxresults asks for. */
static int list(struct kl_cli *cli, bool deleted)
{
    uint64_t left =
        cli->args.given[KL_OPT_MAXRESULTS] ? cli->args.number[KL_OPT_MAXRESULTS] : UINT64_MAX;
    json_t *out = kl_cli_must(json_array());
    struct kl_cli_progress *progress = kl_cli_progress_start(cli, "listing vaults");
    struct kluis_vault_list *page = NULL;
    enum kluis_status st = KLUIS_OK;
    bool more = true;

    while (more && left != 0 && st == KLUIS_OK) {
        struct kluis_vault_list *last = page;
        uint32_t size = left < KL_PAGE_MAX ? (uint32_t)left : KL_PAGE_MAX;
        const char *token = last == NULL ? NULL : last->next;

        page = NULL;
        st = deleted ? kluis_vault_list_deleted(cli->client, size, token, 0, &page)
                     : kluis_vault_list(cli->client, size, token, 0, &page);
        kluis_vault_list_free(last);
        for (size_t i = 0; st == KLUIS_OK && i < page->n && left != 0; i++, left--) {
            if (json_array_append_new(out, kl_cli_vault_json(page->items[i])) != 0) {
                (void)kl_cli_must(NULL);
            }
        }
        more = st == KLUIS_OK && page->next != NULL;
    }
    kluis_vault_list_free(page);
    kl_cli_progress_end(progress);
    if (st != KLUIS_OK) {
        json_decref(out);
        return kl_cli_failed(cli, st);
    }
    return deleted ? kl_cli_print(cli, out, COLUMNS(deleted_rows))
                   : kl_cli_print(cli, out, COLUMNS(rows));
}

int kl_cli_vault_list(struct kl_cli *cli)
{
    return list(cli, false);
}

int kl_cli_vault_list_deleted(struct kl_cli *cli)
{
    return list(cli, true);
}
