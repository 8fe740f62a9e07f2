#include "server/datadir.h"

#include "common/bytes.h"
#include "common/names.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert(KL_GROUPS_MAX * sizeof "group 255" + 512 < 4096, "the identity has room for all");

enum { PATH_LEN = 1200, IDENTITY_MAX = 4096, LINE_MAX_LEN = 128 };

static const char first_line[] = "kluis data directory 1";

static void say(char *err, size_t err_len, const char *path, const char *what)
{
    (void)snprintf(err, err_len, "%s: %s", path, what);
}

static bool join_path(char out[PATH_LEN], const char *dir, const char *name)
{
    int n = snprintf(out, PATH_LEN, "%s/%s", dir, name);

    return n > 0 && n < PATH_LEN;
}

/* Writes a whole file so that a crash leaves the old or the new one: temporary, fsync, rename, fsync. */
static enum kl_status write_file(const char *dir, const char *path, const char *text)
{
    char temp[PATH_LEN];
    enum kl_status st = KL_IO;
    size_t len = strlen(text);
    int dir_fd = -1;
    int fd = -1;

    if (!join_path(temp, dir, "identity.new")) {
        return KL_IO;
    }
    fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, len) != (ssize_t)len || fsync(fd) != 0) {
        goto out;
    }
    if (rename(temp, path) != 0) {
        goto out;
    }
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd >= 0 && fsync(dir_fd) == 0) {
        st = KL_OK;
    }
out:
    if (fd >= 0) {
        (void)close(fd);
    }
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    return st;
}

enum kl_status kl_datadir_create(const char *dir, const char *cluster, uint64_t node_id,
                                 bool initial, const struct kl_entropy *entropy, char *err,
                                 size_t err_len)
{
    char path[PATH_LEN];
    char text[IDENTITY_MAX];
    char hex[KL_ID_HEX_LEN + 1];
    uint8_t uuid[KL_ID_LEN];
    enum kl_status st;

    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        say(err, err_len, dir, strerror(errno));
        return KL_IO;
    }
    if (!join_path(path, dir, "identity")) {
        say(err, err_len, dir, "path too long");
        return KL_IO;
    }
    if (access(path, F_OK) == 0) {
        say(err, err_len, dir, "is initialised already; remove it first if it is to be lost");
        return KL_ALREADY_EXISTS;
    }
    st = entropy->fill(entropy->ctx, uuid, sizeof uuid);
    if (st != KL_OK) {
        say(err, err_len, dir, "no random numbers");
        return st;
    }
    kl_hex_encode(uuid, sizeof uuid, hex);
    (void)snprintf(text, sizeof text, "%s\ncluster %s\nnode %llu\nuuid %s\ninitial %s\n",
                   first_line, cluster, (unsigned long long)node_id, hex, initial ? "yes" : "no");
    st = write_file(dir, path, text);
    if (st != KL_OK) {
        say(err, err_len, path, strerror(errno));
    }
    return st;
}

/* "KEY VALUE\n" at *text: the value into out, *text behind the line. */
static bool take_line(const char **text, const char *key, char out[LINE_MAX_LEN])
{
    size_t key_len = strlen(key);
    const char *end = strchr(*text, '\n');
    size_t n;

    if (end == NULL || strncmp(*text, key, key_len) != 0 || (*text)[key_len] != ' ') {
        return false;
    }
    n = (size_t)(end - *text) - key_len - 1;
    if (n >= LINE_MAX_LEN) {
        return false;
    }
    memcpy(out, *text + key_len + 1, n);
    out[n] = 0;
    *text = end + 1;
    return true;
}

static enum kl_status check_identity(const char *path, const char *text, const char *cluster,
                                     uint64_t node_id, struct kl_datadir *d, char *err,
                                     size_t err_len)
{
    char value[LINE_MAX_LEN];
    uint64_t group = 0;
    uint64_t id = 0;

    if (strncmp(text, first_line, strlen(first_line)) != 0 || text[strlen(first_line)] != '\n') {
        say(err, err_len, path, "is not the identity of a kluis data directory of format 1");
        return KL_CORRUPT;
    }
    text += strlen(first_line) + 1;
    if (!take_line(&text, "cluster", value)) {
        goto corrupt;
    }
    if (strcmp(value, cluster) != 0) {
        (void)snprintf(err, err_len, "%s: the data directory belongs to cluster '%s', not '%s'",
                       path, value, cluster);
        return KL_FORBIDDEN;
    }
    if (!take_line(&text, "node", value) ||
        kl_number_parse(value, 1, KL_NODE_ID_MAX, &id) != KL_OK) {
        goto corrupt;
    }
    if (id != node_id) {
        (void)snprintf(err, err_len, "%s: the data directory belongs to node %llu, not %llu", path,
                       (unsigned long long)id, (unsigned long long)node_id);
        return KL_FORBIDDEN;
    }
    if (!take_line(&text, "uuid", value) || kl_hex_decode(value, d->uuid, KL_ID_LEN) != KL_OK ||
        !take_line(&text, "initial", value)) {
        goto corrupt;
    }
    d->initial = strcmp(value, "yes") == 0;
    while (*text != 0) {
        if (!take_line(&text, "group", value) ||
            kl_number_parse(value, 0, KL_GROUPS_MAX - 1, &group) != KL_OK) {
            goto corrupt;
        }
        d->opened[group] = true;
    }
    return KL_OK;
corrupt:
    say(err, err_len, path, "is damaged");
    return KL_CORRUPT;
}

