/* SPDX-License-Identifier: MIT
 *
 * See limits.h.
 */
#include "vm/limits.h"

#include "base/error.h"
#include "dev/devices.h"
#include "dev/uart16550.h"
#include "dev/virtio_rng.h"
#include "vm/machine.h"

static struct device *find(const struct vm *vm, const struct device_ops *ops)
{
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops == ops)
            return vm->devices[i];
    return NULL;
}

void vm_limit_entropy(struct vm *vm, uint64_t bytes, uint64_t requests)
{
    virtio_rng_limit(find(vm, &device_virtio_rng), bytes, requests); /* every machine has one */
}

bool vm_limit_serial(struct vm *vm, uint64_t bytes, struct error **err)
{
    struct device *uart = find(vm, &device_uart16550);
    if (uart == NULL)
        return error_set(err, ERROR_USAGE, "the machine has no serial port");
    uart16550_limit(uart, bytes);
    return true;
}

uint64_t vm_serial_dropped(const struct vm *vm)
{
    struct device *uart = find(vm, &device_uart16550);
    return uart != NULL ? uart16550_dropped(uart) : 0;
}
