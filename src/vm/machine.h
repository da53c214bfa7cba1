/* SPDX-License-Identifier: MIT
 *
 * The inside of a struct vm, for the files of vm/ only.
 *
 * Locks: vm->lock guards what decides whether vCPU threads may run (`holds`, `parked`,
 * `quit_threads`) and is never held while guest code runs; a leaf.
 */
#ifndef TRAPEZE_VM_MACHINE_H
#define TRAPEZE_VM_MACHINE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "base/state.h"
#include "bus/backend.h"
#include "bus/device.h"
#include "config/machine.h"
#include "isa/vcpu.h"
#include "mem/mem.h"
#include "vm/files.h"
#include "vm/vm.h"

#define VM_MAX_DEVICES 32

/* SBI hart states (SBI 2.0, 9.1); with firmware every hart counts as started. */
enum cpu_state {
    CPU_STARTED = 0,
    CPU_STOPPED = 1,
    CPU_START_PENDING = 2,
    CPU_SUSPENDED = 4,
    CPU_CLAIMED = 100 /* a starter is writing where to start; to the guest: START_PENDING */
};

#define VM_FENCE_PAGES 64 /* more at once, or waiting in a list: all addresses, as Linux does */
#define VM_FENCES      16

/* An sfence.vma that another hart asks for. */
struct vm_fence {
    uint64_t start, pages; /* more than VM_FENCE_PAGES: all addresses */
    bool one_space;        /* only the spaces with this ASID, and not what is global */
    uint64_t asid;
};

/* Those that a hart has to carry out before it enters the guest (fence.c). */
struct vm_fences {
    pthread_mutex_t lock; /* a leaf; of what follows up to the atomics */
    struct vm_fence list[VM_FENCES];
    unsigned count;
    uint64_t pages;          /* how many flushes that is */
    bool everything;         /* it became too much: all addresses of all spaces instead */
    _Atomic uint64_t posted; /* requests so far; written with the lock held, as is the next */
    _Atomic uint64_t done;   /* of them, carried out */
    _Atomic bool running;    /* the hart's thread is between enter and leave */
};

/* One vCPU and the host thread that runs it. */
struct vm_cpu {
    struct vm *vm;
    struct vcpu *vcpu;
    pthread_t thread;
    bool has_thread;

    sem_t wake;             /* 1 at most: posted with `signalled` */
    _Atomic bool signalled; /* somebody wants the thread to look up */
    unsigned spin_failures, spin_skip; /* of looking for that before it sleeps; owner thread */
    /* When the thread had nothing to run (CLOCK_MONOTONIC): so long before `away_since`, which is 0
     * while it has. Who reads the two may be wrong by a moment that passes just then. */
    _Atomic int64_t away_ns, away_since;
    int64_t begun_ns;        /* the thread, CLOCK_MONOTONIC */

    _Atomic int state; /* enum cpu_state */
    /* Where START_PENDING starts, or a non-retentive suspend resumes. */
    uint64_t start_pc, start_opaque;
    bool resume_at_start;
    bool waiting;            /* for an interrupt: wfi, suspended */
    uint64_t retired_before; /* instructions before the vCPU was last reset */
    uint64_t exits[VCPU_EXITS]; /* how often run() returned; owner thread */
    struct vm_fences fences;
    bool held_back;          /* by the debugger, though no hold is on the VM; set while held */
};

#define VM_SLICE 1000 /* instructions of one turn */

/* Where deterministic mode stands in its round of turns: a hold may come in the middle, and
 * what follows must not depend on when. */
struct vm_round {
    uint32_t cpu;  /* whose turn it is */
    uint64_t left; /* instructions left of it */
    bool ran;      /* somebody did something in this round */
};

struct drive_bus;

/* A disk or optical drive on an adapter; NULL: it is a device of its own. */
struct vm_drive {
    struct device *adapter;
    const struct drive_bus *bus;
};

/* The numbers of disks or NICs, in the order in which they came. */
struct vm_order {
    uint8_t numbers[MACHINE_MAX_DISKS];
    size_t count;
};

