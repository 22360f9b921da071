/* Buffers: a card's buffer is memory that host and card process share, a host's buffer is the user's memory. */
#define _GNU_SOURCE
#include "buffer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "process.h"
#include "settings.h"

struct buffer {
    uint64_t size;
    char *memory;
    size_t mapped;    /* bytes shared with the card; 0: the user's memory */
    uint64_t address; /* on the card */
    COIPROCESS process;
    unsigned users; /* operations under way */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;

bool buffer_on_card(COIBUFFER buffer) {
    return buffer->mapped != 0;
}

COIPROCESS buffer_process(COIBUFFER buffer) {
    return buffer->process;
}

struct span buffer_span(COIBUFFER buffer) {
    return (struct span){buffer->address, buffer->size};
}

char *buffer_memory(COIBUFFER buffer) {
    return buffer->memory;
}

uint64_t buffer_size(COIBUFFER buffer) {
    return buffer->size;
}

void buffer_hold(COIBUFFER buffer) {
    pthread_mutex_lock(&lock);
    buffer->users++;
    pthread_mutex_unlock(&lock);
}

void buffer_release(COIBUFFER buffer) {
    pthread_mutex_lock(&lock);
    buffer->users--;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}

static COIRESULT check(uint64_t bytes, COI_BUFFER_TYPE type, uint32_t flags, uint32_t process_count,
                       const COIPROCESS *processes, COIBUFFER *buffer) {
    if (bytes == 0 || process_count == 0)
        return COI_OUT_OF_RANGE;
    if (!processes || !buffer)
        return COI_INVALID_POINTER;
    if (!processes[0])
        return COI_INVALID_HANDLE;
    if ((type != COI_BUFFER_NORMAL && type != COI_BUFFER_OPENCL) || process_count > 1 || flags & COI_SINK_MEMORY)
        return COI_NOT_SUPPORTED;
    return COI_SUCCESS;
}

/* Shares `mapped` bytes with the card's process. */
static COIRESULT share(struct buffer *buffer) {
    struct request map = {.kind = MAP, .length = buffer->mapped};
    int descriptor = memfd_create("stand-in card's buffer", MFD_CLOEXEC);
    if (descriptor < 0)
        return COI_OUT_OF_MEMORY;
    COIRESULT result = COI_OUT_OF_MEMORY;
    buffer->memory = ftruncate(descriptor, (off_t)buffer->mapped)
                         ? MAP_FAILED
                         : mmap(NULL, buffer->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (buffer->memory != MAP_FAILED) {
        result = process_request(buffer->process, &map, NULL, descriptor, &buffer->address, NULL);
        if (result == COI_SUCCESS && !buffer->address)
            result = COI_RESOURCE_EXHAUSTED;
        if (result != COI_SUCCESS)
            munmap(buffer->memory, buffer->mapped);
    }
    close(descriptor);
    return result;
}

/* Whether STANDIN_REFUSE_BUFFER refuses this call. */
static bool refused(void) {
    static atomic_long asked;
    long number = atomic_fetch_add(&asked, 1) + 1;
    long first = setting("STANDIN_REFUSE_BUFFER", 0);
    if (first == 0)
        return false;
    return number == first || (number > first && strchr(getenv("STANDIN_REFUSE_BUFFER"), '+'));
}

/* COI: makes a buffer for run functions of some processes, filled with `data` if there is any; the size is rounded up
 * to whole pages. COI_RESOURCE_EXHAUSTED if the card's memory is full.
 * Stand-in: for one process only, in memory that both sides map, so that nothing is moved before a run function; the
 * flags are taken as the hints that most are (addresses that are the same on both sides are not provided). */
COIRESULT COIBufferCreate(uint64_t bytes, COI_BUFFER_TYPE type, uint32_t flags, const void *data,
                          uint32_t process_count, const COIPROCESS *processes, COIBUFFER *created) {
    COIRESULT result = check(bytes, type, flags, process_count, processes, created);
    if (result != COI_SUCCESS)
        return result;
    unsigned card = process_card(processes[0]);
    if (refused()) {
        card_log(card, "refused a buffer of %llu bytes", (unsigned long long)bytes);
        return COI_RESOURCE_EXHAUSTED;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct buffer *buffer = allocate(sizeof *buffer);
    *buffer = (struct buffer){.size = bytes, .mapped = (bytes + page - 1) / page * page, .process = processes[0]};
    result = share(buffer);
    if (result != COI_SUCCESS) {
        free(buffer);
        return result;
    }
    if (data) {
        memcpy(buffer->memory, data, bytes);
        process_moved(processes[0], bytes, 0);
    }
    *created = buffer;
    return COI_SUCCESS;
}

/* COI: makes a buffer of memory that the user keeps, on the host or, with COI_SINK_MEMORY, on the card.
 * Stand-in: on the host only, as one side of a copy; a run function cannot use it (COI_NOT_SUPPORTED there). */
COIRESULT COIBufferCreateFromMemory(uint64_t bytes, COI_BUFFER_TYPE type, uint32_t flags, void *memory,
                                    uint32_t process_count, const COIPROCESS *processes, COIBUFFER *created) {
    COIRESULT result = check(bytes, type, flags, process_count, processes, created);
    if (result != COI_SUCCESS)
        return result;
    if (!memory)
        return COI_INVALID_POINTER;
    struct buffer *buffer = allocate(sizeof *buffer);
    *buffer = (struct buffer){.size = bytes, .memory = memory, .process = processes[0]};
    *created = buffer;
    return COI_SUCCESS;
}

/* COI: frees a buffer when all operations that use it have ended. */
COIRESULT COIBufferDestroy(COIBUFFER buffer) {
    if (!buffer)
        return COI_INVALID_HANDLE;
    pthread_mutex_lock(&lock);
    while (buffer->users)
        pthread_cond_wait(&released, &lock);
    pthread_mutex_unlock(&lock);
    if (buffer_on_card(buffer)) {
        struct request unmap = {.kind = UNMAP, .address = buffer->address, .length = buffer->mapped};
        process_request(buffer->process, &unmap, NULL, -1, NULL, NULL); /* a dead process has unmapped it already */
        munmap(buffer->memory, buffer->mapped);
    }
    free(buffer);
    return COI_SUCCESS;
}
