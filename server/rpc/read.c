/* What a read must see: at the leader under its lease, at the leader confirmed by a majority, or here
 * with an age. */
#include "server/rpc/call.h"

#include <inttypes.h>
#include <stdio.h>

enum kl_status kl_read_check(struct kl_work *w)
{
    const Kluis__V1__Call *e = w->envelope;

    switch (e->consistency) {
    case KLUIS__V1__CONSISTENCY__LINEARIZABLE:
        break;
    case KLUIS__V1__CONSISTENCY__QUORUM:
    case KLUIS__V1__CONSISTENCY__STALE:
        if (w->call.route->write) {
            return kl_call_field(&w->call, KL_INVALID_ARGUMENT, "consistency",
                                 "writes are always linearizable");
        }
        break;
    default:
        return kl_call_field(&w->call, KL_INVALID_ARGUMENT, "consistency",
                             "0 linearizable, 1 quorum, 2 stale");
    }
    if (e->max_age_ms != 0 && e->consistency != KLUIS__V1__CONSISTENCY__STALE) {
        return kl_call_field(&w->call, KL_INVALID_ARGUMENT, "max_age_ms", "only with stale");
    }
    return KL_OK;
}

static bool is_confirmed(const struct kl_work *w, const struct kl_group *group)
{
    for (unsigned i = 0; i < w->confirmed_n; i++) {
        if (w->confirmed[i] == group) {
            return true;
        }
    }
    return false;
}

enum kl_status kl_read_open(struct kl_work *w, struct kl_group *group, struct kl_read *read)
{
    enum kl_status st;

    switch (w->envelope->consistency) {
    case KLUIS__V1__CONSISTENCY__QUORUM:
        if (is_confirmed(w, group)) {
            return kl_group_read_confirmed(group, read);
        }
        w->wants = group;
        return KL_UNAVAILABLE;
    case KLUIS__V1__CONSISTENCY__STALE:
        st = kl_group_read_stale(group, read);
        return st != KL_UNAVAILABLE
                   ? st
                   : kl_call_field(&w->call, st, "consistency",
                                   "this replica cannot tell the age of its state: it has heard no "
                                   "leader since it started");
    default:
        return kl_group_read_begin(group, read);
    }
}

enum kl_status kl_read_close(struct kl_work *w, struct kl_group *group, struct kl_read *read)
{
    const uint32_t max_ms = w->envelope->max_age_ms;
    char limit[sizeof w->call.limit];

    if (w->envelope->consistency == KLUIS__V1__CONSISTENCY__LINEARIZABLE) {
        return kl_group_read_end(group, read);
    }
    if (w->envelope->consistency == KLUIS__V1__CONSISTENCY__STALE) {
        w->age_us = kl_group_read_age_us(group, read);
    }
    kl_group_read_local_end(group, read);
    if (max_ms == 0 || w->age_us <= max_ms * UINT64_C(1000)) {
        return KL_OK;
    }
    (void)snprintf(limit, sizeof limit,
                   "the state of node %" PRIu64 " is %" PRIu64 " ms old, the read allows %" PRIu32
                   " ms",
                   w->d->o.node->node_id, (w->age_us + 999) / 1000, max_ms);
    return kl_call_field(&w->call, KL_TOO_OLD, "max_age_ms", limit);
}

static void confirm_done(struct kl_confirm *c, enum kl_status status)
{
    struct kl_work *w = c->arg;

    w->outcome = status;
    kl_work_resume(w);
}

enum kl_status kl_read_confirm(struct kl_work *w)
{
    enum kl_status st;

    if (w->confirmed_n == sizeof w->confirmed / sizeof w->confirmed[0]) {
        w->wants = NULL; /* the vault moves faster than we look */
        return KL_CHANGED;
    }
    w->confirm = (struct kl_confirm){
        .give_up_us = w->deadline_us,
        .done = confirm_done,
        .arg = w,
    };
    kl_work_park(w);
    st = kl_group_confirm(w->wants, &w->confirm);
    if (st != KL_OK) {
        kl_work_unpark(w);
        w->wants = NULL;
    }
    return st == KL_CLOSED ? KL_UNAVAILABLE : st;
}

enum kl_status kl_read_was_confirmed(struct kl_work *w)
{
    struct kl_group *group = w->wants;

    w->wants = NULL;
    if (w->outcome == KL_OK) {
        w->confirmed[w->confirmed_n++] = group;
    }
    return w->outcome;
}
