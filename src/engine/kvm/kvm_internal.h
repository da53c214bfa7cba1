/* SPDX-License-Identifier: MIT
 *
 * Private to engine/kvm/.
 */
#ifndef TRAPEZE_ENGINE_KVM_KVM_INTERNAL_H
#define TRAPEZE_ENGINE_KVM_KVM_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <time.h>

#include "engine/kvm/kvm.h"
#include "isa/x86_64/cpu.h"
#include "isa/x86_64/guest_cpu.h"
#include "mem/mem.h"

#define KVM_CPUS_MAX 64
#define KVM_CHIPS 3 /* PIC master and slave, I/O APIC */

/* The interrupt controllers and the timer chip, as KVM's structs have them. */
struct kvm_chips {
    struct kvm_irqchip chip[KVM_CHIPS];
    struct kvm_pit_state2 pit;
};

struct kvm_machine {
    struct engine_machine machine; /* first */
    struct mem_space *mem;
    struct log *log;
    int kvm, vm;
    size_t run_size; /* of struct kvm_run and what is behind it */
    unsigned vcpu_count;
    struct mem_listener listener;
    struct kvm_chips chips, power_on;
    uint64_t clock_ns;  /* kvmclock, while it stands still */
    bool clock_stands;  /* ... or comes from a saved state */
    struct kvm_cpu **attached; /* vcpu_count; NULL: not yet, or not any more */

    pthread_mutex_t log_lock; /* a leaf */
    bool logging;             /* KVM notes which pages are written */
    uint64_t *log_bitmap;     /* of the largest region; NULL: with rings there is none */
    uint32_t debug_flags;     /* of a step, as KVM has them: interrupts wait */
    unsigned ring_entries;    /* of each vCPU's ring; 0: KVM has none */
    struct kvm_cpu *cpus[KVM_CPUS_MAX]; /* their rings are read with log_lock held; NULL: none yet */

    struct x86_cpu_host host;
    struct x86_cpu_choice choice; /* what of it the guest is told; it may have come with other leaves */
    uint32_t msrs[X86_MSRS_MAX]; /* that are saved, in the order of restoring */
    unsigned msr_count;          /* 0: not yet looked at */
    struct log_limit log_limit;
};

struct kvm_cpu {
    struct x86_cpu *cpu;
    struct kvm_machine *machine;
    int fd;
    struct kvm_run *run;
    struct kvm_dirty_gfn *ring; /* pages that this vCPU wrote; NULL: there is none */
    uint32_t ring_next;         /* the entry that is read next */
    bool debugged;   /* KVM was told of a debugger */
    uint64_t tsc; /* the time stamp counter, while the machine's clock stands still */
    bool incomplete; /* the instruction that left the guest goes on when it is entered again */
    /* Sends the owner thread a signal, which ends KVM_RUN: unlike tgkill(), a timer can reach nobody
     * outside of its process. */
    timer_t timer;
    bool has_timer;
    pthread_t thread; /* that the timer is for */
    uint64_t exits, io_exits, mmio_exits, ring_exits;
};

static inline struct kvm_machine *kvm_machine_of(struct engine_machine *machine)
{
    return (struct kvm_machine *)(void *)machine;
}

/* ioctl() that is not given up for a signal. */
int kvm_ioctl(int fd, unsigned long request, void *argument);

struct engine_machine *kvm_machine_new(const struct engine_setup *setup, struct error **err);

/* machine.c: all RAM is given to KVM, with these flags. */
bool kvm_set_slots(struct kvm_machine *machine, uint32_t flags);

/* doorbell.c: as struct mem_listener has it. */
bool kvm_takes_doorbells(const struct kvm_machine *machine);
void kvm_set_doorbell(void *machine, uint64_t gpa, const struct mem_doorbell *doorbell, bool on);

/* dirty.c */
bool kvm_make_rings(struct kvm_machine *machine, struct error **err); /* before there are vCPUs */
bool kvm_map_ring(struct kvm_cpu *kvm, struct error **err);
void kvm_drop_ring(struct kvm_cpu *kvm);
/* A vCPU's ring is full; its thread. */
void kvm_empty_rings(struct kvm_machine *machine);
/* As struct mem_listener has them. */
void kvm_collect(void *machine, struct mem_ram *ram);
void kvm_stop_log(void *machine);

/* vcpu.c */
bool kvm_attach(struct vcpu *vcpu, struct error **err);
void kvm_detach(struct vcpu *vcpu);
enum vcpu_exit kvm_run(struct vcpu *vcpu, uint64_t budget);
void kvm_kick(struct vcpu *vcpu);
void kvm_count(const struct vcpu *vcpu, vcpu_count_fn *each, void *opaque);

/* debug.c: before the guest is entered, and when it was left for a debugger's sake; false: *exit. */
bool kvm_debug_begin(struct kvm_cpu *kvm, enum vcpu_exit *exit);
bool kvm_debug_stop(struct kvm_cpu *kvm, enum vcpu_exit *exit);

/* exits.c: what the guest was left for; true: it is entered again. */
bool kvm_serve(struct kvm_cpu *kvm, enum vcpu_exit *exit);
/* KVM_RUN has failed. */
void kvm_tell_error(struct kvm_cpu *kvm, int number);

/* state.c */
extern const struct x86_keeper kvm_keeper;
/* Which MSRs KVM lets us read and write; the first vCPU is asked. */
bool kvm_find_msrs(struct kvm_cpu *kvm, struct error **err);
bool kvm_saves_msr(const struct kvm_machine *machine, uint32_t index);
/* Of a vCPU; features of processors are also read from /dev/kvm itself. */
bool kvm_get_msr(int fd, struct x86_msr *msr);
bool kvm_set_msr(int fd, const struct x86_msr *msr);
#define KVM_MSR_TSC          0x10u
#define KVM_MSR_TSC_DEADLINE 0x6e0u

/* tsc.c: vCPUs' time stamp counters stand still while the machine's clock does. */
bool kvm_tsc_can_stop(struct kvm_cpu *kvm);
void kvm_tsc_stop(struct kvm_machine *machine);
void kvm_tsc_go_on(struct kvm_machine *machine);

/* cpuid.c */
bool kvm_read_host(int kvm, struct x86_cpu_host *host, struct error **err);
bool kvm_choose_cpu(struct kvm_machine *machine, const char *text, struct error **err);
bool kvm_filter_msrs(struct kvm_machine *machine, struct error **err);
bool kvm_drop_pmu(struct kvm_machine *machine, struct error **err);
bool kvm_set_cpuid(struct kvm_cpu *kvm, struct error **err);
/* As struct x86_keeper has it. */
bool kvm_take_cpuid(struct x86_cpu *cpu, const struct x86_cpuid *leaves, size_t count,
                    uint32_t arch_capabilities, struct error **err);

#endif
