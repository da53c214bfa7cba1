/* Numbers shared by start.S and rt.h; rt.c asserts that struct hart agrees with them. */
#ifndef RT_LAYOUT_H
#define RT_LAYOUT_H

#define MAX_HARTS  8
#define STACK_SIZE 16384

#define H_RECOVER  0
#define H_AT       8
#define H_FRAME    16
#define H_SFRAME   272
#define H_CTX      528
#define H_TRAP_SP  648
#define H_STRAP_SP 656
#define HART_SIZE  2048
#define EXIT_MAGIC 0x7e57

#endif
