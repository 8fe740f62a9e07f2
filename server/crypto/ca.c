/*
 * Certificates as kluis needs them: a CA without intermediates, leaves that say by URI which node
 * of which cluster they are. Files are made under a temporary name and renamed, so that a reader (a
 * node that reloads) never sees half of one.
 */
#include "server/crypto/ca.h"

#include "common/alloc.h"
#include "common/limits.h"
#include "common/names.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PATH_LEN_MAX = 4096,
    NAME_LEN_MAX = 64,  /* X.520: upper bound of a common name */
    HOSTS_MAX = 32,     /* names and addresses of one certificate */
    HOST_LEN_MAX = 253, /* RFC 1035 */
    SERIAL_LEN = 16,    /* RFC 5280 4.1.2.2: at most 20 octets, positive */
    DAYS_MAX = 36500,
    BACKDATE_S = 3600, /* clocks of the nodes may differ a little */
    DAY_S = 86400,
    SAN_LEN_MAX = 2 * KL_LOCATION_MAX + 64,
};

/* Where the words for people go. */
struct complaint {
    char *err;
    size_t err_len;
};

static enum kl_status complain(const struct complaint *c, enum kl_status st, const char *what,
                               const char *why)
{
    (void)snprintf(c->err, c->err_len, "%s: %s", what, why);
    return st;
}

/* ---- files ---- */

struct paths {
    char cert[PATH_LEN_MAX];
    char key[PATH_LEN_MAX];
};

static enum kl_status paths_of(const char *dir, const char *name, const struct complaint *c,
                               struct paths *out)
{
    int a = snprintf(out->cert, sizeof out->cert, "%s/%s.crt", dir, name);
    int b = snprintf(out->key, sizeof out->key, "%s/%s.key", dir, name);

    if (a < 0 || b < 0 || (size_t)a >= sizeof out->cert || (size_t)b >= sizeof out->key) {
        return complain(c, KL_TOO_LARGE, "directory", "the path is too long");
    }
    return KL_OK;
}

static bool write_pem(int fd, X509 *cert, EVP_PKEY *key)
{
    FILE *f = fdopen(fd, "w");
    bool ok;

    if (f == NULL) {
        (void)close(fd);
        return false;
    }
    ok = cert != NULL ? PEM_write_X509(f, cert) == 1
                      : PEM_write_PKCS8PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1;
    ok = fflush(f) == 0 && ok && fsync(fd) == 0;
    return fclose(f) == 0 && ok;
}

/* One of cert and key; a key's file is readable by its owner only from its first byte on. */
static enum kl_status save(const char *path, X509 *cert, EVP_PKEY *key, bool overwrite,
                           const struct complaint *c)
{
    char temporary[PATH_LEN_MAX + 8];
    enum kl_status st = KL_OK;
    int fd;

    (void)snprintf(temporary, sizeof temporary, "%s.new", path);
    (void)unlink(temporary); /* of an attempt that was cut short */
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, cert != NULL ? 0644 : 0600);
    if (fd < 0) {
        return complain(c, KL_IO, temporary, strerrordesc_np(errno));
    }
    if (!write_pem(fd, cert, key)) {
        st = complain(c, KL_IO, temporary, "could not be written");
    } else if (overwrite ? rename(temporary, path) != 0 : link(temporary, path) != 0) {
        st = complain(c, errno == EEXIST ? KL_ALREADY_EXISTS : KL_IO, path, strerrordesc_np(errno));
    }
    (void)unlink(temporary);
    return st;
}

static enum kl_status load_ca(const struct paths *paths, const struct complaint *c, X509 **cert,
                              EVP_PKEY **key)
{
    FILE *f = fopen(paths->cert, "re");

    if (f == NULL) {
        return complain(c, KL_IO, paths->cert, strerrordesc_np(errno));
    }
    *cert = PEM_read_X509(f, NULL, NULL, NULL);
    (void)fclose(f);
    if (*cert == NULL) {
        return complain(c, KL_CRYPTO, paths->cert, "is not a certificate");
    }
    f = fopen(paths->key, "re");
    if (f == NULL) {
        return complain(c, KL_IO, paths->key, strerrordesc_np(errno));
    }
    *key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    (void)fclose(f);
    if (*key == NULL || X509_check_private_key(*cert, *key) != 1) {
        return complain(c, KL_CRYPTO, paths->key, "is not the key of the CA certificate");
    }
    return KL_OK;
}

