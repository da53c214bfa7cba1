/* SPDX-License-Identifier: MIT
 *
 * Control groups on folders that look like the kernel's. What a kernel makes of what is written
 * there is tested in a guest (limits).
 */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "client/cgroup.h"

static const char mounts[] = "22 1 0:20 / /proc rw - proc proc rw\n"
                             "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";

struct host {
    char root[64];
    struct error *err;
};

static void put(const struct host *host, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s%s", host->root, name);
    for (char *at = path + strlen(host->root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(path, 0755);
        *at = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void assert_file(const struct host *host, const char *name, const char *text)
{
    char path[512], got[256] = "";
    snprintf(path, sizeof(path), "%s%s", host->root, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    got[fread(got, 1, sizeof(got) - 1, file)] = '\0';
    fclose(file);
    assert_string_equal(got, text);
}

static void open_host(struct host *host, const char *group)
{
    *host = (struct host){.root = "/tmp/trapeze-cgroup-XXXXXX"};
    assert_non_null(mkdtemp(host->root));
    put(host, "/proc/self/mountinfo", mounts);
    put(host, "/proc/self/cgroup", group);
}

static void close_host(struct host *host)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", host->root);
    assert_int_equal(system(command), 0);
    error_free(host->err);
}

static void put_group(const struct host *host, const char *folder, const char *controllers,
                      const char *enabled)
{
    char path[256];
    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cgroup.controllers", folder);
    put(host, path, controllers);
    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cgroup.subtree_control", folder);
    put(host, path, enabled);
    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cgroup.procs", folder);
    put(host, path, "");
}

static void assert_none(struct host *host, const char *why)
{
    assert_null(cgroup_find(host->root, &host->err));
    assert_error(&host->err, ERROR_HOST, why);
}

static void where_there_is_none(void **state)
{
    struct host host;
    (void)state;
    open_host(&host, "0::/user.slice\n");
    put(&host, "/proc/self/mountinfo", "22 1 0:20 / /proc rw - proc proc rw\n");
    assert_none(&host, "no cgroup v2");
    put(&host, "/proc/self/mountinfo", mounts);
    put_group(&host, "", "\n", "\n"); /* as where version 1 has all controllers */
    assert_none(&host, "no controller for CPU time");
    put(&host, "/sys/fs/cgroup/cgroup.controllers", "cpuset memory\n");
    assert_none(&host, "no controller for CPU time");
    put(&host, "/proc/self/cgroup", "1:cpu:/\n");
    assert_none(&host, "no cgroup v2");
    put(&host, "/proc/self/cgroup", "0::/../..\n"); /* not within this namespace */
    assert_none(&host, "no cgroup v2");
    put(&host, "/proc/self/cgroup", "");
    assert_none(&host, "no cgroup v2");
    close_host(&host);
}

static void as_root(void **state)
{
    struct host host;
    char wanted[128];
    (void)state;
    open_host(&host, "9:name=systemd:/\n0::/user.slice/session-1.scope\n");
    put_group(&host, "", "cpuset cpu io memory pids\n", "cpuset\n");
    assert_none(&host, "cannot make the cgroup");
    assert_file(&host, "/sys/fs/cgroup/cgroup.subtree_control",
                "+memory"); /* asked for, the last */
    put_group(&host, "", "cpuset cpu io memory pids\n", "cpu memory\n");
    put_group(&host, "/trapeze", "cpu memory\n", "cpu memory\n");
    char *place = cgroup_find(host.root, &host.err);
    assert_no_error(host.err);
    snprintf(wanted, sizeof(wanted), "%s/sys/fs/cgroup/trapeze", host.root);
    assert_string_equal(place, wanted);
    free(place);
    close_host(&host);
}

static void delegated(void **state)
{
    struct host host;
    char path[128], *place;
    (void)state;
    open_host(&host, "0::/user@1.service/app.slice/trapeze.service/trapeze\n");
    put_group(&host, "", "cpu memory\n", "cpu memory\n");
    put_group(&host, "/user@1.service", "cpu memory\n", "memory\n");
    put_group(&host, "/user@1.service/app.slice/trapeze.service", "cpu memory\n", "cpu memory\n");
    put_group(&host, "/user@1.service/app.slice/trapeze.service/trapeze", "cpu memory\n", "\n");
    snprintf(path, sizeof(path), "%s/sys/fs/cgroup/user@1.service", host.root);
    if (setxattr(path, "user.delegate", "1", 1, 0) != 0 && errno == ENOTSUP) {
        close_host(&host);
        skip(); /* /tmp has no extended attributes */
    }
    assert_none(&host, "for us"); /* the nearest is this one, where CPU time is not to be had */
    strcat(path, "/app.slice/trapeze.service");
    assert_int_equal(setxattr(path, "user.delegate", "1", 1, 0), 0);
    place = cgroup_find(host.root, &host.err);
    assert_no_error(host.err);
    assert_string_equal(place, path);
    /* A process in it that does not go: nothing can be done there. */
    put(&host, "/sys/fs/cgroup/user@1.service/app.slice/trapeze.service/cgroup.procs", "77\n");
    assert_none(&host, "for us");
    assert_file(&host,
                "/sys/fs/cgroup/user@1.service/app.slice/trapeze.service/trapeze/cgroup.procs",
                "77"); /* it was asked */
    free(place);
    close_host(&host);
}

static void limits_and_usage(void **state)
{
    struct host host;
    char place[128], group[160];
    struct cgroup_usage usage;
    (void)state;
    open_host(&host, "0::/\n");
    put(&host, "/sys/fs/cgroup/trapeze/x", "");
    snprintf(place, sizeof(place), "%s/sys/fs/cgroup/trapeze", host.root);
    char *made = cgroup_make(place, "web", &host.err),
         *again = cgroup_make(place, "web", &host.err);
    snprintf(group, sizeof(group), "%s/trapeze-web", place);
    assert_string_equal(made, group);
    assert_string_equal(again, group); /* left behind by a machine that ended */
    assert_false(cgroup_usage(group, &usage));
    assert_true(cgroup_limit(group, &(struct cgroup_limits){.cpu_cap = 7},
                             &host.err)); /* none has a controller */
    assert_false(cgroup_enter(group, 4711, &host.err));
    assert_error(&host.err, ERROR_HOST, "cannot enter");
    put(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cpu.max", "");
    put(&host, "/sys/fs/cgroup/trapeze/trapeze-web/memory.max", "");
    put(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cgroup.procs", "");
    const struct cgroup_limits limits = {.cpu_cap = 150, .memory = 123456789};
    assert_true(cgroup_limit(group, &limits, &host.err));
    assert_file(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cpu.max", "150000 100000");
    assert_file(&host, "/sys/fs/cgroup/trapeze/trapeze-web/memory.max", "123456789");
    put(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cpu.weight", "");
    put(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cpu.max", "");
    put(&host, "/sys/fs/cgroup/trapeze/trapeze-web/memory.max", "");
    assert_true(cgroup_limit(group, &(struct cgroup_limits){.cpu_weight = 300}, &host.err));
    assert_file(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cpu.weight", "300");
    assert_file(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cpu.max", "max");
    assert_file(&host, "/sys/fs/cgroup/trapeze/trapeze-web/memory.max", "max");
    assert_true(cgroup_enter(group, 4711, &host.err));
    assert_file(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cgroup.procs", "4711");
    put(&host, "/sys/fs/cgroup/trapeze/trapeze-web/cpu.stat",
        "usage_usec 1234567\nuser_usec 1000000\nnr_throttled 3\nthrottled_usec 89\n");
    put(&host, "/sys/fs/cgroup/trapeze/trapeze-web/memory.current", "65536\n");
    assert_true(cgroup_usage(group, &usage));
    assert_int_equal(usage.used_ns, 1234567000);
    assert_int_equal(usage.throttled_ns, 89000);
    assert_int_equal(usage.memory, 65536);
    put(&host, "/proc/4711/cgroup", "0::/trapeze/trapeze-web\n");
    put(&host, "/proc/4712/cgroup", "0::/user.slice/session-1.scope\n");
    char *found = cgroup_of(host.root, 4711);
    assert_string_equal(found, group);
    assert_null(cgroup_of(host.root, 4712));
    assert_null(cgroup_of(host.root, 4713));
    free(found);
    free(made);
    free(again);
    close_host(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_there_is_none),
        cmocka_unit_test(as_root),
        cmocka_unit_test(delegated),
        cmocka_unit_test(limits_and_usage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
