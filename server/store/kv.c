#include "server/store/kv.h"

#include "common/alloc.h"

#include <openssl/evp.h>

static enum kl_status view_get(void *ctx, struct kl_bytes key, struct kl_buf *out)
{
    struct kl_kv_view *v = ctx;

    return kl_kv_get(v->kv, v->snap, key, out);
}

static enum kl_status view_scan(void *ctx, struct kl_bytes from, struct kl_bytes to, kl_scan_fn fn,
                                void *arg)
{
    struct kl_kv_view *v = ctx;

    return kl_kv_scan(v->kv, v->snap, from, to, fn, arg);
}

struct kl_view kl_kv_view(struct kl_kv_view *v)
{
    return (struct kl_view){.ctx = v, .get = view_get, .scan = view_scan};
}

struct digest {
    EVP_MD_CTX *md;
    uint64_t records;
    bool failed;
};

static bool hash_part(EVP_MD_CTX *md, struct kl_bytes part)
{
    uint8_t len[4];

    kl_put_be32(len, (uint32_t)part.len);
    return EVP_DigestUpdate(md, len, sizeof len) == 1 &&
           (part.len == 0 || EVP_DigestUpdate(md, part.ptr, part.len) == 1);
}

static bool hash_record(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct digest *d = arg;

    d->failed = !hash_part(d->md, key) || !hash_part(d->md, value);
    d->records++;
    return !d->failed;
}

enum kl_status kl_kv_digest(struct kl_kv *kv, struct kl_kv_snap *snap, uint8_t out[32],
                            uint64_t *records)
{
    static const struct kl_bytes all = {NULL, 0};
    struct digest d = {.md = EVP_MD_CTX_new()};
    uint8_t hash[EVP_MAX_MD_SIZE];
    enum kl_status st = KL_CRYPTO;

    if (d.md == NULL || EVP_DigestInit_ex(d.md, EVP_sha256(), NULL) != 1) {
        goto out;
    }
    st = kl_kv_scan(kv, snap, all, all, hash_record, &d);
    if (st != KL_OK) {
        goto out;
    }
    if (d.failed || EVP_DigestFinal_ex(d.md, hash, NULL) != 1) {
        st = KL_CRYPTO;
        goto out;
    }
    memcpy(out, hash, 32);
    *records = d.records;
out:
    EVP_MD_CTX_free(d.md);
    return st;
}
