/* SPDX-License-Identifier: MIT
 *
 * Small programs on the host's KVM: what they leave the guest for, doorbells, interrupts, kicks, state that goes to
 * another machine, the log of written pages. They use integer instructions alone, so that a /dev/kvm that
 * only emulates will do; without any there is nothing to test.
 */
#include "kvm_guest.h"

#include "bus/device.h"
#include "dev/devices.h"
#include "engine/kvm/kvm_internal.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* ---- ports and memory-mapped devices ---- */

PROGRAM(ports, "mov $0x3f8, %dx\n mov $'H', %al\n out %al, %dx\n"
               "in %dx, %al\n out %al, %dx\n"         /* 'A' */
               "lea text(%rip), %rsi\n mov $3, %ecx\n cld\n rep outsb\n"
               "mov $0x500, %dx\n in %dx, %eax\n mov %eax, %r8d\n"
               "mov $0x502, %dx\n in %dx, %ax\n movzwl %ax, %r9d\n" /* half of what it takes */
               "mov $0x700, %dx\n in %dx, %eax\n mov %eax, %r10d\n" /* nothing there */
               "out %eax, %dx\n"
               "mov $0xf4, %dx\n mov $0x1234, %eax\n out %eax, %dx\n"
               "1: jmp 1b\n text: .ascii \"xyz\"");

static void ports_are_served(void **state)
{
    OPEN(f);
    LOAD(&f, ports);
    run_to_end(&f);
    assert_string_equal(f.text, "HAxyz");
    assert_int_equal(f.code, 0x1234);
    assert_int_equal(state_of(&f)->gpr[8], 0x11223344);
    assert_int_equal(state_of(&f)->gpr[9], 0xffff);
    assert_int_equal(state_of(&f)->gpr[10], UINT32_MAX);
    close_fixture(&f);
}

PROGRAM(devices, "mov $0xd0000000, %edi\n mov 4(%rdi), %eax\n mov %eax, %r8d\n"
                 "movl $0x55667788, 8(%rdi)\n"
                 "mov $0x1122334455667788, %rax\n mov %rax, 16(%rdi)\n" /* too wide */
                 "movw $0xabcd, 33(%rdi)\n"                             /* not aligned */
                 "mov $0xd0001000, %edi\n mov (%rdi), %rax\n mov %rax, %r9\n" /* nothing there */
                 "movl $1, (%rdi)\n"
                 "mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b");

static void memory_mapped_devices_are_served(void **state)
{
    static const uint64_t expected[] = {
        UINT64_C(8) << 40 | UINT64_C(4) << 32 | 0x55667788,
        UINT64_C(16) << 40 | UINT64_C(4) << 32 | 0x55667788,
        UINT64_C(20) << 40 | UINT64_C(4) << 32 | 0x11223344,
        UINT64_C(33) << 40 | UINT64_C(1) << 32 | 0xcd,
        UINT64_C(34) << 40 | UINT64_C(1) << 32 | 0xab,
    };
    OPEN(f);
    LOAD(&f, devices);
    run_to_end(&f);
    assert_int_equal(state_of(&f)->gpr[8], 0x10203044);
    assert_true(state_of(&f)->gpr[9] == UINT64_MAX);
    assert_int_equal(f.access_count, ARRAY_SIZE(expected));
    assert_memory_equal(f.accesses, expected, sizeof(expected));
    close_fixture(&f);
}

/* ---- memory that a guest only reads ---- */

struct wanted {
    const char *name;
    uint64_t value;
};

static void look_for(void *opaque, const char *name, uint64_t value)
{
    struct wanted *wanted = opaque;
    if (strcmp(name, wanted->name) == 0)
        wanted->value = value;
}

static uint64_t counted(struct fixture *f, const char *name)
{
    struct wanted wanted = {name, 0};
    engine_kvm.count(f->vcpus[0], look_for, &wanted);
    return wanted.value;
}

#define FLASH      UINT64_C(0xffc00000)
#define FLASH_SIZE 0x4000

