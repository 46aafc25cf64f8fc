// What the C programs of this folder have in common.
#ifndef NFAGENT_LAB_C_PROGRAM_H
#define NFAGENT_LAB_C_PROGRAM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SECOND 1000000000LL  // in ns
#define MILLISECOND 1000000LL

static void die(const char *what)
{
    perror(what);
    exit(2);
}

// Return CLOCK_MONOTONIC in ns.
static int64_t now(void)
{
    struct timespec moment;

    clock_gettime(CLOCK_MONOTONIC, &moment);
    return moment.tv_sec * SECOND + moment.tv_nsec;
}

#endif
