/*
 * kluisd: a node. Command line, signals, exit codes; everything else is in node.c.
 */
#include "common/alloc.h"
#include "common/names.h"
#include "server/crypto/ca.h"
#include "server/crypto/keyring.h"
#include "server/datadir.h"
#include "server/dev.h"
#include "server/node.h"
#include "server/recover.h"
#include "server/topology.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ERR_LEN = 1024, PATH_LEN = 1200, READY_MS = 30000, CERT_DAYS = 825 };

static const char usage[] =
    "kluisd - a node of the kluis vault service\n"
    "\n"
    "Run a node:\n"
    "  kluisd --config FILE               run; the data directory must be initialised\n"
    "  kluisd --init --config FILE        initialise the data directory for a new cluster\n"
    "  kluisd --join --config FILE        initialise it for a running cluster (new or lost disk)\n"
    "  kluisd --check --config FILE       check the configuration and say what is wrong\n"
    "  kluisd --dev [--dir DIR] [--listen HOST:PORT] [--day-ms N]\n"
    "                                     one node with its own CA, token and data below DIR\n"
    "                                     (default: a new directory that is kept)\n"
    "\n"
    "Go on when the majority is lost for good (kluisd recover --help):\n"
    "  kluisd recover --config FILE --lost ID[,ID...] [--reports FILE[,FILE...]]\n"
    "\n"
    "Make the files a node needs:\n"
    "  kluisd --make-ca DIR --cluster NAME\n"
    "                                     DIR/ca.crt and DIR/ca.key; makes DIR when missing\n"
    "  kluisd --issue DIR --name NAME --cluster NAME --node-id ID --hosts HOST[,HOST...]\n"
    "         [--days N]                  DIR/NAME.crt and DIR/NAME.key, signed by DIR/ca.key\n"
    "  kluisd --make-seal FILE            a new seal key; every node needs the same one\n"
    "  kluisd --make-token FILE           a new bearer token; prints its SHA-256 for the\n"
    "                                     configuration\n"
    "\n"
    "  kluisd --version, kluisd --help\n"
    "\n"
    "Signals: SIGTERM and SIGINT drain (hand leadership over, finish calls, sync) and exit 0;\n"
    "SIGHUP reads certificates, principals and log level again.\n"
    "\n"
    "Exit codes: 0 ended as asked, 1 internal, 2 usage, 3 configuration, 4 data directory,\n"
    "5 corrupt store or log, 6 address not available, 7 disk or state machine failed,\n"
    "8 another process or data directory has this node id, or the node was removed,\n"
    "9 recover refused.\n";

struct arguments {
    const char *config, *dir, *listen, *make_ca, *issue, *make_seal, *make_token;
    const char *name, *cluster, *hosts;
    uint64_t node_id, day_ms, days;
    bool init, join, check, dev;
};

enum option_id {
    OPT_CONFIG = 256,
    OPT_INIT,
    OPT_JOIN,
    OPT_CHECK,
    OPT_DEV,
    OPT_DIR,
    OPT_LISTEN,
    OPT_DAY_MS,
    OPT_MAKE_CA,
    OPT_ISSUE,
    OPT_MAKE_SEAL,
    OPT_MAKE_TOKEN,
    OPT_NAME,
    OPT_CLUSTER,
    OPT_NODE_ID,
    OPT_HOSTS,
    OPT_DAYS,
    OPT_VERSION,
    OPT_HELP,
};

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"init", no_argument, NULL, OPT_INIT},
    {"join", no_argument, NULL, OPT_JOIN},
    {"check", no_argument, NULL, OPT_CHECK},
    {"dev", no_argument, NULL, OPT_DEV},
    {"dir", required_argument, NULL, OPT_DIR},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"day-ms", required_argument, NULL, OPT_DAY_MS},
    {"make-ca", required_argument, NULL, OPT_MAKE_CA},
    {"issue", required_argument, NULL, OPT_ISSUE},
    {"make-seal", required_argument, NULL, OPT_MAKE_SEAL},
    {"make-token", required_argument, NULL, OPT_MAKE_TOKEN},
    {"name", required_argument, NULL, OPT_NAME},
    {"cluster", required_argument, NULL, OPT_CLUSTER},
    {"node-id", required_argument, NULL, OPT_NODE_ID},
    {"hosts", required_argument, NULL, OPT_HOSTS},
    {"days", required_argument, NULL, OPT_DAYS},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int fail(enum kl_exit code, const char *what)
{
    (void)fprintf(stderr, "kluisd: %s\n", what);
    return (int)code;
}

