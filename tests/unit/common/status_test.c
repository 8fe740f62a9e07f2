/* The table of outcomes: whole, unique, and in range on every wire. */
#include "common/status.h"
#include "tests/lib/test.h"

#include <ctype.h>

static const enum kl_status all[] = {
#define KL_STATUS(name, number, rpc, http, azure, retry, text) KL_##name,
#include "common/status.def"
#undef KL_STATUS
};
enum { COUNT = sizeof all / sizeof all[0] };

/* Numbers are written into the log: they must never move. */
TEST(status, numbers)
{
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(all[i], i);
    }
    CHECK_EQ(KL_OK, 0);
    CHECK_EQ(KL_NOT_FOUND, 3);
    CHECK_EQ(KL_INTERNAL, 36);
}

TEST(status, rows)
{
    for (int i = 0; i < COUNT; i++) {
        const struct kl_status_info *info = kl_status_info(all[i]);

        CHECK_EQ(info->status, all[i]);
        CHECK_STR(info->name, kl_status_name(all[i]));
        CHECK_EQ(kl_status_from_name(info->name), all[i]);
        CHECK(info->name[0] != 0 && info->text[0] != 0);
        for (const char *p = info->name; *p != 0; p++) {
            CHECK(isupper((unsigned char)*p) || *p == '_');
        }
        CHECK(info->rpc_code <= 16);                    /* gRPC's numbers */
        CHECK_EQ(info->rpc_code == 0, all[i] == KL_OK); /* only OK is OK */
        CHECK_EQ(info->http_code == 200, all[i] == KL_OK);
        CHECK(info->http_code == 200 || (info->http_code >= 400 && info->http_code < 600));
        CHECK_EQ(info->azure[0] == 0, all[i] == KL_OK);
        for (int j = 0; j < i; j++) {
            CHECK(strcmp(info->name, kl_status_name(all[j])) != 0);
        }
    }
}

/* What may be sent again says so: never bad input, always passing trouble. */
TEST(status, retry)
{
    for (int i = 0; i < COUNT; i++) {
        const struct kl_status_info *info = kl_status_info(all[i]);
        bool passing = info->rpc_code == 14 || info->rpc_code == 8; /* UNAVAILABLE, EXHAUSTED */

        CHECK(!passing || info->retry_safe);
        CHECK(info->rpc_code != 3 || !info->retry_safe); /* INVALID_ARGUMENT */
    }
    CHECK(kl_status_info(KL_TIMEOUT)->retry_safe);
    CHECK(!kl_status_info(KL_EXPIRED)->retry_safe);
}

/* Numbers and names from elsewhere have an answer too. */
TEST(status, unknown)
{
    CHECK_EQ(kl_status_info((enum kl_status)COUNT)->status, KL_INTERNAL);
    CHECK_EQ(kl_status_info((enum kl_status)9999)->status, KL_INTERNAL);
    CHECK_EQ(kl_status_info((enum kl_status) - 1)->status, KL_INTERNAL);
    CHECK_EQ(kl_status_from_name(""), KL_INTERNAL);
    CHECK_EQ(kl_status_from_name("not_found"), KL_INTERNAL);
    CHECK_EQ(kl_status_from_name("NOT_FOUND "), KL_INTERNAL);
}
