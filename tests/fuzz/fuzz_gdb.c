/* SPDX-License-Identifier: MIT
 *
 * The GDB server (vm/gdb/) against any client.
 *
 * Input: what the client sends. The machine is real but never started, so that nothing runs
 * beside us when the client lets it go. Checked: every answer is a well-formed packet; when the
 * client is gone the machine is held by nobody but itself and nothing is watched.
 */
#include "fuzz.h"

#include "boot_files.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "vm/gdb/internal.h"
#include "vm/virt/virt.h"

struct world {
    struct log log;
    struct vm_env env;
    struct vm *vm;
    struct gdb gdb;
};

static void on_end(void *opaque, enum vm_end end, uint32_t code)
{
    (void)opaque, (void)end, (void)code;
}

static void world_open(struct world *world)
{
    struct machine_config config;
    struct boot_bytes elf;
    struct error *err = NULL;
    char path[32];
    make_elf(&elf, "", 0);
    int fd = put_file(elf.data, elf.size, path);
    log_init(&world->log, LOG_LEVEL_ERROR, -1, "");
    machine_config_init(&config);
    config.memory = 32 * MIB;
    config.cpus = 3;
    config.firmware = strdup(path);
    world->env = (struct vm_env){.loop = loop_new(&err), .log = &world->log, .on_end = on_end};
    world->vm = vm_new(&config, &world->env, &err);
    fuzz_check(fd >= 0 && world->vm != NULL);
    machine_config_clear(&config);
    close(fd);
    world->gdb = (struct gdb){.vm = world->vm, .listen_fd = -1, .fd = -1, .c_cpu = -1};
}

static void world_close(struct world *world)
{
    for (unsigned i = 0; i < world->vm->cpu_count; i++)
        world->vm->isa->debug->detach(world->gdb.debug[i]);
    free(world->gdb.description);
    free(world->gdb.out);
    vm_free(world->vm);
    loop_free(world->env.loop);
    world->vm = NULL;
}

