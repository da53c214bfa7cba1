/* SPDX-License-Identifier: MIT
 *
 * dev/imsic.c: which file an address is; dev/aplic.c: sources, modes, domains and messages
 * (AIA 1.0, chapters 3 and 4).
 */
#include "dev_fixture.h"

#include "bus/fdt_node.h"
#include "dev/imsic.h"

enum {
    DOMAINCFG = 0,
    MMSIADDRCFG = 0x1bc0,
    SETIP = 0x1c00,
    SETIPNUM = 0x1cdc,
    CLRIP = 0x1d00,
    CLRIPNUM = 0x1ddc,
    SETIE = 0x1e00,
    SETIENUM = 0x1edc,
    CLRIE = 0x1f00,
    CLRIENUM = 0x1fdc,
    SETIPNUM_LE = 0x2000,
    SETIPNUM_BE = 0x2004,
    GENMSI = 0x3000,
    IDC = 0x4000
};
enum { DETACHED = 1, EDGE1 = 4, EDGE0, LEVEL1, LEVEL0, DELEGATE = 1 << 10 };
enum { ENABLED = 1 << 8, ROOT = BENCH_GPA_M - BENCH_GPA /* the root domain's offset */ };

#define SOURCECFG(source) (4u * (source))
#define TARGET(source)    (0x3000u + 4u * (source))
#define TO(hart, data)    ((hart) << 18 | (data))

static int imsic_setup(void **state)
{
    struct bench *bench = malloc(sizeof(*bench));
    bench_open(bench, &device_imsic);
    *state = bench;
    return 0;
}

static int aplic_setup(void **state)
{
    struct bench *bench = malloc(sizeof(*bench));
    bench_open(bench, &device_aplic);
    *state = bench;
    return 0;
}

static int teardown(void **state)
{
    bench_close(*state);
    free(*state);
    return 0;
}

static uint32_t get(struct bench *b, unsigned offset)
{
    return (uint32_t)bench_read(b, offset, 4);
}

static void put(struct bench *b, unsigned offset, uint32_t value)
{
    bench_write(b, offset, 4, value);
}

static void wire(struct bench *b, unsigned source, bool level)
{
    b->device->ops->set_input(b->device, source, level);
}

/* ---- IMSIC ---- */

static void stores_reach_their_files(void **state)
{
    struct bench *b = *state;
    for (unsigned file = 0; file < 2; file++)
        for (unsigned hart = 0; hart < BENCH_HARTS; hart++) {
            unsigned page = (file == 0 ? (unsigned)ROOT : 0) + 0x1000 * hart, before = b->messages;
            put(b, page, 7 + hart);
            assert_int_equal(b->messages, before + 1);
            assert_int_equal(b->message_file, file);
            assert_int_equal(b->message_hart, hart);
            assert_int_equal(b->message_data, 7 + hart);
            put(b, page + 4, 7 << 24); /* big-endian */
            put(b, page + 0xffc, 7);
            assert_int_equal(b->messages, before + 1);
            assert_int_equal(get(b, page), 0);
        }
    uint64_t value;
    assert_false(mem_io_read(b->env.mem, BENCH_GPA, 8, &value));
    assert_false(mem_io_write(b->env.mem, BENCH_GPA + 0x1000 * BENCH_HARTS, 4, 1));
}

static void messages_of_devices(void **state)
{
    struct bench *b = *state;
    imsic_send(b->device, BENCH_GPA + 0x1000, 99);
    assert_int_equal(b->messages, 1);
    assert_int_equal(b->message_file, 1);
    assert_int_equal(b->message_hart, 1);
    imsic_send(b->device, BENCH_GPA_M, 98);
    assert_int_equal(b->message_file, 0);
    imsic_send(b->device, BENCH_GPA - 4, 1);
    imsic_send(b->device, BENCH_GPA + 0x1000 * BENCH_HARTS, 1);
    imsic_send(b->device, 0, 1);
    imsic_send(b->device, UINT64_MAX, 1);
    assert_int_equal(b->messages, 2);
}

static void imsic_resets_the_harts(void **state)
{
    struct bench *b = *state;
    unsigned before = b->message_resets;
    b->device->ops->reset(b->device);
    assert_int_equal(b->message_resets, before + BENCH_HARTS);
}

