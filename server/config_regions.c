/* What must hold between the regions and the nodes of a configuration. */
#include "server/config_parse.h"

#include <stdio.h>
#include <string.h>

static struct kl_config_region *find(struct kl_config *c, const char *name)
{
    for (size_t i = 0; i < c->regions_n; i++) {
        if (strcmp(c->regions[i].name, name) == 0) {
            return &c->regions[i];
        }
    }
    return NULL;
}

/* How many nodes of the region are witnesses, or are not. */
static unsigned count(const struct kl_config *c, const char *region, bool witness)
{
    unsigned n = 0;

    for (size_t i = 0; i < c->nodes_n; i++) {
        n += c->nodes[i].witness == witness && strcmp(c->nodes[i].region, region) == 0;
    }
    return n;
}

static enum kl_status bad_region(struct kl_config_parser *p, const struct kl_config_region *r,
                                 const char *key, const char *why)
{
    p->line = r->line;
    return kl_config_bad(p, key, "region %s: %s", r->name, why);
}

/* Without [region] sections the regions are those that the nodes name, none with a pair. */
static enum kl_status name_regions(struct kl_config_parser *p)
{
    struct kl_config *c = p->config;
    bool sections = c->regions_n != 0;

    for (size_t i = 0; i < c->nodes_n; i++) {
        const struct kl_config_node *n = &c->nodes[i];

        if (find(c, n->region) != NULL) {
            continue;
        }
        p->line = n->line;
        if (sections) {
            return kl_config_bad(p, "region", "%s of node %s is none of the [region NAME] sections",
                                 n->region, n->name);
        }
        if (c->regions_n == KL_REGIONS_MAX) {
            return kl_config_bad(p, "region", "at most %d regions are allowed", KL_REGIONS_MAX);
        }
        c->regions[c->regions_n] = (struct kl_config_region){.shards = 1};
        memcpy(c->regions[c->regions_n].name, n->region, sizeof n->region);
        c->regions_n++;
    }
    for (size_t i = 0; i < c->regions_n; i++) {
        struct kl_config_region *r = &c->regions[i];

        if (r->geography[0] == '\0') {
            memcpy(r->geography, c->geography, sizeof r->geography);
        }
    }
    return KL_OK;
}

static enum kl_status check_pair(struct kl_config_parser *p, const struct kl_config_region *r)
{
    const struct kl_config_region *pair = find(p->config, r->pair);
    char why[256];

    if (pair == NULL) {
        (void)snprintf(why, sizeof why, "its pair %s is none of the [region NAME] sections",
                       r->pair);
    } else if (pair == r) {
        (void)snprintf(why, sizeof why, "cannot be its own pair");
    } else if (strcmp(pair->pair, r->name) != 0) {
        (void)snprintf(why, sizeof why, "a pair is mutual: [region %s] must have pair = %s",
                       pair->name, r->name);
    } else if (strcmp(pair->geography, r->geography) != 0) {
        (void)snprintf(why, sizeof why,
                       "a pair is in one geography, but %s is in %s and this region in %s",
                       pair->name, pair->geography, r->geography);
    } else {
        return KL_OK;
    }
    return bad_region(p, r, "pair", why);
}

static enum kl_status check_region(struct kl_config_parser *p, const struct kl_config_region *r)
{
    unsigned witnesses = count(p->config, r->name, true);
    unsigned others = count(p->config, r->name, false);

    if (witnesses + others == 0) {
        return bad_region(p, r, "region", "no [node NAME] is in it");
    }
    if (witnesses != 0 && others != 0) {
        return bad_region(p, r, "witness",
                          "a witness stands in a site of its own, or it falls together with what "
                          "it is to decide about; other nodes are in this region");
    }
    if (r->pair[0] == '\0') {
        return KL_OK;
    }
    return witnesses != 0
               ? bad_region(p, r, "pair", "a site of witnesses has no vaults and no pair")
               : check_pair(p, r);
}

enum kl_status kl_config_check_regions(struct kl_config_parser *p)
{
    const struct kl_config *c = p->config;
    enum kl_status st = name_regions(p);
    bool homes = false;

    for (size_t i = 0; st == KL_OK && i < c->regions_n; i++) {
        st = check_region(p, &c->regions[i]);
        homes = homes || count(c, c->regions[i].name, false) != 0;
    }
    if (st == KL_OK && !homes) {
        return kl_config_bad(p, "witness", "all nodes are witnesses: none could serve a vault");
    }
    return st;
}
