#include "tests/lib/history.h"

#include "common/alloc.h"
#include "common/names.h"

#include <assert.h>
#include <string.h>

enum { WORDS_MIN = 64, LINE_MAX_LEN = 512, FIELDS_MIN = 6, FIELDS_MAX = 8 };

static const char *const kind_names[KL_HISTORY_KINDS] = {
    [KL_HISTORY_SET] = "set",
    [KL_HISTORY_GET] = "get",
    [KL_HISTORY_GET_VERSION] = "get-version",
    [KL_HISTORY_DELETE] = "delete",
    [KL_HISTORY_RECOVER] = "recover",
    [KL_HISTORY_PURGE] = "purge",
    [KL_HISTORY_GET_DELETED] = "get-deleted",
};

void kl_history_init(struct kl_history *h)
{
    *h = (struct kl_history){.retention_us = 0};
}

void kl_history_done(struct kl_history *h)
{
    kl_free(h->ops);
    kl_free(h->words);
    kl_free(h->slots);
    kl_history_init(h);
}

static uint32_t hash_text(const char *text)
{
    uint32_t x = 2166136261u;

    for (; *text != '\0'; text++) {
        x = (x ^ (uint8_t)*text) * 16777619u;
    }
    return x;
}

/* The slot that holds the word, or the free one where it belongs. */
static uint32_t *find_slot(const struct kl_history *h, const char *text)
{
    uint32_t i = hash_text(text) & (h->slots_n - 1);

    while (h->slots[i] != 0 && strcmp(h->words[h->slots[i]], text) != 0) {
        i = (i + 1) & (h->slots_n - 1);
    }
    return &h->slots[i];
}

static enum kl_status grow_words(struct kl_history *h)
{
    uint32_t cap = h->words_cap == 0 ? WORDS_MIN : h->words_cap * 2;
    char(*words)[KL_HISTORY_WORD_MAX + 1] = kl_realloc(h->words, cap * sizeof *words);
    uint32_t *slots;

    if (words == NULL) {
        return KL_NO_MEMORY;
    }
    h->words = words;
    slots = kl_calloc(cap * 2u, sizeof *slots);
    if (slots == NULL) {
        return KL_NO_MEMORY;
    }
    kl_free(h->slots);
    h->slots = slots;
    h->slots_n = cap * 2u;
    h->words_cap = cap;
    if (h->words_n == 0) {
        h->words[0][0] = '\0';
        h->words_n = 1;
    }
    for (uint32_t i = 1; i < h->words_n; i++) {
        *find_slot(h, h->words[i]) = i;
    }
    return KL_OK;
}

enum kl_status kl_history_word(struct kl_history *h, const char *text, uint32_t *out)
{
    size_t len = strlen(text);
    uint32_t *slot;

    if (len == 0 || len > KL_HISTORY_WORD_MAX || strpbrk(text, " \t\r\n") != NULL) {
        return KL_INVALID_ARGUMENT;
    }
    if (h->words_n == h->words_cap) {
        enum kl_status st = grow_words(h);

        if (st != KL_OK) {
            return st;
        }
    }
    slot = find_slot(h, text);
    if (*slot == 0) {
        memcpy(h->words[h->words_n], text, len + 1);
        *slot = h->words_n++;
    }
    *out = *slot;
    return KL_OK;
}

const char *kl_history_text(const struct kl_history *h, uint32_t word)
{
    assert(word < h->words_n || word == 0);
    return word == 0 ? "" : h->words[word];
}

static enum kl_status optional_word(struct kl_history *h, const char *text, uint32_t *out)
{
    return text == NULL ? KL_OK : kl_history_word(h, text, out);
}

static enum kl_status add_op(struct kl_history *h, const struct kl_history_op *op)
{
    if (h->ops_n == h->ops_cap) {
        size_t cap = h->ops_cap == 0 ? WORDS_MIN : h->ops_cap * 2;
        struct kl_history_op *ops;

        if (cap > KL_HISTORY_OPS_MAX) {
            return KL_EXHAUSTED;
        }
        ops = kl_realloc(h->ops, cap * sizeof *ops);
        if (ops == NULL) {
            return KL_NO_MEMORY;
        }
        h->ops = ops;
        h->ops_cap = cap;
    }
    h->ops[h->ops_n++] = *op;
    return KL_OK;
}

