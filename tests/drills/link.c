/*
 * The wires between sites: a router that delays, loses, slows down and cuts what it forwards, each pair
 * of sites and each direction by itself. It works in user space, on raw sockets, so that it needs no
 * queueing discipline of the kernel (many kernels have no netem) and does the same in a network
 * namespace as in a container. Forwarding by the kernel must be off there (net.ipv4.ip_forward=0).
 *
 *   kluis-link SITE=A.B.C.0... [RULE...]
 *
 * SITE=A.B.C.0  a site and its network of 256 addresses; hosts there have this router as their gateway
 * RULE          "FROM TO KEY=VALUE..."; * is every site. Keys:
 *                 delay_us  one way, microseconds
 *                 loss_ppm  packets of a million that are lost, drawn at random
 *                 kbit      kilobits per second; 0 = as fast as it goes
 *                 down      1: nothing passes
 *
 * The gateway of a site is its address .254. It belongs to nobody: this program answers for it (ARP), so
 * that it needs no right to give itself addresses, and engines that keep a gateway's address to
 * themselves do not mind. CAP_NET_RAW is enough.
 *
 * Rules also come as UDP datagrams to port 7099, one in each; the answer is "ok" or what was wrong.
 */
#include "common/alloc.h"
#include "common/names.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SITES_MAX = 4,
    CONTROL_PORT = 7099,
    GATEWAY = 254, /* last byte of its address */
    PACKET_MAX = 65536,
    SEGMENT_MAX = 1500, /* longer ones, which senders leave to a card to cut, are cut here */
    QUEUE_BYTES_MAX = 32 << 20, /* of one direction; what comes after is lost */
    SOCKET_BYTES = 8 << 20,
    RULE_MAX = 256,
    BATCH = 64
};

struct packet {
    struct packet *next;
    uint64_t due_us;
    size_t len;
    uint8_t bytes[];
};

struct wire {
    uint64_t delay_us, loss_ppm, kbit, down;
    uint64_t free_us; /* when the last packet has been sent at its speed */
    struct packet *first, *last;
    size_t bytes;
};

struct site {
    char name[32];
    uint32_t network; /* host order, without the last byte */
};

struct link {
    struct site sites[SITES_MAX];
    size_t sites_n;
    struct wire wires[SITES_MAX][SITES_MAX];
    uint64_t random;
    int in, out, control, arp;
};

static uint64_t now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

