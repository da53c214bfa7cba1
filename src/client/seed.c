/* SPDX-License-Identifier: MIT
 *
 * See seed.h. YAML is written as double-quoted strings (YAML 1.2, 7.3.1), so that nothing in a
 * name or a key's comment is taken for YAML.
 */
#include "client/seed.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "client/iso9660.h"

#define USER_DATA_MAX MIB
#define KEY_FILE_MAX  (64 * KIB)

/* The whole file, NUL-terminated; NULL: err. */
static char *read_file(const char *what, const char *path, size_t limit, size_t *size,
                       struct error **err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = malloc(limit + 1);
    ssize_t count = 0;
    *size = 0;
    while (fd >= 0 && *size < limit + 1 && (count = read(fd, text + *size, limit + 1 - *size)) > 0)
        *size += (size_t)count;
    if (fd < 0 || count < 0)
        error_set_errno(err, errno, "%s: cannot read '%s'", what, path);
    else if (*size > limit)
        error_set(err, ERROR_USAGE, "%s: '%s' is larger than %zu KiB", what, path, limit / KIB);
    bool good = fd >= 0 && count >= 0 && *size <= limit;
    if (fd >= 0)
        close(fd);
    if (!good) {
        free(text);
        return NULL;
    }
    text[*size] = '\0';
    return text;
}

static void put_quoted(FILE *out, const char *text)
{
    putc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            putc('\\', out);
        putc(*text, out);
    }
    putc('"', out);
}

/* "ssh-ed25519 AAAA... comment": OpenSSH's public key format, also with options in front. */
static bool is_public_key(const char *line)
{
    static const char *const kinds[] = {"ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"};
    for (const char *word = line; word != NULL; word = strchr(word, ' ')) {
        while (*word == ' ')
            word++;
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
            if (strncmp(word, kinds[i], strlen(kinds[i])) == 0 && strstr(word, " AAAA") != NULL)
                return true;
    }
    return false;
}

static bool put_keys(FILE *out, const char *path, struct error **err)
{
    size_t size;
    unsigned found = 0;
    char *text = read_file("--ssh-key", path, KEY_FILE_MAX, &size, err), *rest = text, *line;
    if (text == NULL)
        return false;
    while ((line = strsep(&rest, "\r\n")) != NULL) {
        bool clean = true;
        for (const char *at = line; *at != '\0'; at++)
            clean &= !iscntrl((unsigned char)*at);
        if (line[0] == '\0' || line[0] == '#' || !clean || !is_public_key(line))
            continue;
        found++;
        fputs("  - ", out);
        put_quoted(out, line);
        putc('\n', out);
    }
    bool secret = strstr(text, "PRIVATE") != NULL;
    free(text);
    if (found > 0)
        return true;
    error_set(err, ERROR_USAGE, "--ssh-key: there is no public key in '%s'", path);
    error_hint(err,
               "%sIt is a file such as ~/.ssh/id_ed25519.pub; 'ssh-keygen -t ed25519' makes "
               "one.",
               secret ? "That is a secret key. " : "");
    return false;
}

/* Where systemd-ssh-generator(8) does not do it: before systemd 256, or without our words on the
 * kernel's command line (guest.h). No character of it means anything in a quoted string of YAML. */
static const char vsock_ssh[] =
    "runcmd:\n"
    "  - \"systemctl cat sshd-vsock.socket >/dev/null 2>&1 || "
    "systemctl cat sshd-extra.socket >/dev/null 2>&1 || { cd /etc/systemd/system; "
    "(echo '[Socket]'; echo ListenStream=vsock::22; echo Accept=yes; "
    "echo '[Install]'; echo WantedBy=sockets.target) >trapeze-ssh.socket; "
    "(echo '[Unit]'; echo Wants=trapeze-hostkeys.service; echo After=trapeze-hostkeys.service; "
    "echo '[Service]'; echo 'ExecStart=-/usr/sbin/sshd -i'; echo StandardInput=socket; "
    "echo RuntimeDirectory=sshd; echo RuntimeDirectoryPreserve=yes) >trapeze-ssh@.service; "
    "systemctl daemon-reload; systemctl enable --now trapeze-ssh.socket; }\"\n";

static bool put_user_data(FILE *out, const struct seed *seed, struct error **err)
{
    if (seed->user_data != NULL) {
        size_t size;
        char *text = read_file("--user-data", seed->user_data, USER_DATA_MAX, &size, err);
        if (text == NULL)
            return false;
        fwrite(text, 1, size, out);
        free(text);
        return true;
    }
    fputs("#cloud-config\ndisable_root: false\n", out);
    if (seed->hostname != NULL) {
        fputs("hostname: ", out);
        put_quoted(out, seed->hostname);
        putc('\n', out);
    }
    if (seed->ssh_key_count > 0)
        fputs("ssh_authorized_keys:\n", out);
    for (size_t i = 0; i < seed->ssh_key_count; i++)
        if (!put_keys(out, seed->ssh_keys[i], err))
            return false;
    if (seed->vsock_ssh)
        fputs(vsock_ssh, out);
    return true;
}

/* A new instance each time: an instance-id that was seen before is not looked at again. */
static void put_meta_data(FILE *out, const struct seed *seed)
{
    uint64_t id = 0;
    if (getrandom(&id, sizeof(id), 0) != sizeof(id))
        id = (uint64_t)getpid();
    fprintf(out, "instance-id: trapeze-%016llx\n", (unsigned long long)id);
    if (seed->hostname != NULL) {
        fputs("local-hostname: ", out);
        put_quoted(out, seed->hostname);
        putc('\n', out);
    }
}

static bool check_hostname(const char *name, struct error **err)
{
    size_t length = name != NULL ? strlen(name) : 1;
    bool good = length > 0 && length <= 63;
    for (const char *at = name; good && at != NULL && *at != '\0'; at++)
        good = isalnum((unsigned char)*at) || *at == '-' || *at == '.';
    return good || error_set(err, ERROR_USAGE,
                             "'%s' is no host name: up to 63 letters, digits, '-' and '.'", name);
}

static const char network_config[] = "version: 2\n"
                                     "ethernets:\n"
                                     "  all:\n"
                                     "    match: {name: \"e*\"}\n"
                                     "    dhcp4: true\n"
                                     "    dhcp6: true\n";

int seed_make(const struct seed *seed, struct error **err)
{
    char *user = NULL, *meta = NULL;
    size_t user_size, meta_size;
    FILE *user_out = open_memstream(&user, &user_size),
         *meta_out = open_memstream(&meta, &meta_size);
    bool good = check_hostname(seed->hostname, err) && put_user_data(user_out, seed, err);
    put_meta_data(meta_out, seed);
    fclose(user_out);
    fclose(meta_out);
    int fd = good ? memfd_create("trapeze-seed", MFD_CLOEXEC) : -1;
    if (fd >= 0) {
        const struct iso_file files[] = {
            {"meta-data", meta, meta_size},
            {"user-data", user, user_size},
            {"network-config", network_config, sizeof(network_config) - 1}};
        good = iso_write(fd, "cidata", files, ARRAY_SIZE(files), err);
    } else if (good) {
        error_set_errno(err, errno, "cannot make the seed's disk");
    }
    free(user);
    free(meta);
    if (good)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}
