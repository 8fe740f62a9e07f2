/* Values of the configuration file, by kind. */
#include "server/config_parse.h"

#include "common/names.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    SHOWN_MAX = 64, /* bytes of a wrong value that an error repeats */
};

static const char blanks[] = KL_CONFIG_BLANKS;

enum kl_status kl_config_bad(const struct kl_config_parser *p, const char *key, const char *format,
                             ...)
{
    int n = snprintf(p->err, p->err_len, "%s:%u: %s: ", p->file, p->line == 0 ? 1 : p->line, key);
    va_list args;

    if (n >= 0 && (size_t)n < p->err_len) {
        va_start(args, format);
        (void)vsnprintf(p->err + n, p->err_len - (size_t)n, format, args);
        va_end(args);
    }
    return KL_INVALID_ARGUMENT;
}

static enum kl_status bad_value(const struct kl_config_parser *p, const struct kl_config_key *key,
                                const char *value, const char *allowed)
{
    return kl_config_bad(p, key->name, "\"%.*s%s\" is not allowed: %s", SHOWN_MAX, value,
                         strlen(value) > SHOWN_MAX ? "..." : "", allowed);
}

/* ---- values ---- */

static enum kl_status set_text(const struct kl_config_parser *p, const struct kl_config_key *key,
                               const char *value, char *to)
{
    size_t n = strlen(value);

    if (n >= key->size) {
        return kl_config_bad(p, key->name, "is longer than %zu bytes", key->size - 1);
    }
    memcpy(to, value, n + 1);
    return KL_OK;
}

static enum kl_status set_name(const struct kl_config_parser *p, const struct kl_config_key *key,
                               const char *value, char *to)
{
    const char *limit = "";
    enum kl_status st = key->kind == KIND_UUID ? kl_subscription_check(value, &limit)
                                               : kl_location_check(value, &limit);

    if (st != KL_OK) {
        return bad_value(p, key, value, limit);
    }
    st = set_text(p, key, value, to);
    if (st == KL_OK && key->kind == KIND_UUID) {
        kl_name_fold(value, to, key->size); /* so that it compares byte by byte */
    }
    return st;
}

static bool all_of(const char *text, size_t n, const char *allowed)
{
    return strspn(text, allowed) >= n;
}

/* "host:port", "192.0.2.1:port" or "[2001:db8::1]:port". */
static bool is_address(const char *value)
{
    static const char host_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                     "0123456789.-_";
    const char *colon = strrchr(value, ':');
    uint64_t port;
    size_t n;

    if (colon == NULL || kl_number_parse(colon + 1, 0, 65535, &port) != KL_OK) {
        return false;
    }
    n = (size_t)(colon - value);
    if (n >= 4 && value[0] == '[' && value[n - 1] == ']') {
        return all_of(value + 1, n - 2, "0123456789abcdefABCDEF:.%");
    }
    return n != 0 && all_of(value, n, host_chars);
}

static enum kl_status set_switch(const struct kl_config_parser *p, const struct kl_config_key *key,
                                 const char *value, bool *to)
{
    bool yes = strcmp(value, "yes") == 0;

    if (!yes && strcmp(value, "no") != 0) {
        return bad_value(p, key, value, "yes or no");
    }
    *to = yes;
    return KL_OK;
}

struct unit {
    const char *suffix;
    uint64_t factor;
};

static const struct unit units_ms[] = {{"", 1}, {"ms", 1}, {"s", 1000}};
static const struct unit units_bytes[] = {
    {"", 1}, {"KiB", 1ull << 10}, {"MiB", 1ull << 20}, {"GiB", 1ull << 30}};
static const struct unit units_none[] = {{"", 1}};

/* A number with one of the units; a blank may stand between them. */
static bool parse_number(const char *value, const struct unit *units, size_t units_n, uint64_t *out)
{
    size_t digits = strspn(value, "0123456789");
    const char *suffix = value + digits;
    char text[24];
    uint64_t n;

    if (digits == 0 || digits >= sizeof text) {
        return false;
    }
    memcpy(text, value, digits);
    text[digits] = '\0';
    suffix += strspn(suffix, blanks);
    for (size_t i = 0; i < units_n; i++) {
        if (strcmp(suffix, units[i].suffix) == 0) {
            if (kl_number_parse(text, 0, UINT64_MAX / units[i].factor, &n) != KL_OK) {
                return false;
            }
            *out = n * units[i].factor;
            return true;
        }
    }
    return false;
}

