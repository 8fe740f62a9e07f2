/*
 * Inside libkluis: what its files share. Nothing here is installed.
 *
 * One lock per client protects everything that is not marked otherwise. No function of common/net
 * and no callback of the user is ever called with it held: what has to happen outside is written
 * down in a struct kl_work while the lock is held, and done by kl_work_run() after it.
 *
 * A call's life (call.c, attempt.c):
 *
 *      start -> QUEUED (connection is being made, or full) -> SENT -> DONE
 *                 ^                                            |
 *                 +------------- PAUSED (back-off) <-----------+
 */
#ifndef KL_CLIENT_INTERNAL_H
#define KL_CLIENT_INTERNAL_H

#include "client/include/kluis.h"
#include "common/alloc.h"
#include "common/buf.h"
#include "common/limits.h"
#include "common/net/net.h"
#include "common/status.h"

#include "rpc.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>

#define KL_CLIENT_BUCKETS 1024 /* of one connection's calls; a power of two */
#define KL_ROUTE_KEY_MAX  (KL_VAULT_NAME_MAX + 3)
#define KL_NO_GROUP       UINT32_MAX

struct kl_line;

/* ---------------------------------------------------------------- calls */

/* What is to be called; filled in by the caller of kl_call_start. */
struct kl_request {
    const char *method;         /* borrowed; copied */
    bool write;                 /* gets a request id and an expiry */
    char key[KL_ROUTE_KEY_MAX]; /* calls of one key go to one leader; "" = any */
    const char *node;           /* "host:port" to ask just that node; NULL = whoever leads */
    uint32_t timeout_ms;        /* 0 = client default */
    bool internal;         /* of the library itself: what this thread asked for does not count */
    struct kl_buf payload; /* packed request message; moved and wiped */
};

/*
 * The end of a call, once. reply is NULL unless the status is KL_OK; then it belongs to the
 * callee (kl_reply_free). text is borrowed. Runs on a thread of the client, or of a caller who
 * happens to find out that the call has failed.
 */
typedef void (*kl_call_fn)(void *arg, enum kl_status status, Kluis__V1__Reply *reply,
                           const char *text);

enum kl_call_state { KL_CALL_QUEUED, KL_CALL_SENT, KL_CALL_PAUSED, KL_CALL_DONE };

struct kl_call {
    /* Fixed at the start; read without the lock. */
    atomic_uint refs;
    char method[KL_METHOD_MAX + 1];
    bool write;
    bool internal;
    struct kluis_read read; /* never KLUIS_READ_DEFAULT */
    uint8_t request_id[KL_ID_LEN];
    struct kl_buf payload;
    uint64_t deadline_us; /* monotonic */
    uint64_t expires_ms;  /* Call.expires_ms; 0 = not known; changed only between two tries */
    char key[KL_ROUTE_KEY_MAX];
    int pinned; /* endpoint to ask, no other; -1 */
    kl_call_fn done;
    void *arg;

    /* Under the client's lock. */
    enum kl_call_state state;
    struct kl_line *line; /* QUEUED and SENT */
    uint32_t stream;      /* SENT */
    struct kl_call *next, *prev;
    uint64_t wake_us; /* when the timer looks at it: the deadline, or the end of a pause */
    size_t heap_at;   /* index in the client's heap */
    int hint;         /* endpoint to try next; -1 */
    int avoid;        /* endpoint that failed last; -1 */
    unsigned hops;    /* tries since the last pause */
    unsigned pauses;
    unsigned changed_n;
    bool renewed; /* expires_ms, because the servers' time had moved on */
    bool unknown; /* a try may have been carried out without our hearing of it */

    /* Of the last try; fixed once the call is DONE. */
    enum kl_status status;
    char text[KL_CLIENT_MESSAGE_MAX];
    Kluis__V1__Reply *reply;
};

/* ---------------------------------------------------------------- connections */

struct kl_call_list {
    struct kl_call *first, *last;
};

struct kl_line {
    atomic_uint refs; /* the client's list, common/net until on_close, and senders */
    struct kluis_client *client;
    int endpoint;
    char address[KL_CLIENT_ADDRESS_MAX];
    char host[KL_CLIENT_ADDRESS_MAX]; /* to be proven by the certificate */
    struct kl_assembler *assembler;   /* only for on_frames */

