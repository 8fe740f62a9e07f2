/* What an operator may meet at night: damaged files, wrong identities, hostile clients. */
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    EXIT_DATA_DIR = 4,
    EXIT_CORRUPT = 5,
    EXIT_DUPLICATE = 8,
    CALL_MS = 20000,
    WAIT_MS = 30000,
    PATH_LEN = 1024,
    IDLE_CONNECTIONS = 1000,
};

static enum kluis_status set(struct kluis_client *client, const char *name, const void *value,
                             size_t len, unsigned timeout_ms)
{
    return kluis_secret_set(client, "faults", name, value, len, NULL, timeout_ms, NULL);
}

/* Overwrites bytes in the middle of every file of a directory whose name has the given part. */
static unsigned damage(const char *dir, const char *part)
{
    unsigned n = 0;
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        char path[PATH_LEN];
        struct stat s;
        int fd;

        if (strstr(e->d_name, part) == NULL) {
            continue;
        }
        (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd >= 0 && fstat(fd, &s) == 0 && s.st_size > 0) {
            char junk[4096];
            size_t len = (size_t)s.st_size > sizeof junk ? sizeof junk : (size_t)s.st_size;

            memset(junk, 0xa5, sizeof junk);
            CHECK_EQ(pwrite(fd, junk, len, (s.st_size - (off_t)len) / 2), (ssize_t)len);
            n++;
        }
        if (fd >= 0) {
            (void)close(fd);
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    return n;
}

/* Makes `to` a copy of a directory of plain files. */
static void copy_dir(const char *from, const char *to)
{
    char command[4 * PATH_LEN];

    (void)snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s' '%s'", to, from, to);
    CHECK_EQ(system(command), 0);
}

static struct cluster *filled(unsigned nodes)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = nodes});
    struct kluis_client *client = cluster_client(c);
    char value[20000];
    char name[32];

    memset(value, 'v', sizeof value);
    cluster_make_vault(client, "faults");
    for (int i = 0; i < 500; i++) {
        (void)snprintf(name, sizeof name, "filler-%d", i);
        CHECK_EQ(set(client, name, value, sizeof value, CALL_MS), KLUIS_OK);
    }
    kluis_close(client);
    return c;
}

/* A node whose log is damaged does not start, and says what to do. */
TEST(faults, corrupt_log)
{
    struct cluster *c = filled(1);
    char dir[PATH_LEN];

    cluster_kill(c, 0);
    (void)snprintf(dir, sizeof dir, "%s/g1/log", cluster_data_dir(c, 0));
    CHECK(damage(dir, "open-") + damage(dir, "0000") != 0);
    cluster_start(c, 0);
    CHECK_EQ(cluster_wait(c, 0, WAIT_MS), EXIT_CORRUPT);
    CHECK(cluster_log_has(c, 0, "this is the only node: put back a copy of"));
    cluster_free(c);
}

/* Removes the newest closed segment; 0: there is none. */
static unsigned remove_newest(const char *dir)
{
    char newest[PATH_LEN] = "";
    char path[2 * PATH_LEN];
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        if (strncmp(e->d_name, "0000", 4) == 0 && strcmp(e->d_name, newest) > 0) {
            (void)snprintf(newest, sizeof newest, "%s", e->d_name);
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    (void)snprintf(path, sizeof path, "%s/%s", dir, newest);
    return newest[0] != 0 && unlink(path) == 0;
}

/* Nor does one whose log has lost its end, or all of it: new entries would take the place of what was
 * acknowledged. */
TEST(faults, log_cut_off)
{
    struct cluster *c = filled(1);
    char dir[PATH_LEN];

    cluster_signal(c, 0, SIGTERM);
    CHECK_EQ(cluster_wait(c, 0, WAIT_MS), 0);
    (void)snprintf(dir, sizeof dir, "%s/g1/log", cluster_data_dir(c, 0));
    for (int i = 0; i < 2; i++) {
        CHECK(i == 1 || remove_newest(dir) == 1);
        cluster_start(c, 0);
        CHECK_EQ(cluster_wait(c, 0, WAIT_MS), EXIT_CORRUPT);
        CHECK(cluster_log_has(c, 0, "files are missing; this is the only node"));
        CHECK_EQ(truncate(cluster_log(c, 0), 0), 0);
        while (i == 0 && remove_newest(dir) != 0) {
        }
    }
    cluster_free(c);
}

/* So does a node whose store is damaged, whichever file of it is. */
TEST(faults, corrupt_store)
{
    static const char *const parts[] = {"CURRENT", "MANIFEST"};
    struct cluster *c = filled(1);
    char dir[PATH_LEN];
    char keep[PATH_LEN];

    cluster_signal(c, 0, SIGTERM);
    CHECK_EQ(cluster_wait(c, 0, WAIT_MS), 0);
    (void)snprintf(dir, sizeof dir, "%s/g1/state", cluster_data_dir(c, 0));
    (void)snprintf(keep, sizeof keep, "%s/keep", cluster_dir(c));
    copy_dir(dir, keep);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        copy_dir(keep, dir);
        CHECK(damage(dir, parts[i]) != 0);
        cluster_start(c, 0);
        CHECK_EQ(cluster_wait(c, 0, WAIT_MS), EXIT_CORRUPT);
        CHECK(cluster_log_has(c, 0, "is corrupt"));
        CHECK(cluster_log_has(c, 0, "this is the only node: put back a copy of"));
        CHECK_EQ(truncate(cluster_log(c, 0), 0), 0);
    }
    copy_dir(keep, dir); /* and it was nothing else that kept it from starting */
    cluster_start(c, 0);
    CHECK(cluster_log_wait(c, 0, "unsealed", WAIT_MS));
    cluster_free(c);
}

