/* SPDX-License-Identifier: MIT
 *
 * Instances as folders: made, found, changed and removed; and whole, the old or the new way,
 * wherever whoever is at work on one is killed.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/open/open.h"
#include "daemon/instance.h"

static char root[] = "/tmp/trapeze-instance-XXXXXX";
static char source[sizeof(root) + 16];

static const char description[] = "# by hand\nmemsize = \"64\"\ntrapeze.kernel = \"kernel\"\n"
                                  "displayName = \"a\"\nethernet0.connectionType = \"nat\"\n"
                                  "scsi0:0.fileName = \"disk.img\"\n";

static void make_source(void)
{
    snprintf(source, sizeof(source), "%s/source", root);
    FILE *file = fopen(source, "w");
    assert_non_null(file);
    for (int i = 0; i < 5000; i++)
        fprintf(file, "%d\n", i);
    fclose(file);
    assert_int_equal(truncate(source, 32768), 0); /* a disk, too */
}

/* A store of its own for each test. */
static struct store fresh_store(void)
{
    static unsigned number;
    struct store store;
    struct error *err = NULL;
    char path[sizeof(root) + 32];
    snprintf(path, sizeof(path), "%s/store%u/deep", root, number++);
    assert_true(store_open(&store, path, &err));
    return store;
}

static bool create(const struct store *store, const char *name, struct error **err)
{
    const struct instance_file files[] = {{source, "kernel"}, {source, "disk.img"}};
    struct text *text = text_parse(description, sizeof(description) - 1, "t", NULL);
    const struct instance_plan plan = {.name = name, .text = text, .files = files, .file_count = 2};
    bool good = instance_create(store, &plan, err);
    text_free(text);
    return good;
}

static void open_instance(struct instance *instance, const struct store *store, const char *name)
{
    struct error *err = NULL;
    instance_open(instance, store, name, &err);
    assert_no_error(err);
}

static bool same_files(const char *a, const char *b)
{
    char command[1000];
    snprintf(command, sizeof(command), "cmp -s '%s' '%s'", a, b);
    return system(command) == 0;
}

/* Whether a guest would find the source on the disk, whatever that lies upon. */
static bool is_source(const struct machine_disk *disk)
{
    static uint8_t wanted[32768], got[32768];
    const struct block_open_options how = {.format = disk->format, .read_only = true};
    struct error *err = NULL;
    struct block_image *image = block_open(disk->path, &how, &err);
    assert_no_error(err);
    FILE *file = fopen(source, "r");
    assert_int_equal(fread(wanted, 1, sizeof(wanted), file), sizeof(wanted));
    fclose(file);
    assert_int_equal(image->size, sizeof(got));
    assert_int_equal(block_image_read(image, 0, got, sizeof(got)), 0);
    block_image_close(image);
    return memcmp(wanted, got, sizeof(got)) == 0;
}

/* The names in the store as one text, "a b "; asserts that each is whole. */
static const char *names_of(const struct store *store, char text[200])
{
    struct error *err = NULL;
    char **names = store_list(store, &err);
    assert_no_error(err);
    text[0] = '\0';
    for (size_t i = 0; names[i] != NULL; i++) {
        struct instance instance;
        struct machine_config config;
        open_instance(&instance, store, names[i]);
        machine_config_init(&config);
        instance_config(&instance, &config, NULL, &err);
        assert_no_error(err);
        assert_int_equal(config.memory % (UINT64_C(32) << 20), 0);
        assert_true(same_files(config.kernel, source));
        for (size_t k = 0; k < config.disk_count; k++)
            assert_true(is_source(&config.disks[k]));
        machine_config_clear(&config);
        instance_close(&instance);
        snprintf(text + strlen(text), 200 - strlen(text), "%s ", names[i]);
    }
    store_list_free(names);
    return text;
}

static unsigned count_entries(const struct store *store)
{
    char command[200];
    unsigned count = 0;
    snprintf(command, sizeof(command), "ls -A '%s/instances' | wc -l", store->path);
    FILE *pipe = popen(command, "r");
    assert_int_equal(fscanf(pipe, "%u", &count), 1);
    pclose(pipe);
    return count;
}

