/*
 * Who calls, and what may they do? Pure decisions over a table of principals: no I/O, no clock.
 * Tokens are stored as SHA-256; lookups compare in constant time.
 */
#ifndef KL_AUTH_H
#define KL_AUTH_H

#include "common/bytes.h"
#include "common/limits.h"
#include "common/status.h"

/* One bit per right; a route names exactly one. Names as in Azure's access policies. */
#define KL_RIGHTS(X)                                                                               \
    X(NONE, 0, "none")                                                                             \
    X(VAULT_CREATE, 1, "vaults/create")                                                            \
    X(VAULT_GET, 2, "vaults/get")                                                                  \
    X(VAULT_LIST, 3, "vaults/list")                                                                \
    X(VAULT_UPDATE, 4, "vaults/update")                                                            \
    X(VAULT_DELETE, 5, "vaults/delete")                                                            \
    X(VAULT_LIST_DELETED, 6, "vaults/list-deleted")                                                \
    X(VAULT_RECOVER, 7, "vaults/recover")                                                          \
    X(VAULT_PURGE, 8, "vaults/purge")                                                              \
    X(SECRET_GET, 10, "secrets/get")                                                               \
    X(SECRET_LIST, 11, "secrets/list")                                                             \
    X(SECRET_SET, 12, "secrets/set")                                                               \
    X(SECRET_DELETE, 13, "secrets/delete")                                                         \
    X(SECRET_RECOVER, 14, "secrets/recover")                                                       \
    X(SECRET_BACKUP, 15, "secrets/backup")                                                         \
    X(SECRET_RESTORE, 16, "secrets/restore")                                                       \
    X(SECRET_PURGE, 17, "secrets/purge")                                                           \
    X(CLUSTER_READ, 40, "cluster/read")                                                            \
    X(CLUSTER_ADMIN, 41, "cluster/admin")                                                          \
    X(NODE, 42, "node")

enum kl_right {
#define KL_RIGHT_ENUM(name, bit, text) KL_RIGHT_##name = (bit),
    KL_RIGHTS(KL_RIGHT_ENUM)
#undef KL_RIGHT_ENUM
};

const char *kl_right_name(enum kl_right right);

/*
 * Parses a list of rights separated by commas (blanks around them allowed) into a bit set. An element
 * is the name of a right, a family, or everything:
 *
 *   secrets/get     that right
 *   secrets/        the whole family but its purge; a star may follow the slash, and "vaults/" and
 *                   "cluster/" are families too
 *   *               everything but the purges and node
 *
 * A purge is never implied: it must be named. "node" is proven by a node's certificate and cannot be
 * granted, nor can "none". KL_INVALID_ARGUMENT.
 */
KL_MUST_USE enum kl_status kl_rights_parse(const char *text, uint64_t *out);

struct kl_principal {
    char name[64];
    uint64_t rights; /* 1ull << enum kl_right */
    uint8_t token_sha256[32];
};

struct kl_auth; /* an immutable table; replace it whole, free it when nobody uses it */

/* Copies the principals. KL_INVALID_ARGUMENT: two with one name or one token, an empty name, a token
 * digest of zeros, or a right that cannot be granted. */
KL_MUST_USE enum kl_status kl_auth_new(const struct kl_principal *principals, size_t n,
                                       struct kl_auth **out);
void kl_auth_free(struct kl_auth *auth);

/* The principal of an "authorization" value ("Bearer TOKEN"). KL_UNAUTHENTICATED. *out is borrowed
 * from the table. Takes the same time whichever principal matches. */
KL_MUST_USE enum kl_status kl_auth_check(const struct kl_auth *auth, const char *authorization,
                                         const struct kl_principal **out);
/* KL_OK or KL_FORBIDDEN. principal NULL (nobody is known) has KL_RIGHT_NONE only. */
KL_MUST_USE enum kl_status kl_auth_allow(const struct kl_principal *principal, enum kl_right right);

/* SHA-256 of a token; all zeros, which no principal may have, when it could not be computed. */
void kl_auth_token_hash(struct kl_bytes token, uint8_t out[32]);

#endif