/* Waits until a node says how it is. */
static void wait_answers(struct cluster *c, struct kluis_client *client, unsigned node)
{
    uint64_t until = harness_now_us() + WAIT_MS * 1000u;
    Kluis__V1__ClusterStatusResponse *s = NULL;

    while (s == NULL && harness_now_us() < until) {
        s = cluster_status(c, client, node);
    }
    CHECK(s != NULL);
    kluis__v1__cluster_status_response__free_unpacked(s, NULL);
}

/* A damaged table shows only when it is read. Then the leader that meets it stops, another takes over
 * and answers the same read, and nobody is ever told of a secret that cannot be read. */
TEST(faults, corrupt_table)
{
    struct cluster *c = filled(3);
    struct kluis_client *client = cluster_client(c);
    int leader = cluster_leader(c, client, 1, WAIT_MS);
    char name[32];
    char dir[PATH_LEN];

    CHECK(leader >= 0);
    /* What LevelDB finds in its log at a start goes into tables. */
    cluster_kill(c, (unsigned)leader);
    cluster_start(c, (unsigned)leader);
    wait_answers(c, client, (unsigned)leader);
    cluster_signal(c, (unsigned)leader, SIGSTOP);
    (void)snprintf(dir, sizeof dir, "%s/g1/state", cluster_data_dir(c, (unsigned)leader));
    CHECK(damage(dir, ".ldb") != 0);
    cluster_signal(c, (unsigned)leader, SIGCONT);
    CHECK_EQ(cluster_transfer(c, client, 1, (unsigned)leader, WAIT_MS), KLUIS_OK);
    for (int i = 0; i < 500; i++) {
        (void)snprintf(name, sizeof name, "filler-%d", i);
        CHECK_EQ(cluster_read(client, "faults", name), KLUIS_OK);
    }
    CHECK_EQ(cluster_wait(c, (unsigned)leader, WAIT_MS), EXIT_CORRUPT);
    CHECK(cluster_log_has(c, (unsigned)leader, "this replica is damaged"));
    CHECK(cluster_log_has(c, (unsigned)leader, "kluis cluster replace-node"));
    kluis_close(client);
    cluster_free(c);
}

/* A group whose directory has gone is not begun anew: the node would forget its votes. */
TEST(faults, group_directory_lost)
{
    static const char *const parts[] = {"g1", "g1/log", "g1/state"};
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 3});
    char away[PATH_LEN];
    char path[PATH_LEN];

    cluster_kill(c, 1);
    (void)snprintf(away, sizeof away, "%s/away", cluster_dir(c));
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", cluster_data_dir(c, 1), parts[i]);
        CHECK_EQ(rename(path, away), 0);
        cluster_start(c, 1);
        CHECK_EQ(cluster_wait(c, 1, WAIT_MS), EXIT_CORRUPT);
        CHECK(cluster_log_has(c, 1, "is missing; to get the data back from the other nodes"));
        CHECK(cluster_log_has(c, 1, "kluis cluster replace-node --node-id 2"));
        CHECK_EQ(rename(away, path), 0);
        CHECK_EQ(truncate(cluster_log(c, 1), 0), 0);
    }
    cluster_start(c, 1);
    CHECK(cluster_log_wait(c, 1, "unsealed", WAIT_MS));
    cluster_free(c);
}

