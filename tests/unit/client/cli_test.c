/*
 * The command line: words, help, exit status, forms of output, files; against a scripted node.
 */
#include "tests/unit/client/fake.h"

#include "client/cli/cli.h"
#include "client/lib/internal.h"

#include <sys/stat.h>
#include <unistd.h>

enum { WORDS_MAX = 40, ENV_MAX = 8 };

struct run {
    char *out, *err;
    size_t out_len, err_len;
    int code;
};

struct variables {
    const char *name[ENV_MAX], *value[ENV_MAX];
};

static const char *lookup(void *ctx, const char *name)
{
    const struct variables *v = ctx;

    for (size_t i = 0; i < ENV_MAX && v->name[i] != NULL; i++) {
        if (strcmp(v->name[i], name) == 0) {
            return v->value[i];
        }
    }
    return NULL;
}

/* Splits at blanks; "..." and '...' keep blanks. Words are written into buffer. */
static int split(const char *line, char *buffer, char **words)
{
    int n = 0;

    while (*line != '\0') {
        while (*line == ' ') {
            line++;
        }
        if (*line == '\0') {
            break;
        }
        words[n++] = buffer;
        assert_true(n < WORDS_MAX);
        while (*line != '\0' && *line != ' ') {
            char quote = *line == '"' || *line == '\'' ? *line++ : '\0';

            while (*line != '\0' && *line != (quote == '\0' ? ' ' : quote)) {
                *buffer++ = *line++;
            }
            line += quote != '\0' && *line == quote;
        }
        *buffer++ = '\0';
    }
    words[n] = NULL;
    return n;
}

static struct run run_words(const struct variables *env, const char *input, size_t input_len,
                            int argc, char **argv)
{
    struct run r = {.code = -1};
    union {
        const void *in;
        void *out;
    } ctx = {env};
    union {
        const char *in;
        char *out;
    } text = {input};
    struct kl_cli_world world = {.env = lookup, .ctx = ctx.out};

    world.in = input_len == 0 ? fopen("/dev/null", "r") : fmemopen(text.out, input_len, "r");
    world.out = open_memstream(&r.out, &r.out_len);
    world.err = open_memstream(&r.err, &r.err_len);
    CHECK(world.in != NULL && world.out != NULL && world.err != NULL);
    r.code = kl_cli_run(&world, argc, argv);
    CHECK_EQ(fclose(world.in), 0);
    CHECK_EQ(fclose(world.out), 0);
    CHECK_EQ(fclose(world.err), 0);
    return r;
}

/* kluis with the words of a line. */
static struct run run(const struct variables *env, const char *line)
{
    static const struct variables none;
    char buffer[2048] = "kluis ";
    char words_buffer[2048];
    char *words[WORDS_MAX];

    (void)snprintf(buffer, sizeof buffer, "kluis %s", line);
    return run_words(env == NULL ? &none : env, NULL, 0, split(buffer, words_buffer, words), words);
}

static void run_free(struct run *r)
{
    free(r->out);
    free(r->err);
}

/* Runs a line that is wrong: exit 2, and the text is on standard error. */
static void check_usage(const char *line, const char *text)
{
    struct run r = run(NULL, line);

    if (r.code != KL_CLI_USAGE || strstr(r.err, text) == NULL || r.out_len != 0) {
        print_error("kluis %s: %d\n%s%s", line, r.code, r.out, r.err);
        fail();
    }
    run_free(&r);
}