static void store_number(const struct kl_config_key *key, uint64_t n, void *to)
{
    if (key->size == sizeof(uint64_t)) {
        memcpy(to, &n, sizeof n);
    } else {
        unsigned small = (unsigned)n;

        static_assert(sizeof(size_t) == sizeof(uint64_t), "sizes are kept in 64 bits");
        assert(key->size == sizeof small && n <= UINT32_MAX);
        memcpy(to, &small, sizeof small);
    }
}

static enum kl_status set_number(const struct kl_config_parser *p, const struct kl_config_key *key,
                                 const char *value, void *to)
{
    char allowed[128];
    bool ok = false;
    uint64_t n = 0;

    if (key->kind == KIND_MS) {
        ok = parse_number(value, units_ms, sizeof units_ms / sizeof units_ms[0], &n);
        (void)snprintf(allowed, sizeof allowed,
                       "%" PRIu64 " to %" PRIu64 " milliseconds, as 800, 800ms or 1s", key->min,
                       key->max);
    } else if (key->kind == KIND_BYTES) {
        ok = parse_number(value, units_bytes, sizeof units_bytes / sizeof units_bytes[0], &n);
        (void)snprintf(allowed, sizeof allowed, "%llu MiB to %llu MiB, as 33554432, 32MiB or 1GiB",
                       key->min / KL_CONFIG_MIB, key->max / KL_CONFIG_MIB);
    } else {
        ok = parse_number(value, units_none, 1, &n);
        (void)snprintf(allowed, sizeof allowed, "%" PRIu64 " to %" PRIu64, key->min, key->max);
    }
    if (!ok || n < key->min || n > key->max) {
        return bad_value(p, key, value, allowed);
    }
    store_number(key, n, to);
    return KL_OK;
}

static enum kl_status set_digest(const struct kl_config_parser *p, const struct kl_config_key *key,
                                 const char *value, uint8_t *to)
{
    static const uint8_t none[32];

    if (kl_hex_decode(value, to, key->size) != KL_OK || memcmp(to, none, sizeof none) == 0) {
        return kl_config_bad(p, key->name, "must be the SHA-256 of a token, %zu hex digits",
                             2 * key->size);
    }
    return KL_OK;
}

static enum kl_status set_rights(const struct kl_config_parser *p, const struct kl_config_key *key,
                                 const char *value, uint64_t *to)
{
    if (kl_rights_parse(value, to) != KL_OK) {
        return bad_value(p, key, value,
                         "rights separated by commas: *, a family as \"secrets/\", or names as "
                         "\"secrets/get\"; a purge must be named (\"secrets/purge\")");
    }
    return KL_OK;
}

enum kl_status kl_config_set_value(const struct kl_config_parser *p,
                                   const struct kl_config_key *key, const char *value, void *to)
{
    if (*value == '\0') {
        return kl_config_bad(p, key->name, "has no value");
    }
    switch (key->kind) {
    case KIND_LOCATION:
    case KIND_UUID:
        return set_name(p, key, value, to);
    case KIND_PATH:
        return set_text(p, key, value, to);
    case KIND_ADDRESS:
        return is_address(value)
                   ? set_text(p, key, value, to)
                   : bad_value(p, key, value, "HOST:PORT, where IPv6 is [ADDRESS]:PORT");
    case KIND_SWITCH:
        return set_switch(p, key, value, to);
    case KIND_MS:
    case KIND_BYTES:
    case KIND_NUMBER:
        return set_number(p, key, value, to);
    case KIND_LEVEL:
        return kl_log_level_parse(value, to) == KL_OK
                   ? KL_OK
                   : bad_value(p, key, value, "error, warn, info or debug");
    case KIND_DIGEST:
        return set_digest(p, key, value, to);
    case KIND_RIGHTS:
        return set_rights(p, key, value, to);
    }
    return KL_INTERNAL;
}