/* Copies a configuration with one word replaced by another in every line. */
static void rewrite(const char *from, const char *to, const char *old, const char *new)
{
    char line[PATH_LEN];
    FILE *in = fopen(from, "r");
    FILE *out = fopen(to, "w");

    assert_non_null(in);
    assert_non_null(out);
    while (fgets(line, sizeof line, in) != NULL) {
        char *at = strstr(line, old);

        if (at == NULL) {
            (void)fputs(line, out);
        } else {
            (void)fprintf(out, "%.*s%s%s", (int)(at - line), line, new, at + strlen(old));
        }
    }
    (void)fclose(in);
    (void)fclose(out);
}

/* A data directory is one process's, one node's and one cluster's. */
TEST(faults, data_directory_of_another)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 1});
    char config[PATH_LEN];

    CHECK_EQ(cluster_run(c, 0, (const char *[]){"--config", cluster_config(c, 0), NULL}),
             EXIT_DATA_DIR);
    CHECK(cluster_log_has(c, 0, "another kluisd uses this data directory"));
    cluster_kill(c, 0);
    (void)snprintf(config, sizeof config, "%s/other.conf", cluster_dir(c));
    rewrite(cluster_config(c, 0), config, "/data1", "/data-none");
    CHECK_EQ(cluster_run(c, 0, (const char *[]){"--config", config, NULL}), EXIT_DATA_DIR);
    CHECK(cluster_log_has(c, 0, "not initialised"));
    /* A certificate of the other cluster, or kluisd would not come as far as the directory. */
    CHECK_EQ(
        cluster_run(c, 0,
                    (const char *[]){"--issue", cluster_dir(c), "--name", "n1", "--cluster",
                                     "elsewhere", "--node-id", "1", "--hosts", "127.0.0.1", NULL}),
        0);
    rewrite(cluster_config(c, 0), config, "name = test", "name = elsewhere");
    CHECK_EQ(cluster_run(c, 0, (const char *[]){"--config", config, NULL}), EXIT_DATA_DIR);
    CHECK(cluster_log_has(c, 0, "belongs to cluster 'test', not 'elsewhere'"));
    cluster_free(c);
}

/* The configuration of node `id` with addresses of its own and the data directory DIR/twin. */
static void twin_config(struct cluster *c, unsigned id, char config[PATH_LEN], char data[PATH_LEN])
{
    char middle[PATH_LEN];
    char old[64];
    char new[128];

    (void)snprintf(data, PATH_LEN, "%s/twin", cluster_dir(c));
    (void)snprintf(config, PATH_LEN, "%s/twin.conf", cluster_dir(c));
    (void)snprintf(middle, sizeof middle, "%s/middle.conf", cluster_dir(c));
    (void)snprintf(old, sizeof old, "/data%u", id);
    rewrite(cluster_config(c, id - 1), middle, old, "/twin");
    (void)snprintf(old, sizeof old, "node = n%u", id);
    (void)snprintf(new, sizeof new, "%s\nlisten_client = 127.0.0.1:0\nlisten_peer = 127.0.0.1:0",
                   old);
    rewrite(middle, config, old, new);
}

/* A second process with the id of a node that is alive, be its directory a new one or a copy, is
 * turned away and ends; the node itself goes on and is heard as before. */
TEST(faults, two_nodes_with_one_id)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 3});
    struct kluis_client *client = cluster_client(c);
    char config[PATH_LEN];
    char data[PATH_LEN];

    cluster_make_vault(client, "faults");
    CHECK(cluster_digests_agree(c, client, 0, WAIT_MS)); /* all are registered, and know it */
    twin_config(c, 1, config, data);
    CHECK_EQ(cluster_run(c, 0, (const char *[]){"--init", "--config", config, NULL}), 0);
    CHECK_EQ(cluster_run(c, 0, (const char *[]){"--config", config, NULL}), EXIT_DUPLICATE);
    CHECK(cluster_log_has(c, 0, "is registered with another data directory"));

    cluster_signal(c, 0, SIGSTOP); /* files at rest; the twin would see a torn copy otherwise */
    copy_dir(cluster_data_dir(c, 0), data);
    cluster_signal(c, 0, SIGCONT);
    CHECK_EQ(cluster_run(c, 0, (const char *[]){"--config", config, NULL}), EXIT_DUPLICATE);
    CHECK(cluster_log_has(c, 0, "another process holds this node id"));

    CHECK(cluster_running(c, 0));
    cluster_kill(c, 1); /* the one with the twin and the last one are a majority */
    CHECK_EQ(set(client, "still", "x", 1, CALL_MS), KLUIS_OK);
    kluis_close(client);
    cluster_free(c);
}

