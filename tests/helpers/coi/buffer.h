/* Buffers, for the operations that use them. */
#ifndef BUFFER_H
#define BUFFER_H

#include <stdbool.h>

#include "coi.h"
#include "wire.h"

/* Whether the buffer lies on a card, and not in the host's memory. */
bool buffer_on_card(COIBUFFER buffer);

/* The card's process that the buffer was made for. */
COIPROCESS buffer_process(COIBUFFER buffer);

/* Its address on the card. */
struct span buffer_span(COIBUFFER buffer);

/* Keeps the buffer from being destroyed until it is released. */
void buffer_hold(COIBUFFER buffer);
void buffer_release(COIBUFFER buffer);

/* Its address on the host; only a transfer may access a card's memory. */
char *buffer_memory(COIBUFFER buffer);

/* Bytes in it. */
uint64_t buffer_size(COIBUFFER buffer);

#endif
