/* The frame of every drill: a new cluster, load in each region, the drill, and the count. */
#include "tests/drills/drill.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CALL_MS = 30000,
    WAIT_MS = 30000,
    HEAL_MS = 60000,
    STEADY_MS = 2000,
    AFTER_MS = 2000,
    THREADS = 4,
    PACE_MS = 20,
    CLIENT_TIMEOUT_MS = 10000,
    POLL_MS = 20,
    BEHIND_MAX = 100, /* log entries: caught up, under load */
    LINE_LEN = 512,
    DISK_MIB = 192,
    SOAK_DISK_MIB = 1024
};

__attribute__((format(printf, 2, 0))) static void add_event(struct drill *d, const char *format,
                                                            va_list args)
{
    struct drill_event *e;

    if (d->events_n == DRILL_EVENTS_MAX) {
        return;
    }
    e = &d->events[d->events_n++];
    e->at_us = harness_now_us();
    (void)vsnprintf(e->text, sizeof e->text, format, args);
    printf("  %7.2f s  %s\n", (double)(e->at_us - d->begun_us) / 1e6, e->text);
    (void)fflush(stdout);
}

void drill_event(struct drill *d, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    add_event(d, format, args);
    va_end(args);
}

void drill_fault(struct drill *d, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    add_event(d, format, args);
    va_end(args);
    d->fault_us = harness_now_us();
}

void drill_broken(struct drill *d, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    add_event(d, format, args);
    va_end(args);
    if (!d->broken) {
        (void)snprintf(d->why, sizeof d->why, "%s", d->events[d->events_n - 1].text);
    }
    d->broken = true;
}

/* Acknowledged writes in a client's history so far. */
static unsigned writes_so_far(const char *path)
{
    char line[LINE_LEN];
    unsigned n = 0;
    FILE *f = fopen(path, "r");

    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        n += line[0] != '#' && strstr(line, " set ") != NULL && strstr(line, " ok") != NULL;
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return n;
}

bool drill_writes(struct drill *d, unsigned sites, unsigned more, unsigned timeout_ms)
{
    uint64_t until = harness_now_us() + timeout_ms * 1000ULL;
    unsigned goal[SITE_CLIENTS];
    bool all;

    for (unsigned s = 0; s < SITE_CLIENTS; s++) {
        goal[s] = writes_so_far(d->out[s]) + more;
    }
    do {
        all = true;
        for (unsigned s = 0; s < SITE_CLIENTS; s++) {
            all = all && ((sites & 1u << s) == 0 || writes_so_far(d->out[s]) >= goal[s]);
        }
        if (!all) {
            harness_sleep_ms(POLL_MS);
        }
    } while (!all && harness_now_us() < until);
    return all;
}

/* Every group of the node has a leader, and whoever this node leads has nearly all it has. */
static bool node_settled(const Kluis__V1__ClusterStatusResponse *s)
{
    for (size_t i = 0; i < s->n_groups; i++) {
        const Kluis__V1__GroupStatus *g = s->groups[i];

        if (g->leader_id == 0) {
            return false;
        }
        for (size_t k = 0; strcmp(g->role, "leader") == 0 && k < g->n_members; k++) {
            if (g->members[k]->node_id != s->node_id &&
                g->members[k]->match_index + BEHIND_MAX < g->last_index) {
                return false;
            }
        }
    }
    return true;
}

bool drill_settled(struct drill *d, unsigned timeout_ms)
{
    uint64_t until = harness_now_us() + timeout_ms * 1000ULL;
    unsigned n = 0;

    while (n < SITE_NODES && harness_now_us() < until) {
        Kluis__V1__ClusterStatusResponse *s = cluster_status(d->cluster, d->client, n);

        n = s != NULL && node_settled(s) ? n + 1 : 0;
        if (s != NULL) {
            kluis__v1__cluster_status_response__free_unpacked(s, NULL);
        }
        if (n == 0) {
            harness_sleep_ms(5 * POLL_MS);
        }
    }
    return n == SITE_NODES;
}

int drill_leader(struct drill *d, unsigned timeout_ms)
{
    return cluster_leader(d->cluster, d->client, DRILL_GROUP_WEST, timeout_ms);
}

/* ---- set-up ---- */

