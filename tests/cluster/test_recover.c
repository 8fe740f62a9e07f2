/* A majority lost for good: kluisd recover makes one survivor go on, once it is the right one and the
 * operator has said what is lost. */
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    VAULT_GROUP = 1,
    EXIT_USAGE = 2,
    EXIT_DATA_DIR = 4,
    EXIT_DUPLICATE = 8,
    EXIT_REFUSED = 9,
    LEADER_MS = 20000,
    SETTLE_MS = 60000,
    CALL_MS = 30000,
    RUN_MS = 20000,
    SECRETS = 40,
    PATH_LEN = 512,
};

struct fixture {
    struct cluster *cluster;
    struct kluis_client *client;
    char out[PATH_LEN]; /* what the last kluisd recover said */
};

static void setup(struct fixture *f, unsigned nodes)
{
    f->cluster = cluster_new(&(struct cluster_options){.nodes = nodes});
    f->client = cluster_client(f->cluster);
    (void)snprintf(f->out, sizeof f->out, "%s/recover.out", cluster_dir(f->cluster));
    cluster_make_vault(f->client, "kept");
}

static void teardown(struct fixture *f)
{
    kluis_close(f->client);
    cluster_free(f->cluster);
}

static void write_secrets(struct fixture *f, const char *prefix)
{
    char name[32];

    for (int i = 0; i < SECRETS; i++) {
        (void)snprintf(name, sizeof name, "%s-%d", prefix, i);
        CHECK_EQ(kluis_secret_set(f->client, "kept", name, name, strlen(name), NULL, CALL_MS, NULL),
                 KLUIS_OK);
    }
}

static void check_secrets(struct fixture *f, const char *prefix)
{
    struct kluis_secret *s = NULL;
    char name[32];

    for (int i = 0; i < SECRETS; i++) {
        (void)snprintf(name, sizeof name, "%s-%d", prefix, i);
        CHECK_EQ(kluis_secret_get(f->client, "kept", name, NULL, CALL_MS, &s), KLUIS_OK);
        CHECK_EQ(s->value_len, strlen(name));
        CHECK_EQ(memcmp(s->value, name, s->value_len), 0);
        kluis_secret_free(s);
    }
}

static bool said(const struct fixture *f, const char *text)
{
    char line[4096];
    bool found = false;
    FILE *in = fopen(f->out, "r");

    while (in != NULL && !found && fgets(line, sizeof line, in) != NULL) {
        found = strstr(line, text) != NULL;
    }
    if (in != NULL) {
        (void)fclose(in);
    }
    return found;
}

/* Runs kluisd recover on a node with up to four more words; it must end so and say that. */
static void check_recover(struct fixture *f, unsigned node, const char *const more[4], int code,
                          const char *text)
{
    const char *words[] = {"recover", "--config", cluster_config(f->cluster, node),
                           more[0],   more[1],    more[0] == NULL ? NULL : more[2],
                           NULL,      NULL};
    int got;

    words[6] = words[5] == NULL ? NULL : more[3];
    (void)unlink(f->out);
    got = cluster_run_to(f->cluster, f->out, words, RUN_MS);
    if (got != code || !said(f, text)) {
        print_error("recover on node %u: exit code %d, wanted %d and '%s', see %s\n", node + 1, got,
                    code, text, f->out);
    }
    CHECK_EQ(got, code);
    CHECK(said(f, text));
}

/* The node's own report, as a file. */
static void take_report(struct fixture *f, unsigned node, char path[PATH_LEN])
{
    (void)snprintf(path, PATH_LEN, "%s/n%u.report", cluster_dir(f->cluster), node + 1);
    CHECK_EQ(cluster_run_to(f->cluster, path,
                            (const char *[]){"recover", "--config",
                                             cluster_config(f->cluster, node), "--report", NULL},
                            RUN_MS),
             0);
}

