#include "tests/cluster/harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    PATH_LEN = 512,
    WORDS_MAX = 24,
    FAKE_MAX = 6, /* variables of the environment for libfaketime */
    ENVIRON_MAX = 512,
    POLL_MS = 20,
    READY_MS = 60000,
    RUN_MS = 30000,
    CLI_MS = 60000, /* the command line has its own deadline */
    TRY_MS = 2000,
    PLACED_CLIENT_PORT = 7000,
    PLACED_PEER_PORT = 7001,
    SHADOW_KIB = 1 << 30 /* address space that only sanitizers reserve */
};

struct node {
    char config[PATH_LEN];
    char data[PATH_LEN];
    char log[PATH_LEN];
    char client_address[64];
    char peer_address[64];
    char clock
        [PATH_LEN]; /* file that says by how much its clock is off; empty: it is the machine's */
    char program[PATH_LEN]; /* kluisd of its next process; empty: the cluster's */
    pid_t pid;              /* 0 = not running */
};

struct cluster {
    char dir[PATH_LEN / 2];
    char ca[PATH_LEN];
    char token[128];
    char hash[128]; /* of the token */
    char kluisd[PATH_LEN];
    struct node nodes[CLUSTER_NODES_MAX];
    unsigned n;
    const struct cluster_place *place;
};

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)fputs("harness: ", stderr);
    (void)vfprintf(stderr, format, args);
    (void)fputs("\n", stderr);
    va_end(args);
    exit(1);
}

uint64_t harness_now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

void harness_sleep_ms(unsigned ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000L};

    (void)nanosleep(&t, NULL);
}

/* ---- processes ---- */

static void find_kluisd(struct cluster *c)
{
    const char *given = getenv("KLUISD");
    char self[PATH_LEN / 2];
    ssize_t n;
    char *slash;

    if (given != NULL) {
        (void)snprintf(c->kluisd, sizeof c->kluisd, "%s", given);
        return;
    }
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) {
        die("cannot find this program");
    }
    self[n] = 0;
    slash = strrchr(self, '/');
    *slash = 0;
    (void)snprintf(c->kluisd, sizeof c->kluisd, "%s/../../server/kluisd", self);
}

/* libfaketime reads FILE about once a second. Its fix for monotonic waits is for an older C library: with
 * the present one it makes them return at once. */
static void fake_clock_environment(const char *file, char text[FAKE_MAX][2 * PATH_LEN])
{
    const char *asan = getenv("ASAN_OPTIONS");
    glob_t found = {0};

    if (glob("/usr/lib/*/faketime/libfaketimeMT.so.1", 0, NULL, &found) != 0) {
        die("libfaketime is not installed: apt-get install faketime");
    }
    (void)snprintf(text[0], sizeof text[0], "LD_PRELOAD=%s", found.gl_pathv[0]);
    (void)snprintf(text[1], sizeof text[1], "FAKETIME_TIMESTAMP_FILE=%s", file);
    (void)snprintf(text[2], sizeof text[2], "FAKETIME_DONT_FAKE_MONOTONIC=1");
    (void)snprintf(text[3], sizeof text[3], "FAKETIME_FORCE_MONOTONIC_FIX=0");
    (void)snprintf(text[4], sizeof text[4], "FAKETIME_CACHE_DURATION=1");
    (void)snprintf(text[5], sizeof text[5], "ASAN_OPTIONS=%s:verify_asan_link_order=0",
                   asan == NULL ? "" : asan);
    globfree(&found);
}

/* node: whose process it is, at its place and with its clock; NULL for tools. */
static pid_t spawn_program(const struct cluster *c, const char *program, const char *const *words,
                           const char *log, const struct node *node)
{
    const struct cluster_place *place = node == NULL ? NULL : c->place;
    char variables[FAKE_MAX][2 * PATH_LEN];
    char *environment[ENVIRON_MAX + FAKE_MAX + 1];
    size_t variables_n = 0;
    const char *argv[WORDS_MAX] = {program};
    char *out[WORDS_MAX];
    pid_t parent = getpid();
    pid_t pid;
    size_t n = 1;

    for (; words[n - 1] != NULL && n + 1 < WORDS_MAX; n++) {
        argv[n] = words[n - 1];
    }
    memcpy(out, argv, sizeof out);
    out[n] = NULL;
    if (node != NULL && node->clock[0] != 0) {
        fake_clock_environment(node->clock, variables);
        for (size_t i = 0; i < FAKE_MAX; i++) { /* the first of two of one name counts */
            environment[variables_n++] = variables[i];
        }
    }
    for (size_t i = 0; i < ENVIRON_MAX && environ[i] != NULL; i++) {
        environment[variables_n++] = environ[i];
    }
    environment[variables_n] = NULL;
    pid = fork();
    if (pid == 0) {
        int fd = log == NULL ? -1 : open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(127);
        }
        if (fd >= 0) {
            (void)dup2(fd, STDERR_FILENO);
            (void)dup2(fd, STDOUT_FILENO);
        }
        if (place != NULL && place->enter != NULL) {
            place->enter(place->arg, (unsigned)(node - c->nodes));
        }
        (void)execve(program, out, environment);
        _exit(127);
    }
    if (pid < 0) {
        die("fork: %s", strerror(errno));
    }
    return pid;
}

