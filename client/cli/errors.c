/*
 * What went wrong, and what to do about it.
 */
#include "client/cli/cli.h"

#include <stdarg.h>
#include <string.h>

int kl_cli_exit_of(enum kluis_status status)
{
    switch (status) {
    case KLUIS_OK:
        return KL_CLI_OK;
    case KLUIS_NOT_FOUND:
    case KLUIS_VAULT_NOT_FOUND:
        return KL_CLI_NOT_FOUND;
    case KLUIS_ALREADY_EXISTS:
    case KLUIS_DELETED:
    case KLUIS_VAULT_DELETED:
    case KLUIS_PURGE_PROTECTED:
    case KLUIS_CHANGED:
    case KLUIS_QUORUM:
        return KL_CLI_CONFLICT;
    case KLUIS_DISABLED:
    case KLUIS_FORBIDDEN:
    case KLUIS_UNAUTHENTICATED:
        return KL_CLI_DENIED;
    case KLUIS_EXHAUSTED:
    case KLUIS_NO_SPACE:
    case KLUIS_UNAVAILABLE:
    case KLUIS_NOT_LEADER:
    case KLUIS_SEALED:
    case KLUIS_TIMEOUT:
    case KLUIS_EXPIRED:
    case KLUIS_CANCELLED:
    case KLUIS_CLOSED:
    case KLUIS_TOO_OLD:
        return KL_CLI_UNAVAILABLE;
    case KLUIS_INVALID_ARGUMENT:
    case KLUIS_TOO_LARGE:
    case KLUIS_FIXED:
    case KLUIS_BLOB_MALFORMED:
    case KLUIS_BLOB_FORMAT:
    case KLUIS_BLOB_TRUNCATED:
    case KLUIS_BLOB_TAMPERED:
    case KLUIS_BLOB_SUBSCRIPTION:
    case KLUIS_BLOB_GEOGRAPHY:
    case KLUIS_BLOB_KIND:
        return KL_CLI_BAD_INPUT;
    case KLUIS_UNIMPLEMENTED:
    case KLUIS_NO_MEMORY:
    case KLUIS_CRYPTO:
    case KLUIS_CORRUPT:
    case KLUIS_IO:
    case KLUIS_PROTOCOL:
    case KLUIS_INTERNAL:
        break;
    }
    return KL_CLI_INTERNAL;
}

struct advice {
    enum kluis_status status;
    const char *group;   /* NULL = any */
    const char *command; /* NULL = any */
    const char *text;    /* %v: vault, %n: name */
};

