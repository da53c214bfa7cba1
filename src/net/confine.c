/* SPDX-License-Identifier: MIT
 *
 * See confine.h. Each step is independent of the others, and none of them may stop a network
 * that would work without it: they are a second wall.
 */
#include "net/confine.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NOBODY = 65534 };

static void leave_root(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (geteuid() == 0) {
        /* Each may fail in a container that knows no other user; the next ones still count. */
        int failed = setgroups(0, NULL);
        failed |= setresgid(NOBODY, NOBODY, NOBODY);
        failed |= setresuid(NOBODY, NOBODY, NOBODY);
        (void)failed;
    }
    syscall(SYS_capset, &header, none);
}

static void leave_files(const char *readable)
{
    /* The rights of Landlock's first version: what a kernel that has it at all knows. */
    struct landlock_ruleset_attr rules = {.handled_access_fs =
                                              (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0);
    if (ruleset < 0)
        return;
    struct landlock_path_beneath_attr rule = {
        .allowed_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
        .parent_fd = readable != NULL ? open(readable, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1};
    if (rule.parent_fd >= 0) {
        syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
        close(rule.parent_fd);
    }
    syscall(SYS_landlock_restrict_self, ruleset, 0);
    close(ruleset);
}

void net_confine(const char *readable)
{
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    leave_root();
    leave_files(readable);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}
