/*
 * A large state: fills a vault of a three-node cluster, then measures memory, restarts, and how a new node
 * catches up beside a steady load.
 *
 *   large [SECRETS [VALUE_BYTES]]     default: 1,000,000 of 1,024 bytes
 *
 * Real kluisd processes below $TMPDIR (some 3 x 2 GiB by default); KLUISD names the program.
 */
#include "tests/bench/histogram.h"
#include "tests/cluster/harness.h"

#include <ftw.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    NODES = 3,
    GROUP = 1,
    WINDOW = 128, /* calls under way while filling */
    CALL_MS = 60000,
    PACE_US = 5000, /* one call of the steady load; sets and gets by turns */
    STEADY_MS = 20000,
    SERVE_MS = 120000,
    CATCH_UP_MS = 1800000,
    POLL_MS = 20,
};

struct bench {
    struct cluster *c;
    struct kluis_client *client;
    uint64_t secrets;
    size_t value_len;
    char *value;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t room;
    unsigned open;
    uint64_t errors;
    struct histogram sets, gets;
    bool steady_stop;
};

struct caller {
    struct bench *b;
    uint64_t started_us;
    bool set;
};

static void name_of(uint64_t n, char out[32])
{
    (void)snprintf(out, 32, "secret-%09llu", (unsigned long long)n);
}

static void finished(void *arg, enum kluis_status status, struct kluis_secret *result,
                     const char *message)
{
    struct caller *call = arg;
    struct bench *b = call->b;
    uint64_t took = harness_now_us() - call->started_us;

    kluis_secret_free(result);
    (void)pthread_mutex_lock(&b->lock);
    if (status != KLUIS_OK && b->errors++ == 0) {
        (void)fprintf(stderr, "first error: %s %s\n", kluis_status_name(status), message);
    }
    histogram_add(call->set ? &b->sets : &b->gets, took);
    b->open--;
    (void)pthread_cond_signal(&b->room);
    (void)pthread_mutex_unlock(&b->lock);
    free(call);
}

/* due_us: when the call was to be made; what it waits before it begins counts as well. */
static void begin(struct bench *b, uint64_t n, bool set, uint64_t due_us)
{
    struct caller *call = calloc(1, sizeof *call);
    enum kluis_status st = KLUIS_NO_MEMORY;
    char name[32];

    name_of(n, name);
    (void)pthread_mutex_lock(&b->lock);
    b->open++;
    (void)pthread_mutex_unlock(&b->lock);
    if (call != NULL) {
        *call = (struct caller){b, due_us, set};
        st = set ? kluis_secret_set_async(b->client, "large", name, b->value, b->value_len, NULL,
                                          CALL_MS, finished, call)
                 : kluis_secret_get_async(b->client, "large", name, NULL, CALL_MS, finished, call);
    }
    if (st != KLUIS_OK) {
        (void)fprintf(stderr, "a call could not be started: %s\n", kluis_status_name(st));
        exit(1);
    }
}

static void wait_open(struct bench *b, unsigned below)
{
    (void)pthread_mutex_lock(&b->lock);
    while (b->open >= below) {
        (void)pthread_cond_wait(&b->room, &b->lock);
    }
    (void)pthread_mutex_unlock(&b->lock);
}

static void fill(struct bench *b)
{
    uint64_t start = harness_now_us();
    double seconds;

    for (uint64_t n = 0; n < b->secrets; n++) {
        wait_open(b, WINDOW);
        begin(b, n, true, harness_now_us());
    }
    wait_open(b, 1);
    seconds = (double)(harness_now_us() - start) / 1e6;
    printf("fill: %llu secrets of %zu bytes in %.0f s, %.0f/s, p99 %llu us, %llu errors\n",
           (unsigned long long)b->secrets, b->value_len, seconds, (double)b->secrets / seconds,
           (unsigned long long)histogram_at(&b->sets, 990), (unsigned long long)b->errors);
}

/* ---- memory ---- */

static unsigned long peak_kib(pid_t pid)
{
    char path[64];
    char line[256];
    unsigned long kib = 0;
    FILE *f;

    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kib = strtoul(line + 6, NULL, 10);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return kib;
}

static void memory(struct bench *b, const char *when)
{
    printf("memory %s:", when);
    for (unsigned i = 0; i < NODES; i++) {
        printf(" n%u %lu MiB (peak %lu)", i + 1, cluster_rss_kib(b->c, i) / 1024,
               peak_kib(cluster_pid(b->c, i)) / 1024);
    }
    printf("; aim: under 512\n");
}

