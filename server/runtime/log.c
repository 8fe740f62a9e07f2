/*
 * The format string is walked here instead of being handed to vsnprintf whole, because only the
 * single conversions tell where a value begins and ends: "peer=%s" with "a b" must become
 * peer="a b", and no value may begin a line of its own.
 */
#include "server/runtime/log.h"

#include "common/limits.h"
#include "server/runtime/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};

/* Process-wide on purpose: the level is a property of the process's stderr, and SIGHUP changes it. */
static _Atomic int log_threshold = KL_LOG_INFO;

struct line {
    char text[KL_LOG_LINE_MAX];
    size_t len;
    bool cut;
};

static const char cut_mark[] = "...\n";

void kl_log_set_level(enum kl_log_level level)
{
    atomic_store_explicit(&log_threshold, (int)level, memory_order_relaxed);
}

enum kl_status kl_log_level_parse(const char *text, enum kl_log_level *out)
{
    for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *out = (enum kl_log_level)i;
            return KL_OK;
        }
    }
    return KL_INVALID_ARGUMENT;
}

/* Room is always left for the mark, so that a cut line still ends with it and a newline. */
static void put(struct line *l, const char *p, size_t n)
{
    size_t room = sizeof l->text - (sizeof cut_mark - 1) - l->len;

    if (l->cut || n > room) {
        n = l->cut ? 0 : room;
        l->cut = true;
    }
    memcpy(l->text + l->len, p, n);
    l->len += n;
}

/* Printable ASCII as it is, everything else escaped: what a peer sent must not forge a line. */
static void put_safe(struct line *l, const char *p, size_t n, bool quoted)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        char escape[5];

        if (c >= 0x20 && c < 0x7f && !(quoted && (c == '"' || c == '\\'))) {
            put(l, p + i, 1);
        } else if (c == '"' || c == '\\') {
            put(l, "\\", 1);
            put(l, p + i, 1);
        } else {
            int len = snprintf(escape, sizeof escape, "\\x%02x", c);

            put(l, escape, (size_t)len);
        }
    }
}

static bool needs_quotes(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == ' ' || p[i] == '"' || p[i] == '=' || (p[i] >= '\t' && p[i] <= '\r')) {
            return true;
        }
    }
    return n == 0;
}

static void put_value(struct line *l, const char *p, size_t n, bool is_value)
{
    bool quote = is_value && needs_quotes(p, n);

    if (quote) {
        put(l, "\"", 1);
    }
    put_safe(l, p, n, quote);
    if (quote) {
        put(l, "\"", 1);
    }
}

/* A conversion taken apart: '%', flags, width, precision, length, letter. */
struct conversion {
    char spec[24]; /* with * already replaced by its number */
    char length;   /* 0, 'h' (also hh), 'l', 'L' (ll), 'z', 'j', 't' */
    char letter;
};

/* Copies the conversion at *p, which points behind its '%'; false when it is not one of ours. */
static bool conversion_parse(const char **p, va_list *args, struct conversion *c)
{
    size_t n = 1;

    *c = (struct conversion){.spec = "%"};
    for (; **p != '\0' && strchr("-+ #0123456789.*hljzt", **p) != NULL; (*p)++) {
        if (n + 12 >= sizeof c->spec) {
            return false;
        }
        if (**p == '*') {
            n += (size_t)snprintf(c->spec + n, sizeof c->spec - n, "%d", va_arg(*args, int));
            continue;
        }
        if (strchr("hljzt", **p) != NULL) {
            c->length = (**p == 'l' && c->length == 'l') ? 'L' : **p;
        }
        c->spec[n++] = **p;
    }
    c->letter = **p;
    if (c->letter == '\0' || strchr("diuxXocspeEfFgG", c->letter) == NULL) {
        return false;
    }
    c->spec[n++] = c->letter;
    c->spec[n] = '\0';
    (*p)++;
    return true;
}

/* The specs are pieces of a format that the compiler has checked against its arguments. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"

static int format_integer(const struct conversion *c, va_list *args, char *out, size_t out_len)
{
    switch (c->length) {
    case 'l':
        return snprintf(out, out_len, c->spec, va_arg(*args, unsigned long));
    case 'L':
        return snprintf(out, out_len, c->spec, va_arg(*args, unsigned long long));
    case 'z':
        return snprintf(out, out_len, c->spec, va_arg(*args, size_t));
    case 'j':
        return snprintf(out, out_len, c->spec, va_arg(*args, uintmax_t));
    case 't':
        return snprintf(out, out_len, c->spec, va_arg(*args, ptrdiff_t));
    default:
        return snprintf(out, out_len, c->spec, va_arg(*args, unsigned));
    }
}

static int format_one(const struct conversion *c, va_list *args, char *out, size_t out_len)
{
    const char *s;

    switch (c->letter) {
    case 's':
        s = va_arg(*args, const char *);
        return snprintf(out, out_len, c->spec, s == NULL ? "(null)" : s);
    case 'p':
        return snprintf(out, out_len, c->spec, va_arg(*args, void *));
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        return snprintf(out, out_len, c->spec, va_arg(*args, double));
    default:
        return format_integer(c, args, out, out_len);
    }
}

#pragma GCC diagnostic pop

static void put_format(struct line *l, const char *format, va_list *args)
{
    char value[KL_LOG_LINE_MAX];

    while (*format != '\0') {
        const char *plain = format;
        struct conversion c;
        bool is_value;
        int n;

        while (*format != '\0' && *format != '%') {
            format++;
        }
        put_safe(l, plain, (size_t)(format - plain), false);
        if (*format == '\0') {
            break;
        }
        is_value = format != plain && format[-1] == '=';
        format++;
        if (*format == '%') {
            put(l, format, 1);
            format++;
            continue;
        }
        if (!conversion_parse(&format, args, &c)) {
            put(l, "?", 1); /* its argument cannot be skipped: nothing after it can be read */
            return;
        }
        n = format_one(&c, args, value, sizeof value);
        if (n >= 0) {
            put_value(l, value, (size_t)n < sizeof value ? (size_t)n : sizeof value - 1, is_value);
        }
    }
}

static void put_head(struct line *l, enum kl_log_level level, const char *area)
{
    char text[64];
    uint64_t wall_ms = kl_real_clock.wall_ms(NULL);
    time_t seconds = (time_t)(wall_ms / 1000u);
    struct tm utc;
    int n;

    (void)gmtime_r(&seconds, &utc);
    put(l, text, strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc));
    n = snprintf(text, sizeof text, ".%03uZ %s ", (unsigned)(wall_ms % 1000u), level_names[level]);
    put(l, text, (size_t)n);
    put_safe(l, area, strlen(area), false);
    put(l, " ", 1);
}

void kl_log(enum kl_log_level level, const char *area, const char *format, ...)
{
    struct line l;
    va_list args;
    ssize_t n;
    int error = errno;

    if ((int)level > atomic_load_explicit(&log_threshold, memory_order_relaxed)) {
        return;
    }
    l.len = 0;
    l.cut = false;
    put_head(&l, level, area);
    va_start(args, format);
    put_format(&l, format, &args);
    va_end(args);
    /* put() kept room for this. */
    if (l.cut) {
        memcpy(l.text + l.len, cut_mark, sizeof cut_mark - 1);
        l.len += sizeof cut_mark - 1;
    } else {
        l.text[l.len++] = '\n';
    }
    do {
        n = write(STDERR_FILENO, l.text, l.len);
    } while (n < 0 && errno == EINTR);
    errno = error; /* logging an error must not replace it */
}