static void test_life(void **state)
{
    (void)state;
    struct store store = fresh_store();
    struct instance instance;
    struct error *err = NULL;
    char names[200];
    create(&store, "a", &err);
    assert_no_error(err);
    assert_false(create(&store, "a", &err));
    assert_error(&err, ERROR_USAGE, "already");
    assert_int_equal(count_entries(&store), 1);
    create(&store, "b", &err);
    assert_no_error(err);
    assert_string_equal(names_of(&store, names), "a b ");

    open_instance(&instance, &store, "a");
    assert_true(instance_lock(&instance, &err));
    assert_false(instance_rename(&instance, "b", &err));
    assert_error(&err, ERROR_USAGE, "already");
    assert_true(instance_rename(&instance, "c", &err));
    assert_string_equal(names_of(&store, names), "b c ");
    struct text *text = instance_read(&instance, &err);
    assert_string_equal(text_get(text, "displayName"), "c");
    text_set(text, "memsize", "96");
    assert_true(instance_write(&instance, text, &err));
    text_free(text);
    assert_true(instance_make_template(&instance, true, &err));
    assert_true(instance.is_template);
    instance_close(&instance);

    open_instance(&instance, &store, "c");
    assert_true(instance.is_template);
    assert_true(instance_clone(&instance, &(struct instance_plan){.name = "d"}, &err));
    assert_true(instance_lock(&instance, &err));
    assert_true(instance_delete(&instance, &err));
    instance_close(&instance);
    assert_string_equal(names_of(&store, names), "b d ");
    assert_int_equal(count_entries(&store), 2);
    assert_false(instance_open(&instance, &store, "c", &err));
    assert_error(&err, ERROR_USAGE, "no instance 'c'");

    open_instance(&instance, &store, "d");
    assert_false(instance.is_template);
    text = instance_read(&instance, &err);
    assert_string_equal(text_get(text, "memsize"), "96");
    assert_string_equal(text_get(text, "displayName"), "d");
    assert_non_null(text_get(text, "ethernet0.address"));
    size_t size;
    char *bytes = text_write(text, &size);
    assert_non_null(strstr(bytes, "# by hand\n"));
    free(bytes);
    text_free(text);
    instance_close(&instance);
    store_close(&store);
}

static void make_template(const struct store *store, const char *name)
{
    struct instance instance;
    struct error *err = NULL;
    open_instance(&instance, store, name);
    assert_true(instance_lock(&instance, &err));
    instance_make_template(&instance, true, &err);
    assert_no_error(err);
    instance_close(&instance);
}

static void make_clone(const struct store *store, const char *from, const char *to, bool linked)
{
    const struct instance_plan plan = {.name = to, .linked = linked};
    struct instance instance;
    struct error *err = NULL;
    open_instance(&instance, store, from);
    assert_true(instance_lock_shared(&instance, &err));
    instance_clone(&instance, &plan, &err);
    assert_no_error(err);
    instance_close(&instance);
}

static void delete (const struct store *store, const char *name, struct error **err)
{
    struct instance instance;
    open_instance(&instance, store, name);
    assert_true(instance_lock(&instance, err));
    instance_delete(&instance, err);
    instance_close(&instance);
}

static bool has_file(const struct store *store, const char *name)
{
    char path[400];
    snprintf(path, sizeof(path), "%s/instances/%s", store->path, name);
    return access(path, F_OK) == 0;
}

