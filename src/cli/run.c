/* SPDX-License-Identifier: MIT
 *
 * trapeze run: from options to a machine description, then to a worker with its console
 * attached.
 */
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "block/open/open.h"
#include "cli/cli.h"
#include "cli/nic.h"
#include "cli/share.h"
#include "cli/size.h"
#include "cli/vsock.h"
#include "client/image.h"
#include "client/seed.h"
#include "client/worker.h"
#include "config/vmx.h"

static const struct cli_option options[] = {
    {"image", 'i', "NAME",
     "Boot the guest image NAME: 'debian' (a Debian 13 system; the first run builds it) or 'tiny' "
     "(kernel and busybox). Every run gets a private copy of the image's disk, which is gone "
     "afterwards.",
     "What to run"},
    {"kernel", 'k', "FILE",
     "Boot a Linux kernel (RISC-V Image format or ELF). Trapeze itself is the guest's SBI "
     "firmware then, unless --firmware names another.",
     NULL},
    {"initrd", 0, "FILE", "Initial RAM disk for the kernel.", NULL},
    {"append", 'a', "STR",
     "Kernel command line. With --image it is added to the image's own. Default for --kernel: "
     "'console=ttyS0'.",
     NULL},
    {"firmware", 0, "FILE",
     "M-mode firmware such as OpenSBI (it then starts the kernel), or a bare-metal ELF program, "
     "whose exit code becomes trapeze's exit status.",
     NULL},
    {"vmx", 0, "FILE", "Start from the machine description in FILE; other options override it.",
     NULL},
    {"memory", 'm', "SIZE", "Guest memory, e.g. 512M or 2G; a bare number is MiB. Default: 512M.",
     "The machine"},
    {"cpus", 'c', "N", "Number of vCPUs, 1 to 8. Default: 1.", NULL},
    {"disk", 'd', "FILE[,NAME=VALUE...]",
     "Attach FILE, or nbd://HOST/EXPORT, as a virtio disk; may be given several times (vda, vdb, "
     "...). The guest writes to the file itself. A comma in a file name is written twice. What may "
     "follow:\n"
     "readonly: nothing is ever written to it.\n"
     "format=raw|fixed|qcow2: say it, rather than have the first bytes looked at; see 'trapeze "
     "disk'.\n"
     "serial=TEXT: up to 20 bytes that the guest can read.\n"
     "bus=virtio|scsi|ahci: a virtio disk of its own (the default; vda ...), or one (sda ...) on "
     "the machine's virtio SCSI adapter, which takes and gives up disks while the guest runs, or on "
     "its AHCI controller, for guests without virtio drivers.\n"
     "address=TARGET[:LUN] (scsi) or PORT (ahci): where on it; by default the next free place.\n"
     "media=cdrom: an optical drive, see --cdrom.\n"
     "cache=writeback|none|unsafe: with the host's cache, without it (O_DIRECT), or with flushes "
     "ignored.\n"
     "werror=, rerror=enospc|report|stop: when writing or reading fails, tell the guest (report) or "
     "pause the machine until 'resume' (stop); enospc, the default, pauses if the host has no space "
     "left.\n"
     "iops=N, bps=SIZE: limits per second.\n"
     "discard=on|off: whether what the guest discards gives space back.\n"
     "reconnect=SECONDS: how long a lost NBD server is waited for before requests fail; 30.\n"
     "queues=N: queues for requests, 1 to 8; unless given one for each vCPU, or a single one if the "
     "interrupt controller has no messages (--interrupts plic).",
     NULL},
    {"cdrom", 0, "FILE[,NAME=VALUE...]",
     "An optical drive with the disc in FILE (an ISO image), or empty if FILE is 'none'; on the "
     "SCSI adapter, or with bus=ahci a SATA drive. The control verbs 'eject' and 'insert' change "
     "the disc. The same as --disk FILE,media=cdrom.",
     NULL},
    {"engine", 0, "NAME",
     "How vCPUs are run: 'dbt', the translator (x86-64 hosts), 'interp', the interpreter, or "
     "'auto' (default): the translator where it works.",
     NULL},
    {"interrupts", 0, "KIND",
     "The interrupt controller: 'plic'; 'aia', RISC-V's advanced interrupt architecture, with a "
     "message of its own for every queue of a device; or 'auto' (default): aia if the kernel has "
     "a driver for it, as Linux has from 6.10 on.",
     NULL},
    CLI_SHARE_OPTION,
    CLI_VSOCK_OPTION,
    {"balloon", 0, "[=SIZE]",
     "Give the guest a memory balloon: memory that it does not use goes back to the host by "
     "itself, and the control verb 'balloon' takes more. With SIZE, the guest keeps that much "
     "from the start.",
     NULL},
    {"no-reboot", 0, NULL, "End when the guest resets itself, instead of restarting it in place.",
     NULL},
    {"deterministic", 0, "[=SEED]",
     "Virtual time follows retired instructions, all vCPUs share one host thread, and random "
     "numbers come from SEED (default 0): two runs are identical, instruction by instruction.",
     NULL},
    {"ram-backend", 0, "KIND",
     "Guest memory is 'anonymous' (default; huge pages) or a 'memfd' that another process could "
     "share.",
     NULL},
    {"name", 'n', "NAME", "A name for the machine, shown in messages.", NULL},
    CLI_NIC_OPTIONS,
    {"ssh-key", 0, "FILE",
     "Let who has the secret key to the public key in FILE log in by ssh: it goes to the guest in "
     "a NoCloud seed, a small disk that cloud-init and our images read. May be given several "
     "times.",
     "First boot"},
    {"hostname", 0, "NAME", "The guest's host name, in the same seed.", NULL},
    {"user-data", 0, "FILE",
     "The seed's user-data as it is (#cloud-config or a script), instead of these two.", NULL},
    {"code-cache", 0, "SIZE",
     "Memory for the translations of each vCPU, e.g. 32M; a bare number is MiB. When it is full "
     "the oldest eighth is dropped. From 256K to 1G. Default: 64M.",
     "The translator"},
    {"host-cpu-features", 0, "LIST",
     "Which instructions of the host translations may use beyond the x86-64 baseline: a list of "
     "-NAME (without), +NAME (with) and 'none', read from left to right, e.g. -fma,-bmi2 or "
     "none,+popcnt. Names: popcnt, lzcnt, bmi1, bmi2, avx, fma. Default: all that the host has. "
     "Results do not depend on it.",
     NULL},
    {"count-blocks", 0, NULL,
     "Translations count how often they run, which costs a few percent; 'trapeze stats' then "
     "tells blocks-run and chain-hits (blocks that another one led to directly).",
     NULL},
    {"trace", 0, "TOPICS[:FILE]",
     "Write down what the engine does, to FILE or standard error: 'blocks' (translations as they "
     "are made), 'exits' (what guest code is left for), 'mmu' (TLB refills and flushes); several "
     "are separated by commas.",
     NULL},
    {"perf", 0, "KIND",
     "Tell Linux perf what translated code is: 'map' (/tmp/perf-PID.map), or 'jitdump[:FOLDER]' "
     "(jit-PID.dump, for 'perf record -k mono' and 'perf inject --jit').",
     NULL},
    {"console", 0, "WHERE",
     "The guest's console: 'stdio' (default), 'none', 'file:PATH' (output only) or "
     "'socket:PATH' (a unix socket to connect to).",
     "Console and control"},
    {"console-device", 0, "KIND",
     "What the console is for the guest: 'uart' (ttyS0, default; the kernel's first messages are "
     "there, and a login asks the terminal for its size) or 'virtio' (hvc0, which also follows a "
     "window that changes its size; add --append console=hvc0).",
     NULL},
    {"control", 0, "PATH",
     "Make the control socket at PATH instead of the runtime folder; see 'trapeze control'.", NULL},
    {"gdb", 0, "WHERE",
     "Let GDB debug the guest: 'tcp:PORT' (this host only; port 0: any that is free) or "
     "'unix:PATH'. Harts are GDB's threads. Whoever can connect owns the guest: any user of this "
     "host, with tcp.",
     NULL},
    {"gdb-wait", 0, NULL, "Do not start before GDB says 'continue'.", NULL},
    {"dump-fdt", 0, "FILE", "Write the guest's device tree (dtb) to FILE before starting.", NULL},
    {"verbose", 'v', NULL, "Say more; twice: debugging.", NULL},
    {"quiet", 'q', NULL, "Only say what went wrong.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze run --image debian", "A Debian 13 machine on this terminal; Ctrl-] ends it."},
    {"trapeze run --image debian -m 2G -c 4 --disk data.img",
     "More of everything, and a disk that stays."},
    {"trapeze run --image debian --forward tcp:2222:22 --ssh-key ~/.ssh/id_ed25519.pub",
     "Then, from another terminal: ssh -p 2222 root@localhost."},
    {"trapeze run --kernel Image --initrd initrd --append 'console=ttyS0 quiet'",
     "A kernel of your own."},
    {"trapeze run --firmware test.elf; echo $?", "A bare-metal program and its exit code."},
    {"trapeze run --firmware test.elf --gdb tcp:1234 --gdb-wait",
     "The same under GDB: gdb-multiarch test.elf -ex 'target remote localhost:1234'."},
};

