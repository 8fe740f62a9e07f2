#include "server/topology.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static_assert(KL_REGIONS_MAX * KL_SHARDS_MAX + 1 <= KL_GROUPS_MAX, "every group has an id");

static bool has_vaults(const struct kl_config *c, const struct kl_config_region *r)
{
    for (size_t i = 0; i < c->nodes_n; i++) {
        if (!c->nodes[i].witness && strcmp(c->nodes[i].region, r->name) == 0) {
            return true;
        }
    }
    return false;
}

static const struct kl_config_region *first_home(const struct kl_config *c)
{
    for (size_t i = 0; i < c->regions_n; i++) {
        if (has_vaults(c, &c->regions[i])) {
            return &c->regions[i];
        }
    }
    return NULL;
}

const struct kl_config_region *kl_topology_home(const struct kl_config *c, uint16_t group)
{
    size_t i = (group - 1u) % KL_REGIONS_MAX;
    size_t shard = (group - 1u) / KL_REGIONS_MAX;

    if (group == 0) {
        return first_home(c);
    }
    return i < c->regions_n && shard < c->regions[i].shards && has_vaults(c, &c->regions[i])
               ? &c->regions[i]
               : NULL;
}

const struct kl_config_region *kl_topology_mirror(const struct kl_config *c, uint16_t group)
{
    const struct kl_config_region *home = group == 0 ? NULL : kl_topology_home(c, group);

    for (size_t i = 0; home != NULL && i < c->regions_n; i++) {
        if (strcmp(c->regions[i].name, home->pair) == 0) {
            return &c->regions[i];
        }
    }
    return NULL;
}

size_t kl_topology_groups(const struct kl_config *c, uint16_t groups[KL_GROUPS_MAX])
{
    size_t n = 0;

    groups[n++] = 0;
    for (uint16_t id = 1; id < KL_GROUPS_MAX; id++) {
        if (kl_topology_home(c, id) != NULL) {
            groups[n++] = id;
        }
    }
    return n;
}

size_t kl_topology_locations(const struct kl_config *c, const char *out[KL_REGIONS_MAX])
{
    size_t n = 0;

    for (size_t i = 0; i < c->regions_n; i++) {
        if (has_vaults(c, &c->regions[i])) {
            out[n++] = c->regions[i].name;
        }
    }
    return n;
}

uint16_t kl_topology_place(const struct kl_config *c, const char *region,
                           const uint8_t vault_id[KL_ID_LEN])
{
    for (size_t i = 0; i < c->regions_n; i++) {
        const struct kl_config_region *r = &c->regions[i];
        unsigned drawn = (unsigned)vault_id[0] << 8 | vault_id[1];

        if (strcmp(r->name, region) == 0 && has_vaults(c, r)) {
            return (uint16_t)(drawn % r->shards * KL_REGIONS_MAX + i + 1);
        }
    }
    return 0;
}

bool kl_topology_votes(const struct kl_config *c, uint16_t group, const char *region, bool witness)
{
    const struct kl_config_region *home = kl_topology_home(c, group);

    return home != NULL && (group == 0 || witness || strcmp(region, home->name) == 0 ||
                            strcmp(region, home->pair) == 0);
}

enum kl_topology_distance kl_topology_distance(const struct kl_config *c, uint16_t group,
                                               const char *region, bool witness)
{
    const struct kl_config_region *home = kl_topology_home(c, group);

    if (witness) {
        return KL_NODE_WITNESS;
    }
    return home != NULL && strcmp(region, home->name) == 0 ? KL_NODE_HOME : KL_NODE_PAIR;
}

/* ---- warnings ---- */

/* Voters of the group, and how many of them are in the region. */
static unsigned voters(const struct kl_config *c, uint16_t group, const char *region,
                       unsigned *inside)
{
    unsigned all = 0;

    *inside = 0;
    for (size_t i = 0; i < c->nodes_n; i++) {
        const struct kl_config_node *n = &c->nodes[i];

        if (kl_topology_votes(c, group, n->region, n->witness)) {
            all++;
            *inside += strcmp(n->region, region) == 0;
        }
    }
    return all;
}

/* What happens to the vaults of region i when it is lost; false: nothing that a word is due to. */
static bool without_home(const struct kl_config *c, size_t i, char *line, size_t len)
{
    const struct kl_config_region *r = &c->regions[i];
    unsigned inside = 0;
    unsigned all = voters(c, (uint16_t)(i + 1), r->name, &inside);

    if (!has_vaults(c, r)) {
        return false;
    }
    if (r->pair[0] == '\0') {
        (void)snprintf(line, len,
                       "region %s has no pair: when it is lost its vaults cannot be reached, and "
                       "when its disks are they are lost",
                       r->name);
        return true;
    }
    (void)snprintf(line, len,
                   "region %s holds %u of the %u voters of its vaults: when it is lost its pair %s "
                   "does not take over by itself; add a witness in a third site",
                   r->name, inside, all, r->pair);
    return inside * 2 >= all;
}

void kl_topology_warn(const struct kl_config *c, void (*fn)(void *arg, const char *line), void *arg)
{
    char line[512];

    for (size_t i = 0; i < c->regions_n && c->regions_n > 1; i++) {
        unsigned inside = 0;
        unsigned all = voters(c, 0, c->regions[i].name, &inside);

        if (without_home(c, i, line, sizeof line)) {
            fn(arg, line);
        } else if (inside * 2 >= all) {
            (void)snprintf(
                line, sizeof line,
                "region %s holds %u of the %u voters of the directory: when it is lost no "
                "vault can be made or purged anywhere until it is back",
                c->regions[i].name, inside, all);
            fn(arg, line);
        }
    }
}
