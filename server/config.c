/*
 * The configuration file.
 *
 *   - Lines are `key = value` under `[section]` heads; blanks around key and value do not count.
 *   - # and ; begin a comment at the start of a line or behind a blank.
 *   - [cluster] and [this] stand once; [region NAME], [node NAME] and [principal NAME] once per name.
 *   - A key stands once in its section; unknown sections and keys are refused, so that a misspelt
 *     limit is not silently the default.
 *   - Durations are whole milliseconds ("800", "800ms") or seconds ("1s"); sizes are bytes, or have
 *     KiB, MiB or GiB behind the number; switches are yes or no.
 *
 * The keys are the table below. The first error ends the reading.
 */
#include "server/config_parse.h"

#include "common/alloc.h"
#include "common/buf.h"
#include "common/names.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

static const char blanks[] = KL_CONFIG_BLANKS;

static const char *const section_names[] = {"", "cluster", "this", "node", "principal", "region"};

#define IN(type, member) offsetof(struct type, member), sizeof(((struct type *)NULL)->member)

static const struct kl_config_key keys[] = {
    {SECTION_CLUSTER, "name", KIND_LOCATION, IN(kl_config, cluster), true, 0, 0},
    {SECTION_CLUSTER, "geography", KIND_LOCATION, IN(kl_config, geography), true, 0, 0},
    {SECTION_CLUSTER, "subscription", KIND_UUID, IN(kl_config, subscription), true, 0, 0},
    {SECTION_CLUSTER, "day_ms", KIND_MS, IN(kl_config, day_ms), false, 1, KL_DAY_MS},
    {SECTION_CLUSTER, "test_cluster", KIND_SWITCH, IN(kl_config, test_cluster), false, 0, 0},
    {SECTION_CLUSTER, "election_timeout_ms", KIND_MS, IN(kl_config, election_timeout_ms), false,
     200, 60000},
    {SECTION_CLUSTER, "failback_after", KIND_MS, IN(kl_config, failback_after_ms), false, 1000,
     KL_DAY_MS},
    {SECTION_THIS, "node", KIND_LOCATION, IN(kl_config, self), true, 0, 0},
    {SECTION_THIS, "data_dir", KIND_PATH, IN(kl_config, data_dir), true, 0, 0},
    {SECTION_THIS, "listen_client", KIND_ADDRESS, IN(kl_config, listen_client), false, 0, 0},
    {SECTION_THIS, "listen_peer", KIND_ADDRESS, IN(kl_config, listen_peer), false, 0, 0},
    {SECTION_THIS, "ca_file", KIND_PATH, IN(kl_config, ca_file), true, 0, 0},
    {SECTION_THIS, "cert_file", KIND_PATH, IN(kl_config, cert_file), true, 0, 0},
    {SECTION_THIS, "key_file", KIND_PATH, IN(kl_config, key_file), true, 0, 0},
    {SECTION_THIS, "seal_file", KIND_PATH, IN(kl_config, seal_file), false, 0, 0},
    {SECTION_THIS, "geography_key_file", KIND_PATH, IN(kl_config, geography_key_file), false, 0, 0},
    {SECTION_THIS, "audit_file", KIND_PATH, IN(kl_config, audit_file), false, 0, 0},
    {SECTION_THIS, "workers", KIND_NUMBER, IN(kl_config, workers), false, 1, KL_POOL_THREADS_MAX},
    {SECTION_THIS, "cache_bytes", KIND_BYTES, IN(kl_config, cache_bytes), false, KL_CONFIG_MIB,
     65536 * KL_CONFIG_MIB},
    {SECTION_THIS, "log_level", KIND_LEVEL, IN(kl_config, log_level), false, 0, 0},
    {SECTION_NODE, "id", KIND_NUMBER, IN(kl_config_node, id), true, 1, KL_NODE_ID_MAX},
    {SECTION_NODE, "region", KIND_LOCATION, IN(kl_config_node, region), true, 0, 0},
    {SECTION_NODE, "client_address", KIND_ADDRESS, IN(kl_config_node, client_address), true, 0, 0},
    {SECTION_NODE, "peer_address", KIND_ADDRESS, IN(kl_config_node, peer_address), true, 0, 0},
    {SECTION_NODE, "witness", KIND_SWITCH, IN(kl_config_node, witness), false, 0, 0},
    {SECTION_REGION, "pair", KIND_LOCATION, IN(kl_config_region, pair), false, 0, 0},
    {SECTION_REGION, "geography", KIND_LOCATION, IN(kl_config_region, geography), false, 0, 0},
    {SECTION_REGION, "shards", KIND_NUMBER, IN(kl_config_region, shards), false, 1, KL_SHARDS_MAX},
    {SECTION_PRINCIPAL, "token_sha256", KIND_DIGEST, IN(kl_principal, token_sha256), true, 0, 0},
    {SECTION_PRINCIPAL, "rights", KIND_RIGHTS, IN(kl_principal, rights), true, 0, 0},
};