/* ---- option values ---- */

static bool parse_disk(const char *option, const char *text, struct machine_config *config,
                       struct error **err)
{
    const char *at = text;
    bool optical = strcmp(option, "cdrom") == 0;
    if (config->disk_count == MACHINE_MAX_DISKS)
        return error_set(err, ERROR_USAGE, "a machine has at most %d disks", MACHINE_MAX_DISKS);
    struct machine_disk *disk = &config->disks[config->disk_count++];
    machine_disk_init(disk);
    disk->path = cli_next_part(&at);
    if (optical) {
        disk->media = 1;
        if (strcmp(disk->path, "none") == 0)
            disk->path[0] = '\0';
    } else if (disk->path[0] == '\0') {
        return error_set(err, ERROR_USAGE, "--disk needs a file name");
    }
    bool good = true;
    for (char *part; good && (part = cli_next_part(&at)) != NULL; free(part)) {
        char *equals = strchr(part, '=');
        if (strcmp(part, "readonly") == 0) {
            disk->read_only = true;
            continue;
        }
        if (equals != NULL)
            *equals = '\0';
        good = machine_disk_set(disk, part, equals != NULL ? equals + 1 : "", err);
        error_prefix(err, "--%s", option);
    }
    return good;
}

static bool choose(const char *option, const char *text, const char *const *words, size_t count,
                   size_t *chosen, struct error **err)
{
    for (*chosen = 0; *chosen < count; (*chosen)++)
        if (strcmp(words[*chosen], text) == 0)
            return true;
    error_set(err, ERROR_USAGE, "--%s: there is no '%s'", option, text);
    error_hint(err, "'trapeze run --help' tells the values it takes.");
    return false;
}

