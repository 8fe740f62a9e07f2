/* Names, numbers and texts that users type: every limit from both sides. */
#include "common/limits.h"
#include "common/names.h"
#include "tests/lib/test.h"

enum { LONG = 300 };

static const char *repeat(char c, size_t n)
{
    static char text[LONG + 1];

    assert_true(n <= LONG);
    memset(text, c, n);
    text[n] = 0;
    return text;
}

typedef enum kl_status (*check_fn)(const char *name, const char **limit);

/* Refused, with a text that says what is allowed; also when nobody asks for the text. */
static void refused(check_fn check, const char *name)
{
    const char *limit = NULL;

    if (check(name, &limit) != KL_INVALID_ARGUMENT || limit == NULL || limit[0] == 0) {
        fail_msg("accepted: \"%s\"", name);
    }
    CHECK_STATUS(check(name, NULL), KL_INVALID_ARGUMENT);
}

static void accepted(check_fn check, const char *name)
{
    const char *limit = NULL;

    if (check(name, &limit) != KL_OK || limit != NULL) {
        fail_msg("refused: \"%s\"", name);
    }
}

/* Tries every byte but NUL in the middle of a name that is valid otherwise. */
static void every_byte(check_fn check, const char *allowed)
{
    for (int c = 1; c < 256; c++) {
        char name[] = {'a', (char)c, 'b', 0};
        bool good = strchr(allowed, c) != NULL;

        (good ? accepted : refused)(check, name);
    }
}

#define DIGITS  "0123456789"
#define LOWER   "abcdefghijklmnopqrstuvwxyz"
#define LETTERS LOWER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

TEST(names, vault)
{
    accepted(kl_vault_name_check, "abc");
    accepted(kl_vault_name_check, "A-1");
    accepted(kl_vault_name_check, "z9-y8-x7");
    accepted(kl_vault_name_check, repeat('v', KL_VAULT_NAME_MAX));
    refused(kl_vault_name_check, "");
    refused(kl_vault_name_check, "ab");
    refused(kl_vault_name_check, repeat('v', KL_VAULT_NAME_MAX + 1));
    refused(kl_vault_name_check, "1abc");
    refused(kl_vault_name_check, "-abc");
    refused(kl_vault_name_check, "abc-");
    refused(kl_vault_name_check, "a--b");
    refused(kl_vault_name_check, "---");
    refused(kl_vault_name_check, "a/b");
    refused(kl_vault_name_check, "caf\xc3\xa9");
    every_byte(kl_vault_name_check, LETTERS DIGITS "-");
}

TEST(names, object)
{
    accepted(kl_object_name_check, "a");
    accepted(kl_object_name_check, "-");
    accepted(kl_object_name_check, "0--");
    accepted(kl_object_name_check, repeat('o', KL_OBJECT_NAME_MAX));
    refused(kl_object_name_check, "");
    refused(kl_object_name_check, repeat('o', KL_OBJECT_NAME_MAX + 1));
    refused(kl_object_name_check, "a_b");
    refused(kl_object_name_check, "a.b");
    refused(kl_object_name_check, "../a");
    refused(kl_object_name_check, "\xe2\x82\xac");
    every_byte(kl_object_name_check, LETTERS DIGITS "-");
}

TEST(names, resource_group)
{
    accepted(kl_resource_group_check, "a");
    accepted(kl_resource_group_check, ".a");
    accepted(kl_resource_group_check, "_(x)-1.y");
    accepted(kl_resource_group_check, repeat('g', KL_RESOURCE_GROUP_MAX));
    refused(kl_resource_group_check, "");
    refused(kl_resource_group_check, "a.");
    refused(kl_resource_group_check, ".");
    refused(kl_resource_group_check, repeat('g', KL_RESOURCE_GROUP_MAX + 1));
    every_byte(kl_resource_group_check, LETTERS DIGITS "-._()");
}

TEST(names, location)
{
    accepted(kl_location_check, "w");
    accepted(kl_location_check, "west-europe-2");
    accepted(kl_location_check, "w-");
    accepted(kl_location_check, repeat('l', KL_LOCATION_MAX));
    refused(kl_location_check, "");
    refused(kl_location_check, "West");
    refused(kl_location_check, "2west");
    refused(kl_location_check, "-west");
    refused(kl_location_check, repeat('l', KL_LOCATION_MAX + 1));
    every_byte(kl_location_check, LOWER DIGITS "-");
}

TEST(names, subscription)
{
    accepted(kl_subscription_check, "00000000-0000-0000-0000-000000000000");
    accepted(kl_subscription_check, "01234567-89ab-cdef-ABCD-EF0123456789");
    refused(kl_subscription_check, "");
    refused(kl_subscription_check, "0123456789abcdefabcdef0123456789abcd");
    refused(kl_subscription_check, "01234567-89ab-cdef-ABCD-EF012345678");
    refused(kl_subscription_check, "01234567-89ab-cdef-ABCD-EF01234567890");
    refused(kl_subscription_check, "g1234567-89ab-cdef-ABCD-EF0123456789");
    refused(kl_subscription_check, "012345678-9ab-cdef-ABCD-EF0123456789");
    refused(kl_subscription_check, "{1234567-89ab-cdef-ABCD-EF012345678}");
}