enum kl_status kl_history_invoke(struct kl_history *h, uint32_t client, enum kl_history_kind kind,
                                 const char *name, const char *value, const char *version,
                                 uint64_t now_us, size_t *op)
{
    struct kl_history_op o = {.client = client,
                              .kind = kind,
                              .outcome = KL_HISTORY_UNKNOWN,
                              .invoked_us = now_us,
                              .returned_us = KL_HISTORY_NEVER};
    enum kl_status st = kl_history_word(h, name, &o.name);

    st = st == KL_OK ? optional_word(h, value, &o.value) : st;
    st = st == KL_OK ? optional_word(h, version, &o.version) : st;
    st = st == KL_OK ? add_op(h, &o) : st;
    if (st == KL_OK) {
        *op = h->ops_n - 1;
    }
    return st;
}

enum kl_status kl_history_return(struct kl_history *h, size_t op, enum kl_status status,
                                 const char *value, const char *version, uint64_t now_us)
{
    struct kl_history_op *o = &h->ops[op];
    enum kl_status st;
    uint32_t v = o->value;
    uint32_t w = o->version;

    assert(op < h->ops_n && o->outcome == KL_HISTORY_UNKNOWN && now_us >= o->invoked_us);
    st = optional_word(h, value, &v);
    st = st == KL_OK ? optional_word(h, version, &w) : st;
    if (st == KL_OK) {
        o->outcome = KL_HISTORY_DONE;
        o->status = status;
        o->returned_us = now_us;
        o->value = v;
        o->version = w;
    }
    return st;
}

void kl_history_fail(struct kl_history *h, size_t op)
{
    assert(op < h->ops_n && h->ops[op].outcome == KL_HISTORY_UNKNOWN);
    h->ops[op].outcome = KL_HISTORY_FAILED;
}

const char *kl_history_kind_name(enum kl_history_kind kind)
{
    return kind_names[kind];
}

void kl_history_line(const struct kl_history *h, size_t op, char *out, size_t out_len)
{
    const struct kl_history_op *o = &h->ops[op];
    const char *outcome = o->outcome == KL_HISTORY_UNKNOWN  ? "unknown"
                          : o->outcome == KL_HISTORY_FAILED ? "failed"
                          : o->status == KL_OK              ? "ok"
                                                            : kl_status_name(o->status);
    char returned[24] = "-";

    if (o->returned_us != KL_HISTORY_NEVER) {
        (void)snprintf(returned, sizeof returned, "%llu", (unsigned long long)o->returned_us);
    }
    (void)snprintf(out, out_len, "%u %s %s %llu %s %s%s%s%s%s", o->client, kind_names[o->kind],
                   kl_history_text(h, o->name), (unsigned long long)o->invoked_us, returned,
                   outcome, o->value == 0 ? "" : " value=", kl_history_text(h, o->value),
                   o->version == 0 ? "" : " version=", kl_history_text(h, o->version));
}

enum kl_status kl_history_write(const struct kl_history *h, FILE *to)
{
    char line[LINE_MAX_LEN];

    (void)fprintf(to, "kluis-history 1\n");
    if (h->retention_us != 0) {
        (void)fprintf(to, "retention_us %llu\n", (unsigned long long)h->retention_us);
    }
    for (size_t i = 0; i < h->ops_n; i++) {
        if (h->ops[i].outcome != KL_HISTORY_FAILED) {
            kl_history_line(h, i, line, sizeof line);
            (void)fprintf(to, "%s\n", line);
        }
    }
    return ferror(to) == 0 ? KL_OK : KL_IO;
}

/* Cuts a line at its blanks. */
static size_t split(char *line, char *fields[FIELDS_MAX + 1])
{
    size_t n = 0;
    char *save = NULL;

    for (char *p = strtok_r(line, " \t\r\n", &save); p != NULL && n <= FIELDS_MAX;
         p = strtok_r(NULL, " \t\r\n", &save)) {
        fields[n++] = p;
    }
    return n;
}

