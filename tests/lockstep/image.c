/* SPDX-License-Identifier: MIT
 *
 * See image.h. The code around the programs is put together from a few encodings by hand.
 */
#include "image.h"

#include <assert.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"

#define CODE_ROOM (IMAGE_DATA - IMAGE_CODE)
#define DATA_ROOM (IMAGE_END - IMAGE_DATA)
/* Upper bounds: the code around a program, and an item. */
#define FRAME_CODE 1024
#define ITEM_CODE  16

_Static_assert(sizeof(struct image_result) == 8192, "scratch buffers cross pages");

struct image *image_new(void)
{
    struct image *image = alloc_zeroed(1, sizeof(*image));
    image->code = alloc_zeroed(1, CODE_ROOM);
    image->data = alloc_zeroed(1, DATA_ROOM);
    return image;
}

void image_free(struct image *image)
{
    free(image->code);
    free(image->data);
    free(image);
}

size_t image_capacity(void)
{
    size_t code = CODE_ROOM / (FRAME_CODE + PROGRAM_MAX_ITEMS * ITEM_CODE);
    size_t data = DATA_ROOM / (sizeof(struct image_state) + sizeof(struct image_result) + 8);
    return code < data ? code : data;
}

/* ---- emitting ---- */

static void emit(struct image *image, uint32_t bits)
{
    store_le32(image->code + image->code_size, bits);
    image->code_size += 4;
}

/* lui rd; addi rd, rd for an address below 2 GiB. */
static void emit_address(struct image *image, unsigned rd, uint64_t address)
{
    uint32_t upper = (uint32_t)(address + 0x800) & 0xfffff000;
    emit(image, 0x00000037 | upper | rd << 7);
    emit(image, 0x00000013 | rd << 7 | rd << 15 | (uint32_t)(address - upper) << 20);
}

static void emit_load(struct image *image, uint32_t opcode, unsigned rd, unsigned base,
                      size_t offset)
{
    emit(image, opcode | rd << 7 | base << 15 | (uint32_t)offset << 20);
}

static void emit_store(struct image *image, uint32_t opcode, unsigned rs2, unsigned base,
                       size_t offset)
{
    uint32_t to = (uint32_t)offset;
    emit(image, opcode | rs2 << 20 | base << 15 | (to & 31) << 7 | (to >> 5) << 25);
}

enum { LD = 0x00003003, FLD = 0x00003007, SD = 0x00003023, FSD = 0x00003027 };

static void emit_prologue(struct image *image, uint64_t state)
{
    enum { BASE = 31, VALUE = 30 };
    emit_address(image, BASE, state);
    for (unsigned i = 0; i < 32; i++)
        emit_load(image, FLD, i, BASE, offsetof(struct image_state, f) + 8 * i);
    emit_load(image, LD, VALUE, BASE, offsetof(struct image_state, fcsr));
    emit(image, 0x00301073 | VALUE << 15); /* csrw fcsr */
    for (unsigned i = 1; i < 32; i++)
        emit_load(image, LD, i, BASE, offsetof(struct image_state, x) + 8 * i);
}

static void emit_epilogue(struct image *image, uint64_t result)
{
    enum { BASE = 9, VALUE = 10 }; /* x9 is the programs' own pointer, never looked at */
    emit_address(image, BASE, result);
    for (unsigned i = 0; i < 32; i++)
        if (i != BASE)
            emit_store(image, SD, i, BASE, offsetof(struct image_state, x) + 8 * i);
    emit(image, 0x00302073 | VALUE << 7); /* csrr fcsr */
    emit_store(image, SD, VALUE, BASE, offsetof(struct image_state, fcsr));
    for (unsigned i = 0; i < 32; i++)
        emit_store(image, FSD, i, BASE, offsetof(struct image_state, f) + 8 * i);
}

static void emit_items(struct image *image, const struct program *program, unsigned count)
{
    uint64_t starts[PROGRAM_MAX_ITEMS + 1];
    starts[0] = image->code_size;
    for (unsigned i = 0; i < count; i++)
        starts[i + 1] = starts[i] + item_size(&program->items[i]);
    for (unsigned i = 0; i < count; i++) {
        unsigned target = program->items[i].target < count ? program->items[i].target : count;
        item_encode(&program->items[i], (int64_t)(starts[target] - starts[i]),
                    image->code + starts[i]);
    }
    image->code_size = starts[count];
}

