/* SPDX-License-Identifier: MIT
 *
 * See cgroup.h. Linux' Documentation/admin-guide/cgroup-v2.rst: cpu.weight, cpu.max, memory.max,
 * cpu.stat; "no internal process" rule, delegation.
 */
#include "client/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "config/machine.h"

/* Beside the guest's memory and translations: measured at 8 MiB, and the host's cache of its files.
 */
#define MACHINE_EXTRA (256 * MIB)
#define CODE_CACHE    (64 * MIB) /* unless given, of each vCPU */

static const char prefix[] = "trapeze-", own_group[] = "trapeze";

enum { CAP_PERIOD_US = 100000, PATIENCE = 16 };

/* ---- files ---- */

/* Of a folder: what `file` says, "" if it cannot be read. */
static void read_file(const char *folder, const char *file, char *text, size_t size)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", folder, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd >= 0 ? read(fd, text, size - 1) : 0;
    text[count > 0 ? count : 0] = '\0';
    if (fd >= 0)
        close(fd);
}

/* 0, or errno. */
static int write_file(const char *folder, const char *file, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int write_file(const char *folder, const char *file, const char *format, ...)
{
    char path[PATH_MAX], text[64];
    va_list values;
    snprintf(path, sizeof(path), "%s/%s", folder, file);
    va_start(values, format);
    int length = vsnprintf(text, sizeof(text), format, values);
    va_end(values);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int number = write(fd, text, (size_t)length) == length ? 0 : errno;
    close(fd);
    return number;
}

/* "cpu" among "cpuset cpu io". */
static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at++)
        if ((at == list || at[-1] == ' ') && strchr(" \n", at[length]) != NULL)
            return true;
    return false;
}

/* ---- finding a place ---- */

/* Where cgroup v2 is mounted: "34 25 0:30 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw" */
static bool find_mount(const char *root, char mount[PATH_MAX])
{
    char path[PATH_MAX], point[PATH_MAX], *line = NULL;
    size_t size = 0;
    bool found = false;
    snprintf(path, sizeof(path), "%s/proc/self/mountinfo", root);
    FILE *file = fopen(path, "re");
    while (!found && file != NULL && getline(&line, &size, file) > 0)
        found = strstr(line, " - cgroup2 ") != NULL &&
                sscanf(line, "%*s %*s %*s %*s %4095s", point) == 1 &&
                snprintf(mount, PATH_MAX, "%s%s", root, point) < PATH_MAX;
    free(line);
    if (file != NULL)
        fclose(file);
    return found;
}

/* A process' group below the mount: the line "0::/user.slice/..." */
static bool find_group(const char *root, const char *process, char group[PATH_MAX])
{
    char folder[64 + PATH_MAX], text[PATH_MAX];
    snprintf(folder, sizeof(folder), "%s/proc/%s", root, process);
    read_file(folder, "cgroup", text, sizeof(text));
    const char *line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
    if (line == NULL)
        return false;
    line = strchr(line, '/');
    if (line == NULL)
        return false;
    snprintf(group, PATH_MAX, "%.*s", (int)strcspn(line, "\n"), line);
    return strstr(group, "/..") == NULL; /* above what this namespace shows */
}

static bool is_delegated(const char *folder)
{
    char value[4];
    return (getxattr(folder, "user.delegate", value, sizeof(value)) == 1 && value[0] == '1') ||
           (getxattr(folder, "trusted.delegate", value, sizeof(value)) == 1 && value[0] == '1');
}

/* Those in the group itself, not in groups below, go to its group "trapeze": until there are none,
 * as they may fork meanwhile. */
