/*
 * Sites as network namespaces. This program goes into a network of its own with a bridge per site, each
 * host is a namespace with one interface on a bridge, and the router has one on each. Nothing has a
 * name outside: all of it is gone when the last process is.
 */
#include "tests/drills/site.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HOSTS = SITE_NODES + SITE_CLIENTS, ROUTER = HOSTS, PATH_LEN = 64 };

/* What the sites are made of while they are up. */
struct networks {
    int ns[HOSTS + 1]; /* of the nodes, the client hosts and the router */
    pid_t router;
};
static struct networks networks;

static const char *const hosts[SITE_NODES] = {"10.89.1.10", "10.89.1.11", "10.89.2.10",
                                              "10.89.2.11", "10.89.3.10"};

static void must(const char *const *words)
{
    char out[512];

    if (site_run(words, out, sizeof out) != 0) {
        (void)fprintf(stderr, "sites: %s %s %s %s: %s\n", words[0], words[1], words[2],
                      words[3] == NULL ? "" : words[3], out);
        exit(1);
    }
}

/* In a child of its own: this process goes on in its namespace. */
static void must_in(int ns, const char *const *words)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        if (setns(ns, CLONE_NEWNET) != 0) {
            _exit(1);
        }
        must(words);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (status != 0) {
        exit(1);
    }
}

static const char *missing(void)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        _exit(unshare(CLONE_NEWNET) == 0 ? 0 : 1);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (status != 0) {
        return "network namespaces cannot be made here (they need root)";
    }
    if (site_run((const char *[]){"ip", "-V", NULL}, NULL, 0) != 0) {
        return "the ip command is missing: apt-get install iproute2";
    }
    return NULL;
}

/* A namespace that a process holds until it has its interfaces. */
static int new_namespace(pid_t *holder)
{
    char path[PATH_LEN];
    int ready[2];
    char byte;
    int fd;

    if (pipe(ready) != 0 || (*holder = fork()) < 0) {
        (void)fprintf(stderr, "sites: fork: %s\n", strerror(errno));
        exit(1);
    }
    if (*holder == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (unshare(CLONE_NEWNET) == 0) {
            (void)!write(ready[1], "x", 1);
        }
        (void)close(ready[1]);
        for (;;) {
            (void)pause();
        }
    }
    (void)close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) {
        (void)fprintf(stderr, "sites: no network namespace\n");
        exit(1);
    }
    (void)close(ready[0]);
    (void)snprintf(path, sizeof path, "/proc/%d/ns/net", (int)*holder);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        (void)fprintf(stderr, "sites: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return fd;
}

/* An interface of the host on the site's bridge. */
static void plug(unsigned host, pid_t holder, unsigned site, unsigned number)
{
    char outside[16];
    char inside[16];
    char bridge[16];
    char address[32];
    char pid[16];
    int ns = networks.ns[host];

    (void)snprintf(outside, sizeof outside, "h%us%u", host, site);
    (void)snprintf(inside, sizeof inside, "eth%u", site);
    (void)snprintf(bridge, sizeof bridge, "site%u", site);
    (void)snprintf(address, sizeof address, "10.89.%u.%u/24", site + 1, number);
    (void)snprintf(pid, sizeof pid, "%d", (int)holder);
    must((const char *[]){"ip", "link", "add", outside, "type", "veth", "peer", "name", inside,
                          "netns", pid, NULL});
    must((const char *[]){"ip", "link", "set", outside, "master", bridge, "up", NULL});
    must_in(ns, (const char *[]){"ip", "addr", "add", address, "dev", inside, NULL});
    must_in(ns, (const char *[]){"ip", "link", "set", inside, "up", NULL});
    must_in(ns, (const char *[]){"ip", "link", "set", "lo", "up", NULL});
}

static void make_host(unsigned host)
{
    char gateway[32];
    pid_t holder = 0;
    unsigned site = host < SITE_NODES ? site_of_node(host) : host - SITE_NODES;

    networks.ns[host] = new_namespace(&holder);
    if (host == ROUTER) {
        for (unsigned s = 0; s < SITES; s++) {
            plug(host, holder, s, 253);
        }
    } else {
        plug(host, holder, site, host < SITE_NODES ? 10 + host % 2 : 100);
        (void)snprintf(gateway, sizeof gateway, "10.89.%u.254", site + 1);
        must_in(networks.ns[host],
                (const char *[]){"ip", "route", "add", "default", "via", gateway, NULL});
    }
    (void)kill(holder, SIGKILL);
    (void)waitpid(holder, NULL, 0);
}

static void forward_nothing(void)
{
    int fd = open("/proc/sys/net/ipv4/ip_forward", O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, "0", 1) != 1) {
        (void)fprintf(stderr, "kluis-link: ip_forward: %s\n", strerror(errno));
        _exit(1);
    }
    (void)close(fd);
}

static pid_t spawn_in(unsigned host, const char *program, const char *const *words)
{
    char *argv[SITE_WORDS_MAX] = {strdup(program)};
    size_t n = 1;
    pid_t pid;

    for (; n < SITE_WORDS_MAX - 1 && words[n - 1] != NULL; n++) {
        argv[n] = strdup(words[n - 1]);
    }
    pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (setns(networks.ns[host], CLONE_NEWNET) != 0) {
            _exit(126);
        }
        if (host == ROUTER) {
            forward_nothing();
        }
        (void)execv(argv[0], argv);
        _exit(127);
    }
    for (size_t i = 0; i < n; i++) {
        free(argv[i]);
    }
    return pid;
}

static void up(void)
{
    /* Mounts are of this process and what it starts, too: they go with the last of them. */
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        (void)fprintf(stderr, "sites: %s\n", strerror(errno));
        exit(1);
    }
    must((const char *[]){"ip", "link", "set", "lo", "up", NULL});
    for (unsigned s = 0; s < SITES; s++) {
        char bridge[16];
        char address[32];

        (void)snprintf(bridge, sizeof bridge, "site%u", s);
        (void)snprintf(address, sizeof address, "10.89.%u.1/24", s + 1);
        must((const char *[]){"ip", "link", "add", bridge, "type", "bridge", NULL});
        must((const char *[]){"ip", "addr", "add", address, "dev", bridge, NULL});
        must((const char *[]){"ip", "link", "set", bridge, "up", NULL});
    }
    for (unsigned host = 0; host <= ROUTER; host++) {
        make_host(host);
    }
    networks.router =
        spawn_in(ROUTER, site_program("kluis-link"),
                 (const char *[]){"west=10.89.1.0", "east=10.89.2.0", "hill=10.89.3.0", NULL});
}

static void down(void)
{
    (void)kill(networks.router, SIGKILL);
    (void)waitpid(networks.router, NULL, 0);
    for (unsigned host = 0; host <= ROUTER; host++) {
        (void)close(networks.ns[host]);
    }
}

static void enter(void *arg, unsigned node)
{
    (void)arg;
    if (setns(networks.ns[node], CLONE_NEWNET) != 0) {
        _exit(126);
    }
}

static pid_t client(unsigned site, const char *program, const char *const *words)
{
    return spawn_in(SITE_NODES + site, site_program(program), words);
}

static void client_end(unsigned site, pid_t pid)
{
    (void)site;
    (void)kill(pid, SIGTERM);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
}

const struct site_backend site_netns = {
    .name = "network namespaces, wires by kluis-link",
    .missing = missing,
    .place = {.hosts = hosts, .enter = enter},
    .up = up,
    .down = down,
    .client = client,
    .client_end = client_end,
};
