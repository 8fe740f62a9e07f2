#include "server/recover.h"

#include "common/alloc.h"
#include "common/names.h"
#include "server/core/core.h"
#include "server/core/entry.h"
#include "server/node_parts.h"
#include "server/recover_files.h"
#include "server/recover_plan.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ERR_LEN = 2048, PATH_LEN = 1200, TIME_LEN = 32 };

static const char usage[] =
    "kluisd recover - go on with one survivor when the majority is lost for good\n"
    "\n"
    "  kluisd recover --config FILE\n"
    "      what this stopped node has of each group\n"
    "  kluisd recover --config FILE --report > n3.report\n"
    "      the same for kluisd recover on another survivor\n"
    "  kluisd recover --config FILE --lost ID[,ID...] [--reports FILE[,FILE...]]\n"
    "         [--groups ID[,ID...]]\n"
    "      whether this node is the one to go on with, and what may be lost; changes nothing\n"
    "  ... --accept-data-loss\n"
    "      does it: this node becomes the only voter of its groups that lost their majority\n"
    "\n"
    "Every voter must be accounted for: this node, a survivor (stopped, with its report) or lost.\n"
    "Lost means for good: its data directory must never be started again. It is refused by the\n"
    "others from then on, and comes back empty: kluisd --join, then kluis cluster replace-node.\n"
    "Survivors are started with their data as it is, after this node.\n"
    "\n"
    "Refused (exit 9): a survivor has more than this node; a majority survives, which elects a\n"
    "leader by itself; a voter is not accounted for.\n"
    "The logs are copied to DATA_DIR/recover-TIME first; until the node is started again, putting\n"
    "them back undoes everything.\n";

struct recovery {
    const char *config_path, *lost_text, *reports_text, *groups_text;
    bool report, accept;
    struct kl_config *config;
    struct kl_datadir data;
    struct kl_recover_report own;
    struct kl_recover_report others[KL_NODES_MAX];
    size_t others_n;
    struct kl_recover_ids lost, groups;
    struct kl_recover_case kase;
    struct kl_recover_verdict verdicts[KL_GROUPS_MAX];
    char err[ERR_LEN];
};

static int fail(enum kl_exit code, const char *what)
{
    (void)fprintf(stderr, "kluisd recover: %s\n", what);
    return (int)code;
}

/* ---- arguments ---- */

enum option_id {
    OPT_CONFIG = 256,
    OPT_REPORT,
    OPT_REPORTS,
    OPT_LOST,
    OPT_GROUPS,
    OPT_ACCEPT,
    OPT_HELP
};

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"report", no_argument, NULL, OPT_REPORT},
    {"reports", required_argument, NULL, OPT_REPORTS},
    {"lost", required_argument, NULL, OPT_LOST},
    {"groups", required_argument, NULL, OPT_GROUPS},
    {"accept-data-loss", no_argument, NULL, OPT_ACCEPT},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* -1: go on; otherwise the exit code. */
static int take_options(struct recovery *r, int argc, char **argv)
{
    int id;

    while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (id) {
        case OPT_CONFIG:
            r->config_path = optarg;
            break;
        case OPT_REPORT:
            r->report = true;
            break;
        case OPT_REPORTS:
            r->reports_text = optarg;
            break;
        case OPT_LOST:
            r->lost_text = optarg;
            break;
        case OPT_GROUPS:
            r->groups_text = optarg;
            break;
        case OPT_ACCEPT:
            r->accept = true;
            break;
        case OPT_HELP:
            (void)fputs(usage, stdout);
            return KL_EXIT_OK;
        default:
            (void)fprintf(stderr, "Try 'kluisd recover --help'.\n");
            return KL_EXIT_USAGE;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "kluisd recover: unexpected argument '%s'\n", argv[optind]);
        return KL_EXIT_USAGE;
    }
    if (r->config_path == NULL) {
        return fail(KL_EXIT_USAGE, "--config FILE is needed\nTry 'kluisd recover --help'.");
    }
    if (r->lost_text == NULL && (r->accept || r->reports_text != NULL || r->groups_text != NULL)) {
        return fail(KL_EXIT_USAGE, "--lost ID[,ID...] is needed: which nodes are lost for good?");
    }
    if (r->lost_text != NULL && r->report) {
        return fail(KL_EXIT_USAGE, "only one of --report and --lost can be given");
    }
    return -1;
}

