/* LD_PRELOAD library: a kernel without nf_tables, for one process and its children.
 *
 * Requests to nf_tables go to a subsystem of nfnetlink that this kernel lacks, which SUBSYSTEM names: so it answers as it
 * does to those of any subsystem that it lacks, EINVAL to a request and EOPNOTSUPP to a batch.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REAL(name) ({ static __typeof__(name) *found; if (!found) found = dlsym(RTLD_NEXT, #name); found; })

static int is_netfilter(int fd) {
    int domain = 0, protocol = -1;
    socklen_t length = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) || domain != AF_NETLINK) return 0;
    length = sizeof protocol;
    return !getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) && protocol == NETLINK_NETFILTER;
}

/* A copy of the request; the caller's stays as it is. */
static char *redirected(const char *data, size_t size) {
    char *copy = malloc(size + 1);
    int subsystem = atoi(getenv("SUBSYSTEM"));
    memcpy(copy, data, size);
    for (size_t at = 0; at + sizeof(struct nlmsghdr) <= size;) {
        struct nlmsghdr *head = (struct nlmsghdr *)(copy + at);
        if (head->nlmsg_len < sizeof *head || head->nlmsg_len > size - at) break;
        struct nfgenmsg *body = NLMSG_DATA(head);
        int is_batch = head->nlmsg_type == NFNL_MSG_BATCH_BEGIN || head->nlmsg_type == NFNL_MSG_BATCH_END;
        if (is_batch && head->nlmsg_len >= NLMSG_LENGTH(sizeof *body) && body->res_id == htons(NFNL_SUBSYS_NFTABLES))
            body->res_id = htons(subsystem);
        if (head->nlmsg_type >> 8 == NFNL_SUBSYS_NFTABLES)
            head->nlmsg_type = subsystem << 8 | (head->nlmsg_type & 0xff);
        at += NLMSG_ALIGN(head->nlmsg_len);
    }
    return copy;
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    if (!is_netfilter(fd)) return REAL(send)(fd, data, size, flags);
    char *copy = redirected(data, size);
    ssize_t sent = REAL(send)(fd, copy, size, flags);
    free(copy);
    return sent;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    if (!is_netfilter(fd)) return REAL(sendto)(fd, data, size, flags, to, length);
    char *copy = redirected(data, size);
    ssize_t sent = REAL(sendto)(fd, copy, size, flags, to, length);
    free(copy);
    return sent;
}

/* Parts of a message that are sent at once are joined: a request may begin in one and end in another. */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    if (!is_netfilter(fd)) return REAL(sendmsg)(fd, message, flags);
    size_t size = 0, used = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++) size += message->msg_iov[i].iov_len;
    char *joined = malloc(size + 1);
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        memcpy(joined + used, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
        used += message->msg_iov[i].iov_len;
    }
    struct iovec whole = {redirected(joined, size), size};
    struct msghdr changed = *message;
    changed.msg_iov = &whole;
    changed.msg_iovlen = 1;
    ssize_t sent = REAL(sendmsg)(fd, &changed, flags);
    free(whole.iov_base);
    free(joined);
    return sent;
}
