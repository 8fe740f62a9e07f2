#include "server/core/apply.h"

bool kl_check_kind(uint32_t kind)
{
    return kind >= KL_KIND_SECRET && kind <= KL_KIND_CERTIFICATE;
}

const char *kl_check_tags(Kluis__Store__Tag *const *tags, size_t n)
{
    if (n > KL_TAGS_MAX) {
        return "tags";
    }
    for (size_t i = 0; i < n; i++) {
        if (tags[i]->key[0] == 0 || kl_text_check(tags[i]->key, KL_TAG_KEY_MAX) != KL_OK ||
            kl_text_check(tags[i]->value, KL_TAG_VALUE_MAX) != KL_OK) {
            return "tags";
        }
        for (size_t j = 0; j < i; j++) {
            if (strcmp(tags[i]->key, tags[j]->key) == 0) {
                return "tags";
            }
        }
    }
    return NULL;
}

static bool has_wrapped_key(ProtobufCBinaryData key)
{
    return key.len > 0 && key.len <= KL_WRAPPED_KEY_MAX;
}

const char *kl_check_vault(const Kluis__Store__VaultRecord *vault)
{
    if (vault == NULL) {
        return "vault";
    }
    if (kl_vault_name_check(vault->name, NULL) != KL_OK) {
        return "name";
    }
    if (!kl_is_id(vault->vault_id)) {
        return "id";
    }
    if (kl_subscription_check(vault->subscription, NULL) != KL_OK) {
        return "subscription";
    }
    if (kl_resource_group_check(vault->resource_group, NULL) != KL_OK) {
        return "resource_group";
    }
    if (kl_location_check(vault->location, NULL) != KL_OK) {
        return "location";
    }
    if (kl_retention_check(vault->retention_days, NULL) != KL_OK) {
        return "retention_days";
    }
    if (!has_wrapped_key(vault->wrapped_key)) {
        return "wrapped_key";
    }
    return kl_check_tags(vault->tags, vault->n_tags);
}

bool kl_check_dates(const Kluis__Store__Attributes *attributes)
{
    return attributes->expires_s == 0 || attributes->not_before_s == 0 ||
           attributes->expires_s > attributes->not_before_s;
}

const char *kl_check_version(const Kluis__Store__VersionRecord *version)
{
    const Kluis__Store__VersionMeta *meta = version == NULL ? NULL : version->meta;

    if (meta == NULL || meta->attributes == NULL || !kl_is_id(meta->version_id)) {
        return "version";
    }
    if (!kl_check_dates(meta->attributes)) {
        return "expires_s";
    }
    if (kl_text_check(meta->content_type, KL_CONTENT_TYPE_MAX) != KL_OK) {
        return "content_type";
    }
    if (version->sealed.len == 0 ||
        protobuf_c_message_get_packed_size(&version->base) > KL_RECORD_MAX) {
        return "value";
    }
    return kl_check_tags(meta->tags, meta->n_tags);
}
