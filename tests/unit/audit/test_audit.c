#include "tests/lib/test.h"

#include "common/alloc.h"
#include "common/limits.h"
#include "server/audit/audit.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_MAX = 16 << 20, PATH_LEN = 300 };

static const struct kl_audit_record example = {
    .time_ms = 1767323045678,
    .principal = "ops",
    .remote = "127.0.0.1:5000",
    .method = "/kluis.v1.Secrets/Get",
    .subject = "vault/name",
    .status = "OK",
    .duration_us = 412,
    .request_id = "00112233445566778899aabbccddeeff",
};

static void new_path(char path[PATH_LEN])
{
    static const char *dir;
    static unsigned number;

    if (dir == NULL) {
        dir = test_dir();
    }
    (void)snprintf(path, PATH_LEN, "%s/audit-%u.log", dir, ++number);
}

static struct kl_audit *open_trail(const char *path, size_t file_max, unsigned files_max)
{
    struct kl_audit *audit = NULL;
    char err[512] = "";

    CHECK_OK(kl_audit_new(path, file_max, files_max, &audit, err, sizeof err));
    return audit;
}

/* The whole file, in a buffer of its own; *n its bytes. */
static const char *read_text(const char *path, size_t *n)
{
    static char text[TEXT_MAX];
    FILE *f = fopen(path, "r");

    *n = 0;
    if (f != NULL) {
        *n = fread(text, 1, sizeof text - 1, f);
        (void)fclose(f);
    }
    text[*n] = '\0';
    return text;
}

/* A record is one line with these keys in this order, in a file only its owner can read. */
TEST(audit, line)
{
    char path[PATH_LEN];
    struct stat s;
    size_t n;
    struct kl_audit *audit;

    new_path(path);
    audit = open_trail(path, 1 << 20, 3);
    kl_audit_write(audit, &example);
    CHECK_EQ(kl_audit_lost(audit), 0);
    kl_audit_free(audit);
    CHECK_STR(read_text(path, &n),
              "{\"time\":\"2026-01-02T03:04:05.678Z\",\"principal\":\"ops\","
              "\"remote\":\"127.0.0.1:5000\",\"method\":\"/kluis.v1.Secrets/Get\","
              "\"subject\":\"vault/name\",\"status\":\"OK\",\"duration_us\":412,"
              "\"request_id\":\"00112233445566778899aabbccddeeff\"}\n");
    CHECK_EQ(stat(path, &s), 0);
    CHECK_EQ(s.st_mode & 07777, 0600);
}

static void one_line(const char *subject, const char *want)
{
    struct kl_audit_record record = example;
    char path[PATH_LEN];
    struct kl_audit *audit;
    const char *text;
    size_t n;

    new_path(path);
    audit = open_trail(path, 1 << 20, 3);
    record.subject = subject;
    kl_audit_write(audit, &record);
    kl_audit_free(audit);
    text = read_text(path, &n);
    CHECK(strchr(text, '\n') == text + n - 1); /* whatever was written, it is one line */
    if (strstr(text, want) == NULL) {
        fail_msg("%s is not in %s", want, text);
    }
}

/* Strings are escaped as RFC 8259 wants it: nothing from outside can end a string or a line. */
TEST(audit, escapes)
{
    one_line("a\"b\\c", "\"subject\":\"a\\\"b\\\\c\",");
    one_line("a\nb\x01\x7f", "\"subject\":\"a\\u000ab\\u0001\\u007f\",");
    one_line("caf\xc3\xa9", "\"subject\":\"caf\xc3\xa9\",");
    one_line("bad\xff\xc3", "\"subject\":\"bad\\ufffd\\ufffd\",");
    one_line("", "\"subject\":\"\",");
    one_line(NULL, "\"subject\":\"\",");
}

