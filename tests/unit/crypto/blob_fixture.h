/*
 * Blobs to test with: the head and the versions of one object, made and compared.
 */
#ifndef BLOB_FIXTURE_H
#define BLOB_FIXTURE_H

#include "tests/unit/crypto/crypto_fixture.h"

#include "server/crypto/blob.h"

#define GEOGRAPHY    "europe"
#define SUBSCRIPTION "0a1b2c3d-0000-4000-8000-00000000000f"

enum { HEAD_LEN = 356, SECRET_KIND = 1 };

/* A head of `versions` versions of the object `name`. */
struct kl_blob_head blob_head(const char *name, uint32_t versions);

/* A blob of head->version_count versions, each with payload_len bytes that differ by version, appended
 * to *out. */
enum kl_status blob_make(struct kl_keyring *ring, const struct kl_blob_head *head,
                         size_t payload_len, struct kl_buf *out);

/* Opens for GEOGRAPHY, SUBSCRIPTION and SECRET_KIND, reads everything and checks it against what
 * blob_make wrote; the status of the opening when it is refused. */
enum kl_status blob_check(struct kl_keyring *ring, struct kl_bytes blob,
                          const struct kl_blob_head *head, size_t payload_len);

#endif