/* ---- restarts ---- */

static void give_up(uint64_t since_us, unsigned ms, const char *what)
{
    if (harness_now_us() - since_us > ms * 1000ULL) {
        (void)fprintf(stderr, "%s within %u s\n", what, ms / 1000);
        exit(1);
    }
}

/* Has the node everything of the group, with a leader it knows? */
static bool serves(struct bench *b, unsigned node, uint64_t applied)
{
    Kluis__V1__ClusterStatusResponse *s = cluster_status(b->c, b->client, node);
    bool yes = false;

    for (size_t i = 0; s != NULL && !s->sealed && i < s->n_groups; i++) {
        const Kluis__V1__GroupStatus *g = s->groups[i];

        yes = yes || (g->group == GROUP && g->leader_id != 0 && g->applied_index >= applied);
    }
    kluis__v1__cluster_status_response__free_unpacked(s, NULL);
    return yes;
}

static uint64_t applied_of(struct bench *b, unsigned node)
{
    Kluis__V1__ClusterStatusResponse *s = cluster_status(b->c, b->client, node);
    uint64_t applied = 0;

    for (size_t i = 0; s != NULL && i < s->n_groups; i++) {
        applied = s->groups[i]->group == GROUP ? s->groups[i]->applied_index : applied;
    }
    kluis__v1__cluster_status_response__free_unpacked(s, NULL);
    return applied;
}

static void restart(struct bench *b, unsigned node, bool hard)
{
    uint64_t applied = applied_of(b, node);
    uint64_t start;

    if (hard) {
        cluster_kill(b->c, node);
    } else {
        cluster_signal(b->c, node, SIGTERM);
        (void)cluster_wait(b->c, node, SERVE_MS);
    }
    start = harness_now_us();
    cluster_start(b->c, node);
    while (!serves(b, node, applied)) {
        give_up(start, SERVE_MS, "the node does not serve");
        harness_sleep_ms(POLL_MS);
    }
    printf("restart after %s: serves after %.2f s; aim: under 5\n", hard ? "kill -9" : "SIGTERM",
           (double)(harness_now_us() - start) / 1e6);
}

/* ---- the steady load ---- */

static void *steady_run(void *arg)
{
    struct bench *b = arg;
    uint64_t next = harness_now_us();
    bool stop = false;

    for (uint64_t n = 0; !stop; n++) {
        uint64_t now = harness_now_us();

        if (now < next) {
            (void)usleep((useconds_t)(next - now));
        }
        begin(b, n * 7919 % b->secrets, n % 2 == 0, next);
        next += PACE_US;
        (void)pthread_mutex_lock(&b->lock);
        stop = b->steady_stop;
        (void)pthread_mutex_unlock(&b->lock);
    }
    wait_open(b, 1);
    return NULL;
}

static void steady_begin(struct bench *b, pthread_t *thread)
{
    memset(&b->sets, 0, sizeof b->sets);
    memset(&b->gets, 0, sizeof b->gets);
    b->steady_stop = false;
    if (pthread_create(thread, NULL, steady_run, b) != 0) {
        exit(1);
    }
}

static void steady_end(struct bench *b, pthread_t thread, const char *when, uint64_t p99[2])
{
    (void)pthread_mutex_lock(&b->lock);
    b->steady_stop = true;
    (void)pthread_mutex_unlock(&b->lock);
    (void)pthread_join(thread, NULL);
    p99[0] = histogram_at(&b->sets, 990);
    p99[1] = histogram_at(&b->gets, 990);
    printf("load %s: %llu sets p50 %llu p99 %llu us, %llu gets p50 %llu p99 %llu us, %llu errors\n",
           when, (unsigned long long)b->sets.total, (unsigned long long)histogram_at(&b->sets, 500),
           (unsigned long long)p99[0], (unsigned long long)b->gets.total,
           (unsigned long long)histogram_at(&b->gets, 500), (unsigned long long)p99[1],
           (unsigned long long)b->errors);
}

/* ---- catching up ---- */

static uint64_t walked;

static int add_size(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)path;
    (void)ftw;
    walked += flag == FTW_F ? (uint64_t)st->st_size : 0;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/* `cp -r` of a node's state and a sync, beside the running cluster: MB/s. */