/* 1000 reads of the flash, the status after a byte was programmed, and 1000 reads again. */
PROGRAM(flashing, "mov $0xffc00000, %edi\n xor %r8d, %r8d\n mov $1000, %ecx\n"
                  "1: movzbl 0x123(%rdi), %eax\n add %eax, %r8d\n dec %ecx\n jnz 1b\n"
                  "movb $0x40, 0x123(%rdi)\n movb $0x5a, 0x123(%rdi)\n movzbl 0x2123(%rdi), %r9d\n"
                  "movb $0xff, 0x123(%rdi)\n xor %r10d, %r10d\n mov $1000, %ecx\n"
                  "2: movzbl 0x123(%rdi), %eax\n add %eax, %r10d\n dec %ecx\n jnz 2b\n"
                  "mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b");

static void a_flash_is_left_to_for_writes_alone(void **state)
{
    const struct flash_store store = {.size = FLASH_SIZE};
    const struct device_params params = {.id = "flash0", .gpa = FLASH, .flash = &store};
    OPEN(f);
    struct device_env env = {.mem = f.mem};
    assert_true(mem_shows_rom(f.mem));
    struct device *flash = device_new(&device_nor_flash, &env, &params, NULL);
    assert_non_null(flash);
    LOAD(&f, flashing);
    run_to_end(&f);
    assert_int_equal(state_of(&f)->gpr[8], 1000 * 0xff);
    assert_int_equal(state_of(&f)->gpr[9], 0x80); /* ready */
    assert_int_equal(state_of(&f)->gpr[10], 1000 * 0x5a);
    assert_int_equal(counted(&f, "kvm-exits-mmio"), 3);
    device_free(flash);
    close_fixture(&f);
}

/* ---- doorbells ---- */

PROGRAM(ringing, "mov $0xd0000000, %edi\n mov $100, %ecx\n"
                 "1: movw $7, 0x10(%rdi)\n movl $1, 0x20(%rdi)\n dec %ecx\n jnz 1b\n"
                 "movl $0x12345678, 0x10(%rdi)\n movb $0, 0x10(%rdi)\n" /* of any size */
                 "movl $2, 0x20(%rdi)\n movw $1, 0x20(%rdi)\n movw $3, 0x12(%rdi)\n" /* none of them */
                 "movw $7, 0x1010(%rdi)\n movl $1, 0x1020(%rdi)\n" /* where it is later */
                 "mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b");

static void place(struct fixture *f, uint64_t gpa)
{
    mem_io_remove(f->mem, &f->device);
    f->device.gpa = gpa;
    assert_true(mem_io_add(f->mem, &f->device));
}

static void check_rung(const struct mem_doorbell *doorbells, uint64_t first, uint64_t second)
{
    const uint64_t wanted[] = {first, second};
    for (unsigned i = 0; i < 2; i++) {
        uint64_t count = 0;
        assert_int_equal(read(doorbells[i].fd, &count, sizeof(count)) > 0, wanted[i] > 0);
        assert_int_equal(count, wanted[i]);
    }
}

/* A write of such a register leaves KVM for nobody; any other one is the device's, as are all when the
 * register is somewhere else. */
static void doorbells_do_not_leave_the_guest(void **state)
{
    static const uint64_t others[] = {
        UINT64_C(0x20) << 40 | UINT64_C(4) << 32 | 2,
        UINT64_C(0x20) << 40 | UINT64_C(2) << 32 | 1,
        UINT64_C(0x12) << 40 | UINT64_C(2) << 32 | 3,
    };
    OPEN(f);
    if (!mem_takes_doorbells(f.mem)) {
        close_fixture(&f);
        skip();
    }
    const struct mem_doorbell doorbells[] = {
        {.offset = 0x10, .fd = eventfd(0, EFD_NONBLOCK)},
        {.offset = 0x20, .size = 4, .value = 1, .fd = eventfd(0, EFD_NONBLOCK)},
    };
    place(&f, DEVICE);
    LOAD(&f, ringing);
    run_to_end(&f);
    assert_int_equal(f.access_count, ARRAY_SIZE(f.accesses)); /* without them all do */
    f.device.doorbells = doorbells;
    f.device.doorbell_count = 2;
    for (unsigned i = 0; i < 2; i++) {
        mem_io_remove(f.mem, &f.device);
        assert_true(mem_io_add(f.mem, &f.device));
        f.access_count = 0;
        LOAD(&f, ringing);
        run_to_end(&f);
        check_rung(doorbells, 102, 100);
        assert_int_equal(f.access_count, ARRAY_SIZE(others));
        assert_memory_equal(f.accesses, others, sizeof(others));
    }
    place(&f, DEVICE + 0x1000);
    f.access_count = 0;
    LOAD(&f, ringing);
    run_to_end(&f);
    check_rung(doorbells, 1, 1);
    assert_int_equal(f.access_count, 0);
    mem_io_remove(f.mem, &f.device);
    LOAD(&f, ringing);
    run_to_end(&f);
    check_rung(doorbells, 0, 0);
    close_fixture(&f);
    close(doorbells[0].fd);
    close(doorbells[1].fd);
}

