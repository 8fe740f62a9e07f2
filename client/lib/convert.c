/*
 * Messages to what kluis.h promises. A result is one block of memory: the public structure first,
 * then its tags, then its strings, so that freeing it can wipe all of it.
 */
#include "client/lib/internal.h"

#include <assert.h>

struct secret_block {
    struct kluis_secret secret; /* first */
    size_t size;
    struct kluis_tag tags[];
};

struct vault_block {
    struct kluis_vault vault; /* first */
    size_t size;
    struct kluis_tag tags[];
};

/* Hands out pieces of the block's tail. */
struct tail {
    char *next;
    const char *end;
};

static const char *copy_text(struct tail *tail, const char *text)
{
    size_t n = strlen(text) + 1;
    char *at = tail->next;

    assert(tail->end - at >= (ptrdiff_t)n);
    memcpy(at, text, n);
    tail->next += n;
    return at;
}

static size_t tags_size(Kluis__V1__Tag *const *tags, size_t n)
{
    size_t size = n * sizeof(struct kluis_tag);

    for (size_t i = 0; i < n; i++) {
        size += strlen(tags[i]->key) + strlen(tags[i]->value) + 2;
    }
    return size;
}

static void copy_tags(struct tail *tail, Kluis__V1__Tag *const *from, size_t n,
                      struct kluis_tag *to)
{
    for (size_t i = 0; i < n; i++) {
        to[i].key = copy_text(tail, from[i]->key);
        to[i].value = copy_text(tail, from[i]->value);
    }
}

/* Lists have no value, and Set answers without one: an empty value and none look the same in
 * protobuf. Those who may have one ask for it. */
enum kl_status kl_secret_out(const Kluis__V1__Secret *from, bool with_value,
                             struct kluis_secret **out)
{
    static const Kluis__V1__Attributes none = KLUIS__V1__ATTRIBUTES__INIT;
    const Kluis__V1__Attributes *a = from->attributes == NULL ? &none : from->attributes;
    size_t size = sizeof(struct secret_block) + tags_size(from->tags, from->n_tags) +
                  strlen(from->vault) + strlen(from->name) + strlen(from->version) +
                  strlen(from->content_type) + strlen(a->recovery_level) + 5 + from->value.len + 1;
    struct secret_block *block = kl_calloc(1, size);
    struct kluis_secret *s;
    struct tail tail;

    if (block == NULL) {
        return KL_NO_MEMORY;
    }
    block->size = size;
    s = &block->secret;
    tail = (struct tail){(char *)(block->tags + from->n_tags), (char *)block + size};
    copy_tags(&tail, from->tags, from->n_tags, block->tags);
    s->vault = copy_text(&tail, from->vault);
    s->name = copy_text(&tail, from->name);
    s->version = copy_text(&tail, from->version);
    s->content_type = copy_text(&tail, from->content_type);
    s->recovery_level = copy_text(&tail, a->recovery_level);
    s->tags = from->n_tags == 0 ? NULL : block->tags;
    s->tags_n = from->n_tags;
    if (with_value) {
        /* A NUL follows it, not counted: a value that is text can be used as it is. */
        memcpy(tail.next, from->value.data == NULL ? (const uint8_t *)"" : from->value.data,
               from->value.len);
        s->value = (const uint8_t *)tail.next;
        s->value_len = from->value.len;
    }
    s->enabled = a->enabled;
    s->not_before_s = a->not_before_s;
    s->expires_s = a->expires_s;
    s->created_ms = a->created_ms;
    s->updated_ms = a->updated_ms;
    s->recoverable_days = a->recoverable_days;
    s->deleted_ms = from->deleted_ms;
    s->scheduled_purge_ms = from->scheduled_purge_ms;
    *out = s;
    return KL_OK;
}

enum kl_status kl_vault_out(const Kluis__V1__Vault *from, struct kluis_vault **out)
{
    size_t size = sizeof(struct vault_block) + tags_size(from->tags, from->n_tags) +
                  strlen(from->name) + strlen(from->id) + strlen(from->subscription) +
                  strlen(from->resource_group) + strlen(from->location) + strlen(from->mirror) +
                  strlen(from->leader_region) + 7;
    struct vault_block *block = kl_calloc(1, size);
    struct kluis_vault *v;
    struct tail tail;

    if (block == NULL) {
        return KL_NO_MEMORY;
    }
    block->size = size;
    v = &block->vault;
    tail = (struct tail){(char *)(block->tags + from->n_tags), (char *)block + size};
    copy_tags(&tail, from->tags, from->n_tags, block->tags);
    v->name = copy_text(&tail, from->name);
    v->id = copy_text(&tail, from->id);
    v->subscription = copy_text(&tail, from->subscription);
    v->resource_group = copy_text(&tail, from->resource_group);
    v->location = copy_text(&tail, from->location);
    v->mirror = copy_text(&tail, from->mirror);
    v->leader_region = copy_text(&tail, from->leader_region);
    v->mirror_current = from->mirror_current;
    v->mirror_lag = from->mirror_lag;
    v->tags = from->n_tags == 0 ? NULL : block->tags;
    v->tags_n = from->n_tags;
    v->retention_days = from->retention_days;
    v->purge_protection = from->purge_protection;
    v->created_ms = from->created_ms;
    v->updated_ms = from->updated_ms;
    v->deleted_ms = from->deleted_ms;
    v->scheduled_purge_ms = from->scheduled_purge_ms;
    *out = v;
    return KL_OK;
}

