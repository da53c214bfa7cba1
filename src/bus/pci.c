/* SPDX-License-Identifier: MIT
 *
 * A function's configuration space is 256 bytes and, for each byte, a mask of bits the guest
 * may write: every register without side effects is data. Side effects are derived from the
 * bytes after a write: BAR mappings, the INTx mask, whatever the function's hook does.
 *
 * Invariants: (config ^ power_on) & ~(writable | driven) == 0, except for bytes a config_read
 * hook refreshes; a BAR's io.mapped implies io.gpa is what its register says, memory decoding
 * is on and every bridge above forwards; pin_users[p] counts the functions with intx_shown on
 * pin p.
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
    for (size_t i = 0; i < ARRAY_SIZE(host->aborts); i++)
        mem_io_remove(host->mem, &host->aborts[i]);
    pthread_mutex_destroy(&host->lock);
    pthread_mutex_destroy(&host->irq_lock);
}

/* --- what a function is made of --- */

/* What both types of header have. */
static void header_init(struct pci_function *function, const struct pci_identity *identity)
{
    *function = (struct pci_function){.capability_end = PCI_FIRST_CAPABILITY,
                                      .capability_link = PCI_REG_CAPABILITIES};
    uint8_t *initial = function->power_on;
    store_le16(initial + PCI_REG_VENDOR, identity->vendor);
    store_le16(initial + PCI_REG_DEVICE, identity->device);
    store_le32(initial + PCI_REG_REVISION, identity->class_code << 8 | identity->revision);
    initial[PCI_REG_INTERRUPT_PIN] = identity->pin;
    initial[PCI_REG_HEADER_TYPE] = identity->multifunction ? PCI_HEADER_MULTIFUNCTION : 0;

    uint8_t *writable = function->writable;
    store_le16(writable + PCI_REG_COMMAND,
               PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NO_INTX);
    writable[PCI_REG_CACHE_LINE] = 0xff;
    writable[PCI_REG_LATENCY] = 0xff;
    writable[PCI_REG_INTERRUPT_LINE] = 0xff;
    function->driven[PCI_REG_STATUS] = PCI_STATUS_INTX;
}

void pci_function_init(struct pci_function *function, const struct pci_identity *identity)
{
    header_init(function, identity);
    store_le16(function->power_on + PCI_REG_SUBSYSTEM_VENDOR, identity->subsystem_vendor);
    store_le16(function->power_on + PCI_REG_SUBSYSTEM, identity->subsystem);
    memcpy(function->config, function->power_on, PCI_CONFIG_SIZE);
}

/* The I/O window's registers stay zero: there is none. Of the bridge control register, the bits
 * that mean something for a port that forwards neither I/O nor VGA and finds no errors. */