/* ---- exits ---- */

static void *run_memory(struct fixture *f)
{
    return ((struct kvm_cpu *)f->vcpus[0]->engine_data)->run;
}

/* What the log has to say; NULL: nothing. The vCPU's run() ends with FAILED. */
static void told(struct fixture *f, uint32_t reason, const char *words)
{
    struct kvm_cpu *kvm = f->vcpus[0]->engine_data;
    enum vcpu_exit exit = VCPU_EXIT_KICK;
    char said[1024] = "";
    int was = f->log.fd;
    f->log.fd = memfd_create("log", MFD_CLOEXEC);
    kvm->run->exit_reason = reason;
    assert_int_equal(kvm_serve(kvm, &exit), words == NULL);
    assert_true(pread(f->log.fd, said, sizeof(said) - 1, 0) >= 0);
    close(f->log.fd);
    f->log.fd = was;
    if (words == NULL) {
        assert_string_equal(said, "");
        return;
    }
    assert_int_equal(exit, VCPU_EXIT_FAILED);
    if (strstr(said, words) == NULL)
        fail_msg("exit %u: not '%s' but %s", reason, words, said);
}

/* Whoever adds one that is served takes it out of here. */
static void an_exit_that_is_not_served_is_told(void **state)
{
    static const uint32_t served[] = {
        KVM_EXIT_IO,  KVM_EXIT_MMIO,     KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_DEBUG, KVM_EXIT_INTR,
        KVM_EXIT_NMI, KVM_EXIT_SHUTDOWN, KVM_EXIT_IRQ_WINDOW_OPEN};
    OPEN(f);
    struct kvm_run *run = run_memory(&f);
    for (uint32_t reason = 0; reason < 200; reason++) {
        char words[32];
        bool known = false;
        for (size_t i = 0; i < ARRAY_SIZE(served); i++)
            known = known || served[i] == reason;
        memset(run->padding, 0, sizeof(run->padding));
        snprintf(words, sizeof(words), "(exit %u)", reason);
        if (!known)
            told(&f, reason, words);
    }
    told(&f, KVM_EXIT_INTR, NULL);
    run->internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
    run->internal.ndata = UINT32_MAX; /* more than there is */
    for (size_t i = 0; i < ARRAY_SIZE(run->internal.data); i++)
        run->internal.data[i] = UINT64_MAX;
    run->internal.data[0] = 0xabcd;
    told(&f, KVM_EXIT_INTERNAL_ERROR, "an exit while an event is delivered (3), data 0xabcd 0xff");
    run->internal.suberror = 77;
    run->internal.ndata = 0;
    told(&f, KVM_EXIT_INTERNAL_ERROR, "(exit 17): unknown (77)\n");
    run->fail_entry.hardware_entry_failure_reason = 0x80000021;
    told(&f, KVM_EXIT_FAIL_ENTRY, "failed entry (exit 9): hardware reason 0x80000021");
    close_fixture(&f);
}

static void a_failing_entry_tells_which_memory(void **state)
{
    const uint64_t fault[] = {0, 0x12345000, 0x1000};
    char said[256] = "";
    OPEN(f);
    struct kvm_run *run = run_memory(&f);
    int was = f.log.fd;
    f.log.fd = memfd_create("log", MFD_CLOEXEC);
    memcpy(run->padding, fault, sizeof(fault));
    run->exit_reason = 39;
    kvm_tell_error(f.vcpus[0]->engine_data, EFAULT);
    run->exit_reason = KVM_EXIT_UNKNOWN;
    kvm_tell_error(f.vcpus[0]->engine_data, ENOMEM);
    assert_true(pread(f.log.fd, said, sizeof(said) - 1, 0) > 0);
    assert_non_null(strstr(said, "Bad address (guest memory at 0x12345000)\n"));
    assert_non_null(strstr(said, "Cannot allocate memory\n"));
    close(f.log.fd);
    f.log.fd = was;
    close_fixture(&f);
}

/* ---- MSRs, faults ---- */