/* A string of any length makes a line of bounded length, cut between characters. */
TEST(audit, long_strings_are_cut)
{
    static const char *const units[] = {"a", "\"", "\n", "\xff", "\xe2\x82\xac"};
    char subject[8192];

    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t unit = strlen(units[i]);

        for (size_t len = 480; len < 540; len += unit) {
            for (size_t at = 0; at + unit <= len; at += unit) {
                memcpy(subject + at, units[i], unit);
            }
            subject[len - len % unit] = '\0';
            one_line(subject, "\",\"status\":\"OK\"");
        }
        for (size_t at = 0; at + unit < sizeof subject; at += unit) {
            memcpy(subject + at, units[i], unit);
            subject[at + unit] = '\0';
        }
        one_line(subject, "...\",\"status\":\"OK\"");
    }
}

static unsigned count_lines(const char *path, size_t file_max)
{
    size_t n;
    const char *text = read_text(path, &n);
    unsigned lines = 0;

    CHECK(n <= file_max);
    CHECK(n == 0 || text[n - 1] == '\n');
    for (size_t i = 0; i < n; i++) {
        lines += text[i] == '\n';
    }
    return lines;
}

/* Files are rotated before they exceed their size, lines are never split, the oldest go. */
TEST(audit, rotation)
{
    enum { RECORDS = 500, FILE_MAX = 4000, FILES = 3 };
    char path[PATH_LEN];
    char old[PATH_LEN + 8];
    struct kl_audit_record record = example;
    struct kl_audit *audit;
    unsigned lines;
    size_t n;

    new_path(path);
    audit = open_trail(path, FILE_MAX, FILES);
    for (unsigned i = 0; i < RECORDS; i++) {
        record.duration_us = i;
        kl_audit_write(audit, &record);
    }
    kl_audit_free(audit);
    CHECK(strstr(read_text(path, &n), "\"duration_us\":499,") != NULL);
    lines = count_lines(path, FILE_MAX);
    for (unsigned i = 1; i <= FILES; i++) {
        (void)snprintf(old, sizeof old, "%s.%u", path, i);
        CHECK(count_lines(old, FILE_MAX) > 10); /* full ones */
        lines += count_lines(old, FILE_MAX);
    }
    CHECK(lines < RECORDS);
    (void)snprintf(old, sizeof old, "%s.%u", path, FILES + 1);
    CHECK_NE(access(old, F_OK), 0);
}

/* With none to keep, the file begins again. */
TEST(audit, rotation_without_old_files)
{
    char path[PATH_LEN];
    char old[PATH_LEN + 8];
    struct kl_audit *audit;

    new_path(path);
    audit = open_trail(path, 1000, 0);
    for (unsigned i = 0; i < 100; i++) {
        kl_audit_write(audit, &example);
    }
    kl_audit_free(audit);
    CHECK(count_lines(path, 1000) > 0);
    (void)snprintf(old, sizeof old, "%s.1", path);
    CHECK_NE(access(old, F_OK), 0);
}

/* A restart goes on behind what is there; half a line left by a crash stays alone on its line. */
TEST(audit, appends_after_a_torn_line)
{
    char path[PATH_LEN];
    struct kl_audit *audit;
    const char *text;
    size_t n;
    FILE *f;

    new_path(path);
    f = fopen(path, "w");
    CHECK(f != NULL && fputs("{\"time\":\"torn", f) >= 0);
    (void)fclose(f);
    audit = open_trail(path, 1 << 20, 3);
    kl_audit_write(audit, &example);
    kl_audit_free(audit);
    text = read_text(path, &n);
    CHECK(strstr(text, "{\"time\":\"torn\n{\"time\":\"2026") == text);
}

struct writer {
    struct kl_audit *audit;
    unsigned records;
};

static void *write_many(void *arg)
{
    const struct writer *w = arg;

    for (unsigned i = 0; i < w->records; i++) {
        kl_audit_write(w->audit, &example);
    }
    return NULL;
}

