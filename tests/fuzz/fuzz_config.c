/*
 * Configuration texts. What must hold: a refusal says file and line and leaves the output alone; what
 * is accepted has its own node and keeps every limit.
 */
#include "common/alloc.h"
#include "server/config.h"

#include <assert.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_accepted(const struct kl_config *c)
{
    uint64_t grantable = 0;

    assert(kl_rights_parse("*, vaults/purge, secrets/purge", &grantable) == KL_OK);
    assert(kl_config_self(c) != NULL);
    assert(c->nodes_n >= 1 && c->nodes_n <= KL_NODES_MAX);
    assert(c->principals_n >= 1 && c->principals_n <= KL_PRINCIPALS_MAX);
    assert(c->day_ms == KL_DAY_MS || c->test_cluster);
    assert(c->election_timeout_ms >= 200 && c->election_timeout_ms <= 60000);
    assert(c->workers >= 1 && c->workers <= KL_POOL_THREADS_MAX);
    assert(c->data_dir[0] != '\0' && c->audit_file[0] != '\0' && c->listen_client[0] != '\0');
    for (size_t i = 0; i < c->principals_n; i++) {
        assert((c->principals[i].rights & ~grantable) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct kl_config config;
    char err[1024] = "";
    char *text = kl_malloc(size + 1);
    enum kl_status st;

    assert(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    config.workers = 0;
    st = kl_config_parse("fuzz.conf", text, &config, err, sizeof err);
    if (st == KL_OK) {
        check_accepted(&config);
    } else {
        assert(st == KL_INVALID_ARGUMENT && config.workers == 0);
        assert(strncmp(err, "fuzz.conf:", 10) == 0 && err[10] >= '1' && err[10] <= '9');
        assert(strchr(err, '\n') == NULL);
    }
    kl_free(text);
    return 0;
}