PROGRAM(msrs, "mov $0xc0000102, %ecx\n mov $0x89abcdef, %eax\n mov $0x1234, %edx\n wrmsr\n"
              "xor %eax, %eax\n xor %edx, %edx\n rdmsr\n mov %eax, %r8d\n mov %edx, %r9d\n"
              "mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b");

static void msrs_are_kept_and_saved(void **state)
{
    OPEN(f);
    LOAD(&f, msrs);
    run_to_end(&f);
    const struct x86_state *after = state_of(&f);
    assert_int_equal(after->gpr[8], 0x89abcdef);
    assert_int_equal(after->gpr[9], 0x1234);
    bool found = false;
    for (unsigned i = 0; i < after->msr_count; i++)
        found = found || (after->msrs[i].index == 0xc0000102 &&
                          after->msrs[i].value == UINT64_C(0x123489abcdef));
    assert_true(found);
    close_fixture(&f);
}

PROGRAM(page_fault, "mov $0x7fff000000, %rdi\n mov (%rdi), %rax\n 1: jmp 1b\n"
                    ".org page_fault_begin + 64\n pop %r8\n mov %cr2, %r9\n mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b");

static void faults_are_the_guests(void **state)
{
    OPEN(f);
    LOAD(&f, page_fault);
    set_handler(&f, 14, 64);
    run_to_end(&f);
    assert_true(state_of(&f)->gpr[9] == UINT64_C(0x7fff000000));
    assert_int_equal(state_of(&f)->gpr[8], 0); /* a read of what is not there */
    close_fixture(&f);
}

static void a_triple_fault_resets(void **state)
{
    OPEN(f);
    LOAD(&f, page_fault);
    assert_int_equal(engine_kvm.run(f.vcpus[0], UINT64_MAX), VCPU_EXIT_RESET);
    close_fixture(&f);
}

/* ---- interrupts ---- */

/* The local APIC is switched on (SDM 3A, 10.4.7.1); each interrupt is counted in r8. */
PROGRAM(interrupts, "mov $0xfee000f0, %edi\n movl $0x1ff, (%rdi)\n"
                    "xor %r8d, %r8d\n mov $0x3f8, %dx\n mov $'R', %al\n out %al, %dx\n"
                    "1: sti\n hlt\n cli\n cmp $3, %r8d\n jb 1b\n"
                    "mov $0xf4, %dx\n out %eax, %dx\n2: jmp 2b\n"
                    ".org interrupts_begin + 128\n inc %r8d\n mov $0xfee000b0, %edi\n movl $0, (%rdi)\n iretq");

static void *send_messages(void *opaque)
{
    struct fixture *f = opaque;
    const struct timespec moment = {.tv_nsec = 1000000};
    while (atomic_load(&f->vcpus[0]->attention) == 0 && f->code == 0) {
        f->machine->irqchip->send(f->machine, 0xfee00000, 0x30);
        nanosleep(&moment, NULL);
    }
    return NULL;
}

static void messages_wake_a_halted_processor(void **state)
{
    pthread_t thread;
    OPEN(f);
    LOAD(&f, interrupts);
    set_handler(&f, 0x30, 128);
    f.code = 0;
    assert_int_equal(pthread_create(&thread, NULL, send_messages, &f), 0);
    run_to_end(&f);
    f.code = 1;
    pthread_join(thread, NULL);
    assert_int_equal(state_of(&f)->gpr[8], 3);
    close_fixture(&f);
}

/* ---- kicks ---- */

PROGRAM(forever, "1: inc %r8\n jmp 1b");
PROGRAM(halted, "cli\n1: hlt\n jmp 1b");

static void *kick_soon(void *opaque)
{
    struct fixture *f = opaque;
    const struct timespec moment = {.tv_nsec = 20000000};
    while (!atomic_load(&f->vcpus[0]->in_guest))
        nanosleep(&moment, NULL);
    nanosleep(&moment, NULL);
    vcpu_kick(f->vcpus[0]);
    return NULL;
}

static void kicked(struct fixture *f)
{
    pthread_t thread;
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(pthread_create(&thread, NULL, kick_soon, f), 0);
        run_to_end(f);
        pthread_join(thread, NULL);
    }
    vcpu_kick(f->vcpus[0]); /* before it runs */
    run_to_end(f);
}

