/* SPDX-License-Identifier: MIT
 *
 * See guest.h.
 */
#include "client/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/api.h"

enum { KEY_MAX = 4096 };

/* ---- the key pair ---- */

static char *join(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        abort();
    return path;
}

char *guest_key_path(const char *store)
{
    return join(store, "ssh/id_ed25519");
}

/* ssh-keygen is a part of Debian's openssh-client. `what` is for messages. */
static bool run_keygen(char *const *argv, const char *what, struct error **err)
{
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int status = 0;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    int number = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    while (number == 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (number == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    if (number != 0)
        error_set_errno(err, number, "cannot make %s with ssh-keygen", what);
    else
        error_set(err, ERROR_HOST, "ssh-keygen could not make %s", what);
    error_hint(err, "Debian has it in openssh-client.");
    return false;
}

bool guest_key_new(const char *path, struct error **err)
{
    char *const argv[] = {"ssh-keygen", "-q", "-t",      "ed25519", "-N",
                          "",           "-C", "trapeze", "-f",      (char *)(uintptr_t)path,
                          NULL};
    return run_keygen(argv, "a key pair", err);
}

bool guest_key_check(const char *key)
{
    static const char kind[] = "ssh-ed25519 ";
    const char *text = key + strlen(kind);
    return strncmp(key, kind, strlen(kind)) == 0 && strlen(text) == 68 &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") == 68;
}

char *guest_key_sign(const char *store, const char *folder, const char *key, const char *user,
                     const char *who, struct error **err)
{
    char *authority = guest_key_path(store), *theirs = join(folder, "key.pub"), text[KEY_MAX] = "";
    char *certificate = join(folder, "key-cert.pub");
    char *const argv[] = {"ssh-keygen", "-q",
                          "-s",         authority,
                          "-I",         (char *)(uintptr_t)who,
                          "-n",         (char *)(uintptr_t)user,
                          "-V",         "-1d:+1d",
                          theirs,       NULL};
    bool good = guest_key_make(store, err);
    int fd = good ? open(theirs, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    if (good && (fd < 0 || dprintf(fd, "%s\n", key) < 0))
        good = error_set_errno(err, errno, "cannot write '%s'", theirs);
    if (fd >= 0)
        close(fd);
    good = good && run_keygen(argv, "a certificate", err);
    fd = good ? open(certificate, O_RDONLY | O_CLOEXEC) : -1;
    if (good && (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0))
        good = error_set_errno(err, errno, "cannot read '%s'", certificate);
    if (fd >= 0)
        close(fd);
    free(authority);
    free(theirs);
    free(certificate);
    return good ? alloc_string(text) : NULL;
}

/* Both files appear at once, with their folder; whoever comes second finds the first one's. */
bool guest_key_make(const char *store, struct error **err)
{
    char *secret = guest_key_path(store), *folder = join(store, "ssh");
    char *staged = join(store, ".ssh-XXXXXX");
    bool good = access(secret, R_OK) == 0;
    if (!good && api_make_folders(store, err)) {
        if (mkdtemp(staged) == NULL) {
            error_set_errno(err, errno, "cannot make a folder for the key pair in '%s'", store);
        } else {
            char *key = join(staged, "id_ed25519"), *open_key = join(staged, "id_ed25519.pub");
            good = guest_key_new(key, err);
            if (!good || rename(staged, folder) != 0) {
                (void)unlink(key);
                (void)unlink(open_key);
                (void)rmdir(staged);
                good =
                    good && (access(secret, R_OK) == 0 ||
                             error_set_errno(err, errno, "cannot keep the key pair '%s'", folder));
            }
            free(key);
            free(open_key);
        }
    }
    free(secret);
    free(folder);
    free(staged);
    return good;
}

/* ---- what the kernel is told ---- */

static void put_base64(FILE *out, const char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t size = strlen(text);
    for (size_t i = 0; i < size; i += 3) {
        uint32_t group = 0;
        for (size_t k = 0; k < 3; k++)
            group = group << 8 | (i + k < size ? (uint8_t)text[i + k] : 0u);
        for (size_t k = 0; k < 4; k++)
            putc(i + k > size ? '=' : digits[group >> (18 - 6 * k) & 63], out);
    }
}

/* Debian's unit for a connection, sshd@.service, also of systemd-ssh-generator's sockets, knows
 * nothing of the credential that systemd's own unit takes keys from. The key is both one that lets
 * in, and one whose certificates do (sshd(8), AUTHORIZED_KEYS FILE FORMAT). */
static const char drop_in[] =
    "[Service]\n"
    "ImportCredential=ssh.ephemeral-authorized_keys-all\n"
    "ExecStart=\n"
    "ExecStart=-/usr/sbin/sshd -i $SSHD_OPTS -oAuthorizedKeysCommandUser=root -o "
    "\"AuthorizedKeysCommand=/bin/sed 'p;s/^/cert-authority /' "
    "${CREDENTIALS_DIRECTORY}/ssh.ephemeral-authorized_keys-all\"\n";

char *guest_boot_words(const char *store, struct error **err)
{
    char *secret = guest_key_path(store), *path = NULL, *words = NULL, key[KEY_MAX] = "";
    size_t size;
    FILE *out = NULL;
    if (!guest_key_make(store, err)) {
        free(secret);
        return NULL;
    }
    if (asprintf(&path, "%s.pub", secret) < 0)
        abort();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, key, sizeof(key) - 1) <= 0)
        error_set_errno(err, errno, "cannot read the public key '%s'", path);
    else
        out = open_memstream(&words, &size);
    if (out != NULL) {
        fprintf(out,
                "systemd.ssh_listen=vsock::%u "
                "systemd.set_credential_binary=systemd.unit-dropin.sshd@.service:",
                GUEST_SSH_PORT);
        put_base64(out, drop_in);
        fputs(" systemd.set_credential_binary=ssh.ephemeral-authorized_keys-all:", out);
        put_base64(out, key);
        fclose(out);
    }
    if (fd >= 0)
        close(fd);
    free(path);
    free(secret);
    return words;
}
