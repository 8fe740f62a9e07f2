/* How a read is served that asks for another consistency than the default. */
#include "tests/unit/rpc/fixture.h"

#define GET     "/kluis.v1.Secrets/Get"
#define SET     "/kluis.v1.Secrets/Set"
#define TEXT(s) ((char *)(uintptr_t)(s))
#define QUORUM  KLUIS__V1__CONSISTENCY__QUORUM
#define STALE   KLUIS__V1__CONSISTENCY__STALE

static struct fix *with_secret(void)
{
    struct fix *f = fix_new(1);

    make_vault(f, "vault", false);
    set_secret(f, "vault", "s", "value", NULL);
    return f;
}

static struct answer read_as(struct fix *f, unsigned node, const char *vault,
                             Kluis__V1__Consistency consistency, uint32_t max_age_ms)
{
    Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    const struct ask ask = {.method = GET,
                            .request = &get.base,
                            .node = &f->nodes[node - 1],
                            .consistency = consistency,
                            .max_age_ms = max_age_ms};

    get.vault = TEXT(vault);
    get.name = TEXT("s");
    return fix_ask(f, &ask);
}

static void expect(struct fix *f, unsigned node, const char *vault,
                   Kluis__V1__Consistency consistency, uint32_t max_age_ms, enum kl_status st)
{
    struct answer a = read_as(f, node, vault, consistency, max_age_ms);

    CHECK_STATUS(a.st, st);
    answer_free(&a);
}

/* Any replica answers, leader or not, and says who it is and how old its state is, rounded up. */
TEST(read, stale)
{
    struct fix *f = with_secret();
    struct answer a;

    fake_store_lead(f->stores[0], 0);
    fake_store_lead(f->stores[1], 0);
    fake_store_age(f->stores[1], 1, 0);
    fake_store_age(f->stores[1], 2, 4999001);
    a = read_as(f, 2, "vault", STALE, 0);
    CHECK_STATUS(a.st, KL_OK);
    CHECK_EQ(a.reply->age_ms, 5000);
    CHECK_EQ(a.reply->node_id, 2);
    CHECK_STR(a.reply->region, f->nodes[1].view.nodes[1].region);
    answer_free(&a);
    a = read_as(f, 1, "vault", STALE, 0);
    CHECK_STATUS(a.st, KL_OK);
    CHECK_EQ(a.reply->age_ms, 0);
    CHECK_EQ(a.reply->node_id, 1);
    answer_free(&a);
    expect(f, 1, "vault", KLUIS__V1__CONSISTENCY__LINEARIZABLE, 0, KL_UNAVAILABLE);
    fix_free(f);
}

/* The bound holds to the millisecond, and a refusal names age and bound. */
TEST(read, too_old)
{
    struct fix *f = with_secret();
    struct answer a;

    fake_store_age(f->stores[1], 2, 5000000);
    expect(f, 2, "vault", STALE, 5000, KL_OK);
    fake_store_age(f->stores[1], 2, 5000001);
    a = read_as(f, 2, "vault", STALE, 5000);
    CHECK_STATUS(a.st, KL_TOO_OLD);
    CHECK_EQ(a.reply->code, 14);
    CHECK(strstr(a.reply->message, "5001 ms old") != NULL);
    CHECK(strstr(a.reply->message, "5000 ms") != NULL);
    CHECK(a.reply->retry_after_ms != 0);
    CHECK_EQ(a.reply->payload.len, 0);
    answer_free(&a);
    fake_store_age(f->stores[1], 2, UINT64_MAX);
    a = read_as(f, 2, "vault", STALE, 0);
    CHECK_STATUS(a.st, KL_UNAVAILABLE);
    CHECK_STR(a.reply->fields[0]->field, "consistency");
    answer_free(&a);
    fix_free(f);
}

/* A name that this replica's directory lacks may be a new one: only within the bound it is unknown. */
TEST(read, stale_directory)
{
    struct fix *f = with_secret();

    fake_store_age(f->stores[0], 2, 3000000);
    expect(f, 2, "unknown", STALE, 3000, KL_VAULT_NOT_FOUND);
    expect(f, 2, "unknown", STALE, 0, KL_VAULT_NOT_FOUND);
    expect(f, 2, "unknown", STALE, 2000, KL_TOO_OLD);
    fix_free(f);
}

