#include "tests/lib/test.h"

#include "common/alloc.h"
#include "common/buf.h"
#include "server/config.h"

#include <sys/stat.h>
#include <unistd.h>

#define CLUSTER                                                                                    \
    "[cluster]\nname = c\ngeography = g\nsubscription = 0A000000-0000-4000-8000-000000000001\n"
#define THIS                                                                                       \
    "[this]\nnode = n1\ndata_dir = /d\nca_file = /ca\ncert_file = /crt\nkey_file = /key\n"         \
    "seal_file = /seal\n"
#define NODE1                                                                                      \
    "[node n1]\nid = 1\nregion = west\nclient_address = 127.0.0.1:1\npeer_address = 127.0.0.1:2\n"
#define NODE2                                                                                      \
    "[node n2]\nid = 2\nregion = west\nclient_address = 127.0.0.1:3\npeer_address = 127.0.0.1:4\n"
#define DIGEST_A  "00000000000000000000000000000000000000000000000000000000000000aa"
#define DIGEST_B  "00000000000000000000000000000000000000000000000000000000000000bB"
#define PRINCIPAL "[principal ops]\ntoken_sha256 = " DIGEST_A "\nrights = *\n"
#define WHOLE     CLUSTER THIS NODE1 PRINCIPAL

/* Big: not on the stack of every test. */
static struct kl_config *parse(const char *text, struct kl_config *out)
{
    char err[1024] = "";
    enum kl_status st = kl_config_parse("f.conf", text, out, err, sizeof err);

    if (st != KL_OK) {
        fail_msg("%s", err);
    }
    return out;
}

/* What is not said has the documented default. */
TEST(config, defaults)
{
    static struct kl_config storage;
    const struct kl_config *c = parse(WHOLE, &storage);

    CHECK_STR(c->cluster, "c");
    CHECK_STR(c->geography, "g");
    CHECK_STR(c->subscription, "0a000000-0000-4000-8000-000000000001"); /* folded */
    CHECK_EQ(c->day_ms, 86400000);
    CHECK(!c->test_cluster);
    CHECK_EQ(c->election_timeout_ms, 800);
    CHECK_EQ(c->failback_after_ms, 30000);
    CHECK_STR(c->listen_client, "127.0.0.1:1");
    CHECK_STR(c->listen_peer, "127.0.0.1:2");
    CHECK_STR(c->geography_key_file, "");
    CHECK_STR(c->audit_file, "/d/audit.log");
    CHECK_EQ(c->workers, 4);
    CHECK_EQ(c->cache_bytes, 32 << 20);
    CHECK_EQ(c->log_level, KL_LOG_INFO);
    CHECK_EQ(c->nodes_n, 1);
    CHECK_EQ(c->principals_n, 1);
    CHECK(kl_config_self(c) == &c->nodes[0]);
    CHECK_STR(c->principals[0].name, "ops");
    CHECK_EQ(c->principals[0].token_sha256[31], 0xaa);
}

