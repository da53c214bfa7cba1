/* SPDX-License-Identifier: MIT
 *
 * See probe.h. KVM's ioctls: the kernel's Documentation/virt/kvm/api.rst; the page tables and
 * control bits: Intel SDM 3A, 4.5 and 2.5.
 */
#include "engine/kvm/probe.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "isa/x86_64/guest_cpu.h"

int kvm_open(const char *path, struct error **err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        int number = errno;
        error_set_errno(err, number, "KVM cannot be used, %s", path);
        if (number == EACCES || number == EPERM)
            error_hint(err, "It is there: 'usermod -aG kvm USER' as root lets USER have it, at "
                            "the next login");
        else
            error_hint(err, "Is virtualization switched on in the firmware (grep -cw 'vmx\\|svm' "
                            "/proc/cpuinfo), and 'modprobe kvm_intel' or 'kvm_amd' done? In a "
                            "virtual machine, its host must allow nesting");
        return -1;
    }
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version == KVM_API_VERSION)
        return fd;
    error_set(err, ERROR_HOST, "KVM cannot be used: %s is %s", path,
              version < 0 ? "another device" : "of a version that nobody uses");
    close(fd);
    return -1;
}

bool kvm_knows_cpu(const char *text, struct error **err)
{
    struct x86_cpu_wish wish;
    return x86_cpu_parse(text, &wish, err);
}

void kvm_is_needed(const char *isa, struct error **err)
{
    error_prefix(err, "%s guests run on KVM alone", isa);
    error_hint(err, "'trapeze host' tells what this host offers. Without KVM, trapeze runs riscv64 "
                    "guests (--arch riscv64), on any host.");
}

#ifdef __x86_64__

enum {
    GUEST_SIZE = 0x8000,
    TABLES = 0x1000, /* PML4, PDPT, PD, one page each; the PD's entry maps 2 MiB */
    DATA = 0x4000,
    CODE = 0x5000,
    STACK = 0x7000
};

/* Four numbers at DATA are doubled, and 1.0 is stored behind them. */
static const uint8_t code[] = {
    0x48, 0xc7, 0xc7, 0x00, 0x40, 0x00, 0x00, /* mov    $DATA, %rdi */
    0x0f, 0x10, 0x07,                         /* movups (%rdi), %xmm0 */
    0x0f, 0x58, 0xc0,                         /* addps  %xmm0, %xmm0 */
    0x0f, 0x11, 0x07,                         /* movups %xmm0, (%rdi) */
    0xd9, 0xe8,                               /* fld1 */
    0xdd, 0x5f, 0x10,                         /* fstpl  16(%rdi) */
    0xf4,                                     /* hlt */
};

struct guest {
    int vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
};

static void fill_memory(uint8_t *memory)
{
    const float numbers[] = {1, 2, 3, 4};
    store_le64(memory + TABLES, (TABLES + 0x1000) | 3); /* present, writable */
    store_le64(memory + TABLES + 0x1000, (TABLES + 0x2000) | 3);
    store_le64(memory + TABLES + 0x2000, 0x80 | 3); /* a page of 2 MiB at 0 */
    memcpy(memory + DATA, numbers, sizeof(numbers));
    memcpy(memory + CODE, code, sizeof(code));
}

/* Newer kernels refuse 64-bit mode to a processor whose CPUID does not have it. */
static bool set_cpuid(int kvm, int vcpu)
{
    enum { ENTRIES = 256 };
    struct kvm_cpuid2 *cpuid = alloc_zeroed(1, sizeof(*cpuid) + ENTRIES * sizeof(cpuid->entries[0]));
    cpuid->nent = ENTRIES;
    bool good = ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) == 0 &&
                ioctl(vcpu, KVM_SET_CPUID2, cpuid) == 0;
    int number = errno;
    free(cpuid);
    errno = number;
    return good;
}

static bool set_registers(int vcpu)
{
    struct kvm_sregs special;
    const struct kvm_segment flat = {.limit = UINT32_MAX, .present = 1, .s = 1, .g = 1};
    if (ioctl(vcpu, KVM_GET_SREGS, &special) != 0)
        return false;
    special.cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
    special.cr3 = TABLES;
    special.cr4 = 0x620;  /* OSXMMEXCPT, OSFXSR, PAE */
    special.efer = 0x500; /* LMA, LME */
    special.cs = flat;
    special.cs.selector = 8;
    special.cs.type = 11; /* code, readable, accessed */
    special.cs.l = 1;
    special.ds = flat;
    special.ds.selector = 16;
    special.ds.type = 3; /* data, writable, accessed */
    special.ds.db = 1;
    special.es = special.fs = special.gs = special.ss = special.ds;
    const struct kvm_regs registers = {.rip = CODE, .rsp = STACK, .rflags = 2};
    return ioctl(vcpu, KVM_SET_SREGS, &special) == 0 && ioctl(vcpu, KVM_SET_REGS, &registers) == 0;
}

