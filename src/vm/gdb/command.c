/* SPDX-License-Identifier: MIT
 *
 * What each packet does (E.2 "Packets", E.4 "General Query Packets"): one function and one row.
 * A packet that no row knows gets the empty reply that means so.
 *
 * While the machine runs nobody but its own thread may look at a vCPU, so every packet is
 * refused then; GDB sends none but Ctrl-C, which is no packet.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/gdb/internal.h"

/* Numbers of errors mean nothing to GDB; ours say which kind. */
#define MALFORMED "E01"
#define NOT_THERE "E0e" /* an address or a register that does not exist */
#define RUNNING   "E10"
#define FULL      "E1c"

enum { MEMORY_MAX = GDB_PACKET_MAX / 2 - 16 }; /* bytes that one packet can carry in hex */

typedef void command_fn(struct gdb *gdb, struct scan args);

static struct vcpu *g_vcpu(const struct gdb *gdb)
{
    return gdb->vm->vcpus[gdb->g_cpu];
}

static bool at_end(const struct scan *scan)
{
    return scan->at == scan->end;
}

/* ---- registers ---- */

static bool put_register(struct gdb *gdb, unsigned number)
{
    const struct isa_debug *isa = gdb->vm->isa->debug;
    struct vcpu_register reg;
    uint8_t bytes[VCPU_REGISTER_MAX];
    if (number >= isa->register_limit || !isa->describe(number, &reg))
        return false;
    isa->read(g_vcpu(gdb), number, bytes);
    gdb_put_hex(gdb, bytes, reg.size);
    return true;
}

static bool take_register(struct gdb *gdb, unsigned number, struct scan *from)
{
    const struct isa_debug *isa = gdb->vm->isa->debug;
    struct vcpu_register reg;
    uint8_t bytes[VCPU_REGISTER_MAX];
    return number < isa->register_limit && isa->describe(number, &reg) &&
           scan_bytes(from, bytes, reg.size) && isa->write(g_vcpu(gdb), number, bytes);
}

static void command_g(struct gdb *gdb, struct scan args)
{
    (void)args;
    for (unsigned i = 0; i < gdb->vm->isa->debug->register_core; i++)
        put_register(gdb, i);
}

static void command_G(struct gdb *gdb, struct scan args)
{
    bool good = true;
    for (unsigned i = 0; good && i < gdb->vm->isa->debug->register_core && !at_end(&args); i++)
        good = take_register(gdb, i, &args);
    gdb_reply(gdb, good && at_end(&args) ? "OK" : MALFORMED);
}

static void command_p(struct gdb *gdb, struct scan args)
{
    uint64_t number;
    if (!scan_hex(&args, &number) || !at_end(&args))
        gdb_reply(gdb, MALFORMED);
    else if (number > UINT32_MAX || !put_register(gdb, (unsigned)number))
        gdb_reply(gdb, NOT_THERE);
}

static void command_P(struct gdb *gdb, struct scan args)
{
    uint64_t number;
    bool good = scan_hex(&args, &number) && number <= UINT32_MAX && scan_char(&args, '=') &&
                take_register(gdb, (unsigned)number, &args) && at_end(&args);
    gdb_reply(gdb, good ? "OK" : NOT_THERE);
}

/* ---- memory ---- */

/* Copies until the first byte that is not RAM (I/O has side effects and is left alone); returns
 * how many bytes that were. */
static size_t copy_memory(struct gdb *gdb, uint64_t address, uint8_t *bytes, size_t size,
                          bool write)
{
    struct vm *vm = gdb->vm;
    size_t done = 0;
    while (done < size) {
        uint64_t at = address + done, gpa = at;
        size_t part = (size_t)(MEM_PAGE_SIZE - (at & (MEM_PAGE_SIZE - 1)));
        if (part > size - done)
            part = size - done;
        if (!gdb->physical && !vm->isa->translate(g_vcpu(gdb), at, &gpa))
            break;
        if (!mem_ready(vm->mem, gpa, part, NULL) || /* it is there when GDB asks again */
            !(write ? mem_write(vm->mem, gpa, bytes + done, part)
                    : mem_read(vm->mem, gpa, bytes + done, part)))
            break;
        done += part;
    }
    return done;
}

/* addr,length */
static bool scan_range(struct scan *args, uint64_t *address, uint64_t *size)
{
    return scan_hex(args, address) && scan_char(args, ',') && scan_hex(args, size);
}

static void command_m(struct gdb *gdb, struct scan args)
{
    uint64_t address, size;
    uint8_t bytes[MEMORY_MAX];
    if (!scan_range(&args, &address, &size) || !at_end(&args)) {
        gdb_reply(gdb, MALFORMED);
        return;
    }
    size = size < MEMORY_MAX ? size : MEMORY_MAX; /* less than asked for is allowed */
    size_t done = copy_memory(gdb, address, bytes, (size_t)size, false);
    if (done == 0 && size > 0)
        gdb_reply(gdb, NOT_THERE);
    else
        gdb_put_hex(gdb, bytes, done);
    gdb->replying = true;
}

