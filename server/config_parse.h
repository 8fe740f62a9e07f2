/*
 * What config.c (sections and keys), config_values.c (values) and config_regions.c (what must hold
 * between regions and nodes) share.
 */
#ifndef KL_CONFIG_PARSE_H
#define KL_CONFIG_PARSE_H

#include "server/config.h"

enum kl_config_section {
    SECTION_NONE,
    SECTION_CLUSTER,
    SECTION_THIS,
    SECTION_NODE,
    SECTION_PRINCIPAL,
    SECTION_REGION,
};

enum kl_config_kind {
    KIND_LOCATION, /* a name */
    KIND_UUID,
    KIND_PATH,
    KIND_ADDRESS,
    KIND_SWITCH,
    KIND_MS,
    KIND_BYTES,
    KIND_NUMBER,
    KIND_LEVEL,
    KIND_DIGEST,
    KIND_RIGHTS,
};

struct kl_config_key {
    enum kl_config_section section;
    const char *name;
    enum kl_config_kind kind;
    size_t offset; /* in kl_config, or in the structure of the section */
    size_t size;
    bool required;
    uint64_t min, max; /* of numbers, in the unit they are kept in */
};

#define KL_CONFIG_MIB    (1ull << 20)
#define KL_CONFIG_BLANKS " \t\r"

enum { KL_CONFIG_KEYS_MAX = 64 }; /* those of a section that were seen are bits of one word */

struct kl_config_parser {
    const char *file;
    unsigned line; /* from 1 */
    char *err;
    size_t err_len;
    struct kl_config *config;
    enum kl_config_section section;
    unsigned section_line;
    char title[128];                    /* of the section, as written, for errors */
    uint64_t seen;                      /* keys of this section, by their place in the table */
    uint64_t sections;                  /* 1 << section, of those that have stood */
    unsigned lines[KL_CONFIG_KEYS_MAX]; /* where each key stood last */
};

/* "FILE:LINE: KEY: …". Always KL_INVALID_ARGUMENT. */
enum kl_status kl_config_bad(const struct kl_config_parser *p, const char *key, const char *format,
                             ...) __attribute__((format(printf, 3, 4)));

/* Reads value into the key's place. */
KL_MUST_USE enum kl_status kl_config_set_value(const struct kl_config_parser *p,
                                               const struct kl_config_key *key, const char *value,
                                               void *to);

/* Every region has nodes, pairs are mutual and in one geography, witnesses stand apart. */
KL_MUST_USE enum kl_status kl_config_check_regions(struct kl_config_parser *p);

#endif