/* ---- certificates ---- */

static bool set_serial(X509 *cert)
{
    uint8_t bytes[SERIAL_LEN];
    BIGNUM *number = NULL;
    bool ok;

    if (RAND_bytes(bytes, sizeof bytes) != 1) {
        return false;
    }
    bytes[0] = (uint8_t)((bytes[0] & 0x7fu) | 0x40u); /* positive, and of full length */
    number = BN_bin2bn(bytes, sizeof bytes, NULL);
    ok = number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) != NULL;
    BN_free(number);
    return ok;
}

/* A negative number of days ends in the past and began a day before that. */
static bool set_validity(X509 *cert, int days)
{
    int first_day = days < 0 ? days - 1 : 0;

    return X509_time_adj_ex(X509_getm_notBefore(cert), first_day, days < 0 ? 0 : -BACKDATE_S,
                            NULL) != NULL &&
           X509_time_adj_ex(X509_getm_notAfter(cert), days, 0, NULL) != NULL;
}

static bool set_name(X509_NAME *name, const char *organisation, const char *common)
{
    return X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC, (const unsigned char *)organisation,
                                      -1, -1, 0) == 1 &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common, -1,
                                      -1, 0) == 1;
}

static bool add_extension(X509 *cert, X509V3_CTX *ctx, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, ctx, nid, value);
    bool ok = extension != NULL && X509_add_ext(cert, extension, -1) == 1;

    X509_EXTENSION_free(extension);
    return ok;
}