/* "1,2,3" */
static bool take_ids(const char *text, uint64_t min, uint64_t max, struct kl_recover_ids *out)
{
    char word[32];

    for (;;) {
        size_t n = strcspn(text, ",");

        if (n == 0 || n >= sizeof word || out->n == sizeof out->ids / sizeof out->ids[0]) {
            return false;
        }
        memcpy(word, text, n);
        word[n] = 0;
        if (kl_number_parse(word, min, max, &out->ids[out->n]) != KL_OK) {
            return false;
        }
        out->n++;
        if (text[n] == 0) {
            return true;
        }
        text += n + 1;
    }
}

static int take_lists(struct recovery *r)
{
    char text[PATH_LEN];
    char *rest = text;
    char *path;

    if (r->lost_text != NULL && !take_ids(r->lost_text, 1, KL_NODE_ID_MAX, &r->lost)) {
        return fail(KL_EXIT_USAGE, "--lost: node ids with commas between them are needed");
    }
    if (r->groups_text != NULL && !take_ids(r->groups_text, 0, KL_GROUPS_MAX - 1, &r->groups)) {
        return fail(KL_EXIT_USAGE, "--groups: group ids with commas between them are needed");
    }
    if (r->reports_text == NULL) {
        return -1;
    }
    if (strlen(r->reports_text) >= sizeof text) {
        return fail(KL_EXIT_USAGE, "--reports: too long");
    }
    (void)snprintf(text, sizeof text, "%s", r->reports_text);
    while ((path = strsep(&rest, ",")) != NULL) {
        if (r->others_n == KL_NODES_MAX) {
            return fail(KL_EXIT_USAGE, "--reports: too many files");
        }
        if (kl_recover_report_read(path, &r->others[r->others_n], r->err, sizeof r->err) != KL_OK) {
            return fail(KL_EXIT_USAGE, r->err);
        }
        r->others_n++;
    }
    return -1;
}

/* ---- what is here ---- */

static enum kl_status look(struct recovery *r)
{
    const uint64_t self = kl_config_self(r->config)->id;
    enum kl_status st = KL_OK;

    r->own.groups = kl_calloc(KL_GROUPS_MAX, sizeof *r->own.groups);
    if (r->own.groups == NULL) {
        (void)snprintf(r->err, sizeof r->err, "out of memory");
        return KL_NO_MEMORY;
    }
    (void)snprintf(r->own.cluster, sizeof r->own.cluster, "%s", r->config->cluster);
    r->own.node = self;
    for (unsigned id = 0; st == KL_OK && id < KL_GROUPS_MAX; id++) {
        struct kl_recover_group *g = &r->own.groups[r->own.groups_n];
        char dir[PATH_LEN];

        (void)snprintf(dir, sizeof dir, "%s/g%u", r->config->data_dir, id);
        if (access(dir, F_OK) != 0) {
            continue;
        }
        st = kl_offline_look(dir, self, &g->log, r->err, sizeof r->err);
        g->id = (uint16_t)id;
        r->own.groups_n++;
    }
    if (st == KL_OK && r->own.groups_n == 0) {
        (void)snprintf(r->err, sizeof r->err, "%s: the node has never run: there is nothing",
                       r->config->data_dir);
        st = KL_NOT_FOUND;
    }
    return st;
}

static const char *time_text(uint64_t ms, char out[TIME_LEN])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;

    if (ms == 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(out, TIME_LEN, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0) {
        return "never";
    }
    return out;
}

