/*
 * Every limit of kluis in one place. A name ends with its unit or with _MAX / _MIN for counts.
 * Figures marked [A] are Azure Key Vault's documented limits.
 */
#ifndef KL_LIMITS_H
#define KL_LIMITS_H

/* Names and values, as users see them. */
#define KL_VAULT_NAME_MIN         3     /* [A] */
#define KL_VAULT_NAME_MAX         24    /* [A] */
#define KL_OBJECT_NAME_MAX        127   /* [A] */
#define KL_RESOURCE_GROUP_MAX     90    /* [A] */
#define KL_LOCATION_MAX           64    /* region and geography names */
#define KL_SECRET_VALUE_MAX       25600 /* [A] 25 KiB */
#define KL_CONTENT_TYPE_MAX       255   /* [A] */
#define KL_TAGS_MAX               15    /* [A] */
#define KL_TAG_KEY_MAX            512   /* [A] */
#define KL_TAG_VALUE_MAX          256   /* [A] */
#define KL_RETENTION_DAYS_MIN     7     /* [A] */
#define KL_RETENTION_DAYS_MAX     90    /* [A] */
#define KL_RETENTION_DAYS_DEFAULT 90    /* [A] */
#define KL_PAGE_DEFAULT           25    /* [A] */
#define KL_PAGE_MAX               100
#define KL_PAGE_TOKEN_MAX         512
#define KL_DAY_MS                 86400000ULL

/* Identifiers. */
#define KL_ID_LEN      16 /* vault, object, version, request, cluster, data directory */
#define KL_ID_HEX_LEN  32
#define KL_NODE_ID_MAX 65535
#define KL_GROUPS_MAX  256
#define KL_NODES_MAX   32
#define KL_REGIONS_MAX 16   /* home regions and sites of witnesses */
#define KL_SHARDS_MAX  15   /* vault groups of a region */
#define KL_TOKEN_MAX   4096 /* bytes of a bearer token */

/* Calls. */
#define KL_DEADLINE_DEFAULT_MS 30000
#define KL_DEADLINE_MAX_MS     60000
#define KL_CLOCK_SKEW_MS       10000 /* slack of Call.expires_ms over deadline and clocks */
#define KL_METADATA_MAX        16
#define KL_METHOD_MAX          128
#define KL_CALLS_PER_CONN_MAX  4096  /* calls under way on one connection */
#define KL_CALLS_MAX           65536 /* calls under way on one node */
#define KL_COUNTERS_MAX        64    /* counters in Cluster.Status */
#define KL_REPLANS_MAX         8     /* plans of one call whose object kept changing */
#define KL_WHEEL_SLOTS         1024  /* of the wheel of deadlines */
#define KL_WHEEL_SLOT_US       8000
#define KL_SWEEP_MS            10  /* how often deadlines are looked at */
#define KL_SWEEP_BATCH_MAX     64  /* deadlines answered under one hold of the lock */
#define KL_RUNNERS_MAX         64  /* workers that serve calls at the same time */
#define KL_RUNNER_SHARE        4   /* calls that may wait per busy worker before another is woken */
#define KL_HOLDS_MAX           32  /* connections whose replies a worker gathers */
#define KL_HOLD_US             300 /* for so long at most */
#define KL_VAULT_CACHE_SLOTS   1024        /* vault names whose home group is remembered */
#define KL_REPLY_ERROR_MAX     1024        /* bytes of a packed Reply without payload */
#define KL_SCRATCH_KEEP_MAX    (1u << 20)  /* a worker keeps a reply buffer up to this size */
#define KL_UNPACK_EXTRA        (32u << 10) /* memory for unpacking a message beyond twice its size */
#define KL_RETRY_AFTER_MS      100         /* advice with EXHAUSTED */
#define KL_RETRY_SOON_MS       50          /* advice with UNAVAILABLE */
#define KL_PARTIAL_MAX         (1u << 30) /* bytes of unfinished messages of all client connections */
#define KL_PARTIAL_PER_CONN    4          /* unfinished messages of one client connection */
#define KL_CALL_BYTES_MAX      (512u << 20) /* packed calls under way on one node */
#define KL_BURST_MAX           64           /* calls handed to the dispatcher in one go */

