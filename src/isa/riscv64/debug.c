/* SPDX-License-Identifier: MIT
 *
 * What a debugger needs of a hart: its registers by number, and run() with break- and
 * watchpoints, one instruction after the other (isa/vcpu.h says how engines come here).
 *
 * No decoded code is kept but by encoding, which stays true whatever happens to memory.
 * Watchpoints: mmu.c keeps watched pages out of the TLB, so that every access to them comes
 * through its slow paths, which call rv_debug_accessed(). No engine's fast path knows of them.
 */
#include <assert.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "isa/riscv64/csr_internal.h"
#include "isa/riscv64/debug.h"
#include "isa/riscv64/mmu_internal.h"

/* ---- registers: GDB's own numbers for RISC-V ---- */

enum {
    REG_PC = 32,
    REG_F0 = 33,
    REG_CSR0 = 65,
    REG_PRIVILEGE = REG_CSR0 + RV_CSR_NUMBERS, /* "priv", as the debug specification has it */
    REG_LIMIT
};

static const char *const x_names[32] = {
    "zero", "ra", "sp", "gp", "tp",  "t0",  "t1", "t2", "fp", "s1", "a0",
    "a1",   "a2", "a3", "a4", "a5",  "a6",  "a7", "s2", "s3", "s4", "s5",
    "s6",   "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
};

static const char *const f_names[32] = {
    "ft0", "ft1", "ft2", "ft3", "ft4",  "ft5",  "ft6", "ft7", "fs0",  "fs1",  "fa0",
    "fa1", "fa2", "fa3", "fa4", "fa5",  "fa6",  "fa7", "fs2", "fs3",  "fs4",  "fs5",
    "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11",
};

#define FEATURE "org.gnu.gdb.riscv."

static bool describe(unsigned number, struct vcpu_register *reg)
{
    unsigned csr = number - REG_CSR0;
    *reg = (struct vcpu_register){.feature = FEATURE "cpu", .type = "int", .size = 8};
    if (number < REG_PC) {
        reg->name = x_names[number];
        if (number >= 1 && number <= 4)
            reg->type = number == 1 ? "code_ptr" : "data_ptr";
    } else if (number == REG_PC) {
        reg->name = "pc";
        reg->type = "code_ptr";
    } else if (number < REG_CSR0) {
        reg->name = f_names[number - REG_F0];
        reg->feature = FEATURE "fpu";
        reg->type = "ieee_double";
    } else if (csr < RV_CSR_NUMBERS) {
        reg->name = rv_csr_rows[csr].name;
        reg->feature = csr <= RV_CSR_FCSR ? FEATURE "fpu" : FEATURE "csr";
        reg->size = csr <= RV_CSR_FCSR ? 4 : 8;
    } else if (number == REG_PRIVILEGE) {
        reg->name = "priv";
        reg->feature = FEATURE "virtual";
    }
    return reg->name != NULL;
}

/* The state itself, without an instruction's checks of permission. */
static uint64_t read_csr(struct rv_hart *hart, unsigned number)
{
    const struct rv_csr_row *row = &rv_csr_rows[number];
    const struct rv_csr_access access = {hart, NULL, number};
    uint64_t field;
    if (row->read)
        return row->read(&access);
    if (row->offset == 0)
        return row->value;
    memcpy(&field, (const char *)hart + row->offset, sizeof(field));
    return field;
}

static bool write_csr(struct rv_hart *hart, unsigned number, uint64_t value)
{
    const struct rv_csr_row *row = &rv_csr_rows[number];
    const struct rv_csr_access access = {hart, NULL, number};
    if (number >> 10 == 3) /* read-only (P §2.1) */
        return false;
    if (row->write) {
        row->write(&access, value);
    } else if (row->offset != 0) {
        uint64_t field = (read_csr(hart, number) & ~row->mask) | (value & row->mask);
        memcpy((char *)hart + row->offset, &field, sizeof(field));
    }
    return true;
}

static void read_register(struct vcpu *vcpu, unsigned number, uint8_t *bytes)
{
    struct rv_hart *hart = rv_hart_of(vcpu);
    uint64_t value;
    if (number < REG_PC)
        value = hart->x[number];
    else if (number == REG_PC)
        value = hart->pc;
    else if (number < REG_CSR0)
        value = hart->f[number - REG_F0];
    else if (number < REG_PRIVILEGE)
        value = read_csr(hart, number - REG_CSR0);
    else
        value = hart->privilege;
    if (number >= REG_CSR0 && number <= REG_CSR0 + RV_CSR_FCSR)
        store_le32(bytes, (uint32_t)value);
    else
        store_le64(bytes, value);
}

