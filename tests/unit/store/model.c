#include "tests/unit/store/model.h"

#include <stdlib.h>

struct kl_bytes model_key(unsigned i, uint8_t buf[32])
{
    size_t len = 2 + i * 7 % 23;

    memset(buf, (int)(i * 13 % 5 * 60), len); /* long common prefixes, also 0 and above 127 */
    buf[len - 2] = (uint8_t)(i >> 8);
    buf[len - 1] = (uint8_t)i;
    return kl_bytes_of(buf, len);
}

struct kl_bytes model_value(uint32_t v, uint8_t *buf)
{
    size_t len = v % 7 == 0 ? 0 : v % 3 == 0 ? v % 4096 : v % 61;

    for (size_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)(v * 31 + i);
    }
    return kl_bytes_of(buf, len);
}

void model_random_batch(struct model *m, uint64_t *rng, struct kl_batch *batch, unsigned ops)
{
    uint8_t key[32];
    uint8_t value[4096];

    for (unsigned n = 0; n < ops; n++) {
        unsigned i = (unsigned)(test_random(rng) % MODEL_KEYS);

        if (test_random(rng) % 3 == 0) {
            m->value[i] = 0;
            kl_batch_del(batch, model_key(i, key));
        } else {
            m->value[i] = (uint32_t)(test_random(rng) >> 33) + 1;
            kl_batch_put(batch, model_key(i, key), model_value(m->value[i], value));
        }
    }
    CHECK_OK(kl_batch_status(batch));
}

struct sorted {
    unsigned order[MODEL_KEYS]; /* present keys in key order */
    size_t n;
};

static int by_key(const void *a, const void *b)
{
    uint8_t ka[32];
    uint8_t kb[32];

    return kl_bytes_cmp(model_key(*(const unsigned *)a, ka), model_key(*(const unsigned *)b, kb));
}

static void sort(const struct model *m, struct sorted *s)
{
    s->n = 0;
    for (unsigned i = 0; i < MODEL_KEYS; i++) {
        if (m->value[i] != 0) {
            s->order[s->n++] = i;
        }
    }
    qsort(s->order, s->n, sizeof s->order[0], by_key);
}

struct expect {
    const struct model *m;
    const struct sorted *s;
    size_t at;
    size_t stop; /* the callback returns false with this one */
};

static bool expect_next(void *arg, struct kl_bytes key, struct kl_bytes value)
{
    struct expect *e = arg;
    uint8_t kb[32];
    uint8_t vb[4096];
    unsigned i;

    assert_true(e->at < e->s->n);
    i = e->s->order[e->at++];
    assert_true(kl_bytes_eq(key, model_key(i, kb)));
    assert_true(kl_bytes_eq(value, model_value(e->m->value[i], vb)));
    return e->at != e->stop;
}

/* Scans from one key (present or not) to another: exactly what lies between, in order. */
static void check_range(const struct model *m, const struct sorted *s, struct kl_kv *kv,
                        struct kl_kv_snap *snap, uint64_t *rng)
{
    uint8_t fb[32];
    uint8_t tb[32];
    struct kl_bytes from = model_key((unsigned)(test_random(rng) % MODEL_KEYS), fb);
    struct kl_bytes to = model_key((unsigned)(test_random(rng) % MODEL_KEYS), tb);
    struct expect e = {.m = m, .s = s};
    size_t end = 0;
    uint8_t kb[32];

    if (test_random(rng) % 4 == 0) {
        to.len = 0; /* open */
    }
    while (e.at < s->n && kl_bytes_cmp(model_key(s->order[e.at], kb), from) < 0) {
        e.at++;
    }
    while (end < s->n && (to.len == 0 || kl_bytes_cmp(model_key(s->order[end], kb), to) < 0)) {
        end++;
    }
    if (end > e.at && test_random(rng) % 2 == 0) {
        e.stop = e.at + 1 + test_random(rng) % (end - e.at);
        end = e.stop;
    }
    end = end < e.at ? e.at : end;
    CHECK_OK(kl_kv_scan(kv, snap, from, to, expect_next, &e));
    CHECK_EQ(e.at, end);
}

void model_check(const struct model *m, struct kl_kv *kv, struct kl_kv_snap *snap, uint64_t *rng)
{
    static const struct kl_bytes all = {NULL, 0};
    struct kl_buf got = KL_BUF(4096);
    struct sorted s;
    struct expect e = {.m = m, .s = &s};

    sort(m, &s);
    for (unsigned i = 0; i < MODEL_KEYS; i++) {
        uint8_t kb[32];
        uint8_t vb[4096];
        enum kl_status st = kl_kv_get(kv, snap, model_key(i, kb), &got);

        CHECK_STATUS(st, m->value[i] == 0 ? KL_NOT_FOUND : KL_OK);
        if (st == KL_OK) {
            CHECK(kl_bytes_eq(kl_buf_bytes(&got), model_value(m->value[i], vb)));
        }
    }
    CHECK_OK(kl_kv_scan(kv, snap, all, all, expect_next, &e));
    CHECK_EQ(e.at, s.n);
    for (int i = 0; i < 20; i++) {
        check_range(m, &s, kv, snap, rng);
    }
    kl_buf_wipe(&got);
}
