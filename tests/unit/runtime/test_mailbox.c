#include "tests/lib/test.h"

#include "server/runtime/mailbox.h"

struct letter {
    struct kl_mail mail; /* first */
    unsigned from;
    unsigned number;
};

/* What was put comes out once, in order, in one piece. */
TEST(mailbox, keeps_the_order)
{
    struct kl_mailbox box;
    struct letter letters[3];
    struct kl_mail *m;
    bool was_empty = false;

    kl_mailbox_init(&box, 8);
    CHECK(kl_mailbox_take(&box) == NULL);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(kl_mailbox_put(&box, &letters[i].mail, &was_empty));
        CHECK_EQ(was_empty, i == 0); /* the owner is woken by the first only */
    }
    m = kl_mailbox_take(&box);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(m == &letters[i].mail);
        m = m->next;
    }
    CHECK(m == NULL);
    CHECK(kl_mailbox_take(&box) == NULL);
    CHECK(kl_mailbox_put(&box, &letters[0].mail, &was_empty));
    CHECK(was_empty); /* again, once emptied */
    CHECK(kl_mailbox_take(&box) == &letters[0].mail);
    kl_mailbox_done(&box);
}

/* A full box refuses and keeps what it has. */
TEST(mailbox, refuses_when_full)
{
    struct kl_mailbox box;
    struct letter letters[3];
    bool was_empty = false;

    kl_mailbox_init(&box, 2);
    CHECK(kl_mailbox_put(&box, &letters[0].mail, &was_empty));
    CHECK(kl_mailbox_put(&box, &letters[1].mail, &was_empty));
    CHECK(!kl_mailbox_put(&box, &letters[2].mail, &was_empty));
    CHECK(kl_mailbox_take(&box) == &letters[0].mail);
    CHECK(letters[0].mail.next == &letters[1].mail);
    CHECK(letters[1].mail.next == NULL);
    CHECK(kl_mailbox_put(&box, &letters[2].mail, &was_empty)); /* there is room again */
    CHECK(kl_mailbox_take(&box) == &letters[2].mail);
    kl_mailbox_done(&box);
}

/* A closed box takes nothing more, but gives what it has. */
TEST(mailbox, closed_still_gives)
{
    struct kl_mailbox box;
    struct letter letters[2];
    bool was_empty = false;

    kl_mailbox_init(&box, 2);
    CHECK(kl_mailbox_put(&box, &letters[0].mail, &was_empty));
    kl_mailbox_close(&box);
    CHECK(!kl_mailbox_put(&box, &letters[1].mail, &was_empty));
    CHECK(kl_mailbox_take(&box) == &letters[0].mail);
    kl_mailbox_done(&box);
}

enum { SENDERS = 4, PER_SENDER = 20000 };

struct crowd {
    struct kl_mailbox box;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool woken;
    struct letter *letters;
};

struct sender {
    struct crowd *crowd;
    unsigned number;
};

static void *send_all(void *arg)
{
    const struct sender *s = arg;
    struct crowd *c = s->crowd;

    for (unsigned i = 0; i < PER_SENDER; i++) {
        struct letter *letter = &c->letters[s->number * PER_SENDER + i];
        bool was_empty = false;

        letter->from = s->number;
        letter->number = i;
        if (!kl_mailbox_put(&c->box, &letter->mail, &was_empty)) {
            return c;
        }
        if (was_empty) {
            (void)pthread_mutex_lock(&c->lock);
            c->woken = true;
            (void)pthread_cond_signal(&c->wake);
            (void)pthread_mutex_unlock(&c->lock);
        }
    }
    return NULL;
}

/* With many senders, waking on was_empty alone loses nothing, and each sender's order is kept. */
TEST(mailbox, many_senders)
{
    static struct crowd c;
    pthread_t threads[SENDERS];
    struct sender senders[SENDERS];
    unsigned next[SENDERS] = {0};
    unsigned got = 0;

    kl_mailbox_init(&c.box, (size_t)SENDERS * PER_SENDER);
    (void)pthread_mutex_init(&c.lock, NULL);
    (void)pthread_cond_init(&c.wake, NULL);
    c.letters = test_calloc((size_t)SENDERS * PER_SENDER, sizeof *c.letters);
    for (unsigned i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){&c, i};
        CHECK_EQ(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }
    while (got < SENDERS * PER_SENDER) {
        (void)pthread_mutex_lock(&c.lock);
        while (!c.woken) {
            (void)pthread_cond_wait(&c.wake, &c.lock);
        }
        c.woken = false;
        (void)pthread_mutex_unlock(&c.lock);
        for (struct kl_mail *m = kl_mailbox_take(&c.box); m != NULL; m = m->next) {
            const struct letter *letter = (const struct letter *)m;

            CHECK_EQ(letter->number, next[letter->from]);
            next[letter->from]++;
            got++;
        }
    }
    for (unsigned i = 0; i < SENDERS; i++) {
        void *failed = NULL;

        CHECK_EQ(pthread_join(threads[i], &failed), 0);
        CHECK(failed == NULL);
    }
    kl_mailbox_done(&c.box);
    test_free(c.letters);
}
