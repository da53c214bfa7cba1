/* SPDX-License-Identifier: MIT
 *
 * See nic.h.
 */
#include "cli/nic.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "config/machine.h"
#include "net/forward.h"

char *cli_next_part(const char **at)
{
    if (*at == NULL)
        return NULL;
    char *part = malloc(strlen(*at) + 1), *out = part;
    const char *in = *at;
    while (*in != '\0' && (*in != ',' || in[1] == ',')) {
        if (*in == ',')
            in++;
        *out++ = *in++;
    }
    *out = '\0';
    *at = *in == ',' ? in + 1 : NULL;
    return part;
}

static bool parse_number(const char *text, unsigned *number)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    *number = (unsigned)value;
    return isdigit((unsigned char)text[0]) && errno == 0 && *end == '\0' && value <= UINT32_MAX;
}

/* "10M": bits per second, in thousands. */
static bool parse_rate(const char *text, uint64_t *kbit)
{
    static const char units[] = "KMG";
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10), unit = 1;
    const char *found = *end != '\0' ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (!isdigit((unsigned char)text[0]) || errno != 0 || found == NULL || end[1] != '\0')
        return false;
    for (const char *at = units; at < found; at++)
        unit *= 1000;
    return !__builtin_mul_overflow(value, unit, kbit) && *kbit > 0 && *kbit < UINT64_C(1) << 40;
}

static bool add_forward(struct machine_nic *nic, const char *text, struct error **err)
{
    struct net_forward forward;
    char *joined = NULL;
    if (!net_forward_parse(text, &forward, err))
        return false;
    if (asprintf(&joined, "%s%s%s", nic->forward != NULL ? nic->forward : "",
                 nic->forward != NULL ? " " : "", text) < 0)
        return error_set(err, ERROR_HOST, "out of memory");
    free(nic->forward);
    nic->forward = joined;
    return true;
}

static bool set_property(struct machine_nic *nic, const char *name, const char *value,
                         struct error **err)
{
    const struct {
        const char *name;
        char **text;
        unsigned *number;
    } properties[] = {
        {"model", &nic->model, NULL}, {"mac", &nic->mac, NULL},   {"capture", &nic->capture, NULL},
        {"mtu", NULL, &nic->mtu},     {"vlan", NULL, &nic->vlan}, {"queues", NULL, &nic->queues},
    };
    if (strcmp(name, "host-loopback") == 0) {
        nic->host_loopback = strcmp(value, "on") == 0;
        return nic->host_loopback || strcmp(value, "off") == 0 ||
               error_set(err, ERROR_USAGE, "--net: host-loopback is 'on' or 'off', not '%s'",
                         value);
    }
    if (strcmp(name, "forward") == 0)
        return add_forward(nic, value, err);
    if (strcmp(name, "rate") == 0) {
        if (parse_rate(value, &nic->rate))
            return true;
        error_set(err, ERROR_USAGE, "--net: '%s' is no rate", value);
        error_hint(err, "Write bits per second with K, M or G, such as 10M.");
        return false;
    }
    for (size_t i = 0; i < ARRAY_SIZE(properties); i++) {
        if (strcmp(properties[i].name, name) != 0)
            continue;
        if (properties[i].number != NULL)
            return parse_number(value, properties[i].number) ||
                   error_set(err, ERROR_USAGE, "--net: %s=%s is not a number", name, value);
        free(*properties[i].text);
        *properties[i].text = strdup(value);
        return true;
    }
    error_set(err, ERROR_USAGE, "--net: unknown property '%s'", name);
    error_hint(err, "There are model, mac, mtu, vlan, queues, rate, capture, forward and "
                    "host-loopback, each with '=' and a value.");
    return false;
}

