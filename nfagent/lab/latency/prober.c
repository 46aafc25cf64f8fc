// Finds the first packet with a changed verdict: small datagrams at an even rate, from one Pod to another.
//
//   prober CLIENT_NETNS SERVER_NETNS ADDRESS PORT MICROSECONDS SILENT
//
// One process and one thread hold both ends, so every packet's fate is known when its send call returns. Each turn
// sends two packets: one of a connection that was never answered, which conntrack considers new with every packet, so
// that each gets the verdict of a connection's first packet; and one of a connection that was answered once, and is
// established. A line of standard input starts a watch, each on connections of its own:
//       blocked MS      until packets no longer arrive; prints "ready" when both connections' packets do
//       passed MS       until packets arrive; prints "ready" when enough were sent and none did, "never" when one did
//       seen MS SOURCE  until packets arrive from this source address, as it is after translation; prints "ready" when
//                       enough arrived from another one, "never" when one came from this. Every packet is the first of
//                       a connection of its own, to a port of its own, because a connection's translation never changes
// and is answered by a line "FRESH LIVE GAP": when the first packet with the expected verdict had been sent, in ns of
// CLOCK_MONOTONIC, of the new and of the established connection (for `passed` the former twice); and how many ns before
// FRESH the last packet with the previous verdict had been sent: more than one turn where this process was delayed.
// SILENT: turns without an arrival that count as blocked: longer than a packet can be late.
// "0 0 0": MS milliseconds passed without. It ends when its standard input is closed.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "c_program.h"

#define MOST 100000  // turns of a watch at most
#define BEFORE 50    // turns with the previous verdict, until it is ready
#define FIRST_PORT 1024
#define PORTS (65536 - FIRST_PORT)

enum { FRESH, LIVE, KINDS };
enum mode { BLOCKED, PASSED, SEEN };

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
static struct in_addr expected;  // of SEEN
static int server, home, client_space, server_space, silent;
static uint32_t watch;

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

static int opened(int namespace, int type, int protocol)
{
    int sock;

    // A socket stays in the namespace in which it was created.
    if (setns(namespace, CLONE_NEWNET))
        die("setns");
    sock = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    if (sock < 0 || setns(home, CLONE_NEWNET))
        die("socket");
    return sock;
}

