/* SPDX-License-Identifier: MIT
 *
 * Interrupt files of two harts and the APLIC against software that does anything: stores to
 * their pages and registers, wires, CSR accesses, damaged saved states.
 *
 * Input: records of 8 bytes: 1 what (enum record), 1 hart or register bank, 2 register, 4 value.
 *
 * Beside what sanitizers and asserts see: after each record an external interrupt line is up
 * just when its file delivers and has something on top; and state survives save, restore, save.
 */
#include "fuzz.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/device.h"
#include "dev/imsic.h"
#include "isa/riscv64/insn.h"
#include "mem/mem.h"

extern const struct device_ops device_imsic, device_aplic;

#define HARTS   2u
#define APLIC   UINT64_C(0x0d000000)
#define APLIC_M UINT64_C(0x0c000000)
#define SOURCES 95u

enum record { APLIC_WRITE, APLIC_READ, IMSIC_STORE, WIRE, CSR, RESET, RESTORE, RECORD_COUNT };

struct target {
    struct device_env env;
    struct vcpu *vcpus[HARTS];
    struct vcpu_timebase timebase;
    struct log log;
    struct device *imsic, *aplic;
};

static struct device *make_device(struct target *t, const struct device_ops *ops, uint64_t gpa,
                                  uint64_t gpa_machine)
{
    const struct device_params params = {
        .gpa = gpa, .gpa_machine = gpa_machine, .inputs = SOURCES, .msi = {imsic_send, t->imsic}};
    struct device *device = device_new(ops, &t->env, &params, NULL);
    fuzz_check(device != NULL);
    return device;
}

static void target_make(struct target *t, bool firmware)
{
    memset(t, 0, sizeof(*t));
    log_init(&t->log, LOG_LEVEL_ERROR, 2, "fuzz");
    t->env = (struct device_env){.mem = mem_space_new(),
                                 .clock = vclock_new(VCLOCK_COUNTED, 0),
                                 .timebase = &t->timebase,
                                 .log = &t->log,
                                 .vcpus = t->vcpus,
                                 .vcpu_count = HARTS};
    t->timebase.clock = t->env.clock;
    t->timebase.ns_per_tick = 100;
    for (unsigned i = 0; i < HARTS; i++) {
        const struct vcpu_setup setup = {.index = i,
                                         .mem = t->env.mem,
                                         .timebase = &t->timebase,
                                         .log = &t->log,
                                         .messages = true};
        t->vcpus[i] = isa_riscv64.vcpu_new(&setup, NULL);
        fuzz_check(t->vcpus[i] != NULL);
    }
    t->imsic = make_device(t, &device_imsic, IMSIC_S_GPA, firmware ? IMSIC_M_GPA : 0);
    t->aplic = make_device(t, &device_aplic, APLIC, firmware ? APLIC_M : 0);
}

static void target_free(struct target *t)
{
    device_free(t->aplic);
    device_free(t->imsic);
    for (unsigned i = 0; i < HARTS; i++)
        isa_riscv64.vcpu_free(t->vcpus[i]);
    vclock_free(t->env.clock);
    mem_space_free(t->env.mem);
}

static void check_lines(struct target *t)
{
    static const unsigned lines[] = {RV_IRQ_MEI, RV_IRQ_SEI};
    for (unsigned i = 0; i < HARTS; i++)
        for (unsigned level = 0; level < RV_IMSIC_LEVELS; level++) {
            struct rv_hart *hart = rv_hart_of(t->vcpus[i]);
            bool wanted = hart->imsic.file[level].delivery == 1 && rv_imsic_top(hart, level) != 0;
            fuzz_check((atomic_load(&t->vcpus[i]->interrupts) >> lines[level] & 1) == wanted);
        }
}

/* An instruction of any of the three forms, as rv_zicsr.c carries it out. */
static void csr(struct target *t, uint8_t a, uint16_t number, uint32_t value)
{
    struct rv_hart *hart = rv_hart_of(t->vcpus[a & 1]);
    unsigned funct3 = 1 + (a >> 1 & 3u) % 3;
    struct rv_insn insn = {.raw = (uint32_t)(number & 0xfff) << 20 | 6 << 15 | funct3 << 12 | 0x73,
                           .rs1 = 6,
                           .rd = (a & 8) != 0 ? RV_RD_NONE : 5};
    uint64_t old = 0, bits = (a & 16) != 0 ? ~(uint64_t)value : value;
    hart->x[6] = bits;
    if (!(funct3 == 1 && insn.rd == RV_RD_NONE) &&
        !rv_csr_read(hart, &insn, number & 0xfff, true, &old))
        return;
    bits = funct3 == 1 ? bits : funct3 == 2 ? old | bits : old & ~bits;
    (void)rv_csr_write(hart, &insn, number & 0xfff, bits);
}

