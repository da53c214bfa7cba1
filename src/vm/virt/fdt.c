/* SPDX-License-Identifier: MIT
 *
 * The device tree (Devicetree Specification 0.4; Linux's bindings riscv/cpus.yaml and
 * riscv/extensions.yaml), written front to back with libfdt.
 */
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "isa/riscv64/hart.h"
#include "vm/machine.h"
#include "vm/virt/virt.h"

enum { FDT_CAPACITY = 256 * 1024, RNG_SEED_SIZE = 64, CACHE_BLOCK = 64 };

/* One failed call (out of space) makes all later ones no-ops; the end looks at it. */
struct writer {
    void *fdt;
    int result;
};

#define TRY(writer, call)                                                                          \
    do {                                                                                           \
        if ((writer)->result == 0)                                                                 \
            (writer)->result = (call);                                                             \
    } while (0)

static void begin(struct writer *w, const char *name)
{
    TRY(w, fdt_begin_node(w->fdt, name));
}

static void finish(struct writer *w)
{
    TRY(w, fdt_end_node(w->fdt));
}

static void text(struct writer *w, const char *name, const char *value)
{
    TRY(w, fdt_put_string(w->fdt, name, value));
}

static void number(struct writer *w, const char *name, uint32_t value)
{
    TRY(w, fdt_property_u32(w->fdt, name, value));
}

static void wide(struct writer *w, const char *name, uint64_t value)
{
    TRY(w, fdt_property_u64(w->fdt, name, value));
}

static void flag(struct writer *w, const char *name)
{
    TRY(w, fdt_property(w->fdt, name, NULL, 0));
}

/* A kernel starts those harts only that are wished for, and can switch on the others later
 * (Linux, admin-guide/kernel-parameters, maxcpus=). In front, as Linux looks at so many bytes only, and
 * as what a user says behind it counts. */
static void write_bootargs(struct writer *w, const struct vm *vm)
{
    const char *append = vm->config.append != NULL ? vm->config.append : "";
    char front[32] = "", *words = NULL;
    if (vm->config.kernel != NULL && vm->config.cpus < vm->cpu_count)
        snprintf(front, sizeof(front), "maxcpus=%u%s", vm->config.cpus,
                 append[0] != '\0' ? " " : "");
    if (asprintf(&words, "%s%s", front, append) < 0)
        abort();
    if (front[0] != '\0' || vm->config.append != NULL)
        text(w, "bootargs", words);
    free(words);
}

static void write_chosen(struct writer *w, struct vm *vm)
{
    uint8_t seed[RNG_SEED_SIZE];
    char path[64];
    begin(w, "chosen");
    write_bootargs(w, vm);
    if (vm->files.boot.initrd_size != 0) {
        wide(w, "linux,initrd-start", vm->files.boot.initrd_gpa);
        wide(w, "linux,initrd-end", vm->files.boot.initrd_gpa + vm->files.boot.initrd_size);
    }
    snprintf(path, sizeof(path), "/soc/serial@%llx", (unsigned long long)VIRT_UART_GPA);
    text(w, "stdout-path", path);
    vm->entropy->fill(vm->entropy, seed, sizeof(seed));
    TRY(w, fdt_property(w->fdt, "rng-seed", seed, sizeof(seed)));
    finish(w);
}

static void write_extensions(struct writer *w, bool aia)
{
    char list[RV_ISA_STRING_MAX], *at = list;
    const char *name;
    rv_isa_string(aia, list, sizeof(list)); /* names with one byte between them fit as well */
    text(w, "riscv,isa", list);
    for (size_t i = 0; (name = rv_isa_extension(aia, i)) != NULL; i++)
        at = stpcpy(at, name) + 1;
    TRY(w, fdt_property(w->fdt, "riscv,isa-extensions", list, (int)(at - list)));
}

