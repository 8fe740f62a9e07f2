/*
 * What all blocking calls have in common.
 */
#include "client/lib/internal.h"

enum kl_status kl_require(const void *pointer, const char *what)
{
    if (pointer == NULL) {
        kl_client_explain("%s: must not be NULL", what);
        return KL_INVALID_ARGUMENT;
    }
    return KL_OK;
}

enum kl_status kl_request_pack(struct kl_request *request, const void *message, size_t max)
{
    enum kl_status st;

    request->payload = KL_BUF(max);
    st = kl_message_put(message, &request->payload);
    if (st == KL_TOO_LARGE) {
        kl_client_explain("request: at most %zu bytes", max);
    }
    return st;
}

enum kl_status kl_request_run(struct kluis_client *client, struct kl_request *request,
                              const ProtobufCMessageDescriptor *type, ProtobufCMessage **response)
{
    Kluis__V1__Reply *reply = NULL;
    enum kl_status st = kl_call_wait(client, request, &reply);

    if (st == KL_OK) {
        st = kl_message_unpack(type, (struct kl_bytes){reply->payload.data, reply->payload.len},
                               response);
        if (st == KL_PROTOCOL) {
            kl_client_explain("the answer cannot be read");
        }
    }
    kl_reply_free(reply);
    return st;
}

void kl_begin(void)
{
    kl_read_begin();
    kl_client_explain("%s", "");
}

enum kluis_status kl_finish(enum kl_status st)
{
    if (st != KL_OK && kluis_last_error()[0] == '\0') {
        kl_client_explain("%s", kl_status_info(st)->text);
    }
    return (enum kluis_status)st;
}
