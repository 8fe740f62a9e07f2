/*
 * libkluis: secrets in a replicated vault, for services written in C.
 *
 * Every function may be called from any thread. Blocking calls come back by their deadline.
 * Outputs are written only on KLUIS_OK. Strings are UTF-8 and NUL-terminated.
 */
#ifndef KLUIS_H
#define KLUIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KLUIS_API __attribute__((visibility("default")))

/* Names and numbers equal the server's (common/status.def; a test compares them). */
enum kluis_status {
    KLUIS_OK = 0,
    KLUIS_INVALID_ARGUMENT = 1,
    KLUIS_TOO_LARGE = 2,
    KLUIS_NOT_FOUND = 3,
    KLUIS_VAULT_NOT_FOUND = 4,
    KLUIS_ALREADY_EXISTS = 5,
    KLUIS_DELETED = 6,
    KLUIS_VAULT_DELETED = 7,
    KLUIS_PURGE_PROTECTED = 8,
    KLUIS_DISABLED = 9,
    KLUIS_FORBIDDEN = 10,
    KLUIS_UNAUTHENTICATED = 11,
    KLUIS_EXHAUSTED = 12,
    KLUIS_NO_SPACE = 13,
    KLUIS_UNAVAILABLE = 14,
    KLUIS_NOT_LEADER = 15,
    KLUIS_SEALED = 16,
    KLUIS_TIMEOUT = 17,
    KLUIS_EXPIRED = 18,
    KLUIS_CANCELLED = 19,
    KLUIS_UNIMPLEMENTED = 20,
    KLUIS_FIXED = 21,
    KLUIS_BLOB_MALFORMED = 22,
    KLUIS_BLOB_FORMAT = 23,
    KLUIS_BLOB_TRUNCATED = 24,
    KLUIS_BLOB_TAMPERED = 25,
    KLUIS_BLOB_SUBSCRIPTION = 26,
    KLUIS_BLOB_GEOGRAPHY = 27,
    KLUIS_BLOB_KIND = 28,
    KLUIS_CHANGED = 29,
    KLUIS_NO_MEMORY = 30,
    KLUIS_CRYPTO = 31,
    KLUIS_CORRUPT = 32,
    KLUIS_IO = 33,
    KLUIS_PROTOCOL = 34,
    KLUIS_CLOSED = 35,
    KLUIS_INTERNAL = 36,
    KLUIS_TOO_OLD = 37,
    KLUIS_QUORUM = 38,
};

/* "NOT_FOUND"; static. */
KLUIS_API const char *kluis_status_name(enum kluis_status status);
/* One clause for people; static. */
KLUIS_API const char *kluis_status_text(enum kluis_status status);

/*
 * Details of the last failed blocking call on this thread: what the server said, with the offending
 * field and its limit. Valid until this thread's next call; "" when there are none.
 */
KLUIS_API const char *kluis_last_error(void);

/* ---------------------------------------------------------------- client */

struct kluis_client;

/*
 * What a read must see. Writes are always linearizable; of them this is ignored.
 *
 * LINEARIZABLE  every write acknowledged before the call began: the leader, under its lease.
 * QUORUM        the same without trust in any clock: the leader, after a majority has confirmed it;
 *               costs a round trip between nodes.
 * STALE         any replica, also while there is no leader. kluis_last_served() says how old what it
 *               saw is at most. Older than max_age_ms is not returned: another replica is tried, and
 *               at the deadline the call ends with KLUIS_TOO_OLD.
 */
enum kluis_consistency {
    KLUIS_READ_DEFAULT = 0, /* the client's; of a client: KLUIS_READ_LINEARIZABLE */
    KLUIS_READ_LINEARIZABLE = 1,
    KLUIS_READ_QUORUM = 2,
    KLUIS_READ_STALE = 3,
};
struct kluis_read {
    enum kluis_consistency consistency;
    uint32_t max_age_ms; /* with KLUIS_READ_STALE; 0 = any age */
};

struct kluis_options {
    const char *const *endpoints; /* "host:port" of any nodes; at least one */
    size_t endpoints_n;
    const char *ca_file;    /* PEM file of the cluster's CA */
    const char *token;      /* bearer token; copied, wiped on close */
    uint32_t timeout_ms;    /* default deadline of a call; 0 = 30,000 */
    bool no_wait;           /* true: do not retry at all (for tests and tools) */
    struct kluis_read read; /* of all reads that do not ask for something else */
    /* true: for a call or two. Otherwise the client learns the cluster's nodes from any of them, asks
     * again now and then, and keeps one connection to each region open, so that a call which has to go
     * to another region finds its way there. */
    bool brief;
};

