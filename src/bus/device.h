/* SPDX-License-Identifier: MIT
 *
 * What a device is: one const ops struct + one state table + its device-tree node, all in
 * one file under dev/. Adding one costs that file and one line in dev/devices.list.
 *
 *     const struct device_ops device_goldfish_rtc = {
 *         .name = "goldfish-rtc",
 *         .size = sizeof(struct rtc),          // struct device first
 *         .realize = rtc_realize, .reset = rtc_reset,
 *         .fdt = rtc_fdt, .state = &rtc_state,
 *     };
 *
 * Life: device_new() allocates zeroed memory and realizes it; realize maps its I/O regions
 * and keeps what it needs of the parameters; reset puts it into its power-on state (called
 * once after realize and at each guest reset); device_free() unmaps and frees.
 *
 * Threads: I/O callbacks arrive on vCPU threads, timers and input on the event-loop thread.
 * A device takes device.lock in each entry point. Lock order: device → irq sink → nothing.
 * reset, state save/restore and realize run while the machine is quiesced.
 */
#ifndef TRAPEZE_BUS_DEVICE_H
#define TRAPEZE_BUS_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/backend.h"
#include "bus/line.h"

struct aml;
struct block;
struct error;
struct log;
struct loop;
struct mem_space;
struct net_port;
struct pci_host;
struct pci_identity;
struct pci_window;
struct state_table;
struct vclock;
struct vcpu;
struct vcpu_timebase;
struct virtio_slots;

/* How a guest ends its run; `code` is 0 for a clean end. */
enum device_power {
    DEVICE_POWER_OFF,
    DEVICE_POWER_RESET,
    DEVICE_POWER_FAILURE /* the guest reports failure `code` (1..65535) */
};

/* What a machine offers to all its devices; lives as long as the machine. */
struct device_env {
    struct mem_space *mem;
    struct mem_space *ports; /* I/O ports: a gpa is a port; NULL: the architecture has none */
    struct vclock *clock;
    struct vcpu_timebase *timebase;
    struct loop *loop;
    struct log *log;
    struct entropy *entropy;
    struct vcpu *const *vcpus; /* for interrupt controllers */
    unsigned vcpu_count;
    bool deterministic; /* I/O completes in an order that depends on virtual time alone */
    struct pci_host *pci; /* where PCI functions plug in; NULL before the host exists */
    struct virtio_slots *virtio_slots; /* where virtio devices do; NULL: they are PCI functions */
    /* The guest asks for the end (any thread; carried out later by the machine). */
    void (*power)(void *machine, enum device_power request, uint32_t code);
    void (*booted)(void *machine); /* the guest says that it has booted (any thread) */
    void *machine;
};

/* What one device is made from; each device documents which members it reads. */
struct device_params {
    const char *id;              /* unique in the machine: "uart0", "disk0" */
    uint64_t gpa;                /* MMIO devices: base address */
    uint64_t io_port;            /* devices that may be at I/O ports instead: the first; 0: at gpa */
    uint64_t gpa_machine;        /* interrupt controllers with a part for machine-level software
                                    only: its base address; 0: there is no such software */
    struct irq_line irq;         /* bound by the board */
    unsigned irq_number;         /* interrupt-controller input, for the device tree */
    struct msi_sink msi;         /* where its messages go, bound by the board */
    uint32_t irq_phandle;        /* phandle of that controller; interrupt controllers: of hart
                                    0's local one, hart i's is + i (bus/fdt_node.h) */
    uint32_t phandle;            /* of this device's own node, if others refer to it */
    struct char_backend *chr;
    struct block *disk;
    struct power_button *button;
    struct keyboard *keyboard;
    struct balloon *balloon;
    struct generation *generation;
    const struct flash_store *flash; /* of a flash memory; copied */
    const struct device_share *share;
    const struct device_vsock *vsock;
    const char *serial;          /* disks */
    struct net_port *net;        /* NICs: their network, ... */
    const uint8_t *mac;          /* six bytes, ... */
    unsigned mtu;                /* and the largest IP packet; 0: what Ethernet has */
    unsigned queues;             /* disks, NICs: queues (pairs) for requests; 0: one */
    unsigned pci_slot;           /* PCI functions: device number, 0 = next free (bus/pci.h) */
    const struct pci_identity *bridge; /* PCIe hosts: what is at 00:00.0; NULL: QEMU's generic one */
    const struct pci_window *window; /* PCIe hosts: to 32-bit addresses; NULL: as on QEMU's `virt` */
    const struct device_port *port; /* PCIe root ports: what the board is to them */
    unsigned inputs;             /* interrupt controllers: number of sources */
    const uint8_t *shared_irqs;  /* slots: inputs that they take in turn, `inputs` of them; NULL: each
                                    has one of its own, from irq_number on */
};

/* A folder of the host for the guest. */
struct device_share {
    int folder;      /* its descriptor, which the device takes over */
    int own_fds;     /* the folder of this process's descriptors, for as long as the device lives */
    const char *tag; /* the name to mount it by */
    bool read_only;
};

/* A socket device: the guest's address, and two sockets (dev/vsock.h), which it takes over. */
struct device_vsock {
    uint64_t cid;
    int listen_fd, connector_fd; /* -1: programs here reach no port; the guest reaches none */
};

struct device;

struct device_ops {
    const char *name; /* "uart16550" */
    size_t size;
    bool (*realize)(struct device *device, const struct device_params *params,
                    struct error **err);
    void (*unrealize)(struct device *device); /* may be NULL */
    void (*reset)(struct device *device);
    /* Adds its node to the device tree being written sequentially (libfdt fdt_begin_node...)
     * inside /soc; NULL if it has none. Returns false on libfdt errors (out of space). */
    bool (*fdt)(struct device *device, void *fdt);
    bool (*fdt_root)(struct device *device, void *fdt); /* the same for nodes at the root */
    /* Adds its objects to the ACPI namespace, inside \_SB; NULL if it has none. */
    void (*acpi)(struct device *device, struct aml *aml);
    /* Interrupt controllers: drives an input (a sink of bus/line.h; `device` is it). */
    void (*set_input)(void *device, unsigned input, bool level);
    const struct state_table *state;
    bool direct_dma; /* it reaches guest memory in other ways than virtqueues, which would wait for it */
    /* Stop/restart background I/O around a pause: after quiesce() returns no request is in
     * flight. NULL if the device has none. Event-loop thread. */
    void (*quiesce)(struct device *device);
    void (*unquiesce)(struct device *device);
};

struct device {
    const struct device_ops *ops;
    const struct device_env *env;
    char id[32];
    pthread_mutex_t lock;
};

struct device *device_new(const struct device_ops *ops, const struct device_env *env,
                          const struct device_params *params, struct error **err);
void device_free(struct device *device); /* NULL is fine */

#endif