void pci_bridge_init(struct pci_function *function, const struct pci_identity *identity)
{
    header_init(function, identity);
    function->bridge = true;
    function->power_on[PCI_REG_HEADER_TYPE] = 1;
    store_le32(function->power_on + PCI_REG_PREFETCHABLE, 0x00010001); /* 64-bit */
    uint8_t *writable = function->writable;
    writable[PCI_REG_PRIMARY_BUS] = 0xff;
    writable[PCI_REG_SECONDARY_BUS] = 0xff;
    writable[PCI_REG_SUBORDINATE_BUS] = 0xff;
    writable[PCI_REG_LATENCY] = 0; /* PCIe 5.0, 7.5.1.1.7 */
    store_le32(writable + PCI_REG_WINDOW, 0xfff0fff0);
    store_le32(writable + PCI_REG_PREFETCHABLE, 0xfff0fff0);
    store_le32(writable + PCI_REG_PREFETCHABLE_HIGH, 0xffffffff);
    store_le32(writable + PCI_REG_PREFETCHABLE_LIMIT_HIGH, 0xffffffff);
    writable[PCI_REG_BRIDGE_CONTROL] = PCI_BRIDGE_RESET | 3;
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

void pci_register_add(struct pci_function *function, unsigned offset, uint32_t value,
                      uint32_t writable)
{
    assert(function->host == NULL && offset % 4 == 0 && offset >= PCI_FIRST_CAPABILITY &&
           offset < PCI_CONFIG_SIZE);
    store_le32(function->power_on + offset, value);
    store_le32(function->writable + offset, writable);
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

void pci_express_add(struct pci_function *function, unsigned kind)
{
    uint8_t body[PCI_EXPRESS_BYTES] = {0}, writable[PCI_EXPRESS_BYTES] = {0};
    store_le16(body + PCI_EXPRESS_FLAGS, (uint16_t)(2 | kind << 4)); /* version 2 */
    store_le32(body + PCI_EXPRESS_DEVICE, 1 << 15);                  /* role-based errors */
    store_le16(body + PCI_EXPRESS_DEVICE_CONTROL, 0x2810);
    store_le16(writable + PCI_EXPRESS_DEVICE_CONTROL, 0x781f);
    store_le32(body + PCI_EXPRESS_LINK, 1 << 22 | 0x11); /* one lane, 2.5 GT/s */
    store_le16(writable + PCI_EXPRESS_LINK_CONTROL, 0x00cb);
    store_le16(body + PCI_EXPRESS_LINK_STATUS, 0x11);
    store_le32(body + PCI_EXPRESS_LINK2, 1 << 1);
    store_le16(body + PCI_EXPRESS_LINK2_CONTROL, 1);
    function->express = pci_capability_add(function, 0x10, body, writable, sizeof(body));
}

/* --- BARs --- */

/* Whether a bridge forwards the range in its direction (PCI-to-PCI Bridge 1.2, 4.3 and 4.4). */
static bool bridge_forwards(const struct pci_function *bridge, uint64_t gpa, uint64_t size)
{
    const uint8_t *config = bridge->config;
    if ((load_le16(config + PCI_REG_COMMAND) & PCI_COMMAND_MEMORY) == 0)
        return false;
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *reg = config + (i == 0 ? PCI_REG_WINDOW : PCI_REG_PREFETCHABLE);
        uint64_t base = (uint64_t)(load_le16(reg) & 0xfff0u) << 16;
        uint64_t last = (uint64_t)(load_le16(reg + 2) & 0xfff0u) << 16 | 0xfffff;
        if (i == 1) {
            base |= (uint64_t)load_le32(config + PCI_REG_PREFETCHABLE_HIGH) << 32;
            last |= (uint64_t)load_le32(config + PCI_REG_PREFETCHABLE_LIMIT_HIGH) << 32;
        }
        if (gpa >= base && gpa <= last && size - 1 <= last - gpa)
            return true;
    }
    return false;
}

static bool is_reached(const struct pci_function *function)
{
    return function->above == NULL || __atomic_load_n(&function->above->link, __ATOMIC_RELAXED);
}

bool pci_may_master(const struct pci_function *function)
{
    bool may = is_reached(function);
    for (; function != NULL; function = function->above)
        may = may && (load_le16(function->config + PCI_REG_COMMAND) & PCI_COMMAND_MASTER) != 0;
    return may;
}

/* The address a BAR should be mapped at, or false if it should not be mapped. */
static bool bar_wanted(const struct pci_function *function, unsigned index, uint64_t *gpa)
{
    const struct pci_bar *bar = &function->bars[index];
    const uint8_t *reg = function->config + PCI_REG_BAR0 + 4 * index;
    uint64_t address = (bar->wide ? load_le64(reg) : load_le32(reg)) & ~(bar->size - 1);
    if (bar->size == 0 || address == 0 ||
        (load_le16(function->config + PCI_REG_COMMAND) & PCI_COMMAND_MEMORY) == 0)
        return false;
    const struct pci_function *above = function->above;
    if (!is_reached(function) || (above != NULL && !bridge_forwards(above, address, bar->size)))
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
                  "PCI %s%02x.%u: BAR %u at 0x%llx overlaps another device; it stays unmapped",
                  function->above != NULL ? "behind a root port: " : "00:", function->devfn >> 3,
                  function->devfn & 7u, index, (unsigned long long)gpa);
}