static void print_groups(const struct recovery *r)
{
    char when[TIME_LEN];

    (void)printf("node %llu of cluster %s, %s\n\n", (unsigned long long)r->own.node, r->own.cluster,
                 r->config->data_dir);
    (void)printf("%5s  %6s  %10s  %9s  %10s  %-20s  %s\n", "group", "term", "last entry",
                 "its term", "applied", "last write", "voters");
    for (size_t i = 0; i < r->own.groups_n; i++) {
        const struct kl_recover_group *g = &r->own.groups[i];

        (void)printf("%5u  %6llu  %10llu  %9llu  %10llu  %-20s  ", (unsigned)g->id,
                     (unsigned long long)g->log.term, (unsigned long long)g->log.last_index,
                     (unsigned long long)g->log.last_term, (unsigned long long)g->log.applied_index,
                     time_text(g->log.last_ms, when));
        for (size_t k = 0, n = 0; k < g->log.members_n; k++) {
            if (g->log.members[k].voter) {
                (void)printf("%s%llu", n++ == 0 ? "" : ",",
                             (unsigned long long)g->log.members[k].node_id);
            }
        }
        (void)printf("\n");
    }
}

/* ---- what would be done ---- */

static void print_verdict(const struct kl_recover_group *g, const struct kl_recover_verdict *v)
{
    char when[TIME_LEN];

    (void)printf("group %u: ", (unsigned)g->id);
    switch (v->what) {
    case KL_RECOVER_MAJORITY:
        (void)printf("%zu of %zu voters survive and elect a leader by themselves; left as it is\n",
                     v->voters - v->voters_lost, v->voters);
        return;
    case KL_RECOVER_ALONE:
        (void)printf("this node is the only voter already\n");
        return;
    case KL_RECOVER_SKIPPED:
        (void)printf("not asked for; left as it is\n");
        return;
    case KL_RECOVER_TAKE:
        break;
    }
    (void)printf("%zu of %zu voters are lost; of the survivors none has more than this node\n"
                 "  kept: everything up to entry %llu of term %llu, last write %s; entries after\n"
                 "        %llu may never have been acknowledged and take effect all the same\n"
                 "  may be lost: every write that the lost nodes acknowledged and this one never\n"
                 "        got: any after that entry; how many cannot be known here\n",
                 v->voters_lost, v->voters, (unsigned long long)g->log.last_index,
                 (unsigned long long)g->log.last_term, time_text(g->log.last_ms, when),
                 (unsigned long long)g->log.applied_index);
    if (g->log.applied_index > g->log.last_index) {
        (void)printf("  the state is ahead of the log here: kept up to entry %llu\n",
                     (unsigned long long)g->log.applied_index);
    }
}

/* KL_EXIT_OK, and at least one group is to be taken over. */
static int judge(struct recovery *r)
{
    bool some = false;
    int code = KL_EXIT_OK;

    r->kase = (struct kl_recover_case){.own = &r->own,
                                       .others = r->others,
                                       .others_n = r->others_n,
                                       .lost = &r->lost,
                                       .groups = r->groups_text == NULL ? NULL : &r->groups};
    if (kl_recover_check(&r->kase, r->err, sizeof r->err) != KL_OK) {
        return fail(KL_EXIT_REFUSED, r->err);
    }
    for (size_t i = 0; i < r->own.groups_n; i++) {
        if (kl_recover_judge(&r->kase, i, &r->verdicts[i], r->err, sizeof r->err) != KL_OK) {
            code = fail(KL_EXIT_REFUSED, r->err);
            continue;
        }
        print_verdict(&r->own.groups[i], &r->verdicts[i]);
        some = some || r->verdicts[i].what == KL_RECOVER_TAKE;
    }
    (void)fflush(stdout);
    if (code == KL_EXIT_OK && !some) {
        code = fail(KL_EXIT_REFUSED, "no group has lost its majority: start the nodes");
    }
    return code;
}

/* ---- doing it ---- */

static enum kl_status add_fence(uint64_t node, struct kl_buf *entry)
{
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__NodeRegister reg = KLUIS__LOG__NODE_REGISTER__INIT;
    uint8_t nobody[KL_ID_LEN];
    uint8_t packed[64];
    size_t size;
    enum kl_status st = kl_real_entropy.fill(kl_real_entropy.ctx, nobody, sizeof nobody);

    reg.node_id = node;
    reg.data_uuid = (ProtobufCBinaryData){sizeof nobody, nobody};
    reg.replace = true;
    command.op_case = KLUIS__LOG__COMMAND__OP_NODE_REGISTER;
    command.node_register = &reg;
    size = kluis__log__command__get_packed_size(&command);
    if (st != KL_OK || size > sizeof packed) {
        return st != KL_OK ? st : KL_TOO_LARGE;
    }
    (void)kluis__log__command__pack(&command, packed);
    return kl_entry_add(entry, kl_bytes_of(packed, size));
}

