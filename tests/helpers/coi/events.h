/* Events: each ends once, with success or with the reason why not. */
#ifndef EVENTS_H
#define EVENTS_H

#include <stdbool.h>

#include "coi.h"

/* An event that nothing has ended yet; a user's own one, or that of an operation. */
COIEVENT event_create(bool users);

/* Ends an event and wakes who waits for it; an event that has ended stays as it is. */
void event_end(COIEVENT event, COIRESULT result);

/* Ends all events of users with COI_PROCESS_DIED: a dead card's process signals none any more. */
void events_end_of_users(void);

#endif
