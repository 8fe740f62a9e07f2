/*
 * Nodes far from each other: a write costs one round trip, and many under way share it.
 */
#include "tests/unit/raft/lab.h"

#include "common/alloc.h"

enum { ONE_WAY_MS = 20, TRIP_US = 2 * ONE_WAY_MS * 1000, CALLERS = 64, TRIPS = 30 };

static bool call_done(struct lab *lab, void *arg)
{
    const struct lab_call *call = arg;

    (void)lab;
    return call->done;
}

/* One write after the other: the quickest takes less than two round trips, so nothing is waited for twice.
 * The others may wait for the machine. */
TEST(long_link, one_round_trip)
{
    struct lab *lab = lab_new();
    uint64_t quickest = UINT64_MAX;
    unsigned leader;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    lab->delay_ms = ONE_WAY_MS;
    for (unsigned i = 0; i < 10; i++) {
        uint64_t begun = lab_now_us(lab);
        struct lab_call *call = lab_vault(lab, leader, i, 600);
        uint64_t took;

        CHECK(lab_run_until(lab, call_done, call, 20000));
        CHECK_EQ(call->status, KL_OK);
        took = lab_now_us(lab) - begun;
        quickest = took < quickest ? took : quickest;
        lab_call_free(call);
    }
    CHECK(quickest >= (uint64_t)TRIP_US); /* the link is what it should be */
    CHECK(quickest < 2 * (uint64_t)TRIP_US);
    lab_free(lab);
}

static size_t under_way(const struct kl_group *g)
{
    size_t n = 0;

    for (const struct kl_flight *f = g->flights; f != NULL; f = f->next) {
        n++;
    }
    return n;
}

/*
 * Callers who each wait for their answer, out of step with each other: new entries leave while older ones
 * are on their way. How much that gives on a real link is measured by deploy/drill distance.
 */
TEST(long_link, entries_overlap)
{
    struct lab *lab = lab_new();
    struct lab_call *calls[CALLERS] = {NULL};
    size_t most = 0;
    unsigned next = 0;
    unsigned done = 0;
    unsigned leader;
    uint64_t begun;

    lab_start(lab, 3, 3);
    lab_init_group(lab);
    leader = lab_leader(lab);
    lab->delay_ms = ONE_WAY_MS;
    for (unsigned i = 0; i < CALLERS; i++) { /* they begin spread over a round trip */
        calls[i] = lab_vault(lab, leader, next++, 600);
        lab_run_ms(lab, i % 2);
    }
    begun = lab_now_us(lab);
    while (lab_now_us(lab) - begun < TRIPS * (uint64_t)TRIP_US) {
        lab_run_ms(lab, 1);
        most =
            under_way(lab->nodes[leader].group) > most ? under_way(lab->nodes[leader].group) : most;
        for (unsigned i = 0; i < CALLERS; i++) {
            if (calls[i]->done) {
                CHECK_EQ(calls[i]->status, KL_OK);
                lab_call_free(calls[i]);
                calls[i] = lab_vault(lab, leader, next++, 600);
                done++;
            }
        }
    }
    CHECK(most >= 4);
    CHECK(done != 0);
    for (unsigned i = 0; i < CALLERS; i++) {
        CHECK(lab_run_until(lab, call_done, calls[i], 20000));
        lab_call_free(calls[i]);
    }
    lab_free(lab);
}
