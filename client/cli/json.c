/*
 * Vaults and secrets as JSON, with the names az gives their fields.
 */
#include "client/cli/cli.h"

#include <string.h>

void kl_cli_put(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, kl_cli_must(value)) != 0) {
        (void)kl_cli_must(NULL);
    }
}

json_t *kl_cli_text(const char *text)
{
    if (text == NULL || text[0] == '\0') {
        return json_null();
    }
    if (!kl_cli_utf8((const uint8_t *)text, strlen(text))) {
        return json_string("?"); /* no server of ours stores this */
    }
    return kl_cli_must(json_string(text));
}

json_t *kl_cli_date(uint64_t seconds)
{
    char text[24];

    if (seconds == 0) {
        return json_null();
    }
    kl_cli_time_format(seconds, text);
    return kl_cli_text(text);
}

static json_t *tags_json(const struct kluis_tag *tags, size_t n)
{
    json_t *out = kl_cli_must(json_object());

    for (size_t i = 0; i < n; i++) {
        kl_cli_put(out, tags[i].key, json_string(tags[i].value));
    }
    return out;
}

static json_t *format(const char *prefix, const char *a, const char *middle, const char *b,
                      const char *last, const char *c)
{
    json_t *out = json_sprintf("%s%s%s%s%s%s", prefix, a, middle, b, last, c);

    return kl_cli_must(out);
}

json_t *kl_cli_vault_json(const struct kluis_vault *v)
{
    json_t *out = kl_cli_must(json_object());
    json_t *properties = kl_cli_must(json_object());

    kl_cli_put(out, "id",
               json_sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.KeyVault/"
                            "vaults/%s",
                            v->subscription, v->resource_group, v->name));
    kl_cli_put(out, "name", kl_cli_text(v->name));
    kl_cli_put(out, "location", kl_cli_text(v->location));
    kl_cli_put(out, "resourceGroup", kl_cli_text(v->resource_group));
    kl_cli_put(out, "subscription", kl_cli_text(v->subscription));
    kl_cli_put(properties, "vaultId", kl_cli_text(v->id));
    kl_cli_put(properties, "enableSoftDelete", json_true());
    kl_cli_put(properties, "softDeleteRetentionInDays", json_integer(v->retention_days));
    kl_cli_put(properties, "enablePurgeProtection", json_boolean(v->purge_protection));
    kl_cli_put(properties, "created", kl_cli_date(v->created_ms / 1000));
    kl_cli_put(properties, "updated", kl_cli_date(v->updated_ms / 1000));
    if (v->deleted_ms != 0) {
        kl_cli_put(properties, "deletionDate", kl_cli_date(v->deleted_ms / 1000));
        kl_cli_put(properties, "scheduledPurgeDate", kl_cli_date(v->scheduled_purge_ms / 1000));
    }
    if (v->mirror[0] != '\0') {
        kl_cli_put(properties, "mirror", kl_cli_text(v->mirror));
    }
    if (v->leader_region[0] != '\0') { /* of one vault, not in a list */
        kl_cli_put(properties, "leaderRegion", kl_cli_text(v->leader_region));
    }
    if (v->mirror[0] != '\0' && v->leader_region[0] != '\0') {
        kl_cli_put(properties, "mirrorCurrent", json_boolean(v->mirror_current));
        kl_cli_put(properties, "mirrorLagEntries", json_integer((json_int_t)v->mirror_lag));
    }
    kl_cli_put(out, "properties", properties);
    kl_cli_put(out, "tags", tags_json(v->tags, v->tags_n));
    return out;
}

static void put_value(struct kl_cli *cli, json_t *out, const struct kluis_secret *s,
                      const char *encoding)
{
    const char *text = (const char *)s->value;
    size_t n = s->value_len;

    if (encoding == NULL || strcmp(encoding, "utf-8") == 0) {
        encoding = kl_cli_utf8(s->value, s->value_len) ? "utf-8" : "base64";
    }
    if (strcmp(encoding, "utf-8") != 0) {
        text = strcmp(encoding, "hex") == 0 ? kl_cli_hex(cli, s->value, s->value_len)
                                            : kl_cli_base64(cli, s->value, s->value_len);
        n = strlen(text);
    }
    kl_cli_put(out, "value", json_stringn(text, n));
    kl_cli_put(out, "valueEncoding", json_string(encoding));
}

json_t *kl_cli_secret_json(struct kl_cli *cli, const struct kluis_secret *s, const char *encoding)
{
    json_t *out = kl_cli_must(json_object());
    json_t *attributes = kl_cli_must(json_object());

    kl_cli_put(out, "id", format("kluis://", s->vault, "/secrets/", s->name, "/", s->version));
    kl_cli_put(out, "name", kl_cli_text(s->name));
    kl_cli_put(out, "vault", kl_cli_text(s->vault));
    kl_cli_put(out, "version", kl_cli_text(s->version));
    if (s->value != NULL) {
        put_value(cli, out, s, encoding);
    }
    kl_cli_put(out, "contentType", kl_cli_text(s->content_type));
    kl_cli_put(attributes, "enabled", json_boolean(s->enabled));
    kl_cli_put(attributes, "created", kl_cli_date(s->created_ms / 1000));
    kl_cli_put(attributes, "updated", kl_cli_date(s->updated_ms / 1000));
    kl_cli_put(attributes, "notBefore", kl_cli_date(s->not_before_s));
    kl_cli_put(attributes, "expires", kl_cli_date(s->expires_s));
    kl_cli_put(attributes, "recoverableDays", json_integer(s->recoverable_days));
    kl_cli_put(attributes, "recoveryLevel", kl_cli_text(s->recovery_level));
    kl_cli_put(out, "attributes", attributes);
    if (s->deleted_ms != 0) {
        kl_cli_put(out, "deletedDate", kl_cli_date(s->deleted_ms / 1000));
        kl_cli_put(out, "scheduledPurgeDate", kl_cli_date(s->scheduled_purge_ms / 1000));
    }
    kl_cli_put(out, "tags", tags_json(s->tags, s->tags_n));
    return out;
}
