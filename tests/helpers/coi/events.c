/* Events: those that are pending or failed are kept in a list; all others have ended with success. */
#define _GNU_SOURCE
#include "events.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "settings.h"

struct event {
    uint64_t number;
    COIRESULT state;
    bool users;
    struct event *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct event *kept;
static uint64_t last_number;

COIEVENT event_create(bool users) {
    struct event *event = allocate(sizeof *event);
    pthread_mutex_lock(&lock);
    *event = (struct event){++last_number, COI_PENDING, users, kept};
    kept = event;
    COIEVENT handle = {{event->number, 0}};
    pthread_mutex_unlock(&lock);
    return handle;
}

/* Where the list points to the event, or to NULL at its end. The lock is held. */
static struct event **find(COIEVENT handle) {
    struct event **place = &kept;
    while (*place && (*place)->number != handle.opaque[0])
        place = &(*place)->next;
    return place;
}

/* The lock is held. */
static COIRESULT state(COIEVENT handle) {
    if (handle.opaque[0] == 0 || handle.opaque[0] > last_number)
        return COI_INVALID_HANDLE;
    struct event *event = *find(handle);
    return event ? event->state : COI_SUCCESS;
}

void event_end(COIEVENT handle, COIRESULT result) {
    pthread_mutex_lock(&lock);
    struct event **place = find(handle), *event = *place;
    if (event && event->state == COI_PENDING) {
        event->state = result;
        if (result == COI_SUCCESS) {
            *place = event->next;
            free(event);
        }
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
}

void events_end_of_users(void) {
    pthread_mutex_lock(&lock);
    for (struct event *event = kept; event; event = event->next)
        if (event->users && event->state == COI_PENDING)
            event->state = COI_PROCESS_DIED;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* COI: waits until all events (or, unless `all`, at least one) have ended, at most that many milliseconds; 0 only looks,
 * -1 waits without limit. Tells how many have ended and which. COI_TIME_OUT_REACHED if too few have,
 * COI_EVENT_CANCELED if a user's event was unregistered, COI_PROCESS_DIED if the card's process died.
 * Stand-in: with `all`, returns at the first failure instead of waiting for the rest. */
COIRESULT COIEventWait(uint16_t count, const COIEVENT *events, int32_t milliseconds, uint8_t all, uint32_t *ended,
                       uint32_t *indices) {
    if (count == 0 || milliseconds < -1)
        return COI_OUT_OF_RANGE;
    if (!events)
        return COI_INVALID_POINTER;
    if (!ended != !indices || (count > 1 && !all && !ended))
        return COI_ARGUMENT_MISMATCH;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (milliseconds % 1000) * 1000000L;
    until.tv_sec += milliseconds / 1000 + until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;

    pthread_mutex_lock(&lock);
    COIRESULT result;
    for (bool late = milliseconds == 0;;) {
        uint32_t found = 0;
        result = COI_SUCCESS;
        for (uint32_t i = 0; i < count; i++) {
            COIRESULT each = state(events[i]);
            if (each == COI_PENDING)
                continue;
            if (indices)
                indices[found] = i;
            found++;
            if (result == COI_SUCCESS)
                result = each;
        }
        if (ended)
            *ended = found;
        if (found >= (all ? count : 1u) || result != COI_SUCCESS)
            break;
        if (late) {
            result = COI_TIME_OUT_REACHED;
            break;
        }
        if (milliseconds < 0)
            pthread_cond_wait(&changed, &lock);
        else
            late = pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* COI: makes an event that the user's code ends, on either side.
 * Stand-in: the card's side has no COIEventSignalUserEvent, so only unregistering or a card's death ends it. */
COIRESULT COIEventRegisterUserEvent(COIEVENT *event) {
    if (!event)
        return COI_INVALID_POINTER;
    *event = event_create(true);
    return COI_SUCCESS;
}

/* COI: frees the event; a waiting caller gets COI_EVENT_CANCELED. COI_INVALID_HANDLE if it is not a user event.
 * Stand-in: the few bytes of an event that was never signalled are kept, to tell later callers. */
COIRESULT COIEventUnregisterUserEvent(COIEVENT event) {
    pthread_mutex_lock(&lock);
    struct event *known = *find(event);
    bool valid = known && known->users;
    pthread_mutex_unlock(&lock);
    event_end(event, COI_EVENT_CANCELED);
    return valid ? COI_SUCCESS : COI_INVALID_HANDLE;
}

/* COI: the name of a result; "COI_ERROR" for an unknown one. Stand-in: knows the results it returns itself. */
const char *COIResultGetName(COIRESULT result) {
#define NAME(value) \
    case value:     \
        return #value
    switch (result) {
        NAME(COI_SUCCESS);
        NAME(COI_NOT_INITIALIZED);
        NAME(COI_DOES_NOT_EXIST);
        NAME(COI_INVALID_POINTER);
        NAME(COI_OUT_OF_RANGE);
        NAME(COI_NOT_SUPPORTED);
        NAME(COI_TIME_OUT_REACHED);
        NAME(COI_MEMORY_OVERLAP);
        NAME(COI_ARGUMENT_MISMATCH);
        NAME(COI_SIZE_MISMATCH);
        NAME(COI_OUT_OF_MEMORY);
        NAME(COI_INVALID_HANDLE);
        NAME(COI_RESOURCE_EXHAUSTED);
        NAME(COI_MISSING_DEPENDENCY);
        NAME(COI_PENDING);
        NAME(COI_PROCESS_DIED);
        NAME(COI_EVENT_CANCELED);
    default:
        return "COI_ERROR";
    }
#undef NAME
}
