/* SPDX-License-Identifier: MIT
 *
 * The narrow waist between a vCPU (an ISA's architectural state, run by an engine) and its
 * machine. Neither side knows more of the other than this header.
 *
 *   machine → vCPU   engine->run(), vcpu_set_interrupt(), vcpu_attention(), vcpu_kick()
 *   vCPU → machine   the exit reason run() returns; time through vcpu_timebase; wake()
 *
 * Threads: a vCPU is run by one thread at a time, its owner; everything in the architectural
 * state belongs to that thread (while no thread runs it, to whoever quiesced it). What other
 * threads may touch are the atomics below, through the functions below.
 *
 * Architectural state is exact whenever run() is not running; an engine may keep it elsewhere
 * in between.
 */
#ifndef TRAPEZE_ISA_VCPU_H
#define TRAPEZE_ISA_VCPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/vclock.h"

struct engine;
struct engine_machine;
struct error;
struct isa;
struct isa_debug;
struct log;
struct mem_space;
struct perf;
struct state_table;
struct vcpu;
struct trace;

/* Why run() returned. The machine acts on it and calls run() again. */
enum vcpu_exit {
    VCPU_EXIT_KICK,   /* vcpu_kick() was called */
    VCPU_EXIT_BUDGET, /* the instruction budget is used up */
    VCPU_EXIT_WAIT,   /* the guest waits for an interrupt (wfi, wrs.nto, hlt) */
    VCPU_EXIT_ECALL,  /* hypercall to the machine (SBI call); arguments in the registers, the
                         program counter already behind it */
    VCPU_EXIT_HTIF,   /* a store to the ELF's tohost symbol was made (htif_value) */
    VCPU_EXIT_WEDGED, /* the guest traps at its own trap vector for ever: it has crashed */
    VCPU_EXIT_RESET,  /* the vCPU has shut down, which resets the machine (x86: a triple fault) */
    VCPU_EXIT_FAILED, /* the engine cannot run it any further, and has said why in the log */
    VCPU_EXIT_DEBUG,  /* vcpu.debug->stop says why */
    VCPU_EXITS
};

/* Things that make a running vCPU look up between two blocks; bits of vcpu.attention. */
enum vcpu_attention {
    VCPU_ATTENTION_KICK = 1,     /* leave run() with VCPU_EXIT_KICK */
    VCPU_ATTENTION_IRQ = 2,      /* interrupt lines changed */
    VCPU_ATTENTION_TIMER = 4,    /* the ISA's own timer comparator may have fired */
    VCPU_ATTENTION_TLB = 8,      /* drop every cached address translation */
    VCPU_ATTENTION_FENCE_I = 16, /* drop everything derived from instructions not yet fenced */
    VCPU_ATTENTION_STORES = 32,  /* drop the permissions to store to watched_pages */
    VCPU_ATTENTION_SAMPLE = 64,  /* call sampled(); raised without a wake-up */
    VCPU_ATTENTION_WRITES = 128  /* drop all permissions to store */
};

/* The guest's counter of time: ticks = clock / ns_per_tick + offset. Shared by all vCPUs and
 * the timer device of a machine; the offset changes when firmware writes mtime. */
struct vcpu_timebase {
    struct vclock *clock;
    int64_t ns_per_tick;
    _Atomic uint64_t offset_ticks;
};

static inline uint64_t vcpu_time(struct vcpu_timebase *timebase)
{
    return (uint64_t)(vclock_now(timebase->clock) / timebase->ns_per_tick) +
           atomic_load_explicit(&timebase->offset_ticks, memory_order_relaxed);
}

/* Virtual ns at which vcpu_time() reaches `ticks` (now or the past if it already has);
 * VCLOCK_NEVER if that is beyond the clock's range. */
int64_t vcpu_time_to_deadline(struct vcpu_timebase *timebase, uint64_t ticks);

/* ---- debugging ----
 *
 * While vcpu.debug is set, every engine's run() does no more than
 *     if (vcpu->debug)
 *         return vcpu->isa->debug->run(vcpu, budget);
 * which interprets one instruction after the other. So an engine has one check, outside of its
 * loop, and nothing else to do with break- and watchpoints. (KVM has debug registers instead.) The
 * pointer and what it points to change only while the vCPU does not run. */

enum vcpu_point_kind { /* the numbers are those of GDB's Z packets */
    VCPU_POINT_BREAK_SOFT,
    VCPU_POINT_BREAK_HARD, /* the same for us: guest memory is never changed */
    VCPU_POINT_WRITE,
    VCPU_POINT_READ,
    VCPU_POINT_ACCESS,
    VCPU_POINT_KINDS
};

