/* SPDX-License-Identifier: MIT
 *
 * Which backend is meant, and how one says that it is ready.
 */
#include "net/backends.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"

static const struct {
    const char *name;
    int (*main)(int argc, char **argv);
} backends[] = {
    {"net-nat", net_nat_main},
    {"net-tap", net_tap_main},
    {"net-switch", net_switch_main},
    {"vsock-connect", net_vsock_main},
};

bool net_backend_main(int argc, char **argv, int *status)
{
    for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(backends); i++) {
        if (strcmp(argv[1], backends[i].name) != 0)
            continue;
        signal(SIGPIPE, SIG_IGN);
        *status = backends[i].main(argc - 1, argv + 1);
        return true;
    }
    return false;
}

int net_backend_ready(int status_fd, struct error *error)
{
    int status = error != NULL;
    if (error != NULL) {
        const char *text = error_message(error);
        status = write(status_fd, text, strlen(text)) < 0 ? 2 : 1;
        error_free(error);
    }
    close(status_fd);
    return status;
}
