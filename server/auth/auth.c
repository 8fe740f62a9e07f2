#include "server/auth/auth.h"

#include "common/alloc.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

enum { DIGEST_LEN = 32 };

#define BIT(right) (1ull << (right))

static const uint64_t purges = BIT(KL_RIGHT_VAULT_PURGE) | BIT(KL_RIGHT_SECRET_PURGE);
static const uint64_t ungrantable = BIT(KL_RIGHT_NODE) | BIT(KL_RIGHT_NONE);

static const struct {
    enum kl_right right;
    const char *name;
} rights[] = {
#define KL_RIGHT_ROW(name, bit, text) {KL_RIGHT_##name, text},
    KL_RIGHTS(KL_RIGHT_ROW)
#undef KL_RIGHT_ROW
};

static const size_t rights_n = sizeof rights / sizeof rights[0];

struct kl_auth {
    size_t n;
    struct kl_principal principals[];
};

const char *kl_right_name(enum kl_right right)
{
    for (size_t i = 0; i < rights_n; i++) {
        if (rights[i].right == right) {
            return rights[i].name;
        }
    }
    return "unknown";
}

/* ---- lists of rights ---- */

/* Every right whose name begins with the n bytes of prefix; none gives 0. */
static uint64_t family(const char *prefix, size_t n)
{
    uint64_t set = 0;

    for (size_t i = 0; i < rights_n; i++) {
        if (strlen(rights[i].name) >= n &&
            kl_bytes_eq(kl_bytes_of(rights[i].name, n), kl_bytes_of(prefix, n))) {
            set |= BIT(rights[i].right);
        }
    }
    return set;
}

/* One element of a list, without blanks; 0 when it is no right. */
static uint64_t element(const char *p, size_t n)
{
    uint64_t set = 0;

    if (n == 1 && p[0] == '*') {
        return family("", 0) & ~purges & ~ungrantable;
    }
    if (n > 2 && p[n - 1] == '*' && p[n - 2] == '/') {
        n--;
    }
    if (n > 1 && p[n - 1] == '/') {
        return memchr(p, '/', n) == p + n - 1 ? family(p, n) & ~purges & ~ungrantable : 0;
    }
    for (size_t i = 0; i < rights_n; i++) {
        if (kl_bytes_eq(kl_bytes_str(rights[i].name), kl_bytes_of(p, n))) {
            set = BIT(rights[i].right);
        }
    }
    return set & ~ungrantable;
}

enum kl_status kl_rights_parse(const char *text, uint64_t *out)
{
    uint64_t set = 0;

    for (;;) {
        size_t n;
        size_t used;
        uint64_t some;

        text += strspn(text, " \t");
        n = strcspn(text, ",");
        used = n;
        while (n != 0 && (text[n - 1] == ' ' || text[n - 1] == '\t')) {
            n--;
        }
        some = n == 0 ? 0 : element(text, n);
        if (some == 0) {
            return KL_INVALID_ARGUMENT;
        }
        set |= some;
        text += used;
        if (*text == '\0') {
            break;
        }
        text++;
    }
    *out = set;
    return KL_OK;
}

/* ---- principals ---- */

static const uint8_t zeros[DIGEST_LEN];

static bool is_zero(const uint8_t digest[DIGEST_LEN])
{
    return CRYPTO_memcmp(digest, zeros, DIGEST_LEN) == 0;
}

static enum kl_status check_principals(const struct kl_principal *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i].name[0] == '\0' || memchr(p[i].name, '\0', sizeof p[i].name) == NULL ||
            is_zero(p[i].token_sha256) || (p[i].rights & ungrantable) != 0) {
            return KL_INVALID_ARGUMENT;
        }
        for (size_t j = 0; j < i; j++) {
            if (kl_bytes_eq(kl_bytes_str(p[i].name), kl_bytes_str(p[j].name)) ||
                CRYPTO_memcmp(p[i].token_sha256, p[j].token_sha256, DIGEST_LEN) == 0) {
                return KL_INVALID_ARGUMENT;
            }
        }
    }
    return KL_OK;
}

enum kl_status kl_auth_new(const struct kl_principal *principals, size_t n, struct kl_auth **out)
{
    struct kl_auth *auth;
    enum kl_status st = check_principals(principals, n);

    if (st != KL_OK) {
        return st;
    }
    if (n > (SIZE_MAX - sizeof *auth) / sizeof principals[0]) {
        return KL_NO_MEMORY;
    }
    auth = kl_malloc(sizeof *auth + n * sizeof principals[0]);
    if (auth == NULL) {
        return KL_NO_MEMORY;
    }
    auth->n = n;
    if (n != 0) {
        memcpy(auth->principals, principals, n * sizeof principals[0]);
    }
    *out = auth;
    return KL_OK;
}

void kl_auth_free(struct kl_auth *auth)
{
    if (auth != NULL) {
        kl_wipe(auth->principals, auth->n * sizeof auth->principals[0]);
        kl_free(auth);
    }
}

void kl_auth_token_hash(struct kl_bytes token, uint8_t out[32])
{
    uint8_t digest[DIGEST_LEN];

    if (EVP_Digest(token.ptr, token.len, digest, NULL, EVP_sha256(), NULL) != 1) {
        memcpy(out, zeros, DIGEST_LEN);
        return;
    }
    memcpy(out, digest, DIGEST_LEN);
}

/* The scheme compares without case (RFC 9110, 11.1); the token is visible ASCII, so that neither
 * blanks nor control characters are ever part of it. */
static bool bearer_token(const char *authorization, struct kl_bytes *token)
{
    static const char scheme[] = "bearer ";
    size_t n;

    if (authorization == NULL || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0) {
        return false;
    }
    authorization += sizeof scheme - 1;
    authorization += strspn(authorization, " ");
    n = strnlen(authorization, KL_TOKEN_MAX + 1);
    if (n == 0 || n > KL_TOKEN_MAX) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (authorization[i] <= ' ' || authorization[i] > '~') {
            return false;
        }
    }
    *token = kl_bytes_of(authorization, n);
    return true;
}

enum kl_status kl_auth_check(const struct kl_auth *auth, const char *authorization,
                             const struct kl_principal **out)
{
    const struct kl_principal *found = NULL;
    uint8_t digest[DIGEST_LEN];
    struct kl_bytes token;

    if (!bearer_token(authorization, &token)) {
        return KL_UNAUTHENTICATED;
    }
    kl_auth_token_hash(token, digest);
    for (size_t i = 0; i < auth->n; i++) { /* all of them: the time must not tell which matched */
        const struct kl_principal *p = &auth->principals[i];
        /* digests are unique, so at most one of these masks is not 0 */
        uintptr_t mask =
            (uintptr_t)0 - (uintptr_t)(CRYPTO_memcmp(digest, p->token_sha256, DIGEST_LEN) == 0);

        found = (const struct kl_principal *)((uintptr_t)found | ((uintptr_t)p & mask));
    }
    kl_wipe(digest, sizeof digest);
    if (found == NULL) {
        return KL_UNAUTHENTICATED;
    }
    *out = found;
    return KL_OK;
}

enum kl_status kl_auth_allow(const struct kl_principal *principal, enum kl_right right)
{
    if (right == KL_RIGHT_NONE) {
        return KL_OK;
    }
    return principal != NULL && (principal->rights & BIT(right)) != 0 ? KL_OK : KL_FORBIDDEN;
}
