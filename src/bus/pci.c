/* SPDX-License-Identifier: MIT
 *
 * A function's configuration space is 256 bytes and, for each byte, a mask of bits the guest
 * may write: every register without side effects is data. Side effects are derived from the
 * bytes after a write: BAR mappings, the INTx mask, whatever the function's hook does.
 *
 * Invariants: (config ^ power_on) & ~writable == 0, except for bytes a config_read hook
 * refreshes; a BAR's io.mapped implies io.gpa is what its register says and memory decoding
 * is on; pin_users[p] counts the functions with intx_shown on pin p.
 */
#include "bus/pci.h"

#include <assert.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"

#define ALL_ONES(size) ((uint32_t)(~UINT32_C(0) >> (32 - 8 * (size))))

void pci_host_init(struct pci_host *host, struct mem_space *mem, struct log *log)
{
    *host = (struct pci_host){.mem = mem, .log = log};
    pthread_mutex_init(&host->lock, NULL);
    pthread_mutex_init(&host->irq_lock, NULL);
}

void pci_host_destroy(struct pci_host *host)
{
    for (unsigned i = 0; i < PCI_FUNCTIONS_PER_BUS; i++)
        assert(host->functions[i] == NULL);
    pthread_mutex_destroy(&host->lock);
    pthread_mutex_destroy(&host->irq_lock);
}

/* --- what a function is made of --- */

void pci_function_init(struct pci_function *function, const struct pci_identity *identity)
{
    *function = (struct pci_function){.capability_end = PCI_FIRST_CAPABILITY,
                                      .capability_link = PCI_REG_CAPABILITIES};
    uint8_t *initial = function->power_on;
    store_le16(initial + PCI_REG_VENDOR, identity->vendor);
    store_le16(initial + PCI_REG_DEVICE, identity->device);
    store_le16(initial + PCI_REG_SUBSYSTEM_VENDOR, identity->subsystem_vendor);
    store_le16(initial + PCI_REG_SUBSYSTEM, identity->subsystem);
    store_le32(initial + PCI_REG_REVISION, identity->class_code << 8 | identity->revision);
    initial[PCI_REG_INTERRUPT_PIN] = identity->pin;

    uint8_t *writable = function->writable;
    store_le16(writable + PCI_REG_COMMAND,
               PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NO_INTX);
    writable[PCI_REG_CACHE_LINE] = 0xff;
    writable[PCI_REG_LATENCY] = 0xff;
    writable[PCI_REG_INTERRUPT_LINE] = 0xff;
    memcpy(function->config, function->power_on, PCI_CONFIG_SIZE);
}

void pci_bar_add(struct pci_function *function, unsigned index, const char *name, uint64_t size,
                 unsigned flags, const struct mem_io_ops *ops, void *opaque)
{
    bool wide = (flags & PCI_BAR_64BIT) != 0;
    assert(function->host == NULL && index < PCI_BAR_COUNT);
    assert(is_power_of_two(size) && size >= MEM_PAGE_SIZE);
    assert(wide ? index % 2 == 0 : size <= GIB);

    struct pci_bar *bar = &function->bars[index];
    bar->size = size;
    bar->wide = wide;
    bar->io = (struct mem_io){.name = name, .size = size, .ops = ops, .opaque = opaque};

    unsigned at = PCI_REG_BAR0 + 4 * index;
    function->power_on[at] =
        (uint8_t)((wide ? 4 : 0) | ((flags & PCI_BAR_PREFETCHABLE) != 0 ? 8 : 0));
    if (wide)
        store_le64(function->writable + at, ~(size - 1));
    else
        store_le32(function->writable + at, (uint32_t) ~(size - 1));
    memcpy(function->config, function->power_on, PCI_CONFIG_SIZE);
}

unsigned pci_capability_add(struct pci_function *function, uint8_t id, const void *body,
                            const void *writable, unsigned size)
{
    unsigned at = function->capability_end;
    assert(function->host == NULL && size >= 2 && range_within(at, size, PCI_CONFIG_SIZE));

    memcpy(function->power_on + at, body, size);
    if (writable != NULL)
        memcpy(function->writable + at, writable, size);
    function->power_on[at] = id;
    function->power_on[at + 1] = 0;
    function->writable[at] = function->writable[at + 1] = 0;
    function->power_on[function->capability_link] = (uint8_t)at;
    function->power_on[PCI_REG_STATUS] |= PCI_STATUS_CAPABILITIES;
    function->capability_link = at + 1;
    function->capability_end = (unsigned)align_up(at + size, 4);
    memcpy(function->config, function->power_on, PCI_CONFIG_SIZE);
    return at;
}

/* --- BARs --- */