/* Templates and what lies upon them, three deep; then the store is moved. */
static void test_linked_clones(void **state)
{
    (void)state;
    struct store store = fresh_store();
    struct instance instance;
    struct error *err = NULL;
    char names[200], command[600], moved[300];
    assert_true(create(&store, "base", &err));
    make_template(&store, "base");
    make_clone(&store, "base", "one", true);
    make_clone(&store, "base", "two", true);
    assert_true(has_file(&store, "one/disk.qcow2"));
    assert_false(has_file(&store, "one/kernel"));
    make_template(&store, "one");
    make_clone(&store, "one", "upper", true);
    make_clone(&store, "upper", "full", false);
    assert_true(has_file(&store, "full/kernel"));
    assert_string_equal(names_of(&store, names), "base full one two upper ");

    open_instance(&instance, &store, "base");
    assert_true(instance_lock(&instance, &err));
    assert_false(instance_delete(&instance, &err));
    assert_error(&err, ERROR_USAGE, "linked clones, which need it as it is: one, two.");
    assert_false(instance_rename(&instance, "other", &err));
    assert_error(&err, ERROR_USAGE, "linked clones");
    assert_false(instance_make_template(&instance, false, &err));
    assert_error(&err, ERROR_USAGE, "linked clones");
    instance_close(&instance);
    snprintf(command, sizeof(command), "echo nonsense >'%s/instances/full/full.vmx'", store.path);
    assert_int_equal(system(command), 0);
    delete (&store, "two", &err);
    assert_no_error(err);
    delete (&store, "base", &err); /* 'full' cannot say that it is none */
    assert_error(&err, ERROR_USAGE, "not known");
    snprintf(command, sizeof(command),
             "cp '%s/instances/upper/upper.vmx' '%s/instances/full/full.vmx'", store.path,
             store.path);
    delete (&store, "full", &err);
    make_clone(&store, "upper", "full", false);

    snprintf(moved, sizeof(moved), "%s-moved", store.path);
    assert_int_equal(rename(store.path, moved), 0);
    store_close(&store);
    assert_true(store_open(&store, moved, &err));
    assert_string_equal(names_of(&store, names), "base full one upper ");
    delete (&store, "upper", &err);
    delete (&store, "one", &err);
    delete (&store, "base", &err);
    assert_no_error(err);
    assert_string_equal(names_of(&store, names), "full ");
    store_close(&store);
}

static unsigned nic_number(const struct store *store, const char *name, char mac[18])
{
    struct instance instance;
    struct machine_config config;
    struct error *err = NULL;
    open_instance(&instance, store, name);
    machine_config_init(&config);
    assert_true(instance_config(&instance, &config, NULL, &err));
    snprintf(mac, 18, "%s", config.nics[0].mac);
    unsigned cid = config.vsock_cid;
    machine_config_clear(&config);
    instance_close(&instance);
    return cid;
}

/* What two machines cannot share: addresses, uuid, files that are written. */
static void test_identity(void **state)
{
    (void)state;
    struct store store = fresh_store();
    struct instance instance;
    struct error *err = NULL;
    char path[300], macs[2][18];
    assert_true(create(&store, "base", &err));
    open_instance(&instance, &store, "base");
    struct text *text = instance_read(&instance, &err);
    text_set(text, "ethernet0.address", "02:00:00:00:00:01");
    text_set(text, "ethernet0.trapeze.capture", "/tmp/frames");
    text_set(text, "trapeze.vsockCid", "7");
    snprintf(path, sizeof(path), "%s/vsock", instance.path);
    text_set(text, "trapeze.vsockSocket", path);
    text_set(text, "trapeze.expires", "2030-01-01");
    text_set(text, "uuid.bios", "56 4d 00 00 00 00 00 00-00 00 00 00 00 00 00 01");
    assert_true(instance_write(&instance, text, &err));
    text_free(text);
    instance_close(&instance);
    make_template(&store, "base");
    for (int linked = 0; linked < 2; linked++) {
        const char *name = linked ? "linked" : "full";
        make_clone(&store, "base", name, linked);
        open_instance(&instance, &store, name);
        text = instance_read(&instance, &err);
        assert_string_equal(text_get(text, "trapeze.vsockSocket"), "vsock");
        snprintf(path, sizeof(path), "/tmp/frames-%s", name);
        assert_string_equal(text_get(text, "ethernet0.trapeze.capture"), path);
        assert_null(text_get(text, "trapeze.expires"));
        assert_string_not_equal(text_get(text, "uuid.bios"),
                                "56 4d 00 00 00 00 00 00-00 00 00 00 00 00 00 01");
        assert_int_equal(strlen(text_get(text, "uuid.bios")), 47);
        if (linked)
            assert_string_equal(text_get(text, "trapeze.parent"), "base");
        else
            assert_null(text_get(text, "trapeze.parent"));
        text_free(text);
        instance_close(&instance);
        assert_int_not_equal(nic_number(&store, name, macs[linked]), 7);
        assert_string_not_equal(macs[linked], "02:00:00:00:00:01");
    }
    assert_string_not_equal(macs[0], macs[1]);
    store_close(&store);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      ".",
                                      "..",
                                      ".a",
                                      "-a",
                                      "a/b",
                                      "../a",
                                      "a b",
                                      "\xc3\xbc",
                                      "a\n",
                                      "0123456789012345678901234567890123456789012345678901"
                                      "234567890123"};
    struct store store = fresh_store();
    struct error *err = NULL;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct instance instance;
        assert_false(create(&store, bad[i], &err));
        assert_error(&err, ERROR_USAGE, "no name");
        assert_false(instance_open(&instance, &store, bad[i], &err));
        assert_error(&err, ERROR_USAGE, "no name");
    }
    assert_true(instance_name_check("Debian_13.1-x", NULL));
    assert_int_equal(count_entries(&store), 0);
    store_close(&store);
}