__attribute__((noreturn)) static void die(const char *what)
{
    (void)fprintf(stderr, "kluis-link: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- rules ---- */

static const char *set_key(struct wire *w, const char *key, uint64_t value)
{
    if (strcmp(key, "delay_us") == 0) {
        w->delay_us = value;
    } else if (strcmp(key, "loss_ppm") == 0) {
        w->loss_ppm = value;
    } else if (strcmp(key, "kbit") == 0) {
        w->kbit = value;
    } else if (strcmp(key, "down") == 0) {
        w->down = value;
    } else {
        return "keys are delay_us, loss_ppm, kbit and down";
    }
    return NULL;
}

static const char *set_all(struct link *l, const char *from, const char *to, const char *key,
                           uint64_t value)
{
    const char *wrong = "no such site";

    for (size_t a = 0; a < l->sites_n; a++) {
        for (size_t b = 0; b < l->sites_n; b++) {
            if ((strcmp(from, "*") == 0 || strcmp(from, l->sites[a].name) == 0) &&
                (strcmp(to, "*") == 0 || strcmp(to, l->sites[b].name) == 0)) {
                wrong = set_key(&l->wires[a][b], key, value);
            }
        }
    }
    return wrong;
}

/* Changes `rule`. NULL, or what is wrong with it. */
static const char *apply_rule(struct link *l, char *rule)
{
    char *save = NULL;
    const char *from = strtok_r(rule, " \n", &save);
    const char *to = strtok_r(NULL, " \n", &save);
    const char *wrong = from == NULL || to == NULL ? "a rule is FROM TO KEY=VALUE..." : NULL;

    for (char *word = strtok_r(NULL, " \n", &save); word != NULL && wrong == NULL;
         word = strtok_r(NULL, " \n", &save)) {
        char *value = strchr(word, '=');
        uint64_t number = 0;

        if (value == NULL || kl_number_parse(value + 1, 0, 1u << 30, &number) != KL_OK) {
            return "a value is a number";
        }
        *value = '\0';
        wrong = set_all(l, from, to, word, number);
    }
    return wrong;
}

static void serve_control(struct link *l)
{
    char rule[RULE_MAX];
    struct sockaddr_in from;
    socklen_t from_len = sizeof from;
    const char *wrong;
    ssize_t n = recvfrom(l->control, rule, sizeof rule - 1, MSG_DONTWAIT, (struct sockaddr *)&from,
                         &from_len);

    if (n > 0) {
        rule[n] = '\0';
        wrong = apply_rule(l, rule);
        wrong = wrong == NULL ? "ok" : wrong;
        (void)sendto(l->control, wrong, strlen(wrong), 0, (struct sockaddr *)&from, from_len);
    }
}

/* ---- packets ---- */

static uint32_t sum16(const uint8_t *p, size_t n, uint32_t sum)
{
    for (; n >= 2; n -= 2, p += 2) {
        sum += (uint32_t)(p[0] << 8 | p[1]);
    }
    return n == 1 ? sum + (uint32_t)(p[0] << 8) : sum;
}

/* Senders leave checksums to a card that is not there. The kernel fills in the one of the header. */
static void fill_checksum(uint8_t *packet, size_t len)
{
    size_t head = (size_t)(packet[0] & 15) * 4;
    size_t at = head + (packet[9] == IPPROTO_TCP ? 16 : 6);
    uint32_t sum;

    if ((packet[9] != IPPROTO_TCP && packet[9] != IPPROTO_UDP) || at + 2 > len) {
        return;
    }
    packet[at] = packet[at + 1] = 0;
    sum = sum16(packet + 12, 8, packet[9] + (uint32_t)(len - head));
    sum = sum16(packet + head, len - head, sum);
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[at] = (uint8_t)(~sum >> 8);
    packet[at + 1] = (uint8_t)~sum;
}

static void send_one(const struct link *l, uint8_t *packet, size_t len)
{
    struct sockaddr_in to = {.sin_family = AF_INET};

    memcpy(&to.sin_addr, packet + 16, sizeof to.sin_addr);
    fill_checksum(packet, len);
    /* A full queue of the kernel loses it, as a wire would. */
    (void)sendto(l->out, packet, len, MSG_DONTWAIT, (const struct sockaddr *)&to, sizeof to);
}

/* Cuts a TCP segment that is longer than a wire takes. */
static void send_cut(const struct link *l, const uint8_t *packet, size_t len)
{
    size_t ip = (size_t)(packet[0] & 15) * 4;
    size_t head = ip + (size_t)(packet[ip + 12] >> 4) * 4;
    uint8_t segment[SEGMENT_MAX];
    uint32_t seq;

    if (packet[9] != IPPROTO_TCP || head >= SEGMENT_MAX) {
        return;
    }
    memcpy(&seq, packet + ip + 4, sizeof seq);
    for (size_t done = head; done < len;) {
        size_t n = len - done < SEGMENT_MAX - head ? len - done : SEGMENT_MAX - head;
        uint32_t here = htonl(ntohl(seq) + (uint32_t)(done - head));
        uint16_t total = htons((uint16_t)(head + n));

        memcpy(segment, packet, head);
        memcpy(segment + head, packet + done, n);
        memcpy(segment + 2, &total, sizeof total);
        memcpy(segment + ip + 4, &here, sizeof here);
        if (done + n < len) {
            segment[ip + 13] &= (uint8_t) ~(TH_FIN | TH_PUSH);
        }
        send_one(l, segment, head + n);
        done += n;
    }
}

/* The site of an address; -1: of none. */
static int site_of(const struct link *l, const uint8_t *address)
{
    uint32_t network = (uint32_t)address[0] << 16 | (uint32_t)address[1] << 8 | address[2];

    for (size_t i = 0; i < l->sites_n; i++) {
        if (l->sites[i].network == network) {
            return (int)i;
        }
    }
    return -1;
}

/* Who has the gateway? This interface. */
static void answer_arp(struct link *l)
{
    struct ether_arp q;
    struct sockaddr_ll from;
    socklen_t from_len = sizeof from;
    struct ifreq mine = {.ifr_name = ""};
    uint8_t wanted[4];

    if (recvfrom(l->arp, &q, sizeof q, MSG_DONTWAIT, (struct sockaddr *)&from, &from_len) !=
            (ssize_t)sizeof q ||
        ntohs(q.ea_hdr.ar_op) != ARPOP_REQUEST || q.arp_tpa[3] != GATEWAY ||
        site_of(l, q.arp_tpa) < 0 ||
        if_indextoname((unsigned)from.sll_ifindex, mine.ifr_name) == NULL ||
        ioctl(l->out, SIOCGIFHWADDR, &mine) != 0) {
        return;
    }
    memcpy(wanted, q.arp_tpa, sizeof wanted);
    q.ea_hdr.ar_op = htons(ARPOP_REPLY);
    memcpy(q.arp_tha, q.arp_sha, sizeof q.arp_tha);
    memcpy(q.arp_tpa, q.arp_spa, sizeof q.arp_tpa);
    memcpy(q.arp_sha, mine.ifr_hwaddr.sa_data, sizeof q.arp_sha);
    memcpy(q.arp_spa, wanted, sizeof q.arp_spa);
    memcpy(from.sll_addr, q.arp_tha, sizeof q.arp_tha);
    (void)sendto(l->arp, &q, sizeof q, 0, (struct sockaddr *)&from, sizeof from);
}

static uint64_t draw(struct link *l)
{
    l->random ^= l->random >> 12;
    l->random ^= l->random << 25;
    l->random ^= l->random >> 27;
    return l->random * 2685821657736338717u;
}

static void enqueue(struct link *l, struct wire *w, const uint8_t *bytes, size_t len)
{
    uint64_t now = now_us();
    struct packet *p;

    if (w->down != 0 || draw(l) % 1000000u < w->loss_ppm || w->bytes + len > QUEUE_BYTES_MAX) {
        return;
    }
    p = kl_malloc(sizeof *p + len);
    if (p == NULL) {
        return;
    }
    w->free_us = w->free_us > now ? w->free_us : now;
    w->free_us += w->kbit == 0 ? 0 : len * 8000u / w->kbit;
    *p = (struct packet){.due_us = w->free_us + w->delay_us, .len = len};
    if (w->last != NULL && p->due_us < w->last->due_us) {
        p->due_us = w->last->due_us; /* the delay was made shorter: no packet overtakes another */
    }
    memcpy(p->bytes, bytes, len);
    if (w->last == NULL) {
        w->first = p;
    } else {
        w->last->next = p;
    }
    w->last = p;
    w->bytes += len;
}

static void receive(struct link *l)
{
    static uint8_t bytes[PACKET_MAX];

    for (int i = 0; i < BATCH; i++) {
        struct sockaddr_ll from;
        socklen_t from_len = sizeof from;
        ssize_t n =
            recvfrom(l->in, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
        size_t len;
        int a, b;

        if (n < 0) {
            return;
        }
        if (n < (ssize_t)sizeof(struct iphdr) || from.sll_pkttype != PACKET_HOST) {
            continue;
        }
        len = (size_t)(bytes[2] << 8 | bytes[3]);
        len = len == 0 || len > (size_t)n ? (size_t)n : len;
        a = site_of(l, bytes + 12);
        b = site_of(l, bytes + 16);
        if (a >= 0 && b >= 0 && a != b) {
            enqueue(l, &l->wires[a][b], bytes, len);
        }
    }
}

/* Sends what is due; when the next will be, or UINT64_MAX. */
static uint64_t deliver(struct link *l)
{
    uint64_t now = now_us();
    uint64_t next = UINT64_MAX;

    for (size_t i = 0; i < l->sites_n * l->sites_n; i++) {
        struct wire *w = &l->wires[i / l->sites_n][i % l->sites_n];

        while (w->first != NULL && (w->down != 0 || w->first->due_us <= now)) {
            struct packet *p = w->first;

            w->first = p->next;
            w->last = w->first == NULL ? NULL : w->last;
            w->bytes -= p->len;
            if (w->down == 0 && p->len > SEGMENT_MAX) {
                send_cut(l, p->bytes, p->len);
            } else if (w->down == 0) {
                send_one(l, p->bytes, p->len);
            }
            kl_free(p);
        }
        if (w->first != NULL && w->first->due_us < next) {
            next = w->first->due_us;
        }
    }
    return next;
}

static void open_sockets(struct link *l)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(CONTROL_PORT)};
    int bytes = SOCKET_BYTES;

    l->in = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_IP));
    l->arp = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ARP));
    l->out = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    l->control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (l->in < 0 || l->out < 0 || l->arp < 0 || l->control < 0) {
        die("raw sockets need CAP_NET_RAW");
    }
    (void)setsockopt(l->in, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    (void)setsockopt(l->out, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    if (bind(l->control, (struct sockaddr *)&any, sizeof any) != 0) {
        die("control port");
    }
}

static void add_site(struct link *l, const char *word, const char *equals)
{
    struct site *s = &l->sites[l->sites_n];
    struct in_addr network;

    if (l->sites_n == SITES_MAX || (size_t)(equals - word) >= sizeof s->name ||
        inet_pton(AF_INET, equals + 1, &network) != 1) {
        (void)fprintf(stderr, "kluis-link: %s: SITE=A.B.C.0, at most %d\n", word, SITES_MAX);
        exit(2);
    }
    (void)snprintf(s->name, sizeof s->name, "%.*s", (int)(equals - word), word);
    s->network = ntohl(network.s_addr) >> 8;
    l->sites_n++;
}

static void parse(struct link *l, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');
        const char *wrong = NULL;
        char rule[RULE_MAX];

        if (strchr(argv[i], ' ') == NULL && equals != NULL) {
            add_site(l, argv[i], equals);
            continue;
        }
        (void)snprintf(rule, sizeof rule, "%s", argv[i]);
        wrong = apply_rule(l, rule);
        if (wrong != NULL) {
            (void)fprintf(stderr, "kluis-link: %s: %s\n", argv[i], wrong);
            exit(2);
        }
    }
    if (l->sites_n < 2) {
        (void)fprintf(stderr, "kluis-link SITE=A.B.C.0... [\"FROM TO KEY=VALUE...\"...]\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    static struct link l;
    uint64_t next = UINT64_MAX;

    l.random = now_us() | 1u;
    parse(&l, argc, argv);
    open_sockets(&l);
    for (;;) {
        struct pollfd fds[] = {{.fd = l.in, .events = POLLIN},
                               {.fd = l.control, .events = POLLIN},
                               {.fd = l.arp, .events = POLLIN}};
        uint64_t now = now_us();
        uint64_t wait_us = next > now ? next - now : 0;
        struct timespec wait = {(time_t)(wait_us / 1000000u), (long)(wait_us % 1000000u) * 1000};

        if (ppoll(fds, sizeof fds / sizeof fds[0], next == UINT64_MAX ? NULL : &wait, NULL) < 0 &&
            errno != EINTR) {
            die("poll");
        }
        if (fds[0].revents != 0) {
            receive(&l);
        }
        if (fds[1].revents != 0) {
            serve_control(&l);
        }
        if (fds[2].revents != 0) {
            answer_arp(&l);
        }
        next = deliver(&l);
    }
}
