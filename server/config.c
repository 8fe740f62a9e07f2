/*
 * The configuration file.
 *
 *   - Lines are `key = value` under `[section]` heads; blanks around key and value do not count.
 *   - # and ; begin a comment at the start of a line or behind a blank.
 *   - [cluster] and [this] stand once; [node NAME] and [principal NAME] once per name.
 *   - A key stands once in its section; unknown sections and keys are refused, so that a misspelt
 *     limit is not silently the default.
 *   - Durations are whole milliseconds ("800", "800ms") or seconds ("1s"); sizes are bytes, or have
 *     KiB, MiB or GiB behind the number; switches are yes or no.
 *
 * The keys are the table below. The first error ends the reading.
 */
#include "server/config.h"

#include "common/alloc.h"
#include "common/buf.h"
#include "common/names.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

enum {
    SHOWN_MAX = 64, /* bytes of a wrong value that an error repeats */
};

static const char blanks[] = " \t\r";

enum section { SECTION_NONE, SECTION_CLUSTER, SECTION_THIS, SECTION_NODE, SECTION_PRINCIPAL };

static const char *const section_names[] = {"", "cluster", "this", "node", "principal"};

enum kind {
    KIND_LOCATION, /* a name */
    KIND_UUID,
    KIND_PATH,
    KIND_ADDRESS,
    KIND_SWITCH,
    KIND_MS,
    KIND_BYTES,
    KIND_NUMBER,
    KIND_LEVEL,
    KIND_DIGEST,
    KIND_RIGHTS,
};

struct key {
    enum section section;
    const char *name;
    enum kind kind;
    size_t offset; /* in kl_config, kl_config_node or kl_principal, as the section says */
    size_t size;
    bool required;
    uint64_t min, max; /* of numbers, in the unit they are kept in */
};

#define IN(type, member) offsetof(struct type, member), sizeof(((struct type *)NULL)->member)

#define MIB (1ull << 20)

static const struct key keys[] = {
    {SECTION_CLUSTER, "name", KIND_LOCATION, IN(kl_config, cluster), true, 0, 0},
    {SECTION_CLUSTER, "geography", KIND_LOCATION, IN(kl_config, geography), true, 0, 0},
    {SECTION_CLUSTER, "subscription", KIND_UUID, IN(kl_config, subscription), true, 0, 0},
    {SECTION_CLUSTER, "day_ms", KIND_MS, IN(kl_config, day_ms), false, 1, KL_DAY_MS},
    {SECTION_CLUSTER, "test_cluster", KIND_SWITCH, IN(kl_config, test_cluster), false, 0, 0},
    {SECTION_CLUSTER, "election_timeout_ms", KIND_MS, IN(kl_config, election_timeout_ms), false,
     200, 60000},
    {SECTION_THIS, "node", KIND_LOCATION, IN(kl_config, self), true, 0, 0},
    {SECTION_THIS, "data_dir", KIND_PATH, IN(kl_config, data_dir), true, 0, 0},
    {SECTION_THIS, "listen_client", KIND_ADDRESS, IN(kl_config, listen_client), false, 0, 0},
    {SECTION_THIS, "listen_peer", KIND_ADDRESS, IN(kl_config, listen_peer), false, 0, 0},
    {SECTION_THIS, "ca_file", KIND_PATH, IN(kl_config, ca_file), true, 0, 0},
    {SECTION_THIS, "cert_file", KIND_PATH, IN(kl_config, cert_file), true, 0, 0},
    {SECTION_THIS, "key_file", KIND_PATH, IN(kl_config, key_file), true, 0, 0},
    {SECTION_THIS, "seal_file", KIND_PATH, IN(kl_config, seal_file), true, 0, 0},
    {SECTION_THIS, "geography_key_file", KIND_PATH, IN(kl_config, geography_key_file), false, 0, 0},
    {SECTION_THIS, "audit_file", KIND_PATH, IN(kl_config, audit_file), false, 0, 0},
    {SECTION_THIS, "workers", KIND_NUMBER, IN(kl_config, workers), false, 1, KL_POOL_THREADS_MAX},
    {SECTION_THIS, "cache_bytes", KIND_BYTES, IN(kl_config, cache_bytes), false, MIB, 65536 * MIB},
    {SECTION_THIS, "log_level", KIND_LEVEL, IN(kl_config, log_level), false, 0, 0},
    {SECTION_NODE, "id", KIND_NUMBER, IN(kl_config_node, id), true, 1, KL_NODE_ID_MAX},
    {SECTION_NODE, "region", KIND_LOCATION, IN(kl_config_node, region), true, 0, 0},
    {SECTION_NODE, "client_address", KIND_ADDRESS, IN(kl_config_node, client_address), true, 0, 0},
    {SECTION_NODE, "peer_address", KIND_ADDRESS, IN(kl_config_node, peer_address), true, 0, 0},
    {SECTION_PRINCIPAL, "token_sha256", KIND_DIGEST, IN(kl_principal, token_sha256), true, 0, 0},
    {SECTION_PRINCIPAL, "rights", KIND_RIGHTS, IN(kl_principal, rights), true, 0, 0},
};

