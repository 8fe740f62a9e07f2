/* The drills: what each breaks, and how much that may cost. */
#include "tests/drills/drill.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WEST = 1u << SITE_WEST,
    EAST = 1u << SITE_EAST,
    BOTH = WEST | EAST,
    WAIT_MS = 30000,
    HEAL_MS = 60000,
    HOME_MS = 120000, /* failback_after is 5 s, and up to 16 times that for a home that flaps */
    HOLD_MS = 5000,   /* how long a fault lasts once the rest has got over it */
    PAUSE_MS = 10000,
    /* Limits of the verdicts, in milliseconds. */
    FAILOVER_MS = 5000, /* a leader or a region is gone: writes and reads again */
    HICCUP_MS = 1500,   /* something that does not lead is gone */
    PLANNED_MS = 2000,  /* a step that was asked for; no call fails */
    SLOW_MS = 4000,     /* wires that are slow or lossy */
    NO_CALLS = 0,
    SOME_CALLS = 1000
};

static void wait_writes(struct drill *d, unsigned sites, const char *when)
{
    if (!drill_writes(d, sites, 10, WAIT_MS)) {
        drill_broken(d, "no writes %s", when);
    }
    drill_event(d, "writes %s", when);
}

/* Power fails: nothing leaves the site any more, and then its nodes are gone. */
static void power_off(struct drill *d, unsigned site)
{
    site_dark(site, true);
    for (unsigned n = 0; n < SITE_NODES; n++) {
        if (site_of_node(n) == site) {
            cluster_kill(d->cluster, n);
        }
    }
}

static void power_on(struct drill *d, unsigned site)
{
    drill_event(d, "power is back in %s", site_name(site));
    site_dark(site, false);
    for (unsigned n = 0; n < SITE_NODES; n++) {
        cluster_start(d->cluster, n);
    }
}

static void leader_killed(struct drill *d)
{
    int leader = drill_leader(d, WAIT_MS);

    drill_fault(d, "kill -9 of n%d, which leads", leader + 1);
    cluster_kill(d->cluster, (unsigned)leader);
    wait_writes(d, BOTH, "under another leader");
    harness_sleep_ms(HOLD_MS);
    drill_event(d, "n%d starts again", leader + 1);
    cluster_start(d->cluster, (unsigned)leader);
}

static void region_lost(struct drill *d, unsigned site)
{
    unsigned others = BOTH & ~(1u << site);

    drill_fault(d, "power fails in %s: both nodes", site_name(site));
    power_off(d, site);
    wait_writes(d, others, "from the region that is left");
    harness_sleep_ms(HOLD_MS);
    power_on(d, site);
    wait_writes(d, BOTH, "from both regions");
}

static void home_lost(struct drill *d)
{
    region_lost(d, SITE_WEST);
}

static void pair_lost(struct drill *d)
{
    region_lost(d, SITE_EAST);
}

static void home_cut(struct drill *d)
{
    drill_fault(d, "west is cut off from east and hill; clients go on in both");
    site_dark(SITE_WEST, true);
    wait_writes(d, EAST, "in east");
    harness_sleep_ms(HOLD_MS);
    drill_event(d, "west is connected again");
    site_dark(SITE_WEST, false);
    wait_writes(d, BOTH, "from both regions");
}

static void witness_lost(struct drill *d)
{
    drill_fault(d, "power fails on the hill");
    power_off(d, SITE_HILL);
    harness_sleep_ms(HOLD_MS);
    wait_writes(d, BOTH, "without the witness");
    power_on(d, SITE_HILL);
}

static void link_slow(struct drill *d)
{
    drill_fault(d, "every wire takes 100 ms each way: round trips of 200 ms");
    site_rule("* * delay_us=100000");
    harness_sleep_ms(2 * HOLD_MS);
    wait_writes(d, BOTH, "over slow wires");
    drill_event(d, "wires are as before");
    site_rule("* * delay_us=%u", d->delay_ms * 1000);
}

static void link_lossy(struct drill *d)
{
    drill_fault(d, "every wire loses one packet of twenty");
    site_rule("* * loss_ppm=50000");
    harness_sleep_ms(2 * HOLD_MS);
    wait_writes(d, BOTH, "over lossy wires");
    drill_event(d, "wires are as before");
    site_rule("* * loss_ppm=0");
}

