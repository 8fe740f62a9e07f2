/*
 * How long a follower has lacked what it lacks. The leader notes now and then how long its log was; the
 * first note that is longer than the follower's says since when. The notes become sparser with age.
 */
#include "server/raft/group_impl.h"

#include <string.h>

enum { NOTE_US = 20000 };

void kl_group_lag_note(struct kl_group *g)
{
    struct kl_lag *lag = &g->lag;
    uint64_t now = kl_group_now_us(g);
    uint64_t last = raft_last_index(&g->raft);

    if (g->lead_term == 0) {
        lag->n = 0;
        return;
    }
    if (lag->n != 0 &&
        (lag->notes[lag->n - 1].index == last || now - lag->notes[lag->n - 1].us < NOTE_US)) {
        return;
    }
    if (lag->n == KL_LAG_NOTES) { /* every second one of the older half goes */
        for (unsigned i = 0; i < KL_LAG_NOTES / 4; i++) {
            lag->notes[i] = lag->notes[2 * i];
        }
        memmove(&lag->notes[KL_LAG_NOTES / 4], &lag->notes[KL_LAG_NOTES / 2],
                (KL_LAG_NOTES / 2) * sizeof lag->notes[0]);
        lag->n -= KL_LAG_NOTES / 4;
    }
    lag->notes[lag->n].index = last;
    lag->notes[lag->n].us = now;
    lag->n++;
}

uint64_t kl_group_lag_ms(const struct kl_group *g, uint64_t match)
{
    const struct kl_lag *lag = &g->lag;

    for (unsigned i = 0; i < lag->n; i++) {
        if (lag->notes[i].index > match) {
            return (kl_group_now_us(g) - lag->notes[i].us) / 1000;
        }
    }
    return 0;
}
