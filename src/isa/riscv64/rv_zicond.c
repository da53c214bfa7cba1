/* SPDX-License-Identifier: MIT
 *
 * Zicond: conditional zero (U §Zicond).
 */
#include "isa/riscv64/exec.h"

RV_DEFINE_RR(exec_czero_eqz, b == 0 ? 0 : a)
RV_DEFINE_RR(exec_czero_nez, b != 0 ? 0 : a)

static const struct rv_row rows[] = {
    {"czero.eqz", 0x0e005033, 0xfe00707f, RV_FORMAT_R, exec_czero_eqz, 0},
    {"czero.nez", 0x0e007033, 0xfe00707f, RV_FORMAT_R, exec_czero_nez, 0},
};
const struct rv_extension rv_zicond = {"zicond", rows, ARRAY_SIZE(rows)};