/* What is wrong is named, with the nearest right word. */
TEST(cli, wrong_words)
{
    check_usage("", "which command?");
    check_usage("secret", "kluis secret: which command?");
    check_usage("secert show", "unknown command \"secert\". Did you mean secret?");
    check_usage("secret lst", "unknown command \"lst\". Did you mean list?");
    check_usage("secret xyzzy", "unknown command \"xyzzy\"\n");
    check_usage("vault show --name a --ouput json", "\"--ouput\". Did you mean --output?");
    check_usage("secret show --vault v", "Did you mean --vault-name?");
    check_usage("secret show --vault-name v", "--name is required");
    check_usage("secret show --name n", "--vault-name is required");
    check_usage("secret show --name --vault-name v", "--name needs a value");
    check_usage("secret show --name a --name b --vault-name v", "--name is given twice");
    check_usage("secret show --name a --vault-name v b", "unexpected word \"b\"");
    check_usage("secret set --name a --vault-name v --expires tomorrow", "--expires must be UTC");
    check_usage("secret set --name a --vault-name v --tags x", "--tags takes KEY=VALUE");
    check_usage("secret set --name a --vault-name v --disabled maybe", "one of: true false");
    check_usage("vault list --maxresults 0", "--maxresults must be a number 1..");
    check_usage("vault list --maxresults 1x", "--maxresults must be a number 1..");
    check_usage("vault list --output xml", "one of: table json tsv none");
    check_usage("vault list --timeout 61", "number 1..60");
    check_usage("secret backup --name a --vault-name v --file f --force=1", "takes no value");
    check_usage("vault list --name x", "unknown option \"--name\"");
}

/* A wrong option's value, which may be a secret, gets into no message. */
TEST(cli, values_stay_out_of_messages)
{
    struct run r = run(NULL, "secret set --name a --vault-name v --valeu=hunter2");

    CHECK_EQ(r.code, KL_CLI_USAGE);
    CHECK(strstr(r.err, "hunter2") == NULL);
    CHECK(strstr(r.err, "--valeu") != NULL);
    run_free(&r);
}

/* --help works everywhere, also with other words wrong or missing, and has an example each. */
TEST(cli, help_everywhere)
{
    struct run r = run(NULL, "--help");

    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(strstr(r.out, "Exit status:") != NULL);
    CHECK(strstr(r.out, "KLUIS_TOKEN_FILE") != NULL);
    run_free(&r);
    for (size_t i = 0; i < kl_cli_groups_n; i++) {
        char line[64];

        (void)snprintf(line, sizeof line, "%s --help", kl_cli_groups[i].name);
        r = run(NULL, line);
        CHECK_EQ(r.code, KL_CLI_OK);
        CHECK(strstr(r.out, "Examples:\n  kluis ") != NULL);
        run_free(&r);
    }
    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        char line[64];

        (void)snprintf(line, sizeof line, "%s %s -h", kl_cli_commands[i].group,
                       kl_cli_commands[i].name);
        r = run(NULL, line);
        CHECK_EQ(r.code, KL_CLI_OK);
        CHECK(strstr(r.out, "Examples:\n  ") != NULL);
        CHECK(strstr(r.out, kl_cli_commands[i].summary) != NULL);
        CHECK_EQ(r.err_len, 0);
        run_free(&r);
    }
}

/* Every example in the help is a line that the parser accepts. */
TEST(cli, examples_parse)
{
    struct kl_cli_world world = {.in = stdin, .out = stdout, .err = stderr, .env = lookup};

    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        const char *p = kl_cli_commands[i].examples;

        while (*p != '\0') {
            size_t n = strcspn(p, "\n");
            char line[512];
            char buffer[512];
            char *words[WORDS_MAX];
            char *cut;
            struct kl_cli cli = {.world = &world};
            const struct kl_cli_group *group = NULL;
            bool version = false;

            (void)snprintf(line, sizeof line, "kluis %.*s", (int)n, p);
            cut = strstr(line + 6, "kluis ");
            if (cut != NULL) { /* COMMAND | kluis ... */
                memmove(line, cut, strlen(cut) + 1);
            }
            line[strcspn(line, "|>")] = '\0';
            CHECK_EQ(kl_cli_parse(&cli, split(line, buffer, words), words, &group, &version),
                     KL_CLI_OK);
            CHECK(cli.command == &kl_cli_commands[i]);
            kl_cli_forget(&cli);
            p += n + (p[n] == '\n');
        }
    }
}

/* The options of every command are in the table of options at their own place, and no two options
 * of one command share a letter. */
TEST(cli, tables_are_sound)
{
    for (size_t i = 0; i < KL_OPT_N; i++) {
        CHECK_EQ(kl_cli_options[i].id, (enum kl_cli_opt)i);
        CHECK(strncmp(kl_cli_options[i].name, "--", 2) == 0);
        CHECK((kl_cli_options[i].kind == KL_KIND_FLAG) == (kl_cli_options[i].metavar == NULL));
    }
    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        const struct kl_cli_command *c = &kl_cli_commands[i];
        bool letters[128] = {false};

        for (size_t k = KL_OPT_FIRST_GLOBAL; k < KL_OPT_N; k++) {
            letters[(unsigned char)kl_cli_options[k].letter] = true;
        }
        for (size_t k = 0; k < c->uses_n; k++) {
            unsigned char letter = (unsigned char)kl_cli_options[c->uses[k].option].letter;

            CHECK(letter == 0 || !letters[letter]);
            letters[letter] = true;
        }
    }
}

