/* SPDX-License-Identifier: MIT
 *
 * trapeze net: the NICs of a running machine.
 *
 * What is behind a new NIC is started here and left alone: it ends when the machine closes its end
 * of the frame socket.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/nic.h"
#include "client/network.h"
#include "client/worker.h"
#include "config/machine.h"
#include "config/vmx.h"

static const struct cli_option options[] = {
    {"force", 0, NULL,
     "detach: pull it out of its slot, whether or not the guest uses it. Not every driver stands "
     "that: Linux' for virtio wait for an answer for ever.",
     NULL},
    CLI_LIVE_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze net attach nat,forward=tcp:2222:22", "Give the running machine another NIC."},
    {"trapeze net attach web internal:lab", "The same for an instance, for good."},
    {"trapeze net attach internal:lab vm.sock", "Which machine, if several run."},
    {"trapeze net detach 1", "Take it away again, when the guest's driver has let go of it."},
    {"trapeze net detach 1 --force", "Pull it out of its slot, whatever the guest does with it."},
    {"trapeze net list", "NICs with their numbers, places on the PCI bus and counters."},
};

static int usage(struct error **err, const char *text)
{
    error_set(err, ERROR_USAGE, "%s", text);
    error_hint(err, "'trapeze net --help' explains it.");
    return CLI_USAGE;
}

/* The socket of the machine: the operand at `at`, or that of the only one. */
static char *machine_of(const struct cli_args *args, size_t at, struct error **err)
{
    struct cli_args rest = *args;
    rest.operands = args->operands + at;
    rest.operand_count = args->operand_count - at;
    return cli_machine(&rest, err);
}

/* ---- attach ---- */

/* What it is connected to is the machine's to know, too: it is saved with it. */
static void add_description(json_t *arguments, const struct machine_nic *nic)
{
    struct machine_config config;
    size_t size;
    machine_config_init(&config);
    machine_nic_copy(&config.nics[config.nic_count++], nic);
    char *folder = getcwd(NULL, 0);
    if (folder != NULL)
        vmx_resolve(&config, folder);
    char *text = vmx_write(&config, &size);
    json_object_set_new(arguments, "description", json_stringn(text, size));
    free(text);
    free(folder);
    machine_config_clear(&config);
}

static json_t *describe(const struct machine_nic *nic)
{
    json_t *arguments =
        json_pack("{s:s, s:I, s:I, s:I}", "mac", nic->mac, "mtu", (json_int_t)nic->mtu, "queues",
                  (json_int_t)nic->queues, "rate", (json_int_t)nic->rate);
    if (nic->model != NULL)
        json_object_set_new(arguments, "model", json_string(nic->model));
    add_description(arguments, nic);
    return arguments;
}

static bool open_capture(const char *path, int *fd, struct error **err)
{
    *fd = path != NULL ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    return path == NULL || *fd >= 0 ||
           error_set_errno(err, errno, "cannot write the capture file '%s'", path);
}

/* NULL: err. */
static json_t *attach_nic(const char *machine, const struct machine_nic *nic, struct error **err)
{
    int fds[2] = {-1, -1};
    char *reply = NULL;
    if (open_capture(nic->capture, &fds[1], err) &&
        (fds[0] = client_network_attach(nic, err)) >= 0) {
        json_t *arguments = describe(nic);
        char *text = json_dumps(arguments, JSON_COMPACT);
        reply = client_control_fds(machine, "nic-attach", text, fds, fds[1] >= 0 ? 2 : 1, err);
        free(text);
        json_decref(arguments);
    }
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    json_t *answer = reply != NULL ? json_loads(reply, 0, NULL) : NULL;
    free(reply);
    return answer;
}