static void replace(char **member, const char *text)
{
    free(*member);
    *member = strdup(text);
}

/* Options that set one string each. */
static const struct {
    const char *option;
    size_t offset;
} string_options[] = {
    {"kernel", offsetof(struct machine_config, kernel)},
    {"initrd", offsetof(struct machine_config, initrd)},
    {"firmware", offsetof(struct machine_config, firmware)},
    {"engine", offsetof(struct machine_config, engine)},
    {"trace", offsetof(struct machine_config, trace)},
    {"perf", offsetof(struct machine_config, perf)},
    {"host-cpu-features", offsetof(struct machine_config, host_features)},
    {"interrupts", offsetof(struct machine_config, interrupts)},
    {"name", offsetof(struct machine_config, name)},
    {"dump-fdt", offsetof(struct machine_config, dump_fdt)},
};

static bool apply_size(const struct cli_args *args, const char *option, uint64_t *bytes,
                       struct error **err)
{
    const char *text = cli_last(args, option);
    if (text == NULL || cli_parse_size(text, MIB, bytes))
        return true;
    error_set(err, ERROR_USAGE, "--%s: '%s' is not a size", option, text);
    error_hint(err, "Write 512M, 2G or a number of MiB.");
    return false;
}

static bool apply_numbers(const struct cli_args *args, struct machine_config *config,
                          struct error **err)
{
    const char *text;
    uint64_t number;
    if (!apply_size(args, "memory", &config->memory, err) ||
        !apply_size(args, "code-cache", &config->code_cache, err))
        return false;
    if (cli_given(args, "code-cache") && config->code_cache == 0)
        return error_set(err, ERROR_USAGE, "--code-cache: a translator without memory cannot work");
    if ((text = cli_last(args, "cpus")) != NULL) {
        if (!cli_parse_count(text, UINT32_MAX, &number))
            return error_set(err, ERROR_USAGE, "--cpus: '%s' is not a number", text);
        config->cpus = (unsigned)number;
    }
    if (cli_given(args, "balloon")) {
        text = cli_last(args, "balloon");
        config->balloon = true;
        if (text != NULL && !cli_parse_size(text + (text[0] == '='), MIB, &config->balloon_size)) {
            error_set(err, ERROR_USAGE, "--balloon: '%s' is not a size", text + (text[0] == '='));
            error_hint(err, "Write 512M, 2G or a number of MiB.");
            return false;
        }
    }
    if (cli_given(args, "deterministic")) {
        text = cli_last(args, "deterministic");
        config->deterministic = true;
        if (text != NULL && !cli_parse_count(text + (text[0] == '='), UINT64_MAX, &config->seed))
            return error_set(err, ERROR_USAGE, "--deterministic: '%s' is not a number", text);
    }
    return true;
}

