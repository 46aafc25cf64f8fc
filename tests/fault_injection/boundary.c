/* LD_PRELOAD library: faults at the C library's calls by which the agent reaches kernel, files and sockets.
 *
 * A shared file, which FAULT_TABLE names, has the rules; fault_table.py describes the same layout and writes it. Only
 * the process `python -m nfagent run` is changed, and its child `nft`: its other children, and the commands that start
 * it, pass unharmed.
 * Counters are atomic, since several threads of the agent call at once.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RULES 16
#define CALLS 18
#define MOST_DESCRIPTORS 4096
#define MOST_REFUSED 64

enum { SEND = 1, RECV = 2, OPEN = 4, READ = 8, WRITE = 16, FSYNC = 32, RENAME = 64, CONNECT = 128, SOCKET = 256,
       ACCEPT = 512, STAT = 1024, SCAN = 2048, UNLINK = 4096, MKDIR = 8192, WAIT = 16384, PIPE = 32768,
       THREAD = 65536, WATCH = 131072 };
enum { NFT_COMMIT = 1, NFT_LIST = 2, NFT_EVENTS = 4, CONNTRACK = 8, NFLOG = 16, ROUTE = 32, UNIX = 64, INET = 128,
       FILES = 256, OTHER = 512, IPSET = 1024, IPSET_LIST = 2048, NFT_COUNTERS = 4096 };
enum { FAIL = 1, HANG, SHORT, KILL, REFUSE, LOSE, COUNT };
enum { SUBSYS_CTNETLINK = 1, SUBSYS_ULOG = 4, SUBSYS_IPSET = 6, SUBSYS_NFTABLES = 10, BATCH_BEGIN = 0x10, BATCH_END = 0x11 };

struct rule {
    uint32_t armed, calls, kinds, action;
    int32_t error;
    uint32_t skipped, most, bytes;
    uint64_t nanoseconds;
    uint32_t seen, hits;
    char path[248];
};

struct table {
    uint64_t calls[CALLS];
    int64_t wall_offset;
    struct rule rules[RULES];
};

struct refused {
    uint32_t count;
    int32_t error;
    struct nlmsghdr headers[MOST_REFUSED];
};

static struct table *table;
static pid_t own, agent;
static uint16_t kind_of[MOST_DESCRIPTORS];
static struct refused *refused_on[MOST_DESCRIPTORS];

#define REAL(name) ({ static __typeof__(name) *found; if (!found) found = dlsym(RTLD_NEXT, #name); found; })

/* Of the agent's children, `nft` is one that talks to the kernel for it: a call of it is one of the agent's. */
static int is_nft(void) { return !strcmp(program_invocation_short_name, "nft"); }

static int is_agent(void) {
    char line[4096];
    if (is_nft()) return 1;
    if (strncmp(program_invocation_short_name, "python", 6)) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = syscall(SYS_read, fd, line, sizeof line);
    syscall(SYS_close, fd);
    static const char wanted[] = "-m\0nfagent\0run";
    return got > 0 && memmem(line, got, wanted, sizeof wanted) != NULL;
}

__attribute__((constructor)) static void open_table(void) {
    const char *path = getenv("FAULT_TABLE");
    if (!path || !is_agent()) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct table), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (mapped == MAP_FAILED) return;
    own = getpid();
    agent = is_nft() ? getppid() : own;
    table = mapped;
}

static int active(void) { return table && getpid() == own; }

static int bit(uint32_t call) { return __builtin_ctz(call); }

/* The subject of a call, found only while a rule asks for such calls. */
struct subject {
    uint32_t kind;
    char path[512];
};

static void path_of_descriptor(int fd, char *path, size_t size) {
    char name[48];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t got = syscall(SYS_readlinkat, AT_FDCWD, name, path, size - 1);
    path[got > 0 ? got : 0] = 0;
}

static void unix_path(int fd, char *path, size_t size) {
    struct sockaddr_un own = {0};
    socklen_t length = sizeof own;
    path[0] = 0;
    if (!getsockname(fd, (struct sockaddr *)&own, &length)) snprintf(path, size, "%s", own.sun_path);
}