/* Every key is read into its own place. */
TEST(config, every_key)
{
    static struct kl_config storage;
    const struct kl_config *c = parse(
        "[cluster]\nname = prod\ngeography = europe\n"
        "subscription = 00000000-0000-4000-8000-000000000001\n"
        "test_cluster = yes\nday_ms = 2s\nelection_timeout_ms = 1500ms\n"
        "failback_after = 90s\n"
        "[this]\nnode = n2\ndata_dir = /var/lib/kluis\nlisten_client = 0.0.0.0:7400\n"
        "listen_peer = [::]:7401\nca_file = /etc/ca.crt\ncert_file = /etc/n.crt\n"
        "key_file = /etc/n.key\nseal_file = /etc/seal\ngeography_key_file = /etc/geo\n"
        "audit_file = off\nworkers = 64\ncache_bytes = 2 GiB\nlog_level = debug\n" NODE1
        "[node n2]\nid = 65535\nregion = east\nclient_address = n2.example.net:7400\n"
        "peer_address = [2001:db8::2]:7401\n" PRINCIPAL
        "[principal a.b_c@d-E]\ntoken_sha256 = " DIGEST_B "\nrights = secrets/get, secrets/purge\n",
        &storage);

    CHECK_STR(c->cluster, "prod");
    CHECK_STR(c->geography, "europe");
    CHECK(c->test_cluster);
    CHECK_EQ(c->day_ms, 2000);
    CHECK_EQ(c->election_timeout_ms, 1500);
    CHECK_EQ(c->failback_after_ms, 90000);
    CHECK_STR(c->self, "n2");
    CHECK_STR(c->data_dir, "/var/lib/kluis");
    CHECK_STR(c->listen_client, "0.0.0.0:7400");
    CHECK_STR(c->listen_peer, "[::]:7401");
    CHECK_STR(c->ca_file, "/etc/ca.crt");
    CHECK_STR(c->cert_file, "/etc/n.crt");
    CHECK_STR(c->key_file, "/etc/n.key");
    CHECK_STR(c->seal_file, "/etc/seal");
    CHECK_STR(c->geography_key_file, "/etc/geo");
    CHECK_STR(c->audit_file, "off");
    CHECK_EQ(c->workers, 64);
    CHECK_EQ(c->cache_bytes, 2ull << 30);
    CHECK_EQ(c->log_level, KL_LOG_DEBUG);
    CHECK_EQ(c->nodes[1].id, 65535);
    CHECK_STR(c->nodes[1].region, "east");
    CHECK_STR(c->nodes[1].client_address, "n2.example.net:7400");
    CHECK_STR(c->nodes[1].peer_address, "[2001:db8::2]:7401");
    CHECK(kl_config_self(c) == &c->nodes[1]);
    CHECK_STR(c->principals[1].name, "a.b_c@d-E");
    CHECK_EQ(c->principals[1].rights, 1ull << KL_RIGHT_SECRET_GET | 1ull << KL_RIGHT_SECRET_PURGE);
    CHECK_EQ(c->principals[1].token_sha256[31], 0xbb);
}

/* Comments, blank lines, blanks, carriage returns and a missing last newline do not matter. */
TEST(config, layout_is_free)
{
    static struct kl_config storage;
    const struct kl_config *c = parse(
        "# a comment\r\n; another\r\n\r\n  [ cluster ]\t# behind a head\r\n"
        "name=c\r\n"
        "\tgeography \t=\t g \t; behind a value\r\n"
        "subscription = 0A000000-0000-4000-8000-000000000001\n" THIS "audit_file = /var/log/a#b;c\n"
        "[node\t n1]\nid = 1\nregion = west\nclient_address = 127.0.0.1:1\n"
        "peer_address = 127.0.0.1:2\n"
        "[principal ops]\ntoken_sha256 = " DIGEST_A "\nrights = *",
        &storage);

    CHECK_STR(c->geography, "g");
    CHECK_STR(c->audit_file, "/var/log/a#b;c"); /* a comment begins behind a blank only */
}

/* One wrong file and the start of what must be said about it. */
struct bad {
    const char *text;
    const char *want; /* behind "f.conf:" */
};

