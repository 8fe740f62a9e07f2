/* The command line of kluisd and what it says about configurations, files and directories that are
 * wrong: one exit code and one line that names the thing. */
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    EXIT_USAGE = 2,
    EXIT_CONFIG = 3,
    EXIT_DATA_DIR = 4,
    EXIT_CORRUPT = 5,
    EXIT_NETWORK = 6,
    RUN_MS = 20000,
    PATH_LEN = 1024,
};

/* One node's files, whose process is stopped; built once, since all tests only read it. */
static struct cluster *files(void)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 1});

    cluster_kill(c, 0);
    CHECK_EQ(truncate(cluster_log(c, 0), 0), 0);
    return c;
}

static void check_run(struct cluster *c, const char *const *words, int code, const char *text)
{
    int got;

    CHECK_EQ(truncate(cluster_log(c, 0), 0), 0);
    got = cluster_run_to(c, cluster_log(c, 0), words, RUN_MS);
    if (got != code || !cluster_log_has(c, 0, text)) {
        print_error("%s %s: exit code %d, wanted %d and '%s', see %s\n", words[0],
                    words[0] == NULL || words[1] == NULL ? "" : words[1], got, code, text,
                    cluster_log(c, 0));
    }
    CHECK_EQ(got, code);
    CHECK(cluster_log_has(c, 0, text));
}

/* Words that make no sense end with 2 and a hint. */
TEST(commands, usage)
{
    struct cluster *c = files();
    char path[PATH_LEN];

    (void)snprintf(path, sizeof path, "%s/new", cluster_dir(c));
    check_run(c, (const char *[]){NULL}, EXIT_USAGE, "--config FILE or --dev is needed");
    check_run(c, (const char *[]){"--nonsense", NULL}, EXIT_USAGE, "--help");
    check_run(c, (const char *[]){"--config", NULL}, EXIT_USAGE, "--help");
    check_run(c, (const char *[]){"--config", cluster_config(c, 0), "word", NULL}, EXIT_USAGE,
              "unexpected argument 'word'");
    check_run(c, (const char *[]){"--make-ca", path, NULL}, EXIT_USAGE, "--cluster NAME is needed");
    check_run(c, (const char *[]){"--issue", path, "--cluster", "x", NULL}, EXIT_USAGE,
              "--issue needs --name, --node-id and --hosts");
    check_run(
        c,
        (const char *[]){"--issue", path, "--cluster", "x", "--name", "n1", "--hosts", "h", NULL},
        EXIT_USAGE, "--issue needs --name, --node-id and --hosts");
    check_run(c,
              (const char *[]){"--issue", path, "--cluster", "x", "--name", "n1", "--node-id", "1",
                               "--hosts", "", NULL},
              EXIT_USAGE, "--issue needs --name, --node-id and --hosts");
    check_run(c, (const char *[]){"--node-id", "0", NULL}, EXIT_USAGE, "--node-id 0");
    check_run(c, (const char *[]){"--node-id", "70000", NULL}, EXIT_USAGE, "--node-id 70000");
    check_run(c, (const char *[]){"--day-ms", "x", NULL}, EXIT_USAGE, "--day-ms x");
    check_run(c, (const char *[]){"--init", "--join", "--config", cluster_config(c, 0), NULL},
              EXIT_USAGE, "only one of");
    check_run(c, (const char *[]){"--dev", "--config", cluster_config(c, 0), NULL}, EXIT_USAGE,
              "only one of");
    check_run(c, (const char *[]){"--help", NULL}, 0, "Exit codes:");
    check_run(c, (const char *[]){"--version", NULL}, 0, "kluisd ");
    check_run(c, (const char *[]){"--check", "--config", cluster_config(c, 0), NULL}, 0, ": ok");
    cluster_free(c);
}