static struct subject of_descriptor(int fd) {
    struct subject found = {OTHER, ""};
    if (fd < 0) return found;
    if (fd < MOST_DESCRIPTORS && kind_of[fd]) {
        found.kind = kind_of[fd];
        return found;
    }
    int domain = 0, protocol = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length)) {
        path_of_descriptor(fd, found.path, sizeof found.path);
        if (found.path[0] == '/') found.kind = FILES;
        return found;
    }
    if (domain == AF_UNIX) {
        found.kind = UNIX;
        unix_path(fd, found.path, sizeof found.path);
    } else if (domain == AF_INET || domain == AF_INET6) {
        found.kind = INET;
    } else if (domain == AF_NETLINK) {
        length = sizeof protocol;
        getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length);
        if (protocol == NETLINK_ROUTE) found.kind = ROUTE;
    }
    return found;
}

static struct subject of_path(int folder, const char *path) {
    struct subject found = {FILES, ""};
    if (path && path[0] != '/' && folder != AT_FDCWD) {
        path_of_descriptor(folder, found.path, sizeof found.path);
        size_t used = strlen(found.path);
        snprintf(found.path + used, sizeof found.path - used, "/%s", path);
    } else {
        snprintf(found.path, sizeof found.path, "%s", path ? path : "");
    }
    return found;
}

static int wanted(uint32_t call) {
    for (int i = 0; i < RULES; i++)
        if (table->rules[i].armed && table->rules[i].calls & call) return 1;
    return 0;
}

/* The rule that changes this call, counted as a hit; NULL where none does. */
static struct rule *match(uint32_t call, const struct subject *subject) {
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &table->rules[i];
        if (!rule->armed || !(rule->calls & call) || !(rule->kinds & subject->kind)) continue;
        if (rule->path[0] && strncmp(subject->path, rule->path, strlen(rule->path))) continue;
        if (__atomic_fetch_add(&rule->seen, 1, __ATOMIC_SEQ_CST) < rule->skipped) continue;
        if (__atomic_fetch_add(&rule->hits, 1, __ATOMIC_SEQ_CST) >= rule->most && rule->most) {
            __atomic_fetch_sub(&rule->hits, 1, __ATOMIC_SEQ_CST);
            continue;
        }
        if (rule->action != COUNT) return rule;
    }
    return NULL;
}

static void hang(const struct rule *rule) {
    struct timespec now, turn = {0, 5000000};
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t end = now.tv_sec * 1000000000ull + now.tv_nsec + rule->nanoseconds, at;
    do {
        nanosleep(&turn, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
        at = now.tv_sec * 1000000000ull + now.tv_nsec;
    } while (rule->armed && at < end);
}

static struct rule *rule_of_descriptor(uint32_t call, int fd) {
    if (!active()) return NULL;
    __atomic_fetch_add(&table->calls[bit(call)], 1, __ATOMIC_RELAXED);
    if (!wanted(call)) return NULL;
    int before = errno;
    struct subject subject = of_descriptor(fd);
    errno = before;
    return match(call, &subject);
}

static struct rule *rule_of_path(uint32_t call, int folder, const char *path) {
    if (!active()) return NULL;
    __atomic_fetch_add(&table->calls[bit(call)], 1, __ATOMIC_RELAXED);
    if (!wanted(call)) return NULL;
    struct subject subject = of_path(folder, path);
    return match(call, &subject);
}

/* Its child `nft` goes on without it, as it does where the agent is killed. */
static void kill_agent(void) {
    if (agent > 1) kill(agent, SIGKILL); /* 1: it ended before its child began */
    if (!is_nft()) pause();
}

/* `real` is the real call; its length argument may be shortened before. */
#define CHANGED(found, length, real) \
    do { \
        struct rule *by = (found); \
        if (by && by->action == FAIL) { errno = by->error; return -1; } \
        if (by && by->action == HANG) hang(by); \
        if (by && by->action == SHORT && (length) > by->bytes) (length) = by->bytes; \
        if (by && by->action == KILL) { __typeof__(real) made = (real); kill_agent(); return made; } \
        if (by && by->action == LOSE) { if ((real) < 0) return -1; errno = by->error; return -1; } \
        return (real); \
    } while (0)

/* Netlink: what a socket is for is known by its protocol, and by the subsystem of its last request. */

/* IPSET_CMD_CREATE to SWAP, ADD and DEL of linux/netfilter/ipset/ip_set.h change something. */
static int ipset_kind(int command) { return (command >= 2 && command <= 6) || command == 9 || command == 10 ? IPSET : IPSET_LIST; }

/* NFT_MSG_GETSETELEM and NFT_MSG_GETOBJ of linux/netfilter/nf_tables.h return the counters, also in a listing. */
static int nft_kind(int command) { return command == 13 || command == 19 ? NFT_COUNTERS : NFT_LIST; }

static void note_request(int fd, const void *data, size_t size) {
    int domain = 0, protocol = -1;
    socklen_t length = sizeof domain;
    const struct nlmsghdr *head = data;
    if (fd < 0 || fd >= MOST_DESCRIPTORS || size < sizeof *head || kind_of[fd] == NFT_EVENTS) return;
    int before = errno;
    int is_netlink = !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) && domain == AF_NETLINK;
    length = sizeof protocol;
    if (is_netlink && !getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) && protocol == NETLINK_NETFILTER) {
        switch (head->nlmsg_type >> 8) {
            case 0: kind_of[fd] = NFT_COMMIT; break;
            case SUBSYS_CTNETLINK: kind_of[fd] = CONNTRACK; break;
            case SUBSYS_ULOG: kind_of[fd] = NFLOG; break;
            case SUBSYS_IPSET: kind_of[fd] = ipset_kind(head->nlmsg_type & 0xff); break;
            case SUBSYS_NFTABLES: kind_of[fd] = nft_kind(head->nlmsg_type & 0xff); break;
            default: kind_of[fd] = OTHER;
        }
    }
    errno = before;
}

