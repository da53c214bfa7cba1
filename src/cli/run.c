/* SPDX-License-Identifier: MIT
 *
 * trapeze run: from options to a machine description, then to a worker with its console
 * attached.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/machine.h"
#include "cli/nic.h"
#include "cli/share.h"
#include "cli/vsock.h"
#include "sandbox/sandbox.h"

static const struct cli_option options[] = {
    CLI_WHAT_OPTIONS,
    {"vmx", 0, "FILE", "Start from the machine description in FILE; other options override it.",
     NULL},
    CLI_SIZE_OPTIONS,
    {"engine", 0, "NAME",
     "How vCPUs are run: 'dbt', the translator (x86-64 hosts), 'interp', the interpreter, "
     "'kvm' for x86_64 guests, or 'auto' (default): the fastest that works.",
     NULL},
    {"interrupts", 0, "KIND",
     "The interrupt controller: 'plic'; 'aia', RISC-V's advanced interrupt architecture, with a "
     "message of its own for every queue of a device; or 'auto' (default): aia if the kernel has "
     "a driver for it, as Linux has from 6.10 on.",
     NULL},
    CLI_SHARE_OPTION,
    CLI_VSOCK_OPTION,
    {"pci-slots", 0, "N",
     "Give the machine N PCIe slots, 1 to 8, each on a root port of its own. NICs go there while "
     "one is free, and can be attached and detached as hardware is ('trapeze net').",
     NULL},
    {"virtio", 0, "KIND",
     "What virtio devices are plugged into: 'pci' (default), or 'mmio', registers of their own that the "
     "device tree or ACPI names, for kernels without PCI. All queues of a device then share one interrupt.",
     NULL},
    {"resume", 0, "FILE",
     "Let the machine that was suspended into FILE ('trapeze suspend') go on; nothing else needs to be "
     "said of it. The file stays; once the disks have been written to it is of no use any more.",
     NULL},
    {"force", 0, NULL, "With --resume: go on though a disk was changed since. It will be damaged.",
     NULL},
    {"incoming", 0, NULL,
     "Wait for a machine that is migrated here, instead of starting: the same one, described as it was "
     "there. It comes over sockets that the control verb 'incoming' brings; for tests and tools.",
     NULL},
    {"no-reboot", 0, NULL, "End when the guest resets itself, instead of restarting it in place.",
     NULL},
    {"deterministic", 0, "[=SEED]",
     "Virtual time follows retired instructions, all vCPUs share one host thread, and random "
     "numbers come from SEED (default 0): two runs are identical, instruction by instruction.",
     NULL},
    {"ram-backend", 0, "KIND",
     "Guest memory is 'anonymous' (default; huge pages) or a 'memfd' that another process could "
     "share.",
     NULL},
    {"name", 'n', "NAME", "A name for the machine, shown in messages.", NULL},
    CLI_LIMIT_OPTIONS,
    CLI_NIC_OPTIONS,
    CLI_SEED_OPTIONS,
    {"code-cache", 0, "SIZE",
     "Memory for the translations of each vCPU, e.g. 32M; a bare number is MiB. When it is full "
     "the oldest eighth is dropped. From 256K to 1G. Default: 64M.",
     "The translator"},
    {"host-cpu-features", 0, "LIST",
     "Which instructions of the host translations may use beyond the x86-64 baseline: a list of "
     "-NAME (without), +NAME (with) and 'none', read from left to right, e.g. -fma,-bmi2 or "
     "none,+popcnt. Names: popcnt, lzcnt, bmi1, bmi2, avx, fma. Default: all that the host has. "
     "Results do not depend on it.",
     NULL},
    {"count-blocks", 0, NULL,
     "Translations count how often they run, which costs a few percent; 'trapeze stats' then "
     "tells blocks-run and chain-hits (blocks that another one led to directly).",
     NULL},
    {"trace", 0, "TOPICS[:FILE]",
     "Write down what the engine does, to FILE or standard error: 'blocks' (translations as they "
     "are made), 'exits' (what guest code is left for), 'mmu' (TLB refills and flushes); several "
     "are separated by commas.",
     NULL},
    {"perf", 0, "KIND",
     "Tell Linux perf what translated code is: 'map' (/tmp/perf-PID.map), or 'jitdump[:FOLDER]' "
     "(jit-PID.dump, for 'perf record -k mono' and 'perf inject --jit').",
     NULL},
    {"console", 0, "WHERE",
     "The guest's console: 'stdio' (default), 'none', 'file:PATH' (output only) or "
     "'socket:PATH' (a unix socket to connect to).",
     "Console and control"},
    {"console-device", 0, "KIND",
     "What the console is for the guest: 'uart' (ttyS0, default; the kernel's first messages are "
     "there, and a login asks the terminal for its size) or 'virtio' (hvc0, which also follows a "
     "window that changes its size; add --append console=hvc0).",
     NULL},
    {"control", 0, "PATH",
     "Make the control socket at PATH instead of the runtime folder; see 'trapeze control'.", NULL},
    {"gdb", 0, "WHERE",
     "Let GDB debug the guest: 'tcp:PORT' (this host only; port 0: any that is free) or "
     "'unix:PATH'. Harts (vCPUs) are GDB's threads; an x86_64 guest has at most four break- and watchpoints at once. Whoever can connect owns the guest: any user of this "
     "host, with tcp.",
     NULL},
    {"gdb-wait", 0, NULL, "Do not start before GDB says 'continue'.", NULL},
    {"sandbox", 0, "MODE",
     "How the process that runs the machine is locked in, lest a guest that takes it over gets "
     "anywhere: 'auto' (default) does all that this host allows, and warns of what it refuses; "
     "'on' does not start the machine without all of it; 'off' is for debugging trapeze itself.",
     NULL},
    {"dump-fdt", 0, "FILE", "Write the guest's device tree (dtb) to FILE before starting.", NULL},
    {"verbose", 'v', NULL, "Say more; twice: debugging.", NULL},
    {"quiet", 'q', NULL, "Only say what went wrong.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze run --image debian", "A Debian 13 machine on this terminal; Ctrl-] ends it."},
    {"trapeze run --image debian -m 2G -c 4 --disk data.img",
     "More of everything, and a disk that stays."},
    {"trapeze run --image debian --forward tcp:2222:22 --ssh-key ~/.ssh/id_ed25519.pub",
     "Then, from another terminal: ssh -p 2222 root@localhost."},
    {"trapeze run --kernel Image --initrd initrd --append 'console=ttyS0 quiet'",
     "A kernel of your own."},
    {"trapeze run --resume web.saved", "A machine that was suspended goes on."},
    {"trapeze run --firmware test.elf; echo $?", "A bare-metal program and its exit code."},
    {"trapeze run --firmware test.elf --gdb tcp:1234 --gdb-wait",
     "The same under GDB: gdb-multiarch test.elf -ex 'target remote localhost:1234'."},
};

static bool parse_console(const char *text, struct client_options *client, struct error **err)
{
    if (text == NULL || strcmp(text, "stdio") == 0) {
        client->console = CLIENT_CONSOLE_STDIO;
    } else if (strcmp(text, "none") == 0) {
        client->console = CLIENT_CONSOLE_NONE;
    } else if (strncmp(text, "file:", 5) == 0 && text[5] != '\0') {
        client->console = CLIENT_CONSOLE_FILE;
        client->console_path = text + 5;
    } else if (strncmp(text, "socket:", 7) == 0 && text[7] != '\0') {
        client->console = CLIENT_CONSOLE_SOCKET;
        client->console_path = text + 7;
    } else {
        error_set(err, ERROR_USAGE, "--console: there is no '%s'", text);
        error_hint(err, "It takes stdio, none, file:PATH or socket:PATH.");
        return false;
    }
    return true;
}

static int exit_status(const struct client_result *result, struct error **err)
{
    switch (result->end) {
    case CLIENT_END_POWEROFF:
        return CLI_OK;
    case CLIENT_END_EXIT_CODE:
        return result->code > 0xff ? 0xff : (int)result->code;
    case CLIENT_END_CRASH:
        fprintf(stderr, "trapeze: %s\n", result->message);
        return CLI_GUEST_CRASH;
    case CLIENT_END_SUSPENDED:
        fputs("trapeze: the virtual machine was suspended.\n", stderr);
        return CLI_OK;
    case CLIENT_END_MIGRATED:
        fputs("trapeze: the virtual machine was migrated.\n", stderr);
        return CLI_OK;
    case CLIENT_END_QUIT:
        fputs("trapeze: the virtual machine was ended.\n", stderr);
        return CLI_INTERRUPTED;
    case CLIENT_END_REFUSED:
        error_set(err, result->usage ? ERROR_USAGE : ERROR_HOST, "%s", result->message);
        return CLI_HOST_FAILURE;
    }
    return CLI_HOST_FAILURE;
}

/* ---- putting it together ---- */

