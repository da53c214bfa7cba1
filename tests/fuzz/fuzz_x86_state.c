/* SPDX-License-Identifier: MIT
 *
 * The saved state of an x86-64 processor, and of what its processors share, from somebody who means ill:
 * a valid one is changed as the input says, and restored. It is refused with a sentence, or it can be
 * looked at, saved again as the same, and run; where there is a /dev/kvm, KVM takes it.
 *
 * The input: a byte that says what (enum what, RUN), then changes of 4 bytes: behind which field's name (1),
 * how far (2), and the byte that is put there (1).
 */
#include "fuzz.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "base/vclock.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/probe.h"
#include "isa/x86_64/cpu.h"
#include "isa/x86_64/guest_cpu.h"
#include "mem/mem.h"

#define RAM_SIZE (UINT64_C(64) << 10)

#define RUN 0x80u /* of the first byte: what KVM took is run as well, which may take it a second */
enum what { PROCESSOR, PROCESSOR_ON_KVM, CHIPS_ON_KVM, WHATS };

static const char *const names[] = {"gpr",   "segments", "cr0",   "cr3",    "cr4",        "efer",
                                    "cpuid", "msrs",     "xsave", "lapic",  "event-exception", "activity",
                                    "dr7",   "xcr0",     "type",  "rflags", "apic-base",  "tsc-khz",
                                    "arch-capabilities", "kvm-ioapic", "kvm-pit2", "clock-ns"};

struct target {
    struct log log;
    struct mem_space *mem, *ports;
    struct vclock *clock;
    struct vcpu_timebase timebase;
    int kvm; /* -1: none */
    struct engine_machine *machine;
    struct vcpu *vcpu;
};

/* The one that runs, for the signal that ends it. */
static struct vcpu *volatile running;

static void stop(int signal)
{
    (void)signal;
    if (running != NULL)
        vcpu_kick(running);
}

static void wake(struct vcpu *vcpu)
{
    if (vcpu->engine != NULL && atomic_load(&vcpu->in_guest))
        vcpu->engine->kick(vcpu);
}

static void make(struct target *t, bool kvm)
{
    *t = (struct target){.kvm = kvm ? kvm_open(KVM_DEVICE, NULL) : -1};
    log_init(&t->log, LOG_LEVEL_ERROR, open("/dev/null", O_WRONLY | O_CLOEXEC), "fuzz");
    t->mem = mem_space_new();
    t->ports = mem_space_new();
    t->clock = vclock_new(VCLOCK_COUNTED, 0);
    t->timebase = (struct vcpu_timebase){.clock = t->clock, .ns_per_tick = 1};
    fuzz_check(mem_add_ram(t->mem, "ram", 0, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, NULL) != NULL);
    const struct vcpu_setup setup = {.mem = t->mem,
                                     .ports = t->ports,
                                     .timebase = &t->timebase,
                                     .log = &t->log,
                                     .wake = wake};
    const struct engine_setup engine = {.mem = t->mem,
                                        .log = &t->log,
                                        .vcpu_count = 1,
                                        .kvm_fd = t->kvm,
                                        .kvm_may_emulate = true};
    t->vcpu = isa_x86_64.vcpu_new(&setup, NULL);
    fuzz_check(t->vcpu != NULL);
    if (t->kvm < 0)
        return;
    t->machine = engine_kvm.machine_new(&engine, NULL);
    t->vcpu->engine = &engine_kvm;
    t->vcpu->machine = t->machine;
    fuzz_check(t->machine != NULL && engine_kvm.attach(t->vcpu, NULL));
}

static void drop(struct target *t)
{
    if (t->machine != NULL) {
        engine_kvm.detach(t->vcpu);
        t->machine->free(t->machine);
    }
    isa_x86_64.vcpu_free(t->vcpu);
    if (t->kvm >= 0)
        close(t->kvm);
    close(t->log.fd);
    vclock_free(t->clock);
    mem_space_free(t->mem);
    mem_space_free(t->ports);
}

static void change(struct state_buffer *state, struct fuzz_input *input)
{
    while (input->left >= 4) {
        const char *name = names[fuzz_take(input, 1) % ARRAY_SIZE(names)];
        size_t far = fuzz_take(input, 2);
        const uint8_t *at = memmem(state->data, state->size, name, strlen(name));
        uint8_t to = (uint8_t)fuzz_take(input, 1);
        if (at == NULL)
            continue;
        size_t place = (size_t)(at - state->data) + strlen(name) + far;
        if (place < state->size)
            state->data[place] = to;
    }
}