/* A disk that the guest was told to let go of; times of the VM's clock. */
struct vm_leaving {
    bool active;
    uint64_t first, last; /* commands it had had then, and when we last looked */
    int64_t begun, since; /* then, and since when there was no other command */
};

/* A PCIe root port and what was put into its slot. */
struct vm_slot {
    struct device *port;
    struct device *device; /* NULL: nothing */
    int64_t asked;         /* when the guest was last asked to let go of it; the VM's clock */
};

struct vm {
    struct vm_files files;
    struct vm_env env; /* deterministic mode: the consoles are the gates' insides */
    struct log *log;
    struct machine_config config; /* own copies of what is needed after vm_new() */
    enum vm_state state;

    struct vclock *clock;
    _Atomic bool clock_posted; /* tell_clock() waits on the loop */
    _Atomic bool boot_posted; /* tell_boot() waits there */
    _Atomic int64_t booted_ns, booted_cpu_ns;
    struct vcpu_timebase timebase;
    struct mem_space *mem;
    struct mem_ram *ram;     /* the first region */
    struct mem_space *ports; /* I/O ports; NULL: the architecture has none */
    struct mem_listener listener;
    struct entropy *entropy;

    const struct board *board;
    const struct isa *isa;
    const struct engine *engine; /* of all vCPUs */
    struct engine_machine *machine; /* what the engine has for all of them; or NULL */
    struct engine_options engine_options;
    struct vm_cpu cpus[MACHINE_MAX_CPUS];
    struct vcpu *vcpus[MACHINE_MAX_CPUS];
    unsigned cpu_count;

    struct device_env device_env;
    struct device *devices[VM_MAX_DEVICES];
    unsigned pci_slots_of[VM_MAX_DEVICES]; /* as bus/pci.h counts; 0: not on PCI */
    size_t device_count;
    struct block *disks[MACHINE_MAX_DISKS]; /* NULL: none, or an empty drive */
    size_t disks_given;                     /* of env.disks */
    struct vm_drive drives[MACHINE_MAX_DISKS];
    struct vm_order disk_order, nic_order;
    bool plugged; /* a disk or NIC has come or gone since vm_new() */
    struct vm_leaving leaving[MACHINE_MAX_DISKS];
    struct vtimer *leaving_timer; /* NULL: none has been needed */
    struct vm_nic {
        struct net_port *port; /* NULL: there is no such NIC */
        struct device *device;
        unsigned slot; /* on the PCI bus, as bus/pci.h counts */
    } nics[MACHINE_MAX_NICS];
    struct vm_folder {
        uint64_t file_system, inode;
    } folders[MACHINE_MAX_SHARES]; /* that are shared */
    struct vm_slot slots[MACHINE_MAX_PCI_SLOTS]; /* config.pci_slots of them */
    _Atomic bool slots_settling; /* a hold is on the VM until slots_settle() has run */
    bool aia; /* interrupts come through APLIC and IMSIC, not through the PLIC */
    bool moved;  /* its state came from elsewhere, and it has not run since */
    bool loaded; /* RAM holds a guest: a start has been made, or a state restored */
    struct vm_round round;
    struct state_buffer forked_state; /* of vm_save_state(), in a copy that cannot ask its engine */
    int64_t elapsed_ns;   /* vm_let_time_pass() */
    struct power_button button;
    struct keyboard keyboard; /* press is NULL: there is none */
    struct generation generation;
    struct balloon balloon;  /* press is NULL: no device makes it heard */
    struct input_gate *gates[2]; /* deterministic mode: console, virtio console; or NULL */

    pthread_mutex_t lock;
    pthread_cond_t changed;   /* holds, parked or quit_threads changed */
    _Atomic unsigned holds;   /* > 0: no vCPU may run */
    unsigned threads, parked; /* host threads that exist, and that stand still */
    bool quit_threads;

