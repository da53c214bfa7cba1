/* SPDX-License-Identifier: MIT
 *
 * One virtual machine: board + vCPUs + memory + devices, and its run-state machine.
 *
 *        ┌─────────► paused ◄──┐
 *     created ─► running ──────┘
 *                  │  ▲ guest reset (in place)
 *                  ├──┘
 *                  ├─► stopped  (guest powered off, or vm_quit)
 *                  └─► failed   (guest crashed, firmware reported failure)
 *
 * Threads: every function is called on the thread that runs `env.loop` (the worker's main
 * thread) unless it says otherwise. vCPU threads report by posting to the loop; on_end is
 * called there. Several VMs may live in one process, each with a loop of its own.
 */
#ifndef TRAPEZE_VM_VM_H
#define TRAPEZE_VM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct balloon_status;
struct block;
struct block_chain;
struct block_image;
struct char_backend;
struct error;
struct log;
struct loop;
struct machine_config;
struct machine_disk;
struct machine_nic;
struct mem_space;
struct state_buffer;
struct vm;
struct vm_files;

enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED, VM_STOPPED, VM_FAILED };

enum vm_end {
    VM_END_POWEROFF,   /* the guest switched itself off; code 0 */
    VM_END_RESET,      /* the guest asked for a reset and no_reboot is set; code 0 */
    VM_END_QUIT,       /* vm_quit() */
    VM_END_SUSPENDED,  /* vm_quit_suspended(): its saved state is what goes on */
    VM_END_MIGRATED,   /* vm_quit_migrated(): it goes on elsewhere */
    VM_END_EXIT_CODE,  /* a bare-metal program ended the run with `code` (test device, HTIF) */
    VM_END_GUEST_CRASH /* failure reason through SRST, wedged at its trap vector */
};

struct vm_env {
    struct loop *loop;
    struct log *log;
    struct char_backend *console;        /* UART; borrowed; NULL: output goes nowhere */
    struct char_backend *virtio_console; /* hvc0; NULL: no virtio-console device */
    struct vm_files *files; /* taken over; NULL: vm_new() opens what the config names */
    const int *nics; /* a frame socket (net/link.h) for each NIC of the config; taken over */
    struct block_chain *disks; /* the files of each disk of the config; taken over */
    int vsock_listen, vsock_connector; /* dev/vsock.h; taken over if the config has a vsock */
    void (*on_end)(void *opaque, enum vm_end end, uint32_t code); /* on the loop's thread */
    void (*on_state)(void *opaque, enum vm_state state);          /* may be NULL */
    /* The guest has set its clock: so many ns ahead of the host's; on the loop's thread, may be
     * NULL. Not of a deterministic machine. */
    void (*on_clock)(void *opaque, int64_t offset);
    /* The guest says that it has booted: when, by CLOCK_MONOTONIC, and what CPU time this process had
     * taken by then. On the loop's thread, may be NULL. */
    void (*on_booted)(void *opaque, int64_t at_ns, int64_t cpu_ns);
    /* Where firmware keeps its variables (bus/backend.h); any thread; members may be NULL. */
    bool (*load_variables)(void *opaque, uint8_t *to, uint64_t size);
    void (*save_variables)(void *opaque, uint64_t offset, const uint8_t *from, uint64_t length);
    int64_t clock_offset; /* what it was set to in an earlier life; 0: the host's time */
    /* Of the machine that this process is a copy of (vm/fork.h): its memory becomes ours. NULL: we have
     * our own. */
    struct mem_space *memory;
    int pagemap;   /* mem_set_pagemap(); taken over; 0: none */
    bool restored; /* a state is restored before it starts: no kernel has to be there */
    void *opaque;
};

/* Allocates memory, builds the board, loads the guest. Errors are sentences
 * for the user. The config is not needed afterwards. */
struct vm *vm_new(const struct machine_config *config, const struct vm_env *env,
                  struct error **err);
void vm_free(struct vm *vm); /* stops it first; NULL is fine */

bool vm_start(struct vm *vm, struct error **err);
/* Returns when no vCPU runs and no I/O is in flight. A poweroff or reset that the guest has
 * asked for is carried out first; a machine that ended by it cannot be paused. */
bool vm_pause(struct vm *vm, struct error **err);
/* From created to paused, before the first instruction: for a state that is restored next and must not
 * do anything yet, its devices included. */