/* With many threads every record is in the file or is counted as lost, and the file tells of those. */
TEST(audit, many_threads_lose_nothing_unseen)
{
    enum { THREADS = 3, EACH = 8000 };
    char path[PATH_LEN];
    pthread_t threads[THREADS];
    struct writer w = {.records = EACH};
    unsigned told = 0;
    unsigned lines = 0;
    uint64_t lost;
    size_t n;

    new_path(path);
    w.audit = open_trail(path, 64u << 20, 0);
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, write_many, &w), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    lost = kl_audit_lost(w.audit);
    kl_audit_free(w.audit);
    for (const char *line = read_text(path, &n); *line != '\0'; line = strchr(line, '\n') + 1) {
        const char *said = memmem(line, strcspn(line, "\n"), "\"lost\":", 7);

        if (said != NULL) {
            told += (unsigned)strtoul(said + 7, NULL, 10);
        } else {
            lines++;
        }
    }
    CHECK_EQ(lines + lost, THREADS * EACH);
    CHECK_EQ(told, lost);
}

/* A file that cannot grow loses records, says how many once it can, and never holds half a line. */
TEST(audit, disk_full_and_back)
{
    struct rlimit limit = {0, 0};
    struct rlimit small;
    char path[PATH_LEN];
    struct kl_audit *audit;
    const char *text;
    const char *said;
    uint64_t told = 0;
    uint64_t lost;
    size_t n;

    new_path(path);
    (void)sigaction(SIGXFSZ, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    audit = open_trail(path, 1 << 20, 3);
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = (struct rlimit){600, limit.rlim_max}; /* room for two lines and a half */
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (unsigned i = 0; i < 50; i++) {
        kl_audit_write(audit, &example);
    }
    while (kl_audit_lost(audit) < 40) {
        kl_audit_write(audit, &example); /* until the thread has met the limit */
    }
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    lost = kl_audit_lost(audit);
    kl_audit_write(audit, &example);
    kl_audit_free(audit);
    text = read_text(path, &n);
    CHECK(n != 0 && text[n - 1] == '\n');
    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        said = memmem(line, strcspn(line, "\n"), "\"lost\":", 7);
        told += said == NULL ? 0 : strtoul(said + 7, NULL, 10);
        CHECK_EQ(*line, '{');
        CHECK_EQ(strchr(line, '\n')[-1], '}');
    }
    CHECK(told >= 40);
    CHECK(told >= lost);
}

/* Without a path there is no trail, and nothing to do. */
TEST(audit, off)
{
    struct kl_audit *audit = open_trail(NULL, 0, 0);

    kl_audit_write(audit, &example);
    CHECK_EQ(kl_audit_lost(audit), 0);
    kl_audit_free(audit);
    kl_audit_free(NULL);
}

/* What cannot be opened is refused in words; memory that fails costs the record, not the process. */
TEST(audit, failures)
{
    char path[PATH_LEN];
    struct kl_audit *audit = NULL;
    char err[512] = "";

    CHECK_STATUS(kl_audit_new("/no/such/dir/audit.log", 1000, 1, &audit, err, sizeof err), KL_IO);
    CHECK_STR(err, "/no/such/dir/audit.log: No such file or directory");
    CHECK_STATUS(kl_audit_new("/dev/null", 1000, 1, &audit, err, sizeof err), KL_IO);
    new_path(path);
    for (unsigned long n = 1; n <= 2; n++) {
        kl_alloc_fail_at(n);
        CHECK_STATUS(kl_audit_new(path, 1000, 1, &audit, err, sizeof err), KL_NO_MEMORY);
        kl_alloc_fail_at(0);
    }
    CHECK(audit == NULL);
    audit = open_trail(path, 1000, 1);
    kl_alloc_fail_at(1);
    kl_audit_write(audit, &example);
    kl_alloc_fail_at(0);
    CHECK_EQ(kl_audit_lost(audit), 1);
    kl_audit_free(audit);
}