/* Reads the CA and starts the client's threads; does not wait for a connection. err (may be NULL)
 * gets a line for people. KLUIS_INVALID_ARGUMENT, KLUIS_IO, KLUIS_CRYPTO, KLUIS_NO_MEMORY. */
KLUIS_API enum kluis_status kluis_open(const struct kluis_options *options,
                                       struct kluis_client **out, char *err, size_t err_len);
/* Fails calls under way with KLUIS_CANCELLED, waits for their callbacks, frees. NULL is allowed. */
KLUIS_API void kluis_close(struct kluis_client *client);

/*
 * How the next call of this thread reads, blocking or started; for that call only. NULL takes it back.
 * Never blocks. KLUIS_INVALID_ARGUMENT: no such consistency, or an age without KLUIS_READ_STALE.
 */
KLUIS_API enum kluis_status kluis_read_next(const struct kluis_read *read);

/* Who answered, and how old what it saw was. */
struct kluis_served {
    uint64_t node_id; /* 0 = nobody yet */
    char region[65];
    bool stale; /* it was asked for KLUIS_READ_STALE */
    uint64_t
        age_ms; /* milliseconds: every write acknowledged longer ago was seen; 0 when not stale */
};
/* Of the last call of this thread that returned KLUIS_OK; inside a callback: of its call. *out is
 * always written. */
KLUIS_API void kluis_last_served(struct kluis_served *out);

/* ---------------------------------------------------------------- values */

struct kluis_tag {
    const char *key;
    const char *value;
};

struct kluis_vault {
    const char *name;
    const char *id; /* 32 hex digits */
    const char *subscription;
    const char *resource_group;
    const char *location;
    uint32_t retention_days;
    bool purge_protection;
    const struct kluis_tag *tags;
    size_t tags_n;
    uint64_t created_ms, updated_ms; /* Unix milliseconds */
    uint64_t deleted_ms;             /* 0 = live */
    uint64_t scheduled_purge_ms;     /* 0 = live */
    const char *mirror;              /* region of the pair; "" = none */
    const char *leader_region;       /* "" in lists: where it is served from */
    bool mirror_current;             /* false in lists: the mirror has all there is */
    uint64_t mirror_lag;             /* log entries that the mirror lacks */
};

struct kluis_secret {
    const char *vault;
    const char *name;
    const char *version;  /* 32 hex digits */
    const uint8_t *value; /* NULL where the call does not return one */
    size_t value_len;
    const char *content_type;
    const struct kluis_tag *tags;
    size_t tags_n;
    bool enabled;
    uint64_t not_before_s, expires_s; /* Unix seconds; 0 = not set */
    uint64_t created_ms, updated_ms;
    uint64_t deleted_ms, scheduled_purge_ms;
    uint32_t recoverable_days;
    const char *recovery_level;
};

/* Everything a result points to belongs to it; free wipes it first. NULL is allowed. */
KLUIS_API void kluis_vault_free(struct kluis_vault *vault);
KLUIS_API void kluis_secret_free(struct kluis_secret *secret);

struct kluis_vault_list {
    struct kluis_vault **items;
    size_t n;
    char *next; /* page token; NULL = that was all */
};
struct kluis_secret_list {
    struct kluis_secret **items;
    size_t n;
    char *next;
};
KLUIS_API void kluis_vault_list_free(struct kluis_vault_list *list);
KLUIS_API void kluis_secret_list_free(struct kluis_secret_list *list);

struct kluis_blob {
    uint8_t *data;
    size_t len;
    uint32_t version_count;
};
KLUIS_API void kluis_blob_free(struct kluis_blob *blob);

/* ---------------------------------------------------------------- blocking calls
 *
 * timeout_ms: milliseconds for the whole call, retries included; 0 = the client's default; at most
 * 60,000. Reads are linearizable unless asked otherwise (kluis_read_next). Writes carry a request id of their own: however often they are
 * retried inside, they happen at most once. KLUIS_TIMEOUT from a write: it may or may not have
 * happened. Besides what is named, every call may return KLUIS_UNAVAILABLE, KLUIS_TIMEOUT,
 * KLUIS_UNAUTHENTICATED, KLUIS_FORBIDDEN, KLUIS_INVALID_ARGUMENT, KLUIS_NO_MEMORY.
 */

