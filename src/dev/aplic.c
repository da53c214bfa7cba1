/* SPDX-License-Identifier: MIT
 *
 * Advanced platform-level interrupt controller ("The RISC-V Advanced Interrupt Architecture"
 * 1.0, chapter 4; cited as A §x): wired interrupts, forwarded to harts as messages.
 *
 * A machine-level root domain and one supervisor-level child. Where the VMM is the firmware
 * there is no machine-level software: the root domain is not in the address space, and every
 * source is delegated from the start, as firmware would have done.
 *
 * Choices that the specification leaves: delivery is by message only (domaincfg.DM = 1) and
 * registers are little-endian; the addresses of messages are fixed, so that software cannot
 * make the APLIC write where protection (PMP) forbids it (A §4.5.3: *msiaddrcfg are locked).
 *
 * A source belongs to one domain. Its pending bit rises with its rectified input (or by a
 * write of setip, which a level-sensitive source refuses while its input is low) and falls when
 * the message is sent or, if level-sensitive, with its input (A §4.7).
 *
 * params: gpa, gpa_machine (0: the VMM is the firmware), inputs (highest source number), msi.
 */
#include <assert.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "dev/imsic.h"
#include "mem/mem.h"

#define MAX_SOURCES 128 /* source 0 does not exist */
#define WORDS       (MAX_SOURCES / 32)
#define REGION_SIZE 0x8000

enum { DOMAIN_M, DOMAIN_S, DOMAINS };

/* Registers (A §4.5). */
enum {
    DOMAINCFG = 0x0000,
    SOURCECFG = 0x0004,
    SOURCECFG_END = 0x1000,
    MMSIADDRCFG = 0x1bc0,
    MMSIADDRCFGH = 0x1bc4,
    SMSIADDRCFG = 0x1bc8,
    SETIP = 0x1c00,
    SETIPNUM = 0x1cdc,
    CLRIP = 0x1d00,
    CLRIPNUM = 0x1ddc,
    SETIE = 0x1e00,
    SETIENUM = 0x1edc,
    CLRIE = 0x1f00,
    CLRIENUM = 0x1fdc,
    SETIPNUM_LE = 0x2000,
    GENMSI = 0x3000,
    TARGET = 0x3004,
    TARGET_END = 0x4000
};

#define DOMAINCFG_FIXED UINT32_C(0x80000000)
enum { DOMAINCFG_DM = 1 << 2, DOMAINCFG_IE = 1 << 8 };
enum { DELEGATED = 1 << 10, MODE_MASK = 7 };
enum mode { INACTIVE, DETACHED, EDGE1 = 4, EDGE0, LEVEL1, LEVEL0 };

#define MSIADDRCFG_LOCKED (UINT32_C(1) << 31)
#define LHXW_SHIFT        12
#define TARGET_IDENTITY   0x7ffu
#define TARGET_HART_SHIFT 18

struct aplic;

struct aplic_domain {
    struct aplic *aplic;
    struct mem_io io; /* size 0: hidden */
    uint32_t enabled; /* domaincfg.IE */
    uint32_t sourcecfg[MAX_SOURCES];
    uint32_t target[MAX_SOURCES];
    uint32_t pending[WORDS], enable[WORDS];
    uint32_t genmsi;
};

struct aplic {
    struct device device;
    struct msi_sink msi;
    uint64_t files[DOMAINS]; /* gpa of the interrupt files of hart 0 */
    unsigned sources;        /* numbers 1 to this */
    unsigned hart_bits;      /* of a hart's number */
    uint32_t level[WORDS];   /* input wires */
    struct aplic_domain domains[DOMAINS];
};

static bool bit_get(const uint32_t *words, unsigned source)
{
    return words[source / 32] >> (source % 32) & 1;
}

static void bit_put(uint32_t *words, unsigned source, bool value)
{
    uint32_t bit = UINT32_C(1) << (source % 32);
    words[source / 32] = value ? words[source / 32] | bit : words[source / 32] & ~bit;
}

/* ---- sources ---- */

static bool delegated(const struct aplic *aplic, unsigned source)
{
    return (aplic->domains[DOMAIN_M].sourcecfg[source] & DELEGATED) != 0;
}

