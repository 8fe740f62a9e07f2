/*
 * Words of the command line into a command and its options. Whatever is wrong is said in one line,
 * with the nearest right word.
 */
#include "client/cli/cli.h"
#include "common/alloc.h"
#include "common/names.h"

#include <string.h>

struct parser {
    struct kl_cli *cli;
    int argc;
    char **argv;
    int at;
};

const struct kl_cli_use *kl_cli_use_of(const struct kl_cli_command *command, enum kl_cli_opt option)
{
    for (size_t i = 0; i < command->uses_n; i++) {
        if (command->uses[i].option == option) {
            return &command->uses[i];
        }
    }
    return NULL;
}

static bool allowed(const struct kl_cli_command *command, const struct kl_cli_option *option)
{
    return option->id >= KL_OPT_FIRST_GLOBAL ||
           (command != NULL && kl_cli_use_of(command, option->id) != NULL);
}

static void title(const struct kl_cli *cli, char *out, size_t out_len)
{
    if (cli->command == NULL) {
        (void)snprintf(out, out_len, "kluis");
    } else {
        (void)snprintf(out, out_len, "kluis %s%s%s", cli->command->group,
                       cli->command->group[0] == '\0' ? "" : " ", cli->command->name);
    }
}

static int usage(const struct kl_cli *cli, const char *what, const char *word, const char *nearest)
{
    char name[64];
    FILE *err = cli->world->err;

    title(cli, name, sizeof name);
    (void)fprintf(err, "%s: %s%s%s%s", name, what, word == NULL ? "" : " \"",
                  word == NULL ? "" : word, word == NULL ? "" : "\"");
    if (nearest != NULL) {
        (void)fprintf(err, ". Did you mean %s?", nearest);
    }
    (void)fprintf(err, "\nTry '%s --help'.\n", name);
    return KL_CLI_USAGE;
}

/* "--value=secret": what stands before the = only, so that no value gets into a message. */
static int unknown_option(const struct kl_cli *cli, const char *word)
{
    struct kl_cli_nearest nearest;
    char name[48];
    size_t n = strcspn(word, "=");

    (void)snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), word);
    kl_cli_nearest_init(&nearest, name);
    for (size_t i = 0; i < KL_OPT_N; i++) {
        if (allowed(cli->command, &kl_cli_options[i])) {
            kl_cli_nearest_add(&nearest, kl_cli_options[i].name);
        }
    }
    return usage(cli, "unknown option", name, kl_cli_nearest(&nearest));
}

/* ---------------------------------------------------------------- values */

static int bad_value(const struct parser *p, const struct kl_cli_option *o, const char *text)
{
    char what[160];

    switch (o->kind) {
    case KL_KIND_NUMBER:
        (void)snprintf(what, sizeof what, "%s must be a number %llu..%llu, not", o->name,
                       (unsigned long long)o->min, (unsigned long long)o->max);
        break;
    case KL_KIND_TIME:
        (void)snprintf(what, sizeof what, "%s must be UTC as in 2026-01-02T03:04:05Z, not",
                       o->name);
        break;
    case KL_KIND_SPAN:
        (void)snprintf(what, sizeof what, "%s must be a span as in 5s, 500ms or 2m, not", o->name);
        break;
    case KL_KIND_TAGS:
        (void)snprintf(what, sizeof what, "%s takes KEY=VALUE, not", o->name);
        break;
    default:
        (void)snprintf(what, sizeof what, "%s must be one of: %s; not", o->name, o->choices);
        break;
    }
    return usage(p->cli, what, text, NULL);
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);

    for (const char *p = choices; *p != '\0'; p += *p == ' ') {
        size_t len = strcspn(p, " ");

        if (len == n && strncmp(p, text, n) == 0) {
            return true;
        }
        p += len;
    }
    return false;
}

static int take_tag(const struct parser *p, const struct kl_cli_option *o, const char *text)
{
    struct kl_cli_args *args = &p->cli->args;
    const char *eq = strchr(text, '=');

    if (text[0] == '\0') {
        return KL_CLI_OK; /* --tags "": none */
    }
    if (eq == NULL || eq == text) {
        return bad_value(p, o, text);
    }
    if (args->tags_n == KL_CLI_TAGS_MAX) {
        return usage(p->cli, "too many tags", NULL, NULL);
    }
    args->tags[args->tags_n].key = kl_cli_keep_text(p->cli, text, (size_t)(eq - text));
    args->tags[args->tags_n++].value = eq + 1;
    return KL_CLI_OK;
}

static int take_list(const struct parser *p, const char *text)
{
    struct kl_cli_args *args = &p->cli->args;

    while (*text != '\0') {
        size_t n = strcspn(text, ", ");

        if (n != 0) {
            if (args->list_n == KL_CLI_ENDPOINTS_MAX) {
                return usage(p->cli, "too many endpoints", NULL, NULL);
            }
            args->list[args->list_n++] = kl_cli_keep_text(p->cli, text, n);
        }
        text += n + (text[n] != '\0');
    }
    return KL_CLI_OK;
}

