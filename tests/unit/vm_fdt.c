/* SPDX-License-Identifier: MIT
 *
 * The machine's device tree as a consumer reads it: expected nodes, and references that all
 * lead somewhere.
 */
#include "support.h"

#include <libfdt.h>

#include "base/log.h"
#include "base/loop.h"
#include "boot_files.h"
#include "config/machine.h"
#include "isa/riscv64/hart.h"
#include "vm/machine.h"
#include "vm/virt/virt.h"

#define CPUS 4

struct tree {
    struct loop *loop;
    struct log log;
    struct machine_config config;
    int kernel_fd, initrd_fd;
    struct vm *vm;
    void *fdt;
    struct error *err;
};

static void on_end(void *opaque, enum vm_end end, uint32_t code)
{
    (void)opaque, (void)end, (void)code;
}

static int setup_with(void **state, enum machine_virtio virtio)
{
    struct tree *t = calloc(1, sizeof(*t));
    struct boot_bytes kernel, initrd;
    char path[32];
    size_t size;
    make_image(&kernel, "", 0);
    make_newc(&initrd);
    machine_config_init(&t->config);
    t->kernel_fd = put_file(kernel.data, kernel.size, path);
    t->config.kernel = strdup(path);
    t->initrd_fd = put_file(initrd.data, initrd.size, path);
    t->config.initrd = strdup(path);
    t->config.append = strdup("console=ttyS0 quiet");
    t->config.memory = 96 * MIB;
    t->config.cpus = CPUS;
    t->config.virtio = virtio;
    log_init(&t->log, LOG_LEVEL_ERROR, 2, "test");
    t->loop = loop_new(&t->err);
    const struct vm_env env = {.loop = t->loop, .log = &t->log, .on_end = on_end};
    t->vm = vm_new(&t->config, &env, &t->err);
    assert_no_error(t->err);
    t->fdt = virt_fdt_new(t->vm, &size, &t->err);
    assert_non_null(t->fdt);
    assert_int_equal(fdt_check_full(t->fdt, size), 0);
    *state = t;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, MACHINE_VIRTIO_PCI);
}

static int setup_mmio(void **state)
{
    return setup_with(state, MACHINE_VIRTIO_MMIO);
}

static int teardown(void **state)
{
    struct tree *t = *state;
    free(t->fdt);
    vm_free(t->vm);
    loop_free(t->loop);
    machine_config_clear(&t->config);
    close(t->kernel_fd);
    close(t->initrd_fd);
    free(t);
    return 0;
}

static const void *property(const struct tree *t, const char *path, const char *name, int *size)
{
    int node = fdt_path_offset(t->fdt, path);
    if (node < 0)
        fail_msg("no node %s", path);
    const void *value = fdt_getprop(t->fdt, node, name, size);
    if (value == NULL)
        fail_msg("%s has no %s", path, name);
    return value;
}

static void expect_text(const struct tree *t, const char *path, const char *name, const char *text)
{
    int size;
    const char *value = property(t, path, name, &size);
    assert_int_equal(size, strlen(text) + 1);
    assert_string_equal(value, text);
}

static void expect_number(const struct tree *t, const char *path, const char *name, uint32_t number)
{
    int size;
    const fdt32_t *value = property(t, path, name, &size);
    assert_int_equal(size, 4);
    assert_int_equal(fdt32_ld(value), number);
}

static uint64_t wide(const struct tree *t, const char *path, const char *name)
{
    int size;
    const fdt64_t *value = property(t, path, name, &size);
    assert_true(size >= 8);
    return fdt64_ld(value);
}

static void root_and_chosen(void **state)
{
    const struct tree *t = *state;
    int size;
    expect_text(t, "/", "compatible", "riscv-virtio");
    expect_text(t, "/chosen", "bootargs", "console=ttyS0 quiet");
    expect_text(t, "/chosen", "stdout-path", "/soc/serial@10000000");
    expect_text(t, "/aliases", "serial0", "/soc/serial@10000000");
    assert_true(fdt_path_offset(t->fdt, "/soc/serial@10000000") > 0);
    assert_true(wide(t, "/chosen", "linux,initrd-start") == t->vm->files.boot.initrd_gpa);
    assert_true(wide(t, "/chosen", "linux,initrd-end") ==
                t->vm->files.boot.initrd_gpa + t->vm->files.boot.initrd_size);
    property(t, "/chosen", "rng-seed", &size);
    assert_true(size >= 32);
    assert_true(wide(t, "/memory@80000000", "reg") == UINT64_C(0x80000000));
    const fdt64_t *memory = property(t, "/memory@80000000", "reg", &size);
    assert_true(fdt64_ld(memory + 1) == 96 * MIB);
    /* systemd takes any hypervisor node for a virtual machine. */
    property(t, "/hypervisor", "compatible", &size);
}