/* INACTIVE for a source that is not the domain's. */
static enum mode mode_of(const struct aplic_domain *domain, unsigned source)
{
    const uint32_t config = domain->sourcecfg[source];
    bool own = (domain == &domain->aplic->domains[DOMAIN_S]) == delegated(domain->aplic, source);
    return own ? (enum mode)(config & MODE_MASK) : INACTIVE;
}

static bool level_sensitive(enum mode mode)
{
    return mode == LEVEL1 || mode == LEVEL0;
}

static bool rectified(const struct aplic_domain *domain, unsigned source)
{
    enum mode mode = mode_of(domain, source);
    bool level = bit_get(domain->aplic->level, source);
    if (mode == INACTIVE || mode == DETACHED)
        return false;
    return level != (mode == EDGE0 || mode == LEVEL0);
}

static void send(const struct aplic_domain *domain, uint32_t target)
{
    const struct aplic *aplic = domain->aplic;
    uint64_t hart = target >> TARGET_HART_SHIFT;
    if (aplic->msi.send != NULL)
        aplic->msi.send(aplic->msi.sink,
                        aplic->files[domain - aplic->domains] + hart * IMSIC_FILE_SIZE,
                        target & TARGET_IDENTITY);
}

/* Sends what can be sent; after any change. */
static void forward(struct aplic_domain *domain)
{
    for (unsigned word = 0; domain->enabled && word < WORDS; word++) {
        uint32_t ready = domain->pending[word] & domain->enable[word];
        domain->pending[word] &= ~ready;
        for (; ready != 0; ready &= ready - 1)
            send(domain, domain->target[32 * word + (unsigned)__builtin_ctz(ready)]);
    }
}

static void aplic_set_input(void *device, unsigned source, bool level)
{
    struct aplic *aplic = device;
    assert(source > 0 && source <= aplic->sources);
    pthread_mutex_lock(&aplic->device.lock);
    if (bit_get(aplic->level, source) != level) {
        struct aplic_domain *domain = &aplic->domains[delegated(aplic, source)];
        enum mode mode = mode_of(domain, source);
        bit_put(aplic->level, source, level);
        if (rectified(domain, source))
            bit_put(domain->pending, source, true);
        else if (level_sensitive(mode))
            bit_put(domain->pending, source, false);
        forward(domain);
    }
    pthread_mutex_unlock(&aplic->device.lock);
}

/* What software may set by hand (A §4.7). */
static void set_pending(struct aplic_domain *domain, unsigned source)
{
    enum mode mode = mode_of(domain, source);
    if (mode != INACTIVE && (!level_sensitive(mode) || rectified(domain, source)))
        bit_put(domain->pending, source, true);
}

static void set_enable(struct aplic_domain *domain, unsigned source)
{
    if (mode_of(domain, source) != INACTIVE)
        bit_put(domain->enable, source, true);
}

/* Pending, enable and target of an inactive source are zero (A §4.5.2). */
static void forget(struct aplic_domain *domain, unsigned source)
{
    bit_put(domain->pending, source, false);
    bit_put(domain->enable, source, false);
    domain->target[source] = 0;
}

static uint32_t legal_sourcecfg(const struct aplic_domain *domain, uint32_t value)
{
    bool root = domain == &domain->aplic->domains[DOMAIN_M];
    uint32_t mode = value & MODE_MASK;
    if ((value & DELEGATED) != 0)
        return root ? DELEGATED : 0; /* one child: index 0; a leaf has none */
    return mode == 2 || mode == 3 ? INACTIVE : mode;
}

static void set_sourcecfg(struct aplic_domain *domain, unsigned source, uint32_t value)
{
    struct aplic *aplic = domain->aplic;
    struct aplic_domain *child = &aplic->domains[DOMAIN_S];
    if (domain == child && !delegated(aplic, source))
        return; /* appears not to be implemented */
    domain->sourcecfg[source] = legal_sourcecfg(domain, value);
    if (domain != child && !delegated(aplic, source)) {
        child->sourcecfg[source] = 0;
        forget(child, source);
    }
    if (mode_of(domain, source) == INACTIVE)
        forget(domain, source);
    else if (level_sensitive(mode_of(domain, source)) && rectified(domain, source))
        bit_put(domain->pending, source, true);
}