static void check_answers(const uint8_t *out, size_t size)
{
    size_t at = 0;
    while (at < size) {
        if (out[at] == '+' || out[at] == '-') {
            at++;
            continue;
        }
        uint8_t sum = 0;
        char digits[3];
        fuzz_check(out[at++] == '$');
        for (; at < size && out[at] != '#'; at++) {
            fuzz_check(out[at] != '$');
            sum = (uint8_t)(sum + out[at]);
        }
        fuzz_check(size - at >= 3);
        snprintf(digits, sizeof(digits), "%02x", sum);
        fuzz_check(memcmp(out + at + 1, digits, 2) == 0);
        at += 3;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    if (world.vm != NULL && vm_state(world.vm) != VM_CREATED) /* the client has killed it */
        world_close(&world);
    if (world.vm == NULL)
        world_open(&world);
    struct gdb *gdb = &world.gdb;
    gdb_packet_reset(gdb);
    gdb_attach(gdb);
    fuzz_check(gdb->stopped && gdb->points.count == 0);
    gdb_receive(gdb, data, size);
    check_answers(gdb->out, gdb->out_size);
    fuzz_check(gdb->points.count <= VCPU_POINTS_MAX);
    gdb_detach(gdb);
    bool killed = vm_state(world.vm) != VM_CREATED;
    fuzz_check(atomic_load(&world.vm->holds) == (killed ? 2 : 1));
    fuzz_check(world.vm->clock_stops == 1);
    for (unsigned i = 0; i < world.vm->cpu_count; i++)
        fuzz_check(world.vm->vcpus[i]->debug == NULL && !world.vm->cpus[i].held_back);
    return 0;
}

/* Numbers that lie at edges: of memory, of a page, of the type; small ones for all the rest. */
static uint64_t number(uint64_t *seed)
{
    static const uint64_t bases[] = {0,
                                     0,
                                     0,
                                     8,
                                     32,
                                     65,
                                     65 + 4096,
                                     VIRT_RAM_GPA,
                                     VIRT_RAM_GPA + 4096,
                                     VIRT_RAM_GPA + 32 * MIB,
                                     GDB_PACKET_MAX / 2,
                                     GDB_PACKET_MAX,
                                     UINT64_C(1) << 32,
                                     UINT64_MAX};
    uint64_t random = fuzz_random(seed);
    return bases[random % ARRAY_SIZE(bases)] + (random >> 8) % 9 - (random >> 16 & 1 ? 4 : 0);
}

/* '@' becomes a number, '%' some bytes in hex, '*' bytes as they are. The last two end it. */
/* clang-format off */
static const char *const templates[] = {
    "?", "g", "G%", "p@", "P@=%", "m@,@", "M@,@:%", "X@,@:*", "Z0,@,4", "Z1,@,2", "Z2,@,@",
    "Z3,@,8", "Z4,@,@", "z0,@,4", "z2,@,@", "z4,@,@", "Hg@", "Hc@", "Hg-1", "Hc-1", "T@", "c",
    "s", "C05", "S05", "c@", "D", "vCont?", "vCont;c", "vCont;s:@;c", "vCont;c:@", "vCont;s:-1",
    "vCont;r@,@:@;c", "vCont;C05:@;S05", "qSupported:swbreak+;hwbreak+", "QStartNoAckMode",
    "qXfer:features:read:target.xml:@,@", "qXfer:threads:read::@,@", "qC", "qfThreadInfo",
    "qsThreadInfo", "qThreadExtraInfo,@", "qAttached", "qRcmd,%", "qRcmd,706879736963616c206f6e",
    "qqemu.PhyMemMode", "Qqemu.PhyMemMode:1", "Qqemu.PhyMemMode:@", "*", "vKill;1", "k"};
/* clang-format on */

static size_t expand(uint64_t *seed, const char *from, uint8_t *to)
{
    size_t size = 0;
    for (; *from != '\0'; from++) {
        uint64_t random = fuzz_random(seed), count = random >> 8 & 31;
        if (*from == '@') {
            size += (size_t)sprintf((char *)to + size, "%llx", (unsigned long long)number(seed));
        } else if (*from == '%') {
            for (uint64_t i = 0; i < count; i++)
                size +=
                    (size_t)sprintf((char *)to + size, "%02x", (unsigned)fuzz_random(seed) & 0xff);
        } else if (*from == '*') {
            for (uint64_t i = 0; i < count; i++)
                to[size++] = (uint8_t)fuzz_random(seed);
        } else {
            to[size++] = (uint8_t)*from;
        }
    }
    return size;
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    size_t size = 0;
    for (uint64_t packets = 1 + fuzz_random(seed) % 16; packets > 0; packets--) {
        uint8_t contents[512], sum = 0;
        uint64_t random = fuzz_random(seed);
        bool usual = random % 64 < 60; /* the end of a session at once teaches little */
        size_t which = (random >> 8) % (ARRAY_SIZE(templates) - (usual ? 2 : 0));
        size_t length = expand(seed, templates[which], contents);
        if (FUZZ_INPUT_MAX - size < 2 * length + 5)
            break;
        data[size++] = '$';
        for (size_t i = 0; i < length; i++) {
            uint8_t byte = contents[i];
            if (byte == '#' || byte == '$' || byte == '}') {
                data[size++] = '}';
                sum = (uint8_t)(sum + '}');
                byte ^= 0x20;
            }
            data[size++] = byte;
            sum = (uint8_t)(sum + byte);
        }
        if ((random >> 40) % 32 == 0)
            sum++;
        size += (size_t)sprintf((char *)data + size, "#%02x", sum);
        if ((random >> 32) % 4 == 0)
            data[size++] = (random >> 36) % 4 == 0 ? '-' : 3;
    }
    return size;
}
