#include "server/handlers/parts.h"

#include <stdio.h>

enum kl_status kl_call_field(struct kl_call *call, enum kl_status status, const char *field,
                             const char *limit)
{
    (void)snprintf(call->field, sizeof call->field, "%s", field);
    (void)snprintf(call->limit, sizeof call->limit, "%s", limit == NULL ? "" : limit);
    return status;
}

enum kl_status kl_field_object(struct kl_call *call, const char *vault, const char *name)
{
    const char *limit = NULL;
    enum kl_status st = kl_object_name_check(name, &limit);

    if (st != KL_OK) {
        return kl_call_field(call, st, "name", limit);
    }
    (void)snprintf(call->subject, sizeof call->subject, "%.*s/%.*s", KL_VAULT_NAME_MAX, vault,
                   KL_OBJECT_NAME_MAX, name);
    return KL_OK;
}

enum kl_status kl_field_version(struct kl_call *call, const char *version, uint8_t id[KL_ID_LEN],
                                bool *given)
{
    *given = version[0] != 0;
    if (*given && kl_hex_decode(version, id, KL_ID_LEN) != KL_OK) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "version",
                             "32 hex digits, or empty for the current version");
    }
    return KL_OK;
}

enum kl_status kl_field_content_type(struct kl_call *call, const char *text)
{
    enum kl_status st = kl_text_check(text, KL_CONTENT_TYPE_MAX);

    return st == KL_OK ? st
                       : kl_call_field(call, st, "content_type",
                                       "at most 255 bytes of UTF-8 without control characters");
}

enum kl_status kl_field_times(struct kl_call *call, uint64_t not_before_s, uint64_t expires_s)
{
    const uint64_t year_9999_s = 253402300799u;

    if (not_before_s > year_9999_s) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "not_before_s",
                             "Unix seconds, at most 253402300799");
    }
    if (expires_s > year_9999_s) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "expires_s",
                             "Unix seconds, at most 253402300799");
    }
    if (not_before_s != 0 && expires_s != 0 && expires_s <= not_before_s) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "expires_s", "later than not_before_s");
    }
    return KL_OK;
}

static enum kl_status check_tag(struct kl_call *call, const Kluis__V1__Tag *tag)
{
    enum kl_status st = kl_text_check(tag->key, KL_TAG_KEY_MAX);

    if (st == KL_OK && tag->key[0] == 0) {
        st = KL_INVALID_ARGUMENT;
    }
    if (st != KL_OK) {
        return kl_call_field(call, st, "tags.key",
                             "1 to 512 bytes of UTF-8 without control characters");
    }
    st = kl_text_check(tag->value, KL_TAG_VALUE_MAX);
    return st == KL_OK ? st
                       : kl_call_field(call, st, "tags.value",
                                       "at most 256 bytes of UTF-8 without control characters");
}

enum kl_status kl_field_tags(struct kl_call *call, size_t n, Kluis__V1__Tag *const *tags)
{
    if (n > KL_TAGS_MAX) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "tags", "at most 15 tags");
    }
    for (size_t i = 0; i < n; i++) {
        enum kl_status st = check_tag(call, tags[i]);

        if (st != KL_OK) {
            return st;
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp(tags[i]->key, tags[k]->key) == 0) {
                return kl_call_field(call, KL_INVALID_ARGUMENT, "tags.key", "each key once");
            }
        }
    }
    return KL_OK;
}

enum kl_status kl_field_page_size(struct kl_call *call, uint32_t asked, size_t *size)
{
    if (asked > KL_PAGE_MAX) {
        return kl_call_field(call, KL_INVALID_ARGUMENT, "page_size", "1 to 100; 0 means 25");
    }
    *size = asked == 0 ? KL_PAGE_DEFAULT : asked;
    return KL_OK;
}