static const struct bad bad[] = {
    /* shape */
    {"", "1: cluster: the section [cluster] is missing"},
    {"name = c\n", "1: name: stands before any section"},
    {"\n\nnonsense\n", "3: line: must be `key = value`"},
    {"= c\n", "1: line: must be `key = value`"},
    {"[cluster\n", "1: [cluster: a section is [NAME]"},
    {"[]\n", "1: section: unknown section: [cluster], [this], [region NAME], [node NAME] and "
             "[principal NAME]"},
    {"[clusters]\n", "1: clusters: unknown section"},
    {"[cluster x]\n", "1: cluster x: unknown section"},
    {"[cluster]\nname = \x01\n", "2: line: must be UTF-8 without control characters"},
    {"[cluster]\nname = \xff\n", "2: line: must be UTF-8"},
    {"\xef\xbb\xbf[cluster]\n", "1: line: must be `key = value`"},
    {"[cluster]\nnane = c\n",
     "2: nane: unknown key in [cluster]: name, geography, subscription, day_ms, test_cluster, "
     "election_timeout_ms, failback_after are allowed"},
    {CLUSTER "workers = 3\n", "5: workers: unknown key in [cluster]"},
    {CLUSTER "name = d\n", "5: name: stands twice in [cluster]"},
    {CLUSTER CLUSTER, "5: cluster: this section stands twice"},
    {WHOLE NODE1, "20: node n1: this section stands twice"},
    {WHOLE PRINCIPAL, "20: principal ops: this section stands twice"},
    /* what is missing */
    {"[cluster]\nname = c\ngeography = g\n" THIS, "1: subscription: is missing in [cluster]"},
    {CLUSTER NODE1 PRINCIPAL, "12: this: the section [this] is missing"},
    {CLUSTER THIS PRINCIPAL, "14: node: the section [node NAME] is missing"},
    {CLUSTER THIS NODE1, "16: principal: the section [principal NAME] is missing"},
    {CLUSTER "[this]\nnode = n1\n" NODE1, "5: data_dir: is missing in [this]"},
    {CLUSTER THIS "[node n1]\nid = 1\n" PRINCIPAL, "12: region: is missing in [node n1]"},
    {CLUSTER THIS NODE1 "[principal ops]\nrights = *\n",
     "17: token_sha256: is missing in [principal ops]"},
    {"[cluster]\nname =\n", "2: name: has no value"},
    {"[cluster]\nname = # c\n", "2: name: has no value"},
    /* values */
    {"[cluster]\nname = Prod\n", "2: name: \"Prod\" is not allowed: 1 to 64 lower-case letters"},
    {"[cluster]\nsubscription = 1\n", "2: subscription: \"1\" is not allowed: a UUID"},
    {"[cluster]\ntest_cluster = true\n", "2: test_cluster: \"true\" is not allowed: yes or no"},
    {"[cluster]\nelection_timeout_ms = 199\n",
     "2: election_timeout_ms: \"199\" is not allowed: 200 to 60000 milliseconds, as 800, 800ms or "
     "1s"},
    {"[cluster]\nelection_timeout_ms = 61s\n", "2: election_timeout_ms: \"61s\" is not allowed"},
    {"[cluster]\nelection_timeout_ms = 1m\n", "2: election_timeout_ms: \"1m\" is not allowed"},
    {"[cluster]\nelection_timeout_ms = -1\n", "2: election_timeout_ms: \"-1\" is not allowed"},
    {"[cluster]\nelection_timeout_ms = 18446744073709551615s\n",
     "2: election_timeout_ms: \"18446744073709551615s\" is not allowed"},
    {"[cluster]\nelection_timeout_ms = 99999999999999999999999999\n",
     "2: election_timeout_ms: \"99999999999999999999999999\" is not allowed"},
    {"[cluster]\nelection_timeout_ms = ms\n", "2: election_timeout_ms: \"ms\" is not allowed"},
    {"[cluster]\nday_ms = 0\n", "2: day_ms: \"0\" is not allowed: 1 to 86400000 milliseconds"},
    {"[cluster]\nday_ms = 86400001\n", "2: day_ms: \"86400001\" is not allowed"},
    {"[this]\nworkers = 0\n", "2: workers: \"0\" is not allowed: 1 to 64"},
    {"[this]\nworkers = 65\n", "2: workers: \"65\" is not allowed: 1 to 64"},
    {"[this]\nworkers = 4 threads\n", "2: workers: \"4 threads\" is not allowed: 1 to 64"},
    {"[this]\ncache_bytes = 1023KiB\n",
     "2: cache_bytes: \"1023KiB\" is not allowed: 1 MiB to 65536 MiB, as 33554432, 32MiB or 1GiB"},
    {"[this]\ncache_bytes = 32MB\n", "2: cache_bytes: \"32MB\" is not allowed"},
    {"[this]\nlog_level = trace\n",
     "2: log_level: \"trace\" is not allowed: error, warn, info or debug"},
    {"[this]\nlisten_client = 7400\n", "2: listen_client: \"7400\" is not allowed: HOST:PORT"},
    {"[this]\nlisten_client = :7400\n", "2: listen_client: \":7400\" is not allowed"},
    {"[this]\nlisten_client = host:\n", "2: listen_client: \"host:\" is not allowed"},
    {"[this]\nlisten_client = host:65536\n", "2: listen_client: \"host:65536\" is not allowed"},
    {"[this]\nlisten_client = 2001:db8::1:7400\n", "2: listen_client: \"2001:db8::1:7400\" is not"},
    {"[this]\nlisten_client = a b:1\n", "2: listen_client: \"a b:1\" is not allowed"},
    {"[this]\nlisten_client = [x]:1\n", "2: listen_client: \"[x]:1\" is not allowed"},
    {"[this]\nnode = N1\n", "2: node: \"N1\" is not allowed"},
    {"[node N1]\n", "1: node N1: the name of a node is 1 to 64 lower-case"},
    {"[node]\n", "1: node: the name of a node is"},
    {"[node n1]\nid = 0\n", "2: id: \"0\" is not allowed: 1 to 65535"},
    {"[node n1]\nid = 65536\n", "2: id: \"65536\" is not allowed: 1 to 65535"},
    {"[principal a b]\n", "1: principal a b: the name of a principal is 1 to 63 letters"},
    {"[principal]\n", "1: principal: the name of a principal is"},
    {"[principal ops]\ntoken_sha256 = 12\n",
     "2: token_sha256: must be the SHA-256 of a token, 64 hex digits"},
    {"[principal ops]\ntoken_sha256 = "
     "0000000000000000000000000000000000000000000000000000000000000000\n",
     "2: token_sha256: must be the SHA-256 of a token"},
    {"[principal ops]\nrights = everything\n",
     "2: rights: \"everything\" is not allowed: rights separated by commas"},
    {"[principal ops]\nrights = *, node\n", "2: rights: \"*, node\" is not allowed"},
    /* across sections */
    {CLUSTER "[this]\nnode = n9\ndata_dir = /d\nca_file = /ca\ncert_file = /crt\nkey_file = /k\n"
             "seal_file = /seal\n" NODE1 PRINCIPAL,
     "6: node: n9 is none of the [node NAME] sections"},
    {CLUSTER "day_ms = 1s\n" THIS NODE1 PRINCIPAL, "5: day_ms: only test clusters may shorten"},
    {CLUSTER "day_ms = 1s\ntest_cluster = no\n" THIS NODE1 PRINCIPAL, "5: day_ms: only test"},
    {WHOLE "[node n2]\nid = 1\nregion = west\nclient_address = h:1\npeer_address = h:2\n",
     "20: id: 1 is also the id of node n1"},
    {WHOLE "[node n2]\nid = 2\nregion = west\nclient_address = 127.0.0.1:1\npeer_address = h:2\n",
     "20: client_address: 127.0.0.1:1 is also that of node n1"},
    {WHOLE "[node n2]\nid = 2\nregion = west\nclient_address = h:1\npeer_address = 127.0.0.1:2\n",
     "20: peer_address: 127.0.0.1:2 is also that of node n1"},
    {WHOLE "[node n2]\nid = 2\nregion = west\nclient_address = 127.0.0.1:2\npeer_address = h:2\n",
     "20: client_address: 127.0.0.1:2 is also the peer_address of node n1"},
    {WHOLE "[node n2]\nid = 2\nregion = west\nclient_address = h:1\npeer_address = 127.0.0.1:1\n",
     "20: peer_address: 127.0.0.1:1 is also the client_address of node n1"},
    {WHOLE "[node n2]\nid = 2\nregion = west\nclient_address = h:0\npeer_address = h:2\n",
     "24: n2: port 0 is allowed only where there is one node"},
    {WHOLE "[principal eve]\ntoken_sha256 = " DIGEST_A "\nrights = *\n",
     "20: token_sha256: is also that of principal ops"},
};

