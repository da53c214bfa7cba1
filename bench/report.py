# SPDX-License-Identifier: MIT
"""What bench.py measured, as a table, as JSON and as a chart."""
import json
import math
import statistics
from xml.sax.saxutils import escape

# The rows that goals are stated over; the others are reported beside them.
NINE = ["sieve", "fib", "matmul", "hash", "sort", "getppid", "fork", "touch", "pipe"]
REFERENCE = "qemu"
COLOURS = {"native": ["#8a8f98"], "qemu": ["#e08a3c", "#f0bf7d", "#b5651d"],
           "trapeze": ["#9cc4e4", "#1f5fa8", "#5b4b9a"]}


# Of whole starts: in no mean.
STARTS = ["boot", "login"]
# The same work by one process and by two at once, in guests with two harts: in no mean either.
ALONE, TOGETHER = "alone", "together"
APART = STARTS + [ALONE, TOGETHER]


def summarize(systems, runs, rows, what, rates):
    """{row: {"what", "seconds": {system: {median, min, max, all}}}}; of a rate also its amount and unit"""
    table = {}
    for row in rows:
        seconds = {}
        for system in systems:
            values = [run.seconds[row] for run in runs[system.name] if row in run.seconds]
            if values:
                seconds[system.name] = {"median": statistics.median(values), "min": min(values),
                                        "max": max(values), "all": values}
        table[row] = {"what": what.get(row, "from the start of the VMM to the guest's first process"),
                      "seconds": seconds}
        if row in rates:
            table[row].update(amount=rates[row]["amount"], unit=rates[row]["unit"])
    return table


def median(result, row, system):
    of = result["rows"][row]["seconds"].get(system)
    return of["median"] if of else None


def ratio(result, row, of, to):
    """How many times longer `of` takes than `to`, or None."""
    a, b = median(result, row, of), median(result, row, to)
    return a / b if a and b else None


def geometric_mean(values):
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def ratio_columns(result):
    """(title, of, to): every guest against native, every trapeze engine against each QEMU."""
    systems = result["systems"]
    guests = [name for name in systems if systems[name]["kind"] != "native"]
    qemus = [name for name in systems if systems[name]["kind"] == "qemu"]
    engines = [name for name in systems if systems[name]["kind"] == "trapeze"]
    columns = [("%s/native" % name, name, "native") for name in guests if "native" in systems]
    return columns + [("%s/%s" % (qemu, name), qemu, name) for name in engines for qemu in qemus]


def is_rate(result, row):
    return "unit" in result["rows"][row]


def row_sets(result):
    measured = [row for row in result["rows"] if row not in APART and not is_rate(result, row)]
    rates = [row for row in result["rows"] if is_rate(result, row)]
    nine = [row for row in measured if row in NINE]
    sets = []
    if nine:
        sets.append(("mean of the nine" if len(nine) == len(NINE) else "mean of %d of the nine" % len(nine), nine))
    if len(measured) > len(nine):
        sets.append(("mean of all %d" % len(measured), measured))
    if rates:
        sets.append(("mean of devices", rates))
    return sets


def means(result):
    """{name of a set of rows: {column: geometric mean}}; boot is in none of them."""
    return {name: {title: geometric_mean([ratio(result, row, of, to) for row in rows])
                   for title, of, to in ratio_columns(result)}
            for name, rows in row_sets(result)}


def seconds_text(value):
    if value is None:
        return "-"
    return "%.4f" % value if value < 0.1 else "%.3f" % value if value < 10 else "%.1f" % value


def ratio_text(value):
    if value is None:
        return "-"
    return "%.2f" % value if value < 10 else "%.1f" % value if value < 100 else "%.0f" % value


def table(result):
    """Seconds of each system (medians), then ratios; a speed-up over QEMU is QEMU/engine."""
    systems, columns = list(result["systems"]), ratio_columns(result)
    lines = [[""] + systems + [title for title, _, _ in columns]]
    for row in result["rows"]:
        lines.append([row] + [seconds_text(median(result, row, name)) for name in systems] +
                     [ratio_text(ratio(result, row, of, to)) for _, of, to in columns])
    rules = [1, len(lines)]
    if columns:
        lines += summary_lines(result, systems, columns)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [heading(result), ""]
    for number, line in enumerate(lines):
        if number in rules:
            text.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        text.append("  ".join([line[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:])]))
    return "\n".join(text + rate_lines(result) + parallel_lines(result) + [""] + notes(result))


def rate_lines(result):
    """What the seconds of the rows about devices are in the units people know."""
    lines = []
    for row, of in result["rows"].items():
        rates = ["%s %.0f" % (name, of["amount"] / seconds["median"])
                 for name, seconds in of["seconds"].items()] if is_rate(result, row) else []
        if rates:
            lines.append("%s, %s: %s" % (of["what"], of["unit"], ", ".join(rates)))
    return ["", *lines] if lines else []


def parallel_lines(result):
    """The work that two busy harts do in the time of one's."""
    if not {ALONE, TOGETHER} <= set(result["rows"]):
        return []
    gains = [(name, median(result, ALONE, name), median(result, TOGETHER, name)) for name in result["systems"]]
    return ["", "work of two busy harts, of one's: " + ", ".join(
        "%s %.2f" % (name, 2 * alone / together) for name, alone, together in gains if alone and together)]