static void imsic_nodes(void **state)
{
    struct bench *b = *state;
    void *fdt = bench_fdt(b);
    static const uint32_t machine[] = {40, 11, 41, 11}, supervisor[] = {40, 9, 41, 9};
    fdt_expect_compatible(fdt, "/interrupt-controller@10000000", "riscv,imsics");
    fdt_expect_cells(fdt, "/interrupt-controller@10000000", "interrupts-extended", supervisor, 4);
    fdt_expect_cells(fdt, "/interrupt-controller@11000000", "interrupts-extended", machine, 4);
    fdt_expect_cells(fdt, "/interrupt-controller@10000000", "riscv,num-ids", (uint32_t[]){255}, 1);
    free(fdt);
    bench_check_fdt_space(b);
}

/* ---- APLIC ---- */

/* Makes a source of the root domain, or of its child, one that interrupts hart 1 with 33. */
static void use_source(struct bench *b, unsigned domain, unsigned source, unsigned mode)
{
    if (domain != ROOT)
        put(b, ROOT + SOURCECFG(source), DELEGATE);
    put(b, domain + SOURCECFG(source), mode);
    put(b, domain + TARGET(source), TO(1u, 33u));
    put(b, domain + SETIENUM, source);
    put(b, domain + DOMAINCFG, ENABLED);
}

/* The wire's level and what a change of it does, per mode. */
static void modes_of_sources(void **state)
{
    struct bench *b = *state;
    static const struct {
        unsigned mode;
        bool on_rise, on_fall, rectified_low, rectified_high;
    } rows[] = {
        {DETACHED, false, false, false, false}, {EDGE1, true, false, false, true},
        {EDGE0, false, true, true, false},      {LEVEL1, true, false, false, true},
        {LEVEL0, false, true, true, false},
    };
    for (unsigned domain = 0; domain <= ROOT; domain += ROOT)
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
            b->device->ops->reset(b->device);
            b->messages = 0;
            wire(b, 5, false);
            use_source(b, domain, 5, rows[i].mode);
            assert_int_equal(get(b, domain + SOURCECFG(5)), rows[i].mode);
            assert_int_equal(get(b, domain + CLRIP), (uint32_t)rows[i].rectified_low << 5);
            unsigned before = b->messages;
            wire(b, 5, true);
            assert_int_equal(b->messages, before + rows[i].on_rise);
            assert_int_equal(get(b, domain + CLRIP), (uint32_t)rows[i].rectified_high << 5);
            before = b->messages;
            wire(b, 5, false);
            assert_int_equal(b->messages, before + rows[i].on_fall);
            assert_int_equal(get(b, domain + SETIP), 0);
            if (b->messages != 0) {
                uint64_t files = domain == ROOT ? IMSIC_M_GPA : IMSIC_S_GPA;
                assert_true(b->message_address == files + IMSIC_FILE_SIZE);
                assert_int_equal(b->message_data, 33);
            }
        }
}

static void a_message_needs_every_enable(void **state)
{
    struct bench *b = *state;
    use_source(b, ROOT, 9, EDGE1);
    put(b, ROOT + CLRIENUM, 9);
    put(b, ROOT + DOMAINCFG, 0);
    wire(b, 9, true);
    assert_int_equal(get(b, ROOT + SETIP), 1 << 9);
    put(b, ROOT + DOMAINCFG, ENABLED);
    assert_int_equal(b->messages, 0);
    put(b, ROOT + SETIE, 1 << 9);
    assert_int_equal(b->messages, 1);
    assert_int_equal(get(b, ROOT + SETIP), 0);
    put(b, ROOT + CLRIE, 1 << 9);
    assert_int_equal(get(b, ROOT + SETIE), 0);
    put(b, ROOT + SETIP, 1 << 9);
    assert_int_equal(get(b, ROOT + SETIP), 1 << 9);
    put(b, ROOT + CLRIP, 1 << 9);
    assert_int_equal(get(b, ROOT + SETIP), 0);
    put(b, ROOT + SETIPNUM, 9);
    put(b, ROOT + CLRIPNUM, 9);
    assert_int_equal(get(b, ROOT + SETIP), 0);
    put(b, ROOT + SETIPNUM_BE, 9 << 24);
    assert_int_equal(get(b, ROOT + SETIP), 0);
    put(b, ROOT + SETIPNUM_LE, 9);
    assert_int_equal(get(b, ROOT + SETIP), 1 << 9);
}

