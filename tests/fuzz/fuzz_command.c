/*
 * Any bytes as a command, on a store with something in it: an answer, never a fault; and what it
 * leaves can be listed, collected and purged to the end.
 */
#include "tests/fuzz/seeded.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seeded *s = seeded();
    struct kl_bytes packed;
    size_t pos = 0;
    size_t n = 0;

    if (size > KL_COMMAND_MAX / 2) {
        return 0;
    }
    seeded_must(seeded_command(s, SEEDED_TIME_MS, kl_bytes_of(data, size)) == KL_OK);
    while (kl_results_next(&s->results, &pos, &packed)) {
        Kluis__Log__CommandResult *r =
            kluis__log__command_result__unpack(&kl_pb_allocator, packed.len, packed.ptr);

        seeded_must(r != NULL && kl_status_info((enum kl_status)r->status)->status == r->status);
        kl_pb_wipe_free(&r->base, &kl_pb_allocator);
        n++;
    }
    seeded_must(n == 2);
    seeded_must(seeded_work(s, SEEDED_TIME_MS + 8000) == KL_NOT_FOUND);
    seeded_must(seeded_work(s, UINT64_MAX / 2) == KL_NOT_FOUND);
    return 0;
}