static void save_restore(const struct state_table *table, void *object, uint32_t at, uint8_t damage)
{
    struct state_buffer first = {0}, second = {0};
    size_t end = 0;
    state_save(table, object, &first);
    fuzz_check(state_restore(table, object, first.data, first.size, &end, NULL));
    state_save(table, object, &second);
    fuzz_check(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    first.data[at % first.size] ^= damage;
    end = 0;
    if (!state_restore(table, object, first.data, first.size, &end, NULL)) {
        end = 0;
        fuzz_check(state_restore(table, object, second.data, second.size, &end, NULL));
    }
    state_buffer_free(&first);
    state_buffer_free(&second);
}

static void step(struct target *t, struct fuzz_input *input)
{
    uint8_t kind = (uint8_t)fuzz_take(input, 1) % RECORD_COUNT, a = (uint8_t)fuzz_take(input, 1);
    uint16_t b = (uint16_t)fuzz_take(input, 2);
    uint32_t c = (uint32_t)fuzz_take(input, 4);
    uint64_t aplic = (a & 1 ? APLIC : APLIC_M) + (b & 0x7ffc), value;
    switch (kind) {
    case APLIC_WRITE:
        (void)mem_io_write(t->env.mem, aplic, 4, c);
        break;
    case APLIC_READ:
        (void)mem_io_read(t->env.mem, aplic, 4, &value);
        break;
    case IMSIC_STORE:
        (void)mem_io_write(t->env.mem, (a & 1 ? IMSIC_M_GPA : IMSIC_S_GPA) + (b & 0x3ffc), 4, c);
        break;
    case WIRE:
        device_aplic.set_input(t->aplic, 1 + b % SOURCES, a & 1);
        break;
    case CSR:
        csr(t, a, b, c);
        break;
    case RESET:
        device_imsic.reset(t->imsic);
        device_aplic.reset(t->aplic);
        isa_riscv64.vcpu_reset(t->vcpus[a & 1]);
        break;
    case RESTORE:
        if (a & 1)
            save_restore(device_aplic.state, t->aplic, c, (uint8_t)(a >> 1));
        else
            save_restore(isa_riscv64.state, t->vcpus[b & 1], c, (uint8_t)(a >> 1));
        break;
    }
    check_lines(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct target t;
    target_make(&t, size % 2 == 0);
    while (input.left > 0)
        step(&t, &input);
    target_free(&t);
    return 0;
}

/* Software that mostly knows what it does: sources that are set up, files that are open. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const uint16_t registers[] = {0x0000, 0x1c00, 0x1cdc, 0x1d00, 0x1ddc, 0x1e00,
                                         0x1edc, 0x1f00, 0x1fdc, 0x2000, 0x3000, 0x1bc4};
    static const uint16_t csrs[] = {0x150, 0x151, 0x15c, 0xdb0, 0x350, 0x351, 0x35c, 0xfb0, 0x309};
    static const uint8_t selects[] = {0x70, 0x72, 0x80, 0x82, 0xc0, 0xc2, 0x30, 0xff};
    uint8_t *at = data;
    for (unsigned i = (unsigned)(fuzz_random(seed) % 200); i > 0; i--, at += 8) {
        uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
        unsigned source = (unsigned)(s % 20);
        uint16_t b = (uint16_t)s;
        uint32_t c = (uint32_t)(s >> 32);
        at[0] = (uint8_t)(r % 23 < 20 ? r % 5 : r % RECORD_COUNT);
        at[1] = (uint8_t)(r >> 8);
        if (at[0] == APLIC_WRITE && r >> 16 & 3) {
            b = (uint16_t)(4 * source + (r >> 18 & 1 ? 0x3000 : 0));
            c = r >> 18 & 1 ? (c & 1) << 18 | (c >> 8 & 0xff) : (r >> 19 & 1 ? 0x400 : c & 7);
        } else if (at[0] == APLIC_WRITE) {
            b = registers[s % (sizeof(registers) / sizeof(registers[0]))];
            c = r >> 20 & 1 ? source : c;
        } else if (at[0] == CSR) {
            b = csrs[s % (sizeof(csrs) / sizeof(csrs[0]))];
            c = (b & 0xff) == 0x50 ? selects[s >> 32 & 7] : (b & 0xff) == 0x51 ? c | 1 : c;
        } else if (at[0] == WIRE) {
            b = (uint16_t)(source - 1);
        } else if (at[0] == IMSIC_STORE) {
            b &= 0x1000;
            c &= 0xff;
        }
        store_le16(at + 2, b);
        store_le32(at + 4, c);
    }
    return (size_t)(at - data);
}