static pid_t spawn(const struct cluster *c, const char *const *words, const char *log)
{
    return spawn_program(c, c->kluisd, words, log, NULL);
}

static int wait_exit(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Runs a kluisd that makes a file; its first line of output goes to `line` when not NULL. */
static void make(struct cluster *c, const char *const *words, char *line, size_t line_len)
{
    char out[PATH_LEN];
    FILE *f;
    int code;

    (void)snprintf(out, sizeof out, "%s/make.out", c->dir);
    (void)unlink(out);
    code = wait_exit(spawn(c, words, out));
    if (code != 0) {
        die("%s %s ended with %d (see %s)", c->kluisd, words[0], code, out);
    }
    if (line == NULL) {
        return;
    }
    f = fopen(out, "r");
    if (f == NULL || fgets(line, (int)line_len, f) == NULL) {
        die("%s: nothing printed", words[0]);
    }
    (void)fclose(f);
    line[strcspn(line, "\n")] = 0;
}

/* ---- files ---- */

/* A port that is free now; all are held until every one is drawn, so that they differ. */
static void draw_ports(uint16_t *ports, size_t n)
{
    int fds[2 * CLUSTER_NODES_MAX];

    for (size_t i = 0; i < n; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET};
        socklen_t len = sizeof a;

        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fds[i] < 0 || bind(fds[i], (struct sockaddr *)&a, sizeof a) != 0 ||
            getsockname(fds[i], (struct sockaddr *)&a, &len) != 0) {
            die("no port: %s", strerror(errno));
        }
        ports[i] = ntohs(a.sin_port);
    }
    for (size_t i = 0; i < n; i++) {
        (void)close(fds[i]);
    }
}

static void write_config(struct cluster *c, unsigned i, const struct cluster_options *o)
{
    FILE *f = fopen(c->nodes[i].config, "w");

    if (f == NULL) {
        die("%s: %s", c->nodes[i].config, strerror(errno));
    }
    (void)fprintf(f, "[cluster]\nname = test\ngeography = testland\n"
                     "subscription = 00000000-0000-0000-0000-000000000001\n");
    if (o->day_ms != 0) {
        (void)fprintf(f, "test_cluster = yes\nday_ms = %llu\n", (unsigned long long)o->day_ms);
    }
    (void)fprintf(f, "%s\n%s\n", o->extra_config == NULL ? "" : o->extra_config,
                  o->regions == NULL ? "" : o->regions);
    (void)fprintf(f,
                  "[this]\nnode = n%u\ndata_dir = %s\nca_file = %s/ca.crt\ncert_file = %s/n%u.crt\n"
                  "key_file = %s/n%u.key\n",
                  i + 1, c->nodes[i].data, c->dir, c->dir, i + 1, c->dir, i + 1);
    if ((o->witnesses & 1u << i) == 0) {
        (void)fprintf(f, "seal_file = %s/seal\n", c->dir);
    }
    for (unsigned k = 0; k < c->n; k++) {
        (void)fprintf(f,
                      "[node n%u]\nid = %u\nregion = %s\nclient_address = %s\npeer_address = %s\n"
                      "witness = %s\n",
                      k + 1, k + 1, o->region == NULL ? "west" : o->region[k],
                      c->nodes[k].client_address, c->nodes[k].peer_address,
                      (o->witnesses & 1u << k) != 0 ? "yes" : "no");
    }
    (void)fprintf(f,
                  "[principal admin]\ntoken_sha256 = %s\nrights = *, vaults/purge, secrets/purge\n",
                  c->hash);
    if (fclose(f) != 0) {
        die("%s: %s", c->nodes[i].config, strerror(errno));
    }
}

