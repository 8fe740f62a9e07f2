/* Vaults: everything but creation and purge, which touch two groups (vault_create.c, vault_purge.c). */
#include "server/handlers/page.h"
#include "server/handlers/parts.h"

struct kl_placement kl_call_placement(const struct kl_call *call)
{
    return call->node->placement(call->node->ctx, kl_group_id(call->group));
}

static const char *region_of(const struct kl_node_view *node, uint64_t node_id)
{
    for (size_t i = 0; i < node->nodes_n; i++) {
        if (node->nodes[i].node_id == node_id) {
            return node->nodes[i].region;
        }
    }
    return "";
}

/* Where the vault is served from, and what its mirror lacks, as this leader knows it. */
static enum kl_status add_placement(struct kl_call *call, Kluis__V1__Vault *vault)
{
    const struct kl_placement place = kl_call_placement(call);
    struct kl_group_status status;
    enum kl_status st = KL_OK;
    uint64_t best = 0;

    kl_group_status(call->group, &status);
    for (size_t i = 0; i < status.members_n && place.mirror != NULL; i++) {
        const struct kl_group_member *m = &status.members[i];

        if (m->match_index > best && strcmp(region_of(call->node, m->node_id), place.mirror) == 0) {
            best = m->match_index;
        }
    }
    if (place.mirror != NULL) {
        st = kl_pb_string(&vault->mirror, place.mirror);
        vault->mirror_current = best >= status.last_index;
        vault->mirror_lag = best < status.last_index ? status.last_index - best : 0;
    }
    return st == KL_OK
               ? kl_pb_string(&vault->leader_region, region_of(call->node, status.leader_id))
               : st;
}

static enum kl_status respond_vault(struct kl_call *call, const Kluis__Store__VaultRecord *record)
{
    Kluis__V1__Vault *vault = NULL;
    enum kl_status st = kl_vault_message(record, &vault);

    if (st == KL_OK) {
        st = add_placement(call, vault);
        if (st != KL_OK) {
            kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
            return st;
        }
    }
    return st == KL_OK ? kl_respond(call, "vault", vault) : st;
}

static enum kl_status show(struct kl_call *call, const char *name, enum kl_want want,
                           struct kl_plan *plan)
{
    Kluis__Store__VaultRecord *record = NULL;
    enum kl_status st = kl_read_vault(call, name, want, &record);

    if (st == KL_OK) {
        st = respond_vault(call, record);
    }
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    plan->step = KL_STEP_REPLY;
    return st;
}

enum kl_status kl_plan_vault_get(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultGetRequest *req = (const void *)call->request;

    return show(call, req->name, KL_WANT_LIVE, plan);
}

enum kl_status kl_plan_vault_get_deleted(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultGetDeletedRequest *req = (const void *)call->request;

    return show(call, req->name, KL_WANT_DELETED, plan);
}

/* ---- lists ---- */

struct vault_page {
    Kluis__V1__Vault **vaults; /* room for size */
    size_t n;
    size_t size;
    bool more;
    enum kl_status st;
};

static bool add_vault(void *arg, const Kluis__Store__VaultRecord *record)
{
    struct vault_page *p = arg;

    if (p->n == p->size) {
        p->more = true;
        return false;
    }
    p->st = kl_vault_message(record, &p->vaults[p->n]);
    p->n += p->st == KL_OK;
    return p->st == KL_OK;
}

/* Where the next page begins: behind the last vault of this group, or with the next group. */
static enum kl_status next_vault_page(struct kl_call *call, const struct vault_page *p, char **out)
{
    char text[KL_PAGE_TOKEN_MAX + 1];
    struct kl_page next = {.group = kl_group_id(call->group)};
    enum kl_status st;
    size_t i = 1;

    if (p->more) {
        kl_name_fold(p->vaults[p->n - 1]->name, (char *)next.after, sizeof next.after);
        next.after_len = strlen((const char *)next.after);
    } else {
        while (i < call->node->groups_n && call->node->groups[i] != next.group) {
            i++;
        }
        if (i + 1 >= call->node->groups_n) {
            return KL_OK; /* that was the last group */
        }
        next.group = call->node->groups[i + 1];
    }
    st = kl_page_write(call->route->method, kl_bytes_of(NULL, 0), &next, text);
    return st == KL_OK ? kl_pb_string(out, text) : st;
}

static enum kl_status list(struct kl_call *call, uint32_t page_size, const char *token,
                           enum kl_want want, size_t *n_out, Kluis__V1__Vault ***out,
                           char **next_out)
{
    struct vault_page p = {.st = KL_OK};
    struct kl_page from;
    enum kl_status st = kl_field_page_size(call, page_size, &p.size);

    if (st == KL_OK) {
        st = kl_page_read(call->route->method, kl_bytes_of(NULL, 0), token, &from);
    }
    if (st != KL_OK) {
        return st; /* the dispatcher has looked at the token already */
    }
    p.vaults = kl_calloc(p.size, sizeof(Kluis__V1__Vault *));
    if (p.vaults == NULL) {
        return KL_NO_MEMORY;
    }
    st = kl_core_vaults(&call->read->view, want, (const char *)from.after, add_vault, &p);
    *out = p.vaults; /* the response owns them, whatever happens */
    *n_out = p.n;
    if (st == KL_OK) {
        st = p.st;
    }
    return st == KL_OK ? next_vault_page(call, &p, next_out) : st;
}