/* The first that fits. */
static const struct advice advices[] = {
    {KLUIS_NOT_FOUND, "secret", "show-deleted",
     "what is deleted: kluis secret list-deleted --vault-name %v"},
    {KLUIS_NOT_FOUND, "secret", "recover",
     "what is deleted: kluis secret list-deleted --vault-name %v"},
    {KLUIS_NOT_FOUND, "secret", "purge",
     "only deleted secrets can be purged: kluis secret delete first, or see kluis secret "
     "list-deleted --vault-name %v"},
    {KLUIS_NOT_FOUND, "secret", NULL,
     "what is there: kluis secret list --vault-name %v; what is deleted: kluis secret list-deleted "
     "--vault-name %v"},
    {KLUIS_VAULT_NOT_FOUND, NULL, "purge",
     "only deleted vaults can be purged; see kluis vault list-deleted"},
    {KLUIS_VAULT_NOT_FOUND, NULL, NULL,
     "what is there: kluis vault list; what is deleted: kluis vault list-deleted"},
    {KLUIS_ALREADY_EXISTS, "secret", "restore",
     "restore into another vault, or delete and purge the secret of that name first"},
    {KLUIS_ALREADY_EXISTS, "vault", NULL,
     "choose another name; vault names are unique in the cluster"},
    {KLUIS_DELETED, "secret", "restore",
     "recover or purge the deleted secret of that name first: kluis secret list-deleted "
     "--vault-name %v"},
    {KLUIS_DELETED, NULL, NULL,
     "bring it back: kluis secret recover --vault-name %v --name %n; or destroy it for good: kluis "
     "secret purge --vault-name %v --name %n"},
    {KLUIS_VAULT_DELETED, NULL, NULL,
     "bring it back: kluis vault recover --name %v; or destroy it for good: kluis vault purge "
     "--name %v"},
    {KLUIS_PURGE_PROTECTED, "secret", NULL,
     "when it will be purged by itself: kluis secret show-deleted --vault-name %v --name %n"},
    {KLUIS_PURGE_PROTECTED, "vault", NULL,
     "when it will be purged by itself: kluis vault show-deleted --name %v"},
    {KLUIS_DISABLED, NULL, NULL,
     "enable it: kluis secret set-attributes --vault-name %v --name %n --enabled true"},
    {KLUIS_FORBIDDEN, NULL, "purge",
     "the right to purge is granted to nobody unless the configuration names it (rights of the "
     "token's [principal])"},
    {KLUIS_FORBIDDEN, NULL, NULL,
     "the rights of the token's [principal] are in the configuration of the nodes"},
    {KLUIS_UNAUTHENTICATED, NULL, NULL,
     "give the token with --token-file, KLUIS_TOKEN_FILE or KLUIS_TOKEN"},
    {KLUIS_UNAVAILABLE, NULL, NULL,
     "are the endpoints right and does a majority of the nodes run? kluis health; kluis cluster "
     "status"},
    {KLUIS_NOT_LEADER, NULL, NULL, "does a majority of the nodes run? kluis cluster status"},
    {KLUIS_TIMEOUT, NULL, NULL,
     "try again, with a longer --timeout; kluis health tells who serves"},
    {KLUIS_TOO_OLD, NULL, NULL,
     "no leader can be heard: allow a greater --max-age, or wait until kluis cluster status shows "
     "one"},
    {KLUIS_EXPIRED, NULL, NULL, "nothing was done: try again, with a longer --timeout"},
    {KLUIS_SEALED, NULL, NULL, "the node has no seal key: check seal_file in its configuration"},
    {KLUIS_NO_SPACE, NULL, NULL, "make space on the disks of the nodes; reads go on meanwhile"},
    {KLUIS_EXHAUSTED, NULL, NULL, "the cluster is busy: try again later"},
    {KLUIS_CHANGED, NULL, NULL,
     "somebody else changed it at the same time: look at it and try again"},
    {KLUIS_QUORUM, NULL, NULL,
     "bring the other nodes up first: kluis cluster status shows who is connected and how far"},
    {KLUIS_FIXED, NULL, NULL, "the retention is chosen when a vault is created and never changes"},
    {KLUIS_BLOB_MALFORMED, NULL, NULL, "give the file that kluis secret backup wrote"},
    {KLUIS_BLOB_FORMAT, NULL, NULL,
     "restore it with the version of kluisd that wrote it, or a newer one"},
    {KLUIS_BLOB_TRUNCATED, NULL, NULL, "the file is incomplete: take another copy of it"},
    {KLUIS_BLOB_TAMPERED, NULL, NULL, "the file was damaged or changed: take another copy of it"},
    {KLUIS_BLOB_SUBSCRIPTION, NULL, NULL,
     "restore into a vault of the subscription it was backed up from"},
    {KLUIS_BLOB_GEOGRAPHY, NULL, NULL, "restore in a cluster of the geography it was backed up in"},
};

static const char *find_advice(const struct kl_cli *cli, enum kluis_status status)
{
    if (status == KLUIS_UNAVAILABLE && strstr(kluis_last_error(), "certificate is not trusted")) {
        return "the node's certificate must be signed by the CA of --ca-file (KLUIS_CA_FILE), name "
               "the host of the endpoint, and be valid now";
    }
    for (size_t i = 0; i < sizeof advices / sizeof advices[0]; i++) {
        const struct advice *a = &advices[i];

        if (a->status == status &&
            (a->group == NULL || strcmp(a->group, cli->command->group) == 0) &&
            (a->command == NULL || strcmp(a->command, cli->command->name) == 0)) {
            return a->text;
        }
    }
    return NULL;
}

static void print_advice(const struct kl_cli *cli, const char *text)
{
    const char *name = cli->args.text[KL_OPT_NAME];
    const char *vault = cli->args.text[KL_OPT_VAULT_NAME];
    FILE *err = cli->world->err;

    vault = vault == NULL ? name : vault;
    (void)fputs("hint: ", err);
    for (; *text != '\0'; text++) {
        if (*text != '%') {
            (void)fputc(*text, err);
            continue;
        }
        text++;
        (void)fputs(
            *text == 'v' ? (vault == NULL ? "VAULT" : vault) : (name == NULL ? "NAME" : name), err);
    }
    (void)fputc('\n', err);
}

static void print_command(const struct kl_cli *cli)
{
    if (cli->command == NULL) {
        (void)fputs("kluis: ", cli->world->err);
    } else {
        (void)fprintf(cli->world->err, "kluis %s%s%s: ", cli->command->group,
                      cli->command->group[0] == '\0' ? "" : " ", cli->command->name);
    }
}

int kl_cli_failed(struct kl_cli *cli, enum kluis_status status)
{
    const char *text = kluis_last_error();
    const char *advice = find_advice(cli, status);

    print_command(cli);
    (void)fprintf(cli->world->err, "%s: %s\n", kluis_status_name(status),
                  text[0] == '\0' ? kluis_status_text(status) : text);
    if (advice != NULL) {
        print_advice(cli, advice);
    }
    return kl_cli_exit_of(status);
}

int kl_cli_complain(struct kl_cli *cli, int code, const char *format, ...)
{
    va_list args;

    print_command(cli);
    va_start(args, format);
    (void)vfprintf(cli->world->err, format, args);
    va_end(args);
    (void)fputc('\n', cli->world->err);
    return code;
}
