/* SPDX-License-Identifier: MIT
 *
 * ACPI's power-management ports (dev/acpi_pm.c), as the board's tables describe them: from the
 * device's first port.
 */
#ifndef TRAPEZE_DEV_ACPI_PM_H
#define TRAPEZE_DEV_ACPI_PM_H

enum {
    ACPI_PM_EVENT = 0, /* PM1: status, enable */
    ACPI_PM_EVENT_SIZE = 4,
    ACPI_PM_CONTROL = 4,
    ACPI_PM_CONTROL_SIZE = 2,
    ACPI_PM_TIMER = 8,
    ACPI_PM_TIMER_SIZE = 4,
    ACPI_PM_PORTS = 12
};

#endif
