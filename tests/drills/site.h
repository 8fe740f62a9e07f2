/*
 * Sites on one machine: west and east with two nodes and a client host each, the hill with a
 * witness, and wires between them (kluis-link). Two ways to have them, with the same addresses:
 * network namespaces with processes in them, and containers of deploy/compose.yaml.
 *
 *   site      network        nodes          client host
 *   0 west    10.89.1.0/24   .10 .11        .100
 *   1 east    10.89.2.0/24   .10 .11        .100
 *   2 hill    10.89.3.0/24   .10
 *
 * .1 is this program (it reaches every node without a wire), .253 the router and .254 the gateway
 * that it plays. What cannot be done ends the program with a message.
 */
#ifndef KL_SITE_H
#define KL_SITE_H

#include "tests/cluster/harness.h"

enum {
    SITE_WEST,
    SITE_EAST,
    SITE_HILL,
    SITES,
    SITE_CLIENTS = 2,
    SITE_NODES = 5,
    SITE_WORDS_MAX = 64
};

struct site_backend {
    const char *name; /* "network namespaces" */
    /* NULL when it can be had here, else why not. */
    const char *(*missing)(void);
    bool outside; /* what up() made stays when the process ends: down() is to be called */
    struct cluster_place place;
    /* Networks, client hosts and wires, before the cluster is made; each is gone after down(). */
    void (*up)(void);
    void (*down)(void);
    /* The next process of a stopped node is another version. NULL: by cluster_set_program(). */
    void (*upgrade)(unsigned node);
    /* Starts a program, named from the folder of this one, on the client host of a site. */
    pid_t (*client)(unsigned site, const char *program, const char *const *words);
    /* Asks it to end and waits for that. */
    void (*client_end)(unsigned site, pid_t pid);
};

extern const struct site_backend site_netns, site_compose;

const char *site_name(unsigned site);
unsigned site_of_node(unsigned node);
/* A rule for the wires, as in kluis-link: "west * down=1". */
void site_rule(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* No packet in or out of the site, or as it was. */
void site_dark(unsigned site, bool dark);

/* Runs a command and waits: its exit code. Its output is dropped unless it goes to `out`. */
int site_run(const char *const *words, char *out, size_t out_len);
/* Path of a program of this build. */
const char *site_program(const char *name);

#endif
