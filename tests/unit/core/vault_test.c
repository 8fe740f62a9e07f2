#include "tests/unit/core/world.h"

#include "common/limits.h"

/* ---- groups, nodes, keyring ---- */

/* GroupInit is applied once; before it vaults and objects are refused as unavailable, not for good. */
TEST(groups, init_once)
{
    struct world w;
    Kluis__Store__GroupRecord *group = NULL;

    world_init(&w);
    CHECK_STATUS(kl_core_group(&w.view, &group), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, with_request(vault_create("vault", 2), 9, w.now)), KL_UNAVAILABLE);
    CHECK_EQ(world_apply(&w, object_delete("vault", "x")), KL_UNAVAILABLE);
    CHECK_EQ(world_apply(&w, group_init(0)), KL_INVALID_ARGUMENT);
    CHECK_STR(w.result->field, "day_ms");
    CHECK_EQ(world_apply(&w, group_init(KL_DAY_MS + 1)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, group_init(DAY_MS)), KL_OK);
    CHECK_EQ(world_apply(&w, group_init(2 * DAY_MS)), KL_ALREADY_EXISTS);
    CHECK_OK(kl_core_group(&w.view, &group));
    CHECK_EQ(group->day_ms, DAY_MS);
    CHECK_STR(group->geography, "europe");
    kl_pb_wipe_free(&group->base, &kl_pb_allocator);
    CHECK_EQ(world_apply(&w, with_request(vault_create("vault", 2), 9, w.now)), KL_OK);
    world_done(&w);
}

/* In one entry with GroupInit, the commands behind it see it. */
TEST(groups, init_within_entry)
{
    struct world w;

    world_init(&w);
    world_add(&w, vault_create("early", 2));
    world_add(&w, group_init(DAY_MS));
    world_add(&w, vault_create("vault", 3));
    world_commit(&w);
    CHECK_EQ(world_result(&w, 0), KL_UNAVAILABLE);
    CHECK_EQ(world_result(&w, 1), KL_OK);
    CHECK_EQ(world_result(&w, 2), KL_OK);
    world_done(&w);
}

/* One data directory per node id; another one takes its place only when asked to. */
TEST(groups, nodes)
{
    struct world w;
    Kluis__Store__NodeRecord *node = NULL;

    world_init(&w);
    CHECK_EQ(world_apply(&w, node_register(0, 5, false)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, node_register(KL_NODE_ID_MAX + 1, 5, false)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, node_register(3, 5, false)), KL_OK);
    w.now += 10;
    CHECK_EQ(world_apply(&w, node_register(3, 5, false)), KL_OK);
    CHECK_EQ(world_apply(&w, node_register(3, 6, false)), KL_ALREADY_EXISTS);
    CHECK_OK(kl_core_node(&w.view, 3, &node));
    CHECK(kl_bytes_eq(kl_bytes_of(node->data_uuid.data, node->data_uuid.len), id_of(5)));
    CHECK_EQ(node->registered_ms, w.now - 10);
    CHECK_EQ(node->generation, 0);
    kl_pb_wipe_free(&node->base, &kl_pb_allocator);
    CHECK_EQ(world_apply(&w, node_register(3, 6, true)), KL_OK);
    CHECK_OK(kl_core_node(&w.view, 3, &node));
    CHECK(kl_bytes_eq(kl_bytes_of(node->data_uuid.data, node->data_uuid.len), id_of(6)));
    CHECK_EQ(node->generation, 1);
    kl_pb_wipe_free(&node->base, &kl_pb_allocator);
    CHECK_STATUS(kl_core_node(&w.view, 4, &node), KL_NOT_FOUND);
    world_done(&w);
}

static Kluis__Store__NodeRecord *node_of(struct world *w, uint64_t id)
{
    Kluis__Store__NodeRecord *node = NULL;

    CHECK_OK(kl_core_node(&w->view, id, &node));
    return node;
}

