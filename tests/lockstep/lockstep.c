/* SPDX-License-Identifier: MIT
 *
 * Random programs on our hart and under qemu-riscv64 must leave the same registers, flags and
 * memory behind (see README.md). Prints TAP, one case per batch of programs.
 *
 *     lockstep [-e ENGINE] [FIRST-SEED [BATCHES]]
 *
 * A difference is narrowed down by running every prefix of the program on both sides; the
 * first prefix that differs ends in the instruction to look at.
 */
#include "support.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "hart.h"
#include "image.h"

#define BATCH 128

struct lockstep {
    struct test_hart ours;
    struct generator *generator;
    struct image *image;
    struct image_result *our_results, *their_results;
    char folder[64];
    unsigned long batch;
};

/* ---- the two sides ---- */

/* True if the guest asked for `number` next. */
static bool run_to_call(struct lockstep *lockstep, uint64_t number)
{
    struct rv_hart *hart = lockstep->ours.hart;
    enum vcpu_exit exit = test_hart_run(&lockstep->ours, UINT64_MAX);
    if (exit == VCPU_EXIT_ECALL && hart->x[17] == number)
        return true;
    char text[4096];
    isa_riscv64.dump(&hart->vcpu, text, sizeof(text));
    printf("# our hart left with exit %d instead of system call %" PRIu64 "\n# %s\n", (int)exit,
           number, text);
    return false;
}

static bool run_ours(struct lockstep *lockstep)
{
    const struct image *image = lockstep->image;
    struct rv_hart *hart = lockstep->ours.hart;
    memcpy(test_hart_at(&lockstep->ours, IMAGE_CODE), image->code, image->code_size);
    memcpy(test_hart_at(&lockstep->ours, IMAGE_DATA), image->data, image->data_size);
    const struct engine_options options = {
        .host_features = test_host_features[lockstep->batch % ARRAY_SIZE(test_host_features)],
    };
    if (hart->vcpu.engine == &engine_dbt) {
        test_hart_use_engine(&lockstep->ours, &engine_dbt, &options);
        dbt_set_hot(&hart->vcpu, 1); /* every program runs once */
    }
    isa_riscv64.vcpu_reset(&hart->vcpu);
    rv_enter_supervisor(hart, IMAGE_CODE, 0, 0);
    hart->sbi_calls = true; /* an ecall leaves run() */
    hart->mstatus |= RV_MSTATUS_FS;
    rv_mode_changed(hart);
    if (!run_to_call(lockstep, IMAGE_SYS_WRITE))
        return false;
    size_t size = image->programs * sizeof(struct image_result);
    assert(hart->x[11] == image->results && hart->x[12] == size);
    memcpy(lockstep->our_results, test_hart_at(&lockstep->ours, hart->x[11]), size);
    return run_to_call(lockstep, IMAGE_SYS_EXIT);
}

static bool run_theirs(struct lockstep *lockstep)
{
    char elf[80], output[80];
    snprintf(elf, sizeof(elf), "%s/programs", lockstep->folder);
    snprintf(output, sizeof(output), "%s/results", lockstep->folder);
    if (!image_write_elf(lockstep->image, elf)) {
        printf("# cannot write %s\n", elf);
        return false;
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(output, O_CREAT | O_TRUNC | O_WRONLY, 0600);
        if (fd < 0 || dup2(fd, 1) < 0)
            _exit(126);
        execlp("qemu-riscv64", "qemu-riscv64", "-cpu", "rv64,zba=true,zbb=true,zbs=true", elf,
               (char *)NULL);
        _exit(127);
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        printf("# qemu-riscv64 (package qemu-user) ended with status 0x%x\n", status);
        return false;
    }
    size_t size = lockstep->image->programs * sizeof(struct image_result);
    FILE *file = fopen(output, "rb");
    bool read = file && fread(lockstep->their_results, size, 1, file) == 1;
    if (file)
        fclose(file);
    if (!read)
        printf("# qemu-riscv64 wrote less than %zu bytes\n", size);
    return read;
}

static bool run_both(struct lockstep *lockstep, const struct program *const *programs,
                     const unsigned *counts, size_t count)
{
    image_build(lockstep->image, programs, counts, count);
    return run_ours(lockstep) && run_theirs(lockstep);
}

/* ---- a difference ---- */

static bool same(const struct lockstep *lockstep, size_t i)
{
    return memcmp(&lockstep->our_results[i], &lockstep->their_results[i],
                  sizeof(struct image_result)) == 0;
}

static void print_difference(const struct image_result *ours, const struct image_result *theirs)
{
    for (unsigned i = 0; i < 32; i++) {
        if (ours->end.x[i] != theirs->end.x[i])
            printf("#   x%u: ours %016" PRIx64 ", theirs %016" PRIx64 "\n", i, ours->end.x[i],
                   theirs->end.x[i]);
        if (ours->end.f[i] != theirs->end.f[i])
            printf("#   f%u: ours %016" PRIx64 ", theirs %016" PRIx64 "\n", i, ours->end.f[i],
                   theirs->end.f[i]);
    }
    if (ours->end.fcsr != theirs->end.fcsr)
        printf("#   fcsr: ours %02" PRIx64 ", theirs %02" PRIx64 "\n", ours->end.fcsr,
               theirs->end.fcsr);
    for (unsigned i = 0; i < SCRATCH_SIZE; i++)
        if (ours->scratch[i] != theirs->scratch[i])
            printf("#   scratch[%u]: ours %02x, theirs %02x\n", i, ours->scratch[i],
                   theirs->scratch[i]);
}