/* Every mistake is answered with file, line, key and what is allowed; the output is left alone. */
TEST(config, bad_files)
{
    static struct kl_config out;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char err[1024] = "";
        char want[1024];

        (void)snprintf(want, sizeof want, "f.conf:%s", bad[i].want);
        out.workers = 12345;
        CHECK_STATUS(kl_config_parse("f.conf", bad[i].text, &out, err, sizeof err),
                     KL_INVALID_ARGUMENT);
        CHECK_EQ(out.workers, 12345);
        if (strncmp(err, want, strlen(want)) != 0) {
            fail_msg("row %zu: \"%s\" should begin with \"%s\"", i, err, want);
        }
    }
}

/* The first error wins: what comes after it is not looked at. */
TEST(config, first_error_wins)
{
    static struct kl_config out;
    char err[1024] = "";

    CHECK_STATUS(
        kl_config_parse("f.conf", "[cluster]\nname = X\nbad\n[nope]\n", &out, err, sizeof err),
        KL_INVALID_ARGUMENT);
    CHECK(strncmp(err, "f.conf:2: name:", 15) == 0);
}

/* A value that is an error is not repeated at length, and a digest not at all. */
TEST(config, errors_are_short)
{
    static struct kl_config out;
    char text[1200] = "[cluster]\nname = ";
    char err[1024] = "";
    size_t n = strlen(text);

    for (size_t i = 0; i < 1000; i++) {
        text[n + i] = 'A';
    }
    CHECK_STATUS(kl_config_parse("f.conf", text, &out, err, sizeof err), KL_INVALID_ARGUMENT);
    CHECK(strlen(err) < 250);
    CHECK_STATUS(kl_config_parse("f.conf", "[principal x]\ntoken_sha256 = my-token\n", &out, err,
                                 sizeof err),
                 KL_INVALID_ARGUMENT);
    CHECK(strstr(err, "my-token") == NULL);
    CHECK_STATUS(kl_config_parse("f.conf", "[oops]", &out, err, 10), KL_INVALID_ARGUMENT);
    CHECK_EQ(strlen(err), 9); /* cut, never overrun */
}