/* What CA and leaf have in common; issuer NULL: the certificate itself. */
static X509 *new_cert(EVP_PKEY *key, X509 *issuer, const char *cluster, const char *common,
                      int days)
{
    X509 *cert = X509_new();

    if (cert == NULL || X509_set_version(cert, X509_VERSION_3) != 1 || !set_serial(cert) ||
        !set_validity(cert, days) || X509_set_pubkey(cert, key) != 1 ||
        !set_name(X509_get_subject_name(cert), cluster, common) ||
        X509_set_issuer_name(cert, X509_get_subject_name(issuer == NULL ? cert : issuer)) != 1) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

static X509 *make_ca(EVP_PKEY *key, const char *cluster, int days)
{
    X509 *cert = new_cert(key, NULL, cluster, "kluis CA", days);
    X509V3_CTX ctx;

    if (cert == NULL) {
        return NULL;
    }
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    if (!add_extension(cert, &ctx, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(cert, &ctx, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(cert, &ctx, NID_subject_key_identifier, "hash") ||
        !add_extension(cert, &ctx, NID_authority_key_identifier, "keyid:always") ||
        X509_sign(cert, key, EVP_sha256()) <= 0) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

static bool add_general_name(GENERAL_NAMES *names, int type, const void *p, size_t len)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_STRING *value =
        type == GEN_IPADD ? ASN1_OCTET_STRING_new() : (ASN1_STRING *)ASN1_IA5STRING_new();

    if (name == NULL || value == NULL || ASN1_STRING_set(value, p, (int)len) != 1) {
        ASN1_STRING_free(value);
        GENERAL_NAME_free(name);
        return false;
    }
    GENERAL_NAME_set0_value(name, type, value);
    if (sk_GENERAL_NAME_push(names, name) <= 0) {
        GENERAL_NAME_free(name);
        return false;
    }
    return true;
}

static bool is_host_name(const char *host)
{
    size_t n = strlen(host);

    return n <= HOST_LEN_MAX && strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                             "0123456789.-*") == n;
}

/* One element of the list of hosts: an address or a name. */
static bool add_host(GENERAL_NAMES *names, const char *host)
{
    ASN1_OCTET_STRING *address = a2i_IPADDRESS(host); /* IPv4 or IPv6 */

    if (address != NULL) {
        bool ok = add_general_name(names, GEN_IPADD, ASN1_STRING_get0_data(address),
                                   (size_t)ASN1_STRING_length(address));

        ASN1_OCTET_STRING_free(address);
        return ok;
    }
    return is_host_name(host) && add_general_name(names, GEN_DNS, host, strlen(host));
}

static enum kl_status add_hosts(GENERAL_NAMES *names, const char *hosts, const struct complaint *c)
{
    size_t count = 0;

    while (*hosts != '\0') {
        char host[HOST_LEN_MAX + 1] = {0};
        size_t n = strcspn(hosts, ",");

        if (n == 0 || n >= sizeof host || ++count > HOSTS_MAX) {
            return complain(c, KL_INVALID_ARGUMENT, "hosts",
                            "must be 1 to 32 names or addresses separated by commas");
        }
        memcpy(host, hosts, n);
        if (!add_host(names, host)) {
            return complain(c, KL_INVALID_ARGUMENT, host, "is neither a host name nor an address");
        }
        hosts += n + (hosts[n] == ',' ? 1 : 0);
    }
    return KL_OK;
}

static enum kl_status add_names(X509 *cert, const char *cluster, uint64_t node_id,
                                const char *hosts, const struct complaint *c)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    char uri[SAN_LEN_MAX];
    enum kl_status st = KL_OK;

    (void)snprintf(uri, sizeof uri, "kluis:node:%s:%" PRIu64, cluster, node_id);
    if (names == NULL || (node_id != 0 && !add_general_name(names, GEN_URI, uri, strlen(uri)))) {
        st = complain(c, KL_NO_MEMORY, "certificate", "no memory");
        goto out;
    }
    st = add_hosts(names, hosts, c);
    if (st != KL_OK) {
        goto out;
    }
    if (sk_GENERAL_NAME_num(names) == 0) {
        st = complain(c, KL_INVALID_ARGUMENT, "hosts", "a server certificate needs at least one");
    } else if (X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) != 1) {
        st = complain(c, KL_CRYPTO, "certificate", "its names could not be added");
    }
out:
    GENERAL_NAMES_free(names);
    return st;
}

struct leaf {
    const char *name;
    const char *cluster;
    uint64_t node_id;
    const char *hosts;
    int days;
};

