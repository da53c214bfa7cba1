/* SPDX-License-Identifier: MIT
 *
 * Whole machines in lockstep: the same guest on two machines of this process, one interpreted
 * and one translated. In every step both run the same number of instructions, after which all
 * architectural state of the hart must be equal; all memory must be now and then.
 *
 *     machines [-s SEED] [-q MILLIONS] [-m blocks|mixed] CPUS[aia]:GUEST.elf | linux:CPUS:FOLDER
 * ...
 *
 * The quick tier ends after so many millions of instructions, if that is given. Steps are blocks
 * (each translation of a block by itself) or of any length (blocks linked to each other and loops
 * as regions, cut off anywhere). Both machines are deterministic, and the production code drives
 * them: only run() of their engine is ours. The interpreted machine goes ahead and leaves a log of
 * steps with hashes, which the other one follows. When they part, both run again up to the step
 * where they do, and once more with ever shorter last steps; then guest and host code are shown.
 */
#include "support.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/loop.h"
#include "config/machine.h"
#include "engine/dbt/dbt.h"
#include "engine/interp/blocks.h"
#include "engine/interp/interp.h"
#include "vm/machine.h"

#define RING         (1u << 16) /* steps */
#define MEMORY_EVERY 100000     /* instructions between two looks at memory; 0 in the ring: none */
#define STEP_MAX     600
#define REGION_HEAT  3      /* turns */
#define PROMPT       "~ # " /* of the tiny image's shell */
#define CONSOLE_MAX  (1u << 17)

struct step {
    uint64_t count;  /* instructions wanted; the last step: 0 */
    uint64_t state;  /* hash behind them */
    uint64_t memory; /* hash, if it was looked at */
    unsigned vcpu, exit;
    bool looked, last;
};

struct guest {
    const char *path; /* of an ELF, or of a folder with Image and initrd */
    bool is_linux, aia;
    unsigned cpus;
    bool blocks;
    uint64_t seed, limit; /* instructions */
};

struct pair;
struct side {
    struct pair *pair;
    struct vm *vm;
    struct engine engine; /* run() is ours */
    struct machine_config config;
    struct vm_env env;
    struct char_backend console;
    struct log log;
    char *text; /* that the console got */
    size_t text_size;
    bool has_booted;
    uint64_t *page_hash, *dirty; /* of each page; bitmap */
    uint64_t memory, done, steps, next_look;
    uint64_t before_pc; /* of the last step */
    enum vm_end end;
    uint32_t code;
    _Atomic bool ended;
};

enum { INTERP, DBT, SIDES };

struct pair {
    const struct guest *guest;
    struct loop *loop;
    struct side sides[SIDES];
    struct blocks blocks; /* where the interpreted machine's blocks end */
    uint64_t seed;
    const char *trace;

    struct step *ring;
    _Atomic uint64_t put, taken;
    _Atomic unsigned stopped; /* sides that will not go on */
    _Atomic bool parted;
    uint64_t last; /* stop behind this step, of `cut` instructions at most; UINT64_MAX: none */
    uint64_t cut;
    struct step wanted, got; /* where they parted */
};

/* ---- hashes ---- */

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * UINT64_C(0x9fb21c651e98df25);
    return hash ^ hash >> 28;
}

/* `size`: a multiple of 8. */
static uint64_t hash_words(uint64_t hash, const void *data, size_t size)
{
    const char *at = data;
    uint64_t lanes[4] = {hash, 1, 2, 3}, word;
    for (size_t i = 0; i < size / 8; i++) {
        memcpy(&word, at + 8 * i, 8);
        lanes[i & 3] = mix(lanes[i & 3], word);
    }
    return mix(mix(lanes[0], lanes[1]), mix(lanes[2], lanes[3]));
}

#define HASH_BETWEEN(hash, hart, first, behind)                                                    \
    hash_words(hash, &(hart)->first,                                                               \
               offsetof(struct rv_hart, behind) - offsetof(struct rv_hart, first))

