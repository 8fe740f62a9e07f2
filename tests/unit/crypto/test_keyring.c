#include "tests/unit/crypto/crypto_fixture.h"

#include "common/alloc.h"
#include "common/names.h"
#include "server/crypto/seal.h"

#include <pthread.h>

static enum kl_status reopen(const struct fixture *f)
{
    struct kl_keyring *ring = NULL;
    enum kl_status st = kl_keyring_open(f->seal, &kl_real_entropy, f->record, &ring);

    kl_keyring_free(ring);
    return st;
}

/* Flips every byte of *data in turn: none of the records may open. */
static void flip_each(const struct fixture *f, ProtobufCBinaryData *data)
{
    CHECK(data->len != 0);
    for (size_t i = 0; i < data->len; i++) {
        data->data[i] ^= 0x40;
        CHECK_STATUS(reopen(f), KL_CRYPTO);
        data->data[i] ^= 0x40;
    }
    for (size_t len = data->len; data->len > 0;) {
        data->len--;
        CHECK(reopen(f) != KL_OK);
        if (data->len == 0) {
            data->len = len;
            break;
        }
    }
    CHECK_OK(reopen(f));
}

/* A record with any byte of its boxes changed or missing does not open. */
TEST(keyring, tampered_record)
{
    struct fixture f;

    fixture_init(&f, NULL);
    flip_each(&f, &f.record->roots[0]->wrapped);
    flip_each(&f, &f.record->wrapped_geography_root);
    for (size_t i = 0; i < f.record->geography_root_id.len; i++) {
        f.record->geography_root_id.data[i] ^= 1;
        CHECK_STATUS(reopen(&f), KL_CRYPTO); /* it is the identity of the box */
        f.record->geography_root_id.data[i] ^= 1;
    }
    f.record->roots[0]->version = 2;
    CHECK_STATUS(reopen(&f), KL_CRYPTO);
    f.record->roots[0]->version = 0;
    CHECK_STATUS(reopen(&f), KL_CORRUPT);
    f.record->roots[0]->version = 1;
    f.record->geography_root_id.len = 15;
    CHECK_STATUS(reopen(&f), KL_CORRUPT);
    f.record->geography_root_id.len = 16;
    f.record->n_roots = 0;
    CHECK_STATUS(reopen(&f), KL_CORRUPT);
    f.record->n_roots = 1;
    CHECK_OK(reopen(&f));
    fixture_done(&f);
}

/* A box of one kind does not open as another, though both are keys under the seal. */
TEST(keyring, root_and_geography_do_not_change_places)
{
    ProtobufCBinaryData root;
    struct fixture f;

    fixture_init(&f, NULL);
    root = f.record->roots[0]->wrapped;
    f.record->roots[0]->wrapped = f.record->wrapped_geography_root;
    f.record->wrapped_geography_root = root;
    CHECK_STATUS(reopen(&f), KL_CRYPTO);
    fixture_done(&f);
}

/* Clusters given one geography key have one fingerprint, others have another. */
TEST(keyring, geography_fingerprint)
{
    static const uint8_t key[KL_KEY_LEN] = {1, 2, 3};
    struct fixture a;
    struct fixture b;
    struct fixture c;

    fixture_init(&a, key);
    fixture_init(&b, key);
    fixture_init(&c, NULL);
    CHECK_MEM(a.record->geography_root_id.data, b.record->geography_root_id.data, KL_ID_LEN);
    CHECK(memcmp(a.record->geography_root_id.data, c.record->geography_root_id.data, KL_ID_LEN) !=
          0);
    CHECK(memcmp(a.record->geography_root_id.data, key, KL_ID_LEN) != 0);
    fixture_done(&a);
    fixture_done(&b);
    fixture_done(&c);
}

/* No key of the record can be found in the record, nor in what it wraps. */
TEST(keyring, nothing_in_the_clear)
{
    static const uint8_t key[KL_KEY_LEN] = "the key of the whole geography!";
    struct fixture f;
    uint8_t packed[1024];
    size_t n;

    fixture_init(&f, key);
    n = kluis__store__keyring_record__get_packed_size(f.record);
    CHECK(n <= sizeof packed);
    (void)kluis__store__keyring_record__pack(f.record, packed);
    CHECK(memmem(packed, n, key, 8) == NULL);
    fixture_done(&f);
}

/* Adds root version `version` to the fixture's record, as a rotation would. */
static void add_root(struct fixture *f, uint32_t version)
{
    struct kl_box_id id = {.what = KL_BOX_ROOT_KEY};
    Kluis__Store__KeyringRecord__RootKey *root = kl_malloc(sizeof *root);
    Kluis__Store__KeyringRecord__RootKey **roots =
        kl_realloc(f->record->roots,
                   (f->record->n_roots + 1) * sizeof(Kluis__Store__KeyringRecord__RootKey *));
    struct kl_buf wrapped = KL_BUF(KL_WRAPPED_MAX);
    uint8_t key[KL_KEY_LEN];

    CHECK(root != NULL && roots != NULL);
    kluis__store__keyring_record__root_key__init(root);
    root->version = version;
    kl_box_id_add_be32(&id, version);
    CHECK_OK(kl_real_entropy.fill(NULL, key, sizeof key));
    CHECK_OK(f->seal->wrap(f->seal, &kl_real_entropy, &id, key, &wrapped));
    root->wrapped = (ProtobufCBinaryData){wrapped.len, wrapped.ptr};
    roots[f->record->n_roots] = root;
    f->record->roots = roots;
    f->record->n_roots++;
}

