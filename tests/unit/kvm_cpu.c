/* SPDX-License-Identifier: MIT
 *
 * What a guest of KVM's finds of its processor, and that it finds the same after its state went to another
 * machine.
 */
#include "kvm_guest.h"

#define LEAF_1_CX16       (1u << 13)
#define LEAF_1_HYPERVISOR (1u << 31)

/* What leaves 1, 0x40000000 and 0x80000001 tell. */
PROGRAM(ask, "mov $1, %eax\n xor %ecx, %ecx\n cpuid\n mov %eax, %r8d\n mov %ecx, %r9d\n"
             "mov $0x40000000, %eax\n cpuid\n mov %ebx, %r10d\n mov %eax, %r11d\n"
             "mov $0x80000001, %eax\n cpuid\n mov %ecx, %r12d\n"
             "mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b");

static struct x86_state *asks(struct fixture *f)
{
    LOAD(f, ask);
    run_to_end(f);
    return state_of(f);
}

/* Machines of this kind from now on. */
static void change_cpu(struct fixture *f, const char *cpu)
{
    free_vcpus(f);
    f->cpu = cpu;
    make_vcpus(f, 1);
}

static void the_guest_finds_what_was_chosen(void **state)
{
    enum { SVM = 1 << 2 };
    OPEN(f);
    const struct x86_state *found = asks(&f);
    assert_int_equal(found->gpr[10], 0x4b4d564b); /* "KVMK" */
    assert_true((found->gpr[9] & LEAF_1_HYPERVISOR) != 0);
    assert_true((found->gpr[9] & LEAF_1_CX16) != 0);
    assert_int_equal(found->gpr[12] & SVM, 0);
    change_cpu(&f, "host,cx16=off");
    assert_int_equal(asks(&f)->gpr[9] & LEAF_1_CX16, 0);
    change_cpu(&f, "x86-64-v1");
    found = asks(&f);
    assert_int_equal(found->gpr[8], 0xf61);
    assert_int_equal(found->gpr[9] & LEAF_1_CX16, 0);
    assert_true((found->gpr[9] & LEAF_1_HYPERVISOR) != 0);
    close_fixture(&f);
}

static void a_model_that_the_host_lacks_makes_no_machine(void **state)
{
    static const char *const texts[] = {"host,avx512er=on", "nobody"};
    OPEN(f);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct error *error = NULL;
        const struct engine_setup setup = {.mem = f.mem,
                                           .log = &f.log,
                                           .vcpu_count = 1,
                                           .kvm_fd = f.kvm,
                                           .cpu = texts[i],
                                           .kvm_may_emulate = true};
        assert_null(engine_kvm.machine_new(&setup, &error));
        assert_non_null(strstr(error_message(error), i == 0 ? "avx512er" : "nobody"));
        assert_int_equal(error_kind(error), ERROR_USAGE);
        error_free(error);
    }
    close_fixture(&f);
}

/* ---- MSRs ---- */

/* Hyper-V's, which KVM has, and one that nobody has: a #GP each, counted in r8. */
PROGRAM(hidden, "xor %r8d, %r8d\n mov $0x40000000, %ecx\n rdmsr\n mov $0x40000000, %ecx\n wrmsr\n"
                "mov $0x40000021, %ecx\n rdmsr\n mov $0xdeadbeef, %ecx\n rdmsr\n"
                "mov $0xf4, %dx\n out %eax, %dx\n1: jmp 1b\n"
                ".org hidden_begin + 128\n inc %r8d\n add $8, %rsp\n addq $2, (%rsp)\n iretq");

static void msrs_that_nobody_announced_are_not_there(void **state)
{
    OPEN(f);
    LOAD(&f, hidden);
    set_handler(&f, 13, 128);
    run_to_end(&f);
    assert_int_equal(state_of(&f)->gpr[8], 4);
    close_fixture(&f);
}

/* ---- what travels ---- */

static void save(struct fixture *f, struct state_buffer *to)
{
    state_save(isa_x86_64.state, f->vcpus[0], to);
}

