#include "tests/lib/test.h"

#include "common/alloc.h"
#include "common/names.h"
#include "server/auth/auth.h"

#define BIT(right) (1ull << (right))

static const uint64_t all_rights =
#define ROW(name, bit, text) BIT(bit) |
    KL_RIGHTS(ROW)
#undef ROW
        0;

static const uint64_t purges = BIT(KL_RIGHT_VAULT_PURGE) | BIT(KL_RIGHT_SECRET_PURGE);
static const uint64_t never = BIT(KL_RIGHT_NODE) | BIT(KL_RIGHT_NONE);

static uint64_t parse(const char *text)
{
    uint64_t set = 0;

    CHECK_OK(kl_rights_parse(text, &set));
    return set;
}

/* Every right but node and none can be named, and means just itself. */
TEST(rights, each_by_name)
{
#define ROW(name, bit, text)                                                                       \
    if ((BIT(bit) & never) == 0) {                                                                 \
        CHECK_EQ(parse(text), BIT(bit));                                                           \
    }                                                                                              \
    CHECK_STR(kl_right_name(bit), text);
    KL_RIGHTS(ROW)
#undef ROW
}

/* A purge is never implied: not by *, not by a family, not by any list that does not name it. */
TEST(rights, purge_is_never_implied)
{
    static const char *const wide[] = {
        "*",
        "secrets/",
        "secrets/*",
        "vaults/",
        "vaults/*",
        "cluster/",
        "*, secrets/*, vaults/*, cluster/*, secrets/delete, vaults/delete",
    };

    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        CHECK_EQ(parse(wide[i]) & (purges | never), 0);
    }
    CHECK_EQ(parse("*"), all_rights & ~purges & ~never);
    CHECK_EQ(parse("*,secrets/purge") & purges, BIT(KL_RIGHT_SECRET_PURGE));
    CHECK_EQ(parse("*,vaults/purge,secrets/purge"), all_rights & ~never);
}

/* A family is all its rights but the purge, and none of another family. */
TEST(rights, families)
{
    uint64_t secrets = parse("secrets/");
    uint64_t vaults = parse("vaults/");
    uint64_t cluster = parse("cluster/");

    CHECK_EQ(secrets, parse("secrets/*"));
    CHECK_EQ(vaults, parse("vaults/*"));
    CHECK_EQ(secrets & vaults, 0);
    CHECK_EQ((secrets | vaults) & cluster, 0);
    CHECK_EQ(secrets | vaults | cluster, parse("*"));
    CHECK_EQ(cluster, BIT(KL_RIGHT_CLUSTER_READ) | BIT(KL_RIGHT_CLUSTER_ADMIN));
    CHECK((secrets & BIT(KL_RIGHT_SECRET_GET)) != 0);
}

/* Lists take blanks around their elements and repeat themselves without harm. */
TEST(rights, lists)
{
    CHECK_EQ(parse(" secrets/get ,\tsecrets/list,secrets/get "),
             BIT(KL_RIGHT_SECRET_GET) | BIT(KL_RIGHT_SECRET_LIST));
}

/* What is no right is refused, and the output is left alone. */
TEST(rights, refused)
{
    static const char *const bad[] = {
        "",
        " ",
        ",",
        "secrets/get,",
        ",secrets/get",
        "secrets",
        "node",
        "none",
        "secrets/g",
        "secrets/get get",
        "Secrets/get",
        "/",
        "/*",
        "**",
        "*/",
        "*/*",
        "s*",
        "secrets/p*",
        "purge",
        "keys/",
        "secrets//",
        "secrets/get/",
        "secrets/get/*",
        "n*",
        "secrets/get;vaults/get",
        "nod",
        "node/",
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t set = 12345;

        CHECK_STATUS(kl_rights_parse(bad[i], &set), KL_INVALID_ARGUMENT);
        CHECK_EQ(set, 12345);
    }
}

static struct kl_principal principal(const char *name, const char *token, const char *rights)
{
    struct kl_principal p = {.rights = parse(rights)};

    (void)snprintf(p.name, sizeof p.name, "%s", name);
    kl_auth_token_hash(kl_bytes_str(token), p.token_sha256);
    return p;
}

/* FIPS 180-2, B.1. */
TEST(auth, token_hash_known_answer)
{
    uint8_t want[32];
    uint8_t got[32];

    CHECK_OK(kl_hex_decode("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", want,
                           sizeof want));
    kl_auth_token_hash(kl_bytes_str("abc"), got);
    CHECK_MEM(got, want, sizeof want);
}

/* Each token finds its own principal, first and last included. */
TEST(auth, finds_the_principal)
{
    struct kl_principal table[] = {
        principal("ann", "token-a", "secrets/get"),
        principal("bob", "token-b", "*"),
        principal("eve", "token-c", "secrets/purge"),
    };
    const struct kl_principal *found = NULL;
    struct kl_auth *auth = NULL;

    CHECK_OK(kl_auth_new(table, 3, &auth));
    CHECK_OK(kl_auth_check(auth, "Bearer token-a", &found));
    CHECK_STR(found->name, "ann");
    CHECK_OK(kl_auth_check(auth, "bearer token-b", &found));
    CHECK_STR(found->name, "bob");
    CHECK_OK(kl_auth_check(auth, "BEARER  token-c", &found));
    CHECK_STR(found->name, "eve");
    kl_auth_free(auth);
}

