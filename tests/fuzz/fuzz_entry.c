/*
 * Any bytes as a log entry: refused as corrupt, or applied to the end with a result per command.
 */
#include "tests/fuzz/seeded.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seeded *s = seeded();
    struct kl_bytes in = kl_bytes_of(data, size);
    struct kl_bytes command;
    struct kl_entry entry;
    enum kl_status parsed = kl_entry_parse(in, &entry);
    enum kl_status applied = seeded_apply(s, in);

    seeded_must(parsed == KL_OK || parsed == KL_CORRUPT);
    seeded_must(applied == parsed);
    if (parsed == KL_OK) {
        seeded_must(s->results.count == entry.count);
        for (uint32_t i = 0; i < entry.count; i++) {
            seeded_must(kl_entry_next(&entry, &command) == KL_OK);
            seeded_must(command.ptr + command.len <= data + size);
        }
        seeded_must(entry.rest.len == 0);
        seeded_must(seeded_work(s, UINT64_MAX / 2) == KL_NOT_FOUND);
    }
    return 0;
}