static void emit_system_call(struct image *image, uint32_t number)
{
    emit(image, 0x00000013 | 17 << 7 | number << 20); /* li a7 */
    emit(image, 0x00000073);
}

void image_build(struct image *image, const struct program *const *programs, const unsigned *counts,
                 size_t count)
{
    assert(count <= image_capacity());
    image->programs = count;
    image->code_size = 0;
    uint64_t results = (count * sizeof(struct image_state) + 4095) & ~UINT64_C(4095);
    image->results = IMAGE_DATA + results;
    image->data_size = results + count * sizeof(struct image_result);
    memset(image->data, 0, image->data_size);
    for (size_t i = 0; i < count; i++) {
        const struct program *program = programs[i];
        uint64_t state_at = i * sizeof(struct image_state);
        uint64_t result_at = results + i * sizeof(struct image_result);
        struct image_state *state = (struct image_state *)(void *)(image->data + state_at);
        struct image_result *result = (struct image_result *)(void *)(image->data + result_at);
        memcpy(state->x, program->x, sizeof(state->x));
        memcpy(state->f, program->f, sizeof(state->f));
        state->fcsr = program->fcsr;
        state->x[2] = state->x[8] = IMAGE_DATA + result_at + offsetof(struct image_result, scratch);
        memcpy(result->scratch, program->scratch, SCRATCH_SIZE);

        emit_prologue(image, IMAGE_DATA + state_at);
        emit_items(image, program, counts ? counts[i] : program->count);
        emit_epilogue(image, IMAGE_DATA + result_at);
    }
    emit(image, 0x00000013 | 10 << 7 | 1 << 20); /* li a0, 1: standard output */
    emit_address(image, 11, image->results);
    emit_address(image, 12, count * sizeof(struct image_result));
    emit_system_call(image, IMAGE_SYS_WRITE);
    emit(image, 0x00000013 | 10 << 7); /* li a0, 0 */
    emit_system_call(image, IMAGE_SYS_EXIT);
    assert(image->code_size <= CODE_ROOM && image->data_size <= DATA_ROOM);
}

bool image_write_elf(const struct image *image, const char *path)
{
    struct {
        Elf64_Ehdr header;
        Elf64_Phdr segments[2];
    } head = {
        .header = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
                               EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = EM_RISCV,
                   .e_version = EV_CURRENT,
                   .e_entry = IMAGE_CODE,
                   .e_phoff = offsetof(__typeof__(head), segments),
                   .e_flags = EF_RISCV_RVC | EF_RISCV_FLOAT_ABI_DOUBLE,
                   .e_ehsize = sizeof(Elf64_Ehdr),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 2},
        .segments = {{.p_type = PT_LOAD,
                      .p_flags = PF_R | PF_X,
                      .p_offset = 4096,
                      .p_vaddr = IMAGE_CODE,
                      .p_filesz = image->code_size,
                      .p_memsz = image->code_size,
                      .p_align = 4096},
                     {.p_type = PT_LOAD,
                      .p_flags = PF_R | PF_W,
                      .p_vaddr = IMAGE_DATA,
                      .p_filesz = image->data_size,
                      .p_memsz = image->data_size,
                      .p_align = 4096}},
    };
    uint64_t data_at = 4096 + ((image->code_size + 4095) & ~UINT64_C(4095));
    head.segments[1].p_offset = data_at;
    FILE *file = fopen(path, "wb");
    if (!file)
        return false;
    bool written = fwrite(&head, sizeof(head), 1, file) == 1 && fseek(file, 4096, SEEK_SET) == 0 &&
                   fwrite(image->code, image->code_size, 1, file) == 1 &&
                   fseek(file, (long)data_at, SEEK_SET) == 0 &&
                   fwrite(image->data, image->data_size, 1, file) == 1;
    written = fclose(file) == 0 && written;
    return written && chmod(path, 0755) == 0;
}