static bool empty_group(const char *folder)
{
    char leaf[PATH_MAX], list[4096];
    if (snprintf(leaf, sizeof(leaf), "%s/%s", folder, own_group) >= (int)sizeof(leaf))
        return false;
    for (int turn = 0; turn < PATIENCE; turn++) {
        read_file(folder, "cgroup.procs", list, sizeof(list));
        if (list[0] == '\0')
            return true;
        if (mkdir(leaf, 0755) != 0 && errno != EEXIST)
            return false;
        for (char *rest = list, *line; (line = strsep(&rest, "\n")) != NULL;)
            if (line[0] != '\0' && rest != NULL)
                write_file(leaf, "cgroup.procs", "%s", line);
    }
    return false;
}

/* Groups in there get the controllers that we need. */
static bool enable(const char *folder)
{
    char enabled[256], available[256];
    static const char *const wanted[] = {"cpu", "memory"};
    read_file(folder, "cgroup.controllers", available, sizeof(available));
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
        read_file(folder, "cgroup.subtree_control", enabled, sizeof(enabled));
        if (has_word(available, wanted[i]) && !has_word(enabled, wanted[i]))
            write_file(folder, "cgroup.subtree_control", "+%s", wanted[i]);
    }
    read_file(folder, "cgroup.subtree_control", enabled, sizeof(enabled));
    return has_word(enabled, "cpu");
}

/* The nearest of the group and those above it that is handed over to us; group becomes its folder.
 */
static bool find_delegated(const char *mount, const char *group, char folder[PATH_MAX])
{
    if (snprintf(folder, PATH_MAX, "%s%s", mount, group) >= PATH_MAX)
        return false;
    size_t shortest = strlen(mount);
    while (strlen(folder) > shortest) {
        if (is_delegated(folder) && access(folder, W_OK) == 0)
            return true;
        *strrchr(folder, '/') = '\0';
    }
    return false;
}

char *cgroup_find(const char *root, struct error **err)
{
    char mount[PATH_MAX], group[PATH_MAX], place[PATH_MAX], controllers[256];
    if (!find_mount(root, mount) || !find_group(root, "self", group)) {
        error_set(err, ERROR_HOST, "this host has no cgroup v2");
        return NULL;
    }
    if (find_delegated(mount, group, place)) {
        /* Processes of others that are in ours stay: then it is not for us alone. */
        if (empty_group(place) && enable(place))
            return strdup(place);
        error_set(err, ERROR_HOST, "the cgroup '%s' has no controller for CPU time for us", place);
        return NULL;
    }
    read_file(mount, "cgroup.controllers", controllers, sizeof(controllers));
    if (!has_word(controllers, "cpu")) {
        error_set(err, ERROR_HOST, "this host's cgroup v2 has no controller for CPU time");
    } else if (access(mount, W_OK) != 0) {
        error_set(err, ERROR_HOST, "no cgroup is delegated to this user");
        error_hint(err, "A systemd service with Delegate=yes has one.");
    } else if (snprintf(place, sizeof(place), "%s/%s", mount, own_group) < (int)sizeof(place) &&
               enable(mount) && (mkdir(place, 0755) == 0 || errno == EEXIST) && enable(place)) {
        return strdup(place);
    } else {
        error_set(err, ERROR_HOST, "cannot make the cgroup '%s/%s'", mount, own_group);
    }
    return NULL;
}

/* ---- a machine's group ---- */

char *cgroup_make(const char *place, const char *name, struct error **err)
{
    char *group = NULL;
    if (asprintf(&group, "%s/%s%s", place, prefix, name) < 0)
        return NULL;
    if (mkdir(group, 0755) == 0 || errno == EEXIST)
        return group;
    error_set_errno(err, errno, "cannot make the cgroup '%s'", group);
    free(group);
    return NULL;
}

bool cgroup_enter(const char *group, pid_t pid, struct error **err)
{
    int number = write_file(group, "cgroup.procs", "%d", (int)pid);
    return number == 0 || error_set_errno(err, number, "cannot enter the cgroup '%s'", group);
}

