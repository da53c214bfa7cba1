/* SPDX-License-Identifier: MIT
 *
 * A hart's interrupt files through its CSRs, against a model of one (AIA 1.0, chapter 3), and
 * the top-interrupt registers.
 */
#include "rv_fixture.h"

#include <pthread.h>

enum { EIDELIVERY = 0x70, EITHRESHOLD = 0x72, EIP0 = 0x80, EIE0 = 0xc0 };
enum { MVIEN = 0x308, MVIP = 0x309, MIDELEG = 0x303, MIE = 0x304, MENVCFG = 0x30a };

static const struct level {
    unsigned select, reg, topei, topi, file, line;
} levels[] = {
    {0x350, 0x351, 0x35c, 0xfb0, RV_IMSIC_M, RV_IRQ_MEI},
    {0x150, 0x151, 0x15c, 0xdb0, RV_IMSIC_S, RV_IRQ_SEI},
};

static void put(struct rv_hart *hart, const struct level *level, unsigned number, uint64_t value)
{
    poke(hart, level->select, number);
    poke(hart, level->reg, value);
}

static uint64_t get(struct rv_hart *hart, const struct level *level, unsigned number)
{
    poke(hart, level->select, number);
    return peek(hart, level->reg);
}

static bool line(const struct rv_hart *hart, const struct level *level)
{
    return atomic_load(&hart->vcpu.interrupts) >> level->line & 1;
}

static void message(struct rv_hart *hart, const struct level *level, uint32_t identity)
{
    hart->vcpu.messages->send(&hart->vcpu, level->file, identity);
}

/* csrrw, csrrs (x0: reads only) and csrrc of *topei with what the instruction itself does. */
static uint64_t claim(struct rv_hart *hart, unsigned csr, unsigned funct3, bool to_zero)
{
    struct rv_insn insn = {.raw = csr << 20 | funct3 << 12 | 0x73,
                           .rd = to_zero ? RV_RD_NONE : 5,
                           .rs1 = 6,
                           .length = 4};
    uint64_t value = 0;
    if (!(funct3 == 1 && to_zero))
        assert_true(rv_csr_read(hart, &insn, csr, true, &value));
    assert_true(rv_csr_write(hart, &insn, csr, 0));
    return value;
}

static void which_registers_there_are(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
        for (unsigned number = 0; number < 0x1000; number++) {
            bool iprio = number >= 0x30 && number <= 0x3e && number % 2 == 0;
            bool file = number >= 0x70 && number <= 0xff && (number < EIP0 || number % 2 == 0);
            uint64_t value = 1;
            poke(hart, levels[i].select, number);
            assert_int_equal(peek(hart, levels[i].select), number);
            assert_int_equal(rv_csr_read(hart, NULL, levels[i].reg, false, &value), iprio || file);
            assert_int_equal(rv_csr_write(hart, NULL, levels[i].reg, ~UINT64_C(0)), iprio || file);
            if (!iprio && !file)
                continue;
            bool writable = number == EITHRESHOLD || (number >= EIP0 && number < EIP0 + 8) ||
                            (number >= EIE0 && number < EIE0 + 8);
            assert_true(rv_csr_read(hart, NULL, levels[i].reg, false, &value));
            assert_int_equal(value != 0, writable);
        }
        assert_true(get(hart, &levels[i], EIP0) == ~UINT64_C(1));
        assert_true(get(hart, &levels[i], EIE0 + 6) == ~UINT64_C(0));
        assert_true(get(hart, &levels[i], EITHRESHOLD) == 255);
        put(hart, &levels[i], EIDELIVERY, 2); /* neither value that it takes */
        assert_true(get(hart, &levels[i], EIDELIVERY) == 0);
        put(hart, &levels[i], EIDELIVERY, 1);
        assert_true(get(hart, &levels[i], EIDELIVERY) == 1);
    }
}

/* Random operations; the model is plain flags. */
struct model {
    bool pending[256], enabled[256], delivery;
    unsigned threshold;
};

static unsigned model_top(const struct model *model)
{
    for (unsigned i = 1; i < 256; i++)
        if (model->pending[i] && model->enabled[i])
            return model->threshold == 0 || i < model->threshold ? i : 0;
    return 0;
}

