/*
 * What the examples share: a client from KLUIS_ENDPOINT (separated by commas), KLUIS_CA_FILE, and
 * KLUIS_TOKEN or KLUIS_TOKEN_FILE. NULL, with a line on standard error, when that does not work.
 */
#ifndef EXAMPLE_CONNECT_H
#define EXAMPLE_CONNECT_H

#include <kluis.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXAMPLE_ENDPOINTS_MAX = 16, EXAMPLE_TEXT_MAX = 4096 };

/* The first line of a file, without its end. */
static inline int example_read_line(const char *path, char *out, size_t out_len)
{
    FILE *file = fopen(path, "r");
    char *got = file == NULL ? NULL : fgets(out, (int)out_len, file);

    if (file != NULL) {
        fclose(file);
    }
    if (got == NULL) {
        fprintf(stderr, "cannot read %s\n", path);
        return -1;
    }
    out[strcspn(out, "\r\n")] = '\0';
    return 0;
}

static inline struct kluis_client *example_connect(void)
{
    static char endpoints_text[EXAMPLE_TEXT_MAX];
    static char token[EXAMPLE_TEXT_MAX];
    const char *endpoints[EXAMPLE_ENDPOINTS_MAX];
    struct kluis_options options = {.endpoints = endpoints, .ca_file = getenv("KLUIS_CA_FILE")};
    const char *text = getenv("KLUIS_ENDPOINT");
    const char *token_file = getenv("KLUIS_TOKEN_FILE");
    struct kluis_client *client = NULL;
    char err[512];
    char *rest = endpoints_text;
    char *one;

    if (text == NULL || options.ca_file == NULL) {
        fprintf(stderr, "set KLUIS_ENDPOINT, KLUIS_CA_FILE and KLUIS_TOKEN or KLUIS_TOKEN_FILE\n");
        return NULL;
    }
    snprintf(endpoints_text, sizeof endpoints_text, "%s", text);
    while ((one = strsep(&rest, ",")) != NULL && options.endpoints_n < EXAMPLE_ENDPOINTS_MAX) {
        endpoints[options.endpoints_n++] = one;
    }
    options.token = getenv("KLUIS_TOKEN");
    if (options.token == NULL && token_file != NULL) {
        if (example_read_line(token_file, token, sizeof token) != 0) {
            return NULL;
        }
        options.token = token;
    }
    if (kluis_open(&options, &client, err, sizeof err) != KLUIS_OK) {
        fprintf(stderr, "cannot open a client: %s\n", err);
    }
    return client;
}

#endif