static bool write_register(struct vcpu *vcpu, unsigned number, const uint8_t *bytes)
{
    struct rv_hart *hart = rv_hart_of(vcpu);
    if (number >= REG_CSR0 && number <= REG_CSR0 + RV_CSR_FCSR)
        return write_csr(hart, number - REG_CSR0, load_le32(bytes));
    uint64_t value = load_le64(bytes);
    if (number == 0)
        return true;
    if (number < REG_PC) {
        hart->x[number] = value;
    } else if (number == REG_PC) {
        hart->pc = value & ~UINT64_C(1);
    } else if (number < REG_CSR0) {
        hart->f[number - REG_F0] = value;
    } else if (number < REG_PRIVILEGE) {
        return write_csr(hart, number - REG_CSR0, value);
    } else {
        if (value > RV_M || value == 2)
            return false;
        hart->privilege = (uint8_t)value;
        rv_mode_changed(hart);
    }
    return true;
}

/* ---- running ---- */

#define DECODED 1024 /* power of two */

struct rv_debug {
    struct vcpu_debug debug; /* first */
    struct rv_decoder *decoder;
    struct rv_insn decoded[DECODED]; /* by encoding; no exec: empty */
};

static struct vcpu_debug *attach(struct vcpu *vcpu)
{
    (void)vcpu;
    struct rv_debug *debug = alloc_zeroed(1, sizeof(*debug));
    debug->decoder = rv_decoder_new();
    return &debug->debug;
}

static void detach(struct vcpu_debug *debug)
{
    if (debug == NULL)
        return;
    rv_decoder_free(((struct rv_debug *)(void *)debug)->decoder);
    free(debug);
}

bool rv_debug_watches_page(const struct vcpu_debug *debug, uint64_t va)
{
    uint64_t first = align_down(va, MEM_PAGE_SIZE), last = first + (MEM_PAGE_SIZE - 1);
    for (unsigned i = 0; i < debug->points->count; i++) {
        const struct vcpu_point *point = &debug->points->point[i];
        if (point->kind >= VCPU_POINT_WRITE && point->first <= last && point->last >= first)
            return true;
    }
    return false;
}

void rv_debug_accessed(struct vcpu_debug *debug, uint64_t va, unsigned size, bool read, bool write)
{
    uint64_t last = va + (size - 1);
    for (unsigned i = 0; i < debug->points->count && debug->stop == VCPU_STOP_NONE; i++) {
        const struct vcpu_point *point = &debug->points->point[i];
        bool wanted =
            (point->kind != VCPU_POINT_WRITE && read) || (point->kind != VCPU_POINT_READ && write);
        if (point->kind < VCPU_POINT_WRITE || !wanted || point->first > last || point->last < va)
            continue;
        debug->stop = VCPU_STOP_WATCH;
        debug->stop_kind = point->kind;
        debug->stop_address = point->first > va ? point->first : va;
    }
}

static bool at_breakpoint(struct vcpu_debug *debug, uint64_t pc)
{
    if ((debug->points->break_filter >> (pc >> 1 & 63) & 1) == 0)
        return false;
    for (unsigned i = 0; i < debug->points->count; i++) {
        const struct vcpu_point *point = &debug->points->point[i];
        if (point->kind <= VCPU_POINT_BREAK_HARD && point->first == pc) {
            debug->stop = VCPU_STOP_BREAK;
            debug->stop_kind = point->kind;
            debug->stop_address = pc;
            return true;
        }
    }
    return false;
}

static uint32_t read_parcel(const uint8_t *host)
{
    return __atomic_load_n((const uint16_t *)(const void *)host, __ATOMIC_RELAXED);
}

/* The 2 or 4 bytes at pc. False: the fetch trapped. */
static bool fetch(struct rv_hart *hart, uint32_t *bits)
{
    const uint8_t *host;
    unsigned in_page;
    uint64_t pc = hart->pc, gpa;
    if (!rv_fetch_pointer(hart, pc, &host, &in_page, &gpa))
        return false;
    *bits = read_parcel(host);
    if ((*bits & 3) != 3)
        return true;
    host += 2;
    /* A fault of the second half reports that half's address (P §3.1.16). */
    if (in_page < 4 && !rv_fetch_pointer(hart, pc + 2, &host, &in_page, &gpa))
        return false;
    *bits |= read_parcel(host) << 16;
    return true;
}

