/* SPDX-License-Identifier: MIT
 *
 * What is said of this host's KVM, against what the processor says of itself.
 */
#include "support.h"

#include <stdio.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "engine/kvm/probe.h"

static void test_a_device_that_is_missing_or_another(void **state)
{
    static const char *const names[][2] = {{"/nowhere/kvm", "No such file"},
                                           {"/dev/null", "another device"}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct error *error = NULL;
        assert_int_equal(kvm_open(names[i][0], &error), -1);
        assert_non_null(strstr(error_message(error), names[i][0]));
        assert_non_null(strstr(error_message(error), names[i][1]));
        error_free(error);
    }
}

/* The processor's own word: its flags in /proc/cpuinfo. */
static bool has_virtualization(void)
{
    char line[16384];
    bool found = false;
    FILE *file = fopen("/proc/cpuinfo", "re");
    assert_non_null(file);
    while (!found && fgets(line, sizeof(line), file) != NULL)
        found = strncmp(line, "flags", 5) == 0 &&
                (strstr(line, " vmx") != NULL || strstr(line, " svm") != NULL);
    fclose(file);
    return found;
}

/* Where there is a device without a processor behind it, it must not be taken for one. */
static void test_guests_run_where_the_processor_runs_them(void **state)
{
    (void)state;
    struct error *error = NULL;
    int kvm = kvm_open(KVM_DEVICE, NULL);
    if (kvm < 0)
        skip();
    bool runs = kvm_runs_guests(kvm, &error);
    assert_int_equal(runs, has_virtualization());
    assert_true(runs || !kvm_is_hardware());
    assert_int_equal(runs, error == NULL);
    error_free(error);
    close(kvm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_device_that_is_missing_or_another),
        cmocka_unit_test(test_guests_run_where_the_processor_runs_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
