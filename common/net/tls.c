/*
 * TLS contexts. Everything is TLS 1.3 without tickets: a connection lives long, a resumption would
 * only keep secrets around. A node proves its id by the URI SAN "kluis:node:CLUSTER:ID" of a
 * certificate that the cluster's CA has signed.
 */
#include "common/net/conn.h"

#include "common/alloc.h"
#include "common/names.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>

struct kl_tls {
    atomic_uint refs;
    enum kl_tls_role role;
    pthread_mutex_t lock;
    SSL_CTX *ctx; /* lock: replaced by reload */
};

/* AES-128 first: the fastest with AES-NI, and all three are far beyond reach. */
static const char ciphers[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

enum { CHAIN_DEPTH_MAX = 4 };

static const char *last_error(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_last_error());

    return text == NULL ? "unknown error" : text;
}

/* An encrypted key must fail, not stop a daemon to ask a terminal. */
static int no_password(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static enum kl_status readable(const char *what, const char *file, char *err, size_t err_len)
{
    FILE *f;

    if (file == NULL) {
        (void)snprintf(err, err_len, "no %s file is given", what);
        return KL_INVALID_ARGUMENT;
    }
    f = fopen(file, "re");
    if (f == NULL) {
        (void)snprintf(err, err_len, "%s file %s: %s", what, file, strerror(errno));
        return KL_IO;
    }
    (void)fclose(f);
    return KL_OK;
}

static SSL_CTX *context(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());

    if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, ciphers) != 1 || SSL_CTX_set_num_tickets(ctx, 0) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_CLEANSE_PLAINTEXT);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify_depth(ctx, CHAIN_DEPTH_MAX);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    return ctx;
}

/* ID of "kluis:node:CLUSTER:ID", or 0. The text is not NUL-terminated and may hold any byte. */
static uint64_t node_of_uri(struct kl_bytes uri, const char *cluster)
{
    char prefix[sizeof "kluis:node::" + KL_LOCATION_MAX];
    char digits[8];
    size_t prefix_len;
    size_t n;
    uint64_t id;
    int len = snprintf(prefix, sizeof prefix, "kluis:node:%s:", cluster);

    assert(len > 0 && (size_t)len < sizeof prefix);
    prefix_len = (size_t)len;
    if (uri.len <= prefix_len || memcmp(uri.ptr, prefix, prefix_len) != 0) {
        return 0;
    }
    n = uri.len - prefix_len;
    if (n >= sizeof digits || uri.ptr[prefix_len] == '0') {
        return 0;
    }
    memcpy(digits, uri.ptr + prefix_len, n);
    digits[n] = 0;
    if (strlen(digits) != n || kl_number_parse(digits, 1, KL_NODE_ID_MAX, &id) != KL_OK) {
        return 0;
    }
    return id;
}

/* The node that the certificate proves, 0 = none. cert may be NULL. */
static uint64_t node_of_cert(const X509 *cert, const char *cluster)
{
    GENERAL_NAMES *names;
    uint64_t found = 0;

    if (cert == NULL) {
        return 0;
    }
    names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        const ASN1_STRING *uri;
        uint64_t id;

        if (name->type != GEN_URI) {
            continue;
        }
        uri = name->d.uniformResourceIdentifier;
        id = node_of_uri(kl_bytes_of(ASN1_STRING_get0_data(uri), (size_t)ASN1_STRING_length(uri)),
                         cluster);
        if (id != 0 && found != 0 && id != found) {
            found = 0; /* a certificate for two nodes proves neither */
            break;
        }
        found = id != 0 ? id : found;
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    return found;
}

static enum kl_status check_node(SSL_CTX *ctx, const struct kl_tls_files *files, char *err,
                                 size_t err_len)
{
    uint64_t id = node_of_cert(SSL_CTX_get0_certificate(ctx), files->cluster);

    if (id == files->node_id) {
        return KL_OK;
    }
    if (id == 0) {
        (void)snprintf(err, err_len,
                       "certificate file %s: it is of no node of cluster %s; node %" PRIu64
                       " needs one of its own",
                       files->cert_file, files->cluster, files->node_id);
    } else {
        (void)snprintf(err, err_len,
                       "certificate file %s: it is of node %" PRIu64 "; this is node %" PRIu64,
                       files->cert_file, id, files->node_id);
    }
    return KL_INVALID_ARGUMENT;
}

