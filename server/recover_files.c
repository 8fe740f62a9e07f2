#include "server/recover_files.h"

#include "common/alloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_LEN = 1500, PIECE_LEN = 65536 };

static enum kl_status say(char *err, size_t err_len, const char *path)
{
    int number = errno;

    (void)snprintf(err, err_len, "%s: %s", path, strerror(number));
    return number == ENOSPC ? KL_NO_SPACE : number == EEXIST ? KL_ALREADY_EXISTS : KL_IO;
}

enum kl_status kl_recover_report_read(const char *path, struct kl_recover_report *out, char *err,
                                      size_t err_len)
{
    char *text = kl_malloc(KL_RECOVER_REPORT_MAX + 1);
    enum kl_status st = KL_NO_MEMORY;
    size_t len = 0;
    ssize_t n = 1;
    int fd = -1;

    if (text == NULL) {
        (void)snprintf(err, err_len, "out of memory");
        goto out;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && n > 0 && len <= KL_RECOVER_REPORT_MAX) {
        n = read(fd, text + len, KL_RECOVER_REPORT_MAX + 1 - len);
        len += n > 0 ? (size_t)n : 0;
    }
    if (fd < 0 || n < 0) {
        st = say(err, err_len, path);
    } else if (len > KL_RECOVER_REPORT_MAX) {
        (void)snprintf(err, err_len, "%s: is too large for a report", path);
        st = KL_TOO_LARGE;
    } else {
        text[len] = 0;
        st = kl_recover_report_parse(path, text, out, err, err_len);
    }
out:
    if (fd >= 0) {
        (void)close(fd);
    }
    kl_free(text);
    return st;
}

static enum kl_status dir_sync(const char *path, char *err, size_t err_len)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum kl_status st = KL_OK;

    if (fd < 0 || fsync(fd) != 0) {
        st = say(err, err_len, path);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return st;
}

enum kl_status kl_recover_dir_make(const char *path, char *err, size_t err_len)
{
    return mkdir(path, 0700) == 0 ? KL_OK : say(err, err_len, path);
}

static enum kl_status file_copy(const char *from, const char *to, uint8_t *piece, char *err,
                                size_t err_len)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = -1;
    enum kl_status st = KL_OK;
    ssize_t n = 1;

    if (in < 0) {
        st = say(err, err_len, from);
        goto out;
    }
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0) {
        st = say(err, err_len, to);
        goto out;
    }
    while (n > 0) {
        n = read(in, piece, PIECE_LEN);
        if (n < 0) {
            st = say(err, err_len, from);
            break;
        }
        errno = ENOSPC; /* what a short write means */
        if (write(out, piece, (size_t)n) != n) {
            st = say(err, err_len, to);
            n = 0;
        }
    }
    if (st == KL_OK && fsync(out) != 0) {
        st = say(err, err_len, to);
    }
out:
    if (in >= 0) {
        (void)close(in);
    }
    if (out >= 0) {
        (void)close(out);
    }
    return st;
}

enum kl_status kl_recover_dir_copy(const char *from, const char *to, char *err, size_t err_len)
{
    uint8_t *piece = kl_malloc(PIECE_LEN);
    enum kl_status st = kl_recover_dir_make(to, err, err_len);
    DIR *d = st == KL_OK ? opendir(from) : NULL;
    struct dirent *e;

    if (st == KL_OK && (d == NULL || piece == NULL)) {
        st = say(err, err_len, from);
    }
    while (st == KL_OK && (e = readdir(d)) != NULL) {
        char in[PATH_LEN];
        char out[PATH_LEN];

        if (e->d_name[0] == '.') {
            continue;
        }
        (void)snprintf(in, sizeof in, "%s/%s", from, e->d_name);
        (void)snprintf(out, sizeof out, "%s/%s", to, e->d_name);
        st = file_copy(in, out, piece, err, err_len);
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    kl_free(piece);
    return st == KL_OK ? dir_sync(to, err, err_len) : st;
}