    struct kl_line *next, *prev; /* in client->lines */
    struct kl_conn *conn;        /* retained; NULL until dialled */
    bool open;                   /* handshake done */
    bool leaving;                /* GOAWAY or broken: takes no new calls */
    bool closed;                 /* on_close has come */
    uint32_t last_stream;
    unsigned sent_n;
    struct kl_call_list buckets[KL_CLIENT_BUCKETS]; /* SENT, by stream */
    struct kl_call_list queue;                      /* QUEUED, in order */
    uint64_t heard_us;                              /* when anything arrived, or waiting began */
    uint64_t pinged_us;                             /* 0 = no PING under way */
};

struct kl_endpoint {
    char address[KL_CLIENT_ADDRESS_MAX]; /* "host:port" */
    char host[KL_CLIENT_ADDRESS_MAX];
    bool configured;
    unsigned pins;                    /* calls that may go nowhere else */
    struct kl_line *line;             /* the one for new calls; NULL */
    uint64_t blocked_until_us;        /* not tried before */
    unsigned failures;                /* in a row, of connecting */
    bool untrusted;                   /* its certificate was refused the last time */
    bool doubted;                     /* see kl_route_choose */
    uint64_t used;                    /* client->uses when last chosen */
    char region[KL_LOCATION_MAX + 1]; /* as the nodes say; "" = not known */
    bool witness;                     /* serves no vault */
    bool kept;                        /* its connection stands for its region */
    uint64_t kept_us;                 /* when it was last dialled for that */
};

/* ---------------------------------------------------------------- client */

struct kl_route_entry {
    char key[KL_ROUTE_KEY_MAX];
    int endpoint;   /* meaningful when group is unknown */
    uint32_t group; /* KL_NO_GROUP = unknown */
};

struct kluis_client {
    struct kl_net *net;
    struct kl_tls *tls;
    char *authorization; /* "Bearer TOKEN", wiped on close; NULL = none */
    uint32_t timeout_ms;
    bool no_wait;
    struct kluis_read read; /* never KLUIS_READ_DEFAULT */

    pthread_mutex_t lock;
    pthread_cond_t timer_wake;
    pthread_t timer;
    bool timer_runs;
    uint64_t timer_at_us; /* when the timer thread wakes by itself */
    bool closing;
    size_t active;         /* calls whose done has not returned, and threads inside a start */
    struct kl_call *ended; /* for the timer thread to report */
    uint64_t started;      /* calls ever */

    struct kl_call **heap; /* every call that is not DONE, by wake_us */
    size_t heap_n, heap_cap;

    struct kl_line *lines;
    struct kl_endpoint endpoints[KL_CLIENT_ENDPOINTS_MAX];
    int endpoints_n;
    bool brief;
    bool keeps;              /* regions are known: the timer has something to do without calls */
    uint64_t answered;       /* calls of the user that were */
    uint64_t answered_asked; /* of them when the nodes were last asked for */
    uint64_t asked_us;
    int favourite; /* answered last; -1 */
    int next_try;  /* round robin */
    uint64_t uses;
    struct kl_route_entry routes[KL_CLIENT_ROUTES_MAX];
    int leaders[KL_GROUPS_MAX]; /* endpoint by group; -1 */
    uint64_t random;

    atomic_llong server_ahead_ms; /* server time minus our monotonic time */
    atomic_bool server_time_known;
};

uint64_t kl_client_now_us(void);
/* xorshift64*; under the lock. */
uint64_t kl_client_random(struct kluis_client *client);
/* Sets kluis_last_error() of this thread. */
void kl_client_explain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Whether this thread is inside a callback of the user; then it must not wait. */
void kl_client_in_callback(bool yes);
bool kl_client_may_block(void);
/* status as the public enum. */
static inline enum kluis_status kl_public(enum kl_status st)
{
    return (enum kluis_status)st;
}

/* ---- what is to be done without the lock ---- */