/* Copies the configuration with one line replaced; "" drops it. */
static void edit(struct cluster *c, const char *key, const char *line, char out[PATH_LEN])
{
    char text[PATH_LEN];
    FILE *in = fopen(cluster_config(c, 0), "r");
    FILE *f;
    bool found = false;

    (void)snprintf(out, PATH_LEN, "%s/edited.conf", cluster_dir(c));
    f = fopen(out, "w");
    assert_non_null(in);
    assert_non_null(f);
    while (fgets(text, sizeof text, in) != NULL) {
        if (strncmp(text, key, strlen(key)) == 0) {
            found = true;
            (void)fprintf(f, "%s%s", line, line[0] == 0 ? "" : "\n");
        } else {
            (void)fputs(text, f);
        }
    }
    (void)fclose(in);
    (void)fclose(f);
    CHECK(found);
}

/* Configurations that are wrong end with 3, and file, line and key are named. */
TEST(commands, configuration)
{
    static const struct {
        const char *key, *line, *text;
    } cases[] = {
        {"geography", "", "geography"},
        {"geography", "geography = UPPER", "geography"},
        {"subscription", "subscription = 17", "subscription"},
        {"node = ", "node = n9", "n9"},
        {"data_dir", "data_dir =", "data_dir"},
        {"id = ", "id = 0", "id"},
        {"rights", "rights = secrets/everything", "secrets/everything"},
        {"token_sha256", "token_sha256 = abc", "token_sha256"},
        {"peer_address", "peer_address = nowhere", "peer_address"},
        {"region", "regoin = west", "regoin"},
        {"[cluster]", "[clustre]", "clustre"},
    };
    struct cluster *c = files();
    char config[PATH_LEN];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        edit(c, cases[i].key, cases[i].line, config);
        check_run(c, (const char *[]){"--check", "--config", config, NULL}, EXIT_CONFIG,
                  cases[i].text);
        CHECK(cluster_log_has(c, 0, "edited.conf"));
        check_run(c, (const char *[]){"--config", config, NULL}, EXIT_CONFIG, cases[i].text);
    }
    check_run(c, (const char *[]){"--config", "/nowhere/kluisd.conf", NULL}, EXIT_CONFIG,
              "/nowhere/kluisd.conf");
    /* Files mixed up between two machines. */
    CHECK_EQ(
        cluster_run_to(c, cluster_log(c, 0),
                       (const char *[]){"--issue", cluster_dir(c), "--name", "n1", "--cluster",
                                        "test", "--node-id", "2", "--hosts", "127.0.0.1", NULL},
                       RUN_MS),
        0);
    check_run(c, (const char *[]){"--check", "--config", cluster_config(c, 0), NULL}, EXIT_CONFIG,
              "it is of node 2; this is node 1");
    check_run(c, (const char *[]){"--config", cluster_config(c, 0), NULL}, EXIT_CONFIG,
              "it is of node 2; this is node 1");
    cluster_free(c);
}

/* So do files that the configuration names and that are missing, not what they should be, or open to
 * others: at start, before anything is listened on, and already with --check. */
TEST(commands, named_files)
{
    static const char *const keys[] = {"ca_file", "cert_file", "key_file", "seal_file"};
    struct cluster *c = files();
    char config[PATH_LEN];
    char line[2 * PATH_LEN];
    char path[PATH_LEN];

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        (void)snprintf(line, sizeof line, "%s = %s/missing", keys[i], cluster_dir(c));
        edit(c, keys[i], line, config);
        check_run(c, (const char *[]){"--config", config, NULL}, EXIT_CONFIG, "/missing");
        check_run(c, (const char *[]){"--check", "--config", config, NULL}, EXIT_CONFIG,
                  "/missing");
        (void)snprintf(line, sizeof line, "%s = %s", keys[i], cluster_config(c, 0));
        edit(c, keys[i], line, config);
        check_run(c, (const char *[]){"--config", config, NULL}, EXIT_CONFIG, "n1.conf");
        check_run(c, (const char *[]){"--check", "--config", config, NULL}, EXIT_CONFIG, "n1.conf");
    }
    (void)snprintf(path, sizeof path, "%s/seal", cluster_dir(c));
    CHECK_EQ(chmod(path, 0644), 0);
    check_run(c, (const char *[]){"--config", cluster_config(c, 0), NULL}, EXIT_CONFIG, "/seal");
    CHECK_EQ(chmod(path, 0600), 0);
    (void)snprintf(line, sizeof line, "seal_file = %s\ngeography_key_file = %s/no-key", path,
                   cluster_dir(c));
    edit(c, "seal_file", line, config);
    check_run(c, (const char *[]){"--config", config, NULL}, EXIT_CONFIG, "/no-key");
    cluster_free(c);
}