static void write_memory(struct gdb *gdb, struct scan args, bool binary)
{
    uint64_t address, size;
    uint8_t bytes[MEMORY_MAX * 2 + 32];
    bool good = scan_range(&args, &address, &size) && scan_char(&args, ':');
    if (good && binary) {
        good = size == (uint64_t)(args.end - args.at) && size <= sizeof(bytes);
        if (good)
            memcpy(bytes, args.at, (size_t)size);
    } else if (good) {
        good = size <= sizeof(bytes) && scan_bytes(&args, bytes, (size_t)size) && at_end(&args);
    }
    if (!good) {
        gdb_reply(gdb, MALFORMED);
        return;
    }
    bool all = copy_memory(gdb, address, bytes, (size_t)size, true) == size;
    /* It may have been code, or a page table. */
    for (unsigned i = 0; i < gdb->vm->cpu_count; i++)
        vcpu_attention(gdb->vm->vcpus[i], VCPU_ATTENTION_TLB | VCPU_ATTENTION_FENCE_I);
    gdb_reply(gdb, all ? "OK" : NOT_THERE);
}

static void command_M(struct gdb *gdb, struct scan args)
{
    write_memory(gdb, args, false);
}

static void command_X(struct gdb *gdb, struct scan args)
{
    write_memory(gdb, args, true);
}

/* ---- points ---- */

/* type,addr,kind: `kind` is a length for watchpoints, the size of the instruction else. */
static bool scan_point(struct scan *args, struct vcpu_point *point)
{
    uint64_t kind, size;
    if (!scan_hex(args, &kind) || kind >= VCPU_POINT_KINDS || !scan_char(args, ',') ||
        !scan_range(args, &point->first, &size) || !at_end(args))
        return false;
    point->kind = (enum vcpu_point_kind)kind;
    if (kind <= VCPU_POINT_BREAK_HARD)
        size = 1;
    return size > 0 && !__builtin_add_overflow(point->first, size - 1, &point->last);
}

static void command_Z(struct gdb *gdb, struct scan args)
{
    struct vcpu_point point;
    if (!scan_point(&args, &point))
        gdb_reply(gdb, MALFORMED);
    else
        gdb_reply(gdb, gdb_point_add(gdb, &point) ? "OK" : FULL);
}

static void command_z(struct gdb *gdb, struct scan args)
{
    struct vcpu_point point;
    bool good = scan_point(&args, &point);
    if (good)
        gdb_point_remove(gdb, &point);
    gdb_reply(gdb, good ? "OK" : MALFORMED);
}

/* ---- threads ---- */

static void command_H(struct gdb *gdb, struct scan args)
{
    int cpu;
    bool general = scan_char(&args, 'g');
    if ((!general && !scan_char(&args, 'c')) || !scan_thread(&args, gdb, -1, &cpu) ||
        !at_end(&args)) {
        gdb_reply(gdb, MALFORMED);
        return;
    }
    if (!general)
        gdb->c_cpu = cpu;
    else if (cpu >= 0) /* "any" is the one that it is */
        gdb->g_cpu = (unsigned)cpu;
    gdb_reply(gdb, "OK");
}

static void command_T(struct gdb *gdb, struct scan args)
{
    int cpu;
    bool alive = scan_thread(&args, gdb, -1, &cpu) && cpu >= 0 && at_end(&args);
    gdb_reply(gdb, alive ? "OK" : NOT_THERE);
}

static void query_current_thread(struct gdb *gdb, struct scan args)
{
    (void)args;
    gdb_put(gdb, "QC%x", gdb->g_cpu + 1);
}

static void query_threads(struct gdb *gdb, struct scan args)
{
    (void)args;
    for (unsigned i = 0; i < gdb->vm->cpu_count; i++)
        gdb_put(gdb, "%c%x", i == 0 ? 'm' : ',', i + 1);
}

static void query_more_threads(struct gdb *gdb, struct scan args)
{
    (void)args;
    gdb_reply(gdb, "l");
}

static void query_thread_info(struct gdb *gdb, struct scan args)
{
    int cpu;
    char text[64];
    if (!scan_thread(&args, gdb, -1, &cpu) || cpu < 0 || !at_end(&args)) {
        gdb_reply(gdb, MALFORMED);
        return;
    }
    gdb_describe_thread(gdb, (unsigned)cpu, text, sizeof(text));
    gdb_put_hex(gdb, text, strlen(text));
}

/* ---- running ---- */