TEST(names, retention)
{
    const char *limit = NULL;

    CHECK_OK(kl_retention_check(7, &limit));
    CHECK_OK(kl_retention_check(90, &limit));
    CHECK(limit == NULL);
    CHECK_STATUS(kl_retention_check(6, &limit), KL_INVALID_ARGUMENT);
    CHECK(limit != NULL);
    CHECK_STATUS(kl_retention_check(91, NULL), KL_INVALID_ARGUMENT);
    CHECK_STATUS(kl_retention_check(0, NULL), KL_INVALID_ARGUMENT);
    CHECK_STATUS(kl_retention_check(UINT32_MAX, NULL), KL_INVALID_ARGUMENT);
}

/* Well-formed UTF-8 (RFC 3629) without control characters, up to the limit in bytes. */
TEST(names, text)
{
    static const char *const good[] = {"",
                                       " a ",
                                       "text/plain; charset=utf-8",
                                       "\xc2\xa0",         /* U+00A0 */
                                       "\xdf\xbf",         /* U+07FF */
                                       "\xe0\xa0\x80",     /* U+0800 */
                                       "\xed\x9f\xbf",     /* U+D7FF */
                                       "\xee\x80\x80",     /* U+E000 */
                                       "\xef\xbf\xbf",     /* U+FFFF */
                                       "\xf0\x90\x80\x80", /* U+10000 */
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x01",
                                      "a\n",
                                      "\t",
                                      "\x1f",
                                      "\x7f",
                                      "\xc2\x80",         /* U+0080, a control character */
                                      "\xc2\x9f",         /* U+009F */
                                      "\x80",             /* no beginning */
                                      "\xc3",             /* no end */
                                      "\xc3(",            /* broken off */
                                      "\xc0\xaf",         /* overlong */
                                      "\xc1\xbf",         /* overlong */
                                      "\xe0\x9f\xbf",     /* overlong */
                                      "\xf0\x8f\xbf\xbf", /* overlong */
                                      "\xed\xa0\x80",     /* a surrogate */
                                      "\xed\xbf\xbf",     /* a surrogate */
                                      "\xf4\x90\x80\x80", /* above U+10FFFF */
                                      "\xe2\x82",         /* cut */
                                      "\xf0\x90\x80",     /* cut */
                                      "\xf8\x88\x80\x80\x80",
                                      "\xff",
                                      "\xfe"};

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        CHECK_OK(kl_text_check(good[i], 100));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(kl_text_check(bad[i], 100), KL_INVALID_ARGUMENT);
    }
    CHECK_OK(kl_text_check(repeat('x', 255), 255));
    CHECK_STATUS(kl_text_check(repeat('x', 256), 255), KL_TOO_LARGE);
    CHECK_OK(kl_text_check("\xe2\x82\xac", 3));
    CHECK_STATUS(kl_text_check("\xe2\x82\xac", 2), KL_TOO_LARGE);
}

/* Only ASCII letters fold; the result always ends with NUL. */
TEST(names, fold)
{
    char out[8];

    kl_name_fold("AZaz09-", out, sizeof out);
    CHECK_STR(out, "azaz09-");
    kl_name_fold("", out, 1);
    CHECK_STR(out, "");
}

TEST(names, hex)
{
    static const uint8_t bytes[] = {0x00, 0x0f, 0xf0, 0xab, 0xff};
    static const char *const bad[] = {"",           "000ff0abf",  "000ff0abff0",
                                      "000ff0abfg", " 00ff0abff", "0x0ff0abff"};
    char text[2 * sizeof bytes + 1];
    uint8_t back[sizeof bytes];

    kl_hex_encode(bytes, sizeof bytes, text);
    CHECK_STR(text, "000ff0abff");
    CHECK_OK(kl_hex_decode(text, back, sizeof back));
    CHECK_MEM(back, bytes, sizeof bytes);
    CHECK_OK(kl_hex_decode("000FF0ABff", back, sizeof back));
    CHECK_MEM(back, bytes, sizeof bytes);
    memset(back, 0x55, sizeof back);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(kl_hex_decode(bad[i], back, sizeof back), KL_INVALID_ARGUMENT);
        CHECK_EQ(back[0], 0x55); /* untouched on failure */
    }
    kl_hex_encode(NULL, 0, text);
    CHECK_STR(text, "");
    CHECK_OK(kl_hex_decode("", back, 0));
}

TEST(names, number)
{
    static const char *const bad[] = {"",
                                      " 1",
                                      "1 ",
                                      "+1",
                                      "-1",
                                      "0x1",
                                      "1.0",
                                      "1e",
                                      "١",
                                      "one",
                                      "18446744073709551616",
                                      "99999999999999999999999"};
    uint64_t v = 77;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(kl_number_parse(bad[i], 0, UINT64_MAX, &v), KL_INVALID_ARGUMENT);
        CHECK_EQ(v, 77);
    }
    CHECK_OK(kl_number_parse("18446744073709551615", 0, UINT64_MAX, &v));
    CHECK(v == UINT64_MAX);
    CHECK_OK(kl_number_parse("0", 0, 0, &v));
    CHECK_EQ(v, 0);
    CHECK_OK(kl_number_parse("007", 7, 7, &v));
    CHECK_EQ(v, 7);
    CHECK_STATUS(kl_number_parse("6", 7, 90, &v), KL_INVALID_ARGUMENT);
    CHECK_STATUS(kl_number_parse("91", 7, 90, &v), KL_INVALID_ARGUMENT);
    CHECK_EQ(v, 7);
}