static bool apply_choices(const struct cli_args *args, struct machine_config *config,
                          struct error **err)
{
    static const char *const backends[] = {"anonymous", "memfd"};
    static const char *const devices[] = {"uart", "virtio"};
    const char *text = cli_last(args, "ram-backend");
    size_t chosen;
    if (text != NULL) {
        if (!choose("ram-backend", text, backends, ARRAY_SIZE(backends), &chosen, err))
            return false;
        config->ram_backend = chosen == 0 ? MACHINE_RAM_ANONYMOUS : MACHINE_RAM_MEMFD;
    }
    if ((text = cli_last(args, "console-device")) != NULL) {
        if (!choose("console-device", text, devices, ARRAY_SIZE(devices), &chosen, err))
            return false;
        config->virtio_console = chosen == 1;
    }
    if (cli_given(args, "count-blocks"))
        config->count_blocks = true;
    if (cli_given(args, "no-reboot"))
        config->no_reboot = true;
    return true;
}

static bool apply_append(const struct cli_args *args, struct machine_config *config)
{
    const char *text = cli_last(args, "append");
    char *joined = NULL;
    if (text != NULL && cli_given(args, "image") && config->append != NULL) {
        if (asprintf(&joined, "%s %s", config->append, text) < 0)
            return false;
        free(config->append);
        config->append = joined;
    } else if (text != NULL) {
        replace(&config->append, text);
    } else if (config->kernel != NULL && config->append == NULL) {
        replace(&config->append, config->virtio_console ? "console=hvc0" : "console=ttyS0");
    }
    return true;
}

/* A missing file is best named with the option that named it, before any work is done. */
static bool check_file(const char *option, const char *path, struct error **err)
{
    struct stat status;
    if (path == NULL)
        return true;
    if (stat(path, &status) != 0)
        error_set_errno(err, errno, "%s: cannot open '%s'", option, path);
    else if (S_ISDIR(status.st_mode))
        error_set(err, ERROR_HOST, "%s: '%s' is a folder, not a file", option, path);
    else if (access(path, R_OK) != 0)
        error_set_errno(err, errno, "%s: cannot read '%s'", option, path);
    else
        return true;
    return false;
}

