/*
 * Where the cluster is and who asks: options, then the environment, then the profile.
 *
 * A profile is lines of KEY = VALUE; # begins a comment. Keys: endpoint (as --endpoint), ca_file,
 * token_file, output. "~/" at the beginning of a file name is the home directory.
 */
#include "client/cli/cli.h"
#include "common/alloc.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum { PROFILE_MAX = 65536, TOKEN_FILE_MAX = KL_TOKEN_MAX + 64 };

static const char *const profile_keys[] = {"endpoint", "ca_file", "token_file", "output"};
enum { KEY_ENDPOINT, KEY_CA_FILE, KEY_TOKEN_FILE, KEY_OUTPUT, KEYS_N };

struct profile {
    const char *value[KEYS_N];
};

static const char *env(const struct kl_cli *cli, const char *name)
{
    const char *value = cli->world->env(cli->world->ctx, name);

    return value == NULL || value[0] == '\0' ? NULL : value;
}

static const char *expand(struct kl_cli *cli, const char *path)
{
    const char *home = env(cli, "HOME");
    char *out;
    size_t n;

    if (path == NULL || strncmp(path, "~/", 2) != 0 || home == NULL) {
        return path;
    }
    n = strlen(home) + strlen(path);
    out = kl_cli_keep(cli, n);
    (void)snprintf(out, n, "%s%s", home, path + 1);
    return out;
}

/* ---------------------------------------------------------------- profile */

static char *trim(char *text)
{
    size_t n;

    text += strspn(text, " \t\r");
    n = strlen(text);
    while (n != 0 && strchr(" \t\r", text[n - 1]) != NULL) {
        text[--n] = '\0';
    }
    return text;
}

static int profile_line(struct kl_cli *cli, const char *path, unsigned number, char *line,
                        struct profile *out)
{
    struct kl_cli_nearest nearest;
    char *eq;

    line = trim(line);
    if (line[0] == '\0' || line[0] == '#') {
        return KL_CLI_OK;
    }
    eq = strchr(line, '=');
    if (eq == NULL) {
        return kl_cli_complain(cli, KL_CLI_USAGE, "%s:%u: KEY = VALUE is needed", path, number);
    }
    *eq = '\0';
    line = trim(line);
    for (size_t i = 0; i < KEYS_N; i++) {
        if (strcmp(line, profile_keys[i]) == 0) {
            out->value[i] = trim(eq + 1);
            return KL_CLI_OK;
        }
    }
    kl_cli_nearest_init(&nearest, line);
    for (size_t i = 0; i < KEYS_N; i++) {
        kl_cli_nearest_add(&nearest, profile_keys[i]);
    }
    return kl_cli_complain(cli, KL_CLI_USAGE, "%s:%u: unknown key \"%s\"%s%s", path, number, line,
                           kl_cli_nearest(&nearest) == NULL ? "; there are endpoint, ca_file, "
                                                              "token_file and output"
                                                            : "; did you mean ",
                           kl_cli_nearest(&nearest) == NULL ? "" : kl_cli_nearest(&nearest));
}

static int profile_load(struct kl_cli *cli, struct profile *out)
{
    const char *path = cli->args.text[KL_OPT_PROFILE];
    bool optional = false;
    uint8_t *bytes = NULL;
    size_t n = 0;
    char *text;
    struct stat st;
    int code;

    path = path == NULL ? env(cli, "KLUIS_PROFILE") : path;
    if (path == NULL) {
        path = "~/.config/kluis/profile";
        optional = true;
    }
    path = expand(cli, path);
    if (optional && stat(path, &st) != 0) {
        return KL_CLI_OK;
    }
    code = kl_cli_read(cli, path, PROFILE_MAX, "profile", &bytes, &n);
    text = code == KL_CLI_OK ? kl_cli_keep_text(cli, (const char *)bytes, n) : NULL;
    for (unsigned number = 1; code == KL_CLI_OK && text != NULL; number++) {
        char *line = text;
        char *end = strchr(text, '\n');

        text = end == NULL ? NULL : end + 1;
        if (end != NULL) {
            *end = '\0';
        }
        code = profile_line(cli, path, number, line, out);
    }
    return code;
}

/* ---------------------------------------------------------------- settings */

static int set_output(struct kl_cli *cli, const char *text)
{
    static const char *const names[] = {"table", "json", "tsv", "none"};

    cli->settings.output = KL_OUTPUT_TABLE;
    for (size_t i = 0; text != NULL && i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            cli->settings.output = (enum kl_cli_output)i;
            return KL_CLI_OK;
        }
    }
    return text == NULL
               ? KL_CLI_OK
               : kl_cli_complain(cli, KL_CLI_USAGE,
                                 "output must be table, json, tsv or none, not \"%s\"", text);
}

static int set_endpoints(struct kl_cli *cli, const char *text)
{
    struct kl_cli_settings *s = &cli->settings;

    while (*text != '\0') {
        size_t n = strcspn(text, ", ");

        if (n != 0 && s->endpoints_n == KL_CLI_ENDPOINTS_MAX) {
            return kl_cli_complain(cli, KL_CLI_USAGE, "at most %d endpoints", KL_CLI_ENDPOINTS_MAX);
        }
        if (n != 0) {
            s->endpoints[s->endpoints_n++] = kl_cli_keep_text(cli, text, n);
        }
        text += n + (text[n] != '\0');
    }
    return KL_CLI_OK;
}

