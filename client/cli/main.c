/*
 * kluis: the command line of the vault service. kluis(1).
 */
#include "client/cli/cli.h"

#include <locale.h>
#include <signal.h>
#include <stdlib.h>

static const char *environment(void *ctx, const char *name)
{
    (void)ctx;
    return getenv(name);
}

int main(int argc, char **argv)
{
    struct kl_cli_world world = {
        .in = stdin, .out = stdout, .err = stderr, .env = environment, .ctx = NULL};

    (void)setlocale(LC_ALL, "");
    (void)signal(SIGPIPE, SIG_DFL); /* `| head` ends us quietly */
    kl_cli_wipe_json();
    return kl_cli_run(&world, argc, argv);
}