/* A file the machine is made of; `output` must not be the same one. */
static bool check_input(const char *option, const char *path, const char *output_option,
                        const char *output, struct error **err)
{
    struct stat input, other;
    if (path == NULL || output == NULL || stat(path, &input) != 0 || stat(output, &other) != 0)
        return true;
    bool same = input.st_dev == other.st_dev && input.st_ino == other.st_ino;
    if (S_ISBLK(input.st_mode) && S_ISBLK(other.st_mode)) /* two names of one disk */
        same = input.st_rdev == other.st_rdev;
    if (!same)
        return true;
    error_set(err, ERROR_USAGE, "%s would overwrite '%s', which %s names", output_option, path,
              option);
    error_hint(err, "Name another file.");
    return false;
}

/* `vmx`, `console`: also files that options named; NULL: none. */
static bool check_files(const struct machine_config *config, const char *vmx, const char *console,
                        struct error **err)
{
    const struct {
        const char *option, *path;
    } outputs[] = {{"--dump-fdt", config->dump_fdt}, {"--console", console}},
      inputs[] = {{"--kernel", config->kernel},
                  {"--initrd", config->initrd},
                  {"--firmware", config->firmware},
                  {"--vmx", vmx}};
    bool good = true;
    for (size_t i = 0; good && i < ARRAY_SIZE(inputs); i++)
        good = check_file(inputs[i].option, inputs[i].path, err);
    for (size_t i = 0; good && i < config->disk_count; i++)
        good = block_name_is_uri(config->disks[i].path) || config->disks[i].path[0] == '\0' ||
               check_file("--disk", config->disks[i].path, err);
    for (size_t o = 0; o < ARRAY_SIZE(outputs); o++) {
        for (size_t i = 0; good && i < ARRAY_SIZE(inputs); i++)
            good = check_input(inputs[i].option, inputs[i].path, outputs[o].option, outputs[o].path,
                               err);
        for (size_t i = 0; good && i < config->disk_count; i++)
            good = check_input("--disk", config->disks[i].path, outputs[o].option, outputs[o].path,
                               err);
    }
    return good;
}

/* ---- the console and the end ---- */

static bool parse_console(const char *text, struct client_options *client, struct error **err)
{
    if (text == NULL || strcmp(text, "stdio") == 0) {
        client->console = CLIENT_CONSOLE_STDIO;
    } else if (strcmp(text, "none") == 0) {
        client->console = CLIENT_CONSOLE_NONE;
    } else if (strncmp(text, "file:", 5) == 0 && text[5] != '\0') {
        client->console = CLIENT_CONSOLE_FILE;
        client->console_path = text + 5;
    } else if (strncmp(text, "socket:", 7) == 0 && text[7] != '\0') {
        client->console = CLIENT_CONSOLE_SOCKET;
        client->console_path = text + 7;
    } else {
        error_set(err, ERROR_USAGE, "--console: there is no '%s'", text);
        error_hint(err, "It takes stdio, none, file:PATH or socket:PATH.");
        return false;
    }
    return true;
}

/* The file that the console is written to; NULL: none is. */
static const char *console_file(const struct client_options *client)
{
    return client->console == CLIENT_CONSOLE_FILE ? client->console_path : NULL;
}

static int exit_status(const struct client_result *result, struct error **err)
{
    switch (result->end) {
    case CLIENT_END_POWEROFF:
        return CLI_OK;
    case CLIENT_END_EXIT_CODE:
        return result->code > 0xff ? 0xff : (int)result->code;
    case CLIENT_END_CRASH:
        fprintf(stderr, "trapeze: %s\n", result->message);
        return CLI_GUEST_CRASH;
    case CLIENT_END_QUIT:
        fputs("trapeze: the virtual machine was ended.\n", stderr);
        return CLI_INTERRUPTED;
    case CLIENT_END_REFUSED:
        error_set(err, result->usage ? ERROR_USAGE : ERROR_HOST, "%s", result->message);
        return CLI_HOST_FAILURE;
    }
    return CLI_HOST_FAILURE;
}

