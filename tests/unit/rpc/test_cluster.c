/* Cluster, Health and Internal. */
#include "tests/unit/rpc/fixture.h"

#define TEXT(s) ((char *)(uintptr_t)(s))

/* Status shows the node, its groups with their members, and the counters. */
TEST(cluster, status)
{
    struct fix *f = fix_new(1);
    Kluis__V1__ClusterStatusRequest req = KLUIS__V1__CLUSTER_STATUS_REQUEST__INIT;
    struct answer a = call(f, "/kluis.v1.Cluster/Status", &req.base);
    const Kluis__V1__ClusterStatusResponse *r = (const void *)a.response;

    CHECK_OK(a.st);
    CHECK_STR(r->cluster, "testing");
    CHECK_STR(r->geography, "lab");
    CHECK_EQ(r->node_id, 1);
    CHECK(!r->sealed);
    CHECK(r->version[0] != 0);
    CHECK_EQ(r->n_nodes, 2);
    CHECK(r->nodes[0]->self && !r->nodes[1]->self && !r->nodes[1]->connected);
    CHECK_STR(r->nodes[1]->client_address, "127.0.0.1:1002");
    CHECK_STR(r->nodes[1]->member_address, "2");
    CHECK_EQ(r->n_groups, 2);
    CHECK_STR(r->groups[0]->role, "leader");
    CHECK_EQ(r->groups[1]->n_members, 2);
    CHECK_STR(r->groups[1]->members[0]->role, "voter");
    CHECK_STR(r->groups[1]->members[1]->role, "standby");
    CHECK_STR(r->groups[1]->home, "north");
    CHECK_STR(r->groups[1]->mirror, "south");
    CHECK_STR(r->groups[0]->mirror, "");
    CHECK_EQ(r->groups[1]->members[1]->lag_ms, 70);
    CHECK_STR(r->groups[1]->led_how, "elected");
    CHECK_EQ(r->groups[1]->led_gap_ms, 56);
    CHECK_EQ(r->groups[1]->last_failover->term, 5);
    CHECK_EQ(r->groups[1]->last_failover->at_ms, 1200);
    CHECK_EQ(r->groups[1]->last_failover->gap_ms, 900);
    CHECK_EQ(r->groups[1]->last_failover->from, 2);
    CHECK_EQ(r->groups[1]->last_failover->to, 1);
    CHECK(r->nodes[0]->clock_known && r->nodes[0]->clock_ahead_ms == -7);
    CHECK(!r->nodes[1]->clock_known);
    CHECK(r->clock->held);
    CHECK_STR(r->clock->reason, "they jumped");
    CHECK_EQ(r->clock->clocks_ms, 8000);
    CHECK_EQ(r->n_counters, 1);
    CHECK_STR(r->counters[0]->name, "calls_total");
    CHECK_EQ(r->counters[0]->value, 42);
    answer_free(&a);
    fix_free(f);
}

/* The digest is that of the store, at the index that the store has; a group that is not there is named. */
TEST(cluster, digest)
{
    struct fix *f = fix_new(1);
    Kluis__V1__ClusterDigestRequest req = KLUIS__V1__CLUSTER_DIGEST_REQUEST__INIT;
    struct kl_kv_view store = {.kv = fake_store_kv(f->stores[1])};
    const struct kl_view view = kl_kv_view(&store);
    Kluis__Store__AppliedRecord *applied = NULL;
    uint8_t sum[32];
    uint64_t records;
    struct answer a;

    make_vault(f, "vault", false);
    req.group = 1;
    a = call(f, "/kluis.v1.Cluster/Digest", &req.base);
    CHECK_OK(a.st);
    CHECK_OK(kl_core_applied(&view, &applied));
    CHECK_EQ(((Kluis__V1__ClusterDigestResponse *)a.response)->applied_index, applied->index);
    kl_pb_wipe_free(&applied->base, &kl_pb_allocator);
    CHECK_OK(kl_kv_digest(store.kv, NULL, sum, &records));
    CHECK_EQ(((Kluis__V1__ClusterDigestResponse *)a.response)->records, records);
    CHECK_EQ(((Kluis__V1__ClusterDigestResponse *)a.response)->sha256.len, 32);
    CHECK_MEM(((Kluis__V1__ClusterDigestResponse *)a.response)->sha256.data, sum, 32);
    answer_free(&a);
    req.group = 9;
    check_call(f, "/kluis.v1.Cluster/Digest", &req.base, KL_NOT_FOUND, "group", "a group");
    req.group = 65536 + 1; /* not group 1 */
    check_call(f, "/kluis.v1.Cluster/Digest", &req.base, KL_NOT_FOUND, "group", "a group");
    fix_free(f);
}

