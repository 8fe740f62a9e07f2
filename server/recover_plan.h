/*
 * What kluisd recover knows of the nodes of a cluster that lost its majority, and what it decides.
 * No files, no clock: tests/unit/config/test_recover_plan.c.
 *
 * A report is the text that a stopped node gives of itself, for the operator to carry to another:
 *
 *   kluis recovery report 1
 *   cluster NAME
 *   node ID
 *   group ID term N last_term N last N applied N time MS members ID:voter|other:ADDRESS,…
 *   …                                    one line per group, in rising order
 *   end
 */
#ifndef KL_RECOVER_PLAN_H
#define KL_RECOVER_PLAN_H

#include "common/buf.h"
#include "server/raft/offline.h"

#define KL_RECOVER_REPORT_MAX ((size_t)2 << 20)

struct kl_recover_group {
    uint16_t id;
    struct kl_offline_log log;
};

struct kl_recover_report {
    char cluster[KL_LOCATION_MAX + 1];
    uint64_t node;
    struct kl_recover_group *groups; /* owned */
    size_t groups_n;
};

void kl_recover_report_done(struct kl_recover_report *r);
KL_MUST_USE enum kl_status kl_recover_report_write(const struct kl_recover_report *r,
                                                   struct kl_buf *out);
/* `file` is only for err. KL_INVALID_ARGUMENT, KL_NO_MEMORY; *out is then untouched. */
KL_MUST_USE enum kl_status kl_recover_report_parse(const char *file, const char *text,
                                                   struct kl_recover_report *out, char *err,
                                                   size_t err_len);
const struct kl_recover_group *kl_recover_group_of(const struct kl_recover_report *r, uint16_t id);

/* Node ids, or group ids. */
struct kl_recover_ids {
    uint64_t ids[KL_GROUPS_MAX];
    size_t n;
};
bool kl_recover_has(const struct kl_recover_ids *ids, uint64_t id);

struct kl_recover_case {
    const struct kl_recover_report *own;
    const struct kl_recover_report *others; /* survivors that were stopped and asked */
    size_t others_n;
    const struct kl_recover_ids *lost;   /* nodes that will never come back as they were */
    const struct kl_recover_ids *groups; /* only these; NULL: all of this node */
};

enum kl_recover_what {
    KL_RECOVER_TAKE,     /* the majority is lost: this node becomes the only voter */
    KL_RECOVER_MAJORITY, /* a majority survives: left as it is */
    KL_RECOVER_ALONE,    /* this node is the only voter already */
    KL_RECOVER_SKIPPED   /* not among the groups asked for */
};

struct kl_recover_verdict {
    enum kl_recover_what what;
    size_t voters, voters_lost;
    uint64_t term; /* to take over in: above all that any survivor has seen */
};

/*
 * Decides for the i-th group of c->own. KL_OK: *out says what is to be done. KL_FORBIDDEN: refused,
 * and err says why and what to do instead.
 */
KL_MUST_USE enum kl_status kl_recover_judge(const struct kl_recover_case *c, size_t i,
                                            struct kl_recover_verdict *out, char *err,
                                            size_t err_len);
/* What concerns no single group: that the case as it was given makes sense. Statuses as above. */
KL_MUST_USE enum kl_status kl_recover_check(const struct kl_recover_case *c, char *err,
                                            size_t err_len);

#endif
