/*
 * Several groups on one libuv loop in one process: libraft's real storage and LevelDB in
 * directories of the test, messages passed in memory over links that can be cut and delayed.
 *
 * Nodes are numbered from 1. Everything runs inside of lab_run*(): between its calls nothing moves.
 * Time is the lab's: it follows the real one but never jumps, so that a busy machine that stops this
 * process for a while does not depose a leader.
 */
#ifndef KL_TEST_LAB_H
#define KL_TEST_LAB_H

#include "server/raft/group_impl.h"
#include "tests/lib/test.h"

#include <raft/uv.h>

enum { LAB_NODES = 6, LAB_ELECTION_MS = 300, LAB_TICK_MS = 30 };

struct lab;
struct lab_node {
    struct lab *lab;
    unsigned id;
    char dir[300];
    struct kl_group_host host;
    struct raft_io io;
    struct raft_uv_transport transport;
    struct kl_group *group; /* NULL = down */
    bool closed;
    bool full;               /* its store refuses writes */
    _Atomic bool hold_flush; /* flushes of its live store do not end */
    unsigned tick_ms;        /* 0 = LAB_TICK_MS */
    size_t keep_bytes;       /* log kept; 0 = default */
    unsigned covers_off;     /* taken away at the start */
    unsigned fatals;
    char why[2048];
    unsigned sent[RAFT_TIMEOUT_NOW + 1];
};

struct lab {
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_idle_t idle;
    uv_timer_t timer;
    struct kl_mail *posts, **posts_tail;
    struct packet *packets, **packets_tail;
    struct lab_node nodes[LAB_NODES + 1];
    bool cut[LAB_NODES + 1][LAB_NODES + 1];
    unsigned delay_ms;
    bool woken;
    uint64_t now_us, real_us;
    uint8_t distance[LAB_NODES + 1]; /* enum kl_distance; read while it runs */
    unsigned failback_ms;            /* 0 = default; from the next start on */
    unsigned frozen;                 /* this node takes no turns */
    uint64_t skew_us[LAB_NODES + 1]; /* added to the monotonic clock of a node */
    struct kl_clock clocks[LAB_NODES + 1];
    /* Sees every message before it is delivered; false drops it. */
    bool (*filter)(struct lab *lab, unsigned from, unsigned to, enum kl_lane lane,
                   struct kl_buf *message);
    void *filter_arg;
};

struct lab *lab_new(void);
/* Closes what runs and frees. */
void lab_free(struct lab *lab);
/* Starts nodes 1..n; voters > 0 writes a first configuration of nodes 1..voters. */
void lab_start(struct lab *lab, unsigned n, unsigned voters);
KL_MUST_USE enum kl_status lab_node_start(struct lab *lab, unsigned id, unsigned voters);
/* In order. */
void lab_node_stop(struct lab *lab, unsigned id);
void lab_cut(struct lab *lab, unsigned a, unsigned b, bool cut);
/* From and to everybody. */
void lab_isolate(struct lab *lab, unsigned id, bool cut);

void lab_run_ms(struct lab *lab, unsigned ms);
/* Runs until the condition holds; false after ms. */
typedef bool (*lab_condition)(struct lab *lab, void *arg);
bool lab_run_until(struct lab *lab, lab_condition condition, void *arg, unsigned ms);
/* The node that leads and serves, waited for; fails the test when there is none. */
unsigned lab_leader(struct lab *lab);
/* The log of the leader has gone beyond what the node has: it can only be streamed to. Writes small
 * vaults from number *n on until it is so, or a stream is already being offered. */
void lab_leave_behind(struct lab *lab, unsigned node, unsigned *n);
/* All running nodes have applied the same, waited for. */
void lab_converge(struct lab *lab);
uint64_t lab_now_us(const struct lab *lab);

/* ---- commands ---- */

struct lab_call {
    struct kl_proposal p;
    struct lab *lab;
    bool done;
    unsigned times;
    enum kl_status status;
    uint64_t index;
    uint32_t result;  /* CommandResult.status */
    uint64_t time_ms; /* CommandResult.time_ms */
    uint64_t done_us;
};

/* GroupInit through the leader. */
void lab_init_group(struct lab *lab);
/* Proposes VaultCreate of vault number n with about `bytes` of payload. Calls done() later. */
struct lab_call *lab_vault(struct lab *lab, unsigned node, unsigned n, size_t bytes);
void lab_call_free(struct lab_call *call);
/* Creates vaults first..first+n-1 through the leader and waits. */
void lab_fill(struct lab *lab, unsigned first, unsigned n, size_t bytes);
/* Is vault number n in the store of the node? */
bool lab_has_vault(struct lab *lab, unsigned node, unsigned n);
void lab_digest(struct lab *lab, unsigned node, uint8_t out[32]);

/* Transfers and changes, waited for. */
enum kl_status lab_transfer(struct lab *lab, unsigned node, unsigned to);
enum kl_status lab_change(struct lab *lab, unsigned node, enum kl_member_change change,
                          unsigned of);

#endif