static void link_one_way(struct drill *d)
{
    drill_fault(d, "west still sends, but hears nothing of east and hill");
    site_rule("* west down=1");
    wait_writes(d, EAST, "in east");
    harness_sleep_ms(HOLD_MS);
    drill_event(d, "west hears again");
    site_rule("* west down=0");
    wait_writes(d, BOTH, "from both regions");
}

static void node_paused(struct drill *d)
{
    int leader = drill_leader(d, WAIT_MS);

    drill_fault(d, "n%d, which leads, stands still for 10 s", leader + 1);
    cluster_signal(d->cluster, (unsigned)leader, SIGSTOP);
    harness_sleep_ms(PAUSE_MS);
    drill_event(d, "n%d goes on, and believes it leads", leader + 1);
    cluster_signal(d->cluster, (unsigned)leader, SIGCONT);
    wait_writes(d, BOTH, "from both regions");
}

static void disk_full(struct drill *d)
{
    static const char zeros[65536];
    char ballast[512];
    int leader;
    int fd;

    (void)snprintf(ballast, sizeof ballast, "%s/ballast", d->disk);
    fd = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    drill_fault(d, "the disk of n1, which leads, is full");
    while (fd >= 0 && write(fd, zeros, sizeof zeros) > 0) {
    }
    (void)close(fd);
    harness_sleep_ms(HOLD_MS);
    wait_writes(d, BOTH, "with the disk full");
    leader = drill_leader(d, WAIT_MS);
    if (leader <= 0) {
        drill_broken(d, "n1 leads with a full disk");
    } else {
        drill_event(d, "n%d leads, which has room", leader + 1);
    }
    drill_event(d, "n1 has room again");
    (void)unlink(ballast);
}

static void clocks(struct drill *d, unsigned nodes, const char *what)
{
    drill_fault(d, "+100 days on the clock of %s", what);
    for (unsigned n = 0; n < SITE_NODES; n++) {
        if ((nodes & 1u << n) != 0) {
            cluster_set_clock(d->cluster, n, "+100d");
        }
    }
    harness_sleep_ms(2 * HOLD_MS);
    wait_writes(d, BOTH, "with wrong clocks");
    for (unsigned n = 0; n < SITE_NODES; n++) {
        cluster_set_clock(d->cluster, n, "+0");
    }
    drill_event(d, "clocks are right again");
    harness_sleep_ms(HOLD_MS);
}

static void clock_leader(struct drill *d)
{
    clocks(d, 1u << drill_leader(d, WAIT_MS), "the leader");
}

static void clock_minority(struct drill *d)
{
    clocks(d, 1u << 1 | 1u << 4, "n2 and n5");
}

static void clock_all(struct drill *d)
{
    clocks(d, (1u << SITE_NODES) - 1, "all nodes at once");
}

/* Another version: a copy of the program under another path, or what KLUISD_NEXT names. */
static const char *next_version(struct drill *d, char *path, size_t path_len)
{
    const char *given = getenv("KLUISD_NEXT");

    if (given != NULL) {
        return given;
    }
    (void)snprintf(path, path_len, "%s/kluisd.next%.0u", cluster_dir(d->cluster), d->round);
    if (site_run((const char *[]){"cp", cluster_program(d->cluster), path, NULL}, NULL, 0) != 0) {
        drill_broken(d, "%s cannot be made", path);
    }
    return path;
}

static void rolling_upgrade(struct drill *d)
{
    char path[512];
    const char *next = next_version(d, path, sizeof path);

    drill_fault(d, "one node after the other ends and starts as another version");
    for (unsigned n = 0; n < SITE_NODES && !d->broken; n++) {
        int code;

        cluster_signal(d->cluster, n, SIGTERM);
        code = cluster_wait(d->cluster, n, WAIT_MS);
        if (code != 0) {
            drill_broken(d, "n%u ended with %d", n + 1, code);
        }
        if (d->site->upgrade != NULL) {
            d->site->upgrade(n);
        } else {
            cluster_set_program(d->cluster, n, next);
        }
        cluster_start(d->cluster, n);
        if (!drill_settled(d, HEAL_MS)) {
            drill_broken(d, "n%u did not catch up", n + 1);
        }
        drill_event(d, "n%u is the next version", n + 1);
    }
}