static bool number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    if (kl_number_parse(text, min, max, out) == KL_OK) {
        return true;
    }
    (void)fprintf(stderr, "kluisd: --%s %s: must be a number from %llu to %llu\n", option, text,
                  (unsigned long long)min, (unsigned long long)max);
    return false;
}

static bool take_text(struct arguments *a, int id, const char *value)
{
    const char **const slots[] = {
        [OPT_CONFIG - OPT_CONFIG] = &a->config,
        [OPT_DIR - OPT_CONFIG] = &a->dir,
        [OPT_LISTEN - OPT_CONFIG] = &a->listen,
        [OPT_MAKE_CA - OPT_CONFIG] = &a->make_ca,
        [OPT_ISSUE - OPT_CONFIG] = &a->issue,
        [OPT_MAKE_SEAL - OPT_CONFIG] = &a->make_seal,
        [OPT_MAKE_TOKEN - OPT_CONFIG] = &a->make_token,
        [OPT_NAME - OPT_CONFIG] = &a->name,
        [OPT_CLUSTER - OPT_CONFIG] = &a->cluster,
        [OPT_HOSTS - OPT_CONFIG] = &a->hosts,
    };
    size_t i = (size_t)(id - OPT_CONFIG);

    if (i >= sizeof slots / sizeof slots[0] || slots[i] == NULL) {
        return false;
    }
    *slots[i] = value;
    return true;
}

/* -1: go on; otherwise the exit code. */
static int take_option(struct arguments *a, int id)
{
    switch (id) {
    case OPT_INIT:
        a->init = true;
        return -1;
    case OPT_JOIN:
        a->join = true;
        return -1;
    case OPT_CHECK:
        a->check = true;
        return -1;
    case OPT_DEV:
        a->dev = true;
        return -1;
    case OPT_NODE_ID:
        return number("node-id", optarg, 1, KL_NODE_ID_MAX, &a->node_id) ? -1 : KL_EXIT_USAGE;
    case OPT_DAY_MS:
        return number("day-ms", optarg, 1, KL_DAY_MS, &a->day_ms) ? -1 : KL_EXIT_USAGE;
    case OPT_DAYS:
        return number("days", optarg, 1, 36500, &a->days) ? -1 : KL_EXIT_USAGE;
    case OPT_VERSION:
        (void)printf("kluisd %s\n", KLUIS_VERSION);
        return KL_EXIT_OK;
    case OPT_HELP:
        (void)fputs(usage, stdout);
        return KL_EXIT_OK;
    default:
        break;
    }
    if (take_text(a, id, optarg)) {
        return -1;
    }
    (void)fprintf(stderr, "Try 'kluisd --help'.\n");
    return KL_EXIT_USAGE;
}

/* ---- making files ---- */

