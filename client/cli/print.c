/*
 * One result, four forms. Tables are for people: control characters of what was stored do not reach
 * the terminal (libsmartcols writes them as \x..). TSV and --query are for scripts.
 */
#include "client/cli/cli.h"
#include "common/alloc.h"

#include <libsmartcols.h>
#include <string.h>

enum { TEXT_MAX = 32 };

/* ---------------------------------------------------------------- query */

static json_t *each(json_t *from, const char *rest)
{
    json_t *out = kl_cli_must(json_array());
    size_t i;
    json_t *item;

    json_array_foreach(from, i, item)
    {
        json_t *got = kl_cli_query(item, rest);

        if (got != NULL && json_array_append_new(out, got) != 0) {
            (void)kl_cli_must(NULL);
        }
    }
    return out;
}

static json_t *index_of(json_t *from, const char *path)
{
    size_t at = 0;
    const char *p = path + 1;

    if (!json_is_array(from)) {
        return NULL;
    }
    if (*p == ']') {
        return each(from, p + 1);
    }
    for (; *p >= '0' && *p <= '9' && at < 1000000; p++) {
        at = at * 10 + (size_t)(*p - '0');
    }
    return *p == ']' && p != path + 1 ? kl_cli_query(json_array_get(from, at), p + 1) : NULL;
}

json_t *kl_cli_query(json_t *from, const char *path)
{
    char key[128];
    size_t n;

    if (from == NULL) {
        return NULL;
    }
    if (path[0] == '\0') {
        return json_incref(from);
    }
    if (path[0] == '[') {
        return index_of(from, path);
    }
    path += path[0] == '.';
    n = strcspn(path, ".[");
    if (n == 0 || n >= sizeof key || !json_is_object(from)) {
        return NULL;
    }
    (void)snprintf(key, sizeof key, "%.*s", (int)n, path);
    return kl_cli_query(json_object_get(from, key), path + n);
}

/* ---------------------------------------------------------------- cells */

/* Tags in a cell: "a=1 b=2". */
static char *object_text(const json_t *object)
{
    size_t n = 1;
    char *out;
    char *to;
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        n += strlen(key) + (json_is_string(value) ? json_string_length(value) : 0) + 2;
    }
    out = kl_cli_must(kl_calloc(1, n));
    to = out;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        to += snprintf(to, n - (size_t)(to - out), "%s%s=%s", to == out ? "" : " ", key,
                       json_is_string(value) ? json_string_value(value) : "");
    }
    return out;
}

/* What a value is in a cell; kl_free. */
static char *cell_text(const json_t *value)
{
    char number[TEXT_MAX];

    if (json_is_string(value)) {
        return kl_cli_must(kl_strdup(json_string_value(value)));
    }
    if (json_is_object(value)) {
        return object_text(value);
    }
    if (json_is_boolean(value)) {
        return kl_cli_must(kl_strdup(json_is_true(value) ? "true" : "false"));
    }
    if (json_is_integer(value)) {
        (void)snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        return kl_cli_must(kl_strdup(number));
    }
    if (json_is_real(value)) {
        (void)snprintf(number, sizeof number, "%.1f", json_real_value(value));
        return kl_cli_must(kl_strdup(number));
    }
    return kl_cli_must(kl_strdup(""));
}

static char *cell_of(json_t *row, const char *path)
{
    json_t *value = kl_cli_query(row, path);
    char *text = cell_text(value);

    json_decref(value);
    return text;
}

static void drop_cell(char *text)
{
    kl_wipe(text, strlen(text));
    kl_free(text);
}

/* ---------------------------------------------------------------- table */

static struct libscols_table *new_table(FILE *out)
{
    struct libscols_table *table = kl_cli_must(scols_new_table());

    (void)scols_table_set_stream(table, out);
    (void)scols_table_enable_maxout(table, 0);
    (void)scols_table_set_column_separator(table, "  ");
    return table;
}

static void add_column(struct libscols_table *table, const char *name)
{
    /* Never cut: a name that is cut is no name. */
    (void)kl_cli_must(scols_table_new_column(table, name, 0, SCOLS_FL_NOEXTREMES));
}

static void set_cell(struct libscols_line *line, size_t column, char *text)
{
    if (scols_line_set_data(line, column, text) != 0) {
        (void)kl_cli_must(NULL);
    }
    drop_cell(text);
}

void kl_cli_table(FILE *out, const json_t *rows, const struct kl_cli_column *columns,
                  size_t columns_n)
{
    struct libscols_table *table = new_table(out);

    for (size_t c = 0; c < columns_n; c++) {
        add_column(table, columns[c].title);
    }
    for (size_t r = 0; r < json_array_size(rows); r++) {
        struct libscols_line *line = kl_cli_must(scols_table_new_line(table, NULL));

        for (size_t c = 0; c < columns_n; c++) {
            set_cell(line, c, cell_of(json_array_get(rows, r), columns[c].path));
        }
    }
    if (json_array_size(rows) != 0) {
        (void)scols_print_table(table);
    }
    scols_unref_table(table);
}

