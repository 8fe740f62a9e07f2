#include "client/cli/cli.h"
#include "common/names.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* Exactly n digits at *p, which moves on. */
static bool digits(const char **p, int n, int *out)
{
    int v = 0;

    for (int i = 0; i < n; i++) {
        char c = (*p)[i];

        if (c < '0' || c > '9') {
            return false;
        }
        v = v * 10 + (c - '0');
    }
    *p += n;
    *out = v;
    return true;
}

static bool take(const char **p, char c)
{
    if (**p != c) {
        return false;
    }
    (*p)++;
    return true;
}

bool kl_cli_time_parse(const char *text, uint64_t *seconds)
{
    struct tm tm = {0};
    struct tm back;
    const char *p = text;
    time_t t;

    if (!digits(&p, 4, &tm.tm_year) || !take(&p, '-') || !digits(&p, 2, &tm.tm_mon) ||
        !take(&p, '-') || !digits(&p, 2, &tm.tm_mday) || !take(&p, 'T') ||
        !digits(&p, 2, &tm.tm_hour) || !take(&p, ':') || !digits(&p, 2, &tm.tm_min) ||
        !take(&p, ':') || !digits(&p, 2, &tm.tm_sec) || !take(&p, 'Z') || *p != '\0') {
        return false;
    }
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    back = tm;
    t = timegm(&back);
    /* A day that does not exist comes back as another one. */
    if (t <= 0 || back.tm_mon != tm.tm_mon || back.tm_mday != tm.tm_mday ||
        back.tm_hour != tm.tm_hour || back.tm_min != tm.tm_min || back.tm_sec != tm.tm_sec) {
        return false;
    }
    *seconds = (uint64_t)t;
    return true;
}

bool kl_cli_span_parse(const char *text, uint64_t *ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}};
    size_t n = strspn(text, "0123456789");
    char number[11];
    uint64_t v;

    if (n >= sizeof number) {
        return false;
    }
    (void)snprintf(number, sizeof number, "%.*s", (int)n, text);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(text + n, units[i].unit) == 0 &&
            kl_number_parse(number, 1, UINT32_MAX / units[i].ms, &v) == KL_OK) {
            *ms = v * units[i].ms;
            return true;
        }
    }
    return false;
}

void kl_cli_time_format(uint64_t seconds, char out[24])
{
    time_t t = (time_t)seconds;
    struct tm tm;

    out[0] = '\0';
    if (gmtime_r(&t, &tm) != NULL && tm.tm_year <= 9999 - 1900) {
        (void)strftime(out, 24, "%Y-%m-%dT%H:%M:%SZ", &tm);
    }
}

char *kl_cli_hex(struct kl_cli *cli, const uint8_t *p, size_t n)
{
    char *out = kl_cli_keep(cli, 2 * n + 1);

    kl_hex_encode(p, n, out);
    return out;
}

char *kl_cli_base64(struct kl_cli *cli, const uint8_t *p, size_t n)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = kl_cli_keep(cli, (n + 2) / 3 * 4 + 1);
    char *to = out;

    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16;

        v |= i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0;
        v |= i + 2 < n ? (uint32_t)p[i + 2] : 0;
        *to++ = alphabet[v >> 18];
        *to++ = alphabet[v >> 12 & 63];
        *to++ = i + 1 < n ? alphabet[v >> 6 & 63] : '=';
        *to++ = i + 2 < n ? alphabet[v & 63] : '=';
    }
    return out;
}

/* Length of the UTF-8 sequence at p, 0 when it is none (RFC 3629: no surrogates, no long forms). */
static size_t sequence(const uint8_t *p, size_t n)
{
    size_t len = p[0] < 0x80   ? 1
                 : p[0] < 0xc2 ? 0
                 : p[0] < 0xe0 ? 2
                 : p[0] < 0xf0 ? 3
                 : p[0] < 0xf5 ? 4
                               : 0;

    if (len == 0 || len > n) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) {
        return 0;
    }
    return len;
}

bool kl_cli_utf8(const uint8_t *p, size_t n)
{
    while (n != 0) {
        size_t len = sequence(p, n);

        if (len == 0) {
            return false;
        }
        p += len;
        n -= len;
    }
    return true;
}
