/* SPDX-License-Identifier: MIT
 *
 * See foreign.h. The keys are those that Workstation, Fusion and ESXi write for Linux guests.
 */
#include "config/foreign.h"

#include <fnmatch.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "base/bits.h"

#define ANY "*"

/* The first pattern that fits counts. Harmless are the values between the '|'; ANY: all are. */
static const struct {
    const char *pattern, *harmless;
} keys[] = {
    /* what the file is about, and where VMware keeps things */
    {".encoding", ANY},
    {"config.version", ANY},
    {"virtualHW.*", ANY},
    {"annotation", ANY},
    {"uuid.*", ANY},
    {"vc.uuid", ANY},
    {"nvram", ANY},
    {"extendedConfigFile", ANY},
    {"checkpoint.*", ANY},
    {"migrate.*", ANY},
    {"vmotion.*", ANY},
    {"replay.*", ANY},
    {"vmxstats.*", ANY},
    {"cleanShutdown", ANY},
    {"softPowerOff", ANY},
    {"log.*", ANY},
    {"logging", ANY},
    {"gui.*", ANY},
    {"msg.*", ANY},
    /* what VMware's own program does */
    {"monitor.*", ANY},
    {"mks.*", ANY},
    {"powerType.*", ANY},
    {"tools.*", ANY},
    {"toolScripts.*", ANY},
    {"toolsInstallManager.*", ANY},
    {"guestOSAltName", ANY},
    {"guestOS.detailed.data", ANY},
    {"isolation.*", ANY},
    {"hgfs.*", ANY},
    {"sharedFolder.maxNum", ANY},
    {"time.synchronize.*", ANY},
    {"disk.EnableUUID", ANY},
    {"numa.autosize.*", ANY},
    /* the board */
    {"pciBridge*", ANY},
    {"*.pciSlotNumber", ANY},
    {"vmci*", ANY},
    {"hpet0.present", ANY},
    {"vhv.enable", "FALSE"},
    {"vcpu.hotadd", "FALSE"},
    {"mem.hotadd", "FALSE"},
    /* devices that are not there */
    {"floppy*.present", "FALSE"},
    {"floppy*.*", ANY},
    {"sound*.present", "FALSE"},
    {"sound*.*", ANY},
    {"usb*.present", "FALSE"},
    {"usb*.*", ANY},
    {"ehci*.present", "FALSE"},
    {"ehci*.*", ANY},
    {"parallel*.present", "FALSE"},
    {"parallel*.*", ANY},
    {"svga.present", "FALSE"},
    {"svga.*", ANY},
    {"RemoteDisplay.*.enabled", "FALSE"},
    {"RemoteDisplay.*", ANY},
    /* serial0 is the console */
    {"serial0.present", "TRUE"},
    {"serial0.yieldOnMsrRead", ANY},
    {"serial0.startConnected", "TRUE"},
    {"serial0.pipe.endPoint", "server"},
    {"serial0.tryNoRxLoss", ANY},
    {"serial*.present", "FALSE"},
    {"serial[1-9]*.*", ANY},
    /* disk controllers, and disks on them */
    {"scsi*:*.redo", ""},
    {"*:*.redo", ""},
    {"*:*.present", ANY},
    {"*:*.deviceType", "scsi-hardDisk|ata-hardDisk|disk|cdrom-image"},
    {"*:*.startConnected", "TRUE"},
    {"*:*.autodetect", ANY},
    {"*:*.clientDevice", "FALSE"},
    {"*:*.ctkEnabled", "FALSE"},
    {"*:*.writeThrough", "FALSE"},
    {"*:*.virtualSSD", ANY},
    {"scsi*.present", ANY},
    {"sata*.present", ANY},
    {"nvme*.present", ANY},
    {"ide*.present", ANY},
    {"scsi*.sharedBus", "none"},
    /* NICs */
    {"ethernet*.present", ANY},
    {"ethernet*.addressType", ANY},
    {"ethernet*.generatedAddress*", ANY},
    {"ethernet*.startConnected", "TRUE"},
    {"ethernet*.wakeOnPcktRcv", ANY},
    {"ethernet*.uptCompatibility", ANY},
    {"ethernet*.linkStatePropagation.enable", "FALSE"},
    {"ethernet*.displayName", ANY},
    /* shared folders */
    {"sharedFolder*.present", ANY},
    {"sharedFolder*.enabled", "TRUE"},
    {"sharedFolder*.readAccess", "TRUE"},
    {"sharedFolder*.expiration", "never"},
    /* those that somebody wanted something by */
    {"firmware", ""},
    {"cpuid.*", ""},
    {"guestinfo.*", ""},
    {"numa.*", ""},
    {"sched.*", ""},
    {"rtc.*", ""},
    {"scsi*.virtualDev", ""},
    {"*:*.mode", ""},
};

static const struct {
    const char *pattern, *value, *ours;
    bool matters;
} values[] = {
    {"*:*.mode", "independent-persistent", "persistent", false},
    {"ethernet*.virtualDev", "vmxnet3", "virtio", true},
    {"ethernet*.virtualDev", "vmxnet2", "virtio", true},
    {"ethernet*.virtualDev", "vmxnet", "virtio", true},
    {"ethernet*.virtualDev", "flexible", "virtio", true},
    {"ethernet*.virtualDev", "vlance", "virtio", true},
    {"ethernet*.virtualDev", "e1000e", "e1000", true},
    {"serial0.fileType", "device", NULL, true},
    {"serial0.fileType", "network", NULL, true},
    {"serial0.fileType", "thinprint", NULL, true},
    {"sched.mem.max", "unlimited", NULL, false},
};

static bool fits(const char *pattern, const char *key)
{
    return fnmatch(pattern, key, FNM_CASEFOLD) == 0;
}

static bool is_one_of(const char *list, const char *value)
{
    size_t length = strlen(value), part;
    for (;; list += part + 1) {
        part = strcspn(list, "|");
        if (part == length && strncasecmp(list, value, length) == 0)
            return true;
        if (list[part] == '\0')
            return false;
    }
}

enum foreign foreign_key(const char *key, const char *value)
{
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (fits(keys[i].pattern, key))
            return strcmp(keys[i].harmless, ANY) == 0 || is_one_of(keys[i].harmless, value)
                       ? FOREIGN_HARMLESS
                       : FOREIGN_MATTERS;
    return FOREIGN_NOT;
}

const char *foreign_value(const char *key, const char *value, bool *matters)
{
    for (size_t i = 0; i < ARRAY_SIZE(values); i++)
        if (strcasecmp(values[i].value, value) == 0 && fits(values[i].pattern, key)) {
            *matters = values[i].matters;
            return values[i].ours;
        }
    *matters = false;
    return value;
}