static void read_source(const char *name, char *text, size_t text_len)
{
    char path[512];
    FILE *file;
    size_t n;

    (void)snprintf(path, sizeof path, "%s/%s", KLUIS_SOURCE_DIR, name);
    file = fopen(path, "r");
    CHECK(file != NULL);
    n = fread(text, 1, text_len - 1, file);
    CHECK_EQ(fclose(file), 0);
    text[n] = '\0';
}

/* The manual page has every command and every option. */
TEST(cli, manual_is_complete)
{
    static char text[65536];

    read_source("deploy/man/kluis.1", text, sizeof text);
    for (size_t i = 0; i < kl_cli_commands_n; i++) {
        const struct kl_cli_command *c = &kl_cli_commands[i];
        char name[64];

        (void)snprintf(name, sizeof name, ".It Cm %s%s%s", c->group, c->group[0] == '\0' ? "" : " ",
                       c->name);
        if (strstr(text, name) == NULL) {
            fail_msg("kluis.1 lacks %s", name);
        }
    }
    for (size_t i = 0; i < KL_OPT_N; i++) {
        char name[64];

        (void)snprintf(name, sizeof name, "Fl %s", kl_cli_options[i].name + 1);
        if (strstr(text, name) == NULL) {
            fail_msg("kluis.1 lacks %s", kl_cli_options[i].name);
        }
    }
}

/* The file that is installed is what the program prints. */
TEST(cli, completion_is_current)
{
    struct run r = run(NULL, "completion bash");
    static char text[65536];

    CHECK_EQ(r.code, KL_CLI_OK);
    read_source("deploy/completion/kluis.bash", text, sizeof text);
    CHECK_STR(r.out, text);
    run_free(&r);
}

/* Every status has an exit code of its class; only OK is 0. */
TEST(cli, exit_codes)
{
    for (int st = 0; st <= KLUIS_INTERNAL; st++) {
        int code = kl_cli_exit_of((enum kluis_status)st);

        CHECK_EQ(code == 0, st == KLUIS_OK);
        CHECK(code <= KL_CLI_LOCAL_IO && code != KL_CLI_USAGE);
        /* What may be tried again is unavailable, but for the two that people must look at. */
        if (kl_status_info((enum kl_status)st)->retry_safe && st != KLUIS_CHANGED &&
            st != KLUIS_NO_MEMORY) {
            CHECK_EQ(code, KL_CLI_UNAVAILABLE);
        }
        if (strncmp(kluis_status_name((enum kluis_status)st), "BLOB_", 5) == 0) {
            CHECK_EQ(code, KL_CLI_BAD_INPUT);
        }
    }
    CHECK_EQ(kl_cli_exit_of(KLUIS_NOT_FOUND), KL_CLI_NOT_FOUND);
    CHECK_EQ(kl_cli_exit_of(KLUIS_PURGE_PROTECTED), KL_CLI_CONFLICT);
    CHECK_EQ(kl_cli_exit_of(KLUIS_DISABLED), KL_CLI_DENIED);
}

/* ---------------------------------------------------------------- small parts */

/* Times: only real ones, only UTC, only that form; there and back. */
TEST(cli, times)
{
    static const char *const bad[] = {"",
                                      "2026-01-02",
                                      "2026-01-02T03:04:05",
                                      "2026-01-02T03:04:05+00:00",
                                      "2026-02-30T00:00:00Z",
                                      "2026-13-01T00:00:00Z",
                                      "2026-01-02T24:00:00Z",
                                      "2026-01-02T03:60:05Z",
                                      "1970-01-01T00:00:00Z",
                                      "2026-01-02T03:04:05Zx",
                                      "26-01-02T03:04:05Z"};
    char text[24];
    uint64_t t = 0;

    CHECK(kl_cli_time_parse("2026-01-02T03:04:05Z", &t));
    CHECK_EQ(t, 1767323045);
    kl_cli_time_format(t, text);
    CHECK_STR(text, "2026-01-02T03:04:05Z");
    CHECK(kl_cli_time_parse("2028-02-29T23:59:59Z", &t));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(!kl_cli_time_parse(bad[i], &t));
    }
}

