#include "server/store/leveldb_files.h"

#include "common/limits.h"
#include "common/names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char ballast_name[] = "BALLAST";
static const char mark_name[] = "MARK";
static const char mark_new_name[] = "MARK.new";
static const char first_manifest[] = "MANIFEST-000001";

enum kl_status kl_leveldb_status(const char *err)
{
    /* Texts of ENOSPC and EDQUOT: all that LevelDB passes on. */
    if (strstr(err, "No space left on device") != NULL ||
        strstr(err, "Disk quota exceeded") != NULL) {
        return KL_NO_SPACE;
    }
    /* A table that is shorter than the manifest says: EINVAL of a mapped read. */
    if (strncmp(err, "IO error", strlen("IO error")) == 0) {
        return strstr(err, "Invalid argument") != NULL ? KL_CORRUPT : KL_IO;
    }
    if (strncmp(err, "NotFound", strlen("NotFound")) == 0) {
        return strstr(err, ".ldb") != NULL ? KL_CORRUPT : KL_IO; /* a table, or the directory */
    }
    return KL_CORRUPT; /* "Corruption", and the "Invalid argument" of a damaged manifest */
}

void kl_leveldb_explain(enum kl_status status, const char *dir, const char *why, char *err,
                        size_t err_len)
{
    if (err_len == 0) {
        return;
    }
    if (status == KL_CORRUPT) {
        (void)snprintf(err, err_len, "the store %s is corrupt (%s)", dir,
                       why == NULL ? "the file CURRENT is missing" : why);
    } else if (status == KL_NO_SPACE) {
        (void)snprintf(err, err_len, "the store %s cannot be opened, the disk is full (%s)", dir,
                       why == NULL ? "no message" : why);
    } else {
        (void)snprintf(err, err_len, "the store %s cannot be opened (%s)", dir,
                       why == NULL ? "no message" : why);
    }
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name);
    size_t m = strlen(end);

    return n > m && strcmp(name + n - m, end) == 0;
}

/* Files that exist only once CURRENT does. The first manifest is written before it. */
static bool needs_current(const char *name)
{
    return ends_with(name, ".ldb") || ends_with(name, ".sst") || ends_with(name, ".log") ||
           (strncmp(name, "MANIFEST-", 9) == 0 && strcmp(name, first_manifest) != 0);
}

enum kl_status kl_leveldb_check_dir(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    bool current = false;
    bool data = false;

    if (d == NULL) {
        return KL_OK; /* LevelDB makes it, or says why not */
    }
    while ((e = readdir(d)) != NULL) {
        current = current || strcmp(e->d_name, "CURRENT") == 0;
        data = data || needs_current(e->d_name);
    }
    (void)closedir(d);
    return data && !current ? KL_CORRUPT : KL_OK;
}

static bool path_of(const char *dir, const char *name, char path[PATH_MAX])
{
    int n = snprintf(path, PATH_MAX, "%s/%s", dir, name);

    return n > 0 && n < PATH_MAX;
}

static bool room_for(const char *dir, uint64_t bytes)
{
    struct statvfs fs;

    return statvfs(dir, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize >= bytes;
}

bool kl_leveldb_ballast_make(const char *dir)
{
    char path[PATH_MAX];
    struct stat st;
    bool made;
    int fd;

    if (!path_of(dir, ballast_name, path)) {
        return false;
    }
    if (stat(path, &st) == 0 && st.st_size == KL_STORE_BALLAST &&
        (uint64_t)st.st_blocks * 512 >= KL_STORE_BALLAST) {
        return true; /* from the last run; space will tell whether writes fit */
    }
    if (!room_for(dir, (uint64_t)KL_STORE_BALLAST + KL_STORE_HEADROOM)) {
        return false;
    }
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return false;
    }
    made = posix_fallocate(fd, 0, KL_STORE_BALLAST) == 0;
    (void)close(fd);
    if (!made) {
        (void)unlink(path);
    }
    return made;
}

void kl_leveldb_ballast_drop(const char *dir)
{
    char path[PATH_MAX];

    if (path_of(dir, ballast_name, path)) {
        (void)unlink(path);
    }
}

/* ---- the mark: 16 hex digits ---- */

enum { MARK_LEN = 16 };

enum kl_status kl_leveldb_mark_read(const char *dir, uint64_t *mark)
{
    char path[PATH_MAX];
    char text[MARK_LEN + 1] = {0};
    uint8_t bytes[MARK_LEN / 2];
    ssize_t n;
    int fd;

    if (!path_of(dir, mark_name, path)) {
        return KL_IO;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        *mark = 0;
        return errno == ENOENT ? KL_OK : KL_IO;
    }
    n = read(fd, text, MARK_LEN);
    (void)close(fd);
    if (n != MARK_LEN || kl_hex_decode(text, bytes, sizeof bytes) != KL_OK) {
        return KL_CORRUPT;
    }
    *mark = kl_get_be64(bytes);
    return KL_OK;
}

static bool sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;

    if (fd >= 0) {
        (void)close(fd);
    }
    return synced;
}

bool kl_leveldb_mark_write(const char *dir, uint64_t mark)
{
    char path[PATH_MAX];
    char fresh[PATH_MAX];
    char text[MARK_LEN + 1];
    uint8_t bytes[MARK_LEN / 2];
    bool written;
    int fd;

    if (!path_of(dir, mark_name, path) || !path_of(dir, mark_new_name, fresh)) {
        return false;
    }
    kl_put_be64(bytes, mark);
    kl_hex_encode(bytes, sizeof bytes, text);
    fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return false;
    }
    written = write(fd, text, MARK_LEN) == MARK_LEN && fsync(fd) == 0;
    (void)close(fd);
    if (!written || rename(fresh, path) != 0) {
        (void)unlink(fresh);
        return false;
    }
    return sync_dir(dir);
}

void kl_leveldb_mark_drop(const char *dir)
{
    char path[PATH_MAX];

    if (path_of(dir, mark_name, path)) {
        (void)unlink(path);
    }
    if (path_of(dir, mark_new_name, path)) {
        (void)unlink(path);
    }
}

enum kl_status kl_leveldb_remove_dir(const char *dir)
{
    return rmdir(dir) == 0 || errno == ENOENT ? KL_OK : KL_IO;
}