static void harts(void **state)
{
    const struct tree *t = *state;
    expect_number(t, "/cpus", "timebase-frequency", 10000000);
    for (unsigned i = 0; i < CPUS; i++) {
        char path[64], isa[RV_ISA_STRING_MAX];
        int size;
        snprintf(path, sizeof(path), "/cpus/cpu@%u", i);
        expect_text(t, path, "device_type", "cpu");
        expect_text(t, path, "compatible", "riscv");
        expect_text(t, path, "mmu-type", "riscv,sv57");
        expect_text(t, path, "riscv,isa-base", "rv64i");
        rv_isa_string(t->vm->aia, isa, sizeof(isa));
        expect_text(t, path, "riscv,isa", isa);
        expect_number(t, path, "reg", i);
        expect_number(t, path, "riscv,cbom-block-size", 64);
        expect_number(t, path, "riscv,cboz-block-size", 64);
        expect_number(t, path, "riscv,cbop-block-size", 64);
        const char *list = property(t, path, "riscv,isa-extensions", &size);
        const char *name;
        for (size_t j = 0; (name = rv_isa_extension(t->vm->aia, j)) != NULL; j++)
            assert_true(fdt_stringlist_contains(list, size, name));
        assert_true(fdt_stringlist_contains(list, size, "svadu"));
        assert_false(fdt_stringlist_contains(list, size, "svade"));
        expect_number(t, path, "phandle", fdt_get_phandle(t->fdt, fdt_path_offset(t->fdt, path)));
        snprintf(path, sizeof(path), "/cpus/cpu-map/cluster0/core%u", i);
        property(t, path, "cpu", &size);
    }
    assert_true(fdt_path_offset(t->fdt, "/cpus/cpu@4") < 0);
}

/* What other machines of this kind have, at the same addresses. */
static void devices(void **state)
{
    static const struct {
        const char *path, *compatible;
    } nodes[] = {
        {"/soc", "simple-bus"},
        {"/soc/test@100000", "sifive,test0"},
        {"/soc/rtc@101000", "google,goldfish-rtc"},
        {"/soc/clint@2000000", "sifive,clint0"},
        {"/soc/plic@c000000", "sifive,plic-1.0.0"},
        {"/soc/serial@10000000", "ns16550a"},
        {"/soc/pci@30000000", "pci-host-ecam-generic"},
        {"/poweroff", "syscon-poweroff"},
        {"/reboot", "syscon-reboot"},
    };
    const struct tree *t = *state;
    for (size_t i = 0; i < ARRAY_SIZE(nodes); i++) {
        int node = fdt_path_offset(t->fdt, nodes[i].path);
        if (node < 0 || fdt_node_check_compatible(t->fdt, node, nodes[i].compatible) != 0)
            fail_msg("no %s at %s", nodes[i].compatible, nodes[i].path);
    }
    expect_number(t, "/soc/serial@10000000", "interrupts", 10);
    expect_number(t, "/soc/rtc@101000", "interrupts", 11);
}

/* The entropy device and the power button; a slot that is empty is not told of. */
static void virtio_slots(void **state)
{
    const struct tree *t = *state;
    expect_text(t, "/soc/virtio_mmio@10010000", "compatible", "virtio,mmio");
    expect_number(t, "/soc/virtio_mmio@10010000", "interrupts", 64);
    expect_number(t, "/soc/virtio_mmio@10011000", "interrupts", 65);
    assert_true(fdt_path_offset(t->fdt, "/soc/virtio_mmio@10012000") < 0);
    uint64_t magic;
    assert_true(mem_io_read(t->vm->mem, 0x10011000, 4, &magic));
    assert_int_equal(magic, 0x74726976);
    assert_false(mem_io_read(t->vm->mem, 0x10012000, 4, &magic));
}

/* Phandles are unique, and whatever looks like a reference refers to something. */
static void references(void **state)
{
    static const char *const names[] = {"interrupt-parent", "regmap", "cpu"};
    const struct tree *t = *state;
    uint32_t seen[64];
    unsigned count = 0, checked = 0;
    for (int node = fdt_next_node(t->fdt, -1, NULL); node >= 0;
         node = fdt_next_node(t->fdt, node, NULL)) {
        uint32_t phandle = fdt_get_phandle(t->fdt, node);
        for (unsigned i = 0; phandle != 0 && i < count; i++)
            assert_int_not_equal(seen[i], phandle);
        if (phandle != 0 && count < ARRAY_SIZE(seen))
            seen[count++] = phandle;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
            int size;
            const fdt32_t *value = fdt_getprop(t->fdt, node, names[i], &size);
            if (value == NULL)
                continue;
            checked++;
            if (fdt_node_offset_by_phandle(t->fdt, fdt32_ld(value)) < 0)
                fail_msg("%s of %s leads nowhere", names[i], fdt_get_name(t->fdt, node, NULL));
        }
        int size;
        const fdt32_t *targets = fdt_getprop(t->fdt, node, "interrupts-extended", &size);
        for (int i = 0; targets != NULL && i < size / 4; i += 2) {
            int target = fdt_node_offset_by_phandle(t->fdt, fdt32_ld(targets + i));
            assert_true(target >= 0);
            assert_int_equal(fdt_node_check_compatible(t->fdt, target, "riscv,cpu-intc"), 0);
            checked++;
        }
    }
    assert_true(count >= 2 * CPUS + 2);
    assert_true(checked >= 2 + 2 + CPUS + 4 * CPUS);
}

/* Every life of a guest starts from fresh entropy. */
static void seeds_differ(void **state)
{
    struct tree *t = *state;
    size_t size;
    int seed_size;
    void *again = virt_fdt_new(t->vm, &size, &t->err);
    assert_non_null(again);
    const void *first = property(t, "/chosen", "rng-seed", &seed_size);
    const void *second =
        fdt_getprop(again, fdt_path_offset(again, "/chosen"), "rng-seed", &seed_size);
    assert_memory_not_equal(first, second, (size_t)seed_size);
    free(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(root_and_chosen, setup, teardown),
        cmocka_unit_test_setup_teardown(harts, setup, teardown),
        cmocka_unit_test_setup_teardown(devices, setup, teardown),
        cmocka_unit_test_setup_teardown(references, setup, teardown),
        cmocka_unit_test_setup_teardown(virtio_slots, setup_mmio, teardown),
        cmocka_unit_test_setup_teardown(seeds_differ, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
