/*
 * Backup blobs. The byte layout is the essay at the top of blob.c. A blob holds one object with all
 * its versions, opens only in a cluster that has the same geography root, for the same subscription,
 * and is authenticated whole: head, every chunk, their order and count, the final mark.
 *
 * Every function here works in memory and draws nothing but the salt.
 */
#ifndef KL_BLOB_H
#define KL_BLOB_H

#include "server/crypto/keyring.h"

struct kl_blob_head {
    char geography[KL_LOCATION_MAX + 1];
    char subscription[37];
    uint32_t kind; /* KL_KIND_SECRET … */
    char name[KL_OBJECT_NAME_MAX + 1];
    uint32_t version_count;
    uint64_t applied_index; /* of the one read it was made from */
    uint64_t created_ms;    /* of the object */
    uint8_t current_version[KL_ID_LEN];
};

/* One version as it travels: what VersionMeta holds, and the plaintext payload. */
struct kl_blob_version {
    const Kluis__Store__VersionMeta *meta; /* borrowed */
    struct kl_bytes payload;               /* borrowed plaintext */
};

/* ---- making one ---- */
struct kl_blob_writer;
/* ring is borrowed until the writer is freed. KL_INVALID_ARGUMENT: a name of the head breaks its rule,
 * or there is no version. */
KL_MUST_USE enum kl_status kl_blob_writer_new(struct kl_keyring *ring,
                                              const struct kl_blob_head *head,
                                              struct kl_blob_writer **out);
/* KL_CORRUPT: the meta has no id of 16 bytes or no attributes. KL_TOO_LARGE, KL_INTERNAL (more than
 * the head said). */
KL_MUST_USE enum kl_status kl_blob_writer_add(struct kl_blob_writer *w,
                                              const struct kl_blob_version *version);
/* Appends the finished blob to *out. KL_TOO_LARGE over KL_BLOB_MAX; KL_INTERNAL when the number of
 * versions is not what the head said. */
KL_MUST_USE enum kl_status kl_blob_writer_finish(struct kl_blob_writer *w, struct kl_buf *out);
void kl_blob_writer_free(struct kl_blob_writer *w);

/* ---- reading one ---- */

/*
 * Authenticates the whole blob before anything of it is believed. KL_BLOB_MALFORMED, KL_BLOB_FORMAT,
 * KL_BLOB_TRUNCATED, KL_BLOB_TAMPERED, KL_BLOB_GEOGRAPHY (another geography's root),
 * KL_BLOB_SUBSCRIPTION (not `subscription`), KL_BLOB_KIND (not `kind`). The reader keeps its own copy:
 * ring and blob are borrowed for the call only.
 */
struct kl_blob_reader;
KL_MUST_USE enum kl_status kl_blob_reader_new(struct kl_keyring *ring, struct kl_bytes blob,
                                              const char *geography, const char *subscription,
                                              uint32_t kind, struct kl_blob_reader **out);
const struct kl_blob_head *kl_blob_reader_head(const struct kl_blob_reader *r);
/* The next version: *meta is the caller's (kl_pb_wipe_free with &kl_pb_allocator; its id has 16 bytes
 * and its attributes are there), *payload is replaced with its plaintext. KL_NOT_FOUND after the
 * last, KL_TOO_LARGE when payload->max is too small, KL_BLOB_MALFORMED. */
KL_MUST_USE enum kl_status kl_blob_reader_next(struct kl_blob_reader *r,
                                               Kluis__Store__VersionMeta **meta,
                                               struct kl_buf *payload);
void kl_blob_reader_free(struct kl_blob_reader *r);

/* For tools and error texts: the head as written, NOT authenticated. */
KL_MUST_USE enum kl_status kl_blob_peek(struct kl_bytes blob, struct kl_blob_head *head);

#endif
