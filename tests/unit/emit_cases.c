/* SPDX-License-Identifier: MIT
 *
 * Instructions as engine/emit writes them, one a line: the bytes, a tab, what objdump should
 * say of them. emit_x86.py compares.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "engine/emit/x86.h"

static const char *const wide[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const narrow[] = {"eax", "ecx", "edx",  "ebx",  "esp",  "ebp",  "esi",  "edi",
                                     "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"};
static const char *const byte[] = {"al",  "cl",  "dl",   "bl",   "spl",  "bpl",  "sil",  "dil",
                                   "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b", "r15b"};

static uint8_t buffer[64];
static struct x86_code code;

static struct x86_code *fresh(void)
{
    code = (struct x86_code){.at = buffer, .end = buffer + sizeof(buffer)};
    return &code;
}

static void __attribute__((format(printf, 1, 2))) expect(const char *format, ...)
{
    va_list arguments;
    for (const uint8_t *at = buffer; at < code.at; at++)
        printf("%02x", *at);
    printf("\t");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

static const struct {
    uint32_t op;
    const char *name;
} plain[] = {
    {X86_ADD, "add"},
    {X86_OR, "or"},
    {X86_AND, "and"},
    {X86_SUB, "sub"},
    {X86_XOR, "xor"},
    {X86_CMP, "cmp"},
    {X86_MOV_LOAD, "mov"},
    {X86_IMUL, "imul"},
    {X86_POPCNT, "popcnt"},
    {X86_TZCNT, "tzcnt"},
    {X86_LZCNT, "lzcnt"},
    {X86_CMOV + X86_E, "cmove"},
    {X86_CMOV + X86_G, "cmovg"},
    {X86_CMOV + X86_B, "cmovb"},
};

static void registers(void)
{
    for (int a = 0; a < 16; a++)
        for (int b = 0; b < 16; b++) {
            for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
                x86_rr(fresh(), plain[i].op | X86_W, a, b);
                expect("%s %s,%s", plain[i].name, wide[a], wide[b]);
                x86_rr(fresh(), plain[i].op, a, b);
                expect("%s %s,%s", plain[i].name, narrow[a], narrow[b]);
            }
            x86_rr(fresh(), X86_MOVZX8 | X86_BYTE_RM, a, b);
            expect("movzx %s,%s", narrow[a], byte[b]);
            x86_rr(fresh(), X86_MOVSX8 | X86_BYTE_RM, a, b);
            expect("movsx %s,%s", wide[a], byte[b]);
            x86_rr(fresh(), X86_MOVSXD, a, b);
            expect("movsxd %s,%s", wide[a], narrow[b]);
            x86_rr(fresh(), X86_BTS | X86_W, a, b);
            expect("bts %s,%s", wide[b], wide[a]);
            x86_vrr(fresh(), X86_SHLX | X86_W, a, b, 9);
            expect("shlx %s,r9,%s", wide[a], wide[b]);
            x86_vrr(fresh(), X86_SARX, a, b, 1);
            expect("sarx %s,ecx,%s", narrow[a], narrow[b]);
            x86_vrr(fresh(), X86_SHRX | X86_W, 10, a, b);
            expect("shrx r10,%s,%s", wide[b], wide[a]);
            x86_rorx(fresh(), X86_W, a, b, 63);
            expect("rorx %s,%s,0x3f", wide[a], wide[b]);
            x86_rorx(fresh(), 0, a, b, 7);
            expect("rorx %s,%s,0x7", narrow[a], narrow[b]);
        }
}

static void memory(void)
{
    static const int32_t offsets[] = {0, 8, -8, 127, -128, 128, 0x12345, -0x12345};
    for (int base = 0; base < 16; base++)
        for (int reg = 0; reg < 16; reg++)
            for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
                int32_t offset = offsets[i];
                char at[64] = "";
                if (offset != 0)
                    snprintf(at, sizeof(at), "%c0x%x", offset < 0 ? '-' : '+',
                             (unsigned)(offset < 0 ? -offset : offset));
                else if ((base & 7) == 5)
                    snprintf(at, sizeof(at), "+0x0");
                x86_rm(fresh(), X86_MOV_LOAD | X86_W, reg, x86_at(base, offset));
                expect("mov %s,QWORD PTR [%s%s]", wide[reg], wide[base], at);
                x86_rm(fresh(), X86_MOV_STORE8, reg, x86_at(base, offset));
                expect("mov BYTE PTR [%s%s],%s", wide[base], at, byte[reg]);
                x86_mi(fresh(), X86_G1_CMP, 0, x86_at(base, offset), 0);
                expect("cmp DWORD PTR [%s%s],0x0", wide[base], at);
                if (reg != X86_RSP) {
                    x86_rm(fresh(), X86_ADD | X86_W, 2, x86_indexed(base, reg, 3, offset));
                    expect("add rdx,QWORD PTR [%s+%s*8%s]", wide[base], wide[reg], at);
                }
            }
}

static void others(void)
{
    for (int reg = 0; reg < 16; reg++) {
        x86_ri(fresh(), X86_G1_ADD, X86_W, reg, 5);
        expect("add %s,0x5", wide[reg]);
        x86_ri(fresh(), X86_G1_SUB, 0, reg, 0x1000);
        if (reg == 0)
            expect("sub eax,0x1000");
        else
            expect("sub %s,0x1000", narrow[reg]);
        x86_shift(fresh(), X86_SAR, X86_W, reg, 63);
        expect("sar %s,0x3f", wide[reg]);
        x86_mov_imm(fresh(), reg, 0x12345678);
        expect("mov %s,0x12345678", narrow[reg]);
        x86_mov_imm(fresh(), reg, UINT64_C(0xffffffff80000000));
        expect("mov %s,0xffffffff80000000", wide[reg]);
        x86_mov_imm(fresh(), reg, UINT64_C(0x123456789abcdef0));
        expect("movabs %s,0x123456789abcdef0", wide[reg]);
        x86_bswap(fresh(), reg);
        expect("bswap %s", wide[reg]);
        x86_push(fresh(), reg);
        expect("push %s", wide[reg]);
        x86_pop(fresh(), reg);
        expect("pop %s", wide[reg]);
        x86_rr(fresh(), (X86_SET + X86_NP) | X86_BYTE_RM, 0, reg);
        expect("setnp %s", byte[reg]);
        x86_rr(fresh(), X86_GROUP3 | X86_W, X86_G3_IDIV, reg);
        expect("idiv %s", wide[reg]);
        x86_rr(fresh(), X86_GROUP5, X86_G5_JMP, reg);
        expect("jmp %s", wide[reg]);
        x86_rr(fresh(), X86_CVTSI | X86_F2 | X86_W, 1, reg);
        expect("cvtsi2sd xmm1,%s", wide[reg]);
        x86_rr(fresh(), X86_CVTTF | X86_F3, reg, 2);
        expect("cvttss2si %s,xmm2", narrow[reg]);
    }
    x86_rr(fresh(), X86_ADDF | X86_F2, 0, 1);
    expect("addsd xmm0,xmm1");
    x86_rr(fresh(), X86_UCOMIS | X86_66, 0, 1);
    expect("ucomisd xmm0,xmm1");
    x86_vrr(fresh(), X86_FMADD231 | X86_W, 0, 1, 2);
    expect("vfmadd231sd xmm0,xmm1,xmm2");
    x86_vrr(fresh(), X86_FNMSUB231, 0, 1, 2);
    expect("vfnmsub231ss xmm0,xmm1,xmm2");
    x86_rm(fresh(), X86_MOVQ_LOAD, 1, x86_at(X86_RBP, 16));
    expect("movq xmm1,QWORD PTR [rbp+0x10]");
    x86_rm(fresh(), X86_MOVD_STORE, 1, x86_at(X86_RBP, 16));
    expect("movd DWORD PTR [rbp+0x10],xmm1");
    x86_rm(fresh(), X86_LDMXCSR, 2, x86_at(X86_RBP, 16));
    expect("ldmxcsr DWORD PTR [rbp+0x10]");
    x86_rm(fresh(), X86_XADD | X86_W | X86_LOCK, X86_RCX, x86_at(X86_RAX, 0));
    expect("lock xadd QWORD PTR [rax],rcx");
    x86_rm(fresh(), X86_CMPXCHG | X86_LOCK, X86_RDX, x86_at(X86_RCX, 0));
    expect("lock cmpxchg DWORD PTR [rcx],edx");
    x86_rm(fresh(), X86_AND_TO | X86_W | X86_LOCK, X86_RDX, x86_at(X86_RAX, 0));
    expect("lock and QWORD PTR [rax],rdx");
    x86_rm(fresh(), X86_OR_TO | X86_LOCK, X86_R9, x86_at(X86_RAX, 0));
    expect("lock or DWORD PTR [rax],r9d");
    x86_rm(fresh(), X86_XOR_TO | X86_W, X86_RDX, x86_at(X86_RAX, 8));
    expect("xor QWORD PTR [rax+0x8],rdx");
    x86_mov_mi(fresh(), X86_W, x86_at(X86_RBP, -8), -1);
    expect("mov QWORD PTR [rbp-0x8],0xffffffffffffffff");
}

/* reg and rm: x an xmm register, w and n a general one as a whole or its low half. */
static const struct {
    uint32_t op;
    const char *name;
    char reg, rm;
} vector[] = {
    {X86_MOVAPS, "movaps", 'x', 'x'},
    {X86_ANDNPS, "andnps", 'x', 'x'},
    {X86_XORPS, "xorps", 'x', 'x'},
    {X86_SQRT | X86_F2, "sqrtsd", 'x', 'x'},
    {X86_SQRT | X86_F3, "sqrtss", 'x', 'x'},
    {X86_ADDF | X86_F2, "addsd", 'x', 'x'},
    {X86_MULF | X86_F3, "mulss", 'x', 'x'},
    {X86_SUBF | X86_F2, "subsd", 'x', 'x'},
    {X86_DIVF | X86_F3, "divss", 'x', 'x'},
    {X86_CVTF | X86_F2, "cvtsd2ss", 'x', 'x'},
    {X86_CVTF | X86_F3, "cvtss2sd", 'x', 'x'},
    {X86_UCOMIS, "ucomiss", 'x', 'x'},
    {X86_COMIS | X86_66, "comisd", 'x', 'x'},
    {X86_MOVQ_LOAD, "movq", 'x', 'x'},
    {X86_MOVQ_TO, "movq", 'x', 'w'},
    {X86_MOVD_LOAD, "movd", 'x', 'n'},
    {X86_CVTSI | X86_F2 | X86_W, "cvtsi2sd", 'x', 'w'},
    {X86_CVTSI | X86_F3, "cvtsi2ss", 'x', 'n'},
    {X86_CVTTF | X86_F2 | X86_W, "cvttsd2si", 'w', 'x'},
    {X86_CVTF_INT | X86_F3, "cvtss2si", 'n', 'x'},
};

