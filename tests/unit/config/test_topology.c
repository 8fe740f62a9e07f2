/* Regions in the configuration, and what follows from them. */
#include "tests/lib/test.h"

#include "common/buf.h"
#include "server/topology.h"

#include <string.h>

#define CLUSTER                                                                                    \
    "[cluster]\nname = c\ngeography = g\nsubscription = 0A000000-0000-4000-8000-000000000001\n"
#define THIS(node)                                                                                 \
    "[this]\nnode = " node "\ndata_dir = /d\nca_file = /ca\ncert_file = /crt\nkey_file = /key\n"
#define SEAL "seal_file = /seal\n"
#define NODE(id, region)                                                                           \
    "[node n" id "]\nid = " id "\nregion = " region "\nclient_address = 127.0.0.1:1" id            \
    "\npeer_address = 127.0.0.1:2" id "\n"
#define WITNESS   "witness = yes\n"
#define PRINCIPAL "[principal ops]\ntoken_sha256 = " DIGEST "\nrights = *\n"
#define DIGEST    "00000000000000000000000000000000000000000000000000000000000000aa"
#define PAIR      "[region west]\npair = east\n[region east]\npair = west\n"
#define NODES     NODE("1", "west") NODE("2", "west") NODE("3", "east") NODE("4", "east")
#define FIVE      PAIR "[region hill]\n" NODES NODE("5", "hill") WITNESS

static const uint8_t vault[KL_ID_LEN] = {0x12, 0x35};

static const struct kl_config *parse(const char *text)
{
    static struct kl_config out;
    char err[1024] = "";

    if (kl_config_parse("f", text, &out, err, sizeof err) != KL_OK) {
        fail_msg("%s", err);
    }
    return &out;
}

static void refuses(const char *text, const char *words)
{
    static struct kl_config out;
    char err[1024] = "";

    CHECK_EQ(kl_config_parse("f", text, &out, err, sizeof err), KL_INVALID_ARGUMENT);
    if (strstr(err, words) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err, words);
    }
}

struct lines {
    unsigned n;
    char all[2048];
};

static void note(void *arg, const char *line)
{
    struct lines *l = arg;

    l->n++;
    (void)snprintf(l->all + strlen(l->all), sizeof l->all - strlen(l->all), "%s", line);
}

static struct lines warnings(const struct kl_config *c)
{
    struct lines l = {0};

    kl_topology_warn(c, note, &l);
    return l;
}

/* Two regions, each mirrored to the other, and a witness: two groups of five, nothing to warn of. */
TEST(topology, pair_and_witness)
{
    const struct kl_config *c = parse(CLUSTER THIS("n1") SEAL FIVE PRINCIPAL);
    const char *locations[KL_REGIONS_MAX];
    uint16_t groups[KL_GROUPS_MAX];

    CHECK_EQ(kl_topology_groups(c, groups), 3);
    CHECK(groups[0] == 0 && groups[1] == 1 && groups[2] == 2);
    CHECK_EQ(kl_topology_locations(c, locations), 2);
    CHECK_STR(locations[0], "west");
    CHECK_STR(locations[1], "east");
    CHECK_STR(kl_topology_home(c, 0)->name, "west");
    CHECK_STR(kl_topology_home(c, 2)->name, "east");
    CHECK_STR(kl_topology_mirror(c, 2)->name, "west");
    CHECK(kl_topology_mirror(c, 0) == NULL);
    CHECK(kl_topology_home(c, 3) == NULL);
    CHECK(kl_topology_home(c, 17) == NULL);
    CHECK_EQ(kl_topology_place(c, "east", vault), 2);
    CHECK_EQ(kl_topology_place(c, "hill", vault), 0);
    CHECK_EQ(kl_topology_place(c, "moon", vault), 0);
    CHECK(kl_topology_votes(c, 1, "west", false) && kl_topology_votes(c, 1, "east", false));
    CHECK(kl_topology_votes(c, 1, "hill", true) && kl_topology_votes(c, 0, "hill", true));
    CHECK_EQ(kl_topology_distance(c, 1, "west", false), KL_NODE_HOME);
    CHECK_EQ(kl_topology_distance(c, 2, "west", false), KL_NODE_PAIR);
    CHECK_EQ(kl_topology_distance(c, 2, "hill", true), KL_NODE_WITNESS);
    CHECK_EQ(kl_topology_distance(c, 0, "east", false), KL_NODE_PAIR);
    CHECK_EQ(warnings(c).n, 0);
}

/* A third region that is nobody's pair votes only on its own vaults and on the directory. */
TEST(topology, lone_region)
{
    const struct kl_config *c =
        parse(CLUSTER THIS("n1") SEAL FIVE "[region isle]\n" NODE("6", "isle") PRINCIPAL);
    struct lines l = warnings(c);
    uint16_t groups[KL_GROUPS_MAX];

    CHECK_EQ(kl_topology_groups(c, groups), 4);
    CHECK_EQ(groups[3], 4); /* hill, the third region, has no vaults */
    CHECK(!kl_topology_votes(c, 1, "isle", false) && !kl_topology_votes(c, 4, "west", false));
    CHECK(kl_topology_votes(c, 4, "isle", false) && kl_topology_votes(c, 0, "isle", false));
    CHECK_EQ(l.n, 1);
    CHECK(strstr(l.all, "isle has no pair") != NULL);
}

