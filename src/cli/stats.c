/* SPDX-License-Identifier: MIT
 *
 * trapeze stats: the counters of a running machine.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/worker.h"

static const struct cli_option options[] = {
    {"json", 0, NULL, "Print the machine's answer as it is.", NULL},
    {"all", 'a', NULL, "Print counters that are 0, too.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze stats", "Of the only machine that runs."},
    {"trapeze stats --json vm.sock | jq '.vcpus[0][\"tlb-refills-load\"]'", "For programs."},
};

static void print_table(const json_t *stats, bool all)
{
    const json_t *vcpus = json_object_get(stats, "vcpus");
    size_t count = json_array_size(vcpus);
    const char *name;
    json_t *first;
    printf("engine %s, state %s, virtual time %.3f s\n",
           json_string_value(json_object_get(stats, "engine")),
           json_string_value(json_object_get(stats, "state")),
           (double)json_integer_value(json_object_get(stats, "virtual-time-ns")) / 1e9);
    const json_t *cpu = json_object_get(stats, "cpu");
    printf("CPU time %.3f s, waited for a CPU %.3f s, held by its limits %.3f s\n",
           (double)json_integer_value(json_object_get(cpu, "used-ns")) / 1e9,
           (double)json_integer_value(json_object_get(cpu, "waited-ns")) / 1e9,
           (double)json_integer_value(json_object_get(cpu, "held-ns")) / 1e9);
    printf("%-28s %18s", "", "total");
    for (size_t i = 0; count > 1 && i < count; i++)
        printf("  %11s%zu", "vcpu", i);
    putchar('\n');
    json_object_foreach(json_array_get(vcpus, 0), name, first)
    {
        json_int_t total = 0;
        for (size_t i = 0; i < count; i++)
            total += json_integer_value(json_object_get(json_array_get(vcpus, i), name));
        if (total == 0 && !all && strcmp(name, "instructions") != 0)
            continue;
        printf("%-28s %18lld", name, (long long)total);
        for (size_t i = 0; count > 1 && i < count; i++)
            printf("%14lld",
                   (long long)json_integer_value(json_object_get(json_array_get(vcpus, i), name)));
        putchar('\n');
    }
}

static int run(const struct cli_args *args, struct error **err)
{
    char *path = cli_machine(args, err);
    char *reply = path != NULL ? client_control(path, "stats", NULL, err) : NULL;
    free(path);
    if (reply == NULL)
        return CLI_HOST_FAILURE;
    json_t *stats = json_loads(reply, 0, NULL);
    int status = CLI_OK;
    if (cli_given(args, "json")) {
        puts(reply);
    } else if (json_array_size(json_object_get(stats, "vcpus")) > 0) {
        print_table(stats, cli_given(args, "all"));
    } else {
        error_set(err, ERROR_HOST, "the machine's answer makes no sense");
        status = CLI_HOST_FAILURE;
    }
    json_decref(stats);
    free(reply);
    return status;
}

const struct cli_command cli_command_stats = {
    .name = "stats",
    .operands = "[MACHINE]",
    .summary = "Counters of a running machine: instructions, exits, TLB, translations",
    .description =
        "Prints how often what happened since the machine was made, for all vCPUs and for each; "
        "they stand still for some microseconds meanwhile. MACHINE is an instance's name or a "
        "control socket; without it, it is the only machine "
        "that runs ('trapeze control' lists them).\n\n"
        "CPU time is that of all the machine's threads; its vCPUs waited while the host was busy "
        "with others, and were held while weight or cap had them stand still ('trapeze run "
        "--cpu-weight', '--cpu-cap').\n\n"
        "instructions: retired. exits-*: what vCPUs stopped running guest code for (ecall: calls "
        "of "
        "the firmware; wait: for an interrupt; kick: for attention). tlb-*: address translations "
        "that were cached and dropped. With the translator: blocks- and "
        "instructions-translated; jumps-linked, directly from one block to another; "
        "inline-caches, of indirect jumps; "
        "instructions-interpreted, because they were not run often enough to be translated; "
        "left-code-*: why translated code was left for the translator's own (look-up and jump: the "
        "next block was not known yet; function: something rare; mapping: the page may be mapped "
        "elsewhere by now); cache-*: how full the code cache is and what was dropped to make room; "
        "with 'trapeze run --count-blocks', blocks-run and chain-hits.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
