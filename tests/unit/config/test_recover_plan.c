/* What kluisd recover makes of reports: who may go on, in which groups, in which term. */
#include "tests/lib/test.h"

#include "common/alloc.h"
#include "server/recover_plan.h"

#include <string.h>

#define HEAD "kluis recovery report 1\ncluster c\n"
#define GROUP(id, term, last_term, last, members)                                                  \
    "group " id " term " term " last_term " last_term " last " last                                \
    " applied 7 time 5 members " members "\n"
#define THREE "1:voter:1,2:voter:2,3:voter:3.1"
#define FOUR  "1:voter:1,2:voter:2,3:voter:3.1,4:voter:4"

static struct kl_recover_report parse(const char *text)
{
    struct kl_recover_report r = {.node = 0};
    char err[1024] = "";

    if (kl_recover_report_parse("f", text, &r, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    return r;
}

static struct kl_recover_ids ids(uint64_t a, uint64_t b, uint64_t c)
{
    struct kl_recover_ids out = {.n = a == 0 ? 0 : b == 0 ? 1 : c == 0 ? 2 : 3};

    out.ids[0] = a;
    out.ids[1] = b;
    out.ids[2] = c;
    return out;
}

/* Judges the only group of `own`; other may be NULL. */
static enum kl_status judge(const char *own, const char *other, const struct kl_recover_ids *lost,
                            struct kl_recover_verdict *v, char *err, size_t err_len)
{
    struct kl_recover_report a = parse(own);
    struct kl_recover_report b = {.node = 0};
    struct kl_recover_case c = {.own = &a, .lost = lost};
    enum kl_status st;

    if (other != NULL) {
        b = parse(other);
        c.others = &b;
        c.others_n = 1;
    }
    st = kl_recover_check(&c, err, err_len);
    if (st == KL_OK) {
        st = kl_recover_judge(&c, 0, v, err, err_len);
    }
    kl_recover_report_done(&a);
    kl_recover_report_done(&b);
    return st;
}

static void refused(const char *own, const char *other, struct kl_recover_ids lost,
                    const char *words)
{
    struct kl_recover_verdict v;
    char err[1024] = "";

    CHECK_EQ(judge(own, other, &lost, &v, err, sizeof err), KL_FORBIDDEN);
    if (strstr(err, words) == NULL) {
        fail_msg("'%s' does not say '%s'", err, words);
    }
}

static struct kl_recover_verdict judged(const char *own, const char *other,
                                        struct kl_recover_ids lost)
{
    struct kl_recover_verdict v = {.term = 0};
    char err[1024] = "";

    if (judge(own, other, &lost, &v, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    return v;
}

/* A report comes back as it was written; cut off anywhere, or with one thing wrong, it is refused. */
TEST(recover_plan, reports)
{
    static const char text[] = HEAD "node 3\n" GROUP("0", "9", "8", "70", THREE)
        GROUP("17", "2", "1", "0", "-") GROUP("18", "2", "1", "1", "3:voter:3.1,4:other:4") "end\n";
    static const char *const wrong[] = {
        "kluis recovery report 2\ncluster c\nnode 3\nend\n",
        HEAD "node 0\nend\n",
        HEAD "node 65536\nend\n",
        HEAD "node 3\nend\nmore",
        HEAD "node 3\n" GROUP("256", "1", "1", "1", THREE) "end\n",
        HEAD "node 3\n" GROUP("0", "x", "1", "1", THREE) "end\n",
        HEAD "node 3\n" GROUP("0", "1", "1", "1", "1:king:1") "end\n",
        HEAD "node 3\n" GROUP("0", "1", "1", "1", "1:voter:1,") "end\n",
        HEAD "node 3\n" GROUP("1", "1", "1", "1", THREE) GROUP("0", "1", "1", "1", THREE) "end\n",
    };
    struct kl_buf out = KL_BUF(KL_RECOVER_REPORT_MAX);
    struct kl_recover_report r = parse(text);
    char cut[sizeof text];
    char err[256];

    CHECK_EQ(r.node, 3);
    CHECK_EQ(r.groups_n, 3);
    CHECK_EQ(kl_recover_group_of(&r, 18)->log.members_n, 2);
    CHECK(!kl_recover_group_of(&r, 18)->log.members[1].voter);
    CHECK_STR(kl_recover_group_of(&r, 0)->log.members[2].address, "3.1");
    CHECK_OK(kl_recover_report_write(&r, &out));
    CHECK_EQ(out.len, strlen(text));
    CHECK_MEM(out.ptr, text, out.len);
    kl_buf_wipe(&out);
    kl_recover_report_done(&r);
    for (size_t n = 0; n < strlen(text); n++) {
        memcpy(cut, text, n);
        cut[n] = 0;
        CHECK_EQ(kl_recover_report_parse("f", cut, &r, err, sizeof err), KL_INVALID_ARGUMENT);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_EQ(kl_recover_report_parse("f", wrong[i], &r, err, sizeof err), KL_INVALID_ARGUMENT);
    }
    CHECK(r.groups == NULL);
}

/* The majority is lost: taken over in a term above all that survivors have seen. */
TEST(recover_plan, takes_over)
{
    struct kl_recover_verdict v =
        judged(HEAD "node 3\n" GROUP("0", "9", "8", "70", THREE) "end\n", NULL, ids(1, 2, 0));

    CHECK_EQ(v.what, KL_RECOVER_TAKE);
    CHECK_EQ(v.voters, 3);
    CHECK_EQ(v.voters_lost, 2);
    CHECK(v.term > 9);
    v = judged(HEAD "node 3\n" GROUP("0", "9", "8", "70", FOUR) "end\n",
               HEAD "node 4\n" GROUP("0", "5000", "8", "70", FOUR) "end\n", ids(1, 2, 0));
    CHECK_EQ(v.what,
             KL_RECOVER_TAKE); /* half is no majority; equal logs are as good as one another */
    CHECK(v.term > 5000);
}

/* The later last term is ahead however short the log, and the longer log of the same last term. */
TEST(recover_plan, the_most_advanced)
{
    static const char own[] = HEAD "node 3\n" GROUP("5", "9", "8", "70", FOUR) "end\n";

    refused(own, HEAD "node 4\n" GROUP("5", "9", "9", "1", FOUR) "end\n", ids(1, 2, 0),
            "node 4 has more of group 5");
    refused(own, HEAD "node 4\n" GROUP("5", "9", "8", "71", FOUR) "end\n", ids(1, 2, 0),
            "node 4 has more of group 5");
    CHECK_EQ(
        judged(own, HEAD "node 4\n" GROUP("5", "9", "7", "900", FOUR) "end\n", ids(1, 2, 0)).what,
        KL_RECOVER_TAKE);
    /* What the state has applied counts, also when the log does not have it (here: 7). */
    refused(HEAD "node 3\n" GROUP("5", "9", "8", "6", FOUR) "end\n",
            HEAD "node 4\n" GROUP("5", "9", "8", "8", FOUR) "end\n", ids(1, 2, 0),
            "node 4 has more of group 5");
    CHECK_EQ(judged(HEAD "node 3\n" GROUP("5", "9", "8", "5", FOUR) "end\n",
                    HEAD "node 4\n" GROUP("5", "9", "8", "6", FOUR) "end\n", ids(1, 2, 0))
                 .what,
             KL_RECOVER_TAKE);
}

/* Nothing is forced where a majority is left, or where somebody is not accounted for. */
TEST(recover_plan, refusals)
{
    static const char own[] = HEAD "node 3\n" GROUP("5", "9", "8", "70", THREE) "end\n";
    static const char two[] = HEAD "node 2\n" GROUP("5", "9", "8", "70", THREE) "end\n";

    CHECK_EQ(judged(own, two, ids(1, 0, 0)).what, KL_RECOVER_MAJORITY);
    CHECK_EQ(
        judged(HEAD "node 3\n" GROUP("5", "9", "8", "70", "3:voter:3") "end\n", NULL, ids(1, 2, 0))
            .what,
        KL_RECOVER_ALONE);
    refused(own, NULL, ids(1, 0, 0), "node 2 votes in group 5 and nothing is known of it");
    refused(own, NULL, ids(1, 2, 3), "names this node");
    refused(own, two, ids(1, 2, 0), "there is a report of it");
    refused(own, own, ids(1, 2, 0), "two reports of node 3");
    refused(own, "kluis recovery report 1\ncluster d\nnode 2\nend\n", ids(1, 0, 0), "cluster 'd'");
    refused(HEAD "node 3\n" GROUP("5", "9", "8", "70", "1:voter:1,3:other:3") "end\n", NULL,
            ids(1, 0, 0), "does not vote in group 5");
}
