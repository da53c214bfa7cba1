/* SPDX-License-Identifier: MIT
 *
 * The planets' orbits by leapfrog steps: dependent floating-point operations, divisions and square
 * roots. The bits of the result must be equal everywhere, so no multiply-add may be fused.
 */
#include <math.h>
#include <string.h>

#include "rows.h"

#ifdef __clang__
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

#define BODIES 5
#define STEPS  500000

struct body {
    double at[3], speed[3], mass;
};

static void attract(struct body *a, struct body *b, double step)
{
    double d[3], square = 0;
    for (int i = 0; i < 3; i++) {
        d[i] = a->at[i] - b->at[i];
        square += d[i] * d[i];
    }
    double pull = step / (square * sqrt(square));
    for (int i = 0; i < 3; i++) {
        a->speed[i] -= d[i] * b->mass * pull;
        b->speed[i] += d[i] * a->mass * pull;
    }
}

uint64_t row_nbody(void)
{
    /* A star and four planets on nearly circular orbits; lengths, masses and times are of no unit.
     */
    struct body bodies[BODIES] = {{{0, 0, 0}, {0, 0, 0}, 40}};
    for (int i = 1; i < BODIES; i++) {
        double radius = 1.5 * i * i;
        bodies[i] = (struct body){{radius, 0, 0.01 * i}, {0, sqrt(40 / radius), 0}, 0.01 * i};
    }
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++)
                attract(&bodies[i], &bodies[j], 0.0005);
        for (int i = 0; i < BODIES; i++)
            for (int axis = 0; axis < 3; axis++)
                bodies[i].at[axis] += 0.0005 * bodies[i].speed[axis];
    }
    uint64_t checksum = 0;
    for (int i = 0; i < BODIES; i++) {
        for (int axis = 0; axis < 3; axis++) {
            uint64_t bits;
            memcpy(&bits, &bodies[i].at[axis], sizeof(bits));
            checksum = mix(checksum, bits);
        }
    }
    return checksum;
}