/* One more node, principal or byte than allowed is refused; as many as allowed are not. */
TEST(config, limits)
{
    static struct kl_config out;
    struct kl_buf text = KL_BUF(1 << 20);
    char err[1024] = "";

    CHECK_OK(kl_buf_printf(&text, "%s", CLUSTER THIS));
    for (unsigned i = 1; i <= KL_NODES_MAX; i++) {
        CHECK_OK(kl_buf_printf(&text,
                               "[node n%u]\nid = %u\nregion = r\nclient_address = h:%u\n"
                               "peer_address = p:%u\n",
                               i, i, i, i));
    }
    for (unsigned i = 1; i <= KL_PRINCIPALS_MAX; i++) {
        CHECK_OK(kl_buf_printf(&text, "[principal p%u]\ntoken_sha256 = %064x\nrights = *\n", i, i));
    }
    CHECK_OK(kl_buf_put_u8(&text, 0));
    (void)parse((const char *)text.ptr, &out);
    CHECK_EQ(out.nodes_n, KL_NODES_MAX);
    CHECK_EQ(out.principals_n, KL_PRINCIPALS_MAX);
    text.len--;
    CHECK_OK(kl_buf_printf(&text, "[principal p0]\ntoken_sha256 = %064x\nrights = *\n%c", 999, 0));
    CHECK_STATUS(kl_config_parse("f.conf", (const char *)text.ptr, &out, err, sizeof err),
                 KL_INVALID_ARGUMENT);
    CHECK(strstr(err, "principal p0: at most 256 principals are allowed") != NULL);
    kl_buf_clear(&text);
    for (unsigned i = 1; i <= KL_NODES_MAX + 1; i++) {
        CHECK_OK(kl_buf_printf(&text,
                               "[node n%u]\nid = %u\nregion = r\nclient_address = h:%u\n"
                               "peer_address = p:%u\n",
                               i, i, i, i));
    }
    CHECK_OK(kl_buf_put_u8(&text, 0));
    CHECK_STATUS(kl_config_parse("f.conf", (const char *)text.ptr, &out, err, sizeof err),
                 KL_INVALID_ARGUMENT);
    CHECK(strstr(err, "f.conf:161: node n33: at most 32 nodes are allowed") == err);
    kl_buf_wipe(&text);
}

/* A line as long as allowed is read, one byte more is not. */
TEST(config, line_length)
{
    static struct kl_config out;
    char text[KL_CONFIG_LINE_MAX + 32];
    char err[1024] = "";

    for (size_t extra = 0; extra < 2; extra++) {
        for (size_t i = 0; i < KL_CONFIG_LINE_MAX + extra; i++) {
            text[i] = '#';
        }
        (void)snprintf(text + KL_CONFIG_LINE_MAX + extra, 32 - extra, "\n[x]\n");
        CHECK_STATUS(kl_config_parse("f.conf", text, &out, err, sizeof err), KL_INVALID_ARGUMENT);
        CHECK(strstr(err, extra == 0 ? "f.conf:2: x: unknown section"
                                     : "f.conf:1: line: is longer than 8192 bytes") == err);
    }
}