/* ---- registers ---- */

static uint32_t legal_target(const struct aplic *aplic, uint32_t value)
{
    uint32_t hart = (value >> TARGET_HART_SHIFT) & ((UINT32_C(1) << aplic->hart_bits) - 1);
    return hart << TARGET_HART_SHIFT | (value & TARGET_IDENTITY);
}

static uint32_t rectified_word(const struct aplic_domain *domain, unsigned word)
{
    uint32_t value = 0;
    for (unsigned source = 32 * word; source < 32 * word + 32; source++)
        value |= (uint32_t)rectified(domain, source) << (source % 32);
    return value;
}

static uint32_t address_config(const struct aplic *aplic, uint64_t offset)
{
    switch (offset) {
    case MMSIADDRCFG:
        return (uint32_t)(aplic->files[DOMAIN_M] >> MEM_PAGE_SHIFT);
    case MMSIADDRCFGH:
        return MSIADDRCFG_LOCKED | aplic->hart_bits << LHXW_SHIFT;
    case SMSIADDRCFG:
        return (uint32_t)(aplic->files[DOMAIN_S] >> MEM_PAGE_SHIFT);
    default:
        return 0;
    }
}

static uint32_t register_read(const struct aplic_domain *domain, uint64_t offset)
{
    const struct aplic *aplic = domain->aplic;
    unsigned word = (unsigned)(offset & 0x7f) / 4;
    if (offset == DOMAINCFG)
        return DOMAINCFG_FIXED | DOMAINCFG_DM | (domain->enabled ? DOMAINCFG_IE : 0);
    if (offset < SOURCECFG_END)
        return offset / 4 < MAX_SOURCES ? domain->sourcecfg[offset / 4] : 0;
    if (offset >= TARGET && offset < TARGET_END) {
        uint64_t source = (offset - GENMSI) / 4;
        return source < MAX_SOURCES ? domain->target[source] : 0;
    }
    if (offset == GENMSI)
        return domain->genmsi; /* sent at once: never busy */
    if (domain == &aplic->domains[DOMAIN_M] && offset < SETIP)
        return address_config(aplic, offset);
    if (word >= WORDS)
        return 0;
    switch (offset & ~UINT64_C(0x7f)) {
    case SETIP:
        return domain->pending[word];
    case CLRIP:
        return rectified_word(domain, word);
    case SETIE:
        return domain->enable[word];
    default:
        return 0;
    }
}

enum verb { SET_PENDING, CLEAR_PENDING, SET_ENABLE, CLEAR_ENABLE };

static void act(struct aplic_domain *domain, enum verb verb, unsigned source)
{
    switch (verb) {
    case SET_PENDING:
        set_pending(domain, source);
        break;
    case CLEAR_PENDING:
        bit_put(domain->pending, source, false);
        break;
    case SET_ENABLE:
        set_enable(domain, source);
        break;
    case CLEAR_ENABLE:
        bit_put(domain->enable, source, false);
        break;
    }
}

/* setip to clrienum: an array of words and a register that takes a number, four times. */
static void array_write(struct aplic_domain *domain, uint64_t offset, uint32_t value)
{
    enum verb verb = (enum verb)((offset - SETIP) >> 8);
    unsigned at = (unsigned)(offset & 0xff), sources = domain->aplic->sources;
    if (at == (SETIPNUM & 0xff)) {
        if (value > 0 && value <= sources)
            act(domain, verb, value);
        return;
    }
    if (at >= 4 * WORDS)
        return;
    for (; value != 0; value &= value - 1) {
        unsigned source = 8 * at + (unsigned)__builtin_ctz(value);
        if (source > 0 && source <= sources)
            act(domain, verb, source);
    }
}