/* The address a BAR should be mapped at, or false if it should not be mapped. */
static bool bar_wanted(const struct pci_function *function, unsigned index, uint64_t *gpa)
{
    const struct pci_bar *bar = &function->bars[index];
    const uint8_t *reg = function->config + PCI_REG_BAR0 + 4 * index;
    uint64_t address = (bar->wide ? load_le64(reg) : load_le32(reg)) & ~(bar->size - 1);
    if (bar->size == 0 || address == 0 ||
        (load_le16(function->config + PCI_REG_COMMAND) & PCI_COMMAND_MEMORY) == 0)
        return false;
    const struct pci_host *host = function->host;
    for (size_t i = 0; i < ARRAY_SIZE(host->windows); i++) {
        const struct pci_window *window = &host->windows[i];
        if (address >= window->gpa &&
            range_within(address - window->gpa, bar->size, window->size)) {
            *gpa = address;
            return true;
        }
    }
    return false;
}

static void bar_map(struct pci_function *function, unsigned index)
{
    struct pci_bar *bar = &function->bars[index];
    uint64_t gpa;
    if (!bar_wanted(function, index, &gpa) || bar->io.mapped)
        return;
    bar->io.gpa = gpa;
    if (!mem_io_add(function->host->mem, &bar->io))
        log_guest(function->host->log, &function->host->log_limit,
                  "PCI 00:%02x.%u: BAR %u at 0x%llx overlaps another device; it stays unmapped",
                  function->devfn >> 3, function->devfn & 7u, index, (unsigned long long)gpa);
}

/* Brings one function's mappings up to date. What it gave up may be what another one waits
 * for, so then all unmapped BARs of the bus are tried again. */
static void bars_update(struct pci_function *function)
{
    struct pci_host *host = function->host;
    bool removed = false;
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        struct pci_bar *bar = &function->bars[i];
        uint64_t gpa;
        if (bar->io.mapped && (!bar_wanted(function, i, &gpa) || gpa != bar->io.gpa)) {
            mem_io_remove(host->mem, &bar->io);
            removed = true;
        }
    }
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++)
        bar_map(function, i);
    if (!removed)
        return;
    for (unsigned devfn = 0; devfn < PCI_FUNCTIONS_PER_BUS; devfn++) {
        for (unsigned i = 0; host->functions[devfn] != NULL && i < PCI_BAR_COUNT; i++)
            bar_map(host->functions[devfn], i);
    }
}

/* --- INTx --- */

/* irq_lock held. */
static void intx_show(struct pci_function *function, bool level)
{
    struct pci_host *host = function->host;
    unsigned pin = function->power_on[PCI_REG_INTERRUPT_PIN];
    if (level == function->intx_shown || pin == 0)
        return;
    function->intx_shown = level;
    unsigned line = pci_swizzle(function->devfn >> 3, pin);
    unsigned users = level ? host->pin_users[line]++ : --host->pin_users[line];
    if (users == 0)
        irq_line_set(&host->pins[line], level);
}

void pci_set_intx(struct pci_function *function, bool level)
{
    struct pci_host *host = function->host;
    pthread_mutex_lock(&host->irq_lock);
    function->intx = level;
    /* A byte, so that reading it here without host->lock cannot tear; whoever changes it
     * calls intx_update() afterwards. */
    uint8_t command = __atomic_load_n(&function->config[PCI_REG_COMMAND + 1], __ATOMIC_RELAXED);
    intx_show(function,
              level && !function->no_intx && (command & (PCI_COMMAND_NO_INTX >> 8)) == 0);
    pthread_mutex_unlock(&host->irq_lock);
}

/* The mask or the level may have changed. host->lock held. */
static void intx_update(struct pci_function *function)
{
    struct pci_host *host = function->host;
    uint16_t command = load_le16(function->config + PCI_REG_COMMAND);
    pthread_mutex_lock(&host->irq_lock);
    intx_show(function,
              function->intx && !function->no_intx && (command & PCI_COMMAND_NO_INTX) == 0);
    pthread_mutex_unlock(&host->irq_lock);
}

void pci_forbid_intx(struct pci_function *function, bool forbidden)
{
    pthread_mutex_lock(&function->host->irq_lock);
    function->no_intx = forbidden;
    pthread_mutex_unlock(&function->host->irq_lock);
    intx_update(function);
}

/* --- plugging --- */

/* Everything that follows from configuration bytes. host->lock held. */
static void config_changed(struct pci_function *function, unsigned offset, unsigned size)
{
    if (offset < PCI_REG_BAR0 + 4 * PCI_BAR_COUNT) {
        bars_update(function);
        intx_update(function);
    }
    if (function->ops != NULL && function->ops->config_written != NULL)
        function->ops->config_written(function, offset, size);
}

static void plug_at(struct pci_host *host, struct pci_function *function, unsigned slot)
{
    function->host = host;
    function->devfn = (uint8_t)(slot << 3);
    host->functions[function->devfn] = function;
}

unsigned pci_free_slot(const struct pci_host *host)
{
    for (unsigned slot = 1; slot < 32; slot++)
        if (host->functions[slot << 3] == NULL)
            return slot;
    return 0;
}

bool pci_slot_in_use(struct pci_host *host, unsigned slot)
{
    pthread_mutex_lock(&host->lock);
    const struct pci_function *function = host->functions[slot << 3];
    bool used = function != NULL &&
                (load_le16(function->config + PCI_REG_COMMAND) & PCI_COMMAND_MASTER) != 0;
    pthread_mutex_unlock(&host->lock);
    return used;
}

