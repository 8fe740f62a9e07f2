/*
 * For tests over real connections on loopback: certificates made once per program, and handlers
 * that count what happens and let a test wait for it.
 */
#ifndef NET_FIXTURE_H
#define NET_FIXTURE_H

#include "common/buf.h"
#include "common/limits.h"
#include "common/net/net.h"
#include "tests/lib/test.h"

#include <pthread.h>
#include <stdatomic.h>

#define CLUSTER "testing"

enum { WAIT_MS = 60000 };

/* Names of certificates: all of one CA unless said otherwise. */
#define CERT_NODE1   "node1"   /* CLUSTER, node 1, localhost, 127.0.0.1, ::1 */
#define CERT_NODE2   "node2"   /* CLUSTER, node 2 */
#define CERT_NODE3   "node3"   /* CLUSTER, node 3 */
#define CERT_SERVER  "server"  /* no node id; localhost, 127.0.0.1, ::1 */
#define CERT_EXPIRED "expired" /* as node1, expired */
#define CERT_FOREIGN "foreign" /* node 1 of another cluster */
#define CERT_ALIEN   "alien"   /* as node1, by another CA, which clients of it trust */

struct kl_tls *fixture_tls(enum kl_tls_role role, const char *cert);
struct kl_tls_files fixture_files(const char *cert); /* strings live as long as the program */
const char *fixture_dir(void);

enum watch_mode {
    WATCH_COUNT, /* frames are counted */
    WATCH_ECHO,  /* and every REQUEST is answered with a REPLY of the same body */
};

/* Counters of one or many connections; the handler's user. */
struct watch {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum watch_mode mode;
    unsigned opens, closes, calls; /* calls of on_frames */
    size_t frames, bytes;
    uint64_t node;         /* of the last on_open */
    enum kl_status status; /* of the last on_close */
    char reason[160];
    struct kl_frame last; /* body not kept */
    struct kl_conn *conn; /* retained, of the last on_open */
};

extern const struct kl_conn_handler watch_handler;

void watch_init(struct watch *w, enum watch_mode mode);
void watch_done(struct watch *w);
/* Waits until the counter reaches n; false after WAIT_MS. */
bool watch_opens(struct watch *w, unsigned n);
bool watch_closes(struct watch *w, unsigned n);
bool watch_frames(struct watch *w, size_t n);
bool watch_bytes(struct watch *w, size_t n);

/* A set with an echoing listener on a port of its own, and a client's TLS. */
struct fixture {
    struct kl_net *net;
    struct kl_tls *server_tls, *client_tls;
    struct kl_listener *listener;
    struct watch server, client;
    char address[64];
    uint16_t port;
};
void fixture_init(struct fixture *f, enum kl_tls_role server_role);
void fixture_done(struct fixture *f); /* frees the set first: everything must be called back */
/* Dials the listener with the client's watch; release it. */
struct kl_conn *fixture_dial(struct fixture *f);
struct kl_conn_options fixture_options(struct watch *w);

/* A plain TCP socket, connected to the port; for hostile clients. */
int raw_connect(uint16_t port);
void raw_reset(int fd); /* closes with RST */
/* true when the other side closes within the time */
bool raw_closed(int fd, int timeout_ms);

uint64_t test_now_ms(void);
unsigned test_open_files(void);

#endif
