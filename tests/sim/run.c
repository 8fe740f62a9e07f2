#include "tests/sim/run.h"

#include "tests/lib/checker.h"
#include "tests/sim/parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SETTLE_US = 10 * SIM_S };

/* Clocks of healthy nodes may differ; with jumps a deletion may end at any time. */
enum { RETENTION_SLACK_US = 300 * SIM_MS };

static bool recovered(struct sim_world *w)
{
    return sim_clients_idle(w) && sim_members_idle(w) && w->clients != NULL;
}

static bool finished(struct sim_world *w)
{
    return sim_clients_finished(w) && sim_watch_converged(w);
}

static bool all_down(struct sim_world *w)
{
    for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
        if (w->nodes[i].up) {
            return false;
        }
    }
    return true;
}

static void describe(struct sim_world *w, const char *what)
{
    char text[2048] = "";
    size_t at = 0;

    for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
        struct sim_node *n = &w->nodes[i];

        for (unsigned g = 0; n->exists && g < w->plan.groups && at < sizeof text; g++) {
            const struct raft *raft = n->replicas[g].io.data;
            bool up = n->up && n->replicas[g].group != NULL && raft != NULL;

            at += (size_t)snprintf(
                text + at, sizeof text - at,
                "\n  n%" PRIu64 " g%u %s%s state %d term %llu last %llu stored %llu commit %llu "
                "applied %" PRIu64 " conf %llu/%llu",
                n->id, n->replicas[g].group_id, up ? "up" : "down", n->member ? "" : " (left)",
                up ? raft->state : 0, up ? raft->current_term : 0,
                up ? (unsigned long long)(n->replicas[g].disk.next - 1) : 0,
                up ? raft->last_stored : 0, up ? raft->commit_index : 0,
                sim_watch_applied(&n->replicas[g]), up ? raft->configuration_committed_index : 0,
                up ? raft->configuration_uncommitted_index : 0);
        }
    }
    sim_fail(w, "%s%s", what, text);
}

static void judge(struct sim_world *w, struct sim_outcome *out)
{
    struct sim_heap *outside = sim_heap_enter(&w->heap);
    const struct kl_check_limits limits = {.steps_max = 2000000, .memory_max = 64u << 20};
    uint64_t retention_us = 7 * w->plan.day_ms * SIM_MS;
    uint64_t slack_us = RETENTION_SLACK_US + w->clock_error_ms * SIM_MS;
    struct kl_check_result r;
    enum kl_status st;

    /* Nodes whose times agree may differ by more than a retention of the simulation. */
    w->history.retention_us =
        retention_us > slack_us && !w->plan.clock_jumps ? retention_us - slack_us : 1;
    st = kl_check_history(&w->history, &limits, &r);
    if (st != KL_OK) {
        sim_fail(w, "the history cannot be judged: %s: %s", kl_status_name(st), r.text);
    } else if (r.verdict == KL_CHECK_VIOLATION) {
        sim_fail(w, "not linearizable: name %s: %s", r.name, r.text);
    }
    out->undecided = st == KL_OK && r.verdict == KL_CHECK_UNDECIDED;
    (void)sim_heap_enter(outside);
}

static void dump_history(struct sim_world *w, const char *path)
{
    FILE *f = path == NULL ? NULL : fopen(path, "w");

    if (f != NULL) {
        (void)!kl_history_write(&w->history, f);
        (void)fclose(f);
    }
}

static void in_world(struct sim_world *w, void (*fn)(struct sim_world *w))
{
    struct sim_heap *outside = sim_heap_enter(&w->heap);

    fn(w);
    (void)sim_heap_enter(outside);
}

static void stop_all(struct sim_world *w)
{
    for (unsigned i = 0; i < SIM_NODES_MAX; i++) {
        w->nodes[i].wanted = false;
        sim_node_stop(w, &w->nodes[i]);
    }
}

/* Has leadership left home again? */
static bool astray(struct sim_world *w)
{
    return !sim_watch_home(w);
}

/* With regions: leadership comes home, however long that has been put off, and stays there. */
static void homecoming(struct sim_world *w)
{
    uint64_t wait_us = (uint64_t)w->plan.failback_ms * SIM_MS;

    if (!w->plan.regions || w->failed) {
        return;
    }
    sim_world_run(w, w->now_us + SETTLE_US, NULL); /* some are still paused */
    sim_world_run(w, w->now_us + 16 * wait_us + w->plan.heal_us, sim_watch_home);
    if (!w->failed && !sim_watch_home(w)) {
        describe(w, "leadership does not come home");
        return;
    }
    sim_world_run(w, w->now_us + 3 * wait_us, astray);
    if (!w->failed && !sim_watch_home(w)) {
        describe(w, "leadership leaves home for no reason");
    }
}

/* Trouble; repair; everything that was asked ends; leaders at home; last reads; all nodes equal;
 * clean stop. */
static void live(struct sim_world *w)
{
    sim_world_run(w, w->now_us + w->plan.fault_us, NULL);
    in_world(w, sim_faults_end);
    in_world(w, sim_clients_drain);
    sim_world_run(w, w->now_us + w->plan.heal_us, recovered);
    if (!w->failed && !recovered(w)) {
        describe(w, "no recovery after the trouble");
        return;
    }
    homecoming(w);
    in_world(w, sim_clients_finish);
    sim_world_run(w, w->now_us + w->plan.heal_us, finished);
    if (!w->failed && !finished(w)) {
        describe(w, sim_clients_finished(w) ? "the nodes do not come to the same state"
                                            : "the last reads find no answer");
        return;
    }
    if (!w->failed) {
        sim_watch_end(w);
        in_world(w, stop_all);
        sim_world_run(w, w->now_us + SETTLE_US, all_down);
    }
    if (!w->failed && !all_down(w)) {
        describe(w, "a node does not stop");
    }
}

void sim_run_seed(uint64_t seed, const struct sim_options *options, struct sim_outcome *out)
{
    struct sim_world *w = sim_world_new(seed, options);

    *out = (struct sim_outcome){.failed = false};
    live(w);
    if (!w->failed) {
        judge(w, out);
    }
    dump_history(w, options->dump);
    out->failed = w->failed;
    out->trace = w->trace;
    out->events = w->events_run;
    out->virtual_us = w->now_us;
    out->ops = sim_clients_ops(w);
    out->stats = w->stats;
    memcpy(out->text, w->failure, sizeof out->text);
    sim_world_free(w);
}

void sim_run_done(void)
{
    sim_heap_trim();
}