enum { KEYS_N = sizeof keys / sizeof keys[0] };

static_assert((int)KEYS_N <= (int)KL_CONFIG_KEYS_MAX,
              "the keys of a section that were seen are bits of one word");

/* ---- sections ---- */

/* What must hold of a node or principal beside the ones before it. */
static enum kl_status check_node(const struct kl_config_parser *p, const struct kl_config *c)
{
    const struct kl_config_node *last = &c->nodes[c->nodes_n - 1];

    for (const struct kl_config_node *n = c->nodes; n != last; n++) {
        if (n->id == last->id) {
            return kl_config_bad(p, "id", "%" PRIu64 " is also the id of node %s", n->id, n->name);
        }
        if (strcmp(n->client_address, last->client_address) == 0) {
            return kl_config_bad(p, "client_address", "%s is also that of node %s",
                                 n->client_address, n->name);
        }
        if (strcmp(n->peer_address, last->peer_address) == 0) {
            return kl_config_bad(p, "peer_address", "%s is also that of node %s", n->peer_address,
                                 n->name);
        }
        if (strcmp(n->peer_address, last->client_address) == 0) {
            return kl_config_bad(p, "client_address", "%s is also the peer_address of node %s",
                                 n->peer_address, n->name);
        }
        if (strcmp(n->client_address, last->peer_address) == 0) {
            return kl_config_bad(p, "peer_address", "%s is also the client_address of node %s",
                                 n->client_address, n->name);
        }
    }
    return KL_OK;
}

static enum kl_status check_principal(const struct kl_config_parser *p, const struct kl_config *c)
{
    const struct kl_principal *last = &c->principals[c->principals_n - 1];

    for (const struct kl_principal *q = c->principals; q != last; q++) {
        if (memcmp(q->token_sha256, last->token_sha256, sizeof q->token_sha256) == 0) {
            return kl_config_bad(p, "token_sha256", "is also that of principal %s", q->name);
        }
    }
    return KL_OK;
}

/* The section that ends here: is everything there, and does it fit the others? */
static enum kl_status end_section(struct kl_config_parser *p)
{
    unsigned line = p->line;
    enum kl_status st = KL_OK;

