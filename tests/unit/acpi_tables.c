/* SPDX-License-Identifier: MIT
 *
 * Writes the ACPI tables of a PC with all devices that describe themselves, for acpi.py to look at:
 *
 *     acpi_tables CPUS FOLDER [KEYBOARD]    FOLDER/memory: what lies at 0xe0000; with anything as
 *                                           KEYBOARD there is one
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/vclock.h"
#include "bus/pci.h"
#include "dev/devices.h"
#include "dev/pcie_host.h"
#include "dev/virtio_slots.h"
#include "mem/mem.h"
#include "vm/pc/acpi.h"

#define GPA UINT64_C(0xe0000)

static const struct row {
    const struct device_ops *ops;
    struct device_params params;
} rows[] = {
    {&device_uart16550, {.id = "uart0", .io_port = 0x3f8, .irq_number = 4}},
    {&device_cmos_rtc, {.id = "rtc", .io_port = 0x70, .irq_number = 8}},
    {&device_i8042, {.id = "i8042", .io_port = 0x60, .irq_number = 1}},
    {&device_acpi_pm, {.id = "pm", .io_port = 0x600}},
    {&device_vmgenid, {.id = "vmgenid", .gpa = 0xfeb00000, .irq_number = 20}},
    {&device_pcie_host,
     {.id = "pcie",
      .gpa = 0xe0000000,
      .irq_number = 16,
      .window = &(const struct pci_window){0xc0000000, 0x20000000}}},
    {&device_virtio_slots,
     {.id = "virtio",
      .gpa = 0xfea00000,
      .irq_number = 5,
      .shared_irqs = (const uint8_t[]){5, 21},
      .inputs = 2}},
    {&device_virtio_rng, {.id = "rng0"}}, /* the first and the third share an input */
    {&device_virtio_rng, {.id = "rng1"}},
    {&device_virtio_rng, {.id = "rng2"}},
};

static struct device *devices[ARRAY_SIZE(rows)];

static void fill(struct entropy *entropy, void *data, size_t size)
{
    (void)entropy;
    memset(data, 0x5a, size);
}

static void describe(void *opaque, struct aml *aml)
{
    (void)opaque;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (devices[i]->ops->acpi != NULL)
            devices[i]->ops->acpi(devices[i], aml);
}

static void write_file(const char *folder, const char *name, const uint8_t *bytes, size_t size)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
        exit(2);
}

/* Firmware that puts the tables there itself comes to the same. */
static bool links_lead_there(struct pc_acpi_setup setup, const uint8_t *wanted, size_t size)
{
    static uint8_t bytes[PC_ACPI_MAX];
    struct pc_acpi_links links = {.pointer_count = 0};
    setup.links = &links;
    if (pc_acpi_build(&setup, 0, bytes, sizeof(bytes)) != size)
        return false;
    for (size_t i = 0; i < links.pointer_count; i++) {
        uint8_t *at = bytes + links.pointers[i].at;
        if (links.pointers[i].size == 4)
            store_le32(at, (uint32_t)(load_le32(at) + GPA));
        else
            store_le64(at, load_le64(at) + GPA);
    }
    for (size_t i = 0; i < links.sum_count; i++) {
        uint8_t sum = 0;
        for (uint32_t j = 0; j < links.sums[i].size; j++)
            sum = (uint8_t)(sum + bytes[links.sums[i].from + j]);
        bytes[links.sums[i].at] = (uint8_t)(0 - sum);
    }
    return memcmp(bytes, wanted, size) == 0;
}

int main(int argc, char **argv)
{
    static uint8_t bytes[PC_ACPI_MAX];
    struct log log;
    struct entropy entropy = {fill};
    struct vclock *clock = vclock_new(VCLOCK_COUNTED, 0);
    struct device_env env = {.mem = mem_space_new(),
                             .ports = mem_space_new(),
                             .clock = clock,
                             .log = &log,
                             .entropy = &entropy};
    struct keyboard keyboard;
    if (argc < 3)
        return 2;
    log_init(&log, LOG_LEVEL_ERROR, 2, "test");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct device_params params = rows[i].params;
        params.keyboard = argc > 3 ? &keyboard : NULL;
        devices[i] = device_new(rows[i].ops, &env, &params, NULL);
        if (rows[i].ops == &device_virtio_slots)
            env.virtio_slots = virtio_slots_of(devices[i]);
    }
    const struct pc_acpi_setup setup = {.cpus = (unsigned)atoi(argv[1]),
                                        .ecam_gpa = 0xe0000000,
                                        .ecam_size = PCIE_HOST_ECAM_SIZE,
                                        .pm_port = 0x600,
                                        .reset_port = 0x64,
                                        .reset_value = 0xfe,
                                        .sci = 9,
                                        .keyboard = argc > 3,
                                        .ioapic_gpa = 0xfec00000,
                                        .lapic_gpa = 0xfee00000,
                                        .devices = describe};
    size_t size = pc_acpi_build(&setup, GPA, bytes, sizeof(bytes));
    for (size_t room = 0; room < size; room++) /* too little of it is noticed */
        if (pc_acpi_build(&setup, GPA, bytes, room) != 0)
            return 3;
    pc_acpi_build(&setup, GPA, bytes, sizeof(bytes));
    if (!links_lead_there(setup, bytes, size))
        return 4;
    write_file(argv[2], "memory", bytes, size);
    for (size_t i = ARRAY_SIZE(rows); i-- > 0;)
        device_free(devices[i]);
    mem_space_free(env.mem);
    mem_space_free(env.ports);
    vclock_free(clock);
    return 0;
}