static void tell_attached(const json_t *answer, const char *mac)
{
    long long slot = json_integer_value(json_object_get(answer, "hotplug-slot"));
    printf("NIC %lld (%s) is ", (long long)json_integer_value(json_object_get(answer, "nic")), mac);
    if (slot != 0)
        printf("in PCIe slot %lld.\n", slot);
    else
        printf("at 0000:00:%02llx.0.\n",
               (unsigned long long)json_integer_value(json_object_get(answer, "slot")));
    if (json_is_true(json_object_get(answer, "rescan")))
        puts("The guest sees it when it looks through its PCI bus again, in Linux:\n"
             "    echo 1 > /sys/bus/pci/rescan");
    else
        puts("The guest was told, and sees it within seconds.");
}

static int attach(const struct cli_args *args, const char *instance, struct error **err)
{
    if (args->operand_count < 2)
        return usage(err, "'net attach' takes KIND[,property=value...], and perhaps a machine");
    struct machine_config config;
    machine_config_init(&config);
    int status = CLI_USAGE;
    if (cli_add_nic(args->operands[1], &config, err) &&
        machine_nic_check(&config.nics[0], 0, err)) {
        char *machine = machine_of(args, 2, err);
        json_t *answer = machine != NULL ? attach_nic(machine, &config.nics[0], err) : NULL;
        status = answer != NULL ? CLI_OK : CLI_HOST_FAILURE;
        if (answer != NULL) {
            tell_attached(answer, config.nics[0].mac);
            if (!cli_persist(args, instance, cli_describe_devices(&config), err))
                status = CLI_HOST_FAILURE;
        }
        json_decref(answer);
        free(machine);
    }
    machine_config_clear(&config);
    return status;
}

/* ---- detach, list ---- */

/* "remove-nic" of the NIC's address; NULL: err. */
static json_t *name_nic(const char *machine, json_int_t number, struct error **err)
{
    char *reply = client_control(machine, "status", NULL, err);
    json_t *status = reply != NULL ? json_loads(reply, 0, NULL) : NULL, *wish = NULL, *nic;
    size_t i;
    json_array_foreach(json_object_get(status, "nics"), i, nic)
    {
        const char *mac = json_string_value(json_object_get(nic, "mac"));
        if (json_integer_value(json_object_get(nic, "nic")) == number && mac != NULL &&
            wish == NULL)
            wish = json_pack("{s:s}", "remove-nic", mac);
    }
    if (reply != NULL && wish == NULL)
        error_set(err, ERROR_USAGE, "the machine has no NIC %lld", (long long)number);
    json_decref(status);
    free(reply);
    return wish;
}

static int detach(const struct cli_args *args, const char *instance, struct error **err)
{
    char *end = NULL;
    unsigned long nic = args->operand_count > 1 && isdigit((unsigned char)args->operands[1][0])
                            ? strtoul(args->operands[1], &end, 10)
                            : MACHINE_MAX_NICS;
    if (end == NULL || *end != '\0' || nic >= MACHINE_MAX_NICS)
        return usage(err, "'net detach' takes the number of a NIC, and perhaps a machine");
    char arguments[48], *machine = machine_of(args, 2, err);
    json_t *wish = machine != NULL ? name_nic(machine, (json_int_t)nic, err) : NULL;
    if (wish == NULL) {
        free(machine);
        return CLI_HOST_FAILURE;
    }
    snprintf(arguments, sizeof(arguments), "{\"nic\": %lu, \"force\": %s}", nic,
             cli_given(args, "force") ? "true" : "false");
    char *reply = machine != NULL ? client_control(machine, "nic-detach", arguments, err) : NULL;
    int status = reply != NULL ? CLI_OK : CLI_HOST_FAILURE;
    json_t *answer = reply != NULL ? json_loads(reply, 0, NULL) : NULL;
    if (json_is_true(json_object_get(answer, "leaving")))
        puts("The guest was asked to let go of it; then it is gone ('trapeze net list').");
    json_decref(answer);
    if (reply == NULL)
        json_decref(wish);
    else if (!cli_persist(args, instance, wish, err))
        status = CLI_HOST_FAILURE;
    free(reply);
    free(machine);
    return status;
}

