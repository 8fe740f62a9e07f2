/*
 * Memory for keys: whole pages that are locked (never swapped), left out of core dumps, zeroed in
 * a forked child, and wiped before they go back.
 */
#ifndef KL_CRYPTO_MEMORY_H
#define KL_CRYPTO_MEMORY_H

#include "common/status.h"

#include <stddef.h>

/* n > 0 zeroed bytes. Where the limit on locked memory forbids it the pages are only kept out of
 * dumps (kl_crypto_harden tells the operator). KL_NO_MEMORY. */
KL_MUST_USE enum kl_status kl_key_memory_new(size_t n, void **out);
/* n as given to kl_key_memory_new; p may be NULL. */
void kl_key_memory_free(void *p, size_t n);

#endif