/* A break- or watchpoint: guest-virtual addresses, in whatever address space, inclusive. */
struct vcpu_point {
    uint64_t first, last;
    enum vcpu_point_kind kind;
};

#define VCPU_POINTS_MAX 128
struct vcpu_points {
    struct vcpu_point point[VCPU_POINTS_MAX];
    unsigned count;
    uint64_t break_filter; /* bit (pc >> 1) % 64 of every breakpoint */
};

enum vcpu_stop {
    VCPU_STOP_NONE,
    VCPU_STOP_STEP,  /* the step is done */
    VCPU_STOP_BREAK, /* pc is at a breakpoint, which has not been executed */
    VCPU_STOP_WATCH  /* the instruction before pc made a watched access. DMA is not watched. */
};

/* An ISA's debug->attach() makes it, inside something larger. */
struct vcpu_debug {
    const struct vcpu_points *points; /* borrowed, shared by the vCPUs of a machine */
    /* Stop after one instruction, or when pc has left [step_first, step_last) if that is not
     * empty. Interrupts stay pending: a step would otherwise end in their handlers. */
    bool step;
    uint64_t step_first, step_last;
    /* Sticky: run() returns at once until somebody sets it to NONE. */
    enum vcpu_stop stop;
    enum vcpu_point_kind stop_kind; /* BREAK, WATCH */
    uint64_t stop_address;          /* WATCH: the watchpoint's first byte that was accessed */
};

/* Interrupts that are written to a vCPU as messages, instead of driven by lines; any thread. */
struct vcpu_messages {
    /* RISC-V: file 0 is machine level, 1 supervisor level; an identity that the file does not
     * have is ignored. */
    void (*send)(struct vcpu *vcpu, unsigned file, uint32_t identity);
    void (*reset)(struct vcpu *vcpu); /* of the machine: vcpu_reset() leaves messages alone */
};

#define VCPU_WATCHED_PAGES 4

/* The generic part: the first member of every ISA's state struct. */
struct vcpu {
    const struct isa *isa;
    const struct engine *engine;
    void *engine_data; /* the engine's own, made by attach() */
    const struct engine_options *engine_options; /* or NULL */
    unsigned index;    /* 0 .. number of vCPUs - 1 */
    struct mem_space *mem;
    struct mem_space *ports; /* I/O ports; NULL: the ISA has none */
    struct engine_machine *machine; /* what the engine has for all vCPUs; or NULL */
    struct vcpu_timebase *timebase;
    struct log *log;

    _Atomic uint32_t attention;  /* enum vcpu_attention */
    _Atomic uint64_t interrupts; /* lines driven from outside; bit numbers are the ISA's */
    /* Inside run(): requests in attention are not yet obeyed. An engine sets it (seq_cst)
     * before it looks at attention for the first time; it is also false during I/O callbacks,
     * so that who waits in vcpu_attention_sync() does not wait for a device's lock. */
    _Atomic bool in_guest;

    /* VCPU_ATTENTION_STORES: host addresses. Set where one is 0, taken by the vCPU. */
    _Atomic uintptr_t watched_pages[VCPU_WATCHED_PAGES];

    uint64_t retired; /* instructions retired since reset; exact outside run() */

    /* Bare-metal test convention: a store to this gpa (0 = none) leaves run(). */
    uint64_t htif_tohost;
    uint64_t htif_value;

    const struct vcpu_messages *messages; /* NULL: the vCPU takes none */

    struct vcpu_debug *debug; /* NULL: no debugger cares about this vCPU (see above) */

    /* Makes the owner thread return from its wait; called after attention was set. */
    void (*wake)(struct vcpu *vcpu);
    /* VCPU_ATTENTION_SAMPLE: called on the owner thread between two instructions, all state
     * exact; takes leaf locks only. NULL: nothing. */
    void (*sampled)(struct vcpu *vcpu);
    void *owner; /* the machine's own data for this vCPU */
    struct trace *trace; /* NULL: nothing is traced */
};

/* What an engine may be told when it is attached; one that it does not know means nothing to
 * it. Strings are borrowed and outlive the vCPU. */
struct engine_options {
    uint64_t code_cache;       /* bytes for translations, of each vCPU; 0: its default */
    const char *host_features; /* list as for --host-cpu-features; NULL: all that the host has */
    bool count_blocks;         /* translations count how often they run */
    struct perf *perf;         /* hears of translated code; NULL: nobody does */
    struct trace *trace;       /* base/trace.h; NULL: nothing is traced */
};

/* ---- counters ----
 *
 * What happened how often, by name, for reports. Counted by the owner thread; read while it
 * stands still. */

struct vcpu_counter {
    const char *name; /* "tlb-refills-load" */
    size_t offset;    /* of a uint64_t in whatever the table is about */
};
typedef void vcpu_count_fn(void *opaque, const char *name, uint64_t value);

