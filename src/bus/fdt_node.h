/* SPDX-License-Identifier: MIT
 *
 * Properties of device-tree nodes on top of libfdt's sequential writer. Every function
 * returns 0 or a negative libfdt error, so that results can be ORed and looked at once:
 *
 *     int error = fdt_begin_node(fdt, "rtc@101000");
 *     error |= fdt_put_string(fdt, "compatible", "google,goldfish-rtc");
 *     error |= fdt_put_reg(fdt, 0x101000, 0x1000);
 *     error |= fdt_end_node(fdt);
 *     return error == 0;
 *
 * Addresses and sizes have two cells each, as at the root and in /soc.
 */
#ifndef TRAPEZE_BUS_FDT_NODE_H
#define TRAPEZE_BUS_FDT_NODE_H

#include <libfdt.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Phandles of the machine's interrupt controllers: fixed, because nodes refer to each other
 * in both directions. Others are counted up from FDT_PHANDLE_FREE by the board. */
enum {
    FDT_PHANDLE_CPU_INTC = 1, /* of hart 0; hart i: + i */
    FDT_PHANDLE_PLIC = 64,
    FDT_PHANDLE_IMSIC_M,
    FDT_PHANDLE_IMSIC_S,
    FDT_PHANDLE_APLIC_M,
    FDT_PHANDLE_APLIC_S,
    FDT_PHANDLE_FREE
};

/* A wired interrupt, high while it is asserted, as its controller wants it described: the PLIC
 * knows no other kind, the APLIC has a second cell. Returns the number of cells. */
enum { FDT_INTERRUPT_CELLS_MAX = 2, FDT_INTERRUPT_LEVEL_HIGH = 4 };
static inline unsigned fdt_interrupt_cells(uint32_t controller, uint32_t number, uint32_t *cells)
{
    cells[0] = number;
    cells[1] = FDT_INTERRUPT_LEVEL_HIGH;
    return controller == FDT_PHANDLE_APLIC_S ? 2 : 1;
}

static inline int fdt_put_cells(void *fdt, const char *name, const uint32_t *cells, size_t count)
{
    void *place;
    int error = fdt_property_placeholder(fdt, name, (int)(count * sizeof(fdt32_t)), &place);
    for (size_t i = 0; error == 0 && i < count; i++)
        fdt32_st((fdt32_t *)place + i, cells[i]);
    return error;
}

/* The cells are a compound literal: FDT_PUT_CELLS(fdt, "interrupts", 10). */
#define FDT_PUT_CELLS(fdt, name, ...)                                                              \
    fdt_put_cells((fdt), (name), (const uint32_t[]){__VA_ARGS__},                                  \
                  sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static inline int fdt_put_reg(void *fdt, uint64_t gpa, uint64_t size)
{
    return FDT_PUT_CELLS(fdt, "reg", (uint32_t)(gpa >> 32), (uint32_t)gpa, (uint32_t)(size >> 32),
                         (uint32_t)size);
}

static inline int fdt_put_interrupt(void *fdt, uint32_t controller, uint32_t number)
{
    uint32_t cells[FDT_INTERRUPT_CELLS_MAX];
    unsigned count = fdt_interrupt_cells(controller, number, cells);
    int error = fdt_property_u32(fdt, "interrupt-parent", controller);
    return error | fdt_put_cells(fdt, "interrupts", cells, count);
}

/* A list of strings: FDT_PUT_STRINGS(fdt, "compatible", "sifive,plic-1.0.0\0riscv,plic0").
 * The literal's own terminator ends the last one. */
#define FDT_PUT_STRINGS(fdt, name, list) fdt_property((fdt), (name), (list), (int)sizeof(list))

static inline int fdt_put_string(void *fdt, const char *name, const char *value)
{
    return fdt_property(fdt, name, value, (int)strlen(value) + 1);
}

static inline int fdt_put_empty(void *fdt, const char *name)
{
    return fdt_property(fdt, name, NULL, 0);
}

/* Opens the node NAME@GPA. */
static inline int fdt_begin_unit(void *fdt, const char *name, uint64_t gpa)
{
    char unit[64];
    snprintf(unit, sizeof(unit), "%s@%llx", name, (unsigned long long)gpa);
    return fdt_begin_node(fdt, unit);
}

#endif
