/* Zba, Zbb and Zbs: every instruction (tables from gen/int_vectors.py). */
#define VEC_B
#include "vectors.h"

const char guest_name[] = "isa_b";

void guest_main(void)
{
    run_vectors();
}