/* The highest id dials nobody, so nobody hears of its twin: it never serves, and says what may be
 * wrong. */
TEST(faults, twin_that_nobody_dials)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 3});
    struct kluis_client *client = cluster_client(c);
    char config[PATH_LEN];
    char data[PATH_LEN];

    cluster_make_vault(client, "faults");
    twin_config(c, 3, config, data);
    CHECK_EQ(cluster_run(c, 2, (const char *[]){"--init", "--config", config, NULL}), 0);
    CHECK_EQ(truncate(cluster_log(c, 2), 0), 0);
    CHECK(cluster_run_until(c, 2, (const char *[]){"--config", config, NULL},
                            "is no other process running as n3?", WAIT_MS));
    CHECK(!cluster_log_has(c, 2, "unsealed"));
    CHECK_EQ(set(client, "still", "x", 1, CALL_MS), KLUIS_OK);
    kluis_close(client);
    cluster_free(c);
}

/* ---- strangers ---- */

static int dial(const char *address)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    const char *colon = strrchr(address, ':');
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

/* Garbage instead of TLS on both ports, and a thousand silent connections: everybody else is served
 * as before. */
TEST(faults, strangers)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 1});
    struct kluis_client *client = cluster_client(c);
    struct rlimit files = {8192, 8192};
    int fds[IDLE_CONNECTIONS];
    char junk[4096];

    (void)setrlimit(RLIMIT_NOFILE, &files);
    cluster_make_vault(client, "faults");
    memset(junk, 0x5a, sizeof junk);
    for (int i = 0; i < 200; i++) {
        int fd = dial(i % 2 == 0 ? cluster_endpoint(c, 0) : cluster_peer_address(c, 0));

        CHECK(fd >= 0);
        CHECK(send(fd, junk, sizeof junk, MSG_NOSIGNAL) > 0);
        (void)close(fd);
    }
    for (int i = 0; i < IDLE_CONNECTIONS; i++) {
        fds[i] = dial(cluster_endpoint(c, 0));
        CHECK(fds[i] >= 0);
    }
    CHECK_EQ(set(client, "served", "x", 1, CALL_MS), KLUIS_OK);
    CHECK_EQ(cluster_read(client, "faults", "served"), KLUIS_OK);
    for (int i = 0; i < IDLE_CONNECTIONS; i++) {
        (void)close(fds[i]);
    }
    CHECK(cluster_running(c, 0));
    kluis_close(client);
    cluster_free(c);
}

/* A client that trusts another CA gets nothing out of this cluster, nor does a wrong token. */
TEST(faults, wrong_credentials)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 1});
    struct cluster *other = cluster_new(&(struct cluster_options){.nodes = 1});
    const char *endpoint = cluster_endpoint(c, 0);
    struct kluis_options o = {.endpoints = &endpoint,
                              .endpoints_n = 1,
                              .ca_file = cluster_ca(other),
                              .token = cluster_token(c)};
    struct kluis_client *client = NULL;

    CHECK_EQ(kluis_open(&o, &client, NULL, 0), KLUIS_OK);
    CHECK_NE(set(client, "x", "x", 1, 1500), KLUIS_OK);
    kluis_close(client);
    o.ca_file = cluster_ca(c);
    o.token = cluster_token(other);
    CHECK_EQ(kluis_open(&o, &client, NULL, 0), KLUIS_OK);
    CHECK_EQ(set(client, "x", "x", 1, CALL_MS), KLUIS_UNAUTHENTICATED);
    kluis_close(client);
    cluster_free(other);
    cluster_free(c);
}

/* ---- secrecy ---- */

