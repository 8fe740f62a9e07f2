/*
 * The asynchronous forms, and calls of any method.
 */
#include "client/lib/internal.h"

struct secret_done {
    kluis_secret_fn done;
    void *arg;
    bool with_value;
};

static void deliver(void *arg, enum kl_status status, Kluis__V1__Reply *reply, const char *text)
{
    struct secret_done *d = arg;
    struct kluis_secret *secret = NULL;
    enum kl_status st = status;

    if (st == KL_OK) {
        st = kl_secret_from_reply(reply, d->with_value, &secret);
        if (st != KL_OK) {
            text = kl_status_info(st)->text;
        }
    }
    kl_reply_free(reply);
    d->done(d->arg, kl_public(st), secret, st == KL_OK ? "" : text);
    kl_free(d);
}

/* Moves the request's payload. */
static enum kl_status start(struct kluis_client *client, struct kl_request *request,
                            bool with_value, kluis_secret_fn done, void *arg)
{
    struct secret_done *d = kl_malloc(sizeof *d);
    enum kl_status st;

    if (d == NULL) {
        kl_buf_wipe(&request->payload);
        return KL_NO_MEMORY;
    }
    *d = (struct secret_done){done, arg, with_value};
    st = kl_call_start(client, request, deliver, d);
    if (st != KL_OK) {
        kl_free(d);
    }
    return st;
}

static enum kl_status check(const struct kluis_client *client, const char *vault, const char *name,
                            kluis_secret_fn done)
{
    enum kl_status st = kl_require(client, "client");

    if (st == KL_OK) {
        st = kl_require(vault, "vault");
    }
    if (st == KL_OK) {
        st = kl_require(name, "name");
    }
    if (st == KL_OK && done == NULL) {
        st = kl_require(NULL, "done");
    }
    return st;
}

enum kluis_status kluis_secret_set_async(struct kluis_client *client, const char *vault,
                                         const char *name, const void *value, size_t value_len,
                                         const struct kluis_secret_options *options,
                                         uint32_t timeout_ms, kluis_secret_fn done, void *arg)
{
    struct kl_request request = {.timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = check(client, vault, name, done);
    if (st == KL_OK) {
        st = kl_secret_set_request(&request, vault, name, value, value_len, options);
    }
    if (st == KL_OK) {
        st = start(client, &request, false, done, arg);
    }
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}

enum kluis_status kluis_secret_get_async(struct kluis_client *client, const char *vault,
                                         const char *name, const char *version, uint32_t timeout_ms,
                                         kluis_secret_fn done, void *arg)
{
    struct kl_request request = {.timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = check(client, vault, name, done);
    if (st == KL_OK) {
        st = kl_secret_get_request(&request, vault, name, version);
    }
    if (st == KL_OK) {
        st = start(client, &request, true, done, arg);
    }
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}

enum kluis_status kluis_secret_delete_async(struct kluis_client *client, const char *vault,
                                            const char *name, uint32_t timeout_ms,
                                            kluis_secret_fn done, void *arg)
{
    struct kl_request request = {.timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = check(client, vault, name, done);
    if (st == KL_OK) {
        st = kl_secret_delete_request(&request, vault, name);
    }
    if (st == KL_OK) {
        st = start(client, &request, false, done, arg);
    }
    kl_buf_wipe(&request.payload);
    return kl_finish(st);
}

/* ---------------------------------------------------------------- any method */

static enum kl_status call_any(struct kluis_client *client, struct kl_request *request,
                               const void *bytes, size_t bytes_len, uint8_t **response,
                               size_t *response_len)
{
    Kluis__V1__Reply *reply = NULL;
    enum kl_status st;

    request->payload = KL_BUF(KL_MESSAGE_MAX - KL_CLIENT_REQUEST_MAX);
    st = kl_buf_put(&request->payload, bytes, bytes_len);
    if (st == KL_OK) {
        st = kl_call_wait(client, request, &reply);
    }
    kl_buf_wipe(&request->payload);
    if (st == KL_OK) {
        *response = reply->payload.data; /* moved: it is of kl_malloc */
        *response_len = reply->payload.len;
        reply->payload = (ProtobufCBinaryData){0, NULL};
    }
    kl_reply_free(reply);
    return st;
}

enum kluis_status kluis_call(struct kluis_client *client, const char *method, const void *request,
                             size_t request_len, bool write, const char *node, uint32_t timeout_ms,
                             uint8_t **response, size_t *response_len)
{
    struct kl_request r = {
        .method = method, .write = write, .node = node, .timeout_ms = timeout_ms};
    enum kl_status st;

    kl_begin();
    st = kl_require(client, "client");
    if (st == KL_OK) {
        st = kl_require(method, "method");
    }
    if (st == KL_OK && request_len != 0) {
        st = kl_require(request, "request");
    }
    if (st == KL_OK) {
        st = kl_require(response, "response");
    }
    if (st == KL_OK) {
        st = kl_require(response_len, "response_len");
    }
    if (st == KL_OK) {
        st = call_any(client, &r, request, request_len, response, response_len);
    }
    return kl_finish(st);
}

void kluis_bytes_free(uint8_t *bytes, size_t len)
{
    if (bytes != NULL) {
        kl_wipe(bytes, len);
        kl_free(bytes);
    }
}
