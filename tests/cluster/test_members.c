/* Nodes come, are drained, and go, by the command line, while the cluster serves a checked load. */
#include "tests/cluster/harness.h"
#include "tests/cluster/workload.h"
#include "tests/lib/test.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    VAULT_GROUP = 1,
    EXIT_CLI_CONFLICT = 4,
    EXIT_CLI_UNAVAILABLE = 6,
    EXIT_CLI_BAD_INPUT = 7,
    EXIT_DUPLICATE = 8,
    LEADER_MS = 20000,
    SETTLE_MS = 60000,
    CALL_MS = 30000,
    WORDS_MAX = 24,
    PATH_LEN = 512,
};

struct fixture {
    struct cluster *cluster;
    struct kluis_client *client;
    struct workload *load;
    char out[PATH_LEN];
};

static void setup(struct fixture *f, const struct cluster_options *options)
{
    f->cluster = cluster_new(options);
    f->client = cluster_client(f->cluster);
    (void)snprintf(f->out, sizeof f->out, "%s/kluis.out", cluster_dir(f->cluster));
    cluster_make_vault(f->client, "load");
    f->load = workload_start(&(struct workload_options){.client = f->client,
                                                        .vault = "load",
                                                        .threads = 4,
                                                        .names = 8,
                                                        .round_ms = 1000,
                                                        .timeout_ms = CALL_MS,
                                                        .seed = test_seed()});
}

/* No call failed, and what they saw was one history. */
static void teardown(struct fixture *f)
{
    struct workload_result r;

    workload_stop(f->load, NULL, &r);
    if (r.failed != 0 || !r.linearizable) {
        print_error("failed %llu (%s), %s\n", (unsigned long long)r.failed, r.first_failure,
                    r.violation);
    }
    CHECK_EQ(r.failed, 0);
    CHECK_EQ(r.unknown, 0);
    CHECK(r.linearizable);
    CHECK(r.writes_acknowledged != 0);
    kluis_close(f->client);
    cluster_free(f->cluster);
}

static void exec_kluis(struct fixture *f, const char *const *words)
{
    char token[PATH_LEN];
    char program[PATH_LEN];
    char self[PATH_LEN / 2];
    const char *argv[WORDS_MAX] = {program, "cluster"};
    char *out[WORDS_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    size_t n = 2;
    int fd = open(f->out, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    self[len < 0 ? 0 : len] = 0;
    *strrchr(self, '/') = 0;
    (void)snprintf(program, sizeof program, "%s/../../client/cli/kluis", self);
    (void)snprintf(token, sizeof token, "%s/token", cluster_dir(f->cluster));
    for (size_t i = 0; words[i] != NULL && n < WORDS_MAX - 7; i++) {
        argv[n++] = words[i];
    }
    argv[n++] = "--endpoint";
    argv[n++] = cluster_endpoint(f->cluster, 0);
    argv[n++] = "--ca-file";
    argv[n++] = cluster_ca(f->cluster);
    argv[n++] = "--token-file";
    argv[n++] = token;
    argv[n] = NULL;
    memcpy(out, argv, sizeof out);
    (void)dup2(fd, STDOUT_FILENO);
    (void)dup2(fd, STDERR_FILENO);
    (void)execv(program, out);
    _exit(127);
}

static bool said(const struct fixture *f, const char *text)
{
    char line[4096];
    bool found = text[0] == 0;
    FILE *in = fopen(f->out, "r");

    while (in != NULL && !found && fgets(line, sizeof line, in) != NULL) {
        found = strstr(line, text) != NULL;
    }
    if (in != NULL) {
        (void)fclose(in);
    }
    return found;
}

static bool says(const struct fixture *f, const char *text)
{
    uint64_t until = harness_now_us() + SETTLE_MS * 1000ULL;

    while (!said(f, text) && harness_now_us() < until) {
        harness_sleep_ms(20);
    }
    return said(f, text);
}

/* kluis cluster WORDS… */
static pid_t start_kluis(struct fixture *f, const char *const *words)
{
    pid_t pid = fork();

    if (pid == 0) {
        exec_kluis(f, words);
    }
    return pid;
}

/* It ends so, and has said that. */
static void end_kluis(struct fixture *f, pid_t pid, int code, const char *text)
{
    uint64_t until = harness_now_us() + SETTLE_MS * 1000ULL;
    int status = 0;
    pid_t done = 0;

    while ((done = waitpid(pid, &status, WNOHANG)) == 0 && harness_now_us() < until) {
        harness_sleep_ms(20);
    }
    if (done == 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, &status, 0);
        fail_msg("kluis does not end, see %s", f->out);
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code || !said(f, text)) {
        print_error("status %d, wanted %d and '%s', see %s\n", status, code, text, f->out);
    }
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), code);
    CHECK(said(f, text));
}

static void check_kluis(struct fixture *f, const char *const *words, int code, const char *text)
{
    end_kluis(f, start_kluis(f, words), code, text);
}

