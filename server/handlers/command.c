#include "server/handlers/parts.h"

#include <assert.h>

void kl_tag_list_fill(struct kl_tag_list *list, size_t n, Kluis__V1__Tag *const *tags)
{
    assert(n <= KL_TAGS_MAX);
    for (size_t i = 0; i < n; i++) {
        list->tags[i] = (Kluis__Store__Tag)KLUIS__STORE__TAG__INIT;
        list->tags[i].key = tags[i]->key;
        list->tags[i].value = tags[i]->value;
        list->ptrs[i] = &list->tags[i];
    }
}

enum kl_status kl_pb_pack(const ProtobufCMessage *message, struct kl_buf *out)
{
    uint8_t *p = NULL;
    size_t n = protobuf_c_message_get_packed_size(message);
    enum kl_status st;

    if (n == 0) {
        return KL_OK;
    }
    st = kl_buf_grow(out, n, &p);
    if (st == KL_OK) {
        (void)protobuf_c_message_pack(message, p);
    }
    return st;
}

enum kl_status kl_plan_propose(struct kl_call *call, Kluis__Log__Command *command, bool own,
                               kl_then_fn then, struct kl_plan *plan)
{
    struct kl_buf packed = KL_BUF(KL_COMMAND_MAX);
    enum kl_status st;

    if (!own) {
        command->request_id = kl_pb_data(kl_bytes_of(call->request_id, KL_ID_LEN));
        command->expires_ms = call->expires_ms;
    }
    st = kl_pb_pack(&command->base, &packed);
    if (st != KL_OK) {
        kl_buf_wipe(&packed);
        return st;
    }
    *plan = (struct kl_plan){.step = KL_STEP_PROPOSE, .command = packed, .then = then};
    return KL_OK;
}

enum kl_status kl_plan_remote(const char *method, uint16_t group, const ProtobufCMessage *request,
                              kl_then_fn then, struct kl_plan *plan)
{
    struct kl_buf packed = KL_BUF(KL_CLIENT_REQUEST_MAX);
    enum kl_status st = kl_pb_pack(request, &packed);

    if (st != KL_OK) {
        kl_buf_wipe(&packed);
        return st;
    }
    *plan = (struct kl_plan){
        .step = KL_STEP_REMOTE,
        .command = packed,
        .method = method,
        .group = group,
        .then = then,
    };
    return KL_OK;
}

enum kl_status kl_result_open(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                              Kluis__Log__CommandResult **out)
{
    Kluis__Log__CommandResult *result;
    enum kl_status st;

    if (status != KL_OK) {
        return status;
    }
    result = kluis__log__command_result__unpack(&kl_pb_allocator, packed.len, packed.ptr);
    if (result == NULL) {
        return KL_NO_MEMORY;
    }
    st = kl_status_info((enum kl_status)result->status)->status; /* an unknown one: INTERNAL */
    if (st == KL_OK) {
        *out = result;
        return KL_OK;
    }
    if (result->field != NULL && result->field[0] != 0) {
        st = kl_call_field(call, st, result->field, kl_status_info(st)->text);
    }
    kl_pb_wipe_free(&result->base, &kl_pb_allocator);
    return st;
}

enum kl_status kl_result_stored(struct kl_call *call, struct kl_buf *out)
{
    Kluis__Store__RequestRecord *record = NULL;
    enum kl_status st =
        kl_core_request(&call->read->view, kl_bytes_of(call->request_id, KL_ID_LEN), &record);

    if (st != KL_OK) {
        return st;
    }
    st = kl_buf_put(out, record->result.data, record->result.len);
    kl_pb_wipe_free(&record->base, &kl_pb_allocator);
    return st;
}
