/*
 * Inside the command line program `kluis`. One table of options and one of commands (options.c,
 * commands.c) give parsing, help and completion; a command turns its result into JSON, and one
 * printer makes table, JSON or TSV of that.
 *
 * The program may end when memory runs out: kl_cli_ functions that allocate never return NULL.
 */
#ifndef KL_CLI_H
#define KL_CLI_H

#include "client/include/kluis.h"
#include "common/limits.h"

#include <jansson.h>
#include <stdio.h>

/* What the program returns; documented in --help and kluis(1). */
enum kl_cli_exit {
    KL_CLI_OK = 0,
    KL_CLI_INTERNAL = 1,
    KL_CLI_USAGE = 2,
    KL_CLI_NOT_FOUND = 3,
    KL_CLI_CONFLICT = 4,
    KL_CLI_DENIED = 5,
    KL_CLI_UNAVAILABLE = 6,
    KL_CLI_BAD_INPUT = 7,
    KL_CLI_LOCAL_IO = 8,
};

enum { KL_CLI_TAGS_MAX = 64, KL_CLI_ENDPOINTS_MAX = KL_CLIENT_ENDPOINTS_MAX / 2 };

/* ---------------------------------------------------------------- tables */

enum kl_cli_opt {
    KL_OPT_NAME,
    KL_OPT_VAULT_NAME,
    KL_OPT_VALUE,
    KL_OPT_FILE,
    KL_OPT_ENCODING,
    KL_OPT_VERSION,
    KL_OPT_CONTENT_TYPE,
    KL_OPT_TAGS,
    KL_OPT_EXPIRES,
    KL_OPT_NOT_BEFORE,
    KL_OPT_DISABLED,
    KL_OPT_ENABLED,
    KL_OPT_RETENTION_DAYS,
    KL_OPT_PURGE_PROTECTION,
    KL_OPT_RESOURCE_GROUP,
    KL_OPT_LOCATION,
    KL_OPT_SUBSCRIPTION,
    KL_OPT_MAXRESULTS,
    KL_OPT_FORCE,
    KL_OPT_STEP,
    KL_OPT_GROUP,
    KL_OPT_TO,
    KL_OPT_NODE_ID,
    KL_OPT_NODE,
    KL_OPT_WATCH,
    KL_OPT_REGION,
    KL_OPT_CLIENT_ADDRESS,
    KL_OPT_PEER_ADDRESS,
    KL_OPT_WITNESS,
    KL_OPT_STANDBY,
    KL_OPT_NO_WAIT,
    KL_OPT_CONSISTENCY,
    KL_OPT_MAX_AGE,
    /* Options of every command. */
    KL_OPT_ENDPOINT,
    KL_OPT_CA_FILE,
    KL_OPT_TOKEN_FILE,
    KL_OPT_PROFILE,
    KL_OPT_OUTPUT,
    KL_OPT_QUERY,
    KL_OPT_TIMEOUT,
    KL_OPT_HELP,
    KL_OPT_N,
};
#define KL_OPT_FIRST_GLOBAL KL_OPT_ENDPOINT

enum kl_cli_kind {
    KL_KIND_TEXT,
    KL_KIND_FILE,   /* text; completed as a path */
    KL_KIND_FLAG,   /* no value */
    KL_KIND_BOOL,   /* true or false; alone it means true */
    KL_KIND_NUMBER, /* min..max */
    KL_KIND_TIME,   /* RFC 3339 in UTC, or "" for none */
    KL_KIND_SPAN,   /* 5s, 500ms, 2m; its number is in milliseconds */
    KL_KIND_TAGS,   /* all words up to the next option: KEY=VALUE */
    KL_KIND_LIST,   /* repeatable, or separated by commas */
    KL_KIND_CHOICE, /* one of choices */
};

struct kl_cli_option {
    enum kl_cli_opt id;
    const char *name;  /* "--name" */
    const char *alias; /* another long name; NULL */
    char letter;       /* 'n', 0 = none */
    enum kl_cli_kind kind;
    const char *metavar;
    const char *choices; /* separated by blanks */
    uint64_t min, max;
    const char *help;
};
extern const struct kl_cli_option kl_cli_options[KL_OPT_N];

struct kl_cli_use { /* an option of a command */
    enum kl_cli_opt option;
    bool required;
    const char *help; /* instead of the option's own; NULL */
};

struct kl_cli;
struct kl_cli_command {
    const char *group; /* "" for commands without one */
    const char *name;
    const char *summary;  /* a line without a full stop */
    const char *details;  /* paragraphs; "" */
    const char *examples; /* lines; what follows "kluis " */
    const struct kl_cli_use *uses;
    size_t uses_n;
    bool offline; /* needs no client */
    int (*run)(struct kl_cli *cli);
};
extern const struct kl_cli_command kl_cli_commands[];
extern const size_t kl_cli_commands_n;