/* Frames and connections. */
#define KL_FRAME_BODY_MAX         (1u << 20)  /* one frame; longer messages are split */
#define KL_MESSAGE_MAX            (72u << 20) /* a whole message put together from frames */
#define KL_CLIENT_REQUEST_MAX     (1u << 20)  /* a request other than Restore */
#define KL_BLOB_MAX               (64u << 20) /* a backup blob */
#define KL_CONN_OUT_MAX           (80u << 20) /* bytes queued for one connection */
#define KL_CONN_OUT_SOFT          (4u << 20)  /* above this we stop reading from that peer */
#define KL_CONNS_MAX              4096        /* connections of one listener */
#define KL_CONNECT_TIMEOUT_MS     3000
#define KL_HANDSHAKE_TIMEOUT_MS   5000
#define KL_IDLE_TIMEOUT_MS        600000 /* client connection without any call */
#define KL_WRITE_STALL_TIMEOUT_MS 20000  /* peer takes nothing of what is queued */
#define KL_REDIAL_MIN_MS          50
#define KL_REDIAL_MAX_MS          1000

/* Connections between nodes. */
#define KL_PEER_QUEUE_MAX   (8u << 20) /* bytes queued to a node; more Raft messages are dropped */
#define KL_PEER_PING_MS     1000
#define KL_PEER_SILENCE_MS  5000 /* nothing heard for so long closes */
#define KL_PEER_PROBE_MS    2000 /* time to answer when another process claims the node id */
#define KL_PEER_HELLO_MAX   4096 /* bytes of a greeting or a refusal */
#define KL_PEER_STREAMS_MAX 16   /* messages of several frames that may be open at once */

/* Log entries and the state machine. */
#define KL_COMMAND_MAX          (512u << 10) /* one packed command */
#define KL_ENTRY_TARGET         (64u << 10)  /* proposals of a loop turn are packed up to this */
#define KL_ENTRY_MAX            (1u << 20)   /* one log entry */
#define KL_ENTRY_COMMANDS_MAX   4096
#define KL_PROPOSALS_QUEUED_MAX 16384        /* waiting for a loop turn of one group */
#define KL_INFLIGHT_BYTES_MAX   (1u << 20)   /* outstanding in Raft, per group */
#define KL_REQUESTS_MAX         4000000      /* remembered request ids per group */
#define KL_REQUEST_SWEEP_MAX    512          /* expired ids removed per entry */
#define KL_PURGE_BATCH_MAX      64           /* items of one PurgeDue */
#define KL_COLLECT_BUDGET_MAX   256          /* records removed by one Collect */
#define KL_RESTORE_STAGE_BYTES  (256u << 10) /* versions of one RestoreStage */
#define KL_RESTORE_KEEP_MS      600000       /* an uncommitted stage is collected after this */
#define KL_VERSIONS_MAX         100000       /* versions of one object */
#define KL_RECORD_MAX           (256u << 10) /* one value in the store */
#define KL_WRAPPED_KEY_MAX      1024         /* a key wrapped by another */
#define KL_KEYRING_ROOTS_MAX    1000         /* root keys of a cluster */
#define KL_PURGE_INLINE_MAX     64           /* versions that go with their object at once */
#define KL_STAGE_KEEP_MAX_MS    KL_DAY_MS    /* longest life of an uncommitted stage */
/* Effect and results of one entry; its later commands are then refused with EXHAUSTED. */
#define KL_EFFECT_MAX (32u << 20)
/* kl_batch_init() for kl_core_apply(); greater than KL_EFFECT_MAX and one command's effect. */
#define KL_BATCH_MAX (64u << 20)

