#include "client/cli/cli.h"

#include <string.h>

int kl_cli_completion(struct kl_cli *cli)
{
    kl_cli_complete_bash(cli->world->out);
    return KL_CLI_OK;
}

int kl_cli_version(struct kl_cli *cli)
{
    (void)fprintf(cli->world->out, "kluis %s\n", kluis_version());
    return KL_CLI_OK;
}

/* Help and version need nothing else to be right. */
static bool only_text(struct kl_cli *cli, const struct kl_cli_group *group, bool version)
{
    FILE *out = cli->world->out;

    if (version) {
        (void)kl_cli_version(cli);
    } else if (cli->args.given[KL_OPT_HELP] && cli->command != NULL) {
        kl_cli_help_command(out, cli->command);
    } else if (cli->args.given[KL_OPT_HELP] && group != NULL) {
        kl_cli_help_group(out, group);
    } else if (cli->args.given[KL_OPT_HELP]) {
        kl_cli_help(out);
    } else {
        return false;
    }
    return true;
}

static int run_command(struct kl_cli *cli)
{
    int code = kl_cli_settings_load(cli);

    if (code == KL_CLI_OK && !cli->command->offline) {
        code = kl_cli_connect(cli);
    }
    if (code == KL_CLI_OK) {
        code = cli->command->run(cli);
    }
    kluis_close(cli->client);
    return code;
}

int kl_cli_run(const struct kl_cli_world *world, int argc, char **argv)
{
    struct kl_cli cli = {.world = world};
    const struct kl_cli_group *group = NULL;
    bool version = false;
    int code = kl_cli_parse(&cli, argc, argv, &group, &version);

    if (code == KL_CLI_OK && !only_text(&cli, group, version)) {
        code = run_command(&cli);
    }
    kl_cli_forget(&cli);
    if (fflush(world->out) != 0 && code == KL_CLI_OK) {
        code = KL_CLI_LOCAL_IO;
    }
    return code;
}