struct kl_send {
    struct kl_call *call; /* referenced */
    struct kl_line *line; /* referenced */
    uint32_t stream;
};
struct kl_work {
    bool foreign; /* this thread is not the client's: ends are left to the timer thread */
    size_t sends_n, cancels_n, ends_n, lines_n;
    struct kl_send sends[KL_CLIENT_BATCH_MAX];
    struct kl_send cancels[KL_CLIENT_BATCH_MAX]; /* call is NULL */
    struct kl_call *ends[KL_CLIENT_BATCH_MAX];   /* the client's reference */
    struct {
        enum kl_line_do { KL_LINE_DIAL, KL_LINE_PING, KL_LINE_CLOSE } what;
        struct kl_line *line; /* referenced */
    } lines[KL_CLIENT_BATCH_MAX];
};
void kl_work_init(struct kl_work *work);
bool kl_work_empty(const struct kl_work *work);
/* There is no room for what one more call may need: run, then go on. */
bool kl_work_full(const struct kl_work *work);
/* Does it, and what follows from it. Lock not held. */
void kl_work_run(struct kluis_client *client, struct kl_work *work);
/* The same, from under the lock and back; the work is empty afterwards. */
void kl_work_flush(struct kluis_client *client, struct kl_work *work);
void kl_work_send(struct kl_work *work, struct kl_line *line, struct kl_call *call);
void kl_work_line(struct kl_work *work, struct kl_line *line, enum kl_line_do what);
/* n calls, or threads inside a start, have gone. Lock not held. */
void kl_client_leave(struct kluis_client *client, size_t n);

/* ---- call.c ---- */

/* Moves request->payload in any case. On failure done is not called. */
KL_MUST_USE enum kl_status kl_call_start(struct kluis_client *client, struct kl_request *request,
                                         kl_call_fn done, void *arg);
/* Starts and waits. *reply is the caller's. Explains failures to kluis_last_error(). */
KL_MUST_USE enum kl_status kl_call_wait(struct kluis_client *client, struct kl_request *request,
                                        Kluis__V1__Reply **reply);
/* When a write with so much time left must not happen any more, by the servers' time; 0 = not known. */
uint64_t kl_call_expiry(struct kluis_client *client, uint64_t now_us, uint32_t timeout_ms);
void kl_call_retain(struct kl_call *call);
void kl_call_release(struct kl_call *call);

/* ---- attempt.c: which try comes next; all under the lock ---- */

/* Chooses an endpoint and queues the call there, or pauses it. */
void kl_attempt(struct kluis_client *client, struct kl_call *call, struct kl_work *work);
/*
 * The try has failed before an answer came (the call is off its line). KL_UNAVAILABLE: the
 * connection ended; sent: the request may have arrived. Others are shortages on our side.
 */
void kl_attempt_lost(struct kluis_client *client, struct kl_call *call, int endpoint,
                     enum kl_status status, bool sent, const char *why, struct kl_work *work);
/* A reply came. Takes it. */
void kl_attempt_replied(struct kluis_client *client, struct kl_call *call, int endpoint,
                        Kluis__V1__Reply *reply, struct kl_work *work);
/* The call's timer is due: the deadline, or the end of a pause. */
void kl_attempt_timer(struct kluis_client *client, struct kl_call *call, uint64_t now_us,
                      struct kl_work *work);
/* Ends the call; reply (NULL unless KL_OK) is taken. */
void kl_attempt_end(struct kluis_client *client, struct kl_call *call, enum kl_status status,
                    Kluis__V1__Reply *reply, struct kl_work *work);

/* ---- route.c: addresses and leaders; all under the lock but kl_endpoint_split ---- */

/* "host:port" or "[v6]:port" into its host; KL_INVALID_ARGUMENT. */
KL_MUST_USE enum kl_status kl_endpoint_split(const char *address, char *host, size_t host_len);
/* The endpoint of an address, added when there is room (an unused learned one gives way); -1. */
int kl_route_endpoint(struct kluis_client *client, const char *address, bool configured);
/*
 * The endpoint to try for the call, -1 when none may be tried before *at_us.
 *
 * A node that has gone silent (a dial that hangs included) says nothing of why, and those of its
 * region may have gone with it: all of them are doubted, each until it gives a sign of life itself.
 * As long as there is a connection to a node that is not doubted and no witness, no call is sent to
 * a doubted one or waits for a connection to it, except a call that asks for just that node. When it
 * was a doubted one's turn, or others point at it, it is asked for a sign of life without the call:
 * it is *ask (kl_line_ask), else -1. A refusal or a close is no silence.
 */