static void command_why(struct gdb *gdb, struct scan args)
{
    (void)args;
    gdb_reply(gdb, gdb->stop_reply);
}

/* 'c' and 's': all continue, one steps. 'C' and 'S' begin with a signal, which harts have no
 * use for. */
static void resume_old(struct gdb *gdb, struct scan args, enum gdb_action action, bool signal)
{
    struct gdb_plan plans[MACHINE_MAX_CPUS] = {0};
    uint64_t number;
    if ((signal && !scan_hex(&args, &number)) || !at_end(&args)) {
        gdb_reply(gdb, MALFORMED); /* ... also of an address to go on from: GDB writes pc */
        return;
    }
    unsigned one = gdb->c_cpu < 0 ? gdb->g_cpu : (unsigned)gdb->c_cpu;
    for (unsigned i = 0; i < gdb->vm->cpu_count; i++)
        plans[i].action = gdb->c_cpu < 0 ? GDB_CONTINUE : GDB_STAY;
    plans[one].action = action;
    gdb_resume(gdb, plans);
}

static void command_c(struct gdb *gdb, struct scan args)
{
    resume_old(gdb, args, GDB_CONTINUE, false);
}

static void command_C(struct gdb *gdb, struct scan args)
{
    resume_old(gdb, args, GDB_CONTINUE, true);
}

static void command_s(struct gdb *gdb, struct scan args)
{
    resume_old(gdb, args, GDB_STEP, false);
}

static void command_S(struct gdb *gdb, struct scan args)
{
    resume_old(gdb, args, GDB_STEP, true);
}

/* c | Csig | s | Ssig | r first,last */
static bool scan_action(struct scan *args, struct gdb_plan *plan)
{
    uint64_t signal;
    *plan = (struct gdb_plan){0};
    if (scan_char(args, 'r')) {
        plan->action = GDB_STEP;
        return scan_range(args, &plan->first, &plan->last);
    }
    plan->action = scan_char(args, 'c') ? GDB_CONTINUE : scan_char(args, 's') ? GDB_STEP : GDB_STAY;
    if (plan->action != GDB_STAY)
        return true;
    plan->action = scan_char(args, 'C') ? GDB_CONTINUE : GDB_STEP;
    return (plan->action == GDB_CONTINUE || scan_char(args, 'S')) && scan_hex(args, &signal);
}

/* ;action[:thread]...: the leftmost action that names a thread, or all, is the thread's; a
 * thread that none names stays. */
static bool scan_actions(const struct gdb *gdb, struct scan *args, struct gdb_plan *plans)
{
    bool known[MACHINE_MAX_CPUS] = {false}, any = false;
    while (!at_end(args)) {
        struct gdb_plan plan;
        int cpu = -1;
        if (!scan_char(args, ';') || !scan_action(args, &plan) ||
            (scan_char(args, ':') && !scan_thread(args, gdb, (int)gdb->g_cpu, &cpu)))
            return false;
        for (unsigned i = 0; i < gdb->vm->cpu_count; i++) {
            if (known[i] || (cpu >= 0 && (unsigned)cpu != i))
                continue;
            plans[i] = plan;
            known[i] = any = true;
        }
    }
    return any;
}

static void command_vCont(struct gdb *gdb, struct scan args)
{
    struct gdb_plan plans[MACHINE_MAX_CPUS] = {0};
    if (scan_char(&args, '?'))
        gdb_reply(gdb, "vCont;c;C;s;S;r");
    else if (scan_actions(gdb, &args, plans))
        gdb_resume(gdb, plans);
    else
        gdb_reply(gdb, MALFORMED);
}

static void command_D(struct gdb *gdb, struct scan args)
{
    (void)args;
    gdb_detach(gdb);
    gdb_reply(gdb, "OK");
}

static void command_k(struct gdb *gdb, struct scan args)
{
    (void)args;
    vm_quit(gdb->vm);
}

static void command_vKill(struct gdb *gdb, struct scan args)
{
    gdb_reply(gdb, "OK");
    command_k(gdb, args);
}

/* ---- long answers, options ---- */

static void query_supported(struct gdb *gdb, struct scan args)
{
    gdb->names_kinds = memmem(args.at, (size_t)(args.end - args.at), "swbreak+", 8) != NULL;
    gdb_put(gdb,
            "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;qXfer:threads:read+;"
            "vContSupported+%s",
            GDB_PACKET_MAX, gdb->names_kinds ? ";swbreak+;hwbreak+" : "");
}

/* offset,length of `text`: 'm' and a part, or 'l' and the last one. */
static void put_part(struct gdb *gdb, struct scan args, const char *text, size_t size)
{
    uint64_t offset, length;
    if (text == NULL || !scan_range(&args, &offset, &length) || !at_end(&args) || offset > size) {
        gdb_reply(gdb, MALFORMED);
        return;
    }
    size_t left = size - (size_t)offset;
    if (length > MEMORY_MAX)
        length = MEMORY_MAX; /* each byte may take two */
    bool last = length >= left;
    gdb_put(gdb, "%c", last ? 'l' : 'm');
    gdb_put_escaped(gdb, text + offset, last ? left : (size_t)length);
}

