/* SPDX-License-Identifier: MIT
 *
 * What a debugger needs of an x86-64 processor: its registers by number, and which points its debug
 * registers can hold (SDM 3B, 18.2). Who runs it looks out for these (struct x86_keeper).
 *
 * Registers are in the order that GDB has for amd64. Always 64-bit ones, whatever mode the guest is in.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "isa/x86_64/isa_internal.h"

/* ---- registers ---- */

enum {
    REG_RIP = 16,
    REG_EFLAGS,
    REG_SEGMENT0, /* cs, ss, ds, es, fs, gs */
    REG_ST0 = REG_SEGMENT0 + 6,
    REG_FCTRL = REG_ST0 + 8,
    REG_FSTAT,
    REG_FTAG,
    REG_FISEG,
    REG_FIOFF,
    REG_FOSEG,
    REG_FOOFF,
    REG_FOP,
    REG_XMM0,
    REG_MXCSR = REG_XMM0 + 16,
    REG_FS_BASE,
    REG_GS_BASE,
    REG_CR0,
    REG_CR2,
    REG_CR3,
    REG_CR4,
    REG_EFER,
    REG_LIMIT
};

static const char *const names[REG_LIMIT] = {
    "rax",     "rbx",     "rcx",   "rdx",   "rsi",   "rdi",   "rbp",    "rsp",    "r8",    "r9",    "r10",
    "r11",     "r12",     "r13",   "r14",   "r15",   "rip",   "eflags", "cs",     "ss",    "ds",    "es",
    "fs",      "gs",      "st0",   "st1",   "st2",   "st3",   "st4",    "st5",    "st6",   "st7",   "fctrl",
    "fstat",   "ftag",    "fiseg", "fioff", "foseg", "fooff", "fop",    "xmm0",   "xmm1",  "xmm2",  "xmm3",
    "xmm4",    "xmm5",    "xmm6",  "xmm7",  "xmm8",  "xmm9",  "xmm10",  "xmm11",  "xmm12", "xmm13", "xmm14",
    "xmm15",   "mxcsr",   "fs_base", "gs_base", "cr0", "cr2", "cr3",    "cr4",    "efer",
};

static const uint8_t general[] = {X86_RAX, X86_RBX, X86_RCX, X86_RDX, X86_RSI, X86_RDI, X86_RBP, X86_RSP,
                                  8,       9,       10,      11,      12,      13,      14,      15};
static const uint8_t segments[] = {X86_CS, X86_SS, X86_DS, X86_ES, X86_FS, X86_GS};

/* The XSAVE area: SDM 1, 13.4.1 and 13.4.2. */
enum { FCW = 0, FSW = 2, TAGS = 4, FOP = 6, FIP = 8, FDP = 16, MXCSR = 24, ST = 32, XMM = 160, PRESENT = 512 };
enum { PART_X87 = 1, PART_SSE = 2 };

static bool describe(unsigned number, struct vcpu_register *reg)
{
    *reg = (struct vcpu_register){.feature = "org.gnu.gdb.i386.core", .type = "int64", .size = 8};
    if (number >= REG_LIMIT)
        return false;
    reg->name = names[number];
    if (number == REG_RIP || (number >= 6 && number <= 7))
        reg->type = number == REG_RIP ? "code_ptr" : "data_ptr";
    else if (number >= REG_ST0 && number < REG_FCTRL)
        *reg = (struct vcpu_register){reg->name, reg->feature, "i387_ext", 10};
    else if (number >= REG_EFLAGS && number < REG_XMM0)
        *reg = (struct vcpu_register){reg->name, reg->feature, "int32", 4};
    else if (number >= REG_XMM0 && number < REG_MXCSR)
        *reg = (struct vcpu_register){reg->name, "org.gnu.gdb.i386.sse", "uint128", 16};
    else if (number == REG_MXCSR)
        *reg = (struct vcpu_register){reg->name, "org.gnu.gdb.i386.sse", "int32", 4};
    else if (number == REG_FS_BASE || number == REG_GS_BASE)
        reg->feature = "org.gnu.gdb.i386.segments";
    else if (number >= REG_CR0)
        reg->feature = "org.trapeze.x86.control";
    return true;
}

/* Where a register of 64 bits is; or NULL. */
static uint64_t *place_of(struct x86_state *state, unsigned number)
{
    uint64_t *const control[] = {&state->segments[X86_FS].base,
                                 &state->segments[X86_GS].base,
                                 &state->cr0,
                                 &state->cr2,
                                 &state->cr3,
                                 &state->cr4,
                                 &state->efer};
    if (number < REG_RIP)
        return &state->gpr[general[number]];
    if (number == REG_RIP)
        return &state->rip;
    return number >= REG_FS_BASE ? control[number - REG_FS_BASE] : NULL;
}