/* A node's description is seeded once; what is known of its directory stays, and the reverse. */
TEST(groups, node_details)
{
    struct world w;
    Kluis__Store__NodeRecord *node;

    world_init(&w);
    CHECK_EQ(world_apply(&w, node_register(3, 5, false)), KL_OK);
    CHECK_EQ(world_apply(&w, node_seed(3, 5, "three")), KL_OK);
    CHECK_EQ(world_apply(&w, node_seed(3, 5, "other")), KL_OK);
    CHECK_EQ(world_apply(&w, node_register(3, 6, true)), KL_OK);
    node = node_of(&w, 3);
    CHECK_STR(node->name, "three");
    CHECK_STR(node->peer_address, "host:2");
    CHECK_EQ(node->generation, 1);
    kl_pb_wipe_free(&node->base, &kl_pb_allocator);
    CHECK_EQ(world_apply(&w, node_seed(3, 6, "Three")), KL_INVALID_ARGUMENT);
    world_done(&w);
}

/* A node is added once, then registers like any other; a removed one never comes back. */
TEST(groups, node_add)
{
    struct world w;
    Kluis__Store__NodeRecord *node;

    world_init(&w);
    CHECK_EQ(world_apply(&w, node_add(0, "four", "west", false)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, node_add(4, "", "west", false)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, node_add(4, "four", "We st", false)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, node_add(4, "four", "west", true)), KL_OK);
    CHECK_EQ(world_apply(&w, node_add(4, "four", "west", true)), KL_ALREADY_EXISTS);
    node = node_of(&w, 4);
    CHECK(node->standby && node->data_uuid.len == 0 && node->registered_ms == 0);
    kl_pb_wipe_free(&node->base, &kl_pb_allocator);
    CHECK_EQ(world_apply(&w, node_register(4, 7, false)), KL_OK);
    CHECK_EQ(world_apply(&w, node_register(4, 8, false)), KL_ALREADY_EXISTS);
    node = node_of(&w, 4);
    CHECK(node->standby && node->data_uuid.len == KL_ID_LEN && node->registered_ms == w.now);
    CHECK_EQ(node->generation, 0);
    kl_pb_wipe_free(&node->base, &kl_pb_allocator);
    CHECK_EQ(world_apply(&w, node_mark(4, 0, KLUIS__LOG__NODE_MARK__MARK__REMOVE)), KL_OK);
    CHECK_EQ(world_apply(&w, node_register(4, 8, true)), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, node_add(4, "four", "west", false)), KL_ALREADY_EXISTS);
    world_done(&w);
}

static bool count_drained(void *arg, const Kluis__Store__NodeRecord *node)
{
    *(unsigned *)arg += node->drained ? 1u : 0u;
    return true;
}

static unsigned drained(struct world *w)
{
    unsigned n = 0;

    CHECK_OK(kl_core_nodes(&w->view, count_drained, &n));
    return n;
}

/* Marks are set on all the nodes that are named, or on none. */
TEST(groups, node_mark)
{
    struct world w;
    Kluis__Store__NodeRecord *node;

    world_init(&w);
    CHECK_EQ(world_apply(&w, node_add(1, "one", "west", true)), KL_OK);
    CHECK_EQ(world_apply(&w, node_add(2, "two", "west", false)), KL_OK);
    CHECK_EQ(world_apply(&w, node_mark(1, 3, KLUIS__LOG__NODE_MARK__MARK__DRAIN)), KL_NOT_FOUND);
    CHECK_EQ(drained(&w), 0);
    CHECK_EQ(world_apply(&w, node_mark(1, 2, KLUIS__LOG__NODE_MARK__MARK__DRAIN)), KL_OK);
    CHECK_EQ(drained(&w), 2);
    CHECK_EQ(world_apply(&w, node_mark(1, 0, KLUIS__LOG__NODE_MARK__MARK__UNDRAIN)), KL_OK);
    CHECK_EQ(drained(&w), 1);
    CHECK_EQ(world_apply(&w, node_mark(1, 0, KLUIS__LOG__NODE_MARK__MARK__PROMOTE)), KL_OK);
    node = node_of(&w, 1);
    CHECK(!node->standby && !node->removed);
    kl_pb_wipe_free(&node->base, &kl_pb_allocator);
    CHECK_EQ(world_apply(&w, node_mark(1, 0, KLUIS__LOG__NODE_MARK__MARK__NONE)),
             KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, node_mark(1, 0, 9)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, node_mark(2, 0, KLUIS__LOG__NODE_MARK__MARK__REMOVE)), KL_OK);
    CHECK_EQ(world_apply(&w, node_mark(2, 0, KLUIS__LOG__NODE_MARK__MARK__REMOVE)), KL_OK);
    CHECK_EQ(world_apply(&w, node_mark(1, 2, KLUIS__LOG__NODE_MARK__MARK__DRAIN)), KL_NOT_FOUND);
    CHECK_EQ(drained(&w), 1);
    world_done(&w);
}

