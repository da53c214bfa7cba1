/* SPDX-License-Identifier: MIT
 *
 * The dynamic binary translator: runs RISC-V harts on x86-64 hosts by translating what runs
 * often into host code. The contract is struct engine's (isa/vcpu.h).
 */
#ifndef TRAPEZE_ENGINE_DBT_DBT_H
#define TRAPEZE_ENGINE_DBT_DBT_H

#include "isa/vcpu.h"

extern const struct engine engine_dbt;

/* For tests: how many executions make a block of this vCPU worth translating (1: all are). */
void dbt_set_hot(struct vcpu *vcpu, unsigned executions);
/* For tests, before the first run: makes the areas for code and for data this small. */
void dbt_limit_cache(struct vcpu *vcpu, size_t code_bytes, size_t data_bytes);
/* For tests, before a reset: uses no host instructions beyond the x86-64 baseline. */
void dbt_use_baseline(struct vcpu *vcpu, bool baseline);
/* How often everything was dropped because an area was full or the vCPU was reset. */
uint64_t dbt_flush_count(const struct vcpu *vcpu);

#endif
