/* SPDX-License-Identifier: MIT
 *
 * See machine.h.
 */
#include "cli/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "block/open/open.h"
#include "cli/nic.h"
#include "cli/share.h"
#include "cli/size.h"
#include "cli/vsock.h"
#include "client/api.h"
#include "client/guest.h"
#include "client/seed.h"
#include "config/vmx.h"
#include "engine/kvm/probe.h"

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
    {"arch", offsetof(struct machine_config, arch)},
    {"engine", offsetof(struct machine_config, engine)},
    {"cpu", offsetof(struct machine_config, cpu)},
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
    const struct {
        const char *option;
        unsigned *number;
    } counts[] = {{"cpus", &config->cpus},
                  {"max-cpus", &config->max_cpus},
                  {"pci-slots", &config->pci_slots},
                  {"cpu-weight", &config->cpu_weight},
                  {"cpu-cap", &config->cpu_cap}};
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        if ((text = cli_last(args, counts[i].option)) == NULL)
            continue;
        if (!cli_parse_count(text, UINT32_MAX, &number))
            return error_set(err, ERROR_USAGE, "--%s: '%s' is not a number", counts[i].option,
                             text);
        *counts[i].number = (unsigned)number;
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
    static const char *const transports[] = {"pci", "mmio"};
    const char *text = cli_last(args, "ram-backend");
    size_t chosen;
    if (text != NULL) {
        if (!choose("ram-backend", text, backends, ARRAY_SIZE(backends), &chosen, err))
            return false;
        config->ram_backend = chosen == 0 ? MACHINE_RAM_ANONYMOUS : MACHINE_RAM_MEMFD;
    }
    if ((text = cli_last(args, "virtio")) != NULL) {
        if (!choose("virtio", text, transports, ARRAY_SIZE(transports), &chosen, err))
            return false;
        config->virtio = chosen == 0 ? MACHINE_VIRTIO_PCI : MACHINE_VIRTIO_MMIO;
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

static bool apply_append(const struct cli_args *args, struct machine_config *config,
                         struct error **err)
{
    const char *text = cli_last(args, "append");
    char *joined = NULL;
    if (text != NULL && cli_given(args, "image") && config->append != NULL) {
        if (asprintf(&joined, "%s %s", config->append, text) < 0)
            return error_set(err, ERROR_HOST, "the host is out of memory");
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

/* The file that the console is written to; NULL: none is. */
static const char *console_file(const struct client_options *client)
{
    return client->console == CLIENT_CONSOLE_FILE ? client->console_path : NULL;
}

/* The copy of an image's disk has the format that its manifest says, whatever a guest that built it
 * wrote there. */
static void add_copy(struct machine_config *config, const char *path, const char *format)
{
    struct machine_disk *disk = &config->disks[config->disk_count++];
    machine_disk_init(disk);
    disk->path = strdup(path);
    disk->format = strdup(format != NULL ? format : "raw");
}

/* A whole disk has a kernel of its own. */
static bool find_loader(const char *name, struct image *image, struct error **err)
{
    const char *isa = image->isa != NULL ? image->isa : "riscv64";
    if (!machine_has_arch(isa)) {
        error_set(err, ERROR_USAGE, "the image '%s' is for %s, which this build cannot run", name,
                  isa);
        error_hint(err, "It runs riscv64 and x86_64.");
        return false;
    }
    return image->kernel != NULL ||
           image_boot_loader(isa, &image->kernel, &image->firmware, err);
}

/* Said before what it is made of is downloaded. */
static bool can_be_built(const char *name, struct error **err)
{
    if (!image_recipe_needs_kvm(name) || image_is_built(name))
        return true;
    int kvm = kvm_open(KVM_DEVICE, err);
    bool good = kvm >= 0 && kvm_runs_guests(kvm, err);
    if (kvm >= 0)
        close(kvm);
    if (!good) {
        error_prefix(err, "the image '%s', which is not there yet, would configure itself in a guest", name);
        kvm_is_needed("x86_64", err);
    }
    return good;
}

/* Of an architecture that was asked for: "tiny" is "tiny-x86_64" then. */
static bool find_image(const char *name, const char *arch, struct image *image, struct error **err)
{
    char *full = NULL;
    if (arch == NULL || strcmp(arch, "riscv64") == 0 || !machine_has_arch(arch))
        full = strdup(name);
    else if (asprintf(&full, "%s-%s", name, arch) < 0)
        abort();
    bool good = can_be_built(full, err) && image_find(full, image, err) && find_loader(full, image, err);
    if (good && arch != NULL && image->isa != NULL && strcmp(image->isa, arch) != 0)
        good = error_set(err, ERROR_USAGE, "the image '%s' is for %s, not for %s", full, image->isa,
                         arch);
    free(full);
    return good;
}

static bool apply_image(const char *name, const char *arch, struct cli_machine *machine, bool quiet,
                        struct error **err)
{
    struct machine_config *config = &machine->config;
    struct image image;
    if (!find_image(name, arch, &image, err)) {
        image_clear(&image);
        return false;
    }
    if (image.isa != NULL)
        replace(&config->arch, image.isa);
    if (image.kernel != NULL)
        replace(&config->kernel, image.kernel);
    if (image.firmware != NULL)
        replace(&config->firmware, image.firmware);
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
        machine->image_disk = strdup(image.disk);
        good = machine->keep || image_copy_make(image.disk, &machine->copy, err);
        if (good)
            add_copy(config, machine->keep ? image.disk : machine->copy.path, image.disk_format);
    }
    if (good && !quiet && !machine->keep)
        fprintf(stderr, "trapeze: %s%s.%s%s%s\n", image.title,
                image.disk != NULL ? " on a private copy of its disk, gone when it ends" : "",
                image.login != NULL ? " Log in as " : "", image.login != NULL ? image.login : "",
                image.login != NULL ? ", without a password." : "");
    image_clear(&image);
    return good;
}

/* The public key of 'trapeze ssh'; the caller frees it. NULL: this host has no ssh, then. */
static char *own_key(void)
{
    char *store = api_store_path(NULL), *secret = NULL, *path = NULL;
    if (store != NULL && guest_key_make(store, NULL)) {
        secret = guest_key_path(store);
        if (asprintf(&path, "%s.pub", secret) < 0)
            path = NULL;
    }
    free(secret);
    free(store);
    return path;
}

/* A disk like any other to the worker: what stands behind the path is this process's. */
static bool apply_seed(const struct cli_args *args, struct machine_config *config, bool keep,
                       int *seed_fd, struct error **err)
{
    const char **keys = calloc(args->value_count + 2, sizeof(*keys));
    char *own = NULL;
    struct seed seed = {.hostname = cli_last(args, "hostname"),
                        .ssh_keys = keys,
                        .user_data = cli_last(args, "user-data")};
    for (size_t i = 0; i < args->value_count; i++)
        if (strcmp(args->values[i].option->name, "ssh-key") == 0)
            keys[seed.ssh_key_count++] = args->values[i].text;
    bool asked = seed.hostname != NULL || seed.ssh_key_count > 0;
    bool good = true;
    if (asked && keep && (own = own_key()) != NULL) {
        keys[seed.ssh_key_count++] = own;
        seed.vsock_ssh = true;
    }
    if (asked && seed.user_data != NULL)
        good = error_set(err, ERROR_USAGE,
                         "--user-data is all of the seed: write keys and host name into it");
    else if ((asked || seed.user_data != NULL) && config->disk_count == MACHINE_MAX_DISKS)
        good = error_set(err, ERROR_USAGE,
                         "there is no room for the seed's disk: a machine has at "
                         "most %d",
                         MACHINE_MAX_DISKS);
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
    free(own);
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
static void apply_serial(const struct cli_args *args, const struct machine_config *config,
                         struct client_options *client)
{
    if (client == NULL || config->serial == MACHINE_SERIAL_TERMINAL || cli_given(args, "console"))
        return;
    client->console =
        config->serial == MACHINE_SERIAL_FILE ? CLIENT_CONSOLE_FILE : CLIENT_CONSOLE_SOCKET;
    client->console_path = config->serial_path;
}

bool cli_machine_configure(const struct cli_args *args, struct client_options *client,
                           struct cli_machine *machine, struct error **err)
{
    struct machine_config *config = &machine->config;
    *machine = (struct cli_machine){
        .seed = -1, .keep = machine->keep, .base = machine->base, .saved.fd = -1};
    machine_config_init(config);
    const char *vmx = machine->base != NULL ? machine->base : cli_last(args, "vmx");
    const char *image = cli_last(args, "image");
    if (image != NULL && (cli_given(args, "kernel") || vmx != NULL))
        return error_set(err, ERROR_USAGE, "--image does not go with %s: it brings its own kernel",
                         vmx != NULL ? "--vmx" : "--kernel");
    const char *saved = cli_last(args, "resume");
    if (saved != NULL && (vmx != NULL || image != NULL))
        return error_set(err, ERROR_USAGE, "--resume does not go with %s: the file has its machine",
                         vmx != NULL ? "--vmx" : "--image");
    if (saved != NULL && !client_saved_open(AT_FDCWD, saved, &machine->saved, config, err))
        return false;
    if (vmx != NULL && !load_vmx(vmx, config, cli_given(args, "quiet"), err))
        return false;
    /* Numbers are checked before an image is built or copied, and win over the image's. */
    if (!apply_numbers(args, config, err) || !apply_choices(args, config, err))
        return false;
    if (image != NULL && (!apply_image(image, cli_last(args, "arch"), machine, cli_given(args, "quiet"), err) ||
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
    if (!apply_seed(args, config, machine->keep, &machine->seed, err) || !cli_apply_nics(args, config, err) ||
        !cli_apply_shares(args, config, err) || !cli_apply_vsock(args, config, err) ||
        !apply_append(args, config, err) || !machine_config_check(config, err) ||
        (config->cpu != NULL && !kvm_knows_cpu(config->cpu, err)))
        return false;
    apply_serial(args, config, client);
    return check_files(config, vmx, client != NULL ? console_file(client) : NULL, err);
}

void cli_machine_clear(struct cli_machine *machine)
{
    image_copy_remove(&machine->copy);
    if (machine->seed >= 0)
        close(machine->seed);
    client_saved_close(&machine->saved);
    free(machine->image_disk);
    machine_config_clear(&machine->config);
}