def summary_lines(result, systems, columns):
    lines = []
    for name, of_columns in means(result).items():
        lines.append([name] + [""] * len(systems) + [ratio_text(of_columns[title]) for title, _, _ in columns])
    worst = ["worst row"] + [""] * len(systems)
    for title, of, to in columns:
        ratios = [r for r in (ratio(result, row, of, to) for row in result["rows"] if row not in APART) if r]
        # Against native a large ratio is bad, as a speed-up a small one.
        extreme = max if to == "native" else min
        worst.append(ratio_text(extreme(ratios)) if ratios else "-")
    return lines + [worst]


def rounds(result):
    return max(len(of["all"]) for row in result["rows"].values() for of in row["seconds"].values())


def heading(result):
    return ("Seconds (medians of %d) and their ratios. X/native: how many times slower than native; "
            "qemu/X: how many times faster than QEMU" % rounds(result))


def notes(result):
    machine, guest = result["machine"], result["guest"]
    lines = ["%s on %s, %d cores, Linux %s, load before: %.1f" % (
        result["date"], machine["cpu"], machine["cores"], machine["kernel"], machine["load_before"]),
        "guest: %s, %d hart%s" % (guest["memory"], guest["cpus"], "" if guest["cpus"] == 1 else "s")]
    lines += guest["kernel"]
    for name, system in result["systems"].items():
        lines.append("%s: %s" % (name, system["version"]))
    return lines


def save(result, stem):
    with open(stem + ".json", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    with open(stem + ".svg", "w") as f:
        f.write(chart(result))


# The chart: a group of bars for each row, seconds on a logarithmic axis.
BAR, GAP, LEFT, WIDTH, LABEL, TOP = 13, 12, 90, 760, 150, 96


def colours(systems):
    used, chosen = {}, {}
    for name, system in systems.items():
        palette = COLOURS[system["kind"]]
        chosen[name] = palette[used.setdefault(system["kind"], 0) % len(palette)]
        used[system["kind"]] += 1
    return chosen


def bar_label(result, row, system):
    label = "%s s" % seconds_text(median(result, row, system))
    slower = ratio(result, row, system, "native")
    if system != "native" and slower:
        label += " · %s× native" % ratio_text(slower)
    return label


class Axis:
    """Seconds to pixels, from a power of ten to the next above the largest value."""

    def __init__(self, values):
        self.low = math.floor(math.log10(min(values)))
        self.high = max(self.low + 1, math.log10(max(values)) + 0.05)

    def x(self, value):
        return LEFT + WIDTH * (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self):
        for power in range(self.low, math.ceil(self.high) + 1):
            for digit in (1, 2, 5):
                value = digit * 10.0 ** power
                if math.log10(value) <= self.high:
                    yield value, digit == 1


def chart(result):
    systems = result["systems"]
    colour = colours(systems)
    rows = [row for row in result["rows"] if result["rows"][row]["seconds"]]
    axis = Axis([median(result, row, name) for row in rows for name in systems if median(result, row, name)])
    shapes, y = [], TOP
    for row in rows:
        present = [name for name in systems if median(result, row, name)]
        shapes.append('<text x="%d" y="%.1f" text-anchor="end" class="row">%s<title>%s</title></text>' % (
            LEFT - 8, y + BAR * len(present) / 2 + 4, escape(row), escape(result["rows"][row]["what"])))
        for name in present:
            end = axis.x(median(result, row, name))
            shapes.append('<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>' % (
                LEFT, y, max(end - LEFT, 1), BAR - 2, colour[name]))
            shapes.append('<text x="%.1f" y="%d">%s</text>' % (end + 5, y + BAR - 4,
                                                                escape(bar_label(result, row, name))))
            y += BAR
        y += GAP
    grid = []
    for value, whole in axis.ticks():
        grid.append('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s"/>' % (
            axis.x(value), axis.x(value), TOP - 8, y - GAP + 4, "#c3c8cf" if whole else "#eceef1"))
        grid.append('<text x="%.1f" y="%d" text-anchor="middle" class="tick">%g s</text>' % (
            axis.x(value), TOP - 13, value))
    legend, x = [], LEFT
    for name, system in systems.items():
        title = ("trapeze " if system["kind"] == "trapeze" else "") + name
        legend.append('<rect x="%d" y="46" width="12" height="12" fill="%s"/>' % (x, colour[name]))
        legend.append('<text x="%d" y="57" class="row">%s</text>' % (x + 17, escape(title)))
        x += 45 + 8 * len(title)
    machine = result["machine"]
    title = "Seconds of each row, on a logarithmic scale: shorter is faster"
    footer = "%s · medians of %d · %s, %d cores, Linux %s · guest: %s, %d hart(s)" % (
        result["date"], rounds(result), machine["cpu"], machine["cores"], machine["kernel"],
        result["guest"]["memory"], result["guest"]["cpus"])
    width, height = LEFT + WIDTH + LABEL, y + 24
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">' % (
            width, height, width, height),
        "<style>text{font:10px sans-serif;fill:#30343a}.row{font-size:12.5px}.head{font-size:16px;"
        "font-weight:bold}.tick{fill:#6a7079}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<text x="%d" y="26" class="head">%s</text>' % (LEFT, escape(title)),
        *legend, *grid, *shapes,
        '<text x="%d" y="%d" class="tick">%s</text>' % (LEFT, height - 8, escape(footer)),
        "</svg>", ""])
