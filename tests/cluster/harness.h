/*
 * Real clusters for tests: kluisd processes on loopback with their own CA, seal, token and data
 * directories below a temporary directory. What a test starts dies with it, also when it fails.
 *
 * The programs are found through KLUISD (environment) or beside the build tree of the test.
 * Functions that cannot do their work end the test program with a message.
 */
#ifndef KL_HARNESS_H
#define KL_HARNESS_H

#include "client/include/kluis.h"

#include <sys/types.h>

#include "rpc.pb-c.h"

#define CLUSTER_NODES_MAX 7

/* Where the processes are to be, other than here: networks of their own, containers. */
struct cluster_place {
    void *arg;
    const char *const *hosts; /* address of each node; its ports are always the same */
    void (*prepare)(void *arg, const char *dir); /* after all files have been made; may be NULL */
    /* In the new process of a node before it becomes kluisd; NULL: stays where it is. */
    void (*enter)(void *arg, unsigned node);
    /* Instead of a process of ours: starts the node elsewhere and says its process id here. */
    pid_t (*start)(void *arg, unsigned node);
    int (*exit_code)(void *arg, unsigned node); /* of one that `start` started, once it has ended */
};

struct cluster_options {
    unsigned nodes;                    /* 1..7 */
    uint64_t day_ms;                   /* 0 = a real day */
    const char *extra_config;          /* lines for the [cluster] section, or NULL */
    const char *const *data_dirs;      /* one per node; NULL: the cluster's own directories */
    const char *regions;               /* [region …] sections, or NULL */
    const char *const *region;         /* of each node; NULL: all are in west */
    unsigned witnesses;                /* bit per node */
    bool fake_clocks;                  /* cluster_set_clock() can be used; needs libfaketime */
    const char *dir;                   /* an empty directory for all files; NULL: one of its own */
    bool only_files;                   /* nothing is started */
    const struct cluster_place *place; /* lives as long as the cluster; NULL: loopback */
};

/* West and east with two nodes each, a pair, and a witness on the hill: nodes 0 1, 2 3, 4. */
struct cluster_options cluster_paired(void);

struct cluster;

/* Makes files, starts every node and waits until the cluster serves. */
struct cluster *cluster_new(const struct cluster_options *options);
/* Kills what runs, removes the directory (kept when KLUIS_KEEP is set). NULL is allowed. */
void cluster_free(struct cluster *c);

unsigned cluster_size(const struct cluster *c);
const char *cluster_dir(const struct cluster *c);
const char *cluster_data_dir(const struct cluster *c, unsigned node);
const char *cluster_config(const struct cluster *c, unsigned node);
const char *cluster_log(const struct cluster *c, unsigned node); /* path of its stderr */
const char *cluster_endpoint(const struct cluster *c, unsigned node);
const char *cluster_peer_address(const struct cluster *c, unsigned node);
const char *cluster_ca(const struct cluster *c);
const char *cluster_token(const struct cluster *c);

/* Nodes are 0 .. n-1; their ids are 1 .. n. */
void cluster_start(struct cluster *c, unsigned node);
/* Its next process runs this program instead: another version. */
void cluster_set_program(struct cluster *c, unsigned node, const char *kluisd);
const char *cluster_program(const struct cluster *c);
/* Runs kluisd with these words and returns its exit code; its output goes to the node's log. Kills it
 * when it does not end by itself and gives -1. */
int cluster_run(struct cluster *c, unsigned node, const char *const *words);
/* The same with a file for its output and a time of its own. */
int cluster_run_to(struct cluster *c, const char *log, const char *const *words,
                   unsigned timeout_ms);
/* Runs it until the node's log has the text, then kills it; false: it did not come, or kluisd ended by
 * itself. */
bool cluster_run_until(struct cluster *c, unsigned node, const char *const *words, const char *text,
                       unsigned timeout_ms);
/* Sets a node's wall clock off by so much, "+0" or "-100d", now and for its later processes. Its
 * monotonic clock stays what it is. Takes a second or two. */
void cluster_set_clock(struct cluster *c, unsigned node, const char *off);
/* Runs the command line against all nodes: its exit code, and what it printed (both streams), cut to
 * out_len - 1 bytes. */
int cluster_cli(struct cluster *c, const char *const *words, char *out, size_t out_len);
void cluster_signal(struct cluster *c, unsigned node, int signal_number);
/* Waits for the process to end: exit code, or 128 + signal. Kills it after timeout_ms and gives -1. */
int cluster_wait(struct cluster *c, unsigned node, unsigned timeout_ms);
void cluster_kill(struct cluster *c, unsigned node);    /* SIGKILL and wait */
bool cluster_running(struct cluster *c, unsigned node); /* false also when it ended by itself */
pid_t cluster_pid(const struct cluster *c, unsigned node);
unsigned long cluster_rss_kib(const struct cluster *c, unsigned node); /* resident memory */
unsigned long cluster_anon_kib(const struct cluster *c,
                               unsigned node);                   /* of it, what no file backs */
uint64_t cluster_age_ms(const struct cluster *c, unsigned node); /* of its process; 0 = none */
/* Built with a sanitizer: then memory says nothing. */
bool cluster_sanitized(const struct cluster *c, unsigned node);
/* Makes the files of one more node, with a data directory that joins; the others' configurations do not
 * tell of it. Returns its number. options as for cluster_new, `region` with one more. */
unsigned cluster_grow(struct cluster *c, const struct cluster_options *options);
/* Removes the data directory of a stopped node and makes an empty one that joins. */
void cluster_wipe(struct cluster *c, unsigned node);
/* Text in the node's log so far. */
bool cluster_log_has(const struct cluster *c, unsigned node, const char *text);
/* Waits for it. */
bool cluster_log_wait(const struct cluster *c, unsigned node, const char *text,
                      unsigned timeout_ms);

/* A client of all nodes. Close it with kluis_close. */
struct kluis_client *cluster_client(const struct cluster *c);

/* Status as one node sees it; free with kluis__v1__cluster_status_response__free_unpacked(s, NULL).
 * NULL when it does not answer within two seconds. */
Kluis__V1__ClusterStatusResponse *cluster_status(struct cluster *c, struct kluis_client *client,
                                                 unsigned node);
/* Index of the node that leads the group, or -1 after timeout_ms. */
int cluster_leader(struct cluster *c, struct kluis_client *client, uint32_t group,
                   unsigned timeout_ms);
/* Waits until all running nodes give the same digest of the group at the same index. */
bool cluster_digests_agree(struct cluster *c, struct kluis_client *client, uint32_t group,
                           unsigned timeout_ms);
/* Waits until every node names every node as a voter of the group. */
bool cluster_all_voters(struct cluster *c, struct kluis_client *client, uint32_t group,
                        unsigned timeout_ms);
/* Hands the group's leadership to a node; KLUIS_OK once it leads. */
enum kluis_status cluster_transfer(struct cluster *c, struct kluis_client *client, uint32_t group,
                                   unsigned to, unsigned timeout_ms);
/* Takes a node whose directory is new into the cluster; tried until it has knocked. */
enum kluis_status cluster_replace(struct cluster *c, struct kluis_client *client, unsigned node,
                                  unsigned timeout_ms);

/* Monotonic microseconds. */
uint64_t harness_now_us(void);
void harness_sleep_ms(unsigned ms);

/* ---- short ways to use a vault, with a deadline that a busy machine keeps ---- */

/* Creates it; the test fails when that does. */
void cluster_make_vault(struct kluis_client *client, const char *name);
/* Reads a secret and drops what it says. */
enum kluis_status cluster_read(struct kluis_client *client, const char *vault, const char *name);

#endif
