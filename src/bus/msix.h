/* SPDX-License-Identifier: MIT
 *
 * MSI-X of a PCI function (PCI Local Bus 3.0, 6.8.2): a table of messages in a BAR, which the
 * function sends instead of raising its INTx pin.
 *
 *     msix_init(&msix, &function, vectors, bar, 0x4000, 0x5000);   before the function is plugged
 *     msix_fire(&msix, vector);                                     in place of pci_set_intx()
 *
 * The device passes on accesses of the two structures in its BAR and calls
 * msix_config_written() from its function's hook. A vector that fires while it is masked is
 * pending and sent when that ends. A function that may not master the bus counts as masked.
 *
 * Threads: fire from any thread; table accesses likewise; the lock is below a device's and
 * above the message sink's.
 */
#ifndef TRAPEZE_BUS_MSIX_H
#define TRAPEZE_BUS_MSIX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct pci_function;
struct state_table;

#define MSIX_VECTOR_MAX 64

struct msix_vector {
    uint64_t address;
    uint32_t data;
    uint32_t control; /* bit 0: masked */
};

struct msix {
    struct pci_function *function;
    unsigned capability; /* its offset; 0: the function has no MSI-X */
    unsigned count;
    pthread_mutex_t lock;
    bool enabled, masked; /* what configuration space says; derived */
    struct msix_vector vectors[MSIX_VECTOR_MAX];
    uint64_t pending; /* bit per vector */
};

/* `vectors` of 0: the function gets none, and everything below does nothing. The offsets are
 * of the message table and the pending bits in the BAR, 8-byte aligned. */
void msix_init(struct msix *msix, struct pci_function *function, unsigned vectors, unsigned bar,
               uint32_t table, uint32_t pending);
void msix_destroy(struct msix *msix);
void msix_reset(struct msix *msix); /* before the function's own reset */

/* The driver uses MSI-X, not INTx. */
bool msix_enabled(struct msix *msix);
/* Ignored if there is no such vector. */
void msix_fire(struct msix *msix, unsigned vector);

/* From struct pci_function_ops.config_written. */
void msix_config_written(struct msix *msix);
/* 32-bit accesses, aligned; 64-bit ones come as two. */
uint32_t msix_table_read(struct msix *msix, uint64_t offset);
void msix_table_write(struct msix *msix, uint64_t offset, uint32_t value);
uint32_t msix_pending_read(struct msix *msix, uint64_t offset);

extern const struct state_table msix_state; /* before the function's */

#endif