static void refuse(int fd, const void *data, size_t size, int error) {
    struct refused *made = calloc(1, sizeof *made);
    if (!made || fd >= MOST_DESCRIPTORS) { free(made); return; }
    made->error = error;
    const char *at = data, *end = at + size;
    while (end - at >= (ssize_t)sizeof(struct nlmsghdr)) {
        struct nlmsghdr head;
        memcpy(&head, at, sizeof head);
        if (head.nlmsg_len < sizeof head || (ssize_t)head.nlmsg_len > end - at) break;
        int counts = head.nlmsg_type != BATCH_BEGIN && head.nlmsg_type != BATCH_END;
        /* The last request may be the one whose acknowledgement is waited for. */
        if (counts) made->headers[made->count < MOST_REFUSED ? made->count++ : MOST_REFUSED - 1] = head;
        at += NLMSG_ALIGN(head.nlmsg_len);
    }
    free(refused_on[fd]);
    refused_on[fd] = made;
}

static size_t reply_of_refusal(int fd, void *buffer, size_t size) {
    struct refused *made = refused_on[fd];
    refused_on[fd] = NULL;
    size_t used = 0, each = NLMSG_LENGTH(sizeof(struct nlmsgerr));
    for (uint32_t i = 0; i < made->count && used + each <= size; i++) {
        struct nlmsghdr head = {.nlmsg_len = each, .nlmsg_type = NLMSG_ERROR, .nlmsg_flags = NLM_F_CAPPED,
                                .nlmsg_seq = made->headers[i].nlmsg_seq, .nlmsg_pid = made->headers[i].nlmsg_pid};
        struct nlmsgerr body = {.error = -made->error, .msg = made->headers[i]};
        memcpy((char *)buffer + used, &head, sizeof head);
        memcpy((char *)buffer + used + NLMSG_HDRLEN, &body, sizeof body);
        used += NLMSG_ALIGN(each);
    }
    free(made);
    return used;
}

static int has_refusal(int fd) { return active() && fd >= 0 && fd < MOST_DESCRIPTORS && refused_on[fd]; }

static struct rule *rule_of_request(int fd, const void *data, size_t size) {
    if (active()) note_request(fd, data, size);
    return rule_of_descriptor(SEND, fd);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    struct rule *rule = rule_of_request(fd, data, size);
    if (rule && rule->action == REFUSE) { refuse(fd, data, size, rule->error); return size; }
    CHANGED(rule, size, REAL(send)(fd, data, size, flags));
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    struct rule *rule = NULL;
    if (to && to->sa_family == AF_UNIX) {
        if (active() && wanted(SEND)) {
            struct subject subject = {UNIX, ""};
            snprintf(subject.path, sizeof subject.path, "%s", ((const struct sockaddr_un *)to)->sun_path);
            rule = match(SEND, &subject);
        }
    } else {
        rule = rule_of_request(fd, data, size);
    }
    if (rule && rule->action == REFUSE) { refuse(fd, data, size, rule->error); return size; }
    CHANGED(rule, size, REAL(sendto)(fd, data, size, flags, to, length));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    size_t size = message->msg_iovlen ? message->msg_iov[0].iov_len : 0, none = 0;
    const void *data = size ? message->msg_iov[0].iov_base : NULL;
    struct rule *rule = rule_of_request(fd, data, size);
    if (rule && rule->action == REFUSE) { refuse(fd, data, size, rule->error); return size; }
    CHANGED(rule, none, REAL(sendmsg)(fd, message, flags));
}