/* The data directory of n1, which has been initialised, moves to a file system of its own. */
static void make_disk(struct drill *d, const char *dir)
{
    char first[300];
    char size[48];

    (void)snprintf(size, sizeof size, "size=%um,mode=0700", d->disk_mib);
    (void)snprintf(d->disk, sizeof d->disk, "%s/data1", dir);
    (void)snprintf(first, sizeof first, "%s.first", d->disk);
    if (rename(d->disk, first) != 0 || mkdir(d->disk, 0700) != 0 ||
        mount("tmpfs", d->disk, "tmpfs", 0, size) != 0 ||
        site_run((const char *[]){"cp", "-a", "-T", first, d->disk, NULL}, NULL, 0) != 0) {
        perror("drill: a small disk");
        exit(1);
    }
}

static void prepare(void *arg, const char *dir)
{
    struct drill *d = arg;

    if (d->disk_mib != 0) {
        make_disk(d, dir);
    }
    if (d->site->place.prepare != NULL) {
        d->site->place.prepare(d->site->place.arg, dir);
    }
}

static void make_vault(struct drill *d, const char *name, uint32_t days)
{
    const struct kluis_vault_options o = {.location = "west", .retention_days = days};
    struct kluis_vault *v = NULL;

    if (kluis_vault_create(d->client, name, &o, CALL_MS, &v) != KLUIS_OK) {
        drill_broken(d, "vault %s: %s", name, kluis_last_error());
    }
    kluis_vault_free(v);
}

static void make_cluster(struct drill *d)
{
    struct cluster_options o = cluster_paired();
    const char *base = getenv("TMPDIR");
    char dir[200];
    char mark[256];
    int fd;

    /* Its name says whose it is and the mark in it that nobody is meant to find it: drill_clean(). */
    (void)snprintf(dir, sizeof dir, "%s/" DRILL_DIR "%d-XXXXXX", base == NULL ? "/tmp" : base,
                   (int)d->owner);
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        exit(1);
    }
    (void)snprintf(mark, sizeof mark, "%s/" DRILL_MARK, dir);
    fd = open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || close(fd) != 0) {
        perror(mark);
        exit(1);
    }
    o.dir = dir;
    o.day_ms = DRILL_DAY_MS;
    o.extra_config = "failback_after = 5s";
    o.fake_clocks = d->fake_clocks;
    d->place = d->site->place;
    d->place.arg = d; /* no backend needs its own */
    d->place.prepare = prepare;
    o.place = &d->place;
    d->cluster = cluster_new(&o);
    d->client = cluster_client(d->cluster);
}

/* Vaults for this drill, led by n1, and wires of its length. */
static void make_vaults(struct drill *d)
{
    site_rule("* * delay_us=%u", d->delay_ms * 1000);
    (void)snprintf(d->vault, sizeof d->vault, "drill%.0u", d->round);
    (void)snprintf(d->garden, sizeof d->garden, "garden%.0u", d->round);
    make_vault(d, d->vault, DRILL_VAULT_DAYS);
    make_vault(d, d->garden, DRILL_GARDEN_DAYS);
    if (cluster_transfer(d->cluster, d->client, DRILL_GROUP_WEST, 0, WAIT_MS) != KLUIS_OK) {
        drill_broken(d, "n1 does not lead the vaults of west");
    }
}

