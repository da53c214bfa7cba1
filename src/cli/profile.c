/* SPDX-License-Identifier: MIT
 *
 * trapeze profile: where a running guest spends its time.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/worker.h"

static const struct cli_option options[] = {
    {"seconds", 's', "N", "How long to watch. Default: 5.", NULL},
    {"frequency", 'f', "HZ", "Samples a second, 1 to 10000. Default: 997.", NULL},
    {"top", 't', "N", "Print the N hottest places. Default: 20.", NULL},
    {"symbols", 0, "FILE",
     "Names of addresses: the kernel's System.map, /proc/kallsyms of the guest, or what nm prints "
     "of a program. Samples are then added up by function.",
     NULL},
    {"json", 0, NULL, "Print all places as JSON.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze profile", "Five seconds of the only machine that runs."},
    {"trapeze profile --seconds 20 --symbols System.map vm.sock", "By function."},
};

struct symbol {
    uint64_t address;
    char *name;
};

struct symbols {
    struct symbol *list;
    size_t count;
};

struct place {
    uint64_t pc;
    const char *mode;
    const char *name; /* NULL: none */
    json_int_t count;
};

/* ---- symbols ---- */

static int by_address(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    return x->address < y->address ? -1 : x->address > y->address;
}

/* Lines "ADDRESS TYPE NAME"; others are skipped. */
static bool read_symbols(const char *path, struct symbols *symbols, struct error **err)
{
    FILE *file = fopen(path, "re");
    char line[1024], type, name[512];
    size_t room = 0;
    uint64_t address;
    if (file == NULL)
        return error_set_errno(err, errno, "--symbols: cannot open '%s'", path);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "%" SCNx64 " %c %511s", &address, &type, name) != 3 ||
            strchr("tTwW", type) == NULL)
            continue;
        if (symbols->count == room) {
            room = room == 0 ? 1024 : room * 2;
            symbols->list = alloc_resize(symbols->list, room, sizeof(*symbols->list));
        }
        symbols->list[symbols->count++] = (struct symbol){address, alloc_string(name)};
    }
    fclose(file);
    if (symbols->count == 0) {
        error_set(err, ERROR_USAGE, "--symbols: '%s' names no functions", path);
        error_hint(err, "Its lines are ADDRESS TYPE NAME, as System.map's.");
        return false;
    }
    qsort(symbols->list, symbols->count, sizeof(*symbols->list), by_address);
    return true;
}

static const struct symbol *symbol_of(const struct symbols *symbols, uint64_t pc)
{
    size_t low = 0, high = symbols->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (symbols->list[middle].address <= pc)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 ? &symbols->list[low - 1] : NULL;
}

static void symbols_clear(struct symbols *symbols)
{
    for (size_t i = 0; i < symbols->count; i++)
        free(symbols->list[i].name);
    free(symbols->list);
}

/* ---- the table ---- */

static int by_pc(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->pc < y->pc ? -1 : x->pc > y->pc;
}

static int by_count(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->count > y->count ? -1 : x->count < y->count ? 1 : by_pc(a, b);
}

/* Places of one function become one. Returns how many are left. */
static size_t add_up(struct place *places, size_t count, const struct symbols *symbols)
{
    size_t left = 0;
    for (size_t i = 0; i < count; i++) {
        const struct symbol *symbol = symbol_of(symbols, places[i].pc);
        if (symbol != NULL && places[i].mode[0] != 'U') {
            places[i].pc = symbol->address;
            places[i].name = symbol->name;
        }
    }
    qsort(places, count, sizeof(*places), by_pc);
    for (size_t i = 0; i < count; i++) {
        if (left > 0 && places[left - 1].pc == places[i].pc &&
            strcmp(places[left - 1].mode, places[i].mode) == 0)
            places[left - 1].count += places[i].count;
        else
            places[left++] = places[i];
    }
    return left;
}

