/*
 * Who belongs to the cluster, while it runs. The directory says; here it is taken over into the node's
 * table, brought about in the groups that this node leads, and asked before somebody goes: does every
 * group keep a majority that is connected and caught up, and somebody who can lead?
 */
#include "server/node_parts.h"

#include "common/alloc.h"
#include "server/runtime/log.h"

#include <raft.h>
#include <stdio.h>
#include <string.h>

void kl_node_describe(struct kl_node *node, size_t i)
{
    const struct kl_config_node *n = &node->config.nodes[i];
    struct kl_node_info *info = &node->infos[i];

    info->node_id = n->id;
    info->name = n->name;
    info->region = n->region;
    info->client_address = n->client_address;
    info->witness = n->witness;
}

/* ---- learning ---- */

static void copy_text(char *to, size_t len, const char *from)
{
    (void)snprintf(to, len, "%s", from);
}

/* A node that no configuration told of: into the table, then among the peers. */
static void learn_new(struct kl_node *node, const Kluis__Store__NodeRecord *record)
{
    const size_t i = node->view.nodes_n;
    struct kl_config_node *n = &node->config.nodes[i];

    if (i == KL_NODES_MAX || record->name[0] == 0) {
        return;
    }
    n->id = record->node_id;
    copy_text(n->name, sizeof n->name, record->name);
    copy_text(n->region, sizeof n->region, record->region);
    copy_text(n->client_address, sizeof n->client_address, record->client_address);
    copy_text(n->peer_address, sizeof n->peer_address, record->peer_address);
    n->witness = record->witness;
    kl_node_describe(node, i);
    node->view.nodes_n = i + 1;
    if (kl_peers_add_node(node->peers, n->id, n->peer_address) != KL_OK) {
        kl_log(KL_LOG_ERROR, "node", "cannot note a new node node=%llu", (unsigned long long)n->id);
    }
    kl_log(KL_LOG_INFO, "node", "new node node=%llu name=%s region=%s address=%s",
           (unsigned long long)n->id, n->name, n->region, n->peer_address);
}

static bool is_member_somewhere(struct kl_node *node, uint64_t id)
{
    struct kl_group_status status;

    for (size_t g = 0; g < node->groups_n; g++) {
        struct kl_host_uv *host = atomic_load(&node->hosts[g]);

        if (host == NULL) {
            continue;
        }
        kl_group_status(kl_host_uv_group(host), &status);
        for (size_t i = 0; i < status.members_n; i++) {
            if (status.members[i].node_id == id) {
                return true;
            }
        }
    }
    return false;
}

static bool learn_one(void *arg, const Kluis__Store__NodeRecord *record)
{
    struct kl_node *node = arg;
    unsigned marks = (record->standby ? (unsigned)KL_NODE_STANDBY : 0) |
                     (record->drained ? (unsigned)KL_NODE_DRAINED : 0) |
                     (record->removed ? (unsigned)KL_NODE_REMOVED : 0);
    int i = kl_node_position(node, record->node_id);

    if (i < 0 && !record->removed) {
        learn_new(node, record);
        i = kl_node_position(node, record->node_id);
    }
    if (i < 0) {
        return true;
    }
    node->infos[i].marks = marks;
    /* It goes on to take part until it is in no group any more. */
    if (record->removed && record->node_id != node->view.node_id &&
        kl_peers_connected(node->peers, record->node_id) &&
        !is_member_somewhere(node, record->node_id)) {
        kl_log(KL_LOG_INFO, "node", "removed node=%llu", (unsigned long long)record->node_id);
        kl_peers_drop_node(node->peers, record->node_id);
    }
    return true;
}

/* Whose clocks count: those of all nodes but the removed ones. */
static void learn_clocks(struct kl_node *node)
{
    const size_t known = node->view.nodes_n;
    uint64_t ids[KL_NODES_MAX];
    size_t n = 0;

    for (size_t i = 0; i < known; i++) {
        if ((node->infos[i].marks & KL_NODE_REMOVED) == 0 ||
            node->infos[i].node_id == node->view.node_id) {
            ids[n++] = node->infos[i].node_id;
        }
    }
    kl_node_clock_members(node->clock, ids, n);
}

void kl_node_learn(struct kl_node *node, const struct kl_view *directory)
{
    if (kl_core_nodes(directory, learn_one, node) != KL_OK) {
        kl_log(KL_LOG_WARN, "node", "the nodes in the directory cannot be read");
    }
    learn_clocks(node);
}

