/* Which group does a call belong to? */
#include "server/rpc/call.h"

#include "common/names.h"

#include <stdio.h>

/* ---- the cache of vault names ---- */

void kl_vault_cache_init(struct kl_vault_cache *c)
{
    (void)pthread_mutex_init(&c->lock, NULL);
}

void kl_vault_cache_done(struct kl_vault_cache *c)
{
    (void)pthread_mutex_destroy(&c->lock);
}

static size_t slot_of(const char *folded)
{
    uint32_t h = 2166136261u; /* FNV-1a */

    for (; *folded != 0; folded++) {
        h = (h ^ (unsigned char)*folded) * 16777619u;
    }
    return (h ^ h >> 16) % KL_VAULT_CACHE_SLOTS;
}

static bool cache_get(struct kl_vault_cache *c, const char *folded, uint16_t *group)
{
    size_t i = slot_of(folded);
    bool found;

    (void)pthread_mutex_lock(&c->lock);
    found = strcmp(c->slots[i].name, folded) == 0;
    *group = c->slots[i].group;
    (void)pthread_mutex_unlock(&c->lock);
    return found;
}

static void cache_put(struct kl_vault_cache *c, const char *folded, uint16_t group)
{
    size_t i = slot_of(folded);

    (void)pthread_mutex_lock(&c->lock);
    (void)snprintf(c->slots[i].name, sizeof c->slots[i].name, "%s", folded);
    c->slots[i].group = group;
    (void)pthread_mutex_unlock(&c->lock);
}

/* ---- groups ---- */

uint64_t kl_find_member(const struct kl_node_view *node, uint16_t id)
{
    const char *home = node->placement(node->ctx, id).home;
    uint64_t best = 0;
    int best_rank = -1;

    for (size_t i = 0; i < node->nodes_n; i++) {
        const struct kl_node_info *n = &node->nodes[i];
        bool at_home = home != NULL && n->region != NULL && strcmp(n->region, home) == 0;
        int rank;

        if (n->witness || n->node_id == node->node_id ||
            (atomic_load(&n->marks) & KL_NODE_REMOVED) != 0 ||
            !node->votes(node->ctx, id, n->node_id)) {
            continue;
        }
        rank = (node->connected(node->ctx, n->node_id) ? 2 : 0) + (at_home ? 1 : 0);
        if (rank > best_rank) {
            best = n->node_id;
            best_rank = rank;
        }
    }
    return best;
}

/* A group this node holds, unless it is being opened or closed; or one that is held elsewhere. */
static enum kl_status take_group(struct kl_work *w, uint16_t id)
{
    const struct kl_node_view *node = w->d->o.node;

    w->call.group = node->group(node->ctx, id);
    w->hint = w->call.group;
    if (w->call.group != NULL) {
        return KL_OK;
    }
    if (node->votes(node->ctx, id, node->node_id)) {
        return KL_UNAVAILABLE;
    }
    w->elsewhere = true;
    w->elsewhere_id = id;
    return KL_NOT_LEADER;
}

static enum kl_status claim_group(const struct kl_view *view, const char *name, uint16_t *group)
{
    Kluis__Store__ClaimRecord *claim = NULL;
    enum kl_status st = kl_core_claim(view, name, &claim);

    if (st == KL_OK) {
        *group = (uint16_t)claim->group;
        kl_pb_wipe_free(&claim->base, &kl_pb_allocator);
    }
    return st;
}

/* The directory as this replica has it; when it does not know the name, as the call wants to read. */
static enum kl_status ask_directory(struct kl_work *w, const char *name, uint16_t *group)
{
    const struct kl_node_view *node = w->d->o.node;
    struct kl_group *directory = node->group(node->ctx, node->groups[0]);
    struct kl_read read;
    enum kl_status ended;
    enum kl_status st;

    if (directory == NULL) {
        return KL_UNAVAILABLE;
    }
    w->hint = directory;
    st = kl_group_read_local(directory, &read);
    if (st != KL_OK) {
        return st;
    }
    st = claim_group(&read.view, name, group);
    kl_group_read_local_end(directory, &read);
    if (st != KL_NOT_FOUND && st != KL_VAULT_NOT_FOUND) {
        return st;
    }
    st = kl_read_open(w, directory, &read);
    if (st != KL_OK) {
        return st; /* NOT_LEADER: the directory's leader knows */
    }
    st = claim_group(&read.view, name, group);
    ended = kl_read_close(w, directory, &read);
    if (ended != KL_OK) {
        return ended;
    }
    return st == KL_NOT_FOUND || st == KL_VAULT_NOT_FOUND
               ? kl_call_field(&w->call, KL_VAULT_NOT_FOUND, w->call.route->key_field,
                               "no vault has this name")
               : st;
}

static enum kl_status find_vault(struct kl_work *w, const char *name, bool fresh)
{
    char folded[KL_VAULT_NAME_MAX + 1];
    const char *limit = NULL;
    uint16_t group = 0;
    enum kl_status st = kl_vault_name_check(name, &limit);

    if (st != KL_OK) {
        return kl_call_field(&w->call, st, w->call.route->key_field, limit);
    }
    (void)snprintf(w->call.subject, sizeof w->call.subject, "%s", name);
    kl_name_fold(name, folded, sizeof folded);
    w->cached = !fresh && cache_get(&w->d->cache, folded, &group);
    if (!w->cached) {
        st = ask_directory(w, name, &group);
        if (st != KL_OK) {
            return st;
        }
        cache_put(&w->d->cache, folded, group);
    }
    return take_group(w, group);
}

static enum kl_status find_numbered(struct kl_work *w, uint32_t id)
{
    const struct kl_node_view *node = w->d->o.node;

    for (size_t i = 0; i < node->groups_n; i++) {
        if (node->groups[i] == id) {
            return take_group(w, (uint16_t)id);
        }
    }
    return kl_call_field(&w->call, KL_NOT_FOUND, w->call.route->key_field,
                         "a group of this cluster");
}

enum kl_status kl_find_group(struct kl_work *w, bool fresh)
{
    const struct kl_node_view *node = w->d->o.node;
    const struct kl_route *route = w->call.route;
    const uint8_t *key = (const uint8_t *)w->request + route->key_at;
    const char *name = NULL;
    uint32_t number = 0;
    uint16_t id = 0;
    enum kl_status st;

    switch (route->scope) {
    case KL_SCOPE_NODE:
        return KL_OK;
    case KL_SCOPE_DIRECTORY:
        return take_group(w, node->groups[0]);
    case KL_SCOPE_GROUP:
        memcpy(&number, key, sizeof number);
        return find_numbered(w, number);
    case KL_SCOPE_VAULT:
        memcpy(&name, key, sizeof name);
        return find_vault(w, name, fresh);
    case KL_SCOPE_VAULTS:
        memcpy(&name, key, sizeof name);
        st = kl_vaults_page_group(route, name, node, &id);
        return st == KL_OK ? take_group(w, id)
                           : kl_call_field(&w->call, st, route->key_field,
                                           "a token from the last page of this list");
    }
    return KL_INTERNAL;
}