/* UTF-8: the shortest form only, no surrogates, nothing cut off. */
TEST(cli, utf8)
{
    CHECK(kl_cli_utf8((const uint8_t *)"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10));
    CHECK(kl_cli_utf8((const uint8_t *)"", 0));
    CHECK(!kl_cli_utf8((const uint8_t *)"\xc0\x80", 2));
    CHECK(!kl_cli_utf8((const uint8_t *)"\xe0\x9f\xbf", 3));
    CHECK(!kl_cli_utf8((const uint8_t *)"\xed\xa0\x80", 3));
    CHECK(!kl_cli_utf8((const uint8_t *)"\xf4\x90\x80\x80", 4));
    CHECK(!kl_cli_utf8((const uint8_t *)"\xe2\x82", 2));
    CHECK(!kl_cli_utf8((const uint8_t *)"\xff", 1));
}

/* RFC 4648, its test vectors. */
TEST(cli, base64)
{
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}};
    struct kl_cli cli = {.world = NULL};

    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        CHECK_STR(kl_cli_base64(&cli, (const uint8_t *)pairs[i][0], strlen(pairs[i][0])),
                  pairs[i][1]);
    }
    kl_cli_forget(&cli);
}

/* ---------------------------------------------------------------- with a node */

struct stage {
    struct fake node;
    struct variables env;
    const char *dir;
    char token_file[300];
};

static void stage_start_as(struct stage *s, const char *cert, fake_fn answer)
{
    FILE *file;

    fake_start(&s->node, cert, answer, NULL);
    s->dir = test_dir();
    (void)snprintf(s->token_file, sizeof s->token_file, "%s/token", s->dir);
    file = fopen(s->token_file, "w");
    CHECK(file != NULL);
    CHECK(fputs("the-token\n", file) >= 0);
    CHECK_EQ(fclose(file), 0);
    CHECK_EQ(chmod(s->token_file, 0600), 0);
    s->env = (struct variables){
        {"KLUIS_ENDPOINT", "KLUIS_CA_FILE", "KLUIS_TOKEN_FILE", "HOME"},
        {s->node.address, fixture_files(CERT_SERVER).ca_file, s->token_file, s->dir}};
}

static void stage_start(struct stage *s, fake_fn answer)
{
    stage_start_as(s, CERT_SERVER, answer);
}

static void stage_stop(struct stage *s)
{
    fake_stop(&s->node);
}

/* A node that the CA file does not vouch for: the hint is about certificates, not about quorums. */
TEST(cli, untrusted_node)
{
    struct stage s;
    struct run r;

    stage_start_as(&s, CERT_ALIEN, fake_serve);
    r = run(&s.env, "secret show --vault-name team --name db");
    CHECK_EQ(r.code, KL_CLI_UNAVAILABLE);
    CHECK(strstr(r.err, "its certificate is not trusted: ") != NULL);
    CHECK(strstr(r.err, "--ca-file") != NULL && strstr(r.err, "majority") == NULL);
    run_free(&r);
    stage_stop(&s);
}

/* The token of the file is sent without the line end; set and show bring the value back. */
TEST(cli, set_and_show)
{
    struct stage s;
    struct run r;

    stage_start(&s, fake_serve);
    r = run(&s.env,
            "secret set --vault-name team -n db --value 's3 cret' --tags a=1 b=two -o json");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(strstr(r.out, "\"name\": \"db\"") != NULL);
    CHECK(strstr(r.out, "\"b\": \"two\"") != NULL);
    CHECK(strstr(r.out, "s3 cret") == NULL);
    CHECK_STR(s.node.authorization, "Bearer the-token");
    run_free(&r);
    r = run(&s.env, "secret show --vault-name team --name=db --query value");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK_STR(r.out, "s3 cret\n");
    CHECK_EQ(r.err_len, 0);
    run_free(&r);
    r = run(&s.env, "secret show --vault-name team --name db -o none");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK_EQ(r.out_len, 0);
    run_free(&r);
    r = run(&s.env, "secret show --vault-name team --name db --query valu");
    CHECK_EQ(r.code, KL_CLI_USAGE);
    CHECK(strstr(r.err, "s3 cret") == NULL);
    run_free(&r);
    stage_stop(&s);
}