static pid_t start_add(struct fixture *f, unsigned node, const char *region, const char *more)
{
    char id[16];
    char name[16];

    (void)snprintf(id, sizeof id, "%u", node + 1);
    (void)snprintf(name, sizeof name, "n%u", node + 1);
    return start_kluis(f, (const char *[]){"add-node", "--node-id", id, "--name", name, "--region",
                                           region, "--client-address",
                                           cluster_endpoint(f->cluster, node), "--peer-address",
                                           cluster_peer_address(f->cluster, node), more, NULL});
}

static void check_add(struct fixture *f, unsigned node, const char *region, const char *more,
                      int code, const char *text)
{
    end_kluis(f, start_add(f, node, region, more), code, text);
}

/* What the leader of a group says of a member: both empty when it is none. */
struct member {
    char role[16];
    char address[48];
};

static struct member member_in(struct fixture *f, uint32_t group, uint64_t node_id)
{
    struct member m = {"", ""};
    int leader = cluster_leader(f->cluster, f->client, group, LEADER_MS);
    Kluis__V1__ClusterStatusResponse *s = NULL;

    CHECK(leader >= 0);
    s = cluster_status(f->cluster, f->client, (unsigned)leader);
    CHECK(s != NULL);
    for (size_t g = 0; s != NULL && g < s->n_groups; g++) {
        for (size_t i = 0; s->groups[g]->group == group && i < s->groups[g]->n_members; i++) {
            const Kluis__V1__GroupStatus__Member *listed = s->groups[g]->members[i];

            if (listed->node_id == node_id) {
                (void)snprintf(m.role, sizeof m.role, "%s", listed->role);
                (void)snprintf(m.address, sizeof m.address, "%s", listed->address);
            }
        }
    }
    kluis__v1__cluster_status_response__free_unpacked(s, NULL);
    return m;
}

/* Does the node see all of them connected? */
static bool sees(struct fixture *f, unsigned node, size_t n)
{
    uint64_t until = harness_now_us() + SETTLE_MS * 1000ULL;
    size_t connected = 0;

    while (connected < n && harness_now_us() < until) {
        Kluis__V1__ClusterStatusResponse *s = cluster_status(f->cluster, f->client, node);

        connected = 0;
        for (size_t i = 0; s != NULL && i < s->n_nodes; i++) {
            connected += s->nodes[i]->connected ? 1 : 0;
        }
        if (s != NULL) {
            kluis__v1__cluster_status_response__free_unpacked(s, NULL);
        }
        harness_sleep_ms(50);
    }
    return connected == n;
}

/* A fourth node comes as a standby, is promoted, leads; the others, restarted with configurations that
 * do not tell of it, know it still; then one of the first three goes for good, and the cluster goes on
 * with what is left. */
TEST(members, grow_and_shrink)
{
    const struct cluster_options options = {.nodes = 3};
    struct fixture f;
    unsigned fresh;
    pid_t adding;

    setup(&f, &options);
    CHECK(workload_progress(f.load, 50));
    fresh = cluster_grow(f.cluster, &options);
    check_add(&f, fresh, "nowhere", NULL, EXIT_CLI_BAD_INPUT, "region");
    check_add(&f, fresh, "west", "--witness", EXIT_CLI_BAD_INPUT, "home of vaults");
    check_add(&f, 1, "west", NULL, EXIT_CLI_CONFLICT, "node_id");
    adding = start_add(&f, fresh, "west", "--standby");
    CHECK(says(&f, "n4 is not connected: start kluisd there"));
    cluster_start(f.cluster, fresh);
    end_kluis(&f, adding, 0, "standby");
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_STR(member_in(&f, g, fresh + 1).role, "standby");
    }
    check_kluis(&f, (const char *[]){"promote", "--node-id", "4", NULL}, 0, "voter");
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_STR(member_in(&f, g, fresh + 1).role, "voter");
        CHECK_EQ(cluster_transfer(f.cluster, f.client, g, fresh, LEADER_MS), KLUIS_OK);
    }
    CHECK(workload_progress(f.load, 50));
    for (unsigned i = 0; i < fresh; i++) {
        cluster_signal(f.cluster, i, SIGTERM);
        CHECK_EQ(cluster_wait(f.cluster, i, SETTLE_MS), 0);
        cluster_start(f.cluster, i);
        CHECK(sees(&f, i, 4));
        CHECK(workload_progress(f.load, 50));
    }
    CHECK(cluster_running(f.cluster, fresh));
    check_kluis(&f, (const char *[]){"remove-node", "--node-id", "9", NULL}, 3, "node_id");
    check_kluis(&f, (const char *[]){"remove-node", "--node-id", "2", NULL}, 0, "GROUP");
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_STR(member_in(&f, g, 2).role, "");
    }
    check_kluis(&f, (const char *[]){"promote", "--node-id", "2", NULL}, 3,
                "a node of the cluster");
    CHECK_EQ(cluster_wait(f.cluster, 1, SETTLE_MS), EXIT_DUPLICATE); /* it is told so */
    cluster_start(f.cluster, 1);
    CHECK_EQ(cluster_wait(f.cluster, 1, SETTLE_MS), EXIT_DUPLICATE); /* and again */
    CHECK(workload_progress(f.load, 50));
    teardown(&f);
}