static void test_files_that_cannot_be_copied(void **state)
{
    (void)state;
    static const struct instance_file bad[] = {
        {"/nowhere", "k"}, {"/tmp", "k"},   {"/dev/null", "k"}, {source, "../k"},
        {source, ".k"},    {source, "x/y"}, {source, "b.vmx"},  {source, ""},
    };
    struct store store = fresh_store();
    struct text *text = text_new("t");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct error *err = NULL;
        const struct instance_plan plan = {
            .name = "a", .text = text, .files = &bad[i], .file_count = 1};
        assert_false(instance_create(&store, &plan, &err));
        assert_non_null(err);
        error_free(err);
        assert_int_equal(count_entries(&store), 0);
    }
    text_free(text);
    store_close(&store);
}

/* Two stores of a user may have instances of one name: their machines share no cgroup. */
static void test_groups(void **state)
{
    (void)state;
    struct store stores[] = {fresh_store(), fresh_store()};
    char groups[3][INSTANCE_GROUP];
    struct instance instance;
    struct error *err = NULL;
    for (int i = 0; i < 2; i++) {
        create(&stores[i], "a", &err);
        assert_no_error(err);
        open_instance(&instance, &stores[i], "a");
        instance_group(&instance, groups[i]);
        instance_close(&instance);
        assert_int_equal(strncmp(groups[i], "a-", 2), 0);
        assert_null(strchr(groups[i], '/'));
    }
    assert_string_not_equal(groups[0], groups[1]);
    open_instance(&instance, &stores[0], "a"); /* as the next daemon does */
    instance_group(&instance, groups[2]);
    instance_close(&instance);
    assert_string_equal(groups[0], groups[2]);
    store_close(&stores[0]);
    store_close(&stores[1]);
}

static void test_locks(void **state)
{
    (void)state;
    struct store store = fresh_store(), second;
    struct instance one, two;
    struct error *err = NULL;
    assert_false(store_open(&second, store.path, &err));
    assert_error(&err, ERROR_HOST, "another daemon");
    create(&store, "a", &err);
    open_instance(&one, &store, "a");
    open_instance(&two, &store, "a");
    assert_false(instance_is_locked(&one));
    assert_true(instance_lock(&one, &err));
    assert_true(instance_is_locked(&two));
    assert_false(instance_lock(&two, &err));
    assert_error(&err, ERROR_USAGE, "running");
    int inherited = dup(one.lock); /* as a worker does */
    instance_close(&one);
    assert_true(instance_is_locked(&two));
    close(inherited);
    assert_false(instance_is_locked(&two));
    instance_close(&two);
    store_close(&store);
}

/* Somebody removes it, and nothing is made in what is being removed: it could not be. */
static void test_locks_of_what_is_being_removed(void **state)
{
    (void)state;
    struct store store = fresh_store();
    struct instance instance;
    struct error *err = NULL;
    char command[600];
    create(&store, "a", &err);
    open_instance(&instance, &store, "a");
    snprintf(command, sizeof(command), "cd '%s/instances' && rm -f a/lock && mv a .del-1-x",
             store.path);
    assert_int_equal(system(command), 0);
    assert_false(instance_is_locked(&instance));
    assert_false(instance_lock(&instance, &err));
    assert_error(&err, ERROR_USAGE, "there is no instance 'a'");
    snprintf(command, sizeof(command), "test ! -e '%s/instances/.del-1-x/lock'", store.path);
    assert_int_equal(system(command), 0);
    /* Another one has its name by now. */
    create(&store, "a", &err);
    assert_false(instance_lock(&instance, &err));
    assert_error(&err, ERROR_USAGE, "there is no instance 'a'");
    instance_close(&instance);
    store_close(&store);
}

