/* Zicond; and that its reserved neighbours (funct7 = 7, other funct3) are illegal. */
#define VEC_ZICOND
#include "vectors.h"

const char guest_name[] = "isa_zicond";

void guest_main(void)
{
    run_vectors();
    u64 v = 3;
    TRY(".insn r 0x33, 4, 7, %0, %0, %0", OUT("+r"(v)), IN());
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "funct3 4");
    TRY(".insn r 0x33, 6, 7, %0, %0, %0", OUT("+r"(v)), IN());
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "funct3 6");
    TRY(".insn r 0x3b, 5, 7, %0, %0, %0", OUT("+r"(v)), IN());
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "OP-32");
    CHECK_EQ(v, 3, "rd unchanged");
}