static void write_cpu(struct writer *w, unsigned index, bool aia)
{
    char name[16];
    snprintf(name, sizeof(name), "cpu@%x", index);
    begin(w, name);
    text(w, "device_type", "cpu");
    number(w, "reg", index);
    text(w, "status", "okay");
    text(w, "compatible", "riscv");
    text(w, "riscv,isa-base", "rv64i");
    write_extensions(w, aia);
    text(w, "mmu-type", "riscv,sv57");
    number(w, "riscv,cbom-block-size", CACHE_BLOCK);
    number(w, "riscv,cboz-block-size", CACHE_BLOCK);
    number(w, "riscv,cbop-block-size", CACHE_BLOCK);
    number(w, "phandle", VIRT_PHANDLE_HART(index));
    begin(w, "interrupt-controller");
    number(w, "#interrupt-cells", 1);
    flag(w, "interrupt-controller");
    text(w, "compatible", "riscv,cpu-intc");
    number(w, "phandle", FDT_PHANDLE_CPU_INTC + index);
    finish(w);
    finish(w);
}

static void write_cpus(struct writer *w, const struct vm *vm)
{
    begin(w, "cpus");
    number(w, "#address-cells", 1);
    number(w, "#size-cells", 0);
    number(w, "timebase-frequency", VIRT_TIMEBASE_HZ);
    for (unsigned i = 0; i < vm->cpu_count; i++)
        write_cpu(w, i, vm->vcpus[i]->messages != NULL);
    begin(w, "cpu-map");
    begin(w, "cluster0");
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        char name[16];
        snprintf(name, sizeof(name), "core%u", i);
        begin(w, name);
        number(w, "cpu", VIRT_PHANDLE_HART(i));
        finish(w);
    }
    finish(w);
    finish(w);
    finish(w);
}

static void write_memory(struct writer *w, const struct vm *vm)
{
    char name[32];
    const fdt64_t range[] = {cpu_to_fdt64(vm->ram->gpa), cpu_to_fdt64(vm->ram->size)};
    snprintf(name, sizeof(name), "memory@%llx", (unsigned long long)vm->ram->gpa);
    begin(w, name);
    text(w, "device_type", "memory");
    TRY(w, fdt_property(w->fdt, "reg", range, sizeof(range)));
    finish(w);
}

static void write_aliases(struct writer *w)
{
    char path[64];
    begin(w, "aliases");
    snprintf(path, sizeof(path), "/soc/serial@%llx", (unsigned long long)VIRT_UART_GPA);
    text(w, "serial0", path);
    finish(w);
}

static void write_devices(struct writer *w, struct vm *vm, bool root)
{
    if (w->result == 0 && !vm_board_fdt(vm, w->fdt, root))
        w->result = -FDT_ERR_NOSPACE;
}

static void write_soc(struct writer *w, struct vm *vm)
{
    begin(w, "soc");
    number(w, "#address-cells", 2);
    number(w, "#size-cells", 2);
    text(w, "compatible", "simple-bus");
    flag(w, "ranges");
    write_devices(w, vm, false);
    finish(w);
}

void *virt_fdt_new(struct vm *vm, size_t *size, struct error **err)
{
    struct writer writer = {.fdt = alloc_zeroed(1, FDT_CAPACITY)}, *w = &writer;
    TRY(w, fdt_create(w->fdt, FDT_CAPACITY));
    TRY(w, fdt_finish_reservemap(w->fdt));
    begin(w, "");
    number(w, "#address-cells", 2);
    number(w, "#size-cells", 2);
    text(w, "compatible", "riscv-virtio");
    text(w, "model", "trapeze,virt");
    write_chosen(w, vm);
    write_aliases(w);
    write_memory(w, vm);
    write_cpus(w, vm);
    /* How a guest learns that it is in a virtual machine (systemd-detect-virt reads it). */
    begin(w, "hypervisor");
    text(w, "compatible", "trapeze,hypervisor");
    finish(w);
    write_soc(w, vm);
    write_devices(w, vm, true);
    finish(w);
    TRY(w, fdt_finish(w->fdt));
    if (w->result != 0) {
        error_set(err, ERROR_INTERNAL, "cannot write the device tree: %s", fdt_strerror(w->result));
        free(w->fdt);
        return NULL;
    }
    *size = fdt_totalsize(w->fdt);
    return w->fdt;
}