/* One value of an option. A value of --value is taken away from the process list. */
static int take_value(const struct parser *p, const struct kl_cli_option *o, char *text)
{
    struct kl_cli_args *args = &p->cli->args;
    bool ok = true;

    args->text[o->id] = text;
    switch (o->kind) {
    case KL_KIND_NUMBER:
        ok = kl_number_parse(text, o->min, o->max, &args->number[o->id]) == KL_OK;
        break;
    case KL_KIND_TIME:
        ok = text[0] == '\0' || kl_cli_time_parse(text, &args->number[o->id]);
        break;
    case KL_KIND_SPAN:
        ok = kl_cli_span_parse(text, &args->number[o->id]);
        break;
    case KL_KIND_BOOL:
        ok = is_choice(o->choices, text);
        args->number[o->id] = text[0] == 't';
        break;
    case KL_KIND_CHOICE:
        ok = is_choice(o->choices, text);
        break;
    case KL_KIND_TAGS:
        return take_tag(p, o, text);
    case KL_KIND_LIST:
        return take_list(p, text);
    case KL_KIND_TEXT:
        if (o->id == KL_OPT_VALUE) {
            args->text[o->id] = kl_cli_keep_text(p->cli, text, strlen(text));
            kl_wipe(text, strlen(text));
        }
        break;
    case KL_KIND_FILE:
    case KL_KIND_FLAG:
        break;
    }
    return ok ? KL_CLI_OK : bad_value(p, o, text);
}

/* ---------------------------------------------------------------- options */

static const struct kl_cli_option *find_option(const struct kl_cli_command *command,
                                               const char *word, size_t n)
{
    for (size_t i = 0; i < KL_OPT_N; i++) {
        const struct kl_cli_option *o = &kl_cli_options[i];
        bool named = strlen(o->name) == n && strncmp(o->name, word, n) == 0;

        named |= o->alias != NULL && strlen(o->alias) == n && strncmp(o->alias, word, n) == 0;
        named |= n == 2 && word[1] != '-' && word[1] == o->letter;
        if (named && allowed(command, o)) {
            return o;
        }
    }
    return NULL;
}

static bool next_is_option(const struct parser *p)
{
    const char *next = p->at < p->argc ? p->argv[p->at] : NULL;

    return next != NULL && next[0] == '-' && next[1] != '\0' &&
           find_option(p->cli->command, next, strcspn(next, "=")) != NULL;
}

/* --name VALUE or --name=VALUE; attached is what stands after the =, or NULL. */
static int take_option(struct parser *p, const struct kl_cli_option *o, char *attached)
{
    struct kl_cli_args *args = &p->cli->args;
    bool repeats = o->kind == KL_KIND_LIST || o->kind == KL_KIND_TAGS;
    char what[128];
    int code = KL_CLI_OK;

    if (args->given[o->id] && !repeats && o->kind != KL_KIND_FLAG) {
        (void)snprintf(what, sizeof what, "%s is given twice", o->name);
        return usage(p->cli, what, NULL, NULL);
    }
    args->given[o->id] = true;
    if (o->kind == KL_KIND_FLAG) {
        args->number[o->id] = 1;
        (void)snprintf(what, sizeof what, "%s takes no value", o->name);
        return attached == NULL ? KL_CLI_OK : usage(p->cli, what, NULL, NULL);
    }
    if (attached != NULL) {
        return take_value(p, o, attached);
    }
    if (o->kind == KL_KIND_BOOL && (p->at == p->argc || next_is_option(p))) {
        args->number[o->id] = 1;
        return KL_CLI_OK;
    }
    if (p->at == p->argc || next_is_option(p)) {
        (void)snprintf(what, sizeof what,
                       "%s needs a value (one that begins with - is given as %s=VALUE)", o->name,
                       o->name);
        return usage(p->cli, what, NULL, NULL);
    }
    code = take_value(p, o, p->argv[p->at++]);
    while (code == KL_CLI_OK && o->kind == KL_KIND_TAGS && p->at < p->argc &&
           p->argv[p->at][0] != '-') {
        code = take_value(p, o, p->argv[p->at++]);
    }
    return code;
}

static int take_dashed(struct parser *p, char *word)
{
    size_t n = strcspn(word, "=");
    const struct kl_cli_option *o = find_option(p->cli->command, word, n);

    if (o != NULL) {
        return take_option(p, o, word[n] == '=' ? word + n + 1 : NULL);
    }
    if (word[1] != '-' && word[2] != '\0') { /* -nVALUE */
        o = find_option(p->cli->command, word, 2);
        if (o != NULL && o->kind != KL_KIND_FLAG) {
            return take_option(p, o, word + 2);
        }
    }
    return unknown_option(p->cli, word);
}