static enum kl_status load_own(SSL_CTX *ctx, const struct kl_tls_files *files, char *err,
                               size_t err_len)
{
    enum kl_status st = readable("certificate", files->cert_file, err, err_len);

    if (st == KL_OK) {
        st = readable("key", files->key_file, err, err_len);
    }
    if (st != KL_OK) {
        return st;
    }
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(ctx, files->cert_file) != 1) {
        (void)snprintf(err, err_len, "certificate file %s: %s", files->cert_file, last_error());
        return KL_CRYPTO;
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, files->key_file, SSL_FILETYPE_PEM) != 1) {
        (void)snprintf(err, err_len, "key file %s: %s", files->key_file, last_error());
        return KL_CRYPTO;
    }
    if (SSL_CTX_check_private_key(ctx) != 1) {
        (void)snprintf(err, err_len, "key file %s does not belong to certificate file %s",
                       files->key_file, files->cert_file);
        return KL_CRYPTO;
    }
    return files->cluster == NULL ? KL_OK : check_node(ctx, files, err, err_len);
}

static enum kl_status load_ca(SSL_CTX *ctx, const struct kl_tls_files *files, char *err,
                              size_t err_len)
{
    enum kl_status st = readable("CA", files->ca_file, err, err_len);

    if (st != KL_OK) {
        return st;
    }
    ERR_clear_error();
    if (SSL_CTX_load_verify_file(ctx, files->ca_file) != 1) {
        (void)snprintf(err, err_len, "CA file %s: %s", files->ca_file, last_error());
        return KL_CRYPTO;
    }
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return KL_OK;
}

static enum kl_status load(enum kl_tls_role role, const struct kl_tls_files *files, SSL_CTX **out,
                           char *err, size_t err_len)
{
    SSL_CTX *ctx = context();
    enum kl_status st = KL_OK;

    if (ctx == NULL) {
        (void)snprintf(err, err_len, "no TLS context: %s", last_error());
        st = KL_CRYPTO;
        goto out;
    }
    if (role != KL_TLS_SERVER) {
        st = load_ca(ctx, files, err, err_len);
        if (st != KL_OK) {
            goto out;
        }
    }
    if (role != KL_TLS_CLIENT || files->cert_file != NULL) {
        st = load_own(ctx, files, err, err_len);
        if (st != KL_OK) {
            goto out;
        }
    }
    *out = ctx;
    ctx = NULL;
out:
    SSL_CTX_free(ctx);
    ERR_clear_error();
    return st;
}

enum kl_status kl_tls_new(enum kl_tls_role role, const struct kl_tls_files *files,
                          struct kl_tls **out, char *err, size_t err_len)
{
    SSL_CTX *ctx = NULL;
    struct kl_tls *tls;
    enum kl_status st = load(role, files, &ctx, err, err_len);

    if (st != KL_OK) {
        return st;
    }
    tls = kl_calloc(1, sizeof *tls);
    if (tls == NULL) {
        (void)snprintf(err, err_len, "out of memory");
        SSL_CTX_free(ctx);
        return KL_NO_MEMORY;
    }
    atomic_init(&tls->refs, 1);
    tls->role = role;
    tls->ctx = ctx;
    (void)pthread_mutex_init(&tls->lock, NULL);
    *out = tls;
    return KL_OK;
}

enum kl_status kl_tls_reload(struct kl_tls *tls, const struct kl_tls_files *files, char *err,
                             size_t err_len)
{
    SSL_CTX *ctx = NULL;
    SSL_CTX *old;
    enum kl_status st = load(tls->role, files, &ctx, err, err_len);

    if (st != KL_OK) {
        return st;
    }
    (void)pthread_mutex_lock(&tls->lock);
    old = tls->ctx;
    tls->ctx = ctx;
    (void)pthread_mutex_unlock(&tls->lock);
    SSL_CTX_free(old); /* every SSL made from it holds a reference of its own */
    return KL_OK;
}

void kl_tls_retain(struct kl_tls *tls)
{
    (void)atomic_fetch_add(&tls->refs, 1);
}

void kl_tls_free(struct kl_tls *tls)
{
    if (tls == NULL || atomic_fetch_sub(&tls->refs, 1) != 1) {
        return;
    }
    SSL_CTX_free(tls->ctx);
    (void)pthread_mutex_destroy(&tls->lock);
    kl_free(tls);
}