ssize_t recv(int fd, void *data, size_t size, int flags) {
    if (has_refusal(fd)) return reply_of_refusal(fd, data, size);
    CHANGED(rule_of_descriptor(RECV, fd), size, REAL(recv)(fd, data, size, flags));
}

ssize_t recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *from, socklen_t *length) {
    if (has_refusal(fd)) return reply_of_refusal(fd, data, size);
    CHANGED(rule_of_descriptor(RECV, fd), size, REAL(recvfrom)(fd, data, size, flags, from, length));
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    if (has_refusal(fd) && message->msg_iovlen) {
        if (message->msg_name && message->msg_namelen >= sizeof(struct sockaddr_nl)) {
            struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
            memcpy(message->msg_name, &kernel, sizeof kernel);
            message->msg_namelen = sizeof kernel;
        }
        message->msg_controllen = 0;
        message->msg_flags = 0;
        return reply_of_refusal(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
    }
    struct rule *rule = rule_of_descriptor(RECV, fd);
    size_t none = 0;
    if (rule && rule->action == SHORT && message->msg_iovlen) {
        size_t before = message->msg_iov[0].iov_len;
        message->msg_iov[0].iov_len = before < rule->bytes ? before : rule->bytes;
        ssize_t got = REAL(recvmsg)(fd, message, flags);
        message->msg_iov[0].iov_len = before;
        return got;
    }
    CHANGED(rule, none, REAL(recvmsg)(fd, message, flags));
}

/* CPython polls a socket with a timeout before it receives; a refusal is a reply that waits. */
int poll(struct pollfd *asked, nfds_t count, int milliseconds) {
    if (count == 1 && asked->events & POLLIN && has_refusal(asked->fd)) {
        asked->revents = POLLIN;
        return 1;
    }
    return REAL(poll)(asked, count, milliseconds);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
    if (active() && level == SOL_NETLINK && name == NETLINK_ADD_MEMBERSHIP && fd >= 0 && fd < MOST_DESCRIPTORS) {
        struct subject subject = of_descriptor(fd);
        if (subject.kind == OTHER) kind_of[fd] = NFT_EVENTS;
    }
    return REAL(setsockopt)(fd, level, name, value, length);
}

int close(int fd) {
    if (active() && fd >= 0 && fd < MOST_DESCRIPTORS) {
        kind_of[fd] = 0;
        free(refused_on[fd]);
        refused_on[fd] = NULL;
    }
    return REAL(close)(fd);
}

int socket(int domain, int type, int protocol) {
    struct rule *rule = NULL;
    size_t none = 0;
    if (active() && wanted(SOCKET)) {
        struct subject subject = {OTHER, ""};
        if (domain == AF_UNIX) subject.kind = UNIX;
        if (domain == AF_INET || domain == AF_INET6) subject.kind = INET;
        if (domain == AF_NETLINK) subject.kind = protocol == NETLINK_ROUTE ? ROUTE : NFT_LIST;
        rule = match(SOCKET, &subject);
    }
    CHANGED(rule, none, REAL(socket)(domain, type, protocol));
}

int pipe2(int ends[2], int flags) {
    struct rule *rule = NULL;
    struct subject subject = {OTHER, ""};
    size_t none = 0;
    if (active() && wanted(PIPE)) rule = match(PIPE, &subject);
    CHANGED(rule, none, REAL(pipe2)(ends, flags));
}

/* It returns its error, and errno says nothing. */
int pthread_create(pthread_t *made, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    struct rule *rule = NULL;
    struct subject subject = {OTHER, ""};
    if (active() && wanted(THREAD)) rule = match(THREAD, &subject);
    if (rule && rule->action == FAIL) return rule->error;
    return REAL(pthread_create)(made, attributes, run, argument);
}

int connect(int fd, const struct sockaddr *to, socklen_t length) {
    size_t none = 0;
    CHANGED(rule_of_descriptor(CONNECT, fd), none, REAL(connect)(fd, to, length));
}

int accept4(int fd, struct sockaddr *from, socklen_t *length, int flags) {
    size_t none = 0;
    CHANGED(rule_of_descriptor(ACCEPT, fd), none, REAL(accept4)(fd, from, length, flags));
}

int epoll_ctl(int fd, int operation, int watched, struct epoll_event *event) {
    struct rule *rule = operation == EPOLL_CTL_ADD ? rule_of_descriptor(WATCH, watched) : NULL;
    if (rule && rule->action == FAIL) { errno = rule->error; return -1; }
    return REAL(epoll_ctl)(fd, operation, watched, event);
}

int epoll_wait(int fd, struct epoll_event *events, int most, int milliseconds) {
    if (active()) __atomic_fetch_add(&table->calls[bit(WAIT)], 1, __ATOMIC_RELAXED);
    return REAL(epoll_wait)(fd, events, most, milliseconds);
}

/* Files. */

ssize_t read(int fd, void *data, size_t size) {
    CHANGED(rule_of_descriptor(READ, fd), size, REAL(read)(fd, data, size));
}

ssize_t write(int fd, const void *data, size_t size) {
    CHANGED(rule_of_descriptor(WRITE, fd), size, REAL(write)(fd, data, size));
}

int fsync(int fd) {
    size_t none = 0;
    CHANGED(rule_of_descriptor(FSYNC, fd), none, REAL(fsync)(fd));
}

int fdatasync(int fd) {
    size_t none = 0;
    CHANGED(rule_of_descriptor(FSYNC, fd), none, REAL(fdatasync)(fd));
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    size_t none = 0;
    CHANGED(rule_of_path(OPEN, AT_FDCWD, path), none, REAL(open64)(path, flags, mode));
}

int openat64(int folder, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    size_t none = 0;
    CHANGED(rule_of_path(OPEN, folder, path), none, REAL(openat64)(folder, path, flags, mode));
}

int stat64(const char *path, struct stat64 *found) {
    size_t none = 0;
    CHANGED(rule_of_path(STAT, AT_FDCWD, path), none, REAL(stat64)(path, found));
}

int lstat64(const char *path, struct stat64 *found) {
    size_t none = 0;
    CHANGED(rule_of_path(STAT, AT_FDCWD, path), none, REAL(lstat64)(path, found));
}

int fstatat64(int folder, const char *path, struct stat64 *found, int flags) {
    size_t none = 0;
    CHANGED(rule_of_path(STAT, folder, path), none, REAL(fstatat64)(folder, path, found, flags));
}

DIR *opendir(const char *path) {
    struct rule *rule = rule_of_path(SCAN, AT_FDCWD, path);
    if (rule && rule->action == FAIL) { errno = rule->error; return NULL; }
    if (rule && rule->action == HANG) hang(rule);
    return REAL(opendir)(path);
}

DIR *fdopendir(int fd) {
    struct rule *rule = rule_of_descriptor(SCAN, fd);
    if (rule && rule->action == FAIL) { errno = rule->error; return NULL; }
    if (rule && rule->action == HANG) hang(rule);
    return REAL(fdopendir)(fd);
}

int rename(const char *from, const char *to) {
    size_t none = 0;
    CHANGED(rule_of_path(RENAME, AT_FDCWD, to), none, REAL(rename)(from, to));
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    size_t none = 0;
    CHANGED(rule_of_path(RENAME, to_folder, to), none, REAL(renameat)(from_folder, from, to_folder, to));
}

int unlink(const char *path) {
    size_t none = 0;
    CHANGED(rule_of_path(UNLINK, AT_FDCWD, path), none, REAL(unlink)(path));
}

int mkdir(const char *path, mode_t mode) {
    size_t none = 0;
    CHANGED(rule_of_path(MKDIR, AT_FDCWD, path), none, REAL(mkdir)(path, mode));
}

/* The wall clock of the agent is ahead of the machine's by the table's offset. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, clock, now);
    if (!status && clock == CLOCK_REALTIME && active()) {
        int64_t offset = __atomic_load_n(&table->wall_offset, __ATOMIC_SEQ_CST);
        int64_t nanoseconds = now->tv_nsec + offset % 1000000000;
        now->tv_sec += offset / 1000000000 + (nanoseconds >= 1000000000) - (nanoseconds < 0);
        now->tv_nsec = nanoseconds + (nanoseconds < 0 ? 1000000000 : 0) - (nanoseconds >= 1000000000 ? 1000000000 : 0);
    }
    return status;
}