enum { KEYS_N = sizeof keys / sizeof keys[0] };

static_assert(KEYS_N <= 64, "the keys of a section that were seen are bits of one word");

struct parser {
    const char *file;
    unsigned line; /* from 1 */
    char *err;
    size_t err_len;
    struct kl_config *config;
    enum section section;
    unsigned section_line;
    char title[128];        /* of the section, as written, for errors */
    uint64_t seen;          /* keys of this section, by their place in the table */
    uint64_t sections;      /* 1 << section, of those that stand once */
    unsigned lines[KEYS_N]; /* where each key stood last */
};

static enum kl_status bad(const struct parser *p, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "FILE:LINE: KEY: …". Always KL_INVALID_ARGUMENT. */
static enum kl_status bad(const struct parser *p, const char *key, const char *format, ...)
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

static enum kl_status bad_value(const struct parser *p, const struct key *key, const char *value,
                                const char *allowed)
{
    return bad(p, key->name, "\"%.*s%s\" is not allowed: %s", SHOWN_MAX, value,
               strlen(value) > SHOWN_MAX ? "..." : "", allowed);
}

/* ---- values ---- */

static enum kl_status set_text(const struct parser *p, const struct key *key, const char *value,
                               char *to)
{
    size_t n = strlen(value);

    if (n >= key->size) {
        return bad(p, key->name, "is longer than %zu bytes", key->size - 1);
    }
    memcpy(to, value, n + 1);
    return KL_OK;
}

static enum kl_status set_name(const struct parser *p, const struct key *key, const char *value,
                               char *to)
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

static enum kl_status set_switch(const struct parser *p, const struct key *key, const char *value,
                                 bool *to)
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

static void store_number(const struct key *key, uint64_t n, void *to)
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

static enum kl_status set_number(const struct parser *p, const struct key *key, const char *value,
                                 void *to)
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
                       key->min / MIB, key->max / MIB);
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

static enum kl_status set_digest(const struct parser *p, const struct key *key, const char *value,
                                 uint8_t *to)
{
    static const uint8_t none[32];

    if (kl_hex_decode(value, to, key->size) != KL_OK || memcmp(to, none, sizeof none) == 0) {
        return bad(p, key->name, "must be the SHA-256 of a token, %zu hex digits", 2 * key->size);
    }
    return KL_OK;
}

static enum kl_status set_rights(const struct parser *p, const struct key *key, const char *value,
                                 uint64_t *to)
{
    if (kl_rights_parse(value, to) != KL_OK) {
        return bad_value(p, key, value,
                         "rights separated by commas: *, a family as \"secrets/\", or names as "
                         "\"secrets/get\"; a purge must be named (\"secrets/purge\")");
    }
    return KL_OK;
}

