#include "client/cli/cli.h"
#include "common/alloc.h"

#include <stdlib.h>
#include <string.h>

struct kl_cli_block {
    struct kl_cli_block *next;
    size_t n;
    _Alignas(max_align_t) unsigned char bytes[];
};

void *kl_cli_must(void *p)
{
    if (p == NULL) {
        (void)fputs("kluis: out of memory\n", stderr);
        exit(KL_CLI_INTERNAL);
    }
    return p;
}

void *kl_cli_keep(struct kl_cli *cli, size_t n)
{
    struct kl_cli_block *block = kl_cli_must(kl_calloc(1, sizeof *block + n));

    block->next = cli->blocks;
    block->n = n;
    cli->blocks = block;
    return block->bytes;
}

char *kl_cli_keep_text(struct kl_cli *cli, const char *text, size_t n)
{
    char *copy = kl_cli_keep(cli, n + 1);

    memcpy(copy, text, n);
    return copy;
}

void kl_cli_forget(struct kl_cli *cli)
{
    while (cli->blocks != NULL) {
        struct kl_cli_block *next = cli->blocks->next;

        kl_wipe(cli->blocks->bytes, cli->blocks->n);
        kl_free(cli->blocks);
        cli->blocks = next;
    }
}

static void *json_alloc(size_t n)
{
    struct kl_cli_block *block = kl_cli_must(kl_malloc(sizeof *block + n));

    block->n = n;
    return block->bytes;
}

static void json_release(void *p)
{
    if (p != NULL) {
        unsigned char *bytes = p;
        struct kl_cli_block *block =
            (struct kl_cli_block *)(void *)(bytes - offsetof(struct kl_cli_block, bytes));

        kl_wipe(bytes, block->n);
        kl_free(block);
    }
}

void kl_cli_wipe_json(void)
{
    json_set_alloc_funcs(json_alloc, json_release);
}