enum kl_tls_role kl_tls_role(const struct kl_tls *tls)
{
    return tls->role;
}

SSL *kl_tls_ssl(struct kl_tls *tls)
{
    SSL *ssl;

    (void)pthread_mutex_lock(&tls->lock);
    ssl = SSL_new(tls->ctx);
    (void)pthread_mutex_unlock(&tls->lock);
    return ssl;
}

enum kl_status kl_tls_expect_host(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    bool v6;

    if (kl_address_literal(host, &v6)) {
        return X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1 ? KL_OK : KL_NO_MEMORY;
    }
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (host[0] == 0 || X509_VERIFY_PARAM_set1_host(param, host, 0) != 1 ||
        SSL_set_tlsext_host_name(ssl, host) != 1) {
        return KL_INVALID_ARGUMENT;
    }
    return KL_OK;
}

uint64_t kl_tls_peer_node(const SSL *ssl, const char *cluster)
{
    return node_of_cert(SSL_get0_peer_certificate(ssl), cluster);
}

enum kl_status kl_tls_failure(const SSL *ssl, const char **text)
{
    long verify = SSL_get_verify_result(ssl);
    int reason = ERR_GET_REASON(ERR_peek_last_error());
    enum kl_status st = KL_PROTOCOL;

    *text = last_error();
    if (verify != X509_V_OK) {
        *text = X509_verify_cert_error_string(verify);
        st = KL_UNAUTHENTICATED;
    } else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE ||
               (reason >= SSL_AD_REASON_OFFSET + SSL_AD_BAD_CERTIFICATE &&
                reason <= SSL_AD_REASON_OFFSET + SSL_AD_CERTIFICATE_UNKNOWN) ||
               reason == SSL_AD_REASON_OFFSET + SSL_AD_UNKNOWN_CA ||
               reason == SSL_AD_REASON_OFFSET + SSL_AD_ACCESS_DENIED ||
               reason == SSL_AD_REASON_OFFSET + TLS13_AD_CERTIFICATE_REQUIRED) {
        st = KL_UNAUTHENTICATED; /* the other side does not accept our certificate */
    }
    ERR_clear_error();
    return st;
}

/* ---- the BIO: TLS reads what the last nng read brought and appends to the ciphertext out ---- */

static int bio_read(BIO *bio, char *out, int n)
{
    struct kl_conn *conn = BIO_get_data(bio);
    size_t have = conn->raw_len - conn->raw_pos;
    size_t take = n < 0 ? 0 : (size_t)n;

    BIO_clear_retry_flags(bio);
    if (have == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    take = take < have ? take : have;
    memcpy(out, conn->raw + conn->raw_pos, take);
    conn->raw_pos += take;
    return (int)take;
}

static int bio_write(BIO *bio, const char *in, int n)
{
    struct kl_conn *conn = BIO_get_data(bio);
    struct kl_cipher *enc = &conn->enc;
    size_t need = enc->len + (n < 0 ? 0 : (size_t)n);

    BIO_clear_retry_flags(bio);
    if (n <= 0 || need > KL_NET_CIPHER_MAX) {
        return -1; /* a peer that makes TLS talk without ever reading ends here */
    }
    if (need > enc->cap) {
        size_t cap = enc->cap == 0 ? KL_NET_READ_MIN : enc->cap;
        uint8_t *p;

        while (cap < need) {
            cap *= 2;
        }
        p = kl_realloc(enc->ptr, cap);
        if (p == NULL) {
            return -1;
        }
        enc->ptr = p;
        enc->cap = cap;
    }
    memcpy(enc->ptr + enc->len, in, (size_t)n);
    enc->len = need;
    return n;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    (void)bio;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH ? 1 : 0;
}

static int bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

BIO_METHOD *kl_tls_bio_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "kluis connection");

    if (method == NULL || BIO_meth_set_read(method, bio_read) != 1 ||
        BIO_meth_set_write(method, bio_write) != 1 || BIO_meth_set_ctrl(method, bio_ctrl) != 1 ||
        BIO_meth_set_create(method, bio_create) != 1) {
        BIO_meth_free(method);
        return NULL;
    }
    return method;
}
