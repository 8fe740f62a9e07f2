/*
 * kluis cluster add-node, promote, remove-node, replace-node, drain-node, drain-region and the way back.
 *
 * The directory is told, and the leaders of the groups do the rest; meanwhile their status is asked for
 * again and again, and what is still to be done is shown, until nothing is.
 */
#include "client/cli/cluster.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    POLL_MS = 300,
    ASK_MS = 2000,
    ABSENT_MS = 30000, /* replace-node waits so long for the node to come with its new directory */
    LINE_LEN = 1024,
    CAUGHT_UP = 256
};

/* What is waited for. */
enum goal { GOAL_IN, GOAL_OUT, GOAL_QUIET };

struct watch {
    struct kl_cli *cli;
    enum goal goal;
    uint64_t node_id;   /* IN, OUT; QUIET: or 0 */
    bool standby;       /* IN: being a standby that has caught up is enough */
    const char *region; /* QUIET: all nodes of it */
    bool terminal;
    char said[LINE_LEN];
    /* One look at the cluster. */
    char line[LINE_LEN];
    json_t *rows;
    bool done;
};

typedef Kluis__V1__ClusterStatusResponse Status;

static void add_text(struct watch *w, const char *text)
{
    size_t n = strlen(w->line);

    (void)snprintf(w->line + n, sizeof w->line - n, "%s%s", n == 0 ? "" : "; ", text);
}

static const Kluis__V1__NodeStatus *node_of(const Status *s, uint64_t id)
{
    for (size_t i = 0; i < s->n_nodes; i++) {
        if (s->nodes[i]->node_id == id) {
            return s->nodes[i];
        }
    }
    return NULL;
}

/* Who leads a group, by what it says itself; of two, who has not heard yet that it leads no more is not
 * the one. */
struct led {
    const Status *by;
    const Kluis__V1__GroupStatus *group; /* NULL: nobody says so */
};

static struct led leader_of(Status *const *all, size_t n, uint32_t group)
{
    struct led led = {NULL, NULL};

    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < all[i]->n_groups; k++) {
            const Kluis__V1__GroupStatus *g = all[i]->groups[k];

            if (g->group == group && strcmp(g->role, "leader") == 0 &&
                (led.group == NULL || g->term > led.group->term)) {
                led = (struct led){all[i], g};
            }
        }
    }
    return led;
}

static const Kluis__V1__GroupStatus__Member *member_of(const Kluis__V1__GroupStatus *g, uint64_t id)
{
    for (size_t i = 0; i < g->n_members; i++) {
        if (g->members[i]->node_id == id) {
            return g->members[i];
        }
    }
    return NULL;
}

static void add_row(struct watch *w, uint32_t group, const char *role, uint64_t behind, bool done)
{
    json_t *row = kl_cli_must(json_object());

    kl_cli_put(row, "group", kl_cli_integer(group));
    kl_cli_put(row, "role", kl_cli_text(role));
    kl_cli_put(row, "entriesBehind", kl_cli_integer(behind));
    kl_cli_put(row, "done", json_boolean(done));
    kl_cli_append(w->rows, row);
    w->done = w->done && done;
}

/* The node is to be a voter of the group, or a standby that has caught up, with the data directory that
 * is registered: a group still lists the former one of a node that was replaced, until it removes it. */
static void look_in(struct watch *w, const Kluis__V1__NodeStatus *node,
                    const Kluis__V1__GroupStatus *g)
{
    const Kluis__V1__GroupStatus__Member *listed = member_of(g, w->node_id);
    bool former = listed != NULL && node->member_address[0] != '\0' &&
                  strcmp(listed->address, node->member_address) != 0;
    const Kluis__V1__GroupStatus__Member *m = former ? NULL : listed;
    uint64_t have = m == NULL ? 0 : m->match_index;
    uint64_t behind = g->last_index > have ? g->last_index - have : 0;
    bool voter = m != NULL && strcmp(m->role, "voter") == 0;
    bool done = voter || (w->standby && m != NULL && have != 0 && behind <= CAUGHT_UP);
    char text[128];

    if (!done) {
        (void)snprintf(text, sizeof text, "group %u: %s, %llu%%, %llu entries behind",
                       (unsigned)g->group,
                       m != NULL ? m->role
                       : former  ? "its former data directory is still a member"
                                 : "not a member yet",
                       (unsigned long long)(g->last_index == 0 ? 0 : have * 100 / g->last_index),
                       (unsigned long long)behind);
        add_text(w, text);
    }
    add_row(w, g->group, m == NULL ? "" : m->role, behind, done);
}