int kl_route_choose(struct kluis_client *client, struct kl_call *call, uint64_t now_us,
                    uint64_t *at_us, int *ask);
/* It has gone silent; it has given a sign of life. */
void kl_route_silent(struct kluis_client *client, int endpoint);
void kl_route_alive(struct kluis_client *client, int endpoint);
void kl_route_good(struct kluis_client *client, const char *key, int endpoint);
void kl_route_hint(struct kluis_client *client, const char *key, uint32_t group, int endpoint);
void kl_route_bad(struct kluis_client *client, const char *key, int endpoint);
/* A key for calls on a vault: '\1' + the name in lower case; "" when it is too long to be one. */
void kl_route_key(char kind, const char *vault, char key[KL_ROUTE_KEY_MAX]);

/* ---- line.c: connections ---- */

/* Puts the call on the endpoint's connection, dialling it when there is none; under the lock. */
KL_MUST_USE enum kl_status kl_line_put(struct kluis_client *client, int endpoint,
                                       struct kl_call *call, struct kl_work *work);
/* Dials the endpoint, which has no connection, without a call; under the lock. */
KL_MUST_USE enum kl_status kl_line_open(struct kluis_client *client, int endpoint,
                                        struct kl_work *work);
/* Asks the endpoint for a sign of life, unless that is under way: a dial or a PING; under the lock. */
void kl_line_ask(struct kluis_client *client, int endpoint, struct kl_work *work);
/* Takes a QUEUED or SENT call off its line, which may go on with the next; under the lock. */
void kl_line_take(struct kl_call *call, struct kl_work *work);
/* The call that was SENT on this stream, or NULL; under the lock. */
struct kl_call *kl_line_find(struct kl_line *line, uint32_t stream);
/* Sends from the queue what may go, closes a leaving line that is empty; under the lock. */
void kl_line_settle(struct kl_line *line, size_t sends_max, struct kl_work *work);
/* No more calls go onto this connection; under the lock. */
void kl_line_retire(struct kl_line *line);
/* Looks for dead connections; under the lock. Lowers *next_us to when to look again. */
void kl_line_sweep(struct kluis_client *client, uint64_t now_us, uint64_t *next_us,
                   struct kl_work *work);
/* It could not be made, or has ended: its calls go on elsewhere. Gives back the first reference. */
void kl_line_closed(struct kl_line *line, enum kl_status status, const char *reason, bool foreign);
void kl_line_dial(struct kl_line *line, bool foreign);
void kl_line_ping(struct kl_line *line);
void kl_line_close(struct kl_line *line);
void kl_line_retain(struct kl_line *line);
void kl_line_release(struct kl_line *line);
extern const struct kl_conn_handler kl_line_handler; /* receive.c */

/* ---- regions.c ---- */

/* Are the nodes to be asked for now? Then kl_regions_ask, without the lock. Under the lock. */
bool kl_regions_ask_due(struct kluis_client *client, uint64_t now_us);
void kl_regions_ask(struct kluis_client *client);
/* Sees to one connection per region; false: no region is known. Lowers *next_us to when to look
 * again. Under the lock. */
bool kl_regions_keep(struct kluis_client *client, uint64_t now_us, uint64_t *next_us,
                     struct kl_work *work);

/* ---- timer.c ---- */

KL_MUST_USE enum kl_status kl_timer_start(struct kluis_client *client);
void kl_timer_stop(struct kluis_client *client);
/* Under the lock. */
KL_MUST_USE enum kl_status kl_timer_add(struct kluis_client *client, struct kl_call *call);
void kl_timer_move(struct kluis_client *client, struct kl_call *call, uint64_t wake_us);
void kl_timer_remove(struct kluis_client *client, struct kl_call *call);

/* ---- message.c ---- */

/* Packs the envelope of one try. */
KL_MUST_USE enum kl_status kl_message_pack(const struct kluis_client *client,
                                           const struct kl_call *call, uint64_t now_us,
                                           struct kl_buf *out);
/* Unpacks within bounds: KL_PROTOCOL, KL_NO_MEMORY. Free with kl_reply_free / kl_pb_wipe_free. */
KL_MUST_USE enum kl_status kl_message_unpack(const ProtobufCMessageDescriptor *type,
                                             struct kl_bytes packed, ProtobufCMessage **out);
