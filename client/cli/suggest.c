/*
 * Did you mean ...? By edit distance, with neighbours that changed places counted once.
 */
#include "client/cli/cli.h"

#include <string.h>

enum { WORD_MAX = 40 };

static unsigned least(unsigned a, unsigned b, unsigned c)
{
    unsigned m = a < b ? a : b;

    return m < c ? m : c;
}

static unsigned distance(const char *a, const char *b)
{
    unsigned d[WORD_MAX + 1][WORD_MAX + 1];
    size_t an = strlen(a);
    size_t bn = strlen(b);

    if (an > WORD_MAX || bn > WORD_MAX) {
        return WORD_MAX;
    }
    for (size_t i = 0; i <= an; i++) {
        d[i][0] = (unsigned)i;
    }
    for (size_t j = 0; j <= bn; j++) {
        d[0][j] = (unsigned)j;
    }
    for (size_t i = 1; i <= an; i++) {
        for (size_t j = 1; j <= bn; j++) {
            unsigned cost = a[i - 1] != b[j - 1];

            d[i][j] = least(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + cost);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < d[i][j]) {
                d[i][j] = d[i - 2][j - 2] + 1;
            }
        }
    }
    return d[an][bn];
}

void kl_cli_nearest_init(struct kl_cli_nearest *n, const char *wrong)
{
    *n = (struct kl_cli_nearest){.wrong = wrong, .best = NULL, .distance = WORD_MAX};
}

void kl_cli_nearest_add(struct kl_cli_nearest *n, const char *word)
{
    size_t typed = strlen(n->wrong);
    unsigned far = distance(n->wrong, word);

    /* The beginning of a word is as good as a word with one slip. */
    if (typed >= 3 && strncmp(n->wrong, word, typed) == 0 && far > 1) {
        far = 1;
    }
    if (far < n->distance) {
        n->distance = far;
        n->best = word;
    }
}

const char *kl_cli_nearest(const struct kl_cli_nearest *n)
{
    size_t allowed = strlen(n->wrong) / 3;

    allowed = allowed < 1 ? 1 : allowed > 3 ? 3 : allowed;
    return n->distance <= allowed ? n->best : NULL;
}