enum kl_status kl_plan_vault_list(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultListRequest *req = (const void *)call->request;
    Kluis__V1__VaultListResponse *r = kl_response(call);

    plan->step = KL_STEP_REPLY;
    return r == NULL ? KL_NO_MEMORY
                     : list(call, req->page_size, req->page_token, KL_WANT_LIVE, &r->n_vaults,
                            &r->vaults, &r->next_page_token);
}

enum kl_status kl_plan_vault_list_deleted(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultListDeletedRequest *req = (const void *)call->request;
    Kluis__V1__VaultListDeletedResponse *r = kl_response(call);

    plan->step = KL_STEP_REPLY;
    return r == NULL ? KL_NO_MEMORY
                     : list(call, req->page_size, req->page_token, KL_WANT_DELETED, &r->n_vaults,
                            &r->vaults, &r->next_page_token);
}

enum kl_status kl_vaults_page_group(const struct kl_route *route, const char *token,
                                    const struct kl_node_view *node, uint16_t *group)
{
    struct kl_page page;
    enum kl_status st = kl_page_read(route->method, kl_bytes_of(NULL, 0), token, &page);

    if (st != KL_OK) {
        return st;
    }
    if (token[0] == 0 && node->groups_n > 1) {
        *group = node->groups[1];
        return KL_OK;
    }
    for (size_t i = 1; i < node->groups_n; i++) {
        if (node->groups[i] == page.group) {
            *group = page.group;
            return KL_OK;
        }
    }
    return KL_INVALID_ARGUMENT;
}

/* ---- changes ---- */

/* Update, delete and recover answer with the vault as the state machine left it. */
static enum kl_status changed(struct kl_call *call, enum kl_status status, struct kl_bytes packed,
                              struct kl_plan *plan)
{
    Kluis__Log__CommandResult *result = NULL;
    enum kl_status st = kl_result_open(call, status, packed, &result);

    plan->step = KL_STEP_REPLY;
    if (st == KL_OK) {
        st = result->vault == NULL ? KL_INTERNAL : respond_vault(call, result->vault);
    }
    kl_pb_wipe_free((ProtobufCMessage *)result, &kl_pb_allocator);
    return st;
}

/* Retention was fixed at creation: repeating the present value is harmless, another is refused. */
static enum kl_status check_retention(struct kl_call *call, const char *name, uint32_t days)
{
    Kluis__Store__VaultRecord *record = NULL;
    enum kl_status st;

    if (days == 0) {
        return KL_OK;
    }
    st = kl_read_vault(call, name, KL_WANT_LIVE, &record);
    if (st == KL_OK && record->retention_days != days) {
        st = kl_call_field(call, KL_FIXED, "retention_days", "fixed when the vault was created");
    }
    kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    return st;
}

enum kl_status kl_plan_vault_update(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultUpdateRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultUpdate update = KLUIS__LOG__VAULT_UPDATE__INIT;
    struct kl_tag_list tags;
    enum kl_status st = kl_field_tags(call, req->n_tags, req->tags);

    if (st == KL_OK && !req->set_tags && req->n_tags != 0) {
        st = kl_call_field(call, KL_INVALID_ARGUMENT, "tags", "only together with set_tags");
    }
    if (st == KL_OK) {
        st = check_retention(call, req->name, req->retention_days);
    }
    if (st != KL_OK) {
        return st;
    }
    kl_tag_list_fill(&tags, req->n_tags, req->tags);
    update.name = req->name;
    update.set_tags = req->set_tags;
    update.n_tags = req->n_tags;
    update.tags = tags.ptrs;
    update.enable_purge_protection = req->enable_purge_protection;
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_UPDATE;
    command.vault_update = &update;
    return kl_plan_propose(call, &command, false, changed, plan);
}

enum kl_status kl_plan_vault_delete(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultDeleteRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultDelete op = KLUIS__LOG__VAULT_DELETE__INIT;

    op.name = req->name;
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_DELETE;
    command.vault_delete = &op;
    return kl_plan_propose(call, &command, false, changed, plan);
}

enum kl_status kl_plan_vault_recover(struct kl_call *call, struct kl_plan *plan)
{
    const Kluis__V1__VaultRecoverRequest *req = (const void *)call->request;
    Kluis__Log__Command command = KLUIS__LOG__COMMAND__INIT;
    Kluis__Log__VaultRecover op = KLUIS__LOG__VAULT_RECOVER__INIT;

    op.name = req->name;
    command.op_case = KLUIS__LOG__COMMAND__OP_VAULT_RECOVER;
    command.vault_recover = &op;
    return kl_plan_propose(call, &command, false, changed, plan);
}