/* A keyring is replaced only by who saw the one before, and never loses a root key. */
TEST(groups, keyring)
{
    struct world w;
    Kluis__Store__KeyringRecord *ring = NULL;

    world_init(&w);
    CHECK_EQ(world_apply(&w, keyring_put(0, 0)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, keyring_put(1, 1)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, keyring_put(1, 0)), KL_OK);
    CHECK_EQ(world_apply(&w, keyring_put(1, 0)), KL_CHANGED);
    CHECK_EQ(world_apply(&w, keyring_put(3, 1)), KL_OK);
    CHECK_EQ(world_apply(&w, keyring_put(2, 3)), KL_INVALID_ARGUMENT);
    CHECK_OK(kl_core_keyring(&w.view, &ring));
    CHECK_EQ(ring->n_roots, 3);
    kl_pb_wipe_free(&ring->base, &kl_pb_allocator);
    world_done(&w);
}

/* ---- claims ---- */

static enum kl_status claim_state(struct world *w, const char *name, int *state)
{
    Kluis__Store__ClaimRecord *claim = NULL;
    enum kl_status st = kl_core_claim(&w->view, name, &claim);

    if (st == KL_OK) {
        *state = (int)claim->state;
        CHECK_EQ(claim->vault != NULL, *state == KLUIS__STORE__CLAIM_STATE__CLAIM_PENDING);
        kl_pb_wipe_free(&claim->base, &kl_pb_allocator);
    }
    return st;
}

static bool count_claim(void *arg, const Kluis__Store__ClaimRecord *claim)
{
    CHECK_EQ(claim->state, KLUIS__STORE__CLAIM_STATE__CLAIM_PENDING);
    CHECK_NE(claim->vault->wrapped_key.len, 0);
    ++*(unsigned *)arg;
    return true;
}

static unsigned pending(struct world *w)
{
    unsigned n = 0;

    CHECK_OK(kl_core_pending_claims(&w->view, count_claim, &n));
    return n;
}

/* A name is taken once, whatever its case, and each step may come twice. */
TEST(claims, life)
{
    struct world w;
    int is = 0;

    world_init(&w);
    world_group(&w);
    CHECK_EQ(world_apply(&w, vault_claim("My-Vault", 2, 1)), KL_OK);
    CHECK_STR(w.result->vault->name, "My-Vault");
    CHECK_EQ(w.result->vault->wrapped_key.len, 0);
    CHECK_EQ(world_apply(&w, vault_claim("my-vault", 2, 1)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_claim("MY-VAULT", 3, 1)), KL_ALREADY_EXISTS);
    CHECK_EQ(pending(&w), 1);
    CHECK_EQ(world_apply(&w, vault_confirm("my-vault", 3)), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_confirm("my-vault", 2)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_confirm("my-vault", 2)), KL_OK);
    CHECK_OK(claim_state(&w, "MY-vault", &is));
    CHECK_EQ(is, KLUIS__STORE__CLAIM_STATE__CLAIM_CONFIRMED);
    CHECK_EQ(pending(&w), 0);
    CHECK_EQ(world_apply(&w, vault_claim("my-vault", 2, 1)), KL_OK);
    CHECK_OK(claim_state(&w, "my-vault", &is)); /* still confirmed: nothing begins anew */
    CHECK_EQ(is, KLUIS__STORE__CLAIM_STATE__CLAIM_CONFIRMED);
    CHECK_EQ(world_apply(&w, vault_release("my-vault", 3)), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_release("my-vault", 2)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_release("my-vault", 2)), KL_OK);
    CHECK_STATUS(claim_state(&w, "my-vault", &is), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_confirm("my-vault", 2)), KL_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_claim("my-vault", 3, 1)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_release("my-vault", 2)), KL_NOT_FOUND); /* a late one */
    CHECK_EQ(pending(&w), 1);
    CHECK_EQ(world_apply(&w, vault_release("my-vault", 3)), KL_OK);
    CHECK_EQ(pending(&w), 0);
    CHECK_EQ(world_count(&w, 'd') + world_count(&w, 'c'), 0);
    world_done(&w);
}

