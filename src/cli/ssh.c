/* SPDX-License-Identifier: MIT
 *
 * trapeze ssh.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/guest.h"

static const struct cli_option options[] = {CLI_GUEST_OPTIONS};

static const struct cli_example examples[] = {
    {"trapeze ssh web", "A shell in the guest, as root."},
    {"trapeze ssh web -- -L 8080:localhost:80", "The same; port 8080 here leads to its port 80."},
    {"trapeze ssh -u admin web -- journalctl -f", "A command, as another user."},
};

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_guest_name(args, err);
    if (name == NULL)
        return CLI_USAGE;
    char **words = alloc_zeroed(args->operand_count, sizeof(*words));
    words[0] = (char *)(uintptr_t)GUEST_SSH_HOST; /* ssh takes options behind it, too */
    for (size_t i = 1; i < args->operand_count; i++)
        words[i] = args->operands[i];
    int status = cli_guest_run(args, name, "ssh", words, args->operand_count, err);
    free(words);
    return status;
}

const struct cli_command cli_command_ssh = {
    .name = "ssh",
    .operands = "NAME [-- SSH OPTIONS AND COMMAND...]",
    .summary = "Log in to an instance",
    .description =
        "Starts OpenSSH's ssh for the ssh server of an instance's guest, over the machine's vsock: "
        "no "
        "network is needed, nor a forwarded port. A guest that does not answer yet is waited for. "
        "What follows '--' is for ssh: options, and a command that the guest's shell reads "
        "('trapeze "
        "exec' runs one as it is). The exit status is ssh's: the command's, or 255 if ssh "
        "failed.\n\n"
        "The key pair is the store's (ssh/id_ed25519 in it). Guests learn it at every start from "
        "the "
        "kernel's command line, if they have systemd 256 or later and openssh-server (Debian 13 "
        "and "
        "the images made here do); guests of other kinds from the seed of 'trapeze create "
        "--hostname', with cloud-init. The guest's host key is learned at the first contact and "
        "kept "
        "in the instance's folder, known_hosts; a guest that comes with another one is refused "
        "until that file is removed. With --host it works the same: the guest is reached through the "
        "daemon there, which certifies a key made for that one time.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