static void start_client(struct drill *d, unsigned site)
{
    char endpoints[512];
    char token[512];
    char first[32];
    char text[5][32];

    /* Those of its own region first. */
    (void)snprintf(
        endpoints, sizeof endpoints, "%s,%s,%s,%s", cluster_endpoint(d->cluster, 2 * site),
        cluster_endpoint(d->cluster, 2 * site + 1), cluster_endpoint(d->cluster, 2 - 2 * site),
        cluster_endpoint(d->cluster, 3 - 2 * site));
    (void)snprintf(token, sizeof token, "%s/token", cluster_dir(d->cluster));
    (void)snprintf(first, sizeof first, "%u", site * DRILL_CLIENT_NUMBERS);
    (void)snprintf(text[0], sizeof text[0], "%d", THREADS);
    (void)snprintf(text[1], sizeof text[1], "%d", PACE_MS);
    (void)snprintf(text[2], sizeof text[2], "%d", CLIENT_TIMEOUT_MS);
    (void)snprintf(text[3], sizeof text[3], "%d", DRILL_GARDEN_DAYS * DRILL_DAY_MS);
    (void)snprintf(d->out[site], sizeof d->out[site], "%s/clients/%s%.0u.history",
                   cluster_dir(d->cluster), site_name(site), d->round);
    d->clients[site] = d->site->client(site, "kluis-drill-client",
                                       (const char *[]){"--endpoints",
                                                        endpoints,
                                                        "--ca",
                                                        cluster_ca(d->cluster),
                                                        "--token",
                                                        token,
                                                        "--out",
                                                        d->out[site],
                                                        "--first",
                                                        first,
                                                        "--threads",
                                                        text[0],
                                                        "--pace-ms",
                                                        text[1],
                                                        "--timeout-ms",
                                                        text[2],
                                                        "--retention-ms",
                                                        text[3],
                                                        "--vault",
                                                        d->vault,
                                                        "--garden",
                                                        d->garden,
                                                        NULL});
}

static void start_clients(struct drill *d)
{
    char path[512];

    (void)snprintf(path, sizeof path, "%s/clients", cluster_dir(d->cluster));
    (void)mkdir(path, 0777);
    (void)snprintf(d->all, sizeof d->all, "%s/all%.0u.history", cluster_dir(d->cluster), d->round);
    (void)chmod(path, 0777); /* a container's user is another */
    for (unsigned s = 0; s < SITE_CLIENTS; s++) {
        start_client(d, s);
    }
    if (!drill_writes(d, (1u << SITE_CLIENTS) - 1, 20, WAIT_MS)) {
        drill_broken(d, "the clients do not get to work");
    }
}

/* ---- the end ---- */

static void settle(struct drill *d)
{
    d->cost.nodes_good = true;
    for (unsigned n = 0; n < SITE_NODES; n++) {
        d->cost.nodes_good = cluster_running(d->cluster, n) && d->cost.nodes_good;
    }
    d->cost.digests_equal = true;
    for (uint32_t g = 0; g < DRILL_GROUPS; g++) {
        d->cost.digests_equal =
            cluster_digests_agree(d->cluster, d->client, g, HEAL_MS) && d->cost.digests_equal;
    }
}

static bool over(struct drill *d, uint64_t found, uint64_t most, const char *what)
{
    if (found > most && !d->broken) {
        (void)snprintf(d->why, sizeof d->why, "%s: %llu, at most %llu", what,
                       (unsigned long long)found, (unsigned long long)most);
    }
    return found > most;
}

bool drill_judge(struct drill *d)
{
    const struct drill_cost *c = &d->cost;
    const struct drill_kind *k = d->kind;

    if (d->broken || over(d, c->lost, 0, "acknowledged writes lost") ||
        over(d, c->doubled, 0, "writes done twice") || over(d, c->stale, 0, "stale reads") ||
        over(d, c->early, 0, "purges too early") ||
        over(d, !c->linearizable, 0, "history not linearizable") ||
        over(d, !c->digests_equal, 0, "digests differ") ||
        over(d, c->planted == 0, 0, "no deleted secrets were watched") ||
        over(d, c->writes == 0 || c->reads == 0, 0, "no writes or reads were checked") ||
        over(d, !c->nodes_good, 0, "a node ended by itself") ||
        over(d, c->no_writes_ms, k->no_writes_max_ms, "ms without writes") ||
        over(d, c->no_reads_ms, k->no_reads_max_ms, "ms without reads")) {
        return false;
    }
    return !over(d, c->failed_calls, k->failed_max, "failed calls");
}

/* ---- one, and many ---- */

static void open_cluster(struct drill *d)
{
    d->site->up();
    make_cluster(d);
}

static void close_cluster(struct drill *d, bool keep)
{
    char mark[512];

    (void)snprintf(mark, sizeof mark, "%s/" DRILL_MARK, cluster_dir(d->cluster));
    if (keep) {
        (void)setenv("KLUIS_KEEP", "failed drill", 1);
    }
    if (getenv("KLUIS_KEEP") != NULL) {
        (void)unlink(mark);
    }
    kluis_close(d->client);
    for (unsigned n = 0; n < SITE_NODES; n++) {
        cluster_kill(d->cluster, n);
    }
    if (d->disk[0] != 0) {
        (void)umount2(d->disk, MNT_DETACH);
    }
    cluster_free(d->cluster);
    d->site->down();
}