static int make_files(const struct arguments *a)
{
    char err[ERR_LEN] = "";
    char hash[65];
    enum kl_status st;

    if ((a->make_ca != NULL || a->issue != NULL) && a->cluster == NULL) {
        return fail(KL_EXIT_USAGE, "--cluster NAME is needed");
    }
    if (a->make_ca != NULL) {
        st = kl_ca_create(a->make_ca, a->cluster, 3650, err, sizeof err);
    } else if (a->issue != NULL) {
        if (a->name == NULL || a->node_id == 0 || a->hosts == NULL || a->hosts[0] == 0) {
            return fail(KL_EXIT_USAGE, "--issue needs --name, --node-id and --hosts");
        }
        st = kl_ca_issue(a->issue, a->name, a->cluster, a->node_id, a->hosts,
                         a->days == 0 ? CERT_DAYS : (int)a->days, err, sizeof err);
    } else if (a->make_seal != NULL) {
        st = kl_seal_file_create(a->make_seal, &kl_real_entropy, err, sizeof err);
    } else {
        st = kl_token_file_create(a->make_token, hash, err, sizeof err);
        if (st == KL_OK) {
            (void)printf("%s\n", hash);
        }
    }
    return st == KL_OK ? KL_EXIT_OK : fail(KL_EXIT_CONFIG, err);
}

/* ---- running ---- */

static int initialise(const struct kl_config *config, bool initial)
{
    char err[ERR_LEN] = "";
    enum kl_status st =
        kl_datadir_create(config->data_dir, config->cluster, kl_config_self(config)->id, initial,
                          &kl_real_entropy, err, sizeof err);

    if (st != KL_OK) {
        return fail(KL_EXIT_DATA_DIR, err);
    }
    (void)printf("%s: initialised for %s of cluster %s\n", config->data_dir, config->self,
                 config->cluster);
    return KL_EXIT_OK;
}

static void reload(struct kl_node *node, const char *path)
{
    struct kl_config *config = kl_calloc(1, sizeof *config);
    char err[ERR_LEN] = "";
    enum kl_status st = KL_NO_MEMORY;

    if (config != NULL) {
        st = kl_config_load(path, config, err, sizeof err);
    }
    if (st == KL_OK) {
        st = kl_node_reload(node, config, err, sizeof err);
    }
    if (st == KL_OK) {
        kl_log(KL_LOG_INFO, "main", "configuration read again file=%s", path);
    } else {
        kl_log(KL_LOG_ERROR, "main", "reload refused, nothing has changed why=\"%s\"", err);
    }
    kl_free(config);
}

static void wait_for_signals(struct kl_node *node, const char *path, const sigset_t *set)
{
    for (;;) {
        int signal_number = 0;

        if (sigwait(set, &signal_number) != 0) {
            continue;
        }
        if (signal_number == SIGHUP) {
            reload(node, path);
        } else if (signal_number == SIGTERM || signal_number == SIGINT) {
            kl_log(KL_LOG_INFO, "main", "draining signal=%d", signal_number);
            return;
        }
    }
}

static void announce_dev(const struct arguments *a, const struct kl_node *node)
{
    (void)printf("kluis is ready. In another shell:\n\n"
                 "  export KLUIS_ENDPOINT=127.0.0.1:%u\n"
                 "  export KLUIS_CA_FILE=%s/ca.crt\n"
                 "  export KLUIS_TOKEN_FILE=%s/admin.token\n"
                 "  kluis vault create --name demo\n"
                 "  kluis secret set --vault-name demo --name greeting --value hello\n"
                 "  kluis secret show --vault-name demo --name greeting\n\n",
                 (unsigned)kl_node_client_port(node), a->dir, a->dir);
    (void)fflush(stdout);
}

static void log_warning(void *arg, const char *line)
{
    (void)arg;
    kl_log(KL_LOG_WARN, "main", "%s", line);
}

static int run_node(const struct arguments *a, const char *path, const struct kl_config *config)
{
    struct kl_node *node = NULL;
    enum kl_exit code = KL_EXIT_INTERNAL;
    char err[ERR_LEN] = "";
    const char *soft;
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL); /* inherited by every thread */
    kl_log_set_level(config->log_level);
    soft = kl_crypto_harden();
    if (soft != NULL) {
        kl_log(KL_LOG_WARN, "main", "hardening is incomplete why=\"%s\"", soft);
    }
    kl_topology_warn(config, log_warning, NULL);
    if (kl_node_start(config, &node, &code, err, sizeof err) != KL_OK) {
        kl_log(KL_LOG_ERROR, "main", "cannot start why=\"%s\"", err);
        return (int)code;
    }
    kl_log(KL_LOG_INFO, "main", "started version=%s node=%s cluster=%s clients=%s port=%u",
           KLUIS_VERSION, config->self, config->cluster, config->listen_client,
           (unsigned)kl_node_client_port(node));
    if (a->dev && kl_node_wait_ready(node, READY_MS)) {
        announce_dev(a, node);
    }
    wait_for_signals(node, path, &set);
    kl_node_stop(node);
    kl_log(KL_LOG_INFO, "main", "ended");
    return KL_EXIT_OK;
}

