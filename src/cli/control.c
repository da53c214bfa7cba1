/* SPDX-License-Identifier: MIT
 *
 * trapeze control: one verb to a running machine's control socket, the answer as JSON.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/worker.h"

static const struct cli_example examples[] = {
    {"trapeze control", "The control sockets of your running machines."},
    {"trapeze control /run/user/1000/trapeze/4711.sock status", "State, memory, instructions."},
    {"trapeze control vm.sock balloon size=256M", "Takes memory back from the guest."},
    {"trapeze control vm.sock link nic=0 up=false", "Pulls the cable of the first NIC."},
    {"trapeze control vm.sock limit disk=0 iops=500 bps=10M",
     "Slows the first disk down while the machine runs."},
    {"trapeze control vm.sock console", "What the guest printed last (up to 256 KiB)."},
};

static int list_sockets(struct error **err)
{
    char **paths = cli_machines(err);
    if (paths == NULL)
        return CLI_HOST_FAILURE;
    for (size_t i = 0; paths[i] != NULL; i++)
        puts(paths[i]);
    cli_machines_free(paths);
    return CLI_OK;
}

static int run(const struct cli_args *args, struct error **err)
{
    if (args->operand_count == 0)
        return list_sockets(err);
    if (args->operand_count < 2) {
        error_set(err, ERROR_USAGE, "'trapeze control' takes a socket and a verb");
        error_hint(err, "'trapeze control --help' names the verbs.");
        return CLI_USAGE;
    }
    char *arguments = NULL;
    if (args->operand_count > 2 &&
        (arguments = client_arguments(args->operands + 2, args->operand_count - 2, err)) == NULL)
        return CLI_USAGE;
    char *reply = client_control(args->operands[0], args->operands[1], arguments, err);
    free(arguments);
    if (reply == NULL)
        return CLI_HOST_FAILURE;
    puts(reply);
    free(reply);
    return CLI_OK;
}

const struct cli_command cli_command_control = {
    .name = "control",
    .operands = "[SOCKET VERB [NAME=VALUE]...]",
    .summary = "Ask a running machine: status, pause, resume, reset, quit ...",
    .description =
        "Every running machine has a control socket ('trapeze run --control PATH' chooses where). "
        "Without operands the sockets of your machines are listed.\n\n"
        "Verbs: status; stats (see 'trapeze stats'); pause and resume; powerdown (presses the power button: most "
        "systems switch themselves off, bare programs do not hear it); ctrl-alt-del (the keys, of "
        "machines of 'trapeze firecracker' on x86-64; others have the power button pressed); reset; "
        "balloon (with --balloon; size=512M: what the guest shall keep; its memory figures are "
        "those of the question before); link (nic=N up=true|false: plugs a NIC's cable in or pulls "
        "it) and rate (nic=N kbit=N: limits each direction, 0 lifts it; send-bytes, send-frames, "
        "receive-bytes and receive-frames: besides, in a second, one direction); "
        "nic-detach (see 'trapeze net'); "
        "entropy (bytes=N requests=N: what the guest gets of it in a second) and serial (bytes=N: "
        "what of its output gets through, the rest is dropped; tells how much that was); "
        "limit (disk=N iops=N bps=SIZE: what a disk may be asked for in a second, 0 lifts it); "
        "cpu (weight=N cap=PERCENT: its part of contended CPUs, and the most that it uses; 0 lifts "
        "either; tells what it has used); "
        "disks, disk-attach, disk-detach, insert and eject (see 'trapeze disk'); "
        "cpus (count=N: how many start, from the next reset on; tells how many run); "
        "quit (ends the machine at once); console (what the guest printed last). The answer is "
        "JSON.",
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