/* Nobody who only reads holds a lock. */
static void test_what_is_read_may_change_or_go(void **state)
{
    (void)state;
    struct store store = fresh_store();
    struct instance instance;
    struct error *err = NULL;
    create(&store, "a", &err);
    open_instance(&instance, &store, "a");
    assert_int_equal(renameat(store.instances, "a/a.vmx", store.instances, "a/a.vmtx"), 0);
    struct text *text = instance_read(&instance, &err); /* it became a template */
    assert_no_error(err);
    assert_non_null(text);
    text_free(text);
    assert_int_equal(renameat(store.instances, "a/a.vmtx", store.instances, "a/x"), 0);
    assert_null(instance_read(&instance, &err));
    assert_error(&err, ERROR_HOST, "a.vmx");
    assert_int_equal(renameat(store.instances, "a", store.instances, "b"), 0);
    assert_null(instance_read(&instance, &err));
    assert_error(&err, ERROR_USAGE, "there is no instance 'a'");
    instance_close(&instance);
    store_close(&store);
}

/* Whoever opens it gives the description its name, several at once: another process does so once at
 * some moment of each opening. */
static void test_a_description_that_is_being_renamed(void **state)
{
    (void)state;
    struct store store = fresh_store();
    struct instance instance;
    struct error *err = NULL;
    create(&store, "a", &err);
    struct {
        atomic_uint asked, done;
    } *turn = mmap(NULL, sizeof(*turn), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(turn, MAP_FAILED);
    pid_t pid = fork();
    assert_true(pid >= 0);
    for (unsigned n = 1; pid == 0; n++) { /* until it is killed */
        while (atomic_load(&turn->asked) != n)
            sched_yield();
        for (atomic_uint wait = n * 7919 % 10007; atomic_load(&wait) > 0;
             atomic_fetch_sub(&wait, 1))
            ;
        (void)!renameat(store.instances, "a/before.vmx", store.instances, "a/a.vmx");
        atomic_store(&turn->done, n);
    }
    for (unsigned n = 1; n <= 10000; n++) {
        assert_return_code(renameat(store.instances, "a/a.vmx", store.instances, "a/before.vmx"),
                           errno);
        atomic_store(&turn->asked, n);
        bool found = instance_open(&instance, &store, "a", &err);
        while (found && atomic_load(&turn->done) != n)
            sched_yield();
        if (!found) {
            kill(pid, SIGKILL);
            fail_msg("try %u: %s", n, error_message(err));
        }
        instance_close(&instance);
    }
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    munmap(turn, sizeof(*turn));
    store_close(&store);
}

/* A folder that came from elsewhere under another name, or that has what no instance has. */
static void test_folders_by_hand(void **state)
{
    (void)state;
    struct store store = fresh_store();
    struct instance instance;
    struct error *err = NULL;
    char names[200], command[600];
    create(&store, "a", &err);
    snprintf(command, sizeof(command), "cd '%s/instances' && cp -r a moved && mkdir empty",
             store.path);
    assert_int_equal(system(command), 0);
    open_instance(&instance, &store, "moved");
    instance_close(&instance);
    assert_false(instance_open(&instance, &store, "empty", &err));
    assert_error(&err, ERROR_HOST, "no .vmx");
    snprintf(command, sizeof(command),
             "cd '%s/instances' && test -e moved/moved.vmx && ! test -e moved/a.vmx && rmdir empty "
             "&& cp moved/moved.vmx moved/x.vmx",
             store.path);
    assert_int_equal(system(command), 0);
    assert_false(instance_open(&instance, &store, "moved", &err));
    assert_error(&err, ERROR_HOST, "several");
    snprintf(command, sizeof(command), "rm '%s/instances/moved/x.vmx'", store.path);
    assert_int_equal(system(command), 0);
    assert_string_equal(names_of(&store, names), "a moved ");
    store_close(&store);
}

/* ---- killed at every system call ---- */

/* Runs it in a process that is killed at its n-th stop at a system call, before or behind it.
 * 1: it was killed; 0: it came to its end first; -1: the host does not let us trace. */
static int run_and_kill(void (*operation)(const char *path), const char *path, unsigned long n)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(77);
        raise(SIGSTOP);
        operation(path);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    for (unsigned long i = 0; i < n && WIFSTOPPED(status); i++) {
        if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL) != 0)
            break;
        assert_int_equal(waitpid(pid, &status, 0), pid);
    }
    if (WIFEXITED(status))
        return WEXITSTATUS(status) == 77 ? -1 : WEXITSTATUS(status) == 0 ? 0 : -2;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return 1;
}