/* A claim belongs to a home group: the directory itself is none. */
TEST(claims, group)
{
    struct world w;

    world_init(&w);
    world_group(&w);
    CHECK_EQ(world_apply(&w, vault_claim("vault", 2, 0)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_apply(&w, vault_claim("vault", 2, KL_GROUPS_MAX)), KL_INVALID_ARGUMENT);
    CHECK_EQ(world_count(&w, 'd'), 0);
    world_done(&w);
}

/* ---- vaults ---- */

static void fixture(struct world *w)
{
    world_init(w);
    world_group(w);
    CHECK_EQ(world_apply(w, vault_create("Vault", 2)), KL_OK);
}

static enum kl_status get(struct world *w, const char *name, enum kl_want want)
{
    Kluis__Store__VaultRecord *vault = NULL;
    enum kl_status st = kl_core_vault(&w->view, name, want, &vault);

    if (st == KL_OK) {
        kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    }
    return st;
}

/* Creation sets the times itself, keeps the name as given and finds it in any case. */
TEST(vaults, create)
{
    struct world w;
    Kluis__Log__Command *cmd = vault_create("Vault", 2);
    Kluis__Store__VaultRecord *vault = NULL;

    world_init(&w);
    world_group(&w);
    cmd->vault_create->vault->created_ms = 5;
    cmd->vault_create->vault->deleted_ms = 6;
    cmd->vault_create->vault->purge_ms = 7;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_EQ(w.result->vault->wrapped_key.len, 0);
    CHECK_OK(kl_core_vault(&w.view, "vAULT", KL_WANT_LIVE, &vault));
    CHECK_STR(vault->name, "Vault");
    CHECK_EQ(vault->created_ms, w.now);
    CHECK_EQ(vault->updated_ms, w.now);
    CHECK_EQ(vault->deleted_ms, 0);
    CHECK_EQ(vault->purge_ms, 0);
    CHECK_NE(vault->wrapped_key.len, 0);
    kl_pb_wipe_free(&vault->base, &kl_pb_allocator);
    world_done(&w);
}

/* The same vault again is no new vault; another one of the name is refused, and told why. */
TEST(vaults, create_again)
{
    struct world w;
    uint8_t before[32];
    uint8_t after[32];

    fixture(&w);
    world_digest(&w, before);
    w.now += 1000;
    CHECK_EQ(world_apply(&w, vault_create("VAULT", 2)), KL_OK);
    CHECK_EQ(w.result->vault->created_ms, w.now - 1000);
    CHECK_EQ(world_apply(&w, vault_create("vault", 3)), KL_ALREADY_EXISTS);
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
    CHECK_EQ(world_apply(&w, vault_create("vault", 3)), KL_VAULT_DELETED);
    CHECK_EQ(world_apply(&w, vault_create("vault", 2)), KL_OK);
    CHECK_STATUS(get(&w, "vault", KL_WANT_LIVE), KL_VAULT_NOT_FOUND); /* it stays deleted */
    world_done(&w);
}

/* Each field is checked again where it is stored, and named when it is wrong. */
TEST(vaults, create_fields)
{
    struct world w;
    Kluis__Log__Command *cmd;
    uint8_t before[32];
    uint8_t after[32];

    world_init(&w);
    world_group(&w);
    world_digest(&w, before);
#define REFUSED(change, wrong)                                                                     \
    do {                                                                                           \
        Kluis__Store__VaultRecord *v;                                                              \
                                                                                                   \
        cmd = vault_create("vault", 2);                                                            \
        v = cmd->vault_create->vault;                                                              \
        change;                                                                                    \
        CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);                                       \
        CHECK_STR(w.result->field, wrong);                                                         \
        CHECK(w.result->vault == NULL);                                                            \
    } while (0)
    REFUSED(v->name = a_vault("", 1)->name, "name");
    REFUSED(v->name = a_vault("ab", 1)->name, "name");
    REFUSED(v->name = a_vault("a--b", 1)->name, "name");
    REFUSED(v->name = a_vault("abcdefghijklmnopqrstuvwxy", 1)->name, "name");
    REFUSED(v->vault_id.len = 15, "id");
    REFUSED(v->vault_id.len = 0, "id");
    REFUSED(v->subscription = a_vault("none", 1)->name, "subscription");
    REFUSED(v->resource_group = a_vault("", 1)->name, "resource_group");
    REFUSED(v->location = a_vault("West", 1)->name, "location");
    REFUSED(v->retention_days = 6, "retention_days");
    REFUSED(v->retention_days = 91, "retention_days");
    REFUSED(v->wrapped_key.len = 0, "wrapped_key");
#undef REFUSED
    cmd = vault_create("vault", 2);
    cmd->vault_create->vault = NULL;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    world_done(&w);
}

