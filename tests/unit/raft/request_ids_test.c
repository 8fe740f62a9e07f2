#include "server/raft/request_ids.h"

#include "common/alloc.h"
#include "server/core/keys.h"
#include "server/store/kv.h"
#include "server/store/memory.h"
#include "tests/lib/test.h"

enum { IDS = 5000 };

static struct kl_key key_of(unsigned n)
{
    uint8_t id[KL_ID_LEN] = {0};

    kl_put_be32(id + KL_ID_LEN - 4, n);
    return kl_key_request(kl_bytes_of(id, sizeof id));
}

static bool may_hold(const struct kl_request_ids *r, unsigned n)
{
    struct kl_key key = key_of(n);

    return kl_request_ids_may_hold(r, kl_key_bytes(&key));
}

static void change(struct kl_kv *kv, struct kl_request_ids *r, unsigned n, bool put)
{
    struct kl_key key = key_of(n);
    struct kl_batch batch;

    kl_batch_init(&batch, 1024);
    if (put) {
        kl_batch_put(&batch, kl_key_bytes(&key), kl_bytes_of("r", 1));
    } else {
        kl_batch_del(&batch, kl_key_bytes(&key));
    }
    CHECK_OK(kl_kv_write(kv, &batch, false));
    kl_request_ids_follow(r, &batch);
    kl_batch_done(&batch);
}

/* Whatever comes and goes, exactly the ids in the store are known; and a new start knows the same. */
TEST(request_ids, exact)
{
    static bool present[IDS];
    struct kl_request_ids r;
    struct kl_request_ids again;
    struct kl_kv_view v = {NULL, NULL};
    struct kl_view view = kl_kv_view(&v);
    uint64_t rng = test_seed();
    size_t n = 0;

    CHECK_OK(kl_kv_memory_new(&v.kv));
    CHECK_OK(kl_request_ids_load(&r, &view, &kl_real_entropy));
    for (unsigned i = 0; i < 20 * IDS; i++) {
        unsigned id = (unsigned)(test_random(&rng) % IDS);
        bool put = test_random(&rng) % 3 != (i < 10 * IDS ? 0 : 1); /* grows, then shrinks */

        put = i < 10 * IDS ? put : !put;
        change(v.kv, &r, id, put);
        n += (size_t)put - (size_t)present[id];
        present[id] = put;
        CHECK_EQ(may_hold(&r, id), put);
    }
    CHECK_OK(kl_request_ids_load(&again, &view, &kl_real_entropy));
    CHECK_EQ(r.n, n);
    CHECK_EQ(again.n, n);
    for (unsigned id = 0; id < IDS; id++) {
        CHECK_EQ(may_hold(&r, id), present[id]);
        CHECK_EQ(may_hold(&again, id), present[id]);
    }
    kl_request_ids_done(&r);
    kl_request_ids_done(&again);
    kl_kv_close(v.kv);
}

/* Other keys are not its business. */
TEST(request_ids, other_keys)
{
    struct kl_request_ids r = {0};
    struct kl_key vault = kl_key_vault("vault");
    struct kl_key family = kl_key_family('q');

    CHECK(kl_request_ids_may_hold(&r, kl_key_bytes(&vault)));
    CHECK(kl_request_ids_may_hold(&r, kl_key_bytes(&family)));
    CHECK(!may_hold(&r, 1));
}

/* Without memory it knows nothing, and says so: every id may be there. */
TEST(request_ids, no_memory)
{
    struct kl_request_ids r;
    struct kl_kv_view v = {NULL, NULL};
    struct kl_view view = kl_kv_view(&v);
    unsigned n = 0;

    CHECK_OK(kl_kv_memory_new(&v.kv));
    CHECK_OK(kl_request_ids_load(&r, &view, &kl_real_entropy));
    do {
        struct kl_key key = key_of(n);
        struct kl_batch batch;

        kl_batch_init(&batch, 1024);
        kl_batch_put(&batch, kl_key_bytes(&key), kl_bytes_of("r", 1));
        kl_alloc_fail_at(1);
        kl_request_ids_follow(&r, &batch);
        kl_alloc_fail_at(0);
        kl_batch_done(&batch);
        CHECK(may_hold(&r, n));
        n++;
    } while (!r.incomplete && n < IDS);
    CHECK(r.incomplete);
    CHECK(may_hold(&r, IDS + 1));
    kl_request_ids_done(&r);
    kl_kv_close(v.kv);
}
