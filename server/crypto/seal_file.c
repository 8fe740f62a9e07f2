/*
 * The file seal: one line of 64 hex digits, mode 0600 or 0400, followed by at most one newline.
 * Wrapped keys are boxes (keyring.h) under these 32 bytes.
 */
#include "server/crypto/seal.h"

#include "common/alloc.h"
#include "common/names.h"
#include "server/crypto/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEX_LEN = 2 * KL_KEY_LEN, LINE_LEN = HEX_LEN + 1 };

/* Lives in key memory as a whole. */
struct file_seal {
    struct kl_seal seal; /* first */
    EVP_CIPHER *cipher;
    uint8_t key[KL_KEY_LEN];
};

static enum kl_status file_wrap(struct kl_seal *seal, const struct kl_entropy *entropy,
                                const struct kl_box_id *id, const uint8_t *key,
                                struct kl_buf *wrapped)
{
    struct file_seal *f = (struct file_seal *)seal;

    return kl_box_seal(f->cipher, entropy, f->key, id, kl_bytes_of(key, KL_KEY_LEN), wrapped);
}

static enum kl_status file_unwrap(struct kl_seal *seal, const struct kl_box_id *id,
                                  struct kl_bytes wrapped, uint8_t *key)
{
    struct file_seal *f = (struct file_seal *)seal;

    return kl_box_open(f->cipher, f->key, id, wrapped, key, KL_KEY_LEN);
}

static void file_free(struct kl_seal *seal)
{
    struct file_seal *f = (struct file_seal *)seal;

    EVP_CIPHER_free(f->cipher);
    kl_key_memory_free(f, sizeof *f);
}

/* Reads at most max bytes; *len is what was there, max + 1 standing for "more". */
static enum kl_status read_some(int fd, char *out, size_t max, size_t *len)
{
    size_t n = 0;

    for (;;) {
        ssize_t got = read(fd, out + n, max + 1 - n);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return KL_IO;
        }
        n += (size_t)got;
        if (got == 0 || n > max) {
            *len = n;
            return KL_OK;
        }
    }
}

static enum kl_status check_mode(int fd, const char *path, char *err, size_t err_len)
{
    struct stat s;

    if (fstat(fd, &s) != 0) {
        (void)snprintf(err, err_len, "%s: %s", path, strerrordesc_np(errno));
        return KL_IO;
    }
    if (!S_ISREG(s.st_mode)) {
        (void)snprintf(err, err_len, "%s: is not a regular file", path);
        return KL_INVALID_ARGUMENT;
    }
    if ((s.st_mode & 0177) != 0) {
        (void)snprintf(err, err_len,
                       "%s: mode %04o is too open: only its owner may read it (chmod 0600)", path,
                       (unsigned)(s.st_mode & 07777));
        return KL_FORBIDDEN;
    }
    return KL_OK;
}

enum kl_status kl_key_file_read(const char *path, uint8_t out[KL_KEY_LEN], char *err,
                                size_t err_len)
{
    char line[LINE_LEN + 2] = {0}; /* and a byte too many, and a NUL */
    enum kl_status st;
    size_t len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0) {
        (void)snprintf(err, err_len, "%s: %s", path, strerrordesc_np(errno));
        return KL_IO;
    }
    st = check_mode(fd, path, err, err_len);
    if (st != KL_OK) {
        goto out;
    }
    st = read_some(fd, line, LINE_LEN, &len);
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: %s", path, strerrordesc_np(errno));
        goto out;
    }
    if (len == LINE_LEN && line[HEX_LEN] == '\n') {
        len = HEX_LEN;
        line[HEX_LEN] = '\0';
    }
    if (len != HEX_LEN || strlen(line) != HEX_LEN ||
        kl_hex_decode(line, out, KL_KEY_LEN) != KL_OK) {
        (void)snprintf(err, err_len, "%s: must hold one line of %d hex digits and nothing else",
                       path, HEX_LEN);
        st = KL_INVALID_ARGUMENT;
    }
out:
    kl_wipe(line, sizeof line);
    (void)close(fd);
    return st;
}

enum kl_status kl_seal_file_open(const char *path, struct kl_seal **out, char *err, size_t err_len)
{
    struct file_seal *f = NULL;
    enum kl_status st;
    void *p = NULL;

    st = kl_key_memory_new(sizeof *f, &p);
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: no memory for the key", path);
        return st;
    }
    f = p;
    f->seal = (struct kl_seal){file_wrap, file_unwrap, file_free};
    f->cipher = kl_aead_fetch();
    if (f->cipher == NULL) {
        (void)snprintf(err, err_len, "%s: the crypto library has no AES-256-GCM", path);
        st = KL_CRYPTO;
        goto out;
    }
    st = kl_key_file_read(path, f->key, err, err_len);
    if (st != KL_OK) {
        goto out;
    }
    *out = &f->seal;
    f = NULL;
out:
    if (f != NULL) {
        file_free(&f->seal);
    }
    return st;
}

/* The new name itself must survive a crash: a cluster without its seal is lost. */
static bool sync_directory(const char *path)
{
    char copy[PATH_MAX];
    int fd;
    bool ok;

    if (strlen(path) >= sizeof copy) {
        return false;
    }
    memcpy(copy, path, strlen(path) + 1);
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ok = fsync(fd) == 0;
    (void)close(fd);
    return ok;
}

static bool write_all(int fd, const char *p, size_t n)
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

enum kl_status kl_seal_file_create(const char *path, const struct kl_entropy *entropy, char *err,
                                   size_t err_len)
{
    uint8_t key[KL_KEY_LEN];
    char line[LINE_LEN + 1];
    enum kl_status st;
    int fd = -1;

    st = entropy->fill(entropy->ctx, key, sizeof key);
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: no randomness to draw a key from", path);
        goto out;
    }
    kl_hex_encode(key, sizeof key, line);
    line[HEX_LEN] = '\n';
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        st = errno == EEXIST ? KL_ALREADY_EXISTS : KL_IO;
        (void)snprintf(err, err_len, "%s: %s", path, strerrordesc_np(errno));
        goto out;
    }
    if (!write_all(fd, line, LINE_LEN) || fsync(fd) != 0 || !sync_directory(path)) {
        (void)snprintf(err, err_len, "%s: %s", path, strerrordesc_np(errno));
        (void)unlink(path); /* ours: O_EXCL made it */
        st = KL_IO;
    }
out:
    kl_wipe(key, sizeof key);
    kl_wipe(line, sizeof line);
    if (fd >= 0) {
        (void)close(fd);
    }
    return st;
}

void kl_seal_free(struct kl_seal *seal)
{
    if (seal != NULL) {
        seal->free(seal);
    }
}