static void kicks_are_heard(void **state)
{
    OPEN(f);
    LOAD(&f, forever);
    kicked(&f);
    assert_true(state_of(&f)->gpr[8] > 0);
    LOAD(&f, halted);
    kicked(&f);
    close_fixture(&f);
}

/* ---- state ---- */

PROGRAM(count, "mov $0xf4, %dx\n1: inc %r8\n mov %r8d, %eax\n out %eax, %dx\n jmp 1b");

static void save(struct fixture *f, struct state_buffer *to)
{
    state_save(isa_x86_64.state, f->vcpus[0], to);
    state_save(f->machine->state, f->machine, to);
}

/* A kick comes in the middle of an instruction: it is over when the state is looked at. */
static void state_goes_to_another_machine(void **state)
{
    struct error *error = NULL;
    OPEN(f);
    LOAD(&f, count);
    state_of(&f)->dr[0] = 0x1234;
    state_of(&f)->gpr[15] = UINT64_C(0xfedcba9876543210);
    x86_changed(x86_cpu_of(f.vcpus[0]));
    for (uint64_t i = 1; i <= 20; i++) {
        struct state_buffer saved = {0};
        size_t at = 0;
        run_to_end(&f);
        assert_true(f.code == i);
        assert_true(isa_x86_64.pc(f.vcpus[0]) == CODE + 11);
        save(&f, &saved);
        free_vcpus(&f);
        make_vcpus(&f, 1);
        assert_true(state_restore(isa_x86_64.state, f.vcpus[0], saved.data, saved.size, &at, &error));
        assert_true(state_restore(f.machine->state, f.machine, saved.data, saved.size, &at, &error));
        assert_no_error(error);
        assert_int_equal(at, saved.size);
        state_buffer_free(&saved);
        assert_true(state_of(&f)->gpr[8] == i);
        assert_true(state_of(&f)->gpr[15] == UINT64_C(0xfedcba9876543210));
        assert_true(state_of(&f)->dr[0] == 0x1234);
    }
    close_fixture(&f);
}

static uint64_t *tsc_of(struct fixture *f, unsigned cpu)
{
    struct x86_state *state = &x86_cpu_of(f->vcpus[cpu])->state;
    x86_fetch(x86_cpu_of(f->vcpus[cpu]));
    for (unsigned i = 0; i < state->msr_count; i++)
        if (state->msrs[i].index == 0x10)
            return &state->msrs[i].value;
    fail();
    return NULL;
}

/* The machine's time goes on and stands still again: no counter has advanced by more than the host's. */
static void check_it_stood(struct fixture *f, uint64_t first, uint64_t distance)
{
    assert_true(*tsc_of(f, 0) == first && *tsc_of(f, 1) == first + distance);
    usleep(20000);
    uint64_t begin = __builtin_ia32_rdtsc();
    f->machine->stop_time(f->machine, false);
    f->machine->stop_time(f->machine, true);
    uint64_t most = __builtin_ia32_rdtsc() - begin, now = *tsc_of(f, 0);
    assert_true(now > first && now - first <= most);
    assert_true(*tsc_of(f, 1) == now + distance);
}

/* Not of a /dev/kvm that emulates. */
static bool offsets_are_obeyed(struct fixture *f)
{
    uint64_t offset = 1000000007, seen = 0;
    struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
    int fd = ((struct kvm_cpu *)f->vcpus[0]->engine_data)->fd;
    bool set = kvm_ioctl(fd, KVM_SET_DEVICE_ATTR, &attribute) == 0;
    attribute.addr = (uintptr_t)&seen;
    return set && kvm_ioctl(fd, KVM_GET_DEVICE_ATTR, &attribute) == 0 && seen == offset;
}

