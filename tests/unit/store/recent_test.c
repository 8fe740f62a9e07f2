#include "server/store/recent.h"

#include "common/limits.h"
#include "tests/lib/test.h"

static struct kl_bytes text(const char *s)
{
    return kl_bytes_of(s, strlen(s));
}

static bool has(struct kl_recent *r, const char *key, uint64_t now, const char *want)
{
    struct kl_buf out = KL_BUF(KL_RECORD_MAX);
    bool hit = kl_recent_get(r, text(key), now, &out);

    if (hit) {
        CHECK(kl_bytes_eq(kl_buf_bytes(&out), text(want)));
    }
    kl_buf_wipe(&out);
    return hit;
}

/* NULL deletes. */
static void fill(struct kl_batch *batch, const char *key, const char *value)
{
    kl_batch_init(batch, 1 << 16);
    if (value == NULL) {
        kl_batch_del(batch, text(key));
    } else {
        kl_batch_put(batch, text(key), text(value));
    }
    CHECK_OK(kl_batch_status(batch));
}

static void write_one(struct kl_recent *r, const char *key, const char *value, bool done)
{
    struct kl_batch batch;

    fill(&batch, key, value);
    kl_recent_write_begin(r, &batch);
    kl_recent_write_end(r, &batch, done);
    kl_batch_done(&batch);
}

/* What was found is there again, under its own key only, and follows what is written. */
TEST(recent, follows)
{
    struct kl_recent *r = kl_recent_new();

    CHECK(!has(r, "a", kl_recent_now(r), ""));
    kl_recent_keep(r, text("a"), text("1"), kl_recent_now(r));
    CHECK(has(r, "a", kl_recent_now(r), "1"));
    CHECK(!has(r, "b", kl_recent_now(r), ""));
    write_one(r, "a", "2", true);
    CHECK(has(r, "a", kl_recent_now(r), "2"));
    write_one(r, "a", NULL, true);
    CHECK(!has(r, "a", kl_recent_now(r), ""));
    write_one(r, "a", "", true);
    CHECK(has(r, "a", kl_recent_now(r), ""));
    write_one(r, "b", "never read", true);
    CHECK(!has(r, "b", kl_recent_now(r), ""));
    kl_recent_free(r);
}

/* A reader that looked before a write, or in the middle of it, does not bring back what it saw. */
TEST(recent, late_reader)
{
    struct kl_recent *r = kl_recent_new();
    struct kl_batch batch;
    uint64_t before = kl_recent_now(r);
    uint64_t during;

    fill(&batch, "a", "2");
    kl_recent_write_begin(r, &batch);
    during = kl_recent_now(r);
    kl_recent_keep(r, text("a"), text("1"), during);
    CHECK(!has(r, "a", during, ""));
    kl_recent_write_end(r, &batch, true);
    kl_batch_done(&batch);
    kl_recent_keep(r, text("a"), text("1"), before);
    kl_recent_keep(r, text("a"), text("1"), during);
    CHECK(!has(r, "a", kl_recent_now(r), ""));
    kl_recent_keep(r, text("a"), text("2"), kl_recent_now(r));
    CHECK(has(r, "a", kl_recent_now(r), "2"));
    kl_recent_free(r);
}

/* A snapshot sees what was true when it was made: not what came later, but what still is. */
TEST(recent, snapshot)
{
    struct kl_recent *r = kl_recent_new();
    uint64_t snap;

    kl_recent_keep(r, text("a"), text("1"), kl_recent_now(r));
    kl_recent_keep(r, text("b"), text("1"), kl_recent_now(r));
    snap = kl_recent_now(r);
    write_one(r, "a", "2", true);
    CHECK(!has(r, "a", snap, ""));
    CHECK(has(r, "b", snap, "1"));
    kl_recent_keep(r, text("a"), text("1"), snap); /* as read from the snapshot */
    CHECK(has(r, "a", kl_recent_now(r), "2"));
    kl_recent_free(r);
}

/* After a write that failed nobody knows what the store holds: it is asked. */
TEST(recent, failed_write)
{
    struct kl_recent *r = kl_recent_new();
    uint64_t before = kl_recent_now(r);

    kl_recent_keep(r, text("a"), text("1"), before);
    write_one(r, "a", "2", false);
    CHECK(!has(r, "a", kl_recent_now(r), ""));
    kl_recent_keep(r, text("a"), text("1"), before);
    CHECK(!has(r, "a", kl_recent_now(r), ""));
    kl_recent_free(r);
}

/* Large records are left to the store, also when a small one grows. */
TEST(recent, large)
{
    struct kl_recent *r = kl_recent_new();
    char large[KL_RECENT_RECORD_MAX + 1] = {0};

    memset(large, 'x', KL_RECENT_RECORD_MAX - 1);
    kl_recent_keep(r, text("a"), text(large), kl_recent_now(r));
    CHECK(has(r, "a", kl_recent_now(r), large));
    large[KL_RECENT_RECORD_MAX - 1] = 'x';
    write_one(r, "a", large, true);
    CHECK(!has(r, "a", kl_recent_now(r), ""));
    kl_recent_keep(r, text("a"), text(large), kl_recent_now(r));
    CHECK(!has(r, "a", kl_recent_now(r), ""));
    write_one(r, "a", "small", true);
    CHECK(has(r, "a", kl_recent_now(r), "small"));
    kl_recent_free(r);
}

/* More keys than there is room for: some are gone, none is wrong. */
TEST(recent, crowded)
{
    struct kl_recent *r = kl_recent_new();
    unsigned hits = 0;
    char key[16];

    for (unsigned i = 0; i < 4 * KL_RECENT_SLOTS; i++) {
        (void)snprintf(key, sizeof key, "k%u", i);
        kl_recent_keep(r, text(key), text(key), kl_recent_now(r));
    }
    for (unsigned i = 0; i < 4 * KL_RECENT_SLOTS; i++) {
        (void)snprintf(key, sizeof key, "k%u", i);
        hits += has(r, key, kl_recent_now(r), key);
    }
    CHECK(hits > KL_RECENT_SLOTS / 2 && hits <= KL_RECENT_SLOTS);
    kl_recent_free(r);
}