/* What looks at a processor that was restored. */
static void look(struct target *t)
{
    char text[X86_CPU_DESCRIPTION_MAX];
    const struct x86_cpu *cpu = x86_cpu_of(t->vcpu);
    uint64_t gpa;
    isa_x86_64.dump(t->vcpu, text, sizeof(text));
    x86_cpu_describe(cpu->cpuid, cpu->cpuid_count, cpu->arch_capabilities, text, sizeof(text));
    for (uint64_t va = 0x1234; va != 0; va <<= 7)
        (void)isa_x86_64.translate(t->vcpu, va, &gpa);
}

static void run(struct target *t)
{
    const struct itimerval soon = {.it_value = {.tv_usec = 500}, .it_interval = {.tv_usec = 500}};
    const struct itimerval never = {{0}, {0}};
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGALRM, &action, NULL);
    running = t->vcpu;
    setitimer(ITIMER_REAL, &soon, NULL);
    (void)engine_kvm.run(t->vcpu, UINT64_MAX);
    setitimer(ITIMER_REAL, &never, NULL);
    running = NULL;
    look(t);
}

/* Accepted without KVM: it is what is saved next. */
static void is_kept(const struct state_table *table, void *object, const struct state_buffer *state)
{
    struct state_buffer again = {0}, more = {0};
    size_t at = 0;
    state_save(table, object, &again);
    fuzz_check(again.size == state->size);
    fuzz_check(state_restore(table, object, again.data, again.size, &at, NULL));
    state_save(table, object, &more);
    fuzz_check(more.size == again.size && memcmp(more.data, again.data, more.size) == 0);
    state_buffer_free(&again);
    state_buffer_free(&more);
}

/* Machines are slow to come and go with KVM: one serves many inputs, each of which begins with the state
 * that it had at first. */
struct stage {
    struct target target;
    struct state_buffer first[2]; /* of the processor, and of what processors share */
    bool made;
};

static void set_up(struct stage *stage, bool kvm)
{
    make(&stage->target, kvm);
    state_save(isa_x86_64.state, stage->target.vcpu, &stage->first[0]);
    if (stage->target.machine != NULL)
        state_save(stage->target.machine->state, stage->target.machine, &stage->first[1]);
    stage->made = true;
}

static void clear_up(struct stage *stage)
{
    drop(&stage->target);
    state_buffer_free(&stage->first[0]);
    state_buffer_free(&stage->first[1]);
    *stage = (struct stage){0};
}

static void try_state(struct stage *stage, struct fuzz_input *input, bool chips, bool runs)
{
    struct target *t = &stage->target;
    const struct state_buffer *first = &stage->first[chips ? 1 : 0];
    const struct state_table *table = chips ? t->machine->state : isa_x86_64.state;
    void *object = chips ? (void *)t->machine : (void *)t->vcpu;
    struct state_buffer state = {0};
    struct error *error = NULL;
    size_t at = 0;
    state_buffer_add(&state, first->data, first->size);
    change(&state, input);
    if (state_restore(table, object, state.data, state.size, &at, &error)) {
        fuzz_check(at <= state.size);
        look(t);
        if (t->machine == NULL)
            is_kept(table, object, &state);
        else if (runs)
            run(t);
    } else {
        fuzz_check(error != NULL && error_message(error)[0] != '\0');
    }
    error_free(error);
    state_buffer_free(&state);
    at = 0;
    if (runs || !state_restore(table, object, first->data, first->size, &at, NULL))
        clear_up(stage);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct stage stages[2];
    struct fuzz_input input = {data, size};
    unsigned first = (unsigned)fuzz_take(&input, 1);
    enum what what = (enum what)((first & ~RUN) % WHATS);
    struct stage *stage = &stages[what == PROCESSOR ? 0 : 1];
    if (!stage->made)
        set_up(stage, what != PROCESSOR);
    try_state(stage, &input, what == CHIPS_ON_KVM && stage->target.machine != NULL, (first & RUN) != 0);
    return 0;
}

/* KVM takes its time: few inputs are for it, and fewer are run. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    size_t size = 0;
    uint64_t kind = fuzz_random(seed) % 512;
    data[size++] = (uint8_t)(kind < 3 ? kind | (fuzz_random(seed) % 8 == 0 ? RUN : 0) : PROCESSOR);
    for (uint64_t changes = fuzz_random(seed) % 12; changes > 0; changes--) {
        uint64_t random = fuzz_random(seed);
        uint16_t far = (uint16_t)((random >> 8 & 3) != 0 ? random >> 16 & 63 : random >> 16 & 4095);
        data[size++] = (uint8_t)random;
        store_le16(data + size, far);
        data[size + 2] = (uint8_t)((random >> 10 & 1) != 0 ? random >> 40 : 1u << (random >> 40 & 7));
        size += 3;
    }
    return size;
}