/* Leadership is handed over by the leader only, to a node that is configured. */
TEST(cluster, transfer)
{
    struct fix *f = fix_new(1);
    Kluis__V1__ClusterTransferRequest req = KLUIS__V1__CLUSTER_TRANSFER_REQUEST__INIT;
    struct answer a;

    req.group = 1;
    req.to_node_id = 7;
    check_call(f, "/kluis.v1.Cluster/Transfer", &req.base, KL_NOT_FOUND, "to_node_id",
               "configuration");
    req.to_node_id = 2;
    check_call(f, "/kluis.v1.Cluster/Transfer", &req.base, KL_QUORUM, "to_node_id", "reaches");
    atomic_store(&f->nodes[0].reaches_all, true);
    check_call(f, "/kluis.v1.Cluster/Transfer", &req.base, KL_OK, NULL, NULL);
    a = call(f, "/kluis.v1.Cluster/Transfer", &req.base);
    CHECK_STATUS(a.st, KL_NOT_LEADER);
    CHECK_EQ(a.reply->leader->node_id, 2);
    answer_free(&a);
    fix_free(f);
}

/* A node of the configuration can be replaced; the node's own answer comes back. */
TEST(cluster, replace_node)
{
    struct fix *f = fix_new(1);
    Kluis__V1__ClusterReplaceNodeRequest req = KLUIS__V1__CLUSTER_REPLACE_NODE_REQUEST__INIT;

    req.node_id = 3;
    check_call(f, "/kluis.v1.Cluster/ReplaceNode", &req.base, KL_NOT_FOUND, "node_id",
               "configuration");
    req.node_id = 2;
    check_call(f, "/kluis.v1.Cluster/ReplaceNode", &req.base, KL_OK, NULL, NULL);
    CHECK_EQ(atomic_load(&f->nodes[0].replaced), 2);
    req.node_id = 1;
    atomic_store(&f->nodes[0].replace_status, KL_UNAVAILABLE);
    check_call(f, "/kluis.v1.Cluster/ReplaceNode", &req.base, KL_UNAVAILABLE, NULL, NULL);
    atomic_store(&f->nodes[0].replace_status, KL_NOT_FOUND); /* it has its data */
    check_call(f, "/kluis.v1.Cluster/ReplaceNode", &req.base, KL_NOT_FOUND, "node_id", "--join");
    fix_free(f);
}

/* An operator's word counts for what was shown, and comes back as what became of it. */
TEST(cluster, confirm_time)
{
    struct fix *f = fix_new(1);
    Kluis__V1__ClusterConfirmTimeRequest req = KLUIS__V1__CLUSTER_CONFIRM_TIME_REQUEST__INIT;
    const Kluis__V1__ClusterConfirmTimeResponse *r;
    struct answer a;

    req.clocks_ms = 7000;
    check_call(f, "/kluis.v1.Cluster/ConfirmTime", &req.base, KL_INVALID_ARGUMENT, "clocks_ms",
               "the clocks");
    req.clocks_ms = 1;
    check_call(f, "/kluis.v1.Cluster/ConfirmTime", &req.base, KL_UNAVAILABLE, NULL, NULL);
    req.clocks_ms = 8000;
    a = call(f, "/kluis.v1.Cluster/ConfirmTime", &req.base);
    CHECK_OK(a.st);
    r = (const void *)a.response;
    CHECK_EQ(r->clock->time_ms, 8000);
    CHECK(!r->clock->held);
    answer_free(&a);
    req.step = true;
    a = call(f, "/kluis.v1.Cluster/ConfirmTime", &req.base);
    CHECK_OK(a.st);
    CHECK_EQ(((Kluis__V1__ClusterConfirmTimeResponse *)a.response)->clock->time_ms, 8001);
    answer_free(&a);
    fix_free(f);
}

/* Whoever has a valid token may know where the nodes are, whatever its rights; nobody else. */
TEST(discovery, nodes)
{
    struct fix *f = fix_new(1);
    Kluis__V1__DiscoveryNodesRequest req = KLUIS__V1__DISCOVERY_NODES_REQUEST__INIT;
    struct ask ask = {.method = "/kluis.v1.Discovery/Nodes", .request = &req.base};
    Kluis__V1__DiscoveryNodesResponse *r;
    struct answer a;
    char token[64];

    (void)snprintf(token, sizeof token, "Bearer without-%d", (int)KL_RIGHT_CLUSTER_READ);
    ask.token = token;
    a = fix_ask(f, &ask);
    CHECK_OK(a.st);
    r = (Kluis__V1__DiscoveryNodesResponse *)a.response;
    CHECK_EQ(r->n_nodes, 2);
    CHECK_EQ(r->nodes[0]->node_id, 1);
    CHECK_STR(r->nodes[0]->region, "north");
    CHECK_STR(r->nodes[1]->region, "south");
    CHECK_STR(r->nodes[1]->client_address, "127.0.0.1:1002");
    CHECK(!r->nodes[1]->witness);
    answer_free(&a);
    ask.token = "";
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_UNAUTHENTICATED);
    answer_free(&a);
    fix_free(f);
}

