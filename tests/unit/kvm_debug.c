/* SPDX-License-Identifier: MIT
 *
 * A debugger's view of a guest of KVM's: registers, breakpoints, watchpoints, steps; as GDB's server uses
 * them.
 */
#include "kvm_guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vm/gdb/internal.h"

#define DEBUG isa_x86_64.debug

struct debugged {
    struct fixture f;
    struct vcpu_points points;
    struct vcpu_debug *debug;
};

static bool begin(struct debugged *d)
{
    if (!open_fixture(&d->f))
        return false;
    d->points = (struct vcpu_points){0};
    d->debug = DEBUG->attach(d->f.vcpus[0]);
    d->debug->points = &d->points;
    return true;
}

static void end(struct debugged *d)
{
    d->f.vcpus[0]->debug = NULL;
    DEBUG->detach(d->debug);
    close_fixture(&d->f);
}

#define OPEN_DEBUGGED(d)                                                                           \
    struct debugged d;                                                                             \
    (void)state;                                                                                   \
    if (!begin(&d))                                                                                \
    skip()

static bool add_point(struct debugged *d, enum vcpu_point_kind kind, uint64_t first, uint64_t size)
{
    const struct vcpu_point point = {first, first + size - 1, kind};
    if (!DEBUG->takes_point(&d->points, &point))
        return false;
    d->points.point[d->points.count++] = point;
    return true;
}

static enum vcpu_stop runs_until(struct debugged *d, bool step)
{
    d->debug->stop = VCPU_STOP_NONE;
    d->debug->step = step;
    d->f.vcpus[0]->debug = step || d->points.count > 0 ? d->debug : NULL;
    enum vcpu_exit exit = engine_kvm.run(d->f.vcpus[0], UINT64_MAX);
    if (exit != VCPU_EXIT_DEBUG)
        return VCPU_STOP_NONE;
    assert_int_not_equal(d->debug->stop, VCPU_STOP_NONE);
    /* It stays there until somebody says otherwise. */
    assert_int_equal(engine_kvm.run(d->f.vcpus[0], UINT64_MAX), VCPU_EXIT_DEBUG);
    return d->debug->stop;
}

static uint64_t pc(struct debugged *d)
{
    return isa_x86_64.pc(d->f.vcpus[0]) - CODE;
}

/* Offsets: 0 xor, 3 mov, 8 inc, 11 mov to memory, 15 dec, 17 jnz, 19 mov, 23 out. */
PROGRAM(loop, "xor %r8, %r8\n mov $3, %ecx\n1: inc %r8\n mov %r8, (%rdi)\n nop\n dec %ecx\n jnz 1b\n"
              "mov $0xf4, %dx\n out %eax, %dx\n2: jmp 2b");

/* Debug registers as a guest's state has them: a debugger has no part in it. */
PROGRAM(registers, "xor %r9d, %r9d\n mov %r8, (%rdi)\n nop\n mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b\n"
                   ".org registers_begin + 128\n inc %r9d\n iretq");

/* The processors that QEMU emulates do not load their guests'. */
static bool has_registers(struct debugged *d)
{
    if (!kvm_runs_guests(d->f.kvm, NULL))
        return true;
    LOAD(&d->f, registers);
    set_handler(&d->f, 1, 128);
    struct x86_state *registers = state_of(&d->f);
    registers->gpr[X86_RDI] = registers->dr[0] = DATA;
    registers->dr7 = 0x90402; /* eight bytes that are written */
    run_to_end(&d->f);
    bool good = state_of(&d->f)->gpr[9] == 1;
    state_of(&d->f)->dr7 = 0x400;
    x86_changed(x86_cpu_of(d->f.vcpus[0]));
    return good;
}

static void breakpoints_stop_before_their_instruction(void **state)
{
    OPEN_DEBUGGED(d);
    if (!has_registers(&d)) {
        end(&d);
        skip();
    }
    LOAD(&d.f, loop);
    state_of(&d.f)->gpr[X86_RDI] = DATA;
    assert_true(add_point(&d, VCPU_POINT_BREAK_SOFT, CODE + 8, 1));
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(runs_until(&d, false), VCPU_STOP_BREAK);
        assert_int_equal(pc(&d), 8);
        assert_true(d.debug->stop_address == CODE + 8);
        assert_true(state_of(&d.f)->gpr[8] == i);
        d.points.count = 0; /* over it, as GDB does */
        assert_int_equal(runs_until(&d, true), VCPU_STOP_STEP);
        assert_int_equal(pc(&d), 11);
        assert_true(add_point(&d, VCPU_POINT_BREAK_HARD, CODE + 8, 1));
    }
    assert_int_equal(runs_until(&d, false), VCPU_STOP_NONE); /* PORT_END kicks it */
    d.points.count = 0;
    LOAD(&d.f, loop); /* and nothing is left of it all */
    state_of(&d.f)->gpr[X86_RDI] = DATA;
    d.f.vcpus[0]->debug = NULL;
    run_to_end(&d.f);
    assert_true(state_of(&d.f)->gpr[8] == 3);
    end(&d);
}