/* The store. */
#define KL_STORE_BALLAST      (24u << 20) /* kept free for the recovery of a full disk */
#define KL_STORE_HEADROOM     (16u << 20) /* free space beyond it before writes are taken again */
#define KL_STORE_WRITE_BUFFER (8u << 20)
#define KL_RECENT_SLOTS       8192 /* small records kept in memory per store */
#define KL_RECENT_RECORD_MAX  512  /* bytes of such a record, with its key */
#define KL_STORE_FILES_MAX    160  /* table files of 2 MiB that LevelDB keeps mapped */
#define KL_STORE_DRAIN_MS     1000 /* wait for readers before a store is reopened */

/* The process: threads, log, keys, audit trail, configuration. */
#define KL_POOL_THREADS_MAX    64
#define KL_POOL_BATCH_MAX      8           /* jobs a worker takes at once */
#define KL_LOG_LINE_MAX        2000        /* bytes, newline included */
#define KL_VAULT_KEY_CACHE_MAX 1024        /* unwrapped vault keys kept by one node */
#define KL_ROOT_KEYS_MAX       256         /* versions of the root key */
#define KL_BLOB_CHUNK_MAX      (64u << 10) /* plaintext bytes of one chunk of a backup blob */
#define KL_AUDIT_QUEUE_MAX     16384       /* records waiting for the audit thread */
#define KL_AUDIT_LINE_MAX      4096        /* bytes of one audit line */
#define KL_AUDIT_FILES_MAX     100         /* rotated audit files that can be asked for */
#define KL_CONFIG_FILE_MAX     (1u << 20)  /* bytes of a configuration file */
#define KL_CONFIG_LINE_MAX     8192        /* bytes of one line of it */

/* The client library. */
#define KL_CLIENT_ENDPOINTS_MAX   64    /* configured addresses and those learned from hints */
#define KL_CLIENT_ADDRESS_MAX     262   /* "host:port", NUL included */
#define KL_CLIENT_ROUTES_MAX      1024  /* remembered leaders, by vault; a power of two */
#define KL_CLIENT_CALLS_MAX       65536 /* calls under way in one client */
#define KL_CLIENT_BACKOFF_MIN_MS  20
#define KL_CLIENT_BACKOFF_MAX_MS  500
#define KL_CLIENT_HOPS_MAX        4     /* tries without a pause in between, then back-off */
#define KL_CLIENT_CHANGED_MAX     8     /* tries of a write that meets KL_CHANGED */
#define KL_CLIENT_SILENCE_MS      500   /* nothing heard while calls wait: PING */
#define KL_CLIENT_PONG_MS         1000  /* nothing heard since the PING: the connection is dead */
#define KL_CLIENT_GOAWAY_PAUSE_MS 500   /* a draining node gets no new connection for so long */
#define KL_CLIENT_BATCH_MAX       64    /* calls handled under one hold of the client's lock */
#define KL_CLIENT_MESSAGE_MAX     512   /* text about a failed call, NUL included */
#define KL_CLIENT_NODES_MS        60000 /* the cluster's nodes are asked for again, while in use */
#define KL_CLIENT_ASK_MS          5000  /* deadline of that */
#define KL_CLIENT_REGIONS_MAX     8     /* regions that a connection is kept to */
#define KL_CLIENT_KEEP_IDLE_MS    10000 /* such a connection is silent: PING */
#define KL_CLIENT_KEEP_MIN_MS     500   /* it could not be made: again after this, and ever rarer */
#define KL_CLIENT_KEEP_MAX_MS     30000

