// Finds the first packet with a changed verdict: small datagrams at an even rate, from one Pod to another.
//
//   prober CLIENT_NETNS SERVER_NETNS ADDRESS PORT MICROSECONDS
//
// One process and one thread hold both ends, so every packet's fate is known when its send call returns. Each turn
// sends two packets: one of a connection that was never answered, which conntrack considers new with every packet, so
// that each gets the verdict of a connection's first packet; and one of a connection that was answered once, and is
// established. A line of standard input starts a watch, each on connections of its own:
//       blocked MS      until packets no longer arrive; prints "ready" when both connections' packets do
//       passed MS       until packets arrive; prints "ready" when enough were sent and none did, "never" when one did
// and is answered by a line "FRESH LIVE GAP": when the first packet with the expected verdict had been sent, in ns of
// CLOCK_MONOTONIC, of the new and of the established connection (for `passed` the former twice); and how many ns before
// FRESH the last packet with the previous verdict had been sent: more than one turn where this process was delayed.
// "0 0 0": MS milliseconds passed without. It ends when its standard input is closed.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MILLISECOND 1000000LL
#define MOST 100000  // turns of a watch at most
#define BEFORE 50    // turns with the previous verdict, until it is ready
#define SILENT 150   // turns without an arrival that count as blocked: far longer than a packet can be late

enum { FRESH, LIVE, KINDS };

// The payload of a packet, and the state of a connection of a watch.
struct packet {
    uint32_t watch;
    uint32_t kind;
    uint32_t turn;
};

static struct {
    int sock;
    int answered;
    int first;  // turn of the first arrival, -1 without one
    int last;   // of the last
} lines[KINDS];

static int64_t sent[MOST][KINDS];
static struct sockaddr_in where;
static int server, home, client_space;
static uint32_t watch;

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static int64_t now(void)
{
    struct timespec moment;

    clock_gettime(CLOCK_MONOTONIC, &moment);
    return moment.tv_sec * 1000 * MILLISECOND + moment.tv_nsec;
}

static int space(const char *name)
{
    char path[300];
    int descriptor;

    snprintf(path, sizeof(path), "/run/netns/%s", name);
    descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        die(path);
    return descriptor;
}

static int opened(int namespace)
{
    int sock;

    // A socket stays in the namespace in which it was created.
    if (setns(namespace, CLONE_NEWNET))
        die("setns");
    sock = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (sock < 0 || setns(home, CLONE_NEWNET))
        die("socket");
    return sock;
}

// Read what has arrived at the server; answer the established connection's first.
static void drain(void)
{
    struct sockaddr_in from;
    struct packet packet;
    socklen_t size = sizeof(from);

    while (recvfrom(server, &packet, sizeof(packet), 0, (struct sockaddr *)&from, &size) == sizeof(packet)) {
        if (packet.watch == watch && packet.kind < KINDS) {
            if (lines[packet.kind].first < 0)
                lines[packet.kind].first = (int)packet.turn;
            if (lines[packet.kind].last < (int)packet.turn)
                lines[packet.kind].last = (int)packet.turn;
            if (packet.kind == LIVE && !lines[LIVE].answered)
                sendto(server, &packet, sizeof(packet), 0, (struct sockaddr *)&from, size);
        }
        size = sizeof(from);
    }
    if (!lines[LIVE].answered && recv(lines[LIVE].sock, &packet, sizeof(packet), 0) == sizeof(packet))
        lines[LIVE].answered = 1;
}

static void turn(int number)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct packet packet = { .watch = watch, .kind = (uint32_t)kind, .turn = (uint32_t)number };

        // A packet dropped on output may be reported as an error; it counts as sent.
        (void)!send(lines[kind].sock, &packet, sizeof(packet), 0);
        sent[number][kind] = now();
    }
    drain();
}

static int is_over(int number, int blocked)
{
    if (!blocked)
        return lines[FRESH].first >= 0;
    return number - lines[FRESH].last > SILENT && number - lines[LIVE].last > SILENT;
}

static int is_ready(int number, int blocked)
{
    if (!blocked)
        return number >= BEFORE;
    return number >= BEFORE && lines[LIVE].answered && lines[FRESH].last == number && lines[LIVE].last == number;
}

static void say(int blocked)
{
    int fresh = blocked ? lines[FRESH].last + 1 : lines[FRESH].first, live = blocked ? lines[LIVE].last + 1 : fresh;

    printf("%lld %lld %lld\n", (long long)sent[fresh][FRESH], (long long)sent[live][blocked ? LIVE : FRESH],
           (long long)(sent[fresh][FRESH] - sent[fresh > 0 ? fresh - 1 : 0][FRESH]));
}

static void look(int blocked, int64_t ms, int64_t interval)
{
    int64_t due = now(), end = due + ms * MILLISECOND;
    struct timespec rest;
    int ready = 0, number = 0;

    watch++;
    for (int kind = 0; kind < KINDS; kind++) {
        lines[kind].sock = opened(client_space);
        lines[kind].first = lines[kind].last = -1;
        lines[kind].answered = 0;
        if (connect(lines[kind].sock, (struct sockaddr *)&where, sizeof(where)))
            die("connect");
    }
    for (; number < MOST; number++) {
        turn(number);
        if (!ready && is_ready(number, blocked)) {
            ready = 1;
            puts("ready");
            fflush(stdout);
        }
        if ((ready && is_over(number, blocked)) || now() > end)
            break;
        if (!ready && !blocked && lines[FRESH].first >= 0)
            break;
        // A missed turn is skipped: a burst would delay other processes.
        due = due + interval > now() ? due + interval : now();
        rest.tv_sec = due / (1000 * MILLISECOND);
        rest.tv_nsec = due % (1000 * MILLISECOND);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &rest, NULL);
    }
    if (!ready)
        puts("never");
    if (ready && is_over(number, blocked))
        say(blocked);
    else
        puts("0 0 0");
    fflush(stdout);
    for (int kind = 0; kind < KINDS; kind++)
        close(lines[kind].sock);
}

int main(int count, char **words)
{
    struct sched_param urgent = { .sched_priority = 1 };
    char line[64], wanted[16];
    long long ms;

    if (count != 6) {
        fprintf(stderr, "usage: prober CLIENT_NETNS SERVER_NETNS ADDRESS PORT MICROSECONDS\n");
        return 2;
    }
    home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    client_space = space(words[1]);
    where.sin_family = AF_INET;
    where.sin_port = htons((uint16_t)atoi(words[4]));
    if (home < 0 || inet_pton(AF_INET, words[3], &where.sin_addr) != 1)
        die("address");
    server = opened(space(words[2]));
    if (bind(server, (struct sockaddr *)&where, sizeof(where)))
        die("bind");
    // It runs for some microseconds at a time, and must do so on time; without the permission it runs at normal priority.
    sched_setscheduler(0, SCHED_FIFO, &urgent);
    // By default the kernel may delay its wake-up by 50 us, to batch timers.
    prctl(PR_SET_TIMERSLACK, 1);
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "%15s %lld", wanted, &ms) != 2 || (strcmp(wanted, "blocked") && strcmp(wanted, "passed"))) {
            fprintf(stderr, "prober: no such command: %s", line);
            return 2;
        }
        look(!strcmp(wanted, "blocked"), ms, atoll(words[5]) * 1000);
    }
    return 0;
}