/* The leader asks a majority before it reads; nobody else does, and a refusal reaches the caller. */
TEST(read, quorum)
{
    struct fix *f = with_secret();
    uint64_t rounds = fake_store_confirms(f->stores[1]);
    struct answer a;

    a = read_as(f, 1, "vault", QUORUM, 0);
    CHECK_STATUS(a.st, KL_OK);
    CHECK_EQ(a.reply->age_ms, 0);
    CHECK_EQ(a.reply->node_id, 1);
    answer_free(&a);
    CHECK_EQ(fake_store_confirms(f->stores[1]), rounds + 1);
    expect(f, 1, "vault", KLUIS__V1__CONSISTENCY__LINEARIZABLE, 0, KL_OK);
    expect(f, 1, "vault", STALE, 0, KL_OK);
    CHECK_EQ(fake_store_confirms(f->stores[1]), rounds + 1);
    a = read_as(f, 2, "vault", QUORUM, 0);
    CHECK_STATUS(a.st, KL_NOT_LEADER);
    CHECK_EQ(a.reply->leader->node_id, 1);
    answer_free(&a);
    for (enum kl_status st = KL_OK; st <= KL_TIMEOUT; st++) {
        if (st == KL_EXHAUSTED || st == KL_UNAVAILABLE || st == KL_TIMEOUT) {
            fake_store_confirm(f->stores[1], st);
            expect(f, 1, "vault", QUORUM, 0, st);
        }
    }
    fake_store_confirm(f->stores[1], KL_OK);
    fake_store_lead(f->stores[1], 0);
    expect(f, 1, "vault", QUORUM, 0, KL_UNAVAILABLE);
    fix_free(f);
}

/* An unknown name is a matter for the directory's majority, and a name that is cached wrongly for both. */
TEST(read, quorum_directory)
{
    struct fix *f = with_secret();
    uint64_t rounds = fake_store_confirms(f->stores[0]);

    expect(f, 1, "unknown", QUORUM, 0, KL_VAULT_NOT_FOUND);
    CHECK_EQ(fake_store_confirms(f->stores[0]), rounds + 1);
    expect(f, 1, "vault", QUORUM, 0, KL_OK);
    CHECK_OK(delete_vault(f, "vault"));
    expect(f, 1, "vault", QUORUM, 0, KL_VAULT_NOT_FOUND);
    fake_store_confirm(f->stores[0], KL_UNAVAILABLE);
    expect(f, 1, "unknown", QUORUM, 0, KL_UNAVAILABLE);
    fix_free(f);
}

/* Rights are decided as for every read; a sealed node serves none; writes have no choice. */
TEST(read, refusals)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretGetRequest get = KLUIS__V1__SECRET_GET_REQUEST__INIT;
    Kluis__V1__SecretSetRequest set = KLUIS__V1__SECRET_SET_REQUEST__INIT;
    struct ask ask = {.method = GET, .request = &get.base, .consistency = STALE};
    struct answer a;

    get.vault = set.vault = TEXT("vault");
    get.name = set.name = TEXT("s");
    ask.token = "";
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_UNAUTHENTICATED);
    answer_free(&a);
    ask.token = NULL;
    ask.consistency = (Kluis__V1__Consistency)3;
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_INVALID_ARGUMENT);
    CHECK_STR(a.reply->fields[0]->field, "consistency");
    answer_free(&a);
    ask.consistency = QUORUM;
    ask.max_age_ms = 1;
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_INVALID_ARGUMENT);
    CHECK_STR(a.reply->fields[0]->field, "max_age_ms");
    answer_free(&a);
    ask = (struct ask){.method = SET, .request = &set.base, .consistency = STALE};
    a = fix_ask(f, &ask);
    CHECK_STATUS(a.st, KL_INVALID_ARGUMENT);
    CHECK_STR(a.reply->fields[0]->field, "consistency");
    answer_free(&a);
    fix_seal(f, &f->nodes[1], true);
    expect(f, 2, "vault", STALE, 0, KL_SEALED);
    fix_free(f);
}

