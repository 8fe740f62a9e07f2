/*
 * kluis-check FILE: is the history in FILE (tests/lib/history.h says how it is written; "-" is
 * standard input) linearizable? Exit code 0 yes, 1 no, 2 undecided, 3 no history.
 */
#include "tests/lib/checker.h"

#include <string.h>

int main(int argc, char **argv)
{
    struct kl_history h;
    struct kl_check_result r;
    char err[256] = "";
    int code = 3;
    FILE *f;

    if (argc != 2) {
        (void)fprintf(stderr, "usage: kluis-check FILE\n");
        return 3;
    }
    f = strcmp(argv[1], "-") == 0 ? stdin : fopen(argv[1], "r");
    if (f == NULL) {
        perror(argv[1]);
        return 3;
    }
    kl_history_init(&h);
    if (kl_history_read(&h, f, err, sizeof err) != KL_OK) {
        (void)fprintf(stderr, "%s: %s\n", argv[1], err);
        goto out;
    }
    if (kl_check_history(&h, NULL, &r) != KL_OK) {
        (void)fprintf(stderr, "%s: cannot be judged: %s\n", argv[1], r.text);
        goto out;
    }
    printf("%s: %zu operations, %llu steps\n", kl_check_verdict_name(r.verdict), h.ops_n,
           (unsigned long long)r.steps);
    if (r.verdict != KL_CHECK_LINEARIZABLE) {
        printf("name %s: %s", r.name, r.text);
    }
    code = r.verdict == KL_CHECK_LINEARIZABLE ? 0 : r.verdict == KL_CHECK_VIOLATION ? 1 : 2;
out:
    kl_history_done(&h);
    (void)fclose(f);
    return code;
}
