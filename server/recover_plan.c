#include "server/recover_plan.h"

#include "common/alloc.h"
#include "common/names.h"

#include <stdio.h>
#include <string.h>

/* A dead voter may have voted for itself many times before it was lost, unheard by the survivors. */
#define TERM_STEP 1000

static const char first_line[] = "kluis recovery report 1";

void kl_recover_report_done(struct kl_recover_report *r)
{
    kl_free(r->groups);
    r->groups = NULL;
    r->groups_n = 0;
}

const struct kl_recover_group *kl_recover_group_of(const struct kl_recover_report *r, uint16_t id)
{
    for (size_t i = 0; i < r->groups_n; i++) {
        if (r->groups[i].id == id) {
            return &r->groups[i];
        }
    }
    return NULL;
}

bool kl_recover_has(const struct kl_recover_ids *ids, uint64_t id)
{
    for (size_t i = 0; i < ids->n; i++) {
        if (ids->ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* ---- writing ---- */

static enum kl_status write_group(const struct kl_recover_group *g, struct kl_buf *out)
{
    const struct kl_offline_log *l = &g->log;
    enum kl_status st = kl_buf_printf(
        out, "group %u term %llu last_term %llu last %llu applied %llu time %llu members ",
        (unsigned)g->id, (unsigned long long)l->term, (unsigned long long)l->last_term,
        (unsigned long long)l->last_index, (unsigned long long)l->applied_index,
        (unsigned long long)l->last_ms);

    for (size_t i = 0; st == KL_OK && i < l->members_n; i++) {
        const struct kl_offline_member *m = &l->members[i];

        st = kl_buf_printf(out, "%s%llu:%s:%s", i == 0 ? "" : ",", (unsigned long long)m->node_id,
                           m->voter ? "voter" : "other", m->address);
    }
    if (st == KL_OK && l->members_n == 0) {
        st = kl_buf_printf(out, "-");
    }
    return st != KL_OK ? st : kl_buf_printf(out, "\n");
}

enum kl_status kl_recover_report_write(const struct kl_recover_report *r, struct kl_buf *out)
{
    enum kl_status st = kl_buf_printf(out, "%s\ncluster %s\nnode %llu\n", first_line, r->cluster,
                                      (unsigned long long)r->node);

    for (size_t i = 0; st == KL_OK && i < r->groups_n; i++) {
        st = write_group(&r->groups[i], out);
    }
    return st != KL_OK ? st : kl_buf_printf(out, "end\n");
}

/* ---- parsing ---- */

/* The word at *text up to `end`, which must follow; *text behind it. */
static bool take_word(const char **text, char end, char *out, size_t out_len)
{
    const char *stop = *text + strcspn(*text, " ,:\n");
    size_t n = (size_t)(stop - *text);

    if (n == 0 || n >= out_len || *stop != end) {
        return false;
    }
    memcpy(out, *text, n);
    out[n] = 0;
    *text = stop + 1;
    return true;
}

/* "KEY VALUE" and then `end`. */
static bool take_text(const char **text, const char *key, char end, char *out, size_t out_len)
{
    char word[16];

    return take_word(text, ' ', word, sizeof word) && strcmp(word, key) == 0 &&
           take_word(text, end, out, out_len);
}

static bool take_number(const char **text, const char *key, char end, uint64_t max, uint64_t *out)
{
    char value[32];

    return take_text(text, key, end, value, sizeof value) &&
           kl_number_parse(value, 0, max, out) == KL_OK;
}

static bool take_members(const char **text, struct kl_offline_log *l)
{
    if (strncmp(*text, "-\n", 2) == 0) {
        *text += 2;
        return true;
    }
    for (;;) {
        struct kl_offline_member *m = &l->members[l->members_n];
        char id[32];
        char role[8];
        bool last;

        if (l->members_n == KL_NODES_MAX || !take_word(text, ':', id, sizeof id) ||
            kl_number_parse(id, 1, KL_NODE_ID_MAX, &m->node_id) != KL_OK ||
            !take_word(text, ':', role, sizeof role) ||
            (strcmp(role, "voter") != 0 && strcmp(role, "other") != 0)) {
            return false;
        }
        m->voter = strcmp(role, "voter") == 0;
        last = (*text)[strcspn(*text, ",\n")] == '\n';
        if (!take_word(text, last ? '\n' : ',', m->address, sizeof m->address)) {
            return false;
        }
        l->members_n++;
        if (last) {
            return true;
        }
    }
}

static bool take_group(const char **text, struct kl_recover_group *g)
{
    struct kl_offline_log *l = &g->log;
    uint64_t id = 0;
    char word[16];

    memset(g, 0, sizeof *g);
    if (!take_number(text, "group", ' ', KL_GROUPS_MAX - 1, &id) ||
        !take_number(text, "term", ' ', UINT64_MAX / 2, &l->term) ||
        !take_number(text, "last_term", ' ', UINT64_MAX / 2, &l->last_term) ||
        !take_number(text, "last", ' ', UINT64_MAX / 2, &l->last_index) ||
        !take_number(text, "applied", ' ', UINT64_MAX / 2, &l->applied_index) ||
        !take_number(text, "time", ' ', UINT64_MAX / 2, &l->last_ms) ||
        !take_word(text, ' ', word, sizeof word) || strcmp(word, "members") != 0) {
        return false;
    }
    g->id = (uint16_t)id;
    return take_members(text, l);
}

static bool take_head(const char **text, struct kl_recover_report *r)
{
    if (strncmp(*text, first_line, strlen(first_line)) != 0 ||
        (*text)[strlen(first_line)] != '\n') {
        return false;
    }
    *text += strlen(first_line) + 1;
    return take_text(text, "cluster", '\n', r->cluster, sizeof r->cluster) &&
           take_number(text, "node", '\n', KL_NODE_ID_MAX, &r->node) && r->node != 0;
}

enum kl_status kl_recover_report_parse(const char *file, const char *text,
                                       struct kl_recover_report *out, char *err, size_t err_len)
{
    struct kl_recover_report r = {.node = 0};
    enum kl_status st = KL_INVALID_ARGUMENT;

    r.groups = kl_calloc(KL_GROUPS_MAX, sizeof *r.groups);
    if (r.groups == NULL) {
        (void)snprintf(err, err_len, "out of memory");
        return KL_NO_MEMORY;
    }
    if (!take_head(&text, &r)) {
        (void)snprintf(err, err_len, "%s: is not a report of kluisd recover --report", file);
        goto out;
    }
    while (strncmp(text, "group ", 6) == 0) {
        struct kl_recover_group *g = &r.groups[r.groups_n];

        if (r.groups_n == KL_GROUPS_MAX || !take_group(&text, g) ||
            (r.groups_n != 0 && g->id <= g[-1].id)) {
            (void)snprintf(err, err_len, "%s: the line of group number %zu is damaged", file,
                           r.groups_n + 1);
            goto out;
        }
        r.groups_n++;
    }
    if (strcmp(text, "end\n") != 0) {
        (void)snprintf(err, err_len, "%s: the report is cut off", file);
        goto out;
    }
    *out = r;
    return KL_OK;
out:
    kl_recover_report_done(&r);
    return st;
}

/* ---- judging ---- */

static const struct kl_recover_report *report_of(const struct kl_recover_case *c, uint64_t node)
{
    if (node == c->own->node) {
        return c->own;
    }
    for (size_t i = 0; i < c->others_n; i++) {
        if (c->others[i].node == node) {
            return &c->others[i];
        }
    }
    return NULL;
}

enum kl_status kl_recover_check(const struct kl_recover_case *c, char *err, size_t err_len)
{
    if (kl_recover_has(c->lost, c->own->node)) {
        (void)snprintf(err, err_len, "--lost names this node, %llu",
                       (unsigned long long)c->own->node);
        return KL_FORBIDDEN;
    }
    for (size_t i = 0; i < c->others_n; i++) {
        const struct kl_recover_report *r = &c->others[i];

        if (strcmp(r->cluster, c->own->cluster) != 0) {
            (void)snprintf(err, err_len, "the report of node %llu is of cluster '%s', not '%s'",
                           (unsigned long long)r->node, r->cluster, c->own->cluster);
            return KL_FORBIDDEN;
        }
        if (kl_recover_has(c->lost, r->node)) {
            (void)snprintf(err, err_len, "node %llu is in --lost, but there is a report of it",
                           (unsigned long long)r->node);
            return KL_FORBIDDEN;
        }
        if (report_of(c, r->node) != r) {
            (void)snprintf(err, err_len, "there are two reports of node %llu",
                           (unsigned long long)r->node);
            return KL_FORBIDDEN;
        }
    }
    for (size_t i = 0; c->groups != NULL && i < c->groups->n; i++) {
        if (kl_recover_group_of(c->own, (uint16_t)c->groups->ids[i]) == NULL) {
            (void)snprintf(err, err_len, "this node does not hold group %llu",
                           (unsigned long long)c->groups->ids[i]);
            return KL_FORBIDDEN;
        }
    }
    return KL_OK;
}

/* The state may hold what the log has not: others had stored it. */
static uint64_t reach(const struct kl_offline_log *log)
{
    return log->applied_index > log->last_index ? log->applied_index : log->last_index;
}

/* Does a have more than b? The later last term counts, then the longer log, as in an election. */
static bool ahead(const struct kl_offline_log *a, const struct kl_offline_log *b)
{
    return a->last_term > b->last_term || (a->last_term == b->last_term && reach(a) > reach(b));
}

/* Who votes according to `log`, and are all of them accounted for? */
static enum kl_status count_voters(const struct kl_recover_case *c, uint16_t group,
                                   const struct kl_offline_log *log, size_t *voters, size_t *lost,
                                   bool *self, char *err, size_t err_len)
{
    for (size_t i = 0; i < log->members_n; i++) {
        const struct kl_offline_member *m = &log->members[i];

        if (!m->voter) {
            continue;
        }
        *voters += 1;
        *self = *self || m->node_id == c->own->node;
        if (kl_recover_has(c->lost, m->node_id)) {
            *lost += 1;
        } else if (report_of(c, m->node_id) == NULL) {
            (void)snprintf(
                err, err_len,
                "node %llu votes in group %u and nothing is known of it: if it survives, "
                "stop it and give the report that kluisd recover --report prints there "
                "(--reports); if it is lost for good, name it in --lost",
                (unsigned long long)m->node_id, (unsigned)group);
            return KL_FORBIDDEN;
        }
    }
    return KL_OK;
}

/* Nobody else may have more of the group's log; the verdict's term is above everybody's. */
static enum kl_status compare(const struct kl_recover_case *c, const struct kl_recover_group *g,
                              struct kl_recover_verdict *v, char *err, size_t err_len)
{
    uint64_t term = g->log.term;

    for (size_t i = 0; i < c->others_n; i++) {
        const struct kl_recover_group *o = kl_recover_group_of(&c->others[i], g->id);
        unsigned long long node = c->others[i].node;

        if (o == NULL) {
            continue;
        }
        if (ahead(&o->log, &g->log)) {
            (void)snprintf(err, err_len,
                           "node %llu has more of group %u (entry %llu of term %llu; here it ends "
                           "with entry %llu of term %llu): recover the group there, with --groups "
                           "%u, and the others where they are most complete",
                           node, (unsigned)g->id, (unsigned long long)o->log.last_index,
                           (unsigned long long)o->log.last_term,
                           (unsigned long long)g->log.last_index,
                           (unsigned long long)g->log.last_term, (unsigned)g->id);
            return KL_FORBIDDEN;
        }
        term = o->log.term > term ? o->log.term : term;
    }
    v->term = term + TERM_STEP;
    return KL_OK;
}

enum kl_status kl_recover_judge(const struct kl_recover_case *c, size_t i,
                                struct kl_recover_verdict *out, char *err, size_t err_len)
{
    const struct kl_recover_group *g = &c->own->groups[i];
    struct kl_recover_verdict v = {.what = KL_RECOVER_TAKE};
    bool self = false;
    enum kl_status st;

    if (c->groups != NULL && !kl_recover_has(c->groups, g->id)) {
        *out = (struct kl_recover_verdict){.what = KL_RECOVER_SKIPPED};
        return KL_OK;
    }
    st = count_voters(c, g->id, &g->log, &v.voters, &v.voters_lost, &self, err, err_len);
    if (st != KL_OK) {
        return st;
    }
    if (!self) {
        (void)snprintf(err, err_len,
                       "this node does not vote in group %u: its copy may be incomplete; recover "
                       "the group on one that votes (--groups leaves it out here)",
                       (unsigned)g->id);
        return KL_FORBIDDEN;
    }
    st = compare(c, g, &v, err, err_len);
    if (st != KL_OK) {
        return st;
    }
    if (v.voters == 1) {
        v.what = KL_RECOVER_ALONE;
    } else if (v.voters - v.voters_lost > v.voters / 2) {
        v.what = KL_RECOVER_MAJORITY;
    }
    *out = v;
    return KL_OK;
}