/*
 * For the directory: in the place of every lost node's data directory stands one that nobody has.
 * If the old one is ever started again it is refused, and ends. The entry bears no time of its own:
 * the state machine takes the newest that it has seen.
 */
static enum kl_status make_fence(const struct recovery *r, struct kl_buf *entry)
{
    enum kl_status st = kl_entry_begin(entry, 0);

    for (size_t i = 0; st == KL_OK && i < r->lost.n; i++) {
        st = add_fence(r->lost.ids[i], entry);
    }
    return st != KL_OK ? st : kl_entry_end(entry);
}

static enum kl_status take_over(struct recovery *r, size_t i)
{
    const struct kl_recover_group *g = &r->own.groups[i];
    struct kl_buf entry = KL_BUF(KL_ENTRY_MAX);
    const char *address = "";
    char dir[PATH_LEN];
    enum kl_status st = KL_OK;

    for (size_t k = 0; k < g->log.members_n; k++) {
        if (g->log.members[k].node_id == r->own.node) {
            address = g->log.members[k].address;
        }
    }
    (void)snprintf(dir, sizeof dir, "%s/g%u", r->config->data_dir, (unsigned)g->id);
    if (g->id == 0) {
        st = make_fence(r, &entry);
    }
    if (st != KL_OK) {
        (void)snprintf(r->err, sizeof r->err, "%s", kl_status_info(st)->text);
    } else {
        st = kl_offline_take_over(dir, r->own.node, r->verdicts[i].term, address,
                                  kl_buf_bytes(&entry), r->err, sizeof r->err);
    }
    kl_buf_wipe(&entry);
    return st;
}

static enum kl_status audit(struct recovery *r, enum kl_status result)
{
    struct kl_audit *trail = NULL;
    struct kl_audit_record line = {.time_ms = kl_real_clock.wall_ms(kl_real_clock.ctx),
                                   .remote = "local",
                                   .method = "kluisd/Recover",
                                   .status = kl_status_name(result)};
    char principal[32];
    char subject[256];
    enum kl_status st = kl_node_audit_open(r->config, &trail, r->err, sizeof r->err);

    if (st != KL_OK) {
        return st;
    }
    (void)snprintf(principal, sizeof principal, "uid %llu", (unsigned long long)getuid());
    (void)snprintf(subject, sizeof subject, "node %llu lost %s", (unsigned long long)r->own.node,
                   r->lost_text);
    line.principal = principal;
    line.subject = subject;
    kl_audit_write(trail, &line);
    kl_audit_free(trail);
    return KL_OK;
}

static enum kl_status copy_logs(struct recovery *r, char kept[PATH_LEN])
{
    uint64_t now = kl_real_clock.wall_ms(kl_real_clock.ctx);
    enum kl_status st;

    (void)snprintf(kept, PATH_LEN, "%s/recover-%llu", r->config->data_dir, (unsigned long long)now);
    st = kl_recover_dir_make(kept, r->err, sizeof r->err);
    for (size_t i = 0; st == KL_OK && i < r->own.groups_n; i++) {
        char from[PATH_LEN];
        char to[PATH_LEN + 32];

        if (r->verdicts[i].what != KL_RECOVER_TAKE) {
            continue;
        }
        (void)snprintf(from, sizeof from, "%s/g%u/log", r->config->data_dir,
                       (unsigned)r->own.groups[i].id);
        (void)snprintf(to, sizeof to, "%s/g%u", kept, (unsigned)r->own.groups[i].id);
        st = kl_recover_dir_make(to, r->err, sizeof r->err);
        if (st == KL_OK) {
            (void)snprintf(to, sizeof to, "%s/g%u/log", kept, (unsigned)r->own.groups[i].id);
            st = kl_recover_dir_copy(from, to, r->err, sizeof r->err);
        }
    }
    return st;
}

