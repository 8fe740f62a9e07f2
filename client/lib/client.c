#include "client/lib/internal.h"

#include <assert.h>
#include <openssl/rand.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

/* The public numbers are the table's numbers. */
#define KL_STATUS(name, number, rpc, http, azure, retry, text)                                     \
    _Static_assert((int)KLUIS_##name == (int)KL_##name, "kluis.h and status.def differ: " #name);
#include "common/status.def"
#undef KL_STATUS

/* Text of this thread's last failure: what kluis_last_error() promises, so it must outlive calls. */
static _Thread_local char last_error[KL_CLIENT_MESSAGE_MAX];

/* This thread is inside a callback of the user, so it must come back before anything can go on. */
static _Thread_local bool in_callback;

void kl_client_in_callback(bool yes)
{
    in_callback = yes;
}

bool kl_client_may_block(void)
{
    return !in_callback;
}

const char *kluis_status_name(enum kluis_status status)
{
    return kl_status_name((enum kl_status)status);
}

const char *kluis_status_text(enum kluis_status status)
{
    return kl_status_info((enum kl_status)status)->text;
}

const char *kluis_last_error(void)
{
    return last_error;
}

const char *kluis_version(void)
{
    return KLUIS_VERSION;
}

void kl_client_explain(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(last_error, sizeof last_error, format, args);
    va_end(args);
}

uint64_t kl_client_now_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

uint64_t kl_client_random(struct kluis_client *client)
{
    client->random ^= client->random >> 12;
    client->random ^= client->random << 25;
    client->random ^= client->random >> 27;
    return client->random * 2685821657736338717ULL;
}

/* A bearer token goes into a header one day: visible ASCII only. */
static bool token_ok(const char *token)
{
    size_t n = strlen(token);

    for (size_t i = 0; i < n; i++) {
        if (token[i] <= ' ' || token[i] > '~') {
            return false;
        }
    }
    return n != 0 && n <= KL_TOKEN_MAX;
}

static enum kl_status options_check(const struct kluis_options *options, char *err, size_t err_len)
{
    char host[KL_CLIENT_ADDRESS_MAX];

    if (options->endpoints_n == 0 || options->endpoints == NULL) {
        (void)snprintf(err, err_len, "endpoints: at least one \"host:port\" is needed");
        return KL_INVALID_ARGUMENT;
    }
    if (options->endpoints_n > KL_CLIENT_ENDPOINTS_MAX / 2) {
        (void)snprintf(err, err_len, "endpoints: at most %d", KL_CLIENT_ENDPOINTS_MAX / 2);
        return KL_INVALID_ARGUMENT;
    }
    for (size_t i = 0; i < options->endpoints_n; i++) {
        if (options->endpoints[i] == NULL ||
            kl_endpoint_split(options->endpoints[i], host, sizeof host) != KL_OK) {
            (void)snprintf(err, err_len, "endpoints: \"%.100s\" is not \"host:port\"",
                           options->endpoints[i] == NULL ? "" : options->endpoints[i]);
            return KL_INVALID_ARGUMENT;
        }
    }
    if (options->ca_file == NULL) {
        (void)snprintf(err, err_len, "ca_file: the PEM file of the cluster's CA is needed");
        return KL_INVALID_ARGUMENT;
    }
    if (options->token != NULL && !token_ok(options->token)) {
        (void)snprintf(err, err_len, "token: 1..%d visible ASCII characters without blanks",
                       KL_TOKEN_MAX);
        return KL_INVALID_ARGUMENT;
    }
    if (options->timeout_ms > KL_DEADLINE_MAX_MS) {
        (void)snprintf(err, err_len, "timeout_ms: at most %d", KL_DEADLINE_MAX_MS);
        return KL_INVALID_ARGUMENT;
    }
    return kl_read_check(&options->read, err, err_len);
}

static enum kl_status copy_token(struct kluis_client *client, const char *token)
{
    static const char scheme[] = "Bearer ";
    size_t n;

    if (token == NULL) {
        return KL_OK;
    }
    n = sizeof scheme + strlen(token);
    client->authorization = kl_malloc(n);
    if (client->authorization == NULL) {
        return KL_NO_MEMORY;
    }
    (void)snprintf(client->authorization, n, "%s%s", scheme, token);
    return KL_OK;
}

static void init_tables(struct kluis_client *client, const struct kluis_options *options)
{
    client->timeout_ms = options->timeout_ms == 0 ? KL_DEADLINE_DEFAULT_MS : options->timeout_ms;
    client->no_wait = options->no_wait;
    client->brief = options->brief || options->no_wait;
    client->read = options->read;
    if (client->read.consistency == KLUIS_READ_DEFAULT) {
        client->read.consistency = KLUIS_READ_LINEARIZABLE;
    }
    client->favourite = -1;
    for (size_t i = 0; i < KL_GROUPS_MAX; i++) {
        client->leaders[i] = -1;
    }
    for (size_t i = 0; i < options->endpoints_n; i++) {
        int at = kl_route_endpoint(client, options->endpoints[i], true);

        assert(at >= 0); /* the table is larger than what options_check lets through */
    }
    /* Clients that start together should not all begin with the same node. */
    client->next_try = (int)(kl_client_random(client) % (uint64_t)client->endpoints_n);
}

static void client_free(struct kluis_client *client)
{
    if (client->authorization != NULL) {
        kl_wipe(client->authorization, strlen(client->authorization));
        kl_free(client->authorization);
    }
    kl_tls_free(client->tls);
    kl_free(client->heap);
    (void)pthread_cond_destroy(&client->timer_wake);
    (void)pthread_mutex_destroy(&client->lock);
    kl_free(client);
}

static enum kl_status client_new(struct kluis_client **out)
{
    struct kluis_client *client = kl_calloc(1, sizeof *client);
    pthread_condattr_t attr;

    if (client == NULL) {
        return KL_NO_MEMORY;
    }
    (void)pthread_mutex_init(&client->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&client->timer_wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    *out = client;
    return KL_OK;
}

enum kluis_status kluis_open(const struct kluis_options *options, struct kluis_client **out,
                             char *err, size_t err_len)
{
    char unused[1];
    struct kl_tls_files files = {0};
    struct kluis_client *client = NULL;
    enum kl_status st;

    if (err == NULL || err_len == 0) {
        err = unused;
        err_len = sizeof unused;
    }
    err[0] = '\0';
    if (options == NULL || out == NULL) {
        (void)snprintf(err, err_len, "options and out must not be NULL");
        return KLUIS_INVALID_ARGUMENT;
    }
    st = options_check(options, err, err_len);
    if (st != KL_OK) {
        return kl_public(st);
    }
    st = client_new(&client);
    if (st != KL_OK) {
        return kl_public(st);
    }
    st = KL_CRYPTO;
    if (RAND_bytes((unsigned char *)&client->random, sizeof client->random) != 1) {
        (void)snprintf(err, err_len, "no random numbers");
        goto out;
    }
    client->random |= 1;
    init_tables(client, options);
    st = copy_token(client, options->token);
    if (st != KL_OK) {
        goto out;
    }
    files.ca_file = options->ca_file;
    st = kl_tls_new(KL_TLS_CLIENT, &files, &client->tls, err, err_len);
    if (st != KL_OK) {
        goto out;
    }
    st = kl_net_new(&client->net);
    if (st != KL_OK) {
        goto out;
    }
    st = kl_timer_start(client);
    if (st != KL_OK) {
        goto out;
    }
    *out = client;
    client = NULL;
out:
    if (client != NULL) {
        if (err[0] == '\0') {
            (void)snprintf(err, err_len, "%s", kl_status_info(st)->text);
        }
        if (client->net != NULL) {
            kl_net_free(client->net);
        }
        client_free(client); /* the timer did not start */
    }
    return kl_public(st);
}

void kluis_close(struct kluis_client *client)
{
    if (client == NULL) {
        return;
    }
    kl_timer_stop(client);    /* ends every call */
    kl_net_free(client->net); /* every on_close has come: no line is left */
    assert(client->lines == NULL && client->active == 0);
    client_free(client);
}
