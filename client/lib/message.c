/*
 * Envelopes: kluis.v1.Call around each try, kluis.v1.Reply around each answer.
 */
#include "client/lib/internal.h"

#include <stdio.h>

/* Unpacking takes at most this much more than twice what was received: structures and pointers. */
#define UNPACK_SPARE (4u << 20)

/* A budget that also tells a refusal from a malformed message. */
struct guard {
    ProtobufCAllocator allocator;
    size_t left;
    bool refused;
};

static void *guard_alloc(void *data, size_t n)
{
    struct guard *g = data;
    void *p = NULL;

    if (n <= g->left) {
        p = kl_malloc(n == 0 ? 1 : n);
    }
    if (p == NULL) {
        g->refused = true;
        return NULL;
    }
    g->left -= n;
    return p;
}

static void guard_free(void *data, void *p)
{
    (void)data;
    kl_free(p);
}

enum kl_status kl_message_unpack(const ProtobufCMessageDescriptor *type, struct kl_bytes packed,
                                 ProtobufCMessage **out)
{
    struct guard g = {.allocator = {guard_alloc, guard_free, &g},
                      .left = packed.len * 2 + UNPACK_SPARE};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(type, &g.allocator, packed.len, packed.ptr);

    if (message == NULL) {
        return g.refused ? KL_NO_MEMORY : KL_PROTOCOL;
    }
    *out = message;
    return KL_OK;
}

enum kl_status kl_message_put(const void *message, struct kl_buf *out)
{
    size_t n = protobuf_c_message_get_packed_size(message);
    uint8_t *p = NULL;
    enum kl_status st = KL_OK;

    if (n != 0) {
        st = kl_buf_grow(out, n, &p);
    }
    if (st == KL_OK && n != 0) {
        (void)protobuf_c_message_pack(message, p);
    }
    return st;
}

enum kl_status kl_message_pack(const struct kluis_client *client, const struct kl_call *call,
                               uint64_t now_us, struct kl_buf *out)
{
    Kluis__V1__Call envelope = KLUIS__V1__CALL__INIT;
    Kluis__V1__Metadata authorization = KLUIS__V1__METADATA__INIT;
    Kluis__V1__Metadata *metadata[1] = {&authorization};
    char key[] = "authorization";
    uint64_t left_us = call->deadline_us > now_us ? call->deadline_us - now_us : 0;

    envelope.method = kl_pb_text(call->method);
    if (call->write) {
        envelope.request_id = kl_pb_bytes(call->request_id, KL_ID_LEN);
        envelope.expires_ms = call->expires_ms;
    }
    if (call->read.consistency == KLUIS_READ_QUORUM) {
        envelope.consistency = KLUIS__V1__CONSISTENCY__QUORUM;
    } else if (call->read.consistency == KLUIS_READ_STALE) {
        envelope.consistency = KLUIS__V1__CONSISTENCY__STALE;
        envelope.max_age_ms = call->read.max_age_ms;
    }
    envelope.deadline_ms = (uint32_t)((left_us + 999u) / 1000u);
    if (envelope.deadline_ms == 0) {
        envelope.deadline_ms = 1; /* 0 would mean the default */
    }
    if (client->authorization != NULL) {
        authorization.key = key;
        authorization.value = client->authorization;
        envelope.metadata = metadata;
        envelope.n_metadata = 1;
    }
    envelope.payload = (ProtobufCBinaryData){call->payload.len, call->payload.ptr};
    return kl_message_put(&envelope, out);
}

void kl_reply_free(Kluis__V1__Reply *reply)
{
    kl_pb_wipe_free((ProtobufCMessage *)reply, &kl_pb_allocator);
}

/* A server newer than this library may know statuses that we do not: then gRPC's number decides. */
static enum kl_status status_of_code(uint32_t code)
{
    static const enum kl_status by_code[] = {
        [1] = KL_CANCELLED,        [2] = KL_INTERNAL,          [3] = KL_INVALID_ARGUMENT,
        [4] = KL_TIMEOUT,          [5] = KL_NOT_FOUND,         [6] = KL_ALREADY_EXISTS,
        [7] = KL_FORBIDDEN,        [8] = KL_EXHAUSTED,         [9] = KL_FIXED,
        [10] = KL_CHANGED,         [11] = KL_INVALID_ARGUMENT, [12] = KL_UNIMPLEMENTED,
        [13] = KL_INTERNAL,        [14] = KL_UNAVAILABLE,      [15] = KL_CORRUPT,
        [16] = KL_UNAUTHENTICATED,
    };

    return code < sizeof by_code / sizeof by_code[0] && code != 0 ? by_code[code] : KL_INTERNAL;
}

enum kl_status kl_reply_status(const Kluis__V1__Reply *reply)
{
    enum kl_status st;

    if (reply->code == 0) {
        return KL_OK;
    }
    st = kl_status_from_name(reply->status);
    if (st == KL_OK || (st == KL_INTERNAL && strcmp(reply->status, "INTERNAL") != 0)) {
        return status_of_code(reply->code);
    }
    return st;
}

void kl_reply_text(const Kluis__V1__Reply *reply, char *out, size_t out_len)
{
    size_t at = 0;

    (void)snprintf(out, out_len, "%s",
                   reply->message[0] != '\0' ? reply->message
                                             : kl_status_info(kl_reply_status(reply))->text);
    for (size_t i = 0; i < reply->n_fields; i++) {
        if (strstr(reply->message, reply->fields[i]->limit) != NULL) {
            continue; /* the message has said so */
        }
        at = strlen(out);
        (void)snprintf(out + at, out_len - at, "; %s: %s", reply->fields[i]->field,
                       reply->fields[i]->limit);
    }
}