static void set_tags(Kluis__Log__VaultUpdate *op, Kluis__Store__Tag *tags, Kluis__Store__Tag **list,
                     size_t n)
{
    static char keys[32][24];
    static char value[] = "value";

    for (size_t i = 0; i < n; i++) {
        kluis__store__tag__init(&tags[i]);
        (void)snprintf(keys[i], sizeof keys[i], "k%zu", i);
        tags[i].key = keys[i];
        tags[i].value = value;
        list[i] = &tags[i];
    }
    op->set_tags = true;
    op->tags = list;
    op->n_tags = n;
}

/* Tags are replaced whole, up to 15, with keys that differ. */
TEST(vaults, update_tags)
{
    struct world w;
    Kluis__Log__Command *cmd;
    Kluis__Store__Tag tags[16];
    Kluis__Store__Tag *list[16];

    fixture(&w);
    w.now += 5;
    cmd = vault_update("vault");
    set_tags(cmd->vault_update, tags, list, 15);
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_EQ(w.result->vault->n_tags, 15);
    CHECK_EQ(w.result->vault->updated_ms, w.now);
    set_tags(cmd->vault_update, tags, list, 16);
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    CHECK_STR(w.result->field, "tags");
    set_tags(cmd->vault_update, tags, list, 2);
    tags[1].key = tags[0].key;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    set_tags(cmd->vault_update, tags, list, 1);
    tags[0].key[0] = 0;
    CHECK_EQ(world_apply(&w, cmd), KL_INVALID_ARGUMENT);
    set_tags(cmd->vault_update, tags, list, 0);
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_EQ(w.result->vault->n_tags, 0);
    CHECK_EQ(world_apply(&w, vault_update("other")), KL_VAULT_NOT_FOUND);
    world_done(&w);
}

/* S9: purge protection goes on and never off. */
TEST(vaults, purge_protection_is_for_good)
{
    struct world w;
    Kluis__Log__Command *cmd = vault_update("vault");

    fixture(&w);
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK(!w.result->vault->purge_protection);
    cmd->vault_update->enable_purge_protection = true;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK(w.result->vault->purge_protection);
    cmd->vault_update->enable_purge_protection = false;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK(w.result->vault->purge_protection);
    world_done(&w);
}

/* S4, S5, S7: a deleted vault answers nothing, keeps its name and its date, and comes back whole. */
TEST(vaults, delete_and_recover)
{
    struct world w;

    fixture(&w);
    CHECK_EQ(world_apply(&w, object_set("vault", 2, "db", 20, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_recover("vault")), KL_VAULT_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
    CHECK_EQ(w.result->vault->deleted_ms, w.now);
    CHECK_EQ(w.result->vault->purge_ms, w.now + 7 * DAY_MS);
    CHECK_STATUS(get(&w, "vault", KL_WANT_LIVE), KL_VAULT_NOT_FOUND);
    CHECK_OK(get(&w, "vault", KL_WANT_DELETED));
    CHECK_OK(get(&w, "vault", KL_WANT_ANY));
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_VAULT_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_update("vault")), KL_VAULT_NOT_FOUND);
    CHECK_EQ(world_apply(&w, object_set("vault", 2, "db", 20, 31)), KL_VAULT_NOT_FOUND);
    CHECK_EQ(world_apply(&w, object_delete("vault", "db")), KL_VAULT_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_recover("vault")), KL_OK);
    CHECK_EQ(w.result->vault->deleted_ms, 0);
    CHECK_EQ(w.result->vault->purge_ms, 0);
    CHECK_OK(get(&w, "vault", KL_WANT_LIVE));
    CHECK_EQ(world_count(&w, 'p') + world_count(&w, 'u'), 0);
    CHECK_EQ(world_apply(&w, object_set("vault", 2, "db", 20, 31)), KL_OK);
    CHECK_EQ(w.result->object->version_count, 2);
    world_done(&w);
}