static void node_replaced(struct drill *d)
{
    drill_fault(d, "n2 loses its disk");
    cluster_kill(d->cluster, 1);
    cluster_wipe(d->cluster, 1);
    if (d->site->place.prepare != NULL) {
        d->site->place.prepare(d->site->place.arg, cluster_dir(d->cluster));
    }
    cluster_start(d->cluster, 1);
    if (cluster_replace(d->cluster, d->client, 1, HEAL_MS) != KLUIS_OK) {
        drill_broken(d, "n2 was not taken in: %s", kluis_last_error());
    }
    drill_event(d, "replace-node is done");
    for (uint32_t g = 0; g < DRILL_GROUPS; g++) {
        if (!cluster_all_voters(d->cluster, d->client, g, HEAL_MS)) {
            drill_broken(d, "n2 does not vote in group %u", (unsigned)g);
        }
    }
    drill_event(d, "n2 has everything and votes");
}

static void home_restored(struct drill *d)
{
    uint64_t until;
    int leader;

    region_lost(d, SITE_WEST);
    until = harness_now_us() + HOME_MS * 1000ULL;
    do {
        leader = drill_leader(d, WAIT_MS);
        harness_sleep_ms(100);
    } while ((leader < 0 || site_of_node((unsigned)leader) != SITE_WEST) &&
             harness_now_us() < until);
    if (leader < 0 || site_of_node((unsigned)leader) != SITE_WEST) {
        drill_broken(d, "leadership did not come back to west");
    } else {
        drill_event(d, "n%d leads: west has its vaults back", leader + 1);
    }
    harness_sleep_ms(1000);
}

const struct drill_kind kl_drills[] = {
    {"leader-killed", "The process that leads the vaults is killed.", leader_killed, FAILOVER_MS,
     FAILOVER_MS, SOME_CALLS, 0, false, false, true},
    {"home-lost", "The home region loses power: both nodes and everything that was on its wires.",
     home_lost, FAILOVER_MS, FAILOVER_MS, SOME_CALLS, WEST, false, false, true},
    {"home-cut", "The home region is cut off; its nodes and clients go on by themselves.", home_cut,
     FAILOVER_MS, FAILOVER_MS, SOME_CALLS, WEST, false, false, true},
    {"pair-lost", "The paired region loses power.", pair_lost, HICCUP_MS, HICCUP_MS, SOME_CALLS,
     EAST, false, false, true},
    {"witness-lost", "The witness site loses power.", witness_lost, HICCUP_MS, HICCUP_MS, NO_CALLS,
     0, false, false, false},
    {"link-slow", "The wires between the sites become slow.", link_slow, SLOW_MS, SLOW_MS, NO_CALLS,
     0, false, false, false},
    {"link-lossy", "The wires between the sites lose packets.", link_lossy, SLOW_MS, SLOW_MS,
     NO_CALLS, 0, false, false, false},
    {"link-one-way", "The home region can send but not hear.", link_one_way, FAILOVER_MS,
     FAILOVER_MS, SOME_CALLS, WEST, false, false, false},
    {"node-paused", "The leader stands still and comes back believing that it leads.", node_paused,
     FAILOVER_MS, FAILOVER_MS, SOME_CALLS, 0, false, false, true},
    {"disk-full", "The disk of the leader fills up.", disk_full, FAILOVER_MS, FAILOVER_MS, NO_CALLS,
     0, false, true, false},
    {"clock-leader", "The clock of the leader jumps by 100 days.", clock_leader, HICCUP_MS,
     HICCUP_MS, NO_CALLS, 0, true, false, false},
    {"clock-minority", "The clocks of a minority jump by 100 days.", clock_minority, HICCUP_MS,
     HICCUP_MS, NO_CALLS, 0, true, false, false},
    {"clock-all", "The clocks of all nodes jump by 100 days.", clock_all, HICCUP_MS, HICCUP_MS,
     NO_CALLS, 0, true, false, false},
    {"rolling-upgrade", "All nodes are replaced by another version, one by one.", rolling_upgrade,
     PLANNED_MS, PLANNED_MS, NO_CALLS, 0, false, false, false},
    {"node-replaced", "A node loses its disk and is taken in again.", node_replaced, HICCUP_MS,
     HICCUP_MS, NO_CALLS, 0, false, false, true},
    {"home-restored", "The home region is lost, comes back, and gets its vaults back.",
     home_restored, FAILOVER_MS, FAILOVER_MS, SOME_CALLS, WEST, false, false, false},
};
const size_t kl_drills_n = sizeof kl_drills / sizeof kl_drills[0];
