/* Engines: the existing cards. */
#include "engine.h"

#include <string.h>
#include <wchar.h>

#include "settings.h"

#define MOST_CARDS 8

struct engine {
    unsigned card;
};

static struct engine engines[MOST_CARDS];

unsigned engine_card(COIENGINE engine) {
    return engine->card;
}

/* COI: how many cards of a type there are; COI_DOES_NOT_EXIST for an unknown type.
 * Stand-in: STANDIN_CARDS of STANDIN_TYPE, at most 8, and none of any other type. */
COIRESULT COIEngineGetCount(COI_DEVICE_TYPE type, uint32_t *count) {
    if (!count)
        return COI_INVALID_POINTER;
    long cards = setting("STANDIN_CARDS", 1);
    *count = type != card_type() || cards < 0 ? 0 : cards > MOST_CARDS ? MOST_CARDS : (uint32_t)cards;
    return COI_SUCCESS;
}

/* COI: the handle of the index-th card of a type. */
COIRESULT COIEngineGetHandle(COI_DEVICE_TYPE type, uint32_t index, COIENGINE *engine) {
    uint32_t count;
    if (!engine)
        return COI_INVALID_POINTER;
    COIEngineGetCount(type, &count);
    if (index >= count)
        return COI_OUT_OF_RANGE;
    engines[index].card = index;
    *engine = &engines[index];
    return COI_SUCCESS;
}

/* COI: fills in what is known about a card, 0 for the rest; COI_SIZE_MISMATCH for a size that no version has.
 * Stand-in: made-up but plausible figures; an older, shorter version gets the members that it has. */
COIRESULT COIEngineGetInfo(COIENGINE engine, uint32_t bytes, COI_ENGINE_INFO *info) {
    if (!engine)
        return COI_INVALID_HANDLE;
    if (!info)
        return COI_INVALID_POINTER;
    if (bytes > sizeof *info || bytes <= offsetof(COI_ENGINE_INFO, BoardSKU))
        return COI_SIZE_MISMATCH;
    bool knl = card_type() == COI_DEVICE_KNL;
    COI_ENGINE_INFO all = {
        .DriverVersion = L"stand-in",
        .ISA = card_type(),
        .NumCores = knl ? 64 : 60,
        .NumThreads = knl ? 256 : 240,
        .CoreMaxFrequency = knl ? 1300 : 1053,
        .PhysicalMemory = (uint64_t)(knl ? 16 : 8) << 30,
        .PhysicalMemoryFree = (uint64_t)(knl ? 15 : 7) << 30,
        .VendorId = 0x8086,
        .DeviceId = knl ? 0x2260 : 0x2250,
        .CpuVendorId = "GenuineIntel",
    };
    memcpy(info, &all, bytes);
    return COI_SUCCESS;
}
