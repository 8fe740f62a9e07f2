/*
 * Files of the user. What is read is read exactly; what is written appears whole or not at all.
 */
#include "client/cli/cli.h"
#include "common/alloc.h"
#include "common/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ_STEP = 65536 };

static int read_all(struct kl_cli *cli, FILE *in, const char *path, size_t max, const char *what,
                    struct kl_buf *out)
{
    for (;;) {
        size_t want = max + 1 - out->len;
        uint8_t *at = NULL;
        size_t n;

        want = want > READ_STEP ? READ_STEP : want;
        if (kl_buf_grow(out, want, &at) != KL_OK) {
            (void)kl_cli_must(NULL);
        }
        n = fread(at, 1, want, in);
        out->len -= want - n;
        if (out->len > max) {
            return kl_cli_complain(cli, KL_CLI_BAD_INPUT,
                                   "TOO_LARGE: %s: the %s may have at most %zu bytes", path, what,
                                   max);
        }
        if (ferror(in)) {
            return kl_cli_complain(cli, KL_CLI_LOCAL_IO, "cannot read %s: %s", path,
                                   strerror(errno));
        }
        if (n == 0) {
            return KL_CLI_OK;
        }
    }
}

int kl_cli_read(struct kl_cli *cli, const char *path, size_t max, const char *what, uint8_t **out,
                size_t *out_len)
{
    bool std = strcmp(path, "-") == 0;
    FILE *in = std ? cli->world->in : fopen(path, "re");
    struct kl_buf bytes = KL_BUF(max + 1);
    int code;

    if (in == NULL) {
        return kl_cli_complain(cli, KL_CLI_LOCAL_IO, "cannot read the %s %s: %s", what, path,
                               strerror(errno));
    }
    if (!std) {
        (void)setvbuf(in, NULL, _IONBF, 0); /* no copy of a secret stays in stdio */
    }
    code = read_all(cli, in, std ? "standard input" : path, max, what, &bytes);
    if (code == KL_CLI_OK) {
        *out = (uint8_t *)kl_cli_keep_text(cli, bytes.len == 0 ? "" : (const char *)bytes.ptr,
                                           bytes.len);
        *out_len = bytes.len;
    }
    kl_buf_wipe(&bytes);
    if (!std) {
        (void)fclose(in);
    }
    return code;
}

int kl_cli_may_write(struct kl_cli *cli, const char *path, bool force)
{
    struct stat st;

    if (strcmp(path, "-") == 0 || force || lstat(path, &st) != 0) {
        return KL_CLI_OK;
    }
    return kl_cli_complain(cli, KL_CLI_LOCAL_IO, "%s is there already; --force replaces it", path);
}

static bool write_all(int fd, const uint8_t *p, size_t n)
{
    while (n != 0) {
        ssize_t put = write(fd, p, n);

        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return false;
        }
        p += put;
        n -= (size_t)put;
    }
    return true;
}

/* The entry itself must survive a crash too. */
static void sync_dir(const char *path)
{
    char dir[4096];
    const char *slash = strrchr(path, '/');
    int fd;

    (void)snprintf(dir, sizeof dir, "%.*s", slash == NULL ? 1 : (int)(slash - path + 1),
                   slash == NULL ? "." : path);
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
}

/* link() does not replace what is there; some file systems have no links. */
static bool publish(const char *temporary, const char *path, bool force)
{
    struct stat st;

    if (!force && link(temporary, path) == 0) {
        (void)unlink(temporary);
        return true;
    }
    if (!force && (errno == EEXIST || lstat(path, &st) == 0)) {
        errno = EEXIST;
        return false;
    }
    return rename(temporary, path) == 0;
}

static int write_file(struct kl_cli *cli, const char *path, const void *p, size_t n, bool force)
{
    size_t len = strlen(path) + 8;
    char *temporary = kl_cli_keep(cli, len);
    bool ok = false;
    int fd;

    (void)snprintf(temporary, len, "%s.XXXXXX", path);
    fd = mkostemp(temporary, O_CLOEXEC); /* mode 0600 */
    if (fd >= 0) {
        ok = write_all(fd, p, n) && fsync(fd) == 0;
        ok = close(fd) == 0 && ok;
        ok = ok && publish(temporary, path, force);
        if (!ok) {
            int saved = errno;

            (void)unlink(temporary);
            errno = saved;
        }
    }
    if (!ok) {
        return kl_cli_complain(cli, KL_CLI_LOCAL_IO, "cannot write %s: %s", path, strerror(errno));
    }
    sync_dir(path);
    return KL_CLI_OK;
}

int kl_cli_write(struct kl_cli *cli, const char *path, const void *p, size_t n, bool force)
{
    FILE *out = cli->world->out;

    if (strcmp(path, "-") != 0) {
        return write_file(cli, path, p, n, force);
    }
    if (fwrite(p, 1, n, out) != n || fflush(out) != 0) {
        return kl_cli_complain(cli, KL_CLI_LOCAL_IO, "cannot write to standard output: %s",
                               strerror(errno));
    }
    return KL_CLI_OK;
}