static int log_level(const struct cli_args *args)
{
    int level = LOG_LEVEL_WARNING;
    for (size_t i = 0; i < args->value_count; i++)
        if (strcmp(args->values[i].option->name, "verbose") == 0 && level < LOG_LEVEL_DEBUG)
            level++;
    return cli_given(args, "quiet") ? LOG_LEVEL_ERROR : level;
}

/* The private copy of an image's disk is now the suspended machine's. */
static void keep_copy(struct image_copy *copy)
{
    if (copy->path != NULL)
        fprintf(stderr, "trapeze: its disk stays: %s\n", copy->path);
    image_copy_keep(copy);
}

static int run(const struct cli_args *args, struct error **err)
{
    struct cli_machine machine = {.keep = false};
    struct client_options client = {.control_path = cli_last(args, "control"),
                                    .log_level = log_level(args),
                                    .gdb = cli_last(args, "gdb"),
                                    .gdb_wait = cli_given(args, "gdb-wait"),
                                    .incoming = cli_given(args, "incoming")};
    struct client_result result;
    int status = CLI_HOST_FAILURE;
    if (client.gdb_wait && client.gdb == NULL) {
        error_set(err, ERROR_USAGE, "--gdb-wait needs --gdb WHERE");
        return CLI_USAGE;
    }
    const char *sandbox = cli_last(args, "sandbox");
    if (sandbox != NULL && !sandbox_mode_from(sandbox, &client.sandbox)) {
        error_set(err, ERROR_USAGE, "--sandbox: there is no '%s'", sandbox);
        error_hint(err, "It takes auto, on or off.");
        return CLI_USAGE;
    }
    if (!parse_console(cli_last(args, "console"), &client, err))
        return CLI_USAGE;
    if (cli_machine_configure(args, &client, &machine, err)) {
        client.resume = machine.saved.fd >= 0 ? &machine.saved : NULL;
        client.resume_anyway = cli_given(args, "force");
        if (client_run(&machine.config, &client, &result, err)) {
            status = exit_status(&result, err);
            if (result.end == CLIENT_END_SUSPENDED)
                keep_copy(&machine.copy);
        }
    }
    cli_machine_clear(&machine);
    return status;
}

const struct cli_command cli_command_run = {
    .name = "run",
    .summary = "Run a virtual machine, its console on this terminal",
    .description =
        "Starts a virtual machine in a process of its own and connects its console to this "
        "terminal. With no terminal on standard input the console simply flows to standard "
        "output, and standard input to the guest.\n\n"
        "The machine is compatible with QEMU's riscv64 'virt' board: RAM at 0x80000000, a 16550 "
        "UART, PCIe with virtio devices.\n\n"
        "Exit status: 0 when the guest switches itself off; 120 bad usage; 121 the host failed; "
        "122 the guest crashed (kernel panic, failure reported to the firmware); 130 ended from "
        "outside; the program's own code for a bare-metal program.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
