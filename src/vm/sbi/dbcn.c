/* SPDX-License-Identifier: MIT
 *
 * SBI §12, debug console: output goes where the UART's goes; input is read from the UART, as
 * a firmware would.
 */
#include "vm/sbi/sbi.h"

#include "base/bits.h"
#include "vm/virt/virt.h"

enum { PIECE = 4096 }; /* most bytes of one call; the guest calls again for the rest */

void sbi_put(struct vm_cpu *cpu, const uint8_t *data, size_t size)
{
    const struct vm_env *env = &cpu->vm->env;
    struct char_backend *console = env->console != NULL ? env->console : env->virtio_console;
    if (console != NULL)
        console->write(console, data, size);
}

int sbi_get(struct vm_cpu *cpu)
{
    enum { RBR = 0, LSR = 5, LSR_DATA_READY = 1 };
    uint64_t status = 0, byte = 0;
    if (!mem_io_read(cpu->vm->mem, VIRT_UART_GPA + LSR, 1, &status) ||
        (status & LSR_DATA_READY) == 0 ||
        !mem_io_read(cpu->vm->mem, VIRT_UART_GPA + RBR, 1, &byte))
        return -1;
    return (int)byte;
}

static int64_t transfer(struct sbi_call *call, bool write)
{
    uint64_t size = call->args[0], gpa = call->args[1];
    if (call->args[2] != 0)
        return SBI_ERR_INVALID_PARAM; /* the upper half of an address: there is none */
    if (size > PIECE)
        size = PIECE;
    if (!sbi_want(call, gpa, size))
        return 0;
    uint8_t *bytes = mem_ram_pointer(call->cpu->vm->mem, gpa, size, write ? MEM_READ : MEM_WRITE);
    if (bytes == NULL)
        return size == 0 ? SBI_SUCCESS : SBI_ERR_INVALID_PARAM;
    if (write) {
        sbi_put(call->cpu, bytes, (size_t)size);
        call->value = size;
        return SBI_SUCCESS;
    }
    for (int byte; call->value < size && (byte = sbi_get(call->cpu)) >= 0; call->value++)
        bytes[call->value] = (uint8_t)byte;
    mem_note_range(call->cpu->vm->mem, gpa, call->value); /* a second time: mem/mem.c */
    return SBI_SUCCESS;
}

int64_t sbi_dbcn(struct sbi_call *call)
{
    enum { WRITE, READ, WRITE_BYTE };
    uint8_t byte = (uint8_t)call->args[0];
    switch (call->function) {
    case WRITE:
    case READ:
        return transfer(call, call->function == WRITE);
    case WRITE_BYTE:
        sbi_put(call->cpu, &byte, 1);
        return SBI_SUCCESS;
    default:
        return SBI_ERR_NOT_SUPPORTED;
    }
}