    unsigned clock_stops; /* reasons why the clock stands still; loop's thread */
    struct throttle *throttle;   /* NULL: nobody has asked for it */
    uint64_t disk_throttle;      /* bytes per second of each disk; 0: none */
    struct cpu_limit *cpu_limit; /* NULL: nothing is limited, nobody shares */
    struct gdb *gdb;      /* NULL: no debugger can come */
    struct profile *profile; /* NULL: none is taken; changes while held */

    _Atomic int power_request; /* enum vm_power */
    _Atomic uint32_t power_code;
    bool power_restored; /* the request came with a saved state: it waits for a start or resume */
};

/* What the guest asked for; the first request wins until it is carried out. */
enum vm_power { VM_POWER_NONE, VM_POWER_OFF, VM_POWER_RESET, VM_POWER_FAILURE, VM_POWER_WEDGED };

/* run_state.c: any thread; the vCPUs stop, the loop's thread carries it out. */
void vm_power(struct vm *vm, enum vm_power request, uint32_t code);
/* Puts a saved machine's request, or none, in the place of ours; the VM does not run. False: there
 * is no such request. */
bool vm_power_restore(struct vm *vm, uint32_t request, uint32_t code);
/* Forgets a request that is not yet carried out; the VM is about to be freed. */
void vm_power_cancel(struct vm *vm);
bool vm_refuse_late(struct error **err); /* "its memory is still on its way"; returns false */

/* run_state.c: no vCPU runs between the two; loop's thread. They nest. */
void vm_hold(struct vm *vm);
void vm_release(struct vm *vm);
/* The two halves of vm_hold(): any thread, also a vCPU's; then the loop's. */
void vm_hold_begin(struct vm *vm);
void vm_hold_wait(struct vm *vm);

/* run_state.c: a hold during which the guest's time stands still too; loop's thread. They nest. */
void vm_freeze(struct vm *vm);
void vm_thaw(struct vm *vm);

/* vcpu_thread.c */
bool vm_cpus_new(struct vm *vm, struct error **err);
void vm_cpus_free(struct vm *vm);
void vm_cpu_wake(struct vcpu *vcpu);
void vm_cpu_threads_stop(struct vm *vm);
bool vm_cpu_threads_start(struct vm *vm, struct error **err);
/* Architectural reset; the count of instructions goes on. */
void vm_cpu_reset(struct vm_cpu *cpu);

/* What the host's CPUs gave the vCPUs' threads and did not: ns. */
struct vm_cpu_time {
    uint64_t used;   /* CPU time of the thread */
    uint64_t waited; /* it would have run and did not */
};
/* False: it has no thread. */
bool vm_cpu_time(const struct vm_cpu *cpu, struct vm_cpu_time *time);

/* cpu_limit.c */
void vm_cpu_limit_free(struct vm *vm);
/* throttle.c */
void vm_throttle_free(struct vm *vm);

/* fence.c: the owner thread, around each engine->run(). */
void vm_fence_enter(struct vm_cpu *cpu);
void vm_fence_leave(struct vm_cpu *cpu);
/* Returns when no hart of the mask can use any more what the fence is about. For a vCPU's thread
 * outside of run() that holds no lock. */
void vm_fence(struct vm *vm, uint64_t harts, const struct vm_fence *fence);

/* engine.c */
/* Gives every vCPU the engine that the configuration names; "auto" is the first that works on
 * this host. */
bool vm_engine_attach(struct vm *vm, struct error **err);

/* observe.c */
extern const char *const vm_exit_names[VCPU_EXITS];

/* profile.c: vcpu.sampled */
void vm_profile_sampled(struct vcpu *vcpu);

/* board.c */
struct device *vm_board_add(struct vm *vm, const struct device_ops *ops,
                            const struct device_params *params, struct error **err);
/* How many queues (pairs) a device gets whose configuration wishes for so many (0: for none). */
unsigned vm_board_queues(const struct vm *vm, unsigned wish);
bool vm_board_new(struct vm *vm, struct error **err);
/* Frees a device; no vCPU runs. */
void vm_board_remove(struct vm *vm, struct device *device);
void vm_board_free(struct vm *vm);
void vm_board_reset(struct vm *vm);
/* The devices' nodes inside /soc, or those at the root. */
bool vm_board_fdt(struct vm *vm, void *fdt, bool root);
void vm_board_quiesce(struct vm *vm);
void vm_board_unquiesce(struct vm *vm);

