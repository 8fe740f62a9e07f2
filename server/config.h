/*
 * The configuration of a node: a text file of `key = value` lines under `[section]` heads.
 * The format, every key with its unit, default and limit: README, "Configuration", and kluisd(8).
 */
#ifndef KL_CONFIG_H
#define KL_CONFIG_H

#include "common/limits.h"
#include "server/auth/auth.h"
#include "server/runtime/log.h"

#define KL_PATH_MAX       1024
#define KL_PRINCIPALS_MAX 256

struct kl_config_region { /* [region NAME] */
    char name[KL_LOCATION_MAX + 1];
    char pair[KL_LOCATION_MAX + 1];      /* "" = none */
    char geography[KL_LOCATION_MAX + 1]; /* default: the cluster's */
    unsigned shards;                     /* vault groups: 1..KL_SHARDS_MAX; default 1 */
    unsigned line;                       /* where its section begins; 0 = it has none */
};

struct kl_config_node { /* [node NAME] */
    uint64_t id;        /* id = 1..65535 */
    char name[KL_LOCATION_MAX + 1];
    char region[KL_LOCATION_MAX + 1];
    char client_address[128]; /* where clients reach it */
    char peer_address[128];   /* where nodes reach it */
    bool witness;             /* votes and stores in a third site, serves no vault */
    unsigned line;            /* where its section begins */
};

struct kl_config {
    /* [cluster] */
    char cluster[KL_LOCATION_MAX + 1]; /* name */
    char geography[KL_LOCATION_MAX + 1];
    char subscription[37]; /* default for vaults */
    uint64_t day_ms;       /* 86,400,000; another value only with test_cluster = yes */
    bool test_cluster;
    unsigned election_timeout_ms; /* 200..60,000; default 800 */
    unsigned failback_after_ms;   /* 1 s..1 day; default 30 s */
    /* [this] */
    char self[KL_LOCATION_MAX + 1]; /* node = NAME of this process */
    char data_dir[KL_PATH_MAX];
    char listen_client[128]; /* default: client_address of the node */
    char listen_peer[128];
    char ca_file[KL_PATH_MAX], cert_file[KL_PATH_MAX], key_file[KL_PATH_MAX];
    char seal_file[KL_PATH_MAX];          /* "" for a witness only */
    char geography_key_file[KL_PATH_MAX]; /* optional */
    char audit_file[KL_PATH_MAX];         /* default DATA_DIR/audit.log; "off" */
    unsigned workers;                     /* 1..64; default 4 */
    size_t cache_bytes;                   /* LevelDB block cache per group; default 32 MiB */
    enum kl_log_level log_level;
    /* [region …], or those that the nodes name, in the order in which they stand */
    struct kl_config_region regions[KL_REGIONS_MAX];
    size_t regions_n;
    /* [node …] */
    struct kl_config_node nodes[KL_NODES_MAX];
    size_t nodes_n;
    /* [principal NAME] token_sha256 = HEX, rights = LIST */
    struct kl_principal principals[KL_PRINCIPALS_MAX];
    size_t principals_n;
};

/* Parses text. On failure err is "FILE:LINE: KEY: what is wrong and what is allowed" and out is
 * untouched; the first error wins. file is only for err. Durations are milliseconds or have a unit
 * (ms, s), sizes are bytes or have one (KiB, MiB, GiB). KL_INVALID_ARGUMENT, KL_NO_MEMORY. */
KL_MUST_USE enum kl_status kl_config_parse(const char *file, const char *text,
                                           struct kl_config *out, char *err, size_t err_len);
/* Reads and parses a file of at most 1 MiB. KL_IO besides. */
KL_MUST_USE enum kl_status kl_config_load(const char *path, struct kl_config *out, char *err,
                                          size_t err_len);
/* The node that this process is: never NULL for what was parsed. Borrowed from config. */
const struct kl_config_node *kl_config_self(const struct kl_config *config);

#endif
