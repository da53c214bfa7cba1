/* SPDX-License-Identifier: MIT
 *
 * One executable, several lives: the command people type, the worker process that it starts for
 * each machine, the processes behind its NICs and network disks, and the daemon.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "block/open/connector.h"
#include "cli/cli.h"
#include "daemon/daemon.h"
#include "net/backends.h"
#include "worker/worker.h"

/* A descriptor that we open must not become 0, 1 or 2 because the caller closed those. */
static void open_standard_streams(void)
{
    for (int fd = open("/dev/null", O_RDWR); fd >= 0; fd = dup(fd))
        if (fd > STDERR_FILENO) {
            close(fd);
            break;
        }
}

int main(int argc, char **argv)
{
    int status;
    open_standard_streams();
    if (net_backend_main(argc, argv, &status))
        return status;
    if (argc > 1 && strcmp(argv[1], "nbd-connect") == 0)
        return block_connector_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return worker_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "daemon-server") == 0)
        return daemon_main(argc - 1, argv + 1);
    return cli_main(argc, argv);
}