static void print_nic(const json_t *nic)
{
    char place[16] = "-"; /* in a slot whose bus the guest has not numbered */
    unsigned bus = (unsigned)json_integer_value(json_object_get(nic, "bus"));
    unsigned slot = (unsigned)json_integer_value(json_object_get(nic, "slot"));
    if (bus != 0 || slot != 0)
        snprintf(place, sizeof(place), "0000:%02x:%02x.0", bus & 0xff, slot & 0x1f);
    printf("%3lld  %-7s %-12s  %-4s  %12lld %12lld\n",
           (long long)json_integer_value(json_object_get(nic, "nic")),
           json_string_value(json_object_get(nic, "model")), place,
           json_is_true(json_object_get(nic, "leaving")) ? "goes"
           : json_is_true(json_object_get(nic, "up"))    ? "up"
                                                         : "down",
           (long long)json_integer_value(json_object_get(nic, "sent-bytes")),
           (long long)json_integer_value(json_object_get(nic, "received-bytes")));
}

static int list(const struct cli_args *args, const char *instance, struct error **err)
{
    (void)instance;
    char *machine = machine_of(args, 1, err);
    char *reply = machine != NULL ? client_control(machine, "status", NULL, err) : NULL;
    free(machine);
    if (reply == NULL)
        return CLI_HOST_FAILURE;
    json_t *status = json_loads(reply, 0, NULL), *nic;
    size_t i;
    printf("NIC  model   place         link  %12s %12s\n", "bytes sent", "received");
    json_array_foreach(json_object_get(status, "nics"), i, nic)
    {
        print_nic(nic);
    }
    json_decref(status);
    free(reply);
    return CLI_OK;
}

static const struct {
    const char *name;
    size_t operands; /* beside itself and the machine */
    int (*run)(const struct cli_args *args, const char *instance, struct error **err);
} verbs[] = {{"attach", 1, attach}, {"detach", 1, detach}, {"list", 0, list}};

static int run(const struct cli_args *args, struct error **err)
{
    for (size_t i = 0; args->operand_count > 0 && i < ARRAY_SIZE(verbs); i++)
        if (strcmp(verbs[i].name, args->operands[0]) == 0) {
            struct cli_args sorted = *args;
            char **words = calloc(args->operand_count + 1, sizeof(*words));
            words[0] = args->operands[0];
            const char *instance = cli_machine_last(args->operands + 1, args->operand_count - 1,
                                                    verbs[i].operands, words + 1);
            sorted.operands = words;
            int status = verbs[i].run(&sorted, instance, err);
            free(words);
            return status;
        }
    return usage(err, "'trapeze net' takes attach, detach or list");
}

const struct cli_command cli_command_net = {
    .name = "net",
    .operands = "attach [MACHINE] KIND[,property=value...] | detach [MACHINE] N | list [MACHINE]",
    .summary = "Attach NICs to a running machine, and detach them",
    .description =
        "attach takes what 'trapeze run --net' takes, starts what is behind the NIC and plugs it "
        "into "
        "the machine: into the first free slot of --pci-slots, else into its PCI bus. A guest with "
        "a driver for PCIe's hot-plug (Linux: CONFIG_HOTPLUG_PCI_PCIE) is told of what comes into "
        "a "
        "slot. Any other has to look through the bus: in Linux 'echo 1 > /sys/bus/pci/rescan' "
        "(Debian's kernel for riscv64 is built without that driver). detach takes a NIC away, from "
        "the start or attached, by its number: out of a slot when the guest, which is asked for "
        "it, "
        "has switched that off; else as soon as no driver in the guest uses it: in Linux 'echo 1 > "
        "/sys/bus/pci/devices/PLACE/remove' makes the driver let go. With --force one in a slot is "
        "gone at once. The number is free again then. list shows numbers and places; 'goes' is a "
        "NIC that the guest was asked to let go of.\n\n"
        "MACHINE is an instance's name, or a control socket's path, which may stand behind, too; "
        "without it, it is the only machine under a default socket. What is done to an instance is "
        "written into its .vmx, too, and so lasts, unless --live is given.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