static void look_out(struct watch *w, const Kluis__V1__GroupStatus *g)
{
    const Kluis__V1__GroupStatus__Member *m = member_of(g, w->node_id);
    char text[64];

    if (m != NULL) {
        (void)snprintf(text, sizeof text, "group %u: still a member (%s)", (unsigned)g->group,
                       m->role);
        add_text(w, text);
    }
    add_row(w, g->group, m == NULL ? "" : m->role, 0, m == NULL);
}

static void look_quiet(struct watch *w, const Status *s, const Kluis__V1__GroupStatus *g)
{
    const Kluis__V1__NodeStatus *leader = node_of(s, g->leader_id);
    bool in = leader != NULL && (w->region != NULL ? strcmp(leader->region, w->region) == 0
                                                   : leader->node_id == w->node_id);
    char text[128];

    if (in || leader == NULL) {
        (void)snprintf(text, sizeof text, "group %u: led by %s", (unsigned)g->group,
                       in ? leader->name : "nobody now");
        add_text(w, text);
    }
    add_row(w, g->group, leader == NULL ? "" : leader->name, 0, !in && leader != NULL);
}

static bool anybody_holds(const Status *s, uint32_t group)
{
    for (size_t i = 0; i < s->n_nodes; i++) {
        if (kl_cli_holds(s->nodes[i], group)) {
            return true;
        }
    }
    return false;
}

/* The directory's leader is believed about the nodes: the others may not have heard yet of what was told
 * it. */
static void look(struct watch *w, Status *const *all, size_t n)
{
    const Status *s = leader_of(all, n, 0).by;
    const Kluis__V1__NodeStatus *node;
    char text[LINE_LEN];

    if (s == NULL) {
        add_text(w, "group 0: no leader answers");
        w->done = false;
        return;
    }
    node = node_of(s, w->node_id);

    if (w->goal == GOAL_IN && node == NULL) {
        add_text(w, "not known yet");
        w->done = false;
    } else if (w->goal == GOAL_IN && !node->connected && !node->self) {
        (void)snprintf(text, sizeof text, "%s is not connected: start kluisd there", node->name);
        add_text(w, text);
    }
    for (uint32_t group = 0; group < KL_GROUPS_MAX; group++) {
        const Kluis__V1__GroupStatus *g;

        if (w->goal == GOAL_IN ? !kl_cli_holds(node, group) : !anybody_holds(s, group)) {
            continue;
        }
        g = leader_of(all, n, group).group;
        if (g == NULL) {
            (void)snprintf(text, sizeof text, "group %u: no leader answers", (unsigned)group);
            add_text(w, text);
            w->done = false;
        } else if (w->goal == GOAL_IN) {
            look_in(w, node, g);
        } else if (w->goal == GOAL_OUT) {
            look_out(w, g);
        } else {
            look_quiet(w, s, g);
        }
    }
}

static void say(struct watch *w)
{
    FILE *err = w->cli->world->err;

    if (strcmp(w->line, w->said) == 0) {
        return;
    }
    (void)snprintf(w->said, sizeof w->said, "%s", w->line);
    if (w->terminal) {
        (void)fprintf(err, "\r\033[K%s", w->line);
    } else if (w->line[0] != '\0') {
        (void)fprintf(err, "%s\n", w->line);
    }
    (void)fflush(err);
}