    p->line = p->section_line; /* errors point at its head */
    for (size_t i = 0; i < KEYS_N && st == KL_OK; i++) {
        if (keys[i].section == p->section && keys[i].required && (p->seen & 1ull << i) == 0) {
            st = kl_config_bad(p, keys[i].name, "is missing in [%s]", p->title);
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

static enum kl_status begin_node(struct kl_config_parser *p, const char *name)
{
    struct kl_config *c = p->config;
    const char *limit = "";

    if (kl_location_check(name, &limit) != KL_OK) {
        return kl_config_bad(p, p->title, "the name of a node is %s", limit);
    }
    for (size_t i = 0; i < c->nodes_n; i++) {
        if (strcmp(c->nodes[i].name, name) == 0) {
            return kl_config_bad(p, p->title, "this section stands twice");
        }
    }
    if (c->nodes_n == KL_NODES_MAX) {
        return kl_config_bad(p, p->title, "at most %d nodes are allowed", KL_NODES_MAX);
    }
    memcpy(c->nodes[c->nodes_n].name, name, strlen(name) + 1);
    c->nodes[c->nodes_n].line = p->line;
    c->nodes_n++;
    return KL_OK;
}

static enum kl_status begin_region(struct kl_config_parser *p, const char *name)
{
    struct kl_config *c = p->config;
    const char *limit = "";

    if (kl_location_check(name, &limit) != KL_OK) {
        return kl_config_bad(p, p->title, "the name of a region is %s", limit);
    }
    for (size_t i = 0; i < c->regions_n; i++) {
        if (strcmp(c->regions[i].name, name) == 0) {
            return kl_config_bad(p, p->title, "this section stands twice");
        }
    }
    if (c->regions_n == KL_REGIONS_MAX) {
        return kl_config_bad(p, p->title, "at most %d regions are allowed", KL_REGIONS_MAX);
    }
    c->regions[c->regions_n] = (struct kl_config_region){.shards = 1, .line = p->line};
    memcpy(c->regions[c->regions_n].name, name, strlen(name) + 1);
    c->regions_n++;
    return KL_OK;
}

static enum kl_status begin_principal(struct kl_config_parser *p, const char *name)
{
    struct kl_config *c = p->config;
    size_t n = strlen(name);

    if (n == 0 || n >= sizeof c->principals[0].name ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-") < n) {
        return kl_config_bad(p, p->title,
                             "the name of a principal is 1 to %zu letters, digits and . _ @ -",
                             sizeof c->principals[0].name - 1);
    }
    for (size_t i = 0; i < c->principals_n; i++) {
        if (strcmp(c->principals[i].name, name) == 0) {
            return kl_config_bad(p, p->title, "this section stands twice");
        }
    }
    if (c->principals_n == KL_PRINCIPALS_MAX) {
        return kl_config_bad(p, p->title, "at most %d principals are allowed", KL_PRINCIPALS_MAX);
    }
    memcpy(c->principals[c->principals_n].name, name, n + 1);
    c->principals_n++;
    return KL_OK;
}

static enum kl_config_section section_of(const char *word)
{
    for (size_t i = 1; i < sizeof section_names / sizeof section_names[0]; i++) {
        if (strcmp(section_names[i], word) == 0) {
            return (enum kl_config_section)i;
        }
    }
    return SECTION_NONE;
}

/* title: what stands between the brackets, trimmed; is cut into word and name. */
static enum kl_status begin_section(struct kl_config_parser *p, char *title)
{
    char *name = title + strcspn(title, blanks);
    enum kl_config_section section;
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
    } else if (section == SECTION_REGION) {
        st = begin_region(p, name);
    } else if (section == SECTION_NONE || *name != '\0') {
        st = kl_config_bad(p, p->title[0] == '\0' ? "section" : p->title,
                           "unknown section: [cluster], [this], [region NAME], [node NAME] and "
                           "[principal NAME] are allowed");
    } else if ((p->sections & 1ull << section) != 0) {
        st = kl_config_bad(p, p->title, "this section stands twice");
    }
    p->sections |= 1ull << section;
    p->section = section;
    p->section_line = p->line;
    p->seen = 0;
    return st;
}

/* ---- lines ---- */

static void *section_base(const struct kl_config_parser *p)
{
    struct kl_config *c = p->config;

    switch (p->section) {
    case SECTION_NODE:
        return &c->nodes[c->nodes_n - 1];
    case SECTION_PRINCIPAL:
        return &c->principals[c->principals_n - 1];
    case SECTION_REGION:
        return &c->regions[c->regions_n - 1];
    default:
        return c;
    }
}

/* For the error about an unknown key: what this section may hold. */
static void list_keys(enum kl_config_section section, char *out, size_t out_len)
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

static enum kl_status parse_pair(struct kl_config_parser *p, const char *name, const char *value)
{
    char allowed[512];

    if (p->section == SECTION_NONE) {
        return kl_config_bad(p, name, "stands before any section: begin with [cluster]");
    }
    for (size_t i = 0; i < KEYS_N; i++) {
        const struct kl_config_key *key = &keys[i];

        if (key->section != p->section || strcmp(key->name, name) != 0) {
            continue;
        }
        if ((p->seen & 1ull << i) != 0) {
            return kl_config_bad(p, name, "stands twice in [%s]", p->title);
        }
        p->seen |= 1ull << i;
        p->lines[i] = p->line;
        return kl_config_set_value(p, key, value, (char *)section_base(p) + key->offset);
    }
    list_keys(p->section, allowed, sizeof allowed);
    return kl_config_bad(p, name, "unknown key in [%s]: %s are allowed", p->title, allowed);
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

static enum kl_status parse_line(struct kl_config_parser *p, char *line)
{
    char *equals;
    char *end;

    for (char *c = line; *c != '\0'; c++) {
        *c = *c == '\t' || *c == '\r' ? ' ' : *c;
    }
    if (kl_text_check(line, KL_CONFIG_LINE_MAX) != KL_OK) {
        return kl_config_bad(p, "line", "must be UTF-8 without control characters");
    }
    line = trim(line);
    if (*line == '\0') {
        return KL_OK;
    }
    if (*line == '[') {
        end = line + strlen(line) - 1;
        if (*end != ']') {
            return kl_config_bad(p, line, "a section is [NAME] and nothing behind it");
        }
        *end = '\0';
        return begin_section(p, trim(line + 1));
    }
    equals = strchr(line, '=');
    if (equals == NULL || equals == line) {
        return kl_config_bad(p, "line", "must be `key = value`, a [section] or a comment");
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

static unsigned line_of(const struct kl_config_parser *p, enum kl_config_section section,
                        const char *name)
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

static enum kl_status check_nodes(struct kl_config_parser *p)
{
    const struct kl_config *c = p->config;

    if (kl_config_self(c) == NULL) {
        p->line = line_of(p, SECTION_THIS, "node");
        return kl_config_bad(p, "node", "%s is none of the [node NAME] sections", c->self);
    }
    for (size_t i = 0; i < c->nodes_n && c->nodes_n > 1; i++) {
        if (port_is_drawn(c->nodes[i].client_address) || port_is_drawn(c->nodes[i].peer_address)) {
            return kl_config_bad(
                p, c->nodes[i].name,
                "port 0 is allowed only where there is one node: others could not find it");
        }
    }
    return KL_OK;
}

/* A witness holds no key; every other node needs one. */
static enum kl_status check_seal(struct kl_config_parser *p)
{
    const struct kl_config *c = p->config;
    bool witness = kl_config_self(c)->witness;

    p->line = line_of(p, SECTION_THIS, "seal_file");
    if (witness && c->seal_file[0] != '\0') {
        return kl_config_bad(p, "seal_file",
                             "node %s is a witness: it must not hold the key to what it stores",
                             c->self);
    }
    if (!witness && c->seal_file[0] == '\0') {
        p->line = line_of(p, SECTION_THIS, "node");
        return kl_config_bad(p, "seal_file", "is missing in [this]");
    }
    return KL_OK;
}

static enum kl_status check_whole(struct kl_config_parser *p)
{
    struct kl_config *c = p->config;
    enum kl_status st = end_section(p);

    for (enum kl_config_section s = SECTION_CLUSTER; s <= SECTION_PRINCIPAL && st == KL_OK; s++) {
        if ((p->sections & 1ull << s) == 0) {
            st = kl_config_bad(p, section_names[s], "the section [%s%s] is missing",
                               section_names[s], s >= SECTION_NODE ? " NAME" : "");
        }
    }
    if (st == KL_OK && c->day_ms != KL_DAY_MS && !c->test_cluster) {
        p->line = line_of(p, SECTION_CLUSTER, "day_ms");
        st = kl_config_bad(p, "day_ms",
                           "only test clusters may shorten the day (test_cluster = yes)");
    }
    if (st == KL_OK) {
        st = check_nodes(p);
    }
    if (st == KL_OK) {
        st = kl_config_check_regions(p);
    }
    return st == KL_OK ? check_seal(p) : st;
}

static enum kl_status set_defaults(struct kl_config_parser *p)
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
            return kl_config_bad(p, "data_dir", "is too long: at most %zu bytes",
                                 sizeof c->audit_file - sizeof "/audit.log");
        }
    }
    return KL_OK;
}

static enum kl_status parse_text(struct kl_config_parser *p, const char *text)
{
    char line[KL_CONFIG_LINE_MAX + 1];
    enum kl_status st = KL_OK;

    while (*text != '\0' && st == KL_OK) {
        size_t n = strcspn(text, "\n");

        p->line++;
        if (n >= sizeof line) {
            return kl_config_bad(p, "line", "is longer than %d bytes", KL_CONFIG_LINE_MAX);
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
    struct kl_config_parser p = {
        .file = file, .err = err, .err_len = err_len, .section = SECTION_NONE};
    enum kl_status st;

    p.config = kl_calloc(1, sizeof *p.config);
    if (p.config == NULL) {
        (void)snprintf(err, err_len, "%s: no memory", file);
        return KL_NO_MEMORY;
    }
    p.config->day_ms = KL_DAY_MS;
    p.config->election_timeout_ms = 800;
    p.config->failback_after_ms = 30000;
    p.config->workers = 4;
    p.config->cache_bytes = 32 * KL_CONFIG_MIB;
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