static bool set_kind(struct machine_nic *nic, const char *kind, struct error **err)
{
    nic->net = MACHINE_NET_CUSTOM;
    if (strcmp(kind, "nat") == 0 || strcmp(kind, "user") == 0) {
        nic->net = MACHINE_NET_NAT;
    } else if (strcmp(kind, "hostonly") == 0) {
        nic->net = MACHINE_NET_HOSTONLY;
    } else if (strncmp(kind, "hostonly:", 9) == 0) {
        nic->net = MACHINE_NET_HOSTONLY;
        nic->vnet = strdup(kind + 9);
    } else if (strncmp(kind, "bridge:", 7) == 0 && kind[7] != '\0') {
        nic->net = MACHINE_NET_BRIDGED;
        nic->vnet = strdup(kind + 7);
    } else if (strncmp(kind, "internal:", 9) == 0 || strncmp(kind, "tap:", 4) == 0) {
        nic->vnet = strdup(kind);
    } else {
        error_set(err, ERROR_USAGE, "--net: there is no network of kind '%s'", kind);
        error_hint(err,
                   "There are nat, hostonly, hostonly:ADDRESS/BITS, internal:NAME, tap:INTERFACE, "
                   "bridge:BRIDGE and none.");
        return false;
    }
    return true;
}

static bool parse_net(const char *text, struct machine_config *config, struct error **err)
{
    const char *at = text;
    if (config->nic_count == MACHINE_MAX_NICS)
        return error_set(err, ERROR_USAGE, "a machine has at most %d NICs", MACHINE_MAX_NICS);
    struct machine_nic *nic = &config->nics[config->nic_count++];
    *nic = (struct machine_nic){0};
    char *kind = cli_next_part(&at);
    bool good = set_kind(nic, kind, err);
    free(kind);
    for (char *part; good && (part = cli_next_part(&at)) != NULL; free(part)) {
        char *equals = strchr(part, '=');
        if (equals != NULL)
            *equals++ = '\0';
        good = set_property(nic, part, equals != NULL ? equals : "", err);
    }
    return good;
}

static struct machine_nic *first_nat(struct machine_config *config)
{
    for (size_t i = 0; i < config->nic_count; i++)
        if (config->nics[i].net == MACHINE_NET_NAT ||
            (config->nics[i].net == MACHINE_NET_HOSTONLY && config->nics[i].vnet == NULL))
            return &config->nics[i];
    return NULL;
}

/* A named machine keeps its addresses from run to run, others get new ones: two of them may meet
 * on one network. */
static bool make_mac(const char *name, size_t index, char **mac, struct error **err)
{
    char text[18];
    if (!machine_make_mac(name, index, text, err))
        return false;
    *mac = strdup(text);
    return true;
}

bool cli_add_nic(const char *text, struct machine_config *config, struct error **err)
{
    if (!parse_net(text, config, err))
        return false;
    struct machine_nic *nic = &config->nics[config->nic_count - 1];
    return nic->mac != NULL || make_mac(NULL, 0, &nic->mac, err);
}

static bool is(const struct cli_value *value, const char *name)
{
    return strcmp(value->option->name, name) == 0;
}

static bool apply_value(const struct cli_value *value, struct machine_config *config,
                        struct error **err)
{
    struct machine_nic *nic = first_nat(config);
    if (is(value, "forward")) {
        if (nic != NULL)
            return add_forward(nic, value->text, err);
        error_set(err, ERROR_USAGE, "--forward needs a NIC that translates addresses");
        error_hint(err, "Add --net nat.");
        return false;
    }
    if (!is(value, "capture"))
        return true;
    if (config->nic_count == 0)
        return error_set(err, ERROR_USAGE, "--capture needs a NIC; add --net nat");
    free(config->nics[0].capture);
    config->nics[0].capture = strdup(value->text);
    return true;
}

bool cli_apply_nics(const struct cli_args *args, struct machine_config *config, struct error **err)
{
    bool good = true, none = false;
    for (size_t i = 0; good && i < args->value_count; i++) {
        if (!is(&args->values[i], "net"))
            continue;
        if (strcmp(args->values[i].text, "none") == 0)
            none = true;
        else
            good = parse_net(args->values[i].text, config, err);
    }
    if (good && none && config->nic_count > 0)
        return error_set(err, ERROR_USAGE, "--net none does not go with other networks");
    if (good && !cli_given(args, "net") && cli_given(args, "image") && !config->deterministic)
        good = parse_net("nat", config, err);
    for (size_t i = 0; good && i < args->value_count; i++)
        good = apply_value(&args->values[i], config, err);
    for (size_t i = 0; good && i < config->nic_count; i++)
        if (config->nics[i].mac == NULL)
            good = make_mac(config->name, i, &config->nics[i].mac, err);
    return good;
}
