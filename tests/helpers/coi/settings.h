/* The environment variables that control the stand-in card. They are read when they are needed, not at the start.
 *
 * STANDIN_CARDS           number of cards; 1 if unset
 * STANDIN_TYPE            KNL (if unset) or KNC
 * STANDIN_CARD_LIBRARIES  folder with libcoi_device.so.0, for the card's process
 * STANDIN_CORRUPT         1: the first float of every transfer from a card arrives as 12345
 * STANDIN_DIE_AFTER       n: card 0 is killed in its n-th run function that is given buffers, and never answers
 * STANDIN_REFUSE_BUFFER   n: the n-th buffer that the host asks for is refused with COI_RESOURCE_EXHAUSTED;
 *                         "n+": that one and all after it
 * STANDIN_LOG             file to which a line is added for each start, run function, refusal, and end; at the end (or
 *                         death) of a card's process, the bytes moved to and from it
 *
 * The host library passes them to the card's process, with two of its own: STANDIN_SOCKET and STANDIN_CARD.
 */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stddef.h>

#include "coi.h"

/* An integer from the environment, or `otherwise`. */
long setting(const char *name, long otherwise);

/* COI_DEVICE_KNL or COI_DEVICE_KNC. */
COI_DEVICE_TYPE card_type(void);

/* Adds "card N: ..." and a line end to the log, if there is one. */
void card_log(unsigned card, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Zeroed memory; ends the process if there is none. */
void *allocate(size_t bytes);

#endif