static void time_stamp_counters_stand_still(void **state)
{
    enum { DISTANCE = 1000000007 };
    struct error *error = NULL;
    struct state_buffer saved = {0};
    size_t at = 0;
    OPEN(f);
    free_vcpus(&f);
    make_vcpus(&f, 2);
    if (!offsets_are_obeyed(&f)) {
        close_fixture(&f);
        skip();
    }
    for (unsigned i = 0; i < 2; i++) /* as if it had run */
        assert_true(x86_cpu_of(f.vcpus[i])->keeper->store(x86_cpu_of(f.vcpus[i]), &error));
    f.machine->stop_time(f.machine, true);
    check_it_stood(&f, *tsc_of(&f, 0), *tsc_of(&f, 1) - *tsc_of(&f, 0));
    uint64_t first = *tsc_of(&f, 0);
    *tsc_of(&f, 1) = first + DISTANCE;
    x86_changed(x86_cpu_of(f.vcpus[1]));
    state_save(isa_x86_64.state, f.vcpus[0], &saved);
    state_save(isa_x86_64.state, f.vcpus[1], &saved);
    state_save(f.machine->state, f.machine, &saved);
    free_vcpus(&f);
    make_vcpus(&f, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_true(state_restore(isa_x86_64.state, f.vcpus[i], saved.data, saved.size, &at, &error));
    assert_true(state_restore(f.machine->state, f.machine, saved.data, saved.size, &at, &error));
    assert_no_error(error);
    check_it_stood(&f, first, DISTANCE);
    state_buffer_free(&saved);
    close_fixture(&f);
}

static void impossible_state_is_refused(void **state)
{
    struct error *error = NULL;
    OPEN(f);
    struct state_buffer saved = {0};
    size_t at = 0;
    LOAD(&f, count);
    x86_cpu_of(f.vcpus[0])->state.activity = X86_ACTIVITIES;
    state_save(isa_x86_64.state, f.vcpus[0], &saved);
    assert_false(state_restore(isa_x86_64.state, f.vcpus[0], saved.data, saved.size, &at, &error));
    assert_non_null(strstr(error_message(error), "activity"));
    error_free(error);
    state_buffer_free(&saved);
    close_fixture(&f);
}

static void a_reset_is_as_at_power_on(void **state)
{
    OPEN(f);
    LOAD(&f, count);
    run_to_end(&f);
    isa_x86_64.vcpu_reset(f.vcpus[0]);
    f.machine->reset(f.machine);
    const struct x86_state *after = state_of(&f);
    assert_true(after->rip == 0xfff0 && after->segments[X86_CS].selector == 0xf000);
    assert_true(after->gpr[8] == 0 && (after->cr0 & X86_CR0_PG) == 0 && after->efer == 0);
    close_fixture(&f);
}

static void addresses_are_translated_for_a_debugger(void **state)
{
    uint64_t gpa;
    OPEN(f);
    LOAD(&f, count);
    assert_true(isa_x86_64.translate(f.vcpus[0], 0x12345, &gpa));
    assert_true(gpa == 0x12345);
    assert_true(isa_x86_64.translate(f.vcpus[0], DEVICE + 0x345, &gpa));
    assert_true(gpa == DEVICE + 0x345);
    assert_false(isa_x86_64.translate(f.vcpus[0], UINT64_C(1) << 33, &gpa));
    close_fixture(&f);
}

/* The code that it was about to execute: "inc %r8", and what comes behind. */
static void a_dump_has_registers_and_code(void **state)
{
    char text[4096];
    OPEN(f);
    LOAD(&f, forever);
    state_of(&f)->gpr[13] = 0x1234abcd;
    x86_changed(x86_cpu_of(f.vcpus[0]));
    isa_x86_64.dump(f.vcpus[0], text, sizeof(text));
    assert_non_null(strstr(text, "r13 000000001234abcd"));
    assert_non_null(strstr(text, " code 49 ff c0 eb fb"));
    state_of(&f)->rip = UINT64_C(1) << 33; /* where nothing is mapped */
    x86_changed(x86_cpu_of(f.vcpus[0]));
    isa_x86_64.dump(f.vcpus[0], text, sizeof(text));
    assert_non_null(strstr(text, " code\n"));
    close_fixture(&f);
}

/* ---- the log of written pages ---- */

PROGRAM(writer, "mov $0x30000, %edi\n1: movl $1, (%rdi)\n mov $0xf4, %dx\n out %eax, %dx\n"
                "add $0x1000, %edi\n jmp 1b");

/* Both of KVM's ways, where it has rings. */
static void with_both(struct fixture *f, void (*test)(struct fixture *f))
{
    for (unsigned bitmap = 0; bitmap < 2; bitmap++) {
        free_vcpus(f);
        f->bitmap = bitmap != 0;
        make_vcpus(f, 1);
        test(f);
    }
}

static bool is_written(const uint64_t *bitmap, uint64_t page)
{
    return (bitmap[page / 64] >> (page % 64) & 1) != 0;
}

static void check_log(struct fixture *f)
{
    uint64_t bitmap[RAM_SIZE / MEM_PAGE_SIZE / 64];
    LOAD(f, writer);
    run_to_end(f); /* before anybody reads the log: all pages count */
    assert_int_equal(mem_dirty_take(f->mem, f->ram, 0, RAM_SIZE, bitmap), RAM_SIZE / MEM_PAGE_SIZE);
    for (unsigned i = 1; i <= 3; i++) {
        run_to_end(f);
        assert_true(mem_dirty_count(f->mem, f->ram) >= 1);
        mem_dirty_take(f->mem, f->ram, 0, RAM_SIZE, bitmap);
        uint64_t page = DATA / MEM_PAGE_SIZE + i;
        assert_true(is_written(bitmap, page));
        assert_false(is_written(bitmap, page + 1));
    }
    assert_int_equal(mem_dirty_take(f->mem, f->ram, 0, RAM_SIZE, bitmap), 0);
    mem_dirty_stop(f->mem);
    run_to_end(f);
    assert_int_equal(mem_dirty_take(f->mem, f->ram, 0, RAM_SIZE, bitmap), RAM_SIZE / MEM_PAGE_SIZE);
    mem_dirty_stop(f->mem);
}

static void written_pages_are_in_the_log(void **state)
{
    OPEN(f);
    with_both(&f, check_log);
    close_fixture(&f);
}

/* More pages than a ring has entries, again and again. It leaves the guest at each one: a KVM that only
 * emulates looks for a full ring nowhere else. */
PROGRAM(sweeper, "1: mov $0x40000, %edi\n mov $0x1800, %ecx\n2: incl (%rdi)\n add $0x1000, %edi\n"
                 "mov $0x3f8, %dx\n out %al, %dx\n dec %ecx\n jnz 2b\n"
                 "mov $0xf4, %dx\n out %eax, %dx\n jmp 1b");

static bool has_rings(const struct fixture *f)
{
    return ioctl(f->kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0;
}

static void check_sweeps(struct fixture *f)
{
    enum { FIRST = 0x40, PAGES = 0x1800, SWEEPS = 3 };
    uint64_t bitmap[RAM_SIZE / MEM_PAGE_SIZE / 64];
    LOAD(f, sweeper);
    mem_dirty_take(f->mem, f->ram, 0, RAM_SIZE, bitmap);
    for (uint32_t sweep = 1; sweep <= SWEEPS; sweep++) {
        run_to_end(f);
        mem_dirty_take(f->mem, f->ram, 0, RAM_SIZE, bitmap);
        for (uint64_t i = 0; i < PAGES; i++) {
            assert_true(is_written(bitmap, FIRST + i));
            assert_int_equal(load_le32(f->ram->host + (FIRST + i) * MEM_PAGE_SIZE), sweep);
        }
        assert_false(is_written(bitmap, FIRST + PAGES));
    }
    assert_true(counted(f, "kvm-exits-ring") > 0 || f->bitmap || !has_rings(f));
    mem_dirty_stop(f->mem);
    memset(f->ram->host + FIRST * MEM_PAGE_SIZE, 0, PAGES * MEM_PAGE_SIZE);
}

static void more_is_written_than_a_ring_holds(void **state)
{
    OPEN(f);
    with_both(&f, check_sweeps);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_are_served),
        cmocka_unit_test(memory_mapped_devices_are_served),
        cmocka_unit_test(a_flash_is_left_to_for_writes_alone),
        cmocka_unit_test(doorbells_do_not_leave_the_guest),
        cmocka_unit_test(an_exit_that_is_not_served_is_told),
        cmocka_unit_test(a_failing_entry_tells_which_memory),
        cmocka_unit_test(msrs_are_kept_and_saved),
        cmocka_unit_test(faults_are_the_guests),
        cmocka_unit_test(a_triple_fault_resets),
        cmocka_unit_test(messages_wake_a_halted_processor),
        cmocka_unit_test(kicks_are_heard),
        cmocka_unit_test(state_goes_to_another_machine),
        cmocka_unit_test(time_stamp_counters_stand_still),
        cmocka_unit_test(impossible_state_is_refused),
        cmocka_unit_test(a_reset_is_as_at_power_on),
        cmocka_unit_test(addresses_are_translated_for_a_debugger),
        cmocka_unit_test(a_dump_has_registers_and_code),
        cmocka_unit_test(written_pages_are_in_the_log),
        cmocka_unit_test(more_is_written_than_a_ring_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