static enum kl_status make_leaf(const struct leaf *leaf, EVP_PKEY *key, X509 *ca, EVP_PKEY *ca_key,
                                const struct complaint *c, X509 **out)
{
    X509 *cert = new_cert(key, ca, leaf->cluster, leaf->name, leaf->days);
    const char *usage = leaf->node_id != 0 ? "serverAuth,clientAuth" : "serverAuth";
    enum kl_status st;
    X509V3_CTX ctx;

    if (cert == NULL) {
        return complain(c, KL_CRYPTO, leaf->name, "the certificate could not be made");
    }
    st = add_names(cert, leaf->cluster, leaf->node_id, leaf->hosts, c);
    if (st != KL_OK) {
        goto out;
    }
    X509V3_set_ctx(&ctx, ca, cert, NULL, NULL, 0);
    if (!add_extension(cert, &ctx, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(cert, &ctx, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(cert, &ctx, NID_ext_key_usage, usage) ||
        !add_extension(cert, &ctx, NID_subject_key_identifier, "hash") ||
        !add_extension(cert, &ctx, NID_authority_key_identifier, "keyid:always") ||
        X509_sign(cert, ca_key, EVP_sha256()) <= 0) {
        st = complain(c, KL_CRYPTO, leaf->name, "the certificate could not be signed");
        goto out;
    }
    *out = cert;
    cert = NULL;
out:
    X509_free(cert);
    return st;
}

/* ---- what others call ---- */

static enum kl_status check_common(const char *cluster, int days, const struct complaint *c)
{
    const char *limit = NULL;

    if (kl_location_check(cluster, &limit) != KL_OK) {
        return complain(c, KL_INVALID_ARGUMENT, "cluster", limit);
    }
    if (days == 0 || days > DAYS_MAX || days < -DAYS_MAX) {
        return complain(c, KL_INVALID_ARGUMENT, "days", "must be 1 to 36500");
    }
    return KL_OK;
}

/* The name becomes a file name and a common name. */
static enum kl_status check_name(const char *name, const struct complaint *c)
{
    size_t n = strlen(name);

    if (n == 0 || n > NAME_LEN_MAX || name[0] == '.' || strcmp(name, "ca") == 0 ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != n) {
        return complain(c, KL_INVALID_ARGUMENT, "name",
                        "must be 1 to 64 letters, digits and . _ -, not \"ca\"");
    }
    return KL_OK;
}

enum kl_status kl_ca_create(const char *dir, const char *cluster, unsigned days, char *err,
                            size_t err_len)
{
    const struct complaint c = {err, err_len};
    EVP_PKEY *key = NULL;
    X509 *cert = NULL;
    struct paths paths = {.cert = ""};
    enum kl_status st;

    st = check_common(cluster, days > DAYS_MAX ? 0 : (int)days, &c);
    if (st == KL_OK) {
        st = paths_of(dir, "ca", &c, &paths);
    }
    if (st != KL_OK) {
        return st;
    }
    if (access(paths.cert, F_OK) == 0) {
        return complain(&c, KL_ALREADY_EXISTS, paths.cert, strerrordesc_np(EEXIST));
    }
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        return complain(&c, KL_IO, dir, strerrordesc_np(errno));
    }
    key = EVP_EC_gen("P-256");
    cert = key == NULL ? NULL : make_ca(key, cluster, (int)days);
    if (cert == NULL) {
        st = complain(&c, KL_CRYPTO, paths.cert, "the certificate could not be made");
        goto out;
    }
    st = save(paths.key, NULL, key, false, &c); /* first: a certificate without its key is no use */
    if (st == KL_OK) {
        st = save(paths.cert, cert, NULL, false, &c);
    }
out:
    X509_free(cert);
    EVP_PKEY_free(key); /* wipes it */
    return st;
}

enum kl_status kl_ca_issue(const char *dir, const char *name, const char *cluster, uint64_t node_id,
                           const char *hosts, int days, char *err, size_t err_len)
{
    const struct leaf leaf = {name, cluster, node_id, hosts, days};
    const struct complaint c = {err, err_len};
    EVP_PKEY *ca_key = NULL;
    EVP_PKEY *key = NULL;
    X509 *ca = NULL;
    X509 *cert = NULL;
    struct paths paths = {.cert = ""};
    enum kl_status st;

    st = check_common(cluster, days, &c);
    if (st == KL_OK) {
        st = check_name(name, &c);
    }
    if (st == KL_OK && node_id > KL_NODE_ID_MAX) {
        st = complain(&c, KL_INVALID_ARGUMENT, "node id", "must be 0 to 65535");
    }
    if (st == KL_OK) {
        st = paths_of(dir, "ca", &c, &paths);
    }
    if (st == KL_OK) {
        st = load_ca(&paths, &c, &ca, &ca_key);
    }
    if (st == KL_OK) {
        st = paths_of(dir, name, &c, &paths);
    }
    if (st != KL_OK) {
        goto out;
    }
    key = EVP_EC_gen("P-256");
    if (key == NULL) {
        st = complain(&c, KL_CRYPTO, name, "the key could not be made");
        goto out;
    }
    st = make_leaf(&leaf, key, ca, ca_key, &c, &cert);
    if (st == KL_OK) {
        st = save(paths.key, NULL, key, true, &c);
    }
    if (st == KL_OK) {
        st = save(paths.cert, cert, NULL, true, &c);
    }
out:
    X509_free(cert);
    X509_free(ca);
    EVP_PKEY_free(key);
    EVP_PKEY_free(ca_key);
    return st;
}