/* Shards spread vaults by id; their ids leave room for more regions. */
TEST(topology, shards)
{
    const struct kl_config *c =
        parse(CLUSTER THIS("n1") SEAL "[region west]\npair = east\n"
                                      "shards = 3\n"
                                      "[region east]\npair = west\n" NODES PRINCIPAL);
    unsigned hits[3] = {0};
    uint16_t groups[KL_GROUPS_MAX];

    CHECK_EQ(kl_topology_groups(c, groups), 5);
    CHECK(groups[1] == 1 && groups[2] == 2 && groups[3] == 17 && groups[4] == 33);
    CHECK_STR(kl_topology_home(c, 33)->name, "west");
    for (unsigned i = 0; i < 300; i++) {
        const uint8_t id[KL_ID_LEN] = {(uint8_t)(i >> 8), (uint8_t)i};
        uint16_t group = kl_topology_place(c, "west", id);

        CHECK_EQ(group % 16, 1);
        hits[group / 16]++;
    }
    CHECK(hits[0] == 100 && hits[1] == 100 && hits[2] == 100);
}

/* Without sections every region stands for itself. */
TEST(topology, no_sections)
{
    const struct kl_config *c = parse(CLUSTER THIS("n1") SEAL NODES PRINCIPAL);
    struct lines l = warnings(c);

    CHECK_EQ(c->regions_n, 2);
    CHECK_STR(c->regions[1].geography, "g");
    CHECK(!kl_topology_votes(c, 1, "east", false));
    CHECK_EQ(l.n, 2);
    l = warnings(parse(CLUSTER THIS("n1") SEAL NODE("1", "west") NODE("2", "west") PRINCIPAL));
    CHECK_EQ(l.n, 0);
}

/* Two regions alone cannot fail over: said for each that holds half of the voters. */
TEST(topology, no_third_site)
{
    struct lines l = warnings(parse(CLUSTER THIS("n1") SEAL PAIR NODES PRINCIPAL));

    CHECK_EQ(l.n, 2);
    CHECK(strstr(l.all, "region west holds 2 of the 4 voters") != NULL);
    CHECK(strstr(l.all, "add a witness in a third site") != NULL);
    l = warnings(parse(CLUSTER THIS("n1") SEAL PAIR NODES NODE("5", "west") PRINCIPAL));
    CHECK_EQ(l.n, 1);
    CHECK(strstr(l.all, "region west holds 3 of the 5") != NULL);
}

TEST(topology, pairs_are_checked)
{
    refuses(CLUSTER THIS("n1") SEAL "[region west]\npair = east\n[region east]\n" NODES PRINCIPAL,
            "f:12: pair: region west: a pair is mutual: [region east] must have pair = west");
    refuses(CLUSTER THIS("n1") SEAL "[region west]\npair = moon\n[region east]\n" NODES PRINCIPAL,
            "its pair moon is none of the [region NAME] sections");
    refuses(CLUSTER THIS("n1") SEAL "[region west]\npair = west\n[region east]\n" NODES PRINCIPAL,
            "cannot be its own pair");
    refuses(CLUSTER THIS("n1") SEAL PAIR "geography = other\n" NODES PRINCIPAL,
            "a pair is in one geography, but east is in other and this region in g");
    refuses(CLUSTER THIS("n1") SEAL "[region west]\n" NODES PRINCIPAL,
            "east of node n3 is none of the [region NAME] sections");
    refuses(CLUSTER THIS("n1") SEAL PAIR "[region moon]\n" NODES PRINCIPAL,
            "region moon: no [node NAME] is in it");
    refuses(CLUSTER THIS("n1") SEAL PAIR "[region west]\n" NODES PRINCIPAL, "stands twice");
    refuses(CLUSTER THIS("n1") SEAL "[region we st]\n" NODES PRINCIPAL, "the name of a region is");
    refuses(CLUSTER THIS("n1") SEAL "[region west]\nshards = 16\n" NODES PRINCIPAL,
            "shards: \"16\" is not allowed: 1 to 15");
}

TEST(topology, witnesses_are_checked)
{
    refuses(CLUSTER THIS("n1") SEAL PAIR NODES WITNESS PRINCIPAL, "stands in a site of its own");
    refuses(CLUSTER THIS("n5") SEAL FIVE PRINCIPAL,
            "seal_file: node n5 is a witness: it must not hold the key");
    refuses(CLUSTER THIS("n1") FIVE PRINCIPAL, "seal_file: is missing in [this]");
    refuses(CLUSTER THIS("n1") NODE("1", "west") WITNESS PRINCIPAL, "all nodes are witnesses");
    CHECK_STR(parse(CLUSTER THIS("n5") FIVE PRINCIPAL)->seal_file, "");
}