/* Paths have their limit too, the one made up for the audit trail included. */
TEST(config, path_length)
{
    static struct kl_config out;
    char text[4096];
    char path[KL_PATH_MAX + 2];
    char err[1024] = "";

    for (size_t len = KL_PATH_MAX - 12; len <= KL_PATH_MAX; len++) {
        for (size_t i = 0; i < len; i++) {
            path[i] = '/';
        }
        path[len] = '\0';
        (void)snprintf(text, sizeof text,
                       CLUSTER
                       "[this]\nnode = n1\nca_file = /ca\ncert_file = /crt\n"
                       "key_file = /key\nseal_file = /seal\ndata_dir = %s\n" NODE1 PRINCIPAL,
                       path);
        CHECK_STATUS(kl_config_parse("f.conf", text, &out, err, sizeof err),
                     len + strlen("/audit.log") < KL_PATH_MAX ? KL_OK : KL_INVALID_ARGUMENT);
    }
    CHECK(strstr(err, "data_dir: is longer than 1023 bytes") != NULL);
}

static void write_file(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "w");

    CHECK(f != NULL);
    CHECK_EQ(fwrite(text, 1, n, f), n);
    CHECK_EQ(fclose(f), 0);
}

/* A file is read as its text is; what is no text file, or too big, or not there, is said so. */
TEST(config, load)
{
    static struct kl_config out;
    static char big[KL_CONFIG_FILE_MAX + 1];
    char path[300];
    char err[1024] = "";

    (void)snprintf(path, sizeof path, "%s/kluisd.conf", test_dir());
    CHECK_STATUS(kl_config_load(path, &out, err, sizeof err), KL_IO);
    CHECK(strstr(err, "No such file") != NULL);
    write_file(path, WHOLE, strlen(WHOLE));
    CHECK_OK(kl_config_load(path, &out, err, sizeof err));
    CHECK_STR(out.cluster, "c");
    write_file(path, WHOLE "\0", strlen(WHOLE) + 1);
    CHECK_STATUS(kl_config_load(path, &out, err, sizeof err), KL_INVALID_ARGUMENT);
    CHECK(strstr(err, "NUL byte") != NULL);
    write_file(path, "", 0);
    CHECK_STATUS(kl_config_load(path, &out, err, sizeof err), KL_INVALID_ARGUMENT);
    memcpy(big, WHOLE, strlen(WHOLE));
    for (size_t i = strlen(WHOLE); i < sizeof big; i++) {
        big[i] = '\n';
    }
    write_file(path, big, sizeof big - 1);
    CHECK_OK(kl_config_load(path, &out, err, sizeof err));
    write_file(path, big, sizeof big);
    CHECK_STATUS(kl_config_load(path, &out, err, sizeof err), KL_INVALID_ARGUMENT);
    CHECK(strstr(err, "is larger than 1048576 bytes") != NULL);
    CHECK_STATUS(kl_config_load(test_dir(), &out, err, sizeof err), KL_IO);
}

/* Port 0 is for one node alone; two nodes with real ports are a cluster. */
TEST(config, one_node_may_draw_its_ports)
{
    static struct kl_config out;

    (void)parse(CLUSTER THIS "[node n1]\nid = 1\nregion = west\nclient_address = 127.0.0.1:0\n"
                             "peer_address = 127.0.0.1:0\n" PRINCIPAL,
                &out);
    CHECK_STR(out.listen_peer, "127.0.0.1:0");
    (void)parse(WHOLE NODE2, &out);
    CHECK_EQ(out.nodes_n, 2);
}

/* With any single allocation failing there is no configuration and no leak. */
TEST(config, allocation_torture)
{
    static struct kl_config out;
    char path[300];
    bool struck = true;

    (void)snprintf(path, sizeof path, "%s/kluisd.conf", test_dir());
    write_file(path, WHOLE, strlen(WHOLE));
    for (unsigned long n = 1; struck; n++) {
        char err[1024] = "";
        enum kl_status st;

        kl_alloc_fail_at(n);
        st = kl_config_load(path, &out, err, sizeof err);
        struck = kl_alloc_failed() != 0;
        kl_alloc_fail_at(0);
        CHECK_STATUS(st, struck ? KL_NO_MEMORY : KL_OK);
        CHECK_EQ(strstr(err, "no memory") != NULL, struck);
    }
}