/* A token is one word; the line end of the file is not part of it. */
static int read_token(struct kl_cli *cli, const char *path)
{
    uint8_t *bytes = NULL;
    size_t n = 0;
    struct stat st;
    int code;

    if (strcmp(path, "-") != 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
        (st.st_mode & 077) != 0) {
        (void)fprintf(cli->world->err,
                      "kluis: warning: others may read the token file %s; chmod 600 %s\n", path,
                      path);
    }
    code = kl_cli_read(cli, path, TOKEN_FILE_MAX, "token file", &bytes, &n);
    if (code == KL_CLI_OK) {
        cli->settings.token = trim((char *)bytes);
        cli->settings.token[strcspn(cli->settings.token, "\n")] = '\0';
        cli->settings.token = trim(cli->settings.token);
        if (cli->settings.token[0] == '\0') {
            code = kl_cli_complain(cli, KL_CLI_LOCAL_IO, "the token file %s is empty", path);
        }
    }
    return code;
}

static int load_token(struct kl_cli *cli, const struct profile *profile)
{
    const char *path = cli->args.text[KL_OPT_TOKEN_FILE];
    const char *token = env(cli, "KLUIS_TOKEN");

    if (path == NULL && token != NULL) {
        cli->settings.token = kl_cli_keep_text(cli, token, strlen(token));
        return KL_CLI_OK;
    }
    path = path == NULL ? env(cli, "KLUIS_TOKEN_FILE") : path;
    path = path == NULL ? profile->value[KEY_TOKEN_FILE] : path;
    return path == NULL ? KL_CLI_OK : read_token(cli, expand(cli, path));
}

static int load_endpoints(struct kl_cli *cli, const struct profile *profile)
{
    const char *text = env(cli, "KLUIS_ENDPOINT");

    for (size_t i = 0; i < cli->args.list_n; i++) {
        cli->settings.endpoints[cli->settings.endpoints_n++] = cli->args.list[i];
    }
    if (cli->settings.endpoints_n != 0) {
        return KL_CLI_OK;
    }
    text = text == NULL ? profile->value[KEY_ENDPOINT] : text;
    return text == NULL ? KL_CLI_OK : set_endpoints(cli, text);
}

int kl_cli_settings_load(struct kl_cli *cli)
{
    struct profile profile = {{NULL}};
    const char *ca = cli->args.text[KL_OPT_CA_FILE];
    const char *output = cli->args.text[KL_OPT_OUTPUT];
    int code = KL_CLI_OK;

    if (!cli->command->offline) {
        code = profile_load(cli, &profile);
    }
    if (code == KL_CLI_OK) {
        code = set_output(cli, output == NULL ? profile.value[KEY_OUTPUT] : output);
    }
    if (code != KL_CLI_OK || cli->command->offline) {
        return code;
    }
    cli->settings.timeout_ms = (uint32_t)cli->args.number[KL_OPT_TIMEOUT] * 1000;
    ca = ca == NULL ? env(cli, "KLUIS_CA_FILE") : ca;
    ca = ca == NULL ? profile.value[KEY_CA_FILE] : ca;
    cli->settings.ca_file = expand(cli, ca);
    code = load_endpoints(cli, &profile);
    return code == KL_CLI_OK ? load_token(cli, &profile) : code;
}

/* How the command reads, when it is one that reads. */
static int set_read(struct kl_cli *cli, struct kluis_read *read)
{
    const char *kind = cli->args.text[KL_OPT_CONSISTENCY];

    *read = (struct kluis_read){KLUIS_READ_LINEARIZABLE, 0};
    if (kind != NULL && strcmp(kind, "quorum") == 0) {
        read->consistency = KLUIS_READ_QUORUM;
    } else if (kind != NULL && strcmp(kind, "stale") == 0) {
        read->consistency = KLUIS_READ_STALE;
        read->max_age_ms = (uint32_t)cli->args.number[KL_OPT_MAX_AGE];
    }
    return cli->args.given[KL_OPT_MAX_AGE] && read->consistency != KLUIS_READ_STALE
               ? kl_cli_complain(cli, KL_CLI_USAGE, "--max-age goes with --consistency stale")
               : KL_CLI_OK;
}

int kl_cli_connect(struct kl_cli *cli)
{
    const struct kl_cli_settings *s = &cli->settings;
    struct kluis_options options = {.endpoints = s->endpoints,
                                    .endpoints_n = s->endpoints_n,
                                    .ca_file = s->ca_file,
                                    .token = s->token,
                                    .timeout_ms = s->timeout_ms,
                                    .brief = true};
    char err[512] = "";
    enum kluis_status st;
    int code = set_read(cli, &options.read);

    if (code != KL_CLI_OK) {
        return code;
    }
    if (s->endpoints_n == 0) {
        return kl_cli_complain(
            cli, KL_CLI_USAGE,
            "no endpoint: give --endpoint HOST:PORT, KLUIS_ENDPOINT, or endpoint "
            "in the profile");
    }
    if (s->ca_file == NULL) {
        return kl_cli_complain(cli, KL_CLI_USAGE,
                               "no CA: give --ca-file FILE, KLUIS_CA_FILE, or ca_file in the "
                               "profile");
    }
    st = kluis_open(&options, &cli->client, err, sizeof err);
    switch (st) {
    case KLUIS_OK:
        return KL_CLI_OK;
    case KLUIS_INVALID_ARGUMENT:
        return kl_cli_complain(cli, KL_CLI_USAGE, "%s", err);
    case KLUIS_IO:
    case KLUIS_CRYPTO:
        return kl_cli_complain(cli, KL_CLI_LOCAL_IO, "%s", err);
    default:
        return kl_cli_complain(cli, KL_CLI_INTERNAL, "%s", err);
    }
}
