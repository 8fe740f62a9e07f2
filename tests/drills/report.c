/* Results for people, for programs, and as a page with a picture of each drill. */
#include "tests/drills/drill.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 900, LANE = 46, LEFT = 90, TOP = 14, SCALE_S = 5 };

void drill_print(const struct drill *d)
{
    const struct drill_cost *c = &d->cost;

    printf("%s %s%s%s\n", d->passed ? "PASSED" : "FAILED", d->kind->name, d->passed ? "" : ": ",
           d->passed ? "" : d->why);
    printf(
        "  without writes %llu ms (at most %u), without reads %llu ms (at most %u), of %llu "
        "writes %llu lost %llu doubled, of %llu reads %llu stale, purges %llu in time %llu too "
        "early, %llu calls failed, history %s, digests %s\n",
        (unsigned long long)c->no_writes_ms, d->kind->no_writes_max_ms,
        (unsigned long long)c->no_reads_ms, d->kind->no_reads_max_ms, (unsigned long long)c->writes,
        (unsigned long long)c->lost, (unsigned long long)c->doubled, (unsigned long long)c->reads,
        (unsigned long long)c->stale, (unsigned long long)c->purged, (unsigned long long)c->early,
        (unsigned long long)c->failed_calls, c->linearizable ? "linearizable" : "NOT LINEARIZABLE",
        c->digests_equal ? "equal" : "DIFFER");
    if (c->first_failure[0] != 0) {
        printf("  first failed call: %s\n", c->first_failure);
    }
    if (c->violation[0] != 0) {
        printf("  %s\n", c->violation);
    }
    (void)fflush(stdout);
}

static void put(json_t *to, const char *key, json_t *value)
{
    if (json_object_set_new(to, key, value) != 0) {
        (void)fprintf(stderr, "drill: out of memory\n");
        exit(1);
    }
}

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *curve_json(const struct drill *d, const uint16_t *slots)
{
    size_t n = (size_t)((d->ended_us - d->begun_us) / 1000u / DRILL_SLOT_MS) + 1;
    json_t *list = json_array();

    for (size_t i = 0; i < n && i < DRILL_SLOTS_MAX; i++) {
        (void)json_array_append_new(list, json_integer(slots[i]));
    }
    return list;
}

static json_t *timeline_json(const struct drill *d)
{
    json_t *list = json_array();

    for (size_t i = 0; i < d->events_n; i++) {
        json_t *e = json_object();

        put(e, "ms", number((d->events[i].at_us - d->begun_us) / 1000));
        put(e, "event", json_string(d->events[i].text));
        (void)json_array_append_new(list, e);
    }
    return list;
}

json_t *drill_json(const struct drill *d)
{
    const struct drill_cost *c = &d->cost;
    json_t *o = json_object();
    json_t *curves = json_object();

    put(o, "name", json_string(d->kind->name));
    put(o, "what", json_string(d->kind->what));
    put(o, "sites", json_string(d->site->name));
    put(o, "site_delay_ms", number(d->delay_ms));
    put(o, "passed", json_boolean(d->passed));
    put(o, "why_not", json_string(d->why));
    put(o, "duration_ms", number((d->ended_us - d->begun_us) / 1000));
    put(o, "fault_ms", number((d->fault_us - d->begun_us) / 1000));
    put(o, "no_writes_ms", number(c->no_writes_ms));
    put(o, "no_writes_max_ms", number(d->kind->no_writes_max_ms));
    put(o, "no_reads_ms", number(c->no_reads_ms));
    put(o, "no_reads_max_ms", number(d->kind->no_reads_max_ms));
    put(o, "writes", number(c->writes));
    put(o, "reads", number(c->reads));
    put(o, "writes_lost", number(c->lost));
    put(o, "writes_doubled", number(c->doubled));
    put(o, "stale_reads", number(c->stale));
    put(o, "purges_too_early", number(c->early));
    put(o, "purges_in_time", number(c->purged));
    put(o, "failed_calls", number(c->failed_calls));
    put(o, "first_failed_call", json_string(c->first_failure));
    put(o, "linearizable", json_boolean(c->linearizable));
    put(o, "violation", json_string(c->violation));
    put(o, "digests_equal", json_boolean(c->digests_equal));
    put(o, "timeline", timeline_json(d));
    put(o, "slot_ms", number(DRILL_SLOT_MS));
    for (unsigned s = 0; s < SITE_CLIENTS; s++) {
        json_t *site = json_object();

        put(site, "writes", curve_json(d, d->curves[s].writes));
        put(site, "reads", curve_json(d, d->curves[s].reads));
        put(curves, site_name(s), site);
    }
    put(o, "answered", curves);
    return o;
}

