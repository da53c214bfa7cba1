/* SPDX-License-Identifier: MIT
 *
 * Platform-level interrupt controller ("RISC-V Platform-Level Interrupt Controller
 * Specification" 1.0.0), laid out as SiFive's: level-sensitive sources, two contexts per
 * hart (2i: M-mode, 2i + 1: S-mode), priorities 0 (never) to 7.
 *
 * A source's gateway is one of: idle, pending (the core holds its request), or claimed (a
 * hart handles it; closed until completion). A level that falls after the request was
 * accepted does not withdraw it (§ Interrupt Gateways).
 *
 * A context's wire to its hart is up while some enabled source is pending with a priority
 * above the threshold; it is driven only when it changes. Claiming ignores the threshold
 * (§ Interrupt Claim Process).
 *
 * Register map, 32-bit accesses: 0x000000 priority of source n at 4n; 0x001000 pending bits;
 * 0x002000 + 0x80 c enable bits of context c; 0x200000 + 0x1000 c threshold, + 4 claim/complete.
 *
 * params: gpa, inputs (highest source number), phandle, irq_phandle.
 */
#include <assert.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "isa/vcpu.h"
#include "mem/mem.h"

#define MAX_SOURCES  128 /* source 0 does not exist */
#define WORDS        (MAX_SOURCES / 32)
#define MAX_HARTS    8
#define MAX_CONTEXTS (2 * MAX_HARTS)
#define MAX_PRIORITY 7

/* The RISC-V interrupt numbers of external interrupts (privileged spec, mip). */
enum { IRQ_S_EXTERNAL = 9, IRQ_M_EXTERNAL = 11 };

enum {
    PENDING_BASE = 0x1000,
    ENABLE_BASE = 0x2000,
    ENABLE_STRIDE = 0x80,
    CONTEXT_BASE = 0x200000,
    CONTEXT_STRIDE = 0x1000
};

struct plic {
    struct device device;
    struct mem_io io;
    uint32_t phandle, cpu_phandle;
    unsigned sources; /* number of source words' valid bits: 1..sources */
    unsigned contexts;

    uint8_t priority[MAX_SOURCES];
    uint32_t level[WORDS];   /* input wires */
    uint32_t pending[WORDS]; /* requests the core has accepted */
    uint32_t claimed[WORDS]; /* handled by a hart, not yet completed */
    uint32_t enable[MAX_CONTEXTS][WORDS];
    uint8_t threshold[MAX_CONTEXTS];