static void model_write(bool *flags, unsigned word, uint64_t value)
{
    for (unsigned bit = 0; bit < 64; bit++)
        flags[64 * word + bit] = (word > 0 || bit > 0) && (value >> bit & 1);
}

static void files_behave_as_the_model(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    uint64_t seed = 5;
    struct model models[2] = {0};
    for (unsigned long step = 0; step < tier_count(20000, 500000); step++) {
        unsigned which = random_next(&seed) % 2, word = random_next(&seed) % 4;
        const struct level *level = &levels[which];
        struct model *model = &models[which];
        uint64_t value = random_next(&seed) & random_next(&seed) & random_next(&seed);
        uint32_t identity = (uint32_t)(random_next(&seed) % 8 ? random_next(&seed) % 260 : value);
        unsigned top = model_top(model);
        switch (random_next(&seed) % 7) {
        case 0:
            put(hart, level, EIE0 + 2 * word, value);
            model_write(model->enabled, word, value);
            break;
        case 1:
            put(hart, level, EIP0 + 2 * word, value);
            model_write(model->pending, word, value);
            break;
        case 2:
            model->delivery = value & 1;
            put(hart, level, EIDELIVERY, model->delivery);
            break;
        case 3:
            model->threshold = random_next(&seed) % 2 ? 0 : (unsigned)(value & 255);
            put(hart, level, EITHRESHOLD, model->threshold);
            break;
        case 4:
            assert_true(claim(hart, level->topei, 1, false) == (top << 16 | top));
            model->pending[top] = false;
            break;
        default:
            message(hart, level, identity);
            if (identity > 0 && identity < 256)
                model->pending[identity] = true;
            break;
        }
        top = model_top(model);
        assert_true(peek(hart, level->topei) == (top << 16 | top));
        assert_int_equal(line(hart, level), top != 0 && model->delivery);
    }
}

/* A message of higher priority comes between the two halves of a claim. */
static void a_claim_is_of_what_it_reported(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    const struct level *level = &levels[1];
    uint64_t value;
    put(hart, level, EIE0, ~UINT64_C(0));
    message(hart, level, 40);
    struct rv_insn insn = {.raw = level->topei << 20 | 1 << 12 | 0x73, .rd = 5, .length = 4};
    assert_true(rv_csr_read(hart, &insn, level->topei, true, &value));
    message(hart, level, 3);
    assert_true(rv_csr_write(hart, &insn, level->topei, 0));
    assert_true(value == (40 << 16 | 40));
    assert_true(get(hart, level, EIP0) == 1 << 3);
    /* Without a read it is of what is on top. */
    message(hart, level, 40);
    claim(hart, level->topei, 1, true);
    assert_true(get(hart, level, EIP0) == UINT64_C(1) << 40);
    claim(hart, level->topei, 3, true); /* csrrc reads, also into x0 */
    assert_true(get(hart, level, EIP0) == 0);
    claim(hart, level->topei, 1, false); /* nothing there: nothing happens */
}

/* csrrs and csrrc of eip lose no message that comes between their halves. */
static void setting_and_clearing_bits_loses_nothing(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    const struct level *level = &levels[1];
    uint64_t value;
    poke(hart, level->select, EIP0);
    message(hart, level, 8);
    hart->x[6] = 1 << 8;
    struct rv_insn insn = {
        .raw = level->reg << 20 | 6 << 15 | 3 << 12 | 0x73, .rs1 = 6, .rd = 5, .length = 4};
    assert_true(rv_csr_read(hart, &insn, level->reg, true, &value));
    message(hart, level, 9);
    assert_true(rv_csr_write(hart, &insn, level->reg, value & ~hart->x[6]));
    assert_true(get(hart, level, EIP0) == 1 << 9);
}

