/* SPDX-License-Identifier: MIT
 *
 * Prints encodings of every instruction row with random operands and our text for each:
 *     <bits in hex> <pc in hex> <text>
 * rv_disassembly.py compares that with objdump. Usage: rv_listing CASES-PER-ROW SEED
 */
#include "support.h"

#include <inttypes.h>
#include <stdio.h>

#include "isa/riscv64/insn.h"

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: rv_listing CASES-PER-ROW SEED\n");
        return 2;
    }
    unsigned long cases = strtoul(arguments[1], NULL, 0);
    uint64_t seed = strtoull(arguments[2], NULL, 0), pc = 0;
    struct rv_decoder *decoder = rv_decoder_new();
    for (size_t i = 0; i < rv_decoder_row_count(decoder); i++) {
        const struct rv_row *row = rv_decoder_row(decoder, i);
        uint32_t free_bits = ~row->mask & ((row->match & 3) == 3 ? UINT32_MAX : 0xffff);
        /* A row without operands has one case. */
        for (unsigned long n = 0; n < (free_bits ? cases : 1); n++) {
            uint32_t bits = row->match | ((uint32_t)random_next(&seed) & free_bits);
            struct rv_insn insn;
            char text[128], other[128];
            uint8_t code[4];
            rv_decode(decoder, bits, &insn);
            rv_format_insn(decoder, &insn, pc, text, sizeof(text));
            printf("%0*" PRIx32 " %" PRIx64 " %s\n", insn.length * 2, bits, pc, text);
            /* The way without look-up tables says the same. */
            store_le32(code, bits);
            if (rv_disassemble(code, insn.length, pc, other, sizeof(other)) != insn.length ||
                strcmp(text, other) != 0) {
                fprintf(stderr, "rv_disassemble(%" PRIx32 ") says '%s'\n", bits, other);
                return 1;
            }
            pc += insn.length;
        }
    }
    rv_decoder_free(decoder);
    return 0;
}