    uint32_t wires; /* bit per context: what the harts were last told */
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

/* The enabled pending source of highest priority (lowest number among equals), or 0. */
static unsigned best_source(const struct plic *plic, unsigned context)
{
    unsigned best = 0;
    unsigned best_priority = 0;
    for (unsigned word = 0; word < WORDS; word++) {
        uint32_t candidates = plic->pending[word] & plic->enable[context][word];
        for (; candidates != 0; candidates &= candidates - 1) {
            unsigned source = word * 32 + (unsigned)__builtin_ctz(candidates);
            if (plic->priority[source] > best_priority) {
                best = source;
                best_priority = plic->priority[source];
            }
        }
    }
    return best;
}

static void drive(struct plic *plic, unsigned context, bool level)
{
    uint32_t bit = UINT32_C(1) << context;
    if (((plic->wires & bit) != 0) == level)
        return;
    plic->wires ^= bit;
    vcpu_set_interrupt(plic->device.env->vcpus[context / 2],
                       context % 2 == 0 ? IRQ_M_EXTERNAL : IRQ_S_EXTERNAL, level);
}

static void update_context(struct plic *plic, unsigned context)
{
    unsigned source = best_source(plic, context);
    drive(plic, context, source != 0 && plic->priority[source] > plic->threshold[context]);
}

static void update_all(struct plic *plic)
{
    for (unsigned context = 0; context < plic->contexts; context++)
        update_context(plic, context);
}

static void plic_set_input(void *device, unsigned source, bool level)
{
    struct plic *plic = device;
    assert(source > 0 && source <= plic->sources);
    pthread_mutex_lock(&plic->device.lock);
    if (bit_get(plic->level, source) != level) {
        bit_put(plic->level, source, level);
        if (level && !bit_get(plic->claimed, source) && !bit_get(plic->pending, source)) {
            bit_put(plic->pending, source, true);
            update_all(plic);
        }
    }
    pthread_mutex_unlock(&plic->device.lock);
}

static uint32_t claim(struct plic *plic, unsigned context)
{
    unsigned source = best_source(plic, context);
    if (source != 0) {
        bit_put(plic->pending, source, false);
        bit_put(plic->claimed, source, true);
        update_all(plic);
    }
    return source;
}

/* Silently ignored unless the source is enabled for the context (§ Interrupt Completion). */
static void complete(struct plic *plic, unsigned context, uint32_t source)
{
    if (source == 0 || source > plic->sources || !bit_get(plic->enable[context], source) ||
        !bit_get(plic->claimed, source))
        return;
    bit_put(plic->claimed, source, false);
    if (bit_get(plic->level, source)) {
        bit_put(plic->pending, source, true);
        update_all(plic);
    }
}

/* ---- registers ---- */

/* The bits of enable or pending word `word` that stand for existing sources. */
static uint32_t valid_bits(const struct plic *plic, unsigned word)
{
    uint32_t mask = word == 0 ? ~UINT32_C(1) : ~UINT32_C(0);
    if (word == plic->sources / 32)
        mask &= (uint32_t)bits_get(~UINT64_C(0), 0, plic->sources % 32 + 1);
    else if (word > plic->sources / 32)
        mask = 0;
    return mask;
}

struct place {
    enum {
        PLACE_NONE,
        PLACE_PRIORITY,
        PLACE_PENDING,
        PLACE_ENABLE,
        PLACE_THRESHOLD,
        PLACE_CLAIM
    } kind;
    unsigned index; /* source or word */
    unsigned context;
};

static struct place locate(const struct plic *plic, uint64_t offset)
{
    struct place none = {.kind = PLACE_NONE};
    if (offset < PENDING_BASE) {
        unsigned source = (unsigned)(offset / 4);
        bool exists = source > 0 && source <= plic->sources;
        return exists ? (struct place){PLACE_PRIORITY, source, 0} : none;
    }
    if (offset < ENABLE_BASE) {
        unsigned word = (unsigned)(offset - PENDING_BASE) / 4;
        return word < WORDS ? (struct place){PLACE_PENDING, word, 0} : none;
    }
    if (offset < CONTEXT_BASE) {
        unsigned context = (unsigned)(offset - ENABLE_BASE) / ENABLE_STRIDE;
        unsigned word = (unsigned)(offset - ENABLE_BASE) % ENABLE_STRIDE / 4;
        bool exists = context < plic->contexts && word < WORDS;
        return exists ? (struct place){PLACE_ENABLE, word, context} : none;
    }
    unsigned context = (unsigned)((offset - CONTEXT_BASE) / CONTEXT_STRIDE);
    unsigned at = (unsigned)((offset - CONTEXT_BASE) % CONTEXT_STRIDE);
    if (context >= plic->contexts || at > 4)
        return none;
    return (struct place){at == 0 ? PLACE_THRESHOLD : PLACE_CLAIM, 0, context};
}

static uint64_t plic_read(void *opaque, uint64_t offset, unsigned size)
{
    struct plic *plic = opaque;
    struct place place = locate(plic, offset);
    uint32_t value = 0;
    (void)size;
    pthread_mutex_lock(&plic->device.lock);
    switch (place.kind) {
    case PLACE_PRIORITY:
        value = plic->priority[place.index];
        break;
    case PLACE_PENDING:
        value = plic->pending[place.index];
        break;
    case PLACE_ENABLE:
        value = plic->enable[place.context][place.index];
        break;
    case PLACE_THRESHOLD:
        value = plic->threshold[place.context];
        break;
    case PLACE_CLAIM:
        value = claim(plic, place.context);
        break;
    case PLACE_NONE:
        break;
    }
    pthread_mutex_unlock(&plic->device.lock);
    return value;
}

static void plic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct plic *plic = opaque;
    struct place place = locate(plic, offset);
    (void)size;
    pthread_mutex_lock(&plic->device.lock);
    switch (place.kind) {
    case PLACE_PRIORITY:
        plic->priority[place.index] = (uint8_t)(value & MAX_PRIORITY);
        update_all(plic);
        break;
    case PLACE_ENABLE:
        plic->enable[place.context][place.index] = (uint32_t)value & valid_bits(plic, place.index);
        update_context(plic, place.context);
        break;
    case PLACE_THRESHOLD:
        plic->threshold[place.context] = (uint8_t)(value & MAX_PRIORITY);
        update_context(plic, place.context);
        break;
    case PLACE_CLAIM:
        complete(plic, place.context, (uint32_t)value);
        break;
    case PLACE_PENDING: /* read-only */
    case PLACE_NONE:
        break;
    }
    pthread_mutex_unlock(&plic->device.lock);
}

static const struct mem_io_ops io_ops = {plic_read, plic_write, 4, 4};

/* ---- life ---- */

static void plic_reset(struct device *device)
{
    struct plic *plic = CONTAINER_OF(device, struct plic, device);
    memset(plic->priority, 0, sizeof(plic->priority));
    memset(plic->pending, 0, sizeof(plic->pending));
    memset(plic->claimed, 0, sizeof(plic->claimed));
    memset(plic->enable, 0, sizeof(plic->enable));
    memset(plic->threshold, 0, sizeof(plic->threshold));
    /* The input wires belong to the devices at their other ends: a level that is still up
     * is a request again. */
    for (unsigned word = 0; word < WORDS; word++)
        plic->pending[word] = plic->level[word];
    update_all(plic);
}