static inline void vcpu_count(const struct vcpu_counter *counters, size_t count, const void *of,
                              vcpu_count_fn *each, void *opaque)
{
    for (size_t i = 0; i < count; i++)
        each(opaque, counters[i].name,
             *(const uint64_t *)(const void *)((const char *)of + counters[i].offset));
}

/* What a new vCPU is made from. Everything is borrowed and outlives the vCPU. */
struct vcpu_setup {
    unsigned index;
    struct mem_space *mem, *ports;
    struct vcpu_timebase *timebase;
    struct log *log;
    bool messages; /* interrupts come as messages, too (RISC-V: the hart has AIA's IMSIC) */
    void (*wake)(struct vcpu *vcpu);
    void (*sampled)(struct vcpu *vcpu);
    void *owner;
    const struct engine_options *engine_options; /* NULL: defaults */
};

/* A register as a debugger sees it; its bytes are in the guest's order. */
#define VCPU_REGISTER_MAX 16 /* bytes */
struct vcpu_register {
    const char *name;
    const char *feature; /* of GDB's target description: "org.gnu.gdb.riscv.cpu" */
    const char *type;    /* "int", "data_ptr", "code_ptr", "ieee_double" */
    unsigned size;       /* bytes */
};

/* The ISA's part of debugging; all of it only while the vCPU does not run. */
struct isa_debug {
    const char *architecture; /* GDB's name: "riscv:rv64" */
    unsigned register_limit;  /* register numbers are below this; some do not exist */
    unsigned register_core;   /* those below this are the ones that every stop is about */
    bool (*describe)(unsigned number, struct vcpu_register *reg); /* false: no such register */
    void (*read)(struct vcpu *vcpu, unsigned number, uint8_t *bytes);
    /* False: it cannot be written. Bits that the register does not have are dropped. */
    bool (*write)(struct vcpu *vcpu, unsigned number, const uint8_t *bytes);
    struct vcpu_debug *(*attach)(struct vcpu *vcpu); /* does not set vcpu->debug */
    void (*detach)(struct vcpu_debug *debug);        /* NULL is fine */
    /* Whether one more can be looked out for; NULL: any. */
    bool (*takes_point)(const struct vcpu_points *points, const struct vcpu_point *point);
    enum vcpu_exit (*run)(struct vcpu *vcpu, uint64_t budget); /* as struct engine's; NULL: engines do it */
};

/* An instruction-set architecture. All of it is const data and functions. */
struct isa {
    const char *name; /* "riscv64" */
    const struct state_table *state;
    bool has_ports; /* an address space for I/O ports */
    struct vcpu *(*vcpu_new)(const struct vcpu_setup *setup, struct error **err);
    void (*vcpu_free)(struct vcpu *vcpu);
    void (*vcpu_reset)(struct vcpu *vcpu); /* architectural reset; interrupt lines stay */
    uint64_t (*pc)(const struct vcpu *vcpu);
    /* True if the vCPU would take or be woken by an interrupt now; owner thread. */
    bool (*wait_is_over)(struct vcpu *vcpu);
    void (*obey)(struct vcpu *vcpu); /* attention, but for KICK; owner thread, outside run() */
    /* Drops what those of TLB, STORES, WRITES and FENCE_I in `bits` name; owner thread, perhaps in the middle
     * of an instruction that waits (vcpu_attention_sync, an I/O callback). */
    void (*drop)(struct vcpu *vcpu, uint32_t bits);
    /* Debugger's view of data in the current mode: no side effects, no permissions, no faults.
     * False if not mapped. */
    bool (*translate)(struct vcpu *vcpu, uint64_t va, uint64_t *gpa);
    /* Writes one instruction as text; returns its length in bytes (2 or 4 ...), 0 if the
     * `available` bytes do not hold a whole one. */
    unsigned (*disassemble)(const uint8_t *code, size_t available, uint64_t pc, char *text,
                            size_t text_size);
    /* Registers and the likes as lines of text for logs. */
    void (*dump)(const struct vcpu *vcpu, char *text, size_t text_size);
    void (*count)(const struct vcpu *vcpu, vcpu_count_fn *each, void *opaque);
    const char *(*mode)(const struct vcpu *vcpu); /* for reports: "U", "S" */
    const struct isa_debug *debug;
};

/* Interrupt controllers that an engine brings along. Inputs and messages as the sinks of bus/line.h have
 * them: `machine` is the engine_machine; any thread. */
struct engine_irqchip {
    void (*set_input)(void *machine, unsigned input, bool level);
    void (*send)(void *machine, uint64_t address, uint32_t data);
};