/* ---- bringing it about ---- */

static bool caught_up(struct kl_node *node, const struct kl_group_status *status,
                      const struct kl_group_member *m)
{
    return m->node_id == node->view.node_id ||
           (kl_peers_connected(node->peers, m->node_id) &&
            m->match_index + KL_CATCH_UP_ENTRIES >= status->last_index);
}

/* Would the group still have a majority that is here and caught up without that member? */
static bool can_spare(struct kl_node *node, const struct kl_group_status *status, uint64_t node_id)
{
    size_t left = 0;
    size_t live = 0;

    for (size_t i = 0; i < status->members_n; i++) {
        const struct kl_group_member *m = &status->members[i];

        if (m->role == RAFT_VOTER && m->node_id != node_id) {
            left++;
            live += caught_up(node, status, m);
        }
    }
    return live > left / 2;
}

static void change_done(void *arg, enum kl_status status)
{
    struct kl_member_work *w = arg;

    if (status != KL_OK) {
        kl_log(KL_LOG_WARN, "steward", "membership change failed group=%u status=%s",
               (unsigned)w->group, kl_status_name(status));
    }
    atomic_store(&w->changing, false);
}

static void change(struct kl_member_work *w, struct kl_group *group, enum kl_member_change what,
                   uint64_t node_id, const char *address)
{
    static const char *const names[] = {[KL_MEMBER_ADD] = "add",
                                        [KL_MEMBER_STANDBY] = "standby",
                                        [KL_MEMBER_VOTER] = "voter",
                                        [KL_MEMBER_SPARE] = "spare",
                                        [KL_MEMBER_REMOVE] = "remove"};

    if (atomic_exchange(&w->changing, true)) {
        return;
    }
    kl_log(KL_LOG_INFO, "steward", "membership group=%u change=%s node=%llu", (unsigned)w->group,
           names[what], (unsigned long long)node_id);
    kl_group_change(group, what, node_id, address, change_done, w);
}

/* What a group makes of a node. */
struct place {
    uint64_t node_id;
    char address[KL_MEMBER_ADDRESS_LEN];
    bool votes;     /* it is to be a member here */
    bool standby;   /* but not to vote yet */
    bool connected; /* with the registered data directory */
};

/* One step towards: the node is a voter under its address; or, when it has no place here any more, no
 * member at all. Only a node that is here goes up a step: one that is away would be a voter that does
 * not vote. And none goes whom the others cannot spare. */
static void bring_member(struct kl_node *node, struct kl_member_work *w, struct kl_group *group,
                         const struct kl_group_status *status, const struct place *p)
{
    const struct kl_group_member *m = NULL;
    const uint64_t node_id = p->node_id;
    const char *address = p->address;

    for (size_t i = 0; i < status->members_n; i++) {
        if (status->members[i].node_id == node_id) {
            m = &status->members[i];
        }
    }
    if (m != NULL && (!p->votes || strcmp(m->address, address) != 0)) {
        if (m->role != RAFT_VOTER || can_spare(node, status, node_id)) {
            change(w, group, KL_MEMBER_REMOVE, node_id, m->address);
        }
    } else if (!p->votes || !p->connected) {
        return;
    } else if (m == NULL) {
        change(w, group, KL_MEMBER_ADD, node_id, address);
    } else if (m->role == RAFT_SPARE) {
        change(w, group, KL_MEMBER_STANDBY, node_id, address);
    } else if (m->role == RAFT_STANDBY && !p->standby && m->match_index != 0 &&
               m->match_index + KL_CATCH_UP_ENTRIES >= status->last_index) {
        change(w, group, KL_MEMBER_VOTER, node_id, address);
    }
}

