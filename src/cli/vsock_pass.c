/* SPDX-License-Identifier: MIT
 *
 * trapeze vsock-pass: OpenSSH's ProxyCommand. Gets a connection from the 'trapeze ssh' that started
 * ssh (guest.c), and passes it on (ssh_config(5), ProxyUseFdpass).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cli.h"
#include "client/guest.h"

static int run(const struct cli_args *args, struct error **err)
{
    const char *place = getenv("TRAPEZE_PASS");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)args;
    size_t length = place != NULL ? strlen(place) : 0;
    if (length == 0 || length >= sizeof(address.sun_path)) {
        error_set(err, ERROR_USAGE, "'vsock-pass' is started by 'trapeze ssh', not by hand");
        return CLI_USAGE;
    }
    memcpy(address.sun_path + 1, place, length);
    int from = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = -1;
    if (from >= 0 && connect(from, (struct sockaddr *)&address,
                             (socklen_t)(sizeof(sa_family_t) + 1 + length)) == 0)
        fd = guest_receive_fd(from);
    if (fd >= 0 && guest_send_fd(STDOUT_FILENO, fd))
        return CLI_OK;
    error_set_errno(err, errno, "cannot pass on the connection to the guest");
    return CLI_HOST_FAILURE;
}

const struct cli_command cli_command_vsock_pass = {
    .name = "vsock-pass",
    .summary = "Hand a connection to ssh",
    .description = "What 'trapeze ssh', 'exec' and 'cp' have ssh start.",
    .hidden = true,
    .run = run,
};
