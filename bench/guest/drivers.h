/* SPDX-License-Identifier: MIT
 *
 * For programs that are the first process of a tiny image. What goes wrong is the program's fail().
 */
#ifndef BENCH_DRIVERS_H
#define BENCH_DRIVERS_H

/* Ends the program, with "what" and errno's text. The program's. */
_Noreturn void fail(const char *what);

void load_io_drivers(void); /* once; /dev is mounted */
/* eth0 gets the address, of a network with 24 bits. */
void configure_interface(const char *own);

#endif