/* Replicated groups (server/raft). */
#define KL_WIO_GETS_MAX         256         /* snapshots asked of the wrapper in one turn */
#define KL_BACKTRACK_ENTRIES    128         /* a rejected follower steps back by so many */
#define KL_APPEND_BYTES_MAX     (1u << 20)  /* entries of one AppendEntries, unless one is larger */
#define KL_APPEND_ENTRIES_MAX   4096        /* entries of one AppendEntries */
#define KL_PEER_MESSAGE_MAX     (4u << 20)  /* one packed kluis.peer.Message */
#define KL_PEER_UNPACK_MAX      (32u << 20) /* memory for unpacking one */
#define KL_ADDRESS_MAX          127         /* a node's address in a Raft configuration */
#define KL_RAFT_INDEX_MAX       (1ULL << 62)
#define KL_RAFT_WINDOW_MAX      1024 /* entries in flight to a follower */
#define KL_RAFT_WINDOW_MIN      16
#define KL_RAFT_WINDOW_BYTES    (8u << 20) /* what those may come to */
#define KL_GATHER_US            2000 /* proposals gather this long while an entry is under way */
#define KL_FRESH_MARKS_MAX      64   /* commits a follower has yet to apply before its age falls */
#define KL_CLOCK_DRIFT_PCT      1    /* two nodes' clocks run apart by less */
#define KL_CONFIRM_GAP_US       1000 /* quorum reads gather this long while one round is out */
#define KL_LEASE_MARGIN_PCT     10   /* of the election timeout: drift of clocks, rounding */
#define KL_LOG_KEEP_BYTES       (32u << 20) /* log kept for slow followers, by default */
#define KL_LOG_KEEP_ENTRIES_MAX 65536
#define KL_LOG_KEEP_ENTRIES_MIN 16
#define KL_LOG_CAPACITY_MIN_KB  4096  /* below it on a majority of voters writes are refused */
#define KL_LOG_PROBE_MS         2000  /* an entry of its own asks a full disk for space */
#define KL_STUCK_MS             10000 /* the log takes nothing more: give up and restart */
#define KL_BACKLOG_BYTES_MAX    (64u << 20)  /* committed entries waiting for space in the store */
#define KL_CHANGES_QUEUED_MAX   16           /* membership changes and transfers waiting */
#define KL_STREAM_CHUNK_BYTES   (128u << 10) /* a chunk of a state stream */
#define KL_STREAM_CHUNK_PAIRS   4096
#define KL_STREAM_CREDIT        16    /* chunks sent and not yet acknowledged */
#define KL_STREAM_KEEP_MS       60000 /* a silent receiver keeps its snapshot pinned so long */
#define KL_STREAM_RETRY_MS      1000  /* offers and requests are repeated */
#define KL_STREAM_INSTALL_MS    5000  /* for the receiver to install what it has staged */
#define KL_RAFT_TICK_MS         100   /* heartbeats and everything timed */
#define KL_LETTERS_MAX          65536 /* messages of peers waiting for one group */
#define KL_LETTER_BYTES_MAX     (64u << 20) /* what those may come to */
#define KL_TASKS_MAX            65536       /* functions posted to one group */
#define KL_INSTALL_TIMEOUT_MS   2000        /* Raft asks again; an existing stream goes on */

/* Clocks (server/runtime/cluster_clock.h has the rules). */
#define KL_FAILBACK_MS         30000 /* a node at home is well for so long before it leads again */
#define KL_CLOCK_ASK_MS        1000  /* nodes ask each other for their clocks */
#define KL_CLOCK_FRESH_MS      10000 /* an older reading of a clock does not count */
#define KL_CLOCK_ROUND_TRIP_MS 5000  /* neither does one that was under way for so long */
#define KL_CLOCK_AGREE_MS      10000 /* clocks this close to the cluster's time agree with it */
#define KL_CLOCK_SLEW          1000  /* the time follows them by 1 part in so many */
#define KL_CLOCK_GAP_DAYS      3    /* all nodes were down for so long: their clocks are believed */
#define KL_CLOCK_WAIT_MS       3000 /* a node that starts waits so long for a majority of clocks */
#define KL_CLOCK_SHOWN_MS      600000 /* an operator takes so long to confirm what was shown */

#endif