/* New vault keys are wrapped by the newest root; what older roots wrapped still opens. */
TEST(keyring, several_roots)
{
    struct kl_buf sealed = KL_BUF(1024);
    struct kl_buf plain = KL_BUF(1024);
    struct kl_buf fresh = KL_BUF(1024);
    struct fixture f;

    fixture_init(&f, NULL);
    CHECK_OK(fixture_seal(&f, kl_bytes_str("old"), &sealed));
    add_root(&f, 7);
    add_root(&f, 3);
    kl_keyring_free(f.ring);
    f.ring = NULL;
    CHECK_OK(kl_keyring_open(f.seal, &kl_real_entropy, f.record, &f.ring));
    CHECK_OK(fixture_open(&f, kl_buf_bytes(&sealed), &plain));
    CHECK_MEM(plain.ptr, "old", 3);
    CHECK_OK(kl_vault_key_new(f.ring, f.id.vault_id, &fresh));
    CHECK_EQ(kl_get_be32(fresh.ptr + 4), 7);
    f.record->roots[2]->version = 7; /* twice the same */
    CHECK_STATUS(reopen(&f), KL_CORRUPT);
    f.record->roots[2]->version = 3;
    kl_buf_wipe(&sealed);
    kl_buf_wipe(&plain);
    kl_buf_wipe(&fresh);
    fixture_done(&f);
}

enum { VAULTS = KL_VAULT_KEY_CACHE_MAX + 300, ROUNDS = 3 };

struct many {
    struct fixture f;
    uint8_t ids[VAULTS][KL_ID_LEN];
    uint8_t wrapped[VAULTS][KL_KEY_LEN + KL_BOX_OVERHEAD];
    uint8_t object_keys[VAULTS][KL_KEY_LEN + KL_BOX_OVERHEAD];
    uint64_t seed;
};

static enum kl_status open_one(struct many *m, size_t vault, size_t with_key_of)
{
    struct kl_identity id = m->f.id;
    struct kl_buf sealed = KL_BUF(256);
    enum kl_status st;

    id.vault_id = kl_bytes_of(m->ids[vault], KL_ID_LEN);
    st = kl_payload_seal(m->f.ring, &id, kl_bytes_of(m->wrapped[with_key_of], sizeof m->wrapped[0]),
                         kl_bytes_of(m->object_keys[vault], sizeof m->object_keys[0]),
                         kl_bytes_str("x"), &sealed);
    kl_buf_wipe(&sealed);
    return st;
}

static struct many *many_new(void)
{
    struct many *m = test_calloc(1, sizeof *m);

    m->seed = test_seed();
    fixture_init(&m->f, NULL);
    for (size_t i = 0; i < VAULTS; i++) {
        struct kl_identity id = m->f.id;
        struct kl_buf key = KL_BUF(256);

        kl_put_be64(m->ids[i], i);
        id.vault_id = kl_bytes_of(m->ids[i], KL_ID_LEN);
        CHECK_OK(kl_vault_key_new(m->f.ring, id.vault_id, &key));
        memcpy(m->wrapped[i], key.ptr, key.len);
        kl_buf_clear(&key);
        CHECK_OK(kl_object_key_new(m->f.ring, &id, kl_bytes_of(m->wrapped[i], sizeof m->wrapped[0]),
                                   &key));
        memcpy(m->object_keys[i], key.ptr, key.len);
        kl_buf_wipe(&key);
    }
    return m;
}

static void many_free(struct many *m)
{
    fixture_done(&m->f);
    test_free(m);
}

/* With more vaults than the cache holds every one still gets its own key, and never another's. */
TEST(keyring, cache_overflow)
{
    struct many *m = many_new();

    for (size_t i = 0; i < (size_t)ROUNDS * VAULTS; i++) {
        size_t vault = test_random(&m->seed) % VAULTS;
        size_t other = test_random(&m->seed) % VAULTS;

        CHECK_OK(open_one(m, vault, vault));
        CHECK_STATUS(open_one(m, vault, other), other == vault ? KL_OK : KL_CRYPTO);
    }
    many_free(m);
}

static void *open_many(void *arg)
{
    struct many *m = arg;
    uint64_t seed = m->seed ^ (uint64_t)(uintptr_t)&seed;

    for (size_t i = 0; i < VAULTS; i++) {
        size_t vault = test_random(&seed) % VAULTS;

        if (open_one(m, vault, vault) != KL_OK) {
            return m;
        }
    }
    return NULL;
}

/* One keyring serves many threads. */
TEST(keyring, many_threads)
{
    enum { THREADS = 4 };
    struct many *m = many_new();
    pthread_t threads[THREADS];

    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, open_many, m), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        void *failed = NULL;

        CHECK_EQ(pthread_join(threads[i], &failed), 0);
        CHECK(failed == NULL);
    }
    many_free(m);
}