static Kluis__V1__ClusterAddNodeRequest new_node(uint64_t id)
{
    Kluis__V1__ClusterAddNodeRequest req = KLUIS__V1__CLUSTER_ADD_NODE_REQUEST__INIT;

    req.node_id = id;
    req.name = TEXT("four");
    req.region = TEXT("north");
    req.client_address = TEXT("host:1");
    req.peer_address = TEXT("[::1]:65535");
    return req;
}

/* A new node's fields are checked one by one, ids and names are nobody else's, and the directory keeps
 * it; the same request again does nothing. */
TEST(cluster, add_node)
{
    static const char method[] = "/kluis.v1.Cluster/AddNode";
    struct fix *f = fix_new(1);
    Kluis__V1__ClusterAddNodeRequest req = new_node(0);
    Kluis__Store__NodeRecord *node = NULL;
    struct kl_kv_view store = {fake_store_kv(f->stores[0]), NULL};
    struct kl_view view = kl_kv_view(&store);

    check_call(f, method, &req.base, KL_INVALID_ARGUMENT, "node_id", "65535");
    req = new_node(2);
    check_call(f, method, &req.base, KL_ALREADY_EXISTS, "node_id", "ever had");
    req = new_node(4);
    req.name = TEXT("two");
    check_call(f, method, &req.base, KL_ALREADY_EXISTS, "name", "no node has");
    req.name = TEXT("Four");
    check_call(f, method, &req.base, KL_INVALID_ARGUMENT, "name", "lower-case");
    req = new_node(4);
    req.region = TEXT("south");
    check_call(f, method, &req.base, KL_INVALID_ARGUMENT, "region", "only the north");
    req = new_node(4);
    req.client_address = TEXT("host");
    check_call(f, method, &req.base, KL_INVALID_ARGUMENT, "client_address", "host:port");
    req = new_node(4);
    req.client_address = TEXT("127.0.0.1:1002");
    check_call(f, method, &req.base, KL_ALREADY_EXISTS, "client_address", "no node has");
    req = new_node(4);
    req.peer_address = TEXT("host:65536");
    check_call(f, method, &req.base, KL_INVALID_ARGUMENT, "peer_address", "host:port");
    CHECK_STATUS(kl_core_node(&view, 4, &node), KL_NOT_FOUND);
    req = new_node(4);
    req.standby = true;
    check_call(f, method, &req.base, KL_OK, NULL, NULL);
    CHECK_OK(kl_core_node(&view, 4, &node));
    CHECK_STR(node->name, "four");
    CHECK(node->standby && !node->witness && node->data_uuid.len == 0);
    kl_pb_wipe_free(&node->base, &kl_pb_allocator);
    check_call(f, method, &req.base, KL_ALREADY_EXISTS, "node_id", "in use");
    fix_free(f);
}

/* Nodes that the directory does not know are not marked; one that is needed does not go and is not
 * drained, and the reason comes back. */
TEST(cluster, marks)
{
    struct fix *f = fix_new(1);
    Kluis__V1__ClusterRemoveNodeRequest remove = KLUIS__V1__CLUSTER_REMOVE_NODE_REQUEST__INIT;
    Kluis__V1__ClusterPromoteNodeRequest promote = KLUIS__V1__CLUSTER_PROMOTE_NODE_REQUEST__INIT;
    Kluis__V1__ClusterDrainRequest drain = KLUIS__V1__CLUSTER_DRAIN_REQUEST__INIT;
    Kluis__V1__ClusterDrainRequest none = KLUIS__V1__CLUSTER_DRAIN_REQUEST__INIT;

    remove.node_id = promote.node_id = 9;
    check_call(f, "/kluis.v1.Cluster/RemoveNode", &remove.base, KL_NOT_FOUND, "node_id", "a node");
    check_call(f, "/kluis.v1.Cluster/PromoteNode", &promote.base, KL_NOT_FOUND, "node_id",
               "a node");
    remove.node_id = 2;
    check_call(f, "/kluis.v1.Cluster/RemoveNode", &remove.base, KL_QUORUM, "node_id",
               "node 2 is needed");
    remove.node_id = 1; /* the directory has no record of it yet */
    check_call(f, "/kluis.v1.Cluster/RemoveNode", &remove.base, KL_NOT_FOUND, "node_id",
               "not found");
    check_call(f, "/kluis.v1.Cluster/Drain", &none.base, KL_INVALID_ARGUMENT, "node_id",
               "a node, or a region");
    drain.region = TEXT("south");
    check_call(f, "/kluis.v1.Cluster/Drain", &drain.base, KL_QUORUM, "region", "node 2");
    drain.node_id = 1;
    check_call(f, "/kluis.v1.Cluster/Drain", &drain.base, KL_INVALID_ARGUMENT, "node_id",
               "a node, or a region");
    drain.node_id = 0;
    drain.region = TEXT("nowhere");
    check_call(f, "/kluis.v1.Cluster/Drain", &drain.base, KL_NOT_FOUND, "region", "with nodes");
    fix_free(f);
}

