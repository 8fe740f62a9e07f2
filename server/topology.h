/*
 * Which group holds the vaults of which region, and who votes there. A pure function of the
 * configuration, the same on every node.
 *
 *   - Group 0 is the directory: every node votes. It is at home in the first home region.
 *   - A home region (one with nodes that are not witnesses) has `shards` vault groups. Their voters
 *     are its nodes, those of its pair, and every witness.
 *   - Group ids do not move when regions are added behind the others or a region gets more shards:
 *     shard * KL_REGIONS_MAX + place of the region + 1.
 */
#ifndef KL_TOPOLOGY_H
#define KL_TOPOLOGY_H

#include "server/config.h"

/* How far a node is from a group's home. Leadership belongs to the smallest. */
enum kl_topology_distance {
    KL_NODE_HOME = 0,
    KL_NODE_PAIR = 1, /* of the directory: any other region */
    KL_NODE_WITNESS = 2,
};

/* The ids of all groups in rising order, the directory first; returns how many. */
size_t kl_topology_groups(const struct kl_config *config, uint16_t groups[KL_GROUPS_MAX]);
/* Home region of a group; NULL: there is no such group. Borrowed from config. */
const struct kl_config_region *kl_topology_home(const struct kl_config *config, uint16_t group);
/* Its mirror; NULL: the home region has no pair, or the group is the directory. */
const struct kl_config_region *kl_topology_mirror(const struct kl_config *config, uint16_t group);
/* Regions that vaults may be made in, in order; returns how many. Borrowed from config. */
size_t kl_topology_locations(const struct kl_config *config, const char *out[KL_REGIONS_MAX]);
/* The group for a new vault; 0: the region is no home of vaults. */
uint16_t kl_topology_place(const struct kl_config *config, const char *region,
                           const uint8_t vault_id[KL_ID_LEN]);
/* Does a node with this region and role vote in the group? */
bool kl_topology_votes(const struct kl_config *config, uint16_t group, const char *region,
                       bool witness);
enum kl_topology_distance kl_topology_distance(const struct kl_config *config, uint16_t group,
                                               const char *region, bool witness);

/* What will not fail over by itself with this configuration, a line for people each; fn is called
 * for every warning. */
void kl_topology_warn(const struct kl_config *config, void (*fn)(void *arg, const char *line),
                      void *arg);

#endif