static void bars_map(struct pci_function *function)
{
    for (unsigned i = 0; function != NULL && i < PCI_BAR_COUNT; i++)
        bar_map(function, i);
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
    bars_map(function);
    for (unsigned devfn = 0; removed && devfn < PCI_FUNCTIONS_PER_BUS; devfn++) {
        bars_map(host->functions[devfn]);
        bars_map(host->functions[devfn] != NULL ? host->functions[devfn]->below : NULL);
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
    /* Device 0 behind a bridge keeps its pin, which is then one of the bridge's slot. */
    const struct pci_function *top = function->above != NULL ? function->above : function;
    unsigned line = pci_swizzle(top->devfn >> 3, pin);
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
    intx_show(function, level && !function->no_intx &&
                            (command & (PCI_COMMAND_NO_INTX >> 8)) == 0 && is_reached(function));
    pthread_mutex_unlock(&host->irq_lock);
}

/* The mask or the level may have changed. host->lock held. */
static void intx_update(struct pci_function *function)
{
    struct pci_host *host = function->host;
    uint16_t command = load_le16(function->config + PCI_REG_COMMAND);
    pthread_mutex_lock(&host->irq_lock);
    intx_show(function, function->intx && !function->no_intx &&
                            (command & PCI_COMMAND_NO_INTX) == 0 && is_reached(function));
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

/* What a function may do changed above it. */
static void reach_changed(struct pci_function *function)
{
    if (function == NULL)
        return;
    bars_update(function);
    intx_update(function);
    if (function->ops != NULL && function->ops->config_written != NULL)
        function->ops->config_written(function, PCI_REG_COMMAND, 2);
}

void pci_set_link(struct pci_function *bridge, bool up)
{
    if (bridge->link == up)
        return;
    __atomic_store_n(&bridge->link, up, __ATOMIC_RELAXED);
    reach_changed(bridge->below);
}

/* Everything that follows from configuration bytes. host->lock held. */
static void config_changed(struct pci_function *function, unsigned offset, unsigned size)
{
    if (function->bridge && offset < PCI_REG_BRIDGE_END)
        reach_changed(function->below);
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

/* What `slot` holds; NULL: nothing. */
static struct pci_function *function_in(const struct pci_host *host, unsigned slot)
{
    struct pci_function *function = host->functions[slot % PCI_SLOT_BEHIND << 3];
    return slot < PCI_SLOT_BEHIND || function == NULL ? function : function->below;
}

bool pci_slot_taken(const struct pci_host *host, unsigned slot)
{
    return slot < 2 * PCI_SLOT_BEHIND && function_in(host, slot) != NULL;
}

void pci_move(struct pci_host *host, const uint8_t to[32])
{
    struct pci_function *moving[32] = {NULL};
    pthread_mutex_lock(&host->lock);
    for (unsigned slot = 1; slot < 32; slot++)
        if (to[slot] != 0 && host->functions[slot << 3] != NULL) {
            moving[slot] = host->functions[slot << 3];
            assert(moving[slot]->below == NULL);
            host->functions[slot << 3] = NULL;
        }
    for (unsigned slot = 1; slot < 32; slot++)
        if (moving[slot] != NULL) {
            assert(to[slot] < 32 && host->functions[to[slot] << 3] == NULL);
            plug_at(host, moving[slot], to[slot]);
        }
    pthread_mutex_unlock(&host->lock);
}

bool pci_slot_in_use(struct pci_host *host, unsigned slot)
{
    pthread_mutex_lock(&host->lock);
    const struct pci_function *function = function_in(host, slot);
    bool used = function != NULL &&
                (load_le16(function->config + PCI_REG_COMMAND) & PCI_COMMAND_MASTER) != 0;
    pthread_mutex_unlock(&host->lock);
    return used;
}

/* The bridge that `slot` is behind; NULL: there is none. */
static struct pci_function *bridge_of(const struct pci_host *host, unsigned slot)
{
    struct pci_function *above = slot >= PCI_SLOT_BEHIND && slot < 2 * PCI_SLOT_BEHIND
                                     ? host->functions[slot % 32 << 3]
                                     : NULL;
    return above != NULL && above->bridge ? above : NULL;
}

static void plug_behind(struct pci_function *above, struct pci_function *function)
{
    pci_express_add(function, PCI_EXPRESS_ENDPOINT);
    pthread_mutex_lock(&above->host->lock);
    assert(!above->link);
    function->host = above->host;
    function->devfn = 0;
    function->above = above;
    above->below = function;
    pthread_mutex_unlock(&above->host->lock);
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
    struct pci_function *above = bridge_of(host, slot);
    bool exists = slot < PCI_SLOT_BEHIND || above != NULL;
    if (!exists || (above != NULL ? above->below : host->functions[slot << 3]) != NULL)
        return error_set(err, ERROR_USAGE, "PCI slot %u %s: choose a free one from 1 to 31", slot,
                         exists ? "is taken" : "does not exist");
    if (above != NULL)
        plug_behind(above, function);
    else
        plug_at(host, function, slot);
    return true;
}

void pci_plug_bridge(struct pci_host *host, struct pci_function *function)
{
    assert(host->functions[0] == NULL);
    plug_at(host, function, 0);
}

void pci_plug_further(struct pci_host *host, struct pci_function *function,
                      const struct pci_function *first, unsigned number)
{
    assert(number > 0 && number < 8 && first->host == host && first->above == NULL);
    assert((first->config[PCI_REG_HEADER_TYPE] & PCI_HEADER_MULTIFUNCTION) != 0);
    function->host = host;
    function->devfn = (uint8_t)(first->devfn + number);
    host->functions[function->devfn] = function;
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
    if (function->above != NULL) {
        function->above->below = NULL;
        function->above = NULL;
    } else {
        assert(function->below == NULL);
        host->functions[function->devfn] = NULL;
    }
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

static uint64_t abort_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return UINT64_MAX;
}

static void abort_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    (void)opaque, (void)offset, (void)value, (void)size;
}

static const struct mem_io_ops abort_ops = {abort_read, abort_write, 1, 8};

void pci_answer_all(struct pci_host *host)
{
    for (size_t i = 0; i < ARRAY_SIZE(host->aborts); i++) {
        const struct pci_window *window = &host->windows[i];
        if (host->aborts[i].mapped || window->size == 0)
            continue;
        host->aborts[i] = (struct mem_io){.name = "pci-abort",
                                          .gpa = window->gpa,
                                          .size = window->size,
                                          .ops = &abort_ops,
                                          .opaque = host};
        bool good = mem_io_add_background(host->mem, &host->aborts[i]);
        assert(good && "windows do not overlap");
        (void)good;
    }
}

/* host->lock held. Who answers at a place: behind a bridge there is device 0 alone (PCIe 5.0,
 * 7.3.1), on the bus that the bridge's register says. */
static struct pci_function *function_at(const struct pci_host *host, uint16_t place)
{
    uint8_t bus = (uint8_t)(place >> 8);
    if (bus == 0)
        return host->functions[place];
    for (unsigned slot = 1; slot < 32 && (place & 0xff) == 0; slot++) {
        const struct pci_function *bridge = host->functions[slot << 3];
        if (bridge != NULL && bridge->link && bridge->config[PCI_REG_SECONDARY_BUS] == bus &&
            bridge->config[PCI_REG_SUBORDINATE_BUS] >= bus)
            return bridge->below;
    }
    return NULL;
}

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

uint32_t pci_config_read(struct pci_host *host, uint16_t place, unsigned offset, unsigned size)
{
    uint32_t value = size >= 1 && size <= 4 ? ALL_ONES(size) : ~UINT32_C(0);
    pthread_mutex_lock(&host->lock);
    struct pci_function *function = function_at(host, place);
    if (function != NULL && access_is_valid(offset, size)) {
        status_refresh(function);
        if (function->ops != NULL && function->ops->config_read != NULL)
            function->ops->config_read(function, offset, size);
        value = 0;
        for (unsigned i = 0; i < size; i++)
            value |= (uint32_t)function->config[offset + i] << (8 * i);
    } else if (function != NULL && function->express != 0 && offset >= PCI_CONFIG_SIZE) {
        value = 0; /* no extended capabilities (PCIe 5.0, 7.6.2) */
    }
    pthread_mutex_unlock(&host->lock);
    return value;
}

void pci_config_write(struct pci_host *host, uint16_t place, unsigned offset, uint32_t value,
                      unsigned size)
{
    if (!access_is_valid(offset, size))
        return;
    pthread_mutex_lock(&host->lock);
    struct pci_function *function = function_at(host, place);
    if (function != NULL) {
        for (unsigned i = 0; i < size; i++) {
            uint8_t written = (uint8_t)(value >> (8 * i));
            uint8_t mask = function->writable[offset + i];
            uint8_t byte = (uint8_t)((function->config[offset + i] & ~mask) | (written & mask));
            byte &= (uint8_t) ~(written & function->clears[offset + i]);
            __atomic_store_n(&function->config[offset + i], byte, __ATOMIC_RELAXED);
        }
        config_changed(function, offset, size);
    }
    pthread_mutex_unlock(&host->lock);
}

/* --- state --- */

static void pci_function_pre_save(void *object)
{
    if (((struct pci_function *)object)->host != NULL) /* else it is nowhere: zeros */
        status_refresh(object);
}

/* A stream made for a device with another layout must not reshape this one. */
static bool pci_function_post_restore(void *object, struct error **err)
{
    struct pci_function *function = object;
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t fixed = (uint8_t) ~(function->writable[i] | function->driven[i]);
        if (((function->config[i] ^ function->power_on[i]) & fixed) != 0)
            return error_set(err, ERROR_USAGE,
                             "the saved state is of another kind of PCI device "
                             "(configuration byte 0x%02x differs)",
                             i);
    }
    if (function->host == NULL)
        return true;
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
