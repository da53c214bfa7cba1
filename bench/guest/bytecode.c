/* SPDX-License-Identifier: MIT
 *
 * A register machine with a switch in a loop, as script languages have: one indirect jump for each
 * of its instructions, that a translator can only predict from where it went before. The program
 * adds up the lengths of Collatz sequences and keeps a small table of them.
 */
#include "rows.h"

enum opcode {
    LOAD,     /* a = b, a constant */
    MOVE,     /* a = r[b] */
    ADD,      /* a = r[b] + r[c] */
    ADD_ONE,  /* a = r[a] + 1 */
    TRIPLE,   /* a = 3 r[b] + 1 */
    HALVE,    /* a = r[b] / 2 */
    AND,      /* a = r[b] & c, a constant */
    XOR,      /* a = r[b] ^ r[c] */
    SHIFT,    /* a = r[b] << c, a constant */
    LESS,     /* a = r[b] < r[c] */
    EQUAL,    /* a = r[b] == c, a constant */
    FETCH,    /* a = memory[r[b]] */
    STORE,    /* memory[r[b]] = r[a] */
    JUMP,     /* to b */
    JUMP_IF,  /* to b if r[a] */
    JUMP_NOT, /* to b if not r[a] */
    STOP,
};

struct instruction {
    uint8_t op, a, b, c;
};

enum register_name { N, LIMIT, X, LENGTH, TOTAL, TEST, INDEX, OLD, REGISTERS };

static const struct instruction program[] = {
    /* 0 */ {LOAD, N, 1, 0},
    /* 1 */ {LOAD, TOTAL, 0, 0},
    /* 2, the next number */ {LESS, TEST, N, LIMIT},
    /* 3 */ {JUMP_NOT, TEST, 23, 0},
    /* 4 */ {MOVE, X, N, 0},
    /* 5 */ {LOAD, LENGTH, 0, 0},
    /* 6, a step */ {EQUAL, TEST, X, 1},
    /* 7 */ {JUMP_IF, TEST, 15, 0},
    /* 8 */ {ADD_ONE, LENGTH, 0, 0},
    /* 9 */ {AND, TEST, X, 1},
    /* 10 */ {JUMP_IF, TEST, 13, 0},
    /* 11, even */ {HALVE, X, X, 0},
    /* 12 */ {JUMP, 0, 6, 0},
    /* 13, odd */ {TRIPLE, X, X, 0},
    /* 14 */ {JUMP, 0, 6, 0},
    /* 15, at 1 */ {AND, INDEX, N, 63},
    /* 16 */ {FETCH, OLD, INDEX, 0},
    /* 17 */ {XOR, OLD, OLD, LENGTH},
    /* 18 */ {STORE, OLD, INDEX, 0},
    /* 19 */ {SHIFT, OLD, OLD, 1},
    /* 20 */ {ADD, TOTAL, TOTAL, OLD},
    /* 21 */ {ADD_ONE, N, 0, 0},
    /* 22 */ {JUMP, 0, 2, 0},
    /* 23 */ {STOP, 0, 0, 0},
};

static __attribute__((noinline)) uint64_t interpret(const struct instruction *code, uint64_t limit)
{
    uint64_t r[REGISTERS] = {[LIMIT] = limit}, memory[64] = {0};
    const struct instruction *pc = code;
    for (;;) {
        struct instruction i = *pc++;
        switch ((enum opcode)i.op) {
        case LOAD:
            r[i.a] = i.b;
            break;
        case MOVE:
            r[i.a] = r[i.b];
            break;
        case ADD:
            r[i.a] = r[i.b] + r[i.c];
            break;
        case ADD_ONE:
            r[i.a]++;
            break;
        case TRIPLE:
            r[i.a] = 3 * r[i.b] + 1;
            break;
        case HALVE:
            r[i.a] = r[i.b] / 2;
            break;
        case AND:
            r[i.a] = r[i.b] & i.c;
            break;
        case XOR:
            r[i.a] = r[i.b] ^ r[i.c];
            break;
        case SHIFT:
            r[i.a] = r[i.b] << i.c;
            break;
        case LESS:
            r[i.a] = r[i.b] < r[i.c];
            break;
        case EQUAL:
            r[i.a] = r[i.b] == i.c;
            break;
        case FETCH:
            r[i.a] = memory[r[i.b]];
            break;
        case STORE:
            memory[r[i.b]] = r[i.a];
            break;
        case JUMP:
            pc = code + i.b;
            break;
        case JUMP_IF:
            if (r[i.a])
                pc = code + i.b;
            break;
        case JUMP_NOT:
            if (!r[i.a])
                pc = code + i.b;
            break;
        case STOP:
            return r[TOTAL];
        }
    }
}

uint64_t row_bytecode(void)
{
    return interpret(program, 40000);
}
