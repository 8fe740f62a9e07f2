#include "server/store/leveldb_files.h"

#include "common/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char ballast_name[] = "BALLAST";
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

static bool ballast_path(const char *dir, char path[PATH_MAX])
{
    int n = snprintf(path, PATH_MAX, "%s/%s", dir, ballast_name);

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

    if (!ballast_path(dir, path)) {
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

    if (ballast_path(dir, path)) {
        (void)unlink(path);
    }
}

enum kl_status kl_leveldb_remove_dir(const char *dir)
{
    return rmdir(dir) == 0 || errno == ENOENT ? KL_OK : KL_IO;
}
