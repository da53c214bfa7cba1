/* SPDX-License-Identifier: MIT
 *
 * trapeze host: what this host has to offer to machines. A row is a function of a name.
 */
#include <errno.h>
#include <jansson.h>
#include <linux/io_uring.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "client/cgroup.h"
#include "engine/kvm/probe.h"
#include "sandbox/sandbox.h"

enum offer { YES, PARTLY, NO };
static const char *const offer_names[] = {"yes", "partly", "no"};

struct answer {
    enum offer offer;
    char text[512];
};

static void answer(struct answer *to, enum offer offer, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void answer(struct answer *to, enum offer offer, const char *format, ...)
{
    va_list arguments;
    to->offer = offer;
    va_start(arguments, format);
    vsnprintf(to->text, sizeof(to->text), format, arguments);
    va_end(arguments);
}

static void answer_error(struct answer *to, enum offer offer, struct error *error)
{
    answer(to, offer, "%s", error_message(error));
    error_free(error);
}

static void ask_translation(struct answer *to)
{
#ifdef __x86_64__
    answer(to, YES, "riscv64 guests are translated into this processor's instructions");
#else
    answer(to, PARTLY, "riscv64 guests are interpreted: there is no translator for this processor");
#endif
}

static void ask_kvm(struct answer *to)
{
    struct error *error = NULL;
    int kvm = kvm_open(KVM_DEVICE, &error);
    if (kvm >= 0 && kvm_runs_guests(kvm, &error))
        answer(to, YES, "this processor runs guests of its own kind by itself");
    else
        answer_error(to, NO, error);
    if (kvm >= 0)
        close(kvm);
}

/* What --cpu takes here. */
static void ask_models(struct answer *to)
{
    struct error *error = NULL;
    char names[400];
    int kvm = kvm_open(KVM_DEVICE, &error);
    if (kvm >= 0 && kvm_models(kvm, names, sizeof(names), &error))
        answer(to, YES, "x86_64 guests may be told that they have: %s", names);
    else
        answer_error(to, NO, error);
    if (kvm >= 0)
        close(kvm);
}

/* In a child, which is then locked in. False: it has not told. */
static bool try_sandbox(struct sandbox_report *report)
{
    int ends[2], refused, status;
    const struct sandbox_wish wish = {.features = SANDBOX_CODE};
    if (pipe(ends) != 0)
        return false;
    pid_t child = sandbox_fork(SANDBOX_ALONE, &refused);
    if (child == 0) {
        sandbox_enter(&wish, refused, report);
        _exit(write(ends[1], report, sizeof(*report)) == sizeof(*report) ? 0 : 1);
    }
    close(ends[1]);
    bool told = child > 0 && read(ends[0], report, sizeof(*report)) == sizeof(*report);
    close(ends[0]);
    if (child > 0)
        waitpid(child, &status, 0);
    return told;
}

static void ask_sandbox(struct answer *to)
{
    struct sandbox_report report;
    char parts[400];
    if (!try_sandbox(&report)) {
        answer(to, NO, "a process cannot lock itself in here");
        return;
    }
    sandbox_describe(&report, true, parts, sizeof(parts));
    if (sandbox_is_whole(&report)) {
        answer(to, YES, "each machine is locked in by %s", parts);
        return;
    }
    sandbox_describe(&report, false, parts, sizeof(parts));
    answer(to, PARTLY, "the host refuses a part: %s", parts);
}

static void ask_uring(struct answer *to)
{
    struct io_uring_params parameters = {0};
    int ring = (int)syscall(SYS_io_uring_setup, 1, &parameters);
    if (ring >= 0) {
        close(ring);
        answer(to, YES, "disks use io_uring");
        return;
    }
    answer(to, PARTLY, "disks use threads, which is slower: io_uring is refused (%s%s)",
           strerror(errno), errno == EPERM ? "; see sysctl kernel.io_uring_disabled" : "");
}

static void ask_huge_pages(struct answer *to)
{
    static const char name[] = "/sys/kernel/mm/transparent_hugepage/enabled";
    char text[128] = "";
    FILE *file = fopen(name, "re");
    if (file != NULL) {
        text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
        fclose(file);
    }
    if (strstr(text, "[always]") != NULL || strstr(text, "[madvise]") != NULL)
        answer(to, YES, "guests' memory is in pages of 2 MiB");
    else
        answer(to, PARTLY,
               "guests' memory is in small pages, which is slower: 'echo madvise > %s' "
               "as root allows large ones",
               name);
}

static void ask_cgroup(struct answer *to)
{
    struct error *error = NULL;
    char *group = cgroup_find("", &error);
    if (group != NULL)
        answer(to, YES, "the kernel holds machines to their limits, in groups below %s", group);
    else
        answer_error(to, PARTLY, error);
    free(group);
}

static const struct row {
    const char *name, *title;
    void (*ask)(struct answer *to);
} rows[] = {
    {"translation", "Translation", ask_translation},
    {"kvm", "KVM", ask_kvm},
    {"cpu-models", "CPU models", ask_models},
    {"sandbox", "Sandbox", ask_sandbox},
    {"io_uring", "io_uring", ask_uring},
    {"huge-pages", "Huge pages", ask_huge_pages},
    {"cgroups", "Control groups", ask_cgroup},
};

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze host", "What there is, and what could be made better."},
    {"trapeze host --json | jq .kvm", "For programs."},
};

static int run(const struct cli_args *args, struct error **err)
{
    (void)err;
    json_t *all = json_object();
    bool json = cli_given(args, "json");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct answer to;
        rows[i].ask(&to);
        if (json)
            json_object_set_new(
                all, rows[i].name,
                json_pack("{s:s, s:s}", "offer", offer_names[to.offer], "text", to.text));
        else
            printf("%-15s %-7s %s\n", rows[i].title, offer_names[to.offer], to.text);
    }
    if (json) {
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(all);
    return CLI_OK;
}

const struct cli_command cli_command_host = {
    .name = "host",
    .summary = "Show what this host offers to machines",
    .description = "Tries what machines profit from, and says what is missing and what would help. "
                   "Trapeze runs "
                   "without any of it: 'partly' and 'no' mean slower, or less walled in.\n\n"
                   "KVM is tried by running a few instructions as a guest, as its device may be "
                   "there without a "
                   "processor that can do it; x86_64 guests (--arch x86_64) need it. The CPU models are "
                   "those that --cpu takes on this host.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