/* The drill and its verdict, on a cluster that is there. */
static void run_on_cluster(struct drill *d)
{
    make_vaults(d);
    start_clients(d);
    drill_event(d, "steady: clients in west and east, %u ms between sites", d->delay_ms);
    harness_sleep_ms(STEADY_MS);
    d->fault_us = harness_now_us();
    if (!d->broken) {
        d->kind->run(d);
    }
    (void)drill_settled(d, HEAL_MS);
    drill_event(d, "settled");
    harness_sleep_ms(AFTER_MS);
    d->ended_us = harness_now_us();
    for (unsigned s = 0; s < SITE_CLIENTS; s++) {
        d->site->client_end(s, d->clients[s]);
    }
    settle(d);
    drill_measure(d, drill_held);
    d->passed = drill_judge(d);
}

void drill_run(struct drill *d)
{
    d->begun_us = harness_now_us();
    d->fake_clocks = d->kind->fake_clocks;
    d->disk_mib = d->kind->small_disk ? DISK_MIB : 0;
    printf("%s: %s\n", d->kind->name, d->kind->what);
    open_cluster(d);
    run_on_cluster(d);
    close_cluster(d, !d->passed);
}

static void sample(struct soak *s, const struct drill *d)
{
    for (unsigned n = 0; n < SITE_NODES; n++) {
        s->samples[n][s->samples_n] = (struct memory_sample){
            .at_ms = harness_now_us() / 1000u,
            .age_ms = cluster_age_ms(d->cluster, n),
            .pid = cluster_pid(d->cluster, n),
            .anon_kib = cluster_anon_kib(d->cluster, n),
            .rss_kib = cluster_rss_kib(d->cluster, n),
        };
    }
    s->samples_n++;
}

/* The vaults go, with all they hold, and the histories of what went well. */
static void forget(struct drill *d)
{
    if (kluis_vault_delete(d->client, d->vault, CALL_MS, NULL) != KLUIS_OK ||
        kluis_vault_delete(d->client, d->garden, CALL_MS, NULL) != KLUIS_OK) {
        drill_broken(d, "the vaults cannot be deleted: %s", kluis_last_error());
        d->passed = false;
    }
    for (unsigned s = 0; s < SITE_CLIENTS && d->passed; s++) {
        (void)unlink(d->out[s]);
    }
    if (d->passed) {
        (void)unlink(d->all);
    }
}

/* One drill of many. false: the cluster is not whole after it. */
static bool soak_round(struct soak *s, struct drill *d)
{
    struct drill *base = &s->base;

    s->random ^= s->random >> 12;
    s->random ^= s->random << 25;
    s->random ^= s->random >> 27;
    *d = (struct drill){
        .kind = &kl_drills[(s->random * 2685821657736338717u >> 33) % kl_drills_n],
        .site = base->site,
        .cluster = base->cluster,
        .client = base->client,
        .delay_ms = s->random * 2685821657736338717u >> 40 & 15,
        .seed = base->seed,
        .owner = base->owner,
        .round = s->rounds_n,
        .begun_us = harness_now_us(),
    };
    (void)snprintf(d->disk, sizeof d->disk, "%s", base->disk);
    printf("%u. %s: %s\n", d->round, d->kind->name, d->kind->what);
    run_on_cluster(d);
    forget(d);
    drill_print(d);
    return !d->broken && d->cost.nodes_good && d->cost.digests_equal;
}

void drill_soak(struct soak *s)
{
    bool whole = true;
    bool failed = false;

    s->base.begun_us = harness_now_us();
    s->base.fake_clocks = true;
    s->base.disk_mib = SOAK_DISK_MIB;
    open_cluster(&s->base);
    s->samples_n = 0; /* of this cluster */
    while (whole && s->rounds_n < SOAK_ROUNDS_MAX && harness_now_us() < s->until_us) {
        struct drill *d = &s->rounds[s->rounds_n++];

        whole = soak_round(s, d);
        failed = failed || !d->passed;
        if (whole) {
            sample(s, d);
        }
    }
    close_cluster(&s->base, failed && s->keep);
}
