/* SPDX-License-Identifier: MIT
 *
 * The life of a device: the two moments every device shares, so that none of them can
 * forget its lock or its first reset. A device whose realize() fails has cleaned up after
 * itself; unrealize() runs only for devices that were whole.
 */
#include "bus/device.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"

struct device *device_new(const struct device_ops *ops, const struct device_env *env,
                          const struct device_params *params, struct error **err)
{
    assert(ops->size >= sizeof(struct device));
    struct device *device = alloc_zeroed(1, ops->size);
    device->ops = ops;
    device->env = env;
    snprintf(device->id, sizeof(device->id), "%s", params->id != NULL ? params->id : ops->name);
    pthread_mutex_init(&device->lock, NULL);
    if (!ops->realize(device, params, err)) {
        error_prefix(err, "device '%s'", device->id);
        pthread_mutex_destroy(&device->lock);
        free(device);
        return NULL;
    }
    if (ops->reset != NULL)
        ops->reset(device);
    return device;
}

void device_free(struct device *device)
{
    if (device == NULL)
        return;
    if (device->ops->unrealize != NULL)
        device->ops->unrealize(device);
    pthread_mutex_destroy(&device->lock);
    free(device);
}
