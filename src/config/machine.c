/* SPDX-License-Identifier: MIT
 *
 * See machine.h. What can only be judged with the files at hand (is this a kernel? is there
 * room for it?) is judged where they are opened, in vm/.
 */
#include "config/machine.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"

void machine_config_init(struct machine_config *config)
{
    *config = (struct machine_config){
        .arch = strdup("riscv64"),
        .engine = strdup("auto"),
        .interrupts = strdup("auto"),
        .memory = 512 * MIB,
        .cpus = 1,
    };
}

void machine_config_clear(struct machine_config *config)
{
    char *const strings[] = {config->name,     config->arch,     config->engine,
                             config->kernel,   config->initrd,   config->append,
                             config->firmware, config->dump_fdt, config->host_features,
                             config->trace,    config->perf,     config->interrupts};
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        free(strings[i]);
    for (size_t i = 0; i < config->disk_count; i++)
        machine_disk_clear(&config->disks[i]);
    *config = (struct machine_config){0};
}

bool machine_config_check(const struct machine_config *config, struct error **err)
{
    if (strcmp(config->arch, "riscv64") != 0) {
        error_set(err, ERROR_USAGE, "there is no guest architecture '%s'", config->arch);
        error_hint(err, "This version runs riscv64 guests.");
        return false;
    }
    static const char *const interrupts[] = {"auto", "plic", "aia"};
    size_t kind = 0;
    while (kind < ARRAY_SIZE(interrupts) && strcmp(config->interrupts, interrupts[kind]) != 0)
        kind++;
    if (kind == ARRAY_SIZE(interrupts)) {
        error_set(err, ERROR_USAGE, "there is no interrupt controller '%s'", config->interrupts);
        error_hint(err, "There are 'plic', 'aia' and 'auto'.");
        return false;
    }
    if (config->cpus < 1 || config->cpus > MACHINE_MAX_CPUS)
        return error_set(err, ERROR_USAGE, "a machine has 1 to %d CPUs, not %u", MACHINE_MAX_CPUS,
                         config->cpus);
    if (config->memory < MACHINE_MIN_MEMORY || config->memory > MACHINE_MAX_MEMORY ||
        config->memory % MIB != 0)
        return error_set(err, ERROR_USAGE,
                         "guest memory is a whole number of MiB from %u MiB to %u GiB",
                         (unsigned)(MACHINE_MIN_MEMORY / MIB), (unsigned)(MACHINE_MAX_MEMORY / GIB));
    if (config->code_cache != 0 &&
        (config->code_cache < MACHINE_MIN_CODE_CACHE ||
         config->code_cache > MACHINE_MAX_CODE_CACHE || config->code_cache % KIB != 0))
        return error_set(err, ERROR_USAGE,
                         "a code cache is a whole number of KiB from %u KiB to %u MiB",
                         (unsigned)(MACHINE_MIN_CODE_CACHE / KIB),
                         (unsigned)(MACHINE_MAX_CODE_CACHE / MIB));
    if (config->kernel == NULL && config->firmware == NULL) {
        error_set(err, ERROR_USAGE, "there is nothing to run");
        error_hint(err, "Name an image (--image debian), a kernel (--kernel FILE) or a firmware or "
                        "bare-metal program (--firmware FILE).");
        return false;
    }
    if (config->kernel == NULL && (config->initrd != NULL || config->append != NULL)) {
        error_set(err, ERROR_USAGE, "%s goes with a kernel, and none is named",
                  config->initrd != NULL ? "an initrd" : "a kernel command line");
        error_hint(err, "Add --kernel FILE.");
        return false;
    }
    if (config->append != NULL && strlen(config->append) > MACHINE_MAX_APPEND) {
        error_set(err, ERROR_USAGE, "the kernel command line has %zu bytes, more than %d",
                  strlen(config->append), MACHINE_MAX_APPEND);
        error_hint(err, "Linux looks at the first 1023 only.");
        return false;
    }
    if (config->balloon_size > config->memory)
        return error_set(err, ERROR_USAGE, "the guest cannot keep more memory than its %llu MiB",
                         (unsigned long long)(config->memory / MIB));
    for (size_t i = 0; i < config->disk_count; i++)
        if (config->disks[i].serial != NULL && strlen(config->disks[i].serial) > 20)
            return error_set(err, ERROR_USAGE, "disk serial '%s' is longer than 20 bytes",
                             config->disks[i].serial);
    return true;
}
