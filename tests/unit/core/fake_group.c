#include "tests/unit/core/fake_group.h"

static uint64_t mono(void *ctx)
{
    return ((struct kl_group *)ctx)->mono_us;
}

static uint64_t wall(void *ctx)
{
    return ((struct kl_group *)ctx)->w->now;
}

void fake_group_init(struct kl_group *g, struct world *w, uint16_t id)
{
    *g = (struct kl_group){.w = w, .id = id, .ready = true, .refuse = KL_OK, .mono_us = 1000000};
    g->clock = (struct kl_clock){.ctx = g, .mono_us = mono, .wall_ms = wall};
}

void fake_group_sleep(struct kl_group *g, uint64_t ms)
{
    g->mono_us += ms * 1000;
    g->w->now += ms;
}

void fake_group_deliver(struct kl_group *g, enum kl_status status)
{
    struct kl_proposal *p = g->held;
    struct kl_buf command = p->command;
    struct kl_bytes result = {NULL, 0};
    size_t pos = 0;

    g->held = NULL;
    if (status == KL_OK) {
        (void)world_apply_bytes(g->w, kl_buf_bytes(&command));
        assert_true(kl_results_next(&g->w->results, &pos, &result));
    }
    kl_buf_wipe(&command);
    p->done(p, status, g->w->index, result);
}

/* ---- what the retention library asks of a group ---- */

uint16_t kl_group_id(const struct kl_group *group)
{
    return group->id;
}

void kl_group_status(struct kl_group *group, struct kl_group_status *out)
{
    memset(out, 0, sizeof *out);
    out->ready = group->ready;
}

enum kl_status kl_group_read_local(struct kl_group *group, struct kl_read *read)
{
    group->reads++;
    group->open_reads++;
    read->view = group->w->view;
    return KL_OK;
}

void kl_group_read_local_end(struct kl_group *group, struct kl_read *read)
{
    (void)read;
    group->open_reads--;
}

enum kl_status kl_group_propose(struct kl_group *group, struct kl_proposal *p)
{
    if (group->refuse != KL_OK) {
        return group->refuse;
    }
    assert_null(group->held);
    group->held = p;
    group->proposals++;
    return KL_OK;
}