bool cgroup_limit(const char *group, const struct cgroup_limits *limits, struct error **err)
{
    char max[40] = "max", memory[24] = "max", weight[16];
    const struct {
        const char *file, *text;
    } rows[] = {{"cpu.weight", weight}, {"cpu.max", max}, {"memory.max", memory}};
    snprintf(weight, sizeof(weight), "%u", limits->cpu_weight != 0 ? limits->cpu_weight : 100);
    if (limits->cpu_cap != 0)
        snprintf(max, sizeof(max), "%llu %d",
                 (unsigned long long)limits->cpu_cap * CAP_PERIOD_US / 100, CAP_PERIOD_US);
    if (limits->memory != 0)
        snprintf(memory, sizeof(memory), "%llu", (unsigned long long)limits->memory);
    size_t count = ARRAY_SIZE(rows) - (limits->memory == CGROUP_KEEP);
    for (size_t i = 0; i < count; i++) {
        int number = write_file(group, rows[i].file, "%s", rows[i].text);
        if (number != 0 && number != ENOENT)
            return error_set_errno(err, number, "cannot set %s of the cgroup '%s'", rows[i].file,
                                   group);
    }
    return true;
}

static uint64_t number_behind(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)) != NULL; at++)
        if ((at == text || at[-1] == '\n') && at[length] == ' ')
            return strtoull(at + length, NULL, 10);
    return 0;
}

bool cgroup_usage(const char *group, struct cgroup_usage *usage)
{
    char text[2048], memory[32];
    read_file(group, "cpu.stat", text, sizeof(text));
    read_file(group, "memory.current", memory, sizeof(memory));
    *usage = (struct cgroup_usage){.used_ns = number_behind(text, "usage_usec") * 1000,
                                   .throttled_ns = number_behind(text, "throttled_usec") * 1000,
                                   .memory = strtoull(memory, NULL, 10)};
    return text[0] != '\0';
}

void cgroup_remove(const char *group)
{
    rmdir(group);
}

char *cgroup_of(const char *root, pid_t pid)
{
    char mount[PATH_MAX], group[PATH_MAX], number[16], *folder = NULL;
    snprintf(number, sizeof(number), "%d", (int)pid);
    if (!find_mount(root, mount) || !find_group(root, number, group))
        return NULL;
    const char *name = strrchr(group, '/');
    if (name == NULL || strncmp(name + 1, prefix, strlen(prefix)) != 0 ||
        asprintf(&folder, "%s%s", mount, group) < 0)
        return NULL;
    return folder;
}

/* ---- machines ---- */

char *cgroup_for_machine(const char *name, const struct machine_config *config)
{
    uint64_t cache = config->code_cache != 0 ? config->code_cache : CODE_CACHE;
    const struct cgroup_limits limits = {
        .cpu_weight = config->cpu_weight,
        .cpu_cap = config->cpu_cap,
        .memory = config->memory + config->cpus * cache + MACHINE_EXTRA,
    };
    char *place = cgroup_find("", NULL);
    char *group = place != NULL ? cgroup_make(place, name, NULL) : NULL;
    if (group != NULL && !cgroup_limit(group, &limits, NULL)) {
        cgroup_remove(group);
        free(group);
        group = NULL;
    }
    free(place);
    return group;
}

/* NULL: it has none. */
static char *group_of_machine(const char *name)
{
    char *place = cgroup_find("", NULL), *group = NULL;
    if (place != NULL && asprintf(&group, "%s/%s%s", place, prefix, name) < 0)
        group = NULL;
    free(place);
    if (group != NULL && access(group, F_OK) == 0)
        return group;
    free(group);
    return NULL;
}

void cgroup_change_machine(const char *name, const struct machine_config *config)
{
    const struct cgroup_limits limits = {
        .cpu_weight = config->cpu_weight, .cpu_cap = config->cpu_cap, .memory = CGROUP_KEEP};
    char *group = group_of_machine(name);
    if (group != NULL)
        cgroup_limit(group, &limits, NULL);
    free(group);
}

void cgroup_forget_machine(const char *name)
{
    char *group = group_of_machine(name);
    if (group != NULL)
        cgroup_remove(group);
    free(group);
}