static bool make(struct guest *guest, int kvm, struct error **err)
{
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    void *memory =
        mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || size <= 0)
        return error_set_errno(err, errno, "KVM cannot be asked");
    guest->memory = memory;
    fill_memory(memory);
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_SIZE,
                                                 .userspace_addr = (uintptr_t)memory};
    guest->vm = ioctl(kvm, KVM_CREATE_VM, 0);
    /* Three pages that KVM on Intel wants for itself, where the guest has nothing. */
    if (guest->vm < 0 || ioctl(guest->vm, KVM_SET_TSS_ADDR, 0xfffbd000UL) != 0 ||
        ioctl(guest->vm, KVM_SET_USER_MEMORY_REGION, &region) != 0 ||
        (guest->vcpu = ioctl(guest->vm, KVM_CREATE_VCPU, 0)) < 0)
        return error_set_errno(err, errno, "KVM makes no machine");
    void *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->vcpu, 0);
    if (run == MAP_FAILED)
        return error_set_errno(err, errno, "KVM makes no processor");
    guest->run = run;
    guest->run_size = (size_t)size;
    return (set_cpuid(kvm, guest->vcpu) && set_registers(guest->vcpu)) ||
           error_set_errno(err, errno, "KVM does not set a processor's registers");
}

static bool has_computed(const struct guest *guest)
{
    static const float numbers[] = {2, 4, 6, 8};
    static const double one = 1;
    return memcmp(guest->memory + DATA, numbers, sizeof(numbers)) == 0 &&
           memcmp(guest->memory + DATA + sizeof(numbers), &one, sizeof(one)) == 0;
}

static bool run(const struct guest *guest, struct error **err)
{
    int result;
    do
        result = ioctl(guest->vcpu, KVM_RUN, 0);
    while (result != 0 && errno == EINTR);
    if (result != 0)
        return error_set_errno(err, errno, "KVM does not run a guest");
    if (guest->run->exit_reason == KVM_EXIT_HLT && has_computed(guest))
        return true;
    if (guest->run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
        guest->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        error_set(err, ERROR_HOST,
                  "this KVM emulates a guest's instructions, and not all of them: "
                  "it has no processor with VT-x or AMD-V under it");
        error_hint(err, "It comes from the sandbox around this host, and cannot be mended in here");
        return false;
    }
    return error_set(err, ERROR_HOST, "KVM does not run a guest as it should (exit %u)",
                     guest->run->exit_reason);
}

bool kvm_is_hardware(void)
{
    enum { LEAF_FEATURES = 1, LEAF_MORE_FEATURES = 0x80000001 };
    enum { VMX = 1 << 5, SVM = 1 << 2 };
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(LEAF_FEATURES, &eax, &ebx, &ecx, &edx) != 0 && (ecx & VMX) != 0)
        return access("/sys/module/kvm_intel", F_OK) == 0;
    return __get_cpuid(LEAF_MORE_FEATURES, &eax, &ebx, &ecx, &edx) != 0 && (ecx & SVM) != 0 &&
           access("/sys/module/kvm_amd", F_OK) == 0;
}

bool kvm_runs_guests(int kvm, struct error **err)
{
    struct guest guest = {.vm = -1, .vcpu = -1};
    bool good = make(&guest, kvm, err) && run(&guest, err);
    if (guest.run != NULL)
        munmap(guest.run, guest.run_size);
    if (guest.vcpu >= 0)
        close(guest.vcpu);
    if (guest.vm >= 0)
        close(guest.vm);
    if (guest.memory != NULL)
        munmap(guest.memory, GUEST_SIZE);
    return good;
}

#else

bool kvm_models(int kvm, char *text, size_t size, struct error **err)
{
    (void)text, (void)size;
    return kvm_runs_guests(kvm, err);
}

bool kvm_runs_guests(int kvm, struct error **err)
{
    (void)kvm;
    return error_set(err, ERROR_HOST,
                     "KVM runs guests of the host's own kind, and this host is not "
                     "an x86-64 one");
}

bool kvm_is_hardware(void)
{
    return false;
}

#endif