static void top_interrupts(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    poke(hart, MIDELEG, RV_MIP_S);
    poke(hart, MIE, RV_MIP_ALL);
    assert_true(peek(hart, 0xfb0) == 0 && peek(hart, 0xdb0) == 0);
    vcpu_set_interrupt(&hart->vcpu, RV_IRQ_MTI, true);
    poke(hart, RV_CSR_MIP, RV_MIP_SSIP);
    assert_true(peek(hart, 0xfb0) == (RV_IRQ_MTI << 16 | 1));
    assert_true(peek(hart, 0xdb0) == (RV_IRQ_SSI << 16 | 1));
    put(hart, &levels[1], EIE0, 2);
    put(hart, &levels[1], EIDELIVERY, 1);
    message(hart, &levels[1], 1);
    assert_true(peek(hart, 0xdb0) == (RV_IRQ_SEI << 16 | 1));
    poke(hart, MIDELEG, 0); /* then they are the machine's, behind its own */
    assert_true(peek(hart, 0xfb0) == (RV_IRQ_MTI << 16 | 1));
    assert_true(peek(hart, 0xdb0) == 0);
    poke(hart, MIE, RV_MIP_S);
    assert_true(peek(hart, 0xfb0) == (RV_IRQ_SEI << 16 | 1));
}

static void mvip_is_a_view_of_mip(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    poke(hart, MVIEN, ~UINT64_C(0));
    assert_true(peek(hart, MVIEN) == 0);
    poke(hart, MVIP, ~UINT64_C(0));
    assert_true(peek(hart, MVIP) == RV_MIP_S && peek(hart, RV_CSR_MIP) == RV_MIP_S);
    poke(hart, MVIP, 0);
    assert_true(peek(hart, RV_CSR_MIP) == 0);
    /* The file's signal is in mip, but is not software's bit. */
    put(hart, &levels[1], EIE0, 2);
    put(hart, &levels[1], EIDELIVERY, 1);
    message(hart, &levels[1], 1);
    assert_true(peek(hart, RV_CSR_MIP) == RV_MIP_SEIP && peek(hart, MVIP) == 0);
    poke(hart, MENVCFG, RV_MENVCFG_STCE);
    poke(hart, MVIP, ~UINT64_C(0));
    assert_true(peek(hart, MVIP) == (RV_MIP_SSIP | RV_MIP_SEIP));
}

static void who_is_reset_by_what(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    put(hart, &levels[1], EIE0, 2);
    put(hart, &levels[1], EIDELIVERY, 1);
    message(hart, &levels[1], 1);
    isa_riscv64.vcpu_reset(&hart->vcpu); /* a hart that is started or resumed */
    assert_true(line(hart, &levels[1]));
    assert_true(peek(hart, 0x150) == 0);
    hart->vcpu.messages->reset(&hart->vcpu);
    assert_false(line(hart, &levels[1]));
    assert_true(peek(hart, 0x15c) == 0 && get(hart, &levels[1], EIE0) == 0);
}

/* ---- messages from another thread ---- */

#define ROUNDS 20000

static void *send_all(void *opaque)
{
    struct rv_hart *hart = opaque;
    for (unsigned i = 0; i < ROUNDS; i++)
        message(hart, &levels[1], 1 + i % 255);
    return NULL;
}

/* Every bit that a message sets is found by the owner, and the line ends as the file says. */
static void messages_race_with_claims(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    const struct level *level = &levels[1];
    pthread_t thread;
    unsigned claimed = 0;
    for (unsigned word = 0; word < 4; word++)
        put(hart, level, EIE0 + 2 * word, ~UINT64_C(0));
    put(hart, level, EIDELIVERY, 1);
    pthread_create(&thread, NULL, send_all, hart);
    while (claimed < 255)
        claimed += claim(hart, level->topei, 1, false) != 0;
    pthread_join(thread, NULL);
    while (claim(hart, level->topei, 1, false) != 0)
        assert_true(claimed++ < ROUNDS);
    assert_false(line(hart, level));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_AIA(which_registers_there_are),
        FIXTURE_TEST_AIA(files_behave_as_the_model),
        FIXTURE_TEST_AIA(a_claim_is_of_what_it_reported),
        FIXTURE_TEST_AIA(setting_and_clearing_bits_loses_nothing),
        FIXTURE_TEST_AIA(top_interrupts),
        FIXTURE_TEST_AIA(mvip_is_a_view_of_mip),
        FIXTURE_TEST_AIA(who_is_reset_by_what),
        FIXTURE_TEST_AIA(messages_race_with_claims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