/* One thing: its fields below each other; those that are not set are left out. */
static void print_fields(FILE *out, json_t *row, const struct kl_cli_column *columns,
                         size_t columns_n)
{
    struct libscols_table *table = new_table(out);

    (void)scols_table_enable_noheadings(table, 1);
    add_column(table, "FIELD");
    add_column(table, "VALUE");
    for (size_t c = 0; c < columns_n; c++) {
        char *text = cell_of(row, columns[c].path);

        if (text[0] == '\0') {
            drop_cell(text);
        } else {
            struct libscols_line *line = kl_cli_must(scols_table_new_line(table, NULL));

            set_cell(line, 0, kl_cli_must(kl_strdup(columns[c].title)));
            set_cell(line, 1, text);
        }
    }
    (void)scols_print_table(table);
    scols_unref_table(table);
}

/* ---------------------------------------------------------------- tsv, query */

/* A tab or a line end inside a field would look like the next field. */
static void print_escaped(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '\t':
            (void)fputs("\\t", out);
            break;
        case '\n':
            (void)fputs("\\n", out);
            break;
        case '\r':
            (void)fputs("\\r", out);
            break;
        case '\\':
            (void)fputs("\\\\", out);
            break;
        default:
            (void)fputc(*text, out);
            break;
        }
    }
}

static void print_tsv_row(FILE *out, json_t *row, const struct kl_cli_column *columns,
                          size_t columns_n)
{
    for (size_t c = 0; c < columns_n; c++) {
        char *text = cell_of(row, columns[c].path);

        (void)fputs(c == 0 ? "" : "\t", out);
        print_escaped(out, text);
        drop_cell(text);
    }
    (void)fputc('\n', out);
}

static void print_json(FILE *out, const json_t *value)
{
    if (json_dumpf(value, out, JSON_INDENT(2) | JSON_ENCODE_ANY) != 0) {
        (void)kl_cli_must(NULL);
    }
    (void)fputc('\n', out);
}

/* A field by itself is printed as it is: that is what it was asked for. */
static void print_plain(FILE *out, const json_t *value)
{
    if (json_is_string(value)) {
        (void)fwrite(json_string_value(value), 1, json_string_length(value), out);
        (void)fputc('\n', out);
    } else if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++) {
            print_plain(out, json_array_get(value, i));
        }
    } else if (json_is_object(value)) {
        print_json(out, value);
    } else {
        char *text = cell_text(value);

        (void)fprintf(out, "%s\n", text);
        drop_cell(text);
    }
}

static int print_query(struct kl_cli *cli, json_t *result)
{
    const char *path = cli->args.text[KL_OPT_QUERY];
    json_t *value = kl_cli_query(result, path);

    if (value == NULL) {
        return kl_cli_complain(cli, KL_CLI_USAGE,
                               "--query: there is no \"%s\" in the result; --output json shows it",
                               path);
    }
    if (cli->settings.output == KL_OUTPUT_JSON) {
        print_json(cli->world->out, value);
    } else if (cli->settings.output != KL_OUTPUT_NONE) {
        print_plain(cli->world->out, value);
    }
    json_decref(value);
    return KL_CLI_OK;
}

static void print_all(struct kl_cli *cli, json_t *result, const struct kl_cli_column *columns,
                      size_t columns_n)
{
    FILE *out = cli->world->out;

    switch (cli->settings.output) {
    case KL_OUTPUT_TABLE:
        if (json_is_array(result)) {
            kl_cli_table(out, result, columns, columns_n);
        } else {
            print_fields(out, result, columns, columns_n);
        }
        break;
    case KL_OUTPUT_JSON:
        print_json(out, result);
        break;
    case KL_OUTPUT_TSV:
        if (!json_is_array(result)) {
            print_tsv_row(out, result, columns, columns_n);
        }
        for (size_t i = 0; i < json_array_size(result); i++) {
            print_tsv_row(out, json_array_get(result, i), columns, columns_n);
        }
        break;
    case KL_OUTPUT_NONE:
        break;
    }
}

void kl_cli_say_age(struct kl_cli *cli)
{
    struct kluis_served served;

    kluis_last_served(&served);
    if (served.stale) {
        (void)fprintf(
            cli->world->err, "kluis %s %s: stale: at most %llu.%03llu s old, of node %llu in %s\n",
            cli->command->group, cli->command->name, (unsigned long long)(served.age_ms / 1000),
            (unsigned long long)(served.age_ms % 1000), (unsigned long long)served.node_id,
            served.region);
    }
}

/* How old a stale answer is: in the JSON of one thing, else beside the output. */
static void tell_age(struct kl_cli *cli, json_t *result)
{
    struct kluis_served served;
    json_t *read;

    kluis_last_served(&served);
    if (!served.stale || cli->settings.output != KL_OUTPUT_JSON || !json_is_object(result)) {
        kl_cli_say_age(cli);
        return;
    }
    read = kl_cli_must(json_object());
    kl_cli_put(read, "ageMs", json_integer((json_int_t)served.age_ms));
    kl_cli_put(read, "nodeId", json_integer((json_int_t)served.node_id));
    kl_cli_put(read, "region", kl_cli_text(served.region));
    kl_cli_put(result, "staleRead", read);
}

int kl_cli_print(struct kl_cli *cli, json_t *result, const struct kl_cli_column *columns,
                 size_t columns_n)
{
    int code = KL_CLI_OK;

    tell_age(cli, result);

    if (cli->args.given[KL_OPT_QUERY]) {
        code = print_query(cli, result);
    } else {
        print_all(cli, result, columns, columns_n);
    }
    json_decref(result);
    if (code == KL_CLI_OK && fflush(cli->world->out) != 0) {
        code = kl_cli_complain(cli, KL_CLI_LOCAL_IO, "cannot write to standard output");
    }
    return code;
}
