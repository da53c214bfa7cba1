/* SPDX-License-Identifier: MIT
 *
 * A board: what of a machine depends on the architecture of its guests. Everything else in vm/ is the
 * same for all: PCI devices, run states, vCPU threads, what is saved.
 *
 * Threads: the loop's, while no vCPU runs, unless it says otherwise.
 */
#ifndef TRAPEZE_VM_BOARD_H
#define TRAPEZE_VM_BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct isa;
struct vm;
struct vm_cpu;

#define BOARD_MAX_RAM 2

/* RAM in guest-physical memory: whole pages. */
struct board_ram {
    uint64_t gpa, size; /* bytes */
};

/* Members marked "or NULL" may be. */
struct board {
    const char *name; /* "virt" */
    const struct isa *isa;
    unsigned timebase_hz; /* of vm->timebase, which divides 1 GHz */
    uint64_t boot_timer_gpa;
    /* Where `memory` bytes of RAM lie; how many ranges, the one where a guest starts first. */
    unsigned (*ram)(uint64_t memory, struct board_ram ram[BOARD_MAX_RAM]);
    /* Looks at what is to be started (vm->files.boot, vm->config) and plans where it goes; memory and
     * vCPUs do not exist yet. */
    bool (*plan)(struct vm *vm, struct error **err);
    /* Interrupt controllers, platform devices and the PCIe host (vm->device_env.pci), by
     * vm_board_add(). */
    bool (*parts)(struct vm *vm, struct error **err);
    unsigned (*queues)(const struct vm *vm); /* of a device whose configuration wishes for none */
    /* The rest of a start: segments are in RAM and vCPUs reset; what the board describes itself by, and
     * registers. */
    bool (*load)(struct vm *vm, struct error **err);
    void (*restored)(struct vm *vm); /* load()'s part that is in no saved state; or NULL */
    void (*reset_cpu)(struct vm_cpu *cpu); /* after isa->vcpu_reset(); or NULL */
    /* A vCPU that another one started begins at cpu->start_pc; its own thread; or NULL. */
    void (*begin_cpu)(struct vm_cpu *cpu);
    /* Whether the guest has switched it on, as far as can be seen; while no vCPU runs, any thread. */
    bool (*cpu_is_on)(const struct vm_cpu *cpu);
    /* Serves VCPU_EXIT_ECALL; its own thread. True: the vCPU waits for an interrupt now. Or NULL. */
    bool (*call)(struct vm_cpu *cpu);
    /* The instructions that a guest may use: a base, then words with a '_' before each. */
#define BOARD_ISA_MAX 8192
    void (*describe_isa)(const struct vm *vm, char *text, size_t size);
};

extern const struct board board_virt, board_pc;

/* The board for guests of an architecture ("riscv64"); NULL: there is none. */
const struct board *board_find(const char *arch);

#endif