/* Anything but a known token in the right form is nobody, and *out is left alone. */
TEST(auth, refuses)
{
    static const char *const bad[] = {
        "",
        "Bearer",
        "Bearer ",
        "token-a",
        "Basic token-a",
        "Bearer token-b",
        "Bearer token-a ",
        "Bearer token-",
        "Bearer token-aa",
        "Bearer\ttoken-a",
        "Bearer token-a\n",
        "Bearertoken-a",
        " Bearer token-a",
        "Bearer token-a,token-a",
    };
    struct kl_principal table[] = {principal("ann", "token-a", "*")};
    const struct kl_principal *found = table;
    struct kl_auth *auth = NULL;
    char longest[KL_TOKEN_MAX + 32];

    CHECK_OK(kl_auth_new(table, 1, &auth));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(kl_auth_check(auth, bad[i], &found), KL_UNAUTHENTICATED);
    }
    CHECK_STATUS(kl_auth_check(auth, NULL, &found), KL_UNAUTHENTICATED);
    for (size_t i = 0; i < sizeof longest; i++) {
        longest[i] = 'x';
    }
    memcpy(longest, "Bearer ", 7);
    longest[sizeof longest - 1] = '\0';
    CHECK_STATUS(kl_auth_check(auth, longest, &found), KL_UNAUTHENTICATED);
    CHECK(found == table);
    kl_auth_free(auth);
    CHECK_OK(kl_auth_new(NULL, 0, &auth)); /* nobody at all */
    CHECK_STATUS(kl_auth_check(auth, "Bearer token-a", &found), KL_UNAUTHENTICATED);
    kl_auth_free(auth);
}

/* A table that could mistake one principal for another, or grant what cannot be granted, is refused. */
TEST(auth, bad_tables)
{
    struct kl_principal table[] = {
        principal("ann", "token-a", "*"),
        principal("bob", "token-b", "*"),
    };
    struct kl_auth *auth = NULL;

    (void)snprintf(table[1].name, sizeof table[1].name, "ann");
    CHECK_STATUS(kl_auth_new(table, 2, &auth), KL_INVALID_ARGUMENT);
    table[1] = principal("bob", "token-a", "secrets/get");
    CHECK_STATUS(kl_auth_new(table, 2, &auth), KL_INVALID_ARGUMENT);
    table[1] = (struct kl_principal){.name = "bob", .rights = 2}; /* a digest of zeros */
    CHECK_STATUS(kl_auth_new(table, 2, &auth), KL_INVALID_ARGUMENT);
    table[1] = principal("bob", "token-b", "*");
    table[1].rights |= BIT(KL_RIGHT_NODE);
    CHECK_STATUS(kl_auth_new(table, 2, &auth), KL_INVALID_ARGUMENT);
    table[1] = principal("", "token-b", "*");
    CHECK_STATUS(kl_auth_new(table, 2, &auth), KL_INVALID_ARGUMENT);
    CHECK(auth == NULL);
}

/* A principal may do what its bits say and nothing else; nobody may do what needs no right. */
TEST(auth, allow)
{
    struct kl_principal p = principal("ann", "token-a", "secrets/get, vaults/purge");

    for (int right = 0; right <= KL_RIGHT_NODE; right++) {
        bool want =
            right == KL_RIGHT_NONE || right == KL_RIGHT_SECRET_GET || right == KL_RIGHT_VAULT_PURGE;

        CHECK_STATUS(kl_auth_allow(&p, (enum kl_right)right), want ? KL_OK : KL_FORBIDDEN);
        CHECK_STATUS(kl_auth_allow(NULL, (enum kl_right)right),
                     right == KL_RIGHT_NONE ? KL_OK : KL_FORBIDDEN);
    }
}

/* The table is a copy: changing the original changes nothing. */
TEST(auth, copies)
{
    struct kl_principal table[] = {principal("ann", "token-a", "secrets/get")};
    const struct kl_principal *found = NULL;
    struct kl_auth *auth = NULL;

    kl_alloc_fail_at(1);
    CHECK_STATUS(kl_auth_new(table, 1, &auth), KL_NO_MEMORY);
    kl_alloc_fail_at(0);
    CHECK_OK(kl_auth_new(table, 1, &auth));
    table[0].rights = all_rights;
    CHECK_OK(kl_auth_check(auth, "Bearer token-a", &found));
    CHECK_STATUS(kl_auth_allow(found, KL_RIGHT_SECRET_SET), KL_FORBIDDEN);
    kl_auth_free(auth);
    kl_auth_free(NULL);
}
