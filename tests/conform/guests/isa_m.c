/* M: products and quotients, with division by zero and overflow as the table in the M chapter has
 * them (tables from gen/int_vectors.py). */
#define VEC_M
#include "vectors.h"

const char guest_name[] = "isa_m";

void guest_main(void)
{
    run_vectors();
}
