/*
 * Checks of what users type. Each returns KL_OK, KL_INVALID_ARGUMENT or KL_TOO_LARGE and, through
 * `limit` (may be NULL), a static text that says what is allowed. Inputs are NUL-terminated and
 * borrowed. Sources: Azure Key Vault "About keys, secrets, and certificates", naming rules.
 */
#ifndef KL_NAMES_H
#define KL_NAMES_H

#include "common/bytes.h"
#include "common/status.h"

KL_MUST_USE enum kl_status kl_vault_name_check(const char *name, const char **limit);
KL_MUST_USE enum kl_status kl_object_name_check(const char *name, const char **limit);
KL_MUST_USE enum kl_status kl_resource_group_check(const char *name, const char **limit);
/* Region, geography and cluster names: 1..64 of [a-z0-9-], begins with a letter. */
KL_MUST_USE enum kl_status kl_location_check(const char *name, const char **limit);
/* UUID text, 8-4-4-4-12 hex digits, any case. */
KL_MUST_USE enum kl_status kl_subscription_check(const char *uuid, const char **limit);
/* UTF-8 of at most max bytes without control characters; empty allowed. */
KL_MUST_USE enum kl_status kl_text_check(const char *text, size_t max);
KL_MUST_USE enum kl_status kl_retention_check(uint32_t days, const char **limit);

/* Vault and object names compare without case: writes the lower-case form, NUL included, into out
 * (out_len > strlen(name)). */
void kl_name_fold(const char *name, char *out, size_t out_len);

/* Lower-case hex of n bytes, NUL included: out holds 2 * n + 1. */
void kl_hex_encode(const uint8_t *p, size_t n, char *out);
/* Exactly 2 * n hex digits of either case into n bytes; KL_INVALID_ARGUMENT otherwise. */
KL_MUST_USE enum kl_status kl_hex_decode(const char *text, uint8_t *out, size_t n);
/* A decimal number without sign or blanks, whole string, min..max; KL_INVALID_ARGUMENT otherwise. */
KL_MUST_USE enum kl_status kl_number_parse(const char *text, uint64_t min, uint64_t max,
                                           uint64_t *out);

#endif
