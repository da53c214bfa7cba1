/* SPDX-License-Identifier: MIT
 *
 * main() of a fuzz target without libFuzzer, so that every compiler and every test run can
 * fuzz a little: the committed inputs, mutations of them, and generated ones. Reports in TAP.
 * Run i of base seed s is made from a seed of its own, which a crash prints:
 *
 *     fuzz_NAME --random SEED 1      a generated input again
 *     fuzz_NAME SEEDS --run NUMBER   a mutated one
 */
#include "fuzz.h"

#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define SEED_FILES_MAX 64
#define BASE_SEED      UINT64_C(20240501)

struct inputs {
    uint8_t data[SEED_FILES_MAX][FUZZ_INPUT_MAX];
    size_t size[SEED_FILES_MAX];
    unsigned count;
};

/* For the handlers of a crash alone, which have no other way to learn it. */
static char current[128];

static void say_current(void)
{
    ssize_t written = write(STDERR_FILENO, current, strlen(current));
    (void)written;
}

static void on_abort(int number)
{
    say_current();
    signal(number, SIG_DFL);
    raise(number);
}

/* Provided by the sanitizers' run-time library, if there is one. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static bool run_file(const char *path, struct inputs *inputs)
{
    static uint8_t data[FUZZ_INPUT_MAX];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return false;
    }
    size_t size = fread(data, 1, sizeof(data), file);
    fclose(file);
    snprintf(current, sizeof(current), "# crashed on input %.90s\n", path);
    LLVMFuzzerTestOneInput(data, size);
    if (inputs != NULL && inputs->count < SEED_FILES_MAX) {
        memcpy(inputs->data[inputs->count], data, size);
        inputs->size[inputs->count++] = size;
    }
    return true;
}

static int is_input(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* In the order of their names, so that a number names the same run everywhere. */
static bool run_directory(const char *path, struct inputs *inputs)
{
    struct dirent **entries;
    int count = scandir(path, &entries, is_input, alphasort);
    if (count < 0) {
        perror(path);
        return false;
    }
    bool good = true;
    for (int i = 0; i < count; i++) {
        char name[4096];
        snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
        good = run_file(name, inputs) && good;
        free(entries[i]);
    }
    free(entries);
    return good && inputs->count > 0;
}

static size_t mutate(uint64_t *seed, const struct inputs *inputs, uint8_t *data)
{
    static const uint8_t interesting[] = {0, 1, 2, 0x7f, 0x80, 0xff};
    unsigned which = (unsigned)(fuzz_random(seed) % inputs->count);
    size_t size = inputs->size[which];
    memcpy(data, inputs->data[which], size);
    for (unsigned changes = 1 + fuzz_random(seed) % 8; changes > 0 && size > 0; changes--) {
        uint64_t random = fuzz_random(seed);
        size_t at = (size_t)(random >> 32) % size;
        switch (random % 4) {
        case 0:
            data[at] = (uint8_t)(random >> 8);
            break;
        case 1:
            data[at] = interesting[(random >> 8) % sizeof(interesting)];
            break;
        case 2:
            data[at] ^= (uint8_t)(1u << ((random >> 8) % 8));
            break;
        default: /* repeat what is there further on: structure moves along */
            memmove(data + at, data, size - at);
        }
    }
    return size;
}

static void run_random(const struct inputs *inputs, uint64_t base, unsigned long first,
                       unsigned long count)
{
    static uint8_t data[FUZZ_INPUT_MAX];
    for (unsigned long i = first; i < first + count; i++) {
        uint64_t seed = base + i, name = seed;
        snprintf(current, sizeof(current), "# crashed on: --random %" PRIu64 " 1\n", name);
        bool generated = inputs == NULL || inputs->count == 0 || fuzz_random(&seed) % 4 != 0;
        size_t size = generated ? fuzz_generate(&seed, data) : mutate(&seed, inputs, data);
        if (!generated)
            snprintf(current, sizeof(current), "# crashed on: SEEDS --run %lu\n", i);
        LLVMFuzzerTestOneInput(data, size);
    }
}

int main(int argc, char **argv)
{
    static struct inputs inputs;
    signal(SIGABRT, on_abort);
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(say_current);

    if (argc == 4 && strcmp(argv[1], "--random") == 0) {
        /* As run_random() did: the first number decides nothing without seed files. */
        uint64_t seed = strtoull(argv[2], NULL, 0);
        for (unsigned long i = strtoul(argv[3], NULL, 0); i > 0; i--, seed++) {
            static uint8_t data[FUZZ_INPUT_MAX];
            uint64_t run = seed;
            fuzz_random(&run);
            LLVMFuzzerTestOneInput(data, fuzz_generate(&run, data));
        }
        return 0;
    }
    if (argc == 4 && strcmp(argv[2], "--run") == 0) {
        if (!run_directory(argv[1], &inputs))
            return 1;
        run_random(&inputs, BASE_SEED, strtoul(argv[3], NULL, 0), 1);
        return 0;
    }
    if (argc != 2) {
        for (int i = 1; i < argc; i++)
            run_file(argv[i], NULL);
        return 0;
    }
    /* Without sanitizers the full count would be the same inputs once more, seeing less. */
    const char *tier = getenv("TRAPEZE_TIER");
    bool full = tier != NULL && strcmp(tier, "full") == 0 && __sanitizer_set_death_callback != NULL;
    const char *full_runs = getenv("FUZZ_FULL_RUNS");
    unsigned long most = full_runs != NULL ? strtoul(full_runs, NULL, 10) : 300000;
    unsigned long count = full ? most : most / 100;
    printf("1..2\n");
    bool good = run_directory(argv[1], &inputs);
    printf("%s 1 - %u committed inputs\n", good ? "ok" : "not ok", inputs.count);
    fflush(stdout);
    run_random(&inputs, BASE_SEED, 0, count);
    printf("ok 2 - %lu random inputs\n", count);
    return good ? 0 : 1;
}
