/* Driver of the tables that gen/int_vectors.py writes; include after defining one VEC_ group. */
#ifndef RT_VECTORS_H
#define RT_VECTORS_H

#include "rt.h"

struct vector {
    const char *name;
    /* rd separate, rd = rs1, rd = rs2, rs1 = rs2, rd = x0; NULL: the form does not exist */
    u64 (*form[5])(u64, u64);
    const u64 *want; /* [rs1] or [rs1 * N + rs2] */
    int arity;
};

#include "int_vectors.h"

enum { N_CORNERS = sizeof corners / sizeof corners[0] };

static void run_vector(const struct vector *v, size_t i, size_t j)
{
    static const char *const form_name[] = {"rd", "rd=rs1", "rd=rs2"};
    u64 a = corners[i], b = corners[j];
    u64 want = v->want[v->arity == 2 ? i * N_CORNERS + j : i];
    for (int f = 0; f < 3; f++) {
        if (v->form[f]) {
            CHECK_EQ(v->form[f](a, b), want, "%s %s 0x%lx 0x%lx", v->name, form_name[f], a, b);
        }
    }
    if (v->form[3] && i == j) {
        CHECK_EQ(v->form[3](a, 0), want, "%s rs1=rs2 0x%lx", v->name, a);
    }
    if (v->form[4]) {
        CHECK_EQ(v->form[4](a, b), 0, "%s rd=x0 0x%lx 0x%lx", v->name, a, b);
    }
}

static void run_vectors(void)
{
    for (size_t k = 0; k < ARRAY_SIZE(vectors); k++) {
        for (size_t i = 0; i < N_CORNERS; i++) {
            for (size_t j = 0; j < (vectors[k].arity == 2 ? N_CORNERS : 1); j++) {
                run_vector(&vectors[k], i, j);
            }
        }
    }
}

#endif
