/*
 * Backs a secret up into a file, or restores one from it.
 *
 *   backup_restore backup VAULT NAME FILE
 *   backup_restore restore VAULT FILE
 *
 * with KLUIS_ENDPOINT, KLUIS_CA_FILE and KLUIS_TOKEN or KLUIS_TOKEN_FILE in the environment.
 */
#include <kluis.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "connect.h"

static int failed(const char *what, enum kluis_status st)
{
    fprintf(stderr, "%s: %s: %s\n", what, kluis_status_name(st), kluis_last_error());
    return 1;
}

static int backup(struct kluis_client *client, const char *vault, const char *name,
                  const char *path)
{
    struct kluis_blob *blob = NULL;
    enum kluis_status st = kluis_secret_backup(client, vault, name, 60000, &blob);
    FILE *file;
    int ok;

    if (st != KLUIS_OK) {
        return failed("backup", st);
    }
    file = fopen(path, "wbx"); /* never over an older backup */
    if (file == NULL) {
        perror(path);
        kluis_blob_free(blob);
        return 1;
    }
    ok = fwrite(blob->data, 1, blob->len, file) == blob->len;
    ok = fclose(file) == 0 && ok;
    printf("%u versions, %zu bytes\n", blob->version_count, blob->len);
    kluis_blob_free(blob);
    return ok ? 0 : 1;
}

static int restore(struct kluis_client *client, const char *vault, const char *path)
{
    struct kluis_secret *secret = NULL;
    FILE *file = fopen(path, "rb");
    unsigned char *data = NULL;
    long len = -1;
    enum kluis_status st;
    int rc = 1;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (len = ftell(file)) <= 0 ||
        fseek(file, 0, SEEK_SET) != 0 || (data = malloc((size_t)len)) == NULL ||
        fread(data, 1, (size_t)len, file) != (size_t)len) {
        perror(path);
        goto out;
    }
    st = kluis_secret_restore(client, vault, data, (size_t)len, 60000, &secret);
    if (st == KLUIS_ALREADY_EXISTS || st == KLUIS_DELETED) {
        fprintf(stderr, "the name is in use in %s: %s\n", vault, kluis_last_error());
    } else if (st != KLUIS_OK) {
        failed("restore", st);
    } else {
        printf("restored %s/%s, now at version %s\n", vault, secret->name, secret->version);
        rc = 0;
    }
out:
    kluis_secret_free(secret);
    free(data);
    if (file != NULL) {
        fclose(file);
    }
    return rc;
}

int main(int argc, char **argv)
{
    struct kluis_client *client;
    int rc = 2;

    if (!(argc == 5 && strcmp(argv[1], "backup") == 0) &&
        !(argc == 4 && strcmp(argv[1], "restore") == 0)) {
        fprintf(stderr, "usage: %s backup VAULT NAME FILE | restore VAULT FILE\n", argv[0]);
        return rc;
    }
    client = example_connect();
    if (client == NULL) {
        return 1;
    }
    rc = argc == 5 ? backup(client, argv[2], argv[3], argv[4]) : restore(client, argv[2], argv[3]);
    kluis_close(client);
    return rc;
}