/* The driver's end of a level interrupt: again if the wire is still up (A §4.9.2). */
static void levels_are_looked_at_again(void **state)
{
    struct bench *b = *state;
    use_source(b, 0, 10, LEVEL1);
    wire(b, 10, true);
    assert_int_equal(b->messages, 1);
    put(b, SETIPNUM_LE, 10);
    assert_int_equal(b->messages, 2);
    wire(b, 10, false);
    put(b, SETIPNUM_LE, 10);
    assert_int_equal(b->messages, 2);
    /* Not enabled: what is pending goes with the level. */
    put(b, CLRIENUM, 10);
    wire(b, 10, true);
    assert_int_equal(get(b, SETIP), 1 << 10);
    wire(b, 10, false);
    assert_int_equal(get(b, SETIP), 0);
    /* A level that was there first. */
    put(b, SOURCECFG(10), 0);
    wire(b, 10, true);
    use_source(b, 0, 10, LEVEL1);
    assert_int_equal(b->messages, 3);
}

static void a_source_belongs_to_one_domain(void **state)
{
    struct bench *b = *state;
    put(b, SOURCECFG(3), EDGE1);
    assert_int_equal(get(b, SOURCECFG(3)), 0); /* not delegated: not there */
    put(b, TARGET(3), TO(1u, 1u));
    put(b, SETIENUM, 3);
    put(b, SETIPNUM, 3);
    assert_int_equal(get(b, TARGET(3)) | get(b, SETIE) | get(b, SETIP), 0);

    use_source(b, 0, 3, DETACHED);
    put(b, CLRIENUM, 3);
    put(b, SETIPNUM, 3);
    assert_int_equal(get(b, ROOT + SOURCECFG(3)), DELEGATE);
    put(b, ROOT + SETIPNUM, 3);
    assert_int_equal(get(b, ROOT + SETIP), 0);
    put(b, SOURCECFG(3), DELEGATE); /* a leaf has no children */
    assert_int_equal(get(b, SOURCECFG(3)), 0);
    put(b, SOURCECFG(3), DETACHED);
    assert_int_equal(get(b, TARGET(3)) | get(b, SETIP), 0); /* it was inactive meanwhile */

    put(b, SETIPNUM, 3);
    put(b, ROOT + SOURCECFG(3), EDGE1); /* taken back */
    assert_int_equal(get(b, SOURCECFG(3)) | get(b, SETIP), 0);
    put(b, ROOT + SOURCECFG(3), 2); /* reserved */
    assert_int_equal(get(b, ROOT + SOURCECFG(3)), 0);
}

static void registers_without_effect(void **state)
{
    struct bench *b = *state;
    assert_int_equal(get(b, ROOT + DOMAINCFG), 0x80000004); /* by message, little-endian */
    put(b, ROOT + DOMAINCFG, ~0u);
    assert_int_equal(get(b, ROOT + DOMAINCFG), 0x80000104);
    put(b, ROOT + DOMAINCFG, 0);
    assert_int_equal(get(b, ROOT + DOMAINCFG), 0x80000004);
    for (unsigned i = 0; i < 4; i++)
        put(b, ROOT + MMSIADDRCFG + 4 * i, ~0u);
    assert_int_equal(get(b, ROOT + MMSIADDRCFG), IMSIC_M_GPA >> 12);
    assert_int_equal(get(b, ROOT + MMSIADDRCFG + 4), 0x80001000); /* locked; one bit of hart */
    assert_int_equal(get(b, ROOT + MMSIADDRCFG + 8), IMSIC_S_GPA >> 12);
    assert_int_equal(get(b, ROOT + MMSIADDRCFG + 12), 0);
    assert_int_equal(get(b, MMSIADDRCFG + 4), 0);
    static const unsigned numbers[] = {0, 96, 127, 128, 1023, ~0u};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        put(b, ROOT + SETIPNUM, numbers[i]);
        put(b, ROOT + SETIENUM, numbers[i]);
        if (numbers[i] > 0 && numbers[i] < 1024) {
            put(b, ROOT + SOURCECFG(numbers[i]), EDGE1);
            assert_int_equal(get(b, ROOT + SOURCECFG(numbers[i])), 0);
            put(b, ROOT + TARGET(numbers[i]), 1);
            assert_int_equal(get(b, ROOT + TARGET(numbers[i])), 0);
        }
    }
    put(b, ROOT + IDC, 1);
    assert_int_equal(get(b, ROOT + IDC), 0);
    use_source(b, ROOT, 95, EDGE1);
    put(b, ROOT + TARGET(95), ~0u);
    assert_int_equal(get(b, ROOT + TARGET(95)), TO(1u, 0x7ffu));
}

