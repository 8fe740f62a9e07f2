#include "tests/unit/crypto/crypto_fixture.h"

#include "common/alloc.h"

#include <sys/stat.h>
#include <unistd.h>

static void write_file(const char *path, const char *text, size_t n, mode_t mode)
{
    FILE *f = fopen(path, "w");

    CHECK(f != NULL);
    CHECK_EQ(fwrite(text, 1, n, f), n);
    CHECK_EQ(fclose(f), 0);
    CHECK_EQ(chmod(path, mode), 0);
}

static const char digits[] = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

/* A seal is a file of mode 0600 with a line of 64 hex digits, and no two are the same. */
TEST(seal, create)
{
    char path[2][256];
    char err[512];
    char line[2][80];
    struct stat s;

    for (size_t i = 0; i < 2; i++) {
        FILE *f;

        (void)snprintf(path[i], sizeof path[i], "%s/seal", test_dir());
        CHECK_OK(kl_seal_file_create(path[i], &kl_real_entropy, err, sizeof err));
        CHECK_EQ(stat(path[i], &s), 0);
        CHECK_EQ(s.st_mode & 07777, 0600);
        CHECK_EQ(s.st_size, 65);
        f = fopen(path[i], "r");
        CHECK(f != NULL && fgets(line[i], sizeof line[i], f) != NULL);
        (void)fclose(f);
        CHECK_EQ(strspn(line[i], "0123456789abcdef"), 64);
        CHECK_EQ(line[i][64], '\n');
    }
    CHECK(strcmp(line[0], line[1]) != 0);
}

/* An existing file is never replaced: it may seal a cluster's only keys. */
TEST(seal, create_refuses_to_overwrite)
{
    char path[256];
    char err[512] = "";
    struct stat s;

    (void)snprintf(path, sizeof path, "%s/seal", test_dir());
    write_file(path, "x", 1, 0600);
    CHECK_STATUS(kl_seal_file_create(path, &kl_real_entropy, err, sizeof err), KL_ALREADY_EXISTS);
    CHECK(strstr(err, path) != NULL);
    CHECK_EQ(stat(path, &s), 0);
    CHECK_EQ(s.st_size, 1);
    (void)snprintf(path, sizeof path, "%s/no/such/directory/seal", test_dir());
    CHECK_STATUS(kl_seal_file_create(path, &kl_real_entropy, err, sizeof err), KL_IO);
}

/* What is not a seal is refused by a status and a line that names the file. */
TEST(seal, open_refuses)
{
    static const struct {
        const char *text;
        size_t n;
        mode_t mode;
        enum kl_status want;
        const char *words;
    } rows[] = {
        {digits, 64, 0600, KL_OK, ""},
        {digits, 64, 0400, KL_OK, ""},
        {"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n", 65, 0600, KL_OK, ""},
        {digits, 64, 0640, KL_FORBIDDEN, "mode 0640 is too open"},
        {digits, 64, 0604, KL_FORBIDDEN, "mode 0604 is too open"},
        {digits, 64, 0620, KL_FORBIDDEN, "too open"},
        {digits, 64, 0700, KL_FORBIDDEN, "too open"},
        {digits, 63, 0600, KL_INVALID_ARGUMENT, "64 hex digits"},
        {"", 0, 0600, KL_INVALID_ARGUMENT, "64 hex digits"},
        {"0011223344556677889zaabbccddeeff00112233445566778899aabbccddeeff", 64, 0600,
         KL_INVALID_ARGUMENT, "64 hex digits"},
        {"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff0", 65, 0600,
         KL_INVALID_ARGUMENT, "64 hex digits"},
        {"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n\n", 66, 0600,
         KL_INVALID_ARGUMENT, "64 hex digits"},
        {"00112233445566778899aabbccddeeff0011223344556677\0008899aabbccddeeff\n", 65, 0600,
         KL_INVALID_ARGUMENT, "64 hex digits"},
    };
    char path[256];

    (void)snprintf(path, sizeof path, "%s/seal", test_dir());
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char err[512] = "";
        struct kl_seal *seal = NULL;

        write_file(path, rows[i].text, rows[i].n, rows[i].mode);
        CHECK_STATUS(kl_seal_file_open(path, &seal, err, sizeof err), rows[i].want);
        CHECK_EQ(seal == NULL, rows[i].want != KL_OK);
        CHECK(strstr(err, rows[i].words) != NULL);
        if (rows[i].want != KL_OK) {
            CHECK(strstr(err, path) == err);
        }
        kl_seal_free(seal);
        CHECK_EQ(unlink(path), 0);
    }
}

/* A missing file and a directory are told apart from a bad seal. */
TEST(seal, open_what_is_no_file)
{
    char path[256];
    char err[512] = "";
    struct kl_seal *seal = NULL;

    (void)snprintf(path, sizeof path, "%s/seal", test_dir());
    CHECK_STATUS(kl_seal_file_open(path, &seal, err, sizeof err), KL_IO);
    CHECK(strstr(err, "No such file") != NULL);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK_STATUS(kl_seal_file_open(path, &seal, err, sizeof err), KL_INVALID_ARGUMENT);
    CHECK_EQ(rmdir(path), 0);
    CHECK_EQ(mkfifo(path, 0600), 0); /* must not wait for a writer */
    CHECK_STATUS(kl_seal_file_open(path, &seal, err, sizeof err), KL_INVALID_ARGUMENT);
    CHECK(seal == NULL);
}

/* A keyring opens with its own seal only. */
TEST(seal, wrong_seal)
{
    struct fixture f;
    struct fixture other;
    struct kl_keyring *ring = NULL;

    fixture_init(&f, NULL);
    fixture_init(&other, NULL);
    CHECK_STATUS(kl_keyring_open(other.seal, &kl_real_entropy, f.record, &ring), KL_CRYPTO);
    CHECK(ring == NULL);
    fixture_done(&f);
    fixture_done(&other);
}

/* The process can be hardened, and says in words what it lacks. */
TEST(harden, core_dumps_are_off)
{
    const char *lacking = kl_crypto_harden();

    CHECK(lacking == NULL || strstr(lacking, "locked memory") != NULL ||
          strstr(lacking, "RLIMIT_MEMLOCK") != NULL);
}