json_t *drill_memory(const struct soak *s, bool *grows)
{
    json_t *o = json_object();
    json_t *nodes = json_array();

    *grows = false;
    printf("memory (RssAnon in MiB, the highest of each window) over the last cluster: %zu drills\n"
           "  node   first  early   late  growth in a process, MiB per minute\n",
           s->samples_n);
    for (unsigned n = 0; n < SITE_NODES; n++) {
        struct memory_report r = memory_judge(s->samples[n], s->samples_n);
        json_t *node = json_object();
        json_t *samples = json_array();

        *grows = *grows || r.verdict == MEMORY_GROWS;
        printf("  n%u    %6.1f %6.1f %6.1f  %+.2f over %.1f min  memory %s\n", n + 1,
               (double)r.first_kib / 1024, (double)r.early_kib / 1024, (double)r.late_kib / 1024,
               (double)r.growth_kib_per_min / 1024, (double)r.growth_over_ms / 60000,
               memory_verdict_name(r.verdict));
        put(node, "first_kib", number(r.first_kib));
        put(node, "early_kib", number(r.early_kib));
        put(node, "late_kib", number(r.late_kib));
        put(node, "growth_kib_per_min", json_integer(r.growth_kib_per_min));
        put(node, "growth_over_ms", number(r.growth_over_ms));
        put(node, "verdict", json_string(memory_verdict_name(r.verdict)));
        for (size_t i = 0; i < s->samples_n; i++) {
            const struct memory_sample *m = &s->samples[n][i];

            (void)json_array_append_new(
                samples,
                json_pack("{sIsIsIsI}", "ms", (json_int_t)(m->at_ms - s->samples[n][0].at_ms),
                          "age_ms", (json_int_t)m->age_ms, "anon_kib", (json_int_t)m->anon_kib,
                          "rss_kib", (json_int_t)m->rss_kib));
        }
        put(node, "samples", samples);
        (void)json_array_append_new(nodes, node);
    }
    put(o, "rule", json_string("tests/drills/memory.h"));
    put(o, "nodes", nodes);
    put(o, "grows", json_boolean(*grows));
    return o;
}

/* ---- the page ---- */

static void escaped(FILE *f, const char *text)
{
    for (; text != NULL && *text != 0; text++) {
        switch (*text) {
        case '<':
            (void)fputs("&lt;", f);
            break;
        case '>':
            (void)fputs("&gt;", f);
            break;
        case '&':
            (void)fputs("&amp;", f);
            break;
        case '"':
            (void)fputs("&quot;", f);
            break;
        default:
            (void)fputc(*text, f);
        }
    }
}

static double integer(const json_t *o, const char *key)
{
    return (double)json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s == NULL ? "" : s;
}

/* A bar for each slot: how many were answered in it. */
static void lane(FILE *f, const json_t *slots, double slot_ms, double total_ms, unsigned y,
                 const char *label, const char *color)
{
    size_t n = json_array_size(slots);
    json_int_t most = 1;

    for (size_t i = 0; i < n; i++) {
        json_int_t v = json_integer_value(json_array_get(slots, i));

        most = v > most ? v : most;
    }
    (void)fprintf(f, "<text x='0' y='%u'>%s</text><path fill='%s' d='", y + LANE / 2, label, color);
    for (size_t i = 0; i < n; i++) {
        json_int_t v = json_integer_value(json_array_get(slots, i));
        double h = (double)v * (LANE - 6) / (double)most;

        if (v != 0) {
            (void)fprintf(f, "M%.1f %uv%.1fh%.2fv%.1fz",
                          LEFT + (double)i * slot_ms / total_ms * WIDTH, y + LANE, -h,
                          slot_ms / total_ms * WIDTH, h);
        }
    }
    (void)fprintf(f, "'/><path stroke='#888' d='M%d %uh%d'/>\n", LEFT, y + LANE, WIDTH);
}

static void picture(FILE *f, const json_t *d)
{
    static const struct {
        const char *site, *kind, *label, *color;
    } lanes[] = {
        {"west", "writes", "west writes", "#2a6f97"},
        {"west", "reads", "west reads", "#89c2d9"},
        {"east", "writes", "east writes", "#2d6a4f"},
        {"east", "reads", "east reads", "#95d5b2"},
    };
    const json_t *answered = json_object_get(d, "answered");
    const json_t *timeline = json_object_get(d, "timeline");
    double total = integer(d, "duration_ms") + 1;
    unsigned bottom = TOP + 4 * LANE;

    (void)fprintf(f, "<svg viewBox='0 0 %d %u' role='img'>\n", LEFT + WIDTH + 10, bottom + 20);
    for (unsigned i = 0; i < 4; i++) {
        lane(f, json_object_get(json_object_get(answered, lanes[i].site), lanes[i].kind),
             integer(d, "slot_ms"), total, TOP + i * LANE, lanes[i].label, lanes[i].color);
    }
    for (unsigned s = 0; s * 1000.0 < total; s += SCALE_S) {
        (void)fprintf(f, "<text x='%.1f' y='%u'>%u s</text>\n", LEFT + s * 1000.0 / total * WIDTH,
                      bottom + 14, s);
    }
    for (size_t i = 0; i < json_array_size(timeline); i++) {
        double x = LEFT + integer(json_array_get(timeline, i), "ms") / total * WIDTH;

        (void)fprintf(f,
                      "<path stroke='#c1121f' d='M%.1f %dV%u'/><text x='%.1f' y='%d' "
                      "fill='#c1121f'>%zu</text>\n",
                      x, TOP, bottom, x - 3, TOP - 3, i + 1);
    }
    (void)fprintf(f, "</svg>\n");
}