static double copy_rate(struct bench *b, unsigned node, uint64_t *bytes)
{
    char from[600];
    char to[600];
    uint64_t start = harness_now_us();
    double seconds;
    int status = 0;
    pid_t pid;

    (void)snprintf(from, sizeof from, "%s/g%d/state", cluster_data_dir(b->c, node), GROUP);
    (void)snprintf(to, sizeof to, "%s/copy", cluster_dir(b->c));
    walked = 0;
    (void)nftw(from, add_size, 16, FTW_PHYS);
    *bytes = walked;
    pid = fork();
    if (pid == 0) {
        (void)execlp("cp", "cp", "-r", from, to, (char *)NULL);
        _exit(127);
    }
    if (waitpid(pid, &status, 0) != pid || status != 0) {
        (void)fprintf(stderr, "cp failed\n");
        exit(1);
    }
    sync();
    seconds = (double)(harness_now_us() - start) / 1e6;
    (void)nftw(to, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return (double)*bytes / 1e6 / seconds;
}

static bool votes(struct bench *b, unsigned leader, unsigned node)
{
    Kluis__V1__ClusterStatusResponse *s = cluster_status(b->c, b->client, leader);
    bool yes = false;

    for (size_t i = 0; s != NULL && i < s->n_groups; i++) {
        const Kluis__V1__GroupStatus *g = s->groups[i];

        for (size_t k = 0; g->group == GROUP && k < g->n_members; k++) {
            yes = yes || (g->members[k]->node_id == node + 1 &&
                          strcmp(g->members[k]->role, "voter") == 0 &&
                          strchr(g->members[k]->address, '.') != NULL); /* the new directory */
        }
    }
    kluis__v1__cluster_status_response__free_unpacked(s, NULL);
    return yes;
}

static void catch_up(struct bench *b)
{
    int leader = cluster_leader(b->c, b->client, GROUP, SERVE_MS);
    unsigned node = (unsigned)(leader + 1) % NODES;
    uint64_t before[2];
    uint64_t during[2];
    pthread_t thread;
    uint64_t start;
    uint64_t bytes;
    double seconds;
    double cp = copy_rate(b, (unsigned)leader, &bytes);

    steady_begin(b, &thread);
    harness_sleep_ms(STEADY_MS);
    steady_end(b, thread, "alone", before);
    cluster_kill(b->c, node);
    cluster_wipe(b->c, node);
    cluster_start(b->c, node);
    steady_begin(b, &thread);
    start = harness_now_us();
    if (cluster_replace(b->c, b->client, node, SERVE_MS) != KLUIS_OK) {
        (void)fprintf(stderr, "the node was not taken in\n");
        exit(1);
    }
    while (!votes(b, (unsigned)leader, node)) {
        give_up(start, CATCH_UP_MS, "the node has not caught up");
        harness_sleep_ms(POLL_MS);
    }
    seconds = (double)(harness_now_us() - start) / 1e6;
    steady_end(b, thread, "beside the stream", during);
    printf("catch-up: %.0f MB in %.1f s from the command to a vote, %.0f MB/s; cp %.0f MB/s; ratio "
           "%.2f; aim: over 0.33\n",
           (double)bytes / 1e6, seconds, (double)bytes / 1e6 / seconds, cp,
           (double)bytes / 1e6 / seconds / cp);
    printf("p99 beside the stream over alone: sets %.2f, gets %.2f; aim: under 2\n",
           (double)during[0] / (double)before[0], (double)during[1] / (double)before[1]);
}

int main(int argc, char **argv)
{
    static struct bench b = {.lock = PTHREAD_MUTEX_INITIALIZER, .room = PTHREAD_COND_INITIALIZER};
    int leader;

    b.secrets = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
    b.value_len = argc > 2 ? strtoul(argv[2], NULL, 10) : 1024;
    b.value = malloc(b.value_len);
    if (b.value == NULL || b.secrets == 0 || b.value_len == 0) {
        (void)fprintf(stderr, "large [SECRETS [VALUE_BYTES]]\n");
        return 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    memset(b.value, 'v', b.value_len);
    b.c = cluster_new(&(struct cluster_options){.nodes = NODES});
    b.client = cluster_client(b.c);
    cluster_make_vault(b.client, "large");
    fill(&b);
    memory(&b, "after the fill");
    leader = cluster_leader(b.c, b.client, GROUP, SERVE_MS);
    restart(&b, (unsigned)(leader + 1) % NODES, false);
    restart(&b, (unsigned)(leader + 1) % NODES, true);
    restart(&b, (unsigned)leader, true);
    catch_up(&b);
    memory(&b, "after the stream");
    kluis_close(b.client);
    cluster_free(b.c);
    free(b.value);
    return b.errors == 0 ? 0 : 1;
}