static const struct rv_insn *decode(struct rv_debug *debug, uint32_t bits)
{
    uint32_t hash = bits * UINT32_C(0x9e3779b1);
    struct rv_insn *insn = &debug->decoded[hash >> 22];
    _Static_assert(DECODED == 1 << (32 - 22), "the hash's upper bits");
    if (insn->raw != bits || insn->exec == NULL)
        rv_decode(debug->decoder, bits, insn);
    return insn;
}

/* One instruction, or the trap it makes. False: leave with *exit. */
static bool execute(struct rv_debug *debug, struct rv_hart *hart, enum vcpu_exit *exit)
{
    struct vcpu *vcpu = &hart->vcpu;
    const struct rv_insn *insn = NULL;
    enum rv_result result = RV_TRAP;
    uint32_t bits;
    if (fetch(hart, &bits)) {
        insn = decode(debug, bits);
        result = insn->exec(hart, insn);
    }
    switch (result) {
    case RV_TRAP:
        debug->debug.stop = VCPU_STOP_NONE; /* what it accessed first does not count */
        rv_take_trap(hart, hart->pc);
        *exit = VCPU_EXIT_WEDGED;
        return hart->wedge_count < RV_WEDGE_LIMIT;
    case RV_NEXT:
        hart->pc += insn->length;
        break;
    case RV_EXIT:
        *exit = hart->exit;
        if (hart->exit != VCPU_EXIT_ECALL) /* an ecall does not retire (P §3.3.1) */
            vcpu->retired++;
        return false;
    case RV_JUMP:
        break;
    }
    vcpu->retired++;
    return true;
}

static void end_of_step(struct rv_debug *debug, const struct rv_hart *hart)
{
    struct vcpu_debug *generic = &debug->debug;
    bool in_range = hart->pc >= generic->step_first && hart->pc < generic->step_last;
    if (generic->step && generic->stop == VCPU_STOP_NONE && !in_range)
        generic->stop = VCPU_STOP_STEP;
}

/* The interpreter's look_up(). */
static bool look_up(struct rv_hart *hart, enum vcpu_exit *exit)
{
    struct vcpu *vcpu = &hart->vcpu;
    rv_obey_attention(hart);
    if (!vcpu->debug->step)
        rv_take_interrupt(hart);
    if ((atomic_load(&vcpu->attention) & VCPU_ATTENTION_KICK) == 0)
        return true;
    atomic_fetch_and(&vcpu->attention, ~(uint32_t)VCPU_ATTENTION_KICK);
    *exit = vcpu->htif_value != 0 ? VCPU_EXIT_HTIF : VCPU_EXIT_KICK;
    return false;
}

static enum vcpu_exit run_loop(struct rv_debug *debug, struct rv_hart *hart, uint64_t budget)
{
    struct vcpu *vcpu = &hart->vcpu;
    enum vcpu_exit exit = VCPU_EXIT_BUDGET;
    uint64_t limit = vcpu->retired + budget;
    if (limit < budget)
        limit = UINT64_MAX;
    if (!debug->debug.step)
        rv_take_interrupt(hart);
    for (;;) {
        if (debug->debug.stop != VCPU_STOP_NONE)
            return VCPU_EXIT_DEBUG;
        if (atomic_load(&vcpu->attention) != 0 && !look_up(hart, &exit))
            return exit;
        if (vcpu->retired >= limit)
            return VCPU_EXIT_BUDGET;
        if (at_breakpoint(&debug->debug, hart->pc))
            return VCPU_EXIT_DEBUG;
        bool good = execute(debug, hart, &exit);
        end_of_step(debug, hart);
        if (good)
            continue;
        /* A stepped wfi is over at once: P §3.3.3 lets it be a no-operation. */
        if (exit == VCPU_EXIT_WAIT && debug->debug.stop != VCPU_STOP_NONE)
            return VCPU_EXIT_DEBUG;
        return exit;
    }
}

static enum vcpu_exit run(struct vcpu *vcpu, uint64_t budget)
{
    /* seq_cst, and attention is read behind it: see isa/vcpu.c. */
    atomic_store(&vcpu->in_guest, true);
    enum vcpu_exit exit =
        run_loop((struct rv_debug *)(void *)vcpu->debug, rv_hart_of(vcpu), budget);
    atomic_store(&vcpu->in_guest, false);
    return exit;
}

const struct isa_debug rv_isa_debug = {
    .architecture = "riscv:rv64",
    .register_limit = REG_LIMIT,
    .register_core = REG_CSR0,
    .describe = describe,
    .read = read_register,
    .write = write_register,
    .attach = attach,
    .detach = detach,
    .run = run,
};