void kluis_secret_free(struct kluis_secret *secret)
{
    if (secret != NULL) {
        struct secret_block *block = (struct secret_block *)secret;
        size_t size = block->size;

        kl_wipe(block, size);
        kl_free(block);
    }
}

void kluis_vault_free(struct kluis_vault *vault)
{
    if (vault != NULL) {
        struct vault_block *block = (struct vault_block *)vault;
        size_t size = block->size;

        kl_wipe(block, size);
        kl_free(block);
    }
}

void kluis_secret_list_free(struct kluis_secret_list *list)
{
    if (list != NULL) {
        for (size_t i = 0; i < list->n; i++) {
            kluis_secret_free(list->items[i]);
        }
        kl_free(list->items);
        kl_free(list->next);
        kl_free(list);
    }
}

void kluis_vault_list_free(struct kluis_vault_list *list)
{
    if (list != NULL) {
        for (size_t i = 0; i < list->n; i++) {
            kluis_vault_free(list->items[i]);
        }
        kl_free(list->items);
        kl_free(list->next);
        kl_free(list);
    }
}

void kluis_blob_free(struct kluis_blob *blob)
{
    if (blob != NULL) {
        kl_wipe(blob->data, blob->len);
        kl_free(blob->data);
        kl_free(blob);
    }
}

enum kl_status kl_secrets_out(Kluis__V1__Secret *const *from, size_t n, const char *next,
                              struct kluis_secret_list **out)
{
    struct kluis_secret_list *list = kl_calloc(1, sizeof *list);
    enum kl_status st = list == NULL ? KL_NO_MEMORY : KL_OK;

    if (st == KL_OK && n != 0) {
        list->items = kl_calloc(n, sizeof(struct kluis_secret *));
        st = list->items == NULL ? KL_NO_MEMORY : KL_OK;
    }
    if (st == KL_OK && next[0] != '\0') {
        list->next = kl_strdup(next);
        st = list->next == NULL ? KL_NO_MEMORY : KL_OK;
    }
    for (size_t i = 0; i < n && st == KL_OK; i++) {
        st = kl_secret_out(from[i], false, &list->items[i]);
        list->n += st == KL_OK;
    }
    if (st != KL_OK) {
        kluis_secret_list_free(list);
        return st;
    }
    *out = list;
    return KL_OK;
}

enum kl_status kl_vaults_out(Kluis__V1__Vault *const *from, size_t n, const char *next,
                             struct kluis_vault_list **out)
{
    struct kluis_vault_list *list = kl_calloc(1, sizeof *list);
    enum kl_status st = list == NULL ? KL_NO_MEMORY : KL_OK;

    if (st == KL_OK && n != 0) {
        list->items = kl_calloc(n, sizeof(struct kluis_vault *));
        st = list->items == NULL ? KL_NO_MEMORY : KL_OK;
    }
    if (st == KL_OK && next[0] != '\0') {
        list->next = kl_strdup(next);
        st = list->next == NULL ? KL_NO_MEMORY : KL_OK;
    }
    for (size_t i = 0; i < n && st == KL_OK; i++) {
        st = kl_vault_out(from[i], &list->items[i]);
        list->n += st == KL_OK;
    }
    if (st != KL_OK) {
        kluis_vault_list_free(list);
        return st;
    }
    *out = list;
    return KL_OK;
}

/* ---------------------------------------------------------------- into messages */

enum kl_status kl_tags_in(const struct kluis_tag *tags, size_t n, struct kl_tag_array *out)
{
    struct kl_tag_array a = {NULL, NULL};

    if (n == 0) {
        *out = a;
        return KL_OK;
    }
    if (tags == NULL || n > KL_TAGS_MAX) {
        kl_client_explain("tags: at most %d", KL_TAGS_MAX);
        return KL_INVALID_ARGUMENT;
    }
    a.tags = kl_calloc(n, sizeof *a.tags);
    a.list = kl_calloc(n, sizeof(Kluis__V1__Tag *));
    if (a.tags == NULL || a.list == NULL) {
        kl_tags_done(&a);
        return KL_NO_MEMORY;
    }
    for (size_t i = 0; i < n; i++) {
        if (tags[i].key == NULL || tags[i].value == NULL) {
            kl_tags_done(&a);
            kl_client_explain("tags: key and value must not be NULL");
            return KL_INVALID_ARGUMENT;
        }
        kluis__v1__tag__init(&a.tags[i]);
        a.tags[i].key = kl_pb_text(tags[i].key);
        a.tags[i].value = kl_pb_text(tags[i].value);
        a.list[i] = &a.tags[i];
    }
    *out = a;
    return KL_OK;
}

void kl_tags_done(struct kl_tag_array *tags)
{
    kl_free(tags->tags);
    kl_free(tags->list);
    *tags = (struct kl_tag_array){NULL, NULL};
}