static void make_certificate(struct cluster *c, unsigned i)
{
    char name[16];
    char id[16];
    char hosts[128];

    (void)snprintf(hosts, sizeof hosts, "127.0.0.1,localhost%s%s", c->place == NULL ? "" : ",",
                   c->place == NULL ? "" : c->place->hosts[i]);
    (void)snprintf(name, sizeof name, "n%u", i + 1);
    (void)snprintf(id, sizeof id, "%u", i + 1);
    make(c,
         (const char *[]){"--issue", c->dir, "--name", name, "--cluster", "test", "--node-id", id,
                          "--hosts", hosts, NULL},
         NULL, 0);
}

static void make_files(struct cluster *c)
{
    char path[PATH_LEN];
    char token_file[PATH_LEN];
    FILE *f;

    make(c, (const char *[]){"--make-ca", c->dir, "--cluster", "test", NULL}, NULL, 0);
    for (unsigned i = 0; i < c->n; i++) {
        make_certificate(c, i);
    }
    (void)snprintf(path, sizeof path, "%s/seal", c->dir);
    make(c, (const char *[]){"--make-seal", path, NULL}, NULL, 0);
    (void)snprintf(token_file, sizeof token_file, "%s/token", c->dir);
    make(c, (const char *[]){"--make-token", token_file, NULL}, c->hash, sizeof c->hash);
    f = fopen(token_file, "r");
    if (f == NULL || fgets(c->token, sizeof c->token, f) == NULL) {
        die("%s: cannot be read", token_file);
    }
    (void)fclose(f);
    c->token[strcspn(c->token, "\n")] = 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/* ---- the cluster ---- */

static void wait_ready(struct cluster *c)
{
    struct kluis_client *client = cluster_client(c);
    uint64_t until = harness_now_us() + READY_MS * 1000u;
    struct kluis_vault_list *list = NULL;
    enum kluis_status st = KLUIS_UNAVAILABLE;

    while (st != KLUIS_OK && harness_now_us() < until) {
        st = kluis_vault_list(client, 1, NULL, TRY_MS, &list);
        if (st != KLUIS_OK) {
            harness_sleep_ms(POLL_MS);
        }
    }
    if (st != KLUIS_OK) {
        die("the cluster in %s does not serve: %s %s", c->dir, kluis_status_name(st),
            kluis_last_error());
    }
    kluis_vault_list_free(list);
    kluis_close(client);
}

struct cluster_options cluster_paired(void)
{
    static const char *const region[] = {"west", "west", "east", "east", "hill"};

    return (struct cluster_options){
        .nodes = 5,
        .regions = "[region west]\npair = east\n[region east]\npair = west\n[region hill]\n",
        .region = region,
        .witnesses = 1u << 4,
    };
}

static void name_files(struct cluster *c, unsigned i, const struct cluster_options *o,
                       const uint16_t ports[2])
{
    struct node *n = &c->nodes[i];
    char dir[PATH_LEN / 2]; /* a copy, since the compiler fears that it overlaps what is written */
    char host[48];

    memcpy(dir, c->dir, sizeof dir);
    (void)snprintf(n->config, sizeof n->config, "%s/n%u.conf", dir, i + 1);
    (void)snprintf(n->log, sizeof n->log, "%s/n%u.log", dir, i + 1);
    if (o->data_dirs == NULL || o->data_dirs[i] == NULL) {
        (void)snprintf(n->data, sizeof n->data, "%s/data%u", dir, i + 1);
    } else {
        (void)snprintf(n->data, sizeof n->data, "%s", o->data_dirs[i]);
    }
    if (o->fake_clocks) {
        (void)snprintf(n->clock, sizeof n->clock, "%s/n%u.clock", dir, i + 1);
        cluster_set_clock(c, i, "+0");
    }
    (void)snprintf(host, sizeof host, "%s", c->place == NULL ? "127.0.0.1" : c->place->hosts[i]);
    (void)snprintf(n->client_address, sizeof n->client_address, "%s:%u", host,
                   c->place == NULL ? ports[0] : (unsigned)PLACED_CLIENT_PORT);
    (void)snprintf(n->peer_address, sizeof n->peer_address, "%s:%u", host,
                   c->place == NULL ? ports[1] : (unsigned)PLACED_PEER_PORT);
}

unsigned cluster_grow(struct cluster *c, const struct cluster_options *o)
{
    unsigned i = c->n;
    uint16_t ports[2];

    if (i == CLUSTER_NODES_MAX) {
        die("too many nodes");
    }
    draw_ports(ports, 2);
    name_files(c, i, o, ports);
    c->n++;
    make_certificate(c, i);
    write_config(c, i, o);
    make(c, (const char *[]){"--join", "--config", c->nodes[i].config, NULL}, NULL, 0);
    return i;
}

struct cluster *cluster_new(const struct cluster_options *o)
{
    struct cluster *c = calloc(1, sizeof *c);
    const char *base = getenv("TMPDIR");
    uint16_t ports[2 * CLUSTER_NODES_MAX];

    if (c == NULL || o->nodes == 0 || o->nodes > CLUSTER_NODES_MAX) {
        die("bad number of nodes");
    }
    c->n = o->nodes;
    c->place = o->place;
    find_kluisd(c);
    if (o->dir != NULL) {
        (void)snprintf(c->dir, sizeof c->dir, "%s", o->dir);
    } else {
        (void)snprintf(c->dir, sizeof c->dir, "%s/kluis-cluster-XXXXXX",
                       base == NULL ? "/tmp" : base);
    }
    if (o->dir == NULL && mkdtemp(c->dir) == NULL) {
        die("%s: %s", c->dir, strerror(errno));
    }
    (void)snprintf(c->ca, sizeof c->ca, "%s/ca.crt", c->dir);
    draw_ports(ports, (size_t)2 * c->n);
    make_files(c);
    for (unsigned i = 0; i < c->n; i++) {
        name_files(c, i, o, &ports[(size_t)2 * i]);
    }
    for (unsigned i = 0; i < c->n; i++) {
        write_config(c, i, o);
        make(c, (const char *[]){"--init", "--config", c->nodes[i].config, NULL}, NULL, 0);
    }
    if (c->place != NULL && c->place->prepare != NULL) {
        c->place->prepare(c->place->arg, c->dir);
    }
    for (unsigned i = 0; i < c->n && !o->only_files; i++) {
        cluster_start(c, i);
    }
    if (!o->only_files) {
        wait_ready(c);
    }
    return c;
}

void cluster_free(struct cluster *c)
{
    if (c == NULL) {
        return;
    }
    for (unsigned i = 0; i < c->n; i++) {
        cluster_kill(c, i);
    }
    if (getenv("KLUIS_KEEP") != NULL) {
        (void)fprintf(stderr, "kept: %s\n", c->dir);
    } else {
        (void)nftw(c->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    free(c);
}

unsigned cluster_size(const struct cluster *c)
{
    return c->n;
}

const char *cluster_dir(const struct cluster *c)
{
    return c->dir;
}

const char *cluster_data_dir(const struct cluster *c, unsigned node)
{
    return c->nodes[node].data;
}

const char *cluster_config(const struct cluster *c, unsigned node)
{
    return c->nodes[node].config;
}

const char *cluster_log(const struct cluster *c, unsigned node)
{
    return c->nodes[node].log;
}

const char *cluster_endpoint(const struct cluster *c, unsigned node)
{
    return c->nodes[node].client_address;
}

const char *cluster_peer_address(const struct cluster *c, unsigned node)
{
    return c->nodes[node].peer_address;
}

const char *cluster_ca(const struct cluster *c)
{
    return c->ca;
}

const char *cluster_token(const struct cluster *c)
{
    return c->token;
}

pid_t cluster_pid(const struct cluster *c, unsigned node)
{
    return c->nodes[node].pid;
}

void cluster_set_program(struct cluster *c, unsigned node, const char *kluisd)
{
    (void)snprintf(c->nodes[node].program, sizeof c->nodes[node].program, "%s", kluisd);
}

const char *cluster_program(const struct cluster *c)
{
    return c->kluisd;
}

/* Nodes are no children of ours: they can be signalled, but not waited for. */
static bool elsewhere(const struct cluster *c)
{
    return c->place != NULL && c->place->start != NULL;
}

void cluster_start(struct cluster *c, unsigned node)
{
    struct node *n = &c->nodes[node];

    if (n->pid == 0 && elsewhere(c)) {
        n->pid = c->place->start(c->place->arg, node);
    } else if (n->pid == 0) {
        n->pid = spawn_program(c, n->program[0] == 0 ? c->kluisd : n->program,
                               (const char *[]){"--config", n->config, NULL}, n->log, n);
    }
}

void cluster_set_clock(struct cluster *c, unsigned node, const char *off)
{
    const struct node *n = &c->nodes[node];
    char next[PATH_LEN + 8];
    FILE *f;

    (void)snprintf(next, sizeof next, "%s.new", n->clock);
    f = fopen(next, "w");
    if (f == NULL || fprintf(f, "%s\n", off) < 0 || fclose(f) != 0 || rename(next, n->clock) != 0) {
        die("%s: %s", n->clock, strerror(errno));
    }
}

/* Exit code or 128 + signal; a process that goes on for too long is killed and gives -1. */
static int wait_until(pid_t pid, unsigned timeout_ms)
{
    uint64_t until = harness_now_us() + (uint64_t)timeout_ms * 1000u;
    int status = 0;

    while (harness_now_us() < until) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        harness_sleep_ms(POLL_MS);
    }
    (void)kill(pid, SIGKILL);
    (void)wait_exit(pid);
    return -1;
}

/* The same of a node that runs elsewhere. */
static int wait_elsewhere(struct cluster *c, unsigned node, unsigned timeout_ms)
{
    uint64_t until = harness_now_us() + (uint64_t)timeout_ms * 1000u;

    while (kill(c->nodes[node].pid, 0) == 0) {
        if (harness_now_us() >= until) {
            cluster_kill(c, node);
            return -1;
        }
        harness_sleep_ms(POLL_MS);
    }
    return c->place->exit_code(c->place->arg, node);
}

int cluster_run(struct cluster *c, unsigned node, const char *const *words)
{
    return cluster_run_to(c, c->nodes[node].log, words, RUN_MS);
}

int cluster_run_to(struct cluster *c, const char *log, const char *const *words,
                   unsigned timeout_ms)
{
    return wait_until(spawn(c, words, log), timeout_ms);
}

bool cluster_run_until(struct cluster *c, unsigned node, const char *const *words, const char *text,
                       unsigned timeout_ms)
{
    pid_t pid = spawn(c, words, c->nodes[node].log);
    bool said = cluster_log_wait(c, node, text, timeout_ms);
    bool runs = waitpid(pid, NULL, WNOHANG) == 0;

    if (runs) {
        (void)kill(pid, SIGKILL);
        (void)wait_exit(pid);
    }
    return said && runs;
}

int cluster_cli(struct cluster *c, const char *const *words, char *out, size_t out_len)
{
    char program[sizeof c->kluisd + 32];
    char path[PATH_LEN];
    char endpoints[CLUSTER_NODES_MAX * 128] = "";
    size_t n = 0;
    FILE *f;
    int code;

    (void)snprintf(program, sizeof program, "%.*s/../client/cli/kluis",
                   (int)(strrchr(c->kluisd, '/') - c->kluisd), c->kluisd);
    for (unsigned i = 0; i < c->n; i++) {
        n += (size_t)snprintf(endpoints + n, sizeof endpoints - n, "%s%s", i == 0 ? "" : ",",
                              c->nodes[i].client_address);
    }
    (void)snprintf(path, sizeof path, "%s/token", c->dir);
    (void)setenv("KLUIS_ENDPOINT", endpoints, 1);
    (void)setenv("KLUIS_CA_FILE", c->ca, 1);
    (void)setenv("KLUIS_TOKEN_FILE", path, 1);
    (void)snprintf(path, sizeof path, "%s/cli.out", c->dir);
    (void)unlink(path);
    code = wait_until(spawn_program(c, program, words, path, NULL), CLI_MS);
    f = fopen(path, "r");
    n = f == NULL ? 0 : fread(out, 1, out_len - 1, f);
    out[n] = 0;
    if (f != NULL) {
        (void)fclose(f);
    }
    return code;
}

void cluster_signal(struct cluster *c, unsigned node, int signal_number)
{
    if (c->nodes[node].pid != 0) {
        (void)kill(c->nodes[node].pid, signal_number);
    }
}

int cluster_wait(struct cluster *c, unsigned node, unsigned timeout_ms)
{
    int code = c->nodes[node].pid == 0 ? -1
               : elsewhere(c)          ? wait_elsewhere(c, node, timeout_ms)
                                       : wait_until(c->nodes[node].pid, timeout_ms);

    c->nodes[node].pid = 0;
    return code;
}

void cluster_kill(struct cluster *c, unsigned node)
{
    pid_t pid = c->nodes[node].pid;

    if (pid != 0) {
        (void)kill(pid, SIGKILL);
        while (elsewhere(c) && kill(pid, 0) == 0) {
            harness_sleep_ms(1);
        }
        if (elsewhere(c)) {
            (void)c->place->exit_code(c->place->arg, node); /* its engine has noticed as well */
        } else {
            (void)wait_exit(pid);
        }
        c->nodes[node].pid = 0;
    }
}

bool cluster_running(struct cluster *c, unsigned node)
{
    int status = 0;

    if (c->nodes[node].pid == 0) {
        return false;
    }
    if (elsewhere(c) ? kill(c->nodes[node].pid, 0) != 0
                     : waitpid(c->nodes[node].pid, &status, WNOHANG) == c->nodes[node].pid) {
        (void)fprintf(stderr, "harness: node %u ended by itself, status 0x%x, log %s\n", node + 1,
                      (unsigned)status, c->nodes[node].log);
        c->nodes[node].pid = 0;
        return false;
    }
    return true;
}

/* A figure of /proc/PID/status in KiB; 0 when there is none. */
static unsigned long status_kib(const struct cluster *c, unsigned node, const char *key)
{
    char path[64];
    char line[256];
    unsigned long kib = 0;
    FILE *f;

    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)cluster_pid(c, node));
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            kib = strtoul(line + strlen(key), NULL, 10);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return kib;
}

