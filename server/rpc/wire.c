#include "server/rpc/wire.h"

#include "common/limits.h"

#include <string.h>

enum {
    WIRE_VARINT = 0,
    WIRE_64 = 1,
    WIRE_BYTES = 2,
    WIRE_32 = 5,
    DEPTH_MAX = 8,      /* our messages nest three deep */
    VARINT_MAX = 10,    /* bytes of one */
    DEADLINE_FIELD = 3, /* Call.deadline_ms */
};

struct field {
    uint32_t id;
    unsigned type;
    uint64_t number;
    struct kl_bytes bytes;
};

static bool take_varint(struct kl_bytes *in, uint64_t *out)
{
    uint64_t v = 0;

    for (size_t i = 0; i < in->len && i < VARINT_MAX; i++) {
        v |= (uint64_t)(in->ptr[i] & 0x7f) << (7 * i);
        if ((in->ptr[i] & 0x80) == 0) {
            *in = (struct kl_bytes){in->ptr + i + 1, in->len - i - 1};
            *out = v;
            return true;
        }
    }
    return false;
}

static bool skip(struct kl_bytes *in, size_t n)
{
    if (in->len < n) {
        return false;
    }
    *in = (struct kl_bytes){in->ptr + n, in->len - n};
    return true;
}

/* The next field; false at the end and when it is not well-formed (then in->len != 0). */
static bool take_field(struct kl_bytes *in, struct field *f)
{
    struct kl_bytes rest = *in;
    uint64_t tag;

    if (rest.len == 0 || !take_varint(&rest, &tag) || tag >> 3 == 0 || tag >> 32 != 0) {
        return false;
    }
    *f = (struct field){.id = (uint32_t)(tag >> 3), .type = (unsigned)(tag & 7)};
    switch (f->type) {
    case WIRE_VARINT:
        if (!take_varint(&rest, &f->number)) {
            return false;
        }
        break;
    case WIRE_64:
        if (!skip(&rest, 8)) {
            return false;
        }
        break;
    case WIRE_32:
        if (!skip(&rest, 4)) {
            return false;
        }
        break;
    case WIRE_BYTES:
        if (!take_varint(&rest, &f->number) || f->number > rest.len) {
            return false;
        }
        f->bytes = (struct kl_bytes){rest.ptr, (size_t)f->number};
        (void)skip(&rest, (size_t)f->number);
        break;
    default:
        return false; /* groups */
    }
    *in = rest;
    return true;
}

struct level {
    const ProtobufCMessageDescriptor *descriptor;
    struct kl_bytes rest;
};

enum kl_status kl_wire_check(const ProtobufCMessageDescriptor *descriptor, struct kl_bytes packed,
                             const char **field)
{
    struct level levels[DEPTH_MAX];
    size_t depth = 1;

    levels[0] = (struct level){descriptor, packed};
    while (depth > 0) {
        struct level *l = &levels[depth - 1];
        const ProtobufCFieldDescriptor *d;
        struct field f;

        if (!take_field(&l->rest, &f)) {
            if (l->rest.len != 0) {
                return KL_PROTOCOL;
            }
            depth--;
            continue;
        }
        d = protobuf_c_message_descriptor_get_field(l->descriptor, f.id);
        if (d == NULL || f.type != WIRE_BYTES) {
            continue; /* unknown, or a number */
        }
        if (d->type == PROTOBUF_C_TYPE_STRING && f.bytes.len != 0 &&
            memchr(f.bytes.ptr, 0, f.bytes.len) != NULL) {
            *field = d->name;
            return KL_INVALID_ARGUMENT;
        }
        if (d->type == PROTOBUF_C_TYPE_MESSAGE) {
            if (depth == DEPTH_MAX) {
                return KL_PROTOCOL;
            }
            levels[depth++] = (struct level){d->descriptor, f.bytes};
        }
    }
    return KL_OK;
}

static void *unpack_alloc(void *data, size_t n)
{
    struct kl_unpack *u = data;
    bool allowed = n <= u->budget.left;
    void *p = u->budget.allocator.alloc(u->budget.allocator.allocator_data, n);

    u->no_memory = u->no_memory || (p == NULL && allowed);
    return p;
}

static void unpack_free(void *data, void *p)
{
    struct kl_unpack *u = data;

    u->budget.allocator.free(u->budget.allocator.allocator_data, p);
}

enum kl_status kl_wire_unpack(const ProtobufCMessageDescriptor *descriptor, struct kl_bytes packed,
                              struct kl_unpack *u, ProtobufCMessage **out, const char **field)
{
    enum kl_status st = kl_wire_check(descriptor, packed, field);
    ProtobufCMessage *message;

    if (st != KL_OK) {
        return st;
    }
    kl_pb_budget_init(&u->budget, 2 * packed.len + KL_UNPACK_EXTRA);
    u->allocator = (ProtobufCAllocator){unpack_alloc, unpack_free, u};
    u->no_memory = false;
    message = protobuf_c_message_unpack(descriptor, &u->allocator, packed.len, packed.ptr);
    if (message != NULL) {
        *out = message;
        return KL_OK;
    }
    if (u->no_memory) {
        return KL_NO_MEMORY;
    }
    return u->budget.left < packed.len ? KL_TOO_LARGE : KL_PROTOCOL;
}

uint32_t kl_wire_deadline_ms(struct kl_bytes packed_call)
{
    uint32_t deadline_ms = 0;
    struct field f;

    while (take_field(&packed_call, &f)) {
        if (f.id == DEADLINE_FIELD && f.type == WIRE_VARINT) {
            deadline_ms = (uint32_t)f.number; /* the last one counts, as in protobuf */
        }
    }
    return deadline_ms;
}