static const char *name_of(char kind, int reg)
{
    static const char *const xmm[] = {"xmm0",  "xmm1",  "xmm2",  "xmm3", "xmm4",  "xmm5",
                                      "xmm6",  "xmm7",  "xmm8",  "xmm9", "xmm10", "xmm11",
                                      "xmm12", "xmm13", "xmm14", "xmm15"};
    return kind == 'x' ? xmm[reg] : kind == 'w' ? wide[reg] : narrow[reg];
}

static void vectors(void)
{
    for (int a = 0; a < 16; a++)
        for (int b = 0; b < 16; b++) {
            for (size_t i = 0; i < ARRAY_SIZE(vector); i++) {
                x86_rr(fresh(), vector[i].op, a, b);
                expect("%s %s,%s", vector[i].name, name_of(vector[i].reg, a),
                       name_of(vector[i].rm, b));
            }
            x86_rr(fresh(), X86_MOVQ_FROM, a, b);
            expect("movq %s,%s", wide[b], name_of('x', a));
            x86_rr(fresh(), X86_MOVD_STORE, a, b);
            expect("movd %s,%s", narrow[b], name_of('x', a));
            x86_vrr(fresh(), X86_FMADD231 | X86_W, a, b, 9);
            expect("vfmadd231sd %s,%s,xmm9", name_of('x', a), name_of('x', b));
            x86_rm(fresh(), X86_MOVQ_STORE, a, x86_at(b, 128));
            expect("movq QWORD PTR [%s+0x80],%s", wide[b], name_of('x', a));
            x86_rm(fresh(), X86_ANDNPS, a, x86_at(b, 128));
            expect("andnps %s,XMMWORD PTR [%s+0x80]", name_of('x', a), wide[b]);
        }
}

int main(void)
{
    registers();
    memory();
    vectors();
    others();
    return 0;
}