unsigned long cluster_rss_kib(const struct cluster *c, unsigned node)
{
    return status_kib(c, node, "VmRSS:");
}

unsigned long cluster_anon_kib(const struct cluster *c, unsigned node)
{
    return status_kib(c, node, "RssAnon:");
}

/* Word 22 of /proc/PID/stat is its start in ticks since the machine's; words are counted from behind the
 * name, which may hold anything. */
uint64_t cluster_age_ms(const struct cluster *c, unsigned node)
{
    char path[64];
    char text[1024] = "";
    char *at;
    char *save = NULL;
    struct timespec now;
    uint64_t started_ms;
    FILE *f;

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)cluster_pid(c, node));
    f = fopen(path, "r");
    if (f == NULL) {
        return 0;
    }
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    (void)fclose(f);
    at = strrchr(text, ')');
    at = at == NULL ? NULL : strtok_r(at, " ", &save);
    for (int word = 2; at != NULL && word < 22; word++) {
        at = strtok_r(NULL, " ", &save);
    }
    if (at == NULL) {
        return 0;
    }
    started_ms = strtoull(at, NULL, 10) * 1000u / (uint64_t)sysconf(_SC_CLK_TCK);
    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u - started_ms;
}

bool cluster_sanitized(const struct cluster *c, unsigned node)
{
    return status_kib(c, node, "VmSize:") > SHADOW_KIB;
}

