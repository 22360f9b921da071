/* Engines: the existing cards. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdbool.h>
#include <stddef.h>

#include "coi.h"

/* Which card it is: 0, 1, ... */
unsigned engine_card(COIENGINE engine);

#endif
