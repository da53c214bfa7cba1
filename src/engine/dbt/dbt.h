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
/* For tests: after how many turns a loop becomes a region; 0: never. */
void dbt_set_region_heat(struct vcpu *vcpu, unsigned turns);
uint64_t dbt_region_count(const struct vcpu *vcpu);
/* How many generations of translations were dropped to make room. */
uint64_t dbt_eviction_count(const struct vcpu *vcpu);

#endif
