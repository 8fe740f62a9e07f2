/*
 * Outcomes of every operation in kluis, and what each means on each wire.
 */
#ifndef KL_STATUS_H
#define KL_STATUS_H

#include <stdbool.h>

enum kl_status {
#define KL_STATUS(name, number, rpc, http, azure, retry, text) KL_##name = (number),
#include "common/status.def"
#undef KL_STATUS
};

#define KL_MUST_USE __attribute__((warn_unused_result))

/* Everything the table says of a status. All strings are static. */
struct kl_status_info {
    enum kl_status status;
    const char *name;   /* "NOT_FOUND" */
    unsigned rpc_code;  /* gRPC's number */
    unsigned http_code; /* HTTP status */
    const char *azure;  /* Azure error code */
    bool retry_safe;    /* the same request may be sent again */
    const char *text;   /* one clause for people */
};

/* The row of a status. Never NULL: a number outside the table gives the row of KL_INTERNAL. */
const struct kl_status_info *kl_status_info(enum kl_status status);

/* Shorthand for kl_status_info(status)->name. */
const char *kl_status_name(enum kl_status status);

/* The status with that name, or KL_INTERNAL. name is borrowed, NUL-terminated. */
enum kl_status kl_status_from_name(const char *name);

#endif
