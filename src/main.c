/* SPDX-License-Identifier: MIT
 *
 * One executable, two lives: the command people type, and the worker process that it starts
 * for each machine.
 */
#include <string.h>

#include "cli/cli.h"
#include "worker/worker.h"

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return worker_main(argc - 1, argv + 1);
    return cli_main(argc, argv);
}
