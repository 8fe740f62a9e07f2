#include "tests/lib/test.h"

#include "server/crypto/ca.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

static X509 *load(const char *dir, const char *name)
{
    char path[512];
    X509 *cert;
    FILE *f;

    (void)snprintf(path, sizeof path, "%s/%s.crt", dir, name);
    f = fopen(path, "r");
    assert_non_null(f);
    cert = PEM_read_X509(f, NULL, NULL, NULL);
    (void)fclose(f);
    assert_non_null(cert);
    return cert;
}

/* Verifies DIR/NAME.crt against the CA of ca_dir for a purpose; returns OpenSSL's error. */
static int verify(const char *ca_dir, const char *dir, const char *name, int purpose)
{
    X509 *ca = load(ca_dir, "ca");
    X509 *cert = load(dir, name);
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    int error;

    CHECK(store != NULL && ctx != NULL);
    CHECK_EQ(X509_STORE_add_cert(store, ca), 1);
    CHECK_EQ(X509_STORE_CTX_init(ctx, store, cert, NULL), 1);
    X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(ctx), X509_V_FLAG_X509_STRICT);
    CHECK_EQ(X509_STORE_CTX_set_purpose(ctx, purpose), 1);
    (void)X509_verify_cert(ctx);
    error = X509_STORE_CTX_get_error(ctx);
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    X509_free(cert);
    X509_free(ca);
    return error;
}

static mode_t mode_of(const char *dir, const char *file)
{
    char path[512];
    struct stat s;

    (void)snprintf(path, sizeof path, "%s/%s", dir, file);
    return stat(path, &s) == 0 ? s.st_mode & 07777 : 0;
}

static const char *new_ca(void)
{
    const char *dir = test_dir();
    char err[512] = "";

    CHECK_OK(kl_ca_create(dir, "test", 30, err, sizeof err));
    return dir;
}

static void issue(const char *dir, const char *name, uint64_t node_id, const char *hosts, int days)
{
    char err[512] = "";

    CHECK_OK(kl_ca_issue(dir, name, "test", node_id, hosts, days, err, sizeof err));
}

/* A node's certificate serves both ends of a connection; a server's only one. */
TEST(ca, certificates_verify)
{
    const char *dir = new_ca();

    issue(dir, "n1", 1, "127.0.0.1,localhost,::1", 10);
    issue(dir, "web", 0, "vault.example.net", 10);
    CHECK_EQ(verify(dir, dir, "n1", X509_PURPOSE_SSL_SERVER), X509_V_OK);
    CHECK_EQ(verify(dir, dir, "n1", X509_PURPOSE_SSL_CLIENT), X509_V_OK);
    CHECK_EQ(verify(dir, dir, "web", X509_PURPOSE_SSL_SERVER), X509_V_OK);
    CHECK_EQ(verify(dir, dir, "web", X509_PURPOSE_SSL_CLIENT), X509_V_ERR_INVALID_PURPOSE);
    CHECK_EQ(mode_of(dir, "ca.key"), 0600);
    CHECK_EQ(mode_of(dir, "n1.key"), 0600);
    CHECK_EQ(mode_of(dir, "n1.crt"), 0644);
}

/* Expired and foreign certificates are refused, each for its own reason. */
TEST(ca, expired_and_foreign)
{
    const char *dir = new_ca();
    const char *other = new_ca();

    issue(dir, "old", 1, "localhost", -1);
    issue(dir, "n1", 1, "localhost", 1);
    CHECK_EQ(verify(dir, dir, "old", X509_PURPOSE_SSL_SERVER), X509_V_ERR_CERT_HAS_EXPIRED);
    CHECK_NE(verify(other, dir, "n1", X509_PURPOSE_SSL_SERVER), X509_V_OK);
}

/* A leaf cannot sign: what "n1" issues is worth nothing. */
TEST(ca, leaf_is_no_ca)
{
    const char *dir = new_ca();
    X509 *leaf;

    issue(dir, "n1", 1, "localhost", 1);
    leaf = load(dir, "n1");
    CHECK_EQ(X509_check_ca(leaf), 0);
    X509_free(leaf);
    leaf = load(dir, "ca");
    CHECK_EQ(X509_check_ca(leaf), 1);
    X509_free(leaf);
}

static bool has_uri(X509 *cert, const char *uri)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool found = false;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        if (name->type == GEN_URI) {
            const ASN1_STRING *s = name->d.uniformResourceIdentifier;

            found = found || ((size_t)ASN1_STRING_length(s) == strlen(uri) &&
                              memcmp(ASN1_STRING_get0_data(s), uri, strlen(uri)) == 0);
        }
    }
    GENERAL_NAMES_free(names);
    return found;
}