static void print_warning(void *arg, const char *line)
{
    (void)printf("%s: warning: %s\n", (const char *)arg, line);
}

static int with_config(const struct arguments *a, const char *path)
{
    struct kl_config *config = kl_calloc(1, sizeof *config);
    char err[ERR_LEN] = "";
    int code;

    if (config == NULL) {
        return fail(KL_EXIT_INTERNAL, "out of memory");
    }
    if (kl_config_load(path, config, err, sizeof err) != KL_OK) {
        code = fail(KL_EXIT_CONFIG, err);
    } else if (a->check) {
        if (kl_node_check(config, err, sizeof err) != KL_OK) {
            code = fail(KL_EXIT_CONFIG, err);
        } else {
            kl_topology_warn(config, print_warning, (void *)(uintptr_t)path);
            (void)printf("%s: ok\n", path);
            code = KL_EXIT_OK;
        }
    } else if (a->init || a->join) {
        code = initialise(config, a->init);
    } else {
        code = run_node(a, path, config);
    }
    kl_free(config);
    return code;
}

static int run_dev(struct arguments *a)
{
    char made[] = "/tmp/kluis-dev-XXXXXX";
    struct kl_dev_options o = {.dir = a->dir,
                               .listen = a->listen != NULL ? a->listen : "127.0.0.1:7400",
                               .day_ms = a->day_ms};
    char path[PATH_LEN];
    char err[ERR_LEN] = "";

    if (o.dir == NULL) {
        o.dir = mkdtemp(made);
        if (o.dir == NULL) {
            return fail(KL_EXIT_DATA_DIR, "cannot make a directory below /tmp");
        }
        a->dir = o.dir;
    }
    if (kl_dev_prepare(&o, path, sizeof path, err, sizeof err) != KL_OK) {
        return fail(KL_EXIT_CONFIG, err);
    }
    return with_config(a, path);
}

static int modes(const struct arguments *a)
{
    return a->init + a->join + a->check + a->dev + (a->make_ca != NULL) + (a->issue != NULL) +
           (a->make_seal != NULL) + (a->make_token != NULL);
}

int main(int argc, char **argv)
{
    struct arguments a = {.config = NULL};
    int id;

    if (argc > 1 && strcmp(argv[1], "recover") == 0) {
        return kl_recover_main(argc - 1, argv + 1);
    }
    while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
        int code = take_option(&a, id);

        if (code >= 0) {
            return code;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "kluisd: unexpected argument '%s'\nTry 'kluisd --help'.\n",
                      argv[optind]);
        return KL_EXIT_USAGE;
    }
    if (modes(&a) > 1) {
        return fail(KL_EXIT_USAGE,
                    "only one of --init, --join, --check, --dev, --make-ca, --issue, "
                    "--make-seal and --make-token can be done at a time\n"
                    "Try 'kluisd --help'.");
    }
    if (a.dev && a.config != NULL) {
        return fail(KL_EXIT_USAGE, "--dev writes its own configuration: only one of --dev and "
                                   "--config can be given");
    }
    if (a.make_ca != NULL || a.issue != NULL || a.make_seal != NULL || a.make_token != NULL) {
        return make_files(&a);
    }
    if (a.dev) {
        return run_dev(&a);
    }
    if (a.config == NULL) {
        return fail(KL_EXIT_USAGE, "--config FILE or --dev is needed\nTry 'kluisd --help'.");
    }
    return with_config(&a, a.config);
}