struct kl_cli_group {
    const char *name;
    const char *summary;
    const char *examples;
};
extern const struct kl_cli_group kl_cli_groups[];
extern const size_t kl_cli_groups_n;

/* ---------------------------------------------------------------- one run */

struct kl_cli_args {
    bool given[KL_OPT_N];
    const char *text[KL_OPT_N];
    uint64_t number[KL_OPT_N]; /* NUMBER, TIME (seconds), BOOL and FLAG (0, 1) */
    struct kluis_tag tags[KL_CLI_TAGS_MAX];
    size_t tags_n;
    const char *list[KL_CLI_ENDPOINTS_MAX]; /* of KL_OPT_ENDPOINT */
    size_t list_n;
};

enum kl_cli_output { KL_OUTPUT_TABLE, KL_OUTPUT_JSON, KL_OUTPUT_TSV, KL_OUTPUT_NONE };

struct kl_cli_settings { /* options, else environment, else profile */
    const char *endpoints[KL_CLI_ENDPOINTS_MAX];
    size_t endpoints_n;
    const char *ca_file;
    char *token; /* wiped at the end; NULL */
    enum kl_cli_output output;
    uint32_t timeout_ms;
};

/* The world outside; tests bring their own. */
struct kl_cli_world {
    FILE *in, *out, *err;
    const char *(*env)(void *ctx, const char *name);
    void *ctx;
};

struct kl_cli {
    const struct kl_cli_world *world;
    const struct kl_cli_command *command;
    struct kl_cli_args args;
    struct kl_cli_settings settings;
    struct kluis_client *client;
    struct kl_cli_block *blocks; /* memory of the run, wiped at its end */
};

/* The whole program but main(). argv's values may be overwritten. */
int kl_cli_run(const struct kl_cli_world *world, int argc, char **argv);

/* ---- memory.c: kept until the run ends, then wiped; ends the program when there is none ---- */
void *kl_cli_keep(struct kl_cli *cli, size_t n);
char *kl_cli_keep_text(struct kl_cli *cli, const char *text, size_t n); /* NUL added */
void kl_cli_forget(struct kl_cli *cli);
/* Never returns when p is NULL. */
void *kl_cli_must(void *p);
/* Jansson's memory is wiped too. Call once, before anything of jansson. */
void kl_cli_wipe_json(void);

/* ---- parse.c ---- */
/* KL_CLI_OK: cli->command and args are set; command NULL: only help of *group (NULL: of all) or, with
 * *version, the version was asked for. Otherwise says what is wrong on world->err. */
int kl_cli_parse(struct kl_cli *cli, int argc, char **argv, const struct kl_cli_group **group,
                 bool *version);
const struct kl_cli_use *kl_cli_use_of(const struct kl_cli_command *command,
                                       enum kl_cli_opt option);

/* ---- suggest.c ---- */
/* The word nearest to `wrong`, when it is near enough; NULL. Feed words with _add. */
struct kl_cli_nearest {
    const char *wrong;
    const char *best;
    unsigned distance;
};
void kl_cli_nearest_init(struct kl_cli_nearest *n, const char *wrong);
void kl_cli_nearest_add(struct kl_cli_nearest *n, const char *word);
const char *kl_cli_nearest(const struct kl_cli_nearest *n);

/* ---- help.c, complete.c ---- */
void kl_cli_help(FILE *out);
void kl_cli_help_group(FILE *out, const struct kl_cli_group *group);
void kl_cli_help_command(FILE *out, const struct kl_cli_command *command);
void kl_cli_complete_bash(FILE *out);

/* ---- settings.c ---- */
int kl_cli_settings_load(struct kl_cli *cli);
int kl_cli_connect(struct kl_cli *cli);

/* ---- values.c ---- */
/* "2026-01-02T03:04:05Z"; years 1970..9999. */
bool kl_cli_time_parse(const char *text, uint64_t *seconds);
/* "500ms", "5s", "2m" into milliseconds; at least 1. */
bool kl_cli_span_parse(const char *text, uint64_t *ms);
void kl_cli_time_format(uint64_t seconds, char out[24]);
/* Kept by the run. */
char *kl_cli_base64(struct kl_cli *cli, const uint8_t *p, size_t n);
char *kl_cli_hex(struct kl_cli *cli, const uint8_t *p, size_t n);
bool kl_cli_utf8(const uint8_t *p, size_t n);