static void section(FILE *f, const json_t *d)
{
    bool passed = json_is_true(json_object_get(d, "passed"));
    const json_t *timeline = json_object_get(d, "timeline");

    (void)fprintf(f, "<section id='%s'><h2>%s <b class='%s'>%s</b></h2><p>", text(d, "name"),
                  text(d, "name"), passed ? "ok" : "bad", passed ? "passed" : "failed");
    escaped(f, text(d, "what"));
    (void)fprintf(f, " Without writes %.0f ms, without reads %.0f ms; %.0f ms between sites. ",
                  integer(d, "no_writes_ms"), integer(d, "no_reads_ms"),
                  integer(d, "site_delay_ms"));
    escaped(f, text(d, "why_not"));
    (void)fprintf(f, "</p>\n");
    picture(f, d);
    (void)fprintf(f, "<ol>\n");
    for (size_t i = 0; i < json_array_size(timeline); i++) {
        const json_t *e = json_array_get(timeline, i);

        (void)fprintf(f, "<li>%.2f s: ", integer(e, "ms") / 1000);
        escaped(f, text(e, "event"));
        (void)fprintf(f, "</li>\n");
    }
    (void)fprintf(f, "</ol></section>\n");
}

static void table(FILE *f, const json_t *results)
{
    static const char *const columns[] = {"no_writes_ms",   "no_reads_ms", "writes_lost",
                                          "writes_doubled", "stale_reads", "purges_too_early",
                                          "failed_calls"};
    enum { COLUMNS = sizeof columns / sizeof columns[0] };

    (void)fprintf(f, "<table><tr><th>drill<th>verdict<th>ms without writes<th>ms without reads"
                     "<th>lost<th>doubled<th>stale<th>purged early<th>calls failed</tr>\n");
    for (size_t i = 0; i < json_array_size(results); i++) {
        const json_t *d = json_array_get(results, i);
        bool passed = json_is_true(json_object_get(d, "passed"));

        (void)fprintf(f, "<tr><td><a href='#%s'>%s</a><td class='%s'>%s", text(d, "name"),
                      text(d, "name"), passed ? "ok" : "bad", passed ? "passed" : "failed");
        for (size_t k = 0; k < COLUMNS; k++) {
            (void)fprintf(f, "<td>%.0f", integer(d, columns[k]));
        }
        (void)fprintf(f, "</tr>\n");
    }
    (void)fprintf(f, "</table>\n");
}

static void memory_table(FILE *f, const json_t *memory)
{
    const json_t *nodes = json_object_get(memory, "nodes");

    (void)fprintf(
        f, "<h2>Memory</h2><p>RssAnon in MiB after each drill on the last cluster, the highest "
           "of each window; the rule is in "
           "tests/drills/memory.h.</p><table><tr><th>node<th>first<th>early"
           "<th>late<th>growth per minute<th>memory</tr>\n");
    for (size_t i = 0; i < json_array_size(nodes); i++) {
        const json_t *n = json_array_get(nodes, i);

        (void)fprintf(f, "<tr><td>n%zu<td>%.1f<td>%.1f<td>%.1f<td>%+.2f<td>%s</tr>\n", i + 1,
                      integer(n, "first_kib") / 1024, integer(n, "early_kib") / 1024,
                      integer(n, "late_kib") / 1024, integer(n, "growth_kib_per_min") / 1024,
                      text(n, "verdict"));
    }
    (void)fprintf(f, "</table>\n");
}

bool drill_html(const char *path, const json_t *results, const json_t *memory)
{
    FILE *f = fopen(path, "w");

    if (f == NULL) {
        return false;
    }
    (void)fprintf(
        f, "<!doctype html><html lang='en'><meta charset='utf-8'><title>kluis drills</title>\n"
           "<style>body{font:15px/1.4 sans-serif;max-width:1040px;margin:2em auto;padding:0 "
           "1em}table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px "
           "solid #ccc;text-align:right}td:first-child,th:first-child{text-align:left}"
           "svg{width:100%%}svg text{font:11px sans-serif}.ok{color:#2d6a4f}.bad{color:"
           "#c1121f}</style>\n<h1>kluis drills</h1>\n<p>");
    escaped(f, text(json_array_get(results, 0), "sites"));
    (void)fprintf(f,
                  ". Bars: calls answered in each tenth of a second, by the region of the client. "
                  "Lines: events, numbered as in the list below each picture.</p>\n");
    table(f, results);
    if (memory != NULL) {
        memory_table(f, memory);
    }
    for (size_t i = 0; i < json_array_size(results); i++) {
        section(f, json_array_get(results, i));
    }
    (void)fprintf(f, "</html>\n");
    return fclose(f) == 0;
}
