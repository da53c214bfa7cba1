/* SPDX-License-Identifier: MIT
 *
 * What a process does to itself: all parts but the namespaces and the table of system calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "sandbox/sandbox.h"

enum { NOBODY = 65534, PROCESSES_MAX = 1024 };

const char *const sandbox_mode_names[] = {"auto", "on", "off"};

bool sandbox_mode_from(const char *name, enum sandbox_mode *mode)
{
    for (size_t i = 0; i < ARRAY_SIZE(sandbox_mode_names); i++)
        if (strcmp(name, sandbox_mode_names[i]) == 0) {
            *mode = (enum sandbox_mode)i;
            return true;
        }
    return false;
}

pid_t sandbox_outer_pid(void)
{
    char text[16];
    ssize_t size = readlink("/proc/self", text, sizeof(text) - 1);
    if (size <= 0)
        return getpid();
    text[size] = '\0';
    return atoi(text);
}

/* ---- root directory ---- */

/* An empty file system over any directory that is there becomes the root, and the old root goes
 * with all that is mounted below. Descriptors stay. */
int sandbox_empty_root(void)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", "/proc", "tmpfs", flags, "size=4k,nr_inodes=1,mode=555") != 0 ||
        chdir("/proc") != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
        umount2(".", MNT_DETACH) != 0 || chdir("/") != 0 ||
        mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL) != 0)
        return errno;
    return 0;
}

/* ---- privileges ---- */

static bool leave_root(void)
{
    /* Each may fail in a container that knows no other user; the next ones still count. */
    int failed = setgroups(0, NULL);
    failed |= setresgid(NOBODY, NOBODY, NOBODY);
    failed |= setresuid(NOBODY, NOBODY, NOBODY);
    return failed == 0;
}

int sandbox_drop_privileges(bool stay_root)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return errno;
    if (!stay_root && geteuid() == 0)
        (void)leave_root();
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &header, none) == 0 ? 0 : errno;
}

/* ---- Landlock ---- */

/* Versions of its interface that later headers have. */
#define FS_REFER     (UINT64_C(1) << 13) /* 2 */
#define FS_TRUNCATE  (UINT64_C(1) << 14) /* 3 */
#define FS_IOCTL_DEV (UINT64_C(1) << 15) /* 5 */
#define FS_FIRST     (FS_REFER - 1)
#define NET_TCP      UINT64_C(3) /* 4: bind, connect */
#define SCOPES       UINT64_C(3) /* 6: abstract unix sockets, signals */

struct ruleset {
    uint64_t fs, net, scoped;
};

static const struct {
    int version;
    struct ruleset rules;
} versions[] = {
    {1, {FS_FIRST, 0, 0}}, {2, {FS_REFER, 0, 0}},     {3, {FS_TRUNCATE, 0, 0}},
    {4, {0, NET_TCP, 0}},  {5, {FS_IOCTL_DEV, 0, 0}}, {6, {0, 0, SCOPES}},
};

static uint64_t allowed_below(const struct sandbox_folder *folder)
{
    const uint64_t reading = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    const uint64_t never = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
                           LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                           FS_IOCTL_DEV;
    return folder->writable ? ~never : reading;
}

int sandbox_only_folders(const struct sandbox_folder *folders, size_t count, bool network)
{
    struct ruleset rules = {0, 0, 0};
    int version =
        (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0)
        return errno;
    for (size_t i = 0; i < count; i++)
        if (folders[i].writable && version < 2)
            return EOPNOTSUPP; /* no file could be moved to another folder */
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++)
        if (versions[i].version <= version) {
            rules.fs |= versions[i].rules.fs;
            rules.net |= network ? 0 : versions[i].rules.net;
            rules.scoped |= network ? 0 : versions[i].rules.scoped;
        }
    size_t size = version < 4 ? 8 : version < 6 ? 16 : sizeof(rules);
    int fd = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0), error = 0;
    if (fd < 0)
        return errno;
    for (size_t i = 0; i < count && error == 0; i++) {
        struct landlock_path_beneath_attr rule = {
            .allowed_access = rules.fs & allowed_below(&folders[i]), .parent_fd = folders[i].fd};
        if (syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
            error = errno;
    }
    if (error == 0 && syscall(SYS_landlock_restrict_self, fd, 0) != 0)
        error = errno;
    close(fd);
    return error;
}

/* ---- all of it ---- */

static void limit(bool own_namespaces)
{
    const struct rlimit none = {0, 0}, processes = {PROCESSES_MAX, PROCESSES_MAX};
    setrlimit(RLIMIT_CORE, &none);
    /* In a user namespace of our own only our threads count; whom root becomes, others may be. */
    if (own_namespaces && geteuid() != 0)
        setrlimit(RLIMIT_NPROC, &processes);
}

void sandbox_enter(const struct sandbox_wish *wish, int namespaces, struct sandbox_report *report)
{
    limit(namespaces == 0);
    report->refused[SANDBOX_NAMESPACES] = namespaces;
    report->refused[SANDBOX_ROOT] = namespaces == 0 ? sandbox_empty_root() : namespaces;
    report->refused[SANDBOX_PRIVILEGES] = sandbox_drop_privileges(wish->folder_count > 0);
    report->refused[SANDBOX_LANDLOCK] =
        sandbox_only_folders(wish->folders, wish->folder_count, false);
    report->refused[SANDBOX_FILTER] = sandbox_filter(wish->features);
}

bool sandbox_is_whole(const struct sandbox_report *report)
{
    for (unsigned part = 0; part < SANDBOX_PARTS; part++)
        if (report->refused[part] != 0 && part != SANDBOX_LANDLOCK)
            return false;
    return true;
}

void sandbox_describe(const struct sandbox_report *report, bool in_force, char *text, size_t room)
{
    static const char *const names[SANDBOX_PARTS] = {
        [SANDBOX_NAMESPACES] = "namespaces", [SANDBOX_ROOT] = "root",
        [SANDBOX_PRIVILEGES] = "privileges", [SANDBOX_LANDLOCK] = "landlock",
        [SANDBOX_FILTER] = "filter",
    };
    size_t used = 0;
    text[0] = '\0';
    for (unsigned part = 0; part < SANDBOX_PARTS && used < room; part++) {
        int error = report->refused[part];
        if ((error == 0) != in_force)
            continue;
        used += (size_t)snprintf(text + used, room - used, "%s%s%s%s%s", used > 0 ? ", " : "",
                                 names[part], in_force ? "" : " (", in_force ? "" : strerror(error),
                                 in_force ? "" : ")");
    }
}