static void register_write(struct aplic_domain *domain, uint64_t offset, uint32_t value)
{
    const struct aplic *aplic = domain->aplic;
    if (offset == DOMAINCFG) {
        domain->enabled = (value & DOMAINCFG_IE) != 0;
    } else if (offset < SOURCECFG_END) {
        if (offset / 4 <= aplic->sources)
            set_sourcecfg(domain, (unsigned)offset / 4, value);
    } else if (offset >= SETIP && offset < SETIPNUM_LE) {
        array_write(domain, offset, value);
    } else if (offset == SETIPNUM_LE) {
        array_write(domain, SETIPNUM, value);
    } else if (offset == GENMSI) {
        domain->genmsi = legal_target(aplic, value);
        send(domain, domain->genmsi);
    } else if (offset >= TARGET && offset < TARGET_END) {
        uint64_t source = (offset - GENMSI) / 4;
        if (source <= aplic->sources && mode_of(domain, (unsigned)source) != INACTIVE)
            domain->target[source] = legal_target(aplic, value);
    }
}

static uint64_t aplic_read(void *opaque, uint64_t offset, unsigned size)
{
    struct aplic_domain *domain = opaque;
    (void)size;
    pthread_mutex_lock(&domain->aplic->device.lock);
    uint32_t value = register_read(domain, offset);
    pthread_mutex_unlock(&domain->aplic->device.lock);
    return value;
}

static void aplic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct aplic_domain *domain = opaque;
    (void)size;
    pthread_mutex_lock(&domain->aplic->device.lock);
    register_write(domain, offset, (uint32_t)value);
    forward(domain);
    pthread_mutex_unlock(&domain->aplic->device.lock);
}

static const struct mem_io_ops io_ops = {aplic_read, aplic_write, 4, 4};

/* ---- life ---- */

static void aplic_reset(struct device *device)
{
    struct aplic *aplic = CONTAINER_OF(device, struct aplic, device);
    bool hidden_root = aplic->domains[DOMAIN_M].io.size == 0;
    for (unsigned i = 0; i < DOMAINS; i++) {
        struct aplic_domain *domain = &aplic->domains[i];
        *domain = (struct aplic_domain){.aplic = aplic, .io = domain->io};
    }
    for (unsigned source = 1; hidden_root && source <= aplic->sources; source++)
        aplic->domains[DOMAIN_M].sourcecfg[source] = DELEGATED;
}

static void aplic_unrealize(struct device *device)
{
    struct aplic *aplic = CONTAINER_OF(device, struct aplic, device);
    for (unsigned i = 0; i < DOMAINS; i++)
        mem_io_remove(device->env->mem, &aplic->domains[i].io);
}

static bool aplic_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    static const char *const names[] = {[DOMAIN_M] = "aplic-m", [DOMAIN_S] = "aplic-s"};
    struct aplic *aplic = CONTAINER_OF(device, struct aplic, device);
    const uint64_t gpa[] = {[DOMAIN_M] = params->gpa_machine, [DOMAIN_S] = params->gpa};
    assert(params->inputs < MAX_SOURCES);
    aplic->sources = params->inputs;
    aplic->msi = params->msi;
    aplic->files[DOMAIN_M] = IMSIC_M_GPA;
    aplic->files[DOMAIN_S] = IMSIC_S_GPA;
    while ((1u << aplic->hart_bits) < device->env->vcpu_count)
        aplic->hart_bits++;
    for (unsigned i = 0; i < DOMAINS; i++) {
        struct aplic_domain *domain = &aplic->domains[i];
        domain->aplic = aplic;
        if (gpa[i] == 0)
            continue;
        domain->io = (struct mem_io){
            .name = names[i], .gpa = gpa[i], .size = REGION_SIZE, .ops = &io_ops, .opaque = domain};
        if (!mem_io_add(device->env->mem, &domain->io)) {
            aplic_unrealize(device);
            return error_set(err, ERROR_INTERNAL, "its registers overlap another device's");
        }
    }
    return true;
}

