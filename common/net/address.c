/* "host:port", "1.2.3.4:port", "[::1]:port". */
#include "common/net/conn.h"

#include "common/names.h"

#include <arpa/inet.h>
#include <stdio.h>

enum kl_status kl_address_split(const char *address, char *host, uint16_t *port)
{
    const char *colon = strrchr(address, ':');
    size_t n;
    uint64_t number;
    bool bracketed;

    if (colon == NULL || kl_number_parse(colon + 1, 0, UINT16_MAX, &number) != KL_OK) {
        return KL_INVALID_ARGUMENT;
    }
    n = (size_t)(colon - address);
    bracketed = n >= 2 && address[0] == '[' && address[n - 1] == ']';
    if (bracketed) {
        address++;
        n -= 2;
    }
    if (n == 0 || n > KL_NET_HOST_MAX || (!bracketed && memchr(address, ':', n) != NULL)) {
        return KL_INVALID_ARGUMENT;
    }
    for (size_t i = 0; i < n; i++) { /* it becomes part of a URL */
        if ((unsigned char)address[i] <= ' ' || (unsigned char)address[i] > '~' ||
            strchr("/?#@[]", address[i]) != NULL) {
            return KL_INVALID_ARGUMENT;
        }
    }
    memcpy(host, address, n);
    host[n] = 0;
    *port = (uint16_t)number;
    return KL_OK;
}

bool kl_address_literal(const char *host, bool *v6)
{
    struct in_addr a4;
    struct in6_addr a6;

    *v6 = inet_pton(AF_INET6, host, &a6) == 1;
    return *v6 || inet_pton(AF_INET, host, &a4) == 1;
}

void kl_address_remote(nng_stream *stream, char *out, size_t out_len)
{
    nng_sockaddr sa;
    char text[INET6_ADDRSTRLEN];

    (void)snprintf(out, out_len, "unknown");
    if (nng_stream_get_addr(stream, NNG_OPT_REMADDR, &sa) != 0) {
        return; /* already reset by the peer */
    }
    if (sa.s_family == NNG_AF_INET &&
        inet_ntop(AF_INET, &sa.s_in.sa_addr, text, sizeof text) != NULL) {
        (void)snprintf(out, out_len, "%s:%u", text, (unsigned)ntohs(sa.s_in.sa_port));
    } else if (sa.s_family == NNG_AF_INET6 &&
               inet_ntop(AF_INET6, &sa.s_in6.sa_addr, text, sizeof text) != NULL) {
        (void)snprintf(out, out_len, "[%s]:%u", text, (unsigned)ntohs(sa.s_in6.sa_port));
    }
}
