/*
 * Sites as containers of deploy/compose.yaml. Started and stopped through the engine, but signalled by
 * process id: a container's process is one of this machine. Files of the cluster are at the same path
 * inside and outside.
 */
#include "tests/drills/site.h"

#include "common/names.h"

#include <assert.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { USER = 10001, OUT_LEN = 4096, WAIT_MS = 20000 };

static const char *const hosts[SITE_NODES] = {"10.89.1.10", "10.89.1.11", "10.89.2.10",
                                              "10.89.2.11", "10.89.3.10"};
static const char *const services[SITE_NODES] = {"west1", "west2", "east1", "east2", "hill1"};

/* KLUIS_COMPOSE: the words that begin a call of compose, made by deploy/drill. */
static int compose(char *out, size_t out_len, const char *const *words)
{
    const char *argv[SITE_WORDS_MAX];
    char *command = strdup(getenv("KLUIS_COMPOSE"));
    char *save = NULL;
    size_t n = 0;
    int code;

    for (char *p = strtok_r(command, " ", &save); p != NULL && n < 16;
         p = strtok_r(NULL, " ", &save)) {
        argv[n++] = p;
    }
    for (size_t i = 0; n < SITE_WORDS_MAX - 1 && words[i] != NULL; i++) {
        argv[n++] = words[i];
    }
    assert(n < SITE_WORDS_MAX - 1);
    argv[n] = NULL;
    code = site_run(argv, out, out_len);
    free(command);
    return code;
}

static void must(const char *const *words)
{
    char out[OUT_LEN];

    if (compose(out, sizeof out, words) != 0) {
        (void)fprintf(stderr, "sites: compose %s %s: %s\n", words[0],
                      words[1] == NULL ? "" : words[1], out);
        exit(1);
    }
}

static const char *missing(void)
{
    if (getenv("KLUIS_COMPOSE") == NULL) {
        return "containers are started through deploy/drill --compose";
    }
    if (site_run((const char *[]){"docker", "version", NULL}, NULL, 0) != 0) {
        return "no container engine answers";
    }
    return NULL;
}

static void container(const char *service, char *out, size_t out_len)
{
    (void)snprintf(out, out_len, "kluis-%s", service);
}

/* A field of the container as the engine tells it. */
static uint64_t inspect(const char *name, const char *field)
{
    char out[OUT_LEN];
    uint64_t number = 0;

    if (site_run((const char *[]){"docker", "inspect", "-f", field, name, NULL}, out, sizeof out) !=
        0) {
        return 0;
    }
    out[strcspn(out, "\n")] = 0;
    return kl_number_parse(out, 0, UINT32_MAX, &number) == KL_OK ? number : 0;
}

static int give_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return lchown(path, USER, USER);
}

/* The files belong to the user of the containers. */
static void prepare(void *arg, const char *dir)
{
    char clock[512];

    (void)arg;
    if (nftw(dir, give_one, 16, FTW_PHYS) != 0) {
        perror(dir);
        exit(1);
    }
    (void)setenv("KLUIS_FILES", dir, 1);
    (void)snprintf(clock, sizeof clock, "%s/n1.clock", dir);
    if (access(clock, F_OK) == 0) { /* the loader knows what $LIB is */
        (void)setenv("KLUIS_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1", 1);
    }
}

/* The image under another name is another version: its container is made anew. */
static void upgrade(unsigned node)
{
    const char *image = getenv("KLUIS_IMAGE") == NULL ? "kluis-drills" : getenv("KLUIS_IMAGE");
    const char *next = getenv("KLUIS_IMAGE_NEXT");
    char name[64];

    if (next == NULL) {
        next = "kluis-next";
        (void)site_run((const char *[]){"docker", "tag", image, next, NULL}, NULL, 0);
    }
    (void)setenv("KLUIS_IMAGE", next, 1);
    container(services[node], name, sizeof name);
    (void)site_run((const char *[]){"docker", "rm", "-f", name, NULL}, NULL, 0);
}

static pid_t start(void *arg, unsigned node)
{
    char name[64];
    char out[OUT_LEN];
    pid_t pid = 0;

    (void)arg;
    container(services[node], name, sizeof name);
    if (site_run((const char *[]){"docker", "start", name, NULL}, out, sizeof out) != 0) {
        must((const char *[]){"up", "-d", "--no-deps", services[node], NULL});
    }
    for (int i = 0; pid == 0 && i < 100; i++) {
        pid = (pid_t)inspect(name, "{{.State.Pid}}");
        harness_sleep_ms(pid == 0 ? 20 : 0);
    }
    return pid;
}

/* Also waits until the engine has noticed. */
static int exit_code(void *arg, unsigned node)
{
    char name[64];
    char out[OUT_LEN];
    uint64_t code = 255;

    (void)arg;
    container(services[node], name, sizeof name);
    if (site_run((const char *[]){"docker", "wait", name, NULL}, out, sizeof out) == 0) {
        out[strcspn(out, "\n")] = 0;
        (void)!kl_number_parse(out, 0, 255, &code);
    }
    return (int)code;
}

static void up(void)
{
    (void)setenv("KLUIS_FILES", "/tmp", 1); /* the router needs none */
    (void)compose(NULL, 0, (const char *[]){"down", "-t", "1", NULL});
    must((const char *[]){"up", "-d", "link", NULL});
}

static void down(void)
{
    (void)compose(NULL, 0, (const char *[]){"down", "-t", "1", NULL});
}

static pid_t client(unsigned site, const char *program, const char *const *words)
{
    const char *argv[SITE_WORDS_MAX] = {"run", "-d",     "--no-deps", "--entrypoint",
                                        NULL,  "--name", NULL};
    char name[64];
    char path[128];
    size_t n = 7;

    (void)snprintf(path, sizeof path, "/usr/bin/%s", program);
    argv[4] = path;
    (void)snprintf(name, sizeof name, "kluis-load-%s", site_name(site));
    argv[6] = name;
    argv[n++] = site == SITE_WEST ? "load-west" : "load-east";
    for (size_t i = 0; n < SITE_WORDS_MAX - 1 && words[i] != NULL; i++) {
        argv[n++] = words[i];
    }
    argv[n] = NULL;
    must(argv);
    return (pid_t)inspect(name, "{{.State.Pid}}");
}

static void client_end(unsigned site, pid_t pid)
{
    char name[64];

    (void)pid;
    (void)snprintf(name, sizeof name, "kluis-load-%s", site_name(site));
    (void)site_run((const char *[]){"docker", "stop", "-t", "30", name, NULL}, NULL, 0);
    (void)site_run((const char *[]){"docker", "rm", "-f", name, NULL}, NULL, 0);
}

const struct site_backend site_compose = {
    .name = "containers of deploy/compose.yaml, wires by kluis-link",
    .missing = missing,
    .outside = true,
    .place = {.hosts = hosts, .prepare = prepare, .start = start, .exit_code = exit_code},
    .up = up,
    .down = down,
    .upgrade = upgrade,
    .client = client,
    .client_end = client_end,
};
