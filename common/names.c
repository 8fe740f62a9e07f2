#include "common/names.h"

#include "common/limits.h"

#include <assert.h>
#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_letter(char c)
{
    return is_lower(c) || (c >= 'A' && c <= 'Z');
}

static bool is_name_char(char c)
{
    return is_letter(c) || is_digit(c) || c == '-';
}

static enum kl_status refuse(const char **limit, const char *text)
{
    if (limit != NULL) {
        *limit = text;
    }
    return KL_INVALID_ARGUMENT;
}

enum kl_status kl_vault_name_check(const char *name, const char **limit)
{
    static const char rule[] = "3 to 24 letters, digits and single dashes; begins with a letter, "
                               "ends with a letter or digit";
    size_t n = strlen(name);

    if (n < KL_VAULT_NAME_MIN || n > KL_VAULT_NAME_MAX || !is_letter(name[0]) ||
        name[n - 1] == '-') {
        return refuse(limit, rule);
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_name_char(name[i]) || (name[i] == '-' && name[i + 1] == '-')) {
            return refuse(limit, rule);
        }
    }
    return KL_OK;
}

enum kl_status kl_object_name_check(const char *name, const char **limit)
{
    static const char rule[] = "1 to 127 letters, digits and dashes";
    size_t n = strlen(name);

    if (n == 0 || n > KL_OBJECT_NAME_MAX) {
        return refuse(limit, rule);
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_name_char(name[i])) {
            return refuse(limit, rule);
        }
    }
    return KL_OK;
}

enum kl_status kl_resource_group_check(const char *name, const char **limit)
{
    static const char rule[] = "1 to 90 letters, digits and . _ - ( ), not ending with a dot";
    size_t n = strlen(name);

    if (n == 0 || n > KL_RESOURCE_GROUP_MAX || name[n - 1] == '.') {
        return refuse(limit, rule);
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_name_char(name[i]) && strchr("._()", name[i]) == NULL) {
            return refuse(limit, rule);
        }
    }
    return KL_OK;
}

enum kl_status kl_location_check(const char *name, const char **limit)
{
    static const char rule[] =
        "1 to 64 lower-case letters, digits and dashes; begins with a letter";
    size_t n = strlen(name);

    if (n == 0 || n > KL_LOCATION_MAX || !is_lower(name[0])) {
        return refuse(limit, rule);
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_lower(name[i]) && !is_digit(name[i]) && name[i] != '-') {
            return refuse(limit, rule);
        }
    }
    return KL_OK;
}

static int hex_value(char c)
{
    if (is_digit(c)) {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

enum kl_status kl_subscription_check(const char *uuid, const char **limit)
{
    static const char rule[] = "a UUID: 8-4-4-4-12 hex digits";
    static const size_t uuid_len = 36;

    if (strlen(uuid) != uuid_len) {
        return refuse(limit, rule);
    }
    for (size_t i = 0; i < uuid_len; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? uuid[i] != '-' : hex_value(uuid[i]) < 0) {
            return refuse(limit, rule);
        }
    }
    return KL_OK;
}

/* Length of the UTF-8 sequence at p (1..4), or 0 when it is not well-formed (RFC 3629). */
static size_t utf8_len(const unsigned char *p)
{
    size_t n;
    unsigned min;
    unsigned cp;

    if (p[0] < 0x80) {
        return 1;
    }
    if ((p[0] & 0xe0) == 0xc0) {
        n = 2, min = 0x80, cp = p[0] & 0x1fu;
    } else if ((p[0] & 0xf0) == 0xe0) {
        n = 3, min = 0x800, cp = p[0] & 0x0fu;
    } else if ((p[0] & 0xf8) == 0xf0) {
        n = 4, min = 0x10000, cp = p[0] & 0x07u;
    } else {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0; /* also the terminating NUL */
        }
        cp = cp << 6 | (p[i] & 0x3fu);
    }
    return cp < min || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff) ? 0 : n;
}

enum kl_status kl_text_check(const char *text, size_t max)
{
    const unsigned char *p = (const unsigned char *)text;

    if (strlen(text) > max) {
        return KL_TOO_LARGE;
    }
    while (*p != 0) {
        size_t n = utf8_len(p);
        bool c1 = p[0] == 0xc2 && p[1] < 0xa0; /* U+0080..U+009F are control characters too */

        if (n == 0 || *p < 0x20 || *p == 0x7f || c1) {
            return KL_INVALID_ARGUMENT;
        }
        p += n;
    }
    return KL_OK;
}

enum kl_status kl_retention_check(uint32_t days, const char **limit)
{
    if (days < KL_RETENTION_DAYS_MIN || days > KL_RETENTION_DAYS_MAX) {
        return refuse(limit, "7 to 90 days");
    }
    return KL_OK;
}

void kl_name_fold(const char *name, char *out, size_t out_len)
{
    size_t n = strlen(name);

    assert(n < out_len);
    for (size_t i = 0; i <= n; i++) {
        out[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] - 'A' + 'a') : name[i];
    }
}

void kl_hex_encode(const uint8_t *p, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = 0;
}

enum kl_status kl_hex_decode(const char *text, uint8_t *out, size_t n)
{
    if (strlen(text) != 2 * n) {
        return KL_INVALID_ARGUMENT;
    }
    for (size_t i = 0; i < 2 * n; i++) {
        if (hex_value(text[i]) < 0) {
            return KL_INVALID_ARGUMENT;
        }
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(hex_value(text[2 * i]) << 4 | hex_value(text[2 * i + 1]));
    }
    return KL_OK;
}

enum kl_status kl_number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;

    if (*text == 0) {
        return KL_INVALID_ARGUMENT;
    }
    for (; *text != 0; text++) {
        uint64_t digit = (uint64_t)(*text - '0');

        if (!is_digit(*text) || v > (UINT64_MAX - digit) / 10) {
            return KL_INVALID_ARGUMENT;
        }
        v = v * 10 + digit;
    }
    if (v < min || v > max) {
        return KL_INVALID_ARGUMENT;
    }
    *out = v;
    return KL_OK;
}