/* Where bytes in the XSAVE area are, how many, and of which part of it; or NULL. */
static uint8_t *area_of(struct x86_state *state, unsigned number, unsigned *size, uint8_t *part)
{
    static const struct {
        unsigned number, at, size;
    } words[] = {{REG_FCTRL, FCW, 2}, {REG_FSTAT, FSW, 2}, {REG_FOP, FOP, 2},
                 {REG_FIOFF, FIP, 4}, {REG_FOOFF, FDP, 4}, {REG_MXCSR, MXCSR, 4}};
    *part = number >= REG_XMM0 ? PART_SSE : PART_X87;
    if (number >= REG_ST0 && number < REG_FCTRL) {
        *size = 10;
        return state->xsave + ST + (size_t)16 * (number - REG_ST0);
    }
    if (number >= REG_XMM0 && number < REG_MXCSR) {
        *size = 16;
        return state->xsave + XMM + (size_t)16 * (number - REG_XMM0);
    }
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (words[i].number == number) {
            *size = words[i].size;
            return state->xsave + words[i].at;
        }
    return NULL;
}

/* The tags are kept as a bit each, "not empty"; a debugger has two: 0 valid, 3 empty. */
static uint32_t full_tags(uint8_t kept)
{
    uint32_t tags = 0;
    for (unsigned i = 0; i < 8; i++)
        tags |= (kept >> i & 1) != 0 ? 0 : 3u << (2 * i);
    return tags;
}

static uint8_t kept_tags(uint32_t tags)
{
    uint8_t kept = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((tags >> (2 * i) & 3) != 3)
            kept |= (uint8_t)(1u << i);
    return kept;
}

static void read_register(struct vcpu *vcpu, unsigned number, uint8_t *bytes)
{
    struct x86_cpu *cpu = x86_cpu_of(vcpu);
    x86_fetch(cpu);
    const uint64_t *place = place_of(&cpu->state, number);
    unsigned size = 0;
    uint8_t part;
    const uint8_t *area = area_of(&cpu->state, number, &size, &part);
    memset(bytes, 0, VCPU_REGISTER_MAX);
    if (place != NULL)
        store_le64(bytes, *place);
    else if (area != NULL)
        memcpy(bytes, area, size);
    else if (number == REG_EFLAGS)
        store_le32(bytes, (uint32_t)cpu->state.rflags);
    else if (number >= REG_SEGMENT0 && number < REG_ST0)
        store_le32(bytes, cpu->state.segments[segments[number - REG_SEGMENT0]].selector);
    else if (number == REG_FTAG)
        store_le32(bytes, full_tags(cpu->state.xsave[TAGS]));
}

/* Selectors alone would mean nothing, and what x87 remembers of segments is not kept. */
static bool is_fixed(unsigned number)
{
    return (number >= REG_SEGMENT0 && number < REG_ST0) || number == REG_FISEG || number == REG_FOSEG;
}

static bool write_register(struct vcpu *vcpu, unsigned number, const uint8_t *bytes)
{
    struct x86_cpu *cpu = x86_cpu_of(vcpu);
    uint8_t now[VCPU_REGISTER_MAX];
    unsigned size = 0;
    uint8_t part;
    read_register(vcpu, number, now);
    if (is_fixed(number))
        return memcmp(now, bytes, 4) == 0;
    uint64_t *place = place_of(&cpu->state, number);
    uint8_t *area = area_of(&cpu->state, number, &size, &part);
    if (place != NULL)
        *place = load_le64(bytes);
    else if (area != NULL)
        memcpy(area, bytes, size);
    else if (number == REG_EFLAGS)
        cpu->state.rflags = load_le32(bytes) | X86_RFLAGS_FIXED;
    else
        cpu->state.xsave[TAGS] = kept_tags(load_le32(bytes));
    if (place == NULL && number != REG_EFLAGS)
        cpu->state.xsave[PRESENT] |= part;
    x86_changed(cpu);
    return true;
}

/* ---- points ---- */

/* As the debug registers have it: four in all; data of 1, 2, 4 or 8 bytes, aligned; and none for reads
 * alone. */
static bool takes_point(const struct vcpu_points *points, const struct vcpu_point *point)
{
    uint64_t size = point->last - point->first + 1;
    if (points->count >= X86_DEBUG_POINTS || point->kind == VCPU_POINT_READ)
        return false;
    return point->kind <= VCPU_POINT_BREAK_HARD ||
           (is_power_of_two(size) && size <= 8 && point->first % size == 0);
}

static struct vcpu_debug *attach(struct vcpu *vcpu)
{
    (void)vcpu;
    return alloc_zeroed(1, sizeof(struct vcpu_debug));
}

static void detach(struct vcpu_debug *debug)
{
    free(debug);
}

const struct isa_debug x86_isa_debug = {
    .architecture = "i386:x86-64",
    .register_limit = REG_LIMIT,
    .register_core = REG_XMM0,
    .describe = describe,
    .read = read_register,
    .write = write_register,
    .attach = attach,
    .detach = detach,
    .takes_point = takes_point,
};