static bool plic_realize(struct device *device, const struct device_params *params,
                         struct error **err)
{
    struct plic *plic = CONTAINER_OF(device, struct plic, device);
    assert(params->inputs < MAX_SOURCES && device->env->vcpu_count <= MAX_HARTS);
    plic->sources = params->inputs;
    plic->contexts = 2 * device->env->vcpu_count;
    plic->phandle = params->phandle;
    plic->cpu_phandle = params->irq_phandle;
    plic->io = (struct mem_io){.name = "plic",
                               .gpa = params->gpa,
                               .size = CONTEXT_BASE + CONTEXT_STRIDE * (uint64_t)plic->contexts,
                               .ops = &io_ops,
                               .opaque = plic};
    if (!mem_io_add(device->env->mem, &plic->io))
        return error_set(err, ERROR_INTERNAL, "its registers overlap another device's");
    return true;
}

static void plic_unrealize(struct device *device)
{
    struct plic *plic = CONTAINER_OF(device, struct plic, device);
    mem_io_remove(device->env->mem, &plic->io);
}

static bool plic_fdt(struct device *device, void *fdt)
{
    struct plic *plic = CONTAINER_OF(device, struct plic, device);
    uint32_t targets[2 * MAX_CONTEXTS];
    for (unsigned context = 0; context < plic->contexts; context++) {
        targets[2 * context] = plic->cpu_phandle + context / 2;
        targets[2 * context + 1] = context % 2 == 0 ? IRQ_M_EXTERNAL : IRQ_S_EXTERNAL;
    }
    int error = fdt_begin_unit(fdt, "plic", plic->io.gpa);
    error |= FDT_PUT_STRINGS(fdt, "compatible", "sifive,plic-1.0.0\0riscv,plic0");
    error |= fdt_put_reg(fdt, plic->io.gpa, plic->io.size);
    error |= fdt_put_empty(fdt, "interrupt-controller");
    error |= fdt_property_u32(fdt, "#interrupt-cells", 1);
    error |= fdt_property_u32(fdt, "#address-cells", 0);
    error |= fdt_property_u32(fdt, "riscv,ndev", plic->sources);
    error |= fdt_put_cells(fdt, "interrupts-extended", targets, 2 * plic->contexts);
    error |= fdt_property_u32(fdt, "phandle", plic->phandle);
    error |= fdt_end_node(fdt);
    return error == 0;
}

/* ---- state ---- */

static bool plic_restored(void *object, struct error **err)
{
    struct plic *plic = object;
    for (unsigned word = 0; word < WORDS; word++) {
        uint32_t used = plic->level[word] | plic->pending[word] | plic->claimed[word];
        for (unsigned context = 0; context < MAX_CONTEXTS; context++)
            used |= plic->enable[context][word];
        if ((used & ~valid_bits(plic, word)) || (plic->pending[word] & plic->claimed[word]))
            return error_set(err, ERROR_USAGE, "the interrupt controller's state is damaged");
    }
    for (unsigned source = 0; source < MAX_SOURCES; source++)
        plic->priority[source] &= MAX_PRIORITY;
    for (unsigned context = 0; context < MAX_CONTEXTS; context++)
        plic->threshold[context] &= MAX_PRIORITY;
    /* What the harts hold was restored with them; tell them anyway, once per wire. */
    for (unsigned context = 0; context < plic->contexts; context++) {
        unsigned source = best_source(plic, context);
        bool level = source != 0 && plic->priority[source] > plic->threshold[context];
        plic->wires = (uint32_t)bits_set(plic->wires, context, 1, !level);
        drive(plic, context, level);
    }
    return true;
}

static const struct state_field plic_fields[] = {
    STATE_BYTES(struct plic, priority, "priority"),
    STATE_UINTS(struct plic, level, "level"),
    STATE_UINTS(struct plic, pending, "pending"),
    STATE_UINTS(struct plic, claimed, "claimed"),
    {"enable", STATE_KIND_UINT, offsetof(struct plic, enable), sizeof(uint32_t),
     MAX_CONTEXTS *WORDS, 0, NULL},
    STATE_BYTES(struct plic, threshold, "threshold"),
    STATE_END,
};
static const struct state_table plic_state = {"plic", 1, plic_fields, NULL, plic_restored};

const struct device_ops device_plic = {
    .name = "plic",
    .size = sizeof(struct plic),
    .realize = plic_realize,
    .unrealize = plic_unrealize,
    .reset = plic_reset,
    .fdt = plic_fdt,
    .set_input = plic_set_input,
    .state = &plic_state,
};
