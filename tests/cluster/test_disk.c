/* A disk that fills up: on a node that is alone, and on the leader of three. */
#include "tests/cluster/harness.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

enum { CALL_MS = 20000, WAIT_MS = 30000 };

static enum kluis_status set(struct kluis_client *client, const char *name, const void *value,
                             size_t len, unsigned timeout_ms)
{
    return kluis_secret_set(client, "disk", name, value, len, NULL, timeout_ms, NULL);
}

static char mounted[64]; /* what a test that failed has left behind; "" = nothing */

static void unmount_left(void)
{
    if (mounted[0] != 0 && umount2(mounted, MNT_DETACH) == 0) {
        (void)rmdir(mounted);
    }
    mounted[0] = 0;
}

/* A file system of 128 MiB on a new directory. */
static bool small_disk(char *mount_point)
{
    static bool registered;

    unmount_left();
    assert_non_null(mkdtemp(mount_point));
    if (mount("tmpfs", mount_point, "tmpfs", 0, "size=128m") != 0) {
        print_message("SKIPPED LOUDLY: no right to mount a small file system (%s)\n",
                      strerror(errno));
        (void)rmdir(mount_point);
        return false;
    }
    if (!registered) {
        registered = true;
        (void)atexit(unmount_left);
    }
    (void)snprintf(mounted, sizeof mounted, "%s", mount_point);
    return true;
}

static void small_disk_gone(const char *mount_point)
{
    CHECK_EQ(umount(mount_point), 0);
    (void)rmdir(mount_point);
    mounted[0] = 0;
}

/* Takes all the space that is left. */
static void fill_up(const char *ballast)
{
    char block[4096];
    int fd = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    CHECK(fd >= 0);
    memset(block, 'b', sizeof block);
    while (write(fd, block, sizeof block) > 0) {
    }
    (void)close(fd);
}

/* How many versions a secret has. */
static unsigned versions(struct kluis_client *client, const char *name)
{
    struct kluis_secret_list *list = NULL;
    char *token = NULL;
    unsigned n = 0;

    do {
        CHECK_EQ(kluis_secret_list_versions(client, "disk", name, 25, token, CALL_MS, &list),
                 KLUIS_OK);
        n += (unsigned)list->n;
        free(token);
        token = list->next == NULL || list->next[0] == 0 ? NULL : strdup(list->next);
        kluis_secret_list_free(list);
    } while (token != NULL);
    return n;
}

/* The disk of the only node fills up: writes are refused with a clear status, reads go on, and when
 * space returns writes do too, without a restart. */
TEST(disk, full)
{
    char mount_point[] = "/tmp/kluis-full-XXXXXX";
    char ballast[64];
    char value[20000];
    const char *dirs[1];
    char data[64];
    struct kluis_client *client;
    enum kluis_status st = KLUIS_OK;
    struct cluster *c;
    uint64_t until;

    if (!small_disk(mount_point)) {
        skip();
    }
    memset(value, 'x', sizeof value);
    (void)snprintf(data, sizeof data, "%s/data", mount_point);
    (void)snprintf(ballast, sizeof ballast, "%s/ballast", mount_point);
    dirs[0] = data;
    c = cluster_new(&(struct cluster_options){.nodes = 1, .data_dirs = dirs});
    client = cluster_client(c);
    cluster_make_vault(client, "disk");
    CHECK_EQ(set(client, "before", "x", 1, CALL_MS), KLUIS_OK);

    fill_up(ballast);
    until = harness_now_us() + 60000000u;
    while (st != KLUIS_NO_SPACE && harness_now_us() < until) {
        st = set(client, "filler", value, sizeof value, 2000);
    }
    CHECK_EQ(st, KLUIS_NO_SPACE);
    CHECK_EQ(cluster_read(client, "disk", "before"), KLUIS_OK);

    (void)unlink(ballast);
    until = harness_now_us() + 60000000u;
    while (st != KLUIS_OK && harness_now_us() < until) {
        st = set(client, "after", "y", 1, 2000);
    }
    CHECK_EQ(st, KLUIS_OK);
    CHECK_EQ(cluster_read(client, "disk", "after"), KLUIS_OK);
    CHECK(cluster_running(c, 0));
    kluis_close(client);
    cluster_free(c);
    small_disk_gone(mount_point);
}

/* The disk of the leader of three fills up: it hands over, not one write fails or happens twice, and
 * when space returns the node has what the others have, without a restart. */
TEST(disk, full_on_the_leader)
{
    enum { WRITES = 300 };
    char mount_point[] = "/tmp/kluis-full-XXXXXX";
    char value[20000];
    char ballast[64];
    char data[64];
    const char *dirs[3] = {data};
    struct kluis_client *client;
    struct cluster *c;

    if (!small_disk(mount_point)) {
        skip();
    }
    (void)snprintf(data, sizeof data, "%s/data", mount_point);
    (void)snprintf(ballast, sizeof ballast, "%s/ballast", mount_point);
    c = cluster_new(&(struct cluster_options){.nodes = 3, .data_dirs = dirs});
    client = cluster_client(c);
    cluster_make_vault(client, "disk");
    for (uint32_t g = 0; g < 2; g++) {
        CHECK_EQ(cluster_transfer(c, client, g, 0, WAIT_MS), KLUIS_OK);
    }
    memset(value, 'x', sizeof value);
    fill_up(ballast);
    for (unsigned i = 0; i < WRITES; i++) {
        CHECK_EQ(set(client, "filler", value, sizeof value, WAIT_MS), KLUIS_OK);
    }
    CHECK(cluster_log_has(c, 0, "the store's disk is full"));
    CHECK(cluster_leader(c, client, 1, WAIT_MS) > 0);
    CHECK(cluster_running(c, 0));

    (void)unlink(ballast);
    for (uint32_t g = 0; g < 2; g++) {
        CHECK(cluster_digests_agree(c, client, g, 2 * WAIT_MS));
    }
    CHECK_EQ(versions(client, "filler"), WRITES);
    kluis_close(client);
    cluster_free(c);
    small_disk_gone(mount_point);
}
