/*
 * Page tokens: where a list goes on. A token is hex of
 *
 *   offset  size  field
 *        0     1  format: 1
 *        1     2  group id, big-endian (lists over vaults; else 0)
 *        3     1  length of the position, 0..KL_OBJECT_NAME_MAX
 *        4     n  position: the folded name or version id behind which to go on
 *      4+n     8  first bytes of SHA-256 over method, a zero byte, the owner's id, and the above
 *
 * The check binds a token to its list: to the method and to the owner's incarnation (vault or
 * object id). A token carries no right; a forged one can only name another position.
 */
#ifndef KL_PAGE_H
#define KL_PAGE_H

#include "common/bytes.h"
#include "common/limits.h"
#include "common/status.h"

struct kl_page {
    uint16_t group;
    size_t after_len;
    uint8_t after[KL_OBJECT_NAME_MAX + 1]; /* zero-terminated */
};

/* text: KL_PAGE_TOKEN_MAX + 1 bytes. owner: up to KL_ID_LEN bytes. KL_CRYPTO. */
KL_MUST_USE enum kl_status kl_page_write(const char *method, struct kl_bytes owner,
                                         const struct kl_page *page,
                                         char text[KL_PAGE_TOKEN_MAX + 1]);
/* An empty text is the start: everything zero. KL_INVALID_ARGUMENT: not a token of this list. */
KL_MUST_USE enum kl_status kl_page_read(const char *method, struct kl_bytes owner, const char *text,
                                        struct kl_page *out);

#endif