void cluster_wipe(struct cluster *c, unsigned node)
{
    struct node *n = &c->nodes[node];

    if (n->pid != 0) {
        die("node %u runs", node + 1);
    }
    (void)nftw(n->data, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    make(c, (const char *[]){"--join", "--config", n->config, NULL}, NULL, 0);
}

bool cluster_log_has(const struct cluster *c, unsigned node, const char *text)
{
    char line[4096];
    bool found = false;
    FILE *f = fopen(c->nodes[node].log, "r");

    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        found = strstr(line, text) != NULL;
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return found;
}

bool cluster_log_wait(const struct cluster *c, unsigned node, const char *text, unsigned timeout_ms)
{
    uint64_t until = harness_now_us() + (uint64_t)timeout_ms * 1000u;

    while (!cluster_log_has(c, node, text)) {
        if (harness_now_us() >= until) {
            return false;
        }
        harness_sleep_ms(POLL_MS);
    }
    return true;
}

struct kluis_client *cluster_client(const struct cluster *c)
{
    const char *endpoints[CLUSTER_NODES_MAX];
    struct kluis_options o = {
        .endpoints = endpoints, .endpoints_n = c->n, .ca_file = c->ca, .token = c->token};
    struct kluis_client *client = NULL;
    char err[256] = "";

    for (unsigned i = 0; i < c->n; i++) {
        endpoints[i] = c->nodes[i].client_address;
    }
    if (kluis_open(&o, &client, err, sizeof err) != KLUIS_OK) {
        die("client: %s", err);
    }
    return client;
}
