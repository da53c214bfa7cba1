/* SPDX-License-Identifier: MIT
 *
 * The first and only process of bench/microvm.py's guest: says that it has booted (--boot-timer), and
 * then sleeps.
 */
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __riscv
#define BOOT_TIMER 0x103000
#else
#define BOOT_TIMER 0xc0000000
#endif

int main(void)
{
    int memory = open("/dev/mem", O_RDWR | O_SYNC);
    volatile uint8_t *timer = mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, memory, BOOT_TIMER);
    if (timer != MAP_FAILED)
        *timer = 123;
    for (;;)
        pause();
}