/* ---- putting it together ---- */

/* The copy of an image's disk is raw, whatever a guest that built it wrote there. */
static void add_copy(struct machine_config *config, const char *path)
{
    struct machine_disk *disk = &config->disks[config->disk_count++];
    machine_disk_init(disk);
    disk->path = strdup(path);
    disk->format = strdup("raw");
}

static bool apply_image(const char *name, struct machine_config *config, bool quiet,
                        struct image_copy *copy, struct error **err)
{
    struct image image;
    if (!image_find(name, &image, err)) {
        image_clear(&image);
        return false;
    }
    replace(&config->kernel, image.kernel);
    if (image.initrd != NULL)
        replace(&config->initrd, image.initrd);
    if (image.append != NULL)
        replace(&config->append, image.append);
    if (image.memory != 0)
        config->memory = image.memory;
    if (image.cpus != 0)
        config->cpus = image.cpus;
    bool good = true;
    if (image.disk != NULL) {
        good = image_copy_make(image.disk, copy, err);
        if (good)
            add_copy(config, copy->path);
    }
    if (good && !quiet)
        fprintf(stderr, "trapeze: %s%s.%s%s%s\n", image.title,
                image.disk != NULL ? " on a private copy of its disk, gone when it ends" : "",
                image.login != NULL ? " Log in as " : "", image.login != NULL ? image.login : "",
                image.login != NULL ? ", without a password." : "");
    image_clear(&image);
    return good;
}

/* A disk like any other to the worker: what stands behind the path is this process's. */
static bool apply_seed(const struct cli_args *args, struct machine_config *config, int *seed_fd,
                       struct error **err)
{
    const char **keys = calloc(args->value_count + 1, sizeof(*keys));
    struct seed seed = {.hostname = cli_last(args, "hostname"),
                        .ssh_keys = keys,
                        .user_data = cli_last(args, "user-data")};
    for (size_t i = 0; i < args->value_count; i++)
        if (strcmp(args->values[i].option->name, "ssh-key") == 0)
            keys[seed.ssh_key_count++] = args->values[i].text;
    bool asked = seed.hostname != NULL || seed.ssh_key_count > 0;
    bool good = true;
    if (asked && seed.user_data != NULL)
        good = error_set(err, ERROR_USAGE,
                         "--user-data is all of the seed: write keys and host name into it");
    else if ((asked || seed.user_data != NULL) && config->disk_count == MACHINE_MAX_DISKS)
        good = error_set(err, ERROR_USAGE, "there is no room for the seed's disk: a machine has at "
                                           "most %d", MACHINE_MAX_DISKS);
    else if (asked || seed.user_data != NULL)
        good = (*seed_fd = seed_make(&seed, err)) >= 0;
    if (*seed_fd >= 0) {
        struct machine_disk *disk = &config->disks[config->disk_count++];
        machine_disk_init(disk);
        disk->read_only = true;
        disk->format = strdup("raw");
        good = asprintf(&disk->path, "/proc/%d/fd/%d", (int)getpid(), *seed_fd) > 0;
    }
    free(keys);
    return good;
}

static bool load_vmx(const char *path, struct machine_config *config, bool quiet,
                     struct error **err)
{
    struct vmx_notes notes = {0};
    bool good = vmx_load(path, config, &notes, err);
    char *sentence = vmx_notes_sentence(&notes, path);
    if (good && sentence != NULL && !quiet)
        fprintf(stderr, "trapeze: %s\n", sentence);
    free(sentence);
    vmx_notes_clear(&notes);
    return good;
}

/* Where the description has the serial port go, unless --console says otherwise. */
static bool apply_serial(const struct cli_args *args, const struct machine_config *config,
                         struct client_options *client)
{
    if (config->serial == MACHINE_SERIAL_TERMINAL || cli_given(args, "console"))
        return true;
    client->console = config->serial == MACHINE_SERIAL_FILE ? CLIENT_CONSOLE_FILE
                                                            : CLIENT_CONSOLE_SOCKET;
    client->console_path = config->serial_path;
    return true;
}