bool vm_start_paused(struct vm *vm, struct error **err);
bool vm_resume(struct vm *vm, struct error **err);
bool vm_reset(struct vm *vm, struct error **err);
/* Presses the power button. Fails if nothing in the guest listens; what a guest that does makes
 * of it is its own affair, and takes it a while. */
bool vm_powerdown(struct vm *vm, struct error **err);
/* Presses Ctrl-Alt-Del; of a machine without a keyboard the power button. */
bool vm_ctrl_alt_del(struct vm *vm, struct error **err);
void vm_quit(struct vm *vm);
void vm_quit_suspended(struct vm *vm);
void vm_quit_migrated(struct vm *vm);
/* From any thread: no vCPU runs guest code much longer, for good. Who calls it ends the VM soon. */
void vm_halt(struct vm *vm);
void vm_halt_now(struct vm *vm); /* the loop's thread: none does when it returns */

/* With how many harts the guest starts, from its next reset on; what runs is its own affair. False:
 * the machine has not so many. */
bool vm_set_cpus(struct vm *vm, unsigned cpus, struct error **err);

/* What the guest keeps of its memory: sets it to `*size` bytes unless that is NULL, and tells how
 * things stand. Fails if the machine has no balloon. */
bool vm_balloon(struct vm *vm, const uint64_t *size, struct balloon_status *status,
                struct error **err);

/* Serves GDB's remote protocol at a listening stream socket, which is taken over. Once, after
 * vm_new(). `wait`: a machine that is not yet started will stand still until a debugger lets it
 * go. Whoever can connect owns the machine. */
bool vm_debug(struct vm *vm, int listen_fd, bool wait, struct error **err);

/* A NIC's cable and its rate limit (kbit/s of each direction, 0: none). False: no such NIC. */
bool vm_set_link(struct vm *vm, size_t nic, bool up, struct error **err);
bool vm_set_rate(struct vm *vm, size_t nic, uint64_t rate, struct error **err);
/* A new NIC on the frame socket `link_fd`, captured to `capture_fd` (-1: not); both are taken over,
 * whatever comes of it. It goes into the first free slot for hot-plug, if the machine has any;
 * vm_get_nic() tells whether the guest hears of it by itself, or has to look through its PCI bus
 * again. `number`: the new NIC's, the lowest that is free. */
bool vm_nic_attach(struct vm *vm, const struct machine_nic *nic, int link_fd, int capture_fd,
                   size_t *number, struct error **err);
/* A NIC in a slot whose guest drives hot-plug leaves when that has let go of it, until when
 * vm_get_nic() tells that it is leaving; it can be asked again after a while. Any other fails
 * while a driver in the guest uses it: memory that it would reach for would be gone. `force`: one
 * in a slot is gone when this returns, as if pulled out. */
bool vm_nic_detach(struct vm *vm, size_t nic, bool force, struct error **err);
struct vm_nic_status {
    const char *model, *mac;
    unsigned bus, slot;    /* its place on PCI; both 0: the guest gave it none yet */
    unsigned hotplug_slot; /* counted from 1; 0: none, it is on the root bus */
    bool heeded;           /* the guest's driver for hot-plug serves that slot */
    bool leaving;
    bool up;
    uint64_t sent_frames, sent_bytes, received_frames, received_bytes;
};
size_t vm_nic_count(const struct vm *vm); /* numbers are below this */
/* False: the NIC of this number was detached. */
bool vm_get_nic(struct vm *vm, size_t nic, struct vm_nic_status *status);

/* How much of the host's CPUs the machine may use; 0: no limit, nothing given. */
struct vm_cpu_limits {
    unsigned weight; /* its part of a CPU that several machines want (vm/share.h); 100 is usual */
    unsigned cap;    /* percent of one CPU, of all threads of this process */
};
struct vm_cpu_usage {
    uint64_t used_ns;   /* CPU time of this process */
    uint64_t held_ns;   /* the vCPUs stood still because of the limits */
    uint64_t waited_ns; /* vCPUs would have run, and the host had no CPU for them; of all of them */
};
void vm_get_cpu_limits(const struct vm *vm, struct vm_cpu_limits *limits,
                       struct vm_cpu_usage *usage);
bool vm_set_cpu_limits(struct vm *vm, const struct vm_cpu_limits *limits, struct error **err);
/* Machines that have the same file open share CPUs by weight. fd is taken over. Once, after
 * vm_new(). */
bool vm_share_cpus(struct vm *vm, int fd, struct error **err);