static int health(struct fix *f, const char *service, const char *token)
{
    Kluis__V1__HealthCheckRequest req = KLUIS__V1__HEALTH_CHECK_REQUEST__INIT;
    const struct ask ask = {.method = "/kluis.v1.Health/Check",
                            .request = &req.base,
                            .token = token,
                            .no_request_id = true};
    struct answer a;
    int status = -1;

    req.service = TEXT(service);
    a = fix_ask(f, &ask);
    if (a.st == KL_OK) {
        status = (int)((Kluis__V1__HealthCheckResponse *)a.response)->status;
    }
    answer_free(&a);
    return status;
}

/* Anyone may ask; the answer follows seal and leaders; unknown services are not found. */
TEST(health, check)
{
    struct fix *f = fix_new(1);

    CHECK_EQ(health(f, "", ""), 1);
    CHECK_EQ(health(f, "kluis.v1.Secrets", "Bearer wrong"), 1);
    CHECK_EQ(health(f, "kluis.v1.Secret", ""), -1);
    CHECK_EQ(health(f, "kluis.v1.Internal", ""), -1);
    fake_store_lead(f->stores[1], 0);
    CHECK_EQ(health(f, "", ""), 2);
    fake_store_lead(f->stores[1], 2);
    CHECK_EQ(health(f, "", ""), 1);
    fix_seal(f, &f->nodes[0], true);
    CHECK_EQ(health(f, "", ""), 2);
    fix_free(f);
}

/* What is between nodes does not exist for clients, whatever their rights; nodes get it. */
TEST(internal, only_nodes)
{
    struct fix *f = fix_new(1);
    Kluis__V1__ShowVaultRequest req = KLUIS__V1__SHOW_VAULT_REQUEST__INIT;
    struct ask ask = {.method = "/kluis.v1.Internal/ShowVault", .request = &req.base};
    Kluis__Store__VaultRecord *v;
    struct answer a;

    make_vault(f, "vault", false);
    req.name = TEXT("vault");
    req.group = 1;
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_UNIMPLEMENTED);
    answer_free(&a);
    ask.from_node = 2;
    ask.token = "";
    a = fix_ask(f, &ask);
    CHECK_OK(a.st);
    v = kluis__store__vault_record__unpack(
        NULL, ((Kluis__V1__ShowVaultResponse *)a.response)->vault.len,
        ((Kluis__V1__ShowVaultResponse *)a.response)->vault.data);
    CHECK(v != NULL);
    CHECK_STR(v->name, "vault");
    CHECK_EQ(v->wrapped_key.len, 0);
    kluis__store__vault_record__free_unpacked(v, NULL);
    answer_free(&a);
    ask.method = "/kluis.v1.Secrets/List"; /* a node's certificate gives no other right */
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_UNAUTHENTICATED);
    answer_free(&a);
    fix_free(f);
}

/* Bad input between nodes is refused as any other. */
TEST(internal, bad_input)
{
    struct fix *f = fix_new(1);
    Kluis__V1__PlaceVaultRequest place = KLUIS__V1__PLACE_VAULT_REQUEST__INIT;
    Kluis__V1__ReleaseVaultRequest release = KLUIS__V1__RELEASE_VAULT_REQUEST__INIT;
    struct ask ask = {.method = "/kluis.v1.Internal/PlaceVault", .from_node = 2, .token = ""};
    struct answer a;

    ask.request = &place.base;
    place.group = 1;
    place.vault = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "abc"};
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_INVALID_ARGUMENT);
    CHECK_STR(a.reply->fields[0]->field, "vault");
    answer_free(&a);
    ask.method = "/kluis.v1.Internal/ReleaseVault";
    ask.request = &release.base;
    release.name = TEXT("vault");
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_INVALID_ARGUMENT);
    CHECK_STR(a.reply->fields[0]->field, "vault_id");
    answer_free(&a);
    fix_free(f);
}