KL_MUST_USE enum kl_status kl_message_put(const void *message, struct kl_buf *out);
void kl_reply_free(Kluis__V1__Reply *reply);
enum kl_status kl_reply_status(const Kluis__V1__Reply *reply);
/* What the reply says for people: message, fields and limits. */
void kl_reply_text(const Kluis__V1__Reply *reply, char *out, size_t out_len);

/* protobuf-c's types do not say that packing only reads: borrowed, never written through. */
static inline char *kl_pb_text(const char *text)
{
    union {
        const char *in;
        char *out;
    } u = {.in = text};

    return u.out;
}
static inline ProtobufCBinaryData kl_pb_bytes(const void *p, size_t n)
{
    union {
        const void *in;
        void *out;
    } u = {.in = p};

    return (ProtobufCBinaryData){n, u.out};
}

/* ---- convert.c ---- */

struct kl_tag_array { /* tags of the user as messages; the strings stay borrowed */
    Kluis__V1__Tag *tags;
    Kluis__V1__Tag **list;
};
KL_MUST_USE enum kl_status kl_tags_in(const struct kluis_tag *tags, size_t n,
                                      struct kl_tag_array *out);
void kl_tags_done(struct kl_tag_array *tags);
KL_MUST_USE enum kl_status kl_secret_out(const Kluis__V1__Secret *from, bool with_value,
                                         struct kluis_secret **out);
KL_MUST_USE enum kl_status kl_vault_out(const Kluis__V1__Vault *from, struct kluis_vault **out);
KL_MUST_USE enum kl_status kl_secrets_out(Kluis__V1__Secret *const *from, size_t n,
                                          const char *next, struct kluis_secret_list **out);
KL_MUST_USE enum kl_status kl_vaults_out(Kluis__V1__Vault *const *from, size_t n, const char *next,
                                         struct kluis_vault_list **out);

/* ---- secrets.c: shared by the blocking and the asynchronous forms ---- */

/* Fill request->method, key and payload; explain what is wrong. */
KL_MUST_USE enum kl_status kl_secret_set_request(struct kl_request *request, const char *vault,
                                                 const char *name, const void *value,
                                                 size_t value_len,
                                                 const struct kluis_secret_options *options);
KL_MUST_USE enum kl_status kl_secret_get_request(struct kl_request *request, const char *vault,
                                                 const char *name, const char *version);
KL_MUST_USE enum kl_status kl_secret_delete_request(struct kl_request *request, const char *vault,
                                                    const char *name);
/* The secret in the payload of a reply to Set, Get, Delete and their like (one layout: field 1). */
KL_MUST_USE enum kl_status kl_secret_from_reply(const Kluis__V1__Reply *reply, bool with_value,
                                                struct kluis_secret **out);

/* ---- read.c: what this thread asked for, and was told ---- */

/* Is it something that can be asked for? Says what is wrong. */
KL_MUST_USE enum kl_status kl_read_check(const struct kluis_read *read, char *err, size_t err_len);
/* A public call begins: what was asked for the next call is for this one. */
void kl_read_begin(void);
/* How this call reads. */
struct kluis_read kl_read_of(const struct kluis_client *client, const struct kl_request *request);
/* kluis_last_served() of this thread. */
void kl_read_served(const struct kluis_read *read, const Kluis__V1__Reply *reply);

/* ---- request.c ---- */

/* Every public call begins and ends with these: no stale text, and never a failure without one. */
void kl_begin(void);
enum kluis_status kl_finish(enum kl_status st);
/* NULL arguments are refused, with a text. */
KL_MUST_USE enum kl_status kl_require(const void *pointer, const char *what);
/* Packs message as the payload. Explains TOO_LARGE. */
KL_MUST_USE enum kl_status kl_request_pack(struct kl_request *request, const void *message,
                                           size_t max);
/* Calls, and unpacks the answer's payload. Free with kl_pb_wipe_free. */
KL_MUST_USE enum kl_status kl_request_run(struct kluis_client *client, struct kl_request *request,
                                          const ProtobufCMessageDescriptor *type,
                                          ProtobufCMessage **response);

#endif
