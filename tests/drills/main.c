/*
 * kluis-drill NAME... | all | brief | list    drills, see deploy/drill
 */
#include "common/names.h"
#include "tests/drills/drill.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_SKIPPED = 77,
    DEFAULT_DELAY_MS = 5,
    RUNS_MAX = 1000,
    KEPT_MAX = 5
};

struct plan {
    const struct site_backend *site;
    const char *json, *html;
    uint64_t delay_ms, minutes, runs, seed;
    bool random;
    json_t *results;
    json_t *memory; /* of a random run; NULL */
    unsigned passed, failed;
};

static bool parse(int argc, char **argv, struct plan *p)
{
    static const struct option options[] = {
        {"netns", no_argument, NULL, 'n'},          {"compose", no_argument, NULL, 'c'},
        {"json", required_argument, NULL, 'j'},     {"html", required_argument, NULL, 'h'},
        {"delay-ms", required_argument, NULL, 'd'}, {"minutes", required_argument, NULL, 'm'},
        {"runs", required_argument, NULL, 'r'},     {"seed", required_argument, NULL, 's'},
        {"random", no_argument, NULL, 'R'},         {NULL, 0, NULL, 0},
    };
    int id;

    while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
        uint64_t *number = id == 'd'   ? &p->delay_ms
                           : id == 'm' ? &p->minutes
                           : id == 'r' ? &p->runs
                           : id == 's' ? &p->seed
                                       : NULL;

        if (id == 'n' || id == 'c') {
            p->site = id == 'n' ? &site_netns : &site_compose;
        } else if (id == 'R') {
            p->random = true;
        } else if (id == 'j') {
            p->json = optarg;
        } else if (id == 'h') {
            p->html = optarg;
        } else if (number == NULL || kl_number_parse(optarg, 0, UINT32_MAX, number) != KL_OK) {
            return false;
        }
    }
    return p->runs <= RUNS_MAX;
}

static volatile sig_atomic_t ended; /* by which signal */
static volatile sig_atomic_t child;

static void end(int signal_number)
{
    ended = signal_number;
    if (child > 0) {
        (void)kill((pid_t)child, SIGKILL);
    }
}

/* In a process of its own, so that its networks go with it and one that breaks does not end the rest. All
 * that it starts dies with it, and comes to this one to be waited for. */
static int in_child(struct plan *p, void (*run)(void *), void *arg)
{
    pid_t parent = getpid();
    int status = 0;
    pid_t pid;

    (void)fflush(stdout);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid = fork();
    if (pid == 0) {
        (void)signal(SIGINT, SIG_IGN); /* of a terminal: the parent decides */
        (void)signal(SIGTERM, SIG_DFL);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) {
            run(arg);
        }
        exit(0);
    }
    child = pid;
    if (ended) {
        (void)kill(pid, SIGKILL);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    child = 0;
    if (status != 0) {
        while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {
        }
        drill_clean(p->site, parent, ended != 0);
    }
    return status;
}

static void drill_child(void *arg)
{
    drill_run(arg);
}

static void soak_child(void *arg)
{
    drill_soak(arg);
}

