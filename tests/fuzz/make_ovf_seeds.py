#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the seeds of fuzz_ovf.

    make_ovf_seeds.py FOLDER
"""
import os
import sys

NAMES = {"v1": "http://schemas.dmtf.org/ovf/envelope/1", "v2": "http://schemas.dmtf.org/ovf/envelope/2"}
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"


def item(kind, **fields):
    return f"<{kind}>" + "".join(f"<rasd:{k}>{v}</rasd:{k}>" for k, v in fields.items()) + f"</{kind}>"


def envelope(space, inside, before=""):
    return (f'<?xml version="1.0"?>{before}<Envelope xmlns="{space}" xmlns:ovf="{space}" '
            f'xmlns:rasd="{RASD}"><References><File ovf:id="f" ovf:href="a.vmdk" ovf:size="9"/>'
            '</References><DiskSection><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="8" '
            'ovf:capacityAllocationUnits="byte * 2^20"/></DiskSection>'
            f'<VirtualSystem ovf:id="x"><Name>n</Name><VirtualHardwareSection>{inside}'
            '</VirtualHardwareSection></VirtualSystem></Envelope>')


HARDWARE = {
    "v1": item("Item", InstanceID=1, ResourceType=3, VirtualQuantity=2)
          + item("Item", InstanceID=2, ResourceType=4, VirtualQuantity=1, AllocationUnits="GigaBytes")
          + item("Item", InstanceID=3, ResourceType=6)
          + item("Item", InstanceID=4, ResourceType=17, Parent=3, AddressOnParent=7,
                 HostResource="ovf:/disk/d"),
    "v2": item("StorageItem", InstanceID=4, ResourceType=17, HostResource="/disk/d")
          + item("EthernetPortItem", InstanceID=5, ResourceType=10, ResourceSubType="VmxNet3"),
}
SEEDS = {name: envelope(NAMES[name], HARDWARE[name]) for name in NAMES}
SEEDS["entities"] = envelope(NAMES["v1"], "&a;", '<!DOCTYPE x [<!ENTITY a "b">]>')
SEEDS["deep"] = envelope(NAMES["v1"], "<a>" * 40 + "</a>" * 40)
SEEDS["units"] = envelope(NAMES["v1"], item("Item", ResourceType=17, Parent=9, AddressOnParent=255,
                                            HostResource="ovf:/disk/d") * 20)
for seed, content in SEEDS.items():
    with open(os.path.join(sys.argv[1], seed), "w", encoding="utf-8") as file:
        file.write(content)
