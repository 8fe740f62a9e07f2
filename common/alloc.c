#include "common/alloc.h"

#include <openssl/crypto.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local unsigned long fail_countdown;
static _Thread_local int fail_struck;
static _Thread_local const struct kl_heap *heap;

static int must_fail(void)
{
    if (fail_countdown == 0) {
        return 0;
    }
    fail_countdown--;
    if (fail_countdown != 0) {
        return 0;
    }
    fail_struck = 1;
    return 1;
}

void kl_alloc_fail_at(unsigned long n)
{
    fail_countdown = n;
    fail_struck = 0;
}

int kl_alloc_failed(void)
{
    return fail_struck;
}

void kl_alloc_use(const struct kl_heap *other)
{
    heap = other;
}

void *kl_malloc(size_t n)
{
    if (must_fail()) {
        return NULL;
    }
    return heap == NULL ? malloc(n) : heap->alloc(heap->ctx, n);
}

void *kl_calloc(size_t count, size_t size)
{
    void *p;

    if (must_fail() || (size != 0 && count > SIZE_MAX / size)) {
        return NULL;
    }
    if (heap == NULL) {
        return calloc(count, size);
    }
    p = heap->alloc(heap->ctx, count * size);
    if (p != NULL) {
        memset(p, 0, count * size);
    }
    return p;
}

void *kl_realloc(void *p, size_t n)
{
    if (must_fail()) {
        return NULL;
    }
    return heap == NULL ? realloc(p, n) : heap->realloc(heap->ctx, p, n);
}

char *kl_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = kl_malloc(n);

    if (copy != NULL) {
        memcpy(copy, s, n);
    }
    return copy;
}

void kl_free(void *p)
{
    if (heap == NULL) {
        free(p);
    } else if (p != NULL) {
        heap->free(heap->ctx, p);
    }
}

void kl_wipe(void *p, size_t n)
{
    if (n != 0) {
        OPENSSL_cleanse(p, n);
    }
}

static void *pb_alloc(void *data, size_t n)
{
    (void)data;
    return kl_malloc(n == 0 ? 1 : n);
}

static void pb_free(void *data, void *p)
{
    (void)data;
    kl_free(p);
}

ProtobufCAllocator kl_pb_allocator = {pb_alloc, pb_free, NULL};

static void *budget_alloc(void *data, size_t n)
{
    struct kl_pb_budget *b = data;

    if (n > b->left) {
        return NULL;
    }
    b->left -= n;
    return kl_malloc(n == 0 ? 1 : n);
}

void kl_pb_budget_init(struct kl_pb_budget *b, size_t budget)
{
    b->allocator = (ProtobufCAllocator){budget_alloc, pb_free, b};
    b->left = budget;
}

static void wipe_value(const ProtobufCFieldDescriptor *field, void *member)
{
    if (field->type == PROTOBUF_C_TYPE_BYTES) {
        ProtobufCBinaryData *data = member;

        kl_wipe(data->data, data->data == NULL ? 0 : data->len);
    } else if (field->type == PROTOBUF_C_TYPE_STRING) {
        char *text = *(char **)member;

        if (text != NULL && text != protobuf_c_empty_string &&
            text != (const char *)field->default_value) {
            kl_wipe(text, strlen(text));
        }
    } else if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        kl_pb_wipe(*(ProtobufCMessage **)member);
    }
}

static size_t value_size(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
        return sizeof(char *);
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(ProtobufCMessage *);
    default:
        return 0; /* numbers are not wiped */
    }
}

static void wipe_field(const ProtobufCFieldDescriptor *field, uint8_t *base)
{
    size_t size = value_size(field);
    size_t count;
    uint8_t *items;

    if (size == 0) {
        return;
    }
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
        *(uint32_t *)(void *)(base + field->quantifier_offset) != field->id) {
        return; /* another member of the union is set */
    }
    if (field->label != PROTOBUF_C_LABEL_REPEATED) {
        wipe_value(field, base + field->offset);
        return;
    }
    count = *(size_t *)(void *)(base + field->quantifier_offset);
    items = *(uint8_t **)(void *)(base + field->offset);
    for (size_t i = 0; i < count; i++) {
        wipe_value(field, items + i * size);
    }
}

void kl_pb_wipe(ProtobufCMessage *message)
{
    if (message == NULL) {
        return;
    }
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        wipe_field(&message->descriptor->fields[i], (uint8_t *)message);
    }
    for (unsigned i = 0; i < message->n_unknown_fields; i++) {
        kl_wipe(message->unknown_fields[i].data, message->unknown_fields[i].len);
    }
}

void kl_pb_wipe_free(ProtobufCMessage *message, ProtobufCAllocator *allocator)
{
    if (message != NULL) {
        kl_pb_wipe(message);
        protobuf_c_message_free_unpacked(message, allocator);
    }
}
