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

/* Of what a NIC's guest sends and receives in a second, besides vm_set_rate(). False: no such NIC.
 */
struct vm_nic_limits {
    struct net_limits sends, receives;
};
bool vm_get_nic_limits(const struct vm *vm, size_t nic, struct vm_nic_limits *limits,
                       struct error **err);
bool vm_set_nic_limits(struct vm *vm, size_t nic, const struct vm_nic_limits *limits,
                       struct error **err);

/* What the entropy device gives, and what of the serial port's output gets through; 0: no limit. */
void vm_limit_entropy(struct vm *vm, uint64_t bytes, uint64_t requests);
bool vm_limit_serial(struct vm *vm, uint64_t bytes, struct error **err); /* false: it has none */
uint64_t vm_serial_dropped(const struct vm *vm);                         /* bytes */

#endif