/* The directory comes last: while it has no majority nobody is taken for lost. */
static int act(struct recovery *r)
{
    char kept[PATH_LEN];
    enum kl_status st = copy_logs(r, kept);

    if (st != KL_OK) {
        return fail(KL_EXIT_FATAL, r->err);
    }
    for (size_t i = r->own.groups_n; st == KL_OK && i-- > 0;) {
        if (r->verdicts[i].what == KL_RECOVER_TAKE) {
            st = take_over(r, i);
        }
    }
    if (st != KL_OK) {
        (void)fail(KL_EXIT_FATAL, r->err);
        (void)audit(r, st);
        (void)fprintf(
            stderr, "kluisd recover: not finished: repeat it, or put the logs in %s back\n", kept);
        return KL_EXIT_FATAL;
    }
    if (audit(r, KL_OK) != KL_OK) {
        (void)fprintf(stderr, "kluisd recover: done, but the audit trail has no line of it: %s\n",
                      r->err);
    }
    (void)printf("\ndone: node %llu is the only voter of the groups above\n"
                 "  the logs as they were: %s (until this node is started, replacing gN/log by\n"
                 "        gN/log there undoes it)\n"
                 "  next: start this node; then the other survivors as they are; then each lost\n"
                 "        node with an empty data directory: kluisd --join, start it, and\n"
                 "        kluis cluster replace-node --node-id ID\n",
                 (unsigned long long)r->own.node, kept);
    return KL_EXIT_OK;
}

/* ---- the whole ---- */

static int print_report(struct recovery *r)
{
    struct kl_buf text = KL_BUF(KL_RECOVER_REPORT_MAX);
    int code = KL_EXIT_INTERNAL;

    if (kl_recover_report_write(&r->own, &text) == KL_OK) {
        (void)fwrite(text.ptr, 1, text.len, stdout);
        code = fflush(stdout) == 0 ? KL_EXIT_OK : KL_EXIT_FATAL;
    }
    kl_buf_wipe(&text);
    return code;
}

static int run(struct recovery *r)
{
    int code;

    if (r->report) {
        return print_report(r);
    }
    print_groups(r);
    if (r->lost_text == NULL) {
        return KL_EXIT_OK;
    }
    (void)printf("\n");
    (void)fflush(stdout);
    code = judge(r);
    if (code != KL_EXIT_OK || r->accept) {
        return code != KL_EXIT_OK ? code : act(r);
    }
    return fail(KL_EXIT_REFUSED, "nothing has been changed; with --accept-data-loss it is done");
}

static int open_all(struct recovery *r)
{
    enum kl_status st;
    int code = take_lists(r);

    if (code >= 0) {
        return code;
    }
    r->config = kl_calloc(1, sizeof *r->config);
    if (r->config == NULL) {
        return fail(KL_EXIT_INTERNAL, "out of memory");
    }
    if (kl_config_load(r->config_path, r->config, r->err, sizeof r->err) != KL_OK) {
        return fail(KL_EXIT_CONFIG, r->err);
    }
    st = kl_datadir_open(r->config->data_dir, r->config->cluster, kl_config_self(r->config)->id,
                         &r->data, r->err, sizeof r->err);
    if (st == KL_EXHAUSTED) {
        return fail(KL_EXIT_DATA_DIR, "the node runs: stop it first");
    }
    if (st == KL_OK) {
        st = look(r);
    }
    if (st != KL_OK) {
        return fail(st == KL_CORRUPT ? KL_EXIT_CORRUPT : KL_EXIT_DATA_DIR, r->err);
    }
    return -1;
}

int kl_recover_main(int argc, char **argv)
{
    struct recovery *r = kl_calloc(1, sizeof *r);
    int code;

    if (r == NULL) {
        return fail(KL_EXIT_INTERNAL, "out of memory");
    }
    r->data.lock_fd = -1;
    code = take_options(r, argc, argv);
    if (code < 0) {
        code = open_all(r);
    }
    if (code < 0) {
        code = run(r);
    }
    kl_datadir_close(&r->data);
    kl_recover_report_done(&r->own);
    for (size_t i = 0; i < r->others_n; i++) {
        kl_recover_report_done(&r->others[i]);
    }
    kl_free(r->config);
    kl_free(r);
    return code;
}