/* The names asked for are in the certificate, and no others. */
TEST(ca, names)
{
    const char *dir = new_ca();
    X509 *cert;

    issue(dir, "n7", 7, "127.0.0.1,db.example.net,2001:db8::1", 1);
    cert = load(dir, "n7");
    CHECK(has_uri(cert, "kluis:node:test:7"));
    CHECK_EQ(X509_check_ip_asc(cert, "127.0.0.1", 0), 1);
    CHECK_EQ(X509_check_ip_asc(cert, "2001:db8::1", 0), 1);
    CHECK_EQ(X509_check_ip_asc(cert, "127.0.0.2", 0), 0);
    CHECK_EQ(X509_check_host(cert, "db.example.net", 0, 0, NULL), 1);
    CHECK_EQ(X509_check_host(cert, "example.net", 0, 0, NULL), 0);
    X509_free(cert);
    issue(dir, "web", 0, "localhost", 1);
    cert = load(dir, "web");
    CHECK(!has_uri(cert, "kluis:node:test:0"));
    X509_free(cert);
}

/* A CA is never replaced; a leaf is, so that it can be renewed, and its serial differs. */
TEST(ca, overwriting)
{
    const char *dir = new_ca();
    char err[512] = "";
    X509 *first;
    X509 *second;

    CHECK_STATUS(kl_ca_create(dir, "test", 30, err, sizeof err), KL_ALREADY_EXISTS);
    CHECK(strstr(err, "ca.crt") != NULL);
    issue(dir, "n1", 1, "localhost", 1);
    first = load(dir, "n1");
    issue(dir, "n1", 1, "localhost", 2);
    second = load(dir, "n1");
    CHECK(ASN1_INTEGER_cmp(X509_get0_serialNumber(first), X509_get0_serialNumber(second)) != 0);
    CHECK_EQ(verify(dir, dir, "n1", X509_PURPOSE_SSL_SERVER), X509_V_OK);
    X509_free(first);
    X509_free(second);
}

/* A CA key without certificate is kept too: it may be the only copy. */
TEST(ca, half_a_ca_is_kept)
{
    const char *dir = new_ca();
    char path[512];
    char err[512] = "";

    (void)snprintf(path, sizeof path, "%s/ca.crt", dir);
    CHECK_EQ(unlink(path), 0);
    CHECK_STATUS(kl_ca_create(dir, "test", 30, err, sizeof err), KL_ALREADY_EXISTS);
    CHECK(strstr(err, "ca.key") != NULL);
    CHECK_NE(access(path, F_OK), 0);
}

/* Bad arguments are refused in words, and leave no file. */
TEST(ca, bad_arguments)
{
    static const struct {
        const char *name;
        const char *cluster;
        uint64_t node_id;
        const char *hosts;
        int days;
        const char *words;
    } rows[] = {
        {"bad", "Test", 1, "localhost", 1, "cluster: "},
        {"bad", "test", 1, "localhost", 0, "days: "},
        {"bad", "test", 1, "localhost", 40000, "days: "},
        {"bad", "test", 65536, "localhost", 1, "node id: "},
        {"../bad", "test", 1, "localhost", 1, "name: "},
        {"ca", "test", 1, "localhost", 1, "name: "},
        {"", "test", 1, "localhost", 1, "name: "},
        {".bad", "test", 1, "localhost", 1, "name: "},
        {"bad", "test", 1, "a b", 1, "a b: is neither"},
        {"bad", "test", 1, "localhost,,x", 1, "hosts: "},
        {"bad", "test", 1, "x,URI:kluis:node:test:2", 1, "URI:kluis:node:test:2: is neither"},
        {"bad", "test", 0, "", 1, "hosts: "},
    };
    const char *dir = new_ca();
    char err[512];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        err[0] = '\0';
        CHECK_STATUS(kl_ca_issue(dir, rows[i].name, rows[i].cluster, rows[i].node_id, rows[i].hosts,
                                 rows[i].days, err, sizeof err),
                     KL_INVALID_ARGUMENT);
        CHECK(strstr(err, rows[i].words) == err);
        CHECK_EQ(mode_of(dir, "bad.crt"), 0);
        CHECK_EQ(mode_of(dir, "bad.key"), 0);
    }
    CHECK_STATUS(kl_ca_issue(test_dir(), "n1", "test", 1, "localhost", 1, err, sizeof err), KL_IO);
    CHECK_STATUS(kl_ca_create("/no/such/directory", "test", 1, err, sizeof err), KL_IO);
    CHECK_STATUS(kl_ca_create(test_dir(), "test", 0, err, sizeof err), KL_INVALID_ARGUMENT);
}
