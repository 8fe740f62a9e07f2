#include "client/cli/cli.h"

#include <string.h>

enum { WIDTH = 96, LEFT = 30 };

/* Wraps text at blanks; every line after the first begins at column `indent`. */
static void wrap(FILE *out, const char *text, size_t indent)
{
    size_t column = indent;

    while (*text != '\0') {
        size_t n = strcspn(text, " ");

        if (column + n > WIDTH && column > indent) {
            (void)fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
        }
        (void)fprintf(out, "%.*s", (int)n, text);
        text += n;
        column += n;
        if (*text == ' ') {
            text++;
            if (*text != '\0' && column + 1 + strcspn(text, " ") <= WIDTH) {
                (void)fputc(' ', out);
                column++;
            } else {
                column = WIDTH + 1; /* break before the next word */
            }
        }
    }
    (void)fputc('\n', out);
}

static void print_option(FILE *out, const struct kl_cli_option *o, const char *help, bool required)
{
    char left[80];
    char letter[8] = "";
    char metavar[40] = "";

    if (o->letter != 0) {
        (void)snprintf(letter, sizeof letter, ", -%c", o->letter);
    }
    if (o->metavar != NULL) {
        (void)snprintf(metavar, sizeof metavar, " %s", o->metavar);
    }
    (void)snprintf(left, sizeof left, "  %s%s%s", o->name, letter, metavar);
    (void)fprintf(out, "%-*s", LEFT, left);
    if (strlen(left) >= LEFT) {
        (void)fprintf(out, "\n%*s", LEFT, "");
    }
    if (required) {
        char text[400];

        (void)snprintf(text, sizeof text, "%s (required)", help == NULL ? o->help : help);
        wrap(out, text, LEFT);
    } else {
        wrap(out, help == NULL ? o->help : help, LEFT);
    }
}

static void print_global(FILE *out)
{
    (void)fputs("\nOptions of every command:\n", out);
    for (size_t i = KL_OPT_FIRST_GLOBAL; i < KL_OPT_N; i++) {
        print_option(out, &kl_cli_options[i], NULL, false);
    }
}

/* Lines of a command follow "kluis "; one with a pipe says it itself. */
static void print_examples(FILE *out, const char *examples)
{
    (void)fputs("\nExamples:\n", out);
    while (*examples != '\0') {
        size_t n = strcspn(examples, "\n");
        bool whole = false;

        for (size_t i = 0; i + 6 <= n; i++) {
            whole |= strncmp(examples + i, "kluis ", 6) == 0;
        }
        (void)fprintf(out, "  %s%.*s\n", whole ? "" : "kluis ", (int)n, examples);
        examples += n + (examples[n] == '\n');
    }
}

static void print_exits(FILE *out)
{
    (void)fputs(
        "\nExit status:\n"
        "  0  done\n"
        "  1  internal fault, here or in the cluster\n"
        "  2  wrong command line\n"
        "  3  not found\n"
        "  4  conflict: the name is in use or deleted, purge protection is on, or too few nodes\n"
        "     would be left\n"
        "  5  denied: no valid token, no right, or the version is disabled\n"
        "  6  unavailable, or no answer in time\n"
        "  7  bad input: a value that is not allowed or too large, a backup that is refused\n"
        "  8  a local file cannot be read or written\n",
        out);
}

void kl_cli_help(FILE *out)
{
    (void)fputs("kluis: secrets in a replicated vault.\n\n"
                "Usage: kluis GROUP COMMAND [OPTIONS]\n\nGroups:\n",
                out);
    for (size_t i = 0; i < kl_cli_groups_n; i++) {
        (void)fprintf(out, "  %-14s%s\n", kl_cli_groups[i].name, kl_cli_groups[i].summary);
    }
    (void)fputs("\nCommands:\n", out);
    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        if (kl_cli_commands[i].group[0] == '\0') {
            (void)fprintf(out, "  %-14s%s\n", kl_cli_commands[i].name, kl_cli_commands[i].summary);
        }
    }
    print_global(out);
    (void)fputs(
        "\nEnvironment:\n"
        "  KLUIS_ENDPOINT, KLUIS_CA_FILE, KLUIS_TOKEN_FILE, KLUIS_TOKEN, KLUIS_PROFILE\n"
        "\nProfile (~/.config/kluis/profile): lines KEY = VALUE with the keys endpoint, ca_file,\n"
        "token_file and output. Options come first, then the environment, then the profile.\n",
        out);
    print_exits(out);
    print_examples(out, "vault create --name team\n"
                        "secret set --vault-name team --name db --value s3cret\n"
                        "secret show --vault-name team --name db --query value\n"
                        "secret delete --vault-name team --name db\n"
                        "secret recover --vault-name team --name db\n"
                        "secret --help\n");
}

void kl_cli_help_group(FILE *out, const struct kl_cli_group *group)
{
    (void)fprintf(out, "kluis %s: %s.\n\nUsage: kluis %s COMMAND [OPTIONS]\n\nCommands:\n",
                  group->name, group->summary, group->name);
    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        if (strcmp(kl_cli_commands[i].group, group->name) == 0) {
            (void)fprintf(out, "  %-16s%s\n", kl_cli_commands[i].name, kl_cli_commands[i].summary);
        }
    }
    (void)fprintf(out, "\nEach has more: kluis %s COMMAND --help\n", group->name);
    print_examples(out, group->examples);
}

void kl_cli_help_command(FILE *out, const struct kl_cli_command *command)
{
    const char *space = command->group[0] == '\0' ? "" : " ";

    (void)fprintf(out, "kluis %s%s%s: %s.\n\nUsage: kluis %s%s%s", command->group, space,
                  command->name, command->summary, command->group, space, command->name);
    for (size_t i = 0; i < command->uses_n; i++) {
        const struct kl_cli_option *o = &kl_cli_options[command->uses[i].option];

        if (command->uses[i].required) {
            (void)fprintf(out, " %s %s", o->name, o->metavar);
        }
    }
    (void)fputs(strcmp(command->name, "completion") == 0 ? " bash\n" : " [OPTIONS]\n", out);
    if (command->details[0] != '\0') {
        (void)fputc('\n', out);
        wrap(out, command->details, 0);
    }
    if (command->uses_n != 0) {
        (void)fputs("\nOptions:\n", out);
    }
    for (size_t i = 0; i < command->uses_n; i++) {
        print_option(out, &kl_cli_options[command->uses[i].option], command->uses[i].help,
                     command->uses[i].required);
    }
    print_global(out);
    print_exits(out);
    print_examples(out, command->examples);
}
