/*
 * kluis-sim --seeds N [--from S] [--jobs J] [--verbose]: simulates clusters, one after another,
 * each from its seed alone. Prints the seed and the reason of every failure; exit code 1 if there
 * was one.
 */
#include "tests/sim/run.h"

#include "common/names.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { JOBS_MAX = 64, PROGRESS = 1000, FAILURES_MAX = 20 };

struct options {
    uint64_t seeds, from, jobs;
    struct sim_options sim;
    bool trace; /* print the trace hash of each seed */
};

/* For the handler: a process that dies must still say which seed it died of. */
static char dying_words[64];

static void die(int signal)
{
    ssize_t n = write(STDOUT_FILENO, dying_words, strlen(dying_words));

    (void)n;
    (void)sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    (void)raise(signal);
}

static void note_seed(uint64_t seed)
{
    (void)snprintf(dying_words, sizeof dying_words, "seed %" PRIu64 " FAILED and died\n", seed);
}

static void catch_death(void)
{
    const struct sigaction action = {.sa_handler = die};

    (void)sigaction(SIGABRT, &action, NULL);
    (void)sigaction(SIGSEGV, &action, NULL);
    (void)sigaction(SIGBUS, &action, NULL);
}

static int usage(void)
{
    (void)fprintf(stderr,
                  "usage: kluis-sim [--seeds N] [--from S] [--jobs J] [--verbose]...\n"
                  "                 [--trace] [--dump FILE]\n"
                  "  --seeds N    how many (default 500)\n"
                  "  --from S     the first (default 1)\n"
                  "  --jobs J     processes to share them (default 1)\n"
                  "  --verbose    tell the story; twice: also what is sent; thrice: events\n"
                  "  --trace      print each seed's trace hash\n"
                  "  --dump FILE  write the history (of the last seed) for kluis-check\n"
                  "  --without N  without the cover over libraft's fault number N\n"
                  "  --sabotage N with a fault of the simulation's own (world.h)\n");
    return 2;
}

static bool parse_number(int argc, char **argv, int *i, uint64_t *out)
{
    return ++*i < argc && kl_number_parse(argv[*i], 0, UINT64_MAX, out) == KL_OK;
}

static bool parse(int argc, char **argv, struct options *o)
{
    uint64_t n = 0;

    for (int i = 1; i < argc; i++) {
        bool ok = true;

        if (strcmp(argv[i], "--seeds") == 0) {
            ok = parse_number(argc, argv, &i, &o->seeds);
        } else if (strcmp(argv[i], "--from") == 0) {
            ok = parse_number(argc, argv, &i, &o->from);
        } else if (strcmp(argv[i], "--jobs") == 0) {
            ok = parse_number(argc, argv, &i, &o->jobs) && o->jobs >= 1 && o->jobs <= JOBS_MAX;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            o->sim.verbose++;
        } else if (strcmp(argv[i], "--members") == 0) {
            o->sim.members = true;
        } else if (strcmp(argv[i], "--reorder") == 0) {
            o->sim.reorder = true;
        } else if (strcmp(argv[i], "--trace") == 0) {
            o->trace = true;
        } else if (strcmp(argv[i], "--without") == 0) {
            ok = parse_number(argc, argv, &i, &n) && n >= 1 && n <= 31;
            o->sim.covers_off |= ok ? 1u << n : 0;
        } else if (strcmp(argv[i], "--sabotage") == 0) {
            ok = parse_number(argc, argv, &i, &n) && n <= SIM_SABOTAGE_ASTRAY;
            o->sim.sabotage = (enum sim_sabotage)n;
        } else if (strcmp(argv[i], "--dump") == 0) {
            ok = ++i < argc;
            o->sim.dump = ok ? argv[i] : NULL;
        } else {
            ok = false;
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

static void add_stats(struct sim_stats *sum, const struct sim_stats *s)
{
    uint64_t *a = (uint64_t *)sum;
    const uint64_t *b = (const uint64_t *)s;

    for (size_t i = 0; i < sizeof *sum / sizeof *a; i++) {
        a[i] += b[i];
    }
}

static void print_stats(const struct sim_stats *s, uint64_t ops)
{
    printf("  %" PRIu64 " operations, %" PRIu64 " elections, %" PRIu64 " crashes, %" PRIu64
           " stops, %" PRIu64 " cuts, %" PRIu64 " pauses, %" PRIu64 " transfers\n"
           "  %" PRIu64 " snapshots, %" PRIu64 " states adopted, %" PRIu64 " joins, %" PRIu64
           " removals, %" PRIu64 " purges by retention, %" PRIu64 " fatal ends\n",
           ops, s->elections, s->crashes, s->stops, s->cuts, s->pauses, s->transfers, s->snapshots,
           s->adopted, s->joins, s->removals, s->purges, s->fatals);
}

/* The seeds of one process: every jobs-th. */
static int run_share(const struct options *o, uint64_t share)
{
    struct sim_stats sum = {0};
    uint64_t ops = 0;
    uint64_t run = 0;
    unsigned failures = 0;

    for (uint64_t i = share; i < o->seeds && failures < FAILURES_MAX; i += o->jobs) {
        struct sim_outcome out;

        note_seed(o->from + i);
        sim_run_seed(o->from + i, &o->sim, &out);
        add_stats(&sum, &out.stats);
        ops += out.ops;
        run++;
        if (o->trace) {
            printf("seed %" PRIu64 " trace %016" PRIx64 "\n", o->from + i, out.trace);
        }
        if (out.failed) {
            failures++;
            printf("seed %" PRIu64 " FAILED %s\n", o->from + i, out.text);
        }
        if (run % PROGRESS == 0) {
            printf("%" PRIu64 " seeds, %u failed\n", run, failures);
        }
        (void)fflush(stdout);
    }
    printf("%" PRIu64 " seeds (from %" PRIu64 ", every %" PRIu64 "), %u failed\n", run,
           o->from + share, o->jobs, failures);
    print_stats(&sum, ops);
    sim_run_done();
    return failures == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct options o = {.seeds = 500, .from = 1, .jobs = 1};
    int code = 0;

    if (!parse(argc, argv, &o)) {
        return usage();
    }
    catch_death();
    if (o.jobs == 1) {
        return run_share(&o, 0);
    }
    for (uint64_t share = 0; share < o.jobs; share++) {
        pid_t pid = fork();

        if (pid == 0) {
            return run_share(&o, share);
        }
        if (pid < 0) {
            perror("fork");
            code = 1;
        }
    }
    for (int status; wait(&status) > 0;) {
        code = WIFEXITED(status) && WEXITSTATUS(status) == 0 ? code : 1;
    }
    return code;
}
