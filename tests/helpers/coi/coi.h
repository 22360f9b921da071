/* The part of the public COI interface (Coprocessor Offload Infrastructure) that the stand-in card provides.
 *
 * Values and layouts are those of COI's public headers (Intel MPSS); what each function does is described where it
 * is defined. "Host" is what COI calls the source, "card" what it calls the sink. Handles are checked for NULL only.
 */
#ifndef COI_H
#define COI_H

#include <stdint.h>
#include <wchar.h>

typedef enum {
    COI_SUCCESS = 0,
    COI_ERROR = 1,
    COI_NOT_INITIALIZED = 2,
    COI_DOES_NOT_EXIST = 5,
    COI_INVALID_POINTER = 6,
    COI_OUT_OF_RANGE = 7,
    COI_NOT_SUPPORTED = 8,
    COI_TIME_OUT_REACHED = 9,
    COI_MEMORY_OVERLAP = 10,
    COI_ARGUMENT_MISMATCH = 11,
    COI_SIZE_MISMATCH = 12,
    COI_OUT_OF_MEMORY = 13,
    COI_INVALID_HANDLE = 14,
    COI_RESOURCE_EXHAUSTED = 16,
    COI_MISSING_DEPENDENCY = 19,
    COI_PENDING = 21,
    COI_PROCESS_DIED = 23,
    COI_EVENT_CANCELED = 25,
} COIRESULT;

typedef struct engine *COIENGINE;
typedef struct process *COIPROCESS;
typedef struct function *COIFUNCTION;
typedef struct queue *COIPIPELINE;
typedef struct buffer *COIBUFFER;
typedef struct {
    uint64_t opaque[2];
} COIEVENT;

/* Instead of a completion event: do not signal the end, or return only then. */
#define COI_EVENT_ASYNC ((COIEVENT *)1)
#define COI_EVENT_SYNC ((COIEVENT *)2)

typedef enum { COI_DEVICE_KNC = 4, COI_DEVICE_KNL = 5 } COI_DEVICE_TYPE;
typedef enum { COI_BUFFER_NORMAL = 1, COI_BUFFER_OPENCL = 5 } COI_BUFFER_TYPE;
typedef enum { COI_COPY_UNSPECIFIED = 0, COI_COPY_USE_DMA, COI_COPY_USE_CPU } COI_COPY_TYPE;
typedef enum { COI_BUFFER_VALID = 0, COI_BUFFER_INVALID, COI_BUFFER_VALID_MAY_DROP } COI_BUFFER_STATE;
typedef enum { COI_BUFFER_MOVE = 0, COI_BUFFER_NO_MOVE } COI_BUFFER_MOVE_FLAG;
typedef enum { COI_SINK_READ = 1, COI_SINK_WRITE, COI_SINK_WRITE_ENTIRE } COI_ACCESS_FLAGS;

#define COI_SINK_MEMORY 0x100

#define COI_MAX_FUNCTION_NAME_LENGTH 256
#define COI_PIPELINE_MAX_IN_BUFFERS 16384
#define COI_PIPELINE_MAX_IN_MISC_DATA_LEN 32768

typedef struct {
    wchar_t DriverVersion[255];
    COI_DEVICE_TYPE ISA;
    uint32_t NumCores;
    uint32_t MiscFlags;
    uint32_t NumThreads;
    uint32_t CoreMaxFrequency; /* MHz */
    uint32_t Load[1024];       /* per cent, of each thread */
    uint64_t PhysicalMemory;   /* bytes, like the next three */
    uint64_t PhysicalMemoryFree;
    uint64_t SwapMemory;
    uint64_t SwapMemoryFree;
    uint16_t VendorId;
    uint16_t DeviceId;
    uint16_t SubSystemId;
    uint16_t BoardStepping;
    uint16_t BoardSKU;
    uint32_t InterconnType; /* from here on, a member of COI 3.8 and newer */
    char CpuVendorId[13];
    uint8_t CpuFamily;
    uint8_t CpuModel;
    uint8_t CpuStepping;
} COI_ENGINE_INFO;

/* The type of a function that the card runs. */
typedef void run_function(uint32_t buffer_count, void **buffers, uint64_t *lengths, void *misc, uint16_t misc_length,
                          void *returned, uint16_t returned_length);

const char *COIResultGetName(COIRESULT result);
COIRESULT COIEventWait(uint16_t count, const COIEVENT *events, int32_t milliseconds, uint8_t all, uint32_t *ended,
                       uint32_t *indices);

#endif