/* Devicetree binding riscv,aplic; firmware before OpenSBI 1.3 reads "riscv,delegate". */
static int put_domain(const struct aplic *aplic, unsigned index, void *fdt)
{
    static const struct {
        uint32_t phandle, msi_parent;
    } handles[] = {{FDT_PHANDLE_APLIC_M, FDT_PHANDLE_IMSIC_M},
                   {FDT_PHANDLE_APLIC_S, FDT_PHANDLE_IMSIC_S}};
    const struct mem_io *io = &aplic->domains[index].io;
    if (io->size == 0)
        return 0;
    int error = fdt_begin_unit(fdt, "interrupt-controller", io->gpa);
    error |= FDT_PUT_STRINGS(fdt, "compatible", "qemu,aplic\0riscv,aplic");
    error |= fdt_put_reg(fdt, io->gpa, io->size);
    error |= fdt_put_empty(fdt, "interrupt-controller");
    error |= fdt_property_u32(fdt, "#interrupt-cells", 2);
    error |= fdt_property_u32(fdt, "#address-cells", 0);
    error |= fdt_property_u32(fdt, "msi-parent", handles[index].msi_parent);
    error |= fdt_property_u32(fdt, "riscv,num-sources", aplic->sources);
    if (index == DOMAIN_M) {
        error |= fdt_property_u32(fdt, "riscv,children", FDT_PHANDLE_APLIC_S);
        error |= FDT_PUT_CELLS(fdt, "riscv,delegation", FDT_PHANDLE_APLIC_S, 1, aplic->sources);
        error |= FDT_PUT_CELLS(fdt, "riscv,delegate", FDT_PHANDLE_APLIC_S, 1, aplic->sources);
    }
    error |= fdt_property_u32(fdt, "phandle", handles[index].phandle);
    return error | fdt_end_node(fdt);
}

static bool aplic_fdt(struct device *device, void *fdt)
{
    const struct aplic *aplic = CONTAINER_OF(device, struct aplic, device);
    return put_domain(aplic, DOMAIN_M, fdt) == 0 && put_domain(aplic, DOMAIN_S, fdt) == 0;
}

/* ---- state ---- */

static bool source_is_possible(const struct aplic_domain *domain, unsigned source)
{
    const struct aplic *aplic = domain->aplic;
    uint32_t config = domain->sourcecfg[source];
    bool root = domain == &aplic->domains[DOMAIN_M],
         exists = source > 0 && source <= aplic->sources;
    bool active = exists && mode_of(domain, source) != INACTIVE;
    if (config != legal_sourcecfg(domain, config) || (config != 0 && !exists) ||
        (!root && config != 0 && !delegated(aplic, source)) ||
        (root && exists && domain->io.size == 0 && config != DELEGATED))
        return false;
    return domain->target[source] == (active ? legal_target(aplic, domain->target[source]) : 0) &&
           (active || (!bit_get(domain->pending, source) && !bit_get(domain->enable, source)));
}

static bool aplic_restored(void *object, struct error **err)
{
    struct aplic *aplic = object;
    for (unsigned i = 0; i < DOMAINS; i++) {
        struct aplic_domain *domain = &aplic->domains[i];
        bool good = domain->enabled <= 1 && domain->genmsi == legal_target(aplic, domain->genmsi);
        for (unsigned source = 0; source < MAX_SOURCES; source++)
            good = good && source_is_possible(domain, source) &&
                   (!bit_get(aplic->level, source) || (source > 0 && source <= aplic->sources));
        if (!good)
            return error_set(err, ERROR_USAGE, "the interrupt controller's state is damaged");
        forward(domain); /* nothing, unless somebody made this state by hand */
    }
    return true;
}

static const struct state_field domain_fields[] = {
    STATE_UINT(struct aplic_domain, enabled, "enabled"),
    STATE_UINTS(struct aplic_domain, sourcecfg, "sourcecfg"),
    STATE_UINTS(struct aplic_domain, target, "target"),
    STATE_UINTS(struct aplic_domain, pending, "pending"),
    STATE_UINTS(struct aplic_domain, enable, "enable"),
    STATE_UINT(struct aplic_domain, genmsi, "genmsi"),
    STATE_END,
};
static const struct state_table domain_state = {"aplic-domain", 1, domain_fields, NULL, NULL};

static const struct state_field aplic_fields[] = {
    STATE_UINTS(struct aplic, level, "level"),
    STATE_STRUCTS(struct aplic, domains, "domains", &domain_state),
    STATE_END,
};
static const struct state_table aplic_state = {"aplic", 1, aplic_fields, NULL, aplic_restored};

const struct device_ops device_aplic = {
    .name = "aplic",
    .size = sizeof(struct aplic),
    .realize = aplic_realize,
    .unrealize = aplic_unrealize,
    .reset = aplic_reset,
    .fdt = aplic_fdt,
    .set_input = aplic_set_input,
    .state = &aplic_state,
};