static uint64_t hash_state(const struct rv_hart *hart)
{
    uint64_t hash = mix(hart->vcpu.retired, hart->fflags | hart->frm << 8 | hart->privilege << 16);
    hash = hash_words(hash, hart->x, 32 * sizeof(hart->x[0]));
    hash = HASH_BETWEEN(hash, hart, pc, fflags);
    if (hart->reservation_size != 0)
        hash = HASH_BETWEEN(mix(hash, hart->reservation_size), hart, reservation_gpa,
                            reservation_size);
    hash = HASH_BETWEEN(hash, hart, mstatus, pmpcfg);
    return HASH_BETWEEN(hash, hart, pmpcfg, sbi_calls);
}

static uint64_t hash_page(const struct side *side, uint64_t page)
{
    return hash_words(page, side->vm->ram->host + page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
}

/* Of all memory, from what has changed since the last time. */
static uint64_t hash_memory(struct side *side)
{
    struct mem_ram *ram = side->vm->ram;
    mem_dirty_take(side->vm->mem, ram, ram->gpa, ram->size, side->dirty);
    for (uint64_t word = 0; word < ram->size / MEM_PAGE_SIZE / 64; word++)
        for (uint64_t bits = side->dirty[word]; bits != 0; bits &= bits - 1) {
            uint64_t page = 64 * word + (unsigned)__builtin_ctzll(bits);
            uint64_t hash = hash_page(side, page);
            side->memory ^= side->page_hash[page] ^ hash;
            side->page_hash[page] = hash;
        }
    return side->memory;
}

/* ---- steps ---- */

static void nap(void)
{
    const struct timespec moment = {.tv_nsec = 50000};
    nanosleep(&moment, NULL);
}

/* This side stands still from now on: run() does nothing any more. */
static void stop(struct pair *pair)
{
    if (atomic_fetch_add(&pair->stopped, 1) + 1 >= SIDES || atomic_load(&pair->parted))
        loop_quit(pair->loop, 0);
}

/* Exactly `count` instructions, or what must be left for. */
static enum vcpu_exit run_exactly(struct vcpu *vcpu, uint64_t count)
{
    uint64_t end = vcpu->retired + count;
    for (;;) {
        enum vcpu_exit exit = vcpu->engine->run(vcpu, end - vcpu->retired);
        if (vcpu->retired == end || (exit != VCPU_EXIT_KICK && exit != VCPU_EXIT_BUDGET))
            return exit == VCPU_EXIT_KICK ? VCPU_EXIT_BUDGET : exit;
    }
}

static void make_step(struct side *side, struct vcpu *vcpu, struct step *step)
{
    uint64_t before = vcpu->retired, count = step->count;
    side->before_pc = rv_hart_of(vcpu)->pc;
    if (side->steps == side->pair->last && count > side->pair->cut)
        count = side->pair->cut;
    step->vcpu = vcpu->index;
    step->exit = (unsigned)run_exactly(vcpu, count);
    step->state = hash_state(rv_hart_of(vcpu));
    side->done += vcpu->retired - before;
    step->looked = side->done >= side->next_look || side->steps == side->pair->last;
    step->memory = step->looked ? hash_memory(side) : 0;
    if (step->looked)
        side->next_look = side->done + MEMORY_EVERY;
    side->steps++;
}

static bool is_last(const struct side *side)
{
    const struct pair *pair = side->pair;
    return side->steps > pair->last || side->done >= pair->guest->limit || side->has_booted;
}

/* The interpreted machine: decides how far to go. False: stop. */
static bool lead(struct side *side, struct vcpu *vcpu, uint64_t budget, enum vcpu_exit *exit)
{
    struct pair *pair = side->pair;
    struct rv_hart *hart = rv_hart_of(vcpu);
    uint64_t put = atomic_load_explicit(&pair->put, memory_order_relaxed);
    while (put - atomic_load_explicit(&pair->taken, memory_order_acquire) == RING) {
        if (atomic_load(&pair->parted))
            return false;
        nap();
    }
    struct step *step = &pair->ring[put % RING];
    /* What run() will begin with, so that a block is found where it will. */
    rv_obey_attention(hart);
    rv_take_interrupt(hart);
    if (pair->guest->blocks) {
        const struct block *block = blocks_find(&pair->blocks, hart);
        step->count = block ? block->count : 1;
    } else {
        step->count = 1 + random_next(&pair->seed) % STEP_MAX;
    }
    if (step->count > budget)
        step->count = budget;
    make_step(side, vcpu, step);
    *exit = (enum vcpu_exit)step->exit;
    step->last = is_last(side);
    bool go_on = !step->last;
    atomic_store_explicit(&pair->put, put + 1, memory_order_release);
    return go_on;
}

static bool follow(struct side *side, struct vcpu *vcpu, enum vcpu_exit *exit)
{
    struct pair *pair = side->pair;
    uint64_t taken = atomic_load_explicit(&pair->taken, memory_order_relaxed);
    while (taken == atomic_load_explicit(&pair->put, memory_order_acquire)) {
        if (atomic_load(&pair->sides[INTERP].ended) && taken == atomic_load(&pair->put)) {
            atomic_store(&pair->parted, true);
            return false;
        }
        nap();
    }
    struct step wanted = pair->ring[taken % RING], got = {.count = wanted.count};
    rv_obey_attention(rv_hart_of(vcpu));
    rv_take_interrupt(rv_hart_of(vcpu));
    make_step(side, vcpu, &got);
    *exit = (enum vcpu_exit)got.exit;
    atomic_store_explicit(&pair->taken, taken + 1, memory_order_release);
    if (got.vcpu == wanted.vcpu && got.exit == wanted.exit && got.state == wanted.state &&
        got.memory == wanted.memory)
        return !wanted.last;
    pair->wanted = wanted;
    pair->got = got;
    atomic_store(&pair->parted, true);
    return false;
}

static struct side *side_of(struct vcpu *vcpu)
{
    const struct vm_cpu *cpu = vcpu->owner;
    return cpu->vm->env.opaque;
}

static enum vcpu_exit run(struct vcpu *vcpu, uint64_t budget)
{
    struct side *side = side_of(vcpu);
    uint64_t end = vcpu->retired + budget;
    enum vcpu_exit exit = VCPU_EXIT_BUDGET;
    if (side->steps == UINT64_MAX) { /* stopped: until the loop's thread holds the machine */
        nap();
        return VCPU_EXIT_KICK;
    }
    while (vcpu->retired < end && exit == VCPU_EXIT_BUDGET) {
        bool go_on = side == &side->pair->sides[INTERP]
                         ? lead(side, vcpu, end - vcpu->retired, &exit)
                         : follow(side, vcpu, &exit);
        if (!go_on) {
            side->steps = UINT64_MAX;
            stop(side->pair);
            return VCPU_EXIT_KICK;
        }
    }
    return exit;
}

/* ---- machines ---- */

static bool says(const struct side *side, const char *what)
{
    return memmem(side->text, side->text_size, what, strlen(what)) != NULL;
}

static void console_write(struct char_backend *backend, const uint8_t *data, size_t size)
{
    struct side *side = CONTAINER_OF(backend, struct side, console);
    if (size > CONSOLE_MAX - side->text_size)
        size = CONSOLE_MAX - side->text_size;
    memcpy(side->text + side->text_size, data, size);
    side->text_size += size;
    side->has_booted = side->has_booted || says(side, PROMPT);
}

static void on_end(void *opaque, enum vm_end end, uint32_t code)
{
    struct side *side = opaque;
    if (end == VM_END_QUIT)
        return;
    side->end = end;
    side->code = code;
    atomic_store(&side->ended, true);
    stop(side->pair);
}

static char *in_folder(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return alloc_string(path);
}

static void configure(struct side *side, const struct guest *guest, bool translated)
{
    struct machine_config *config = &side->config;
    machine_config_init(config);
    free(config->engine);
    config->engine = alloc_string(translated ? "dbt" : "interp");
    config->deterministic = true;
    config->seed = guest->seed;
    config->cpus = guest->cpus;
    config->memory = (guest->is_linux ? 128 : 32) * MIB;
    if (guest->is_linux) {
        config->kernel = in_folder(guest->path, "Image");
        config->initrd = in_folder(guest->path, "initrd");
        config->append = alloc_string("console=ttyS0 earlycon=sbi");
    } else {
        config->firmware = alloc_string(guest->path);
    }
    if (guest->aia) {
        free(config->interrupts);
        config->interrupts = alloc_string("aia");
    }
    if (translated && side->pair->trace)
        config->trace = alloc_string(side->pair->trace);
}

static void open_side(struct pair *pair, unsigned index)
{
    struct side *side = &pair->sides[index];
    struct error *err = NULL;
    side->pair = pair;
    side->console.write = console_write;
    side->text = alloc_zeroed(1, CONSOLE_MAX);
    log_init(&side->log, LOG_LEVEL_ERROR, -1, "");
    configure(side, pair->guest, index == DBT);
    side->env = (struct vm_env){.loop = pair->loop,
                                .log = &side->log,
                                .console = &side->console,
                                .on_end = on_end,
                                .opaque = side};
    side->vm = vm_new(&side->config, &side->env, &err);
    if (!side->vm) {
        printf("Bail out! %s\n", error_message(err));
        exit(1);
    }
    side->engine = *side->vm->engine;
    side->engine.run = run;
    side->vm->engine = &side->engine;
    for (unsigned i = 0; index == DBT && i < side->vm->cpu_count; i++) {
        dbt_set_hot(side->vm->vcpus[i], 1);
        dbt_set_region_heat(side->vm->vcpus[i], pair->guest->blocks ? 0 : REGION_HEAT);
    }
    uint64_t pages = side->vm->ram->size / MEM_PAGE_SIZE;
    side->page_hash = alloc_zeroed((size_t)pages, sizeof(uint64_t));
    side->dirty = alloc_zeroed((size_t)pages / 64, sizeof(uint64_t));
}

static void close_side(struct side *side)
{
    vm_free(side->vm);
    machine_config_clear(&side->config);
    free(side->text);
    free(side->page_hash);
    free(side->dirty);
}

/* Runs both up to their end, the limit, or behind step `last`. */
static void open_pair(struct pair *pair, const struct guest *guest, uint64_t last, uint64_t cut,
                      const char *trace)
{
    struct error *err = NULL;
    *pair = (struct pair){
        .guest = guest, .seed = guest->seed, .trace = trace, .last = last, .cut = cut};
    pair->loop = loop_new(&err);
    assert_no_error(err);
    blocks_init(&pair->blocks, &err);
    assert_no_error(err);
    pair->ring = alloc_zeroed(RING, sizeof(*pair->ring));
    for (unsigned i = 0; i < SIDES; i++)
        open_side(pair, i);
    for (unsigned i = 0; i < SIDES; i++) {
        vm_start(pair->sides[i].vm, &err);
        assert_no_error(err);
    }
    loop_run(pair->loop);
    for (unsigned i = 0; i < SIDES; i++)
        vm_quit(pair->sides[i].vm);
}

static void close_pair(struct pair *pair)
{
    for (unsigned i = 0; i < SIDES; i++)
        close_side(&pair->sides[i]);
    loop_free(pair->loop);
    blocks_destroy(&pair->blocks);
    free(pair->ring);
}

/* ---- where they part ---- */

static bool parts(const struct guest *guest, uint64_t last, uint64_t cut)
{
    struct pair *pair = alloc_zeroed(1, sizeof(*pair));
    open_pair(pair, guest, last, cut, NULL);
    bool parted = atomic_load(&pair->parted);
    close_pair(pair);
    free(pair);
    return parted;
}

static void show_guest_code(const struct pair *pair, uint64_t count)
{
    struct vcpu *vcpu = pair->sides[INTERP].vm->vcpus[pair->got.vcpu];
    uint64_t pc = pair->sides[INTERP].before_pc;
    printf("# guest code from %" PRIx64 " (%" PRIu64 " instructions ran):\n", pc, count);
    for (unsigned i = 0; i < count && i < 64; i++) {
        char text[128];
        uint8_t code[4];
        uint64_t gpa;
        if (!vcpu->isa->translate(vcpu, pc, &gpa) || !mem_read(vcpu->mem, gpa, code, 2))
            return;
        uint64_t second = gpa + 2;
        if ((code[0] & 3) == 3 && (!vcpu->isa->translate(vcpu, pc + 2, &second) ||
                                   !mem_read(vcpu->mem, second, code + 2, 2)))
            return;
        unsigned length = vcpu->isa->disassemble(code, 4, pc, text, sizeof(text));
        printf("#   %" PRIx64 "  %s\n", pc, text);
        pc += length;
    }
}

/* The trace says where translations are; the last of this address is the one. */
static void show_host_code(const struct pair *pair, const char *trace)
{
    char line[512], where[64], command[256];
    unsigned long long at = 0, size = 0;
    FILE *file = fopen(trace, "r");
    snprintf(where, sizeof(where), " pc=%" PRIx64 " ", pair->sides[DBT].before_pc);
    while (file && fgets(line, sizeof(line), file)) {
        const char *code = strstr(line, where) ? strstr(line, " code=0x") : NULL;
        if (code)
            sscanf(code, " code=%llx code-bytes=%llu", &at, &size);
    }
    if (file)
        fclose(file);
    if (size == 0) {
        printf("# no translation begins there\n");
        return;
    }
    FILE *out = fopen(trace, "w");
    fwrite((const void *)(uintptr_t)at, 1, (size_t)size, out);
    fclose(out);
    printf("# host code:\n");
    fflush(stdout);
    snprintf(command, sizeof(command),
             "objdump -D -b binary -m i386:x86-64 -M intel --adjust-vma=%#llx %s | "
             "sed 's/^/# /; 1,7d'",
             at, trace);
    if (system(command) != 0)
        printf("# (objdump is not there)\n");
}

static void show_memory(const struct pair *pair)
{
    const struct mem_ram *a = pair->sides[INTERP].vm->ram, *b = pair->sides[DBT].vm->ram;
    unsigned shown = 0;
    for (uint64_t at = 0; at < a->size && shown < 8; at += 8)
        if (memcmp(a->host + at, b->host + at, 8) != 0) {
            printf("# memory at %" PRIx64 ": %016" PRIx64 " %016" PRIx64 "\n", a->gpa + at,
                   load_le64(a->host + at), load_le64(b->host + at));
            shown++;
        }
}

/* The interpreter's, and what the translator's differ in. */
static void show_registers(const struct pair *pair)
{
    char texts[SIDES][8192], *rest[SIDES];
    for (unsigned i = 0; i < SIDES; i++) {
        struct vcpu *vcpu = pair->sides[i].vm->vcpus[pair->got.vcpu];
        vcpu->isa->dump(vcpu, texts[i], sizeof(texts[i]));
        rest[i] = texts[i];
    }
    for (;;) {
        char *right = strsep(&rest[INTERP], "\n"), *wrong = strsep(&rest[DBT], "\n");
        if (!right || !wrong)
            return;
        printf("#          %s\n", right);
        if (strcmp(right, wrong) != 0)
            printf("#  dbt has %s\n", wrong);
    }
}

static void show(const struct pair *pair, const char *trace)
{
    uint64_t count = pair->cut < pair->got.count ? pair->cut : pair->got.count;
    printf("# vcpus %u %u, exits %u %u, state %s, memory %s\n", pair->wanted.vcpu, pair->got.vcpu,
           pair->wanted.exit, pair->got.exit,
           pair->wanted.state == pair->got.state ? "equal" : "differs",
           pair->wanted.memory == pair->got.memory ? "equal" : "differs");
    show_guest_code(pair, count);
    show_registers(pair);
    show_memory(pair);
    show_host_code(pair, trace);
}

/* Memory was only looked at now and then: of these steps, the first behind which it differs. */
static uint64_t first_step(const struct guest *guest, uint64_t last)
{
    uint64_t low = last > 2 * MEMORY_EVERY ? last - 2 * MEMORY_EVERY : 0, high = last;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (parts(guest, middle, UINT64_MAX))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void explain(const struct guest *guest, uint64_t last)
{
    char trace[] = "/tmp/trapeze-lockstep-XXXXXX", spec[64];
    int fd = mkstemp(trace);
    snprintf(spec, sizeof(spec), "blocks:%s", trace);
    last = first_step(guest, last);
    /* A part of a block is never translated. */
    uint64_t low = guest->blocks ? STEP_MAX : 1, high = STEP_MAX;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (parts(guest, last, middle))
            high = middle;
        else
            low = middle + 1;
    }
    struct pair *pair = alloc_zeroed(1, sizeof(*pair));
    open_pair(pair, guest, last, low, spec);
    printf("# they part in step %" PRIu64 ", and with its first %" PRIu64 " instructions alone:\n",
           last, low < pair->got.count ? low : pair->got.count);
    if (atomic_load(&pair->parted))
        show(pair, trace);
    else
        printf("# ... and did not part when they ran once more\n");
    close_pair(pair);
    free(pair);
    unlink(trace);
    close(fd);
}

/* ---- guests ---- */

/* Whether both came as far as they should, in the same way. */
static bool is_good(const struct pair *pair, const struct guest *guest)
{
    const struct side *a = &pair->sides[INTERP], *b = &pair->sides[DBT];
    if (atomic_load(&pair->parted)) {
        printf("# %s differs in step %" PRIu64 "\n",
               pair->wanted.state == pair->got.state ? "memory" : "state",
               atomic_load(&pair->taken) - 1);
        return false;
    }
    if (a->done != b->done || a->text_size != b->text_size ||
        memcmp(a->text, b->text, a->text_size) != 0) {
        printf("# the consoles differ\n");
        return false;
    }
    if (guest->is_linux)
        return says(a, "Linux version") && (a->has_booted || a->done >= guest->limit);
    if (a->done >= guest->limit)
        return true;
    return a->end == b->end && a->code == 0 && b->code == 0 && says(a, "PASS ");
}

static bool run_guest(const struct guest *guest, unsigned number)
{
    struct pair *pair = alloc_zeroed(1, sizeof(*pair));
    open_pair(pair, guest, UINT64_MAX, UINT64_MAX, NULL);
    bool good = is_good(pair, guest), parted = atomic_load(&pair->parted);
    uint64_t last = atomic_load(&pair->taken) - 1, regions = 0;
    for (unsigned i = 0; i < guest->cpus; i++)
        regions += dbt_region_count(pair->sides[DBT].vm->vcpus[i]);
    if (good && guest->is_linux && !guest->blocks && regions < 20) {
        printf("# only %" PRIu64 " loops became regions\n", regions);
        good = false;
    }
    printf("%s %u - %s with %u harts, steps are %s: %" PRIu64 " steps, %" PRIu64
           " instructions%s\n",
           good ? "ok" : "not ok", number, strrchr(guest->path, '/') + 1, guest->cpus,
           guest->blocks ? "blocks" : "of any length", last + 1, pair->sides[INTERP].done,
           pair->sides[INTERP].has_booted ? ", to the shell" : "");
    fflush(stdout);
    close_pair(pair);
    free(pair);
    if (parted)
        explain(guest, last);
    return good;
}

static void usage(void)
{
    fputs("usage: machines [-s SEED] [-q MILLIONS] [-m blocks|mixed] "
          "CPUS[aia]:GUEST.elf | linux:CPUS:FOLDER ...\n",
          stderr);
    exit(120);
}

int main(int count, char **arguments)
{
    struct guest guest = {.seed = 1};
    unsigned long millions = 100000;
    const char *only = "";
    for (int option; (option = getopt(count, arguments, "s:q:m:")) != -1;) {
        if (option == 's')
            guest.seed = strtoull(optarg, NULL, 0);
        else if (option == 'q')
            millions = tier_count(strtoul(optarg, NULL, 0), millions);
        else if (option == 'm')
            only = optarg;
        else
            usage();
    }
    unsigned number = 0, failed = 0;
    guest.limit = UINT64_C(1000000) * millions;
    for (int i = optind; i < count; i++) {
        char *rest;
        const char *text = arguments[i];
        guest.is_linux = strncmp(text, "linux:", 6) == 0;
        guest.cpus = (unsigned)strtoul(guest.is_linux ? text + 6 : text, &rest, 10);
        guest.aia = strncmp(rest, "aia", 3) == 0;
        rest += guest.aia ? 3 : 0;
        if (*rest != ':' || strchr(rest, '/') == NULL)
            usage();
        guest.path = rest + 1;
        for (unsigned way = 0; way < 2; way++) {
            guest.blocks = way == 0;
            if (strcmp(only, way == 0 ? "mixed" : "blocks") != 0)
                failed += !run_guest(&guest, ++number);
        }
    }
    printf("1..%u\n", number);
    return failed != 0;
}