/* disk.c: config.disks[index] from file to device; loop's thread, no vCPU running. */
struct block_chain_options vm_disk_chain_options(struct vm *vm, const struct machine_disk *config,
                                                 const char *format);
/* Takes the chain's descriptors over, whatever comes of it. */
struct block *vm_disk_open(struct vm *vm, const struct machine_disk *config,
                           struct block_chain *chain, struct error **err);
bool vm_disk_make(struct vm *vm, size_t index, struct block_chain *chain,
                  struct error **err); /* vm->disks[index] */
/* ... and its device, whose place is the next that is free, or `where`. */
struct drive_where;
bool vm_disk_plug(struct vm *vm, size_t index, const struct drive_where *where, struct error **err);
/* The same of one that is a device of its own. */
bool vm_disk_plug_own(struct vm *vm, size_t index, unsigned pci_slot, struct error **err);
/* The device goes, the disk stays. No vCPU runs. */
void vm_disk_unplug(struct vm *vm, size_t index);
/* The machine's adapter for drives on that bus, NULL if it has none; a new one (pci_slot 0: anywhere). */
struct device *vm_adapter(struct vm *vm, enum machine_disk_bus bus);
struct device *vm_adapter_new(struct vm *vm, enum machine_disk_bus bus, unsigned pci_slot,
                              struct error **err);
/* Which bus the adapter with that id is for; AUTO: it is none. */
enum machine_disk_bus vm_adapter_bus(const char *id);
bool vm_disk_new(struct vm *vm, size_t index, struct error **err);
void vm_disks_free(struct vm *vm);
/* What a failed request stopped is tried again, or given up. */
void vm_disks_retry(struct vm *vm);
void vm_disks_cancel(struct vm *vm);
/* hotplug.c: before the board is freed. */
void vm_hotplug_free(struct vm *vm);
/* nics.c: the machine's NICs; free closes the frame sockets of those that never came to be too. */
bool vm_nics_new(struct vm *vm, struct error **err);
void vm_nics_free(struct vm *vm);
/* The device of a NIC whose port is there, and what it is put into; away with it. No vCPU runs. */
bool vm_nic_plug(struct vm *vm, size_t nic, unsigned pci_slot, struct error **err);
void vm_nic_unplug(struct vm *vm, size_t nic);
/* The network hears where the machine is from now on, and its guest that it may say so. */
void vm_nics_announce(struct vm *vm);
/* The NIC leaves the machine, with its device; no vCPU runs. */
void vm_nic_remove(struct vm *vm, const struct device *device);

/* arrange.c */
void vm_order_add(struct vm_order *order, size_t number);
void vm_order_remove(struct vm_order *order, size_t number);

/* slots.c: PCIe hot-plug; loop's thread. */
bool vm_slots_new(struct vm *vm, struct error **err);
void vm_slots_free(struct vm *vm); /* before the board */
/* What left or lost its power by a reset of the machine; the devices are reset. */
void vm_slots_reset(struct vm *vm);
/* Where a new device goes (device_params.pci_slot): into the first free slot, or on the root bus. */
unsigned vm_slots_place(const struct vm *vm);
/* The device was put where vm_slots_place() said, or is about to be freed. No vCPU runs. */
void vm_slots_filled(struct vm *vm, unsigned place, struct device *device);
struct vm_slot *vm_slot_of(struct vm *vm, const struct device *device); /* NULL: the root bus */

/* entropy.c */
struct entropy *entropy_new(bool deterministic, uint64_t seed);
void entropy_free(struct entropy *entropy);
/* What a saved machine needs to go on with the same bytes (deterministic mode). */
#define ENTROPY_STATE_WORDS 4
void entropy_save(struct entropy *entropy, uint64_t state[ENTROPY_STATE_WORDS]);
void entropy_restore(struct entropy *entropy, const uint64_t state[ENTROPY_STATE_WORDS]);

#endif
