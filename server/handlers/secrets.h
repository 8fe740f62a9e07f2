/* What the files of the Secrets service share. */
#ifndef KL_HANDLERS_SECRETS_H
#define KL_HANDLERS_SECRETS_H

#include "server/handlers/page.h"
#include "server/handlers/parts.h"

#include "server/core/keys.h"

/* Where a list response keeps its secrets. */
struct kl_secret_list {
    size_t *n;
    Kluis__V1__Secret ***secrets;
    char **next;
};

/* KL_NOT_FOUND names the field. */
KL_MUST_USE enum kl_status kl_read_secret(struct kl_call *call,
                                          const Kluis__Store__VaultRecord *vault, const char *name,
                                          enum kl_want want, Kluis__Store__ObjectRecord **out);
struct kl_vault_facts kl_facts_of(const Kluis__Store__VaultRecord *vault);

KL_MUST_USE enum kl_status kl_next_page(struct kl_call *call, struct kl_bytes owner,
                                        struct kl_bytes after, char **out);
KL_MUST_USE enum kl_status kl_field_page_token(struct kl_call *call, struct kl_bytes owner,
                                               const char *token, struct kl_page *out);

/* Facts of the vault as the plan saw them, kept in call->state for the reply. */
KL_MUST_USE enum kl_status kl_note_facts(struct kl_call *call, const char *vault);

#endif
