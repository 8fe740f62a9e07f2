#include "server/handlers/page.h"

#include "common/names.h"

#include <assert.h>
#include <openssl/evp.h>

enum { FORMAT = 1, HEAD = 4, CHECK = 8, BODY_MAX = HEAD + KL_OBJECT_NAME_MAX, DIGEST = 32 };

static enum kl_status digest(const char *method, struct kl_bytes owner, struct kl_bytes body,
                             uint8_t out[DIGEST])
{
    uint8_t text[KL_METHOD_MAX + 1 + KL_ID_LEN + BODY_MAX];
    size_t n = strlen(method) + 1; /* its zero byte ends it */

    assert(n <= KL_METHOD_MAX + 1 && owner.len <= KL_ID_LEN && body.len <= BODY_MAX);
    memcpy(text, method, n);
    if (owner.len != 0) {
        memcpy(text + n, owner.ptr, owner.len);
        n += owner.len;
    }
    memcpy(text + n, body.ptr, body.len);
    n += body.len;
    return EVP_Digest(text, n, out, NULL, EVP_sha256(), NULL) == 1 ? KL_OK : KL_CRYPTO;
}

enum kl_status kl_page_write(const char *method, struct kl_bytes owner, const struct kl_page *page,
                             char text[KL_PAGE_TOKEN_MAX + 1])
{
    uint8_t raw[BODY_MAX + CHECK];
    uint8_t sum[DIGEST];
    size_t n = HEAD + page->after_len;
    enum kl_status st;

    assert(page->after_len <= KL_OBJECT_NAME_MAX);
    raw[0] = FORMAT;
    raw[1] = (uint8_t)(page->group >> 8);
    raw[2] = (uint8_t)page->group;
    raw[3] = (uint8_t)page->after_len;
    memcpy(raw + HEAD, page->after, page->after_len);
    st = digest(method, owner, kl_bytes_of(raw, n), sum);
    if (st == KL_OK) {
        memcpy(raw + n, sum, CHECK);
        kl_hex_encode(raw, n + CHECK, text);
    }
    return st;
}

enum kl_status kl_page_read(const char *method, struct kl_bytes owner, const char *text,
                            struct kl_page *out)
{
    struct kl_page page = {0};
    uint8_t raw[BODY_MAX + CHECK];
    uint8_t sum[DIGEST];
    size_t n = strlen(text) / 2;
    enum kl_status st;

    if (text[0] == 0) {
        *out = page;
        return KL_OK;
    }
    if (n < HEAD + CHECK || n > sizeof raw || kl_hex_decode(text, raw, n) != KL_OK ||
        raw[0] != FORMAT || (size_t)raw[3] != n - HEAD - CHECK) {
        return KL_INVALID_ARGUMENT;
    }
    st = digest(method, owner, kl_bytes_of(raw, n - CHECK), sum);
    if (st != KL_OK) {
        return st;
    }
    if (!kl_bytes_eq(kl_bytes_of(raw + n - CHECK, CHECK), kl_bytes_of(sum, CHECK))) {
        return KL_INVALID_ARGUMENT;
    }
    page.group = (uint16_t)(raw[1] << 8 | raw[2]);
    page.after_len = raw[3];
    memcpy(page.after, raw + HEAD, page.after_len);
    *out = page;
    return KL_OK;
}