static enum kl_status parse_outcome(const char *text, struct kl_history_op *o)
{
    if (strcmp(text, "unknown") == 0) {
        o->outcome = KL_HISTORY_UNKNOWN;
        return KL_OK;
    }
    o->outcome = KL_HISTORY_DONE;
    o->status = strcmp(text, "ok") == 0 ? KL_OK : kl_status_from_name(text);
    return o->status == KL_INTERNAL && strcmp(text, "INTERNAL") != 0 ? KL_CORRUPT : KL_OK;
}

static enum kl_status parse_words(struct kl_history *h, char **fields, size_t n,
                                  struct kl_history_op *o)
{
    enum kl_status st = KL_OK;

    for (size_t i = 0; i < n && st == KL_OK; i++) {
        if (strncmp(fields[i], "value=", 6) == 0) {
            st = kl_history_word(h, fields[i] + 6, &o->value);
        } else if (strncmp(fields[i], "version=", 8) == 0) {
            st = kl_history_word(h, fields[i] + 8, &o->version);
        } else {
            st = KL_CORRUPT;
        }
    }
    return st;
}

static enum kl_status parse_op(struct kl_history *h, char **f, size_t n)
{
    struct kl_history_op o = {.kind = KL_HISTORY_KINDS, .returned_us = KL_HISTORY_NEVER};
    enum kl_status st;
    uint64_t client = 0;

    if (n < FIELDS_MIN || n > FIELDS_MAX) {
        return KL_CORRUPT;
    }
    for (int k = 0; k < KL_HISTORY_KINDS; k++) {
        if (strcmp(f[1], kind_names[k]) == 0) {
            o.kind = (enum kl_history_kind)k;
        }
    }
    st = o.kind == KL_HISTORY_KINDS ? KL_CORRUPT : kl_number_parse(f[0], 0, UINT32_MAX, &client);
    o.client = (uint32_t)client;
    st = st == KL_OK ? kl_history_word(h, f[2], &o.name) : st;
    st = st == KL_OK ? kl_number_parse(f[3], 0, UINT64_MAX - 1, &o.invoked_us) : st;
    if (st == KL_OK && strcmp(f[4], "-") != 0) {
        st = kl_number_parse(f[4], o.invoked_us, UINT64_MAX - 1, &o.returned_us);
    }
    st = st == KL_OK ? parse_outcome(f[5], &o) : st;
    st = st == KL_OK ? parse_words(h, f + FIELDS_MIN, n - FIELDS_MIN, &o) : st;
    if (st == KL_OK && o.outcome == KL_HISTORY_DONE && o.returned_us == KL_HISTORY_NEVER) {
        st = KL_CORRUPT;
    }
    if (o.outcome == KL_HISTORY_UNKNOWN) {
        o.returned_us = KL_HISTORY_NEVER; /* giving up is not an answer */
    }
    return st == KL_OK ? add_op(h, &o) : st;
}

enum kl_status kl_history_read(struct kl_history *h, FILE *from, char *err, size_t err_len)
{
    char line[LINE_MAX_LEN];
    char *fields[FIELDS_MAX + 1];
    enum kl_status st = KL_OK;
    unsigned number = 0;

    while (st == KL_OK && fgets(line, sizeof line, from) != NULL) {
        size_t n = line[0] == '#' ? 0 : split(line, fields);

        if (++number == 1) {
            st = n == 2 && strcmp(fields[0], "kluis-history") == 0 && strcmp(fields[1], "1") == 0
                     ? KL_OK
                     : KL_CORRUPT;
        } else if (n == 2 && strcmp(fields[0], "retention_us") == 0) {
            st = kl_number_parse(fields[1], 1, UINT64_MAX, &h->retention_us);
        } else if (n != 0) {
            st = parse_op(h, fields, n);
        }
    }
    if (st == KL_OK && number == 0) {
        st = KL_CORRUPT;
    }
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "line %u is not an operation of a history (%s)", number,
                       kl_status_name(st));
        return st == KL_NO_MEMORY ? st : KL_CORRUPT;
    }
    return ferror(from) == 0 ? KL_OK : KL_IO;
}