/* --value does not stay in the process list. */
TEST(cli, value_is_taken_from_the_words)
{
    char words[7][16] = {"kluis",    "secret",  "set",    "--vault-name=v",
                         "--name=n", "--value", "hunter2"};
    char *argv[8] = {words[0], words[1], words[2], words[3], words[4], words[5], words[6], NULL};
    struct stage s;
    struct run r;

    stage_start(&s, fake_serve);
    r = run_words(&s.env, NULL, 0, 7, argv);
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK_MEM(words[6], "\0\0\0\0\0\0\0", 7);
    CHECK_EQ(s.node.value_len, 7);
    CHECK_MEM(s.node.value, "hunter2", 7);
    run_free(&r);
    stage_stop(&s);
}

static void write_file(const char *path, const void *p, size_t n)
{
    FILE *file = fopen(path, "w");

    CHECK(file != NULL);
    CHECK_EQ(fwrite(p, 1, n, file), n);
    CHECK_EQ(fclose(file), 0);
}

/* Any bytes, from a file and from standard input, go there and back; one too many is refused here,
 * by name and limit; a file that is not there is exit 8. */
TEST(cli, files_are_exact)
{
    static uint8_t value[KL_SECRET_VALUE_MAX + 1];
    static uint8_t back[KL_SECRET_VALUE_MAX + 1];
    struct stage s;
    char path[300];
    char copy[300];
    char line[1024];
    char buffer[1024];
    char *words[WORDS_MAX];
    struct stat st;
    struct run r;
    FILE *file;

    for (size_t i = 0; i < sizeof value; i++) {
        value[i] = (uint8_t)(i * 7 + (i >> 8));
    }
    stage_start(&s, fake_serve);
    (void)snprintf(path, sizeof path, "%s/value", s.dir);
    (void)snprintf(copy, sizeof copy, "%s/copy", s.dir);
    write_file(path, value, KL_SECRET_VALUE_MAX);
    (void)snprintf(line, sizeof line, "secret set --vault-name t -n n -o none --file %s", path);
    r = run(&s.env, line);
    CHECK_EQ(r.code, KL_CLI_OK);
    run_free(&r);
    CHECK_EQ(s.node.value_len, KL_SECRET_VALUE_MAX);
    CHECK_MEM(s.node.value, value, KL_SECRET_VALUE_MAX);

    (void)snprintf(line, sizeof line, "secret download --vault-name t -n n --file %s", copy);
    r = run(&s.env, line);
    CHECK_EQ(r.code, KL_CLI_OK);
    run_free(&r);
    CHECK_EQ(stat(copy, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    file = fopen(copy, "r");
    CHECK(file != NULL);
    CHECK_EQ(fread(back, 1, sizeof back, file), KL_SECRET_VALUE_MAX);
    CHECK_EQ(fclose(file), 0);
    CHECK_MEM(back, value, KL_SECRET_VALUE_MAX);
    r = run(&s.env, line); /* it is there now */
    CHECK_EQ(r.code, KL_CLI_LOCAL_IO);
    CHECK(strstr(r.err, "--force") != NULL);
    run_free(&r);

    write_file(path, value, sizeof value);
    (void)snprintf(line, sizeof line, "secret set --vault-name t -n n --file %s", path);
    r = run(&s.env, line);
    CHECK_EQ(r.code, KL_CLI_BAD_INPUT);
    CHECK(strstr(r.err, "25600") != NULL);
    run_free(&r);
    r = run(&s.env, "secret set --vault-name t -n n --file /nowhere/x");
    CHECK_EQ(r.code, KL_CLI_LOCAL_IO);
    CHECK(strstr(r.err, "/nowhere/x") != NULL);
    run_free(&r);

    r = run_words(&s.env, "a\0b\n", 4,
                  split("kluis secret set --vault-name t -n n --file - -o none", buffer, words),
                  words);
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK_EQ(s.node.value_len, 4);
    CHECK_MEM(s.node.value, "a\0b\n", 4);
    run_free(&r);
    r = run(&s.env, "secret download --vault-name t -n n --file - --encoding hex");
    CHECK_STR(r.out, "6100620a");
    run_free(&r);
    stage_stop(&s);
}

/* A value that is no text is shown as base64, and that is said. */
TEST(cli, binary_values_are_shown_encoded)
{
    struct stage s;
    struct run r;

    stage_start(&s, fake_serve);
    memcpy(s.node.value, "\xff\x00\x01", 3);
    s.node.value_len = 3;
    r = run(&s.env, "secret show --vault-name t -n n -o json");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(strstr(r.out, "\"value\": \"/wAB\"") != NULL);
    CHECK(strstr(r.out, "\"valueEncoding\": \"base64\"") != NULL);
    CHECK(strstr(r.err, "not UTF-8") != NULL);
    run_free(&r);
    r = run(&s.env, "secret show --vault-name t -n n --encoding hex --query value");
    CHECK_STR(r.out, "ff0001\n");
    CHECK_EQ(r.err_len, 0);
    run_free(&r);
    /* What could steer a terminal does not reach it in a table. */
    memcpy(s.node.value, "\x1b[2Jx", 5);
    s.node.value_len = 5;
    r = run(&s.env, "secret show --vault-name t -n n");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(strchr(r.out, 0x1b) == NULL);
    run_free(&r);
    r = run(&s.env, "secret set --vault-name t -n n --value 'a' --content-type \"x\ty\" -o tsv");
    CHECK(strstr(r.out, "x\\ty") != NULL);
    run_free(&r);
    stage_stop(&s);
}

static void answer_deleted(struct fake_call *c)
{
    fake_status(c, KL_DELETED);
}

static void answer_limit(struct fake_call *c)
{
    fake_field(c, KL_INVALID_ARGUMENT, "name", "1..127 of letters");
}

/* An error says the command, the status, the field with its limit, and what to do next. */
TEST(cli, errors_advise)
{
    struct stage s;
    struct run r;

    stage_start(&s, answer_deleted);
    r = run(&s.env, "secret set --vault-name team --name db --value x");
    CHECK_EQ(r.code, KL_CLI_CONFLICT);
    CHECK(strstr(r.err, "kluis secret set: DELETED: ") != NULL);
    CHECK(strstr(r.err, "kluis secret recover --vault-name team --name db") != NULL);
    CHECK(strstr(r.err, "kluis secret purge --vault-name team --name db") != NULL);
    CHECK_EQ(r.out_len, 0);
    run_free(&r);
    s.node.answer = answer_limit;
    r = run(&s.env, "secret show --vault-name team --name d_b");
    CHECK_EQ(r.code, KL_CLI_BAD_INPUT);
    CHECK(strstr(r.err, "INVALID_ARGUMENT: ") != NULL);
    CHECK(strstr(r.err, "name: 1..127 of letters") != NULL);
    run_free(&r);
    fake_stop(&s.node);
    r = run(&s.env, "secret show --vault-name team --name db --timeout 1");
    CHECK_EQ(r.code, KL_CLI_UNAVAILABLE);
    CHECK(strstr(r.err, "UNAVAILABLE: ") != NULL);
    CHECK(strstr(r.err, "kluis health") != NULL);
    run_free(&r);
}

static void answer_too_old(struct fake_call *c)
{
    fake_field(c, KL_TOO_OLD, "max_age_ms", "the state of node 2 is 9000 ms old");
}

/* A stale read is asked for as said, and says how old it is: in the JSON, or beside the output. */
TEST(cli, consistency)
{
    struct stage s;
    struct run r;

    check_usage("secret show --vault-name v --name n --consistency old",
                "linearizable quorum stale");
    check_usage("secret show --vault-name v --name n --max-age 5", "5s, 500ms");
    check_usage("secret show --vault-name v --name n --max-age 0s", "5s, 500ms");
    check_usage("secret show --vault-name v --name n --max-age 99999999m", "5s, 500ms");
    check_usage("secret set --vault-name v --name n --value x --consistency stale",
                "unknown option");
    stage_start(&s, fake_serve);
    s.node.age_ms = 1042;
    s.node.node_id = 2;
    r = run(&s.env, "secret set --vault-name team --name db --value v");
    CHECK_EQ(r.code, KL_CLI_OK);
    run_free(&r);
    r = run(&s.env, "secret show --vault-name team --name db --max-age 5s");
    CHECK_EQ(r.code, KL_CLI_USAGE);
    CHECK(strstr(r.err, "--consistency stale") != NULL);
    run_free(&r);
    r = run(&s.env, "secret show --vault-name team --name db --consistency stale --max-age 1500ms "
                    "-o json");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(strstr(r.out, "\"ageMs\": 1042") != NULL);
    CHECK_EQ(r.err_len, 0);
    run_free(&r);
    CHECK_EQ(s.node.seen[s.node.calls - 1].consistency, KLUIS__V1__CONSISTENCY__STALE);
    CHECK_EQ(s.node.seen[s.node.calls - 1].max_age_ms, 1500);
    r = run(&s.env, "secret show --vault-name team --name db --consistency stale --query value");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(strstr(r.err, "at most 1.042 s old, of node 2") != NULL);
    run_free(&r);
    r = run(&s.env, "secret show --vault-name team --name db --consistency quorum");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK_EQ(r.err_len, 0);
    run_free(&r);
    CHECK_EQ(s.node.seen[s.node.calls - 1].consistency, KLUIS__V1__CONSISTENCY__QUORUM);
    CHECK_EQ(s.node.asked, 0); /* a command is brief */
    s.node.answer = answer_too_old;
    r = run(&s.env, "secret show --vault-name team --name db --consistency stale --max-age 1s "
                    "--timeout 1");
    CHECK_EQ(r.code, KL_CLI_UNAVAILABLE);
    CHECK(strstr(r.err, "TOO_OLD: ") != NULL && strstr(r.err, "9000 ms old") != NULL);
    CHECK(strstr(r.err, "--max-age") != NULL);
    run_free(&r);
    fake_stop(&s.node);
}

/* Options before the environment, the environment before the profile; a profile's fault is named
 * with its line. */
TEST(cli, settings_have_an_order)
{
    struct stage s;
    struct variables env;
    char profile[300];
    char text[1024];
    char line[1200];
    struct run r;

    stage_start(&s, fake_serve);
    (void)snprintf(profile, sizeof profile, "%s/profile", s.dir);
    (void)snprintf(text, sizeof text,
                   "# mine\nendpoint = %s\n ca_file=%s\ntoken_file = ~/token\noutput = none\n",
                   s.node.address, fixture_files(CERT_SERVER).ca_file);
    write_file(profile, text, strlen(text));
    env = (struct variables){{"HOME", "KLUIS_PROFILE"}, {s.dir, profile}};
    r = run(&env, "secret set --vault-name t -n n --value x");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK_EQ(r.out_len, 0);
    CHECK_STR(s.node.authorization, "Bearer the-token");
    run_free(&r);
    env = (struct variables){{"HOME", "KLUIS_PROFILE", "KLUIS_TOKEN", "KLUIS_ENDPOINT"},
                             {s.dir, profile, "other", "127.0.0.1:1"}};
    (void)snprintf(line, sizeof line, "secret show --vault-name t -n n -o json --endpoint %s",
                   s.node.address);
    r = run(&env, line);
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(r.out_len != 0);
    CHECK_STR(s.node.authorization, "Bearer other");
    run_free(&r);
    write_file(profile, "endpoint = a:1\n\nca-file = b\n", 28);
    r = run(&env, "vault list");
    CHECK_EQ(r.code, KL_CLI_USAGE);
    CHECK(strstr(r.err, "profile:3: unknown key \"ca-file\"; did you mean ca_file") != NULL);
    run_free(&r);
    r = run(&s.env, "vault list --profile /nowhere/profile");
    CHECK_EQ(r.code, KL_CLI_LOCAL_IO);
    run_free(&r);
    stage_stop(&s);
}

/* A token file that others may read works, with a warning. */
TEST(cli, open_token_file_warns)
{
    struct stage s;
    struct run r;

    stage_start(&s, fake_serve);
    CHECK_EQ(chmod(s.token_file, 0644), 0);
    r = run(&s.env, "secret show --vault-name t -n n -o none");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(strstr(r.err, "others may read the token file") != NULL);
    run_free(&r);
    stage_stop(&s);
}

static void serve_pages(struct fake_call *c)
{
    Kluis__V1__SecretListResponse r = KLUIS__V1__SECRET_LIST_RESPONSE__INIT;
    Kluis__V1__SecretListRequest *request =
        kluis__v1__secret_list_request__unpack(NULL, c->call->payload.len, c->call->payload.data);
    Kluis__V1__Secret secrets[2] = {KLUIS__V1__SECRET__INIT, KLUIS__V1__SECRET__INIT};
    Kluis__V1__Secret *list[2] = {&secrets[0], &secrets[1]};
    bool first = request->page_token[0] == '\0';

    secrets[0].name = kl_pb_text(first ? "s1" : "s3");
    secrets[1].name = kl_pb_text(first ? "s2" : "s4");
    r.secrets = list;
    r.n_secrets = request->page_size < 2 ? request->page_size : 2;
    if (first) {
        r.next_page_token = kl_pb_text("2");
    }
    fake_ok(c, &r);
    kluis__v1__secret_list_request__free_unpacked(request, NULL);
}

/* A list is all pages, unless fewer are asked for. */
TEST(cli, lists_are_complete)
{
    struct stage s;
    struct run r;

    stage_start(&s, serve_pages);
    r = run(&s.env, "secret list --vault-name t --query [].name");
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK_STR(r.out, "s1\ns2\ns3\ns4\n");
    run_free(&r);
    r = run(&s.env, "secret list --vault-name t --maxresults 3 --query [].name");
    CHECK_STR(r.out, "s1\ns2\ns3\n");
    run_free(&r);
    r = run(&s.env, "secret list --vault-name t --query [1].name");
    CHECK_STR(r.out, "s2\n");
    run_free(&r);
    r = run(&s.env, "secret list --vault-name t -o tsv --maxresults 1");
    CHECK_STR(r.out, "s1\t\t\tfalse\t\t\n");
    run_free(&r);
    stage_stop(&s);
}

static void serve_backup(struct fake_call *c)
{
    Kluis__V1__SecretBackupResponse r = KLUIS__V1__SECRET_BACKUP_RESPONSE__INIT;

    r.blob = kl_pb_bytes("blob\0bytes", 10);
    r.version_count = 3;
    fake_ok(c, &r);
}

/* A backup appears whole, for its owner only, never over another one; nothing else stays behind. */
TEST(cli, backup_files)
{
    struct stage s;
    char path[300];
    char line[512];
    char text[32] = "";
    struct stat st;
    struct run r;
    FILE *file;

    stage_start(&s, serve_backup);
    (void)snprintf(path, sizeof path, "%s/b.blob", s.dir);
    (void)snprintf(line, sizeof line, "secret backup --vault-name t -n n --file %s -o json", path);
    r = run(&s.env, line);
    CHECK_EQ(r.code, KL_CLI_OK);
    CHECK(strstr(r.out, "\"versions\": 3") != NULL);
    run_free(&r);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(st.st_nlink, 1);
    CHECK_EQ(st.st_size, 10);
    write_file(path, "precious", 8);
    r = run(&s.env, line);
    CHECK_EQ(r.code, KL_CLI_LOCAL_IO);
    CHECK_EQ(s.node.calls, 1); /* it was not even asked for */
    run_free(&r);
    file = fopen(path, "r");
    CHECK(file != NULL && fread(text, 1, sizeof text, file) == 8);
    CHECK_EQ(fclose(file), 0);
    CHECK_STR(text, "precious");
    (void)snprintf(line, sizeof line, "secret backup --vault-name t -n n --file %s --force", path);
    r = run(&s.env, line);
    CHECK_EQ(r.code, KL_CLI_OK);
    run_free(&r);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_size, 10);
    r = run(&s.env, "secret backup --vault-name t -n n --file /nowhere/b.blob");
    CHECK_EQ(r.code, KL_CLI_LOCAL_IO);
    run_free(&r);
    r = run(&s.env, "secret backup --vault-name t -n n --file -");
    CHECK_EQ(r.out_len, 10);
    CHECK_MEM(r.out, "blob\0bytes", 10);
    run_free(&r);
    stage_stop(&s);
}