bool pci_plug(struct pci_host *host, struct pci_function *function, unsigned slot,
              struct error **err)
{
    if (slot == PCI_SLOT_ANY) {
        slot = pci_free_slot(host);
        if (slot == 0)
            return error_set(err, ERROR_USAGE,
                             "all 31 PCI slots are taken: use fewer disks or devices");
    }
    if (slot > 31 || host->functions[slot << 3] != NULL)
        return error_set(err, ERROR_USAGE, "PCI slot %u %s: choose a free one from 1 to 31", slot,
                         slot > 31 ? "does not exist" : "is taken");
    plug_at(host, function, slot);
    return true;
}

void pci_plug_bridge(struct pci_host *host, struct pci_function *function)
{
    assert(host->functions[0] == NULL);
    plug_at(host, function, 0);
}

void pci_unplug(struct pci_function *function)
{
    struct pci_host *host = function->host;
    if (host == NULL)
        return;
    pci_set_intx(function, false);
    pthread_mutex_lock(&host->lock);
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        if (function->bars[i].io.mapped)
            mem_io_remove(host->mem, &function->bars[i].io);
    }
    host->functions[function->devfn] = NULL;
    function->host = NULL;
    pthread_mutex_unlock(&host->lock);
}

void pci_function_reset(struct pci_function *function)
{
    struct pci_host *host = function->host;
    pci_set_intx(function, false);
    pthread_mutex_lock(&host->lock);
    memcpy(function->config, function->power_on, PCI_CONFIG_SIZE);
    config_changed(function, 0, PCI_CONFIG_SIZE);
    pthread_mutex_unlock(&host->lock);
}

/* --- guest accesses --- */

static bool access_is_valid(unsigned offset, unsigned size)
{
    return (size == 1 || size == 2 || size == 4) && offset % size == 0 &&
           range_within(offset, size, PCI_CONFIG_SIZE);
}

/* host->lock held. */
static void status_refresh(struct pci_function *function)
{
    pthread_mutex_lock(&function->host->irq_lock);
    bool intx = function->intx; /* the status bit ignores the mask (PCI 3.0, 6.2.3) */
    pthread_mutex_unlock(&function->host->irq_lock);
    uint8_t *status = &function->config[PCI_REG_STATUS];
    *status = (uint8_t)((*status & ~PCI_STATUS_INTX) | (intx ? PCI_STATUS_INTX : 0));
}

uint32_t pci_config_read(struct pci_host *host, uint8_t devfn, unsigned offset, unsigned size)
{
    if (!access_is_valid(offset, size))
        return size >= 1 && size <= 4 ? ALL_ONES(size) : ~UINT32_C(0);
    uint32_t value = 0;
    pthread_mutex_lock(&host->lock);
    struct pci_function *function = host->functions[devfn];
    if (function == NULL) {
        value = ALL_ONES(size);
    } else {
        status_refresh(function);
        if (function->ops != NULL && function->ops->config_read != NULL)
            function->ops->config_read(function, offset, size);
        for (unsigned i = 0; i < size; i++)
            value |= (uint32_t)function->config[offset + i] << (8 * i);
    }
    pthread_mutex_unlock(&host->lock);
    return value;
}

void pci_config_write(struct pci_host *host, uint8_t devfn, unsigned offset, uint32_t value,
                      unsigned size)
{
    if (!access_is_valid(offset, size))
        return;
    pthread_mutex_lock(&host->lock);
    struct pci_function *function = host->functions[devfn];
    if (function != NULL) {
        for (unsigned i = 0; i < size; i++) {
            uint8_t mask = function->writable[offset + i];
            uint8_t byte =
                (uint8_t)((function->config[offset + i] & ~mask) | ((value >> (8 * i)) & mask));
            __atomic_store_n(&function->config[offset + i], byte, __ATOMIC_RELAXED);
        }
        config_changed(function, offset, size);
    }
    pthread_mutex_unlock(&host->lock);
}

/* --- state --- */

static void pci_function_pre_save(void *object)
{
    status_refresh(object);
}

/* A stream made for a device with another layout must not reshape this one. */
static bool pci_function_post_restore(void *object, struct error **err)
{
    struct pci_function *function = object;
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t fixed = (uint8_t)~function->writable[i];
        if (i == PCI_REG_STATUS)
            fixed &= (uint8_t)~PCI_STATUS_INTX;
        if (((function->config[i] ^ function->power_on[i]) & fixed) != 0)
            return error_set(err, ERROR_USAGE,
                             "the saved state is of another kind of PCI device "
                             "(configuration byte 0x%02x differs)",
                             i);
    }
    pthread_mutex_lock(&function->host->lock);
    config_changed(function, 0, PCI_CONFIG_SIZE);
    pthread_mutex_unlock(&function->host->lock);
    return true;
}

static const struct state_field pci_function_fields[] = {
    STATE_BYTES(struct pci_function, config, "config"),
    STATE_BOOL(struct pci_function, intx, "intx"),
    STATE_END,
};

const struct state_table pci_function_state = {"pci-function", 1, pci_function_fields,
                                               pci_function_pre_save, pci_function_post_restore};