static bool restore(struct fixture *f, const struct state_buffer *from, struct error **err)
{
    size_t at = 0;
    return state_restore(isa_x86_64.state, f->vcpus[0], from->data, from->size, &at, err);
}

static void a_guest_keeps_its_processor(void **state)
{
    struct error *error = NULL;
    struct state_buffer saved = {0}, again = {0};
    OPEN(f);
    change_cpu(&f, "host,cx16=off");
    (void)asks(&f);
    save(&f, &saved);
    change_cpu(&f, NULL);
    assert_true((asks(&f)->gpr[9] & LEAF_1_CX16) != 0);
    change_cpu(&f, NULL);
    assert_true(restore(&f, &saved, &error));
    assert_no_error(error);
    save(&f, &again);
    assert_int_equal(again.size, saved.size);
    assert_int_equal(asks(&f)->gpr[9] & LEAF_1_CX16, 0);
    isa_x86_64.vcpu_reset(f.vcpus[0]); /* and a reset changes nothing of that */
    f.machine->reset(f.machine);
    assert_int_equal(asks(&f)->gpr[9] & LEAF_1_CX16, 0);
    state_buffer_free(&saved);
    state_buffer_free(&again);
    close_fixture(&f);
}

static void refuse_leaves(struct fixture *f, const char *word)
{
    struct error *error = NULL;
    struct state_buffer saved = {0};
    save(f, &saved);
    change_cpu(f, NULL);
    assert_false(restore(f, &saved, &error));
    if (strstr(error_message(error), word) == NULL)
        fail_msg("no '%s' in '%s'", word, error_message(error));
    error_free(error);
    state_buffer_free(&saved);
    change_cpu(f, NULL); /* what is half restored does not run */
}

static struct x86_cpuid *leaf_of(struct fixture *f, uint32_t function)
{
    struct x86_cpu *cpu = x86_cpu_of(f->vcpus[0]);
    for (size_t i = 0; i < cpu->cpuid_count; i++)
        if (cpu->cpuid[i].function == function)
            return &cpu->cpuid[i];
    fail();
    return NULL;
}

static void a_processor_that_is_not_here_is_refused(void **state)
{
    OPEN(f);
    leaf_of(&f, 7)->ebx |= 1u << 27; /* avx512er, which came and went with the Xeon Phi */
    refuse_leaves(&f, "avx512er");
    leaf_of(&f, 0x80000001)->ecx |= 1u << 2; /* what nobody asked for here */
    refuse_leaves(&f, "svm");
    leaf_of(&f, 0)->ebx ^= 1;
    refuse_leaves(&f, "vendor");
    leaf_of(&f, 0x80000000)->function = 0x12345;
    refuse_leaves(&f, "leaf");
    leaf_of(&f, 1)->indexed = 2;
    refuse_leaves(&f, "CPUID");
    close_fixture(&f);
}

/* An MSR of KVM's that is in no saved state, and one that is, with what it does not take. */
static void msrs_that_are_not_saved_are_refused(void **state)
{
    static const struct x86_msr bad[] = {{0x40000001, 1}, {0xc0000102, UINT64_C(0x1234567812345678)}};
    OPEN(f);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error *error = NULL;
        struct x86_cpu *cpu = x86_cpu_of(f.vcpus[0]);
        x86_fetch(cpu);
        x86_changed(cpu); /* what is here is what is saved */
        cpu->state.msrs[0] = bad[i];
        struct state_buffer saved = {0};
        save(&f, &saved);
        change_cpu(&f, NULL);
        assert_false(restore(&f, &saved, &error));
        assert_non_null(strstr(error_message(error), "MSRs"));
        error_free(error);
        state_buffer_free(&saved);
        change_cpu(&f, NULL);
    }
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_guest_finds_what_was_chosen),
        cmocka_unit_test(a_model_that_the_host_lacks_makes_no_machine),
        cmocka_unit_test(msrs_that_nobody_announced_are_not_there),
        cmocka_unit_test(a_guest_keeps_its_processor),
        cmocka_unit_test(a_processor_that_is_not_here_is_refused),
        cmocka_unit_test(msrs_that_are_not_saved_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