static void extempore_messages(void **state)
{
    struct bench *b = *state;
    put(b, GENMSI, TO(1u, 5u));
    assert_int_equal(b->messages, 1);
    assert_true(b->message_address == IMSIC_S_GPA + IMSIC_FILE_SIZE);
    assert_int_equal(b->message_data, 5);
    assert_int_equal(get(b, GENMSI), TO(1u, 5u)); /* not busy */
    put(b, ROOT + GENMSI, TO(0u, 6u));
    assert_true(b->message_address == IMSIC_M_GPA);
}

/* Where the VMM is the firmware: no root domain to see, everything delegated. */
static void without_machine_level_software(void **state)
{
    struct bench *b = *state;
    struct error *error = NULL;
    device_free(b->device);
    b->params.gpa_machine = 0;
    b->device = device_new(&device_aplic, &b->env, &b->params, &error);
    assert_non_null(b->device);
    uint64_t value;
    assert_false(mem_io_read(b->env.mem, BENCH_GPA_M, 4, &value));
    put(b, SOURCECFG(10), LEVEL1);
    put(b, TARGET(10), TO(0u, 9u));
    put(b, SETIENUM, 10);
    put(b, DOMAINCFG, ENABLED);
    wire(b, 10, true);
    assert_int_equal(b->messages, 1);
    assert_true(b->message_address == IMSIC_S_GPA);
    void *fdt = bench_fdt(b);
    fdt_expect_compatible(fdt, "/interrupt-controller@10000000", "riscv,aplic");
    assert_true(fdt_path_offset(fdt, "/interrupt-controller@11000000") < 0);
    free(fdt);
}

static void aplic_nodes(void **state)
{
    struct bench *b = *state;
    void *fdt = bench_fdt(b);
    static const uint32_t delegation[] = {FDT_PHANDLE_APLIC_S, 1, 95};
    fdt_expect_compatible(fdt, "/interrupt-controller@11000000", "riscv,aplic");
    fdt_expect_cells(fdt, "/interrupt-controller@11000000", "riscv,delegation", delegation, 3);
    fdt_expect_cells(fdt, "/interrupt-controller@11000000", "msi-parent",
                     (uint32_t[]){FDT_PHANDLE_IMSIC_M}, 1);
    fdt_expect_cells(fdt, "/interrupt-controller@10000000", "msi-parent",
                     (uint32_t[]){FDT_PHANDLE_IMSIC_S}, 1);
    fdt_expect_cells(fdt, "/interrupt-controller@10000000", "#interrupt-cells", (uint32_t[]){2}, 1);
    free(fdt);
    bench_check_fdt_space(b);
}

static void aplic_state_survives(void **state)
{
    struct bench *b = *state;
    use_source(b, ROOT, 7, LEVEL0);
    use_source(b, 0, 8, EDGE1);
    put(b, DOMAINCFG, 0);
    wire(b, 8, true);
    wire(b, 95, true);
    bench_check_state(b);
}

int main(void)
{
#define IMSIC(function) cmocka_unit_test_setup_teardown(function, imsic_setup, teardown)
#define APLIC(function) cmocka_unit_test_setup_teardown(function, aplic_setup, teardown)
    const struct CMUnitTest tests[] = {
        IMSIC(stores_reach_their_files),
        IMSIC(messages_of_devices),
        IMSIC(imsic_resets_the_harts),
        IMSIC(imsic_nodes),
        APLIC(modes_of_sources),
        APLIC(a_message_needs_every_enable),
        APLIC(levels_are_looked_at_again),
        APLIC(a_source_belongs_to_one_domain),
        APLIC(registers_without_effect),
        APLIC(extempore_messages),
        APLIC(without_machine_level_software),
        APLIC(aplic_nodes),
        APLIC(aplic_state_survives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
