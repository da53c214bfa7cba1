/* SPDX-License-Identifier: MIT
 *
 * The description of one virtual machine: what a user asked for, independent of how it is
 * built. It crosses from the CLI to the worker as text in the .vmx format
 * (config/vmx.h): `key = "value"` lines, VMware's own key names where they exist
 * (memsize, numvcpus, displayName, scsi0:0.fileName), `trapeze.*` otherwise.
 *
 * Ownership: the struct owns every string; machine_config_clear() frees them.
 */
#ifndef TRAPEZE_CONFIG_MACHINE_H
#define TRAPEZE_CONFIG_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

#define MACHINE_MAX_CPUS 8
#define MACHINE_MAX_DISKS 16
#define MACHINE_MIN_MEMORY (UINT64_C(32) << 20) /* bytes */
#define MACHINE_MAX_MEMORY (UINT64_C(256) << 30)
#define MACHINE_MIN_CODE_CACHE (UINT64_C(256) << 10) /* bytes */
#define MACHINE_MAX_CODE_CACHE (UINT64_C(1) << 30)  /* jumps reach 2 GiB */
#define MACHINE_MAX_APPEND 65536 /* bytes; the device tree has room for it */

struct machine_disk {
    char *path;
    bool read_only;
    char *serial; /* NULL: none */
};

enum machine_ram_backend { MACHINE_RAM_ANONYMOUS, MACHINE_RAM_MEMFD };

struct machine_config {
    char *name;         /* displayName; NULL: none */
    char *arch;         /* "riscv64" */
    char *engine;       /* "interp", "dbt", "auto": the fastest that works here */
    uint64_t code_cache; /* bytes of translations, of each vCPU, KiB multiple; 0: the default */
    char *host_features; /* what translations may use, as --host-cpu-features; NULL: everything */
    char *interrupts;   /* "plic", "aia" (APLIC and IMSIC), "auto": what the kernel can use */
    uint64_t memory;    /* bytes, MiB multiple */
    unsigned cpus;      /* 1..MACHINE_MAX_CPUS */
    char *kernel;       /* paths; NULL: none */
    char *initrd;
    char *append;
    char *firmware;     /* M-mode firmware or bare-metal ELF; NULL: the VMM is the SBI */
    struct machine_disk disks[MACHINE_MAX_DISKS];
    size_t disk_count;
    bool no_reboot;
    bool deterministic; /* virtual time from retired instructions, one thread, seeded entropy */
    uint64_t seed;      /* of entropy in deterministic mode */
    enum machine_ram_backend ram_backend;
    bool virtio_console; /* the console is hvc0 (virtio) instead of ttyS0 (UART) */
    char *dump_fdt;     /* write the device tree to this file and go on; NULL: no */
};

/* Defaults: riscv64, auto, 512 MiB, 1 CPU. */
void machine_config_init(struct machine_config *config);
void machine_config_clear(struct machine_config *config);

/* Checks what can be checked without opening a file: ranges, contradictions. */
bool machine_config_check(const struct machine_config *config, struct error **err);

#endif
