/* SPDX-License-Identifier: MIT
 *
 * SBI §10, system reset.
 */
#include "vm/sbi/sbi.h"

int64_t sbi_srst(struct sbi_call *call)
{
    enum { SHUTDOWN, COLD_REBOOT, WARM_REBOOT };
    enum { NO_REASON, SYSTEM_FAILURE };
    uint32_t type = (uint32_t)call->args[0], reason = (uint32_t)call->args[1];
    if (call->function != 0)
        return SBI_ERR_NOT_SUPPORTED;
    if (reason > SYSTEM_FAILURE && reason < 0xe0000000u)
        return SBI_ERR_INVALID_PARAM;
    if (type > WARM_REBOOT)
        return type < 0xf0000000u ? SBI_ERR_INVALID_PARAM : SBI_ERR_NOT_SUPPORTED;
    if (type != SHUTDOWN)
        vm_power(call->cpu->vm, VM_POWER_RESET, 0);
    else if (reason == SYSTEM_FAILURE)
        vm_power(call->cpu->vm, VM_POWER_FAILURE, 1);
    else
        vm_power(call->cpu->vm, VM_POWER_OFF, 0);
    call->silent = true;
    return SBI_SUCCESS;
}