/* A data directory is made once, and what is damaged in it is named. */
TEST(commands, data_directory)
{
    struct cluster *c = files();
    const char *const run[] = {"--config", cluster_config(c, 0), NULL};
    char path[PATH_LEN];

    check_run(c, (const char *[]){"--init", "--config", cluster_config(c, 0), NULL}, EXIT_DATA_DIR,
              "is initialised already");
    check_run(c, (const char *[]){"--join", "--config", cluster_config(c, 0), NULL}, EXIT_DATA_DIR,
              "is initialised already");
    (void)snprintf(path, sizeof path, "%s/identity", cluster_data_dir(c, 0));
    CHECK_EQ(truncate(path, 40), 0);
    check_run(c, run, EXIT_CORRUPT, "identity");
    CHECK_EQ(truncate(path, 0), 0);
    check_run(c, run, EXIT_CORRUPT, "identity");
    cluster_free(c);
}

/* An address that somebody else listens on ends with 6 and is named, be it the clients' or the
 * nodes'. */
TEST(commands, address_taken)
{
    struct cluster *c = files();
    const char *const addresses[] = {cluster_endpoint(c, 0), cluster_peer_address(c, 0)};

    for (size_t i = 0; i < 2; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int on = 1;

        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        a.sin_port = htons((uint16_t)strtoul(strrchr(addresses[i], ':') + 1, NULL, 10));
        assert_true(fd >= 0);
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        CHECK_EQ(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
        CHECK_EQ(listen(fd, 1), 0);
        check_run(c, (const char *[]){"--config", cluster_config(c, 0), NULL}, EXIT_NETWORK,
                  addresses[i]);
        (void)close(fd);
    }
    cluster_free(c);
}

/* Files of a cluster are made once and never overwritten. */
TEST(commands, making_files)
{
    struct cluster *c = files();
    char path[PATH_LEN];

    check_run(c, (const char *[]){"--make-ca", cluster_dir(c), "--cluster", "test", NULL},
              EXIT_CONFIG, "exists");
    (void)snprintf(path, sizeof path, "%s/no/such/place", cluster_dir(c));
    check_run(c, (const char *[]){"--make-ca", path, "--cluster", "test", NULL}, EXIT_CONFIG,
              "place: No such file");
    (void)snprintf(path, sizeof path, "%s/authority", cluster_dir(c)); /* made on the way */
    CHECK_EQ(cluster_run_to(c, cluster_log(c, 0),
                            (const char *[]){"--make-ca", path, "--cluster", "test", NULL}, RUN_MS),
             0);
    check_run(c, (const char *[]){"--make-ca", path, "--cluster", "test", NULL}, EXIT_CONFIG,
              "authority/ca.crt: File exists");
    (void)snprintf(path, sizeof path, "%s/seal", cluster_dir(c));
    check_run(c, (const char *[]){"--make-seal", path, NULL}, EXIT_CONFIG, "exists");
    (void)snprintf(path, sizeof path, "%s/token", cluster_dir(c));
    check_run(c, (const char *[]){"--make-token", path, NULL}, EXIT_CONFIG, "exists");
    check_run(c,
              (const char *[]){"--issue", cluster_dir(c), "--name", "n2", "--cluster", "test",
                               "--node-id", "2", "--hosts", "not a host", NULL},
              EXIT_CONFIG, "not a host");
    check_run(c,
              (const char *[]){"--issue", "/nowhere", "--name", "n2", "--cluster", "test",
                               "--node-id", "2", "--hosts", "localhost", NULL},
              EXIT_CONFIG, "/nowhere");
    cluster_free(c);
}