/* The machine is about to go on where another one was, and somebody waits for what it does first. Before
 * vCPUs run. */
void vm_warm(struct vm *vm);

/* The vCPUs stand still for so many percent of the time; 0: no longer. Of a deterministic machine
 * nothing changes. */
#define VM_THROTTLE_MAX 98
void vm_throttle(struct vm *vm, unsigned percent);
/* Each disk takes so many bytes a second at most, whatever its own limit is; 0: no longer. */
void vm_throttle_disks(struct vm *vm, uint64_t bytes);

/* What a disk may be asked for in a second; 0: no limit. False: no such disk. */
struct vm_disk_limits {
    uint64_t iops, bps;
};
bool vm_get_disk_limits(const struct vm *vm, size_t disk, struct vm_disk_limits *limits,
                        struct error **err);
bool vm_set_disk_limits(struct vm *vm, size_t disk, const struct vm_disk_limits *limits,
                        struct error **err);

/* Puts a new, empty image on top of each of these disks, all or none, while the machine is paused or
 * stands still (vm/fork.h): what a disk has been until now is not written to any more. files:
 * block_chain_open_top(); taken over, whatever comes of it. */
struct vm_overlay {
    size_t disk;
    const char *path; /* of the new image, which is qcow2 */
    struct block_chain *files;
    struct block_image *top; /* NULL, or what vm_disks_prepare_overlays() has opened */
};
bool vm_disks_overlay(struct vm *vm, struct vm_overlay *overlays, size_t count, struct error **err);
/* What of it can be done while the machine still runs, so that it stands still for less long; then
 * either vm_disks_overlay() or vm_overlays_drop(). */
bool vm_disks_prepare_overlays(struct vm *vm, struct vm_overlay *overlays, size_t count,
                               struct error **err);
void vm_overlays_drop(struct vm_overlay *overlays, size_t count); /* fine if there is nothing */

/* Disks that come and go, by their number (config/machine.h's order; a detached one's is free).
 * A new disk whose bus is "auto" goes to the SCSI adapter; its files are taken over, whatever
 * comes of it. *rescan: the guest does not see it before it looks through its PCI bus again. */
bool vm_disk_attach(struct vm *vm, const struct machine_disk *disk, struct block_chain *files,
                    size_t *index, bool *rescan, struct error **err);
/* Returns at once: until the guest has let go of it, vm_get_disk() tells that it is leaving.
 * `force`: it is gone when this returns. */
bool vm_disk_detach(struct vm *vm, size_t index, bool force, struct error **err);
/* Discs of optical drives. Without `force` they fail while the guest keeps the tray locked. */
bool vm_disk_eject(struct vm *vm, size_t index, bool force, struct error **err);
bool vm_disk_insert(struct vm *vm, size_t index, const char *path, struct block_chain *files,
                    bool force, struct error **err);
struct vm_disk_status {
    const char *path; /* "": an empty drive */
    const char *bus;
    bool optical, read_only, leaving;
    uint64_t size; /* bytes */
    uint64_t reads, writes, read_bytes, written_bytes; /* asked for by the guest */
};
size_t vm_disk_count(const struct vm *vm);
bool vm_get_disk(const struct vm *vm, size_t index, struct vm_disk_status *status); /* false: none */

enum vm_state vm_state(const struct vm *vm);
const char *vm_state_name(enum vm_state state);

/* Host threads can be taken away and brought back while paused (cloning by fork): after
 * vm_threads_stop() the caller's thread is the only one that belongs to the VM. */
void vm_threads_stop(struct vm *vm);
bool vm_threads_start(struct vm *vm, struct error **err);

struct vm_status {
    enum vm_state state;
    unsigned cpus;    /* that it has */
    unsigned started; /* of them, those that its guest has switched on (by the SBI, or its
                       * local APIC); 0: only it knows */
    uint64_t memory;  /* bytes */
    uint64_t retired; /* instructions, all vCPUs: they stand still for a moment to be asked */
    int64_t virtual_time_ns;
    const char *engine;
};
void vm_get_status(struct vm *vm, struct vm_status *status);

/* Calls each() for every counter of every vCPU, while all of them stand still. */
typedef void vm_count_fn(void *opaque, unsigned vcpu, const char *name, uint64_t value);
void vm_get_counters(struct vm *vm, vm_count_fn *each, void *opaque);

/* A profile of guest code: `hz` times a second every vCPU that runs notes where it is, at the
 * next point where it looks up (a block of instructions later at most). Starting again starts
 * from nothing. */