/* A node loses its disk: when replace-node says that it is done, every group has the new directory for a
 * voter, and none the former one. digest then speaks for all nodes, and of one that is down it says so. */
TEST(members, replace)
{
    const struct cluster_options options = {.nodes = 3};
    struct fixture f;
    pid_t replacing;

    setup(&f, &options);
    CHECK(workload_progress(f.load, 50));
    cluster_kill(f.cluster, 2);
    cluster_wipe(f.cluster, 2);
    check_kluis(&f, (const char *[]){"replace-node", "--node-id", "9", NULL}, 3, "configuration");
    check_kluis(&f, (const char *[]){"replace-node", "--node-id", "3", "--no-wait", NULL}, 3,
                "--join");
    replacing = start_kluis(&f, (const char *[]){"replace-node", "--node-id", "3", NULL});
    CHECK(says(&f, "n3 does not wait with a new data directory yet: start kluisd there"));
    cluster_start(f.cluster, 2);
    end_kluis(&f, replacing, 0, "voter");
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_STR(member_in(&f, g, 3).address, "3.1");
        CHECK_STR(member_in(&f, g, 3).role, "voter");
    }
    check_kluis(&f, (const char *[]){"digest", NULL}, 0, cluster_endpoint(f.cluster, 2));
    cluster_kill(f.cluster, 2);
    check_kluis(&f, (const char *[]){"digest", NULL}, EXIT_CLI_UNAVAILABLE, "UNAVAILABLE");
    cluster_start(f.cluster, 2);
    CHECK(workload_progress(f.load, 50));
    teardown(&f);
}

/* The node that leads everything is removed: leadership goes first, and no call fails. A removal that
 * would leave no majority is refused. */
TEST(members, remove_the_leader)
{
    const struct cluster_options options = {.nodes = 3};
    struct fixture f;

    setup(&f, &options);
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_EQ(cluster_transfer(f.cluster, f.client, g, 2, LEADER_MS), KLUIS_OK);
    }
    CHECK(workload_progress(f.load, 50));
    check_kluis(&f, (const char *[]){"remove-node", "--node-id", "3", NULL}, 0, "GROUP");
    CHECK_EQ(cluster_wait(f.cluster, 2, SETTLE_MS), EXIT_DUPLICATE);
    CHECK(workload_progress(f.load, 50));
    teardown(&f);
}

/* With one of three down, no other can be spared; nor is the last one that may lead. */
TEST(members, refusals)
{
    const struct cluster_options options = {.nodes = 3};
    struct fixture f;

    setup(&f, &options);
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_EQ(cluster_transfer(f.cluster, f.client, g, 0, LEADER_MS), KLUIS_OK);
    }
    cluster_kill(f.cluster, 2);
    CHECK(cluster_log_wait(f.cluster, 0, "peer lost node=3", SETTLE_MS));
    check_kluis(&f, (const char *[]){"remove-node", "--node-id", "2", NULL}, EXIT_CLI_CONFLICT,
                "group 0 would keep 2 voters, of which 1");
    check_kluis(&f, (const char *[]){"drain-node", "--node-id", "2", NULL}, 0, "GROUP");
    check_kluis(&f, (const char *[]){"drain-node", "--node-id", "1", NULL}, EXIT_CLI_CONFLICT,
                "nobody to lead");
    check_kluis(&f, (const char *[]){"drain-region", "--region", "west", NULL}, EXIT_CLI_CONFLICT,
                "nobody to lead");
    teardown(&f);
}

/* A node is drained while it leads everything: it leads nothing when the command ends, not a call has
 * failed, and it may lead again when that is taken back. */
TEST(members, drain_node)
{
    const struct cluster_options options = {.nodes = 3};
    struct fixture f;

    setup(&f, &options);
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_EQ(cluster_transfer(f.cluster, f.client, g, 1, LEADER_MS), KLUIS_OK);
    }
    CHECK(workload_progress(f.load, 100));
    check_kluis(&f, (const char *[]){"drain-node", "--node-id", "2", NULL}, 0, "GROUP");
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_NE(cluster_leader(f.cluster, f.client, g, LEADER_MS), 1);
    }
    CHECK(workload_progress(f.load, 100));
    check_kluis(&f, (const char *[]){"undrain-node", "--node-id", "2", NULL}, 0, "");
    CHECK(workload_progress(f.load, 100));
    teardown(&f);
}

/* A planned failover: a whole region gives its leadership to the pair. */
TEST(members, drain_region)
{
    const struct cluster_options options = cluster_paired();
    struct fixture f;
    int leader;

    setup(&f, &options);
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK_EQ(cluster_transfer(f.cluster, f.client, g, 0, LEADER_MS), KLUIS_OK);
    }
    CHECK(workload_progress(f.load, 100));
    check_kluis(&f, (const char *[]){"drain-region", "--region", "west", NULL}, 0, "GROUP");
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        leader = cluster_leader(f.cluster, f.client, g, LEADER_MS);
        CHECK(leader == 2 || leader == 3);
    }
    CHECK(workload_progress(f.load, 100));
    check_kluis(&f, (const char *[]){"undrain-region", "--region", "west", NULL}, 0, "");
    teardown(&f);
}
