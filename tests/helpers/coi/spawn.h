/* Starting a program as a card's process. */
#ifndef SPAWN_H
#define SPAWN_H

#include <sys/types.h>

/* Starts the program with a socket to it, and sets its id; the socket's other end, or -1 (errno says why). */
int spawn_on_card(unsigned card, const char *program, int argc, const char **arguments, int inherit,
                  const char **additional, int output, const char *libraries, pid_t *pid);

#endif