/* ---- files.c ---- */
/* Reads a file ("-": standard input) exactly; more than max is KL_CLI_BAD_INPUT. Kept by the run. */
int kl_cli_read(struct kl_cli *cli, const char *path, size_t max, const char *what, uint8_t **out,
                size_t *out_len);
/* Complains when the file is there and may not be replaced. */
int kl_cli_may_write(struct kl_cli *cli, const char *path, bool force);
/* Through a temporary file of mode 0600 in the same directory; "-": standard output. */
int kl_cli_write(struct kl_cli *cli, const char *path, const void *p, size_t n, bool force);

/* ---- errors.c ---- */
int kl_cli_exit_of(enum kluis_status status);
/* Says what failed, why and what to do next; returns the exit code. */
int kl_cli_failed(struct kl_cli *cli, enum kluis_status status);
int kl_cli_complain(struct kl_cli *cli, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- progress.c: on a terminal, when it takes longer than a second ---- */
struct kl_cli_progress;
struct kl_cli_progress *kl_cli_progress_start(struct kl_cli *cli, const char *what);
void kl_cli_progress_end(struct kl_cli_progress *progress);

/* ---- print.c ---- */
struct kl_cli_column {
    const char *title;
    const char *path; /* into the JSON of a row: "attributes.enabled" */
};
/* Prints and releases result: an array as rows, an object as fields below each other. Honours
 * --output and --query. */
int kl_cli_print(struct kl_cli *cli, json_t *result, const struct kl_cli_column *columns,
                 size_t columns_n);
/* After a stale read that was not printed: says on standard error how old it is. */
void kl_cli_say_age(struct kl_cli *cli);
/* Rows as a table, whatever --output says. */
void kl_cli_table(FILE *out, const json_t *rows, const struct kl_cli_column *columns,
                  size_t columns_n);
/* Walks "a.b", "[0].a" or "[].a"; NULL: not there. New reference. */
json_t *kl_cli_query(json_t *from, const char *path);

/* ---- json.c ---- */
json_t *kl_cli_vault_json(const struct kluis_vault *vault);
/* The value, when there is one, in the encoding (NULL: text, or base64 when it is not UTF-8). */
json_t *kl_cli_secret_json(struct kl_cli *cli, const struct kluis_secret *secret,
                           const char *encoding);
json_t *kl_cli_text(const char *text); /* "" becomes null */
json_t *kl_cli_date(uint64_t seconds); /* 0 becomes null */
/* Takes value. */
void kl_cli_put(json_t *object, const char *key, json_t *value);

/* ---- commands ---- */
int kl_cli_vault_create(struct kl_cli *cli);
int kl_cli_vault_show(struct kl_cli *cli);
int kl_cli_vault_list(struct kl_cli *cli);
int kl_cli_vault_update(struct kl_cli *cli);
int kl_cli_vault_delete(struct kl_cli *cli);
int kl_cli_vault_show_deleted(struct kl_cli *cli);
int kl_cli_vault_list_deleted(struct kl_cli *cli);
int kl_cli_vault_recover(struct kl_cli *cli);
int kl_cli_vault_purge(struct kl_cli *cli);
int kl_cli_secret_set(struct kl_cli *cli);
int kl_cli_secret_show(struct kl_cli *cli);
int kl_cli_secret_list(struct kl_cli *cli);
int kl_cli_secret_list_versions(struct kl_cli *cli);
int kl_cli_secret_set_attributes(struct kl_cli *cli);
int kl_cli_secret_delete(struct kl_cli *cli);
int kl_cli_secret_show_deleted(struct kl_cli *cli);
int kl_cli_secret_list_deleted(struct kl_cli *cli);
int kl_cli_secret_recover(struct kl_cli *cli);
int kl_cli_secret_purge(struct kl_cli *cli);
int kl_cli_secret_backup(struct kl_cli *cli);
int kl_cli_secret_restore(struct kl_cli *cli);
int kl_cli_secret_download(struct kl_cli *cli);
int kl_cli_cluster_status(struct kl_cli *cli);
int kl_cli_cluster_digest(struct kl_cli *cli);
int kl_cli_cluster_transfer(struct kl_cli *cli);
int kl_cli_cluster_replace_node(struct kl_cli *cli);
int kl_cli_cluster_add_node(struct kl_cli *cli);
int kl_cli_cluster_promote(struct kl_cli *cli);
int kl_cli_cluster_remove_node(struct kl_cli *cli);
int kl_cli_cluster_drain(struct kl_cli *cli);
int kl_cli_cluster_undrain(struct kl_cli *cli);
int kl_cli_cluster_confirm_time(struct kl_cli *cli);
int kl_cli_health(struct kl_cli *cli);
int kl_cli_completion(struct kl_cli *cli);
int kl_cli_version(struct kl_cli *cli);

#endif
