/* SPDX-License-Identifier: MIT
 *
 * Bindable signals between a device and the rest of the machine.
 *
 * A `struct irq_line` is what a device drives, a `struct msi_sink` takes the messages it sends,
 * a `struct notifier` is what a guest's queue notification fires. They are bound to a sink at
 * wiring time and may be rebound while the machine is quiesced. A device never knows what is behind
 * them.
 *
 * Threads: set/pulse/fire from any thread; bind while nothing runs. Lock order: a device's
 * lock may be held while driving a line; a sink takes only its own lock (leaf).
 */
#ifndef TRAPEZE_BUS_LINE_H
#define TRAPEZE_BUS_LINE_H

#include <stdbool.h>
#include <stdint.h>

struct irq_line {
    void (*set)(void *sink, unsigned input, bool level); /* NULL: unconnected */
    void *sink;
    unsigned input; /* the sink's input number */
};

static inline void irq_line_bind(struct irq_line *line, void (*set)(void *, unsigned, bool),
                                 void *sink, unsigned input)
{
    *line = (struct irq_line){.set = set, .sink = sink, .input = input};
}

static inline void irq_line_set(const struct irq_line *line, bool level)
{
    if (line != NULL && line->set != NULL)
        line->set(line->sink, line->input, level);
}

/* Where devices' messages (MSI, MSI-X, the APLIC's) go: an interrupt controller that knows the
 * address, or later KVM. */
struct msi_sink {
    void (*send)(void *sink, uint64_t address, uint32_t data); /* NULL: there are none */
    void *sink;
};

struct notifier {
    void (*fire)(void *sink, unsigned value); /* NULL: unconnected */
    void *sink;
};

static inline void notifier_bind(struct notifier *notifier, void (*fire)(void *, unsigned),
                                 void *sink)
{
    *notifier = (struct notifier){.fire = fire, .sink = sink};
}

static inline void notifier_fire(const struct notifier *notifier, unsigned value)
{
    if (notifier->fire != NULL)
        notifier->fire(notifier->sink, value);
}

#endif