/* What an engine has for all vCPUs of a machine together; the first member of its own struct. */
struct engine_machine {
    const struct engine_irqchip *irqchip; /* NULL: the board has its own */
    const struct state_table *state;      /* of the machine; vCPUs are saved and restored before it */
    /* As at power-on; no vCPU runs. */
    void (*reset)(struct engine_machine *machine);
    /* The machine's time stands still, or goes on; no vCPU runs. */
    void (*stop_time)(struct engine_machine *machine, bool stop);
    void (*free)(struct engine_machine *machine); /* after its vCPUs */
    const char *not_saved; /* "a guest that ...": what makes that impossible; NULL: nothing */
};

/* What one is made from; borrowed, but for kvm_fd it outlives the machine. */
struct engine_setup {
    struct mem_space *mem; /* all RAM is in it */
    struct log *log;
    unsigned vcpu_count;
    int kvm_fd;           /* /dev/kvm; -1: it could not be opened, because: */
    const char *no_kvm;   /* a sentence, or NULL */
    const char *cpu;      /* of x86-64: as isa/x86_64/guest_cpu.h has it; NULL: the host's */
    bool kvm_bitmap;      /* its log of written pages as bitmaps, though it has rings (tests) */
    bool kvm_may_emulate; /* one without a processor behind it will do (tests) */
};

/* A way to run vCPUs. */
struct engine {
    const char *name; /* "interp" */
    bool (*supports)(const struct isa *isa);
    /* Before vCPUs are attached; NULL: there is nothing to share. */
    struct engine_machine *(*machine_new)(const struct engine_setup *setup, struct error **err);
    /* The guest reaches memory without asking: what a TLB could be asked to drop (TLB, STORES, WRITES,
     * FENCE_I) does not exist, and memory is there before it runs. */
    bool direct_memory;
    bool halts_inside; /* a vCPU that waits for an interrupt does so in run() */
    /* Makes a vCPU that is in_guest look at its attention; any thread. NULL: it does so by itself. */
    void (*kick)(struct vcpu *vcpu);
    bool (*attach)(struct vcpu *vcpu, struct error **err);
    void (*detach)(struct vcpu *vcpu);
    /* Runs at most `budget` instructions (UINT64_MAX: no limit); owner thread. Obeys
     * attention before the first and between blocks. Retires exactly at most `budget`. */
    enum vcpu_exit (*run)(struct vcpu *vcpu, uint64_t budget);
    void (*count)(const struct vcpu *vcpu, vcpu_count_fn *each, void *opaque);
    /* The vCPU will soon run what is new to its engine, and somebody waits for that: the host's memory
     * for what is derived first is fetched now. Not while it runs. NULL: nothing to fetch. */
    void (*warm)(struct vcpu *vcpu);
};

/* Drives one interrupt line; any thread. */
void vcpu_set_interrupt(struct vcpu *vcpu, unsigned line, bool level);

/* Raises attention bits and wakes the owner; any thread, does not wait. */
void vcpu_attention(struct vcpu *vcpu, uint32_t bits);

static inline void vcpu_kick(struct vcpu *vcpu)
{
    vcpu_attention(vcpu, VCPU_ATTENTION_KICK);
}

/* A request was obeyed in the middle of a block: its engine, which may go from block to block
 * without looking whether the code is still mapped, must do so before the next one. */
static inline void vcpu_look_up_again(struct vcpu *vcpu)
{
    atomic_fetch_or(&vcpu->attention, (uint32_t)VCPU_ATTENTION_IRQ);
}

/* Raises the bits (TLB, STORES, WRITES, FENCE_I) without waking anybody: who is not in the guest obeys when
 * it gets there. */
static inline void vcpu_ask(struct vcpu *vcpu, uint32_t bits)
{
    atomic_fetch_or(&vcpu->attention, bits);
}

/* Whether the vCPU cannot act any more on what it was asked to drop: isa/vcpu.c says why. It may be
 * false because of what it was asked since. */
static inline bool vcpu_has_obeyed(struct vcpu *vcpu, uint32_t bits)
{
    return !atomic_load(&vcpu->in_guest) || (atomic_load(&vcpu->attention) & bits) == 0;
}

/* Raises the bits (TLB, STORES, WRITES, FENCE_I) in each of `count` vCPUs and returns when none can still
 * act on what they drop: each has obeyed or is not in the guest. `self` (may be NULL) is the
 * calling thread's own vCPU: its requests are obeyed while it waits, so that two vCPUs
 * may do this to each other. The caller may hold locks that vCPUs take in I/O callbacks, but
 * none that they take elsewhere inside run(). */
void vcpu_attention_sync(struct vcpu *self, struct vcpu *const *vcpus, size_t count,
                         uint32_t bits);

#endif