static void query_features(struct gdb *gdb, struct scan args)
{
    if (gdb->description == NULL)
        gdb->description = gdb_describe_target(gdb->vm->isa->debug, &gdb->description_size);
    put_part(gdb, args, gdb->description, gdb->description_size);
}

static void query_threads_xml(struct gdb *gdb, struct scan args)
{
    size_t size;
    char *text = gdb_describe_threads(gdb, &size);
    put_part(gdb, args, text, size);
    free(text);
}

static void query_attached(struct gdb *gdb, struct scan args)
{
    (void)args;
    gdb_reply(gdb, "1"); /* GDB detaches at its end, instead of killing us */
}

static void query_physical(struct gdb *gdb, struct scan args)
{
    (void)args;
    gdb_reply(gdb, gdb->physical ? "1" : "0");
}

static void set_physical(struct gdb *gdb, struct scan args)
{
    bool on = scan_char(&args, '1');
    bool good = (on || scan_char(&args, '0')) && at_end(&args);
    if (good)
        gdb->physical = on;
    gdb_reply(gdb, good ? "OK" : MALFORMED);
}

/* GDB's `monitor` command, in hex. */
static void query_monitor(struct gdb *gdb, struct scan args)
{
    static const char help[] =
        "monitor physical on|off: addresses are guest-physical, or virtual as the hart sees them\n";
    uint8_t text[32] = {0};
    size_t size = (size_t)(args.end - args.at) / 2;
    bool good = size < sizeof(text) && scan_bytes(&args, text, size) && at_end(&args);
    bool on = good && strcmp((const char *)text, "physical on") == 0;
    if (on || (good && strcmp((const char *)text, "physical off") == 0)) {
        gdb->physical = on;
        gdb_reply(gdb, "OK");
    } else {
        gdb_put_hex(gdb, help, sizeof(help) - 1);
    }
}

static void command_no_ack(struct gdb *gdb, struct scan args)
{
    (void)args;
    gdb->no_ack_next = true;
    gdb_reply(gdb, "OK");
}

/* ---- the table ---- */

/* What may stand behind a name. */
enum behind { ANYTHING, NOTHING };

static const struct command {
    const char *name;
    enum behind behind;
    command_fn *run;
} commands[] = {
    {"?", NOTHING, command_why},
    {"g", NOTHING, command_g},
    {"G", ANYTHING, command_G},
    {"p", ANYTHING, command_p},
    {"P", ANYTHING, command_P},
    {"m", ANYTHING, command_m},
    {"M", ANYTHING, command_M},
    {"X", ANYTHING, command_X},
    {"Z", ANYTHING, command_Z},
    {"z", ANYTHING, command_z},
    {"H", ANYTHING, command_H},
    {"T", ANYTHING, command_T},
    {"c", ANYTHING, command_c},
    {"C", ANYTHING, command_C},
    {"s", ANYTHING, command_s},
    {"S", ANYTHING, command_S},
    {"D", ANYTHING, command_D},
    {"k", NOTHING, command_k},
    {"vKill;", ANYTHING, command_vKill},
    {"vCont", ANYTHING, command_vCont},
    {"qSupported", ANYTHING, query_supported},
    {"QStartNoAckMode", NOTHING, command_no_ack},
    {"qXfer:features:read:target.xml:", ANYTHING, query_features},
    {"qXfer:threads:read::", ANYTHING, query_threads_xml},
    {"qC", NOTHING, query_current_thread},
    {"qfThreadInfo", NOTHING, query_threads},
    {"qsThreadInfo", NOTHING, query_more_threads},
    {"qThreadExtraInfo,", ANYTHING, query_thread_info},
    {"qAttached", ANYTHING, query_attached},
    {"qRcmd,", ANYTHING, query_monitor},
    /* As QEMU's stub has it: scripts for that one work here. */
    {"qqemu.PhyMemMode", NOTHING, query_physical},
    {"Qqemu.PhyMemMode:", ANYTHING, set_physical},
};

void gdb_command(struct gdb *gdb)
{
    const struct scan whole = {gdb->packet, gdb->packet + gdb->packet_size};
    if (!gdb->stopped) {
        gdb_reply(gdb, RUNNING);
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        struct scan args = whole;
        if (scan_text(&args, commands[i].name) &&
            (commands[i].behind == ANYTHING || at_end(&args))) {
            commands[i].run(gdb, args);
            return;
        }
    }
    gdb_reply(gdb, "");
}