static void steps_are_of_one_instruction(void **state)
{
    static const uint64_t places[] = {3, 8, 11, 14, 15, 17, 8, 11};
    OPEN_DEBUGGED(d);
    LOAD(&d.f, loop);
    state_of(&d.f)->gpr[X86_RDI] = DATA;
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        assert_int_equal(runs_until(&d, true), VCPU_STOP_STEP);
        assert_int_equal(pc(&d), places[i]);
    }
    assert_int_equal(state_of(&d.f)->rflags & 0x100, 0); /* the trap flag is the debugger's */
    d.debug->step_first = CODE + 8; /* a line of source: until the loop is left */
    d.debug->step_last = CODE + 19;
    assert_int_equal(runs_until(&d, true), VCPU_STOP_STEP);
    assert_int_equal(pc(&d), 19);
    assert_true(state_of(&d.f)->gpr[8] == 3);
    end(&d);
}

/* A KVM that emulates instructions does not look at the debug registers for their data. */
static void watchpoints_stop_behind_the_access(void **state)
{
    OPEN_DEBUGGED(d);
    if (!kvm_runs_guests(d.f.kvm, NULL) || !has_registers(&d)) {
        end(&d);
        skip();
    }
    LOAD(&d.f, loop);
    state_of(&d.f)->gpr[X86_RDI] = DATA;
    assert_true(add_point(&d, VCPU_POINT_WRITE, DATA + 16, 8));
    assert_true(add_point(&d, VCPU_POINT_WRITE, DATA, 8));
    for (uint64_t i = 1; i <= 3; i++) {
        assert_int_equal(runs_until(&d, false), VCPU_STOP_WATCH);
        assert_true(d.debug->stop_address == DATA);
        assert_int_equal(d.debug->stop_kind, VCPU_POINT_WRITE);
        assert_int_equal(pc(&d), 14);
        assert_true(load_le64(d.f.ram->host + DATA) == i);
    }
    assert_int_equal(runs_until(&d, false), VCPU_STOP_NONE);
    end(&d);
}

/* A guest that steps through itself: its handler counts in r9, and it can do so beside a debugger. */
PROGRAM(itself, "xor %r9d, %r9d\n pushf\n orl $0x100, (%rsp)\n popf\n nop\n nop\n pushf\n"
                "andl $0xfffffeff, (%rsp)\n popf\n nop\n mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b\n"
                ".org itself_begin + 128\n inc %r9d\n mov %dr6, %r10\n iretq");

static void a_guest_keeps_its_own_steps(void **state)
{
    OPEN_DEBUGGED(d);
    LOAD(&d.f, itself);
    set_handler(&d.f, 1, 128);
    run_to_end(&d.f);
    uint64_t alone = state_of(&d.f)->gpr[9];
    assert_true(alone >= 4);
    LOAD(&d.f, itself);
    assert_true(add_point(&d, VCPU_POINT_BREAK_SOFT, CODE + 0x800, 1)); /* never reached */
    assert_int_equal(runs_until(&d, false), VCPU_STOP_NONE);
    assert_true(state_of(&d.f)->gpr[9] == alone);
    assert_int_equal(state_of(&d.f)->gpr[10] & 0x4000, 0x4000); /* it is told why */
    end(&d);
}

/* At an instruction that the guest comes to by its own step: offset 13 is the second nop. */
static void a_breakpoint_and_the_guests_own_step(void **state)
{
    OPEN_DEBUGGED(d);
    if (!has_registers(&d)) {
        end(&d);
        skip();
    }
    LOAD(&d.f, itself);
    set_handler(&d.f, 1, 128);
    run_to_end(&d.f);
    uint64_t alone = state_of(&d.f)->gpr[9];
    LOAD(&d.f, itself);
    assert_true(add_point(&d, VCPU_POINT_BREAK_SOFT, CODE + 13, 1));
    assert_int_equal(runs_until(&d, false), VCPU_STOP_BREAK);
    assert_int_equal(pc(&d), 13);
    d.points.count = 0;
    d.f.vcpus[0]->debug = NULL;
    d.debug->stop = VCPU_STOP_NONE;
    run_to_end(&d.f);
    assert_true(state_of(&d.f)->gpr[9] == alone);
    end(&d);
}

