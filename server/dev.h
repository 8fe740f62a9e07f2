/*
 * The tools that make the files a node needs: certificates, seal, token, and the whole set of them
 * for `kluisd --dev`.
 */
#ifndef KL_DEV_H
#define KL_DEV_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

/* Writes a new random token (64 hex digits) to `path`, mode 0600, refusing to overwrite; its SHA-256
 * in hex goes to sha256_hex (65 bytes). */
KL_MUST_USE enum kl_status kl_token_file_create(const char *path, char sha256_hex[65], char *err,
                                                size_t err_len);

struct kl_dev_options {
    const char *dir;    /* made when missing; files in it are kept and used again */
    const char *listen; /* "host:port" for clients */
    uint64_t day_ms;    /* 0 = a real day */
};

/* Makes CA, certificate, seal, token, configuration and data directory of a one-node cluster below
 * dir; what exists stays. The configuration's path goes to config_path. */
KL_MUST_USE enum kl_status kl_dev_prepare(const struct kl_dev_options *options, char *config_path,
                                          size_t config_path_len, char *err, size_t err_len);

#endif
