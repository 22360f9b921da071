/* Events: each ends once, with success or with an error code. */
#ifndef EVENTS_H
#define EVENTS_H

#include <stdbool.h>

#include "coi.h"

/* A new pending event, of a user or of an operation. */
COIEVENT event_create(bool users);

/* Ends an event and wakes its waiting threads; does nothing if it has ended. */
void event_end(COIEVENT event, COIRESULT result);

/* Ends all events of users with COI_PROCESS_DIED: a dead card's process signals none any more. */
void events_end_of_users(void);

#endif