static void print_table(const json_t *report, const struct symbols *symbols, size_t top)
{
    const json_t *list = json_object_get(report, "places");
    size_t count = json_array_size(list);
    json_int_t samples = json_integer_value(json_object_get(report, "samples"));
    struct place *places = alloc_zeroed(count + 1, sizeof(*places));
    for (size_t i = 0; i < count; i++) {
        const json_t *place = json_array_get(list, i);
        const char *pc = json_string_value(json_object_get(place, "pc"));
        const char *mode = json_string_value(json_object_get(place, "mode"));
        places[i] = (struct place){
            .pc = pc != NULL ? strtoull(pc, NULL, 16) : 0,
            .mode = mode != NULL ? mode : "?",
            .count = json_integer_value(json_object_get(place, "count")),
        };
    }
    count = add_up(places, count, symbols);
    qsort(places, count, sizeof(*places), by_count);
    printf("%lld samples of guest code; %lld found a vCPU idle or outside of it\n",
           (long long)samples, (long long)json_integer_value(json_object_get(report, "idle")));
    for (size_t i = 0; i < count && i < top; i++)
        printf("%6.2f%% %9lld  %s  0x%016" PRIx64 "%s%s\n",
               100.0 * (double)places[i].count / (double)(samples > 0 ? samples : 1),
               (long long)places[i].count, places[i].mode, places[i].pc,
               places[i].name != NULL ? "  " : "", places[i].name != NULL ? places[i].name : "");
    free(places);
}

/* ---- watching ---- */

static bool number(const struct cli_args *args, const char *option, unsigned long limit,
                   unsigned long *value, struct error **err)
{
    const char *text = cli_last(args, option);
    char *end;
    if (text == NULL)
        return true;
    errno = 0;
    *value = strtoul(text, &end, 10);
    if (isdigit((unsigned char)text[0]) && *end == '\0' && errno == 0 && *value >= 1 &&
        *value <= limit)
        return true;
    return error_set(err, ERROR_USAGE, "--%s: '%s' is not a number from 1 to %lu", option, text,
                     limit);
}

static void wait_seconds(unsigned long seconds)
{
    struct timespec left = {.tv_sec = (time_t)seconds};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

/* The report as JSON text; NULL: err. */
static char *watch(const char *path, unsigned long hz, unsigned long seconds, struct error **err)
{
    char start[64];
    snprintf(start, sizeof(start), "{\"action\": \"start\", \"hz\": %lu}", hz);
    char *reply = client_control(path, "profile", start, err);
    if (reply == NULL)
        return NULL;
    free(reply);
    wait_seconds(seconds);
    reply = client_control(path, "profile", "{\"action\": \"report\"}", err);
    if (reply != NULL)
        free(client_control(path, "profile", "{\"action\": \"stop\"}", NULL));
    return reply;
}

static int run(const struct cli_args *args, struct error **err)
{
    unsigned long seconds = 5, hz = 997, top = 20;
    struct symbols symbols = {0};
    const char *file = cli_last(args, "symbols");
    char *path = NULL, *reply = NULL;
    if (number(args, "seconds", 86400, &seconds, err) &&
        number(args, "frequency", 10000, &hz, err) && number(args, "top", 1000000, &top, err) &&
        (file == NULL || read_symbols(file, &symbols, err)) &&
        (path = cli_machine(args, err)) != NULL)
        reply = watch(path, hz, seconds, err);
    if (reply != NULL && cli_given(args, "json")) {
        puts(reply);
    } else if (reply != NULL) {
        json_t *report = json_loads(reply, 0, NULL);
        print_table(report, &symbols, top);
        json_decref(report);
    }
    bool good = reply != NULL;
    symbols_clear(&symbols);
    free(path);
    free(reply);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

const struct cli_command cli_command_profile = {
    .name = "profile",
    .operands = "[MACHINE]",
    .summary = "Where a running guest spends its time",
    .description =
        "Samples the program counters of a running machine's vCPUs and prints the hottest "
        "addresses, with the mode (U: user, S: supervisor, M: machine). A vCPU notes where it is "
        "at the beginning of its next block of instructions, so addresses are those of blocks. "
        "Nothing slows the guest down while no profile is taken. MACHINE is an instance's name or "
        "a control socket; without it, it is the only "
        "machine that runs ('trapeze control' lists them).",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