static void run_one(struct plan *p, const struct drill_kind *kind)
{
    struct drill *d =
        mmap(NULL, sizeof *d, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status;

    if (d == MAP_FAILED) {
        perror("drill");
        exit(EXIT_FAILED);
    }
    *d = (struct drill){.kind = kind,
                        .site = p->site,
                        .delay_ms = (unsigned)p->delay_ms,
                        .seed = p->seed,
                        .owner = getpid()};
    status = in_child(p, drill_child, d);
    if (status != 0) {
        d->passed = false;
        (void)snprintf(d->why, sizeof d->why, "the runner ended with 0x%x", (unsigned)status);
        d->begun_us = d->begun_us == 0 ? harness_now_us() : d->begun_us;
        d->fault_us = d->ended_us = harness_now_us();
    }
    drill_print(d);
    *(d->passed ? &p->passed : &p->failed) += 1;
    (void)json_array_append_new(p->results, drill_json(d));
    (void)munmap(d, sizeof *d);
}

static const struct drill_kind *find(const char *name)
{
    for (size_t i = 0; i < kl_drills_n; i++) {
        if (strcmp(kl_drills[i].name, name) == 0) {
            return &kl_drills[i];
        }
    }
    return NULL;
}

static int compare_numbers(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* The home region is lost again and again at latencies of 0 to 20 ms: median and worst time. */
static void measure_failover(struct plan *p)
{
    static const uint64_t delays[] = {0, 5, 10, 20};
    static uint64_t times[RUNS_MAX];

    for (uint64_t i = 0; i < p->runs && !ended; i++) {
        p->delay_ms = delays[i % 4];
        run_one(p, find("home-lost"));
        times[i] = (uint64_t)json_integer_value(
            json_object_get(json_array_get(p->results, i), "no_writes_ms"));
    }
    qsort(times, p->runs, sizeof *times, compare_numbers);
    printf("home region lost, %llu runs at 0, 5, 10 and 20 ms between sites: writes again after "
           "%llu ms in the median, %llu ms at worst\n",
           (unsigned long long)p->runs, (unsigned long long)times[p->runs / 2],
           (unsigned long long)times[p->runs - 1]);
}

/* Clusters that live as long as they are whole. */
static void run_random(struct plan *p)
{
    uint64_t until = harness_now_us() + p->minutes * 60000000u;
    struct soak *s =
        mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned kept = 0;
    unsigned done = 0;
    bool grows;

    if (s == MAP_FAILED) {
        perror("drill");
        exit(EXIT_FAILED);
    }
    *s = (struct soak){.random = p->seed | 1u, .until_us = until};
    while (!ended && s->rounds_n < SOAK_ROUNDS_MAX && harness_now_us() < until) {
        int status;

        s->base = (struct drill){.site = p->site, .seed = p->seed, .owner = getpid()};
        s->keep = kept < KEPT_MAX;
        status = in_child(p, soak_child, s);
        if (status != 0 && !ended) {
            p->failed++;
            printf("FAILED: the runner ended with 0x%x\n", (unsigned)status);
            harness_sleep_ms(1000);
        }
        for (; done < s->rounds_n; done++) {
            if (s->rounds[done].ended_us == 0) { /* not to its end */
                continue;
            }
            kept += !s->rounds[done].passed;
            *(s->rounds[done].passed ? &p->passed : &p->failed) += 1;
            (void)json_array_append_new(p->results, drill_json(&s->rounds[done]));
        }
    }
    p->memory = drill_memory(s, &grows);
    p->failed += grows;
    (void)munmap(s, sizeof *s);
}

static bool run_named(struct plan *p, const char *name)
{
    bool all = strcmp(name, "all") == 0;
    bool brief = strcmp(name, "brief") == 0;

    if (strcmp(name, "failover") == 0 && p->runs != 0) {
        measure_failover(p);
        return true;
    }
    if (strcmp(name, "distance") == 0 && p->site != &site_netns) {
        (void)fprintf(stderr, "drill: distance is measured with --netns\n");
        return false;
    }
    if (strcmp(name, "distance") == 0) {
        *(drill_distance() ? &p->passed : &p->failed) += 1;
        return true;
    }
    if (!all && !brief) {
        if (find(name) == NULL) {
            (void)fprintf(stderr, "drill: no drill '%s'; see deploy/drill list\n", name);
            return false;
        }
        run_one(p, find(name));
        return true;
    }
    for (size_t i = 0; i < kl_drills_n && !ended; i++) {
        if (all || kl_drills[i].brief) {
            run_one(p, &kl_drills[i]);
        }
    }
    return true;
}

/* What deploy/compose.yaml needs to be started by hand. */
static int make_files(const char *dir)
{
    struct cluster_options o = cluster_paired();
    struct cluster *c;
    char path[PATH_MAX];

    if (dir == NULL || realpath(dir, path) == NULL || strlen(path) > 200) {
        perror("drill: files DIR, an empty directory");
        return EXIT_USAGE;
    }
    o.dir = path;
    o.only_files = true;
    o.place = &site_compose.place;
    c = cluster_new(&o);
    printf("KLUIS_FILES=%s KLUIS_ENDPOINT=%s KLUIS_CA_FILE=%s KLUIS_TOKEN_FILE=%s/token\n", path,
           cluster_endpoint(c, 0), cluster_ca(c), path);
    (void)setenv("KLUIS_KEEP", "asked for", 1);
    cluster_free(c);
    return 0;
}

static void list(void)
{
    for (size_t i = 0; i < kl_drills_n; i++) {
        printf("%-16s %s\n", kl_drills[i].name, kl_drills[i].what);
    }
}

/* The results; of a random run an object with them and the memory. */
static bool write_json(const struct plan *p)
{
    json_t *all = p->memory == NULL
                      ? json_incref(p->results)
                      : json_pack("{sOsO}", "drills", p->results, "memory", p->memory);
    bool good = all != NULL && json_dump_file(all, p->json, JSON_INDENT(1)) == 0;

    json_decref(all);
    return good;
}

int main(int argc, char **argv)
{
    struct plan p = {.site = &site_netns, .delay_ms = DEFAULT_DELAY_MS, .minutes = 10, .runs = 20};
    const char *missing;
    bool good = true;

    if (!parse(argc, argv, &p) || (optind == argc && !p.random)) {
        (void)fprintf(stderr, "kluis-drill: see deploy/drill --help\n");
        return EXIT_USAGE;
    }
    if (optind < argc && strcmp(argv[optind], "list") == 0) {
        list();
        return 0;
    }
    if (optind < argc && strcmp(argv[optind], "files") == 0) {
        return make_files(argv[optind + 1]);
    }
    missing = p.site->missing();
    if (missing != NULL) {
        printf("SKIPPED: %s\n", missing);
        return EXIT_SKIPPED;
    }
    p.seed = p.seed == 0 ? harness_now_us() : p.seed;
    p.results = json_array();
    (void)signal(SIGINT, end);
    (void)signal(SIGTERM, end);
    drill_clean(p.site, 0, true);
    printf("sites: %s; seed %llu\n", p.site->name, (unsigned long long)p.seed);
    if (p.random) {
        run_random(&p);
    }
    for (int i = optind; i < argc && good && !ended; i++) {
        good = run_named(&p, argv[i]);
    }
    if (p.json != NULL && !write_json(&p)) {
        perror(p.json);
        good = false;
    }
    if (p.html != NULL && !drill_html(p.html, p.results, p.memory)) {
        perror(p.html);
        good = false;
    }
    json_decref(p.results);
    json_decref(p.memory);
    printf("%u drills passed, %u failed\n", p.passed, p.failed);
    if (ended != 0) {
        printf("ended by signal %d\n", (int)ended);
        return 128 + (int)ended;
    }
    return !good ? EXIT_USAGE : p.failed == 0 ? 0 : EXIT_FAILED;
}