struct kluis_vault_options {
    const char *subscription;   /* NULL = the cluster's default */
    const char *resource_group; /* NULL = "default" */
    const char *location;       /* NULL = the first region */
    uint32_t retention_days;    /* 7..90; 0 = 90; fixed for good */
    bool purge_protection;      /* irreversible */
    const struct kluis_tag *tags;
    size_t tags_n;
};
/* KLUIS_ALREADY_EXISTS, KLUIS_VAULT_DELETED. options may be NULL. */
KLUIS_API enum kluis_status kluis_vault_create(struct kluis_client *client, const char *name,
                                               const struct kluis_vault_options *options,
                                               uint32_t timeout_ms, struct kluis_vault **out);
/* KLUIS_VAULT_NOT_FOUND, here and in all calls that name a vault. */
KLUIS_API enum kluis_status kluis_vault_get(struct kluis_client *client, const char *name,
                                            uint32_t timeout_ms, struct kluis_vault **out);
/* page_size 1..100, 0 = 25. token: `next` of the last page, NULL for the first. */
KLUIS_API enum kluis_status kluis_vault_list(struct kluis_client *client, uint32_t page_size,
                                             const char *token, uint32_t timeout_ms,
                                             struct kluis_vault_list **out);
struct kluis_vault_update {
    bool set_tags;
    const struct kluis_tag *tags;
    size_t tags_n;
    bool enable_purge_protection;
    uint32_t retention_days; /* 0, or the present value: another is refused with KLUIS_FIXED */
};
KLUIS_API enum kluis_status kluis_vault_update(struct kluis_client *client, const char *name,
                                               const struct kluis_vault_update *update,
                                               uint32_t timeout_ms, struct kluis_vault **out);
KLUIS_API enum kluis_status kluis_vault_delete(struct kluis_client *client, const char *name,
                                               uint32_t timeout_ms, struct kluis_vault **out);
KLUIS_API enum kluis_status kluis_vault_get_deleted(struct kluis_client *client, const char *name,
                                                    uint32_t timeout_ms, struct kluis_vault **out);
KLUIS_API enum kluis_status kluis_vault_list_deleted(struct kluis_client *client,
                                                     uint32_t page_size, const char *token,
                                                     uint32_t timeout_ms,
                                                     struct kluis_vault_list **out);
KLUIS_API enum kluis_status kluis_vault_recover(struct kluis_client *client, const char *name,
                                                uint32_t timeout_ms, struct kluis_vault **out);
/* KLUIS_PURGE_PROTECTED. */
KLUIS_API enum kluis_status kluis_vault_purge(struct kluis_client *client, const char *name,
                                              uint32_t timeout_ms);

struct kluis_secret_options {
    const char *content_type; /* NULL = "" */
    const struct kluis_tag *tags;
    size_t tags_n;
    bool disabled;
    uint64_t not_before_s, expires_s; /* Unix seconds; 0 = not set */
};
/* A new version. value: value_len bytes (0..25,600) of any kind; borrowed. KLUIS_DELETED when the name
 * belongs to a deleted secret. options may be NULL. *out (may be NULL) has no value. */
KLUIS_API enum kluis_status kluis_secret_set(struct kluis_client *client, const char *vault,
                                             const char *name, const void *value, size_t value_len,
                                             const struct kluis_secret_options *options,
                                             uint32_t timeout_ms, struct kluis_secret **out);
/* version NULL = the current one. KLUIS_NOT_FOUND, KLUIS_DISABLED. */
KLUIS_API enum kluis_status kluis_secret_get(struct kluis_client *client, const char *vault,
                                             const char *name, const char *version,
                                             uint32_t timeout_ms, struct kluis_secret **out);
KLUIS_API enum kluis_status kluis_secret_list(struct kluis_client *client, const char *vault,
                                              uint32_t page_size, const char *token,
                                              uint32_t timeout_ms, struct kluis_secret_list **out);
KLUIS_API enum kluis_status kluis_secret_list_versions(struct kluis_client *client,
                                                       const char *vault, const char *name,
                                                       uint32_t page_size, const char *token,
                                                       uint32_t timeout_ms,
                                                       struct kluis_secret_list **out);