/* ---------------------------------------------------------------- commands */

static const struct kl_cli_command *find_command(const char *group, const char *name)
{
    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        if (strcmp(kl_cli_commands[i].group, group) == 0 &&
            strcmp(kl_cli_commands[i].name, name) == 0) {
            return &kl_cli_commands[i];
        }
    }
    return NULL;
}

static const struct kl_cli_group *find_group(const char *name)
{
    for (size_t i = 0; i < kl_cli_groups_n; i++) {
        if (strcmp(kl_cli_groups[i].name, name) == 0) {
            return &kl_cli_groups[i];
        }
    }
    return NULL;
}

static int unknown_command(const struct kl_cli *cli, const struct kl_cli_group *group,
                           const char *word)
{
    const char *in = group == NULL ? "" : group->name;
    struct kl_cli_nearest nearest;

    kl_cli_nearest_init(&nearest, word);
    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        if (strcmp(kl_cli_commands[i].group, in) == 0) {
            kl_cli_nearest_add(&nearest, kl_cli_commands[i].name);
        }
    }
    for (size_t i = 0; i < kl_cli_groups_n && group == NULL; i++) {
        kl_cli_nearest_add(&nearest, kl_cli_groups[i].name);
    }
    if (group == NULL) {
        return usage(cli, "unknown command", word, kl_cli_nearest(&nearest));
    }
    (void)fprintf(cli->world->err, "kluis %s: unknown command \"%s\"", in, word);
    if (kl_cli_nearest(&nearest) != NULL) {
        (void)fprintf(cli->world->err, ". Did you mean %s?", kl_cli_nearest(&nearest));
    }
    (void)fprintf(cli->world->err, "\nTry 'kluis %s --help'.\n", in);
    return KL_CLI_USAGE;
}

/* The leading words: [GROUP] COMMAND, or a request for help. Options of all may stand between. */
static int take_command(struct parser *p, const struct kl_cli_group **group, bool *version)
{
    struct kl_cli *cli = p->cli;
    int code = KL_CLI_OK;

    while (p->at < p->argc && cli->command == NULL && code == KL_CLI_OK) {
        char *word = p->argv[p->at++];

        if (*group == NULL && (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)) {
            *version = true;
        } else if (strcmp(word, "help") == 0) {
            cli->args.given[KL_OPT_HELP] = true;
        } else if (word[0] == '-') {
            code = take_dashed(p, word);
        } else if (*group == NULL && find_group(word) != NULL) {
            *group = find_group(word);
        } else {
            cli->command = find_command(*group == NULL ? "" : (*group)->name, word);
            code = cli->command == NULL ? unknown_command(cli, *group, word) : KL_CLI_OK;
        }
    }
    return code;
}

static int check_required(const struct kl_cli *cli)
{
    for (size_t i = 0; i < cli->command->uses_n; i++) {
        const struct kl_cli_use *use = &cli->command->uses[i];

        if (use->required && !cli->args.given[use->option]) {
            char what[80];

            (void)snprintf(what, sizeof what, "%s is required", kl_cli_options[use->option].name);
            return usage(cli, what, NULL, NULL);
        }
    }
    return KL_CLI_OK;
}

/* `kluis completion bash`: the only command with a word of its own. */
static bool takes_word(const struct kl_cli *cli, const char *word)
{
    return strcmp(cli->command->name, "completion") == 0 && strcmp(word, "bash") == 0;
}

int kl_cli_parse(struct kl_cli *cli, int argc, char **argv, const struct kl_cli_group **group,
                 bool *version)
{
    struct parser p = {.cli = cli, .argc = argc, .argv = argv, .at = 1};
    int code = take_command(&p, group, version);

    while (code == KL_CLI_OK && p.at < p.argc) {
        char *word = p.argv[p.at++];

        if (word[0] == '-' && word[1] != '\0') {
            code = take_dashed(&p, word);
        } else if (!takes_word(cli, word)) {
            code = usage(cli, "unexpected word", word, NULL);
        }
    }
    if (code == KL_CLI_OK && cli->command == NULL && !cli->args.given[KL_OPT_HELP] && !*version) {
        if (*group == NULL) {
            code = usage(cli, "which command?", NULL, NULL);
        } else {
            (void)fprintf(cli->world->err, "kluis %s: which command?\nTry 'kluis %s --help'.\n",
                          (*group)->name, (*group)->name);
            code = KL_CLI_USAGE;
        }
    }
    if (code == KL_CLI_OK && cli->command != NULL && !cli->args.given[KL_OPT_HELP]) {
        code = check_required(cli);
    }
    return code;
}
