/*
 * A long link between processes of one machine: TCP connections whose bytes arrive so much later, in
 * order, at whatever rate they come.
 *
 *   delay_link MILLISECONDS LISTEN_PORT:TARGET_PORT...
 *
 * One way takes MILLISECONDS, so a round trip takes twice that. Loopback only. Runs until it is killed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PORTS_MAX = 16, CONNS_MAX = 256, CHUNK = 16384, QUEUE_MAX = 16 << 20 };

struct chunk {
    struct chunk *next;
    uint64_t due_us;
    size_t len, sent;
    char bytes[CHUNK];
};

struct way { /* from one socket to the other */
    int from, to;
    struct chunk *head, **tail;
    size_t queued;
    bool ended; /* nothing more will come */
};

struct conn {
    struct way ways[2];
    bool used;
};

static struct {
    int listener;
    uint16_t target;
} ports[PORTS_MAX];
static struct conn conns[CONNS_MAX];
static size_t ports_n;
static uint64_t delay_us;

static uint64_t now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int listen_on(uint16_t port)
{
    struct sockaddr_in a = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (const struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 64) != 0) {
        die("listen");
    }
    return fd;
}

static void set_up(int fd)
{
    int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void close_conn(struct conn *c)
{
    for (int w = 0; w < 2; w++) {
        while (c->ways[w].head != NULL) {
            struct chunk *next = c->ways[w].head->next;

            free(c->ways[w].head);
            c->ways[w].head = next;
        }
        (void)close(c->ways[w].from);
    }
    c->used = false;
}

static void accept_on(size_t port)
{
    struct sockaddr_in a = loopback(ports[port].target);
    int fd = accept(ports[port].listener, NULL, NULL);
    int to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    for (size_t i = 0; i < CONNS_MAX && fd >= 0 && to >= 0; i++) {
        struct conn *c = &conns[i];

        if (c->used) {
            continue;
        }
        if (connect(to, (const struct sockaddr *)&a, sizeof a) != 0) {
            break;
        }
        set_up(fd);
        set_up(to);
        *c = (struct conn){.ways = {{.from = fd, .to = to}, {.from = to, .to = fd}}, .used = true};
        c->ways[0].tail = &c->ways[0].head;
        c->ways[1].tail = &c->ways[1].head;
        return;
    }
    (void)close(fd);
    (void)close(to);
}

/* false: the connection is broken. */
static bool take(struct way *w)
{
    struct chunk *k = malloc(sizeof *k);
    ssize_t n;

    if (k == NULL) {
        die("malloc");
    }
    n = read(w->from, k->bytes, CHUNK);
    if (n <= 0) {
        free(k);
        w->ended = n == 0;
        return n == 0 || errno == EAGAIN || errno == EINTR;
    }
    k->next = NULL;
    k->due_us = now_us() + delay_us;
    k->len = (size_t)n;
    k->sent = 0;
    *w->tail = k;
    w->tail = &k->next;
    w->queued += k->len;
    return true;
}

static bool give(struct way *w, uint64_t now)
{
    while (w->head != NULL && w->head->due_us <= now) {
        struct chunk *k = w->head;
        ssize_t n = write(w->to, k->bytes + k->sent, k->len - k->sent);

        if (n < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        k->sent += (size_t)n;
        if (k->sent < k->len) {
            return true;
        }
        w->queued -= k->len;
        w->head = k->next;
        if (w->head == NULL) {
            w->tail = &w->head;
        }
        free(k);
    }
    return !w->ended || w->head != NULL;
}

/* One turn: waits for bytes, connections or the time of the next chunk. */
static void turn(void)
{
    struct pollfd fds[PORTS_MAX + 2 * CONNS_MAX];
    struct way *ways[PORTS_MAX + 2 * CONNS_MAX];
    uint64_t now = now_us();
    uint64_t due = UINT64_MAX;
    struct timespec wait;
    nfds_t n = 0;

    for (size_t i = 0; i < ports_n; i++) {
        fds[n++] = (struct pollfd){.fd = ports[i].listener, .events = POLLIN};
    }
    for (size_t i = 0; i < 2 * CONNS_MAX; i++) {
        struct way *w = &conns[i / 2].ways[i % 2];

        if (conns[i / 2].used) {
            due = w->head != NULL && w->head->due_us < due ? w->head->due_us : due;
            ways[n] = w;
            fds[n++] = (struct pollfd){.fd = w->from,
                                       .events = w->ended || w->queued >= QUEUE_MAX ? 0 : POLLIN};
        }
    }
    due = due == UINT64_MAX ? 1000000 : due > now ? due - now : 100;
    wait = (struct timespec){(time_t)(due / 1000000), (long)(due % 1000000) * 1000};
    (void)ppoll(fds, n, &wait, NULL);
    for (nfds_t i = 0; i < n; i++) {
        if (fds[i].revents != 0 && i < ports_n) {
            accept_on(i);
        } else if (fds[i].revents != 0 && fds[i].events != 0 && !take(ways[i])) {
            ways[i]->ended = true;
        }
    }
    now = now_us();
    for (size_t i = 0; i < CONNS_MAX; i++) {
        struct conn *c = &conns[i];

        if (c->used && (!give(&c->ways[0], now) || !give(&c->ways[1], now))) {
            close_conn(c);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > PORTS_MAX + 2) {
        (void)fprintf(stderr, "delay_link MILLISECONDS LISTEN_PORT:TARGET_PORT...\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    delay_us = strtoul(argv[1], NULL, 10) * 1000u;
    for (int i = 2; i < argc; i++) {
        char *end = NULL;

        ports[ports_n].listener = listen_on((uint16_t)strtoul(argv[i], &end, 10));
        ports[ports_n++].target = (uint16_t)strtoul(*end == ':' ? end + 1 : "0", NULL, 10);
    }
    for (;;) {
        turn();
    }
}
