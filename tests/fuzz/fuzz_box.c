/*
 * Wrapped keys and sealed payloads. The first byte of an input says which of the three boxes of a
 * payload the rest replaces: 0 the vault's key, 1 the object's key, else the payload. Keys, ids and
 * nonces are fixed, so that the genuine boxes (the corpus holds one of each) are always the same.
 *
 * What must hold: nothing but the genuine box opens, and a refusal leaves the output alone.
 */
#include "common/alloc.h"
#include "server/crypto/box.h"
#include "server/crypto/seal.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char genuine[] = "the genuine plaintext";

struct world {
    struct kl_keyring *ring;
    uint8_t drawn; /* the next byte of "randomness" */
    uint8_t ids[3][KL_ID_LEN];
    struct kl_identity id;
    struct kl_buf box[3]; /* vault key, object key, payload */
};

static enum kl_status draw(void *ctx, uint8_t *out, size_t n)
{
    struct world *w = ctx;

    for (size_t i = 0; i < n; i++) {
        out[i] = w->drawn++;
    }
    return KL_OK;
}

/* A seal that keeps keys as they are: only what it wraps matters here. */
static enum kl_status clear_wrap(struct kl_seal *seal, const struct kl_entropy *entropy,
                                 const struct kl_box_id *id, const uint8_t *key,
                                 struct kl_buf *wrapped)
{
    (void)seal;
    (void)entropy;
    (void)id;
    return kl_buf_put(wrapped, key, KL_KEY_LEN);
}

static enum kl_status clear_unwrap(struct kl_seal *seal, const struct kl_box_id *id,
                                   struct kl_bytes wrapped, uint8_t *key)
{
    (void)seal;
    (void)id;
    memcpy(key, wrapped.ptr, KL_KEY_LEN);
    return KL_OK;
}

static void must(enum kl_status st)
{
    assert(st == KL_OK);
}

static void world_init(struct world *w)
{
    const struct kl_entropy entropy = {w, draw};
    struct kl_seal seal = {clear_wrap, clear_unwrap, NULL};
    Kluis__Store__KeyringRecord *record = NULL;

    must(kl_keyring_create(&seal, &entropy, NULL, 0, &record));
    must(kl_keyring_open(&seal, &entropy, record, &w->ring));
    kluis__store__keyring_record__free_unpacked(record, &kl_pb_allocator);
    for (uint8_t i = 0; i < 3; i++) {
        w->ids[i][0] = i;
        w->box[i] = KL_BUF(1024);
    }
    w->id = (struct kl_identity){
        .vault_id = {w->ids[0], KL_ID_LEN},
        .object_id = {w->ids[1], KL_ID_LEN},
        .version_id = {w->ids[2], KL_ID_LEN},
        .kind = 1,
    };
    must(kl_vault_key_new(w->ring, w->id.vault_id, &w->box[0]));
    must(kl_object_key_new(w->ring, &w->id, kl_buf_bytes(&w->box[0]), &w->box[1]));
    must(kl_payload_seal(w->ring, &w->id, kl_buf_bytes(&w->box[0]), kl_buf_bytes(&w->box[1]),
                         kl_bytes_str(genuine), &w->box[2]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world w;
    struct kl_buf plain = KL_BUF(KL_SEALED_MAX);
    struct kl_bytes boxes[3];
    enum kl_status st;
    size_t which;
    bool same;

    if (w.ring == NULL) {
        world_init(&w);
    }
    if (size == 0) {
        return 0;
    }
    which = data[0] < 2 ? data[0] : 2;
    for (size_t i = 0; i < 3; i++) {
        boxes[i] = kl_buf_bytes(&w.box[i]);
    }
    boxes[which] = kl_bytes_of(data + 1, size - 1);
    same = kl_bytes_eq(boxes[which], kl_buf_bytes(&w.box[which]));
    must(kl_buf_put(&plain, "x", 1));
    st = kl_payload_open(w.ring, &w.id, boxes[0], boxes[1], boxes[2], &plain);
    assert(st == (same ? KL_OK : KL_CRYPTO));
    assert(plain.len == (same ? sizeof genuine : 1) && plain.ptr[0] == 'x');
    kl_buf_wipe(&plain);
    return 0;
}
