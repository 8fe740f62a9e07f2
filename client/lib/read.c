/*
 * How reads are asked for, and what came of them: per client, per call, per thread.
 */
#include "client/lib/internal.h"

#include <stdio.h>

static _Thread_local struct kluis_read next;    /* for the next call */
static _Thread_local struct kluis_read current; /* of the call that is being made */
static _Thread_local struct kluis_served served;

enum kl_status kl_read_check(const struct kluis_read *read, char *err, size_t err_len)
{
    if ((unsigned)read->consistency > KLUIS_READ_STALE) {
        (void)snprintf(err, err_len, "consistency: linearizable, quorum or stale");
        return KL_INVALID_ARGUMENT;
    }
    if (read->max_age_ms != 0 && read->consistency != KLUIS_READ_STALE) {
        (void)snprintf(err, err_len, "max_age_ms: only stale reads have an age");
        return KL_INVALID_ARGUMENT;
    }
    return KL_OK;
}

enum kluis_status kluis_read_next(const struct kluis_read *read)
{
    char err[KL_CLIENT_MESSAGE_MAX] = "";

    kl_client_explain("%s", "");
    if (read == NULL) {
        next = (struct kluis_read){KLUIS_READ_DEFAULT, 0};
        return KLUIS_OK;
    }
    if (kl_read_check(read, err, sizeof err) != KL_OK) {
        kl_client_explain("%s", err);
        return KLUIS_INVALID_ARGUMENT;
    }
    next = *read;
    return KLUIS_OK;
}

void kl_read_begin(void)
{
    current = next;
    next = (struct kluis_read){KLUIS_READ_DEFAULT, 0};
}

struct kluis_read kl_read_of(const struct kluis_client *client, const struct kl_request *request)
{
    if (request->write || request->internal) {
        return (struct kluis_read){KLUIS_READ_LINEARIZABLE, 0};
    }
    return current.consistency == KLUIS_READ_DEFAULT ? client->read : current;
}

void kl_read_served(const struct kluis_read *read, const Kluis__V1__Reply *reply)
{
    served = (struct kluis_served){
        .node_id = reply->node_id,
        .stale = read->consistency == KLUIS_READ_STALE,
        .age_ms = reply->age_ms,
    };
    (void)snprintf(served.region, sizeof served.region, "%s", reply->region);
}

void kluis_last_served(struct kluis_served *out)
{
    *out = served;
}
