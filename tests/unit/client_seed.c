/* SPDX-License-Identifier: MIT
 *
 * client/seed.c and iso9660.c: what stands on the disk, read back as ECMA-119 and Rock Ridge say.
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "client/iso9660.h"
#include "client/seed.h"

enum { SECTOR = 2048 };

static uint8_t disk[1 << 20];

static size_t load(int fd)
{
    ssize_t size = pread(fd, disk, sizeof(disk), 0);
    assert_true(size > 0 && size % SECTOR == 0);
    close(fd);
    return (size_t)size;
}

/* The Rock Ridge name of a directory record, or "" for "." and "..". */
static void name_of(const uint8_t *record, char name[80])
{
    size_t at = 33u + record[32];
    name[0] = '\0';
    for (at += at & 1; at + 4 <= record[0] && record[at + 2] >= 4; at += record[at + 2])
        if (memcmp(record + at, "NM", 2) == 0) {
            memcpy(name, record + at + 5, record[at + 2] - 5u);
            name[record[at + 2] - 5u] = '\0';
        }
}

/* A file's content as a string; NULL: it is not there. */
static const char *find(size_t size, const char *wanted)
{
    static char text[1 << 16];
    assert_memory_equal(disk + 16 * SECTOR, "\1CD001\1", 7);
    assert_memory_equal(disk + 17 * SECTOR,
                        "\xff"
                        "CD001\1",
                        7);
    assert_int_equal(load_le32(disk + 16 * SECTOR + 80) * SECTOR, size);
    const uint8_t *root = disk + load_le32(disk + 16 * SECTOR + 156 + 2) * SECTOR;
    assert_memory_equal(root + 34, "SP\7\1\xbe\xef", 6);
    for (const uint8_t *at = root; at[0] != 0; at += at[0]) {
        char name[80];
        assert_int_equal(at[0] % 2, 0);
        name_of(at, name);
        uint32_t start = load_le32(at + 2), length = load_le32(at + 10);
        assert_true(range_within((uint64_t)start * SECTOR, length, size));
        if (strcmp(name, wanted) != 0)
            continue;
        assert_true(length < sizeof(text));
        memcpy(text, disk + (size_t)start * SECTOR, length);
        text[length] = '\0';
        return text;
    }
    return NULL;
}

static void files_are_found(void **state)
{
    (void)state;
    static uint8_t large[5000];
    memset(large, 'x', sizeof(large));
    char longest[ISO_MAX_NAME + 1];
    memset(longest, 'n', ISO_MAX_NAME);
    longest[ISO_MAX_NAME] = '\0';
    struct iso_file files[ISO_MAX_FILES];
    for (unsigned i = 0; i < ISO_MAX_FILES; i++)
        files[i] = (struct iso_file){longest, large, 1};
    files[0] = (struct iso_file){"empty", NULL, 0};
    files[1] = (struct iso_file){"sector", large, SECTOR};
    files[2] = (struct iso_file){"large", large, sizeof(large)};
    int fd = memfd_create("iso", MFD_CLOEXEC);
    assert_true(iso_write(fd, "label", files, ISO_MAX_FILES, NULL));
    size_t size = load(fd);
    assert_memory_equal(disk + 16 * SECTOR + 40, "label  ", 7);
    assert_string_equal(find(size, "empty"), "");
    assert_int_equal(strlen(find(size, "sector")), SECTOR);
    assert_int_equal(strlen(find(size, "large")), 5000);
    assert_string_equal(find(size, longest), "x");
    assert_null(find(size, "absent"));
}

static char *key_file(const char *text)
{
    static char path[] = "/tmp/trapeze-seed-XXXXXX";
    memcpy(path + sizeof(path) - 7, "XXXXXX", 6);
    int fd = mkstemp(path);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    return path;
}

static void a_seed_says_who_the_machine_is(void **state)
{
    (void)state;
    struct error *err = NULL;
    const char *path = key_file("# mine\nssh-ed25519 AAAAC3Nz me \"and\" \\you\n\n"
                                "no-pty ssh-rsa AAAAB3 old\nnonsense\n");
    const struct seed seed = {.hostname = "lab-1", .ssh_keys = &path, .ssh_key_count = 1};
    int fd = seed_make(&seed, &err);
    assert_no_error(err);
    unlink(path);
    size_t size = load(fd);
    assert_memory_equal(disk + 16 * SECTOR + 40, "cidata ", 7);
    assert_string_equal(find(size, "user-data"),
                        "#cloud-config\ndisable_root: false\nhostname: \"lab-1\"\n"
                        "ssh_authorized_keys:\n"
                        "  - \"ssh-ed25519 AAAAC3Nz me \\\"and\\\" \\\\you\"\n"
                        "  - \"no-pty ssh-rsa AAAAB3 old\"\n");
    assert_non_null(strstr(find(size, "meta-data"), "local-hostname: \"lab-1\"\n"));
    char first[200];
    snprintf(first, sizeof(first), "%s", find(size, "meta-data"));
    assert_int_equal(strncmp(first, "instance-id: trapeze-", 21), 0);
    size = load(seed_make(&(struct seed){.hostname = "lab-1"}, NULL));
    assert_string_not_equal(find(size, "meta-data"), first); /* another instance */
    assert_non_null(strstr(find(size, "network-config"), "dhcp4: true"));
}

/* Its command is one plain string of YAML, also for a reader that knows no escapes. */
static void a_seed_makes_the_vsock_answer(void **state)
{
    (void)state;
    static const char begin[] = "runcmd:\n  - \"";
    size_t size = load(seed_make(&(struct seed){.vsock_ssh = true}, NULL));
    const char *command = strstr(find(size, "user-data"), begin);
    assert_non_null(command);
    command += sizeof(begin) - 1;
    size_t length = strcspn(command, "\"\\\n");
    assert_string_equal(command + length, "\"\n");
    char *script = strndup(command, length), *argv[] = {"sh", "-n", "-c", script, NULL};
    assert_non_null(strstr(script, "ListenStream=vsock::22"));
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    free(script);
}

static void user_data_is_taken_as_it_is(void **state)
{
    (void)state;
    const char *path = key_file("#!/bin/sh\necho \"hello\"\n");
    size_t size = load(seed_make(&(struct seed){.user_data = path}, NULL));
    unlink(path);
    assert_string_equal(find(size, "user-data"), "#!/bin/sh\necho \"hello\"\n");
    assert_null(strstr(find(size, "meta-data"), "local-hostname"));
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    struct error *err = NULL;
    const char *const names[] = {
        "",  "a b", "a\nb",
        "ä", "a\"", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(seed_make(&(struct seed){.hostname = names[i]}, &err), -1);
        assert_error(&err, ERROR_USAGE, "host name");
    }
    const char *path = key_file("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n");
    const struct seed secret = {.ssh_keys = &path, .ssh_key_count = 1};
    assert_int_equal(seed_make(&secret, &err), -1);
    assert_error(&err, ERROR_USAGE, "secret key");
    unlink(path);
    assert_int_equal(seed_make(&secret, &err), -1);
    assert_error(&err, ERROR_HOST, path);
    assert_int_equal(seed_make(&(struct seed){.user_data = "/"}, &err), -1);
    assert_error(&err, ERROR_HOST, "--user-data");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_found),
        cmocka_unit_test(a_seed_says_who_the_machine_is),
        cmocka_unit_test(a_seed_makes_the_vsock_answer),
        cmocka_unit_test(user_data_is_taken_as_it_is),
        cmocka_unit_test(what_makes_no_sense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