/* ---- groups that are held elsewhere ---- */

enum { NORTH = 1, SOUTH = 2 }; /* groups, and the regions of nodes 1 and 2 */

/* A node without the vault's group names one that has it, for whatever is asked. */
TEST(elsewhere, hint)
{
    struct fix *f = with_secret();
    Kluis__V1__SecretSetRequest set = KLUIS__V1__SECRET_SET_REQUEST__INIT;
    const struct ask write = {.method = SET, .request = &set.base, .node = &f->nodes[1]};
    struct answer a;

    set.vault = TEXT("vault");
    set.name = TEXT("s");
    atomic_store(&f->nodes[1].lacks, 1u << NORTH);
    for (int i = 0; i < 4; i++) {
        a = i == 3 ? fix_ask(f, &write) : read_as(f, 2, "vault", (Kluis__V1__Consistency)i, 0);
        CHECK_STATUS(a.st, KL_NOT_LEADER);
        CHECK_EQ(a.reply->leader->group, NORTH);
        CHECK_EQ(a.reply->leader->node_id, 1);
        CHECK_STR(a.reply->leader->address, "127.0.0.1:1001");
        answer_free(&a);
    }
    /* Nobody has it: no hint is better than a wrong one. */
    atomic_store(&f->nodes[0].lacks, 1u << NORTH);
    a = read_as(f, 2, "vault", STALE, 0);
    CHECK_STATUS(a.st, KL_NOT_LEADER);
    CHECK_EQ(a.reply->leader->node_id, 0);
    answer_free(&a);
    fix_free(f);
}

static enum kl_status create_in(struct fix *f, const char *name, const char *location)
{
    Kluis__V1__VaultCreateRequest create = KLUIS__V1__VAULT_CREATE_REQUEST__INIT;
    struct answer a;
    enum kl_status st;

    create.name = TEXT(name);
    create.location = TEXT(location);
    a = call(f, "/kluis.v1.Vaults/Create", &create.base);
    st = a.st;
    answer_free(&a);
    return st;
}

/*
 * The directory's leader makes a vault in a group that it does not hold: it asks a member, and goes on
 * to whom that names; when they only name each other it ends.
 */
TEST(elsewhere, remote_step)
{
    struct fix *f = fix_new(2);

    atomic_store(&f->nodes[0].lacks, 1u << SOUTH);
    fake_store_lead(f->stores[2], 2);
    CHECK_OK(create_in(f, "direct", "south"));
    fake_store_lead(f->stores[2], 3); /* node 2, which is at home, names node 3 */
    CHECK_OK(create_in(f, "hop", "south"));
    fake_store_lead(f->stores[2], 1); /* whom nobody can mean */
    CHECK_STATUS(create_in(f, "circle", "south"), KL_UNAVAILABLE);
    fake_store_lead(f->stores[2], 0);
    CHECK_STATUS(create_in(f, "nobody", "south"), KL_UNAVAILABLE);
    atomic_store(&f->nodes[1].lacks, 1u << SOUTH);
    atomic_store(&f->nodes[2].lacks, 1u << SOUTH);
    CHECK_STATUS(create_in(f, "none", "south"), KL_UNAVAILABLE);
    fix_free(f);
}

/* A witness has every group and serves none: it names the leader, and another when it leads itself. */
TEST(elsewhere, witness)
{
    struct fix *f = with_secret();
    struct answer a;

    fix_seal(f, &f->nodes[1], true);
    f->nodes[1].view.witness = true;
    for (int i = 0; i < 2; i++) {
        fake_store_lead(f->stores[1], i == 0 ? 1 : 2);
        a = read_as(f, 2, "vault", i == 0 ? STALE : KLUIS__V1__CONSISTENCY__LINEARIZABLE, 0);
        CHECK_STATUS(a.st, KL_NOT_LEADER);
        CHECK_EQ(a.reply->leader->group, NORTH);
        CHECK_EQ(a.reply->leader->node_id, 1);
        answer_free(&a);
    }
    fix_free(f);
}