void kl_node_reconcile(struct kl_node *node, struct kl_group *group,
                       const struct kl_group_status *status, struct kl_member_work *w)
{
    struct kl_host_uv *directory = kl_node_host(node, 0);
    struct kl_read read;

    if (directory == NULL || atomic_load(&w->changing) ||
        kl_group_read_local(kl_host_uv_group(directory), &read) != KL_OK) {
        return;
    }
    for (size_t i = 0; i < node->view.nodes_n && !atomic_load(&w->changing); i++) {
        Kluis__Store__NodeRecord *record = NULL;
        struct place p = {.node_id = node->infos[i].node_id};

        if (p.node_id != node->view.node_id &&
            kl_core_node(&read.view, p.node_id, &record) == KL_OK && record->data_uuid.len != 0) {
            kl_node_member_address(p.node_id, record->generation, p.address);
            p.votes = node->view.votes(node, w->group, p.node_id);
            p.standby = record->standby;
            p.connected = kl_peers_connected(node->peers, p.node_id);
            bring_member(node, w, group, status, &p);
        }
        kl_pb_wipe_free((ProtobufCMessage *)record, &kl_pb_allocator);
    }
    kl_group_read_local_end(kl_host_uv_group(directory), &read);
}

/* ---- who may come, and go ---- */

enum kl_status kl_node_may_add(void *ctx, const char *region, bool witness, char *why,
                               size_t why_len)
{
    const struct kl_node *node = ctx;
    bool known = false;
    bool home = false;

    for (size_t i = 0; i < node->config.regions_n; i++) {
        known = known || strcmp(node->config.regions[i].name, region) == 0;
    }
    for (size_t i = 0; i < node->view.locations_n; i++) {
        home = home || strcmp(node->locations[i], region) == 0;
    }
    if (!known) {
        (void)snprintf(why, why_len, "a region of the configuration");
        return KL_INVALID_ARGUMENT;
    }
    if (home == witness) {
        (void)snprintf(why, why_len, "%s is %sa home of vaults: it takes %s", region,
                       home ? "" : "not ", home ? "no witness" : "witnesses only");
        return KL_INVALID_ARGUMENT;
    }
    return KL_OK;
}

/* The voters that a group would be left with. */
struct left {
    size_t voters, live; /* live: connected, and caught up as far as this node can tell */
    size_t leaders;      /* live ones that may lead */
    bool concerned;      /* somebody would go */
};

static bool among(const uint64_t *ids, size_t n, uint64_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

static bool is_live(struct kl_node *node, const struct kl_group_status *status, uint64_t id)
{
    if (id != node->view.node_id && !kl_peers_connected(node->peers, id)) {
        return false;
    }
    for (size_t i = 0; i < status->members_n; i++) {
        const struct kl_group_member *m = &status->members[i];

        if (m->node_id == id) {
            return m->role == RAFT_VOTER &&
                   (status->state != RAFT_LEADER || caught_up(node, status, m));
        }
    }
    return status->members_n == 0; /* not a group of this node: nothing is known against it */
}

static struct left count_left(struct kl_node *node, uint16_t group, const uint64_t *ids, size_t n)
{
    struct kl_host_uv *host = kl_node_host(node, group);
    struct kl_group_status status = {.id = group};
    struct left out = {0};
    const size_t known = node->view.nodes_n;

    if (host != NULL) {
        kl_group_status(kl_host_uv_group(host), &status);
    }
    for (size_t i = 0; i < known; i++) {
        const struct kl_node_info *info = &node->infos[i];
        const unsigned marks = info->marks;

        if ((marks & KL_NODE_STANDBY) != 0 || !node->view.votes(node, group, info->node_id)) {
            continue;
        }
        if (among(ids, n, info->node_id)) {
            out.concerned = true;
            continue;
        }
        out.voters++;
        if (is_live(node, &status, info->node_id)) {
            out.live++;
            out.leaders += !info->witness && (marks & KL_NODE_DRAINED) == 0;
        }
    }
    return out;
}

enum kl_status kl_node_may_leave(void *ctx, const uint64_t *ids, size_t n, bool for_good, char *why,
                                 size_t why_len)
{
    struct kl_node *node = ctx;

    for (size_t g = 0; g < node->groups_n; g++) {
        const struct left left = count_left(node, node->groups[g], ids, n);

        if (!left.concerned) {
            continue;
        }
        if (for_good && left.live <= left.voters / 2) {
            (void)snprintf(why, why_len,
                           "group %u would keep %zu voters, of which %zu are connected and caught "
                           "up: no majority",
                           (unsigned)node->groups[g], left.voters, left.live);
            return KL_QUORUM;
        }
        if (left.leaders == 0) {
            (void)snprintf(why, why_len,
                           "group %u would have nobody to lead it: no other node that may is "
                           "connected and caught up",
                           (unsigned)node->groups[g]);
            return KL_QUORUM;
        }
    }
    return KL_OK;
}