static void print_item(const struct lockstep *lockstep, const struct item *item)
{
    for (unsigned i = 0; i < item->count; i++) {
        struct rv_insn insn;
        char text[128];
        rv_decode(lockstep->ours.decoder, item->parts[i].bits, &insn);
        rv_format_insn(lockstep->ours.decoder, &insn, 0, text, sizeof(text));
        printf("#   %08" PRIx32 "  %s\n", item->parts[i].bits, text);
    }
}

/* The registers before the item, as our side has them. */
static void print_operands(const struct image_state *before)
{
    for (unsigned i = 0; i < 32; i++)
        printf("#   x%-2u %016" PRIx64 "   f%-2u %016" PRIx64 "\n", i, before->x[i], i,
               before->f[i]);
    printf("#   fcsr %02" PRIx64 "\n", before->fcsr);
}

static void explain(struct lockstep *lockstep, const struct program *program)
{
    size_t capacity = image_capacity();
    for (unsigned first = 0; first <= program->count; first += (unsigned)capacity) {
        const struct program *programs[PROGRAM_MAX_ITEMS + 1];
        unsigned counts[PROGRAM_MAX_ITEMS + 1], n = 0;
        for (; n < capacity && first + n <= program->count; n++) {
            programs[n] = program;
            counts[n] = first + n;
        }
        if (!run_both(lockstep, programs, counts, n))
            return;
        for (unsigned i = 0; i < n; i++) {
            if (same(lockstep, i))
                continue;
            printf("# seed %" PRIu64 ", item %u of %u:\n", program->seed, first + i,
                   program->count);
            if (first + i > 0)
                print_item(lockstep, &program->items[first + i - 1]);
            print_difference(&lockstep->our_results[i], &lockstep->their_results[i]);
            if (i > 0) {
                printf("# registers before it:\n");
                print_operands(&lockstep->our_results[i - 1].end);
            }
            return;
        }
    }
    printf("# seed %" PRIu64 ": no prefix of the program differs\n", program->seed);
}

/* ---- the campaign ---- */

static bool run_batch(struct lockstep *lockstep, uint64_t first_seed)
{
    struct program *programs = alloc_zeroed(BATCH, sizeof(*programs));
    const struct program *list[BATCH];
    for (size_t i = 0; i < BATCH; i++) {
        generate(lockstep->generator, first_seed + i, &programs[i]);
        list[i] = &programs[i];
    }
    bool good = run_both(lockstep, list, NULL, BATCH);
    size_t different = BATCH;
    for (size_t i = 0; good && i < BATCH && different == BATCH; i++)
        if (!same(lockstep, i))
            different = i;
    if (different < BATCH) {
        good = false;
        explain(lockstep, &programs[different]);
    }
    free(programs);
    return good;
}

static void lockstep_init(struct lockstep *lockstep, const struct engine *engine)
{
    memset(lockstep, 0, sizeof(*lockstep));
    test_hart_init_engine(&lockstep->ours, IMAGE_CODE, IMAGE_END - IMAGE_CODE, engine);
    lockstep->generator = generator_new(lockstep->ours.decoder);
    lockstep->image = image_new();
    lockstep->our_results = alloc_zeroed(image_capacity(), sizeof(struct image_result));
    lockstep->their_results = alloc_zeroed(image_capacity(), sizeof(struct image_result));
    assert(image_capacity() >= BATCH);
    strcpy(lockstep->folder, "/tmp/trapeze-lockstep-XXXXXX");
    if (!mkdtemp(lockstep->folder)) {
        perror("lockstep: mkdtemp");
        exit(1);
    }
}

static void lockstep_destroy(struct lockstep *lockstep)
{
    static const char *const files[] = {"programs", "results"};
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        char path[80];
        snprintf(path, sizeof(path), "%s/%s", lockstep->folder, files[i]);
        unlink(path);
    }
    rmdir(lockstep->folder);
    image_free(lockstep->image);
    generator_free(lockstep->generator);
    free(lockstep->our_results);
    free(lockstep->their_results);
    test_hart_destroy(&lockstep->ours);
}

int main(int count, char **arguments)
{
    static const struct engine *const engines[] = {&engine_interp, &engine_dbt};
    const struct engine *engine = engines[0];
    if (count > 2 && strcmp(arguments[1], "-e") == 0) {
        engine = NULL;
        for (size_t i = 0; i < ARRAY_SIZE(engines); i++)
            if (strcmp(engines[i]->name, arguments[2]) == 0)
                engine = engines[i];
        if (!engine) {
            fprintf(stderr, "lockstep: there is no engine '%s'\n", arguments[2]);
            return 2;
        }
        count -= 2;
        arguments += 2;
    }
    uint64_t seed = count > 1 ? strtoull(arguments[1], NULL, 0) : 1;
    unsigned long batches = count > 2 ? strtoul(arguments[2], NULL, 0) : tier_count(250, 10000);
    struct lockstep lockstep;
    lockstep_init(&lockstep, engine);
    unsigned long failed = 0;
    printf("1..%lu\n", batches);
    printf("# %zu instructions, %d programs a case\n", generator_row_count(lockstep.generator),
           BATCH);
    for (unsigned long i = 0; i < batches && failed < 5; i++) {
        uint64_t first = seed + i * BATCH;
        lockstep.batch = i; /* the translator does without the host's extensions in odd ones */
        bool good = run_batch(&lockstep, first);
        failed += !good;
        printf("%s %lu - seeds %" PRIu64 " to %" PRIu64 "\n", good ? "ok" : "not ok", i + 1, first,
               first + BATCH - 1);
    }
    if (failed >= 5)
        printf("Bail out! too many differences\n");
    lockstep_destroy(&lockstep);
    return failed != 0;
}