static bool configure(const struct cli_args *args, struct client_options *client,
                      struct machine_config *config, struct image_copy *copy, int *seed_fd,
                      struct error **err)
{
    const char *vmx = cli_last(args, "vmx"), *image = cli_last(args, "image");
    if (image != NULL && (cli_given(args, "kernel") || vmx != NULL))
        return error_set(err, ERROR_USAGE, "--image does not go with %s: it brings its own kernel",
                         vmx != NULL ? "--vmx" : "--kernel");
    if (vmx != NULL && !load_vmx(vmx, config, cli_given(args, "quiet"), err))
        return false;
    /* Numbers are checked before an image is built or copied, and win over the image's. */
    if (!apply_numbers(args, config, err) || !apply_choices(args, config, err))
        return false;
    if (image != NULL && (!apply_image(image, config, cli_given(args, "quiet"), copy, err) ||
                          !apply_numbers(args, config, err)))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(string_options); i++) {
        const char *text = cli_last(args, string_options[i].option);
        if (text != NULL)
            replace((char **)(void *)((char *)config + string_options[i].offset), text);
    }
    for (size_t i = 0; i < args->value_count; i++) {
        const char *option = args->values[i].option->name;
        if ((strcmp(option, "disk") == 0 || strcmp(option, "cdrom") == 0) &&
            !parse_disk(option, args->values[i].text, config, err))
            return false;
    }
    return apply_seed(args, config, seed_fd, err) && cli_apply_nics(args, config, err) &&
           cli_apply_shares(args, config, err) && cli_apply_vsock(args, config, err) &&
           apply_append(args, config) &&
           machine_config_check(config, err) && apply_serial(args, config, client) &&
           check_files(config, vmx, console_file(client), err);
}

static int log_level(const struct cli_args *args)
{
    int level = LOG_LEVEL_WARNING;
    for (size_t i = 0; i < args->value_count; i++)
        if (strcmp(args->values[i].option->name, "verbose") == 0 && level < LOG_LEVEL_DEBUG)
            level++;
    return cli_given(args, "quiet") ? LOG_LEVEL_ERROR : level;
}

static int run(const struct cli_args *args, struct error **err)
{
    struct machine_config config;
    struct image_copy copy = {.path = NULL};
    struct client_options client = {.control_path = cli_last(args, "control"),
                                    .log_level = log_level(args),
                                    .gdb = cli_last(args, "gdb"),
                                    .gdb_wait = cli_given(args, "gdb-wait")};
    struct client_result result;
    int status = CLI_HOST_FAILURE, seed_fd = -1;
    if (client.gdb_wait && client.gdb == NULL) {
        error_set(err, ERROR_USAGE, "--gdb-wait needs --gdb WHERE");
        return CLI_USAGE;
    }
    machine_config_init(&config);
    if (parse_console(cli_last(args, "console"), &client, err) &&
        configure(args, &client, &config, &copy, &seed_fd, err) &&
        client_run(&config, &client, &result, err))
        status = exit_status(&result, err);
    image_copy_remove(&copy);
    if (seed_fd >= 0)
        close(seed_fd);
    machine_config_clear(&config);
    return status;
}

const struct cli_command cli_command_run = {
    .name = "run",
    .summary = "Run a virtual machine, its console on this terminal",
    .description =
        "Starts a virtual machine in a process of its own and connects its console to this "
        "terminal. With no terminal on standard input the console simply flows to standard "
        "output, and standard input to the guest.\n\n"
        "The machine is compatible with QEMU's riscv64 'virt' board: RAM at 0x80000000, a 16550 "
        "UART, PCIe with virtio devices.\n\n"
        "Exit status: 0 when the guest switches itself off; 120 bad usage; 121 the host failed; "
        "122 the guest crashed (kernel panic, failure reported to the firmware); 130 ended from "
        "outside; the program's own code for a bare-metal program.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