static void what_debug_registers_cannot_hold_is_refused(void **state)
{
    OPEN_DEBUGGED(d);
    assert_false(add_point(&d, VCPU_POINT_READ, DATA, 8));
    assert_false(add_point(&d, VCPU_POINT_WRITE, DATA, 3));
    assert_false(add_point(&d, VCPU_POINT_WRITE, DATA + 1, 2));
    assert_false(add_point(&d, VCPU_POINT_ACCESS, DATA, 16));
    assert_true(add_point(&d, VCPU_POINT_ACCESS, DATA, 8));
    for (uint64_t i = 0; i < 3; i++)
        assert_true(add_point(&d, VCPU_POINT_BREAK_SOFT, CODE + i, 1));
    assert_false(add_point(&d, VCPU_POINT_BREAK_SOFT, CODE + 9, 1));
    end(&d);
}

/* ---- registers ---- */

static unsigned number_of(const char *name)
{
    struct vcpu_register reg;
    for (unsigned i = 0; i < DEBUG->register_limit; i++)
        if (DEBUG->describe(i, &reg) && strcmp(reg.name, name) == 0)
            return i;
    fail_msg("there is no register %s", name);
    return 0;
}

static void writes(struct debugged *d, const char *name, uint64_t value)
{
    uint8_t bytes[VCPU_REGISTER_MAX] = {0}, now[VCPU_REGISTER_MAX];
    store_le64(bytes, value);
    assert_true(DEBUG->write(d->f.vcpus[0], number_of(name), bytes));
    DEBUG->read(d->f.vcpus[0], number_of(name), now);
    assert_memory_equal(now, bytes, sizeof(bytes));
}

/* What was written is what the guest computes with. */
PROGRAM(adds, "add %rbx, %rax\n add %r15, %rax\n mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b");

static void registers_are_read_and_written(void **state)
{
    OPEN_DEBUGGED(d);
    LOAD(&d.f, adds);
    writes(&d, "rax", 0x1000);
    writes(&d, "rbx", 0x200);
    writes(&d, "r15", 0x34);
    writes(&d, "mxcsr", 0x1f81);
    writes(&d, "xmm15", 0x123456789abcdef0);
    writes(&d, "st3", 0x8000000000000001);
    writes(&d, "ftag", 0xfff0);
    writes(&d, "fctrl", 0x27f);
    writes(&d, "fs_base", 0x7654321000);
    writes(&d, "eflags", 0x46);
    run_to_end(&d.f);
    assert_true(d.f.code == 0x1234);
    uint8_t bytes[VCPU_REGISTER_MAX];
    DEBUG->read(d.f.vcpus[0], number_of("rax"), bytes);
    assert_true(load_le64(bytes) == 0x1234);
    DEBUG->read(d.f.vcpus[0], number_of("xmm15"), bytes);
    assert_true(load_le64(bytes) == 0x123456789abcdef0);
    DEBUG->read(d.f.vcpus[0], number_of("cs"), bytes);
    assert_int_equal(load_le32(bytes), 8);
    assert_true(DEBUG->write(d.f.vcpus[0], number_of("cs"), bytes)); /* as it is */
    bytes[0] ^= 16;
    assert_false(DEBUG->write(d.f.vcpus[0], number_of("cs"), bytes));
    end(&d);
}

/* GDB itself takes the description, and has the registers it needs for amd64. */
static void gdb_takes_the_description(void **state)
{
    char name[] = "/tmp/trapeze-gdb-XXXXXX", command[256], line[256];
    size_t size;
    bool found = false;
    (void)state;
    char *text = gdb_describe_target(DEBUG, &size);
    int fd = mkstemp(name);
    assert_true(fd >= 0 && write(fd, text, size) == (ssize_t)size);
    close(fd);
    free(text);
    snprintf(command, sizeof(command),
             "gdb-multiarch -nx -batch -ex 'set tdesc filename %s' -ex 'show architecture' -ex 'ptype $xmm1' "
             "-ex 'ptype $cr3' -ex 'ptype $st1' 2>&1",
             name);
    FILE *gdb = popen(command, "r");
    assert_non_null(gdb);
    for (bool missing = false; fgets(line, sizeof(line), gdb) != NULL;) {
        missing = strstr(line, "not found") != NULL;
        if (missing) {
            pclose(gdb);
            unlink(name);
            skip();
        }
        assert_null(strstr(line, "warning"));
        assert_null(strstr(line, "void"));
        found = found || strstr(line, "i386:x86-64") != NULL;
    }
    assert_int_equal(pclose(gdb), 0);
    unlink(name);
    assert_true(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(breakpoints_stop_before_their_instruction),
        cmocka_unit_test(steps_are_of_one_instruction),
        cmocka_unit_test(watchpoints_stop_behind_the_access),
        cmocka_unit_test(a_guest_keeps_its_own_steps),
        cmocka_unit_test(a_breakpoint_and_the_guests_own_step),
        cmocka_unit_test(what_debug_registers_cannot_hold_is_refused),
        cmocka_unit_test(registers_are_read_and_written),
        cmocka_unit_test(gdb_takes_the_description),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
