/* SPDX-License-Identifier: MIT
 *
 * What the resources of a microVM are as a machine of ours.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "config/machine.h"
#include "firecracker/internal.h"

/* Of a kernel that is given none: as there, it ends where others would restart, and does not look
 * for what is not there. */
#define DEFAULT_ARGS "reboot=k panic=1"
#define DEFAULT_ARGS_X86                                                                           \
    DEFAULT_ARGS " nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static char *copy_of(const json_t *object, const char *name)
{
    const char *text = text_of(object, name);
    return text != NULL ? strdup(text) : NULL;
}

unsigned long long fc_per_second(const json_t *limiter, const char *bucket)
{
    const json_t *tokens = json_object_get(limiter, bucket);
    unsigned long long size =
        (unsigned long long)json_integer_value(json_object_get(tokens, "size"));
    unsigned long long time =
        (unsigned long long)json_integer_value(json_object_get(tokens, "refill_time"));
    unsigned long long rate, limit = 1ULL << 50;
    if (size == 0 || time == 0) /* as there: such a bucket limits nothing */
        return 0;
    if (__builtin_mul_overflow(size, 1000ULL, &rate))
        rate = size / time < limit ? size / time * 1000 : limit;
    else
        rate /= time;
    return rate == 0 ? 1 : rate < limit ? rate : limit;
}

static void add_drive(struct machine_config *config, const json_t *drive)
{
    struct machine_disk *disk = &config->disks[config->disk_count++];
    const json_t *limiter = json_object_get(drive, "rate_limiter");
    machine_disk_init(disk);
    disk->path = copy_of(drive, "path_on_host");
    disk->format = strdup("raw"); /* a guest that writes a header does not choose another */
    disk->read_only = json_is_true(json_object_get(drive, "is_read_only"));
    disk->bus = MACHINE_BUS_VIRTIO;
    disk->cache = strcmp(text_of(drive, "cache_type"), "Unsafe") == 0 ? MACHINE_CACHE_UNSAFE
                                                                      : MACHINE_CACHE_WRITEBACK;
    disk->bps = fc_per_second(limiter, "bandwidth");
    disk->iops = fc_per_second(limiter, "ops");
}

static bool add_nic(struct machine_config *config, const json_t *interface, struct error **err)
{
    struct machine_nic *nic = &config->nics[config->nic_count++];
    char mac[18];
    *nic = (struct machine_nic){.net = MACHINE_NET_CUSTOM};
    if (asprintf(&nic->vnet, "tap:%s", text_of(interface, "host_dev_name")) < 0)
        nic->vnet = NULL;
    nic->mac = copy_of(interface, "guest_mac");
    if (nic->mac == NULL) {
        if (!machine_make_mac(NULL, 0, mac, err))
            return false;
        nic->mac = strdup(mac);
    }
    nic->mtu = (unsigned)json_integer_value(json_object_get(interface, "mtu"));
    return true;
}

/* What is the kernel's comes before what it hands on to its init. The root device is the first
 * disk. */
static char *kernel_arguments(const json_t *boot, const json_t *root, bool x86)
{
    const char *args = text_of(boot, "boot_args"), *uuid = text_of(root, "partuuid");
    char *text = NULL, *device = NULL;
    if (args == NULL)
        args = x86 ? DEFAULT_ARGS_X86 : DEFAULT_ARGS;
    const char *rest = strstr(args, " -- ");
    int length = rest != NULL ? (int)(rest - args) : (int)strlen(args);
    if (json_is_true(json_object_get(root, "is_root_device")) &&
        asprintf(&device, " root=%s%s %s", uuid != NULL ? "PARTUUID=" : "/dev/vda",
                 uuid != NULL ? uuid : "",
                 json_is_true(json_object_get(root, "is_read_only")) ? "ro" : "rw") < 0)
        abort();
    if (asprintf(&text, "%.*s%s%s%s", length, args, x86 ? " pci=off" : "",
                 device != NULL ? device : "", rest != NULL ? rest : "") < 0)
        abort();
    free(device);
    return text;
}

static bool choose_cpu(struct machine_config *config, const json_t *machine, const json_t *template,
                       struct error **err)
{
    bool smt = json_is_true(json_object_get(machine, "smt"));
    if (strcmp(config->arch, "x86_64") != 0 && smt)
        return error_set(err, ERROR_USAGE,
                         "Enabling simultaneous multithreading is not supported on %s.",
                         config->arch);
    if (strcmp(config->arch, "x86_64") != 0 && json_object_size(template) > 0)
        return error_set(err, ERROR_USAGE, "CPU templates are not supported on %s.", config->arch);
    struct fc_answer none = {0}; /* it has been checked */
    char *changes = template != NULL ? fc_cpu_changes(template, &none) : NULL;
    json_decref(none.body);
    if ((smt || (changes != NULL && changes[0] != '\0')) &&
        asprintf(&config->cpu, "host%s%s", smt ? ",smt=on" : "", changes != NULL ? changes : "") <
            0)
        abort(); /* as base/alloc.h */
    free(changes);
    return true;
}

bool fc_machine(const json_t *resources, const char *arch, struct machine_config *config,
                struct error **err)
{
    const json_t *machine = json_object_get(resources, "machine-config");
    const json_t *boot = json_object_get(resources, "boot-source");
    const json_t *drives = json_object_get(resources, "drives");
    const json_t *balloon = json_object_get(resources, "balloon");
    const json_t *vsock = json_object_get(resources, "vsock");
    const json_t *serial = json_object_get(resources, "serial");
    size_t index;
    const json_t *entry;
    if (boot == NULL)
        return error_set(err, ERROR_USAGE, "Cannot start microvm without kernel configuration.");
    if (arch == NULL && !fc_kernel_arch(text_of(boot, "kernel_image_path"), &arch, err))
        return false;
    free(config->arch);
    config->arch = strdup(arch);
    config->cpus = (unsigned)json_integer_value(json_object_get(machine, "vcpu_count"));
    config->memory = (uint64_t)json_integer_value(json_object_get(machine, "mem_size_mib")) << 20;
    config->virtio = MACHINE_VIRTIO_MMIO;
    config->no_reboot = true;
    if (!choose_cpu(config, machine, json_object_get(resources, "cpu-config"), err))
        return false;
    config->keyboard = strcmp(arch, "x86_64") == 0;
    config->kernel = copy_of(boot, "kernel_image_path");
    config->initrd = copy_of(boot, "initrd_path");
    config->serial_path = copy_of(serial, "serial_out_path");
    config->append = kernel_arguments(boot, json_array_get(drives, 0), strcmp(arch, "x86_64") == 0);
    json_array_foreach(drives, index, entry) add_drive(config, entry);
    json_array_foreach(json_object_get(resources, "network-interfaces"), index, entry)
    {
        if (!add_nic(config, entry, err))
            return false;
    }
    if (vsock != NULL) {
        config->vsock_cid = (unsigned)json_integer_value(json_object_get(vsock, "guest_cid"));
        config->vsock_socket = copy_of(vsock, "uds_path");
    }
    if (balloon != NULL) {
        uint64_t amount = (uint64_t)json_integer_value(json_object_get(balloon, "amount_mib"))
                          << 20;
        if (amount >= config->memory)
            return error_set(err, ERROR_USAGE,
                             "The balloon cannot be as large as the memory of the machine.");
        config->balloon = true;
        config->balloon_keeps = !json_is_true(json_object_get(balloon, "deflate_on_oom"));
        config->balloon_size = amount != 0 ? config->memory - amount : 0;
    }
    return true;
}