static bool audited(const struct cluster *c, unsigned node, const char *text)
{
    char path[PATH_LEN];
    char line[4096];
    bool found = false;
    FILE *in;

    (void)snprintf(path, sizeof path, "%s/audit.log", cluster_data_dir(c, node));
    in = fopen(path, "r");
    while (in != NULL && !found && fgets(line, sizeof line, in) != NULL) {
        found = strstr(line, text) != NULL;
    }
    if (in != NULL) {
        (void)fclose(in);
    }
    return found;
}

/* A node comes back with nothing and is taken in. */
static void rejoin(struct fixture *f, unsigned node)
{
    cluster_wipe(f->cluster, node);
    cluster_start(f->cluster, node);
    /* Its own knock, not one of a process with the old directory. */
    CHECK(cluster_log_wait(f->cluster, node, "waits to be accepted", SETTLE_MS));
    CHECK_EQ(cluster_replace(f->cluster, f->client, node, SETTLE_MS), KLUIS_OK);
}

/* Two of three are lost. The third, alone, serves everything that was acknowledged by it, and takes
 * writes; the old directory of a lost node is turned away; new ones fill the cluster up again. */
TEST(recover, two_of_three_lost)
{
    struct fixture f;

    setup(&f, 3);
    write_secrets(&f, "three");
    cluster_kill(f.cluster, 0);
    write_secrets(&f, "two"); /* acknowledged by both that are left */
    cluster_kill(f.cluster, 1);
    cluster_kill(f.cluster, 2);

    check_recover(&f, 2, (const char *[4]){NULL}, 0, "last entry");
    check_recover(&f, 2, (const char *[4]){"--lost", "1,2", NULL}, EXIT_REFUSED, "may be lost");
    CHECK(said(&f, "nothing has been changed"));
    CHECK(!audited(f.cluster, 2, "kluisd/Recover"));
    check_recover(&f, 2, (const char *[4]){"--lost", "1,2", "--accept-data-loss"}, 0, "done");
    CHECK(audited(f.cluster, 2, "kluisd/Recover"));
    check_recover(&f, 2, (const char *[4]){"--lost", "1,2", NULL}, EXIT_REFUSED, "only voter");

    cluster_start(f.cluster, 2);
    check_secrets(&f, "three");
    check_secrets(&f, "two");
    write_secrets(&f, "one");

    cluster_start(f.cluster, 1); /* with what it had */
    CHECK_EQ(cluster_wait(f.cluster, 1, SETTLE_MS), EXIT_DUPLICATE);
    rejoin(&f, 0);
    rejoin(&f, 1);
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK(cluster_all_voters(f.cluster, f.client, g, SETTLE_MS));
        CHECK(cluster_digests_agree(f.cluster, f.client, g, SETTLE_MS));
    }
    cluster_kill(f.cluster, 2); /* the others have everything now */
    check_secrets(&f, "two");
    check_secrets(&f, "one");
    write_secrets(&f, "after");
    teardown(&f);
}

/* Three of five are lost, and one of the two survivors was away for a while: only the other may go on;
 * the first then comes back with the data that it has. */
