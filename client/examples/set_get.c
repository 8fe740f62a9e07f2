/*
 * Sets a secret and reads it back.
 *
 *   KLUIS_ENDPOINT=host:port KLUIS_CA_FILE=ca.pem KLUIS_TOKEN=... set_get [VAULT [NAME]]
 *
 * The vault is created when it is not there yet. Prints the version.
 */
#include <kluis.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "connect.h"

static int fail(const char *what, enum kluis_status st)
{
    fprintf(stderr, "%s: %s: %s\n", what, kluis_status_name(st), kluis_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    static const char value[] = "correct horse battery staple";
    const char *vault = argc > 1 ? argv[1] : "examples";
    const char *name = argc > 2 ? argv[2] : "passphrase";
    struct kluis_tag tags[] = {{"made-by", "set_get"}};
    struct kluis_secret_options options = {.content_type = "text/plain", .tags = tags, .tags_n = 1};
    struct kluis_client *client = example_connect();
    struct kluis_vault *created = NULL;
    struct kluis_secret *secret = NULL;
    enum kluis_status st;
    int rc = 1;

    if (client == NULL) {
        return 1;
    }
    st = kluis_vault_create(client, vault, NULL, 0, &created);
    kluis_vault_free(created);
    if (st != KLUIS_OK && st != KLUIS_ALREADY_EXISTS) {
        fail("create the vault", st);
        goto out;
    }
    /* 5,000 ms for the whole call. However often it is retried inside, it happens at most once. */
    st = kluis_secret_set(client, vault, name, value, strlen(value), &options, 5000, NULL);
    if (st != KLUIS_OK) {
        fail("set", st);
        goto out;
    }
    /* A read sees every write that was acknowledged before it began. */
    st = kluis_secret_get(client, vault, name, NULL, 0, &secret);
    if (st != KLUIS_OK) {
        fail("get", st);
        goto out;
    }
    if (secret->value_len != strlen(value) || memcmp(secret->value, value, strlen(value)) != 0) {
        fprintf(stderr, "somebody else has set %s/%s meanwhile\n", vault, name);
        goto out;
    }
    printf("%s/%s is at version %s\n", secret->vault, secret->name, secret->version);
    rc = 0;
out:
    kluis_secret_free(secret); /* wipes the value */
    kluis_close(client);
    return rc;
}
