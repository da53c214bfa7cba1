/* SPDX-License-Identifier: MIT
 *
 * An OVF description of anybody's making, and the .vmx that is made of it.
 *
 * Input: the XML. The checks are those of asserts and sanitizers, and: what is refused says why;
 * what is made reads back as a .vmx or is refused by that reader with a sentence.
 */
#include "fuzz.h"

#include <string.h>

#include "archive/ovf.h"
#include "base/error.h"
#include "config/text.h"
#include "config/vmx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ovf ovf;
    struct error *error = NULL;
    bool good = ovf_parse((const char *)data, size, &ovf, &error);
    fuzz_check(good == (error == NULL));
    error_free(error);
    if (!good)
        return 0;
    json_t *notes = json_array();
    struct text *text = ovf_describe(&ovf, "fuzz", notes);
    for (size_t i = 0; i < ovf.file_count; i++)
        ovf_disk_of(&ovf, ovf.files[i].href);
    struct machine_config config;
    machine_config_init(&config);
    error = NULL;
    good = vmx_read(text, &config, NULL, &error);
    fuzz_check(good == (error == NULL));
    error_free(error);
    size_t written;
    char *bytes = text_write(text, &written);
    struct text *again = text_parse(bytes, written, "again", NULL);
    fuzz_check(again != NULL && text_count(again) == text_count(text));
    text_free(again);
    free(bytes);
    machine_config_clear(&config);
    text_free(text);
    json_decref(notes);
    ovf_clear(&ovf);
    return 0;
}

/* Elements that mean something, mostly closed again. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const char *const begin[] = {
        "<File ovf:id=\"f\" ovf:href=\"a.vmdk\"/>",
        "<File ovf:id=\"f\" ovf:href=\"../a\" ovf:size=\"-1\" ovf:compression=\"gzip\"/>",
        "<Disk ovf:diskId=\"d\" ovf:fileRef=\"f\" ovf:capacity=\"7\"/>",
        "<Disk ovf:diskId=\"d\" ovf:capacity=\"9\" "
        "ovf:capacityAllocationUnits=\"byte * 2^30\"/>",
        "<Disk ovf:diskId=\"d\" ovf:capacity=\"99999999999999999999\"/>",
        "<!DOCTYPE a [<!ENTITY b \"c\">]>",
        "&b;",
        "&lt;",
        "</Item>",
        "<Item>",
        "<Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/d"
        "</rasd:HostResource><rasd:Parent>3</rasd:Parent></Item>",
        "<Item><rasd:ResourceType>6</rasd:ResourceType><rasd:InstanceID>3</rasd:InstanceID></Item>",
        "<Item><rasd:ResourceType>10</rasd:ResourceType><rasd:ResourceSubType>E1000"
        "</rasd:ResourceSubType></Item>",
        "<Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>99"
        "</rasd:VirtualQuantity></Item>",
        "<Item><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>18446744073709551615"
        "</rasd:VirtualQuantity><rasd:AllocationUnits>GB</rasd:AllocationUnits></Item>",
        "<rasd:AddressOnParent>4294967296</rasd:AddressOnParent>",
        "<Name>\xc3\xa9 \"|</Name>",
        "<OperatingSystemSection vmw:osType=\"x|22\"><Description>d</Description>"
        "</OperatingSystemSection>",
        "<a><b><c><d><e><f>",
        "<!-- -->",
        "<![CDATA[ ]]>",
    };
    static const char head[] =
        "<Envelope xmlns:ovf=\"o\" xmlns:rasd=\"r\" xmlns:vmw=\"v\"><VirtualSystem ovf:id=\"v\">";
    static const char tail[] = "</VirtualSystem></Envelope>";
    size_t size = sizeof(head) - 1;
    memcpy(data, head, size);
    uint64_t random = fuzz_random(seed);
    for (unsigned count = (unsigned)(random % 12); count > 0; count--) {
        uint64_t more = fuzz_random(seed);
        const char *word = begin[more % (sizeof(begin) / sizeof(begin[0]))];
        size_t length = strlen(word);
        memcpy(data + size, word, length);
        if ((more >> 32) % 16 == 0)
            data[size + (more >> 40) % length] ^= (uint8_t)(1u << ((more >> 36) % 8));
        size += length;
    }
    memcpy(data + size, tail, sizeof(tail) - 1);
    return size + sizeof(tail) - 1;
}