/* A second delete is refused and leaves the store as it was. */
TEST(vaults, delete_twice)
{
    struct world w;
    uint8_t before[32];
    uint8_t after[32];

    fixture(&w);
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
    world_digest(&w, before);
    w.now += 500;
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_VAULT_NOT_FOUND);
    world_digest(&w, after);
    CHECK_MEM(before, after, 32);
    world_done(&w);
}

static bool outbox_is(void *arg, const Kluis__Store__OutboxRecord *item)
{
    unsigned *n = arg;

    CHECK_STR(item->name, "Vault");
    CHECK(kl_bytes_eq(kl_bytes_of(item->vault_id.data, item->vault_id.len), id_of(2)));
    ++*n;
    return true;
}

/* S3, S10: purging takes the key at once, tells the directory, and leaves nothing behind. */
TEST(vaults, purge)
{
    struct world w;
    unsigned n = 0;

    fixture(&w);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(
            world_apply(&w, object_set("vault", 2, i == 0 ? "a" : "b", i == 0 ? 20 : 21, 30 + i)),
            KL_OK);
    }
    CHECK_EQ(world_apply(&w, object_delete("vault", "b")), KL_OK);
    CHECK_EQ(world_apply(&w, vault_purge("vault")), KL_VAULT_NOT_FOUND); /* live */
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
    CHECK_EQ(world_apply(&w, vault_purge("vault")), KL_OK);
    CHECK_STATUS(get(&w, "vault", KL_WANT_ANY), KL_VAULT_NOT_FOUND);
    CHECK_OK(kl_core_outbox(&w.view, outbox_is, &n));
    CHECK_EQ(n, 1);
    CHECK_EQ(world_apply(&w, vault_purge("vault")), KL_VAULT_NOT_FOUND);
    CHECK_EQ(world_apply(&w, vault_create("vault", 2)), KL_CHANGED); /* a late duplicate */
    CHECK(world_work(&w) > 0);
    CHECK_EQ(world_count(&w, 's') + world_count(&w, 't') + world_count(&w, 'o'), 0);
    CHECK_EQ(world_count(&w, 'p') + world_count(&w, 'g') + world_count(&w, 'u'), 0);
    CHECK_EQ(world_apply(&w, outbox_done(2)), KL_OK);
    CHECK_EQ(world_apply(&w, outbox_done(2)), KL_OK);
    CHECK_EQ(world_count(&w, 'x'), 0);
    world_done(&w);
}

/* S9, S10: with protection on nobody purges early, and the schedule does at the very millisecond. */
TEST(vaults, purge_protected)
{
    struct world w;
    Kluis__Log__Command *cmd = vault_update("vault");
    uint64_t due;

    fixture(&w);
    cmd->vault_update->enable_purge_protection = true;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_EQ(world_apply(&w, vault_delete("vault")), KL_OK);
    due = w.result->vault->purge_ms;
    CHECK_EQ(world_apply(&w, vault_purge("vault")), KL_PURGE_PROTECTED);
    w.now = due - 1;
    CHECK_EQ(world_apply(&w, vault_purge("vault")), KL_PURGE_PROTECTED);
    CHECK_EQ(world_work(&w), 0);
    CHECK_EQ(world_apply(&w, purge_due(KL_KIND_VAULT, 2, "vault", 0, due)), KL_OK);
    CHECK_EQ(w.result->count, 0);
    CHECK_OK(get(&w, "vault", KL_WANT_DELETED));
    w.now = due;
    CHECK(world_work(&w) > 0);
    CHECK_STATUS(get(&w, "vault", KL_WANT_ANY), KL_VAULT_NOT_FOUND);
    world_done(&w);
}