#define VM_PROFILE_HZ_MAX 10000
bool vm_profile_start(struct vm *vm, unsigned hz, struct error **err);
void vm_profile_stop(struct vm *vm); /* none was started: fine */
struct vm_profile {
    uint64_t samples; /* that reached a vCPU */
    uint64_t idle;    /* that found one waiting, stopped or in the VMM */
    uint64_t lost;    /* of samples: not in the list, which was full */
};
typedef void vm_profile_fn(void *opaque, uint64_t pc, const char *mode, uint64_t count);
/* In no order. False: none has been started. */
bool vm_profile_report(struct vm *vm, struct vm_profile *profile, vm_profile_fn *each,
                       void *opaque, struct error **err);

/* Whole-machine state without RAM, from the declared tables; only while paused/created. Restoring
 * goes into a machine of the same layout whose RAM is that of then (or comes late: mem/mem.h). */
void vm_save_state(struct vm *vm, struct state_buffer *out);
/* Before vm_restore_state(): so much real time has passed since, by which the guest's wall clock is put
 * forward. */
void vm_let_time_pass(struct vm *vm, int64_t elapsed_ns);
bool vm_restore_state(struct vm *vm, const uint8_t *data, size_t size, struct error **err);
/* The same for one that is restored, and does not run yet. */
void vm_forward_wall(struct vm *vm, int64_t elapsed_ns);

/* After vm_restore_state(): it is another machine from now on, or one that was restored and may be more
 * than once. The guest hears of it (dev/vmgenid.c). */
void vm_renew_generation(struct vm *vm);

/* layout.c: what of the machine its guest can see, one thing to a line; the caller frees it. */
char *vm_layout(const struct vm *vm);
/* The same for a machine that goes on without its guest's noticing, and with it what the host gives to it
 * that has to be the very same: shared folders. */
char *vm_layout_and_folders(const struct vm *vm);
/* fits.c: whether a machine with that layout, made anew of the same parts, can become the one that a state
 * was saved of with the layout `saved`: its disks and NICs are those, in the order in which they came
 * there. Instructions that it did not know of do no harm. Any thread. */
bool vm_fits_layout(const char *layout, const char *saved, struct error **err);
/* arrange.c: makes it that one, before it starts: parts get the numbers and places that they had there.
 * Always before vm_restore_state(). `clone`: it has an identity of its own, NICs may have other addresses.
 * False: err; it is of no use if vm_fits_layout() said that it would be. */
bool vm_arrange(struct vm *vm, const char *saved, bool clone, struct error **err);
/* The numbers of the disks, in the order in which they came: that is the order in which a description has
 * them of which the machine is made anew. Room for MACHINE_MAX_DISKS; returns their count. */
size_t vm_disk_order(const struct vm *vm, size_t *numbers);
/* The same of vm_config(), for a description; to be cleared. */
void vm_describe(const struct vm *vm, struct machine_config *config);
/* Whether it stands as it could be saved: not while the guest lets go of a disk. */
bool vm_can_be_saved(const struct vm *vm, struct error **err);
/* Whether it may run while memory is still to come from another host (mem_ready()): devices whose DMA goes
 * through virtqueues alone leave the loop's thread waiting for nothing. */
bool vm_can_run_without_memory(const struct vm *vm, struct error **err);
/* All of it has come: what had to wait for that (a reset by the guest) is done now. */
void vm_memory_came(struct vm *vm);
const struct machine_config *vm_config(const struct vm *vm); /* as it is by now */
/* What `interrupts` of the description came to; "auto" where there is nothing to choose. */
const char *vm_interrupts(const struct vm *vm);
struct mem_space *vm_memory(struct vm *vm);
struct loop *vm_loop(struct vm *vm);
struct block *vm_disk(struct vm *vm, size_t index); /* NULL: none, or an empty drive */
/* While paused. */
struct block_image *vm_disk_image(struct vm *vm, size_t index); /* NULL: none */
bool vm_disks_flush(struct vm *vm, struct error **err);
/* Nothing is in the disk's file that is not ours: another process that had it has let go of it. What an
 * image keeps in memory of its file is read anew. */
bool vm_disk_reopen(struct vm *vm, size_t index, struct error **err);
/* After vm_disks_flush(): the files are another process' from now on. Nothing is written to them any
 * more, not even when they are closed. */
void vm_disks_give_away(struct vm *vm);

#endif
