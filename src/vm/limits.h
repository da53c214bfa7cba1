/* SPDX-License-Identifier: MIT
 *
 * Limits that are set while a machine runs, and that no description has.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_VM_LIMITS_H
#define TRAPEZE_VM_LIMITS_H

#include <stdbool.h>
#include <stddef.h>

#include "net/port.h"

struct vm;

/* Of what a NIC's guest sends and receives in a second, besides vm_set_rate(). False: no such NIC. */
struct vm_nic_limits {
    struct net_limits sends, receives;
};
bool vm_get_nic_limits(const struct vm *vm, size_t nic, struct vm_nic_limits *limits,
                       struct error **err);
bool vm_set_nic_limits(struct vm *vm, size_t nic, const struct vm_nic_limits *limits,
                       struct error **err);

#endif
