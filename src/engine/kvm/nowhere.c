/* SPDX-License-Identifier: MIT
 *
 * The engine on hosts that are not x86-64 ones.
 */
#include "base/error.h"
#include "engine/kvm/kvm.h"

static bool supports(const struct isa *isa)
{
    (void)isa;
    return false;
}

const struct engine engine_kvm = {.name = "kvm", .supports = supports};