static enum kl_status set_value(const struct parser *p, const struct key *key, const char *value,
                                void *to)
{
    if (*value == '\0') {
        return bad(p, key->name, "has no value");
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

/* ---- sections ---- */

/* What must hold of a node or principal beside the ones before it. */
static enum kl_status check_node(const struct parser *p, const struct kl_config *c)
{
    const struct kl_config_node *last = &c->nodes[c->nodes_n - 1];

    for (const struct kl_config_node *n = c->nodes; n != last; n++) {
        if (n->id == last->id) {
            return bad(p, "id", "%" PRIu64 " is also the id of node %s", n->id, n->name);
        }
        if (strcmp(n->client_address, last->client_address) == 0) {
            return bad(p, "client_address", "%s is also that of node %s", n->client_address,
                       n->name);
        }
        if (strcmp(n->peer_address, last->peer_address) == 0) {
            return bad(p, "peer_address", "%s is also that of node %s", n->peer_address, n->name);
        }
    }
    return KL_OK;
}

static enum kl_status check_principal(const struct parser *p, const struct kl_config *c)
{
    const struct kl_principal *last = &c->principals[c->principals_n - 1];

    for (const struct kl_principal *q = c->principals; q != last; q++) {
        if (memcmp(q->token_sha256, last->token_sha256, sizeof q->token_sha256) == 0) {
            return bad(p, "token_sha256", "is also that of principal %s", q->name);
        }
    }
    return KL_OK;
}

/* The section that ends here: is everything there, and does it fit the others? */
static enum kl_status end_section(struct parser *p)
{
    unsigned line = p->line;
    enum kl_status st = KL_OK;

    p->line = p->section_line; /* errors point at its head */
    for (size_t i = 0; i < KEYS_N && st == KL_OK; i++) {
        if (keys[i].section == p->section && keys[i].required && (p->seen & 1ull << i) == 0) {
            st = bad(p, keys[i].name, "is missing in [%s]", p->title);
        }
    }
    if (st == KL_OK && p->section == SECTION_NODE) {
        st = check_node(p, p->config);
    } else if (st == KL_OK && p->section == SECTION_PRINCIPAL) {
        st = check_principal(p, p->config);
    }
    p->line = line;
    p->section = SECTION_NONE;
    return st;
}

static enum kl_status begin_node(struct parser *p, const char *name)
{
    struct kl_config *c = p->config;
    const char *limit = "";

    if (kl_location_check(name, &limit) != KL_OK) {
        return bad(p, p->title, "the name of a node is %s", limit);
    }
    for (size_t i = 0; i < c->nodes_n; i++) {
        if (strcmp(c->nodes[i].name, name) == 0) {
            return bad(p, p->title, "this section stands twice");
        }
    }
    if (c->nodes_n == KL_NODES_MAX) {
        return bad(p, p->title, "at most %d nodes are allowed", KL_NODES_MAX);
    }
    memcpy(c->nodes[c->nodes_n].name, name, strlen(name) + 1);
    c->nodes_n++;
    return KL_OK;
}

static enum kl_status begin_principal(struct parser *p, const char *name)
{
    struct kl_config *c = p->config;
    size_t n = strlen(name);

    if (n == 0 || n >= sizeof c->principals[0].name ||
        !all_of(name, n, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-")) {
        return bad(p, p->title, "the name of a principal is 1 to %zu letters, digits and . _ @ -",
                   sizeof c->principals[0].name - 1);
    }
    for (size_t i = 0; i < c->principals_n; i++) {
        if (strcmp(c->principals[i].name, name) == 0) {
            return bad(p, p->title, "this section stands twice");
        }
    }
    if (c->principals_n == KL_PRINCIPALS_MAX) {
        return bad(p, p->title, "at most %d principals are allowed", KL_PRINCIPALS_MAX);
    }
    memcpy(c->principals[c->principals_n].name, name, n + 1);
    c->principals_n++;
    return KL_OK;
}

static enum section section_of(const char *word)
{
    for (size_t i = 1; i < sizeof section_names / sizeof section_names[0]; i++) {
        if (strcmp(section_names[i], word) == 0) {
            return (enum section)i;
        }
    }
    return SECTION_NONE;
}

/* title: what stands between the brackets, trimmed; is cut into word and name. */
static enum kl_status begin_section(struct parser *p, char *title)
{
    char *name = title + strcspn(title, blanks);
    enum section section;
    enum kl_status st = end_section(p);

    if (st != KL_OK) {
        return st;
    }
    (void)snprintf(p->title, sizeof p->title, "%s", title);
    if (*name != '\0') {
        *name++ = '\0';
        name += strspn(name, blanks);
    }
    section = section_of(title);
    if (section == SECTION_NODE) {
        st = begin_node(p, name);
    } else if (section == SECTION_PRINCIPAL) {
        st = begin_principal(p, name);
    } else if (section == SECTION_NONE || *name != '\0') {
        st =
            bad(p, p->title[0] == '\0' ? "section" : p->title,
                "unknown section: [cluster], [this], [node NAME] and [principal NAME] are allowed");
    } else if ((p->sections & 1ull << section) != 0) {
        st = bad(p, p->title, "this section stands twice");
    }
    p->sections |= 1ull << section;
    p->section = section;
    p->section_line = p->line;
    p->seen = 0;
    return st;
}

/* ---- lines ---- */

static void *section_base(const struct parser *p)
{
    struct kl_config *c = p->config;

    switch (p->section) {
    case SECTION_NODE:
        return &c->nodes[c->nodes_n - 1];
    case SECTION_PRINCIPAL:
        return &c->principals[c->principals_n - 1];
    default:
        return c;
    }
}

/* For the error about an unknown key: what this section may hold. */
static void list_keys(enum section section, char *out, size_t out_len)
{
    size_t len = 0;

    out[0] = '\0';
    for (size_t i = 0; i < KEYS_N; i++) {
        if (keys[i].section == section && len < out_len) {
            int n = snprintf(out + len, out_len - len, "%s%s", len == 0 ? "" : ", ", keys[i].name);

            len += n > 0 ? (size_t)n : 0;
        }
    }
}

static enum kl_status parse_pair(struct parser *p, const char *name, const char *value)
{
    char allowed[512];

    if (p->section == SECTION_NONE) {
        return bad(p, name, "stands before any section: begin with [cluster]");
    }
    for (size_t i = 0; i < KEYS_N; i++) {
        const struct key *key = &keys[i];

        if (key->section != p->section || strcmp(key->name, name) != 0) {
            continue;
        }
        if ((p->seen & 1ull << i) != 0) {
            return bad(p, name, "stands twice in [%s]", p->title);
        }
        p->seen |= 1ull << i;
        p->lines[i] = p->line;
        return set_value(p, key, value, (char *)section_base(p) + key->offset);
    }
    list_keys(p->section, allowed, sizeof allowed);
    return bad(p, name, "unknown key in [%s]: %s are allowed", p->title, allowed);
}

/* Cuts the comment and the blanks at both ends off; returns where the rest begins. */
static char *trim(char *line)
{
    size_t n;

    line += strspn(line, blanks);
    for (char *c = line; *c != '\0'; c++) {
        if ((*c == '#' || *c == ';') && (c == line || c[-1] == ' ' || c[-1] == '\t')) {
            *c = '\0';
            break;
        }
    }
    n = strlen(line);
    while (n != 0 && strchr(blanks, line[n - 1]) != NULL) {
        line[--n] = '\0';
    }
    return line;
}

static enum kl_status parse_line(struct parser *p, char *line)
{
    char *equals;
    char *end;

    for (char *c = line; *c != '\0'; c++) {
        *c = *c == '\t' || *c == '\r' ? ' ' : *c;
    }
    if (kl_text_check(line, KL_CONFIG_LINE_MAX) != KL_OK) {
        return bad(p, "line", "must be UTF-8 without control characters");
    }
    line = trim(line);
    if (*line == '\0') {
        return KL_OK;
    }
    if (*line == '[') {
        end = line + strlen(line) - 1;
        if (*end != ']') {
            return bad(p, line, "a section is [NAME] and nothing behind it");
        }
        *end = '\0';
        return begin_section(p, trim(line + 1));
    }
    equals = strchr(line, '=');
    if (equals == NULL || equals == line) {
        return bad(p, "line", "must be `key = value`, a [section] or a comment");
    }
    *equals = '\0';
    return parse_pair(p, trim(line), equals + 1 + strspn(equals + 1, blanks));
}

/* ---- the whole ---- */

const struct kl_config_node *kl_config_self(const struct kl_config *config)
{
    for (size_t i = 0; i < config->nodes_n; i++) {
        if (strcmp(config->nodes[i].name, config->self) == 0) {
            return &config->nodes[i];
        }
    }
    return NULL;
}

static unsigned line_of(const struct parser *p, enum section section, const char *name)
{
    for (size_t i = 0; i < KEYS_N; i++) {
        if (keys[i].section == section && strcmp(keys[i].name, name) == 0) {
            return p->lines[i];
        }
    }
    return p->line;
}

static bool port_is_drawn(const char *address)
{
    const char *colon = strrchr(address, ':');

    return strspn(colon + 1, "0") == strlen(colon + 1);
}

static enum kl_status check_nodes(struct parser *p)
{
    const struct kl_config *c = p->config;

    if (kl_config_self(c) == NULL) {
        p->line = line_of(p, SECTION_THIS, "node");
        return bad(p, "node", "%s is none of the [node NAME] sections", c->self);
    }
    for (size_t i = 0; i < c->nodes_n && c->nodes_n > 1; i++) {
        if (port_is_drawn(c->nodes[i].client_address) || port_is_drawn(c->nodes[i].peer_address)) {
            return bad(p, c->nodes[i].name,
                       "port 0 is allowed only where there is one node: others could not find it");
        }
    }
    return KL_OK;
}

static enum kl_status check_whole(struct parser *p)
{
    struct kl_config *c = p->config;
    enum kl_status st = end_section(p);

    for (enum section s = SECTION_CLUSTER; s <= SECTION_PRINCIPAL && st == KL_OK; s++) {
        if ((p->sections & 1ull << s) == 0) {
            st = bad(p, section_names[s], "the section [%s%s] is missing", section_names[s],
                     s >= SECTION_NODE ? " NAME" : "");
        }
    }
    if (st == KL_OK && c->day_ms != KL_DAY_MS && !c->test_cluster) {
        p->line = line_of(p, SECTION_CLUSTER, "day_ms");
        st = bad(p, "day_ms", "only test clusters may shorten the day (test_cluster = yes)");
    }
    return st == KL_OK ? check_nodes(p) : st;
}

static enum kl_status set_defaults(struct parser *p)
{
    struct kl_config *c = p->config;
    const struct kl_config_node *self = kl_config_self(c);

    assert(self != NULL); /* check_nodes() saw to it */
    if (c->listen_client[0] == '\0') {
        memcpy(c->listen_client, self->client_address, sizeof c->listen_client);
    }
    if (c->listen_peer[0] == '\0') {
        memcpy(c->listen_peer, self->peer_address, sizeof c->listen_peer);
    }
    if (c->audit_file[0] == '\0') {
        int n = snprintf(c->audit_file, sizeof c->audit_file, "%s/audit.log", c->data_dir);

        if (n < 0 || (size_t)n >= sizeof c->audit_file) {
            return bad(p, "data_dir", "is too long: at most %zu bytes",
                       sizeof c->audit_file - sizeof "/audit.log");
        }
    }
    return KL_OK;
}

static enum kl_status parse_text(struct parser *p, const char *text)
{
    char line[KL_CONFIG_LINE_MAX + 1];
    enum kl_status st = KL_OK;

    while (*text != '\0' && st == KL_OK) {
        size_t n = strcspn(text, "\n");

        p->line++;
        if (n >= sizeof line) {
            return bad(p, "line", "is longer than %d bytes", KL_CONFIG_LINE_MAX);
        }
        memcpy(line, text, n);
        line[n] = '\0';
        st = parse_line(p, line);
        text += n + (text[n] == '\n' ? 1 : 0);
    }
    return st;
}

enum kl_status kl_config_parse(const char *file, const char *text, struct kl_config *out, char *err,
                               size_t err_len)
{
    struct parser p = {.file = file, .err = err, .err_len = err_len, .section = SECTION_NONE};
    enum kl_status st;

    p.config = kl_calloc(1, sizeof *p.config);
    if (p.config == NULL) {
        (void)snprintf(err, err_len, "%s: no memory", file);
        return KL_NO_MEMORY;
    }
    p.config->day_ms = KL_DAY_MS;
    p.config->election_timeout_ms = 800;
    p.config->workers = 4;
    p.config->cache_bytes = 32 * MIB;
    p.config->log_level = KL_LOG_INFO;
    st = parse_text(&p, text);
    if (st == KL_OK) {
        st = check_whole(&p);
    }
    if (st == KL_OK) {
        st = set_defaults(&p);
    }
    if (st == KL_OK) {
        *out = *p.config;
    }
    kl_free(p.config);
    return st;
}

/* The whole file into text, with a NUL behind it. */
static enum kl_status read_file(int fd, const char *path, struct kl_buf *text, char *err,
                                size_t err_len)
{
    enum { PART = 16384 };
    enum kl_status st = KL_OK;
    ssize_t got = 1;

    while (st == KL_OK && got != 0) {
        uint8_t part[PART];

        got = read(fd, part, sizeof part);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            (void)snprintf(err, err_len, "%s: %s", path, strerrordesc_np(errno));
            return KL_IO;
        }
        st = kl_buf_put(text, part, (size_t)got);
    }
    if (st == KL_OK) {
        st = kl_buf_put_u8(text, 0);
    }
    if (st == KL_TOO_LARGE) {
        (void)snprintf(err, err_len, "%s: is larger than %u bytes", path, KL_CONFIG_FILE_MAX);
        return KL_INVALID_ARGUMENT;
    }
    if (st != KL_OK) {
        (void)snprintf(err, err_len, "%s: no memory", path);
    } else if (strlen((const char *)text->ptr) + 1 != text->len) {
        (void)snprintf(err, err_len, "%s: holds a NUL byte: this is not a text file", path);
        st = KL_INVALID_ARGUMENT;
    }
    return st;
}

enum kl_status kl_config_load(const char *path, struct kl_config *out, char *err, size_t err_len)
{
    struct kl_buf text = KL_BUF(KL_CONFIG_FILE_MAX + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    enum kl_status st;

    if (fd < 0) {
        (void)snprintf(err, err_len, "%s: %s", path, strerrordesc_np(errno));
        return KL_IO;
    }
    st = read_file(fd, path, &text, err, err_len);
    (void)close(fd);
    if (st == KL_OK) {
        st = kl_config_parse(path, (const char *)text.ptr, out, err, err_len);
    }
    kl_buf_wipe(&text);
    return st;
}
