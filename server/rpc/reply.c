#include "server/rpc/call.h"

#include <assert.h>
#include <stdio.h>

enum { TEXT_MAX = 448, PAYLOAD_FIELD = 6, WIRE_BYTES = 2, VARINT_MAX = 10 };

static uint32_t retry_after_ms(enum kl_status st)
{
    switch (st) {
    case KL_EXHAUSTED:
    case KL_NO_MEMORY:
        return KL_RETRY_AFTER_MS;
    case KL_NO_SPACE:
        return 10 * KL_RETRY_AFTER_MS;
    case KL_UNAVAILABLE:
    case KL_SEALED:
    case KL_TOO_OLD:
        return KL_RETRY_SOON_MS;
    default:
        return 0;
    }
}

/* protobuf-c has no const for strings; packing only reads them. */
static char *text(const char *s)
{
    return (char *)(uintptr_t)s;
}

size_t kl_reply_pack_error(const struct kl_reply_facts *facts, uint8_t out[KL_REPLY_ERROR_MAX])
{
    const struct kl_status_info *info = kl_status_info(facts->status);
    Kluis__V1__Reply reply = KLUIS__V1__REPLY__INIT;
    Kluis__V1__FieldError error = KLUIS__V1__FIELD_ERROR__INIT;
    Kluis__V1__FieldError *errors[1] = {&error};
    Kluis__V1__LeaderHint hint = KLUIS__V1__LEADER_HINT__INIT;
    char message[TEXT_MAX];

    (void)snprintf(message, sizeof message, "%s", info->text);
    if (facts->field != NULL && facts->field[0] != 0) {
        error.field = text(facts->field);
        error.limit = text(facts->limit == NULL ? "" : facts->limit);
        reply.fields = errors;
        reply.n_fields = 1;
        (void)snprintf(message, sizeof message, "%s: %s: %s", info->text, error.field, error.limit);
    }
    if (facts->hint) {
        hint.group = facts->group;
        hint.node_id = facts->leader_id;
        hint.address = text(facts->leader_address == NULL ? "" : facts->leader_address);
        reply.leader = &hint;
    }
    reply.code = info->rpc_code;
    reply.status = text(info->name);
    reply.message = message;
    reply.server_time_ms = facts->server_time_ms;
    reply.retry_after_ms = retry_after_ms(facts->status);
    assert(kluis__v1__reply__get_packed_size(&reply) <= KL_REPLY_ERROR_MAX);
    return kluis__v1__reply__pack(&reply, out);
}

static size_t put_varint(uint8_t *p, uint64_t v)
{
    size_t n = 0;

    while (v >= 0x80) {
        p[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    p[n++] = (uint8_t)v;
    return n;
}

/* The payload is packed in place behind the other fields: a value is copied once, not twice. */
enum kl_status kl_reply_pack_ok(const struct kl_reply_from *from, const ProtobufCMessage *response,
                                struct kl_buf *out)
{
    Kluis__V1__Reply reply = KLUIS__V1__REPLY__INIT;
    size_t payload = protobuf_c_message_get_packed_size(response);
    uint8_t head[1 + VARINT_MAX];
    size_t head_len;
    size_t size;
    uint8_t *p = NULL;
    enum kl_status st;

    reply.status = text(kl_status_name(KL_OK));
    reply.server_time_ms = from->server_time_ms;
    reply.age_ms = from->age_ms;
    reply.node_id = from->node_id;
    reply.region = text(from->region);
    size = kluis__v1__reply__get_packed_size(&reply);
    head[0] = PAYLOAD_FIELD << 3 | WIRE_BYTES;
    head_len = 1 + put_varint(head + 1, payload);
    st = kl_buf_grow(out, size + head_len + payload, &p);
    if (st != KL_OK) {
        return st;
    }
    p += kluis__v1__reply__pack(&reply, p);
    memcpy(p, head, head_len);
    (void)protobuf_c_message_pack(response, p + head_len);
    return KL_OK;
}
