/* SPDX-License-Identifier: MIT
 *
 * See confine.h. Each step is independent of the others, and none of them may stop a network
 * that would work without it: they are a second wall.
 */
#include "net/confine.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "sandbox/sandbox.h"

void net_confine(const char *readable)
{
    const struct rlimit no_core = {0, 0};
    struct sandbox_folder folder = {-1, false};
    if (readable != NULL)
        folder.fd = open(readable, O_PATH | O_DIRECTORY | O_CLOEXEC);
    setrlimit(RLIMIT_CORE, &no_core);
    (void)sandbox_drop_privileges(false);
    (void)sandbox_only_folders(&folder, folder.fd >= 0 ? 1 : 0, true);
    if (folder.fd >= 0)
        close(folder.fd);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}