struct kluis_secret_update {
    bool set_enabled, enabled;
    bool set_not_before;
    uint64_t not_before_s;
    bool set_expires;
    uint64_t expires_s;
    const char *content_type; /* NULL = leave */
    bool set_tags;
    const struct kluis_tag *tags;
    size_t tags_n;
};
KLUIS_API enum kluis_status kluis_secret_update(struct kluis_client *client, const char *vault,
                                                const char *name, const char *version,
                                                const struct kluis_secret_update *update,
                                                uint32_t timeout_ms, struct kluis_secret **out);
KLUIS_API enum kluis_status kluis_secret_delete(struct kluis_client *client, const char *vault,
                                                const char *name, uint32_t timeout_ms,
                                                struct kluis_secret **out);
KLUIS_API enum kluis_status kluis_secret_get_deleted(struct kluis_client *client, const char *vault,
                                                     const char *name, uint32_t timeout_ms,
                                                     struct kluis_secret **out);
KLUIS_API enum kluis_status kluis_secret_list_deleted(struct kluis_client *client,
                                                      const char *vault, uint32_t page_size,
                                                      const char *token, uint32_t timeout_ms,
                                                      struct kluis_secret_list **out);
KLUIS_API enum kluis_status kluis_secret_recover(struct kluis_client *client, const char *vault,
                                                 const char *name, uint32_t timeout_ms,
                                                 struct kluis_secret **out);
KLUIS_API enum kluis_status kluis_secret_purge(struct kluis_client *client, const char *vault,
                                               const char *name, uint32_t timeout_ms);
KLUIS_API enum kluis_status kluis_secret_backup(struct kluis_client *client, const char *vault,
                                                const char *name, uint32_t timeout_ms,
                                                struct kluis_blob **out);
/* KLUIS_ALREADY_EXISTS, KLUIS_DELETED, KLUIS_BLOB_*. */
KLUIS_API enum kluis_status kluis_secret_restore(struct kluis_client *client, const char *vault,
                                                 const void *blob, size_t blob_len,
                                                 uint32_t timeout_ms, struct kluis_secret **out);

/* ---------------------------------------------------------------- asynchronous calls
 *
 * Start a call and return. done comes exactly once, on a thread of the client (never before the
 * start function has been entered, possibly before it returns), and must not block: a blocking call
 * in it is refused with KLUIS_INVALID_ARGUMENT, kluis_close() in it aborts. result is the callback's
 * to free, NULL unless status is KLUIS_OK. message is borrowed. When the start function
 * itself fails, done is not called.
 */
typedef void (*kluis_secret_fn)(void *arg, enum kluis_status status, struct kluis_secret *result,
                                const char *message);
KLUIS_API enum kluis_status kluis_secret_set_async(struct kluis_client *client, const char *vault,
                                                   const char *name, const void *value,
                                                   size_t value_len,
                                                   const struct kluis_secret_options *options,
                                                   uint32_t timeout_ms, kluis_secret_fn done,
                                                   void *arg);
KLUIS_API enum kluis_status kluis_secret_get_async(struct kluis_client *client, const char *vault,
                                                   const char *name, const char *version,
                                                   uint32_t timeout_ms, kluis_secret_fn done,
                                                   void *arg);
KLUIS_API enum kluis_status kluis_secret_delete_async(struct kluis_client *client,
                                                      const char *vault, const char *name,
                                                      uint32_t timeout_ms, kluis_secret_fn done,
                                                      void *arg);

/* ---------------------------------------------------------------- cluster
 *
 * Calls any method with packed protobuf messages (proto/rpc.proto): what the tools are built on.
 * node: "host:port" to ask just that node, NULL to be led to whoever answers. response: allocated,
 * free with kluis_bytes_free (wipes). write: true for methods that change something.
 */
KLUIS_API enum kluis_status kluis_call(struct kluis_client *client, const char *method,
                                       const void *request, size_t request_len, bool write,
                                       const char *node, uint32_t timeout_ms, uint8_t **response,
                                       size_t *response_len);
KLUIS_API void kluis_bytes_free(uint8_t *bytes, size_t len);

/* "1.0.0" */
KLUIS_API const char *kluis_version(void);

#ifdef __cplusplus
}
#endif

#endif
