/*
 * The completion script of bash, made from the tables.
 */
#include "client/cli/cli.h"

#include <string.h>

static void print_options(FILE *out, const struct kl_cli_command *command)
{
    for (size_t i = 0; i < command->uses_n; i++) {
        const struct kl_cli_option *o = &kl_cli_options[command->uses[i].option];

        (void)fprintf(out, "%s%s", i == 0 ? "" : " ", o->name);
    }
}

static void print_words(FILE *out)
{
    (void)fputs("    local groups=\"", out);
    for (size_t i = 0; i < kl_cli_groups_n; i++) {
        (void)fprintf(out, "%s%s", i == 0 ? "" : " ", kl_cli_groups[i].name);
    }
    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        if (kl_cli_commands[i].group[0] == '\0') {
            (void)fprintf(out, " %s", kl_cli_commands[i].name);
        }
    }
    (void)fputs("\"\n    local global=\"", out);
    for (size_t i = KL_OPT_FIRST_GLOBAL; i < KL_OPT_N; i++) {
        (void)fprintf(out, "%s%s", i == KL_OPT_FIRST_GLOBAL ? "" : " ", kl_cli_options[i].name);
    }
    (void)fputs("\"\n", out);
}

/* What may follow an option. */
static void print_values(FILE *out)
{
    (void)fputs("    case $prev in\n", out);
    for (size_t i = 0; i < KL_OPT_N; i++) {
        const struct kl_cli_option *o = &kl_cli_options[i];

        if (o->kind == KL_KIND_FLAG) {
            continue;
        }
        (void)fprintf(out, "    %s", o->name);
        if (o->alias != NULL) {
            (void)fprintf(out, " | %s", o->alias);
        }
        if (o->letter != 0) {
            (void)fprintf(out, " | -%c", o->letter);
        }
        if (o->kind == KL_KIND_FILE) {
            (void)fputs(") compopt -o default; return ;;\n", out);
        } else if (o->choices != NULL) {
            (void)fprintf(out, ") COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); return ;;\n",
                          o->choices);
        } else {
            (void)fputs(") return ;;\n", out);
        }
    }
    (void)fputs("    esac\n", out);
}

static void print_commands(FILE *out)
{
    (void)fputs("    case $group in\n    '') words=$groups ;;\n", out);
    for (size_t g = 0; g < kl_cli_groups_n; g++) {
        (void)fprintf(out, "    %s)\n        case $command in\n        '') words=\"",
                      kl_cli_groups[g].name);
        for (size_t i = 0, n = 0; i < kl_cli_commands_n; i++) {
            if (strcmp(kl_cli_commands[i].group, kl_cli_groups[g].name) == 0) {
                (void)fprintf(out, "%s%s", n++ == 0 ? "" : " ", kl_cli_commands[i].name);
            }
        }
        (void)fputs("\" ;;\n", out);
        for (size_t i = 0; i < kl_cli_commands_n; i++) {
            if (strcmp(kl_cli_commands[i].group, kl_cli_groups[g].name) == 0) {
                (void)fprintf(out, "        %s) words=\"", kl_cli_commands[i].name);
                print_options(out, &kl_cli_commands[i]);
                (void)fputs("\" ;;\n", out);
            }
        }
        (void)fputs("        esac\n        ;;\n", out);
    }
    (void)fputs("    completion) words=bash ;;\n    esac\n", out);
}

void kl_cli_complete_bash(FILE *out)
{
    (void)fputs("# bash completion for kluis: made by `kluis completion bash`\n"
                "# shellcheck shell=bash disable=SC2207\n"
                "_kluis() {\n"
                "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
                "    local group=\"\" command=\"\" words=\"\" i\n",
                out);
    print_words(out);
    (void)fputs("    COMPREPLY=()\n", out);
    print_values(out);
    (void)fputs(
        "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
        "        case ${COMP_WORDS[i]} in\n"
        "        -*) ;;\n"
        "        *)\n"
        "            if [ -z \"$group\" ]; then\n"
        "                case \" $groups \" in *\" ${COMP_WORDS[i]} \"*) group=${COMP_WORDS[i]} ;; "
        "esac\n"
        "            elif [ -z \"$command\" ]; then\n"
        "                command=${COMP_WORDS[i]}\n"
        "            fi\n"
        "            ;;\n"
        "        esac\n"
        "    done\n",
        out);
    print_commands(out);
    (void)fputs("    case $cur in\n"
                "    -*) words=\"$words $global\" ;;\n"
                "    esac\n"
                "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                "}\n"
                "complete -F _kluis kluis\n",
                out);
}