/* Asks one node, then all that it is connected with. */
static size_t ask_all(struct kl_cli *cli, Status *all[KL_NODES_MAX + 1])
{
    size_t n = 0;

    if (kl_cli_status_get(cli, NULL, 0, &all[0]) != KLUIS_OK) {
        return 0;
    }
    n = 1;
    for (size_t i = 0; i < all[0]->n_nodes && n <= KL_NODES_MAX; i++) {
        const Kluis__V1__NodeStatus *node = all[0]->nodes[i];

        if (!node->self && node->connected &&
            kl_cli_status_get(cli, node->client_address, ASK_MS, &all[n]) == KLUIS_OK) {
            n++;
        }
    }
    return n;
}

static const struct kl_cli_column rows_of[] = {
    {"GROUP", "group"}, {"ROLE", "role"}, {"BEHIND", "entriesBehind"}, {"DONE", "done"}};
static const struct kl_cli_column leaders_of[] = {
    {"GROUP", "group"}, {"LEADER", "role"}, {"DONE", "done"}};

/* Until it is done; with --no-wait one look, that is printed. */
static int wait_for(struct watch *w)
{
    struct kl_cli *cli = w->cli;
    const struct timespec pause = {0, POLL_MS * 1000000L};
    int fd = fileno(cli->world->err);

    w->terminal = fd >= 0 && isatty(fd) != 0;
    for (;;) {
        Status *all[KL_NODES_MAX + 1];
        size_t n = ask_all(cli, all);

        w->done = n != 0;
        w->line[0] = '\0';
        json_decref(w->rows);
        w->rows = kl_cli_must(json_array());
        if (n == 0) {
            add_text(w, "no node answers");
        } else {
            look(w, all, n);
        }
        for (size_t i = 0; i < n; i++) {
            kl_cli_status_free(all[i]);
        }
        if (w->done || cli->args.given[KL_OPT_NO_WAIT]) {
            break;
        }
        say(w);
        (void)nanosleep(&pause, NULL);
    }
    w->line[0] = '\0';
    if (w->terminal) {
        say(w);
    }
    return w->goal == GOAL_QUIET
               ? kl_cli_print(cli, w->rows, leaders_of, sizeof leaders_of / sizeof leaders_of[0])
               : kl_cli_print(cli, w->rows, rows_of, sizeof rows_of / sizeof rows_of[0]);
}

static enum kluis_status ask(struct watch *w, const char *method, const void *request,
                             const ProtobufCMessageDescriptor *type)
{
    void *response = NULL;
    enum kluis_status st = kl_cli_rpc(w->cli, method, request, true, NULL, 0, type, &response);

    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st;
}

/* Tells the directory, then waits. */
static int tell(struct watch *w, const char *method, const void *request,
                const ProtobufCMessageDescriptor *type)
{
    enum kluis_status st = ask(w, method, request, type);

    return st == KLUIS_OK ? wait_for(w) : kl_cli_failed(w->cli, st);
}

static char *text_of(struct kl_cli *cli, enum kl_cli_opt option)
{
    const char *text = cli->args.text[option];

    return text == NULL ? (char *)(uintptr_t) "" : kl_cli_keep_text(cli, text, strlen(text));
}

int kl_cli_cluster_add_node(struct kl_cli *cli)
{
    Kluis__V1__ClusterAddNodeRequest request = KLUIS__V1__CLUSTER_ADD_NODE_REQUEST__INIT;
    struct watch w = {.cli = cli, .goal = GOAL_IN, .node_id = cli->args.number[KL_OPT_NODE_ID]};

    request.node_id = w.node_id;
    request.name = text_of(cli, KL_OPT_NAME);
    request.region = text_of(cli, KL_OPT_REGION);
    request.client_address = text_of(cli, KL_OPT_CLIENT_ADDRESS);
    request.peer_address = text_of(cli, KL_OPT_PEER_ADDRESS);
    request.witness = cli->args.given[KL_OPT_WITNESS];
    request.standby = w.standby = cli->args.given[KL_OPT_STANDBY];
    return tell(&w, "/kluis.v1.Cluster/AddNode", &request,
                &kluis__v1__cluster_add_node_response__descriptor);
}

int kl_cli_cluster_promote(struct kl_cli *cli)
{
    Kluis__V1__ClusterPromoteNodeRequest request = KLUIS__V1__CLUSTER_PROMOTE_NODE_REQUEST__INIT;
    struct watch w = {.cli = cli, .goal = GOAL_IN, .node_id = cli->args.number[KL_OPT_NODE_ID]};

    request.node_id = w.node_id;
    return tell(&w, "/kluis.v1.Cluster/PromoteNode", &request,
                &kluis__v1__cluster_promote_node_response__descriptor);
}