static void require(bool good)
{
    if (!good)
        _exit(1);
}

static void do_create(const char *path)
{
    struct store store;
    require(store_open(&store, path, NULL) && create(&store, "new", NULL));
}

static void open_locked(const char *path, struct store *store, struct instance *instance)
{
    require(store_open(store, path, NULL) && instance_open(instance, store, "old", NULL) &&
            instance_lock(instance, NULL));
}

static void do_delete(const char *path)
{
    struct store store;
    struct instance instance;
    open_locked(path, &store, &instance);
    require(instance_delete(&instance, NULL));
}

static void do_rename(const char *path)
{
    struct store store;
    struct instance instance;
    open_locked(path, &store, &instance);
    require(instance_rename(&instance, "new", NULL));
}

static void do_clone(const char *path)
{
    struct store store;
    struct instance instance;
    open_locked(path, &store, &instance);
    require(instance_clone(&instance, &(struct instance_plan){.name = "new"}, NULL));
}

static void do_link(const char *path)
{
    struct store store;
    struct instance instance;
    open_locked(path, &store, &instance);
    require(
        instance_clone(&instance, &(struct instance_plan){.name = "new", .linked = true}, NULL));
}

static void do_write(const char *path)
{
    struct store store;
    struct instance instance;
    open_locked(path, &store, &instance);
    struct text *text = instance_read(&instance, NULL);
    text_set(text, "memsize", "96");
    require(instance_write(&instance, text, NULL));
}

static void do_template(const char *path)
{
    struct store store;
    struct instance instance;
    open_locked(path, &store, &instance);
    require(instance_make_template(&instance, true, NULL));
}

static void test_killed_anywhere(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        void (*operation)(const char *path);
        const char *before, *after; /* names */
    } cases[] = {{"create", do_create, "old ", "new old "}, {"delete", do_delete, "old ", ""},
                 {"rename", do_rename, "old ", "new "},     {"clone", do_clone, "old ", "new old "},
                 {"link", do_link, "old ", "new old "},     {"write", do_write, "old ", "old "},
                 {"template", do_template, "old ", "old "}};
    unsigned long points = 0, stride = tier_count(4, 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int killed = 1;
        for (unsigned long n = 1; killed == 1; n += stride, points++) {
            struct store store = fresh_store();
            char *path = strdup(store.path), names[200], command[300];
            assert_true(create(&store, "old", NULL));
            store_close(&store);
            killed = run_and_kill(cases[i].operation, path, n);
            if (killed == -1)
                skip();
            if (killed == -2)
                fail_msg("%s failed by itself", cases[i].name);
            struct error *err = NULL;
            assert_true(store_open(&store, path, &err));
            names_of(&store, names);
            bool new_way = strcmp(names, cases[i].after) == 0;
            if (!new_way && (killed == 0 || strcmp(names, cases[i].before) != 0))
                fail_msg("%s killed at %lu: '%s'", cases[i].name, n, names);
            unsigned words = 0;
            for (const char *at = names; *at != '\0'; at++)
                words += *at == ' ';
            assert_int_equal(count_entries(&store), words); /* nothing half-made */
            store_close(&store);
            snprintf(command, sizeof(command), "rm -rf '%s'", path);
            assert_int_equal(system(command), 0);
            free(path);
        }
    }
    print_message("# killed at %lu points\n", points);
    assert_true(points >= tier_count(200, 500));
}

static int make_root(void **state)
{
    (void)state;
    if (mkdtemp(root) == NULL)
        return 1;
    make_source();
    return 0;
}

static int remove_root(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof(command), "rm -rf '%s'", root);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_linked_clones),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_files_that_cannot_be_copied),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_locks),
        cmocka_unit_test(test_locks_of_what_is_being_removed),
        cmocka_unit_test(test_what_is_read_may_change_or_go),
        cmocka_unit_test(test_a_description_that_is_being_renamed),
        cmocka_unit_test(test_folders_by_hand),
        cmocka_unit_test(test_killed_anywhere),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
