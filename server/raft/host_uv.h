/*
 * The real host of a group: a thread with a libuv loop, libraft's own storage in DIR/log, LevelDB
 * in DIR/state, proposals and peer messages through a mailbox.
 */
#ifndef KL_HOST_UV_H
#define KL_HOST_UV_H

#include "server/raft/group.h"
#include "server/raft/peers.h"

struct kl_host_uv;

struct kl_host_uv_options {
    uint16_t group;
    uint64_t node_id;
    const char *address;
    const char *dir; /* DIR/log, DIR/state, DIR/staged are made below it */
    unsigned election_timeout_ms;
    unsigned failback_after_ms;
    uint8_t (*distance)(void *ctx, uint16_t group, uint64_t node_id); /* as in kl_group_options */
    size_t cache_bytes;                                               /* LevelDB block cache */
    const struct kl_member *bootstrap; /* voters of a new cluster; NULL = join or restart */
    size_t bootstrap_n;
    const struct kl_clock *clock;  /* as in kl_group_host; NULL: the machine's */
    struct kl_peers *const *peers; /* where to send; set before messages flow */
    void *ctx;
    /* As in kl_group_host; fatal must not return. */
    void (*fatal)(void *ctx, uint16_t group, const char *why);
    void (*changed)(void *ctx, uint16_t group);
    /* A read found the store damaged (KL_CORRUPT) or the disk failing (KL_IO); on any thread. Must
     * not return: what this replica has lost must come from the others. NULL: reads just fail. */
    void (*damaged)(void *ctx, uint16_t group, enum kl_status status, const char *why);
};

/* Opens store and log on a new thread and starts Raft; returns when it runs or has failed. */
KL_MUST_USE enum kl_status kl_host_uv_start(const struct kl_host_uv_options *options,
                                            struct kl_host_uv **out, char *err, size_t err_len);
struct kl_group *kl_host_uv_group(struct kl_host_uv *host);
/* A peer's message for this group. Copies it. Any thread. */
void kl_host_uv_receive(struct kl_host_uv *host, uint64_t from_node, struct kl_bytes message);
void kl_host_uv_peer(struct kl_host_uv *host, uint64_t node, bool connected);
/* Closes Raft and store, joins the thread. */
void kl_host_uv_stop(struct kl_host_uv *host);

#endif
