/* SPDX-License-Identifier: MIT
 *
 * The engine that has the host's processor run x86-64 guests: Linux' KVM, with its interrupt controllers
 * (two PICs, an I/O APIC with 24 inputs, local APICs), its timer chip (PIT) and its paravirtual clock.
 * References: the kernel's Documentation/virt/kvm/api.rst.
 *
 *     machine.c   what all vCPUs share: memory slots, interrupt controllers, clock
 *     dirty.c     the log of written pages
 *     doorbell.c  notifications of queues that do not leave the guest
 *     vcpu.c      a vCPU: entering the guest, why it was left, kicks
 *     state.c     a vCPU's state to and from KVM
 *     debug.c     a debugger's break- and watchpoints and steps
 *     cpuid.c     what the guest is told of its processor
 *
 * A vCPU's state stays with KVM; x86_fetch() brings it here when somebody wants to see it. A guest's
 * halt is KVM's affair, too: run() returns when it is asked to, and at the end.
 */
#ifndef TRAPEZE_ENGINE_KVM_KVM_H
#define TRAPEZE_ENGINE_KVM_KVM_H

#include "isa/vcpu.h"

extern const struct engine engine_kvm;

#endif
