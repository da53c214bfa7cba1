/* SPDX-License-Identifier: MIT
 *
 * One executable, several lives: the command people type, the worker process that it starts for
 * each machine, the processes behind its NICs and network disks, and the daemon.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
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

/* Clients of Firecracker start a program of that name: its arguments are those of a command. */
static int firecracker_main(int argc, char **argv)
{
    char program[] = "trapeze", command[] = "firecracker";
    char **words = alloc_zeroed((size_t)argc + 2, sizeof(*words));
    words[0] = program;
    words[1] = command;
    for (int i = 1; i < argc; i++)
        words[i + 1] = argv[i];
    int status = cli_main(argc + 1, words);
    free(words);
    return status;
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
    const char *name = argc > 0 ? strrchr(argv[0], '/') : NULL;
    if (argc > 0 && strcmp(name != NULL ? name + 1 : argv[0], "firecracker") == 0)
        return firecracker_main(argc, argv);
    return cli_main(argc, argv);
}
