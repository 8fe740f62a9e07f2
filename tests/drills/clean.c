/* What a runner leaves behind that was killed. Processes and networks go by themselves: the kernel ends them
 * with it. */
#include "tests/drills/drill.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

enum { TRIES = 50, TRY_MS = 20, PATH_LEN = 512 };

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/* A process number is used again in time, but hardly by another runner. */
static bool lives(pid_t pid)
{
    char path[64];
    char name[32] = "";
    FILE *f;

    (void)snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    f = fopen(path, "r");
    if (f == NULL) {
        return false;
    }
    (void)!fgets(name, sizeof name, f);
    (void)fclose(f);
    return strcmp(name, "kluis-drill\n") == 0;
}

static void clean_one(const char *dir, bool files)
{
    char path[PATH_LEN + 16];

    (void)snprintf(path, sizeof path, "%s/data1", dir);
    (void)umount2(path, MNT_DETACH); /* fails when it is no mount */
    if (!files) {
        (void)snprintf(path, sizeof path, "%s/" DRILL_MARK, dir);
        (void)unlink(path);
        (void)fprintf(stderr, "kept: %s\n", dir);
        return;
    }
    for (int i = 0; i < TRIES && nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0; i++) {
        harness_sleep_ms(TRY_MS); /* a process that was just killed may still have made a file */
    }
}

void drill_clean(const struct site_backend *site, pid_t owner, bool remove)
{
    const char *base = getenv("TMPDIR") == NULL ? "/tmp" : getenv("TMPDIR");
    DIR *all = opendir(base);
    struct dirent *e;
    bool found = false;

    while (all != NULL && (e = readdir(all)) != NULL) {
        char path[PATH_LEN];
        char mark[PATH_LEN + 16];
        pid_t its;

        if (strncmp(e->d_name, DRILL_DIR, strlen(DRILL_DIR)) != 0) {
            continue;
        }
        its = (pid_t)strtol(e->d_name + strlen(DRILL_DIR), NULL, 10);
        (void)snprintf(path, sizeof path, "%s/%s", base, e->d_name);
        (void)snprintf(mark, sizeof mark, "%s/" DRILL_MARK, path);
        if (its > 0 && access(mark, F_OK) == 0 && (owner == 0 ? !lives(its) : its == owner)) {
            found = true;
            clean_one(path, remove);
        }
    }
    if (all != NULL) {
        (void)closedir(all);
    }
    if (found && owner != 0 && site->outside) {
        site->down(); /* up() does it for those before us */
    }
}