// A client's socket on a source port that no other one had for 60,000 sockets: conntrack remembers earlier connections for
// minutes, and their verdict and translation.
static int opened_client(void)
{
    static unsigned int next;
    struct sockaddr_in own = { .sin_family = AF_INET };
    int sock = opened(client_space, SOCK_DGRAM, 0);

    do {
        own.sin_port = htons((uint16_t)(FIRST_PORT + next++ % PORTS));
    } while (bind(sock, (struct sockaddr *)&own, sizeof(own)) && errno == EADDRINUSE);
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

// Read the packets of all ports, with their IP headers: these have the source address after translation.
static void drain_raw(int raw)
{
    char buffer[256];
    ssize_t size;

    while ((size = recv(raw, buffer, sizeof(buffer), 0)) > 0) {
        const struct iphdr *header = (const struct iphdr *)buffer;
        size_t offset = header->ihl * 4U + sizeof(struct udphdr);
        struct packet packet;

        if ((size_t)size != offset + sizeof(packet))
            continue;
        memcpy(&packet, buffer + offset, sizeof(packet));
        if (packet.watch != watch)
            continue;
        if (header->saddr == expected.s_addr && lines[FRESH].first < 0)
            lines[FRESH].first = (int)packet.turn;
        if (lines[FRESH].last < (int)packet.turn)
            lines[FRESH].last = (int)packet.turn;
    }
}

static void scatter(int number, int raw)
{
    struct packet packet = { .watch = watch, .kind = FRESH, .turn = (uint32_t)number };
    struct sockaddr_in to = where;

    to.sin_port = htons((uint16_t)(FIRST_PORT + number % PORTS));
    (void)!sendto(lines[FRESH].sock, &packet, sizeof(packet), 0, (struct sockaddr *)&to, sizeof(to));
    sent[number][FRESH] = now();
    drain_raw(raw);
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

static int is_over(int number, enum mode mode)
{
    if (mode != BLOCKED)
        return lines[FRESH].first >= 0;
    return number - lines[FRESH].last > silent && number - lines[LIVE].last > silent;
}

static int is_ready(int number, enum mode mode)
{
    if (mode == PASSED)
        return number >= BEFORE;
    if (mode == SEEN)
        return number >= BEFORE && lines[FRESH].last == number;
    return number >= BEFORE && lines[LIVE].answered && lines[FRESH].last == number && lines[LIVE].last == number;
}

static void say(enum mode mode)
{
    int blocked = mode == BLOCKED;
    int fresh = blocked ? lines[FRESH].last + 1 : lines[FRESH].first, live = blocked ? lines[LIVE].last + 1 : fresh;

    printf("%lld %lld %lld\n", (long long)sent[fresh][FRESH], (long long)sent[live][blocked ? LIVE : FRESH],
           (long long)(sent[fresh][FRESH] - sent[fresh > 0 ? fresh - 1 : 0][FRESH]));
}

static void look(enum mode mode, int64_t ms, int64_t interval)
{
    int64_t due = now(), end = due + ms * MILLISECOND;
    struct timespec rest;
    int ready = 0, number = 0, raw = mode == SEEN ? opened(server_space, SOCK_RAW, IPPROTO_UDP) : -1;

    watch++;
    for (int kind = 0; kind < KINDS; kind++) {
        lines[kind].sock = opened_client();
        lines[kind].first = lines[kind].last = -1;
        lines[kind].answered = 0;
        if (mode != SEEN && connect(lines[kind].sock, (struct sockaddr *)&where, sizeof(where)))
            die("connect");
    }
    for (; number < MOST; number++) {
        if (mode == SEEN)
            scatter(number, raw);
        else
            turn(number);
        if (!ready && is_ready(number, mode)) {
            ready = 1;
            puts("ready");
            fflush(stdout);
        }
        if ((ready && is_over(number, mode)) || now() > end)
            break;
        if (!ready && mode != BLOCKED && lines[FRESH].first >= 0)
            break;
        // A missed turn is skipped: a burst would delay other processes.
        due = due + interval > now() ? due + interval : now();
        rest.tv_sec = due / SECOND;
        rest.tv_nsec = due % SECOND;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &rest, NULL);
    }
    if (!ready)
        puts("never");
    if (ready && is_over(number, mode))
        say(mode);
    else
        puts("0 0 0");
    fflush(stdout);
    for (int kind = 0; kind < KINDS; kind++)
        close(lines[kind].sock);
    if (raw >= 0)
        close(raw);
}

int main(int count, char **words)
{
    struct sched_param urgent = { .sched_priority = 1 };
    char line[64], wanted[16], source[32];
    enum mode mode;
    long long ms;

    if (count != 7) {
        fprintf(stderr, "usage: prober CLIENT_NETNS SERVER_NETNS ADDRESS PORT MICROSECONDS SILENT\n");
        return 2;
    }
    home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    client_space = space(words[1]);
    server_space = space(words[2]);
    silent = atoi(words[6]);
    where.sin_family = AF_INET;
    where.sin_port = htons((uint16_t)atoi(words[4]));
    if (home < 0 || inet_pton(AF_INET, words[3], &where.sin_addr) != 1)
        die("address");
    server = opened(server_space, SOCK_DGRAM, 0);
    if (bind(server, (struct sockaddr *)&where, sizeof(where)))
        die("bind");
    // It runs for some microseconds at a time, and must do so on time; without the permission it runs at normal priority.
    sched_setscheduler(0, SCHED_FIFO, &urgent);
    // By default the kernel may delay its wake-up by 50 us, to batch timers.
    prctl(PR_SET_TIMERSLACK, 1);
    while (fgets(line, sizeof(line), stdin)) {
        int read = sscanf(line, "%15s %lld %31s", wanted, &ms, source);

        if (read == 2 && !strcmp(wanted, "blocked")) {
            mode = BLOCKED;
        } else if (read == 2 && !strcmp(wanted, "passed")) {
            mode = PASSED;
        } else if (read == 3 && !strcmp(wanted, "seen") && inet_pton(AF_INET, source, &expected) == 1) {
            mode = SEEN;
        } else {
            fprintf(stderr, "prober: no such command: %s", line);
            return 2;
        }
        look(mode, ms, atoll(words[5]) * 1000);
    }
    return 0;
}