TEST(recover, the_most_advanced)
{
    char behind[PATH_LEN];
    char ahead[PATH_LEN];
    struct fixture f;

    setup(&f, 5);
    write_secrets(&f, "five");
    CHECK(cluster_digests_agree(f.cluster, f.client, VAULT_GROUP, SETTLE_MS));
    cluster_kill(f.cluster, 0);
    cluster_kill(f.cluster, 4);
    write_secrets(&f, "three"); /* acknowledged by all three that are left */
    check_recover(&f, 1, (const char *[4]){"--lost", "3,4,5", NULL}, EXIT_DATA_DIR,
                  "stop it first");
    for (unsigned i = 1; i < 4; i++) {
        cluster_kill(f.cluster, i);
    }

    take_report(&f, 0, behind);
    take_report(&f, 1, ahead);
    check_recover(&f, 0, (const char *[4]){"--lost", "3,4,5", "--reports", ahead}, EXIT_REFUSED,
                  "node 2 has more of group 1");
    check_recover(&f, 0, (const char *[4]){"--lost", "3,4,5", NULL}, EXIT_REFUSED,
                  "node 2 votes in group 1 and nothing is known of it");
    check_recover(&f, 1, (const char *[4]){"--lost", "2,3,4,5", NULL}, EXIT_REFUSED,
                  "names this node");
    check_recover(&f, 1, (const char *[4]){"--lost", "1,3,4,5", "--reports", behind}, EXIT_REFUSED,
                  "there is a report of it");
    check_recover(&f, 1,
                  (const char *[4]){"--lost", "3,4,5", "--reports", cluster_config(f.cluster, 0)},
                  EXIT_USAGE, "is not a report");
    check_recover(&f, 1, (const char *[4]){"--accept-data-loss", NULL}, EXIT_USAGE, "--lost");
    (void)unlink(f.out);
    CHECK_EQ(cluster_run_to(f.cluster, f.out,
                            (const char *[]){"recover", "--config", cluster_config(f.cluster, 1),
                                             "--lost", "3,4,5", "--reports", behind,
                                             "--accept-data-loss", NULL},
                            RUN_MS),
             0);

    cluster_start(f.cluster, 1);
    check_secrets(&f, "three");
    cluster_start(f.cluster, 0); /* as it is */
    for (unsigned i = 2; i < 5; i++) {
        rejoin(&f, i);
    }
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK(cluster_all_voters(f.cluster, f.client, g, SETTLE_MS));
        CHECK(cluster_digests_agree(f.cluster, f.client, g, SETTLE_MS));
    }
    check_secrets(&f, "five");
    write_secrets(&f, "after");
    teardown(&f);
}

/* What the state has, and the log lost, is kept: it takes the log's place, here and at those that join. */
TEST(recover, state_ahead_of_log)
{
    struct fixture f;
    char dir[PATH_LEN];
    struct dirent *e;
    unsigned gone = 0;
    DIR *d;

    setup(&f, 3);
    write_secrets(&f, "all");
    CHECK(cluster_digests_agree(f.cluster, f.client, VAULT_GROUP, SETTLE_MS));
    for (unsigned i = 0; i < 3; i++) {
        cluster_kill(f.cluster, i);
    }
    (void)snprintf(dir, sizeof dir, "%s/g1/log", cluster_data_dir(f.cluster, 2));
    d = opendir(dir);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        if (strncmp(e->d_name, "open-", 5) == 0) {
            CHECK_EQ(unlinkat(dirfd(d), e->d_name, 0), 0);
            gone++;
        }
    }
    (void)closedir(d);
    CHECK(gone != 0);
    check_recover(&f, 2, (const char *[4]){"--lost", "1,2", "--accept-data-loss"}, 0,
                  "the state is ahead of the log");
    cluster_start(f.cluster, 2);
    check_secrets(&f, "all");
    write_secrets(&f, "after");
    rejoin(&f, 0);
    rejoin(&f, 1);
    for (uint32_t g = 0; g <= VAULT_GROUP; g++) {
        CHECK(cluster_all_voters(f.cluster, f.client, g, SETTLE_MS));
        CHECK(cluster_digests_agree(f.cluster, f.client, g, SETTLE_MS));
    }
    cluster_kill(f.cluster, 2);
    check_secrets(&f, "all");
    check_secrets(&f, "after");
    teardown(&f);
}

/* A majority that is only stopped is not lost: nothing is forced, and it goes on by itself. */
TEST(recover, majority_survives)
{
    char report[PATH_LEN];
    struct fixture f;

    setup(&f, 3);
    write_secrets(&f, "all");
    for (unsigned i = 0; i < 3; i++) {
        cluster_kill(f.cluster, i);
    }
    take_report(&f, 1, report);
    (void)unlink(f.out);
    CHECK_EQ(cluster_run_to(f.cluster, f.out,
                            (const char *[]){"recover", "--config", cluster_config(f.cluster, 0),
                                             "--lost", "3", "--reports", report,
                                             "--accept-data-loss", NULL},
                            RUN_MS),
             EXIT_REFUSED);
    CHECK(said(&f, "2 of 3 voters survive") || said(&f, "node 2 has more"));
    cluster_start(f.cluster, 0);
    cluster_start(f.cluster, 1);
    check_secrets(&f, "all");
    teardown(&f);
}