/* The text of DIR/identity, whose path goes to `path` also when there is none. */
static enum kl_status load_identity(const char *dir, char path[PATH_LEN], char text[IDENTITY_MAX],
                                    char *err, size_t err_len)
{
    ssize_t n;
    int fd;

    if (!join_path(path, dir, "identity")) {
        say(err, err_len, dir, "path too long");
        return KL_IO;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        (void)snprintf(err, err_len,
                       "%s: not initialised; for a node of a new cluster run kluisd --init, for a "
                       "new or lost disk in a running cluster kluisd --join",
                       dir);
        return KL_NOT_FOUND;
    }
    if (fd < 0) {
        say(err, err_len, path, strerror(errno));
        return KL_IO;
    }
    n = read(fd, text, IDENTITY_MAX - 1);
    (void)close(fd);
    if (n < 0) {
        say(err, err_len, path, "cannot be read");
        return KL_IO;
    }
    text[n] = 0;
    return KL_OK;
}

static enum kl_status read_identity(const char *dir, const char *cluster, uint64_t node_id,
                                    struct kl_datadir *d, char *err, size_t err_len)
{
    char path[PATH_LEN];
    char text[IDENTITY_MAX];
    enum kl_status st = load_identity(dir, path, text, err, err_len);

    return st != KL_OK ? st : check_identity(path, text, cluster, node_id, d, err, err_len);
}

enum kl_status kl_datadir_open(const char *dir, const char *cluster, uint64_t node_id,
                               struct kl_datadir *out, char *err, size_t err_len)
{
    struct kl_datadir d = {.lock_fd = -1};
    char path[PATH_LEN];
    enum kl_status st = read_identity(dir, cluster, node_id, &d, err, err_len);

    if (st != KL_OK) {
        return st;
    }
    if (!join_path(path, dir, "lock")) {
        say(err, err_len, dir, "path too long");
        return KL_IO;
    }
    d.lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d.lock_fd < 0) {
        say(err, err_len, path, strerror(errno));
        return KL_IO;
    }
    if (flock(d.lock_fd, LOCK_EX | LOCK_NB) != 0) {
        say(err, err_len, dir, "another kluisd uses this data directory");
        (void)close(d.lock_fd);
        return KL_EXHAUSTED;
    }
    *out = d;
    return KL_OK;
}

void kl_datadir_close(struct kl_datadir *d)
{
    if (d->lock_fd >= 0) {
        (void)close(d->lock_fd);
        d->lock_fd = -1;
    }
}

enum kl_status kl_datadir_group(const char *dir, uint16_t group, char *out, size_t out_len)
{
    int n = snprintf(out, out_len, "%s/g%u", dir, (unsigned)group);

    if (n <= 0 || (size_t)n >= out_len) {
        return KL_IO;
    }
    return mkdir(out, 0700) == 0 || errno == EEXIST ? KL_OK : KL_IO;
}

static bool exists_below(const char *dir, const char *name)
{
    char path[PATH_LEN];

    return join_path(path, dir, name) && access(path, F_OK) == 0;
}

enum kl_status kl_datadir_group_check(const char *dir, const struct kl_datadir *d, uint16_t group,
                                      char *err, size_t err_len)
{
    const char *missing = NULL;
    char path[PATH_LEN];
    char name[16];

    (void)snprintf(name, sizeof name, "g%u", (unsigned)group);
    if (!d->opened[group]) {
        return KL_OK; /* new */
    }
    if (!join_path(path, dir, name)) {
        say(err, err_len, dir, "path too long");
        return KL_IO;
    }
    if (!exists_below(path, "log")) {
        missing = "log";
    } else if (!exists_below(path, "state") && !exists_below(path, "state.old")) {
        missing = "state";
    } else if (d->initial && !exists_below(path, "log/metadata1") &&
               !exists_below(path, "log/metadata2")) {
        missing = "log/metadata1"; /* written before the first vote */
    }
    if (missing != NULL) {
        (void)snprintf(err, err_len, "%s/%s is missing", path, missing);
        return KL_CORRUPT;
    }
    return KL_OK;
}

enum kl_status kl_datadir_note_groups(const char *dir, struct kl_datadir *d, const uint16_t *groups,
                                      size_t n, char *err, size_t err_len)
{
    char path[PATH_LEN];
    char text[IDENTITY_MAX];
    size_t len;
    size_t before;
    enum kl_status st = load_identity(dir, path, text, err, err_len);

    if (st != KL_OK) {
        return st;
    }
    len = before = strlen(text);
    for (size_t i = 0; i < n; i++) {
        if (!d->opened[groups[i]]) {
            len += (size_t)snprintf(text + len, sizeof text - len, "group %u\n",
                                    (unsigned)groups[i]); /* there is room for KL_GROUPS_MAX */
        }
    }
    if (len == before) {
        return KL_OK;
    }
    st = write_file(dir, path, text);
    if (st != KL_OK) {
        say(err, err_len, path, strerror(errno));
        return st;
    }
    for (size_t i = 0; i < n; i++) {
        d->opened[groups[i]] = true;
    }
    return KL_OK;
}
