/*
 * A drill: a cluster of two regions and a witness under a checked load, something that breaks, and
 * what it cost. kluis-drill runs them; each is a row of kl_drills.
 */
#ifndef KL_DRILL_H
#define KL_DRILL_H

#include "tests/drills/memory.h"
#include "tests/drills/site.h"
#include "tests/lib/history.h"

#include <jansson.h>

enum {
    DRILL_EVENTS_MAX = 64,
    DRILL_TEXT = 200,
    DRILL_CLIENT_NUMBERS = 1000, /* client threads of site S are S * this + 1 ... */
    DRILL_DAY_MS = 1000,
    DRILL_GARDEN_DAYS = 7,
    DRILL_VAULT_DAYS = 90,
    DRILL_GROUPS = 3, /* the directory, west, east */
    DRILL_GROUP_WEST = 1,
    SOAK_ROUNDS_MAX = 2000
};

#define DRILL_DIR  "kluis-drill-" /* then the runner's process id and what makes it unique */
#define DRILL_MARK "unfinished"

struct drill_event {
    uint64_t at_us;
    char text[DRILL_TEXT];
};

/* What a drill found. Counts of what must not happen are 0 in a verdict that passes. */
struct drill_cost {
    uint64_t no_writes_ms,
        no_reads_ms; /* longest, at the worst region that was not cut off itself */
    uint64_t lost, doubled, stale, early;
    uint64_t writes, reads,
        failed_calls; /* failed: without an answer within the deadline, not cut off */
    uint64_t planted; /* secrets that were deleted to see when they go */
    uint64_t purged;  /* in their time, of those that the gardener deleted */
    bool linearizable, digests_equal, nodes_good;
    char violation[1024];
    char first_failure[DRILL_TEXT];
};

/* Acknowledged writes and reads of a region by time, for the picture. */
enum { DRILL_SLOTS_MAX = 2400, DRILL_SLOT_MS = 100 };
struct drill_curve {
    uint16_t writes[DRILL_SLOTS_MAX], reads[DRILL_SLOTS_MAX];
};

struct drill;
struct drill_kind {
    const char *name;
    const char *what; /* a sentence */
    void (*run)(struct drill *d);
    unsigned no_writes_max_ms; /* limits of the verdict */
    unsigned no_reads_max_ms;
    unsigned failed_max;
    unsigned apart; /* bit per site whose clients are cut off by the drill itself */
    bool fake_clocks;
    bool small_disk; /* of the leader */
    bool brief;      /* one of those that tests/run has */
};
extern const struct drill_kind kl_drills[];
extern const size_t kl_drills_n;

struct drill {
    const struct drill_kind *kind;
    const struct site_backend *site;
    struct cluster *cluster;
    struct kluis_client *client; /* of the runner: reaches every node without a wire */
    unsigned delay_ms;           /* one way, between any two sites */
    uint64_t seed;
    unsigned round; /* of a run over one cluster, from 1; 0: the cluster is this drill's alone */
    pid_t owner;    /* the runner, whose number is in the names of what must not be left behind */
    bool fake_clocks;
    unsigned disk_mib;           /* of the small disk; 0 = none */
    char vault[24];              /* of the clients */
    char garden[24];             /* of the gardeners */
    struct cluster_place place;  /* the backend's, with a small disk put in where one is wanted */
    char disk[256];              /* mount point of the small disk: n1's data; "" = none */
    char out[SITE_CLIENTS][256]; /* histories of the clients */
    char all[256];               /* all of them as one */
    pid_t clients[SITE_CLIENTS];
    uint64_t begun_us, fault_us, ended_us;
    struct drill_event events[DRILL_EVENTS_MAX];
    size_t events_n;
    struct drill_cost cost;
    struct drill_curve curves[SITE_CLIENTS];
    bool broken; /* the drill itself saw what must not be; the last event says what */
    bool passed;
    char why[DRILL_TEXT];
};

/* One drill from an empty directory to its verdict. */
void drill_run(struct drill *d);

/* Removes what runners have left behind that did not come to an end: mounts and directories of this
 * owner, or for 0 of all that run no more. Not those that are kept for somebody to look at. remove:
 * the files, too; else they are kept from now on. */
void drill_clean(const struct site_backend *site, pid_t owner, bool remove);

/* Drill after drill on one cluster that lives on; results in memory that outlives the process that
 * runs it. What a drill needs of its own are its vaults: deleted once it is over, purged 90 s
 * later. */
struct soak {
    struct drill base; /* has the cluster; only its place in the run is used */
    uint64_t random;   /* state of the draw; goes on over clusters */
    uint64_t until_us;
    bool keep; /* the files of a cluster with a failed drill */
    unsigned rounds_n;
    struct drill rounds[SOAK_ROUNDS_MAX];
    struct memory_sample samples[SITE_NODES][SOAK_ROUNDS_MAX]; /* after each round that went well */
    size_t samples_n;
};
/* Until time is up, or the cluster is not whole any more after a drill. */
void drill_soak(struct soak *s);

/* Prints what distance costs a writer; in network namespaces. Is it within what is asked for? */
bool drill_distance(void);

/* ---- for the drills themselves ---- */

/* For qsort of uint64_t. */
int drill_compare_u64(const void *a, const void *b);

void drill_event(struct drill *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The fault begins: from here on it is measured. */
void drill_fault(struct drill *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* It went wrong: the verdict fails for this reason. */
void drill_broken(struct drill *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Waits until the client of each site in the mask has had this many more writes acknowledged. */
bool drill_writes(struct drill *d, unsigned sites, unsigned more, unsigned timeout_ms);
/* Waits until all groups have a leader, and every node that runs follows it with nothing
 * outstanding. */
bool drill_settled(struct drill *d, unsigned timeout_ms);
/* The node that leads the west's vaults, as the other nodes see it; -1. */
int drill_leader(struct drill *d, unsigned timeout_ms);

/* A version of a secret as the cluster holds it at the end. */
struct drill_version {
    char version[KL_HISTORY_WORD_MAX + 1];
    char value[KL_HISTORY_WORD_MAX + 1];
};
/* All of a name, in any order; how many there are, max at most. */
typedef size_t drill_versions(struct drill *d, const char *name, struct drill_version *out,
                              size_t max);
/* From the cluster, by the runner's client. */
drill_versions drill_held;

/* Reads the histories at d->out, makes one of them at d->all, and fills in the cost. */
void drill_measure(struct drill *d, drill_versions *versions_of);
/* Is the cost within what the drill may cost? d->why says what is not. */
bool drill_judge(struct drill *d);

/* ---- results ---- */

/* One line for people. */
void drill_print(const struct drill *d);
json_t *drill_json(const struct drill *d);
/* Per node and for all: prints it, and gives it for the results. *grows: the memory of some node
 * does. */
json_t *drill_memory(const struct soak *s, bool *grows);
/* A page that needs nothing else. false: it cannot be written. */
bool drill_html(const char *path, const json_t *results, const json_t *memory);

#endif
