#include "server/dev.h"

#include "common/alloc.h"
#include "common/names.h"
#include "server/auth/auth.h"
#include "server/crypto/ca.h"
#include "server/crypto/keyring.h"
#include "server/datadir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_LEN = 1200, TOKEN_BYTES = 32, TOKEN_HEX = 64, CERT_DAYS = 3650 };

static const char dev_cluster[] = "dev";

/* Creates a file that must not exist yet, with its whole content on the disk. */
static enum kl_status create_file(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    size_t len = strlen(text);
    bool ok;

    if (fd < 0) {
        return errno == EEXIST ? KL_ALREADY_EXISTS : KL_IO;
    }
    ok = write(fd, text, len) == (ssize_t)len && fsync(fd) == 0;
    (void)close(fd);
    return ok ? KL_OK : KL_IO;
}

static void hash_hex(const char *token, char sha256_hex[65])
{
    uint8_t digest[32];

    kl_auth_token_hash(kl_bytes_str(token), digest);
    kl_hex_encode(digest, sizeof digest, sha256_hex);
}

enum kl_status kl_token_file_create(const char *path, char sha256_hex[65], char *err,
                                    size_t err_len)
{
    uint8_t bytes[TOKEN_BYTES];
    char text[TOKEN_HEX + 2];
    enum kl_status st = kl_real_entropy.fill(kl_real_entropy.ctx, bytes, sizeof bytes);

    if (st != KL_OK) {
        (void)snprintf(err, err_len, "no random numbers");
        return st;
    }
    kl_hex_encode(bytes, sizeof bytes, text);
    hash_hex(text, sha256_hex);
    text[TOKEN_HEX] = '\n';
    text[TOKEN_HEX + 1] = 0;
    st = create_file(path, text, 0600);
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: %s", path,
                       st == KL_ALREADY_EXISTS ? "exists already" : strerror(errno));
    }
    kl_wipe(bytes, sizeof bytes);
    kl_wipe(text, sizeof text);
    return st;
}

static enum kl_status join_path(char out[PATH_LEN], const char *dir, const char *name)
{
    int n = snprintf(out, PATH_LEN, "%s/%s", dir, name);

    return n > 0 && n < PATH_LEN ? KL_OK : KL_TOO_LARGE;
}

/* The SHA-256 of the token, which is made when there is none. */
static enum kl_status dev_token(const char *dir, char sha256_hex[65], char *err, size_t err_len)
{
    char path[PATH_LEN];
    char text[TOKEN_HEX + 2] = {0};
    enum kl_status st = join_path(path, dir, "admin.token");
    ssize_t n;
    int fd;

    if (st != KL_OK) {
        return st;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return kl_token_file_create(path, sha256_hex, err, err_len);
    }
    n = read(fd, text, sizeof text - 1);
    (void)close(fd);
    if (n < TOKEN_HEX) {
        (void)snprintf(err, err_len, "%s: not a token", path);
        return KL_CORRUPT;
    }
    text[TOKEN_HEX] = 0;
    hash_hex(text, sha256_hex);
    kl_wipe(text, sizeof text);
    return KL_OK;
}

static enum kl_status dev_certificates(const char *dir, char *err, size_t err_len)
{
    char path[PATH_LEN];
    enum kl_status st = join_path(path, dir, "ca.crt");

    if (st == KL_OK && access(path, F_OK) != 0) {
        st = kl_ca_create(dir, dev_cluster, CERT_DAYS, err, err_len);
    }
    if (st == KL_OK) {
        st = join_path(path, dir, "node.crt");
    }
    if (st == KL_OK && access(path, F_OK) != 0) {
        st = kl_ca_issue(dir, "node", dev_cluster, 1, "localhost,127.0.0.1,::1", CERT_DAYS, err,
                         err_len);
    }
    if (st == KL_OK) {
        st = join_path(path, dir, "seal.key");
    }
    if (st == KL_OK && access(path, F_OK) != 0) {
        st = kl_seal_file_create(path, &kl_real_entropy, err, err_len);
    }
    return st;
}

static enum kl_status dev_config(const struct kl_dev_options *o, const char *path,
                                 const char *token_hash, char *err, size_t err_len)
{
    struct kl_buf text = KL_BUF(16384);
    const char *dir = o->dir;
    enum kl_status st;

    st = kl_buf_printf(&text,
                       "# One node for development, written by kluisd --dev.\n"
                       "[cluster]\n"
                       "name = %s\n"
                       "geography = dev\n"
                       "subscription = 00000000-0000-0000-0000-000000000000\n",
                       dev_cluster);
    if (st == KL_OK && o->day_ms != 0) {
        st = kl_buf_printf(&text, "test_cluster = yes\nday_ms = %llu\n",
                           (unsigned long long)o->day_ms);
    }
    if (st == KL_OK) {
        st = kl_buf_printf(&text,
                           "\n[this]\n"
                           "node = n1\n"
                           "data_dir = %s/data\n"
                           "listen_client = %s\n"
                           "listen_peer = 127.0.0.1:0\n"
                           "ca_file = %s/ca.crt\n"
                           "cert_file = %s/node.crt\n"
                           "key_file = %s/node.key\n"
                           "seal_file = %s/seal.key\n"
                           "\n[node n1]\n"
                           "id = 1\n"
                           "region = local\n"
                           "client_address = %s\n"
                           "peer_address = 127.0.0.1:0\n"
                           "\n[principal admin]\n"
                           "token_sha256 = %s\n"
                           "rights = *, vaults/purge, secrets/purge\n",
                           dir, o->listen, dir, dir, dir, dir, o->listen, token_hash);
    }
    if (st == KL_OK) {
        st = kl_buf_put_u8(&text, 0);
    }
    if (st == KL_OK) {
        (void)unlink(path); /* the address may differ from last time */
        st = create_file(path, (const char *)text.ptr, 0600);
    }
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: cannot be written", path);
    }
    kl_buf_wipe(&text);
    return st;
}

enum kl_status kl_dev_prepare(const struct kl_dev_options *o, char *config_path,
                              size_t config_path_len, char *err, size_t err_len)
{
    char data[PATH_LEN];
    char token_hash[65];
    enum kl_status st;

    if (mkdir(o->dir, 0700) != 0 && errno != EEXIST) {
        (void)snprintf(err, err_len, "%s: %s", o->dir, strerror(errno));
        return KL_IO;
    }
    if (snprintf(config_path, config_path_len, "%s/kluisd.conf", o->dir) >= (int)config_path_len) {
        (void)snprintf(err, err_len, "%s: path too long", o->dir);
        return KL_TOO_LARGE;
    }
    st = dev_certificates(o->dir, err, err_len);
    if (st == KL_OK) {
        st = dev_token(o->dir, token_hash, err, err_len);
    }
    if (st == KL_OK) {
        st = dev_config(o, config_path, token_hash, err, err_len);
    }
    if (st == KL_OK) {
        st = join_path(data, o->dir, "data");
    }
    if (st == KL_OK) {
        st = kl_datadir_create(data, dev_cluster, 1, true, &kl_real_entropy, err, err_len);
        if (st == KL_ALREADY_EXISTS) {
            st = KL_OK;
        }
    }
    return st;
}