/* Writes down that a node of the cluster does not wait with a new data directory; false: no such node. */
static bool note_absent(struct watch *w)
{
    Status *s = NULL;
    const Kluis__V1__NodeStatus *node = NULL;

    if (kl_cli_status_get(w->cli, NULL, 0, &s) == KLUIS_OK) {
        node = node_of(s, w->node_id);
    }
    if (node != NULL) {
        (void)snprintf(w->line, sizeof w->line,
                       "%s does not wait with a new data directory yet: start kluisd there",
                       node->name);
    }
    kl_cli_status_free(s);
    return node != NULL;
}

/* The leader hears of a node that was started just now a moment later: it is waited for. An id that no
 * node has is asked for once more, so that the last error is of that. */
int kl_cli_cluster_replace_node(struct kl_cli *cli)
{
    static const char method[] = "/kluis.v1.Cluster/ReplaceNode";
    const ProtobufCMessageDescriptor *type = &kluis__v1__cluster_replace_node_response__descriptor;
    const struct timespec pause = {0, POLL_MS * 1000000L};
    Kluis__V1__ClusterReplaceNodeRequest request = KLUIS__V1__CLUSTER_REPLACE_NODE_REQUEST__INIT;
    struct watch w = {.cli = cli, .goal = GOAL_IN, .node_id = cli->args.number[KL_OPT_NODE_ID]};
    unsigned rounds = cli->args.given[KL_OPT_NO_WAIT] ? 0 : ABSENT_MS / POLL_MS;
    enum kluis_status st;

    request.node_id = w.node_id;
    while ((st = ask(&w, method, &request, type)) == KLUIS_NOT_FOUND && rounds > 0) {
        rounds = w.line[0] != '\0' || note_absent(&w) ? rounds - 1 : 0;
        say(&w);
        (void)nanosleep(&pause, NULL);
    }
    return st == KLUIS_OK ? wait_for(&w) : kl_cli_failed(cli, st);
}

int kl_cli_cluster_remove_node(struct kl_cli *cli)
{
    Kluis__V1__ClusterRemoveNodeRequest request = KLUIS__V1__CLUSTER_REMOVE_NODE_REQUEST__INIT;
    struct watch w = {.cli = cli, .goal = GOAL_OUT, .node_id = cli->args.number[KL_OPT_NODE_ID]};

    request.node_id = w.node_id;
    return tell(&w, "/kluis.v1.Cluster/RemoveNode", &request,
                &kluis__v1__cluster_remove_node_response__descriptor);
}

static int drain(struct kl_cli *cli, bool undrain)
{
    Kluis__V1__ClusterDrainRequest request = KLUIS__V1__CLUSTER_DRAIN_REQUEST__INIT;
    struct watch w = {.cli = cli,
                      .goal = GOAL_QUIET,
                      .node_id = cli->args.number[KL_OPT_NODE_ID],
                      .region = cli->args.text[KL_OPT_REGION]};
    void *response = NULL;
    enum kluis_status st;

    request.node_id = w.node_id;
    request.region = text_of(cli, KL_OPT_REGION);
    request.undrain = undrain;
    if (!undrain) {
        return tell(&w, "/kluis.v1.Cluster/Drain", &request,
                    &kluis__v1__cluster_drain_response__descriptor);
    }
    st = kl_cli_rpc(cli, "/kluis.v1.Cluster/Drain", &request, true, NULL, 0,
                    &kluis__v1__cluster_drain_response__descriptor, &response);
    kl_pb_wipe_free(response, &kl_pb_allocator);
    return st == KLUIS_OK ? KL_CLI_OK : kl_cli_failed(cli, st);
}

int kl_cli_cluster_drain(struct kl_cli *cli)
{
    return drain(cli, false);
}

int kl_cli_cluster_undrain(struct kl_cli *cli)
{
    return drain(cli, true);
}