/* A vault and its objects live by the vault's own retention. */
TEST(vaults, retention_days)
{
    struct world w;
    Kluis__Log__Command *cmd = vault_create("long", 2);

    world_init(&w);
    world_group(&w);
    cmd->vault_create->vault->retention_days = 90;
    CHECK_EQ(world_apply(&w, cmd), KL_OK);
    CHECK_EQ(world_apply(&w, object_set("long", 2, "db", 20, 30)), KL_OK);
    CHECK_EQ(world_apply(&w, object_delete("long", "db")), KL_OK);
    CHECK_EQ(w.result->object->purge_ms, w.now + 90 * DAY_MS);
    CHECK_EQ(world_apply(&w, vault_delete("long")), KL_OK);
    CHECK_EQ(w.result->vault->purge_ms, w.now + 90 * DAY_MS);
    world_done(&w);
}

struct names {
    char text[256];
    unsigned max;
};

static bool add_name(void *arg, const Kluis__Store__VaultRecord *vault)
{
    struct names *n = arg;
    size_t len = strlen(n->text);

    (void)snprintf(n->text + len, sizeof n->text - len, "%s ", vault->name);
    return --n->max > 0;
}

static const char *names(struct world *w, enum kl_want want, const char *after, unsigned max)
{
    static struct names n;

    n = (struct names){.max = max};
    CHECK_OK(kl_core_vaults(&w->view, want, after, add_name, &n));
    return n.text;
}

/* Lists are in order, split live from deleted, and go on behind any name, present or not. */
TEST(vaults, lists)
{
    struct world w;

    world_init(&w);
    world_group(&w);
    CHECK_EQ(world_apply(&w, vault_create("vault-c", 3)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_create("vault-A", 4)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_create("vault-ab", 5)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_create("vault-b", 6)), KL_OK);
    CHECK_EQ(world_apply(&w, vault_delete("vault-b")), KL_OK);
    CHECK_EQ(world_apply(&w, vault_delete("vault-c")), KL_OK);
    CHECK_STR(names(&w, KL_WANT_LIVE, "", 9), "vault-A vault-ab ");
    CHECK_STR(names(&w, KL_WANT_LIVE, "", 1), "vault-A ");
    CHECK_STR(names(&w, KL_WANT_LIVE, "VAULT-a", 9), "vault-ab ");
    CHECK_STR(names(&w, KL_WANT_LIVE, "vault-aa", 9), "vault-ab ");
    CHECK_STR(names(&w, KL_WANT_LIVE, "vault-ab", 9), "");
    CHECK_STR(names(&w, KL_WANT_DELETED, "", 9), "vault-b vault-c ");
    CHECK_STR(names(&w, KL_WANT_DELETED, "vault-b", 9), "vault-c ");
    CHECK_STATUS(kl_core_vaults(&w.view, KL_WANT_LIVE, "no name/", add_name, NULL),
                 KL_INVALID_ARGUMENT);
    CHECK_STATUS(get(&w, "no name/", KL_WANT_ANY), KL_VAULT_NOT_FOUND);
    world_done(&w);
}

/* In one entry objects follow what becomes of their vault between them. */
TEST(vaults, within_one_entry)
{
    static const enum kl_status want[] = {KL_OK, KL_OK, KL_VAULT_NOT_FOUND, KL_OK, KL_OK,
                                          KL_OK, KL_OK, KL_VAULT_NOT_FOUND, KL_OK, KL_CHANGED,
                                          KL_OK};
    struct world w;

    fixture(&w);
    world_add(&w, object_set("vault", 2, "a", 20, 30));
    world_add(&w, vault_delete("vault"));
    world_add(&w, object_set("vault", 2, "a", 20, 31));
    world_add(&w, vault_recover("vault"));
    world_add(&w, object_set("vault", 2, "a", 20, 31));
    world_add(&w, vault_delete("vault"));
    world_add(&w, vault_purge("vault"));
    world_add(&w, object_delete("vault", "a"));
    world_add(&w, vault_create("vault", 3));
    world_add(&w, object_set("vault", 2, "a", 20, 32));
    world_add(&w, object_set("vault", 3, "a", 21, 33));
    world_commit(&w);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        CHECK_EQ(world_result(&w, i), want[i]);
    }
    CHECK(world_work(&w) > 0);
    CHECK_EQ(world_count(&w, 'o'), 1);
    CHECK_EQ(world_count(&w, 's'), 1);
    world_done(&w);
}
