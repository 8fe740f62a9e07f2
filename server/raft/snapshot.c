#include "server/raft/snapshot.h"

#define MAGIC 0x4b4c5331u /* "KLS1" */

void kl_snapshot_write(const struct kl_snapshot_ref *ref, uint8_t out[KL_SNAPSHOT_REF_LEN])
{
    kl_put_be32(out, MAGIC);
    kl_put_be32(out + 4, 0);
    kl_put_be64(out + 8, ref->applied);
    kl_put_be64(out + 16, ref->index);
}

enum kl_status kl_snapshot_parse(struct kl_bytes in, struct kl_snapshot_ref *out)
{
    struct kl_snapshot_ref ref;

    if (in.len != KL_SNAPSHOT_REF_LEN || kl_get_be32(in.ptr) != MAGIC ||
        kl_get_be32(in.ptr + 4) != 0) {
        return KL_CORRUPT;
    }
    ref.applied = kl_get_be64(in.ptr + 8);
    ref.index = kl_get_be64(in.ptr + 16);
    if (ref.applied > ref.index || ref.index == 0) {
        return KL_CORRUPT;
    }
    *out = ref;
    return KL_OK;
}