static bool file_has(const char *path, const char *needle, size_t len)
{
    static char buf[1 << 20];
    FILE *f = fopen(path, "r");
    bool found = false;
    size_t n;

    while (f != NULL && !found && (n = fread(buf, 1, sizeof buf, f)) >= len) {
        found = memmem(buf, n, needle, len) != NULL;
        if (n == sizeof buf) {
            (void)fseek(f, -(long)len, SEEK_CUR);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return found;
}

static bool tree_has(const char *dir, const char *needle, size_t len)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    bool found = false;

    while (d != NULL && !found && (e = readdir(d)) != NULL) {
        char path[PATH_LEN];
        struct stat s;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) {
            continue;
        }
        (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (lstat(path, &s) != 0) {
            continue;
        }
        found = S_ISDIR(s.st_mode) ? tree_has(path, needle, len) : file_has(path, needle, len);
        if (found && !S_ISDIR(s.st_mode)) {
            print_error("found in %s\n", path);
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    return found;
}

/* No value of a secret is anywhere on a disk: not in logs, stores, audit trails, nor after restarts;
 * and no node would write a core dump. The name is, so the search itself works. */
TEST(faults, no_plaintext_on_disk)
{
    static const char marker[] = "PLAINTEXT-MARKER-7c1f0a";
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 3});
    struct kluis_client *client = cluster_client(c);
    struct kluis_blob *blob = NULL;
    struct rlimit core;

    cluster_make_vault(client, "faults");
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(set(client, "needle-name", marker, sizeof marker - 1, CALL_MS), KLUIS_OK);
        CHECK_EQ(cluster_read(client, "faults", "needle-name"), KLUIS_OK);
    }
    CHECK_EQ(kluis_secret_backup(client, "faults", "needle-name", CALL_MS, &blob), KLUIS_OK);
    CHECK(memmem(blob->data, blob->len, marker, sizeof marker - 1) == NULL);
    kluis_blob_free(blob);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(prlimit(cluster_pid(c, i), RLIMIT_CORE, NULL, &core), 0);
        CHECK_EQ(core.rlim_cur, 0);
    }
    kluis_close(client);
    for (unsigned i = 0; i < 3; i++) {
        cluster_signal(c, i, SIGTERM);
        CHECK_EQ(cluster_wait(c, i, WAIT_MS), 0);
    }
    CHECK(tree_has(cluster_dir(c), "needle-name", 11));
    CHECK(!tree_has(cluster_dir(c), marker, sizeof marker - 1));
    cluster_free(c);
}

/* ---- retention ---- */

/* With a day of one second a deleted secret is purged after its seven days and not before, also when the
 * leader is killed meanwhile; its name is free again then. */
TEST(faults, retention_purges_on_time)
{
    struct cluster *c = cluster_new(&(struct cluster_options){.nodes = 3, .day_ms = 1000});
    struct kluis_client *client = cluster_client(c);
    struct kluis_vault_options vo = {.retention_days = 7};
    struct kluis_vault *v = NULL;
    struct kluis_secret *s = NULL;
    enum kluis_status st = KLUIS_OK;
    uint64_t deleted;
    int leader;

    CHECK_EQ(kluis_vault_create(client, "faults", &vo, CALL_MS, &v), KLUIS_OK);
    kluis_vault_free(v);
    CHECK_EQ(set(client, "mortal", "x", 1, CALL_MS), KLUIS_OK);
    deleted = harness_now_us();
    CHECK_EQ(kluis_secret_delete(client, "faults", "mortal", CALL_MS, &s), KLUIS_OK);
    CHECK_EQ(s->scheduled_purge_ms - s->deleted_ms, 7000);
    kluis_secret_free(s);
    leader = cluster_leader(c, client, 1, WAIT_MS);
    CHECK(leader >= 0);
    cluster_kill(c, (unsigned)leader);
    CHECK_EQ(set(client, "mortal", "y", 1, CALL_MS), KLUIS_DELETED);
    while (st == KLUIS_OK && harness_now_us() - deleted < 60000000u) {
        s = NULL;
        st = kluis_secret_get_deleted(client, "faults", "mortal", CALL_MS, &s);
        kluis_secret_free(s);
        harness_sleep_ms(50);
    }
    CHECK_EQ(st, KLUIS_NOT_FOUND);
    CHECK(harness_now_us() - deleted >= 7000000u);
    CHECK_EQ(set(client, "mortal", "z", 1, CALL_MS), KLUIS_OK);
    kluis_close(client);
    cluster_free(c);
}
